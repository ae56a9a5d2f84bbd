//! A store that a power cut takes back, as the promise of a checkpoint allows.

use profiled::model::batch::BatchRules;
use profiled::model::id::Key;
use profiled::model::profile::StoredBytes;
use profiled::store::{ProfileStore, Reach, StoreError, Swapped, VisitorRows, swap};
use profiled::sync::lock;
use shuttle::rand::Rng;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

/// How many values a checkpoint takes at a time: few, so that everything else comes in between.
const CHECKPOINT_VALUES: usize = 2;

#[derive(Debug, Clone, Default)]
struct Value {
    now: Option<StoredBytes>,
    durable: Option<StoredBytes>,
}

type Values = BTreeMap<Key, Value>;

/// Values in memory, and as the last checkpoint left them on the disk.
#[derive(Debug, Default)]
pub(crate) struct VolatileStore {
    /// Taken before each step, so that the explorer decides whose turn it is.
    turn: profiled::sync::Mutex<()>,
    values: Mutex<Values>,
    /// How far it reaches, durably.
    reach: Mutex<Reach>,
}

impl VolatileStore {
    fn step<R>(&self, step: impl FnOnce(&mut Values) -> R) -> R {
        drop(lock(&self.turn));
        step(&mut self.values.lock().unwrap())
    }

    /// What a power cut leaves of it: of each key, on its own, what the last checkpoint left, or what is there now.
    pub(crate) fn after_power_cut(&self) -> Self {
        let mut values = self.values.lock().unwrap().clone();
        let mut random = shuttle::rand::thread_rng();
        for value in values.values_mut() {
            let left = if random.gen_bool(0.5) { &value.now } else { &value.durable };
            *value = Value { now: left.clone(), durable: left.clone() };
        }
        Self { values: Mutex::new(values), reach: Mutex::new(*self.reach.lock().unwrap()), ..Self::default() }
    }
}

fn now<'v>(values: &'v Values, key: &Key) -> Option<&'v StoredBytes> {
    values.get(key)?.now.as_ref()
}

fn put(values: &mut Values, key: &Key, now: Option<StoredBytes>) {
    values.entry(key.clone()).or_default().now = now;
}

impl ProfileStore for VolatileStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        Ok(self.step(|values| keys.iter().map(|key| now(values, key).cloned()).collect()))
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let one = |visitor: &VisitorRows<'_, '_>| {
            self.step(|values| {
                let old = now(values, visitor.key).map(StoredBytes::as_slice);
                let (changed, swapped) = swap(visitor.key, old, rules, visitor.rows)?;
                if changed.is_some() {
                    put(values, visitor.key, changed);
                }
                Ok(swapped)
            })
        };
        visitors.iter().map(one).collect()
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        then: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        self.step(|values| {
            let is = now(values, key) == was;
            if is {
                put(values, key, then.cloned());
            }
            Ok(is)
        })
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let there = |(key, value): (&Key, &Value)| Some((key.clone(), value.now.clone()?));
        Ok(self.step(|values| values.range(behind(after)).filter_map(there).take(limit).collect()))
    }

    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            after = self.step(|values| {
                let page = values.range_mut(behind(after.as_ref())).take(CHECKPOINT_VALUES);
                let made_durable = page.map(|(key, value)| {
                    value.durable.clone_from(&value.now);
                    key.clone()
                });
                made_durable.last()
            });
            if after.is_none() {
                let mut reached = self.reach.lock().unwrap();
                *reached = reach.max(*reached);
                return Ok(());
            }
        }
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        Ok(*self.reach.lock().unwrap())
    }
}

fn behind(after: Option<&Key>) -> (Bound<Key>, Bound<Key>) {
    (after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone())), Bound::Unbounded)
}
