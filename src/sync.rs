//! The locks and atomics of everything that runs on more than one thread: those of the standard library, or, in test
//! builds with the feature `schedules`, those of a schedule explorer that tries the orders threads can take.

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

/// What a lock or a wait gives, also if a thread panicked while it held the lock: what our locks guard is whole between any
/// two statements. Takes the result of a lock of this module and of one of the standard library.
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

/// Looks at what a lock guards.
pub fn look<T, R>(lock: &RwLock<T>, at: impl FnOnce(&T) -> R) -> R {
    let guard = unpoisoned(lock.read());
    at(&guard)
}

/// Changes what a lock guards.
pub fn change<T, R>(lock: &RwLock<T>, with: impl FnOnce(&mut T) -> R) -> R {
    let mut guard = unpoisoned(lock.write());
    with(&mut guard)
}

/// Gives a semaphore another number of places. Those that are to go and are taken go once they are given back.
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
