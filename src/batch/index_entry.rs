//! One entry of a row index: the hash of a row's id, and where the row begins. 16 bytes.

use super::csv::RowPlace;
use crate::durable::record::Fields;

/// How many bytes an entry takes.
pub(super) const ENTRY_BYTES: usize = 16;

/// A row's place in its file, under the hash of its id. Entries order by hash, then by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) hash: u64,
    offset: u32,
    line: u32,
}

impl Entry {
    pub(super) fn new(hash: u64, place: RowPlace) -> Self {
        Self { hash, offset: place.offset, line: place.line }
    }

    pub(super) fn place(self) -> RowPlace {
        RowPlace { line: self.line, offset: self.offset }
    }

    /// Appends the entry's bytes.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.line.to_le_bytes());
    }

    /// Reads one entry. Whoever calls reads whole ones.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        let mut entry = || Some(Self { hash: fields.u64()?, offset: fields.u32()?, line: fields.u32()? });
        entry().unwrap_or(Self { hash: 0, offset: 0, line: 0 })
    }
}

/// The hash that an id has in an index.
pub(super) fn hash(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}
