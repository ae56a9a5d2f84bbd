//! What a call left out while it went on: named in one header of its answer, whatever the form of the answer.
//!
//! Promises: the header is readable text of at most [`HEADER_BYTES_MAX`] bytes, whatever was sent. It never holds a value, and of
//! names and ids only what [`shown`] gives. No body says it: Adobe's SDKs take a `message` in a body for an error.

use std::borrow::Cow;
use std::fmt;

use hyper::header::{HeaderName, HeaderValue};

use super::response::Answer;

/// The header, as in `Profiled-Left-Out: 20 profile parameters beyond 500`; several things are joined with `; `.
pub(super) const LEFT_OUT: HeaderName = HeaderName::from_static("profiled-left-out");
/// The longest value of the header.
const HEADER_BYTES_MAX: usize = 1_024;
/// How many different things the header names. Further ones are only counted.
const THINGS_MAX: usize = 16;
/// How many parts of one thing are named to who listens to calls as they come in.
const NAMED_MAX: usize = 5;
/// The longest part of a name or an id that is shown.
const SHOWN_CHARS_MAX: usize = 24;

/// What is left out of one call.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    things: Vec<Thing>,
    beyond: usize,
}

/// Parts of one kind that were left out for one reason.
#[derive(Debug)]
struct Thing {
    count: usize,
    kind: &'static str,
    why: Cow<'static, str>,
    /// The first of these parts. No header has them.
    named: Vec<String>,
}

impl LeftOut {
    /// Notes that `count` parts of a kind are left out. `kind` is the singular (`profile parameter`), and `why` follows it
    /// (`beyond 500`). Text that the caller sent is in `why` only as [`shown`] gives it.
    pub(super) fn note(&mut self, count: usize, kind: &'static str, why: impl Into<Cow<'static, str>>) {
        let why = why.into();
        if count == 0 {
            return;
        }
        if let Some(thing) = self.things.iter_mut().find(|thing| thing.kind == kind && thing.why == why) {
            thing.count += count;
        } else if self.things.len() < THINGS_MAX {
            self.things.push(Thing { count, kind, why, named: vec![] });
        } else {
            self.beyond += count;
        }
    }

    /// The same of one part, which is called `name`.
    pub(super) fn note_named(&mut self, kind: &'static str, why: impl Into<Cow<'static, str>>, name: &str) {
        let why = why.into();
        self.note(1, kind, why.clone());
        let thing = self.things.iter_mut().find(|thing| thing.kind == kind && thing.why == why);
        if let Some(thing) = thing.filter(|thing| thing.named.len() < NAMED_MAX) {
            thing.named.push(shown(name));
        }
    }

    /// A sentence for each thing, with the first of its parts.
    pub(super) fn sentences(&self) -> Vec<String> {
        let sentence = |thing: &Thing| {
            let more = if thing.count > thing.named.len() && !thing.named.is_empty() { ", …" } else { "" };
            let colon = if thing.named.is_empty() { "" } else { ": " };
            format!("{thing}{colon}{}{more}", thing.named.join(", "))
        };
        let beyond = (self.beyond > 0).then(|| format!("{} more", self.beyond));
        self.things.iter().map(sentence).chain(beyond).collect()
    }

    /// How many are left out, of all kinds.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.things.iter().map(|thing| thing.count).sum::<usize>() + self.beyond
    }

    /// Says so in an answer.
    pub(super) fn tell(&self, answer: &mut Answer) {
        let text = self.header();
        if let Some(value) = Some(text).filter(|text| !text.is_empty())
            && let Ok(value) = HeaderValue::try_from(value)
        {
            answer.headers_mut().insert(LEFT_OUT, value);
        }
    }

    fn header(&self) -> String {
        let mut text = String::new();
        let mut beyond = self.beyond;
        for it in &self.things {
            let thing = it.to_string();
            // The count of the others must still fit behind.
            if text.len() + thing.len() + "; ; 18446744073709551615 more".len() > HEADER_BYTES_MAX {
                beyond += it.count;
                continue;
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&thing);
        }
        if beyond > 0 {
            text.push_str(&format!("; {beyond} more"));
        }
        text
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, kind, why, .. } = self;
        let plural = if *count == 1 { "" } else { "s" };
        write!(f, "{count} {kind}{plural} {why}")
    }
}

/// A name or an id as a header may show it: quoted, in ASCII, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_default).collect();
    let cut = if text.chars().nth(SHOWN_CHARS_MAX).is_some() { "..." } else { "" };
    format!("\"{start}{cut}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::response::no_content;

    #[test]
    fn left_out_parts_are_counted_by_kind_and_reason() {
        let mut left_out = LeftOut::default();
        assert_eq!(left_out.header(), "");
        left_out.note(0, "profile parameter", "beyond 500");
        left_out.note(19, "profile parameter", "beyond 500");
        left_out.note(1, "profile parameter", "beyond 500");
        left_out.note(1, "mbox3rdPartyId", format!("that is blocked: {}", shown("Unde\u{e9}\n")));
        let text = "20 profile parameters beyond 500; 1 mbox3rdPartyId that is blocked: \"Unde\\u{e9}\\n\"";
        assert_eq!((left_out.header().as_str(), left_out.count()), (text, 21));
        let mut answer = no_content();
        left_out.tell(&mut answer);
        assert_eq!(answer.headers()[LEFT_OUT], text);
    }

    proptest! {
        #[test]
        fn the_header_is_text_and_bounded_whatever_was_sent(
            sent in proptest::collection::vec((1..usize::MAX / 64, ".*|[\\x00-\\x7f]*"), 0..40),
        ) {
            let mut left_out = LeftOut::default();
            for (count, text) in &sent {
                left_out.note(*count, "parameter", format!("that is no profile.NAME: {}", shown(text)));
            }
            let text = left_out.header();
            prop_assert!(text.len() <= HEADER_BYTES_MAX, "{}", text.len());
            prop_assert!(HeaderValue::try_from(&text).is_ok_and(|it| it.to_str().is_ok()), "{text}");
        }
    }
}
