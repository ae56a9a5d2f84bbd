//! The real engine on one thread, compared with the reference model: commit groups, the apply loop, maintenance tasks, crashes and
//! restarts. The state machines of `src/engine/driver`, which the daemon's threads run, decide its actions. Here anything may come
//! between two actions.
//!
//! ```text
//! applying.rs  the apply loop, and the rest of a sequence between its steps
//! tasks.rs     checkpoints, snapshots, fresh stores
//! ```
//!
//! Promises: after every step every visitor, by every id, reads as in the model. Every answer is the model's. When a batch is
//! complete, its counts and outcomes are the model's. A fault is returned as a sentence.

use super::applying::{Applying, Stepped, begin, planned};
use super::core::{
    BEGUN_MS, BUNDLE_ROWS_MIN, Core, HISTORY_MAX, LIMITS, SetClock, Wrong, batch_rules, client_code, file_of,
    fill, folder, ids_of, made_for, named, names, outcome, rows_of, visitor_id,
};
use super::coverage::{Met, met};
use super::model::{self, From, Id, Kind, Rules, Visitors};
use super::ops::{Batch, CLIENTS, Call, HOUR_MS, How, NAMES, Op, Settings, Stop, id};
use super::stores::{Store, Which};
use profiled::batch::outcomes_file::read_outcomes;
use profiled::batch::pending::Pending;
use profiled::engine::commit::taking::Group;
use profiled::engine::commit::{Answer, Ordered, Request, WriteRules};
use profiled::engine::driver::apply::Action;
use profiled::engine::open::recovery::{StartFrom, write_checkpoint};
use profiled::engine::read::export::Walk;
use profiled::engine::{CallIds, EngineError, SiteCall, look_up};
use profiled::journal::entry::Checkpoint;
use profiled::journal::snapshot::Snapshots;
use profiled::model::batch::{BatchId, BatchRules, ConsecutiveV2, Counts};
use profiled::model::profile::Source;
use profiled::model::seq::{Clock, Seq};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod applying;
mod tasks;

use tasks::{UnderWay, Upkeep};

/// How many values a snapshot or a copy reads at a time: few, so that everything else comes in between.
const PAGE_VALUES: usize = 2;
/// More binds than a profile lists.
const CROWD: usize = model::LISTED_MAX + 1;
/// How many of the last writes are remembered with what all visitors were after them.
const PAST_MAX: usize = 12;

/// An accepted batch, and its result in the model.
struct Sent {
    client: usize,
    seq: u64,
    spool: u64,
    batch: Batch,
    rows: Vec<model::Row>,
    became: Vec<model::Outcome>,
    complete: bool,
    /// Rows of its file are overwritten.
    overwritten: bool,
    /// Its files are gone, past their retention.
    forgotten: bool,
}

/// What the answer to a request is compared with.
enum Asked {
    Call(usize, Call),
    /// The apply thread's, or a checkpoint's.
    Inner,
}

/// The core and the model.
pub(crate) struct Harness {
    folder: tempfile::TempDir,
    /// `None` only during a restart.
    core: Option<Core>,
    clock: Arc<SetClock>,
    settings: Settings,
    visitors: [Visitors; 2],
    /// What all visitors were after the last writes.
    past: VecDeque<(u64, [Visitors; 2])>,
    sent: Vec<Sent>,
    last_seq: u64,
    /// The seq up to which the journal is surely durable.
    accepted_seq: u64,
    /// Requests of the apply thread that wait for a group to join.
    waiting: VecDeque<Request>,
    /// A checkpoint that has begun.
    checkpoint: Option<UnderWay>,
    /// Whether a task has the store locked, and whether all tombstones stay in it.
    store_locked: bool,
    tombstones_stay: bool,
    /// The seq that the last checkpoint of this start covers.
    checkpointed_seq: Seq,
    /// Something was swept. Expired visitors may be gone for good, so nothing may bring them back.
    swept: bool,
    groups: usize,
    /// Whether ids beyond the few were used, by client.
    crowded: [bool; 2],
    snapshots: Snapshots,
    /// Newest first.
    kept: Vec<(u64, Checkpoint)>,
    upkeep: Option<Upkeep>,
    retention_ms: u64,
    /// The folder of the store that a restart finds, and the last one made.
    generation: u64,
    last_generation: u64,
    /// The journal's beginning is gone.
    retired: bool,
    /// If a test listens: all answers and lookups so far, and in the end the outcomes of all rows.
    heard: Option<Vec<String>>,
}

