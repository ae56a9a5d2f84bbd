//! The front doors over HTTP: Adobe's paths, our own, and the ones for operations.
//!
//! Promises: a handler decodes, makes one call of [`crate::app::App`], encodes; what a client is told never holds what
//! the log says; attribute values, tokens and bodies are never logged.

mod adobe;
mod connection;
mod cors;
mod error;
mod native;
mod ops;
mod places;
mod request;
mod response;
mod router;
mod script;
pub mod server;

use crate::app::App;
use crate::config::{Callers, Config, HeadLimits, Timeouts};

/// What every handler needs: the daemon behind it and the limits in front of it.
#[derive(Clone)]
pub struct Front {
    app: App,
    timeouts: Timeouts,
    heads: HeadLimits,
    callers: Callers,
    batch_bytes_limit: u64,
}

impl Front {
    /// The front doors of `app`, as `config` sets them.
    pub fn new(app: App, config: &Config) -> Self {
        Self {
            app,
            timeouts: config.timeouts,
            heads: config.heads,
            callers: config.callers.clone(),
            batch_bytes_limit: config.limits.body_bytes_limit,
        }
    }
}
