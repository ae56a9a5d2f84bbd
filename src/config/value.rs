//! The types that read a setting's value: from a quoted or bare value of the file, or from the text of a flag or variable.
//!
//! Promises: a type says what it takes in words, and its errors repeat what was written and say what would be right.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeArray, DeValue};

use crate::model::batch::{BatchReading, ConsecutiveV2};
use crate::model::blocked::{BLOCKED_BYTES_MAX, BLOCKED_IDS_MAX, BlockedIds};
use crate::model::id::{ClientCode, visible};

/// The longest `public_url`, in bytes. A status URL may have 255 characters, because some of Adobe's clients keep no
/// more: 64 for this, twice 64 for the client code in its path and in the batch id, and the rest for the path and the
/// id's number.
const PUBLIC_URL_BYTES_MAX: usize = 64;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
const SECOND_MS: u64 = 1000;
pub(super) const HOUR_MS: u64 = 60 * 60 * SECOND_MS;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;

/// A value as it is written, and the byte of the file where it begins; none for a flag or a variable.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    value: Value<'a>,
    pub(super) at: Option<usize>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Bool(bool),
    List(&'a DeArray<'a>),
    /// A value of the file that no setting takes, such as a date.
    Other(&'a DeValue<'a>),
    /// The text of a flag or a variable.
    Flag(&'a str),
}

/// What is wrong with a value, and the byte of the file where it begins.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Option<usize>,
    /// What was written, and what would be right.
    pub(super) what: String,
}

/// How a setting is written as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--name VALUE`
    One,
    /// `--name` or `--name=false`
    Switch,
    /// `--name VALUE,VALUE`
    List,
}

/// A type that reads a setting.
pub(super) trait Setting: Sized {
    /// What the program goes on with.
    type Value;

    const KIND: Kind = Kind::One;

    /// Reads a value.
    fn read(written: Written<'_>) -> Result<Self, Wrong>;

    /// What it takes, in words that end a sentence.
    fn expected() -> String;

    /// What the program goes on with.
    fn value(self) -> Self::Value;

    /// The value as it is written in the file, or in words if it stands for none.
    fn shown(&self) -> DefaultText;
}

/// A default as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DefaultText {
    /// As it is written in the file.
    Written(String),
    /// In words, for no value stands for it; and a value as an example.
    Words { words: &'static str, example: &'static str },
}

/// A type that reads a single value.
pub(super) trait Scalar: Sized {
    /// What the program goes on with.
    type Value;

    const KIND: Kind = Kind::One;

    /// Reads a value; an error is what would be right.
    fn parse(written: Written<'_>) -> Result<Self, String>;

    /// What it takes, in words that end a sentence.
    fn expected() -> String;

    /// What the program goes on with.
    fn value(self) -> Self::Value;

    /// The value as it is written in the file.
    fn text(&self) -> String;
}

impl<T: Scalar> Setting for T {
    type Value = T::Value;
    const KIND: Kind = T::KIND;

    fn read(written: Written<'_>) -> Result<Self, Wrong> {
        T::parse(written).map_err(|right| Wrong { at: written.at, what: format!("{written} is not {right}") })
    }

    fn expected() -> String {
        T::expected()
    }

    fn value(self) -> T::Value {
        T::value(self)
    }

    fn shown(&self) -> DefaultText {
        DefaultText::Written(self.text())
    }
}

impl<'a> Written<'a> {
    pub(super) const fn flag(text: &'a str) -> Self {
        Self { value: Value::Flag(text), at: None }
    }

    pub(super) fn text(self) -> Option<&'a str> {
        match self.value {
            Value::Text(text) | Value::Flag(text) => Some(text),
            Value::Number(_) | Value::Bool(_) | Value::List(_) | Value::Other(_) => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self.value {
            Value::Number(number) => u64::try_from(number).ok(),
            Value::Flag(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// The items of a list; of a flag, what stands between commas.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        match self.value {
            Value::List(list) => Some(list.iter().map(Self::from).collect()),
            Value::Flag(text) => Some(text.split(',').map(Self::flag).collect()),
            _ => None,
        }
    }
}

impl<'a> From<&'a Spanned<DeValue<'a>>> for Written<'a> {
    fn from(value: &'a Spanned<DeValue<'a>>) -> Self {
        let at = Some(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text),
            DeValue::Boolean(bool) => Value::Bool(*bool),
            DeValue::Array(list) => Value::List(list),
            other @ DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix());
                number.map_or(Value::Other(other), Value::Number)
            }
            other => Value::Other(other),
        };
        Self { value, at }
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Value::Text(text) | Value::Flag(text) => write!(f, "{text:?}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Bool(bool) => write!(f, "{bool}"),
            Value::List(_) => f.write_str("a list"),
            Value::Other(DeValue::Integer(number)) => write!(f, "{number}"),
            Value::Other(DeValue::Float(number)) => f.write_str(number.as_str()),
            Value::Other(DeValue::Datetime(date)) => write!(f, "{date}"),
            Value::Other(_) => f.write_str("a table"),
        }
    }
}

