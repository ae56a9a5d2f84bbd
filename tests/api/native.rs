//! The native API: the outcome of each row, the repair file, dry runs, idempotency keys, events, statistics, and profiles with the
//! lines that set their attributes.

use crate::support::{Daemon, Reply, request, wait_for};
use serde_json::json;

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
/// A row of each outcome but `created`, on lines 2 to 9; one of them is quoted over two lines.
const FILE: &str =
    "batch=pcId,city,plan\n1,Oslo,paid\n9,Rome,free\n1,,\na+b%zz,x\n2,\"two\nlines\",x\n,Lima\n1,x,y,z\n";

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern&profile.plan=paid");
    daemon.mbox("demo", "mbox=m&mboxPC=2&profile.age=7");
    daemon
}

fn complete(daemon: &Daemon, file: impl AsRef<[u8]>) -> String {
    let id = daemon.post_batch("demo", file);
    daemon.wait_complete(&id);
    id
}

fn get_as(daemon: &Daemon, path: &str, accept: &str) -> Reply {
    let reply = daemon.call("GET", path, &[("Accept", accept), ("Connection", "close")], None);
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply
}

/// Line, id, outcome and reason of each row of a report in NDJSON.
fn rows(text: &str) -> Vec<(u64, Option<String>, String, Option<String>)> {
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        assert_eq!(row["message"].is_null(), row["reason"].is_null(), "{row}");
        (row["line"].as_u64().unwrap(), text("id"), text("outcome").unwrap(), text("reason"))
    };
    text.lines().map(row).collect()
}

/// The next page that `Link` names.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    let (url, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(rest, "; rel=\"next\"");
    Some(url.to_owned())
}

#[test]
fn every_row_has_an_outcome_in_either_form_and_however_it_is_paged() {
    let daemon = daemon();
    let id = complete(&daemon, FILE);
    let path = format!("/api/v1/batches/{id}/outcomes");
    let all = rows(&get_as(&daemon, &path, "application/x-ndjson").text());
    let row = |line, id: Option<&str>, outcome: &str, reason: Option<&str>| {
        (line, id.map(str::to_owned), outcome.to_owned(), reason.map(str::to_owned))
    };
    let expected = [
        row(2, Some("1"), "updated", None),
        row(3, Some("9"), "not_found", None),
        row(4, Some("1"), "ignored", None),
        row(5, None, "failed", Some("bad_escape")),
        row(6, Some("2"), "updated", None),
        row(8, None, "failed", Some("empty_id")),
        row(9, Some("1"), "failed", Some("extra_cell")),
    ];
    assert_eq!(all, expected);
    for filter in ["", "updated", "created", "not_found", "ignored", "failed"] {
        let filtered: Vec<_> =
            expected.iter().filter(|row| filter.is_empty() || row.2 == filter).cloned().collect();
        for limit in 1..=8 {
            let outcome = if filter.is_empty() { String::new() } else { format!("&outcome={filter}") };
            let (mut pages, mut at) = (vec![], Some(format!("{path}?limit={limit}{outcome}")));
            while let Some(page) = at {
                let reply = get_as(&daemon, &page, "application/x-ndjson");
                let page = rows(&reply.text());
                assert!(page.len() <= limit);
                pages.extend(page);
                at = next(&reply);
            }
            assert_eq!(pages, filtered, "{filter} by {limit}");
        }
    }
    let csv = get_as(&daemon, &format!("{path}?outcome=failed"), "*/*").text();
    let expected = "line,id,outcome,reason,message\n\
                    5,,failed,bad_escape,\"line 5: column 1 (pcId): \"\"%zz\"\" is not a valid escape: a percent sign is \
                    written %25\"\n";
    assert!(csv.starts_with(expected), "{csv}");
    assert_eq!(csv.lines().count(), 4);
    for wrong in ["outcome=bad", "limit=0", "limit=10001", "limit=x", "from=7", "from=x.y"] {
        assert_eq!(daemon.get(&format!("{path}?{wrong}")).status, 400, "{wrong}");
    }
    assert_eq!(daemon.get(&format!("{path}?client=other")).status, 404);
    assert_eq!(daemon.get("/api/v1/batches/demo-1701473848678-10000001/outcomes").status, 404);
}

