//! What an accepted batch is, as its journal entry says it.
//!
//! Promises: nothing here changes once the batch is accepted. [`Accepted::to_entry`] and [`Accepted::from_entry`] are each
//! other's reverse.

use super::checksum::FileSum;
use crate::journal::entry::{BatchAcceptedEntry, SentKeyEntry};
use crate::model::author::Author;
use crate::model::batch::{
    BatchId, BatchName, BatchRules, ConsecutiveV2, EmptyValues, IdempotencyKey, RowReading,
};
use crate::model::id::{ClientCode, IdKind};
use crate::model::profile::Source;
use crate::model::seq::{Millis, Seq};
use serde_bytes::ByteBuf;

/// The name that the files of one upload share.
pub type SpoolName = u64;

/// The key that a client gave one sending of a batch, and what it sent with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentKey {
    /// The key.
    pub key: IdempotencyKey,
    /// Length and checksum of the body. They stay, whatever becomes of the file.
    pub sent: FileSum,
}

/// What a batch is: all that its journal entry says. The first line of its file is not part of it, because it may be long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id, and in it its client and seq.
    pub id: BatchId,
    /// What shapes its outcome.
    pub rules: BatchRules,
    /// What its rows are keyed by.
    pub key_kind: IdKind,
    /// The name that its files share.
    pub spool: SpoolName,
    /// Its file's size.
    pub bytes: u64,
    /// The CRC-32C of its file as it came. `None` if an earlier version of the program took none.
    pub crc32c: Option<u32>,
    /// Its rows, all of them.
    pub rows: u64,
    /// The client's key for this sending, if it gave one.
    pub key: Option<SentKey>,
    /// What its sender calls it, if they said it.
    pub name: Option<BatchName>,
    /// Who sent it.
    pub by: Author,
}

impl Accepted {
    /// Length and checksum of its file as it was accepted.
    pub fn sum(&self) -> FileSum {
        FileSum { bytes: self.bytes, crc32c: self.crc32c }
    }

    /// The batch that it undoes, if it undoes one.
    pub fn undone(&self) -> Option<BatchId> {
        let undone = |seq| BatchId { seq, ..self.id.clone() };
        self.rules.undoes.map(undone)
    }

    /// The journal's entry for it.
    pub fn to_entry(&self) -> BatchAcceptedEntry {
        let (reading, blocked_ids) = self.rules.reading.stored();
        BatchAcceptedEntry {
            client: self.id.client.to_string(),
            seq: self.id.seq.get(),
            spool: self.spool,
            bytes: self.bytes,
            crc32c: self.crc32c,
            rows: self.rows,
            v2: self.rules.source == Source::BatchV2,
            key_kind: self.key_kind.code(),
            creates: self.rules.creates,
            replaces: self.rules.consecutive_v2 == ConsecutiveV2::Replace,
            removes: self.rules.empty_values == EmptyValues::Remove,
            lifetime_ms: self.rules.lifetime_ms,
            max_profile_bytes: self.rules.max_profile_bytes as u64,
            key: self.key.as_ref().map(|SentKey { key, sent }| SentKeyEntry {
                key: key.as_str().to_owned(),
                bytes: sent.bytes,
                crc32c: sent.crc32c,
            }),
            reading,
            blocked_ids: blocked_ids.map(<[_]>::to_vec),
            history_max: self.rules.history_max,
            as_of_ms: self.rules.as_of.map(|at| at.0),
            undoes: self.rules.undoes.map(Seq::get),
            name: self.name.as_ref().map(|name| name.as_str().into()),
            by: ByteBuf::from(self.by.to_bytes()),
        }
    }

    /// Reads the journal's entry. `None` if no program can have written it.
    pub fn from_entry(entry: BatchAcceptedEntry) -> Option<Self> {
        let seq = Seq::from_u64(entry.seq);
        let rules = BatchRules {
            seq,
            source: if entry.v2 { Source::BatchV2 } else { Source::BatchV1 },
            creates: entry.creates,
            consecutive_v2: if entry.replaces { ConsecutiveV2::Replace } else { ConsecutiveV2::Merge },
            empty_values: if entry.removes { EmptyValues::Remove } else { EmptyValues::Ignore },
            lifetime_ms: entry.lifetime_ms,
            max_profile_bytes: usize::try_from(entry.max_profile_bytes).ok()?,
            reading: RowReading::from_stored(entry.reading, entry.blocked_ids)?,
            history_max: entry.history_max,
            as_of: entry.as_of_ms.map(Millis),
            undoes: entry.undoes.map(Seq::from_u64),
        };
        Some(Self {
            id: BatchId { client: ClientCode::new(&entry.client).ok()?, seq },
            rules,
            key_kind: IdKind::from_code(entry.key_kind)?,
            spool: entry.spool,
            bytes: entry.bytes,
            crc32c: entry.crc32c,
            rows: entry.rows,
            key: entry.key.and_then(|SentKeyEntry { key, bytes, crc32c }| {
                Some(SentKey { key: IdempotencyKey::new(&key)?, sent: FileSum { bytes, crc32c } })
            }),
            name: entry.name.as_deref().and_then(BatchName::new),
            by: Author::from_bytes(&entry.by).unwrap_or_default(),
        })
    }
}
