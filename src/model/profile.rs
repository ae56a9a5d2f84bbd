//! What is stored under a key: a profile, a link to one, or a tombstone; and the hand-laid bytes of each.
//!
//! Promises: encoding is deterministic (equal values have equal bytes, so a swap can compare bytes), decoding
//! borrows and never panics on any bytes, and every value carries `through`: the seq up to which all writes to its
//! key are in it.
//!
//! ```text
//! version u8 · kind u8 · through u64 · …
//! profile:   number · so many seqs, u64 each: those that are named below
//!            born · last_site · last_batch · last_write: a seq each
//!            last_active: 0 and u64, or 1 more than the seq that was then
//!            ids, attributes, layer: how many, a number each
//!            bytes of what comes next, number
//!            ids ×        (kind u8 · seq · length)
//!            attributes × (source and seq · name length · value length), by name
//!            layer ×      (the same)
//!            text: the ids, then names and values, in that order
//! link:      the target's key
//! tombstone: nothing; its kind tells whether the visitor was erased or swept
//! ```
//! An u64 is little-endian. A number has seven bits a byte, the lowest first, the eighth set in all but the last. A seq is the
//! number 0 for none, 1 for `through`, else 2 more than its place among those listed: what one write set bears one seq,
//! and that is mostly `through` itself. Source and seq share a byte, three bits and five, of which 31 stands for a number
//! behind it.

mod earlier;

use super::id::{IdKind, Key};
use super::seq::{Millis, Seq};

/// The version all stored values begin with.
pub const FORMAT_VERSION: u8 = 2;
/// How many ids of one kind a profile lists: the most recently bound (R1).
pub const LINKED_IDS_MAX: usize = 256;

/// The longest name of an attribute, in characters (R9).
pub const NAME_CHARS_MAX: usize = 128;
/// What stands before an attribute's name in a parameter, and never in the name itself (R9).
pub const NAME_PREFIX: &str = "profile.";
/// The most attributes in one map of a site call in JSON (R9).
pub const SITE_CALL_ATTRIBUTES_MAX: usize = 50;
/// The longest value that a site call may bring, in characters (R9).
pub const SITE_CALL_VALUE_CHARS_MAX: usize = 5_000;

const KIND_PROFILE: u8 = 1;
const KIND_LINK: u8 = 2;
const KIND_ERASED: u8 = 3;
const KIND_SWEPT: u8 = 4;
/// The seqs that every value can name without listing them: none, and `through`.
const SEQS_UNLISTED: usize = 2;
/// How many of the seqs listed last are looked through for one, before it is listed once more.
const SEQS_LOOKED_THROUGH: usize = 32;
const SOURCE_BITS: u32 = 3;
/// Stands beside a source for a seq that has no room there.
const SEQ_BEHIND: u8 = u8::MAX >> SOURCE_BITS;

/// What keeps a text from being the name of an attribute (R9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// Nothing there.
    Empty,
    /// Nothing but blanks.
    Blank,
    /// More than [`NAME_CHARS_MAX`] characters.
    TooLong,
    /// It starts with [`NAME_PREFIX`].
    Prefixed,
}

/// What is wrong with the name of an attribute, wherever it comes from; each front door has its own words for it.
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

/// Whether a value is longer than a site call may bring it (R9).
pub fn is_too_long_for_a_site_call(value: &str) -> bool {
    value.chars().nth(SITE_CALL_VALUE_CHARS_MAX).is_some()
}

/// Who wrote an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An mbox or ubox call.
    Mbox,
    /// A Delivery API call.
    Delivery,
    /// The single profile update.
    SingleUpdate,
    /// A batch by the v1 call.
    BatchV1,
    /// A batch by the v2 call.
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

    /// What the native API calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mbox => "mbox",
            Self::Delivery => "delivery",
            Self::SingleUpdate => "single update",
            Self::BatchV1 => "batch v1",
            Self::BatchV2 => "batch v2",
        }
    }

    /// Whether a write from there is a site call: it keeps a profile alive and creates it.
    pub const fn is_site(self) -> bool {
        matches!(self, Self::Mbox | Self::Delivery)
    }

    /// Whether a write from there is a batch.
    pub const fn is_batch(self) -> bool {
        matches!(self, Self::BatchV1 | Self::BatchV2)
    }
}