#[test]
fn the_repair_file_mended_and_posted_again_has_no_failures() {
    let daemon = daemon();
    let id = complete(&daemon, FILE);
    let repair = get_as(&daemon, &format!("/api/v1/batches/{id}/repair"), "*/*").text();
    assert_eq!(repair, "batch=pcId,city,plan\na+b%zz,x\n,Lima\n1,x,y,z\n");
    let mended = repair.replace("a+b%zz", "1").replace("\n,Lima", "\n2,Lima").replace("y,z", "y");
    let again = daemon.post_batch("demo", mended);
    let details = daemon.wait_complete(&again);
    assert_eq!((details.size, details.failed, details.successful), (3, 0, 3));
    let file = get_as(&daemon, &format!("/api/v1/batches/{id}/file"), "*/*");
    assert_eq!(file.text(), FILE);
    assert!(file.header("content-disposition").unwrap().contains(&format!("{id}.csv")));
    // One without failures is a header, and the last row needs no line end.
    let none = complete(&daemon, "batch=pcId,city\n1,x");
    assert_eq!(daemon.get(&format!("/api/v1/batches/{none}/repair")).text(), "batch=pcId,city\n");
    let last = complete(&daemon, "batch=tntId,a%2Cb\n1,%zz");
    assert_eq!(daemon.get(&format!("/api/v1/batches/{last}/repair")).text(), "batch=pcId,a%2Cb\n1,%zz\n");
}

#[test]
fn no_report_and_no_repair_file_shows_an_erased_visitor() {
    let daemon = daemon();
    let id = complete(&daemon, "batch=pcId,city\n1,secret\n1,%zz-secret\n2,open\n2,%zz\n");
    assert_eq!(daemon.call("DELETE", "/api/v1/profiles/1?by=pc&client=demo", &[], None).status, 200);
    let json = ("Content-Type", "application/json");
    assert_eq!(daemon.call("POST", "/api/v1/compact", &[json], Some(b"{}")).status, 200);
    let reported = |what: &str| get_as(&daemon, &format!("/api/v1/batches/{id}/{what}"), "ndjson").text();
    let outcomes: Vec<_> = rows(&reported("outcomes")).into_iter().map(|(line, id, ..)| (line, id)).collect();
    assert_eq!(outcomes, [(2, None), (3, None), (4, Some("2".into())), (5, Some("2".into()))]);
    let reasons: Vec<_> = rows(&reported("outcomes?outcome=failed")).into_iter().map(|row| row.3).collect();
    assert_eq!(reasons, [Some("erased".into()), Some("bad_escape".into())]);
    assert_eq!(reported("repair"), "batch=pcId,city\n2,%zz\n");
    for what in ["outcomes", "repair", "file"] {
        assert!(!reported(what).contains("secret"), "{what}");
    }
}

/// Bytes that were already sent can't be taken back. The rest is never sent, and the reader can't take the part for the whole file.
#[test]
fn a_file_is_broken_off_when_rows_of_it_are_overwritten_while_it_is_sent() {
    let daemon = daemon();
    let value = "secret".repeat(20_000);
    // More than the system keeps for a client that does not read.
    let file: String = (0..300).map(|n| format!("1,{value}{n}\n2,open\n")).collect();
    let file = format!("batch=pcId,city\n{file}");
    let path = format!("/api/v1/batches/{}/file", complete(&daemon, &file));
    let read = |path: &str| {
        let mut slow = daemon.connect();
        slow.write(&request("GET", path, "a", &[], None));
        assert_eq!(slow.read_head().status, 200);
        slow
    };
    let (all, whole) = read(&path).read_chunks_that_come();
    assert!(whole && all == file.as_bytes(), "{} bytes", all.len());
    let mut slow = read(&path);
    assert_eq!(daemon.call("DELETE", "/api/v1/profiles/1?by=pc&client=demo", &[], None).status, 200);
    let json = ("Content-Type", "application/json");
    assert_eq!(daemon.call("POST", "/api/v1/compact", &[json], Some(b"{}")).status, 200);
    let (part, whole) = slow.read_chunks_that_come();
    assert!(!whole && part.len() < file.len() && file.as_bytes().starts_with(&part), "{} bytes", part.len());
    let again = get_as(&daemon, &path, "*/*").text();
    assert_eq!(
        (again.len(), again.contains("secret"), again.matches("2,open\n").count()),
        (file.len(), false, 300)
    );
}

