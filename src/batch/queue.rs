//! The batches a daemon knows, and whose turn it is to be folded.
//!
//! Promises: batches are folded in seq order per client, and clients take turns, so a client with a hundred batches
//! waiting does not hold up another's first. The list of pending batches that a reader takes never changes under it.

use super::outcome::{BatchState, Progress};
use super::pending::{Accepted, Pending};
use crate::journal::log::Position;
use crate::model::batch::{BatchId, Counts, IdempotencyKey};
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};
use crate::sync::{Condvar, Mutex, RwLock, change, lock, look, wait};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// A client's pending batches, in seq order.
pub type PendingList = Arc<Vec<Arc<Pending>>>;

/// A batch that is known: pending or complete.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it is.
    pub accepted: Arc<Accepted>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Where in the journal its entry's group begins.
    pub position: Position,
}

/// Whose turn it is.
#[derive(Debug)]
pub enum Turn {
    /// This batch's.
    Of(Arc<Pending>),
    /// Nobody's yet: each client's oldest batch is still held.
    Held,
    /// Nobody's any more: the queue is closed.
    Closed,
}

/// All batches.
#[derive(Debug, Default)]
pub struct Batches {
    known: RwLock<BTreeMap<(String, Seq), Known>>,
    pending: RwLock<BTreeMap<ClientCode, PendingList>>,
    /// The newest batch that came with each key.
    keyed: RwLock<BTreeMap<(ClientCode, IdempotencyKey), Seq>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whose batch was folded last.
    served: Option<ClientCode>,
    closed: bool,
}

impl Batches {
    /// A client's pending batches, as of now.
    pub fn pending(&self, client: &ClientCode) -> PendingList {
        look(&self.pending, |all| all.get(client).cloned().unwrap_or_default())
    }

