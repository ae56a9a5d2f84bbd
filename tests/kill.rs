//! `kill -9` again and again, at random moments, under batches and single writes from many connections. After every
//! restart: whatever was answered 2xx is there, no write or row is there by half, nothing is there that was never sent;
//! at the end every accepted batch completes and its counts add up to its rows.
//!
//! With the feature `failpoints` the same test runs against a daemon that answers before it has journaled anything: it
//! must then fail, or it would prove nothing.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on should say where"
)]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, request};

/// Kills in one run: a release build, as `.ci/run` makes it, does the long form.
const KILLS: usize = if cfg!(debug_assertions) { 12 } else { 120 };
const SINGLE_WRITERS: usize = 6;
const VISITORS_EACH: usize = 4;
const BATCH_WRITERS: usize = 2;
const BATCH_VISITORS: usize = 300;
const UNKNOWN_ROWS: usize = 20;
/// The visitors, the unknown ones, one bad row and one empty one.
const BATCH_ROWS: u64 = (BATCH_VISITORS + UNKNOWN_ROWS + 2) as u64;

/// What was sent and what was acknowledged: numbers that only rise.
#[derive(Default, Clone, Copy)]
struct Rising {
    tried: u64,
    acknowledged: u64,
}

#[derive(Default)]
struct Load {
    singles: Vec<Mutex<Rising>>,
    batches: Vec<Mutex<Rising>>,
    ids: Mutex<Vec<String>>,
    calls: AtomicUsize,
}

impl Load {
    fn new() -> Self {
        Self {
            singles: (0..SINGLE_WRITERS * VISITORS_EACH).map(|_| Mutex::default()).collect(),
            batches: (0..BATCH_WRITERS).map(|_| Mutex::default()).collect(),
            ..Self::default()
        }
    }

