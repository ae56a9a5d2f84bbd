//! The visitors who were active last: by a call of the site or a single update.
//!
//! Promises: it has the newest [`VISITORS_MAX`] visitors of a client, each once, and all lists together have [`ALL_MAX`]. Whoever comes
//! then takes the place of the oldest in the longest list. It is in memory: after a start it begins anew. The commit thread fills it
//! with what it has made durable, in the order of the seqs, so it is alike on all nodes of an order. An id that is erased, or that
//! leads to another from now on, leaves it with the same request.

use crate::model::id::{ClientCode, Key};
use crate::model::seq::{Millis, Seq};
use crate::sync::{Mutex, lock};
use std::collections::{BTreeMap, HashMap};

/// How many visitors of one client are kept.
pub(in crate::engine) const VISITORS_MAX: usize = 1_000;
/// How many visitors are kept in all: about 16 MB.
const ALL_MAX: usize = 64_000;
/// Of how many clients visitors are kept: of those that had one last.
const CLIENTS_MAX: usize = 256;

/// A part of a client's list, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::engine) struct ActivePage {
    /// Who, and the seq of the last call.
    pub(in crate::engine) visitors: Vec<(Key, Seq)>,
    /// Whether older ones are kept.
    pub(in crate::engine) more: bool,
    /// Since when calls were noted.
    pub(in crate::engine) since: Millis,
}

/// The visitors of all clients who were active last.
#[derive(Debug)]
pub struct Active(Mutex<Lists>);

#[derive(Debug)]
struct Lists {
    clients: HashMap<Box<str>, List>,
    /// How many visitors are in all lists.
    visitors: usize,
    /// Since when a client that has no list may have had calls without being noted.
    since: Millis,
}

/// One client's. Both maps have the same visitors.
#[derive(Debug)]
struct List {
    seqs: HashMap<Key, Seq>,
    keys: BTreeMap<Seq, Key>,
    since: Millis,
}

impl Active {
    /// Nobody, from this time on.
    pub(super) fn since(now: Millis) -> Self {
        Self(Mutex::new(Lists { clients: HashMap::new(), visitors: 0, since: now }))
    }

    /// Notes a call for the visitor whose own key this is. Seqs rise from call to call.
    pub(super) fn note(&self, key: Key, seq: Seq) {
        let mut lists = lock(&self.0);
        let Lists { clients, visitors, since } = &mut *lists;
        let Some(list) = clients.get_mut(key.client()) else {
            let whose = Box::from(key.client());
            let keys = BTreeMap::from([(seq, key.clone())]);
            clients.insert(whose, List { seqs: HashMap::from([(key, seq)]), keys, since: *since });
            *visitors += 1;
            return lists.make_room();
        };
        if let Some(last) = list.seqs.get_mut(&key) {
            // The key moves, and nothing is allocated for it.
            let moved = list.keys.remove(last).unwrap_or(key);
            *last = seq;
            list.keys.insert(seq, moved);
            return;
        }
        list.seqs.insert(key.clone(), seq);
        list.keys.insert(seq, key);
        *visitors += 1;
        if list.keys.len() > VISITORS_MAX {
            *visitors -= list.drop_oldest();
        }
        lists.make_room();
    }

    /// Forgets an id: it is erased, or leads to another visitor.
    pub(super) fn forget(&self, key: &Key) {
        let mut lists = lock(&self.0);
        let Lists { clients, visitors, .. } = &mut *lists;
        if let Some(list) = clients.get_mut(key.client())
            && let Some(seq) = list.seqs.remove(key)
        {
            list.keys.remove(&seq);
            *visitors -= 1;
        }
    }

    /// Those of a client who were active before a place in the order, newest first.
    pub(in crate::engine) fn before(&self, client: &ClientCode, before: Seq, most: usize) -> ActivePage {
        let lists = lock(&self.0);
        let Some(list) = lists.clients.get(client.as_str()) else {
            return ActivePage { since: lists.since, ..ActivePage::default() };
        };
        let mut older = list.keys.range(..before).rev();
        let visitors = older.by_ref().take(most).map(|(seq, key)| (key.clone(), *seq)).collect();
        ActivePage { visitors, more: older.next().is_some(), since: list.since }
    }
}

