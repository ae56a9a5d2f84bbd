//! A batch's id, the rules that shape its outcome, the outcomes of its rows and their counts.

use super::blocked::BlockedIds;
use super::id::{ClientCode, IdError, IdKind, visible};
use super::profile::Source;
use super::seq::{Millis, Seq};
use std::fmt;

/// A batch's public name, built from its client and its seq alone. Each attribute keeps the seq of its last write, so
/// it always names the batch that set it. The form is Adobe's: `demo-1701473848678-13029383`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// The client that sent the batch.
    pub client: ClientCode,
    /// The batch's place in the order of all writes (R3).
    pub seq: Seq,
}

/// Added to the counter in a batch id, so that this part has eight digits like Adobe's.
const BATCH_NUMBER_BASE: u64 = 10_000_000;

impl BatchId {
    /// Parses a batch id. `None` if this program cannot have produced the text.
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

/// The state of a batch, with its one name in the API, the command line, the inspector and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Accepted, durable and readable, but not all in the store yet.
    Incomplete,
    /// Applied, counted and checkpointed.
    Complete,
    /// The store keeps refusing it, or its file is not what was accepted.
    Stuck,
}

impl BatchState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Incomplete, Self::Complete, Self::Stuck];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Complete => "complete",
            Self::Stuck => "stuck",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for BatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `Idempotency-Key` of an upload. A second upload with the same key is answered with the first one's batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

/// The most characters in an [`IdempotencyKey`].
pub const KEY_CHARS_MAX: usize = 255;

impl IdempotencyKey {
    /// How long the daemon remembers a key, in milliseconds.
    pub const LASTS_MS: u64 = 24 * 60 * 60 * 1000;

    /// Checks a key: 1 to [`KEY_CHARS_MAX`] visible ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let right =
            (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        right.then(|| Self(text.to_owned()))
    }

    /// The key, as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What its sender calls a batch, for people: a file's name, say. Several batches may have the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchName(Box<str>);

/// The most characters in a [`BatchName`].
pub const BATCH_NAME_CHARS_MAX: usize = 128;

impl BatchName {
    /// Checks a name: 1 to [`BATCH_NAME_CHARS_MAX`] characters, none of them a control character, with something to be seen at
    /// both ends.
    pub fn new(text: &str) -> Option<Self> {
        let right = !text.is_empty()
            && text.trim() == text
            && text.chars().nth(BATCH_NAME_CHARS_MAX).is_none()
            && !text.chars().any(char::is_control);
        right.then(|| Self(text.into()))
    }

    /// The name, as its sender gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a v2 batch treats the values of earlier v2 batches (R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsecutiveV2 {
    /// The later batch overrides the earlier one attribute by attribute.
    #[default]
    Merge,
    /// The later batch replaces all values that v2 batches set since the visitor's last site call. Adobe documents
    /// this.
    Replace,
}

/// How strictly a batch file is read where it holds characters that should have been encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchReading {
    /// Lenient: an invalid escape fails its row only, and a stray ampersand is text.
    #[default]
    Kind,
    /// Like Adobe: an invalid escape rejects the batch, and a stray ampersand ends it.
    Adobe,
}

/// The rules for reading a batch's rows. The rules have changed between versions; each batch keeps the rules of the
/// version that accepted it (R4). Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowReading {
    rules: RowRules,
    blocked: BlockedIds,
}

/// The versions of the reading rules. The codes are stored, so a code never changes its meaning, and the default list
/// of blocked ids under a code never changes either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum RowRules {
    /// A quote extends to the next quote, even across lines; anything after the dot of a `pcId` is a location hint; a
    /// line of commas or a Ctrl-Z is a row; invisible characters are part of an id; no id is blocked.
    First = 0,
    /// The rules in the head of `batch::csv`.
    #[default]
    Second = 1,
    /// Each line is a JSON object, by the rules in the head of `batch::csv::ndjson`. Ids are checked as by `Second`.
    Objects = 2,
}

/// The form in which a batch's rows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowForm {
    /// A CSV file.
    #[default]
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl RowForm {
    /// Its name in the API; also how a file's name ends.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }

    /// The form of a file by its name: `.ndjson` and `.jsonl`, perhaps before `.gz` or `.zst`, are NDJSON; all others CSV.
    pub fn of_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        if plain.ends_with(".ndjson") || plain.ends_with(".jsonl") { Self::Ndjson } else { Self::Csv }
    }
}

