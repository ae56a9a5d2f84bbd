//! What every front door calls: `site_call`, `update`, `read`, `accept_batch`. The business steps live here and below.
//!
//! ```text
//! commit/       the commit thread: decide, journal, apply, answer
//! ingest/       how batches come in, and how their rows get into the store
//! read/         what callers read
//! upkeep/       what keeps the disk in order while the daemon runs
//! open/         what a start does, and work on a data folder that no daemon has open
//! gates.rs      shares what is scarce fairly among clients and addresses
//! heartbeat.rs  whether the threads still move
//! priority.rs   which threads give way to those that answer somebody
//! ```
//!
//! Promises: nothing here blocks an async thread; what is answered with success is durable and readable.

pub mod commit;
mod error;
pub mod gates;
mod heartbeat;
pub mod ingest;
pub mod open;
mod priority;
pub mod read;
mod scarce;
mod types;
pub mod upkeep;

use crate::audit::{self, Actor};
use crate::batch::catalogue::{self, SaveError};
use crate::batch::queue::Batches;
use crate::batch::resolve::ResolveError;
use crate::batch::spool::Spool;
use crate::clock::GuardedClock;
use crate::config::{ClientSettings, Config, PublicUrl};
use crate::durable::{point, sync_folder};
use crate::folder::{self};
use crate::journal::entry::Checkpoint;
use crate::journal::snapshot::Snapshots;
use crate::layout;
use crate::model::batch::{BatchId, BatchRules, EmptyValues, RowReading};
use crate::model::blocked::BlockedIds;
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::profile::Source;
use crate::model::seq::{Clock, Millis, Seq};
use crate::store::memory::MemoryStore;
use crate::store::swap::SwapStore;
use crate::store::{Reach, StoreError};
use crate::sync::{self, AtomicBool, AtomicU64, Ordering, lock};
use crate::telemetry;
use crate::telemetry::metrics::{LeftOut, Metrics, Vitals};
use commit::{Answer, Committer, Request, VisitorWrite, WriteRules};
use error::OrInternal;
pub use error::{EngineError, ErrorKind, Fatal, OpenError};
use gates::{Scarce, Shares, Who};
use heartbeat::Pulse;
use ingest::throttle::Pace;
pub use ingest::upload::{AcceptedBatch, Announced, Upload};
use open::lock::lock_folder;
use open::rebuild::Opened;
pub use open::rebuild::Opening;
use open::store_folder::{Generation, StoreFolder};
use priority::give_way;
pub use read::batch_list::BatchPage;
pub use read::lookup::look_up;
use read::lookup::{hidden, look_up_delayed};
pub use read::provenance::Lines;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
pub use types::{
    BatchState, BatchStatus, BatchVersion, CallIds, Readiness, SingleUpdate, SiteCall, Visitor,
    VisitorAttribute, Written,
};
use upkeep::disk_space::Room;
use upkeep::erasures::ErasureList;
use upkeep::hold::Hold;
use upkeep::rebuild_beside::Remaking;
use upkeep::steps::{InUse, Keeper, Tombstones};
pub use upkeep::tasks::Done;
use upkeep::tasks::{Chore, Housekeeping};

/// What the threads are called that serve requests, and those that block for them.
pub const SERVING_THREADS: &str = "serve";
/// How many requests may wait for the commit thread; further ones wait to wait.
const REQUESTS_WAITING_MAX: usize = 4096;
/// How many requests one commit group takes at most.
const GROUP_REQUESTS_MAX: usize = 512;
/// A checkpoint is taken at least this often …
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// … and whenever the journal has grown by this much.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// How long a lookup waits for a write that it is to show, and how often it looks.
const SEQ_WAIT_MAX: Duration = Duration::from_secs(5);
const SEQ_LOOK: Duration = Duration::from_millis(5);
/// How often a lookup looks whether a store that was made again has taken over.
const TURN_LOOK: Duration = Duration::from_millis(1);
/// How often it is looked whether a disk that was full has room again.
const ROOM_LOOK: Duration = Duration::from_millis(200);
/// A commit group that takes longer than this is taken for stuck …
const COMMIT_STUCK: Duration = Duration::from_secs(30);
/// … and so is folding that does not get on for so long: its longest step is making a large store durable.
const FOLD_STUCK: Duration = Duration::from_secs(300);
/// How long uploads that were cut off may take, at a stop, to remove what they had written.
const UPLOADS_STOP_MAX: Duration = Duration::from_secs(1);