impl Harness {
    /// From now on answers and lookups are recorded.
    pub(crate) fn listen(&mut self) {
        self.heard = Some(vec![]);
    }

    /// The recorded answers and lookups.
    pub(crate) fn heard(self) -> Vec<String> {
        self.heard.unwrap_or_default()
    }

    fn hear(&mut self, what: impl FnOnce() -> String) {
        if let Some(heard) = &mut self.heard {
            heard.push(what());
        }
    }

    /// A fresh daemon.
    pub(crate) fn new(which: Which, settings: Settings) -> Self {
        let folder = folder();
        let generation = folder.path().join("store0");
        std::fs::create_dir(&generation).unwrap();
        let clock = Arc::new(SetClock(AtomicU64::new(BEGUN_MS)));
        let store = Store::new(which, &generation);
        let core = Core::try_start(folder.path(), store, StartFrom::Nothing, &clock, LIMITS).unwrap();
        let checkpoint = generation.join("checkpoint");
        core.batches.save().unwrap();
        write_checkpoint(&checkpoint, &core.durable_mark().unwrap()).unwrap();
        let snapshots = Snapshots::open(&folder.path().join("snapshots")).unwrap();
        Self {
            folder,
            core: Some(core),
            clock,
            settings,
            visitors: [Visitors::default(), Visitors::default()],
            past: VecDeque::new(),
            sent: vec![],
            last_seq: 0,
            accepted_seq: 0,
            waiting: VecDeque::new(),
            checkpoint: None,
            store_locked: false,
            tombstones_stay: false,
            checkpointed_seq: Seq::ZERO,
            swept: false,
            groups: 0,
            crowded: [false; 2],
            snapshots,
            kept: vec![],
            upkeep: None,
            retention_ms: u64::MAX / 2,
            generation: 0,
            last_generation: 0,
            retired: false,
            heard: None,
        }
    }

