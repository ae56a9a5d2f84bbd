//! How the requests of `object_store` are sent: with the HTTP and the TLS that the program has anyway.
//!
//! Promises: a connection takes at most [`CONNECT_MAX`], the head of an answer at most [`ANSWER_MAX`]. Without leave, nothing is sent
//! unencrypted. Redirects are not followed.

use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioExecutor;
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A storage that puts a large object together from its parts takes a while to say so.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Nothing listens there, or not with the right certificate.
    #[error("nothing answers at {host} ({why})")]
    NotConnected {
        /// Host and port.
        host: String,
        /// What the system, or TLS, said.
        why: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broke(String),
    /// It took too long.
    #[error("no answer came within {} seconds", ANSWER_MAX.as_secs())]
    TooLate,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let generic =
            |error: rustls::Error| object_store::Error::Generic { store: "S3", source: Box::new(error) };
        let mut roots = RootCertStore::empty();
        // A system without any is no fault until something asks for https.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(generic)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if plain { builder.https_or_http() } else { builder.https_only() };
        let connector = builder.enable_http1().wrap_connector(tcp);
        Ok(HttpClient::new(Client(legacy::Client::builder(TokioExecutor::new()).build(connector))))
    }
}

#[derive(Debug)]
struct Client(legacy::Client<HttpsConnector<Tcp>, HttpRequestBody>);

impl HttpService for Client {
    fn call<'c, 'a>(
        &'c self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>
    where
        'c: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let answered = tokio::time::timeout(ANSWER_MAX, self.0.request(request)).await;
            let answer = answered
                .map_err(|_| HttpError::new(HttpErrorKind::Timeout, Unanswered::TooLate))?
                .map_err(|error| failed(&error, host))?;
            let (head, body) = answer.into_parts();
            let body = body.map_err(|error| {
                HttpError::new(HttpErrorKind::Interrupted, Unanswered::Broke(error.to_string()))
            });
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
        })
    }
}

fn failed(error: &legacy::Error, host: String) -> HttpError {
    let mut deepest: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let why = deepest.to_string();
    if error.is_connect() {
        HttpError::new(HttpErrorKind::Connect, Unanswered::NotConnected { host, why })
    } else {
        HttpError::new(HttpErrorKind::Interrupted, Unanswered::Broke(why))
    }
}