/// A setting that may have no value.
pub(super) struct Maybe<T> {
    value: Option<T>,
    shown: DefaultText,
}

impl<T> Maybe<T> {
    /// No value: what holds then, in words, and a value as an example.
    pub(super) const fn none(words: &'static str, example: &'static str) -> Self {
        Self { value: None, shown: DefaultText::Words { words, example } }
    }
}

impl<T: Scalar> Setting for Maybe<T> {
    type Value = Option<T::Value>;

    fn read(written: Written<'_>) -> Result<Self, Wrong> {
        let value = <T as Setting>::read(written)?;
        Ok(Self { shown: value.shown(), value: Some(value) })
    }

    fn expected() -> String {
        <T as Scalar>::expected()
    }

    fn value(self) -> Self::Value {
        self.value.map(Scalar::value)
    }

    fn shown(&self) -> DefaultText {
        self.shown.clone()
    }
}

/// A list of values.
pub(super) struct List<T> {
    items: Vec<T>,
    example: &'static str,
}

impl<T> List<T> {
    /// No items, and a list as an example.
    pub(super) const fn none(example: &'static str) -> Self {
        Self { items: Vec::new(), example }
    }
}

impl<T: Scalar> Setting for List<T> {
    type Value = Arc<[T::Value]>;
    const KIND: Kind = Kind::List;

    fn read(written: Written<'_>) -> Result<Self, Wrong> {
        match written.items() {
            Some(items) => {
                let items = items.into_iter().map(<T as Setting>::read).collect::<Result<_, _>>()?;
                Ok(Self { items, example: "" })
            }
            None => {
                let what = format!("{written} is not {}", Self::expected());
                Err(Wrong { at: written.at, what })
            }
        }
    }

    fn expected() -> String {
        format!("a list; each item is {}", <T as Scalar>::expected())
    }

    fn value(self) -> Self::Value {
        self.items.into_iter().map(Scalar::value).collect()
    }

    fn shown(&self) -> DefaultText {
        DefaultText::Words { words: "none", example: self.example }
    }
}

/// A client's `blocked_ids`.
pub(super) struct Blocked(Option<BlockedIds>);

impl Blocked {
    pub(super) const fn by_default() -> Self {
        Self(None)
    }
}

impl Setting for Blocked {
    type Value = BlockedIds;
    const KIND: Kind = Kind::List;

    fn read(written: Written<'_>) -> Result<Self, Wrong> {
        let ids = List::<BlockedId>::read(written)?.items;
        let blocked = BlockedIds::these(ids.iter().map(|id| &id.0));
        if ids.len() > BLOCKED_IDS_MAX || blocked.bytes() > BLOCKED_BYTES_MAX {
            let last = written.items().and_then(|items| items.last().and_then(|last| last.at));
            // Each batch's journal entry holds the list.
            let what = format!(
                "blocked_ids are at most {BLOCKED_IDS_MAX}, of {BLOCKED_BYTES_MAX} bytes together: list values that \
                 stand for nobody, not visitors"
            );
            return Err(Wrong { at: last.or(written.at), what });
        }
        Ok(Self(Some(blocked)))
    }

    fn expected() -> String {
        List::<BlockedId>::expected()
    }

    fn value(self) -> BlockedIds {
        self.0.unwrap_or_default()
    }

