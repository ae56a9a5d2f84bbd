//! Ends the hold of a batch whose upload differs from what was accepted: the client sends the file again, or an operator gives the batch
//! up.
//!
//! Promises: only the very file that was accepted ends the hold. The batch is then applied at its place in the order, as if nothing had
//! happened. What is given up is kept as it was in [`layout::DAMAGED`](crate::layout::DAMAGED), and all its rows count as failed. A crash
//! on the way leaves the batch held, repaired, or given up.

use crate::batch::pending::Pending;
use crate::engine::commit::replay;
use crate::engine::commit::{NewBatch, Request};
use crate::engine::error::{EngineError, OpenError, OrInternal};
use crate::engine::ingest::state::Ingest;
use crate::engine::open::salvage::{self, Replacement};
use crate::engine::shared::blocking;
use crate::engine::types::BatchStatus;
use crate::model::batch::BatchId;
use crate::sync::{Ordering, lock};
use std::sync::Arc;

impl Ingest {
    /// Gives up a batch that is held. Each of its rows counts as failed, and all other batches go on.
    pub(in crate::engine) async fn give_up_batch(
        self: &Arc<Self>,
        id: &BatchId,
    ) -> Result<BatchStatus, EngineError> {
        if self.commit.node().is_some() {
            return Err(EngineError::Refused(
                "a node of several cannot give a batch up, because the other nodes apply it: send its file again, or start this node \
                 with an empty folder, so that it gets everything from another node"
                    .into(),
            ));
        }
        let (ingest, batch) = (Arc::clone(self), id.clone());
        blocking(move || ingest.give_up(&batch)).await?;
        self.read.known_batch(id)
    }

    /// An error unless a batch is held.
    pub(in crate::engine) fn check_held(&self, id: &BatchId) -> Result<(), EngineError> {
        self.held_batch(id).map(|_| ())
    }

    fn held_batch(&self, id: &BatchId) -> Result<Arc<Pending>, EngineError> {
        let known = self.shared.batches.get(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))?;
        let pending = self.shared.batches.pending_by_seq(known.accepted.id.seq);
        let held = pending.filter(|pending| pending.held().is_some());
        let held = held.ok_or_else(|| EngineError::NotHeld(id.to_string()))?;
        if self.applying_batch.load(Ordering::SeqCst) == id.seq.get() {
            return Err(EngineError::NotYet(format!("batch {id} is just being let go of; try again")));
        }
        Ok(held)
    }

    fn give_up(&self, id: &BatchId) -> Result<(), EngineError> {
        let _one = lock(&self.replacing);
        let pending = self.held_batch(id)?;
        let failed = |error: OpenError| EngineError::internal(error);
        let replacement =
            salvage::keep_and_replace(&self.shared.data_folder, &pending.accepted, self.shared.now());
        let Replacement { kept, file, mut outcomes, entry } = replacement.map_err(failed)?;
        let counts = entry.end.counts;
        let given_up = self.shared.spool.give_up(pending.accepted.spool, &file, &mut outcomes);
        given_up.or_internal()?;
        self.commit.ask_blocking(Request::GiveUp(Box::new(entry)))?;
        self.shared.metrics.batch_complete(&id.client, &counts);
        tracing::warn!(batch = %id, kept = %kept.display(), "a batch was given up: all its rows count as failed");
        Ok(())
    }

    /// Puts the file of a held batch back in its place, as it was just sent.
    pub(in crate::engine) fn put_back(&self, id: &BatchId, sent: NewBatch) -> Result<(), EngineError> {
        let _one = lock(&self.replacing);
        let pending = self.held_batch(id)?;
        let accepted = &pending.accepted;
        let expected = self.shared.spool.sum(accepted.spool, &accepted.sum()).or_internal()?;
        let found = sent.sum();
        if found.bytes != expected.bytes || expected.crc32c.is_some_and(|sum| Some(sum) != found.crc32c) {
            return Err(EngineError::Refused(format!(
                "this is not the file of batch {id}: it has {found}, and that one has {expected}"
            )));
        }
        self.shared.spool.put_back(accepted.spool, sent.spool).or_internal()?;
        let index = self.shared.spool.index_path(accepted.spool);
        let again = self.shared.spool.recount_after(&index, || pending.open_again(expected, &index));
        let mut again = again.or_internal()?;
        if again.is_unjudged() {
            // Every visitor whom it may name waits until it is published, so no write comes between.
            again = replay::judge(again, &*self.shared.store).or_internal()?;
        }
        self.shared.batches.go_on_with(Arc::new(again));
        tracing::info!(batch = %id, "the file of a batch was sent again: it goes on");
        Ok(())
    }
}
