//! One node of several: the threads that a single daemon does not have, and what others may ask of it.
//!
//! ```text
//! order    reads the order, and hands its requests to the commit thread
//! pieces   takes in the files of batches that came to other nodes
//! counts   offers the counts of the batches that this node has applied
//! mend     gets the files of held batches from other nodes
//! ```
//!
//! Promises: a node that cannot apply what the order has stands or ends; it never skips a request.

use crate::engine::commit::node::{Node, Pump, Waits};
use crate::engine::commit::ordering::{Ordering as OrderApplied, Runs, Stand, Standing};
use crate::engine::commit::taking::Reply;
use crate::engine::commit::{Answer, Request};
use crate::engine::error::OpenError;
use crate::engine::ingest::from_all::{FromAll, TakenFiles};
use crate::engine::ingest::mend;
use crate::engine::ingest::state::Ingest;
use crate::engine::peers::Peers;
use crate::engine::shared::Shared;
use crate::engine::types::Written;
use crate::engine::upkeep::state::Upkeep;
use crate::journal::entry::OrderState;
use crate::model::seq::{Clock, Millis};
use crate::order::gather::{Gatherer, Gathering};
use crate::order::record::{ClusterId, RunId};
use crate::order::{Log, Offset};
use crate::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a node that cannot apply what comes next waits before it tries again.
const STAND: Duration = Duration::from_millis(200);
/// How often the counts of applied batches are looked for.
const COUNTS_LOOK: Duration = Duration::from_millis(50);

/// How many erasures are noted with one sync.
const NOTED_TOGETHER_MAX: usize = 1024;

/// What makes an engine one node of several.
#[derive(Clone)]
pub struct NodeParts {
    /// Which order it belongs to.
    pub cluster: ClusterId,
    /// This run of the node.
    pub run: RunId,
    /// The order.
    pub order: Arc<dyn Log>,
    /// The files of batches, in pieces.
    pub pieces: Arc<dyn Log>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// How offers are gathered.
    pub gathering: Gathering,
}

/// How far a node is in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderStatus {
    /// Whether it has applied all that the order had when it started, and so takes calls that write.
    pub serves: bool,
    /// The offset behind the last record that it has applied.
    pub applied: Offset,
    /// The order's end as last heard.
    pub end: Offset,
    /// The time of the last request that it has applied.
    pub applied_at: Millis,
    /// How old what it shows may be. Zero while it keeps up.
    pub behind: Duration,
    /// For how long the order could not be reached, and why.
    pub out_of_reach: Option<(Duration, String)>,
    /// Why the node cannot apply what comes next, if it cannot.
    pub standing: Option<String>,
    /// How many requests the order had twice.
    pub duplicates: u64,
    /// The sum over all that was decided.
    pub checksum: u32,
    /// The sum over all that was decided before an offset that every node passes; none before the first.
    pub mark: Option<(Offset, u32)>,
    /// The offset that the newest snapshot has everything before.
    pub snapshot: Offset,
    /// Pieces of files before this offset are needed by nobody who has that snapshot.
    pub pieces: Offset,
    /// All pieces of files before this offset are taken in.
    pub files: Offset,
}

impl OrderStatus {
    /// The status of a node that is so far, with a snapshot that covers this much.
    pub(super) fn of(node: &Node, snapshot: Offset, now: Millis) -> Self {
        let progress = &node.progress;
        let out_of_reach = progress.out_of_reach();
        let behind =
            progress.behind(now).max(out_of_reach.as_ref().map_or(Duration::ZERO, |(since, _)| *since));
        Self {
            snapshot,
            behind,
            pieces: node.needed.before(snapshot),
            files: node.needed.read_before(),
            mark: progress.mark(),
            serves: progress.serves(),
            applied: progress.applied_offset(),
            end: progress.end(),
            applied_at: progress.applied_at(),
            out_of_reach,
            standing: progress.standing(),
            duplicates: progress.duplicates(),
            checksum: progress.checksum(),
        }
    }

    /// How many records the order has that it has not applied.
    pub fn behind_records(&self) -> u64 {
        self.end.0.saturating_sub(self.applied.0)
    }

    /// How old what a lookup shows may be; none while the node keeps up.
    pub fn lookups_behind(&self) -> Option<Duration> {
        let keeps_up = self.serves && self.standing.is_none() && self.out_of_reach.is_none();
        (!keeps_up || !self.behind.is_zero()).then_some(self.behind)
    }

    /// Why the node is not ready, if it is not: it has not caught up yet, or was cut off or behind for this long.
    pub(super) fn not_ready(&self, after: Duration) -> Option<String> {
        if let Some(why) = &self.standing {
            return Some(format!("the node cannot apply what the order has: {why}"));
        }
        if !self.serves {
            let (applied, end) = (self.applied, self.end);
            return Some(format!("the node reads the order: it has applied {applied} of {end} records"));
        }
        if let Some((since, why)) = &self.out_of_reach {
            return (*since >= after).then(|| format!("for {} s now {why}", since.as_secs()));
        }
        let (behind, records) = (self.behind, self.behind_records());
        (behind >= after)
            .then(|| format!("the node is {} s behind the order, by {records} records", behind.as_secs()))
    }
}

