//! Starting and stopping the engine: from a data folder to running threads, and back.
//!
//! Promises: when [`BroughtUp::of`] returns, the store has everything that was accepted. A stop answers what was asked, takes a
//! last checkpoint, and ends every thread.

use crate::batch::catalogue;
use crate::clock::GuardedClock;
use crate::config::Config;
use crate::engine::commit::{self, CommitHandle, Committer, Request};
use crate::engine::disk_space::DiskSpace;
use crate::engine::error::{Fatal, OpenError};
use crate::engine::health::Health;
use crate::engine::ingest::apply_thread;
use crate::engine::ingest::state::{Ingest, Others};
use crate::engine::node::{Joining, Role, applied_offline};
use crate::engine::open::lock::lock_folder;
use crate::engine::open::rebuild::{self, Opened, Opening};
use crate::engine::open::recovery::write_checkpoint;
use crate::engine::open::store_folder::{Generation, StoreFolder};
use crate::engine::priority::give_way;
use crate::engine::read::state::Reader;
use crate::engine::shared::{Shared, blocking};
use crate::engine::signals::Signals;
use crate::engine::upkeep::erasures::ErasureList;
use crate::engine::upkeep::hold::{Hold, since_last_write};
use crate::engine::upkeep::passing::PassingBackup;
use crate::engine::upkeep::state::Upkeep;
use crate::engine::upkeep::tasks::Housekeeping;
use crate::engine::upkeep::{checkpoint, sweep};
use crate::folder;
use crate::journal::entry::{Checkpoint, OrderState};
use crate::journal::snapshot::Snapshots;
use crate::layout;
use crate::model::seq::{Seq, SeqSource};
use crate::store::swap::SwapStore;
use crate::sync::{Ordering, unpoisoned};
use crate::telemetry::metrics::Metrics;
use crate::tokens::TokensInUse;
use arc_swap::ArcSwap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::timeout;

/// The name of the threads that serve requests, and of those that block for them.
pub const SERVING_THREADS: &str = "serve";
/// How often a command looks whether all batches are applied.
const APPLIED_LOOK: Duration = Duration::from_millis(20);
/// How long a stop waits for uploads that were cut off to remove their files.
const UPLOADS_STOP_MAX: Duration = Duration::from_secs(1);

/// A data folder whose store has everything that was accepted. No thread works on it yet.
pub(super) struct BroughtUp {
    config: Config,
    clock: Arc<GuardedClock>,
    disk_space: DiskSpace,
    pub(super) store: Arc<SwapStore>,
    stores: StoreFolder,
    generation: Generation,
    snapshots: Snapshots,
    batches: Arc<crate::batch::queue::Batches>,
    spool: Arc<crate::batch::spool::Spool>,
    committer: Committer,
    erasures: ErasureList,
    /// What is wrong with the catalogue, if it was found damaged.
    pub(super) catalogue_damage: Option<catalogue::Damage>,
    folder_lock: File,
    /// How far the order of several nodes is applied; none if the folder is a single daemon's.
    order: Option<OrderState>,
}

