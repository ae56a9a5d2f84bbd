//! Several whole engines over one order in memory: what is written at one is read at the others.

use crate::handle::{client, config, who};
use bytes::Bytes;
use profiled::clock::GuardedClock;
use profiled::cluster::{
    FolderCluster, Identity, JoinError, Joined, Members, NodeStatus, PeerAnswer, Roster, Transport, found,
    join,
};
use profiled::config::{Config, ServeOptions};
use profiled::engine::BatchSending;
use profiled::engine::commit::VisitorWrite;
use profiled::engine::offline::check::verify_backup;
use profiled::engine::offline::restore::{clear_interrupted, restore_of_peer};
use profiled::engine::{
    AcceptedBatch, Announced, BatchState, BatchTerms, BatchVersion, CallIds, Engine, EngineError, NodeParts,
    Opening, PeerBody, Peers, Readiness, SiteCall,
};
use profiled::http::change_event::write_change;
use profiled::http::{Front, server};
use profiled::model::author::Author;
use profiled::model::batch::{BatchId, EmptyValues, IdempotencyKey, RowForm};
use profiled::model::id::{IdKind, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::{Clock, Millis, Seq};
use profiled::order::gather::Gathering;
use profiled::order::memory::{Fate, MemoryLog};
use profiled::order::pieces::{Part, Piece};
use profiled::order::record::RunId;
use profiled::order::{Appended, Log, LogReader, Offset, OrderError, Record};
use profiled::telemetry::metrics::OrderVitals;
use profiled::tokens::{InvalidToken, Scope, TokenName, Tokens, WantedToken};
use serde_json::json;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

/// Waits until something holds.
pub(crate) async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "not within 120 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const BEGIN_MS: u64 = 1_700_000_000_000;
const BEGIN: Millis = Millis(BEGIN_MS);

/// A clock that stands where it is set.
struct Standing(AtomicU64);

impl Clock for Standing {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

/// An order and the pieces of files that go with it.
pub(crate) struct Cluster {
    pub(crate) order: MemoryLog,
    pieces: MemoryLog,
    pub(crate) nodes: MemoryLog,
    clock: Arc<Standing>,
    /// How fast nodes that are opened apply batches.
    rows_per_second: Option<NonZeroU32>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let order = MemoryLog::new();
        order.set_clock(Millis(BEGIN_MS));
        let clock = Arc::new(Standing(AtomicU64::new(BEGIN_MS)));
        Self { order, pieces: MemoryLog::new(), nodes: MemoryLog::new(), clock, rows_per_second: None }
    }

    /// Sets the nodes' clock ahead of where it began, but not the order's.
    pub(crate) fn set_clock_ahead(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.clock.0.store(BEGIN_MS + by, Ordering::Relaxed);
    }

    pub(crate) fn transport(&self) -> Transport {
        Transport {
            order: Arc::new(self.order.clone()),
            pieces: Arc::new(self.pieces.clone()),
            nodes: Arc::new(self.nodes.clone()),
            changes: None,
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
        self.open_as(folder, config(folder))
    }

    fn open_as(&self, folder: &Path, config: Config) -> Engine {
        self.open_joined(config, self.joined(folder))
    }

    /// The same, with these other nodes, and the files of batches by this log.
    fn open_with(&self, folder: &Path, peers: Arc<dyn Peers>, pieces: Arc<dyn Log>) -> Engine {
        self.open_joined(config(folder), NodeParts { peers, pieces, ..self.joined(folder) })
    }

    /// Joins, and does not open the folder yet.
    fn joined(&self, folder: &Path) -> NodeParts {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let Joined { cluster, run, .. } = self.join(folder, &name).unwrap();
        NodeParts {
            cluster,
            run,
            order: Arc::new(self.order.clone()),
            pieces: Arc::new(self.pieces.clone()),
            peers: roster(&name),
            gathering: Gathering::default(),
        }
    }

    fn open_joined(&self, mut config: Config, parts: NodeParts) -> Engine {
        let clock = GuardedClock::believing(Arc::clone(&self.clock) as _);
        config.ingest.rows_per_second_max = self.rows_per_second;
        Engine::open_as(config, clock, &Opening::default(), Some(parts)).unwrap()
    }

    /// A node on this folder that takes calls.
    pub(crate) async fn node(&self, folder: &Path) -> Engine {
        serving(self.open(folder)).await
    }

    /// Watches the nodes as the one of this name.
    fn watch(&self, node: &Engine, name: &str, settings: &str, roster: Arc<Roster>) -> Arc<Members> {
        let who =
            Identity { name: name.into(), address: format!("http://{name}"), settings: settings.into() };
        let known = FolderCluster::read(node.data_folder()).unwrap().unwrap();
        let (of, wait) = ((known.cluster, RunId::random().unwrap()), Duration::from_secs(3_600));
        Members::start(node.clone(), self.transport(), who, of, (wait, roster), write_change).unwrap()
    }
}

async fn serving(node: Engine) -> Engine {
    wait_until("the node serves", || node.readiness() == Readiness::Ready).await;
    node
}

/// What is known of the nodes to one of this name. Nobody answers it.
pub(crate) fn roster(name: &str) -> Arc<Roster> {
    Arc::new(Roster::new(name, Box::new(|_, _| Err("nobody answers".into()))))
}

/// What a log of pieces gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    All,
    Nothing,
    /// The data with wrong bytes.
    Damaged,
    /// Everything but the data.
    Gaps,
}

/// A log of pieces that can be made to give less than it has.
#[derive(Clone)]
struct Gated {
    log: MemoryLog,
    gives: Arc<Mutex<Gives>>,
}

impl Gated {
    fn new(log: &MemoryLog) -> Arc<Self> {
        Arc::new(Self { log: log.clone(), gives: Arc::new(Mutex::new(Gives::All)) })
    }

    fn set(&self, gives: Gives) {
        *self.gives.lock().unwrap() = gives;
    }
}

impl Log for Gated {
    fn append(&self, key: &[u8], record: Vec<u8>, done: Appended) {
        self.log.append(key, record, done);
    }

    fn read_from(&self, offset: Offset) -> Result<Box<dyn LogReader>, OrderError> {
        Ok(Box::new(GatedReader(self.log.read_from(offset)?, Arc::clone(&self.gives))))
    }

    fn ends(&self) -> Result<(Offset, Offset), OrderError> {
        self.log.ends()
    }

    fn delete_before(&self, offset: Offset) -> Result<(), OrderError> {
        self.log.delete_before(offset)
    }
}

struct GatedReader(Box<dyn LogReader>, Arc<Mutex<Gives>>);

impl LogReader for GatedReader {
    fn next(&mut self, _: Duration) -> Result<Option<Record>, OrderError> {
        let short = Duration::from_millis(2);
        let gives = *self.1.lock().unwrap();
        if gives == Gives::Nothing {
            std::thread::sleep(short);
            return Ok(None);
        }
        let Some(mut record) = self.0.next(short)? else { return Ok(None) };
        if gives != Gives::All && matches!(Piece::decode(&record.value).unwrap().part, Part::Data { .. }) {
            if gives == Gives::Gaps {
                return Ok(None);
            }
            *record.value.last_mut().unwrap() ^= 1;
        }
        Ok(Some(record))
    }
}

/// Another node that is asked without any network.
struct Other {
    node: Engine,
    answers: AtomicBool,
    runtime: Handle,
}

impl Other {
    fn new(node: &Engine, answers: bool) -> Arc<Self> {
        let answers = AtomicBool::new(answers);
        Arc::new(Self { node: node.clone(), answers, runtime: Handle::current() })
    }
}

impl Peers for Other {
    fn took_in(&self) {}

    fn wait_for_files(&self, _: Offset) {}

    fn names(&self) -> Vec<String> {
        vec!["other".into()]
    }

    fn file(&self, _: &str, batch: &BatchId, _: &dyn Fn() -> bool) -> Result<Box<dyn PeerBody>, String> {
        if !self.answers.load(Ordering::SeqCst) {
            return Err("it does not answer".into());
        }
        let mut bytes = vec![];
        let file = self.runtime.block_on(self.node.uploaded_file(&who(), batch));
        let read = file.and_then(|file| {
            file.pieces(|piece| {
                bytes.extend_from_slice(piece);
                ControlFlow::Continue(())
            })
        });
        read.map_err(|error| error.to_string())?;
        Ok(Box::new(Whole(Some(bytes.into()))))
    }
}

/// An answer in one piece.
struct Whole(Option<Bytes>);

impl PeerBody for Whole {
    fn next(&mut self, _: &dyn Fn() -> bool) -> Result<Option<Bytes>, String> {
        Ok(self.0.take())
    }
}

pub(crate) fn call(pc: &str, value: &str) -> SiteCall {
    let ids = CallIds { pc: VisitorId::new(IdKind::Pc, pc).ok(), ..CallIds::default() };
    let attributes = vec![("a".to_owned(), value.to_owned())];
    SiteCall { client: client(), ids, source: Source::Mbox, attributes }
}

const TERMS: BatchTerms =
    BatchTerms { version: BatchVersion::V1, empty_values: EmptyValues::Ignore, as_of: None };

pub(crate) async fn send(node: &Engine, file: &str, key: &str) -> Result<AcceptedBatch, EngineError> {
    send_in(RowForm::Csv, node, file, key).await
}

async fn send_in(rows: RowForm, node: &Engine, file: &str, key: &str) -> Result<AcceptedBatch, EngineError> {
    let announced = Announced { for_all: true, rows, ..Announced::default() };
    let mut upload = node.accept_batch(&who(), &client(), TERMS, announced).await?;
    upload.push(Bytes::from(file.to_owned())).await?;
    upload.finish(BatchSending { key: IdempotencyKey::new(key), ..BatchSending::default() }).await
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

pub(crate) async fn complete(node: &Engine, id: &BatchId) {
    let is = || node.batch(id).is_some_and(|batch| batch.state == BatchState::Complete);
    wait_until("the batch is complete", is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_knows_who_was_active_last_at_any_of_them() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    a.site_call(call("p1", "one")).await.unwrap();
    b.site_call(call("p2", "two")).await.unwrap();
    let last = a.site_call(call("p1", "three")).await.unwrap().seq.unwrap();
    for node in [&a, &b] {
        node.wait_for(last).await.unwrap();
        let found = node.active(&client(), None, 10).await.unwrap();
        let ids: Vec<&str> = found.visitors.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["p1", "p2"]);
    }
    let erase = VisitorWrite::Erase;
    let id = VisitorId::new(IdKind::Pc, "p1").unwrap();
    let erased = b.write_visitor(client(), id, erase, Author::default()).await.unwrap().seq.unwrap();
    for node in [&a, &b] {
        node.wait_for(erased).await.unwrap();
        let found = node.active(&client(), None, 10).await.unwrap();
        assert_eq!(found.visitors.len(), 1, "{found:?}");
    }
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

/// The form of a batch goes to all nodes with its rules, and stands in each one's journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_ndjson_is_read_alike_on_all_nodes_also_after_restarts() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    a.site_call(call("p1", "one")).await.unwrap();
    let rows = "{\"pcId\":\"p1\",\"a\":2}\n{\"pcId\":\"p1\",\"b\":1}\n{\"pcId\":\"nobody\",\"a\":1}\n";
    let id = send_in(RowForm::Ndjson, &b, rows, "k").await.unwrap().batch.id;
    let check = async |node: &Engine| {
        assert_eq!(value(node, "p1", id.seq).await, Some(("2".into(), id.seq)));
        complete(node, &id).await;
        let batch = node.batch(&id).unwrap();
        assert_eq!(batch.form, RowForm::Ndjson);
        assert_eq!((batch.counts.updated, batch.counts.failed, batch.counts.not_found), (1, 1, 1));
    };
    for (node, folder) in [(a, &folders[0]), (b, &folders[1])] {
        check(&node).await;
        node.stop().await;
        drop(node);
        let node = cluster.node(folder.path()).await;
        check(&node).await;
        node.stop().await;
    }
}

/// Each erasure goes through the order, and every node has it in its own list of erasures.
#[tokio::test(flavor = "multi_thread")]
async fn visitors_erased_by_a_file_at_one_node_are_gone_on_all() {
    const VISITORS: usize = 150;
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    for n in 0..VISITORS {
        a.site_call(call(&format!("p{n}"), "one")).await.unwrap();
    }
    let stays = a.site_call(call("stays", "one")).await.unwrap().seq.unwrap();
    let ids: String = (0..=VISITORS).map(|n| format!("p{n}\n")).collect();
    let mut upload = b.take_ids(&who(), &client(), Announced::default()).await.unwrap();
    upload.push(Bytes::from(format!("pcId\n{ids}"))).await.unwrap();
    let erasing = upload.finish().await.unwrap();
    let (sum, seqs) = tokio::task::spawn_blocking(move || {
        let mut seqs = vec![];
        let sum = erasing.erase(
            || true,
            |receipts| {
                seqs.extend(receipts.iter().filter_map(|receipt| *receipt.erased.as_ref().unwrap()));
                ControlFlow::Continue(())
            },
        );
        (sum.unwrap().unwrap(), seqs)
    })
    .await
    .unwrap();
    assert_eq!((sum.erased, sum.not_found, sum.failed), (VISITORS as u64, 1, 0));
    assert!(seqs.is_sorted_by(|one, next| one < next), "in the file's order: {seqs:?}");
    let last = *seqs.last().unwrap();
    for (node, folder) in [(&a, &folders[0]), (&b, &folders[1])] {
        for n in [0, VISITORS / 2, VISITORS - 1] {
            assert_eq!(value(node, &format!("p{n}"), last).await, None, "p{n}");
        }
        assert_eq!(value(node, "stays", last).await, Some(("one".into(), stays)));
        let listed = || {
            let list =
                std::fs::read_to_string(config(folder.path()).server.data_folder.join("erasures")).unwrap();
            list.lines().count() - 1
        };
        wait_until("all are in the node's list", || listed() == VISITORS + 1).await;
    }
    assert_eq!(a.order().unwrap().checksum, b.order().unwrap().checksum);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_share_a_folder_for_backups_make_one_each() {
    let (cluster, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let backups = folder.path().join("backups");
    std::fs::create_dir(&backups).unwrap();
    let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
    let set_up = |name: &'static str| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        let settings = [
            ("data", text(own.join("data"))),
            ("backup_folder", text(backups.clone())),
            ("node", name.to_owned()),
            ("order", "kafka://k:9092/p".to_owned()),
        ];
        let options = settings
            .into_iter()
            .fold(ServeOptions::default(), |options, (key, value)| options.with(key, value).unwrap());
        (own, Config::resolve(&options).unwrap())
    };
    let (own, config) = set_up("a");
    let a = serving(cluster.open_as(&own, config)).await;
    let seq = a.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    let (own, config) = set_up("b");
    let b = serving(cluster.open_as(&own, config.clone())).await;
    assert_eq!(value(&b, "p1", seq).await, Some(("one".into(), seq)));
    let made = |node: &str| {
        let prefix = format!("profiled-{node}-");
        std::fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&prefix) && !name.ends_with(".partial")
        })
    };
    wait_until("each node has a backup", || made("a").is_some() && made("b").is_some()).await;
    for node in [&a, &b] {
        wait_until("the node tells it", || node.vitals().backups.is_some_and(|it| it.last.is_some())).await;
        node.stop().await;
    }
    for node in ["a", "b"] {
        let (backup, config, clock) = (made(node).unwrap(), config.clone(), Arc::clone(&cluster.clock));
        let scratch = folder.path().to_owned();
        let verify = move || verify_backup(&backup, config, clock as _, &scratch).unwrap();
        let (_, report) = tokio::task::spawn_blocking(verify).await.unwrap();
        assert!(report.restorable && report.faults.is_empty(), "{node}: {report:?}");
    }
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
        members.push(cluster.watch(engine, name, settings, roster(name)));
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
async fn a_new_node_gets_what_the_order_no_longer_has_from_another_and_its_tokens_besides_its_own() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let old = cluster.node(folders[0].path()).await;
    let first = old.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    let (kept, kept_text) = old.make_token(WantedToken::of(None, Scope::Admin)).await.unwrap();
    let (revoked, revoked_text) = old.make_token(WantedToken::of(None, Scope::Read)).await.unwrap();
    let data = folders[1].path().join("data");
    std::fs::create_dir(&data).unwrap();
    // Its own is one of its own, and one of the other's before that was revoked.
    let (_, own_text) =
        tokio::task::block_in_place(|| Tokens::make(&data, &WantedToken::of(None, Scope::Read), BEGIN))
            .unwrap();
    Tokens::read(old.data_folder()).unwrap().take_in(&data).unwrap();
    let own = std::fs::read(data.join("tokens.json")).unwrap();
    old.revoke_token(&revoked.id).await.unwrap();
    let there = || {
        let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names = names.collect::<Vec<_>>();
        names.sort();
        (names, std::fs::read(data.join("tokens.json")).unwrap())
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
    assert_eq!(there(), (vec!["tokens.json".into(), "tokens.lock".into()], own.clone()));
    // So does one that is interrupted, once the node starts again.
    std::fs::write(data.join("unfinished"), "").unwrap();
    std::fs::create_dir_all(data.join("journal")).unwrap();
    clear_interrupted(&data).unwrap();
    assert_eq!(there(), (vec!["tokens.json".into(), "tokens.lock".into()], own.clone()));

    let named = |folder: &Path| {
        assert!(folder.join("unfinished").exists(), "nobody opens it before it says what it is");
        id.write(folder)
    };
    restore(&named).unwrap();
    clear_interrupted(&data).unwrap();
    let tokens = Tokens::read(&data).unwrap();
    assert!(tokens.verify(&kept_text, BEGIN).is_ok_and(|token| *token == kept));
    assert!(tokens.verify(&own_text, BEGIN).is_ok());
    assert_eq!(tokens.verify(&revoked_text, BEGIN), Err(InvalidToken::Revoked));
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
    let members = cluster.watch(&node, "a", "", roster("a"));
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

/// Whether a token's text lets in at a node.
fn lets_in(node: &Engine, text: &str) -> Result<(), InvalidToken> {
    node.tokens().verify(text, BEGIN).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_on_all_nodes_and_so_does_its_revocation_also_after_restarts() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let cluster = Cluster::new();
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    assert!(!b.tokens().are_asked_for());
    let (made, text) = a
        .make_token(WantedToken {
            lasts_ms: Some(60_000),
            name: TokenName::new("nightly CRM").ok(),
            ..WantedToken::of(Some(client()), Scope::Read)
        })
        .await
        .unwrap();
    assert_eq!(lets_in(&a, &text), Ok(()), "at once where it was made");
    wait_until("b knows it", || lets_in(&b, &text) == Ok(())).await;
    assert_eq!(*b.tokens(), *a.tokens());
    assert_eq!(b.tokens().all()[0].name.as_ref().map(TokenName::as_str), Some("nightly CRM"));
    // Each node knows its own calls.
    a.note_token_use(&made.id);
    assert_eq!((a.token_last_used(&made.id).is_some(), b.token_last_used(&made.id)), (true, None));
    let (other, other_text) = b.make_token(WantedToken::of(None, Scope::Admin)).await.unwrap();
    let revoked = b.revoke_token(&made.id).await.unwrap();
    assert_eq!((&revoked.id, revoked.revoked_at_ms), (&made.id, Some(BEGIN_MS)));
    wait_until("a refuses it", || lets_in(&a, &text) == Err(InvalidToken::Revoked)).await;
    assert_eq!(lets_in(&a, &other_text), Ok(()));
    let offered = cluster.order.records().len();
    let unknown = b.revoke_token("00000000").await;
    assert!(matches!(unknown, Err(EngineError::UnknownToken(_))), "{unknown:?}");
    assert_eq!(cluster.order.records().len(), offered, "a revocation may not come before its token");
    let seq = b.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    a.wait_for(seq).await.unwrap();
    assert_eq!(a.order().unwrap().checksum, b.order().unwrap().checksum);

    // One that was away hears of it, and so does a new one that reads the order from its beginning.
    a.stop().await;
    drop(a);
    let (_, third_text) = b.make_token(WantedToken::of(Some(client()), Scope::Batch)).await.unwrap();
    b.revoke_token(&other.id).await.unwrap();
    let a = cluster.node(folders[0].path()).await;
    let c = cluster.node(folders[2].path()).await;
    for node in [&a, &b, &c] {
        assert_eq!(lets_in(node, &text), Err(InvalidToken::Revoked));
        assert_eq!(lets_in(node, &other_text), Err(InvalidToken::Revoked));
        assert_eq!(lets_in(node, &third_text), Ok(()));
        assert_eq!(*node.tokens(), Tokens::read(node.data_folder()).unwrap());
    }
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_the_folder_that_founds_an_order_are_everybodys() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let data = folders[0].path().join("data");
    std::fs::create_dir(&data).unwrap();
    let wanted = WantedToken { name: TokenName::new("first").ok(), ..WantedToken::of(None, Scope::Admin) };
    let make = || Tokens::make(&data, &wanted, BEGIN).unwrap();
    let ((_, kept), (revoked, gone)) = (make(), make());
    Tokens::revoke(&data, &revoked.id, BEGIN).unwrap();
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    for node in [&a, &b] {
        assert_eq!((lets_in(node, &kept), lets_in(node, &gone)), (Ok(()), Err(InvalidToken::Revoked)));
        let tokens = node.tokens();
        assert_eq!(tokens.all().iter().map(|token| &token.name).collect::<Vec<_>>(), [&wanted.name; 2]);
    }
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_accepted_once_the_other_nodes_have_its_file_and_a_slow_one_is_waited_for_once() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let rosters = ["a", "b"].map(roster);
    let pieces = Arc::new(cluster.pieces.clone());
    let a = serving(cluster.open_with(folders[0].path(), Arc::clone(&rosters[0]) as _, pieces)).await;
    let a_members = cluster.watch(&a, "a", "", Arc::clone(&rosters[0]));
    let took = async |key: &str| {
        let begun = Instant::now();
        let sent = send(&a, "batch=pcId,a\np1,x\n", key).await.unwrap();
        (begun.elapsed(), sent.batch.id)
    };
    let second = Duration::from_secs(1);
    wait_until("a has heard of itself", || !a_members.status().nodes.is_empty()).await;
    let (alone, alone_id) = took("alone").await;
    assert!(alone < second, "nobody is there");

    let gated = Gated::new(&cluster.pieces);
    let of_b = Arc::clone(&gated) as _;
    let b = serving(cluster.open_with(folders[1].path(), Arc::clone(&rosters[1]) as _, of_b)).await;
    let b_members = cluster.watch(&b, "b", "", Arc::clone(&rosters[1]));
    wait_until("a has heard of b", || {
        a_members.status().nodes.iter().any(|node| node.name == "b" && node.state == "serving")
    })
    .await;
    complete(&a, &alone_id).await;
    complete(&b, &alone_id).await;
    let mut waited = Duration::ZERO;
    for key in ["1", "2", "3", "4"] {
        gated.set(Gives::Nothing);
        let (before, node, sent) = (cluster.order.records().len(), a.clone(), cluster.pieces.records().len());
        let sending =
            tokio::spawn(async move { send(&node, &format!("batch=pcId,a\np1,{key}\n"), key).await });
        wait_until("its file is sent", || cluster.pieces.records().len() == sent + 3).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(cluster.order.records().len(), before, "b lacks the file, and would stand");
        let begun = Instant::now();
        gated.set(Gives::All);
        let id = sending.await.unwrap().unwrap().batch.id;
        waited += begun.elapsed();
        complete(&b, &id).await;
        complete(&a, &id).await;
        wait_until("both have its count", || {
            [&a, &b].iter().all(|node| node.order().unwrap().behind_records() == 0)
        })
        .await;
    }
    assert!(waited < 3 * second, "b says at once that it has a file: {waited:?}");

    gated.set(Gives::Nothing);
    let (first, _) = took("slow").await;
    assert!(first >= 2 * second && first < 6 * second, "{first:?}");
    for key in ["slower", "slowest"] {
        let (again, _) = took(key).await;
        assert!(again < second, "it was waited for in vain before: {again:?}");
    }
    gated.set(Gives::All);
    let (_, last) = took("last").await;
    complete(&b, &last).await;
    for members in [&a_members, &b_members] {
        members.stop();
    }
    for node in [&a, &b] {
        node.stop().await;
    }
}

/// Before it has read the order it does not know whether it has tokens: it would let everybody in who asks it first.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_lets_nobody_in_before_it_knows_of_tokens() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let joined = cluster.joined(folders[1].path());
    cluster.order.set_out_of_reach(true);
    let b = cluster.open_joined(config(folders[1].path()), joined);
    assert!(b.tokens().are_asked_for() && b.tokens().are_to_come());
    let (address, served) = serve(&b, &config(folders[1].path()), None).await;
    for path in ["/api/v1/batches?client=demo", "/rest/v1/profiles/1?client=demo"] {
        let answer = got(address, path.into(), "").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("who may call"), "{path}: {answer}");
    }
    assert!(got(address, "/healthz".into(), "").await.starts_with("HTTP/1.1 200 "));
    served.abort();
    cluster.order.set_out_of_reach(false);
    wait_until("b has read everything", || b.readiness() == Readiness::Ready).await;
    assert!(!b.tokens().are_asked_for(), "nobody has made one");
    b.stop().await;
    drop(b);
    // Nor where other machines reach it, unless that is allowed.
    let folder = folders[1].path();
    let mut public = config(folder);
    public.server.listen = "0.0.0.0:8750".parse().unwrap();
    let b = cluster.open_as(folder, public);
    wait_until("b has read everything", || b.readiness() == Readiness::Ready).await;
    assert!(b.tokens().are_asked_for());
    wait_until("a reaches the order again", || a.order().unwrap().out_of_reach.is_none()).await;
    let (_, text) = a.make_token(WantedToken::of(None, Scope::Admin)).await.unwrap();
    wait_until("b knows it", || lets_in(&b, &text) == Ok(())).await;
    for node in [a, b] {
        node.stop().await;
    }
}

