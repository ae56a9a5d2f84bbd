//! A store that a fresh one can take the place of while it is used: for space, for erasure (R12).
//!
//! Promises: from [`SwapStore::begin`] on the next store is told of every change before the change is answered, so once
//! all that stood before has been copied it lacks nothing; each value's `through` lets the two writers, change and copy,
//! meet in any order. Whatever may have left the next store lacking anything, be it its own fault or the current one's,
//! [`SwapStore::ready`] and [`SwapStore::finish`] refuse to take it; what is wrong with the next store alone harms nobody
//! else until a restart may find it.
//!
//! And of a store that turns out to be damaged while it is used: what cannot be read is an error for whoever asks for it,
//! and so is what did not get in though it is acknowledged, until a store made again takes its place
//! ([`SwapStore::take_over`]).

use super::{ProfileStore, Reach, StoreError, Swapped, VisitorRows, put_through};
use crate::model::batch::BatchRules;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, RwLock, change, lock, look};
use std::collections::BTreeSet;
use std::sync::Arc;

const TAKING: &str = "take another's place";
/// More acknowledged values than these may not be missing in the store in use: a start is quicker.
const LOST_KEYS_MAX: usize = 1 << 20;

/// The store that is used, and the one that is to take its place, if any.
pub struct SwapStore {
    stores: RwLock<Stores>,
    /// How far the last checkpoint made the stores reach.
    reach: AtomicU64,
    damage: Mutex<Damage>,
    /// Whether any acknowledged value did not get in.
    lost_any: AtomicBool,
    /// How often a store made again took over, twice: odd while one does.
    turns: AtomicU64,
}

/// What was found of the store in use.
#[derive(Default)]
struct Damage {
    why: Option<String>,
    /// The keys of what did not get in.
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

/// Both under one lock: either who needs the store hears that it failed, or who has it fail hears that it is needed.
#[derive(Default)]
struct Fate {
    /// Why it may lack something, if it may.
    failed: Option<String>,
    /// From now on a restart may find this store.
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
    /// What the current store came to; an error is the next one's, too: of what was changed before it, nobody is told
    /// again.
    fn telling<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(next)) = (&done, &self.next) {
            next.note(format!("the store before it: {error}"));
        }
        done
    }
}

impl Next {
    fn note(&self, why: String) {
        lock(&self.fate).failed.get_or_insert(why);
    }

    /// From now on a restart may find it, unless it may lack something.
    fn need(&self) -> Result<(), StoreError> {
        let mut fate = lock(&self.fate);
        fate.lacks_nothing(TAKING)?;
        fate.needed = true;
        Ok(())
    }

    fn put(&self, key: &Key, now: &StoredBytes) {
        if lock(&self.fate).failed.is_none()
            && let Err(error) = put_through(&*self.store, key, None, now)
        {
            self.note(error.to_string());
        }
    }

    /// An error only where a restart may find it.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        if let Err(error) = self.store.checkpoint(reach) {
            self.note(error.to_string());
        }
        let fate = lock(&self.fate);
        if fate.needed {
            return fate.lacks_nothing("take another's place, where a restart may find it already");
        }
        Ok(())
    }
}

impl SwapStore {
    /// Of the store that is used for now. Checkpoints make the stores reach further than `reached`.
    pub fn new(current: Arc<dyn ProfileStore>, reached: Reach) -> Self {
        Self {
            stores: RwLock::new(Stores { current, next: None }),
            reach: AtomicU64::new(reached.0),
            damage: Mutex::default(),
            lost_any: AtomicBool::new(false),
            turns: AtomicU64::new(0),
        }
    }

    /// What is wrong with the store in use, if anything was found.
    pub fn damage(&self) -> Option<String> {
        lock(&self.damage).why.clone()
    }

    /// Notes an error of the store in use, if it is damage.
    pub fn note_damage(&self, error: &StoreError) {
        if error.is_damage() {
            lock(&self.damage).why.get_or_insert_with(|| {
                tracing::error!(%error, "the store is damaged");
                error.to_string()
            });
        }
    }

