//! Why the engine did not do something: for a caller ([`EngineError`]), for a start ([`OpenError`]), or for good ([`Fatal`]).
//!
//! Promises: `Display` is a message to a person, and it contains no stored value; [`EngineError::kind`] says who has to
//! act. An internal error is logged here, once, and nowhere else.

use crate::batch::accepted::Accepted;
use crate::batch::checksum::UploadError;
use crate::batch::csv::{BadIds, HeaderError};
use crate::batch::spool::SpoolError;
use crate::engine::scarce::Scarce;
use crate::folder::FolderError;
use crate::journal::log::{LogError, Position};
use crate::journal::snapshot::SnapshotError;
use crate::model::id::ClientCode;
use crate::model::seq::Seq;
use crate::store::StoreError;
use crate::telemetry::metrics::Limit;
use crate::tokens::TokensError;
use std::io;
use std::path::PathBuf;

/// An error after which the process must end. The next start begins from the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub(in crate::engine) String);

impl Fatal {
    /// A fatal error for this reason.
    pub fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder, or a file in it, could not be created or read.
    #[error("{}: {error}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The folder is not finished, or has a later format.
    #[error(transparent)]
    Unfit(#[from] FolderError),
    /// A later version of the program wrote one of its files.
    #[error("{}: {why}: a later profiled wrote it; run that, or restore a backup from before the upgrade into another folder", path.display())]
    Later {
        /// Which file.
        path: PathBuf,
        /// What is new in it.
        why: String,
    },
    /// Another daemon has it open.
    #[error("another profiled has {} open; stop it first, or use another folder with --data", .0.display())]
    Locked(PathBuf),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(LogError),
    /// This program cannot read a group of the journal.
    #[error("the journal, {position}: {what} that this program cannot read")]
    Entry {
        /// Where.
        position: Position,
        /// What.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store does not open, and the disk is too full to rebuild it.
    #[error("{}: {full}; the store does not open ({why}), and may be whole once there is room: make some and start again", folder.display())]
    NoRoom {
        /// The data folder.
        folder: PathBuf,
        /// How full the disk is.
        full: String,
        /// Why the store does not open.
        why: String,
    },
    /// A snapshot cannot be read, or the folder of the snapshots cannot be created.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot has the right checksum, and holds a key that this program cannot read.
    #[error("the snapshot {} holds a key that this program cannot read", .0.display())]
    SnapshotKey(PathBuf),
    /// The work was stopped halfway.
    #[error(transparent)]
    NotGoingOn(EngineError),
    /// The folder belongs to a node of several, and the daemon was started alone.
    #[error(
        "{} belongs to a node of several: start it with --order and --node; or, to have a single daemon go on from here, run \
         `profiled cluster leave --data {}` first", .0.display(), .0.display()
    )]
    OfCluster(PathBuf),
    /// The tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The file of an accepted batch cannot be read, or differs from what was accepted.
    #[error(
        "batch {} was accepted and is not applied yet, but {error}; send the file again to a running daemon with `profiled batch resend`, and `profiled check --salvage` goes on without it", batch.id
    )]
    Batch {
        /// Which batch.
        batch: Box<Accepted>,
        /// The file, and what is wrong with it.
        error: UploadError,
    },
}

impl OpenError {
    pub(in crate::engine) fn entry(position: Position, what: impl std::fmt::Display) -> Self {
        Self::Entry { position, what: what.to_string() }
    }
}

/// A hint for a caller who copied the path of Adobe's examples as it is: `/m2/client/…`.
const CLIENT_MEANS: &str = ": in Adobe's examples that word stands for your client code";

