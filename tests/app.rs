//! The app without its front doors: what only shows when calls come thick and large.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use profiled::app::{App, CallIds, SiteCall};
use profiled::config::{Config, ServeOptions};
use profiled::model::id::{ClientCode, IdKind, VisitorId};
use profiled::model::profile::Source;
use profiled::model::seq::SystemClock;
use std::sync::Arc;

fn open(folder: &std::path::Path) -> App {
    let data = folder.join("data").to_str().unwrap().parse().unwrap();
    let options = ServeOptions { data: Some(data), ..ServeOptions::default() };
    App::open(Config::resolve(options).unwrap(), Arc::new(SystemClock)).unwrap()
}

fn call(n: usize, value: &str) -> SiteCall {
    let pc = Some(VisitorId::new(IdKind::Pc, &format!("p{n}")).unwrap());
    SiteCall {
        client: ClientCode::new("demo").unwrap(),
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
    let visitor = app.read(&ClientCode::new("demo").unwrap(), &id).await.unwrap().unwrap();
    assert_eq!(Some(visitor.seq), written.seq);
    app.stop().await;
}
