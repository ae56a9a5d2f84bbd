//! Adobe's own SDKs for Node.js and Python against the real daemon, where they are here: `.ci/run` puts them into `target/sdk`
//! and `target/sdk-python`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{self, Daemon};
use serde_json::{Value, json};

fn below_the_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What runs `tests/clients/sdk/visit.js`, or what is missing.
fn node() -> Result<Command, String> {
    if let Err(e) = Command::new("node").arg("--version").output() {
        return Err(format!("node cannot be run ({e}): install Node.js"));
    }
    let modules = below_the_project("target/sdk/node_modules");
    if !modules.join("@adobe/target-nodejs-sdk").is_dir() {
        return Err(
            "Adobe's SDK is not here: npm install --prefix target/sdk @adobe/target-nodejs-sdk".into()
        );
    }
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(below_the_project("tests/clients/sdk/visit.js"));
    Ok(node)
}

/// What runs `tests/clients/sdk/visit.py`, or what is missing.
fn python() -> Result<Command, String> {
    let python = below_the_project("target/sdk-python/bin/python");
    let imported = Command::new(&python).args(["-c", "import target_python_sdk"]).output();
    if !imported.is_ok_and(|imported| imported.status.success()) {
        return Err("Adobe's SDK for Python is not here: bash .ci/run puts it into target/sdk-python".into());
    }
    let mut python = Command::new(python);
    python.arg(below_the_project("tests/clients/sdk/visit.py"));
    Ok(python)
}

#[test]
fn adobes_node_sdk_stays_on_this_host_and_what_it_sends_is_in_the_profile() {
    visit(node);
}

#[test]
fn adobes_python_sdk_stays_on_this_host_and_what_it_sends_is_in_the_profile() {
    visit(python);
}

fn visit(sdk: fn() -> Result<Command, String>) {
    if let Err(missing) = sdk() {
        return support::skip(&missing);
    }
    let daemon = Daemon::start_configured("[clients.demo]\nims_orgs = ['TESTORG@AdobeOrg']\n");
    let port = daemon.address().port();
    for (host, named) in [("127.0.0.1", false), ("localhost", true)] {
        let host = format!("{host}:{port}");
        let output = sdk().unwrap().arg(&host).output().unwrap();
        assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        came_to(&made, &host, named);

        let visitor = daemon.visitor("demo", "third-party", &host).unwrap();
        assert_eq!(visitor["pcIds"], json!([made["anonymous"]["response"]["id"]["tntId"]]));
        let values = visitor["attributes"].as_object().unwrap().iter();
        let values: Value = values.map(|(name, it)| (name.clone(), it["value"].clone())).collect();
        assert_eq!(
            values,
            json!({ "plan": "paid", "view": "1", "city": "Zürich & co", "clicked": "yes" }),
            "{host}"
        );
    }
}

/// What the SDK made of the answers.
fn came_to(made: &Value, host: &str, named: bool) {
    let tnt_id = made["anonymous"]["response"]["id"]["tntId"].as_str().unwrap();
    for call in ["anonymous", "loggedIn", "notified"] {
        let answer = &made[call]["response"];
        assert_eq!((&answer["status"], &answer["client"]), (&json!(200), &json!("demo")), "{answer:#}");
        assert_eq!(answer["id"]["tntId"], tnt_id);
        assert_eq!(answer["requestId"], made[call]["request"]["requestId"]);
        assert_eq!(answer.get("edgeHost"), named.then(|| json!(host)).as_ref());
        assert!(made[call]["targetLocationHintCookie"].is_null(), "the SDK would leave");
        assert!(made[call]["targetCookie"]["value"].as_str().unwrap().contains(tnt_id));
    }
    assert_eq!(
        made["anonymous"]["response"]["execute"],
        json!({ "pageLoad": { "options": [] }, "mboxes": [{ "index": 0, "name": "home", "options": [] }] })
    );
    assert_eq!(made["notified"]["response"]["notifications"], json!([{ "id": "n1" }]));
}
