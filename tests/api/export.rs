//! Exports and imports: an exported file can be imported, byte for byte.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Daemon, copy_folder, encoded, wait_for};
use serde_json::{Value, json};

/// Values and names that some step could change.
const AWKWARD: [&str; 24] = [
    "Oslo",
    "a,b,,c",
    "\"quoted\" and \"\"doubled\"\"",
    "two\nlines",
    "a\r\nb\rc",
    "100% %41 %zz %",
    "a+b c",
    " spaces around  ",
    "\ttab\t",
    "a&b=c;d=e",
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+47 22 22 22 22",
    "-1",
    "@SUM(A1:A9)",
    "＝1+1",
    "東京 ليلى हिन्दी",
    "🎿👩‍👩‍👧",
    "e\u{301} é",
    "\u{feff}bom",
    "\u{0}\u{1b}[31m\u{7f}",
    "x;=1+1",
    "\\\"'`<b>",
    "%0A",
];

fn profiled(daemon: &Daemon, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
    command.args(arguments).env_clear().env("PROFILED_URL", daemon.url());
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads no input may have closed it already.
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap_or_default();
    process.wait_with_output().unwrap()
}

/// Standard output and standard error of a command that must end with this code.
fn printed(daemon: &Daemon, arguments: &[&str], input: &str, code: i32) -> (String, String) {
    let output = profiled(daemon, arguments, input);
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
    (out, error)
}

/// A daemon with a visitor `x` that has all awkward names and values, and some other visitors.
fn daemon_with_visitors() -> Daemon {
    let daemon = Daemon::start();
    let attributes: String = AWKWARD
        .iter()
        .enumerate()
        .map(|(n, text)| format!("&profile.v{n}={}&profile.{}=name", encoded(text), encoded(text)))
        .collect();
    daemon.mbox("demo", &format!("mboxPC=1&mbox3rdPartyId=x{attributes}"));
    daemon.mbox("demo", "mboxPC=2.28_0&mbox3rdPartyId=x&mboxMCGVID=38");
    daemon.mbox("demo", "mboxPC=3&mbox3rdPartyId=%3Dit%27s%2C%20%22me%22&profile.city=Oslo");
    daemon.mbox("demo", "mboxPC=4&profile.city=Bergen");
    daemon.mbox("demo", "mboxMCGVID=39&profile.city=Bod%C3%B8");
    daemon.mbox("demo", "mboxPC=5&mbox3rdPartyId=empty");
    daemon.mbox("demo2", "mboxPC=1&mbox3rdPartyId=x&profile.whose=another");
    daemon
}

/// Two daemons with the same visitors. One has a copy of the other's folder, and so the same generated pcIds.
fn two_daemons_with_visitors() -> (Daemon, Daemon) {
    let mut daemon = daemon_with_visitors();
    daemon.terminate();
    assert!(daemon.ended().success());
    let mut other = Daemon::configured("");
    copy_folder(&daemon.data(), &other.data());
    daemon.restart();
    other.restart();
    (daemon, other)
}

/// A visitor without times and sources: its ids and its attributes.
fn what(daemon: &Daemon, by: &str, id: &str) -> Value {
    let mut visitor = daemon.visitor("demo", by, id).unwrap();
    let attributes = visitor["attributes"].as_object().unwrap();
    let values: serde_json::Map<_, _> =
        attributes.iter().map(|(name, attribute)| (name.clone(), attribute["value"].clone())).collect();
    json!({
        "ids": [visitor["thirdPartyId"].take(), visitor["pcIds"].take(), visitor["marketingCloudVisitorIds"].take()],
        "attributes": values,
    })
}

const VISITORS: [(&str, &str); 6] = [
    ("third-party", "x"),
    ("pc", "2"),
    ("third-party", "=it's, \"me\""),
    ("pc", "4"),
    ("ecid", "39"),
    ("third-party", "empty"),
];

fn file_in(folder: &Path, name: &str) -> (PathBuf, String) {
    let path = folder.join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

/// The cells of a file whose rows are lines and whose cells hold no comma.
fn cells(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split(','))
}