    fn shown(&self) -> DefaultText {
        DefaultText::Words { words: "[a list](identity.md#blocked-ids)", example: r#"["undefined", "null"]"# }
    }
}

/// A whole number from `MIN` to `MAX`. `U` says what the program makes of it.
pub(super) struct Number<U, const MIN: u64, const MAX: u64>(u64, PhantomData<U>);

impl<U, const MIN: u64, const MAX: u64> Number<U, MIN, MAX> {
    /// That number. For defaults, which the compiler computes: one out of bounds does not compile.
    pub(super) const fn of(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "the default is out of bounds");
        Self(number, PhantomData)
    }
}

/// What the program makes of a number.
pub(super) trait Unit {
    type Value;
    fn of(number: u64) -> Self::Value;
}

/// Declares units: a name, what the program makes of the number, and how.
macro_rules! units {
    ($($(#[$doc:meta])+ $Unit:ident($number:ident) -> $Value:ty { $of:expr })+) => {$(
        $(#[$doc])+
        pub(super) struct $Unit;

        impl Unit for $Unit {
            type Value = $Value;
            fn of($number: u64) -> $Value { $of }
        }
    )+};
}

units! {
    /// A plain number.
    Plain(n) -> u64 { n }
    /// How many of something are held at once.
    Count(n) -> usize { usize::try_from(n).unwrap_or(usize::MAX) }
    /// How many of something one thing has.
    Few(n) -> u16 { u16::try_from(n).unwrap_or(u16::MAX) }
    /// How many a second or a minute; 0 is no limit.
    Rate(n) -> Option<NonZeroU32> { NonZeroU32::new(u32::try_from(n).unwrap_or(u32::MAX)) }
    /// How many a second, at least one.
    AtLeastOne(n) -> NonZeroU32 { Rate::of(n).unwrap_or(NonZeroU32::MIN) }
    /// Seconds.
    Seconds(n) -> Duration { Duration::from_secs(n) }
    /// Seconds; 0 is no limit.
    SecondsOrNone(n) -> Option<Duration> { (n > 0).then_some(Duration::from_secs(n)) }
    /// Seconds, held as milliseconds.
    SecondsInMs(n) -> u64 { n * SECOND_MS }
    /// Seconds, held as milliseconds; 0 is no limit.
    SecondsInMsOrNone(n) -> Option<u64> { (n > 0).then_some(n * SECOND_MS) }
    /// Milliseconds.
    Milliseconds(n) -> Duration { Duration::from_millis(n) }
    /// Hours.
    Hours(n) -> Duration { Duration::from_millis(n * HOUR_MS) }
    /// Hours, held as milliseconds.
    HoursInMs(n) -> u64 { n * HOUR_MS }
    /// Days, held as milliseconds.
    DaysInMs(n) -> u64 { n * DAY_MS }
}

impl<U: Unit, const MIN: u64, const MAX: u64> Scalar for Number<U, MIN, MAX> {
    type Value = U::Value;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let number = written.number().filter(|number| (MIN..=MAX).contains(number));
        number.map(|number| Self(number, PhantomData)).ok_or_else(<Self as Scalar>::expected)
    }

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn value(self) -> U::Value {
        U::of(self.0)
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// A number of bytes from `MIN` to `MAX`. `U` says what the program makes of it.
pub(super) struct Size<const MIN: u64, const MAX: u64, U = Plain>(u64, PhantomData<U>);

impl<U, const MIN: u64, const MAX: u64> Size<MIN, MAX, U> {
    /// That many bytes. For defaults, as [`Number::of`].
    pub(super) const fn of(bytes: u64) -> Self {
        assert!(MIN <= bytes && bytes <= MAX, "the default is out of bounds");
        Self(bytes, PhantomData)
    }
}

impl<U: Unit, const MIN: u64, const MAX: u64> Scalar for Size<MIN, MAX, U> {
    type Value = U::Value;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let size = written.number().or_else(|| written.text().and_then(bytes));
        let size = size.filter(|size| (MIN..=MAX).contains(size));
        size.map(|size| Self(size, PhantomData)).ok_or_else(<Self as Scalar>::expected)
    }

    fn expected() -> String {
        format!("a size from {} to {}, such as 128MiB, 500MB or 1048576", shown(MIN), shown(MAX))
    }

    fn value(self) -> U::Value {
        U::of(self.0)
    }

    fn text(&self) -> String {
        // In quotes where it has a unit.
        let text = shown(self.0);
        if text.bytes().all(|b| b.is_ascii_digit()) { text } else { format!("{text:?}") }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// The bytes that a text such as `128MiB`, `500 MB` or `1048576` stands for.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.strip_prefix(' ').unwrap_or(unit) {
        "" if digits == text.len() => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The shortest way to write a size, with the units of 1024.
fn shown(bytes: u64) -> String {
    let unit = UNITS.iter().filter(|(name, _)| name.len() == 3).find(|(_, unit)| bytes.is_multiple_of(*unit));
    match unit {
        Some((name, unit)) if bytes > 0 => format!("{}{name}", bytes / unit),
        _ => bytes.to_string(),
    }
}

impl Scalar for bool {
    type Value = Self;
    const KIND: Kind = Kind::Switch;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        match written.value {
            Value::Bool(bool) => Ok(bool),
            Value::Flag("true") => Ok(true),
            Value::Flag("false") => Ok(false),
            _ => Err(<Self as Scalar>::expected()),
        }
    }

    fn expected() -> String {
        "true or false".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Scalar for SocketAddr {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        written.text().and_then(|text| text.parse().ok()).ok_or_else(<Self as Scalar>::expected)
    }

    fn expected() -> String {
        "an address and a port, such as 127.0.0.1:8750 or [::1]:8750".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("\"{self}\"")
    }
}

/// An address, or a network of addresses.
pub(super) struct Network(IpNet);

impl Scalar for Network {
    type Value = IpNet;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(<Self as Scalar>::expected)?.trim();
        let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = address.or_else(|_| text.parse::<IpNet>());
        network.map(|network| Self(network.trunc())).map_err(|_| <Self as Scalar>::expected())
    }

    fn expected() -> String {
        "an address or a network, such as 127.0.0.1 or 10.0.0.0/8".into()
    }

    fn value(self) -> IpNet {
        self.0
    }

    fn text(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// A text that the program goes on with as it is, or as a path.
enum Words {
    Fixed(&'static str),
    Own(Box<str>),
}

impl Words {
    fn as_str(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Own(text) => text,
        }
    }
}

/// The path of a file or a folder.
pub(super) struct FilePath(Words);

impl FilePath {
    pub(super) const fn of(path: &'static str) -> Self {
        Self(Words::Fixed(path))
    }
}

impl Scalar for FilePath {
    type Value = PathBuf;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let path = written.text().filter(|path| !path.is_empty());
        path.map(|path| Self(Words::Own(path.into()))).ok_or_else(<Self as Scalar>::expected)
    }

    fn expected() -> String {
        "a path, such as \"./profiled-data\"".into()
    }

    fn value(self) -> PathBuf {
        self.0.as_str().into()
    }

    fn text(&self) -> String {
        format!("{:?}", self.0.as_str())
    }
}

impl Scalar for ClientCode {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(<Self as Scalar>::expected)?;
        Self::new(text).map_err(|e| format!("a client code: {e}"))
    }

    fn expected() -> String {
        "a client code, such as \"demo\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.as_str())
    }
}

/// Lets an enum be a setting: the words for its values.
macro_rules! words {
    ($Enum:ty { $($word:literal => $value:path),+ }) => {
        impl Scalar for $Enum {
            type Value = Self;

            fn parse(written: Written<'_>) -> Result<Self, String> {
                match written.text() {
                    $(Some($word) => Ok($value),)+
                    _ => Err(<Self as Scalar>::expected()),
                }
            }

            fn expected() -> String {
                [$(concat!("\"", $word, "\"")),+].join(" or ")
            }

            fn value(self) -> Self {
                self
            }

            fn text(&self) -> String {
                match self { $($value => concat!("\"", $word, "\"").into()),+ }
            }
        }
    };
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

words! { ConsecutiveV2 { "merge" => Self::Merge, "replace" => Self::Replace } }
words! { BatchReading { "kind" => Self::Kind, "adobe" => Self::Adobe } }
words! { LogFormat { "text" => Self::Text, "json" => Self::Json } }

/// An Experience Cloud organisation, such as `ABCDEF@AdobeOrg`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImsOrg(Box<str>);

impl ImsOrg {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for ImsOrg {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                Ok(Self(text.into()))
            }
            _ => Err(<Self as Scalar>::expected()),
        }
    }

    fn expected() -> String {
        "an organisation id, such as \"ABCDEF@AdobeOrg\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl fmt::Display for ImsOrg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImsOrg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One of a client's `blocked_ids`.
struct BlockedId(Box<str>);

impl Scalar for BlockedId {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some(text) if !visible(text).trim().is_empty() => Ok(Self(text.into())),
            _ => Err(<Self as Scalar>::expected()),
        }
    }

    fn expected() -> String {
        "a value that stands for nobody, such as \"undefined\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// What status URLs start with: `http` or `https`, a host, perhaps a path; no `/` at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(Box<str>);

impl PublicUrl {
    /// The URL as text, without a `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for PublicUrl {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let expected = <Self as Scalar>::expected;
        let text = written.text().ok_or_else(expected)?.trim_end_matches('/');
        let url: hyper::Uri = text.parse().map_err(|_| expected())?;
        let scheme = matches!(url.scheme_str(), Some("http" | "https"));
        let host = url.host().is_some_and(|host| !host.is_empty());
        // Adobe's clients cut the URL out of XML, some of them without decoding it.
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c));
        if !(scheme && host && plain) {
            return Err(expected());
        }
        if text.len() > PUBLIC_URL_BYTES_MAX {
            return Err(format!("short enough: a public_url has at most {PUBLIC_URL_BYTES_MAX} characters"));
        }
        Ok(Self(text.into()))
    }

    fn expected() -> String {
        "a URL without a query, such as https://profiles.example.com".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The order that several nodes share: `kafka://HOST:PORT,…/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderUrl(Box<str>);

impl OrderUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for OrderUrl {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let expected = <Self as Scalar>::expected;
        let text = written.text().ok_or_else(expected)?;
        let rest = text.strip_prefix("kafka://").and_then(|rest| rest.split_once('/'));
        let right = rest.is_some_and(|(brokers, prefix)| !brokers.is_empty() && !prefix.is_empty());
        if right { Ok(Self(text.into())) } else { Err(expected()) }
    }

    fn expected() -> String {
        "brokers and a prefix, such as kafka://k1:9092,k2:9092,k3:9092/profiled".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Whether a name has 1 to `max` of `A–Z a–z 0–9 _ - .`, and nothing else.
fn is_plain(name: &str, max: usize) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    plain && (1..=max).contains(&name.len())
}

/// The most characters of a [`NodeName`].
const NODE_NAME_CHARS_MAX: usize = 64;

/// The name of a node: 1 to 64 of `A–Z a–z 0–9 _ - .`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for NodeName {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let expected = <Self as Scalar>::expected;
        let text = written.text().ok_or_else(expected)?;
        if is_plain(text, NODE_NAME_CHARS_MAX) { Ok(Self(text.into())) } else { Err(expected()) }
    }

    fn expected() -> String {
        format!("a name of 1 to {NODE_NAME_CHARS_MAX} letters, digits, '_', '-' and '.'")
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The most characters of a [`TopicName`].
const TOPIC_NAME_CHARS_MAX: usize = 249;

/// The name of a topic, as Kafka takes it: 1 to 249 of `A–Z a–z 0–9 _ - .`, but not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicName(Box<str>);

impl TopicName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for TopicName {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let expected = <Self as Scalar>::expected;
        let text = written.text().ok_or_else(expected)?;
        if is_plain(text, TOPIC_NAME_CHARS_MAX) && !matches!(text, "." | "..") {
            Ok(Self(text.into()))
        } else {
            Err(expected())
        }
    }

    fn expected() -> String {
        format!("a topic's name of 1 to {TOPIC_NAME_CHARS_MAX} letters, digits, '_', '-' and '.'")
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// A filter for the log that has been checked: `info`, or `info,profiled::batch=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(Box<str>);

impl LogFilter {
    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads a [`LogFilter`].
pub(super) struct Filter(Words);

impl Filter {
    pub(super) const fn of(filter: &'static str) -> Self {
        Self(Words::Fixed(filter))
    }
}

impl Scalar for Filter {
    type Value = LogFilter;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(<Self as Scalar>::expected)?;
        // The filter takes a lone word for a target; a misspelled level would then silence everything else.
        let levels = text.split(',').filter(|part| !part.contains(['=', '['])).all(|part| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(part.trim()))
        });
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if levels => Ok(Self(Words::Own(text.into()))),
            _ => Err(<Self as Scalar>::expected()),
        }
    }

    fn expected() -> String {
        "a log filter: off, error, warn, info, debug, trace or target=level, several with commas".into()
    }

    fn value(self) -> LogFilter {
        LogFilter(self.0.as_str().into())
    }

    fn text(&self) -> String {
        format!("{:?}", self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        #[track_caller]
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
        check("0", Some(0));
        check("52428800", Some(52_428_800));
        check("17B", Some(17));
        check("64KB", Some(64_000));
        check("64KiB", Some(65_536));
        check("500MB", Some(500_000_000));
        check("128 mib", Some(134_217_728));
        check("1GiB", Some(1_073_741_824));
        check("2TB", Some(2_000_000_000_000));
        for wrong in
            ["", "MiB", "1.5GiB", "-1", "+1", "1M", "1 ", "1  MiB", "1MiB ", "1é", "99999999999TiB", "1e3"]
        {
            check(wrong, None);
        }
        assert_eq!((shown(1), shown(1 << 20), shown(3 << 29)), ("1".into(), "1MiB".into(), "1536MiB".into()));
    }
}

/// A place in S3-compatible storage: `s3://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    bucket: Box<str>,
    /// Names joined by `/`; empty is the whole bucket.
    prefix: Box<str>,
}

