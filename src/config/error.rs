//! Why settings are refused, and where they were given.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::ImsOrg;
use crate::model::id::ClientCode;

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that does not exist.
    #[error("{}: there is no such file: create it, or leave out --config (PROFILED_CONFIG)", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the file is not TOML, or not a setting, or not a value that this setting takes.
    #[error("{origin}: {what}")]
    Wrong {
        /// The line.
        origin: Origin,
        /// What was wrong, and what would be right.
        what: String,
    },
    /// Without tokens, only this machine may call.
    #[error(
        "{origin}: {listen} can be reached from other machines, and there are no tokens: make one with \
         `profiled token new`, listen on a loopback address such as 127.0.0.1:8750, or set --allow-anonymous"
    )]
    Anonymous {
        /// Where the address was given.
        origin: Origin,
        /// The address.
        listen: SocketAddr,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{origin}: {given} is set without {missing}: set both, or neither")]
    HalfTls {
        /// Where the one was given.
        origin: Origin,
        /// The one that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// One of the two settings that make a daemon one node of several.
    #[error(
        "{origin}: {given} is set without {missing}: a node of several has both; a single daemon has neither"
    )]
    HalfCluster {
        /// Where the one was given.
        origin: Origin,
        /// The one that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A topic for changes on a single daemon.
    #[error("{origin}: changes_topic is set without order: only nodes of several pass changes on to a topic")]
    ChangesOfOne {
        /// Where it was given.
        origin: Origin,
    },
    /// A node that the others cannot reach where it listens.
    #[error(
        "{origin}: {listen} is every address of this machine, and no other node can reach it there: set advertise to the URL at which \
         they can"
    )]
    NoAdvertise {
        /// Where the address was given.
        origin: Origin,
        /// The address.
        listen: SocketAddr,
    },
    /// Backups in the folder that they are to replace when it is lost.
    #[error(
        "{origin}: {} is in the data folder {}: what destroys the data would destroy the backups, too; name a folder elsewhere, \
         on another disk if there is one",
        folder.display(), data.display()
    )]
    BackupsInData {
        /// Where the folder was given.
        origin: Origin,
        /// The folder.
        folder: PathBuf,
        /// The data folder.
        data: PathBuf,
    },
    /// Backups in two places.
    #[error(
        "{origin}: backup_url is set beside backup_folder: scheduled backups go to one place, so keep one of the two"
    )]
    TwoBackupPlaces {
        /// Where the URL was given.
        origin: Origin,
    },
    /// A place in S3-compatible storage, for a program that knows no S3.
    #[error(
        "{origin}: backup_url is set, but this profiled was built without S3: build it with `--features s3`, or install the Debian package \
         or the image, which have it"
    )]
    NoS3 {
        /// Where it was given.
        origin: Origin,
    },
    /// An endpoint without encryption.
    #[error(
        "{origin}: {endpoint} would carry all profiles unencrypted: use https, or set s3_allow_http = true if nobody else is on that \
         network"
    )]
    PlainEndpoint {
        /// Where it was given.
        origin: Origin,
        /// The endpoint.
        endpoint: String,
    },
    /// A window in which nothing is slowed.
    #[error(
        "{origin}: window is set without max_rows_per_second: say how many rows a second are applied inside the window"
    )]
    WindowAlone {
        /// Where it was given.
        origin: Origin,
    },
    /// `default_client` is not one of the configured clients.
    #[error(
        "{origin}: {client} is not a configured client: add [clients.{client}], or choose one of {configured}"
    )]
    DefaultClient {
        /// Where it was given.
        origin: Origin,
        /// The client.
        client: ClientCode,
        /// The configured ones.
        configured: String,
    },
    /// Two clients claim the same organisation.
    #[error(
        "{origin}: {org} is already listed under [clients.{first}]: an organisation belongs to one client"
    )]
    ImsOrgTwice {
        /// Where it is listed the second time.
        origin: Origin,
        /// The organisation.
        org: ImsOrg,
        /// The client that has it.
        first: ClientCode,
    },
}

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// On a line of the file; the first is 1.
    Line(PathBuf, usize),
    /// By a flag or by its variable. Names the setting's key.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Flag(key) => write!(f, "{} ({})", flag(key), variable(key)),
        }
    }
}

/// The flag that sets a key.
fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// The variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("PROFILED_{}", key.to_uppercase())
}
