//! A client of the daemon's API.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::error::CliError;
use super::terminal::shown;
use crate::cluster::ASKING_NODE;
use crate::model::batch::RowForm;

/// How many bytes of a file are read and sent at once.
const PIECE_BYTES: usize = 128 << 10;
/// The header with the name of a sending.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long a connection may take. A machine that is off, or cut off, refuses none; the kernel alone would try for two minutes.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// An answer may take minutes to begin, as a snapshot does. So a silent daemon's machine is asked now and then whether it is there.
const ALIVE_ASKED_AFTER: Duration = Duration::from_secs(10);
const ALIVE_ASKED_TIMES: u32 = 3;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// A client of one daemon.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Sent>,
    url: String,
    /// The header with the token.
    authorization: Option<HeaderValue>,
    /// The header with the name of the node that asks, if one does.
    node: Option<HeaderValue>,
}

/// An answer of the daemon.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Client {
    /// A client of the daemon at a URL such as `http://127.0.0.1:8750`. On https, the root certificates are those in `ca`,
    /// else those of the system.
    pub(super) fn new(url: &str, token: Option<&str>, ca: Option<&Path>) -> Result<Self, CliError> {
        let url = url.trim_end_matches('/');
        let uri = url.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        let roots = match uri.as_ref().and_then(Uri::scheme_str) {
            Some("https") => roots(ca)?,
            Some("http") => RootCertStore::empty(),
            _ => {
                return Err(CliError::Usage(format!(
                    "{url:?} is not the URL of a daemon, such as http://127.0.0.1:8750"
                )));
            }
        };
        let authorization = token.map(|token| HeaderValue::try_from(format!("Bearer {}", token.trim())));
        let mut authorization = authorization.transpose().map_err(|_| {
            CliError::Usage("--token (PROFILED_TOKEN) is not a token: `profiled token new` prints one".into())
        })?;
        if let Some(authorization) = &mut authorization {
            authorization.set_sensitive(true);
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| CliError::Failed(format!("TLS cannot be set up: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_keepalive(Some(ALIVE_ASKED_AFTER));
        tcp.set_keepalive_interval(Some(ALIVE_ASKED_AFTER));
        tcp.set_keepalive_retries(Some(ALIVE_ASKED_TIMES));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = builder.enable_http1().wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, url: url.to_owned(), authorization, node: None })
    }

    /// The same, of the node of this name.
    pub(super) fn of_node(self, name: &str) -> Result<Self, CliError> {
        let unfit = |_| CliError::Failed(format!("the node's name {name:?} does not fit into a header"));
        Ok(Self { node: Some(HeaderValue::try_from(name).map_err(unfit)?), ..self })
    }

    /// Gets a path.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, CliError> {
        self.call(Method::GET, path, None, Full::default().map_err(|never| match never {}).boxed_unsync())
            .await
    }

    /// Posts parameters.
    pub(super) async fn post_form(&self, path: &str, params: &[(&str, &str)]) -> Result<Answer, CliError> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
        let body = Full::from(form).map_err(|never| match never {}).boxed_unsync();
        self.call(Method::POST, path, Some("application/x-www-form-urlencoded"), body).await
    }

    /// Posts JSON.
    pub(super) async fn post_json(&self, path: &str, value: &serde_json::Value) -> Result<Answer, CliError> {
        let body = Full::from(value.to_string()).map_err(|never| match never {}).boxed_unsync();
        self.call(Method::POST, path, Some("application/json"), body).await
    }

    /// Deletes what a path names.
    pub(super) async fn delete(&self, path: &str) -> Result<Answer, CliError> {
        let nothing = Full::default().map_err(|never| match never {}).boxed_unsync();
        self.call(Method::DELETE, path, None, nothing).await
    }

    /// Posts a batch file.
    pub(super) async fn post_file(&self, path: &str, file: FileBody) -> Result<Answer, CliError> {
        self.answer(self.with_file(path, file)?).await
    }

    /// Posts a file whose answer may be too long for memory. An error answer is read whole.
    pub(super) async fn stream_file(
        &self,
        path: &str,
        file: FileBody,
    ) -> Result<Response<Incoming>, CliError> {
        self.streamed(self.with_file(path, file)?).await
    }

    fn with_file(&self, path: &str, file: FileBody) -> Result<Request<Sent>, CliError> {
        let (encoding, key, media_type) = (file.encoding, file.key.clone(), file.media_type);
        let mut request = self.request(Method::POST, path, Some(media_type), file.boxed_unsync())?;
        if let Some(encoding) = encoding {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        if let Some(key) = key {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        Ok(request)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        media_type: Option<&'static str>,
        body: Sent,
    ) -> Result<Answer, CliError> {
        self.answer(self.request(method, path, media_type, body)?).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        media_type: Option<&'static str>,
        body: Sent,
    ) -> Result<Request<Sent>, CliError> {
        let uri = format!("{}{path}", self.url);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|e| CliError::Usage(format!("{uri} is not a URL: {e}")))?;
        if let Some(media_type) = media_type {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(node) = &self.node {
            request.headers_mut().insert(HeaderName::from_static(ASKING_NODE), node.clone());
        }
        Ok(request)
    }

    async fn answer(&self, request: Request<Sent>) -> Result<Answer, CliError> {
        let answer = self.http.request(request).await.map_err(|e| self.failed(&e))?;
        self.whole(answer).await
    }

    /// Gets a path whose answer may be too long for memory. An error answer is read whole.
    pub(super) async fn stream(
        &self,
        path: &str,
        accept: &'static str,
    ) -> Result<Response<Incoming>, CliError> {
        self.streamed(self.for_stream(path, accept)?).await
    }

    /// The same; none if the path is not there.
    pub(super) async fn stream_if_there(
        &self,
        path: &str,
        accept: &'static str,
    ) -> Result<Option<Response<Incoming>>, CliError> {
        let request = self.for_stream(path, accept)?;
        let answer = self.http.request(request).await.map_err(|e| self.failed(&e))?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.unless_refused(answer).await.map(Some)
    }

    fn for_stream(&self, path: &str, accept: &'static str) -> Result<Request<Sent>, CliError> {
        let nothing = Full::default().map_err(|never| match never {}).boxed_unsync();
        let mut request = self.request(Method::GET, path, None, nothing)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
        Ok(request)
    }

    async fn streamed(&self, request: Request<Sent>) -> Result<Response<Incoming>, CliError> {
        let answer = self.http.request(request).await.map_err(|e| self.failed(&e))?;
        self.unless_refused(answer).await
    }

    async fn unless_refused(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, CliError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(CliError::Failed(self.whole(answer).await?.refusal()))
    }

    async fn whole(&self, answer: Response<Incoming>) -> Result<Answer, CliError> {
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| self.broke_off(&e))?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// The error for an answer that broke off.
    pub(super) fn broke_off(&self, error: &hyper::Error) -> CliError {
        CliError::Failed(format!("{} broke off its answer: {error}", self.url))
    }

    fn failed(&self, error: &legacy::Error) -> CliError {
        let mut deepest: &(dyn std::error::Error + 'static) = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        let url = &self.url;
        if let Some(error) = tls_error(deepest) {
            return CliError::Failed(match error {
                // `openssl req -x509` makes such a certificate by default.
                rustls::Error::InvalidCertificate(why) if why.to_string().contains("CaUsedAsEndEntity") => {
                    format!(
                        "{url} uses the certificate of an authority, not of a server: make one with \
                         basicConstraints=critical,CA:FALSE"
                    )
                }
                rustls::Error::InvalidCertificate(why) => {
                    format!("{url} is not trusted ({why}): name its root certificate with --ca")
                }
                rustls::Error::InvalidMessage(_) => {
                    format!("{url} does not speak TLS: try http://")
                }
                error => format!("no secure connection to {url}: {error}"),
            });
        }
        CliError::Failed(if error.is_connect() {
            format!(
                "nothing answers at {url} ({deepest}): start `profiled serve`, or name the daemon with --url"
            )
        } else {
            format!("{url} did not answer: {deepest}")
        })
    }
}

impl Answer {
    /// The body, read as JSON. If the daemon refused, the error is its own message.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        if !self.status.is_success() {
            return Err(CliError::Failed(self.refusal()));
        }
        serde_json::from_slice(&self.body).map_err(|e| {
            CliError::Failed(format!("the answer does not come from profiled: {e}; check --url"))
        })
    }

    /// The daemon's own message about a refusal, safe for a terminal.
    pub(super) fn refusal(&self) -> String {
        #[derive(Deserialize)]
        struct RefusalBody {
            #[serde(alias = "error")]
            message: String,
        }
        let message = serde_json::from_slice::<RefusalBody>(&self.body).ok().map(|body| body.message);
        let message = message.or_else(|| self.element("message"));
        message.map_or_else(|| format!("the daemon answered {}", self.status), |message| shown(&message))
    }

    /// The text of an element of an answer in XML.
    pub(super) fn element(&self, name: &str) -> Option<String> {
        let body = std::str::from_utf8(&self.body).ok()?;
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        Some(quick_xml::escape::unescape(text).ok()?.into_owned())
    }
}

