//! Adobe's calls, on the real daemon: every answer and every refusal.

use std::fmt::Write as _;

use crate::support::{Daemon, Details, Reply, chunked, encoded, request, wait_for};

const V1: &str = "/m2/demo/profile/batchUpdate";
const V2: &str = "/m2/demo/v2/profile/batchUpdate";
const BODY_BYTES_LIMIT: usize = 52_428_800;
const SMALL: &str = "batch=thirdPartyId,a\nx,1\n";

fn refused(reply: &Reply, status: u16, words: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    let text = reply.text();
    let start = "<response><success>false</success><batchStatus></batchStatus><message>";
    assert!(text.starts_with(start) && text.ends_with("</message></response>"), "{text}");
    assert!(text.contains(words), "{words:?} in {text}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
}

/// A batch of exactly this many bytes, in rows of about a thousand bytes.
fn batch_of(bytes: usize) -> String {
    let mut file = String::with_capacity(bytes);
    file.push_str("batch=thirdPartyId,a\n");
    while bytes - file.len() > 2_100 {
        let id = file.len();
        writeln!(file, "{id:09},{:x<990}", "").unwrap();
    }
    let last = bytes - file.len();
    write!(file, "last,{:x<width$}", "", width = last - 5).unwrap();
    assert_eq!(file.len(), bytes);
    file
}

#[test]
fn a_batch_is_accepted_read_at_once_and_followed() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1.28_0&mbox3rdPartyId=x");
    for (path, source) in [(V1, "batch v1"), (V2, "batch v2")] {
        let file = "batch=thirdPartyId,a,b\nx,1,two words\nnobody,1,\nx,,\na%2Bb,1,\n";
        let reply = daemon.try_batch(path, file);
        let id = reply.batch_id();
        let url = format!("http://{}/m2/demo/profile/batchStatus?batchId={id}", daemon.address());
        assert_eq!(
            reply.text(),
            format!(
                "<response><success>true</success><batchStatus>{url}</batchStatus>\
                 <message>Batch submitted for processing</message></response>"
            )
        );
        let visitor = daemon.visitor("demo", "third-party", "x").unwrap();
        let seq = reply.header("profiled-seq").unwrap();
        assert_eq!(visitor["attributes"]["b"]["value"], "two words");
        assert_eq!(visitor["attributes"]["b"]["source"], source);
        assert_eq!(visitor["attributes"]["b"]["seq"], seq);
        assert_eq!(visitor["attributes"]["b"]["batchId"], id.as_str());
        assert_eq!(visitor["lastBatchSeq"], seq);

        let details = Details { size: 4, consumed: 4, successful: 1, not_found: 1, failed: 1, ignored: 1 };
        assert_eq!(daemon.wait_complete(&id), details);
        for path in ["/m2/demo/profile/batchStatus", "/m2/demo/v2/profile/batchStatus"] {
            let reply = daemon.get(&format!("{path}?batchId={id}&mboxPC=0000000000000-000000.19_05"));
            let start = format!("<response><batchId>{id}</batchId><status>complete</status>");
            assert_eq!(reply.text(), format!("{start}<batchSize>4</batchSize></response>"));
            let reply = daemon.get(&format!("{path}?batchId={id}&showDetails=true"));
            assert_eq!(
                reply.text(),
                format!(
                    "{start}<batchSize>4</batchSize><consumedCount>4</consumedCount>\
                     <successfulUpdates>1</successfulUpdates><profilesNotFound>1</profilesNotFound>\
                     <failedUpdates>1</failedUpdates><ignoredUpdates>1</ignoredUpdates><profile><id></id><line>5</line><status>failed</status></profile></response>"
                )
            );
        }
    }
}

#[test]
fn the_status_url_is_on_the_host_called_or_on_the_public_url() {
    let url = |daemon: &Daemon, host: &str| {
        let reply = daemon.send(&request("POST", V2, host, &[], Some(SMALL.as_bytes())));
        reply.element("batchStatus").unwrap().split_once("/m2/").unwrap().0.to_owned()
    };
    let daemon = Daemon::start();
    assert_eq!(url(&daemon, "target.example.com"), "http://target.example.com");
    assert_eq!(url(&daemon, "target.example.com:81"), "http://target.example.com:81");
    let bad = daemon.send(&request("POST", V2, "a<b", &[], Some(SMALL.as_bytes())));
    refused(&bad, 400, "is not a host and port");
    let old = daemon
        .send(format!("POST {V2} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{SMALL}", SMALL.len()).as_bytes());
    assert!(old.element("batchStatus").unwrap().starts_with(&format!("{}/m2/demo", daemon.url())));
    let daemon = Daemon::start_with(&["--public-url", "https://profiles.example.com"]);
    assert_eq!(url(&daemon, "target.example.com"), "https://profiles.example.com");
}

