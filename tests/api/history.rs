//! What a visitor was: the history of its attributes, the visitor as of an earlier seq or time, and batches that are undone.

use crate::support::{Daemon, Reply, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;

const CRM: &str = "/api/v1/profiles/x?client=demo";

/// A visitor x whom the site knows, with the seqs of three writes: a site call, a batch, a site call.
fn daemon() -> (Daemon, [u64; 3], String) {
    let daemon = Daemon::start();
    let site = |params: &str| {
        let reply = daemon.get(&format!("/m2/demo/mbox/json?mbox=m&mboxSession=s&mbox3rdPartyId=x&{params}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.header("profiled-seq").unwrap().parse().unwrap()
    };
    let first = site("profile.tier=silver&profile.city=Oslo");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,tier,points\nx,gold,7\nnobody,gold,7\n");
    let seq = of_batch(&daemon, &batch)["seq"].as_str().unwrap().parse().unwrap();
    daemon.wait_complete(&batch);
    let last = site("profile.city=Bergen");
    (daemon, [first, seq, last], batch)
}

fn of_batch(daemon: &Daemon, id: &str) -> Value {
    body(&daemon.get(&format!("/api/v1/batches/{id}")))
}

fn body(reply: &Reply) -> Value {
    assert!([200, 201].contains(&reply.status), "{} {}", reply.status, reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

/// The visitor's attributes, as `name=value`.
fn attributes(visitor: &Value) -> String {
    let attributes = visitor["attributes"].as_object().unwrap().iter();
    let one = |(name, it): (&String, &Value)| format!("{name}={}", it["value"].as_str().unwrap());
    attributes.map(one).collect::<Vec<_>>().join(" ")
}

fn undo(daemon: &Daemon, id: &str, what: &Value) -> Reply {
    let json = [("Content-Type", "application/json"), ("Connection", "close")];
    let path = format!("/api/v1/batches/{id}/undo");
    daemon.call("POST", &path, &json, Some(what.to_string().as_bytes()))
}

#[test]
fn a_visitor_is_shown_as_it_was_after_each_write() {
    let (daemon, [first, batch, last], _) = daemon();
    let at = |when: &str| daemon.get(&format!("{CRM}&as_of={when}"));
    let time = |seq: u64| jiff::Timestamp::from_millisecond((seq >> 20) as i64).unwrap().to_string();
    for (when, expected) in [
        (first.to_string(), "city=Oslo tier=silver"),
        ((batch - 1).to_string(), "city=Oslo tier=silver"),
        (batch.to_string(), "city=Oslo points=7 tier=gold"),
        (last.to_string(), "city=Bergen points=7 tier=gold"),
        (u64::MAX.to_string(), "city=Bergen points=7 tier=gold"),
        (time(last + (1 << 20)), "city=Bergen points=7 tier=gold"),
    ] {
        assert_eq!(attributes(&body(&at(&when))), expected, "{when}");
    }
    assert_eq!(at(&(first - 1).to_string()).status, 404, "it was not there yet");
    assert_eq!(at("2020-01-01T00:00:00Z").status, 404);
    let wrong = at("yesterday");
    assert!(wrong.status == 400 && wrong.text().contains("neither a seq"), "{}", wrong.text());
    let (code, out, _) =
        daemon.run(&["profile", "get", "x", "--client", "demo", "--as-of", &first.to_string()]);
    assert!(code == Some(0) && out.contains("silver") && !out.contains("points"), "{out}");
}

#[test]
fn the_history_tells_each_change_with_what_was_before_and_goes_when_the_visitor_is_erased() {
    let (daemon, [first, batch, last], id) = daemon();
    let path = "/api/v1/profiles/x/history?client=demo";
    let removed = daemon.call("DELETE", "/api/v1/profiles/x/attributes/points?client=demo", &[], None);
    let removed: u64 = removed.header("profiled-seq").unwrap().parse().unwrap();
    let history = body(&daemon.get(path));
    assert_eq!(
        (history["since"].as_str(), history["client"].as_str()),
        (Some(&*first.to_string()), Some("demo"))
    );
    let told = history["changes"].as_array().unwrap().iter().map(|change| {
        let text = |name: &str| change[name].as_str().unwrap_or("-").to_owned();
        [text("attribute"), text("before"), text("after"), text("seq"), text("source"), text("batchId")]
            .join(" ")
    });
    let expected = [
        format!("points 7 - {removed} single update -"),
        format!("city Oslo Bergen {last} mbox -"),
        format!("points - 7 {batch} batch v2 {id}"),
        format!("tier silver gold {batch} batch v2 {id}"),
        format!("city - Oslo {first} mbox -"),
        format!("tier - silver {first} mbox -"),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let of_one = body(&daemon.get(&format!("{path}&attribute=tier")));
    assert_eq!(of_one["changes"].as_array().unwrap().len(), 2);
    let (code, out, _) = daemon.run(&["profile", "history", "x", "--client", "demo"]);
    assert!(code == Some(0) && out.contains("- → silver") && out.contains("all changes since"), "{out}");
    assert_eq!(daemon.call("DELETE", CRM, &[], None).status, 200);
    assert_eq!(daemon.get(path).status, 404);
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.tier=new");
    let anew = body(&daemon.get(path));
    assert_eq!(anew["changes"].as_array().unwrap().len(), 1, "{anew}");
}

#[test]
fn without_history_nothing_is_kept_and_an_earlier_time_is_refused() {
    let daemon = Daemon::start_configured("[clients.demo]\nhistory_max = 0\n");
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.tier=silver");
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.tier=gold");
    let history = body(&daemon.get("/api/v1/profiles/x/history?client=demo"));
    assert_eq!((&history["since"], history["changes"].as_array().unwrap().len()), (&Value::Null, 1));
    let born = body(&daemon.get(CRM))["seq"].as_str().unwrap().parse::<u64>().unwrap() - 1;
    let gone = daemon.get(&format!("{CRM}&as_of={born}"));
    assert!(gone.status == 410 && gone.text().contains("history_max"), "{} {}", gone.status, gone.text());
}

#[test]
fn an_undone_batch_leaves_what_was_touched_later_and_can_be_undone_itself() {
    let (daemon, _, id) = daemon();
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.points=8");
    let now = || attributes(&body(&daemon.get(CRM)));
    let tried = body(&undo(&daemon, &id, &json!({"dryRun": true})));
    assert_eq!(tried["attributes"]["tier"], json!({"set": 0, "changed": 1, "unchanged": 0, "removed": 0}));
    assert_eq!((&tried["outcomes"]["updated"], &tried["outcomes"]["not_found"]), (&json!(1), &json!(1)));
    assert_eq!(now(), "city=Bergen points=8 tier=gold", "a dry run writes nothing");

    let undone = body(&undo(&daemon, &id, &json!({})));
    assert_eq!(undone["undoes"].as_str(), Some(&*id));
    assert_eq!(now(), "city=Bergen points=8 tier=silver");
    let second = undone["batchId"].as_str().unwrap();
    assert_eq!(daemon.wait_complete(second).successful, 1);
    let visitor = body(&daemon.get(CRM));
    assert_eq!(visitor["attributes"]["tier"]["batchId"].as_str(), Some(second));

    let (code, out, err) = daemon.run(&["batch", "undo", second, "--wait"]);
    assert!(code == Some(0) && out.contains(&format!("undoes {second}")), "{out} {err}");
    assert_eq!(now(), "city=Bergen points=8 tier=gold");
    // Nothing is left to put back.
    let again = body(&undo(&daemon, second, &json!({})));
    let again = daemon.wait_complete(again["batchId"].as_str().unwrap());
    assert_eq!(again.ignored, 1);
}

/// Its file says what was undone. Whoever follows the changes must not set that once more.
#[test]
fn the_feed_tells_what_an_undo_put_back_and_there_is_nothing_to_repair() {
    let (daemon, _, id) = daemon();
    let undone = body(&undo(&daemon, &id, &json!({})));
    let undone = undone["batchId"].as_str().unwrap();
    daemon.wait_complete(undone);
    let row = || {
        let feed = daemon.get("/api/v1/changes?client=demo&since=0").text();
        let events = feed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_undo: Vec<Value> = events.filter(|event| event["batchId"] == undone).collect();
        assert_eq!((&of_undo[0]["event"], &of_undo[0]["undoes"]), (&json!("batch"), &json!(id)));
        let row = of_undo[1].clone();
        assert_eq!((&row["outcome"], &row["id"]["id"]), (&json!("updated"), &json!("x")));
        (row["set"].clone(), row["removed"].clone(), row["attributes"].clone())
    };
    assert_eq!(row(), (json!({"tier": "silver"}), json!(["points"]), Value::Null));
    // Later writes do not change what it was.
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.tier=9&profile.points=9");
    assert_eq!(row(), (json!({"tier": "silver"}), json!(["points"]), Value::Null));
    // A login merges another visitor: what the visitor was before is not known any more, so the feed tells what it is now.
    daemon.mbox("demo", "mbox=m&mboxPC=p&profile.z=1");
    daemon.mbox("demo", "mbox=m&mboxPC=p&mbox3rdPartyId=x");
    let now = json!({"city": "Bergen", "points": "9", "tier": "9", "z": "1"});
    assert_eq!(row(), (Value::Null, Value::Null, now));
    let repair = daemon.get(&format!("/api/v1/batches/{undone}/repair"));
    assert!(repair.status == 409 && repair.text().contains("outcome=failed"), "{}", repair.text());
    let (_, out, _) = daemon.run(&["batch", "status", undone]);
    assert!(out.contains(&format!("undoes {id}")), "{out}");
    assert!(daemon.get(&format!("/batches/{undone}")).text().contains(&format!("href=\"/batches/{id}\"")));
}

/// The file of the undone batch is read while it is taken in again: neither may wait for the other.
#[test]
fn an_undo_that_is_refused_in_the_middle_is_answered_and_leaves_nothing() {
    let daemon = Daemon::start_configured("");
    let rows: String = (0..60_000).map(|n| format!("x{n},a rather long value\n")).collect();
    let id = daemon.post_batch("demo", format!("batch=thirdPartyId,a\n{rows}"));
    daemon.wait_complete(&id);
    let batch = daemon.spooled().pop().unwrap();
    daemon.configure("rows_limit = 10");
    daemon.hang_up();
    let refused = wait_for("the limit to hold", || {
        let answer = undo(&daemon, &id, &json!({"dryRun": true}));
        (answer.status != 200).then_some(answer)
    });
    assert!(refused.status == 413 && refused.text().contains("10 rows"), "{}", refused.text());
    assert_eq!(undo(&daemon, &id, &json!({})).status, 413);
    // Files of the batch itself may still go.
    let is_left = |path: &PathBuf| path.file_stem() != batch.file_stem();
    wait_for("nothing to be left of it", || (!daemon.spooled().iter().any(is_left)).then_some(()));
}

#[test]
fn a_row_whose_visitor_has_no_such_history_fails_and_says_so() {
    let daemon = Daemon::start_configured("[clients.demo]\nhistory_max = 0\n");
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=x&profile.tier=silver");
    let id = daemon.post_batch("demo", "batch=thirdPartyId,tier\nx,gold\n");
    daemon.wait_complete(&id);
    let undone = body(&undo(&daemon, &id, &json!({})));
    let undone = undone["batchId"].as_str().unwrap();
    daemon.wait_complete(undone);
    let rows = daemon.get(&format!("/api/v1/batches/{undone}/outcomes")).text();
    assert!(rows.contains("failed,not_kept,") && rows.contains("history_max"), "{rows}");
    assert_eq!(daemon.value("demo", "third-party", "x", "tier").as_deref(), Some("gold"));
    assert_eq!(undo(&daemon, "demo-1701473848678-10000000", &json!({})).status, 404);
    assert_eq!(undo(&daemon, &id, &json!({"dry": true})).status, 400);
}

/// Lookups show a batch's rows before it is complete, and its cancellation, too.
#[test]
fn a_batch_that_is_not_complete_is_cancelled_and_a_complete_one_is_not() {
    let daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 50");
    let mut file = String::from("batch=thirdPartyId,tier\n");
    for number in 0..2_000 {
        file += &format!("crm-{number},gold\n");
    }
    let tier = |who: &str| daemon.value("demo", "third-party", who, "tier");
    for who in ["crm-0", "crm-1999"] {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId={who}&profile.tier=silver"));
    }
    let batch = daemon.post_batch("demo", file);
    assert_eq!((tier("crm-0").as_deref(), tier("crm-1999").as_deref()), (Some("gold"), Some("gold")));
    let path = format!("/api/v1/batches/{batch}");
    let (code, _, complaints) = daemon.run(&["batch", "abandon", &batch]);
    assert!(code == Some(1) && complaints.contains("is incomplete, not stuck"), "{complaints}");
    let reply = daemon.call("DELETE", &path, &[], None);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let cancelled = reply.json();
    assert_eq!(cancelled["undoes"], *batch);
    for settings in [None, Some("")] {
        if let Some(settings) = settings {
            daemon.configure(settings);
            daemon.hang_up();
            daemon.wait_complete(&batch);
            daemon.wait_complete(cancelled["batchId"].as_str().unwrap());
        }
        let tiers = (tier("crm-0"), tier("crm-1999"));
        assert_eq!((tiers.0.as_deref(), tiers.1.as_deref()), (Some("silver"), Some("silver")));
    }
    let refused = daemon.call("DELETE", &path, &[], None);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("nothing left to cancel"), "{}", refused.text());
    let (code, _, complaints) = daemon.run(&["batch", "cancel", &batch]);
    assert!(code == Some(1) && complaints.contains("nothing left to cancel"), "{complaints}");
}