/// The whole daemon behind its front doors. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    data_folder: PathBuf,
    /// The settings; those that may change while the daemon runs do so here.
    config: RwLock<Arc<Config>>,
    room: Room,
    clock: Arc<GuardedClock>,
    /// Whether what expired is kept for now.
    hold: Hold,
    store: Arc<SwapStore>,
    batches: Arc<Batches>,
    spool: Arc<Spool>,
    /// All that was written up to this seq is readable.
    last_seq: Arc<AtomicU64>,
    /// Bytes journaled since the start.
    journaled: Arc<AtomicU64>,
    /// When the oldest erasure was, in milliseconds, whose bytes are still to go (R12); the greatest number if none.
    oldest_erasure: Arc<AtomicU64>,
    requests: RwLock<Option<mpsc::Sender<Asked<Request, Answer>>>>,
    /// The places of what is scarce.
    uploads: Shares,
    dry_runs: Shares,
    exports: Shares,
    reports: Shares,
    line_searches: Shares,
    counts: Shares,
    chore_turns: Shares,
    visitor_counts: sync::Mutex<read::statistics::VisitorCounts>,
    metrics: Arc<Metrics>,
    failed: watch::Sender<Option<String>>,
    stopping: AtomicBool,
    /// Told when a checkpoint is due or the daemon is stopping.
    wake: Condvar,
    due: Mutex<bool>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Where the store in use is.
    generation: sync::Mutex<Generation>,
    tombstones: Tombstones,
    /// Held while a batch is folded, and while the store is made again: rows would be missing in the one or the other.
    folding: sync::Mutex<()>,
    /// The seq of the batch that is being folded; 0 if none is.
    folding_batch: AtomicU64,
    /// Held while the file of a batch that is held is replaced.
    replacing: sync::Mutex<()>,
    remaking: Remaking,
    chores: Mutex<Option<std::sync::mpsc::Sender<Asked<Chore, Done>>>>,
    pace: Pace,
    commit_pulse: Pulse,
    fold_pulse: Pulse,
    measured: Measured,
    erasures: ErasureList,
    /// Keeps a second daemon out of the folder while it is open.
    _folder_lock: std::fs::File,
}

/// What is measured now and then, for whoever watches.
#[derive(Debug)]
struct Measured {
    store_bytes: AtomicU64,
    /// As of the end of the sweeper's last pass; while there was none, those that it has counted.
    live_profiles: AtomicU64,
    /// When that was counted, in milliseconds of the steady time; the start counts as once.
    live_profiles_at: AtomicU64,
    disk_free_bytes: AtomicU64,
    /// When the last checkpoint was taken, in milliseconds; the start counts as one.
    checkpoint_at: AtomicU64,
    /// When the last snapshot was; the start if there is none.
    snapshot_at: AtomicU64,
}

impl Measured {
    fn at_start(now: Millis, passed: Duration) -> Self {
        Self {
            store_bytes: AtomicU64::new(0),
            live_profiles: AtomicU64::new(0),
            live_profiles_at: AtomicU64::new(u64::try_from(passed.as_millis()).unwrap_or_default()),
            disk_free_bytes: AtomicU64::new(0),
            checkpoint_at: AtomicU64::new(now.0),
            snapshot_at: AtomicU64::new(now.0),
        }
    }
}

/// Something asked for, and where its answer goes.
type Asked<Q, A> = (Q, oneshot::Sender<Result<A, EngineError>>);

