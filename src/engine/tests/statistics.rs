use crate::config::{Config, ServeOptions};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::model::id::ClientCode;
use crate::model::seq::SystemClock;
use std::sync::Arc;
use tokio::task::yield_now;

/// Each count reads the store from end to end: they take turns, by client and by address.
#[tokio::test]
async fn whoever_has_visitors_counted_waits_for_a_turn_and_gets_one_before_the_greedy() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let options = ServeOptions::default().with("data", data).unwrap();
    let app = Engine::open(Config::resolve(&options).unwrap(), Arc::new(SystemClock)).unwrap();
    let [greedy, modest] = [1, 2].map(|last| Who::new(None, [192, 0, 2, last].into()));
    let turn = app.0.read.counts.take(&greedy).await.unwrap();
    let counts = |who: &Who, client: &str| {
        let (app, who, client) = (app.clone(), who.clone(), ClientCode::new(client).unwrap());
        tokio::spawn(async move { app.statistics(&who, &client).await })
    };
    let waiting: Vec<_> = (0..8).map(|n| counts(&greedy, &format!("greedy{n}"))).collect();
    yield_now().await;
    let one_more = counts(&greedy, "greedy9").await.unwrap();
    assert!(matches!(one_more, Err(EngineError::Taken(..))), "{one_more:?}");
    let comes = counts(&modest, "modest");
    while !waiting.iter().any(tokio::task::JoinHandle::is_finished) {
        assert!(!comes.is_finished());
        yield_now().await;
    }
    drop(turn);
    comes.await.unwrap().unwrap();
    let mut made_room = 0;
    for one in waiting {
        made_room += usize::from(matches!(one.await.unwrap(), Err(EngineError::MadeRoom(..))));
    }
    assert_eq!(made_room, 1);
    app.stop().await;
}
