//! Making the store again beside the one in use, where that turns out to be damaged while it serves.
//!
//! ```text
//! fill       a fresh generation from the newest snapshot that verifies, and what the journal says behind it, while the
//!            damaged store serves what can be read of it; folding waits, so the journal has every change
//! again      batches that were complete behind the snapshot: the fresh store lacks their rows, for folding is not
//!            journaled. What became of their rows is on record, and they stay complete for whoever asks
//! take over  between two commit groups: the rest of the journal, these batches pending once more, the fresh store used
//! adopt      it is made durable, and from then on a restart finds it; the damaged one is set aside
//! ```
//!
//! Promises: nobody is shown an older value: what cannot be read is refused until then. From the moment this begins a
//! restart makes the store again, too. Where it cannot be done, all goes on as it was, and it is said why.

use super::commit::{Again, Answer, MadeAgain, Request, Shared};
use super::heal::{self, Opening};
use super::recovery::{StartFrom, redo};
use super::steps::Keeper;
use super::store_folder::{Generation, StoreFolder};
use super::{AppError, Inner, OpenError};
use crate::batch::outcome::read_outcomes;
use crate::batch::pending::Pending;
use crate::batch::queue::Known;
use crate::durable::sync_folder;
use crate::journal::entry::{BatchCompletedEntry, Checkpoint};
use crate::journal::log::Position;
use crate::journal::snapshot::Snapshots;
use crate::store::{ProfileStore, Reach};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The rest of the journal is read between two commit groups once it has no more writes than these …
const REST_WRITES: u64 = 1000;
/// … or has been read this often without ever becoming so short.
const READS_MAX: usize = 20;

/// Whether the store is being made again, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Remaking {
    on: AtomicBool,
    done: AtomicU64,
    at: Opening,
    /// Why it could not be done the last time, if it could not.
    failed: Mutex<Option<String>>,
}

impl Remaking {
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// How often it was done.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self, why: String) {
        *lock(&self.failed) = Some(why);
    }

    /// For whoever asks whether the daemon serves.
    pub(super) fn tells(&self, damage: &str) -> String {
        let failed = lock(&self.failed).clone();
        match failed {
            _ if self.is_on() => format!("{damage}; {}", self.at.at()),
            Some(why) => format!("{damage}; it could not be made again: {why}"),
            None => format!("{damage}; it is about to be made again"),
        }
    }

    fn begin(&self) -> On<'_> {
        *lock(&self.failed) = None;
        self.at.say("the store is made again".into());
        self.on.store(true, Ordering::Release);
        On(self)
    }
}

/// Ends it, however it ends.
struct On<'r>(&'r Remaking);

impl Drop for On<'_> {
    fn drop(&mut self) {
        self.0.on.store(false, Ordering::Release);
    }
}

