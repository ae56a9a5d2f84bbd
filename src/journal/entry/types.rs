//! The entries of a commit group, and the checkpoint, as types.

use crate::journal::log::Position;
use crate::model::seq::Seq;
use crate::order::Place;
use crate::order::record::RunId;
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
    /// How many bytes it takes at most.
    pub fn bytes_max(&self) -> usize {
        // A number takes nine bytes at most.
        const NUMBER: usize = 9;
        let batch = |batch: &BatchAcceptedEntry| {
            let key = batch.key.as_ref().map_or(0, |sent| sent.key.len());
            let blocked = batch.blocked_ids.iter().flatten().map(|id| NUMBER + id.len()).sum::<usize>();
            21 * NUMBER + batch.client.len() + key + blocked
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
                Self::Order(order) => (5 + 4 * order.runs.len()) * NUMBER,
                Self::BatchGivenUp(given_up) => batch(&given_up.accepted) + end,
            }
    }

    /// The seq it speaks of; zero for none.
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
    /// The write's seq; zero if it is none that has one: rows resolved for the apply thread, values that the sweeper removed.
    pub seq: u64,
    /// The values that now stand, in the order in which they are put.
    pub changes: Vec<Change>,
    /// What became of the pending rows that it resolved.
    pub resolved: Vec<Resolved>,
    /// What became of those that share an id with many others of their batch.
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
    /// The code of its outcome.
    pub outcome: u8,
}

/// What became of the rows of one id in one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedBundle {
    /// Their batch's seq.
    pub batch: u64,
    /// The first one's line.
    pub first: u32,
    /// How many of them one behind the other, in line order, had an outcome, and its code.
    pub became: Vec<(u32, u8)>,
}

/// A batch as it was accepted. Its attributes' names are not in it: they may come to a megabyte, and are the first line of
/// its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAcceptedEntry {
    /// Whose.
    pub client: String,
    /// Its seq.
    pub seq: u64,
    /// What its file is called by.
    pub spool: u64,
    /// Its file's size.
    pub bytes: u64,
    /// The CRC-32C of its file as it came; none if an earlier program took none.
    pub crc32c: Option<u32>,
    /// Its rows.
    pub rows: u64,
    /// Whether it came by the v2 call.
    pub v2: bool,
    /// The code of the kind of id it is keyed by.
    pub key_kind: u8,
    /// R5.
    pub creates: bool,
    /// R7: whether it replaces what earlier ones set.
    pub replaces: bool,
    /// R6: whether empty values remove.
    pub removes: bool,
    /// R11.
    pub lifetime_ms: u64,
    /// R9.
    pub max_profile_bytes: u64,
    /// What the client called this sending of it.
    pub key: Option<SentKeyEntry>,
    /// The code of the rules by which its rows are read.
    pub reading: u8,
    /// Which ids fail a row, if not those that are blocked by default under these rules.
    pub blocked_ids: Option<Vec<Box<str>>>,
}

/// What a client called one sending of a batch, and what it then sent: whatever becomes of the file, the key stands for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentKeyEntry {
    /// The key.
    pub key: String,
    /// How many bytes were sent.
    pub bytes: u64,
    /// Their CRC-32C; none if an earlier program took none.
    pub crc32c: Option<u32>,
}

/// A batch's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCompletedEntry {
    /// Its seq.
    pub seq: u64,
    /// Rows by outcome.
    pub counts: crate::model::batch::Counts,
    /// When.
    pub at_ms: u64,
    /// How far the store reached that then held all of it; 0 if an earlier program did not say.
    pub store_reach: u64,
}

/// The end of a batch whose file was damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchGivenUpEntry {
    /// The batch, with the file that stands in the place of its own.
    pub accepted: BatchAcceptedEntry,
    /// Its end.
    pub end: BatchCompletedEntry,
}

/// How far the order is applied with a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEntry {
    /// The place of the last request that is applied.
    pub place: Place,
    /// The CRC-32C of that request's record. Another record in its place means that the order is another one.
    pub record_crc32c: u32,
    /// The last seq that was given out, also to a request that then wrote nothing.
    pub last_seq: u64,
    /// The sum over all that was decided so far.
    pub checksum: u32,
    /// The runs whose requests the group has, each with its last number and the time of that.
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
    /// The place of the last request that is applied; none if none is.
    pub place: Option<Place>,
    /// The CRC-32C of that request's record.
    pub record_crc32c: u32,
    /// The last seq that was given out.
    pub last_seq: u64,
    /// The sum over all that was decided so far.
    pub checksum: u32,
    /// The last request of each run that offered anything lately.
    pub runs: Vec<RunOffered>,
}

/// Where a restart begins, and the batches that are then incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The store holds all that the journal says up to here.
    pub position: (u64, u64),
    /// The highest seq given out.
    pub last_seq: u64,
    /// The batches that the store does not hold all of, in seq order, with the position behind which each one's entry stands.
    pub incomplete: Vec<KnownBatch>,
    /// How far the catalogue of complete batches reaches that goes with it.
    pub catalogue: CatalogueMark,
    /// How far the order of several nodes was applied; none on a single daemon.
    pub order: Option<OrderState>,
    /// How far the store reached then; 0 in a snapshot, which speaks of no store, and if an earlier program did not say.
    pub store_reach: u64,
    /// The complete batches, as earlier programs listed them here; from version 4 on they stand in the catalogue alone.
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
    /// Where a restart begins to read: the oldest incomplete batch's entry, and what became of its rows, may stand
    /// before the checkpoint itself.
    pub fn needs_journal_from(&self) -> Position {
        let lacking = self.incomplete.iter().filter(|batch| batch.applied.is_none());
        let from = lacking.map(|batch| batch.position).fold(self.position, std::cmp::Ord::min);
        Position::from_pair(from)
    }

    /// Whether the store held all of a batch then; whoever asks knows that it was accepted one day.
    pub fn held(&self, batch: Seq) -> bool {
        let seq = batch.get();
        let listed = self.incomplete.binary_search_by_key(&seq, |known| known.accepted.seq).ok();
        let lacking =
            listed.and_then(|at| self.incomplete.get(at)).is_some_and(|known| known.applied.is_none());
        seq <= self.last_seq && !lacking
    }
}

/// How far a catalogue reaches: up to there every record is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CatalogueMark {
    /// How often it was written anew.
    pub generation: u64,
    /// Its length.
    pub bytes: u64,
}

/// An incomplete batch in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBatch {
    /// Where in the journal its entry's group begins.
    pub position: (u64, u64),
    /// The batch.
    pub accepted: BatchAcceptedEntry,
    /// Its end, if it was complete before, in a store that was lost: this one does not hold all of it yet.
    pub completed: Option<BatchCompletedEntry>,
    /// Its end in the order of several nodes, if it is counted there.
    pub counted: Option<BatchCompletedEntry>,
    /// Its end on this node, if the store holds all of it, and it is not counted in the order yet.
    pub applied: Option<BatchCompletedEntry>,
}
