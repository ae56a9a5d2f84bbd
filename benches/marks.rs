//! Measures the marks of docs/internals/design.md: the real release daemon on an empty folder, over HTTP. In the same
//! run and on the same rows it measures what people would use instead. Prints the tables of BENCHMARKS.md.
//!
//! `cargo bench --features benches --bench marks [-- --profiles 1M --rows 500k --runs 3 --seconds 10 --only hot-id --hot-batches 30
//! --hot-rows 500k]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod peers;
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use peers::{LeftOut, Peer, Started};
use support::client::{Answer, Client};
use support::load::{LOOKUPS_A_SECOND, log_in_all, look_up_during, site_calls_during};
use support::marks::{Mark, Unit, table};
use support::rows::{Batch, FILE_ROWS, Row, csv, csv_by, pc_id, seed_files};
use support::{CREATES, Daemon, Random, Times, bounds, count, kernel, median, said};

/// The same allocator as the daemon, so that measurements in this process are comparable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Visitors to look up while a batch is pending, and again when it is complete.
const READ_BACK: usize = 100;
/// The interval between batches beside site calls, which slow their application.
const BATCH_EVERY: Duration = Duration::from_secs(2);
/// The numbers of pending batches for which single lookups are timed.
const PENDING: [usize; 3] = [1, 8, 64];
const LOOKUPS_WITH_PENDING: usize = 1_000;
const PENDING_AT_START: usize = 20;
const UPLOADS_AT_ONCE: usize = 20;
/// A placeholder that CRM exports use for a missing id and that `blocked_ids` does not block. Many rows share it.
const HOT_ID: &str = "unknown";
/// The number of its lookups, and of connections that make other visitors' site calls beside it.
const HOT_LOOKUPS: usize = 50;
const BESIDE_HOT: u64 = 4;

/// The sizes of a run.
#[derive(Parser)]
struct Sizes {
    /// Number of profiles
    #[arg(long, default_value = "1M", value_parser = count)]
    profiles: usize,
    /// Rows of a batch
    #[arg(long, default_value = "500k", value_parser = count)]
    rows: usize,
    /// Batches to post to the daemon and to every peer
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of lookups and of site calls
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections that make site calls
    #[arg(long, default_value_t = 256)]
    connections: u64,
    /// Pending batches of the id that many rows share
    #[arg(long, default_value_t = 12)]
    hot_batches: usize,
    /// Rows of that id in each of these batches
    #[arg(long, default_value = "100k", value_parser = count)]
    hot_rows: usize,
    /// Measure only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// `cargo bench` passes this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// The parts that can be measured by themselves.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Batches beside the peers, and the bounds
    Batches,
    /// Lookups and site calls beside batches
    Beside,
    /// Lookups with pending batches
    Pending,
    /// Starts after crashes
    Crash,
    /// A regular stop, and the start after it
    Stop,
    /// A small cache, and many uploads at once
    Small,
    /// An id that many pending rows share
    HotId,
    /// Batches keyed by the pcIds of visitors with thirdPartyIds
    PcIds,
}

fn main() {
    let sizes = Sizes::parse();
    assert!(
        sizes.rows.max(sizes.hot_rows) <= FILE_ROWS && sizes.rows <= sizes.profiles && sizes.runs > 0,
        "at most {FILE_ROWS} rows, and no more than there are profiles; a run at least"
    );
    let folder = tempfile::Builder::new().prefix("marks").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bench = Bench { sizes, began: Instant::now(), folder: folder.path() };
    bench.run();
}

struct Bench<'f> {
    sizes: Sizes,
    began: Instant,
    folder: &'f Path,
}

/// The times of a batch on the daemon.
struct Posted {
    /// From POST until the batch is acknowledged and one of its visitors was read.
    readable: Duration,
    complete: Duration,
    written: u64,
}

/// A peer, and its time for each batch.
struct Ran {
    peer: Box<dyn Peer>,
    took: Vec<Duration>,
    written: Vec<u64>,
}

