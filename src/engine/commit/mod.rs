//! The commit thread's work: what is waiting becomes one group, and the group one journal frame.
//!
//! ```text
//! decide   each request in turn: take a seq, settle the visitor's pending rows, work out the new values
//! journal  one write, one fdatasync; a failed sync is never retried
//! apply    each request in turn: tell what settled rows came to, put its values, publish its batch
//! answer
//! ```
//!
//! A visitor's pending rows may be so many that what became of them fills a group: then they are settled first, group by
//! group, and the request comes behind.
//!
//! Promises: a group has less than 8 MiB, but where the values of one request alone come to as much; seqs rise in journal order; a request sees all before it in its group; nothing is visible before it is
//! durable; between any two puts every lookup finds a state that was there before the request or will be after it.

use crate::batch::checksum::FileSum;
use crate::batch::pending::{Accepted, Index, Pending, SentKey};
use crate::batch::pending_list::PendingList;
use crate::batch::queue::{Batches, Known};
use crate::batch::settle::{Noted, SettleError, SettledBundle, SettledRow, View, decoded, settle_while};
use crate::batch::spool::SpoolFile;
use crate::durable::point;
use crate::engine::open::needs;
use crate::engine::open::recovery::redo;
use crate::engine::{CallIds, EngineError, Fatal, SiteCall, Written};
use crate::journal::entry::{
    self, BatchCompletedEntry, BatchGivenUpEntry, Change, Checkpoint, Entry, Settled, WriteEntry,
    encode_group,
};
use crate::journal::log::{AppendError, Log, Position};
use crate::model::batch::{BatchId, BatchRules, Counts, IdempotencyKey};
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::{LINKED_IDS_MAX, Profile, Source, Stored, StoredBytes};
use crate::model::seq::{Clock, Millis, Seq, SeqSource};
use crate::model::update::{Write, apply, list_id, merge, profile_for};
use crate::store::swap::SwapStore;
use crate::store::{ProfileStore, Reach, StoreError, put_through};
use crate::sync::{AtomicU64, Ordering};
use crate::telemetry::metrics::Metrics;
use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// A call that brings nothing but its presence is journaled at most this often per visitor (R11).
const ACTIVITY_EVERY_MS: u64 = 60 * 60 * 1000;
/// A group takes no further request once its entries come to this much: what they come to is known only once each is
/// decided, and the last one must still fit into the 8 MiB that a group may have.
const GROUP_BYTES: usize = 2 << 20;
/// A request settles no further batch once what became of the rows before comes to this much; the rest is settled in the
/// next group. One batch alone comes to two bytes a row at most.
const SETTLED_BYTES: usize = 1 << 20;

/// What of the configuration shapes a single write: fixed when the call came in (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRules {
    /// R11.
    pub lifetime_ms: u64,
    /// R9.
    pub max_profile_bytes: usize,
}

/// A write to one visitor that is already known by an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VisitorWrite {
    /// The single update: attributes to set.
    Set(Vec<(String, String)>),
    /// Attributes to remove, by name.
    Remove(Vec<String>),
    /// All of it (R12).
    Erase,
}

/// A batch whose body has arrived and is durable.
#[derive(Debug)]
pub struct NewBatch {
    /// Whose.
    pub client: ClientCode,
    /// What shapes its outcome; its seq is still to come.
    pub rules: BatchRules,
    /// The first line of its file.
    pub header: crate::batch::csv::Header,
    /// Its rows.
    pub rows: u64,
    /// Its uploaded file, which goes again unless the batch is accepted.
    pub spool: SpoolFile,
    /// The places of its rows.
    pub index: Index,
    /// What the client calls this sending of it, if anything.
    pub key: Option<IdempotencyKey>,
}

impl NewBatch {
    /// What its file came to.
    pub(in crate::engine) fn sum(&self) -> FileSum {
        FileSum { bytes: self.spool.written(), crc32c: Some(self.spool.crc32c()) }
    }
}

/// What the commit thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// A site call.
    Site(SiteCall, WriteRules),
    /// A write to one visitor, by any id.
    Visitor(ClientCode, VisitorId, VisitorWrite, WriteRules),
    /// To accept a batch.
    Accept(Box<NewBatch>),
    /// To settle the pending rows of these visitors, for background folding may not.
    Settle(ClientCode, Vec<Key>),
    /// To leave tombstones where what expired and dead links stood, unless something else stands there by now.
    Sweep(ClientCode, Vec<(Key, StoredBytes)>),
    /// To note that a batch is folded, counted and checkpointed, in a store that then reached so far.
    Complete(BatchId, Counts, Millis, Reach),
    /// To note that a batch that was held is given up: its file is another by now.
    GiveUp(Box<BatchGivenUpEntry>),
    /// To say what a checkpoint begun now will cover.
    Mark,
    /// To begin a new journal segment, so that those before it can go one day.
    Rotate,
    /// To remove the journal segments before this position.
    Retire(Position),
    /// To go on with a store that was made again.
    TakeOver(Box<MadeAgain>),
}

/// A store that was made again beside a damaged one.
#[derive(Debug)]
pub struct MadeAgain {
    /// The store.
    pub store: Shared,
    /// It has what the journal says up to here …
    pub position: Position,
    /// … and, of batches that were complete, not the rows of these.
    pub again: Vec<Again>,
}

/// A complete batch that is folded in once more.
#[derive(Debug)]
pub struct Again {
    /// The batch, with what became of its rows on record, if that can be read.
    pub pending: Pending,
    /// Behind this its entry stands in the journal.
    pub position: Position,
    /// Its end.
    pub end: BatchCompletedEntry,
}

/// A store, handed on.
pub struct Shared(pub Arc<dyn ProfileStore>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store")
    }
}

