//! HTTP itself, on the real daemon: requests that two readers could understand differently, connections that stall,
//! clients that are still sending when they are refused, and stopping.

mod support;

use std::time::{Duration, Instant};

use support::{Daemon, request, wait_for};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    let daemon = Daemon::start();
    let check = |head: &str, words: &str| {
        let mut connection = daemon.connect();
        connection.write(format!("{head}\r\n").as_bytes());
        let reply = connection.read();
        assert_eq!(reply.status, 400, "{head}");
        assert!(reply.text().contains(words), "{head}: {}", reply.text());
        assert_eq!(reply.header("connection"), Some("close"), "{head}");
        assert!(connection.is_closed(), "{head}");
    };
    let post = format!("POST {V2} HTTP/1.1\r\nHost: a\r\n");
    check(&format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "Transfer-Encoding");
    check(&format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), "Transfer-Encoding");
    check(&format!("{post}Content-Length: 5\r\nContent-Length: 5\r\n"), "Content-Length");
    check(&format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n"), "");
    check(&format!("{post}Host: b\r\n"), "Host");
    check("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "Host");
    check("GET /healthz HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: a\r\n", "Authorization");
}

#[test]
fn http_1_1_asks_for_a_host_and_http_1_0_does_not() {
    let daemon = Daemon::start();
    assert_eq!(daemon.send(b"GET /healthz HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(daemon.send(b"GET /healthz HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn a_client_that_says_it_will_send_no_more_is_answered() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect();
    connection.write(&request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n")));
    connection.end();
    assert_eq!(connection.read().status, 200);
    assert!(connection.is_closed());
}

#[test]
fn a_second_request_on_a_connection_is_watched_as_the_first() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect();
    let good = request("GET", "/healthz", "a", &[], None);
    connection.write(&good);
    assert_eq!(connection.read().status, 200);
    let mut both = good.clone();
    both.extend_from_slice(b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    both.extend_from_slice(&good);
    connection.write(&both);
    assert_eq!(connection.read().status, 200);
    assert_eq!(connection.read().status, 400);
    assert!(connection.is_closed());
}

#[test]
fn a_client_that_is_still_sending_gets_to_read_its_refusal() {
    let daemon = Daemon::start();
    let file = vec![b'x'; 60_000_000];
    let reply = daemon.call("POST", V2, &[("Content-Type", "application/json")], Some(&file));
    assert_eq!(reply.status, 415);
    let reply = daemon.call("POST", V2, &[], Some(&file[..50_000_000]));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("connection"), Some("close"));
    let reply = daemon.call("POST", "/nothing", &[], Some(&file));
    assert_eq!(reply.status, 404);
}

#[test]
fn connections_that_stall_are_closed() {
    let daemon = Daemon::start_with(&[
        "--header-read-timeout-seconds=1",
        "--body-idle-timeout-seconds=1",
        "--idle-connection-timeout-seconds=3",
    ]);
    let begun = Instant::now();
    let mut silent = daemon.connect();
    let mut slow = daemon.connect();
    slow.write(b"GET /healthz HTTP/1.1\r\nHo");
    let mut body = daemon.connect();
    body.write(&request("POST", V2, "a", &[("Content-Length", "100")], None));
    let mut idle = daemon.connect();
    idle.write(&request("GET", "/healthz", "a", &[], None));
    assert_eq!(idle.read().status, 200);
    assert!(silent.is_closed() && slow.is_closed());
    assert_eq!(body.read().status, 408);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    idle.write(&request("GET", "/healthz", "a", &[], None));
    assert_eq!(idle.read().status, 200);
    assert!(idle.is_closed());
    assert!(begun.elapsed() > Duration::from_secs(3));
    let seen = daemon.metrics();
    assert_eq!((seen.hits("header_read_timeout"), seen.hits("body_idle_timeout")), (2, 1));
    assert_eq!(seen.hits("idle_connection"), 1);
}

#[test]
fn a_stop_lets_what_has_begun_finish_and_ends_in_good_order() {
    let mut daemon = Daemon::start();
    let mut idle = daemon.connect();
    idle.write(&request("GET", "/healthz", "a", &[], None));
    assert_eq!(idle.read().status, 200);
    let file = b"batch=thirdPartyId,a\nx,1\n";
    let upload = request("POST", V2, "a", &[], Some(file));
    let (first, rest) = upload.split_at(upload.len() - 4);
    let mut begun = daemon.connect();
    begun.write(first);
    wait_for("the upload to have begun", || (!daemon.spooled().is_empty()).then_some(()));
    let waited = Instant::now();
    daemon.terminate();
    assert!(idle.is_closed());
    begun.write(rest);
    assert_eq!(begun.read().status, 200);
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(waited.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_stop_does_not_wait_for_those_who_never_finish() {
    let mut daemon = Daemon::start();
    let mut begun = daemon.connect();
    begun.write(&request("POST", V2, "a", &[("Content-Length", "100")], None));
    assert_eq!(daemon.send(&request("GET", "/healthz", "a", &[], None)).status, 200);
    let waited = Instant::now();
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(waited.elapsed() < Duration::from_secs(10), "{:?}", waited.elapsed());
}
