//! Checkpoints: the store is made durable, and beside it stands from where the journal goes on.
//!
//! Promises: a checkpoint is due every ten seconds, and whenever the journal has grown by 64 MiB. A store with damage gets none,
//! so that no start takes it for whole.

use crate::engine::error::EngineError;
use crate::engine::open::store_folder::Generation;
use crate::engine::shared::thread_point;
use crate::engine::upkeep::state::Upkeep;
use crate::engine::upkeep::steps::{InUse, Keeper};
use crate::journal::entry::Checkpoint;
use crate::store::StoreError;
use crate::sync::Ordering;
use std::io;
use std::time::Duration;

/// A checkpoint is taken at least this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

/// Takes checkpoints until the daemon stops.
pub(in crate::engine) fn run(upkeep: &Upkeep) {
    loop {
        thread_point("checkpoint-thread");
        if !upkeep.shared.signals.wait_for_checkpoint(CHECKPOINT_EVERY) {
            return;
        }
        if let Err(error) = upkeep.checkpoint() {
            tracing::warn!(%error, "a checkpoint could not be taken");
        }
    }
}

impl Upkeep {
    /// Makes the store durable up to where the journal is now, and notes that. Does nothing if the daemon is stopping.
    pub(in crate::engine) fn checkpoint(&self) -> Result<(), EngineError> {
        self.shared.disk_space.for_checkpoints()?;
        if self.shared.store.damage().is_some() {
            return Ok(());
        }
        match self.in_use().checkpoint(self) {
            Err(EngineError::Stopping) => Ok(()),
            done => {
                done?;
                self.shared.health.gauges.checkpoint_at.store(self.shared.now().0, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// The store in use, for the steps of a task.
    pub(in crate::engine) fn in_use(&self) -> InUse<'_, Generation> {
        let (store, generation, tombstones) = (&self.shared.store, &self.generation, &self.tombstones);
        InUse { store, generation, tombstones }
    }
}

impl Keeper for Upkeep {
    type Generation = Generation;

    fn mark(&self) -> Result<Checkpoint, EngineError> {
        self.mark()
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.go_on()
    }

    fn note(&self, generation: &Generation, mark: &Checkpoint) -> io::Result<()> {
        Self::note(generation, mark)
    }

    fn distrust(&self, generation: &Generation, error: StoreError) -> EngineError {
        self.distrust(generation, error)
    }

    fn give_up(&self, why: String) -> EngineError {
        self.shared.give_up(why)
    }
}
