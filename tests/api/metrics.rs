//! `/metrics` of the real daemon: what it says, and that it says it as OpenMetrics has it.

use profiled::model::seq::{Clock, SystemClock};

use crate::support::metrics::Exposition;
use crate::support::{Daemon, Reply, wait_for};

/// An alert on what is not there cannot fire.
#[test]
fn what_takes_time_to_be_known_is_there_from_the_start() {
    let daemon = Daemon::start();
    let seen = daemon.metrics();
    for name in [
        "live_profiles",
        "live_profiles_age_seconds",
        "snapshot_age_seconds",
        "expired_profiles_kept",
        "clock_disbelieved_seconds",
        "log_lines_lost_total",
        "expired_began_anew_total",
    ] {
        assert!(seen.has(&format!("profiled_{name}")), "{name}");
    }
}

/// Under the names that Prometheus' own clients use, so that everybody's panels of processes show this one, too.
#[test]
fn the_process_is_measured() {
    let daemon = Daemon::start();
    let (seen, before) = (daemon.metrics(), daemon.cpu_time());
    let check = |name: &str, low: f64, high: f64| {
        let value = seen.value(&format!("process_{name}"));
        assert!((low..high).contains(&value), "{name}: {value}");
    };
    let memory = daemon.memory_kib("VmHWM:") as f64 * 1024.0;
    check("resident_memory_bytes", 1e6, memory + 1.0);
    check("virtual_memory_bytes", 1e7, 1e15);
    check("cpu_seconds_total", 0.0, before.as_secs_f64() + 0.1);
    check("open_fds", 10.0, 1000.0);
    check("max_fds", 11.0, 1e19);
    let now = SystemClock.now().0 as f64 / 1000.0;
    check("start_time_seconds", now - 600.0, now + 2.0);
    let sockets: Vec<_> = (0..40).map(|_| daemon.connect()).collect();
    let more = wait_for("the connections to be counted", || {
        let more = daemon.metrics().value("process_open_fds");
        (more >= seen.value("process_open_fds") + 20.0).then_some(more)
    });
    assert!(more < 1000.0);
    drop(sockets);
}

/// A value with a space has to be quoted by whoever asks for it by hand.
#[test]
fn no_value_of_a_label_has_a_space() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n");
    daemon.wait_complete(&batch);
    for path in ["/", "/batches", "/nothing", "/api/v1/status", &format!("/api/v1/batches/{batch}/outcomes")]
    {
        daemon.get(path);
    }
    let seen = daemon.metrics();
    for label in ["endpoint", "limit", "of", "reason", "by", "outcome", "version", "client"] {
        let values = seen.values_of(label);
        assert!(!values.is_empty() && values.iter().all(|value| !value.contains(' ')), "{label}: {values:?}");
    }
}

