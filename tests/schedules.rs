//! The races of DESIGN.md §3 (publish, settle, drop, swap onto a link), run under a schedule explorer. Owns nothing of
//! the daemon: the real [`Committer`], [`Plan`] and [`look_up`] run on the store in memory, with a journal and a spool in
//! a folder of their own, on threads whose every step shuttle decides.
//!
//! Promises, for every schedule tried: each lookup shows what the accepted writes, one after the other in the order of
//! their seqs, make of the visitor up to some write, never less than what had been answered before the lookup
//! began, and never less than an earlier lookup of the same thread; every row's outcome is that of its batch's place in
//! the order, and the counts add up; and a store made again from the journal shows the same.
//!
//! A failure prints the schedule; `shuttle::replay` takes it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![expect(clippy::panic, reason = "so should a daemon in a test")]

use profiled::app::commit::{Answer, Committer, NewBatch, Request, VisitorWrite, WriteRules};
use profiled::app::recovery::{StartFrom, recover};
use profiled::app::{CallIds, SiteCall, Visitor, look_up};
use profiled::batch::csv::Parser;
use profiled::batch::fold::{Part, Plan, Step};
use profiled::batch::outcome::write_outcomes;
use profiled::batch::pending::IndexBuilder;
use profiled::batch::queue::Batches;
use profiled::batch::spool::Spool;
use profiled::journal::log::LogSettings;
use profiled::model::batch::{BatchRules, ConsecutiveV2, Counts, EmptyValues, Outcome};
use profiled::model::id::{ClientCode, IdKind, Key, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::{Clock, Millis, Seq};
use profiled::store::ProfileStore;
use profiled::store::memory::MemoryStore;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread::{self, JoinHandle};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How many schedules of each kind every scenario is run under.
const RANDOM_SCHEDULES: usize = 2000;
const PCT_SCHEDULES: usize = 2000;
/// How often PCT takes the processor away from the thread that has it.
const PCT_DEPTH: usize = 4;
/// Room for the parser's and the index's buffers in a build without optimisation.
const STACK_BYTES: usize = 1 << 18;

/// When every scenario begins, and how long a profile lives.
const BEGIN: Millis = Millis(1_000_000);
const LIFETIME_MS: u64 = 500_000;
/// When a profile from the beginning has expired.
const LATER: Millis = Millis(BEGIN.0 + LIFETIME_MS);
/// More than any profile here holds.
const AMPLE_BYTES: usize = 1 << 20;
const SPOOL_BYTES_MAX: u64 = 1 << 30;
const LOG: LogSettings = LogSettings { segment_bytes: 1 << 14 };

/// Runs a scenario under many schedules.
fn explore(scenario: impl Fn(&Daemon) + Send + Sync + 'static) {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let base = tempfile::Builder::new().prefix("profiled-schedules-").tempdir_in(base).unwrap();
    let scenario = Arc::new(scenario);
    let run = |kind: &str, scheduler: Box<dyn Scheduler + Send>| {
        let (base, scenario, executions) = (base.path().join(kind), Arc::clone(&scenario), AtomicU64::new(0));
        let mut config = shuttle::Config::new();
        config.stack_size = STACK_BYTES;
        shuttle::Runner::new(scheduler, config).run(move || {
            let folder = base.join(executions.fetch_add(1, Ordering::Relaxed).to_string());
            let (daemon, commit_thread) = Daemon::start(&folder);
            scenario(&daemon);
            daemon.stop_and_begin_again(commit_thread);
            std::fs::remove_dir_all(folder).unwrap();
        });
    };
    run("random", Box::new(RandomScheduler::new(RANDOM_SCHEDULES)));
    run("pct", Box::new(PctScheduler::new(PCT_DEPTH, PCT_SCHEDULES)));
}

type Asked = (Request, Sender<Answer>);

/// The daemon without its sockets, as one thread holds it.
#[derive(Clone)]
struct Daemon {
    folder: PathBuf,
    store: Arc<MemoryStore>,
    batches: Arc<Batches>,
    spool: Arc<Spool>,
    clock: Arc<SetClock>,
    requests: Sender<Asked>,
    /// The highest number of a write that was answered.
    answered: Arc<AtomicU64>,
    completed: Arc<Mutex<Vec<FoldedBatch>>>,
}

#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// What a scenario calls a write by: its place among the accepted writes, from 1 on; from 101 on for those after
/// the clock was set to [`LATER`].
fn number(seq: Seq) -> u64 {
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
fn cells(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace().map(|cell| cell.split_once('=').unwrap())
}

fn owned(text: &str) -> Vec<(String, String)> {
    cells(text).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A v2 batch that skips unknown visitors.
fn skips() -> BatchRules {
    BatchRules {
        seq: Seq::ZERO,
        source: Source::BatchV2,
        creates: false,
        consecutive_v2: ConsecutiveV2::Merge,
        empty_values: EmptyValues::Ignore,
        lifetime_ms: LIFETIME_MS,
        max_profile_bytes: AMPLE_BYTES,
    }
}

/// A v2 batch that creates them.
fn creates() -> BatchRules {
    BatchRules { creates: true, ..skips() }
}

impl Daemon {
    /// An empty daemon with its commit thread.
    fn start(folder: &Path) -> (Self, JoinHandle<()>) {
        let store = Arc::new(MemoryStore::default());
        let recovered = recover(folder, &*store, StartFrom::Nothing, LOG, SPOOL_BYTES_MAX).unwrap();
        let (requests, asked) = channel();
        let daemon = Self {
            folder: folder.to_owned(),
            store,
            batches: recovered.batches,
            spool: recovered.spool,
            clock: Arc::new(SetClock(AtomicU64::new(BEGIN.0))),
            requests,
            answered: Arc::default(),
            completed: Arc::default(),
        };
        let committer = Committer::new(
            recovered.log,
            Arc::clone(&daemon.store) as Arc<dyn ProfileStore>,
            Arc::clone(&daemon.batches),
            Seq::from_parts(BEGIN, 0),
            Arc::clone(&daemon.clock) as Arc<dyn Clock>,
        );
        let answered = Arc::clone(&daemon.answered);
        (daemon, thread::spawn(move || commit_thread(committer, &asked, &answered)))
    }

    /// Stops it, and gives the batches that it completed.
    fn stop(self, commit_thread: JoinHandle<()>) -> Vec<FoldedBatch> {
        // The commit thread ends when nobody is left to ask it.
        drop(self.requests);
        commit_thread.join().unwrap();
        std::mem::take(&mut self.completed.lock().unwrap())
    }

    /// Stops it, and checks that a store made again from the journal shows the same of every visitor, before and after
    /// the batches are folded into it again, and that the same becomes of every row.
    fn stop_and_begin_again(self, commit_thread: JoinHandle<()>) {
        let stored = self.store.scan(None, usize::MAX).unwrap();
        let id = |(key, _): &(Key, _)| VisitorId::new(key.kind(), key.id()).unwrap();
        let visitors: Vec<VisitorId> = stored.iter().map(id).collect();
        let all = |daemon: &Self| visitors.iter().map(|id| daemon.look_up(id)).collect::<Vec<_>>();
        let (live, now, folder) = (all(&self), self.clock.now(), self.folder.clone());
        let completed = self.stop(commit_thread);

        let (again, commit_thread) = Self::start(&folder);
        again.clock.0.store(now.0, Ordering::Relaxed);
        assert_eq!(all(&again), live, "in a store made again");
        completed.iter().for_each(|_| drop(again.fold(1)));
        assert_eq!(all(&again), live, "in a store made again, after folding");
        assert_eq!(again.stop(commit_thread), completed);
    }

    /// Runs something on a thread of its own.
    fn spawn<T: Send + 'static>(&self, what: impl FnOnce(&Self) -> T + Send + 'static) -> JoinHandle<T> {
        let daemon = self.clone();
        thread::spawn(move || what(&daemon))
    }

    fn send(&self, request: Request) -> Receiver<Answer> {
        let (reply, answer) = channel();
        self.requests.send((request, reply)).unwrap();
        answer
    }

    fn ask(&self, request: Request) -> Answer {
        self.send(request).recv().unwrap()
    }

    /// A site call with these ids; gives its number.
    fn site(&self, ids: &str, sets: &str) -> u64 {
        number_of(&self.ask(site_call(ids, sets)))
    }

    /// A single update.
    fn set(&self, visitor: &str, sets: &str) -> u64 {
        number_of(&self.ask(visitor_write(visitor, VisitorWrite::Set(owned(sets)))))
    }

    fn erase(&self, visitor: &str) -> u64 {
        number_of(&self.ask(visitor_write(visitor, VisitorWrite::Erase)))
    }

    /// Takes a batch file in; gives the batch's number.
    fn batch(&self, rules: BatchRules, file: &str) -> u64 {
        number_of(&self.ask(self.upload(rules, file)))
    }

    /// What an upload does before it asks for acceptance.
    fn upload(&self, rules: BatchRules, file: &str) -> Request {
        let mut spool = self.spool.begin(self.clock.now()).unwrap();
        let (mut parser, mut index, mut rows) = (Parser::new(), IndexBuilder::default(), 0);
        let mut each = |row: profiled::batch::csv::Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        parser.push(file.as_bytes(), &mut each).unwrap();
        let header = parser.finish(&mut each).unwrap().clone();
        spool.write(file.as_bytes()).unwrap();
        spool.sync().unwrap();
        let index = index.finish(&self.spool.index_path(spool.name())).unwrap();
        Request::Accept(Box::new(NewBatch { client: client(), rules, header, rows, spool, index }))
    }

    /// Folds the batch whose turn it is, as the folding thread does.
    fn fold(&self, writers: usize) -> FoldedBatch {
        let pending = self.batches.next().unwrap();
        let plan = Plan::make(&pending, &*self.store).unwrap();
        let (outcomes, mut counts) = plan.decided();
        let mut outcomes = outcomes.to_vec();
        let parts: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = plan
                .parts(writers)
                .into_iter()
                .map(|part| {
                    let daemon = self.clone();
                    scope.spawn(move || daemon.fold_part(part))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for part in parts {
            let (more, part_counts) = part.finish();
            outcomes.extend(more);
            counts = counts.plus(&part_counts);
        }
        assert_eq!(counts.total(), pending.accepted.rows, "every row is counted once");
        write_outcomes(&self.spool.outcomes_path(pending.accepted.spool), &mut outcomes).unwrap();
        let id = pending.accepted.id.clone();
        let batch = number(id.seq);
        self.ask(Request::Complete(id, counts, self.clock.now()));
        let outcomes = outcomes.into_iter().map(|row| (row.line, row.outcome)).collect();
        let folded = FoldedBatch { batch, counts, outcomes };
        self.completed.lock().unwrap().push(folded.clone());
        folded
    }

    fn fold_part<'p>(&self, mut part: Part<'p>) -> Part<'p> {
        loop {
            match part.step(&*self.store).unwrap() {
                Step::More => {}
                Step::Settle(keys) => drop(self.ask(Request::Settle(client(), keys))),
                Step::Done => return part,
            }
        }
    }

    /// Looks each of these visitors up, so many times over.
    fn watch(&self, ids: &'static [&'static str], times: usize) -> Vec<Seen> {
        let one = |id| self.look(id);
        (0..times).flat_map(|_| ids.iter().copied().map(one)).collect()
    }

    fn look_up(&self, id: &VisitorId) -> Option<Visitor> {
        look_up(&*self.store, &self.batches, &client(), id, self.clock.now(), LIFETIME_MS).unwrap()
    }

    fn look(&self, visitor: &'static str) -> Seen {
        let answered = self.answered.load(Ordering::Relaxed);
        let found = self.look_up(&id(visitor));
        let last = found.as_ref().map_or(Seq::ZERO, |visitor| visitor.seq);
        Seen { visitor, answered, shown: show(found.as_ref()), last }
    }
}

/// As the daemon's: takes what is waiting as one group.
fn commit_thread(mut committer: Committer, asked: &Receiver<Asked>, answered: &AtomicU64) {
    while let Ok(first) = asked.recv() {
        let waiting = std::iter::once(first).chain(asked.try_iter());
        let (mut requests, replies): (VecDeque<Request>, Vec<Sender<Answer>>) = waiting.unzip();
        let mut replies = replies.into_iter();
        while !requests.is_empty() {
            let answers = committer.commit(&mut requests).unwrap();
            answered.fetch_max(number(committer.seqs.last()), Ordering::Relaxed);
            for (answer, reply) in answers.into_iter().zip(replies.by_ref()) {
                reply.send(answer.unwrap()).unwrap();
            }
        }
    }
}

fn site_call(ids: &str, sets: &str) -> Request {
    let ids: Vec<VisitorId> = ids.split_whitespace().map(id).collect();
    let of = |kind| ids.iter().find(|id| id.kind() == kind).cloned();
    let ids = CallIds { pc: of(IdKind::Pc), third_party: of(IdKind::ThirdParty), ecid: of(IdKind::Ecid) };
    let call = SiteCall { client: client(), ids, source: Source::Mbox, attributes: owned(sets) };
    Request::Site(call, WRITE_RULES)
}

fn visitor_write(visitor: &str, write: VisitorWrite) -> Request {
    Request::Visitor(client(), id(visitor), write, WRITE_RULES)
}

const WRITE_RULES: WriteRules = WriteRules { lifetime_ms: LIFETIME_MS, max_profile_bytes: AMPLE_BYTES };

fn number_of(answer: &Answer) -> u64 {
    match answer {
        Answer::Written(written) => number(written.seq.unwrap()),
        Answer::Accepted(known) => number(known.accepted.id.seq),
        other => panic!("not a write: {other:?}"),
    }
}

/// A batch that is complete, with its rows that are not `updated`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoldedBatch {
    batch: u64,
    counts: Counts,
    outcomes: BTreeMap<u32, Outcome>,
}