impl Engine {
    /// Opens the data folder, recovers what is there and starts the threads. The clock is believed whatever it says.
    pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_watched(config, GuardedClock::believing(clock), &Opening::default())
    }

    /// The same by a clock that is believed as far as it can be, saying meanwhile how far it is.
    pub fn open_watched(config: Config, clock: GuardedClock, opening: &Opening) -> Result<Self, OpenError> {
        folder::check(&config.server.data_folder)?;
        BroughtUp::of(config, Arc::new(clock), opening)?.start()
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Arc<Inner>) + Send + 'static) -> Result<(), OpenError> {
        let inner = Arc::clone(&self.0);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Whatever a thread of ours was at when it panicked, the journal is ahead of it: a restart puts it right.
                let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(&inner)));
                if ran.is_err() {
                    let name = std::thread::current().name().unwrap_or_default().to_owned();
                    inner.fail(Fatal::new(format!("the {name} thread panicked")));
                }
            })
            .map_err(|error| OpenError::Folder { path: "(a thread)".into(), error })?;
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// What a client's site calls and single updates may not name a visitor by.
    pub fn blocked_ids(&self, client: &ClientCode) -> Result<BlockedIds, EngineError> {
        Ok(self.0.settings(client)?.blocked_ids)
    }

    /// Writes what a site call brings.
    pub async fn site_call(&self, call: SiteCall) -> Result<Written, EngineError> {
        let rules = self.0.write_rules(&call.client)?;
        let made = |number, key: &Key| self.0.erasures.made_id(number, key);
        let call = SiteCall { ids: call.ids.with_made(&call.client, made), ..call };
        let _waits = self.0.pace.site_call();
        self.0.write(Request::Site(call, rules)).await
    }

    /// Writes what a single update brings.
    pub async fn update(&self, update: SingleUpdate) -> Result<Written, EngineError> {
        self.write_visitor(update.client, update.id, VisitorWrite::Set(update.attributes)).await
    }

    /// Writes to one visitor, if it is known.
    pub async fn write_visitor(
        &self,
        client: ClientCode,
        id: VisitorId,
        write: VisitorWrite,
    ) -> Result<Written, EngineError> {
        let rules = self.0.write_rules(&client)?;
        match self.0.ask(Request::Visitor(client, id, write, rules)).await? {
            Answer::Erased(written, keys) => {
                self.note_erasure(written.seq, keys).await?;
                Ok(written)
            }
            answer => self.0.written(answer),
        }
    }

    /// Notes an erasure in the list of them, before it is acknowledged.
    async fn note_erasure(&self, seq: Option<Seq>, keys: Vec<Key>) -> Result<(), EngineError> {
        let Some(seq) = seq else { return Ok(()) };
        let inner = Arc::clone(&self.0);
        let noted = tokio::task::spawn_blocking(move || inner.erasures.note(seq, &keys)).await;
        noted.or_internal()?.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => EngineError::Full(format!(
                "the visitor is erased, but the list of erasures cannot grow, which keeps backups from bringing it back: {error}"
            )),
            _ => EngineError::internal(error),
        })
    }

    /// Looks a visitor up.
    pub async fn read(&self, client: &ClientCode, id: &VisitorId) -> Result<Option<Visitor>, EngineError> {
        let settings = self.0.settings(client)?;
        let (inner, client, id) = (Arc::clone(&self.0), client.clone(), id.clone());
        let began = Instant::now();
        let read = tokio::task::spawn_blocking(move || {
            point("lookup").or_internal()?;
            let now = inner.clock.now().max(Seq::from_u64(inner.last_seq.load(Ordering::Acquire)).millis());
            let (lifetime_ms, shows_after_ms) = (settings.lifetime_ms, settings.batch_shows_after_ms);
            inner.at_one_turn(|| {
                look_up_delayed(&*inner.store, &inner.batches, &client, &id, now, lifetime_ms, shows_after_ms)
            })
        });
        let read = read.await;
        self.0.metrics.looked_up(began.elapsed());
        read.or_internal()?
    }

    /// Waits until all that was accepted up to a place in the order is readable: not for long, for what is acknowledged is.
    pub async fn wait_for(&self, seq: Seq) -> Result<(), EngineError> {
        let begun = tokio::time::Instant::now();
        while self.0.last_seq.load(Ordering::Acquire) < seq.get() {
            if seq.millis() > self.now().plus(SEQ_WAIT_MAX.as_millis().try_into().unwrap_or(u64::MAX)) {
                return Err(EngineError::Refused(format!(
                    "no write has the seq {seq} yet: it lies in the future"
                )));
            }
            if begun.elapsed() >= SEQ_WAIT_MAX {
                let seconds = SEQ_WAIT_MAX.as_secs();
                return Err(EngineError::NotYet(format!(
                    "no write had the seq {seq} within {seconds} seconds"
                )));
            }
            tokio::time::sleep(SEQ_LOOK).await;
        }
        Ok(())
    }

    /// Begins a batch upload of `who`, unless what is `announced` of it is enough to refuse it.
    pub async fn accept_batch(
        &self,
        who: &Who,
        client: &ClientCode,
        version: BatchVersion,
        empty_values: EmptyValues,
        announced: Announced,
    ) -> Result<Upload, EngineError> {
        let settings = self.0.settings(client)?;
        let v2 = version == BatchVersion::V2;
        let rules = BatchRules {
            seq: Seq::ZERO,
            source: if v2 { Source::BatchV2 } else { Source::BatchV1 },
            creates: v2 && settings.v2_creates_profiles,
            consecutive_v2: settings.consecutive_v2,
            empty_values,
            lifetime_ms: settings.lifetime_ms,
            max_profile_bytes: self.0.profile_bytes_max(),
            reading: RowReading::now(settings.blocked_ids),
        };
        announced.check(&self.0.config().limits)?;
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Stopping);
        }
        self.0.spool.check_room(announced.spooled_bytes_min())?;
        let place = self.0.uploads.take(who).await?;
        let inner = Arc::clone(&self.0);
        // How full a disk is may have to be asked of another machine.
        let room = tokio::task::spawn_blocking(move || inner.room.for_upload(announced.spooled_bytes_min()));
        room.await.or_internal()??;
        let form = (announced, settings.batch_reading);
        Upload::begin(Arc::clone(&self.0), who.clone(), client.clone(), rules, form, place).or_internal()
    }

    /// Makes a fresh store: what the old one wasted is free again, and of whoever was erased no byte is left (R12).
    pub async fn compact(&self, who: &Who) -> Result<Done, EngineError> {
        self.0.chore_in_turn(who, Chore::Compact).await
    }

    /// Takes a snapshot.
    pub async fn snapshot(&self) -> Result<Done, EngineError> {
        self.0.chore(Chore::Snapshot).await
    }

    /// Writes a backup into a folder that is not there yet, or empty.
    pub async fn backup(&self, who: &Who, folder: PathBuf) -> Result<Done, EngineError> {
        self.0.chore_in_turn(who, Chore::Backup(folder)).await
    }

    /// One batch.
    pub fn batch(&self, id: &BatchId) -> Option<BatchStatus> {
        let status = self.0.batches.get(id).map(|known| BatchStatus::of(&known, self.now()))?;
        Some(status.held(self.0.batches.why_held(id)))
    }

    /// One batch, as long as its status is told: some clients' is not for as long as it is kept, as Adobe's is not.
    pub fn batch_told(&self, id: &BatchId) -> Option<BatchStatus> {
        let kept_ms = self.0.settings(&id.client).ok()?.status_kept_ms;
        let told = |batch: &BatchStatus| {
            let over = kept_ms.is_some_and(|kept| batch.id.seq.millis().plus(kept) <= self.0.clock.now());
            batch.state != BatchState::Complete || !over
        };
        self.batch(id).filter(told)
    }

    /// The folder that keeps everything.
    pub fn data_folder(&self) -> &Path {
        &self.0.data_folder
    }

    /// What time it is.
    pub fn now(&self) -> Millis {
        self.0.clock.now()
    }

    /// Notes an administrative act in the audit trail, and comes back when it stands there.
    pub async fn note_act(&self, actor: Actor, act: &'static str, client: Option<&ClientCode>, what: &str) {
        let (inner, client, what) = (Arc::clone(&self.0), client.cloned(), what.to_owned());
        let noted = tokio::task::spawn_blocking(move || {
            audit::note(&inner.data_folder, inner.clock.now(), &actor, act, client.as_ref(), &what);
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, act, "an act was not noted in the audit trail");
        }
    }

    /// The client code for a call that names none, if one is configured.
    pub fn default_client(&self) -> Option<ClientCode> {
        self.0.config().server.default_client.clone()
    }

    /// The client whose pages are open where none is named: the default one, else the only one that is configured, else,
    /// where any is taken, the only one that has batches.
    pub fn only_client(&self) -> Option<ClientCode> {
        let config = self.0.config();
        let mut configured = config.clients().map(|(client, _)| client);
        let only = match (configured.next(), configured.next()) {
            (Some(only), None) => Some(only.clone()),
            (None, _) => self.0.batches.only_client(),
            (Some(_), Some(_)) => None,
        };
        config.server.default_client.clone().or(only)
    }

    /// Goes on with other settings, as far as they may change while the daemon runs: how much is taken, what is kept, the
    /// clients. Which requests they shape is a matter of when these came in.
    pub fn reconfigure(&self, config: &Config) {
        let inner = &self.0;
        let mut current = inner.config.write().unwrap_or_else(PoisonError::into_inner);
        let next = current.following(config);
        inner.uploads.resize(next.limits.concurrent_uploads_max);
        inner.spool.set_limit(next.limits.spool_bytes_max);
        inner.room.set_reserve(next.upkeep.disk_reserve_bytes);
        inner.clock.set_ahead_max(next.server.clock_ahead_max);
        *current = Arc::new(next);
    }

    /// Believes the machine's clock as it is, where it had leapt ahead.
    pub fn accept_clock(&self) {
        let inner = &self.0;
        let Some(ahead) = inner.clock.accept() else { return };
        let held = inner.hold.begin_if_long(ahead, &inner.config(), inner.clock.passed());
        tracing::warn!(
            ahead_seconds = ahead.as_secs(),
            nobody_is_swept_for_an_hour = held,
            "the machine's clock was accepted as it is"
        );
    }

    /// A thread panicked. Those of ours say so themselves, and a call's fails that call; any other is the store's, and then
    /// nobody knows what it has left undone.
    pub fn thread_panicked(&self, name: Option<&str>) {
        const OTHERS: [&str; 10] = [
            "commit",
            "fold",
            "fold-2",
            "checkpoint",
            "sweep",
            "housekeeping",
            "upload",
            SERVING_THREADS,
            "say",
            "log",
        ];
        if !name.is_some_and(|name| OTHERS.contains(&name) || name == "main") {
            let name = name.unwrap_or("(without a name)");
            self.0.fail(Fatal::new(format!("a thread of the store panicked: {name}")));
        }
    }

    /// The client to which an organisation belongs, as Adobe's SDKs send it.
    pub fn client_of_ims_org(&self, org: &str) -> Option<ClientCode> {
        self.0.config().client_of_ims_org(org).cloned()
    }

    /// How many batch calls a minute a client may make; none: as many as it likes.
    pub fn batch_calls_per_minute(&self, client: &ClientCode) -> Result<Option<NonZeroU32>, EngineError> {
        Ok(self.0.settings(client)?.batch_calls_per_minute)
    }

    /// From when on lookups will show a batch that is not complete; none where they show it already.
    pub fn shows_from(&self, batch: &BatchId) -> Option<Millis> {
        let after_ms = self.0.settings(&batch.client).map_or(0, |settings| settings.batch_shows_after_ms);
        hidden(batch.seq, after_ms, self.now()).then(|| batch.seq.millis().plus(after_ms))
    }

    /// What status URLs begin with, if configured.
    pub fn public_url(&self) -> Option<PublicUrl> {
        self.0.config().server.public_url.clone()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// How it is, for whoever watches.
    pub fn vitals(&self) -> Vitals {
        let (inner, now) = (&self.0, self.0.clock.now());
        let (batches_pending, rows_pending) = inner.batches.backlog();
        let age = |at: &AtomicU64| Duration::from_millis(now.0.saturating_sub(at.load(Ordering::Relaxed)));
        let counted_at = Duration::from_millis(inner.measured.live_profiles_at.load(Ordering::Relaxed));
        let waiting = inner.sender().map_or(0, |sender| REQUESTS_WAITING_MAX - sender.capacity());
        Vitals {
            ready: self.readiness() == Readiness::Ready,
            batches_pending,
            batches_stuck: inner.batches.held(),
            rows_pending,
            writes_waiting: waiting as u64,
            rows_per_second_max: inner.config().ingest.rows_per_second_at(now).map(NonZeroU32::get),
            live_profiles: inner.measured.live_profiles.load(Ordering::Relaxed),
            live_profiles_age: inner.clock.passed().saturating_sub(counted_at),
            expired_profiles_kept: inner.hold.kept(),
            clock_ahead: inner.clock.disbelieved().unwrap_or_default(),
            log_lines_lost: telemetry::lines_lost(),
            store_bytes: inner.measured.store_bytes.load(Ordering::Relaxed),
            spool_bytes: inner.spool.bytes(),
            disk_free_bytes: inner.measured.disk_free_bytes.load(Ordering::Relaxed),
            store_remaking: inner.remaking.is_on(),
            store_remakes: inner.remaking.done(),
            checkpoint_age: age(&inner.measured.checkpoint_at),
            snapshot_age: age(&inner.measured.snapshot_at),
        }
    }

    /// Why the process is of no use any more, if it is not: only a new start helps.
    pub fn ailment(&self) -> Option<String> {
        if let Some(why) = &*self.0.failed.borrow() {
            return Some(why.clone());
        }
        let stuck = |what: &str, pulse: &Pulse, most| {
            pulse.stuck_for(most).map(|time| format!("{what} has been stuck for {} s", time.as_secs()))
        };
        stuck("writing the journal", &self.0.commit_pulse, COMMIT_STUCK)
            .or_else(|| stuck("folding batches", &self.0.fold_pulse, FOLD_STUCK))
    }

    /// Whether it serves.
    pub fn readiness(&self) -> Readiness {
        if let Some(why) = self.ailment() {
            return Readiness::NotReady(why);
        }
        if self.0.stopping.load(Ordering::Relaxed) {
            return Readiness::NotReady("the daemon is stopping".into());
        }
        if let Some(why) = self.0.store.damage() {
            return Readiness::NotReady(self.0.remaking.tells(&why));
        }
        Readiness::Ready
    }

    /// What an operator should know of a daemon that serves all the same.
    pub fn remarks(&self) -> Vec<String> {
        let (inner, mut remarks) = (&self.0, vec![]);
        inner.clock.now();
        if let Some(ahead) = inner.clock.disbelieved() {
            remarks.push(format!(
                "the machine's clock has leapt {} s ahead and is not believed: put it right; or, if it is right now, accept \
                 it by a SIGHUP or a restart",
                ahead.as_secs()
            ));
        }
        if let Some(left) = inner.hold.left(inner.clock.passed()) {
            remarks.push(format!(
                "the clock is long past the last write: {} visitors who expired meanwhile are kept, and uploads past their \
                 retention, for {} more minutes; if the clock is wrong, stop the daemon and put it right before",
                inner.hold.kept(),
                left.as_secs().div_ceil(60)
            ));
        }
        match inner.batches.held() {
            0 => {}
            held => remarks.push(format!(
                "{held} batches are stuck, for their uploads are damaged, and whoever they may name waits: send their files \
                 again (`profiled batch resend`) or give them up (`profiled batch abandon`)"
            )),
        }
        remarks
    }

    /// Completes when something inside failed for good: the process must then say why and end.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops the threads: what was asked for is answered, a batch being folded is left where it is, the store is
    /// checkpointed.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        self.uploads_gone().await;
        let app = self.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || app.stop_blocking()).await {
            tracing::error!(%error, "stopping did not go to its end");
        }
    }

    /// The same, for a thread that may be blocked.
    pub fn stop_blocking(&self) {
        let inner = &self.0;
        inner.stopping.store(true, Ordering::Relaxed);
        inner.batches.close();
        drop(inner.chores.lock().unwrap_or_else(PoisonError::into_inner).take());
        inner.wake.notify_all();
        let threads = std::mem::take(&mut *inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let (commit, others): (Vec<_>, Vec<_>) =
            threads.into_iter().partition(|thread| thread.thread().name() == Some("commit"));
        for thread in others {
            report_panic(thread.join());
        }
        if inner.failed.borrow().is_none()
            && let Err(error) = inner.checkpoint()
        {
            tracing::warn!(%error, "the last checkpoint could not be taken; the next start reads more of the journal");
        }
        drop(inner.requests.write().unwrap_or_else(PoisonError::into_inner).take());
        for thread in commit {
            report_panic(thread.join());
        }
        if inner.failed.borrow().is_none() {
            inner.close_store();
        }
    }

    /// Waits until the uploads that were cut off have removed what they had written; not for ever, for what they leave
    /// the next start removes.
    async fn uploads_gone(&self) {
        let gone = async {
            self.0.uploads.all_free().await;
            self.0.dry_runs.all_free().await;
        };
        if timeout(UPLOADS_STOP_MAX, gone).await.is_err() {
            tracing::warn!(
                "uploads that were cut off are still at work: the next start removes what they leave"
            );
        }
    }
}

