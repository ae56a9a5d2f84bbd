//! The feed of changes over HTTP: both forms, going on from every place, what it waits for, and what is gone.

use crate::support::{Connection, Daemon, Reply, request, wait_for};
use serde_json::{Value, json};
use std::io::BufRead;
use std::net::TcpStream;

const CHANGES: &str = "/api/v1/changes?client=demo";

fn changes(daemon: &Daemon, since: &str) -> Vec<Value> {
    lines(&daemon.get(&format!("{CHANGES}&since={since}")))
}

fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What happened, without where and when.
fn without_place(events: &[Value]) -> Vec<Value> {
    let bare = |event: &Value| {
        let mut bare = event.as_object().unwrap().clone();
        assert!(bare.remove("seq").unwrap().as_str().unwrap().parse::<u64>().unwrap() > 0, "{event}");
        assert!(bare.remove("time").unwrap().as_str().unwrap().ends_with('Z'), "{event}");
        bare.remove("batchId");
        Value::Object(bare)
    };
    events.iter().map(bare).collect()
}

/// The place of an event, as `since` takes it.
fn place(event: &Value) -> String {
    let seq = event["seq"].as_str().unwrap();
    match (event["event"].as_str().unwrap(), &event["line"]) {
        ("batch", _) => format!("{seq}-0"),
        (_, Value::Null) => seq.to_owned(),
        (_, line) => format!("{seq}-{line}"),
    }
}

/// A daemon on which something of each kind has happened, and what its feed says of it.
fn daemon_with_changes() -> (Daemon, Vec<Value>) {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&profile.city=Oslo&profile.tier=gold");
    daemon.mbox("other", "mboxPC=1&profile.whose=another");
    daemon.mbox("demo", "mboxPC=2&mbox3rdPartyId=t&profile.seen=1");
    let file = "batch=pcId,city,plan\n1,Bergen,\n9,Rome,x\n1,%zz,\n2,,free\n";
    let batch = daemon.post_batch("demo", file);
    daemon.wait_complete(&batch);
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=t");
    daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=t&profile.plan=paid");
    daemon.call("DELETE", "/api/v1/profiles/t/attributes/seen?client=demo", &[], None);
    daemon.mbox("demo", "mboxPC=2&mbox3rdPartyId=u");
    daemon.call("DELETE", "/api/v1/profiles/none?client=demo", &[], None);
    let (pc, third_party) =
        (|id: &str| json!({"kind": "pcId", "id": id}), json!({"kind": "thirdPartyId", "id": "t"}));
    let row = |line: u32, id: Option<&str>, outcome: &str| {
        let mut row = json!({"event": "row", "source": "batch v2", "line": line, "outcome": outcome});
        if let Some(id) = id {
            row["id"] = pc(id);
        }
        row
    };
    let with = |mut event: Value, more: Value| {
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let by = json!({"token": null, "address": "127.0.0.1"});
    let counts = json!({"updated": 2, "created": 0, "not_found": 1, "ignored": 0, "failed": 1});
    let expected = vec![
        json!({"event": "write", "source": "mbox", "id": pc("1"), "created": true, "set": {"city": "Oslo", "tier": "gold"}}),
        json!({"event": "write", "source": "mbox", "id": third_party, "created": true, "set": {"seen": "1"}, "bound": [pc("2")]}),
        json!({"event": "batch", "source": "batch v2", "by": by, "rows": 4, "replaces": false, "removes": false}),
        with(row(2, Some("1"), "updated"), json!({"set": {"city": "Bergen"}})),
        row(3, Some("9"), "not_found"),
        with(row(4, None, "failed"), json!({"reason": "bad_escape"})),
        with(row(5, Some("2"), "updated"), json!({"set": {"plan": "free"}})),
        json!({"event": "batchEnd", "counts": counts}),
        json!({"event": "write", "source": "mbox", "id": third_party, "set": {}, "bound": [pc("1")], "ids": [pc("2"), pc("1")],
               "attributes": {"city": "Bergen", "plan": "free", "seen": "1", "tier": "gold"}}),
        json!({"event": "write", "source": "single update", "by": by, "id": third_party, "set": {"plan": "paid"}}),
        json!({"event": "write", "source": "removal", "by": by, "id": third_party, "set": {}, "removed": ["seen"]}),
        json!({"event": "left", "id": third_party, "line": 0, "attributes": {"city": "Bergen", "plan": "paid", "tier": "gold"}}),
        json!({"event": "write", "source": "mbox", "id": {"kind": "thirdPartyId", "id": "u"}, "created": true, "set": {}, "bound": [pc("2")]}),
        json!({"event": "erase", "source": "erasure", "ids": [{"kind": "thirdPartyId", "id": "none"}]}),
        json!({"event": "upTo"}),
    ];
    (daemon, expected)
}

#[test]
fn each_write_is_told_in_order_and_from_every_place_on_the_rest() {
    let (mut daemon, expected) = daemon_with_changes();
    let all = changes(&daemon, "0");
    assert_eq!(without_place(&all), expected);
    for (n, event) in all.iter().enumerate() {
        let rest = changes(&daemon, &place(event));
        // The last says only how far it is.
        assert_eq!(rest, all[(n + 1).min(all.len() - 1)..], "{event}");
    }
    assert_eq!(without_place(&changes(&daemon, "1"))[..3], expected[..3], "no write has this seq");
    daemon.kill9();
    daemon.restart();
    assert_eq!(changes(&daemon, "0"), all);
    let last = place(all.last().unwrap());
    daemon.mbox("demo", "mboxPC=3&profile.a=1");
    assert_eq!(changes(&daemon, &last)[0]["id"]["id"], "3");
    let other = lines(&daemon.get("/api/v1/changes?client=other&since=0"));
    assert_eq!((other.len(), &other[0]["set"]), (2, &json!({"whose": "another"})));
}

/// The next event of a stream: its id, its name, its data.
fn next(stream: &mut impl BufRead) -> (Option<String>, String, Value) {
    let (mut id, mut name) = (None, String::new());
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream broke off");
        match line.trim_end().split_once(": ") {
            Some(("id", text)) => id = Some(text.to_owned()),
            Some(("event", text)) => name = text.to_owned(),
            Some(("data", text)) => return (id, name, serde_json::from_str(text).unwrap()),
            // The chunks' lengths, and what is between events.
            _ => {}
        }
    }
}

