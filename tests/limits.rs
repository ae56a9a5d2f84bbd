//! Limits of the real daemon: whoever passes one is told so, it is counted, and nobody else suffers.

mod support;

use support::{Daemon, request, wait_for};

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