#[test]
fn a_batch_that_is_not_right_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=0");
    for path in [V1, V2] {
        let check = |file: &str, status, words: &str| refused(&daemon.try_batch(path, file), status, words);
        check("", 400, "");
        check("\n\n", 400, "");
        check("batch=thirdPartyId,a\n", 400, "");
        check("thirdPartyId,a\nx,1\n", 400, "batch=");
        check("batch=thirdPartyId\nx\n", 400, "");
        check("batch=crmId,a\nx,1\n", 400, "");
        check("batch=marketingCloudVisitorId,a\n38,1\n", 400, "marketingCloudVisitorId");
        check("batch=thirdPartyId,profile.a\nx,1\n", 400, "profile.");
        check("batch=thirdPartyId,a,a\nx,1,2\n", 400, "");
        check("batch=thirdPartyId,%zz\nx,1\n", 400, "");
        check(&format!("batch=thirdPartyId,{}\nx,1\n", "n".repeat(129)), 400, "128");
    }
    refused(&daemon.try_batch("/m2/de$mo/profile/batchUpdate", SMALL), 400, "is not a client code");
    refused(&daemon.try_batch(&format!("{V2}?emptyValues=perhaps"), SMALL), 400, "emptyValues");
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("0"));
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 0);
    assert_eq!(daemon.spooled(), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn a_batch_comes_under_the_media_types_that_clients_send() {
    let daemon = Daemon::start();
    let post = |headers: &[(&str, &str)]| daemon.call("POST", V2, headers, Some(SMALL.as_bytes()));
    for media_type in [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "text/csv",
        "TEXT/PLAIN;charset=utf-8",
        "application/octet-stream",
    ] {
        post(&[("Content-Type", media_type)]).batch_id();
    }
    post(&[]).batch_id();
    post(&[("Content-Encoding", "identity")]).batch_id();
    for media_type in ["multipart/form-data; boundary=x", "application/json"] {
        refused(&post(&[("Content-Type", media_type)]), 415, "curl -X POST --data-binary @BATCH.TXT http://");
    }
    refused(&post(&[("Content-Encoding", "br")]), 415, "gzip");
}

#[test]
fn the_limit_on_bytes_holds_with_and_without_a_length() {
    let daemon = Daemon::start();
    let too_large = batch_of(BODY_BYTES_LIMIT);
    let unsent = format!("POST {V2} HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES_LIMIT}\r\n\r\n");
    refused(&daemon.send(unsent.as_bytes()), 413, "52428800");
    refused(&daemon.try_batch(V2, &too_large), 413, "52428800");
    let chunks = |file: &str| {
        let mut bytes = request("POST", V2, "a", &[("Transfer-Encoding", "chunked")], None);
        bytes.extend(chunked(file.as_bytes()));
        daemon.send(&bytes)
    };
    refused(&chunks(&too_large), 413, "52428800");
    assert_eq!(daemon.metrics().hits("body_bytes"), 3);
    assert_eq!(daemon.spooled().len(), 0);
    let fits = &too_large[..BODY_BYTES_LIMIT - 1];
    let id = daemon.post_batch("demo", fits);
    assert_eq!(daemon.wait_complete(&id).consumed, fits.lines().count() as u64 - 1);
    chunks(fits).batch_id();
}

#[test]
fn the_limit_on_rows_is_half_a_million() {
    let daemon = Daemon::start();
    let mut file = String::from("batch=thirdPartyId,a\n");
    (1..=500_000).for_each(|row| writeln!(file, "{row},1").unwrap());
    let id = daemon.post_batch("demo", &file);
    refused(&daemon.try_batch(V2, file + "500001,1\n"), 413, "500000");
    assert_eq!(daemon.metrics().hits("rows"), 1);
    assert_eq!(daemon.wait_complete(&id).not_found, 500_000);
}

#[test]
fn a_body_that_stops_in_the_middle_leaves_no_file() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=0");
    let mut head = request("POST", V2, "a", &[("Content-Length", "100000")], None);
    head.extend_from_slice(SMALL.as_bytes());
    for half_close in [false, true] {
        let mut client = daemon.connect();
        client.write(&head);
        wait_for("the first bytes to be spooled", || (!daemon.spooled().is_empty()).then_some(()));
        if half_close {
            client.end();
            refused(&client.read(), 400, "broke off");
        } else {
            drop(client);
        }
        wait_for("the spool folder to be empty", || daemon.spooled().is_empty().then_some(()));
    }
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("0"));
}

