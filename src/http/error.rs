//! Why a call is refused: the status, the message to the client, and what the log says.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::framing::Violation;
use crate::config::Pace;
use crate::engine::{EngineError, ErrorKind};
use crate::model::id::ClientCode;
use crate::telemetry::metrics::Limit;
use crate::tokens::InvalidToken;

/// Why a call is refused. `Display` is the message to the client; [`HttpError::log`] is what the log says beyond it.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The request's header is too large, or breaks a rule of HTTP: two readers could understand it differently.
    #[error("{}", .0.message())]
    Violates(Violation),
    /// Its address has as many connections as it may have.
    #[error("your address has {0} connections open, no more are taken: close some")]
    TooManyConnections(usize),
    /// Its address calls too often.
    #[error("your address may make {calls} site calls a second: make fewer, or wait {} ms", .after.as_millis())]
    AddressTooOften {
        /// How many it may make.
        calls: NonZeroU32,
        /// How long to wait.
        after: Duration,
    },
    /// Its address brings a wrong token too often.
    #[error(
        "your address may fail to be let in {failures} times a minute: bring a token that counts, or wait {} s",
        whole_seconds(.after)
    )]
    FailedTooOften {
        /// How often it may.
        failures: NonZeroU32,
        /// How long to wait.
        after: Duration,
    },
    /// Calls for the client come too often.
    #[error(
        "client {client} may make {calls} batch calls a minute: put more rows into one, or wait {} s",
        whole_seconds(.after)
    )]
    ClientTooOften {
        /// Which.
        client: ClientCode,
        /// How many it may make.
        calls: NonZeroU32,
        /// How long to wait.
        after: Duration,
    },
    /// The call is wrong.
    #[error("{0}")]
    Wrong(String),
    /// The caller brought no token that counts.
    #[error("{0}")]
    Unauthorized(Unauthorized),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// There is no profile, in Adobe's words.
    #[error("No profile found for client {client} with {by}={id}")]
    NoProfile {
        /// Whose.
        client: ClientCode,
        /// The kind of id, in Adobe's words.
        by: &'static str,
        /// The id as the caller sent it.
        id: String,
    },
    /// The path has other methods.
    #[error("this path takes {}", Allowed(.0))]
    Method(&'static [Method]),
    /// The body stopped for too long.
    #[error("the body stopped: no bytes for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The body comes too slowly.
    #[error(
        "the body came too slowly: send at least {} bytes per second, {} seconds of waiting aside",
        .0.bytes_per_second_min, .0.idle_max.as_secs()
    )]
    Slow(Pace),
    /// The body broke off.
    #[error("the body broke off before its end")]
    BrokenOff(hyper::Error),
    /// The body is too large, or its length says so.
    #[error("{0}")]
    TooLarge(String),
    /// The path with its query is too long.
    #[error("{0}")]
    UriTooLong(String),
    /// The call does not take a body of this media type or encoding.
    #[error("{}", .0)]
    MediaType(MediaType),
    /// The daemon does not answer calls now.
    #[error("{0}")]
    NotReady(String),
    /// What a reload read is not right.
    #[error("nothing was reloaded, and everything stays as it was. {0}")]
    NotReloaded(String),
    /// The engine did not do what the call asked for.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Something inside failed.
    #[error("an internal error; the daemon's log says more")]
    Inside(String),
}

