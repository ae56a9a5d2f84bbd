//! Durable site calls over HTTP, on keep-alive connections from one process on the same machine: calls a second, and how
//! long they take, with nothing else going on and while batches are uploaded and folded.
//!
//! `cargo bench --bench site_calls [-- CONNECTIONS SECONDS]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod support;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const VISITORS: u64 = 100_000;
const BATCH_ROWS: u64 = 200_000;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let connections = numbers.first().copied().unwrap_or(256);
    let span = Duration::from_secs(numbers.get(1).copied().unwrap_or(10));
    let folder = tempfile::Builder::new().prefix("site").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let daemon = Daemon::start(folder.path(), "[clients.demo]\nv2_creates_profiles = true\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        run(&daemon.address, connections, span, false).await;
        run(&daemon.address, connections, span, true).await;
    });
}

async fn run(address: &str, connections: u64, span: Duration, batches: bool) {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let callers: Vec<_> = (0..connections)
        .map(|n| tokio::spawn(call_until(address.to_owned(), n, Arc::clone(&stop))))
        .collect();
    let poster = batches.then(|| tokio::spawn(post_until(address.to_owned(), Arc::clone(&stop))));
    tokio::time::sleep(span).await;
    stop.store(true, Ordering::Relaxed);
    let mut took = vec![];
    for caller in callers {
        took.extend(caller.await.unwrap());
    }
    let elapsed = began.elapsed();
    let posted = match poster {
        Some(poster) => poster.await.unwrap(),
        None => 0,
    };
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{connections} connections, {}: {} durable site calls in {elapsed:.1?}, {:.0}/s; p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
        if batches {
            format!("{posted} batches of {BATCH_ROWS} rows meanwhile")
        } else {
            "nothing else".into()
        },
        took.len(),
        took.len() as f64 / elapsed.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

async fn call_until(address: String, seed: u64, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut random, mut took, mut answer) = (seed + 1, vec![], vec![0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let visitor = random % VISITORS;
        let call = format!(
            "GET /m2/demo/mbox/json?mbox=home&mboxSession=s{visitor}&mboxPC=pc{visitor}&profile.page=p{random}&profile.n={seed} HTTP/1.1\r\nHost: {address}\r\n\r\n"
        );
        let began = Instant::now();
        stream.write_all(call.as_bytes()).await.unwrap();
        read_answer(&mut stream, &mut answer).await;
        took.push(began.elapsed());
    }
    took
}

/// Reads one answer that must be a success: its head, then as much as it says.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut held = 0;
    loop {
        let read = stream.read(&mut buffer[held..]).await.unwrap();
        assert!(read > 0, "the daemon closed the connection");
        held += read;
        let text = std::str::from_utf8(&buffer[..held]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return;
        }
    }
}

/// Posts batches on the same visitors, one after the other.
async fn post_until(address: String, stop: Arc<AtomicBool>) -> usize {
    let mut posted = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut file = String::from("batch=pcId,tier,points,city,lastPurchase,segment\n");
        for row in 0..BATCH_ROWS {
            let visitor = row * 7_919 % (2 * VISITORS);
            writeln!(file, "pc{visitor},gold,{row},Amsterdam-{},2026-11-02,segment-{posted}", row % 89)
                .unwrap();
        }
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /m2/demo/profile/batchUpdate HTTP/1.1\r\nHost: {address}\r\nContent-Type: text/csv\r\nContent-Length: {}\r\n\r\n",
            file.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(file.as_bytes()).await.unwrap();
        read_answer(&mut stream, &mut [0; 4096]).await;
        posted += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    posted
}
