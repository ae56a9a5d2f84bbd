//! The server: takes connections, answers each request, and stops cleanly.
//!
//! Promises: every connection, header and body has a time limit. There is a bound on connections, in all and for each address.
//! A stop lets requests that have begun finish, and is over within [`DRAIN_MAX`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::caller::Caller;
use super::connection::Watched;
use super::error::HttpError;
use super::request::Request;
use super::response::{Answer, Door, refusal};
use super::router::{Found, answer_while_opening, door_of_unknown, is_adobes};
use super::slots::{FreeSlot, Slot, Slots};
use super::tls::{Tls, Unsecured};
use super::{Front, Limits};
use crate::durable::point;
use crate::engine::Opening;
use crate::telemetry;
use crate::telemetry::Seldom;
use crate::telemetry::metrics::Limit;

/// How long requests that have begun may take after a stop was asked for. The whole daemon stops within ten seconds; the
/// store needs the rest.
pub const DRAIN_MAX: Duration = Duration::from_secs(6);
/// How long bodies may still arrive then. The rest of the time is for their answers.
const DRAIN_BODIES_MAX: Duration = Duration::from_secs(3);
/// How long to wait after a failed accept, at first and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long a connection that must close may take for the rest of its last answer. Mostly the system has it already; only a
/// connection in the middle of a header takes so long.
const LEAVE_MAX: Duration = Duration::from_millis(100);
/// How many connections at once are answered that their address has too many, and how long that may take. Others are closed
/// without an answer.
const REFUSALS_MAX: usize = 64;
const REFUSAL_MAX: Duration = Duration::from_secs(5);
/// How much longer than our limit hyper lets a header be: our layer below hyper cuts a long header and appends an end.
const HEADER_END_BYTES: usize = 64;
/// How many header lines hyper takes by default.
const HYPER_HEADERS_MAX: usize = 100;
/// While the daemon opens its folder: how many connections are answered at once, and how long a header may take.
const OPENING_CONNECTIONS_MAX: usize = 512;
const OPENING_HEADER_MAX: Duration = Duration::from_secs(5);
/// How often the log may say that connections wait, or cannot be accepted.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// The name in metrics and log of requests for a path that does not exist.
const UNKNOWN_PATH: &str = "unknown_path";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Says that the server is stopping, and until when bodies may still arrive.
type Stopping = watch::Receiver<Option<Instant>>;

/// Serves on `listener` until `shutdown` completes, then lets requests that have begun finish.
pub async fn serve(listener: TcpListener, front: Front, shutdown: impl Future<Output = ()>) {
    let (stop, stopping) = watch::channel(None);
    let limits = front.limits();
    let mut door = Entrance {
        listener,
        slots: Arc::new(Slots::new(&limits.callers)),
        limits,
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        pause: ACCEPT_PAUSE.0,
        waits: Seldom::every(TOLD_EVERY),
        failures: Seldom::every(TOLD_EVERY),
        front: Arc::new(front),
    };
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (socket, visit) = tokio::select! {
            () = &mut shutdown => break,
            next = door.next() => next,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(socket, visit, Arc::clone(&door.front), stopping.clone()));
    }
    drop(door);
    stop.send_replace(Some(Instant::now() + DRAIN_BODIES_MAX));
    let drained = timeout(DRAIN_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections were cut off: they took too long to finish"
        );
        connections.shutdown().await;
    }
}

/// Where connections come in.
struct Entrance {
    listener: TcpListener,
    slots: Arc<Slots>,
    /// The limits that the slots follow.
    limits: Arc<Limits>,
    refusals: Arc<Semaphore>,
    /// How long to wait after the next accept that fails.
    pause: Duration,
    waits: Seldom,
    failures: Seldom,
    front: Arc<Front>,
}

/// How a connection is treated.
enum Visit {
    /// A slot.
    Welcome(Slot),
    /// It has no slot: its address has as many connections as it may have.
    Refused { max: usize, _refusal: OwnedSemaphorePermit },
}