impl FoldedBatch {
    /// Checks what became of each row: `2 not_found, 5 failed`, and all the others updated.
    fn check(&self, batch: u64, expected: &str) {
        let became = self.outcomes.iter().map(|(line, outcome)| format!("{line} {}", outcome.name()));
        let became: Vec<String> = became.collect();
        assert_eq!((self.batch, became.join(", ").as_str()), (batch, expected));
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Updated) {
            let lines = self.outcomes.values().filter(|became| **became == outcome).count() as u64;
            assert_eq!(self.counts.of(outcome), lines, "{outcome:?}, batch {batch}");
        }
    }
}

/// What one lookup showed.
#[derive(Debug)]
struct Seen {
    visitor: &'static str,
    /// The highest write that had been answered before the lookup began.
    answered: u64,
    shown: String,
    last: Seq,
}

/// `anna+p1 born 1: city=Paris@1 tier=gold@3`: the canonical id, the ids that lead there, and each attribute with the
/// number of the write that set it.
fn show(visitor: Option<&Visitor>) -> String {
    let Some(visitor) = visitor else { return "unknown".into() };
    let mut shown = visitor.canonical.as_str().to_owned();
    visitor.linked.iter().for_each(|id| shown.extend(["+", id.as_str()]));
    shown += &format!(" born {}:", number(visitor.born));
    for attribute in &visitor.attributes {
        shown += &format!(" {}={}@{}", attribute.name, attribute.value, number(attribute.seq));
    }
    shown
}

