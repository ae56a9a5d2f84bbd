//! This node's part in the order of several: what it offers, and what it reads back.
//!
//! ```text
//! a call ─► Node::ask ─► gatherer ─► the order ─► pump ─► the commit thread's queue ─► answer, if the call came to this node
//! ```
//!
//! Promises: a request gets into the commit thread's queue once, in the order's place and with its time, whichever node
//! offered it. A caller hears of success only once this node has applied its request. A caller whose request may have got
//! into the order, or not, hears just that.

use super::ordering::{OrderedUpTo, Runs};
use super::reply::{Asked, ReplyTo};
use super::request::{Answer, NewBatch, Ordered, Placed, Request, VisitorWrite};
use super::taking::Reply;
use super::wire::{self, FromOrder, OfferedBatch};
use crate::engine::error::{EngineError, Fatal, OrInternal};
use crate::engine::shared::Shared;
use crate::model::codec::CodecError;
use crate::model::seq::Millis;
use crate::order::gather::Gatherer;
use crate::order::listen::listen;
use crate::order::needed::{Needed, UNACCEPTED_LASTS};
use crate::order::pieces::UploadId;
use crate::order::record::{ClusterId, Offers, RunId};
use crate::order::{Log, Offset, OrderError, Place, REACH_AGAIN, READ_LOOK, Record, SHORT_AFTER};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use crate::telemetry::metrics::Metrics;
use std::any::Any;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// How long a caller waits for the answer to its request in all.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// How many requests of the order wait for the commit thread at most, so that what the node itself asks of it soon has its turn.
const AHEAD_MAX: u64 = 256;
/// How long the pump waits for the commit thread before it looks again.
const AHEAD_WAIT: Duration = Duration::from_millis(1);
/// While a node catches up, it applies batches as it accepts them: with more of them pending, each request takes longer.
const PENDING_MAX: usize = 4;
/// How long it waits for that at each batch, for the batches may be held, or their rate is low.
const PENDING_WAIT: Duration = Duration::from_millis(500);
/// A pump that has not looked for so long was stopped meanwhile, with its process or its machine.
const ASLEEP: Duration = Duration::from_secs(1);
/// A node that had applied all that it had heard of less long ago than this is not behind.
const LEVEL: Duration = Duration::from_millis(250);

/// Marks a site call as waiting for its answer, until what it gives is dropped.
pub(in crate::engine) type Waits = Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>;

/// Where the files of batches come from that other nodes took in.
pub(in crate::engine) trait Files: Send {
    /// The batch with its file, once the file is here; or without it, if it did not come as it was accepted. None if the daemon is
    /// stopping. While this node has no room for the file, `stands` hears why. Blocks.
    fn take(&self, batch: &OfferedBatch, stands: &dyn Fn(&str)) -> Option<NewBatch>;
}

/// This node's part in the order.
pub(in crate::engine) struct Node {
    gatherer: Gatherer,
    waiting: Callers,
    /// The batches that this node took in and that the order has not given back yet, and since when.
    uploads: Mutex<HashMap<UploadId, (NewBatch, Instant)>>,
    next_upload: AtomicU64,
    /// Whether it had nothing when it began.
    is_new: bool,
    metrics: Arc<Metrics>,
    /// How far this node is.
    pub(in crate::engine) progress: Progress,
    /// Which pieces of files are still needed.
    pub(in crate::engine) needed: Arc<Needed>,
}

