//! Reading the settings, the tokens and the certificate again while the daemon runs: for a call and for a `SIGHUP`.
//!
//! Promises: a call takes over all of it or nothing, and is told which. A `SIGHUP` tells nobody, so it takes over what is right, and the
//! log says what is not. Two reloads come one after the other. What may change only at a start stays.

use super::tls::{Tls, TlsError};
use crate::config::{ChangedSettings, Config, ConfigError};
use crate::engine::Engine;
use crate::sync::{Mutex, lock};
use crate::tokens::TokensError;
use std::time::Duration;

/// Reads the settings as the start of the daemon did.
pub type ReadSettings = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Where the settings come from.
#[derive(Default)]
pub(super) struct Source {
    /// None where the settings came from nowhere: they stay.
    read: Option<ReadSettings>,
    /// Held while anything is read again and put into use.
    turn: Mutex<()>,
}

/// What was read again.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    /// The settings that have another value.
    pub(super) settings: ChangedSettings,
    /// How many tokens there are.
    pub(super) tokens: usize,
    /// How many certificates are in the file of the certificate; none without HTTPS.
    pub(super) certificates: usize,
    /// By how much the machine's clock had leapt ahead, if it was doubted until now.
    pub(super) clock_ahead: Option<Duration>,
}

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The settings are not right.
    #[error("the settings: {0}")]
    Settings(#[from] ConfigError),
    /// The certificate or its key is not right.
    #[error("the certificate: {0}")]
    Certificate(#[from] TlsError),
    /// The tokens cannot be read.
    #[error("the tokens: {0}")]
    Tokens(#[from] TokensError),
}

impl Source {
    /// The settings are read so.
    pub(super) fn of(read: ReadSettings) -> Self {
        Self { read: Some(read), turn: Mutex::new(()) }
    }

    /// Reads everything again and takes it over, and believes the machine's clock. If anything is wrong, all stays as it was.
    /// `reconfigure` takes new settings. Blocks.
    pub(super) fn reload(
        &self,
        app: &Engine,
        tls: Option<&Tls>,
        reconfigure: impl FnOnce(&Config),
    ) -> Result<Reloaded, ReloadError> {
        let _turn = lock(&self.turn);
        let config = self.settings()?;
        let certificate = tls.map(|tls| tls.read_again().map(|read| (tls, read))).transpose()?;
        let tokens = app.reload_tokens()?;
        // From here on nothing can fail.
        let mut reloaded = Reloaded { tokens, ..Reloaded::default() };
        if let Some((tls, read)) = certificate {
            reloaded.certificates = read.certificates();
            tls.put(read);
        }
        if let Some(config) = config {
            reloaded.settings = app.changes_to(&config);
            reconfigure(&config);
        }
        reloaded.clock_ahead = app.accept_clock();
        Ok(reloaded)
    }

    /// Reads everything again, takes over what is right, and believes the machine's clock. The log says what is wrong. Blocks.
    pub(super) fn reload_at_signal(
        &self,
        app: &Engine,
        tls: Option<&Tls>,
        reconfigure: impl FnOnce(&Config),
    ) {
        let _turn = lock(&self.turn);
        app.accept_clock();
        if let Some(tls) = tls {
            match tls.read_again() {
                Ok(read) => {
                    tls.put(read);
                    tracing::info!("certificate reloaded: new connections use it");
                }
                Err(error) => {
                    tracing::error!(%error, "the certificate could not be reloaded: the old one stays in use")
                }
            }
        }
        match app.reload_tokens_or_close() {
            Ok(tokens) => tracing::info!(tokens, "tokens reloaded"),
            Err(error) => {
                tracing::error!(%error, "the tokens could not be reloaded: the old ones stay valid; if there were none, every call that needs a token is refused")
            }
        }
        match self.settings() {
            Ok(Some(config)) => {
                reconfigure(&config);
                tracing::info!("settings reloaded: new limits and clients are in use");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "the settings could not be reloaded: the old ones stay in use")
            }
        }
    }

    fn settings(&self) -> Result<Option<Config>, ConfigError> {
        self.read.as_ref().map(|read| read()).transpose()
    }
}