/// One attribute, with the seq and the source of its last write (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name, without the `profile.` prefix that site calls put before it.
    pub name: &'a str,
    /// Its value; never empty (R6).
    pub value: &'a str,
    /// The write that set it.
    pub seq: Seq,
    /// Where that write came from.
    pub source: Source,
}

impl Attribute<'_> {
    /// What it counts towards the limit on a profile's size (R9).
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.len()
    }
}

/// An id that leads to this profile: a link with this id exists, and counts only while the profile lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkedId<'a> {
    /// What kind of id: `pcId` or ECID.
    pub kind: IdKind,
    /// The id.
    pub id: &'a str,
    /// The write that bound it.
    pub seq: Seq,
}

/// A visitor's profile, borrowed from its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile<'a> {
    /// All writes to this key up to here are in.
    pub through: Seq,
    /// The write that made it.
    pub born: Seq,
    /// The last site call that is in it; zero if none.
    pub last_site: Seq,
    /// The last batch row that is in it; zero if none.
    pub last_batch: Seq,
    /// The last write of all: its ETag.
    pub last_write: Seq,
    /// When the visitor was last active (R11).
    pub last_active: Millis,
    /// The ids that lead here, oldest bind first.
    pub ids: Vec<LinkedId<'a>>,
    /// What is known of the visitor, by name. Under `layer` while that holds anything.
    pub attributes: Vec<Attribute<'a>>,
    /// What v2 batches in replace mode set since the visitor's last site call, by name (R7).
    pub layer: Vec<Attribute<'a>>,
}

impl<'a> Profile<'a> {
    /// A profile that `seq` gives birth to.
    pub fn born_at(seq: Seq) -> Self {
        Self { through: seq, born: seq, last_write: seq, last_active: seq.millis(), ..Self::default() }
    }

    /// Whether it counts as unknown at `at`, for want of site calls (R11).
    pub fn expired(&self, at: Millis, lifetime_ms: u64) -> bool {
        at >= self.last_active.plus(lifetime_ms)
    }

    /// Whether the id leads here.
    pub fn lists(&self, kind: IdKind, id: &str) -> bool {
        self.ids.iter().any(|linked| linked.kind == kind && linked.id == id)
    }

    /// What a reader sees: the attributes with the layer over them, by name.
    pub fn visible(&self) -> Vec<Attribute<'a>> {
        let mut all = self.attributes.clone();
        set_all(&mut all, self.layer.iter().copied());
        all
    }

    /// Makes the layer part of the attributes for good (R7).
    pub fn fold_layer_in(&mut self) {
        let layer = std::mem::take(&mut self.layer);
        set_all(&mut self.attributes, layer.into_iter());
    }

    /// The bytes of all it holds: the visible names and values, and what a layer covers. Never less than what counts
    /// towards the limit.
    pub fn held_bytes(&self) -> usize {
        self.attributes.iter().chain(&self.layer).map(Attribute::bytes).sum()
    }

    /// The bytes of the visible names and values: what the limit is on (R9).
    pub fn visible_bytes(&self) -> usize {
        if self.layer.is_empty() {
            return self.attributes.iter().map(Attribute::bytes).sum();
        }
        self.visible().iter().map(Attribute::bytes).sum()
    }
}

/// Sets attributes in a list that is sorted by name; a later one of the same name wins.
pub fn set_all<'a>(list: &mut Vec<Attribute<'a>>, news: impl Iterator<Item = Attribute<'a>>) {
    let sorted = list.len();
    for new in news {
        let (old, added) = list.split_at_mut(sorted);
        let known = match old.binary_search_by(|held| held.name.cmp(new.name)) {
            Ok(at) => old.get_mut(at),
            // Few are new at once as a rule; many are dealt with by the sort below.
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
        // The sort is stable, so of two with one name the later stands behind: keep that one.
        list.dedup_by(|later, earlier| {
            let same = later.name == earlier.name;
            if same {
                *earlier = *later;
            }
            same
        });
    }
}

