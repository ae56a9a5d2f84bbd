//! The locks and atomics of all code with several threads. They are those of the standard library. Test builds with the
//! feature `schedules` use those of a schedule explorer, which tries the orders that threads can take.

#[cfg(not(feature = "schedules"))]
pub use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

#[cfg(feature = "schedules")]
pub use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use std::sync::{Arc, LockResult, PoisonError};

use tokio::sync::Semaphore;

/// The guard of a lock or of a wait, even if a thread panicked while it held the lock. That is safe, because the
/// guarded data is consistent after every statement. Accepts results of this module's locks and of the standard
/// library's.
pub fn unpoisoned<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// Waits until the condition is notified.
pub fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    unpoisoned(condition.wait(guard))
}

/// Reads what a lock guards.
pub fn look<T, R>(lock: &RwLock<T>, at: impl FnOnce(&T) -> R) -> R {
    let guard = unpoisoned(lock.read());
    at(&guard)
}

/// Changes what a lock guards.
pub fn change<T, R>(lock: &RwLock<T>, with: impl FnOnce(&mut T) -> R) -> R {
    let mut guard = unpoisoned(lock.write());
    with(&mut guard)
}

/// Changes the number of permits of a semaphore. Surplus permits in use are removed when they are returned.
pub fn resize(places: &Arc<Semaphore>, before: usize, now: usize) {
    places.add_permits(now.saturating_sub(before));
    let fewer = u32::try_from(before.saturating_sub(now)).unwrap_or(u32::MAX);
    if fewer > 0 {
        let places = Arc::clone(places);
        tokio::spawn(async move {
            if let Ok(gone) = places.acquire_many_owned(fewer).await {
                gone.forget();
            }
        });
    }
}
