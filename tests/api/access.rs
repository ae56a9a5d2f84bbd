//! Access: every endpoint with every kind of caller, the life of a token, what one client learns about another, and the audit trail
//! of administrative acts. Neither the log nor the audit trail may contain private data.

use crate::support::{self, Daemon, Reply, wait_for};

/// The access that a call needs, as in the design's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Any,
    Batch,
    Read,
    /// The scope of a token.
    BatchAndRead,
    Admin,
    /// A token of every client, for all there is.
    Everywhere,
    /// The same, only to read.
    ReadEverywhere,
}

use Takes::{Admin, Any, Batch, BatchAndRead, Everywhere, Nothing, Read, ReadEverywhere};

/// Each endpoint, by each of its methods. `{batch}` is a batch's id, `{folder}` a folder that is not there yet.
const ENDPOINTS: [(&str, &str, Takes); 69] = [
    ("GET", "/?client=demo", Any),
    ("GET", "/visitors?client=demo&by=pc&id=1", Read),
    ("GET", "/find?client=demo&attribute=a&value=1", Read),
    ("GET", "/find?client=demo", Read),
    ("GET", "/batches?client=demo", Any),
    ("GET", "/batches/{batch}", Any),
    ("GET", "/batches/{batch}/progress", Any),
    ("GET", "/batches/{batch}/outcomes", Any),
    ("GET", "/batches/{batch}/repair", Any),
    ("GET", "/batches/{batch}/file", Any),
    ("GET", "/upload?client=demo", Any),
    ("GET", "/cluster", ReadEverywhere),
    ("GET", "/assets/inspector.css", Nothing),
    ("POST", "/m2/demo/profile/batchUpdate", Batch),
    ("POST", "/m2/demo/v2/profile/batchUpdate", Batch),
    ("GET", "/m2/demo/profile/batchStatus?batchId={batch}", Any),
    ("GET", "/m2/demo/v2/profile/batchStatus?batchId={batch}", Any),
    ("GET", "/m2/demo/profile/batchStatus?batchId=demo-1701473848678-10000001", Any),
    ("GET", "/m2/demo/profile/update?mboxPC=1&profile.a=1", Batch),
    ("POST", "/m2/demo/profile/update?mboxPC=1&profile.a=1", Batch),
    ("GET", "/rest/v1/profiles/1?client=demo", Read),
    ("HEAD", "/rest/v1/profiles/1?client=demo", Read),
    ("GET", "/rest/v1/profiles/thirdPartyId/t?client=demo", Read),
    ("GET", "/rest/v1/profiles/marketingCloudVisitorId/3?client=demo", Read),
    ("GET", "/api/v1/profiles/1?by=pc&client=demo", Read),
    ("GET", "/api/v1/profiles?beginning=1&by=pc&client=demo", Read),
    ("GET", "/api/v1/profiles?attribute=a&value=1&client=demo", Read),
    ("GET", "/api/v1/profiles?active=true&client=demo", Read),
    ("DELETE", "/api/v1/profiles/9?by=pc&client=demo", Admin),
    ("DELETE", "/api/v1/profiles/1/attributes/none?by=pc&client=demo", Admin),
    ("POST", "/api/v1/erasures?client=demo", Admin),
    ("GET", "/api/v1/batches?client=demo", Any),
    ("GET", "/api/v1/batches/{batch}", Any),
    ("GET", "/api/v1/batches/{batch}/events", Any),
    ("GET", "/api/v1/batches/{batch}/outcomes", Any),
    ("GET", "/api/v1/batches/{batch}/repair", Any),
    ("GET", "/api/v1/batches/{batch}/file", Any),
    ("GET", "/api/v1/batches/{batch}/attributes/a/distribution", Any),
    ("GET", "/api/v1/batches/{batch}/comparison", Any),
    ("DELETE", "/api/v1/batches/{batch}", Admin),
    ("POST", "/api/v1/batches/{batch}/file", Admin),
    ("GET", "/api/v1/batches/demo-1701473848678-10000001/outcomes", Any),
    ("GET", "/api/v1/statistics?client=demo", Read),
    ("GET", "/api/v1/clients", ReadEverywhere),
    ("GET", "/api/v1/status", ReadEverywhere),
    ("GET", "/api/v1/batches/demo-1701473848678-10000001", Any),
    ("GET", "/api/v1/export?format=ndjson&client=demo", Admin),
    ("GET", "/api/v1/changes?since=0&client=demo", Admin),
    ("POST", "/api/v1/compact", Everywhere),
    ("POST", "/api/v1/backup", Everywhere),
    ("GET", "/api/v1/tokens", Everywhere),
    ("POST", "/api/v1/tokens", Everywhere),
    ("DELETE", "/api/v1/tokens/none", Everywhere),
    ("POST", "/api/v1/reload", Everywhere),
    ("GET", "/api/v1/cluster", ReadEverywhere),
    ("GET", "/api/v1/cluster/snapshot", Everywhere),
    ("GET", "/m2/demo/mbox/json?mboxPC=1", Nothing),
    ("POST", "/m2/demo/mbox/ajax?mboxPC=1", Nothing),
    ("GET", "/m2/demo/mbox/standard?mboxPC=1", Nothing),
    ("GET", "/m2/demo/ubox/raw?mboxPC=1&mboxDefault=x", Nothing),
    ("GET", "/m2/demo/ubox/image?mboxPC=1&mboxDefault=http://a/b", Nothing),
    ("GET", "/m2/demo/ubox/page?mboxPC=1&mboxDefault=http://a/b", Nothing),
    ("POST", "/rest/v1/delivery?client=demo&sessionId=s", Nothing),
    ("POST", "/rest/v1/mbox?client=demo", Nothing),
    ("POST", "/rest/v1/mbox/s?client=demo", Nothing),
    ("POST", "/rest/v2/batchmbox?client=demo", Nothing),
    ("GET", "/openapi.json", Nothing),
    ("GET", "/healthz", Nothing),
    ("GET", "/readyz", Nothing),
];

