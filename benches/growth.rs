//! Measures how cost, disk, memory and start-up grow: with the number of profiles, with repeated batches on the same
//! visitors, and with the number of kept complete batches. Prints the tables of BENCHMARKS.md, and draws
//! `benches/plots/{profiles,batches}.svg`.
//!
//! `cargo bench --features benches --bench growth [-- --profiles 100k,1M,10M,50M --rows 500k --batches 20 --kept 10,100k]`; 50M take 30 GB
//! of disk and half an hour.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use support::curves::{Panel, draw};
use support::marks::{Mark, Unit, table};
use support::rows::{Batch, live_bytes, seed_files};
use support::{CREATES, Daemon, count, kernel, median, said};

/// Batches per number of profiles. The table shows the median.
const RUNS: usize = 3;
/// In a series of batches, the daemon is killed and started after this many.
const START_EVERY: usize = 5;
/// The store's size is taken after this many batches on the same visitors.
const BATCHES_FOR_SIZE: usize = 10;
/// A large site's profiles do not fit into the memory of this machine.
const MANY_PROFILES: usize = 50_000_000;
/// Connections that post the batches to keep.
const POSTING: usize = 8;
const PLOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/plots");

/// The sizes of a run.
#[derive(Parser)]
struct Sizes {
    /// Numbers of profiles, the smallest first
    #[arg(long, default_value = "100k,1M", value_parser = count, value_delimiter = ',')]
    profiles: Vec<usize>,
    /// The most rows of a batch. A batch has at most half as many rows as there are profiles
    #[arg(long, default_value = "500k", value_parser = count)]
    rows: usize,
    /// Batches on the same visitors, with the largest number of profiles up to a million
    #[arg(long, default_value_t = 20)]
    batches: usize,
    /// Numbers of kept batches, the smallest first
    #[arg(long, default_value = "10,10k", value_parser = count, value_delimiter = ',')]
    kept: Vec<usize>,
    /// `cargo bench` passes this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// The figures after one batch.
struct Figures {
    /// The number of profiles, or of batches.
    of: usize,
    readable: Duration,
    complete: Duration,
    rows: usize,
    /// Bytes under `DATA/store`, and under `DATA`.
    store: u64,
    folder: u64,
    live: usize,
    /// In KiB, at the peak and now.
    peak: u64,
    resident: u64,
    /// The time from a start after `kill -9` until the daemon is ready.
    start: Option<Duration>,
    /// The time of a regular stop, and of the start after it.
    stop: Option<(Duration, Duration)>,
}

/// Costs with this many kept complete batches; medians.
struct Kept {
    batches: usize,
    accept: Duration,
    complete: Duration,
    page: Duration,
    site_call: Duration,
    checkpoint: u64,
    /// In KiB.
    resident: u64,
    /// The time from a start after `kill -9` until the daemon is ready.
    start: Duration,
}

/// Where a batch's time went after its acknowledgement.
struct Went {
    profiles: usize,
    complete: Duration,
    /// From the daemon's log: the time to read and sort the file, and the same plus the time to apply it.
    planned: Duration,
    applied: Duration,
    /// Processor seconds of two processors: in the program, in the kernel.
    processor_seconds: (f64, f64),
    /// Bytes read from the disk, and written to it.
    bytes: (u64, u64),
}

fn main() {
    let sizes = Sizes::parse();
    let (by_profiles, went): (Vec<Figures>, Vec<Went>) =
        sizes.profiles.iter().map(|&profiles| with_profiles(profiles, sizes.rows)).unzip();
    println!("{}", profiles_table(&by_profiles));
    println!("{}", went_table(&went));
    draw(&Path::new(PLOTS).join("profiles.svg"), &panels("profiles", true, &by_profiles));

    let most = sizes.profiles.iter().copied().rfind(|&profiles| profiles <= 1_000_000);
    let by_batches =
        most.map(|profiles| with_batches(profiles, sizes.rows, sizes.batches)).unwrap_or_default();
    if let Some(profiles) = most.filter(|_| !by_batches.is_empty()) {
        println!("{}", batches_table(profiles, &by_batches));
        draw(
            &Path::new(PLOTS).join("batches.svg"),
            &panels("batches on the same visitors", false, &by_batches),
        );
    }
    let by_kept: Vec<Kept> = sizes.kept.iter().map(|&batches| with_kept(batches)).collect();
    println!("{}", kept_table(&by_kept));
    println!("{}", table(&growth_marks(&by_profiles, &by_batches)));
}

/// Measures a daemon that keeps this many complete batches of one row.
fn with_kept(batches: usize) -> Kept {
    const FILE: &[u8] = b"batch=thirdPartyId,tier,points\nvisitor,gold,7\n";
    const CALL: &str = "/m2/demo/mbox/json?mbox=home&mboxSession=s&mbox3rdPartyId=visitor&profile.n=1";
    eprintln!("{} kept batches", said(batches));
    let folder = folder();
    let mut daemon = Daemon::start(folder.path(), CREATES);
    let mut client = daemon.client();
    assert_eq!(client.get(CALL).status, 200);
    std::thread::scope(|scope| {
        for first in 0..POSTING {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut client = daemon.client();
                (first..batches).step_by(POSTING).for_each(|_| drop(client.post(false, FILE)));
            });
        }
    });
    while client.pending() > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let middle = |times: usize, mut one: Box<dyn FnMut() + '_>| {
        let timed = |_| {
            let began = Instant::now();
            one();
            began.elapsed().as_secs_f64()
        };
        let odd = (0..times | 1).map(timed);
        Duration::from_secs_f64(median(odd))
    };
    let mut other = daemon.client();
    let complete = middle(
        100,
        Box::new(|| {
            let id = other.post(false, FILE);
            assert_eq!(other.wait_complete(&id), (1, 0));
        }),
    );
    let accept = middle(200, Box::new(|| drop(other.post(false, FILE))));
    let site_call = middle(500, Box::new(|| assert_eq!(client.get(CALL).status, 200)));
    let page = middle(200, Box::new(|| assert_eq!(client.get("/api/v1/batches?client=demo").status, 200)));
    while client.pending() > 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    // The daemon takes a checkpoint every ten seconds.
    std::thread::sleep(Duration::from_secs(11));
    let store = folder.path().join("data/store");
    let generation = std::fs::read_to_string(store.join("current")).unwrap();
    let checkpoint = store.join(generation.trim()).join("checkpoint").metadata().unwrap().len();
    let resident = daemon.memory("VmRSS");
    daemon.kill();
    let start = Daemon::start(folder.path(), CREATES).ready_after;
    Kept { batches, accept, complete, page, site_call, checkpoint, resident, start }
}

