//! The names of the attributes that each client's profiles have, in memory: which attributes of a batch no profile had before, and
//! the nearest name that exists. That is advice: nothing is refused for it.
//!
//! A name counts as known once a profile that was read has it, a call of the site or an update has set it, or a batch with it in its
//! header was accepted. Names that all profiles have lost are known until the next start.
//!
//! Promises: memory is bounded: [`NAMES_MAX`] names and [`NAME_BYTES_MAX`] bytes of each of [`CLIENTS_MAX`] clients. A name that is
//! known costs one lookup in a set that no lock guards. Nothing is called new before all that the store holds was read
//! ([`KnownNames::all_read`]), nor of a client with too many names, nor of one with none. Looking for near names is bounded by
//! [`COMPARED_BYTES_MAX`], and is for threads that may block.

use crate::model::batch::BatchId;
use crate::model::id::ClientCode;
use crate::model::seq::Seq;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// How many names of a client are kept.
const NAMES_MAX: usize = 4096;
/// How many bytes they may have together.
const NAME_BYTES_MAX: usize = 128 << 10;
/// Of how many clients names are kept.
const CLIENTS_MAX: usize = 256;
/// How many new attributes of a file are told.
pub const NEW_TOLD_MAX: usize = 20;
/// Of how many batches the new attributes are kept: the newest.
const BATCHES_MAX: usize = 1000;
/// How much is compared at most for one file: the product of two names' lengths, summed. A few milliseconds.
const COMPARED_BYTES_MAX: usize = 1 << 20;
/// Shorter names, without case and separators, are near to no other: any two of them would be.
const NEAR_CHARS_MIN: usize = 4;
/// From so many characters on, names may differ in two of them; shorter ones in one.
const TWO_DIFFER_FROM: usize = 8;

/// The names of all clients.
#[derive(Debug, Default)]
pub struct KnownNames {
    /// Replaced by whoever adds a name. That is seldom: each name once.
    clients: ArcSwap<HashMap<ClientCode, Arc<Names>>>,
    /// Held by whoever adds a name.
    adding: Mutex<()>,
    /// Whether all that the store held at the start was read.
    all_read: AtomicBool,
    /// What was new of the batches that had something new.
    of_batches: Mutex<BTreeMap<Seq, Arc<[NewAttribute]>>>,
}

/// One client's names.
#[derive(Debug, Clone, Default)]
struct Names {
    names: HashSet<Arc<str>>,
    bytes: usize,
    /// Whether it has more than are kept.
    too_many: bool,
}

/// An attribute that no profile had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttribute {
    /// Its name.
    pub name: Box<str>,
    /// The nearest name that exists, if one is near.
    pub nearest: Option<Arc<str>>,
}

impl NewAttribute {
    /// What it is, in a sentence.
    pub fn in_words(&self) -> String {
        let Self { name, nearest } = self;
        match nearest {
            Some(near) => {
                format!("{name:?} is new: no profile had such an attribute before; {near:?} exists")
            }
            None => format!("{name:?} is new: no profile had such an attribute before"),
        }
    }
}

