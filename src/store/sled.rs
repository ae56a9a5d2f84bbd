//! The default store: sled 0.34.7, used only in the ways that DESIGN.md §3 measured to be safe and fast. One tree,
//! one swap per key, never `transaction()`, `apply_batch`, `flush_async` or `len()`.
//!
//! sled's own `flush()` is not durable on Linux, so [`SledStore::checkpoint`] fsyncs its file and folder as well; and
//! nothing depends on it but how much of the journal a restart replays.
#![expect(clippy::disallowed_types, reason = "the one file that may name sled's types")]

use super::{ProfileStore, StoreError, Swapped, VisitorRows, swap};
use crate::durable::point;
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use sled::IVec;
use std::fs::File;
use std::ops::Bound;
use std::path::Path;

/// Profiles in sled.
pub struct SledStore {
    tree: sled::Tree,
    /// sled's file and its folder, open for as long as the store is: opened at each checkpoint they would miss an error
    /// that the system found in between, and could not be opened when file handles ran out.
    file: File,
    folder: File,
}

impl SledStore {
    /// Opens or makes a store in this folder, with so much memory for its cache.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(failed("make its folder"))?;
        set_half_made_snapshots_aside(folder).map_err(failed("set a half-made snapshot aside"))?;
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::HighThroughput)
            // Checkpoints flush; a timer of sled's own would only get in their way.
            .flush_every_ms(None)
            .open()
            .map_err(failed("open"))?;
        let file = File::open(folder.join("db")).map_err(failed("open its file"))?;
        let folder = File::open(folder).map_err(failed("open its folder"))?;
        Ok(Self { tree: sled::Tree::clone(&db), file, folder })
    }
}

/// sled trips over a snapshot that it was still writing when it was killed. It reads whatever begins with `snap.`.
fn set_half_made_snapshots_aside(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::rename(&path, folder.join(format!("aside.{name}")))?;
        }
    }
    Ok(())
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Failed { doing, why: error.to_string() }
}

fn stored(value: &IVec) -> StoredBytes {
    StoredBytes::new(value.as_ref())
}

impl ProfileStore for SledStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        let one = |key: &Key| Ok(self.tree.get(key.as_bytes()).map_err(failed("read"))?.as_ref().map(stored));
        keys.iter().map(one).collect()
    }

    fn fold(&self, rules: &BatchRules, visitors: &[VisitorRows<'_, '_>]) -> Result<Vec<Swapped>, StoreError> {
        let one = |visitor: &VisitorRows<'_, '_>| {
            let key = visitor.key.as_bytes();
            let mut old = self.tree.get(key).map_err(failed("read"))?;
            loop {
                let (now, swapped) = swap(visitor.key, old.as_deref(), rules, visitor.rows)?;
                let Some(now) = now else { return Ok(swapped) };
                let put = self
                    .tree
                    .compare_and_swap(key, old.as_ref(), Some(now.as_slice()))
                    .map_err(failed("write"))?;
                match put {
                    Ok(()) => return Ok(swapped),
                    Err(conflict) => old = conflict.current,
                }
            }
        };
        visitors.iter().map(one).collect()
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        let (was, now) = (was.map(StoredBytes::as_slice), now.map(StoredBytes::as_slice));
        let put = self.tree.compare_and_swap(key.as_bytes(), was, now).map_err(failed("write"))?;
        Ok(put.is_ok())
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes().to_vec()));
        let one = |entry: sled::Result<(IVec, IVec)>| {
            let (key, value) = entry.map_err(failed("scan"))?;
            let key = Key::from_bytes(&key).ok_or_else(|| {
                failed("scan")(format!("{:?} is not a key", key.escape_ascii().to_string()))
            })?;
            Ok((key, stored(&value)))
        };
        self.tree.range::<Vec<u8>, _>((from, Bound::Unbounded)).take(limit).map(one).collect()
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        let flushed = point("store-flush").map_err(failed("flush"));
        flushed.and_then(|()| self.tree.flush().map_err(failed("flush")))?;
        point("store-sync").and_then(|()| self.file.sync_all()).map_err(failed("sync its file"))?;
        self.folder.sync_all().map_err(failed("sync its folder"))
    }
}
