//! Shared code of the benches: the real release daemon as a process, the rows of a standard batch, a client, the
//! kernel's figures, and statistics of times.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on should say where"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each bench is a crate of its own and uses its own part of this"
)]

pub mod bounds;
pub mod client;
pub mod curves;
pub mod kernel;
pub mod load;
pub mod marks;
pub mod rows;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Client;

/// Lets v2 batches create the profiles that a bench starts with.
pub const CREATES: &str = "[clients.demo]\nv2_creates_profiles = true\n";

/// A daemon on a folder, killed when dropped.
pub struct Daemon {
    process: Child,
    pub address: String,
    /// The time from its start until it listened and `/readyz` was 200.
    pub ready_after: Duration,
}

impl Daemon {
    /// Starts a daemon under `folder` with this configuration file.
    pub fn start(folder: &Path, configuration: &str) -> Self {
        Self::start_with(folder, configuration, &[])
    }

    /// Starts a daemon with more flags, on the folder's existing data if there is any.
    pub fn start_with(folder: &Path, configuration: &str, flags: &[&str]) -> Self {
        Self::start_as(folder, configuration, flags, "warn", Stdio::inherit())
    }

    /// Starts a daemon that writes its log, with a line per batch, to `daemon.log` under `folder`.
    pub fn start_logged(folder: &Path, configuration: &str) -> Self {
        let log = File::options().create(true).append(true).open(folder.join("daemon.log")).unwrap();
        Self::start_as(folder, configuration, &[], "info", log.into())
    }

    fn start_as(folder: &Path, configuration: &str, flags: &[&str], level: &str, log: Stdio) -> Self {
        let toml = folder.join("profiled.toml");
        std::fs::write(&toml, configuration).unwrap();
        let began = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log", level, "--data"])
            .arg(folder.join("data"))
            .arg("--config")
            .arg(toml)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").unwrap().to_owned();
        let mut daemon = Self { process, address, ready_after: Duration::ZERO };
        let mut client = daemon.client();
        while client.get("/readyz").status != 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.ready_after = began.elapsed();
        daemon
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the daemon, like a crash. The next start has everything that was acknowledged.
    pub fn kill(&mut self) {
        // The daemon may have been stopped already.
        if self.process.try_wait().unwrap().is_none() {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
    }

    /// Stops the daemon as an operator does. Returns the time that took.
    pub fn stop(&mut self) -> Duration {
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "a stop ended with {ended}");
        began.elapsed()
    }

    /// A line of the daemon's memory statistics, in KiB.
    pub fn memory(&self, line: &str) -> u64 {
        kernel::memory(self.pid(), line).unwrap_or_else(|| panic!("the kernel does not tell {line}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The median of an odd number of figures.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The times of many calls, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time within which this share of the calls stayed, in milliseconds.
    pub fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Random enough to pick visitors, and the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self((seed + 1) * 0x9e37_79b9_7f4a_7c15)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Parses `100k`, `1M` or a plain number.
pub fn count(text: &str) -> Result<usize, String> {
    let (digits, times) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text} is not a count such as 100k or 1M"))?;
    Ok(number * times)
}

/// Formats a count for people.
pub fn said(count: usize) -> String {
    match count {
        _ if count >= 1_000_000 && count.is_multiple_of(1_000_000) => format!("{}M", count / 1_000_000),
        _ if count >= 1_000 && count.is_multiple_of(1_000) => format!("{}k", count / 1_000),
        _ => format!("{count}"),
    }
}
