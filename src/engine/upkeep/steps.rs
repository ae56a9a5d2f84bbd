//! Carries out what the maintenance tasks (`src/engine/driver`) want of the store: for the daemon's threads, for the
//! schedule explorer that puts everything else between them, and one by one for the order tests.
//!
//! Promises: the journal after a snapshot's position has everything that the snapshot lacks. No restart and no rebuilt
//! store needs what a fresh store leaves out, or what is removed of journal and uploads.

use crate::batch::progress::Known;
use crate::batch::queue::Batches;
use crate::batch::resolve::decoded;
use crate::durable::point;
use crate::engine::driver::task::{Action, Event, Machine, OnStore, Trouble};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::upkeep::erase::Erased;
use crate::engine::upkeep::sweep::Horizon;
pub use crate::engine::upkeep::tombstones::Tombstones;
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::journal::snapshot::{SnapshotError, SnapshotWriter, Snapshots, Summary, verify};
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::model::seq::{Millis, Seq};
use crate::store::swap::SwapStore;
use crate::store::{ProfileStore, StoreError};
use crate::sync::{Mutex, MutexGuard, lock};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How many values the daemon reads at a time.
pub(in crate::engine) const PAGE_VALUES: usize = 512;

/// Carries out a task from its first action to its last. `carry_out` does each.
pub fn run(
    task: &mut dyn Machine,
    hand: &mut InHand,
    mut carry_out: impl FnMut(Action, &mut InHand) -> Result<Event, EngineError>,
) -> Result<(), EngineError> {
    let mut event = Event::Done;
    loop {
        match task.step(event) {
            Action::End { done: true } => return Ok(()),
            Action::End { done: false } => return Err(hand.take_error()),
            action => event = carry_out(action, hand).unwrap_or_else(|error| hand.failed(error)),
        }
    }
}

/// The owner of the store that tasks work on: the daemon, or a test with threads.
pub trait Keeper {
    /// A store's place on the disk, with its checkpoint.
    type Place;

    /// The store in use.
    fn in_use(&self) -> InUse<'_, Self::Place>;

    /// Calls `with` with the bounds of the tombstones that a fresh store may leave out, given what a checkpoint covers.
    fn with_horizon<R>(&self, covered: Seq, with: impl FnOnce(Horizon<'_>) -> R) -> R;

    /// What a checkpoint, or a snapshot, that begins now will cover. When it returns, the catalogue on the disk has what
    /// the position leaves to it: the complete batches.
    fn mark(&self) -> Result<Checkpoint, EngineError>;

    /// An error if long work must not go on: the daemon is stopping, or the disk is nearly full.
    fn go_on(&self) -> Result<(), EngineError>;

    /// Writes down, beside a place, that its store holds all that the checkpoint covers; durable when it returns.
    fn note(&self, place: &Self::Place, mark: &Checkpoint) -> io::Result<()>;

    /// The store of this place could not be made durable, so nobody may use it any more.
    fn distrust(&self, place: &Self::Place, why: String) -> EngineError;

    /// A restart may find either of two stores, and only one of them gets new writes. The daemon must stop.
    fn give_up(&self, why: String) -> EngineError;
}

/// The store in use.
pub struct InUse<'u, P> {
    /// The store.
    pub store: &'u SwapStore,
    /// Where it is. Locked by a task that must not meet another: see [`Action::LockStore`].
    pub place: &'u Mutex<P>,
    /// Which of its tombstones may go.
    pub tombstones: &'u Tombstones,
}

/// What a task holds while it runs. All is free again when it is dropped.
pub struct Desk<'k, K: Keeper> {
    keeper: &'k K,
    page_values: usize,
    locked: Option<MutexGuard<'k, K::Place>>,
    tombstones: Option<MutexGuard<'k, ()>>,
    /// Where the fresh store is.
    pub next: Option<K::Place>,
    /// Where the store before it is.
    pub former: Option<K::Place>,
}

impl<'k, K: Keeper> Desk<'k, K> {
    /// An empty desk, for a task that reads `page_values` values at a time.
    pub fn new(keeper: &'k K, page_values: usize) -> Self {
        Self { keeper, page_values, locked: None, tombstones: None, next: None, former: None }
    }

