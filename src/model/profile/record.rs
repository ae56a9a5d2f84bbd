//! A visitor's profile: its attributes, the ids that lead to it, and what its attributes were.

use super::history::{Earlier, History};
use super::types::{Attribute, LinkedId, set_all};
use crate::model::author::Author;
use crate::model::id::IdKind;
use crate::model::seq::{Millis, Seq};
use std::collections::HashSet;

/// A visitor's profile, borrowed from its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile<'a> {
    /// The profile contains all writes to its key up to this seq.
    pub applied_seq: Seq,
    /// The seq of the write that created the profile.
    pub born: Seq,
    /// The seq of the last site call; zero if there was none.
    pub last_site: Seq,
    /// The seq of the last batch row; zero if there was none.
    pub last_batch: Seq,
    /// The seq of the last write; the ETag of the profile.
    pub last_write: Seq,
    /// The time of the visitor's last activity (R11).
    pub last_active: Millis,
    /// The ids linked to this profile, oldest bind first.
    pub ids: Vec<LinkedId<'a>>,
    /// The attributes, sorted by name. The layer covers attributes of the same name.
    pub attributes: Vec<Attribute<'a>>,
    /// The attributes that v2 batches in replace mode set since the visitor's last site call, sorted by name (R7).
    pub layer: Vec<Attribute<'a>>,
    /// The earlier values of the attributes.
    pub history: History<'a>,
    /// Who made the writes that set, replaced or removed its values, by seq, as far as they have an author.
    pub authors: Vec<(Seq, Author)>,
}

/// The most writes of which a profile keeps the author. The earliest go.
pub const AUTHORS_MAX: usize = 256;

impl<'a> Profile<'a> {
    /// A new profile that the write `seq` creates.
    pub fn born_at(seq: Seq) -> Self {
        Self { applied_seq: seq, born: seq, last_write: seq, last_active: seq.millis(), ..Self::default() }
    }

    /// Whether the profile has expired at `at`: its last site call is at least a lifetime ago (R11).
    pub fn expired(&self, at: Millis, lifetime_ms: u64) -> bool {
        at >= self.last_active.plus(lifetime_ms)
    }

    /// Whether the profile lists this id.
    pub fn lists(&self, kind: IdKind, id: &str) -> bool {
        self.ids.iter().any(|linked| linked.kind == kind && linked.id == id)
    }

    /// The names of all attributes. Those in both the attributes and the layer come twice.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.attributes.iter().chain(&self.layer).map(|held| held.name)
    }

    /// The attributes that a reader sees, sorted by name: the layer over the attributes.
    pub fn visible(&self) -> Vec<Attribute<'a>> {
        let mut all = self.attributes.clone();
        set_all(&mut all, self.layer.iter().copied());
        all
    }

    /// The attributes as a reader saw them after all writes up to `seq`, sorted by name.
    ///
    /// # Errors
    /// The earliest seq for which the profile still knows it, if that is later.
    pub fn visible_at(&self, seq: Seq) -> Result<Vec<Attribute<'a>>, Seq> {
        if seq >= self.last_write {
            return Ok(self.visible());
        }
        match self.history.since() {
            Some(since) if since <= seq => {}
            Some(since) => return Err(since),
            None => return Err(self.last_write),
        }
        let mut then = self.visible();
        then.retain(|held| held.seq <= seq);
        let mut earlier: Vec<Earlier<'_>> =
            self.history.values().filter(|value| value.was_there_at(seq)).collect();
        // A value may have been covered by a layer for a while, and came to light again. What covered it ended first.
        earlier.sort_by_key(|value| std::cmp::Reverse(value.until));
        set_all(&mut then, earlier.into_iter().map(Earlier::attribute));
        Ok(then)
    }

    /// What the write with this seq set of what a reader saw then, and the names of what it removed. `None` if the history does
    /// not go back so far.
    pub fn changed_at(&self, seq: Seq) -> Option<(Vec<Attribute<'a>>, Vec<&'a str>)> {
        let then = self.visible_at(seq).ok()?;
        let is_there = |name: &str| then.binary_search_by(|held| held.name.cmp(name)).is_ok();
        let ended = self.history.values().filter(|value| value.until == seq);
        let removed = ended.map(|value| value.name).filter(|name| !is_there(name)).collect();
        Some((then.iter().filter(|held| held.seq == seq).copied().collect(), removed))
    }

    /// Moves the layer's attributes into the profile for good (R7).
    pub fn merge_layer(&mut self) {
        let layer = std::mem::take(&mut self.layer);
        set_all(&mut self.attributes, layer.into_iter());
    }

    /// Notes who made a write to this profile, if that is known.
    pub(in crate::model) fn note_author(&mut self, seq: Seq, author: Author) {
        if author.is_unknown() {
            return;
        }
        match self.authors.binary_search_by_key(&seq, |(noted, _)| *noted) {
            Ok(_) => {}
            Err(at) => self.authors.insert(at, (seq, author)),
        }
    }

    /// Who made the write with this seq. Unknown if it was a page or a batch, or nothing of it is kept any more.
    pub fn author(&self, seq: Seq) -> Author {
        let at = self.authors.binary_search_by_key(&seq, |(noted, _)| *noted).ok();
        at.and_then(|at| self.authors.get(at)).map(|(_, author)| *author).unwrap_or_default()
    }

    /// The authors of the writes that something of this profile still tells of once its history is `stored`, the last
    /// [`AUTHORS_MAX`].
    pub(super) fn authors_needed(&self, stored: &[u8]) -> Vec<(Seq, Author)> {
        if self.authors.is_empty() {
            return vec![];
        }
        let mut told: HashSet<Seq> = self.attributes.iter().chain(&self.layer).map(|held| held.seq).collect();
        let history = History::from_stored(Seq::ZERO, stored);
        told.extend(history.values().flat_map(|value| [value.seq, value.until]));
        let mut needed: Vec<_> = self.authors.iter().copied().filter(|(seq, _)| told.contains(seq)).collect();
        needed.drain(..needed.len().saturating_sub(AUTHORS_MAX));
        needed
    }

    /// The bytes of all names and values, including attributes that the layer covers. Never less than
    /// [`visible_bytes`](Self::visible_bytes).
    pub fn held_bytes(&self) -> usize {
        self.attributes.iter().chain(&self.layer).map(Attribute::bytes).sum()
    }

    /// The bytes of the visible names and values. The size limit applies to them (R9).
    pub fn visible_bytes(&self) -> usize {
        if self.layer.is_empty() {
            return self.attributes.iter().map(Attribute::bytes).sum();
        }
        self.visible().iter().map(Attribute::bytes).sum()
    }
}