/// The root certificates: those in a file, else those of the system.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, CliError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            let message = "the system has no root certificates for https: name the daemon's with --ca";
            return Err(CliError::Failed(message.into()));
        }
        return Ok(roots);
    };
    let wrong = |what: String| CliError::Usage(format!("--ca (PROFILED_CA): {}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|e| wrong(format!("it is not PEM: {e}")))?;
        roots.add(certificate).map_err(|e| wrong(format!("a certificate in it cannot be used: {e}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate: it must be PEM".into()));
    }
    Ok(roots)
}

/// The TLS error inside an error. An I/O error holds it inside, not as its source.
fn tls_error<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    while let Some(inside) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        error = inside;
    }
    error.downcast_ref()
}

/// Text, encoded as part of a path or a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// A file or a pipe that is sent to the daemon.
pub(super) struct FileBody {
    file: Box<dyn AsyncRead + Send + Unpin>,
    /// The bytes still to be sent, if known.
    left: Option<u64>,
    /// Its encoding, by HTTP's name.
    encoding: Option<&'static str>,
    media_type: &'static str,
    /// The name of this sending.
    key: Option<HeaderValue>,
    sent: Box<dyn FnMut(u64) + Send>,
}

impl FileBody {
    /// A body of `length` bytes, or of unknown length. `sent` gets the size of each piece.
    pub(super) fn new(
        file: impl AsyncRead + Send + Unpin + 'static,
        length: Option<u64>,
        sent: impl FnMut(u64) + Send + 'static,
    ) -> Self {
        Self {
            file: Box::new(file),
            left: length,
            encoding: None,
            media_type: "text/csv",
            key: None,
            sent: Box::new(sent),
        }
    }