/// A data folder whose store has all that was accepted, before any thread is at work on it.
pub(crate) struct BroughtUp {
    config: Config,
    clock: Arc<GuardedClock>,
    room: Room,
    store: Arc<SwapStore>,
    stores: StoreFolder,
    generation: Generation,
    snapshots: Snapshots,
    batches: Arc<Batches>,
    spool: Arc<Spool>,
    committer: Committer,
    erasures: ErasureList,
    /// What is wrong with the catalogue, if it was found damaged.
    catalogue_damage: Option<catalogue::Damage>,
    folder_lock: std::fs::File,
}

impl BroughtUp {
    /// Opens the data folder and recovers what is there. Whether it is finished is for the caller to know.
    fn of(config: Config, clock: Arc<GuardedClock>, opening: &Opening) -> Result<Self, OpenError> {
        let data = &config.server.data_folder;
        let folder_lock = lock_folder(data)?;
        folder::check_format(data)?;
        if !folder::is_one(data) {
            // From now on it is a data folder, to whoever looks.
            folder::stamp(data)?;
        }
        let room = Room::new(data, config.upkeep.disk_reserve_bytes);
        let Opened { store, mut stores, generation, made, snapshots, recovered } =
            open::rebuild::open(&config, &room, opening)?;
        // All of it could be read; and nothing was written yet that an earlier program could not read.
        folder::stamp(data)?;
        let store = Arc::new(SwapStore::new(store, recovered.reach));
        let committer = Committer::new(
            recovered.log,
            Arc::clone(&store),
            Arc::clone(&recovered.batches),
            recovered.last_seq,
            Arc::clone(&clock) as _,
        );
        clock.start_after(recovered.last_seq.millis());
        if made {
            // From here on a restart finds it; what a crash would have lost of it so far is made anew.
            let failed = |error| OpenError::Folder { path: generation.path.clone(), error };
            let mark = Checkpoint { store_reach: store.make_durable()?.0, ..committer.mark() };
            recovered.batches.save().map_err(|error| failed(std::io::Error::other(error)))?;
            open::recovery::write_checkpoint(&generation.checkpoint_path(), &mark).map_err(failed)?;
            stores.adopt(&generation).map_err(failed)?;
        }
        if data.join(layout::ERASING).exists() {
            committer.oldest_erasure.store(0, Ordering::Release);
        }
        let failed = |error| OpenError::Folder { path: data.join(layout::ERASURES), error };
        let erasures = ErasureList::open(data, recovered.last_seq).map_err(failed)?;
        let (batches, spool) = (recovered.batches, recovered.spool);
        Ok(Self {
            config,
            clock,
            room,
            store,
            stores,
            generation,
            snapshots,
            batches,
            spool,
            committer,
            erasures,
            catalogue_damage: recovered.catalogue_damage,
            folder_lock,
        })
    }

