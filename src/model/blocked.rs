//! Ids that are none: what a page's script or an export writes where there is nobody, so that all who are logged out would
//! be one visitor.

use std::sync::Arc;

use super::id::IdKind;

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

/// A client's `blocked_ids`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockedIds(Option<Arc<[Box<str>]>>);

impl BlockedIds {
    /// These instead of what is blocked by default; none at all are fine.
    pub fn these(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self(Some(ids.into_iter().map(|id| id.as_ref().trim().to_lowercase().into()).collect()))
    }

    /// Whether this text is blocked as an id of that kind, in whatever case, and with quotes around it, as PostHog saw them.
    pub fn block(&self, kind: IdKind, text: &str) -> bool {
        self.has(text) || kind.check(text).is_ok_and(|id| id.len() < text.len() && self.has(id))
    }

    fn has(&self, text: &str) -> bool {
        let text = text.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
        let text = quoted.unwrap_or(text).trim();
        match &self.0 {
            Some(these) => !these.is_empty() && these.contains(&text.to_lowercase().into_boxed_str()),
            None => {
                let nothing = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'_'));
                nothing || text == "-1" || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
            }
        }
    }
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
            ("ours", &["_", "__", " undefined "]),
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
        assert!(!BlockedIds::these([""; 0]).block(IdKind::Pc, "undefined"));
    }
}