    /// Makes a batch readable: from here on lookups fold it in, and its turn will come.
    pub fn publish(&self, pending: Arc<Pending>, position: Position) {
        let accepted = Arc::clone(&pending.accepted);
        let known = Known { accepted, progress: Arc::clone(&pending.progress), position };
        let client = known.accepted.id.client.clone();
        self.note_key(&known.accepted);
        change(&self.known, |all| all.insert((client.to_string(), known.accepted.id.seq), known));
        change(&self.pending, |all| {
            let list = all.entry(client).or_default();
            *list = Arc::new(list.iter().cloned().chain([pending]).collect());
        });
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    /// Makes a complete batch readable once more, for it is to be folded in once more, into a store that lacks it. It
    /// stays complete for whoever asks.
    pub fn publish_again(&self, pending: Arc<Pending>) {
        let client = pending.accepted.id.client.clone();
        change(&self.pending, |all| {
            let list = all.entry(client).or_default();
            let mut batches: Vec<_> = list.iter().cloned().chain([pending]).collect();
            batches.sort_by_key(|batch| batch.accepted.id.seq);
            *list = Arc::new(batches);
        });
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    /// Notes a batch that was complete before a restart.
    pub fn note_complete(&self, accepted: Accepted, position: Position, counts: Counts, at: Millis) {
        let progress = Arc::new(Progress::of(&accepted));
        progress.complete(counts, at);
        let key = (accepted.id.client.to_string(), accepted.id.seq);
        self.note_key(&accepted);
        change(&self.known, |all| {
            all.insert(key, Known { accepted: Arc::new(accepted), progress, position })
        });
    }

    /// Takes a batch out of what lookups fold in: the store has it all. It shows as complete only then, so a lookup that
    /// finds it complete and begins again finds it gone.
    pub fn complete(&self, id: &BatchId, counts: Counts, at: Millis) {
        change(&self.pending, |all| {
            if let Some(list) = all.get_mut(&id.client) {
                *list = Arc::new(list.iter().filter(|pending| pending.accepted.id != *id).cloned().collect());
            }
            all.retain(|_, list| !list.is_empty());
        });
        // One that was folded in once more was complete before.
        if let Some(known) = self.get(id).filter(|it| !matches!(it.progress.state(), BatchState::Complete(_)))
        {
            known.progress.complete(counts, at);
        }
    }

    /// Forgets a complete batch.
    pub fn forget(&self, id: &BatchId) {
        let forgotten = change(&self.known, |all| all.remove(&(id.client.to_string(), id.seq)));
        if let Some(key) = forgotten.and_then(|known| known.accepted.key.clone()) {
            let of = (id.client.clone(), key);
            change(&self.keyed, |all| {
                if all.get(&of) == Some(&id.seq) {
                    all.remove(&of);
                }
            });
        }
    }

    fn note_key(&self, accepted: &Accepted) {
        if let Some(key) = &accepted.key {
            let of = (accepted.id.client.clone(), key.clone());
            change(&self.keyed, |all| all.insert(of, accepted.id.seq));
        }
    }

    /// The newest of a client's batches that came with this key, if it is kept.
    pub fn keyed(&self, client: &ClientCode, key: &IdempotencyKey) -> Option<Known> {
        let seq = look(&self.keyed, |all| all.get(&(client.clone(), key.clone())).copied())?;
        self.get(&BatchId { client: client.clone(), seq })
    }

    /// One batch.
    pub fn get(&self, id: &BatchId) -> Option<Known> {
        look(&self.known, |all| all.get(&(id.client.to_string(), id.seq)).cloned())
    }

    /// Shows a client's batches before a place in the order, newest first, until whoever looks has seen enough. No batch
    /// is published meanwhile: a look must be short.
    pub fn walk_back(
        &self,
        client: &ClientCode,
        before: Seq,
        mut each: impl FnMut(&Known) -> ControlFlow<()>,
    ) {
        let (first, last) = ((client.to_string(), Seq::ZERO), (client.to_string(), before));
        look(&self.known, |all| {
            for (_, known) in all.range(first..last).rev() {
                if each(known).is_break() {
                    break;
                }
            }
        });
    }

    /// All batches.
    pub fn all(&self) -> Vec<Known> {
        look(&self.known, |all| all.values().cloned().collect())
    }

    /// The seqs of all pending batches, for finding one by its seq alone.
    pub fn pending_by_seq(&self, seq: Seq) -> Option<Arc<Pending>> {
        look(&self.pending, |all| {
            all.values().flat_map(|list| list.iter()).find(|pending| pending.accepted.id.seq == seq).cloned()
        })
    }

    /// The batch whose turn it is: the oldest of the next client, in the order of their codes, that has one. Waits
    /// for one; none once the queue is closed.
    pub fn next(&self) -> Option<Arc<Pending>> {
        match self.next_not_held(|_| false) {
            Turn::Of(pending) => Some(pending),
            Turn::Held | Turn::Closed => None,
        }
    }

    /// The same, passing over clients whose oldest batch is `held`: those behind it wait for it. It does not wait for one
    /// that is held.
    pub fn next_not_held(&self, held: impl Fn(&Accepted) -> bool) -> Turn {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return Turn::Closed;
            }
            let (first, any) = look(&self.pending, |all| {
                let served = queue.served.as_ref();
                let behind = all.iter().filter(|(client, _)| served.is_some_and(|served| *client > served));
                let first = behind.chain(all.iter()).find_map(|(client, list)| {
                    let pending = list.first().filter(|pending| !held(&pending.accepted))?;
                    Some((client.clone(), Arc::clone(pending)))
                });
                (first, !all.is_empty())
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

    /// How many batches are pending, and how many of their rows are not dealt with.
    pub fn backlog(&self) -> (u64, u64) {
        look(&self.pending, |all| {
            let rest = |pending: &Arc<Pending>| {
                pending.accepted.rows.saturating_sub(pending.progress.counts().total())
            };
            let all = all.values().flat_map(|list| list.iter());
            all.fold((0, 0), |(batches, rows), pending| (batches + 1, rows + rest(pending)))
        })
    }

    /// How many batches are pending.
    pub fn pending_batches(&self) -> usize {
        look(&self.pending, |all| all.values().map(|list| list.len()).sum())
    }

    /// Ends the turns.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.changed.notify_all();
    }

    /// How many batches are not complete.
    pub fn incomplete(&self) -> usize {
        look(&self.known, |all| {
            all.values().filter(|known| !matches!(known.progress.state(), BatchState::Complete(_))).count()
        })
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
        while batches.incomplete() > 0 {
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
            batches.walk_back(&ClientCode::new("a").unwrap(), Seq::from_u64(before), |known| {
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