/// What an id must show: from each write that changes it on.
#[derive(Default)]
struct Life {
    head: String,
    attributes: BTreeMap<String, String>,
    stages: Vec<(u64, String)>,
}

impl Life {
    /// From this write on the visitor goes by this head, such as `anna+p1 born 1`, and has this set: by this write,
    /// or, as in `city=Paris@1`, by another.
    fn then(mut self, write: u64, head: &str, sets: &str) -> Self {
        self.head = head.to_owned();
        for (name, value) in cells(sets) {
            let by = if value.contains('@') { String::new() } else { format!("@{write}") };
            self.attributes.insert(name.to_owned(), format!(" {name}={value}{by}"));
        }
        let attributes: String = self.attributes.values().map(String::as_str).collect();
        let shown = format!("{}:{attributes}", self.head);
        self.shows(write, &shown)
    }

    /// From this write on it has this set besides.
    fn set(self, write: u64, sets: &str) -> Self {
        let head = self.head.clone();
        self.then(write, &head, sets)
    }

    /// From this write on it is another visitor.
    fn becomes(self, write: u64, head: &str, sets: &str) -> Self {
        Self { stages: self.stages, ..Self::default() }.then(write, head, sets)
    }

    /// From this write on, something else is shown.
    fn shows(mut self, write: u64, shown: &str) -> Self {
        self.stages.push((write, shown.to_owned()));
        self
    }

