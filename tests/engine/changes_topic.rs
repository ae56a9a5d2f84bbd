//! The changes of all clients in a topic, beside the feed: nothing of the feed is missing there, and each visitor's events are in order,
//! whatever becomes of nodes and of the topic.

use crate::handle::{client, who};
use crate::nodes::{Cluster, call, complete, roster, send, wait_until};
use profiled::cluster::{FolderCluster, Identity, Members, Transport};
use profiled::engine::commit::VisitorWrite;
use profiled::engine::read::changes::{ChangePlace, Step};
use profiled::engine::{Engine, SiteCall};
use profiled::http::change_event::write_change;
use profiled::model::author::Author;
use profiled::model::id::{ClientCode, IdKind, VisitorId};
use profiled::model::seq::Seq;
use profiled::order::memory::{Fate, MemoryLog};
use profiled::order::record::RunId;
use profiled::order::{Log as _, Record};
use profiled::telemetry::metrics::OrderVitals;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Nodes that pass changes on.
struct Nodes {
    cluster: Cluster,
    topic: MemoryLog,
}

/// A node, and what watches the others for it.
struct Node {
    engine: Engine,
    members: Arc<Members>,
}

impl Nodes {
    fn new() -> Self {
        Self { cluster: Cluster::new(), topic: MemoryLog::new() }
    }

    async fn start(&self, folder: &Path, name: &str) -> Node {
        self.start_on(folder, name, true).await
    }

    async fn start_on(&self, folder: &Path, name: &str, passes_on: bool) -> Node {
        let engine = self.cluster.node(folder).await;
        let topic = Arc::new(self.topic.clone()) as _;
        let transport = Transport { changes: Some(topic).filter(|_| passes_on), ..self.cluster.transport() };
        let id = FolderCluster::read(engine.data_folder()).unwrap().unwrap().cluster;
        let who = Identity { name: name.into(), address: format!("http://{name}"), settings: String::new() };
        let (of, wait) = ((id, RunId::random().unwrap()), Duration::from_secs(3_600));
        let members =
            Members::start(engine.clone(), transport, who, of, (wait, roster(name)), write_change).unwrap();
        Node { engine, members }
    }

    /// Waits until the topic has all that the feeds tell, and checks that each visitor's events came in order. Gives the topic.
    async fn has_all(&self, node: &Node) -> Vec<Record> {
        let (_, end) = self.cluster.order.ends().unwrap();
        wait_until("the node has all", || node.engine.order().unwrap().applied >= end).await;
        let mut told = vec![];
        for client in [client(), ClientCode::new("other").unwrap()] {
            told.extend(feed(&node.engine, &client).await);
        }
        assert!(!told.is_empty());
        let all = || {
            let records = self.topic.records();
            told.iter().all(|told| records.iter().any(|record| is_told(told, &value_of(record))))
        };
        wait_until("the topic has all that the feeds tell", all).await;
        let records = self.topic.records();
        for client in ["demo", "other"] {
            let of_client: Vec<&Value> = told.iter().filter(|event| event["client"] == client).collect();
            let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
            let mut seen = vec![false; of_client.len()];
            for record in &records {
                let event = value_of(record);
                let Some(at) = of_client.iter().position(|told| is_told(told, &event)) else { continue };
                // What comes again was there before; what is new comes after all that the key had.
                let before = last.entry(&record.key).or_default();
                assert!(seen[at] || at >= *before, "{event} came too late under its key");
                seen[at] = true;
                *before = at.max(*before);
            }
        }
        records
    }
}

impl Node {
    async fn stop(self) {
        let members = Arc::clone(&self.members);
        tokio::task::spawn_blocking(move || members.stop()).await.unwrap();
        self.engine.stop().await;
    }

    async fn write(&self, pc: &str, value: &str) -> Seq {
        self.engine.site_call(call(pc, value)).await.unwrap().seq.unwrap()
    }

    fn behind(&self) -> Duration {
        let mut vitals = OrderVitals::default();
        self.members.add_to(&mut vitals);
        vitals.changes_behind
    }
}

fn value_of(record: &Record) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

/// Whether an event of the topic is one of the feed. What was passed on before its visitor was erased the feed tells no more.
fn is_told(told: &Value, event: &Value) -> bool {
    let erased_since = match told["event"].as_str() {
        Some("withheld") => event["event"] == "write",
        Some("row") => told["reason"] == "erased" && event["event"] == "row",
        _ => false,
    };
    told == event || erased_since && (&told["seq"], &told["line"]) == (&event["seq"], &event["line"])
}

