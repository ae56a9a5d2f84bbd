//! A client's pending batches, as a reader takes them: a list that never changes. The next list shares most of it.
//!
//! Promises: adding a batch, or removing the oldest, copies one piece and one pointer for each other piece, however many
//! batches are pending.

use super::pending::Pending;
use crate::model::seq::Seq;
use std::sync::Arc;

/// How many batches a piece has at most.
const PIECE_BATCHES: usize = 64;

type Piece = Arc<Vec<Arc<Pending>>>;

/// Pending batches, in seq order.
#[derive(Debug, Clone, Default)]
pub struct PendingList {
    /// No piece is empty, and seqs ascend over all of them.
    pieces: Arc<Vec<Piece>>,
}

impl PendingList {
    /// The batches, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Pending>> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }

    /// The batches before a place in the order, newest first.
    pub fn before(&self, before: Seq) -> impl Iterator<Item = &Arc<Pending>> {
        let pieces = self.pieces.iter().rev();
        let pieces = pieces.skip_while(move |piece| piece.first().is_some_and(|first| seq(first) >= before));
        pieces.flat_map(|piece| piece.iter().rev()).skip_while(move |batch| seq(batch) >= before)
    }

    /// The oldest.
    pub fn first(&self) -> Option<&Arc<Pending>> {
        self.pieces.first().and_then(|piece| piece.first())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The list with one more batch. Mostly it comes behind all others.
    pub fn with(&self, pending: Arc<Pending>) -> Self {
        if self.iter().next_back().is_some_and(|last| seq(last) > seq(&pending)) {
            let mut all: Vec<_> = self.iter().cloned().chain([pending]).collect();
            all.sort_by_key(|pending| seq(pending));
            return all.into_iter().collect();
        }
        let mut pieces = self.pieces.to_vec();
        match pieces.last_mut().filter(|last| last.len() < PIECE_BATCHES) {
            Some(last) => *last = Arc::new(last.iter().cloned().chain([pending]).collect()),
            None => pieces.push(Arc::new(vec![pending])),
        }
        Self { pieces: Arc::new(pieces) }
    }

    /// The list without one batch.
    pub fn without(&self, batch: Seq) -> Self {
        let at = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| seq(last) < batch));
        let mut pieces = self.pieces.to_vec();
        if let Some(piece) = pieces.get_mut(at) {
            *piece = Arc::new(piece.iter().filter(|pending| seq(pending) != batch).cloned().collect());
            if piece.is_empty() {
                pieces.remove(at);
            }
        }
        Self { pieces: Arc::new(pieces) }
    }
}

impl FromIterator<Arc<Pending>> for PendingList {
    fn from_iter<I: IntoIterator<Item = Arc<Pending>>>(batches: I) -> Self {
        let (mut pieces, mut batches) = (vec![], batches.into_iter().peekable());
        while batches.peek().is_some() {
            pieces.push(Arc::new(batches.by_ref().take(PIECE_BATCHES).collect()));
        }
        Self { pieces: Arc::new(pieces) }
    }
}

fn seq(pending: &Pending) -> Seq {
    pending.accepted.id.seq
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: a vector.
        #[test]
        fn it_has_what_a_vector_has(takes in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..300)) {
            let folder = tempfile::tempdir().unwrap();
            let (mut list, mut model) = (PendingList::default(), vec![]);
            for (number, take) in (1..).zip(takes) {
                // Two are added for each that goes.
                for number in [number * 2, number * 2 + 1] {
                    let pending = Pending::of_text(folder.path(), "demo", number, "batch=pcId,a\n1,1\n");
                    list = list.with(Arc::new(pending));
                    model.push(number);
                }
                if let Some(index) = take {
                    let gone = model.remove(index.index(model.len()));
                    list = list.without(Seq::from_u64(gone));
                }
            }
            let seqs: Vec<u64> = list.iter().map(|pending| seq(pending).get()).collect();
            prop_assert_eq!(&seqs, &model);
            prop_assert_eq!(list.len(), model.len());
            prop_assert_eq!(list.first().map(|first| seq(first).get()), model.first().copied());
            prop_assert_eq!(list.is_empty(), model.is_empty());
            for before in [0, 1, 60, 128, 129, 300, 10_000] {
                let found: Vec<u64> = list.before(Seq::from_u64(before)).map(|pending| seq(pending).get()).collect();
                let expected: Vec<u64> = model.iter().rev().filter(|seq| **seq < before).copied().collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