/// Takes the attribute of that name out of a list that is sorted by name.
pub fn remove(list: &mut Vec<Attribute<'_>>, name: &str) {
    if let Ok(at) = list.binary_search_by(|held| held.name.cmp(name)) {
        list.remove(at);
    }
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored<'a> {
    /// A visitor's profile.
    Profile(Profile<'a>),
    /// An id that leads to the profile under another key, while that profile lists it.
    Link {
        /// The seq of its bind.
        through: Seq,
        /// The key it leads to.
        target: Key,
    },
    /// Where something was: an erased visitor (R12), or what expired and was swept (R11).
    Tombstone {
        /// The seq of the erasure; of what was swept, the one it reached to, or the last one before the sweep.
        through: Seq,
        /// Whether the visitor was erased: no byte of it may then be left in the end.
        erased: bool,
    },
}

impl Stored<'_> {
    /// The seq up to which all writes to the key are in.
    pub fn through(&self) -> Seq {
        match self {
            Self::Profile(profile) => profile.through,
            Self::Link { through, .. } | Self::Tombstone { through, .. } => *through,
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> StoredBytes {
        let mut out = Vec::new();
        match self {
            Self::Profile(profile) => encode_profile(profile, &mut out),
            Self::Link { through, target } => {
                out.extend_from_slice(&[FORMAT_VERSION, KIND_LINK]);
                out.extend_from_slice(&through.get().to_le_bytes());
                out.extend_from_slice(target.as_bytes());
            }
            Self::Tombstone { through, erased } => {
                let kind = if *erased { KIND_ERASED } else { KIND_SWEPT };
                out.extend_from_slice(&[FORMAT_VERSION, kind]);
                out.extend_from_slice(&through.get().to_le_bytes());
            }
        }
        StoredBytes(out.into_boxed_slice())
    }
}

/// A stored value as bytes: the currency between the model and the stores.
#[derive(Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct StoredBytes(Box<[u8]>);

impl StoredBytes {
    /// Bytes that came from a store.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Whether they are the tombstone of an erased visitor.
    pub fn is_erased(&self) -> bool {
        matches!(*self.0, [_, KIND_ERASED, ..])
    }

    /// Whether they are a tombstone's.
    pub fn is_tombstone(&self) -> bool {
        matches!(*self.0, [_, KIND_ERASED | KIND_SWEPT, ..])
    }

    /// Their `through`, without decoding the rest.
    pub fn through(&self) -> Result<Seq, DecodeError> {
        through(&self.0)
    }

    /// What they say.
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

/// Why bytes are not a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later version of the program, or not by it at all.
    #[error("stored bytes of format version {0}; this program reads versions 1 to {FORMAT_VERSION}")]
    Version(u8),
    /// They end early, go on too long, or name things that do not exist.
    #[error("stored bytes that are damaged: {0}")]
    Damaged(&'static str),
}

/// The `through` of a stored value, without decoding the rest.
pub fn through(bytes: &[u8]) -> Result<Seq, DecodeError> {
    let (_, mut reader) = Reader::after_version(bytes)?;
    reader.u8()?;
    reader.seq()
}

/// Reads a stored value, borrowing its text.
pub fn decode(bytes: &[u8]) -> Result<Stored<'_>, DecodeError> {
    let (version, mut reader) = Reader::after_version(bytes)?;
    let kind = reader.u8()?;
    let through = reader.seq()?;
    match kind {
        KIND_PROFILE if version == earlier::VERSION => {
            earlier::decode_profile(through, reader).map(Stored::Profile)
        }
        KIND_PROFILE => decode_profile(through, reader).map(Stored::Profile),
        KIND_LINK => {
            let target = Key::from_bytes(reader.rest).ok_or(DecodeError::Damaged("a link to no key"))?;
            Ok(Stored::Link { through, target })
        }
        KIND_ERASED | KIND_SWEPT if reader.rest.is_empty() => {
            Ok(Stored::Tombstone { through, erased: kind == KIND_ERASED })
        }
        KIND_ERASED | KIND_SWEPT => Err(DecodeError::Damaged("a tombstone with something behind it")),
        _ => Err(DecodeError::Damaged("neither profile, link nor tombstone")),
    }
}

fn decode_profile<'a>(through: Seq, mut reader: Reader<'a>) -> Result<Profile<'a>, DecodeError> {
    let listed = reader.number()?;
    let seqs = Seqs { through, listed: reader.take(listed.saturating_mul(8))? };
    let mut profile = Profile {
        through,
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

    // What comes next has a byte at the least for each id, however many it claims.
    profile.ids.reserve_exact(ids.min(metas.rest.len()));
    for _ in 0..ids {
        let kind = IdKind::from_code(metas.u8()?).ok_or(DecodeError::Damaged("an unknown kind of id"))?;
        let seq = seqs.read(&mut metas)?;
        profile.ids.push(LinkedId { kind, seq, id: text.take(metas.number()?)? });
    }
    profile.attributes = decode_attributes(attributes, &seqs, &mut metas, &mut text)?;
    profile.layer = decode_attributes(layer, &seqs, &mut metas, &mut text)?;
    if !text.0.is_empty() || !metas.rest.is_empty() {
        return Err(DecodeError::Damaged("something that belongs to nothing"));
    }
    Ok(profile)
}

fn decode_attributes<'a>(
    number: usize,
    seqs: &Seqs<'_>,
    metas: &mut Reader<'_>,
    text: &mut Text<'a>,
) -> Result<Vec<Attribute<'a>>, DecodeError> {
    // Room for a few more: what is decoded is mostly about to be written to.
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
        return Err(DecodeError::Damaged("attributes that are not in the order of their names"));
    }
    Ok(())
}