/// Why a row's key is not a valid visitor id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The text breaks the rules for this kind of id (R1).
    Illegal(IdError),
    /// The text is a placeholder such as `undefined` that identifies nobody.
    Blocked,
}

impl RowReading {
    /// Today's rules, with these ids blocked.
    pub fn now(blocked: BlockedIds) -> Self {
        Self { rules: RowRules::default(), blocked }
    }

    /// Today's rules for rows in this form, with these ids blocked.
    pub fn of_form(form: RowForm, blocked: BlockedIds) -> Self {
        let rules = match form {
            RowForm::Csv => RowRules::default(),
            RowForm::Ndjson => RowRules::Objects,
        };
        Self { rules, blocked }
    }

    /// The form of the rows.
    pub fn form(&self) -> RowForm {
        match self.rules {
            RowRules::First | RowRules::Second => RowForm::Csv,
            RowRules::Objects => RowForm::Ndjson,
        }
    }

    /// The rules of versions that did not store reading rules with a batch.
    pub fn before() -> Self {
        Self { rules: RowRules::First, blocked: BlockedIds::none() }
    }

    /// The stored form: the code of the rules, and the blocked ids if they differ from the default list.
    pub fn stored(&self) -> (u8, Option<&[Box<str>]>) {
        (self.rules as u8, self.blocked.own().filter(|_| !self.is_before()))
    }

    /// Restores reading rules from their stored form. `None` if a later version of the program wrote them.
    pub fn from_stored(code: u8, own: Option<Vec<Box<str>>>) -> Option<Self> {
        const FIRST: u8 = RowRules::First as u8;
        const SECOND: u8 = RowRules::Second as u8;
        const OBJECTS: u8 = RowRules::Objects as u8;
        let blocked = |own: Option<Vec<Box<str>>>| own.map_or_else(BlockedIds::default, BlockedIds::these);
        match code {
            FIRST => Some(Self::before()),
            SECOND => Some(Self::of_form(RowForm::Csv, blocked(own))),
            OBJECTS => Some(Self::of_form(RowForm::Ndjson, blocked(own))),
            _ => None,
        }
    }

    /// Whether these are the rules of versions that did not store reading rules with a batch.
    pub fn is_before(&self) -> bool {
        self.rules == RowRules::First
    }

    /// The part of the text that is checked as an id: without invisible characters at either end.
    pub fn key<'t>(&self, text: &'t str) -> &'t str {
        if self.is_before() { text } else { visible(text) }
    }

    /// Checks a row's key and returns the part of it that is the id.
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
    /// The attribute stays as it is.
    #[default]
    Ignore,
    /// The attribute is removed: `?emptyValues=remove`.
    Remove,
}

/// Everything except the rows that shapes a batch's outcome. The batch's journal entry carries it, so a later change of
/// the configuration does not change the batch (R4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRules {
    /// The batch's place in the order of all writes (R3).
    pub seq: Seq,
    /// Batch v1 or batch v2.
    pub source: Source,
    /// Whether a row for an unknown visitor creates a profile (R5).
    pub creates: bool,
    /// How the batch treats values of earlier v2 batches (R7).
    pub consecutive_v2: ConsecutiveV2,
    /// What empty values do (R6).
    pub empty_values: EmptyValues,
    /// How long a profile lives after its last site call, in milliseconds (R11).
    pub lifetime_ms: u64,
    /// The limit on a profile's visible names and values, in bytes (R9).
    pub max_profile_bytes: usize,
    /// How the rows are read, and which ids are blocked.
    pub reading: RowReading,
    /// How many earlier values of each attribute a profile keeps; 0: none.
    pub history_max: u16,
    /// The time that the values are of. A value leaves alone what was written later. `None`: they are as new as the batch.
    pub as_of: Option<Millis>,
    /// The seq of the batch that this one undoes. Then its rows only name the visitors.
    pub undoes: Option<Seq>,
}

impl BatchRules {
    /// Whether the batch writes to the layer, which a later batch can replace (R7).
    pub fn writes_layer(&self) -> bool {
        self.source == Source::BatchV2 && self.consecutive_v2 == ConsecutiveV2::Replace
    }
}

/// The most attributes in the file of a batch with a time of its own ([`BatchRules::as_of`]), so that an outcome has
/// room to tell which of them a row left alone.
pub const AS_OF_ATTRIBUTES_MAX: usize = 56;