fn kept_table(by_kept: &[Kept]) -> String {
    let mut text = String::from(
        "| Kept batches | accepted after | complete after | a page of the list | a site call | checkpoint | memory | start after `kill -9` |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    for one in by_kept {
        text += &format!(
            "| {} | {:.2} ms | {:.1} ms | {:.2} ms | {:.2} ms | {} B | {:.1} MiB | {:.2} s |\n",
            said(one.batches),
            ms(one.accept),
            ms(one.complete),
            ms(one.page),
            ms(one.site_call),
            one.checkpoint,
            one.resident as f64 / 1024.0,
            one.start.as_secs_f64(),
        );
    }
    text
}

/// Posts some batches on this many profiles, then crashes and stops the daemon.
fn with_profiles(profiles: usize, rows: usize) -> (Figures, Went) {
    eprintln!("{} profiles", said(profiles));
    let folder = folder();
    let daemon = seeded(folder.path(), profiles);
    let batch = |round| Batch { profiles, rows: rows.min(profiles / 2), round };
    let mut posted = vec![];
    let mut went = vec![];
    for round in 1..=RUNS {
        let before = Spent::by(&daemon);
        let times = post(&daemon, batch(round));
        went.push(before.until_now(&daemon, folder.path(), profiles, times.1 - times.0));
        posted.push(times);
    }
    let middle = |part: fn(&(Duration, Duration)) -> Duration| {
        Duration::from_secs_f64(median(posted.iter().map(|one| part(one).as_secs_f64())))
    };
    let figures =
        figures(&daemon, folder.path(), profiles, batch(RUNS), (middle(|it| it.0), middle(|it| it.1)));
    eprintln!("  a crash and a start");
    drop(daemon);
    let mut daemon = Daemon::start(folder.path(), CREATES);
    let start = daemon.ready_after;
    eprintln!("  a stop and a start");
    let stopped = daemon.stop();
    let again = Daemon::start(folder.path(), CREATES).ready_after;
    went.sort_unstable_by_key(|one| one.complete);
    (Figures { start: Some(start), stop: Some((stopped, again)), ..figures }, went.swap_remove(RUNS / 2))
}

/// The daemon's resource use at the start of a batch.
struct Spent {
    processor_seconds: (f64, f64),
    bytes: (u64, u64),
}

