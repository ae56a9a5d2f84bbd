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
//!            length of the next three lines in bytes: a number
//!            ids ×        (kind u8 · seq · length)
//!            attributes × (source and seq · name length · value length), sorted by name
//!            layer ×      (the same)
//!            text: the ids, then names and values, in the order above
//! link:      the target's key
//! tombstone: nothing more; the kind says whether the visitor was erased or swept
//! ```
//!
//! A u64 is little-endian. A number has seven bits per byte, lowest first; the eighth bit is set in every byte except
//! the last. A seq is stored as a number: 0 for none, 1 for `applied_seq`, otherwise 2 + its index in the list of seqs.
//! All values of one write share one seq, and mostly that seq is `applied_seq`. Source and seq share a byte, three bits
//! and five. The value 31 in the five bits means that the seq's number follows.

mod earlier;

use super::id::{IdKind, Key};
use super::seq::{Millis, Seq};

/// The format version of the values that this program writes.
pub const FORMAT_VERSION: u8 = 2;
/// The most ids of one kind that a profile lists. It keeps the most recently bound ones (R1).
pub const LINKED_IDS_MAX: usize = 256;

/// The longest attribute name, in characters (R9).
pub const NAME_CHARS_MAX: usize = 128;
/// The prefix of profile parameters in site calls. It is not part of the attribute's name (R9).
pub const NAME_PREFIX: &str = "profile.";
/// The most attributes in one map of a site call in JSON (R9).
pub const SITE_CALL_ATTRIBUTES_MAX: usize = 50;
/// The longest attribute value in a site call, in characters (R9).
pub const SITE_CALL_VALUE_CHARS_MAX: usize = 5_000;

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

/// Why a text is not a valid attribute name (R9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// The text is empty.
    Empty,
    /// The text contains only whitespace.
    Blank,
    /// The text has more than [`NAME_CHARS_MAX`] characters.
    TooLong,
    /// The text starts with [`NAME_PREFIX`].
    Prefixed,
}

/// Checks an attribute name (R9). Each kind of call reports the fault in its own words.
pub fn attribute_name_fault(name: &str) -> Option<NameFault> {
    if name.is_empty() {
        Some(NameFault::Empty)
    } else if name.chars().all(char::is_whitespace) {
        Some(NameFault::Blank)
    } else if name.chars().nth(NAME_CHARS_MAX).is_some() {
        Some(NameFault::TooLong)
    } else if name.starts_with(NAME_PREFIX) {
        Some(NameFault::Prefixed)
    } else {
        None
    }
}

/// Whether a value is too long for a site call (R9).
pub fn is_too_long_for_a_site_call(value: &str) -> bool {
    value.chars().nth(SITE_CALL_VALUE_CHARS_MAX).is_some()
}

/// The kind of call that wrote an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An mbox or ubox call.
    Mbox,
    /// A Delivery API call.
    Delivery,
    /// A single profile update.
    SingleUpdate,
    /// A batch from the v1 call.
    BatchV1,
    /// A batch from the v2 call.
    BatchV2,
}

impl Source {
    const fn code(self) -> u8 {
        match self {
            Self::Mbox => 1,
            Self::Delivery => 2,
            Self::SingleUpdate => 3,
            Self::BatchV1 => 4,
            Self::BatchV2 => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Mbox),
            2 => Some(Self::Delivery),
            3 => Some(Self::SingleUpdate),
            4 => Some(Self::BatchV1),
            5 => Some(Self::BatchV2),
            _ => None,
        }
    }

    /// The source's name in the native API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mbox => "mbox",
            Self::Delivery => "delivery",
            Self::SingleUpdate => "single update",
            Self::BatchV1 => "batch v1",
            Self::BatchV2 => "batch v2",
        }
    }

    /// Whether a write from this source is a site call. A site call creates a profile and extends its lifetime (R5,
    /// R11).
    pub const fn is_site(self) -> bool {
        matches!(self, Self::Mbox | Self::Delivery)
    }

    /// Whether a write from this source is a batch row.
    pub const fn is_batch(self) -> bool {
        matches!(self, Self::BatchV1 | Self::BatchV2)
    }
}

/// One attribute, with the seq and the source of its last write (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The name, without the `profile.` prefix of site calls.
    pub name: &'a str,
    /// The value; never empty (R6).
    pub value: &'a str,
    /// The seq of the last write to this attribute.
    pub seq: Seq,
    /// The source of that write.
    pub source: Source,
}

impl Attribute<'_> {
    /// The attribute's share of the profile's size limit, in bytes (R9).
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.len()
    }
}

/// An id that is linked to this profile. The store also has a link under the id; the link counts only while the profile
/// lists the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkedId<'a> {
    /// The kind of id: `pcId` or ECID.
    pub kind: IdKind,
    /// The id.
    pub id: &'a str,
    /// The seq of the write that bound the id.
    pub seq: Seq,
}

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
}

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

    /// The attributes that a reader sees, sorted by name: the layer over the attributes.
    pub fn visible(&self) -> Vec<Attribute<'a>> {
        let mut all = self.attributes.clone();
        set_all(&mut all, self.layer.iter().copied());
        all
    }

    /// Moves the layer's attributes into the profile for good (R7).
    pub fn merge_layer(&mut self) {
        let layer = std::mem::take(&mut self.layer);
        set_all(&mut self.attributes, layer.into_iter());
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

/// Sets attributes in a list sorted by name. Of several new ones with the same name the last wins.
pub fn set_all<'a>(list: &mut Vec<Attribute<'a>>, news: impl Iterator<Item = Attribute<'a>>) {
    let sorted = list.len();
    for new in news {
        let (old, added) = list.split_at_mut(sorted);
        let known = match old.binary_search_by(|held| held.name.cmp(new.name)) {
            Ok(at) => old.get_mut(at),
            // A write mostly brings few new names. The sort below handles many.
            Err(_) if added.len() <= 16 => added.iter_mut().find(|held| held.name == new.name),
            Err(_) => None,
        };
        match known {
            Some(held) => *held = new,
            None => list.push(new),
        }
    }
    if list.len() > sorted {
        list.sort_by(|a, b| a.name.cmp(b.name));
        // The sort is stable, so the last of two equal names wins.
        list.dedup_by(|later, earlier| {
            let same = later.name == earlier.name;
            if same {
                *earlier = *later;
            }
            same
        });
    }
}

