//! The apply loop: finds the batch whose turn it is, applies its rows, and completes it.
//!
//! ```text
//! find turn ─► get ready ─► plan ─► apply shares ─► write outcomes ─► make durable ─► check held ─► complete ─► report
//!     ▲                        any of them may fail: [`Unapplied`] says why, and the loop what comes next      │
//!     └────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Promises: a batch is completed only after the store has been made durable with all its rows, its outcomes are
//! written, and its counts add up to its rows. A batch that was refused is tried again; after the third refusal it
//! shows as stuck. A batch that waits for a later one lets others go first.

use crate::batch::queue::Batches;
use crate::batch::resolve::ResolveError;
use crate::engine::commit::Request;
use crate::engine::error::EngineError;
use crate::model::batch::{BatchId, Counts};
use crate::model::seq::{Millis, Seq};
use crate::store::Reach;
use std::collections::HashMap;
use std::time::Duration;

/// A batch that was refused this often shows as stuck. It is tried again all the same.
const REFUSALS_UNTIL_STUCK: u32 = 3;
/// How long the loop waits after a refusal, and how long a batch waits for a later one.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often the loop checks whether a batch that lookups do not show yet is due.
const HELD_LOOK: Duration = Duration::from_millis(20);

/// What the loop wants done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find the batch whose turn it is, leaving out those that [wait](ApplyLoop::waits). Gives [`Event::Turn`],
    /// [`Event::NoneDue`] or [`Event::Closed`].
    FindTurn,
    /// Wait this long, or until the daemon stops.
    Wait(Duration),
    /// Wait until the disk has space and no rebuild runs. Then no rebuild may start until an action
    /// [ends the batch](Action::ends_batch).
    GetReady,
    /// Read the batch's file and sort its rows. Gives [`Event::Planned`].
    Plan,
    /// Apply the shares of the batch. Gives [`Event::ShareApplied`] for each.
    ApplyShares,
    /// Write the outcomes of the rows into their file.
    WriteOutcomes,
    /// Make the store durable. Gives [`Event::Durable`].
    MakeDurable,
    /// Fail with [`Unapplied::Held`] if the batch is held by now.
    CheckHeld,
    /// Ask the commit thread to complete the batch. The store has all its rows and reaches this far.
    Complete(Counts, Reach),
    /// Report the complete batch to metrics and log, and remove the files that it no longer needs.
    Report(Counts),
    /// Hold the batch: its upload is not what was accepted.
    Hold {
        /// What is wrong, in a few words.
        in_short: String,
        /// The whole reason.
        why: String,
    },
    /// Note that the batch waits for a later one.
    Postpone(String),
    /// Report that the batch was refused.
    Refuse {
        /// The number of refusals since the last complete batch.
        refusals: u32,
        /// Whether the batch shows as stuck.
        stuck: bool,
        /// Why.
        why: String,
    },
    /// Stop the daemon: nobody can know the right result.
    Fail(String),
    /// The loop has ended.
    End,
}

impl Action {
    /// Whether the loop stops applying the batch, at least for now.
    pub fn ends_batch(&self) -> bool {
        matches!(
            self,
            Self::FindTurn
                | Self::Hold { .. }
                | Self::Postpone(_)
                | Self::Refuse { .. }
                | Self::Fail(_)
                | Self::End
        )
    }
}

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is done.
    Done,
    /// It is this batch's turn.
    Turn {
        /// Which batch.
        seq: Seq,
        /// How many rows it has.
        rows: u64,
        /// Whether the outcomes of its rows were written earlier.
        on_record: bool,
    },
    /// No batch may be applied now.
    NoneDue,
    /// No batch will be applied any more.
    Closed,
    /// The plan is made.
    Planned {
        /// The outcomes that need no store.
        decided: Counts,
        /// How many shares the rest is split into.
        shares: usize,
    },
    /// A share is in the store.
    ShareApplied(Counts),
    /// The store is durable up to this reach.
    Durable(Reach),
    /// It could not be done.
    Failed(Unapplied),
}

/// Why a batch is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unapplied {
    /// The daemon is stopping.
    Stopping,
    /// The store is being rebuilt: the batch starts over on the new one.
    Rebuilding,
    /// The store contains a row, and nothing says what its outcome was.
    OutcomeLost(String),
    /// The upload differs from what was accepted. Nothing read from it may be used.
    Damaged {
        /// What is wrong, in a few words.
        in_short: String,
        /// The whole reason.
        why: String,
    },
    /// The batch is held by now.
    Held,
    /// A visitor of this batch has rows in a later batch that is held.
    Behind(String),
    /// The store, the spool or the journal refused. A retry may help.
    Refused(String),
}