    /// One writer's calls, each to the next of its visitors, until the daemon is gone.
    fn write_singles(&self, writer: usize, address: SocketAddr, stop: &AtomicBool) {
        for turn in 0.. {
            let visitor = writer * VISITORS_EACH + turn % VISITORS_EACH;
            let n = tried(&self.singles[visitor]);
            let form =
                format!("mbox=m&mboxPC=pc{visitor}&mbox3rdPartyId=s{visitor}&profile.x={n}&profile.y={n}");
            let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Connection", "close")];
            let call = request("POST", "/m2/demo/mbox/json", "a", &headers, Some(form.as_bytes()));
            match attempt(address, &call) {
                Some((200, _)) => self.singles[visitor].lock().unwrap().acknowledged = n,
                Some((status, body)) => panic!("a site call was answered {status}: {body}"),
                None => {}
            }
            self.calls.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// One writer's batches, each over all its visitors.
    fn write_batches(&self, writer: usize, address: SocketAddr, stop: &AtomicBool) {
        loop {
            let k = tried(&self.batches[writer]);
            let mut file = String::from("batch=thirdPartyId,x,y,z\n");
            for visitor in 0..BATCH_VISITORS {
                writeln!(file, "b{writer}-{visitor},{k},{k},").unwrap();
            }
            // These visitors are the single writers', and another attribute: both writers meet on one profile.
            for visitor in 0..UNKNOWN_ROWS {
                writeln!(file, "s{visitor},,,{k}").unwrap();
            }
            file.push_str("bad%zz,1,1,1\nempty,,,\n");
            let headers = [("Content-Type", "text/csv"), ("Connection", "close")];
            let call =
                request("POST", "/m2/demo/v2/profile/batchUpdate", "a", &headers, Some(file.as_bytes()));
            match attempt(address, &call) {
                Some((200, body)) => {
                    let id = body.split("batchId=").nth(1).unwrap().split('<').next().unwrap();
                    self.ids.lock().unwrap().push(id.to_owned());
                    self.batches[writer].lock().unwrap().acknowledged = k;
                }
                Some((status, body)) => panic!("a batch was answered {status}: {body}"),
                None => {}
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Whether all that was acknowledged is there, whole.
    fn verify(&self, daemon: &Daemon) -> Result<(), String> {
        for (n, rising) in self.singles.iter().enumerate() {
            check(daemon, &format!("s{n}"), *rising.lock().unwrap())?;
            check_pc(daemon, n, rising.lock().unwrap().acknowledged)?;
        }
        for (writer, rising) in self.batches.iter().enumerate() {
            for visitor in 0..BATCH_VISITORS {
                check(daemon, &format!("b{writer}-{visitor}"), *rising.lock().unwrap())?;
            }
        }
        for id in self.ids.lock().unwrap().iter() {
            let reply = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={id}"));
            if reply.status != 200 {
                return Err(format!("acknowledged batch {id} is lost: {}", reply.text()));
            }
        }
        Ok(())
    }
}

fn tried(rising: &Mutex<Rising>) -> u64 {
    let mut rising = rising.lock().unwrap();
    rising.tried += 1;
    rising.tried
}

fn check(daemon: &Daemon, id: &str, rising: Rising) -> Result<(), String> {
    let visitor = daemon.visitor("demo", "third-party", id);
    let value = |name: &str| -> Option<u64> {
        visitor.as_ref()?["attributes"][name]["value"].as_str().map(|value| value.parse().unwrap())
    };
    let (x, y) = (value("x"), value("y"));
    if x != y {
        return Err(format!("{id} has half a write: x is {x:?}, y is {y:?}"));
    }
    let x = x.unwrap_or(0);
    if x < rising.acknowledged {
        return Err(format!("{id} has {x}, but {} was acknowledged", rising.acknowledged));
    }
    if x > rising.tried {
        return Err(format!("{id} has {x}, which was never sent"));
    }
    Ok(())
}

fn check_pc(daemon: &Daemon, visitor: usize, acknowledged: u64) -> Result<(), String> {
    if acknowledged > 0 && daemon.visitor("demo", "pc", &format!("pc{visitor}")).is_none() {
        return Err(format!("pc{visitor} leads nowhere, though its bind was acknowledged"));
    }
    Ok(())
}

/// Sends a call and reads its answer; nothing if the daemon went away before it was whole.
fn attempt(address: SocketAddr, call: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(call).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    (length == Some(body.len())).then(|| (status, body.to_owned()))
}

/// Runs the load, kills and restarts so many times, and verifies after each.
fn kill_again_and_again(kills: usize, faults: Option<&str>) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let toml = folder.path().join("profiled.toml");
    std::fs::write(&toml, "[clients.demo]\nv2_creates_profiles = true\n").unwrap();
    let mut daemon = Daemon::start_with(&["--config", toml.to_str().unwrap()]);
    if let Some(faults) = faults {
        daemon.kill9().set_variable("FAILPOINTS", faults).restart();
    }
    let load = Load::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut starts, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for kill in 0..kills {
        // xorshift: any spread of moments will do, and the same one every time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let stop = AtomicBool::new(false);
        let address = daemon.address();
        std::thread::scope(|scope| {
            let (load, stop) = (&load, &stop);
            (0..SINGLE_WRITERS).for_each(|n| drop(scope.spawn(move || load.write_singles(n, address, stop))));
            (0..BATCH_WRITERS).for_each(|n| drop(scope.spawn(move || load.write_batches(n, address, stop))));
            // The moment of the kill is the one thing here that is meant to be a matter of time.
            let moment = Instant::now() + Duration::from_millis(5 + random % 200);
            while Instant::now() < moment {
                std::thread::park_timeout(moment.saturating_duration_since(Instant::now()));
            }
            daemon.kill9();
            stop.store(true, Ordering::Relaxed);
        });
        let began = Instant::now();
        daemon.restart();
        starts += began.elapsed();
        slowest = slowest.max(began.elapsed());
        load.verify(&daemon).map_err(|why| format!("after kill {}: {why}", kill + 1))?;
    }
    let ids = load.ids.lock().unwrap().clone();
    for id in &ids {
        let details = daemon.wait_complete(id);
        if details.consumed != BATCH_ROWS || details.failed != 1 || details.ignored != 1 {
            return Err(format!("{id}: {details:?} does not account for its {BATCH_ROWS} rows"));
        }
    }
    load.verify(&daemon)?;
    let (calls, mean) = (load.calls.load(Ordering::Relaxed), starts / u32::try_from(kills).unwrap());
    eprintln!(
        "{kills} kills, {calls} site calls, {} batches acknowledged, nothing lost; ready again after {mean:.0?}, at most {slowest:.0?}",
        ids.len()
    );
    assert!(ids.len() > kills / 2 && calls > kills * 10, "too little was going on to prove anything");
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    kill_again_and_again(KILLS, None).unwrap_or_else(|why| panic!("{why}"));
}

/// The negative control: the journal's write and sync do nothing, and the daemon acknowledges all the same.
#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_that_does_not_journal_is_found_out() {
    let found = std::panic::catch_unwind(|| {
        kill_again_and_again(10, Some("journal-write=return;journal-sync=return"))
    });
    match found {
        Ok(Ok(())) => panic!("a daemon that journals nothing passed the kill test"),
        Ok(Err(why)) => eprintln!("found out: {why}"),
        // It may also refuse to start on a journal that ends before its checkpoint.
        Err(_) => eprintln!("found out: it did not start again"),
    }
}
