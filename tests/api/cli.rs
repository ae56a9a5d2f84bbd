//! The command line: exit codes, words, and JSON for programs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use crate::support::{self, Daemon};
use serde_json::Value;

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

/// The output of a command that must end with this code.
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
    check(&["batch", "post", "x.csv", "--client", "demo", "--fail-on", "failed"], "--wait");
    check(&["batch", "post", "x.csv", "--client", "demo", "--wait", "--fail-on", "lost"], "not_found");
    check(&["batch", "post", "x.csv", "--client", "demo", "--empty-values", "keep"], "remove");
    check(&["batch", "list", "--client", "demo", "--status", "done"], "incomplete");
    check(&["batch", "list", "--client", "demo", "--limit", "0"], "1..=1000");
    check(&["batch", "status", "x", "--url", "ftp://x"], "http://127.0.0.1:8750");
    check(&["profile", "get", "x"], "--client");
    check(&["profile", "get", "a/b", "--client", "demo"], "'/' is not allowed");
    check(&["profile", "get", "x", "--client", "demo", "--by", "name"], "third-party");
    check(&["profile", "set", "x", "--client", "demo"], "NAME=VALUE");
    check(&["profile", "set", "x", "--client", "demo", "a"], "NAME=VALUE");
    check(&["profile", "set", "x", "--client", "demo", "a="], "empty");
    check(&["profile", "set", "x", "--client", "demo", "--by", "ecid", "a=1"], "third-party");
    check(&["lint"], "FILE");
    check(&["lint", "/"], "folder");
    check(&["completions"], "SHELL");
    check(&["completions", "tcsh"], "bash");
    check(&["man", "batch", "fly"], "not a command of batch; the commands are post");
    check(&["man", "batch", "--folder", "x"], "cannot be used with");
    check(&["batch", "list"], "--client");
    check(&["profile", "erase", "x"], "--client");
    check(&["profile", "erase", "--client", "demo"], "<ID|--file <FILE>>");
    check(&["profile", "erase", "x", "--client", "demo", "--file", "x.csv"], "cannot be used with");
    check(&["profile", "erase", "--client", "demo", "--file", "/"], "folder");
    check(&["export", "x.txt", "--client", "demo"], ".ndjson");
    check(&["import", "x.txt", "--client", "demo"], ".ndjson");
    check(&["backup"], "FOLDER");
    check(&["restore"], "FOLDER");
    check(&["check", "--cache", "1"], "8MiB");
    check(&["compact", "--url", "x"], "http://127.0.0.1:8750");
    check(&["token", "new", "--client", "demo", "--scope", "all"], "admin");
    check(&["token", "revoke"], "ID");
    check(&["token", "list", "--url", "http://127.0.0.1:1", "--data", "x"], "cannot be used with");
    check(&["token", "revoke", "1", "--url", "x"], "http://127.0.0.1:8750");
    check(&["demo", "--fast"], "--fast");
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
    check(&["lint", "/nonexistent.csv"], "/nonexistent.csv");
    check(&["man", "--folder", "/dev/null/x"], "/dev/null/x");
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
fn a_post_says_how_old_its_values_are() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.a=x");
    let post = |time: &str, more: &[&str], code: i32| {
        let arguments = [&["batch", "post", "-", "--client", "demo", "--as-of", time], more].concat();
        printed(Some(&daemon), &arguments, "batch=pcId,a,b\n1,2,3\n", code)
    };
    let out = post("2001-01-01T00:00:00Z", &["--wait"], 0);
    assert!(out.contains("of 2001-01-01T00:00:00.000Z"), "{out}");
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("x"));
    let out = printed(Some(&daemon), &["profile", "get", "1", "--by", "pc", "--client", "demo"], "", 0);
    assert!(out.contains("of 2001-01-01 00:00"), "{out}");
    let out = post("2001-01-01T00:00:00Z", &["--dry-run"], 0);
    assert!(out.contains("left alone, in 1 of the rows"), "{out}");
    assert!(post("soon", &[], 2).contains("2026-11-27T02:00:00Z"));
    assert!(post("9999-01-01T00:00:00Z", &[], 1).contains("but now it is"));
}

