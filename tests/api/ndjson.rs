//! `POST /api/v1/batches`: batches in NDJSON and CSV, from the call to what lookups, outcomes, repair and erasure make of them.

use std::io::Write;

use crate::support::{Daemon, chunked, encoded};
use serde_json::{Value, json};

const DOOR: &str = "/api/v1/batches?client=demo";
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");
const CREATES: &str = "[clients.demo]\nv2_creates_profiles = true\n";

/// Posts a batch, which must be accepted. Returns it as the answer shows it.
fn post(daemon: &Daemon, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
    let reply = daemon.call("POST", &format!("{DOOR}{query}"), headers, Some(body));
    assert_eq!(reply.status, 201, "{}", reply.text());
    let batch = reply.json();
    let id = batch["batchId"].as_str().unwrap();
    assert_eq!(reply.header("location").unwrap(), format!("/api/v1/batches/{id}"));
    assert_eq!(reply.header("profiled-seq"), batch["seq"].as_str());
    batch
}

fn id_of(batch: &Value) -> &str {
    batch["batchId"].as_str().unwrap()
}

/// The outcome of each row, as `line outcome reason`.
fn outcomes(daemon: &Daemon, id: &str) -> Vec<String> {
    let path = format!("/api/v1/batches/{}/outcomes", encoded(id));
    let reply = daemon.call("GET", &path, &[("Accept", "application/x-ndjson")], None);
    let rows = reply.text();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    rows.map(|row| format!("{} {} {}", row["line"], word(&row["outcome"]), word(&row["reason"]))).collect()
}

#[test]
fn a_batch_in_ndjson_is_what_the_same_batch_in_csv_is() {
    let mut daemon = Daemon::start_configured(CREATES);
    let rows = "{\"thirdPartyId\":\"crm-1\",\"tier\":\"gold\",\"points\":12}\n\
                {\"thirdPartyId\":\"crm-2\",\"points\":null,\"tier\":\"50% & more\"}\n\
                {\"thirdPartyId\":\"crm-3\",\"tier\":{\"name\":\"gold\"}}\n\
                {\"thirdPartyId\":\"crm-4\",\"tier\":null}\n\
                {\"thirdPartyId\":\"crm-5\",\"colour\":\"red\"}\n\
                not json\n\
                {\"points\":7,\"thirdPartyId\":\"crm-6\"}";
    let batch = post(&daemon, "", &[NDJSON], rows.as_bytes());
    assert_eq!((&batch["format"], &batch["version"]), (&json!("ndjson"), &json!("v2")));
    assert_eq!((&batch["rows"], &batch["bytes"]), (&json!(7), &json!(rows.len())));
    let id = id_of(&batch);
    // It is readable at once.
    assert_eq!(daemon.value("demo", "third-party", "crm-2", "tier").as_deref(), Some("50% & more"));
    daemon.wait_complete(id);
    for restarted in [false, true] {
        if restarted {
            daemon.kill9().restart();
        }
        let expected = [
            "1 created -",
            "2 created -",
            "3 failed nested_value",
            "4 ignored -",
            "5 failed unknown_name",
            "6 failed bad_json",
            "7 created -",
        ];
        assert_eq!(outcomes(&daemon, id), expected);
        for (visitor, name, value) in
            [("crm-1", "tier", "gold"), ("crm-1", "points", "12"), ("crm-6", "points", "7")]
        {
            assert_eq!(daemon.value("demo", "third-party", visitor, name).as_deref(), Some(value));
        }
        let shown = daemon.get("/api/v1/profiles/crm-6?by=third-party&client=demo&lines=true").json();
        assert_eq!(shown["attributes"]["points"]["line"], 7);
        let file = daemon.get(&format!("/api/v1/batches/{id}/file"));
        assert_eq!((file.text(), file.header("content-type")), (rows.to_owned(), Some(NDJSON.1)));
        let named = file.header("content-disposition").unwrap().to_owned();
        assert!(named.contains(&format!("{id}.ndjson")), "{named}");
    }
    let csv = "batch=thirdPartyId,tier,points\ncrm-1,silver,\n";
    let batch = post(&daemon, "", &[("Content-Type", "text/csv")], csv.as_bytes());
    assert_eq!(batch["format"], "csv");
    daemon.wait_complete(id_of(&batch));
    assert_eq!(daemon.value("demo", "third-party", "crm-1", "tier").as_deref(), Some("silver"));
}