/// A running engine: its rooms and its threads.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) commit: Arc<CommitHandle>,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) read: Arc<Reader>,
    pub(super) ingest: Arc<Ingest>,
    /// The threads that a stop waits for. Empty once one has.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl BroughtUp {
    /// Opens a data folder and recovers what is in it. The caller has checked that the folder is finished.
    pub(super) fn of(config: Config, clock: Arc<GuardedClock>, opening: &Opening) -> Result<Self, OpenError> {
        let data = &config.server.data_folder;
        let folder_lock = lock_folder(data)?;
        folder::check_format(data)?;
        if !folder::is_one(data) {
            // The stamp comes first, so that everybody takes the folder for a data folder from now on.
            folder::stamp(data)?;
        }
        PassingBackup::remove_all(data);
        let disk_space = DiskSpace::new(data, config.upkeep.disk_reserve_bytes);
        let Opened { store, mut stores, generation, made, snapshots, recovered } =
            rebuild::open(&config, &disk_space, opening)?;
        // Everything could be read, and nothing is written yet that an earlier program could not read.
        folder::stamp(data)?;
        let store = Arc::new(SwapStore::new(store, recovered.reach));
        let committer = Committer::new(
            recovered.log,
            Arc::clone(&store),
            Arc::clone(&recovered.batches),
            recovered.last_seq,
            Arc::clone(&clock) as _,
        );
        clock.start_after(recovered.last_seq.millis());
        if made {
            // From now on a restart finds the new store. If the process dies before this, the next start rebuilds it again.
            let failed = |error| OpenError::Folder { path: generation.path.clone(), error };
            let mark = Checkpoint { store_reach: store.make_durable()?.0, ..committer.mark() };
            recovered.batches.save().map_err(|error| failed(io::Error::other(error)))?;
            write_checkpoint(&generation.checkpoint_path(), &mark).map_err(failed)?;
            stores.adopt(&generation).map_err(failed)?;
        }
        if data.join(layout::ERASING).exists() {
            committer.oldest_erasure.store(0, Ordering::Release);
        }
        let failed = |error| OpenError::Folder { path: data.join(layout::ERASURES), error };
        let erasures = ErasureList::open(data, recovered.last_seq).map_err(failed)?;
        let (batches, spool) = (recovered.batches, recovered.spool);
        Ok(Self {
            config,
            clock,
            disk_space,
            store,
            stores,
            generation,
            snapshots,
            batches,
            spool,
            committer,
            erasures,
            catalogue_damage: recovered.catalogue_damage,
            folder_lock,
            order: recovered.order,
        })
    }

    /// Builds the rooms and starts the threads.
    pub(super) fn start(self, role: Role) -> Result<Running, OpenError> {
        let Self {
            config, clock, store, stores, generation, snapshots, mut committer, erasures, order, ..
        } = self;
        let metrics = Arc::<Metrics>::default();
        committer.metrics = Arc::clone(&metrics);
        let data = &config.server.data_folder;
        let tokens = match role {
            Role::Offline => TokensInUse::of_nobody(data),
            Role::Alone | Role::Node(_) => TokensInUse::read(data)?,
        };
        let tokens = Arc::new(tokens);
        committer.tokens = Some(Arc::clone(&tokens));
        if let Some(order) = &order {
            committer.seqs = SeqSource::after(committer.seqs.last().max(Seq::from_u64(order.last_seq)));
        }
        let (joining, others) = match (role, order) {
            (Role::Node(parts), order) => {
                let others = Others { pieces: Arc::clone(&parts.pieces), peers: Arc::clone(&parts.peers) };
                let joining = Joining::new(parts, order, Arc::clone(&clock) as _, &metrics)?;
                (Some(joining), Some(others))
            }
            (Role::Alone, _) if config.server.data_folder.join(layout::CLUSTER).exists() => {
                return Err(OpenError::OfCluster(config.server.data_folder.clone()));
            }
            // A folder that has left its order is a single daemon's.
            (Role::Alone, _) => (None, None),
            (Role::Offline, order) => {
                committer.order = order.map(applied_offline);
                (None, None)
            }
        };
        let in_no_order = joining.is_none() && committer.order.is_none();
        let (commit, requests) = CommitHandle::new(&committer);
        let last = committer.seqs.last();
        if config.server.data_folder.join(layout::ERASING).exists() {
            // Which tombstones went is not known any more.
            commit.note_erased_until(last);
        }
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            data_folder: config.server.data_folder.clone(),
            config: ArcSwap::new(Arc::clone(&config)),
            health: Health::at_start(clock.now(), clock.passed()),
            clock,
            disk_space: self.disk_space,
            store,
            batches: self.batches,
            spool: self.spool,
            tokens,
            metrics,
            signals: Signals::at_start(),
            folder_lock: crate::sync::Mutex::new(Some(self.folder_lock)),
        });
        let commit = Arc::new(commit);
        let node = joining.as_ref().map(|joining| Arc::clone(&joining.node));
        if let Some(joining) = &joining {
            committer.order = Some(joining.applied(&shared));
            commit.join(Arc::clone(&joining.node));
        }
        let hold = Hold::default();
        let (upkeep, asked) =
            Upkeep::new(Arc::clone(&shared), Arc::clone(&commit), generation, erasures, hold);
        let upkeep = Arc::new(upkeep);
        if upkeep.hold_if_long(since_last_write(last, shared.now()), &config) {
            tracing::warn!(
                last_write = %last.millis().iso_8601(),
                clock = %shared.now().iso_8601(),
                "the clock is long past the last write: for an hour no expired visitor is swept and no upload is removed for \
                 its age; if the clock is wrong, stop the daemon and set the clock"
            );
        }
        let read = Arc::new(Reader::new(Arc::clone(&shared), Arc::clone(&commit)));
        let ingest = Arc::new(Ingest::new(
            Arc::clone(&shared),
            Arc::clone(&commit),
            Arc::clone(&upkeep),
            Arc::clone(&read),
            &config,
            others,
        ));
        let running = Running { shared, commit, upkeep, read, ingest, threads: Mutex::default() };
        let shared = Arc::clone(&running.shared);
        running.spawn("commit", move || commit::thread::run(&shared, committer, requests, node))?;
        let ingest = Arc::clone(&running.ingest);
        running.spawn("apply", move || {
            give_way();
            apply_thread::run(&ingest);
        })?;
        let upkeep = Arc::clone(&running.upkeep);
        running.spawn("checkpoint", move || {
            give_way();
            checkpoint::run(&upkeep);
        })?;
        let upkeep = Arc::clone(&running.upkeep);
        running.spawn("sweep", move || {
            give_way();
            sweep::run(&upkeep);
        })?;
        let upkeep = Arc::clone(&running.upkeep);
        running.spawn("housekeeping", move || {
            give_way();
            Housekeeping::new(&upkeep, stores, snapshots).run(asked);
        })?;
        if in_no_order {
            // In an order that the folder has left, nobody counts any more what it had applied.
            for (id, counts) in running.shared.batches.uncounted() {
                let counted = running.commit.ask_blocking(Request::Count(id, counts));
                counted.map_err(OpenError::NotGoingOn)?;
            }
        }
        if let Some(joining) = joining {
            for (name, run) in joining.threads(&running.ingest)? {
                running.spawn(name, run)?;
            }
        }
        Ok(running)
    }
}

