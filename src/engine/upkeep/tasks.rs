//! The maintenance tasks of a running daemon: they take snapshots, make fresh stores, erase visitors down to the bytes, write
//! backups, and remove old files.
//!
//! ```text
//! snapshot  a journal position, then every value in key order while writes go on. Each value has its `applied_seq`, and
//!           the journal after the position has the rest. It is verified before it counts. Two are kept.
//! fresh     a new generation of the store is filled beside the old one while both get every change, made durable,
//!           adopted and swapped in. It frees disk space, and removes erased bytes (R12).
//! retire    removes the journal segments that neither two snapshots nor the checkpoint need, and the files of batches that
//!           are past their retention and complete in both snapshots.
//! ```
//!
//! Promises:
//! - One task runs at a time. A failed task rests, longer after each failure, and the others go on.
//! - Old files are removed even if the disk has no space for a checkpoint.
//! - No file is removed that a restart could need, or a rebuild of the store from the older of two verified snapshots.
//! - A crash at any moment leaves either the old state or the new.

use crate::bucket::{GoOn, Storage};
use crate::config::Config;
use crate::durable;
use crate::engine::commit::Request;
use crate::engine::driver::fresh::{ForgetTask, FreshTask};
use crate::engine::driver::retire::RetireTask;
use crate::engine::driver::snapshot::SnapshotTask;
use crate::engine::driver::task::{Action, Event, Machine, Trouble};
use crate::engine::error::EngineError;
use crate::engine::open::rebuild;
use crate::engine::open::recovery;
use crate::engine::open::store_folder::{Generation, StoreFolder, bytes_under};
use crate::engine::shared::{Asked, thread_point};
use crate::engine::upkeep::backup;
use crate::engine::upkeep::erase::Erased;
use crate::engine::upkeep::rebuild_beside;
use crate::engine::upkeep::scheduled::{self, Schedule};
use crate::engine::upkeep::shelf::{Place, Shelf};
use crate::engine::upkeep::shelves;
use crate::engine::upkeep::state::Upkeep;
use crate::engine::upkeep::steps::{Desk, InHand, PAGE_VALUES, Taken, batches_needless, journal_needed, run};
use crate::engine::upkeep::task::{Done, Task};
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::journal::snapshot::{Snapshots, Summary, verify};
use crate::layout;
use crate::model::batch::BatchId;
use crate::model::id::Key;
use crate::model::seq::Seq;
use crate::store::ProfileStore;
use crate::sync::{Ordering, lock};
use crate::telemetry;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the thread checks whether a task is due.
const TICK: Duration = Duration::from_secs(1);
/// A fresh store is made when the store takes more than this many times its live bytes …
const SPACE_FACTOR: u64 = 6;
/// … and more than this many bytes, and more than one and a half times its size when the last fresh store was made.
const SPACE_BYTES_MIN: u64 = 64 << 20;
/// How long compaction waits for pending batches, and how often it looks whether they are complete.
const PENDING_WAIT: Duration = Duration::from_secs(300);
const PENDING_LOOK: Duration = Duration::from_millis(20);
/// How often kept uploads are searched for those past their retention.
const RETENTION_EVERY: Duration = Duration::from_secs(600);
/// The same while the disk has less space than the reserve.
const RETIRE_EVERY_SHORT: Duration = Duration::from_secs(10);
/// How often it is made durable when tokens were last used.
const TOKEN_USES_EVERY: Duration = Duration::from_secs(60);
/// How long a failed task rests: at first, and at most.
const REST_FIRST: Duration = Duration::from_secs(5);
const REST_LAST: Duration = Duration::from_secs(600);

/// A snapshot that is kept.
struct Kept {
    number: u64,
    checkpoint: Checkpoint,
}

