//! Answers that pages of other origins may read: those to the site's calls, and no others.
//!
//! at.js sends its calls with credentials, and a browser then shows it an answer only if that names the page's origin and
//! allows them: with `*` at.js would never learn its visitor's id, and every call would make a new visitor. So the doors
//! that never read a cookie (mbox, Delivery and the older calls in JSON) allow credentials, which gives a page nothing that it could not have
//! without. ubox reads one, and says `*`: what browsers refuse for a call that sends cookies.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName,
    HeaderValue, VARY,
};

use super::error::Allowed;
use super::response::{Answer, no_content};

/// What Adobe's SDKs, and its samples, send from a page beyond the headers that need no leave.
const HEADERS_ALLOWED: HeaderValue =
    HeaderValue::from_static("Cache-Control, Content-Type, X-EXC-SDK, X-EXC-SDK-Version, X-Request-Id");
/// What a page's script may read of an answer's headers: nobody else would ever hear what was left out.
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Request-Id, Profiled-Left-Out");
/// How long a browser may remember the answer to its preflight: the longest that any of them does is a day.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("86400");
/// Pages that isolate themselves load images and scripts only from where this stands.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The answer to the `OPTIONS` with which a browser asks for leave.
pub(super) fn preflight(methods: Allowed) -> Answer {
    let mut answer = no_content();
    let headers = answer.headers_mut();
    if let Ok(methods) = HeaderValue::try_from(methods.to_string()) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS_ALLOWED);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    answer
}

/// Lets pages of any origin read an answer; this page also with credentials.
pub(super) fn open(answer: &mut Answer, with_credentials: Option<HeaderValue>) {
    let headers = answer.headers_mut();
    match with_credentials {
        Some(origin) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
        None => drop(headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))),
    }
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
}