/// What cron needs of `batch post`.
#[test]
fn a_post_fails_on_outcomes_names_its_sending_and_says_what_empty_cells_mean() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.a=x&profile.b=y");
    let post = |more: &[&str], file: &str, code: i32| {
        printed(
            Some(&daemon),
            &[&["batch", "post", "-", "--client", "demo", "--wait"], more].concat(),
            file,
            code,
        )
    };
    let file = "batch=pcId,a\n1,2\nnobody,2\n";
    post(&["--fail-on", "failed,ignored"], file, 0);
    let error = post(&["--fail-on", "failed,not_found"], file, 1);
    assert!(error.contains("--fail-on: 1 not found"), "{error}");

    post(&["--empty-values", "remove"], "batch=pcId,a,b\n1,3,\n", 0);
    assert_eq!(daemon.value("demo", "pc", "1", "b"), None);
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("3"));

    let id = |out: &str| out.split_whitespace().find(|word| word.starts_with("demo-")).unwrap().to_owned();
    let (first, again) =
        (post(&["--idempotency-key", "n-1"], file, 0), post(&["--idempotency-key", "n-1"], file, 0));
    assert_eq!(id(&first), id(&again));
    assert!(post(&["--idempotency-key", "n-1"], "batch=pcId,a\n1,4\n", 1).contains("Idempotency-Key"));
    assert!(post(&["--idempotency-key", "ä\n"], file, 2).contains("visible ASCII"));
}

#[test]
fn a_folder_is_watched_and_each_file_is_moved_to_where_it_belongs() {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(file(name), text).unwrap();
    write("a.csv", "batch=pcId,n\n1,1\nx,1\n");
    write("b.csv", "batch=pcId,n\n1,2\n1,%zz\n");
    write("c.csv", "pcId,n\n1,3\n");
    write("c2.ndjson", "{\"pcId\":\"1\",\"n\":7}\n");
    write("d.csv.part", "batch=pcId,n\n1,4\n");
    let watch = |more: &[&str]| {
        let folder = folder.path().to_str().unwrap();
        [&["watch", folder, "--client", "demo", "--every", "1"], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let once = watch(&["--once", "--fail-on", "failed"]);
    let once: Vec<&str> = once.iter().map(String::as_str).collect();
    let out = printed(Some(&daemon), &once, "", 0);
    assert_eq!(out.lines().count(), 4, "{out}");
    assert_eq!(daemon.value("demo", "pc", "1", "n").as_deref(), Some("7"));
    let read = |name: &str| {
        std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}: {out}"))
    };
    assert!(read("done/a.csv.outcomes.csv").contains("3,x,not_found"));
    assert!(read("done/a.csv").starts_with("batch=pcId"));
    assert!(
        read("failed/b.csv.outcomes.csv").contains("failed")
            && read("failed/b.csv.reason.txt").contains("1 failed")
    );
    assert!(
        read("failed/c.csv.reason.txt").contains("must begin with")
            && !file("failed/c.csv.outcomes.csv").exists()
    );
    assert!(file("d.csv.part").exists());
    let batches = || daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len();
    assert!(read("done/c2.ndjson.outcomes.csv").contains("1,1,updated"));
    assert_eq!(batches(), 3);

    // Once more under the same name: what is there stays.
    write("a.csv", "batch=pcId,n\n1,5\n");
    printed(Some(&daemon), &once, "", 0);
    assert_eq!((read("done/a.csv.2").as_str(), batches()), ("batch=pcId,n\n1,5\n", 4));

    // While nobody answers, or the token is not taken, a file waits.
    write("e.csv", "batch=pcId,n\n1,6\n");
    daemon.kill9();
    let waits = |daemon: &Daemon, why: &str| {
        let mut watching = Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(&once)
            .env("PROFILED_URL", daemon.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut complaint = String::new();
        BufReader::new(watching.stderr.take().unwrap()).read_line(&mut complaint).unwrap();
        assert!(complaint.contains("e.csv waits") && complaint.contains(why), "{complaint}");
        watching.kill().unwrap();
        watching.wait().unwrap();
        assert!(file("e.csv").exists());
    };
    waits(&daemon, "nothing answers");
    daemon.restart();
    let token = daemon.make_token(&["--client", "demo", "--scope", "batch,read"]);
    daemon.hang_up();
    support::wait_for("tokens to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    waits(&daemon, "Forbidden: a token is needed");
    printed(Some(&daemon), &[&once[..], &["--token", &token]].concat(), "", 0);
    assert!(read("done/e.csv.outcomes.csv").contains("2,1,updated"));
}

#[test]
fn a_list_of_batches_fits_eighty_columns() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let mut ids: Vec<String> =
        (0..3).map(|n| daemon.post_batch("demo", format!("batch=pcId,a\n1,{n}\nx,1\n"))).collect();
    for id in &ids {
        daemon.wait_complete(id);
    }
    ids.reverse();
    let list = |more: &[&str]| {
        let out = printed(Some(&daemon), &[&["batch", "list", "--client", "demo"], more].concat(), "", 0);
        assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
        out
    };
    let out = list(&[]);
    let listed: Vec<_> = out.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(listed, ids, "{out}");
    assert!(out.lines().nth(1).unwrap().contains("complete  2     1          0"), "{out}");
    assert_eq!(list(&["--limit", "1", "--status", "complete"]).lines().count(), 2);
    assert!(list(&["--status", "stuck"]).contains("client demo has no stuck batches"));
}

#[test]
fn visitors_are_erased_by_a_file_of_ids() {
    let daemon = Daemon::start();
    let visitor = |n: usize| daemon.mbox("demo", &format!("mbox=m&mbox3rdPartyId=crm-{n}"));
    (0..3).for_each(|n| drop(visitor(n)));
    let erase = ["profile", "erase", "--client", "demo", "--file"];
    let refused = printed(Some(&daemon), &[&erase[..], &["-"]].concat(), "thirdPartyId\ncrm-0\na/b\n", 1);
    assert!(refused.contains("1 of 2 lines are no ids, so nobody is erased: line 3: "), "{refused}");
    let out = printed(Some(&daemon), &[&erase[..], &["-"]].concat(), "thirdPartyId\ncrm-0\nx\ncrm-1\n", 0);
    assert!(out.starts_with("2 of 3 visitors erased, 1 not found; the bytes leave the disk within"), "{out}");
    assert!(out.ends_with("\nline 3: x: not found\n"), "{out}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.csv.gz");
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(b"thirdPartyId\ncrm-2\n").unwrap();
    std::fs::write(&path, gzip.finish().unwrap()).unwrap();
    let out = printed(Some(&daemon), &[&erase[..], &[path.to_str().unwrap(), "--json"]].concat(), "", 0);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["outcome"], &lines[1]["erased"]), (2, &"erased".into(), &1.into()));
    let gone = printed(Some(&daemon), &["profile", "get", "crm-2", "--client", "demo"], "", 1);
    assert!(gone.contains("no visitor"), "{gone}");
}