#[test]
fn two_uploads_with_one_key_are_one_batch_also_after_a_crash() {
    let mut daemon = daemon();
    let post = |daemon: &Daemon, path: &str, key: &str, file: &str| {
        daemon.call(
            "POST",
            path,
            &[("Idempotency-Key", key), ("Content-Type", "text/csv")],
            Some(file.as_bytes()),
        )
    };
    let first = post(&daemon, V2, "k1", "batch=pcId,city\n1,Oslo\n");
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    let check = |daemon: &Daemon, path: &str, key: &str, file: &str, status: u16, same: bool| {
        let reply = post(daemon, path, key, file);
        assert_eq!(reply.status, status, "{path} {key}: {}", reply.text());
        let again = status == 200 && reply.batch_id() == first.batch_id();
        assert_eq!((again, reply.header("idempotency-replayed").is_some()), (same, same), "{path} {key}");
        if same {
            assert_eq!(reply.header("profiled-seq"), first.header("profiled-seq"));
        }
    };
    let all = |daemon: &Daemon| {
        let file = "batch=pcId,city\n1,Oslo\n";
        check(daemon, V2, "k1", file, 200, true);
        check(daemon, V2, "k1", "batch=pcId,city\n1,Bern\n", 422, false);
        check(daemon, "/m2/demo/profile/batchUpdate", "k1", file, 422, false);
        check(daemon, &format!("{V2}?emptyValues=remove"), "k1", file, 422, false);
        check(daemon, &format!("{V2}?asOf=1"), "k1", file, 422, false);
        check(daemon, "/m2/other/v2/profile/batchUpdate", "k1", file, 200, false);
        check(daemon, V2, "a b", file, 400, false);
        check(daemon, V2, "", file, 400, false);
        check(daemon, V2, &"k".repeat(256), file, 400, false);
    };
    all(&daemon);
    let listed = |daemon: &Daemon| {
        daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len()
    };
    assert_eq!(listed(&daemon), 1);
    daemon.kill9().restart();
    check(&daemon, V2, "k1", "batch=pcId,city\n1,Oslo\n", 200, true);
    daemon.wait_complete(&first.batch_id());
    check(&daemon, V2, "k1", "batch=pcId,city\n1,Oslo\n", 200, true);
    daemon.kill9().restart();
    check(&daemon, V2, "k1", "batch=pcId,city\n1,Oslo\n", 200, true);
    // One of many simultaneous uploads is accepted, and all get the same answer.
    let file = format!("batch=pcId,city\n{}", "1,Oslo\n".repeat(2000));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let sent: Vec<_> =
            (0..8).map(|_| scope.spawn(|| post(&daemon, V2, "k2", &file).batch_id())).collect();
        sent.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(listed(&daemon), 2);
}

/// An export is made, then a visitor changes something, then the export arrives.
#[test]
fn a_batch_with_a_time_leaves_alone_what_was_written_later_and_says_so() {
    let mut daemon = daemon();
    daemon.mbox("demo", "mboxPC=k&profile.tier=silver&profile.city=Oslo");
    daemon.mbox("demo", "mboxPC=l&profile.tier=silver");
    let made = daemon.visitor("demo", "pc", "l").unwrap()["attributes"]["tier"]["modifiedAt"].clone();
    let made = made.as_str().unwrap();
    // The daemon's clock counts in milliseconds: the next write shall not be in the same one.
    wait_for("a later time", || {
        daemon.mbox("demo", "mboxPC=k&profile.tier=gold");
        let visitor = daemon.visitor("demo", "pc", "k").unwrap();
        (visitor["attributes"]["tier"]["modifiedAt"].as_str().unwrap() > made).then_some(())
    });

    let path = format!("{V2}?asOf={made}");
    let file = "batch=pcId,tier,city,plan\nk,silver,Bergen,a\nk,bronze\nl,bronze\n";
    let tried = daemon.try_batch(&format!("{path}&dryRun=true"), file).json();
    let expected = serde_json::json!({"updated": 2, "created": 0, "not_found": 0, "ignored": 1, "failed": 0});
    assert_eq!(tried["outcomes"], expected);
    assert_eq!((&tried["newer"], &tried["attributes"]["tier"]["changed"]), (&2.into(), &1.into()));
    let id = daemon.try_batch(&path, file).batch_id();
    daemon.wait_complete(&id);
    let told = |daemon: &Daemon| {
        let batch = daemon.get(&format!("/api/v1/batches/{id}")).json();
        assert_eq!((&batch["asOf"], &batch["counts"]), (&made.into(), &expected));
        let rows = daemon.get(&format!("/api/v1/batches/{id}/outcomes")).text();
        let rows: Vec<&str> = rows.lines().skip(1).collect();
        assert!(
            rows[0].starts_with("2,k,updated,newer,") && rows[0].contains("left alone: tier"),
            "{rows:?}"
        );
        assert!(rows[1].starts_with("3,k,ignored,newer,") && rows[1].contains("asOf"), "{rows:?}");
        assert_eq!(rows[2], "4,l,updated,,");
        let of = |outcome: &str| {
            let rows = daemon.get(&format!("/api/v1/batches/{id}/outcomes?outcome={outcome}"));
            rows.text().lines().count() - 1
        };
        assert_eq!([of("updated"), of("ignored")], [2, 1]);
        let visitor = daemon.get("/api/v1/profiles/k?by=pc&client=demo&lines=true").json();
        let attributes = &visitor["attributes"];
        assert_eq!(
            (&attributes["tier"]["value"], &attributes["tier"]["source"]),
            (&"gold".into(), &"mbox".into())
        );
        assert_eq!(attributes["tier"].get("asOf"), None);
        let city = &attributes["city"];
        assert_eq!(
            (&city["value"], &city["asOf"], &city["line"]),
            (&"Bergen".into(), &made.into(), &2.into())
        );
        let changes = daemon.get("/api/v1/changes?client=demo&since=0").text();
        let events: Vec<serde_json::Value> =
            changes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_batch: Vec<_> = events.iter().filter(|event| event["batchId"] == *id).collect();
        assert_eq!((&of_batch[0]["event"], &of_batch[0]["asOf"]), (&"batch".into(), &made.into()));
        let first = &of_batch[1];
        assert_eq!(first["set"], serde_json::json!({"city": "Bergen", "plan": "a"}));
        assert_eq!(first["reason"], "newer");
    };
    told(&daemon);
    daemon.kill9().restart();
    told(&daemon);
}