/// What the commit thread answers.
#[derive(Debug)]
pub enum Answer {
    /// The write is durable and readable.
    Written(Written),
    /// So is the erasure, of these ids.
    Erased(Written, Vec<Key>),
    /// So is the batch.
    Accepted(Known),
    /// The batch was accepted when it was sent before.
    AcceptedBefore(Known),
    /// Its key came lately with another batch, this one.
    KeyTaken(BatchId),
    /// It is done.
    Done,
    /// What a checkpoint begun now covers.
    Marked(Checkpoint),
    /// Another store is used; this one was before.
    TookOver(Shared),
}

/// Takes requests group by group.
pub struct Committer {
    /// The journal.
    pub log: Log,
    /// The view of it that is kept.
    pub store: Arc<SwapStore>,
    /// The batches there are.
    pub batches: Arc<Batches>,
    /// Where seqs come from.
    pub seqs: SeqSource,
    /// The highest seq of a write. What turned out to be none took one, too, which nobody was told; it is given out again
    /// after a restart, whatever was noted or folded in meanwhile.
    written: Seq,
    /// The seq up to which all that was written is readable, for lookups.
    pub last_seq: Arc<AtomicU64>,
    /// When the oldest erasure was, in milliseconds, whose bytes are still to go (R12).
    pub oldest_erasure: Arc<AtomicU64>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Bytes journaled since the start.
    pub journaled: Arc<AtomicU64>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    payload: Vec<u8>,
    /// [`GROUP_BYTES`] and [`SETTLED_BYTES`], but in tests.
    bytes_max: (usize, usize),
}

/// A request that was decided: what the journal will say of it and what then is to be done.
struct Decided {
    answer: Result<Answer, EngineError>,
    entry: Option<Entry>,
    puts: Vec<Put>,
    settled: Vec<SettledRow>,
    settled_bundles: Vec<SettledBundle>,
    publish: Option<(Arc<Pending>, SpoolFile)>,
    complete: Option<BatchCompletedEntry>,
    given_up: Option<Box<BatchGivenUpEntry>>,
}

struct Put {
    key: Key,
    was: Option<StoredBytes>,
    now: StoredBytes,
}

impl Put {
    /// What keeps in mind that the bytes of an erased visitor must go, where its id gets another life (R12).
    fn erasure_mark(&self) -> Option<Self> {
        let tombstone = self.was.as_ref().filter(|was| was.is_erased() && !self.now.is_erased())?;
        Some(Self { key: self.key.erasure_mark(), was: None, now: tombstone.clone() })
    }
}

impl Decided {
    fn answering(answer: Answer) -> Self {
        let (answer, settled, settled_bundles) = (Ok(answer), vec![], vec![]);
        let (publish, complete, given_up) = (None, None, None);
        Self { answer, entry: None, puts: vec![], settled, settled_bundles, publish, complete, given_up }
    }
}

/// How far the rows are that must be settled before a request is decided.
enum Settling {
    /// They all are: it is this one's turn.
    All(Request),
    /// Some are, and fill the group: this is to be taken next.
    Begun(Request),
}

/// The uploads that a group's entry will name.
fn uploads(decided: &mut [Decided]) -> impl Iterator<Item = &mut SpoolFile> {
    decided.iter_mut().filter_map(|one| one.publish.as_mut()).map(|(_, upload)| upload)
}

/// Why a request is not decided.
enum Undecided {
    /// What it needs of the store cannot be read: that is its own misfortune, and nobody else's.
    Unreadable(StoreError),
    /// So it is if a batch that may name its visitor is held.
    Held {
        batch: String,
        why: String,
    },
    Fatal(Fatal),
}

impl From<Fatal> for Undecided {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        if error.is_damage() { Self::Unreadable(error) } else { Self::Fatal(Fatal::new(error)) }
    }
}

impl From<SettleError> for Undecided {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Store(error) => error.into(),
            SettleError::Held { batch, why } => Self::Held { batch, why },
            error => Self::Fatal(Fatal::new(error)),
        }
    }
}

/// A group being decided.
struct Group<'s> {
    view: View<'s>,
    noted: Noted,
    lists: BTreeMap<ClientCode, PendingList>,
    /// The batches that it accepts, by the keys they came with.
    keyed: BTreeMap<(ClientCode, IdempotencyKey), Arc<Pending>>,
}

impl Committer {
    /// A committer that goes on after `last`, the highest seq of the journal so far.
    pub fn new(
        log: Log,
        store: Arc<SwapStore>,
        batches: Arc<Batches>,
        last: Seq,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let last_seq = Arc::new(AtomicU64::new(last.get()));
        Self {
            log,
            store,
            batches,
            seqs: SeqSource::after(last),
            written: last,
            last_seq,
            clock,
            oldest_erasure: Arc::new(AtomicU64::new(u64::MAX)),
            journaled: Arc::new(AtomicU64::new(0)),
            metrics: Arc::default(),
            payload: vec![],
            bytes_max: (GROUP_BYTES, SETTLED_BYTES),
        }
    }

    /// The same, that fills a group, and what one request settles in it, sooner than it need. For tests.
    pub fn filling_from(self, group_bytes: usize, settled_bytes: usize) -> Self {
        Self { bytes_max: (group_bytes, settled_bytes), ..self }
    }

