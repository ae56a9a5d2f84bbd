//! The apply loop of the daemon with its writers, action by action: anything may come between two actions. Whoever drives it
//! has what it asks of the commit thread committed, before it takes the next step.

use super::core::{Core, Wrong};
use super::coverage::{Met, met};
use profiled::batch::apply::Plan;
use profiled::batch::pending::Pending;
use profiled::engine::commit::Request;
use profiled::engine::driver::apply::{Action, ApplyLoop, Event, completion};
use profiled::engine::driver::writer::{self, Parts, Writer};
use profiled::engine::ingest::in_hand::{BatchInHand, Share};
use profiled::model::id::Key;
use profiled::model::seq::Millis;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A part to apply that has about one row.
pub(crate) const PART_A_ROW: usize = 15;
/// Visitors with more rows are left to the commit thread.
const VISITOR_ROWS_MAX: usize = 4;
/// A writer asks no more often in vain.
const ASKED_IN_VAIN_MAX: u32 = 20;

/// A writer with what it has in hand.
struct Writing<'p> {
    writer: Writer,
    wants: writer::Action,
    share: Share<'p>,
    from_back: bool,
    /// Whether the commit thread has what it was asked to resolve.
    asked: bool,
}

impl<'p> Writing<'p> {
    fn begin(number: usize) -> Self {
        let mut writer = Writer::default();
        let wants = writer.step(writer::Event::Done);
        Self { writer, wants, share: Share::default(), from_back: number % 2 == 1, asked: false }
    }

    /// Goes on up to where it wants something of the store or the commit thread, or has ended.
    fn go_on(&mut self, mut event: Option<writer::Event>, plan: &'p Plan, parts: &mut Parts) {
        loop {
            if let Some(event) = event.take() {
                self.wants = self.writer.step(event);
            }
            event = match self.wants {
                writer::Action::TakePart => Some(self.share.take(plan, parts, self.from_back)),
                writer::Action::WaitForTurn => Some(writer::Event::Done),
                _ => return,
            };
        }
    }
}

/// A batch that is being applied.
pub(crate) struct Applying<'p> {
    apply: ApplyLoop,
    /// What the loop wants next.
    pub(crate) wants: Action,
    batch: BatchInHand,
    plan: &'p Plan,
    parts: Parts,
    writers: Vec<Writing<'p>>,
    begun: bool,
    asked_in_vain: u32,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    /// It put rows into the store.
    Applied,
    /// Nothing that others can see.
    Else,
}

/// The batch whose turn it is, if there is one; the plan to apply it is made by [`planned`].
pub(crate) fn begin(core: &Core) -> Result<Option<Arc<Pending>>, Wrong> {
    if core.batches.pending_batches() == 0 {
        return Ok(None);
    }
    core.batches.next().ok_or_else(|| "no batch".into()).map(Some)
}

/// How a batch will be applied.
pub(crate) fn planned(core: &Core, pending: &Arc<Pending>, which: usize) -> Result<Plan, Wrong> {
    let plan = Plan::make(pending, &*core.shared(), 1000 * u64::from(which.is_multiple_of(2)));
    plan.map_err(|error| format!("plan: {error}")).map(|plan| plan.leaving_from(VISITOR_ROWS_MAX))
}

impl<'p> Applying<'p> {
    /// Begins with a batch.
    pub(crate) fn new(pending: &Arc<Pending>, plan: &'p Plan, which: usize) -> Result<Self, Wrong> {
        let mut apply = ApplyLoop::default();
        let mut step = |event| apply.step(event, Duration::ZERO);
        let expect = |wants: Action, expected| match wants == expected {
            true => Ok(()),
            false => Err(format!("the apply loop wants {wants:?}, not {expected:?}")),
        };
        expect(step(Event::Done), Action::FindTurn)?;
        let mut batch = BatchInHand::new(Arc::clone(pending));
        expect(step(batch.turn()), Action::GetReady)?;
        expect(step(Event::Done), Action::Plan)?;
        let shares = if which == PART_A_ROW { 16 } else { 1 + which % 5 };
        let wants = step(batch.planned(plan, shares));
        let parts = Parts::of_rows(plan.rows(), shares);
        let writers = (0..shares).map(Writing::begin).collect();
        Ok(Self { apply, wants, batch, plan, parts, writers, begun: false, asked_in_vain: 0 })
    }

