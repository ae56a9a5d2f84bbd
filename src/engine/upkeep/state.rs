//! What the maintenance of the disk owns, and the steps that several of its tasks take.
//!
//! Promises: a checkpoint never speaks of another store than the one beside it; a store that could not be made durable is never
//! trusted again.

use crate::config::Config;
use crate::durable::sync_folder;
use crate::engine::commit::{Answer, CommitHandle, Request, VisitorWrite, WriteRules};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::{Scarce, Shares, Who};
use crate::engine::open::recovery::write_checkpoint;
use crate::engine::open::store_folder::Generation;
use crate::engine::shared::{Asked, Shared, blocking};
use crate::engine::types::Written;
use crate::engine::upkeep::erasures::ErasureList;
use crate::engine::upkeep::hold::Hold;
use crate::engine::upkeep::passing::LastForNode;
use crate::engine::upkeep::rebuild_status::RebuildStatus;
use crate::engine::upkeep::scheduled::BackupStatus;
use crate::engine::upkeep::task::{Done, Task};
use crate::engine::upkeep::tombstones::Tombstones;
use crate::journal::entry::Checkpoint;
use crate::model::author::Author;
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::seq::Seq;
use crate::store::Reach;
use crate::store::memory::MemoryStore;
use crate::sync::{Mutex, lock};
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The state of the maintenance.
pub(in crate::engine) struct Upkeep {
    pub(in crate::engine) shared: Arc<Shared>,
    pub(in crate::engine) commit: Arc<CommitHandle>,
    /// The queue of the maintenance thread. None once the daemon stops.
    tasks: std::sync::Mutex<Option<std::sync::mpsc::Sender<Asked<Task, Done>>>>,
    /// Callers who want a task wait here for their turn.
    turns: Shares,
    /// The list of all erasures, for restoring older backups.
    pub(in crate::engine) erasures: ErasureList,
    /// Whether expired data is kept for now, because the clock may be wrong.
    pub(in crate::engine) hold: Hold,
    /// Where the store in use is. Locked from a checkpoint's mark until it is noted, and while another store takes its place.
    pub(in crate::engine) generation: Mutex<Generation>,
    /// Which tombstones may be taken out.
    pub(in crate::engine) tombstones: Tombstones,
    /// Held while a batch is applied and while the store is rebuilt: rows would be missing in one of the two.
    pub(in crate::engine) applying: Mutex<()>,
    /// Whether the store is being rebuilt.
    pub(in crate::engine) rebuild: RebuildStatus,
    /// How the backups are that the daemon makes by itself.
    pub(in crate::engine) backups: BackupStatus,
    /// The snapshot that was made last for a node.
    pub(in crate::engine) last_for_node: LastForNode,
}

impl Upkeep {
    /// The state at a start, and the queue for the maintenance thread.
    pub(in crate::engine) fn new(
        shared: Arc<Shared>,
        commit: Arc<CommitHandle>,
        generation: Generation,
        erasures: ErasureList,
        hold: Hold,
    ) -> (Self, std::sync::mpsc::Receiver<Asked<Task, Done>>) {
        let (tasks, queue) = std::sync::mpsc::channel();
        let turns = Shares::new(Scarce::Tasks, 1, &shared.metrics);
        let upkeep = Self {
            shared,
            commit,
            tasks: std::sync::Mutex::new(Some(tasks)),
            turns,
            erasures,
            hold,
            generation: Mutex::new(generation),
            tombstones: Tombstones::default(),
            applying: Mutex::new(()),
            rebuild: RebuildStatus::default(),
            backups: BackupStatus::default(),
            last_for_node: LastForNode::default(),
        };
        (upkeep, queue)
    }

    /// Has a task done when it is this caller's turn. The turn lasts until the task is done, even if nobody waits any more.
    pub(in crate::engine) async fn task_in_turn(
        self: &Arc<Self>,
        who: &Who,
        task: Task,
    ) -> Result<Done, EngineError> {
        let turn = self.turns.take(who).await?;
        let upkeep = Arc::clone(self);
        let done = tokio::spawn(async move {
            let _turn = turn;
            upkeep.task(task).await
        });
        done.await.or_internal()?
    }

    /// Asks the maintenance thread.
    pub(in crate::engine) async fn task(&self, task: Task) -> Result<Done, EngineError> {
        let (reply, done) = oneshot::channel();
        let sent = {
            let tasks = crate::sync::unpoisoned(self.tasks.lock());
            tasks.as_ref().is_some_and(|tasks| tasks.send((task, reply)).is_ok())
        };
        if !sent {
            return Err(EngineError::Stopping);
        }
        done.await.map_err(|_| EngineError::Stopping)?
    }