impl Lists {
    /// Makes room for one that was just added.
    fn make_room(&mut self) {
        if self.clients.len() > CLIENTS_MAX {
            let quiet = self.clients.iter().min_by_key(|(_, list)| list.last());
            if let Some(quiet) = quiet.map(|(client, _)| client.clone())
                && let Some(gone) = self.clients.remove(&quiet)
            {
                self.visitors -= gone.keys.len();
                // If it comes back, its list begins anew.
                self.since = self.since.max(gone.last().millis());
            }
        }
        if self.visitors > ALL_MAX
            && let Some(longest) = self.clients.values_mut().max_by_key(|list| list.keys.len())
        {
            self.visitors -= longest.drop_oldest();
        }
    }
}

impl List {
    /// Drops the visitor who was not active for longest; how many that are.
    fn drop_oldest(&mut self) -> usize {
        let Some((_, key)) = self.keys.pop_first() else { return 0 };
        self.seqs.remove(&key);
        1
    }

    fn last(&self) -> Seq {
        self.keys.last_key_value().map_or(Seq::ZERO, |(seq, _)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::IdKind;
    use proptest::prelude::*;

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    fn key(code: &str, id: u64) -> Key {
        Key::new(&client(code), IdKind::Pc, &id.to_string())
    }

    fn listed(active: &Active, code: &str, before: u64, most: usize) -> Vec<(Key, u64)> {
        let page = active.before(&client(code), Seq::from_u64(before), most);
        page.visitors.into_iter().map(|(key, seq)| (key, seq.get())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: all calls in a list, read from its end.
        #[test]
        fn it_has_what_a_list_of_all_calls_has(calls in prop::collection::vec((0..2_usize, 0..9_u64, 0..6), 0..80)) {
            let codes = ["a", "ab"];
            let (active, mut model) = (Active::since(Millis(0)), Vec::<(usize, u64, u64)>::new());
            for (seq, (at, id, what)) in (1..).zip(calls) {
                model.retain(|(other, named, _)| (*other, *named) != (at, id));
                if what == 0 {
                    active.forget(&key(codes[at], id));
                } else {
                    active.note(key(codes[at], id), Seq::from_u64(seq));
                    model.push((at, id, seq));
                }
            }
            for (at, code) in codes.into_iter().enumerate() {
                for (before, most) in [(u64::MAX, 100), (u64::MAX, 3), (40, 4), (0, 4)] {
                    let own = model.iter().rev().filter(|(other, _, seq)| *other == at && *seq < before);
                    let own: Vec<_> = own.map(|(_, id, seq)| (key(code, *id), *seq)).collect();
                    let page = active.before(&client(code), Seq::from_u64(before), most);
                    prop_assert_eq!(page.more, own.len() > most);
                    let expected: Vec<_> = own.into_iter().take(most).collect();
                    prop_assert_eq!(listed(&active, code, before, most), expected);
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_visitors_and_clients() {
        let (active, mut seq) = (Active::since(Millis(7)), 0);
        let mut note = |code: &str, id| {
            seq += 1;
            active.note(key(code, id), Seq::from_parts(Millis(seq), 0));
        };
        (0..2_000).for_each(|id| note("many", id));
        let page = active.before(&client("many"), Seq::from_u64(u64::MAX), 5_000);
        assert_eq!((page.visitors.len(), page.more, page.since), (VISITORS_MAX, false, Millis(7)));
        assert_eq!(page.visitors.first().map(|(key, _)| key.clone()), Some(key("many", 1_999)));
        let codes: Vec<String> = (0..300).map(|number| format!("c{number}")).collect();
        for id in 0..400 {
            codes.iter().for_each(|code| note(code, id));
        }
        let lists = lock(&active.0);
        let each: Vec<usize> = lists.clients.values().map(|list| list.keys.len()).collect();
        assert!(
            each.len() <= CLIENTS_MAX && lists.visitors <= ALL_MAX,
            "{} of {}",
            lists.visitors,
            each.len()
        );
        assert_eq!(each.iter().sum::<usize>(), lists.visitors);
        assert!(lists.clients.values().all(|list| list.keys.len() == list.seqs.len()));
        drop(lists);
        // Whoever had to go begins anew, and says so.
        let page = active.before(&client("many"), Seq::from_u64(u64::MAX), 1);
        assert!(page.visitors.is_empty() && page.since > Millis(7), "{page:?}");
    }
}
