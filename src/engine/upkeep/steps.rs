//! The steps that checkpoints, snapshots and fresh stores are made of, and the order in which they are taken: by the
//! daemon's threads, by a schedule explorer that puts everything else between them, and one by one by other tests.
//!
//! Promises: the store beside a checkpoint, or a snapshot, has with the journal behind its mark all there was; a fresh
//! store takes the place of the one in use once a restart may find either; what a fresh store leaves out, and what is
//! removed of journal and uploads, no restart and no store made again can miss.

use crate::batch::queue::{Batches, Known};
use crate::batch::resolve::decoded;
use crate::durable::point;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::upkeep::erase::Erased;
use crate::engine::upkeep::sweep::Horizon;
pub use crate::engine::upkeep::tombstones::Tombstones;
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::journal::snapshot::{SnapshotError, SnapshotWriter, Snapshots, Summary, verify};
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::model::seq::Millis;
use crate::store::swap::SwapStore;
use crate::store::{ProfileStore, StoreError};
use crate::sync::{Mutex, lock};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Who takes the steps: the daemon, or a test.
pub trait Keeper {
    /// A store's place on the disk, with the checkpoint that speaks of it.
    type Generation;

    /// What a checkpoint, or a snapshot, that is begun now will cover. When it returns, the catalogue has on the disk what
    /// the mark leaves to it: the complete batches.
    fn mark(&self) -> Result<Checkpoint, EngineError>;

    /// An error if what takes long, and room, must not go on: the daemon is stopping, or the disk nearly full.
    fn go_on(&self) -> Result<(), EngineError>;

    /// Notes, beside a generation, that its store holds all that the mark covers; durable when it returns.
    fn note(&self, generation: &Self::Generation, mark: &Checkpoint) -> io::Result<()>;

    /// The store of this generation could not be made durable: nobody may go on with it.
    fn distrust(&self, generation: &Self::Generation, error: StoreError) -> EngineError;

    /// A restart may find either of two stores, and only one of them would be written to: nobody may go on.
    fn give_up(&self, why: String) -> EngineError;
}

/// The store in use.
pub struct InUse<'u, G> {
    /// The store.
    pub store: &'u SwapStore,
    /// Where it is. Locked from a checkpoint's mark until it is noted, and while a fresh store takes the place of this
    /// one, so that a checkpoint never comes to speak of another store.
    pub generation: &'u Mutex<G>,
    /// Which of its tombstones may go.
    pub tombstones: &'u Tombstones,
}