#[test]
fn the_failed_rows_come_back_as_they_were_sent_and_can_be_posted_again() {
    let daemon = Daemon::start_configured(CREATES);
    let rows = "{\"thirdPartyId\":\"1\",\"a\":\"x\",\"b\":null}\n{\"thirdPartyId\":\"2\",\"b\":[1]}\n";
    let batch = post(&daemon, "", &[NDJSON], rows.as_bytes());
    daemon.wait_complete(id_of(&batch));
    let repair = daemon.get(&format!("/api/v1/batches/{}/repair", id_of(&batch)));
    assert_eq!(repair.header("content-type"), Some(NDJSON.1));
    let header = "{\"batch\":\"thirdPartyId\",\"attributes\":[\"a\",\"b\"]}\n";
    assert_eq!(repair.text(), format!("{header}{{\"thirdPartyId\":\"2\",\"b\":[1]}}\n"));
    let corrected = repair.text().replace("[1]", "1");
    let batch = post(&daemon, "", &[NDJSON], corrected.as_bytes());
    daemon.wait_complete(id_of(&batch));
    assert_eq!(outcomes(&daemon, id_of(&batch)), ["2 created -"]);
    assert_eq!(daemon.value("demo", "third-party", "2", "b").as_deref(), Some("1"));
}

