//! Continuous lookups and site calls beside other work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Client, answer_in};
use super::{Random, Times, rows};

/// Connections that look up visitors.
const LOOKERS: u64 = 4;
/// Each connection starts a lookup at this interval, however long the one before took.
const LOOKUP_EVERY: Duration = Duration::from_millis(4);
/// The resulting rate of lookups.
pub const LOOKUPS_A_SECOND: f64 = 1_000.0;

/// The times of lookups.
pub struct Lookups {
    /// From the time each lookup was due, so that a stall counts for all lookups due during it.
    pub times: Times,
    /// How late the bench's own threads woke. `times` includes this delay, which is not the daemon's.
    pub woke_late: Times,
}

/// Looks up 1,000 visitors a second while `meanwhile` runs.
pub fn look_up_during<T>(address: &str, profiles: usize, meanwhile: impl FnOnce() -> T) -> (Lookups, T) {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        let looking: Vec<_> = (0..LOOKERS)
            .map(|seed| scope.spawn(move || look_up_until(address, profiles, seed, stop)))
            .collect();
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let (mut times, mut woke_late) = (vec![], vec![]);
        for (took, late) in looking.into_iter().map(|one| one.join().unwrap()) {
            times.extend(took);
            woke_late.extend(late);
        }
        (Lookups { times: Times::new(times), woke_late: Times::new(woke_late) }, done)
    })
}

fn look_up_until(
    address: &str,
    profiles: usize,
    seed: u64,
    stop: &AtomicBool,
) -> (Vec<Duration>, Vec<Duration>) {
    let mut client = Client::connect(address);
    let (mut random, mut times, mut woke_late) = (Random::new(seed), vec![], vec![]);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early);
            woke_late.push(due.elapsed());
        }
        let answer = client.profile(&rows::id(random.below(profiles)));
        assert_eq!(answer.status, 200, "{}", answer.body);
        times.push(due.elapsed());
        due += LOOKUP_EVERY;
    }
    (times, woke_late)
}

/// Makes site calls on many connections, each as soon as the last is answered, while `meanwhile` runs. Returns their
/// times and their rate.
pub fn site_calls_during<T>(
    address: &str,
    connections: u64,
    profiles: usize,
    meanwhile: impl FnOnce() -> T,
) -> (Times, f64, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let calling = {
        let (address, stop) = (address.to_owned(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call_until(&address, connections, profiles, &stop))
        })
    };
    let began = Instant::now();
    let done = meanwhile();
    stop.store(true, Ordering::Relaxed);
    let elapsed = began.elapsed();
    let times = Times::new(calling.join().unwrap());
    let rate = times.len() as f64 / elapsed.as_secs_f64();
    (times, rate, done)
}

async fn call_until(
    address: &str,
    connections: u64,
    profiles: usize,
    stop: &Arc<AtomicBool>,
) -> Vec<Duration> {
    let callers: Vec<_> = (0..connections)
        .map(|seed| tokio::spawn(call_on_one(address.to_owned(), seed, profiles, Arc::clone(stop))))
        .collect();
    let mut times = vec![];
    for caller in callers {
        times.extend(caller.await.unwrap());
    }
    times
}

/// Logs in the first `visitors` visitors on a device each, on many connections. Each pcId is then linked to its
/// visitor.
pub fn log_in_all(address: &str, connections: u64, visitors: usize) {
    let log_in = |address: String, first: usize| async move {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for visitor in (first..visitors).step_by(usize::try_from(connections).unwrap()) {
            let ids = format!("mboxPC={}&mbox3rdPartyId={}", rows::pc_id(visitor), rows::id(visitor));
            call(&mut stream, &address, &format!("mbox=home&mboxSession=s{visitor}&{ids}")).await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let devices = (0..usize::try_from(connections).unwrap())
            .map(|first| tokio::spawn(log_in(address.to_owned(), first)))
            .collect::<Vec<_>>();
        for device in devices {
            device.await.unwrap();
        }
    });
}

async fn call_on_one(address: String, seed: u64, profiles: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut random, mut times) = (Random::new(seed), vec![]);
    while !stop.load(Ordering::Relaxed) {
        let (visitor, page) = (random.below(profiles), random.below(1_000));
        let parameters = format!(
            "mbox=home&mboxSession=s{visitor}&mbox3rdPartyId={}&profile.page=p{page}&profile.n={seed}",
            rows::id(visitor)
        );
        let began = Instant::now();
        call(&mut stream, &address, &parameters).await;
        times.push(began.elapsed());
    }
    times
}

/// Makes one site call and reads its answer.
async fn call(stream: &mut TcpStream, address: &str, parameters: &str) {
    let call = format!("GET /m2/demo/mbox/json?{parameters} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut answer = vec![];
    let status = loop {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the daemon closed the connection");
        if let Some((answer, _)) = answer_in(&answer) {
            break answer.status;
        }
    };
    assert_eq!(status, 200);
}
