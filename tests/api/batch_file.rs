//! Real batch files on the real daemon. The daemon, the dry run and `lint` must read each in the same way.

use std::collections::BTreeMap;

use crate::support::{Daemon, encoded, request, wait_for};

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

/// The report of `profiled lint --json` on a file.
fn lint(daemon: &Daemon, file: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("BATCH.TXT");
    std::fs::write(&path, file).unwrap();
    let (_, reported, _) = daemon.run(&["lint", path.to_str().unwrap(), "--json"]);
    serde_json::from_str(&reported).unwrap()
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

/// Sends a batch in pieces of this many bytes. Returns its id.
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

/// One stray quote once swallowed all rows after it, or all rows up to the next quote. They were never counted.
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

/// A spreadsheet saves a sheet that is wider and longer than its content.
#[test]
fn padding_of_a_spreadsheet_holds_nothing() {
    let daemon = Daemon::start_configured(CREATES);
    let batch =
        daemon.post_batch("demo", "batch=thirdPartyId,a,,,\r\nx,v,,,\r\ny,w,,lost,\r\n,,,,\r\n,,,,\r\n");
    assert_eq!((daemon.wait_complete(&batch).size, daemon.wait_complete(&batch).failed), (2, 1));
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("v"));
    let reported = daemon.get(&format!("/api/v1/batches/{batch}/outcomes?client=demo&outcome=failed")).text();
    assert!(
        reported.contains("column 4: a value stands in a column that has no name (the header names 2)"),
        "{reported}"
    );
}

/// A pair of stray quotes turns the rows between them into one legal value. That is no error, so it is a remark.
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
    // A real value of several lines gets no remark.
    let address = daemon.post_batch("demo", "batch=thirdPartyId,a,b\nx,\"1 High St\nLondon\",y\n");
    daemon.wait_complete(&address);
    let page = daemon.get(&format!("/batches/{address}")).text();
    assert!(!page.contains("takes in"), "{page}");
}

