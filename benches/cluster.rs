//! Measures nodes over Kafka beside a plain daemon, in one run: site calls, a batch, and a
//! node that catches up. The brokers run already, and for some minutes: before Java has compiled them, they reach
//! about two thirds of what they do later.
//!
//! `cargo bench --features benches,cluster --bench cluster -- --brokers 127.0.0.1:9092,… [--seconds 10 --rows 500k --away 1M]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use support::load::site_calls_during;
use support::rows::{Batch, csv, seeds};
use support::{CREATES, Daemon, Times, count, kernel};

/// The same allocator as the daemon, so that measurements in this process are comparable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sizes of a run.
#[derive(Parser)]
struct Sizes {
    /// HOST:PORT of the brokers
    #[arg(long)]
    brokers: String,
    /// Seconds of site calls
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections that make site calls
    #[arg(long, default_value_t = 256)]
    connections: u64,
    /// Rows of a batch
    #[arg(long, default_value = "500k", value_parser = count)]
    rows: usize,
    /// Site calls that the other nodes take while one is away
    #[arg(long, default_value = "1M", value_parser = count)]
    away: usize,
    /// Topics without flush.messages=1
    #[arg(long)]
    no_flush: bool,
    /// `cargo bench` passes this to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let sizes = Sizes::parse();
    let folder = tempfile::Builder::new().prefix("cluster").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("| | site calls/s | p50 ms | p99 ms | longest ms | CPU µs a call, nodes |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let plain = vec![Daemon::start(&made(folder.path(), "plain"), CREATES)];
    sizes.measure("plain daemon", &plain);
    drop(plain);
    for count in [1, 3] {
        let prefix = format!("bench-{}-{count}", std::process::id());
        let folders: Vec<_> = (0..count).map(|n| made(folder.path(), &format!("{prefix}-{n}"))).collect();
        let start = |n: usize| sizes.node(&folders[n], &prefix, n);
        let mut nodes: Vec<Daemon> = (0..count).map(start).collect();
        sizes.measure(&format!("{count} nodes"), &nodes);
        if count > 1 {
            nodes.pop().unwrap().stop();
            sizes.catch_up(&nodes, || start(count - 1));
        }
    }
}

fn made(folder: &Path, name: &str) -> std::path::PathBuf {
    let made = folder.join(name);
    std::fs::create_dir(&made).unwrap();
    made
}

impl Sizes {
    /// Starts a node on a folder, which may have its data.
    fn node(&self, folder: &Path, prefix: &str, n: usize) -> Daemon {
        let (order, name) = (format!("kafka://{}/{prefix}", self.brokers), format!("n{n}"));
        let mut flags = vec!["--order", &order, "--node", &name];
        if self.no_flush {
            flags.push("--trust-replication");
        }
        Daemon::start_with(folder, CREATES, &flags)
    }

    fn measure(&self, what: &str, nodes: &[Daemon]) {
        let span = Duration::from_secs(self.seconds);
        let share = self.connections / nodes.len() as u64;
        let cpu = || {
            nodes
                .iter()
                .map(|node| kernel::processor_seconds(node.pid()))
                .map(|(user, system)| user + system)
                .sum::<f64>()
        };
        let calls = |span| calls_at(nodes, share, span);
        // Each caller logs in once before it counts.
        calls(Duration::from_secs(2));
        let before = cpu();
        let done = calls(span);
        let spent = cpu() - before;
        let rate: f64 = done.iter().map(|(_, rate, ())| rate).sum();
        let all: usize = done.iter().map(|(times, ..)| times.len()).sum();
        let worst = |share: f64| done.iter().map(|(times, ..)| times.at(share)).fold(0.0, f64::max);
        println!(
            "| {what} | {rate:.0} | {:.1} | {:.1} | {:.0} | {:.0} |",
            worst(0.5),
            worst(0.99),
            worst(1.0),
            spent / all as f64 * 1e6
        );
        self.batch(what, nodes);
    }

    /// What a node that was away applies in a second, until it is ready.
    fn catch_up(&self, others: &[Daemon], back: impl FnOnce() -> Daemon) {
        let (share, began) = (self.connections / others.len() as u64, Instant::now());
        let mut taken = 0;
        while taken < self.away {
            let done = calls_at(others, share, Duration::from_secs(self.seconds));
            taken += done.iter().map(|(times, ..)| times.len()).sum::<usize>();
        }
        let while_away = taken as f64 / began.elapsed().as_secs_f64();
        let ready = back().ready_after.as_secs_f64();
        eprintln!(
            "a node that was away for {taken} calls, taken at {while_away:.0}/s, was ready again after {ready:.1} s: {:.0}/s",
            taken as f64 / ready
        );
    }

    fn batch(&self, what: &str, nodes: &[Daemon]) {
        let mut clients: Vec<_> = nodes.iter().map(Daemon::client).collect();
        let seed = csv(seeds(0..self.rows));
        let id = clients[0].post(true, &seed);
        clients.iter_mut().for_each(|client| wait_for(client, &id));
        let batch = Batch { profiles: self.rows, rows: self.rows, round: 1 };
        let file = batch.csv();
        let mut longest = Duration::ZERO;
        let began = Instant::now();
        let id = clients[0].post(false, &file);
        let acknowledged = began.elapsed();
        let mut readable = vec![];
        for client in &mut clients {
            while !client.shows(batch, batch.rows - 1) {
                assert!(began.elapsed() < Duration::from_secs(60));
            }
            readable.push(began.elapsed());
        }
        clients.iter_mut().for_each(|client| wait_for(client, &id));
        let complete = began.elapsed();
        // A site call at another node, again and again while another batch comes in.
        if let Some(other) = nodes.get(1) {
            longest = {
                let mut caller = other.client();
                let poster = nodes[0].address.clone();
                let posting =
                    std::thread::spawn(move || support::client::Client::connect(&poster).post(false, &file));
                let mut worst = Duration::ZERO;
                while !posting.is_finished() {
                    let began = Instant::now();
                    caller.get("/m2/demo/mbox/json?mbox=home&mboxSession=s1&mboxPC=beside");
                    worst = worst.max(began.elapsed());
                }
                let began = Instant::now();
                caller.get("/m2/demo/mbox/json?mbox=home&mboxSession=s1&mboxPC=beside");
                posting.join().unwrap();
                worst.max(began.elapsed())
            };
        }
        eprintln!(
            "{what}: {} rows, {} MB: acknowledged {:.2} s, readable everywhere {:.2} s, complete everywhere {:.1} s; a site call at \
             another node waited {:.0} ms at most",
            batch.rows,
            batch.csv().len() >> 20,
            acknowledged.as_secs_f64(),
            readable.iter().max().unwrap().as_secs_f64(),
            complete.as_secs_f64(),
            longest.as_secs_f64() * 1e3
        );
    }
}

fn wait_for(client: &mut support::client::Client, id: &str) {
    while !client.is_complete(id) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Site calls at all nodes at once, on so many connections each.
fn calls_at(nodes: &[Daemon], share: u64, span: Duration) -> Vec<(Times, f64, ())> {
    std::thread::scope(|scope| {
        let call =
            |node: &Daemon| site_calls_during(&node.address, share, 10_000, || std::thread::sleep(span));
        let calling: Vec<_> = nodes.iter().map(|node| scope.spawn(move || call(node))).collect();
        calling.into_iter().map(|one| one.join().unwrap()).collect()
    })
}
