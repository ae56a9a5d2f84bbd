//! The entries of a commit group, and the checkpoint, as types.

use crate::journal::log::Position;
use crate::model::seq::Seq;
use crate::order::Place;
use crate::order::record::{ClusterId, RunId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Keys were changed: by a site call, a single update, a removal, an erasure, a bind; or rows were resolved.
    Write(WriteEntry),
    /// A batch was accepted: every row of it will be applied.
    BatchAccepted(BatchAcceptedEntry),
    /// A batch is applied, counted and checkpointed.
    BatchCompleted(BatchCompletedEntry),
    /// A batch was given up without being applied, because its file was damaged.
    BatchGivenUp(BatchGivenUpEntry),
    /// How far the order of several nodes is applied with this group. Always the last entry of a group.
    Order(OrderEntry),
    /// This node has applied and counted a batch. It is complete once it is counted in the order.
    BatchApplied(BatchCompletedEntry),
    /// A batch is counted in the order. This node may not have applied it yet.
    BatchCounted(BatchCompletedEntry),
}

impl Entry {
    /// How many bytes its encoding takes, at most.
    pub fn bytes_max(&self) -> usize {
        // A number takes nine bytes at most.
        const NUMBER: usize = 9;
        let batch = |batch: &BatchAcceptedEntry| {
            let key = batch.key.as_ref().map_or(0, |sent| sent.key.len());
            let blocked = batch.blocked_ids.iter().flatten().map(|id| NUMBER + id.len()).sum::<usize>();
            let name = batch.name.as_ref().map_or(0, |name| name.len());
            28 * NUMBER + batch.client.len() + key + blocked + name + batch.by.len()
        };
        let end = 8 * NUMBER;
        NUMBER
            + match self {
                Self::Write(write) => {
                    let changes = write.changes.iter();
                    let changes = changes.map(|change| change.key.len() + change.value.len() + 2 * NUMBER);
                    let bundles = write.resolved_bundles.iter();
                    let bundles = bundles.map(|bundle| (3 + 2 * bundle.became.len()) * NUMBER);
                    let resolved = write.resolved.len() * 3 * NUMBER;
                    let removed = write.cause.removed.iter().map(|name| NUMBER + name.len()).sum::<usize>();
                    7 * NUMBER + changes.sum::<usize>() + resolved + bundles.sum::<usize>() + removed
                }
                Self::BatchAccepted(accepted) => batch(accepted),
                Self::BatchCompleted(_) | Self::BatchApplied(_) | Self::BatchCounted(_) => end,
                // Nothing is asked of it: it comes once in a group.
                Self::Order(order) => (7 + 4 * order.runs.len()) * NUMBER,
                Self::BatchGivenUp(given_up) => batch(&given_up.accepted) + end,
            }
    }

    /// The seq that was given out for it. Zero if none was.
    pub fn seq(&self) -> Seq {
        Seq::from_u64(match self {
            Self::Write(write) => write.seq,
            Self::BatchAccepted(batch) => batch.seq,
            Self::BatchCompleted(_)
            | Self::BatchGivenUp(_)
            | Self::Order(_)
            | Self::BatchApplied(_)
            | Self::BatchCounted(_) => 0,
        })
    }
}

/// What a write changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteEntry {
    /// The write's seq. Zero if it has none: rows resolved for the apply thread, or values that the sweeper removed.
    pub seq: u64,
    /// The new values, in the order in which they are put.
    pub changes: Vec<Change>,
    /// What became of the pending rows that it resolved.
    pub resolved: Vec<Resolved>,
    /// What became of the resolved rows that share an id with many others of their batch.
    pub resolved_bundles: Vec<ResolvedBundle>,
    /// What the new values do not tell of it.
    pub cause: Cause,
}

/// What the new values do not tell of a write: nothing needs it but the feed of changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of write it was.
    pub kind: WriteKind,
    /// Whether the visitor also got attributes that other writes had set, or lost an id: a login merge, a full list of ids.
    pub whole: bool,
    /// The names of the attributes that it removed.
    pub removed: Vec<Box<str>>,
}

