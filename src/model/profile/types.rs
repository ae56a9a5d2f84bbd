//! What a profile is made of: attributes, linked ids, sources; and the limits on them.

use super::history::{Earlier, History};
use crate::model::id::IdKind;
use crate::model::seq::{Millis, Seq};

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
    /// Its stored byte.
    pub const fn code(self) -> u8 {
        match self {
            Self::Mbox => 1,
            Self::Delivery => 2,
            Self::SingleUpdate => 3,
            Self::BatchV1 => 4,
            Self::BatchV2 => 5,
        }
    }

    /// The source for a stored byte.
    pub const fn from_code(code: u8) -> Option<Self> {
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
    /// The time that the value is of, if its batch said one: `asOf`.
    pub as_of: Option<Millis>,
}

impl Attribute<'_> {
    /// The attribute's share of the profile's size limit, in bytes (R9).
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.len()
    }

    /// The time that the value is of: what its batch said, or else when it was written.
    pub fn time(&self) -> Millis {
        self.as_of.unwrap_or(self.seq.millis())
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
    /// The earlier values of the attributes.
    pub history: History<'a>,
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