#[test]
fn the_time_of_a_batch_is_checked() {
    let daemon = daemon();
    let check = |path: &str, header: Option<&str>, status: u16, words: &str| {
        let headers: Vec<_> = header.map(|time| ("Profiled-As-Of", time)).into_iter().collect();
        let headers = [&[("Content-Type", "text/csv")], headers.as_slice()].concat();
        let reply = daemon.call("POST", path, &headers, Some(b"batch=pcId,a\n1,1\n"));
        assert_eq!(reply.status, status, "{path} {header:?}: {}", reply.text());
        assert!(reply.text().contains(words), "{path} {header:?}: {}", reply.text());
    };
    for path in [V2, "/m2/demo/profile/batchUpdate"] {
        check(&format!("{path}?asOf=2001-01-01T01:00:00%2B01:00"), Some("978307200000"), 200, "true");
        check(path, Some("2001-01-01T00:00:00.5Z"), 200, "true");
        check(&format!("{path}?asOf=yesterday"), None, 400, "2026-11-27T02:00:00Z");
        check(&format!("{path}?asOf=-1"), None, 400, "is not a time");
        check(&format!("{path}?asOf=2001-01-01"), None, 400, "is not a time");
        check(path, Some(""), 400, "Profiled-As-Of");
        check(&format!("{path}?asOf=1"), Some("2"), 400, "give the time once");
        check(&format!("{path}?asOf=9999-01-01T00:00:00Z"), None, 400, "but now it is");
        check(&format!("{path}?asOf=9999-01-01T00:00:00Z&dryRun=true"), None, 400, "but now it is");
    }
    let names = |many: usize| (0..many).map(|n| format!(",n{n}")).collect::<String>();
    let file = |many| format!("batch=pcId{}\n1,1\n", names(many));
    assert_eq!(daemon.try_batch(&format!("{V2}?asOf=1"), file(56)).status, 200);
    let refused = daemon.try_batch(&format!("{V2}?asOf=1"), file(57));
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("56 attributes"), "{}", refused.text());
    assert_eq!(daemon.try_batch(V2, file(57)).status, 200);
}

#[test]
fn a_dry_run_reports_what_the_batch_would_do_and_writes_nothing() {
    let daemon = daemon();
    let before = daemon.visitor("demo", "pc", "1");
    let dry = format!("{V2}?dryRun=true");
    let tried = daemon.try_batch(&dry, FILE);
    assert_eq!(tried.status, 200, "{}", tried.text());
    let tried = tried.json();
    assert_eq!((&tried["dryRun"], &tried["rows"]), (&true.into(), &7.into()));
    assert_eq!(
        tried["outcomes"],
        serde_json::json!({"updated": 2, "created": 0, "not_found": 1, "ignored": 1, "failed": 3})
    );
    assert_eq!(
        tried["attributes"],
        serde_json::json!({
            "city": {"set": 1, "changed": 1, "unchanged": 0, "removed": 0},
            "plan": {"set": 1, "changed": 0, "unchanged": 1, "removed": 0},
        })
    );
    let failed: Vec<_> = tried["failed"].as_array().unwrap().iter().map(|row| row["line"].clone()).collect();
    assert_eq!(failed, [5, 8, 9]);
    let media_type = ("Content-Type", "text/csv");
    let accept = ("Accept", "application/x-ndjson");
    let report = daemon.call("POST", &dry, &[media_type, accept], Some(FILE.as_bytes())).text();
    assert_eq!(daemon.visitor("demo", "pc", "1"), before);
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 0);
    wait_for("nothing to be kept", || daemon.spooled().is_empty().then_some(()));
    // The batch then has the same result; and a dry run behind a pending batch sees that batch.
    let id = complete(&daemon, FILE);
    let outcomes = get_as(&daemon, &format!("/api/v1/batches/{id}/outcomes"), "application/x-ndjson").text();
    assert_eq!(report, outcomes);
    let removing =
        daemon.try_batch(&format!("{V2}?dryRun=true&emptyValues=remove"), "batch=pcId,city\n1,\n2,x\n");
    let city = &removing.json()["attributes"]["city"];
    assert_eq!((&city["removed"], &city["changed"]), (&1.into(), &1.into()));
    assert_eq!(daemon.try_batch(&dry, "pcId,a\n1,1\n").status, 400);
    assert_eq!(daemon.try_batch(&format!("{V2}?dryRun=maybe"), FILE).status, 400);
}

