//! Site calls and overlapping batches from many connections, and the checks of what an interrupted daemon must still have of them.
//! Every write has a number that only rises.
//!
//! A write sets two attributes to its number. So half of a write shows, and the number says which write it is.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Daemon, request};

/// The configuration of the daemon.
/// Segments and snapshots are small and short-lived, so that all that happens to them happens often.
pub const SETTINGS: &str = "disk_reserve_bytes = \"16MiB\"\njournal_segment_bytes = \"256KiB\"\nsnapshot_journal_bytes = \"1MiB\"\n\
     [clients.demo]\nv2_creates_profiles = true\n";

const SINGLE_WRITERS: usize = 6;
const VISITORS_EACH: usize = 4;
const BATCH_WRITERS: usize = 2;
const BATCH_VISITORS: usize = 300;
const SHARED_ROWS: usize = 20;
/// The visitors, those of the single writers, one bad row and one empty one.
const BATCH_ROWS: u64 = (BATCH_VISITORS + SHARED_ROWS + 2) as u64;

/// What was sent and what was acknowledged.
#[derive(Default)]
pub struct Load {
    singles: Vec<Mutex<Rising>>,
    batches: Vec<Mutex<Rising>>,
    ids: Mutex<Vec<String>>,
    calls: AtomicUsize,
    /// Calls may be refused with a 5xx; they are then not acknowledged, and may or may not have been applied.
    may_be_refused: bool,
}

/// One visitor's numbers, or one batch writer's.
#[derive(Default, Clone, Copy)]
struct Rising {
    tried: u64,
    acknowledged: u64,
}

/// What was acknowledged at one moment.
pub struct Mark {
    singles: Vec<u64>,
    batches: Vec<u64>,
    ids: usize,
}

