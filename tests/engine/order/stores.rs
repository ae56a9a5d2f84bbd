//! The stores that sequences run on, and what a crash does to each.

use profiled::engine::open::recovery::read_checkpoint;
use profiled::journal::entry::Checkpoint;
use profiled::model::batch::BatchRules;
use profiled::model::id::Key;
use profiled::model::profile::StoredBytes;
use profiled::store::memory::MemoryStore;
use profiled::store::sled::SledStore;
use profiled::store::{ProfileStore, Reach, StoreError, Swapped, VisitorRows};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::coverage::{Met, met};

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Memory,
    Sled,
    /// In memory; at a crash each key falls back, on its own, to any value it had since the last checkpoint.
    Forgetful,
}

/// A store as it is now, and what a restart makes of it.
pub(crate) enum Store {
    Memory(Arc<MemoryStore>),
    Sled(Arc<SledStore>),
    Forgetful(Arc<ForgetfulStore>),
}

impl Store {
    pub(crate) fn new(which: Which, folder: &Path) -> Self {
        match which {
            Which::Memory => Self::Memory(Arc::default()),
            Which::Sled => Self::Sled(Arc::new(open_sled(folder))),
            Which::Forgetful => Self::Forgetful(Arc::default()),
        }
    }

    pub(crate) fn which(&self) -> Which {
        match self {
            Self::Memory(_) => Which::Memory,
            Self::Sled(_) => Which::Sled,
            Self::Forgetful(_) => Which::Forgetful,
        }
    }

    pub(crate) fn shared(&self) -> Arc<dyn ProfileStore> {
        match self {
            Self::Memory(store) => Arc::clone(store) as _,
            Self::Sled(store) => Arc::clone(store) as _,
            Self::Forgetful(store) => Arc::clone(store) as _,
        }
    }

    /// The store after the end of the process. `fate` decides what a forgetful store forgets.
    pub(crate) fn restarted(self, folder: &Path, fate: u64) -> Self {
        match self {
            Self::Sled(store) => {
                assert_eq!(Arc::strong_count(&store), 1, "nobody else has the store open");
                drop(store);
                Self::new(Which::Sled, folder)
            }
            Self::Forgetful(store) => Self::Forgetful(Arc::new(store.fallen_back(fate))),
            memory => memory,
        }
    }

    /// The same store as it is now. None for one whose files would have to be copied.
    pub(crate) fn as_now(&self) -> Option<Self> {
        match self {
            Self::Memory(store) => Some(Self::Memory(Arc::new(copy_of(store)))),
            Self::Forgetful(store) => {
                let had = Mutex::new(store.had.lock().unwrap().clone());
                Some(Self::Forgetful(Arc::new(ForgetfulStore { inner: copy_of(&store.inner), had })))
            }
            Self::Sled(_) => None,
        }
    }

    /// The checkpoint beside it.
    pub(crate) fn checkpoint(folder: &Path) -> Option<Checkpoint> {
        read_checkpoint(&folder.join("checkpoint")).unwrap()
    }
}

fn copy_of(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::holding(store.scan(None, usize::MAX).unwrap());
    copy.checkpoint(store.reach().unwrap()).unwrap();
    copy
}

/// Opens sled. Its threads may hold a file a moment longer than the store that was dropped, as those of a dead process
/// do not.
fn open_sled(folder: &Path) -> SledStore {
    for _ in 0..500 {
        match SledStore::open(folder, 1 << 20) {
            Err(error) if error.to_string().contains("lock") => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    panic!("sled does not let go of its files");
}

/// The strongest adversary that the promise of a checkpoint allows.
#[derive(Debug, Default)]
pub(crate) struct ForgetfulStore {
    inner: MemoryStore,
    /// All values that each key had since the last checkpoint, if it changed since.
    had: Mutex<BTreeMap<Key, Vec<Option<StoredBytes>>>>,
}

impl ForgetfulStore {
    fn remember(&self, key: &Key, was: Option<StoredBytes>) -> Result<(), StoreError> {
        let now = self.inner.get(std::slice::from_ref(key))?.pop().flatten();
        if now != was {
            self.had.lock().unwrap().entry(key.clone()).or_insert_with(|| vec![was]).push(now);
        }
        Ok(())
    }

    fn fallen_back(&self, mut fate: u64) -> Self {
        let mut values: BTreeMap<_, _> = self.inner.scan(None, usize::MAX).unwrap().into_iter().collect();
        for (key, had) in &*self.had.lock().unwrap() {
            // Any generator of numbers will do; this one is SplitMix64.
            fate = fate.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (fate ^ (fate >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let at = usize::try_from((mixed ^ (mixed >> 31)) % had.len() as u64).unwrap();
            if at + 1 < had.len() {
                met(Met::CrashedStoreFellBack);
            }
            match had[at].clone() {
                Some(value) => values.insert(key.clone(), value),
                None => values.remove(key),
            };
        }
        let inner = MemoryStore::holding(values);
        inner.checkpoint(self.inner.reach().unwrap()).unwrap();
        Self { inner, had: Mutex::default() }
    }
}

impl ProfileStore for ForgetfulStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        self.inner.get(keys)
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let one = |visitor: &VisitorRows<'_, '_>| {
            let was = self.inner.get(std::slice::from_ref(visitor.key))?.pop().flatten();
            let swapped = self.inner.apply_rows(rules, std::slice::from_ref(visitor))?.pop();
            self.remember(visitor.key, was)?;
            Ok(swapped.unwrap())
        };
        visitors.iter().map(one).collect()
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        let put = self.inner.put_if(key, was, now)?;
        if put {
            self.remember(key, was.cloned())?;
        }
        Ok(put)
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        self.inner.scan(after, limit)
    }

    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        self.had.lock().unwrap().clear();
        self.inner.checkpoint(reach)
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        self.inner.reach()
    }
}
