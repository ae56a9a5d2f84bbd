//! Makes visible what the journal has made durable.
//!
//! Promises: between any two puts every lookup finds a state from before the request or from after it.

use super::committer::Committer;
use super::decided::{Decided, Put};
use super::request::{Again, Answer, MadeAgain, Shared};
use crate::batch::accepted::Accepted;
use crate::durable::point;
use crate::engine::commit::replay;
use crate::engine::commit::replay::redo;
use crate::engine::error::{EngineError, Fatal, OrInternal};
use crate::journal::entry::BatchGivenUpEntry;
use crate::journal::log::Position;
use crate::model::profile::StoredBytes;
use crate::model::seq::{Millis, Seq};
use crate::store::put_if_newer;
use std::sync::Arc;

impl Committer {
    /// Makes a durable request visible.
    pub(super) fn apply(
        &self,
        one: Decided,
        position: Position,
    ) -> Result<Result<Answer, EngineError>, Fatal> {
        for row in &one.resolved {
            if let Some(pending) = self.batches.pending_by_seq(row.batch) {
                pending.resolve(row.line, row.outcome);
            }
        }
        for bundle in one.resolved_bundles {
            if let Some(pending) = self.batches.pending_by_seq(bundle.batch) {
                pending.resolve_bundle(bundle.first, bundle.became);
            }
        }
        for Put { key, was, now } in one.puts {
            // Before anybody can find it gone: it is no visitor's own key any more.
            if !now.is_profile() {
                self.active.forget(&key);
            }
            debug_assert!(!falls(was.as_ref(), &now), "the applied seq of a value must never fall");
            point("put").map_err(Fatal::new)?;
            match put_if_newer(&*self.store, &key, was, &now) {
                // The journal has the value, so the rebuilt store will have it too.
                Err(error) if error.is_damage() => {
                    if !self.store.lose(&key, &error) {
                        return Err(Fatal::new(error));
                    }
                }
                put => put.map_err(Fatal::new)?,
            }
        }
        if let Some((key, seq)) = one.active {
            self.active.note(key, seq);
        }
        if let Some((pending, _kept)) = one.publish {
            self.batches.publish(pending, position);
        }
        if let Some(BatchGivenUpEntry { accepted, end }) = one.given_up.map(|given_up| *given_up)
            && let Some(accepted) = Accepted::from_entry(accepted)
        {
            debug_assert_eq!(end.counts.failed, accepted.rows, "each row of batch {} must fail", accepted.id);
            self.batches.give_up(&accepted, end.counts, Millis(end.at_ms));
        }
        if let Some(end) = one.complete
            && let Some(pending) = self.batches.pending_by_seq(Seq::from_u64(end.seq))
        {
            debug_assert_eq!(
                end.counts.total(),
                pending.accepted.rows,
                "every row of batch {} must have one outcome",
                pending.accepted.id
            );
            self.batches.complete(&pending.accepted.id, end.counts, Millis(end.at_ms));
        }
        if let Some(end) = one.applied
            && !self.batches.applied(Seq::from_u64(end.seq), &end)
        {
            return Err(Fatal::new(format!(
                "the batch with seq {} came to {:?} here, and another node has counted it otherwise",
                end.seq, end.counts
            )));
        }
        if let Some(end) = one.counted {
            self.batches.counted(&end);
        }
        Ok(one.answer)
    }

    /// Puts a rebuilt store into use, once it holds all that the journal says. The next request is decided on it.
    pub(super) fn take_over(&self, made: MadeAgain) -> Result<Answer, EngineError> {
        let MadeAgain { store, position, again } = made;
        let redone = redo(self.log.folder(), position, self.log.end(), &*store.0);
        redone.or_internal()?;
        let mut judged = vec![];
        for Again { pending, position, end } in again {
            // This is rare, so writes may wait: no write may come between judging a batch and using the store.
            let pending = if pending.is_unjudged() {
                replay::judge(pending, &*store.0).or_internal()?
            } else {
                pending
            };
            judged.push((Arc::new(pending), position, end));
        }
        let publish = || {
            for (pending, position, end) in judged {
                if pending.is_on_record() {
                    self.batches.publish_again(pending, position, &end);
                } else {
                    self.batches.publish(pending, position);
                }
            }
        };
        Ok(Answer::TookOver(Shared(self.store.take_over(store.0, publish))))
    }
}

/// Whether a value would reach less far than the value that it replaces: rows would then be applied twice.
fn falls(was: Option<&StoredBytes>, now: &StoredBytes) -> bool {
    let applied = |value: &StoredBytes| value.applied_seq().ok();
    was.and_then(applied).is_some_and(|was| applied(now).is_some_and(|now| now < was))
}
