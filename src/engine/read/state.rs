//! What reading owns: the places for long reads, and the counts that are used again for a while.

use crate::engine::commit::CommitHandle;
use crate::engine::error::EngineError;
use crate::engine::gates::{Scarce, Shares};
use crate::engine::shared::Shared;
use crate::engine::types::BatchStatus;
use crate::model::batch::BatchId;
use crate::model::batch::BatchState;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::sync::Mutex;
use std::sync::Arc;

/// How many exports run at once. Each needs a thread, and reads the whole store.
pub(crate) const EXPORTS_MAX: usize = 4;
/// How many feeds of changes are open at once. Each needs a thread, and may be open for ever.
pub(crate) const CHANGES_MAX: usize = 32;
/// How many reports are read at once. Each needs a thread for as long as its client reads.
pub(crate) const REPORTS_MAX: usize = 16;
/// How many searches for lines run at once. Each needs a thread, and reads whole uploads.
const LINE_SEARCHES_MAX: usize = 2;

/// A client, how many visitors it has, and when they were counted.
pub(in crate::engine) type VisitorCount = (ClientCode, u64, Millis);

/// The state of the readers.
pub(in crate::engine) struct Reader {
    pub(in crate::engine) shared: Arc<Shared>,
    /// Says up to which seq everything is readable.
    pub(in crate::engine) commit: Arc<CommitHandle>,
    pub(in crate::engine) exports: Shares,
    pub(in crate::engine) changes: Shares,
    pub(in crate::engine) reports: Shares,
    pub(in crate::engine) line_searches: Shares,
    /// Counts of visitors, and searches by the value of an attribute: one at a time, for each reads the store.
    pub(in crate::engine) counts: Shares,
    /// The last counts, because a page that shows one is loaded often.
    pub(in crate::engine) visitor_counts: Mutex<Vec<VisitorCount>>,
}

impl Reader {
    /// The state at a start.
    pub(in crate::engine) fn new(shared: Arc<Shared>, commit: Arc<CommitHandle>) -> Self {
        let places = |scarce, max| Shares::new(scarce, max, &shared.metrics);
        Self {
            exports: places(Scarce::Exports, EXPORTS_MAX),
            changes: places(Scarce::Changes, CHANGES_MAX),
            reports: places(Scarce::Reports, REPORTS_MAX),
            line_searches: places(Scarce::LineSearches, LINE_SEARCHES_MAX),
            counts: places(Scarce::Counts, 1),
            visitor_counts: Mutex::default(),
            shared,
            commit,
        }
    }

    /// What time it is for a lookup: no earlier than the last write, also if the clock was set back.
    pub(in crate::engine) fn now(&self) -> Millis {
        self.shared.now().max(self.commit.last_seq().millis())
    }

    /// One batch.
    pub(in crate::engine) fn batch(&self, id: &BatchId) -> Option<BatchStatus> {
        let batches = &self.shared.batches;
        let status = batches.get(id).map(|known| BatchStatus::of(&known, self.shared.now()))?;
        Some(status.held(batches.why_held(id)).with_new(batches.names.new_of(id)))
    }

    /// One batch, or an error that says that it is not known.
    pub(in crate::engine) fn known_batch(&self, id: &BatchId) -> Result<BatchStatus, EngineError> {
        self.batch(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))
    }

    /// One batch, as long as its client may ask for it: some clients keep the status shorter than the batch, as Adobe does.
    pub(in crate::engine) fn batch_reported(&self, id: &BatchId) -> Option<BatchStatus> {
        let kept_ms = self.shared.settings(&id.client).ok()?.status_kept_ms;
        let over = kept_ms.is_some_and(|kept| id.seq.millis().plus(kept) <= self.shared.now());
        self.batch(id).filter(|batch| batch.state != BatchState::Complete || !over)
    }
}