    /// From this write on, none of it is left.
    fn gone(self, write: u64) -> Self {
        self.shows(write, "unknown")
    }

    /// Checks what one thread saw of the visitor.
    fn check(&self, visitor: &str, seen: &[Seen]) {
        let mut at = 0;
        let mut last = Seq::ZERO;
        for one in seen.iter().filter(|one| one.visitor == visitor) {
            let due = self.stages.iter().rposition(|(write, _)| *write <= one.answered).unwrap_or(0);
            let from = self.stages.get(at.max(due)..).unwrap();
            let Some(on) = from.iter().position(|(_, shown)| *shown == one.shown) else {
                panic!(
                    "{visitor} shows\n  {}\nafter {} was answered, but should show one of\n  {from:#?}\nof all {:#?}",
                    one.shown, one.answered, self.stages
                );
            };
            at = at.max(due) + on;
            assert!(one.last >= last || one.last == Seq::ZERO, "{visitor}: {one:?} after {last:?}");
            last = one.last;
        }
    }
}

/// The writes in the order of their seqs, with what each does.
fn in_order<T>(mut writes: Vec<(u64, T)>) -> Vec<(u64, T)> {
    writes.sort_by_key(|(write, _)| *write);
    writes
}

fn unknown() -> Life {
    Life::default().shows(0, "unknown")
}

