//! What taking in batches owns: the places of the uploads, the speed of applying rows, and which batch is being applied.

use crate::config::Config;
use crate::engine::commit::CommitHandle;
use crate::engine::gates::{Scarce, Shares};
use crate::engine::ingest::throttle::Throttle;
use crate::engine::peers::Peers;
use crate::engine::read::state::Reader;
use crate::engine::shared::Shared;
use crate::engine::upkeep::state::Upkeep;
use crate::order::Log;
use crate::sync::{AtomicU64, Mutex};
use std::sync::Arc;

/// How many files of ids are erased at once. Each may be as large as a batch file, and its ids are in memory.
const ERASINGS_MAX: usize = 2;

/// The other nodes of several, as taking in batches needs them.
#[derive(Clone)]
pub(in crate::engine) struct Others {
    /// The files of batches, in pieces.
    pub(in crate::engine) pieces: Arc<dyn Log>,
    pub(in crate::engine) peers: Arc<dyn Peers>,
}

/// The state of the room.
pub(in crate::engine) struct Ingest {
    pub(in crate::engine) shared: Arc<Shared>,
    pub(in crate::engine) commit: Arc<CommitHandle>,
    /// Makes the store durable for the apply thread, and keeps it waiting while the store is rebuilt.
    pub(in crate::engine) upkeep: Arc<Upkeep>,
    /// Reports the rows of a dry run in the same way as those of a batch.
    pub(in crate::engine) read: Arc<Reader>,
    pub(in crate::engine) uploads: Shares,
    /// Dry runs: one at a time, for each needs as much memory as applying a batch.
    pub(in crate::engine) dry_runs: Shares,
    /// Files of ids, until all are erased.
    pub(in crate::engine) erasings: Shares,
    /// How fast rows are applied, and how the apply thread gives way to site calls.
    pub(in crate::engine) throttle: Arc<Throttle>,
    /// The seq of the batch that is being applied; 0 if none is. Its file must not be replaced meanwhile.
    pub(in crate::engine) applying_batch: AtomicU64,
    /// Where the files of batches go, and who waits for them, if there are several nodes.
    pub(in crate::engine) others: Option<Others>,
    /// Held while the file of a held batch is replaced: two calls must not replace the same one.
    pub(in crate::engine) replacing: Mutex<()>,
}

impl Ingest {
    /// The state at a start.
    pub(in crate::engine) fn new(
        shared: Arc<Shared>,
        commit: Arc<CommitHandle>,
        upkeep: Arc<Upkeep>,
        read: Arc<Reader>,
        config: &Config,
        others: Option<Others>,
    ) -> Self {
        let places = |scarce, max| Shares::new(scarce, max, &shared.metrics);
        Self {
            uploads: places(Scarce::Uploads, config.limits.concurrent_uploads_max),
            dry_runs: places(Scarce::DryRuns, 1),
            erasings: places(Scarce::Erasures, ERASINGS_MAX),
            throttle: Arc::default(),
            others,
            applying_batch: AtomicU64::new(0),
            replacing: Mutex::new(()),
            shared,
            commit,
            upkeep,
            read,
        }
    }
}