/// The maintenance thread's state.
pub(in crate::engine) struct Housekeeping {
    upkeep: Arc<Upkeep>,
    stores: StoreFolder,
    snapshots: Snapshots,
    /// The snapshots that are kept and verified, newest first.
    kept: Vec<Kept>,
    journaled_at_snapshot: u64,
    live_bytes: u64,
    store_bytes_when_fresh: u64,
    retention_looked_at: Instant,
    /// Which backups were looked for, and when.
    backups_looked_at: Option<(Schedule, Instant)>,
    token_uses_saved_at: Instant,
    rests: Rests,
    /// When the last rebuild of the store failed.
    rebuild_failed_at: Option<Instant>,
}

/// Tasks that start by themselves, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A fresh store, because the bytes of erased visitors must go.
    Erase,
    /// A fresh store, because this one wastes too much space.
    Space,
    /// A snapshot.
    Snapshot,
    /// Remove what is no longer needed.
    Retire,
    /// Make a backup if the last one is old enough, and remove old ones.
    Backup,
}

impl Kind {
    /// Its name in the log.
    const fn name(self) -> &'static str {
        match self {
            Self::Erase => "erase",
            Self::Space => "space",
            Self::Snapshot => "snapshot",
            Self::Retire => "retire",
            Self::Backup => "backup",
        }
    }
}

/// The tasks that failed lately, and until when each rests. The rest grows with each failure.
#[derive(Debug, Default)]
struct Rests(HashMap<Kind, (Instant, Duration)>);

impl Rests {
    /// The first of these that is due and not at rest.
    fn next(&self, due: &mut [(Kind, &mut dyn FnMut() -> bool)], now: Instant) -> Option<Kind> {
        due.iter_mut().find_map(|(kind, due)| {
            let rests = self.0.get(kind).is_some_and(|(until, _)| *until > now);
            (!rests && due()).then_some(*kind)
        })
    }

    /// Records that a task was tried.
    fn tried(&mut self, kind: Kind, done: bool, now: Instant) {
        if done {
            self.0.remove(&kind);
            return;
        }
        let before = self.0.get(&kind).map_or(Duration::ZERO, |(_, rest)| *rest);
        let rest = (before * 2).clamp(REST_FIRST, REST_LAST);
        self.0.insert(kind, (now + rest, rest));
    }
}

impl Housekeeping {
    pub(in crate::engine) fn new(upkeep: &Arc<Upkeep>, stores: StoreFolder, snapshots: Snapshots) -> Self {
        Self {
            upkeep: Arc::clone(upkeep),
            stores,
            snapshots,
            kept: vec![],
            journaled_at_snapshot: 0,
            live_bytes: 0,
            store_bytes_when_fresh: 0,
            retention_looked_at: Instant::now(),
            backups_looked_at: None,
            token_uses_saved_at: Instant::now(),
            rests: Rests::default(),
            rebuild_failed_at: None,
        }
    }