fn follow(daemon: &Daemon, since: &str, headers: &[(&str, &str)]) -> std::io::BufReader<TcpStream> {
    let stream = TcpStream::connect(daemon.address()).unwrap();
    let mut stream = std::io::BufReader::new(stream);
    let headers = [&[("Accept", "text/event-stream")], headers].concat();
    let asked = request("GET", &format!("{CHANGES}{since}"), "a", &headers, None);
    std::io::Write::write_all(stream.get_mut(), &asked).unwrap();
    stream
}

#[test]
fn server_sent_events_are_the_same_and_go_on() {
    let (daemon, expected) = daemon_with_changes();
    let all = changes(&daemon, "0");
    let mut stream = follow(&daemon, "&since=0", &[]);
    for event in &all {
        let (id, name, data) = next(&mut stream);
        assert_eq!((id, name.as_str(), &data), (Some(place(event)), event["event"].as_str().unwrap(), event));
    }
    daemon.mbox("demo", "mboxPC=3&profile.a=1");
    assert_eq!(next(&mut stream).2["set"], json!({"a": "1"}));
    daemon.mbox("other", "mboxPC=3&profile.a=1");
    daemon.mbox("demo", "mboxPC=3&profile.a=2");
    let (last, _, event) = next(&mut stream);
    assert_eq!(event["set"], json!({"a": "2"}));
    // A browser that lost its connection asks again for the same URL.
    daemon.mbox("demo", "mboxPC=3&profile.a=3");
    let mut again = follow(&daemon, "&since=0", &[("Last-Event-ID", &last.unwrap())]);
    assert_eq!(next(&mut again).2["set"], json!({"a": "3"}));
    let mut row = follow(&daemon, "&since=0", &[("Last-Event-ID", &place(&all[3]))]);
    assert_eq!(without_place(&[next(&mut row).2]), expected[4..5]);
}

