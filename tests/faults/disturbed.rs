//! Random requests with disturbances between them: a backup is restored and served from then on, a compaction, a removed store,
//! a kill, a clean stop, slow or fast applying. Lookups, outcomes and statuses must be the same as those of an undisturbed
//! daemon.
//!
//! `PROFILED_DISTURBED_PROGRAMS=100 cargo test --test faults disturbed::` tries 100 programs.

use std::fmt::Write as _;
use std::fs;

use crate::support::seed::{asked_for, fresh, seeds, with_seed};
use crate::support::{Daemon, variable};
use serde_json::Value;
use tempfile::TempDir;

/// How many programs are tried by default: one that is always the same, and others that are new each time.
const PROGRAMS: usize = 3;
/// The seeds are small numbers, so their first random numbers would be similar.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const REQUESTS: usize = 40;
/// Few visitors, so that requests meet in many ways.
const PC_IDS: u64 = 7;
const THIRD_PARTY_IDS: u64 = 4;

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

#[derive(Debug, Clone)]
enum Call {
    Post(String, String),
    Delete(String),
    Batch(&'static str, String),
}

fn pc(random: &mut Random) -> String {
    format!("p{}", random.below(PC_IDS))
}

fn third_party(random: &mut Random) -> String {
    format!("t{}", random.below(THIRD_PARTY_IDS))
}

fn by_any(random: &mut Random) -> (&'static str, String) {
    if random.below(2) == 0 { ("pc", pc(random)) } else { ("third-party", third_party(random)) }
}

fn call(random: &mut Random, n: usize) -> Call {
    match random.below(10) {
        0..4 => {
            let mut form = format!("mbox=m&mboxPC={}&profile.{}=s{n}", pc(random), ["a", "b"][n % 2]);
            if random.below(3) == 0 {
                write!(form, "&mbox3rdPartyId={}", third_party(random)).unwrap();
            }
            Call::Post("/m2/demo/mbox/json".into(), form)
        }
        4 => {
            let form = format!("mbox3rdPartyId={}&profile.b=u{n}", third_party(random));
            Call::Post("/m2/demo/profile/update".into(), form)
        }
        5 => {
            let (by, id) = by_any(random);
            Call::Delete(format!("/api/v1/profiles/{id}?by={by}&client=demo"))
        }
        6 => {
            let (by, id) = by_any(random);
            Call::Delete(format!("/api/v1/profiles/{id}/attributes/a?by={by}&client=demo"))
        }
        _ => {
            let by_pc = random.below(2) == 0;
            let mut file = format!("batch={},a,c\n", if by_pc { "pcId" } else { "thirdPartyId" });
            for row in 0..2 + random.below(25) {
                let id = if by_pc { pc(random) } else { third_party(random) };
                match random.below(12) {
                    0 => writeln!(file, "{id},%zz").unwrap(),
                    1 => writeln!(file, "{id},").unwrap(),
                    2 => writeln!(file, "nobody-{row},x").unwrap(),
                    _ => writeln!(file, "{id},b{n},r{row}").unwrap(),
                }
            }
            let v2 = random.below(2) == 0;
            Call::Batch(
                if v2 { "/m2/demo/v2/profile/batchUpdate" } else { "/m2/demo/profile/batchUpdate" },
                file,
            )
        }
    }
}

/// Rows are applied so slowly that some are pending at each disturbance.
fn settings(slow: bool) -> String {
    let pace = if slow { "[ingest]\nmax_rows_per_second = 8\n" } else { "" };
    format!(
        "journal_segment_bytes = \"64KiB\"\nsnapshot_journal_bytes = \"64KiB\"\n{pace}[clients.demo]\nv2_creates_profiles = true\n"
    )
}

/// A daemon, and the disturbances so far.
struct World {
    daemon: Daemon,
    folder: TempDir,
    slow: bool,
    restored: usize,
    batches: Vec<String>,
    answers: Vec<u16>,
    done: Vec<String>,
}

impl World {
    fn new() -> Self {
        let daemon = Daemon::start_configured(&settings(false));
        let folder = tempfile::tempdir().unwrap();
        Self { daemon, folder, slow: false, restored: 0, batches: vec![], answers: vec![], done: vec![] }
    }

    fn make(&mut self, call: &Call) {
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let reply = match call {
            Call::Post(path, body) => self.daemon.call("POST", path, &[form], Some(body.as_bytes())),
            Call::Delete(path) => self.daemon.call("DELETE", path, &[], None),
            Call::Batch(path, file) => self.daemon.try_batch(path, file),
        };
        self.done.push(format!("{call:?}: {}", reply.status));
        self.answers.push(reply.status);
        if matches!(call, Call::Batch(..)) {
            self.batches.push(reply.batch_id());
        }
    }