/// Why a call was not done. `Display` is the message to the client.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// This client is not configured, and others are.
    #[error("there is no client {0}{hint}", hint = if .0.as_str() == "client" { CLIENT_MEANS } else { "" })]
    UnknownClient(ClientCode),
    /// The batch file was refused: its header is wrong, or it has no rows.
    #[error("{0}")]
    BadBatch(String),
    /// A file of ids was refused: some of its lines are no ids.
    #[error("{0}")]
    BadIds(Box<BadIds>),
    /// The batch file was refused as Adobe refuses it, because of `batch_reading`.
    #[error("{why}: Adobe answers {says:?}, and so does this client's batch_reading = \"adobe\"")]
    AsAdobe {
        /// What Adobe answers.
        says: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The batch file is too large (R9).
    #[error("{message}")]
    TooLarge {
        /// The limit that it exceeds.
        limit: Limit,
        /// The message for the client.
        message: String,
    },
    /// All places of this resource are taken. The number is how many there are.
    #[error("{}", .0.none_free(*.1))]
    Taken(Scarce, usize),
    /// Another caller got its place.
    #[error("{}", .0.made_room())]
    MadeRoom(Scarce),
    /// The batch was never accepted, or is no longer kept.
    #[error("there is no batch {0}: it was never accepted, or is no longer kept")]
    UnknownBatch(String),
    /// No token has this id.
    #[error("there is no token {0}: GET /api/v1/tokens shows all tokens")]
    UnknownToken(String),
    /// The outcomes of its rows are not known yet.
    #[error("batch {0} is not complete: ask for the outcomes of its rows once it is")]
    NotComplete(String),
    /// The same idempotency key came in the last 24 hours with another body or another call.
    #[error(
        "the Idempotency-Key came in the last 24 hours with another body or another call, as batch {0}: use a new key for \
         a new batch"
    )]
    KeyTaken(String),
    /// Its upload was damaged on the disk and given up.
    #[error(
        "the upload of batch {0} was damaged on the daemon's disk and given up; what was left of it is kept in its data \
         folder, under damaged/: send the batch again"
    )]
    GivenUp(String),
    /// It undoes another batch, so its failed rows are nothing to send again.
    #[error(
        "batch {batch} undoes {undone} and has its file: to send failed rows of it again would set what was to be undone; \
         /api/v1/batches/{batch}/outcomes?outcome=failed has the ids"
    )]
    NothingToRepair {
        /// The batch.
        batch: String,
        /// The one that it undoes.
        undone: String,
    },
    /// An export cannot begin now, for this reason.
    #[error("{0}")]
    ExportBusy(String),
    /// The visitors cannot be written in this format, for this reason.
    #[error("{0}")]
    NotExportable(String),
    /// The journal does not go back so far, or what it says of that time may not be told any more.
    #[error(
        "the changes after seq {since} are no longer kept: export the client, and go on with the changes after the seq in the \
         export's header Profiled-Seq; the earliest that can be asked for is since={earliest}"
    )]
    ChangesGone {
        /// What was asked for.
        since: Seq,
        /// The earliest seq that can be asked for.
        earliest: Seq,
    },
    /// What the visitor was at that time is not kept.
    #[error(
        "what this visitor was after seq {at} is not kept: its history goes back to seq {since} ({}); the setting history_max says \
         how many values of each attribute it has", since.millis().iso_8601()
    )]
    NotKept {
        /// What was asked for.
        at: Seq,
        /// The earliest seq that can be asked for.
        since: Seq,
    },
    /// The call asks for something that cannot be done.
    #[error("{0}")]
    Refused(String),
    /// It is not done, or only in part; a later attempt may succeed.
    #[error("{0}")]
    NotYet(String),
    /// The process has no free file handle.
    #[error("the daemon may open no more files just now; try again")]
    NoHandle,
    /// The uploads that are kept already need all the space they may have.
    #[error("no room on the disk: {0}")]
    SpoolFull(String),
    /// The disk is full, or nearly.
    #[error("no room on the disk: {0}")]
    Full(String),
    /// The store is damaged at this place.
    #[error("the stored value cannot be read now, because the store is being rebuilt: try again later")]
    Unreadable,
    /// A batch that may name the visitor is held, for this reason.
    #[error("batch {batch}, which may name this visitor, is stuck: {why}")]
    Held {
        /// Which batch.
        batch: String,
        /// Why.
        why: String,
    },
    /// The batch is complete, so it cannot be cancelled any more.
    #[error(
        "batch {0} is complete: there is nothing left to cancel; POST /api/v1/batches/{0}/undo undoes it"
    )]
    AlreadyComplete(String),
    /// The batch is not held, so there is nothing to repair.
    #[error("batch {0} is not stuck for its upload: there is nothing to send again or to give up")]
    NotHeld(String),
    /// The order of the nodes did not take it, for this reason. It was certainly not done.
    #[error("{0}")]
    NoOrder(String),
    /// The order of the nodes may have taken it, or not.
    #[error(
        "{0}: it may have been applied, or not; with an Idempotency-Key a batch can be sent again safely, and so can what sets \
         the same values"
    )]
    Unknown(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// A failure inside the daemon. The log has the details.
    #[error("an internal error; the daemon's log says more")]
    Internal(String),
}