    /// The batch.
    pub(crate) fn pending(&self) -> &Arc<Pending> {
        &self.batch.pending
    }

    /// Whether some of its rows are applied and others are not.
    pub(crate) fn is_in_the_middle(&self) -> bool {
        self.begun && !self.writers.is_empty()
    }

    /// Carries out what the loop wants next. What it asks of the commit thread goes behind what `waiting` has.
    pub(crate) fn step(
        &mut self,
        core: &Core,
        waiting: &mut VecDeque<Request>,
        now: Millis,
        which: usize,
    ) -> Result<Stepped, Wrong> {
        let mut stepped = Stepped::Else;
        let done = match &self.wants {
            Action::ApplyShares => {
                let event;
                (event, stepped) = self.write(core, waiting, which)?;
                Ok(event)
            }
            Action::WriteOutcomes => self.batch.write_outcomes(&core.spool).map(Some),
            Action::MakeDurable => {
                let reach = core.swap.make_durable().map_err(|error| error.to_string())?;
                Ok(Some(Event::Durable(reach)))
            }
            Action::CheckHeld => self.batch.check_held().map(Some),
            Action::Complete(counts, reach) => {
                let id = &self.batch.pending.accepted.id;
                let (complete, _) = completion(&core.batches, id, *counts, *reach, now);
                waiting.push_back(complete);
                Ok(None)
            }
            other => return Err(format!("the apply loop wants {other:?}")),
        };
        if let Some(event) = done.map_err(|why| format!("{:?}: {why:?}", self.wants))? {
            self.wants = self.apply.step(event, Duration::ZERO);
        }
        Ok(stepped)
    }

    /// Takes a step of a writer; gives what became of its rows once it has ended.
    fn write(
        &mut self,
        core: &Core,
        waiting: &mut VecDeque<Request>,
        which: usize,
    ) -> Result<(Option<Event>, Stepped), Wrong> {
        let mut stepped = Stepped::Else;
        let Self { batch, plan, parts, writers, begun, asked_in_vain, .. } = self;
        let at = which % writers.len();
        let writing = &mut writers[at];
        let answered = std::mem::take(&mut writing.asked).then_some(writer::Event::Done);
        writing.go_on(answered, plan, parts);
        if writing.wants == writer::Action::ApplyChunk {
            let (event, _) = writing.share.apply_chunk(&*core.shared());
            if matches!(event, writer::Event::Applied { .. }) {
                (*begun, *asked_in_vain) = (true, 0);
                stepped = Stepped::Applied;
            }
            writing.go_on(Some(event), plan, parts);
        }
        match writing.wants.clone() {
            writer::Action::ApplyChunk => Ok((None, stepped)),
            writer::Action::Resolve(keys) => {
                writing.asked = true;
                *asked_in_vain += 1;
                waiting.push_back(to_resolve(keys, *asked_in_vain, &batch.pending)?);
                Ok((None, stepped))
            }
            writer::Action::End => Ok((Some(batch.applied(writers.remove(at).share.finish())), stepped)),
            other => Err(format!("a writer wants {other:?}")),
        }
    }

    /// The batch is complete.
    pub(crate) fn completed(mut self) -> Result<(), Wrong> {
        match self.apply.step(Event::Done, Duration::ZERO) {
            Action::Report(_) => Ok(()),
            wants => Err(format!("the apply loop wants {wants:?}")),
        }
    }
}

fn to_resolve(keys: Vec<Key>, asked: u32, pending: &Pending) -> Result<Request, Wrong> {
    if keys.len() == 1 {
        met(Met::LeftToCommitThread);
    }
    // Answered once, the step goes through; other writers may ask in between.
    if asked > ASKED_IN_VAIN_MAX {
        return Err(format!("applying does not get past {keys:?}"));
    }
    Ok(Request::Resolve(pending.accepted.id.client.clone(), keys))
}
