//! The order of several nodes: an append-only log of records that every node reads from its beginning to its end.
//!
//! ```text
//! mod.rs      the log as a node sees it: append, read, delete from the front
//! record.rs   the bytes of one record: who offers what
//! pieces.rs   the files of batches, in pieces
//! needed.rs   which of these pieces are still needed
//! gather.rs   gathers offers into records
//! listen.rs   a reader that notices when it hears no more
//! topic.rs    a topic of events that others read
//! memory.rs   a log in memory, for tests and the simulation
//! ```
//!
//! Knows nothing of Kafka: [`Log`] is implemented elsewhere, and in memory for tests. Knows nothing of what a request
//! means: the engine encodes its requests, and decodes them again where their place has come.
//!
//! Promises of a log: offsets rise; every reader sees the same records with the same offsets and times; a record whose
//! append was answered with an offset is there. A record that was refused, or out of reach, is not in the log and will not get
//! into it.

pub mod gather;
pub mod listen;
pub mod memory;
pub mod needed;
pub mod pieces;
pub mod record;
pub mod topic;

use crate::model::seq::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// An order that does not look like what a node has applied, for so long, is another order. Brokers that have just started, or a new
/// leader, may say so for a moment.
pub const SHORT_AFTER: Duration = Duration::from_secs(8);
/// How long a thread waits for a record before it looks whether the daemon is stopping.
pub const READ_LOOK: Duration = Duration::from_millis(100);
/// How long a thread waits before it asks again for a log that it cannot reach.
pub const REACH_AGAIN: Duration = Duration::from_millis(250);

/// A record's place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset behind this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A request's place in the order: its record, and which of that record's requests it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Place {
    /// The record's offset.
    pub offset: Offset,
    /// Its number within the record, from 0 on.
    pub within: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.within)
    }
}

/// Why a log did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Nobody knows whether the record was appended.
    #[error("{0}: it may have been written, or not")]
    Unknown(String),
    /// The record was certainly not appended.
    #[error("{0}")]
    Refused(String),
    /// The log cannot be reached just now.
    #[error("the order cannot be reached: {0}")]
    OutOfReach(String),
    /// The log is not the one it was: records are missing, or it was made anew.
    #[error("the order is not the one that this node has read: {0}")]
    NotTheSame(String),
}

/// What the log calls when it knows what became of an append. From any thread, and once.
pub type Appended = Box<dyn FnOnce(Result<Offset, OrderError>) + Send>;

/// An append-only log of records: one partition of a topic.
pub trait Log: Send + Sync {
    /// Appends a record. Returns at once; `done` learns the offset once the record is durable, from any thread, maybe before
    /// this returns. Records get into the log in the order of these calls.
    fn append(&self, key: &[u8], record: Vec<u8>, done: Appended);

    /// A reader of the records from this offset on. Blocks.
    fn read_from(&self, offset: Offset) -> Result<Box<dyn LogReader>, OrderError>;

    /// The offset of the first record that is still there, and the offset that the next record gets. Blocks.
    fn ends(&self) -> Result<(Offset, Offset), OrderError>;

    /// Deletes the records before this offset. Blocks.
    fn delete_before(&self, offset: Offset) -> Result<(), OrderError>;
}

/// Reads a log from an offset on.
pub trait LogReader: Send {
    /// The next record, or none if none came within this time. Blocks. A log that was out of reach can be asked again, and goes
    /// on where it was.
    fn next(&mut self, wait: Duration) -> Result<Option<Record>, OrderError>;
}

/// A record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub offset: Offset,
    /// The time that the log gave it.
    pub time: Millis,
    /// Its key. Only a log that keeps the newest record of each key has any.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Vec<u8>,
}
