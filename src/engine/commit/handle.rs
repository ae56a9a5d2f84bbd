//! How the other rooms reach the commit thread.
//!
//! Promises: who gets an answer knows that the request is durable and readable; when the daemon stops, nobody waits for ever.

use super::active::Active;
use super::committer::{Committer, Readable};
use super::node::Node;
use super::reply::{Asked, ReplyTo};
use super::request::{Answer, NewBatch, Request, WriteRules};
use crate::config::ClientSettings;
use crate::engine::error::EngineError;
use crate::engine::types::Written;
use crate::model::seq::{Millis, Seq};
use crate::order::Offset;
use crate::order::pieces::UploadId;
use crate::sync::{AtomicU64, Ordering};
use arc_swap::ArcSwapOption;
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot, watch};

/// How many requests may wait for the commit thread. Further callers wait until there is room in the queue.
const REQUESTS_WAITING_MAX: usize = 4096;

/// An upload that was sent to all nodes: where its first and its last piece are.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct SentToAll {
    pub(in crate::engine) upload: UploadId,
    pub(in crate::engine) pieces: (Offset, Offset),
}

/// The other end of the commit thread's queue, and the counters that it publishes.
pub(in crate::engine) struct CommitHandle {
    /// The queue. None once the daemon has stopped: the thread ends when it has answered what is in the queue.
    requests: ArcSwapOption<mpsc::Sender<Asked>>,
    /// This node's part in the order of several. Unset on a single daemon.
    node: OnceLock<Arc<Node>>,
    /// Everything that was written up to this seq is readable.
    last_seq: Arc<AtomicU64>,
    /// The bytes that were journaled since the start.
    journaled: Arc<AtomicU64>,
    /// When the oldest erasure was whose bytes are not gone yet (R12), in milliseconds; the greatest number if there is none.
    oldest_erasure: Arc<AtomicU64>,
    /// The visitors who were active last.
    active: Arc<Active>,
    /// How far the journal is readable.
    readable: watch::Receiver<Readable>,
    /// Up to this seq the journal holds values of erased visitors whose tombstones are gone, or about to go. Nobody is told what
    /// it says of that time, though the segments may still be there.
    erased_until: AtomicU64,
}

impl CommitHandle {
    /// A handle of this committer, and the queue for its thread.
    pub(in crate::engine) fn new(committer: &Committer) -> (Self, mpsc::Receiver<Asked>) {
        let (requests, queue) = mpsc::channel(REQUESTS_WAITING_MAX);
        let handle = Self {
            requests: ArcSwapOption::from_pointee(requests),
            node: OnceLock::new(),
            last_seq: Arc::clone(&committer.last_seq),
            journaled: Arc::clone(&committer.journaled),
            oldest_erasure: Arc::clone(&committer.oldest_erasure),
            active: Arc::clone(&committer.active),
            readable: committer.readable.subscribe(),
            erased_until: AtomicU64::new(0),
        };
        (handle, queue)
    }

    /// The visitors who were active last.
    pub(in crate::engine) fn active(&self) -> &Active {
        &self.active
    }

    /// Asks the commit thread; on a node of several by way of their order, if the request is for all of them.
    pub(in crate::engine) async fn ask(&self, request: Request) -> Result<Answer, EngineError> {
        if let Some(node) = self.node.get().filter(|_| request.is_for_all()) {
            return node.ask(&request).await;
        }
        let (reply, answer) = oneshot::channel();
        let asked = (request.into(), ReplyTo::caller(reply));
        self.queue()?.send(asked).await.map_err(|_| EngineError::Stopping)?;
        answer.await.map_err(|_| EngineError::Stopping)?
    }

    /// Asks for several things, and gives the answers in their order. They are in the queue together, so that one sync may do for
    /// all of them.
    pub(in crate::engine) async fn ask_all(
        &self,
        requests: Vec<Request>,
    ) -> Vec<Result<Answer, EngineError>> {
        if let Some(node) = self.node.get() {
            return node.ask_all(&requests).await;
        }
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            let (reply, answer) = oneshot::channel();
            let sent = match self.queue() {
                Ok(queue) => queue.send((request.into(), ReplyTo::caller(reply))).await.is_ok(),
                Err(_) => false,
            };
            waiting.push(sent.then_some(answer));
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            let answer = match answer {
                Some(answer) => answer.await.unwrap_or(Err(EngineError::Stopping)),
                None => Err(EngineError::Stopping),
            };
            answers.push(answer);
        }
        answers
    }

    /// The same as `ask`, from a thread that may block.
    pub(in crate::engine) fn ask_blocking(&self, request: Request) -> Result<Answer, EngineError> {
        if let Some(node) = self.node.get().filter(|_| request.is_for_all()) {
            return node.ask_blocking(&request);
        }
        let (reply, answer) = oneshot::channel();
        let asked = (request.into(), ReplyTo::caller(reply));
        self.queue()?.blocking_send(asked).map_err(|_| EngineError::Stopping)?;
        answer.blocking_recv().map_err(|_| EngineError::Stopping)?
    }

    /// Has a batch accepted. On a node of several its file is on its way to all of them as this upload.
    pub(in crate::engine) async fn ask_batch(
        &self,
        batch: NewBatch,
        upload: Option<SentToAll>,
    ) -> Result<Answer, EngineError> {
        match (self.node.get(), upload) {
            (Some(node), Some(SentToAll { upload, pieces })) => node.ask_batch(upload, pieces, batch).await,
            (Some(_), None) => Err(EngineError::internal("a batch was not sent to the other nodes")),
            (None, _) => self.ask(Request::Accept(Box::new(batch))).await,
        }
    }

    /// Makes this a node of several.
    pub(in crate::engine) fn join(&self, node: Arc<Node>) {
        drop(self.node.set(node));
    }

    /// This node's part in the order of several. None on a single daemon.
    pub(in crate::engine) fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// The queue's other end, for what comes out of the order.
    pub(in crate::engine) fn sender(&self) -> Result<mpsc::Sender<Asked>, EngineError> {
        self.queue().map(|queue| mpsc::Sender::clone(&queue))
    }

    /// Takes no further requests. The thread answers those that wait, and ends.
    pub(in crate::engine) fn close(&self) {
        if let Some(node) = self.node.get() {
            node.close();
        }
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

    /// How far the journal is readable: whoever keeps this learns of each further group.
    pub(in crate::engine) fn readable(&self) -> watch::Receiver<Readable> {
        self.readable.clone()
    }

    /// The seq up to which nobody may be told any more what the journal says.
    pub(in crate::engine) fn erased_until(&self) -> Seq {
        Seq::from_u64(self.erased_until.load(Ordering::Acquire))
    }

    /// Notes that the tombstones of visitors are about to go who were erased up to this seq.
    pub(in crate::engine) fn note_erased_until(&self, seq: Seq) {
        self.erased_until.fetch_max(seq.get(), Ordering::AcqRel);
    }

    /// Takes the oldest erasure: whoever takes it sees to it that the bytes go, or notes it again.
    pub(in crate::engine) fn take_oldest_erasure(&self) -> Millis {
        Millis(self.oldest_erasure.swap(u64::MAX, Ordering::AcqRel))
    }

    fn queue(&self) -> Result<Arc<mpsc::Sender<Asked>>, EngineError> {
        self.requests.load_full().ok_or(EngineError::Stopping)
    }
}

impl WriteRules {
    /// The rules for a call of this client that comes in now (R4).
    pub(in crate::engine) fn of(client: &ClientSettings, max_profile_bytes: usize) -> Self {
        Self { lifetime_ms: client.lifetime_ms, max_profile_bytes, history_max: client.history_max }
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
