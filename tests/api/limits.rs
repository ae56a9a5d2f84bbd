//! Limits of the real daemon: a caller who passes a limit is refused with the reason, the refusal is counted, and no other caller
//! suffers.

use std::time::{Duration, Instant};

use crate::support::{self, Daemon, request, wait_for};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";

#[test]
fn more_uploads_at_once_than_there_may_be_are_refused() {
    let daemon = Daemon::start_with(&["--concurrent-uploads-max=1"]);
    let mut first = daemon.connect();
    let upload = request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n"));
    let (begun, rest) = upload.split_at(upload.len() - 4);
    first.write(begun);
    wait_for("the upload to have begun", || (daemon.metrics().value("profiled_uploads") > 0.0).then_some(()));
    let refused = daemon.try_batch(V2, "batch=thirdPartyId,a\nx,1\n");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(daemon.metrics().hits("concurrent_uploads"), 1);
    first.write(rest);
    assert_eq!(first.read().status, 200);
    daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\n");
}

#[test]
fn more_kept_bytes_than_there_may_be_are_refused() {
    let daemon = Daemon::start_with(&["--spool-max-bytes=100"]);
    let file = format!("batch=thirdPartyId,a\nx,{}\n", "1".repeat(100));
    let refused = daemon.try_batch(V2, file);
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(refused.text().contains("spool_max_bytes"), "{}", refused.text());
    assert_eq!(daemon.metrics().hits("spool_bytes"), 1);
}

#[test]
fn more_exports_at_once_than_there_may_be_are_refused() {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true");
    let mut file = String::from("batch=thirdPartyId,a\n");
    let value = "x".repeat(100_000);
    // More than the system keeps for a client that does not read.
    (0..300).for_each(|n| file.extend([&n.to_string(), ",", &value, "\n"]));
    daemon.post_batch("demo", file);
    let export = request("GET", "/api/v1/export?client=demo&format=ndjson", "a", &[], None);
    let mut running: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    for connection in &mut running {
        connection.write(&export);
        assert_eq!(connection.status(), 200);
    }
    let refused = daemon.send(&export);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(daemon.metrics().hits("concurrent_exports"), 1);
    // Another caller gets a place: one of the exports that are not read is ended.
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&export);
    assert_eq!(other.status(), 200);
    assert_eq!(daemon.metrics().hits("made_room"), 1);
    drop((running, other));
    wait_for("a place to be free", || {
        let mut again = daemon.connect();
        again.write(&export);
        (again.status() == 200).then_some(())
    });
}

/// A batch that does not show yet is not complete, so its streams of events stay open.
#[test]
fn more_streams_of_events_at_once_than_there_may_be_are_refused() {
    let daemon = Daemon::start_configured("[clients.demo]\nbatch_shows_after_seconds = 3600");
    let id = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\n");
    let events = request("GET", &format!("/api/v1/batches/{id}/events"), "a", &[], None);
    let mut open: Vec<_> = (0..256).map(|_| daemon.connect()).collect();
    for connection in &mut open {
        connection.write(&events);
        assert_eq!(connection.status(), 200);
    }
    // A stream may have no end, so only its beginning is read.
    let one_more = || {
        let mut connection = daemon.connect();
        connection.write(&events);
        let status = connection.status();
        (status, connection)
    };
    assert_eq!(one_more().0, 503);
    let refused = daemon.send(&events);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let reported = "256 streams of events are open, no more are at once: close one, or ask for the batch itself now and then";
    assert_eq!(refused.json()["message"], reported);
    assert_eq!(daemon.metrics().hits("event_streams"), 2);
    assert_eq!(daemon.get(&format!("/api/v1/batches/{id}")).status, 200, "which is still reported");
    // Each stream that ends makes place for exactly one.
    let gone = Instant::now();
    drop(open.pop());
    open.push(wait_for("a place to be free", || {
        let (status, again) = one_more();
        (status == 200).then_some(again)
    }));
    // The daemon only notices that a listener has gone when it writes: every 15 seconds if there is no news. If the listener had read
    // everything, its machine only answers the first write with a reset, and the second write fails.
    assert!(gone.elapsed() < Duration::from_secs(40), "a client that goes is missed: {:?}", gone.elapsed());
    assert_eq!(one_more().0, 503);
    // Another caller gets a place at once: the stream that has been open longest is ended.
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&events);
    assert_eq!(other.status(), 200);
    assert_eq!(daemon.metrics().hits("made_room"), 1);
}

