//! A store that a fresh one can take the place of while it is used: for space, for erasure (R12).
//!
//! Promises: from [`SwapStore::begin`] on the next store is told of every change before the change is answered, so once
//! all that stood before has been copied it lacks nothing; each value's `through` lets the two writers, change and copy,
//! meet in any order. What goes wrong with the next store is told by [`SwapStore::finish`] and harms nobody else.

use super::{ProfileStore, StoreError, Swapped, VisitorRows, put_through};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::sync::{AtomicBool, Mutex, Ordering, RwLock, change, lock, look};
use std::sync::Arc;

/// The store that is used, and the one that is to take its place, if any.
pub struct SwapStore {
    stores: RwLock<Stores>,
}

struct Stores {
    current: Arc<dyn ProfileStore>,
    next: Option<Next>,
}

struct Next {
    store: Arc<dyn ProfileStore>,
    failed: Mutex<Option<StoreError>>,
    /// From now on a restart may find this store.
    needed: AtomicBool,
}

impl Stores {
    /// What the current store came to; an error is the next one's, too: of what was changed before it, nobody is told
    /// again.
    fn telling<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(next)) = (&done, &self.next) {
            let why = format!("the store before it: {error}");
            next.note::<()>(Err(StoreError::Failed { doing: "take another's place", why }));
        }
        done
    }
}

impl Next {
    fn note<T>(&self, done: Result<T, StoreError>) {
        if let Err(error) = done {
            lock(&self.failed).get_or_insert(error);
        }
    }

    fn put(&self, key: &Key, now: &StoredBytes) {
        if lock(&self.failed).is_none() {
            self.note(put_through(&*self.store, key, None, now));
        }
    }
}

impl SwapStore {
    /// Of the store that is used for now.
    pub fn new(current: Arc<dyn ProfileStore>) -> Self {
        Self { stores: RwLock::new(Stores { current, next: None }) }
    }

    /// From here on `next` is told of every change.
    pub fn begin(&self, next: Arc<dyn ProfileStore>) {
        let next = Next { store: next, failed: Mutex::new(None), needed: AtomicBool::new(false) };
        change(&self.stores, |stores| stores.next = Some(next));
    }

    /// Copies what stands behind `after`, at most so many values of it, leaving out what `keep` does not want. Gives
    /// where to go on.
    pub fn copy(
        &self,
        after: Option<&Key>,
        limit: usize,
        keep: &mut dyn FnMut(&Key, &StoredBytes) -> Result<bool, StoreError>,
    ) -> Result<Option<Key>, StoreError> {
        // The lock is taken page by page: a swap may not wait for a whole copy.
        look(&self.stores, |stores| {
            let page = stores.current.scan(after, limit)?;
            let last = page.last().filter(|_| page.len() == limit).map(|(key, _)| key.clone());
            if let Some(next) = &stores.next {
                for (key, value) in &page {
                    if keep(key, value)? {
                        next.put(key, value);
                    }
                }
            }
            Ok(last)
        })
    }

    /// Whether the next store lacks nothing so far. If so, a restart may find it from now on, so where it fails
    /// [`checkpoint`](ProfileStore::checkpoint) does.
    pub fn ready(&self) -> Result<(), StoreError> {
        change(&self.stores, |stores| {
            let Some(next) = &stores.next else { return Ok(()) };
            next.needed.store(true, Ordering::Relaxed);
            lock(&next.failed).take().map_or(Ok(()), Err)
        })
    }

    /// The next store takes the place of the current one, which is given back; unless the next one failed meanwhile:
    /// then it is dropped, and all is as before.
    pub fn finish(&self) -> Result<Arc<dyn ProfileStore>, StoreError> {
        change(&self.stores, |stores| {
            let why = "none was begun".to_owned();
            let none = StoreError::Failed { doing: "take another's place", why };
            let Next { store, failed, .. } = stores.next.take().ok_or(none)?;
            let error = lock(&failed).take();
            error.map_or_else(|| Ok(std::mem::replace(&mut stores.current, store)), Err)
        })
    }

    /// Drops the next store, which is not wanted any more.
    pub fn abandon(&self) {
        change(&self.stores, |stores| stores.next = None);
    }

    /// Puts another store in the place of all there is: what is given back is used by nobody else any more.
    pub fn replace(&self, with: Arc<dyn ProfileStore>) -> Arc<dyn ProfileStore> {
        change(&self.stores, |stores| {
            stores.next = None;
            std::mem::replace(&mut stores.current, with)
        })
    }
}

impl ProfileStore for SwapStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        look(&self.stores, |stores| stores.current.get(keys))
    }

    fn fold(&self, rules: &BatchRules, visitors: &[VisitorRows<'_, '_>]) -> Result<Vec<Swapped>, StoreError> {
        look(&self.stores, |stores| {
            let swapped = stores.telling(stores.current.fold(rules, visitors))?;
            if let Some(next) = &stores.next {
                let changed = visitors
                    .iter()
                    .zip(&swapped)
                    .filter(|(_, swapped)| matches!(swapped, Swapped::One(_) | Swapped::Many(_)));
                let keys: Vec<Key> = changed.map(|(visitor, _)| visitor.key.clone()).collect();
                for (key, value) in keys.iter().zip(stores.telling(stores.current.get(&keys))?) {
                    if let Some(value) = value {
                        next.put(key, &value);
                    }
                }
            }
            Ok(swapped)
        })
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        look(&self.stores, |stores| {
            let put = stores.telling(stores.current.put_if(key, was, now))?;
            // What is only taken away is a tombstone that nothing needs: the next store may have it all the same.
            if let (true, Some(now), Some(next)) = (put, now, &stores.next) {
                next.put(key, now);
            }
            Ok(put)
        })
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        look(&self.stores, |stores| stores.current.scan(after, limit))
    }

    /// Of the next store, too: what is acknowledged on the strength of this must not need the journal whichever of the
    /// two a restart finds.
    fn checkpoint(&self) -> Result<(), StoreError> {
        look(&self.stores, |stores| {
            stores.current.checkpoint()?;
            if let Some(next) = &stores.next {
                next.note(next.store.checkpoint());
                if next.needed.load(Ordering::Relaxed)
                    && let Some(error) = &*lock(&next.failed)
                {
                    let why = format!("the store that takes its place: {error}");
                    return Err(StoreError::Failed { doing: "become durable", why });
                }
            }
            Ok(())
        })
    }
}
