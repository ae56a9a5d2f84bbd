//! Arguments that several commands take, and how a command talks to a daemon.

use std::path::{Path, PathBuf};

use clap::Args;

use super::client;
use super::error::CliError;
use super::terminal::shown;
use crate::model::id::{ClientCode, IdError, IdKind};

/// Where the daemon is, and how to print the answer.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// URL of the daemon
    #[arg(long, env = "PROFILED_URL", value_name = "URL", default_value = "http://127.0.0.1:8750")]
    pub(super) url: String,
    /// Access token, if the daemon requires one
    #[arg(long, env = "PROFILED_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// File with root certificates, in PEM, for a daemon on https [default: those of the system]
    #[arg(long, env = "PROFILED_CA", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

impl Remote {
    /// A client for that daemon.
    pub(super) fn client(&self) -> Result<client::Client, CliError> {
        client::Client::new(&self.url, self.token.as_deref(), self.ca.as_deref())
    }
}

/// The kind of a visitor's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum By {
    /// The company's id
    ThirdParty,
    /// Target's own visitor id
    Pc,
    /// The Experience Cloud id
    Ecid,
}

impl By {
    pub(super) const fn kind(self) -> IdKind {
        match self {
            Self::ThirdParty => IdKind::ThirdParty,
            Self::Pc => IdKind::Pc,
            Self::Ecid => IdKind::Ecid,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ThirdParty => "third-party",
            Self::Pc => "pc",
            Self::Ecid => "ecid",
        }
    }
}

/// The format of a file of visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One JSON object a line for each visitor, with everything that a lookup shows
    Ndjson,
    /// A batch file: ids and values
    Csv,
}

impl Format {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    /// The format that was named, else the one that the file's name ends with.
    pub(super) fn of(named: Option<Self>, file: &Path) -> Result<Self, CliError> {
        let ending = file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        match (named, ending.as_deref()) {
            (Some(named), _) => Ok(named),
            (None, Some("ndjson")) => Ok(Self::Ndjson),
            (None, Some("csv")) => Ok(Self::Csv),
            (None, _) => Err(CliError::Usage(format!(
                "{}: the name ends neither with .ndjson nor with .csv: set --format ndjson or --format csv",
                shown(&file.display().to_string())
            ))),
        }
    }
}

pub(super) fn parse_client(text: &str) -> Result<ClientCode, IdError> {
    ClientCode::new(text)
}

/// Runs a command that talks to a daemon.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| CliError::Failed(format!("no thread could be started: {e}")))?.block_on(future)
}