#[test]
fn a_status_is_one_screen() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let out = printed(Some(&daemon), &["status"], "", 0);
    assert!(out.starts_with(&format!("profiled {} is ready\n", env!("CARGO_PKG_VERSION"))), "{out}");
    assert!(out.contains("queue     0 batches with 0 rows to apply\njournal   0 writes wait\n"), "{out}");
    let status: Value = serde_json::from_str(&printed(Some(&daemon), &["status", "--json"], "", 0)).unwrap();
    assert_eq!((&status["ready"], &status["queue"]["batches"]), (&true.into(), &0.into()));
    assert_eq!(status["queue"]["oldestSeconds"], Value::Null);
    assert!(status["disk"]["reserve"].as_u64().unwrap() > 0);
}

#[test]
fn the_demo_walks_through_and_ends() {
    let out = printed(None, &["demo", "--exit"], "", 0);
    for words in ["crm-184804", "4,000 rows = 3,668 updated", "320 not found", "kill -9"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    // Where the folder for temporary files is, the machine says.
    let own = |line: &&str| !line.contains("/profiled-demo-");
    let wide = out.lines().filter(own).find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "the demo fits 80 columns");
}

#[test]
fn a_file_is_judged_before_it_is_uploaded() {
    let check = |file: &str, code: i32, words: &[&str]| {
        let output = profiled(None, &["lint", "-"], file);
        let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
        // A table breaks its lines if the text of a cell is too long.
        let text = text.replace(['│', '┆'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{file:?}: {text}");
        words.iter().for_each(|words| assert!(text.contains(words), "{file:?}: no {words:?} in {text}"));
    };
    check("batch=thirdPartyId,a\nx,1\ny,2\n", 0, &["2 rows (at most 500,000)", "0 would fail"]);
    check("", 1, &["refused", "empty", "would be refused"]);
    check("thirdPartyId,a\nx,1\n", 1, &["refused", "must begin with"]);
    check("batch=ECID,a\nx,1\n", 1, &["ECID"]);
    check("batch=pcId,profile.a\n1,1\n", 1, &["without the prefix"]);
    check("\u{feff}batch=pcId,a\n1,1\n", 0, &["check", "byte order mark"]);
    check("batch=thirdPartyId,a\nx%2By,1\nx/y,1\nz,1\n", 1, &["'+' is not allowed", "'/' is", "2 rows of"]);
    check("batch=thirdPartyId,a\nx+y,1\n", 0, &["the id contains a space"]);
    check("batch=pcId,a\n1,a%2520b\n2,caf%25C3%25A9\n", 0, &["encode only once", "1 further lines"]);
    check("batch=pcId,a\n1,100%25\n", 0, &["1 rows"]);
    check("batch=pcId,a\n1,100%\n", 1, &["fails", "%"]);
    check("batch=pcId,a,b\n1,,\n2,1\n1,2\n", 0, &["only empty values", "also in an earlier row"]);
    check(&format!("batch=pcId,a\n1,{}\n", "x".repeat(66_000)), 0, &["64 KB"]);
    check(
        &"batch=pcId,a\n".chars().chain("1,1\n".repeat(500_001).chars()).collect::<String>(),
        1,
        &["split"],
    );
    let many = "a/b,1\n".repeat(12);
    check(&format!("batch=thirdPartyId,a\n{many}"), 1, &["and 2 more rows", "12 would fail"]);
}

#[test]
fn a_report_on_a_file_is_json_for_programs_and_has_no_values() {
    let output = profiled(None, &["lint", "-", "--json"], "batch=thirdPartyId,a\na/b,secret\nx,\n");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["rows"], &report["failedRows"], &report["ignoredRows"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!((&report["refused"], &report["findings"][0]["line"]), (&Value::Null, &2.into()));
    assert_eq!(report["findings"][0]["weight"], "fails");
    assert!(!report.to_string().contains("secret"), "{report}");
}

#[test]
fn a_compressed_file_is_judged_by_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv.gz");
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(b"batch=pcId,a\n1,1\n").unwrap();
    let gzip = gzip.finish().unwrap();
    std::fs::write(&path, &gzip).unwrap();
    assert!(printed(None, &["lint", path.to_str().unwrap()], "", 0).contains("1 rows"));
    std::fs::write(&path, &gzip[..gzip.len() - 4]).unwrap();
    let output = profiled(None, &["lint", path.to_str().unwrap(), "--json"], "");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["refused"].as_str().unwrap().contains("cut short"), "{report}");
}

#[test]
fn every_command_says_what_it_does_and_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    printed(None, &["man", "--folder", folder.path().to_str().unwrap()], "", 0);
    let mut pages = 0;
    for page in std::fs::read_dir(folder.path()).unwrap() {
        let path = page.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{}", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut arguments: Vec<&str> = name.split('-').skip(1).collect();
        arguments.push("--help");
        let help = printed(None, &arguments, "", 0);
        let (does, usage) = help.split_once("Usage: profiled").unwrap();
        assert!(!does.trim().is_empty() && !usage.is_empty(), "{name}: {help}");
        assert!(
            arguments.len() == 1
                || printed(None, &[&["man"], &arguments[..arguments.len() - 1]].concat(), "", 0) == text
        );
        pages += 1;
    }
    assert!(pages > 20, "{pages}");
    for shell in ["bash", "zsh", "fish"] {
        let text = printed(None, &["completions", shell], "", 0);
        assert!(text.contains("batch-shows-after-seconds") && text.contains("lint"), "{shell}");
    }
}