#[test]
fn a_header_that_is_too_large_gets_one_clear_answer() {
    let daemon = Daemon::start_with(&["--uri-bytes-max=1000", "--header-bytes-max=4KiB", "--headers-max=20"]);
    let good = request("GET", "/healthz", "a", &[], None);
    let check = |bytes: &str, status: u16, words: &str| {
        for before in [b"".as_slice(), &good] {
            let mut connection = daemon.connect();
            connection.write(&[before, bytes.as_bytes()].concat());
            if !before.is_empty() {
                assert_eq!(connection.read().status, 200);
            }
            let reply = connection.read();
            assert_eq!(reply.status, status, "{words}: {}", reply.text());
            assert!(reply.text().contains(words), "{words}: {}", reply.text());
            assert_eq!(reply.header("connection"), Some("close"));
            assert!(connection.is_closed(), "{words}");
        }
    };
    let long = "x".repeat(5_000);
    let ended = "HTTP/1.1\r\nHost: a\r\n\r\n";
    check(
        &format!("GET /m2/demo/mbox/json?mboxPC={long} {ended}"),
        414,
        "\"error\":\"the path with its query",
    );
    check(&format!("GET /{}%C3%A9 {ended}", "x".repeat(996)), 414, "1000 bytes");
    check(&format!("GET /{long}{long}"), 414, "1000 bytes");
    check(&format!("GET /healthz HTTP/1.1\r\nHost: a\r\nCookie: {long}\r\n\r\n"), 431, "4096 bytes");
    check(&format!("GET /healthz HTTP/1.1\r\n{long}"), 431, "4096 bytes");
    check(&format!("{long} / {ended}"), 431, "4096 bytes");
    let many = "A: b\r\n".repeat(30);
    check(&format!("GET /healthz HTTP/1.1\r\n{many}\r\n"), 431, "20 lines");
    check(&format!("POST {V2} HTTP/1.1\r\nContent-Length: 9\r\n{many}\r\n"), 431, "<message>the header has");
    let seen = daemon.metrics();
    assert_eq!([seen.hits("uri_length"), seen.hits("header_size"), seen.hits("header_count")], [6, 6, 4]);

    let fits = format!("GET /{} HTTP/1.1\r\nHost: a\r\n{}\r\n", "x".repeat(999), "A: b\r\n".repeat(19));
    assert_eq!(daemon.send(fits.as_bytes()).status, 404);
    assert_eq!(daemon.metrics().hits("header_count"), 4);
}

#[test]
fn more_lines_than_hyper_takes_by_itself_can_be_allowed() {
    let daemon = Daemon::start_with(&["--headers-max=300"]);
    let with =
        |lines: usize| format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(lines - 1));
    assert_eq!(daemon.send(with(300).as_bytes()).status, 200);
    assert_eq!(daemon.send(with(301).as_bytes()).status, 431);
}

/// An upload that has begun, and the rest of its bytes.
fn begun_upload(daemon: &Daemon, connection: &mut support::Connection) -> Vec<u8> {
    // Indexes and outcomes come and go beside them.
    let files =
        || daemon.spooled().iter().filter(|file| file.extension().is_some_and(|it| it == "csv")).count();
    let before = files();
    let upload = request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n"));
    let (begun, rest) = upload.split_at(upload.len() - 4);
    connection.write(begun);
    wait_for("an upload to have begun", || (files() > before).then_some(()));
    rest.to_vec()
}

fn answers(connection: &mut support::Connection) {
    connection.write(&request("GET", "/healthz", "a", &[], None));
    assert_eq!(connection.read().status, 200);
}