    /// Starts the threads.
    fn start(self) -> Result<Engine, OpenError> {
        let Self {
            config,
            clock,
            room,
            store,
            stores,
            generation,
            snapshots,
            batches,
            spool,
            mut committer,
            erasures,
            catalogue_damage: _,
            folder_lock,
        } = self;
        let (hold, last) = (Hold::default(), committer.seqs.last());
        if hold.begin_if_long(upkeep::hold::since_last_write(last, clock.now()), &config, clock.passed()) {
            tracing::warn!(
                last_write = %last.millis().iso_8601(),
                clock = %clock.now().iso_8601(),
                "the clock is long past the last write: whoever expired meanwhile is not swept, and no upload removed for \
                 its age, for an hour; if the clock is wrong, stop the daemon and put it right"
            );
        }
        let metrics = Arc::<Metrics>::default();
        committer.metrics = Arc::clone(&metrics);
        let places = |scarce, max| Shares::new(scarce, max, &metrics);
        let (requests, asked) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (chores, waiting_chores) = std::sync::mpsc::channel();
        let inner = Arc::new(Inner {
            room,
            measured: Measured::at_start(clock.now(), clock.passed()),
            hold,
            pace: Pace::default(),
            commit_pulse: Pulse::default(),
            fold_pulse: Pulse::default(),
            clock,
            store,
            batches,
            spool,
            last_seq: Arc::clone(&committer.last_seq),
            journaled: Arc::clone(&committer.journaled),
            oldest_erasure: Arc::clone(&committer.oldest_erasure),
            requests: RwLock::new(Some(requests)),
            uploads: places(Scarce::Uploads, config.limits.concurrent_uploads_max),
            dry_runs: places(Scarce::DryRuns, 1),
            exports: places(Scarce::Exports, read::export::EXPORTS_MAX),
            reports: places(Scarce::Reports, read::report::REPORTS_MAX),
            line_searches: places(Scarce::LineSearches, read::provenance::SEARCHES_MAX),
            counts: places(Scarce::Counts, 1),
            chore_turns: places(Scarce::Chores, 1),
            visitor_counts: sync::Mutex::default(),
            metrics,
            failed: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
            wake: Condvar::new(),
            // What was replayed need not be replayed again.
            due: Mutex::new(true),
            threads: Mutex::new(vec![]),
            generation: sync::Mutex::new(generation),
            tombstones: Tombstones::default(),
            folding: sync::Mutex::new(()),
            folding_batch: AtomicU64::new(0),
            replacing: sync::Mutex::new(()),
            remaking: Remaking::default(),
            chores: Mutex::new(Some(chores)),
            erasures,
            _folder_lock: folder_lock,
            data_folder: config.server.data_folder.clone(),
            config: RwLock::new(Arc::new(config)),
        });
        let app = Engine(inner);
        app.spawn("commit", |inner| commit_thread(inner, committer, asked))?;
        app.spawn("fold", |inner| {
            give_way();
            ingest::apply_thread::run(inner);
        })?;
        app.spawn("checkpoint", |inner| {
            give_way();
            checkpoint_thread(inner);
        })?;
        app.spawn("sweep", |inner| {
            give_way();
            upkeep::sweep::run(inner);
        })?;
        app.spawn("housekeeping", |inner| {
            give_way();
            Housekeeping::new(inner, stores, snapshots).run(waiting_chores);
        })?;
        Ok(app)
    }
}