impl KnownNames {
    /// Notes names that profiles of a client have, or are about to have.
    pub fn note<'a>(&self, client: &ClientCode, names: impl Iterator<Item = &'a str> + Clone) {
        let clients = self.clients.load();
        let any_new = match clients.get(client) {
            Some(known) => !known.too_many && names.clone().any(|name| !known.names.contains(name)),
            None => clients.len() < CLIENTS_MAX && names.clone().next().is_some(),
        };
        if any_new {
            self.add(client, names);
        }
    }

    /// Notes that all that the store held at the start was read.
    pub fn all_read(&self) {
        self.all_read.store(true, Ordering::Release);
    }

    /// Those of these names that no profile had before: the first [`NEW_TOLD_MAX`], each with the nearest name that exists.
    pub fn new_among<'a>(
        &self,
        client: &ClientCode,
        names: impl Iterator<Item = &'a str>,
    ) -> Vec<NewAttribute> {
        let clients = self.clients.load();
        let known = clients.get(client).filter(|known| !known.too_many && !known.names.is_empty());
        let Some(known) = known.filter(|_| self.all_read.load(Ordering::Acquire)) else { return vec![] };
        let new: Vec<&str> = names.filter(|name| !known.names.contains(*name)).take(NEW_TOLD_MAX).collect();
        if new.is_empty() {
            return vec![];
        }
        let mut near = Near::of(known.names.iter());
        new.into_iter().map(|name| NewAttribute { name: name.into(), nearest: near.to(name) }).collect()
    }

    /// Keeps what was new of a batch.
    pub fn keep(&self, batch: &BatchId, new: Vec<NewAttribute>) {
        if new.is_empty() {
            return;
        }
        let mut batches = lock(&self.of_batches);
        batches.insert(batch.seq, new.into());
        if batches.len() > BATCHES_MAX {
            batches.pop_first();
        }
    }

    /// What was new of a batch, as far as that is kept: nothing of a batch from before the start.
    pub fn new_of(&self, batch: &BatchId) -> Arc<[NewAttribute]> {
        lock(&self.of_batches).get(&batch.seq).cloned().unwrap_or_default()
    }

    fn add<'a>(&self, client: &ClientCode, names: impl Iterator<Item = &'a str>) {
        let _adding = lock(&self.adding);
        let clients = self.clients.load_full();
        let known = clients.get(client);
        if known.is_none() && clients.len() == CLIENTS_MAX {
            return;
        }
        let mut known = known.map_or_else(Names::default, |known| Names::clone(known));
        for name in names {
            if known.names.contains(name) {
                continue;
            }
            known.bytes += name.len();
            if known.names.len() == NAMES_MAX || known.bytes > NAME_BYTES_MAX {
                known = Names { too_many: true, ..Names::default() };
                break;
            }
            known.names.insert(name.into());
        }
        let mut clients = HashMap::clone(&clients);
        clients.insert(client.clone(), Arc::new(known));
        self.clients.store(Arc::new(clients));
    }
}

/// Looks for near names.
struct Near<'n> {
    /// Without case and separators, and as they are.
    known: Vec<(String, &'n Arc<str>)>,
    /// How much may still be compared.
    left: usize,
}

impl<'n> Near<'n> {
    fn of(names: impl Iterator<Item = &'n Arc<str>>) -> Self {
        Self { known: names.map(|name| (folded(name), name)).collect(), left: COMPARED_BYTES_MAX }
    }

    /// The nearest name: one that differs in case and separators alone, else one that differs in few characters.
    fn to(&mut self, name: &str) -> Option<Arc<str>> {
        let name = folded(name);
        let chars = name.chars().count();
        let most = match chars {
            0..NEAR_CHARS_MIN => 0,
            NEAR_CHARS_MIN..TWO_DIFFER_FROM => 1,
            _ => 2,
        };
        let mut nearest: Option<(usize, &Arc<str>)> = None;
        for (folded, known) in &self.known {
            let distance = if *folded == name {
                0
            } else if most == 0 || folded.len().abs_diff(name.len()) > most * 4 {
                continue;
            } else {
                let known_chars = folded.chars().count();
                let compared = known_chars * chars;
                if known_chars.abs_diff(chars) > most || known_chars < NEAR_CHARS_MIN || compared > self.left
                {
                    continue;
                }
                self.left -= compared;
                strsim::osa_distance(folded, &name)
            };
            // The first by name, if several are as near.
            let better = nearest.is_none_or(|(least, first)| (distance, *known) < (least, first));
            if distance <= most && better {
                nearest = Some((distance, known));
            }
        }
        nearest.map(|(_, known)| Arc::clone(known))
    }
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    fn new_of(known: &[&str], names: &[&str]) -> Vec<(String, Option<String>)> {
        let all = KnownNames::default();
        all.note(&client("demo"), known.iter().copied());
        all.all_read();
        let new = all.new_among(&client("demo"), names.iter().copied());
        new.into_iter().map(|new| (new.name.into(), new.nearest.map(|near| near.to_string()))).collect()
    }