    /// Takes no further tasks. The thread ends after the one it is at.
    pub(in crate::engine) fn close(&self) {
        drop(crate::sync::unpoisoned(self.tasks.lock()).take());
    }

    /// What a checkpoint begun now will cover. When it returns, the catalogue has on the disk what the checkpoint leaves to
    /// it: the complete batches.
    pub(in crate::engine) fn mark(&self) -> Result<Checkpoint, EngineError> {
        match self.commit.ask_blocking(Request::Mark)? {
            Answer::Marked(mark) => {
                self.shared.save_catalogue()?;
                Ok(mark)
            }
            other => Err(EngineError::internal(format!("a mark was answered with {other:?}"))),
        }
    }

    /// An error if long work that needs disk space must not go on: the daemon is stopping, or the disk is nearly full.
    pub(in crate::engine) fn go_on(&self) -> Result<(), EngineError> {
        self.shared.signals.go_on()?;
        self.shared.disk_space.for_upkeep()
    }

    /// Notes beside a generation that its store holds all that this checkpoint covers; durable when it returns.
    pub(in crate::engine) fn note(generation: &Generation, checkpoint: &Checkpoint) -> io::Result<()> {
        write_checkpoint(&generation.checkpoint_path(), checkpoint)
    }

    /// The store of this generation could not be made durable. Asked again it might report success, although what the failed
    /// attempt was about is on no disk. So the process ends, and the next start finds no checkpoint and rebuilds the store.
    pub(in crate::engine) fn distrust(
        &self,
        generation: &Generation,
        why: impl std::fmt::Display,
    ) -> EngineError {
        let path = generation.checkpoint_path();
        if let Err(error) = std::fs::remove_file(&path).and_then(|()| sync_folder(&generation.path)) {
            tracing::error!(path = %path.display(), %error, "the checkpoint of a store that failed could not be removed");
        }
        self.shared.give_up(why.to_string())
    }

    /// Makes the store durable. Gives how far it reaches then.
    pub(in crate::engine) fn make_store_durable(&self) -> Result<Reach, EngineError> {
        let made = self.shared.store.make_durable();
        made.map_err(|error| self.distrust(&lock(&self.generation), error))
    }

    /// Closes the store for good.
    pub(in crate::engine) fn close_store(&self) {
        drop(self.shared.store.replace(Arc::new(MemoryStore::default())));
    }

    /// Makes durable when tokens were last used. A failure loses no more than that.
    pub(in crate::engine) fn save_token_uses(&self) {
        if let Err(error) = self.shared.tokens.save_uses() {
            tracing::warn!(%error, "when tokens were last used could not be written; it is kept in memory, and tried again");
        }
    }

    /// Keeps what expired for a while, if the clock leapt so far that data may have expired only by it. Gives whether it does.
    pub(in crate::engine) fn hold_if_long(&self, leap: std::time::Duration, config: &Config) -> bool {
        self.hold.begin_if_long(leap, config, self.shared.clock.passed())
    }

    /// Notes an erasure in the list of them.
    pub(in crate::engine) async fn list_erasure(
        self: &Arc<Self>,
        seq: Option<Seq>,
        keys: Vec<Key>,
    ) -> Result<(), EngineError> {
        let Some(seq) = seq else { return Ok(()) };
        let upkeep = Arc::clone(self);
        blocking(move || upkeep.list_erasures_blocking(&[(seq, keys)])).await
    }

    /// Notes several, from a thread that may block.
    pub(in crate::engine) fn list_erasures_blocking(
        &self,
        erased: &[(Seq, Vec<Key>)],
    ) -> Result<(), EngineError> {
        self.erasures.note(erased).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::Full(format!(
                "the visitor is erased, but the list of erasures cannot grow; a backup from before may bring the visitor back: \
                 {error}"
            )),
            _ => EngineError::internal(error),
        })
    }

    /// Erases a visitor by one of its keys, from a thread that may block. Gives whether the visitor was known.
    pub(in crate::engine) fn erase_blocking(&self, key: &Key) -> Result<bool, EngineError> {
        let client = ClientCode::new(key.client()).or_internal()?;
        let id = VisitorId::new(key.kind(), key.id()).or_internal()?;
        let rules = WriteRules { lifetime_ms: u64::MAX, max_profile_bytes: usize::MAX, history_max: 0 };
        let erase = Request::Visitor(client, id, VisitorWrite::Erase, Author::default(), rules);
        match self.commit.ask_blocking(erase)? {
            Answer::Erased(Written { seq: Some(seq), known, .. }, keys) => {
                self.erasures.note(&[(seq, keys)]).or_internal()?;
                Ok(known)
            }
            _ => Ok(false),
        }
    }
}