impl Entrance {
    /// The next connection.
    async fn next(&mut self) -> (TcpStream, Visit) {
        loop {
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) if is_of_one_connection(&e) => continue,
                Err(e) => {
                    self.pause_after(&e).await;
                    continue;
                }
            };
            self.pause = ACCEPT_PAUSE.0;
            self.follow_limits();
            // Only now, so that no connection has to close for one that does not come.
            let free = self.free_slot().await;
            match self.slots.take(free, peer.ip()) {
                Ok(slot) => {
                    // Here, so that idle connections are in the order in which they came.
                    slot.idle();
                    return (socket, Visit::Welcome(slot));
                }
                Err(max) => {
                    self.front.app.metrics().hit(Limit::ConnectionsPerAddress);
                    tracing::debug!(%peer, max, "an address has too many connections");
                    if let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned() {
                        return (socket, Visit::Refused { max, _refusal: refusal });
                    }
                }
            }
        }
    }

    fn follow_limits(&mut self) {
        let limits = self.front.limits();
        if !Arc::ptr_eq(&limits, &self.limits) {
            self.slots.follow(&limits.callers);
            self.limits = limits;
        }
    }

    async fn free_slot(&mut self) -> FreeSlot {
        if let Some(free) = self.slots.free_now() {
            return free;
        }
        self.front.app.metrics().hit(Limit::Connections);
        if let Some(since) = self.waits.tell() {
            let max = self.limits.callers.connections_max;
            tracing::warn!(max, since, "all connections are taken: idle ones are closed, new ones may wait");
        }
        self.slots.free().await
    }

    async fn pause_after(&mut self, error: &io::Error) {
        self.front.app.metrics().hit(Limit::AcceptBackoff);
        if let Some(since) = self.failures.tell() {
            tracing::warn!(%error, since, "a connection could not be accepted");
        }
        sleep(self.pause).await;
        self.pause = ACCEPT_PAUSE.1.min(self.pause * 2);
    }
}

/// Answers calls while the daemon is still opening its data folder: not ready, and how far it is.
pub async fn serve_opening(listener: &TcpListener, opening: &Opening, tls: Option<&Arc<Tls>>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < OPENING_CONNECTIONS_MAX => accepted,
        };
        let Ok((socket, _)) = accepted else {
            sleep(ACCEPT_PAUSE.0).await;
            continue;
        };
        let (opening, tls) = (opening.clone(), tls.cloned());
        connections.spawn(async move {
            match tls {
                None => answer_opening(socket, &opening).await,
                Some(tls) => {
                    if let Ok(stream) = tls.secure(socket, OPENING_HEADER_MAX).await {
                        answer_opening(stream, &opening).await;
                    }
                }
            }
        });
    }
}

async fn answer_opening<S: AsyncRead + AsyncWrite + Unpin>(stream: S, opening: &Opening) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let mut answer = answer_while_opening(request.uri().path(), opening.at());
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        async { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING_HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    drop(served.await);
}

/// Whether an error of `accept` is about that one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn connection(socket: TcpStream, visit: Visit, front: Arc<Front>, mut stopping: Stopping) {
    // Answers are small and written whole: waiting for more bytes gains nothing.
    let (Ok(local), Ok(peer), Ok(())) = (socket.local_addr(), socket.peer_addr(), socket.set_nodelay(true))
    else {
        return;
    };
    let metrics = Arc::clone(front.app.metrics());
    let _open = metrics.connection();
    let ends = Ends { local, peer: peer.ip(), https: front.tls.is_some() };
    let Some(tls) = &front.tls else { return converse(socket, ends, &visit, &front, &mut stopping).await };
    let secured = tokio::select! {
        secured = tls.secure(socket, front.limits().timeouts.tls_handshake) => secured,
        () = stopped(&mut stopping) => return,
        () = visit.asked_to_leave() => return,
    };
    match secured {
        Ok(stream) => converse(stream, ends, &visit, &front, &mut stopping).await,
        Err(why) => {
            if matches!(why, Unsecured::Late) {
                metrics.hit(Limit::TlsHandshake);
            }
            tracing::debug!(%why, "a connection ended before it was one");
        }
    }
}