    /// Carries out the actions that are the same for every keeper.
    pub fn carry_out(&mut self, action: Action, hand: &mut InHand) -> Result<Event, EngineError> {
        let (keeper, in_use) = (self.keeper, self.keeper.in_use());
        match action {
            Action::LockStore => self.locked = Some(lock(in_use.place)),
            Action::UnlockStore => self.locked = None,
            Action::KeepTombstones => self.tombstones = Some(in_use.tombstones.stay()),
            Action::Mark => return Ok(Event::Marked(keeper.mark()?)),
            Action::OnStore(what) => return self.on_store(what, hand),
            Action::Note(mark) => keeper.note(self.locked()?, &mark).or_internal()?,
            Action::NoteFresh(mark) => keeper.note(self.next()?, &mark).or_internal()?,
            Action::Cover(last) => in_use.tombstones.cover(last),
            Action::Distrust => drop(keeper.distrust(self.locked()?, hand.why())),
            Action::GiveUp => drop(keeper.give_up(hand.why())),
            other => return Err(EngineError::internal(format!("nobody is there to carry out {other:?}"))),
        }
        Ok(Event::Done)
    }

    fn on_store(&mut self, what: OnStore, hand: &mut InHand) -> Result<Event, EngineError> {
        let (keeper, swaps, page_values) = (self.keeper, what == OnStore::SwapIn, self.page_values);
        let InUse { store, tombstones, .. } = keeper.in_use();
        let event = keeper.with_horizon(tombstones.covered(), |horizon| {
            let (go_on, left_out) = (&|| keeper.go_on(), &|_: &_| ());
            hand.carry_out(what, &On { store, horizon, page_values, go_on, left_out })
        })?;
        if swaps && let Some(next) = self.next.take() {
            self.former = Some(std::mem::replace(self.locked()?, next));
        }
        Ok(event)
    }

    /// Where the fresh store is.
    pub fn next(&self) -> Result<&K::Place, EngineError> {
        self.next.as_ref().ok_or_else(|| EngineError::internal("no fresh store was begun"))
    }

    fn locked(&mut self) -> Result<&mut K::Place, EngineError> {
        self.locked.as_deref_mut().ok_or_else(|| EngineError::internal("a task did not lock the store"))
    }
}

/// What a task has in hand between two actions.
#[derive(Default)]
pub struct InHand {
    /// The last key that was read.
    after: Option<Key>,
    snapshot: Option<SnapshotFile>,
    /// The snapshot, once it is verified.
    pub taken: Option<Taken>,
    /// The erased visitors whose bytes are to go.
    pub erased: Erased,
    /// The bytes of the keys and values that were copied.
    pub live_bytes: u64,
    /// The store that a fresh one took the place of.
    pub former: Option<Arc<dyn ProfileStore>>,
    /// Why an action could not be done.
    error: Option<EngineError>,
}

/// What a task works on.
pub struct On<'o> {
    /// The store in use.
    pub store: &'o SwapStore,
    /// What bounds the tombstones that a fresh store may leave out.
    pub horizon: Horizon<'o>,
    /// How many values are read at a time.
    pub page_values: usize,
    /// An error if long work must not go on: the daemon is stopping, or the disk is nearly full.
    pub go_on: &'o dyn Fn() -> Result<(), EngineError>,
    /// Called for each tombstone that a fresh store leaves out.
    pub left_out: &'o dyn Fn(&Key),
}

impl InHand {
    /// Records that an action failed.
    pub fn failed(&mut self, error: EngineError) -> Event {
        let trouble = Trouble::from(&error);
        self.failed_with(error, trouble)
    }

    /// Records that an action failed with a trouble that the error does not tell.
    pub fn failed_with(&mut self, error: EngineError, trouble: Trouble) -> Event {
        self.error = Some(error);
        Event::Failed(trouble)
    }

    /// Why an action failed, in full, for the log. A caller gets fewer details.
    fn why(&self) -> String {
        match &self.error {
            Some(EngineError::Internal(why)) => why.clone(),
            Some(error) => error.to_string(),
            None => String::new(),
        }
    }

    fn take_error(&mut self) -> EngineError {
        self.error
            .take()
            .unwrap_or_else(|| EngineError::internal("a task got an event that does not belong there"))
    }

    /// Begins a snapshot behind a checkpoint position: what the pages then lack stands in the journal behind it.
    pub fn begin_snapshot(&mut self, snapshots: &Snapshots, mark: &Checkpoint) -> Result<(), SnapshotError> {
        let path = snapshots.next_path()?;
        let writer = SnapshotWriter::create(&path, mark)?;
        self.snapshot = Some(SnapshotFile { path, writer });
        Ok(())
    }

