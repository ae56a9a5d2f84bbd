//! Who may call: bearer tokens, each for one client and some scopes. The router asks here before a handler runs, and gives
//! the handler the client that was checked. So no handler can read another client's data.
//!
//! Promises: a missing, unknown, expired or revoked token is a 401, and the answer says nothing about what exists. A token of
//! another client or scope is a 403, whether or not the client or batch exists. On Adobe's paths the 401 is a 403 too:
//! Adobe's clients look for `Forbidden`, and retry for hours after any other answer. A daemon without tokens lets everybody
//! in, except pages of other origins that would write through a visitor's browser. A new node of several that does not know yet
//! whether there are tokens answers 503.

use std::fmt;

use hyper::header::HeaderName;

use super::error::{HttpError, Unauthorized};
use super::request::Request;
use crate::audit::Actor;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::tokens::{Scope, Token, Tokens};

/// The cookie that keeps the inspector's token.
pub(super) const SESSION: &str = "profiled-session";
/// The header in which browsers say where a call comes from. No page can set it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The header in which `experiencecloudapis`, a client of Adobe's APIs, sends the token of the profile calls.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("access_token");

/// What a call takes: which token, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// No token.
    Open,
    /// No token; but only a token of a client sees what is that client's own.
    OpenInPart,
    /// No token: pages call, and no browser can keep a token secret.
    Page,
    /// A token of the client, of any scope.
    Any,
    /// A token of the client and of this scope.
    Of(Scope),
    /// A token of all clients and of this scope: the call is about the whole data folder.
    Everywhere(Scope),
}

impl fmt::Display for Access {
    /// What the OpenAPI document and the docs say: it takes …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open | Self::Page => f.write_str("no token"),
            Self::OpenInPart => f.write_str("no token; any token of a client for that client's series"),
            Self::Any => f.write_str("any token of the client"),
            Self::Of(scope) => write!(f, "a token of the client, scope {scope}"),
            Self::Everywhere(scope) => write!(f, "a token of all clients, scope {scope}"),
        }
    }
}

/// Where a call's token may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Only in `Authorization`.
    Header,
    /// Also in the inspector's cookie. A browser sends it by itself, so a call that writes must come from one of the
    /// inspector's own pages.
    HeaderOrCookie,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Bearer {
    /// Anybody: the daemon has no tokens, or the call takes none.
    Anybody,
    /// A caller without a token, to a daemon that has some.
    Nobody,
    /// The holder of this token.
    Token(Token),
}

/// Finds out who calls. `writes` says whether the call may change anything.
pub(super) fn admit(
    tokens: &Tokens,
    now: Millis,
    request: &Request,
    access: Access,
    writes: bool,
    proof: Proof,
) -> Result<Bearer, HttpError> {
    if matches!(access, Access::Open | Access::Page) {
        return Ok(Bearer::Anybody);
    }
    if !tokens.are_asked_for() {
        check_origin(request, writes)?;
        return Ok(Bearer::Anybody);
    }
    let refused = |why| Err(refusal(tokens, why));
    let cookie = match proof {
        Proof::HeaderOrCookie if request.authorization().is_none() => {
            request.cookie(SESSION).filter(|token| !token.is_empty())
        }
        Proof::Header | Proof::HeaderOrCookie => None,
    };
    if cookie.is_some() && writes {
        check_own_page(request)?;
    }
    let brought = cookie.map_or_else(|| bearer(request), |token| Ok(Some(token)));
    match brought {
        Ok(Some(text)) => match tokens.verify(text, now) {
            Ok(token) => Ok(Bearer::Token(token.clone())),
            Err(why) => refused(Unauthorized::Invalid(why)),
        },
        Ok(None) if access == Access::OpenInPart => Ok(Bearer::Nobody),
        Ok(None) if request.has_header(&ACCESS_TOKEN) => refused(Unauthorized::Elsewhere),
        Ok(None) if request.query().get("access_token").is_some() => refused(Unauthorized::InQuery),
        Ok(None) => refused(Unauthorized::Missing),
        Err(()) => refused(Unauthorized::Malformed),
    }
}

/// The refusal of a caller who brings no token that counts. A node that has yet to read the tokens refuses nobody for good.
pub(super) fn refusal(tokens: &Tokens, why: Unauthorized) -> HttpError {
    if tokens.are_to_come() {
        return HttpError::NotReady(
            "this node is new, and has yet to read from the order who may call: ask another node, or again in a second"
                .into(),
        );
    }
    HttpError::Unauthorized(why)
}