impl Spent {
    fn by(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        let bytes = (kernel::read(pid), kernel::written(pid));
        Self { processor_seconds: kernel::processor_seconds(pid), bytes }
    }

    fn until_now(self, daemon: &Daemon, folder: &Path, profiles: usize, complete: Duration) -> Went {
        let now = Self::by(daemon);
        let log = std::fs::read_to_string(folder.join("daemon.log")).unwrap();
        let line = log.lines().rfind(|line| line.contains("a batch is complete")).unwrap();
        let said = |name: &str| -> Duration {
            let after = line.split_once(&format!("{name}=")).unwrap().1;
            Duration::from_millis(after.split(' ').next().unwrap().parse().unwrap())
        };
        Went {
            profiles,
            complete,
            planned: said("planned_ms"),
            applied: said("applied_ms"),
            processor_seconds: (
                now.processor_seconds.0 - self.processor_seconds.0,
                now.processor_seconds.1 - self.processor_seconds.1,
            ),
            bytes: (now.bytes.0 - self.bytes.0, now.bytes.1 - self.bytes.1),
        }
    }
}

fn went_table(went: &[Went]) -> String {
    let mut text = String::from(
        "| Profiles | acknowledged → complete | the file is read and sorted | applied to the store | synced and noted | processor: program, kernel | from the disk | to the disk |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in went {
        let seconds = |time: Duration| time.as_secs_f64();
        text += &format!(
            "| {} | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.1} s, {:.1} s | {} MB | {} MB |\n",
            said(one.profiles),
            seconds(one.complete),
            seconds(one.planned),
            seconds(one.applied.saturating_sub(one.planned)),
            seconds(one.complete.saturating_sub(one.applied)),
            one.processor_seconds.0,
            one.processor_seconds.1,
            one.bytes.0 / 1_000_000,
            one.bytes.1 / 1_000_000,
        );
    }
    text
}

