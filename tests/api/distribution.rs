//! How often an attribute has which value in a batch.

use crate::support::Daemon;
use serde_json::{Value, json};
use std::fmt::Write as _;

fn path(batch: &str, attribute: &str) -> String {
    format!("/api/v1/batches/{batch}/attributes/{attribute}/distribution")
}

fn of(daemon: &Daemon, batch: &str, attribute: &str) -> Value {
    let reply = daemon.get(&path(batch, attribute));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The values with their counts, as `value:rows`.
fn values(found: &Value) -> Vec<String> {
    let values = found["values"].as_array().unwrap().iter();
    values.map(|one| format!("{}:{}", one["value"].as_str().unwrap(), one["rows"])).collect()
}

const FILE: &str = "batch=thirdPartyId,tier,points\ncrm-1,gold,10\ncrm-2,silver,9.5\ncrm-3,gold,\ncrm-4,,-3\n\
                    crm-5,gold\ncrm-6,Gold,2\n,gold,1\ncrm-7,%zz,1\n";

#[test]
fn values_are_counted_as_the_file_has_them_and_numbers_have_a_mean() {
    let daemon = Daemon::start();
    let batch = daemon.post_batch("demo", FILE);
    daemon.wait_complete(&batch);
    let tier = of(&daemon, &batch, "tier");
    assert_eq!(values(&tier), ["gold:3", "Gold:1", "silver:1"]);
    for (field, expected) in [
        ("filled", json!(5)),
        ("empty", json!(1)),
        ("unreadable", json!(2)),
        ("erased", json!(0)),
        ("distinct", json!(3)),
        ("othersMax", json!(0)),
        ("numbers", Value::Null),
        ("attribute", json!("tier")),
        ("batchId", json!(batch)),
    ] {
        assert_eq!(tier[field], expected, "{field}: {tier}");
    }
    assert_eq!(tier["values"][0]["share"], 0.5, "{tier}");
    let points = of(&daemon, &batch, "points");
    assert_eq!(points["numbers"], json!({"smallest": "-3", "largest": "10", "mean": 4.625}), "{points}");
    // What is only in CSV a header is in NDJSON the names of all rows.
    let rows = "{\"thirdPartyId\":\"a\",\"tier\":\"gold\"}\n{\"thirdPartyId\":\"b\",\"tier\":7}\n{\"thirdPartyId\":\"c\",\"tier\":null}\n";
    let headers = [("Content-Type", "application/x-ndjson")];
    let reply = daemon.call("POST", "/api/v1/batches?client=demo", &headers, Some(rows.as_bytes()));
    let batch = reply.json()["batchId"].as_str().unwrap().to_owned();
    let tier = of(&daemon, &batch, "tier");
    assert_eq!((values(&tier), &tier["empty"]), (vec!["7:1".into(), "gold:1".into()], &json!(1)), "{tier}");
    // A long value is cut, and says so.
    let batch = daemon.post_batch("demo", format!("batch=pcId,note\n1,{}\n", "é".repeat(600)));
    let note = of(&daemon, &batch, "note")["values"][0].clone();
    assert_eq!((note["value"].as_str().unwrap().chars().count(), &note["whole"]), (500, &json!(false)));
}

#[test]
fn what_is_not_there_is_told_apart() {
    let daemon = Daemon::start();
    let batch = daemon.post_batch("demo", FILE);
    daemon.wait_complete(&batch);
    for (path, status, why) in [
        (path(&batch, "Tier"), 404, "has no attribute \"Tier\"; it has \"tier\", \"points\""),
        (path(&batch, "thirdPartyId"), 404, "has no attribute"),
        (path("demo-1701473848678-10000001", "tier"), 404, "was never accepted, or is no longer kept"),
    ] {
        let reply = daemon.get(&path);
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(reply.status == status && message.contains(why), "{path}: {message}");
    }
}

#[test]
fn a_batch_that_is_not_applied_yet_is_counted_too_and_the_erased_are_not() {
    let daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 1");
    let batch = daemon.post_batch("demo", FILE);
    assert_eq!(daemon.get(&format!("/api/v1/batches/{batch}")).json()["status"], "incomplete");
    assert_eq!(values(&of(&daemon, &batch, "tier"))[0], "gold:3");
    daemon.configure("");
    daemon.hang_up();
    daemon.wait_complete(&batch);
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1&profile.a=1");
    daemon.call("DELETE", "/api/v1/profiles/crm-1?client=demo", &[], None);
    let json = [("Content-Type", "application/json")];
    assert_eq!(daemon.call("POST", "/api/v1/compact", &json, Some(b"{}")).status, 200);
    let tier = of(&daemon, &batch, "tier");
    assert_eq!((values(&tier)[0].as_str(), &tier["erased"]), ("gold:2", &json!(1)), "{tier}");
}

/// More different values than are counted at once: the counts stay exact, and what may be missing is said.
#[test]
fn the_most_frequent_are_right_however_many_values_there_are() {
    let daemon = Daemon::start();
    let mut file = String::from("batch=pcId,serial\n");
    for number in 0..30_000 {
        writeln!(file, "p{number},s{number}").unwrap();
    }
    // They come last, when there is no room for any new value.
    for number in 0..900 {
        writeln!(file, "q{number},{}", if number % 3 == 0 { "rare" } else { "often" }).unwrap();
    }
    let batch = daemon.post_batch("demo", file);
    let found = of(&daemon, &batch, "serial");
    assert_eq!(values(&found)[..2], ["often:600", "rare:300"], "{found}");
    assert_eq!((&found["distinct"], &found["distinctMax"]), (&Value::Null, &json!(10_000)), "{found}");
    let others = found["othersMax"].as_u64().unwrap();
    assert!((1..300).contains(&others), "{found}");
    let (_, said, _) = daemon.run(&["batch", "distribution", &batch, "serial"]);
    assert!(said.contains("more than 10,000 different"), "{said}");
    let page = daemon.get(&format!("/batches/{batch}?attribute=serial")).text();
    assert!(page.contains("more than 10,000 different ones"), "{page}");
}

#[test]
fn a_page_and_the_command_line_show_the_values() {
    let daemon = Daemon::start();
    let batch = daemon.post_batch("demo", format!("{FILE}crm-8,<b>&{},1\n", "long ".repeat(40)));
    daemon.wait_complete(&batch);
    let (code, said, _) = daemon.run(&["batch", "distribution", &batch, "tier"]);
    assert!(code == Some(0) && said.contains("gold"), "{said}");
    assert!(
        said.contains("6 rows with a value (4 different), 1 without") && said.contains("2 rows failed"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (_, said, _) = daemon.run(&["batch", "distribution", &batch, "points"]);
    assert!(said.contains("all are numbers: from -3 to 10, mean"), "{said}");
    let (_, said, _) = daemon.run(&["batch", "distribution", &batch, "tier", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["filled"], 6);
    let (code, _, complaint) = daemon.run(&["batch", "distribution", &batch, "none"]);
    assert!(code == Some(1) && complaint.contains("has no attribute"), "{complaint}");
    let page = daemon.get(&format!("/batches/{batch}")).text();
    assert!(
        page.contains("?attribute=points#values\">points</a>") && !page.contains("class=\"spread"),
        "{page}"
    );
    let page = daemon.get(&format!("/batches/{batch}?attribute=tier")).text();
    for words in ["&#60;b&#62;", "width=\"42.9%\"", "6 rows with a value, 4 different ones; 1 without."] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = daemon.get(&format!("/batches/{batch}?attribute=none")).text();
    assert!(page.contains("This batch has no attribute"), "{page}");
}