impl BucketUrl {
    /// How such a URL begins.
    pub const SCHEME: &str = "s3://";

    /// Reads `s3://BUCKET/PREFIX`. An error is what would be right.
    pub fn new(text: &str) -> Result<Self, String> {
        let expected = <Self as Scalar>::expected;
        let rest = text.strip_prefix(Self::SCHEME).ok_or_else(expected)?.trim_end_matches('/');
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let named = bucket.len() >= 3
            && bucket.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
            && !bucket.starts_with('.');
        let plain = |part: &str| {
            let fits = part.chars().all(|c| c.is_ascii_alphanumeric() || ".-_=+@,:".contains(c));
            fits && !matches!(part, "" | "." | "..")
        };
        if !named || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return Err(expected());
        }
        Ok(Self { bucket: bucket.into(), prefix: prefix.into() })
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the names of all objects begin with, without a `/` at its end.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The place above this one, and this one's name in it; none if this is a whole bucket.
    pub fn split(&self) -> Option<(Self, &str)> {
        let (above, name) = self.prefix.rsplit_once('/').unwrap_or(("", &self.prefix));
        (!name.is_empty()).then(|| (Self { bucket: self.bucket.clone(), prefix: above.into() }, name))
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}{}{slash}{}", Self::SCHEME, self.bucket, self.prefix)
    }
}

