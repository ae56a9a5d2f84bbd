//! A checkpoint: makes the store durable up to what the journal says now, and writes that down.
//!
//! Promises: a checkpoint is true of the store on the disk: first the journal's position is taken, then the store is made
//! durable, then the checkpoint is written. A store that could not be made durable is not asked again, because it might
//! then report success. The daemon stops, and the next start rebuilds the store.

use super::task::{Action, DONE, Event, FAILED, Machine, OnStore};
use crate::journal::entry::Checkpoint;
use crate::model::seq::Seq;

/// A checkpoint being taken.
#[derive(Debug, Default)]
pub struct CheckpointTask(At);

/// What was asked for last.
#[derive(Debug, Default)]
enum At {
    #[default]
    Start,
    Lock,
    Mark,
    CheckDamage(Checkpoint),
    MakeDurable(Checkpoint),
    Note(Seq),
    Cover,
    Distrust,
    Ended,
}

impl Machine for CheckpointTask {
    fn step(&mut self, event: Event) -> Action {
        let (at, action) = match (std::mem::replace(&mut self.0, At::Ended), event) {
            (At::Start, Event::Done) => (At::Lock, Action::LockStore),
            (At::Lock, Event::Done) => (At::Mark, Action::Mark),
            // By now the store knows of every acknowledged write that it lost.
            (At::Mark, Event::Marked(mark)) => (At::CheckDamage(mark), Action::OnStore(OnStore::CheckDamage)),
            (At::CheckDamage(mark), Event::Done) => {
                (At::MakeDurable(mark), Action::OnStore(OnStore::MakeDurable))
            }
            (At::MakeDurable(mark), Event::Durable(reach)) => {
                let mark = Checkpoint { store_reach: reach.0, ..mark };
                (At::Note(Seq::from_u64(mark.last_seq)), Action::Note(mark))
            }
            (At::MakeDurable(_), Event::Failed(_)) => (At::Distrust, Action::Distrust),
            (At::Note(last), Event::Done) => (At::Cover, Action::Cover(last)),
            (At::Cover, Event::Done) => (At::Ended, DONE),
            _ => (At::Ended, FAILED),
        };
        self.0 = at;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::Trouble;
    use super::super::task::tests::{check, mark};
    use super::*;
    use crate::store::Reach;
    use Event::{Done, Durable, Failed};

    #[test]
    fn it_is_written_down_after_the_store_is_durable() {
        check(
            CheckpointTask::default(),
            &[Done, Done, mark(9), Done, Durable(Reach(4)), Done, Done],
            "LockStore, Mark, CheckDamage, MakeDurable, Note 9 at 4, Cover 9, done",
        );
    }

    #[test]
    fn what_follows_a_failure() {
        let failed = Failed(Trouble::Other);
        let check = |events: &[Event], expected| check(CheckpointTask::default(), events, expected);
        check(&[Done, Done, Failed(Trouble::Stopping)], "LockStore, Mark, failed");
        check(&[Done, Done, mark(9), failed.clone()], "LockStore, Mark, CheckDamage, failed");
        check(
            &[Done, Done, mark(9), Done, failed.clone(), Done],
            "LockStore, Mark, CheckDamage, MakeDurable, Distrust, failed",
        );
        check(
            &[Done, Done, mark(9), Done, Durable(Reach(4)), failed],
            "LockStore, Mark, CheckDamage, MakeDurable, Note 9 at 4, failed",
        );
        check(&[Done, mark(9)], "LockStore, failed");
    }
}
