//! How far a batch is, and what is shown of it.
//!
//! Promises: counts are exact once the batch is complete, and never more than its rows before that.

use super::accepted::Accepted;
use crate::model::batch::{BatchState, Counts, Outcome};
use crate::model::seq::Millis;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use std::sync::Arc;

/// A batch that is known, pending or complete.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it is.
    pub accepted: Arc<Accepted>,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// How far a batch is: what `batchStatus` shows.
#[derive(Debug)]
pub struct Progress {
    /// All its rows.
    pub rows: u64,
    /// Rows dealt with, by outcome. They only rise between two calls of [`begin`](Self::begin).
    counts: [AtomicU64; 5],
    /// When applying began, in milliseconds. 0 while it has not begun.
    began: AtomicU64,
    /// This lock is taken last: nothing else is locked while it is held. Once `Complete`, it stays so.
    end: Mutex<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Incomplete,
    Stuck,
    Complete { counts: Counts, at: Millis },
}

impl Progress {
    /// The progress of a batch that was just accepted.
    pub fn of(accepted: &Accepted) -> Self {
        Self {
            rows: accepted.rows,
            counts: Default::default(),
            began: AtomicU64::new(0),
            end: Mutex::new(End::Incomplete),
        }
    }

    /// Rows dealt with so far, by outcome.
    pub fn counts(&self) -> Counts {
        if let End::Complete { counts, .. } = *lock(&self.end) {
            return counts;
        }
        let at = |outcome: Outcome| {
            self.counts.get(usize::from(outcome.code())).map_or(0, |count| count.load(Ordering::Relaxed))
        };
        Counts {
            updated: at(Outcome::Updated),
            created: at(Outcome::Created),
            not_found: at(Outcome::NotFound),
            ignored: at(Outcome::Ignored),
            failed: at(Outcome::Failed),
        }
    }

    /// Its state.
    pub fn state(&self) -> BatchState {
        match *lock(&self.end) {
            End::Incomplete => BatchState::Incomplete,
            End::Stuck => BatchState::Stuck,
            End::Complete { .. } => BatchState::Complete,
        }
    }

    /// When it was complete, if it is.
    pub fn completed(&self) -> Option<Millis> {
        match *lock(&self.end) {
            End::Complete { at, .. } => Some(at),
            End::Incomplete | End::Stuck => None,
        }
    }

    /// Applying begins, perhaps again. Nothing is counted yet.
    pub fn begin(&self, now: Millis) {
        self.began.store(now.0, Ordering::Relaxed);
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// When applying began, if it did since the start.
    pub fn began(&self) -> Option<Millis> {
        Some(Millis(self.began.load(Ordering::Relaxed))).filter(|began| began.0 > 0)
    }

    /// Counts rows dealt with.
    pub fn add(&self, counts: &Counts) {
        for (count, outcome) in self.counts.iter().zip(Outcome::ALL) {
            count.fetch_add(counts.of(outcome), Ordering::Relaxed);
        }
    }

    /// Notes whether the store keeps refusing it.
    pub fn stuck(&self, stuck: bool) {
        let mut end = lock(&self.end);
        if !matches!(*end, End::Complete { .. }) {
            *end = if stuck { End::Stuck } else { End::Incomplete };
        }
    }

    /// Notes that it is applied, counted and checkpointed.
    pub fn complete(&self, counts: Counts, at: Millis) {
        *lock(&self.end) = End::Complete { counts, at };
    }
}
