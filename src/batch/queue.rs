//! All batches that the daemon knows, and whose turn it is to be applied.
//!
//! A batch is in front of the store until the store holds all of it, and among the kept batches once it is complete. It is in
//! both if a store had to be rebuilt: see [`Batches::publish_again`]; or if another node has counted it before this one has
//! applied it: see [`Batches::counted`]. It is in neither if this node has applied it and the order has no count yet.
//!
//! Promises: batches are applied in seq order per client, and clients take turns. So a client with a hundred batches waiting
//! does not delay another's first. A reader's list of pending batches never changes. Accepting, completing, finding and
//! listing batches cost the same however many are kept, and hardly more however many are pending. An idempotency key is
//! remembered for as long as it lasts, whatever becomes of its batch.
//!
//! Lock order: `queue`, then `all`; `keys` alone. The catalogue's own locks come after `all`. Looks must be short, because
//! publishing waits for them.

use super::accepted::{Accepted, SpoolName};
use super::catalogue::{Catalogue, Record, SaveError};
use super::kept::{Kept, Totals};
use super::known_names::KnownNames;
use super::pending::Pending;
use super::pending_list::PendingList;
use super::progress::{Known, Progress};
use crate::journal::entry::{BatchCompletedEntry, CatalogueMark, KnownBatch};
use crate::journal::log::Position;
use crate::model::batch::{BatchId, Counts, IdempotencyKey};
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};
use crate::sync::{Condvar, Mutex, RwLock, change, lock, look, wait};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many kept batches are looked at in one go.
const LOOK_BATCHES: usize = 256;
/// The catalogue is written anew once at least so many of its batches are forgotten, and at least as many as are kept.
const FORGOTTEN_BATCHES_MIN: u64 = 1024;

/// Which batches are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that are not complete.
    Incomplete,
    /// Those that are.
    Complete,
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// This batch's.
    Of(Arc<Pending>),
    /// Nobody's yet: the oldest batch of each client is held.
    Held,
    /// Nobody's: the queue is closed.
    Closed,
}

/// How far a batch is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedSo {
    /// Not yet, as far as this node knows.
    Pending,
    /// This node has counted it so. The order of several nodes has no count yet.
    Applied(Counts),
    /// It is complete.
    Complete,
}

/// All batches.
#[derive(Debug, Default)]
pub struct Batches {
    /// Which batches there are.
    all: RwLock<All>,
    /// Which idempotency keys. Never locked together with another.
    keys: RwLock<Keys>,
    catalogue: Catalogue,
    /// The names of the attributes that profiles have, and what was new of batches. It locks alone.
    pub names: KnownNames,
    /// Whose turn it is. Locked before `all`.
    queue: Mutex<Queue>,
    /// Signalled with `queue` when a batch may have its turn.
    changed: Condvar,
}

/// What one lock guards, so that a batch that moves from the pending ones to the kept ones is never in neither.
#[derive(Debug, Default)]
struct All {
    /// The batches in front of the store, of each client that has any. No list is empty.
    pending: BTreeMap<ClientCode, PendingList>,
    /// The same batches, by seq.
    in_front: BTreeMap<Seq, InFront>,
    /// How many rows they have.
    rows_pending: u64,
    /// The batches that the store holds all of, and that the order of several nodes has no count of yet. Of each client they
    /// are older than the pending ones.
    applied: BTreeMap<Seq, AppliedHere>,
    kept: Kept,
    /// How many batches the catalogue has that are not kept any more.
    forgotten: u64,
}

#[derive(Debug)]
struct InFront {
    pending: Arc<Pending>,
    /// Where in the journal its entry's group begins.
    position: Position,
    /// When it was completed and with which counts, if that was in a store that was lost.
    completed: Option<BatchCompletedEntry>,
    /// How the order of several nodes has counted it, if it has. This node has yet to come to the same counts.
    counted: Option<BatchCompletedEntry>,
}

#[derive(Debug)]
struct AppliedHere {
    known: Known,
    /// Where in the journal its entry's group begins.
    position: Position,
    end: BatchCompletedEntry,
}

