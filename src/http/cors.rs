//! Answers that pages of other origins may read: those to the site's calls, and no others.
//!
//! Credentials are off: an answer says `*`, which browsers don't accept for a request that sends cookies.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName, HeaderValue,
};

use super::error::Methods;
use super::response::{Answer, no_content};

/// What Adobe's SDKs send from a page beyond the headers that need no leave.
const HEADERS_ALLOWED: HeaderValue =
    HeaderValue::from_static("Content-Type, X-EXC-SDK, X-EXC-SDK-Version, X-Request-Id");
/// How long a browser may remember the answer to its preflight: the longest that any of them does is a day.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("86400");
/// Pages that isolate themselves load images and scripts only from where this stands.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The answer to the `OPTIONS` with which a browser asks for leave.
pub(super) fn preflight(methods: Methods) -> Answer {
    let mut answer = no_content();
    let headers = answer.headers_mut();
    if let Ok(methods) = HeaderValue::try_from(methods.to_string()) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS_ALLOWED);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    answer
}

/// Lets pages of any origin read an answer.
pub(super) fn open(answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("X-Request-Id"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
}