/// The times of lookups and site calls.
struct Beside {
    /// Beside batches.
    lookups: Times,
    /// Without other load.
    site_calls_a_second: f64,
    /// Beside batches.
    site_calls: Times,
}

type Peers = Vec<(&'static str, Result<Ran, LeftOut>)>;

impl Bench<'_> {
    fn run(&self) {
        let mut marks = vec![];
        if self.wants(Part::Small) {
            self.say("a daemon with a cache of 128 MiB");
            let (peak, uploads) = self.small_cache();
            println!("{uploads}\n");
            let what = "resident memory in that run, with `--cache 128MiB`";
            marks.push(Mark::new(what, 300.0, 250.0, Unit::Mebibytes, Some(peak)));
        }
        if self.wants(Part::HotId) {
            self.say("an id that many pending rows share");
            marks.extend(self.hot_id());
        }
        if self.wants(Part::PcIds) {
            self.say("batches of pcIds");
            marks.push(self.pc_ids());
        }
        if [Part::Batches, Part::Beside, Part::Pending, Part::Crash, Part::Stop]
            .into_iter()
            .any(|part| self.wants(part))
        {
            self.say("the daemon and its profiles");
            let daemon = Daemon::start(&self.make_folder("profiled"), CREATES);
            self.seed(&daemon);
            self.large_cache(daemon, &mut marks);
        }
        println!("{}", table(&marks));
        self.say("done");
    }

    /// Takes all measurements that need one daemon with default settings.
    fn large_cache(&self, daemon: Daemon, marks: &mut Vec<Mark>) {
        let posted = self.batches(&daemon, marks);
        if self.wants(Part::Beside) {
            let beside = self.beside(&daemon);
            let mark = |what: &str, must, target, unit, measured| {
                Mark::new(what, must, target, unit, Some(measured))
            };
            let milliseconds = Unit::Milliseconds;
            marks.extend([
                mark(
                    "lookup p99 while batches are uploaded and applied",
                    3.0,
                    1.0,
                    milliseconds,
                    beside.lookups.at(0.99),
                ),
                mark("lookup p99.9", 10.0, 5.0, milliseconds, beside.lookups.at(0.999)),
                mark(
                    "site calls a second, durable, no batch",
                    10e3,
                    20e3,
                    Unit::PerSecond,
                    beside.site_calls_a_second,
                ),
                mark(
                    "site calls' p99 while batches are uploaded and applied",
                    60.0,
                    30.0,
                    milliseconds,
                    beside.site_calls.at(0.99),
                ),
            ]);
        }
        if self.wants(Part::Pending) {
            println!("{}", self.pending_table(&daemon));
        }
        let daemon = if self.wants(Part::Stop) { self.stop(daemon, marks) } else { daemon };
        if self.wants(Part::Crash) {
            self.say("a crash in the middle of a batch");
            let crashed = self.crash(daemon, &posted);
            self.say("a crash with batches pending");
            let (crashed_pending, pending) = self.crash_with_pending();
            let what = format!("start with {pending} batches pending");
            marks.extend([
                Mark::new(
                    "start after `kill -9` in the middle of a batch",
                    5.0,
                    1.0,
                    Unit::Seconds,
                    Some(crashed),
                ),
                Mark::new(&what, 10.0, 2.0, Unit::Seconds, Some(crashed_pending)),
            ]);
        }
    }

    /// Posts batch after batch to the daemon and, unless excluded, to the peers.
    fn batches(&self, daemon: &Daemon, marks: &mut Vec<Mark>) -> Vec<Posted> {
        let Sizes { profiles, rows, runs, .. } = self.sizes;
        let compared = self.wants(Part::Batches);
        let mut peers = if compared { self.peers() } else { vec![] };
        let mut posted = vec![];
        for round in 1..=runs {
            let batch = self.batch(round);
            self.say(&format!("batch {round} on the daemon"));
            posted.push(self.post(daemon, batch));
            for (name, ran) in &mut peers {
                let Ok(ran) = ran else { continue };
                self.say(&format!("batch {round}: {name}"));
                ran.run(batch);
            }
        }
        let memory = daemon.memory("VmHWM") as f64 / 1024.0;
        println!(
            "{} profiles, batches of {} rows of {} bytes, one visitor in ten unknown, {runs} runs in turn; {}\n",
            said(profiles),
            said(rows),
            self.batch(1).csv().len() / rows,
            machine(),
        );
        println!("{}", peers_table(rows, &posted, &peers, memory));
        marks.extend(speed_marks(rows, &posted, &peers));
        marks.push(Mark::new(
            "resident memory in that run, default cache",
            750.0,
            650.0,
            Unit::Mebibytes,
            Some(memory),
        ));
        drop(peers);
        if compared {
            println!("{}", self.bounds_table(&posted));
        }
        posted
    }

    fn wants(&self, part: Part) -> bool {
        self.sizes.only.is_empty() || self.sizes.only.contains(&part)
    }

    /// Measures lookups and site calls, alone and while batches are uploaded and applied.
    fn beside(&self, daemon: &Daemon) -> Beside {
        let (profiles, file) = (self.sizes.profiles, self.batch(self.sizes.runs).csv());
        self.say("lookups");
        let (quiet, ()) = look_up_during(&daemon.address, profiles, || std::thread::sleep(self.span()));
        self.say("lookups beside batches");
        let (lookups, applied) =
            look_up_during(&daemon.address, profiles, || self.post_for(daemon, &file, None));
        self.say("site calls");
        let (alone, site_calls_a_second, ()) =
            site_calls_during(&daemon.address, self.sizes.connections, profiles, || {
                std::thread::sleep(self.span());
            });
        self.say("site calls beside batches");
        let (while_applying, rate_beside, posted_beside) =
            site_calls_during(&daemon.address, self.sizes.connections, profiles, || {
                self.post_for(daemon, &file, Some(BATCH_EVERY))
            });
        wait_applied(&mut daemon.client());
        println!("| | a second | p50 | p99 | p99.9 | slowest |\n| --- | --- | --- | --- | --- | --- |");
        let row = |what: &str, a_second: f64, times: &Times| println!("{}", load_row(what, a_second, times));
        row("lookups, nothing else", LOOKUPS_A_SECOND, &quiet.times);
        row(
            &format!("lookups while {applied} batches are uploaded and applied"),
            LOOKUPS_A_SECOND,
            &lookups.times,
        );
        row("of that: the bench's own threads woke late", LOOKUPS_A_SECOND, &lookups.woke_late);
        row("site calls, nothing else", site_calls_a_second, &alone);
        row(
            &format!("site calls while {posted_beside} batches are uploaded and applied"),
            rate_beside,
            &while_applying,
        );
        println!();
        Beside { lookups: lookups.times, site_calls_a_second, site_calls: while_applying }
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.sizes.seconds)
    }

    fn batch(&self, round: usize) -> Batch {
        Batch { profiles: self.sizes.profiles, rows: self.sizes.rows, round }
    }

    fn make_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn seed(&self, daemon: &Daemon) {
        let mut client = daemon.client();
        for file in seed_files(self.sizes.profiles) {
            let batch = client.post(true, &file);
            client.wait_complete(&batch);
        }
    }

    fn peers(&self) -> Peers {
        let start = |(name, peer): Started| {
            let ran = peer.map(|mut peer| {
                self.say(&format!("the profiles of {name}"));
                peer.seed(self.sizes.profiles);
                Ran { peer, took: vec![], written: vec![] }
            });
            (name, ran)
        };
        peers::start(self.folder).into_iter().map(start).collect()
    }

    /// Posts a batch, reads one of its visitors at once, and waits until the batch is complete.
    fn post(&self, daemon: &Daemon, batch: Batch) -> Posted {
        let (file, mut client) = (batch.csv(), daemon.client());
        let written = kernel::written(daemon.pid());
        let began = Instant::now();
        let id = client.post(false, &file);
        client.expect(batch, batch.rows - 1);
        let readable = began.elapsed();
        client.read_back(batch, READ_BACK);
        let outcome = client.wait_complete(&id);
        let complete = began.elapsed();
        assert_eq!(outcome, (batch.known(), batch.rows - batch.known()), "updated, not found");
        client.read_back(batch, READ_BACK);
        Posted { readable, complete, written: kernel::written(daemon.pid()) - written }
    }

    /// Posts the same file repeatedly: when the batch before is complete, or at these intervals.
    fn post_for(&self, daemon: &Daemon, file: &[u8], every: Option<Duration>) -> usize {
        let (began, mut client, mut posted) = (Instant::now(), daemon.client(), 0);
        while began.elapsed() < self.span() {
            let next = Instant::now() + every.unwrap_or_default();
            let batch = client.post(false, file);
            posted += 1;
            match every {
                None => drop(client.wait_complete(&batch)),
                Some(_) => std::thread::sleep(next.saturating_duration_since(Instant::now())),
            }
        }
        posted
    }

    fn bounds_table(&self, posted: &[Posted]) -> String {
        self.say("the bounds");
        let (batch, runs) = (self.batch(1), self.sizes.runs);
        let file = batch.csv();
        let thrice = |one: &dyn Fn() -> Duration| median((0..runs).map(|_| one().as_secs_f64()));
        let sled = median(bounds::sled_alone(self.folder, batch, runs).iter().map(Duration::as_secs_f64));
        let readable = median(posted.iter().map(|one| one.readable.as_secs_f64()));
        let complete = median(posted.iter().map(|one| one.complete.as_secs_f64()));
        let lines = [
            ("the file over loopback to nobody", thrice(&|| bounds::sent(&file))),
            ("the file written and synced", thrice(&|| bounds::synced(self.folder, &file))),
            ("the parser alone, one thread", thrice(&|| bounds::parsed(&file))),
            ("**POST sent → durable and readable**", readable),
            ("each row applied to its profile's bytes, two threads", thrice(&|| bounds::applied(batch))),
            ("sled alone, sorted, two writers, flushed and synced", sled),
            ("**POST sent → complete**", complete),
        ];
        let mut text = String::from("| Part of the way | ms | rows a second |\n| --- | --- | --- |\n");
        for (what, seconds) in lines {
            writeln!(text, "| {what} | {:.0} | {} |", seconds * 1e3, rate(batch.rows, seconds)).unwrap();
        }
        text
    }

    /// Times lookups of visitors with pending batches. Many batches are smaller ones. They are being applied meanwhile.
    fn pending_table(&self, daemon: &Daemon) -> String {
        self.say("lookups with batches pending");
        let mut client = daemon.client();
        let mut text =
            String::from("| Pending | then | p50 | p99 | slowest |\n| --- | --- | --- | --- | --- |\n");
        for pending in PENDING {
            let rows = self.sizes.rows / pending.min(10);
            let batch = Batch { rows, ..self.batch(self.sizes.runs) };
            let file = batch.csv();
            while client.pending() < pending {
                client.post(false, &file);
            }
            let mut random = Random::new(0);
            let look_up = |_| {
                let visitor = batch.id(random.below(rows / 10) * 10 + 1);
                let began = Instant::now();
                assert_eq!(client.profile(&visitor).status, 200);
                began.elapsed()
            };
            let times = Times::new((0..LOOKUPS_WITH_PENDING).map(look_up).collect());
            let then = client.pending();
            let (middle, p99, slowest) = (times.at(0.5), times.at(0.99), times.at(1.0));
            writeln!(text, "| {pending} | {then} | {middle:.2} ms | {p99:.2} ms | {slowest:.1} ms |")
                .unwrap();
            wait_applied(&mut client);
        }
        text
    }

    /// Stops the daemon as an operator does, and starts it again.
    fn stop(&self, mut daemon: Daemon, marks: &mut Vec<Mark>) -> Daemon {
        self.say("a regular stop");
        let batch = self.batch(self.sizes.runs);
        let mut client = daemon.client();
        client.post(false, &batch.csv());
        wait_applied(&mut client);
        let stopped = daemon.stop();
        let daemon = Daemon::start(&self.folder.join("profiled"), CREATES);
        daemon.client().read_back(batch, READ_BACK);
        let profiles = said(self.sizes.profiles);
        for (what, must, target, took) in [
            ("a regular stop", 10.0, 3.0, stopped),
            ("the start after a regular stop", 5.0, 1.0, daemon.ready_after),
        ] {
            let what = format!("{what}, with {profiles} profiles");
            marks.push(Mark::new(&what, must, target, Unit::Seconds, Some(took.as_secs_f64())));
        }
        daemon
    }

    /// Kills the daemon when a batch is about half applied. Returns the time until the next daemon is ready.
    fn crash(&self, daemon: Daemon, posted: &[Posted]) -> f64 {
        let applying = median(posted.iter().map(|one| (one.complete - one.readable).as_secs_f64()));
        let batch = self.batch(self.sizes.runs);
        let id = daemon.client().post(false, &batch.csv());
        std::thread::sleep(Duration::from_secs_f64(applying / 2.0));
        drop(daemon);
        let daemon = Daemon::start(&self.folder.join("profiled"), CREATES);
        let mut client = daemon.client();
        client.read_back(batch, READ_BACK);
        client.wait_complete(&id);
        daemon.ready_after.as_secs_f64()
    }

    /// The same with many pending batches. Also returns their number.
    fn crash_with_pending(&self) -> (f64, usize) {
        let folder = self.folder.join("profiled");
        let batch = self.batch(self.sizes.runs + 1);
        let file = batch.csv();
        let daemon = Daemon::start(&folder, CREATES);
        let mut client = daemon.client();
        let mut pending = 0;
        while pending < PENDING_AT_START {
            client.post(false, &file);
            pending = client.pending();
        }
        drop(daemon);
        let daemon = Daemon::start(&folder, CREATES);
        daemon.client().read_back(batch, READ_BACK);
        (daemon.ready_after.as_secs_f64(), pending)
    }

    /// Posts batches whose rows all belong to one visitor, throttled so that they stay pending. Times that visitor's
    /// lookups and site calls, and the site calls of other visitors meanwhile.
    fn hot_id(&self) -> Vec<Mark> {
        let Sizes { hot_batches, hot_rows, .. } = self.sizes;
        let configuration = format!("{CREATES}\n[ingest]\nmax_rows_per_second = 1\n");
        let daemon = Daemon::start(&self.make_folder("hot-id"), &configuration);
        let mut client = daemon.client();
        let call =
            format!("/m2/demo/mbox/json?mbox=home&mboxSession=hot&mbox3rdPartyId={HOT_ID}&profile.n=1");
        assert_eq!(client.get(&call).status, 200);
        // The throttle lets the first batch through and holds the others back.
        for round in 0..=hot_batches {
            let row = |n| Row { id: HOT_ID.to_owned(), ..self.batch(round).row(n) };
            client.post(false, &csv((0..hot_rows).map(row)));
        }
        assert!(client.pending() >= hot_batches, "applying is throttled");
        let lookups = Times::new((0..HOT_LOOKUPS).map(|_| timed(|| client.profile(HOT_ID))).collect());
        let pause = || std::thread::sleep(Duration::from_millis(500));
        let (others, _, took) = site_calls_during(&daemon.address, BESIDE_HOT, self.sizes.profiles, || {
            pause();
            let took = timed(|| client.get(&call));
            pause();
            took
        });
        let rows = said(hot_batches * hot_rows);
        let what = format!(
            "lookup of an id with {rows} pending rows in {hot_batches} batches, slowest of {HOT_LOOKUPS}"
        );
        let milliseconds = Unit::Milliseconds;
        vec![
            Mark::new(&what, 20.0, 5.0, milliseconds, Some(lookups.at(1.0))),
            Mark::new("the first site call of it", 150.0, 30.0, milliseconds, Some(took.as_secs_f64() * 1e3)),
            Mark::new(
                "others' site calls beside it, slowest",
                200.0,
                50.0,
                milliseconds,
                Some(others.at(1.0)),
            ),
        ]
    }

    /// Posts batches whose rows name visitors by their devices, in random order. Each row needs two reads of the store.
    fn pc_ids(&self) -> Mark {
        let Sizes { profiles, rows, runs, connections, .. } = self.sizes;
        let daemon = Daemon::start(&self.make_folder("pc-ids"), CREATES);
        self.seed(&daemon);
        self.say("their logins");
        log_in_all(&daemon.address, connections, profiles.min(rows));
        let mut client = daemon.client();
        let took = (1..=runs).map(|round| {
            self.say(&format!("batch {round} of pcIds"));
            let row = |n| Row { id: pc_id(n * 7_919 % rows), ..self.batch(round).row(n) };
            let file = csv_by("pcId", (0..rows).map(row));
            let began = Instant::now();
            let id = client.post(false, &file);
            assert_eq!(client.wait_complete(&id), (rows, 0), "updated, not found");
            began.elapsed().as_secs_f64()
        });
        let rate = rows as f64 / median(took);
        let what = "a batch of linked pcIds, POST sent → `complete`, rows a second";
        Mark::new(what, 120e3, 200e3, Unit::PerSecond, Some(rate))
    }

    /// Runs a daemon with a small cache, then posts many uploads at once. Returns the peak memory of the batches and a
    /// line about the uploads.
    fn small_cache(&self) -> (f64, String) {
        let daemon = Daemon::start_with(&self.make_folder("small-cache"), CREATES, &["--cache", "128MiB"]);
        self.seed(&daemon);
        for round in 1..=self.sizes.runs {
            self.post(&daemon, self.batch(round));
        }
        let peak = daemon.memory("VmHWM") as f64 / 1024.0;

        let strangers =
            (0..self.sizes.rows).map(|n| Row { id: format!("stranger-{n:018}"), ..self.batch(0).row(n) });
        let file = csv(strangers);
        let (before, began, mut most) = (daemon.memory("VmRSS") >> 10, Instant::now(), 0);
        std::thread::scope(|scope| {
            let posting: Vec<_> = (0..UPLOADS_AT_ONCE)
                .map(|_| scope.spawn(|| drop(daemon.client().post(false, &file))))
                .collect();
            while posting.iter().any(|one| !one.is_finished()) {
                most = most.max(daemon.memory("VmRSS") >> 10);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let said = format!(
            "{UPLOADS_AT_ONCE} uploads of {:.1} MB at once, with `--cache 128MiB`: all acknowledged after {:.1} s; memory {before} MiB \
             before, {most} MiB at most meanwhile, {} MiB after.",
            file.len() as f64 / 1e6,
            began.elapsed().as_secs_f64(),
            daemon.memory("VmRSS") >> 10,
        );
        (peak, said)
    }
}

impl Ran {
    fn run(&mut self, batch: Batch) {
        self.peer.prepare(batch);
        let written = self.peer.written();
        self.took.push(self.peer.apply());
        self.written.push(self.peer.written() - written);
        let row = batch.rows - 1;
        assert_eq!(self.peer.points(&batch.id(row)), Some(batch.points(row)), "{}", self.peer.settings());
    }
}

/// The time of a call, which must succeed.
fn timed(ask: impl FnOnce() -> Answer) -> Duration {
    let began = Instant::now();
    assert_eq!(ask().status, 200);
    began.elapsed()
}

/// Waits until no batch is pending.
fn wait_applied(client: &mut Client) {
    while client.pending() > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn peers_table(rows: usize, posted: &[Posted], peers: &Peers, memory: f64) -> String {
    let row = |what: &str, took: &[Duration], written: &[u64], memory: Option<f64>, how: &str| {
        let rates: Vec<String> = took.iter().map(|took| rate(rows, took.as_secs_f64())).collect();
        let middle = rate(rows, median(took.iter().map(Duration::as_secs_f64)));
        let written = median(written.iter().map(|&bytes| bytes as f64)) / 1e6;
        let memory = memory.map_or("–".to_owned(), |memory| format!("{memory:.0} MiB"));
        format!("| {what} | {} | **{middle}** | {written:.0} MB | {memory} | {how} |\n", rates.join(", "))
    };
    let readable: Vec<Duration> = posted.iter().map(|one| one.readable).collect();
    let complete: Vec<Duration> = posted.iter().map(|one| one.complete).collect();
    let written: Vec<u64> = posted.iter().map(|one| one.written).collect();
    let mut text = String::from(
        "| What | rows a second, each run | median | written | peak memory | how |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let ours = [
        (
            "readable",
            &readable,
            "over HTTP; durable when it answers, and the last row's visitor read after it; no check skipped",
        ),
        (
            "complete",
            &complete,
            "the same batches: applied, every row accounted for, store synced; default settings",
        ),
    ];
    for (what, took, how) in ours {
        text.push_str(&row(&format!("profiled: POST sent → {what}"), took, &written, Some(memory), how));
    }
    for (name, ran) in peers {
        match ran {
            Ok(Ran { peer, took, written }) => {
                let memory = peer.memory().map(|kib| kib as f64 / 1024.0);
                text.push_str(&row(name, took, written, memory, &peer.settings()));
            }
            Err(why) => writeln!(text, "| {name} | – | – | – | – | {why} |").unwrap(),
        }
    }
    text
}

/// The marks for one batch. A ratio compares two times of the same round; the median of the rounds counts.
fn speed_marks(rows: usize, posted: &[Posted], peers: &Peers) -> Vec<Mark> {
    let rows_a_second = |seconds| rows as f64 / seconds;
    let readable = median(posted.iter().map(|one| one.readable.as_secs_f64()));
    let complete = median(posted.iter().map(|one| one.complete.as_secs_f64()));
    let against = |name: &str, ours: fn(&Posted) -> Duration| {
        let (_, ran) = peers.iter().find(|(peer, _)| *peer == name)?;
        let theirs = &ran.as_ref().ok()?.took;
        Some(median(
            posted.iter().zip(theirs).map(|(one, theirs)| theirs.as_secs_f64() / ours(one).as_secs_f64()),
        ))
    };
    let first = "POST sent → acknowledged, durable, readable";
    let mut marks = vec![
        Mark::new(first, 0.6, 0.3, Unit::Seconds, Some(readable)),
        Mark::new(
            "POST sent → `complete`, rows a second",
            120e3,
            200e3,
            Unit::PerSecond,
            Some(rows_a_second(complete)),
        ),
        Mark::new(
            &format!("readable, against {}", peers::HSET),
            3.0,
            6.0,
            Unit::TimesFaster,
            against(peers::HSET, |one| one.readable),
        ),
    ];
    let bounds = [
        (peers::HSET, 0.5, 1.0),
        (peers::FUNCTION, 0.9, 1.5),
        (peers::SCRIPT, 1.5, 2.5),
        (peers::SQLITE, 1.3, 2.0),
        (peers::POSTGRES, 2.0, 4.0),
    ];
    marks.extend(bounds.map(|(name, must, target)| {
        let measured = against(name, |one| one.complete);
        Mark::new(&format!("complete, against {name}"), must, target, Unit::TimesFaster, measured)
    }));
    marks
}

fn load_row(what: &str, a_second: f64, times: &Times) -> String {
    format!(
        "| {what} | {a_second:.0} | {:.2} ms | {:.2} ms | {:.2} ms | {:.1} ms |",
        times.at(0.5),
        times.at(0.99),
        times.at(0.999),
        times.at(1.0)
    )
}

fn rate(rows: usize, seconds: f64) -> String {
    format!("{:.0}k", rows as f64 / seconds / 1e3)
}

/// The machine, as far as it affects the figures.
fn machine() -> String {
    let processors = std::thread::available_parallelism().unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let kib: usize = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    format!(
        "{processors} processors, {} GiB of memory, Linux {}; load average {load}",
        kib >> 20,
        kernel.trim()
    )
}
