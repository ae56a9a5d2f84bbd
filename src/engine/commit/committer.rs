//! Takes requests group by group: decide, journal, apply, answer.
//!
//! Promises: a group takes less than 8 MiB, unless the values of one request alone need more; seqs rise in journal order;
//! nothing is visible before it is durable; a failed sync is never retried. A request that has a place in the order of
//! several nodes is never refused for what only this node lacks: the node stands until it can go on, or ends.

use super::active::Active;
use super::decided::{Decided, Undecided};
use super::group::Group;
use super::ordering::{Ordering as OrderApplied, Standing};
use super::request::{Answer, Ordered, Placed, Request};
use crate::batch::pending_list::PendingList;
use crate::batch::queue::Batches;
use crate::batch::resolve::{Noted, View, resolve_while};
use crate::batch::spool::SpoolFile;
use crate::durable::point;
use crate::engine::error::{EngineError, Fatal};
use crate::journal::entry::{Cause, Checkpoint, Entry, encode_group};
use crate::journal::log::{AppendError, Log, Position};
use crate::model::id::{ClientCode, Key};
use crate::model::seq::{Clock, Seq, SeqSource};
use crate::store::swap::SwapStore;
use crate::sync::{AtomicU64, Ordering};
use crate::telemetry::metrics::Metrics;
use crate::tokens::TokensInUse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// When the entries of a group reach this size, the group takes no further request. A request's size is known only once
/// it is decided, and the last one must still fit into the 8 MiB of a group.
const GROUP_BYTES: usize = 2 << 20;

/// When the outcomes that one request resolves reach this size, the rest moves to the next group. One batch needs at most
/// two bytes a row.
const RESOLVED_BYTES: usize = 1 << 20;

/// How far the journal is readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// Where it ends.
    pub end: Position,
    /// The highest seq in it. Everything up to there is in the store, too.
    pub last: Seq,
}

/// Takes requests group by group.
pub struct Committer {
    /// The journal.
    pub log: Log,
    /// The store that applies the journal.
    pub store: Arc<SwapStore>,
    /// The batches.
    pub batches: Arc<Batches>,
    /// Gives out seqs.
    pub seqs: SeqSource,
    /// The highest seq of a journaled write. A request that changed nothing took a seq too, which no caller saw; a restart
    /// gives that seq out again.
    pub(super) written: Seq,
    /// Every write up to this seq is readable.
    pub last_seq: Arc<AtomicU64>,
    /// The same with the journal's end, for those who wait for the next group.
    pub readable: watch::Sender<Readable>,
    /// When the oldest erasure happened whose bytes are still on the disk, in milliseconds (R12).
    pub oldest_erasure: Arc<AtomicU64>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Bytes journaled since the start.
    pub journaled: Arc<AtomicU64>,
    /// The visitors who were active last.
    pub active: Arc<Active>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How far the order of several nodes is applied. None on a single daemon.
    pub order: Option<OrderApplied>,
    /// The access tokens. None where nobody asks for a change of them.
    pub tokens: Option<Arc<TokensInUse>>,
    payload: Vec<u8>,
    /// [`GROUP_BYTES`] and [`RESOLVED_BYTES`]; tests set smaller ones.
    bytes_max: (usize, usize),
}

/// The uploads that the group's entries name.
pub(super) fn uploads(decided: &mut [Decided]) -> impl Iterator<Item = &mut SpoolFile> {
    decided.iter_mut().filter_map(|one| one.publish.as_mut()).map(|(_, upload)| upload)
}

impl Committer {
    /// Makes a committer that continues after `last`, the highest seq in the journal.
    pub fn new(
        log: Log,
        store: Arc<SwapStore>,
        batches: Arc<Batches>,
        last: Seq,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let last_seq = Arc::new(AtomicU64::new(last.get()));
        let readable = watch::Sender::new(Readable { end: log.end(), last });
        Self {
            log,
            store,
            batches,
            seqs: SeqSource::after(last),
            written: last,
            last_seq,
            readable,
            active: Arc::new(Active::since(clock.now())),
            clock,
            oldest_erasure: Arc::new(AtomicU64::new(u64::MAX)),
            journaled: Arc::new(AtomicU64::new(0)),
            metrics: Arc::default(),
            order: None,
            tokens: None,
            payload: vec![],
            bytes_max: (GROUP_BYTES, RESOLVED_BYTES),
        }
    }

    /// Sets smaller limits for a group and for what one request resolves in it. For tests.
    pub fn filling_from(self, group_bytes: usize, resolved_bytes: usize) -> Self {
        Self { bytes_max: (group_bytes, resolved_bytes), ..self }
    }