#[test]
fn when_all_connections_are_taken_the_one_idle_longest_makes_room() {
    let daemon = Daemon::start_with(&["--connections-max=4"]);
    let mut busy = daemon.connect();
    let rest = begun_upload(&daemon, &mut busy);
    let [mut long, mut silent, mut short] = std::array::from_fn(|_| daemon.connect());
    answers(&mut long);
    answers(&mut short);
    answers(&mut long);
    // The connection that has sent nothing has been idle longest; then comes the one that was answered once.
    answers(&mut daemon.connect());
    assert!(silent.is_closed());
    let mut kept = daemon.connect();
    answers(&mut kept);
    let mut further = daemon.connect();
    answers(&mut further);
    assert!(short.is_closed());
    busy.write(&rest);
    assert_eq!(busy.read().status, 200);
    drop((long, kept, further, busy));
    assert!(daemon.metrics().hits("connections") > 0);
}

#[test]
fn when_all_connections_are_busy_new_ones_wait() {
    let daemon = Daemon::start_with(&["--connections-max=2"]);
    let mut busy = [daemon.connect(), daemon.connect()];
    let rest: Vec<_> = busy.iter_mut().map(|connection| begun_upload(&daemon, connection)).collect();
    let mut waiting = daemon.connect();
    waiting.write(&request("GET", "/metrics", "a", &[], None));
    busy[0].write(&rest[0]);
    assert_eq!(busy[0].read().status, 200);
    assert!(busy[0].is_closed(), "it is asked for its place as soon as it is idle");
    let seen = support::metrics::Exposition::parse(&waiting.read().text()).unwrap();
    assert!(seen.hits("connections") > 0);
    busy[1].write(&rest[1]);
    assert_eq!(busy[1].read().status, 200);
}

#[test]
fn those_who_never_finish_a_header_keep_nobody_out() {
    let daemon = Daemon::start_with(&["--connections-max=8", "--header-read-timeout-seconds=3600"]);
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = daemon.connect();
            connection.write(b"GET /healthz HTTP/1.1\r\nHo");
            connection
        })
        .collect();
    let mut others: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    others.iter_mut().for_each(answers);
    drop(slow);
}

#[test]
fn an_address_has_so_many_connections_and_others_theirs() {
    let daemon = Daemon::start_with(&["--connections-per-address-max=2", "--loopback-exempt=false"]);
    let [mut first, mut second, mut third] = std::array::from_fn(|_| daemon.connect());
    answers(&mut first);
    answers(&mut second);
    third.write(&request("GET", "/m2/demo/mbox/json", "a", &[], None));
    let refused = third.read();
    assert_eq!((refused.status, refused.header("connection")), (429, Some("close")));
    assert!(refused.text().contains("\"error\":\"your address has 2 connections"), "{}", refused.text());
    assert!(third.is_closed());
    answers(&mut daemon.connect_from([127, 0, 0, 2]));
    drop(first);
    let seen = wait_for("a place to be free", || {
        let mut again = daemon.connect();
        again.write(&request("GET", "/metrics", "a", &[], None));
        let reply = again.read();
        (reply.status == 200).then(|| support::metrics::Exposition::parse(&reply.text()).unwrap())
    });
    assert!(seen.hits("connections_per_address") > 0);
    answers(&mut second);
}

#[test]
fn callers_on_this_machine_are_spared_the_limit_per_address() {
    let daemon = Daemon::start_with(&["--connections-per-address-max=1"]);
    let mut connections: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    connections.iter_mut().for_each(answers);
}

