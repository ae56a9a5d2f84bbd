//! Calls as they come in: what is told of each kind of call, to whom, in which forms, and that nothing is told of what came before.

use std::io::BufRead;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Daemon, request, wait_for};

const OWN: (&str, &str) = ("Sec-Fetch-Site", "same-origin");

/// Somebody who listens.
struct Listener(std::io::BufReader<TcpStream>);

impl Listener {
    /// Listens from now on.
    fn of(daemon: &Daemon, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = std::io::BufReader::new(TcpStream::connect(daemon.address()).unwrap());
        std::io::Write::write_all(stream.get_mut(), &request("GET", path, "a", headers, None)).unwrap();
        Self(stream)
    }

    /// As NDJSON.
    fn to(daemon: &Daemon, query: &str) -> Self {
        let mut listener = Self::of(daemon, &format!("/api/v1/live{query}"), &[]);
        assert_eq!(listener.next(), json!({"event": "listening"}));
        listener
    }

    /// The next line that begins so.
    fn line(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended before a line of {start:?}");
            if line.starts_with(start) {
                return line.trim_end().to_owned();
            }
        }
    }

    /// The next event.
    fn next(&mut self) -> Value {
        // It may take long until something happens: minutes of nothing are too long.
        for _ in 0..8 {
            let event: Value = serde_json::from_str(&self.line("{")).unwrap();
            if event["event"] != "silent" {
                return event;
            }
        }
        panic!("nothing came in");
    }

    /// The next call, without what differs from run to run.
    fn call(&mut self) -> Value {
        let mut call = self.next();
        let bare = call.as_object_mut().unwrap();
        assert_eq!(bare.remove("event").unwrap(), "call");
        assert!(bare.remove("time").unwrap().as_str().unwrap().ends_with('Z'));
        assert!(bare.remove("tookMs").unwrap().as_f64().unwrap() > 0.0);
        assert_eq!(bare.remove("address").unwrap(), "127.0.0.1");
        assert!(bare.remove("request").unwrap().as_str().unwrap().contains('-'));
        call
    }
}

/// The members that every call has.
fn heard(call: &str, method: &str, path: &str, status: u16, more: Value) -> Value {
    let mut expected = json!({"call": call, "method": method, "path": path, "client": "demo", "status": status, "seq": null,
        "ids": [], "set": {}, "leftOut": []});
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    expected
}

fn id(kind: &str, id: &str) -> Value {
    json!({"kind": kind, "id": id, "given": false})
}

