//! The engine without its front doors: behaviour that only shows with many large calls.

use profiled::clock::{GuardedClock, Steady};
use profiled::config::{Config, ServeOptions};
use profiled::engine::BatchSending;
use profiled::engine::commit::VisitorWrite;
use profiled::engine::gates::Who;
use profiled::engine::offline::check::check;
use profiled::engine::read::report::ReportedRow;
use profiled::engine::{
    AcceptedBatch, Announced, BatchState, BatchTerms, BatchVersion, CallIds, Engine, EngineError, Opening,
    SiteCall,
};
use profiled::model::author::Author;
use profiled::model::batch::{BatchId, EmptyValues, IdempotencyKey, Outcome};
use profiled::model::id::{ClientCode, IdKind, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::{Clock, Millis, SystemClock};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

pub(crate) fn config(folder: &Path) -> Config {
    let data = folder.join("data").display().to_string();
    let options = ServeOptions::default().with("data", data).unwrap();
    Config::resolve(&options).unwrap()
}

fn open(folder: &Path) -> Engine {
    Engine::open(config(folder), Arc::new(SystemClock)).unwrap()
}

pub(crate) fn client() -> ClientCode {
    ClientCode::new("demo").unwrap()
}

fn call(n: usize, value: &str) -> SiteCall {
    let pc = Some(VisitorId::new(IdKind::Pc, &format!("p{n}")).unwrap());
    SiteCall {
        client: client(),
        ids: CallIds { pc, ..CallIds::default() },
        source: Source::Mbox,
        attributes: vec![("a".into(), value.into())],
    }
}

/// Requests behind a full group were once committed without an answer to their callers.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_do_not_fit_into_one_commit_group_are_all_answered() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let value = "x".repeat(900_000);
    let calls: Vec<_> = (0..64)
        .map(|n| {
            let (app, call) = (app.clone(), call(n, &value));
            tokio::spawn(async move { app.site_call(call).await })
        })
        .collect();
    let mut seqs = vec![];
    for call in calls {
        seqs.push(call.await.unwrap().unwrap().seq.unwrap());
    }
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 64, "each has a seq of its own");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_there_after_a_stop_and_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let written = app.site_call(call(1, "v")).await.unwrap();
    app.stop().await;
    assert!(app.site_call(call(2, "v")).await.is_err(), "a stopped app takes nothing");
    drop(app);
    let app = open(folder.path());
    let id = VisitorId::new(IdKind::Pc, "p1").unwrap();
    let visitor = app.read(&client(), &id).await.unwrap().unwrap();
    assert_eq!(Some(visitor.seq), written.seq);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_engine_lets_go_of_its_folder_though_somebody_still_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    app.site_call(call(1, "v")).await.unwrap();
    let held = app.clone();
    app.stop().await;
    let next = open(folder.path());
    assert!(next.site_call(call(2, "v")).await.is_ok());
    next.stop().await;
    drop(held);
}

/// Uploads a batch in pieces of this many bytes. Returns its id and its file.
const TERMS: BatchTerms =
    BatchTerms { version: BatchVersion::V1, empty_values: EmptyValues::Ignore, as_of: None };

async fn upload(app: &Engine, folder: &Path, text: &str, piece: usize) -> (BatchId, PathBuf) {
    let before = uploads(folder);
    let mut upload = app.accept_batch(&who(), &client(), TERMS, Announced::default()).await.unwrap();
    for piece in text.as_bytes().chunks(piece) {
        upload.push(piece.to_vec().into()).await.unwrap();
    }
    let batch = upload.finish(BatchSending::default()).await.unwrap().batch;
    let file = uploads(folder).into_iter().find(|file| !before.contains(file)).unwrap();
    (batch.id, file)
}

pub(crate) fn who() -> Who {
    Who::new(None, [127, 0, 0, 1].into())
}

fn uploads(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("data/spool")).into_iter().flatten();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "csv")).collect()
}

fn complete(app: &Engine, batch: &BatchId) -> bool {
    app.batch(batch).unwrap().state == BatchState::Complete
}

