//! Many visitors erased by one call: what is accepted and what is refused, the receipts, a client that goes away, and that no byte of
//! them stays.

use std::fs;
use std::path::Path;

use crate::support::{Daemon, Reply, request, wait_for};
use memchr::memmem;
use serde_json::{Value, json};

const PATH: &str = "/api/v1/erasures?client=demo";

fn post(daemon: &Daemon, file: impl AsRef<[u8]>) -> Reply {
    daemon.call("POST", PATH, &[("Content-Type", "text/csv")], Some(file.as_ref()))
}

/// The lines of an answer: the receipts, and the sum.
fn lines(reply: &Reply) -> (Vec<Value>, Value) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut lines: Vec<Value> =
        reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sum = lines.pop().unwrap();
    (lines, sum)
}

fn daemon(visitors: usize) -> Daemon {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n[clients.other]\n");
    if visitors > 0 {
        let rows: String = (0..visitors).map(|n| format!("crm-{n},secret-{n}\n")).collect();
        let id = daemon.post_batch("demo", format!("batch=thirdPartyId,city\n{rows}"));
        daemon.wait_complete(&id);
    }
    daemon
}

fn is_known(daemon: &Daemon, client: &str, id: &str) -> bool {
    daemon.visitor(client, "third-party", id).is_some()
}