/// The attributes that a row left alone because they were written later than its batch's time: their numbers in the
/// header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LeftAlone([u8; AS_OF_ATTRIBUTES_MAX / 8]);

impl LeftAlone {
    /// Adds an attribute, by its number in the header.
    pub fn add(&mut self, attribute: usize) {
        debug_assert!(
            attribute < AS_OF_ATTRIBUTES_MAX,
            "a batch with a time has few attributes: {attribute}"
        );
        if let Some(byte) = self.0.get_mut(attribute / 8) {
            *byte |= 1 << (attribute % 8);
        }
    }

    /// Whether it has this attribute.
    pub fn has(self, attribute: usize) -> bool {
        self.0.get(attribute / 8).is_some_and(|byte| byte & (1 << (attribute % 8)) != 0)
    }

    /// The attributes, in the header's order.
    pub fn attributes(self) -> impl Iterator<Item = usize> {
        (0..AS_OF_ATTRIBUTES_MAX).filter(move |attribute| self.has(*attribute))
    }

    fn bits(self) -> u64 {
        let [b0, b1, b2, b3, b4, b5, b6] = self.0;
        u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, 0])
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let [b0, b1, b2, b3, b4, b5, b6, 0] = bits.to_le_bytes() else { return None };
        Some(Self([b0, b1, b2, b3, b4, b5, b6]))
    }
}

impl fmt::Debug for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.attributes()).finish()
    }
}

/// The outcome of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The row changed an existing profile.
    Updated,
    /// The row changed an existing profile, and left these attributes alone because they were written later than the
    /// batch's time. Counts as updated.
    UpdatedInPart(LeftAlone),
    /// Everything that the row brings was written later than the batch's time, so it changed nothing. Counts as ignored.
    Newer,
    /// The row created a profile, because the batch creates profiles (R5).
    Created,
    /// The visitor had no profile at the batch's place in the order (R5).
    NotFound,
    /// The row had only empty values (R6).
    Ignored,
    /// The row was not valid, or the profile would have become too large (R9).
    Failed,
}

impl Outcome {
    /// The outcomes by which rows are counted and asked for, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Updated, Self::Created, Self::NotFound, Self::Ignored, Self::Failed];

    /// The outcome's stored byte. That of [`UpdatedInPart`](Self::UpdatedInPart) does not say which attributes.
    pub const fn code(self) -> u8 {
        match self {
            Self::Updated => 0,
            Self::Created => 1,
            Self::NotFound => 2,
            Self::Ignored => 3,
            Self::Failed => 4,
            Self::Newer => 5,
            Self::UpdatedInPart(_) => 6,
        }
    }

    /// The attributes that the row left alone, as bits: all that the code does not say.
    pub fn left_bits(self) -> u64 {
        if let Self::UpdatedInPart(left) = self { left.bits() } else { 0 }
    }

    /// The outcome for a stored byte and the bits beside it.
    pub fn from_stored(code: u8, left_bits: u64) -> Option<Self> {
        match (code, left_bits) {
            (6, 1..) => Some(Self::UpdatedInPart(LeftAlone::from_bits(left_bits)?)),
            (5, 0) => Some(Self::Newer),
            (_, 0) => Self::ALL.get(usize::from(code)).copied(),
            _ => None,
        }
    }

    /// The code and the bits in one number, as the journal has it. It is the code alone where there are no bits.
    pub fn number(self) -> u64 {
        self.left_bits() << CODE_BITS | u64::from(self.code())
    }

    /// The outcome for such a number.
    pub fn from_number(number: u64) -> Option<Self> {
        let code = u8::try_from(number & ((1 << CODE_BITS) - 1)).ok()?;
        Self::from_stored(code, number >> CODE_BITS)
    }

    /// The one of [`ALL`](Self::ALL) as which it counts.
    pub const fn counted(self) -> Self {
        match self {
            Self::UpdatedInPart(_) => Self::Updated,
            Self::Newer => Self::Ignored,
            other => other,
        }
    }

    /// Whether the row changed a profile.
    pub const fn applied(self) -> bool {
        matches!(self.counted(), Self::Updated | Self::Created)
    }

    /// Whether the row set or removed this attribute, if it named it.
    pub fn wrote(self, attribute: usize) -> bool {
        match self {
            Self::UpdatedInPart(left) => !left.has(attribute),
            other => other.applied(),
        }
    }

