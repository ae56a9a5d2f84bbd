//! One decided request: its journal entry, the values to put, and its answer.

use super::request::Answer;
use crate::batch::pending::Pending;
use crate::batch::resolve::{ResolveError, ResolvedBundle, ResolvedRow};
use crate::batch::spool::SpoolFile;
use crate::engine::error::{EngineError, Fatal};
use crate::journal::entry::{BatchCompletedEntry, BatchGivenUpEntry, Entry};
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::model::seq::Seq;
use crate::store::StoreError;
use crate::tokens::TokenChange;
use std::sync::Arc;

/// A decided request: its journal entry, and what to do once that is durable.
pub(super) struct Decided {
    pub(super) answer: Result<Answer, EngineError>,
    pub(super) entry: Option<Entry>,
    pub(super) puts: Vec<Put>,
    pub(super) resolved: Vec<ResolvedRow>,
    pub(super) resolved_bundles: Vec<ResolvedBundle>,
    pub(super) publish: Option<(Arc<Pending>, SpoolFile)>,
    pub(super) complete: Option<BatchCompletedEntry>,
    /// A batch that this node has applied, among several nodes.
    pub(super) applied: Option<BatchCompletedEntry>,
    /// A batch that a node has counted.
    pub(super) counted: Option<BatchCompletedEntry>,
    pub(super) given_up: Option<Box<BatchGivenUpEntry>>,
    /// A change of the tokens, which is made already.
    pub(super) token: Option<TokenChange>,
    /// The key of the visitor who was active, and the seq of the call.
    pub(super) active: Option<(Key, Seq)>,
}

pub(super) struct Put {
    pub(super) key: Key,
    pub(super) was: Option<StoredBytes>,
    pub(super) now: StoredBytes,
}

impl Put {
    /// A marker that keeps the erasure on record when the id of an erased visitor gets a new profile (R12).
    pub(super) fn erasure_mark(&self) -> Option<Self> {
        let tombstone = self.was.as_ref().filter(|was| was.is_erased() && !self.now.is_erased())?;
        Some(Self { key: self.key.erasure_mark(), was: None, now: tombstone.clone() })
    }
}

impl Decided {
    pub(super) fn answering(answer: Answer) -> Self {
        let (answer, resolved, resolved_bundles) = (Ok(answer), vec![], vec![]);
        let (publish, complete, applied, counted, given_up) = (None, None, None, None, None);
        let (entry, puts, token, active) = (None, vec![], None, None);
        Self {
            answer,
            entry,
            puts,
            resolved,
            resolved_bundles,
            publish,
            complete,
            applied,
            counted,
            given_up,
            token,
            active,
        }
    }
}

/// Why a request is not decided.
pub(super) enum Undecided {
    /// The store cannot read a value that the request needs. Only this request fails.
    Unreadable(StoreError),
    /// A held batch may name the visitor. Only this request fails.
    Held {
        batch: String,
        why: String,
    },
    Fatal(Fatal),
}

impl Undecided {
    /// The same as an error that ends the process. Where several nodes apply one order, none may skip a request that the
    /// others apply.
    pub(super) fn fatal(self) -> Fatal {
        match self {
            Self::Fatal(fatal) => fatal,
            Self::Unreadable(error) => Fatal::new(format!(
                "{error}: the node stops before this request; the next start rebuilds its store"
            )),
            Self::Held { batch, why } => Fatal::new(format!(
                "batch {batch}: {why}; the node stops before this request, because the other nodes have the file"
            )),
        }
    }
}

impl From<Fatal> for Undecided {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        if error.is_damage() { Self::Unreadable(error) } else { Self::Fatal(Fatal::new(error)) }
    }
}

impl From<ResolveError> for Undecided {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Store(error) => error.into(),
            ResolveError::Held { batch, why } => Self::Held { batch, why },
            error => Self::Fatal(Fatal::new(error)),
        }
    }
}
