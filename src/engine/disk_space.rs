//! How much space the disk has, and what is still done when there is little.
//!
//! ```text
//! more than the reserve    everything
//! less than the reserve    writes from outside are refused (507); reads, applying rows and maintenance go on
//! less than half of it     work that can wait waits: applying accepted batches, snapshots, fresh stores
//! less than a quarter      checkpoints wait, too: a restart reads more of the journal, and the store is spared a write that would
//!                          fail; what the last checkpoint and both snapshots make needless is still removed
//! ```
//!
//! Promises: nothing is remembered but what was last logged, so everything goes on by itself once there is space again.

use crate::engine::error::EngineError;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use std::io;
use std::path::{Path, PathBuf};

/// The disk of the data folder, and how much of it stays free.
#[derive(Debug)]
pub(super) struct DiskSpace {
    folder: PathBuf,
    reserve: AtomicU64,
    refusing: AtomicBool,
}

impl DiskSpace {
    pub(super) fn new(folder: &Path, reserve: u64) -> Self {
        Self { folder: folder.to_owned(), reserve: AtomicU64::new(reserve), refusing: AtomicBool::new(false) }
    }

    /// Changes how many bytes stay free.
    pub(super) fn set_reserve(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    fn reserve(&self) -> u64 {
        self.reserve.load(Ordering::Relaxed)
    }

    /// Refuses a write from outside while less than the reserve is free. Logs when that begins and ends.
    pub(super) fn for_writes(&self) -> Result<(), EngineError> {
        let short = self.short_of(self.reserve());
        let refusing = short.is_some();
        if self.refusing.swap(refusing, Ordering::Relaxed) != refusing {
            match short {
                Some(left) => {
                    tracing::error!(
                        left,
                        reserve = self.reserve(),
                        "the disk is nearly full: writes are refused"
                    );
                }
                None => tracing::info!("the disk has room again: writes are taken"),
            }
        }
        short.map_or(Ok(()), |left| Err(self.full(left)))
    }

    /// Whether the last write from outside was refused.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Refuses an upload that is known to need so many bytes.
    pub(super) fn for_upload(&self, bytes: u64) -> Result<(), EngineError> {
        self.for_writes()?;
        self.short_of(self.reserve().saturating_add(bytes)).map_or(Ok(()), |left| Err(self.full(left)))
    }

    /// Refuses work that can wait.
    pub(super) fn for_upkeep(&self) -> Result<(), EngineError> {
        self.short_of(self.reserve() / 2).map_or(Ok(()), |left| Err(self.full(left)))
    }

    /// Refuses checkpoints: they only save a restart some work, and would fail on a full disk.
    pub(super) fn for_checkpoints(&self) -> Result<(), EngineError> {
        self.short_of(self.reserve() / 4).map_or(Ok(()), |left| Err(self.full(left)))
    }

    /// The free bytes, if the file system tells them.
    pub(super) fn left(&self) -> Option<u64> {
        bytes_left(&self.folder).ok()
    }

    /// The free bytes, if they are fewer than these.
    fn short_of(&self, bytes: u64) -> Option<u64> {
        // A disk that does not tell how full it is refuses by itself what does not fit.
        bytes_left(&self.folder).ok().filter(|left| *left < bytes)
    }

    fn full(&self, left: u64) -> EngineError {
        let reserve = self.reserve();
        EngineError::Full(format!("{left} bytes are left, and disk_reserve_bytes keeps {reserve} free"))
    }
}

/// The free bytes of a folder's file system, for this process.
fn bytes_left(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of writes, upkeep and checkpoints are refused with a reserve of `reserve` bytes.
    fn check(reserve: u64, refused: [bool; 3]) {
        let folder = tempfile::tempdir().unwrap();
        let room = DiskSpace::new(folder.path(), reserve);
        let found = [room.for_writes(), room.for_upkeep(), room.for_checkpoints()].map(|it| it.is_err());
        assert_eq!(found, refused, "{reserve}");
    }

    #[test]
    fn what_matters_least_stops_last() {
        let left = bytes_left(&std::env::temp_dir()).unwrap();
        check(0, [false, false, false]);
        check(left / 2, [false, false, false]);
        check(left + left / 2, [true, false, false]);
        check(left * 3, [true, true, false]);
        check(left * 5, [true, true, true]);
    }
}