#[test]
fn what_is_no_place_is_refused() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    let far = "9".repeat(18);
    for (query, status, words) in [
        ("", 400, "since= is missing"),
        ("&since=", 400, "since= is missing"),
        ("&since=x", 400, "SEQ or SEQ-LINE"),
        ("&since=-1", 400, "SEQ or SEQ-LINE"),
        ("&since=1-", 400, "SEQ or SEQ-LINE"),
        ("&since=1-2-3", 400, "SEQ or SEQ-LINE"),
        ("&since=+1", 400, "SEQ or SEQ-LINE"),
        ("&since=99999999999999999999", 400, "SEQ or SEQ-LINE"),
        (&format!("&since={far}"), 200, ""),
        (&format!("&since=9{far}"), 400, "in the future"),
        ("&since=0&rows=no", 400, "true or false"),
        ("&since=0&follow=1", 400, "true or false"),
    ] {
        let reply = daemon.get(&format!("{CHANGES}{query}"));
        let told = reply.text();
        assert!(reply.status == status && told.contains(words), "{query}: {} {told}", reply.status);
    }
}

/// The batch is not complete for as long as it is not shown.
#[test]
fn rows_are_told_once_their_batch_is_complete_and_what_follows_waits_for_them() {
    let daemon = Daemon::start_configured("[clients.demo]\nbatch_shows_after_seconds = 3600");
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n");
    daemon.mbox("demo", "mboxPC=2&profile.a=3");
    let told = |path: &str| -> Vec<String> {
        let events = lines(&daemon.get(&format!("{CHANGES}&since=0{path}")));
        events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(told(""), ["write", "waiting"]);
    assert_eq!(told("&rows=false"), ["write", "batch", "write", "upTo"]);
    let mut stream = follow(&daemon, "&since=0", &[]);
    assert_eq!(next(&mut stream).1, "write");
    let (id, name, event) = next(&mut stream);
    assert_eq!((id, name.as_str(), event["batchId"].as_str()), (None, "waiting", Some(batch.as_str())));
    daemon.configure("[clients.demo]\nbatch_shows_after_seconds = 0");
    daemon.hang_up();
    daemon.wait_complete(&batch);
    for expected in ["batch", "row", "batchEnd", "write", "upTo"] {
        assert_eq!(next(&mut stream).1, expected);
    }
    assert_eq!(told(""), ["write", "batch", "row", "batchEnd", "write", "upTo"]);
}

/// Whoever stops there goes on with the write that took the device, which is nobody's secret.
#[test]
fn a_visitor_who_was_erased_after_a_device_had_left_keeps_the_place() {
    let daemon = Daemon::start();
    for who in ["t", "u"] {
        daemon.mbox("demo", &format!("mboxPC=2&mbox3rdPartyId={who}&profile.a={who}"));
    }
    assert_eq!(changes(&daemon, "0")[1]["attributes"], json!({"a": "t"}));
    assert_eq!(daemon.call("DELETE", "/api/v1/profiles/t?client=demo", &[], None).status, 200);
    let told = changes(&daemon, "0");
    let bare = without_place(&told);
    let device = json!([{"kind": "pcId", "id": "2"}]);
    let withheld = [json!({"event": "withheld", "ids": device}), json!({"event": "withheld", "line": 0})];
    assert_eq!(bare[..2], withheld);
    assert_eq!(changes(&daemon, &place(&told[1])), told[2..]);
    assert_eq!(told[2]["id"]["id"], "u");
}

/// Of what is gone an export is the way out: what it lacks comes after its seq.
#[test]
fn what_an_erasure_took_is_gone_and_an_export_goes_on_without_a_gap() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&profile.a=secret");
    let batch = daemon.post_batch("demo", "batch=pcId,a\n1,secret\n");
    daemon.wait_complete(&batch);
    let mut follower = follow(&daemon, "&since=0", &[]);
    assert_eq!(next(&mut follower).2["set"]["a"], "secret");
    daemon.mbox("demo", "mboxPC=2&profile.a=open");
    assert_eq!(daemon.call("DELETE", "/api/v1/profiles/1?by=pc&client=demo", &[], None).status, 200);
    let all = daemon.get(&format!("{CHANGES}&since=0"));
    assert!(!all.text().contains("secret") && all.text().contains("withheld"), "{}", all.text());
    assert_eq!(
        daemon.call("POST", "/api/v1/compact", &[("Content-Type", "application/json")], Some(b"{}")).status,
        200
    );
    let gone = daemon.get(&format!("{CHANGES}&since=0"));
    assert_eq!(gone.status, 410, "{}", gone.text());
    assert!(
        gone.text().contains("export the client") && gone.text().contains("Profiled-Seq"),
        "{}",
        gone.text()
    );
    let export = daemon.get("/api/v1/export?client=demo&format=ndjson");
    let seq = export.header("profiled-seq").unwrap().to_owned();
    assert_eq!(lines(&export).len(), 1);
    assert_eq!(without_place(&changes(&daemon, &seq)), [json!({"event": "upTo"})]);
    daemon.mbox("demo", "mboxPC=3&profile.a=new");
    assert_eq!(changes(&daemon, &seq)[0]["set"], json!({"a": "new"}));
    // Whoever had followed all the time notices nothing.
    loop {
        let (_, name, event) = next(&mut follower);
        assert_ne!(name, "gone");
        if event["set"]["a"] == "new" {
            break;
        }
    }
}

