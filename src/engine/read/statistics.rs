//! What a client has: visitors, batches, rows by outcome, and how fast they came.
//!
//! Promises: counting visitors reads the store page by page, and the ids of pending batches that create, one count at a time
//! for the whole daemon, and a count is told again for a while rather than made again. However far folding is, the count is
//! the same (R4); only whom a batch creates that is held is left out until it is sent again.

use crate::batch::kept::Totals;
use crate::batch::outcome::BatchState as FoldState;
use crate::batch::queue::{Batches, Known, Which};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::Who;
use crate::engine::read::export::Walk;
use crate::engine::{Engine, Inner};
use crate::model::batch::Counts;
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};
use crate::sync::{Ordering, lock};
use std::ops::ControlFlow;
use std::sync::Arc;

/// How long a count of visitors is told again.
const COUNT_LASTS_MS: u64 = 10_000;
/// For how many clients counts are remembered.
const COUNTS_KEPT_MAX: usize = 256;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What a client has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// How many visitors live, with those whom pending rows create; less whom a batch creates that is held.
    pub profiles: u64,
    /// As of when they were counted.
    pub profiles_counted: Millis,
    /// Batches that are kept, all of them.
    pub batches: u64,
    /// Those that are not folded in yet.
    pub batches_incomplete: u64,
    /// Those that the store keeps refusing.
    pub batches_stuck: u64,
    /// The bytes of their uploads.
    pub upload_bytes: u64,
    /// Their rows, all of them.
    pub rows: u64,
    /// Their rows dealt with so far, by outcome.
    pub counts: Counts,
    /// What came in the last minute.
    pub last_minute: Pace,
    /// What came in the last hour.
    pub last_hour: Pace,
}

/// What came in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// Batches accepted.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows of batches that were completed.
    pub rows_completed: u64,
}

/// Counts of visitors that were made lately.
pub(in crate::engine) type VisitorCounts = Vec<(ClientCode, u64, Millis)>;

impl Engine {
    /// What a client has. The first call after a while counts its visitors, which takes a second or so per million, and
    /// some more per million pending rows that may create one.
    pub async fn statistics(&self, who: &Who, client: &ClientCode) -> Result<Statistics, EngineError> {
        self.0.settings(client)?;
        let now = self.now();
        let (profiles, profiles_counted) = self.count_visitors(who, client).await?;
        let (inner, client) = (Arc::clone(&self.0), client.clone());
        // Thousands of batches may be pending: they are gone through where nobody waits for an answer.
        let counted = tokio::task::spawn_blocking(move || {
            let mut statistics = Statistics { profiles, profiles_counted, ..Statistics::default() };
            statistics.count_all(&inner.batches, &client, now);
            statistics
        });
        counted.await.or_internal()
    }

    async fn count_visitors(&self, who: &Who, client: &ClientCode) -> Result<(u64, Millis), EngineError> {
        let lifetime_ms = self.0.settings(client)?.lifetime_ms;
        if let Some(count) = self.0.remembered_count(client) {
            return Ok(count);
        }
        let one = self.0.counts.take(who).await?;
        // Whoever counted before may have counted these.
        if let Some(count) = self.0.remembered_count(client) {
            return Ok(count);
        }
        let (inner, client) = (Arc::clone(&self.0), client.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let _one = one;
            let now = inner.clock.now();
            let count = inner.count_visitors(&client, now, lifetime_ms)?;
            let mut counts = lock(&inner.visitor_counts);
            counts.retain(|(other, ..)| *other != client);
            if counts.len() == COUNTS_KEPT_MAX {
                counts.remove(0);
            }
            counts.push((client, count, now));
            Ok((count, now))
        });
        counted.await.or_internal()?
    }
}

impl Statistics {
    /// Counts a client's batches: of the complete ones it is known what they come to, and only the latest are looked at.
    fn count_all(&mut self, batches: &Batches, client: &ClientCode, now: Millis) {
        let latest = Seq::from_u64(u64::MAX);
        let Totals { batches: complete, bytes, rows, counts } = batches.totals(client);
        (self.batches, self.upload_bytes, self.rows, self.counts) = (complete, bytes, rows, counts);
        batches.walk_back(client, latest, Which::Incomplete, |known| {
            self.batches += 1;
            self.upload_bytes += known.accepted.bytes;
            self.rows += known.accepted.rows;
            self.counts = self.counts.plus(&known.progress.counts());
            match known.progress.state() {
                FoldState::Incomplete => self.batches_incomplete += 1,
                FoldState::Stuck => self.batches_stuck += 1,
                FoldState::Complete(_) => {}
            }
            self.count_pace(known, now);
            ControlFlow::Continue(())
        });
        batches.walk_back(client, latest, Which::Complete, |known| {
            self.count_pace(known, now);
            // They are completed in the order in which they were accepted.
            let late = known.progress.completed().is_some_and(|at| at.plus(HOUR_MS) > now);
            if late { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }

    /// Counts a batch to what came lately.
    fn count_pace(&mut self, known: &Known, now: Millis) {
        let rows = known.accepted.rows;
        let (accepted, completed) = (known.accepted.id.seq.millis(), known.progress.completed());
        for (pace, span_ms) in [(&mut self.last_minute, MINUTE_MS), (&mut self.last_hour, HOUR_MS)] {
            if accepted.plus(span_ms) > now {
                pace.batches += 1;
                pace.rows += rows;
            }
            if completed.is_some_and(|at| at.plus(span_ms) > now) {
                pace.rows_completed += rows;
            }
        }
    }
}

impl Inner {
    fn remembered_count(&self, client: &ClientCode) -> Option<(u64, Millis)> {
        let now = self.clock.now();
        let counts = lock(&self.visitor_counts);
        let found = counts.iter().find(|(other, ..)| other == client);
        found.filter(|(.., at)| at.plus(COUNT_LASTS_MS) > now).map(|(_, count, at)| (*count, *at))
    }

    /// Counts a client's visitors. Blocks.
    fn count_visitors(&self, client: &ClientCode, now: Millis, lifetime_ms: u64) -> Result<u64, EngineError> {
        let go_on = || match self.stopping.load(Ordering::Relaxed) {
            true => Err(EngineError::Stopping),
            false => Ok(true),
        };
        let walk = Walk {
            store: &*self.store,
            batches: &self.batches,
            client,
            lifetime_ms,
            now: &|| now.max(Seq::from_u64(self.last_seq.load(Ordering::Acquire)).millis()),
            go_on: &go_on,
            told: &|error| self.told(error),
        };
        walk.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ServeOptions};
    use crate::model::seq::SystemClock;
    use tokio::task::yield_now;

    /// Each count reads the store from end to end: they take turns, by client and by address.
    #[tokio::test]
    async fn whoever_has_visitors_counted_waits_for_a_turn_and_gets_one_before_the_greedy() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let options = ServeOptions::default().with("data", data).unwrap();
        let app = Engine::open(Config::resolve(&options).unwrap(), Arc::new(SystemClock)).unwrap();
        let [greedy, modest] = [1, 2].map(|last| Who::new(None, [192, 0, 2, last].into()));
        let turn = app.0.counts.take(&greedy).await.unwrap();
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
}