    /// Commits requests from the front of the queue as one group. Returns their answers in the same order. Requests that do not
    /// fit stay in the queue.
    pub fn commit(
        &mut self,
        requests: &mut VecDeque<Ordered>,
    ) -> Result<Vec<Result<Answer, EngineError>>, Fatal> {
        let store = Arc::clone(&self.store);
        let mut group = Group {
            view: View::new(&*store),
            noted: Noted::default(),
            lists: BTreeMap::new(),
            keyed: BTreeMap::new(),
            counted: BTreeSet::new(),
            cause: Cause::default(),
        };
        let (mut decided, mut marks, mut bytes) = (vec![], vec![], 0);
        let (group_bytes, _) = self.bytes_max;
        // The last request, if it moves to the next group.
        let mut begun = None;
        while let Some(Ordered { mut request, placed }) = requests.pop_front() {
            if let Request::TakeOver(made) = request {
                if decided.is_empty() {
                    return Ok(vec![self.take_over(*made)]);
                }
                requests.push_front(Request::TakeOver(made).into());
                break;
            }
            if matches!(request, Request::Mark) {
                marks.push(decided.len());
            }
            if self.skips(placed.as_ref())? {
                self.note_skipped(placed.as_ref());
                decided.push(Decided::answering(Answer::Duplicate));
                continue;
            }
            let now = placed.map_or_else(|| self.clock.now(), |placed| placed.time);
            let one = match self.resolve_first(&mut group, &mut request) {
                Ok(true) => self.decide(&mut group, request, now),
                Ok(false) => {
                    begun = Some(Ordered { request, placed });
                    Ok(group.written(Seq::ZERO, Answer::Done))
                }
                // Every other node does it, so this one waits for the batch's file. What was decided before it need not wait.
                Err(Undecided::Held { batch, why }) if placed.is_some() => {
                    group.take_back();
                    requests.push_front(Ordered { request, placed });
                    if decided.is_empty() {
                        self.stand_for(&batch, &why);
                    }
                    break;
                }
                Err(undecided) => Err(undecided),
            };
            let one = match one {
                Ok(one) => one,
                Err(Undecided::Fatal(fatal)) => return Err(fatal),
                // Every other node does what this one cannot.
                Err(undecided) if placed.is_some() => return Err(undecided.fatal()),
                Err(Undecided::Unreadable(error)) => {
                    group.take_back();
                    self.store.note_damage(&error);
                    Decided { answer: Err(EngineError::Unreadable), ..Decided::answering(Answer::Done) }
                }
                Err(Undecided::Held { batch, why }) => {
                    group.take_back();
                    Decided {
                        answer: Err(EngineError::Held { batch, why }),
                        ..Decided::answering(Answer::Done)
                    }
                }
            };
            let seq = one.entry.as_ref().map_or(Seq::ZERO, Entry::seq);
            // Entries without a seq of their own have zero.
            debug_assert!(
                seq == Seq::ZERO || seq > self.written,
                "seq {seq} was committed after {}",
                self.written
            );
            self.written = self.written.max(seq);
            if begun.is_none() {
                self.note_place(placed.as_ref(), &one);
            }
            bytes += one.entry.as_ref().map_or(0, Entry::bytes_max);
            decided.push(one);
            if begun.is_some() || bytes > group_bytes {
                break;
            }
        }

        let position = self.log.end();
        let mut entries: Vec<Entry> = decided.iter_mut().filter_map(|one| one.entry.take()).collect();
        entries.extend(self.order.as_mut().and_then(|order| order.entry(self.seqs.last())).map(Entry::Order));
        if !entries.is_empty() {
            self.payload.clear();
            encode_group(&entries, &mut self.payload).map_err(Fatal::new)?;
            self.journaled.fetch_add(self.payload.len() as u64, Ordering::Relaxed);
            // The frame may be on the disk from here on, even if the append fails. A restart then needs the uploads that it names.
            uploads(&mut decided).for_each(SpoolFile::keep);
            let appended = self.append();
            match appended {
                Ok(()) => {}
                Err(error) if self.order.is_some() => return Err(Fatal::new(error)),
                Err(error @ AppendError::Full { .. }) => {
                    tracing::warn!(%error, "writes are refused");
                    uploads(&mut decided).for_each(SpoolFile::let_go);
                    let refused = || Err(EngineError::Full("the journal cannot grow".into()));
                    return Ok(decided.iter().map(|_| refused()).collect());
                }
                Err(error @ AppendError::TooLong { .. }) => {
                    tracing::error!(%error, "writes are refused");
                    uploads(&mut decided).for_each(SpoolFile::let_go);
                    return Ok(decided.iter().map(|_| Err(EngineError::internal(&error))).collect());
                }
                Err(error) => return Err(Fatal::new(error)),
            }
        }

        point("apply").map_err(Fatal::new)?;
        let mut answers = Vec::with_capacity(decided.len());
        for one in decided {
            answers.push(self.apply(one, position)?);
        }
        if let Some(rest) = begun {
            answers.pop();
            requests.push_front(rest);
        }
        // A caller that waits for a seq must find its write.
        self.last_seq.store(self.seqs.last().get(), Ordering::Release);
        self.readable.send_replace(Readable { end: self.log.end(), last: self.written });
        point("answer").map_err(Fatal::new)?;
        for at in marks {
            if let Some(answer) = answers.get_mut(at) {
                *answer = Ok(Answer::Marked(self.mark()));
            }
        }
        Ok(answers)
    }

