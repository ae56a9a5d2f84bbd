//! What a list of tokens tells about each: its name, and when it was last used.

use crate::support::{Daemon, Reply, long, wait_for};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn call(daemon: &Daemon, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Reply {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![JSON];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    daemon.call(method, path, &headers, body.map(str::as_bytes))
}

/// Makes a token by a call; gives what was answered.
fn make(daemon: &Daemon, token: Option<&str>, body: &Value) -> Value {
    let made = call(daemon, "POST", "/api/v1/tokens", token, Some(&body.to_string()));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()
}

fn text(made: &Value) -> &str {
    made["token"].as_str().unwrap()
}

/// The token as the list has it.
fn listed(list: &Value, made: &Value) -> Value {
    let tokens = list.as_array().unwrap();
    tokens.iter().find(|token| token["id"] == made["id"]).unwrap().clone()
}

fn at_daemon(daemon: &Daemon, admin: &str, made: &Value) -> Value {
    listed(&call(daemon, "GET", "/api/v1/tokens", Some(admin), None).json()["tokens"], made)
}

fn in_folder(daemon: &Daemon, made: &Value) -> Value {
    let (code, list, said) = daemon.run(&["token", "list", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    listed(&serde_json::from_str(&list).unwrap(), made)
}

#[test]
fn a_tokens_name_shows_wherever_the_token_does() {
    let daemon = Daemon::start();
    let admin = make(&daemon, None, &json!({"allClients": true, "scope": "admin"}));
    let admin = text(&admin);
    let called = |name: &str| json!({"client": "demo", "scope": "read", "name": name});
    let long = "ä".repeat(64);
    for (name, says) in [
        (String::new(), "1 to 64 characters, and this has none"),
        (format!("{long}x"), "1 to 64 characters, and this has 65"),
        ("night\nly".into(), "character 6 is a control character"),
    ] {
        let body = called(&name).to_string();
        let refused = call(&daemon, "POST", "/api/v1/tokens", Some(admin), Some(&body));
        let why = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(refused.status == 400 && why.contains("\"name\": ") && why.contains(says), "{why}");
    }
    make(&daemon, Some(admin), &called(&long));
    let made = make(&daemon, Some(admin), &called("<nightly> \"CRM\""));
    assert_eq!(made["name"], "<nightly> \"CRM\"");
    let same = make(&daemon, Some(admin), &called("<nightly> \"CRM\""));
    assert_ne!(same["id"], made["id"], "several may have the same name");
    assert_eq!(at_daemon(&daemon, admin, &made)["name"], made["name"]);
    assert_eq!(in_folder(&daemon, &made)["name"], made["name"]);
    let page = call(&daemon, "GET", "/", Some(admin), None).text();
    assert!(page.contains("&#60;nightly&#62; &#34;CRM&#34;"), "{page}");
    let trail = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    let acts: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let what = format!("{}, scope read, name \"<nightly> \\\"CRM\\\"\"", same["id"].as_str().unwrap());
    assert_eq!(acts.last().unwrap()["what"], what);

    // The command line, on the folder and at the daemon.
    let url = daemon.url();
    let new = ["token", "new", "--client", "demo", "--scope", "batch", "--name", "shop's own"];
    for place in [&[][..], &["--url", &url, "--token", admin]] {
        let (code, made, said) = daemon.run(&[&new[..], &["--json"], place].concat());
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(in_folder(&daemon, &serde_json::from_str(&made).unwrap())["name"], "shop's own");
    }
    let (code, _, said) = daemon.run(&["token", "new", "--client", "demo", "--scope", "read", "--name", ""]);
    assert!(code == Some(2) && said.contains("1 to 64 characters"), "{said}");
    let (_, list, _) = daemon.run(&["token", "list"]);
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    assert!(list.contains("shop's own"), "{list}");
}

/// Only a call that was let in counts: else whoever tries a token that it may not use would make it look needed.
#[test]
fn a_tokens_use_shows_and_survives_a_restart() {
    let mut daemon = Daemon::configured("");
    daemon.keep_complaints().restart();
    let admin = make(&daemon, None, &json!({"allClients": true, "scope": "admin"}));
    let of = |scope: &str| make(&daemon, Some(text(&admin)), &json!({"client": "demo", "scope": scope}));
    let (reads, writes, sites) = (of("read"), of("batch"), of("read"));
    assert_eq!(reads["lastUsedAt"], Value::Null);
    let last_used = |made: &Value| at_daemon(&daemon, text(&admin), made)["lastUsedAt"].clone();

    let path = "/api/v1/profiles/1?by=pc&client=demo";
    assert_eq!(call(&daemon, "GET", path, Some(text(&writes)), None).status, 403);
    assert_eq!(call(&daemon, "GET", "/api/v1/tokens", Some(text(&writes)), None).status, 403);
    let wrong = format!("{}0", text(&writes));
    assert_eq!(call(&daemon, "GET", path, Some(&wrong), None).status, 401);
    // It takes no token, so none lets in.
    call(&daemon, "GET", "/m2/demo/mbox/json?mbox=m&mboxPC=1", Some(text(&sites)), None);
    assert_eq!((last_used(&writes), last_used(&sites)), (Value::Null, Value::Null));
    assert_eq!(call(&daemon, "GET", path, Some(text(&reads)), None).status, 200);
    let used = last_used(&reads);
    let at: jiff::Timestamp = used.as_str().unwrap().parse().unwrap();
    let ago = jiff::Timestamp::now().duration_since(at);
    assert!((0..120).contains(&ago.as_secs()), "{used}");
    let page = call(&daemon, "GET", "/", Some(text(&admin)), None).text();
    assert!(page.contains("Last used") && page.contains(&format!("datetime=\"{}\"", used.as_str().unwrap())));

    daemon.terminate();
    assert!(daemon.ended().success());
    assert_eq!(in_folder(&daemon, &reads)["lastUsedAt"], used);
    assert_eq!(in_folder(&daemon, &writes)["lastUsedAt"], Value::Null);
    let (_, list, _) = daemon.run(&["token", "list"]);
    assert!(list.contains("now") || list.contains("min ago"), "{list}");
    daemon.restart();
    assert_eq!(at_daemon(&daemon, text(&admin), &reads)["lastUsedAt"], used);

    // A backup takes it along.
    let beside = |name: &str| daemon.data().with_file_name(name);
    let (backup, restored) = (beside("backup"), beside("restored"));
    let (to, data) = (backup.to_str().unwrap(), restored.to_str().unwrap());
    assert_eq!(daemon.run(&["backup", to, "--token", text(&admin)]).0, Some(0));
    assert_eq!(daemon.run(&["restore", to, "--data", data]).0, Some(0));
    let (_, list, _) = daemon.run(&["token", "list", "--json", "--data", data]);
    assert_eq!(listed(&serde_json::from_str(&list).unwrap(), &reads)["lastUsedAt"], used);

    // Damage loses when tokens were used, and nothing else. What is written by a stop then is whole.
    daemon.kill9();
    std::fs::write(daemon.data().join("token-uses.json"), "{").unwrap();
    let (code, _, said) = daemon.run(&["token", "list"]);
    assert!(code == Some(0) && said.contains("token-uses.json"), "{said}");
    daemon.restart().wait_for_complaint("token-uses.json");
    assert_eq!(at_daemon(&daemon, text(&admin), &reads)["lastUsedAt"], Value::Null);
    assert_eq!(call(&daemon, "GET", path, Some(text(&reads)), None).status, 200);
    daemon.terminate();
    assert!(daemon.ended().success());
    assert_ne!(in_folder(&daemon, &reads)["lastUsedAt"], Value::Null);
}

/// A daemon that is killed once a year, and never stopped, knows all but the last uses. Takes a minute, as the writing does.
#[test]
fn a_use_is_written_within_a_minute_or_so() {
    if !long() {
        return;
    }
    let mut daemon = Daemon::start();
    let admin = make(&daemon, None, &json!({"allClients": true, "scope": "admin"}));
    assert_ne!(at_daemon(&daemon, text(&admin), &admin)["lastUsedAt"], Value::Null);
    wait_for("the file", || daemon.data().join("token-uses.json").exists().then_some(()));
    daemon.kill9();
    assert_ne!(in_folder(&daemon, &admin)["lastUsedAt"], Value::Null);
}