/// What an engine is.
pub(super) enum Role {
    /// A single daemon.
    Alone,
    /// Work on a folder that no daemon serves, be it a single daemon's or a node's.
    Offline,
    /// One node of several.
    Node(NodeParts),
}

/// How far the order is applied on a folder that no node serves.
pub(super) fn applied_offline(state: OrderState) -> OrderApplied {
    OrderApplied::after(state, Arc::new(|_| Standing::Stop))
}

/// A node that is made, and whose threads do not run yet.
pub(super) struct Joining {
    pub(super) node: Arc<Node>,
    parts: NodeParts,
    state: OrderState,
}

impl Joining {
    /// Joins an order where this folder has left it; at its beginning, if the folder was in another order or in none.
    pub(super) fn new(
        parts: NodeParts,
        state: Option<OrderState>,
        clock: Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Folder { path: "(a thread)".into(), error };
        let state = state.filter(|state| state.cluster == parts.cluster);
        let state = state.unwrap_or_else(|| OrderState { cluster: parts.cluster, ..OrderState::default() });
        let gatherer =
            Gatherer::start(Arc::clone(&parts.order), parts.run, clock, parts.gathering).map_err(failed)?;
        let node = Arc::new(Node::new(gatherer, state.place, Arc::clone(metrics)));
        Ok(Self { node, parts, state })
    }

    /// How far the order is applied, for the commit thread.
    pub(super) fn applied(&self, shared: &Arc<Shared>) -> OrderApplied {
        let (shared, node) = (Arc::clone(shared), Arc::clone(&self.node));
        let stand: Stand = Arc::new(move |why| {
            node.progress.note_standing(why);
            shared.health.commit.beat();
            if shared.signals.wait(STAND) { Standing::TryAgain } else { Standing::Stop }
        });
        OrderApplied::after(self.state.clone(), stand)
    }
}

/// A thread of a node: its name, and what it does.
pub(super) type NodeThread = (&'static str, Box<dyn FnOnce() + Send>);

impl Joining {
    /// The threads of a node.
    pub(super) fn threads(self, ingest: &Arc<Ingest>) -> Result<[NodeThread; 4], OpenError> {
        let Self { node, parts, state } = self;
        let shared = Arc::clone(&ingest.shared);
        let (log, needed, peers) = (parts.pieces, Arc::clone(&node.needed), parts.peers);
        let files = FromAll::new(Arc::clone(&shared), log, parts.run, needed, Arc::clone(&peers));
        let (files, mended) = (Arc::new(files), Arc::clone(ingest));
        let throttle = Arc::clone(&ingest.throttle);
        let waits: Waits = Arc::new(move || Box::new(throttle.site_call()));
        let (erasures, erased) = std::sync::mpsc::channel();
        let upkeep = Arc::clone(&ingest.upkeep);
        let pump = Pump {
            other_since: None,
            erasures,
            shared: Arc::clone(&shared),
            node: Arc::clone(&node),
            log: parts.order,
            files: Box::new(TakenFiles(Arc::clone(&files))),
            queue: ingest.commit.sender().map_err(OpenError::NotGoingOn)?,
            cluster: parts.cluster,
            waits,
            applied: state.place.map(|place| (place, state.record_crc32c)),
            seen: Runs::of(&state.runs),
        };
        Ok([
            ("pieces", Box::new(move || files.run())),
            ("order", Box::new(move || pump.run())),
            ("counts", Box::new(move || offer_counts(&upkeep, &node, &erased))),
            ("mend", Box::new(move || mend::run(&mended, &*peers))),
        ])
    }
}

/// Offers the counts of the batches that this node has applied, until the order has them. Also notes the erasures that came to
/// other nodes in this node's list of them.
fn offer_counts(upkeep: &Upkeep, node: &Node, erased: &Receiver<oneshot::Receiver<Reply>>) {
    let shared = &upkeep.shared;
    while shared.signals.wait(COUNTS_LOOK) {
        node.drop_unaccepted();
        note_erasures(upkeep, erased.try_iter());
        for (id, counts) in shared.batches.uncounted() {
            if let Err(error) = node.ask_blocking(&Request::Count(id, counts)) {
                tracing::debug!(%error, "the count of a batch is not in the order yet");
                break;
            }
        }
    }
    // Until the pump has ended, too.
    note_erasures(upkeep, erased.iter());
}

/// Notes erasures in this node's list, once they are applied: many with one sync, because a call may erase many visitors.
fn note_erasures(upkeep: &Upkeep, answers: impl Iterator<Item = oneshot::Receiver<Reply>>) {
    let mut erased = vec![];
    let note = |erased: &mut Vec<_>| {
        if let Err(error) = upkeep.erasures.note(erased) {
            tracing::error!(%error, "erasures are not in the list of erasures: after a restore this node would not know of them");
        }
        erased.clear();
    };
    for answer in answers {
        if let Ok(Ok(Answer::Erased(Written { seq: Some(seq), .. }, keys))) = answer.blocking_recv() {
            erased.push((seq, keys));
        }
        if erased.len() == NOTED_TOGETHER_MAX {
            note(&mut erased);
        }
    }
    note(&mut erased);
}