#[test]
fn what_was_understood_of_each_call_is_told_and_what_was_left_out() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=before&mboxPC=1&profile.city=Rome");
    let mut listener = Listener::to(&daemon, "?client=demo");
    // What only reads is no news, and neither is what another client's visitors do.
    daemon.get("/api/v1/profiles/1?by=pc&client=demo");
    daemon.mbox("other", "mbox=home&mboxPC=1&profile.city=Paris");

    let url =
        "/m2/demo/mbox/json?mbox=home&mboxPC=1.28_0&mbox3rdPartyId=undefined&profile.city=Oslo&profile.%20=x";
    let answer = daemon.get(url);
    let seq = |answer: &crate::support::Reply| json!(answer.header("profiled-seq").unwrap());
    let expected = json!({"seq": seq(&answer), "ids": [id("pcId", "1")], "mboxes": ["home"], "set": {"city": "Oslo"},
        "leftOut": ["1 id that stands for nobody (blocked_ids): \"mbox3rdPartyId\"", "1 profile parameter whose name is blank: \" \""]});
    assert_eq!(listener.call(), heard("mbox", "GET", "/m2/demo/mbox/json", 200, expected));

    daemon.get("/m2/demo/mbox/json?mbox=home&mboxPC=undefined");
    let told = listener.call();
    assert_eq!((&told["ids"][0]["kind"], &told["ids"][0]["given"]), (&json!("pcId"), &json!(true)), "{told}");

    let media_type = [("Content-Type", "application/json")];
    let body = json!({"id": {"thirdPartyId": "crm-1"}, "execute": {"mboxes": [{"index": 0, "name": "basket",
        "profileParameters": {"tier": "gold", "long": "x".repeat(900)}}]}});
    let path = "/rest/v1/delivery";
    let answer = daemon.call(
        "POST",
        &format!("{path}?client=demo&sessionId=s"),
        &media_type,
        Some(body.to_string().as_bytes()),
    );
    let made = answer.json()["id"]["tntId"].clone();
    let told = listener.call();
    assert_eq!(
        told["ids"],
        json!([id("thirdPartyId", "crm-1"), {"kind": "pcId", "id": made, "given": true}])
    );
    assert_eq!(
        (&told["call"], &told["seq"], &told["mboxes"]),
        (&json!("delivery"), &seq(&answer), &json!(["basket"]))
    );
    assert_eq!(told["set"]["tier"], "gold");
    assert_eq!(told["set"]["long"], format!("{}…", "x".repeat(500)));

    daemon.call("POST", &format!("{path}?client=demo&sessionId=a%20b"), &media_type, Some(b"{}"));
    let told = listener.call();
    assert_eq!((&told["status"], &told["client"]), (&json!(400), &json!("demo")));
    assert!(told["message"].as_str().unwrap().starts_with("sessionId holds ' '"), "{told}");

    let update = "/m2/demo/profile/update";
    let answer = daemon.get(&format!("{update}?mbox3rdPartyId=crm-1&profile.tier=silver&b"));
    let more = json!({"seq": seq(&answer), "ids": [id("thirdPartyId", "crm-1")], "set": {"tier": "silver"}, "outcome": "updated",
        "leftOut": ["1 parameter that is no profile.NAME: \"b\""]});
    assert_eq!(listener.call(), heard("profile update", "GET", update, 200, more));
    daemon.get(&format!("{update}?mboxPC=nobody&profile.tier=silver"));
    assert_eq!(listener.call()["outcome"], "not_found");

    let file = "batch=pcId,city\n1,Bergen\n9,Rome\n1,%zz\n";
    let path = "/m2/demo/v2/profile/batchUpdate";
    daemon.call("POST", &format!("{path}?dryRun=true"), &[], Some(file.as_bytes()));
    let outcomes = json!({"updated": 1, "created": 0, "not_found": 1, "ignored": 0, "failed": 1});
    let batch = json!({"batchId": null, "dryRun": true, "before": false, "rows": 3, "bytes": file.len(), "outcomes": outcomes});
    assert_eq!(listener.call(), heard("batchUpdate v2", "POST", path, 200, json!({"batch": batch})));
    let batch = daemon.post_batch("demo", file);
    let told = listener.call();
    assert_eq!((&told["batch"]["batchId"], &told["batch"]["rows"]), (&json!(batch), &json!(3)));
    daemon.call("POST", path, &[], Some(b"city\nOslo\n"));
    let told = listener.call();
    assert_eq!(told["status"], 400);
    assert!(told["message"].as_str().unwrap().contains("batch="), "{told}");

    let profile = "/api/v1/profiles/crm-1";
    daemon.call("DELETE", &format!("{profile}/attributes/tier?client=demo"), &[], None);
    let told = listener.call();
    assert_eq!((&told["outcome"], &told["removed"]), (&json!("removed"), &json!(["tier"])));
    let answer = daemon.call("DELETE", &format!("{profile}?client=demo"), &[], None);
    let more = json!({"seq": seq(&answer), "ids": [id("thirdPartyId", "crm-1")], "outcome": "erased"});
    assert_eq!(listener.call(), heard("profile", "DELETE", profile, 200, more));

    // Who mistypes a path wants to see it most.
    daemon.get("/m2/demo/mbox/jsn?mboxPC=1");
    let more = json!({"message": "there is nothing at this path"});
    assert_eq!(listener.call(), heard("unknown path", "GET", "/m2/demo/mbox/jsn", 404, more));
    daemon.get("/m2/demo/profile/batchUpdate");
    assert_eq!(listener.call()["message"], "this path takes POST");
}