impl<G> InUse<'_, G> {
    /// Makes the store durable up to what the journal says now, and notes it.
    pub fn checkpoint(&self, keeper: &impl Keeper<Generation = G>) -> Result<(), EngineError> {
        let generation = lock(self.generation);
        let mut mark = keeper.mark()?;
        // What was acknowledged by then and did not get in is known by now.
        if let Some(why) = self.store.damage() {
            return Err(EngineError::NotYet(why));
        }
        let reach = self.store.make_durable().map_err(|error| keeper.distrust(&generation, error))?;
        mark.store_reach = reach.0;
        keeper.note(&generation, &mark).or_internal()?;
        self.tombstones.cover(&mark);
        Ok(())
    }

    /// Takes a snapshot, so many values at a time, and verifies it.
    pub fn snapshot(
        &self,
        keeper: &impl Keeper,
        snapshots: &Snapshots,
        page_values: usize,
    ) -> Result<Taken, EngineError> {
        let _stay = self.tombstones.stay();
        let mark = keeper.mark()?;
        let mut steps = SnapshotSteps::begin(snapshots, &mark).or_internal()?;
        while steps.page(self.store, page_values)? {
            keeper.go_on()?;
        }
        steps.finish().or_internal()
    }

    /// The erased visitors whose tombstones no pending batch comes before, so that a fresh store may leave them out.
    pub fn erased(
        &self,
        keeper: &impl Keeper,
        batches: &Batches,
        page_values: usize,
    ) -> Result<Erased, EngineError> {
        let (mut erased, mut after) = (Erased::default(), None);
        loop {
            let page = self.store.scan(after.as_ref(), page_values).or_internal()?;
            erased.find(&page, batches);
            keeper.go_on()?;
            match page.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(erased),
            }
        }
    }

    /// Fills a fresh store beside the one in use, so many values at a time, while both are written to. Gives the bytes
    /// of what was copied.
    pub fn fill(
        &self,
        keeper: &impl Keeper,
        next: Arc<dyn ProfileStore>,
        spent: &Spent<'_>,
        page_values: usize,
    ) -> Result<u64, EngineError> {
        self.store.begin(next);
        let mut live_bytes = 0;
        let mut keep = |key: &Key, value: &StoredBytes| -> Result<bool, StoreError> {
            let kept = !spent.leaves_out(key, value)?;
            if kept {
                live_bytes += (key.as_bytes().len() + value.as_slice().len()) as u64;
            }
            Ok(kept)
        };
        let mut after = None;
        loop {
            after = self.store.copy(after.as_ref(), page_values, &mut keep).or_internal()?;
            keeper.go_on()?;
            if after.is_none() {
                return Ok(live_bytes);
            }
        }
    }

    /// Has the fresh store, once it is filled, take the place of the one in use; gives back the store before it and
    /// where that is. `adopt` makes the fresh one what a restart finds.
    pub fn swap_in(
        &self,
        keeper: &impl Keeper<Generation = G>,
        next: G,
        adopt: impl FnOnce(&G) -> Result<(), EngineError>,
    ) -> Result<(Arc<dyn ProfileStore>, G), EngineError> {
        let mut generation = lock(self.generation);
        let mut mark = keeper.mark()?;
        // Both: until the swap, what a batch's end stands on must be in whichever store a restart finds.
        let reach = self.store.make_durable().map_err(|error| keeper.distrust(&generation, error))?;
        mark.store_reach = reach.0;
        keeper.note(&next, &mark).or_internal()?;
        self.store.ready().or_internal()?;
        adopt(&next)?;
        point("store-swap").map_err(|error| keeper.give_up(error.to_string()))?;
        let failed = |error| format!("the fresh store failed when it was in use already: {error}");
        let old = self.store.finish().map_err(|error| keeper.give_up(failed(error)))?;
        self.tombstones.cover(&mark);
        Ok((old, std::mem::replace(&mut *generation, next)))
    }
}

/// A snapshot being taken. While it is, all [`Tombstones`] stay.
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
    /// Its path.
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
    pub fn page(&mut self, store: &dyn ProfileStore, limit: usize) -> Result<bool, EngineError> {
        let page = store.scan(self.after.as_ref(), limit).or_internal()?;
        for (key, value) in &page {
            self.live_bytes += (key.as_bytes().len() + value.as_slice().len()) as u64;
            self.writer.push(key.as_bytes(), value.as_slice()).or_internal()?;
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
    /// Those of erased visitors, if none went back on it since.
    pub erased: &'h Erased,
    /// For those of swept ones.
    pub horizon: Horizon<'h>,
}

impl Spent<'_> {
    /// Whether this value is left out.
    pub fn leaves_out(&self, key: &Key, value: &StoredBytes) -> Result<bool, StoreError> {
        if !value.is_tombstone() {
            return Ok(false);
        }
        // Erased again since, the visitor has a tombstone that later batches may need.
        let through = decoded(key, value)?.through();
        let found = self.erased.at(key).is_some_and(|found| through <= found);
        Ok(found || self.horizon.reclaims_tombstone(key, value)?)
    }
}

/// From where the journal is needed by a restart or by a store made again from any of these.
pub fn journal_needed<'c>(checkpoints: impl IntoIterator<Item = &'c Checkpoint>) -> Option<Position> {
    checkpoints.into_iter().map(Checkpoint::needs_journal_from).min()
}

/// The complete batches past their retention that the store held whole at all these snapshots: their files may go. Of
/// each client the oldest, up to the first that must stay.
pub fn batches_needless<'c>(
    batches: &Batches,
    snapshots: impl IntoIterator<Item = &'c Checkpoint>,
    now: Millis,
    retention_ms: u64,
) -> Vec<Known> {
    let snapshots: Vec<&Checkpoint> = snapshots.into_iter().collect();
    batches.oldest_held(|known| {
        let over = known.progress.completed().is_some_and(|at| at.plus(retention_ms) <= now);
        over && snapshots.iter().all(|snapshot| snapshot.held(known.accepted.id.seq))
    })
}