#[test]
fn a_daemon_of_few_file_handles_keeps_those_it_needs() {
    let mut daemon = Daemon::configured("journal_segment_bytes = '64KiB'");
    daemon.keep_complaints().set_handles(64).restart();
    daemon.wait_for_complaint("connections_max=16");
    let value = "x".repeat(4_000);
    let mut crowd: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
    for n in 1..101 {
        // Each of them is more than a tenth of a segment of the journal.
        daemon.mbox("demo", &format!("mbox3rdPartyId={n}&profile.a={value}&profile.b={value}"));
        crowd.push(daemon.connect());
    }
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\n7,1\n");
    assert_eq!(daemon.wait_complete(&batch).successful, 1);
    drop(crowd);
    let mut uploads: Vec<_> = (0..12)
        .map(|_| {
            let mut connection = daemon.connect();
            let rest = begun_upload(&daemon, &mut connection);
            (connection, rest)
        })
        .collect();
    for (connection, rest) in &mut uploads {
        connection.write(rest);
        assert_eq!(connection.read().status, 200);
    }
    assert_eq!(daemon.value("demo", "third-party", "7", "b"), Some(value));
    drop(uploads);
    let seen = daemon.metrics();
    assert!(seen.hits("connections") > 0);
    assert_eq!(seen.hits("accept_backoff"), 0, "connections left the others' handles alone");
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn a_daemon_whose_file_handles_run_out_goes_on_and_serves_all_when_they_come_back() {
    let mut daemon = Daemon::configured("");
    daemon.keep_complaints().restart();
    daemon.mbox("demo", "mbox3rdPartyId=x&profile.a=1");
    let mut kept = daemon.connect();
    answers(&mut kept);
    // Open files stay open, but no new one can be opened.
    let before = daemon.limit_handles(3);
    let mut later = daemon.connect();
    later.write(&request("GET", "/healthz", "a", &[], None));

    let mut on_kept = |method: &str, path: &str, body: Option<&[u8]>| {
        kept.write(&request(method, path, "a", &[], body));
        kept.read()
    };
    wait_for("a connection that cannot be accepted", || {
        let seen = support::metrics::Exposition::parse(&on_kept("GET", "/metrics", None).text()).unwrap();
        (seen.hits("accept_backoff") > 1).then_some(())
    });
    assert_eq!(on_kept("GET", "/m2/demo/mbox/json?mbox3rdPartyId=x&profile.a=2", None).status, 200);
    let visitor = on_kept("GET", "/api/v1/profiles/x?client=demo", None);
    assert_eq!(visitor.json()["attributes"]["a"]["value"], "2");
    let refused = on_kept("POST", V2, Some(b"batch=thirdPartyId,a\nx,3\n"));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert!(refused.text().contains("no more files"), "{}", refused.text());
    // The store is synced all the same. Once, its file was opened for that, and the failure ended the daemon.
    wait_for("a checkpoint that cannot be written", || {
        daemon.complaints().contains("a checkpoint could not be taken").then_some(())
    });

    daemon.limit_handles(before);
    assert_eq!(later.read().status, 200);
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,4\n");
    daemon.wait_complete(&batch);
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("4"));
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn a_client_makes_so_many_batch_calls_a_minute_and_is_refused_before_its_body_is_read() {
    let settings = "batch_calls_per_minute = 2\n[clients.a]\n[clients.b]\nbatch_calls_per_minute = 1\n[clients.c]\n\
                    batch_calls_per_minute = 0";
    let daemon = Daemon::start_configured(settings);
    let (v1, v2) = ("profile/batchUpdate", "v2/profile/batchUpdate");
    let post = |client: &str, version: &str| {
        daemon.try_batch(&format!("/m2/{client}/{version}"), "batch=thirdPartyId,a\nx,1\n")
    };
    let refused = |client: &str, per_minute: u64| {
        // No byte of the body is sent, but the answer comes.
        let head = request("POST", &format!("/m2/{client}/{v2}"), "a", &[("Content-Length", "1000")], None);
        let reply = daemon.send(&head);
        assert_eq!(reply.status, 503, "{}", reply.text());
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60 / per_minute).contains(&wait), "{wait}");
        assert_eq!(reply.element("success").as_deref(), Some("false"));
        let reported = format!("client {client} may make {per_minute} batch calls a minute");
        assert!(reply.element("message").unwrap().starts_with(&reported), "{}", reply.text());
    };
    assert_eq!([post("a", v1).status, post("a", v2).status], [200, 200]);
    refused("a", 2);
    assert_eq!(post("b", v1).status, 200);
    refused("b", 1);
    assert!((0..10).all(|_| post("c", v2).status == 200));
    assert_eq!((0..10).filter(|_| post("nobody", v2).status == 404).count(), 10);
    assert_eq!(daemon.metrics().hits("client_rate"), 2);
    daemon.mbox("a", "mbox3rdPartyId=x");
}

