//! Which pieces of files are still needed, and which ones may be deleted.
//!
//! Promises: before [`Needed::before`] lies no piece of a batch that stands in the order at that offset or behind it, and none of
//! an upload that may still be accepted. Where that is not known, it is 0.

use super::Offset;
use super::pieces::UploadId;
use crate::sync::unpoisoned;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// An upload of which nothing was seen for so long is not accepted any more.
pub const UNACCEPTED_LASTS: Duration = Duration::from_secs(3600);

/// Which pieces are still needed.
#[derive(Debug, Default)]
pub struct Needed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The pieces are known from this offset on, since then.
    began: Option<(Offset, Instant)>,
    /// The offset behind the last piece that is known.
    read: Offset,
    /// The order is known from this offset on.
    order_from: Option<Offset>,
    /// Uploads that have begun and that the order does not have yet: their first pieces.
    open: HashMap<UploadId, (Offset, Instant)>,
    /// The first pieces of batches, by their place in the order.
    accepted: VecDeque<(Offset, Offset)>,
    /// Batches whose pieces are still to be read here, and their last pieces.
    ahead: BTreeMap<UploadId, Offset>,
}

impl Needed {
    /// From here on the pieces are read.
    pub fn begins(&self, at: Offset) {
        let mut state = unpoisoned(self.0.lock());
        if state.began.is_none() {
            (state.began, state.read) = (Some((at, Instant::now())), at);
        }
    }

    /// From here on the order is read.
    pub fn order_from(&self, at: Offset) {
        unpoisoned(self.0.lock()).order_from.get_or_insert(at);
    }

    /// A piece of an upload is at this offset.
    pub fn seen(&self, upload: UploadId, at: Offset) {
        let mut state = unpoisoned(self.0.lock());
        if !state.ahead.contains_key(&upload) {
            state.open.entry(upload).or_insert((at, Instant::now())).1 = Instant::now();
        }
    }

    /// An upload was refused.
    pub fn withdrawn(&self, upload: UploadId) {
        unpoisoned(self.0.lock()).open.remove(&upload);
    }

    /// Everything before this offset is read.
    pub fn read(&self, before: Offset) {
        let mut state = unpoisoned(self.0.lock());
        state.read = state.read.max(before);
        state.ahead.retain(|_, last| *last >= before);
    }

    /// Everything before the offset that this gives is read.
    pub fn read_before(&self) -> Offset {
        unpoisoned(self.0.lock()).read
    }

    /// The order has, at this offset, a batch with these first and last pieces.
    pub fn accepted(&self, upload: UploadId, at: Offset, (first, last): (Offset, Offset)) {
        let mut state = unpoisoned(self.0.lock());
        state.open.remove(&upload);
        if last >= state.read {
            state.ahead.insert(upload, last);
        }
        state.accepted.push_back((at, first));
    }

    /// Pieces before this offset are needed by nobody who has everything in the order before `covered`.
    pub fn before(&self, covered: Offset) -> Offset {
        let mut state = unpoisoned(self.0.lock());
        while state.accepted.front().is_some_and(|(at, _)| *at < covered) {
            state.accepted.pop_front();
        }
        state.open.retain(|_, (_, since)| since.elapsed() < UNACCEPTED_LASTS);
        // What came before was not seen here: uploads that were on their way, and batches behind the snapshot.
        let pieces_known =
            state.began.is_some_and(|(at, since)| at == Offset(0) || since.elapsed() >= UNACCEPTED_LASTS);
        let order_known = state.order_from.is_some_and(|from| from <= covered);
        if !pieces_known || !order_known {
            return Offset(0);
        }
        let open = state.open.values().map(|(first, _)| *first);
        let accepted = state.accepted.iter().map(|(_, first)| *first);
        open.chain(accepted).fold(state.read, Offset::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::record::RunId;

    fn upload(number: u64) -> UploadId {
        UploadId { run: RunId([1; 16]), number }
    }

    #[test]
    fn pieces_are_needed_until_a_snapshot_covers_their_batch() {
        let needed = Needed::default();
        assert_eq!(needed.before(Offset(9)), Offset(0), "nothing is known yet");
        needed.begins(Offset(0));
        needed.order_from(Offset(0));
        needed.seen(upload(1), Offset(0));
        needed.seen(upload(2), Offset(1));
        needed.read(Offset(6));
        assert_eq!(needed.before(Offset(0)), Offset(0));
        needed.accepted(upload(1), Offset(5), (Offset(0), Offset(3)));
        assert_eq!(needed.before(Offset(5)), Offset(0), "a snapshot does not cover the batch");
        assert_eq!(needed.before(Offset(6)), Offset(1), "the other upload may still be accepted");
        needed.withdrawn(upload(2));
        assert_eq!(needed.before(Offset(6)), Offset(6), "what comes next is not read yet");
        // The order is ahead of the pieces.
        needed.accepted(upload(3), Offset(7), (Offset(6), Offset(8)));
        needed.seen(upload(3), Offset(6));
        needed.read(Offset(9));
        assert_eq!((needed.before(Offset(7)), needed.before(Offset(8))), (Offset(6), Offset(9)));
    }

    #[test]
    fn whoever_began_later_knows_nothing_of_what_came_before() {
        let needed = Needed::default();
        needed.begins(Offset(4));
        needed.order_from(Offset(0));
        assert_eq!(needed.before(Offset(9)), Offset(0));
        let needed = Needed::default();
        needed.begins(Offset(0));
        needed.read(Offset(9));
        needed.order_from(Offset(4));
        assert_eq!((needed.before(Offset(3)), needed.before(Offset(4))), (Offset(0), Offset(9)));
    }
}
