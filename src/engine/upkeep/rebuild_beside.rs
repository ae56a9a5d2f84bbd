//! Making the store again beside the one in use, where that turns out to be damaged while it serves.
//!
//! ```text
//! fill       a fresh generation from the newest snapshot that verifies, and what the journal says behind it, while the
//!            damaged store serves what can be read of it; folding waits, so the journal has every change
//! again      batches that were complete behind the snapshot: the fresh store lacks their rows, for folding is not
//!            journaled. What became of their rows is on record, and they stay complete for whoever asks. Where their
//!            files are damaged, it is done as at a start: a batch without its upload is held, one without its outcomes
//!            has them made again
//! take over  between two commit groups: the rest of the journal, these batches pending once more, the fresh store used
//! adopt      it is made durable, and from then on a restart finds it; the damaged one is set aside
//! ```
//!
//! Promises: nobody is shown an older value: what cannot be read is refused until then. From the moment this begins a
//! restart makes the store again, too. Where it cannot be done, all goes on as it was, and it is said why.

use crate::durable::sync_folder;
use crate::engine::Inner;
use crate::engine::commit::replay;
use crate::engine::commit::{Again, Answer, MadeAgain, Request, Shared};
use crate::engine::error::{EngineError, OpenError, OrInternal};
use crate::engine::open::needs;
use crate::engine::open::rebuild::{self, Opening};
use crate::engine::open::recovery::{StartFrom, reopen, told_between};
use crate::engine::open::store_folder::{Generation, StoreFolder};
use crate::engine::upkeep::steps::Keeper;
use crate::journal::entry::{BatchCompletedEntry, Checkpoint};
use crate::journal::log::Position;
use crate::journal::snapshot::Snapshots;
use crate::layout;
use crate::store::{ProfileStore, Reach};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The rest of the journal is read between two commit groups once it has no more writes than these …
const REST_WRITES: u64 = 1000;
/// … or has been read this often without ever becoming so short.
const READS_MAX: usize = 20;

/// Whether the store is being made again, and how far that is.
#[derive(Debug, Default)]
pub(in crate::engine) struct Remaking {
    on: AtomicBool,
    done: AtomicU64,
    at: Opening,
    /// Why it could not be done the last time, if it could not.
    failed: Mutex<Option<String>>,
}

impl Remaking {
    pub(in crate::engine) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// How often it was done.
    pub(in crate::engine) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(in crate::engine) fn failed(&self, why: String) {
        *lock(&self.failed) = Some(why);
    }

    /// For whoever asks whether the daemon serves.
    pub(in crate::engine) fn tells(&self, damage: &str) -> String {
        let failed = lock(&self.failed).clone();
        match failed {
            _ if self.is_on() => format!("{damage}; {}", self.at.at()),
            Some(why) => format!("{damage}; it could not be made again: {why}"),
            None => format!("{damage}; it is about to be made again"),
        }
    }

    fn begin(&self) -> On<'_> {
        *lock(&self.failed) = None;
        self.at.say("the store is made again".into());
        self.on.store(true, Ordering::Release);
        On(self)
    }
}

/// Ends it, however it ends.
struct On<'r>(&'r Remaking);

impl Drop for On<'_> {
    fn drop(&mut self) {
        self.0.on.store(false, Ordering::Release);
    }
}