/// AdobeDocs/target-dev.en, profile-bulk-api.md, "URL-encoding requirements" (2026).
#[test]
fn lint_and_the_dry_run_remark_what_adobe_would_read_differently() {
    let daemon = Daemon::start_configured(CREATES);
    let file = format!(
        "batch=thirdPartyId,a\nx,50% off\ny,b & c\nz,d+e\nw,f=g\n1.36732E+12,h\n{}",
        "v,i+j\n".repeat(20)
    );
    let tried = daemon.try_batch(&format!("{V2}?dryRun=true"), &file).json();
    let reported: Vec<_> = tried["remarks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["remark"].as_str().unwrap(), it["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        reported,
        [("raw_percent", 1), ("raw_ampersand", 1), ("raw_plus", 22), ("raw_equals", 1), ("rounded_id", 1)]
    );
    assert_eq!(tried["remarks"][2]["lines"].as_array().unwrap().len(), 10);
    let linted = lint(&daemon, &file);
    for (line, words) in [
        (2, "Adobe refuses the whole batch"),
        (3, "Adobe cuts the batch off there"),
        (4, "read as a space; write %2B where a plus is meant; also on 21 further lines: 6, 7, 8"),
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

/// To read a row again at its offset, the daemon first reads some bytes, which may end within a quote.
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

/// The result of a file by each way to send it: the outcomes of its rows from the daemon, and the counts from `lint` and the dry
/// run.
fn comes_to(daemon: &Daemon, headers: &[(&str, &str)], body: &[u8], rows: u64, source: &str) -> String {
    let trial = daemon.call("POST", &format!("{V2}?dryRun=true"), headers, Some(body));
    assert_eq!((trial.status, &trial.json()["rows"]), (200, &rows.into()), "{source}: {}", trial.text());
    let reply = daemon.call("POST", V2, headers, Some(body));
    assert_eq!(reply.status, 200, "{source}: {}", reply.text());
    let url = reply.element("batchStatus").unwrap();
    let batch = url.split_once("batchId=").unwrap().1.to_owned();
    daemon.wait_complete(&batch);
    daemon.get(&format!("/api/v1/batches/{batch}/file")).text()
}

/// Each case names who sends such a body.
#[test]
fn a_batch_may_come_as_a_field_of_a_form() {
    let daemon = Daemon::start_configured(CREATES);
    const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
    let file = "batch=thirdPartyId,city\nx,Lyon\ny,Bern\n";
    let check = |source: &str, headers: &[(&str, &str)], body: &str, rows: u64, kept: &str| {
        assert_eq!(comes_to(&daemon, headers, body.as_bytes(), rows, source), kept, "{source}");
        if !headers.iter().any(|(name, _)| *name == "Content-Encoding") {
            assert_eq!(lint(&daemon, body)["rows"], rows, "{source}");
        }
    };
    let urlencoded = "batch=thirdPartyId%2Ccity%0Ax%2CLyon%0Ay%2CBern%0A";
    check("curl --data-urlencode 'batch@-'", &[FORM], urlencoded, 2, file);
    check("the same, no content type", &[], urlencoded, 2, file);
    check(
        "requests.post(url, data={'batch': csv}), 2.32",
        &[
            FORM,
            ("User-Agent", "python-requests/2.32.3"),
            ("Accept-Encoding", "gzip, deflate"),
            ("Accept", "*/*"),
        ],
        "batch=thirdPartyId%2Ccity%0D%0Ax%2CSt.+Gallen%0D%0A",
        1,
        "batch=thirdPartyId,city\r\nx,St. Gallen\r\n",
    );
    check("a form tool that adds its button", &[FORM], &format!("{urlencoded}&submit=Send%2C+now"), 2, file);
    check("a whole file as the field", &[FORM], &urlencoded.replacen('=', "=batch%3d", 1), 2, file);
    assert_eq!(daemon.value("demo", "third-party", "y", "city").as_deref(), Some("Bern"));

    // A real curl, and a form that is compressed, and one whose rows are many.
    let curl = std::process::Command::new("curl")
        .args(["-sS", "-X", "POST", "--data-urlencode", "batch@-", &format!("{}{V2}", daemon.url())])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    match curl {
        Ok(mut curl) => {
            let many: String = (0..50_000).map(|row| format!("\nc{row},é & +{row}")).collect();
            let sent = format!("thirdPartyId,city{many}\n");
            std::io::Write::write_all(&mut curl.stdin.take().unwrap(), sent.as_bytes()).unwrap();
            let reported = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
            let batch = reported.split_once("batchId=").unwrap_or_else(|| panic!("{reported}")).1;
            let batch = batch.split('<').next().unwrap();
            daemon.wait_complete(batch);
            let kept = daemon.get(&format!("/api/v1/batches/{batch}/file")).text();
            assert!(kept == format!("batch={sent}"), "{}", &kept[..200]);
        }
        Err(_) => println!("skipped: curl is not here"),
    }
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, urlencoded.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let headers = [FORM, ("Content-Encoding", "gzip")];
    assert_eq!(comes_to(&daemon, &headers, &gzip, 2, "a compressed form"), file);
}

#[test]
fn limits_hold_on_what_comes_out_of_a_form() {
    let daemon = Daemon::start_configured("body_bytes_limit = \"64 KiB\"\n[clients.demo]\n");
    const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
    let rows = |count: usize| format!("batch=pcId%2Ca{}", "%0A1%2C%2C".repeat(count));
    // 64 KiB of file are 160 KiB of form.
    assert_eq!(daemon.call("POST", V2, &[FORM], Some(rows(16_000).as_bytes())).status, 200);
    let check = |body: &str, words: &str| {
        let reply = daemon.call("POST", V2, &[FORM], Some(body.as_bytes()));
        assert_eq!(reply.status, 413, "{}", reply.text());
        assert!(reply.text().contains(words), "{words}: {}", reply.text());
    };
    check(&rows(16_500), "the batch file has 65536 bytes or more");
    check(&rows(50_000), "the batch file has 500014 bytes");
    check(&format!("{}&other={}", rows(1), "x".repeat(300_000)), "300");
    // A raw file with a form's content type is refused by its length. It is not read up to the limit.
    check(&format!("batch=pcId,a\n{}", "1,x\n".repeat(20_000)), "the batch file has 80013 bytes");
    let files =
        daemon.spooled().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "csv"));
    assert_eq!(files.count(), 1, "what was refused left nothing");
}

/// Adobe decodes a form once: the values in it are not decoded again.
#[test]
fn a_form_is_read_as_adobe_documents_where_that_is_asked_for() {
    let daemon =
        Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\nbatch_reading = \"adobe\"\n");
    let form = "batch=thirdPartyId%2Ca%0Ax%2C50%25+off+%26+more%2B%0A&other=1";
    let batch = daemon.post_batch("demo", form);
    daemon.wait_complete(&batch);
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("50% off & more+"));
    let reply = daemon.try_batch(V2, "batch=thirdPartyId%2Ca%0Ax%2C50%+off%0A");
    assert_eq!(reply.element("message").as_deref(), Some("Unexpected error"), "{}", reply.text());
}

