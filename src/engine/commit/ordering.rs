//! How far the order of several nodes is applied, and what goes with that: which offers were seen, and the sum over what was
//! decided.
//!
//! Promises: depends on nothing but the requests before it, so it is the same on every node that stands at the same place.
//! It is journaled with each group, and a restart finds it as it was.

use super::decided::{Decided, Put};
use super::request::{Answer, Placed};
use crate::journal::entry::{Entry, OrderEntry, OrderState, RunOffered};
use crate::model::seq::{Millis, Seq};
use crate::order::record::{ClusterId, RunId};
use crate::order::{Offset, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many runs are remembered: those that offered something last. Time is no measure, as no restart would find it again.
const RUNS_MAX: usize = 1024;

/// How many records lie between two offsets at which nodes compare their sums.
const MARK_RECORDS: u64 = 256;

/// What a node does that cannot apply what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waited, and tries again.
    TryAgain,
    /// It is stopping.
    Stop,
}

/// Waits while the node cannot apply what comes next, for this reason.
pub type Stand = Arc<dyn Fn(&str) -> Standing + Send + Sync>;

/// How far the order is applied, for those who watch.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct OrderedUpTo {
    /// The place of the last request.
    pub(in crate::engine) place: Place,
    /// The latest time that the order gave so far.
    pub(in crate::engine) latest: Millis,
    /// The sum over all that was decided.
    pub(in crate::engine) checksum: u32,
    /// The sum over all before an offset that every node passes.
    pub(in crate::engine) mark: Option<(Offset, u32)>,
}

/// The runs that offered something, each with its last request. Whoever sees the same requests in the same order has the same.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Runs {
    last: BTreeMap<RunId, Offered>,
    noted: u64,
}

/// The last request of a run.
#[derive(Debug, Clone, Copy)]
struct Offered {
    number: u64,
    at: Millis,
    /// How many were noted before it.
    noted: u64,
}

impl Runs {
    /// Of a list that has those who offered something last at its end.
    pub(in crate::engine) fn of(list: &[RunOffered]) -> Self {
        let mut runs = Self::default();
        list.iter().for_each(|one| runs.note(one.run, one.number, Millis(one.at_ms)));
        runs
    }

    /// Whether a request stood in the order before, or a later one of its run did.
    pub(in crate::engine) fn have(&self, run: RunId, number: u64) -> bool {
        self.last.get(&run).is_some_and(|last| number <= last.number)
    }

    /// Notes a request that did not.
    pub(in crate::engine) fn note(&mut self, run: RunId, number: u64, at: Millis) {
        let noted = self.noted;
        self.noted += 1;
        self.last.insert(run, Offered { number, at, noted });
        if self.last.len() > RUNS_MAX
            && let Some(oldest) = self.last.iter().min_by_key(|(_, last)| last.noted).map(|(run, _)| *run)
        {
            self.last.remove(&oldest);
        }
    }

    /// These of them, and at the end those that offered something last.
    fn list(&self, among: impl Fn(&RunId) -> bool) -> Vec<RunOffered> {
        let mut found: Vec<_> = self.last.iter().filter(|(run, _)| among(run)).collect();
        found.sort_unstable_by_key(|(_, last)| last.noted);
        let one =
            |(&run, last): (&RunId, &Offered)| RunOffered { run, number: last.number, at_ms: last.at.0 };
        found.into_iter().map(one).collect()
    }
}

/// How far the order is applied.
pub struct Ordering {
    cluster: ClusterId,
    place: Option<Place>,
    /// The sum of the record at that place.
    record_crc32c: u32,
    checksum: u32,
    /// The sum over all requests of the records before an offset, for the last such offset that is a multiple of
    /// [`MARK_RECORDS`]: what nodes compare, wherever each of them is.
    mark: Option<(Offset, u32)>,
    runs: Runs,
    /// The latest time that the order gave so far.
    latest: Millis,
    /// The runs whose requests the group has that is being decided.
    changed: BTreeSet<RunId>,
    /// Whether that group has any request of the order, be it one to skip.
    moved: bool,
    stand: Stand,
}