#[test]
fn a_profile_shows_which_line_of_which_batch_set_an_attribute() {
    let daemon = daemon();
    daemon.mbox("demo", "mbox=m&mboxPC=1&mbox3rdPartyId=t");
    let old = complete(&daemon, "batch=pcId,city,plan\n2,x,y\n1,a,b\n1,c,\n1,%zz,z\n");
    let new = daemon.post_batch("demo", "batch=thirdPartyId,city\nt,d\n");
    for complete in [false, true] {
        if complete {
            daemon.wait_complete(&new);
        }
        let visitor = daemon.get("/api/v1/profiles/t?client=demo&lines=true").json();
        let of = |name: &str| (&visitor["attributes"][name]["batchId"], &visitor["attributes"][name]["line"]);
        assert_eq!(of("city"), (&new.as_str().into(), &2.into()));
        assert_eq!(of("plan"), (&old.as_str().into(), &3.into()));
    }
    let plain = daemon.visitor("demo", "third-party", "t").unwrap();
    assert!(plain["attributes"]["city"].get("line").is_none(), "only where it is asked for");
}

#[test]
fn a_lookup_can_wait_for_a_write_and_an_attribute_can_be_removed() {
    let daemon = daemon();
    let path = "/api/v1/profiles/1?by=pc&client=demo";
    let reply = daemon.try_batch(V2, "batch=pcId,city\n1,Oslo\n");
    let seq = reply.header("profiled-seq").unwrap();
    let read = daemon.get(&format!("{path}&wait_for_seq={seq}"));
    assert_eq!(read.json()["attributes"]["city"]["seq"], seq.to_string());
    assert_eq!(read.header("etag").unwrap(), format!("\"{seq}\""));
    assert_eq!(daemon.get(&format!("{path}&wait_for_seq=18446744073709551615")).status, 400);
    assert_eq!(daemon.get(&format!("{path}&wait_for_seq=x")).status, 400);

    let remove = |id: &str, name: &str| {
        daemon.call(
            "DELETE",
            &format!("/api/v1/profiles/{id}/attributes/{name}?by=pc&client=demo"),
            &[],
            None,
        )
    };
    let removed = remove("1", "city");
    assert_eq!(removed.json()["removed"], true);
    let visitor = daemon.visitor("demo", "pc", "1").unwrap();
    assert_eq!((visitor["attributes"].get("city"), &visitor["seq"]), (None, &removed.json()["seq"]));
    for (id, name) in [("1", "city"), ("1", "none"), ("7", "city")] {
        assert_eq!(remove(id, name).status, 404, "{id} {name}");
    }
    assert_eq!(daemon.get("/api/v1/profiles/1/attributes/city?by=pc&client=demo").status, 405);
}

#[test]
fn events_report_progress_and_end_when_the_batch_is_complete() {
    let daemon = daemon();
    let id = daemon.post_batch("demo", format!("batch=pcId,city\n{}", "1,x\n9,y\n".repeat(50_000)));
    let events = get_as(&daemon, &format!("/api/v1/batches/{id}/events"), "text/event-stream");
    assert_eq!(events.header("content-type").unwrap(), "text/event-stream");
    let text = events.text();
    let reported: Vec<(&str, serde_json::Value)> = text
        .split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name, serde_json::from_str(data).unwrap())
        })
        .collect();
    let (last, before) = reported.split_last().unwrap();
    assert!(
        before.iter().all(|(name, batch)| *name == "progress" && batch["status"] == "incomplete"),
        "{text}"
    );
    assert_eq!(
        (last.0, &last.1["status"], &last.1["counts"]["not_found"]),
        ("complete", &"complete".into(), &50_000.into())
    );
    assert!(last.1["rowsPerSecond"].as_u64().unwrap() > 0);
    assert_eq!(daemon.get("/api/v1/batches/demo-1701473848678-10000001/events").status, 404);
}

