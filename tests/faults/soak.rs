//! A soak test: site calls, logins, batches, single updates, erasures, lookups, backups and compactions, one after the other and
//! side by side, with a model outside the daemon. At the end every visitor is as in the model, a store rebuilt from snapshot and
//! journal has the same digest, and neither memory nor file handles have grown.
//!
//! It runs for ten seconds; `SOAK_SECONDS=600 cargo test --release --test faults -- --nocapture soak::` is the long form. With
//! `SOAK_UPKEEP=none` there are no compactions and no backups.
//!
//! A heap profile without upkeep showed 42 MiB at its peak: 21 MiB in sled's 41 histograms, 10 MiB in 19 buffers of its log, and
//! 4 MiB in its table of pages. A compaction opens a second store beside the one in use, so with upkeep the curve is a sawtooth.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::load::Moments;
use crate::support::seed::{seeds, with_seed};
use crate::support::{self, Daemon, variable};

const SECONDS: u64 = 10;
const VISITORS: usize = 400;
const BATCH_ROWS: usize = 150;
/// How many steps there are between two measurements of the daemon's memory.
const LOOK_EVERY: u64 = 64;
const SETTINGS: &str =
    "journal_segment_bytes = \"1MiB\"\nsnapshot_journal_bytes = \"4MiB\"\nretention_days = 0\n";

/// The attributes of each visitor by name, by its thirdPartyId; `None` for an unknown visitor.
type Model = BTreeMap<String, BTreeMap<String, String>>;

/// The writes, one after the other, so that the model knows their order.
struct Writer<'d> {
    daemon: &'d Daemon,
    model: Model,
    random: Moments,
    writes: u64,
    steps: u64,
    last_batch: Option<String>,
}

impl Writer<'_> {
    fn below(&mut self, number: usize) -> usize {
        let span = Duration::from_micros(number as u64);
        usize::try_from(self.random.next(Duration::ZERO, span).as_micros()).unwrap()
    }

    fn step(&mut self) {
        self.writes += 1;
        self.steps += 1;
        let (n, value) = (self.below(VISITORS), self.writes.to_string());
        let (id, name) = (format!("t{n}"), format!("a{}", self.below(6)));
        match self.below(100) {
            0..=59 => {
                let login = format!("mbox=m&mboxPC=p{n}&mbox3rdPartyId={id}&profile.{name}={value}");
                self.daemon.mbox("demo", &login);
                self.model.entry(id).or_default().insert(name, value);
            }
            60..=79 => {
                let form = format!("mbox3rdPartyId={id}&profile.{name}={value}");
                let reply = self.daemon.post_form("/m2/demo/profile/update", &form);
                assert_eq!(reply.status, 200, "{}", reply.text());
                self.model.entry(id).and_modify(|known| drop(known.insert(name, value)));
            }
            80..=84 => {
                let path = format!("/api/v1/profiles/{id}?by=third-party&client=demo");
                let status = self.daemon.call("DELETE", &path, &[], None).status;
                let known = self.model.remove(&id).is_some();
                assert_eq!(status, if known { 200 } else { 404 }, "{id}");
            }
            _ => self.batch(&name),
        }
    }

    /// A batch over visitors known and unknown, some of them twice, half of the rows by pcId.
    fn batch(&mut self, name: &str) {
        let by_pc = self.below(2) == 0;
        let mut file = format!("batch={},{name},b\n", if by_pc { "pcId" } else { "thirdPartyId" });
        for _ in 0..BATCH_ROWS {
            let n = self.below(VISITORS);
            self.writes += 1;
            let (id, value) = (format!("t{n}"), self.writes.to_string());
            writeln!(file, "{}{n},{value},", if by_pc { "p" } else { "t" }).unwrap();
            self.model.entry(id).and_modify(|known| drop(known.insert(name.to_owned(), value)));
        }
        let reply = self.daemon.try_batch("/m2/demo/v2/profile/batchUpdate", file);
        self.last_batch = Some(reply.batch_id());
    }
}

/// The memory of the process in MiB: the lowest and the highest value in each tenth of the time.
#[derive(Default)]
struct Curve(Vec<(u64, u64)>);

impl Curve {
    const PARTS: u128 = 10;

    fn note(&mut self, passed: Duration, all: Duration, mib: u64) {
        let part = usize::try_from(passed.as_millis() * Self::PARTS / all.as_millis()).unwrap();
        // On a busy machine a tenth may have no measurement. Then the next one counts for it.
        self.0.resize((part + 1).max(self.0.len()), (mib, mib));
        let (least, most) = &mut self.0[part];
        (*least, *most) = ((*least).min(mib), (*most).max(mib));
    }

    /// The highest value in these tenths; the last measurement if they have none.
    fn most(&self, parts: Range<usize>) -> u64 {
        let end = parts.end.min(self.0.len());
        self.0[parts.start.min(end - 1)..end].iter().map(|(_, most)| *most).max().unwrap()
    }
}

