//! Checkpoints: the store is made durable, and beside it stands from where the journal goes on.
//!
//! Promises: a checkpoint is due every ten seconds, and whenever the journal has grown by 64 MiB. A store with damage gets none,
//! so that no start takes it for whole.

use crate::engine::driver::checkpoint::CheckpointTask;
use crate::engine::error::EngineError;
use crate::engine::open::store_folder::Generation;
use crate::engine::shared::thread_point;
use crate::engine::upkeep::state::Upkeep;
use crate::engine::upkeep::steps::{Desk, InHand, InUse, Keeper, PAGE_VALUES, run as run_machine};
use crate::engine::upkeep::sweep::Horizon;
use crate::journal::entry::Checkpoint;
use crate::model::id::ClientCode;
use crate::model::seq::Seq;
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
        let mut desk = Desk::new(self, PAGE_VALUES);
        let carry_out = |action, hand: &mut InHand| desk.carry_out(action, hand);
        match run_machine(&mut CheckpointTask::default(), &mut InHand::default(), carry_out) {
            Err(EngineError::Stopping) => Ok(()),
            done => {
                done?;
                self.shared.health.gauges.checkpoint_at.store(self.shared.now().0, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Keeper for Upkeep {
    type Place = Generation;

    fn in_use(&self) -> InUse<'_, Generation> {
        InUse { store: &self.shared.store, place: &self.generation, tombstones: &self.tombstones }
    }

    fn with_horizon<R>(&self, covered: Seq, with: impl FnOnce(Horizon<'_>) -> R) -> R {
        let lifetime_ms = |client: &ClientCode| self.shared.settings(client).ok().map(|it| it.lifetime_ms);
        let (now, batches) = (self.shared.now(), &self.shared.batches);
        with(Horizon { now, checkpoint: covered, batches, lifetime_ms: &lifetime_ms })
    }

    fn mark(&self) -> Result<Checkpoint, EngineError> {
        self.mark()
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.go_on()
    }

    fn note(&self, generation: &Generation, mark: &Checkpoint) -> io::Result<()> {
        Self::note(generation, mark)
    }

    fn distrust(&self, generation: &Generation, why: String) -> EngineError {
        self.distrust(generation, why)
    }

    fn give_up(&self, why: String) -> EngineError {
        self.shared.give_up(why)
    }
}
