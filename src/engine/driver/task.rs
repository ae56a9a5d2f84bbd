//! What the maintenance tasks have in common: what they want done, and what it came to.

use crate::engine::error::EngineError;
use crate::journal::entry::Checkpoint;
use crate::journal::log::Position;
use crate::model::seq::Seq;
use crate::store::Reach;

/// A maintenance task, step by step.
pub trait Machine {
    /// Takes what the last action came to, and gives the next. The first event is [`Event::Done`].
    fn step(&mut self, event: Event) -> Action;
}

/// What a task wants done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Wait until no other task has the store locked, and lock it until the task ends or unlocks it. While it is locked,
    /// no checkpoint begins and no other store takes its place.
    LockStore,
    /// Unlock the store.
    UnlockStore,
    /// Keep all tombstones in the store until the task ends.
    KeepTombstones,
    /// Ask the commit thread what a checkpoint that begins now covers, and save the catalogue of complete batches.
    /// Gives [`Event::Marked`].
    Mark,
    /// Something that needs only the store, and what the task has in hand.
    OnStore(OnStore),
    /// Write this checkpoint beside the store in use.
    Note(Checkpoint),
    /// Write this checkpoint beside the fresh store.
    NoteFresh(Checkpoint),
    /// Tombstones up to here may go from now on.
    Cover(Seq),

    /// Begin a snapshot's file.
    BeginSnapshot(Checkpoint),

    /// Wait until the batches that are pending now are complete, for a limited time.
    WaitForPending,
    /// Overwrite the rows of erased visitors in kept uploads, and remove what was set aside.
    Overwrite,
    /// Record that older files hold the bytes of erased visitors.
    NoteErasing,
    /// Make the fresh store, empty. From now on it gets every change.
    BeginFresh,
    /// Make the fresh store the one that a restart finds. Fails with [`Trouble::Uncertain`] if a restart may find either.
    Adopt,
    /// The fresh store is in use: remove the one before it.
    RemoveFormer,
    /// Forget the fresh store, and remove its files if they are needed for nothing.
    Abandon {
        /// Whether its files may go.
        remove: bool,
    },
    /// The store could not be made durable: remove its checkpoint and stop the daemon.
    Distrust,
    /// Stop the daemon: a restart may find either of two stores, and only one of them gets what is written.
    GiveUp,

    /// Begin a new journal segment.
    Rotate,
    /// Take a snapshot, and remove what is no longer needed because of it.
    TakeSnapshot,
    /// Fail unless no kept snapshot needs the journal before this position.
    CheckForgotten(Position),
    /// Record that no file holds the bytes of erased visitors any more.
    NoteErased,

    /// Verify the snapshots there are. Gives [`Event::Snapshots`].
    VerifySnapshots,
    /// Remove all snapshots except this many of the newest.
    RemoveSnapshots(usize),
    /// Take a checkpoint.
    TakeCheckpoint,
    /// Read the checkpoint that a restart would begin from. Gives [`Event::Marked`], or [`Event::Done`] if there is none.
    ReadCheckpoint,
    /// Remove the journal that neither this checkpoint nor a kept snapshot needs.
    RetireJournal(Checkpoint),
    /// Remove the batches that neither this checkpoint nor a kept snapshot needs and that are past their retention.
    RetireBatches(Checkpoint),

    /// The task has ended: it is done, or has failed.
    End {
        /// Whether it is done.
        done: bool,
    },
}

/// What a task wants of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum OnStore {
    /// Fail if the store is known to be damaged.
    CheckDamage,
    /// Make it durable. Gives [`Event::Durable`].
    MakeDurable,
    /// Add the next values to it. Gives [`Event::Page`].
    SnapshotPage,
    /// Name the file, and verify it.
    FinishSnapshot,
    /// Look through the next values for erased visitors. Gives [`Event::Page`].
    ErasedPage,
    /// Count the erased visitors that were found. Gives [`Event::Erased`].
    CountErased,
    /// Copy the next values into the fresh store. Gives [`Event::Page`].
    CopyPage,
    /// Fail if the fresh store may lack anything. If it does not, a restart may find it from now on.
    CheckFresh,
    /// Put the fresh store in use.
    SwapIn,
}

/// What an action came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It is done.
    Done,
    /// What a checkpoint covers.
    Marked(Checkpoint),
    /// The store is durable up to this reach.
    Durable(Reach),
    /// Some values are dealt with.
    Page {
        /// Whether there are more.
        more: bool,
    },
    /// This many erased visitors were found.
    Erased(usize),
    /// This many snapshots verify.
    Snapshots(usize),
    /// It could not be done.
    Failed(Trouble),
}

/// Why an action failed: the kinds that a task tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon is stopping.
    Stopping,
    /// The disk is too full.
    DiskFull,
    /// A restart may find either of two stores.
    Uncertain,
    /// Anything else.
    Other,
}

impl From<&EngineError> for Trouble {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Stopping => Self::Stopping,
            EngineError::Full(_) => Self::DiskFull,
            _ => Self::Other,
        }
    }
}

/// The task is done.
pub(super) const DONE: Action = Action::End { done: true };
/// The task has failed, or got an event that does not belong there.
pub(super) const FAILED: Action = Action::End { done: false };

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A word for each action, with what matters of it.
    fn word(action: &Action) -> String {
        match action {
            Action::BeginSnapshot(mark) => format!("BeginSnapshot {}", mark.last_seq),
            Action::OnStore(on_store) => format!("{on_store:?}"),
            Action::Note(mark) => format!("Note {} at {}", mark.last_seq, mark.store_reach),
            Action::NoteFresh(mark) => format!("NoteFresh {} at {}", mark.last_seq, mark.store_reach),
            Action::RetireJournal(mark) => format!("RetireJournal {}", mark.last_seq),
            Action::RetireBatches(mark) => format!("RetireBatches {}", mark.last_seq),
            Action::Cover(seq) => format!("Cover {}", seq.get()),
            Action::Abandon { remove } => format!("Abandon{}", if *remove { " and remove" } else { "" }),
            Action::CheckForgotten(_) => "CheckForgotten".into(),
            Action::End { done } => if *done { "done" } else { "failed" }.into(),
            action => format!("{action:?}"),
        }
    }

    pub(in crate::engine::driver) fn mark(last_seq: u64) -> Event {
        Event::Marked(Checkpoint { last_seq, ..Checkpoint::default() })
    }

    pub(in crate::engine::driver) fn page(more: bool) -> Event {
        Event::Page { more }
    }

    /// What a task wants after each of these events.
    #[track_caller]
    pub(in crate::engine::driver) fn check(mut task: impl Machine, events: &[Event], expected: &str) {
        let wants: Vec<String> = events.iter().map(|event| word(&task.step(event.clone()))).collect();
        assert_eq!(wants.join(", "), expected);
    }
}
