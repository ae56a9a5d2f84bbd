//! The values in the store: a profile, a link to a profile, or a tombstone. This file owns their byte formats.
//!
//! Promises: encoding is deterministic, so equal values have equal bytes and a swap can compare bytes. Decoding borrows
//! its text and never panics, whatever the bytes are. Every value carries `applied_seq`: it contains all writes to its
//! key up to this seq.
//!
//! ```text
//! version u8 · kind u8 · applied_seq u64 · …
//! profile:   count, then that many seqs, u64 each: the seqs that later fields refer to
//!            born · last_site · last_batch · last_write: a seq each
//!            last_active: 0 and a u64, or 1 + the number of the seq with that time
//!            number of ids, of attributes, of layer attributes: a number each
//!            length of the lines from "ids" to "authors" in bytes: a number
//!            version 3 only: since when its history is known: a seq; its length, number of times, of authors: a number each
//!            ids ×        (kind u8 · seq · length)
//!            attributes × (source and seq · name length · value length), sorted by name
//!            layer ×      (the same)
//!            times ×      (which attribute, counted through attributes and layer: a number · the time it is of u64)
//!            authors ×    (the write that they made: a seq · who: see model/author.rs), sorted by seq
//!            text: the ids, then names and values, in the order above
//!            history: see history.rs
//! link:      the target's key
//! tombstone: nothing more; the kind says whether the visitor was erased or swept
//! ```
//!
//! A u64 is little-endian. A number has seven bits per byte, lowest first; the eighth bit is set in every byte except
//! the last. A seq is stored as a number: 0 for none, 1 for `applied_seq`, otherwise 2 + its index in the list of seqs.
//! A profile without history, times and authors is written as version 2, as are links and tombstones.
//! All values of one write share one seq, and mostly that seq is `applied_seq`. Source and seq share a byte, three bits
//! and five. The value 31 in the five bits means that the seq's number follows.

mod earlier;
mod history;
mod numbers;
mod reader;
mod record;
mod types;

pub use history::{Earlier, HISTORY_BYTES_MAX, History};
pub use reader::{DecodeError, FORMAT_VERSION};
pub use record::{AUTHORS_MAX, Profile};
pub use types::{
    Attribute, LINKED_IDS_MAX, LinkedId, NAME_CHARS_MAX, NAME_PREFIX, NameFault, SITE_CALL_ATTRIBUTES_MAX,
    SITE_CALL_VALUE_CHARS_MAX, Source, attribute_name_fault, is_too_long_for_a_site_call, remove, set_all,
};

use numbers::put_number;
use reader::{EARLIEST_VERSION, PLAIN_VERSION, Reader, Text, check_order};

use super::author::Author;
use super::id::{IdKind, Key};
use super::seq::{Millis, Seq};

const KIND_PROFILE: u8 = 1;
const KIND_LINK: u8 = 2;
const KIND_ERASED: u8 = 3;
const KIND_SWEPT: u8 = 4;
/// The seqs that need no entry in the list: none, and `applied_seq`.
const SEQS_UNLISTED: usize = 2;
/// The encoder searches only this many of the last listed seqs before it lists a seq again.
const SEQS_LOOKED_THROUGH: usize = 32;
const SOURCE_BITS: u32 = 3;
/// In a byte with a source: the seq's number does not fit and follows the byte.
const SEQ_BEHIND: u8 = u8::MAX >> SOURCE_BITS;

/// A value in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<'a> {
    /// A visitor's profile.
    Profile(Profile<'a>),
    /// An id that leads to the profile under another key, as long as that profile lists the id.
    Link {
        /// The seq of the bind.
        applied_seq: Seq,
        /// The key of the profile.
        target: Key,
    },
    /// A removed value: an erased visitor (R12), or an expired one that was swept (R11).
    Tombstone {
        /// The seq of the erasure. After a sweep: the swept value's own seq, or the last seq before the sweep.
        applied_seq: Seq,
        /// Whether the visitor was erased. Then no byte of the old profile may stay on the disk (R12).
        erased: bool,
    },
}