/// The daemon, the dry run and `lint` refuse a body that is no batch file with the same message, which says what to send instead.
/// (All cases are in the parser's test, `what_is_sent_in_place_of_a_batch_file_is_named_with_the_way_out`.)
#[test]
fn what_is_no_batch_file_is_refused_in_the_same_words_everywhere() {
    let daemon = Daemon::start_configured(CREATES);
    let utf16: Vec<u8> =
        "\u{feff}batch=pcId,a\n1,x\n".encode_utf16().flat_map(|unit| unit.to_le_bytes()).collect();
    let check = |source: &str, body: &[u8], words: &str| {
        let reply = daemon.try_batch(V2, body);
        let reported = reply.element("message").unwrap_or_default();
        assert_eq!(reply.status, 400, "{source}: {}", reply.text());
        assert!(reported.contains(words), "{source}: {words:?} in {reported}");
        let trial = daemon.try_batch(&format!("{V2}?dryRun=true"), body);
        assert_eq!((trial.status, trial.element("message")), (400, Some(reported.clone())), "{source}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("BATCH.TXT");
        std::fs::write(&path, body).unwrap();
        let (code, said, _) = daemon.run(&["lint", path.to_str().unwrap(), "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, said["refused"].as_str()), (Some(1), Some(reported.as_str())), "{source}");
    };
    check("curl -d @FILE", b"batch=thirdPartyId,a,bx,1,2y,3,4", "curl --data-binary @FILE");
    check("a spreadsheet", b"batch=thirdPartyId;a\nx;1\n", "separated by semicolons: it must be commas");
    check("a spreadsheet", b"sep=;\nbatch=thirdPartyId;a\nx;1\n", "the line sep=");
    check("cells copied", b"batch=thirdPartyId\ta\nx\t1\n", "separated by tabs");
    check("a database", b"batch=thirdPartyId|a\nx|1\n", "separated by vertical bars");
    check("Excel, Unicode Text", &utf16, "UTF-16");
    check("an xlsx file", b"PK\x03\x04\x14\0\x06\0\x08\0\n", "zip file, or a spreadsheet (xlsx)");
    check("ACC's guide: raw JSON", b"{\"batch\": [1]}", "looks like JSON");
    check(
        "ACC's guide: multipart",
        b"--XX\r\nContent-Disposition: form-data; name=\"batch\"\r\n",
        "multipart form",
    );
    check(
        "Adobe: at the beginning of the file",
        b"client=demo&batch=pcId%2Ca%0A1%2C2",
        "batch= must come first",
    );
    check("ACC's negative test: no batch=", b"thirdPartyId,seg_id\nUID,w10%7Cw32", "must begin with");
    check("a gzip file, unsaid", b"\x1f\x8b\x08\0\0\0\0\0\n", "Content-Encoding: gzip");
    // The same body in a form is recognised after decoding.
    check("a form of semicolons", b"batch=thirdPartyId%3Ba%0Ax%3B1%0A", "separated by semicolons");

    let multipart = ("Content-Type", "multipart/form-data; boundary=XX");
    let reply = daemon.call("POST", V2, &[multipart], Some(b"--XX\r\n"));
    assert_eq!(reply.status, 415);
    assert!(reply.text().contains("--data-binary") && reply.text().contains("curl -F"), "{}", reply.text());
    let reply = daemon.call("POST", V2, &[("Content-Type", "application/json")], Some(b"{}"));
    assert!(reply.status == 415 && reply.text().contains("--data-binary"), "{}", reply.text());
}

/// The client's settings list the blocked ids, and a batch keeps the list from the moment when it was accepted. Later settings
/// don't change it, nor does a `kill -9`, a lost index, or a lost store.
#[test]
fn the_blocked_ids_of_a_batch_are_fixed_when_it_is_accepted() {
    let settings =
        |blocked: &str, more: &str| format!("[clients.demo]\nv2_creates_profiles = true\n{blocked}{more}");
    let slow = "[ingest]\nmax_rows_per_second = 1\n";
    for (first, then, failed) in [
        ("", "blocked_ids = ['void']\n", vec![2, 3, 5]),
        ("blocked_ids = ['Void']\n", "", vec![4]),
        ("blocked_ids = []\n", "blocked_ids = ['x', 'undefined', 'void']\n", vec![]),
    ] {
        let mut daemon = Daemon::start_configured(&settings(first, slow));
        let file = format!(
            "batch=thirdPartyId,a\nundefined,1\nNULL,2\nvoid,3\n{}000,4\n{}\u{1a}\r\n",
            '\u{feff}',
            (6..300).map(|n| format!("x{n},{n}\n")).collect::<String>()
        );
        let batch = daemon.post_batch("demo", &file);
        daemon.kill9();
        daemon.configure(&settings(then, slow));
        for upload in std::fs::read_dir(daemon.data().join("spool")).unwrap() {
            let path = upload.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "index") {
                std::fs::remove_file(path).unwrap();
            }
        }
        daemon.restart();
        let value = |daemon: &Daemon, id: &str| daemon.value("demo", "third-party", id, "a");
        assert_eq!(value(&daemon, "void").is_some(), !failed.contains(&4), "{first:?}");
        assert_eq!(value(&daemon, "undefined").is_some(), !failed.contains(&2), "{first:?}");
        daemon.configure(&settings(then, ""));
        daemon.kill9().restart();
        assert_eq!(daemon.wait_complete(&batch).size, 298);
        let fails = |daemon: &Daemon| {
            let all = all_outcomes(daemon, &batch);
            assert_eq!(all.len(), 298);
            let failed = all.into_iter().filter(|(_, (outcome, _))| outcome == "failed");
            failed.map(|(line, (_, reason))| (line, reason)).collect::<Vec<_>>()
        };
        let expected: Vec<_> = failed.iter().map(|line| (*line, "blocked_id".to_owned())).collect();
        assert_eq!(fails(&daemon), expected, "{first:?}, then {then:?}");
        daemon.kill9();
        std::fs::remove_dir_all(daemon.data().join("store")).unwrap();
        daemon.restart();
        daemon.wait_complete(&batch);
        assert_eq!(fails(&daemon), expected, "{first:?}, then {then:?}, rebuilt");
        assert_eq!(value(&daemon, "void").is_some(), !failed.contains(&4), "rebuilt");
        let repaired = daemon.get(&format!("/api/v1/batches/{batch}/repair?client=demo")).text();
        assert_eq!(repaired.lines().count(), 1 + failed.len());
    }
}

/// `lint` and the dry run also use the client's list, and say what to do about rows with a blocked id.
#[test]
fn blocked_ids_are_reported_before_an_upload() {
    let daemon = Daemon::start_configured("[clients.demo]\nblocked_ids = ['void']\n");
    let file = "batch=thirdPartyId,a\nVoid,1\nNULL,2\n12\u{200b}3,3\n\u{a0}x\u{a0},4\n\u{1a}";
    let tried = daemon.try_batch(&format!("{V2}?dryRun=true"), file).json();
    assert_eq!((&tried["rows"], &tried["outcomes"]["failed"]), (&4.into(), &1.into()));
    let reported =
        |it: &serde_json::Value| (it["remark"].as_str().unwrap().to_owned(), it["lines"].to_string());
    let remarks: Vec<_> = tried["remarks"].as_array().unwrap().iter().map(reported).collect();
    assert_eq!(remarks, [("invisible_in_id".into(), "[4]".into()), ("blocked_id".into(), "[2]".into())]);
    let why = "line 2: \"Void\" is no thirdPartyId but what stands where there is none (blocked_ids): leave the row out, or \
               name the visitor";
    assert!(tried.to_string().contains(&why.replace('"', "\\\"")), "{tried}");
    let linted = lint(&daemon, file);
    assert_eq!((&linted["rows"], &linted["failedRows"]), (&4.into(), &1.into()), "{linted}");
    for (line, words) in [
        (3, "\"NULL\" is no thirdPartyId"),
        (3, "on 1 line the id is blocked"),
        (4, "an invisible character"),
    ] {
        let found = linted["findings"].as_array().unwrap();
        let is = |it: &serde_json::Value| it["line"] == line && it["what"].as_str().unwrap().contains(words);
        assert!(found.iter().any(is), "{words}: {linted}");
    }
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("BATCH.TXT");
    std::fs::write(&path, file).unwrap();
    let (_, reported, _) = daemon.run(&["lint", path.to_str().unwrap(), "--json", "--blocked-ids", "a,b"]);
    assert!(reported.contains("\"failedRows\": 0") || reported.contains("\"failedRows\":0"), "{reported}");
}

/// A Ctrl-Z at the end of a file is not a row, however the file is sent.
#[test]
fn a_ctrl_z_at_the_end_is_no_row_however_the_file_comes() {
    let daemon = Daemon::start_configured(CREATES);
    let file = "batch=thirdPartyId,a\r\nx,1\r\ny,2\r\n\u{1a}";
    let form = "batch=thirdPartyId%2Ca%0D%0Ax%2C1%0D%0Ay%2C2%0D%0A%1A%0D%0A";
    let gzip = || {
        use std::io::Write as _;
        let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gz.write_all(file.as_bytes()).unwrap();
        gz.finish().unwrap()
    };
    for batch in [
        daemon.post_batch("demo", file),
        daemon.post_batch("demo", form),
        post_in_pieces(&daemon, file, 1),
        daemon.call("POST", V2, &[("Content-Encoding", "gzip")], Some(&gzip())).batch_id(),
    ] {
        let details = daemon.wait_complete(&batch);
        assert_eq!((details.size, details.failed), (2, 0), "{batch}");
    }
    assert_eq!(lint(&daemon, file)["rows"], 2);
}

/// What a dry run says of new attributes, once the daemon has read what the store holds.
fn new_of(daemon: &Daemon, file: &str) -> Vec<(String, Option<String>)> {
    let tried = daemon.try_batch("/api/v1/batches?client=demo&dryRun=true", file);
    assert_eq!(tried.status, 200, "{}", tried.text());
    new_in(&tried.json())
}

fn new_in(answer: &serde_json::Value) -> Vec<(String, Option<String>)> {
    let new = answer["newAttributes"].as_array().unwrap().iter();
    new.map(|new| (new["name"].as_str().unwrap().to_owned(), new["nearest"].as_str().map(str::to_owned)))
        .collect()
}

#[test]
fn attributes_that_no_profile_had_are_named_with_the_nearest_that_exists() {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=a&profile.loyaltyTier=gold&profile.empty=");
    daemon.mbox("other", "mbox=m&mbox3rdPartyId=a&profile.nickname=x");
    let file = "batch=thirdPartyId,loyaltytier,loyaltyTier,nickname,empty\na,1,2,3,4\n";
    let near = || ("loyaltytier".to_owned(), Some("loyaltyTier".to_owned()));
    let far = |name: &str| (name.to_owned(), None);
    wait_for("the store to be read", || (!new_of(&daemon, file).is_empty()).then_some(()));
    assert_eq!(new_of(&daemon, file), [near(), far("nickname"), far("empty")], "of this client alone");
    assert_eq!(new_of(&daemon, file).len(), 3, "a dry run makes nothing known");
    let first = daemon.try_batch("/api/v1/batches?client=demo", file);
    assert_eq!(new_in(&first.json()), [near(), far("nickname"), far("empty")]);
    let id = first.json()["batchId"].as_str().unwrap().to_owned();
    daemon.wait_complete(&id);
    // It is said of the batch when it is applied, too, in the list and on its page.
    let path = format!("/api/v1/batches/{id}");
    assert_eq!(new_in(&daemon.get(&path).json()).len(), 3);
    assert_eq!(new_in(&daemon.get("/api/v1/batches?client=demo").json()["batches"][0]).len(), 3);
    let page = daemon.get(&format!("/batches/{id}")).text();
    assert!(page.contains("no profile had such an attribute before; "), "{page}");
    let (_, printed, _) = daemon.run(&["batch", "status", &id]);
    assert!(
        printed.contains("check: \"loyaltytier\" is new") && printed.contains("\"loyaltyTier\" exists"),
        "{printed}"
    );
    // The next one has nothing new, nor has one from before a restart; but the store is read again.
    let second = daemon.try_batch("/api/v1/batches?client=demo", file);
    assert_eq!(new_in(&second.json()), []);
    daemon.terminate();
    assert!(daemon.ended().success());
    daemon.restart();
    assert_eq!(new_in(&daemon.get(&path).json()), []);
    let other = "batch=thirdPartyId,loyaltytier,nick-name\na,1,2\n";
    let near = ("nick-name".to_owned(), Some("nickname".to_owned()));
    wait_for("the store to be read again", || (new_of(&daemon, other) == [near.clone()]).then_some(()));
}