#[test]
fn tokens_are_made_listed_and_revoked_at_a_running_daemon_or_in_a_folder() {
    let daemon = Daemon::start();
    let url = daemon.url();
    let new = ["token", "new", "--client", "demo", "--scope", "read", "--url", &url];
    let made = profiled(None, &["token", "new", "--all-clients", "--scope", "admin", "--url", &url], "");
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(made.status.success() && said.contains("the first token: from now on"), "{said}");
    let admin = String::from_utf8(made.stdout).unwrap().trim_end().to_owned();
    assert!(printed(None, &new, "", 1).contains("a token is needed"));
    // Also where the whole shell names a data folder.
    let at = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
        command
            .args(arguments)
            .env_clear()
            .env("PROFILED_DATA", "/nonexistent")
            .env("PROFILED_TOKEN", &admin);
        let output = command.output().unwrap();
        let (out, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{arguments:?}: {error}");
        (out, error)
    };
    let (made, said) = at(&[&new[..], &["--expires", "90d", "--json"]].concat());
    assert_eq!(said, "");
    let made: Value = serde_json::from_str(&made).unwrap();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let list = || serde_json::from_str::<Value>(&at(&["token", "list", "--url", &url, "--json"]).0).unwrap();
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("token");
    assert_eq!(list()[1], shown);
    assert!(at(&["token", "list", "--url", &url]).0.contains(id));
    let used = ["batch", "list", "--client", "demo", "--url", &url, "--token", token];
    printed(None, &used, "", 0);
    let (said, _) = at(&["token", "revoke", id, "--url", &url]);
    assert!(said.contains("is revoked; the daemon refuses it from now on"), "{said}");
    assert_eq!(list()[1]["state"], "revoked");
    assert!(printed(None, &used, "", 1).contains("was revoked"));
    // The folder's form shows the same, and says where a change is one node's alone.
    let data = daemon.data();
    let folder = ["--data", data.to_str().unwrap()];
    let of_folder = printed(None, &[&["token", "list", "--json"], &folder[..]].concat(), "", 0);
    let (mut of_folder, mut of_daemon): (Value, Value) = (serde_json::from_str(&of_folder).unwrap(), list());
    // The daemon writes once a minute when tokens were last used.
    for token in [&mut of_folder, &mut of_daemon].into_iter().flat_map(|list| list.as_array_mut().unwrap()) {
        token["lastUsedAt"].take();
    }
    assert_eq!(of_folder, of_daemon);
    let new = ["token", "new", "--client", "demo", "--scope", "read"];
    for (cluster, says) in [(false, false), (true, true)] {
        if cluster {
            let id = "0".repeat(32);
            std::fs::write(data.join("cluster"), format!("{{\"cluster\":\"{id}\"}}")).unwrap();
        }
        let made = profiled(None, &[&new[..], &folder[..]].concat(), "");
        let said = String::from_utf8(made.stderr).unwrap();
        assert!(made.status.success() && said.contains("--url") == says, "{said}");
        let id = String::from_utf8(made.stdout).unwrap().split('_').nth(1).unwrap().to_owned();
        let revoked = profiled(None, &[&["token", "revoke", &id], &folder[..]].concat(), "");
        let said = String::from_utf8(revoked.stderr).unwrap();
        assert!(revoked.status.success() && said.contains("this node's alone") == says, "{said}");
    }
}

