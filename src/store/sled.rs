//! The default store: sled 0.34.7. The code uses only those parts of sled that docs/internals/design.md measured to be
//! safe and fast: one tree for all values, one swap per key; never `transaction()`, `apply_batch`, `flush_async` or
//! `len()`. A second tree keeps the checkpoint number.
//!
//! Promises: a store that opens with its last checkpoint number has all writes up to that checkpoint. Before sled
//! opens, `sled_log` finds losses that sled would ignore. Damage on the disk shows as an error when it is read, never as
//! an older value. A panic in sled also becomes an error.
//!
//! sled's own `flush()` is not durable on Linux, so [`SledStore::checkpoint`] also syncs sled's file and folder.
#![expect(clippy::disallowed_types, reason = "the one file that may name sled's types")]

use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows, sled_log, swap};
use crate::durable::point;
use crate::layout;
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use sled::IVec;
use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The name of the second tree, and the only key in it. It holds the checkpoint number.
const REACH: &str = "reach";

/// A profile store in sled.
pub struct SledStore {
    tree: sled::Tree,
    reach: sled::Tree,
    /// sled's file and its folder stay open. A file opened anew at each checkpoint would miss earlier write errors, and
    /// could not be opened when file handles run out.
    file: File,
    folder: File,
}

impl SledStore {
    /// Opens or creates a store in this folder. sled's cache takes `cache_bytes` of memory.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(failed("create its folder"))?;
        set_partial_snapshots_aside(folder).map_err(failed("set a half-written snapshot aside"))?;
        sled_log::verify(folder).map_err(failed("open"))?;
        Self::open_unverified(folder, cache_bytes)
    }

    /// Opens the store without verifying sled's log first.
    pub(super) fn open_unverified(folder: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        caught("open", || {
            let db = sled::Config::new()
                .path(folder)
                .cache_capacity(cache_bytes)
                .mode(sled::Mode::HighThroughput)
                .segment_size(sled_log::SEGMENT_BYTES)
                // Checkpoints flush the store. sled's own timer would interfere with them.
                .flush_every_ms(None)
                .open()
                .map_err(sled_failed("open"))?;
            let reach = db.open_tree(REACH).map_err(sled_failed("open"))?;
            let file = File::open(folder.join(layout::SLED_DB)).map_err(failed("open its file"))?;
            let folder = File::open(folder).map_err(failed("open its folder"))?;
            Ok(Self { tree: sled::Tree::clone(&db), reach, file, folder })
        })
    }
}

/// Renames half-written snapshots of sled. sled reads every file that starts with `snap.`, and fails on a partial one.
fn set_partial_snapshots_aside(folder: &Path) -> std::io::Result<()> {
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

/// Turns an error from sled into a store error. A failed write is not damage to the stored data.
fn sled_failed(doing: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |error| {
        let why = error.to_string();
        let writes = matches!(doing, "write" | "flush");
        match error {
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => {
                StoreError::Damaged { doing, why }
            }
            sled::Error::Io(error) if !writes && !concerns_the_process(&error) => {
                StoreError::Damaged { doing, why }
            }
            _ => StoreError::Failed { doing, why },
        }
    }
}

/// Whether the system's error concerns the process and not the file.
fn concerns_the_process(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let of_the_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|errno| of_the_process.contains(&errno))
}

/// Calls sled and turns a panic into an error. sled panics on damaged data.
fn caught<T>(doing: &'static str, run: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        Err(StoreError::Damaged { doing, why: message.to_owned() })
    })
}

fn stored(value: &IVec) -> StoredBytes {
    StoredBytes::new(value.as_ref())
}

fn number(value: Option<&[u8]>) -> u64 {
    value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes)
}

impl ProfileStore for SledStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        let one =
            |key: &Key| Ok(self.tree.get(key.as_bytes()).map_err(sled_failed("read"))?.as_ref().map(stored));
        caught("read", || keys.iter().map(one).collect())
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let one = |visitor: &VisitorRows<'_, '_>| {
            let key = visitor.key.as_bytes();
            let mut old = self.tree.get(key).map_err(sled_failed("read"))?;
            loop {
                let (now, swapped) = swap(visitor.key, old.as_deref(), rules, visitor.rows)?;
                let Some(now) = now else { return Ok(swapped) };
                let put = self
                    .tree
                    .compare_and_swap(key, old.as_ref(), Some(now.as_slice()))
                    .map_err(sled_failed("write"))?;
                match put {
                    Ok(()) => return Ok(swapped),
                    Err(conflict) => old = conflict.current,
                }
            }
        };
        caught("write", || visitors.iter().map(one).collect())
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        let (was, now) = (was.map(StoredBytes::as_slice), now.map(StoredBytes::as_slice));
        caught("write", || {
            let put = self.tree.compare_and_swap(key.as_bytes(), was, now).map_err(sled_failed("write"))?;
            Ok(put.is_ok())
        })
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes().to_vec()));
        let one = |entry: sled::Result<(IVec, IVec)>| {
            let (key, value) = entry.map_err(sled_failed("scan"))?;
            let key = Key::from_bytes(&key).ok_or_else(|| StoreError::Damaged {
                doing: "scan",
                why: format!("{:?} is not a key", key.escape_ascii().to_string()),
            })?;
            Ok((key, stored(&value)))
        };
        caught("scan", || {
            self.tree.range::<Vec<u8>, _>((from, Bound::Unbounded)).take(limit).map(one).collect()
        })
    }

    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        let flushed = point("store-flush").map_err(failed("flush"));
        flushed.and_then(|()| {
            caught("flush", || {
                // sled's log has this number after all earlier writes. If a restart finds the number, it finds those
                // writes.
                let further = |old: Option<&[u8]>| Some(number(old).max(reach.0).to_be_bytes().to_vec());
                self.reach.update_and_fetch(REACH, further).map_err(sled_failed("write"))?;
                self.tree.flush().map(drop).map_err(sled_failed("flush"))
            })
        })?;
        point("store-sync").and_then(|()| self.file.sync_all()).map_err(failed("sync its file"))?;
        self.folder.sync_all().map_err(failed("sync its folder"))
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        caught("read", || {
            let reach = self.reach.get(REACH).map_err(sled_failed("read"))?;
            Ok(Reach(number(reach.as_deref())))
        })
    }
}
