//! What the commit thread is asked for, and what it answers.

use crate::batch::checksum::FileSum;
use crate::batch::index::Index;
use crate::batch::pending::Pending;
use crate::batch::progress::Known;
use crate::batch::spool::SpoolFile;
use crate::engine::types::{BatchSending, SiteCall, Written};
use crate::journal::entry::{BatchCompletedEntry, BatchGivenUpEntry, Checkpoint};
use crate::journal::log::Position;
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchRules, Counts};
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::seq::Millis;
use crate::order::Place;
use crate::order::record::RunId;
use crate::store::{ProfileStore, Reach};
use crate::tokens::{Token, TokenChange};
use std::sync::Arc;

/// The settings that shape one write. They are fixed when the call arrives (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRules {
    /// How long a visitor lives without activity, in milliseconds (R11).
    pub lifetime_ms: u64,
    /// How large a profile may grow, in bytes (R9).
    pub max_profile_bytes: usize,
    /// How many earlier values of each attribute a profile keeps.
    pub history_max: u16,
}

/// A write to one visitor, named by any of its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisitorWrite {
    /// Sets attributes: the single update.
    Set(Vec<(String, String)>),
    /// Removes attributes, by name.
    Remove(Vec<String>),
    /// Erases the visitor (R12).
    Erase,
}

/// A batch whose body has arrived and is durable.
#[derive(Debug)]
pub struct NewBatch {
    /// The client that sent it.
    pub client: ClientCode,
    /// The settings that shape its outcome. Its seq is not set yet.
    pub rules: BatchRules,
    /// The first line of its file.
    pub header: crate::batch::csv::Header,
    /// The number of its rows.
    pub rows: u64,
    /// Its uploaded file. Dropping this removes the file, unless the batch was accepted.
    pub spool: SpoolFile,
    /// Where its rows stand in the file.
    pub index: Index,
    /// What its sender says of it beside its rows.
    pub sending: BatchSending,
    /// What its file should be, if this node lacks it and has to get it from another one. The batch is held until then.
    pub lacking: Option<FileSum>,
}

impl NewBatch {
    /// The size and checksum of its file.
    pub(in crate::engine) fn sum(&self) -> FileSum {
        let here = || FileSum { bytes: self.spool.written(), crc32c: Some(self.spool.crc32c()) };
        self.lacking.unwrap_or_else(here)
    }
}

/// What the commit thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// A site call.
    Site(SiteCall, WriteRules),
    /// A write to one visitor, by any id, and who made it.
    Visitor(ClientCode, VisitorId, VisitorWrite, Author, WriteRules),
    /// Accept a batch.
    Accept(Box<NewBatch>),
    /// Resolve the pending rows of these visitors. The apply thread asks for this where it may not do so itself.
    Resolve(ClientCode, Vec<Key>),
    /// Put tombstones in place of those of these values that have expired by this lifetime, in milliseconds, and of links that
    /// lead nowhere.
    Sweep(ClientCode, Vec<Key>, u64),
    /// Record that a batch is applied, counted and checkpointed, in a store that then reached so far. With an order of several
    /// nodes it is complete only once it is counted there.
    Complete(BatchId, Counts, Millis, Reach),
    /// A node has counted a batch, with these outcomes: from here on every node shows it as complete.
    Count(BatchId, Counts),
    /// Change the access tokens.
    Token(TokenChange),
    /// Record that an operator gave up a held batch. Its file is replaced already.
    GiveUp(Box<BatchGivenUpEntry>),
    /// Say what a checkpoint that begins now will cover.
    Mark,
    /// Begin a new journal segment, so that older segments can be removed later.
    Rotate,
    /// Remove the journal segments before this position.
    Retire(Position),
    /// Go on with a rebuilt store.
    TakeOver(Box<MadeAgain>),
}

/// Where the order of several nodes has a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its place.
    pub place: Place,
    /// The CRC-32C of its record.
    pub record_crc32c: u32,
    /// The time that the order gives it.
    pub time: Millis,
    /// The run that offered it.
    pub run: RunId,
    /// Its number among the offers of that run.
    pub number: u64,
}

/// A request, and its place in the order of several nodes. A single daemon's requests have none, and neither have those
/// that concern one node alone.
#[derive(Debug)]
pub struct Ordered {
    /// The request.
    pub request: Request,
    /// Its place.
    pub placed: Option<Placed>,
}

impl From<Request> for Ordered {
    fn from(request: Request) -> Self {
        Self { request, placed: None }
    }
}

impl Request {
    /// Whether every node must do it in the same place. The others are the node's own affair.
    pub fn is_for_all(&self) -> bool {
        match self {
            Self::Site(..)
            | Self::Visitor(..)
            | Self::Accept(_)
            | Self::Sweep(..)
            | Self::Count(..)
            | Self::Token(_) => true,
            Self::Resolve(..)
            | Self::Complete(..)
            | Self::GiveUp(_)
            | Self::Mark
            | Self::Rotate
            | Self::Retire(_)
            | Self::TakeOver(_) => false,
        }
    }
}

/// A store that was rebuilt beside a damaged one.
#[derive(Debug)]
pub struct MadeAgain {
    /// The rebuilt store.
    pub store: Shared,
    /// It holds what the journal says up to this position.
    pub position: Position,
    /// Complete batches whose rows it does not hold.
    pub again: Vec<Again>,
}

/// A complete batch whose rows are applied once more.
#[derive(Debug)]
pub struct Again {
    /// The batch, with its recorded outcomes if they can be read.
    pub pending: Pending,
    /// The journal position of its entry.
    pub position: Position,
    /// How it completed.
    pub end: BatchCompletedEntry,
}

/// A store that is handed from one thread to another.
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
    /// The erasure of these ids is durable and readable.
    Erased(Written, Vec<Key>),
    /// The batch is durable and readable.
    Accepted(Known),
    /// The same batch was accepted before.
    AcceptedBefore(Known),
    /// The client used this key for another batch in the last day: this one.
    KeyTaken(BatchId),
    /// The token is so now; none if there is no such token here.
    Token(Option<Token>),
    /// Done.
    Done,
    /// The order has this request twice. It was done where it stood first.
    Duplicate,
    /// What a checkpoint that begins now covers.
    Marked(Checkpoint),
    /// The rebuilt store is in use. This one was in use before.
    TookOver(Shared),
}