/// The seqs that a value names.
struct Seqs<'a> {
    through: Seq,
    listed: &'a [u8],
}

impl Seqs<'_> {
    fn get(&self, which: usize) -> Result<Seq, DecodeError> {
        match which.checked_sub(SEQS_UNLISTED) {
            Some(place) => {
                let bytes = self.listed.get(place.saturating_mul(8)..).and_then(<[u8]>::first_chunk);
                let bytes = bytes.ok_or(DecodeError::Damaged("a seq that it does not list"))?;
                Ok(Seq::from_u64(u64::from_le_bytes(*bytes)))
            }
            None if which == 0 => Ok(Seq::ZERO),
            None => Ok(self.through),
        }
    }

    fn read(&self, reader: &mut Reader<'_>) -> Result<Seq, DecodeError> {
        self.get(reader.number()?)
    }
}

/// The same, being listed.
struct SeqList {
    through: Seq,
    listed: Vec<Seq>,
}

impl SeqList {
    /// What names the seq; lists it if it must.
    fn name(&mut self, seq: Seq) -> usize {
        if seq == Seq::ZERO {
            return 0;
        }
        if seq == self.through {
            return 1;
        }
        // A profile that many writes made, one attribute each, would else be looked through for each of them.
        let last = self.listed.len().saturating_sub(SEQS_LOOKED_THROUGH);
        let near = self.listed.iter().skip(last).position(|listed| *listed == seq);
        let place = near.map_or(self.listed.len(), |near| last + near);
        if near.is_none() {
            self.listed.push(seq);
        }
        place + SEQS_UNLISTED
    }
}

/// Writes a profile's bytes to the end of a buffer.
pub fn encode_profile(profile: &Profile<'_>, out: &mut Vec<u8>) {
    let mut seqs = SeqList { through: profile.through, listed: vec![] };
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

    // In the end all is laid out once, in as much room as it takes.
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
    out.extend_from_slice(&profile.through.get().to_le_bytes());
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
            Stored::Link { through: Seq::from_u64(8), target },
            Stored::Tombstone { erased: true, through: Seq::from_u64(9) },
        ] {
            let bytes = stored.encode();
            assert_eq!(bytes.decode(), Ok(stored.clone()));
            assert_eq!(bytes.through(), Ok(stored.through()));
            for cut in 0..bytes.as_slice().len() {
                // A link cut short may name a shorter key; nothing else may pass for whole.
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
    fn a_layer_shows_over_what_it_covers_and_folds_in() {
        let mut profile = Profile {
            attributes: vec![attribute("a", "1", 1), attribute("c", "1", 1)],
            layer: vec![attribute("b", "2", 2), attribute("c", "2", 2)],
            ..Profile::default()
        };
        let expected = vec![attribute("a", "1", 1), attribute("b", "2", 2), attribute("c", "2", 2)];
        assert_eq!(profile.visible(), expected);
        assert_eq!((profile.held_bytes(), profile.visible_bytes()), (8, 6));
        profile.fold_layer_in();
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

    /// However many writes made it, and whatever they are called by.
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

    /// What a batch sets, all of it at once, costs three bytes an attribute beyond its name and its value.
    #[test]
    fn what_one_write_set_takes_little_room() {
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