#[test]
fn an_export_in_ndjson_makes_the_same_visitors_elsewhere() {
    let (daemon, other) = (daemon_with_visitors(), Daemon::start());
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = file_in(folder.path(), "all.ndjson");
    let (out, _) = printed(&daemon, &["export", &file, "--client", "demo"], "", 0);
    assert!(out.contains("5 visitors"), "{out}");
    let text = std::fs::read_to_string(&path).unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (by, id) = match (&line["thirdPartyId"], &line["pcIds"][0]) {
            (Value::String(id), _) => ("third-party", id.clone()),
            (_, Value::String(id)) => ("pc", id.clone()),
            _ => ("ecid", line["marketingCloudVisitorIds"][0].as_str().unwrap().to_owned()),
        };
        assert_eq!(Some(&line), daemon.visitor("demo", by, &id).as_ref(), "a line is what a lookup shows");
    }
    let (out, _) = printed(&other, &["import", &file, "--client", "demo", "--json"], "", 0);
    let imported: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(imported, json!({ "visitors": 5, "failed": 0, "ofOtherClients": 0, "failures": [] }));
    for (by, id) in VISITORS {
        assert_eq!(what(&other, by, id), what(&daemon, by, id), "{by} {id}");
    }
    let (_, error) = printed(&daemon, &["export", &file, "--client", "demo"], "", 1);
    assert!(error.contains("already exists"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_export_in_csv_is_a_batch_that_gives_the_same_values() {
    for defuse in [false, true] {
        let (daemon, other) = two_daemons_with_visitors();
        let folder = tempfile::tempdir().unwrap();
        for (key, by, left_out) in
            // A site call gives a pcId to a visitor without one.
            [("third-party", "thirdPartyId", Some("2 visitors")), ("pc", "pcId", None)]
        {
            let (path, file) = file_in(folder.path(), &format!("{key}.csv"));
            let mut arguments = vec!["export", &file, "--client", "demo", "--by", key];
            arguments.extend(defuse.then_some("--defuse"));
            let (_, error) = printed(&daemon, &arguments, "", 0);
            match left_out {
                Some(left_out) => assert!(error.contains(left_out) && error.contains(by), "{error}"),
                None => assert!(!error.contains(by), "{error}"),
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(&format!("batch={by},")), "{text}");
            let runs = |cell: &str| cell.starts_with(['=', '+', '-', '@', '\t', '\r', '＝']);
            assert_eq!(cells(&text).any(runs), !defuse, "changed on request only: {text}");
            // It must give back the values that were overwritten in between.
            let junk: String = (0..AWKWARD.len()).map(|n| format!("&profile.v{n}=junk{n}")).collect();
            other.post_form("/m2/demo/profile/update", &format!("mbox3rdPartyId=x{junk}"));
            let (out, _) = printed(&other, &["import", &file, "--client", "demo"], "", 0);
            assert!(out.contains("0 not found") && out.contains("0 failed"), "{out}");
            for (by, id) in VISITORS {
                assert_eq!(what(&other, by, id), what(&daemon, by, id), "{by} {id}, {key}, {defuse}");
            }
        }
    }
}

#[test]
fn an_export_shows_pending_rows_and_visitors_that_batches_create() {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n");
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=v1");
    let rows: String = (0..30_000).map(|n| format!("v{n},{n}\n")).collect();
    daemon.post_batch("demo", format!("batch=thirdPartyId,n\n{rows}"));
    let reply = daemon.get("/api/v1/export?client=demo&format=ndjson");
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert_eq!(reply.text().lines().count(), 30_000);
    daemon.post_batch("demo", format!("batch=thirdPartyId,n,m\n{}", "v1,2,3\n".repeat(20_000)));
    let csv = daemon.get("/api/v1/export?client=demo&format=csv");
    assert_eq!((csv.status, csv.header("profiled-left-out")), (200, Some("0")));
    assert!(csv.text().starts_with("batch=thirdPartyId,m,n\n") && csv.text().contains("\nv1,3,2\n"));
    assert_eq!(csv.text().lines().count(), 30_001);
}

/// In business hours, at a row a second, an export once waited for a minute and was then refused.
#[test]
fn an_export_does_not_wait_until_rows_are_applied() {
    let daemon = Daemon::start_configured(
        "[clients.demo]\nv2_creates_profiles = true\n[ingest]\nmax_rows_per_second = 1\n",
    );
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=v1");
    let rows: String = (0..2_000).chain(0..500).map(|n| format!("v{n},{n}\n")).collect();
    daemon.post_batch("demo", format!("batch=thirdPartyId,n\n{rows}"));
    daemon.post_batch("demo", "batch=pcId,m\n1,of v1\nx,new\n");
    let began = std::time::Instant::now();
    let reply = daemon.get("/api/v1/export?client=demo&format=ndjson");
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.text().lines().count(), 2_001);
    assert_eq!(reply.text().lines().filter(|line| line.contains("of v1")).count(), 1);
    let csv = daemon.get("/api/v1/export?client=demo&format=csv&by=pc").text();
    assert_eq!(csv, "batch=pcId,m,n\nx,new,\n1,of v1,1\n");
    assert!(daemon.get("/api/v1/batches?client=demo").text().contains("incomplete"));
}

/// Bundled rows are only in one part of an upload's index, so nothing else shows the visitors whom they create.
#[test]
fn an_export_shows_visitors_whom_bundled_rows_create_while_they_are_pending() {
    let daemon = Daemon::start_configured(
        "[clients.demo]\nv2_creates_profiles = true\n[ingest]\nmax_rows_per_second = 1\n",
    );
    daemon.mbox("demo", "mbox3rdPartyId=known&profile.n=0");
    let rows = |id: &str, rows: usize| (1..=rows).map(|n| format!("{id},{n}\n")).collect::<String>();
    daemon.post_batch("demo", format!("batch=thirdPartyId,m\n{}", rows("known", 2_000)));
    let file = [rows("few", 3), rows("many", 200), rows("known", 150), rows("most", 2_000)].concat();
    let batch = daemon.post_batch("demo", format!("batch=thirdPartyId,n\n{file}"));
    let csv = daemon.get("/api/v1/export?client=demo&format=csv").text();
    let mut lines: Vec<&str> = csv.lines().skip(1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["few,,3", "known,2000,150", "many,,200", "most,,2000"], "{csv}");
    let status = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={batch}"));
    assert_eq!(status.element("status").as_deref(), Some("incomplete"), "it was shown while it was pending");
}

#[test]
fn a_client_that_goes_away_ends_its_export() {
    let daemon = Daemon::start();
    for n in 1..21 {
        daemon.mbox("demo", &format!("mboxPC={n}"));
    }
    let rows: String = (1..21).map(|n| format!("{n},{}\n", "x".repeat(1_000_000))).collect();
    let batch = daemon.post_batch("demo", format!("batch=pcId,a\n{rows}"));
    assert_eq!(daemon.wait_complete(&batch).successful, 20);
    for format in ["ndjson", "csv&by=pc"] {
        let request = format!("GET /api/v1/export?client=demo&format={format} HTTP/1.1\r\nHost: x\r\n\r\n");
        // More exports than may run at once, one after the other. Each is larger than all buffers on the way.
        for _ in 0..6 {
            wait_for("an export to begin", || {
                let mut connection = daemon.connect();
                connection.write(request.as_bytes());
                Some(connection.status()).filter(|status| *status == 200)
            });
        }
        let all = wait_for("a whole export", || {
            let reply = daemon.get(&format!("/api/v1/export?client=demo&format={format}"));
            (reply.status == 200).then_some(reply.body)
        });
        assert!(all.len() > 20_000_000);
    }
}

#[test]
fn an_export_that_cannot_be_is_refused() {
    let daemon = Daemon::start_configured("[clients.demo]\nims_orgs = []\n");
    let check = |query: &str, status: u16, words: &str| {
        let reply = daemon.get(&format!("/api/v1/export?{query}"));
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
        assert!(reply.json()["message"].as_str().unwrap().contains(words), "{query}: {}", reply.text());
    };
    check("client=demo", 400, "ndjson or csv");
    check("client=demo&format=xml", 400, "ndjson or csv");
    check("client=demo&format=csv&by=ecid", 400, "third-party or pc");
    check("client=demo&format=ndjson&defuse=true", 400, "format=csv");
    check("format=csv", 400, "client=");
    check("client=other&format=csv", 404, "no client other");
    check("client=demo&format=csv", 409, "has an attribute");
    assert_eq!(daemon.get("/api/v1/export?client=demo&format=ndjson").text(), "");
    assert_eq!(daemon.call("POST", "/api/v1/export?client=demo&format=csv", &[], Some(b"")).status, 405);

    let usage = |arguments: &[&str], words: &str| {
        let (_, error) = printed(&daemon, arguments, "", 2);
        assert!(error.contains(words), "{arguments:?}: {error}");
    };
    usage(&["export", "x.csv"], "--client");
    usage(&["export", "-", "--client", "demo"], "--format");
    usage(&["export", "x.txt", "--client", "demo"], "--format");
    usage(&["export", "x.csv", "--client", "demo", "--by", "ecid"], "third-party");
    usage(&["export", "x.ndjson", "--client", "demo", "--defuse"], "--format csv");
    usage(&["import", "x.txt", "--client", "demo"], "--format");
    usage(&["import", "x.csv"], "--client");
    for (command, words) in [("export", "not a snapshot"), ("import", "updates known visitors only")] {
        let (help, _) = printed(&daemon, &[command, "--help"], "", 0);
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(words), "{help}");
    }
    let fails = |arguments: &[&str], words: &str| {
        let (_, error) = printed(&daemon, arguments, "", 1);
        assert!(error.contains(words), "{arguments:?}: {error}");
    };
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = file_in(folder.path(), "x.csv");
    fails(&["export", &file, "--client", "demo"], "has an attribute");
    assert!(!path.exists());
    fails(&["export", "/nonexistent/x.ndjson", "--client", "demo"], "cannot be written");
    fails(&["export", &file, "--client", "demo", "--url", "http://127.0.0.1:1"], "profiled serve");
    fails(&["import", &file, "--client", "demo"], "cannot be read");
    fails(&["import", "-", "--format", "csv", "--client", "demo"], "refused");
}

