//! One node: the real core over its own folder and store, which reads the order, applies batches and keeps its disk as far
//! along as the schedule says.
//!
//! Promises: it reads and answers as the daemon does, one action at a time; after a kill it has what its disk had.

use super::coverage::{Met, met};
use super::log::{Log, offers_of};
use super::reference::{self, Expected, Offer, Reference};
use super::schedule::{KilledHow, NodeSetup};
use crate::order::applying::{Applying, begin, planned};
use crate::order::core::{
    BEGUN_MS, Core, SetClock, Wrong, batch_rules, client_code, file_of, fill, folder, visitor_id,
};
use crate::order::model::{Id, Kind};
use crate::order::ops::{CLIENTS, Call, DAY_MS, HOUR_MS, NAMES, Settings, Time};
use crate::order::stores::{Store, Which};
use profiled::batch::apply::Plan;
use profiled::batch::queue;
use profiled::engine::Visitor;
use profiled::engine::commit::ordering::{Ordering, Standing};
use profiled::engine::commit::taking::Group;
use profiled::engine::commit::wire::{self, FromOrder, OfferedBatch, RULES_VERSION};
use profiled::engine::commit::{Answer, NewBatch, Ordered, Placed, Request};
use profiled::engine::driver::snapshot::SnapshotTask;
use profiled::engine::driver::task::{Action, Event, Machine};
use profiled::engine::open::recovery::{StartFrom, write_checkpoint};
use profiled::engine::upkeep::steps::{InHand, On, batches_needless, journal_needed};
use profiled::engine::upkeep::sweep::{Horizon, step as sweep};
use profiled::journal::entry::Checkpoint;
use profiled::journal::snapshot::Snapshots;
use profiled::model::batch::{BatchId, IdempotencyKey};
use profiled::model::codec::CodecError;
use profiled::model::seq::{Clock, Seq, SeqSource};
use profiled::order::pieces::UploadId;
use profiled::order::record::{Offers, RunId};
use profiled::order::{Offset, Place};
use profiled::tokens::{Scope, Token, TokenChange, Tokens, TokensInUse, WantedToken};
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU64};

/// How many values a snapshot reads at a time.
const PAGE_VALUES: usize = 3;
/// The lifetimes by which every visitor is looked up.
const LOOKED_UP_BY_MS: [u64; 2] = [14 * DAY_MS, 2 * HOUR_MS];

/// Where the plans of batches lie that are being applied, so that one may stop in the middle.
pub(crate) struct Plans {
    plans: Vec<OnceCell<Plan>>,
    used: Cell<usize>,
}

impl Plans {
    /// Room for so many.
    pub(crate) fn room_for(plans: usize) -> Self {
        Self { plans: (0..plans).map(|_| OnceCell::new()).collect(), used: Cell::new(0) }
    }

    fn put(&self, plan: Plan) -> Result<&Plan, Wrong> {
        let place = self.plans.get(self.used.replace(self.used.get() + 1)).ok_or("no room for a plan")?;
        Ok(place.get_or_init(|| plan))
    }
}

/// The files of batches, in the order in which they came.
pub(crate) type Files = Vec<(UploadId, String)>;

/// What all nodes read.
pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) files: Files,
    pub(crate) reference: Reference,
    /// The time that nobody's clock shows.
    pub(crate) now_ms: u64,
    /// How the first node that stood at a step showed it: all visitors, and the sum.
    pub(crate) shown: BTreeMap<usize, Showed>,
    /// How many states were compared.
    pub(crate) checked: u64,
    /// The requests that some node acknowledged.
    pub(crate) acknowledged: BTreeSet<(RunId, u64)>,
    /// The runs that have ended.
    pub(crate) ended: BTreeSet<RunId>,
    /// The tokens that were made up so far.
    pub(crate) tokens: Vec<Token>,
}

/// What a node shows, beside what the model tells.
#[derive(PartialEq, Eq)]
pub(crate) struct Showed {
    visitors: Vec<Option<Visitor>>,
    checksum: u32,
}

/// What a request that was read is checked against.
struct Read {
    /// None for a request of the node's own.
    step: Option<(usize, RunId, u64)>,
}

pub(crate) struct Node<'p> {
    number: usize,
    folder: tempfile::TempDir,
    which: Which,
    clock: Arc<SetClock>,
    pub(crate) ahead_ms: i64,
    pub(crate) settings: Settings,
    limits: (usize, usize),
    /// While it runs.
    core: Option<Core>,
    /// While it does not.
    store: Option<Store>,
    run: RunId,
    runs: u8,
    offered: u64,
    uploads: u64,
    /// What it reads next …
    next: Place,
    /// … and what it reads next at least, if it begins again now.
    surely: Place,
    /// The newest version of requests that its program knows.
    program: u8,
    /// How many of the files it can read by now.
    received: usize,
    /// Uploads that are spooled, and whose acceptance has not had its place.
    spooled: BTreeMap<UploadId, Box<NewBatch>>,
    /// Requests of its own that wait for a group to join.
    waiting: VecDeque<Request>,
    applying: Option<Applying<'p>>,
    plans: &'p Plans,
    /// The batches whose counts this run has offered.
    counts_offered: BTreeSet<u64>,
    snapshots: Snapshots,
    /// Newest first.
    kept: Vec<(u64, Checkpoint)>,
    generation: u64,
    checkpointed_seq: Seq,
    /// The journal's beginning is gone.
    retired: bool,
    /// Batches past their retention.
    forgotten: BTreeSet<u64>,
    /// Whether it stands before a version that it does not know.
    blocked: bool,
}

