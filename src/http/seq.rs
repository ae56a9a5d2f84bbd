//! How new what an answer tells of is: the headers `Profiled-Seq` and `Profiled-Behind-Ms`.
//!
//! `Profiled-Seq` is the place of a write in the one order of all writes. Whoever asks a node for it by `wait_for_seq` reads the write.
//!
//! Only the header has it: Adobe's SDKs would stumble over members that they do not know.

use hyper::header::{HeaderName, HeaderValue};

use std::time::Duration;

use super::response::Answer;
use crate::model::seq::Seq;

const SEQ: HeaderName = HeaderName::from_static("profiled-seq");
/// On a node of several that is cut off from the order or behind it: how old what an answer shows may be, in milliseconds.
const BEHIND_MS: HeaderName = HeaderName::from_static("profiled-behind-ms");

/// Says in an answer at which place its write is. A write that changed nothing has none.
pub(super) fn tell(answer: &mut Answer, seq: Option<Seq>) {
    if let Some(seq) = seq {
        answer.headers_mut().insert(SEQ, HeaderValue::from(seq.get()));
    }
}

/// The place that an answer tells, if it tells one.
pub(super) fn told(answer: &Answer) -> Option<String> {
    answer.headers().get(SEQ)?.to_str().ok().map(str::to_owned)
}

/// Says in an answer how old what it shows may be.
pub(super) fn tell_age(answer: &mut Answer, behind: Duration) {
    let ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
    answer.headers_mut().insert(BEHIND_MS, HeaderValue::from(ms));
}
