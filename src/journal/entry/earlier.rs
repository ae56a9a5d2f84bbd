//! What earlier versions of groups and checkpoints said of a batch and of settled rows; that checkpoints listed complete
//! batches too; and that none said how far a store reached. All else was as it is now.

use super::{
    BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, Change, Checkpoint, Entry, KnownBatch,
    SentKeyEntry, Settled, WriteEntry,
};
use crate::model::batch::Counts;
use crate::model::codec::{self, CodecError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A batch as one version told it.
pub(super) trait Accepted: DeserializeOwned + Into<BatchAcceptedEntry> {
    /// The version.
    const VERSION: u8;
}

/// Of an upload's file it told no checksum.
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

/// A batch's end, as all of them told it.
#[derive(Deserialize)]
struct Completed {
    seq: u64,
    counts: Counts,
    at_ms: u64,
}

impl From<Completed> for BatchCompletedEntry {
    fn from(Completed { seq, counts, at_ms }: Completed) -> Self {
        Self { seq, counts, at_ms, store_reach: 0 }
    }
}

/// Of a batch it told no idempotency key.
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

/// It told the attributes' names, and took what its file came to for what was sent with the key.
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

impl Accepted for Version1 {
    const VERSION: u8 = 1;
}

impl Accepted for Version2 {
    const VERSION: u8 = 2;
}

impl Accepted for Version3 {
    const VERSION: u8 = 3;
}

/// All of them told of settled rows one by one.
#[derive(Deserialize)]
struct Write {
    seq: u64,
    changes: Vec<Change>,
    settled: Vec<Settled>,
}

#[derive(Deserialize)]
enum EntryOf<A> {
    Write(Write),
    BatchAccepted(A),
    BatchCompleted(Completed),
    BatchGivenUp(GivenUp<A>),
}

#[derive(Deserialize)]
struct GivenUp<A> {
    accepted: A,
    end: Completed,
}

#[derive(Deserialize)]
struct CheckpointOf<A> {
    position: (u64, u64),
    last_seq: u64,
    batches: Vec<Known<A>>,
}

#[derive(Deserialize)]
struct Known<A> {
    position: (u64, u64),
    accepted: A,
    completed: Option<Completed>,
}

pub(super) fn decode_group<A: Accepted>(payload: &[u8]) -> Result<Vec<Entry>, CodecError> {
    let entries: Vec<EntryOf<A>> = codec::decode(A::VERSION, payload)?;
    let entry = |entry: EntryOf<A>| match entry {
        EntryOf::Write(Write { seq, changes, settled }) => {
            Entry::Write(WriteEntry { seq, changes, settled, settled_bundles: vec![] })
        }
        EntryOf::BatchAccepted(batch) => Entry::BatchAccepted(batch.into()),
        EntryOf::BatchCompleted(end) => Entry::BatchCompleted(end.into()),
        EntryOf::BatchGivenUp(GivenUp { accepted, end }) => {
            Entry::BatchGivenUp(BatchGivenUpEntry { accepted: accepted.into(), end: end.into() })
        }
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
            None => checkpoint.incomplete.push(KnownBatch { position, accepted, completed: None }),
        }
    }
    // They stood client by client.
    checkpoint.incomplete.sort_by_key(|known| known.accepted.seq);
    Ok(checkpoint)
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
        // The names are the first line of the file, too.
        let Version3 { bytes, crc32c, names: _names, .. } = batch;
        Self {
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
    }
}