impl Load {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self {
            singles: (0..SINGLE_WRITERS * VISITORS_EACH).map(|_| Mutex::default()).collect(),
            batches: (0..BATCH_WRITERS).map(|_| Mutex::default()).collect(),
            ..Self::default()
        }
    }

    /// The same, for a daemon in which something fails.
    pub fn that_may_be_refused() -> Self {
        Self { may_be_refused: true, ..Self::new() }
    }

    /// Runs all writers until `end` returns, which must have killed the daemon.
    pub fn run_for(&self, time: Duration, address: SocketAddr, end: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stops_in_any_case = Stops(&stop);
            let stop = &stop;
            (0..SINGLE_WRITERS).for_each(|n| drop(scope.spawn(move || self.write_singles(n, address, stop))));
            (0..BATCH_WRITERS).for_each(|n| drop(scope.spawn(move || self.write_batches(n, address, stop))));
            scope.spawn(move || keep_up(address, stop));
            wait_until(Instant::now() + time);
            end();
        });
    }

    /// How many site calls were acknowledged.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many batches were acknowledged.
    pub fn batches(&self) -> usize {
        locked(&self.ids).len()
    }

    /// What is acknowledged now.
    pub fn mark(&self) -> Mark {
        let numbers = |all: &[Mutex<Rising>]| all.iter().map(|one| locked(one).acknowledged).collect();
        Mark { singles: numbers(&self.singles), batches: numbers(&self.batches), ids: self.batches() }
    }

    /// Only writes that were acknowledged at that moment count: the daemon goes on from a copy of its disk from then.
    pub fn return_to(&self, mark: &Mark) {
        let all = self.singles.iter().chain(&self.batches);
        for (rising, &number) in all.zip(mark.singles.iter().chain(&mark.batches)) {
            locked(rising).acknowledged = number;
        }
        locked(&self.ids).truncate(mark.ids);
    }

    /// Whether every acknowledged write is there, whole. From then on, writes that were seen count as acknowledged.
    pub fn verify(&self, daemon: &Daemon) -> Result<(), String> {
        for (n, rising) in self.singles.iter().enumerate() {
            let mut rising = locked(rising);
            check_pc(daemon, n, rising.acknowledged)?;
            rising.acknowledged = check(daemon, &format!("s{n}"), *rising)?;
        }
        for (writer, rising) in self.batches.iter().enumerate() {
            let mut rising = locked(rising);
            let seen: Result<Vec<u64>, String> = (0..BATCH_VISITORS)
                .map(|visitor| check(daemon, &format!("b{writer}-{visitor}"), *rising))
                .collect();
            let seen = seen?;
            // A batch is one write: it is there for all of its visitors or for none.
            rising.acknowledged = seen.iter().copied().max().unwrap_or_default();
            if let Some(visitor) = seen.iter().position(|&number| number != rising.acknowledged) {
                let (here, number) = (seen[visitor], rising.acknowledged);
                return Err(format!("b{writer}-{visitor} has {here}, others of its batches have {number}"));
            }
        }
        for id in locked(&self.ids).iter() {
            let reply = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={id}"));
            if reply.status != 200 {
                return Err(format!("acknowledged batch {id} is lost: {}", reply.text()));
            }
        }
        Ok(())
    }

    /// Whether every batch completes, and its counts add up to its rows.
    pub fn account_for_batches(&self, daemon: &Daemon) -> Result<(), String> {
        for id in locked(&self.ids).iter() {
            let details = daemon.wait_complete(id);
            if details.consumed != BATCH_ROWS || details.failed != 1 || details.ignored != 1 {
                return Err(format!("{id}: {details:?} does not account for its {BATCH_ROWS} rows"));
            }
        }
        Ok(())
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
                Some((200, _)) => {
                    locked(&self.singles[visitor]).acknowledged = n;
                    self.calls.fetch_add(1, Ordering::Relaxed);
                }
                Some((500.., _)) if self.may_be_refused => {}
                Some((status, body)) => panic!("a site call was answered {status}: {body}"),
                None => {}
            }
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
            for visitor in 0..SHARED_ROWS {
                writeln!(file, "s{visitor},,,{k}").unwrap();
            }
            file.push_str("bad%zz,1,1,1\nempty,,,\n");
            let headers = [("Content-Type", "text/csv"), ("Connection", "close")];
            let call =
                request("POST", "/m2/demo/v2/profile/batchUpdate", "a", &headers, Some(file.as_bytes()));
            match attempt(address, &call) {
                Some((200, body)) => {
                    let id = body.split("batchId=").nth(1).unwrap().split('<').next().unwrap();
                    locked(&self.ids).push(id.to_owned());
                    locked(&self.batches[writer]).acknowledged = k;
                }
                Some((500.., _)) if self.may_be_refused => {}
                Some((status, body)) => panic!("a batch was answered {status}: {body}"),
                None => {}
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Erasures and compactions all the while, so that snapshots, fresh stores and retired segments are met, too, and uploads in
/// which rows are overwritten.
fn keep_up(address: SocketAddr, stop: &AtomicBool) {
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Connection", "close")];
    let json = [("Content-Type", "application/json"), ("Connection", "close")];
    let text = [("Content-Type", "text/csv"), ("Connection", "close")];
    let mbox = b"mbox=m&mboxPC=erased&profile.x=1";
    let batch = b"batch=pcId,x\nerased,2\nsomebody,2\nerased,3\n";
    while !stop.load(Ordering::Relaxed) {
        for call in [
            request("POST", "/m2/demo/mbox/json", "a", &form, Some(mbox)),
            request("POST", "/m2/demo/profile/batchUpdate", "a", &text, Some(batch)),
            request("DELETE", "/api/v1/profiles/erased?by=pc&client=demo", "a", &form, None),
            request("POST", "/api/v1/compact", "a", &json, Some(b"{}")),
        ] {
            if attempt(address, &call).is_none() {
                break;
            }
        }
    }
}

/// Stops the writers if a test fails. Otherwise the test would wait for them for ever.
struct Stops<'s>(&'s AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Random moments for interruptions, the same ones every time.
pub struct Moments(u64);

impl Moments {
    /// The sequence of that seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    /// The next one, from `least` on and less than `spread` later.
    pub fn next(&mut self, least: Duration, spread: Duration) -> Duration {
        // xorshift
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let spread = u64::try_from(spread.as_micros()).unwrap();
        least + Duration::from_micros(self.0 % spread)
    }
}

/// Waits for a while. Only interruptions may depend on time.
pub fn wait_until(moment: Instant) {
    while Instant::now() < moment {
        std::thread::park_timeout(moment.saturating_duration_since(Instant::now()));
    }
}

/// A test may go on after a check that broke off because the daemon ended while it was asked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tried(rising: &Mutex<Rising>) -> u64 {
    let mut rising = locked(rising);
    rising.tried += 1;
    rising.tried
}

/// The number that a visitor has, if it is one that it may have.
fn check(daemon: &Daemon, id: &str, rising: Rising) -> Result<u64, String> {
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
    Ok(x)
}

fn check_pc(daemon: &Daemon, visitor: usize, acknowledged: u64) -> Result<(), String> {
    if acknowledged > 0 && daemon.visitor("demo", "pc", &format!("pc{visitor}")).is_none() {
        return Err(format!("pc{visitor} leads nowhere, though its bind was acknowledged"));
    }
    Ok(())
}

/// Sends a call and reads its answer; nothing if the daemon went away before it was whole.
pub fn attempt(address: SocketAddr, call: &[u8]) -> Option<(u16, String)> {
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