    /// Appends the group to the journal. Where the journal cannot grow, a node of several waits until it can: whatever the
    /// order has placed must be done, and nothing was written yet.
    fn append(&mut self) -> Result<(), AppendError> {
        loop {
            let began = Instant::now();
            let appended = self.log.append(&self.payload);
            self.metrics.journal_synced(self.payload.len(), began.elapsed());
            match appended {
                Err(error @ AppendError::Full { .. }) => {
                    let stands = self.order.as_ref().map(|order| order.stand(&error.to_string()));
                    if stands != Some(Standing::TryAgain) {
                        return Err(error);
                    }
                }
                appended => return appended.map(drop),
            }
        }
    }

    /// Waits a moment for the file of a held batch, which may name a visitor whom the next request of the order names.
    fn stand_for(&self, batch: &str, why: &str) {
        if let Some(order) = &self.order {
            // Whether the node is stopping shows when it tries again.
            order.stand(&format!(
                "batch {batch}, which may name a visitor of the next request, is held: {why}"
            ));
        }
    }

    /// Whether the order has a request twice, and this is not the first. An error if it has lost one.
    fn skips(&self, placed: Option<&Placed>) -> Result<bool, Fatal> {
        match (placed, &self.order) {
            (Some(placed), Some(order)) => order.skips(placed).map_err(Fatal::new),
            (None, _) => Ok(false),
            (Some(_), None) => Err(Fatal::new("a placed request reached a daemon without an order")),
        }
    }

    fn note_skipped(&mut self, placed: Option<&Placed>) {
        if let (Some(placed), Some(order)) = (placed, &mut self.order) {
            order.note_skipped(placed);
        }
    }

    /// Notes that the request at this place is decided so.
    fn note_place(&mut self, placed: Option<&Placed>, one: &Decided) {
        if let (Some(placed), Some(order)) = (placed, &mut self.order) {
            order.note(placed, self.seqs.last(), one);
        }
    }

    /// Resolves the pending rows of the visitors that a request concerns, until their outcomes fill the group. Gives whether it
    /// resolved them all; if not, `request` is what is left for the next group.
    pub(super) fn resolve_first(
        &self,
        group: &mut Group<'_>,
        request: &mut Request,
    ) -> Result<bool, Undecided> {
        let (client, ids): (_, Vec<Key>) = match &*request {
            Request::Site(call, _) => {
                let made = call.ids.made.iter().map(|id| id.key(&call.client));
                (&call.client, call.ids.keys(&call.client).into_iter().chain(made).collect())
            }
            Request::Visitor(client, id, ..) => (client, vec![id.key(client)]),
            Request::Sweep(client, ids, _) => return self.resolve_for_sweep(group, client, ids),
            Request::Resolve(client, ids) => {
                for (done, id) in ids.iter().enumerate() {
                    let all = self.resolve(group, client, std::slice::from_ref(id))?;
                    let rest = ids.get(if all { done + 1 } else { done }..).unwrap_or_default();
                    if !rest.is_empty() && (!all || group.view.touched_bytes() > self.bytes_max.0) {
                        *request = Request::Resolve(client.clone(), rest.to_vec());
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            _ => return Ok(true),
        };
        self.resolve(group, client, &ids)
    }

    /// Resolves the pending rows of visitors who may have expired. Returns whether it resolved them all. Leaves out visitors
    /// whom a held batch may name, unless every node must do the same.
    fn resolve_for_sweep(
        &self,
        group: &mut Group<'_>,
        client: &ClientCode,
        ids: &[Key],
    ) -> Result<bool, Undecided> {
        for id in ids {
            match self.resolve(group, client, std::slice::from_ref(id)) {
                Err(Undecided::Held { .. }) if self.order.is_none() => {}
                resolved => {
                    if !resolved? || group.view.touched_bytes() > self.bytes_max.0 {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Resolves the pending rows of the visitors behind these ids. Returns whether it resolved them all.
    pub(super) fn resolve(
        &self,
        group: &mut Group<'_>,
        client: &ClientCode,
        ids: &[Key],
    ) -> Result<bool, Undecided> {
        let list = self.pending(group, client).clone();
        let (_, resolved_bytes) = self.bytes_max;
        for id in ids {
            let room = |noted: &Noted| noted.new_bytes() < resolved_bytes;
            if !resolve_while(&mut group.view, &list, id, &mut group.noted, room)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The pending batches of a client, with those that this group accepts.
    pub(super) fn pending<'g>(&self, group: &'g mut Group<'_>, client: &ClientCode) -> &'g mut PendingList {
        group.lists.entry(client.clone()).or_insert_with(|| self.batches.pending(client))
    }

    /// What a checkpoint that begins now covers. Save the catalogue before you write it down.
    pub fn mark(&self) -> Checkpoint {
        let (incomplete, catalogue) = self.batches.mark();
        Checkpoint {
            position: self.log.end().to_pair(),
            last_seq: self.written.get(),
            incomplete,
            catalogue,
            order: self.order.as_ref().map(|order| order.state(self.seqs.last())),
            store_reach: 0,
            complete: vec![],
        }
    }
}
