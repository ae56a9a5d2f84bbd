//! The engine's loops as state machines: an event goes in, the next action comes out.
//!
//! ```text
//! apply.rs       the apply loop: whose turn it is, a batch from its plan to its completion, retries
//! writer.rs      one of the writers that apply a batch: part by part, chunk by chunk
//! task.rs        what the maintenance tasks have in common: their actions and events
//! checkpoint.rs  makes the store durable and notes how far the journal is covered
//! snapshot.rs    copies every value into a file while writes go on
//! fresh.rs       fills a fresh store beside the one in use and swaps it in; lets go of what was erased
//! retire.rs      removes the snapshots, the journal and the uploads that nothing needs any more
//! ```
//!
//! The commit thread's part is `commit/taking.rs`.
//!
//! A machine owns the order of steps and what follows a failure. It has no thread, lock, clock, file or channel. Its
//! runner carries out each action and steps the machine with the result. Three runners use the same machines: the
//! daemon's threads; the order tests, which do anything between two actions and crash there; and the schedule explorer,
//! which decides every move of its threads.
//!
//! Promises: a machine never blocks and never fails. An event that does not belong to its state ends it.

pub mod apply;
pub mod checkpoint;
pub mod fresh;
pub mod retire;
pub mod snapshot;
pub mod task;
pub mod writer;
