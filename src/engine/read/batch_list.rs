//! A client's batches, newest first and page by page.
//!
//! Promises: it looks at the batches from the newest back, and only as far as one page needs, however many are kept. A search for
//! incomplete batches does not look at the complete ones, nor the other way round.

use crate::batch::queue::{Batches, Which};
use crate::engine::read::state::Reader;
use crate::engine::types::BatchStatus;
use crate::model::batch::BatchState;
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};
use std::ops::ControlFlow;

/// Some of a client's batches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchPage {
    /// Newest first.
    pub batches: Vec<BatchStatus>,
    /// The next page holds those before this one's place; none if this was the last.
    pub next: Option<Seq>,
}

impl Reader {
    /// A client's batches in one state or in any, newest first, from those before a place on.
    pub(in crate::engine) fn batches(
        &self,
        client: &ClientCode,
        wanted: Option<BatchState>,
        before: Option<Seq>,
        most: usize,
    ) -> BatchPage {
        let mut page = page(&self.shared.batches, client, wanted, before, most, self.shared.now());
        page.batches = page.batches.into_iter().map(|batch| self.with_what_is_kept_beside(batch)).collect();
        page
    }

    fn with_what_is_kept_beside(&self, batch: BatchStatus) -> BatchStatus {
        // A page may have a thousand; few are stuck, or have something new.
        let batches = &self.shared.batches;
        let (reason, new) = (batches.why_held(&batch.id), batches.names.new_of(&batch.id));
        batch.held(reason).with_new(new)
    }
}

fn page(
    batches: &Batches,
    client: &ClientCode,
    wanted: Option<BatchState>,
    before: Option<Seq>,
    most: usize,
    now: Millis,
) -> BatchPage {
    let mut page = BatchPage::default();
    let which = match wanted {
        None => Which::All,
        Some(BatchState::Complete) => Which::Complete,
        Some(BatchState::Incomplete | BatchState::Stuck) => Which::Incomplete,
    };
    batches.walk_back(client, before.unwrap_or(Seq::from_u64(u64::MAX)), which, |known| {
        let state = known.progress.state();
        if wanted.is_some_and(|wanted| wanted != state) {
            return ControlFlow::Continue(());
        }
        // One more than there is room for says that there is another page.
        if page.batches.len() >= most {
            page.next = page.batches.last().map(|last| last.id.seq);
            return ControlFlow::Break(());
        }
        page.batches.push(BatchStatus::in_state(known, state, now));
        ControlFlow::Continue(())
    });
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pending::Pending;
    use crate::journal::log::Position;
    use crate::model::batch::Counts;
    use proptest::prelude::*;
    use std::sync::Arc;

    const CLIENTS: [&str; 3] = ["a", "ab", "b"];
    const STATES: [BatchState; 3] = [BatchState::Incomplete, BatchState::Complete, BatchState::Stuck];

    /// Whose a batch is, and how far it is.
    fn kept() -> impl Strategy<Value = Vec<(usize, usize)>> {
        prop::collection::vec((0..CLIENTS.len(), 0..STATES.len()), 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: all of them in a list, from which a page takes.
        #[test]
        fn pages_have_what_a_list_of_all_has(kept in kept(), most in 1..8_usize, before in 0..30_u64) {
            let folder = tempfile::tempdir().unwrap();
            let batches = Batches::default();
            for (number, (client, state)) in (1..).zip(&kept) {
                let text = "batch=pcId,a\n1,1\n2,2\n";
                let batch = Arc::new(Pending::of_text(folder.path(), CLIENTS[*client], number, text));
                batches.publish(Arc::clone(&batch), Position::START);
                match STATES[*state] {
                    BatchState::Incomplete => {}
                    BatchState::Complete => {
                        batches.complete(&batch.accepted.id, Counts { updated: 2, ..Counts::default() }, Millis(7));
                    }
                    BatchState::Stuck => batch.progress.stuck(true),
                }
            }
            for (at, client) in CLIENTS.into_iter().enumerate() {
                for wanted in [None, Some(STATES[0]), Some(STATES[1]), Some(STATES[2])] {
                    let mut model: Vec<(u64, BatchState)> = (1..)
                        .zip(&kept)
                        .filter(|(_, (owner, state))| *owner == at && wanted.is_none_or(|it| it == STATES[*state]))
                        .map(|(number, (_, state))| (number, STATES[*state]))
                        .collect();
                    model.reverse();
                    let client = ClientCode::new(client).unwrap();
                    let page = |before| page(&batches, &client, wanted, before, most, Millis(9));
                    let listed = |page: &BatchPage| -> Vec<(u64, BatchState)> {
                        page.batches.iter().map(|batch| (batch.id.seq.get(), batch.state)).collect()
                    };
                    // From any place, whether there is a batch or none.
                    let from: Vec<_> = model.iter().filter(|(number, _)| *number < before).take(most).copied().collect();
                    prop_assert_eq!(listed(&page(Some(Seq::from_u64(before)))), from);
                    // Page by page, all of them come once.
                    let (mut all, mut next) = (vec![], None);
                    loop {
                        let page = page(next);
                        prop_assert!(page.batches.len() <= most);
                        prop_assert!(page.next.is_none() || page.batches.len() == most);
                        all.extend(listed(&page));
                        next = page.next;
                        if next.is_none() {
                            break;
                        }
                    }
                    prop_assert_eq!(all, model);
                }
            }
        }
    }
}