impl HttpError {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Violates(violation) => violation.status(),
            Self::Wrong(_) | Self::BrokenOff(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::NoProfile { .. } => StatusCode::NOT_FOUND,
            Self::TooManyConnections(_) | Self::AddressTooOften { .. } | Self::FailedTooOften { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Silent(_) | Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotReloaded(_) => StatusCode::CONFLICT,
            // Adobe's status for it.
            Self::ClientTooOften { .. } | Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Inside(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Engine(error) => match error {
                EngineError::UnknownClient(_)
                | EngineError::UnknownBatch(_)
                | EngineError::UnknownToken(_) => StatusCode::NOT_FOUND,
                EngineError::KeyTaken(_) => StatusCode::UNPROCESSABLE_ENTITY,
                EngineError::GivenUp(_) | EngineError::ChangesGone { .. } | EngineError::NotKept { .. } => {
                    StatusCode::GONE
                }
                EngineError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                EngineError::NotExportable(_)
                | EngineError::NotComplete(_)
                | EngineError::AlreadyComplete(_)
                | EngineError::NotHeld(_)
                | EngineError::NothingToRepair { .. } => StatusCode::CONFLICT,
                EngineError::SpoolFull(_) | EngineError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
                other => match other.kind() {
                    ErrorKind::Refused => StatusCode::BAD_REQUEST,
                    ErrorKind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                },
            },
        }
    }

    /// The seconds to wait before another try, if one is worth it.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::AddressTooOften { after, .. }
            | Self::FailedTooOften { after, .. }
            | Self::ClientTooOften { after, .. } => Some(whole_seconds(after)),
            // A person must act first.
            Self::Engine(EngineError::Held { .. }) => Some(60),
            _ => match self.status() {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(1),
                // Disk space comes back when old files go, or when somebody makes some.
                StatusCode::INSUFFICIENT_STORAGE => Some(60),
                _ => None,
            },
        }
    }

    /// The limit that was hit, if one was.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            Self::Violates(violation) => violation.limit(),
            Self::AddressTooOften { .. } => Some(Limit::AddressRate),
            Self::FailedTooOften { .. } => Some(Limit::FailedAuthorisations),
            Self::ClientTooOften { .. } => Some(Limit::ClientRate),
            Self::Silent(_) => Some(Limit::BodyIdleTimeout),
            Self::Slow(_) => Some(Limit::BodyRate),
            Self::TooLarge(_) => Some(Limit::BodyBytes),
            Self::UriTooLong(_) => Some(Limit::UriLength),
            Self::Engine(error) => error.limit(),
            _ => None,
        }
    }

    /// What the log says beyond the message to the client.
    pub(super) fn log(&self) -> Option<String> {
        match self {
            Self::BrokenOff(error) => Some(error.to_string()),
            Self::Inside(why) | Self::Engine(EngineError::Internal(why)) => Some(why.clone()),
            Self::Engine(EngineError::SpoolFull(why) | EngineError::Full(why)) => Some(why.clone()),
            _ => None,
        }
    }
}

fn whole_seconds(time: &Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Methods, as `Allow` lists them.
pub(super) struct Allowed(pub(super) &'static [Method]);

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{method}")?;
        }
        Ok(())
    }
}

/// Why no token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unauthorized {
    /// There is no `Authorization`.
    Missing,
    /// It is not `Bearer TOKEN`.
    Malformed,
    /// The token is in the header `access_token`, where one of Adobe's clients puts it.
    Elsewhere,
    /// The token is in the query, where logs would keep it.
    InQuery,
    /// The token is unknown, expired or revoked.
    Invalid(InvalidToken),
}

impl std::fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const RIGHT: &str = "send Authorization: Bearer TOKEN, with a token from `profiled token new`";
        match self {
            // The body is not read before the caller is known, so a token in it cannot be named here.
            Self::Missing => write!(f, "a token is needed: {RIGHT}; it is not read from a body"),
            Self::InQuery => {
                write!(f, "access_token in the query is not read, for logs would keep it: {RIGHT}")
            }
            Self::Elsewhere => write!(f, "the header access_token is not read: {RIGHT}"),
            Self::Malformed => write!(f, "Authorization is not understood: {RIGHT}"),
            Self::Invalid(why) => write!(f, "{why}: {RIGHT}"),
        }
    }
}

impl Unauthorized {
    /// What `WWW-Authenticate` says (RFC 6750, section 3).
    pub(super) const fn challenge(self) -> &'static str {
        match self {
            Self::Missing | Self::Elsewhere | Self::InQuery => "Bearer realm=\"profiled\"",
            Self::Malformed => "Bearer realm=\"profiled\", error=\"invalid_request\"",
            Self::Invalid(_) => "Bearer realm=\"profiled\", error=\"invalid_token\"",
        }
    }
}

/// A body that a call does not take.
#[derive(Debug)]
pub(super) struct MediaType {
    pub(super) sent: String,
    pub(super) right: String,
    /// The encodings that the call takes, if the encoding is what is wrong.
    pub(super) encodings: Option<&'static str>,
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not taken here: {}", self.sent, self.right)
    }
}
