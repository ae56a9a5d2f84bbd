//! Client codes, the three kinds of visitor id, and the keys built from them.
//!
//! Promises: every id in one of these types has been checked (R1). Two different (client, kind, id) triples never share
//! a key, because the key starts with the length of the client code.

use std::fmt;

/// The longest client code, in characters.
pub const CLIENT_CODE_CHARS_MAX: usize = 64;
/// The longest `pcId`, in characters, without its location hint (R1).
pub const PC_ID_CHARS_MAX: usize = 128;
/// The longest `thirdPartyId`, in characters (R1).
pub const THIRD_PARTY_ID_CHARS_MAX: usize = 256;
/// The longest ECID, in characters. Adobe's ECIDs are 38 digits.
pub const ECID_CHARS_MAX: usize = 128;

/// Why a text is not a valid id. The message completes a sentence that quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text has too many characters for this kind of id.
    #[error("it has more than {max} characters")]
    TooLong {
        /// The most characters for this kind of id.
        max: usize,
    },
    /// The text contains a character that this kind of id does not allow.
    #[error("'{}' is not allowed", .0.escape_default())]
    Forbidden(char),
    /// A `pcId` has a dot without a location hint after it. Cutting the text at the dot could give another visitor's
    /// id.
    #[error("a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"")]
    Dot,
}

/// A tenant: Adobe's `clientCode`. 1 to 64 of `A–Z a–z 0–9 _ - .`, so that it can be part of a path and of a batch id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientCode(Box<str>);

impl ClientCode {
    /// Checks a client code.
    pub fn new(text: &str) -> Result<Self, IdError> {
        length(text, CLIENT_CODE_CHARS_MAX)?;
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))) {
            Some(c) => Err(IdError::Forbidden(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The three kinds of visitor id. Each has its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdKind {
    /// Target's visitor id: `pcId`, also called `tntId` and `mboxPC`.
    Pc,
    /// The company's id: `thirdPartyId`, in mbox calls `mbox3rdPartyId`.
    ThirdParty,
    /// The Experience Cloud id: `marketingCloudVisitorId`.
    Ecid,
}

impl IdKind {
    /// The kind's stored byte.
    pub const fn code(self) -> u8 {
        match self {
            Self::Pc => 1,
            Self::ThirdParty => 2,
            Self::Ecid => 3,
        }
    }

    /// The kind for a stored byte.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Pc),
            2 => Some(Self::ThirdParty),
            3 => Some(Self::Ecid),
            _ => None,
        }
    }

    /// The kind's name in the APIs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pc => "pcId",
            Self::ThirdParty => "thirdPartyId",
            Self::Ecid => "marketingCloudVisitorId",
        }
    }

    /// Checks `text` as an id of this kind. Returns the id itself: a `pcId` loses its location hint.
    pub fn check(self, text: &str) -> Result<&str, IdError> {
        match self {
            Self::Pc => {
                if text.split_once('.').is_some_and(|(_, hint)| !is_location_hint(hint)) {
                    return Err(IdError::Dot);
                }
                self.check_as_before(text)
            }
            Self::ThirdParty | Self::Ecid => self.check_as_before(text),
        }
    }

    /// Checks `text` by the rules of earlier versions, which took anything after the one dot for a location hint. Rows
    /// of batches that those versions accepted keep these rules (R4).
    pub fn check_as_before(self, text: &str) -> Result<&str, IdError> {
        match self {
            Self::Pc => {
                let (id, hint) = text.split_once('.').unwrap_or((text, ""));
                if hint.contains('.') {
                    return Err(IdError::Dot);
                }
                length(id, PC_ID_CHARS_MAX)?;
                no_control(text)?;
                Ok(id)
            }
            Self::ThirdParty => {
                length(text, THIRD_PARTY_ID_CHARS_MAX)?;
                match text.chars().find(|c| matches!(c, '+' | '/')) {
                    Some(c) => Err(IdError::Forbidden(c)),
                    None => no_control(text).map(|()| text),
                }
            }
            Self::Ecid => {
                length(text, ECID_CHARS_MAX)?;
                no_control(text).map(|()| text)
            }
        }
    }
}

/// Trims invisible characters from both ends of an id, and spaces next to them. Copied text and spreadsheets contain
/// them. An end with only spaces stays as it is, because a caller's id may contain spaces.
pub fn visible(text: &str) -> &str {
    let bytes = text.as_bytes();
    if bytes.first().is_none_or(u8::is_ascii_graphic) && bytes.last().is_none_or(u8::is_ascii_graphic) {
        return text;
    }
    let beside = |c: char| c == ' ' || is_invisible(c);
    let without = text.trim_start_matches(beside);
    let before = text.strip_suffix(without).unwrap_or_default();
    let text = if before.contains(is_invisible) { without } else { text };
    let without = text.trim_end_matches(beside);
    let behind = text.strip_prefix(without).unwrap_or_default();
    if behind.contains(is_invisible) { without } else { text }
}

