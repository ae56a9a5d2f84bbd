//! `POST /api/v1/reload` and `profiled reload`: what is taken over, what waits for a start, and that what is wrong changes nothing.

use crate::support::{Daemon, Reply};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn reload(daemon: &Daemon) -> Reply {
    daemon.call("POST", "/api/v1/reload", &[JSON], Some(b"{}"))
}

/// What a reload that succeeds says.
fn reloaded(daemon: &Daemon) -> Value {
    let reply = reload(daemon);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Why a reload is refused.
fn refused(daemon: &Daemon) -> String {
    let reply = reload(daemon);
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let why = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(why.starts_with("nothing was reloaded, and everything stays as it was. "), "{why}");
    why
}

#[test]
fn a_reload_says_what_counts_now_and_what_at_the_next_start() {
    let daemon = Daemon::start_configured("rows_limit = 1\n[clients.demo]\n");
    let nothing =
        json!({"changed": [], "atRestart": [], "tokens": 0, "certificates": 0, "clockAcceptedSeconds": null});
    assert_eq!(reloaded(&daemon), nothing);
    let two = "batch=pcId,a\n1,2\n3,4\n";
    let status = |client: &str| daemon.try_batch(&format!("/m2/{client}/v2/profile/batchUpdate"), two).status;
    assert_eq!((status("demo"), status("other")), (413, 404));
    daemon.configure(
        "rows_limit = 2\nlisten = '127.0.0.1:1'\n[clients.demo]\nlifetime_days = 3\n[clients.other]\n",
    );
    let said = reloaded(&daemon);
    assert_eq!(said["changed"], json!(["rows_limit", "clients.demo.lifetime_days", "clients.other"]));
    // The harness names the address and the folder by flags, which come before the file.
    assert_eq!(said["atRestart"], json!([]));
    assert_eq!((status("demo"), status("other")), (200, 200));
    daemon.configure(
        "rows_limit = 2\nlog_format = 'json'\n[clients.demo]\nlifetime_days = 3\n[clients.other]\n",
    );
    for _ in 0..2 {
        let said = reloaded(&daemon);
        assert_eq!((&said["changed"], &said["atRestart"]), (&json!([]), &json!(["log_format"])));
    }
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let acts: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(acts.len() == 4 && acts.iter().all(|act| act["act"] == "reload"), "{trail}");
    let what = "changed: rows_limit, clients.demo.lifetime_days, clients.other; at the next start: none; 0 tokens, 0 certificates";
    assert_eq!(acts[1]["what"], what);
    assert!(acts[1]["address"].is_string(), "{trail}");
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_the_answer_names_the_line() {
    let daemon = Daemon::start_configured("rows_limit = 1\n");
    let two = "batch=pcId,a\n1,2\n3,4\n";
    let status = || daemon.try_batch("/m2/demo/v2/profile/batchUpdate", two).status;
    // The tokens would be right; but all of it or nothing.
    daemon.make_token(&["--client", "demo", "--scope", "read"]);
    for (text, says) in [
        ("rows_limit = 2\nrows = 3\n", "profiled.toml line 2: unknown key `rows`, expected one of"),
        ("retention_days = 3\n\nrows_limit = 'many'\n", "profiled.toml line 3: "),
        ("rows_limit = 2\n[clients.demo\n", "profiled.toml line 2: "),
        ("rows_limit = 2\ntls_cert = 'x'\n", "profiled.toml line 2: tls_cert is set without tls_key"),
    ] {
        daemon.configure(text);
        let why = refused(&daemon);
        assert!(why.contains("the settings: ") && why.contains(says), "{text:?}: {why}");
        assert_eq!((status(), daemon.get("/api/v1/tokens").status), (413, 200), "{text:?}");
    }
    let (code, out, said) = daemon.run(&["reload"]);
    assert!(code == Some(1) && out.is_empty(), "{out}");
    assert!(said.contains("everything stays as it was. the settings: profiled.toml line 2"), "{said}");
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    assert!(!trail.contains("\"act\":\"reload\""), "nothing was done: {trail}");

    // The settings would be right, and the tokens are not.
    daemon.configure("rows_limit = 2\n");
    let tokens = daemon.data().join("tokens.json");
    let kept = std::fs::read(&tokens).unwrap();
    std::fs::write(&tokens, "{").unwrap();
    let why = refused(&daemon);
    assert!(why.contains("the tokens: ") && why.contains("tokens.json: EOF"), "{why}");
    assert_eq!((status(), daemon.get("/api/v1/tokens").status), (413, 200));
    std::fs::write(&tokens, kept).unwrap();
    let said = reloaded(&daemon);
    assert_eq!((&said["changed"], &said["tokens"]), (&json!(["rows_limit"]), &json!(1)));
    assert_eq!(daemon.get("/api/v1/tokens").status, 401, "the token counts from now on");
}

#[test]
fn only_an_administrator_of_all_clients_reloads() {
    let mut daemon = Daemon::start();
    let admin = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    let others = [
        daemon.make_token(&["--all-clients", "--scope", "batch,read"]),
        daemon.make_token(&["--client", "demo", "--scope", "admin"]),
    ];
    assert_eq!(
        daemon.run(&["reload"]),
        (Some(0), "no setting has another value\nread again: 3 tokens\n".into(), String::new())
    );
    let reload = |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![JSON];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        daemon.call("POST", "/api/v1/reload", &headers, Some(b"{}")).status
    };
    assert_eq!(reload(None), 401);
    assert_eq!(others.each_ref().map(|token| reload(Some(token))), [403, 403]);
    assert_eq!(reload(Some(&admin)), 200);
    let (code, _, said) = daemon.run(&["reload"]);
    assert!(code == Some(1) && said.contains("a token is needed"), "{said}");
    daemon.set_variable("PROFILED_TOKEN", &admin);
    let (code, out, said) = daemon.run(&["reload", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["tokens"], 3);
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let last: Value = serde_json::from_str(trail.lines().last().unwrap()).unwrap();
    assert_eq!((&last["act"], &last["token"]), (&json!("reload"), &json!(admin.split('_').nth(1))));
}