#[test]
fn empty_values_version_key_and_dry_run_count_as_for_batch_update() {
    let daemon = Daemon::start_configured(CREATES);
    let rows = b"{\"pcId\":\"1\",\"a\":\"x\",\"b\":\"y\"}\n";
    let known = post(&daemon, "", &[NDJSON, ("Idempotency-Key", "k")], rows);
    let again = daemon.call("POST", DOOR, &[NDJSON, ("Idempotency-Key", "k")], Some(rows));
    assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(id_of(&again.json()), id_of(&known));
    let other =
        daemon.call("POST", DOOR, &[NDJSON, ("Idempotency-Key", "k")], Some(b"{\"pcId\":\"2\",\"a\":1}"));
    assert_eq!(other.status, 422, "{}", other.text());

    let removes = b"{\"pcId\":\"1\",\"a\":null,\"b\":\"z\"}\n{\"pcId\":\"1\"}\n";
    let tried =
        daemon.call("POST", &format!("{DOOR}&dryRun=true&emptyValues=remove"), &[NDJSON], Some(removes));
    let tried = (tried.status, tried.json());
    assert_eq!(tried.0, 200);
    assert_eq!(
        (&tried.1["attributes"]["a"]["removed"], &tried.1["outcomes"]["ignored"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("x"), "a dry run writes nothing");
    let batch = post(&daemon, "&emptyValues=remove&version=v1", &[NDJSON], removes);
    assert_eq!(batch["version"], "v1");
    daemon.wait_complete(id_of(&batch));
    assert_eq!(outcomes(&daemon, id_of(&batch)), ["1 updated -", "2 ignored -"]);
    assert_eq!(daemon.value("demo", "pc", "1", "a"), None);
    assert_eq!(daemon.value("demo", "pc", "1", "b").as_deref(), Some("z"));
    // Version 1 creates nobody.
    let batch = post(&daemon, "&version=v1", &[NDJSON], b"{\"pcId\":\"new\",\"a\":1}\n");
    daemon.wait_complete(id_of(&batch));
    assert_eq!(outcomes(&daemon, id_of(&batch)), ["1 not_found -"]);
}

#[test]
fn it_comes_in_pieces_or_compressed_and_may_have_many_rows_of_one_visitor() {
    let daemon = Daemon::start_configured(CREATES);
    let rows: String = (0..3000)
        .map(|n| format!("{{\"thirdPartyId\":\"v{}\",\"a\":{n},\"b\":\"é{n}\"}}\n", n % 3))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(rows.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(rows.as_bytes(), 1).unwrap();
    let mut ids = vec![];
    for (encoding, body) in [("gzip", &gzip), ("zstd", &zstd)] {
        let batch = post(&daemon, "", &[NDJSON, ("Content-Encoding", encoding)], body);
        assert_eq!((&batch["rows"], &batch["bytes"]), (&json!(3000), &json!(rows.len())));
        ids.push(id_of(&batch).to_owned());
    }
    let mut connection = daemon.connect();
    let host = daemon.address();
    connection.write(
        format!(
            "POST {DOOR} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            NDJSON.1
        )
        .as_bytes(),
    );
    for piece in rows.as_bytes().chunks(997) {
        // All but the chunk that ends the body.
        let chunk = chunked(piece);
        connection.write(chunk.strip_suffix(b"0\r\n\r\n").unwrap());
    }
    connection.write(b"0\r\n\r\n");
    let reply = connection.read();
    assert_eq!(reply.status, 201, "{}", reply.text());
    ids.push(id_of(&reply.json()).to_owned());
    for id in ids {
        let details = daemon.wait_complete(&id);
        assert_eq!((details.size, details.failed), (3000, 0));
    }
    for (visitor, last) in [("v0", 2997), ("v1", 2998), ("v2", 2999)] {
        assert_eq!(daemon.value("demo", "third-party", visitor, "a"), Some(last.to_string()));
        assert_eq!(daemon.value("demo", "third-party", visitor, "b"), Some(format!("é{last}")));
    }
}

#[test]
fn what_is_no_batch_is_a_problem_that_says_what_would_be_right() {
    let daemon = Daemon::start_configured("rows_limit = 3\n");
    let refused = |headers: &[(&str, &str)], query: &str, body: &str, status: u16, words: &str| {
        let reply = daemon.call("POST", &format!("{DOOR}{query}"), headers, Some(body.as_bytes()));
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        let problem = reply.json();
        assert!(problem["detail"].as_str().unwrap().contains(words), "{words}: {problem}");
    };
    let row = "{\"pcId\":\"1\",\"a\":1}\n";
    refused(&[NDJSON], "", "{\"a\":1}\n", 400, "names no visitor");
    refused(&[NDJSON], "", "batch=pcId,a\n1,x\n", 400, "Content-Type: text/csv");
    refused(&[("Content-Type", "text/csv")], "", row, 400, "Content-Type: application/x-ndjson");
    refused(&[("Content-Type", "application/json")], "", row, 415, "application/x-ndjson");
    refused(&[NDJSON], "&version=3", row, 400, "v1 or v2");
    refused(&[NDJSON], "&emptyValues=keep", row, 400, "remove, or ignore");
    refused(&[NDJSON], "", &row.repeat(4), 413, "more than 3 rows");
    refused(&[NDJSON, ("Content-Encoding", "br")], "", row, 415, "gzip, zstd or deflate");
    assert!(daemon.spooled().is_empty(), "nothing of them stays: {:?}", daemon.spooled());
}

/// Rows that are as long as rows may be, of as many parts as fit: neither the upload nor the report keeps more than one.
#[test]
fn long_lines_of_many_members_take_no_more_memory_than_others() {
    const ROW: usize = (4 << 20) - 64;
    let daemon = Daemon::start_configured(CREATES);
    let of = |head: &str, part: &str, tail: &str| format!("{head}{}{tail}\n", part.repeat(ROW / part.len()));
    let rows = [
        ("failed duplicate_name", of("{\"pcId\":\"1\"", ",\"a\":1", "}")),
        ("failed nested_value", of("{\"pcId\":\"2\",\"a\":[", "[],", "[]]}")),
        ("failed bad_json", of("", "{\"a\":1}", "")),
        ("failed unknown_name", of("{\"pcId\":\"3\"", ",\"b\":1", "}")),
        ("failed profile_too_large", of("{\"pcId\":\"4\",\"a\":\"", "\\u00e9", "\"}")),
    ];
    // A file of this size is held in memory while it is applied, whatever its form.
    let csv = format!("batch=pcId,a\n{}", of("1,", "x", "").repeat(2 * rows.len()));
    let csv = post(&daemon, "", &[("Content-Type", "text/csv")], csv.as_bytes());
    daemon.wait_complete(id_of(&csv));
    assert_eq!(outcomes(&daemon, id_of(&csv)).len(), 2 * rows.len());
    let before = daemon.memory_kib("VmHWM:");
    let body: String = rows.iter().map(|(_, row)| row.repeat(2)).collect();
    let body = format!("{{\"batch\":\"pcId\",\"attributes\":[\"a\"]}}\n{body}");
    let batch = post(&daemon, "", &[NDJSON], body.as_bytes());
    daemon.wait_complete(id_of(&batch));
    let reported = outcomes(&daemon, id_of(&batch));
    let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
    println!(
        "{} MiB of long lines: {grown} MiB more than {} MiB of CSV took",
        body.len() >> 20,
        before / 1024
    );
    let expected: Vec<String> = rows
        .iter()
        .flat_map(|(became, _)| [*became; 2])
        .zip(2..)
        .map(|(it, line)| format!("{line} {it}"))
        .collect();
    assert_eq!(reported, expected);
    assert!(grown < 32, "{grown} MiB");
}

/// A row of NDJSON is overwritten as one of CSV is, and the first line keeps the names by which the others are read.
#[test]
fn an_erased_visitors_rows_are_overwritten_and_the_others_are_read_as_before() {
    let daemon = Daemon::start_configured(CREATES);
    let rows = "{\"thirdPartyId\":\"gone\",\"name\":\"Ann Secret\",\"age\":41}\n\
                {\"thirdPartyId\":\"stays\",\"name\":\"Bo\"}\n\
                {\"thirdPartyId\":\"gone\",\"age\":[\"Secret\"]}\n";
    let batch = post(&daemon, "", &[NDJSON], rows.as_bytes());
    let id = id_of(&batch);
    daemon.wait_complete(id);
    let erased = daemon.call("DELETE", "/api/v1/profiles/gone?client=demo", &[], None);
    assert_eq!(erased.status, 200, "{}", erased.text());
    let compacted =
        daemon.call("POST", "/api/v1/compact", &[("Content-Type", "application/json")], Some(b"{}"));
    assert_eq!(compacted.status, 200, "{}", compacted.text());
    let file = crate::support::wait_for("the rows to be overwritten", || {
        let reply = daemon.get(&format!("/api/v1/batches/{id}/file"));
        (reply.status == 200 && !reply.text().contains("Secret")).then(|| reply.text())
    });
    assert_eq!(file.len(), rows.len());
    assert!(file.starts_with("{\"thirdPartyId\":\"eras\",\"name\":\"ed"), "{file}");
    assert_eq!(outcomes(&daemon, id), ["1 created erased", "2 created -", "3 failed erased"]);
    assert_eq!(daemon.value("demo", "third-party", "stays", "name").as_deref(), Some("Bo"));
}

#[test]
fn the_command_line_posts_ndjson_by_the_name_of_the_file() {
    let daemon = Daemon::start_configured(CREATES);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("night.ndjson");
    std::fs::write(
        &path,
        "{\"thirdPartyId\":\"crm-1\",\"tier\":\"gold\"}\n{\"thirdPartyId\":\"crm-2\",\"tier\":[]}\n",
    )
    .unwrap();
    let file = path.to_str().unwrap();
    let url = daemon.url();
    let post = |more: &[&str]| {
        let mut arguments = vec!["batch", "post", "--client", "demo", "--url", &url];
        arguments.extend(more);
        daemon.run(&arguments)
    };
    let (code, printed, complaint) = post(&[file, "--wait", "--json"]);
    assert_eq!(code, Some(0), "{complaint}");
    let batch: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&batch["format"], &batch["counts"]["failed"]), (&json!("ndjson"), &json!(1)));
    assert_eq!(daemon.value("demo", "third-party", "crm-1", "tier").as_deref(), Some("gold"));

    let (code, printed, _) = post(&[file, "--dry-run", "--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&printed).unwrap()["rows"].clone()), (Some(0), json!(2)));
    let (code, _, complaint) = post(&[file, "--format", "csv"]);
    assert_eq!(code, Some(1));
    assert!(complaint.contains("looks like JSON"), "{complaint}");
    let text = folder.path().join("night.txt");
    std::fs::copy(&path, &text).unwrap();
    let (code, _, complaint) = post(&[text.to_str().unwrap(), "--format", "ndjson", "--wait"]);
    assert_eq!(code, Some(0), "{complaint}");
    let (code, printed, _) = daemon.run(&["lint", file, "--json"]);
    let linted: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &linted["rows"], &linted["failedRows"]), (Some(1), &json!(2), &json!(1)), "{linted}");
}

/// The first line may be a row, and the feed tells it, too.
#[test]
fn the_feed_of_changes_tells_the_first_line() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x");
    let header = "{\"batch\":\"thirdPartyId\",\"attributes\":[\"a\"]}\n";
    for (begin, line) in [("", 1), (header, 2)] {
        let body =
            format!("{begin}{{\"thirdPartyId\":\"x\",\"a\":{line}}}\n{{\"thirdPartyId\":\"y\",\"a\":2}}\n");
        let batch = post(&daemon, "", &[NDJSON], body.as_bytes());
        let id = id_of(&batch);
        daemon.wait_complete(id);
        let feed = daemon.get("/api/v1/changes?client=demo&since=0").text();
        let events = feed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let rows: Vec<Value> =
            events.filter(|event| event["event"] == "row" && event["batchId"] == id).collect();
        let told: Vec<_> =
            rows.iter().map(|row| (row["line"].as_u64().unwrap(), row["set"]["a"].as_str())).collect();
        assert_eq!(told, [(line, Some(&*line.to_string())), (line + 1, None)]);
    }
}