impl Scalar for BucketUrl {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        Self::new(written.text().ok_or_else(<Self as Scalar>::expected)?)
    }

    fn expected() -> String {
        "a bucket and a prefix of letters, digits and .-_=+@,: such as \"s3://backups/profiled\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("\"{self}\"")
    }
}

/// Where S3-compatible storage answers: `http` or `https`, a host, perhaps a port and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Box<str>);

impl Endpoint {
    /// The URL as text, without a `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is reached without encryption.
    pub fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }

    /// Reads the URL. An error is what would be right.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches('/');
        let url: Option<hyper::Uri> = text.parse().ok();
        let right = url.is_some_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
                && url.query().is_none()
                // A password would be shown in logs.
                && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if right { Ok(Self(text.into())) } else { Err(<Self as Scalar>::expected()) }
    }
}

impl Scalar for Endpoint {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        Self::new(written.text().ok_or_else(<Self as Scalar>::expected)?)
    }

    fn expected() -> String {
        "a URL without a query, such as \"https://storage.example.com\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The region of a bucket, such as `eu-west-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(Box<str>);

impl Region {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the name. An error is what would be right.
    pub fn new(text: &str) -> Result<Self, String> {
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if plain && !text.is_empty() { Ok(Self(text.into())) } else { Err(<Self as Scalar>::expected()) }
    }
}

impl Scalar for Region {
    type Value = Self;

    fn parse(written: Written<'_>) -> Result<Self, String> {
        Self::new(written.text().ok_or_else(<Self as Scalar>::expected)?)
    }

    fn expected() -> String {
        "the name of a region, such as \"eu-west-1\"".into()
    }

    fn value(self) -> Self {
        self
    }

    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}
