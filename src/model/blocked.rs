//! Blocked ids: placeholders such as `undefined` that scripts and exports write when there is no id. Accepting them
//! would merge all logged-out visitors into one.

use std::sync::Arc;

use super::id::{IdKind, visible};

/// The texts blocked by default, in lower case: the "no value" words of programming languages and spreadsheets, and
/// those that Segment (Unify, "Identity resolution settings": `-1`, `null`, `anonymous`) and PostHog
/// (`isDistinctIdIllegal` in its ingestion) block by default. PostHog's `id`, `email` and `guest` are missing here,
/// because they can be real ids.
const WORDS: [&str; 13] = [
    "undefined",
    "null",
    "(null)",
    "nil",
    "none",
    "nan",
    "n/a",
    "#n/a",
    "[object object]",
    "true",
    "false",
    "anonymous",
    "not_authenticated",
];

/// The length of the longest word with quotes around it, in bytes.
const WORD_BYTES_MAX: usize = 17;

/// The most ids in a client's list.
pub const BLOCKED_IDS_MAX: usize = 100;
/// The most bytes of a client's list, in lower case. Each batch's journal entry carries the list.
pub const BLOCKED_BYTES_MAX: usize = 4096;

/// The blocked ids of a client (the setting `blocked_ids`). Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockedIds(List);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum List {
    /// The default list.
    #[default]
    Default,
    Own(Arc<Own>),
}

/// A client's own list.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    /// The ids, in lower case.
    ids: Box<[Box<str>]>,
    /// The length of the longest id, in characters.
    chars_max: usize,
    /// The ASCII characters that some id starts with, one bit each.
    first: u128,
}

/// Maps the text to lower case character by character, so that a comparison allocates nothing.
fn lower(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

impl BlockedIds {
    /// Blocks no id.
    pub fn none() -> Self {
        Self::these([""; 0])
    }

    /// Blocks these ids instead of the default list. The list may be empty.
    pub fn these(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let ids =
            ids.into_iter().map(|id| lower(visible(id.as_ref()).trim()).collect::<String>().into_boxed_str());
        let ids: Box<[Box<str>]> = ids.filter(|id| !id.is_empty()).collect();
        let first = ids.iter().filter_map(|id| id.chars().next());
        let bits = first.filter(char::is_ascii).fold(0_u128, |bits, first| bits | 1_u128 << u32::from(first));
        Self(List::Own(Arc::new(Own {
            chars_max: ids.iter().map(|id| id.chars().count()).max().unwrap_or_default(),
            first: bits,
            ids,
        })))
    }

    /// The client's own list; `None` for the default list.
    pub fn own(&self) -> Option<&[Box<str>]> {
        match &self.0 {
            List::Default => None,
            List::Own(own) => Some(&own.ids),
        }
    }

    /// The total length of the client's own list, in bytes.
    pub fn bytes(&self) -> usize {
        self.own().unwrap_or_default().iter().map(|id| id.len()).sum()
    }

    /// Whether the text is blocked as an id of this kind. Case and surrounding quotes do not matter; PostHog met both.
    pub fn block(&self, kind: IdKind, text: &str) -> bool {
        // A location hint may follow the id.
        let hinted = || kind == IdKind::Pc && text.contains('.');
        self.has(text) || (hinted() && kind.check(visible(text)).is_ok_and(|id| self.has(id)))
    }

    fn has(&self, text: &str) -> bool {
        let text = visible(text).trim();
        // The first letter or the length rules out most ids.
        match (&self.0, text.as_bytes().first()) {
            (_, None) => false,
            (_, Some(b'"' | b'\'')) => self.has_bare(unquoted(text)),
            (List::Default, Some(b'0' | b'-' | b'_')) => self.has_bare(text),
            (List::Default, Some(_)) if text.len() > WORD_BYTES_MAX => false,
            (List::Default, Some(first)) => {
                matches!(first.to_ascii_lowercase(), b'u' | b'n' | b'(' | b'#' | b'[' | b't' | b'f' | b'a')
                    && self.has_bare(text)
            }
            (List::Own(own), Some(first)) => {
                let first = first.to_ascii_lowercase();
                let may = if first.is_ascii() { own.first >> first & 1 == 1 } else { !own.ids.is_empty() };
                may && self.has_bare(text)
            }
        }
    }

    fn has_bare(&self, text: &str) -> bool {
        match &self.0 {
            List::Own(own) => {
                // In lower case a character may become several, but never zero.
                text.chars().nth(own.chars_max).is_none()
                    && own.ids.iter().any(|id| lower(text).eq(id.chars()))
            }
            List::Default => {
                let nothing = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'_'));
                nothing || text == "-1" || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
            }
        }
    }
}

/// The text inside the quotes; the whole text if there are no quotes.
fn unquoted(text: &str) -> &str {
    let quoted = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    quoted.unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_blocked_by_default() {
        for (source, texts) in [
            (
                "JavaScript, where a variable is not set",
                &["undefined", "null", "NaN", "[object Object]", "true", "false"][..],
            ),
            ("Python, Ruby, Objective-C", &["None", "nil", "(null)"]),
            ("a spreadsheet, a CRM export", &["NULL", "#N/A", "n/a", "0", "-", "--"]),
            ("Segment: ^[0-]*$, -1, null, anonymous", &["000", "0-0", "-1", "Anonymous"]),
            ("iOS's advertising id without consent", &["00000000-0000-0000-0000-000000000000"]),
            ("PostHog: also in quotes", &["\"null\"", "'undefined'", "NOT_AUTHENTICATED"]),
            ("ours", &["_", "__", " undefined ", "\u{feff}null\u{200b}"]),
        ] {
            for text in texts {
                for kind in [IdKind::Pc, IdKind::ThirdParty, IdKind::Ecid] {
                    assert!(BlockedIds::default().block(kind, text), "{source}: {text}");
                }
            }
        }
        assert!(BlockedIds::default().block(IdKind::Pc, "0.28_0"), "a location hint behind nothing");
        for honest in
            ["1", "10", "-2", "nullius", "x-0", "a_b", "id", "email", "guest", "nonesuch", "1-1", "\"\""]
        {
            assert!(!BlockedIds::default().block(IdKind::ThirdParty, honest), "{honest}");
        }
    }

    #[test]
    fn a_list_of_ones_own_counts_instead() {
        let own = BlockedIds::these(["Void", "ÄBC"]);
        assert!(
            own.block(IdKind::Pc, "VOID") && own.block(IdKind::Pc, "äbc") && own.block(IdKind::Pc, "'void'")
        );
        assert!(!own.block(IdKind::Pc, "undefined") && !own.block(IdKind::Pc, "0"));
        assert!(
            !BlockedIds::none().block(IdKind::Pc, "undefined") && !BlockedIds::none().block(IdKind::Pc, "")
        );
        assert!(
            own.block(IdKind::Pc, "\u{a0}vo\u{130}d") == own.block(IdKind::Pc, "\u{130}") && own.bytes() == 8
        );
        // The Kelvin sign is a k in lower case.
        assert!(BlockedIds::these(["kilo"]).block(IdKind::Pc, "\u{212a}ilo"));
    }
}
