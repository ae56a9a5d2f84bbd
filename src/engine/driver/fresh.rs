//! A fresh store: filled beside the one in use while both get every change, then swapped in. It serves space and
//! erasure (R12).
//!
//! ```text
//! FreshTask    find the erased ─► overwrite their rows ─► begin ─► copy ─► lock: mark, make durable, note, check, adopt,
//!              swap in ─► remove the store before it
//! ForgetTask   once erased visitors are gone from the store: new snapshots only, and no journal from before
//! ```
//!
//! Promises: a restart finds a store that lacks nothing, whichever of the two it finds: the fresh one is adopted after it
//! was made durable and its checkpoint written beside it. Before that a failure changes nothing. After
//! it a failure stops the daemon, because a restart may find a store that gets no writes.

use super::task::{Action, DONE, Event, FAILED, Machine, OnStore, Trouble};
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::model::seq::Seq;

/// How many snapshots are kept. The second one helps if the first is damaged.
pub const SNAPSHOTS_KEPT: usize = 2;

/// A fresh store being made.
#[derive(Debug, Default)]
pub struct FreshTask(At);

/// What was asked for last.
#[derive(Debug, Default)]
enum At {
    #[default]
    Start,
    WaitForPending,
    FindErased,
    CountErased,
    Overwrite,
    NoteErasing,
    Begin,
    Copy,
    Lock,
    Mark,
    MakeDurable(Checkpoint),
    Note(Seq),
    Check(Seq),
    Adopt(Seq),
    SwapIn(Seq),
    Cover,
    Unlock,
    RemoveFormer,
    /// The task gives the fresh store up. Says whether its files may be removed.
    GivingUp(bool),
    Ended,
}

impl At {
    /// What follows a failure there.
    fn failed(self, trouble: Trouble) -> (Self, Action) {
        let abandon = |remove| (Self::Ended, Action::Abandon { remove });
        match self {
            Self::Begin | Self::Copy | Self::Lock | Self::Mark | Self::Note(_) | Self::Check(_) => {
                abandon(true)
            }
            Self::MakeDurable(_) => (Self::GivingUp(false), Action::Distrust),
            Self::Adopt(_) if trouble != Trouble::Uncertain => abandon(true),
            Self::Adopt(_) | Self::SwapIn(_) => (Self::GivingUp(false), Action::GiveUp),
            Self::GivingUp(remove) => abandon(remove),
            _ => (Self::Ended, FAILED),
        }
    }
}

impl Machine for FreshTask {
    fn step(&mut self, event: Event) -> Action {
        let on = Action::OnStore;
        let (at, action) = match (std::mem::replace(&mut self.0, At::Ended), event) {
            (At::Start, Event::Done) => (At::WaitForPending, Action::WaitForPending),
            (At::WaitForPending, Event::Done) | (At::FindErased, Event::Page { more: true }) => {
                (At::FindErased, on(OnStore::ErasedPage))
            }
            (At::FindErased, Event::Page { more: false }) => (At::CountErased, on(OnStore::CountErased)),
            (At::CountErased, Event::Erased(1..)) => (At::Overwrite, Action::Overwrite),
            // Without the tombstones, only this file tells a restart that old files hold the visitors' bytes.
            (At::Overwrite, Event::Done) => (At::NoteErasing, Action::NoteErasing),
            (At::CountErased, Event::Erased(0)) | (At::NoteErasing, Event::Done) => {
                (At::Begin, Action::BeginFresh)
            }
            (At::Begin, Event::Done) | (At::Copy, Event::Page { more: true }) => {
                (At::Copy, on(OnStore::CopyPage))
            }
            (At::Copy, Event::Page { more: false }) => (At::Lock, Action::LockStore),
            (At::Lock, Event::Done) => (At::Mark, Action::Mark),
            // Both stores are made durable: a restart may find either, and it must contain every completed batch.
            (At::Mark, Event::Marked(mark)) => (At::MakeDurable(mark), on(OnStore::MakeDurable)),
            (At::MakeDurable(mark), Event::Durable(reach)) => {
                let mark = Checkpoint { store_reach: reach.0, ..mark };
                (At::Note(Seq::from_u64(mark.last_seq)), Action::NoteFresh(mark))
            }
            (At::Note(last), Event::Done) => (At::Check(last), on(OnStore::CheckFresh)),
            (At::Check(last), Event::Done) => (At::Adopt(last), Action::Adopt),
            (At::Adopt(last), Event::Done) => (At::SwapIn(last), on(OnStore::SwapIn)),
            (At::SwapIn(last), Event::Done) => (At::Cover, Action::Cover(last)),
            (At::Cover, Event::Done) => (At::Unlock, Action::UnlockStore),
            (At::Unlock, Event::Done) => (At::RemoveFormer, Action::RemoveFormer),
            (At::RemoveFormer, Event::Done) => (At::Ended, DONE),
            (At::GivingUp(remove), Event::Done) => (At::Ended, Action::Abandon { remove }),
            (at, Event::Failed(trouble)) => at.failed(trouble),
            _ => (At::Ended, FAILED),
        };
        self.0 = at;
        action
    }
}