/// The core becomes a node's, with the tokens of its folder.
fn ordering(core: &mut Core, folder: &Path) {
    core.committer.tokens = Some(Arc::new(TokensInUse::read(folder).unwrap()));
    let state = core.order.clone().unwrap_or_default();
    let last = core.committer.seqs.last().max(Seq::from_u64(state.last_seq));
    core.committer.seqs = SeqSource::after(last);
    core.committer.last_seq.store(last.get(), profiled::sync::Ordering::Release);
    core.committer.order = Some(Ordering::after(state, Arc::new(|_| Standing::Stop)));
}

impl<'p> Node<'p> {
    /// A fresh node with an empty folder.
    pub(crate) fn new(number: usize, setup: &NodeSetup, plans: &'p Plans) -> Self {
        let folder = folder();
        let generation = folder.path().join("store0");
        std::fs::create_dir(&generation).unwrap();
        let clock = Arc::new(SetClock(AtomicU64::new(BEGUN_MS)));
        let which = if setup.forgets { Which::Forgetful } else { Which::Memory };
        let store = Store::new(which, &generation);
        let mut core =
            Core::try_start(folder.path(), store, StartFrom::Nothing, &clock, setup.limits).unwrap();
        ordering(&mut core, folder.path());
        core.batches.save().unwrap();
        write_checkpoint(&generation.join("checkpoint"), &core.durable_mark().unwrap()).unwrap();
        let snapshots = Snapshots::open(&folder.path().join("snapshots")).unwrap();
        let mut node = Self {
            number,
            folder,
            which,
            clock,
            ahead_ms: setup.ahead_ms,
            settings: setup.settings.clone(),
            limits: setup.limits,
            core: Some(core),
            store: None,
            run: RunId::default(),
            runs: 0,
            offered: 0,
            uploads: 0,
            next: Place::default(),
            surely: Place::default(),
            program: RULES_VERSION + u8::from(setup.newer),
            received: 0,
            spooled: BTreeMap::new(),
            waiting: VecDeque::new(),
            applying: None,
            plans,
            counts_offered: BTreeSet::new(),
            snapshots,
            kept: vec![],
            generation: 0,
            checkpointed_seq: Seq::ZERO,
            retired: false,
            forgotten: BTreeSet::new(),
            blocked: false,
        };
        node.begin_run();
        node
    }

    /// A new node that begins with a copy of a peer's folder and its newest snapshot.
    pub(crate) fn joining(
        number: usize,
        setup: &NodeSetup,
        peer: &mut Self,
        shared: &mut Shared,
    ) -> Result<Self, Wrong> {
        peer.snapshot(false, false)?;
        let mut node = Self::new(number, setup, peer.plans);
        drop(node.core.take());
        node.store = None;
        std::fs::remove_dir_all(node.folder.path()).map_err(wrong)?;
        copy(peer.folder.path(), node.folder.path()).map_err(|error| format!("a copy: {error}"))?;
        node.snapshots = Snapshots::open(&node.folder.path().join("snapshots")).map_err(wrong)?;
        (node.kept, node.generation, node.retired) = (peer.kept.clone(), peer.generation, true);
        (node.forgotten, node.program) = (peer.forgotten.clone(), node.program.max(peer.program));
        node.set_clock(shared.now_ms);
        node.start(shared, KilledHow::FromSnapshot, 0)?;
        met(Met::Joined);
        Ok(node)
    }

