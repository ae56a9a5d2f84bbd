//! A digest of what a start makes of a snapshot and the journal behind it: every value, byte for byte, before pending batches are
//! applied.
//!
//! Promises: [`of_files`] computes it from the files, and [`of_store`] from the store that was made of them. The two are equal unless
//! something went wrong. Neither holds more than [`PART_BYTES_MAX`] of values in memory.

use crate::engine::error::OpenError;
use crate::journal::entry::{Entry, decode_group};
use crate::journal::log::{Log, LogSettings, Position};
use crate::journal::snapshot::SnapshotReader;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::store::memory::MemoryStore;
use crate::store::{ProfileStore, StoreError, put_if_newer};
use std::collections::HashSet;
use std::path::Path;

/// How many values are read at a time.
const PAGE_VALUES: usize = 512;
/// The most bytes of the journal's values that are kept in memory. If there are more, they are processed in parts.
const PART_BYTES_MAX: usize = 64 << 20;
/// The most parts: each reads all files once more.
const PARTS_MAX: u64 = 1 << 12;

/// The digest of everything in a store.
pub(in crate::engine) fn of_store(store: &dyn ProfileStore) -> Result<u128, StoreError> {
    let (mut digest, mut after) = (0_u128, None);
    loop {
        let page = store.scan(after.as_ref(), PAGE_VALUES)?;
        for (key, value) in &page {
            digest = digest.wrapping_add(of_pair(key.as_bytes(), value.as_slice()));
        }
        match page.into_iter().next_back() {
            Some((key, _)) => after = Some(key),
            None => return Ok(digest),
        }
    }
}

/// The digest of the store that a start makes of this snapshot and this journal.
pub(in crate::engine) fn of_files(snapshot: &Path, journal: &Path) -> Result<u128, OpenError> {
    let mut parts = 1;
    loop {
        let digests = (0..parts).map(|part| Part { part, parts }.digest(snapshot, journal));
        match digests.sum::<Result<Sum, OpenError>>()? {
            Sum(Some(digest)) => return Ok(digest),
            // One of the parts is too large for the memory.
            Sum(None) => parts *= 4,
        }
    }
}

struct Sum(Option<u128>);

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(mut all: I) -> Self {
        Self(all.try_fold(0_u128, |sum, one| Some(sum.wrapping_add(one.0?))))
    }
}

/// A part of the keys.
#[derive(Clone, Copy)]
struct Part {
    part: u64,
    parts: u64,
}

impl Part {
    fn has(self, key: &[u8]) -> bool {
        xxhash_rust::xxh3::xxh3_64(key) % self.parts == self.part
    }

    fn digest(self, snapshot: &Path, journal: &Path) -> Result<Sum, OpenError> {
        let mut reader = SnapshotReader::open(snapshot)?;
        let (from, mark) =
            (reader.checkpoint().needs_journal_from(), Position::from_pair(reader.checkpoint().position));
        let (mut changed, mut bytes) = (HashSet::new(), 0);
        self.changes(journal, (from, mark), |_, key, value| {
            bytes += key.len() + value.len();
            changed.insert(key.to_vec());
            Ok(())
        })?;
        if bytes > PART_BYTES_MAX && self.parts < PARTS_MAX {
            return Ok(Sum(None));
        }

        let (mut digest, store) = (0_u128, MemoryStore::default());
        while let Some((key, value)) = reader.next_pair()? {
            if !self.has(key) {
                continue;
            }
            if changed.contains(key) {
                let key = Key::from_bytes(key).ok_or_else(|| OpenError::SnapshotKey(snapshot.to_owned()))?;
                put_if_newer(&store, &key, None, &StoredBytes::new(value))?;
            } else {
                digest = digest.wrapping_add(of_pair(key, value));
            }
        }
        self.changes(journal, (from, mark), |start, key, value| {
            let key = Key::from_bytes(key).ok_or_else(|| OpenError::entry(start, "a key"))?;
            let was = store.get(std::slice::from_ref(&key))?.pop().flatten();
            put_if_newer(&store, &key, was, &StoredBytes::new(value))?;
            Ok(())
        })?;
        Ok(Sum(Some(digest.wrapping_add(of_store(&store)?))))
    }

    /// Gives each change of a key of this part that stands behind the checkpoint position.
    fn changes(
        self,
        journal: &Path,
        (from, mark): (Position, Position),
        mut each: impl FnMut(Position, &[u8], &[u8]) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        Log::open(journal, LogSettings::default(), from, |start, _, payload| {
            if start < mark {
                return Ok(());
            }
            let entries = decode_group(payload).map_err(|error| OpenError::entry(start, error))?;
            for entry in &entries {
                let Entry::Write(write) = entry else { continue };
                for change in write.changes.iter().filter(|change| self.has(&change.key)) {
                    each(start, &change.key, &change.value)?;
                }
            }
            Ok::<_, OpenError>(())
        })?;
        Ok(())
    }
}

fn of_pair(key: &[u8], value: &[u8]) -> u128 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest128()
}
