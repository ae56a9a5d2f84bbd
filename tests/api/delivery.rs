//! The Delivery API on the real daemon: recorded requests of Adobe's SDKs, every refusal, and who the visitor is.

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use crate::support::{Daemon, Reply, chunked, encoded, request, wait_for};
use serde_json::{Value, json};

const PATH: &str = "/rest/v1/delivery?client=demo&sessionId=s";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const SETTINGS: &str = "[clients.demo]\nims_orgs = ['TESTORG@AdobeOrg']\n";
const ILLEGAL_SESSION: &str =
    "sessionId holds ' ': it has 1 to 128 characters, none of them a space, ?, /, { or }";

fn post(daemon: &Daemon, path: &str, body: &str) -> Reply {
    daemon.call("POST", path, &[JSON], Some(body.as_bytes()))
}

/// A call that must be accepted.
fn delivered(daemon: &Daemon, body: &Value) -> Value {
    let reply = post(daemon, PATH, &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The requests of a file in `tests/api/wire`.
fn wire(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/wire").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends a recorded request, with another host and length.
fn replay(daemon: &Daemon, sent: &Value) -> Reply {
    let query = sent["query"].as_object().unwrap().iter();
    let query: Vec<_> =
        query.map(|(name, value)| format!("{name}={}", encoded(value.as_str().unwrap()))).collect();
    let path = format!("{}?{}", sent["path"].as_str().unwrap(), query.join("&"));
    let headers = sent["headers"].as_object().unwrap().iter();
    let headers: Vec<(&str, &str)> = headers
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .filter(|(name, _)| !["host", "content-length"].contains(&name.to_ascii_lowercase().as_str()))
        .collect();
    let body = sent["body"].to_string();
    daemon.call(sent["method"].as_str().unwrap(), &path, &headers, Some(body.as_bytes()))
}

/// What the SDKs read of an answer to `body`. The answer may have nothing else.
fn expected(body: &Value) -> Value {
    let nothing = || json!({ "options": [] });
    let list = |asked: &Value, content: fn(&Value) -> Value| {
        asked.as_array().map(|asked| asked.iter().map(content).collect::<Value>())
    };
    let mbox = |asked: &Value| json!({ "index": asked["index"], "name": asked["name"], "options": [] });
    let mut answer = json!({
        "status": 200, "requestId": body["requestId"], "client": "demo", "id": body["id"],
    });
    let tnt_id = body["id"]["tntId"].as_str().unwrap();
    answer["id"].as_object_mut().unwrap().remove("customerIds");
    answer["id"]["tntId"] = tnt_id.split('.').next().unwrap().into();
    for part in ["execute", "prefetch"] {
        let Some(asked) = body.get(part) else { continue };
        answer[part] = json!({});
        if asked.get("pageLoad").is_some() {
            answer[part]["pageLoad"] = nothing();
        }
        if let Some(mboxes) = list(&asked["mboxes"], mbox) {
            answer[part]["mboxes"] = mboxes;
        }
        if asked.get("views").is_some() {
            // None of the views sent has a name, so all there are were asked for, and there are none.
            answer[part]["views"] = json!([]);
        }
    }
    if let Some(notified) = list(&body["notifications"], |asked| json!({ "id": asked["id"] })) {
        answer["notifications"] = notified;
    }
    answer
}

/// A visitor's attributes. Delivery calls must have set all of them.
fn attributes(visitor: &Value) -> Value {
    let attributes = visitor["attributes"].as_object().unwrap();
    assert!(attributes.values().all(|it| it["source"] == "delivery"), "{visitor:#}");
    attributes.iter().map(|(name, it)| (name.clone(), it["value"].clone())).collect()
}

#[test]
fn what_adobes_sdks_send_is_taken_and_ends_in_the_profiles() {
    let daemon = Daemon::start_configured(SETTINGS);
    let (mut taken, mut refused, mut beacons) = (0, 0, 0);
    for file in ["jsdom.jsonl", "node.jsonl", "python.jsonl"] {
        for (line, sent) in (1..).zip(wire(file)) {
            let reply = replay(&daemon, &sent);
            let at = format!("{file}:{line}: {}", reply.text());
            let origin = sent["headers"]["Origin"].as_str().unwrap_or("*");
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin), "{at}");
            if sent["path"] != "/rest/v1/delivery" {
                assert_eq!(reply.status / 100, 2, "{at}");
            } else if sent["query"]["sessionId"] == "bad id?" {
                assert_eq!(reply.status, 400, "{at}");
                assert_eq!(reply.json(), json!({ "status": 400, "message": ILLEGAL_SESSION }), "{at}");
                refused += 1;
            } else if sent["body"]["context"]["beacon"] == true {
                assert_eq!((reply.status, reply.body.len()), (204, 0), "{at}");
                beacons += 1;
            } else {
                assert_eq!(reply.status, 200, "{at}");
                // No edgeHost: the SDKs would leave 127.0.0.1 for mboxedge127.tt.omtrdc.net.
                assert_eq!(reply.json(), expected(&sent["body"]), "{at}");
                taken += 1;
            }
        }
    }
    println!(
        "{taken} calls taken, {beacons} beacons taken, {refused} calls with an illegal sessionId refused"
    );

    let shown = |by: &str, id: &str| {
        let visitor = daemon.visitor("demo", by, id).unwrap();
        println!("\n{by} {id}: {visitor:#}");
        visitor
    };
    let sdk = json!({
        "pl": "1", "plan": "free", "city": "Zürich & co", "vw": "1", "pfpl": "1", "pf": "x", "clicked": "yes",
    });
    for (third_party, pc, expected) in [
        ("tpjs", "e".repeat(32), json!({ "br": "1", "nb": "1" })),
        ("tp2", "c".repeat(32), sdk.clone()),
        ("tp1", "a".repeat(32), sdk),
    ] {
        let visitor = shown("third-party", third_party);
        assert_eq!(attributes(&visitor), expected);
        assert_eq!((&visitor["thirdPartyId"], &visitor["pcIds"]), (&json!(third_party), &json!([pc])));
        assert_eq!(daemon.visitor("demo", "pc", &pc), Some(visitor));
    }
    let hinted = shown("pc", &"b".repeat(32));
    assert_eq!((&attributes(&hinted), &hinted["thirdPartyId"]), (&json!({}), &Value::Null));
}

#[test]
fn an_illegal_call_is_refused_with_the_reason() {
    let daemon = Daemon::start_configured(SETTINGS);
    let check = |path: &str, body: &str, status: u16, message: &str| {
        let reply = post(&daemon, path, body);
        assert_eq!(reply.json(), json!({ "status": status, "message": message }), "{path} {body}");
        assert_eq!(reply.status, status);
    };
    let query = |query: &str| format!("/rest/v1/delivery?{query}");
    check(
        &query("sessionId=s"),
        "{}",
        400,
        "client= and imsOrgId= are missing, and no default client is configured",
    );
    check(
        &query("sessionId=s&imsOrgId=OTHER@AdobeOrg"),
        "{}",
        400,
        "imsOrgId=\"OTHER@AdobeOrg\" belongs to no client, and no default client is configured: \
         name it in ims_orgs under [clients.NAME], or add client=… to the query",
    );
    check(&query("sessionId=s&client=nobody"), "{}", 404, "there is no client nobody");
    check(&query("sessionId=s&client=a%26b"), "{}", 400, "\"a&b\" is not a client code: '&' is not allowed");
    let rule = "it has 1 to 128 characters, none of them a space, ?, /, { or }";
    check(&query("client=demo"), "{}", 400, &format!("sessionId is missing: {rule}"));
    check(&query("client=demo&sessionId="), "{}", 400, &format!("sessionId is missing: {rule}"));
    check(&query("client=demo&sessionId=a+b"), "{}", 400, ILLEGAL_SESSION);
    check(&query("client=demo&sessionId=a%7Bb"), "{}", 400, &format!("sessionId holds '{{': {rule}"));
    let long = query(&format!("client=demo&sessionId={}", "x".repeat(129)));
    check(&long, "{}", 400, &format!("sessionId is too long: {rule}"));

    check(PATH, "", 400, "the body is not JSON: EOF while parsing a value at line 1 column 0");
    check(PATH, "[1]", 400, "the body: invalid type: sequence, expected an object");
    check(
        PATH,
        r#"{"id":{"tntId":true}}"#,
        400,
        "id.tntId: invalid type: boolean `true`, expected a string, or an integer",
    );
    check(
        PATH,
        r#"{"id":{"tntId":"a.b.c"}}"#,
        400,
        "id.tntId: \"a.b.c\" is not a pcId: a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"",
    );
    check(
        PATH,
        r#"{"id":{"tntId":"a","thirdPartyId":"a+b"}}"#,
        400,
        "id.thirdPartyId: \"a+b\" is not a thirdPartyId: '+' is not allowed",
    );
    check(
        PATH,
        r#"{"id":{"tntId":"a"},"prefetch":{"mboxes":[{"name":"m"},{"name":"n","profileParameters":{"n":1}}]}}"#,
        400,
        "prefetch.mboxes[1].profileParameters.n: a value must be a string: send \"1\", with the quotes",
    );
    check(
        PATH,
        r#"{"id":{"tntId":"a"},"notifications":[{"id":"n","profileParameters":{"ok":"1","profile.x":"1"}}]}"#,
        400,
        "Notification not taken: notifications[0].profileParameters: \"profile.x\" must be written without \"profile.\"",
    );
    check(
        PATH,
        r#"{"id":{"tntId":"a"},"execute":{"pageLoad":{"parameters":{"":1},"profileParameters":{"":"1"}}}}"#,
        400,
        "execute.pageLoad.profileParameters: a parameter's name is blank",
    );
    let endless = post(&daemon, PATH, &json!({ "id": { "tntId": "x".repeat(100_000) } }).to_string());
    assert_eq!((endless.status, endless.text().chars().count() < 500), (400, true));
    assert_eq!(daemon.visitor("demo", "pc", "a"), None, "a refused call leaves no trace");

    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat((1 << 20) + 1));
    let long = "the string that begins at byte 6 of the body has more than 1048576 bytes: send shorter ones";
    check(PATH, &large, 413, long);
    let reply = daemon.get(PATH);
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
}