/// The idempotency keys that batches came with lately. Both maps have the same keys.
#[derive(Debug, Default)]
struct Keys {
    newest: BTreeMap<(ClientCode, IdempotencyKey), Keyed>,
    by_age: BTreeMap<Seq, (ClientCode, IdempotencyKey)>,
}

#[derive(Debug)]
struct Keyed {
    accepted: Arc<Accepted>,
    /// Its end, once it is forgotten.
    end: Option<(Counts, Millis)>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The client whose batch was applied last.
    served: Option<ClientCode>,
    closed: bool,
}

impl Batches {
    /// These batches with the catalogue that they were read from. Changes are noted in it.
    pub fn kept_in(self, catalogue: Catalogue) -> Self {
        Self { catalogue, ..self }
    }

    /// A client's pending batches, as of now.
    pub fn pending(&self, client: &ClientCode) -> PendingList {
        look(&self.all, |all| all.pending.get(client).cloned().unwrap_or_default())
    }

    /// Makes a batch readable. From now on lookups apply its rows, and its turn will come.
    pub fn publish(&self, pending: Arc<Pending>, position: Position) {
        self.note_key(&pending.accepted, None);
        self.names.note(&pending.accepted.id.client, pending.header.names().iter().map(|name| &**name));
        self.put_in_front(InFront { pending, position, completed: None, counted: None });
    }

    /// Makes a batch readable that this node has not applied, though the order of several nodes has its count. It shows as
    /// complete.
    pub fn publish_counted(&self, pending: Arc<Pending>, position: Position, end: &BatchCompletedEntry) {
        self.publish(pending, position);
        self.counted(end);
    }

    /// Notes a batch that the store holds all of, and that the order of several nodes has no count of.
    pub fn publish_applied(&self, accepted: &Arc<Accepted>, position: Position, end: BatchCompletedEntry) {
        self.note_key(accepted, None);
        let progress = Arc::new(Progress::of(accepted));
        progress.add(&end.counts);
        let known = Known { accepted: Arc::clone(accepted), progress };
        let applied = AppliedHere { known, position, end };
        change(&self.all, |all| drop(all.applied.insert(Seq::from_u64(end.seq), applied)));
    }

    /// How far a batch is counted; none if it is not known.
    pub fn counted_so(&self, id: &BatchId) -> Option<CountedSo> {
        look(&self.all, |all| {
            let (in_front, applied) = (all.in_front.get(&id.seq), all.applied.get(&id.seq));
            if let Some(batch) = in_front.filter(|batch| batch.pending.accepted.id == *id) {
                let counted = batch.counted.or(batch.completed).is_some();
                return Some(if counted { CountedSo::Complete } else { CountedSo::Pending });
            }
            if let Some(applied) = applied.filter(|applied| applied.known.accepted.id == *id) {
                return Some(CountedSo::Applied(applied.end.counts));
            }
            all.kept.has(id).then_some(CountedSo::Complete)
        })
    }

    /// The order of several nodes has counted a batch: it shows as complete. If this node has not applied it yet, lookups go
    /// on to apply its rows until it has.
    pub fn counted(&self, end: &BatchCompletedEntry) {
        change(&self.all, |all| {
            let seq = Seq::from_u64(end.seq);
            if let Some(batch) = all.in_front.get_mut(&seq) {
                batch.counted = Some(*end);
                let accepted = Arc::clone(&batch.pending.accepted);
                self.keep(all, &accepted, end.counts, Millis(end.at_ms));
            } else if let Some(AppliedHere { known, .. }) = all.applied.remove(&seq) {
                self.keep(all, &known.accepted, end.counts, Millis(end.at_ms));
                known.progress.complete(end.counts, Millis(end.at_ms));
            }
        });
    }

    /// The store of this node holds all of a batch. False if the order of several nodes has other counts.
    pub fn applied(&self, seq: Seq, end: &BatchCompletedEntry) -> bool {
        change(&self.all, |all| {
            let Some(id) = all.in_front.get(&seq).map(|batch| batch.pending.accepted.id.clone()) else {
                return true;
            };
            let Some(batch) = Self::take_from_front(all, &id) else { return true };
            match batch.counted.or(batch.completed) {
                Some(counted) if counted.counts != end.counts => return false,
                Some(counted) => batch.pending.progress.complete(counted.counts, Millis(counted.at_ms)),
                None => {
                    let known = batch.pending.known();
                    let applied = AppliedHere { known, position: batch.position, end: *end };
                    all.applied.insert(seq, applied);
                }
            }
            true
        })
    }

