//! What waits in the commit thread's queue, and whom it answers.

use super::request::Ordered;
use super::taking::Reply;
use std::any::Any;
use tokio::sync::oneshot;

/// What waits in the commit thread's queue.
pub(in crate::engine) type Asked = (Ordered, ReplyTo);

/// Whom the commit thread answers.
pub(in crate::engine) struct ReplyTo {
    /// None if the caller asked another node, or has gone.
    answer: Option<oneshot::Sender<Reply>>,
    /// Dropped with the answer.
    _waits: Option<Box<dyn Any + Send>>,
}

impl ReplyTo {
    /// Of a caller on this node.
    pub(super) fn caller(answer: oneshot::Sender<Reply>) -> Self {
        Self { answer: Some(answer), _waits: None }
    }

    /// Of a request that came out of the order.
    pub(super) fn of_order(
        answer: Option<oneshot::Sender<Reply>>,
        waits: Option<Box<dyn Any + Send>>,
    ) -> Self {
        Self { answer, _waits: waits }
    }

    /// Answers. The caller may have gone. What it asked for stands all the same.
    pub(super) fn send(self, reply: Reply) {
        if let Some(answer) = self.answer {
            drop(answer.send(reply));
        }
    }
}
