//! What the engine's own threads wait for: the daemon stops, or a checkpoint is due.
//!
//! Promises: nobody misses a signal between looking and waiting, so a stop ends every wait at once.

use crate::engine::error::EngineError;
use crate::sync::{AtomicBool, Ordering, unpoisoned};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The signals.
#[derive(Debug)]
pub(super) struct Signals {
    /// Set once. Long work looks at it often, so it is no part of the lock.
    stopping: AtomicBool,
    /// Whether a checkpoint is due. The lock is also held to announce a stop, so that no waiting thread misses it.
    checkpoint_due: Mutex<bool>,
    /// Notified when either changes.
    changed: Condvar,
}

impl Signals {
    /// The signals of a start. A checkpoint is due at once: what was just replayed need not be replayed again.
    pub(super) fn at_start() -> Self {
        Self { stopping: AtomicBool::new(false), checkpoint_due: Mutex::new(true), changed: Condvar::new() }
    }

    /// Whether the daemon is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// An error if the daemon is stopping.
    pub(super) fn go_on(&self) -> Result<(), EngineError> {
        if self.is_stopping() { Err(EngineError::Stopping) } else { Ok(()) }
    }

    /// Announces that the daemon is stopping.
    pub(super) fn stop(&self) {
        let due = unpoisoned(self.checkpoint_due.lock());
        self.stopping.store(true, Ordering::Relaxed);
        drop(due);
        self.changed.notify_all();
    }

    /// Announces that a checkpoint is due.
    pub(super) fn checkpoint_is_due(&self) {
        *unpoisoned(self.checkpoint_due.lock()) = true;
        self.changed.notify_all();
    }

    /// Waits for so long, or until the daemon is stopping. Gives whether to go on.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let due = unpoisoned(self.checkpoint_due.lock());
        drop(self.changed.wait_timeout_while(due, time, |_| !self.is_stopping()));
        !self.is_stopping()
    }

    /// Waits until a checkpoint is due, for so long at most. Gives whether to go on.
    pub(super) fn wait_for_checkpoint(&self, at_most: Duration) -> bool {
        let due = unpoisoned(self.checkpoint_due.lock());
        let waiting = |due: &mut bool| !*due && !self.is_stopping();
        let (mut due, _) = unpoisoned(self.changed.wait_timeout_while(due, at_most, waiting));
        *due = false;
        !self.is_stopping()
    }
}