    /// When this node had applied a batch that the order has no count of.
    pub fn applied_at(&self, batch: Seq) -> Option<Millis> {
        look(&self.all, |all| all.applied.get(&batch).map(|one| Millis(one.end.at_ms)))
    }

    /// The batches that this node has counted and the order has not, with their counts.
    pub fn uncounted(&self) -> Vec<(BatchId, Counts)> {
        look(&self.all, |all| {
            all.applied.values().map(|one| (one.known.accepted.id.clone(), one.end.counts)).collect()
        })
    }

    /// Whether a batch shows as complete though this node has yet to apply it, and so has no outcomes of its rows.
    pub fn lacks_outcomes(&self, id: &BatchId) -> bool {
        look(&self.all, |all| {
            let in_front = all.in_front.get(&id.seq);
            in_front.is_some_and(|batch| batch.counted.is_some() && !batch.pending.is_on_record())
        })
    }

    /// Puts a complete batch in front of the store again. The store that had it is gone, and the rebuilt one does not hold all
    /// of it.
    ///
    /// Statuses, lists and statistics show it as before: complete, with its counts and its time. For lookups, for writes that
    /// resolve rows, for the apply thread, the sweeper, checkpoints and snapshots it is pending like any other. `pending` has
    /// the outcomes of its rows on record ([`Pending::with_outcomes`]). Its turn comes, and [`Self::complete`] takes it away
    /// again; only then does a checkpoint leave it out. Whoever rebuilds a store calls this before any lookup can see that
    /// store, for each batch that the checkpoint or snapshot does not hold ([`Checkpoint::held`]), with the position behind
    /// which its journal entry stands.
    ///
    /// A batch that this node has applied and the order has no count of was not complete, and is pending again.
    ///
    /// [`Checkpoint::held`]: crate::journal::entry::Checkpoint::held
    pub fn publish_again(&self, pending: Arc<Pending>, position: Position, end: &BatchCompletedEntry) {
        if look(&self.all, |all| all.applied.contains_key(&pending.accepted.id.seq)) {
            return self.publish(pending, position);
        }
        self.note_complete(&pending.accepted, end.counts, Millis(end.at_ms));
        self.put_in_front(InFront { pending, position, completed: Some(*end), counted: None });
    }

