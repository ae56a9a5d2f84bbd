//! The commit thread's work. What waits becomes one group, and each group is one frame of the journal.
//!
//! ```text
//! handle.rs     how the other rooms reach the thread
//! reply.rs      what waits in its queue, and whom it answers
//! thread.rs     takes what waits in the queue, has it committed, and answers
//! taking.rs     requests taken together: who gets which answer, what a full disk refuses, when a checkpoint is due
//! request.rs    what the thread is asked for, and what it answers
//! committer.rs  takes a group: decide, journal (one write, one fdatasync), apply, answer
//! decide.rs     each request in turn: take a seq, resolve the visitor's pending rows, compute the new values
//! group.rs      the view that a group works in
//! bind.rs       which profile an id leads to; binding and erasing
//! decided.rs    a decided request
//! ordering.rs   how far the order of several nodes is applied
//! node.rs       this node's part in that order: what it offers, and what it reads back
//! wire.rs       the bytes of a request in that order
//! active.rs     the visitors who were active last
//! apply.rs      each request in turn: note what pending rows came to, put its values, publish its batch
//! replay.rs     the same for a store that lacks some of the journal
//! ```
//!
//! A visitor may have so many pending rows that their outcomes fill a group. The thread then resolves those rows first, group
//! by group, and decides the request after them.
//!
//! Promises: this is the only room that owns the journal, the seqs and the order.

pub mod active;
mod apply;
mod bind;
mod committer;
mod decide;
mod decided;
mod group;
mod handle;
pub(in crate::engine) mod node;
pub mod ordering;
pub(in crate::engine) mod replay;
mod reply;
mod request;
pub mod taking;
#[cfg(test)]
mod tests;
pub(in crate::engine) mod thread;
pub mod wire;

pub use committer::{Committer, Readable};
pub(in crate::engine) use handle::{CommitHandle, SentToAll};
pub use request::{
    Again, Answer, MadeAgain, NewBatch, Ordered, Placed, Request, Shared, VisitorWrite, WriteRules,
};