async fn wait_complete(app: &Engine, batch: &BatchId) {
    while !complete(app, batch) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The changed value of a file's byte. A parser must still accept it.
fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.get_mut(at).unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// Checks the message about a damaged upload.
#[track_caller]
fn reported(said: &str, batch: &BatchId, file: &Path) {
    let named = said.contains(&batch.to_string()) && said.contains(file.to_str().unwrap());
    assert!(named && said.contains("is damaged") && said.contains("put it back"), "{said}");
}

/// Whether a batch is held for its upload.
fn is_held(app: &Engine, batch: &BatchId) -> bool {
    let status = app.batch(batch).unwrap();
    let Some(reason) = status.reason else { return false };
    assert_eq!((status.state, app.vitals().batches_stuck), (BatchState::Stuck, 1));
    assert!(reason.contains("is not what was accepted"), "{reason}");
    true
}

/// A rebuilt store applies complete batches once more, in the same way as pending ones.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_any_byte_changed_is_held_and_never_applied() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    app.site_call(call(1, "v")).await.unwrap();
    let text = "batch=pcId,a\np1,1\np2,\n";
    let (batch, file) = upload(&app, folder.path(), text, 3).await;
    wait_complete(&app, &batch).await;
    app.stop().await;
    drop(app);
    let opened = || {
        std::fs::remove_dir_all(folder.path().join("data/store")).unwrap();
        Engine::open(config(folder.path()), Arc::new(SystemClock))
    };
    let check = async |what: &str| {
        let app = opened().unwrap();
        assert!(is_held(&app, &batch), "{what}");
        app.stop().await;
    };
    for at in 0..text.len() {
        flip(&file, at);
        check(&format!("byte {at}")).await;
        flip(&file, at);
    }
    for other in [&text[..text.len() - 1], &format!("{text}p1,2\n"), ""] {
        std::fs::write(&file, other).unwrap();
        check(other).await;
    }
    std::fs::write(&file, text).unwrap();
    let app = opened().unwrap();
    wait_complete(&app, &batch).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reports_a_damaged_upload_and_a_backup_copies_it_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let (batch, file) = upload(&app, folder.path(), "batch=pcId,a\np1,1\n", 1).await;
    wait_complete(&app, &batch).await;
    app.backup(&who(), folder.path().join("whole")).await.unwrap();
    flip(&file, 14);
    let backup = folder.path().join("damaged");
    app.backup(&who(), backup.clone()).await.unwrap();
    let copied = std::fs::read(backup.join("spool").join(file.file_name().unwrap())).unwrap();
    assert_eq!(copied, std::fs::read(&file).unwrap());
    app.stop().await;
    drop(app);
    let faults = || {
        let config = config(folder.path());
        let scratch = folder.path().to_owned();
        let check = move || check(config, Arc::new(SystemClock), &scratch).unwrap().faults;
        std::thread::spawn(check).join().unwrap()
    };
    reported(&faults().join(""), &batch, &file);
    flip(&file, 14);
    assert_eq!(faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_upload_is_found_damaged_is_held_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let large: String = (0..20_000).map(|n| format!("q{n},{n}\n")).collect();
    let mut tries = 0;
    let (batch, file) = loop {
        tries += 1;
        assert!(tries < 20, "a damaged upload was applied, however early it was damaged");
        // While it is applied, the next one waits.
        upload(&app, folder.path(), &format!("batch=pcId,a\n{large}"), 1 << 16).await;
        let (batch, file) = upload(&app, folder.path(), "batch=pcId,a\np1,1\n", 100).await;
        flip(&file, 14);
        while !complete(&app, &batch) && !is_held(&app, &batch) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Otherwise the apply thread was faster.
        if !complete(&app, &batch) {
            break (batch, file);
        }
    };
    app.stop().await;
    drop(app);
    let app = open(folder.path());
    assert!(is_held(&app, &batch));
    app.stop().await;
    drop(app);
    flip(&file, 14);
    let app = open(folder.path());
    wait_complete(&app, &batch).await;
    app.stop().await;
}

/// A clock that only moves when it is set.
#[derive(Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

impl Steady for SetClock {
    fn passed_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const BEGIN_MS: u64 = 1_800_000_000_000;

/// A machine whose clock only moves when it is set or when time passes.
#[derive(Default)]
struct Machine {
    wall: Arc<SetClock>,
    steady: Arc<SetClock>,
}

impl Machine {
    fn set(&self, wall_ms: u64) {
        self.wall.0.store(wall_ms, Ordering::Relaxed);
    }

    fn pass(&self, ms: u64) {
        self.wall.0.fetch_add(ms, Ordering::Relaxed);
        self.steady.0.fetch_add(ms, Ordering::Relaxed);
    }

    fn open(&self, folder: &Path) -> Engine {
        let most = Some(Duration::from_secs(600));
        let clock = GuardedClock::new(Arc::clone(&self.wall) as _, Arc::clone(&self.steady) as _, most);
        Engine::open_watched(config(folder), clock, &Opening::default()).unwrap()
    }
}

async fn is_there(app: &Engine, n: usize) -> bool {
    let id = VisitorId::new(IdKind::Pc, &format!("p{n}")).unwrap();
    app.read(&client(), &id).await.unwrap().is_some()
}

/// A clock that was forty days ahead for eight seconds, with one site call meanwhile, once expired every visitor for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_leaps_ahead_while_it_runs_loses_nobody() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::default());
    machine.set(BEGIN_MS);
    let app = machine.open(folder.path());
    for n in 0..3 {
        app.site_call(call(n, "before")).await.unwrap();
    }
    let keyed = send(&app, "batch=pcId,a\np1,1\n", "k").await.unwrap().batch.id;
    machine.pass(1000);
    machine.set(BEGIN_MS + 40 * DAY_MS);
    assert!(is_there(&app, 0).await);
    let written = app.site_call(call(1, "meanwhile")).await.unwrap().seq.unwrap();
    assert_eq!(written.millis(), Millis(BEGIN_MS + 1000));
    assert_eq!(app.now(), Millis(BEGIN_MS + 1000));
    let again = send(&app, "batch=pcId,a\np1,1\n", "k").await.unwrap();
    assert_eq!((again.batch.id, again.before), (keyed, true));
    assert_eq!(app.vitals().clock_ahead, Duration::from_millis(40 * DAY_MS - 1000));
    assert!(app.remarks().concat().contains("not believed"), "{:?}", app.remarks());

    machine.pass(8000);
    machine.set(BEGIN_MS + 9000);
    for n in 0..3 {
        assert!(is_there(&app, n).await, "{n}");
    }
    let written = app.site_call(call(2, "after")).await.unwrap().seq.unwrap();
    assert_eq!(written.millis(), Millis(BEGIN_MS + 9000));
    assert_eq!((app.vitals().clock_ahead, app.remarks()), (Duration::ZERO, vec![]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_accept_a_clock_that_leapt() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::default());
    machine.set(BEGIN_MS);
    let app = machine.open(folder.path());
    app.accept_clock();
    app.site_call(call(0, "before")).await.unwrap();
    machine.set(BEGIN_MS + 40 * DAY_MS);
    assert!(is_there(&app, 0).await);
    app.accept_clock();
    assert_eq!(app.now(), Millis(BEGIN_MS + 40 * DAY_MS));
    assert!(!is_there(&app, 0).await, "it has expired by now");
    assert!(app.remarks().concat().contains("kept"), "but is not swept: {:?}", app.remarks());
    // The leap was wrong after all.
    machine.set(BEGIN_MS);
    assert!(is_there(&app, 0).await);
    app.stop().await;
}

/// A start with a wrong clock once swept every visitor within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_long_past_the_last_write_sweeps_nobody_for_an_hour() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::default());
    machine.set(BEGIN_MS);
    let app = machine.open(folder.path());
    for n in 0..3 {
        app.site_call(call(n, "before")).await.unwrap();
    }
    app.stop().await;
    drop(app);

    machine.set(BEGIN_MS + 15 * DAY_MS);
    let app = machine.open(folder.path());
    // The sweeper has been through the store.
    let swept = async {
        while app.vitals().expired_profiles_kept < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), swept).await.expect("all three are kept, and counted");
    assert!(!is_there(&app, 0).await);
    assert!(app.remarks().concat().contains("3 visitors"), "{:?}", app.remarks());
    app.stop().await;
    drop(app);

    machine.set(BEGIN_MS + 1000);
    let app = machine.open(folder.path());
    for n in 0..3 {
        assert!(is_there(&app, n).await, "{n}");
    }
    assert_eq!(app.remarks(), Vec::<String>::new());
    app.stop().await;
}