/// The two ends of a connection, and whether it is over TLS.
#[derive(Clone, Copy)]
struct Ends {
    local: SocketAddr,
    peer: IpAddr,
    https: bool,
}

/// Answers the requests of a connection.
async fn converse<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    ends: Ends,
    visit: &Visit,
    front: &Arc<Front>,
    stopping: &mut Stopping,
) {
    let metrics = front.app.metrics();
    // A connection keeps the limits that it began with.
    let limits = &*front.limits();
    let watched = {
        let (header_read, answer) = (limits.timeouts.header_read, limits.timeouts.answer());
        Watched::new(stream, header_read, answer, limits.heads, Arc::clone(metrics))
    };
    let rejected = watched.rejected();
    let (requests, bodies_end) = (AtomicU64::new(0), stopping.clone());
    let mut served = pin!(protocol(limits).serve_connection(
        TokioIo::new(watched),
        service_fn(|request: hyper::Request<Incoming>| {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            let (rejected, bodies_end) = (Arc::clone(&rejected), bodies_end.clone());
            async move {
                visit.busy();
                let refused = visit.refused().or_else(|| rejected.on(number).map(HttpError::Violates));
                let caller = Caller::of(ends.peer, ends.https, request.headers(), &limits.callers);
                let id = request_id();
                let request = Request::new(request, ends.local, caller, id, limits.timeouts, bodies_end);
                let id = request.id().to_owned();
                let answer = caught(answer(front, request, refused)).await;
                let answer = answer.unwrap_or_else(|| panicked(front, &id));
                // An answer in chunks is not complete yet: the connection stays busy.
                if matches!(answer.body(), Either::Left(_)) {
                    visit.idle();
                }
                Ok::<_, Infallible>(answer)
            }
        }),
    ));
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped(stopping) => {
            served.as_mut().graceful_shutdown();
            Some(served.await)
        }
        () = visit.asked_to_leave() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served.as_mut() => Some(ended),
                () = sleep(LEAVE_MAX) => if visit.is_busy() { Some(served.await) } else { None },
            }
        }
    };
    if let Some(Err(e)) = ended {
        // The time limit of a header is kept below hyper, and is another error.
        if e.is_timeout() {
            metrics.hit(Limit::IdleConnection);
        }
        tracing::debug!(error = %e, "a connection ended early");
    }
}

fn protocol(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's limit counts from the end of the last request, so it limits idle connections. The time of a header that has
    // begun is limited below hyper. A client that has closed its half may still wait for its answer.
    http.timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(limits.timeouts.idle_connection.max(limits.timeouts.header_read))
        .max_header_size(limits.heads.bytes_max + HEADER_END_BYTES);
    if limits.heads.lines_max > HYPER_HEADERS_MAX {
        http.max_headers(limits.heads.lines_max);
    }
    http
}

impl Visit {
    fn idle(&self) {
        if let Self::Welcome(slot) = self {
            slot.idle();
        }
    }

    fn busy(&self) {
        if let Self::Welcome(slot) = self {
            slot.busy();
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Welcome(slot) if slot.is_busy())
    }

    /// Why all its requests are refused, if they are.
    fn refused(&self) -> Option<HttpError> {
        match self {
            Self::Welcome(_) => None,
            Self::Refused { max, .. } => Some(HttpError::TooManyConnections(*max)),
        }
    }

    /// Completes when the connection must close.
    async fn asked_to_leave(&self) {
        match self {
            Self::Welcome(slot) => slot.asked_to_leave().await,
            Self::Refused { .. } => sleep(REFUSAL_MAX).await,
        }
    }
}

async fn stopped(stopping: &mut Stopping) {
    // An error means that the server itself is gone.
    drop(stopping.wait_for(Option::is_some).await);
}

