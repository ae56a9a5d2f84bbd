//! The state of a batch between two actions of the apply loop and its writers. The daemon and the tests that run the loop
//! share it.

use crate::batch::apply::{Part, Plan, Step};
use crate::batch::outcomes_file::{RowOutcome, write_outcomes};
use crate::batch::pending::Pending;
use crate::batch::spool::Spool;
use crate::engine::driver::apply::{self, Unapplied};
use crate::engine::driver::writer::{Action, Event, Parts, Writer};
use crate::model::batch::Counts;
use crate::model::id::Key;
use crate::store::ProfileStore;
use crate::sync::{Mutex, lock};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The result of a writer: the rows that were not updated, and the counts.
pub type Written = (Vec<RowOutcome>, Counts);

/// The batch whose turn it is.
#[derive(Debug)]
pub struct BatchInHand {
    /// The batch.
    pub pending: Arc<Pending>,
    /// The outcomes so far.
    pub outcomes: Vec<RowOutcome>,
}

impl BatchInHand {
    /// Begins with a batch.
    pub fn new(pending: Arc<Pending>) -> Self {
        Self { pending, outcomes: vec![] }
    }

    /// The event that it is the batch's turn.
    pub fn turn(&self) -> apply::Event {
        let accepted = &self.pending.accepted;
        let (seq, rows, on_record) = (accepted.id.seq, accepted.rows, self.pending.is_on_record());
        apply::Event::Turn { seq, rows, on_record }
    }

    /// The event that the batch is planned, for this many shares.
    pub fn planned(&mut self, plan: &Plan, shares: usize) -> apply::Event {
        let (outcomes, decided) = plan.decided();
        self.outcomes = outcomes.to_vec();
        apply::Event::Planned { decided, shares }
    }

    /// The event that a share is applied.
    pub fn applied(&mut self, (outcomes, counts): Written) -> apply::Event {
        self.outcomes.extend(outcomes);
        apply::Event::ShareApplied(counts)
    }

    /// Writes the outcomes of the rows into their file.
    pub fn write_outcomes(&mut self, spool: &Spool) -> Result<apply::Event, Unapplied> {
        let path = spool.outcomes_path(self.pending.accepted.spool);
        let written = spool.recount_after(&path, || write_outcomes(&path, &mut self.outcomes));
        written.map_err(|error| Unapplied::Refused(format!("the outcomes could not be written: {error}")))?;
        Ok(apply::Event::Done)
    }

    /// Fails if the batch is held by now.
    pub fn check_held(&self) -> Result<apply::Event, Unapplied> {
        match self.pending.held() {
            Some(_) => Err(Unapplied::Held),
            None => Ok(apply::Event::Done),
        }
    }
}

/// A writer's share of a batch.
#[derive(Debug, Default)]
pub struct Share<'p> {
    part: Option<Part<'p>>,
    outcomes: Vec<RowOutcome>,
    counts: Counts,
}

impl<'p> Share<'p> {
    /// Goes on with the next part.
    pub fn take(&mut self, plan: &'p Plan, parts: &mut Parts, from_back: bool) -> Event {
        self.put_down();
        let Some(number) = parts.take(from_back) else { return Event::NoPart };
        let part = self.part.insert(plan.part(number, parts.of()));
        Event::Part { empty: part.is_done() }
    }

    /// Applies the next chunk of rows. Also returns their counts.
    pub fn apply_chunk(&mut self, store: &dyn ProfileStore) -> (Event, Counts) {
        let none = Counts::default();
        let Some(part) = &mut self.part else { return (Event::NoPart, none) };
        let before = part.counts();
        match part.step(store) {
            Ok(Step::More) => (Event::Applied { last: part.is_done() }, part.counts().since(&before)),
            Ok(Step::Done) => (Event::Applied { last: true }, none),
            Ok(Step::Resolve(keys)) => (Event::Unresolved(keys), none),
            Err(error) => (Event::Failed(error.into()), none),
        }
    }

    /// The result for all its rows.
    pub fn finish(mut self) -> Written {
        self.put_down();
        (self.outcomes, self.counts)
    }

    fn put_down(&mut self) {
        if let Some(part) = self.part.take() {
            let (outcomes, counts) = part.finish();
            self.outcomes.extend(outcomes);
            self.counts = self.counts.plus(&counts);
        }
    }
}

/// What a writer needs from its surroundings.
pub trait Employer {
    /// Waits until the next chunk may be applied; the last one took `took`. An error if no chunk may be applied.
    fn wait_for_turn(&self, took: Duration) -> Result<(), Unapplied>;

    /// These rows are in the store now.
    fn applied(&self, counts: &Counts);

    /// Has the commit thread resolve the pending rows of these visitors.
    fn resolve(&self, keys: Vec<Key>) -> Result<(), Unapplied>;
}

/// Carries out what a writer wants, from its first action to its last.
pub fn write(
    plan: &Plan,
    parts: &Mutex<Parts>,
    from_back: bool,
    store: &dyn ProfileStore,
    employer: &impl Employer,
) -> Result<Written, Unapplied> {
    let (mut writer, mut share, mut event) = (Writer::default(), Share::default(), Event::Done);
    let mut took = Duration::ZERO;
    loop {
        let done = match writer.step(event) {
            Action::TakePart => Ok(share.take(plan, &mut lock(parts), from_back)),
            Action::WaitForTurn => employer.wait_for_turn(took).map(|()| Event::Done),
            Action::ApplyChunk => {
                let began = Instant::now();
                let (event, counts) = share.apply_chunk(store);
                took = began.elapsed();
                if counts.total() > 0 {
                    employer.applied(&counts);
                }
                Ok(event)
            }
            Action::Resolve(keys) => employer.resolve(keys).map(|()| Event::Done),
            Action::End => return Ok(share.finish()),
            Action::GiveUp(why) => {
                lock(parts).give_up();
                return Err(why);
            }
        };
        event = done.unwrap_or_else(Event::Failed);
    }
}
