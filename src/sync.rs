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

use std::sync::{Arc, PoisonError};

use tokio::sync::Semaphore;

/// Locks, also after a thread died holding the lock: what our locks guard is whole between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the condition is told to have changed.
pub fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Looks at what a lock guards.
pub fn look<T, R>(lock: &RwLock<T>, at: impl FnOnce(&T) -> R) -> R {
    at(&lock.read().unwrap_or_else(PoisonError::into_inner))
}

/// Changes what a lock guards.
pub fn change<T, R>(lock: &RwLock<T>, with: impl FnOnce(&mut T) -> R) -> R {
    with(&mut lock.write().unwrap_or_else(PoisonError::into_inner))
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