#[test]
fn empty_values_remove_only_when_asked_to() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=0&profile.b=0");
    daemon.post_batch("demo", "batch=thirdPartyId,a,b\nx,,1\n");
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("0"));
    daemon.try_batch(&format!("{V2}?emptyValues=remove"), "batch=thirdPartyId,a,b\nx,,2\n").batch_id();
    assert_eq!(daemon.value("demo", "third-party", "x", "a"), None);
    assert_eq!(daemon.value("demo", "third-party", "x", "b").as_deref(), Some("2"));
}

#[test]
fn a_batch_that_is_not_there_has_no_status() {
    let daemon = Daemon::start();
    let id = daemon.post_batch("demo", SMALL);
    let check = |query: &str, status, words: &str| {
        refused(&daemon.get(&format!("/m2/other/profile/batchStatus?{query}")), status, words);
    };
    check("", 400, "batchId=");
    check("batchId=", 400, "batchId=");
    check("batchId=demo-1701473848678-10000000", 404, "demo-1701473848678-10000000");
    check("batchId=x%3Cy", 404, "x&lt;y");
    check(&format!("batchId={id}"), 404, &id);
}

#[test]
fn a_single_update_writes_to_a_known_visitor_and_creates_none() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1.28_0&mbox3rdPartyId=x");
    daemon.mbox("demo", "mboxPC=2");
    let submitted = |reply: &Reply, pc_id: &str, outcome: &str| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("profiled-outcome"), Some(outcome));
        assert_eq!(
            reply.text(),
            format!(
                "<response><success>true</success><pcId>{pc_id}</pcId>\
                 <message>Request successfully submitted</message></response>"
            )
        );
    };
    let path = "/m2/demo/profile/update";
    submitted(
        &daemon.get(&format!("{path}?mboxPC=2.28_0&profile.a=1&profile.b=two+words")),
        "2.28_0",
        "updated",
    );
    submitted(&daemon.get(&format!("{path}?mbox3rdPartyId=x&profile.a=3")), "1", "updated");
    submitted(&daemon.post_form(path, "mbox3rdPartyId=x&profile.c=4"), "1", "updated");
    submitted(&daemon.post_form(&format!("{path}?mbox3rdPartyId=x"), "profile.d=5"), "1", "updated");
    submitted(&daemon.get(&format!("{path}?mbox3rdPartyId=x&profile.a=")), "1", "ignored");
    let visitor = daemon.visitor("demo", "pc", "2").unwrap();
    assert_eq!(visitor["attributes"]["a"]["value"], "1");
    assert_eq!(visitor["attributes"]["a"]["source"], "single update");
    assert_eq!(visitor["attributes"]["b"]["value"], "two words");
    for (name, value) in [("a", "3"), ("c", "4"), ("d", "5")] {
        assert_eq!(daemon.value("demo", "pc", "1", name).as_deref(), Some(value), "{name}");
    }
    submitted(&daemon.get(&format!("{path}?mbox3rdPartyId=nobody&profile.a=1")), "", "not_found");
    // The path in Adobe's example (profile-single-api.md), which PyPI's experiencecloudapis also calls.
    submitted(&daemon.get("/m2/client/profile/update?mboxPC=2&profile.a=1"), "2", "not_found");
    submitted(&daemon.get(&format!("{path}?mboxPC=99.28_0&profile.a=1")), "99.28_0", "not_found");
    assert_eq!(daemon.visitor("demo", "third-party", "nobody"), None);
    assert_eq!(daemon.visitor("demo", "pc", "99"), None);
}

