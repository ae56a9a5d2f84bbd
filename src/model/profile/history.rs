//! The earlier values of a profile's attributes.
//!
//! A profile may keep them beside its values: for each attribute, the last values that were replaced or removed, and when. So
//! it can say what it was at an earlier seq, and a batch can be undone.
//!
//! Promises: what is kept depends on the writes and their rules alone, not on when they are applied, or in how many steps.
//! Reading damaged bytes never panics; it ends at the damage.
//!
//! ```text
//! kept u32: the length after the last tidying
//! values ×  (until u64 · distance from seq to until: a number · sources u8 · name length · value length · name · value)
//! ```
//!
//! A new value is appended; nothing that is there is read for that. Once the bytes have grown by half and a bit, they are
//! tidied: of each attribute the last [`history_max`](crate::model::batch::BatchRules::history_max) values stay.

use super::numbers::{put_number, put_number_u64};
use super::reader::Reader;
use super::types::{Attribute, Source};
use crate::model::seq::Seq;
use std::borrow::Cow;
use std::collections::HashMap;

/// The most bytes of history in one profile. If it would have more, the oldest values go.
pub const HISTORY_BYTES_MAX: usize = 64 << 10;
/// By how much the bytes grow, beside half of what they were, before they are tidied.
const GROWTH: usize = 512;
const KEPT_BYTES: usize = 4;
/// How many bits of the byte of sources are the source of the value. Those above are the source of what ended it.
const SOURCE_BITS: u32 = 4;

/// A value that an attribute had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier<'a> {
    /// The attribute's name.
    pub name: &'a str,
    /// The value.
    pub value: &'a str,
    /// The seq of the write that set it.
    pub seq: Seq,
    /// The source of that write.
    pub source: Source,
    /// The seq of the write that replaced or removed it.
    pub until: Seq,
    /// The source of that write.
    pub by: Source,
}

impl<'a> Earlier<'a> {
    /// The attribute as it was.
    pub(super) fn attribute(self) -> Attribute<'a> {
        Attribute { name: self.name, value: self.value, seq: self.seq, source: self.source, as_of: None }
    }

    /// Whether the attribute had this value after all writes up to `seq`.
    pub fn was_there_at(&self, seq: Seq) -> bool {
        self.seq <= seq && seq < self.until
    }
}

/// The history of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History<'a> {
    /// What the profile was after this seq and after each later one is known. Zero: no history is kept.
    since: Seq,
    /// How many values of each attribute stay when it is tidied. Zero until a write says it.
    max: u16,
    stored: &'a [u8],
    /// What is not stored yet.
    new: Vec<Earlier<'a>>,
    /// How many of those, the first ones, a layer had that a batch replaced. They are sorted by name.
    of_layer: usize,
}

impl<'a> History<'a> {
    /// A history as it was stored.
    pub(super) fn from_stored(since: Seq, stored: &'a [u8]) -> Self {
        Self { since, max: 0, stored, new: vec![], of_layer: 0 }
    }

    /// What the profile was after this seq and after each later one is known; `None` if no history is kept.
    pub fn since(&self) -> Option<Seq> {
        (self.since != Seq::ZERO).then_some(self.since)
    }

    /// A write keeps `max` values of each attribute. `last_write` is the seq of the write before: what the profile was then is
    /// known, whether or not a history was kept.
    pub(crate) fn keep(&mut self, max: u16, last_write: Seq) {
        if max == 0 {
            *self = Self::default();
        } else {
            self.max = max;
            if self.since == Seq::ZERO {
                self.since = last_write;
            }
        }
    }

