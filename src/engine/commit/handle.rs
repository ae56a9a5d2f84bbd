//! How the other rooms reach the commit thread.
//!
//! Promises: who gets an answer knows that the request is durable and readable; when the daemon stops, nobody waits for ever.

use super::committer::Committer;
use super::request::{Answer, Request, WriteRules};
use crate::config::ClientSettings;
use crate::engine::error::EngineError;
use crate::engine::shared::Asked;
use crate::engine::types::Written;
use crate::model::seq::{Millis, Seq};
use crate::sync::{AtomicU64, Ordering};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How many requests may wait for the commit thread. Further callers wait until there is room in the queue.
const REQUESTS_WAITING_MAX: usize = 4096;

/// The other end of the commit thread's queue, and the counters that it publishes.
pub(in crate::engine) struct CommitHandle {
    /// The queue. None once the daemon has stopped: the thread ends when it has answered what is in the queue.
    requests: ArcSwapOption<mpsc::Sender<Asked<Request, Answer>>>,
    /// Everything that was written up to this seq is readable.
    last_seq: Arc<AtomicU64>,
    /// The bytes that were journaled since the start.
    journaled: Arc<AtomicU64>,
    /// When the oldest erasure was whose bytes are not gone yet (R12), in milliseconds; the greatest number if there is none.
    oldest_erasure: Arc<AtomicU64>,
}

impl CommitHandle {
    /// A handle of this committer, and the queue for its thread.
    pub(in crate::engine) fn new(committer: &Committer) -> (Self, mpsc::Receiver<Asked<Request, Answer>>) {
        let (requests, queue) = mpsc::channel(REQUESTS_WAITING_MAX);
        let handle = Self {
            requests: ArcSwapOption::from_pointee(requests),
            last_seq: Arc::clone(&committer.last_seq),
            journaled: Arc::clone(&committer.journaled),
            oldest_erasure: Arc::clone(&committer.oldest_erasure),
        };
        (handle, queue)
    }

    /// Asks the commit thread.
    pub(in crate::engine) async fn ask(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.queue()?.send((request, reply)).await.map_err(|_| EngineError::Stopping)?;
        answer.await.map_err(|_| EngineError::Stopping)?
    }

    /// Asks the commit thread, from a thread that may block.
    pub(in crate::engine) fn ask_blocking(&self, request: Request) -> Result<Answer, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.queue()?.blocking_send((request, reply)).map_err(|_| EngineError::Stopping)?;
        answer.blocking_recv().map_err(|_| EngineError::Stopping)?
    }

    /// Takes no further requests. The thread answers those that wait, and ends.
    pub(in crate::engine) fn close(&self) {
        self.requests.store(None);
    }

    /// How many requests wait.
    pub(in crate::engine) fn waiting(&self) -> u64 {
        self.queue().map_or(0, |queue| (REQUESTS_WAITING_MAX - queue.capacity()) as u64)
    }

    /// The seq up to which everything that was written is readable.
    pub(in crate::engine) fn last_seq(&self) -> Seq {
        Seq::from_u64(self.last_seq.load(Ordering::Acquire))
    }

    /// The bytes that were journaled since the start.
    pub(in crate::engine) fn journaled(&self) -> u64 {
        self.journaled.load(Ordering::Relaxed)
    }

    /// When the oldest erasure was whose bytes are not gone yet.
    pub(in crate::engine) fn oldest_erasure(&self) -> Millis {
        Millis(self.oldest_erasure.load(Ordering::Acquire))
    }

    /// Notes an erasure whose bytes are not gone yet.
    pub(in crate::engine) fn note_erasure(&self, at: Millis) {
        self.oldest_erasure.fetch_min(at.0, Ordering::AcqRel);
    }

    /// Takes the oldest erasure: whoever takes it sees to it that the bytes go, or notes it again.
    pub(in crate::engine) fn take_oldest_erasure(&self) -> Millis {
        Millis(self.oldest_erasure.swap(u64::MAX, Ordering::AcqRel))
    }

    fn queue(&self) -> Result<Arc<mpsc::Sender<Asked<Request, Answer>>>, EngineError> {
        self.requests.load_full().ok_or(EngineError::Stopping)
    }
}

impl WriteRules {
    /// The rules for a call of this client that comes in now (R4).
    pub(in crate::engine) fn of(client: &ClientSettings, max_profile_bytes: usize) -> Self {
        Self { lifetime_ms: client.lifetime_ms, max_profile_bytes }
    }
}

impl Answer {
    /// The write that this is the answer to.
    pub(in crate::engine) fn written(self) -> Result<Written, EngineError> {
        match self {
            Self::Written(written) | Self::Erased(written, _) => Ok(written),
            other => Err(EngineError::internal(format!("a write was answered with {other:?}"))),
        }
    }
}