impl std::fmt::Display for Curve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(least, most)| format!("{least}-{most}")).collect();
        write!(f, "{} MiB", parts.join(", "))
    }
}

/// The memory of the process in KiB, and its file handles.
fn held(daemon: &Daemon) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count())
}

/// Compacts and makes backups in turn. `SOAK_UPKEEP=none` leaves both out, to see what they cost.
fn upkeep(daemon: &Daemon, round: usize) {
    let (path, body) = match round % 2 {
        0 => ("/api/v1/compact", "{}".to_owned()),
        _ => {
            let folder = daemon.data().with_file_name(format!("backup-{round}"));
            ("/api/v1/backup", serde_json::json!({ "folder": folder }).to_string())
        }
    };
    let reply = daemon.call("POST", path, &[("Content-Type", "application/json")], Some(body.as_bytes()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    if round % 2 == 1 {
        std::fs::remove_dir_all(daemon.data().with_file_name(format!("backup-{round}"))).unwrap();
    }
}

fn digest(daemon: &Daemon) -> String {
    let (data, settings) = (daemon.data(), daemon.data().with_file_name("profiled.toml"));
    let output = Command::new(env!("CARGO_BIN_EXE_profiled"))
        .args(["check", "--json", "--log", "error", "--data", data.to_str().unwrap()])
        .args(["--config", settings.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["digest"].to_string()
}

#[test]
fn nothing_grows_and_nothing_is_lost() {
    let seconds: u64 = variable("SOAK_SECONDS").map_or(SECONDS, |given| given.parse().unwrap());
    let seeds = seeds();
    for &seed in &seeds {
        with_seed(seed, || soak(seed, seconds / seeds.len() as u64));
    }
}

fn soak(seed: u64, seconds: u64) {
    let mut daemon = Daemon::start_configured(SETTINGS);
    let (stop, lookups, rounds) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let random = Moments::new(seed);
    let mut writer =
        Writer { daemon: &daemon, model: Model::new(), random, writes: 0, steps: 0, last_batch: None };
    let (mut curve, mut warm) = (Curve::default(), None);
    let mut began = None;
    let long = Duration::from_secs(seconds);
    let with_upkeep = variable("SOAK_UPKEEP").is_none_or(|given| given != "none");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..VISITORS).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                drop(daemon.visitor("demo", "third-party", &format!("t{n}")));
                lookups.fetch_add(1, Ordering::Relaxed);
            }
        });
        let keeping = scope.spawn(|| {
            while with_upkeep && !stop.load(Ordering::Relaxed) {
                upkeep(&daemon, rounds.fetch_add(1, Ordering::Relaxed));
            }
        });
        loop {
            writer.step();
            // What a first compaction and a first backup take is no growth: it is there from the beginning.
            if !keeping.is_finished() && rounds.load(Ordering::Relaxed) <= 2 {
                continue;
            }
            let passed = began.get_or_insert_with(Instant::now).elapsed();
            if passed >= long {
                break;
            }
            if writer.steps.is_multiple_of(LOOK_EVERY) {
                let (memory, handles) = held(writer.daemon);
                curve.note(passed, long, memory >> 10);
                if passed > long / 3 {
                    warm.get_or_insert(handles);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    if let Some(batch) = &writer.last_batch {
        let complete = |reply: &support::Reply| reply.element("status").as_deref() == Some("complete");
        support::wait_for("the last batch", || {
            let reply = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={batch}"));
            // With no retention, a complete batch may be gone already.
            (reply.status == 404 || complete(&reply)).then_some(())
        });
    }
    let (model, writes) = (writer.model, writer.writes);
    let (warm, (_, handles)) = (warm.unwrap(), held(&daemon));
    for n in 0..VISITORS {
        let id = format!("t{n}");
        let seen = daemon.visitor("demo", "third-party", &id).map(|visitor| -> BTreeMap<String, String> {
            let attributes = visitor["attributes"].as_object().unwrap();
            attributes.iter().map(|(k, v)| (k.clone(), v["value"].as_str().unwrap().to_owned())).collect()
        });
        assert_eq!(seen.as_ref(), model.get(&id), "{id}");
    }
    daemon.terminate();
    assert!(daemon.ended().success());
    let whole = digest(&daemon);
    std::fs::remove_dir_all(daemon.data().join("store")).unwrap();
    assert_eq!(digest(&daemon), whole, "what the store held is what snapshot and journal say");
    eprintln!(
        "{seconds} s: {writes} writes, {} lookups, {} compactions and backups; memory, tenth by tenth, {curve}; file handles \
         {warm} after a third and {handles} at the end; digest {whole} before and after the store was rebuilt",
        lookups.into_inner(),
        rounds.into_inner(),
    );
    // Compactions take memory and give it back, and the allocator keeps some. Growth by half would be a leak.
    let (before, after) = (curve.most(2..6), curve.most(6..10));
    assert!(
        after < before * 3 / 2 && handles < warm + 40,
        "memory grew from {before} to {after} MiB: {curve}"
    );
}
