//! The apply loop of the daemon with its writers, action by action: anything may come between two actions.

use super::{Harness, VISITOR_ROWS_MAX, Wrong};
use crate::order::coverage::{Met, met};
use crate::order::ops::Op;
use profiled::batch::apply::Plan;

use profiled::batch::pending::Pending;
use profiled::engine::commit::Request;
use profiled::engine::driver::apply::{Action, ApplyLoop, Event, completion};
use profiled::engine::driver::writer::{self, Parts, Writer};
use profiled::engine::ingest::in_hand::{BatchInHand, Share};
use profiled::model::id::Key;
use profiled::model::seq::Clock;
use std::sync::Arc;
use std::time::Duration;

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
struct Applying<'p> {
    batch: BatchInHand,
    plan: &'p Plan,
    parts: Parts,
    writers: Vec<Writing<'p>>,
    begun: bool,
    asked_in_vain: u32,
}

impl Harness {
    /// Applies the batch whose turn it is, for as many steps as are given; then goes on with the sequence until the next
    /// such steps, and so on. Gives back a restart that ended it.
    pub(super) fn apply<'o>(
        &mut self,
        ops: &mut std::slice::Iter<'o, Op>,
        (mut steps, mut which, mut joins): (usize, usize, bool),
    ) -> Result<Option<&'o Op>, Wrong> {
        if self.core().batches.pending_batches() == 0 {
            return Ok(None);
        }
        let mut apply = ApplyLoop::default();
        let mut step = |event| apply.step(event, Duration::ZERO);
        let expect = |wants: Action, expected| match wants == expected {
            true => Ok(()),
            false => Err(format!("the apply loop wants {wants:?}, not {expected:?}")),
        };
        expect(step(Event::Done), Action::FindTurn)?;
        let pending = self.core().batches.next().ok_or("no batch")?;
        let mut batch = BatchInHand::new(Arc::clone(&pending));
        expect(step(batch.turn()), Action::GetReady)?;
        expect(step(Event::Done), Action::Plan)?;
        let plan = Plan::make(&pending, &*self.core().shared(), 1000 * u64::from(which % 2 == 0));
        let plan = plan.map_err(|error| format!("plan: {error}"))?.leaving_from(VISITOR_ROWS_MAX);
        let shares = if which == Self::PART_A_ROW { 16 } else { 1 + which % 5 };
        let mut wants = step(batch.planned(&plan, shares));
        let parts = Parts::of_rows(plan.rows(), shares);
        let writers = (0..shares).map(Writing::begin).collect();
        let mut applying = Applying { batch, plan: &plan, parts, writers, begun: false, asked_in_vain: 0 };
        loop {
            while steps > 0 {
                steps -= 1;
                if !self.waiting.is_empty() {
                    self.commit(&[])?;
                } else if let Some(event) = self.carry_out(&wants, &mut applying, which)? {
                    wants = step(event);
                }
                if !joins && !self.waiting.is_empty() {
                    self.commit(&[])?;
                }
                self.check("a step of applying")?;
                if is_complete(&pending) {
                    return self.completed(&pending, step(Event::Done)).map(|()| None);
                }
            }
            match ops.next() {
                Some(Op::Apply { steps: more, part, joins: join }) => {
                    (steps, which, joins) = (*more, *part, *join);
                }
                Some(restart @ Op::Restart { .. }) => {
                    if applying.begun && !applying.writers.is_empty() {
                        met(Met::RestartMidApplying);
                    }
                    if matches!(wants, Action::MakeDurable | Action::CheckHeld | Action::Complete(..)) {
                        met(Met::RestartBeforeComplete);
                    }
                    return Ok(Some(restart));
                }
                Some(op) => {
                    if applying.begun && !applying.writers.is_empty() && matches!(op, Op::Commit(_)) {
                        met(Met::AppliedBetweenWrites);
                    }
                    self.step(op)?;
                    if is_complete(&pending) {
                        return self.completed(&pending, step(Event::Done)).map(|()| None);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// Carries out what the apply loop wants. No event: it is not done yet.
    fn carry_out(
        &mut self,
        wants: &Action,
        applying: &mut Applying<'_>,
        which: usize,
    ) -> Result<Option<Event>, Wrong> {
        let batch = &mut applying.batch;
        let done = match wants {
            Action::ApplyShares => return self.write(applying, which),
            Action::WriteOutcomes => batch.write_outcomes(&self.core().spool),
            Action::MakeDurable => {
                let reach = self.core().swap.make_durable().map_err(|error| error.to_string())?;
                Ok(Event::Durable(reach))
            }
            Action::CheckHeld => batch.check_held(),
            Action::Complete(counts, reach) => {
                let (id, now) = (&batch.pending.accepted.id, self.clock.now());
                let (complete, _) = completion(&self.core().batches, id, *counts, *reach, now);
                self.waiting.push_back(complete);
                return Ok(None);
            }
            other => return Err(format!("the apply loop wants {other:?}")),
        };
        done.map(Some).map_err(|why| format!("{wants:?}: {why:?}"))
    }

    /// Takes a step of a writer; gives what became of its rows once it has ended.
    fn write(&mut self, applying: &mut Applying<'_>, which: usize) -> Result<Option<Event>, Wrong> {
        let store = self.core().shared();
        let Applying { batch, plan, parts, writers, begun, asked_in_vain } = applying;
        let at = which % writers.len();
        let writing = &mut writers[at];
        let answered = std::mem::take(&mut writing.asked).then_some(writer::Event::Done);
        writing.go_on(answered, plan, parts);
        if writing.wants == writer::Action::ApplyChunk {
            let (event, _) = writing.share.apply_chunk(&*store);
            if matches!(event, writer::Event::Applied { .. }) {
                (*begun, *asked_in_vain) = (true, 0);
                self.between(|between| between.apply = true);
            }
            writing.go_on(Some(event), plan, parts);
        }
        match writing.wants.clone() {
            writer::Action::ApplyChunk => Ok(None),
            writer::Action::Resolve(keys) => {
                writing.asked = true;
                *asked_in_vain += 1;
                self.ask_to_resolve(keys, *asked_in_vain, &batch.pending).map(|()| None)
            }
            writer::Action::End => Ok(Some(batch.applied(writers.remove(at).share.finish()))),
            other => Err(format!("a writer wants {other:?}")),
        }
    }

    fn ask_to_resolve(&mut self, keys: Vec<Key>, asked: u32, pending: &Pending) -> Result<(), Wrong> {
        if keys.len() == 1 {
            met(Met::LeftToCommitThread);
        }
        // Answered once, the step goes through; other writers may ask in between.
        if asked > ASKED_IN_VAIN_MAX {
            return Err(format!("applying does not get past {keys:?}"));
        }
        self.waiting.push_back(Request::Resolve(pending.accepted.id.client.clone(), keys));
        Ok(())
    }

    fn completed(&mut self, pending: &Pending, wants: Action) -> Result<(), Wrong> {
        let Action::Report(_) = wants else { return Err(format!("the apply loop wants {wants:?}")) };
        met(Met::Completed);
        self.check_outcomes(pending.accepted.id.seq.get())
    }
}

fn is_complete(pending: &Pending) -> bool {
    pending.progress.completed().is_some()
}
