//! What a start does before anything is served: it reads the journal from the last checkpoint on, and from the oldest incomplete batch
//! on for the outcomes of its rows, and brings the store up to it.
//!
//! `needs.rs` lists the files that it needs, and those that it can rebuild.
//!
//! Promises:
//! - Nothing that was acknowledged is missing afterwards.
//! - A batch that was complete is complete, with its counts, also while its rows are applied once more to a rebuilt store.
//! - A batch whose upload differs from what was accepted is held if its rows are still to be applied. All other batches go on.
//! - A store that reaches less far than its checkpoint says, or a batch's end behind that, is refused. It is rebuilt from the newest
//!   snapshot that verifies and the journal behind it.

use crate::batch::accepted::Accepted;
use crate::batch::accepted::SpoolName;
use crate::batch::catalogue::{self, Catalogue};
use crate::batch::checksum::UploadError;
use crate::batch::outcomes_file::Became;
use crate::batch::pending::Pending;
use crate::batch::progress::Known;
use crate::batch::queue::Batches;
use crate::batch::spool::Spool;
use crate::durable;
use crate::engine::commit::ordering::add_entry;
use crate::engine::commit::replay;
use crate::engine::error::OpenError;
use crate::engine::open::needs;
use crate::journal::entry::{
    BatchCompletedEntry, BatchGivenUpEntry, Checkpoint, Entry, OrderState, Resolved, ResolvedBundle,
    decode_checkpoint, decode_group, encode_checkpoint,
};
use crate::journal::log::{Log, LogSettings, Position, read_between};
use crate::layout;
use crate::model::batch::Outcome;
use crate::model::codec::CodecError;
use crate::model::seq::{Millis, Seq};
use crate::store::{ProfileStore, Reach, StoreError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Writes a checkpoint beside its store, so that whoever removes one removes the other.
pub fn write_checkpoint(path: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let mut bytes = vec![];
    encode_checkpoint(checkpoint, &mut bytes).map_err(io::Error::other)?;
    durable::replace_summed(path, "checkpoint", &bytes)
}

/// Reads the checkpoint, if there is one that verifies.
pub fn read_checkpoint(path: &Path) -> io::Result<Option<Checkpoint>> {
    let read = match durable::read_summed(path) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match decode_checkpoint(&bytes) {
            // It is intact, but a later program wrote it. An operator must decide.
            Err(error @ CodecError::Version { .. }) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, error));
            }
            decoded => decoded.map_err(|error| error.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(read
        .inspect_err(|why| {
            tracing::warn!(path = %path.display(), %why, "the checkpoint cannot be used: the store is rebuilt from the journal");
        })
        .ok())
}

/// What the journal says so far.
struct Replay<'s> {
    store: &'s dyn ProfileStore,
    /// The store has everything before this position.
    checkpoint: Position,
    /// Whether the store is being rebuilt. Then a batch counts as complete only once its rows are applied to it.
    rebuild: bool,
    last_seq: Seq,
    /// The batches that the checkpoint lists, and those that the journal has behind it.
    batches: BTreeMap<Seq, Batch>,
    /// Only if the catalogue is lost: the batches that the store had at the checkpoint, as far as the journal still has them.
    held: Option<BTreeMap<Seq, (Accepted, Option<BatchCompletedEntry>)>>,
    told: HashMap<Seq, Told>,
    /// How far the order of several nodes is applied; none on a single daemon.
    order: Option<OrderState>,
    written: u64,
    /// How far the store must reach to have what the checkpoint and the entries behind it say.
    reach: Reach,
}

/// The outcomes of a batch's rows that the journal tells.
#[derive(Debug, Default)]
pub(in crate::engine) struct Told {
    /// Outcomes of rows, with their lines.
    rows: Vec<(u32, Outcome)>,
    /// Outcomes of bundles, with the lines of their first rows.
    bundles: Vec<(u32, Became)>,
}

