//! Batch files as they really are, on the real daemon: what it, the dry run and `lint` make of one must be the same.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

mod support;

use std::collections::BTreeMap;

use support::{Daemon, encoded, request};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
const CREATES: &str = "[clients.demo]\nv2_creates_profiles = true\n";

/// A thousand rows, one visitor each, with some lines replaced.
fn thousand_rows(replaced: &[(usize, &str)]) -> String {
    let mut lines: Vec<String> = (1..=1000).map(|n| format!("a{n},v{n},w{n}")).collect();
    for (line, text) in replaced {
        lines[line - 2] = (*text).to_owned();
    }
    format!("batch=thirdPartyId,size,colour\n{}\n", lines.join("\n"))
}

/// The outcomes of all rows, by line: the outcome, and the reason.
fn outcomes(csv: &str) -> BTreeMap<u32, (String, String)> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap();
    let (line, outcome, reason) = (column("line"), column("outcome"), column("reason"));
    let rows = reader.records().map(Result::unwrap);
    rows.map(|row| (row[line].parse().unwrap(), (row[outcome].to_owned(), row[reason].to_owned()))).collect()
}

/// What `profiled lint --json` says of a file.
fn lint(daemon: &Daemon, file: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("BATCH.TXT");
    std::fs::write(&path, file).unwrap();
    let (_, told, _) = daemon.run(&["lint", path.to_str().unwrap(), "--json"]);
    serde_json::from_str(&told).unwrap()
}

fn all_outcomes(daemon: &Daemon, batch: &str) -> BTreeMap<u32, (String, String)> {
    let mut all = BTreeMap::new();
    let mut path = format!("/api/v1/batches/{batch}/outcomes?client=demo");
    loop {
        let reply = daemon.call("GET", &path, &[("Accept", "text/csv")], None);
        assert_eq!(reply.status, 200, "{}", reply.text());
        all.extend(outcomes(&reply.text()));
        let next = reply.header("link").and_then(|link| link.split(['<', '>']).nth(1).map(str::to_owned));
        let Some(next) = next else { return all };
        path = next;
    }
}

/// Sends a batch in pieces of so many bytes, each on its own. Gives its id.
fn post_in_pieces(daemon: &Daemon, file: &str, size: usize) -> String {
    let mut connection = daemon.connect();
    let host = daemon.address().to_string();
    let length = file.len().to_string();
    connection.write(&request("POST", V2, &host, &[("Content-Length", &length)], None));
    for piece in file.as_bytes().chunks(size) {
        connection.write(piece);
    }
    connection.read().batch_id()
}

/// One stray quote swallowed all rows behind it, or all up to the next one; they were never counted as rows.
#[test]
fn a_stray_quote_fails_its_own_row_and_no_other() {
    let mut daemon = Daemon::start_configured(CREATES);
    for (file, failed) in [
        (thousand_rows(&[(11, "a10,\"tall,w10")]), vec![11]),
        (thousand_rows(&[(11, "a10,\"tall,w10"), (901, "a900,5\",w900")]), vec![11]),
        (thousand_rows(&[(11, "a10,\"tall,w10"), (901, "a900,\"5,w900")]), vec![11, 901]),
        (thousand_rows(&[(11, "a10,\"tall\"x,w10"), (1001, "a1000,\"")]), vec![11, 1001]),
    ] {
        let linted = lint(&daemon, &file);
        assert_eq!((&linted["rows"], &linted["failedRows"]), (&1000.into(), &failed.len().into()));

        let tried = daemon.call(
            "POST",
            &format!("{V2}?dryRun=true"),
            &[("Accept", "text/csv")],
            Some(file.as_bytes()),
        );
        let tried = outcomes(&tried.text());
        for batch in [daemon.post_batch("demo", &file), post_in_pieces(&daemon, &file, 97)] {
            let details = daemon.wait_complete(&batch);
            assert_eq!((details.size, details.consumed, details.failed), (1000, 1000, failed.len() as u64));
            for restarted in [false, true] {
                if restarted {
                    daemon.kill9().restart();
                }
                let all = all_outcomes(&daemon, &batch);
                assert_eq!(all.keys().copied().collect::<Vec<_>>(), (2..=1001).collect::<Vec<_>>());
                let bad: Vec<u32> = all
                    .iter()
                    .filter(|(_, (outcome, _))| outcome == "failed")
                    .map(|(line, _)| *line)
                    .collect();
                assert_eq!(bad, failed);
                let reasons = |all: &BTreeMap<u32, (String, String)>| {
                    failed.iter().map(|line| all[line].1.clone()).collect::<Vec<_>>()
                };
                assert_eq!(reasons(&all), reasons(&tried));
            }
            for n in [1, 9, 11, 12, 500, 899, 999] {
                let visitor = daemon
                    .get(&format!("/api/v1/profiles/a{n}?by=third-party&client=demo&lines=true"))
                    .json();
                assert_eq!(visitor["attributes"]["size"]["value"], format!("v{n}"));
                assert_eq!(visitor["attributes"]["size"]["line"], n + 1);
            }
            let of = |what: &str| {
                daemon.get(&format!("/api/v1/batches/{}/{what}?client=demo", encoded(&batch))).text()
            };
            assert_eq!(of("file"), file);
            let repair: Vec<String> = of("repair").lines().skip(1).map(str::to_owned).collect();
            let lines: Vec<&str> = file.lines().collect();
            assert_eq!(repair, failed.iter().map(|line| lines[*line as usize - 1]).collect::<Vec<_>>());
        }
    }
}