#[test]
fn an_address_makes_so_many_site_calls_a_second() {
    let daemon = Daemon::start_with(&["--site-calls-per-second=5", "--loopback-exempt=false"]);
    let call = request("GET", "/m2/demo/mbox/json?mboxPC=1", "a", &[("Origin", "https://p.example")], None);
    let mut connection = daemon.connect();
    let mut taken = 0;
    let refused = loop {
        connection.write(&call);
        let reply = connection.read();
        if reply.status != 200 {
            break reply;
        }
        taken += 1;
        assert!(taken < 1_000, "nothing was refused");
    };
    assert!(taken >= 5, "{taken}");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    assert!(refused.text().contains("\"error\":\"your address may make 5 site calls a second"));
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://p.example"));
    assert_eq!(refused.header("connection"), None, "the page may go on on its connection");
    assert_eq!(daemon.call("OPTIONS", "/rest/v1/delivery", &[], None).status, 204);
    assert_eq!(daemon.get("/m2/demo/profile/update?mboxPC=1&profile.a=1").status, 200);
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&call);
    assert_eq!(other.read().status, 200);
    assert_eq!(daemon.metrics().hits("address_rate"), 1);
}

#[test]
fn site_calls_of_this_machine_are_spared_the_limit_per_address() {
    let daemon = Daemon::start_with(&["--site-calls-per-second=1"]);
    for _ in 0..20 {
        daemon.mbox("demo", "mboxPC=1");
    }
}

/// `SIGHUP` reads the settings again. New limits and clients count for new connections and calls. A file that can't be read changes
/// nothing, and settings that only a start can change stay.
#[test]
fn limits_follow_the_settings_at_a_hangup() {
    let mut daemon = Daemon::configured("rows_limit = 1\n[clients.demo]\n");
    daemon.keep_complaints().set_variable("PROFILED_LOG", "info").restart();
    let two = "batch=pcId,a\n1,2\n3,4\n";
    let status = |client: &str| daemon.try_batch(&format!("/m2/{client}/v2/profile/batchUpdate"), two).status;
    assert_eq!((status("demo"), status("other")), (413, 404));
    daemon.configure(
        "rows_limit = 2\nlisten = '127.0.0.1:1'\ndata = 'elsewhere'\n[clients.demo]\n[clients.other]\n",
    );
    daemon.hang_up();
    wait_for("the new limit", || (status("demo") == 200).then_some(()));
    assert_eq!(status("other"), 200);

    daemon.configure(
        "rows_limit = 1\nheaders_max = 20\nuri_bytes_max = 300\n[clients.demo]\nbatch_calls_per_minute = 1\n",
    );
    daemon.hang_up();
    wait_for("the new limit", || (status("other") == 404).then_some(()));
    let long = format!("/healthz?{}", "x".repeat(300));
    assert_eq!(daemon.get(&long).status, 414);
    // The first call counts.
    assert_eq!((status("demo"), status("demo")), (413, 503));

    daemon.configure("rows_limit = none\n");
    daemon.hang_up();
    wait_for("the complaint", || {
        daemon.complaints().contains("the settings could not be reloaded").then_some(())
    });
    daemon.wait_for_complaint("profiled.toml line 1");
    assert_eq!((status("other"), daemon.get(&long).status), (404, 414));
}

/// A daemon whose clock leaps ahead by forty days when the file exists that `CLOCK_LEAPS_WITH` names.
const LEAPING_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    const char *file = getenv("CLOCK_LEAPS_WITH");
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME && file && access(file, F_OK) == 0) at->tv_sec += 40 * 86400;
    return result;
}
"#;