impl Ordering {
    /// Goes on from what was journaled; from the beginning of the order if that is nothing.
    pub fn after(state: OrderState, stand: Stand) -> Self {
        let latest = state.runs.iter().map(|one| Millis(one.at_ms)).max().unwrap_or_default();
        let runs = Runs::of(&state.runs);
        let OrderState { cluster, place, record_crc32c, checksum, .. } = state;
        let (mark, changed, moved) = (None, BTreeSet::new(), false);
        Self { cluster, place, record_crc32c, checksum, mark, runs, latest, changed, moved, stand }
    }

    /// The place of the last request that is applied.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// The sum over all that was decided.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// How far it is applied; none if nothing is.
    pub(in crate::engine) fn up_to(&self) -> Option<OrderedUpTo> {
        let (place, latest, checksum, mark) = (self.place?, self.latest, self.checksum, self.mark);
        Some(OrderedUpTo { place, latest, checksum, mark })
    }

    /// Waits while the node cannot apply what comes next.
    pub(super) fn stand(&self, why: &str) -> Standing {
        (self.stand)(why)
    }

    /// Whether a request stood in the order before. An error if it does not come behind the last one.
    pub(super) fn skips(&self, placed: &Placed) -> Result<bool, String> {
        if self.place.is_some_and(|place| placed.place <= place) {
            return Err(format!(
                "the order gave the request at {} after the one at {}",
                placed.place,
                self.place.unwrap_or_default()
            ));
        }
        Ok(self.runs.have(placed.run, placed.number))
    }

    /// Notes that a request is decided, so, and which seq was given out last.
    pub(super) fn note(&mut self, placed: &Placed, last: Seq, one: &Decided) {
        self.move_to(placed);
        self.latest = self.latest.max(placed.time);
        self.runs.note(placed.run, placed.number, placed.time);
        self.changed.insert(placed.run);
        let mut sum = self.checksum;
        let mut add = |bytes: &[u8]| sum = crc32c::crc32c_append(sum, bytes);
        add(&placed.place.offset.0.to_le_bytes());
        add(&placed.place.within.to_le_bytes());
        add(&last.get().to_le_bytes());
        add(&[answer_code(one)]);
        // What became of the token depends on the tokens that only this node has.
        if let Some(token) = &one.token {
            add(&token.sum().to_le_bytes());
        }
        // Other values depend on how far applying is, also those of a batch that has the last seq.
        let own = one.entry.as_ref().map_or(Seq::ZERO, Entry::seq);
        let written = |put: &&Put| own > Seq::ZERO && put.now.applied_seq().is_ok_and(|seq| seq == own);
        let mut puts: Vec<&Put> = one.puts.iter().filter(written).collect();
        // The order in which they are put depends on what they replace, and so on how far applying is.
        puts.sort_unstable_by_key(|put| &put.key);
        for put in puts {
            add(put.key.as_bytes());
            add(put.now.as_slice());
        }
        self.checksum = sum;
    }

    /// Notes that a request was skipped.
    pub(super) fn note_skipped(&mut self, placed: &Placed) {
        self.move_to(placed);
    }

    fn move_to(&mut self, placed: &Placed) {
        let section = |offset: Offset| offset.0 / MARK_RECORDS;
        let now = section(placed.place.offset);
        if self.place.is_some_and(|place| section(place.offset) < now) {
            self.mark = Some((Offset(now * MARK_RECORDS), self.checksum));
        }
        (self.place, self.record_crc32c, self.moved) = (Some(placed.place), placed.record_crc32c, true);
    }

