//! The command line: exit codes, words, and JSON for programs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::Daemon;

/// Runs a command line against a daemon, with standard input.
fn profiled(daemon: Option<&Daemon>, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(daemon) = daemon {
        command.env("PROFILED_URL", daemon.url());
    }
    let mut process = command.spawn().unwrap();
    // A command that reads no input may have closed it already.
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap_or_default();
    process.wait_with_output().unwrap()
}

/// What it printed, having ended with this code.
fn printed(daemon: Option<&Daemon>, arguments: &[&str], input: &str, code: i32) -> String {
    let output = profiled(daemon, arguments, input);
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
    if code == 0 { out } else { error }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_would_be_right() {
    let check = |arguments: &[&str], words: &str| {
        let error = printed(None, arguments, "", 2);
        assert!(error.contains(words), "{arguments:?}: {error}");
    };
    check(&[], "Usage");
    check(&["fly"], "fly");
    check(&["batch", "post", "x.csv"], "--client");
    check(&["batch", "post", "x.csv", "--client", "a&b"], "'&' is not allowed");
    check(&["batch", "post", "/", "--client", "demo"], "folder");
    check(&["batch", "status", "x", "--url", "ftp://x"], "http://127.0.0.1:8750");
    check(&["profile", "get", "x"], "--client");
    check(&["profile", "get", "a/b", "--client", "demo"], "'/' is not allowed");
    check(&["profile", "get", "x", "--client", "demo", "--by", "name"], "third-party");
    check(&["profile", "set", "x", "--client", "demo"], "NAME=VALUE");
    check(&["profile", "set", "x", "--client", "demo", "a"], "NAME=VALUE");
    check(&["profile", "set", "x", "--client", "demo", "a="], "empty");
    check(&["profile", "set", "x", "--client", "demo", "--by", "ecid", "a=1"], "third-party");
    check(&["serve", "--listen", "nowhere"], "nowhere");
    check(&["serve", "--listen", "0.0.0.0:0", "--data", "/nonexistent/x"], "--allow-anonymous");
}

#[test]
fn what_fails_ends_with_1_and_says_why() {
    let daemon = Daemon::start();
    let check = |arguments: &[&str], words: &str| {
        let error = printed(Some(&daemon), arguments, "", 1);
        assert!(error.contains(words), "{arguments:?}: {error}");
    };
    check(&["batch", "post", "/nonexistent.csv", "--client", "demo"], "/nonexistent.csv");
    check(&["batch", "post", "-", "--client", "demo"], "refused");
    check(&["batch", "status", "demo-1701473848678-10000000"], "no batch");
    check(&["profile", "get", "nobody", "--client", "demo"], "nobody");
    check(&["profile", "set", "nobody", "--client", "demo", "a=1"], "never creates");
    check(&["profile", "get", "x", "--client", "demo", "--url", "http://127.0.0.1:1"], "profiled serve");
    check(&["serve", "--listen", &daemon.address().to_string(), "--data", "/nonexistent/x"], "--listen");
}

#[test]
fn a_batch_is_posted_waited_for_and_listed() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let file = "batch=thirdPartyId,a\nx,1\nnobody,2\n";
    let out = printed(Some(&daemon), &["batch", "post", "-", "--client", "demo", "--wait"], file, 0);
    assert!(out.contains("2 rows = 1 updated + 0 created + 1 not found + 0 ignored + 0 failed"), "{out}");
    let posted = printed(
        Some(&daemon),
        &["batch", "post", "-", "--client", "demo", "--v1", "--wait", "--json"],
        file,
        0,
    );
    let posted: Value = serde_json::from_str(&posted).unwrap();
    assert_eq!(posted["status"], "complete");
    assert_eq!(posted["version"], "v1");
    assert_eq!(posted["counts"]["not_found"], 1);
    let id = posted["batchId"].as_str().unwrap();
    let status = printed(Some(&daemon), &["batch", "status", id, "--json"], "", 0);
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap(), posted);
    let list = printed(Some(&daemon), &["batch", "list", "--client", "demo"], "", 0);
    assert!(list.contains(id), "{list}");
    let list = printed(Some(&daemon), &["batch", "list", "--client", "demo", "--json"], "", 0);
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap()["batches"][0], posted);
}

