//! The front doors over HTTP: Adobe's paths, our own, and the ones for operations.
//!
//! Promises: a handler decodes, makes one call of [`crate::app::App`], encodes; what a client is told never holds what
//! the log says; attribute values, tokens and bodies are never logged.

mod adobe;
mod auth;
mod caller;
mod connection;
mod cors;
pub mod decode;
mod error;
mod native;
mod ops;
mod places;
mod rate;
mod request;
mod response;
mod router;
mod script;
pub mod server;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use self::caller::Caller;
use self::error::HttpError;
use self::places::Network;
use self::rate::{Rate, Rates};
use crate::app::App;
use crate::config::{Callers, Config, HeadLimits, Timeouts};
use crate::model::id::ClientCode;
use crate::tokens::Tokens;

/// What every handler needs: the daemon behind it and the limits in front of it.
#[derive(Clone)]
pub struct Front {
    app: App,
    tokens: Arc<RwLock<Arc<Tokens>>>,
    timeouts: Timeouts,
    heads: HeadLimits,
    callers: Callers,
    site_calls: Arc<Rates<Network>>,
    batch_calls: Arc<Rates<ClientCode>>,
}

impl Front {
    /// The front doors of `app`, as `config` sets them, open to who has one of the tokens.
    pub fn new(app: App, config: &Config, tokens: Tokens) -> Self {
        Self {
            app,
            tokens: Arc::new(RwLock::new(Arc::new(tokens))),
            timeouts: config.timeouts,
            heads: config.heads,
            callers: config.callers.clone(),
            site_calls: Arc::default(),
            batch_calls: Arc::default(),
        }
    }

    /// From now on these are the tokens.
    pub fn set_tokens(&self, tokens: Tokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a site call, and refuses one too many of its address.
    fn count_site_call(&self, caller: &Caller) -> Result<(), HttpError> {
        // What a proxy says is no proof of being on this machine.
        let spared = !caller.forwarded && self.callers.spares(caller.address);
        let Some(calls) = self.callers.site_calls_per_second.filter(|_| !spared) else { return Ok(()) };
        let rate = Rate { calls, per: Duration::from_secs(1) };
        let taken = self.site_calls.take(Network::of(caller.address), rate, Instant::now());
        taken.map_err(|after| HttpError::AddressTooOften { calls, after })
    }

    /// Counts a batch call of a client that is served, and refuses one too many.
    fn count_batch_call(&self, client: &ClientCode) -> Result<(), HttpError> {
        let Some(calls) = self.app.batch_calls_per_minute(client)? else { return Ok(()) };
        let rate = Rate { calls, per: Duration::from_secs(60) };
        let taken = self.batch_calls.take(client.clone(), rate, Instant::now());
        taken.map_err(|after| HttpError::ClientTooOften { client: client.clone(), calls, after })
    }
}