    fn begin_run(&mut self) {
        self.runs += 1;
        let mut run = [0; 16];
        (run[0], run[1]) = (u8::try_from(self.number).unwrap(), self.runs);
        (self.run, self.offered, self.uploads) = (RunId(run), 0, 0);
        self.counts_offered.clear();
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn set_clock(&self, now_ms: u64) {
        self.clock.0.store(now_ms.saturating_add_signed(self.ahead_ms), atomic::Ordering::Relaxed);
    }

    fn core(&self) -> &Core {
        self.core.as_ref().unwrap()
    }

    /// How far its order is applied: the step, none before the first.
    fn stands_at(&self, reference: &Reference) -> Result<Option<usize>, Wrong> {
        let order = self.core().committer.order.as_ref().ok_or("no order")?;
        let known = |place| reference.step_at(place).ok_or_else(|| format!("nothing stands at {place}"));
        order.place().map(known).transpose()
    }

    // What it offers.

    /// A record of these calls; the files of batches go to the files.
    pub(crate) fn calls(
        &mut self,
        shared: &mut Shared,
        calls: &[(usize, Call, Option<u8>)],
        newer: bool,
    ) -> Result<Vec<u8>, Wrong> {
        let now = self.clock.now();
        let mut requests = vec![];
        for (client, call, key) in calls {
            let (settings, client) = (self.settings.clone(), *client);
            let mut call = call.clone();
            if let Call::Batch(batch) = &mut call {
                batch.time = batch.as_of_ms(now.0).map(Time::At);
            }
            let offer = Offer::Call { client, call: call.clone(), settings, key: *key };
            let bytes = match &call {
                Call::Batch(batch) => {
                    let upload = UploadId { run: self.run, number: self.uploads };
                    self.uploads += 1;
                    let rules = batch_rules(batch, &self.settings, now);
                    let text = file_of(batch);
                    let new = self.core().upload(client_code(client), rules, &text, key.map(key_of), now)?;
                    let first_piece = Offset(shared.files.len() as u64);
                    shared.files.push((upload, text));
                    let bytes = wire::batch(upload, (first_piece, first_piece), &new);
                    self.spooled.insert(upload, Box::new(new));
                    bytes
                }
                call => {
                    let request = self.core().request(client, call, &self.settings, now)?;
                    wire::encode(&request).ok_or("no bytes")?
                }
            };
            requests.push((offer, bytes.map_err(wrong)?));
        }
        self.record(shared, requests, newer && self.program > RULES_VERSION)
    }

    /// A record of the counts of batches that the order lacks; none if there are none.
    pub(crate) fn counts(&mut self, shared: &mut Shared, again: bool) -> Result<Option<Vec<u8>>, Wrong> {
        let mut requests = vec![];
        for (id, counts) in self.core().batches.uncounted() {
            if self.counts_offered.insert(id.seq.get()) || again {
                let offer = Offer::Count { seq: id.seq.get(), counts };
                let bytes = wire::encode(&Request::Count(id, counts)).ok_or("no bytes")?;
                requests.push((offer, bytes.map_err(wrong)?));
            }
        }
        if requests.is_empty() { Ok(None) } else { self.record(shared, requests, false).map(Some) }
    }

    /// A record of the sweeps that this node's store asks for, or of everybody; none if there is nobody.
    pub(crate) fn sweeps(&mut self, shared: &mut Shared, all: bool) -> Result<Option<Vec<u8>>, Wrong> {
        let lifetime_ms = self.settings.lifetime_ms;
        if all {
            let (client, code) = (0, client_code(0));
            let kinds = [Kind::Pc, Kind::ThirdParty, Kind::Ecid];
            let ids = kinds.into_iter().flat_map(|kind| NAMES.map(|name| Id { kind, name: name.into() }));
            let ids: Vec<Id> = ids.collect();
            let keys = ids.iter().map(|id| visitor_id(id).key(&code)).collect();
            let request = Request::Sweep(code, keys, lifetime_ms);
            let bytes = wire::encode(&request).ok_or("no bytes")?.map_err(wrong)?;
            return self
                .record(shared, vec![(Offer::Sweep { client, ids, lifetime_ms }, bytes)], false)
                .map(Some);
        }
        self.checkpoint()?;
        let core = self.core();
        let horizon = Horizon {
            now: self.clock.now(),
            checkpoint: self.checkpointed_seq,
            batches: &core.batches,
            lifetime_ms: &|_| Some(lifetime_ms),
        };
        let swept = sweep(&*core.shared(), &horizon, None, usize::MAX).map_err(wrong)?;
        let mut requests = vec![];
        for request in swept.requests {
            let Request::Sweep(code, keys, _) = &request else { return Err(format!("{request:?}")) };
            let client = CLIENTS.iter().position(|client| *client == code.as_str()).ok_or("a client")?;
            let ids = keys.iter().map(super::id_of).collect();
            let offer = Offer::Sweep { client, ids, lifetime_ms };
            requests.push((offer, wire::encode(&request).ok_or("no bytes")?.map_err(wrong)?));
        }
        if requests.is_empty() { Ok(None) } else { self.record(shared, requests, false).map(Some) }
    }

    /// A record that makes one of the few tokens, or revokes it. None if the node does not know the token that it should revoke.
    pub(crate) fn token(
        &mut self,
        shared: &mut Shared,
        which: usize,
        revoke: bool,
    ) -> Result<Option<Vec<u8>>, Wrong> {
        let now = self.clock.now();
        while shared.tokens.len() <= which {
            shared.tokens.push(Tokens::fresh(&WantedToken::of(None, Scope::Read), now).map_err(wrong)?.0);
        }
        let token = shared.tokens[which].clone();
        if revoke && !self.tokens()?.contains_key(&token.id) {
            return Ok(None);
        }
        let change =
            if revoke { TokenChange::Revoke { id: token.id, at: now } } else { TokenChange::Add(token) };
        let bytes = wire::encode(&Request::Token(change.clone())).ok_or("no bytes")?.map_err(wrong)?;
        self.record(shared, vec![(Offer::Token(change), bytes)], false).map(Some)
    }

    fn record(
        &mut self,
        shared: &mut Shared,
        requests: Vec<(Offer, Vec<u8>)>,
        newer: bool,
    ) -> Result<Vec<u8>, Wrong> {
        let (first, mut bytes) = (self.offered, vec![]);
        for (offer, mut request) in requests {
            if newer {
                request[0] = RULES_VERSION + 1;
            }
            shared.log.note(self.run, self.offered, offer);
            self.offered += 1;
            bytes.push(request.into());
        }
        let offers = Offers { run: self.run, first, clock_ms: self.clock.now().0, requests: bytes };
        offers.encode().map_err(wrong)
    }

    // What it reads.

    /// Reads the next files.
    pub(crate) fn receive(&mut self, shared: &Shared, files: usize) {
        self.received = shared.files.len().min(self.received.saturating_add(files));
    }

    /// Reads so many requests and commits them, with its own ones before or behind them.
    pub(crate) fn read(
        &mut self,
        shared: &mut Shared,
        requests: usize,
        own_first: bool,
    ) -> Result<(), Wrong> {
        let mut asked: Vec<(Ordered, Read)> = vec![];
        let mut spool = BTreeMap::new();
        std::mem::swap(&mut spool, &mut self.spooled);
        let read = self.read_into(shared, requests, &mut asked, &mut spool);
        self.spooled = spool;
        read?;
        if asked.iter().filter(|(one, _)| matches!(one.request, Request::Count(..))).any(|(one, _)| {
            let Request::Count(id, _) = &one.request else { return false };
            self.core().batches.counted_so(id).is_none()
        }) {
            met(Met::CountedInItsGroup);
        }
        if !asked.is_empty() && self.applying.as_ref().is_some_and(Applying::is_in_the_middle) {
            met(Met::WriteWhileApplying);
        }
        let own: Vec<_> = self.waiting.drain(..).map(|one| (one.into(), Read { step: None })).collect();
        if own_first {
            asked.splice(0..0, own);
        } else {
            asked.extend(own);
        }
        self.commit(shared, asked)
    }

    fn read_into(
        &mut self,
        shared: &Shared,
        requests: usize,
        asked: &mut Vec<(Ordered, Read)>,
        spooled: &mut BTreeMap<UploadId, Box<NewBatch>>,
    ) -> Result<(), Wrong> {
        let mut next = self.next;
        while asked.len() < requests {
            let Some(record) = shared.log.read(next.offset)? else { break };
            let (offers, time) = offers_of(record)?;
            let Some(bytes) = offers.requests.get(next.within as usize) else {
                next = Place { offset: next.offset.next(), within: 0 };
                continue;
            };
            let mut bytes = bytes.to_vec();
            if self.program > RULES_VERSION && bytes[0] == self.program {
                // What the newer program knows is the same.
                bytes[0] = RULES_VERSION;
            }
            let request = match wire::decode(&bytes) {
                Ok(FromOrder::Request(request)) => request,
                Ok(FromOrder::Batch(offered)) => match self.batch(shared, &offered, spooled)? {
                    Some(new) => Request::Accept(new),
                    None => {
                        met(Met::FileBehind);
                        break;
                    }
                },
                Ok(FromOrder::Founded(..)) => return Err("a second birth".into()),
                Err(CodecError::Version { .. }) => {
                    met(Met::VersionUnknown);
                    self.blocked = true;
                    break;
                }
                Err(error) => return Err(wrong(error)),
            };
            if matches!(request, Request::Sweep(..)) && self.core().batches.pending_batches() > 0 {
                met(Met::SweptOverPending);
            }
            let number = offers.first + u64::from(next.within);
            let placed = Placed {
                place: next,
                record_crc32c: crc32c::crc32c(&record.value),
                time,
                run: offers.run,
                number,
            };
            let step = shared.reference.step_at(next).ok_or("the model lacks a request")?;
            let read = Read { step: Some((step, offers.run, number)) };
            asked.push((Ordered { request, placed: Some(placed) }, read));
            next.within += 1;
        }
        self.next = next;
        Ok(())
    }

    /// The batch that was offered, once its file is here.
    fn batch(
        &self,
        shared: &Shared,
        offered: &OfferedBatch,
        spooled: &mut BTreeMap<UploadId, Box<NewBatch>>,
    ) -> Result<Option<Box<NewBatch>>, Wrong> {
        if let Some(new) = spooled.remove(&offered.upload) {
            met(Met::FileBefore);
            return Ok(Some(new));
        }
        let here = shared.files.iter().take(self.received);
        let Some((_, text)) = here.into_iter().find(|(upload, _)| *upload == offered.upload) else {
            return Ok(None);
        };
        let accepted = &offered.accepted;
        let key = accepted.key.as_ref().map(|sent| sent.key.clone());
        let (client, rules) = (accepted.id.client.clone(), accepted.rules.clone());
        self.core().upload(client, rules, text, key, self.clock.now()).map(|new| Some(Box::new(new)))
    }

    /// Spools what has come and is not accepted yet.
    pub(crate) fn spool(&mut self, shared: &Shared) -> Result<(), Wrong> {
        let mut place = self.next;
        // The offers that lie ahead tell the rules; a daemon has them in the pieces themselves.
        while let Some(record) = shared.log.read(place.offset)? {
            let (offers, _) = offers_of(record)?;
            for bytes in &offers.requests {
                if let Ok(FromOrder::Batch(offered)) = wire::decode(bytes)
                    && !self.spooled.contains_key(&offered.upload)
                {
                    let mut spooled = std::mem::take(&mut self.spooled);
                    let new = self.batch(shared, &offered, &mut spooled);
                    self.spooled = spooled;
                    if let Some(new) = new? {
                        self.spooled.insert(offered.upload, new);
                    }
                }
            }
            place = Place { offset: place.offset.next(), within: 0 };
        }
        Ok(())
    }

    fn commit(&mut self, shared: &mut Shared, asked: Vec<(Ordered, Read)>) -> Result<(), Wrong> {
        let mut group = Group::of(asked);
        while !group.is_empty() {
            let committer = &mut self.core.as_mut().unwrap().committer;
            let answers = group.commit(|requests| committer.commit(requests));
            let answers = answers.map_err(|fatal| format!("fatal: {fatal}"))?;
            let any = !answers.is_empty();
            for (Read { step }, answer) in answers {
                let answer = answer.map_err(|error| format!("refused: {error}"))?;
                let Some((step, run, number)) = step else { continue };
                self.answered(shared, step, &answer)?;
                if run == self.run && !matches!(answer, Answer::Duplicate) {
                    met(Met::Acknowledged);
                    if !shared.acknowledged.insert((run, number)) {
                        return Err(format!("{run} number {number} was acknowledged twice"));
                    }
                }
            }
            if any {
                self.check(shared)?;
            }
        }
        Ok(())
    }

    fn answered(&self, shared: &Shared, step: usize, answer: &Answer) -> Result<(), Wrong> {
        let step = &shared.reference.steps[step];
        let same = match (&step.expected, answer) {
            // What the token is by now may be told: the change may have been made before a kill.
            (Expected::Duplicate, Answer::Duplicate)
            | (Expected::Done, Answer::Done)
            | (Expected::Token, Answer::Token(_)) => true,
            (Expected::Written { came, seq, pc }, Answer::Written(written)) => {
                let given = written.pc.as_ref().map(|id| id.as_str().to_owned());
                written.seq.map(Seq::get) == came.accepted.then_some(*seq)
                    && (written.known, &given) == (came.known, pc)
                    && (!came.accepted || written.left_out == came.left_out)
            }
            (Expected::Erased { known, seq }, Answer::Erased(written, _)) => {
                (written.seq.map(Seq::get), written.known) == (Some(*seq), *known)
            }
            (Expected::Accepted(seq), Answer::Accepted(known))
            | (Expected::Before(seq), Answer::AcceptedBefore(known)) => known.accepted.id.seq.get() == *seq,
            (Expected::Taken(seq), Answer::KeyTaken(id)) => id.seq.get() == *seq,
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(format!(
            "the request at {} should be answered {:?}, but node {} answers {answer:?}",
            step.place, step.expected, self.number
        ))
    }

    // What it does by itself.

    /// Applies batches for so many steps, with a check behind each; or up to the end of one, with a check there.
    pub(crate) fn apply(
        &mut self,
        shared: &mut Shared,
        (steps, which, joins): (usize, usize, bool),
        each: bool,
    ) -> Result<(), Wrong> {
        for _ in 0..steps {
            if self.applying.is_none() {
                let Some(pending) = begin(self.core())? else { return Ok(()) };
                let plan = self.plans.put(planned(self.core(), &pending, which)?)?;
                self.applying = Some(Applying::new(&pending, plan, which)?);
            }
            let (core, now) = (self.core.as_ref().unwrap(), self.clock.now());
            if self.waiting.is_empty()
                && let Some(applying) = &mut self.applying
            {
                applying.step(core, &mut self.waiting, now, which)?;
            }
            if !joins && !self.waiting.is_empty() {
                let own = self.waiting.drain(..).map(|one| (one.into(), Read { step: None })).collect();
                self.commit(shared, own)?;
            }
            if each {
                self.check(shared)?;
            }
            if self.note_applied(shared)? && !each {
                return self.check(shared);
            }
            if joins && !self.waiting.is_empty() {
                // It waits for the next group.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends with the batch in hand if it is applied; gives whether it is.
    pub(crate) fn note_applied(&mut self, shared: &Shared) -> Result<bool, Wrong> {
        let batches = Arc::clone(&self.core().batches);
        let applied = |applying: &mut Applying<'_>| {
            batches.pending_by_seq(applying.pending().accepted.id.seq).is_none()
        };
        let Some(applying) = self.applying.take_if(applied) else { return Ok(false) };
        let accepted = Arc::clone(&applying.pending().accepted);
        applying.completed()?;
        let seq = accepted.id.seq.get();
        let counted = batches.counted_so(&accepted.id) == Some(queue::CountedSo::Complete);
        met(if counted { Met::AppliedAfterCount } else { Met::Applied });
        let sent = shared.reference.sent.iter().find(|sent| sent.seq == seq).ok_or("an unknown batch")?;
        self.core().check_outcomes(seq, accepted.spool, &sent.rows, &sent.became).map(|()| true)
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Wrong> {
        let committed = self.core.as_mut().unwrap().committer.commit(&mut VecDeque::from([request.into()]));
        let answer = committed.map_err(|fatal| format!("fatal: {fatal}"))?.pop().ok_or("no answer")?;
        answer.map_err(|error| format!("refused: {error}"))
    }

    fn mark(&mut self) -> Result<Checkpoint, Wrong> {
        let Answer::Marked(mark) = self.ask(Request::Mark)? else { return Err("no mark".into()) };
        self.core().batches.save().map_err(wrong)?;
        Ok(mark)
    }

    fn store_folder(&self) -> PathBuf {
        self.folder.path().join(format!("store{}", self.generation))
    }

    pub(crate) fn checkpoint(&mut self) -> Result<(), Wrong> {
        let mark = self.mark()?;
        let reach = self.core().swap.make_durable().map_err(wrong)?;
        let checkpoint = Checkpoint { store_reach: reach.0, ..mark };
        write_checkpoint(&self.store_folder().join("checkpoint"), &checkpoint).map_err(wrong)?;
        self.checkpointed_seq = Seq::from_u64(checkpoint.last_seq);
        Ok(())
    }

    /// Takes a snapshot, and removes what two of them make needless.
    pub(crate) fn snapshot(&mut self, retire: bool, retention_over: bool) -> Result<(), Wrong> {
        if retire {
            self.ask(Request::Rotate)?;
        }
        let (mut task, mut hand, mut event) = (SnapshotTask::default(), InHand::default(), Event::Done);
        loop {
            event = match task.step(event) {
                Action::KeepTombstones => Event::Done,
                Action::Mark => Event::Marked(self.mark()?),
                Action::BeginSnapshot(mark) => {
                    hand.begin_snapshot(&self.snapshots, &mark).map_err(wrong)?;
                    Event::Done
                }
                Action::OnStore(what) => {
                    let (core, lifetime_ms) = (self.core.as_ref().unwrap(), self.settings.lifetime_ms);
                    let horizon = Horizon {
                        now: self.clock.now(),
                        checkpoint: Seq::ZERO,
                        batches: &core.batches,
                        lifetime_ms: &|_| Some(lifetime_ms),
                    };
                    let (go_on, left_out) = (&|| Ok(()), &|_: &_| ());
                    let on = On { store: &core.swap, horizon, page_values: PAGE_VALUES, go_on, left_out };
                    hand.carry_out(what, &on).map_err(wrong)?
                }
                Action::End { done: true } => break,
                other => return Err(format!("a snapshot wants {other:?}")),
            };
        }
        let taken = hand.taken.ok_or("no snapshot")?;
        let newest = self.snapshots.list().map_err(wrong)?[0].1;
        self.kept.insert(0, (newest, taken.checkpoint));
        for (number, _) in self.kept.split_off(self.kept.len().min(2)) {
            self.snapshots.remove(number).map_err(wrong)?;
        }
        if retire { self.retire(retention_over) } else { Ok(()) }
    }

    fn retire(&mut self, retention_over: bool) -> Result<(), Wrong> {
        self.checkpoint()?;
        let mark = Store::checkpoint(&self.store_folder()).ok_or("no checkpoint")?;
        let kept = self.kept.iter().map(|(_, kept)| kept);
        let needed = journal_needed(kept.chain([&mark])).ok_or("nothing")?;
        self.ask(Request::Retire(needed))?;
        self.retired = true;
        if retention_over {
            let core = self.core.as_ref().unwrap();
            let marks = self.kept.iter().map(|(_, kept)| kept).chain([&mark]);
            for known in batches_needless(&core.batches, marks, self.clock.now(), 0) {
                met(Met::BatchForgotten);
                core.batches.forget(std::slice::from_ref(&known.accepted.id));
                core.spool.remove(known.accepted.spool);
                self.forgotten.insert(known.accepted.id.seq.get());
            }
        }
        Ok(())
    }

    /// The offset up to which all its snapshots have the order.
    pub(crate) fn has_in_snapshots(&self) -> u64 {
        let place = |checkpoint: &Checkpoint| checkpoint.order.as_ref().and_then(|order| order.place);
        let oldest = self.kept.last().filter(|_| self.kept.len() > 1);
        oldest.and_then(|(_, kept)| place(kept)).map_or(0, |place| place.offset.0)
    }

    // Its ends and beginnings.

    /// The process is gone.
    pub(crate) fn kill(&mut self, shared: &mut Shared) {
        let Some(core) = self.core.take() else { return };
        if self.applying.take().is_some_and(|applying| applying.is_in_the_middle()) {
            met(Met::KilledWhileApplying);
        }
        if !core.batches.uncounted().is_empty() {
            met(Met::KilledApplied);
        }
        let ahead = core.batches.all_pending();
        if ahead.iter().any(|(pending, _)| core.batches.lacks_outcomes(&pending.accepted.id)) {
            met(Met::KilledUncountedHere);
        }
        if shared.log.end() > self.next.offset.0 + 5 {
            met(Met::KilledFarBehind);
        }
        shared.ended.insert(self.run);
        self.surely = self.next;
        self.waiting.clear();
        self.spooled.clear();
        let Core { swap, store, committer, batches, spool, .. } = core;
        drop((swap, committer, batches, spool));
        self.store = Some(store);
    }

    /// The process is gone while it commits what it reads next: the journal has so many hundredths of the group's frame, and
    /// the store nothing of it. Nobody heard an answer.
    pub(crate) fn kill_committing(
        &mut self,
        shared: &mut Shared,
        requests: usize,
        hundredths: u64,
    ) -> Result<(), Wrong> {
        let store = self.core().store.as_now().ok_or("a store that cannot be copied")?;
        let (mut asked, mut spooled) = (vec![], std::mem::take(&mut self.spooled));
        let before = self.next;
        self.read_into(shared, requests, &mut asked, &mut spooled)?;
        let own = self.waiting.drain(..).map(Ordered::from);
        let mut requests: VecDeque<_> = own.chain(asked.into_iter().map(|(one, _)| one)).collect();
        let committer = &mut self.core.as_mut().unwrap().committer;
        let from = committer.log.end().to_pair();
        committer.commit(&mut requests).map_err(|fatal| format!("fatal: {fatal}"))?;
        let to = committer.log.end().to_pair();
        let place = committer.order.as_ref().and_then(Ordering::place);
        let folder = committer.log.folder().to_owned();
        drop(requests);
        self.kill(shared);
        self.store = Some(store);
        self.surely = before;
        let behind = place.map_or(before, |place| Place { within: place.within + 1, ..place });
        self.next = before.max(behind);
        if from.0 == to.0 && hundredths < 100 {
            met(Met::KilledJournaling);
            let cut = from.1 + (to.1 - from.1) * hundredths / 100;
            let file = folder.join(format!("{:016x}.log", to.0));
            wipe(&file, cut, to.1).map_err(|error| format!("{}: {error}", file.display()))?;
        } else {
            met(Met::KilledJournaled);
            self.surely = self.next;
        }
        Ok(())
    }

    /// Another process begins with what the disk has.
    pub(crate) fn start(&mut self, shared: &mut Shared, how: KilledHow, fate: u64) -> Result<(), Wrong> {
        if self.is_up() {
            return Ok(());
        }
        let made = how != KilledHow::Crash;
        let (store, from) = if made {
            drop(self.store.take());
            self.generation += 1;
            let folder = self.store_folder();
            std::fs::create_dir(&folder).map_err(wrong)?;
            let store = Store::new(self.which, &folder);
            let kept = self.kept.first().filter(|_| how == KilledHow::FromSnapshot || self.retired);
            let from = match kept {
                Some((number, checkpoint)) => {
                    fill(&*store.shared(), &self.snapshots.path_of(*number))?;
                    met(Met::MadeFromSnapshot);
                    StartFrom::Snapshot(checkpoint.clone())
                }
                None => {
                    met(Met::StoreRebuilt);
                    StartFrom::Nothing
                }
            };
            (store, from)
        } else {
            let folder = self.store_folder();
            let store = self.store.take().ok_or("no store")?.restarted(&folder, fate);
            let checkpoint = Store::checkpoint(&folder).ok_or("no checkpoint")?;
            (store, StartFrom::Checkpoint(checkpoint))
        };
        let mut core = Core::try_start(self.folder.path(), store, from, &self.clock, self.limits)?;
        ordering(&mut core, self.folder.path());
        if made {
            let mark = core.durable_mark()?;
            core.batches.save().map_err(wrong)?;
            write_checkpoint(&self.store_folder().join("checkpoint"), &mark).map_err(wrong)?;
        }
        self.core = Some(core);
        self.checkpointed_seq = Seq::ZERO;
        if shared.log.low > 0 {
            met(Met::ReadAfterTrim);
        }
        let place = self.core().committer.order.as_ref().and_then(Ordering::place);
        let next = place.map_or(Place::default(), |place| Place { within: place.within + 1, ..place });
        let known = self.next != Place::default();
        if known && (next > self.next || steps_between(shared, next, self.surely)? > 0) {
            let (number, surely, most) = (self.number, self.surely, self.next);
            return Err(format!(
                "after its restart node {number} goes on at {next}, and not from {surely} to {most}"
            ));
        }
        self.next = next;
        self.blocked = false;
        self.begin_run();
        self.check(shared)
    }

    /// Its program is exchanged for a newer one, which a start then runs.
    pub(crate) fn upgrade(&mut self) {
        if self.blocked {
            met(Met::Upgraded);
        }
        self.program = RULES_VERSION + 1;
    }

    // What must hold.

    /// It shows what the model shows at its place, and what every other node shows that stood there.
    pub(crate) fn check(&self, shared: &mut Shared) -> Result<(), Wrong> {
        let Some(at) = self.stands_at(&shared.reference)? else { return Ok(()) };
        shared.checked += 1;
        let step = &shared.reference.steps[at];
        let wrong = |what: String| format!("node {} at {}: {what}", self.number, step.place);
        let core = self.core();
        let last = core.committer.seqs.last();
        if last.get() != step.last_seq {
            return Err(wrong(format!("the last seq should be {}, and is {last}", step.last_seq)));
        }
        let mut visitors = vec![];
        let now = last.millis();
        for (client, of) in step.visitors.iter().enumerate() {
            for (kind, name) in [Kind::Pc, Kind::ThirdParty, Kind::Ecid]
                .into_iter()
                .flat_map(|kind| NAMES.into_iter().chain(["f1"]).map(move |name| (kind, name)))
            {
                let id = Id { kind, name: name.into() };
                for lifetime_ms in LOOKED_UP_BY_MS {
                    let (seen, differs) =
                        core.seen_and_differs(of, (client, &id), now, lifetime_ms).map_err(wrong)?;
                    if let Some(differing) = differs {
                        return Err(wrong(format!("{} {id} should read so: {differing}", CLIENTS[client])));
                    }
                    visitors.push(seen);
                }
            }
        }
        self.check_batches(shared, at).map_err(wrong)?;
        self.check_tokens(&step.tokens).map_err(wrong)?;
        let checksum = core.committer.order.as_ref().ok_or("no order")?.checksum();
        let shows = Showed { visitors, checksum };
        match shared.shown.get(&at) {
            None => drop(shared.shown.insert(at, shows)),
            Some(other) if other.visitors != shows.visitors => {
                let differing = shows.visitors.iter().zip(&other.visitors).find(|(one, other)| one != other);
                return Err(wrong(format!("it shows, and another showed: {differing:?}")));
            }
            Some(other) if other.checksum != checksum => {
                return Err(wrong(format!(
                    "its sum is {checksum:08x}, another's was {:08x}",
                    other.checksum
                )));
            }
            Some(_) => met(Met::SameState),
        }
        Ok(())
    }

    /// It has the tokens of its place. It may have more: a change is made before its place is journaled.
    fn check_tokens(&self, expected: &reference::Tokens) -> Result<(), Wrong> {
        let found = self.tokens()?;
        if found != *expected {
            met(Met::TokenAhead);
        }
        match expected.iter().find(|(id, revoked)| found.get(*id).is_none_or(|found| found < revoked)) {
            Some((id, revoked)) => {
                Err(format!("token {id} should be revoked: {revoked}, and there is {found:?}"))
            }
            None => Ok(()),
        }
    }

    /// At the end of the order it has the tokens that the order has made, and no others.
    pub(crate) fn has_no_other_tokens(&self, shared: &Shared) -> Result<(), Wrong> {
        let Some(last) = shared.reference.steps.last().filter(|_| !self.blocked) else { return Ok(()) };
        let found = self.tokens()?;
        if found == *last.tokens {
            return Ok(());
        }
        Err(format!("node {} should have the tokens {:?}, and has {found:?}", self.number, last.tokens))
    }

    /// The tokens in use, which are those of the file.
    fn tokens(&self) -> Result<reference::Tokens, Wrong> {
        let in_use = self.core().committer.tokens.as_ref().ok_or("no tokens")?.now();
        Ok(in_use.all().iter().map(|token| (token.id.clone(), token.revoked_at_ms.is_some())).collect())
    }

    fn check_batches(&self, shared: &Shared, at: usize) -> Result<(), Wrong> {
        let batches = &self.core().batches;
        for client in 0..CLIENTS.len() {
            let mut complete = vec![];
            let mut listed = vec![];
            for sent in shared.reference.sent.iter().rev().filter(|sent| sent.client == client) {
                let id = BatchId { client: client_code(client), seq: Seq::from_u64(sent.seq) };
                let found = batches.get(&id);
                if sent.accepted > at {
                    if found.is_some() {
                        return Err(format!("it has batch {id} before its place"));
                    }
                    continue;
                }
                if self.forgotten.contains(&sent.seq) {
                    continue;
                }
                let known = found.ok_or_else(|| format!("batch {id} is gone"))?;
                let counted = sent.counted.filter(|(step, _)| *step <= at).map(|(_, time_ms)| time_ms);
                let completed = known.progress.completed().map(|at| at.0);
                if completed != counted {
                    return Err(format!("batch {id} should be complete {counted:?}, and is {completed:?}"));
                }
                if counted.is_some() && known.progress.counts() != sent.counts() {
                    return Err(format!(
                        "batch {id} should have {:?}, and has {:?}",
                        sent.counts(),
                        known.progress.counts()
                    ));
                }
                listed.push(sent.seq);
                complete.extend(counted.map(|_| sent.seq));
            }
            for (which, expected) in [(queue::Which::All, &listed), (queue::Which::Complete, &complete)] {
                let mut found = vec![];
                batches.walk_back(&client_code(client), Seq::from_u64(u64::MAX), which, |known| {
                    found.push(known.accepted.id.seq.get());
                    ControlFlow::Continue(())
                });
                if found != *expected {
                    return Err(format!(
                        "the list of {which:?} batches should be {expected:?}, and is {found:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether it has applied all that it has read.
    pub(crate) fn has_pending(&self) -> bool {
        self.core().batches.pending_batches() > 0
    }

    /// Whether it has read all, or all up to what its program does not know.
    pub(crate) fn stands_or_is_at_the_end(&self, shared: &Shared) -> Result<bool, Wrong> {
        Ok(self.blocked || steps_from(shared, self.next)? == 0)
    }
}

/// How many requests stand from a place on.
fn steps_from(shared: &Shared, from: Place) -> Result<usize, Wrong> {
    steps_between(shared, from, Place { offset: Offset(u64::MAX), within: 0 })
}

/// How many requests stand from one place on and before another.
fn steps_between(shared: &Shared, from: Place, to: Place) -> Result<usize, Wrong> {
    Ok(shared.reference.steps.iter().filter(|step| (from..to).contains(&step.place)).count())
}

fn key_of(key: u8) -> IdempotencyKey {
    IdempotencyKey::new(&format!("key-{key}")).unwrap()
}

fn wrong(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

/// Makes a piece of a file zeros, as it was before it was written.
fn wipe(file: &Path, from: u64, to: u64) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    file.seek(SeekFrom::Start(from))?;
    file.write_all(&vec![0; usize::try_from(to - from).unwrap()])
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
