//! What a lookup of an id may show, from each write that changes it on.

use super::daemon::{cells, number};
use profiled::engine::Visitor;
use profiled::model::seq::Seq;
use std::collections::BTreeMap;

/// What one lookup showed.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) visitor: &'static str,
    /// The highest write that had been answered before the lookup began.
    pub(crate) answered: u64,
    pub(crate) shown: String,
    pub(crate) last: Seq,
}

/// `anna+p1 born 1: city=Paris@1 tier=gold@3`: the canonical id, the ids that lead there, and each attribute with the
/// number of the write that set it.
pub(crate) fn show(visitor: Option<&Visitor>) -> String {
    let Some(visitor) = visitor else { return "unknown".into() };
    let mut shown = visitor.canonical.as_str().to_owned();
    visitor.linked.iter().for_each(|id| shown.extend(["+", id.as_str()]));
    shown += &format!(" born {}:", number(visitor.born));
    for attribute in &visitor.attributes {
        shown += &format!(" {}={}@{}", attribute.name, attribute.value, number(attribute.seq));
    }
    shown
}

/// What an id must show: from each write that changes it on.
#[derive(Default)]
pub(crate) struct Life {
    head: String,
    attributes: BTreeMap<String, String>,
    stages: Vec<(u64, String)>,
}

impl Life {
    /// From this write on the visitor goes by this head, such as `anna+p1 born 1`, and has this set: by this write,
    /// or, as in `city=Paris@1`, by another.
    pub(crate) fn then(mut self, write: u64, head: &str, sets: &str) -> Self {
        self.head = head.to_owned();
        for (name, value) in cells(sets) {
            let by = if value.contains('@') { String::new() } else { format!("@{write}") };
            self.attributes.insert(name.to_owned(), format!(" {name}={value}{by}"));
        }
        let attributes: String = self.attributes.values().map(String::as_str).collect();
        let shown = format!("{}:{attributes}", self.head);
        self.shows(write, &shown)
    }

    /// From this write on it has this set besides.
    pub(crate) fn set(self, write: u64, sets: &str) -> Self {
        let head = self.head.clone();
        self.then(write, &head, sets)
    }

    /// From this write on it is another visitor.
    pub(crate) fn becomes(self, write: u64, head: &str, sets: &str) -> Self {
        Self { stages: self.stages, ..Self::default() }.then(write, head, sets)
    }

    /// From this write on, something else is shown.
    pub(crate) fn shows(mut self, write: u64, shown: &str) -> Self {
        self.stages.push((write, shown.to_owned()));
        self
    }

    /// From this write on, none of it is left.
    pub(crate) fn gone(self, write: u64) -> Self {
        self.shows(write, "unknown")
    }

    /// Checks what one thread saw of the visitor.
    pub(crate) fn check(&self, visitor: &str, seen: &[Seen]) {
        let mut at = 0;
        let mut last = Seq::ZERO;
        for one in seen.iter().filter(|one| one.visitor == visitor) {
            let due = self.stages.iter().rposition(|(write, _)| *write <= one.answered).unwrap_or(0);
            let from = self.stages.get(at.max(due)..).unwrap();
            let Some(on) = from.iter().position(|(_, shown)| *shown == one.shown) else {
                panic!(
                    "{visitor} shows\n  {}\nafter {} was answered, but should show one of\n  {from:#?}\nof all {:#?}",
                    one.shown, one.answered, self.stages
                );
            };
            at = at.max(due) + on;
            assert!(one.last >= last || one.last == Seq::ZERO, "{visitor}: {one:?} after {last:?}");
            last = one.last;
        }
    }
}

/// The writes in the order of their seqs, with what each does.
pub(crate) fn in_order<T>(mut writes: Vec<(u64, T)>) -> Vec<(u64, T)> {
    writes.sort_by_key(|(write, _)| *write);
    writes
}

pub(crate) fn unknown() -> Life {
    Life::default().shows(0, "unknown")
}