/// If the clock leaps ahead while the daemon runs, the daemon ignores the leap until an operator says that it is right.
#[test]
fn a_hangup_accepts_a_clock_that_leapt() {
    let folder = tempfile::tempdir().unwrap();
    let [source, library, leaps] = ["clock.c", "clock.so", "leaps"].map(|name| folder.path().join(name));
    std::fs::write(&source, LEAPING_CLOCK).unwrap();
    // Rust links with it, so that it is there.
    let mut compile = std::process::Command::new("cc");
    let compiled = compile.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());

    let mut daemon = Daemon::configured("");
    daemon.keep_complaints().set_variable("LD_PRELOAD", library.to_str().unwrap());
    daemon.set_variable("CLOCK_LEAPS_WITH", leaps.to_str().unwrap()).restart();
    let written_at = || {
        daemon.mbox("demo", "mboxPC=1&profile.a=1");
        let seq = daemon.visitor("demo", "pc", "1").unwrap()["seq"].as_str().unwrap().parse::<u64>().unwrap();
        Duration::from_millis(seq >> 20)
    };
    const DAY: Duration = Duration::from_secs(86_400);
    let before = written_at();
    std::fs::write(&leaps, "").unwrap();
    let ahead_by = || daemon.metrics().value("profiled_clock_disbelieved_seconds");
    wait_for("the leap to be seen", || {
        (written_at() < before + DAY && ahead_by() > 39.0 * 86_400.0).then_some(())
    });
    daemon.hang_up();
    wait_for("the clock to be believed", || (ahead_by() == 0.0).then_some(()));
    assert!(written_at() > before + 39 * DAY);
    daemon.wait_for_complaint("the machine's clock was accepted as it is");
}

/// A lower limit of uploads counts as soon as the running uploads have ended.
#[test]
fn fewer_uploads_at_once_let_those_under_way_finish() {
    let daemon = Daemon::start_configured("concurrent_uploads_max = 2\n");
    let upload = request("POST", V2, "a", &[], Some(b"batch=pcId,a\n1,2\n"));
    let (begun, rest) = upload.split_at(upload.len() - 4);
    let begin = || {
        let mut connection = daemon.connect();
        connection.write(begun);
        connection
    };
    let (mut one, mut two) = (begin(), begin());
    let uploads = |number: f64| {
        wait_for("the uploads", || (daemon.metrics().value("profiled_uploads") == number).then_some(()));
    };
    uploads(2.0);
    let status = || daemon.send(&upload).status;
    assert_eq!(status(), 503);
    daemon.configure("concurrent_uploads_max = 1\nuri_bytes_max = 300\n");
    daemon.hang_up();
    let long = format!("/healthz?{}", "x".repeat(300));
    wait_for("the settings", || (daemon.get(&long).status == 414).then_some(()));
    one.write(rest);
    assert_eq!((one.read().status, status()), (200, 503));
    two.write(rest);
    assert_eq!(two.read().status, 200);
    wait_for("the last place", || (status() == 200).then_some(()));
    let _third = begin();
    uploads(1.0);
    assert_eq!(status(), 503);
}

#[test]
fn more_reports_at_once_than_there_may_be_are_refused() {
    let daemon = Daemon::start();
    // More than the system keeps for a client that does not read.
    let row = format!("nobody,{}\n", "x".repeat(100_000));
    let batch = daemon.post_batch("demo", format!("batch=thirdPartyId,a\n{}", row.repeat(300)));
    daemon.wait_complete(&batch);
    let file = request("GET", &format!("/api/v1/batches/{batch}/file"), "a", &[], None);
    let mut running: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
    for connection in &mut running {
        connection.write(&file);
        assert_eq!(connection.status(), 200);
    }
    let refused = daemon.send(&file);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(daemon.metrics().hits("concurrent_reports"), 1);
    drop(running);
    wait_for("a place to be free", || {
        let mut again = daemon.connect();
        again.write(&file);
        (again.status() == 200).then_some(())
    });
}

