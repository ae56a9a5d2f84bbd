//! The inspector: pages for people, rendered here and readable without a script. They show what the native API tells: a
//! visitor with who set what when, batches and what became of their rows, and a place to drop a batch file on.
//!
//! Promises: what a page shows of visitors and files is escaped by its template; a page runs no script, and loads nothing,
//! but what this daemon serves; a handler asks for no more than the token of the call may have.

mod batches;
mod home;
mod plot;
mod session;
mod upload;
mod visitor;
mod words;

use askama::Template;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::Front;
use super::auth::{Access, Bearer, SESSION};
use super::error::HttpError;
use super::outcomes;
use super::request::Request;
use super::response::{Answer, explained, whole};
use crate::model::batch::BatchId;
use crate::model::id::ClientCode;
use crate::tokens::Scope;

/// What a page may do: load from here, and send its forms here. Nothing that stands in the page itself is run.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// Other sites are not told which visitor was looked at. (Without any referrer, forms would bear no `Origin`.)
const REFERRER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
const HTML: &str = "text/html;charset=UTF-8";

/// A page, or what belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page<'a> {
    Home,
    Visitor,
    Batches,
    Batch { id: &'a str },
    Progress { id: &'a str },
    Outcomes { id: &'a str },
    Repair { id: &'a str },
    File { id: &'a str },
    Upload,
    SignIn,
    SignOut,
    Asset { name: &'a str },
}

const READ: &[Method] = &[Method::GET, Method::HEAD];
const READ_OR_SEND: &[Method] = &[Method::GET, Method::HEAD, Method::POST];
const SEND: &[Method] = &[Method::POST];

impl<'a> Page<'a> {
    /// What the segments of a path lead to.
    pub(super) fn find(segments: &[&'a str]) -> Option<Self> {
        Some(match *segments {
            [""] => Self::Home,
            ["visitors"] => Self::Visitor,
            ["batches"] => Self::Batches,
            ["batches", id] => Self::Batch { id },
            ["batches", id, "progress"] => Self::Progress { id },
            ["batches", id, "outcomes"] => Self::Outcomes { id },
            ["batches", id, "repair"] => Self::Repair { id },
            ["batches", id, "file"] => Self::File { id },
            ["upload"] => Self::Upload,
            ["session"] => Self::SignIn,
            ["session", "end"] => Self::SignOut,
            ["assets", name] => Self::Asset { name },
            _ => return None,
        })
    }

    /// The methods that it takes.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Upload => READ_OR_SEND,
            Self::SignIn | Self::SignOut => SEND,
            _ => READ,
        }
    }

    /// What it takes to be let in.
    pub(super) fn access(&self, method: &Method) -> Access {
        match self {
            Self::Visitor => Access::Of(Scope::Read),
            Self::Upload if method == Method::POST => Access::Of(Scope::Batch),
            Self::SignIn | Self::SignOut | Self::Asset { .. } => Access::Open,
            _ => Access::Any,
        }
    }

    /// Whose visitors it is about: its batch's client, else the one that is named, else the token's own, else the only one
    /// there is; none where a page has to ask first.
    pub(super) fn client(
        &self,
        front: &Front,
        request: &Request,
        bearer: &Bearer,
    ) -> Result<Option<ClientCode>, HttpError> {
        match *self {
            Self::SignIn | Self::SignOut | Self::Asset { .. } => Ok(None),
            Self::Batch { id }
            | Self::Progress { id }
            | Self::Outcomes { id }
            | Self::Repair { id }
            | Self::File { id } => Ok(BatchId::parse(id).map(|id| id.client)),
            Self::Home | Self::Visitor | Self::Batches | Self::Upload => {
                let query = request.query().strict()?;
                if query.get("client").is_some() {
                    return query.client(&front.app).map(Some);
                }
                Ok(bearer.client().cloned().or_else(|| front.app.only_client()))
            }
        }
    }

    /// What the log and the metrics call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Home => "inspector",
            Self::Visitor => "inspector visitor",
            Self::Batches => "inspector batches",
            Self::Batch { .. } | Self::Progress { .. } => "inspector batch",
            Self::Outcomes { .. } | Self::Repair { .. } | Self::File { .. } => "inspector download",
            Self::Upload => "inspector upload",
            Self::SignIn | Self::SignOut => "inspector session",
            Self::Asset { .. } => "inspector asset",
        }
    }

    /// Has the request answered.
    pub(super) async fn answer(
        &self,
        front: &Front,
        request: &mut Request,
        bearer: &Bearer,
        client: Option<&ClientCode>,
    ) -> Result<Answer, HttpError> {
        match *self {
            Self::Home => home::answer(front, request, bearer, client).await,
            Self::Visitor => visitor::answer(front, request, client).await,
            Self::Batches => batches::list(front, request, client),
            Self::Batch { id } => batches::one(front, request, id).await,
            Self::Progress { id } => batches::progress(front, request, id).await,
            Self::Outcomes { id } => batches::outcomes(front, request, id).await,
            Self::Repair { id } => outcomes::repair(front, request, &batches::known(front, id)?.id).await,
            Self::File { id } => outcomes::file(front, request, &batches::known(front, id)?.id).await,
            Self::Upload if request.method() == Method::POST => upload::send(front, request, client).await,
            Self::Upload => upload::answer(request, client),
            Self::SignIn => session::begin(front, request).await,
            Self::SignOut => session::end(request),
            Self::Asset { name } => asset(name),
        }
    }

    /// A refusal as a page: where a token is missing, with a form to bring one.
    pub(super) fn refusal(&self, request: &Request, error: &HttpError) -> Answer {
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