    fn stop(&mut self) {
        self.daemon.terminate();
        assert!(self.daemon.ended().success());
    }

    fn pace(&mut self, slow: bool) {
        self.slow = slow;
        self.daemon.configure(&settings(slow));
        self.daemon.hang_up();
    }

    fn compact(&self) {
        let json = ("Content-Type", "application/json");
        let reply = self.daemon.call("POST", "/api/v1/compact", &[json], Some(b"{}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    fn disturb(&mut self, random: &mut Random) {
        let what = random.below(8);
        self.done.push(format!("disturbance {what}"));
        match what {
            0 | 1 => {
                let at = |name: &str| self.folder.path().join(format!("{name}-{}", self.restored));
                let (backup, data) = (at("backup"), at("data"));
                let (code, _, reported) = self.daemon.run(&["backup", backup.to_str().unwrap()]);
                assert_eq!(code, Some(0), "{reported}");
                let restore = ["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()];
                let (code, _, reported) = self.daemon.run(&restore);
                assert_eq!(code, Some(0), "{reported}");
                self.daemon.kill9().set_data(data).restart();
                self.restored += 1;
            }
            // A compaction waits for the pending batches.
            2 if !self.slow => self.compact(),
            3 => {
                if random.below(2) == 0 {
                    self.daemon.kill9();
                } else {
                    self.stop();
                }
                fs::remove_dir_all(self.daemon.data().join("store")).unwrap();
                self.daemon.restart();
            }
            4 => {
                self.daemon.kill9().restart();
            }
            5 => {
                self.stop();
                self.daemon.restart();
            }
            6 => self.pace(true),
            _ => self.pace(false),
        }
    }

    /// All that the daemon reports of visitors and batches, without times.
    fn tells(&mut self) -> Vec<String> {
        self.pace(false);
        for batch in &self.batches {
            self.daemon.wait_complete(batch);
        }
        // From then on, rows of erased visitors read `erased`.
        self.compact();
        let mut reported = vec![format!("{:?}", self.answers)];
        for (n, batch) in self.batches.iter().enumerate() {
            reported.push(format!("batch {n}: {:?}", self.daemon.wait_complete(batch)));
            reported.push(self.daemon.get(&format!("/api/v1/batches/{batch}/outcomes")).text());
        }
        let ids = (0..PC_IDS).map(|n| ("pc", format!("p{n}")));
        let ids = ids.chain((0..THIRD_PARTY_IDS).map(|n| ("third-party", format!("t{n}"))));
        for (by, id) in ids {
            let mut visitor = self.daemon.visitor("demo", by, &id).unwrap_or_default();
            self.timeless(&mut visitor);
            reported.push(format!("{by} {id}: {visitor}"));
        }
        reported
    }

    fn timeless(&self, value: &mut Value) {
        let Some(object) = value.as_object_mut() else { return };
        for name in ["seq", "lastSiteSeq", "lastBatchSeq", "lastActive", "expires", "modifiedAt", "born"] {
            object.remove(name);
        }
        for (name, value) in object.iter_mut() {
            if name == "batchId" {
                let batch = self.batches.iter().position(|batch| Some(batch.as_str()) == value.as_str());
                *value = batch.into();
            }
            self.timeless(value);
        }
    }
}

fn run(seed: u64) {
    let mut random = Random((seed ^ SPREAD) | 1);
    let calls: Vec<Call> = (0..REQUESTS).map(|n| call(&mut random, n)).collect();
    let (mut peaceful, mut disturbed) = (World::new(), World::new());
    for call in &calls {
        peaceful.make(call);
        disturbed.make(call);
        if random.below(3) == 0 {
            disturbed.disturb(&mut random);
        }
    }
    let (expected, found) = (peaceful.tells(), disturbed.tells());
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "{}", disturbed.done.join("\n"));
    }
}

#[test]
fn what_is_done_to_the_daemon_between_requests_changes_nothing_that_it_tells() {
    let programs = variable("PROFILED_DISTURBED_PROGRAMS").map_or(PROGRAMS, |text| text.parse().unwrap());
    let mut seeds = seeds();
    if asked_for().is_none() {
        seeds.resize_with(programs, fresh);
    }
    for seed in seeds {
        with_seed(seed, || run(seed));
    }
}
