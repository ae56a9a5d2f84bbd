//! What a batch is: its id, the settings that shape its outcome, its rows' outcomes and their counts.

use super::blocked::BlockedIds;
use super::id::{ClientCode, IdError, IdKind, visible};
use super::profile::Source;
use super::seq::{Millis, Seq};
use std::fmt;

/// A batch's public name. It is made of its client and its seq and of nothing else, so an attribute's seq names the
/// batch that set it for as long as the attribute lives. Looks like Adobe's: `demo-1701473848678-13029383`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// Whose batch.
    pub client: ClientCode,
    /// Its place in the order.
    pub seq: Seq,
}

/// What the last part of a batch id begins at, so that it has eight digits as Adobe's do.
const BATCH_NUMBER_BASE: u64 = 10_000_000;

impl BatchId {
    /// Reads an id; `None` if it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, number) = text.rsplit_once('-')?;
        let (client, millis) = rest.rsplit_once('-')?;
        let counter = number.parse::<u64>().ok()?.checked_sub(BATCH_NUMBER_BASE)?;
        let id = Self {
            client: ClientCode::new(client).ok()?,
            seq: Seq::from_parts(Millis(millis.parse().ok()?), counter),
        };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.client, self.seq.millis().0, BATCH_NUMBER_BASE + self.seq.counter())
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a client calls one sending of a batch, so that sending it again is no second batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

/// The most characters of an [`IdempotencyKey`].
pub const KEY_CHARS_MAX: usize = 255;

impl IdempotencyKey {
    /// How long a key is remembered, in milliseconds.
    pub const LASTS_MS: u64 = 24 * 60 * 60 * 1000;

    /// Checks a key: visible ASCII, not too long.
    pub fn new(text: &str) -> Option<Self> {
        let right =
            (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        right.then(|| Self(text.to_owned()))
    }

    /// As it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What consecutive v2 batches do to each other (R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsecutiveV2 {
    /// The later one overrides, per attribute.
    #[default]
    Merge,
    /// The later one's values replace all that earlier ones set since the visitor's last site call: Adobe's caveat.
    Replace,
}

/// How a batch file's raw characters are read: those that stand unencoded where they ought not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchReading {
    /// Each for itself: an escape that is none fails its row, and an ampersand is one.
    #[default]
    Kind,
    /// As Adobe reads them: an escape that is none refuses the batch, and an ampersand ends it.
    Adobe,
}

/// By which rules a batch's rows are read. They have changed, and whatever they become, a batch is read by those of the
/// program that accepted it (R4). A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowReading {
    rules: RowRules,
    blocked: BlockedIds,
}

/// Each version of the rules. The codes are stored and never change their meaning; nor does what is blocked by default
/// under one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum RowRules {
    /// A quote takes in all that follows up to the next one; whatever follows the dot of a `pcId` is a location hint; a
    /// line of commas is a row, and so is a Ctrl-Z; invisible characters are part of an id; no id is blocked.
    First = 0,
    /// As the head of `batch::csv` says.
    #[default]
    Second = 1,
}

/// Why a row's key is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// It is not well-formed.
    Illegal(IdError),
    /// It stands for nobody.
    Blocked,
}

impl RowReading {
    /// As of now, with these ids blocked.
    pub fn now(blocked: BlockedIds) -> Self {
        Self { rules: RowRules::default(), blocked }
    }

    /// As before batches said how they are read.
    pub fn before() -> Self {
        Self { rules: RowRules::First, blocked: BlockedIds::none() }
    }

    /// What is stored of it: the code of the rules, and the blocked ids if they are not those by default.
    pub fn stored(&self) -> (u8, Option<&[Box<str>]>) {
        (self.rules as u8, self.blocked.own().filter(|_| !self.is_before()))
    }

    /// What was stored of one; `None` if no program before this one wrote it.
    pub fn from_stored(code: u8, own: Option<Vec<Box<str>>>) -> Option<Self> {
        const FIRST: u8 = RowRules::First as u8;
        const SECOND: u8 = RowRules::Second as u8;
        match (code, own) {
            (FIRST, _) => Some(Self::before()),
            (SECOND, None) => Some(Self::now(BlockedIds::default())),
            (SECOND, Some(own)) => Some(Self::now(BlockedIds::these(own))),
            _ => None,
        }
    }

    /// Whether it is that of before batches said how they are read.
    pub fn is_before(&self) -> bool {
        self.rules == RowRules::First
    }

    /// What of a text is looked at as an id: all of it, but for what nobody sees around it.
    pub fn key<'t>(&self, text: &'t str) -> &'t str {
        if self.is_before() { text } else { visible(text) }
    }

    /// Checks a row's key, and gives the part of it that is the id.
    pub fn check<'t>(&self, kind: IdKind, text: &'t str) -> Result<&'t str, KeyError> {
        let checked = if self.is_before() {
            kind.check_as_before(text)
        } else if self.blocked.block(kind, text) {
            return Err(KeyError::Blocked);
        } else {
            kind.check(visible(text))
        };
        checked.map_err(KeyError::Illegal)
    }
}

/// What an empty value in a row does (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyValues {
    /// Nothing: it neither clears nor touches.
    #[default]
    Ignore,
    /// It removes the attribute: `?emptyValues=remove`.
    Remove,
}

