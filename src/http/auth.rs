//! Who may: bearer tokens, each of a client and a scope. The router asks here before any handler runs, and hands it the
//! client that was asked about; so no handler can look at another one's.
//!
//! Promises: no token, an unknown one, an expired or a revoked one is a 401, and says nothing of what there is; another
//! client's or scope's is a 403, also for a client or batch that there is none of. On Adobe's paths the first is a 403, too:
//! Adobe's clients look for `Forbidden`, and retry for hours whatever else they are told. While no token was ever made all doors
//! are open, but not to pages of other origins that would write by a visitor's browser.

use std::fmt;

use hyper::header::HeaderName;

use super::error::{HttpError, Unauthorized};
use super::request::Request;
use crate::audit::Actor;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::tokens::{Scope, Token, Tokens};

/// The cookie in which the inspector's pages keep a token.
pub(super) const SESSION: &str = "profiled-session";
/// Browsers say by this header where a call comes from; no page can set it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The header in which `experiencecloudapis`, a client of Adobe's APIs, sends the token of the profile calls.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("access_token");

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: whether the daemon runs.
    Open,
    /// Nothing; but what is a client's own is shown only to a token of the client.
    OpenInPart,
    /// Nothing: a page's call, which no browser can keep a token for.
    Page,
    /// A token of the client, whatever it is for.
    Any,
    /// A token of the client and of this scope.
    Of(Scope),
    /// A token of every client and of this scope: it is about the whole data folder.
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
    /// In `Authorization` alone.
    Header,
    /// In the inspector's cookie, too. A browser sends that along by itself, so a call that writes must come from one of
    /// the inspector's own pages.
    HeaderOrCookie,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Bearer {
    /// Nobody in particular: there are no tokens, or none is asked for.
    Anybody,
    /// Whoever brought no token, where there are some.
    Nobody,
    /// Whoever has this token.
    Token(Token),
}

/// Finds out who calls. `writes` says whether the call would change anything.
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
    let refused = |why| Err(HttpError::Unauthorized(why));
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
            Err(refusal) => refused(Unauthorized::Refused(refusal)),
        },
        Ok(None) if access == Access::OpenInPart => Ok(Bearer::Nobody),
        Ok(None) if request.has_header(&ACCESS_TOKEN) => refused(Unauthorized::Elsewhere),
        Ok(None) if request.query().get("access_token").is_some() => refused(Unauthorized::InQuery),
        Ok(None) => refused(Unauthorized::Missing),
        Err(()) => refused(Unauthorized::Malformed),
    }
}

/// A refusal to let somebody in, as Adobe's clients of the profile calls understand it: a 403, and `Forbidden`.
pub(super) fn as_adobe(error: HttpError) -> HttpError {
    match error {
        HttpError::Unauthorized(why) => HttpError::Forbidden(format!("Forbidden: {why}")),
        HttpError::Forbidden(why) => HttpError::Forbidden(format!("Forbidden: {why}")),
        other => other,
    }
}

impl Bearer {
    /// Whether it may do what it asks for, to this client's visitors if they are one client's.
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

    /// Whether it may know what there is of this client; none are several at once.
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

    /// Whose visitors alone it is for.
    pub(super) fn client(&self) -> Option<&ClientCode> {
        match self {
            Self::Anybody | Self::Nobody => None,
            Self::Token(token) => token.client.as_ref(),
        }
    }

    /// Whether it may do what this scope is for, to whichever client's visitors.
    pub(super) fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Anybody => true,
            Self::Nobody => false,
            Self::Token(token) => token.scope.covers(scope),
        }
    }

    /// Who the audit trail says it was, in this request.
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

/// Refuses what does not come from one of the inspector's own pages, as far as browsers tell it: by `Sec-Fetch-Site`, or
/// by `Origin` where there is none of that (over plain HTTP, but for loopback).
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

/// Refuses what a page of another origin has a browser send: such a page may send forms and images wherever it likes,
/// and where no token is asked for it could write to a daemon that only this machine reaches.
fn check_origin(request: &Request, writes: bool) -> Result<(), HttpError> {
    let site = request.header_text(&FETCH_SITE);
    // A link that only reads may lead here from anywhere: its page sees nothing of where it led.
    let elsewhere = writes && site.is_some_and(|site| matches!(site, "cross-site" | "same-site"));
    let foreign = request.origin().is_some_and(|origin| !request.is_own_origin(&origin));
    if elsewhere || foreign {
        let why = "a page of another origin may not call this while there are no tokens: make one with \
                   `profiled token new`, and call from a server";
        return Err(HttpError::Forbidden(why.into()));
    }
    Ok(())
}
