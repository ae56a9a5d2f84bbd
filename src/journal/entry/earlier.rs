//! Reads earlier versions of groups and checkpoints.
//!
//! Versions 1 to 3 describe a batch and resolved rows differently. Their checkpoints also list complete batches, and they have
//! no `store_reach`. Version 4 lacks how a batch's rows are read. Version 5 lacks the kind of a write, and its checkpoints lack
//! the order of several nodes. Version 6 lacks how much history a batch keeps, what time it is of, and what it undoes.
//! Everything else was as it is now.

use super::types::{
    BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, CatalogueMark, Cause, Change, Checkpoint,
    Entry, KnownBatch, OrderEntry, OrderState, Resolved, ResolvedBundle, SentKeyEntry, WriteEntry,
};
use crate::model::batch::{Counts, RowReading};
use crate::model::codec::{self, CodecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// An accepted batch as one version wrote it.
pub(super) trait Accepted: DeserializeOwned + Into<BatchAcceptedEntry> {
    /// The version.
    const VERSION: u8;
    /// A write as that version wrote it.
    type Write: DeserializeOwned + Into<WriteEntry>;
    /// A batch's end as that version wrote it.
    type End: DeserializeOwned + Into<BatchCompletedEntry>;
}

/// Version 1 has no checksum of the uploaded file.
#[derive(Deserialize)]
pub(super) struct Version1 {
    client: String,
    seq: u64,
    spool: u64,
    bytes: u64,
    rows: u64,
    v2: bool,
    key_kind: u8,
    names: Vec<Box<str>>,
    creates: bool,
    replaces: bool,
    removes: bool,
    lifetime_ms: u64,
    max_profile_bytes: u64,
}

/// A batch's end, as versions 1 to 3 wrote it.
#[derive(Deserialize)]
pub(super) struct Completed {
    seq: u64,
    counts: Counts,
    at_ms: u64,
}

impl From<Completed> for BatchCompletedEntry {
    fn from(Completed { seq, counts, at_ms }: Completed) -> Self {
        Self { seq, counts, at_ms, store_reach: 0 }
    }
}

/// Version 2 has no idempotency key.
#[derive(Deserialize)]
pub(super) struct Version2 {
    client: String,
    seq: u64,
    spool: u64,
    bytes: u64,
    crc32c: Option<u32>,
    rows: u64,
    v2: bool,
    key_kind: u8,
    names: Vec<Box<str>>,
    creates: bool,
    replaces: bool,
    removes: bool,
    lifetime_ms: u64,
    max_profile_bytes: u64,
}

/// Version 3 has the attributes' names. It has no length and checksum of what was sent with the idempotency key, because it used
/// those of the file.
#[derive(Deserialize)]
pub(super) struct Version3 {
    client: String,
    seq: u64,
    spool: u64,
    bytes: u64,
    crc32c: Option<u32>,
    rows: u64,
    v2: bool,
    key_kind: u8,
    names: Vec<Box<str>>,
    creates: bool,
    replaces: bool,
    removes: bool,
    lifetime_ms: u64,
    max_profile_bytes: u64,
    key: Option<String>,
}

/// Version 4 does not have how rows are read. Records of the catalogue that begin with a 1 have the same form.
#[derive(Debug, Clone, Deserialize)]
pub struct Version4 {
    client: String,
    seq: u64,
    spool: u64,
    bytes: u64,
    crc32c: Option<u32>,
    rows: u64,
    v2: bool,
    key_kind: u8,
    creates: bool,
    replaces: bool,
    removes: bool,
    lifetime_ms: u64,
    max_profile_bytes: u64,
    key: Option<SentKeyEntry>,
}

/// Version 6 does not have how much history a batch keeps, what time it is of, and what it undoes. Version 5 has accepted
/// batches of the same form, and so have records of the catalogue that begin with a 2, and requests of several nodes that
/// begin with a 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Version6 {
    client: String,
    seq: u64,
    spool: u64,
    bytes: u64,
    crc32c: Option<u32>,
    rows: u64,
    v2: bool,
    key_kind: u8,
    creates: bool,
    replaces: bool,
    removes: bool,
    lifetime_ms: u64,
    max_profile_bytes: u64,
    key: Option<SentKeyEntry>,
    reading: u8,
    blocked_ids: Option<Vec<Box<str>>>,
}

/// Version 5 has an accepted batch as version 6 has it.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Version5(Version6);

impl Accepted for Version1 {
    const VERSION: u8 = 1;
    type Write = Write;
    type End = Completed;
}

impl Accepted for Version2 {
    const VERSION: u8 = 2;
    type Write = Write;
    type End = Completed;
}

impl Accepted for Version3 {
    const VERSION: u8 = 3;
    type Write = Write;
    type End = Completed;
}

impl Accepted for Version4 {
    const VERSION: u8 = 4;
    type Write = Write5;
    type End = BatchCompletedEntry;
}

