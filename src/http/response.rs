//! Answers: XML, JSON, text and streams; and refusals, in the form of the API that refuses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Response, StatusCode};
use quick_xml::escape::partial_escape;
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::error::{Allowed, HttpError, MediaType};
use super::script;
use crate::batch::csv::BadId;
use crate::engine::EngineError;
use crate::telemetry::metrics::{self, Limit};

/// An answer: whole, or in chunks that are still being produced.
pub(super) type Answer = Response<Either<Full<Bytes>, Chunks>>;

/// A body in chunks. If the sender is dropped before it has sent [`Chunk::End`], the answer breaks off, so that nobody takes
/// it for complete.
#[derive(Debug)]
pub(super) struct Chunks(mpsc::Receiver<Chunk>);

/// A piece of a body, or its end.
#[derive(Debug)]
pub(super) enum Chunk {
    /// Bytes.
    Bytes(Bytes),
    /// The body is complete.
    End,
}

/// The media types of answers.
pub(super) const XML: &str = "text/xml;charset=UTF-8";
pub(super) const JSON: &str = "application/json";
pub(super) const PROBLEM: &str = "application/problem+json";
pub(super) const SCRIPT: &str = "text/javascript;charset=UTF-8";
pub(super) const TEXT: &str = "text/plain;charset=UTF-8";
pub(super) const CSV: &str = "text/csv;charset=UTF-8";
pub(super) const NDJSON: &str = "application/x-ndjson";
/// A tar file.
pub(super) const TAR: &str = "application/x-tar";
pub(super) const EVENTS: &str = "text/event-stream";

const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// The form of refusals, by the API that refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Adobe's batch calls.
    Batch,
    /// Adobe's single update.
    Update,
    /// Adobe's mbox calls in JSON: at.js looks for `error`.
    Mbox,
    /// Adobe's mbox calls in JavaScript: a comment of one line, which begins as Adobe's do.
    MboxScript,
    /// Adobe's ubox calls: only the message, in plain text.
    Ubox,
    /// Adobe's `/rest`.
    Rest,
    /// All that is ours: problem details (RFC 9457).
    Native,
}

/// An answer in XML: `<response>` around the elements, in their order.
pub(super) fn xml(status: StatusCode, elements: &[(&str, &str)]) -> Answer {
    xml_with(status, elements, "")
}

/// The same, and after them `rest`, which is XML already.
pub(super) fn xml_with(status: StatusCode, elements: &[(&str, &str)], rest: &str) -> Answer {
    let mut body = String::from("<response>");
    elements.iter().for_each(|(name, text)| element(&mut body, name, text));
    body.push_str(rest);
    body.push_str("</response>");
    with_body(status, XML, body.into())
}

/// Adds an element.
pub(super) fn element(body: &mut String, name: &str, text: &str) {
    // XML has no way to write most control characters.
    let text = text.replace(|c: char| c.is_control() && !c.is_whitespace(), "\u{fffd}");
    body.extend(["<", name, ">", &partial_escape(&text), "</", name, ">"]);
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, answer: &impl Serialize) -> Result<Answer, HttpError> {
    let body =
        serde_json::to_vec(answer).map_err(|e| HttpError::Inside(format!("an answer in JSON: {e}")))?;
    Ok(with_body(status, JSON, body.into()))
}

/// An answer whose JSON is written already.
pub(super) fn json_text(status: StatusCode, body: String) -> Answer {
    with_body(status, JSON, body.into())
}

/// An answer in JavaScript.
pub(super) fn script(status: StatusCode, body: String) -> Answer {
    with_body(status, SCRIPT, body.into())
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_body(status, TEXT, body.into())
}

/// An answer of any kind.
pub(super) fn whole(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Answer {
    with_body(status, media_type, body.into())
}

/// An answer with metrics.
pub(super) fn counted(metrics: String) -> Answer {
    with_body(StatusCode::OK, metrics::MEDIA_TYPE, metrics.into())
}

/// An answer in chunks.
pub(super) fn chunked(media_type: &'static str, chunks: mpsc::Receiver<Chunk>) -> Answer {
    around(StatusCode::OK, media_type, Either::Right(Chunks(chunks)))
}

/// A redirect.
pub(super) fn redirect(location: HeaderValue) -> Answer {
    let mut answer = text(StatusCode::FOUND, "");
    answer.headers_mut().insert(LOCATION, location);
    answer
}

/// An answer without a body.
pub(super) fn no_content() -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    guard(answer.headers_mut());
    answer
}

