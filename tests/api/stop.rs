//! Stopping the real daemon: what has begun is finished or cut off in time, and leaves nothing or all of it.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::load::wait_until;
use crate::support::{Daemon, request, wait_for};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_secs(10);

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

/// Its batch is not complete for an hour; so long it could hold the stop up.
#[test]
fn a_stream_of_events_ends_whole_and_at_once_when_the_daemon_stops() {
    let mut daemon = Daemon::start_configured("[clients.demo]\nbatch_shows_after_seconds = 3600");
    let id = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\n");
    let events = request("GET", &format!("/api/v1/batches/{id}/events"), "a", &[], None);
    let mut open: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for connection in &mut open {
        connection.write(&events);
        let head = connection.read_head();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    }
    let stopped = Instant::now();
    daemon.terminate();
    for mut connection in open {
        // Without its last chunk this would not come back.
        let reported = String::from_utf8(connection.read_chunks()).unwrap();
        assert!(
            reported.starts_with("event: progress\ndata: {") && reported.ends_with("}\n\n"),
            "{reported}"
        );
        assert!(!reported.contains("event: complete"), "{reported}");
        assert!(connection.is_closed());
    }
    assert_eq!(daemon.ended().code(), Some(0));
    // Connections that do not end by themselves are cut off after six seconds.
    assert!(stopped.elapsed() < Duration::from_secs(5), "{:?}", stopped.elapsed());
    daemon.restart();
    assert_eq!(daemon.get(&format!("/api/v1/batches/{id}")).json()["status"], "incomplete");
}

/// The batch files in the spool folder.
fn files(daemon: &Daemon) -> Vec<PathBuf> {
    daemon.spooled().into_iter().filter(|path| path.extension().is_some_and(|it| it == "csv")).collect()
}

#[test]
fn uploads_that_are_still_under_way_are_cut_off_with_an_answer_and_leave_nothing() {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let accepted = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,kept\n");
    let kept = files(&daemon);
    assert_eq!(kept.len(), 1);

    let mut compressed = flate2::write::GzEncoder::new(vec![], flate2::Compression::none());
    compressed.write_all(b"batch=thirdPartyId,a\nx,lost\n").unwrap();
    compressed.flush().unwrap();
    let compressed = compressed.get_ref().clone();
    let plain = b"batch=thirdPartyId,a\nx,lost\n";
    // Some go on sending, some are silent, one is compressed.
    let uploads: [(&str, &[u8], bool); 5] = [
        ("identity", plain, true),
        ("identity", plain, true),
        ("identity", plain, false),
        ("gzip", &compressed, false),
        ("identity", b"", false),
    ];
    let (begun, stopped) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for (encoding, bytes, goes_on) in uploads {
            let mut client = daemon.connect();
            let headers = [("Content-Length", "50000000"), ("Content-Encoding", encoding)];
            client.write(&request("POST", V2, "a", &headers, None));
            client.write(bytes);
            let begun = &begun;
            scope.spawn(move || {
                let mut next = Instant::now();
                begun.fetch_add(1, Ordering::Relaxed);
                while goes_on && !client.has_come() {
                    next += Duration::from_millis(20);
                    wait_until(next);
                    client.write(b"y,1\n");
                }
                let reply = client.read();
                assert_eq!(reply.status, 503, "{encoding} {goes_on}: {}", reply.text());
                assert!(reply.text().contains("stopping"), "{}", reply.text());
                assert_eq!(reply.header("retry-after"), Some("1"));
                assert_eq!(reply.header("connection"), Some("close"));
                assert!(stopped.elapsed() < STOP_MAX);
            });
        }
        wait_for("all uploads to have begun", || {
            (begun.load(Ordering::Relaxed) == uploads.len() && files(&daemon).len() == 1 + uploads.len())
                .then_some(())
        });
        daemon.terminate();
    });
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(stopped.elapsed() < STOP_MAX, "{:?}", stopped.elapsed());
    assert_eq!(files(&daemon), kept, "of what was cut off nothing is left");

    daemon.restart();
    assert_eq!(daemon.wait_complete(&accepted).successful, 1);
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("kept"));
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 1);
}