/// Once, 100 uploads that sent one line and then nothing kept all others out until they timed out.
#[test]
fn uploads_that_stall_make_room_for_whoever_has_fewer() {
    let daemon = Daemon::start_with(&["--concurrent-uploads-max=8"]);
    let mut stalling: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = daemon.connect();
            begun_upload(&daemon, &mut connection);
            connection
        })
        .collect();
    // A caller's own uploads are not ended for its next one.
    assert_eq!(daemon.try_batch(V2, "batch=thirdPartyId,a\nx,1\n").status, 503);
    let begun = Instant::now();
    daemon.post_batch("other", "batch=thirdPartyId,a\nx,1\n");
    let mut elsewhere = daemon.connect_from([127, 0, 0, 2]);
    elsewhere.write(&request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n")));
    assert_eq!(elsewhere.read().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    // The uploads that have waited longest are ended.
    let ended = stalling.remove(0).read();
    assert_eq!((ended.status, ended.header("retry-after")), (503, Some("1")));
    assert!(ended.text().contains("made room for somebody else"), "{}", ended.text());
    let seen = daemon.metrics();
    assert_eq!((seen.hits("made_room"), seen.hits("concurrent_uploads")), (1, 1));
    assert_eq!(seen.value("profiled_places_taken{of=\"uploads\"}"), 7.0);
}

/// Once, a waiting dry run kept its place among the uploads.
#[test]
fn a_dry_run_that_waits_for_its_turn_is_no_upload() {
    let daemon = Daemon::start_with(&["--concurrent-uploads-max=2"]);
    let mut file = String::from("batch=thirdPartyId,a\n");
    (0..150_000).for_each(|n| file.extend([&n.to_string(), ",1\n"]));
    let dry_run = request("POST", &format!("{V2}?dryRun=true"), "a", &[], Some(file.as_bytes()));
    let mut trying = vec![];
    let (most, rest) = dry_run.split_at(dry_run.len() - 4);
    let places = |of: &str| daemon.metrics().value(&format!("profiled_places_taken{{of=\"{of}\"}}"));
    for _ in 0..2 {
        // On a busy machine an upload takes longer than a connection may be silent.
        let mut pair = [daemon.connect(), daemon.connect()];
        pair.iter_mut().for_each(|connection| connection.write(most));
        wait_for("both uploads to have begun", || (places("uploads") == 2.0).then_some(()));
        pair.iter_mut().for_each(|connection| connection.write(rest));
        wait_for("both uploads to be in", || (places("uploads") == 0.0).then_some(()));
        trying.extend(pair);
    }
    daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\n");
    for connection in &mut trying {
        assert_eq!(connection.read().status, 200);
    }
    assert_eq!(daemon.metrics().hits("concurrent_uploads"), 0);
}

/// Once, four clients that did not read blocked all exports for as long as they liked.
#[test]
fn answers_that_nobody_reads_make_room_and_are_broken_off() {
    let daemon = Daemon::start_with(&["--answer-idle-timeout-seconds=8"]);
    // More than the system keeps for a client that does not read.
    let row = format!("nobody,{}\n", "x".repeat(100_000));
    let file = format!("batch=thirdPartyId,a\n{}", row.repeat(300));
    let batch = daemon.post_batch("demo", file.clone());
    let theirs = daemon.post_batch("other", file);
    daemon.wait_complete(&batch);
    daemon.wait_complete(&theirs);
    let read = |batch: &str| request("GET", &format!("/api/v1/batches/{batch}/file"), "a", &[], None);
    let mut unread: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
    for connection in &mut unread {
        connection.write(&read(&batch));
        assert_eq!(connection.status(), 200);
    }
    let (mut other, begun) = (daemon.connect(), Instant::now());
    other.write(&read(&theirs));
    assert_eq!(other.status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(6), "it waited until one was broken off by itself");
    let seen = daemon.metrics();
    assert_eq!((seen.hits("made_room"), seen.value("profiled_places_taken{of=\"reports\"}")), (1, 16.0));
    // The others are ended when they have not read for too long.
    wait_for("those that are not read to be gone", || {
        let seen = daemon.metrics();
        let gone = seen.value("profiled_places_taken{of=\"reports\"}") == 0.0;
        (gone && seen.hits("answer_unread") + seen.hits("answer_rate") >= 15).then_some(())
    });
}

/// Once, each call read up to eight whole uploads, and any number of calls did so at once.
#[test]
fn searches_for_lines_take_turns() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox3rdPartyId=x");
    let row = format!("nobody,{}\n", "y".repeat(90));
    let batch = daemon.post_batch("demo", format!("batch=thirdPartyId,a\nx,1\n{}", row.repeat(250_000)));
    daemon.wait_complete(&batch);
    let lines = request("GET", "/api/v1/profiles/x?client=demo&lines=true", "a", &[], None);
    let mut asking: Vec<_> = (0..40).map(|_| daemon.connect()).collect();
    asking.iter_mut().for_each(|connection| connection.write(&lines));
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("1"), "others are answered");
    assert!(daemon.metrics().value("profiled_places_taken{of=\"line_searches\"}") <= 2.0);
    // The queue is full. Another caller still gets its turn, in place of one of these.
    wait_for("the queue to be full", || {
        (daemon.metrics().hits("concurrent_line_searches") > 0).then_some(())
    });
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&lines);
    assert_eq!(other.read().status, 200);
    let replies: Vec<_> = asking.iter_mut().map(support::Connection::read).collect();
    let reported = replies.iter().filter(|reply| reply.status == 200);
    let reported = reported.map(|reply| reply.json()["attributes"]["a"]["line"].as_u64()).collect::<Vec<_>>();
    assert!(reported.len() >= 9 && reported.iter().all(|line| *line == Some(2)), "{reported:?}");
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|it| (it.status, it.header("retry-after")) == (503, Some("1"))));
    let seen = daemon.metrics();
    assert_eq!(seen.hits("concurrent_line_searches") + seen.hits("made_room"), refused.len() as u64);
}