/// Whether the character is invisible or looks like a space. False for the space itself, and for control characters,
/// which no id may contain.
pub const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        // Spaces.
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
        // Characters without width: the soft hyphen, joiners, direction marks, the byte order mark.
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}'
    )
}

/// Whether the text is a location hint, by which Target finds a visitor's profile: `28_0`, `01_00`, `01`.
fn is_location_hint(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('_') {
        Some((cluster, rest)) => digits(cluster) && digits(rest),
        None => digits(text),
    }
}

fn length(text: &str, max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    // A text of `max` bytes has at most `max` characters, so most ids need no count.
    if text.len() > max && text.chars().count() > max {
        return Err(IdError::TooLong { max });
    }
    Ok(())
}

fn no_control(text: &str) -> Result<(), IdError> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(IdError::Forbidden(c)),
        None => Ok(()),
    }
}

/// One visitor id: its kind and its checked text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VisitorId {
    kind: IdKind,
    id: Box<str>,
}

impl VisitorId {
    /// Checks an id of this kind.
    pub fn new(kind: IdKind, text: &str) -> Result<Self, IdError> {
        Ok(Self { kind, id: kind.check(text)?.into() })
    }

    /// Checks an id from a request, without invisible characters at either end.
    pub fn sent(kind: IdKind, text: &str) -> Result<Self, IdError> {
        Self::new(kind, visible(text))
    }

    /// The kind of id.
    pub fn kind(&self) -> IdKind {
        self.kind
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The id's key within a client.
    pub fn key(&self, client: &ClientCode) -> Key {
        Key::new(client, self.kind, &self.id)
    }
}

/// Added to the kind byte in the key of an erasure mark.
const ERASURE_MARK: u8 = 0x80;

/// The bytes under which the store keeps a value: length of the client code, client code, kind, id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of an id. The caller has checked the id.
    pub fn new(client: &ClientCode, kind: IdKind, id: &str) -> Self {
        let mut bytes = Vec::with_capacity(2 + client.0.len() + id.len());
        Self::write_to(&mut bytes, client, kind, id);
        Self(bytes.into_boxed_slice())
    }

    /// Appends a key's bytes to a buffer, for callers that build many keys.
    pub fn write_to(bytes: &mut Vec<u8>, client: &ClientCode, kind: IdKind, id: &str) {
        Self::write_client_to(bytes, client);
        bytes.push(kind.code());
        bytes.extend_from_slice(id.as_bytes());
    }