/// A kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WriteKind {
    /// None that has a seq; or an earlier program did not say.
    #[default]
    Unknown,
    /// An mbox or ubox call.
    Mbox,
    /// A Delivery API call.
    Delivery,
    /// A single update.
    SingleUpdate,
    /// The removal of attributes.
    Removal,
    /// The erasure of a visitor.
    Erasure,
    /// The removal of values that had expired.
    Sweep,
}

/// One key's new value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: ByteBuf,
    /// The value.
    pub value: ByteBuf,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Its batch's seq.
    pub batch: u64,
    /// Its line.
    pub line: u32,
    /// The number of its outcome: its code, unless the row left attributes alone.
    pub outcome: u64,
}

/// What became of the rows of one id in one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedBundle {
    /// Their batch's seq.
    pub batch: u64,
    /// The first one's line.
    pub first: u32,
    /// Runs of rows with the same outcome, in line order: how many rows, and the number of the outcome.
    pub became: Vec<(u32, u64)>,
}

/// An accepted batch. The attributes' names are left out: they may take a megabyte, and the first line of the file has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAcceptedEntry {
    /// The client's code.
    pub client: String,
    /// Its seq.
    pub seq: u64,
    /// The name of its file in the spool.
    pub spool: u64,
    /// Its file's size.
    pub bytes: u64,
    /// The CRC-32C of its file as it came. An earlier program may not have recorded it.
    pub crc32c: Option<u32>,
    /// How many rows it has.
    pub rows: u64,
    /// Whether it came by the v2 call.
    pub v2: bool,
    /// The code of the kind of id it is keyed by.
    pub key_kind: u8,
    /// R5: whether it creates profiles.
    pub creates: bool,
    /// R7: whether it replaces what earlier batches set.
    pub replaces: bool,
    /// R6: whether empty values remove.
    pub removes: bool,
    /// R11: how long a profile lives.
    pub lifetime_ms: u64,
    /// R9: how large a profile may be.
    pub max_profile_bytes: u64,
    /// The idempotency key that the client sent with it.
    pub key: Option<SentKeyEntry>,
    /// The code of the rules by which its rows are read.
    pub reading: u8,
    /// The blocked ids, which fail a row. None for the default list of these rules.
    pub blocked_ids: Option<Vec<Box<str>>>,
    /// How many earlier values of each attribute stay in the profile.
    pub history_max: u16,
    /// The time that its values are of, if it says so.
    pub as_of_ms: Option<u64>,
    /// The seq of the batch that it undoes, if it undoes one.
    pub undoes: Option<u64>,
    /// What its sender calls it.
    pub name: Option<Box<str>>,
    /// Who sent it, as `model::author` writes it. Empty where an earlier program did not record it.
    pub by: ByteBuf,
}

/// An idempotency key, and the length and checksum of what the client sent with it. The key stands for those bytes, whatever
/// happens to the file later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentKeyEntry {
    /// The key.
    pub key: String,
    /// How many bytes were sent.
    pub bytes: u64,
    /// Their CRC-32C. An earlier program may not have recorded it.
    pub crc32c: Option<u32>,
}

/// A batch's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCompletedEntry {
    /// Its seq.
    pub seq: u64,
    /// Rows by outcome.
    pub counts: crate::model::batch::Counts,
    /// When it ended.
    pub at_ms: u64,
    /// The reach of the store that held all of it then. 0 if an earlier program did not record it.
    pub store_reach: u64,
}

/// The end of a batch whose file was damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchGivenUpEntry {
    /// The batch, with the file that replaces its own.
    pub accepted: BatchAcceptedEntry,
    /// Its end.
    pub end: BatchCompletedEntry,
}