/// A refusal of Adobe's `/rest`.
#[derive(Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct RefusalBody {
    /// The status of the answer.
    status: u16,
    /// What was wrong, where, and what to do.
    message: String,
}

/// A refusal of our own calls: problem details as RFC 9457 has them, and what says more.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// What kind of problem it is. `about:blank`: the status says all.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What was wrong, where, and what to do.
    detail: String,
    /// The same as `detail`.
    message: String,
    /// The limit that was hit, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<&'static str>,
    /// The seconds to wait before another try, if one is worth it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_seconds: Option<u64>,
    /// The first lines that are no ids, if the body is a file of ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    lines: Vec<BadLine>,
}

/// A line of the body that is not right.
#[derive(Serialize, ToSchema)]
struct BadLine {
    /// Its number, from 1.
    line: u32,
    /// What is wrong, in a word for programs.
    reason: &'static str,
    /// What is wrong, where, and what would be right.
    message: String,
}

/// The bad lines that an error names.
fn bad_lines(error: &HttpError) -> Vec<BadLine> {
    let HttpError::Engine(EngineError::BadIds(bad)) = error else { return vec![] };
    let told = bad.first.iter();
    told.map(|BadId { line, reason, message }| BadLine { line: *line, reason, message: message.clone() })
        .collect()
}

fn problem(error: &HttpError) -> Answer {
    let status = error.status();
    let message = error.to_string();
    let problem = ProblemBody {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail: message.clone(),
        message,
        limit: error.limit().map(Limit::name),
        retry_after_seconds: error.retry_after(),
        lines: bad_lines(error),
    };
    with_body(status, PROBLEM, serde_json::to_vec(&problem).unwrap_or_default().into())
}

/// A refusal, in the form of its API.
pub(super) fn refusal(door: Door, error: &HttpError) -> Answer {
    let (status, message) = (error.status(), error.to_string());
    let answer = match door {
        Door::Batch => xml(status, &[("success", "false"), ("batchStatus", ""), ("message", &message)]),
        Door::Update => xml(status, &[("success", "false"), ("pcId", ""), ("message", &message)]),
        Door::Mbox => {
            let refused = serde_json::json!({ "status": status.as_u16(), "error": message });
            json_text(status, script::json(&refused).unwrap_or_default())
        }
        Door::MboxScript => script(status, format!("//ERROR: {}\n", script::escaped(&message))),
        Door::Ubox => text(status, message),
        Door::Native => problem(error),
        Door::Rest => {
            let refused = RefusalBody { status: status.as_u16(), message };
            json_text(status, serde_json::to_string(&refused).unwrap_or_default())
        }
    };
    explained(answer, error)
}

/// A refusal with the headers that explain it.
pub(super) fn explained(mut answer: Answer, error: &HttpError) -> Answer {
    let headers = answer.headers_mut();
    if let HttpError::Method(methods) = error
        && let Ok(allow) = HeaderValue::try_from(Allowed(methods).to_string())
    {
        headers.insert(ALLOW, allow);
    }
    if let HttpError::Unauthorized(why) = error {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(why.challenge()));
    }
    if let HttpError::MediaType(MediaType { encodings: Some(encodings), .. }) = error {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encodings));
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn with_body(status: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    around(status, media_type, Either::Left(Full::new(body)))
}

fn around(status: StatusCode, media_type: &'static str, body: Either<Full<Bytes>, Chunks>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    guard(headers);
    answer
}

/// Adds the headers of every answer: browsers must not guess its type, nobody stores it, and if a browser shows it as a page,
/// the page may do nothing.
fn guard(headers: &mut HeaderMap) {
    headers.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.get_mut().0.poll_recv(cx).map(|chunk| match chunk {
            Some(Chunk::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Chunk::End) => None,
            None => Some(Err(io::Error::other("the answer could not be made whole; the log says why"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_break_out_of_its_element() {
        let answer = refusal(Door::Batch, &HttpError::Wrong("a <b> & \u{0}".into()));
        let body = format!("{:?}", answer.body());
        assert!(body.contains("<message>a &lt;b&gt; &amp; \\xef\\xbf\\xbd</message>"), "{body}");
    }
}