/// All that shapes a batch's outcome besides its rows: carried by its journal entry, never read from today's
/// configuration (R4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRules {
    /// The batch's place in the order.
    pub seq: Seq,
    /// v1 or v2.
    pub source: Source,
    /// Whether a row for an unknown visitor creates a profile (R5).
    pub creates: bool,
    /// What it does to earlier v2 batches' values (R7).
    pub consecutive_v2: ConsecutiveV2,
    /// What empty values do (R6).
    pub empty_values: EmptyValues,
    /// How long a profile lives without site calls (R11).
    pub lifetime_ms: u64,
    /// The most a profile's names and values may come to (R9).
    pub max_profile_bytes: usize,
    /// By which rules its rows are read, and which ids fail one.
    pub reading: RowReading,
}

impl BatchRules {
    /// Whether its values go to the layer that a later batch can replace (R7).
    pub fn writes_layer(&self) -> bool {
        self.source == Source::BatchV2 && self.consecutive_v2 == ConsecutiveV2::Replace
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The visitor's profile has it.
    Updated,
    /// It made the visitor's profile, where creation is on (R5).
    Created,
    /// The visitor had no profile at the batch's place in the order (R5).
    NotFound,
    /// It brought nothing but empty values (R6).
    Ignored,
    /// It could not be applied: not well-formed, or the profile would have grown too large (R9).
    Failed,
}

impl Outcome {
    /// All there are, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Updated, Self::Created, Self::NotFound, Self::Ignored, Self::Failed];

    /// The byte that stands for it in stored bytes.
    pub const fn code(self) -> u8 {
        match self {
            Self::Updated => 0,
            Self::Created => 1,
            Self::NotFound => 2,
            Self::Ignored => 3,
            Self::Failed => 4,
        }
    }

    /// What a stored byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What the APIs call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Updated => "updated",
            Self::Created => "created",
            Self::NotFound => "not_found",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }
}

/// How many rows had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Rows that changed a profile.
    pub updated: u64,
    /// Rows that made one.
    pub created: u64,
    /// Rows for visitors without one.
    pub not_found: u64,
    /// Rows of nothing but empty values.
    pub ignored: u64,
    /// Rows that could not be applied.
    pub failed: u64,
}

impl Counts {
    /// Counts one more row.
    pub fn add(&mut self, outcome: Outcome) {
        *self.of_mut(outcome) += 1;
    }

    /// All rows counted.
    pub fn total(&self) -> u64 {
        self.updated + self.created + self.not_found + self.ignored + self.failed
    }

    /// Both counts in one.
    pub fn plus(mut self, other: &Self) -> Self {
        for outcome in Outcome::ALL {
            *self.of_mut(outcome) += other.of(outcome);
        }
        self
    }

    /// What came since earlier counts of the same rows.
    pub fn since(mut self, earlier: &Self) -> Self {
        for outcome in Outcome::ALL {
            *self.of_mut(outcome) -= earlier.of(outcome);
        }
        self
    }

    /// How many had this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Updated => self.updated,
            Outcome::Created => self.created,
            Outcome::NotFound => self.not_found,
            Outcome::Ignored => self.ignored,
            Outcome::Failed => self.failed,
        }
    }

    fn of_mut(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Updated => &mut self.updated,
            Outcome::Created => &mut self.created,
            Outcome::NotFound => &mut self.not_found,
            Outcome::Ignored => &mut self.ignored,
            Outcome::Failed => &mut self.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_ids_read_back_and_nothing_else_does() {
        let id = BatchId {
            client: ClientCode::new("my-shop").unwrap(),
            seq: Seq::from_parts(Millis(1_701_473_848_678), 12),
        };
        assert_eq!(id.to_string(), "my-shop-1701473848678-10000012");
        assert_eq!(BatchId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "demo",
            "demo-1",
            "demo-1-2",
            "demo-1-9999999",
            "demo-01-10000000",
            "-1-10000000",
            "a&b-1-10000000",
        ] {
            assert_eq!(BatchId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn how_rows_are_read_is_stored_and_reads_back() {
        let own = RowReading::now(BlockedIds::these(["Void"]));
        for reading in [RowReading::default(), RowReading::before(), RowReading::now(BlockedIds::none()), own]
        {
            let (code, own) = reading.stored();
            assert_eq!(RowReading::from_stored(code, own.map(<[_]>::to_vec)), Some(reading));
        }
        assert_eq!(RowReading::from_stored(2, None), None);
        let check = |reading: &RowReading, text| reading.check(IdKind::Pc, text).ok().map(str::to_owned);
        for (text, before, now) in [
            ("1.28_0", Some("1"), Some("1")),
            ("alice.smith", Some("alice"), None),
            ("undefined", Some("undefined"), None),
            ("0", Some("0"), None),
            ("\u{a0}1", Some("\u{a0}1"), Some("1")),
        ] {
            assert_eq!(check(&RowReading::before(), text).as_deref(), before, "{text:?} before");
            assert_eq!(check(&RowReading::default(), text).as_deref(), now, "{text:?} now");
        }
    }

    #[test]
    fn outcomes_have_codes_that_read_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
        }
        assert_eq!(Outcome::from_code(5), None);
    }
}