impl Running {
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let (shared, named) = (Arc::clone(&self.shared), name.to_owned());
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Wherever the thread was when it panicked, the journal is ahead of it. A restart repairs the rest.
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    shared.health.fail(&Fatal::new(format!("the {named} thread panicked")));
                }
            })
            .map_err(|error| OpenError::Folder { path: "(a thread)".into(), error })?;
        unpoisoned(self.threads.lock()).push(thread);
        Ok(())
    }

    /// Notes that a thread panicked. The engine's own threads say so themselves, and a call's thread fails that call. Any other
    /// thread is the store's or one that watches the other nodes, and then nobody knows what it has left undone.
    pub(super) fn thread_panicked(&self, name: Option<&str>) {
        const OTHERS: [&str; 16] = [
            "main",
            "commit",
            "apply",
            "apply-2",
            "checkpoint",
            "sweep",
            "housekeeping",
            "upload",
            "order",
            "pieces",
            "counts",
            "mend",
            "gather",
            SERVING_THREADS,
            "say",
            "log",
        ];
        if !name.is_some_and(|name| OTHERS.contains(&name)) {
            let name = name.unwrap_or("(without a name)");
            self.shared.health.fail(&Fatal::new(format!(
                "a thread panicked, and nobody knows what it has left undone: {name}"
            )));
        }
    }

    /// Stops the engine. Requests in the queue are answered; a batch that is being applied stays where it is.
    pub(super) async fn stop(self: &Arc<Self>) {
        self.shared.signals.stop();
        let uploads_gone = self.uploads_gone().await;
        let running = Arc::clone(self);
        let stopped = blocking(move || {
            running.stop_blocking();
            if uploads_gone {
                running.shared.unlock_folder();
            }
            Ok(())
        });
        if let Err(error) = stopped.await {
            tracing::error!(%error, "the stop did not finish");
        }
    }

    /// Stops the engine, from a thread that may block.
    pub(super) fn stop_blocking(&self) {
        let health = &self.shared.health;
        self.shared.signals.stop();
        self.shared.batches.close();
        self.upkeep.close();
        let threads = std::mem::take(&mut *unpoisoned(self.threads.lock()));
        let (commit, others): (Vec<_>, Vec<_>) =
            threads.into_iter().partition(|thread| thread.thread().name() == Some("commit"));
        for thread in others {
            join(thread);
        }
        if !health.has_failed()
            && let Err(error) = self.upkeep.checkpoint()
        {
            tracing::warn!(%error, "the last checkpoint could not be taken; the next start reads more of the journal");
        }
        self.commit.close();
        for thread in commit {
            join(thread);
        }
        self.upkeep.save_token_uses();
        if !health.has_failed() {
            self.upkeep.close_store();
        }
    }

    /// Waits until every pending batch is applied, except those that are held; or until the engine fails.
    pub(super) fn wait_until_applied(&self) {
        while self.shared.batches.any_goes_on() && !self.shared.health.has_failed() {
            self.shared.signals.wait(APPLIED_LOOK);
        }
    }

    /// Waits, but not long, until the uploads that were cut off have removed their files, and says whether they have. The next
    /// start removes the rest.
    async fn uploads_gone(&self) -> bool {
        let gone = async {
            self.ingest.uploads.all_free().await;
            self.ingest.dry_runs.all_free().await;
        };
        let all_gone = timeout(UPLOADS_STOP_MAX, gone).await.is_ok();
        if !all_gone {
            tracing::warn!("uploads that were cut off are still at work: the next start removes their files");
        }
        all_gone
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread had panicked");
    }
}