/// Sends a batch with a key.
async fn send(app: &Engine, text: &str, key: &str) -> Result<AcceptedBatch, EngineError> {
    let announced = Announced::default();
    let mut upload = app.accept_batch(&who(), &client(), TERMS, announced).await.unwrap();
    upload.push(text.to_owned().into()).await.unwrap();
    upload.finish(BatchSending { key: IdempotencyKey::new(key), ..BatchSending::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_remembered_for_a_day_and_no_longer_also_over_a_restart() {
    const FILE: &str = "batch=pcId,a\np1,1\n";
    const OTHER: &str = "batch=pcId,a\np1,2\n";
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let at = |millis: u64| clock.0.store(millis, Ordering::Relaxed);
    let open = || Engine::open(config(folder.path()), Arc::clone(&clock) as _).unwrap();
    let restart = async |app: Engine| {
        app.stop().await;
        drop(app);
        open()
    };
    // What a key leads to: a new batch, the earlier batch, or a batch with another body.
    let sent = async |app: &Engine, text: &str, key: &str| match send(app, text, key).await {
        Ok(AcceptedBatch { batch, before }) => (batch.id, if before { "before" } else { "new" }),
        Err(EngineError::KeyTaken(id)) => (BatchId::parse(&id).unwrap(), "taken"),
        Err(error) => panic!("{error}"),
    };

    at(BEGIN_MS);
    let mut app = open();
    let (first, state) = sent(&app, FILE, "k").await;
    assert_eq!((first.seq.millis(), state), (Millis(BEGIN_MS), "new"));
    at(BEGIN_MS + 1);
    let (later, state) = sent(&app, FILE, "later").await;
    assert_eq!(state, "new");
    wait_complete(&app, &later).await;
    for _ in 0..2 {
        at(BEGIN_MS + DAY_MS - 1);
        assert_eq!(sent(&app, FILE, "k").await, (first.clone(), "before"));
        assert_eq!(sent(&app, OTHER, "k").await, (first.clone(), "taken"));
        app = restart(app).await;
    }
    // A millisecond later the key is free, whatever body it comes with: it is the key of a new batch for another day.
    at(BEGIN_MS + DAY_MS);
    let (second, state) = sent(&app, OTHER, "k").await;
    assert_eq!((second.seq.millis(), state), (Millis(BEGIN_MS + DAY_MS), "new"));
    assert_eq!(
        sent(&app, FILE, "later").await,
        (later.clone(), "before"),
        "which came a millisecond after it"
    );
    for _ in 0..2 {
        at(BEGIN_MS + 2 * DAY_MS - 1);
        assert_eq!(sent(&app, OTHER, "k").await, (second.clone(), "before"));
        assert_eq!(sent(&app, FILE, "k").await, (second.clone(), "taken"));
        app = restart(app).await;
    }
    // A start that finds a key older than a day does not bring it back either.
    at(BEGIN_MS + 2 * DAY_MS);
    app = restart(app).await;
    let (third, state) = sent(&app, FILE, "k").await;
    assert_eq!(state, "new");
    let (again, state) = sent(&app, FILE, "later").await;
    assert_eq!(state, "new");
    let listed = app.batches(&client(), None, None, 10).batches;
    assert_eq!(
        listed.into_iter().map(|batch| batch.id).collect::<Vec<_>>(),
        [again, third, second, later, first]
    );
    app.stop().await;
}

/// The ways to read an upload.
#[derive(Debug, Clone, Copy)]
enum Read {
    Outcomes(Option<Outcome>),
    Repair,
    File,
}

/// The result of a read: all of it as text, and how much of it came before the pause ended.
struct Given {
    text: String,
    before: usize,
    end: Result<(), EngineError>,
}

/// A row of a report as text.
fn row_text(row: &ReportedRow) -> String {
    let reported = |text: &Option<String>| text.clone().unwrap_or_default();
    let (id, message) = (reported(&row.id), reported(&row.message));
    format!("{},{id},{},{},{message}\n", row.place.line, row.outcome.name(), row.reason.unwrap_or_default())
}

/// Reads on a thread that may block, with a pause after this many pieces.
async fn read(
    app: &Engine,
    batch: &BatchId,
    what: Read,
    pause_after: usize,
    mut pause: impl FnMut() + Send + 'static,
) -> Given {
    enum Source {
        Report(profiled::engine::read::report::Report),
        File(profiled::engine::read::report::UploadedFile),
    }
    let source = match what {
        Read::File => Source::File(app.uploaded_file(&who(), batch).await.unwrap()),
        Read::Outcomes(_) | Read::Repair => Source::Report(app.report(&who(), batch).await.unwrap()),
    };
    let read = tokio::task::spawn_blocking(move || {
        let (mut text, mut before, mut pieces) = (String::new(), None, 0);
        let mut give = |piece: &str| {
            text.push_str(piece);
            pieces += 1;
            if pieces == pause_after {
                pause();
                before = Some(text.len());
            }
            ControlFlow::Continue(())
        };
        let end = match (&source, what) {
            (Source::Report(report), Read::Outcomes(wanted)) => {
                report.outcomes(wanted, None, |row| give(&row_text(&row)))
            }
            (Source::Report(report), _) => report.repair(|bytes| give(std::str::from_utf8(bytes).unwrap())),
            (Source::File(file), _) => file.pieces(|bytes| give(std::str::from_utf8(bytes).unwrap())),
        };
        let before = before.unwrap_or(text.len());
        Given { text, before, end }
    });
    read.await.unwrap()
}

/// R12: bytes that a read has given before rows are overwritten can't be taken back. After that the read gives nothing more,
/// neither the old bytes nor the new ones, because half of a row could be old.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_under_which_rows_are_overwritten_ends_and_gives_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    app.site_call(call(1, "v")).await.unwrap();
    let reads = [
        // In the middle of a piece of the file, when more of its rows are read already; and well after the first piece.
        (Read::Outcomes(None), 5),
        (Read::Outcomes(None), 9_001),
        (Read::Outcomes(Some(Outcome::Updated)), 7),
        (Read::Outcomes(Some(Outcome::Failed)), 7),
        (Read::Repair, 8),
        (Read::File, 1),
        (Read::File, 3),
    ];
    for (turn, (what, pause_after)) in (2..).zip(reads) {
        let gone = format!("p{turn}");
        app.site_call(call(turn, "v")).await.unwrap();
        let rows: String = (0..6_000)
            .map(|n| {
                format!(
                    "{gone},secret-{n}\np1,open\n{gone},secret%zz\np1,open%zz\n{gone}.7_0,secret,too many\n"
                )
            })
            .collect();
        let (batch, _) = upload(&app, folder.path(), &format!("batch=pcId,a\n{rows}"), 1 << 16).await;
        wait_complete(&app, &batch).await;
        let whole = read(&app, &batch, what, usize::MAX, || ()).await;
        whole.end.unwrap();
        assert!(whole.text.len() > 100_000);

        let erase = {
            let (app, handle, gone) = (app.clone(), Handle::current(), gone.clone());
            move || {
                handle.block_on(async {
                    let id = VisitorId::new(IdKind::Pc, &gone).unwrap();
                    let erased = app
                        .write_visitor(client(), id, VisitorWrite::Erase, Author::default())
                        .await
                        .unwrap();
                    assert!(erased.known);
                    app.compact(&who()).await.unwrap();
                });
            }
        };
        let given = read(&app, &batch, what, pause_after, erase).await;
        assert!(whole.text.starts_with(&given.text), "{what:?}: what is given is from before, and whole");
        assert_eq!(
            given.text.len(),
            given.before,
            "{what:?} goes on with {:?}",
            given.text.get(given.before..)
        );
        match given.end {
            Err(EngineError::NotYet(why)) => assert!(why.contains("ask again"), "{why}"),
            other => panic!("{what:?}: {other:?}"),
        }

        // A new read gives everything, except the erased rows.
        let again = read(&app, &batch, what, usize::MAX, || ()).await;
        again.end.unwrap();
        for word in ["secret", &format!("{gone},"), &format!("{gone}.7")] {
            assert!(!again.text.contains(word), "{what:?}: {word}");
        }
        let lines = again.text.lines().count();
        let expected = match what {
            Read::Outcomes(Some(Outcome::Updated)) => 12_000,
            Read::Outcomes(Some(_)) => 18_000,
            Read::Outcomes(None) => 30_000,
            Read::Repair => 6_001,
            Read::File => 30_001,
        };
        assert_eq!(lines, expected, "{what:?}");
    }
    app.stop().await;
}