/// The uploads that a node keeps.
fn uploads(node: &Engine) -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(node.data_folder().join("spool")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|kind| kind == "csv")).collect()
}

async fn stuck(node: &Engine, id: &BatchId) {
    let is = || node.batch(id).is_some_and(|batch| batch.state == BatchState::Stuck);
    wait_until("the batch is held", is).await;
}

/// Once, such a node ended, and so did every start of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_did_not_come_whole_comes_from_another_node_and_what_it_touches_waits() {
    for gives in [Gives::Damaged, Gives::Gaps] {
        let (cluster, folders) =
            (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
        let a = cluster.node(folders[0].path()).await;
        let (gated, other) = (Gated::new(&cluster.pieces), Other::new(&a, false));
        let open_b =
            || cluster.open_with(folders[1].path(), Arc::clone(&other) as _, Arc::clone(&gated) as _);
        let b = serving(open_b()).await;
        let one = a.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
        assert_eq!(value(&b, "p1", one).await.unwrap().0, "one");
        gated.set(gives);
        let id = send(&a, "batch=pcId,a\np1,two\nnobody,x\n", "k").await.unwrap().batch.id;
        stuck(&b, &id).await;
        let p1 = VisitorId::new(IdKind::Pc, "p1").unwrap();
        assert!(matches!(b.read(&client(), &p1).await, Err(EngineError::Held { .. })));
        let three = a.site_call(call("p1", "three")).await.unwrap().seq.unwrap();
        wait_until("b waits for the file", || b.order().unwrap().standing.is_some()).await;
        assert!(matches!(b.readiness(), Readiness::NotReady(_)), "{gives:?}");
        complete(&a, &id).await;
        // It can be stopped meanwhile, and goes on from there.
        let begun = Instant::now();
        b.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(b);
        let b = open_b();
        stuck(&b, &id).await;
        wait_until("b waits again", || b.order().unwrap().standing.is_some()).await;
        other.answers.store(true, Ordering::SeqCst);
        let b = serving(b).await;
        assert_eq!(value(&b, "p1", three).await, Some(("three".into(), three)));
        complete(&b, &id).await;
        let [of_a, of_b] = [&a, &b].map(|node| node.batch(&id).unwrap().counts);
        assert_eq!(of_a, of_b);
        let four = b.site_call(call("p1", "four")).await.unwrap().seq.unwrap();
        assert_eq!(value(&a, "p1", four).await, Some(("four".into(), four)));
        wait_until("both have all", || {
            let [a, b] = [&a, &b].map(|node| node.order().unwrap());
            a.behind_records() == 0 && (a.applied, a.checksum) == (b.applied, b.checksum)
        })
        .await;
        for node in [&a, &b] {
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_write_its_tokens_stands_until_it_can() {
    let (cluster, folders) = (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    let b = cluster.node(folders[1].path()).await;
    let (first, _) = a.make_token(WantedToken::of(None, Scope::Admin)).await.unwrap();
    wait_until("b knows it", || b.tokens().are_asked_for()).await;
    let file = b.data_folder().join("tokens.json");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, "noise").unwrap();
    a.revoke_token(&first.id).await.unwrap();
    let last = a.site_call(call("p1", "one")).await.unwrap().seq.unwrap();
    let stands = || b.order().unwrap().standing.is_some_and(|why| why.contains("tokens.json"));
    wait_until("b stands", stands).await;
    assert!(!matches!(b.readiness(), Readiness::Ready));
    assert_eq!(value_of(&b, "p1").await, None, "it skips nothing");
    std::fs::write(&file, whole).unwrap();
    assert_eq!(value(&b, "p1", last).await, Some(("one".into(), last)));
    assert_eq!(*b.tokens(), *a.tokens());
    assert_eq!(b.order().unwrap().standing, None);
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_damaged_or_lost_on_one_node_comes_from_another() {
    for lost in [true, false] {
        let (mut cluster, folders) =
            (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
        cluster.rows_per_second = NonZeroU32::new(1);
        let a = cluster.node(folders[0].path()).await;
        let b = cluster.node(folders[1].path()).await;
        a.site_call(call("p7", "one")).await.unwrap();
        let rows: String = (0..5_000).map(|n| format!("p{n},two\n")).collect();
        let id = send(&a, &format!("batch=pcId,a\n{rows}"), "k").await.unwrap().batch.id;
        assert_eq!(value(&b, "p7", id.seq).await, Some(("two".into(), id.seq)));
        b.stop().await;
        let file = uploads(&b).pop().unwrap();
        drop(b);
        if lost {
            std::fs::remove_file(&file).unwrap();
        } else {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[9_000] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
        cluster.rows_per_second = None;
        let b = cluster.open_with(folders[1].path(), Other::new(&a, true), Arc::new(cluster.pieces.clone()));
        complete(&b, &id).await;
        let counts = b.batch(&id).unwrap().counts;
        assert_eq!((counts.updated, counts.not_found), (1, 4_999), "lost: {lost}");
        assert_eq!(value(&b, "p7", id.seq).await, Some(("two".into(), id.seq)));
        for node in [&a, &b] {
            node.stop().await;
        }
    }
}

/// Serves a node over HTTP until the task that this gives is ended.
async fn serve(
    node: &Engine,
    config: &Config,
    members: Option<Arc<Members>>,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let front = Front::new(node.clone(), config, None).with_members(members);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(server::serve(listener, front, std::future::pending())))
}

/// The whole answer to a call, as it came.
async fn got(address: SocketAddr, path: String, header: &'static str) -> String {
    let call = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    tokio::task::spawn_blocking(call).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_a_batch_that_only_another_node_has_applied_come_from_there() {
    let (mut cluster, folders) =
        (Cluster::new(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let a = cluster.node(folders[0].path()).await;
    cluster.rows_per_second = NonZeroU32::new(1);
    let asked = Arc::new(Mutex::new(vec![]));
    let (calls, answers) = (Arc::clone(&asked), Arc::new(AtomicBool::new(true)));
    let answering = Arc::clone(&answers);
    let of_b = Arc::new(Roster::new(
        "b",
        Box::new(move |call, _| {
            calls.lock().unwrap().push((call.address.clone(), call.path.clone(), call.from.clone()));
            if !answering.load(Ordering::SeqCst) {
                return Err("it refuses".into());
            }
            let link = Some("</next>; rel=\"next\"".to_owned());
            Ok(PeerAnswer { link, body: Box::new(Whole(Some("line,as,a,says\n".into()))) })
        }),
    ));
    let pieces = Arc::new(cluster.pieces.clone());
    let b = serving(cluster.open_with(folders[1].path(), Arc::clone(&of_b) as _, pieces)).await;
    let members = [cluster.watch(&a, "a", "", roster("a")), cluster.watch(&b, "b", "", of_b)];
    wait_until("b has heard of a", || members[1].status().nodes.iter().any(|node| node.name == "a")).await;
    let (address, served) = serve(&b, &config(folders[1].path()), Some(Arc::clone(&members[1]))).await;

    let rows: String = (0..5_000).map(|n| format!("p{n},two\n")).collect();
    let id = send(&a, &format!("batch=pcId,a\n{rows}"), "k").await.unwrap().batch.id;
    complete(&b, &id).await;
    assert!(b.lacks_outcomes(&id), "it has not applied the batch");
    let heard = || asked.lock().unwrap().pop();
    let path = |what: &str| format!("/api/v1/batches/{id}/{what}");
    for (what, header) in
        [("outcomes?limit=5&outcome=not_found", "link: </next>; rel=\"next\""), ("repair", "-repair.csv")]
    {
        let answer = got(address, path(what), "").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("line,as,a,says\n"), "{answer}");
        assert!(answer.contains(header) && answer.contains("text/csv"), "{answer}");
        assert_eq!(heard(), Some(("http://a".into(), path(what), "b".into())));
    }
    // What is wrong is refused here, and a node that asks hears only what this one has.
    assert!(got(address, path("outcomes?limit=x"), "").await.starts_with("HTTP/1.1 400 "));
    let own = got(address, path("outcomes"), "Profiled-Node: a\r\n").await;
    assert!(own.starts_with("HTTP/1.1 503 ") && own.contains("has yet to apply"), "{own}");
    assert_eq!(heard(), None);
    answers.store(false, Ordering::SeqCst);
    let nobody = got(address, path("outcomes"), "").await;
    assert!(nobody.starts_with("HTTP/1.1 503 ") && nobody.contains("has yet to apply"), "{nobody}");
    assert!(heard().is_some());
    served.abort();
    members.iter().for_each(|one| one.stop());
    for node in [&a, &b] {
        node.stop().await;
    }
}
