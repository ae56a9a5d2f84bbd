//! Removes what two snapshots and the checkpoint replace: older snapshots, journal segments, uploads past their
//! retention.
//!
//! Promises: nothing is removed that a restart needs, or a rebuild of the store from the older of two snapshots. If
//! the disk is too full for a new checkpoint, the last one decides what may go.

use super::fresh::SNAPSHOTS_KEPT;
use super::task::{Action, DONE, Event, FAILED, Machine, Trouble};
use crate::journal::entry::Checkpoint;

/// Removes what is no longer needed.
#[derive(Debug, Default)]
pub struct RetireTask(At);

/// What was asked for last.
#[derive(Debug, Default)]
enum At {
    #[default]
    Start,
    VerifySnapshots,
    RemoveSnapshots,
    TakeCheckpoint,
    ReadCheckpoint,
    RetireJournal(Checkpoint),
    RetireBatches,
    Ended,
}

impl Machine for RetireTask {
    fn step(&mut self, event: Event) -> Action {
        let (at, action) = match (std::mem::replace(&mut self.0, At::Ended), event) {
            (At::Start, Event::Done) => (At::VerifySnapshots, Action::VerifySnapshots),
            (At::VerifySnapshots, Event::Snapshots(SNAPSHOTS_KEPT..)) => {
                (At::RemoveSnapshots, Action::RemoveSnapshots(SNAPSHOTS_KEPT))
            }
            // A restart must not need more of the journal than the snapshots do.
            (At::RemoveSnapshots, Event::Done) => (At::TakeCheckpoint, Action::TakeCheckpoint),
            (At::TakeCheckpoint, Event::Done | Event::Failed(Trouble::DiskFull)) => {
                (At::ReadCheckpoint, Action::ReadCheckpoint)
            }
            (At::ReadCheckpoint, Event::Marked(mark)) => {
                (At::RetireJournal(mark.clone()), Action::RetireJournal(mark))
            }
            (At::RetireJournal(mark), Event::Done) => (At::RetireBatches, Action::RetireBatches(mark)),
            (At::VerifySnapshots, Event::Snapshots(_))
            | (At::ReadCheckpoint | At::RetireBatches, Event::Done) => (At::Ended, DONE),
            _ => (At::Ended, FAILED),
        };
        self.0 = at;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::tests::{check, mark};
    use super::*;
    use Event::{Done, Failed, Snapshots};

    #[test]
    fn two_snapshots_and_a_checkpoint_let_the_rest_go() {
        let check = |events: &[Event], expected: &str| check(RetireTask::default(), events, expected);
        let two = "VerifySnapshots, RemoveSnapshots(2), TakeCheckpoint";
        check(&[Done, Snapshots(0)], "VerifySnapshots, done");
        check(&[Done, Snapshots(1)], "VerifySnapshots, done");
        check(
            &[Done, Snapshots(2), Done, Done, mark(9), Done, Done],
            &format!("{two}, ReadCheckpoint, RetireJournal 9, RetireBatches 9, done"),
        );
        check(
            &[Done, Snapshots(3), Done, Failed(Trouble::DiskFull), mark(9)],
            &format!("{two}, ReadCheckpoint, RetireJournal 9"),
        );
        check(&[Done, Snapshots(3), Done, Done, Done], &format!("{two}, ReadCheckpoint, done"));
        check(&[Done, Snapshots(3), Done, Failed(Trouble::Other)], &format!("{two}, failed"));
        check(&[Done, Snapshots(3), Failed(Trouble::Other)], "VerifySnapshots, RemoveSnapshots(2), failed");
    }
}
