//! Applies a batch, with the rest of a sequence between the steps.

use super::{Action, Applying, Harness, Stepped, Wrong, begin, planned};
use crate::order::coverage::{Met, met};
use crate::order::ops::Op;
use profiled::batch::pending::Pending;
use profiled::model::seq::Clock;

impl Harness {
    /// Applies the batch whose turn it is, for as many steps as are given; then goes on with the sequence until the next
    /// such steps, and so on. Gives back a restart that ended it.
    pub(super) fn apply<'o>(
        &mut self,
        ops: &mut std::slice::Iter<'o, Op>,
        (mut steps, mut which, mut joins): (usize, usize, bool),
    ) -> Result<Option<&'o Op>, Wrong> {
        let Some(pending) = begin(self.core())? else { return Ok(None) };
        let plan = planned(self.core(), &pending, which)?;
        let mut applying = Applying::new(&pending, &plan, which)?;
        loop {
            while steps > 0 {
                steps -= 1;
                if !self.waiting.is_empty() {
                    self.commit(&[])?;
                } else {
                    let (core, now) = (self.core.as_ref().unwrap(), self.clock.now());
                    if applying.step(core, &mut self.waiting, now, which)? == Stepped::Applied {
                        self.between(|between| between.apply = true);
                    }
                }
                if !joins && !self.waiting.is_empty() {
                    self.commit(&[])?;
                }
                self.check("a step of applying")?;
                if is_complete(&pending) {
                    return self.completed(applying).map(|()| None);
                }
            }
            match ops.next() {
                Some(Op::Apply { steps: more, part, joins: join }) => {
                    (steps, which, joins) = (*more, *part, *join);
                }
                Some(restart @ Op::Restart { .. }) => {
                    if applying.is_in_the_middle() {
                        met(Met::RestartMidApplying);
                    }
                    if matches!(
                        applying.wants,
                        Action::MakeDurable | Action::CheckHeld | Action::Complete(..)
                    ) {
                        met(Met::RestartBeforeComplete);
                    }
                    return Ok(Some(restart));
                }
                Some(op) => {
                    if applying.is_in_the_middle() && matches!(op, Op::Commit(_)) {
                        met(Met::AppliedBetweenWrites);
                    }
                    self.step(op)?;
                    if is_complete(&pending) {
                        return self.completed(applying).map(|()| None);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    fn completed(&mut self, applying: Applying<'_>) -> Result<(), Wrong> {
        let seq = applying.pending().accepted.id.seq.get();
        applying.completed()?;
        met(Met::Completed);
        let sent = self.sent.iter().find(|sent| sent.seq == seq).ok_or("an unknown batch")?;
        if sent.overwritten {
            met(Met::OverwrittenAppliedAgain);
        }
        self.check_counts(sent)?;
        self.core().check_outcomes(seq, sent.spool, &sent.rows, &sent.became)
    }
}

fn is_complete(pending: &Pending) -> bool {
    pending.progress.completed().is_some()
}