#[test]
fn a_listener_may_ask_for_one_visitor_and_gets_its_calls_by_every_id() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=home&mboxPC=7&mbox3rdPartyId=crm-1");
    let mut one = Listener::to(&daemon, "?client=demo&id=crm-1");
    let mut all = Listener::to(&daemon, "");
    daemon.mbox("demo", "mbox=home&mboxPC=8&profile.n=1");
    daemon.mbox("demo", "mbox=home&mboxPC=7.28_0&profile.n=2");
    daemon.mbox("other", "mbox=home&mbox3rdPartyId=crm-1&profile.n=3");
    daemon.mbox("demo", "mbox=home&mboxPC=9&mbox3rdPartyId=crm-1&profile.n=4");
    daemon.mbox("demo", "mbox=home&mboxPC=9&profile.n=5");
    let numbers = |listener: &mut Listener, count: usize| -> Vec<String> {
        (0..count).map(|_| listener.call()["set"]["n"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(numbers(&mut all, 5), ["1", "2", "3", "4", "5"]);
    assert_eq!(numbers(&mut one, 3), ["2", "4", "5"]);
}

#[test]
fn it_comes_as_events_as_text_and_as_rows_of_a_page_and_ends_when_asked() {
    let daemon = Daemon::start();
    let listen = |path: &str, accept: &str| Listener::of(&daemon, path, &[("Accept", accept)]);
    let mut events = listen("/api/v1/live", "text/event-stream");
    let mut text = listen("/api/v1/live", "text/plain");
    let mut rows = listen("/live/rows", "text/event-stream");
    assert_eq!(
        (events.line("event:"), events.line("data:")),
        ("event: listening".into(), "data: {\"event\":\"listening\"}".into())
    );
    text.line("Listening.");
    assert_eq!(rows.line("event:"), "event: listening");
    // A line end in a value is none of the stream's.
    daemon.mbox("demo", "mbox=home&mboxPC=1&profile.a=%3Cb%3E%0D%0Aevent:%20x%0Devent:%20y");
    assert_eq!(events.line("event:"), "event: call");
    let told: Value = serde_json::from_str(events.line("data: ").strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(told["set"]["a"], "<b>\r\nevent: x\revent: y");
    let line = text.line("20");
    assert!(line.contains("  mbox  200 in ") && line.contains("  pcId=1  mbox home  set a=<b>"), "{line}");
    assert_eq!(rows.line("event:"), "event: call");
    assert_eq!(rows.line("data: "), "data: <tr role=\"row\" class=\"taken\">");
    assert!(
        rows.line("data: <td role=\"cell\" class=\"whom\">")
            .contains("/visitors?client=demo&amp;by=pc&amp;id=1")
    );
    let value = rows.line("data: <dl>");
    assert!(value.contains("&#60;b&#62;&#13;"), "{value}");
    assert_eq!(
        rows.line(""),
        "data: event: x&#13;event: y</dd></div><div><dt>client</dt><dd>demo</dd></div><div><dt>pcId</dt><dd>1</dd></div>"
    );

    let ended = daemon.get("/api/v1/live?seconds=1");
    assert_eq!((ended.status, ended.text().as_str()), (200, "{\"event\":\"listening\"}\n"));
    let wrong = daemon.get("/api/v1/live?seconds=0");
    assert_eq!((wrong.status, wrong.json()["message"].as_str().unwrap().contains("1 to 86400")), (400, true));
}

/// It shows values of every visitor.
#[test]
fn only_an_admin_listens_and_only_to_its_own_client() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let admin = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    let reader = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    let of_all = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/").status == 401).then_some(()));
    let bearer = |token: &str| format!("Bearer {token}");
    let status = |path: &str, header: (&str, &str)| daemon.call("GET", path, &[header, OWN], None).status;
    let (admin, reader, of_all) = (bearer(&admin), bearer(&reader), bearer(&of_all));
    for path in ["/api/v1/live?seconds=1", "/live/rows?seconds=1", "/live/lines?seconds=1"] {
        assert_eq!(daemon.get(path).status, 401, "{path}");
        assert_eq!(status(path, ("Authorization", &reader)), 403, "{path}");
        assert_eq!(status(&format!("{path}&client=other"), ("Authorization", &admin)), 403, "{path}");
        assert_eq!(status(path, ("Authorization", &admin)), 200, "{path}");
    }
    let cookie = admin.replace("Bearer ", "profiled-session=");
    assert_eq!(status("/live/rows?seconds=1", ("Cookie", &cookie)), 200);
    assert_eq!(status("/api/v1/live?seconds=1", ("Cookie", &cookie)), 401);
    let page = |token: &str| daemon.call("GET", "/live", &[("Authorization", token)], None).text();
    assert!(page(&admin).contains("data-rows=\"/live/rows?client=demo\""), "{}", page(&admin));
    assert!(page(&reader).contains("takes a token of scope admin") && !page(&reader).contains("data-rows"));

    let listen = |token: &str| {
        let mut listener = Listener::of(&daemon, "/api/v1/live", &[("Authorization", token)]);
        listener.next();
        listener
    };
    let (mut one, mut all) = (listen(&admin), listen(&of_all));
    daemon.mbox("other", "mbox=m&mboxPC=1");
    daemon.mbox("demo", "mbox=m&mboxPC=2");
    let file: Option<&[u8]> = Some(b"batch=pcId,a\n1,2\n");
    daemon.call("POST", "/m2/demo/profile/batchUpdate", &[("Authorization", "Bearer wrong")], file);
    assert_eq!(one.call()["ids"][0]["id"], "2");
    let refused = one.call();
    assert_eq!((&refused["status"], &refused["client"]), (&json!(403), &json!("demo")));
    assert!(!refused.to_string().contains("wrong"), "no token is told: {refused}");
    assert_eq!(all.call()["client"], "other");
}

#[test]
fn the_command_prints_what_the_call_answers() {
    let daemon = Daemon::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_profiled"));
    command.args(["live", "--client", "demo", "--id", "crm-1"]).env_clear().env("PROFILED_URL", daemon.url());
    let mut listens = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(listens.stdout.take().unwrap()).lines();
    // An empty line says that nothing happened.
    let mut next = || lines.by_ref().map(Result::unwrap).find(|line| !line.is_empty()).unwrap();
    assert!(next().starts_with("Listening."));
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-2&profile.a=1");
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1&profile.a=2");
    let line = next();
    assert!(
        line.contains("  client demo  thirdPartyId=crm-1 ") && line.contains("  set a=2  seq "),
        "{line}"
    );
    listens.kill().unwrap();
    listens.wait().unwrap();
    let (code, printed, _) = daemon.run(&["live", "--seconds", "1", "--json"]);
    assert_eq!((code, printed.as_str()), (Some(0), "{\"event\":\"listening\"}\n"));
    let (code, _, complaint) = daemon.run(&["live", "--seconds", "0"]);
    assert!(code == Some(1) && complaint.contains("seconds=0 is not right"), "{complaint}");
}

/// Each visitor of a file of ids is told as one that was erased by itself, and the call is told, too, whenever its answer begins.
#[test]
fn each_visitor_that_a_file_erases_is_told() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=before&mbox3rdPartyId=crm-1");
    let mut listener = Listener::to(&daemon, "?client=demo");
    let path = "/api/v1/erasures";
    let answer =
        daemon.call("POST", &format!("{path}?client=demo"), &[], Some(b"thirdPartyId\ncrm-1\nnobody\n"));
    let receipt: Value = serde_json::from_str(answer.text().lines().next().unwrap()).unwrap();
    let mut told: Vec<Value> = (0..3).map(|_| listener.call()).collect();
    told.sort_by_key(|call| call["ids"][0]["id"].as_str().unwrap_or_default().to_owned());
    let of = |name: &str, outcome: &str, seq: &Value| {
        heard(
            "erasures",
            "POST",
            path,
            200,
            json!({"ids": [id("thirdPartyId", name)], "outcome": outcome, "seq": seq}),
        )
    };
    assert_eq!(told[0], heard("erasures", "POST", path, 200, json!({})));
    assert_eq!(told[1..], [of("crm-1", "erased", &receipt["seq"]), of("nobody", "not_found", &Value::Null)]);
}