#[test]
fn a_body_is_json_whatever_a_beacon_calls_it() {
    let daemon = Daemon::start();
    let body = |value: &str| {
        let page_load = json!({ "profileParameters": { "a": value } });
        let call = json!({
            "id": { "tntId": "7" }, "context": { "beacon": true }, "execute": { "pageLoad": page_load },
        });
        call.to_string()
    };
    let types: [&[(&str, &str)]; 4] = [
        &[JSON],
        &[("Content-Type", "application/json; charset=utf-8")],
        &[("Content-Type", "text/plain;charset=UTF-8")],
        &[],
    ];
    for (value, headers) in ["1", "2", "3", "4"].into_iter().zip(types) {
        let reply = daemon.call("POST", PATH, headers, Some(body(value).as_bytes()));
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{headers:?}");
        assert_eq!(daemon.value("demo", "pc", "7", "a").as_deref(), Some(value), "{headers:?}");
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let reply = daemon.call("POST", PATH, &form, Some(body("5").as_bytes()));
    assert_eq!(
        reply.json(),
        json!({
            "status": 415,
            "message": "Content-Type \"application/x-www-form-urlencoded\" is not taken here: \
                send the call as JSON, uncompressed, with Content-Type: application/json",
        })
    );
    assert_eq!(daemon.value("demo", "pc", "7", "a").as_deref(), Some("4"));
}

#[test]
fn a_page_of_another_origin_may_call() {
    let daemon = Daemon::start();
    let asks = [
        ("Origin", "http://shop.test"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-exc-sdk,x-exc-sdk-version,x-request-id"),
    ];
    let reply = daemon.call("OPTIONS", PATH, &asks, None);
    let header = |name| reply.header(name).unwrap_or_default();
    assert_eq!((reply.status, header("access-control-allow-origin")), (204, "http://shop.test"));
    assert_eq!(header("access-control-allow-credentials"), "true");
    assert_eq!(header("access-control-allow-methods"), "POST");
    assert!(header("access-control-allow-headers").contains("X-EXC-SDK-Version"));
}

#[test]
fn the_client_is_the_one_named_else_the_organisations_else_the_default() {
    let check = |daemon: &Daemon, query: &str, client: &str| {
        let reply = post(daemon, &format!("/rest/v1/delivery?sessionId=s&{query}"), "{}");
        assert_eq!(reply.json()["client"], client, "{query}: {}", reply.text());
    };
    let settings = "default_client = 'other'\n[clients.other]\n".to_owned() + SETTINGS;
    let daemon = Daemon::start_configured(&settings);
    check(&daemon, "imsOrgId=TESTORG@AdobeOrg", "demo");
    check(&daemon, "imsOrgId=TESTORG%40AdobeOrg", "demo");
    check(&daemon, "imsOrgId=TESTORG@AdobeOrg&client=other", "other");
    check(&daemon, "imsOrgId=OTHER@AdobeOrg", "other");
    check(&daemon, "", "other");
    let unconfigured = Daemon::start();
    check(&unconfigured, "imsOrgId=TESTORG@AdobeOrg&client=any", "any");
}

/// Each case names its source, the visitor's `tntId`, and `id` in the answer.
#[test]
fn every_visitor_has_a_tnt_id_that_is_the_same_the_next_time() {
    let mut daemon = Daemon::start();
    let call = |daemon: &Daemon, id: Value, name: &str| {
        let page_load = json!({ "profileParameters": { name: "1" } });
        delivered(daemon, &json!({ "id": id, "execute": { "pageLoad": page_load } }))["id"].clone()
    };
    let tnt_id = |daemon: &Daemon, id: Value| call(daemon, id, "x")["tntId"].as_str().unwrap().to_owned();

    // identifying-visitors.md, "No Visitor ID": a new id is made each time.
    let new = tnt_id(&daemon, Value::Null);
    assert_eq!(new.len(), 32);
    assert_eq!(daemon.value("demo", "pc", &new, "x").as_deref(), Some("1"));
    assert_ne!(tnt_id(&daemon, json!({ "tntId": "", "thirdPartyId": "" })), new);

    // The same page, "Marketing Cloud Visitor ID" and "Third Party ID": "Target generates a tntId … which will be mapped
    // to" it. aepsdk-target-ios, TargetDeliveryResponse.swift: `id as? [String: String]`.
    for (kind, by) in [("marketingCloudVisitorId", "ecid"), ("thirdPartyId", "third-party")] {
        let id = json!({ kind: "V" });
        let first = call(&daemon, id.clone(), "first");
        let made = first["tntId"].as_str().unwrap().to_owned();
        assert_eq!(first, json!({ kind: "V", "tntId": made }), "{kind}");
        assert_eq!(made.len(), 32);
        daemon.kill9().restart();
        for _ in 0..3 {
            assert_eq!(call(&daemon, id.clone(), "next"), first, "{kind}");
        }
        let visitor = daemon.visitor("demo", by, "V").unwrap();
        assert_eq!(visitor["attributes"].as_object().unwrap().len(), 2, "{visitor:#}");
        assert_eq!(visitor["pcIds"], json!([made]));
        assert_eq!(daemon.visitor("demo", "pc", &made), Some(visitor));
        // Adobe's fetch call finds it by either id, and a batch may name it.
        let batch = daemon.post_batch("demo", format!("batch=pcId,b\n{made},{by}\n"));
        assert_eq!(daemon.wait_complete(&batch).successful, 1);
        assert_eq!(daemon.value("demo", by, "V", "b").as_deref(), Some(by));
        // The client sends back the id that it got.
        assert_eq!(call(&daemon, json!({ kind: "V", "tntId": made }), "next"), first);
    }
    let by_ecid = tnt_id(&daemon, json!({ "marketingCloudVisitorId": "V" }));
    assert_ne!(by_ecid, tnt_id(&daemon, json!({ "thirdPartyId": "V" })));

    // A login: the ECID's visitor becomes the thirdPartyId's, and its tntId stays.
    let login = json!({ "marketingCloudVisitorId": "V", "thirdPartyId": "marie" });
    assert_eq!(tnt_id(&daemon, login), by_ecid);
    for (by, id) in [("third-party", "marie"), ("ecid", "V"), ("pc", &by_ecid)] {
        assert_eq!(daemon.value("demo", by, id, "first").as_deref(), Some("1"), "{by}");
    }

    // An ECID that came with a pcId is that device, also where the visitor has others.
    assert_eq!(tnt_id(&daemon, json!({ "marketingCloudVisitorId": "E", "tntId": "1.28_0" })), "1");
    for pc in ["1", "2"] {
        tnt_id(&daemon, json!({ "tntId": pc, "thirdPartyId": "both" }));
    }
    assert_eq!(tnt_id(&daemon, json!({ "marketingCloudVisitorId": "E" })), "1");

    // A device gets a tntId in one visitor's call and then logs in as another visitor. The first visitor's next call makes a new
    // tntId, and takes nothing from the second visitor.
    let handed = tnt_id(&daemon, json!({ "thirdPartyId": "paul" }));
    call(&daemon, json!({ "tntId": handed, "thirdPartyId": "anna" }), "hers");
    let again = tnt_id(&daemon, json!({ "thirdPartyId": "paul" }));
    assert_ne!(again, handed);
    assert_eq!(tnt_id(&daemon, json!({ "thirdPartyId": "paul" })), again);
    assert_eq!(daemon.visitor("demo", "pc", &handed).unwrap()["thirdPartyId"], "anna");
    assert_eq!(daemon.value("demo", "pc", &again, "hers"), None);

    // An erasure removes it, too.
    let erased = daemon.call("DELETE", "/api/v1/profiles/V?by=ecid&client=demo", &[], None);
    assert_eq!(erased.status / 100, 2, "{}", erased.text());
    assert_eq!(daemon.visitor("demo", "pc", &by_ecid), None);

    // Adobe's mobile extension for iOS ignores the whole `id` if any value in it is not a string.
    let customer =
        json!([{ "id": "c", "integrationCode": "crm", "authenticatedState": "authenticated", "x": 1 }]);
    assert_eq!(call(&daemon, json!({ "tntId": "1", "customerIds": customer }), "x"), json!({ "tntId": "1" }));
    assert_eq!(call(&daemon, json!({ "tntId": "1", "customerIds": 5 }), "x"), json!({ "tntId": "1" }));
}

/// A thirdPartyId alone once made a pcId at each call, and the 256th pushed a real device off the list.
#[test]
fn calls_without_a_pc_id_push_no_device_off_the_list() {
    let daemon = Daemon::start();
    delivered(&daemon, &json!({ "id": { "tntId": "phone", "thirdPartyId": "marie" } }));
    for _ in 0..300 {
        delivered(&daemon, &json!({ "id": { "thirdPartyId": "marie" } }));
    }
    let listed = daemon.visitor("demo", "pc", "phone").unwrap()["pcIds"].as_array().unwrap().len();
    assert_eq!(listed, 2);
}

#[test]
fn profile_parameters_are_merged_and_the_later_wins_whatever_the_texts_order() {
    let daemon = Daemon::start();
    let body = r#"{"id":{"tntId":"7"},
        "notifications":[{"id":"n","type":"click","timestamp":1,"profileParameters":{"a":"notification","d":"n","e":""}}],
        "prefetch":{"mboxes":[{"index":5,"name":"p","profileParameters":{"b":"prefetch"}}],
            "views":[{"name":"home","key":"k"},{"key":"only"}]},
        "execute":{"mboxes":[{"name":"m","parameters":{"no":"1"},"profileParameters":{"a":"execute","b":"execute"}},
            {"name":"m","profileParameters":{"c":"1","c":"2","e":"kept"}}]}}"#;
    let reply = post(&daemon, PATH, body);
    let mut answer = reply.json();
    let made = answer["requestId"].take();
    assert_eq!(made.as_str().unwrap().len(), 32);
    assert_eq!(
        answer,
        json!({
            "status": 200, "requestId": null, "client": "demo", "id": { "tntId": "7" },
            "execute": { "mboxes": [
                { "index": 0, "name": "m", "options": [] }, { "index": 1, "name": "m", "options": [] },
            ] },
            "prefetch": {
                "mboxes": [{ "index": 5, "name": "p", "options": [] }],
                "views": [{ "name": "home", "key": "k", "options": [] }],
            },
            "notifications": [{ "id": "n" }],
        })
    );
    let visitor = daemon.visitor("demo", "pc", "7").unwrap();
    assert_eq!(
        attributes(&visitor),
        json!({ "a": "notification", "b": "prefetch", "c": "2", "d": "n", "e": "kept" })
    );
}

#[test]
fn the_host_is_named_where_the_sdks_come_back_to_it() {
    let daemon = Daemon::start();
    let check = |host: &str, expected: Option<&str>| {
        let reply = daemon.send(&request("POST", PATH, host, &[JSON], Some(b"{}")));
        assert_eq!(reply.json().get("edgeHost").and_then(Value::as_str), expected, "{host}");
    };
    check("localhost:8750", Some("localhost:8750"));
    check("profiles.example.com", Some("profiles.example.com"));
    check("127.0.0.1:8750", None);
    check("eu.profiles.example.com", None);
}

/// Callers in JavaScript may have a CRM's ids as numbers (a public caller sends `thirdPartyId: 2047337005`).
#[test]
fn an_id_may_be_a_number_and_comes_back_as_a_string() {
    let daemon = Daemon::start();
    let long = "9007199254740993123";
    let calls = [
        ("/rest/v1/delivery?client=demo&sessionId=s", r#"{"id":IDS}"#),
        ("/rest/v2/batchmbox?client=demo", r#"{"id":IDS}"#),
        ("/rest/v1/mbox/s?client=demo", r#"{"mbox":"m","tntId":2047337005,"thirdPartyId":LONG}"#),
    ];
    for (path, body) in calls {
        let ids = r#"{"tntId":2047337005,"thirdPartyId":LONG,"customerIds":[{"id":7,"integrationCode":8}]}"#;
        let reply = post(&daemon, path, &body.replace("IDS", ids).replace("LONG", long));
        let reported = reply.json();
        let id = reported.get("id").unwrap_or(&reported);
        assert_eq!(
            (&id["tntId"], &id["thirdPartyId"]),
            (&json!("2047337005"), &json!(long)),
            "{path} {reported}"
        );
        let visitor = daemon.visitor("demo", "third-party", long).unwrap();
        assert_eq!(visitor["pcIds"], json!(["2047337005"]), "{path}");
    }
    let refused = post(&daemon, calls[0].0, r#"{"id":{"thirdPartyId":1.36732E+12}}"#);
    let why = "id.thirdPartyId: 1367320000000 is a number with a point or an exponent, or of more than 64 bits, which may have lost digits: \
               send the id as a string";
    assert_eq!(refused.json(), json!({ "status": 400, "message": why }));
}

/// The older calls in JSON. Each case names its source, the answer, and the profile after it.
#[test]
fn the_older_calls_in_json_are_taken_and_end_in_the_profiles() {
    let daemon = Daemon::start_configured(&format!("default_client = 'demo'\n[clients.other]\n{SETTINGS}"));
    // The values that differ each time are left out of the answer.
    let check = |from: &str, path: &str, body: &str, expected: Value, by: &str, id: &str, profile: Value| {
        // Adobe's sample in integrating-recs-email.md has a token that is not one of ours.
        let headers = [JSON, ("Authorization", "Bearer theirs")];
        let reply = daemon.send(&request("POST", path, "localhost:8750", &headers, Some(body.as_bytes())));
        assert_eq!(reply.status, 200, "{from}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{from}");
        let mut answer = reply.json();
        for made in ["requestId", "sessionId"] {
            if expected.get(made).is_none()
                && let Some(made) = answer.as_object_mut().unwrap().remove(made)
            {
                assert_eq!(made.as_str().unwrap().len(), 32, "{from}");
            }
        }
        let made = answer["tntId"].as_str().or(answer["id"]["tntId"].as_str()).unwrap().to_owned();
        let expected: Value = serde_json::from_str(&expected.to_string().replace("MADE", &made)).unwrap();
        assert_eq!(answer, expected, "{from}");
        let client = expected["client"].as_str().unwrap_or("demo");
        let id = if id == "MADE" { &made } else { id };
        let visitor = daemon.visitor(client, by, id).unwrap();
        let attributes = visitor["attributes"].as_object().unwrap();
        assert!(attributes.values().all(|it| it["source"] == "mbox"), "{from}: {visitor:#}");
        let values: Value = attributes.iter().map(|(name, it)| (name.clone(), it["value"].clone())).collect();
        assert_eq!(values, profile, "{from}");
    };
    let edge = "localhost:8750";

    check(
        "AdobeDocs/analytics-1.4-apis serverside_delivery.md, the full example",
        "/rest/v1/mbox/my-session-id?client=demo",
        r#"{"mbox":"orderConfirmPage","clicked":true,"tntId":"12121212.17_01",
            "order":{"total":123.99,"id":"123","purchasedProductIds":[12,13,15,"someProductId"]},
            "profileParameters":{"param1":"value1","param2":" value2 "},
            "mboxParameters":{"screenHeight":"800","browserWidth":"600"},
            "requestLocation":{"pageURL":"http://demo/demo/store/","referrerURL":"http://demo/demo/store/",
                "ipAddress":"128.10.10.1","impressionId":"15989","host":"hostname"},"mboxTrace":true}"#,
        json!({ "tntId": "12121212", "edgeHost": edge, "content": "", "sessionId": "my-session-id" }),
        "pc",
        "12121212",
        json!({ "param1": "value1", "param2": "value2" }),
    );
    check(
        "target.en integrating-recs-email.md, Method 1: no session id",
        "/rest/v1/mbox/?client=demo",
        r#"{"mbox":"m","thirdPartyId":"2047337005","profileParameters":{"a":"1"},"contentAsJson":true}"#,
        json!({ "tntId": "MADE", "thirdPartyId": "2047337005", "edgeHost": edge, "content": "" }),
        "third-party",
        "2047337005",
        json!({ "a": "1" }),
    );
    check(
        "public storefront code: no session id and no slash",
        "/rest/v1/mbox?client=demo",
        r#"{"mbox":"m","marketingCloudVisitorId":"38","profileParameters":{"b":"2"}}"#,
        json!({ "tntId": "MADE", "marketingCloudVisitorId": "38", "edgeHost": edge, "content": "" }),
        "ecid",
        "38",
        json!({ "b": "2" }),
    );
    check(
        "npm @adobe/target-node-client 0.8.3, lib/index.js: a first visit",
        "/rest/v1/mbox/6a2f41a3-c54c-4b4c-8b1e-0d8e0e0e0e0e/?client=demo",
        r#"{"requestLocation":{"host":"h","pageURL":"http://h/","referrerURL":null},"mbox":"m","profileParameters":{"c":"3"}}"#,
        json!({ "tntId": "MADE", "edgeHost": edge, "content": "", "sessionId": "6a2f41a3-c54c-4b4c-8b1e-0d8e0e0e0e0e" }),
        "pc",
        "MADE",
        json!({ "c": "3" }),
    );
    check(
        "developers.adobetarget.com, Server Side Batch Delivery 1: the client in the body alone",
        "/rest/v2/batchmbox/",
        r#"{"client":"other","id":{"tntId":"123456789"},
            "mboxes":[{"indexId":0,"mbox":"batch-req-1"},{"indexId":1,"mbox":"batch-req-2"}]}"#,
        json!({ "client": "other", "id": { "tntId": "123456789" }, "edgeHost": edge, "contentAsJson": false,
            "mboxResponses": [{ "indexId": 0, "mbox": "batch-req-1", "content": "" },
                { "indexId": 1, "mbox": "batch-req-2", "content": "" }] }),
        "pc",
        "123456789",
        json!({}),
    );
    check(
        "the same page, 3: all inputs; the query names the client before the body does",
        "/rest/v2/batchmbox?client=demo&sessionId=s",
        r#"{"client":"other","id":{"tntId":"77.28_51","thirdPartyId":"32jh4jk23h4kj2",
            "marketingCloudVisitorId":"92387492387543875638","customerIds":[{"id":"32jh4jk23h4kj2",
            "integrationCode":"userid","authenticatedState":"authenticated"}]},"aamParameters":{"blob":"32f",
            "uuid":"82394234238798437","dcsLocationHint":9,"dataPartnerId":86567576,"dataPartnerUserId":348382232423424},
            "contentAsJson":true,"profileParameters":{"age":"18"},
            "prefetch":[{"indexId":0,"mbox":"batch-req-1","parameters":{"T_GHY":"7563"},
                "order":{"id":"343","total":125.34,"purchasedProductIds":["762"]}}],
            "mboxes":[{"indexId":0,"mbox":"batch-req-2"}],
            "notifications":[{"timestamp":1485216216,"mbox":"batch-req-3","parameters":{"ad":"1"},"eventTokens":["t"]},5],
            "mboxOverride":{"ip":"184.58.98.74","time":123654735,"visitorPercentage":78.54}}"#,
        json!({ "client": "demo", "edgeHost": edge, "contentAsJson": true,
            "id": { "tntId": "77", "thirdPartyId": "32jh4jk23h4kj2",
                "marketingCloudVisitorId": "92387492387543875638" },
            "mboxResponses": [{ "indexId": 0, "mbox": "batch-req-2", "content": "" }],
            "prefetchResponses": [{ "indexId": 0, "mbox": "batch-req-1", "content": "" }] }),
        "third-party",
        "32jh4jk23h4kj2",
        json!({ "age": "18" }),
    );
    check(
        "com.adobe.mobile:adobeMobileLibrary:4.18.2, TargetJsonBuilder: a first launch, the client the organisation's",
        "/rest/v2/batchmbox?imsOrgId=TESTORG@AdobeOrg",
        r#"{"contentAsJson":false,"profileParameters":{"tier":"gold"},"mboxes":[{"indexId":0,"mbox":"home",
            "parameters":{"a.AppID":"x"},"order":{"id":"1","total":9.5,"purchasedProductIds":["a"]}}]}"#,
        json!({ "client": "demo", "id": { "tntId": "MADE" }, "edgeHost": edge, "contentAsJson": false,
            "mboxResponses": [{ "indexId": 0, "mbox": "home", "content": "" }] }),
        "pc",
        "MADE",
        json!({ "tier": "gold" }),
    );

    // A blocked id counts as not sent, and the answer says so.
    let nobody = r#"{"mbox":"m","id":{"thirdPartyId":"undefined"},"thirdPartyId":"undefined"}"#;
    for path in ["/rest/v1/mbox/s", "/rest/v2/batchmbox"] {
        let reply = post(&daemon, path, nobody);
        let reported = Some("1 id that stands for nobody (blocked_ids)");
        assert_eq!((reply.status, reply.header("profiled-left-out")), (200, reported), "{path}");
        assert!(!reply.text().contains("undefined"), "{path}: {}", reply.text());
        // Browsers call them, too.
        let asks = [("Origin", "http://shop.test"), ("Access-Control-Request-Method", "POST")];
        let reply = daemon.call("OPTIONS", path, &asks, None);
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (204, Some("http://shop.test")),
            "{path}"
        );
    }
}

