//! The commit thread: takes what waits in the queue, has it committed, and answers.
//!
//! Promises: answers go out in the order of the requests, and only after the journal frame is on the disk.

use super::committer::Committer;
use super::node::Node;
use super::reply::Asked;
use crate::engine::commit::taking::{CheckpointDue, Group};
use crate::engine::error::EngineError;
use crate::engine::shared::Shared;
use crate::sync::Ordering;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The most requests that one group takes.
const GROUP_REQUESTS_MAX: usize = 512;

/// Commits requests until the queue is closed and empty, or the journal fails.
pub(in crate::engine) fn run(
    shared: &Shared,
    mut committer: Committer,
    mut queue: mpsc::Receiver<Asked>,
    node: Option<Arc<Node>>,
) {
    let mut asked = Vec::with_capacity(GROUP_REQUESTS_MAX);
    let mut checkpoint = CheckpointDue::default();
    // A node that stops while it waits to apply a request of the order applies no later one either.
    let mut left_the_order = false;
    loop {
        shared.health.commit.idle();
        if queue.blocking_recv_many(&mut asked, GROUP_REQUESTS_MAX) == 0 {
            return;
        }
        shared.health.commit.beat();
        let mut group = Group::of(asked.drain(..));
        if let Err(EngineError::Full(why)) = shared.disk_space.for_writes() {
            for reply in group.take_out_writes() {
                reply.send(Err(EngineError::Full(why.clone())));
            }
        }
        if left_the_order {
            group.leave_placed();
        }
        while !group.is_empty() {
            // The requests may need several groups.
            shared.health.commit.beat();
            let placed = group.placed();
            match group.commit(|requests| committer.commit(requests)) {
                Ok(answers) => {
                    let applied = placed - group.placed();
                    let stands = group.placed() > 0 && applied == 0;
                    if let (Some(node), Some(up_to), false) =
                        (&node, committer.order.as_ref().and_then(|order| order.up_to()), stands)
                    {
                        node.progress.note_applied(applied, up_to);
                    }
                    answers.into_iter().for_each(|(reply, answer)| reply.send(answer));
                    if stands && shared.signals.is_stopping() {
                        left_the_order = true;
                        group.leave_placed();
                    } else if stands {
                        let came = std::iter::from_fn(|| queue.try_recv().ok());
                        group.let_own_go_first(came.take(GROUP_REQUESTS_MAX));
                    }
                }
                Err(fatal) => {
                    shared.health.fail(&fatal);
                    return;
                }
            }
        }
        if checkpoint.is_due(committer.journaled.load(Ordering::Relaxed)) {
            shared.signals.checkpoint_is_due();
        }
    }
}