/// Who has to act on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller: the call is wrong, or names something that is not there. To repeat it does not help.
    Refused,
    /// Nobody yet: the daemon lacks a resource, or is not ready. To repeat the call later may help.
    Overloaded,
    /// The operator: something inside the daemon failed.
    Internal,
}

impl EngineError {
    /// Who has to act on it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownClient(_)
            | Self::BadBatch(_)
            | Self::BadIds(_)
            | Self::AsAdobe { .. }
            | Self::TooLarge { .. }
            | Self::UnknownBatch(_)
            | Self::UnknownToken(_)
            | Self::NotComplete(_)
            | Self::KeyTaken(_)
            | Self::GivenUp(_)
            | Self::NothingToRepair { .. }
            | Self::NotExportable(_)
            | Self::ChangesGone { .. }
            | Self::NotKept { .. }
            | Self::Refused(_)
            | Self::AlreadyComplete(_)
            | Self::NotHeld(_) => ErrorKind::Refused,
            Self::Taken(..)
            | Self::MadeRoom(_)
            | Self::ExportBusy(_)
            | Self::NotYet(_)
            | Self::NoHandle
            | Self::SpoolFull(_)
            | Self::Full(_)
            | Self::Unreadable
            | Self::Held { .. }
            | Self::NoOrder(_)
            | Self::Unknown(_)
            | Self::Stopping => ErrorKind::Overloaded,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// The limit that the call hit, if it hit one.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::TooLarge { limit, .. } => Some(*limit),
            // `MadeRoom` is counted where the place is taken away.
            Self::Taken(scarce, _) => Some(scarce.limit()),
            Self::SpoolFull(_) => Some(Limit::SpoolBytes),
            Self::Full(_) => Some(Limit::DiskReserve),
            _ => None,
        }
    }

    /// A failure inside the daemon. Logs the reason.
    pub(in crate::engine) fn internal(why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        tracing::error!(%why, "an internal error");
        Self::Internal(why)
    }
}

/// Turns an error that no caller can act on into [`EngineError::Internal`].
pub(in crate::engine) trait OrInternal<T> {
    /// The value; an error is logged and becomes an internal one.
    fn or_internal(self) -> Result<T, EngineError>;
}

impl<T, E: std::fmt::Display> OrInternal<T> for Result<T, E> {
    fn or_internal(self) -> Result<T, EngineError> {
        self.map_err(EngineError::internal)
    }
}

impl From<SpoolError> for EngineError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::OverLimit(_) => Self::SpoolFull(error.to_string()),
            SpoolError::NoHandle => Self::NoHandle,
            SpoolError::Full(why) => Self::Full(why),
            SpoolError::Failed { .. } => Self::internal(error),
        }
    }
}

impl From<TokensError> for EngineError {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::NoSuchToken(id) => Self::UnknownToken(id),
            TokensError::Io { error, .. }
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                Self::Full(error.to_string())
            }
            error => {
                tracing::error!(%error, "the tokens stay as they are");
                Self::NotYet(format!("the tokens stay as they are: {error}"))
            }
        }
    }
}

impl From<HeaderError> for EngineError {
    fn from(error: HeaderError) -> Self {
        Self::BadBatch(error.to_string())
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        Self::Journal(error)
    }
}