/// How many bytes a site call makes the daemon read and journal if this many batches with this many rows of its id are pending.
fn resolving_costs(batches: usize, rows: usize) -> [f64; 2] {
    let daemon = Daemon::start_configured(
        "[clients.demo]\nv2_creates_profiles = true\n[ingest]\nmax_rows_per_second = 1\n",
    );
    daemon.mbox("demo", "mbox3rdPartyId=hot&profile.n=0");
    for batch in 0..batches {
        let rows: String = (0..rows).map(|n| format!("hot,{n},{batch}\n")).collect();
        daemon.post_batch("demo", format!("batch=thirdPartyId,a,b\n{rows}"));
    }
    // The first batch is applied at once at any rate. The rate then holds the others back.
    let most_are_pending = || {
        let pending = daemon.metrics().value("profiled_rows_pending");
        assert!(pending >= ((batches - 1) * rows) as f64, "{pending} rows are pending");
    };
    let spent = || [daemon.bytes_read() as f64, daemon.metrics().value("profiled_journal_bytes_total")];
    most_are_pending();
    let before = spent();
    daemon.mbox("demo", "mbox3rdPartyId=hot&profile.n=1");
    let after = spent();
    most_are_pending();
    assert_eq!(daemon.value("demo", "third-party", "hot", "a"), Some((rows - 1).to_string()));
    [after[0] - before[0], after[1] - before[1]]
}

/// Thirty batches of half a million rows of one id kept the commit thread for half a minute, and the watchdog ended it.
#[test]
fn the_cost_of_resolving_an_id_depends_on_its_batches_and_not_on_their_rows() {
    let (few, many) = (resolving_costs(20, 200), resolving_costs(20, 20_000));
    println!("bytes read and journaled: {few:?} for 20 batches of 200 rows, {many:?} for 20 of 20,000");
    for (few, many) in few.into_iter().zip(many) {
        assert!(many <= 2.0 * few + 65_536.0, "{many} bytes where a hundredth of the rows take {few}");
    }
    let fewer = resolving_costs(10, 20_000);
    assert!(fewer[1] < many[1], "{fewer:?} for half the batches, {many:?} for all");
}