#[test]
fn batches_are_listed_page_by_page_and_statistics_count_them() {
    let daemon = daemon();
    let mut ids: Vec<String> =
        (0..5).map(|n| complete(&daemon, format!("batch=pcId,n\n1,{n}\n9,x\n"))).collect();
    ids.reverse();
    for limit in 1..=6 {
        let (mut listed, mut at) =
            (vec![], Some(format!("/api/v1/batches?client=demo&limit={limit}&status=complete")));
        while let Some(page) = at {
            let reply = daemon.get(&page);
            let batches = reply.json()["batches"].as_array().unwrap().clone();
            listed.extend(batches.iter().map(|batch| batch["batchId"].as_str().unwrap().to_owned()));
            at = next(&reply);
        }
        assert_eq!(listed, ids, "by {limit}");
    }
    for wrong in ["limit=0", "before=x", "status=done"] {
        assert_eq!(daemon.get(&format!("/api/v1/batches?client=demo&{wrong}")).status, 400, "{wrong}");
    }
    let statistics = daemon.get("/api/v1/statistics?client=demo").json();
    assert_eq!((&statistics["profiles"], &statistics["rows"]), (&2.into(), &10.into()));
    assert_eq!((&statistics["batches"]["kept"], &statistics["counts"]["not_found"]), (&5.into(), &5.into()));
    assert_eq!(statistics["lastMinute"]["rowsCompleted"], 10);
    assert_eq!(daemon.get("/api/v1/statistics?client=other").json()["profiles"], 0);
}

/// A client is there once the settings name it, or it has a visitor or a batch.
#[test]
fn clients_are_listed_whatever_they_have() {
    let daemon = Daemon::start_configured("[clients.named]\n[clients.shop]\n[clients.s]\n[clients.shop-2]\n");
    daemon.mbox("shop", "mbox=m&mboxPC=1");
    daemon.mbox("shop", "mbox=m&mboxPC=2");
    daemon.mbox("shop-2", "mbox=m&mboxPC=1");
    let batch = daemon.post_batch("s", b"batch=pcId,n\n1,1\n2,1\n");
    daemon.wait_complete(&batch);
    let listed = daemon.get("/api/v1/clients").json();
    assert_eq!(listed["more"], false);
    let clients: Vec<_> = listed["clients"].as_array().unwrap().iter().collect();
    let codes: Vec<_> = clients.iter().map(|client| client["client"].as_str().unwrap()).collect();
    assert_eq!(codes, ["named", "s", "shop", "shop-2"]);
    let s = clients[1];
    assert_eq!((&s["batches"], &s["batchesIncomplete"], &s["rows"]), (&1.into(), &0.into(), &2.into()));
    assert!(s["newestBatchAt"].is_string() && clients[0]["newestBatchAt"].is_null());

    // Without any in the settings, those that have something are there.
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/api/v1/clients").json()["clients"], serde_json::json!([]));
    for client in ["bb", "a", "bb", "ccc"] {
        daemon.mbox(client, "mbox=m&mboxPC=1");
    }
    let listed = daemon.get("/api/v1/clients").json();
    let clients = listed["clients"].as_array().unwrap();
    let codes: Vec<_> = clients.iter().map(|client| client["client"].as_str().unwrap()).collect();
    assert_eq!(codes, ["a", "bb", "ccc"]);
    assert!(clients.iter().all(|client| client["configured"] == false));
}