    /// Does what a task wants of the store.
    pub fn carry_out(&mut self, what: OnStore, on: &On<'_>) -> Result<Event, EngineError> {
        let store = on.store;
        match what {
            OnStore::CheckDamage => match store.damage() {
                Some(why) => return Err(EngineError::NotYet(why)),
                None => return Ok(Event::Done),
            },
            OnStore::MakeDurable => {
                let reach = store.make_durable().map_err(|error| EngineError::Internal(error.to_string()))?;
                return Ok(Event::Durable(reach));
            }
            OnStore::SnapshotPage => return self.snapshot_page(on),
            OnStore::FinishSnapshot => {
                let file =
                    self.snapshot.take().ok_or_else(|| EngineError::internal("no snapshot was begun"))?;
                self.taken = Some(file.finish(self.live_bytes).or_internal()?);
            }
            OnStore::ErasedPage => return self.erased_page(on),
            OnStore::CountErased => return Ok(Event::Erased(self.erased.len())),
            OnStore::CopyPage => return self.copy_page(on),
            OnStore::CheckFresh => store.ready().or_internal()?,
            OnStore::SwapIn => {
                let failed = |error: &dyn std::fmt::Display| EngineError::Internal(error.to_string());
                point("store-swap").map_err(|error| failed(&error))?;
                let why =
                    |error| failed(&format!("the fresh store failed when it was in use already: {error}"));
                self.former = Some(store.finish().map_err(why)?);
            }
        }
        Ok(Event::Done)
    }

    fn snapshot_page(&mut self, on: &On<'_>) -> Result<Event, EngineError> {
        let file = self.snapshot.as_mut().ok_or_else(|| EngineError::internal("no snapshot was begun"))?;
        let page = on.store.scan(self.after.as_ref(), on.page_values).or_internal()?;
        for (key, value) in &page {
            self.live_bytes += (key.as_bytes().len() + value.as_slice().len()) as u64;
            file.writer.push(key.as_bytes(), value.as_slice()).or_internal()?;
        }
        self.go_on_after(page, on)
    }

    fn erased_page(&mut self, on: &On<'_>) -> Result<Event, EngineError> {
        let page = on.store.scan(self.after.as_ref(), on.page_values).or_internal()?;
        self.erased.find(&page, on.horizon.batches);
        self.go_on_after(page, on)
    }

    fn go_on_after(&mut self, page: Vec<(Key, StoredBytes)>, on: &On<'_>) -> Result<Event, EngineError> {
        self.after = page.into_iter().next_back().map(|(key, _)| key);
        let more = self.after.is_some();
        if more {
            (on.go_on)()?;
        }
        Ok(Event::Page { more })
    }

    fn copy_page(&mut self, on: &On<'_>) -> Result<Event, EngineError> {
        let spent = Spent { erased: &self.erased, horizon: &on.horizon };
        let mut live_bytes = 0;
        let mut keep = |key: &Key, value: &StoredBytes| -> Result<bool, StoreError> {
            let left_out = spent.leaves_out(key, value)?;
            if left_out {
                (on.left_out)(key);
            } else {
                live_bytes += (key.as_bytes().len() + value.as_slice().len()) as u64;
            }
            Ok(!left_out)
        };
        let after = on.store.copy(self.after.as_ref(), on.page_values, &mut keep);
        self.after = after.or_internal()?;
        self.live_bytes += live_bytes;
        (on.go_on)()?;
        Ok(Event::Page { more: self.after.is_some() })
    }
}

/// A snapshot's file while it is written.
struct SnapshotFile {
    path: PathBuf,
    writer: SnapshotWriter,
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

impl SnapshotFile {
    /// Names the file and verifies it. Only then does it count.
    fn finish(self, live_bytes: u64) -> Result<Taken, SnapshotError> {
        let Self { path, writer } = self;
        writer.finish()?;
        let (checkpoint, summary) = verify(&path)?;
        Ok(Taken { path, checkpoint, summary, live_bytes })
    }
}

/// The tombstones that a fresh store leaves out, because no row can come any more that they would keep out.
struct Spent<'h> {
    /// Those of erased visitors that were found before.
    erased: &'h Erased,
    /// The bounds for those of swept visitors.
    horizon: &'h Horizon<'h>,
}

impl Spent<'_> {
    /// Whether this value is left out.
    fn leaves_out(&self, key: &Key, value: &StoredBytes) -> Result<bool, StoreError> {
        if !value.is_tombstone() {
            return Ok(false);
        }
        // If the visitor was erased again since, later batches may need the new tombstone.
        let applied_seq = decoded(key, value)?.applied_seq();
        let found = self.erased.at(key).is_some_and(|found| applied_seq <= found);
        Ok(found || self.horizon.reclaims_tombstone(key, value)?)
    }
}

/// The journal position from which a restart, or a rebuild from any of these checkpoints, needs the journal.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller's message of an internal error refers to the log, so the log must have the reason.
    #[test]
    fn the_daemon_stops_with_the_reason_and_not_with_the_callers_message() {
        let mut hand = InHand::default();
        hand.failed_with(EngineError::Internal("either store".into()), Trouble::Uncertain);
        assert_eq!(hand.why(), "either store");
        assert_eq!(hand.failed(EngineError::Stopping), Event::Failed(Trouble::Stopping));
        assert_eq!(hand.why(), "the daemon is stopping");
    }
}
