//! The HTTP API: Adobe's calls, our own, those of operations, and the inspector's pages.
//!
//! A call is declared once, beside its handler: see `endpoint.rs`.
//!
//! Promises: a handler decodes, makes one call of [`crate::engine::Engine`], encodes. Answers hold nothing that
//! is meant for the log. Attribute values, tokens and bodies are never logged.

mod adobe;
mod auth;
mod batch_file;
mod by;
mod caller;
pub mod change_event;
mod comparison;
mod connection;
mod cors;
pub mod decode;
mod endpoint;
mod error;
pub mod framing;
mod inspector;
mod kinds;
mod left_out;
mod live;
mod live_feed;
mod native;
mod openapi;
mod operation;
mod ops;
mod outcome_counts;
mod outcomes;
mod path;
mod patience;
mod rate;
pub mod reload;
mod request;
mod response;
mod router;
mod script;
mod seq;
pub mod server;
mod shapes;
mod slots;
mod stream;
pub mod tls;
mod tried_out;
mod visitor_body;
mod visitor_write;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use self::caller::Caller;
use self::error::HttpError;
use self::live::Live;
use self::rate::{Rate, Rates};
use self::reload::{ReadSettings, ReloadError, Reloaded, Source};
use self::tls::Tls;
use crate::cluster::Members;
use crate::config::{Callers, Config, HeadLimits, Timeouts};
use crate::engine::Engine;
use crate::engine::gates::{Network, Scarce, Shares};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// The most streams of events at once. Each holds a connection until its batch is complete.
const EVENT_STREAMS_MAX: usize = 256;
/// The most site calls in JSON with bodies of more than 1 MiB at once. Each takes a thread, and keeps in memory what its call
/// writes.
const LARGE_CALLS_MAX: usize = 4;

/// What every handler needs: the engine, and the limits of callers.
#[derive(Clone)]
pub struct Front {
    app: Engine,
    /// Replaced whole by a reload; a request reads them without waiting.
    limits: Arc<ArcSwap<Limits>>,
    /// Where a reload reads the settings.
    settings: Arc<Source>,
    tls: Option<Arc<Tls>>,
    site_calls: Arc<Rates<Network>>,
    failures: Arc<Rates<Network>>,
    batch_calls: Arc<Rates<ClientCode>>,
    event_streams: Shares,
    large_calls: Shares,
    /// Who listens to calls as they come in.
    live: Arc<Live>,
    /// The nodes that share an order with this one; none of a single daemon.
    members: Option<Arc<Members>>,
}

/// The settings that may change while the daemon runs: timeouts, header sizes, limits of callers.
struct Limits {
    timeouts: Timeouts,
    heads: HeadLimits,
    callers: Callers,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self { timeouts: config.timeouts, heads: config.heads, callers: config.callers.clone() }
    }

    /// Whether a caller's calls are not counted. The word of a proxy does not prove that a caller is on this machine.
    fn spare(&self, caller: &Caller) -> bool {
        !caller.forwarded && self.callers.spares(caller.address)
    }
}

impl Front {
    /// The HTTP API of `app`, as `config` sets it; over TLS if there is a certificate.
    pub fn new(app: Engine, config: &Config, tls: Option<Arc<Tls>>) -> Self {
        Self {
            event_streams: Shares::new(Scarce::EventStreams, EVENT_STREAMS_MAX, app.metrics()),
            large_calls: Shares::new(Scarce::LargeCalls, LARGE_CALLS_MAX, app.metrics()),
            app,
            limits: Arc::new(ArcSwap::from_pointee(Limits::of(config))),
            settings: Arc::default(),
            tls,
            site_calls: Arc::default(),
            failures: Arc::default(),
            batch_calls: Arc::default(),
            live: Arc::new(Live::new()),
            members: None,
        }
    }

    /// The same, of one node of several.
    pub fn with_members(self, members: Option<Arc<Members>>) -> Self {
        Self { members, ..self }
    }

    /// The same; a reload reads the settings so.
    pub fn with_settings(self, read: ReadSettings) -> Self {
        Self { settings: Arc::new(Source::of(read)), ..self }
    }

    /// Takes new settings, as far as they may change while the daemon runs. Calls under way end as they began.
    fn reconfigure(&self, config: &Config) {
        self.app.reconfigure(config);
        self.limits.store(Arc::new(Limits::of(config)));
    }

    /// Reads the settings, the tokens and the certificate again, and takes over all of them or nothing. Blocks.
    fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.settings.reload(&self.app, self.tls.as_deref(), |config| self.reconfigure(config))
    }

    /// Does the same for a signal, which nobody answers: takes over what is right, and logs what is wrong. Blocks.
    pub fn reload_at_signal(&self) {
        self.settings.reload_at_signal(&self.app, self.tls.as_deref(), |config| self.reconfigure(config));
    }

    fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// When the certificate expires, or the first of those that lead to its root; none without HTTPS.
    fn certificate_expires(&self) -> Option<Millis> {
        self.tls.as_ref().and_then(|tls| tls.expires())
    }

    /// Counts a site call. Refuses it if its address has made too many.
    fn count_site_call(&self, caller: &Caller) -> Result<(), HttpError> {
        let limits = self.limits();
        let Some(calls) = limits.callers.site_calls_per_second.filter(|_| !limits.spare(caller)) else {
            return Ok(());
        };
        let rate = Rate { calls, per: Duration::from_secs(1) };
        let taken = self.site_calls.take(Network::of(caller.address), rate, Instant::now());
        taken.map_err(|after| HttpError::AddressTooOften { calls, after })
    }

    /// Counts a call whose token was refused. Returns the refusal, or one that says that there were too many.
    fn count_failure(&self, caller: &Caller, error: HttpError) -> HttpError {
        let limits = self.limits();
        let failures = limits.callers.failed_authorisations_per_minute.filter(|_| !limits.spare(caller));
        let Some(failures) = failures.filter(|_| matches!(error, HttpError::Unauthorized(_))) else {
            return error;
        };
        let rate = Rate { calls: failures, per: Duration::from_secs(60) };
        let taken = self.failures.take(Network::of(caller.address), rate, Instant::now());
        taken.map_or_else(|after| HttpError::FailedTooOften { failures, after }, |()| error)
    }

    /// Counts a batch call. Refuses it if its client has made too many.
    fn count_batch_call(&self, client: &ClientCode) -> Result<(), HttpError> {
        let Some(calls) = self.app.batch_calls_per_minute(client)? else { return Ok(()) };
        let rate = Rate { calls, per: Duration::from_secs(60) };
        let taken = self.batch_calls.take(client.clone(), rate, Instant::now());
        taken.map_err(|after| HttpError::ClientTooOften { client: client.clone(), calls, after })
    }
}
