//! Applying rows at a limited rate (R10): the rate is kept, lookups and writes stay right meanwhile, and a new rate counts at once.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::support::{Daemon, wait_for};

/// A batch of rows `v0`, `v1` … for visitors without a profile, except the named ones.
fn batch(rows: usize) -> String {
    let mut file = String::from("batch=thirdPartyId,a,b\n");
    for row in 0..rows {
        writeln!(file, "v{row},batch,{row}").unwrap();
    }
    file
}

#[test]
fn a_rate_is_kept_and_lookups_show_what_is_not_applied_yet() {
    let daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 1000");
    daemon.mbox("demo", "mbox3rdPartyId=v0&profile.a=site");
    daemon.mbox("demo", "mbox3rdPartyId=v2999&profile.a=site");
    let accepted = Instant::now();
    let posted = daemon.post_batch("demo", batch(3000));
    // Both show at once, whichever of the two is applied last.
    for (id, b) in [("v0", "0"), ("v2999", "2999")] {
        assert_eq!(daemon.value("demo", "third-party", id, "b").as_deref(), Some(b));
        assert_eq!(daemon.value("demo", "third-party", id, "a").as_deref(), Some("batch"));
    }
    daemon.mbox("demo", "mbox3rdPartyId=v2999&profile.a=later");
    let seen = daemon.metrics();
    assert_eq!(seen.value("profiled_fold_rows_per_second_max"), 1000.0);
    assert_eq!(seen.value("profiled_batches_pending"), 1.0);
    assert!(seen.value("profiled_rows_pending") > 0.0, "{seen:?}");
    let details = daemon.wait_complete(&posted);
    // A burst of 50 ms and two steps may come before their time.
    let least = Duration::from_millis((3000 - 50 - 2 * 128) - 100);
    assert!(accepted.elapsed() >= least, "{:?}", accepted.elapsed());
    assert_eq!((details.successful, details.not_found, details.consumed), (2, 2998, 3000));
    assert_eq!(daemon.value("demo", "third-party", "v2999", "a").as_deref(), Some("later"));
    assert_eq!(daemon.value("demo", "third-party", "v0", "a").as_deref(), Some("batch"));
    let seen = daemon.metrics();
    assert!(seen.value(r#"profiled_fold_held_back_seconds_total{by="rate"}"#) > 1.0, "{seen:?}");
    assert_eq!(seen.value("profiled_rows_folded_total"), 3000.0);
}

#[test]
fn another_rate_counts_at_a_hangup_and_a_crash_at_a_slow_one_loses_nothing() {
    let mut daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 1");
    daemon.mbox("demo", "mbox3rdPartyId=v7");
    let posted = daemon.post_batch("demo", batch(2000));
    daemon.kill9().restart();
    assert_eq!(daemon.value("demo", "third-party", "v7", "a").as_deref(), Some("batch"));
    assert_eq!(daemon.metrics().value("profiled_batches_pending"), 1.0);
    // At the old rate that would take half an hour.
    daemon.configure("");
    daemon.hang_up();
    assert_eq!(daemon.wait_complete(&posted).successful, 1);
    assert_eq!(daemon.metrics().value("profiled_fold_rows_per_second_max"), 0.0);
}

#[test]
fn a_stop_does_not_wait_for_a_slow_batch() {
    let mut daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 1");
    daemon.mbox("demo", "mbox3rdPartyId=v0");
    daemon.post_batch("demo", batch(1000));
    wait_for("applying to wait", || {
        let held = daemon.metrics().value(r#"profiled_fold_held_back_seconds_total{by="rate"}"#);
        (held > 0.0).then_some(())
    });
    daemon.terminate();
    assert!(daemon.ended().success());
}

#[test]
fn applying_gives_way_to_site_calls_and_still_ends() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox3rdPartyId=v7");
    let posted = daemon.post_batch("demo", batch(60_000));
    let held = r#"profiled_fold_held_back_seconds_total{by="site_calls"}"#;
    let mut calls = 0;
    wait_for("a step to wait for a site call", || {
        daemon.mbox("demo", &format!("mbox3rdPartyId=other{calls}&profile.a=1"));
        calls += 1;
        (daemon.metrics().value(held) > 0.0).then_some(())
    });
    assert_eq!(daemon.wait_complete(&posted).successful, 1);
}
