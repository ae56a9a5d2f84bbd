//! The headers that let pages of other origins read an answer. Only answers to the site's calls have them.
//!
//! at.js sends its calls with credentials. A browser then shows at.js the answer only if it names the page's origin and
//! allows credentials. With `*` at.js would never learn its visitor's id, and every call would make a new visitor. So the
//! calls that read no cookie (mbox, Delivery and the older calls in JSON) allow credentials; that gives a page nothing it
//! could not have without them. ubox reads a cookie, and answers `*`, which browsers refuse for a call with cookies.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName,
    HeaderValue, VARY,
};

use super::error::Allowed;
use super::response::{Answer, no_content};

/// The headers that Adobe's SDKs and samples send from a page, beyond those that need no permission.
const HEADERS_ALLOWED: HeaderValue =
    HeaderValue::from_static("Cache-Control, Content-Type, X-EXC-SDK, X-EXC-SDK-Version, X-Request-Id");
/// The headers of an answer that a page's script may read: otherwise nobody would see what was left out, nor where a write is.
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Request-Id, Profiled-Left-Out, Profiled-Seq");
/// How long a browser may keep the answer to its preflight. No browser keeps it longer than a day.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("86400");
/// Isolated pages load images and scripts only if the answer has this header.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The answer to the `OPTIONS` by which a browser asks for permission.
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

/// Lets pages of any origin read an answer. The page of `with_credentials` may do so with credentials.
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
