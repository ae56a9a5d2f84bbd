//! Requests: their paths, parameters and bodies, decoded. What is not UTF-8 is refused.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue,
    ORIGIN,
};
use hyper::{Method, Version};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::caller::{Caller, is_host};
use super::decode::{self, Parameters};
use super::error::{HttpError, MediaType};
use super::live::{HeardCall, Notes};
use super::patience::Patience;
use crate::batch::encoding::Encoding;
use crate::config::{Pace, Timeouts};
use crate::engine::gates::{Slot, Who};
use crate::engine::{Engine, EngineError};
use crate::model::author::{Author, TokenId};
use crate::model::id::{ClientCode, IdKind, VisitorId};
use crate::model::profile::{NAME_CHARS_MAX, NAME_PREFIX, NameFault, attribute_name_fault};
use crate::tokens::Token;

/// The media type of a form.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// A request on its way through the router and a handler.
pub(super) struct Request {
    head: hyper::Request<()>,
    /// Its body, as it arrives.
    pub(super) body: Body,
    id: String,
    local: SocketAddr,
    caller: Caller,
    /// The token that let it in.
    token: Option<TokenId>,
    /// What is noted of it for who listens to calls as they come in; none if nobody does.
    notes: Option<Box<Notes>>,
}

impl Request {
    /// A request that arrived at `local` from `caller`, with its `id` for the log. Its body may take as long as `timeouts` allow
    /// and, once the server is stopping, until the moment in `bodies_end`.
    pub(super) fn new(
        request: hyper::Request<Incoming>,
        local: SocketAddr,
        caller: Caller,
        id: String,
        timeouts: Timeouts,
        bodies_end: watch::Receiver<Option<Instant>>,
    ) -> Self {
        let (head, incoming) = request.into_parts();
        let ended = incoming.is_end_stream();
        let patience = Patience::new(timeouts.body());
        let body = Body { incoming, timeouts, patience, bodies_end, ended };
        Self { head: hyper::Request::from_parts(head, ()), body, id, local, caller, token: None, notes: None }
    }

    /// Somebody listens: notes are taken of it from now on.
    pub(super) fn begin_notes(&mut self) {
        self.notes = Some(Box::default());
    }

