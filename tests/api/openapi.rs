//! The daemon against its own `/openapi.json`: a tour of all calls whose answers must be as described, and schemathesis,
//! where it is here: `.ci/run` puts it into `target/schemathesis`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{self, Daemon, Reply, wait_for};
use serde_json::{Value, json};

/// Checks answers against the document, and notes which calls were made.
struct Tour<'d> {
    daemon: &'d Daemon,
    document: Value,
    made: BTreeSet<(String, String)>,
    /// The headers that were seen.
    headers: BTreeSet<String>,
}

impl Tour<'_> {
    /// Makes a call of an operation, whose answer must be as described.
    fn call(
        &mut self,
        method: &str,
        path: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Reply {
        let reply = self.daemon.call(&method.to_uppercase(), url, headers, body.map(str::as_bytes));
        let reported = format!("{method} {url}: {} {}", reply.status, reply.text());
        let operation = &self.document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let status = reply.status.to_string();
        let responses = &operation["responses"];
        let mut response = responses.get(&status).unwrap_or(&responses["default"]);
        if let Some(name) = response["$ref"].as_str() {
            response = &self.document["components"]["responses"][name.rsplit('/').next().unwrap()];
        }
        assert!(
            // Adobe's calls describe their refusals once, by `default`.
            responses.get(&status).is_some() || reply.status >= 400 && !path.starts_with("/api/"),
            "no such status is described: {reported}"
        );
        // Those aside that say how the answer is framed, and its form, which stands in `content`.
        let framing = ["content-type", "content-length", "transfer-encoding", "date"];
        let described: BTreeSet<String> =
            response["headers"].as_object().unwrap().keys().map(|name| name.to_ascii_lowercase()).collect();
        for (name, _) in reply.headers.iter().filter(|(name, _)| !framing.contains(&name.as_str())) {
            assert!(described.contains(name), "the header {name} is not described: {reported}");
            self.headers.insert(name.clone());
        }
        let media_type = reply.header("content-type").map(str::to_owned);
        match (media_type, response.get("content")) {
            (None, None) => {}
            (Some(media_type), Some(content)) => {
                let schema = &content[&media_type]["schema"];
                assert!(!schema.is_null(), "{media_type} is not described: {reported}");
                if media_type.ends_with("json") && !media_type.contains("ndjson") {
                    self.check(schema, &reply.json(), &reported);
                } else if media_type.contains("ndjson") {
                    for line in reply.text().lines() {
                        self.check(schema, &serde_json::from_str(line).unwrap(), &reported);
                    }
                }
            }
            (media_type, _) => panic!("{media_type:?}: {reported}"),
        }
        self.made.insert((method.to_owned(), path.to_owned()));
        reply
    }

    fn get(&mut self, path: &str, url: &str) -> Reply {
        self.call("get", path, url, &[], None)
    }

    fn check(&self, schema: &Value, answer: &Value, reported: &str) {
        let mut whole = schema.clone();
        whole["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&whole).unwrap();
        if let Some(error) = validator.iter_errors(answer).next() {
            panic!("{error} at {}: {reported}", error.instance_path());
        }
        // What is answered is described, too.
        let mut schema = schema;
        if let Some(name) = schema["$ref"].as_str() {
            schema = &self.document["components"]["schemas"][name.rsplit('/').next().unwrap()];
        }
        if let (Some(answered), Some(described)) = (answer.as_object(), schema["properties"].as_object()) {
            assert!(
                answered.keys().all(|key| described.contains_key(key)),
                "not all is described: {reported}"
            );
        }
    }
}

/// Ends a loop, also if an assertion fails before.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_answers_to_all_calls_are_as_described() {
    let daemon = Daemon::start();
    let document = daemon.get("/openapi.json").json();
    let mut tour = Tour { daemon: &daemon, document, made: BTreeSet::new(), headers: BTreeSet::new() };
    let mbox = "/m2/{client}/mbox/{kind}";
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for kind in ["json", "ajax", "standard"] {
        let url = format!("/m2/demo/mbox/{kind}?mbox=m&mboxPC=1&mbox3rdPartyId=t&mboxMCGVID=3&profile.a=1");
        tour.get(mbox, &url);
        tour.call("post", mbox, &url, &[form], Some("profile.b=2"));
        tour.get(mbox, &format!("/m2/demo/mbox/{kind}?mboxPC=a.b.c"));
    }
    let ubox = "/m2/{client}/ubox/{kind}";
    for kind in ["raw", "image", "page"] {
        let url = format!("/m2/demo/ubox/{kind}?mboxPC=1&mboxDefault=http://a/b");
        tour.get(ubox, &url);
        tour.call("post", ubox, &url, &[form], None);
        tour.get(ubox, &format!("/m2/demo/ubox/{kind}"));
    }
    let delivery = "/rest/v1/delivery";
    let body = json!({"id": {"tntId": "1"}, "execute": {"pageLoad": {"profileParameters": {"c": "3"}}},
                      "prefetch": {"mboxes": [{"name": "m", "index": 0}]}, "notifications": [{"id": "n"}]});
    let media_type = ("Content-Type", "application/json");
    let url = "/rest/v1/delivery?client=demo&sessionId=s";
    tour.call("post", delivery, url, &[media_type], Some(&body.to_string()));
    tour.call("post", delivery, url, &[media_type], Some(r#"{"context": {"beacon": true}}"#));
    tour.call("post", delivery, url, &[media_type], Some("{"));

    let mbox = r#"{"mbox": "m", "tntId": "1", "profileParameters": {"d": "4"}}"#;
    for (path, url) in [("/rest/v1/mbox", "/rest/v1/mbox"), ("/rest/v1/mbox/{session_id}", "/rest/v1/mbox/s")]
    {
        tour.call("post", path, &format!("{url}?client=demo"), &[media_type], Some(mbox));
        tour.call("post", path, &format!("{url}?client=demo"), &[media_type], Some("{}"));
    }
    let batch =
        r#"{"id": {"tntId": "1"}, "mboxes": [{"indexId": 0, "mbox": "m"}], "prefetch": [{"mbox": "p"}]}"#;
    for body in [batch, "["] {
        tour.call("post", "/rest/v2/batchmbox", "/rest/v2/batchmbox?client=demo", &[media_type], Some(body));
    }

    let file = "batch=pcId,a,b\n1,x,y\n9,x\n1,%zz\n1,,\n";
    for path in ["/m2/{client}/profile/batchUpdate", "/m2/{client}/v2/profile/batchUpdate"] {
        let url = path.replace("{client}", "demo");
        tour.call("post", path, &url, &[form, ("Idempotency-Key", path)], Some(file));
        tour.call("post", path, &url, &[form, ("Idempotency-Key", path)], Some(file));
        tour.call("post", path, &url, &[form, ("Idempotency-Key", path)], Some("batch=pcId,a\n1,1\n"));
        tour.call("post", path, &url, &[form], Some("nothing"));
        let of = &[form, ("Profiled-As-Of", "2001-01-01T00:00:00Z")];
        tour.call("post", path, &format!("{url}?asOf=978307200000"), of, Some(file));
        for accept in ["*/*", "text/csv", "application/x-ndjson"] {
            tour.call("post", path, &format!("{url}?dryRun=true"), &[form, ("Accept", accept)], Some(file));
        }
    }
    let (batches, ndjson) = ("/api/v1/batches", ("Content-Type", "application/x-ndjson"));
    let rows = "{\"pcId\":\"1\",\"a\":\"x\"}\n{\"pcId\":\"1\",\"a\":[]}\n";
    let url = "/api/v1/batches?client=demo";
    for key in ["n", "n"] {
        tour.call("post", batches, url, &[ndjson, ("Idempotency-Key", key)], Some(rows));
    }
    tour.call("post", batches, url, &[ndjson, ("Idempotency-Key", "n")], Some("{\"pcId\":\"2\",\"a\":1}"));
    tour.call("post", batches, url, &[("Content-Type", "text/csv")], Some(file));
    for accept in ["*/*", "text/csv", "application/x-ndjson"] {
        tour.call("post", batches, &format!("{url}&dryRun=true"), &[ndjson, ("Accept", accept)], Some(rows));
    }
    for (headers, body) in [(&[ndjson][..], "nothing"), (&[media_type][..], rows)] {
        assert!(tour.call("post", batches, url, headers, Some(body)).status >= 400);
    }
    let id = daemon.post_batch("demo", file);
    for path in ["/m2/{client}/profile/batchStatus", "/m2/{client}/v2/profile/batchStatus"] {
        let url = path.replace("{client}", "demo");
        tour.get(path, &format!("{url}?batchId={id}&showDetails=true"));
        tour.get(path, &url);
    }
    daemon.wait_complete(&id);
    for path in ["", "/events", "/outcomes", "/repair", "/file"] {
        for id in [id.as_str(), "demo-1701473848678-10000001"] {
            tour.get(&format!("/api/v1/batches/{{id}}{path}"), &format!("/api/v1/batches/{id}{path}"));
        }
    }
    let distribution = "/api/v1/batches/{id}/attributes/{name}/distribution";
    for (id, name) in [(id.as_str(), "a"), (&id, "none"), ("demo-1701473848678-10000001", "a")] {
        tour.get(distribution, &format!("/api/v1/batches/{id}/attributes/{name}/distribution"));
    }
    let comparison = "/api/v1/batches/{id}/comparison";
    for (id, query) in [(id.as_str(), ""), (&id, "?with=demo-1-1"), ("demo-1701473848678-10000001", "")] {
        tour.get(comparison, &format!("/api/v1/batches/{id}/comparison{query}"));
    }
    let json = ("Content-Type", "application/json");
    let undo = "/api/v1/batches/{id}/undo";
    for id in [id.as_str(), "demo-1701473848678-10000001"] {
        for body in ["{\"dryRun\":true}", "{}", "{\"dry\":1}"] {
            let headers = [json, ("Idempotency-Key", id)];
            tour.call("post", undo, &format!("/api/v1/batches/{id}/undo"), &headers, Some(body));
        }
    }
    // Of one that is stuck, `stuck.rs` has what they answer.
    let text = ("Content-Type", "text/csv");
    for id in [id.as_str(), "demo-1701473848678-10000001"] {
        let url = format!("/api/v1/batches/{id}");
        tour.call("delete", "/api/v1/batches/{id}", &url, &[], None);
        tour.call("post", "/api/v1/batches/{id}/file", &format!("{url}/file"), &[text], Some(file));
    }
    let ndjson = ("Accept", "application/x-ndjson");
    let outcomes = "/api/v1/batches/{id}/outcomes";
    tour.call("get", outcomes, &format!("/api/v1/batches/{id}/outcomes?limit=2"), &[ndjson], None);
    tour.get("/api/v1/batches", "/api/v1/batches?client=demo");
    tour.get("/api/v1/batches", "/api/v1/batches");
    tour.get("/api/v1/statistics", "/api/v1/statistics?client=demo");
    tour.get("/api/v1/clients", "/api/v1/clients");
    tour.get("/api/v1/status", "/api/v1/status");
    for form in ["ndjson", "csv", "xml"] {
        tour.get("/api/v1/export", &format!("/api/v1/export?client=demo&format={form}"));
    }
    for since in ["0", "x"] {
        tour.get("/api/v1/changes", &format!("/api/v1/changes?client=demo&since={since}"));
    }
    let live = "/api/v1/live";
    tour.get(live, "/api/v1/live?seconds=0");
    let heard = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Some call comes in while somebody listens, of each shape.
        scope.spawn(|| {
            while !heard.load(Ordering::Relaxed) {
                daemon.get("/m2/demo/mbox/json?mbox=m&mboxPC=1&mbox3rdPartyId=undefined&profile.a=1");
                daemon.call("POST", "/m2/demo/profile/batchUpdate?dryRun=true", &[], Some(file.as_bytes()));
                daemon.get("/m2/demo/mbox/jsn");
            }
        });
        let _ends = Ends(&heard);
        let mut unheard = vec!["\"listening\"", "\"mboxes\"", "\"dryRun\"", "\"message\""];
        wait_for("each shape of an event", || {
            let told = tour.get(live, "/api/v1/live?client=demo&seconds=1").text();
            unheard.retain(|what| !told.contains(what));
            unheard.is_empty().then_some(())
        });
    });
    let update = "/m2/{client}/profile/update";
    let url = "/m2/demo/profile/update?mboxPC=1&profile.a=5";
    tour.get(update, url);
    tour.call("post", update, url, &[form], Some(""));
    tour.get(update, "/m2/demo/profile/update");
    for (kind, id) in [("", "1"), ("thirdPartyId/", "t"), ("marketingCloudVisitorId/", "3"), ("", "none")] {
        tour.get(
            &format!("/rest/v1/profiles/{kind}{{id}}"),
            &format!("/rest/v1/profiles/{kind}{id}?client=demo"),
        );
    }
    let profile = "/api/v1/profiles/{id}";
    tour.get(profile, "/api/v1/profiles/t?client=demo&lines=true");
    tour.get(profile, "/api/v1/profiles/none?client=demo");
    for query in [
        "beginning=t",
        "beginning=none",
        "beginning=t&limit=1&after=t",
        "",
        "beginning=t&by=email",
        "attribute=a&value=1",
        "attribute=a&value=1&after=t",
        "active=true",
        "active=true&limit=1",
        "active=true&by=pc",
    ] {
        tour.get("/api/v1/profiles", &format!("/api/v1/profiles?client=demo&{query}"));
    }
    for at in ["0", "18446744073709551615", "2001-01-01T00:00:00Z", "then"] {
        tour.get(profile, &format!("/api/v1/profiles/t?client=demo&as_of={at}"));
    }
    for id in ["t", "none"] {
        tour.get("/api/v1/profiles/{id}/history", &format!("/api/v1/profiles/{id}/history?client=demo"));
    }
    let attribute = "/api/v1/profiles/{id}/attributes/{name}";
    tour.call("delete", attribute, "/api/v1/profiles/t/attributes/a?client=demo", &[], None);
    tour.call("delete", attribute, "/api/v1/profiles/t/attributes/a?client=demo", &[], None);
    tour.call("delete", profile, "/api/v1/profiles/t?client=demo", &[], None);
    let (erasures, ids) = ("/api/v1/erasures", "/api/v1/erasures?client=demo");
    for file in ["thirdPartyId\nt\nnone\n", "thirdPartyId\na/b\n", ""] {
        tour.call("post", erasures, ids, &[("Content-Type", "text/csv")], Some(file));
    }
    tour.call("post", "/api/v1/compact", "/api/v1/compact", &[media_type], Some("{}"));
    tour.call("post", "/api/v1/reload", "/api/v1/reload", &[media_type], Some("{}"));
    let folder = json!({"folder": daemon.data().with_file_name("backup")}).to_string();
    tour.call("post", "/api/v1/backup", "/api/v1/backup", &[media_type], Some(&folder));
    // Of a node, `tests/cluster` has what they answer.
    for path in ["/api/v1/cluster", "/api/v1/cluster/snapshot"] {
        assert_eq!(tour.get(path, path).status, 404);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        tour.get(path, path);
    }

    // A call that goes on without something says so, whatever its door.
    let origin = ("Origin", "http://shop.test");
    let nobody = r#"{"id":{"thirdPartyId":"undefined"},"thirdPartyId":"undefined","mbox":"m"}"#;
    let left_out = |reply: Reply| assert!(reply.header("profiled-left-out").is_some(), "{}", reply.text());
    let url = "/m2/demo/mbox/json?mbox=m&mboxPC=1&mbox3rdPartyId=undefined";
    left_out(tour.get("/m2/{client}/mbox/{kind}", url));
    left_out(
        tour.get(ubox, "/m2/demo/ubox/image?mbox=m&mboxPC=1&mbox3rdPartyId=null&mboxDefault=http://a/b"),
    );
    left_out(tour.get(update, "/m2/demo/profile/update?mboxPC=1&profile.a=x&b"));
    left_out(tour.call(
        "post",
        "/rest/v1/mbox",
        "/rest/v1/mbox?client=demo",
        &[media_type, origin],
        Some(nobody),
    ));
    let batches = "/rest/v2/batchmbox";
    left_out(tour.call(
        "post",
        batches,
        "/rest/v2/batchmbox?client=demo",
        &[media_type, origin],
        Some(nobody),
    ));
    left_out(tour.call(
        "post",
        delivery,
        "/rest/v1/delivery?client=demo&sessionId=s",
        &[media_type],
        Some(nobody),
    ));
    let url = "/m2/demo/profile/batchUpdate";
    let batch_update = "/m2/{client}/profile/batchUpdate";
    tour.call("post", batch_update, url, &[("Content-Type", "image/png")], Some("x"));
    for name in
        ["profiled-left-out", "profiled-outcome", "profiled-seq", "idempotency-replayed", "etag", "link"]
    {
        assert!(tour.headers.contains(name), "no call was made that answers with {name}");
    }

    // Last, for the daemon then asks for the token.
    let tokens = "/api/v1/tokens";
    tour.get(tokens, tokens);
    tour.call("post", tokens, tokens, &[media_type], Some("{}"));
    tour.call("delete", "/api/v1/tokens/{id}", "/api/v1/tokens/0", &[], None);
    let wanted = r#"{"allClients": true, "scope": "admin", "expiresInMs": 600000}"#;
    let made = tour.call("post", tokens, tokens, &[media_type], Some(wanted)).json();
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let bearer = ("Authorization", bearer.as_str());
    tour.call("get", tokens, tokens, &[bearer], None);
    let url = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    tour.call("delete", "/api/v1/tokens/{id}", &url, &[bearer], None);

    let paths = tour.document["paths"].as_object().unwrap().iter();
    let all: BTreeSet<_> = paths
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|it| (it.clone(), path.clone())))
        .collect();
    assert_eq!(tour.made, all, "each call that is described is made");
}