impl Stored<'_> {
    /// The value contains all writes to its key up to this seq.
    pub fn applied_seq(&self) -> Seq {
        match self {
            Self::Profile(profile) => profile.applied_seq,
            Self::Link { applied_seq, .. } | Self::Tombstone { applied_seq, .. } => *applied_seq,
        }
    }

    /// Encodes the value.
    pub fn encode(&self) -> StoredBytes {
        let mut out = Vec::new();
        match self {
            Self::Profile(profile) => encode_profile(profile, &mut out),
            Self::Link { applied_seq, target } => {
                out.extend_from_slice(&[PLAIN_VERSION, KIND_LINK]);
                out.extend_from_slice(&applied_seq.get().to_le_bytes());
                out.extend_from_slice(target.as_bytes());
            }
            Self::Tombstone { applied_seq, erased } => {
                let kind = if *erased { KIND_ERASED } else { KIND_SWEPT };
                out.extend_from_slice(&[PLAIN_VERSION, kind]);
                out.extend_from_slice(&applied_seq.get().to_le_bytes());
            }
        }
        StoredBytes(out.into_boxed_slice())
    }
}

/// The bytes of a stored value, as the model and the stores exchange them.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct StoredBytes(Box<[u8]>);

impl StoredBytes {
    /// Wraps bytes from a store.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the tombstone of an erased visitor.
    pub fn is_erased(&self) -> bool {
        matches!(*self.0, [_, KIND_ERASED, ..])
    }

    /// Whether this is a profile.
    pub fn is_profile(&self) -> bool {
        matches!(*self.0, [_, KIND_PROFILE, ..])
    }

    /// Whether this is a tombstone.
    pub fn is_tombstone(&self) -> bool {
        matches!(*self.0, [_, KIND_ERASED | KIND_SWEPT, ..])
    }

    /// The value's `applied_seq`; decodes nothing else.
    pub fn applied_seq(&self) -> Result<Seq, DecodeError> {
        applied_seq(&self.0)
    }

    /// Decodes the value.
    pub fn decode(&self) -> Result<Stored<'_>, DecodeError> {
        decode(&self.0)
    }
}

impl std::fmt::Debug for StoredBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.decode() {
            Ok(stored) => stored.fmt(f),
            Err(error) => write!(f, "({error})"),
        }
    }
}

/// Reads only `applied_seq` from a stored value.
pub fn applied_seq(bytes: &[u8]) -> Result<Seq, DecodeError> {
    let (_, mut reader) = Reader::after_version(bytes)?;
    reader.u8()?;
    reader.seq()
}

/// Decodes a stored value. The result borrows its text.
pub fn decode(bytes: &[u8]) -> Result<Stored<'_>, DecodeError> {
    let (version, mut reader) = Reader::after_version(bytes)?;
    let kind = reader.u8()?;
    let applied_seq = reader.seq()?;
    match kind {
        KIND_PROFILE if version == EARLIEST_VERSION => {
            earlier::decode_profile(applied_seq, reader).map(Stored::Profile)
        }
        KIND_PROFILE => decode_profile(version, applied_seq, reader).map(Stored::Profile),
        KIND_LINK => {
            let target =
                Key::from_bytes(reader.rest).ok_or(DecodeError::Damaged("a link without a valid key"))?;
            Ok(Stored::Link { applied_seq, target })
        }
        KIND_ERASED | KIND_SWEPT if reader.rest.is_empty() => {
            Ok(Stored::Tombstone { applied_seq, erased: kind == KIND_ERASED })
        }
        KIND_ERASED | KIND_SWEPT => Err(DecodeError::Damaged("a tombstone with surplus bytes")),
        _ => Err(DecodeError::Damaged("neither profile, link nor tombstone")),
    }
}

