//! Whether a damaged store is being rebuilt, and how far that is.

use crate::engine::open::rebuild::Opening;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};

/// The state of the rebuild.
#[derive(Debug, Default)]
pub(in crate::engine) struct RebuildStatus {
    /// Whether one is running. The apply thread waits meanwhile: its rows would be missing in the new store.
    running: AtomicBool,
    /// How many were done since the start.
    done: AtomicU64,
    /// How far the running one is, for `/readyz`.
    pub(in crate::engine) progress: Opening,
    /// Why the last attempt failed, if it did.
    failed: Mutex<Option<String>>,
}

impl RebuildStatus {
    /// Whether a rebuild is running.
    pub(in crate::engine) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// How many rebuilds were done since the start.
    pub(in crate::engine) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Notes that a rebuild was done.
    pub(in crate::engine) fn note_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes why an attempt failed.
    pub(in crate::engine) fn note_failure(&self, why: String) {
        *lock(&self.failed) = Some(why);
    }

    /// What `/readyz` says of a store with this damage.
    pub(in crate::engine) fn describe(&self, damage: &str) -> String {
        let failed = lock(&self.failed).clone();
        match failed {
            _ if self.is_running() => format!("{damage}; {}", self.progress.at()),
            Some(why) => format!("{damage}; it could not be rebuilt: {why}"),
            None => format!("{damage}; it is about to be rebuilt"),
        }
    }

    /// Notes that a rebuild is running, until the guard is dropped.
    pub(in crate::engine) fn begin(&self) -> Running<'_> {
        *lock(&self.failed) = None;
        self.progress.say("the store is being rebuilt".into());
        self.running.store(true, Ordering::Release);
        Running(self)
    }
}

/// A running rebuild. It ends when this is dropped, however it ends.
pub(in crate::engine) struct Running<'r>(&'r RebuildStatus);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}
