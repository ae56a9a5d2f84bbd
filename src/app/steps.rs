//! The steps that snapshots and fresh stores are made of: taken in a row by the housekeeping thread, and one by one by
//! tests that put everything else between them.
//!
//! Promises: a snapshot with the journal behind its mark has all there was; what a fresh store leaves out, and what is
//! removed of journal and uploads, no restart and no store made again can miss.

use super::AppError;
use super::sweep_thread::Horizon;
use crate::batch::outcome::BatchState;
use crate::batch::queue::{Batches, Known};
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::journal::snapshot::{SnapshotError, SnapshotWriter, Snapshots, Summary, verify};
use crate::model::id::{ClientCode, Key};
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::{Millis, Seq};
use crate::store::{ProfileStore, StoreError};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// A snapshot being taken. While it is, no tombstone may be taken out of the store: a batch that was incomplete at the
/// mark may need it in a store made from this snapshot, also if the batch is complete by now.
#[derive(Debug)]
pub struct SnapshotSteps {
    path: PathBuf,
    writer: SnapshotWriter,
    after: Option<Key>,
    live_bytes: u64,
}

/// A snapshot that was taken and verified.
#[derive(Debug)]
pub struct Taken {
    /// Where it is.
    pub path: PathBuf,
    /// From where the journal goes on.
    pub checkpoint: Checkpoint,
    /// What is in it.
    pub summary: Summary,
    /// The bytes of its keys and values.
    pub live_bytes: u64,
}

impl SnapshotSteps {
    /// Begins behind a mark: what the pages then lack stands in the journal behind it.
    pub fn begin(snapshots: &Snapshots, mark: &Checkpoint) -> Result<Self, SnapshotError> {
        let path = snapshots.next_path()?;
        let writer = SnapshotWriter::create(&path, mark)?;
        Ok(Self { path, writer, after: None, live_bytes: 0 })
    }

    /// Adds the next values, at most so many; false if there were none.
    pub fn page(&mut self, store: &dyn ProfileStore, limit: usize) -> Result<bool, AppError> {
        let page = store.scan(self.after.as_ref(), limit).map_err(AppError::internal)?;
        for (key, value) in &page {
            self.live_bytes += (key.as_bytes().len() + value.as_slice().len()) as u64;
            self.writer.push(key.as_bytes(), value.as_slice()).map_err(AppError::internal)?;
        }
        let last = page.into_iter().next_back();
        Ok(last.map(|(key, _)| self.after = Some(key)).is_some())
    }

    /// Gives it its name, and reads it again: only then does it count.
    pub fn finish(self) -> Result<Taken, SnapshotError> {
        let Self { path, writer, live_bytes, .. } = self;
        writer.finish()?;
        let (checkpoint, summary) = verify(&path)?;
        Ok(Taken { path, checkpoint, summary, live_bytes })
    }
}

/// What a fresh store leaves out: tombstones that have nothing left to keep out.
pub struct Spent<'h> {
    /// Of erased visitors, by what [`erased_in`] found.
    pub erased: &'h HashMap<Key, Seq>,
    /// For those of swept ones.
    pub horizon: Horizon<'h>,
}

impl Spent<'_> {
    /// Whether this value is left out.
    pub fn leaves_out(&self, key: &Key, value: &StoredBytes) -> Result<bool, StoreError> {
        if !value.is_tombstone() {
            return Ok(false);
        }
        // Born and erased again since, the visitor has a tombstone that later batches may need.
        let found = self.erased.get(key).is_some_and(|through| value.through() == Ok(*through));
        Ok(found || self.horizon.reclaims_tombstone(key, value)?)
    }
}

/// Of a page of a store, the tombstones of erased visitors that no pending batch comes before.
pub fn erased_in(page: &[(Key, StoredBytes)], batches: &Batches) -> Vec<(Key, Seq)> {
    let spent = |(key, value): &(Key, StoredBytes)| {
        let Ok(Stored::Tombstone { through, erased: true }) = value.decode() else { return None };
        let client = ClientCode::new(key.client()).ok()?;
        let none_before = batches.pending(&client).first().is_none_or(|b| b.accepted.id.seq > through);
        none_before.then(|| (key.clone(), through))
    };
    page.iter().filter_map(spent).collect()
}

/// From where the journal is needed by a restart or by a store made again from any of these.
pub fn journal_needed<'c>(checkpoints: impl IntoIterator<Item = &'c Checkpoint>) -> Option<Position> {
    checkpoints.into_iter().map(Checkpoint::needs_journal_from).min()
}

/// The complete batches past their retention that all these snapshots know as complete: their files may go.
pub fn batches_needless<'c>(
    batches: &Batches,
    snapshots: impl IntoIterator<Item = &'c Checkpoint>,
    now: Millis,
    retention_ms: u64,
) -> Vec<Known> {
    let complete = |snapshot: &Checkpoint| -> HashSet<u64> {
        let ended = snapshot.batches.iter().filter(|batch| batch.completed.is_some());
        ended.map(|batch| batch.accepted.seq).collect()
    };
    let covered: Vec<HashSet<u64>> = snapshots.into_iter().map(complete).collect();
    let needless = |known: &Known| {
        let BatchState::Complete(at) = known.progress.state() else { return false };
        let seq = known.accepted.id.seq.get();
        at.plus(retention_ms) <= now && covered.iter().all(|complete| complete.contains(&seq))
    };
    batches.all().into_iter().filter(needless).collect()
}