    /// Notes that an acknowledged value did not get in: nobody may be shown what stands there. False if there are too many
    /// to go on.
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
            Some(_) => Err(StoreError::Damaged { doing: "read", why: "a write did not get in".into() }),
        }
    }

    fn noting<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        done.inspect_err(|error| self.note_damage(error))
    }

    /// A store made again takes the place of all there is; what is given back is used by nobody else any more. `before`
    /// makes the batches readable that it lacks: who looks while one and the other change sees another
    /// [turn](Self::turn) afterwards, and must look again.
    pub fn take_over(&self, with: Arc<dyn ProfileStore>, before: impl FnOnce()) -> Arc<dyn ProfileStore> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        before();
        let old = self.replace(with);
        *lock(&self.damage) = Damage::default();
        self.lost_any.store(false, Ordering::Release);
        self.turns.fetch_add(1, Ordering::SeqCst);
        old
    }

    /// What was read of batches and store belongs together if this is the same before and after, and even.
    pub fn turn(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// All that went in before is durable when this returns, in whichever store a restart finds; gives how far that then
    /// reaches.
    pub fn make_durable(&self) -> Result<Reach, StoreError> {
        let reach = Reach(self.reach.fetch_add(1, Ordering::AcqRel) + 1);
        self.checkpoint(reach).map(|()| reach)
    }

    /// From here on `next` is told of every change.
    pub fn begin(&self, next: Arc<dyn ProfileStore>) {
        let next = Next { store: next, fate: Mutex::default() };
        change(&self.stores, |stores| stores.next = Some(Arc::new(next)));
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
            let page = stores.telling(self.noting(stores.current.scan(after, limit)))?;
            stores.telling(self.none_lost(page.iter().map(|(key, _)| key)))?;
            let last = page.last().filter(|_| page.len() == limit).map(|(key, _)| key.clone());
            if let Some(next) = &stores.next {
                for (key, value) in &page {
                    if stores.telling(keep(key, value))? {
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
        let next = look(&self.stores, |stores| stores.next.clone());
        next.map_or(Ok(()), |next| next.need())
    }

    /// The next store takes the place of the current one, which is given back; unless the next one may lack anything:
    /// then it is dropped, and all is as before.
    pub fn finish(&self) -> Result<Arc<dyn ProfileStore>, StoreError> {
        change(&self.stores, |stores| {
            let none = StoreError::Failed { doing: TAKING, why: "none was begun".to_owned() };
            let next = stores.next.take().ok_or(none)?;
            lock(&next.fate).lacks_nothing(TAKING)?;
            Ok(std::mem::replace(&mut stores.current, Arc::clone(&next.store)))
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
        self.none_lost(keys.iter())?;
        self.noting(look(&self.stores, |stores| stores.current.get(keys)))
    }

    fn fold(&self, rules: &BatchRules, visitors: &[VisitorRows<'_, '_>]) -> Result<Vec<Swapped>, StoreError> {
        self.none_lost(visitors.iter().map(|visitor| visitor.key))?;
        let folded = look(&self.stores, |stores| {
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
        });
        self.noting(folded)
    }

    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError> {
        self.none_lost(std::iter::once(key))?;
        let put = look(&self.stores, |stores| {
            let put = stores.telling(stores.current.put_if(key, was, now))?;
            // What is only taken away is a tombstone that nothing needs: the next store may have it all the same.
            if let (true, Some(now), Some(next)) = (put, now, &stores.next) {
                next.put(key, now);
            }
            Ok(put)
        });
        self.noting(put)
    }

    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError> {
        let page = self.noting(look(&self.stores, |stores| stores.current.scan(after, limit)))?;
        self.none_lost(page.iter().map(|(key, _)| key))?;
        Ok(page)
    }

    /// Of the next store, too: what is acknowledged on the strength of this must not need the journal whichever of the
    /// two a restart finds. It takes long, so no lock is held meanwhile, for whoever swaps stores would wait for it, and
    /// everybody else for that one. A store that is begun meanwhile is made durable before a restart may find it.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError> {
        loop {
            let (current, next) =
                look(&self.stores, |stores| (Arc::clone(&stores.current), stores.next.clone()));
            match current.checkpoint(reach) {
                Ok(()) => return next.map_or(Ok(()), |next| next.checkpoint(reach)),
                // Another took its place meanwhile, and has all that it had.
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

    /// A store that fails once where it is told to.
    type Faulty = Double<Faults>;

    #[derive(Default)]
    struct Faults {
        fault: Mutex<Option<String>>,
        /// The next checkpoint says that it began, and ends when it is told to.
        held: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    }

    impl Faults {
        fn passes(&self, doing: &'static str) -> Result<(), StoreError> {
            let failed = |_| StoreError::Failed { doing, why: "as told".into() };
            lock(&self.fault).take_if(|fault| *fault == doing).map_or(Ok(()), |fault| Err(failed(fault)))
        }
    }

    impl Script for Faults {
        fn before(&self, _: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
            if call == Call::Checkpoint
                && let Some((began, ended)) = lock(&self.held).take()
            {
                began.send(()).unwrap();
                ended.recv_timeout(Duration::from_secs(20)).expect("whoever holds it waits for it");
            }
            self.passes(match call {
                Call::Get(_) => "get",
                Call::Fold(0) => "fold",
                Call::Fold(_) => "fold-second",
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

    fn fold(store: &dyn ProfileStore, names: &str, at: u64) -> Result<(), StoreError> {
        let rules = BatchRules {
            seq: Seq::from_u64(at),
            source: Source::BatchV1,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading: RowReading::default(),
        };
        let cells = [Cell { name: "a", value: &at.to_string() }];
        let (keys, rows) = (keys(names), [Row { line: 2, cells: &cells }]);
        let visitors: Vec<_> = keys.iter().map(|key| VisitorRows { key, rows: &rows }).collect();
        store.fold(&rules, &visitors).map(drop)
    }

    fn put(store: &dyn ProfileStore, key: &Key, at: u64) -> Result<(), StoreError> {
        let profile = Stored::Profile(Profile::born_at(Seq::from_u64(at)));
        put_through(store, key, None, &profile.encode())
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

    /// Takes steps, each of which must succeed, or fail where it ends with `?`. `a` puts a visitor, `ab*` folds rows of two
    /// in; `old!get` has the next get of the current store fail, `new!get` that of the next one. A next store that is
    /// taken must have all that the one before it has.
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
                    Some(names) => fold(&swap, names, at),
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
        check("ab begin copy old!fold ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin copy old!fold-second ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin copy old!get ab*? checkpoint ready? finish? ab* checkpoint");
        check("ab begin old!scan copy? a ready? finish? a checkpoint");
        check("ab begin old!keep copy? a ready? finish? a checkpoint");
        check("ab begin copy ready old!fold-second ab*? checkpoint? finish?");
    }

    #[test]
    fn reads_and_checkpoints_that_the_current_store_fails_leave_the_next_one_whole() {
        check("ab begin copy old!get get? ready finish");
        check("ab begin copy old!checkpoint checkpoint? a ready finish");
    }

    /// A restart may find it then: what is acknowledged must be in both.
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
        check("ab begin copy old!fold-second ab*? finish? begin copy b ready finish checkpoint");
    }

    /// It once held a lock that `begin` and `finish` wait for, and lookups behind them.
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
            // The store it began with failed, but is not in use any more: the one that is was made durable instead.
            assert_eq!(checkpoint.join().unwrap().unwrap(), Reach(8));
            assert_eq!(new.reach().unwrap(), Reach(8));
        });
    }

    /// Between a look at the stores and the end of the checkpoint the next store came to be needed.
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
