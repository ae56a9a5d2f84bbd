//! What nodes ask of each other: two real daemons on one broker, with tokens.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PREFIX, within};
use crate::brokers::Brokers;
use crate::support::{Daemon, Reply};

/// Rows of the batch: more than a chunk, so that a node that applies one a second does not apply all of them.
const ROWS: usize = 20_000;

/// A node, and a token that it takes.
struct Node {
    daemon: Daemon,
    token: String,
}

impl Node {
    /// A fresh node with these tokens.
    fn start(settings: &str, tokens: &Path, token: &str) -> Self {
        let mut daemon = Daemon::configured(settings);
        daemon.set_variable("PROFILED_LOG", "info").keep_complaints();
        fs::create_dir_all(daemon.data()).unwrap();
        fs::copy(tokens, daemon.data().join("tokens.json")).unwrap();
        let mut node = Self { daemon, token: token.to_owned() };
        node.restart();
        node
    }

    fn restart(&mut self) {
        self.daemon.restart();
        within("a node to be ready", || {
            assert!(!self.daemon.has_ended(), "{}", self.daemon.complaints());
            (self.daemon.get("/readyz").status == 200).then_some(())
        });
    }

    fn call(&self, method: &str, path: &str, header: (&str, &str), body: Option<&[u8]>) -> Reply {
        let token = format!("Bearer {}", self.token);
        self.daemon.call(method, path, &[("Authorization", &token), header], body)
    }

    fn get(&self, path: &str) -> Reply {
        self.call("GET", path, ("Accept", "*/*"), None)
    }

    /// What it has of its own, without asking anybody.
    fn get_own(&self, path: &str) -> Reply {
        self.call("GET", path, ("Profiled-Node", "test"), None)
    }
}

/// A snapshot that breaks off goes on where it broke off: the two parts are what was sent at once.
fn the_rest_of_a_snapshot_is_given(node: &Node) {
    let path = "/api/v1/cluster/snapshot";
    let whole = node.get(path);
    let name = whole.header("profiled-snapshot").unwrap().to_owned();
    for from in [0, 1, whole.body.len() / 2, whole.body.len()] {
        let rest = node.get(&format!("{path}?snapshot={name}&from={from}"));
        assert_eq!((rest.status, rest.header("profiled-snapshot")), (200, Some(&*name)));
        assert!(rest.body == whole.body[from..], "from byte {from}");
    }
    let mut archive = tar::Archive::new(&whole.body[..]);
    let files = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
    assert!(files.count() > 3);
    let other = node.get(&format!("{path}?snapshot=0000000000000000&from=7"));
    assert_eq!(other.status, 404, "{}", other.text());
    assert_eq!(node.get(&format!("{path}?snapshot={name}&from=x")).status, 400);
}

/// Outcomes and damaged files come from the other node.
pub(crate) fn a_node_gets_from_another_what_it_lacks(brokers: &Brokers) {
    let keys = Daemon::configured("");
    let token = keys.make_token(&["--all-clients", "--scope", "admin"]);
    let (tokens, peer_token) = (keys.data().join("tokens.json"), keys.data().join("peer-token"));
    fs::write(&peer_token, format!("{token}\n")).unwrap();
    let (order, peer_token) = (brokers.address(PREFIX), peer_token.display());
    let settings = |name: &str, ingest: &str| {
        format!(
            "disk_reserve_bytes = \"16MiB\"\n[ingest]\n{ingest}\n[cluster]\norder = \"{order}\"\nnode = \"{name}\"\n\
             allow_fewer_replicas = true\npeer_token_file = \"{peer_token}\"\n"
        )
    };
    let a = Node::start(&settings("a", ""), &tokens, &token);
    let mut b = Node::start(&settings("b", "max_rows_per_second = 1"), &tokens, &token);
    a.daemon.mbox("demo", "mboxPC=p7");
    let rows: String = (0..ROWS).map(|n| format!("p{n},two\n")).collect();
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let file = format!("batch=pcId,n\n{rows}");
    let id = a.call("POST", "/m2/demo/profile/batchUpdate", form, Some(file.as_bytes())).batch_id();
    let path = format!("/api/v1/batches/{id}");
    within("b to hear that it is complete", || {
        b.get(&path).text().contains("\"status\":\"complete\"").then_some(())
    });
    let outcomes = format!("{path}/outcomes?outcome=updated");
    assert_eq!(b.get_own(&outcomes).status, 503, "it has not applied it");
    for what in ["outcomes", "outcomes?outcome=not_found&limit=3", "outcomes?outcome=updated", "repair"] {
        let [from_a, from_b] = [&a, &b].map(|node| node.get(&format!("{path}/{what}")));
        assert_eq!((from_b.status, from_b.text()), (200, from_a.text()), "{what}");
        for header in ["link", "content-type"] {
            assert_eq!(from_b.header(header), from_a.header(header), "{what}");
        }
    }

    the_rest_of_a_snapshot_is_given(&a);

    b.daemon.terminate();
    b.daemon.ended();
    let files = fs::read_dir(b.daemon.data().join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "csv")).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let mut bytes = fs::read(file).unwrap();
    bytes[ROWS] ^= 1;
    fs::write(file, bytes).unwrap();
    b.daemon.configure(&settings("b", ""));
    b.restart();
    let applied = within("b to apply it", || {
        let answer = b.get_own(&outcomes);
        (answer.status == 200).then(|| answer.text())
    });
    assert_eq!(applied, a.get(&outcomes).text());
    let said = b.daemon.complaints();
    assert!(said.contains("the file of a batch came from another node"), "{said}");
    let p7 = b.get("/api/v1/profiles/p7?by=pc&client=demo").text();
    assert!(p7.contains("\"two\""), "{p7}");
}