#[test]
fn a_single_update_names_parameters_that_are_no_attributes() {
    let daemon = Daemon::start_configured("[clients.demo]\n");
    daemon.mbox("demo", "mbox3rdPartyId=u1");
    let check = |params: &str, reported: Option<&str>| {
        let reply = daemon.post_form(&format!("/m2/demo/profile/update?mbox3rdPartyId=u1&{params}"), "");
        assert_eq!((reply.status, reply.header("profiled-left-out")), (200, reported), "{params}");
    };
    // Segment's adobe-target destination puts values raw into the URL (adobeTarget_operations.ts).
    let lost = "1 parameter that is no profile.NAME: \" Co\"";
    check("profile.company=Smith%20&%20Co&profile.e=3", Some(lost));
    check("profile.discount=10%&profile.address.city=Oslo", None);
    check(
        "profile.a=1&mboxSession=s&%C3%A9=1&x=2",
        Some("1 parameter that is no profile.NAME: \"\\u{e9}\"; 1 parameter that is no profile.NAME: \"x\""),
    );
    assert_eq!(daemon.value("demo", "third-party", "u1", "discount").as_deref(), Some("10%"));
    assert_eq!(daemon.value("demo", "third-party", "u1", "e").as_deref(), Some("3"));
    // Adobe's example has the word client in place of the client code (profile-single-api.md).
    let reply = daemon.get("/m2/client/profile/update?mboxPC=1&profile.a=1");
    assert_eq!(reply.status, 404);
    assert_eq!(
        reply.element("message").as_deref(),
        Some("there is no client client: in Adobe's examples that word stands for your client code")
    );
}

#[test]
fn a_single_update_that_is_not_right_is_refused() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1");
    let path = "/m2/demo/profile/update";
    let check = |reply: Reply, status, words: &str| {
        let text = reply.text();
        assert_eq!(reply.status, status, "{text}");
        assert!(text.starts_with("<response><success>false</success><pcId></pcId><message>"), "{text}");
        assert!(text.contains(words), "{words:?} in {text}");
    };
    let get = |query: &str| daemon.get(&format!("{path}?{query}"));
    check(get("profile.a=1"), 400, "mboxPC=");
    check(get("mboxPC=&profile.a=1"), 400, "mboxPC=");
    check(get("mboxPC=1"), 400, "profile.NAME=value");
    check(get("mboxPC=1&a=1"), 400, "profile.NAME=value");
    check(get("mboxPC=a.b.c&profile.a=1"), 400, "a dot is allowed only before a location hint");
    check(get("mbox3rdPartyId=a%2Bb&profile.a=1"), 400, "'+' is not allowed");
    check(get("mbox3rdPartyId=a%2Fb&profile.a=1"), 400, "'/' is not allowed");
    check(get("mboxPC=1&profile.=1"), 400, "blank");
    check(get("mboxPC=1&profile.profile.a=1"), 400, "prefix");
    check(get(&format!("mboxPC=1&profile.{}=1", "n".repeat(129))), 400, "128");
    check(get("mboxPC=1&profile.a=%FF"), 400, "UTF-8");
    check(get(&format!("mboxPC=1&profile.a={}", "x".repeat(8_192))), 414, "POST");
    check(daemon.post_form(path, &format!("mboxPC=1&profile.a={}", "x".repeat(61_440))), 413, "61440");
    let json = [("Content-Type", "application/json")];
    check(daemon.call("POST", path, &json, Some(b"{}")), 415, "application/x-www-form-urlencoded");
    check(daemon.call("PUT", path, &[], Some(b"")), 405, "GET, POST");
    let fits = format!("mboxPC=1&profile.a={}", "x".repeat(61_440 - "mboxPC=1&profile.a=".len()));
    assert_eq!(daemon.post_form(path, &fits).status, 200);
    assert_eq!(daemon.value("demo", "pc", "1", "a").unwrap().len(), 61_421);
}

#[test]
fn a_profile_is_fetched_by_each_of_its_ids() {
    let daemon = Daemon::start_with(&["--default-client", "demo"]);
    daemon.mbox("demo", "mboxPC=1.28_0&mbox3rdPartyId=x&mboxMCGVID=38304120&profile.a=1");
    for (path, id) in
        [("", "1.28_0"), ("", "1"), ("thirdPartyId/", "x"), ("marketingCloudVisitorId/", "38304120")]
    {
        for query in ["?client=demo", ""] {
            let reply = daemon.get(&format!("/rest/v1/profiles/{path}{id}{query}"));
            assert_eq!(reply.status, 200, "{path}{id}: {}", reply.text());
            let json = reply.json();
            assert_eq!((json["client"].as_str(), json["visitorId"].as_str()), (Some("demo"), Some(id)));
            assert_eq!(json["profileAttributes"]["a"]["value"], "1");
            for time in [&json["modifiedAt"], &json["profileAttributes"]["a"]["modifiedAt"]] {
                let time = time.as_str().unwrap();
                assert!(time.len() == "2017-08-18T17:53:39.003Z".len() && time.ends_with('Z'), "{time}");
            }
        }
    }
}

