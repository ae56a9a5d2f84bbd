//! Which tombstones may be taken out of the store.
//!
//! Promises: a tombstone stays as long as a replay from the last checkpoint can reach it, and as long as a snapshot is taken:
//! a batch that was incomplete when the snapshot began may need it in a store that is rebuilt from the snapshot, even if the
//! batch is complete by now.

use crate::model::seq::Seq;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};

/// The tombstones of the store in use.
#[derive(Debug, Default)]
pub struct Tombstones {
    /// The highest seq that the last checkpoint covers.
    covered: AtomicU64,
    /// Held while all of them must stay.
    staying: Mutex<()>,
}

impl Tombstones {
    /// The highest seq that a checkpoint covers.
    pub fn covered(&self) -> Seq {
        Seq::from_u64(self.covered.load(Ordering::Acquire))
    }

    /// Has `take` take out tombstones up to the seq that it gets, which is zero while all must stay. No snapshot begins
    /// meanwhile.
    pub fn take<R>(&self, take: impl FnOnce(Seq) -> R) -> R {
        let free = self.staying.try_lock();
        take(if free.is_ok() { self.covered() } else { Seq::ZERO })
    }

    /// Notes that a checkpoint covers all up to this seq.
    pub(in crate::engine) fn cover(&self, last: Seq) {
        self.covered.store(last.get(), Ordering::Release);
    }

    /// No tombstone is taken out until the guard is dropped.
    pub(in crate::engine) fn stay(&self) -> MutexGuard<'_, ()> {
        lock(&self.staying)
    }
}