/// A header that is made in the sources is one that the document describes, or one of a request.
#[test]
fn each_header_that_the_sources_name_is_described() {
    let daemon = Daemon::start();
    let document = daemon.get("/openapi.json").text().to_ascii_lowercase();
    let of_requests = ["sec-fetch-site", "access_token"];
    // Pages alone have it, and no document describes those.
    let of_pages = ["referrer-policy"];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for after in source.split("HeaderName::from_static(\"").skip(1) {
                let name = after.split('"').next().unwrap();
                found += 1;
                let known = of_requests.contains(&name) || of_pages.contains(&name);
                assert!(known || document.contains(&format!("\"{name}\"")), "{name} of {}", path.display());
            }
        }
    }
    assert!(found > 5, "{found}");
}

#[test]
fn schemathesis_finds_no_call_that_is_not_as_described() {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/schemathesis/bin/schemathesis");
    if let Err(error) = Command::new(&tool).arg("--version").output() {
        let make = "python3 -m venv target/schemathesis && target/schemathesis/bin/pip install schemathesis";
        support::skip(&format!("schemathesis cannot be run ({error}): {make}"));
        return;
    }
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&mbox3rdPartyId=t&mboxMCGVID=3&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=pcId,a,b\n1,x,y\n9,x\n1,%zz\n1,,\n");
    daemon.wait_complete(&batch);
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(&tool)
        .arg("--config-file")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", daemon.url())])
        .args(["--max-examples", &support::variable("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|| "20".into())])
        .args(["--seed", "7", "--no-color", "--generation-database", "none"])
        .env(
            "SCHEMATHESIS_HOOKS",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/schemathesis_hooks.py"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let reported = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{reported}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", reported.trim_end().lines().last().unwrap());
    assert_eq!(daemon.get("/readyz").status, 200);
}
