//! The real release daemon under the main job, over HTTP: 1,000,000 profiles made by batches with creation switched on,
//! then 500,000-row batches on them (five attributes, about 75 bytes a row, one visitor in ten unknown): from POST sent
//! to acknowledged, to 1,000 visitors read back right, to `complete`; then many uploads at once, for their memory.
//!
//! `cargo bench --bench ingest [-- PROFILES ROWS UPLOADS]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use support::Daemon;

/// Rows of one file at most.
const FILE_ROWS: usize = 500_000;
const READ_BACK: usize = 1_000;
/// The size of each of the uploads that come at once.
const UPLOAD_BYTES: usize = 45_000_000;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (profiles, rows, uploads) = (number(0, 1_000_000), number(1, FILE_ROWS), number(2, 20));
    assert!(
        rows <= FILE_ROWS && profiles >= 2 * rows,
        "at most {FILE_ROWS} rows, and twice as many profiles"
    );

    let folder = tempfile::Builder::new().prefix("ingest").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let load = Load { daemon: Daemon::start(folder.path(), "[clients.demo]\nv2_creates_profiles = true\n") };
    for first in (0..profiles).step_by(FILE_ROWS) {
        let ids = first..(first + FILE_ROWS).min(profiles);
        load.run("create", &file(ids.map(|n| format!("crm-{n:08}")), 0), &[]);
    }
    for round in 1..=3 {
        // Every second visitor, in no order, one in ten unknown.
        let id = |n: usize| match n % 10 {
            0 => format!("unknown-{n:08}"),
            _ => format!("crm-{:08}", 2 * scrambled(n, rows)),
        };
        let sample: Vec<usize> = (0..rows).filter(|n| n % 10 != 0).step_by(rows / READ_BACK).collect();
        let expected: Vec<(String, String)> = sample.iter().map(|&n| (id(n), points(n, round))).collect();
        load.run("update", &file((0..rows).map(id), round), &expected);
    }
    let live = bytes_under(&folder.path().join("data").join("store"));
    println!(
        "store: {} MiB on disk; peak memory so far: {} MiB",
        live >> 20,
        load.daemon.memory("VmHWM") >> 10
    );

    load.upload_at_once(uploads);
}

/// A permutation of 0..rows that leaves no order to be had for nothing.
fn scrambled(n: usize, rows: usize) -> usize {
    n * 7_919 % rows
}

fn points(n: usize, round: usize) -> String {
    format!("{}", n % 10_000 + round)
}

fn file(ids: impl Iterator<Item = String>, round: usize) -> Vec<u8> {
    let mut text = String::from("batch=thirdPartyId,tier,points,city,lastPurchase,segment\n");
    for (n, id) in ids.enumerate() {
        let (points, city, day) = (points(n, round), n % 89, n % 28 + 1);
        writeln!(
            text,
            "{id},gold-{},{points},Amsterdam-{city},2026-11-{day:02},segment-{}-{round}",
            n % 7,
            n % 17
        )
        .unwrap();
    }
    text.into_bytes()
}

struct Load {
    daemon: Daemon,
}

impl Load {
    /// Posts a batch; v1 unless it is to create. Reads a sample back, waits until it is complete, reports.
    fn run(&self, what: &str, file: &[u8], sample: &[(String, String)]) {
        let version = if what == "create" { "v2/" } else { "" };
        let began = Instant::now();
        let answer = self.post(version, file);
        let acknowledged = began.elapsed();
        let id = element(&answer, "batchStatus").split_once("batchId=").unwrap().1.to_owned();
        let reading = Instant::now();
        for (visitor, points) in sample {
            let profile = self.get(&format!("/api/v1/profiles/{visitor}?client=demo&by=third-party"));
            let expected = format!("\"points\":{{\"value\":\"{points}\"");
            assert!(profile.contains(&expected), "{visitor} should have {expected}: {profile}");
        }
        let read = reading.elapsed();
        let status = loop {
            let status = self.get(&format!("/m2/demo/profile/batchStatus?batchId={id}&showDetails=true"));
            if element(&status, "status") == "complete" {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let complete = began.elapsed();
        let rows: f64 = element(&status, "batchSize").parse().unwrap();
        println!(
            "{what}: {rows} rows, {:.1} MB: acknowledged after {} ms; {} visitors read back in {} ms; complete after {} ms, \
             {:.0} rows/s; {} updated or created, {} not found; peak memory {} MiB",
            file.len() as f64 / 1e6,
            acknowledged.as_millis(),
            sample.len(),
            read.as_millis(),
            complete.as_millis(),
            rows / complete.as_secs_f64(),
            element(&status, "successfulUpdates"),
            element(&status, "profilesNotFound"),
            self.daemon.memory("VmHWM") >> 10,
        );
    }

    /// Sends many large uploads side by side.
    fn upload_at_once(&self, uploads: usize) {
        let mut text = file((0..FILE_ROWS).map(|n| format!("unknown-{n:08}-{}", "x".repeat(25))), 9);
        text.resize(UPLOAD_BYTES, b' ');
        let before = self.daemon.memory("VmRSS");
        let began = Instant::now();
        let mut peak = 0;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..uploads).map(|_| scope.spawn(|| self.post("", &text))).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                peak = peak.max(self.daemon.memory("VmRSS"));
                std::thread::sleep(Duration::from_millis(5));
            }
            threads.into_iter().for_each(|thread| assert!(thread.join().unwrap().contains("<success>true")));
        });
        println!(
            "{uploads} uploads of {:.1} MB at once: all acknowledged after {} ms; memory {} MiB before, {} MiB at most meanwhile, {} MiB after",
            text.len() as f64 / 1e6,
            began.elapsed().as_millis(),
            before >> 10,
            peak >> 10,
            self.daemon.memory("VmRSS") >> 10,
        );
    }

    fn post(&self, version: &str, body: &[u8]) -> String {
        let head = format!(
            "POST /m2/demo/{version}profile/batchUpdate HTTP/1.1\r\nHost: {}\r\nContent-Type: text/csv\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.daemon.address,
            body.len()
        );
        self.call(head.as_bytes(), body)
    }

    fn get(&self, path: &str) -> String {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.daemon.address);
        self.call(head.as_bytes(), b"")
    }

    fn call(&self, head: &[u8], body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.daemon.address).unwrap();
        stream.write_all(head).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }
}

fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split_once(&format!("<{name}>")).unwrap().1;
    after.split_once("</").unwrap().0
}

fn bytes_under(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let bytes = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => bytes_under(&entry.path()),
        metadata => metadata.len(),
    };
    entries.map(bytes).sum()
}