    /// Another visitor's profile was merged into this one, at `seq`. What either of them was before is not known any more. An
    /// attribute that `comes` with it has the earlier values that it had there; one that is `held` here has those from here,
    /// and so has one that neither has any more, if there are any.
    pub(in crate::model) fn merge(
        &mut self,
        other: &Self,
        seq: Seq,
        comes: impl Fn(&str) -> bool,
        held: impl Fn(&str) -> bool,
    ) {
        let mut values: Vec<Earlier<'a>> = self.values().filter(|value| !comes(value.name)).collect();
        let theirs = |value: &Earlier<'_>| {
            let own = || values.iter().any(|own| own.name == value.name);
            comes(value.name) || !held(value.name) && !own()
        };
        let theirs: Vec<Earlier<'a>> = other.values().filter(theirs).collect();
        values.extend(theirs);
        *self = Self { since: seq, max: self.max, stored: &[], new: values, of_layer: 0 };
    }

    /// Notes that a batch replaces a layer: its values end. Nobody saw what they covered.
    pub(in crate::model) fn note_layer(&mut self, layer: &[Attribute<'a>], until: Seq, by: Source) {
        // A batch writes to a profile as it is stored.
        let first = self.new.is_empty();
        layer.iter().for_each(|old| self.push(old, until, by));
        self.of_layer = if first { self.new.len() } else { 0 };
    }

    /// Notes that a write ends the value of an attribute. A value that the same write has set does not count.
    pub(in crate::model) fn note(&mut self, old: &Attribute<'a>, until: Seq, by: Source) {
        let of_layer = self.new.get(..self.of_layer).unwrap_or_default();
        if of_layer.binary_search_by(|value| value.name.cmp(old.name)).is_err() {
            self.push(old, until, by);
        }
    }

    fn push(&mut self, old: &Attribute<'a>, until: Seq, by: Source) {
        let Attribute { name, value, seq, source, .. } = *old;
        if self.max > 0 && seq != until {
            self.new.push(Earlier { name, value, seq, source, until, by });
        }
    }

    /// All values that are kept, in no order that is told.
    pub fn values(&self) -> impl Iterator<Item = Earlier<'a>> + '_ {
        let stored = self.stored.get(KEPT_BYTES..).unwrap_or_default();
        let mut reader = Reader { rest: stored };
        let stored = std::iter::from_fn(move || read(&mut reader));
        stored.chain(self.new.iter().copied())
    }

    /// How it is stored: since when it is known, and its bytes.
    pub(super) fn stored(&self) -> (Seq, Cow<'a, [u8]>) {
        if self.new.is_empty() {
            return (self.since, Cow::Borrowed(self.stored));
        }
        // Rows of one batch come in other orders if they are applied at once.
        let mut new = self.new.clone();
        new.sort_by(|a, b| (a.until, a.name).cmp(&(b.until, b.name)));
        let mut bytes = Vec::with_capacity(self.stored.len() + KEPT_BYTES + 32 * new.len());
        bytes.extend_from_slice(if self.stored.is_empty() { &[0; KEPT_BYTES] } else { self.stored });
        new.iter().for_each(|value| put(value, &mut bytes));
        let kept = bytes.first_chunk().map_or(0, |kept| u32::from_le_bytes(*kept)) as usize;
        if bytes.len() <= (kept + kept / 2 + GROWTH).min(HISTORY_BYTES_MAX) {
            return (self.since, Cow::Owned(bytes));
        }
        let (since, bytes) = tidied(&History { stored: &bytes, new: vec![], ..*self });
        (since, Cow::Owned(bytes))
    }
}

/// The last values of each attribute, and since when all is known with them.
fn tidied(history: &History<'_>) -> (Seq, Vec<u8>) {
    let mut values: Vec<Earlier<'_>> = history.values().collect();
    values.sort_by(|a, b| (a.name, a.until).cmp(&(b.name, b.until)));
    // A value that is written again and again is one.
    values.dedup_by(|later, earlier| {
        let goes_on =
            later.name == earlier.name && later.value == earlier.value && later.seq == earlier.until;
        if goes_on {
            (earlier.until, earlier.by) = (later.until, later.by);
        }
        goes_on
    });
    values.sort_by(|a, b| (b.until, b.name).cmp(&(a.until, a.name)));
    let (mut since, mut of_name, mut bytes) = (history.since, HashMap::<&str, u16>::new(), KEPT_BYTES);
    let mut kept = vec![];
    for value in values {
        let count = of_name.entry(value.name).or_default();
        let taken = bytes + value.name.len() + value.value.len() + 24;
        // Half of the room, so that the next write does not tidy again.
        if *count < history.max && taken <= HISTORY_BYTES_MAX / 2 {
            *count += 1;
            bytes = taken;
            kept.push(value);
        } else {
            since = since.max(value.until);
        }
    }
    let mut out = vec![0; KEPT_BYTES];
    kept.iter().rev().for_each(|value| put(value, &mut out));
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.splice(..KEPT_BYTES, length);
    (since, out)
}