/// Makes the store again, for this reason.
pub(in crate::engine) fn run(
    inner: &Inner,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    why: &str,
) -> Result<(), EngineError> {
    inner.go_on()?;
    let began = Instant::now();
    let _on = inner.remaking.begin();
    let _folding = lock(&inner.folding);
    let damaged = lock(&inner.generation).clone();
    match std::fs::remove_file(damaged.checkpoint_path()).and_then(|()| sync_folder(&damaged.path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(EngineError::internal(error)),
        _ => {}
    }
    let next = stores.begin().or_internal()?;
    match fill_and_take_over(inner, stores, snapshots, &next) {
        Ok(before) => drop(before),
        Err(error) => {
            if inner.failed.borrow().is_none() {
                drop(std::fs::remove_dir_all(&next.path));
            }
            return Err(error);
        }
    }
    inner.remaking.done.fetch_add(1, Ordering::Relaxed);
    let aside = stores.set_former_aside(&damaged, why).or_internal()?;
    let ms = began.elapsed().as_millis();
    tracing::warn!(%why, aside = %aside.display(), ms, "the store was made again beside the damaged one, which is set aside");
    Ok(())
}

fn fill_and_take_over(
    inner: &Inner,
    stores: &mut StoreFolder,
    snapshots: &Snapshots,
    next: &Generation,
) -> Result<Arc<dyn ProfileStore>, EngineError> {
    let store = rebuild::open_sled(&next.path, inner.config().store_cache_bytes()).or_internal()?;
    let store: Arc<dyn ProfileStore> = Arc::new(store);
    let go_on = || inner.go_on().map_err(OpenError::NotGoingOn);
    let snapshot =
        rebuild::newest_snapshot(snapshots, &*store, &inner.remaking.at, &go_on).map_err(told_of)?;
    let snapshot = match snapshot {
        StartFrom::Checkpoint(mark) | StartFrom::Snapshot(mark) => mark,
        StartFrom::Nothing => Checkpoint { position: Position::START.to_pair(), ..Checkpoint::default() },
    };
    inner.remaking.at.say("the store is made again: the journal behind the snapshot is read".into());
    let journal = inner.data_folder.join(layout::JOURNAL);
    let mut position = Position::from_pair(snapshot.position);
    for _ in 0..READS_MAX {
        inner.go_on()?;
        let end = Position::from_pair(inner.mark()?.position);
        let writes = replay::redo(&journal, position, end, &*store).map_err(told_of)?;
        position = end;
        if writes <= REST_WRITES {
            break;
        }
    }
    let again = lacking(inner, &snapshot, position)?;
    // Most of it now, and not while all checkpoints wait.
    store.checkpoint(Reach::default()).or_internal()?;
    inner.go_on()?;

    // The sweeper must not take a tombstone that it found needless before these batches were pending again.
    let _stay = inner.tombstones.stay();
    let mut generation = lock(&inner.generation);
    let made = MadeAgain { store: Shared(store), position, again };
    let before = match inner.ask_blocking(Request::TakeOver(Box::new(made)))? {
        Answer::TookOver(Shared(before)) => before,
        other => return Err(EngineError::internal(format!("a store was answered with {other:?}"))),
    };
    *generation = next.clone();
    let mut mark = inner.mark()?;
    let reach = inner.store.make_durable().map_err(|error| inner.distrust(next, error))?;
    mark.store_reach = reach.0;
    let adopted = inner.note(next, &mark).and_then(|()| stores.adopt(next));
    // It is in use, and a restart would not find it: it makes the store again from the journal.
    adopted.map_err(|error| {
        inner.give_up(format!("the store that was made again could not be adopted: {error}"))
    })?;
    inner.tombstones.cover(&mark);
    Ok(before)
}

/// The batches whose rows a store lacks that has what a snapshot has and the journal says up to `end`: those complete
/// since.
fn lacking(inner: &Inner, snapshot: &Checkpoint, end: Position) -> Result<Vec<Again>, EngineError> {
    let (mut complete, mut untold) = (vec![], HashSet::new());
    inner.batches.each_held(|known| -> Result<(), EngineError> {
        let seq = known.accepted.id.seq;
        let Some(at) = known.progress.completed().filter(|_| !snapshot.held(seq)) else { return Ok(()) };
        // Where its entry stands is known of one that the snapshot names; any other's stands behind the snapshot.
        let named = snapshot.incomplete.iter().find(|batch| batch.accepted.seq == seq.get());
        let position = named.map_or(snapshot.position, |batch| batch.position);
        let counts = known.progress.counts();
        let end = BatchCompletedEntry { seq: seq.get(), counts, at_ms: at.0, store_reach: 0 };
        let outcomes = inner.spool.outcomes_path(known.accepted.spool);
        if needs::outcomes(&outcomes).or_internal()?.is_none() {
            untold.insert(seq);
        }
        complete.push((known.accepted, Position::from_pair(position), end));
        Ok(())
    })?;
    let told = if untold.is_empty() {
        Ok(HashMap::new())
    } else {
        let journal = inner.data_folder.join(layout::JOURNAL);
        told_between(&journal, snapshot.needs_journal_from(), end, &untold)
    };
    let mut told = told.map_err(told_of)?;
    let again = complete.into_iter().map(|(accepted, position, end)| {
        let told = told.remove(&accepted.id.seq).unwrap_or_default();
        let pending = reopen(&inner.spool, (*accepted).clone(), true, told).map_err(told_of)?;
        Ok(Again { pending, position, end })
    });
    again.collect()
}

/// What it came to where something could not be read that a start would need as well.
fn told_of(error: OpenError) -> EngineError {
    match error {
        OpenError::NotGoingOn(error) => error,
        error => EngineError::Internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::outcome::{Failure, read_outcomes};
    use crate::config::{Config, ServeOptions};
    use crate::engine::gates::Who;
    use crate::engine::types::{BatchState, BatchVersion, CallIds, SiteCall};
    use crate::engine::{Announced, Engine, Upload};
    use crate::model::batch::{BatchId, EmptyValues, Outcome};
    use crate::model::id::{ClientCode, IdKind, VisitorId};
    use crate::model::profile::Source;
    use crate::model::seq::SystemClock;
    use crate::store::StoreError;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

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
            assert!(begun.elapsed() < Duration::from_secs(60), "not {what}: {:?}", app.0.store.damage());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The file, sent for a client.
    async fn sent(app: &Engine, code: &str) -> Upload {
        let (who, client) = (Who::new(None, [127, 0, 0, 1].into()), client(code));
        let (version, empty) = (BatchVersion::V1, EmptyValues::Ignore);
        let upload = app.accept_batch(&who, &client, version, empty, Announced::default());
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
                let batch = upload.finish(None).await.unwrap().batch.id;
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
            self.app.0.store.note_damage(&StoreError::Damaged { doing: "read", why });
            until(&self.app, "made again", |app| app.0.remaking.done() == 1).await;
            assert_eq!(self.app.0.store.damage(), None);
            until(&self.app, "complete", |app| {
                app.0.batches.pending_by_seq(self.of_b.seq).is_none() && is_complete(app, &self.of_b)
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
            let no_longer = |app: &Engine| app.0.batches.pending_by_seq(self.of_a.seq).is_none();
            until(&self.app, "folded in", no_longer).await;
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

    fn noise(path: &Path) {
        std::fs::write(path, "noise").unwrap();
    }
}
