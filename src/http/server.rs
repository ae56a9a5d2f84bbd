//! The server: takes connections, has each request answered, and stops cleanly.
//!
//! Promises: every connection, header and body has a time limit; a stop lets requests that have begun finish, and is
//! over within [`DRAIN_MAX`].

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Front;
use super::connection::{Verdict, Watched};
use super::cors;
use super::error::HttpError;
use super::request::{Request, Socket};
use super::response::{Answer, Door, refusal};
use super::router::{Endpoint, answer_while_opening, door_of_unknown};
use crate::app::Opening;
use crate::telemetry::metrics::Limit;

/// How long requests that have begun may take to finish once the server is to stop. The whole daemon stops within ten
/// seconds; the rest of them is for the store.
pub const DRAIN_MAX: Duration = Duration::from_secs(6);
/// How long bodies may go on arriving then: what is left of the time is for their answers.
const DRAIN_BODIES_MAX: Duration = Duration::from_secs(3);
/// The most connections at once: further ones wait to be accepted, and file descriptors remain for the store.
const CONNECTIONS_MAX: usize = 8_192;
/// The largest header of a request.
const HEADER_BYTES_MAX: usize = 80 << 10;
/// How long to wait after an accept that failed, at first and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How many connections are answered at once while the daemon is opening, and how long a header may take then.
const OPENING_CONNECTIONS_MAX: usize = 512;
const OPENING_HEADER_MAX: Duration = Duration::from_secs(5);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Says that the server is stopping, and until when bodies may go on arriving.
type Stopping = watch::Receiver<Option<Instant>>;

/// Serves on `listener` until `shutdown` completes, then lets requests that have begun finish.
pub async fn serve(listener: TcpListener, front: Front, shutdown: impl Future<Output = ()>) {
    let front = Arc::new(front);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = watch::channel(None);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((socket, permit)) => {
                pause = ACCEPT_PAUSE.0;
                let connection = connection(socket, Arc::clone(&front), stopping.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted");
                sleep(pause).await;
                pause = ACCEPT_PAUSE.1.min(pause * 2);
            }
        }
    }
    drop(listener);
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

/// Answers, while the daemon is still opening its data folder, that it does not serve yet and how far it is.
pub async fn serve_opening(listener: &TcpListener, opening: &Opening) -> Infallible {
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
        let opening = opening.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut answer = answer_while_opening(request.uri().path(), opening.at());
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            async { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(OPENING_HEADER_MAX)
                .serve_connection(TokioIo::new(socket), service);
            drop(served.await);
        });
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, permit))
}

/// Whether an error of `accept` concerns only the connection that would have been accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn connection(socket: TcpStream, front: Arc<Front>, mut stopping: Stopping) {
    // Answers are small and written whole: nothing is gained by waiting for more.
    let (Ok(local), Ok(peer), Ok(())) = (socket.local_addr(), socket.peer_addr(), socket.set_nodelay(true))
    else {
        return;
    };
    let ends = Socket { local, peer };
    let metrics = Arc::clone(front.app.metrics());
    let _open = metrics.connection();
    let watched = Watched::new(socket, front.timeouts.header_read, Arc::clone(&metrics));
    let verdict = watched.verdict();
    let (requests, bodies_end) = (AtomicU64::new(0), stopping.clone());
    let mut http = http1::Builder::new();
    // hyper's limit counts from the end of the last request, so it is the one for idle connections; how long a header
    // may take once it has begun is watched below hyper.
    // A client that has said all it will may still wait for its answer.
    http.timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(front.timeouts.idle_connection.max(front.timeouts.header_read))
        .max_header_size(HEADER_BYTES_MAX);
    let mut served = pin!(http.serve_connection(
        TokioIo::new(watched),
        service_fn(|request| {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            let (front, verdict) = (Arc::clone(&front), Arc::clone(&verdict));
            let request = Request::new(request, ends, request_id(), front.timeouts, bodies_end.clone());
            async move { Ok::<_, Infallible>(answer(&front, request, number, &verdict).await) }
        }),
    ));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(e) = ended {
        // What a header may take beyond that is watched below hyper, and is another error.
        if e.is_timeout() {
            metrics.hit(Limit::IdleConnection);
        }
        tracing::debug!(error = %e, "a connection ended early");
    }
}

async fn stopped(stopping: &mut Stopping) {
    // An error means that the server itself is gone.
    drop(stopping.wait_for(Option::is_some).await);
}

async fn answer(front: &Front, mut request: Request, number: u64, verdict: &Verdict) -> Answer {
    let (id, begun) = (request.id().to_owned(), Instant::now());
    let method = request.method().clone();
    let (mut answer, endpoint) = match request.segments() {
        Ok(segments) => {
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            match Endpoint::find(&segments) {
                Some(endpoint) => {
                    let result = match check(&request, verdict, number) {
                        Ok(()) => endpoint.answer(front, &mut request).await,
                        Err(error) => Err(error),
                    };
                    let mut answer = result.unwrap_or_else(|e| refuse(front, endpoint.door(), &e, &id));
                    if endpoint.is_for_pages() {
                        let origin = request.origin().filter(|_| !endpoint.reads_cookies());
                        cors::open(&mut answer, origin);
                    }
                    (answer, endpoint.name())
                }
                None => {
                    let unknown = HttpError::NotFound("there is nothing at this path".into());
                    let error = check(&request, verdict, number).err().unwrap_or(unknown);
                    (refuse(front, door_of_unknown(&segments), &error, &id), "unknown path")
                }
            }
        }
        Err(error) => (refuse(front, Door::Rest, &error, &id), "unknown path"),
    };
    let headers = answer.headers_mut();
    if !request.body.ended() || verdict.on(number).is_some() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(id) = HeaderValue::try_from(id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    let (status, took) = (answer.status().as_u16(), begun.elapsed());
    front.app.metrics().answered(endpoint, status, took);
    tracing::debug!(request = %id, %method, endpoint, status, ?took);
    answer
}

fn check(request: &Request, verdict: &Verdict, number: u64) -> Result<(), HttpError> {
    match verdict.on(number) {
        Some(offence) => Err(HttpError::Offends(offence)),
        None => request.check_host(),
    }
}

fn refuse(front: &Front, door: Door, error: &HttpError, request: &str) -> Answer {
    if let Some(limit) = error.limit() {
        front.app.metrics().hit(limit);
        tracing::info!(request, limit = limit.name(), "a limit ended a request");
    }
    if let Some(why) = error.log() {
        // That the disk is full is told once, by whoever found out.
        if error.status().is_server_error() && error.status() != StatusCode::INSUFFICIENT_STORAGE {
            tracing::error!(request, why, "a request failed");
        } else {
            tracing::debug!(request, why, "a request was refused");
        }
    }
    refusal(door, error)
}

/// A name for a request, to find it in the log by: which request of this process it was, counted from a number that
/// differs from process to process.
fn request_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::LazyLock;
    static FIRST: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0) >> 32);
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:08x}-{:x}", *FIRST, NEXT.fetch_add(1, Ordering::Relaxed))
}
