//! What people would use instead. The bench starts each on loopback with its own folder, and stops it afterwards.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot go on should say where")]

mod postgres;
mod redis;
mod script;
mod sqlite;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::rows::{Batch, NAMES, Row};
use postgres::Postgres;
use redis::{Ask, Redis};
use script::Script;
use sqlite::Sqlite;

/// A program that can keep profiles. Every peer starts with the same profiles and gets the same batches, in the form
/// that is fastest for it, prepared before the clock starts.
pub(crate) trait Peer {
    /// The version, the request and the settings. Most important: how durable a write is when the peer answers.
    fn settings(&self) -> String;
    fn seed(&mut self, profiles: usize);
    /// Prepares a batch.
    fn prepare(&mut self, batch: Batch);
    /// Applies the prepared batch. Returns the time that took.
    fn apply(&mut self) -> Duration;
    /// A visitor's points, to verify the result.
    fn points(&mut self, id: &str) -> Option<String>;
    /// The bytes that the peer has written to the disk so far.
    fn written(&self) -> u64;
    /// The peak memory in KiB; `None` if the peer is not a process of its own.
    fn memory(&self) -> Option<u64>;
}

pub(crate) const HSET: &str = "Redis, pipelined `HSET`";
pub(crate) const FUNCTION: &str = "Redis, a `FUNCTION` with the checks";
pub(crate) const SCRIPT: &str = "a script with redis-py";
pub(crate) const SQLITE: &str = "SQLite, prepared `UPDATE`s";
pub(crate) const POSTGRES: &str = "PostgreSQL, `COPY` and one `UPDATE … FROM`";

/// Starts all peers that this machine has. For the others, says why they are missing.
pub(crate) fn start(folder: &Path) -> [Started; 5] {
    [
        (HSET, Redis::start(&folder.join("redis-hset"), Ask::Hset).map(boxed)),
        (FUNCTION, Redis::start(&folder.join("redis-function"), Ask::Function).map(boxed)),
        (SCRIPT, Script::start(folder).map(boxed)),
        (SQLITE, Sqlite::open(folder).map(boxed)),
        (POSTGRES, Postgres::start(folder).map(boxed)),
    ]
}

fn boxed(peer: impl Peer + 'static) -> Box<dyn Peer> {
    Box::new(peer)
}

/// A peer's name, and the peer if the machine has it.
pub(crate) type Started = (&'static str, Result<Box<dyn Peer>, LeftOut>);

/// Why a peer is left out.
pub(crate) struct LeftOut(String);

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "left out: {}", self.0)
    }
}

/// A peer's process, killed when dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A row's attributes as JSON. These values need no escaping.
fn json(row: &Row) -> String {
    let members: Vec<String> =
        NAMES.iter().zip(&row.values).map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    format!("{{{}}}", members.join(","))
}

/// A program's version; `None` if the program does not exist.
fn version(program: &Path) -> Option<String> {
    let said = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8(said.stdout).unwrap().trim().to_owned())
}

/// A port that was free a moment ago, for programs that cannot choose a port and report it.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Retries until success, because a server needs a moment to start.
fn come_up<T, E: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(e) => assert!(began.elapsed() < Duration::from_secs(30), "it does not come up: {e:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