/// They hold their places and cost nobody anything, until somebody else wants one.
#[test]
fn more_feeds_at_once_than_there_may_be_are_refused_and_one_that_is_not_read_makes_room() {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true");
    let value = "x".repeat(100_000);
    let mut file = String::from("batch=thirdPartyId,a\n");
    // More than the system keeps for a client that does not read.
    (0..300).for_each(|n| file.extend([&n.to_string(), ",", &value, "\n"]));
    let batch = daemon.post_batch("demo", file);
    daemon.wait_complete(&batch);
    let asked = request("GET", &format!("{CHANGES}&since=0"), "a", &[], None);
    let mut open: Vec<Connection<_>> = (0..32).map(|_| daemon.connect()).collect();
    for connection in &mut open {
        connection.write(&asked);
        assert_eq!(connection.status(), 200);
    }
    let refused = daemon.send(&asked);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(daemon.metrics().hits("concurrent_changes"), 1);
    assert!(daemon.visitor("demo", "third-party", "7").is_some());
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&asked);
    assert_eq!(other.status(), 200);
    drop((open, other));
    wait_for("a place to be free", || {
        let mut again = daemon.connect();
        again.write(&asked);
        (again.status() == 200).then_some(())
    });
}

#[test]
fn the_command_prints_what_the_call_answers() {
    let (daemon, expected) = daemon_with_changes();
    let (code, printed, _) = daemon.run(&["changes", "--client", "demo"]);
    let events: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, without_place(&events)), (Some(0), expected.clone()));
    let (code, printed, _) =
        daemon.run(&["changes", "--client", "demo", "--no-rows", "--since", &place(&events[1])]);
    assert_eq!((code, printed.lines().count()), (Some(0), expected.len() - 7), "{printed}");
    let (code, _, complaint) = daemon.run(&["changes", "--client", "demo", "--since", "x"]);
    assert!(code == Some(1) && complaint.contains("SEQ or SEQ-LINE"), "{complaint}");
}

#[test]
fn a_stop_ends_the_feeds() {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    let mut stream = follow(&daemon, "&since=0", &[]);
    assert_eq!(next(&mut stream).1, "write");
    daemon.terminate();
    assert!(daemon.ended().success());
}
