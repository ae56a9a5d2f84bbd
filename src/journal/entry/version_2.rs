//! What version 2 of groups and checkpoints said: of a batch it told no idempotency key.

use super::{
    BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, Checkpoint, Entry, KnownBatch, WriteEntry,
};
use crate::model::codec::{self, CodecError};
use serde::Deserialize;

pub(super) const VERSION: u8 = 2;

#[derive(Deserialize)]
enum EntryBefore {
    Write(WriteEntry),
    BatchAccepted(AcceptedBefore),
    BatchCompleted(BatchCompletedEntry),
    BatchGivenUp(GivenUpBefore),
}

#[derive(Deserialize)]
struct GivenUpBefore {
    accepted: AcceptedBefore,
    end: BatchCompletedEntry,
}

#[derive(Deserialize)]
struct AcceptedBefore {
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

#[derive(Deserialize)]
struct CheckpointBefore {
    position: (u64, u64),
    last_seq: u64,
    batches: Vec<KnownBefore>,
}

#[derive(Deserialize)]
struct KnownBefore {
    position: (u64, u64),
    accepted: AcceptedBefore,
    completed: Option<BatchCompletedEntry>,
}

pub(super) fn decode_group(payload: &[u8]) -> Result<Vec<Entry>, CodecError> {
    let entries: Vec<EntryBefore> = codec::decode(VERSION, payload)?;
    Ok(entries.into_iter().map(Entry::from).collect())
}

pub(super) fn decode_checkpoint(bytes: &[u8]) -> Result<Checkpoint, CodecError> {
    let CheckpointBefore { position, last_seq, batches } = codec::decode(VERSION, bytes)?;
    let known = |known: KnownBefore| KnownBatch {
        position: known.position,
        accepted: known.accepted.into(),
        completed: known.completed,
    };
    Ok(Checkpoint { position, last_seq, batches: batches.into_iter().map(known).collect() })
}

impl From<EntryBefore> for Entry {
    fn from(entry: EntryBefore) -> Self {
        match entry {
            EntryBefore::Write(write) => Self::Write(write),
            EntryBefore::BatchAccepted(batch) => Self::BatchAccepted(batch.into()),
            EntryBefore::BatchCompleted(end) => Self::BatchCompleted(end),
            EntryBefore::BatchGivenUp(GivenUpBefore { accepted, end }) => {
                Self::BatchGivenUp(BatchGivenUpEntry { accepted: accepted.into(), end })
            }
        }
    }
}

impl From<AcceptedBefore> for BatchAcceptedEntry {
    fn from(batch: AcceptedBefore) -> Self {
        Self {
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
    }
}
