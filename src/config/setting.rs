//! What a single setting takes, however it is given: in quotes or bare in the file, or as the text of a flag or variable.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer};

use crate::model::batch::{BatchReading, ConsecutiveV2};
use crate::model::id::{ClientCode, visible};

/// The longest `public_url`, in bytes. A status URL may have 255 characters (some of Adobe's clients keep no more): 64
/// for this, twice 64 for the client code in its path and in the batch id, and the rest for the path and the id's number.
pub const PUBLIC_URL_BYTES_MAX: usize = 64;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

/// What status URLs start with: `http` or `https`, a host, perhaps a path; no `/` at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(Box<str>);

/// An Experience Cloud organisation, such as `ABCDEF@AdobeOrg`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImsOrg(Box<str>);

/// One of a client's `blocked_ids`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockedId(pub(super) Box<str>);

/// An address, or a network of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxies(pub(super) IpNet);

/// A filter for the log that has been checked: `info`, or `info,profiled::batch=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(pub(super) Box<str>);

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting's value and, if it came from the file, the byte where it stands there.
#[derive(Debug, Clone)]
pub struct Given<T> {
    pub(super) value: T,
    /// The byte of the file, or nothing for a flag or a variable.
    pub(super) at: Option<usize>,
}

/// A value from a place that has no line, such as a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Plain<T>(pub(super) T);

/// A value as it is written: in quotes or bare in the file, or as the text of a flag or a variable.
#[derive(Clone, Copy)]
pub(super) enum Written<'a> {
    Text(&'a str),
    Number(i64),
    Bool(bool),
    Flag(&'a str),
}

/// A type of setting: what it takes, and how it is told.
pub(super) trait Setting: Sized {
    /// Reads a value; an error is what would be right.
    fn read(written: Written<'_>) -> Result<Self, String>;

    /// What would be right, as it ends a sentence.
    fn expected() -> String;

    /// Reads a value; an error is the whole sentence.
    fn check(written: Written<'_>) -> Result<Self, String> {
        Self::read(written).map_err(|right| format!("{written} is not {right}"))
    }
}

impl<'a> Written<'a> {
    pub(super) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) | Self::Flag(text) => Some(text),
            Self::Number(_) | Self::Bool(_) => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(number).ok(),
            Self::Flag(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Self::Flag(_) | Self::Text(_) | Self::Bool(_) => None,
        }
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Flag(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(bool) => write!(f, "{bool}"),
        }
    }
}

impl<T: Setting> FromStr for Given<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        T::check(Written::Flag(text)).map(|value| Self { value, at: None })
    }
}

impl<'de, T: Setting> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<Plain<T>>::deserialize(deserializer)?;
        let at = Some(spanned.span().start);
        Ok(Self { value: spanned.into_inner().0, at })
    }
}

impl<'de, T: Setting> Deserialize<'de> for Plain<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor(PhantomData))
    }
}

struct SettingVisitor<T>(PhantomData<T>);

impl<T: Setting> de::Visitor<'_> for SettingVisitor<T> {
    type Value = Plain<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::expected())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Plain<T>, E> {
        T::check(Written::Text(text)).map(Plain).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Plain<T>, E> {
        T::check(Written::Number(number)).map(Plain).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, bool: bool) -> Result<Plain<T>, E> {
        T::check(Written::Bool(bool)).map(Plain).map_err(E::custom)
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Whole<MIN, MAX> {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.number() {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
}

/// A number of bytes from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    /// The bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Size<MIN, MAX> {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.number().or_else(|| written.text().and_then(bytes)) {
            Some(bytes) if (MIN..=MAX).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        format!("a size from {} to {}, such as 128MiB, 500MB or 1048576", shown(MIN), shown(MAX))
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
pub(super) fn shown(bytes: u64) -> String {
    let unit = UNITS.iter().filter(|(name, _)| name.len() == 3).find(|(_, unit)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

impl Setting for bool {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written {
            Written::Bool(bool) => Ok(bool),
            Written::Flag("true") => Ok(true),
            Written::Flag("false") => Ok(false),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "true or false".into()
    }
}

impl Setting for SocketAddr {
    fn read(written: Written<'_>) -> Result<Self, String> {
        written.text().and_then(|text| text.parse().ok()).ok_or_else(Self::expected)
    }

    fn expected() -> String {
        "an address and a port, such as 127.0.0.1:8750 or [::1]:8750".into()
    }
}

impl Setting for Proxies {
    fn read(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(Self::expected)?.trim();
        let one = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = text.parse::<IpNet>().map_err(|_| Self::expected());
        one().or(network).map(|network| Self(network.trunc()))
    }

    fn expected() -> String {
        "an address or a network, such as 127.0.0.1 or 10.0.0.0/8".into()
    }
}

impl Setting for PathBuf {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some(text) if !text.is_empty() => Ok(text.into()),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "a path, such as \"./profiled-data\"".into()
    }
}

impl Setting for ClientCode {
    fn read(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(Self::expected)?;
        Self::new(text).map_err(|e| format!("a client code: {e}"))
    }

    fn expected() -> String {
        "a client code, such as \"demo\"".into()
    }
}

impl Setting for ConsecutiveV2 {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some("merge") => Ok(Self::Merge),
            Some("replace") => Ok(Self::Replace),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "\"merge\" or \"replace\"".into()
    }
}

impl Setting for BatchReading {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some("kind") => Ok(Self::Kind),
            Some("adobe") => Ok(Self::Adobe),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "\"kind\" or \"adobe\"".into()
    }
}

impl Setting for LogFormat {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "\"text\" or \"json\"".into()
    }
}

impl Setting for ImsOrg {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                Ok(Self(text.into()))
            }
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "an organisation id, such as \"ABCDEF@AdobeOrg\"".into()
    }
}

impl Setting for BlockedId {
    fn read(written: Written<'_>) -> Result<Self, String> {
        match written.text() {
            Some(text) if !visible(text).trim().is_empty() => Ok(Self(text.into())),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "an id that is none, such as \"undefined\"".into()
    }
}

impl ImsOrg {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for PublicUrl {
    fn read(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(Self::expected)?.trim_end_matches('/');
        let url: hyper::Uri = text.parse().map_err(|_| Self::expected())?;
        let scheme = matches!(url.scheme_str(), Some("http" | "https"));
        let host = url.host().is_some_and(|host| !host.is_empty());
        // Adobe's clients cut the URL out of XML, some of them without decoding it.
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c));
        if !(scheme && host && plain) {
            return Err(Self::expected());
        }
        if text.len() > PUBLIC_URL_BYTES_MAX {
            return Err(format!("short enough: a public_url has at most {PUBLIC_URL_BYTES_MAX} characters"));
        }
        Ok(Self(text.into()))
    }

    fn expected() -> String {
        "a URL without a query, such as https://profiles.example.com".into()
    }
}

impl PublicUrl {
    /// The URL as text, without a `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    fn read(written: Written<'_>) -> Result<Self, String> {
        let text = written.text().ok_or_else(Self::expected)?;
        // The filter takes a lone word for a target; a level that is spelled wrong would then silence everything else.
        let levels = text.split(',').filter(|part| !part.contains(['=', '['])).all(|part| {
            ["off", "error", "warn", "info", "debug", "trace"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(part.trim()))
        });
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) if levels => Ok(Self(text.into())),
            _ => Err(Self::expected()),
        }
    }

    fn expected() -> String {
        "a log filter: off, error, warn, info, debug, trace or target=level, several with commas".into()
    }
}

impl LogFilter {
    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
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
