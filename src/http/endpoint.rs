//! The declaration of an endpoint: all facts about a call in one place, beside the call's handler.
//!
//! Promises: the router, the metrics and the OpenAPI document read these declarations, and hold no facts of their own about a
//! call. A handler only gets a [`Call`] whose token and client were checked.

use std::fmt;
use std::pin::Pin;

use hyper::Method;
use serde::Deserialize;

use super::Front;
use super::auth::{Access, Bearer};
use super::error::HttpError;
use super::operation::Operation;
use super::path::Path;
use super::request::{Params, Request, client};
use super::response::{Answer, Door};
use crate::engine::EngineError;
use crate::engine::gates::Scarce;
use crate::model::batch::BatchId;
use crate::model::id::ClientCode;

/// A call of the API.
pub(super) struct Endpoint {
    /// Its methods.
    pub(super) methods: Methods,
    /// Its path; see [`Template`](super::path::Template).
    pub(super) path: &'static str,
    /// Its name in the log and the metrics, in one word, because a path would contain ids. Several calls may share a name.
    pub(super) name: &'static str,
    /// The API whose conventions it follows.
    pub(super) api: Api,
    /// Who may call.
    pub(super) access: Access,
    /// Whose visitors it is about.
    pub(super) client: Whose,
    /// How much a caller may use.
    pub(super) limits: CallLimits,
    /// The function that answers it.
    pub(super) handler: Handler,
    /// Its description in the OpenAPI document. The inspector's pages have none.
    pub(super) describe: Option<fn(Operation) -> Operation>,
}

impl Endpoint {
    /// Whether it shows what the daemon keeps of visitors and batches.
    pub(super) fn shows_what_is_kept(&self) -> bool {
        self.methods == Methods::Read
            && matches!(self.access, Access::Any | Access::Of(_) | Access::Everywhere(_))
    }

    /// Whether it may write to visitors, or tries that out. Who listens to calls as they come in is told of it.
    pub(super) fn writes_to_visitors(&self) -> bool {
        self.methods.write() && self.client != Whose::Nobody
    }
}

/// The function that answers a call: `|call| Box::pin(answer(call))`.
pub(super) type Handler = for<'a> fn(Call<'a>) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;
/// The result of a handler.
pub(super) type Reply = Result<Answer, HttpError>;

/// The methods of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    /// GET and HEAD: it changes nothing.
    Read,
    /// POST.
    Post,
    /// DELETE.
    Delete,
    /// GET or POST, as Adobe's calls that write. The form's parameters are in the query or in the body.
    GetOrPost,
}

impl Methods {
    /// All of them, as `Allow` lists them.
    pub(super) const fn all(self) -> &'static [Method] {
        match self {
            Self::Read => &[Method::GET, Method::HEAD],
            Self::Post => &[Method::POST],
            Self::Delete => &[Method::DELETE],
            Self::GetOrPost => &[Method::GET, Method::POST],
        }
    }

    /// Whether a call with them may change anything.
    pub(super) fn write(self) -> bool {
        self != Self::Read
    }
}

/// The API whose conventions a call follows: the form of refusals, which origins may call, what a slash at the end means.
#[derive(Clone, Copy)]
pub(super) enum Api {
    /// Adobe's calls that need a token. Without one, or with a wrong one, the answer is 403 and `Forbidden`.
    Profile(Door),
    /// Adobe's calls from the site: pages of other origins may make them, and read the answer.
    Site {
        /// The form of refusals, by the path's `{kind}`.
        door: fn(&str) -> Door,
        /// Whether it reads a cookie. Then no page may read its answer with credentials.
        reads_cookies: bool,
    },
    /// Our own calls.
    Native,
    /// The inspector's pages. Their refusals are pages, and the token may be in a cookie.
    Inspector(fn(&Request, &HttpError) -> Answer),
}

impl Api {
    /// Whether it is one of Adobe's calls. A slash at the end of their paths means nothing: Adobe's mobile SDKs call
    /// `/rest/v1/delivery/`.
    pub(super) fn is_adobes(self) -> bool {
        matches!(self, Self::Profile(_) | Self::Site { .. })
    }

    /// Whether pages of other origins may call.
    pub(super) fn is_for_pages(self) -> bool {
        matches!(self, Self::Site { .. })
    }
}

/// Whose visitors a call is about, and where the call names the client. The router finds the client before the handler runs, and refuses a
/// token of another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// No client's. The call is about the daemon, or about all clients.
    Nobody,
    /// `{client}` in the path.
    InPath,
    /// `client=` in the query, else the default client.
    InQuery,
    /// The batch's, whose id is `{id}` in the path.
    OfBatch,
    /// `client=` in the query, else the token's own client, else the only client. Otherwise there is none, and the page asks.
    OfPage,
    /// `client=` in the query, else the token's own client. Otherwise it is about all clients.
    OfToken,
    /// The query, an organisation or the body names it. The handler finds it.
    InBody,
}

impl Whose {
    /// The client.
    pub(super) fn find(
        self,
        front: &Front,
        request: &Request,
        bearer: &Bearer,
        path: Path<'_>,
    ) -> Result<Option<ClientCode>, HttpError> {
        match self {
            Self::Nobody | Self::InBody => Ok(None),
            Self::InPath => client(path.get("client")).map(Some),
            Self::InQuery => request.query().strict()?.client(&front.app).map(Some),
            Self::OfBatch => Ok(BatchId::parse(path.get("id")).map(|id| id.client)),
            Self::OfPage => {
                let query = request.query().strict()?;
                if query.get("client").is_some() {
                    return query.client(&front.app).map(Some);
                }
                Ok(bearer.client().cloned().or_else(|| front.app.only_client()))
            }
            Self::OfToken => match request.query().strict()?.get("client") {
                Some(code) => client(code).map(Some),
                None => Ok(bearer.client().cloned()),
            },
        }
    }
}