/// A finished demo that stays up, the folder with its files, and its output.
fn demo_that_stays_up(folder: &std::path::Path) -> (std::process::Child, Vec<String>) {
    use std::io::{BufRead, BufReader};
    let mut demo = Command::new(env!("CARGO_BIN_EXE_profiled"))
        .arg("demo")
        .env_clear()
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut printed, mut stays) = (vec![], false);
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        printed.push(line.unwrap());
        stays = printed.last().unwrap().contains("The daemon runs until Ctrl-C");
        if stays {
            break;
        }
    }
    assert!(stays, "it was not walked through: {printed:?}");
    (demo, printed)
}

#[test]
fn the_demo_links_to_a_page_that_shows_its_visitor() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, printed) = demo_that_stays_up(folder.path());
    let said = printed.iter().position(|line| line.ends_with("in a browser:")).unwrap();
    let link = printed[said + 1].trim().strip_prefix("http://").unwrap();
    let (address, path) = link.split_once('/').unwrap();
    let mut connection = support::Connection::on(std::net::TcpStream::connect(address).unwrap());
    connection.write(&support::request("GET", &format!("/{path}"), address, &[], None));
    let page = connection.read();
    assert_eq!(page.status, 200, "{link}");
    for words in ["crm-184804", "tier", "gold"] {
        assert!(page.text().contains(words), "{link}: no {words:?} in {}", page.text());
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&demo), rustix::process::Signal::TERM)
        .unwrap();
    support::wait_for("the demo to end", || demo.try_wait().unwrap());
}

/// The demo's daemon once went on when its terminal was closed.
#[test]
fn the_demo_takes_its_daemon_along_however_it_ends() {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};
    for signal in [Signal::HUP, Signal::TERM, Signal::INT, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let (mut demo, _) = demo_that_stays_up(folder.path());
        let id = Pid::from_child(&demo);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.id())).unwrap();
        let daemon = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
        support::wait_for("the demo to end", || demo.try_wait().unwrap());
        support::wait_for("the daemon to end", || {
            // An ended process may still be there until somebody waits for it.
            let state = std::fs::read_to_string(format!("/proc/{}/stat", daemon.as_raw_nonzero()))
                .unwrap_or_default();
            let ended = state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
            (ended || test_kill_process(daemon).is_err()).then_some(())
        });
        if signal != Signal::KILL {
            assert_eq!(
                std::fs::read_dir(folder.path()).unwrap().count(),
                0,
                "{signal:?}: its folder goes, too"
            );
        }
    }
}

#[test]
fn a_batch_is_tried_out_and_its_rows_are_reported_and_repaired() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
    let file = "batch=pcId,city\n1,Oslo\n9,Rome\n1,%zz\n";
    let dry = ["batch", "post", "-", "--client", "demo", "--dry-run"];
    let out = printed(Some(&daemon), &dry, file, 0);
    for words in
        ["nothing was written", "1 updated", "1 failed", "line 4: column 2 (city)", "check: line 4: a % that"]
    {
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