/// Posts batches on the same visitors one after the other. Kills the daemon every few batches.
fn with_batches(profiles: usize, rows: usize, batches: usize) -> Vec<Figures> {
    eprintln!("{batches} batches on {} profiles", said(profiles));
    let folder = folder();
    let mut daemon = seeded(folder.path(), profiles);
    let one = |round| {
        let batch = Batch { profiles, rows: rows.min(profiles / 2), round };
        let posted = post(&daemon, batch);
        let mut figures = figures(&daemon, folder.path(), round, batch, posted);
        if round.is_multiple_of(START_EVERY) || round == 1 {
            daemon.kill();
            daemon = Daemon::start(folder.path(), CREATES);
            figures.start = Some(daemon.ready_after);
        }
        figures
    };
    (1..=batches).map(one).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("growth").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn seeded(folder: &Path, profiles: usize) -> Daemon {
    let daemon = Daemon::start_logged(folder, CREATES);
    let mut client = daemon.client();
    for file in seed_files(profiles) {
        let batch = client.post(true, &file);
        client.wait_complete(&batch);
    }
    daemon
}

/// The times from POST until one of its visitors can be read, and until the batch is complete.
fn post(daemon: &Daemon, batch: Batch) -> (Duration, Duration) {
    let (file, mut client) = (batch.csv(), daemon.client());
    let began = Instant::now();
    let id = client.post(false, &file);
    client.expect(batch, batch.rows - 1);
    let readable = began.elapsed();
    let outcome = client.wait_complete(&id);
    assert_eq!(outcome, (batch.known(), batch.rows - batch.known()), "updated, not found");
    (readable, began.elapsed())
}

fn figures(daemon: &Daemon, folder: &Path, of: usize, batch: Batch, posted: (Duration, Duration)) -> Figures {
    let data = folder.join("data");
    Figures {
        of,
        readable: posted.0,
        complete: posted.1,
        rows: batch.rows,
        store: kernel::bytes_under(&data.join("store")),
        folder: kernel::bytes_under(&data),
        live: live_bytes(batch.profiles, batch.round),
        peak: daemon.memory("VmHWM"),
        resident: daemon.memory("VmRSS"),
        start: None,
        stop: None,
    }
}

impl Figures {
    fn microseconds_a_row(&self) -> f64 {
        self.complete.as_secs_f64() * 1e6 / self.rows as f64
    }

    fn row(&self, of: &str) -> String {
        let shown =
            |time: Option<Duration>| time.map_or("–".to_owned(), |it| format!("{:.2} s", it.as_secs_f64()));
        let (start, stop) = (shown(self.start), shown(self.stop.map(|it| it.0)));
        let again = shown(self.stop.map(|it| it.1));
        format!(
            "| {of} | {} | {:.2} s | {:.2} µs | {} | {} MiB | {:.2}× | {} MiB | {} MiB | {start} | {stop} | {again} |\n",
            said(self.rows),
            self.readable.as_secs_f64(),
            self.microseconds_a_row(),
            format_args!("{:.0}k", 1e3 / self.microseconds_a_row()),
            self.store >> 20,
            self.store as f64 / self.live as f64,
            self.folder >> 20,
            self.peak >> 10,
        )
    }
}

fn head(of: &str) -> String {
    format!(
        "| {of} | rows of a batch | readable after | cost of a row | rows a second | store | store ÷ live bytes | data folder | peak memory | start after `kill -9` | a stop | the start after it |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
}

fn profiles_table(by_profiles: &[Figures]) -> String {
    let rows = by_profiles.iter().map(|one| one.row(&said(one.of)));
    head("Profiles") + &rows.collect::<String>()
}

fn batches_table(profiles: usize, by_batches: &[Figures]) -> String {
    let shown = by_batches.iter().filter(|one| one.start.is_some());
    let rows = shown.map(|one| one.row(&one.of.to_string()));
    head(&format!("Batches, {} profiles", said(profiles))) + &rows.collect::<String>()
}

/// The cost of a row with more profiles, relative to the cost with the fewest; the store's size after some batches.
fn growth_marks(by_profiles: &[Figures], by_batches: &[Figures]) -> Vec<Mark> {
    let at = |profiles| by_profiles.iter().find(|one| one.of == profiles).map(Figures::microseconds_a_row);
    let grown = |to| Some(at(to)? / at(100_000)?);
    let after = by_batches.iter().find(|one| one.of == BATCHES_FOR_SIZE);
    let many = by_profiles.iter().find(|one| one.of == MANY_PROFILES);
    let of_many = |what: &str, must, target, unit, measured: fn(&Figures) -> f64| {
        Mark::new(
            &format!("{} profiles: {what}", said(MANY_PROFILES)),
            must,
            target,
            unit,
            many.map(measured),
        )
    };
    let mut marks = vec![
        Mark::new(
            "`DATA/store` ÷ live bytes after 10 batches on the same visitors",
            6.5,
            4.5,
            Unit::TimesMore,
            after.map(|one| one.store as f64 / one.live as f64),
        ),
        Mark::new("cost per row, 1M profiles ÷ 100k", 2.0, 1.3, Unit::TimesMore, grown(1_000_000)),
        Mark::new(
            "cost per row, 10M profiles (more than the cache holds) ÷ 100k",
            4.0,
            2.0,
            Unit::TimesMore,
            grown(10_000_000),
        ),
    ];
    marks.extend([
        of_many("readable", 0.6, 0.3, Unit::Seconds, |one| one.readable.as_secs_f64()),
        of_many(
            "`complete` of a batch spread over all, rows a second",
            50e3,
            120e3,
            Unit::PerSecond,
            |one| 1e6 / one.microseconds_a_row(),
        ),
        of_many("memory at its peak", 3072.0, 2048.0, Unit::Mebibytes, |one| one.peak as f64 / 1024.0),
        of_many("ready after `kill -9`", 20.0, 5.0, Unit::Seconds, |one| {
            one.start.unwrap_or_default().as_secs_f64()
        }),
    ]);
    marks
}

fn panels(of: &'static str, logarithmic: bool, figures: &[Figures]) -> [Panel; 4] {
    let series = |name, value: fn(&Figures) -> Option<f64>| {
        let points = figures.iter().filter_map(|one| Some((one.of as f64, value(one)?)));
        (name, points.collect())
    };
    let panel = |what, series| Panel { what, of, logarithmic, series };
    [
        panel(
            "cost of a row, µs",
            vec![
                series("complete", |one| Some(one.microseconds_a_row())),
                series("readable", |one| Some(one.readable.as_secs_f64() * 1e6 / one.rows as f64)),
            ],
        ),
        panel("store ÷ live bytes", vec![series("store", |one| Some(one.store as f64 / one.live as f64))]),
        panel(
            "memory, MiB",
            vec![
                series("peak", |one| Some(one.peak as f64 / 1024.0)),
                series("after the batch", |one| Some(one.resident as f64 / 1024.0)),
            ],
        ),
        panel("start after kill -9, s", vec![series("start", |one| Some(one.start?.as_secs_f64()))]),
    ]
}