/// How far the order is applied with a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEntry {
    /// Which order.
    pub cluster: ClusterId,
    /// The place of the last request that is applied.
    pub place: Place,
    /// The CRC-32C of that request's record. Another record in its place means that the order is another one.
    pub record_crc32c: u32,
    /// The last seq that was given out, also to a request that then wrote nothing.
    pub last_seq: u64,
    /// The sum over all that was decided so far.
    pub checksum: u32,
    /// The runs whose requests the group has, each with its last number and the time of that. Those that come last in the
    /// group come last here.
    pub runs: Vec<RunOffered>,
}

/// The last request of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOffered {
    /// The run.
    pub run: RunId,
    /// The number of its last request.
    pub number: u64,
    /// When that request had its place, in milliseconds.
    pub at_ms: u64,
}

/// How far the order of several nodes is applied, and what goes with that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrderState {
    /// Which order. A folder whose order is lost may go on in another one.
    pub cluster: ClusterId,
    /// The place of the last request that is applied; none if none is.
    pub place: Option<Place>,
    /// The CRC-32C of that request's record.
    pub record_crc32c: u32,
    /// The last seq that was given out.
    pub last_seq: u64,
    /// The sum over all that was decided so far.
    pub checksum: u32,
    /// The last request of each run that offered anything lately. Those that did so last come last.
    pub runs: Vec<RunOffered>,
}

/// Where a restart begins, and the batches that are then incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The store holds all that the journal says up to here.
    pub position: (u64, u64),
    /// The highest seq given out.
    pub last_seq: u64,
    /// The batches of which the store does not hold all, in seq order.
    pub incomplete: Vec<KnownBatch>,
    /// How much of the catalogue of complete batches belongs to this checkpoint.
    pub catalogue: CatalogueMark,
    /// How far the order of several nodes was applied; none on a single daemon.
    pub order: Option<OrderState>,
    /// The reach of the store then. 0 in a snapshot, which belongs to no store, or if an earlier program did not record it.
    pub store_reach: u64,
    /// The complete batches that earlier programs listed here. From version 4 on, only the catalogue has them.
    #[serde(skip)]
    pub complete: Vec<(BatchAcceptedEntry, BatchCompletedEntry)>,
}

impl KnownBatch {
    /// A batch that is neither complete nor counted anywhere.
    pub fn pending(position: (u64, u64), accepted: BatchAcceptedEntry) -> Self {
        Self { position, accepted, completed: None, counted: None, applied: None }
    }
}

impl Checkpoint {
    /// Where a restart begins to read. The entry of the oldest incomplete batch, and the outcomes of its rows, may be before
    /// the checkpoint's own position.
    pub fn needs_journal_from(&self) -> Position {
        let lacking = self.incomplete.iter().filter(|batch| batch.applied.is_none());
        let from = lacking.map(|batch| batch.position).fold(self.position, std::cmp::Ord::min);
        Position::from_pair(from)
    }

    /// Whether the store held all of a batch then. The batch must be one that was accepted at some time.
    pub fn held(&self, batch: Seq) -> bool {
        let seq = batch.get();
        let listed = self.incomplete.binary_search_by_key(&seq, |known| known.accepted.seq).ok();
        let lacking =
            listed.and_then(|at| self.incomplete.get(at)).is_some_and(|known| known.applied.is_none());
        seq <= self.last_seq && !lacking
    }
}

/// A position in the catalogue. Every record before it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CatalogueMark {
    /// How often the catalogue was rewritten.
    pub generation: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// An incomplete batch in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBatch {
    /// Where in the journal its entry's group begins.
    pub position: (u64, u64),
    /// The batch.
    pub accepted: BatchAcceptedEntry,
    /// Its end, if it was complete in a store that was lost. The store in use does not hold all of it yet.
    pub completed: Option<BatchCompletedEntry>,
    /// Its end in the order of several nodes, if it is counted there.
    pub counted: Option<BatchCompletedEntry>,
    /// Its end on this node, if the store holds all of it, and it is not counted in the order yet.
    pub applied: Option<BatchCompletedEntry>,
}
