//! A store for tests: one in memory that, before each call, does what a test wants: waits, fails, takes note, or changes what
//! is there.
//!
//! Promises: a call that was told to fail changes nothing, and a fold that was told to fail at a visitor has those before
//! it in.

use super::memory::MemoryStore;
use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call<'c> {
    Get(&'c [Key]),
    /// Of one of the visitors: how many come before it in the same call.
    Fold(usize),
    Put(&'c Key),
    Scan,
    Checkpoint,
}

/// What happens before each call.
pub(crate) trait Script: Send + Sync {
    /// May wait, or change what is there; with an error the call fails.
    fn before(&self, store: &MemoryStore, call: Call<'_>) -> Result<(), StoreError>;
}

impl<S: Fn(&MemoryStore, Call<'_>) -> Result<(), StoreError> + Send + Sync> Script for S {
    fn before(&self, store: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
        self(store, call)
    }
}

/// A store in memory, and what it does before each call.
#[derive(Debug, Default)]
pub(crate) struct Double<S> {
    pub(crate) store: MemoryStore,
    pub(crate) script: S,
}

impl<S: Script> Double<S> {
    /// An empty one.
    pub(crate) fn new(script: S) -> Self {
        Self { store: MemoryStore::default(), script }
    }
}

impl<S: Script> ProfileStore for Double<S> {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        self.script.before(&self.store, Call::Get(keys))?;
        self.store.get(keys)
    }

    fn fold(&self, rules: &BatchRules, visitors: &[VisitorRows<'_, '_>]) -> Result<Vec<Swapped>, StoreError> {
        let mut swapped = vec![];
        for (nth, visitor) in visitors.iter().enumerate() {
            self.script.before(&self.store, Call::Fold(nth))?;
            swapped.extend(self.store.fold(rules, std::slice::from_ref(visitor))?);
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