    fn put_in_front(&self, batch: InFront) {
        let id = batch.pending.accepted.id.clone();
        change(&self.all, |all| {
            let list = all.pending.entry(id.client).or_default();
            *list = list.with(Arc::clone(&batch.pending));
            all.rows_pending += batch.pending.accepted.rows;
            if batch.completed.is_none() {
                // A batch whose outcomes are lost is not complete before they are known again.
                all.kept.remove(&batch.pending.accepted.id);
            }
            all.applied.remove(&id.seq);
            all.in_front.insert(id.seq, batch);
        });
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    /// Whether a batch is in front of the store though it was complete before.
    pub fn is_again(&self, batch: Seq) -> bool {
        look(&self.all, |all| all.in_front.get(&batch).is_some_and(|found| found.completed.is_some()))
    }

    /// Whether a batch is in front of the store though it shows as complete.
    fn shows_complete_in_front(&self, batch: Seq) -> bool {
        look(&self.all, |all| {
            all.in_front.get(&batch).is_some_and(|found| found.completed.or(found.counted).is_some())
        })
    }

    /// When a batch in front of the store was completed before, if it was, with these counts.
    pub fn ended_so_at(&self, id: &BatchId, counts: &Counts) -> Option<Millis> {
        look(&self.all, |all| {
            let before = all.in_front.get(&id.seq).and_then(|found| found.completed);
            before.filter(|end| end.counts == *counts).map(|end| Millis(end.at_ms))
        })
    }

    /// Notes a complete batch. It is noted in the catalogue unless it stands there.
    pub fn note_complete(&self, accepted: &Arc<Accepted>, counts: Counts, at: Millis) {
        self.note_key(accepted, None);
        change(&self.all, |all| {
            let same = all.kept.get(&accepted.id).is_some_and(|known| {
                let kept = Accepted { key: accepted.key.clone(), ..(*known.accepted).clone() };
                kept == **accepted && known.progress.counts() == counts
            });
            if !same {
                self.keep(all, accepted, counts, at);
            }
        });
    }

    /// Notes what the catalogue says, as it is read.
    pub fn note_record(&self, record: Record) {
        match record {
            Record::Complete(accepted, end) => {
                let Some(accepted) = Accepted::from_entry(*accepted).map(Arc::new) else {
                    tracing::error!(seq = end.seq, "the catalogue has a batch that this program cannot read");
                    return;
                };
                self.note_key(&accepted, None);
                change(&self.all, |all| all.kept.insert(&accepted, &end.counts, Millis(end.at_ms)));
            }
            Record::Forgotten(batches) => {
                let id = |(client, seq): (String, u64)| {
                    Some(BatchId { client: ClientCode::new(&client).ok()?, seq: Seq::from_u64(seq) })
                };
                self.take_out(&batches.into_iter().filter_map(id).collect::<Vec<_>>());
            }
        }
    }

    fn keep(&self, all: &mut All, accepted: &Accepted, counts: Counts, at: Millis) {
        let (seq, at_ms) = (accepted.id.seq.get(), at.0);
        let end = BatchCompletedEntry { seq, counts, at_ms, store_reach: 0 };
        self.catalogue.note(&Record::Complete(Box::new(accepted.to_entry()), end));
        all.kept.insert(accepted, &counts, at);
    }

    /// Takes a batch out of what lookups apply, because the store has all of it. It shows as complete from the same moment on,
    /// so a lookup that finds it complete and begins again finds it gone. A batch that was complete before with the same
    /// counts keeps its time.
    pub fn complete(&self, id: &BatchId, counts: Counts, at: Millis) {
        change(&self.all, |all| {
            let Some(batch) = Self::take_from_front(all, id) else { return };
            // A batch that was complete before gets other counts only if its outcomes had to be found out again.
            if batch.completed.is_none_or(|end| end.counts != counts) {
                self.keep(all, &batch.pending.accepted, counts, at);
            }
            batch.pending.progress.complete(counts, at);
        });
    }

    /// Forgets complete batches.
    pub fn forget(&self, ids: &[BatchId]) {
        self.take_out(ids);
        self.catalogue.note_forgotten(ids);
    }

    fn take_out(&self, ids: &[BatchId]) {
        let forgotten: Vec<Known> = change(&self.all, |all| {
            let forgotten: Vec<Known> = ids.iter().filter_map(|id| all.kept.remove(id)).collect();
            all.forgotten += forgotten.len() as u64;
            forgotten
        });
        forgotten.iter().for_each(|known| self.end_key(known));
    }

    /// Forgets the complete batches whose files are gone. A crash came before that was noted.
    pub fn forget_without(&self, files: &HashSet<SpoolName>) {
        let mut gone = vec![];
        let Ok(()) = self.each_held(|known| {
            if !files.contains(&known.accepted.spool) {
                gone.push(known.accepted.id.clone());
            }
            Ok::<(), Infallible>(())
        });
        self.forget(&gone);
    }

    /// Notes the key of a batch that is not kept any more.
    pub fn note_key_of_forgotten(&self, accepted: &Arc<Accepted>, counts: Counts, at: Millis) {
        self.note_key(accepted, Some((counts, at)));
    }

    fn note_key(&self, accepted: &Arc<Accepted>, end: Option<(Counts, Millis)>) {
        let Some(key) = &accepted.key else { return };
        let (of, seq) = ((accepted.id.client.clone(), key.key.clone()), accepted.id.seq);
        change(&self.keys, |keys| {
            if keys.newest.get(&of).is_some_and(|known| known.accepted.id.seq >= seq) {
                return;
            }
            keys.by_age.insert(seq, of.clone());
            if let Some(before) = keys.newest.insert(of, Keyed { accepted: Arc::clone(accepted), end }) {
                keys.by_age.remove(&before.accepted.id.seq);
            }
        });
    }

    /// Keeps the end of a forgotten batch with its key.
    fn end_key(&self, known: &Known) {
        let end = (known.progress.counts(), known.progress.completed().unwrap_or_default());
        change(&self.keys, |keys| {
            let of = keys.by_age.get(&known.accepted.id.seq).cloned();
            if let Some(keyed) = of.and_then(|of| keys.newest.get_mut(&of)) {
                keyed.end = Some(end);
            }
        });
    }

    /// Forgets the keys that came before this time.
    pub fn forget_keys_before(&self, before: Millis) {
        let before = Seq::from_parts(before, 0);
        change(&self.keys, |keys| {
            let kept = keys.by_age.split_off(&before);
            for of in std::mem::replace(&mut keys.by_age, kept).into_values() {
                keys.newest.remove(&of);
            }
        });
    }

    /// The newest of a client's batches that came with this key, and what was sent with it. The batch itself may not be
    /// kept any more.
    pub fn keyed(&self, client: &ClientCode, key: &IdempotencyKey) -> Option<(Arc<Accepted>, Known)> {
        let (accepted, end) = look(&self.keys, |keys| {
            let keyed = keys.newest.get(&(client.clone(), key.clone()))?;
            Some((Arc::clone(&keyed.accepted), keyed.end))
        })?;
        let known = self.get(&accepted.id).unwrap_or_else(|| {
            let progress = Arc::new(Progress::of(&accepted));
            let (counts, at) = end.unwrap_or_default();
            progress.complete(counts, at);
            Known { accepted: Arc::clone(&accepted), progress }
        });
        Some((accepted, known))
    }

    /// One batch.
    pub fn get(&self, id: &BatchId) -> Option<Known> {
        look(&self.all, |all| {
            let in_front = || {
                let pending = all.in_front.get(&id.seq).map(|found| found.pending.known());
                let found = pending.or_else(|| all.applied.get(&id.seq).map(|one| one.known.clone()))?;
                (found.accepted.id == *id).then_some(found)
            };
            all.kept.get(id).or_else(in_front)
        })
    }

    /// Shows a client's batches before a place in the order, newest first, until `each` has enough. No batch can be published
    /// meanwhile, so a look must be short.
    pub fn walk_back(
        &self,
        client: &ClientCode,
        before: Seq,
        which: Which,
        mut each: impl FnMut(&Known) -> ControlFlow<()>,
    ) {
        look(&self.all, |all| {
            let list = all.pending.get(client).filter(|_| which != Which::Complete);
            let incomplete = list.into_iter().flat_map(|list| list.before(before));
            let incomplete = incomplete.filter(|pending| !all.kept.has(&pending.accepted.id));
            let applied = all.applied.range(..before).rev().map(|(_, one)| one.known.clone());
            let applied = applied.filter(|one| which != Which::Complete && one.accepted.id.client == *client);
            let mut incomplete = incomplete.map(|pending| pending.known()).chain(applied).peekable();
            let kept = (which != Which::Incomplete).then(|| all.kept.before(client, before));
            let mut kept = kept.into_iter().flatten().peekable();
            let seq = |known: &Known| known.accepted.id.seq;
            loop {
                let next = match (incomplete.peek().map(seq), kept.peek().map(seq)) {
                    (Some(pending), Some(complete)) if pending > complete => incomplete.next(),
                    (_, Some(_)) => kept.next(),
                    (_, None) => incomplete.next(),
                };
                if next.is_none_or(|known| each(&known).is_break()) {
                    return;
                }
            }
        });
    }

    /// The client that has batches, if there is exactly one.
    pub fn only_client(&self) -> Option<ClientCode> {
        look(&self.all, |all| {
            let pending = all.pending.iter().filter(|(_, list)| !list.is_empty()).map(|(client, _)| client);
            let mut all = all.kept.clients().chain(pending);
            let first = all.next()?;
            all.all(|other| other == first).then(|| first.clone())
        })
    }

    /// The clients that have batches.
    pub fn clients(&self) -> BTreeSet<ClientCode> {
        look(&self.all, |all| {
            let pending = all.pending.iter().filter(|(_, list)| !list.is_empty()).map(|(client, _)| client);
            all.kept.clients().chain(pending).cloned().collect()
        })
    }

    /// The totals of a client's complete batches.
    pub fn totals(&self, client: &ClientCode) -> Totals {
        look(&self.all, |all| all.kept.totals(client))
    }

    /// How many complete batches are kept.
    pub fn kept(&self) -> u64 {
        look(&self.all, |all| all.kept.len())
    }

    /// Shows every batch that the store holds all of. No lock is held while `each` runs, so it may take long. Batches that
    /// become complete meanwhile may be among them or not.
    pub fn each_held<E>(&self, mut each: impl FnMut(Known) -> Result<(), E>) -> Result<(), E> {
        let clients: Vec<ClientCode> = look(&self.all, |all| all.kept.clients().cloned().collect());
        for client in clients {
            let mut behind = Seq::ZERO;
            loop {
                let page: Vec<Known> =
                    look(&self.all, |all| all.kept.behind(&client, behind).take(LOOK_BATCHES).collect());
                let Some(last) = page.last() else { break };
                behind = last.accepted.id.seq;
                let held =
                    page.into_iter().filter(|known| !self.shows_complete_in_front(known.accepted.id.seq));
                held.into_iter().try_for_each(&mut each)?;
            }
        }
        let applied: Vec<Known> =
            look(&self.all, |all| all.applied.values().map(|one| one.known.clone()).collect());
        applied.into_iter().try_for_each(each)
    }

    /// The complete batches that the store holds and that `may_go`: the oldest of each client, up to the first that may not.
    pub fn oldest_held(&self, may_go: impl Fn(&Known) -> bool) -> Vec<Known> {
        let mut found = vec![];
        let clients: Vec<ClientCode> = look(&self.all, |all| all.kept.clients().cloned().collect());
        for client in clients {
            look(&self.all, |all| {
                let again = |known: &Known| all.in_front.contains_key(&known.accepted.id.seq);
                let oldest = all.kept.behind(&client, Seq::ZERO);
                found.extend(oldest.take_while(|known| !again(known) && may_go(known)));
            });
        }
        found
    }

    /// A pending batch by its seq alone.
    pub fn pending_by_seq(&self, seq: Seq) -> Option<Arc<Pending>> {
        look(&self.all, |all| all.in_front.get(&seq).map(|found| Arc::clone(&found.pending)))
    }

    /// All pending batches in seq order, and whether the outcomes of their rows are on record.
    pub fn all_pending(&self) -> Vec<(Arc<Pending>, bool)> {
        look(&self.all, |all| {
            let one = |batch: &InFront| (Arc::clone(&batch.pending), batch.completed.is_some());
            all.in_front.values().map(one).collect()
        })
    }

    /// The oldest pending batch's place in the order.
    pub fn oldest_pending(&self) -> Option<Seq> {
        look(&self.all, |all| all.in_front.keys().next().copied())
    }

    /// What a checkpoint says of batches: the pending ones, and how far the catalogue reaches, which has the others.
    pub fn mark(&self) -> (Vec<KnownBatch>, CatalogueMark) {
        look(&self.all, |all| {
            let known = |batch: &InFront| KnownBatch {
                completed: batch.completed,
                counted: batch.counted,
                ..KnownBatch::pending(batch.position.to_pair(), batch.pending.accepted.to_entry())
            };
            let applied = |one: &AppliedHere| KnownBatch {
                applied: Some(one.end),
                ..KnownBatch::pending(one.position.to_pair(), one.known.accepted.to_entry())
            };
            let in_front = all.in_front.values().map(known);
            let mut known: Vec<KnownBatch> = in_front.chain(all.applied.values().map(applied)).collect();
            known.sort_unstable_by_key(|batch| batch.accepted.seq);
            (known, self.catalogue.mark())
        })
    }

    /// Makes what was noted in the catalogue durable. Blocks.
    pub fn save(&self) -> Result<(), SaveError> {
        self.catalogue.save()
    }

    /// Writes the catalogue anew if most of its batches are not kept any more. Blocks.
    pub fn tidy_catalogue(&self, now: Millis) -> Result<(), SaveError> {
        let (forgotten, kept) = look(&self.all, |all| (all.forgotten, all.kept.len()));
        if forgotten < FORGOTTEN_BATCHES_MIN.max(kept) {
            return Ok(());
        }
        // A key may outlast its batch. Then both records stay: the batch's, and the one that it is forgotten.
        let key_lasts = |seq: u64| Seq::from_u64(seq).millis().plus(IdempotencyKey::LASTS_MS) > now;
        let mut left = 0;
        self.catalogue.write_anew(|record| match record {
            Record::Complete(accepted, _) => {
                let client = ClientCode::new(&accepted.client).ok();
                let id = client.map(|client| BatchId { client, seq: Seq::from_u64(accepted.seq) });
                let kept = id.is_some_and(|id| look(&self.all, |all| all.kept.has(&id)));
                let keyed = accepted.key.is_some() && key_lasts(accepted.seq);
                left += u64::from(keyed && !kept);
                kept || keyed
            }
            Record::Forgotten(batches) => batches.iter().any(|(_, seq)| key_lasts(*seq)),
        })?;
        change(&self.all, |all| all.forgotten = (all.forgotten - forgotten) + left);
        Ok(())
    }

    /// Whether any batch can be applied. Held ones, and those behind them, can't.
    pub fn any_goes_on(&self) -> bool {
        look(&self.all, |all| {
            let oldest = all.pending.values().filter_map(|list| list.first());
            oldest.into_iter().any(|pending| pending.held().is_none())
        })
    }

    /// How many batches are held because their files are not what was accepted.
    pub fn held(&self) -> u64 {
        look(&self.all, |all| {
            all.in_front.values().filter(|batch| batch.pending.held().is_some()).count() as u64
        })
    }

    /// The batches that are held.
    pub fn held_batches(&self) -> Vec<Arc<Pending>> {
        look(&self.all, |all| {
            let held = all.in_front.values().filter(|batch| batch.pending.held().is_some());
            held.map(|batch| Arc::clone(&batch.pending)).collect()
        })
    }

    /// Why a batch is held, if it is.
    pub fn why_held(&self, id: &BatchId) -> Option<String> {
        let pending = self.pending_by_seq(id.seq).filter(|pending| pending.accepted.id == *id)?;
        pending.held().map(str::to_owned)
    }

    /// Replaces a held batch with the same one opened again: its file is what was accepted.
    pub fn go_on_with(&self, pending: Arc<Pending>) {
        let id = pending.accepted.id.clone();
        change(&self.all, |all| {
            let Some(found) = all.in_front.get_mut(&id.seq) else { return };
            found.pending = Arc::clone(&pending);
            if let Some(list) = all.pending.get_mut(&id.client) {
                *list = list.without(id.seq).with(pending);
            }
        });
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    /// Ends a batch that was held. Its file and the outcomes of its rows are on the disk already.
    pub fn give_up(&self, accepted: &Accepted, counts: Counts, at: Millis) {
        change(&self.all, |all| {
            let id = &accepted.id;
            let Some(batch) = Self::take_from_front(all, id) else { return };
            all.kept.remove(id);
            self.keep(all, accepted, counts, at);
            batch.pending.progress.complete(counts, at);
        });
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    fn take_from_front(all: &mut All, id: &BatchId) -> Option<InFront> {
        let batch = all.in_front.remove(&id.seq)?;
        all.rows_pending = all.rows_pending.saturating_sub(batch.pending.accepted.rows);
        if let Some(list) = all.pending.get_mut(&id.client) {
            *list = list.without(id.seq);
            if list.is_empty() {
                all.pending.remove(&id.client);
            }
        }
        Some(batch)
    }

    /// The batch whose turn it is: the oldest of the next client that has one, in the order of client codes. Waits for one.
    /// `None` once the queue is closed.
    pub fn next(&self) -> Option<Arc<Pending>> {
        match self.next_not_held(|_| false) {
            Turn::Of(pending) => Some(pending),
            Turn::Held | Turn::Closed => None,
        }
    }

    /// The same, but skips clients whose oldest batch is `held` or whose file is not what was accepted: the batches behind it
    /// wait. Does not wait if all that is left is held.
    pub fn next_not_held(&self, held: impl Fn(&Accepted) -> bool) -> Turn {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return Turn::Closed;
            }
            let (first, any) = look(&self.all, |all| {
                let served = queue.served.as_ref();
                let behind =
                    all.pending.iter().filter(|(client, _)| served.is_some_and(|served| *client > served));
                let first = behind.chain(all.pending.iter()).find_map(|(client, list)| {
                    let pending = list.first()?;
                    if pending.held().is_some() || held(&pending.accepted) {
                        return None;
                    }
                    Some((client.clone(), Arc::clone(pending)))
                });
                (first, !all.pending.is_empty())
            });
            match first {
                Some((client, pending)) => {
                    queue.served = Some(client);
                    return Turn::Of(pending);
                }
                None if any => return Turn::Held,
                None => queue = wait(&self.changed, queue),
            }
        }
    }

    /// How many batches are pending, and how many of their rows are not applied yet.
    pub fn backlog(&self) -> (u64, u64) {
        look(&self.all, |all| {
            // Batches are applied in order, so only the oldest of each client can have applied rows.
            let oldest = all.pending.values().filter_map(|list| list.first());
            let applied: u64 = oldest.map(|pending| pending.progress.counts().total()).sum();
            (all.in_front.len() as u64, all.rows_pending.saturating_sub(applied))
        })
    }

    /// How many batches are pending.
    pub fn pending_batches(&self) -> usize {
        look(&self.all, |all| all.in_front.len())
    }

    /// Closes the queue.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_each_one_s_batches_come_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let batches = Batches::default();
        for (client, number) in [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 5), ("c", 6), ("c", 7)] {
            let batch = Pending::of_text(folder.path(), client, number, "batch=pcId,a\n1,1\n");
            batches.publish(Arc::new(batch), Position::START);
        }
        let mut order = vec![];
        while batches.pending_batches() > 0 {
            let next = batches.next().unwrap();
            order.push(next.accepted.id.seq.get());
            batches.complete(&next.accepted.id, Counts::default(), Millis(0));
        }
        assert_eq!(order, [1, 5, 6, 2, 7, 3, 4]);
        batches.close();
        assert!(batches.next().is_none());
    }

    #[test]
    fn a_look_goes_back_as_far_as_it_must_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let batches = Batches::default();
        for (client, number) in [("a", 1), ("a", 2), ("b", 3), ("a", 4), ("ab", 5), ("a", 6)] {
            let batch = Pending::of_text(folder.path(), client, number, "batch=pcId,a\n1,1\n");
            batches.publish(Arc::new(batch), Position::START);
        }
        let check = |before: u64, most: usize, expected: &[u64]| {
            let mut seen = vec![];
            batches.walk_back(&ClientCode::new("a").unwrap(), Seq::from_u64(before), Which::All, |known| {
                seen.push(known.accepted.id.seq.get());
                if seen.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(seen, expected, "{most} before {before}");
        };
        check(u64::MAX, 9, &[6, 4, 2, 1]);
        check(u64::MAX, 1, &[6]);
        check(u64::MAX, 2, &[6, 4]);
        check(6, 2, &[4, 2]);
        check(5, 9, &[4, 2, 1]);
        check(1, 9, &[]);
        check(0, 9, &[]);
    }

    #[test]
    fn a_batch_that_is_held_holds_those_behind_it_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let batches = Batches::default();
        for (client, number) in [("a", 1), ("a", 2), ("b", 3)] {
            let batch = Pending::of_text(folder.path(), client, number, "batch=pcId,a\n1,1\n2,2\n");
            batches.publish(Arc::new(batch), Position::START);
        }
        assert_eq!(batches.backlog(), (3, 6));
        let next = |held: &[u64]| match batches.next_not_held(|batch| held.contains(&batch.id.seq.get())) {
            Turn::Of(pending) => Some(pending.accepted.id.seq.get()),
            Turn::Held | Turn::Closed => None,
        };
        assert_eq!([next(&[1]), next(&[1]), next(&[]), next(&[2])], [Some(3), Some(3), Some(1), Some(3)]);
        assert_eq!(next(&[1, 3]), None);
    }
}