#[test]
fn a_lookup_sees_none_or_all_of_a_batch_and_never_goes_back() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.site("p2 anna", "");
        let batch = daemon.spawn(|d| {
            let batch = d.batch(skips(), "batch=pcId,tier,city\np1,gold,\np2,,Nice\n");
            (batch, d.watch(&["anna"], 1))
        });
        let site = daemon.spawn(|d| {
            let site = d.site("anna", "city=Lyon score=7");
            (site, d.watch(&["p2"], 1))
        });
        let watcher = daemon.spawn(|d| d.watch(&["anna", "p1"], 3));
        let folded = daemon.spawn(|d| d.fold(2)).join().unwrap();
        let ((batch, after_batch), (site, after_site)) = (batch.join().unwrap(), site.join().unwrap());

        let mut anna = Life::default().then(2, "anna+p1+p2 born 1", "city=Paris@1");
        for (write, sets) in in_order(vec![(batch, "tier=gold city=Nice"), (site, "city=Lyon score=7")]) {
            anna = anna.set(write, sets);
        }
        folded.check(batch, "");
        let watched = watcher.join().unwrap();
        for visitor in ["anna", "p1", "p2"] {
            anna.check(visitor, &watched);
            anna.check(visitor, &after_batch);
            anna.check(visitor, &after_site);
        }
    });
}

#[test]
fn a_visitor_born_beside_a_batch_counts_by_the_order() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            let (first, second) = (rules.clone(), rules.clone());
            let batch = daemon.spawn(move |d| {
                let batch = d.batch(first, "batch=thirdPartyId,tier,city\nben,iron,\nben,,Oslo\n");
                (batch, d.watch(&["ben"], 1))
            });
            let site = daemon.spawn(|d| {
                let site = d.site("ben", "city=Bonn");
                (site, d.watch(&["ben"], 1))
            });
            let watcher = daemon.spawn(|d| d.watch(&["ben"], 3));
            let folded = daemon.spawn(|d| d.fold(2)).join().unwrap();
            let ((batch, after_batch), (site, after_site)) = (batch.join().unwrap(), site.join().unwrap());

            let (ben, outcomes) = match (site < batch, second.creates) {
                (true, _) => {
                    (unknown().then(site, "ben born 1", "city=Bonn").set(batch, "tier=iron city=Oslo"), "")
                }
                (false, true) => (
                    unknown().then(batch, "ben born 1", "tier=iron city=Oslo").set(site, "city=Bonn"),
                    "2 created",
                ),
                (false, false) => {
                    (unknown().then(site, "ben born 2", "city=Bonn"), "2 not_found, 3 not_found")
                }
            };
            folded.check(batch, outcomes);
            for seen in [watcher.join().unwrap(), after_batch, after_site] {
                ben.check("ben", &seen);
            }
        });
    }
}

#[test]
fn a_site_write_to_a_visitor_being_folded_comes_out_by_the_order() {
    explore(|daemon| {
        daemon.site("anna", "city=Paris");
        daemon.site("carl", "city=Rome");
        let rows = "anna,gold,Nice\nben,iron,\nanna,platinum,\ncarl,tin,\n";
        daemon.batch(skips(), &format!("batch=thirdPartyId,tier,city\n{rows}"));
        let site =
            daemon.spawn(|d| (d.site("anna", "city=Lyon"), d.site("ben", "city=Bonn"), d.watch(&["ben"], 1)));
        let later =
            daemon.spawn(|d| d.batch(skips(), "batch=thirdPartyId,tier,city\nanna,wood,Oslo\nben,clay,\n"));
        let watcher = daemon.spawn(|d| d.watch(&["anna", "ben"], 3));
        let folder = daemon.spawn(|d| (d.fold(2), d.fold(2)));
        let ((anna_site, ben_site, after_site), later) = (site.join().unwrap(), later.join().unwrap());

        let mut anna = Life::default().then(3, "anna born 1", "city=Nice tier=platinum");
        for (write, sets) in in_order(vec![(anna_site, "city=Lyon"), (later, "city=Oslo tier=wood")]) {
            anna = anna.set(write, sets);
        }
        let mut ben = unknown().then(ben_site, &format!("ben born {ben_site}"), "city=Bonn");
        if later > ben_site {
            ben = ben.set(later, "tier=clay");
        }
        let (first, second) = folder.join().unwrap();
        first.check(3, "3 not_found");
        second.check(later, if later > ben_site { "" } else { "3 not_found" });
        let watched = watcher.join().unwrap();
        anna.check("anna", &watched);
        ben.check("ben", &watched);
        ben.check("ben", &after_site);
    });
}