#[test]
fn what_the_daemon_did_is_counted() {
    let daemon = Daemon::start();
    let idle = daemon.metrics();
    assert_eq!((idle.value("profiled_connections"), idle.value("profiled_uploads")), (1.0, 0.0));
    assert!(idle.values_of("client").is_empty(), "{idle:?}");

    daemon.mbox("demo", "mbox3rdPartyId=x&profile.a=1&profile.profile.b=1&profile.=1");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,1\nnobody,2\na/b,3\n");
    daemon.post_batch("other", "batch=thirdPartyId,a\nx,1\n");
    daemon.wait_complete(&batch);
    assert_eq!(daemon.get("/nothing").status, 404);

    // The counts are there a moment after the batch shows as complete.
    let seen = wait_for("the batch to be counted", || {
        let seen = daemon.metrics();
        (seen.value(r#"profiled_rows_total{client="demo",outcome="updated"}"#) > 0.0).then_some(seen)
    });
    let check = |sample: &str, value: f64| assert_eq!(seen.value(sample), value, "{sample}: {seen:#?}");
    check(r#"profiled_rows_total{client="demo",outcome="updated"}"#, 1.0);
    check(r#"profiled_rows_total{client="demo",outcome="not_found"}"#, 1.0);
    check(r#"profiled_rows_total{client="demo",outcome="failed"}"#, 1.0);
    check(r#"profiled_rows_total{client="demo",outcome="created"}"#, 0.0);
    check(r#"profiled_batches_total{client="demo"}"#, 1.0);
    check(r#"profiled_batches_total{client="other"}"#, 1.0);
    check(r#"profiled_attributes_left_out_total{reason="illegal"}"#, 2.0);
    check(r#"profiled_requests_total{endpoint="batchUpdate_v2",status="200"}"#, 2.0);
    check(r#"profiled_requests_total{endpoint="mbox",status="200"}"#, 1.0);
    check(r#"profiled_requests_total{endpoint="unknown_path",status="404"}"#, 1.0);
    check(r#"profiled_request_seconds_count{endpoint="mbox"}"#, 1.0);
}

#[test]
fn what_a_profile_has_no_room_for_is_counted() {
    let daemon = Daemon::start_with(&["--max-profile-bytes=1KiB"]);
    let long = "x".repeat(700);
    let lost = |reply: &Reply| reply.header("profiled-left-out").map(str::to_owned);
    let one = Some("1 profile parameter for which the profile has no room (max_profile_bytes)".to_owned());
    let both = format!("/m2/demo/mbox/json?mbox3rdPartyId=x&profile.a={long}&profile.b={long}");
    assert_eq!(lost(&daemon.get(&both)), one);
    let update = format!("/m2/demo/profile/update?mbox3rdPartyId=x&profile.c={long}&profile.d=1");
    let reply = daemon.get(&update);
    assert_eq!((reply.status, lost(&reply)), (200, one.clone()));
    let delivery = format!(
        r#"{{"id":{{"thirdPartyId":"x"}},"execute":{{"pageLoad":{{"profileParameters":{{"e":"{long}"}}}}}}}}"#
    );
    let reply = daemon.call(
        "POST",
        "/rest/v1/delivery?client=demo&sessionId=s",
        &[("Content-Type", "application/json")],
        Some(delivery.as_bytes()),
    );
    assert_eq!((reply.status, lost(&reply)), (200, one));
    assert_eq!(daemon.metrics().value(r#"profiled_attributes_left_out_total{reason="profile_bytes"}"#), 3.0);
    assert_eq!(daemon.value("demo", "third-party", "x", "d").as_deref(), Some("1"));
}

#[test]
fn the_answer_is_openmetrics_and_its_labels_come_from_lists() {
    let daemon = Daemon::start();
    for path in
        ["/a", "/b/c", "/m2/x/profile/batchUpdate", "/m2/y/mbox/json?mboxPC=%FF", "/rest/v1/profiles/1"]
    {
        daemon.get(path);
    }
    let reply = daemon.get("/metrics");
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(media_type)));
    let seen = Exposition::parse(&reply.text()).unwrap();
    let endpoints = ["batchUpdate_v1", "mbox", "profile_fetch", "unknown_path"];
    assert_eq!(seen.values_of("endpoint").into_iter().collect::<Vec<_>>(), endpoints);
    assert_eq!(daemon.call("POST", "/metrics", &[], None).status, 405);
}

#[test]
fn the_reader_takes_nothing_that_the_format_forbids() {
    let check = |text: &str, right: bool| {
        assert_eq!(Exposition::parse(text).is_ok(), right, "{text:?}");
    };
    let counter = "# HELP profiled_x X.\n# TYPE profiled_x counter\n";
    check("# EOF\n", true);
    check(&format!("{counter}profiled_x_total 1\n# EOF\n"), true);
    check(&format!("{counter}profiled_x_total{{a=\"\\\"\\n\",b=\"}}\"}} 1\n# EOF\n"), true);
    check(&format!("{counter}profiled_x_total 1\n"), false);
    check(&format!("{counter}profiled_x 1\n# EOF\n"), false);
    check(&format!("{counter}profiled_x_total -1\n# EOF\n"), false);
    check(&format!("{counter}profiled_x_total 1\nprofiled_x_total 1\n# EOF\n"), false);
    check(&format!("{counter}profiled_x_total{{a=\"1\"b=\"2\"}} 1\n# EOF\n"), false);
    check(&format!("{counter}profiled_x_total{{a=\"1\",a=\"2\"}} 1\n# EOF\n"), false);
    check(&format!("{counter}{counter}# EOF\n"), false);
    check("profiled_x_total 1\n# EOF\n", false);
    let histogram = "# HELP profiled_h H.\n# TYPE profiled_h histogram\nprofiled_h_sum 1\n";
    let with = |buckets: &str| format!("{histogram}profiled_h_count 2\n{buckets}# EOF\n");
    let (one, all) = ("profiled_h_bucket{le=\"1.0\"} 1\n", "profiled_h_bucket{le=\"+Inf\"} 2\n");
    check(&with(&format!("{one}{all}")), true);
    check(&with(one), false);
    check(&with(&format!("{all}{one}")), false);
    check(&with("profiled_h_bucket{le=\"+Inf\"} 3\n"), false);
}