impl From<ResolveError> for Unapplied {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::OutcomeLost { .. } => Self::OutcomeLost(error.to_string()),
            ResolveError::Held { .. } => Self::Behind(error.to_string()),
            error => match error.lost_upload() {
                Some(in_short) => Self::Damaged { in_short, why: error.to_string() },
                None => Self::Refused(error.to_string()),
            },
        }
    }
}

impl From<EngineError> for Unapplied {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopping => Self::Stopping,
            EngineError::Held { .. } => Self::Behind(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// The request of [`Action::Complete`], and whether the batch was complete before in a store that is gone. Such a batch
/// keeps its time of completion.
pub fn completion(
    batches: &Batches,
    id: &BatchId,
    counts: Counts,
    reach: Reach,
    now: Millis,
) -> (Request, bool) {
    let again = batches.is_again(id.seq);
    let before = batches.get(id).filter(|_| again).and_then(|known| known.progress.completed());
    (Request::Complete(id.clone(), counts, before.unwrap_or(now), reach), again)
}

/// The apply loop.
#[derive(Debug, Default)]
pub struct ApplyLoop {
    state: State,
    /// The number of refusals since the last complete batch.
    refusals: u32,
    /// The batches that wait for a later one, and until when.
    waiting: HashMap<Seq, Duration>,
}

#[derive(Debug, Default)]
enum State {
    /// The next action is [`Action::FindTurn`].
    #[default]
    Between,
    Finding,
    Applying(Batch, At),
    Refused,
    Ended,
}

/// The batch whose turn it is.
#[derive(Debug)]
struct Batch {
    seq: Seq,
    rows: u64,
    on_record: bool,
    counts: Counts,
    shares_left: usize,
}

/// What was asked for last.
#[derive(Debug)]
enum At {
    GetReady,
    Plan,
    ApplyShares,
    WriteOutcomes,
    MakeDurable,
    CheckHeld(Reach),
    Complete(Reach),
    Report,
}

impl ApplyLoop {
    /// Whether a batch waits for a later one.
    pub fn waits(&self, batch: Seq) -> bool {
        self.waiting.contains_key(&batch)
    }

    /// Takes what the last action came to, at this time since the start, and gives the next action. The first event is
    /// [`Event::Done`].
    pub fn step(&mut self, event: Event, now: Duration) -> Action {
        match (std::mem::take(&mut self.state), event) {
            (State::Between, Event::Done) => self.find_turn(now),
            (State::Finding, Event::Closed) => self.end(),
            (State::Finding, Event::NoneDue) => Action::Wait(HELD_LOOK),
            (State::Finding, Event::Turn { seq, rows, on_record }) => {
                let counts = Counts::default();
                self.goes_on(Batch { seq, rows, on_record, counts, shares_left: 0 }, At::GetReady)
            }
            (State::Applying(batch, _), Event::Failed(why)) => self.failed(&batch, why, now),
            (State::Applying(batch, at), event) => self.applied(batch, at, event, now),
            (State::Refused, Event::Done) => Action::Wait(RETRY_AFTER),
            (State::Ended, _) => self.end(),
            (state, event) => self.fail(format!("the apply loop got {event:?} in {state:?}")),
        }
    }

    fn find_turn(&mut self, now: Duration) -> Action {
        self.waiting.retain(|_, until| *until > now);
        self.state = State::Finding;
        Action::FindTurn
    }

    fn goes_on(&mut self, batch: Batch, at: At) -> Action {
        let action = match &at {
            At::GetReady => Action::GetReady,
            At::Plan => Action::Plan,
            At::ApplyShares => Action::ApplyShares,
            At::WriteOutcomes => Action::WriteOutcomes,
            At::MakeDurable => Action::MakeDurable,
            At::CheckHeld(_) => Action::CheckHeld,
            At::Complete(reach) => Action::Complete(batch.counts, *reach),
            At::Report => Action::Report(batch.counts),
        };
        self.state = State::Applying(batch, at);
        action
    }

    fn applied(&mut self, mut batch: Batch, at: At, event: Event, now: Duration) -> Action {
        match (at, event) {
            (At::GetReady, Event::Done) => self.goes_on(batch, At::Plan),
            (At::Plan, Event::Planned { decided, shares }) => {
                (batch.counts, batch.shares_left) = (decided, shares);
                self.share_applied(batch, now)
            }
            (At::ApplyShares, Event::ShareApplied(counts)) => {
                batch.counts = batch.counts.plus(&counts);
                batch.shares_left -= 1;
                self.share_applied(batch, now)
            }
            (At::WriteOutcomes, Event::Done) => self.goes_on(batch, At::MakeDurable),
            (At::MakeDurable, Event::Durable(reach)) => self.goes_on(batch, At::CheckHeld(reach)),
            (At::CheckHeld(reach), Event::Done) => self.goes_on(batch, At::Complete(reach)),
            (At::Complete(_), Event::Done) => self.goes_on(batch, At::Report),
            (At::Report, Event::Done) => {
                self.refusals = 0;
                self.find_turn(now)
            }
            (at, event) => self.fail(format!("the apply loop got {event:?} at {at:?} of {batch:?}")),
        }
    }

    fn share_applied(&mut self, batch: Batch, now: Duration) -> Action {
        if batch.shares_left > 0 {
            return self.goes_on(batch, At::ApplyShares);
        }
        if batch.counts.total() != batch.rows {
            let why = format!("{} outcomes for {} rows", batch.counts.total(), batch.rows);
            return self.failed(&batch, Unapplied::Refused(why), now);
        }
        // The outcomes of a batch that was complete before are written already.
        let next = if batch.on_record { At::MakeDurable } else { At::WriteOutcomes };
        self.goes_on(batch, next)
    }

    fn failed(&mut self, batch: &Batch, why: Unapplied, now: Duration) -> Action {
        self.state = State::Between;
        match why {
            Unapplied::Stopping => self.end(),
            Unapplied::Rebuilding | Unapplied::Held => self.find_turn(now),
            Unapplied::Damaged { in_short, why } => Action::Hold { in_short, why },
            Unapplied::Behind(why) => {
                self.waiting.insert(batch.seq, now + RETRY_AFTER);
                Action::Postpone(why)
            }
            Unapplied::OutcomeLost(why) => self.fail(why),
            Unapplied::Refused(why) => {
                self.state = State::Refused;
                self.refusals += 1;
                let (refusals, stuck) = (self.refusals, self.refusals >= REFUSALS_UNTIL_STUCK);
                Action::Refuse { refusals, stuck, why }
            }
        }
    }

    fn end(&mut self) -> Action {
        self.state = State::Ended;
        Action::End
    }

    fn fail(&mut self, why: String) -> Action {
        self.state = State::Ended;
        Action::Fail(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: u64 = 5;
    const REACH: Reach = Reach(7);

    fn rows(updated: u64) -> Counts {
        Counts { updated, ..Counts::default() }
    }

    fn turn(seq: u64) -> Event {
        Event::Turn { seq: Seq::from_u64(seq), rows: ROWS, on_record: false }
    }

    /// A word for each action, with what matters of it.
    fn word(action: &Action) -> String {
        match action {
            Action::Wait(time) => format!("wait {}", time.as_millis()),
            Action::Complete(counts, reach) => format!("complete {} at {}", counts.total(), reach.0),
            Action::Report(counts) => format!("report {}", counts.total()),
            Action::Hold { in_short, .. } => format!("hold: {in_short}"),
            Action::Postpone(why) => format!("postpone: {why}"),
            Action::Refuse { refusals, stuck, why } => {
                format!("refuse {refusals}{}: {why}", if *stuck { " stuck" } else { "" })
            }
            Action::Fail(why) => format!("fail: {why}"),
            action => format!("{action:?}"),
        }
    }

    /// Steps a loop with these events, and says what it wants after each.
    fn after(apply: &mut ApplyLoop, events: impl IntoIterator<Item = Event>, now_ms: u64) -> Vec<String> {
        let now = Duration::from_millis(now_ms);
        events.into_iter().map(|event| word(&apply.step(event, now))).collect()
    }

    /// The events of a batch that is applied in two shares, up to where its last action is this one.
    fn until(last: &str) -> Vec<Event> {
        let events = [
            ("FindTurn", Event::Done),
            ("GetReady", turn(1)),
            ("Plan", Event::Done),
            ("ApplyShares", Event::Planned { decided: rows(1), shares: 2 }),
            ("ApplyShares 2", Event::ShareApplied(rows(3))),
            ("WriteOutcomes", Event::ShareApplied(rows(1))),
            ("MakeDurable", Event::Done),
            ("CheckHeld", Event::Durable(REACH)),
            ("complete", Event::Done),
            ("report", Event::Done),
        ];
        let at = events.iter().position(|(action, _)| *action == last).unwrap();
        events.into_iter().take(at + 1).map(|(_, event)| event).collect()
    }

    #[test]
    fn a_batch_is_applied_written_down_made_durable_and_only_then_completed() {
        let mut apply = ApplyLoop::default();
        let wants = after(&mut apply, until("report").into_iter().chain([Event::Done]), 0);
        let expected = "FindTurn, GetReady, Plan, ApplyShares, ApplyShares, WriteOutcomes, MakeDurable, CheckHeld, \
                        complete 5 at 7, report 5, FindTurn";
        assert_eq!(wants.join(", "), expected);
    }

    /// What the loop wants once its last action failed so, and after each `Done` behind that.
    #[track_caller]
    fn check(last: &str, why: Unapplied, then: &str) {
        let mut apply = ApplyLoop::default();
        after(&mut apply, until(last), 0);
        let done = then.split(", ").skip(1).map(|_| Event::Done);
        let wants = after(&mut apply, [Event::Failed(why)].into_iter().chain(done), 0);
        assert_eq!(wants.join(", "), then, "{last}");
    }

    #[test]
    fn what_follows_a_failure() {
        let damaged = || Unapplied::Damaged { in_short: "it is gone".into(), why: "all of it".into() };
        let refused = || Unapplied::Refused("full".into());
        for last in ["GetReady", "Plan", "ApplyShares", "ApplyShares 2", "WriteOutcomes", "complete"] {
            check(last, Unapplied::Stopping, "End, End");
            check(last, refused(), "refuse 1: full, wait 1000, FindTurn");
        }
        check("ApplyShares", Unapplied::Rebuilding, "FindTurn");
        check("ApplyShares 2", Unapplied::Rebuilding, "FindTurn");
        check("ApplyShares", Unapplied::Held, "FindTurn");
        check("CheckHeld", Unapplied::Held, "FindTurn");
        check("Plan", damaged(), "hold: it is gone, FindTurn");
        check("ApplyShares 2", damaged(), "hold: it is gone, FindTurn");
        check("ApplyShares", Unapplied::Behind("of 9".into()), "postpone: of 9, FindTurn");
        check("ApplyShares", Unapplied::OutcomeLost("line 2".into()), "fail: line 2, End");
        check("MakeDurable", refused(), "refuse 1: full, wait 1000, FindTurn");
    }

    #[test]
    fn a_batch_shows_as_stuck_after_three_refusals_until_one_is_completed() {
        let mut apply = ApplyLoop::default();
        let refused = || until("Plan").into_iter().chain([Event::Failed(Unapplied::Refused("no".into()))]);
        for expected in ["refuse 1: no", "refuse 2: no", "refuse 3 stuck: no", "refuse 4 stuck: no"] {
            let wants = after(&mut apply, refused().chain([Event::Done]), 0);
            assert_eq!(wants[3..], [expected, "wait 1000"]);
        }
        after(&mut apply, until("report"), 0);
        assert_eq!(after(&mut apply, refused(), 0)[3], "refuse 1: no");
    }

    #[test]
    fn a_batch_that_waits_for_a_later_one_lets_others_go_first_for_a_second() {
        let mut apply = ApplyLoop::default();
        after(&mut apply, until("ApplyShares"), 100);
        after(&mut apply, [Event::Failed(Unapplied::Behind("of 9".into())), Event::Done], 100);
        assert!(apply.waits(Seq::from_u64(1)) && !apply.waits(Seq::from_u64(2)));
        assert_eq!(after(&mut apply, [Event::NoneDue, Event::Done], 1099), ["wait 20", "FindTurn"]);
        assert!(apply.waits(Seq::from_u64(1)));
        assert_eq!(after(&mut apply, [Event::NoneDue, Event::Done], 1100), ["wait 20", "FindTurn"]);
        assert!(!apply.waits(Seq::from_u64(1)));
    }

    #[test]
    fn rows_that_do_not_add_up_complete_nothing() {
        let mut apply = ApplyLoop::default();
        after(&mut apply, until("ApplyShares 2"), 0);
        assert_eq!(after(&mut apply, [Event::ShareApplied(rows(2))], 0), ["refuse 1: 6 outcomes for 5 rows"]);
    }

    #[test]
    fn outcomes_on_record_are_not_written_again() {
        let mut apply = ApplyLoop::default();
        let on_record = Event::Turn { seq: Seq::from_u64(1), rows: ROWS, on_record: true };
        let planned = Event::Planned { decided: rows(5), shares: 0 };
        let wants = after(&mut apply, [Event::Done, on_record, Event::Done, planned], 0);
        assert_eq!(wants, ["FindTurn", "GetReady", "Plan", "MakeDurable"]);
    }

    #[test]
    fn a_closed_queue_ends_the_loop() {
        let mut apply = ApplyLoop::default();
        assert_eq!(
            after(&mut apply, [Event::Done, Event::Closed, Event::Done], 0),
            ["FindTurn", "End", "End"]
        );
    }

    #[test]
    fn an_event_that_does_not_belong_there_ends_it() {
        let mut apply = ApplyLoop::default();
        after(&mut apply, until("WriteOutcomes"), 0);
        let wants = after(&mut apply, [Event::Durable(REACH), Event::Done], 0);
        assert!(wants[0].starts_with("fail: the apply loop got Durable"), "{wants:?}");
        assert_eq!(wants[1], "End");
    }
}
