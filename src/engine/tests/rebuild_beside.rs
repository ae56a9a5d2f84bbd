use crate::batch::outcomes_file::{Failure, read_outcomes};
use crate::clock::GuardedClock;
use crate::config::{Config, ServeOptions};
use crate::engine::commit::wire;
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::engine::types::BatchSending;
use crate::engine::types::{BatchTerms, BatchVersion, CallIds, SiteCall};
use crate::engine::{Announced, Engine, NodeParts, Opening, PeerBody, Peers, Readiness, Upload};
use crate::model::batch::BatchState;
use crate::model::batch::{BatchId, EmptyValues, Outcome};
use crate::model::id::{ClientCode, IdKind, VisitorId};
use crate::model::profile::Source;
use crate::model::seq::{Clock as _, SystemClock};
use crate::order::gather::Gathering;
use crate::order::memory::{Fate, MemoryLog};
use crate::order::record::{ClusterId, Offers, RunId};
use crate::order::{Log as _, Offset};
use crate::store::StoreError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn client(code: &str) -> ClientCode {
    ClientCode::new(code).unwrap()
}

fn id(id: &str) -> VisitorId {
    VisitorId::new(IdKind::Pc, id).unwrap()
}

async fn site_call(app: &Engine, code: &str, pc: &str, value: &str) {
    let ids = CallIds { pc: Some(id(pc)), ..CallIds::default() };
    let attributes = vec![("s".to_owned(), value.to_owned())];
    let call = SiteCall { client: client(code), ids, source: Source::Mbox, attributes };
    app.site_call(call).await.unwrap();
}

async fn until(app: &Engine, what: &str, met: impl Fn(&Engine) -> bool) {
    let begun = Instant::now();
    while !met(app) {
        assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {:?}", app.0.shared.store.damage());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The file, sent for a client.
async fn sent(app: &Engine, code: &str) -> Upload {
    sent_with(app, code, Announced::default()).await
}

async fn sent_with(app: &Engine, code: &str, announced: Announced) -> Upload {
    let (who, client) = (Who::new(None, [127, 0, 0, 1].into()), client(code));
    let terms = BatchTerms { version: BatchVersion::V1, empty_values: EmptyValues::Ignore, as_of: None };
    let upload = app.accept_batch(&who, &client, terms, announced);
    let mut upload = upload.await.unwrap();
    upload.push(FILE.as_bytes().to_vec().into()).await.unwrap();
    upload
}

fn is_complete(app: &Engine, batch: &BatchId) -> bool {
    app.batch(batch).is_some_and(|status| status.state == BatchState::Complete)
}

/// A daemon's folder, and in it the batches that are complete behind its newest snapshot: `a`'s, and `b`'s.
struct Behind {
    folder: tempfile::TempDir,
    app: Engine,
    of_a: BatchId,
    of_b: BatchId,
}

const FILE: &str = "batch=pcId,n\nplain,1\nwritten,1\nnobody,1\n";

impl Behind {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let options = ServeOptions::default().with("data", data).unwrap();
        let app = Engine::open(Config::resolve(&options).unwrap(), Arc::new(SystemClock)).unwrap();
        let mut batches = vec![];
        for code in ["a", "b"] {
            for pc in ["plain", "written"] {
                site_call(&app, code, pc, "before").await;
            }
            let upload = sent(&app, code).await;
            let batch = upload.finish(BatchSending::default()).await.unwrap().batch.id;
            until(&app, "complete", |app| is_complete(app, &batch)).await;
            site_call(&app, code, "written", "behind").await;
            batches.push(batch);
        }
        let (of_b, of_a) = (batches.pop().unwrap(), batches.pop().unwrap());
        Self { folder, app, of_a, of_b }
    }

    /// Where the file of `a`'s batch is, or what became of its rows.
    fn file(&self, kind: &str) -> PathBuf {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.path().join("data/spool"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == kind))
            .collect();
        files.sort();
        files.swap_remove(0)
    }

    async fn remade(&self) {
        let why = "a page cannot be read".to_owned();
        self.app.0.shared.store.note_damage(&StoreError::Damaged { doing: "read", why });
        until(&self.app, "rebuilt", |app| app.0.upkeep.rebuild.done() == 1).await;
        assert_eq!(self.app.0.shared.store.damage(), None);
        until(&self.app, "complete", |app| {
            app.0.shared.batches.pending_by_seq(self.of_b.seq).is_none() && is_complete(app, &self.of_b)
        })
        .await;
        let shown = self.shown("b", "plain").await.unwrap();
        assert_eq!(shown.as_deref(), Some("1"));
    }

    async fn shown(&self, code: &str, pc: &str) -> Result<Option<String>, EngineError> {
        let visitor = self.app.read(&client(code), &id(pc)).await?;
        let mut attributes = visitor.into_iter().flat_map(|visitor| visitor.attributes);
        Ok(attributes.find(|attribute| attribute.name == "n").map(|attribute| attribute.value))
    }

    /// What became of those rows of `a`'s batch that were not updated.
    fn not_updated(&self) -> Vec<(u32, Outcome, Option<Failure>)> {
        let rows = read_outcomes(&self.file("outcomes")).unwrap();
        rows.into_iter().map(|row| (row.line, row.outcome, row.failure)).collect()
    }

    async fn resend(&self) {
        let upload = sent(&self.app, "a").await;
        upload.put_back(&self.of_a).await.unwrap();
        let no_longer = |app: &Engine| app.0.shared.batches.pending_by_seq(self.of_a.seq).is_none();
        until(&self.app, "applied", no_longer).await;
    }
}

