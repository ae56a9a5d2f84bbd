//! What every room may use: the settings, the clock, the disk, the store, the batches, the metrics, and how the engine is.
//!
//! A room gets this in an `Arc`, and keeps what only it changes in its own state.
//!
//! **Lock order.** A thread that holds a lock may take only locks that stand below it:
//!
//! | lock | where | who takes it |
//! | --- | --- | --- |
//! | `replacing` | ingest | whoever replaces the file of a held batch, until the batch goes on |
//! | `applying` | upkeep | the apply thread, for one batch; a rebuild of the store, until the new one is in use |
//! | `Tombstones::staying` | upkeep | a snapshot and a rebuild, as long as they last; the sweeper only tries |
//! | `generation` | upkeep | a checkpoint, from its mark until it is noted; whoever puts another store in use |
//! | the commit thread | commit | not a lock, but whoever holds one of the above may wait for its answer. It takes none of the above |
//! | the locks of the batches, the store, the spool and the tokens | batch, store, tokens | for single steps |
//! | the queue of the tasks, the counts, the list of active visitors, the list of erasures, the gates, the throttle, the signals | each room | for single steps; under them no other lock is taken |

use crate::batch::catalogue::SaveError;
use crate::batch::queue::Batches;
use crate::batch::resolve::ResolveError;
use crate::batch::spool::Spool;
use crate::clock::GuardedClock;
use crate::config::{ClientSettings, Config};
use crate::durable::point;
use crate::engine::disk_space::DiskSpace;
use crate::engine::error::{EngineError, Fatal, OrInternal};
use crate::engine::health::Health;
use crate::engine::signals::Signals;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::store::swap::SwapStore;
use crate::sync::{Mutex, lock};
use crate::telemetry::metrics::Metrics;
use crate::tokens::TokensInUse;
use arc_swap::ArcSwap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often a thread looks whether a full disk has space again.
const SPACE_LOOK: Duration = Duration::from_millis(200);

/// A request to a thread, and where its answer goes.
pub(super) type Asked<Q, A> = (Q, oneshot::Sender<Result<A, EngineError>>);

/// What every room may use.
pub(super) struct Shared {
    /// The folder that keeps everything.
    pub(super) data_folder: PathBuf,
    /// The settings. A SIGHUP replaces them as a whole, while calls read them.
    pub(super) config: ArcSwap<Config>,
    /// The one source of the time.
    pub(super) clock: Arc<GuardedClock>,
    /// How much the disk still takes, and what is refused when that is little.
    pub(super) disk_space: DiskSpace,
    /// The store in use. The commit thread and the apply thread write to it, everybody reads it.
    pub(super) store: Arc<SwapStore>,
    /// The batches that are kept, the pending ones with their rows.
    pub(super) batches: Arc<Batches>,
    /// The files of the uploads.
    pub(super) spool: Arc<Spool>,
    /// The access tokens. Only the commit thread changes them.
    pub(super) tokens: Arc<TokensInUse>,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
    /// Failures, heartbeats and gauges.
    pub(super) health: Health,
    /// Stopping, and checkpoints that are due.
    pub(super) signals: Signals,
    /// Keeps a second daemon out of the data folder. A stop opens it once nothing here touches the folder any more: a thread
    /// that has answered may hold this a moment longer.
    pub(super) folder_lock: Mutex<Option<File>>,
}

impl Shared {
    /// The settings as they are now.
    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The settings of a client.
    pub(super) fn settings(&self, client: &ClientCode) -> Result<ClientSettings, EngineError> {
        self.config().client(client).ok_or_else(|| EngineError::UnknownClient(client.clone()))
    }

    /// The most bytes that a profile may have (R9).
    pub(super) fn profile_bytes_max(&self) -> usize {
        usize::try_from(self.config().limits.profile_bytes_max).unwrap_or(usize::MAX)
    }

    /// Lets the next daemon have the data folder.
    pub(super) fn unlock_folder(&self) {
        drop(lock(&self.folder_lock).take());
    }

    /// What time it is.
    pub(super) fn now(&self) -> Millis {
        self.clock.now()
    }

    /// The process cannot go on: notes why, and gives the error for whoever waits.
    pub(super) fn give_up(&self, why: String) -> EngineError {
        self.health.fail(&Fatal::new(&why));
        EngineError::Internal(why)
    }

    /// The caller's error for something that could not be read. Damage of the store is noted, so that it is rebuilt.
    pub(super) fn reported(&self, error: impl Into<ResolveError>) -> EngineError {
        match error.into() {
            ResolveError::Store(error) if error.is_damage() => {
                self.store.note_damage(&error);
                EngineError::Unreadable
            }
            ResolveError::Held { batch, why } => EngineError::Held { batch, why },
            error => EngineError::internal(error),
        }
    }

    /// Waits while the disk has too little space for work that can wait. Gives whether to go on.
    pub(super) fn wait_for_disk_space(&self) -> bool {
        while self.disk_space.for_upkeep().is_err() && self.signals.wait(SPACE_LOOK) {}
        !self.signals.is_stopping()
    }

    /// Makes the catalogue of complete batches durable.
    pub(super) fn save_catalogue(&self) -> Result<(), EngineError> {
        self.catalogue_saved(self.batches.save())
    }

    /// What saving the catalogue came to. If it may have lost entries, the process cannot go on.
    pub(super) fn catalogue_saved(&self, saved: Result<(), SaveError>) -> Result<(), EngineError> {
        saved.map_err(|error| match error {
            SaveError::Refused { .. } => EngineError::internal(error),
            SaveError::Lost { .. } => self.give_up(error.to_string()),
        })
    }
}

/// Does work that may block, on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.or_internal()?
}

/// A place where a test build may kill one of the engine's threads.
pub(super) fn thread_point(name: &str) {
    point(name).unwrap_or_default();
}
