//! A store that can be replaced by a fresh one while it is in use: to save space, or for erasure (R12).
//!
//! Promises: from [`SwapStore::begin`] on, the next store receives every change before the change is answered. Once the
//! existing values are copied too, it is complete. Change and copy may arrive in any order, because each value's
//! `applied_seq` says which one is newer. After any error, in either store, that may have left the next store incomplete,
//! [`SwapStore::ready`] and [`SwapStore::finish`] refuse to use it. Until a restart may find the next store, its errors
//! affect nothing else.
//!
//! A damaged store stays in use until a rebuilt one takes over ([`SwapStore::take_over`]). Until then, reads of damaged
//! values fail, and so do reads of acknowledged values that could not be stored.

use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows, put_if_newer};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, RwLock, change, lock, look};
use std::collections::BTreeSet;
use std::sync::Arc;

const TAKING: &str = "take over from the current store";
/// The most acknowledged values that the store in use may lack. Beyond that, a restart is quicker.
const LOST_KEYS_MAX: usize = 1 << 20;

/// The store in use, and the store that will replace it, if any.
pub struct SwapStore {
    stores: RwLock<Stores>,
    /// The number of the last checkpoint.
    reach: AtomicU64,
    damage: Mutex<Damage>,
    /// Whether any acknowledged value could not be stored.
    lost_any: AtomicBool,
    /// Twice the number of times that a rebuilt store took over; odd while one takes over.
    turns: AtomicU64,
}

/// The known damage of the store in use.
#[derive(Default)]
struct Damage {
    why: Option<String>,
    /// The keys of the acknowledged values that could not be stored.
    lost: BTreeSet<Key>,
}

struct Stores {
    current: Arc<dyn ProfileStore>,
    next: Option<Arc<Next>>,
}

struct Next {
    store: Arc<dyn ProfileStore>,
    fate: Mutex<Fate>,
}

/// One lock protects both fields, so a failure is always seen: by `Next::need` if the store fails first, otherwise by
/// the next checkpoint.
#[derive(Default)]
struct Fate {
    /// Why the store may be incomplete; `None` if it is complete.
    failed: Option<String>,
    /// Whether a restart may find this store.
    needed: bool,
}

impl Fate {
    fn lacks_nothing(&self, doing: &'static str) -> Result<(), StoreError> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(StoreError::Failed { doing, why: why.clone() }),
        }
    }
}

impl Stores {
    /// Passes on a result of the current store. An error also fails the next store: it never receives the changes that
    /// the call made before the error.
    fn fail_next_on_error<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(next)) = (&done, &self.next) {
            next.note(format!("the current store failed: {error}"));
        }
        done
    }
}

impl Next {
    fn note(&self, why: String) {
        lock(&self.fate).failed.get_or_insert(why);
    }

    /// Notes that a restart may find this store from now on. Fails if the store may be incomplete.
    fn need(&self) -> Result<(), StoreError> {
        let mut fate = lock(&self.fate);
        fate.lacks_nothing(TAKING)?;
        fate.needed = true;
        Ok(())
    }

    fn put(&self, key: &Key, now: &StoredBytes) {
        if lock(&self.fate).failed.is_none()
            && let Err(error) = put_if_newer(&*self.store, key, None, now)
        {
            self.note(error.to_string());
        }
    }

    /// Fails only if a restart may find this store.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        if let Err(error) = self.store.checkpoint(reach) {
            self.note(error.to_string());
        }
        let fate = lock(&self.fate);
        if fate.needed {
            return fate.lacks_nothing("take over from the current store, and a restart may already find it");
        }
        Ok(())
    }
}

impl SwapStore {
    /// A store that uses `current`. `reached` is the number of its last checkpoint.
    pub fn new(current: Arc<dyn ProfileStore>, reached: Reach) -> Self {
        Self {
            stores: RwLock::new(Stores { current, next: None }),
            reach: AtomicU64::new(reached.0),
            damage: Mutex::default(),
            lost_any: AtomicBool::new(false),
            turns: AtomicU64::new(0),
        }
    }

    /// The first damage found in the store in use.
    pub fn damage(&self) -> Option<String> {
        lock(&self.damage).why.clone()
    }

    /// Notes an error of the store in use if it is damage.
    pub fn note_damage(&self, error: &StoreError) {
        if error.is_damage() {
            lock(&self.damage).why.get_or_insert_with(|| {
                tracing::error!(%error, "the store is damaged");
                error.to_string()
            });
        }
    }

