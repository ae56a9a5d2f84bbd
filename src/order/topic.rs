//! A topic that others read: events in partitions, each in the partition of its key.
//!
//! Knows nothing of Kafka, as [`Log`](super::Log) knows nothing of it.
//!
//! Promises of a writer: what it appends under one key gets into the topic in this order. Once an append has failed, none of its
//! later ones gets into the topic, so that no reader sees an event whose predecessor is missing.

use super::{Appended, OrderError};

/// A topic of events.
pub trait EventTopic: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// A writer. Makes the topic if it is missing, and checks it. Blocks.
    fn open(&self) -> Result<Box<dyn EventWriter>, OrderError>;
}

/// Writes events. Whoever drops it gives up what is not acknowledged.
pub trait EventWriter: Send {
    /// Appends an event to the partition of this key; without one, to every partition. Returns at once; `done` hears once that
    /// the event is durable, or that it failed, from any thread, maybe before this returns. Tries for as long as the topic is
    /// out of reach.
    fn append(&self, key: Option<&[u8]>, event: &[u8], done: Appended);
}