/// Keys last for 24 hours, whatever happens to the batch's files.
#[test]
fn a_key_lasts_whatever_is_done_to_the_folder() {
    let file = "batch=pcId,city\n1,Oslo\n";
    let post = |daemon: &Daemon, file: &str| {
        let headers = [("Idempotency-Key", "k1"), ("Content-Type", "text/csv")];
        daemon.call("POST", V2, &headers, Some(file.as_bytes()))
    };
    let path = |folder: &std::path::Path| folder.to_str().unwrap().to_owned();
    for what in ["its files go", "salvage", "restore"] {
        let mut daemon =
            Daemon::start_configured(if what == "its files go" { "retention_days = 0\n" } else { "" });
        daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
        let first = post(&daemon, file).batch_id();
        let upload = daemon.spooled().into_iter().find(|path| path.extension().is_some_and(|it| it == "csv"));
        let upload = upload.unwrap();
        let folder = tempfile::tempdir().unwrap();
        match what {
            "its files go" => {
                daemon.wait_complete(&first);
                daemon.mbox("demo", "mbox=m&mboxPC=2");
                let gone = daemon.call("DELETE", "/api/v1/profiles/2?by=pc&client=demo", &[], None);
                assert_eq!(gone.status, 200);
                // A compaction of an erasure takes two snapshots, and retention waits for these.
                let json = [("Content-Type", "application/json")];
                assert_eq!(daemon.call("POST", "/api/v1/compact", &json, Some(b"{}")).status, 200);
                assert!(!upload.exists());
            }
            "salvage" => {
                daemon.wait_complete(&first);
                daemon.terminate();
                assert!(daemon.ended().success());
                std::fs::remove_dir_all(daemon.data().join("store")).unwrap();
                std::fs::write(&upload, "batch=pcId,city\n1,Rome\n").unwrap();
                let (code, _, reported) =
                    daemon.run(&["check", "--salvage", "--data", &path(&daemon.data())]);
                assert!(code == Some(0) && reported.contains("given up: batch"), "{reported}");
                daemon.restart();
            }
            _ => {
                daemon.wait_complete(&first);
                let [backup, data] = ["backup", "data"].map(|name| folder.path().join(name));
                let (code, _, reported) = daemon.run(&["backup", &path(&backup)]);
                assert_eq!(code, Some(0), "{reported}");
                daemon.kill9();
                let (code, _, reported) = daemon.run(&["restore", &path(&backup), "--data", &path(&data)]);
                assert_eq!(code, Some(0), "{reported}");
                daemon.set_data(data).restart();
            }
        }
        for _ in 0..2 {
            let again = post(&daemon, file);
            assert_eq!((again.status, again.header("idempotency-replayed").is_some()), (200, true), "{what}");
            assert_eq!(again.batch_id(), first, "{what}");
            let other = post(&daemon, "batch=pcId,city\n1,Rome\n");
            assert_eq!(other.status, 422, "{what}: {}", other.text());
            daemon.kill9().restart();
        }
    }
}

/// Once, visitors whom pending rows create were not counted until the rows were applied.
#[test]
fn the_count_of_visitors_does_not_depend_on_applied_rows() {
    const CREATES: &str = "[clients.demo]\nv2_creates_profiles = true\n";
    // The first burst is applied anyway: some of the visitors are in the store, and some are not.
    let mut daemon = Daemon::start_configured(&format!("[ingest]\nmax_rows_per_second = 1\n{CREATES}"));
    for id in 0..10 {
        daemon.mbox("demo", &format!("mboxPC=p{id}&profile.n=site"));
    }
    let file = |value: &str| {
        let row = |n: u32| format!("p{n},{value}\np{n},again\n");
        format!("batch=pcId,n\n{}", (0..1000).map(row).collect::<String>())
    };
    let batches = [daemon.post_batch("demo", file("first")), daemon.post_batch("demo", file("second"))];
    let count = |daemon: &Daemon| {
        let statistics = daemon.get("/api/v1/statistics?client=demo").json();
        (statistics["profiles"].as_u64().unwrap(), statistics["batches"]["incomplete"].as_u64().unwrap())
    };
    assert_eq!(count(&daemon), (1000, 2));
    daemon.kill9().configure(CREATES);
    daemon.restart();
    for batch in &batches {
        daemon.wait_complete(batch);
    }
    daemon.kill9().restart();
    assert_eq!(count(&daemon), (1000, 0));
}

#[test]
fn a_single_daemon_has_no_nodes_to_show() {
    let daemon = Daemon::start();
    for path in ["/api/v1/cluster", "/api/v1/cluster/snapshot", "/cluster"] {
        let reply = daemon.get(path);
        assert!(
            reply.status == 404 && reply.text().contains("no node of several"),
            "{path}: {}",
            reply.text()
        );
    }
    assert!(!daemon.get("/?client=demo").text().contains("/cluster"));
    assert!(!daemon.get("/metrics").text().contains("profiled_order"));
    let (code, _, complaint) = daemon.run(&["cluster", "status"]);
    assert!(code == Some(1) && complaint.contains("no node of several"), "{complaint}");
    // Neither makes a node of it nor takes one away from under it.
    let found = ["cluster", "found", "--order", "kafka://127.0.0.1:1/p", "--node", "a"];
    for command in [&found[..], &["cluster", "leave"]] {
        let (code, _, complaint) = daemon.run(command);
        assert!(code == Some(1) && complaint.contains("another profiled has"), "{command:?}: {complaint}");
    }
}