    #[test]
    fn the_nearest_name_is_one_that_was_probably_meant() {
        let check = |name: &str, nearest: Option<&str>| {
            let known = ["loyaltyTier", "city", "age", "ageGroup", "plan", "last.purchase_date", "last-seen"];
            let expected = vec![(name.to_owned(), nearest.map(str::to_owned))];
            assert_eq!(new_of(&known, &[name]), expected, "{name}");
        };
        check("loyaltytier", Some("loyaltyTier"));
        check("loyalty_tier", Some("loyaltyTier"));
        check("LOYALTY TIER", Some("loyaltyTier"));
        check("loyaltyTeir", Some("loyaltyTier"));
        check("loyltyTierr", Some("loyaltyTier"));
        check("loyalty", None);
        check("ctiy", Some("city"));
        check("cities", None);
        check("plans", Some("plan"));
        check("lastPurchaseDate", Some("last.purchase_date"));
        check("lastseen", Some("last-seen"));
        check("Age", Some("age"));
        check("aqe", None);
        check("tier", None);
        check("größe", None);
        check("_", None);
    }

    #[test]
    fn what_is_known_is_not_new_and_a_client_without_names_has_nothing_new() {
        assert_eq!(new_of(&["a", "b"], &["a", "b"]), []);
        assert_eq!(new_of(&[], &["a", "b"]), []);
        assert_eq!(new_of(&["a"], &["b"]), [("b".to_owned(), None)]);
        let many: Vec<String> = (0..NEW_TOLD_MAX + 5).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(new_of(&["a"], &many).len(), NEW_TOLD_MAX);
    }

    #[test]
    fn nothing_is_new_before_the_store_was_read_nor_where_there_are_too_many_names() {
        let (all, demo) = (KnownNames::default(), client("demo"));
        all.note(&demo, ["a"].into_iter());
        assert_eq!(all.new_among(&demo, ["b"].into_iter()), []);
        all.all_read();
        assert_eq!(all.new_among(&demo, ["b"].into_iter()).len(), 1);
        assert_eq!(all.new_among(&client("other"), ["b"].into_iter()), []);
        let names: Vec<String> = (0..=NAMES_MAX).map(|n| format!("n{n}")).collect();
        all.note(&demo, names.iter().map(String::as_str));
        assert_eq!(all.new_among(&demo, ["b"].into_iter()), []);
        all.note(&demo, ["c"].into_iter());
        assert!(all.clients.load()[&demo].names.is_empty(), "nothing is kept of it any more");
    }

    #[test]
    fn of_too_many_clients_the_later_ones_are_not_kept() {
        let all = KnownNames::default();
        all.all_read();
        for n in 0..CLIENTS_MAX + 1 {
            all.note(&client(&format!("c{n}")), ["a"].into_iter());
        }
        assert_eq!(all.clients.load().len(), CLIENTS_MAX);
    }

    #[test]
    fn what_was_new_of_the_newest_batches_is_kept() {
        let all = KnownNames::default();
        let id = |n: usize| BatchId { client: client("demo"), seq: Seq::from_u64(n as u64) };
        let new = NewAttribute { name: "a".into(), nearest: None };
        (1..=BATCHES_MAX + 1).for_each(|n| all.keep(&id(n), vec![new.clone()]));
        all.keep(&id(BATCHES_MAX + 2), vec![]);
        assert_eq!((all.new_of(&id(1)).len(), all.new_of(&id(2)).len()), (0, 1));
        assert_eq!(all.new_of(&id(BATCHES_MAX + 2)).len(), 0);
    }

    /// The most that is compared takes a few milliseconds, optimised.
    #[test]
    fn looking_for_near_names_is_bounded() {
        let known: Vec<Arc<str>> = (0..NAMES_MAX).map(|n| format!("{n:0100}").into()).collect();
        let mut near = Near::of(known.iter());
        for n in 0..NEW_TOLD_MAX {
            near.to(&format!("{n:0>100}x").replace('0', "y"));
        }
        assert!(near.left < 101 * 101, "{} left", near.left);
    }
}