impl Accepted for Version5 {
    const VERSION: u8 = 5;
    type Write = Write5;
    type End = BatchCompletedEntry;
}

impl Accepted for Version6 {
    const VERSION: u8 = 6;
    type Write = WriteEntry;
    type End = BatchCompletedEntry;
}

/// A write before version 4: it lists resolved rows one by one.
#[derive(Deserialize)]
pub(super) struct Write {
    seq: u64,
    changes: Vec<Change>,
    resolved: Vec<Resolved>,
}

impl From<Write> for WriteEntry {
    fn from(Write { seq, changes, resolved }: Write) -> Self {
        Write5 { seq, changes, resolved, resolved_bundles: vec![] }.into()
    }
}

/// A write before version 6: it does not have its kind.
#[derive(Deserialize)]
pub(super) struct Write5 {
    seq: u64,
    changes: Vec<Change>,
    resolved: Vec<Resolved>,
    resolved_bundles: Vec<ResolvedBundle>,
}

impl From<Write5> for WriteEntry {
    fn from(Write5 { seq, changes, resolved, resolved_bundles }: Write5) -> Self {
        Self { seq, changes, resolved, resolved_bundles, cause: Cause::default() }
    }
}

#[derive(Deserialize)]
enum EntryOf<W, A, E> {
    Write(W),
    BatchAccepted(A),
    BatchCompleted(E),
    BatchGivenUp(GivenUp<A, E>),
    /// From version 6 on, as the next ones.
    Order(OrderEntry),
    BatchApplied(BatchCompletedEntry),
    BatchCounted(BatchCompletedEntry),
}

#[derive(Deserialize)]
struct GivenUp<A, E> {
    accepted: A,
    end: E,
}

#[derive(Deserialize)]
struct CheckpointOf<A> {
    position: (u64, u64),
    last_seq: u64,
    batches: Vec<Known<A, Completed>>,
}

#[derive(Deserialize)]
struct Known<A, E> {
    position: (u64, u64),
    accepted: A,
    completed: Option<E>,
}

#[derive(Deserialize)]
struct Checkpoint4<A> {
    position: (u64, u64),
    last_seq: u64,
    incomplete: Vec<Known<A, BatchCompletedEntry>>,
    catalogue: CatalogueMark,
    store_reach: u64,
}

#[derive(Deserialize)]
struct Checkpoint6 {
    position: (u64, u64),
    last_seq: u64,
    incomplete: Vec<Known6>,
    catalogue: CatalogueMark,
    order: Option<OrderState>,
    store_reach: u64,
}

#[derive(Deserialize)]
struct Known6 {
    position: (u64, u64),
    accepted: Version6,
    completed: Option<BatchCompletedEntry>,
    counted: Option<BatchCompletedEntry>,
    applied: Option<BatchCompletedEntry>,
}

pub(super) fn decode_group<A: Accepted>(payload: &[u8]) -> Result<Vec<Entry>, CodecError> {
    let entries: Vec<EntryOf<A::Write, A, A::End>> = codec::decode(A::VERSION, payload)?;
    let entry = |entry: EntryOf<A::Write, A, A::End>| match entry {
        EntryOf::Write(write) => Entry::Write(write.into()),
        EntryOf::BatchAccepted(batch) => Entry::BatchAccepted(batch.into()),
        EntryOf::BatchCompleted(end) => Entry::BatchCompleted(end.into()),
        EntryOf::BatchGivenUp(GivenUp { accepted, end }) => {
            Entry::BatchGivenUp(BatchGivenUpEntry { accepted: accepted.into(), end: end.into() })
        }
        EntryOf::Order(order) => Entry::Order(order),
        EntryOf::BatchApplied(end) => Entry::BatchApplied(end),
        EntryOf::BatchCounted(end) => Entry::BatchCounted(end),
    };
    Ok(entries.into_iter().map(entry).collect())
}

pub(super) fn decode_checkpoint<A: Accepted>(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
    let CheckpointOf::<A> { position, last_seq, batches } = codec::decode(A::VERSION, bytes)?;
    let mut checkpoint = Checkpoint { position, last_seq, ..Checkpoint::default() };
    for Known { position, accepted, completed } in batches {
        let accepted = accepted.into();
        match completed {
            Some(end) => checkpoint.complete.push((accepted, end.into())),
            None => checkpoint.incomplete.push(KnownBatch::pending(position, accepted)),
        }
    }
    // They were listed client by client.
    checkpoint.incomplete.sort_by_key(|known| known.accepted.seq);
    Ok(checkpoint)
}