    /// Notes that an acknowledged value could not be stored, so that reads of its key fail. Returns false if there are
    /// too many such values to continue.
    pub fn lose(&self, key: &Key, error: &StoreError) -> bool {
        self.note_damage(error);
        let mut damage = lock(&self.damage);
        damage.lost.insert(key.clone());
        self.lost_any.store(true, Ordering::Release);
        damage.lost.len() <= LOST_KEYS_MAX
    }

    fn none_lost<'k>(&self, mut keys: impl Iterator<Item = &'k Key>) -> Result<(), StoreError> {
        if !self.lost_any.load(Ordering::Acquire) {
            return Ok(());
        }
        let damage = lock(&self.damage);
        match keys.find(|key| damage.lost.contains(key)) {
            None => Ok(()),
            Some(_) => Err(StoreError::Damaged {
                doing: "read",
                why: "an acknowledged write could not be stored".into(),
            }),
        }
    }

    fn note_on_error<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        done.inspect_err(|error| self.note_damage(error))
    }

    /// Puts a rebuilt store in the place of the current and the next one. Returns the old store, which is no longer in
    /// use. `before` makes the batches readable that the rebuilt store lacks. A reader that reads batches and store
    /// meanwhile finds another [turn](Self::turn) afterwards, and must read again.
    pub fn take_over(&self, with: Arc<dyn ProfileStore>, before: impl FnOnce()) -> Arc<dyn ProfileStore> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        before();
        let old = self.replace(with);
        *lock(&self.damage) = Damage::default();
        self.lost_any.store(false, Ordering::Release);
        self.turns.fetch_add(1, Ordering::SeqCst);
        old
    }

    /// A reader's view of batches and store is consistent if this number is even and the same before and after.
    pub fn turn(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// Makes all earlier writes durable in every store that a restart may find. Returns the checkpoint's number.
    pub fn make_durable(&self) -> Result<Reach, StoreError> {
        let reach = Reach(self.reach.fetch_add(1, Ordering::AcqRel) + 1);
        self.checkpoint(reach).map(|()| reach)
    }

    /// Starts to send every change to `next`, too.
    pub fn begin(&self, next: Arc<dyn ProfileStore>) {
        let next = Next { store: next, fate: Mutex::default() };
        change(&self.stores, |stores| stores.next = Some(Arc::new(next)));
    }

    /// Copies up to `limit` values after the key `after`, except those that `keep` rejects. Returns the key to continue
    /// after; `None` at the end.
    pub fn copy(
        &self,
        after: Option<&Key>,
        limit: usize,
        keep: &mut dyn FnMut(&Key, &StoredBytes) -> Result<bool, StoreError>,
    ) -> Result<Option<Key>, StoreError> {
        // Each page takes the lock anew, so that a swap does not wait for a whole copy.
        look(&self.stores, |stores| {
            let page = stores.fail_next_on_error(self.note_on_error(stores.current.scan(after, limit)))?;
            stores.fail_next_on_error(self.none_lost(page.iter().map(|(key, _)| key)))?;
            let last = page.last().filter(|_| page.len() == limit).map(|(key, _)| key.clone());
            if let Some(next) = &stores.next {
                for (key, value) in &page {
                    if stores.fail_next_on_error(keep(key, value))? {
                        next.put(key, value);
                    }
                }
            }
            Ok(last)
        })
    }

    /// Fails if the next store may be incomplete. Otherwise a restart may find it from now on, and its failures make
    /// [`checkpoint`](ProfileStore::checkpoint) fail.
    pub fn ready(&self) -> Result<(), StoreError> {
        let next = look(&self.stores, |stores| stores.next.clone());
        next.map_or(Ok(()), |next| next.need())
    }

    /// Replaces the current store by the next one and returns the old one. If the next store may be incomplete, it is
    /// dropped and the current one stays.
    pub fn finish(&self) -> Result<Arc<dyn ProfileStore>, StoreError> {
        change(&self.stores, |stores| {
            let none = StoreError::Failed { doing: TAKING, why: "no next store was started".to_owned() };
            let next = stores.next.take().ok_or(none)?;
            lock(&next.fate).lacks_nothing(TAKING)?;
            Ok(std::mem::replace(&mut stores.current, Arc::clone(&next.store)))
        })
    }

    /// Drops the next store.
    pub fn abandon(&self) {
        change(&self.stores, |stores| stores.next = None);
    }

    /// Puts another store in the place of the current and the next one. Returns the old store, which is no longer in
    /// use.
    pub fn replace(&self, with: Arc<dyn ProfileStore>) -> Arc<dyn ProfileStore> {
        change(&self.stores, |stores| {
            stores.next = None;
            std::mem::replace(&mut stores.current, with)
        })
    }
}