#[test]
fn a_batch_file_that_is_compressed_is_posted_as_it_is() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let file = "batch=thirdPartyId,a\nnobody,1\n";
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(file.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(file.as_bytes(), 3).unwrap();
    for (name, bytes) in
        [("a.csv", file.as_bytes()), ("a.csv.gz", &gzip), ("A.CSV.GZ", &gzip), ("a.zst", &zstd)]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let arguments = ["batch", "post", path.to_str().unwrap(), "--client", "demo", "--json"];
        let posted: Value = serde_json::from_str(&printed(Some(&daemon), &arguments, "", 0)).unwrap();
        assert_eq!((&posted["rows"], &posted["bytes"]), (&1.into(), &file.len().into()), "{name}");
    }
    let path = folder.path().join("damaged.csv.gz");
    std::fs::write(&path, &gzip[..20]).unwrap();
    let error = printed(Some(&daemon), &["batch", "post", path.to_str().unwrap(), "--client", "demo"], "", 1);
    assert!(error.contains("cut short"), "{error}");
}

#[test]
fn a_visitor_is_shown_and_set() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=%1B%5B31m");
    let out = printed(
        Some(&daemon),
        &["profile", "set", "x", "--client", "demo", "city=São Paulo", "b=a=b"],
        "",
        0,
    );
    assert!(out.contains("São Paulo") && out.contains("single update"), "{out}");
    assert!(!out.contains('\u{1b}') && out.contains("\\u{1b}[31m"), "{out}");
    for (id, by) in [("x", "third-party"), ("1.28_0", "pc")] {
        let arguments = ["profile", "get", id, "--client", "demo", "--by", by, "--json"];
        let visitor: Value = serde_json::from_str(&printed(Some(&daemon), &arguments, "", 0)).unwrap();
        assert_eq!(visitor["attributes"]["b"]["value"], "a=b", "{by}");
        assert_eq!(visitor["attributes"]["a"]["value"], "\u{1b}[31m", "{by}");
        assert!(visitor["seq"].is_string());
    }
}

#[test]
fn the_demo_walks_through_and_ends() {
    let out = printed(None, &["demo", "--exit"], "", 0);
    for words in ["crm-184804", "4,000 rows = 3,668 updated", "320 not found", "kill -9"] {
        assert!(out.contains(words), "{words}: {out}");
    }
}

#[test]
fn a_batch_is_tried_out_its_rows_are_told_and_repaired() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
    let file = "batch=pcId,city\n1,Oslo\n9,Rome\n1,%zz\n";
    let dry = ["batch", "post", "-", "--client", "demo", "--dry-run"];
    let out = printed(Some(&daemon), &dry, file, 0);
    for words in ["nothing is written", "1 updated", "1 failed", "line 4: column 2 (city)"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let tried: Value =
        serde_json::from_str(&printed(Some(&daemon), &[&dry[..], &["--json"]].concat(), file, 0)).unwrap();
    assert_eq!(tried["attributes"]["city"]["changed"], 1);
    assert!(printed(Some(&daemon), &["batch", "list", "--client", "demo"], "", 0).contains("no batches"));
    let id = daemon.post_batch("demo", file);
    daemon.wait_complete(&id);
    let check = |arguments: &[&str], expected: &str| {
        assert_eq!(printed(Some(&daemon), arguments, "", 0), expected, "{arguments:?}");
    };
    let head = "line,id,outcome,reason,message\n";
    check(&["batch", "rows", &id, "--outcome", "updated"], &format!("{head}2,1,updated,,\n"));
    check(
        &["batch", "rows", &id, "--outcome", "not_found", "--json"],
        "{\"line\":3,\"id\":\"9\",\"outcome\":\"not_found\",\"reason\":null,\"message\":null}\n",
    );
    check(&["batch", "repair", &id], "batch=pcId,city\n1,%zz\n");
    let visitor = ["profile", "get", "1", "--client", "demo", "--by", "pc", "--json"];
    let shown: Value = serde_json::from_str(&printed(Some(&daemon), &visitor, "", 0)).unwrap();
    assert_eq!(
        (&shown["attributes"]["city"]["batchId"], &shown["attributes"]["city"]["line"]),
        (&id.as_str().into(), &2.into())
    );
    let remove = ["profile", "remove", "1", "city", "--client", "demo", "--by", "pc"];
    assert!(!printed(Some(&daemon), &remove, "", 0).contains("Oslo"));
    assert!(printed(Some(&daemon), &remove, "", 1).contains("no attribute"));
    assert!(printed(Some(&daemon), &["batch", "rows", &id, "--outcome", "bad"], "", 2).contains("not_found"));
    assert!(
        printed(Some(&daemon), &["batch", "repair", "demo-1701473848678-10000001"], "", 1)
            .contains("no batch")
    );
}