/// A place where a test build may have a thread of ours die.
fn thread_point(name: &str) {
    point(name).unwrap_or_default();
}

fn report_panic(joined: std::thread::Result<()>) {
    if joined.is_err() {
        tracing::error!("a thread had panicked");
    }
}

impl Inner {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn settings(&self, client: &ClientCode) -> Result<ClientSettings, EngineError> {
        self.config().client(client).ok_or_else(|| EngineError::UnknownClient(client.clone()))
    }

    fn profile_bytes_max(&self) -> usize {
        usize::try_from(self.config().limits.profile_bytes_max).unwrap_or(usize::MAX)
    }

    fn write_rules(&self, client: &ClientCode) -> Result<WriteRules, EngineError> {
        let lifetime_ms = self.settings(client)?.lifetime_ms;
        Ok(WriteRules { lifetime_ms, max_profile_bytes: self.profile_bytes_max() })
    }

    fn sender(&self) -> Result<mpsc::Sender<Asked<Request, Answer>>, EngineError> {
        let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner);
        requests.clone().ok_or(EngineError::Stopping)
    }

    /// Asks the commit thread.
    async fn ask(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send((request, reply)).await.map_err(|_| EngineError::Stopping)?;
        answer.await.map_err(|_| EngineError::Stopping)?
    }

    async fn write(&self, request: Request) -> Result<Written, EngineError> {
        let answer = self.ask(request).await?;
        self.written(answer)
    }

    fn written(&self, answer: Answer) -> Result<Written, EngineError> {
        let written = answer.written()?;
        self.metrics.left_out(written.left_out, LeftOut::ProfileBytes);
        Ok(written)
    }

    /// Asks the commit thread, from a thread of our own.
    fn ask_blocking(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.blocking_send((request, reply)).map_err(|_| EngineError::Stopping)?;
        answer.blocking_recv().map_err(|_| EngineError::Stopping)?
    }

    /// Erases a visitor by a key, from a thread of our own. Gives whether there was one.
    fn erase_blocking(&self, key: &Key) -> Result<bool, EngineError> {
        let client = ClientCode::new(key.client()).or_internal()?;
        let id = VisitorId::new(key.kind(), key.id()).or_internal()?;
        let rules = WriteRules { lifetime_ms: u64::MAX, max_profile_bytes: usize::MAX };
        match self.ask_blocking(Request::Visitor(client, id, VisitorWrite::Erase, rules))? {
            Answer::Erased(Written { seq: Some(seq), known, .. }, keys) => {
                self.erasures.note(seq, &keys).or_internal()?;
                Ok(known)
            }
            _ => Ok(false),
        }
    }

    /// Nothing more can be acknowledged.
    fn fail(&self, why: Fatal) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| why.0.clone());
            first
        });
        tracing::error!(%why, "the daemon must stop");
    }

    /// Looks at batches and store, once more if a store that was made again took over meanwhile.
    fn at_one_turn<T>(&self, look: impl Fn() -> Result<T, ResolveError>) -> Result<T, EngineError> {
        loop {
            let turn = self.store.turn();
            let found = look();
            if turn.is_multiple_of(2) && self.store.turn() == turn {
                return found.map_err(|error| self.told(error));
            }
            std::thread::sleep(TURN_LOOK);
        }
    }

    /// What whoever asked is told of what could not be read.
    fn told(&self, error: impl Into<ResolveError>) -> EngineError {
        match error.into() {
            ResolveError::Store(error) if error.is_damage() => {
                self.store.note_damage(&error);
                EngineError::Unreadable
            }
            ResolveError::Held { batch, why } => EngineError::Held { batch, why },
            error => EngineError::internal(error),
        }
    }

    /// Waits while the disk has no room for what can wait; false if the daemon is stopping.
    fn wait_for_room(&self) -> bool {
        while self.room.for_upkeep().is_err() && !self.stopping.load(Ordering::Relaxed) {
            self.wait_unless_stopping(ROOM_LOOK);
        }
        !self.stopping.load(Ordering::Relaxed)
    }

    fn wait_unless_stopping(&self, time: Duration) {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let stopping = |_: &mut bool| !self.stopping.load(Ordering::Relaxed);
        drop(self.wake.wait_timeout_while(due, time, stopping));
    }

    fn in_use(&self) -> InUse<'_, Generation> {
        InUse { store: &self.store, generation: &self.generation, tombstones: &self.tombstones }
    }

    /// Makes the store durable up to what the journal says now, and notes it; or, if the daemon is stopping, does not.
    fn checkpoint(&self) -> Result<(), EngineError> {
        self.room.for_checkpoints()?;
        if self.store.damage().is_some() {
            // A start is not to take it for whole.
            return Ok(());
        }
        match self.in_use().checkpoint(self) {
            Err(EngineError::Stopping) => Ok(()),
            done => {
                done?;
                self.measured.checkpoint_at.store(self.clock.now().0, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Makes durable what the catalogue is to say of complete batches.
    fn save_catalogue(&self) -> Result<(), EngineError> {
        self.catalogue_saved(self.batches.save())
    }

    fn catalogue_saved(&self, saved: Result<(), SaveError>) -> Result<(), EngineError> {
        saved.map_err(|error| match error {
            SaveError::Refused { .. } => EngineError::internal(error),
            SaveError::Lost { .. } => self.give_up(error.to_string()),
        })
    }

    /// Makes the store durable, whatever the journal says; gives how far it then reaches.
    fn make_store_durable(&self) -> Result<Reach, EngineError> {
        self.store.make_durable().map_err(|error| self.distrust(&lock(&self.generation), error))
    }

    /// Closes the store for good.
    fn close_store(&self) {
        drop(self.store.replace(Arc::new(MemoryStore::default())));
    }

    /// Has a chore done when it is its turn, and holds that until it is done, also if nobody waits for it any more.
    async fn chore_in_turn(self: &Arc<Self>, who: &Who, chore: Chore) -> Result<Done, EngineError> {
        let place = self.chore_turns.take(who).await?;
        let inner = Arc::clone(self);
        let done = tokio::spawn(async move {
            let _place = place;
            inner.chore(chore).await
        });
        done.await.or_internal()?
    }

    /// Asks the housekeeping thread.
    async fn chore(&self, chore: Chore) -> Result<Done, EngineError> {
        let (reply, done) = oneshot::channel();
        let sent = {
            let chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner);
            chores.as_ref().is_some_and(|chores| chores.send((chore, reply)).is_ok())
        };
        if !sent {
            return Err(EngineError::Stopping);
        }
        done.await.map_err(|_| EngineError::Stopping)?
    }
}

impl Keeper for Inner {
    type Generation = Generation;

    fn mark(&self) -> Result<Checkpoint, EngineError> {
        match self.ask_blocking(Request::Mark)? {
            Answer::Marked(mark) => {
                self.save_catalogue()?;
                Ok(mark)
            }
            other => Err(EngineError::internal(format!("a mark was answered with {other:?}"))),
        }
    }

    fn go_on(&self) -> Result<(), EngineError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Stopping);
        }
        self.room.for_upkeep()
    }

    fn note(&self, generation: &Generation, mark: &Checkpoint) -> std::io::Result<()> {
        open::recovery::write_checkpoint(&generation.checkpoint_path(), mark)
    }

    /// Asked again the store might say that all is well, while what the failed attempt was about is on no disk: so the
    /// daemon ends, and the next start, which finds no checkpoint, makes the store again.
    fn distrust(&self, generation: &Generation, error: StoreError) -> EngineError {
        let path = generation.checkpoint_path();
        if let Err(error) = std::fs::remove_file(&path).and_then(|()| sync_folder(&generation.path)) {
            tracing::error!(path = %path.display(), %error, "the checkpoint of a store that failed could not be removed");
        }
        self.give_up(error.to_string())
    }

    fn give_up(&self, why: String) -> EngineError {
        self.fail(Fatal::new(&why));
        EngineError::Internal(why)
    }
}

