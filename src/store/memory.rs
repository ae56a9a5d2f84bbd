//! A store in memory: the reference for tests of other stores, and the store of a daemon whose data need not outlive
//! the journal.

use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows, swap};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Profiles in a sorted map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: Mutex<BTreeMap<Key, StoredBytes>>,
    reach: AtomicU64,
}

impl MemoryStore {
    /// A store with these values, as a scan of another store returned them.
    pub fn holding(values: impl IntoIterator<Item = (Key, StoredBytes)>) -> Self {
        Self { values: Mutex::new(values.into_iter().collect()), ..Self::default() }
    }
}

impl ProfileStore for MemoryStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        let values = lock(&self.values);
        Ok(keys.iter().map(|key| values.get(key).cloned()).collect())
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let one = |visitor: &VisitorRows<'_, '_>| {
            let mut values = lock(&self.values);
            let old = values.get(visitor.key).map(StoredBytes::as_slice);
            let (now, swapped) = swap(visitor.key, old, rules, visitor.rows)?;
            if let Some(now) = now {
                values.insert(visitor.key.clone(), now);
            }
            Ok(swapped)
        };
        visitors.iter().map(one).collect()
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        let mut values = lock(&self.values);
        if values.get(key) != was {
            return Ok(false);
        }
        match now {
            Some(now) => values.insert(key.clone(), now.clone()),
            None => values.remove(key),
        };
        Ok(true)
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        let values = lock(&self.values);
        Ok(values.range((from, Bound::Unbounded)).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        self.reach.fetch_max(reach.0, Ordering::AcqRel);
        Ok(())
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        Ok(Reach(self.reach.load(Ordering::Acquire)))
    }
}