const NOBODY: (u32, Outcome, Option<Failure>) = (4, Outcome::NotFound, None);

/// It stopped all of it, for every client, and was tried again every ten minutes for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_batch_whose_upload_is_damaged_is_held_and_the_store_is_made_again() {
    let behind = Behind::new().await;
    let counts = behind.app.batch(&behind.of_a).unwrap().counts;
    noise(&behind.file("csv"));
    behind.remade().await;
    let status = behind.app.batch(&behind.of_a).unwrap();
    assert_eq!(status.state, BatchState::Stuck);
    assert!(status.reason.unwrap().contains("is not what was accepted"));
    assert!(matches!(behind.shown("a", "plain").await, Err(EngineError::Held { .. })));
    assert_eq!(behind.app.vitals().batches_stuck, 1);
    assert!(behind.app.remarks().join("").contains("1 batches are stuck"), "{:?}", behind.app.remarks());
    behind.resend().await;
    assert_eq!(behind.shown("a", "written").await.unwrap().as_deref(), Some("1"));
    assert_eq!(behind.app.batch(&behind.of_a).unwrap().counts, counts);
    assert_eq!(behind.not_updated(), [NOBODY]);
    behind.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_batch_whose_outcomes_are_damaged_has_them_made_again_as_far_as_anybody_can() {
    let behind = Behind::new().await;
    noise(&behind.file("outcomes"));
    behind.remade().await;
    until(&behind.app, "complete", |app| is_complete(app, &behind.of_a)).await;
    assert_eq!(behind.shown("a", "written").await.unwrap().as_deref(), Some("1"));
    assert_eq!(behind.shown("a", "plain").await.unwrap().as_deref(), Some("1"));
    assert_eq!(behind.not_updated(), [NOBODY]);
    behind.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_which_both_are_damaged_is_held_and_judged_once_its_file_is_sent_again() {
    let behind = Behind::new().await;
    noise(&behind.file("csv"));
    noise(&behind.file("outcomes"));
    behind.remade().await;
    let status = behind.app.batch(&behind.of_a).unwrap();
    assert_eq!(status.state, BatchState::Stuck);
    assert!(status.reason.unwrap().contains("what became of its rows"));
    behind.resend().await;
    assert_eq!(behind.shown("a", "plain").await.unwrap().as_deref(), Some("1"));
    assert_eq!(behind.not_updated(), [NOBODY]);
    behind.app.stop().await;
}

/// No other node is there.
struct Nobody;

impl Peers for Nobody {
    fn took_in(&self) {}

    fn wait_for_files(&self, _: Offset) {}

    fn names(&self) -> Vec<String> {
        vec![]
    }

    fn file(&self, _: &str, _: &BatchId, _: &dyn Fn() -> bool) -> Result<Box<dyn PeerBody>, String> {
        Err("nobody is there".into())
    }
}

/// Its rows are in no journal either, and nobody had asked for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_node_has_applied_and_the_order_has_not_counted_is_applied_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let config = Config::resolve(&ServeOptions::default().with("data", data).unwrap()).unwrap();
    let (order, pieces) = (MemoryLog::new(), MemoryLog::new());
    let (cluster, run) = (ClusterId([1; 16]), RunId([2; 16]));
    let founding = wire::founding(cluster, false).unwrap();
    let founding = Offers { run: RunId([3; 16]), first: 1, clock_ms: 1, requests: vec![founding.into()] };
    order.append(b"", founding.encode().unwrap(), Box::new(drop));
    let parts = NodeParts {
        cluster,
        run,
        order: Arc::new(order.clone()),
        pieces: Arc::new(pieces),
        peers: Arc::new(Nobody),
        gathering: Gathering { deadline: Duration::from_secs(600), ..Gathering::default() },
    };
    order.set_clock(SystemClock.now());
    let clock = GuardedClock::believing(Arc::new(SystemClock));
    let app = Engine::open_as(config, clock, &Opening::default(), Some(parts)).unwrap();
    until(&app, "ready", |app| app.readiness() == Readiness::Ready).await;
    site_call(&app, "a", "plain", "before").await;
    order.next_appends([Fate::Append, Fate::Hold]);
    let upload = sent_with(&app, "a", Announced { for_all: true, ..Announced::default() }).await;
    let batch = upload.finish(BatchSending::default()).await.unwrap().batch.id;
    let uncounted = |app: &Engine| app.0.shared.batches.uncounted().len() == 1;
    until(&app, "applied", |app| uncounted(app) && order.held() == 1).await;

    let why = "a page cannot be read".to_owned();
    app.0.shared.store.note_damage(&StoreError::Damaged { doing: "read", why });
    until(&app, "rebuilt", |app| app.0.upkeep.rebuild.done() == 1).await;
    assert!(!is_complete(&app, &batch), "the order has no count of it");
    let shown = app.read(&client("a"), &id("plain")).await.unwrap().unwrap();
    assert!(shown.attributes.iter().any(|one| one.name == "n" && one.value == "1"), "{shown:?}");
    until(&app, "applied again", uncounted).await;
    order.release(1);
    until(&app, "complete", |app| is_complete(app, &batch)).await;
    let counts = app.batch(&batch).unwrap().counts;
    assert_eq!((counts.updated, counts.not_found), (1, 2));
    app.stop().await;
}

fn noise(path: &Path) {
    std::fs::write(path, "noise").unwrap();
}
