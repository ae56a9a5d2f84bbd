//! What every front door calls. (API sketch: bodies arrive from the main branch.)

use crate::model::batch::{BatchId, Counts, EmptyValues};
use crate::model::id::{ClientCode, VisitorId};
use crate::model::profile::Source;
use crate::model::seq::{Millis, Seq};
use bytes::Bytes;
use std::sync::Arc;

/// The whole daemon behind its front doors. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<()>);

/// The ids a site call carries; at least one is there. `pcId`s have lost their location hint.
#[derive(Debug, Clone, Default)]
pub struct CallIds {
    /// `mboxPC`, `tntId`.
    pub pc: Option<VisitorId>,
    /// `mbox3rdPartyId`, `thirdPartyId`.
    pub third_party: Option<VisitorId>,
    /// `mboxMCGVID`, `marketingCloudVisitorId`.
    pub ecid: Option<VisitorId>,
}

/// A call from the site: creates, binds and writes.
#[derive(Debug, Clone)]
pub struct SiteCall {
    /// Whose visitor.
    pub client: ClientCode,
    /// The ids it carries.
    pub ids: CallIds,
    /// Mbox or Delivery.
    pub source: Source,
    /// `profile.*`, without the prefix, in the order sent.
    pub attributes: Vec<(String, String)>,
}

/// The single profile update: never creates (R5).
#[derive(Debug, Clone)]
pub struct SingleUpdate {
    /// Whose visitor.
    pub client: ClientCode,
    /// Which visitor.
    pub id: VisitorId,
    /// `profile.*`, without the prefix, in the order sent.
    pub attributes: Vec<(String, String)>,
}

/// A write that is durable and readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its place in the order; none if it changed nothing (an unknown visitor, or a visit already noted).
    pub seq: Option<Seq>,
    /// Whether the visitor has a profile.
    pub known: bool,
    /// Attributes left out because the profile would have grown too large (R9).
    pub left_out: usize,
}

/// Why something was not done. `Display` is what the client is told.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Client codes are configured and this is none of them.
    #[error("there is no client {0}")]
    UnknownClient(ClientCode),
    /// The batch file was refused: its header, or no rows at all.
    #[error("{0}")]
    BadBatch(String),
    /// The batch file is too large (R9).
    #[error("{0}")]
    TooLarge(String),
    /// More uploads at once than the daemon takes.
    #[error("too many uploads at once; try again")]
    Busy,
    /// No room for it on the disk.
    #[error("no room on the disk: {0}")]
    Full(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// Something inside failed; the log has the details.
    #[error("an internal error; the daemon's log says more")]
    Internal(String),
}

/// An attribute as a lookup shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitorAttribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The write that set it; `seq.millis()` is when.
    pub seq: Seq,
    /// Where that write came from.
    pub source: Source,
}

/// A visitor as a lookup shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// Whose.
    pub client: ClientCode,
    /// The id the profile is kept under: a thirdPartyId once one is bound, else a pcId (or a lone ECID).
    pub canonical: VisitorId,
    /// The ids that lead to it, oldest bind first.
    pub linked: Vec<VisitorId>,
    /// The write that made it.
    pub born: Seq,
    /// The last site call that changed it.
    pub last_site: Option<Seq>,
    /// The last batch that changed it.
    pub last_batch: Option<Seq>,
    /// The last write of all: the ETag.
    pub seq: Seq,
    /// When the visitor was last active.
    pub last_active: Millis,
    /// When the profile expires.
    pub expires: Millis,
    /// By name.
    pub attributes: Vec<VisitorAttribute>,
}

/// Which call a batch came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchVersion {
    /// `/m2/{client}/profile/batchUpdate`
    V1,
    /// `/m2/{client}/v2/profile/batchUpdate`
    V2,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Accepted, durable, readable; not yet folded into the store.
    Incomplete,
    /// Folded, counted and checkpointed.
    Complete,
    /// The store keeps refusing it.
    Stuck,
}

/// A batch and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchStatus {
    /// Its id; `id.seq` is its place in the order and `id.seq.millis()` when it was accepted.
    pub id: BatchId,
    /// v1 or v2.
    pub version: BatchVersion,
    /// How far it is.
    pub state: BatchState,
    /// Its rows, all of them.
    pub rows: u64,
    /// Its file's size.
    pub bytes: u64,
    /// Rows dealt with so far, by outcome; adds up to `rows` once complete.
    pub counts: Counts,
    /// When it was complete.
    pub completed: Option<Millis>,
}

/// Whether the daemon serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and this is why.
    NotReady(String),
}

/// A batch file on its way in. Dropping it abandons it: nothing stays.
pub struct Upload(());

impl Upload {
    /// Takes the next bytes of the body; waits while the disk or the parser is behind.
    pub async fn push(&mut self, _bytes: Bytes) -> Result<(), AppError> {
        unimplemented!()
    }

    /// The body has ended: makes the batch durable and readable, then says what it is called.
    pub async fn finish(self) -> Result<BatchStatus, AppError> {
        unimplemented!()
    }
}

impl App {
    /// Writes what a site call brings.
    pub async fn site_call(&self, _call: SiteCall) -> Result<Written, AppError> {
        unimplemented!()
    }

    /// Writes what a single update brings.
    pub async fn update(&self, _update: SingleUpdate) -> Result<Written, AppError> {
        unimplemented!()
    }

    /// Looks a visitor up.
    pub async fn read(&self, _client: &ClientCode, _id: &VisitorId) -> Result<Option<Visitor>, AppError> {
        unimplemented!()
    }

    /// Begins a batch upload.
    pub async fn accept_batch(
        &self,
        _client: &ClientCode,
        _version: BatchVersion,
        _empty_values: EmptyValues,
    ) -> Result<Upload, AppError> {
        unimplemented!()
    }

    /// One batch.
    pub fn batch(&self, _id: &BatchId) -> Option<BatchStatus> {
        unimplemented!()
    }

    /// A client's batches, newest first.
    pub fn batches(&self, _client: &ClientCode) -> Vec<BatchStatus> {
        unimplemented!()
    }

    /// The client code for a call that names none, if one is configured.
    pub fn default_client(&self) -> Option<ClientCode> {
        unimplemented!()
    }

    /// What status URLs begin with, if configured.
    pub fn public_url(&self) -> Option<&str> {
        unimplemented!()
    }

    /// Whether it serves.
    pub fn readiness(&self) -> Readiness {
        unimplemented!()
    }

    /// Opens the data folder, recovers what is there and starts the threads.
    /// (config: `crate::config::Config`, from the branch `house`, merged soon)
    pub fn open() -> Result<Self, AppError> {
        unimplemented!()
    }

    /// Completes when something inside failed for good (a sync that failed, say): the process must then end, with this message.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }

    /// Stops the threads: what is queued is finished, the folding batch is left where it is, the store is checkpointed.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
