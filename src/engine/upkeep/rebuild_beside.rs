//! Rebuilds a damaged store beside the one in use, while that one still serves.
//!
//! ```text
//! fill       a fresh generation from the newest snapshot that verifies and the journal behind it. The damaged store serves what can
//!            be read of it meanwhile. No rows are applied, so the journal has every change
//! again      batches that were applied behind the snapshot: the fresh store lacks their rows, because applying is not journaled.
//!            Their outcomes are on record, and those that were complete stay so for whoever asks. If their files are damaged, it is done as at a
//!            start: a batch without its upload is held, and one without its outcomes has them computed again
//! take over  between two commit groups: the rest of the journal, these batches pending once more, the fresh store in use
//! adopt      the fresh store is made durable, and a restart finds it from then on. The damaged one is set aside
//! ```
//!
//! Promises: nobody is shown an older value; what cannot be read is refused until the take-over. From the moment this begins a restart
//! rebuilds the store, too. If it cannot be done, everything goes on as before, and the reason is reported.

use crate::durable::sync_folder;
use crate::engine::commit::replay;
use crate::engine::commit::{Again, Answer, MadeAgain, Request, Shared};
use crate::engine::error::{EngineError, OpenError, OrInternal};
use crate::engine::open::needs;
use crate::engine::open::rebuild;
use crate::engine::open::recovery::{StartFrom, reopen, told_between};
use crate::engine::open::store_folder::{Generation, StoreFolder};
use crate::engine::upkeep::state::Upkeep;
use crate::journal::entry::{BatchCompletedEntry, Checkpoint};
use crate::journal::log::Position;
use crate::journal::snapshot::Snapshots;
use crate::layout;
use crate::model::seq::Seq;
use crate::store::{ProfileStore, Reach};
use crate::sync::lock;
use crate::telemetry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The rest of the journal is read between two commit groups once it has no more writes than these.
const REST_WRITES: u64 = 1000;
/// It is also read then once it was read this often without becoming so short.
const READS_MAX: usize = 20;

