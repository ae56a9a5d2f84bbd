//! HTTP itself, on the real daemon: requests that two readers could understand differently, connections that stall,
//! clients that are still sending when they are refused, that ask first whether to send, or that send slowly.

use std::time::{Duration, Instant};

use crate::support::load::wait_until;
use crate::support::{Connection, Daemon, Reply, request, wait_for};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
const SMALL: &str = "batch=thirdPartyId,a\nx,1\n";

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

/// Asks with `Expect: 100-continue` whether to send. Returns the first line of the reply.
fn expecting(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> (Connection, Reply) {
    let mut connection = daemon.connect();
    let mut all = vec![("Expect", "100-continue")];
    all.extend_from_slice(headers);
    connection.write(&request("POST", path, "a", &all, None));
    let reply = connection.read();
    (connection, reply)
}

#[test]
fn who_asks_first_is_refused_before_sending_anything() {
    let check = |daemon: &Daemon, path: &str, headers: &[(&str, &str)], status: u16, words: &str| {
        let (mut connection, reply) = expecting(daemon, path, headers);
        assert_eq!(reply.status, status, "{path} {headers:?}: {}", reply.text());
        assert!(reply.text().contains(words), "{words:?} in {}", reply.text());
        assert_eq!(reply.header("connection"), Some("close"), "{path} {headers:?}");
        assert!(connection.is_closed(), "{path} {headers:?}");
        reply
    };
    let length = ("Content-Length", "100");
    let gzip = ("Content-Encoding", "gzip");
    let daemon = Daemon::start_configured("concurrent_uploads_max = 1\n[clients.demo]\n");
    check(&daemon, V2, &[("Content-Length", "52428800")], 413, "52428800");
    check(&daemon, V2, &[("Content-Length", "9999999999")], 413, "9999999999");
    check(&daemon, V2, &[("Content-Length", "60000000"), gzip], 413, "compressed");
    check(&daemon, V2, &[length, ("Content-Type", "application/json")], 415, "curl");
    check(&daemon, V2, &[length, ("Content-Type", "multipart/form-data; boundary=x")], 415, "curl");
    check(&daemon, V2, &[length, ("Content-Encoding", "br")], 415, "gzip, zstd or deflate");
    check(&daemon, "/m2/other/profile/batchUpdate", &[length], 404, "no client other");
    check(&daemon, "/m2/de$mo/profile/batchUpdate", &[length], 400, "not a client code");
    check(&daemon, &format!("{V2}?emptyValues=perhaps"), &[length], 400, "emptyValues");
    check(&daemon, &format!("{V2}?emptyValues=%FF"), &[length], 400, "UTF-8");
    check(&daemon, "/m2/demo/profile/batchStatus", &[length], 405, "GET");
    check(&daemon, "/nothing", &[length], 404, "nothing at this path");
    check(&daemon, V2, &[length, ("Transfer-Encoding", "chunked")], 400, "Transfer-Encoding");
    check(&daemon, "/m2/demo/profile/update", &[("Content-Length", "70000")], 413, "61440");
    assert_eq!(daemon.spooled().len(), 0);

    let (mut other, goes_on) = expecting(&daemon, V2, &[length]);
    assert_eq!(goes_on.status, 100);
    let busy = check(&daemon, V2, &[length], 503, "too many uploads");
    assert_eq!(busy.header("retry-after"), Some("1"));
    other.write(&[b'x'; 100]);
    assert_eq!(other.read().status, 400);

    let daemon = Daemon::start_with(&["--spool-max-bytes", "200"]);
    let full = |headers: &[(&str, &str)]| {
        let reply = check(&daemon, V2, headers, 507, "spool_max_bytes");
        assert_eq!(reply.header("retry-after"), Some("60"));
    };
    full(&[("Content-Length", "201")]);
    let (mut fits, goes_on) = expecting(&daemon, V2, &[("Content-Length", "150")]);
    assert_eq!(goes_on.status, 100);
    fits.write(format!("{SMALL}{}", "x".repeat(150 - SMALL.len())).as_bytes());
    assert_eq!(fits.read().status, 200);
    full(&[("Content-Length", "60")]);

    let daemon = Daemon::start_configured("disk_reserve_bytes = \"1TiB\"\n");
    let reply = check(&daemon, V2, &[length], 507, "disk_reserve_bytes");
    assert_eq!(reply.header("retry-after"), Some("60"));

    let daemon = Daemon::start_configured("batch_calls_per_minute = 1\n[clients.demo]\n[clients.other]\n");
    let token = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    let (read, unknown) = (format!("Bearer {token}"), format!("Bearer {token}0"));
    daemon.hang_up();
    wait_for("the token to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    check(&daemon, V2, &[length], 403, "Forbidden: a token is needed");
    check(&daemon, V2, &[length, ("Authorization", &unknown)], 403, "not known");
    check(&daemon, V2, &[length, ("Authorization", &read)], 403, "scope");
    check(&daemon, &V2.replace("demo", "other"), &[length, ("Authorization", &read)], 403, "client other");
    let token = daemon.make_token(&["--client", "demo", "--scope", "batch"]);
    let batch = format!("Bearer {token}");
    daemon.hang_up();
    let status = || daemon.call("POST", V2, &[("Authorization", &batch)], Some(SMALL.as_bytes())).status;
    wait_for("the second token to be known", || (status() != 403).then_some(()));
    let reply = check(&daemon, V2, &[length, ("Authorization", &batch)], 503, "batch calls a minute");
    assert!(reply.header("retry-after").is_some());
}

#[test]
fn a_client_that_asks_first_may_send_and_is_answered() {
    let daemon = Daemon::start();
    // The length of a compressed file says little about its decoded length.
    for (length, body) in [(SMALL.len().to_string(), SMALL.as_bytes()), ("52428800".into(), b"")] {
        let encoding = if body.is_empty() { "gzip" } else { "identity" };
        let headers = [("Content-Length", length.as_str()), ("Content-Encoding", encoding)];
        let (mut connection, goes_on) = expecting(&daemon, V2, &headers);
        assert_eq!(goes_on.status, 100);
        if !body.is_empty() {
            connection.write(body);
            assert_eq!(connection.read().status, 200);
            connection.write(&request("GET", "/healthz", "a", &[], None));
            assert_eq!(connection.read().status, 200);
        }
    }
    // A client that does not wait for it is answered, too.
    let mut eager = daemon.connect();
    eager.write(&request("POST", V2, "a", &[("Expect", "100-continue")], Some(SMALL.as_bytes())));
    let mut reply = eager.read();
    if reply.status == 100 {
        reply = eager.read();
    }
    assert_eq!(reply.status, 200);
}

/// Sends a byte now and then, until an answer comes or the time is over. Returns the answer, and how long it took.
fn trickle(
    daemon: &Daemon,
    bytes_at_once: usize,
    every: Duration,
    most: Duration,
) -> (Option<Reply>, Duration) {
    let mut connection = daemon.connect();
    let mut head = request("POST", V2, "a", &[("Content-Length", "1000000")], None);
    head.extend_from_slice(SMALL.as_bytes());
    connection.write(&head);
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed() < most {
        next += every;
        wait_until(next);
        if connection.try_write(&vec![b'x'; bytes_at_once]).is_err() || connection.has_come() {
            let took = begun.elapsed();
            return (Some(connection.read()), took);
        }
    }
    (None, begun.elapsed())
}

#[test]
fn a_body_that_trickles_in_is_given_up_and_leaves_nothing() {
    let arguments = |rate: &'static str| ["--body-idle-timeout-seconds=1", rate];
    let pause = Duration::from_millis(100);
    let daemon = Daemon::start_with(&arguments("--body-bytes-per-second-min=1000"));
    let (reply, took) = trickle(&daemon, 1, pause, Duration::from_secs(20));
    let reply = reply.unwrap();
    assert_eq!(reply.status, 408, "{}", reply.text());
    assert!(reply.text().contains("at least 1000 bytes per second"), "{}", reply.text());
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    wait_for("the spool folder to be empty", || daemon.spooled().is_empty().then_some(()));
    // 200 bytes each tenth of a second are twice the required rate.
    let (reply, _) = trickle(&daemon, 200, pause, Duration::from_secs(4));
    assert_eq!(reply.map(|reply| reply.text()), None);
    // 50 bytes are half of the rate: each second uses up half a second, so the first second lasts for two.
    let (reply, took) = trickle(&daemon, 50, pause, Duration::from_secs(20));
    assert_eq!(reply.unwrap().status, 408);
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    let daemon = Daemon::start_with(&arguments("--body-bytes-per-second-min=0"));
    let (reply, _) = trickle(&daemon, 1, pause, Duration::from_secs(4));
    assert_eq!(reply.map(|reply| reply.text()), None);
}

#[test]
fn a_limit_that_ends_a_request_is_named_in_the_log() {
    let mut daemon = Daemon::configured("rows_limit = 1\nbody_idle_timeout_seconds = 1\n");
    daemon.keep_complaints().set_variable("PROFILED_LOG", "info").restart();
    daemon.try_batch(V2, format!("{SMALL}secret,1\n"));
    let mut silent = daemon.connect();
    silent.write(&request("POST", V2, "a", &[("Content-Length", "100")], None));
    assert_eq!(silent.read().status, 408);
    for limit in ["rows", "body_idle_timeout"] {
        let named =
            |log: &str| log.lines().filter(|line| line.contains(&format!("limit=\"{limit}\""))).count();
        wait_for("the log to name it", || (named(&daemon.complaints()) == 1).then_some(()));
    }
    let log = daemon.complaints();
    assert!(!log.contains("secret"), "{log}");
}

/// hyper refuses such a request without a message, and silently drops everything after a `#`. Adobe accepts these characters in a
/// query ("Page parameters", caveats), so callers send them.
#[test]
fn what_must_be_encoded_in_a_query_is_named_in_the_doors_form() {
    let daemon = Daemon::start();
    for (byte, shown) in [
        ("<", "'<'"),
        (">", "'>'"),
        ("\"", "'\"'"),
        ("#", "'#'"),
        (" ", "a space"),
        ("\t", "a control character"),
    ] {
        let path = format!("/m2/demo/profile/update?mboxPC=1&profile.a=x{byte}y&profile.b=1");
        let refused = daemon.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let encoded = format!("%{:02X}", byte.as_bytes()[0]);
        let reported =
            format!("the path or its query holds {shown} as it is: percent-encode it, as {encoded}");
        let message = refused.element("message").map(|it| it.replace("&lt;", "<").replace("&gt;", ">"));
        assert_eq!((refused.status, message), (400, Some(reported)), "{byte:?}");
        assert_eq!(refused.header("connection"), Some("close"), "{byte:?}");
    }
    daemon.mbox("demo", "mboxPC=1");
    let taken = "GET /m2/demo/profile/update?mboxPC=1&profile.a={}|\\^[] HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(daemon.send(taken.as_bytes()).status, 200);
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("{}|\\^[]"));
}