    /// Runs requested and due tasks until the daemon stops.
    pub(in crate::engine) fn run(mut self, asked: Receiver<Asked<Task, Done>>) {
        self.measure();
        self.find_last_snapshot();
        loop {
            thread_point("housekeeping-thread");
            match asked.recv_timeout(TICK) {
                Ok((task, reply)) => {
                    let done = self.task(&task);
                    if let Err(error) = &done {
                        tracing::warn!(task = task.name(), %error, "a requested maintenance task failed");
                    }
                    drop(reply.send(done));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.measure();
                    self.note_token_uses();
                    self.rebuild();
                    self.look();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Records when the newest existing snapshot was taken.
    fn find_last_snapshot(&self) {
        let newest = self.snapshots.list().ok().and_then(|all| all.into_iter().next());
        let taken = newest.and_then(|(path, _)| std::fs::metadata(path).ok()?.modified().ok());
        if let Some(since) = taken.and_then(|taken| taken.duration_since(std::time::UNIX_EPOCH).ok()) {
            let millis = u64::try_from(since.as_millis()).unwrap_or_default();
            self.upkeep.shared.health.gauges.snapshot_at.store(millis, Ordering::Relaxed);
        }
    }

    /// Measures the sizes on the disk, for the gauges.
    fn measure(&self) {
        let measured = &self.upkeep.shared.health.gauges;
        measured.store_bytes.store(self.store_bytes(), Ordering::Relaxed);
        if let Some(left) = self.upkeep.shared.disk_space.left() {
            measured.disk_free_bytes.store(left, Ordering::Relaxed);
        }
    }

    fn task(&mut self, task: &Task) -> Result<Done, EngineError> {
        match task {
            Task::Snapshot => {
                let (_, summary) = self.snapshot()?;
                Ok(Done { values: summary.count, live_bytes: self.live_bytes, ..Done::default() })
            }
            Task::Compact => self.compact(),
            Task::Backup(to) => self.backup_to(to),
        }
    }

    /// Writes a backup that was asked for.
    fn backup_to(&mut self, to: &Path) -> Result<Done, EngineError> {
        let storage = Storage::of(&self.upkeep.shared.config().backups);
        let (url, storage) = match Place::named(to, storage).map_err(EngineError::Refused)? {
            Place::Folder(folder) => return self.backup(&folder, None, false),
            Place::Bucket(url, storage) => (url, storage),
        };
        let Some((above, name)) = url.split() else {
            return Err(EngineError::Refused(format!("{url} is a whole bucket: name a place in it")));
        };
        let suffix = scheduled::suffix(&self.upkeep.erasures.mark());
        let place = Place::Bucket(above, storage);
        let data = &self.upkeep.shared.data_folder;
        let mut shelf = shelves::open(&place, suffix, data, self.while_going_on()).map_err(refused)?;
        if shelf.holds(name).map_err(refused)? {
            return Err(EngineError::Refused(format!("{url} is not empty: name a new place")));
        }
        let written = self.backup_onto(&mut *shelf, name, None, refused);
        if written.is_err() {
            // What stays is marked as unfinished.
            shelf.remove(name).unwrap_or_default();
        }
        written.map(|(done, _)| done)
    }

    /// Writes a backup where it lies with others. Gives where that is.
    fn backup_onto(
        &mut self,
        shelf: &mut dyn Shelf,
        name: &str,
        scheduled: Option<&str>,
        told: impl Fn(io::Error) -> EngineError,
    ) -> Result<(Done, String), EngineError> {
        // First, for a snapshot of a large store takes long, and a place that cannot be written would make it needless.
        let folder = shelf.begin(name).map_err(&told)?;
        let done = self.backup(&folder, scheduled, shelf.is_elsewhere())?;
        let place = shelf.finish(name).map_err(told)?;
        Ok((done, place))
    }

    /// Asks whether long work goes on, for whoever does it.
    fn while_going_on(&self) -> GoOn {
        let upkeep = Arc::clone(&self.upkeep);
        Box::new(move || upkeep.go_on().map_err(io::Error::other))
    }

    /// Writes a backup into a folder.
    fn backup(&mut self, folder: &Path, scheduled: Option<&str>, passing: bool) -> Result<Done, EngineError> {
        let (snapshot, summary) = self.snapshot()?;
        let mark = self.upkeep.mark()?;
        let source =
            backup::Source { mark: &mark, snapshot: &snapshot, summary: &summary, scheduled, passing };
        let (seq, damaged_uploads) = backup::write(&self.upkeep, &source, folder)?;
        let (values, live_bytes) = (summary.count, self.live_bytes);
        Ok(Done { values, live_bytes, seq, damaged_uploads, ..Done::default() })
    }

    /// Looks which scheduled backups there are, makes one if it is due, and removes the oldest beyond those that are kept.
    fn look_after_backups(&mut self, schedule: &Schedule) -> Result<(), EngineError> {
        let upkeep = Arc::clone(&self.upkeep);
        let done = self.backup_as_scheduled(schedule);
        if !matches!(done, Err(EngineError::Stopping)) {
            upkeep.backups.note_failure(done.as_ref().err().map(ToString::to_string));
        }
        done
    }

    fn backup_as_scheduled(&mut self, schedule: &Schedule) -> Result<(), EngineError> {
        let upkeep = Arc::clone(&self.upkeep);
        let told = |error| schedule.told(error);
        let mut shelf = schedule.open(&upkeep.shared.data_folder, self.while_going_on()).map_err(told)?;
        let last = schedule.last(&*shelf, upkeep.shared.now()).map_err(told)?;
        upkeep.backups.note_last(last);
        let mut new = None;
        if schedule.is_due(last, upkeep.shared.now()) {
            let (name, path) = self.next_backup(schedule, &mut *shelf)?;
            upkeep.backups.note_last(Some(upkeep.shared.now()));
            tracing::info!(path, "a scheduled backup was made");
            new = Some(name);
        }
        let removed = schedule.remove_old(&mut *shelf, upkeep.shared.now(), new.as_deref()).map_err(told)?;
        if removed > 0 {
            tracing::info!(removed, "the oldest scheduled backups were removed");
        }
        self.backups_looked_at = Some((schedule.clone(), Instant::now()));
        Ok(())
    }

    /// Writes the next scheduled backup. It looks like one once it is whole. Gives its name, and where it is.
    fn next_backup(
        &mut self,
        schedule: &Schedule,
        shelf: &mut dyn Shelf,
    ) -> Result<(String, String), EngineError> {
        let told = |error| schedule.told(error);
        schedule.clear(shelf).map_err(told)?;
        let name = schedule.name(self.upkeep.shared.now());
        let written = self.backup_onto(shelf, &name, Some(schedule.mark()), told);
        if written.is_err() {
            // What stays here is removed by the next attempt.
            schedule.clear(shelf).unwrap_or_default();
        }
        written.map(|(_, path)| (name, path))
    }

    /// The schedule of backups, if it is time to look after them: one is due, or nobody has looked for a while. Somebody may have
    /// removed backups, and what could not be removed is tried again.
    fn backups_due(&mut self, config: &Config) -> Option<Schedule> {
        let backups = &self.upkeep.backups;
        let schedule = Schedule::of(config, self.upkeep.erasures.mark());
        let looked_at = self.backups_looked_at.as_ref();
        if looked_at.is_some_and(|(at, _)| Some(at) != schedule.as_ref()) {
            backups.forget();
            self.backups_looked_at = None;
        }
        let schedule = schedule?;
        let lately =
            self.backups_looked_at.as_ref().is_some_and(|(_, when)| when.elapsed() < RETENTION_EVERY);
        let waits = lately && !schedule.is_due(backups.known().last, self.upkeep.shared.now());
        (!waits).then_some(schedule)
    }

    /// Makes durable when tokens were last used, now and then. On a nearly full disk that can wait.
    fn note_token_uses(&mut self) {
        let waits = self.token_uses_saved_at.elapsed() < TOKEN_USES_EVERY;
        if waits || self.upkeep.shared.disk_space.for_upkeep().is_err() {
            return;
        }
        self.upkeep.save_token_uses();
        self.token_uses_saved_at = Instant::now();
    }

    /// Rebuilds the store if it is damaged.
    fn rebuild(&mut self) {
        let Some(why) = self.upkeep.shared.store.damage() else { return };
        if self.rebuild_failed_at.is_some_and(|at| at.elapsed() < RETENTION_EVERY) {
            return;
        }
        let made = rebuild_beside::run(&self.upkeep, &mut self.stores, &self.snapshots, &why);
        self.rebuild_failed_at = made.is_err().then(Instant::now);
        if let Err(error) = made
            && !matches!(error, EngineError::Stopping)
        {
            let error = error.to_string();
            tracing::error!(%why, %error, "the damaged store could not be rebuilt and stays in use; the daemon tries again in a while");
            self.upkeep.rebuild.note_failure(error);
        }
    }

    /// Runs the most urgent due task.
    fn look(&mut self) {
        if self.upkeep.shared.signals.is_stopping() {
            return;
        }
        let (upkeep, now) = (Arc::clone(&self.upkeep), Instant::now());
        let config = upkeep.shared.config();
        let settings = &config.upkeep;
        let journaled = upkeep.commit.journaled() - self.journaled_at_snapshot;
        // Begin after half of the time: the task may have to wait for pending batches.
        let erasure = upkeep.commit.oldest_erasure();
        let erasure_due = erasure.plus(settings.erase_within_ms / 2) <= upkeep.shared.now();
        // On a nearly full disk, removing old files may be the only way to get space.
        let every =
            if upkeep.shared.disk_space.for_writes().is_err() { RETIRE_EVERY_SHORT } else { RETENTION_EVERY };
        let retire_due = self.retention_looked_at.elapsed() >= every;
        let backups_due = self.backups_due(&config);
        let rests = std::mem::take(&mut self.rests);
        let next = rests.next(
            &mut [
                (Kind::Erase, &mut || erasure_due),
                (Kind::Space, &mut || self.space_due()),
                (Kind::Snapshot, &mut || journaled >= settings.snapshot_journal_bytes),
                (Kind::Retire, &mut || retire_due),
                (Kind::Backup, &mut || backups_due.is_some()),
            ],
            now,
        );
        self.rests = rests;
        let Some(kind) = next else { return };
        let done = match kind {
            Kind::Erase | Kind::Space => self.compact().map(drop),
            Kind::Snapshot => self.snapshot().map(drop),
            Kind::Retire => self.retire(),
            Kind::Backup => backups_due.map_or(Ok(()), |schedule| self.look_after_backups(&schedule)),
        };
        self.rests.tried(kind, done.is_ok(), Instant::now());
        if let Err(error) = done
            && !matches!(error, EngineError::Stopping)
        {
            tracing::warn!(task = kind.name(), %error, "a maintenance task failed; the daemon tries it again in a while, and goes on with the others");
        }
    }

    fn store_bytes(&self) -> u64 {
        let generation = lock(&self.upkeep.generation);
        bytes_under(&generation.path).unwrap_or_default()
    }

    /// Whether the store takes too much disk space for its live bytes.
    fn space_due(&mut self) -> bool {
        let bytes = self.upkeep.shared.health.gauges.store_bytes.load(Ordering::Relaxed);
        let grown = bytes > SPACE_BYTES_MIN.max(self.store_bytes_when_fresh / 2 * 3);
        if !grown || bytes <= SPACE_FACTOR * self.live_bytes {
            return false;
        }
        // The number of live bytes may be out of date, so count again.
        let mut live = 0;
        let counted = self.each(|_, value| {
            live += value;
            Ok(())
        });
        self.live_bytes = live;
        counted.is_ok() && bytes > SPACE_FACTOR * live
    }

    /// The bytes of each key and value.
    fn each(&self, mut see: impl FnMut(&Key, u64) -> Result<(), EngineError>) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let page = self.upkeep.shared.store.scan(after.as_ref(), PAGE_VALUES).map_err(failed)?;
            for (key, value) in &page {
                see(key, (key.as_bytes().len() + value.as_slice().len()) as u64)?;
            }
            self.upkeep.go_on()?;
            match page.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Takes a snapshot, verifies it, and removes what is no longer needed.
    fn snapshot(&mut self) -> Result<(PathBuf, Summary), EngineError> {
        let began = Instant::now();
        let journaled = self.upkeep.commit.journaled();
        let mut hand = InHand::default();
        self.run_machine(&mut SnapshotTask::default(), &mut hand)?;
        let taken = hand.taken.ok_or_else(|| EngineError::internal("no snapshot was taken"))?;
        let Taken { path, checkpoint, summary, live_bytes } = taken;
        (self.live_bytes, self.journaled_at_snapshot) = (live_bytes, journaled);
        self.upkeep.shared.health.gauges.snapshot_at.store(self.upkeep.shared.now().0, Ordering::Relaxed);
        let values = summary.count;
        tracing::info!(path = %path.display(), values, took_ms = telemetry::ms(began.elapsed()), "a snapshot was taken");
        let number = self.snapshots.list().map_err(failed)?.first().map_or(0, |(_, number)| *number);
        self.kept.insert(0, Kept { number, checkpoint });
        self.note_order_covered();
        self.retire()?;
        Ok((path, summary))
    }

    /// Lists the snapshots, and verifies those that this process does not know.
    fn know_snapshots(&mut self) -> Result<(), EngineError> {
        let mut kept = vec![];
        for (path, number) in self.snapshots.list().map_err(failed)? {
            let known = self.kept.iter().position(|known| known.number == number);
            let known = known.map(|at| self.kept.swap_remove(at));
            match known
                .map_or_else(|| verify(&path).map(|(checkpoint, _)| checkpoint), |known| Ok(known.checkpoint))
            {
                Ok(checkpoint) => kept.push(Kept { number, checkpoint }),
                Err(error) => tracing::error!(%error, "a snapshot cannot be used"),
            }
        }
        self.kept = kept;
        self.note_order_covered();
        Ok(())
    }

    /// Removes the files that two snapshots and the checkpoint replace.
    fn retire(&mut self) -> Result<(), EngineError> {
        self.retention_looked_at = Instant::now();
        self.run_machine(&mut RetireTask::default(), &mut InHand::default())
    }

    fn run_machine(&mut self, machine: &mut dyn Machine, hand: &mut InHand) -> Result<(), EngineError> {
        let upkeep = Arc::clone(&self.upkeep);
        let mut desk = Desk::new(&*upkeep, PAGE_VALUES);
        run(machine, hand, |action, hand| self.carry_out(action, hand, &mut desk))
    }

    /// Carries out an action of a task.
    fn carry_out(
        &mut self,
        action: Action,
        hand: &mut InHand,
        desk: &mut Desk<'_, Upkeep>,
    ) -> Result<Event, EngineError> {
        match action {
            Action::BeginSnapshot(mark) => hand.begin_snapshot(&self.snapshots, &mark).map_err(failed)?,
            Action::WaitForPending => self.wait_for_pending_batches()?,
            Action::Overwrite => self.overwrite(&hand.erased)?,
            Action::NoteErasing => {
                self.upkeep.commit.note_erased_until(hand.erased.last());
                durable::replace(&self.erasing(), "erasing", |_| Ok(())).map_err(failed)?
            }
            Action::BeginFresh => {
                let next = desk.next.insert(self.stores.begin().map_err(failed)?);
                self.begin_fresh(next)?;
            }
            Action::Adopt => return self.adopt(desk.next()?, hand),
            Action::RemoveFormer => {
                hand.former = None;
                desk.former.take().iter().for_each(|former| remove_folder(&former.path));
            }
            Action::Abandon { remove } => {
                self.upkeep.shared.store.abandon();
                let next = desk.next.take().filter(|_| remove && !self.upkeep.shared.health.has_failed());
                next.iter().for_each(|next| remove_folder(&next.path));
            }
            Action::Rotate => drop(self.upkeep.commit.ask_blocking(Request::Rotate)?),
            Action::TakeSnapshot => drop(self.snapshot()?),
            Action::CheckForgotten(from) => self.check_forgotten(from)?,
            Action::NoteErased => std::fs::remove_file(self.erasing()).map_err(failed)?,
            Action::VerifySnapshots => {
                self.know_snapshots()?;
                return Ok(Event::Snapshots(self.kept.len()));
            }
            Action::RemoveSnapshots(kept) => {
                for old in self.kept.drain(kept..) {
                    self.snapshots.remove(old.number).map_err(failed)?;
                }
            }
            Action::TakeCheckpoint => self.upkeep.checkpoint()?,
            Action::ReadCheckpoint => return Ok(self.last_checkpoint()?.map_or(Event::Done, Event::Marked)),
            Action::RetireJournal(mark) => {
                let kept = self.kept.iter().map(|kept| &kept.checkpoint);
                if let Some(from) = journal_needed(kept.chain([&mark])) {
                    self.upkeep.commit.ask_blocking(Request::Retire(from))?;
                }
            }
            Action::RetireBatches(mark) => self.retire_spools(&mark)?,
            other => return desk.carry_out(other, hand),
        }
        Ok(Event::Done)
    }

    /// Publishes how much of the order of several nodes the newest snapshot covers.
    fn note_order_covered(&self) {
        let order = self.kept.first().and_then(|kept| kept.checkpoint.order.as_ref());
        let place = order.and_then(|order| order.place).unwrap_or_default();
        self.upkeep.shared.health.gauges.snapshot_order.store(place.offset.0, Ordering::Relaxed);
    }

    /// The checkpoint that a restart would begin from.
    fn last_checkpoint(&self) -> Result<Option<Checkpoint>, EngineError> {
        let generation = lock(&self.upkeep.generation);
        recovery::read_checkpoint(&generation.checkpoint_path()).map_err(failed)
    }

    /// Removes complete batches past their retention, if the store held them whole at both snapshots and at the checkpoint.
    fn retire_spools(&self, checkpoint: &Checkpoint) -> Result<(), EngineError> {
        let upkeep = &*self.upkeep;
        if upkeep.hold.left(upkeep.shared.clock.passed()).is_some() {
            return Ok(());
        }
        let (now, retention) = (upkeep.shared.now(), upkeep.shared.config().upkeep.retention_ms);
        let snapshots = self.kept.iter().map(|kept| &kept.checkpoint).chain([checkpoint]);
        let needless = batches_needless(&upkeep.shared.batches, snapshots, now, retention);
        if needless.is_empty() {
            return Ok(());
        }
        let ids: Vec<BatchId> = needless.iter().map(|known| known.accepted.id.clone()).collect();
        upkeep.shared.batches.forget(&ids);
        needless.iter().for_each(|known| upkeep.shared.spool.remove(known.accepted.spool));
        tracing::info!(batches = ids.len(), "the files of batches past their retention were removed");
        upkeep.shared.save_catalogue()?;
        // Keys last by the time of writes, which on several nodes is not this one's.
        let now = now.min(upkeep.commit.last_seq().millis());
        upkeep.shared.catalogue_saved(upkeep.shared.batches.tidy_catalogue(now))
    }

    /// Makes a fresh store, which removes every byte of erased visitors.
    fn compact(&mut self) -> Result<Done, EngineError> {
        let before = self.store_bytes();
        let erasure = self.upkeep.commit.take_oldest_erasure();
        let erased = self.erase_in_fresh_store().inspect_err(|_| {
            self.upkeep.commit.note_erasure(erasure);
        })?;
        self.store_bytes_when_fresh = self.store_bytes();
        let (store_bytes, live_bytes) = ((before, self.store_bytes_when_fresh), self.live_bytes);
        tracing::info!(from = before, to = store_bytes.1, live = live_bytes, erased, "made a fresh store");
        Ok(Done { store_bytes, live_bytes, erased, ..Done::default() })
    }

    /// Makes a fresh store, and returns the number of ids whose bytes were erased.
    fn erase_in_fresh_store(&mut self) -> Result<u64, EngineError> {
        let mut hand = InHand::default();
        self.run_machine(&mut FreshTask::default(), &mut hand)?;
        self.live_bytes = hand.live_bytes;
        if self.erasing().exists() {
            self.run_machine(&mut ForgetTask::default(), &mut InHand::default())?;
        }
        Ok(hand.erased.len() as u64)
    }

    /// This file exists while older files may hold the bytes of erased visitors.
    fn erasing(&self) -> PathBuf {
        self.upkeep.shared.data_folder.join(layout::ERASING)
    }

    fn begin_fresh(&self, next: &Generation) -> Result<(), EngineError> {
        let shared = &self.upkeep.shared;
        let store = rebuild::open_sled(&next.path, shared.config().store_cache_bytes()).map_err(failed)?;
        shared.store.begin(Arc::new(store));
        Ok(())
    }

    fn adopt(&mut self, next: &Generation, hand: &mut InHand) -> Result<Event, EngineError> {
        let Err(error) = self.stores.adopt(next) else { return Ok(Event::Done) };
        if !self.stores.names(next) {
            return Err(failed(error));
        }
        // A restart may find either store: both are whole as long as nothing more is written.
        let why = format!("the fresh store may or may not be in use: {error}");
        Ok(hand.failed_with(EngineError::Internal(why), Trouble::Uncertain))
    }

    /// Overwrites the rows of erased visitors in the kept uploads, and removes the stores and files that were set aside.
    fn overwrite(&self, erased: &Erased) -> Result<(), EngineError> {
        let shared = &self.upkeep.shared;
        shared.batches.each_held(|known| {
            let spool = &shared.spool;
            crate::engine::upkeep::erase::overwrite_rows(spool, &known.accepted, erased).map(drop).map_err(
                |error| failed(format!("{}: {error}", spool.rows_path(known.accepted.spool).display())),
            )
        })?;
        self.stores.remove_asides().map_err(failed)?;
        self.remove_damaged().map_err(failed)
    }

    /// Removes the damaged files that were kept: nothing can find the bytes of erased visitors in them.
    fn remove_damaged(&self) -> io::Result<()> {
        let kept = self.upkeep.shared.data_folder.join(layout::DAMAGED);
        match std::fs::remove_dir_all(&kept) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        self.snapshots.remove_damaged()
    }

    /// Fails if a kept snapshot still needs the journal before this position.
    fn check_forgotten(&self, from: Position) -> Result<(), EngineError> {
        let needs = self.kept.iter().map(|kept| kept.checkpoint.needs_journal_from()).min();
        if needs.is_none_or(|needs| needs < from) {
            let why = "an earlier batch is not applied yet and still needs the older journal: the erased visitors \
                       are gone from the store, and will be removed from the older files later";
            return Err(EngineError::NotYet(why.into()));
        }
        Ok(())
    }

    /// Waits until the batches that are pending now are complete. An erased visitor's tombstone must stay until every batch
    /// before it is applied.
    fn wait_for_pending_batches(&self) -> Result<(), EngineError> {
        let now = Seq::from_u64(self.upkeep.mark()?.last_seq);
        let until = Instant::now() + PENDING_WAIT;
        while Instant::now() < until
            && self.upkeep.shared.batches.oldest_pending().is_some_and(|oldest| oldest <= now)
        {
            self.upkeep.go_on()?;
            self.upkeep.shared.signals.wait(PENDING_LOOK);
        }
        Ok(())
    }
}

fn failed(why: impl std::fmt::Display) -> EngineError {
    EngineError::internal(why)
}

/// An error at a place that a caller named; but the reason why something was broken off is left as it is.
fn refused(error: io::Error) -> EngineError {
    error.downcast::<EngineError>().unwrap_or_else(|error| EngineError::Refused(error.to_string()))
}

fn remove_folder(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "an old store's folder could not be removed; the next start removes it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One failed task paused all tasks for ten minutes. So no file was removed from a full disk, and nobody was erased.
    #[test]
    fn a_failed_task_rests_alone_and_not_for_long() {
        let (mut rests, now) = (Rests::default(), Instant::now());
        let next = |rests: &Rests, at: Instant| {
            rests.next(&mut [(Kind::Snapshot, &mut || true), (Kind::Retire, &mut || true)], at)
        };
        assert_eq!(next(&rests, now), Some(Kind::Snapshot));
        rests.tried(Kind::Snapshot, false, now);
        assert_eq!(next(&rests, now), Some(Kind::Retire), "the next task has its turn");
        assert_eq!(next(&rests, now + REST_FIRST), Some(Kind::Snapshot));
        rests.tried(Kind::Snapshot, false, now);
        assert_eq!(
            next(&rests, now + REST_FIRST),
            Some(Kind::Retire),
            "it rests longer after the second failure"
        );
        for _ in 0..20 {
            rests.tried(Kind::Snapshot, false, now);
        }
        assert_eq!(next(&rests, now + REST_LAST), Some(Kind::Snapshot));
        rests.tried(Kind::Snapshot, true, now);
        assert_eq!(next(&rests, now), Some(Kind::Snapshot));
    }
}
