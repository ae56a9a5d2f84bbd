//! What is stored under a key: a profile, a link to one, or a tombstone; and the hand-laid bytes of each.
//!
//! Promises: encoding is deterministic (equal values have equal bytes, so a swap can compare bytes), decoding
//! borrows and never panics on any bytes, and every value carries `through`: the seq up to which all writes to its
//! key are in it.
//!
//! ```text
//! version u8 · kind u8 · through u64 · …
//! profile:   born u64 · last_site u64 · last_batch u64 · last_write u64 · last_active u64
//!            ids u16 · attributes u32 · layer u32
//!            ids ×        (kind u8 · seq u64 · length u16)
//!            attributes × (seq u64 · source u8 · name length u16 · value length u32), by name
//!            layer ×      (the same)
//!            text: the ids, then names and values, in that order
//! link:      the target's key
//! tombstone: nothing; its kind tells whether the visitor was erased or swept
//! ```
//! All numbers are little-endian.

use super::id::{IdKind, Key};
use super::seq::{Millis, Seq};

/// The version all stored values begin with.
pub const FORMAT_VERSION: u8 = 1;
/// How many ids of one kind a profile lists: the most recently bound (R1).
pub const LINKED_IDS_MAX: usize = 256;

/// The longest name of an attribute, in characters (R9).
pub const NAME_CHARS_MAX: usize = 128;
/// What stands before an attribute's name in a parameter, and never in the name itself (R9).
pub const NAME_PREFIX: &str = "profile.";

const KIND_PROFILE: u8 = 1;
const KIND_LINK: u8 = 2;
const KIND_ERASED: u8 = 3;
const KIND_SWEPT: u8 = 4;
const ID_META_BYTES: usize = 1 + 8 + 2;
const ATTRIBUTE_META_BYTES: usize = 8 + 1 + 2 + 4;

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
    #[error("stored bytes of format version {0}; this program reads version {FORMAT_VERSION}")]
    Version(u8),
    /// They end early, go on too long, or name things that do not exist.
    #[error("stored bytes that are damaged: {0}")]
    Damaged(&'static str),
}

/// The `through` of a stored value, without decoding the rest.
pub fn through(bytes: &[u8]) -> Result<Seq, DecodeError> {
    Reader::after_version(bytes).and_then(|mut reader| {
        reader.u8()?;
        reader.seq()
    })
}

/// Reads a stored value, borrowing its text.
pub fn decode(bytes: &[u8]) -> Result<Stored<'_>, DecodeError> {
    let mut reader = Reader::after_version(bytes)?;
    let kind = reader.u8()?;
    let through = reader.seq()?;
    match kind {
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
    let mut profile = Profile {
        through,
        born: reader.seq()?,
        last_site: reader.seq()?,
        last_batch: reader.seq()?,
        last_write: reader.seq()?,
        last_active: Millis(reader.u64()?),
        ..Profile::default()
    };
    let (ids, attributes, layer) = (usize::from(reader.u16()?), reader.count()?, reader.count()?);
    let id_metas = reader.take(ids.saturating_mul(ID_META_BYTES))?;
    let metas = reader.take(attributes.saturating_mul(ATTRIBUTE_META_BYTES))?;
    let layer_metas = reader.take(layer.saturating_mul(ATTRIBUTE_META_BYTES))?;
    let mut text =
        Text(std::str::from_utf8(reader.rest).map_err(|_| DecodeError::Damaged("text that is not UTF-8"))?);

    profile.ids.reserve_exact(ids);
    for meta in id_metas.chunks_exact(ID_META_BYTES) {
        let mut meta = Reader { rest: meta };
        let kind = IdKind::from_code(meta.u8()?).ok_or(DecodeError::Damaged("an unknown kind of id"))?;
        let seq = meta.seq()?;
        profile.ids.push(LinkedId { kind, seq, id: text.take(usize::from(meta.u16()?))? });
    }
    profile.attributes = decode_attributes(metas, &mut text)?;
    profile.layer = decode_attributes(layer_metas, &mut text)?;
    if !text.0.is_empty() {
        return Err(DecodeError::Damaged("text that belongs to nothing"));
    }
    Ok(profile)
}