fn commit_thread(
    inner: &Arc<Inner>,
    mut committer: Committer,
    mut asked: mpsc::Receiver<Asked<Request, Answer>>,
) {
    let mut group = Vec::with_capacity(GROUP_REQUESTS_MAX);
    let mut at_checkpoint = 0;
    loop {
        inner.commit_pulse.idle();
        if asked.blocking_recv_many(&mut group, GROUP_REQUESTS_MAX) == 0 {
            return;
        }
        inner.commit_pulse.beat();
        if inner.room.for_writes().is_err() {
            group = refuse_writes(inner, group);
        }
        let (mut requests, mut replies): (VecDeque<_>, VecDeque<_>) = group.drain(..).unzip();
        while !requests.is_empty() {
            // What waits for one answer may take several groups.
            inner.commit_pulse.beat();
            match committer.commit(&mut requests) {
                Ok(answers) => {
                    // A group may have taken only the first of the requests; the others' turn comes next.
                    for answer in answers {
                        if let Some(reply) = replies.pop_front() {
                            // Whoever asked may have gone; what was done stands.
                            drop(reply.send(answer));
                        }
                    }
                }
                Err(fatal) => {
                    inner.fail(fatal);
                    return;
                }
            }
        }
        let journaled = committer.journaled.load(Ordering::Relaxed);
        if journaled - at_checkpoint >= CHECKPOINT_BYTES {
            at_checkpoint = journaled;
            *inner.due.lock().unwrap_or_else(PoisonError::into_inner) = true;
            inner.wake.notify_all();
        }
    }
}