    /// Notes something, if notes are taken.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut Notes)) {
        if let Some(notes) = &mut self.notes {
            note(notes);
        }
    }

    /// What was noted of it, if notes were taken.
    pub(super) fn end_notes(&mut self) -> Option<HeardCall> {
        let notes = self.notes.take()?;
        Some(notes.of_request(&self.id, self.caller.address, self.head.method(), self.path()))
    }

    /// Its id in the log.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Who sent it.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// This token has let it in.
    pub(super) fn let_in_by(&mut self, token: &Token) {
        self.token = TokenId::new(&token.id);
    }

    /// Who makes the writes that it asks for.
    pub(super) fn author(&self) -> Author {
        Author { token: self.token, address: Some(self.caller.address) }
    }

    /// Who takes scarce places for it: the caller, for a client or for none.
    pub(super) fn who(&self, client: Option<&ClientCode>) -> Who {
        Who::new(client, self.caller.address)
    }

    /// How fast the caller must read the answer.
    pub(super) fn answer_pace(&self) -> Pace {
        self.body.timeouts.answer()
    }

    /// Its method.
    pub(super) fn method(&self) -> &Method {
        self.head.method()
    }

    /// Changes once the server is stopping: answers without an end of their own end then.
    pub(super) fn stopping(&self) -> watch::Receiver<Option<Instant>> {
        self.body.bodies_end.clone()
    }

    /// The parts of its path between the slashes, decoded.
    pub(super) fn segments(&self) -> Result<Vec<String>, HttpError> {
        decode::segments(self.path())
            .ok_or_else(|| HttpError::Wrong("the path is not UTF-8: percent-encode it as UTF-8".into()))
    }

    /// Its path as sent.
    pub(super) fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// What stands after the `?`, as sent.
    pub(super) fn raw_query(&self) -> &str {
        self.head.uri().query().unwrap_or_default()
    }

    /// The parameters after the `?`.
    pub(super) fn query(&self) -> Params {
        Params::decode(self.raw_query().as_bytes())
    }

    /// The beginning of URLs that lead back here: `public_url`, or the host that the client called.
    pub(super) fn base_url(&self, app: &Engine) -> Result<String, HttpError> {
        if let Some(url) = app.public_url() {
            return Ok(url.as_str().to_owned());
        }
        let scheme = if self.caller.https { "https" } else { "http" };
        let host = match (&self.caller.host, self.head.uri().authority(), self.header(&HOST)?) {
            (Some(host), _, _) => host,
            (None, Some(authority), _) => authority.as_str(),
            (None, None, Some(host)) if !host.is_empty() => host,
            _ => return Ok(format!("{scheme}://{}", self.local)),
        };
        if !is_host(host) {
            return Err(HttpError::Wrong(format!("{host:?} is not a host and port")));
        }
        Ok(format!("{scheme}://{host}"))
    }

    /// Refuses a request of HTTP/1.1 without a host.
    pub(super) fn check_host(&self) -> Result<(), HttpError> {
        if self.head.version() == Version::HTTP_11 && self.head.headers().get(HOST).is_none() {
            return Err(HttpError::Wrong("Host is missing: HTTP/1.1 asks for it".into()));
        }
        Ok(())
    }

    /// The length that the request says its body has.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.head.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The media type of the body; empty if the request names none.
    pub(super) fn media_type(&self) -> Result<&str, HttpError> {
        let named = self.header(&CONTENT_TYPE)?.unwrap_or_default();
        Ok(named.split(';').next().unwrap_or_default().trim())
    }

    /// Refuses a body of another media type than these, and one that is compressed. No media type is fine. `right` says what
    /// to send.
    pub(super) fn check_media_type(
        &self,
        taken: &[&str],
        right: impl Fn() -> String,
    ) -> Result<(), HttpError> {
        self.check_content_type(taken, &right)?;
        match self.content_encoding(None, &right)? {
            Encoding::Plain => Ok(()),
            other => Err(encoding_not_taken(&other.to_string(), None, &right)),
        }
    }

    /// Refuses a body of another media type than these. No media type is fine.
    pub(super) fn check_content_type(
        &self,
        taken: &[&str],
        right: impl FnOnce() -> String,
    ) -> Result<(), HttpError> {
        let media_type = self.media_type()?;
        if media_type.is_empty() || taken.iter().any(|taken| taken.eq_ignore_ascii_case(media_type)) {
            return Ok(());
        }
        let form = if media_type.eq_ignore_ascii_case("multipart/form-data") {
            " (a form in parts, of curl -F or with a file in it)"
        } else {
            ""
        };
        let sent = format!("Content-Type {media_type:?}{form}");
        Err(HttpError::MediaType(MediaType { sent, right: right(), encodings: None }))
    }

    /// How the body is compressed. An unknown encoding is refused; the answer lists `taken`.
    pub(super) fn content_encoding(
        &self,
        taken: Option<&'static str>,
        right: impl FnOnce() -> String,
    ) -> Result<Encoding, HttpError> {
        // Several encodings, on lines or in a list, are applied one after the other.
        let lines = self.head.headers().get_all(CONTENT_ENCODING);
        let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        let named = lines.join(", ");
        Encoding::named(named.trim()).ok_or_else(|| encoding_not_taken(&named, taken, right))
    }

    /// The parameters of a form: those of the query, then those of the body. The body has at most `limit` bytes; with any of
    /// the media types `taken` it is read as a form.
    pub(super) async fn form(&mut self, limit: usize, taken: &[&str]) -> Result<Params, HttpError> {
        let mut params = self.query();
        if self.method() == Method::POST {
            self.check_media_type(taken, || format!("send the parameters as {FORM}, uncompressed"))?;
            let body = self.body.collect(limit).await?;
            params.append(Params::decode(&body));
        }
        Ok(params)
    }

    /// The value of a cookie, as sent. The first of that name counts.
    pub(super) fn cookie(&self, name: &str) -> Option<&str> {
        let lines = self.head.headers().get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut cookies =
            lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        cookies.find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The page's origin, if a page's script sent it.
    pub(super) fn origin(&self) -> Option<HeaderValue> {
        self.head.headers().get(ORIGIN).cloned()
    }

    /// Whether this daemon serves pages of that origin.
    pub(super) fn is_own_origin(&self, origin: &HeaderValue) -> bool {
        let host = self.head.headers().get(HOST).and_then(|host| host.to_str().ok());
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, it)| it);
        host.is_some() && authority == host
    }

    /// Its `Authorization`.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.head.headers().get(AUTHORIZATION)
    }

    /// Whether it has a header, with any value.
    pub(super) fn has_header(&self, name: &HeaderName) -> bool {
        self.head.headers().contains_key(name)
    }

    /// A header, if it is plain text.
    pub(super) fn header_text(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    fn header(&self, name: &HeaderName) -> Result<Option<&str>, HttpError> {
        let value = self.head.headers().get(name).map(|value| value.to_str());
        value.transpose().map_err(|_| HttpError::Wrong(format!("the header {name} is not plain text")))
    }
}

