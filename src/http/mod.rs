//! The front doors over HTTP: Adobe's paths, our own, and the ones for operations.
//!
//! Promises: a handler decodes, makes one call of [`crate::app::App`], encodes; what a client is told never holds what
//! the log says; attribute values, tokens and bodies are never logged.

mod adobe;
mod auth;
mod connection;
mod cors;
mod error;
mod native;
mod ops;
mod request;
mod response;
mod router;
mod script;
pub mod server;

use std::sync::{Arc, PoisonError, RwLock};

use crate::app::App;
use crate::config::{Config, Timeouts};
use crate::tokens::Tokens;

/// What every handler needs: the daemon behind it and the limits in front of it.
#[derive(Clone)]
pub struct Front {
    app: App,
    tokens: Arc<RwLock<Arc<Tokens>>>,
    timeouts: Timeouts,
}

impl Front {
    /// The front doors of `app`, as `config` sets them, open to who has one of the tokens.
    pub fn new(app: App, config: &Config, tokens: Tokens) -> Self {
        Self { app, tokens: Arc::new(RwLock::new(Arc::new(tokens))), timeouts: config.timeouts }
    }

    /// From now on these are the tokens.
    pub fn set_tokens(&self, tokens: Tokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }
}