#[test]
fn a_line_that_fails_is_reported_and_the_others_go_on() {
    let daemon = Daemon::start();
    let attributes: Vec<_> = (0..120).map(|n| format!("\"a{n}\":{{\"value\":\"{n}\"}}")).collect();
    let long = "x".repeat(5_001);
    let lines = [
        format!(
            "{{\"client\":\"another\",\"thirdPartyId\":\"many\",\"attributes\":{{{}}}}}",
            attributes.join(",")
        ),
        "{\"thirdPartyId\":".into(),
        String::new(),
        "{\"attributes\":{}}".into(),
        "{\"thirdPartyId\":\"a/b\"}".into(),
        format!("{{\"thirdPartyId\":\"long\",\"attributes\":{{\"a\":{{\"value\":\"{long}\"}}}}}}"),
        "{\"pcIds\":[\"7\"],\"attributes\":{\"a\":{\"value\":\"1\"}}}".into(),
        "{\"thirdPartyId\":\"seven\",\"pcIds\":[\"7\"],\"attributes\":{\"a\":{\"value\":\"2\"}}}".into(),
    ];
    let arguments = ["import", "-", "--format", "ndjson", "--client", "demo"];
    let (out, error) = printed(&daemon, &arguments, &lines.join("\n"), 1);
    assert!(out.contains("3 visitors written to client demo, 4 lines failed"), "{out}");
    assert!(out.contains("1 of these lines name another client"), "{out}");
    for words in [
        "line 2: thirdPartyId: EOF while parsing a value at column 16",
        "line 4: it names no visitor",
        "line 5: \"a/b\" is not",
        "line 6: the value",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let many = daemon.visitor("demo", "third-party", "many").unwrap();
    assert_eq!(many["attributes"].as_object().unwrap().len(), 120);
    assert_eq!(many["pcIds"].as_array().unwrap().len(), 1, "three calls, one visitor with one new pcId");
    assert!(
        daemon.visitor("demo", "third-party", "long").is_none(),
        "nothing of a line that fails is written"
    );
    assert_eq!(
        daemon.value("demo", "pc", "7", "a").as_deref(),
        Some("2"),
        "lines of one visitor keep their order"
    );
}

#[test]
fn parts_of_a_large_visitor_that_the_daemon_leaves_out_are_reported() {
    let daemon = Daemon::start_with(&["--max-profile-bytes", "64KiB"]);
    let attributes: Vec<_> =
        (0..20).map(|n| format!("\"a{n}\":{{\"value\":\"{}\"}}", "x".repeat(5_000))).collect();
    let line = format!("{{\"thirdPartyId\":\"large\",\"attributes\":{{{}}}}}", attributes.join(","));
    let (_, error) = printed(&daemon, &["import", "-", "--format", "ndjson", "--client", "demo"], &line, 1);
    assert!(error.contains("line 1: 7 of its 20 attributes were left out"), "{error}");
}