fn encoding_not_taken(named: &str, taken: Option<&'static str>, right: impl FnOnce() -> String) -> HttpError {
    let sent = format!("Content-Encoding {named:?}");
    HttpError::MediaType(MediaType { sent, right: right(), encodings: taken })
}

/// A request's body.
pub(super) struct Body {
    incoming: Incoming,
    timeouts: Timeouts,
    patience: Patience,
    /// When bodies are cut off, once the server is stopping.
    bodies_end: watch::Receiver<Option<Instant>>,
    ended: bool,
}

impl Body {
    /// Whether all of it was read.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Its next bytes; `None` at its end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        self.next_within(None).await
    }

    /// The same for a caller that holds a scarce place. An error may say that the place goes to somebody else.
    pub(super) async fn next_holding(&mut self, place: &Slot) -> Result<Option<Bytes>, HttpError> {
        self.next_within(Some(place)).await
    }

    async fn next_within(&mut self, place: Option<&Slot>) -> Result<Option<Bytes>, HttpError> {
        while !self.ended {
            let (left, behind) = self.patience.left();
            let waits = place.map(|place| place.waits(self.patience.stalls_after()));
            let asked = Instant::now();
            let frame = tokio::select! {
                // These two first: a client that never stops sending always has a frame ready.
                biased;
                () = at_the_end(&mut self.bodies_end) => return Err(EngineError::Stopping.into()),
                error = asked_to_leave(place) => return Err(error.into()),
                frame = timeout(left, self.incoming.frame()) => frame,
            };
            drop(waits);
            self.patience.waited(asked.elapsed());
            match frame {
                Err(_) if behind => return Err(HttpError::Slow(self.patience.pace())),
                Err(_) => return Err(HttpError::Silent(left)),
                Ok(Some(Err(error))) => return Err(HttpError::BrokenOff(error)),
                Ok(None) => self.ended = true,
                Ok(Some(Ok(frame))) => {
                    self.ended = self.incoming.is_end_stream();
                    // Trailers say nothing that is used here.
                    if let Ok(bytes) = frame.into_data() {
                        self.patience.earned(bytes.len());
                        return Ok(Some(bytes));
                    }
                }
            }
        }
        Ok(None)
    }

    /// All of it; it has at most `limit` bytes.
    pub(super) async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        match self.begin(limit).await? {
            Begun::All(all) => Ok(all),
            Begun::More(_) => Err(HttpError::TooLarge(format!("the body has more than {limit} bytes"))),
        }
    }

    /// All of it, if it has at most `limit` bytes. If its length says that it has more, nothing is read.
    pub(super) async fn begin(&mut self, limit: usize) -> Result<Begun, HttpError> {
        if self.bytes_min() > limit as u64 {
            return Ok(Begun::More(vec![]));
        }
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
            if all.len() > limit {
                return Ok(Begun::More(all));
            }
        }
        Ok(Begun::All(all))
    }

    /// The fewest bytes that it can have.
    pub(super) fn bytes_min(&self) -> u64 {
        self.incoming.size_hint().lower()
    }
}

/// What [`Body::begin`] has read.
pub(super) enum Begun {
    /// The whole body.
    All(Vec<u8>),
    /// Its first bytes, perhaps none. It has more than the limit.
    More(Vec<u8>),
}

/// Completes when the holder of a place must give it up.
async fn asked_to_leave(place: Option<&Slot>) -> EngineError {
    match place {
        Some(place) => place.asked_to_leave().await,
        None => std::future::pending().await,
    }
}

