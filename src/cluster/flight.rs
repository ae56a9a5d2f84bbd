//! The events that are on their way to a topic, and up to which place all are there.
//!
//! Promises: a place is given out only once every event up to it is acknowledged. What is on its way is bounded.

use crate::engine::read::changes::ChangePlace;
use crate::model::seq::Millis;
use crate::order::{Appended, OrderError};
use crate::sync::unpoisoned;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The most events on their way.
const EVENTS_MAX: usize = 2_000;
/// The most bytes of them. A larger event goes alone.
const BYTES_MAX: usize = 4 << 20;

/// What is on its way.
pub(super) struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// In the order of places.
    events: VecDeque<Flying>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    landed: ChangePlace,
    failed: Option<OrderError>,
}

struct Flying {
    place: ChangePlace,
    bytes: usize,
    /// How many of its records are not acknowledged.
    records: usize,
}

impl Flight {
    /// A flight of what comes after a place.
    pub(super) fn from(place: ChangePlace) -> Arc<Self> {
        let state = State { events: VecDeque::new(), first: 0, bytes: 0, landed: place, failed: None };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Whether there is room for one more event; if not, waits for so long at most. An error if one has failed.
    pub(super) fn has_room(&self, at_most: Duration) -> Result<bool, OrderError> {
        let is_full = |state: &State| {
            state.failed.is_none() && (state.events.len() >= EVENTS_MAX || state.bytes >= BYTES_MAX)
        };
        let state = unpoisoned(self.state.lock());
        let (state, _) = unpoisoned(self.changed.wait_timeout_while(state, at_most, |state| is_full(state)));
        state.failed.clone().map_or_else(|| Ok(!is_full(&state)), Err)
    }

    /// Waits until nothing is on its way, for so long at most, or until one has failed.
    pub(super) fn wait_for_rest(&self, at_most: Duration) {
        let is_flying = |state: &mut State| state.failed.is_none() && !state.events.is_empty();
        let state = unpoisoned(self.state.lock());
        drop(self.changed.wait_timeout_while(state, at_most, is_flying));
    }

    /// Notes an event that goes in so many records. Gives what each of them calls.
    pub(super) fn begin(
        self: &Arc<Self>,
        place: ChangePlace,
        bytes: usize,
        records: usize,
    ) -> impl Fn() -> Appended + use<> {
        let mut state = unpoisoned(self.state.lock());
        let number = state.first + u64::try_from(state.events.len()).unwrap_or_default();
        state.events.push_back(Flying { place, bytes, records });
        state.bytes += bytes;
        drop(state);
        let flight = Arc::clone(self);
        move || {
            let flight = Arc::clone(&flight);
            Box::new(move |outcome| flight.heard(number, outcome.map(drop)))
        }
    }

    /// Notes that there is nothing to tell up to a place.
    pub(super) fn pass(&self, place: ChangePlace) {
        let mut state = unpoisoned(self.state.lock());
        if state.events.back().map_or(state.landed, |last| last.place) != place {
            state.events.push_back(Flying { place, bytes: 0, records: 0 });
            state.settle();
        }
    }

    fn heard(&self, number: u64, outcome: Result<(), OrderError>) {
        let mut state = unpoisoned(self.state.lock());
        let at = number.checked_sub(state.first).and_then(|at| usize::try_from(at).ok());
        match outcome {
            Ok(()) => {
                if let Some(flying) = at.and_then(|at| state.events.get_mut(at)) {
                    flying.records = flying.records.saturating_sub(1);
                }
                state.settle();
            }
            Err(error) => state.failed = state.failed.take().or(Some(error)),
        }
        self.changed.notify_all();
    }

    /// Every event up to here is acknowledged.
    pub(super) fn landed(&self) -> ChangePlace {
        unpoisoned(self.state.lock()).landed
    }

    /// When the oldest event was that is on its way.
    pub(super) fn oldest(&self) -> Option<Millis> {
        unpoisoned(self.state.lock()).events.front().map(|flying| flying.place.seq.millis())
    }
}

impl State {
    fn settle(&mut self) {
        while self.events.front().is_some_and(|flying| flying.records == 0)
            && let Some(landed) = self.events.pop_front()
        {
            self.first += 1;
            self.bytes -= landed.bytes;
            self.landed = landed.place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seq::Seq;
    use crate::order::Offset;

    fn at(seq: u64) -> ChangePlace {
        ChangePlace::behind(Seq::from_u64(seq))
    }

    #[test]
    fn a_place_is_passed_only_once_all_before_it_is_acknowledged() {
        let flight = Flight::from(at(1));
        let [two, three] = [(2, 2), (3, 1)].map(|(seq, records)| flight.begin(at(seq), 10, records));
        flight.pass(at(4));
        let landed = |done: Appended| {
            done(Ok(Offset(0)));
            flight.landed()
        };
        assert_eq!(landed(three()), at(1));
        assert_eq!(landed(two()), at(1), "one of its two records is missing");
        assert_eq!(landed(two()), at(4));
        flight.pass(at(4));
        assert_eq!(flight.oldest(), None);
    }

    #[test]
    fn what_is_on_its_way_is_bounded_and_a_failure_is_told() {
        let flight = Flight::from(at(1));
        let done = flight.begin(at(2), BYTES_MAX, 1);
        assert_eq!(flight.has_room(Duration::ZERO), Ok(false));
        done()(Ok(Offset(0)));
        assert_eq!(flight.has_room(Duration::ZERO), Ok(true));
        let refused = OrderError::Refused("no".into());
        flight.begin(at(3), 1, 1)()(Err(refused.clone()));
        assert_eq!(flight.has_room(Duration::from_secs(60)), Err(refused));
        assert_eq!(flight.landed(), at(2));
    }
}
