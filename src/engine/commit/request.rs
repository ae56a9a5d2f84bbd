//! What the commit thread is asked for, and what it answers.

use crate::batch::checksum::FileSum;
use crate::batch::pending::{Index, Pending};
use crate::batch::queue::Known;
use crate::batch::spool::SpoolFile;
use crate::engine::{SiteCall, Written};
use crate::journal::entry::{BatchCompletedEntry, BatchGivenUpEntry, Checkpoint};
use crate::journal::log::Position;
use crate::model::batch::{BatchId, BatchRules, Counts, IdempotencyKey};
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::profile::StoredBytes;
use crate::model::seq::Millis;
use crate::store::{ProfileStore, Reach};
use std::sync::Arc;

/// What of the configuration shapes a single write: fixed when the call came in (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRules {
    /// R11.
    pub lifetime_ms: u64,
    /// R9.
    pub max_profile_bytes: usize,
}

/// A write to one visitor that is already known by an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisitorWrite {
    /// The single update: attributes to set.
    Set(Vec<(String, String)>),
    /// Attributes to remove, by name.
    Remove(Vec<String>),
    /// All of it (R12).
    Erase,
}

/// A batch whose body has arrived and is durable.
#[derive(Debug)]
pub struct NewBatch {
    /// Whose.
    pub client: ClientCode,
    /// What shapes its outcome; its seq is still to come.
    pub rules: BatchRules,
    /// The first line of its file.
    pub header: crate::batch::csv::Header,
    /// Its rows.
    pub rows: u64,
    /// Its uploaded file, which goes again unless the batch is accepted.
    pub spool: SpoolFile,
    /// The places of its rows.
    pub index: Index,
    /// What the client calls this sending of it, if anything.
    pub key: Option<IdempotencyKey>,
}

impl NewBatch {
    /// What its file came to.
    pub(in crate::engine) fn sum(&self) -> FileSum {
        FileSum { bytes: self.spool.written(), crc32c: Some(self.spool.crc32c()) }
    }
}

/// What the commit thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// A site call.
    Site(SiteCall, WriteRules),
    /// A write to one visitor, by any id.
    Visitor(ClientCode, VisitorId, VisitorWrite, WriteRules),
    /// To accept a batch.
    Accept(Box<NewBatch>),
    /// To settle the pending rows of these visitors, for background folding may not.
    Settle(ClientCode, Vec<Key>),
    /// To leave tombstones where what expired and dead links stood, unless something else stands there by now.
    Sweep(ClientCode, Vec<(Key, StoredBytes)>),
    /// To note that a batch is folded, counted and checkpointed, in a store that then reached so far.
    Complete(BatchId, Counts, Millis, Reach),
    /// To note that a batch that was held is given up: its file is another by now.
    GiveUp(Box<BatchGivenUpEntry>),
    /// To say what a checkpoint begun now will cover.
    Mark,
    /// To begin a new journal segment, so that those before it can go one day.
    Rotate,
    /// To remove the journal segments before this position.
    Retire(Position),
    /// To go on with a store that was made again.
    TakeOver(Box<MadeAgain>),
}

/// A store that was made again beside a damaged one.
#[derive(Debug)]
pub struct MadeAgain {
    /// The store.
    pub store: Shared,
    /// It has what the journal says up to here …
    pub position: Position,
    /// … and, of batches that were complete, not the rows of these.
    pub again: Vec<Again>,
}

/// A complete batch that is folded in once more.
#[derive(Debug)]
pub struct Again {
    /// The batch, with what became of its rows on record, if that can be read.
    pub pending: Pending,
    /// Behind this its entry stands in the journal.
    pub position: Position,
    /// Its end.
    pub end: BatchCompletedEntry,
}

/// A store, handed on.
pub struct Shared(pub Arc<dyn ProfileStore>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store")
    }
}

/// What the commit thread answers.
#[derive(Debug)]
pub enum Answer {
    /// The write is durable and readable.
    Written(Written),
    /// So is the erasure, of these ids.
    Erased(Written, Vec<Key>),
    /// So is the batch.
    Accepted(Known),
    /// The batch was accepted when it was sent before.
    AcceptedBefore(Known),
    /// Its key came lately with another batch, this one.
    KeyTaken(BatchId),
    /// It is done.
    Done,
    /// What a checkpoint begun now covers.
    Marked(Checkpoint),
    /// Another store is used; this one was before.
    TookOver(Shared),
}