/// The callers, and what their tokens allow.
struct Callers {
    /// The name, the token, whether it is valid, whether it is for demo and for every client, and its scope.
    all: Vec<(&'static str, Option<String>, Standing)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// 401.
    Unknown,
    /// 403 for every call that needs a token.
    OfAnother,
    /// Of demo.
    Of(Takes),
    /// Of every client.
    OfAll(Takes),
}

impl Callers {
    fn of(daemon: &Daemon) -> Self {
        let demo = |scope| daemon.make_token(&["--client", "demo", "--scope", scope]);
        let every = |scope| daemon.make_token(&["--all-clients", "--scope", scope]);
        let expired = daemon.make_token(&["--client", "demo", "--scope", "admin", "--expires", "1ms"]);
        let revoked = demo("admin");
        let id = revoked.split('_').nth(1).unwrap();
        assert_eq!(daemon.run(&["token", "revoke", id]).0, Some(0));
        let wrong = demo("admin") + "0";
        let all = vec![
            ("no token", None, Standing::Unknown),
            ("a wrong token", Some(wrong), Standing::Unknown),
            ("an expired token", Some(expired), Standing::Unknown),
            ("a revoked token", Some(revoked), Standing::Unknown),
            (
                "another client's",
                Some(daemon.make_token(&["--client", "other", "--scope", "admin"])),
                Standing::OfAnother,
            ),
            (
                "a client's whose code begins alike",
                Some(daemon.make_token(&["--client", "dem", "--scope", "admin"])),
                Standing::OfAnother,
            ),
            ("batch", Some(demo("batch")), Standing::Of(Batch)),
            ("read", Some(demo("read")), Standing::Of(Read)),
            ("batch and read", Some(demo("read,batch")), Standing::Of(BatchAndRead)),
            ("admin", Some(demo("admin")), Standing::Of(Admin)),
            ("batch of all", Some(every("batch")), Standing::OfAll(Batch)),
            ("batch and read of all", Some(every("batch,read")), Standing::OfAll(BatchAndRead)),
            ("read of all", Some(every("read")), Standing::OfAll(Read)),
            ("admin of all", Some(every("admin")), Standing::OfAll(Admin)),
        ];
        Self { all }
    }
}

/// The status of a refusal, if the caller is to be refused.
fn refusal(path: &str, takes: Takes, standing: Standing) -> Option<u16> {
    match (takes, standing) {
        (Nothing, _) => None,
        // Segment's destination for Adobe Target only recognises `Forbidden` as a wrong token.
        (_, Standing::Unknown) if is_adobes(path) => Some(403),
        (_, Standing::Unknown) => Some(401),
        (_, Standing::OfAnother) => Some(403),
        (Everywhere, Standing::OfAll(scope)) => (scope != Admin).then_some(403),
        (ReadEverywhere, Standing::OfAll(scope)) => {
            (![Admin, Read, BatchAndRead].contains(&scope)).then_some(403)
        }
        (Everywhere | ReadEverywhere, Standing::Of(_)) => Some(403),
        (_, Standing::Of(scope) | Standing::OfAll(scope)) => {
            (takes != Any && takes != scope && scope != Admin && !both(scope, takes)).then_some(403)
        }
    }
}

fn both(scope: Takes, takes: Takes) -> bool {
    scope == BatchAndRead && matches!(takes, Batch | Read)
}

/// Whether it is one of Adobe's calls that need a token.
fn is_adobes(path: &str) -> bool {
    path.starts_with("/rest/v1/profiles/") || (path.starts_with("/m2/") && path.contains("/profile/"))
}

/// Whether it is a call of the site in JSON.
fn is_in_json(path: &str) -> bool {
    ["/rest/v1/delivery", "/rest/v1/mbox", "/rest/v2/"].iter().any(|start| path.starts_with(start))
}

fn call(daemon: &Daemon, method: &str, path: &str, token: Option<&str>) -> Reply {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let media_type = match path {
        _ if path.starts_with("/api/v1/") || is_in_json(path) => "application/json",
        _ => "application/x-www-form-urlencoded",
    };
    let mut headers = vec![("Content-Type", media_type), ("Connection", "close")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    let folder = daemon.data().with_file_name("backup");
    let body = match path {
        "/api/v1/backup" => format!("{{\"folder\": {:?}}}", folder.to_str().unwrap()),
        "/api/v1/compact" => "{}".into(),
        _ if path.contains("batchUpdate") => "batch=pcId,a\n1,2\n".into(),
        _ if is_in_json(path) => {
            r#"{"mbox":"m","context":{"channel":"web"},"id":{"tntId":"1"},"execute":{"pageLoad":{}}}"#.into()
        }
        _ => String::new(),
    };
    let body = (method == "POST").then_some(body.as_bytes());
    let mut connection = daemon.connect();
    connection.write(&support::request(method, path, "localhost", &headers, body));
    if method == "HEAD" { connection.read_head() } else { connection.read() }
}

#[test]
fn every_endpoint_lets_in_whom_it_should_and_nobody_else() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&mbox3rdPartyId=t&mboxMCGVID=3&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n");
    daemon.wait_complete(&batch);
    let callers = Callers::of(&daemon);
    daemon.hang_up();
    wait_for("the tokens to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    wait_for("the last of them to be known", || {
        let (_, token, _) = callers.all.last().unwrap();
        (call(&daemon, "GET", "/api/v1/batches?client=demo", token.as_deref()).status == 200).then_some(())
    });
    let mut seen = [0; 3];
    for (method, path, takes) in ENDPOINTS {
        let path = path.replace("{batch}", &batch);
        for (name, token, standing) in &callers.all {
            let reply = call(&daemon, method, &path, token.as_deref());
            let reported = format!("{method} {path} with {name}: {} {}", reply.status, reply.text());
            match refusal(&path, takes, *standing) {
                Some(status) => assert_eq!(reply.status, status, "{reported}"),
                None => assert!(!matches!(reply.status, 401 | 403 | 500..), "{reported}"),
            }
            assert_eq!(reply.header("www-authenticate").is_some(), reply.status == 401, "{reported}");
            seen[match reply.status {
                401 => 0,
                403 => 1,
                _ => 2,
            }] += 1;
            if matches!(reply.status, 401 | 403) && method != "HEAD" {
                in_the_doors_form(&path, &reply);
                assert_eq!(is_adobes(&path), reply.text().contains("Forbidden:"), "{reported}");
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

/// A refusal has the form that the clients of its door understand.
fn in_the_doors_form(path: &str, reply: &Reply) {
    if path.starts_with("/m2/") {
        assert_eq!(reply.element("success").as_deref(), Some("false"), "{path}: {}", reply.text());
        assert!(!reply.element("message").unwrap().is_empty());
    } else if !path.starts_with("/api/") && !path.starts_with("/rest/") {
        assert_eq!(reply.header("content-type"), Some("text/html;charset=UTF-8"), "{path}: {}", reply.text());
    } else {
        assert_eq!(reply.json()["status"], reply.status, "{path}");
        assert!(!reply.json()["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_refusal_does_not_show_what_exists() {
    let daemon = Daemon::start_configured("[clients.demo]\n[clients.other]\n");
    let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n");
    let token = daemon.make_token(&["--client", "other", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    // Something that exists and something that does not are refused in the same way, except for the id in the message.
    let none = "demo-1701473848678-10000001";
    for path in ["/m2/demo/profile/batchStatus?batchId={}", "/api/v1/batches/{}"] {
        for token in [None, Some(token.as_str())] {
            let reported = |id: &str| {
                let reply = call(&daemon, "GET", &path.replace("{}", id), token);
                (reply.status, reply.text().replace(id, "ID"))
            };
            assert_eq!(reported(&batch), reported(none), "{path}");
            assert!(matches!(reported(none).0, 401 | 403));
        }
    }
    for (client, other) in [("demo", "nobody"), ("demo", "dem")] {
        let reported = |client: &str| {
            let path = format!("/api/v1/profiles/1?by=pc&client={client}");
            let reply = call(&daemon, "GET", &path, Some(&token));
            (reply.status, reply.text().replace(client, "CLIENT"))
        };
        assert_eq!(reported(client), reported(other));
        assert_eq!(reported(client).0, 403);
    }
    // Its own path does not reach another client's batch either.
    let own = format!("/m2/other/profile/batchStatus?batchId={batch}");
    assert_eq!(call(&daemon, "GET", &own, Some(&token)).status, 404);
    let list = call(&daemon, "GET", "/api/v1/batches?client=other", Some(&token));
    assert_eq!((list.status, list.json()["batches"].as_array().unwrap().len()), (200, 0));
}

#[test]
fn what_is_brought_as_authorization_is_read_as_the_standard_says() {
    let daemon = Daemon::start();
    let token = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    let check = |authorization: &str, status: u16, challenge: &str| {
        let reply =
            daemon.call("GET", "/api/v1/batches?client=demo", &[("Authorization", authorization)], None);
        assert_eq!(reply.status, status, "{authorization:?}");
        let found = reply.header("www-authenticate").unwrap_or_default();
        assert!(found.contains(challenge), "{authorization:?}: {found}");
    };
    check(&format!("Bearer {token}"), 200, "");
    check(&format!("bearer   {token}"), 200, "");
    check(&format!("BEARER {token}"), 200, "");
    check(&token, 401, "invalid_request");
    check(&format!("Basic {token}"), 401, "invalid_request");
    check("Bearer ", 401, "invalid_request");
    check("Bearer \u{e9}", 401, "invalid_request");
    check(&format!("Bearer {token} {token}"), 401, "invalid_token");
    check(&format!("Bearer {}", token.to_uppercase()), 401, "invalid_token");
    check(&format!("Bearer {}", "x".repeat(20_000)), 401, "invalid_token");
    // A token elsewhere is not read either: logs and histories would keep it.
    let query = format!("/api/v1/batches?client=demo&token={token}&access_token={token}");
    assert_eq!(daemon.get(&query).status, 401);
}

/// If a token is missing, the answer says where it belongs, also if it is in another place that RFC 6750 allows. If no token is
/// needed, a token does no harm.
#[test]
fn the_answer_to_a_misplaced_token_says_where_it_belongs_and_a_needless_token_does_no_harm() {
    let daemon = Daemon::start();
    let site = ["/m2/demo/mbox/json?mbox=m&mboxPC=1", "/healthz", "/readyz", "/openapi.json"];
    // There are no tokens, so a caller with one is let in like any other.
    for path in site.iter().chain(&["/api/v1/batches?client=demo", "/metrics"]) {
        assert_eq!(call(&daemon, "GET", path, Some("profiled_nobody")).status, 200, "{path}");
    }
    let token = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("the token to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    for path in site {
        for brought in [token.as_str(), "profiled_nobody"] {
            assert_eq!(call(&daemon, "GET", path, Some(brought)).status, 200, "{path}");
        }
    }
    let right = "send Authorization: Bearer TOKEN, with a token from `profiled token new`";
    let missing = format!("a token is needed: {right}; it is not read from a body");
    let in_query = format!("access_token in the query is not read, for logs would keep it: {right}");
    let in_header = format!("the header access_token is not read: {right}");
    let batches = "/api/v1/batches?client=demo";
    let update = "/m2/demo/profile/update";
    let form = format!("mboxPC=1&profile.a=1&access_token={token}");
    let query = format!("{batches}&access_token={token}");
    let json = |reply: &Reply| reply.json()["message"].as_str().map(str::to_owned);
    assert_eq!(json(&daemon.get(batches)), Some(missing.clone()));
    assert_eq!(json(&daemon.get(&query)), Some(in_query.clone()));
    assert_eq!(json(&daemon.call("GET", batches, &[("access_token", &token)], None)), Some(in_header));
    let refused = daemon.get(&format!("{update}?{form}"));
    assert_eq!((refused.status, refused.element("message")), (403, Some(format!("Forbidden: {in_query}"))));
    let refused = daemon.post_form(update, &form);
    assert_eq!((refused.status, refused.element("message")), (403, Some(format!("Forbidden: {missing}"))));
}

#[test]
fn a_tokens_life() {
    let mut daemon = Daemon::start();
    let (code, out, said) = daemon.run(&["token", "list"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(out.contains("no tokens"), "{out}");
    let (_, token, said) =
        daemon.run(&["token", "new", "--client", "demo", "--scope", "admin", "--expires", "90d"]);
    let token = token.trim_end();
    assert!(said.contains("first token"), "{said}");
    assert!(token.starts_with("profiled_") && token.len() == 8 + 1 + 8 + 1 + 64, "{token}");
    let (_, list, _) = daemon.run(&["token", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!((&list[0]["state"], &list[0]["client"]), (&"valid".into(), &"demo".into()));
    assert!(!list.to_string().contains(token), "a token is shown once");

    // Until the SIGHUP, the daemon goes on as before.
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 200);
    daemon.hang_up();
    wait_for("the token to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    let (code, _, said) = daemon.run(&["batch", "list", "--client", "demo"]);
    assert!(code == Some(1) && said.contains("a token is needed"), "{said}");
    let (code, _, said) = daemon.run(&["batch", "list", "--client", "demo", "--token", token]);
    assert_eq!(code, Some(0), "{said}");
    daemon.set_variable("PROFILED_TOKEN", token);
    assert_eq!(daemon.run(&["batch", "list", "--client", "demo"]).0, Some(0));

    // A second token replaces the first, which is then revoked.
    let next = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    assert_eq!(daemon.run(&["token", "revoke", id]).0, Some(0));
    daemon.hang_up();
    let list = |token: &str| call(&daemon, "GET", "/api/v1/batches?client=demo", Some(token)).status;
    wait_for("the first to be refused", || (list(token) == 401).then_some(()));
    assert_eq!(list(&next), 200);
    let (code, _, said) = daemon.run(&["token", "revoke", "nonesuch"]);
    assert!(code == Some(2) && said.contains("no token nonesuch"), "{said}");

    // A restart knows the tokens. If their file can't be read, the daemon must not start without access control.
    let tokens = daemon.data().join("tokens.json");
    daemon.kill9().restart();
    assert_eq!(call(&daemon, "GET", "/api/v1/batches?client=demo", Some(token)).status, 401);
    let kept = std::fs::read(&tokens).unwrap();
    std::fs::write(&tokens, "{").unwrap();
    daemon.keep_complaints();
    daemon.hang_up();
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 401);
    daemon.kill9();
    std::fs::write(&tokens, &kept).unwrap();
    daemon.restart();
    // A missing file does not open them either, before a start may say where it listens.
    std::fs::remove_file(&tokens).unwrap();
    daemon.hang_up();
    wait_for("the complaint", || daemon.complaints().contains("is gone").then_some(()));
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 401);
    std::fs::write(&tokens, "{").unwrap();
    daemon.kill9();
    assert!(daemon.try_restart().is_err());
    daemon.wait_for_complaint("tokens.json");
    std::fs::write(&tokens, kept).unwrap();
    daemon.restart();
}

#[test]
fn a_running_daemon_makes_tokens_lists_and_revokes_them_and_they_count_at_once() {
    let daemon = Daemon::start();
    let json = ("Content-Type", "application/json");
    let send = |method: &str, path: &str, token: Option<&str>, body: &str| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![json];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        daemon.call(method, path, &headers, Some(body.as_bytes()))
    };
    let make = |token: Option<&str>, body: &str| send("POST", "/api/v1/tokens", token, body);
    // Nobody may begin access control from another origin's page.
    let first = r#"{"allClients": true, "scope": "admin"}"#;
    let foreign = [json, ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(daemon.call("POST", "/api/v1/tokens", &foreign, Some(first.as_bytes())).status, 403);
    assert_eq!(daemon.get("/api/v1/tokens").json()["tokens"], serde_json::json!([]));
    let made = make(None, first);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let admin = made["token"].as_str().unwrap();
    assert_eq!(daemon.get("/api/v1/tokens").status, 401, "from now on it is asked for");
    for (body, says) in [
        ("{}", "scope"),
        (r#"{"scope": "read"}"#, "allClients"),
        (r#"{"client": "demo", "allClients": true, "scope": "read"}"#, "either"),
        (r#"{"client": "a b", "scope": "read"}"#, "not a client code"),
        (r#"{"client": "demo", "scope": "write"}"#, "use batch, read or admin"),
        (r#"{"client": "demo", "scope": "read", "expiresInMs": 0}"#, "expiresInMs"),
        (r#"{"client": "demo", "scope": "read", "expires": 1}"#, "expires"),
    ] {
        let refused = make(Some(admin), body);
        assert!(refused.status == 400 && refused.text().contains(says), "{body}: {}", refused.text());
    }
    let short = make(Some(admin), r#"{"client": "demo", "scope": "read", "expiresInMs": 1}"#).json();
    wait_for("it to expire", || {
        let token = short["token"].as_str();
        (call(&daemon, "GET", "/api/v1/batches?client=demo", token).status == 401).then_some(())
    });
    let made = make(Some(admin), r#"{"client": "demo", "scope": "batch,read"}"#).json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let path = "/api/v1/batches?client=demo";
    assert_eq!(call(&daemon, "GET", path, Some(token)).status, 200);
    let list = call(&daemon, "GET", "/api/v1/tokens", Some(admin));
    let tokens = list.json()["tokens"].as_array().unwrap().clone();
    let shown: Vec<_> = tokens.iter().map(|it| (&it["client"], &it["scope"], &it["state"])).collect();
    let (all, demo) = (serde_json::Value::Null, serde_json::json!("demo"));
    let [admin_scope, read, both] = ["admin", "read", "batch,read"].map(|it| serde_json::json!(it));
    let [valid, expired] = ["valid", "expired"].map(|it| serde_json::json!(it));
    let expected = [(&all, &admin_scope, &valid), (&demo, &read, &expired), (&demo, &both, &valid)];
    assert_eq!(shown, expected);
    // Neither the list nor the file has what lets in.
    let stored = std::fs::read_to_string(daemon.data().join("tokens.json")).unwrap();
    let secret = token.rsplit('_').next().unwrap();
    assert!(!list.text().contains(secret) && !stored.contains(secret));
    let hash = stored.split("\"sha256\": \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(hash.len() == 64 && !list.text().contains(hash));

    let revoked = call(&daemon, "DELETE", &format!("/api/v1/tokens/{id}"), Some(admin));
    assert_eq!((revoked.status, &revoked.json()["state"]), (200, &serde_json::json!("revoked")));
    assert_eq!(call(&daemon, "GET", path, Some(token)).status, 401);
    for unknown in ["00000000", "none", &"f".repeat(300)] {
        let path = format!("/api/v1/tokens/{unknown}");
        assert_eq!(call(&daemon, "DELETE", &path, Some(admin)).status, 404, "{unknown}");
    }
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let admin_id = admin.split('_').nth(1).unwrap();
    let acts: Vec<serde_json::Value> =
        trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(acts.iter().filter(|act| act["act"] == "token new").count(), 3, "{trail}");
    let last = acts.last().unwrap();
    assert_eq!((&last["act"], &last["what"]), (&serde_json::json!("token revoke"), &serde_json::json!(id)));
    assert_eq!((&last["token"], &last["client"]), (&serde_json::json!(admin_id), &demo));
    assert!(!trail.contains(secret));
    // A restart finds all of it.
    let mut daemon = daemon;
    daemon.kill9().restart();
    assert_eq!(call(&daemon, "GET", path, Some(token)).status, 401);
    assert_eq!(call(&daemon, "GET", path, Some(admin)).status, 200);
}

/// The daemon's user once could not read a token file that root had created. The tokens stayed unread, and access stayed open.
#[test]
fn files_that_root_creates_belong_to_the_folders_owner() {
    use std::os::unix::fs::{MetadataExt, chown};
    const OWNER: u32 = 12_345;
    if !rustix::process::geteuid().is_root() {
        return support::skip("only root can make files for somebody else");
    }
    let mut daemon = Daemon::start();
    // More than one frame, because damage to the last one would count as a torn tail.
    for value in 0..3 {
        daemon.mbox("demo", &format!("mbox=m&mboxPC=p&profile.a={value}"));
    }
    let backup = daemon.data().with_file_name("backup");
    assert_eq!(daemon.run(&["backup", backup.to_str().unwrap()]).0, Some(0));
    daemon.terminate();
    assert!(daemon.ended().success());
    let data = daemon.data();
    std::fs::remove_file(data.join("audit.log")).unwrap();
    std::fs::remove_file(data.join("lock")).unwrap();
    chown(&data, Some(OWNER), Some(OWNER)).unwrap();
    for path in support::seen_below(&data).into_keys() {
        chown(path, Some(OWNER), Some(OWNER)).unwrap();
    }
    let owners = |folder: &std::path::Path| {
        let not_theirs = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().uid() != OWNER;
        support::seen_below(folder).into_keys().filter(not_theirs).collect::<Vec<_>>()
    };
    let run = |arguments: &[&str]| {
        let binary = env!("CARGO_BIN_EXE_profiled");
        std::process::Command::new(binary).args(arguments).env_clear().output().unwrap()
    };
    let text = data.to_str().unwrap();
    let token = run(&["token", "new", "--data", text, "--client", "demo", "--scope", "read"]);
    assert!(token.status.success());
    assert!(
        data.join("tokens.json").exists()
            && data.join("tokens.lock").exists()
            && data.join("audit.log").exists()
    );
    assert_eq!(owners(&data), Vec::<std::path::PathBuf>::new());
    // The damaged segment is kept, and new ones are created.
    let segment = data.join("journal/0000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[62] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    drop(run(&["check", "--salvage", "--data", text, "--log", "error"]));
    assert!(data.join("damaged").exists() && data.join("lock").exists());
    assert_eq!(owners(&data), Vec::<std::path::PathBuf>::new());
    // Into an empty folder that belongs to the daemon's user.
    let restored = data.with_file_name("restored");
    std::fs::create_dir(&restored).unwrap();
    chown(&restored, Some(OWNER), Some(OWNER)).unwrap();
    assert!(
        run(&["restore", backup.to_str().unwrap(), "--data", restored.to_str().unwrap()]).status.success()
    );
    assert_eq!(std::fs::metadata(&restored).unwrap().uid(), OWNER);
    assert_eq!(owners(&restored), Vec::<std::path::PathBuf>::new());
}

/// A token file that can't be read is not the same as no token file.
#[test]
fn tokens_that_cannot_be_read_open_no_door() {
    let mut daemon = Daemon::start();
    daemon.keep_complaints();
    daemon.kill9().restart();
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 200);
    let tokens = daemon.data().join("tokens.json");
    // Nobody can read a folder in place of the file, not even root.
    std::fs::create_dir(&tokens).unwrap();
    daemon.hang_up();
    wait_for("the doors to close", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    // Access is closed a moment before the daemon says why.
    wait_for("the complaint", || daemon.complaints().contains("tokens.json").then_some(()));
    daemon.kill9();
    assert!(daemon.try_restart().is_err());
    // Only since its last start.
    daemon.wait_for_complaint("tokens.json");
    std::fs::remove_dir(&tokens).unwrap();
    daemon.restart();
    let token = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    daemon.hang_up();
    wait_for("the token to let in", || {
        (call(&daemon, "GET", "/api/v1/batches?client=demo", Some(&token)).status == 200).then_some(())
    });
}

/// Once, the command silently created its own folder, and access to the daemon stayed open.
#[test]
fn a_token_is_made_in_a_data_folder_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let run = |data: &std::path::Path, arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(arguments)
            .args(["--data", data.to_str().unwrap()])
            .env_clear()
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let new = ["token", "new", "--client", "demo", "--scope", "read"];
    let data = folder.path().join("data");
    for command in [&new[..], &["token", "list"], &["token", "revoke", "x"]] {
        let (code, said) = run(&data, command);
        assert!(
            code == Some(1) && said.contains("is not a data folder") && said.contains("--init"),
            "{said}"
        );
    }
    assert!(!data.exists());
    std::fs::write(folder.path().join("mine"), "").unwrap();
    let (code, said) = run(folder.path(), &[&new[..], &["--init"]].concat());
    assert!(code == Some(1) && said.contains("it is neither empty"), "{said}");
    assert_eq!(run(&data, &[&new[..], &["--init"]].concat()).0, Some(0));
    assert_eq!(run(&data, &new).0, Some(0), "now it is one");
    let mut daemon = Daemon::configured("");
    daemon.set_data(data).restart();
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 401);
}

#[test]
fn backups_take_the_tokens_along() {
    let mut daemon = Daemon::start();
    let token = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    daemon.kill9().restart().set_variable("PROFILED_TOKEN", &token);
    let backup = daemon.data().with_file_name("backup");
    let (code, _, said) = daemon.run(&["backup", backup.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let restored = daemon.data().with_file_name("restored");
    let (code, _, said) =
        daemon.run(&["restore", backup.to_str().unwrap(), "--data", restored.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    daemon.kill9().set_data(restored.clone()).restart();
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 401);
    assert_eq!(call(&daemon, "GET", "/api/v1/batches?client=demo", Some(&token)).status, 200);
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&restored.join("tokens.json")), 0o600);
    for folder in [&restored, &backup] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
}

/// Clients with similar codes and ids all do the same at once.
#[test]
fn what_one_client_does_neither_changes_nor_shows_anything_of_another() {
    const CLIENTS: [&str; 8] = ["a", "ab", "a.b", "a-b", "a-1", "b", "A", "_"];
    const IDS: [&str; 5] = ["b", "1", "ab", "a-b", "\u{e9}"];
    let mut daemon = Daemon::configured("");
    let tokens = CLIENTS.map(|client| daemon.make_token(&["--client", client, "--scope", "admin"]));
    daemon.restart();
    let calls = CLIENTS.iter().zip(&tokens);
    let ask = |method: &str, path: &str, token: &str, body: Option<&str>| {
        let bearer = format!("Bearer {token}");
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
        daemon.call(method, path, &headers, body.map(str::as_bytes))
    };
    for (client, token) in calls.clone() {
        let mut file = String::from("batch=thirdPartyId,batch\n");
        for id in IDS {
            let encoded = support::encoded(id);
            let mbox = format!("mbox=m&mboxPC={encoded}&mbox3rdPartyId={encoded}&profile.mbox=of-{client}");
            assert_eq!(daemon.post_form(&format!("/m2/{client}/mbox/json"), &mbox).status, 200);
            let update = format!("mbox3rdPartyId={encoded}&profile.single=of-{client}");
            assert_eq!(
                ask("POST", &format!("/m2/{client}/profile/update"), token, Some(&update)).status,
                200
            );
            file += &format!("{encoded},of-{client}\n");
        }
        let batch =
            ask("POST", &format!("/m2/{client}/v2/profile/batchUpdate"), token, Some(&file)).batch_id();
        wait_for("the batch", || {
            let status = ask("GET", &format!("/api/v1/batches/{batch}"), token, None).json();
            (status["status"] == "complete").then_some(())
        });
    }
    let seen = |client: &str, token: &str| {
        let mut all =
            ask("GET", &format!("/api/v1/export?client={client}&format=ndjson"), token, None).text();
        all += &ask("GET", &format!("/api/v1/batches?client={client}"), token, None).text();
        for id in IDS {
            for by in ["pc", "third-party"] {
                let path = format!("/api/v1/profiles/{}?by={by}&client={client}", support::encoded(id));
                all += &ask("GET", &path, token, None).text();
            }
        }
        all
    };
    let counted = |token: &str| {
        let metrics = ask("GET", "/metrics", token, None).text();
        metrics.lines().filter(|line| line.contains("client=")).collect::<String>()
    };
    let before: Vec<String> = calls.clone().map(|(client, token)| seen(client, token)).collect();
    for (n, (client, all)) in CLIENTS.iter().zip(&before).enumerate() {
        assert_eq!(all.matches(&format!("\"of-{client}\"")).count(), 3 * IDS.len() * 3, "{client}: {all}");
        let all = &format!("{all}{}", counted(&tokens[n]));
        for (_, other) in CLIENTS.iter().enumerate().filter(|(m, _)| *m != n) {
            for trace in
                [format!("\"of-{other}\""), format!("client\":\"{other}\""), format!("client=\"{other}\"")]
            {
                assert!(!all.contains(&trace), "{client} sees {trace}: {all}");
            }
        }
    }
    // One of them erases all its visitors.
    for id in IDS {
        let path = format!("/api/v1/profiles/{}?client=a", support::encoded(id));
        assert_eq!(ask("DELETE", &path, &tokens[0], None).status, 200);
    }
    for (n, (client, token)) in calls.enumerate() {
        assert_eq!(seen(client, token) == before[n], n != 0, "{client}");
    }
}

/// An address that tries many wrong tokens gets 429. With a valid token it is still let in.
#[test]
fn an_address_that_fails_too_often_is_refused_otherwise() {
    let daemon = Daemon::start_configured("failed_authorisations_per_minute = 3\nloopback_exempt = false\n");
    let token = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    daemon.hang_up();
    let list = |token: Option<&str>| call(&daemon, "GET", "/api/v1/batches?client=demo", token).status;
    wait_for("the token to be asked for", || (list(None) == 401).then_some(()));
    let reported: Vec<u16> = (0..5).map(|n| list(Some(&format!("profiled_{n}_0")))).collect();
    assert_eq!(reported, [401, 401, 429, 429, 429]);
    assert_eq!(list(Some(&token)), 200);
    assert_eq!(daemon.metrics().hits("failed_authorisations"), 3);
}

/// The metrics show only those clients that the token is for.
#[test]
fn metrics_show_a_client_only_to_its_own_tokens() {
    let daemon = Daemon::start_configured("[clients.demo]\n[clients.other]\n");
    for client in ["demo", "other"] {
        daemon.mbox(client, "mbox=m&mboxPC=1&profile.a=1");
        daemon.post_batch(client, "batch=pcId,a\n1,2\n");
    }
    let token = |whose: &[&str], scope| daemon.make_token(&[whose, &["--scope", scope]].concat());
    let (demo, all) = (token(&["--client", "demo"], "batch"), token(&["--all-clients"], "read"));
    let clients = |token: Option<&str>| -> Vec<String> {
        let reply = call(&daemon, "GET", "/metrics", token);
        assert_eq!(reply.status, 200);
        let seen = support::metrics::Exposition::parse(&reply.text()).unwrap();
        seen.values_of("client").into_iter().map(str::to_owned).collect()
    };
    assert_eq!(clients(None), ["demo", "other"], "while no token is asked for");
    daemon.hang_up();
    wait_for("tokens to be asked for", || clients(None).is_empty().then_some(()));
    assert_eq!(clients(Some(&demo)), ["demo"]);
    assert_eq!(clients(Some(&all)), ["demo", "other"]);
    assert_eq!(call(&daemon, "GET", "/metrics", Some("x")).status, 401);
}

/// Without tokens, programs on this machine have access, but not web pages that its user visits.
#[test]
fn pages_of_other_origins_write_nothing_while_there_are_no_tokens() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.a=1");
    let own = format!("http://{}", daemon.address());
    let check = |method: &str, path: &str, header: (&str, &str), status: u16| {
        let headers = [header, ("Content-Type", "text/plain")];
        let body: Option<&[u8]> = (method == "POST").then_some(b"batch=pcId,a\n1,2\n");
        let reply = daemon.call(method, path, &headers, body);
        assert_eq!(reply.status, status, "{method} {path} {header:?}: {}", reply.text());
    };
    let (batch, update) = ("/m2/demo/v2/profile/batchUpdate", "/m2/demo/profile/update?mboxPC=1&profile.a=2");
    for (origin, status) in
        [(own.as_str(), 200), ("http://evil.example", 403), ("null", 403), ("http://127.0.0.1", 403)]
    {
        check("POST", batch, ("Origin", origin), status);
        check("GET", update, ("Origin", origin), status);
        check("GET", "/api/v1/profiles/1?by=pc&client=demo", ("Origin", origin), status);
    }
    for (site, status) in [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)] {
        check("POST", batch, ("Sec-Fetch-Site", site), status);
        check("GET", update, ("Sec-Fetch-Site", site), status);
        check("GET", "/api/v1/profiles/1?by=pc&client=demo", ("Sec-Fetch-Site", site), 200);
    }
    check("DELETE", "/api/v1/profiles/1?by=pc&client=demo", ("Origin", "http://evil.example"), 403);
    check("GET", "/m2/demo/mbox/json?mboxPC=1", ("Origin", "http://shop.example"), 200);
}

#[test]
fn administrative_acts_are_noted_and_nothing_private_with_them() {
    const CANARIES: [&str; 4] = ["canary-id", "canary-value", "canary-name", "canary-body"];
    let mut daemon = Daemon::configured("");
    daemon.keep_complaints().set_variable("PROFILED_LOG", "trace").restart();
    let token = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    let revoked = daemon.make_token(&["--client", "demo", "--scope", "read"]);
    daemon.run(&["token", "revoke", revoked.split('_').nth(1).unwrap()]);
    daemon.kill9().restart();
    let bearer = format!("Bearer {token}");
    let with = |method: &str, path: &str, body: Option<&str>| {
        let media_type = if path.starts_with("/api") || path.starts_with("/rest") {
            "application/json"
        } else {
            "application/x-www-form-urlencoded"
        };
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", media_type)];
        daemon.call(method, path, &headers, body.map(str::as_bytes))
    };
    daemon.mbox("demo", "mbox=m&mboxPC=canary-id&profile.canary-name=canary-value");
    daemon.post_form("/m2/demo/mbox/json", "mbox=m&mboxPC=canary-id.1.2&profile.canary-name=canary-value");
    let batch = "batch=pcId,canary-name\ncanary-id,canary-value\nbad%zz,canary-value\n";
    let reply = with("POST", "/m2/demo/v2/profile/batchUpdate", Some(batch));
    let id = reply.batch_id();
    wait_for("the batch", || {
        let status = with("GET", &format!("/api/v1/batches/{id}"), None);
        (status.json()["status"] == "complete").then_some(())
    });
    for wrong in [
        "canary-body",
        "batch=canary-body",
        "batch=pcId,a,a,canary-body\n",
        "batch=pcId,canary%zz-body\n1,2\n",
    ] {
        assert_eq!(with("POST", "/m2/demo/v2/profile/batchUpdate", Some(wrong)).status, 400, "{wrong}");
    }
    let delivery = r#"{"context":{"channel":"web"},"id":{"tntId":"canary-id"},"execute":{"pageLoad":{"profileParameters":{"canary-name":7}}}}"#;
    assert_eq!(with("POST", "/rest/v1/delivery?client=demo&sessionId=s", Some(delivery)).status, 400);
    with("GET", "/m2/demo/profile/update?mboxPC=canary-id&profile.canary-name=canary-value", None);
    with("GET", "/m2/demo/profile/update?mboxPC=canary-id&profile.=canary-value", None);
    assert_eq!(with("GET", "/api/v1/profiles/canary-id?by=pc&client=demo", None).status, 200);
    assert_eq!(with("GET", "/api/v1/export?format=ndjson&client=demo", None).status, 200);
    assert_eq!(with("DELETE", "/api/v1/profiles/canary-id?by=pc&client=demo", None).status, 200);
    assert_eq!(with("POST", "/api/v1/compact", Some("{}")).status, 200);
    assert_eq!(with("POST", "/api/v1/compact", Some("{\"canary-body\": 1}")).status, 400);
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> = trail
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let acts: Vec<&str> = lines.iter().map(|line| line["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["token new", "token new", "token revoke", "export", "erase", "compact"]);
    let erase = &lines[4];
    assert_eq!((&erase["client"], &erase["address"]), (&"demo".into(), &"127.0.0.1".into()));
    assert_eq!(erase["token"], token.split('_').nth(1).unwrap());
    daemon.terminate();
    daemon.ended();
    let log = daemon.complaints();
    assert!(
        log.contains("batchUpdate_v2") && log.contains("profile_update"),
        "the log is too quiet to prove anything"
    );
    for private in CANARIES.iter().copied().chain([token.rsplit('_').next().unwrap()]) {
        let line = log.lines().chain(trail.lines()).find(|line| line.contains(private));
        assert_eq!(line, None, "{private} is reported");
    }
}
