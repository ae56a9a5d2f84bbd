//! Attacks the real release daemon for some seconds each, while honest clients look up visitors. Prints a row per
//! attack: the answers, the longest connection, the daemon's memory, and the times of the honest lookups.
//!
//! `cargo bench --features benches --bench attacks [-- SECONDS]`
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a bench prints, and stops where it cannot go on"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use support::Daemon;

const VISITORS: u64 = 20_000;
/// The number of honest clients.
const LOOKERS: u64 = 4;
const SLOW_CONNECTIONS: usize = 500;
const STALLED: &str = "POST /m2/demo/v2/profile/batchUpdate HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\n\
                       Content-Length: 1000\r\n\r\nbatch=pcId,a\n";
const EXPORT: &str = "GET /api/v1/export?client=demo&format=ndjson HTTP/1.1\r\nHost: a\r\n\r\n";
const LINES: &str = "GET /api/v1/profiles/pc1?client=demo&by=pc&lines=true HTTP/1.1\r\nHost: a\r\n\
                     Connection: close\r\n\r\n";
/// A batch of another client.
const OTHERS_BATCH: &str = "POST /m2/other/v2/profile/batchUpdate HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\n\
                            Connection: close\r\nContent-Length: 17\r\n\r\nbatch=pcId,a\n1,2\n";
const OTHERS_EXPORT: &str = "GET /api/v1/export?client=other&format=ndjson HTTP/1.1\r\nHost: a\r\n\
                             Connection: close\r\n\r\n";
const BATCH: &str = "POST /m2/demo/v2/profile/batchUpdate HTTP/1.1\r\nHost: a\r\nContent-Type: text/csv\r\n";

/// How often an attack got each answer: a status, `closed` without an answer, or `refused` to connect.
type Answers = BTreeMap<String, usize>;

/// One connection of an attacker, from its first byte to its end.
type Attack = fn(SocketAddr, &AtomicBool) -> String;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5);
    let span = Duration::from_secs(seconds);
    let folder = tempfile::Builder::new().prefix("attacks").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = "header_read_timeout_seconds = 4\nbody_idle_timeout_seconds = 4\n\
                    [clients.demo]\nv2_creates_profiles = true\n[clients.other]\nv2_creates_profiles = true\n";
    let daemon = Daemon::start(folder.path(), settings);
    let address: SocketAddr = daemon.address.parse().unwrap();
    make_visitors(address);

    for bomb in [&GZIP_BOMB, &ZSTD_BOMB, &EMPTY_MEMBERS] {
        LazyLock::force(bomb);
    }
    println!("| attack | at once | answers | longest | peak memory | others' p50 | p99 | slowest |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let row = |name: &str, attackers: usize, attack: Attack| {
        let (answers, longest, took) = under_attack(address, span, attackers, attack);
        let answers: Vec<String> =
            answers.iter().map(|(answer, count)| format!("{count}× {answer}")).collect();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "| {name} | {attackers} | {} | {:.1} s | {} MiB | {:.2} ms | {:.2} ms | {:.1} ms |",
            answers.join(", "),
            longest.as_secs_f64(),
            daemon.memory("VmHWM") >> 10,
            at(0.5),
            at(0.99),
            at(1.0),
        );
    };
    row("none", 0, |_, _| String::new());
    row("headers, a byte a second", SLOW_CONNECTIONS, |address, stop| {
        trickle(address, "GET /healthz HTTP/1.1\r\n", stop)
    });
    row("bodies, a byte a second", SLOW_CONNECTIONS, |address, stop| {
        trickle(address, &format!("{BATCH}Content-Length: 1000\r\n\r\n"), stop)
    });
    row("connections that say nothing", SLOW_CONNECTIONS, |address, _| exchange(address, b"", false));
    row("50 MB and a byte, in chunks", 4, |address, _| exchange(address, &chunks_without_end(), true));
    row("10 GiB of zeros as gzip", 4, |address, _| exchange(address, &bomb("gzip", &GZIP_BOMB), true));
    row("10 GiB of zeros as zstd", 4, |address, _| exchange(address, &bomb("zstd", &ZSTD_BOMB), true));
    row("50 MB of empty gzip members", 4, |address, _| {
        exchange(address, &bomb("gzip", &EMPTY_MEMBERS), true)
    });
    row("10,000 header lines", 8, |address, _| {
        let lines = "X: y\r\n".repeat(10_000);
        exchange(address, format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes(), true)
    });
    row("a header line of 5 MB", 8, |address, _| {
        let line = "x".repeat(5 << 20);
        exchange(address, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {line}\r\n\r\n").as_bytes(), true)
    });
    row("a path of 5 MB", 8, |address, _| {
        let path = "x".repeat(5 << 20);
        exchange(address, format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), true)
    });
    row("a chunk extension of 1 MB", 8, |address, _| {
        let extension = "x".repeat(1 << 20);
        let request = format!("{BATCH}Transfer-Encoding: chunked\r\n\r\n5;{extension}\r\nbatch\r\n0\r\n\r\n");
        exchange(address, request.as_bytes(), true)
    });
    row("length and chunks at once", 8, |address, _| {
        let request = format!("{BATCH}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
        exchange(address, request.as_bytes(), true)
    });
    row("a bare line feed", 8, |address, _| exchange(address, b"GET /healthz HTTP/1.1\nHost: a\n\n", true));
    row("connect, and leave", 8, |address, _| exchange(address, b"", true));
    row("uploads that send a line and no more", 100, |address, stop| hang(address, STALLED, stop));
    row("exports that are not read", 16, |address, stop| hang(address, EXPORT, stop));
    row("`lines=true`", 64, |address, _| exchange(address, LINES.as_bytes(), false));
    row("uploads broken off", 8, |address, _| {
        let mut request = format!("{BATCH}Content-Length: 40000000\r\n\r\nbatch=pcId,a\n");
        request.push_str(&"1,2\n".repeat(100_000));
        exchange(address, request.as_bytes(), true)
    });

    println!("\n| somebody else's call beside | at once | answers | p50 | p99 | slowest |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let row = |name: &str, attackers: usize, attack: Attack, call: &str| {
        println!("| {name} | {attackers} | {} |", beside(address, span, attackers, attack, call));
    };
    row(
        "a batch: uploads that send a line and no more",
        100,
        |address, stop| hang(address, STALLED, stop),
        OTHERS_BATCH,
    );
    row(
        "an export: exports that are not read",
        16,
        |address, stop| hang(address, EXPORT, stop),
        OTHERS_EXPORT,
    );
}

