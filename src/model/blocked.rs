//! Ids that are none: what a page's script or an export writes where there is nobody, so that all who are logged out would
//! be one visitor.

use std::sync::Arc;

use super::id::{IdKind, visible};

/// What stands for nobody, in lower case: words of programming languages and spreadsheets, and those that Segment (Unify,
/// "Identity resolution settings": `-1`, `null`, `anonymous`) and PostHog (its ingestion's `isDistinctIdIllegal`) block
/// by default, as far as they can be no honest id. PostHog's `id`, `email` and `guest` can be one.
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

/// The longest of them, in bytes, with quotes around it.
const WORD_BYTES_MAX: usize = 17;

/// How many ids a list may have.
pub const BLOCKED_IDS_MAX: usize = 100;
/// How many bytes a list's ids may have together, in lower case: each batch's journal entry has the list.
pub const BLOCKED_BYTES_MAX: usize = 4096;

/// A client's `blocked_ids`. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockedIds(List);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum List {
    /// What is blocked by default.
    #[default]
    Default,
    Own(Arc<Own>),
}

/// A list of one's own.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    /// In lower case.
    ids: Box<[Box<str>]>,
    /// How many characters the longest has.
    chars_max: usize,
    /// Which ASCII characters one of them begins with, a bit for each.
    first: u128,
}

/// What a letter is in lower case. Letter by letter, so that comparing needs no memory.
fn lower(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

impl BlockedIds {
    /// Nothing at all is blocked.
    pub fn none() -> Self {
        Self::these([""; 0])
    }

    /// These instead of what is blocked by default; none at all are fine.
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

    /// The list, if it is not what is blocked by default.
    pub fn own(&self) -> Option<&[Box<str>]> {
        match &self.0 {
            List::Default => None,
            List::Own(own) => Some(&own.ids),
        }
    }

    /// How many bytes the list's ids have together.
    pub fn bytes(&self) -> usize {
        self.own().unwrap_or_default().iter().map(|id| id.len()).sum()
    }

    /// Whether this text is blocked as an id of that kind, in whatever case, and with quotes around it, as PostHog saw them.
    pub fn block(&self, kind: IdKind, text: &str) -> bool {
        // A location hint may follow.
        let hinted = || kind == IdKind::Pc && text.contains('.');
        self.has(text) || (hinted() && kind.check(visible(text)).is_ok_and(|id| self.has(id)))
    }

    fn has(&self, text: &str) -> bool {
        let text = visible(text).trim();
        // Most ids are told from all of these by their first letter, or their length.
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
                // A letter may become several in lower case, and never none.
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

/// What stands in quotes, if anything does.
fn unquoted(text: &str) -> &str {
    let quoted = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    quoted.unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_id_is_blocked_by_default() {
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