/// A batch in the journal.
struct Batch {
    accepted: Accepted,
    position: Position,
    /// Set once the store has all its rows.
    completed: Option<BatchCompletedEntry>,
    /// Set if it was complete once, perhaps in a store that is gone. Its outcomes stay.
    counted: Option<BatchCompletedEntry>,
    /// Whether a single daemon completed it, or the order of several nodes has its count: then it shows as complete.
    in_order: Option<BatchCompletedEntry>,
}

impl Batch {
    fn new(accepted: Accepted, position: Position) -> Self {
        Self { accepted, position, completed: None, counted: None, in_order: None }
    }
}

/// The result of a recovery.
pub struct Recovered {
    /// The journal, open at its end.
    pub log: Log,
    /// The batches. The incomplete ones are published.
    pub batches: Arc<Batches>,
    /// The uploads.
    pub spool: Arc<Spool>,
    /// The highest seq that was given out.
    pub last_seq: Seq,
    /// The farthest that a store has reached.
    pub reach: Reach,
    /// What is wrong with the catalogue, if it was found damaged.
    pub catalogue_damage: Option<catalogue::Damage>,
    /// How far the order of several nodes is applied; none on a single daemon.
    pub order: Option<OrderState>,
}

/// The point from which a store is brought up to the journal's end.
#[derive(Debug)]
pub enum StartFrom {
    /// The store has everything up to this checkpoint.
    Checkpoint(Checkpoint),
    /// The store has what this snapshot has. Batches that were completed behind it must be applied once more.
    Snapshot(Checkpoint),
    /// The store is empty.
    Nothing,
}

/// Reads the journal, brings the store up to it, and opens the pending batches.
pub fn recover(
    folder: &Path,
    store: &dyn ProfileStore,
    from: StartFrom,
    log_settings: LogSettings,
    spool_bytes_max: u64,
) -> Result<Recovered, OpenError> {
    let (rebuild, checkpoint) = match from {
        StartFrom::Checkpoint(checkpoint) => (false, checkpoint),
        StartFrom::Snapshot(checkpoint) => (true, checkpoint),
        StartFrom::Nothing => {
            (true, Checkpoint { position: Position::START.to_pair(), ..Checkpoint::default() })
        }
    };
    let damaged = folder.join(layout::DAMAGED);
    let catalogue_failed = |error| OpenError::Folder { path: folder.join(layout::CATALOGUE), error };
    let records = Batches::default();
    let opened =
        Catalogue::open(folder, checkpoint.catalogue, &damaged, |record| records.note_record(record));
    let (catalogue, damage) = opened.map_err(catalogue_failed)?;
    let batches = records.kept_in(catalogue);
    if let Some(damage) = &damage {
        tracing::error!("{damage}");
    }
    let mut replay = Replay {
        store,
        checkpoint: Position::from_pair(checkpoint.position),
        rebuild,
        last_seq: Seq::from_u64(checkpoint.last_seq),
        batches: BTreeMap::new(),
        order: checkpoint.order.clone(),
        held: damage.is_some().then(BTreeMap::new),
        told: HashMap::new(),
        written: 0,
        reach: Reach(checkpoint.store_reach),
    };
    let reaches = store.reach()?;
    if !rebuild {
        replay.is_reached_by(reaches)?;
    }
    let mut needed = checkpoint.needs_journal_from();
    if damage.is_some() {
        // The more of the journal is read, the more batches are found that the catalogue lost.
        needed = Position::first_in(&folder.join(layout::JOURNAL))?.map_or(needed, |first| first.min(needed));
    }
    let readable =
        |position, entry| Accepted::from_entry(entry).ok_or_else(|| OpenError::entry(position, "a batch"));
    for known in checkpoint.incomplete {
        let position = Position::from_pair(known.position);
        let seq = Seq::from_u64(known.accepted.seq);
        let accepted = readable(position, known.accepted)?;
        let batch = Batch {
            completed: known.applied,
            counted: known.completed.or(known.applied),
            in_order: known.completed.or(known.counted),
            ..Batch::new(accepted, position)
        };
        replay.batches.insert(seq, batch);
    }
    // An earlier program listed them in the checkpoint. From now on the catalogue has them.
    let mut held = vec![];
    for (entry, end) in checkpoint.complete {
        held.push((readable(Position::from_pair(checkpoint.position), entry)?, end));
    }

    let (log, torn) =
        Log::open(&folder.join(layout::JOURNAL), log_settings, needed, |start, _end, payload| {
            let entries = decode_group(payload).map_err(|error| OpenError::entry(start, error))?;
            entries.into_iter().try_for_each(|entry| replay.entry(start, entry))
        })?;
    if let Some(torn) = torn {
        tracing::info!(file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes, "cut off an append that a crash interrupted");
    }
    tracing::info!(entries = replay.written, batches = replay.batches.len(), "replayed the journal");
    if !rebuild {
        replay.is_reached_by(reaches)?;
    }
    let (last_seq, reach) = (replay.last_seq, replay.reach.max(reaches));
    let told = replay.held.take().into_iter().flatten();
    held.extend(told.filter_map(|(_, (accepted, end))| Some((accepted, end?))));
    let lost = damage.is_some().then_some(damaged.as_path());
    let order = replay.order.take();
    let spool = replay.publish(&batches, held, folder, spool_bytes_max, lost)?;
    Ok(Recovered { log, batches: Arc::new(batches), spool, last_seq, reach, catalogue_damage: damage, order })
}