/// Whoever writes through a load balancer reads the write at any node by this seq; a single daemon answers as a node does.
#[test]
fn every_write_that_took_a_place_says_which() {
    let daemon = Daemon::start();
    let mut last = 0;
    let mut newer = |what: &str, reply: &Reply| {
        let seq = reply.header("profiled-seq").map(|seq| seq.parse::<u64>().unwrap());
        assert!(reply.status < 400 && seq.is_some_and(|seq| seq > last), "{what}: {seq:?}, {}", reply.text());
        last = seq.unwrap();
        let path = format!("/api/v1/profiles/t?client=demo&wait_for_seq={last}");
        assert!([200, 404].contains(&daemon.get(&path).status), "{what}");
        assert_eq!(reply.header("profiled-behind-ms"), None);
    };
    let json = [("Content-Type", "application/json")];
    let body = |value: usize| {
        format!(
            r#"{{"mbox":"m","id":{{"thirdPartyId":"t"}},"thirdPartyId":"t","profileParameters":{{"a":"{value}"}},
            "execute":{{"pageLoad":{{"profileParameters":{{"a":"{value}"}}}}}}}}"#
        )
    };
    newer("mbox", &daemon.get("/m2/demo/mbox/json?mbox=m&mbox3rdPartyId=t&profile.a=1"));
    newer(
        "ubox",
        &daemon.get("/m2/demo/ubox/page?mbox=m&mbox3rdPartyId=t&profile.a=2&mboxDefault=http://a/b"),
    );
    for (at, path) in ["/rest/v1/delivery", "/rest/v1/mbox", "/rest/v2/batchmbox"].into_iter().enumerate() {
        let path = format!("{path}?client=demo&sessionId=s");
        newer(&path, &daemon.call("POST", &path, &json, Some(body(3 + at).as_bytes())));
    }
    let update = "/m2/demo/profile/update?mbox3rdPartyId=t&profile.a=7";
    newer("update", &daemon.get(update));
    let nobody = daemon.get("/m2/demo/profile/update?mbox3rdPartyId=nobody&profile.a=7");
    assert_eq!(nobody.header("profiled-seq"), None, "it wrote nothing");
    newer("remove", &daemon.call("DELETE", "/api/v1/profiles/t/attributes/a?client=demo", &[], None));
    newer("erase", &daemon.call("DELETE", "/api/v1/profiles/t?client=demo", &[], None));
}

/// Problem details (RFC 9457), and beside them what our own refusals always had. Adobe's calls keep Adobe's forms.
#[test]
fn a_refusal_of_our_own_calls_is_a_problem_and_one_of_adobes_is_not() {
    let daemon = Daemon::start_configured("batch_calls_per_minute = 1\n");
    let problem = |reply: &Reply, status: u16, title: &str| {
        assert_eq!((reply.status, reply.header("content-type")), (status, Some("application/problem+json")));
        let problem = reply.json();
        assert_eq!(
            (&problem["type"], &problem["title"], &problem["status"]),
            (&json!("about:blank"), &json!(title), &json!(status)),
            "{problem}"
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.is_empty());
        assert_eq!(problem["message"], detail);
        problem
    };
    let unknown = problem(&daemon.get("/api/v1/batches/none"), 404, "Not Found");
    assert!(unknown.get("limit").is_none() && unknown.get("retryAfterSeconds").is_none(), "{unknown}");
    problem(&daemon.get("/api/v1/nothing"), 404, "Not Found");
    problem(&daemon.get("/nothing"), 404, "Not Found");
    problem(&daemon.get("/api/v1/batches?client=demo&status=x"), 400, "Bad Request");
    problem(&daemon.call("DELETE", "/api/v1/batches", &[], None), 405, "Method Not Allowed");

    let csv = [("Content-Type", "text/csv")];
    let post = |file: &str| daemon.call("POST", "/api/v1/batches?client=demo", &csv, Some(file.as_bytes()));
    assert_eq!(post("batch=pcId,a\n1,x\n").status, 201);
    let often = post("batch=pcId,a\n1,x\n");
    let shown = problem(&often, 503, "Service Unavailable");
    assert_eq!(shown["retryAfterSeconds"].to_string(), often.header("retry-after").unwrap());
    assert_eq!(shown["limit"], "client_rate");

    for (path, media_type) in [
        ("/m2/demo/profile/batchStatus", "text/xml;charset=UTF-8"),
        ("/m2/nothing", "text/xml;charset=UTF-8"),
        ("/rest/v1/profiles/none?client=demo", "application/json"),
        ("/rest/nothing", "application/json"),
        ("/m2/demo/mbox/json?mboxPC=a.b.c", "application/json"),
    ] {
        let refused = daemon.get(path);
        assert!(refused.status >= 400, "{path}");
        assert_eq!(refused.header("content-type"), Some(media_type), "{path}");
    }
}