fn put(value: &Earlier<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.until.get().to_le_bytes());
    put_number_u64(value.until.get().saturating_sub(value.seq.get()), out);
    out.push(value.source.code() | value.by.code() << SOURCE_BITS);
    put_number(value.name.len(), out);
    put_number(value.value.len(), out);
    out.extend_from_slice(value.name.as_bytes());
    out.extend_from_slice(value.value.as_bytes());
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<Earlier<'a>> {
    let until = reader.u64().ok()?;
    let seq = until.checked_sub(reader.number_u64().ok()?)?;
    let sources = reader.u8().ok()?;
    let (name, value) = (reader.number().ok()?, reader.number().ok()?);
    let mut text = |length| std::str::from_utf8(reader.take(length).ok()?).ok();
    Some(Earlier {
        name: text(name)?,
        value: text(value)?,
        seq: Seq::from_u64(seq),
        source: Source::from_code(sources & !(u8::MAX << SOURCE_BITS))?,
        until: Seq::from_u64(until),
        by: Source::from_code(sources >> SOURCE_BITS)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute<'a>(name: &'a str, value: &'a str, seq: u64) -> Attribute<'a> {
        Attribute { name, value, seq: Seq::from_u64(seq), source: Source::Mbox, as_of: None }
    }

    /// A value `v1`, `v2`, … from each seq on, ended by the next one.
    fn written(max: u16, values: &[&str]) -> (Seq, Vec<u8>) {
        let (mut since, mut bytes) = (Seq::ZERO, vec![]);
        for (seq, value) in (1..).zip(values) {
            let mut history = History::from_stored(since, &bytes);
            history.keep(max, Seq::from_u64(1));
            history.note(&attribute("a", value, seq), Seq::from_u64(seq + 1), Source::BatchV1);
            let (then, stored) = history.stored();
            (since, bytes) = (then, stored.into_owned());
        }
        (since, bytes)
    }

    #[test]
    fn the_last_values_stay_and_it_is_known_since_when_all_are_there() {
        let values: Vec<String> = (0..500).map(|n| format!("value {n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let (since, bytes) = written(16, &values);
        let history = History::from_stored(since, &bytes);
        let kept: Vec<Earlier<'_>> = history.values().collect();
        assert!((16..64).contains(&kept.len()), "{}", kept.len());
        for (earlier, value) in kept.iter().rev().zip(values.iter().rev()) {
            assert_eq!(earlier.value, *value);
        }
        assert_eq!(since, kept[0].seq, "before the oldest one that is kept, one was dropped");
        assert!(bytes.len() < 3000, "{}", bytes.len());
    }

    #[test]
    fn a_value_that_is_written_again_and_again_is_one() {
        let (since, bytes) = written(4, &["x"; 300]);
        let history = History::from_stored(since, &bytes);
        assert!(history.values().count() < 40);
        assert_eq!((since, history.values().next().unwrap().seq), (Seq::from_u64(1), Seq::from_u64(1)));
    }

    #[test]
    fn a_profile_has_only_so_many_bytes_of_it() {
        let long = "x".repeat(1000);
        let values: Vec<String> = (0..200).map(|n| format!("{n}{long}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let (since, bytes) = written(u16::MAX, &values);
        assert!(bytes.len() <= HISTORY_BYTES_MAX && bytes.len() > HISTORY_BYTES_MAX / 4, "{}", bytes.len());
        assert!(since > Seq::from_u64(100));
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let history = History::from_stored(Seq::from_u64(1), &bytes);
            drop(history.values().collect::<Vec<_>>());
        }
    }
}
