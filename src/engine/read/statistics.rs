//! What a client has: visitors, batches, rows by outcome, and how fast they came.
//!
//! Promises: counting visitors reads the store page by page, and the ids of pending batches that create visitors. The whole daemon
//! makes one count at a time, and a count is used again for a while. The count does not depend on how far applying is (R4). Only
//! visitors whom a held batch creates are left out until its file is sent again.

use crate::batch::kept::Totals;

use crate::batch::progress::Known;
use crate::batch::queue::{Batches, Which};
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::engine::read::export::Walk;
use crate::engine::read::state::{Reader, VisitorCount};
use crate::engine::shared::blocking;
use crate::model::batch::{BatchState, Counts};
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};
use crate::sync::lock;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How long a count of visitors is used again.
const COUNT_LASTS_MS: u64 = 10_000;
/// For how many clients a count is kept.
const COUNTS_KEPT_MAX: usize = 256;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What a client has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// How many visitors live, with those whom pending rows create, without those whom a held batch creates.
    pub profiles: u64,
    /// When they were counted.
    pub profiles_counted: Millis,
    /// How many batches are kept.
    pub batches: u64,
    /// How many of them are not applied yet.
    pub batches_incomplete: u64,
    /// How many of them are stuck.
    pub batches_stuck: u64,
    /// The bytes of their uploads.
    pub upload_bytes: u64,
    /// How many rows they have.
    pub rows: u64,
    /// The rows that are done, by outcome.
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
    /// The rows of the batches that were completed.
    pub rows_completed: u64,
}

impl Reader {
    /// What a client has. The first call after a while counts its visitors. That takes about a second per million, and some more
    /// per million pending rows that may create one.
    pub(in crate::engine) async fn statistics(
        self: &Arc<Self>,
        who: &Who,
        client: &ClientCode,
    ) -> Result<Statistics, EngineError> {
        self.shared.settings(client)?;
        let now = self.shared.now();
        let (profiles, profiles_counted) = self.count_visitors(who, client).await?;
        let (shared, client) = (Arc::clone(&self.shared), client.clone());
        // Thousands of batches may be pending. To look at them all would hold up an async thread.
        let counted = blocking(move || {
            let mut statistics = Statistics { profiles, profiles_counted, ..Statistics::default() };
            statistics.count_all(&shared.batches, &client, now);
            Ok(statistics)
        });
        counted.await
    }

    async fn count_visitors(
        self: &Arc<Self>,
        who: &Who,
        client: &ClientCode,
    ) -> Result<(u64, Millis), EngineError> {
        let lifetime_ms = self.shared.settings(client)?.lifetime_ms;
        if let Some(count) = self.remembered_count(client) {
            return Ok(count);
        }
        let turn = self.counts.take(who).await?;
        // The caller before may have counted this client's.
        if let Some(count) = self.remembered_count(client) {
            return Ok(count);
        }
        let (reader, client) = (Arc::clone(self), client.clone());
        let counted = blocking(move || {
            let _turn = turn;
            let now = reader.shared.now();
            let count = reader.count_visitors_now(&client, now, lifetime_ms)?;
            reader.remember_count((client, count, now));
            Ok((count, now))
        });
        counted.await
    }

    fn remembered_count(&self, client: &ClientCode) -> Option<(u64, Millis)> {
        let now = self.shared.now();
        let counts = lock(&self.visitor_counts);
        let found = counts.iter().find(|(other, ..)| other == client);
        found.filter(|(.., at)| at.plus(COUNT_LASTS_MS) > now).map(|(_, count, at)| (*count, *at))
    }

    fn remember_count(&self, count: VisitorCount) {
        let mut counts = lock(&self.visitor_counts);
        counts.retain(|(client, ..)| *client != count.0);
        if counts.len() == COUNTS_KEPT_MAX {
            counts.remove(0);
        }
        counts.push(count);
    }

    /// Counts a client's visitors. Blocks.
    fn count_visitors_now(
        &self,
        client: &ClientCode,
        now: Millis,
        lifetime_ms: u64,
    ) -> Result<u64, EngineError> {
        let walk = Walk {
            store: &*self.shared.store,
            batches: &self.shared.batches,
            client,
            lifetime_ms,
            now: &|| now.max(self.commit.last_seq().millis()),
            go_on: &|| self.shared.signals.go_on().map(|()| true),
            reported: &|error| self.shared.reported(error),
        };
        walk.count()
    }
}

impl Statistics {
    /// Counts a client's batches. The totals of the complete ones are known, so only the latest are looked at.
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
                BatchState::Incomplete => self.batches_incomplete += 1,
                BatchState::Stuck => self.batches_stuck += 1,
                BatchState::Complete => {}
            }
            self.count_pace(known, now);
            ControlFlow::Continue(())
        });
        batches.walk_back(client, latest, Which::Complete, |known| {
            self.count_pace(known, now);
            // Batches are completed in the order in which they were accepted.
            let late = known.progress.completed().is_some_and(|at| at.plus(HOUR_MS) > now);
            if late { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }

    /// Adds a batch to what came lately.
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