#[test]
fn each_id_has_a_receipt_and_the_last_line_the_counts() {
    let daemon = daemon(4);
    daemon.mbox("demo", "mbox=m&mboxPC=77&mbox3rdPartyId=crm-1");
    daemon.mbox("other", "mbox=m&mbox3rdPartyId=crm-0");
    let reply = post(&daemon, "thirdPartyId\r\ncrm-0\r\n\r\ncrm-1\r\nnobody\r\n\"crm-%32\"\r\ncrm-0\r\n");
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let (receipts, sum) = lines(&reply);
    let told: Vec<_> = receipts
        .iter()
        .map(|receipt| {
            let seq = receipt["seq"].as_str().map(|seq| seq.parse::<u64>().unwrap());
            assert_eq!(seq.is_some(), receipt["time"].is_string(), "{receipt}");
            assert_eq!(seq.is_some(), receipt["outcome"] == "erased", "{receipt}");
            (
                receipt["line"].as_u64().unwrap(),
                receipt["id"].as_str().unwrap(),
                receipt["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        (2, "crm-0", "erased"),
        (4, "crm-1", "erased"),
        (5, "nobody", "not_found"),
        (6, "crm-2", "erased"),
        (7, "crm-0", "not_found"),
    ];
    assert_eq!(told, expected);
    let seqs: Vec<u64> =
        receipts.iter().filter_map(|it| it["seq"].as_str()).map(|seq| seq.parse().unwrap()).collect();
    assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
    assert_eq!(sum, json!({"done": true, "ids": 5, "erased": 3, "notFound": 2, "failed": 0, "notTried": 0}));
    assert_eq!(
        ["crm-0", "crm-1", "crm-2", "crm-3"].map(|id| is_known(&daemon, "demo", id)),
        [false, false, false, true]
    );
    assert_eq!(daemon.visitor("demo", "pc", "77"), None, "all ids of a visitor go");
    assert!(is_known(&daemon, "other", "crm-0"), "another client's visitor stays");
    // As erasures one by one they stand in the audit trail, without ids.
    let acts = fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let acts: Vec<Value> = acts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(acts.len(), 3);
    for (act, seq) in acts.iter().zip(&seqs) {
        assert_eq!((&act["act"], &act["client"]), (&"erase".into(), &"demo".into()));
        assert_eq!(act["what"], format!("seq {seq}"));
    }
    // Sent again, it finds nobody.
    let (_, sum) = lines(&post(&daemon, "thirdPartyId\ncrm-0\ncrm-1\n"));
    assert_eq!(sum, json!({"done": true, "ids": 2, "erased": 0, "notFound": 2, "failed": 0, "notTried": 0}));
}

#[test]
fn visitors_are_erased_by_any_kind_of_id_and_from_compressed_files() {
    let daemon = daemon(1);
    daemon.mbox("demo", "mbox=m&mboxPC=7.28_0&profile.a=1");
    daemon.mbox("demo", "mbox=m&mboxPC=8&mboxMCGVID=123&profile.a=1");
    let (receipts, _) = lines(&post(&daemon, "pcId\n7.28_0\n"));
    assert_eq!((&receipts[0]["id"], &receipts[0]["outcome"]), (&"7.28_0".into(), &"erased".into()));
    let (receipts, _) = lines(&post(&daemon, "ecid\n123\n"));
    assert_eq!(receipts[0]["outcome"], "erased");
    assert_eq!((daemon.visitor("demo", "pc", "7"), daemon.visitor("demo", "pc", "8")), (None, None));
    let zstd = zstd::encode_all(&b"thirdPartyId\ncrm-0\n"[..], 3).unwrap();
    let headers = [("Content-Type", "text/csv"), ("Content-Encoding", "zstd")];
    let (_, sum) = lines(&daemon.call("POST", PATH, &headers, Some(&zstd)));
    assert_eq!(sum["erased"], 1);
}

#[test]
fn one_bad_line_refuses_the_file_and_nobody_is_erased() {
    let daemon = daemon(2);
    let reply = post(&daemon, "thirdPartyId\ncrm-0\na/b\ncrm-1\nNULL\ncrm-1,Oslo\n");
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    let told: Vec<_> = problem["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bad| (bad["line"].clone(), bad["reason"].clone()))
        .collect();
    let expected = [(3, "forbidden_in_id"), (5, "blocked_id"), (6, "extra_cell")];
    assert_eq!(told, expected.map(|(line, reason)| (line.into(), reason.into())));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("3 of 5 lines are no ids, so nobody is erased: line 3: \"a/b\" is not"),
        "{detail}"
    );
    let check = |file: &str, status: u16, words: &str| {
        let reply = post(&daemon, file);
        assert_eq!(reply.status, status, "{file:?}: {}", reply.text());
        assert!(reply.text().contains(words), "{file:?}: {}", reply.text());
    };
    check("", 400, "has no id");
    check("crm-0\ncrm-1\n", 400, "the first line is the kind of the ids");
    check("batch=thirdPartyId,city\ncrm-0,Oslo\n", 400, "thirdPartyId, pcId or ecid, and nothing else");
    check(&format!("pcId\n{}", "1\n".repeat(500_001)), 413, "file of ids has more than 500000 rows");
    let reply = daemon.call("POST", PATH, &[("Content-Type", "application/json")], Some(b"[]"));
    assert_eq!(reply.status, 415, "{}", reply.text());
    let other = daemon.call("POST", "/api/v1/erasures?client=nobody", &[], Some(b"pcId\n1\n"));
    assert_eq!(other.status, 404, "{}", other.text());
    assert!(is_known(&daemon, "demo", "crm-0") && is_known(&daemon, "demo", "crm-1"));
    assert!(!daemon.data().join("audit.log").exists(), "nothing was done");
}

/// Groups come one by one, so a client that goes away is noticed between two.
#[test]
fn a_client_that_goes_away_stops_the_rest_and_the_same_file_finishes_it() {
    const VISITORS: usize = 3_000;
    let daemon = daemon(VISITORS);
    // So slow that it cannot be through before the client is gone.
    daemon.configure(
        "[clients.demo]\nv2_creates_profiles = true\n[clients.other]\n[ingest]\nmax_rows_per_second = 500\n",
    );
    daemon.hang_up();
    let file: String = (0..VISITORS).map(|n| format!("crm-{n}\n")).collect();
    let file = format!("thirdPartyId\n{file}");
    let mut connection = daemon.connect();
    connection.write(&request("POST", PATH, "x", &[("Content-Type", "text/csv")], Some(file.as_bytes())));
    wait_for("the first of them to be erased", || (!is_known(&daemon, "demo", "crm-0")).then_some(()));
    drop(connection);
    let acts = || {
        let acts = fs::read_to_string(daemon.data().join("audit.log")).unwrap_or_default();
        acts.matches("\"erase\"").count()
    };
    // The next call waits for no place: it stops as soon as the first has.
    daemon.configure("[clients.demo]\nv2_creates_profiles = true\n[clients.other]\n");
    daemon.hang_up();
    let (receipts, sum) = lines(&post(&daemon, &file));
    assert_eq!((receipts.len(), &sum["ids"], &sum["done"]), (VISITORS, &VISITORS.into(), &true.into()));
    assert!(sum["notFound"].as_u64().unwrap() > 0, "{sum}");
    assert!(sum["erased"].as_u64().unwrap() > 0, "{sum}");
    // Each was erased once, by whichever of the two.
    wait_for("each erasure in the audit trail", || (acts() == VISITORS).then_some(()));
}

#[test]
fn no_byte_of_any_of_them_stays_in_the_folder() {
    const GONE: usize = 300;
    let mut daemon = daemon(GONE + 1);
    daemon.mbox("demo", "mbox=m&mboxPC=device-5&mbox3rdPartyId=crm-5&profile.note=hidden-5");
    let ids: String = (0..GONE).map(|n| format!("crm-{n}\n")).collect();
    let (_, sum) = lines(&post(&daemon, format!("thirdPartyId\n{ids}")));
    assert_eq!(sum["erased"], GONE);
    let compacted =
        daemon.call("POST", "/api/v1/compact", &[("Content-Type", "application/json")], Some(b"{}"));
    assert_eq!(compacted.status, 200, "{}", compacted.text());
    assert!(
        compacted.json()["idsErased"].as_u64().is_some_and(|ids| ids > GONE as u64),
        "{}",
        compacted.text()
    );
    let listed = fs::read_to_string(daemon.data().join("erasures")).unwrap();
    assert_eq!(
        listed.lines().count(),
        1 + GONE + 1,
        "all ids are in the list of erasures, of one of them two"
    );
    daemon.terminate();
    assert!(daemon.ended().success());
    let mut stays = 0;
    each_file(&daemon.data(), &mut |path, bytes| {
        for word in ["device-5", "hidden-5"] {
            assert_eq!(memmem::find(bytes, word.as_bytes()), None, "{word} in {}", path.display());
        }
        for word in ["crm-", "secret-"] {
            for at in memmem::find_iter(bytes, word) {
                let number = &bytes[at + word.len()..];
                assert!(number.starts_with(b"300"), "{word} in {} at {at}", path.display());
                stays += 1;
            }
        }
    });
    assert!(stays > 0, "who was not erased is still there");
}

fn each_file(folder: &Path, each: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, each);
        } else {
            each(&path, &fs::read(&path).unwrap());
        }
    }
}
