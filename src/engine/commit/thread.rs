//! The commit thread: takes what waits in the queue, has it committed, and answers.
//!
//! Promises: answers go out in the order of the requests, and only after the journal frame is on the disk.

use super::committer::Committer;
use super::request::{Answer, Request, VisitorWrite};
use crate::engine::shared::{Asked, Shared};
use crate::sync::Ordering;
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// The most requests that one group takes.
const GROUP_REQUESTS_MAX: usize = 512;
/// A checkpoint is due whenever the journal has grown by this much.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Commits requests until the queue is closed and empty, or the journal fails.
pub(in crate::engine) fn run(
    shared: &Shared,
    mut committer: Committer,
    mut queue: mpsc::Receiver<Asked<Request, Answer>>,
) {
    let mut asked = Vec::with_capacity(GROUP_REQUESTS_MAX);
    let mut at_checkpoint = 0;
    loop {
        shared.health.commit.idle();
        if queue.blocking_recv_many(&mut asked, GROUP_REQUESTS_MAX) == 0 {
            return;
        }
        shared.health.commit.beat();
        if shared.disk_space.for_writes().is_err() {
            asked = refuse_writes(shared, asked);
        }
        let (mut requests, mut replies): (VecDeque<_>, VecDeque<_>) = asked.drain(..).unzip();
        while !requests.is_empty() {
            // The requests may need several groups.
            shared.health.commit.beat();
            match committer.commit(&mut requests) {
                Ok(answers) => {
                    // A group may take only the first of the requests. The others stay in the queue for the next.
                    for answer in answers {
                        if let Some(reply) = replies.pop_front() {
                            // The caller may have gone. The write stands all the same.
                            drop(reply.send(answer));
                        }
                    }
                }
                Err(fatal) => {
                    shared.health.fail(&fatal);
                    return;
                }
            }
        }
        let journaled = committer.journaled.load(Ordering::Relaxed);
        if journaled - at_checkpoint >= CHECKPOINT_BYTES {
            at_checkpoint = journaled;
            shared.signals.checkpoint_is_due();
        }
    }
}

/// Answers the requests that need more of a disk that is nearly full, and gives back the others. Requests from inside finish
/// work that was begun, and an erasure or a removal makes space later.
fn refuse_writes(shared: &Shared, asked: Vec<Asked<Request, Answer>>) -> Vec<Asked<Request, Answer>> {
    let mut others = Vec::with_capacity(GROUP_REQUESTS_MAX);
    for (request, reply) in asked {
        let adds = match &request {
            Request::Site(..) | Request::Accept(_) => true,
            Request::Visitor(_, _, write, _) => matches!(write, VisitorWrite::Set(_)),
            _ => false,
        };
        match shared.disk_space.for_writes() {
            Err(full) if adds => drop(reply.send(Err(full))),
            _ => others.push((request, reply)),
        }
    }
    others
}
