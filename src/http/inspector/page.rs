//! What all pages have in common: the frame around them, and the headers of an answer that is a page.

use askama::Template;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};

use super::health::banner;
use crate::http::Front;
use crate::http::auth::SESSION;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::response::{Answer, whole};
use crate::model::id::ClientCode;

/// What a page may do: load from this daemon, and send its forms to it. No script in the page itself runs.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// Other sites do not learn which visitor was looked at. (Without any referrer, forms would have no `Origin`.)
const REFERRER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
pub(super) const HTML: &str = "text/html;charset=UTF-8";

/// What stands around every page.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) client: Option<String>,
    /// The entry of the menu that it belongs to.
    pub(super) here: &'static str,
    pub(super) signed_in: bool,
    /// Whether the daemon is one node of several.
    pub(super) of_cluster: bool,
    /// Why the daemon takes no writes now.
    pub(super) banner: Option<String>,
}

impl Frame {
    pub(super) fn of(
        front: &Front,
        request: &Request,
        client: Option<&ClientCode>,
        here: &'static str,
    ) -> Self {
        Self {
            of_cluster: front.members.is_some(),
            banner: banner(front),
            ..Self::of_any(request, client, here)
        }
    }

    /// The same, where nothing is known of the daemon: around a refusal.
    pub(super) fn of_any(request: &Request, client: Option<&ClientCode>, here: &'static str) -> Self {
        Self {
            title: here.to_owned(),
            client: client.map(|client| client.as_str().to_owned()),
            here,
            of_cluster: false,
            banner: None,
            signed_in: request.cookie(SESSION).is_some_and(|token| !token.is_empty()),
        }
    }

    /// What a link to a page of the same client ends in.
    pub(super) fn query(&self) -> String {
        self.client.as_ref().map_or(String::new(), |client| format!("?client={client}"))
    }
}

/// A page, or a piece of one.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Result<Answer, HttpError> {
    let text = page.render().map_err(|error| HttpError::Inside(format!("a page: {error}")))?;
    let mut answer = whole(status, HTML, text.into_bytes());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    answer.headers_mut().insert(REFERRER.0, REFERRER.1);
    Ok(answer)
}
