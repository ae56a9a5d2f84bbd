//! The inspector: pages for people, rendered here and readable without a script. They show what the native API reports: a visitor
//! with who set what and when, batches with what became of their rows, and a place to drop a batch file on.
//!
//! Promises: templates escape what a page shows of visitors and files. A page runs no script, and loads nothing, from anywhere but
//! this daemon. A handler asks for no more than the token of the call allows.

mod batches;
mod home;
mod plot;
mod session;
mod upload;
mod visitor;
mod words;

use askama::Template;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};

use super::auth::{Access, SESSION};
use super::endpoint::{Api, CallLimits, Endpoint, Methods, Whose};
use super::error::HttpError;
use super::request::Request;
use super::response::{Answer, explained, whole};
use crate::model::id::ClientCode;

/// What a page may do: load from this daemon, and send its forms to it. No script in the page itself runs.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// Other sites do not learn which visitor was looked at. (Without any referrer, forms would have no `Origin`.)
const REFERRER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
const HTML: &str = "text/html;charset=UTF-8";

/// All pages, and what belongs to them.
pub(super) const ENDPOINTS: &[&[Endpoint]] =
    &[home::ENDPOINTS, visitor::ENDPOINTS, batches::ENDPOINTS, upload::ENDPOINTS, session::ENDPOINTS, ASSETS];

/// Whose conventions the pages follow.
const PAGES: Api = Api::Inspector(refusal);

/// `/assets/{name}`: what pages load.
const ASSETS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/assets/{name}",
    name: "inspector asset",
    api: PAGES,
    access: Access::Open,
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(async move { asset(call.path.get("name")) }),
    describe: None,
}];

/// The refusal of a page: a page that says why. If a token is missing, it has a form to bring one.
fn refusal(request: &Request, error: &HttpError) -> Answer {
    let status = error.status();
    let answer = if status == StatusCode::UNAUTHORIZED {
        session::prompt(request, error)
    } else {
        let title = status.canonical_reason().unwrap_or("Refused");
        let frame = Frame { title: title.into(), ..Frame::of(request, None, "") };
        render(status, &Refused { frame, status: status.as_u16(), told: error.to_string() })
    };
    // A page that cannot be rendered has no better words for another.
    explained(answer.unwrap_or_else(|error| whole(error.status(), HTML, vec![])), error)
}

/// What stands around every page.
struct Frame {
    title: String,
    client: Option<String>,
    /// The entry of the menu that it belongs to.
    here: &'static str,
    signed_in: bool,
}

impl Frame {
    fn of(request: &Request, client: Option<&ClientCode>, here: &'static str) -> Self {
        Self {
            title: here.to_owned(),
            client: client.map(|client| client.as_str().to_owned()),
            here,
            signed_in: request.cookie(SESSION).is_some_and(|token| !token.is_empty()),
        }
    }

    /// What a link to a page of the same client ends in.
    fn query(&self) -> String {
        self.client.as_ref().map_or(String::new(), |client| format!("?client={client}"))
    }
}

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    status: u16,
    told: String,
}

/// A page, or a piece of one.
fn render(status: StatusCode, page: &impl Template) -> Result<Answer, HttpError> {
    let text = page.render().map_err(|error| HttpError::Inside(format!("a page: {error}")))?;
    let mut answer = whole(status, HTML, text.into_bytes());
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    answer.headers_mut().insert(REFERRER.0, REFERRER.1);
    Ok(answer)
}

/// What pages load: it is in the binary.
fn asset(name: &str) -> Result<Answer, HttpError> {
    let (media_type, text) = match name {
        "inspector.css" => ("text/css;charset=UTF-8", include_str!("assets/inspector.css")),
        "inspector.js" => ("text/javascript;charset=UTF-8", include_str!("assets/inspector.js")),
        "icon.svg" => ("image/svg+xml", include_str!("assets/icon.svg")),
        _ => return Err(HttpError::NotFound("there is nothing at this path".into())),
    };
    Ok(whole(StatusCode::OK, media_type, text.into()))
}