fn decode_profile<'a>(
    version: u8,
    applied_seq: Seq,
    mut reader: Reader<'a>,
) -> Result<Profile<'a>, DecodeError> {
    let listed = reader.number()?;
    let seqs = Seqs { applied_seq, listed: reader.take(listed.saturating_mul(8))? };
    let mut profile = Profile {
        applied_seq,
        born: seqs.read(&mut reader)?,
        last_site: seqs.read(&mut reader)?,
        last_batch: seqs.read(&mut reader)?,
        last_write: seqs.read(&mut reader)?,
        last_active: match reader.number()?.checked_sub(1) {
            Some(which) => seqs.get(which)?.millis(),
            None => Millis(reader.u64()?),
        },
        ..Profile::default()
    };
    let (ids, attributes, layer) = (reader.number()?, reader.number()?, reader.number()?);
    let metas = reader.number()?;
    let (since, history, times, authors) = if version == PLAIN_VERSION {
        (Seq::ZERO, 0, 0, 0)
    } else {
        (seqs.read(&mut reader)?, reader.number()?, reader.number()?, reader.number()?)
    };
    let mut metas = Reader { rest: reader.take(metas)? };
    let text = reader.rest.len().checked_sub(history).ok_or(DecodeError::Damaged("it ends too early"))?;
    let mut text = Text::new(reader.take(text)?)?;
    profile.history = History::from_stored(since, reader.rest);

    // Each id takes at least one byte here, so a damaged count cannot reserve too much memory.
    profile.ids.reserve_exact(ids.min(metas.rest.len()));
    for _ in 0..ids {
        let kind = IdKind::from_code(metas.u8()?).ok_or(DecodeError::Damaged("an unknown kind of id"))?;
        let seq = seqs.read(&mut metas)?;
        profile.ids.push(LinkedId { kind, seq, id: text.take(metas.number()?)? });
    }
    profile.attributes = decode_attributes(attributes, &seqs, &mut metas, &mut text)?;
    profile.layer = decode_attributes(layer, &seqs, &mut metas, &mut text)?;
    for _ in 0..times {
        let (which, at) = (metas.number()?, Millis(metas.u64()?));
        let attribute = match which.checked_sub(profile.attributes.len()) {
            None => profile.attributes.get_mut(which),
            Some(which) => profile.layer.get_mut(which),
        };
        attribute.ok_or(DecodeError::Damaged("a time of no attribute"))?.as_of = Some(at);
    }
    // Each author takes at least two bytes here, so a damaged count cannot reserve too much memory.
    profile.authors.reserve_exact(authors.min(metas.rest.len()));
    for _ in 0..authors {
        let seq = seqs.read(&mut metas)?;
        let (author, rest) =
            Author::take(metas.rest).ok_or(DecodeError::Damaged("an author that is none"))?;
        metas.rest = rest;
        profile.authors.push((seq, author));
    }
    if !profile.authors.is_sorted_by_key(|(seq, _)| *seq) {
        return Err(DecodeError::Damaged("authors that are not sorted by seq"));
    }
    if !text.0.is_empty() || !metas.rest.is_empty() {
        return Err(DecodeError::Damaged("surplus bytes at its end"));
    }
    Ok(profile)
}

fn decode_attributes<'a>(
    number: usize,
    seqs: &Seqs<'_>,
    metas: &mut Reader<'_>,
    text: &mut Text<'a>,
) -> Result<Vec<Attribute<'a>>, DecodeError> {
    // Four spare entries: most decoded profiles are written to next.
    let mut attributes: Vec<Attribute<'a>> = Vec::with_capacity(number.min(metas.rest.len()) + 4);
    for _ in 0..number {
        let both = metas.u8()?;
        let source = both & !(u8::MAX << SOURCE_BITS);
        let source = Source::from_code(source).ok_or(DecodeError::Damaged("an unknown source"))?;
        let seq = match both >> SOURCE_BITS {
            SEQ_BEHIND => seqs.read(metas)?,
            which => seqs.get(usize::from(which))?,
        };
        let (name, value) = (metas.number()?, metas.number()?);
        let (name, value) = (text.take(name)?, text.take(value)?);
        attributes.push(Attribute { name, value, seq, source, as_of: None });
    }
    check_order(&attributes)?;
    Ok(attributes)
}

/// The seqs of an encoded value.
struct Seqs<'a> {
    applied_seq: Seq,
    listed: &'a [u8],
}

impl Seqs<'_> {
    fn get(&self, which: usize) -> Result<Seq, DecodeError> {
        match which.checked_sub(SEQS_UNLISTED) {
            Some(place) => {
                let bytes = self.listed.get(place.saturating_mul(8)..).and_then(<[u8]>::first_chunk);
                let bytes = bytes.ok_or(DecodeError::Damaged("a seq that is not listed"))?;
                Ok(Seq::from_u64(u64::from_le_bytes(*bytes)))
            }
            None if which == 0 => Ok(Seq::ZERO),
            None => Ok(self.applied_seq),
        }
    }

    fn read(&self, reader: &mut Reader<'_>) -> Result<Seq, DecodeError> {
        self.get(reader.number()?)
    }
}