#[test]
fn the_last_rows_show_while_their_batch_is_dropped() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "p2"], 3))];
        let folder = daemon.spawn(|d| (d.fold(1), d.watch(&["p1", "p2", "anna"], 1)));
        let (folded, after) = folder.join().unwrap();
        folded.check(2, "3 created");
        let anna = Life::default().then(2, "anna+p1 born 1", "city=Paris@1 tier=gold");
        let p2 = Life::default().then(2, "p2 born 2", "tier=tin");
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            anna.check("anna", seen);
            anna.check("p1", seen);
            p2.check("p2", seen);
        }
    });
}

/// A lookup holds the list of runs from before a batch was dropped, and meets in the store what came after.
#[test]
fn a_lookup_begun_before_a_batch_was_dropped_withstands_what_follows() {
    explore(|daemon| {
        daemon.site("p1", "city=Paris");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let watcher = daemon.spawn(|d| d.watch(&["p1", "p2"], 2));
        let folder = daemon.spawn(|d| {
            let folded = d.fold(1);
            d.erase("p1");
            d.site("p2 anna", "login=yes");
            d.site("p2 ben", "login=no");
            folded
        });
        folder.join().unwrap().check(2, "3 created");
        let p1 = Life::default().then(2, "p1 born 1", "city=Paris@1 tier=gold").gone(3);
        let p2 = Life::default()
            .then(2, "p2 born 2", "tier=tin")
            .then(4, "anna+p2 born 4", "login=yes")
            .becomes(5, "ben+p2 born 5", "login=no");
        let seen = watcher.join().unwrap();
        p1.check("p1", &seen);
        p2.check("p2", &seen);
    });
}

#[test]
fn a_login_merges_what_a_pending_row_brought() {
    explore(|daemon| {
        daemon.site("p1 e1", "city=Paris page=3");
        daemon.site("anna", "city=Rome");
        daemon.batch(skips(), "batch=pcId,tier,city\np1,gold,Nice\n");
        let login = daemon.spawn(|d| {
            d.site("p1 anna", "login=yes");
            d.set("p1", "tier=lead");
            d.watch(&["p1", "e1", "anna"], 1)
        });
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "e1"], 3)), daemon.spawn(|d| d.watch(&["anna", "e1"], 3))];
        let folded = daemon.spawn(|d| d.fold(1)).join().unwrap();
        folded.check(3, "");

        let bound = "anna+p1+e1 born 2";
        let anna = Life::default()
            .then(2, "anna born 2", "city=Rome")
            .then(4, bound, "login=yes page=3@1 tier=gold@3")
            .set(5, "tier=lead");
        let p1 = Life::default()
            .then(3, "p1+e1 born 1", "city=Nice page=3@1 tier=gold")
            .then(4, bound, "city=Rome@2 login=yes")
            .set(5, "tier=lead");
        let after = login.join().unwrap();
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            anna.check("anna", seen);
            p1.check("p1", seen);
            p1.check("e1", seen);
        }
    });
}