impl Replay<'_> {
    /// An error if the store reaches less far than it must.
    fn is_reached_by(&self, store: Reach) -> Result<(), StoreError> {
        let (Reach(found), Reach(named)) = (store, self.reach);
        if found < named { Err(StoreError::Behind { found, named }) } else { Ok(()) }
    }

    fn entry(&mut self, start: Position, entry: Entry) -> Result<(), OpenError> {
        match entry {
            Entry::Write(write) => {
                self.last_seq = self.last_seq.max(Seq::from_u64(write.seq));
                note_resolved(&mut self.told, start, write.resolved, write.resolved_bundles)?;
                if start >= self.checkpoint {
                    self.written += 1;
                    replay::put_changes(self.store, start, write.changes)?;
                }
            }
            Entry::BatchAccepted(entry) => {
                let seq = Seq::from_u64(entry.seq);
                self.last_seq = self.last_seq.max(seq);
                let accepted =
                    Accepted::from_entry(entry).ok_or_else(|| OpenError::entry(start, "a batch"))?;
                if start < self.checkpoint && !self.batches.contains_key(&seq) {
                    // The store had it at the checkpoint, so the catalogue has it, if it is kept. The entry is still there
                    // because an older batch was incomplete.
                    if let Some(held) = &mut self.held {
                        held.insert(seq, (accepted, None));
                    }
                    return Ok(());
                }
                self.batches.entry(seq).or_insert(Batch::new(accepted, start));
            }
            Entry::BatchApplied(end) => self.applied(start, end),
            Entry::BatchCounted(end) => {
                self.in_order(end);
            }
            Entry::Order(order) => {
                // The checkpoint has what came before it, perhaps of another order since.
                if start >= self.checkpoint {
                    add_entry(self.order.get_or_insert_default(), order);
                }
            }
            Entry::BatchCompleted(end) => {
                self.applied(start, end);
                self.in_order(end);
            }
            Entry::BatchGivenUp(BatchGivenUpEntry { accepted, end }) => {
                let accepted =
                    Accepted::from_entry(accepted).ok_or_else(|| OpenError::entry(start, "a batch"))?;
                if let Some(batch) = self.batches.get_mut(&accepted.id.seq) {
                    (batch.accepted, batch.completed, batch.in_order) = (accepted, Some(end), Some(end));
                }
            }
        }
        Ok(())
    }

    /// The store that was in use then held all of a batch, and its outcomes are written.
    fn applied(&mut self, start: Position, end: BatchCompletedEntry) {
        let in_store = !self.rebuild && start >= self.checkpoint;
        self.reach = self.reach.max(Reach(end.store_reach));
        if let Some(batch) = self.batches.get_mut(&Seq::from_u64(end.seq)) {
            batch.counted = Some(end);
            if in_store {
                batch.completed = Some(end);
            }
        }
    }

    /// A batch shows as complete from here on, also if only this entry tells of it because the catalogue is damaged.
    fn in_order(&mut self, end: BatchCompletedEntry) {
        let seq = Seq::from_u64(end.seq);
        if let Some(batch) = self.batches.get_mut(&seq) {
            batch.in_order = Some(end);
        } else if let Some((_, held)) = self.held.as_mut().and_then(|held| held.get_mut(&seq)) {
            *held = Some(end);
        }
    }

    /// Opens the spool and the files of the incomplete batches, and publishes these in seq order. Notes the complete ones. If
    /// the catalogue was damaged, uploads that no batch names are kept in `lost`.
    fn publish(
        mut self,
        batches: &Batches,
        held: Vec<(Accepted, BatchCompletedEntry)>,
        folder: &Path,
        spool_bytes_max: u64,
        lost: Option<&Path>,
    ) -> Result<Arc<Spool>, OpenError> {
        let mut named: HashSet<SpoolName> = self.batches.values().map(|batch| batch.accepted.spool).collect();
        named.extend(held.iter().map(|(accepted, _)| accepted.spool));
        let every = |known: Known| {
            named.insert(known.accepted.spool);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = batches.each_held(every);
        let spool_folder = folder.join(layout::SPOOL);
        let opened = Spool::open_listing(&spool_folder, spool_bytes_max, &named, lost);
        let (spool, there) = opened.map_err(|error| OpenError::Folder { path: spool_folder, error })?;
        let batches_of = std::mem::take(&mut self.batches);
        let done = held.into_iter().chain(batches_of.values().filter_map(|batch| {
            let end = batch.completed.and(batch.in_order)?;
            Some((batch.accepted.clone(), end))
        }));
        for (accepted, end) in done.collect::<Vec<_>>() {
            let accepted = Arc::new(accepted);
            if there.contains(&accepted.spool) {
                batches.note_complete(&accepted, end.counts, Millis(end.at_ms));
            } else {
                // It is past its retention. Its files were removed after this checkpoint or snapshot.
                batches.note_key_of_forgotten(&accepted, end.counts, Millis(end.at_ms));
            }
        }
        batches.forget_without(&there);
        for (seq, Batch { accepted, position, completed, counted, in_order }) in batches_of {
            match (completed, in_order) {
                (Some(_), Some(_)) => continue,
                (Some(end), None) => {
                    batches.publish_applied(&Arc::new(accepted), position, end);
                    continue;
                }
                (None, _) => {}
            }
            let told = self.told.remove(&seq).unwrap_or_default();
            let mut pending = reopen(&spool, accepted, counted.is_some(), told)?;
            if pending.is_unjudged() {
                pending = replay::judge(pending, self.store)?;
            }
            let pending = Arc::new(pending);
            match in_order {
                Some(end) if pending.is_on_record() => batches.publish_again(pending, position, &end),
                // Another node has counted it. Its outcomes were never known here, or were lost before they were.
                Some(end) if counted.is_none() => batches.publish_counted(pending, position, &end),
                _ => batches.publish(pending, position),
            }
        }
        Ok(Arc::new(spool))
    }
}