#[test]
fn an_illegal_older_call_in_json_is_refused_with_the_reason() {
    let daemon = Daemon::start_configured(SETTINGS);
    let check = |path: &str, body: &str, status: u16, message: &str| {
        let reply = post(&daemon, path, body);
        assert_eq!(reply.json(), json!({ "status": status, "message": message }), "{path} {body}");
        assert_eq!(reply.status, status);
    };
    let (mbox, batch) = ("/rest/v1/mbox/s?client=demo", "/rest/v2/batchmbox?client=demo");
    let no_client = "client= and imsOrgId= are missing, and no default client is configured";
    check("/rest/v1/mbox/s", r#"{"mbox":"m"}"#, 400, no_client);
    check("/rest/v2/batchmbox", "{}", 400, no_client);
    check("/rest/v2/batchmbox", r#"{"client":"nobody"}"#, 404, "there is no client nobody");
    check("/rest/v1/mbox/a%20b?client=demo", r#"{"mbox":"m"}"#, 400, ILLEGAL_SESSION);
    check("/rest/v2/batchmbox?client=demo&sessionId=a+b", "{}", 400, ILLEGAL_SESSION);
    // target.en integrating-recs-email.md: a comma is missing in Adobe's own sample.
    let comma = "{\"mbox\":\"m\"\n\"contentAsJson\":true}";
    check(mbox, comma, 400, "the body is not JSON: expected `,` or `}` at line 2 column 1");
    check(mbox, "{}", 400, "the body: missing field `mbox`");
    check(batch, r#"{"mboxes":[{"indexId":0}]}"#, 400, "mboxes[0]: missing field `mbox`");
    let dot = "\"a.b.c\" is not a pcId: a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"";
    check(mbox, r#"{"mbox":"m","tntId":"a.b.c"}"#, 400, &format!("tntId: {dot}"));
    check(batch, r#"{"id":{"tntId":"a.b.c"}}"#, 400, &format!("id.tntId: {dot}"));
    let prefixed = "profileParameters: \"profile.x\" must be written without \"profile.\"";
    let body =
        r#"{"mbox":"m","tntId":"9","id":{"tntId":"9"},"profileParameters":{"ok":"1","profile.x":"1"}}"#;
    check(mbox, body, 400, prefixed);
    check(batch, body, 400, prefixed);
    assert_eq!(daemon.visitor("demo", "pc", "9"), None, "a refused call leaves no trace");
    for part in ["mboxes", "prefetch"] {
        let many = format!(r#"{{"{part}":[{}]}}"#, vec![r#"{"mbox":"m"}"#; 51].join(","));
        check(batch, &many, 400, &format!("{part}: size must be between 0 and 50"));
    }
    for path in [mbox, batch] {
        let reply = daemon.get(path);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{path}");
    }
}

/// "Target limits", Content delivery (AdobeDocs/target.en, target-limits.md): "60 MB HTTP POST body size", 413 beyond.
const LARGE: usize = 60 << 20;

/// A call of this many bytes with an attribute at its end. Most of it is strings under an unknown key.
fn large(id: &str, bytes: usize) -> Vec<u8> {
    let end = format!(
        r#""],"id":{{"thirdPartyId":"{id}"}},"execute":{{"pageLoad":{{"profileParameters":{{"a":"1"}}}}}}}}"#
    );
    let mut body = br#"{"unknown":[""#.to_vec();
    let piece = [&[b'x'; 60_000][..], br#"",""#].concat();
    while body.len() + piece.len() + end.len() <= bytes {
        body.extend_from_slice(&piece);
    }
    body.resize(bytes - end.len(), b'y');
    body.extend_from_slice(end.as_bytes());
    body
}

const LARGE_CALL: &str = "/rest/v1/delivery?client=demo&sessionId=s";

#[test]
fn a_body_of_60_mb_is_taken_and_one_byte_more_is_not() {
    let daemon = Daemon::start_configured(SETTINGS);
    let before = daemon.memory_kib("VmHWM:");
    let body = large("x", LARGE);
    let reply = daemon.call("POST", LARGE_CALL, &[JSON], Some(&body));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("1"));
    let in_chunks = |body: &[u8]| {
        let mut bytes = request("POST", LARGE_CALL, "a", &[JSON, ("Transfer-Encoding", "chunked")], None);
        bytes.extend(chunked(body));
        daemon.send(&bytes)
    };
    assert_eq!(in_chunks(&large("y", LARGE)).status, 200);
    assert_eq!(daemon.value("demo", "third-party", "y", "a").as_deref(), Some("1"));
    let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
    assert!(grown < 40, "two bodies of 60 MB took {grown} MiB");

    let words = "the body has more than 62914560 bytes (60 MB), the most that a call may have";
    for path in [LARGE_CALL, "/rest/v1/mbox/s?client=demo", "/rest/v2/batchmbox?client=demo"] {
        let length = (LARGE + 1).to_string();
        let head = request("POST", path, "a", &[JSON, ("Content-Length", &length)], None);
        let reply = daemon.send(&head);
        assert_eq!(reply.status, 413, "{path}: refused before anything is read");
        assert!(reply.text().contains(words), "{}", reply.text());
    }
    let mut body = large("z", LARGE);
    body.push(b' ');
    let mut connection = daemon.connect();
    connection.write(&request("POST", LARGE_CALL, "a", &[JSON, ("Transfer-Encoding", "chunked")], None));
    connection.write(&chunked(&body));
    let reply = connection.read();
    assert_eq!(reply.status, 413);
    assert!(reply.text().contains(words), "{}", reply.text());
    assert_eq!(daemon.visitor("demo", "third-party", "z"), None, "a refused call leaves no trace");
    // Encoded bodies are refused, so that no body grows when it is decoded.
    let reply = daemon.call("POST", LARGE_CALL, &[JSON, ("Content-Encoding", "gzip")], Some(b"x"));
    assert_eq!(reply.status, 415);
}

#[test]
fn large_calls_at_once_take_bounded_memory_and_hold_up_nobody() {
    let daemon = Daemon::start_configured(SETTINGS);
    let before = daemon.memory_kib("VmHWM:");
    let call = request("POST", LARGE_CALL, "a", &[JSON], Some(&large("x", LARGE)));
    let (begun, rest) = call.split_at(call.len() / 2);
    let mut stalled: Vec<_> = (0..4)
        .map(|_| {
            let mut connection = daemon.connect();
            connection.write(begun);
            connection
        })
        .collect();
    let places = || daemon.metrics().value("profiled_places_taken{of=\"large_calls\"}");
    wait_for("the large calls", || (places() == 4.0).then_some(()));
    // Small calls go on.
    for n in 0..100 {
        let body = json!({ "id": { "thirdPartyId": format!("small{n}") } });
        delivered(&daemon, &body);
    }
    // No more calls of the same caller are read. Another caller gets the place of one that stalls.
    let head = request("POST", LARGE_CALL, "a", &[JSON, ("Content-Length", "2000000")], None);
    let refused = daemon.send(&head);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(daemon.metrics().hits("concurrent_large_calls"), 1);
    let mut other = daemon.connect_from([127, 0, 0, 2]);
    other.write(&request("POST", LARGE_CALL, "a", &[JSON], Some(&large("other", 2_000_000))));
    assert_eq!(other.read().status, 200);
    let ended = stalled.remove(0).read();
    assert_eq!((ended.status, ended.header("retry-after")), (503, Some("1")));
    assert!(ended.text().contains("made room for somebody else"), "{}", ended.text());
    for connection in &mut stalled {
        connection.write(rest);
        assert_eq!(connection.read().status, 200);
    }
    wait_for("the places to be free", || (places() == 0.0).then_some(()));
    let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
    assert!(grown < 60, "four bodies of 60 MB at once took {grown} MiB");
}

#[test]
fn parts_of_a_large_call_that_would_take_much_memory_are_refused_or_skipped() {
    let daemon = Daemon::start_configured(SETTINGS);
    let before = daemon.memory_kib("VmHWM:");
    let check = |begin: &str, piece: &str, end: &str, status: u16, words: &str| {
        let body = [begin, &piece.repeat((30 << 20) / piece.len()), end].concat();
        let mut connection = daemon.connect();
        // It is refused before its end, so the rest may not be read.
        let sent = request("POST", LARGE_CALL, "a", &[JSON], Some(body.as_bytes()));
        let mut stream: &TcpStream = connection.stream();
        drop(stream.write_all(&sent));
        let reply = connection.read();
        assert_eq!(reply.status, status, "{begin}: {}", reply.text());
        assert!(reply.text().contains(words), "{begin}: {}", reply.text());
    };
    let parameters = r#"{"execute":{"pageLoad":{"parameters":{"a":["#;
    check(parameters, "1,", "1]}}}}", 200, "pageLoad");
    check(r#"{"prefetch":{"views":["#, "{},", "{}]}}", 200, "views");
    check(r#"{"unknown":["#, r#"{"a":[1]},"#, "1]}", 200, "tntId");
    let notified = "ids, names and profileParameters have more than 4194304 bytes";
    check(r#"{"notifications":["#, r#"{"id":""},"#, r#"{"id":""}]}"#, 400, notified);
    let reported = "Notification not taken: notifications";
    check(r#"{"notifications":["#, r#"{"id":"n","profileParameters":{"a":"b"}},"#, "]}", 400, reported);
    check(r#"{"unknown":""#, "xxxxxxxx", r#""}"#, 413, "the string that begins at byte 12");
    check(r#"{""#, "xxxxxxxx", r#"":1}"#, 413, "the string that begins at byte 2");
    check("{\"a\":", "[", "", 400, "nested more than 1000 deep");
    let grown = (daemon.memory_kib("VmHWM:") - before) / 1024;
    assert!(grown < 80, "they took {grown} MiB");
}