#[test]
fn a_fetch_of_an_unknown_visitor_says_so_in_adobes_words() {
    let daemon = Daemon::start();
    daemon.mbox("other", "mboxPC=1&mbox3rdPartyId=x");
    let check = |path: &str, status: u16, message: &str| {
        let reply = daemon.get(&format!("/rest/v1/profiles/{path}"));
        assert_eq!(reply.text(), format!("{{\"status\":{status},\"message\":\"{message}\"}}"), "{path}");
        assert_eq!(reply.status, status);
    };
    check("thirdPartyId/x?client=demo", 404, "No profile found for client demo with third party id=x");
    check("thirdPartyId/a%2Bb?client=demo", 404, "No profile found for client demo with third party id=a+b");
    check("1.28_0?client=demo", 404, "No profile found for client demo with mboxPC=1.28_0");
    check(
        "marketingCloudVisitorId/38?client=demo",
        404,
        "No profile found for client demo with marketingCloudVisitorId=38",
    );
    check("1", 400, "client= is missing, and no default client is configured");
}

#[test]
fn a_site_call_creates_binds_and_writes() {
    let daemon = Daemon::start();
    let reply = daemon.get("/m2/demo/mbox/json?mbox=m&mboxSession=s1&mboxPC=1.28_0&profile.a=1&other=2");
    assert_eq!(reply.text(), r#"{"sessionId":"s1","tntId":"1.28_0","offers":[]}"#);
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("1"));
    daemon.mbox("demo", "mboxPC=1.30_0&mbox3rdPartyId=x&profile.b=2");
    let visitor = daemon.visitor("demo", "third-party", "x").unwrap();
    assert_eq!(visitor["pcIds"][0], "1");
    assert_eq!(visitor["thirdPartyId"], "x");
    assert_eq!(visitor["attributes"]["a"]["value"], "1");
    assert_eq!(visitor["attributes"]["b"]["source"], "mbox");
    let new = daemon.mbox("demo", "mbox=m&profile.a=9");
    assert_eq!(new.len(), 32);
    assert_eq!(daemon.value("demo", "pc", &new, "a").as_deref(), Some("9"));
}

#[test]
fn a_site_call_leaves_an_illegal_attribute_out_and_refuses_an_illegal_id() {
    let daemon = Daemon::start();
    let long = "é".repeat(5_001);
    let params = format!(
        "mboxPC=1&profile.=1&profile.profile.x=1&profile.long={}&profile.bad=%FF&profile.a=1",
        encoded(&long)
    );
    daemon.mbox("demo", &params);
    let visitor = daemon.visitor("demo", "pc", "1").unwrap();
    assert_eq!(visitor["attributes"].as_object().unwrap().len(), 1);
    for params in ["mboxPC=a.b.c", "mboxPC=1&mbox3rdPartyId=a%2Bb", "mboxPC=%FF"] {
        let reply = daemon.post_form("/m2/demo/mbox/json", params);
        assert_eq!(reply.status, 400, "{params}");
        assert!(reply.json()["error"].is_string(), "{params}");
    }
    assert_eq!(daemon.visitor("demo", "third-party", "a b"), None);
}

#[test]
fn names_and_values_in_any_script_come_back_byte_for_byte() {
    let daemon = Daemon::start();
    let texts = [
        "ليلى",
        "小明 🌸",
        "👩‍🚀",
        "Süd+West",
        "50% off & more",
        "a=b",
        "The \"Old\" Mill",
        "Canal, East",
        "two\nlines",
        "tab\there",
        "<b>&amp;</b>",
        "\u{301}e",
        "\\",
        "'",
        "%41",
        "x;y#z?",
    ];
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let params: String =
        texts.iter().map(|text| format!("&profile.{}={}", encoded(text), encoded(text))).collect();
    let check = |from: &str| {
        let visitor = daemon.visitor("demo", "third-party", "x").unwrap();
        let fetched = daemon.get("/rest/v1/profiles/thirdPartyId/x?client=demo").json();
        for text in texts {
            assert_eq!(visitor["attributes"][text]["value"], text, "{from}");
            assert_eq!(visitor["attributes"][text]["source"], from, "{text}");
            assert_eq!(fetched["profileAttributes"][text]["value"], text, "{from}");
        }
    };
    daemon.mbox("demo", &format!("mboxPC=1&mbox3rdPartyId=x{params}"));
    check("mbox");
    assert_eq!(daemon.post_form("/m2/demo/profile/update", &format!("mboxPC=1{params}")).status, 200);
    check("single update");
    let cells = texts.map(encoded).join(",");
    let id = daemon.post_batch("demo", format!("batch=thirdPartyId,{cells}\nx,{cells}\n"));
    check("batch v2");
    daemon.wait_complete(&id);
    check("batch v2");
}

