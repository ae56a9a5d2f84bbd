//! Who did it: each write that is no page's names the token of its call and the address that the call came from; and a batch has the
//! name that its sender gave it.

use crate::support::{Daemon, Reply, wait_for};
use serde_json::{Value, json};

/// A daemon with tokens, a visitor x whom the site knows, and a token of scope admin.
fn daemon() -> (Daemon, String) {
    let mut daemon = Daemon::configured("");
    let token = daemon.make_token(&["--client", "demo", "--scope", "admin", "--name", "nightly CRM"]);
    daemon.restart();
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=x&profile.city=Oslo");
    (daemon, token)
}

/// The id of a token, which stands in its text.
fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}

fn call(
    daemon: &Daemon,
    token: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [&[("Authorization", bearer.as_str()), ("Connection", "close")], headers].concat();
    daemon.call(method, path, &headers, Some(body.as_bytes()).filter(|body| !body.is_empty()))
}

fn get(daemon: &Daemon, token: &str, path: &str) -> Value {
    let reply = call(daemon, token, "GET", path, &[], "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn post_batch(daemon: &Daemon, token: &str, more: &str, headers: &[(&str, &str)]) -> Reply {
    let headers = [&[("Content-Type", "text/csv")], headers].concat();
    let path = format!("/api/v1/batches?client=demo{more}");
    call(daemon, token, "POST", &path, &headers, "batch=thirdPartyId,tier\nx,gold\n")
}

#[test]
fn updates_removals_and_batches_tell_who_made_them_and_pages_are_nobody() {
    let (mut daemon, token) = daemon();
    let by = json!({ "token": id_of(&token), "tokenName": "nightly CRM", "address": "127.0.0.1" });
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let update = "mbox3rdPartyId=x&profile.plan=pro&profile.gone=1";
    assert_eq!(call(&daemon, &token, "POST", "/m2/demo/profile/update", &form, update).status, 200);
    let removed = "/api/v1/profiles/x/attributes/gone?client=demo";
    assert_eq!(call(&daemon, &token, "DELETE", removed, &[], "").status, 200);
    let batch = post_batch(&daemon, &token, "", &[]).json();
    assert_eq!(batch["by"], by);

    let check = |daemon: &Daemon| {
        let visitor = get(daemon, &token, "/api/v1/profiles/x?client=demo");
        let attributes = &visitor["attributes"];
        assert_eq!(attributes["city"].get("by"), None, "a page wrote it");
        assert_eq!((&attributes["plan"]["by"], &attributes["tier"]["by"]), (&by, &by), "{visitor}");
        let history = get(daemon, &token, "/api/v1/profiles/x/history?client=demo");
        let changes: Vec<_> = history["changes"].as_array().unwrap().iter().collect();
        let of = |name: &str, after: Value| {
            let found = changes.iter().find(|it| it["attribute"] == name && it["after"] == after);
            found.unwrap_or_else(|| panic!("{name} {after}: {history}"))["by"].clone()
        };
        for (name, after) in
            [("plan", json!("pro")), ("tier", json!("gold")), ("gone", json!("1")), ("gone", json!(null))]
        {
            assert_eq!(of(name, after), by, "{name}");
        }
        assert_eq!(of("city", json!("Oslo")), Value::Null);
    };
    check(&daemon);
    let path = format!("/api/v1/batches/{}", batch["batchId"].as_str().unwrap());
    wait_for("the batch to complete", || (get(&daemon, &token, &path)["status"] == "complete").then_some(()));
    check(&daemon);
    // What the journal, the store and the catalogue say is the same after a restart.
    daemon.kill9().restart();
    check(&daemon);
    let listed = get(&daemon, &token, "/api/v1/batches?client=demo");
    assert_eq!(listed["batches"][0]["by"], by);
    let get = ["profile", "get", "x", "--client", "demo", "--token", &token];
    let (code, words, complaints) = daemon.run(&get);
    assert_eq!(code, Some(0), "{complaints}");
    assert!(
        words.contains(&format!("token {} nightly CRM", id_of(&token))) && words.contains("from 127.0.0.1"),
        "{words}"
    );
}

/// Without tokens the address is known all the same.
#[test]
fn a_daemon_without_tokens_knows_the_address() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=x&profile.city=Oslo");
    daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=x&profile.plan=pro");
    let visitor = daemon.visitor("demo", "third-party", "x").unwrap();
    let by = json!({ "token": null, "tokenName": null, "address": "127.0.0.1" });
    assert_eq!(visitor["attributes"]["plan"]["by"], by);
}

#[test]
fn a_batch_has_the_name_that_its_sender_gives_it() {
    let (daemon, token) = daemon();
    let named = |more: &str, headers: &[(&str, &str)]| {
        post_batch(&daemon, &token, more, headers).json()["name"].clone()
    };
    assert_eq!(named("", &[]), Value::Null);
    assert_eq!(named("&name=n%C3%A4chtlich%20(1).csv", &[]), "nächtlich (1).csv");
    assert_eq!(named("", &[("X-Batch-Name", "nightly crm")]), "nightly crm");
    assert_eq!(named("&name=a", &[("X-Batch-Name", "a")]), "a");
    let long = "n".repeat(129);
    for (more, headers, why) in [
        ("&name=a", vec![("X-Batch-Name", "b")], "name the batch once"),
        ("&name=a%0Ab", vec![], "name is not right: the name of a batch has 1 to 128 characters"),
        (&*format!("&name={long}"), vec![], "name is not right"),
        ("&name=+a", vec![], "name is not right"),
        ("", vec![("X-Batch-Name", "n\u{e4}chtlich")], "X-Batch-Name is not right"),
    ] {
        let reply = post_batch(&daemon, &token, more, &headers);
        assert_eq!(reply.status, 400, "{more} {headers:?}: {}", reply.text());
        assert!(reply.text().contains(why), "{more} {headers:?}: {}", reply.text());
    }
    let names = get(&daemon, &token, "/api/v1/batches?client=demo");
    let names: Vec<_> =
        names["batches"].as_array().unwrap().iter().map(|batch| batch["name"].as_str()).collect();
    assert_eq!(names, [Some("a"), Some("nightly crm"), Some("nächtlich (1).csv"), None]);
}

/// The command line names a batch after its file.
#[test]
fn the_command_line_names_a_batch_after_its_file() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightly.csv");
    std::fs::write(&file, "batch=thirdPartyId,tier\nx,gold\n").unwrap();
    let file = file.to_str().unwrap();
    let post = |more: &[&str]| {
        let (code, said, complaints) =
            daemon.run(&[&["batch", "post", file, "--client", "demo", "--wait", "--json"], more].concat());
        assert_eq!(code, Some(0), "{complaints}");
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let batch = post(&[]);
    assert_eq!(batch["name"], "nightly.csv");
    assert_eq!(post(&["--name", "of the CRM"])["name"], "of the CRM");
    let id = batch["batchId"].as_str().unwrap();
    let (code, said, _) = daemon.run(&["batch", "status", id]);
    assert!(
        code == Some(0) && said.contains("named nightly.csv, sent by no token, from 127.0.0.1"),
        "{said}"
    );
    let (code, said, _) = daemon.run(&["batch", "list", "--client", "demo"]);
    assert!(
        code == Some(0)
            && said.contains("  nightly.csv")
            && said.lines().all(|line| line.chars().count() <= 80),
        "{said}"
    );
    let (code, _, complaints) = daemon.run(&["batch", "post", file, "--client", "demo", "--name", " a"]);
    assert!(code == Some(2) && complaints.contains("no space at the ends"), "{complaints}");
}