/// Times another client's call while attackers hold all slots. Returns the answers and the times.
fn beside(address: SocketAddr, span: Duration, attackers: usize, attack: Attack, call: &str) -> String {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        for _ in 0..attackers {
            let one = std::thread::Builder::new().stack_size(256 << 10);
            let attacker = move || {
                while !stop.load(Ordering::Relaxed) {
                    attack(address, stop);
                }
            };
            one.spawn_scoped(scope, attacker).unwrap();
        }
        let (mut answers, mut took) = (Answers::new(), vec![]);
        let begun = Instant::now();
        while begun.elapsed() < span {
            std::thread::sleep(Duration::from_millis(20));
            let began = Instant::now();
            *answers.entry(exchange(address, call.as_bytes(), false)).or_default() += 1;
            took.push(began.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        let answers: Vec<String> =
            answers.iter().map(|(answer, count)| format!("{count}× {answer}")).collect();
        format!("{} | {:.1} ms | {:.1} ms | {:.1} ms", answers.join(", "), at(0.5), at(0.99), at(1.0))
    })
}

/// Sends the start of a request, then neither reads nor sends until the daemon ends the connection.
fn hang(address: SocketAddr, start: &str, stop: &AtomicBool) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return "refused".into() };
    if stream.write_all(start.as_bytes()).is_err() {
        return "closed".into();
    }
    let mut seen = 0;
    stream.set_nonblocking(true).unwrap();
    let mut piece = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        // A short answer is read at once; a long one is read a little at a time.
        match stream.read(&mut piece) {
            Ok(0) if seen == 0 => return "closed".into(),
            Ok(0) => return String::from_utf8_lossy(&piece[9..12]).into(),
            Ok(read) if seen == 0 => {
                seen = read;
                if !piece.starts_with(b"HTTP/1.1 200") {
                    let status = String::from_utf8_lossy(&piece[9..12]).into_owned();
                    std::thread::sleep(Duration::from_secs(1));
                    return status;
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return "broken off".into(),
        }
        if seen > 0 {
            piece = [0; 4096];
            piece[9..12].copy_from_slice(b"200");
        }
    }
    "went on to the end".into()
}