/// What a spreadsheet saves of a sheet that is wider and longer than what is in it.
#[test]
fn padding_of_a_spreadsheet_holds_nothing() {
    let daemon = Daemon::start_configured(CREATES);
    let batch =
        daemon.post_batch("demo", "batch=thirdPartyId,a,,,\r\nx,v,,,\r\ny,w,,lost,\r\n,,,,\r\n,,,,\r\n");
    assert_eq!((daemon.wait_complete(&batch).size, daemon.wait_complete(&batch).failed), (2, 1));
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("v"));
    let told = daemon.get(&format!("/api/v1/batches/{batch}/outcomes?client=demo&outcome=failed")).text();
    assert!(
        told.contains("column 4: a value stands in a column that has no name (the header names 2)"),
        "{told}"
    );
}

/// A pair of stray quotes makes a legal value of the rows between them: nothing is wrong with it, so it is named.
#[test]
fn a_quote_that_takes_in_rows_is_named_by_lint_the_dry_run_and_the_batchs_page() {
    let daemon = Daemon::start_configured(CREATES);
    let file = thousand_rows(&[(11, "a10,\"tall,w10"), (14, "a13,5\",w13")]);
    let words = "a quote on line 11 takes in the 3 lines after it, which have as many cells as the header";
    let linted = lint(&daemon, &file);
    let found = linted["findings"].as_array().unwrap();
    assert!(
        found.iter().any(|it| it["line"] == 11 && it["what"].as_str().unwrap().contains(words)),
        "{linted}"
    );
    assert_eq!(linted["rows"], 997);
    let tried = daemon.try_batch(&format!("{V2}?dryRun=true"), &file).json();
    let remark = &tried["remarks"][0];
    assert_eq!(
        (&remark["remark"], &remark["count"], &remark["lines"]),
        (&"quote_takes_in_lines".into(), &1.into(), &serde_json::json!([11]))
    );
    assert!(remark["message"].as_str().unwrap().contains(words), "{tried}");
    let batch = daemon.post_batch("demo", &file);
    daemon.wait_complete(&batch);
    let page = daemon.get(&format!("/batches/{batch}")).text();
    assert!(page.contains(words), "{page}");
    let trial = daemon.call(
        "POST",
        "/upload?client=demo&dryRun=true",
        &[("Content-Type", "text/csv")],
        Some(file.as_bytes()),
    );
    assert!(trial.text().contains(words), "{}", trial.text());
    // A value of several lines that is one is nothing to name.
    let address = daemon.post_batch("demo", "batch=thirdPartyId,a,b\nx,\"1 High St\nLondon\",y\n");
    daemon.wait_complete(&address);
    assert!(!daemon.get(&format!("/batches/{address}")).text().contains("Perhaps not meant"));
}

/// AdobeDocs/target-dev.en, profile-bulk-api.md, "URL-encoding requirements" (2026).
#[test]
fn what_adobe_would_read_otherwise_is_named_by_lint_and_the_dry_run() {
    let daemon = Daemon::start_configured(CREATES);
    let file = format!(
        "batch=thirdPartyId,a\nx,50% off\ny,b & c\nz,d+e\nw,f=g\n1.36732E+12,h\n{}",
        "v,i+j\n".repeat(20)
    );
    let tried = daemon.try_batch(&format!("{V2}?dryRun=true"), &file).json();
    let told: Vec<_> = tried["remarks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["remark"].as_str().unwrap(), it["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("raw_percent", 1), ("raw_ampersand", 1), ("raw_plus", 22), ("raw_equals", 1), ("rounded_id", 1)]
    );
    assert_eq!(tried["remarks"][2]["lines"].as_array().unwrap().len(), 10);
    let linted = lint(&daemon, &file);
    for (line, words) in [
        (2, "Adobe refuses the whole batch"),
        (3, "Adobe cuts the batch off there"),
        (4, "read as a space; write %2B where a plus is meant; so on 21 further lines: 6, 7, 8"),
        (5, "write %3D"),
        (6, "a number that a spreadsheet has rounded"),
    ] {
        let found = linted["findings"].as_array().unwrap();
        assert!(
            found.iter().any(|it| it["line"] == line && it["what"].as_str().unwrap().contains(words)),
            "{words}: {linted}"
        );
    }
}

/// Whoever reads a row again at its offset reads some bytes first, which may end within a quote.
#[test]
fn a_value_of_many_lines_is_read_again_as_it_was_read_first() {
    let mut daemon = Daemon::start_configured(
        "[clients.demo]\nv2_creates_profiles = true\n[ingest]\nmax_rows_per_second = 1\n",
    );
    let text = |lines: usize| "nothing but words\n".repeat(lines);
    let file = format!(
        "batch=thirdPartyId,a,b\nx,\"\n{}\",%zz\ny,\"{}\",1\nz,\"\n{}\nx,2,3\n",
        text(99),
        text(100),
        text(200)
    );
    let batch = daemon.post_batch("demo", &file);
    let value = |daemon: &Daemon| daemon.value("demo", "third-party", "y", "a");
    assert_eq!(value(&daemon), Some(text(100)));
    daemon.kill9().restart();
    assert_eq!(value(&daemon), Some(text(100)));
    daemon.configure("[clients.demo]\nv2_creates_profiles = true\n");
    daemon.kill9().restart();
    assert_eq!(daemon.wait_complete(&batch).size, 204);
    assert_eq!(value(&daemon), Some(text(100)));
    let repaired = daemon.get(&format!("/api/v1/batches/{batch}/repair?client=demo")).text();
    let repaired = repaired.strip_prefix("batch=thirdPartyId,a,b\n").unwrap();
    assert_eq!(repaired, format!("x,\"\n{}\",%zz\nz,\"\n", text(99)));
}