/// How far a node has read the order and applied it.
#[derive(Debug)]
pub(in crate::engine) struct Progress {
    /// How many requests the pump has handed to the commit thread, and how many of them are applied.
    handed: AtomicU64,
    applied: AtomicU64,
    /// The offset behind the last record that was read.
    read: AtomicU64,
    /// The offset behind the last record whose requests are all applied. Not behind `read`.
    applied_offset: AtomicU64,
    /// The order's end as last heard.
    end: AtomicU64,
    /// The order's end when this node started. Until it is applied, the node takes no call that writes.
    end_at_start: AtomicU64,
    serves: AtomicBool,
    /// The time of the last request that is applied, in milliseconds.
    applied_at: AtomicU64,
    began: Instant,
    /// When the node had last applied all that it had heard of, in milliseconds since it began.
    level_at: AtomicU64,
    /// Since when the order cannot be reached, and why.
    out_of_reach: watch::Sender<Option<(Instant, String)>>,
    /// Why the node stands, if it cannot apply what comes next.
    standing: watch::Sender<Option<String>>,
    /// Requests that the order had twice.
    duplicates: AtomicU64,
    checksum: AtomicU64,
    mark: Mutex<Option<(Offset, u32)>>,
}

impl Progress {
    fn from(read: Offset) -> Self {
        Self {
            handed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            read: AtomicU64::new(read.0),
            applied_offset: AtomicU64::new(read.0),
            end: AtomicU64::new(read.0),
            end_at_start: AtomicU64::new(u64::MAX),
            serves: AtomicBool::new(false),
            applied_at: AtomicU64::new(0),
            began: Instant::now(),
            level_at: AtomicU64::new(0),
            out_of_reach: watch::Sender::new(None),
            standing: watch::Sender::new(None),
            duplicates: AtomicU64::new(0),
            checksum: AtomicU64::new(0),
            mark: Mutex::new(None),
        }
    }

    /// The offset behind the last record that is applied.
    pub(in crate::engine) fn applied_offset(&self) -> Offset {
        Offset(self.applied_offset.load(Ordering::Acquire))
    }