    /// Appends what all keys of a client begin with.
    fn write_client_to(bytes: &mut Vec<u8>, client: &ClientCode) {
        // A checked client code has at most 64 ASCII characters.
        bytes.push(u8::try_from(client.0.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(client.0.as_bytes());
    }

    /// A key behind all keys of a client, and before those of the next one. No value is stored under it.
    pub fn behind_all_of(client: &ClientCode) -> Self {
        let mut bytes = Vec::with_capacity(2 + client.0.len());
        Self::write_client_to(&mut bytes, client);
        bytes.push(u8::MAX);
        Self(bytes.into_boxed_slice())
    }

    /// The key of another id of the same client.
    pub fn with_id(&self, kind: IdKind, id: &str) -> Self {
        let client = self.client();
        let prefix = self.0.get(..=client.len()).unwrap_or_default();
        let mut bytes = Vec::with_capacity(prefix.len() + 1 + id.len());
        bytes.extend_from_slice(prefix);
        bytes.push(kind.code());
        bytes.extend_from_slice(id.as_bytes());
        Self(bytes.into_boxed_slice())
    }

    /// The key that keeps the tombstone of an erased visitor after the id is in use again. The tombstone stays there
    /// until compaction has removed the bytes of the erased profile (R12).
    pub fn erasure_mark(&self) -> Self {
        self.with_kind_byte(|kind| kind | ERASURE_MARK)
    }

    /// The id's own key; the same key if this is not the key of an erasure mark.
    pub fn without_mark(&self) -> Self {
        self.with_kind_byte(|kind| kind & !ERASURE_MARK)
    }

    fn with_kind_byte(&self, change: impl FnOnce(u8) -> u8) -> Self {
        let mut bytes = self.0.clone();
        let at = 1 + self.client().len();
        if let Some(kind) = bytes.get_mut(at) {
            *kind = change(*kind);
        }
        Self(bytes)
    }

    /// Parses a stored key. `None` if the bytes are not a key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        split(bytes).map(|_| Self(bytes.into()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The client code.
    pub fn client(&self) -> &str {
        split(&self.0).map_or("", |(client, _, _)| client)
    }

    /// The kind of id.
    pub fn kind(&self) -> IdKind {
        split(&self.0).map_or(IdKind::Pc, |(_, kind, _)| kind)
    }

    /// The id.
    pub fn id(&self) -> &str {
        split(&self.0).map_or("", |(_, _, id)| id)
    }
}

fn split(bytes: &[u8]) -> Option<(&str, IdKind, &str)> {
    let (&length, rest) = bytes.split_first()?;
    let (client, rest) = rest.split_at_checked(usize::from(length))?;
    let (&kind, id) = rest.split_first()?;
    let kind = IdKind::from_code(kind & !ERASURE_MARK)?;
    Some((std::str::from_utf8(client).ok()?, kind, std::str::from_utf8(id).ok()?))
}

impl fmt::Display for ClientCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for VisitorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.kind.name(), self.id)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={:?}", self.client(), self.kind().name(), self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: IdKind, text: &str, expected: Result<&str, IdError>) {
        assert_eq!(kind.check(text), expected, "{kind:?} {text:?}");
    }

    #[test]
    fn ids_are_checked_by_the_rules_of_r1() {
        check(IdKind::Pc, "123", Ok("123"));
        check(IdKind::Pc, "1638-99.28_0", Ok("1638-99"));
        check(IdKind::Pc, "a.b.c", Err(IdError::Dot));
        check(IdKind::Pc, ".28_0", Err(IdError::Empty));
        check(IdKind::Pc, "", Err(IdError::Empty));
        check(IdKind::Pc, "a\tb", Err(IdError::Forbidden('\t')));
        check(IdKind::Pc, &"é".repeat(128), Ok(&"é".repeat(128)));
        check(IdKind::Pc, &"x".repeat(129), Err(IdError::TooLong { max: 128 }));
        check(IdKind::ThirdParty, "a.b.c@example.com", Ok("a.b.c@example.com"));
        check(IdKind::ThirdParty, "a+b", Err(IdError::Forbidden('+')));
        check(IdKind::ThirdParty, "a/b", Err(IdError::Forbidden('/')));
        check(IdKind::ThirdParty, "a\u{0}b", Err(IdError::Forbidden('\0')));
        check(IdKind::ThirdParty, &"x".repeat(256), Ok(&"x".repeat(256)));
        check(IdKind::ThirdParty, &"x".repeat(257), Err(IdError::TooLong { max: 256 }));
        check(IdKind::Ecid, "38304120", Ok("38304120"));
        check(IdKind::Ecid, "", Err(IdError::Empty));
    }

    /// What may follow the dot of a `pcId`, each with its origin.
    #[test]
    fn a_dot_stands_only_before_a_location_hint() {
        for (source, id, expected) in [
            ("delivery-api.json, VisitorId.tntId", "32440324234-2343423.23_41", "32440324234-2343423"),
            (
                "identifying-visitors.md",
                "10abf6304b2714215b1fd39a870f01afc.28_20",
                "10abf6304b2714215b1fd39a870f01afc",
            ),
            ("profile-bulk-api.md, older", "1436187396849-250353.03_03", "1436187396849-250353"),
            ("mbox.js: a hint without its second part", "1368007744041-575948.01", "1368007744041-575948"),
            ("batchmbox, older: a hint of two parts, the first short", "123456789.28_51", "123456789"),
        ] {
            assert_eq!(IdKind::Pc.check(id), Ok(expected), "{source}");
        }
        for (source, id) in [
            ("two people, once one visitor", "alice.smith"),
            ("an address", "alice@example.com"),
            ("a spreadsheet's rounding, once visitor 1", "1.36732E+12"),
            ("the same, with the plus decoded to a space", "1.36732E 12"),
            ("a version", "1.2.3"),
            ("nothing behind the dot", "123."),
            ("nothing before the underscore", "123._0"),
            ("nothing behind it", "123.28_"),
            ("two underscores", "123.28_0_1"),
            ("a letter", "123.28_a"),
            ("digits of another script", "123.٢٨_٠"),
            ("a space", "123.28_0 "),
            ("a control character", "123.28\t"),
        ] {
            assert_eq!(IdKind::Pc.check(id), Err(IdError::Dot), "{source}");
            assert_eq!(IdKind::ThirdParty.check(id).is_ok(), !id.contains(['+', '\t']), "{source}");
        }
    }

    #[test]
    fn earlier_versions_cut_an_id_at_its_dot() {
        for (id, expected) in [
            ("alice.smith", Ok("alice")),
            ("1.36732E+12", Ok("1")),
            ("a.b.c", Err(IdError::Dot)),
            ("123.28_0", Ok("123")),
            (".x", Err(IdError::Empty)),
            ("123.28\t", Err(IdError::Forbidden('\t'))),
        ] {
            assert_eq!(IdKind::Pc.check_as_before(id), expected);
        }
        assert_eq!(IdKind::ThirdParty.check_as_before("a.b"), Ok("a.b"));
    }

    #[test]
    fn invisible_characters_around_an_id_are_dropped() {
        for (source, text, expected) in [
            ("copied from a page", "123\u{a0}", "123"),
            ("copied from a page", "\u{200b}123\u{200b}", "123"),
            ("a file's mark in the middle of a joined file", "\u{feff}123", "123"),
            ("Excel: a number copied from Contacts or Calculator", "\u{202d}123\u{202c}", "123"),
            ("a word processor's soft hyphen", "\u{ad}123", "123"),
            ("joiners", "\u{2060}\u{200c}123\u{200d}", "123"),
            ("an ideographic space", "\u{3000}123", "123"),
            ("spaces beside it", " \u{a0} 123 \u{a0} ", "123"),
            ("spaces alone stay", " 123 ", " 123 "),
            ("one end each", " 123\u{a0}", " 123"),
            ("nothing else there", " \u{200b} ", ""),
            ("inside it stays", "1\u{200b}23", "1\u{200b}23"),
            ("no letter of any script", "é名", "é名"),
            ("nothing", "", ""),
        ] {
            assert_eq!(visible(text), expected, "{source}");
            assert_eq!(visible(expected), expected, "{source}, once more");
        }
    }

    #[test]
    fn client_codes_fit_into_a_path_and_a_batch_id() {
        assert!(ClientCode::new("acmeclient_7-x.y").is_ok());
        assert_eq!(ClientCode::new("a&b"), Err(IdError::Forbidden('&')));
        assert_eq!(ClientCode::new(""), Err(IdError::Empty));
        assert_eq!(ClientCode::new(&"x".repeat(65)), Err(IdError::TooLong { max: 64 }));
    }

    #[test]
    fn keys_of_different_triples_differ_and_read_back() {
        let (a, ab) = (ClientCode::new("a").unwrap(), ClientCode::new("ab").unwrap());
        let keys = [
            Key::new(&a, IdKind::Pc, "b1"),
            Key::new(&ab, IdKind::Pc, "1"),
            Key::new(&a, IdKind::ThirdParty, "b1"),
            Key::new(&a, IdKind::Ecid, "b1"),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(Key::from_bytes(key.as_bytes()).as_ref(), Some(key));
            assert!(keys.iter().skip(n + 1).all(|other| other != key));
        }
        assert_eq!((keys[1].client(), keys[1].kind(), keys[1].id()), ("ab", IdKind::Pc, "1"));
        for bytes in
            [&b""[..], b"\x05ab", b"\x01a", b"\x01a\x09x", b"\x01a\x80x", b"\x01\xff\x01x", b"\x01a\x01\xff"]
        {
            assert_eq!(Key::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn an_erasure_mark_has_its_own_key_that_names_the_id() {
        let key = Key::new(&ClientCode::new("ab").unwrap(), IdKind::ThirdParty, "x");
        let mark = key.erasure_mark();
        assert_ne!(mark, key);
        assert_eq!(
            (mark.erasure_mark(), mark.without_mark(), key.without_mark()),
            (mark.clone(), key.clone(), key)
        );
        assert_eq!(Key::from_bytes(mark.as_bytes()), Some(mark.clone()));
        assert_eq!((mark.client(), mark.kind(), mark.id()), ("ab", IdKind::ThirdParty, "x"));
    }

    proptest::proptest! {
        /// A client code and an id may have equal text. Still no key belongs to two clients.
        #[test]
        fn no_two_triples_share_a_key(
            clients in ["[ab.-]{1,3}", "[ab.-]{1,3}"],
            ids in ["[ab.\u{1}\u{2}é名-]{1,4}", "[ab.\u{1}\u{2}é名-]{1,4}"],
            kinds in [0_usize..3, 0_usize..3],
        ) {
            let kind = |n: usize| [IdKind::Pc, IdKind::ThirdParty, IdKind::Ecid][n];
            let key = |n: usize| Key::new(&ClientCode::new(&clients[n]).unwrap(), kind(kinds[n]), &ids[n]);
            let same = clients[0] == clients[1] && ids[0] == ids[1] && kinds[0] == kinds[1];
            assert_eq!(key(0) == key(1), same);
            assert_eq!(key(0).as_bytes() == key(1).as_bytes(), same);
            let read = Key::from_bytes(key(0).as_bytes()).unwrap();
            assert_eq!((read.client(), read.kind(), read.id()), (clients[0].as_str(), kind(kinds[0]), ids[0].as_str()));
        }
    }
}