/// Removes an attribute from a list sorted by name.
pub fn remove(list: &mut Vec<Attribute<'_>>, name: &str) {
    if let Ok(at) = list.binary_search_by(|held| held.name.cmp(name)) {
        list.remove(at);
    }
}

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
                out.extend_from_slice(&[FORMAT_VERSION, KIND_LINK]);
                out.extend_from_slice(&applied_seq.get().to_le_bytes());
                out.extend_from_slice(target.as_bytes());
            }
            Self::Tombstone { applied_seq, erased } => {
                let kind = if *erased { KIND_ERASED } else { KIND_SWEPT };
                out.extend_from_slice(&[FORMAT_VERSION, kind]);
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

/// Why bytes are not a valid stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later version of the program wrote the bytes, or another program did.
    #[error("format version {0}; this program reads versions 1 to {FORMAT_VERSION}")]
    Version(u8),
    /// The bytes are cut short, have a surplus, or contain an unknown code.
    #[error("damaged bytes: {0}")]
    Damaged(&'static str),
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
        KIND_PROFILE if version == earlier::VERSION => {
            earlier::decode_profile(applied_seq, reader).map(Stored::Profile)
        }
        KIND_PROFILE => decode_profile(applied_seq, reader).map(Stored::Profile),
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

fn decode_profile<'a>(applied_seq: Seq, mut reader: Reader<'a>) -> Result<Profile<'a>, DecodeError> {
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
    let mut metas = Reader { rest: reader.take(metas)? };
    let mut text = Text::new(reader.rest)?;

    // Each id takes at least one byte here, so a damaged count cannot reserve too much memory.
    profile.ids.reserve_exact(ids.min(metas.rest.len()));
    for _ in 0..ids {
        let kind = IdKind::from_code(metas.u8()?).ok_or(DecodeError::Damaged("an unknown kind of id"))?;
        let seq = seqs.read(&mut metas)?;
        profile.ids.push(LinkedId { kind, seq, id: text.take(metas.number()?)? });
    }
    profile.attributes = decode_attributes(attributes, &seqs, &mut metas, &mut text)?;
    profile.layer = decode_attributes(layer, &seqs, &mut metas, &mut text)?;
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
        attributes.push(Attribute { name: text.take(name)?, value: text.take(value)?, seq, source });
    }
    check_order(&attributes)?;
    Ok(attributes)
}

fn check_order(attributes: &[Attribute<'_>]) -> Result<(), DecodeError> {
    if attributes.windows(2).any(|pair| matches!(pair, [a, b] if a.name >= b.name)) {
        return Err(DecodeError::Damaged("attributes that are not sorted by name"));
    }
    Ok(())
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

    // The result is laid out at the end, in a buffer of the exact size.
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
    let (metas, numbers) = numbers.split_at(metas_bytes);
    let (listed, numbers) = numbers.split_at(listed_bytes);

    let text: usize = profile.held_bytes() + ids.iter().map(|linked| linked.id.len()).sum::<usize>();
    out.reserve_exact(10 + listed.len() + seqs.listed.len() * 8 + numbers.len() + metas.len() + text);
    out.extend_from_slice(&[FORMAT_VERSION, KIND_PROFILE]);
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
}

fn put_number(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn after_version(bytes: &'a [u8]) -> Result<(u8, Self), DecodeError> {
        let mut reader = Self { rest: bytes };
        match reader.u8()? {
            version @ earlier::VERSION..=FORMAT_VERSION => Ok((version, reader)),
            other => Err(DecodeError::Version(other)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(DecodeError::Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn seq(&mut self) -> Result<Seq, DecodeError> {
        self.u64().map(Seq::from_u64)
    }

    fn number(&mut self) -> Result<usize, DecodeError> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.u8()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
            if shift > 28 {
                return Err(DecodeError::Damaged("a number that is too large"));
            }
        }
    }
}

struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        std::str::from_utf8(bytes).map(Self).map_err(|_| DecodeError::Damaged("text that is not UTF-8"))
    }

    fn take(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(DecodeError::Damaged("text that ends too early"))?;
        self.0 = rest;
        Ok(taken)
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
    use crate::model::id::ClientCode;
    use proptest::prelude::*;

    fn attribute<'a>(name: &'a str, value: &'a str, seq: u64) -> Attribute<'a> {
        Attribute { name, value, seq: Seq::from_u64(seq), source: Source::Mbox }
    }

    fn sample() -> Profile<'static> {
        Profile {
            ids: vec![
                LinkedId { kind: IdKind::Pc, id: "p1", seq: Seq::from_u64(4) },
                LinkedId { kind: IdKind::Ecid, id: "3830", seq: Seq::from_u64(5) },
            ],
            attributes: vec![attribute("city", "Zürich & co", 6), attribute("tier", "gold", 9)],
            layer: vec![attribute("points", "7", 9)],
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