/// The seqs of a value that is being encoded.
struct SeqList {
    applied_seq: Seq,
    listed: Vec<Seq>,
}

impl SeqList {
    /// The number of the seq; adds the seq to the list if needed.
    fn name(&mut self, seq: Seq) -> usize {
        if seq == Seq::ZERO {
            return 0;
        }
        if seq == self.applied_seq {
            return 1;
        }
        // A limited search, because a profile may have as many seqs as attributes.
        let last = self.listed.len().saturating_sub(SEQS_LOOKED_THROUGH);
        let near = self.listed.iter().skip(last).position(|listed| *listed == seq);
        let place = near.map_or(self.listed.len(), |near| last + near);
        if near.is_none() {
            self.listed.push(seq);
        }
        place + SEQS_UNLISTED
    }
}

/// Appends a profile's bytes to a buffer.
pub fn encode_profile(profile: &Profile<'_>, out: &mut Vec<u8>) {
    let mut seqs = SeqList { applied_seq: profile.applied_seq, listed: vec![] };
    let marks = [profile.born, profile.last_site, profile.last_batch, profile.last_write];
    let marks = marks.map(|seq| seqs.name(seq));
    let then = [profile.last_site, profile.born].into_iter().find(|seq| seq.millis() == profile.last_active);
    let then = then.map(|seq| seqs.name(seq));

    let (ids, attributes) = (&profile.ids, || profile.attributes.iter().chain(&profile.layer));
    let mut metas = Vec::with_capacity(32 + 4 * (ids.len() + profile.attributes.len() + profile.layer.len()));
    for linked in ids {
        metas.push(linked.kind.code());
        put_number(seqs.name(linked.seq), &mut metas);
        put_number(linked.id.len(), &mut metas);
    }
    for attribute in attributes() {
        let (source, seq) = (attribute.source.code(), seqs.name(attribute.seq));
        match u8::try_from(seq).ok().filter(|&seq| seq < SEQ_BEHIND) {
            Some(seq) => metas.push(source | seq << SOURCE_BITS),
            None => {
                metas.push(source | SEQ_BEHIND << SOURCE_BITS);
                put_number(seq, &mut metas);
            }
        }
        put_number(attribute.name.len(), &mut metas);
        put_number(attribute.value.len(), &mut metas);
    }

    let (since, history) = profile.history.stored();
    let mut times = 0;
    for (which, attribute) in attributes().enumerate() {
        if let Some(at) = attribute.as_of {
            times += 1;
            put_number(which, &mut metas);
            metas.extend_from_slice(&at.0.to_le_bytes());
        }
    }
    let authors = profile.authors_needed(&history);
    for (seq, author) in &authors {
        put_number(seqs.name(*seq), &mut metas);
        author.put(&mut metas);
    }
    let plain = since == Seq::ZERO && times == 0 && authors.is_empty();

    // The result is laid out at the end, in a buffer of the exact size.
    let since = seqs.name(since);
    let metas_bytes = metas.len();
    let mut numbers = metas;
    put_number(seqs.listed.len(), &mut numbers);
    let listed_bytes = numbers.len() - metas_bytes;
    marks.into_iter().for_each(|which| put_number(which, &mut numbers));
    match then {
        Some(which) => put_number(which + 1, &mut numbers),
        None => {
            numbers.push(0);
            numbers.extend_from_slice(&profile.last_active.0.to_le_bytes());
        }
    }
    for number in [ids.len(), profile.attributes.len(), profile.layer.len(), metas_bytes] {
        put_number(number, &mut numbers);
    }
    if !plain {
        for number in [since, history.len(), times, authors.len()] {
            put_number(number, &mut numbers);
        }
    }
    let (metas, numbers) = numbers.split_at(metas_bytes);
    let (listed, numbers) = numbers.split_at(listed_bytes);

    let text: usize = profile.held_bytes() + ids.iter().map(|linked| linked.id.len()).sum::<usize>();
    out.reserve_exact(
        10 + listed.len() + seqs.listed.len() * 8 + numbers.len() + metas.len() + text + history.len(),
    );
    out.extend_from_slice(&[if plain { PLAIN_VERSION } else { FORMAT_VERSION }, KIND_PROFILE]);
    out.extend_from_slice(&profile.applied_seq.get().to_le_bytes());
    out.extend_from_slice(listed);
    seqs.listed.iter().for_each(|seq| out.extend_from_slice(&seq.get().to_le_bytes()));
    out.extend_from_slice(numbers);
    out.extend_from_slice(metas);
    ids.iter().for_each(|linked| out.extend_from_slice(linked.id.as_bytes()));
    for attribute in attributes() {
        out.extend_from_slice(attribute.name.as_bytes());
        out.extend_from_slice(attribute.value.as_bytes());
    }
    if !plain {
        out.extend_from_slice(&history);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_names_are_checked_by_r9() {
        for name in ["a", "名前", "user.level", "profile", "a b", &"é".repeat(128)] {
            assert_eq!(attribute_name_fault(name), None, "{name:?}");
        }
        let check = |name: &str, fault| assert_eq!(attribute_name_fault(name), Some(fault), "{name:?}");
        check("", NameFault::Empty);
        check(" ", NameFault::Blank);
        check("\t\u{3000}", NameFault::Blank);
        check("profile.a", NameFault::Prefixed);
        check("profile.", NameFault::Prefixed);
        check(&"é".repeat(129), NameFault::TooLong);
    }
    use crate::model::author::TokenId;
    use crate::model::id::ClientCode;
    use proptest::prelude::*;

    fn attribute<'a>(name: &'a str, value: &'a str, seq: u64) -> Attribute<'a> {
        Attribute { name, value, seq: Seq::from_u64(seq), source: Source::Mbox, as_of: None }
    }

    fn author(token: &str, address: &str) -> Author {
        Author { token: TokenId::new(token), address: address.parse().ok() }
    }

    fn sample() -> Profile<'static> {
        Profile {
            ids: vec![
                LinkedId { kind: IdKind::Pc, id: "p1", seq: Seq::from_u64(4) },
                LinkedId { kind: IdKind::Ecid, id: "3830", seq: Seq::from_u64(5) },
            ],
            attributes: vec![attribute("city", "Zürich & co", 6), attribute("tier", "gold", 9)],
            layer: vec![attribute("points", "7", 9)],
            authors: vec![
                (Seq::from_u64(6), author("1a2b", "192.0.2.7")),
                (Seq::from_u64(9), author("", "2001:db8::1")),
            ],
            ..Profile::born_at(Seq::from_u64(3))
        }
    }

    #[test]
    fn every_kind_of_value_reads_back() {
        let target = Key::new(&ClientCode::new("demo").unwrap(), IdKind::ThirdParty, "tp");
        for stored in [
            Stored::Profile(sample()),
            Stored::Profile(Profile::default()),
            Stored::Link { applied_seq: Seq::from_u64(8), target },
            Stored::Tombstone { erased: true, applied_seq: Seq::from_u64(9) },
        ] {
            let bytes = stored.encode();
            assert_eq!(bytes.decode(), Ok(stored.clone()));
            assert_eq!(bytes.applied_seq(), Ok(stored.applied_seq()));
            for cut in 0..bytes.as_slice().len() {
                // A link cut short may contain a shorter key. No other value may decode when cut short.
                let shorter = decode(&bytes.as_slice()[..cut]);
                assert!(
                    shorter.is_err() || matches!(shorter, Ok(Stored::Link { .. })),
                    "{stored:?} cut at {cut}"
                );
            }
        }
    }

    /// An author stays as long as a value tells of the write: one that it set, replaced or removed.
    #[test]
    fn authors_go_with_the_last_value_that_tells_of_their_writes() {
        let of = |seq| (Seq::from_u64(seq), author("1a2b", "192.0.2.7"));
        let mut profile = Profile { authors: vec![of(4), of(6), of(7), of(9)], ..sample() };
        profile.history.keep(16, Seq::from_u64(3));
        profile.history.note(&attribute("tier", "silver", 4), Seq::from_u64(8), Source::SingleUpdate);
        let bytes = Stored::Profile(profile).encode();
        let Ok(Stored::Profile(read)) = bytes.decode() else { panic!("{bytes:?}") };
        assert_eq!(read.authors, [of(4), of(6), of(9)], "no value is of the write 7");
        assert_eq!([4, 7].map(|seq| read.author(Seq::from_u64(seq)).is_unknown()), [false, true]);
        // So many are kept.
        let many: Vec<String> = (0..AUTHORS_MAX + 5).map(|n| format!("n{n:04}")).collect();
        let attributes: Vec<_> = (1..).zip(&many).map(|(seq, name)| attribute(name, "v", seq)).collect();
        let authors = attributes.iter().map(|held| of(held.seq.get())).collect();
        let bytes = Stored::Profile(Profile { attributes, authors, ..Profile::default() }).encode();
        let Ok(Stored::Profile(read)) = bytes.decode() else { panic!("{bytes:?}") };
        assert_eq!((read.authors.len(), read.authors[0]), (AUTHORS_MAX, of(6)));
    }

    #[test]
    fn an_unknown_version_says_so() {
        assert_eq!(decode(&[9, 1]), Err(DecodeError::Version(9)));
        assert_eq!(decode(&[]), Err(DecodeError::Damaged("it ends too early")));
    }

    #[test]
    fn a_layer_covers_attributes_until_it_is_merged() {
        let mut profile = Profile {
            attributes: vec![attribute("a", "1", 1), attribute("c", "1", 1)],
            layer: vec![attribute("b", "2", 2), attribute("c", "2", 2)],
            ..Profile::default()
        };
        let expected = vec![attribute("a", "1", 1), attribute("b", "2", 2), attribute("c", "2", 2)];
        assert_eq!(profile.visible(), expected);
        assert_eq!((profile.held_bytes(), profile.visible_bytes()), (8, 6));
        profile.merge_layer();
        assert_eq!((profile.attributes, profile.layer), (expected, vec![]));
    }

    #[test]
    fn of_many_new_attributes_with_one_name_the_last_wins() {
        let names: Vec<String> = (0..40).map(|n| format!("n{}", n % 30)).collect();
        let values: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let mut list = vec![attribute("n3", "old", 1)];
        set_all(&mut list, names.iter().zip(&values).map(|(name, value)| attribute(name, value, 2)));
        assert_eq!(list.len(), 30);
        for held in &list {
            let n: usize = held.name[1..].parse().unwrap();
            assert_eq!(held.value, if n < 10 { n + 30 } else { n }.to_string(), "{}", held.name);
        }
    }

    /// A profile may have as many seqs as attributes, and numbers of any size.
    #[test]
    fn profiles_of_many_writes_read_back() {
        let names: Vec<String> = (0..300).map(|n| format!("n{n:03}")).collect();
        let long = "x".repeat(20_000);
        for writes in [1, 2, 28, 29, 30, 31, 32, 33, 34, 100, 300] {
            let attributes = names.iter().enumerate().map(|(n, name)| {
                let value = if n == 7 { long.as_str() } else { "v" };
                attribute(name, value, (n * 7 % writes) as u64 + (1 << 40))
            });
            let ids = names.iter().map(|id| LinkedId { kind: IdKind::Ecid, id, seq: Seq::from_u64(1 << 40) });
            let profile = Profile {
                ids: ids.take(LINKED_IDS_MAX).collect(),
                attributes: attributes.collect(),
                last_active: Millis(5),
                ..Profile::born_at(Seq::from_u64(u64::MAX))
            };
            let stored = Stored::Profile(profile);
            assert_eq!(stored.encode().decode(), Ok(stored.clone()), "{writes} writes");
        }
    }

    /// An attribute that one batch sets takes three bytes beside its name and its value.
    #[test]
    fn attributes_of_one_write_take_few_bytes() {
        let names: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
        let attributes = names.iter().map(|name| attribute(name, "value", 1 << 40));
        let seq = Seq::from_u64(1 << 40);
        let profile = Profile { attributes: attributes.collect(), last_batch: seq, ..Profile::born_at(seq) };
        let bytes = Stored::Profile(profile.clone()).encode();
        assert_eq!(bytes.as_slice().len(), 20 + 5 * 3 + profile.held_bytes());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
        }

        #[test]
        fn decoding_damaged_profiles_never_panics(at in 0usize..150, byte: u8) {
            let mut bytes = Stored::Profile(sample()).encode().as_slice().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            drop(decode(&bytes));
        }
    }
}