/// Answers those of the requests that would fill the disk further, and gives back the others: what is asked from inside
/// ends what was begun, and what is erased or removed makes room one day.
fn refuse_writes(inner: &Inner, asked: Vec<Asked<Request, Answer>>) -> Vec<Asked<Request, Answer>> {
    let mut others = Vec::with_capacity(GROUP_REQUESTS_MAX);
    for (request, reply) in asked {
        let adds = match &request {
            Request::Site(..) | Request::Accept(_) => true,
            Request::Visitor(_, _, write, _) => matches!(write, VisitorWrite::Set(_)),
            _ => false,
        };
        match inner.room.for_writes() {
            Err(full) if adds => drop(reply.send(Err(full))),
            _ => others.push((request, reply)),
        }
    }
    others
}

fn checkpoint_thread(inner: &Arc<Inner>) {
    loop {
        thread_point("checkpoint-thread");
        let due = inner.due.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |due: &mut bool| !*due && !inner.stopping.load(Ordering::Relaxed);
        let waited = inner.wake.wait_timeout_while(due, CHECKPOINT_EVERY, waiting);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        if inner.stopping.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = inner.checkpoint() {
            tracing::warn!(%error, "a checkpoint could not be taken");
        }
    }
}

impl Answer {
    fn written(self) -> Result<Written, EngineError> {
        match self {
            Self::Written(written) | Self::Erased(written, _) => Ok(written),
            other => Err(EngineError::internal(format!("a write was answered with {other:?}"))),
        }
    }
}
