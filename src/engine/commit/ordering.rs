//! How far the order of several nodes is applied, and what goes with that: which offers were seen, and the sum over what was
//! decided.
//!
//! Promises: depends on nothing but the requests before it, so it is the same on every node that stands at the same place.
//! It is journaled with each group, and a restart finds it as it was.

use super::decided::Decided;
use super::request::{Answer, Placed};
use crate::journal::entry::{OrderEntry, OrderState, RunOffered};
use crate::model::seq::{Millis, Seq};
use crate::order::record::RunId;
use crate::order::{Offset, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a run is remembered after its last request. Kafka repeats a record within seconds.
const RUN_LASTS_MS: u64 = 24 * 60 * 60 * 1000;

/// How many records lie between two offsets at which nodes compare their sums.
const MARK_RECORDS: u64 = 256;

/// What a node does that cannot journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It waited, and tries again.
    TryAgain,
    /// It is stopping.
    Stop,
}

/// Waits while the node cannot journal, for this reason.
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

/// The last request of a run, and its time.
type Offered = (u64, Millis);

/// How far the order is applied.
pub struct Ordering {
    place: Option<Place>,
    /// The sum of the record at that place.
    record_crc32c: u32,
    checksum: u32,
    /// The sum over all requests of the records before an offset, for the last such offset that is a multiple of
    /// [`MARK_RECORDS`]: what nodes compare, wherever each of them is.
    mark: Option<(Offset, u32)>,
    runs: BTreeMap<RunId, Offered>,
    /// The latest time that the order gave so far.
    latest: Millis,
    /// The runs whose requests the group has that is being decided.
    changed: BTreeSet<RunId>,
    stand: Stand,
}

impl Ordering {
    /// Goes on from what was journaled; from the beginning of the order if that is nothing.
    pub fn after(state: OrderState, stand: Stand) -> Self {
        let runs: BTreeMap<RunId, Offered> =
            state.runs.iter().map(|one| (one.run, (one.number, Millis(one.at_ms)))).collect();
        let latest = runs.values().map(|(_, at)| *at).max().unwrap_or_default();
        let OrderState { place, record_crc32c, checksum, .. } = state;
        let mark = None;
        Self { place, record_crc32c, checksum, mark, runs, latest, changed: BTreeSet::new(), stand }
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

    /// Waits while the node cannot journal.
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
        Ok(self.runs.get(&placed.run).is_some_and(|(number, _)| placed.number <= *number))
    }

    /// Notes that a request is decided, so, and which seq was given out last.
    pub(super) fn note(&mut self, placed: &Placed, last: Seq, one: &Decided) {
        let section = |offset: Offset| offset.0 / MARK_RECORDS;
        let now = section(placed.place.offset);
        if self.place.is_some_and(|place| section(place.offset) < now) {
            self.mark = Some((Offset(now * MARK_RECORDS), self.checksum));
        }
        (self.place, self.record_crc32c) = (Some(placed.place), placed.record_crc32c);
        self.latest = self.latest.max(placed.time);
        self.runs.insert(placed.run, (placed.number, placed.time));
        self.changed.insert(placed.run);
        let mut sum = self.checksum;
        let mut add = |bytes: &[u8]| sum = crc32c::crc32c_append(sum, bytes);
        add(&placed.place.offset.0.to_le_bytes());
        add(&placed.place.within.to_le_bytes());
        add(&last.get().to_le_bytes());
        add(&[answer_code(one)]);
        // Other values depend on how far applying is.
        for put in one.puts.iter().filter(|put| put.now.applied_seq().is_ok_and(|seq| seq == last)) {
            add(put.key.as_bytes());
            add(put.now.as_slice());
        }
        self.checksum = sum;
    }

    /// Notes that a request was skipped.
    pub(super) fn note_skipped(&mut self, placed: &Placed) {
        (self.place, self.record_crc32c) = (Some(placed.place), placed.record_crc32c);
        self.changed.insert(placed.run);
    }

    /// What is journaled with the group; none if the group has no request of the order.
    pub(super) fn entry(&mut self, last: Seq) -> Option<OrderEntry> {
        if self.changed.is_empty() {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let offered =
            |run: RunId| self.runs.get(&run).map(|&(number, at)| RunOffered { run, number, at_ms: at.0 });
        let runs = changed.into_iter().filter_map(offered).collect();
        let entry = OrderEntry {
            place: self.place.unwrap_or_default(),
            record_crc32c: self.record_crc32c,
            last_seq: last.get(),
            checksum: self.checksum,
            runs,
        };
        self.forget_old();
        Some(entry)
    }

    /// All of it, for a checkpoint.
    pub fn state(&self, last: Seq) -> OrderState {
        let one = |(&run, &(number, at)): (&RunId, &Offered)| RunOffered { run, number, at_ms: at.0 };
        OrderState {
            place: self.place,
            record_crc32c: self.record_crc32c,
            last_seq: last.get(),
            checksum: self.checksum,
            runs: self.runs.iter().map(one).collect(),
        }
    }

    fn forget_old(&mut self) {
        let latest = self.latest;
        self.runs.retain(|_, (_, at)| at.plus(RUN_LASTS_MS) >= latest);
    }
}

/// Adds what a group journaled to the state of a checkpoint.
pub fn add_entry(state: &mut OrderState, entry: OrderEntry) {
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
