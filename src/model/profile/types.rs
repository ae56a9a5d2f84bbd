//! What a profile is made of: attributes, linked ids, sources; and the limits on them.

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