/// Opens the files of a batch whose rows the store lacks. `counted` says that it was complete once. If the upload differs
/// from what was accepted, the batch is held. If the batch was complete and its outcomes are lost, it is
/// [unjudged](Pending::is_unjudged): unless it is held, whoever publishes it judges it first.
pub(in crate::engine) fn reopen(
    spool: &Spool,
    accepted: Accepted,
    counted: bool,
    told: Told,
) -> Result<Pending, OpenError> {
    let name = accepted.spool;
    let (rows, index, outcomes) = (spool.rows_path(name), spool.index_path(name), spool.outcomes_path(name));
    let batch = Box::new(accepted.clone());
    let failed = |error| OpenError::Batch { batch: batch.clone(), error };
    let mut on_record = None;
    if counted {
        let read = needs::outcomes(&outcomes);
        on_record = read.map_err(|error| failed(UploadError::of(&outcomes)(error)))?;
    }
    // If the outcomes are kept, nothing else is needed, and rows of the file may be overwritten by now.
    let bundles = if on_record.is_some() { vec![] } else { told.bundles };
    let verified = if counted {
        // A crash may have left its index, which would still have the rows that are overwritten.
        spool.verify(name, &accepted.sum())
    } else {
        spool.verify_beside_index(name, &accepted.sum())
    };
    let pending = match verified {
        Err(error) if error.is_lost() => {
            let outcomes_gone = counted && on_record.is_none();
            Pending::open_damaged(
                accepted,
                &error,
                outcomes_gone,
                &rows,
                (!counted).then_some(&*index),
                bundles,
            )
        }
        verified => {
            let sum = verified.map_err(failed)?;
            let opened = || Pending::open(accepted, sum, &rows, &index, bundles);
            let opened = spool.recount_after(&index, opened);
            let pending = opened.map_err(|error| failed(UploadError::of(&rows)(error)))?;
            if counted && on_record.is_none() { pending.unjudged() } else { pending }
        }
    };
    if let Some(not_updated) = on_record {
        return Ok(pending.with_outcomes(not_updated));
    }
    for (line, outcome) in told.rows {
        pending.resolved_before(line, outcome);
    }
    Ok(pending)
}

