//! Several whole engines over one order in memory: what is written at one is read at the others.

use crate::handle::{client, config, who};
use bytes::Bytes;
use profiled::clock::GuardedClock;
use profiled::cluster::{
    FolderCluster, Identity, JoinError, Joined, Members, NodeStatus, Transport, found, join,
};
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
        let nobody = |_: &str, _: &Path| Err("nobody is there".to_owned());
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
    assert_eq!(value(&node, "p1", second).await.unwrap().0, "four", "lookups go on");
    cluster.order.set_out_of_reach(false);
    wait_until("the order is back", || node.order().unwrap().out_of_reach.is_none()).await;
    let last = node.site_call(call("p1", "six")).await.unwrap().seq.unwrap();
    assert_eq!(value(&node, "p1", last).await.unwrap().0, "six");
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
