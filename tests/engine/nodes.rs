//! Several whole engines over one order in memory: what is written at one is read at the others.

use crate::handle::{client, config, who};
use bytes::Bytes;
use profiled::clock::GuardedClock;
use profiled::cluster::{
    FolderCluster, Identity, JoinError, Joined, Members, NodeStatus, Transport, found, join,
};
use profiled::engine::offline::restore::{clear_interrupted, restore_of_peer};
use profiled::engine::{
    AcceptedBatch, Announced, BatchState, BatchVersion, CallIds, Engine, EngineError, NodeParts, Opening,
    Readiness, SiteCall,
};
use profiled::model::batch::{BatchId, EmptyValues, IdempotencyKey};
use profiled::model::id::{IdKind, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::{Clock, Millis, Seq};
use profiled::order::gather::Gathering;
use profiled::order::memory::{Fate, MemoryLog};
use profiled::order::record::RunId;
use profiled::order::{Log as _, Offset};
use profiled::telemetry::metrics::OrderVitals;
use serde_json::json;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Waits until something holds.
async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const BEGIN_MS: u64 = 1_700_000_000_000;

/// A clock that stands where it is set.
struct Standing(AtomicU64);

impl Clock for Standing {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// An order and the pieces of files that go with it.
struct Cluster {
    order: MemoryLog,
    pieces: MemoryLog,
    nodes: MemoryLog,
    clock: Arc<Standing>,
}

impl Cluster {
    fn new() -> Self {
        let order = MemoryLog::new();
        order.set_clock(Millis(BEGIN_MS));
        let clock = Arc::new(Standing(AtomicU64::new(BEGIN_MS)));
        Self { order, pieces: MemoryLog::new(), nodes: MemoryLog::new(), clock }
    }

    fn transport(&self) -> Transport {
        Transport {
            order: Arc::new(self.order.clone()),
            pieces: Arc::new(self.pieces.clone()),
            nodes: Arc::new(self.nodes.clone()),
            look: Arc::new(|| Ok(vec![])),
        }
    }

    /// Joins as a node of this name.
    fn join(&self, folder: &Path, name: &str) -> Result<Joined, JoinError> {
        let who = Identity { name: name.into(), address: format!("http://{name}"), settings: String::new() };
        let nobody = |_: &str, _: &Path, _| Err("nobody is there".to_owned());
        join(&folder.join("data"), &self.transport(), &who, &*self.clock, &nobody)
    }

    fn open(&self, folder: &Path) -> Engine {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Joined { cluster, run, .. } = self.join(folder, &name).unwrap();
        let parts = NodeParts {
            cluster,
            run,
            order: Arc::new(self.order.clone()),
            pieces: Arc::new(self.pieces.clone()),
            gathering: Gathering::default(),
        };
        let clock = GuardedClock::believing(Arc::clone(&self.clock) as _);
        Engine::open_as(config(folder), clock, &Opening::default(), Some(parts)).unwrap()
    }

    /// A node on this folder that takes calls.
    async fn node(&self, folder: &Path) -> Engine {
        let node = self.open(folder);
        wait_until("the node serves", || node.readiness() == Readiness::Ready).await;
        node
    }
}

fn call(pc: &str, value: &str) -> SiteCall {
    let ids = CallIds { pc: VisitorId::new(IdKind::Pc, pc).ok(), ..CallIds::default() };
    let attributes = vec![("a".to_owned(), value.to_owned())];
    SiteCall { client: client(), ids, source: Source::Mbox, attributes }
}

async fn send(node: &Engine, file: &str, key: &str) -> Result<AcceptedBatch, EngineError> {
    let announced = Announced { for_all: true, ..Announced::default() };
    let mut upload =
        node.accept_batch(&who(), &client(), BatchVersion::V1, EmptyValues::Ignore, announced).await?;
    upload.push(Bytes::from(file.to_owned())).await?;
    upload.finish(IdempotencyKey::new(key)).await
}

/// The value of attribute `a`, and the seq that set it, once this node has what was written up to a seq.
async fn value(node: &Engine, pc: &str, seq: Seq) -> Option<(String, Seq)> {
    node.wait_for(seq).await.unwrap();
    value_of(node, pc).await
}

/// The same, as it is now.
async fn value_of(node: &Engine, pc: &str) -> Option<(String, Seq)> {
    let visitor = node.read(&client(), &VisitorId::new(IdKind::Pc, pc).unwrap()).await.unwrap()?;
    visitor.attributes.into_iter().find(|one| one.name == "a").map(|one| (one.value, one.seq))
}

async fn complete(node: &Engine, id: &BatchId) {
    let is = || node.batch(id).is_some_and(|batch| batch.state == BatchState::Complete);
    wait_until("the batch is complete", is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_one_node_is_read_at_the_others_also_after_restarts() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    let first = a.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    let second = b.site_call(call("p2", "two")).await.unwrap().seq.unwrap();
    for node in [&a, &b] {
        assert_eq!(value(node, "p1", first).await, Some(("one".into(), first)));
        assert_eq!(value(node, "p2", second).await, Some(("two".into(), second)));
    }
    let sent = send(&b, "batch=pcId,a\np1,three\nnobody,x\n", "k").await.unwrap();
    let id = sent.batch.id;
    assert_eq!(
        value(&a, "p1", id.seq).await,
        Some(("three".into(), id.seq)),
        "readable before it is complete"
    );
    for node in [&a, &b] {
        complete(node, &id).await;
        let counts = node.batch(&id).unwrap().counts;
        assert_eq!((counts.updated, counts.not_found), (1, 1));
    }
    // The same key at another node is the same batch.
    let again = send(&a, "batch=pcId,a\np1,three\nnobody,x\n", "k").await.unwrap();
    assert_eq!((again.batch.id, again.before), (id.clone(), true));

    // A node that was away gets what the other wrote, and gives out no seq twice.
    a.stop().await;
    drop(a);
    let third = b.site_call(call("p1", "four")).await.unwrap().seq.unwrap();
    let missed = send(&b, "batch=pcId,a\np2,five\n", "away").await.unwrap().batch.id;
    let a = cluster.node(folders[0].path()).await;
    assert_eq!(value(&a, "p1", third).await, Some(("four".into(), third)));
    assert_eq!(value(&a, "p2", missed.seq).await, Some(("five".into(), missed.seq)));
    complete(&a, &missed).await;
    let fourth = a.site_call(call("p3", "six")).await.unwrap().seq.unwrap();
    assert!(fourth > missed.seq);
    assert_eq!(value(&b, "p3", fourth).await, Some(("six".into(), fourth)));
    assert_eq!(a.order().unwrap().checksum, b.order().unwrap().checksum);
    // Alone it refuses to start: it would write what the others never hear of.
    b.stop().await;
    drop(b);
    let clock = GuardedClock::believing(Arc::clone(&cluster.clock) as _);
    let alone = Engine::open_as(config(folders[1].path()), clock, &Opening::default(), None);
    let why = alone.err().unwrap().to_string();
    assert!(why.contains("--order"), "{why}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_order_does_with_an_offer_is_what_its_caller_hears() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    cluster.order.next_appends([Fate::Twice]);
    let first = node.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    let second = node.site_call(call("p1", "two")).await.unwrap().seq.unwrap();
    assert!(second > first);
    assert_eq!(value(&node, "p1", second).await, Some(("two".into(), second)));
    assert_eq!(node.order().unwrap().duplicates, 1);
    cluster.order.next_appends([Fate::Refuse]);
    assert!(matches!(node.site_call(call("p1", "three")).await, Err(EngineError::NoOrder(_))));
    // It is in the order, so the answer comes though the acknowledgement was lost, or says that nobody knows.
    cluster.order.next_appends([Fate::LoseAcknowledgement]);
    let lost = node.site_call(call("p1", "four")).await;
    assert!(matches!(lost, Ok(_) | Err(EngineError::Unknown(_))), "{lost:?}");
    wait_until("what the order has is applied", || {
        node.order().unwrap().applied.0 == cluster.order.records().len() as u64
    })
    .await;
    assert_eq!(value(&node, "p1", second).await.unwrap().0, "four");
    assert_eq!(node.order().unwrap().lookups_behind(), None);
    cluster.order.set_out_of_reach(true);
    wait_until("the node hears of it", || node.order().unwrap().out_of_reach.is_some()).await;
    assert!(node.order().unwrap().lookups_behind().is_some(), "lookups say how old they may be");
    assert!(matches!(node.site_call(call("p1", "five")).await, Err(EngineError::NoOrder(_))));
    let refused = send(&node, "batch=pcId,a\np1,five\n", "k").await;
    assert!(matches!(refused, Err(EngineError::NoOrder(_))), "{:?}", refused.err());
    assert_eq!(cluster.pieces.records().len(), 0, "its file was sent for nothing");
    assert_eq!(value(&node, "p1", second).await.unwrap().0, "four", "lookups go on");
    cluster.order.set_out_of_reach(false);
    wait_until("the order is back", || node.order().unwrap().out_of_reach.is_none()).await;
    let last = node.site_call(call("p1", "six")).await.unwrap().seq.unwrap();
    assert_eq!(value(&node, "p1", last).await.unwrap().0, "six");
    node.stop().await;
}

/// A node that was cut from the leading broker alone had a reader without an error: it took itself for level for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_hears_nothing_is_noticed() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    node.site_call(call("p1", "one")).await.unwrap();
    cluster.order.deafen_readers();
    cluster.order.set_out_of_reach(true);
    wait_until("the node hears of it", || node.order().unwrap().out_of_reach.is_some()).await;
    cluster.order.set_out_of_reach(false);
    wait_until("the order is back", || node.order().unwrap().out_of_reach.is_none()).await;
    // The log answers, and only the reader hears nothing.
    cluster.order.deafen_readers();
    let seq = node.site_call(call("p1", "two")).await.unwrap().seq.unwrap();
    assert_eq!(value(&node, "p1", seq).await.unwrap().0, "two");
    node.stop().await;
}

/// Brokers that had all been killed knew no topics when they were back, and nodes ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_knows_for_a_moment_does_not_end_the_node() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    node.site_call(call("p1", "one")).await.unwrap();
    cluster.order.set_unknown(true);
    wait_until("the node hears of it", || node.order().unwrap().out_of_reach.is_some()).await;
    cluster.order.set_unknown(false);
    wait_until("the order is back", || node.order().unwrap().out_of_reach.is_none()).await;
    let seq = node.site_call(call("p1", "two")).await.unwrap().seq.unwrap();
    assert_eq!(value(&node, "p1", seq).await.unwrap().0, "two");
    cluster.order.set_unknown(true);
    let why = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap();
    assert!(why.contains("is not the one that this node has read"), "{why}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_the_one_it_was_ends_the_node() {
    for lose in [true, false] {
        let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
        let node = cluster.node(folder.path()).await;
        node.site_call(call("p1", "one")).await.unwrap();
        node.site_call(call("p1", "two")).await.unwrap();
        node.stop().await;
        drop(node);
        if lose {
            cluster.order.lose_from(Offset(2));
        } else {
            cluster.order.make_anew();
            assert!(matches!(cluster.join(folder.path(), "a"), Err(JoinError::MadeAnew(_))));
            // Another order in its place.
            let other = tempfile::tempdir().unwrap();
            cluster.join(other.path(), "b").unwrap();
            assert!(matches!(cluster.join(folder.path(), "a"), Err(JoinError::AnotherOrder { .. })));
            continue;
        }
        let node = cluster.open(folder.path());
        let why = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap();
        assert!(why.contains("is not the one that this node has read"), "{why}");
        node.stop().await;
    }
}

/// The record that it applied last is one of what it needs: perhaps it applied only the first requests of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_from_its_last_record_and_says_so_if_that_was_trimmed() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    let seq = node.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    node.stop().await;
    drop(node);
    let end = cluster.order.records().last().unwrap().offset.next();
    cluster.order.delete_before(Offset(end.0 - 1)).unwrap();
    let node = cluster.node(folder.path()).await;
    assert_eq!(value(&node, "p1", seq).await.unwrap().0, "one");
    node.stop().await;
    drop(node);
    cluster.order.delete_before(end).unwrap();
    let node = cluster.open(folder.path());
    let why = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap();
    assert!(why.contains("it was away for too long"), "{why}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_daemons_data_becomes_an_order_only_when_it_is_founded() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let alone = Engine::open(config(folder.path()), Arc::clone(&cluster.clock) as _).unwrap();
    let before = alone.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    alone.stop().await;
    drop(alone);
    assert!(matches!(cluster.join(folder.path(), "a"), Err(JoinError::SingleDaemons(_))));
    assert_eq!(cluster.order.ends().unwrap().1, Offset(0), "nothing was founded");
    let data = folder.path().join("data");
    let id = found(&data, &cluster.transport(), &*cluster.clock, false).unwrap();
    assert_eq!(found(&data, &cluster.transport(), &*cluster.clock, false).unwrap(), id, "twice does no harm");
    let node = cluster.node(folder.path()).await;
    assert_eq!(value(&node, "p1", before).await, Some(("one".into(), before)));
    assert!(node.site_call(call("p1", "two")).await.unwrap().seq.unwrap() > before);
    // A new node would lack what was there before the order began.
    let new = tempfile::tempdir().unwrap();
    assert!(matches!(cluster.join(new.path(), "b"), Err(JoinError::NoSnapshot { .. })));
    let another = tempfile::tempdir().unwrap();
    let other = Engine::open(config(another.path()), Arc::clone(&cluster.clock) as _).unwrap();
    other.stop().await;
    drop(other);
    let refused = found(&another.path().join("data"), &cluster.transport(), &*cluster.clock, false);
    assert!(matches!(refused, Err(JoinError::NotEmpty(other)) if other == id));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_tell_how_far_each_is() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let engines = [cluster.node(folders[0].path()).await, cluster.node(folders[1].path()).await];
    let mut members = vec![];
    for (engine, (name, settings)) in engines.iter().zip([("a", "1"), ("b", "2")]) {
        let who =
            Identity { name: name.into(), address: format!("http://{name}"), settings: settings.into() };
        let known = FolderCluster::read(&folders[0].path().join("data")).unwrap().unwrap();
        let (id, run) = (known.cluster, RunId::random().unwrap());
        let wait = Duration::from_secs(3_600);
        members.push(Members::start(engine.clone(), cluster.transport(), who, (id, run), wait).unwrap());
    }
    engines[0].site_call(call("p1", "one")).await.unwrap();
    // Under the folders' names they joined, and do not report.
    let nodes = |one: &Members| {
        let nodes = one.status().nodes.into_iter().filter(|node| ["a", "b"].contains(&node.name.as_str()));
        nodes.collect::<Vec<_>>()
    };
    let has_all =
        |node: &NodeStatus| node.state == "serving" && node.applied == 2 && node.behind_records == 0;
    wait_until("each knows that both have all", || {
        members.iter().map(|one| nodes(one)).all(|nodes| nodes.len() == 2 && nodes.iter().all(has_all))
    })
    .await;
    let status = members[0].status();
    assert_eq!((status.node.as_str(), status.order), ("a", (0, 2)));
    for (node, differs) in nodes(&members[0]).iter().zip([false, true]) {
        assert_eq!(
            (node.settings_differ, node.behind, node.diverged),
            (differs, Some(Duration::ZERO), false)
        );
    }
    let mut vitals = OrderVitals::default();
    members[0].add_to(&mut vitals);
    assert!(vitals.nodes >= 2 && vitals.sums_differ == 0, "{vitals:?}");
    members[1].stop();
    wait_until("a hears that b was stopped", || nodes(&members[0])[1].state == "stopped").await;
    members[0].stop();
    for engine in engines {
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_order_is_lost_goes_on_in_a_new_one() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let data = folder.path().join("data");
    let node = cluster.node(folder.path()).await;
    let mut last = Seq::ZERO;
    for value in ["one", "two", "three"] {
        last = node.site_call(call("p1", value)).await.unwrap().seq.unwrap();
    }
    node.stop().await;
    drop(node);
    cluster.order.make_anew();
    let found = |anew| found(&data, &cluster.transport(), &*cluster.clock, anew);
    assert!(matches!(found(false), Err(JoinError::AnotherOrder { .. })), "that must be asked for");
    found(true).unwrap();
    // The new order is shorter than the one that the folder had applied.
    for value in ["four", "five"] {
        let node = cluster.node(folder.path()).await;
        assert_eq!(value_of(&node, "p1").await.unwrap().1, last);
        let seq = node.site_call(call("p1", value)).await.unwrap().seq.unwrap();
        assert!(seq > last);
        assert_eq!(value_of(&node, "p1").await, Some((value.into(), seq)));
        last = seq;
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_soon_though_the_order_does_not_answer() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    node.site_call(call("p1", "one")).await.unwrap();
    // The batch's count is on its way, and then a call.
    cluster.order.next_appends([Fate::Append, Fate::Hold]);
    send(&node, "batch=pcId,a\np1,two\n", "k").await.unwrap();
    wait_until("the count is on its way", || cluster.order.held() == 1).await;
    let (caller, asked) = (node.clone(), call("p1", "three"));
    let caller = tokio::spawn(async move { caller.site_call(asked).await });
    wait_until("the call is on its way", || cluster.order.held() == 2).await;
    tokio::time::timeout(Duration::from_secs(5), node.stop()).await.expect("it waits for nobody");
    let heard = caller.await.unwrap();
    assert!(matches!(heard, Err(EngineError::Unknown(_))), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_what_the_order_no_longer_has_from_another_and_keeps_its_own_tokens() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let old = cluster.node(folders[0].path()).await;
    let first = old.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    std::fs::write(old.data_folder().join("tokens.json"), "the other node's").unwrap();
    let data = folders[1].path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("tokens.json"), "its own").unwrap();
    let there = || {
        let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    let snapshot = old.peer_snapshot(&who()).await.unwrap();
    let backup = snapshot.folder().to_owned();
    let id = FolderCluster::read(old.data_folder()).unwrap().unwrap();
    let restore = |finishing: &dyn Fn(&Path) -> io::Result<()>| {
        let (config, clock) = (config(folders[1].path()), Arc::clone(&cluster.clock));
        tokio::task::block_in_place(|| restore_of_peer(&backup, &data, config, clock, finishing))
    };
    // What fails leaves nothing but what was there.
    assert!(restore(&|_| Err(io::ErrorKind::StorageFull.into())).is_err());
    assert_eq!(there(), ["tokens.json"]);
    // So does one that is interrupted, once the node starts again.
    std::fs::write(data.join("unfinished"), "").unwrap();
    std::fs::create_dir_all(data.join("journal")).unwrap();
    clear_interrupted(&data).unwrap();
    assert_eq!(there(), ["tokens.json"]);

    let named = |folder: &Path| {
        assert!(folder.join("unfinished").exists(), "nobody opens it before it says what it is");
        id.write(folder)
    };
    restore(&named).unwrap();
    clear_interrupted(&data).unwrap();
    assert_eq!(std::fs::read_to_string(data.join("tokens.json")).unwrap(), "its own");
    assert!(!data.join("audit.log").exists() && !data.join("unfinished").exists());
    drop(snapshot);
    wait_until("the snapshot is gone", || !backup.exists()).await;

    cluster.order.delete_before(Offset(1)).unwrap();
    let new = cluster.node(folders[1].path()).await;
    assert_eq!(value(&new, "p1", first).await, Some(("one".into(), first)));
    let second = new.site_call(call("p1", "two")).await.unwrap().seq.unwrap();
    assert_eq!(value(&old, "p1", second).await, Some(("two".into(), second)));
    for node in [&old, &new] {
        node.stop().await;
    }
    // What a crash left of a snapshot for another node goes at the next start.
    std::fs::create_dir_all(&backup).unwrap();
    drop(old);
    let old = cluster.node(folders[0].path()).await;
    assert!(!backup.exists());
    old.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_diverged_does_not_start_again() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    let known = FolderCluster::read(node.data_folder()).unwrap().unwrap();
    assert!(!known.diverged);
    let who = Identity { name: "a".into(), address: "http://a".into(), settings: String::new() };
    let of = (known.cluster, RunId::random().unwrap());
    let members =
        Members::start(node.clone(), cluster.transport(), who, of, Duration::from_secs(60)).unwrap();
    for (name, checksum) in [("a", 1), ("b", 2), ("c", 2)] {
        let report = json!({
            "name": name, "run": "", "cluster": known.cluster.to_string(), "address": "", "version": "", "rules": 1,
            "state": "serving", "applied": 300, "appliedAtMs": 0, "snapshot": 0, "checksum": checksum, "checksumAt": 256,
            "settings": "", "diskFree": 0,
        });
        cluster.nodes.append(name.as_bytes(), report.to_string().into_bytes(), Box::new(drop));
    }
    let why = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap();
    assert!(why.contains("has diverged"), "{why}");
    members.stop();
    node.stop().await;
    drop(node);
    let data = folder.path().join("data");
    assert!(matches!(cluster.join(folder.path(), "a"), Err(JoinError::Diverged(_))));
    cluster.order.make_anew();
    let anew = found(&data, &cluster.transport(), &*cluster.clock, true);
    assert!(matches!(anew, Err(JoinError::Diverged(_))), "others must not get its data");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_only_the_journal_tells_of_is_complete_on_a_node_too() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let node = cluster.node(folder.path()).await;
    node.site_call(call("p1", "one")).await.unwrap();
    let id = send(&node, "batch=pcId,a\np1,two\nnobody,x\n", "k").await.unwrap().batch.id;
    complete(&node, &id).await;
    let counts = node.batch(&id).unwrap().counts;
    node.stop().await;
    drop(node);
    std::fs::write(folder.path().join("data/catalogue"), "noise").unwrap();
    let node = cluster.node(folder.path()).await;
    let batch = node.batch(&id).expect("the journal has it");
    assert_eq!((batch.state, batch.counts), (BatchState::Complete, counts));
    node.stop().await;
}