/// What is wrong with the upload of each held batch. A daemon serves all other batches, but a check must report it.
pub(in crate::engine) fn held(batches: &Batches, spool: &Spool) -> Vec<OpenError> {
    let all = batches.all_pending().into_iter().filter(|(pending, _)| pending.held().is_some());
    let told = all.filter_map(|(pending, _)| {
        let accepted = &pending.accepted;
        let error = spool.verify_beside_index(accepted.spool, &accepted.sum()).err()?;
        Some(OpenError::Batch { batch: Box::new((**accepted).clone()), error })
    });
    told.collect()
}

/// The outcomes of these batches' rows that the journal has between two positions.
pub(in crate::engine) fn told_between(
    journal: &Path,
    from: Position,
    to: Position,
    of: &HashSet<Seq>,
) -> Result<HashMap<Seq, Told>, OpenError> {
    let mut told = HashMap::new();
    read_between(journal, from, to, |start, _end, payload| {
        for entry in decode_group(payload).map_err(|error| OpenError::entry(start, error))? {
            if let Entry::Write(write) = entry {
                note_resolved(&mut told, start, write.resolved, write.resolved_bundles)?;
                told.retain(|seq, _| of.contains(seq));
            }
        }
        Ok::<_, OpenError>(())
    })?;
    Ok(told)
}

fn note_resolved(
    told: &mut HashMap<Seq, Told>,
    start: Position,
    rows: Vec<Resolved>,
    bundles: Vec<ResolvedBundle>,
) -> Result<(), OpenError> {
    let readable = |number| Outcome::from_number(number).ok_or_else(|| OpenError::entry(start, "an outcome"));
    for row in rows {
        let outcome = readable(row.outcome)?;
        told.entry(Seq::from_u64(row.batch)).or_default().rows.push((row.line, outcome));
    }
    for bundle in bundles {
        let mut became = Became::default();
        for (rows, outcome) in bundle.became {
            became.push(rows, readable(outcome)?);
        }
        told.entry(Seq::from_u64(bundle.batch)).or_default().bundles.push((bundle.first, became));
    }
    Ok(())
}
