//! A writer: applies parts of a batch until none is left, one chunk of rows after the other.
//!
//! Promises: before each chunk the writer waits for its turn (R10) and checks that the batch may still be applied. If only the
//! commit thread can decide a chunk, the writer has it resolve the rows and then applies the chunk again.

use super::apply::Unapplied;
use crate::model::id::Key;
use std::ops::Range;

/// A batch is split by key range into parts of about this many rows.
const PART_ROWS: usize = 4096;

/// The parts of a batch that no writer has taken. One writer takes them from the front, the other from the back, until
/// they meet: rows that cost little, such as those of unknown visitors, lie together.
#[derive(Debug)]
pub struct Parts {
    left: Range<usize>,
    of: usize,
}

impl Parts {
    /// The parts of a batch with `rows` rows. Each writer gets at least one.
    pub fn of_rows(rows: usize, writers: usize) -> Self {
        let of = rows.div_ceil(PART_ROWS).max(writers);
        Self { left: 0..of, of }
    }

    /// Takes the next part; none if all are taken.
    pub fn take(&mut self, from_back: bool) -> Option<usize> {
        if from_back { self.left.next_back() } else { self.left.next() }
    }

    /// How many parts there are in all.
    pub fn of(&self) -> usize {
        self.of
    }

    /// Leaves no part to take, because the batch starts over.
    pub fn give_up(&mut self) {
        self.left = 0..0;
    }
}

/// What a writer wants done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take the next part. Gives [`Event::Part`] or [`Event::NoPart`].
    TakePart,
    /// Wait until the next chunk may be applied. Fails with [`Unapplied::Rebuilding`], [`Unapplied::Held`] or
    /// [`Unapplied::Stopping`] as soon as it may not be applied at all.
    WaitForTurn,
    /// Apply the next chunk of the part. Gives [`Event::Applied`] or [`Event::Unresolved`].
    ApplyChunk,
    /// Have the commit thread resolve the pending rows of these visitors.
    Resolve(Vec<Key>),
    /// All parts are taken and applied.
    End,
    /// The writer stops, and so must the others: no part is to be taken any more.
    GiveUp(Unapplied),
}

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is done.
    Done,
    /// A part was taken.
    Part {
        /// Whether it has no rows.
        empty: bool,
    },
    /// No part is left.
    NoPart,
    /// A chunk is in the store.
    Applied {
        /// Whether it was the last of its part.
        last: bool,
    },
    /// Only the commit thread can decide rows of these visitors.
    Unresolved(Vec<Key>),
    /// It could not be done.
    Failed(Unapplied),
}

/// A writer.
#[derive(Debug, Default)]
pub struct Writer(At);

/// What was asked for last.
#[derive(Debug, Clone, Copy, Default)]
enum At {
    #[default]
    Start,
    TakePart,
    WaitForTurn,
    ApplyChunk,
    Resolve,
    Ended,
}

impl Writer {
    /// Takes what the last action came to, and gives the next. The first event is [`Event::Done`].
    pub fn step(&mut self, event: Event) -> Action {
        let (at, action) = match (std::mem::replace(&mut self.0, At::Ended), event) {
            (_, Event::Failed(why)) => (At::Ended, Action::GiveUp(why)),
            (At::Start, Event::Done)
            | (At::TakePart, Event::Part { empty: true })
            | (At::ApplyChunk, Event::Applied { last: true }) => (At::TakePart, Action::TakePart),
            (At::TakePart, Event::NoPart) => (At::Ended, Action::End),
            (At::TakePart, Event::Part { empty: false })
            | (At::ApplyChunk, Event::Applied { last: false })
            | (At::Resolve, Event::Done) => (At::WaitForTurn, Action::WaitForTurn),
            (At::WaitForTurn, Event::Done) => (At::ApplyChunk, Action::ApplyChunk),
            (At::ApplyChunk, Event::Unresolved(keys)) => (At::Resolve, Action::Resolve(keys)),
            (at, event) => {
                let why = format!("a writer got {event:?} at {at:?}");
                (At::Ended, Action::GiveUp(Unapplied::Refused(why)))
            }
        };
        self.0 = at;
        action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Event = Event::Part { empty: false };
    const MORE: Event = Event::Applied { last: false };
    const LAST: Event = Event::Applied { last: true };

    #[track_caller]
    fn check(events: &[Event], expected: &str) {
        let mut writer = Writer::default();
        let wants: Vec<String> =
            events.iter().map(|event| format!("{:?}", writer.step(event.clone()))).collect();
        assert_eq!(wants.join(", "), expected);
    }

    #[test]
    fn parts_are_applied_chunk_by_chunk_until_none_is_left() {
        use Event::{Done, NoPart, Part, Unresolved};
        check(&[Done, NoPart], "TakePart, End");
        check(&[Done, Part { empty: true }, NoPart], "TakePart, TakePart, End");
        check(&[Done, PART, Done, LAST, NoPart], "TakePart, WaitForTurn, ApplyChunk, TakePart, End");
        check(
            &[Done, PART, Done, MORE, Done, LAST],
            "TakePart, WaitForTurn, ApplyChunk, WaitForTurn, ApplyChunk, TakePart",
        );
        check(
            &[Done, PART, Done, Unresolved(vec![]), Done, Done, LAST],
            "TakePart, WaitForTurn, ApplyChunk, Resolve([]), WaitForTurn, ApplyChunk, TakePart",
        );
    }

    #[test]
    fn a_writer_gives_up_wherever_it_is() {
        use Event::{Done, Failed, Unresolved};
        let turn = |why| [Done, PART, Failed(why)];
        check(&turn(Unapplied::Held), "TakePart, WaitForTurn, GiveUp(Held)");
        check(&turn(Unapplied::Rebuilding), "TakePart, WaitForTurn, GiveUp(Rebuilding)");
        check(&turn(Unapplied::Stopping), "TakePart, WaitForTurn, GiveUp(Stopping)");
        check(
            &[Done, PART, Done, Failed(Unapplied::Held)],
            "TakePart, WaitForTurn, ApplyChunk, GiveUp(Held)",
        );
        check(
            &[Done, PART, Done, Unresolved(vec![]), Failed(Unapplied::Stopping)],
            "TakePart, WaitForTurn, ApplyChunk, Resolve([]), GiveUp(Stopping)",
        );
        check(
            &[Done, MORE],
            "TakePart, GiveUp(Refused(\"a writer got Applied { last: false } at TakePart\"))",
        );
    }

    #[test]
    fn two_writers_take_parts_from_both_ends() {
        let mut parts = Parts::of_rows(5 * PART_ROWS, 2);
        assert_eq!([false, true, false, false, true].map(|back| parts.take(back)), [0, 4, 1, 2, 3].map(Some));
        assert_eq!([parts.take(false), parts.take(true)], [None, None]);
        assert_eq!(Parts::of_rows(0, 2).of(), 2);
        let mut parts = Parts::of_rows(9, 3);
        assert_eq!(parts.take(false), Some(0));
        parts.give_up();
        assert_eq!(parts.take(true), None);
    }
}