    /// The order's end as last heard.
    pub(in crate::engine) fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Relaxed).max(self.read.load(Ordering::Relaxed)))
    }

    /// Notes the order's end.
    pub(in crate::engine) fn heard_of_end(&self, end: Offset) {
        self.end.fetch_max(end.0, Ordering::Relaxed);
    }

    /// The time of the last request that is applied.
    pub(in crate::engine) fn applied_at(&self) -> Millis {
        Millis(self.applied_at.load(Ordering::Relaxed))
    }

    /// How old what the node shows may be, by this clock. Zero while it keeps up.
    ///
    /// The time of the last request says nothing while nobody writes, and the time since the node had applied everything says
    /// nothing while all write at once. So the lesser of the two counts.
    pub(in crate::engine) fn behind(&self, now: Millis) -> Duration {
        let level_at = Duration::from_millis(self.level_at.load(Ordering::Relaxed));
        let since_level = self.began.elapsed().saturating_sub(level_at);
        let applied_at = self.applied_at().0;
        let age = Duration::from_millis(now.0.saturating_sub(applied_at));
        let behind = if self.serves() || applied_at == 0 { since_level.min(age) } else { age };
        if behind < LEVEL { Duration::ZERO } else { behind }
    }

    /// How many requests were read and are not applied yet.
    pub(in crate::engine) fn queued(&self) -> u64 {
        self.handed.load(Ordering::Relaxed).saturating_sub(self.applied.load(Ordering::Relaxed))
    }

    /// Requests that the order had twice.
    pub(in crate::engine) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// The sum over all that was decided.
    pub(in crate::engine) fn checksum(&self) -> u32 {
        u32::try_from(self.checksum.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// The sum over all that was decided before an offset that every node passes.
    pub(in crate::engine) fn mark(&self) -> Option<(Offset, u32)> {
        *lock(&self.mark)
    }

    /// Whether the node has applied all that the order had when it started.
    pub(in crate::engine) fn serves(&self) -> bool {
        self.serves.load(Ordering::Acquire)
    }

    /// For how long the order could not be reached, and why.
    pub(in crate::engine) fn out_of_reach(&self) -> Option<(Duration, String)> {
        self.out_of_reach.borrow().as_ref().map(|(since, why)| (since.elapsed(), why.clone()))
    }

    /// Why the node stands, if it cannot apply what comes next in the order.
    pub(in crate::engine) fn standing(&self) -> Option<String> {
        self.standing.borrow().clone()
    }

    /// Notes that the node cannot apply what comes next in the order.
    pub(in crate::engine) fn note_standing(&self, why: &str) {
        self.standing.send_if_modified(|standing| {
            let first = standing.is_none();
            if first {
                tracing::error!(%why, "the node cannot apply what comes next in the order: it stands until it can, and the other nodes go on");
                *standing = Some(why.to_owned());
            }
            first
        });
    }

    fn note_reach(&self, failed: Option<&OrderError>) {
        self.out_of_reach.send_if_modified(|known| match (failed, known.is_some()) {
            (Some(error), false) => {
                tracing::warn!(%error, "the order cannot be reached: writes are refused until it can");
                *known = Some((Instant::now(), error.to_string()));
                true
            }
            (None, true) => {
                tracing::info!("the order can be reached again");
                *known = None;
                true
            }
            _ => false,
        });
    }

    /// Notes that the commit thread has applied this many requests, and how far that brings the node.
    pub(in crate::engine) fn note_applied(&self, requests: u64, up_to: OrderedUpTo) {
        self.standing.send_if_modified(|standing| standing.take().is_some());
        let applied = self.applied.fetch_add(requests, Ordering::AcqRel) + requests;
        // First how far it is read: what is handed over after that must not count as applied.
        let read = self.read.load(Ordering::Acquire);
        let all = applied == self.handed.load(Ordering::Acquire);
        let offset = if all { read } else { up_to.place.offset.0 };
        self.applied_offset.fetch_max(offset, Ordering::AcqRel);
        self.applied_at.store(up_to.latest.0, Ordering::Relaxed);
        self.checksum.store(up_to.checksum.into(), Ordering::Relaxed);
        if up_to.mark.is_some() {
            *lock(&self.mark) = up_to.mark;
        }
        self.look_whether_it_serves();
    }

    /// Notes where the order ended when this node started. Only the first call counts.
    fn starts_with(&self, end: Offset) {
        if self.end_at_start.load(Ordering::Acquire) == u64::MAX {
            self.end_at_start.store(end.0, Ordering::Release);
        }
    }

    fn look_whether_it_serves(&self) {
        let read = self.read.load(Ordering::Acquire);
        let all_applied = self.applied.load(Ordering::Acquire) == self.handed.load(Ordering::Acquire);
        if all_applied && read >= self.end.load(Ordering::Relaxed) {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.level_at.store(now, Ordering::Relaxed);
        }
        if self.serves() {
            return;
        }
        let end = self.end_at_start.load(Ordering::Acquire);
        if all_applied && read >= end {
            self.applied_offset.fetch_max(read, Ordering::AcqRel);
            self.serves.store(true, Ordering::Release);
            tracing::info!(offset = end, "all that the order had at the start is applied: the node serves");
        }
    }
}

impl Node {
    /// A node that goes on from here.
    pub(in crate::engine) fn new(gatherer: Gatherer, from: Option<Place>, metrics: Arc<Metrics>) -> Self {
        let needed = Arc::<Needed>::default();
        needed.order_from(from.map_or(Offset(0), |place| place.offset.next()));
        let is_new = from.is_none();
        let from = from.map_or(Offset(0), |place| place.offset);
        Self {
            gatherer,
            waiting: Callers::default(),
            uploads: Mutex::default(),
            next_upload: AtomicU64::new(1),
            is_new,
            metrics,
            progress: Progress::from(from),
            needed,
        }
    }

    /// Whether the order may still have a first token for it: it had nothing when it began, and has not read everything yet.
    pub(in crate::engine) fn awaits_tokens(&self) -> bool {
        self.is_new && !self.progress.serves()
    }

    /// The run that offers.
    pub(in crate::engine) fn run(&self) -> RunId {
        self.gatherer.run()
    }

    /// An id for an upload that begins.
    pub(in crate::engine) fn next_upload(&self) -> UploadId {
        UploadId { run: self.run(), number: self.next_upload.fetch_add(1, Ordering::Relaxed) }
    }

    /// An error unless the node takes calls that write.
    pub(in crate::engine) fn takes_writes(&self) -> Result<(), EngineError> {
        if !self.progress.serves() {
            let why = "this node is still reading what the other nodes wrote while it was away: ask another node, or again in a \
                       second";
            return Err(EngineError::NoOrder(why.into()));
        }
        let out_of_reach = self.progress.out_of_reach().map(|(_, why)| why);
        match out_of_reach.or_else(|| self.progress.standing()) {
            Some(why) => Err(EngineError::NoOrder(format!("no write is taken now, because {why}"))),
            None => Ok(()),
        }
    }

    /// Offers a request, and waits until this node has applied it.
    pub(in crate::engine) async fn ask(&self, request: &Request) -> Result<Answer, EngineError> {
        self.takes_writes()?;
        self.offer(encoded(request)?).await
    }

    /// The same, from a thread that may block.
    pub(in crate::engine) fn ask_blocking(&self, request: &Request) -> Result<Answer, EngineError> {
        self.takes_writes()?;
        let (caller, answer) = Caller::new();
        let (note, hear) = (noting(&self.waiting, &caller), hearing(&self.waiting, &caller));
        self.gatherer.offer_now(encoded(request)?, note, hear);
        answer.blocking_recv().map_err(|_| stopped())?
    }

    /// Offers a batch whose file is on its way to all nodes, and waits until this node has accepted it.
    pub(in crate::engine) async fn ask_batch(
        &self,
        upload: UploadId,
        pieces: (Offset, Offset),
        batch: NewBatch,
    ) -> Result<Answer, EngineError> {
        self.takes_writes()?;
        let bytes = wire::batch(upload, pieces, &batch).or_internal()?;
        lock(&self.uploads).insert(upload, (batch, Instant::now()));
        let answer = self.offer(bytes).await;
        if matches!(answer, Err(EngineError::NoOrder(_))) {
            // It is certainly not in the order. Its files go on a thread that may block.
            let refused = lock(&self.uploads).remove(&upload);
            drop(tokio::task::spawn_blocking(move || drop(refused)));
        }
        answer
    }

    /// Drops the batches of which nobody knows whether the order has them, after [`UNACCEPTED_LASTS`]. If one comes all the same, its file is
    /// among the pieces.
    pub(in crate::engine) fn drop_unaccepted(&self) {
        let mut uploads = lock(&self.uploads);
        let old = uploads.extract_if(|_, (_, since)| since.elapsed() >= UNACCEPTED_LASTS);
        let old: Vec<_> = old.collect();
        drop(uploads);
        drop(old);
    }

    /// Offers several requests that are for all nodes, and gives the answers in their order.
    pub(in crate::engine) async fn ask_all(&self, requests: &[Request]) -> Vec<Result<Answer, EngineError>> {
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            waiting.push(match self.takes_writes().and_then(|()| encoded(request)) {
                Ok(bytes) => Ok(self.offered(bytes).await),
                Err(error) => Err(error),
            });
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for offered in waiting {
            answers.push(match offered {
                Ok(offered) => self.answered(offered).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    async fn offer(&self, bytes: Vec<u8>) -> Result<Answer, EngineError> {
        let offered = self.offered(bytes).await;
        self.answered(offered).await
    }

    async fn offered(&self, bytes: Vec<u8>) -> Offered {
        let (caller, answer) = Caller::new();
        let (note, hear) = (noting(&self.waiting, &caller), hearing(&self.waiting, &caller));
        let began = Instant::now();
        self.gatherer.offer(bytes, note, hear).await;
        Offered { caller, answer, began }
    }

    async fn answered(&self, Offered { caller, answer, began }: Offered) -> Result<Answer, EngineError> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        self.metrics.offered(began.elapsed());
        match answer {
            Ok(answer) => answer.map_err(|_| stopped())?,
            Err(_) => {
                lock(&self.waiting).remove(&caller.number.load(Ordering::Acquire));
                Err(EngineError::Unknown(format!(
                    "this node has not applied it within {} seconds",
                    ANSWER_WITHIN.as_secs()
                )))
            }
        }
    }

    /// Takes no further offers. Whoever waits hears that the daemon is stopping.
    pub(in crate::engine) fn close(&self) {
        self.gatherer.close();
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        // The gatherer also holds those whose offers are on their way.
        waiting.values().for_each(|caller| drop(lock(&caller.reply).take()));
    }
}

/// The daemon stopped while a request was on its way.
fn stopped() -> EngineError {
    EngineError::Unknown("the daemon is stopping".into())
}

fn encoded(request: &Request) -> Result<Vec<u8>, EngineError> {
    match wire::encode(request) {
        Some(bytes) => bytes.or_internal(),
        None => Err(EngineError::internal("a request of one node was offered to all")),
    }
}

/// A request that was offered, whose answer is awaited.
struct Offered {
    caller: Arc<Caller>,
    answer: oneshot::Receiver<Reply>,
    began: Instant,
}

/// A caller who waits.
#[derive(Default)]
struct Caller {
    /// The number of its offer; 0 until it has one.
    number: AtomicU64,
    reply: Mutex<Option<oneshot::Sender<Reply>>>,
}

impl Caller {
    fn new() -> (Arc<Self>, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        (Arc::new(Self { number: AtomicU64::new(0), reply: Mutex::new(Some(reply)) }), answer)
    }
}

/// The callers who wait, by the numbers of their offers.
type Callers = Arc<Mutex<HashMap<u64, Arc<Caller>>>>;

/// Notes the number of an offer, before anybody can read it.
fn noting(callers: &Callers, caller: &Arc<Caller>) -> impl FnOnce(u64) {
    let (callers, caller) = (Arc::clone(callers), Arc::clone(caller));
    move |number| {
        caller.number.store(number, Ordering::Release);
        lock(&callers).insert(number, caller);
    }
}

/// Hears what became of an offer. Whoever waits for one that is in the order is answered once it is applied.
fn hearing(callers: &Callers, caller: &Arc<Caller>) -> Box<dyn FnOnce(Result<Place, OrderError>) + Send> {
    let (callers, caller) = (Arc::clone(callers), Arc::clone(caller));
    Box::new(move |told| {
        let Err(error) = told else { return };
        lock(&callers).remove(&caller.number.load(Ordering::Acquire));
        if let Some(reply) = lock(&caller.reply).take() {
            drop(reply.send(Err(EngineError::from(error))));
        }
    })
}

impl From<OrderError> for EngineError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Unknown(why) => Self::Unknown(why),
            error => Self::NoOrder(error.to_string()),
        }
    }
}

/// Reads the order, and hands its requests to the commit thread.
pub(in crate::engine) struct Pump {
    pub(in crate::engine) shared: Arc<Shared>,
    pub(in crate::engine) node: Arc<Node>,
    pub(in crate::engine) log: Arc<dyn Log>,
    pub(in crate::engine) files: Box<dyn Files>,
    pub(in crate::engine) queue: mpsc::Sender<Asked>,
    /// Which order it must be.
    pub(in crate::engine) cluster: ClusterId,
    pub(in crate::engine) waits: Waits,
    /// Hears the answers to erasures that came to other nodes: every node keeps its own list of them.
    pub(in crate::engine) erasures: std::sync::mpsc::Sender<oneshot::Receiver<Reply>>,
    /// Since when the order does not look like the one that is applied.
    pub(in crate::engine) other_since: Option<Instant>,
    /// What is applied already, and the sum of that record.
    pub(in crate::engine) applied: Option<(Place, u32)>,
    /// The last number of each run, so that no file is waited for twice.
    pub(in crate::engine) seen: Runs,
}

/// Why the pump stops reading.
enum End {
    /// The daemon is stopping.
    Stopping,
    /// The node cannot go on.
    Fatal(Fatal),
    /// The order cannot be reached. It is read again from where it is applied.
    OutOfReach(OrderError),
    /// The order does not look like the one that this node has read. Brokers that have just started, or a new leader, may say so
    /// for a moment.
    NotTheSame(OrderError),
}

impl From<Fatal> for End {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

impl From<OrderError> for End {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::NotTheSame(_) => Self::NotTheSame(error),
            error => Self::OutOfReach(error),
        }
    }
}