#[test]
fn a_pc_id_handed_over_with_a_row_pending_leads_to_the_old_or_the_new_visitor() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            daemon.site("p1 anna e1", "city=Paris");
            daemon.site("ben", "city=Rome");
            daemon.batch(rules.clone(), "batch=pcId,tier,city\np1,gold,Nice\n");
            let rules = rules.clone();
            let handover = daemon.spawn(|d| (d.site("p1 ben", "login=yes"), d.watch(&["p1", "e1"], 1)));
            let later = daemon.spawn(move |d| d.batch(rules, "batch=pcId,tier\np1,wood\n"));
            let watchers =
                [daemon.spawn(|d| d.watch(&["p1", "e1"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
            let folder = daemon.spawn(|d| (d.fold(2), d.fold(2)));
            let ((handover, after), later) = (handover.join().unwrap(), later.join().unwrap());
            let (first, second) = folder.join().unwrap();
            first.check(3, "");
            second.check(later, "");

            let old = || Life::default().then(3, "anna+p1+e1 born 1", "city=Nice tier=gold");
            let new = Life::default().then(2, "ben born 2", "city=Rome");
            let (bound, alone) = ("ben+p1+e1 born 2", "anna born 1");
            let (p1, anna, ben) = if later < handover {
                (
                    old().set(later, "tier=wood").becomes(handover, bound, "city=Rome@2 login=yes"),
                    old().set(later, "tier=wood").then(handover, alone, ""),
                    new.then(handover, bound, "login=yes"),
                )
            } else {
                (
                    old().becomes(handover, bound, "city=Rome@2 login=yes").set(later, "tier=wood"),
                    old().then(handover, alone, ""),
                    new.then(handover, bound, "login=yes").set(later, "tier=wood"),
                )
            };
            for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
                p1.check("p1", seen);
                p1.check("e1", seen);
                anna.check("anna", seen);
                ben.check("ben", seen);
            }
        });
    }
}

#[test]
fn a_visitor_erased_and_reborn_with_a_row_pending_keeps_nothing_of_it() {
    for rules in [skips(), creates()] {
        explore(move |daemon| {
            daemon.site("p1 anna", "city=Paris");
            daemon.site("p2 anna", "");
            let rows = "p1,gold,\np2,,1\np1,lead,\np2,,2\np2,tin,\np1,wood,3\n";
            daemon.batch(rules.clone(), &format!("batch=pcId,tier,points\n{rows}"));
            let rebirth = daemon.spawn(|d| {
                d.erase("p1");
                d.site("p1", "city=Rome");
                d.watch(&["p1", "anna"], 1)
            });
            let watchers = [daemon.spawn(|d| d.watch(&["p1"], 3)), daemon.spawn(|d| d.watch(&["anna"], 6))];
            daemon.spawn(|d| d.fold(1)).join().unwrap().check(3, "");

            let known = || {
                let sets = "city=Paris@1 points=3 tier=wood";
                Life::default().then(3, "anna+p1+p2 born 1", sets).gone(4)
            };
            let (anna, p1) = (known(), known().becomes(5, "p1 born 5", "city=Rome"));
            let after = rebirth.join().unwrap();
            for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
                p1.check("p1", seen);
                anna.check("anna", seen);
            }
        });
    }
}

/// Nobody waits for the batch's answer before the login is sent, so both are often in one group.
#[test]
fn a_batch_and_a_login_right_behind_it_come_in_this_order() {
    explore(|daemon| {
        daemon.site("p1", "page=3");
        daemon.site("anna", "city=Rome");
        let both = daemon.spawn(|d| {
            let batch = d.send(d.upload(skips(), "batch=pcId,tier\np1,gold\np2,tin\n"));
            let login = d.send(site_call("p1 anna", "login=yes"));
            let born = d.send(site_call("p2 anna", "tier=lead"));
            let numbers = [batch, login, born].map(|answer| number_of(&answer.recv().unwrap()));
            (numbers, d.watch(&["p1", "anna"], 1))
        });
        let watchers = [daemon.spawn(|d| d.watch(&["p1"], 3)), daemon.spawn(|d| d.watch(&["anna"], 3))];
        daemon.spawn(|d| d.fold(2)).join().unwrap().check(3, "3 not_found");
        let (numbers, after) = both.join().unwrap();
        assert_eq!(numbers, [3, 4, 5]);

        let p1 = Life::default()
            .then(1, "p1 born 1", "page=3")
            .set(3, "tier=gold")
            .then(4, "anna+p1 born 2", "login=yes city=Rome@2")
            .then(5, "anna+p1+p2 born 2", "tier=lead");
        let anna = Life::default()
            .then(2, "anna born 2", "city=Rome")
            .then(4, "anna+p1 born 2", "login=yes page=3@1 tier=gold@3")
            .then(5, "anna+p1+p2 born 2", "tier=lead");
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            p1.check("p1", seen);
            anna.check("anna", seen);
        }
    });
}

