//! The app without its front doors: what only shows when calls come thick and large.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use profiled::app::check::check;
use profiled::app::{Announced, App, BatchState, BatchVersion, CallIds, OpenError, SiteCall};
use profiled::config::{Config, ServeOptions};
use profiled::model::batch::{BatchId, EmptyValues};
use profiled::model::id::{ClientCode, IdKind, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::SystemClock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn config(folder: &Path) -> Config {
    let data = folder.join("data").to_str().unwrap().parse().unwrap();
    let options = ServeOptions { data: Some(data), ..ServeOptions::default() };
    Config::resolve(options).unwrap()
}

fn open(folder: &Path) -> App {
    App::open(config(folder), Arc::new(SystemClock)).unwrap()
}

fn client() -> ClientCode {
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

/// What waited behind a group that was full was once committed without its callers being told.
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
async fn what_was_written_is_there_after_a_stop_and_a_start() {
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

/// Uploads a batch, in pieces of so many bytes; gives its id and its file.
async fn upload(app: &App, folder: &Path, text: &str, piece: usize) -> (BatchId, PathBuf) {
    let before = uploads(folder);
    let mut upload = app
        .accept_batch(&client(), BatchVersion::V1, EmptyValues::Ignore, Announced::default())
        .await
        .unwrap();
    for piece in text.as_bytes().chunks(piece) {
        upload.push(piece.to_vec().into()).await.unwrap();
    }
    let batch = upload.finish(None).await.unwrap().batch;
    let file = uploads(folder).into_iter().find(|file| !before.contains(file)).unwrap();
    (batch.id, file)
}

fn uploads(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("data/spool")).into_iter().flatten();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "csv")).collect()
}

fn complete(app: &App, batch: &BatchId) -> bool {
    app.batch(batch).unwrap().state == BatchState::Complete
}

async fn wait_complete(app: &App, batch: &BatchId) {
    while !complete(app, batch) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What a file's byte is changed to: nothing that a parser would have to trip over.
fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.get_mut(at).unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// What is said of a damaged upload.
#[track_caller]
fn told(said: &str, batch: &BatchId, file: &Path) {
    let named = said.contains(&batch.to_string()) && said.contains(file.to_str().unwrap());
    assert!(named && said.contains("is damaged") && said.contains("put it back"), "{said}");
}

/// A store made again folds complete batches once more: as good as pending ones.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_any_byte_changed_is_refused_and_never_folded_in() {
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
        App::open(config(folder.path()), Arc::new(SystemClock))
    };
    for at in 0..text.len() {
        flip(&file, at);
        match opened() {
            Err(error @ OpenError::Batch { .. }) => told(&error.to_string(), &batch, &file),
            Err(error) => panic!("byte {at}: {error}"),
            Ok(_) => panic!("byte {at}: it was opened"),
        }
        flip(&file, at);
    }
    for other in [&text[..text.len() - 1], &format!("{text}p1,2\n"), ""] {
        std::fs::write(&file, other).unwrap();
        told(&opened().map(|_| ()).unwrap_err().to_string(), &batch, &file);
    }
    std::fs::write(&file, text).unwrap();
    let app = opened().unwrap();
    wait_complete(&app, &batch).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_upload_is_told_by_a_check_and_no_backup_is_made_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let (batch, file) = upload(&app, folder.path(), "batch=pcId,a\np1,1\n", 1).await;
    wait_complete(&app, &batch).await;
    app.backup(folder.path().join("whole")).await.unwrap();
    flip(&file, 14);
    let refused = app.backup(folder.path().join("damaged")).await.unwrap_err();
    told(&refused.to_string(), &batch, &file);
    assert!(!folder.path().join("damaged/backup.json").exists());
    app.stop().await;
    drop(app);
    let faults = || {
        let config = config(folder.path());
        let check = move || check(config, Arc::new(SystemClock)).unwrap().faults;
        std::thread::spawn(check).join().unwrap()
    };
    told(&faults().join(""), &batch, &file);
    flip(&file, 14);
    assert_eq!(faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_finds_a_pending_upload_damaged_ends_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let app = open(folder.path());
    let large: String = (0..20_000).map(|n| format!("q{n},{n}\n")).collect();
    let mut tries = 0;
    let (batch, file, why) = loop {
        tries += 1;
        assert!(tries < 20, "a damaged upload was folded in, however early it was damaged");
        // While it is folded, the next one waits.
        upload(&app, folder.path(), &format!("batch=pcId,a\n{large}"), 1 << 16).await;
        let (batch, file) = upload(&app, folder.path(), "batch=pcId,a\np1,1\n", 100).await;
        flip(&file, 14);
        tokio::select! {
            why = app.failed() => break (batch, file, why),
            // It was quicker.
            () = wait_complete(&app, &batch) => {}
        }
    };
    told(&why, &batch, &file);
    assert!(!complete(&app, &batch));
    app.stop().await;
    drop(app);
    let refused = App::open(config(folder.path()), Arc::new(SystemClock)).map(|_| ()).unwrap_err();
    told(&refused.to_string(), &batch, &file);
    flip(&file, 14);
    let app = open(folder.path());
    wait_complete(&app, &batch).await;
    app.stop().await;
}