    /// What is journaled with the group; none if the group has no request of the order.
    pub(super) fn entry(&mut self, last: Seq) -> Option<OrderEntry> {
        if !std::mem::take(&mut self.moved) {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        Some(OrderEntry {
            cluster: self.cluster,
            place: self.place.unwrap_or_default(),
            record_crc32c: self.record_crc32c,
            last_seq: last.get(),
            checksum: self.checksum,
            runs: self.runs.list(|run| changed.contains(run)),
        })
    }

    /// All of it, for a checkpoint.
    pub fn state(&self, last: Seq) -> OrderState {
        OrderState {
            cluster: self.cluster,
            place: self.place,
            record_crc32c: self.record_crc32c,
            last_seq: last.get(),
            checksum: self.checksum,
            runs: self.runs.list(|_| true),
        }
    }
}

/// Adds what a group journaled to the state before it. Of another order than the group's, nothing stays.
pub fn add_entry(state: &mut OrderState, entry: OrderEntry) {
    if state.cluster != entry.cluster {
        *state = OrderState { cluster: entry.cluster, ..OrderState::default() };
    }
    (state.place, state.record_crc32c) = (Some(entry.place), entry.record_crc32c);
    state.last_seq = entry.last_seq;
    state.checksum = entry.checksum;
    for offered in entry.runs {
        state.runs.retain(|known| known.run != offered.run);
        state.runs.push(offered);
    }
}

/// A number for what a request was answered.
fn answer_code(one: &Decided) -> u8 {
    match &one.answer {
        Ok(Answer::Written(written)) => 1 + u8::from(written.known) + 2 * u8::from(written.seq.is_some()),
        Ok(Answer::Erased(written, _)) => 5 + u8::from(written.known),
        Ok(Answer::Accepted(_)) => 7,
        Ok(Answer::AcceptedBefore(_)) => 8,
        Ok(Answer::KeyTaken(_)) => 9,
        Ok(_) => 10,
        Err(_) => 11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Scope, TokenChange, Tokens, WantedToken};

    #[test]
    fn of_an_order_that_was_left_nothing_stays() {
        let entry = |cluster, offset, run| OrderEntry {
            cluster: ClusterId([cluster; 16]),
            place: Place { offset: Offset(offset), within: 0 },
            record_crc32c: 7,
            last_seq: 9,
            checksum: 3,
            runs: vec![RunOffered { run: RunId([run; 16]), number: 1, at_ms: 5 }],
        };
        let mut state = OrderState::default();
        for one in [entry(1, 800, 1), entry(1, 801, 2)] {
            add_entry(&mut state, one);
        }
        assert_eq!((state.place.unwrap().offset, state.runs.len()), (Offset(801), 2));
        add_entry(&mut state, entry(2, 4, 3));
        let runs: Vec<RunId> = state.runs.iter().map(|one| one.run).collect();
        assert_eq!((state.cluster, state.place.unwrap().offset), (ClusterId([2; 16]), Offset(4)));
        assert_eq!(runs, [RunId([3; 16])]);
    }

    #[test]
    fn nodes_that_read_another_token_have_another_sum() {
        let revoke = |id: &str| TokenChange::Revoke { id: id.into(), at: Millis(7) };
        let sum = |token: Option<TokenChange>, known: bool| {
            let token_now = known.then(|| {
                let made = Tokens::fresh(&WantedToken::of(None, Scope::Read), Millis(1));
                made.unwrap().0
            });
            let mut order = Ordering::after(OrderState::default(), Arc::new(|_| Standing::Stop));
            let placed = Placed {
                place: Place { offset: Offset(3), within: 0 },
                record_crc32c: 1,
                time: Millis(2),
                run: RunId([1; 16]),
                number: 1,
            };
            let decided = Decided { token, ..Decided::answering(Answer::Token(token_now)) };
            order.note(&placed, Seq::ZERO, &decided);
            order.checksum()
        };
        let one = sum(Some(revoke("1")), true);
        assert_eq!(one, sum(Some(revoke("1")), false), "a node may have tokens of its own");
        assert_ne!(one, sum(Some(revoke("2")), true));
    }

    #[test]
    fn the_runs_that_offered_something_last_are_remembered_also_over_a_restart() {
        let run = |number: u32| {
            let mut run = [0; 16];
            run[..4].copy_from_slice(&number.to_le_bytes());
            RunId(run)
        };
        let mut runs = Runs::default();
        for number in 0..u32::try_from(RUNS_MAX).unwrap() {
            runs.note(run(number), 5, Millis(1));
        }
        runs.note(run(0), 6, Millis(1));
        let mut again = Runs::of(&runs.list(|_| true));
        for runs in [&mut runs, &mut again] {
            assert!(runs.have(run(1), 5) && runs.have(run(0), 6) && !runs.have(run(0), 7));
            runs.note(run(u32::MAX), 0, Millis(1));
            assert!(!runs.have(run(1), 5), "it is the oldest");
            assert!(runs.have(run(0), 6) && runs.have(run(2), 5));
        }
    }
}