/// Makes the store again, for this reason.
pub(super) fn run(
    inner: &Inner,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    why: &str,
) -> Result<(), AppError> {
    inner.go_on()?;
    let began = Instant::now();
    let _on = inner.remaking.begin();
    let _folding = lock(&inner.folding);
    let damaged = lock(&inner.generation).clone();
    match std::fs::remove_file(damaged.checkpoint_path()).and_then(|()| sync_folder(&damaged.path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(AppError::internal(error)),
        _ => {}
    }
    let next = stores.begin().map_err(AppError::internal)?;
    match fill_and_take_over(inner, stores, snapshots, &next) {
        Ok(before) => drop(before),
        Err(error) => {
            if inner.failed.borrow().is_none() {
                drop(std::fs::remove_dir_all(&next.path));
            }
            return Err(error);
        }
    }
    inner.remaking.done.fetch_add(1, Ordering::Relaxed);
    let aside = stores.set_former_aside(&damaged, why).map_err(AppError::internal)?;
    let ms = began.elapsed().as_millis();
    tracing::warn!(%why, aside = %aside.display(), ms, "the store was made again beside the damaged one, which is set aside");
    Ok(())
}

fn fill_and_take_over(
    inner: &Inner,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    next: &Generation,
) -> Result<Arc<dyn ProfileStore>, AppError> {
    let store =
        heal::open_sled(&next.path, inner.config().store_cache_bytes()).map_err(AppError::internal)?;
    let store: Arc<dyn ProfileStore> = Arc::new(store);
    let go_on = || inner.go_on().map_err(OpenError::NotGoingOn);
    let snapshot = heal::newest_snapshot(snapshots, &*store, &inner.remaking.at, &go_on).map_err(told)?;
    let snapshot = match snapshot {
        StartFrom::Checkpoint(mark) | StartFrom::Snapshot(mark) => mark,
        StartFrom::Nothing => Checkpoint { position: Position::START.to_pair(), ..Checkpoint::default() },
    };
    inner.remaking.at.say("the store is made again: the journal behind the snapshot is read".into());
    let journal = inner.data_folder.join("journal");
    let mut position = Position::from_pair(snapshot.position);
    for _ in 0..READS_MAX {
        inner.go_on()?;
        let end = Position::from_pair(inner.mark()?.position);
        let writes = redo(&journal, position, end, &*store).map_err(told)?;
        position = end;
        if writes <= REST_WRITES {
            break;
        }
    }
    let again = lacking(inner, &snapshot)?;
    // Most of it now, and not while all checkpoints wait.
    store.checkpoint(Reach::default()).map_err(AppError::internal)?;
    inner.go_on()?;

    // The sweeper must not take a tombstone that it found needless before these batches were pending again.
    let _stay = inner.tombstones.stay();
    let mut generation = lock(&inner.generation);
    let made = MadeAgain { store: Shared(store), position, again };
    let before = match inner.ask_blocking(Request::TakeOver(Box::new(made)))? {
        Answer::TookOver(Shared(before)) => before,
        other => return Err(AppError::internal(format!("a store was answered with {other:?}"))),
    };
    *generation = next.clone();
    let mut mark = inner.mark()?;
    let reach = inner.store.make_durable().map_err(|error| inner.distrust(next, error))?;
    mark.store_reach = reach.0;
    let adopted = inner.note(next, &mark).and_then(|()| stores.adopt(next));
    // It is in use, and a restart would not find it: it makes the store again from the journal.
    adopted.map_err(|error| {
        inner.give_up(format!("the store that was made again could not be adopted: {error}"))
    })?;
    inner.tombstones.cover(&mark);
    Ok(before)
}

/// The batches whose rows a store lacks that has what a snapshot has and the journal says: those complete since.
fn lacking(inner: &Inner, snapshot: &Checkpoint) -> Result<Vec<Again>, AppError> {
    let mut again = vec![];
    inner.batches.each_held(|known| -> Result<(), AppError> {
        let seq = known.accepted.id.seq;
        let Some(at) = known.progress.completed().filter(|_| !snapshot.held(seq)) else { return Ok(()) };
        // Where its entry stands is known of one that the snapshot names; any other's stands behind the snapshot.
        let named = snapshot.incomplete.iter().find(|batch| batch.accepted.seq == seq.get());
        let position = named.map_or(snapshot.position, |batch| batch.position);
        let counts = known.progress.counts();
        let end = BatchCompletedEntry { seq: seq.get(), counts, at_ms: at.0, store_reach: 0 };
        let pending = pending_again(inner, &known)?;
        again.push(Again { pending, position: Position::from_pair(position), end });
        Ok(())
    })?;
    Ok(again)
}

fn pending_again(inner: &Inner, known: &Known) -> Result<Arc<Pending>, AppError> {
    let (accepted, spool) = (&known.accepted, &inner.spool);
    let failed =
        |error: &dyn std::fmt::Display| AppError::Internal(format!("batch {}: {error}", accepted.id));
    let (rows, index) = (spool.rows_path(accepted.spool), spool.index_path(accepted.spool));
    let outcomes = spool.outcomes_path(accepted.spool);
    let sum = spool.verify(accepted.spool, &accepted.sum()).map_err(|error| failed(&error))?;
    // Its outcomes are kept, so nothing else need tell of any row.
    let opened = || Pending::open((**accepted).clone(), sum, &rows, &index, vec![]);
    let opened = spool.recount_after(&index, opened);
    let pending = opened.map_err(|error| failed(&error))?;
    let not_updated = read_outcomes(&outcomes).map_err(|error| failed(&error))?;
    Ok(Arc::new(pending.with_outcomes(not_updated)))
}

/// What it came to where something could not be read that a start would need as well.
fn told(error: OpenError) -> AppError {
    match error {
        OpenError::NotGoingOn(error) => error,
        error => AppError::Internal(error.to_string()),
    }
}