/// How much a caller may use in a call. All calls also have the limits of the connection layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallLimits {
    /// How large its body may be.
    pub(super) body: BodyLimit,
    /// How often it may be made.
    pub(super) rate: RateLimit,
    /// The pools from which it may take a place. If no place is free, the call is refused with 503.
    pub(super) scarce: &'static [Scarce],
}

impl CallLimits {
    /// A call without a body, without a rate limit, and without a place.
    pub(super) const NONE: Self = Self { body: BodyLimit::None, rate: RateLimit::Free, scarce: &[] };
}

/// How large a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLimit {
    /// No body is read.
    None,
    /// At most this many bytes.
    Bytes(usize),
    /// At most `max` bytes. A body of more than `small` bytes is read in pieces, and takes a place of [`Scarce::LargeCalls`].
    InPieces {
        /// The largest body that is read whole, in bytes.
        small: usize,
        /// The largest body, in bytes.
        max: u64,
    },
    /// A batch file. The settings limit its bytes and rows.
    BatchFile,
}

/// How often a call may be made. For every call, an address that sends wrong tokens too often has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RateLimit {
    /// No limit.
    Free,
    /// `site_calls_per_second` limits the calls of one address.
    SiteCalls,
    /// `batch_calls_per_minute` limits the calls for one client.
    BatchCalls,
}

impl fmt::Display for CallLimits {
    /// The sentences in the OpenAPI document.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sentences = vec![];
        match self.body {
            BodyLimit::None => {}
            BodyLimit::Bytes(max) => sentences.push(format!("The body has at most {max} bytes; 413 beyond.")),
            BodyLimit::InPieces { small, max } => sentences.push(format!(
                "The body has at most {max} bytes ({} MB); 413 beyond. Few bodies of more than {} MiB are read at once; 503 \
                 beyond.",
                max >> 20,
                small >> 20
            )),
            BodyLimit::BatchFile => {
                sentences.push("The settings limit the size of a batch file; 413 beyond.".into());
            }
        }
        match self.rate {
            RateLimit::Free => {}
            RateLimit::SiteCalls => {
                sentences
                    .push("site_calls_per_second limits how often an address may call; 429 beyond.".into());
            }
            RateLimit::BatchCalls => {
                sentences.push(
                    "batch_calls_per_minute limits how often it may be called for a client; 503 beyond."
                        .into(),
                );
            }
        }
        if !self.scarce.is_empty() {
            let names: Vec<&str> = self.scarce.iter().map(|scarce| scarce.name()).collect();
            sentences.push(format!("Few of these calls run at once ({}); 503 beyond.", names.join(", ")));
        }
        f.write_str(&sentences.join(" "))
    }
}

/// A call whose token and client were checked, as its handler gets it.
pub(super) struct Call<'a> {
    /// The engine, and the limits of callers.
    pub(super) front: &'a Front,
    /// The request.
    pub(super) request: &'a mut Request,
    /// Its path.
    pub(super) path: Path<'a>,
    /// Who calls.
    pub(super) bearer: &'a Bearer,
    /// The client that it is about, if it is known.
    pub(super) client: Option<&'a ClientCode>,
    /// Its declared limits.
    pub(super) limits: &'static CallLimits,
}

impl<'a> Call<'a> {
    /// The client of a call that is about one client's visitors.
    pub(super) fn client(&self) -> Result<&'a ClientCode, HttpError> {
        self.client
            .ok_or_else(|| HttpError::Inside("a call about one client's visitors has no client".into()))
    }

    /// The batch that `{id}` names. Its id names its client, so `client=` may be left out. If it is there, it must agree.
    pub(super) fn batch(&self) -> Result<BatchId, HttpError> {
        let text = self.path.get("id");
        let query = self.request.query().strict()?;
        let agrees = |id: &BatchId| query.get("client").is_none_or(|client| client == id.client.as_str());
        BatchId::parse(text).filter(agrees).ok_or_else(|| EngineError::UnknownBatch(text.to_owned()).into())
    }

    /// The parameters of its query, which must be UTF-8.
    pub(super) fn query(&self) -> Result<Params, HttpError> {
        self.request.query().strict()
    }

    /// Its body, read as JSON. `right` is one that would be taken. Its `Content-Type` must be there: a page of another origin may
    /// not send that without permission.
    pub(super) async fn json_body<T: for<'d> Deserialize<'d>>(
        &mut self,
        right: &str,
    ) -> Result<T, HttpError> {
        let media_type = self.request.media_type()?.to_owned();
        let wrong = |why: String| {
            HttpError::Wrong(format!("{why}: send {right} with Content-Type: application/json"))
        };
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(wrong(format!("the body is said to be {media_type:?}")));
        }
        let bytes = self.request.body.collect(self.body_bytes_max()).await?;
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("the body is not right, {error}")))
    }

    /// How many bytes its body may have.
    pub(super) fn body_bytes_max(&self) -> usize {
        match self.limits.body {
            BodyLimit::Bytes(max) | BodyLimit::InPieces { small: max, .. } => max,
            BodyLimit::None | BodyLimit::BatchFile => 0,
        }
    }
}