    /// The same body, as the sending with this name.
    pub(super) fn keyed(mut self, key: &str) -> Result<Self, CliError> {
        let wrong =
            || CliError::Usage("--idempotency-key: write visible ASCII characters, such as nightly-7".into());
        self.key = Some(HeaderValue::from_str(key).map_err(|_| wrong())?);
        Ok(self)
    }

    /// The same body, with rows in this form.
    pub(super) fn in_form(mut self, form: RowForm) -> Self {
        self.media_type = match form {
            RowForm::Csv => "text/csv",
            RowForm::Ndjson => "application/x-ndjson",
        };
        self
    }

    /// The same body, marked as compressed if the file's name ends with `.gz` or `.zst`.
    pub(super) fn encoded_as_named(mut self, path: &Path) -> Self {
        let named = |ending: &str| path.extension().is_some_and(|it| it.eq_ignore_ascii_case(ending));
        self.encoding = [("gz", "gzip"), ("zst", "zstd")]
            .into_iter()
            .find_map(|(ending, encoding)| named(ending).then_some(encoding));
        self
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let mut room = BytesMut::zeroed(PIECE_BYTES);
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut this.file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(None);
        }
        room.truncate(read);
        (this.sent)(read as u64);
        this.left = this.left.map(|left| left.saturating_sub(read as u64));
        Poll::Ready(Some(Ok(Frame::data(room.freeze()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