    /// Commits requests from the front of the queue as one group, and gives their answers in the same order. What does
    /// not fit into the group stays in the queue.
    pub fn commit(
        &mut self,
        requests: &mut VecDeque<Request>,
    ) -> Result<Vec<Result<Answer, EngineError>>, Fatal> {
        let store = Arc::clone(&self.store);
        let mut group = Group {
            view: View::new(&*store),
            noted: Noted::default(),
            lists: BTreeMap::new(),
            keyed: BTreeMap::new(),
        };
        let (mut decided, mut marks, mut bytes) = (vec![], vec![], 0);
        let (group_bytes, _) = self.bytes_max;
        // The last of them, if its turn comes only in the next group.
        let mut begun = None;
        while let Some(request) = requests.pop_front() {
            if let Request::TakeOver(made) = request {
                if decided.is_empty() {
                    return Ok(vec![self.take_over(*made)]);
                }
                requests.push_front(Request::TakeOver(made));
                break;
            }
            if matches!(request, Request::Mark) {
                marks.push(decided.len());
            }
            let one = match self.settle_first(&mut group, request) {
                Ok(Settling::All(request)) => self.decide(&mut group, request),
                Ok(Settling::Begun(rest)) => {
                    begun = Some(rest);
                    Ok(group.written(Seq::ZERO, Answer::Done))
                }
                Err(undecided) => Err(undecided),
            };
            let one = match one {
                Ok(one) => one,
                Err(Undecided::Fatal(fatal)) => return Err(fatal),
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
            self.written = self.written.max(one.entry.as_ref().map_or(Seq::ZERO, Entry::seq));
            bytes += one.entry.as_ref().map_or(0, Entry::bytes_max);
            decided.push(one);
            if begun.is_some() || bytes > group_bytes {
                break;
            }
        }

        let position = self.log.end();
        let entries: Vec<Entry> = decided.iter_mut().filter_map(|one| one.entry.take()).collect();
        if !entries.is_empty() {
            self.payload.clear();
            encode_group(&entries, &mut self.payload).map_err(Fatal::new)?;
            self.journaled.fetch_add(self.payload.len() as u64, Ordering::Relaxed);
            // From here on the frame may be on the disk, whatever happens: a restart then needs the uploads it names.
            uploads(&mut decided).for_each(SpoolFile::keep);
            let began = Instant::now();
            let appended = self.log.append(&self.payload);
            self.metrics.journal_synced(self.payload.len(), began.elapsed());
            match appended {
                Ok(_) => {}
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
        // Who waits for a seq is to find what it wrote.
        self.last_seq.store(self.seqs.last().get(), Ordering::Release);
        point("answer").map_err(Fatal::new)?;
        for at in marks {
            if let Some(answer) = answers.get_mut(at) {
                *answer = Ok(Answer::Marked(self.mark()));
            }
        }
        Ok(answers)
    }

    /// Folds in the pending rows of the visitors that a request is about, for as long as what became of them does not fill
    /// the group.
    fn settle_first(&self, group: &mut Group<'_>, request: Request) -> Result<Settling, Undecided> {
        let (client, ids): (_, Vec<Key>) = match &request {
            Request::Site(call, _) => {
                let made = call.ids.made.iter().map(|id| id.key(&call.client));
                (&call.client, call.ids.keys(&call.client).into_iter().chain(made).collect())
            }
            Request::Visitor(client, id, ..) => (client, vec![id.key(client)]),
            Request::Settle(client, ids) => {
                for (done, id) in ids.iter().enumerate() {
                    let all = self.settle(group, client, std::slice::from_ref(id))?;
                    let rest = ids.get(if all { done + 1 } else { done }..).unwrap_or_default();
                    if !rest.is_empty() && (!all || group.view.touched_bytes() > self.bytes_max.0) {
                        return Ok(Settling::Begun(Request::Settle(client.clone(), rest.to_vec())));
                    }
                }
                return Ok(Settling::All(request));
            }
            _ => return Ok(Settling::All(request)),
        };
        let all = self.settle(group, client, &ids)?;
        Ok(if all { Settling::All(request) } else { Settling::Begun(request) })
    }

    fn decide(&mut self, group: &mut Group<'_>, request: Request) -> Result<Decided, Undecided> {
        match request {
            Request::Site(call, rules) => self.decide_site_call(group, &call, rules),
            Request::Visitor(client, id, write, rules) => {
                self.decide_visitor_write(group, &client, &id, &write, rules)
            }
            Request::Accept(batch) => self.decide_accept(group, *batch),
            Request::Settle(..) => Ok(group.written(Seq::ZERO, Answer::Done)),
            Request::Sweep(client, values) => self.decide_sweep(group, &client, values),
            Request::Complete(id, counts, at, Reach(store_reach)) => {
                // One that was complete before stays complete as of then. It is journaled again all the same: from here on the
                // sweeper may take tombstones that kept its rows out, so no restart may fold them in once more.
                let at = self.batches.ended_so_at(&id, &counts).unwrap_or(at);
                let entry = BatchCompletedEntry { seq: id.seq.get(), counts, at_ms: at.0, store_reach };
                let known = Decided::answering(Answer::Done);
                Ok(Decided { entry: Some(Entry::BatchCompleted(entry)), complete: Some(entry), ..known })
            }
            Request::GiveUp(given_up) => {
                let entry = Some(Entry::BatchGivenUp((*given_up).clone()));
                Ok(Decided { entry, given_up: Some(given_up), ..Decided::answering(Answer::Done) })
            }
            Request::Rotate => {
                // What of this group is journaled stands in the new segment, too.
                match self.log.rotate() {
                    Ok(()) => {}
                    Err(error @ AppendError::Full { .. }) => tracing::warn!(%error, "no new journal segment"),
                    Err(error) => return Err(Fatal::new(error).into()),
                }
                Ok(Decided::answering(Answer::Done))
            }
            Request::Retire(position) => {
                if let Err(error) = self.log.remove_before(position) {
                    tracing::warn!(%error, "old journal segments stay for now");
                }
                Ok(Decided::answering(Answer::Done))
            }
            // A store takes over between two groups.
            Request::Mark | Request::TakeOver(_) => Ok(Decided::answering(Answer::Done)),
        }
    }

    /// Folds in the pending rows of these ids' visitors; gives whether that were all.
    fn settle(&self, group: &mut Group<'_>, client: &ClientCode, ids: &[Key]) -> Result<bool, Undecided> {
        let list = self.pending(group, client).clone();
        let (_, settled_bytes) = self.bytes_max;
        for id in ids {
            let room = |noted: &Noted| noted.new_bytes() < settled_bytes;
            if !settle_while(&mut group.view, &list, id, &mut group.noted, room)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A client's pending batches, those of this group with them.
    fn pending<'g>(&self, group: &'g mut Group<'_>, client: &ClientCode) -> &'g mut PendingList {
        group.lists.entry(client.clone()).or_insert_with(|| self.batches.pending(client))
    }

    fn decide_site_call(
        &mut self,
        group: &mut Group<'_>,
        call: &SiteCall,
        rules: WriteRules,
    ) -> Result<Decided, Undecided> {
        let seq = self.seqs.next(self.clock.now());
        let write = Write {
            seq,
            source: call.source,
            sets: &call.attributes,
            removes: &[],
            lifetime_ms: rules.lifetime_ms,
            max_profile_bytes: rules.max_profile_bytes,
        };
        let Called { pc, third_party, ecid, given } = group.called(&call.client, &call.ids, &write)?;
        let mut bound = false;
        if let (Some(pc), Some(third_party)) = (&pc, &third_party) {
            bound |= group.bind(pc, third_party, &write)?;
        }
        if let (Some(ecid), Some(to)) = (&ecid, pc.as_ref().or(third_party.as_ref())) {
            bound |= group.bind(ecid, to, &write)?;
        }
        let Some(id) = third_party.as_ref().or(pc.as_ref()).or(ecid.as_ref()) else {
            return Err(Fatal::new("a site call without any id reached the commit thread").into());
        };
        let canonical = group.living(id, &write)?;
        let value = group.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let nothing_new = !bound && !call.attributes.iter().any(|(_, value)| !value.is_empty());
        if nothing_new
            && let Some(Stored::Profile(profile)) = &stored
            && !profile.expired(seq.millis(), rules.lifetime_ms)
            && profile.layer.is_empty()
            && seq.millis() < profile.last_active.plus(ACTIVITY_EVERY_MS)
        {
            // The rows that were settled are journaled all the same, and have no part in what the call comes to: they may
            // as well have been folded in before (R4).
            let visited = Written { seq: None, known: true, left_out: 0, pc: given };
            return Ok(group.written(Seq::ZERO, Answer::Written(visited)));
        }
        if matches!(stored, Some(Stored::Link { .. })) {
            // A dead link gives way to the visitor's new profile.
            group.view.detach(&canonical, seq)?;
        }
        let had_expired = match &stored {
            Some(Stored::Profile(profile)) => profile.expired(seq.millis(), rules.lifetime_ms),
            Some(Stored::Link { .. }) => true,
            Some(Stored::Tombstone { .. }) | None => false,
        };
        if had_expired {
            self.metrics.began_anew();
        }
        let mut left_out = 0;
        if let Some(mut profile) = profile_for(stored, &write) {
            left_out = apply(&mut profile, &write);
            group.view.put(&canonical, &Stored::Profile(profile));
        }
        Ok(group.written(seq, Answer::Written(Written { seq: Some(seq), known: true, left_out, pc: given })))
    }

    fn decide_visitor_write(
        &mut self,
        group: &mut Group<'_>,
        client: &ClientCode,
        id: &VisitorId,
        what: &VisitorWrite,
        rules: WriteRules,
    ) -> Result<Decided, Undecided> {
        let seq = self.seqs.next(self.clock.now());
        let key = id.key(client);
        let (sets, removes): (&[_], &[_]) = match what {
            VisitorWrite::Set(sets) => (sets, &[]),
            VisitorWrite::Remove(names) => (&[], names),
            VisitorWrite::Erase => (&[], &[]),
        };
        let write = Write {
            seq,
            source: Source::SingleUpdate,
            sets,
            removes,
            lifetime_ms: rules.lifetime_ms,
            max_profile_bytes: rules.max_profile_bytes,
        };
        if *what == VisitorWrite::Erase {
            let (erased, known) = group.erase(&key, &write)?;
            self.oldest_erasure.fetch_min(seq.millis().0, Ordering::AcqRel);
            let written = Written { seq: Some(seq), known, left_out: 0, pc: None };
            return Ok(group.written(seq, Answer::Erased(written, erased)));
        }
        let canonical = group.living(&key, &write)?;
        let value = group.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let mut written = Written { seq: None, known: false, left_out: 0, pc: None };
        if let Some(mut profile) = profile_for(stored, &write) {
            written.known = true;
            let brings = |profile: &Profile<'_>| {
                let visible = profile.visible();
                sets.iter().any(|(_, value)| !value.is_empty())
                    || removes.iter().any(|name| visible.iter().any(|held| held.name == name.as_str()))
            };
            if brings(&profile) {
                written.seq = Some(seq);
                written.left_out = apply(&mut profile, &write);
                group.view.put(&canonical, &Stored::Profile(profile));
            }
        }
        // What was settled on the way is no write of this seq's: after a restart seqs go on as if it had been folded in.
        Ok(group.written(written.seq.unwrap_or(Seq::ZERO), Answer::Written(written)))
    }

    fn decide_sweep(
        &mut self,
        group: &mut Group<'_>,
        client: &ClientCode,
        values: Vec<(Key, StoredBytes)>,
    ) -> Result<Decided, Undecided> {
        let none_pending = self.pending(group, client).is_empty();
        for (key, value) in values {
            if group.view.get(&key)?.as_ref() != Some(&value) {
                continue;
            }
            // A pending row may be behind what expired, and finds nobody there, as it should; but the rows that went
            // through a link while it lived are all in, and must find no place for another visitor.
            let through = match decoded(&key, &value)? {
                Stored::Profile(profile) => profile.through,
                Stored::Link { .. } if none_pending => self.written,
                Stored::Link { .. } | Stored::Tombstone { .. } => continue,
            };
            group.view.put(&key, &Stored::Tombstone { through, erased: false });
        }
        Ok(group.written(Seq::ZERO, Answer::Done))
    }

    fn decide_accept(&mut self, group: &mut Group<'_>, batch: NewBatch) -> Result<Decided, Undecided> {
        let sent_before = batch.key.as_ref().and_then(|key| self.sent_before(group, &batch.client, key));
        if let Some((accepted, before)) = sent_before {
            let same = accepted.key.as_ref().is_some_and(|key| key.sent == batch.sum())
                && accepted.rules.source == batch.rules.source
                && accepted.rules.empty_values == batch.rules.empty_values;
            let taken = Answer::KeyTaken(accepted.id.clone());
            return Ok(Decided::answering(if same { Answer::AcceptedBefore(before) } else { taken }));
        }
        let seq = self.seqs.next(self.clock.now());
        let sent = batch.sum();
        let accepted = Accepted {
            id: BatchId { client: batch.client.clone(), seq },
            rules: BatchRules { seq, ..batch.rules },
            key_kind: batch.header.key_kind(),
            spool: batch.spool.name(),
            bytes: sent.bytes,
            crc32c: sent.crc32c,
            rows: batch.rows,
            key: batch.key.clone().map(|key| SentKey { key, sent }),
        };
        let entry = Entry::BatchAccepted(accepted.to_entry());
        let pending = Arc::new(Pending::new(accepted, batch.header, batch.index, batch.spool.path()));
        if let Some(key) = batch.key {
            group.keyed.insert((batch.client.clone(), key), Arc::clone(&pending));
        }
        let list = self.pending(group, &batch.client);
        *list = list.with(Arc::clone(&pending));
        let decided = Decided::answering(Answer::Accepted(Known::pending(&pending)));
        Ok(Decided { entry: Some(entry), publish: Some((pending, batch.spool)), ..decided })
    }

    /// What this client sent with this key in the last day, perhaps in this very group, and the batch that it became.
    fn sent_before(
        &self,
        group: &Group<'_>,
        client: &ClientCode,
        key: &IdempotencyKey,
    ) -> Option<(Arc<Accepted>, Known)> {
        let now = self.clock.now();
        self.batches.forget_keys_before(Millis(now.0.saturating_sub(IdempotencyKey::LASTS_MS)));
        let in_group = group.keyed.get(&(client.clone(), key.clone()));
        let sent = match in_group {
            Some(pending) => Some((Arc::clone(&pending.accepted), Known::pending(pending))),
            None => self.batches.keyed(client, key),
        };
        let lasts = |accepted: &Accepted| accepted.id.seq.millis().plus(IdempotencyKey::LASTS_MS);
        sent.filter(|(accepted, _)| lasts(accepted) > now)
    }

    /// Makes visible what is durable now.
    fn apply(&self, one: Decided, position: Position) -> Result<Result<Answer, EngineError>, Fatal> {
        for row in &one.settled {
            if let Some(pending) = self.batches.pending_by_seq(row.batch) {
                pending.settle(row.line, row.outcome);
            }
        }
        for bundle in one.settled_bundles {
            if let Some(pending) = self.batches.pending_by_seq(bundle.batch) {
                pending.settle_bundle(bundle.first, bundle.became);
            }
        }
        for Put { key, was, now } in one.puts {
            point("put").map_err(Fatal::new)?;
            match put_through(&*self.store, &key, was, &now) {
                // The journal has it, and so will the store that is made again.
                Err(error) if error.is_damage() => {
                    if !self.store.lose(&key, &error) {
                        return Err(Fatal::new(error));
                    }
                }
                put => put.map_err(Fatal::new)?,
            }
        }
        if let Some((pending, _kept)) = one.publish {
            self.batches.publish(pending, position);
        }
        if let Some(BatchGivenUpEntry { accepted, end }) = one.given_up.map(|given_up| *given_up)
            && let Some(accepted) = Accepted::from_entry(accepted)
        {
            self.batches.give_up(&accepted, end.counts, Millis(end.at_ms));
        }
        if let Some(end) = one.complete
            && let Some(pending) = self.batches.pending_by_seq(Seq::from_u64(end.seq))
        {
            self.batches.complete(&pending.accepted.id, end.counts, Millis(end.at_ms));
        }
        Ok(one.answer)
    }

    /// Has a store that was made again take over, once it has all that the journal says. What is decided next is decided on
    /// what it holds.
    fn take_over(&self, made: MadeAgain) -> Result<Answer, EngineError> {
        let MadeAgain { store, position, again } = made;
        let redone = redo(self.log.folder(), position, self.log.end(), &*store.0);
        redone.map_err(EngineError::internal)?;
        let mut judged = vec![];
        for Again { pending, position, end } in again {
            // Rare enough that writes may wait for it: none may come between this and the store's use.
            let pending = if pending.is_unjudged() {
                needs::judge(pending, &*store.0).map_err(EngineError::internal)?
            } else {
                pending
            };
            judged.push((Arc::new(pending), position, end));
        }
        let publish = || {
            for (pending, position, end) in judged {
                if pending.is_on_record() {
                    self.batches.publish_again(pending, position, &end);
                } else {
                    self.batches.publish(pending, position);
                }
            }
        };
        Ok(Answer::TookOver(Shared(self.store.take_over(store.0, publish))))
    }

    /// What a checkpoint begun now covers. Whoever writes it down saves the catalogue first.
    pub fn mark(&self) -> Checkpoint {
        let (incomplete, catalogue) = self.batches.mark();
        Checkpoint {
            position: self.log.end().to_pair(),
            last_seq: self.written.get(),
            incomplete,
            catalogue,
            store_reach: 0,
            complete: vec![],
        }
    }
}

/// The keys that a site call is about.
struct Called {
    pc: Option<Key>,
    third_party: Option<Key>,
    ecid: Option<Key>,
    /// The `pcId`, where the call brought none.
    given: Option<VisitorId>,
}

impl Group<'_> {
    /// What a site call is about. One without a `pcId` is about the one that its ECID came with; else about one of our
    /// making (R1), of whoever the ECID leads to.
    fn called(&mut self, client: &ClientCode, ids: &CallIds, write: &Write<'_>) -> Result<Called, Undecided> {
        let key = |id: &Option<VisitorId>| id.as_ref().map(|id| id.key(client));
        let mut called = Called {
            pc: key(&ids.pc),
            third_party: key(&ids.third_party),
            ecid: key(&ids.ecid),
            given: None,
        };
        let Some(last) = ids.made.last().filter(|_| called.pc.is_none()) else { return Ok(called) };
        if let Some(ecid) = &called.ecid
            && let Some(target) = self.living_link(ecid, write)?
        {
            if target.kind() == IdKind::Pc {
                called.given = VisitorId::new(IdKind::Pc, target.id()).ok();
                called.pc = Some(target);
                return Ok(called);
            }
            // As it was bound before ECIDs got a pcId.
            called.third_party = called.third_party.or(Some(target));
        }
        let holder = match called.third_party.as_ref().or(called.ecid.as_ref()) {
            Some(id) => Some(self.living(id, write)?),
            None => None,
        };
        let mut given = last;
        for made in &ids.made {
            let made_key = made.key(client);
            let leads_to = self.living(&made_key, write)?;
            if leads_to == made_key || Some(&leads_to) == holder.as_ref() {
                given = made;
                break;
            }
        }
        called.pc = Some(given.key(client));
        called.given = Some(given.clone());
        Ok(called)
    }

    /// What an id was bound to, if that still leads to a living profile.
    fn living_link(&mut self, id: &Key, write: &Write<'_>) -> Result<Option<Key>, Undecided> {
        if self.living(id, write)? == *id {
            return Ok(None);
        }
        let Some(value) = self.view.get(id)? else { return Ok(None) };
        Ok(match decoded(id, &value)? {
            Stored::Link { target, .. } => Some(target),
            _ => None,
        })
    }

    /// Takes back what a request that is not decided did.
    fn take_back(&mut self) {
        self.view.take_back();
        self.noted.take_back();
    }

    /// Makes an entry of all that changed since the last one.
    fn written(&mut self, seq: Seq, answer: Answer) -> Decided {
        let (settled, settled_bundles) = self.noted.take_new();
        let puts = self.in_order_of_putting();
        if puts.is_empty() && settled.is_empty() && settled_bundles.is_empty() {
            return Decided::answering(answer);
        }
        let change = |put: &Put| Change {
            key: ByteBuf::from(put.key.as_bytes()),
            value: ByteBuf::from(put.now.as_slice()),
        };
        let row = |row: &SettledRow| Settled {
            batch: row.batch.get(),
            line: row.line,
            outcome: row.outcome.code(),
        };
        let bundle = |bundle: &SettledBundle| entry::SettledBundle {
            batch: bundle.batch.get(),
            first: bundle.first,
            became: bundle.became.told().map(|(rows, outcome)| (rows, outcome.code())).collect(),
        };
        let entry = WriteEntry {
            seq: seq.get(),
            changes: puts.iter().map(change).collect(),
            settled: settled.iter().map(row).collect(),
            settled_bundles: settled_bundles.iter().map(bundle).collect(),
        };
        let entry = Some(Entry::Write(entry));
        Decided { entry, puts, settled, settled_bundles, ..Decided::answering(answer) }
    }

    /// The changed values, in an order in which no id is ever seen to lead nowhere: profiles that take ids on, then
    /// links, then profiles that only let ids go.
    fn in_order_of_putting(&mut self) -> Vec<Put> {
        let rank = |put: &Put| match put.now.decode() {
            Ok(Stored::Profile(now)) => match put.was.as_ref().map(StoredBytes::decode) {
                Some(Ok(Stored::Profile(was))) => {
                    let lets_go = was.ids.iter().any(|id| !now.lists(id.kind, id.id));
                    let takes_on = now.ids.iter().any(|id| !was.lists(id.kind, id.id));
                    if lets_go && !takes_on { 2 } else { 0 }
                }
                _ => 0,
            },
            _ => 1,
        };
        let mut puts: Vec<Put> =
            self.view.take_touched().into_iter().map(|(key, was, now)| Put { key, was, now }).collect();
        puts.sort_by_key(rank);
        // First of all, so that whoever looks for the erased in key order finds the tombstone or its mark.
        let mut all: Vec<Put> = puts.iter().filter_map(Put::erasure_mark).collect();
        all.append(&mut puts);
        all
    }

    /// The key of the living profile that an id leads to, else the id's own: what a write to it goes to (R11).
    fn living(&mut self, id: &Key, write: &Write<'_>) -> Result<Key, Undecided> {
        let canonical = self.view.canonical(id)?;
        if canonical == *id {
            return Ok(canonical);
        }
        let lives = match self.view.get(&canonical)? {
            Some(value) => match decoded(&canonical, &value)? {
                Stored::Profile(profile) => !profile.expired(write.seq.millis(), write.lifetime_ms),
                _ => false,
            },
            None => false,
        };
        Ok(if lives { canonical } else { id.clone() })
    }

    /// Binds one id to another, if it is not bound so already (R1, R2): the profile of the one is merged into that of
    /// the other, and a link takes its place. Gives whether anything changed.
    fn bind(&mut self, from: &Key, to: &Key, write: &Write<'_>) -> Result<bool, Undecided> {
        let seq = write.seq;
        let to_profile = self.living(to, write)?;
        let from_profile = self.living(from, write)?;
        let from_value = self.view.get(from)?;
        let from_stored = from_value.as_ref().map(|value| decoded(from, value)).transpose()?;
        let leads_there = matches!(&from_stored, Some(Stored::Link { target, .. }) if target == to);
        if leads_there && from_profile == to_profile && from_profile != *from {
            return Ok(false);
        }

        // What stood under the id gives way to the link: a profile is merged, a link lets go of its old target.
        let mut came_along = vec![];
        let mut merged = None;
        match &from_stored {
            Some(Stored::Profile(profile)) if !profile.expired(seq.millis(), write.lifetime_ms) => {
                came_along.extend(profile.ids.iter().map(|linked| from.with_id(linked.kind, linked.id)));
                merged = Some(profile.clone());
            }
            Some(Stored::Link { .. }) => {
                let ecids = self.view.detach(from, seq)?;
                // A visitor's ECIDs go with the device, unless its life there had ended (R11).
                came_along.extend(if from_profile == *from { vec![] } else { ecids });
            }
            _ => {}
        }

        // So does the oldest link of a full list, and the ECIDs that came with it: no profile lists what leads elsewhere.
        if let Some(oldest) = self.dropped_by(from, &to_profile)? {
            self.view.detach(&oldest, seq)?;
        }

        let to_value = self.view.get(&to_profile)?;
        let to_stored = to_value.as_ref().map(|value| decoded(&to_profile, value)).transpose()?;
        if matches!(to_stored, Some(Stored::Link { .. })) {
            self.view.detach(&to_profile, seq)?;
        }
        let mut profile = match profile_for(to_stored, write) {
            Some(profile) => profile,
            None => Profile::born_at(seq),
        };
        if let Some(merged) = &merged {
            merge(&mut profile, merged);
        }
        list_id(&mut profile, from.kind(), from.id(), seq);
        for linked in &came_along {
            list_id(&mut profile, linked.kind(), linked.id(), seq);
        }
        profile.last_write = seq;
        profile.through = seq;
        self.view.put(&to_profile, &Stored::Profile(profile));
        self.view.put(from, &Stored::Link { through: seq, target: to.clone() });
        Ok(true)
    }

    /// The id that drops off a profile's list once another one of its kind is bound (R1).
    fn dropped_by(&mut self, bound: &Key, profile: &Key) -> Result<Option<Key>, Undecided> {
        let Some(value) = self.view.get(profile)? else { return Ok(None) };
        let Stored::Profile(to) = decoded(profile, &value)? else { return Ok(None) };
        let mut of_kind = to.ids.iter().filter(|linked| linked.kind == bound.kind());
        let (oldest, full) = (of_kind.next(), of_kind.count() + 1 >= LINKED_IDS_MAX);
        let dropped = oldest.filter(|_| full && !to.lists(bound.kind(), bound.id()));
        Ok(dropped.map(|linked| profile.with_id(linked.kind, linked.id)))
    }

    /// Puts tombstones under all ids of a visitor (R12), or under the id alone if it leads to none. Gives them, and
    /// whether the visitor was known: one that has expired was not (R11), though its bytes must go; neither that, nor
    /// whether what kept uploads have of it goes, depends on whether the sweeper was there first.
    fn erase(&mut self, id: &Key, write: &Write<'_>) -> Result<(Vec<Key>, bool), Undecided> {
        let canonical = self.view.canonical(id)?;
        let value = self.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let mut keys = vec![canonical.clone()];
        let mut known = false;
        if let Some(Stored::Profile(profile)) = &stored {
            keys.extend(profile.ids.iter().map(|linked| canonical.with_id(linked.kind, linked.id)));
            known = !profile.expired(write.seq.millis(), write.lifetime_ms);
        }
        for key in &keys {
            self.view.put(key, &Stored::Tombstone { through: write.seq, erased: true });
        }
        Ok((keys, known))
    }
}

#[cfg(test)]
mod readable_tests {
    use super::*;
    use crate::journal::log::LogSettings;
    use crate::model::id::IdKind;
    use crate::store::StoreError;
    use crate::store::double::{Call, Double, Script};
    use crate::store::memory::MemoryStore;
    use std::sync::OnceLock;

    struct StandingClock;

    impl Clock for StandingClock {
        fn now(&self) -> Millis {
            Millis(1_000)
        }
    }

    /// Takes note, at each put, of the seq up to which all is said to be readable.
    #[derive(Default)]
    struct Watch {
        last_seq: OnceLock<Arc<AtomicU64>>,
        seen: crate::sync::Mutex<Vec<u64>>,
    }

    impl Script for Watch {
        fn before(&self, _: &MemoryStore, call: Call<'_>) -> Result<(), StoreError> {
            if let Call::Put(_) = call {
                let last = self.last_seq.get().map_or(0, |last| last.load(Ordering::Acquire));
                crate::sync::lock(&self.seen).push(last);
            }
            Ok(())
        }
    }

    /// Somebody who waited for a seq was told that it was there while the store had the state from before it.
    #[test]
    fn nobody_is_told_that_a_write_is_readable_before_the_store_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let none = |_, _, _: &[u8]| Ok::<_, crate::journal::log::LogError>(());
        let (log, _) = Log::open(folder.path(), LogSettings::default(), Position::START, none).unwrap();
        let store = Arc::new(Double::<Watch>::default());
        let clock = Arc::new(StandingClock);
        let mut committer = Committer::new(
            log,
            Arc::new(SwapStore::new(Arc::clone(&store) as _, crate::store::Reach::default())),
            Arc::default(),
            Seq::from_u64(7),
            clock,
        );
        store.script.last_seq.set(Arc::clone(&committer.last_seq)).unwrap();
        let call = |id: &str| {
            let ids = CallIds { pc: VisitorId::new(IdKind::Pc, id).ok(), ..CallIds::default() };
            let client = ClientCode::new("demo").unwrap();
            let call = SiteCall { client, ids, source: Source::Mbox, attributes: vec![] };
            Request::Site(call, WriteRules { lifetime_ms: 1 << 40, max_profile_bytes: 1 << 20 })
        };
        committer.commit(&mut [call("a"), call("b")].into()).unwrap();
        assert_eq!(*crate::sync::lock(&store.script.seen), [7, 7]);
        assert_eq!(committer.last_seq.load(Ordering::Acquire), committer.seqs.last().get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::log::LogSettings;
    use crate::model::id::IdKind;
    use crate::store::double::{Call, Double, Script};
    use crate::store::memory::MemoryStore;

    /// A store of which some is damaged: what is under keys that begin so can't be read, or not be written.
    fn damaged(unreadable: &'static str, unwritable: &'static str) -> Double<impl Script> {
        Double::new(move |_: &MemoryStore, call: Call<'_>| {
            let (doing, keys, which) = match call {
                Call::Get(keys) => ("read", keys, unreadable),
                Call::Put(key) => ("write", std::slice::from_ref(key), unwritable),
                _ => return Ok(()),
            };
            if keys.iter().any(|key| key.id().starts_with(which)) {
                return Err(StoreError::Damaged { doing, why: "as told".into() });
            }
            Ok(())
        })
    }

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Millis {
            Millis(1_000_000)
        }
    }

    fn client() -> ClientCode {
        ClientCode::new("demo").unwrap()
    }

    fn id(kind: IdKind, id: &str) -> VisitorId {
        VisitorId::new(kind, id).unwrap()
    }

    fn call(pc: &str, third_party: Option<&str>) -> Request {
        let ids = CallIds {
            pc: Some(id(IdKind::Pc, pc)),
            third_party: third_party.map(|it| id(IdKind::ThirdParty, it)),
            ecid: None,
            made: vec![],
        };
        let attributes = vec![("a".to_owned(), pc.to_owned())];
        let rules = WriteRules { lifetime_ms: 1 << 40, max_profile_bytes: 1 << 20 };
        Request::Site(SiteCall { client: client(), ids, source: Source::Mbox, attributes }, rules)
    }

    fn committer(folder: &std::path::Path, store: impl ProfileStore + 'static) -> Committer {
        let opened = Log::open(folder, LogSettings { segment_bytes: 1 << 16 }, Position::START, |_, _, _| {
            Ok::<_, crate::journal::log::LogError>(())
        });
        let store = Arc::new(SwapStore::new(Arc::new(store), Reach::default()));
        Committer::new(opened.unwrap().0, store, Arc::default(), Seq::ZERO, Arc::new(Noon))
    }

    fn answers(committer: &mut Committer, requests: Vec<Request>) -> Vec<bool> {
        committer.commit(&mut requests.into()).unwrap().iter().map(Result::is_ok).collect()
    }

    fn held(committer: &Committer, kind: IdKind, name: &str) -> Option<bool> {
        let key = id(kind, name).key(&client());
        Some(committer.store.get(&[key]).ok()?.pop().flatten().is_some())
    }

    /// It once ended the daemon. The first write of the refused call, `bad`'s of the pcId, must not be there either.
    #[test]
    fn who_writes_where_nothing_can_be_read_is_refused_and_the_rest_of_the_group_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut committer = committer(folder.path(), damaged("bad", "-"));
        let group = vec![call("p1", None), call("p1", Some("bad")), call("p2", Some("t2")), call("p1", None)];
        assert_eq!(answers(&mut committer, group), [true, false, true, true]);
        assert_eq!(held(&committer, IdKind::Pc, "p1"), Some(true));
        assert_eq!(held(&committer, IdKind::ThirdParty, "t2"), Some(true));
        assert_eq!(held(&committer, IdKind::ThirdParty, "bad"), None);
        assert!(committer.store.damage().is_some());
    }

    #[test]
    fn what_is_acknowledged_and_did_not_get_in_is_not_shown_until_a_store_made_again_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut committer = committer(folder.path(), damaged("-", "lost"));
        assert_eq!(answers(&mut committer, vec![call("lost", None), call("p", None)]), [true, true]);
        assert_eq!(
            held(&committer, IdKind::Pc, "lost"),
            None,
            "nothing was there before, and that is not so now"
        );
        assert_eq!(answers(&mut committer, vec![call("lost", None), call("p", None)]), [false, true]);
        assert!(committer.store.scan(None, 100).is_ok(), "it has no value under the key");
        let made = MadeAgain {
            store: Shared(Arc::new(MemoryStore::default())),
            position: Position::START,
            again: vec![],
        };
        let turn = committer.store.turn();
        let group = vec![call("q", None), Request::TakeOver(Box::new(made)), call("lost", None)];
        let mut group = VecDeque::from(group);
        while !group.is_empty() {
            assert!(committer.commit(&mut group).unwrap().iter().all(Result::is_ok));
        }
        assert_eq!(committer.store.turn(), turn + 2);
        for pc in ["p", "q", "lost"] {
            assert_eq!(held(&committer, IdKind::Pc, pc), Some(true), "{pc}");
        }
        assert_eq!(committer.store.damage(), None);
    }
}