#[test]
fn a_visitor_that_a_row_creates_while_it_logs_in_is_created_once() {
    explore(|daemon| {
        daemon.site("anna", "city=Rome");
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np1,lead\np2,tin\n");
        let login = daemon.spawn(|d| {
            d.site("p1 anna", "login=yes");
            d.site("p2 ben", "login=yes");
            d.watch(&["p1", "p2", "anna"], 1)
        });
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
        daemon.spawn(|d| d.fold(2)).join().unwrap().check(2, "2 created, 4 created");

        let anna = Life::default().then(1, "anna born 1", "city=Rome").then(
            3,
            "anna+p1 born 1",
            "login=yes tier=lead@2",
        );
        let p1 = Life::default().then(2, "p1 born 2", "tier=lead").then(
            3,
            "anna+p1 born 1",
            "city=Rome@1 login=yes",
        );
        let p2 = Life::default().then(2, "p2 born 2", "tier=tin").then(4, "ben+p2 born 4", "login=yes");
        let ben = unknown().then(4, "ben+p2 born 4", "login=yes tier=tin@2");
        let after = login.join().unwrap();
        for seen in watchers.map(|watcher| watcher.join().unwrap()).iter().chain([&after]) {
            for (visitor, life) in [("p1", &p1), ("p2", &p2), ("anna", &anna), ("ben", &ben)] {
                life.check(visitor, seen);
            }
        }
    });
}

/// The batch comes after anna has expired, so p1 leads nowhere and the row makes a visitor of it: two keys change, which
/// only the commit thread may do.
#[test]
fn a_row_that_creates_where_a_dead_link_stood_leaves_its_old_visitor_alone() {
    explore(|daemon| {
        daemon.site("p1 anna", "city=Paris");
        daemon.site("p2 ben", "city=Bonn");
        daemon.clock.0.store(LATER.0, Ordering::Relaxed);
        daemon.batch(creates(), "batch=pcId,tier\np1,gold\np2,tin\n");
        let site = daemon.spawn(|d| (d.site("anna", "city=Rome"), d.watch(&["anna"], 1)));
        let login = daemon.spawn(|d| (d.site("p2 carl", "login=yes"), d.watch(&["p2"], 1)));
        let watchers =
            [daemon.spawn(|d| d.watch(&["p1", "p2"], 3)), daemon.spawn(|d| d.watch(&["anna", "ben"], 3))];
        daemon.spawn(|d| d.fold(2)).join().unwrap().check(101, "2 created, 3 created");

        let ((site, after_site), (login, after_login)) = (site.join().unwrap(), login.join().unwrap());
        let anna = unknown().then(site, &format!("anna born {site}"), "city=Rome");
        let p1 = Life::default().then(101, "p1 born 101", "tier=gold");
        let p2 = Life::default().then(101, "p2 born 101", "tier=tin").then(
            login,
            &format!("carl+p2 born {login}"),
            "login=yes",
        );
        let watched = watchers.map(|watcher| watcher.join().unwrap());
        for seen in watched.iter().chain([&after_site, &after_login]) {
            for (visitor, life) in [("p1", &p1), ("p2", &p2), ("anna", &anna), ("ben", &unknown())] {
                life.check(visitor, seen);
            }
        }
    });
}

#[test]
fn a_row_too_large_fails_once_whoever_settles_it() {
    explore(|daemon| {
        daemon.site("anna", "city=Paris");
        daemon.site("ben", "city=Rome");
        daemon.site("carl", "city=Oslo");
        let large = "x".repeat(60);
        let rows =
            format!("anna,gold,Nice\nanna,{large},\nben,tin,\nanna,lead,\ncarl,{large},\ndora,{large},\n");
        let rules = BatchRules { max_profile_bytes: 40, ..skips() };
        daemon.batch(rules, &format!("batch=thirdPartyId,tier,city\n{rows}"));
        let sites = daemon.spawn(|d| {
            d.site("anna", "city=Lyon");
            d.site("dora", "city=Bonn");
            d.erase("carl");
            d.watch(&["anna", "carl", "dora"], 1)
        });
        let watcher = daemon.spawn(|d| d.watch(&["anna", "carl", "dora"], 3));
        let folded = daemon.spawn(|d| d.fold(2)).join().unwrap();
        folded.check(4, "3 failed, 6 failed, 7 not_found");

        let anna = Life::default().then(4, "anna born 1", "city=Nice tier=lead").set(5, "city=Lyon");
        let carl = Life::default().then(3, "carl born 3", "city=Oslo").gone(7);
        let dora = unknown().then(6, "dora born 6", "city=Bonn");
        for seen in [watcher.join().unwrap(), sites.join().unwrap()] {
            for (visitor, life) in [("anna", &anna), ("carl", &carl), ("dora", &dora)] {
                life.check(visitor, &seen);
            }
        }
    });
}