/// Waits until bodies are cut off.
async fn at_the_end(bodies_end: &mut watch::Receiver<Option<Instant>>) {
    let end = match bodies_end.wait_for(Option::is_some).await {
        Ok(end) => *end,
        // The server itself is gone.
        Err(_) => None,
    };
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// The parameters of a query or a form, in the order sent.
#[derive(Debug, Default)]
pub(super) struct Params(Parameters);

impl Params {
    /// Decodes `name=value&…`.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self(decode::parameters(bytes))
    }

    fn append(&mut self, mut other: Self) {
        self.0.pairs.append(&mut other.0.pairs);
        self.0.broken.append(&mut other.0.broken);
    }

    /// Refuses parameters that are not UTF-8.
    pub(super) fn strict(self) -> Result<Self, HttpError> {
        match self.0.broken.first() {
            Some(name) => Err(not_utf8(name)),
            None => Ok(self),
        }
    }

    /// The value of a parameter. An empty one counts as absent. The first of that name counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.pairs.iter().filter(|(other, value)| other == name && !value.is_empty());
        named.next().map(|(_, value)| value.as_str())
    }

    /// A parameter that is `true` or `false`; `false` if it is absent.
    pub(super) fn switch(&self, name: &str) -> Result<bool, HttpError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(HttpError::Wrong(format!("{name}={other} is not known: it is true or false"))),
        }
    }

    /// A parameter that is a number from 1 to `most`; none if it is absent.
    pub(super) fn count(&self, name: &str, most: usize) -> Result<Option<usize>, HttpError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        let wrong =
            || HttpError::Wrong(format!("{name}={text} is not right: it is a number from 1 to {most}"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Adds a parameter if it is absent.
    pub(super) fn set_missing(&mut self, name: &str, value: String) {
        if self.get(name).is_none() {
            self.0.pairs.push((name.to_owned(), value));
        }
    }

    /// An id, checked; an error says what is wrong with it.
    pub(super) fn id(&self, kind: IdKind, name: &str) -> Result<Option<VisitorId>, HttpError> {
        if self.0.broken.iter().any(|broken| broken == name) {
            return Err(not_utf8(name));
        }
        self.get(name).map(|text| visitor_id(kind, text)).transpose()
    }

    /// The client that `client=` names, else the default one.
    pub(super) fn client(&self, app: &Engine) -> Result<ClientCode, HttpError> {
        match self.get("client") {
            Some(code) => client(code),
            None => app.default_client().ok_or_else(|| {
                HttpError::Wrong("client= is missing, and no default client is configured".into())
            }),
        }
    }

    /// The parameters that name attributes, without the prefix `profile.`.
    pub(super) fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.pairs.iter();
        pairs.filter_map(|(name, value)| Some((name.strip_prefix(NAME_PREFIX)?, value.as_str())))
    }

    /// The names of all, in the order sent.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.pairs.iter().map(|(name, _)| name.as_str())
    }

    /// The names of those that name attributes and are not UTF-8.
    pub(super) fn broken_attributes(&self) -> impl Iterator<Item = &str> {
        self.0.broken.iter().filter_map(|name| name.strip_prefix(NAME_PREFIX))
    }
}

fn not_utf8(name: &str) -> HttpError {
    HttpError::Wrong(format!("the parameter {name:?} is not UTF-8: percent-encode names and values as UTF-8"))
}

/// The client that a path or a parameter names.
pub(super) fn client(code: &str) -> Result<ClientCode, HttpError> {
    ClientCode::new(code).map_err(|e| HttpError::Wrong(format!("{code:?} is not a client code: {e}")))
}

/// The visitor that a path or a parameter names.
pub(super) fn visitor_id(kind: IdKind, text: &str) -> Result<VisitorId, HttpError> {
    VisitorId::sent(kind, text)
        .map_err(|e| HttpError::Wrong(format!("{text:?} is not a {}: {e}", kind.name())))
}

/// Checks the name of an attribute, without the prefix `profile.` of parameters (R9).
pub(super) fn check_attribute_name(name: &str) -> Result<(), String> {
    match attribute_name_fault(name) {
        None => Ok(()),
        Some(NameFault::Empty | NameFault::Blank) => {
            Err("an attribute's name is blank: write profile.NAME=value".into())
        }
        Some(NameFault::Prefixed) => Err(format!(
            "profile.{name} names an attribute with a prefix of its own: write profile.NAME once"
        )),
        Some(NameFault::TooLong) => {
            let start: String = name.chars().take(24).collect();
            Err(format!(
                "the attribute's name that begins with {start:?} has more than {NAME_CHARS_MAX} characters"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_parameter_counts_as_absent() {
        let params = Params::decode(b"mboxPC=&a=1&mboxPC=7");
        assert_eq!(params.get("mboxPC"), Some("7"));
        assert!(Params::decode(b"mboxPC=").id(IdKind::Pc, "mboxPC").unwrap().is_none());
        assert!(Params::decode(b"mboxPC=%FF").id(IdKind::Pc, "mboxPC").is_err());
    }
}
