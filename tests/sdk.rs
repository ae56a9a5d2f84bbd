//! Adobe's own Node.js SDK against the real daemon, where both are here: `.ci/run` puts the SDK into `target/sdk`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::Daemon;

/// The SDK's folder, or what is missing.
fn sdk() -> Result<PathBuf, String> {
    if let Err(e) = Command::new("node").arg("--version").output() {
        return Err(format!("node cannot be run ({e}): install Node.js"));
    }
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk/node_modules");
    if modules.join("@adobe/target-nodejs-sdk").is_dir() {
        return Ok(modules);
    }
    Err("Adobe's SDK is not here: npm install --prefix target/sdk @adobe/target-nodejs-sdk".into())
}

#[test]
fn adobes_node_sdk_stays_on_this_host_and_what_it_sends_is_in_the_profile() {
    let modules = match sdk() {
        Ok(modules) => modules,
        Err(missing) => {
            // The harness may be in the middle of a line.
            eprintln!("\nskipped: {missing}");
            return;
        }
    };
    let daemon = Daemon::start_configured("[clients.demo]\nims_orgs = ['TESTORG@AdobeOrg']\n");
    let port = daemon.address().port();
    for (host, named) in [("127.0.0.1", false), ("localhost", true)] {
        let host = format!("{host}:{port}");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/visit.js");
        let output = Command::new("node").arg(script).arg(&host).env("NODE_PATH", &modules).output().unwrap();
        assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();

        let tnt_id = made["anonymous"]["response"]["id"]["tntId"].as_str().unwrap();
        for call in ["anonymous", "loggedIn", "notified"] {
            let answer = &made[call]["response"];
            assert_eq!((&answer["status"], &answer["client"]), (&json!(200), &json!("demo")), "{answer:#}");
            assert_eq!(answer["id"]["tntId"], tnt_id);
            assert_eq!(answer["requestId"], made[call]["request"]["requestId"]);
            assert_eq!(answer.get("edgeHost"), named.then(|| json!(host)).as_ref());
            assert_eq!(made[call].get("targetLocationHintCookie"), None, "the SDK would leave");
            assert!(made[call]["targetCookie"]["value"].as_str().unwrap().contains(tnt_id));
        }
        assert_eq!(
            made["anonymous"]["response"]["execute"],
            json!({ "pageLoad": { "options": [] }, "mboxes": [{ "index": 0, "name": "home", "options": [] }] })
        );
        assert_eq!(made["notified"]["response"]["notifications"], json!([{ "id": "n1" }]));

        let visitor = daemon.visitor("demo", "third-party", &host).unwrap();
        assert_eq!(visitor["pcIds"], json!([tnt_id]));
        let values = visitor["attributes"].as_object().unwrap().iter();
        let values: Value = values.map(|(name, it)| (name.clone(), it["value"].clone())).collect();
        assert_eq!(
            values,
            json!({ "plan": "paid", "view": "1", "city": "Zürich & co", "clicked": "yes" }),
            "{host}"
        );
    }
}