impl Pump {
    /// Reads until the daemon stops.
    pub(in crate::engine) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut goes_on = true;
        while goes_on {
            let Err(end) = self.read_from(self.next());
            let end = match end {
                End::NotTheSame(error) if self.is_other(Instant::now()) => End::Fatal(Fatal::new(error)),
                end => end,
            };
            goes_on = match end {
                End::OutOfReach(error) | End::NotTheSame(error) => {
                    self.node.progress.note_reach(Some(&error));
                    shared.signals.wait(REACH_AGAIN)
                }
                End::Stopping => false,
                End::Fatal(fatal) => {
                    shared.health.fail(&fatal);
                    false
                }
            };
        }
        self.node.close();
    }

    /// Whether the order has not looked like the one that is applied for so long that it is another one.
    fn is_other(&mut self, now: Instant) -> bool {
        now.duration_since(*self.other_since.get_or_insert(now)) >= SHORT_AFTER
    }

    /// Where to read on: the last record that is applied is read again, to see that it is the same.
    fn next(&self) -> Offset {
        self.applied.map_or(Offset(0), |(place, _)| place.offset)
    }

    /// Reads from here until the daemon stops, or the order cannot be reached.
    fn read_from(&mut self, offset: Offset) -> Result<Infallible, End> {
        let (low, end) = self.log.ends()?;
        // Also the record that is applied last must be there: perhaps only its first requests are.
        if low > offset {
            return Err(self.too_old(low));
        }
        if self.applied.is_some_and(|(place, _)| end <= place.offset) {
            let why = format!("it ends at {end}, and this node has applied it up to {offset}");
            return Err(OrderError::NotTheSame(why).into());
        }
        let progress = &self.node.progress;
        progress.heard_of_end(end);
        progress.starts_with(end);
        let mut reader = listen(&self.log, offset)?;
        self.node.progress.note_reach(None);
        let mut looked = Instant::now();
        loop {
            if self.shared.signals.is_stopping() {
                return Err(End::Stopping);
            }
            let record = reader.next(READ_LOOK)?;
            if looked.elapsed() > ASLEEP {
                // Only the log knows what came meanwhile. Until then the node must not say that it has everything.
                self.node.progress.heard_of_end(self.log.ends()?.1);
            }
            looked = Instant::now();
            if let Some(record) = record {
                self.record(&record)?;
                // The first one is that which is applied last.
                self.other_since = None;
            }
            self.node.progress.look_whether_it_serves();
        }
    }

    fn too_old(&self, low: Offset) -> End {
        let applied = self.applied.map_or_else(|| "nothing".into(), |(place, _)| place.to_string());
        Fatal::new(format!(
            "the order begins at {low} by now, and this node has applied {applied}: it was away for too long; remove its data \
             folder and start it again, it then gets everything from another node"
        ))
        .into()
    }

    fn record(&mut self, record: &Record) -> Result<(), End> {
        let record_crc32c = crc32c::crc32c(&record.value);
        if let Some((place, known)) = self.applied
            && place.offset == record.offset
            && known != record_crc32c
        {
            return Err(OrderError::NotTheSame(format!("it has another record at {}", record.offset)).into());
        }
        let offers = Offers::decode(&record.value).map_err(|error| unreadable(record.offset, &error))?;
        let time = offers.time(record.time);
        for (within, bytes) in offers.requests.iter().enumerate() {
            let within = u32::try_from(within).unwrap_or(u32::MAX);
            let place = Place { offset: record.offset, within };
            if self.applied.is_some_and(|(applied, _)| place <= applied) {
                continue;
            }
            let number = offers.first.saturating_add(within.into());
            let placed = Placed { place, record_crc32c, time, run: offers.run, number };
            self.request(bytes, placed)?;
        }
        self.node.progress.read.fetch_max(record.offset.next().0, Ordering::AcqRel);
        Ok(())
    }

    fn request(&mut self, bytes: &[u8], placed: Placed) -> Result<(), End> {
        let offered = wire::decode(bytes).map_err(|error| unreadable(placed.place.offset, &error))?;
        self.applied = Some((placed.place, placed.record_crc32c));
        if self.seen.have(placed.run, placed.number) {
            self.node.progress.duplicates.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let request = match offered {
            FromOrder::Founded(cluster, _) if cluster == self.cluster => return Ok(()),
            FromOrder::Founded(cluster, _) => {
                // Several nodes may have tried to found it. The first certificate counts.
                if placed.place == Place::default() {
                    let why = format!("it is {cluster}, and this node belongs to {}", self.cluster);
                    return Err(OrderError::NotTheSame(why).into());
                }
                return Ok(());
            }
            FromOrder::Request(request) => request,
            FromOrder::Batch(offered) => {
                let own = lock(&self.node.uploads).remove(&offered.upload);
                let batch = match own {
                    Some((batch, _)) => Some(batch),
                    None => self.files.take(&offered, &|why| self.node.progress.note_standing(why)),
                };
                let Some(batch) = batch else { return Err(End::Stopping) };
                self.let_apply()?;
                self.node.needed.accepted(offered.upload, placed.place.offset, offered.pieces);
                Request::Accept(Box::new(batch))
            }
        };
        self.seen.note(placed.run, placed.number, placed.time);
        let own = placed.run == self.node.run();
        let caller = own.then(|| lock(&self.node.waiting).remove(&placed.number)).flatten();
        let mut answer = caller.and_then(|caller| lock(&caller.reply).take());
        if answer.is_none() && matches!(request, Request::Visitor(_, _, VisitorWrite::Erase, ..)) {
            let (reply, erased) = oneshot::channel();
            // Without anybody who hears it the daemon is stopping.
            drop(self.erasures.send(erased));
            answer = Some(reply);
        }
        while self.node.progress.queued() >= AHEAD_MAX {
            self.wait(AHEAD_WAIT)?;
        }
        // While the node catches up, nobody waits for what others were answered long ago.
        let counts = matches!(request, Request::Site(..)) && self.node.progress.serves();
        let waits = counts.then(|| (self.waits)());
        self.node.progress.handed.fetch_add(1, Ordering::AcqRel);
        let asked = (Ordered { request, placed: Some(placed) }, ReplyTo::of_order(answer, waits));
        self.queue.blocking_send(asked).map_err(|_| End::Stopping)
    }
}

impl Pump {
    /// Waits a while for batches to be applied, if the node catches up.
    fn let_apply(&self) -> Result<(), End> {
        let until = Instant::now() + PENDING_WAIT;
        while !self.node.progress.serves()
            && self.shared.batches.pending_batches() >= PENDING_MAX
            && Instant::now() < until
        {
            self.wait(AHEAD_WAIT)?;
        }
        Ok(())
    }

    fn wait(&self, time: Duration) -> Result<(), End> {
        if self.shared.signals.wait(time) { Ok(()) } else { Err(End::Stopping) }
    }
}

fn unreadable(offset: Offset, error: &CodecError) -> Fatal {
    match error {
        CodecError::Version { found, expected } => Fatal::new(format!(
            "the record at {offset} of the order has version {found}, and this program knows versions up to {expected}: run the \
             profiled of the other nodes"
        )),
        error => Fatal::new(format!("the record at {offset} of the order cannot be read: {error}")),
    }
}
