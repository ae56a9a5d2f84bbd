//! A snapshot: copies every value in key order into a file while writes go on.
//!
//! Promises: the snapshot begins with a journal position that was taken before the first value was read, so the journal
//! after that position has everything that the file lacks. All tombstones stay meanwhile: a batch that was incomplete at
//! that position may need them in a store built from the snapshot.

use super::task::{Action, DONE, Event, FAILED, Machine, OnStore};

/// A snapshot being taken.
#[derive(Debug, Default)]
pub struct SnapshotTask(At);

/// What was asked for last.
#[derive(Debug, Clone, Copy, Default)]
enum At {
    #[default]
    Start,
    KeepTombstones,
    Mark,
    Begin,
    Page,
    Finish,
    Ended,
}

impl Machine for SnapshotTask {
    fn step(&mut self, event: Event) -> Action {
        let (at, action) = match (std::mem::replace(&mut self.0, At::Ended), event) {
            (At::Start, Event::Done) => (At::KeepTombstones, Action::KeepTombstones),
            (At::KeepTombstones, Event::Done) => (At::Mark, Action::Mark),
            (At::Mark, Event::Marked(mark)) => (At::Begin, Action::BeginSnapshot(mark)),
            (At::Begin, Event::Done) | (At::Page, Event::Page { more: true }) => {
                (At::Page, Action::OnStore(OnStore::SnapshotPage))
            }
            (At::Page, Event::Page { more: false }) => (At::Finish, Action::OnStore(OnStore::FinishSnapshot)),
            (At::Finish, Event::Done) => (At::Ended, DONE),
            _ => (At::Ended, FAILED),
        };
        self.0 = at;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::Trouble;
    use super::super::task::tests::{check, mark, page};
    use super::*;
    use Event::{Done, Failed};

    #[test]
    fn every_page_comes_behind_the_mark() {
        check(
            SnapshotTask::default(),
            &[Done, Done, mark(9), Done, page(true), page(false), Done],
            "KeepTombstones, Mark, BeginSnapshot 9, SnapshotPage, SnapshotPage, FinishSnapshot, done",
        );
    }

    #[test]
    fn it_ends_wherever_it_fails() {
        let check = |events: &[Event], expected| check(SnapshotTask::default(), events, expected);
        for trouble in [Trouble::Stopping, Trouble::DiskFull, Trouble::Other] {
            let failed = || Failed(trouble);
            check(&[Done, Done, failed()], "KeepTombstones, Mark, failed");
            check(&[Done, Done, mark(9), failed()], "KeepTombstones, Mark, BeginSnapshot 9, failed");
            check(
                &[Done, Done, mark(9), Done, failed(), Done],
                "KeepTombstones, Mark, BeginSnapshot 9, SnapshotPage, failed, failed",
            );
        }
    }
}