/// Removes the files that are older than the removal of erased visitors from the store.
#[derive(Debug, Default)]
pub struct ForgetTask(Forget);

/// What was asked for last.
#[derive(Debug, Default)]
enum Forget {
    #[default]
    Start,
    Rotate,
    Mark,
    WaitForPending(Position),
    Snapshot(usize, Position),
    Check,
    NoteErased,
    Ended,
}

impl Machine for ForgetTask {
    fn step(&mut self, event: Event) -> Action {
        use Forget::{Check, Ended, Mark, NoteErased, Rotate, Snapshot, Start, WaitForPending};
        let (at, action) = match (std::mem::replace(&mut self.0, Ended), event) {
            (Start, Event::Done) => (Rotate, Action::Rotate),
            (Rotate, Event::Done) => (Mark, Action::Mark),
            (Mark, Event::Marked(mark)) => {
                (WaitForPending(Position::from_pair(mark.position)), Action::WaitForPending)
            }
            (WaitForPending(from), Event::Done) => (Snapshot(1, from), Action::TakeSnapshot),
            (Snapshot(SNAPSHOTS_KEPT, from), Event::Done) => (Check, Action::CheckForgotten(from)),
            (Snapshot(taken, from), Event::Done) => (Snapshot(taken + 1, from), Action::TakeSnapshot),
            (Check, Event::Done) => (NoteErased, Action::NoteErased),
            (NoteErased, Event::Done) => (Ended, DONE),
            _ => (Ended, FAILED),
        };
        self.0 = at;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::tests::{check, mark, page};
    use super::*;
    use crate::store::Reach;
    use Event::{Done, Durable, Erased, Failed};

    /// The events of a whole run.
    fn all(erased: usize) -> Vec<Event> {
        let found = [Done, Done, page(true), page(false), Erased(erased)];
        let overwritten = std::iter::repeat_n(Done, if erased > 0 { 2 } else { 0 });
        let rest = [Done, page(true), page(false), Done, mark(9), Durable(Reach(4))];
        found.into_iter().chain(overwritten).chain(rest).chain(std::iter::repeat_n(Done, 7)).collect()
    }

    const FOUND: &str = "WaitForPending, ErasedPage, ErasedPage, CountErased";
    const FILLED: &str = "BeginFresh, CopyPage, CopyPage, LockStore, Mark";
    const IN_USE: &str =
        "MakeDurable, NoteFresh 9 at 4, CheckFresh, Adopt, SwapIn, Cover 9, UnlockStore, RemoveFormer";

    #[test]
    fn a_fresh_store_is_adopted_once_it_is_durable_noted_and_lacks_nothing() {
        check(FreshTask::default(), &all(0), &format!("{FOUND}, {FILLED}, {IN_USE}, done"));
        check(
            FreshTask::default(),
            &all(2),
            &format!("{FOUND}, Overwrite, NoteErasing, {FILLED}, {IN_USE}, done"),
        );
    }

    /// What the task wants once the n-th action of a run failed so, and after the events behind that.
    #[track_caller]
    fn failing(at: &str, trouble: Trouble, expected: &str) {
        let order = format!("{FOUND}, Overwrite, NoteErasing, {FILLED}, {IN_USE}");
        let before: Vec<&str> = order.split(", ").take_while(|action| !action.starts_with(at)).collect();
        let (mut task, events) = (FreshTask::default(), all(1));
        events.into_iter().take(before.len() + 1).for_each(|event| _ = task.step(event));
        let done = expected.split(", ").skip(1).map(|_| Done);
        let events: Vec<Event> = std::iter::once(Failed(trouble)).chain(done).collect();
        check(task, &events, expected);
    }

    #[test]
    fn what_follows_a_failure() {
        for trouble in [Trouble::Stopping, Trouble::DiskFull, Trouble::Other] {
            for at in ["WaitForPending", "ErasedPage", "Overwrite", "NoteErasing"] {
                failing(at, trouble, "failed, failed");
            }
            for at in ["BeginFresh", "CopyPage", "LockStore", "Mark", "NoteFresh", "CheckFresh", "Adopt"] {
                failing(at, trouble, "Abandon and remove, failed");
            }
            failing("MakeDurable", trouble, "Distrust, Abandon, failed");
            failing("SwapIn", trouble, "GiveUp, Abandon, failed");
        }
        failing("Adopt", Trouble::Uncertain, "GiveUp, Abandon, failed");
    }

    #[test]
    fn what_was_erased_is_forgotten_once_two_new_snapshots_need_nothing_from_before() {
        let forget = "Rotate, Mark, WaitForPending, TakeSnapshot, TakeSnapshot, CheckForgotten";
        let events = [Done, Done, mark(9), Done, Done, Done];
        let and = |more: &[Event]| [&events[..], more].concat();
        check(ForgetTask::default(), &and(&[Done, Done]), &format!("{forget}, NoteErased, done"));
        check(ForgetTask::default(), &and(&[Failed(Trouble::Other)]), &format!("{forget}, failed"));
        check(ForgetTask::default(), &[Done, Failed(Trouble::Stopping)], "Rotate, failed");
    }
}