impl ProfileStore for SwapStore {
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError> {
        self.none_lost(keys.iter())?;
        self.note_on_error(look(&self.stores, |stores| stores.current.get(keys)))
    }

    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        self.none_lost(visitors.iter().map(|visitor| visitor.key))?;
        let applied = look(&self.stores, |stores| {
            let swapped = stores.fail_next_on_error(stores.current.apply_rows(rules, visitors))?;
            if let Some(next) = &stores.next {
                let changed = visitors
                    .iter()
                    .zip(&swapped)
                    .filter(|(_, swapped)| matches!(swapped, Swapped::One(_) | Swapped::Many(_)));
                let keys: Vec<Key> = changed.map(|(visitor, _)| visitor.key.clone()).collect();
                for (key, value) in keys.iter().zip(stores.fail_next_on_error(stores.current.get(&keys))?) {
                    if let Some(value) = value {
                        next.put(key, &value);
                    }
                }
            }
            Ok(swapped)
        });
        self.note_on_error(applied)
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        self.none_lost(std::iter::once(key))?;
        let put = look(&self.stores, |stores| {
            let put = stores.fail_next_on_error(stores.current.put_if(key, was, now))?;
            // A removed value is a tombstone that is no longer needed. It does no harm in the next store.
            if let (true, Some(now), Some(next)) = (put, now, &stores.next) {
                next.put(key, now);
            }
            Ok(put)
        });
        self.note_on_error(put)
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let page = self.note_on_error(look(&self.stores, |stores| stores.current.scan(after, limit)))?;
        self.none_lost(page.iter().map(|(key, _)| key))?;
        Ok(page)
    }

    /// Also covers the next store, because a restart may find either of the two. Holds no lock during the slow sync: a
    /// swap of stores would wait for the lock, and all calls would wait for the swap. A next store that is started
    /// meanwhile gets a checkpoint of its own before a restart may find it.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        loop {
            let (current, next) =
                look(&self.stores, |stores| (Arc::clone(&stores.current), stores.next.clone()));
            match current.checkpoint(reach) {
                Ok(()) => return next.map_or(Ok(()), |next| next.checkpoint(reach)),
                // Another store took over meanwhile, and it has all values of the old one.
                Err(_) if !look(&self.stores, |stores| Arc::ptr_eq(&stores.current, &current)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn reach(&self) -> Result<Reach, StoreError> {
        look(&self.stores, |stores| Arc::clone(&stores.current)).reach()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{ConsecutiveV2, EmptyValues, RowReading};
    use crate::model::id::{ClientCode, IdKind};
    use crate::model::profile::{Profile, Source, Stored};
    use crate::model::seq::Seq;
    use crate::model::update::{Cell, Row};
    use crate::store::double::{Call, Double, Script};
    use crate::store::memory::MemoryStore;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    /// A store that fails once, at the call that a test names.
    type Faulty = Double<Faults>;

    #[derive(Default)]
    struct Faults {
        fault: Mutex<Option<String>>,
        /// If set, the next checkpoint reports its start and then waits for a signal.
        held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    }

    impl Faults {
        fn passes(&self, doing: &'static str) -> Result<(), StoreError> {
            let failed = |_| StoreError::Failed { doing, why: "as the test wants".into() };
            lock(&self.fault).take_if(|fault| *fault == doing).map_or(Ok(()), |fault| Err(failed(fault)))
        }
    }

    impl Script for Faults {
        fn before(&self, _: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
            if call == Call::Checkpoint
                && let Some((began, ended)) = lock(&self.held).take()
            {
                began.send(()).unwrap();
                ended
                    .recv_timeout(Duration::from_secs(20))
                    .expect("the test ends each checkpoint that it holds");
            }
            self.passes(match call {
                Call::Get(_) => "get",
                Call::Apply(0) => "apply",
                Call::Apply(_) => "apply-second",
                Call::Put(_) => "put",
                Call::Scan => "scan",
                Call::Checkpoint => "checkpoint",
            })
        }
    }

    fn keys(names: &str) -> Vec<Key> {
        let key =
            |name: char| Key::new(&ClientCode::new("demo").unwrap(), IdKind::ThirdParty, &name.to_string());
        names.chars().map(key).collect()
    }

    fn apply(store: &dyn ProfileStore, names: &str, at: u64) -> Result<(), StoreError> {
        let rules = BatchRules {
            seq: Seq::from_u64(at),
            source: Source::BatchV1,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading: RowReading::default(),
            history_max: 16,
            as_of: None,
            undoes: None,
        };
        let cells = [Cell { attribute: 0, name: "a", value: &at.to_string() }];
        let (keys, rows) = (keys(names), [Row { line: 2, cells: &cells }]);
        let visitors: Vec<_> = keys.iter().map(|key| VisitorRows { key, rows: &rows }).collect();
        store.apply_rows(&rules, &visitors).map(drop)
    }

    fn put(store: &dyn ProfileStore, key: &Key, at: u64) -> Result<(), StoreError> {
        let profile = Stored::Profile(Profile::born_at(Seq::from_u64(at)));
        put_if_newer(store, key, None, &profile.encode())
    }

    fn copy(swap: &SwapStore, old: &Faulty) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let mut keep = |_: &Key, _: &StoredBytes| old.script.passes("keep").map(|()| true);
            after = swap.copy(after.as_ref(), 1, &mut keep)?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Runs the steps. A step that ends with `?` must fail, every other must succeed. `a` puts a visitor, `ab*` applies
    /// rows of two visitors; `old!get` makes the next get of the current store fail, `new!get` that of the next store.
    /// A next store that takes over must have all values of the store before it.
    fn check(steps: &str) {
        let old = Arc::new(Faulty::default());
        let swap = SwapStore::new(Arc::clone(&old) as _, Reach::default());
        let mut new = Arc::new(Faulty::default());
        for (at, step) in (1..).zip(steps.split_whitespace()) {
            let (what, fails) = step.strip_suffix('?').map_or((step, false), |what| (what, true));
            let done = match what {
                "begin" => {
                    new = Arc::default();
                    swap.begin(Arc::clone(&new) as _);
                    Ok(())
                }
                "copy" => copy(&swap, &old),
                "get" => swap.get(&keys("a")).map(drop),
                "checkpoint" => swap.make_durable().map(drop),
                "ready" => swap.ready(),
                "abandon" => {
                    swap.abandon();
                    Ok(())
                }
                "finish" => swap.finish().map(|before| {
                    let all = |store: &dyn ProfileStore| store.scan(None, usize::MAX).unwrap();
                    assert_eq!(all(&*new), all(&*before), "{steps}");
                    assert_eq!(all(&swap), all(&*new), "{steps}");
                }),
                what if what.contains('!') => {
                    let (which, fault) = what.split_once('!').unwrap();
                    let store = if which == "old" { &old } else { &new };
                    *lock(&store.script.fault) = Some(fault.to_owned());
                    Ok(())
                }
                what => match what.strip_suffix('*') {
                    Some(names) => apply(&swap, names, at),
                    None => keys(what).iter().try_for_each(|key| put(&swap, key, at)),
                },
            };
            assert_eq!(done.is_err(), fails, "{steps}: at {step}: {done:?}");
            let met = [&old, &new].iter().all(|store| lock(&store.script.fault).is_none());
            assert!(met || what.contains('!'), "{steps}: the fault was not met by {step}");
        }
    }

    #[test]
    fn a_next_store_takes_the_place_of_one_that_is_written_to_meanwhile() {
        check("abc begin copy ready finish");
        check("abc begin ab* d copy a* ab ready c* checkpoint e finish a checkpoint");
        check("finish?");
        check("ready checkpoint");
    }

    #[test]
    fn a_next_store_that_failed_is_never_taken_and_harms_nobody_else() {
        check("ab begin new!put copy a ab* get checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin copy new!put a b ab* get checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin copy new!put ab* a get checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin copy new!get a b ab* checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin copy new!get ab* a checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin a new!get copy b checkpoint ready? checkpoint finish? a checkpoint");
        check("ab begin copy new!checkpoint checkpoint a ab* checkpoint ready? checkpoint finish? a");
        check("ab begin copy new!put a finish? a* checkpoint");
    }

    #[test]
    fn a_next_store_that_failed_once_is_refused_however_often_it_is_asked() {
        check("a begin copy new!put a ready? ready? finish? finish?");
        check("a begin copy new!put a ready? new!checkpoint checkpoint a checkpoint finish?");
        check("a begin copy ready new!checkpoint checkpoint? checkpoint? ready? finish?");
    }

    #[test]
    fn a_current_store_that_failed_leaves_no_next_one_to_be_taken() {
        check("ab begin copy old!put a? checkpoint ready? finish? a checkpoint");
        check("ab begin copy old!apply ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin copy old!apply-second ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin copy old!get ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin old!scan copy? a ready? finish? a checkpoint");
        check("ab begin old!keep copy? a ready? finish? a checkpoint");
        check("ab begin copy ready old!apply-second ab*? checkpoint? finish?");
    }

    #[test]
    fn reads_and_checkpoints_that_the_current_store_fails_leave_the_next_one_whole() {
        check("ab begin copy old!get get? ready finish");
        check("ab begin copy old!checkpoint checkpoint? a ready finish");
    }

    /// A restart may find the next store by then, so both stores must have every acknowledged write.
    #[test]
    fn once_it_is_ready_a_next_store_that_fails_makes_checkpoints_fail() {
        check("ab begin copy ready new!put a checkpoint? b checkpoint? finish?");
        check("ab begin copy ready new!put ab* checkpoint? checkpoint? finish?");
        check("ab begin copy ready new!get a checkpoint? checkpoint? finish?");
        check("ab begin copy ready new!checkpoint checkpoint? checkpoint? finish?");
        check("ab begin copy ready new!checkpoint checkpoint? abandon a checkpoint finish?");
    }

    #[test]
    fn after_a_next_store_that_failed_another_may_be_begun() {
        check("ab begin copy new!put a ready? abandon begin copy a ready finish checkpoint");
        check("ab begin copy old!apply-second ab*? finish? begin copy b ready finish checkpoint");
    }

    /// A checkpoint once held a lock that `begin`, `finish` and lookups waited for.
    #[test]
    fn nobody_waits_for_a_checkpoint() {
        let old = Arc::new(Faulty::default());
        let swap = SwapStore::new(Arc::clone(&old) as _, Reach(7));
        keys("ab").iter().try_for_each(|key| put(&swap, key, 1)).unwrap();
        let ((began, begun), (end, ended)) = (channel(), channel());
        *lock(&old.script.held) = Some((began, ended));
        std::thread::scope(|scope| {
            let checkpoint = scope.spawn(|| swap.make_durable());
            begun.recv().unwrap();
            let new = Arc::new(Faulty::default());
            swap.begin(Arc::clone(&new) as _);
            copy(&swap, &old).unwrap();
            put(&swap, &keys("c")[0], 2).unwrap();
            swap.ready().unwrap();
            swap.finish().unwrap();
            assert_eq!(swap.get(&keys("abc")).unwrap().iter().flatten().count(), 3);
            *lock(&old.script.fault) = Some("checkpoint".into());
            end.send(()).unwrap();
            // The old store failed but is no longer in use. The checkpoint ran on the new one instead.
            assert_eq!(checkpoint.join().unwrap().unwrap(), Reach(8));
            assert_eq!(new.reach().unwrap(), Reach(8));
        });
    }

    /// The next store becomes needed while its checkpoint runs.
    #[test]
    fn a_next_store_that_is_needed_by_the_end_of_its_checkpoint_makes_it_fail() {
        let swap = SwapStore::new(Arc::new(Faulty::default()), Reach::default());
        let new = Arc::new(Faulty::default());
        swap.begin(Arc::clone(&new) as _);
        let ((began, begun), (end, ended)) = (channel(), channel());
        *lock(&new.script.held) = Some((began, ended));
        std::thread::scope(|scope| {
            let checkpoint = scope.spawn(|| swap.make_durable());
            begun.recv().unwrap();
            swap.ready().unwrap();
            *lock(&new.script.fault) = Some("checkpoint".into());
            end.send(()).unwrap();
            checkpoint.join().unwrap().unwrap_err();
        });
    }
}