/// Rebuilds the store, for this reason.
pub(in crate::engine) fn run(
    upkeep: &Upkeep,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    why: &str,
) -> Result<(), EngineError> {
    upkeep.go_on()?;
    let began = Instant::now();
    let _running = upkeep.rebuild.begin();
    let _applying = lock(&upkeep.applying);
    let damaged = lock(&upkeep.generation).clone();
    match std::fs::remove_file(damaged.checkpoint_path()).and_then(|()| sync_folder(&damaged.path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(EngineError::internal(error)),
        _ => {}
    }
    let next = stores.begin().or_internal()?;
    match fill_and_take_over(upkeep, stores, snapshots, &next) {
        Ok(before) => drop(before),
        Err(error) => {
            if !upkeep.shared.health.has_failed() {
                drop(std::fs::remove_dir_all(&next.path));
            }
            return Err(error);
        }
    }
    upkeep.rebuild.note_done();
    let aside = stores.set_former_aside(&damaged, why).or_internal()?;
    let took_ms = telemetry::ms(began.elapsed());
    tracing::warn!(%why, aside = %aside.display(), took_ms, "the store was rebuilt beside the damaged one, which is set aside");
    Ok(())
}

fn fill_and_take_over(
    upkeep: &Upkeep,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    next: &Generation,
) -> Result<Arc<dyn ProfileStore>, EngineError> {
    let store = rebuild::open_sled(&next.path, upkeep.shared.config().store_cache_bytes()).or_internal()?;
    let store: Arc<dyn ProfileStore> = Arc::new(store);
    let go_on = || upkeep.go_on().map_err(OpenError::NotGoingOn);
    let snapshot = rebuild::newest_snapshot(snapshots, &*store, &upkeep.rebuild.progress, &go_on)
        .map_err(caller_error)?;
    let snapshot = match snapshot {
        StartFrom::Checkpoint(mark) | StartFrom::Snapshot(mark) => mark,
        StartFrom::Nothing => Checkpoint { position: Position::START.to_pair(), ..Checkpoint::default() },
    };
    upkeep.rebuild.progress.say("the store is being rebuilt: the journal after the snapshot is read".into());
    let journal = upkeep.shared.data_folder.join(layout::JOURNAL);
    let mut position = Position::from_pair(snapshot.position);
    for _ in 0..READS_MAX {
        upkeep.go_on()?;
        let end = Position::from_pair(upkeep.mark()?.position);
        let writes = replay::redo(&journal, position, end, &*store).map_err(caller_error)?;
        position = end;
        if writes <= REST_WRITES {
            break;
        }
    }
    let again = lacking(upkeep, &snapshot, position)?;
    // Most of it is made durable now, and not while all checkpoints wait.
    store.checkpoint(Reach::default()).or_internal()?;
    upkeep.go_on()?;

    // The sweeper may have found a tombstone needless before these batches were pending again. It must not take it now.
    let _stay = upkeep.tombstones.stay();
    let mut generation = lock(&upkeep.generation);
    let made = MadeAgain { store: Shared(store), position, again };
    let before = match upkeep.commit.ask_blocking(Request::TakeOver(Box::new(made)))? {
        Answer::TookOver(Shared(before)) => before,
        other => return Err(EngineError::internal(format!("a store was answered with {other:?}"))),
    };
    *generation = next.clone();
    let mut mark = upkeep.mark()?;
    let reach = upkeep.shared.store.make_durable().map_err(|error| upkeep.distrust(next, error))?;
    mark.store_reach = reach.0;
    let adopted = Upkeep::note(next, &mark).and_then(|()| stores.adopt(next));
    // The new store is in use, and a restart would not find it: the restart rebuilds the store from the journal.
    adopted
        .map_err(|error| upkeep.shared.give_up(format!("the rebuilt store could not be adopted: {error}")))?;
    upkeep.tombstones.cover(Seq::from_u64(mark.last_seq));
    Ok(before)
}

/// The batches whose rows a store lacks that was filled from a snapshot and the journal up to `end`: those applied since the
/// snapshot.
fn lacking(upkeep: &Upkeep, snapshot: &Checkpoint, end: Position) -> Result<Vec<Again>, EngineError> {
    let (mut complete, mut without_file) = (vec![], HashSet::new());
    upkeep.shared.batches.each_held(|known| -> Result<(), EngineError> {
        let seq = known.accepted.id.seq;
        if snapshot.held(seq) {
            return Ok(());
        }
        // What the order has not counted yet may be counted at any moment.
        let uncounted_at = upkeep.shared.batches.applied_at(seq);
        let at = uncounted_at.or_else(|| known.progress.completed()).unwrap_or_default();
        // The snapshot knows the position of the entries that it names. Any other entry stands behind the snapshot.
        let named = snapshot.incomplete.iter().find(|batch| batch.accepted.seq == seq.get());
        let position = named.map_or(snapshot.position, |batch| batch.position);
        let counts = known.progress.counts();
        let end = BatchCompletedEntry { seq: seq.get(), counts, at_ms: at.0, store_reach: 0 };
        let outcomes = upkeep.shared.spool.outcomes_path(known.accepted.spool);
        if needs::outcomes(&outcomes).or_internal()?.is_none() {
            without_file.insert(seq);
        }
        complete.push((known.accepted, Position::from_pair(position), end));
        Ok(())
    })?;
    let journaled = if without_file.is_empty() {
        Ok(HashMap::new())
    } else {
        let journal = upkeep.shared.data_folder.join(layout::JOURNAL);
        told_between(&journal, snapshot.needs_journal_from(), end, &without_file)
    };
    let mut journaled = journaled.map_err(caller_error)?;
    let again = complete.into_iter().map(|(accepted, position, end)| {
        let journaled = journaled.remove(&accepted.id.seq).unwrap_or_default();
        let pending =
            reopen(&upkeep.shared.spool, (*accepted).clone(), true, journaled).map_err(caller_error)?;
        Ok(Again { pending, position, end })
    });
    again.collect()
}

/// The caller's error for something that could not be read and that a start needs, too.
fn caller_error(error: OpenError) -> EngineError {
    match error {
        OpenError::NotGoingOn(error) => error,
        error => EngineError::Internal(error.to_string()),
    }
}