async fn answer(front: &Front, mut request: Request, refused: Option<HttpError>) -> Answer {
    let (id, begun) = (request.id().to_owned(), Instant::now());
    let method = request.method().clone();
    let last = refused.is_some();
    point("answering").unwrap_or_default();
    let checked = match refused {
        Some(error) => Err(error),
        None => request.check_host(),
    };
    let (mut answer, endpoint) = match request.segments() {
        Ok(segments) => {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            match Found::at(&segments) {
                Some(found) => {
                    if front.live.is_heard() && found.is_told(&method) {
                        begin_notes(&mut request, found.client_in_path());
                    }
                    let result = match checked {
                        Ok(()) => found.answer(front, &mut request).await,
                        Err(error) => Err(error),
                    };
                    let mut answer = result.unwrap_or_else(|error| {
                        note(front, &error, &id);
                        request.note(|notes| notes.refused(&error.to_string()));
                        found.refusal(&request, &error)
                    });
                    found.open_to_pages(&mut answer, request.origin());
                    found.tell_age(front, &method, &mut answer);
                    (answer, found.name(&method))
                }
                None => {
                    let unknown = HttpError::NotFound("there is nothing at this path".into());
                    let error = checked.err().unwrap_or(unknown);
                    if front.live.is_heard() && is_almost_a_site_call(&segments) {
                        let client = segments.get(1).filter(|_| segments.first() == Some(&"m2"));
                        begin_notes(&mut request, client.map(|client| (*client).to_owned()));
                        request.note(|notes| notes.refused(&error.to_string()));
                    }
                    (refuse(front, door_of_unknown(&segments), &error, &id), UNKNOWN_PATH)
                }
            }
        }
        Err(error) => {
            let door = if is_adobes(request.path()) { Door::Rest } else { Door::Native };
            (refuse(front, door, &checked.err().unwrap_or(error), &id), UNKNOWN_PATH)
        }
    };
    let headers = answer.headers_mut();
    if last || !request.body.ended() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(id) = HeaderValue::try_from(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    let (status, took) = (answer.status().as_u16(), begun.elapsed());
    front.app.metrics().answered(endpoint, status, took);
    tracing::debug!(request = %id, %method, endpoint, status, took_ms = telemetry::ms(took), "answered");
    if let Some(call) = request.end_notes() {
        front.live.tell(call.answered(endpoint, &answer, front.app.now(), took));
    }
    answer
}

/// Somebody listens: notes what is known before anything is checked.
fn begin_notes(request: &mut Request, client: Option<String>) {
    let client = client.or_else(|| request.query().get("client").map(str::to_owned));
    request.begin_notes();
    request.note(|notes| notes.named_client(client.as_deref()));
}

/// Whether somebody who wrote this path meant one of Adobe's calls.
fn is_almost_a_site_call(segments: &[&str]) -> bool {
    matches!(segments, ["m2" | "rest", ..])
}

/// The output of a future; none if it panics. A panic ends only the one call.
async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)))
            .map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// The answer to a call that panicked.
fn panicked(front: &Front, request: &str) -> Answer {
    let mut answer = refuse(front, Door::Native, &HttpError::Inside("answering it panicked".into()), request);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn refuse(front: &Front, door: Door, error: &HttpError, request: &str) -> Answer {
    note(front, error, request);
    refusal(door, error)
}

/// Counts and logs a refusal.
fn note(front: &Front, error: &HttpError, request: &str) {
    if let Some(limit) = error.limit() {
        front.app.metrics().hit(limit);
        // Not louder, even if the daemon itself is full: a caller can hit a limit as often as it likes.
        tracing::info!(request, limit = limit.name(), "a limit ended a request");
    } else if let Some(why) = error.log() {
        if error.status().is_server_error() {
            tracing::error!(request, why, "a request failed");
        } else {
            tracing::debug!(request, why, "a request was refused");
        }
    }
}

/// A new id for a request, to find it in the log: the number of the request in this process, after a number that differs
/// from process to process.
fn request_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::LazyLock;
    static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0) >> 32);
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:08x}-{:x}", *FIRST, NEXT.fetch_add(1, Ordering::Relaxed))
}