fn key_of(record: &Record) -> &str {
    std::str::from_utf8(&record.key).unwrap()
}

/// All that the feed of a client tells, as the topic has it.
async fn feed(engine: &Engine, client: &ClientCode) -> Vec<Value> {
    let begin = ChangePlace::behind(Seq::ZERO);
    let mut changes = engine.changes(&who(), client, begin, true).await.unwrap();
    let mut told = vec![];
    let step = &mut |event| {
        let mut line = vec![];
        write_change(&event, &mut line);
        told.push(serde_json::from_slice(&line).unwrap());
        ControlFlow::Continue(())
    };
    loop {
        match tokio::task::block_in_place(|| changes.step(step)).unwrap() {
            Step::More => {}
            // It is complete, for another node has counted it, and this one has yet to apply it.
            Step::Waits(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Step::CaughtUp(_) | Step::Enough => return told,
        }
    }
}

fn pc(id: &str) -> VisitorId {
    VisitorId::new(IdKind::Pc, id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_feed_tells_is_in_the_topic_and_whoever_takes_over_goes_on() {
    let (nodes, folders) = (Nodes::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = nodes.start(folders[0].path(), "a").await;
    let b = nodes.start(folders[1].path(), "b").await;
    a.write("p1", "one").await;
    b.write("p2", "two").await;
    let other = SiteCall { client: ClientCode::new("other").unwrap(), ..call("p1", "other's") };
    b.engine.site_call(other).await.unwrap();
    let mut login = call("p1", "login");
    login.ids.third_party = VisitorId::new(IdKind::ThirdParty, "t1").ok();
    a.engine.site_call(login).await.unwrap();
    let batch = send(&b.engine, "batch=pcId,a\np1,three\np2,three\nnobody,x\n", "k").await.unwrap().batch.id;
    for node in [&a, &b] {
        complete(&node.engine, &batch).await;
    }
    a.engine.write_visitor(client(), pc("p2"), VisitorWrite::Erase, Author::default()).await.unwrap();
    a.write("p3", "four").await;
    let records = nodes.has_all(&a).await;
    // Everything has its client, and the key of its visitor.
    let of_event = |name: &str| -> Vec<&Record> {
        records.iter().filter(|record| value_of(record)["event"] == name).collect()
    };
    assert_eq!(key_of(of_event("batch")[0]), "", "it concerns every visitor");
    assert_eq!(key_of(of_event("erase")[0]), "demo/pcId/p2");
    let login = records.iter().map(value_of).find(|event| !event["bound"].is_null()).unwrap();
    assert_eq!((login["client"].as_str(), login["set"]["a"].as_str()), (Some("demo"), Some("login")));
    let of_p1 =
        format!("demo/{}/{}", login["id"]["kind"].as_str().unwrap(), login["id"]["id"].as_str().unwrap());
    let row = of_event("row").into_iter().find(|row| value_of(row)["id"]["id"] == "p1").unwrap();
    assert_eq!(key_of(row), of_p1, "a row goes where its visitor's writes go");

    // Somebody else logs in on the device.
    let mut handover = call("p1", "handed over");
    handover.ids.third_party = VisitorId::new(IdKind::ThirdParty, "t2").ok();
    a.engine.site_call(handover).await.unwrap();
    let records = nodes.has_all(&a).await;
    let left = records.iter().find(|record| value_of(record)["event"] == "left").unwrap();
    assert_eq!((key_of(left), &value_of(left)["attributes"]["a"]), (of_p1.as_str(), &json!("three")));

    // The other node goes on, and nothing that was acknowledged comes again.
    let before = nodes.topic.records().len();
    a.stop().await;
    b.write("p1", "five").await;
    let records = nodes.has_all(&b).await;
    let fresh: Vec<Value> = records[before..].iter().map(value_of).collect();
    assert_eq!(fresh.iter().map(|event| event["set"]["a"].as_str()).collect::<Vec<_>>(), [Some("five")]);
    // So does the first one, when it is back.
    let a = nodes.start(folders[0].path(), "a").await;
    b.write("p1", "six").await;
    nodes.has_all(&a).await;
    b.stop().await;
    a.write("p1", "seven").await;
    let records = nodes.has_all(&a).await;
    let again = records.iter().filter(|record| value_of(record)["set"]["a"] == "one").count();
    assert_eq!(again, 1, "it began anew");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_leaves_no_gap() {
    let (nodes, folders) = (Nodes::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = nodes.start(folders[0].path(), "a").await;
    let b = nodes.start(folders[1].path(), "b").await;
    let one = a.write("p1", "one").await;
    nodes.has_all(&a).await;
    let is_noted = || {
        let records = nodes.cluster.nodes.records();
        let noted = records.iter().rev().find(|record| record.key == b"changes/changes");
        noted.is_some_and(|record| value_of(record)["passedOn"] == one.to_string())
    };
    wait_until("it is noted how far it is", is_noted).await;
    // What it writes now it cannot note, nor can it say that it stops.
    nodes.cluster.nodes.set_out_of_reach(true);
    for value in ["two", "three"] {
        a.write("p1", value).await;
    }
    nodes.has_all(&a).await;
    a.stop().await;
    nodes.cluster.nodes.set_out_of_reach(false);
    b.write("p1", "four").await;
    let records = nodes.has_all(&b).await;
    let times = |value: &str| records.iter().filter(|record| value_of(record)["set"]["a"] == value).count();
    assert_eq!([times("one"), times("two"), times("four")], [1, 2, 1], "it goes on where that was noted");
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_or_is_away_loses_nothing_and_stops_nobody() {
    let (nodes, folder) = (Nodes::new(), tempfile::tempdir().unwrap());
    nodes.topic.next_appends([
        Fate::Refuse,
        Fate::Append,
        Fate::LoseAcknowledgement,
        Fate::Vanish,
        Fate::Twice,
    ]);
    let a = nodes.start(folder.path(), "a").await;
    for n in 0..20 {
        a.write(&format!("p{}", n % 3), &format!("{n}")).await;
    }
    nodes.has_all(&a).await;
    wait_until("it is not behind", || a.behind().is_zero()).await;
    nodes.topic.set_out_of_reach(true);
    for n in 20..40 {
        a.write(&format!("p{}", n % 3), &format!("{n}")).await;
    }
    wait_until("people are told", || {
        a.members.status().faults.iter().any(|fault| fault.contains("no changes go there"))
    })
    .await;
    nodes.topic.set_out_of_reach(false);
    nodes.has_all(&a).await;
    wait_until("all is well", || a.members.status().faults.is_empty()).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_topic_holds_up_no_call_and_is_seen_in_the_metrics() {
    let (nodes, folder) = (Nodes::new(), tempfile::tempdir().unwrap());
    nodes.topic.next_appends([Fate::Hold]);
    let a = nodes.start(folder.path(), "a").await;
    for n in 0..5 {
        a.write("p1", &format!("{n}")).await;
    }
    nodes.cluster.set_clock_ahead(Duration::from_secs(90));
    wait_until("it is behind by the age of the oldest", || a.behind() >= Duration::from_secs(90)).await;
    assert_eq!(nodes.topic.records().len(), 0);
    nodes.topic.release(5);
    nodes.has_all(&a).await;
    wait_until("it is not behind", || a.behind().is_zero()).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_no_longer_be_told_is_an_event_of_its_own() {
    let (nodes, folder) = (Nodes::new(), tempfile::tempdir().unwrap());
    // Without the topic at first.
    let a = nodes.start_on(folder.path(), "a", false).await;
    a.write("p1", "one").await;
    a.write("p2", "two").await;
    let erased =
        a.engine.write_visitor(client(), pc("p2"), VisitorWrite::Erase, Author::default()).await.unwrap();
    a.engine.compact(&who()).await.unwrap();
    a.stop().await;
    assert_eq!(nodes.topic.records().len(), 0);
    let a = nodes.start(folder.path(), "a").await;
    let last = a.write("p1", "three").await;
    let has_last = || nodes.topic.records().iter().any(|record| value_of(record)["seq"] == last.to_string());
    wait_until("what can be told is told", has_last).await;
    let records = nodes.topic.records();
    let gap = value_of(&records[0]);
    assert_eq!((gap["event"].as_str(), gap["since"].as_str()), (Some("gap"), Some("0")), "{gap}");
    let until: u64 = gap["seq"].as_str().unwrap().parse().unwrap();
    assert!(erased.seq.unwrap().get() <= until && until < last.get(), "{gap}");
    assert_eq!((key_of(&records[0]), &gap["client"]), ("", &json!(null)), "it concerns every visitor");
    assert_eq!(records.iter().filter(|record| value_of(record)["event"] == "gap").count(), 1);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_that_have_the_topic_in_their_settings_pass_on() {
    let (nodes, folders) = (Nodes::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = nodes.start_on(folders[0].path(), "a", false).await;
    let b = nodes.start(folders[1].path(), "b").await;
    a.write("p1", "one").await;
    let records = nodes.has_all(&b).await;
    assert_eq!(records.len(), 1);
    assert!(a.behind().is_zero());
    a.stop().await;
    b.stop().await;
}