fn decode_attributes<'a>(metas: &[u8], text: &mut Text<'a>) -> Result<Vec<Attribute<'a>>, DecodeError> {
    // Room for a few more: what is decoded is mostly about to be written to.
    let mut attributes: Vec<Attribute<'a>> = Vec::with_capacity(metas.len() / ATTRIBUTE_META_BYTES + 4);
    for meta in metas.chunks_exact(ATTRIBUTE_META_BYTES) {
        let mut meta = Reader { rest: meta };
        let seq = meta.seq()?;
        let source = Source::from_code(meta.u8()?).ok_or(DecodeError::Damaged("an unknown source"))?;
        let (name, value) = (usize::from(meta.u16()?), meta.count()?);
        attributes.push(Attribute { name: text.take(name)?, value: text.take(value)?, seq, source });
    }
    if attributes.windows(2).any(|pair| matches!(pair, [a, b] if a.name >= b.name)) {
        return Err(DecodeError::Damaged("attributes that are not in the order of their names"));
    }
    Ok(attributes)
}

/// Writes a profile's bytes to the end of a buffer.
pub fn encode_profile(profile: &Profile<'_>, out: &mut Vec<u8>) {
    let text: usize = profile.held_bytes() + profile.ids.iter().map(|linked| linked.id.len()).sum::<usize>();
    let metas = (profile.attributes.len() + profile.layer.len()) * ATTRIBUTE_META_BYTES;
    out.reserve_exact(60 + profile.ids.len() * ID_META_BYTES + metas + text);
    out.extend_from_slice(&[FORMAT_VERSION, KIND_PROFILE]);
    for seq in [profile.through, profile.born, profile.last_site, profile.last_batch, profile.last_write] {
        out.extend_from_slice(&seq.get().to_le_bytes());
    }
    out.extend_from_slice(&profile.last_active.0.to_le_bytes());
    // At most 256 ids of each kind; names, values and their number are bounded by the size of a call's body.
    out.extend_from_slice(&narrow::<u16>(profile.ids.len()).to_le_bytes());
    out.extend_from_slice(&narrow::<u32>(profile.attributes.len()).to_le_bytes());
    out.extend_from_slice(&narrow::<u32>(profile.layer.len()).to_le_bytes());
    for linked in &profile.ids {
        out.push(linked.kind.code());
        out.extend_from_slice(&linked.seq.get().to_le_bytes());
        out.extend_from_slice(&narrow::<u16>(linked.id.len()).to_le_bytes());
    }
    for attribute in profile.attributes.iter().chain(&profile.layer) {
        out.extend_from_slice(&attribute.seq.get().to_le_bytes());
        out.push(attribute.source.code());
        out.extend_from_slice(&narrow::<u16>(attribute.name.len()).to_le_bytes());
        out.extend_from_slice(&narrow::<u32>(attribute.value.len()).to_le_bytes());
    }
    for linked in &profile.ids {
        out.extend_from_slice(linked.id.as_bytes());
    }
    for attribute in profile.attributes.iter().chain(&profile.layer) {
        out.extend_from_slice(attribute.name.as_bytes());
        out.extend_from_slice(attribute.value.as_bytes());
    }
}

fn narrow<T: TryFrom<usize> + Default>(length: usize) -> T {
    let narrowed = T::try_from(length);
    debug_assert!(narrowed.is_ok(), "a length that the limits of R9 rule out: {length}");
    narrowed.unwrap_or_default()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn after_version(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Self { rest: bytes };
        match reader.u8()? {
            FORMAT_VERSION => Ok(reader),
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

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn seq(&mut self) -> Result<Seq, DecodeError> {
        self.u64().map(Seq::from_u64)
    }

    fn count(&mut self) -> Result<usize, DecodeError> {
        let number = self.array().map(u32::from_le_bytes)?;
        usize::try_from(number).map_err(|_| DecodeError::Damaged("a count that is too large"))
    }
}

struct Text<'a>(&'a str);

impl<'a> Text<'a> {
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
