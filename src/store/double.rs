//! A store for tests. It is in memory, and a script runs before each call: it may wait, fail, take notes or change the
//! store.
//!
//! Promises: a call that the script fails changes nothing. If the script fails a batch at one visitor, the visitors
//! before it are applied.

use super::memory::MemoryStore;
use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;

/// One call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call<'c> {
    Get(&'c [Key]),
    /// For one visitor; the number counts the visitors before it in the same call.
    Apply(usize),
    Put(&'c Key),
    Scan,
    Checkpoint,
}

/// What a test does before each call.
pub(crate) trait Script: Send + Sync {
    /// May wait or change the store. If it returns an error, the call fails with it.
    fn before(&self, store: &MemoryStore, call: Call<'_>) -> Result<(), StoreError>;
}

impl<S: Fn(&MemoryStore, Call<'_>) -> Result<(), StoreError> + Send + Sync> Script for S {
    fn before(&self, store: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
        self(store, call)
    }
}

/// A store in memory with a script.
#[derive(Debug, Default)]
pub(crate) struct Double<S> {
    pub(crate) store: MemoryStore,
    pub(crate) script: S,
}

impl<S: Script> Double<S> {
    /// An empty store.
    pub(crate) fn new(script: S) -> Self {
        Self { store: MemoryStore::default(), script }
    }
}

impl<S: Script> ProfileStore for Double<S> {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        self.script.before(&self.store, Call::Get(keys))?;
        self.store.get(keys)
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let mut swapped = vec![];
        for (nth, visitor) in visitors.iter().enumerate() {
            self.script.before(&self.store, Call::Apply(nth))?;
            swapped.extend(self.store.apply_rows(rules, std::slice::from_ref(visitor))?);
        }
        Ok(swapped)
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        self.script.before(&self.store, Call::Put(key))?;
        self.store.put_if(key, was, now)
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        self.script.before(&self.store, Call::Scan)?;
        self.store.scan(after, limit)
    }

    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        self.script.before(&self.store, Call::Checkpoint)?;
        self.store.checkpoint(reach)
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        self.store.reach()
    }
}