    /// The outcome's name in the APIs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Updated | Self::UpdatedInPart(_) => "updated",
            Self::Created => "created",
            Self::NotFound => "not_found",
            Self::Ignored | Self::Newer => "ignored",
            Self::Failed => "failed",
        }
    }
}

/// How many bits of a [number](Outcome::number) are the code.
const CODE_BITS: u32 = 3;

/// The number of rows per outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Rows that changed an existing profile.
    pub updated: u64,
    /// Rows that created a profile.
    pub created: u64,
    /// Rows for visitors without a profile.
    pub not_found: u64,
    /// Rows with only empty values, or with only attributes that were written later than the batch's time.
    pub ignored: u64,
    /// Rows that could not be applied.
    pub failed: u64,
}

impl Counts {
    /// Counts one more row with this outcome.
    pub fn add(&mut self, outcome: Outcome) {
        *self.of_mut(outcome) += 1;
    }

    /// The number of all rows.
    pub fn total(&self) -> u64 {
        self.updated + self.created + self.not_found + self.ignored + self.failed
    }

    /// The sum of both counts.
    pub fn plus(mut self, other: &Self) -> Self {
        for outcome in Outcome::ALL {
            *self.of_mut(outcome) += other.of(outcome);
        }
        self
    }

    /// The rows counted since `earlier`, which is an earlier state of the same counts.
    pub fn since(mut self, earlier: &Self) -> Self {
        for outcome in Outcome::ALL {
            *self.of_mut(outcome) -= earlier.of(outcome);
        }
        self
    }

    /// The number of rows with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Updated | Outcome::UpdatedInPart(_) => self.updated,
            Outcome::Created => self.created,
            Outcome::NotFound => self.not_found,
            Outcome::Ignored | Outcome::Newer => self.ignored,
            Outcome::Failed => self.failed,
        }
    }

    fn of_mut(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Updated | Outcome::UpdatedInPart(_) => &mut self.updated,
            Outcome::Created => &mut self.created,
            Outcome::NotFound => &mut self.not_found,
            Outcome::Ignored | Outcome::Newer => &mut self.ignored,
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
    fn the_form_of_a_file_follows_from_its_name() {
        for name in ["a.ndjson", "a.JSONL", "a.ndjson.gz", "b/a.jsonl.zst"] {
            assert_eq!(RowForm::of_name(name), RowForm::Ndjson, "{name}");
        }
        for name in ["a.csv", "BATCH.TXT", "-", "a.csv.gz", "ndjson", "a.ndjson.csv"] {
            assert_eq!(RowForm::of_name(name), RowForm::Csv, "{name}");
        }
    }

    #[test]
    fn how_rows_are_read_is_stored_and_reads_back() {
        let own = |form| RowReading::of_form(form, BlockedIds::these(["Void"]));
        let none = |form| RowReading::of_form(form, BlockedIds::none());
        let all = [RowReading::default(), RowReading::before()].into_iter();
        let of_forms = [RowForm::Csv, RowForm::Ndjson].into_iter().flat_map(|form| [own(form), none(form)]);
        for reading in all.chain(of_forms) {
            let (code, own) = reading.stored();
            assert_eq!(RowReading::from_stored(code, own.map(<[_]>::to_vec)), Some(reading));
        }
        assert_eq!(RowReading::from_stored(3, None), None);
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
        let mut left = LeftAlone::default();
        [0, 8, 55].into_iter().for_each(|attribute| left.add(attribute));
        assert_eq!(left.attributes().collect::<Vec<_>>(), [0, 8, 55]);
        for outcome in Outcome::ALL.into_iter().chain([Outcome::Newer, Outcome::UpdatedInPart(left)]) {
            assert_eq!(Outcome::from_stored(outcome.code(), outcome.left_bits()), Some(outcome));
            assert_eq!(Outcome::from_number(outcome.number()), Some(outcome));
            assert_eq!(outcome.name(), outcome.counted().name());
            assert!(Outcome::ALL.contains(&outcome.counted()));
        }
        assert_eq!(Outcome::Failed.number(), 4, "as earlier programs wrote it");
        for (code, bits) in [(7, 0), (6, 0), (6, 1 << 56), (4, 1)] {
            assert_eq!(Outcome::from_stored(code, bits), None, "{code} {bits}");
        }
    }
}
