//! The daemon of the scenarios: the real committer, plan, lookups and steps of upkeep, with a journal, a spool, snapshots
//! and checkpoints in a folder; without sockets, and without the threads, which each scenario has as it needs them.

use super::lives::{Seen, show};
use super::store::VolatileStore;
use profiled::batch::apply::Plan;
use profiled::batch::csv::Parser;
use profiled::batch::index::IndexBuilder;
use profiled::batch::queue::Batches;
use profiled::batch::spool::Spool;
use profiled::engine::BatchSending;
use profiled::engine::commit::taking::Group;
use profiled::engine::commit::{Answer, Committer, NewBatch, Request, VisitorWrite, WriteRules};
use profiled::engine::driver::apply::{self, ApplyLoop, Unapplied, completion};
use profiled::engine::driver::checkpoint::CheckpointTask;
use profiled::engine::driver::fresh::FreshTask;
use profiled::engine::driver::snapshot::SnapshotTask;
use profiled::engine::driver::task::{Action, Event, Machine};
use profiled::engine::driver::writer::Parts;
use profiled::engine::ingest::in_hand::{BatchInHand, Employer, Written, write};
use profiled::engine::open::recovery::{StartFrom, read_checkpoint, recover, write_checkpoint};
use profiled::engine::upkeep::steps::{Desk, InHand, InUse, Keeper, Tombstones, run};
use profiled::engine::upkeep::sweep::{Horizon, step as sweep};
use profiled::engine::{CallIds, EngineError, SiteCall, Visitor, look_up};
use profiled::journal::entry::Checkpoint;
use profiled::journal::log::LogSettings;
use profiled::journal::snapshot::{SnapshotReader, Snapshots};
use profiled::model::author::Author;
use profiled::model::batch::{BatchId, BatchRules, ConsecutiveV2, Counts, EmptyValues, Outcome, RowReading};
use profiled::model::id::{ClientCode, IdKind, Key, VisitorId};
use profiled::model::profile::{Source, StoredBytes};
use profiled::model::seq::{Clock, Millis, Seq};
use profiled::store::swap::SwapStore;
use profiled::store::{ProfileStore, Reach, put_if_newer};
use shuttle::rand::Rng;
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread::{self, JoinHandle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When every scenario begins, and how long a profile lives.
const BEGIN: Millis = Millis(1_000_000);
const LIFETIME_MS: u64 = 500_000;
/// When a profile from the beginning has expired.
pub(crate) const LATER: Millis = Millis(BEGIN.0 + LIFETIME_MS);
/// More than any profile here holds.
const AMPLE_BYTES: usize = 1 << 20;
const SPOOL_BYTES_MAX: u64 = 1 << 30;
const LOG: LogSettings = LogSettings { segment_bytes: 1 << 14 };
/// How many values a snapshot or a copy reads at a time: few, so that everything else comes in between.
const PAGE_VALUES: usize = 1;
/// The sweeper looks at more: it may overtake them.
const SWEEP_VALUES: usize = 8;
/// How many turns a power cut may let pass.
const TURNS_UNTIL_CUT_MAX: usize = 60;

type Asked = (Request, Sender<Answer>);

/// The daemon, as one thread holds it.
#[derive(Clone)]
pub(crate) struct Daemon {
    folder: PathBuf,
    store: Arc<SwapStore>,
    generation: Arc<profiled::sync::Mutex<Generation>>,
    tombstones: Arc<Tombstones>,
    /// What a restart finds.
    current: Arc<Mutex<Generation>>,
    snapshots: Arc<Snapshots>,
    batches: Arc<Batches>,
    spool: Arc<Spool>,
    pub(crate) clock: Arc<SetClock>,
    requests: Sender<Asked>,
    /// The highest number of a write that was answered.
    answered: Arc<AtomicU64>,
    completed: Arc<Mutex<Vec<AppliedBatch>>>,
    commit_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A store and where the checkpoint is that speaks of it.
#[derive(Debug, Clone)]
pub(crate) struct Generation {
    store: Arc<VolatileStore>,
    checkpoint: PathBuf,
}

impl Generation {
    fn new(folder: &Path, store: VolatileStore) -> Self {
        let number = (0..).find(|n| !folder.join(format!("store{n}")).exists()).unwrap();
        let path = folder.join(format!("store{number}"));
        std::fs::create_dir_all(&path).unwrap();
        Self { store: Arc::new(store), checkpoint: path.join("checkpoint") }
    }
}

/// The data that is left after a power cut, and the writes that had been answered by then.
pub(crate) struct Cut {
    folder: PathBuf,
    store: VolatileStore,
    checkpoint: Checkpoint,
    answered: u64,
    now: Millis,
}

#[derive(Debug)]
pub(crate) struct SetClock(pub(crate) AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// The number of a write in a scenario: its place among the accepted writes, from 1 on, and from 101 on after the clock was set to
/// [`LATER`].
pub(crate) fn number(seq: Seq) -> u64 {
    seq.counter() + if seq.millis() < LATER { 0 } else { 101 }
}

fn client() -> ClientCode {
    ClientCode::new("demo").unwrap()
}

/// An id by its first letter: `p1` is a pcId, `e1` an ECID, any other a thirdPartyId.
fn id(text: &str) -> VisitorId {
    let kind = match text.chars().next() {
        Some('p') => IdKind::Pc,
        Some('e') => IdKind::Ecid,
        _ => IdKind::ThirdParty,
    };
    VisitorId::new(kind, text).unwrap()
}

/// Reads `city=Paris tier=gold`.
pub(crate) fn cells(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace().map(|cell| cell.split_once('=').unwrap())
}

fn owned(text: &str) -> Vec<(String, String)> {
    cells(text).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A v2 batch that skips unknown visitors.
pub(crate) fn skips() -> BatchRules {
    BatchRules {
        seq: Seq::ZERO,
        source: Source::BatchV2,
        creates: false,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: LIFETIME_MS,
        max_profile_bytes: AMPLE_BYTES,
        reading: RowReading::default(),
        history_max: 16,
        as_of: None,
        undoes: None,
    }
}

/// A v2 batch that creates them.
pub(crate) fn creates() -> BatchRules {
    BatchRules { creates: true, ..skips() }
}

impl Daemon {
    /// An empty daemon with its commit thread.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::open(folder, VolatileStore::default(), StartFrom::Nothing, BEGIN)
    }

    /// A daemon on what a folder holds, with this store.
    fn open(folder: &Path, store: VolatileStore, from: StartFrom, now: Millis) -> Self {
        let generation = Generation::new(folder, store);
        let recovered = recover(folder, &*generation.store, from, LOG, SPOOL_BYTES_MAX).unwrap();
        let store = Arc::new(SwapStore::new(Arc::clone(&generation.store) as _, recovered.reach));
        let clock = Arc::new(SetClock(AtomicU64::new(now.0)));
        let committer = Committer::new(
            recovered.log,
            Arc::clone(&store) as _,
            Arc::clone(&recovered.batches),
            recovered.last_seq.max(Seq::from_parts(BEGIN, 0)),
            Arc::clone(&clock) as _,
        );
        let mark = Checkpoint { store_reach: store.make_durable().unwrap().0, ..committer.mark() };
        recovered.batches.save().unwrap();
        write_checkpoint(&generation.checkpoint, &mark).unwrap();
        let (requests, asked) = channel();
        let answered = Arc::new(AtomicU64::new(number(committer.seqs.last())));
        let answering = Arc::clone(&answered);
        let commit_thread = thread::spawn(move || commit_thread(committer, &asked, &answering));
        Self {
            folder: folder.to_owned(),
            store,
            generation: Arc::new(profiled::sync::Mutex::new(generation.clone())),
            tombstones: Arc::default(),
            current: Arc::new(Mutex::new(generation)),
            snapshots: Arc::new(Snapshots::open(&folder.join("snapshots")).unwrap()),
            batches: recovered.batches,
            spool: recovered.spool,
            clock,
            requests,
            answered,
            completed: Arc::default(),
            commit_thread: Arc::new(Mutex::new(Some(commit_thread))),
        }
    }

    /// Stops it, and gives the batches that it completed.
    fn stop(self) -> Vec<AppliedBatch> {
        let commit_thread = self.commit_thread.lock().unwrap().take().unwrap();
        // The commit thread ends when nobody can send it requests.
        drop(self.requests);
        commit_thread.join().unwrap();
        std::mem::take(&mut self.completed.lock().unwrap())
    }

    /// The same daemon, if it had no request yet; otherwise another one on its folder, with the store lost and rebuilt.
    pub(crate) fn rebuilt(self) -> Self {
        if self.answered.load(Ordering::Relaxed) == 0 {
            return self;
        }
        let (folder, now) = (self.folder.clone(), self.clock.now());
        self.stop();
        Self::open(&folder, VolatileStore::default(), StartFrom::Nothing, now)
    }

    /// Stops it. Then checks that every possible start shows the same visitors, before and after pending rows are applied, and
    /// gives every row the same outcome.
    pub(crate) fn stop_and_begin_again(self) {
        let stored = self.store.scan(None, usize::MAX).unwrap();
        let id = |(key, _): &(Key, _)| VisitorId::new(key.kind(), key.id()).unwrap();
        let visitors: Vec<VisitorId> = stored.iter().map(id).collect();
        let live = self.show_all(&visitors);
        let (now, folder) = (self.clock.now(), self.folder.clone());
        let Generation { store, checkpoint } = self.current.lock().unwrap().clone();
        let completed = self.stop();
        let checkpoint = read_checkpoint(&checkpoint).unwrap().unwrap();
        begin_again(&folder, store.after_power_cut(), checkpoint, now, |again, from| {
            assert_eq!(again.show_all(&visitors), live, "begun again from {from}");
            again.apply_all();
            assert_eq!(again.show_all(&visitors), live, "begun again from {from}, after applying");
            for applied in &completed {
                let known = again.batches.get(&applied.id).unwrap();
                assert_eq!(known.progress.counts(), applied.counts, "begun again from {from}");
            }
            for applied in again.completed.lock().unwrap().iter() {
                let same = |before: &AppliedBatch| before.came_to(applied);
                assert!(completed.iter().any(same), "begun again from {from}: {applied:?} of {completed:?}");
            }
        });
    }

    fn show_all(&self, visitors: &[VisitorId]) -> Vec<String> {
        visitors.iter().map(|id| show(self.look_up(id).as_ref())).collect()
    }

    fn apply_all(&self) {
        while self.batches.pending_batches() > 0 {
            self.apply(1);
        }
    }

    /// The power fails, some time or other from now on.
    pub(crate) fn cut_sometime(&self) -> Cut {
        for _ in 0..shuttle::rand::thread_rng().gen_range(0..TURNS_UNTIL_CUT_MAX) {
            turn();
        }
        self.cut()
    }

    /// The power fails: the data that would be left is put aside, and the scenario goes on. No other thread runs meanwhile.
    pub(crate) fn cut(&self) -> Cut {
        let folder = self.folder.with_extension("cut");
        for below in ["journal", "spool", "snapshots"] {
            let (from, to) = (self.folder.join(below), folder.join(below));
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(from).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        std::fs::copy(
            self.folder.join(profiled::layout::CATALOGUE),
            folder.join(profiled::layout::CATALOGUE),
        )
        .unwrap();
        let Generation { store, checkpoint } = self.current.lock().unwrap().clone();
        let checkpoint = read_checkpoint(&checkpoint).unwrap().unwrap();
        let answered = self.answered.load(Ordering::Relaxed);
        Cut { folder, store: store.after_power_cut(), checkpoint, answered, now: self.clock.now() }
    }

    /// Runs something on a thread of its own.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let daemon = self.clone();
        thread::spawn(move || what(&daemon))
    }

    pub(crate) fn send(&self, request: Request) -> Receiver<Answer> {
        let (reply, answer) = channel();
        self.requests.send((request, reply)).unwrap();
        answer
    }

    pub(crate) fn ask(&self, request: Request) -> Answer {
        self.send(request).recv().unwrap()
    }

    /// A site call with these ids; gives its number.
    pub(crate) fn site(&self, ids: &str, sets: &str) -> u64 {
        number_of(&self.ask(site_call(ids, sets)))
    }

    /// A single update.
    pub(crate) fn set(&self, visitor: &str, sets: &str) -> u64 {
        number_of(&self.ask(visitor_write(visitor, VisitorWrite::Set(owned(sets)))))
    }

    pub(crate) fn erase(&self, visitor: &str) -> u64 {
        number_of(&self.ask(visitor_write(visitor, VisitorWrite::Erase)))
    }

    /// Takes a batch file in; gives the batch's number.
    pub(crate) fn batch(&self, rules: BatchRules, file: &str) -> u64 {
        number_of(&self.ask(self.upload(rules, file)))
    }

    /// Does an upload up to the request to accept the batch.
    pub(crate) fn upload(&self, rules: BatchRules, file: &str) -> Request {
        let mut spool = self.spool.begin(self.clock.now()).unwrap();
        let (mut parser, mut index, mut rows) = (Parser::default(), IndexBuilder::bundling_from(2), 0);
        let mut each = |row: profiled::batch::csv::Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        parser.push(file.as_bytes(), &mut each).unwrap();
        let header = parser.finish(&mut each).unwrap().clone();
        spool.write(file.as_bytes()).unwrap();
        spool.sync().unwrap();
        let index =
            index.finish(&self.spool.index_path(spool.name()), &spool.path(), &header, &rules).unwrap();
        let (key, lacking) = (None, None);
        Request::Accept(Box::new(NewBatch {
            client: client(),
            rules,
            header,
            rows,
            spool,
            index,
            sending: BatchSending { key, ..BatchSending::default() },
            lacking,
        }))
    }

    /// Applies the batch whose turn it is, as the apply thread does.
    pub(crate) fn apply(&self, writers: usize) -> AppliedBatch {
        let rows = self.apply_rows(writers);
        self.complete(rows)
    }

    /// The same up to the last step: the store is durable, and the batch still counts as incomplete.
    pub(crate) fn apply_rows(&self, writers: usize) -> AppliedRows {
        let mut apply = ApplyLoop::default();
        let mut wants = |event| apply.step(event, Duration::ZERO);
        assert_eq!(wants(apply::Event::Done), apply::Action::FindTurn);
        let mut batch = BatchInHand::new(self.batches.next().unwrap());
        assert_eq!(wants(batch.turn()), apply::Action::GetReady);
        assert_eq!(wants(apply::Event::Done), apply::Action::Plan);
        let plan = Plan::make(&batch.pending, &*self.store, 0).unwrap();
        let (mut shares, mut event) = (self.write_shares(&plan, writers), batch.planned(&plan, writers));
        loop {
            event = match wants(event) {
                apply::Action::ApplyShares => batch.applied(shares.pop().unwrap()),
                apply::Action::WriteOutcomes => batch.write_outcomes(&self.spool).unwrap(),
                apply::Action::MakeDurable => apply::Event::Durable(self.store.make_durable().unwrap()),
                apply::Action::CheckHeld => batch.check_held().unwrap(),
                apply::Action::Complete(counts, reach) => {
                    let id = batch.pending.accepted.id.clone();
                    let outcomes = batch.outcomes.into_iter().map(|row| (row.line, row.outcome)).collect();
                    let applied = AppliedBatch { batch: number(id.seq), id, counts, outcomes, reach };
                    return AppliedRows { apply, applied };
                }
                other => panic!("the apply loop wants {other:?}"),
            };
        }
    }

    /// The last step.
    pub(crate) fn complete(&self, AppliedRows { mut apply, applied }: AppliedRows) -> AppliedBatch {
        let (id, now) = (&applied.id, self.clock.now());
        self.ask(completion(&self.batches, id, applied.counts, applied.reach, now).0);
        let wants = apply.step(apply::Event::Done, Duration::ZERO);
        assert_eq!(wants, apply::Action::Report(applied.counts));
        self.completed.lock().unwrap().push(applied.clone());
        applied
    }

    fn write_shares(&self, plan: &Plan, writers: usize) -> Vec<Written> {
        let parts = &profiled::sync::Mutex::new(Parts::of_rows(plan.rows(), writers));
        thread::scope(|scope| {
            let share = |number| {
                let daemon = self.clone();
                scope.spawn(move || write(plan, parts, number % 2 == 1, &*daemon.store, &daemon).unwrap())
            };
            let threads: Vec<_> = (0..writers).map(share).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Looks each of these visitors up, so many times over.
    pub(crate) fn watch(&self, ids: &'static [&'static str], times: usize) -> Vec<Seen> {
        let one = |id| self.look(id);
        (0..times).flat_map(|_| ids.iter().copied().map(one)).collect()
    }

    pub(crate) fn look_up(&self, id: &VisitorId) -> Option<Visitor> {
        look_up(&*self.store, &self.batches, &client(), id, self.clock.now(), LIFETIME_MS).unwrap()
    }

    pub(crate) fn look(&self, visitor: &'static str) -> Seen {
        let answered = self.answered.load(Ordering::Relaxed);
        let found = self.look_up(&id(visitor));
        let last = found.as_ref().map_or(Seq::ZERO, |visitor| visitor.seq);
        Seen { visitor, answered, shown: show(found.as_ref()), last }
    }

    // Maintenance tasks.

    pub(crate) fn checkpoint(&self) {
        self.run(&mut CheckpointTask::default());
    }

    pub(crate) fn snapshot(&self) {
        self.run(&mut SnapshotTask::default());
    }

    /// Makes a fresh store, and swaps it in.
    pub(crate) fn fresh(&self) {
        self.run(&mut FreshTask::default());
    }

    fn run(&self, task: &mut dyn Machine) {
        let mut desk = Desk::new(self, PAGE_VALUES);
        let carry_out = |action, hand: &mut InHand| self.carry_out(action, hand, &mut desk);
        run(task, &mut InHand::default(), carry_out).unwrap();
    }

    fn carry_out(
        &self,
        action: Action,
        hand: &mut InHand,
        desk: &mut Desk<'_, Self>,
    ) -> Result<Event, EngineError> {
        match action {
            Action::BeginSnapshot(mark) => hand.begin_snapshot(&self.snapshots, &mark).unwrap(),
            Action::WaitForPending | Action::Overwrite | Action::NoteErasing => {}
            Action::BeginFresh => {
                let next = desk.next.insert(Generation::new(&self.folder, VolatileStore::default()));
                self.store.begin(Arc::clone(&next.store) as _);
            }
            Action::Adopt => {
                turn();
                self.current.lock().unwrap().clone_from(desk.next()?);
            }
            Action::RemoveFormer => hand.former = None,
            other => return desk.carry_out(other, hand),
        }
        Ok(Event::Done)
    }

    /// Sweeps the whole store once.
    pub(crate) fn sweep(&self) {
        let mut after = None;
        loop {
            let one = |covered| sweep(&*self.store, &self.horizon(covered), after.as_ref(), SWEEP_VALUES);
            let swept = self.tombstones.take(one).unwrap();
            swept.requests.into_iter().for_each(|request| drop(self.ask(request)));
            let Some(next) = swept.next else { return };
            after = Some(next);
        }
    }

    fn horizon(&self, checkpoint: Seq) -> Horizon<'_> {
        let lifetime_ms = &|_: &ClientCode| Some(LIFETIME_MS);
        Horizon { now: self.clock.now(), checkpoint, batches: &self.batches, lifetime_ms }
    }
}

impl Keeper for Daemon {
    type Place = Generation;

    fn in_use(&self) -> InUse<'_, Generation> {
        InUse { store: &self.store, place: &self.generation, tombstones: &self.tombstones }
    }

    fn with_horizon<R>(&self, covered: Seq, with: impl FnOnce(Horizon<'_>) -> R) -> R {
        with(self.horizon(covered))
    }

    fn mark(&self) -> Result<Checkpoint, EngineError> {
        match self.ask(Request::Mark) {
            Answer::Marked(mark) => {
                self.batches.save().unwrap();
                Ok(mark)
            }
            other => panic!("a mark was answered with {other:?}"),
        }
    }

    fn go_on(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn note(&self, generation: &Generation, mark: &Checkpoint) -> std::io::Result<()> {
        turn();
        write_checkpoint(&generation.checkpoint, mark)
    }

    fn distrust(&self, _: &Generation, why: String) -> EngineError {
        panic!("no store fails here: {why}")
    }

    fn give_up(&self, why: String) -> EngineError {
        panic!("{why}")
    }
}

impl Employer for Daemon {
    fn wait_for_turn(&self, _: Duration) -> Result<(), Unapplied> {
        Ok(())
    }

    fn applied(&self, _: &Counts) {}

    fn resolve(&self, keys: Vec<Key>) -> Result<(), Unapplied> {
        self.ask(Request::Resolve(client(), keys));
        Ok(())
    }
}

impl Cut {
    /// What these visitors show after each possible start.
    pub(crate) fn shows(self, visitors: &[&'static str]) -> Vec<Seen> {
        let mut seen = vec![];
        begin_again(&self.folder, self.store, self.checkpoint, self.now, |again, from| {
            let looked = || visitors.iter().map(|id| again.look(id)).collect::<Vec<_>>();
            let mut before: Vec<Seen> = looked();
            again.apply_all();
            let shown = |seen: &[Seen]| seen.iter().map(|seen| seen.shown.clone()).collect::<Vec<_>>();
            assert_eq!(shown(&looked()), shown(&before), "after a power cut, begun again from {from}");
            before.iter_mut().for_each(|seen| seen.answered = self.answered);
            seen.push(before);
        });
        seen.into_iter().flatten().collect()
    }
}

/// Starts again on a folder in every possible way: from the store as it was left, from each snapshot, and from nothing.
fn begin_again(
    folder: &Path,
    store: VolatileStore,
    checkpoint: Checkpoint,
    now: Millis,
    look: impl FnMut(&Daemon, &str),
) {
    let mut look = look;
    let mut begin = |store, start, from: &str| {
        let again = Daemon::open(folder, store, start, now);
        look(&again, from);
        again.stop();
    };
    begin(store, StartFrom::Checkpoint(checkpoint), "the last checkpoint");
    for (path, number) in Snapshots::open(&folder.join("snapshots")).unwrap().list().unwrap() {
        let store = VolatileStore::default();
        let mut reader = SnapshotReader::open(&path).unwrap();
        while let Some((key, value)) = reader.next_pair().unwrap() {
            put_if_newer(&store, &Key::from_bytes(key).unwrap(), None, &StoredBytes::new(value)).unwrap();
        }
        let start = StartFrom::Snapshot(reader.checkpoint().clone());
        begin(store, start, &format!("snapshot {number}"));
    }
    begin(VolatileStore::default(), StartFrom::Nothing, "nothing");
}

/// A moment at which another thread may be given the processor.
fn turn() {
    drop(profiled::sync::lock(&profiled::sync::Mutex::new(())));
}

/// As the daemon's: takes what is waiting as one group.
fn commit_thread(mut committer: Committer, asked: &Receiver<Asked>, answered: &AtomicU64) {
    while let Ok(first) = asked.recv() {
        let mut group = Group::of(std::iter::once(first).chain(asked.try_iter()));
        while !group.is_empty() {
            let answers = group.commit(|requests| committer.commit(requests)).unwrap();
            answered.fetch_max(number(committer.seqs.last()), Ordering::Relaxed);
            for (reply, answer) in answers {
                reply.send(answer.unwrap()).unwrap();
            }
        }
    }
}

pub(crate) fn site_call(ids: &str, sets: &str) -> Request {
    let ids: Vec<VisitorId> = ids.split_whitespace().map(id).collect();
    let of = |kind| ids.iter().find(|id| id.kind() == kind).cloned();
    let ids = CallIds {
        pc: of(IdKind::Pc),
        third_party: of(IdKind::ThirdParty),
        ecid: of(IdKind::Ecid),
        made: vec![],
    };
    let call = SiteCall { client: client(), ids, source: Source::Mbox, attributes: owned(sets) };
    Request::Site(call, WRITE_RULES)
}

fn visitor_write(visitor: &str, write: VisitorWrite) -> Request {
    Request::Visitor(client(), id(visitor), write, Author::default(), WRITE_RULES)
}

const WRITE_RULES: WriteRules =
    WriteRules { lifetime_ms: LIFETIME_MS, max_profile_bytes: AMPLE_BYTES, history_max: 16 };

pub(crate) fn number_of(answer: &Answer) -> u64 {
    match answer {
        Answer::Written(written) | Answer::Erased(written, _) => number(written.seq.unwrap()),
        Answer::Accepted(known) => number(known.accepted.id.seq),
        other => panic!("not a write: {other:?}"),
    }
}

/// A batch whose rows are all in the durable store, before it is complete.
pub(crate) struct AppliedRows {
    apply: ApplyLoop,
    applied: AppliedBatch,
}

/// A batch that is complete, with its rows that are not `updated`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppliedBatch {
    id: BatchId,
    /// Its number in the scenario.
    batch: u64,
    counts: Counts,
    outcomes: BTreeMap<u32, Outcome>,
    /// The reach of the store that had all of it then.
    reach: Reach,
}

impl AppliedBatch {
    /// Whether the same batch has the same result, in any store.
    fn came_to(&self, other: &Self) -> bool {
        (self.batch, &self.counts, &self.outcomes) == (other.batch, &other.counts, &other.outcomes)
    }
}

impl AppliedBatch {
    /// Checks the outcome of each row: `2 not_found, 5 failed`, and all others updated.
    pub(crate) fn check(&self, batch: u64, expected: &str) {
        let became = self.outcomes.iter().map(|(line, outcome)| format!("{line} {}", outcome.name()));
        let became: Vec<String> = became.collect();
        assert_eq!((self.batch, became.join(", ").as_str()), (batch, expected));
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Updated) {
            let lines = self.outcomes.values().filter(|became| **became == outcome).count() as u64;
            assert_eq!(self.counts.of(outcome), lines, "{outcome:?}, batch {batch}");
        }
    }
}