/// Repeats an attack beside honest lookups. Returns the answers, the longest connection, and the lookup times in order.
fn under_attack(
    address: SocketAddr,
    span: Duration,
    attackers: usize,
    attack: Attack,
) -> (Answers, Duration, Vec<Duration>) {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        let attacking: Vec<_> = (0..attackers)
            .map(|_| {
                let one = std::thread::Builder::new().stack_size(256 << 10);
                let attacker = move || {
                    let (mut answers, mut longest) = (vec![], Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        answers.push(attack(address, stop));
                        longest = longest.max(began.elapsed());
                    }
                    (answers, longest)
                };
                one.spawn_scoped(scope, attacker).unwrap()
            })
            .collect();
        let looking: Vec<_> =
            (0..LOOKERS).map(|seed| scope.spawn(move || look_up_until(address, seed, stop))).collect();
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        let mut took: Vec<Duration> = looking.into_iter().flat_map(|one| one.join().unwrap()).collect();
        took.sort_unstable();
        let (mut answers, mut longest) = (Answers::new(), Duration::ZERO);
        for attacker in attacking {
            let (all, time) = attacker.join().unwrap();
            all.into_iter().for_each(|answer| *answers.entry(answer).or_default() += 1);
            longest = longest.max(time);
        }
        (answers, longest, took)
    })
}

/// Sends bytes and reads to the end of the connection. Returns the statuses of the answers. With `ends` the client
/// closes its sending side.
fn exchange(address: SocketAddr, bytes: &[u8], ends: bool) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return "refused".into() };
    // The daemon may reject the request without reading all of it.
    let sent = stream.write_all(bytes);
    if ends && sent.is_ok() {
        drop(stream.shutdown(Shutdown::Write));
    }
    ended(stream)
}

fn ended(mut stream: TcpStream) -> String {
    let mut answer = vec![];
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    let statuses: Vec<&str> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    if statuses.is_empty() { "closed".into() } else { statuses.join(" ") }
}

/// Sends the start of a request, then one byte a second until the daemon ends the connection.
fn trickle(address: SocketAddr, start: &str, stop: &AtomicBool) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return "refused".into() };
    let mut sent = stream.write_all(start.as_bytes());
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while sent.is_ok() && !stop.load(Ordering::Relaxed) {
        // An answer, or the end, may come at any time.
        match stream.peek(&mut [0]) {
            Ok(_) => break,
            Err(_) => sent = stream.write_all(b"x"),
        }
    }
    if stop.load(Ordering::Relaxed) {
        return "went on to the end".into();
    }
    let answer = ended(stream);
    // The attacker stays connected; it does not flood.
    std::thread::sleep(Duration::from_secs(1));
    answer
}

fn chunks_without_end() -> Vec<u8> {
    let mut request = format!("{BATCH}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let chunk = format!("batch=pcId,a\n{}", "1,2\n".repeat(16_000));
    while request.len() < 52_428_800 + 100_000 {
        write!(request, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

static GZIP_BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut member = GzEncoder::new(vec![], Compression::fast());
    std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut member).unwrap();
    member.finish().unwrap().repeat(10)
});
static ZSTD_BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let frame = zstd::encode_all(std::io::repeat(0).take(1 << 30), 3).unwrap();
    frame.repeat(10)
});
static EMPTY_MEMBERS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let member = GzEncoder::new(vec![], Compression::fast()).finish().unwrap();
    member.repeat(50_000_000 / member.len())
});

fn bomb(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut request =
        format!("{BATCH}Content-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n", bytes.len())
            .into_bytes();
    request.extend_from_slice(bytes);
    request
}

fn make_visitors(address: SocketAddr) {
    // Their export is larger than what the system buffers for a client that does not read.
    let mut file = String::from("batch=pcId,tier,points,note\n");
    let note = "x".repeat(1000);
    for n in 0..VISITORS {
        writeln!(file, "pc{n},gold,{n},{note}").unwrap();
    }
    let request = format!("{BATCH}Content-Length: {}\r\nConnection: close\r\n\r\n{file}", file.len());
    assert_eq!(exchange(address, request.as_bytes(), false), "200");
}

/// Looks up visitors on one connection until asked to stop. Returns the time of each lookup.
fn look_up_until(address: SocketAddr, seed: u64, stop: &AtomicBool) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut random, mut took, mut answer) = (seed + 1, vec![], vec![0; 8192]);
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let request =
            format!("GET /rest/v1/profiles/pc{}?client=demo HTTP/1.1\r\nHost: a\r\n\r\n", random % VISITORS);
        let began = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        let mut held = 0;
        loop {
            let read = stream.read(&mut answer[held..]).unwrap();
            assert!(read > 0, "the daemon closed an honest connection");
            held += read;
            let text = std::str::from_utf8(&answer[..held]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("HTTP/1.1 200"), "{text}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap_or_else(|e| panic!("{length}: {e}")) {
                break;
            }
        }
        took.push(began.elapsed());
        // An honest client also pauses between calls.
        std::thread::sleep(Duration::from_millis(1));
    }
    took
}