/// A checkpoint of version 4 or 5, with batches as that version wrote them.
pub(super) fn decode_checkpoint_4<A: DeserializeOwned + Into<BatchAcceptedEntry>>(
    version: u8,
    bytes: &[u8],
) -> Result<Checkpoint, CodecError> {
    let Checkpoint4::<A> { position, last_seq, incomplete, catalogue, store_reach } =
        codec::decode(version, bytes)?;
    let known = |Known { position, accepted, completed }: Known<A, BatchCompletedEntry>| KnownBatch {
        completed,
        ..KnownBatch::pending(position, accepted.into())
    };
    let incomplete = incomplete.into_iter().map(known).collect();
    Ok(Checkpoint { position, last_seq, incomplete, catalogue, store_reach, ..Checkpoint::default() })
}

/// A checkpoint of version 6.
pub(super) fn decode_checkpoint_6(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
    let Checkpoint6 { position, last_seq, incomplete, catalogue, order, store_reach } =
        codec::decode(Version6::VERSION, bytes)?;
    let known = |Known6 { position, accepted, completed, counted, applied }| KnownBatch {
        position,
        accepted: BatchAcceptedEntry::from(accepted),
        completed,
        counted,
        applied,
    };
    let incomplete = incomplete.into_iter().map(known).collect();
    Ok(Checkpoint { position, last_seq, incomplete, catalogue, order, store_reach, complete: vec![] })
}

impl From<Version1> for BatchAcceptedEntry {
    fn from(batch: Version1) -> Self {
        Version2 {
            client: batch.client,
            seq: batch.seq,
            spool: batch.spool,
            bytes: batch.bytes,
            crc32c: None,
            rows: batch.rows,
            v2: batch.v2,
            key_kind: batch.key_kind,
            names: batch.names,
            creates: batch.creates,
            replaces: batch.replaces,
            removes: batch.removes,
            lifetime_ms: batch.lifetime_ms,
            max_profile_bytes: batch.max_profile_bytes,
        }
        .into()
    }
}

impl From<Version2> for BatchAcceptedEntry {
    fn from(batch: Version2) -> Self {
        Version3 {
            client: batch.client,
            seq: batch.seq,
            spool: batch.spool,
            bytes: batch.bytes,
            crc32c: batch.crc32c,
            rows: batch.rows,
            v2: batch.v2,
            key_kind: batch.key_kind,
            names: batch.names,
            creates: batch.creates,
            replaces: batch.replaces,
            removes: batch.removes,
            lifetime_ms: batch.lifetime_ms,
            max_profile_bytes: batch.max_profile_bytes,
            key: None,
        }
        .into()
    }
}

impl From<Version3> for BatchAcceptedEntry {
    fn from(batch: Version3) -> Self {
        // The names are also in the first line of the file.
        let Version3 { bytes, crc32c, names: _names, .. } = batch;
        Version4 {
            client: batch.client,
            seq: batch.seq,
            spool: batch.spool,
            bytes,
            crc32c,
            rows: batch.rows,
            v2: batch.v2,
            key_kind: batch.key_kind,
            creates: batch.creates,
            replaces: batch.replaces,
            removes: batch.removes,
            lifetime_ms: batch.lifetime_ms,
            max_profile_bytes: batch.max_profile_bytes,
            key: batch.key.map(|key| SentKeyEntry { key, bytes, crc32c }),
        }
        .into()
    }
}

impl From<Version4> for BatchAcceptedEntry {
    fn from(batch: Version4) -> Self {
        // Its rows are read by the rules of that time, so their number stays the same.
        let (reading, blocked_ids) = (RowReading::before().stored().0, None);
        Version6 {
            client: batch.client,
            seq: batch.seq,
            spool: batch.spool,
            bytes: batch.bytes,
            crc32c: batch.crc32c,
            rows: batch.rows,
            v2: batch.v2,
            key_kind: batch.key_kind,
            creates: batch.creates,
            replaces: batch.replaces,
            removes: batch.removes,
            lifetime_ms: batch.lifetime_ms,
            max_profile_bytes: batch.max_profile_bytes,
            key: batch.key,
            reading,
            blocked_ids,
        }
        .into()
    }
}

impl From<Version5> for BatchAcceptedEntry {
    fn from(Version5(batch): Version5) -> Self {
        batch.into()
    }
}

impl From<Version6> for BatchAcceptedEntry {
    fn from(batch: Version6) -> Self {
        Self {
            client: batch.client,
            seq: batch.seq,
            spool: batch.spool,
            bytes: batch.bytes,
            crc32c: batch.crc32c,
            rows: batch.rows,
            v2: batch.v2,
            key_kind: batch.key_kind,
            creates: batch.creates,
            replaces: batch.replaces,
            removes: batch.removes,
            lifetime_ms: batch.lifetime_ms,
            max_profile_bytes: batch.max_profile_bytes,
            key: batch.key,
            reading: batch.reading,
            blocked_ids: batch.blocked_ids,
            history_max: 0,
            as_of_ms: None,
            undoes: None,
            name: None,
            by: ByteBuf::new(),
        }
    }
}
