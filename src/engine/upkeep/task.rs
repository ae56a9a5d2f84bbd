//! What the maintenance thread can be asked for, and what it answers.

use std::path::PathBuf;

/// A maintenance task.
#[derive(Debug)]
pub(in crate::engine) enum Task {
    /// Take a snapshot.
    Snapshot,
    /// Fill a fresh store, and let go of the bytes of erased visitors.
    Compact,
    /// Write a backup into this folder, or at this `s3://` URL.
    Backup(PathBuf),
}

impl Task {
    /// Its name in the log.
    pub(in crate::engine) const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Compact => "compact",
            Self::Backup(_) => "backup",
        }
    }
}

/// What a task came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The bytes of the store on the disk, before and after.
    pub store_bytes: (u64, u64),
    /// The bytes of the keys and values in it.
    pub live_bytes: u64,
    /// How many values the snapshot has.
    pub values: u64,
    /// How many ids were erased to the bytes.
    pub erased: u64,
    /// The seq up to which a backup goes.
    pub seq: u64,
    /// How many uploads in a backup are damaged, and were copied as they are.
    pub damaged_uploads: u64,
}