#[test]
fn paths_and_methods_that_are_not_there_are_refused_in_the_doors_form() {
    let daemon = Daemon::start();
    refused(&daemon.get("/m2/demo/nothing"), 404, "nothing at this path");
    let reply = daemon.get(V2);
    refused(&reply, 405, "POST");
    assert_eq!(reply.header("allow"), Some("POST"));
    for path in ["/nothing", "/rest/v2/x", "/api/v1/x"] {
        let reply = daemon.get(path);
        assert_eq!((reply.status, reply.json()["status"].as_u64()), (404, Some(404)), "{path}");
    }
    let reply = daemon.call("DELETE", "/rest/v1/profiles/1", &[], None);
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(daemon.get("/rest/v1/profiles/%FF?client=demo").status, 400);
    assert_eq!(daemon.get("/healthz").text(), "ok\n");
    assert_eq!(daemon.get("/readyz").text(), "ready\n");
}

#[test]
fn the_native_api_lists_batches_and_shows_one() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x");
    let ids = [daemon.post_batch_v1("demo", SMALL), daemon.post_batch("demo", SMALL)];
    for id in &ids {
        daemon.wait_complete(id);
    }
    let list = daemon.get("/api/v1/batches?client=demo&status=complete").json();
    let listed: Vec<_> =
        list["batches"].as_array().unwrap().iter().map(|batch| batch["batchId"].clone()).collect();
    assert_eq!(listed, [ids[1].as_str(), ids[0].as_str()]);
    assert_eq!(list["batches"][0]["version"], "v2");
    assert_eq!(list["batches"][0]["counts"]["updated"], 1);
    assert_eq!(daemon.get(&format!("/api/v1/batches/{}", ids[0])).json()["rows"], 1);
    assert_eq!(daemon.get(&format!("/api/v1/batches/{}?client=other", ids[0])).status, 404);
    assert_eq!(
        daemon.get("/api/v1/batches?client=demo&status=stuck").json()["batches"].as_array().unwrap().len(),
        0
    );
    assert_eq!(daemon.get("/api/v1/batches?client=demo&status=done").status, 400);
    assert_eq!(daemon.get("/api/v1/batches").status, 400);
    let profile = daemon.get("/api/v1/profiles/x?client=demo");
    assert_eq!(profile.header("etag"), Some(format!("{}", profile.json()["seq"]).as_str()));
    assert_eq!(daemon.get("/api/v1/profiles/x?client=demo&by=name").status, 400);
}

/// TGT release notes, "Profile Batch Status API v2 changes (May 14, 2020)": the form. ACC, a public worker, takes the first
/// `<status>` for the batch's.
#[test]
fn failed_rows_are_listed_behind_the_batchs_own_fields_the_first_thousand() {
    let daemon = Daemon::start();
    let reported = |rows: &str| {
        let batch = daemon.post_batch("demo", format!("batch=thirdPartyId,a\n{rows}"));
        daemon.wait_complete(&batch);
        let path = format!("/m2/demo/v2/profile/batchStatus?batchId={batch}");
        assert!(!daemon.get(&path).text().contains("<profile>"));
        daemon.get(&format!("{path}&showDetails=true")).text()
    };
    let some = reported("x%26%3C%3E,50%\nfine,1\n%FF,1\n");
    let end = "<ignoredUpdates>0</ignoredUpdates><profile><id>x&amp;&lt;&gt;</id><status>failed</status></profile>\
               <profile><id></id><line>4</line><status>failed</status></profile></response>";
    assert!(some.ends_with(end), "{some}");
    assert!(some.find("<status>complete</status>").unwrap() < some.find("<profile>").unwrap());
    let many = reported(&"y,50%\n".repeat(1_001));
    assert_eq!(many.matches("<profile>").count(), 1_000);
    assert!(many.contains("<note>the first 1000 of 1001 rows that failed"), "{}", &many[many.len() - 300..]);
}