/// Turns a refusal of a token into the form that Adobe's clients understand: a 403 that begins with `Forbidden`.
pub(super) fn as_adobe(error: HttpError) -> HttpError {
    match error {
        HttpError::Unauthorized(why) => HttpError::Forbidden(format!("Forbidden: {why}")),
        HttpError::Forbidden(why) => HttpError::Forbidden(format!("Forbidden: {why}")),
        other => other,
    }
}

impl Bearer {
    /// Checks that the token allows the call, for this client if the call is about one.
    pub(super) fn check(&self, access: Access, client: Option<&ClientCode>) -> Result<(), HttpError> {
        let Self::Token(token) = self else { return Ok(()) };
        let asked = match access {
            Access::Open | Access::OpenInPart | Access::Page | Access::Any => None,
            Access::Of(scope) => Some(scope),
            Access::Everywhere(scope) => {
                if token.client.is_some() {
                    let why = "this is about the data of every client: it takes a token of --all-clients";
                    return Err(HttpError::Forbidden(why.into()));
                }
                Some(scope)
            }
        };
        if let Some(client) = client.filter(|client| !token.is_for(client)) {
            return Err(HttpError::Forbidden(format!("the token is not for client {client}")));
        }
        match asked.filter(|asked| !token.scope.covers(*asked)) {
            Some(asked) => Err(HttpError::Forbidden(format!(
                "the token's scope is {}: this takes one of scope {asked}",
                token.scope
            ))),
            None => Ok(()),
        }
    }

    /// Whether it may see what is this client's own. `None` stands for what is several clients'.
    pub(super) fn sees(&self, client: Option<&ClientCode>) -> bool {
        match self {
            Self::Anybody => true,
            Self::Nobody => false,
            Self::Token(token) => match client {
                Some(client) => token.is_for(client),
                None => token.client.is_none(),
            },
        }
    }

    /// The one client that its token is for, if there is one.
    pub(super) fn client(&self) -> Option<&ClientCode> {
        match self {
            Self::Anybody | Self::Nobody => None,
            Self::Token(token) => token.client.as_ref(),
        }
    }

    /// Whether its token has this scope.
    pub(super) fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Anybody => true,
            Self::Nobody => false,
            Self::Token(token) => token.scope.covers(scope),
        }
    }

    /// Who the audit trail names for this request.
    pub(super) fn actor(&self, request: &Request) -> Actor {
        Actor {
            token: match self {
                Self::Anybody | Self::Nobody => None,
                Self::Token(token) => Some(token.id.clone()),
            },
            address: Some(request.caller().address.to_string()),
            request: Some(request.id().to_owned()),
            user: None,
        }
    }
}

/// The token that a request brings.
fn bearer(request: &Request) -> Result<Option<&str>, ()> {
    let Some(value) = request.authorization() else { return Ok(None) };
    let (scheme, token) = value.to_str().map_err(|_| ())?.split_once(' ').ok_or(())?;
    if scheme.eq_ignore_ascii_case("Bearer") { Ok(Some(token.trim())) } else { Err(()) }
}

/// Refuses a call that does not come from one of the inspector's own pages. Browsers say so in `Sec-Fetch-Site`, or in
/// `Origin` where they send no `Sec-Fetch-Site` (over plain HTTP to another machine).
pub(super) fn check_own_page(request: &Request) -> Result<(), HttpError> {
    let own = match request.header_text(&FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => request.origin().is_some_and(|origin| request.is_own_origin(&origin)),
    };
    if own {
        return Ok(());
    }
    let why =
        "this is for the inspector's own pages: a program sends Authorization: Bearer TOKEN, and no cookie";
    Err(HttpError::Forbidden(why.into()))
}

/// Refuses what a page of another origin makes a browser send. Such a page may send forms and load images from anywhere. So
/// it could write to a daemon without tokens that only this machine reaches.
fn check_origin(request: &Request, writes: bool) -> Result<(), HttpError> {
    let site = request.header_text(&FETCH_SITE);
    // A link that only reads may come from any page: that page sees nothing of the answer.
    let elsewhere = writes && site.is_some_and(|site| matches!(site, "cross-site" | "same-site"));
    let foreign = request.origin().is_some_and(|origin| !request.is_own_origin(&origin));
    if elsewhere || foreign {
        let why = "a page of another origin may not call this while there are no tokens: make one with \
                   `profiled token new`, and call from a server";
        return Err(HttpError::Forbidden(why.into()));
    }
    Ok(())
}