    /// Takes all steps, then applies what is left and restarts once more.
    pub(crate) fn run(&mut self, ops: &[Op]) -> Result<(), Wrong> {
        let mut ops = ops.iter();
        while let Some(op) = ops.next() {
            match op {
                Op::Apply { steps, part, joins } => {
                    let restart = self.apply(&mut ops, (*steps, *part, *joins))?;
                    if let Some(op) = restart {
                        self.step(op)?;
                    }
                }
                op => self.step(op)?,
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<(), Wrong> {
        self.fresh(usize::MAX, Stop::Nowhere)?;
        self.snapshot(usize::MAX, false, false, false)?;
        if !self.waiting.is_empty() {
            // The apply loop that asked is at the end of the sequence.
            self.commit(&[])?;
        }
        while self.core().batches.pending_batches() > 0 {
            self.apply(&mut [].iter(), (usize::MAX, 0, false))?;
        }
        self.check("everything was applied")?;
        self.hear_all()?;
        if self.heard.is_some() {
            let became = self.all_became()?;
            self.hear(|| became);
        }
        self.restart(How::Crash, 0, false, None)?;
        self.check("the last restart")
    }

    fn core(&self) -> &Core {
        self.core.as_ref().unwrap()
    }

    fn store_folder(&self) -> PathBuf {
        self.generation_folder(self.generation)
    }

    fn generation_folder(&self, generation: u64) -> PathBuf {
        self.folder.path().join(format!("store{generation}"))
    }

    fn step(&mut self, op: &Op) -> Result<(), Wrong> {
        match op {
            Op::Commit(calls) => self.commit(calls)?,
            Op::Apply { .. } => return Err("applying within a step".into()),
            Op::Mark => self.mark()?,
            Op::Checkpoint => self.checkpoint()?,
            Op::Sweep => self.sweep()?,
            Op::Restart { how, fate, hour_back, settings } => {
                self.restart(*how, *fate, *hour_back, settings.as_ref())?;
            }
            Op::Snapshot { steps, rotate, retire, retention_over } => {
                self.snapshot(*steps, *rotate, *retire, *retention_over)?;
            }
            Op::Fresh { steps, stop } => self.fresh(*steps, *stop)?,
            Op::Undo { client, nth } => self.undo(*client, *nth)?,
            Op::Wait(ms) => drop(self.clock.0.fetch_add(*ms, Ordering::Relaxed)),
            Op::Crowd { client, who } => self.crowd(*client, *who)?,
        }
        self.check(&format!("{op:?}"))?;
        if !matches!(op, Op::Sweep) {
            self.hear_all()?;
        }
        Ok(())
    }

    /// Records what every visitor reads as.
    fn hear_all(&mut self) -> Result<(), Wrong> {
        if self.heard.is_some() {
            let all = self.all_shown()?;
            self.hear(|| all);
        }
        Ok(())
    }

    // The commit thread's part.

    fn commit(&mut self, calls: &[(usize, Call)]) -> Result<(), Wrong> {
        self.groups += 1;
        let inner: Vec<Request> = self.waiting.drain(..).collect();
        let only_inner = calls.is_empty();
        let mut requests: VecDeque<(Request, Asked)> = VecDeque::new();
        for (client, call) in calls {
            let request = self.core().request(*client, call, &self.settings, self.clock.now())?;
            requests.push_back((request, Asked::Call(*client, call.clone())));
        }
        for request in inner {
            // Before the calls or behind them.
            if self.groups.is_multiple_of(2) {
                requests.push_front((request, Asked::Inner));
            } else {
                requests.push_back((request, Asked::Inner));
            }
        }
        if requests.len() > 1 {
            met(Met::SeveralInOneGroup);
        }
        if self.checkpoint.is_some() && !calls.is_empty() {
            met(Met::WriteBetweenMarkAndCheckpoint);
        }
        let resolved_before = self.resolved_rows();
        let mut batches_in_group: Vec<BTreeSet<Id>> = vec![];
        let mut group = Group::of(requests);
        while !group.is_empty() {
            let committer = &mut self.core.as_mut().unwrap().committer;
            let answers = group.commit(|requests| committer.commit(requests));
            let answers = answers.map_err(|fatal| format!("fatal: {fatal}"))?;
            if answers.is_empty() {
                met(Met::ResolvedBeforeItsTurn);
            }
            for (asked, answer) in answers {
                let answer = answer.map_err(|error| format!("refused: {error}"))?;
                if let Asked::Call(client, call) = asked {
                    self.answered(client, &call, answer, &mut batches_in_group)?;
                }
            }
        }
        let resolved = self.resolved_rows().difference(&resolved_before).count();
        if resolved > 0 {
            met(if only_inner { Met::RowResolvedForApplying } else { Met::RowResolvedByWrite });
        }
        for sent in self.sent.iter_mut().filter(|sent| !sent.complete) {
            let id = BatchId { client: client_code(sent.client), seq: Seq::from_u64(sent.seq) };
            let known = self.core.as_ref().unwrap().batches.get(&id);
            sent.complete = known.is_some_and(|known| known.progress.completed().is_some());
        }
        Ok(())
    }

    /// Applies a call to the model, and compares the answers.
    fn answered(
        &mut self,
        client: usize,
        call: &Call,
        answer: Answer,
        batches_in_group: &mut Vec<BTreeSet<Id>>,
    ) -> Result<(), Wrong> {
        let seq = model::next_seq(self.last_seq, self.clock.now().0);
        self.last_seq = seq;
        let rules = Rules {
            seq,
            from: call.from(),
            lifetime_ms: self.settings.lifetime_ms,
            profile_bytes_max: self.settings.profile_bytes_max,
        };
        let mut after = self.visitors[client].clone();
        let (first, sets, came) = match (call, &answer) {
            (Call::Batch(batch), Answer::Accepted(known)) => {
                if batch.ndjson {
                    met(Met::Objects);
                }
                if known.accepted.id.seq.get() != seq {
                    return Err(format!("the batch has seq {}, not {seq}", known.accepted.id.seq));
                }
                self.hear(|| format!("{call:?}: {:?}", known.accepted.id));
                self.accepted(client, batch, rules, known.accepted.spool);
                batches_in_group.push(ids_of(&self.sent.last().unwrap().rows));
                return Ok(());
            }
            (Call::Site { pc, third_party, ecid, sets }, Answer::Written(_)) => {
                let from = if ecid.is_some() { From::Delivery } else { From::Mbox };
                let rules = Rules { from, ..rules };
                let made = made_for(*pc, *third_party, *ecid);
                let ids = [(Kind::Pc, pc), (Kind::ThirdParty, third_party), (Kind::Ecid, ecid)]
                    .map(|(kind, who)| who.map(|who| id(kind, who)));
                let [pc, third_party, ecid] = ids.each_ref().map(Option::as_ref);
                let bound = [pc, third_party].into_iter().flatten().collect::<Vec<_>>();
                if bound.len() == 2
                    && batches_in_group.iter().any(|batch| bound.iter().any(|id| batch.contains(id)))
                {
                    met(Met::BatchAndBindInOneGroup);
                }
                let first = third_party.or(pc).or(ecid).ok_or("a call without ids")?.clone();
                let named = named(sets);
                let (came, given) = after.site_call([pc, third_party, ecid], &made, &named, &rules).unwrap();
                let Answer::Written(written) = &answer else { return Err("no answer".into()) };
                let answered = written.pc.as_ref().map(|id| id.as_str().to_owned());
                if answered != given.as_ref().map(|id| id.name.clone()) {
                    return Err(format!(
                        "{call:?} at {seq}: the model gives {given:?}, the answer {answered:?}"
                    ));
                }
                (first, named, came)
            }
            (Call::Update { kind, who, sets }, Answer::Written(_)) => {
                let (id, named) = (id(*kind, *who), named(sets));
                let came = after.update(&id, &named, &[], &rules);
                (id, named, came)
            }
            (Call::Remove { kind, who, attributes }, Answer::Written(_)) => {
                let id = id(*kind, *who);
                let came = after.update(&id, &[], &names(attributes), &rules);
                (id, vec![], came)
            }
            (Call::Erase { kind, who }, Answer::Erased(..)) => {
                let id = id(*kind, *who);
                let known = after.erase(&id, &rules);
                (id, vec![], model::Came { accepted: true, known, left_out: 0 })
            }
            (call, answer) => return Err(format!("{call:?} was answered with {answer:?}")),
        };

        let (Answer::Written(written) | Answer::Erased(written, _)) = answer else {
            return Err("no answer".into());
        };
        self.hear(|| format!("{call:?}: {written:?}"));
        let wrong = || format!("{call:?} at {seq}: the model says {came:?}, the answer is {written:?}");
        let given = written.seq.map(Seq::get);
        if given != came.accepted.then_some(seq) || written.known != came.known {
            return Err(wrong());
        }
        if !came.accepted {
            if matches!(call, Call::Site { .. }) {
                met(if self.has_pending_rows(client, &first) {
                    Met::VisitNotWrittenOverPending
                } else {
                    Met::VisitNotWritten
                });
            }
            return Ok(());
        }
        if written.left_out != came.left_out {
            return Err(wrong());
        }
        self.note_write(client, call, &first, &sets);
        let bound = self.visitors[client] != after
            && matches!(call, Call::Site { pc: Some(_), third_party: Some(_), .. });
        self.between(|between| (between.write, between.bind) = (true, between.bind || bound));
        self.accepted_seq = seq;
        self.visitors[client] = after;
        self.remember();
        Ok(())
    }

    fn accepted(&mut self, client: usize, batch: &Batch, rules: Rules, spool: u64) {
        let from = if batch.v2 { From::BatchV2 } else { From::BatchV1 };
        let batch_rules = model::BatchRules {
            rules: Rules { from, ..rules },
            creates: batch.v2 && self.settings.creates,
            replaces: batch.v2 && self.settings.replaces,
            removes: batch.removes,
            as_of_ms: batch.as_of_ms(self.clock.now().0),
        };
        self.crowded[client] |= batch.fillers > 0;
        let rows = rows_of(batch);
        let before = self.visitors[client].clone();
        let became = self.visitors[client].batch(&rows, &batch_rules);
        self.note_bundles(&before, &rows, &became);
        self.accepted_seq = rules.seq;
        self.remember();
        self.sent.push(Sent {
            client,
            seq: rules.seq,
            spool,
            batch: batch.clone(),
            rows,
            became,
            complete: false,
            overwritten: false,
            forgotten: false,
        });
    }

    /// Counts the situations in the bundles of a batch.
    fn note_bundles(&self, before: &Visitors, rows: &[model::Row], became: &[model::Outcome]) {
        let mut of: BTreeMap<&Id, Vec<(usize, model::Outcome)>> = BTreeMap::new();
        for (n, (row, became)) in rows.iter().zip(became).enumerate() {
            if let Some((id, cells)) = row
                && !cells.is_empty()
                && !matches!(became, model::Outcome::Ignored | model::Outcome::Newer)
            {
                of.entry(id).or_default().push((n, *became));
            }
        }
        of.retain(|_, rows| rows.len() >= BUNDLE_ROWS_MIN);
        for (id, rows) in &of {
            met(Met::Bundled);
            let any = |outcome| rows.iter().any(|(_, became)| *became == outcome);
            if any(model::Outcome::Failed) && any(model::Outcome::Updated) {
                met(Met::BundledSomeTooLarge);
            }
            if any(model::Outcome::Created) {
                met(Met::BundledCreation);
            }
            let theirs = before.ids_with(id);
            let (first, last) = (rows[0].0, rows[rows.len() - 1].0);
            let mixed = of.iter().any(|(other, others)| {
                other != id && theirs.contains(other) && first < others[0].0 && others[0].0 < last
            });
            if mixed {
                met(Met::BundlesMixed);
            }
        }
    }

    fn pending(&self, client: usize) -> impl Iterator<Item = &Sent> {
        let batches = &self.core().batches;
        let pending = |sent: &&Sent| !sent.complete || batches.is_again(Seq::from_u64(sent.seq));
        self.sent.iter().filter(move |sent| sent.client == client && pending(sent))
    }

    fn has_pending_rows(&self, client: usize, id: &Id) -> bool {
        let ids = self.visitors[client].ids_with(id);
        self.pending(client).any(|sent| sent.rows.iter().flatten().any(|(id, _)| ids.contains(id)))
    }

    /// Counts the situations that an accepted write met. The model is still as before the write.
    fn note_write(&self, client: usize, call: &Call, first: &Id, sets: &[(String, String)]) {
        let ids = self.visitors[client].ids_with(first);
        let site = matches!(call, Call::Site { .. });
        for sent in self.pending(client) {
            for (row, became) in sent.rows.iter().zip(&sent.became) {
                let Some((id, cells)) = row else { continue };
                let same = |name: &str| cells.iter().any(|(cell, value)| cell == name && !value.is_empty());
                if !ids.contains(id) {
                    continue;
                }
                match became {
                    model::Outcome::Updated | model::Outcome::Created
                        if sets.iter().any(|(name, value)| !value.is_empty() && same(name)) =>
                    {
                        met(Met::WriteBeatsPendingRow);
                    }
                    model::Outcome::NotFound if site => met(Met::BornAfterBatch),
                    _ => {}
                }
            }
        }
    }

    /// All pending rows whose outcome a write has resolved.
    fn resolved_rows(&self) -> BTreeSet<(u64, u32)> {
        let batches = &self.core().batches;
        let lines = |pending: &Arc<Pending>| {
            let seq = pending.accepted.id.seq.get();
            let rows = u32::try_from(pending.accepted.rows).unwrap();
            let resolved = |line: &u32| pending.resolved(*line).unwrap().is_some();
            (2..rows + 2).filter(resolved).map(|line| (seq, line)).collect::<Vec<_>>()
        };
        let lists = (0..CLIENTS.len()).map(|client| batches.pending(&client_code(client)));
        lists.flat_map(|list| list.iter().flat_map(lines).collect::<Vec<_>>()).collect()
    }

    fn crowd(&mut self, client: usize, who: usize) -> Result<(), Wrong> {
        self.crowded[client] = true;
        // With few requests in a group a run would take long. With all in one group it would miss the groups' borders.
        for from in (0..CROWD).step_by(100) {
            let mut requests: VecDeque<Ordered> = VecDeque::new();
            let fillers = (from..CROWD.min(from + 100)).map(|n| Id { kind: Kind::Pc, name: format!("f{n}") });
            let fillers: Vec<Id> = fillers.collect();
            let third_party = id(Kind::ThirdParty, who);
            for filler in &fillers {
                let ids = CallIds {
                    pc: Some(visitor_id(filler)),
                    third_party: Some(visitor_id(&third_party)),
                    ecid: None,
                    made: vec![],
                };
                let rules = WriteRules {
                    lifetime_ms: self.settings.lifetime_ms,
                    max_profile_bytes: self.settings.profile_bytes_max,
                    history_max: HISTORY_MAX,
                };
                let call =
                    SiteCall { client: client_code(client), ids, source: Source::Mbox, attributes: vec![] };
                requests.push_back(Request::Site(call, rules).into());
            }
            while !requests.is_empty() {
                let core = self.core.as_mut().unwrap();
                let committed = core.committer.commit(&mut requests);
                committed.map_err(|fatal| format!("fatal: {fatal}"))?;
            }
            for filler in &fillers {
                self.last_seq = model::next_seq(self.last_seq, self.clock.now().0);
                let rules = Rules {
                    seq: self.last_seq,
                    from: From::Mbox,
                    lifetime_ms: self.settings.lifetime_ms,
                    profile_bytes_max: self.settings.profile_bytes_max,
                };
                let ids = [Some(filler), Some(&third_party), None];
                let mut after = self.visitors[client].clone();
                // A second crowd may find the ids bound already. Then it is only a visit, which may be no write.
                if after.site_call(ids, &[], &[], &rules).unwrap().0.accepted {
                    self.accepted_seq = self.last_seq;
                    self.visitors[client] = after;
                }
            }
        }
        self.remember();
        Ok(())
    }

    fn undo(&mut self, client: usize, nth: usize) -> Result<(), Wrong> {
        let sent: Vec<&Sent> = self.sent.iter().filter(|sent| sent.client == client).collect();
        let Some(of) = sent.get(nth % sent.len().max(1)) else { return Ok(()) };
        let (batch, rows, of) = (of.batch.clone(), of.rows.clone(), of.seq);
        let rules = BatchRules {
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            undoes: Some(Seq::from_u64(of)),
            as_of: None,
            ..batch_rules(&batch, &self.settings, self.clock.now())
        };
        let now = self.clock.now();
        let upload = self.core().upload(client_code(client), rules, &file_of(&batch), None, now)?;
        let seq = model::next_seq(self.last_seq, now.0);
        let Answer::Accepted(known) = self.ask(Request::Accept(Box::new(upload)))? else {
            return Err("no answer to an undo".into());
        };
        if known.accepted.id.seq.get() != seq {
            return Err(format!("the undo has seq {}, not {seq}", known.accepted.id.seq));
        }
        self.hear(|| format!("undo {of}: {:?}", known.accepted.id));
        (self.last_seq, self.accepted_seq) = (seq, seq);
        let rules = Rules {
            seq,
            from: if batch.v2 { From::BatchV2 } else { From::BatchV1 },
            lifetime_ms: self.settings.lifetime_ms,
            profile_bytes_max: self.settings.profile_bytes_max,
        };
        let became = self.visitors[client].undo(&rows, of, batch.removes, &rules);
        self.remember();
        self.sent.push(Sent {
            client,
            seq,
            spool: known.accepted.spool,
            batch,
            rows,
            became,
            complete: false,
            overwritten: false,
            forgotten: false,
        });
        Ok(())
    }

    /// Remembers what all visitors are now.
    fn remember(&mut self) {
        self.past.push_back((self.accepted_seq, self.visitors.clone()));
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Wrong> {
        let committed = self.core.as_mut().unwrap().committer.commit(&mut VecDeque::from([request.into()]));
        let answer = committed.map_err(|fatal| format!("fatal: {fatal}"))?.pop().ok_or("no answer")?;
        answer.map_err(|error| format!("refused: {error}"))
    }

    // Ends and beginnings.

    fn restart(
        &mut self,
        how: How,
        fate: u64,
        hour_back: bool,
        settings: Option<&Settings>,
    ) -> Result<(), Wrong> {
        if how == How::Checkpointed {
            self.checkpoint()?;
        }
        self.waiting.clear();
        self.checkpointed_seq = Seq::ZERO;
        self.crash_tasks();
        if self.retired {
            met(Met::RestartAfterRetired);
        }
        let Core { swap, store, next, committer, batches, spool, order: _ } = self.core.take().unwrap();
        drop((committer, batches, spool, swap));
        let folder = self.store_folder();
        let adopted = self.generation == self.last_generation;
        let (store, other) = match next {
            Some(next) if adopted => (next, Some(store)),
            next => (store, next),
        };
        drop(other);
        let made = matches!(how, How::StoreLost | How::FromSnapshot);
        let (store, from) = if made {
            if self.sent.iter().any(|sent| sent.complete) {
                met(Met::StoreRebuiltUnderComplete);
            }
            let which = store.which();
            drop(store);
            self.last_generation += 1;
            self.generation = self.last_generation;
            let folder = self.store_folder();
            std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
            let store = Store::new(which, &folder);
            let from = self.made_from(how, fate, &store)?;
            (store, from)
        } else {
            let store = store.restarted(&folder, fate);
            let checkpoint = Store::checkpoint(&folder).ok_or("no checkpoint")?;
            (store, StartFrom::Checkpoint(checkpoint))
        };
        if let Some(settings) = settings.filter(|settings| **settings != self.settings) {
            if self.sent.iter().any(|sent| !sent.complete) {
                met(Met::SettingsChangedAtRestart);
            }
            let lifetime_ms = self.settings.lifetime_ms;
            self.settings = settings.clone();
            if self.swept {
                self.settings.lifetime_ms = self.settings.lifetime_ms.min(lifetime_ms);
            }
        }
        if hour_back && !self.swept {
            met(Met::ClockSteppedBack);
            self.clock.0.fetch_sub(HOUR_MS, Ordering::Relaxed);
        }
        let core = Core::try_start(self.folder.path(), store, from, &self.clock, LIMITS)?;
        if made {
            let mark = core.durable_mark()?;
            core.batches.save().map_err(|error| error.to_string())?;
            let path = self.store_folder().join("checkpoint");
            write_checkpoint(&path, &mark).map_err(|error| error.to_string())?;
        }
        // Only a seq that was taken for a request that was no write may be given out again.
        let last = core.committer.seqs.last().get();
        if !(self.accepted_seq..=self.last_seq).contains(&last) {
            return Err(format!("after the restart seqs go on after {last}, not {}", self.accepted_seq));
        }
        self.last_seq = last;
        for sent in self.sent.iter_mut().filter(|sent| !sent.forgotten) {
            let id = BatchId { client: client_code(sent.client), seq: Seq::from_u64(sent.seq) };
            let known = core.batches.get(&id).ok_or_else(|| format!("batch {id} is gone"))?;
            let complete = known.progress.completed().is_some();
            if sent.complete && !complete {
                return Err(format!("batch {id} was complete and is not any more"));
            }
            sent.complete = complete;
        }
        self.core = Some(core);
        if !self.resolved_rows().is_empty() {
            met(Met::OutcomeCarriedAcrossCrash);
        }
        Ok(())
    }

    /// Fills a store from the newest snapshot. If that is damaged, from the one before it; otherwise from nothing.
    fn made_from(&mut self, how: How, fate: u64, store: &Store) -> Result<StartFrom, Wrong> {
        if how == How::FromSnapshot && fate.is_multiple_of(4) && self.kept.len() > 1 {
            let (damaged, _) = self.kept.remove(0);
            self.snapshots.remove(damaged).map_err(|error| error.to_string())?;
            met(Met::OlderSnapshotUsed);
        }
        let journal_is_not_all = self.retired || self.sent.iter().any(|sent| sent.forgotten);
        let Some((number, checkpoint)) =
            self.kept.first().filter(|_| how == How::FromSnapshot || journal_is_not_all)
        else {
            met(Met::StoreRebuilt);
            return Ok(StartFrom::Nothing);
        };
        let incomplete = |sent: &&Sent| !checkpoint.held(Seq::from_u64(sent.seq));
        met(Met::MadeFromSnapshot);
        if self.sent.iter().filter(|sent| sent.complete).any(|sent| incomplete(&sent)) {
            met(Met::MadeFromSnapshotUnderComplete);
        }
        let path = self.snapshots.path_of(*number);
        fill(&*store.shared(), &path)?;
        Ok(StartFrom::Snapshot(checkpoint.clone()))
    }

    // Checks.

    /// Every visitor reads as in the model.
    fn check(&self, after: &str) -> Result<(), Wrong> {
        let core = self.core();
        let last = Seq::from_u64(core.committer.last_seq.load(profiled::sync::Ordering::Acquire));
        let now = self.clock.now().max(last.millis());
        let lifetime_ms = self.settings.lifetime_ms;
        for (client, visitors) in self.visitors.iter().enumerate() {
            for kind in [Kind::Pc, Kind::ThirdParty, Kind::Ecid] {
                let fillers = if self.crowded[client] { &["f0", "f1", "f255"][..] } else { &[] };
                for name in NAMES.iter().chain(fillers) {
                    let id = Id { kind, name: (*name).into() };
                    let differs = core.differs(visitors, (client, &id), now, lifetime_ms);
                    if let Some(differing) = differs.map_err(|wrong| format!("after {after}, {wrong}"))? {
                        let client = CLIENTS[client];
                        return Err(format!("after {after}, {client} {id} should read so: {differing}"));
                    }
                    // One of the times before, another after each step.
                    if let Some((at, past)) = self.past.get(self.groups % self.past.len().max(1)) {
                        let both = (visitors, &past[client]);
                        let when = (*at, now, lifetime_ms);
                        if let Some(wrong) = core.differs_at(both, (client, &id), when)? {
                            return Err(format!("after {after}, {} {wrong}", CLIENTS[client]));
                        }
                    }
                }
            }
        }
        for sent in self.sent.iter().filter(|sent| sent.complete && !sent.forgotten) {
            self.check_counts(sent)?;
        }
        Ok(())
    }

    /// All visitors as lookups show them, and how many are counted.
    fn all_shown(&self) -> Result<String, Wrong> {
        let core = self.core();
        let last = Seq::from_u64(core.committer.last_seq.load(profiled::sync::Ordering::Acquire));
        let now = self.clock.now().max(last.millis());
        let mut all = String::new();
        for client in (0..CLIENTS.len()).map(client_code) {
            for (kind, name) in [Kind::Pc, Kind::ThirdParty, Kind::Ecid]
                .into_iter()
                .flat_map(|kind| NAMES.into_iter().map(move |name| (kind, name)))
            {
                let id = visitor_id(&Id { kind, name: name.into() });
                let seen =
                    look_up(&*core.shared(), &core.batches, &client, &id, now, self.settings.lifetime_ms);
                let seen = seen.map_err(|error| format!("{id:?} cannot be read: {error}"))?;
                all = format!("{all}{client} {id:?}: {seen:?}\n");
            }
            let walk = Walk {
                store: &*core.shared(),
                batches: &core.batches,
                client: &client,
                lifetime_ms: self.settings.lifetime_ms,
                now: &|| now,
                go_on: &|| Ok(true),
                reported: &|error| EngineError::Refused(error.to_string()),
            };
            let count = walk.count().map_err(|error| format!("{client} cannot be counted: {error}"))?;
            all = format!("{all}{client} has {count}\n");
        }
        Ok(all)
    }

    /// The state, the counts and the rows' outcomes of all batches.
    fn all_became(&self) -> Result<String, Wrong> {
        let mut all = String::new();
        for sent in &self.sent {
            let id = BatchId { client: client_code(sent.client), seq: Seq::from_u64(sent.seq) };
            let known = self.core().batches.get(&id).ok_or("a batch is gone")?;
            let complete = known.progress.completed().is_some();
            let rows = read_outcomes(&self.core().spool.outcomes_path(sent.spool));
            let rows = rows.map_err(|error| error.to_string())?;
            all = format!("{all}{id:?}: complete {complete}, {:?}, {rows:?}\n", known.progress.counts());
        }
        Ok(all)
    }

    fn check_counts(&self, sent: &Sent) -> Result<(), Wrong> {
        let id = BatchId { client: client_code(sent.client), seq: Seq::from_u64(sent.seq) };
        let known = self.core().batches.get(&id).ok_or("a batch is gone")?;
        let mut expected = Counts::default();
        sent.became.iter().for_each(|became| expected.add(outcome(*became)));
        let counts = known.progress.counts();
        if counts != expected {
            return Err(format!("batch {id}: counts should be {expected:?} but are {counts:?}"));
        }
        Ok(())
    }

    /// The attributes of a visitor, as `a=1 b=22`; `None` if the visitor is unknown.
    pub(crate) fn reads(&self, client: usize, id: &Id) -> Option<String> {
        let (_, profile) =
            self.visitors[client].look_up(id, self.clock.now().0, self.settings.lifetime_ms)?;
        let one = |(name, value): (&String, &model::Value)| format!("{name}={}", value.text);
        Some(profile.visible().iter().map(one).collect::<Vec<_>>().join(" "))
    }

    /// What became of the rows of the n-th batch.
    pub(crate) fn became(&self, batch: usize) -> &[model::Outcome] {
        &self.sent[batch].became
    }
}
