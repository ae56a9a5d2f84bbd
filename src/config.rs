//! The settings of `serve`: defaults < file < environment < flag, resolved and checked before anything binds or opens.
//!
//! Promises: a [`Config`] that exists has been checked whole; an error names where the setting stands (file and line,
//! or the flag and its variable), what was wrong with it and what would be right. [`ServeOptions`] declares each
//! setting once: its fields are the flags, the variables `PROFILED_…` and the keys of the file. This is the only place
//! that reads the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::batch::ConsecutiveV2;
use crate::model::id::ClientCode;

mod setting;

use setting::{GIB, KIB, MIB, Plain, TIB};
pub use setting::{
    Given, ImsOrg, LogFilter, LogFormat, PUBLIC_URL_BYTES_MAX, Proxies, PublicUrl, Size, Whole,
};

/// The file that is read if it is there and `--config` names no other.
pub const DEFAULT_FILE: &str = "profiled.toml";
const HOUR_MS: u64 = 60 * 60 * 1000;
const DAY_MS: u64 = 24 * HOUR_MS;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8750);
const DATA_FOLDER: &str = "./profiled-data";
const CACHE_BYTES: u64 = 512 * MIB;
const SPOOL_BYTES_MAX: u64 = 20 * GIB;
const PROFILE_BYTES_MAX: u64 = MIB;
/// A batch has fewer bytes than this (R9).
pub const BODY_BYTES_LIMIT: u64 = 52_428_800;
/// The most rows in a batch (R9).
pub const ROWS_LIMIT: u64 = 500_000;
const CONCURRENT_UPLOADS_MAX: u64 = 32;
/// Batch files of different visitors were measured to reach 5 to 80, gzip or zstd; 200 columns of which one is filled, 52;
/// the same 1,000 characters for all visitors, 155 with gzip and 600 with zstd. Zeros reach 1,029 and 30,000.
const DECODE_RATIO_MAX: u64 = 1000;
const RETENTION_DAYS: u64 = 30;
const LIFETIME_DAYS: u64 = 14;
const HEADER_READ_TIMEOUT_SECONDS: u64 = 10;
const BODY_IDLE_TIMEOUT_SECONDS: u64 = 30;
const BODY_BYTES_PER_SECOND_MIN: u64 = KIB;
const IDLE_CONNECTION_TIMEOUT_SECONDS: u64 = 60;
const CONNECTIONS_MAX: u64 = 8_192;
const CONNECTIONS_PER_ADDRESS_MAX: u64 = 1_024;
const HEADER_BYTES_MAX: u64 = 80 * KIB;
const HEADERS_MAX: u64 = 100;
const URI_BYTES_MAX: u64 = 32 * KIB;
const SITE_CALLS_PER_SECOND: u64 = 1_000;
const FAILED_AUTHORISATIONS_PER_MINUTE: u64 = 60;
const TLS_HANDSHAKE_TIMEOUT_SECONDS: u64 = 10;
const JOURNAL_SEGMENT_BYTES: u64 = 64 << 20;
const SNAPSHOT_JOURNAL_BYTES: u64 = 1 << 30;
const ERASE_WITHIN_HOURS: u64 = 24;
const DISK_RESERVE_BYTES: u64 = 256 * MIB;
const LOG: &str = "info";

/// What `serve` runs with: every setting resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    listen_place: Place,
    /// The folder that holds journal, spool, snapshots and store. Relative to the working folder.
    pub data_folder: PathBuf,
    /// What the store may keep in memory.
    pub cache_bytes: u64,
    /// What status URLs start with, instead of the host that the client called.
    pub public_url: Option<PublicUrl>,
    /// The client of a site call that names none.
    pub default_client: Option<ClientCode>,
    /// Whether to serve without tokens on an address that others can reach.
    pub allow_anonymous: bool,
    /// How much is taken.
    pub limits: Limits,
    /// How long to wait for whom.
    pub timeouts: Timeouts,
    /// How much of a request's header is taken.
    pub heads: HeadLimits,
    /// How much of the daemon callers may take.
    pub callers: Callers,
    /// The certificate for HTTPS; none: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// What is kept on the disk, and how long.
    pub upkeep: Upkeep,
    /// What is logged.
    pub log: LogFilter,
    /// In what form.
    pub log_format: LogFormat,
    /// What holds for every client unless its table says something else.
    any_client: ClientSettings,
    clients: BTreeMap<ClientCode, ClientSettings>,
}

/// What is kept on the disk, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// How long outcomes and spools of a complete batch are kept.
    pub retention_ms: u64,
    /// The size of a new journal segment.
    pub journal_segment_bytes: u64,
    /// A snapshot is taken whenever the journal has grown by so much.
    pub snapshot_journal_bytes: u64,
    /// An erased visitor's bytes are gone from the disk within this time (R12).
    pub erase_within_ms: u64,
    /// Writes are refused while the disk has less room than this.
    pub disk_reserve_bytes: u64,
}

/// How much is taken (R9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A profile's names and values have at most so many bytes.
    pub profile_bytes_max: u64,
    /// Spools take at most so many bytes on disk; past it uploads are refused.
    pub spool_bytes_max: u64,
    /// A batch of this many decoded bytes or more is refused.
    pub body_bytes_limit: u64,
    /// A batch of more rows than this is refused.
    pub rows_limit: u64,
    /// At most so many batches are uploaded at once.
    pub concurrent_uploads_max: usize,
    /// A compressed upload that grows to more than so many times its size is refused.
    pub decode_ratio_max: u64,
}

/// How long a connection may keep the daemon waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request's header to arrive.
    pub header_read: Duration,
    /// For the next bytes of a body.
    pub body_idle: Duration,
    /// A body that brings fewer bytes per second of waiting, beyond a first `body_idle`, is refused; 0 is no minimum.
    pub body_bytes_per_second_min: u64,
    /// For the next request on a connection.
    pub idle_connection: Duration,
    /// For a TLS handshake.
    pub tls_handshake: Duration,
}

/// Where a certificate is, and its key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, the server's own first, then those that lead to a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How much of a request's header is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, with the request line and the empty line at the end.
    pub bytes_max: usize,
    /// Lines behind the request line.
    pub lines_max: usize,
    /// Bytes of the path with its query.
    pub uri_bytes_max: usize,
}

/// How much of the daemon callers may take, all together and each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callers {
    /// At most so many connections at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// At most so many at once from one address.
    pub connections_per_address_max: usize,
    /// Whether callers on this machine are spared the limits per address.
    pub loopback_exempt: bool,
    /// How many site calls a second one address may make; none: as many as it likes.
    pub site_calls_per_second: Option<NonZeroU32>,
    /// How often one address may fail to be let in.
    pub failed_authorisations_per_minute: Option<NonZeroU32>,
    /// Whose word is taken for whom they call for.
    pub trusted_proxies: Arc<[IpNet]>,
}

/// What may differ from client to client: `[clients.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Whether a v2 batch creates a profile for a visitor that has none (R5).
    pub v2_creates_profiles: bool,
    /// What a v2 batch does to the one before it (R7).
    pub consecutive_v2: ConsecutiveV2,
    /// A profile expires this long after its last site call (R11).
    pub lifetime_ms: u64,
    /// The organisations that Adobe's SDKs send instead of a client code.
    pub ims_orgs: Arc<[ImsOrg]>,
    /// How many batch calls a minute it may make; none: as many as it likes.
    pub batch_calls_per_minute: Option<NonZeroU32>,
}

/// The settings of `serve` as given: its flags, the variables `PROFILED_…`, and, but for `config`, the keys of the file.
#[derive(Debug, Clone, Default, clap::Args, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Settings, each also a key of the file")]
pub struct ServeOptions {
    /// Address and port to listen on; port 0 picks a free one [default: 127.0.0.1:8750]
    #[arg(long, env = "PROFILED_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<Given<SocketAddr>>,
    /// Folder that keeps everything [default: ./profiled-data]
    #[arg(long, env = "PROFILED_DATA", value_name = "FOLDER")]
    pub data: Option<Given<PathBuf>>,
    /// File with settings [default: profiled.toml, if it is there]
    #[arg(long, env = "PROFILED_CONFIG", value_name = "FILE", help_heading = "Options")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Memory for the store's cache [default: 512MiB]
    #[arg(long, env = "PROFILED_CACHE", value_name = "SIZE")]
    pub cache: Option<Given<Size<{ 8 * MIB }, TIB>>>,
    /// What status URLs start with [default: the host that was called]
    #[arg(long, env = "PROFILED_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<Given<PublicUrl>>,
    /// Client of a site call that names none
    #[arg(long, env = "PROFILED_DEFAULT_CLIENT", value_name = "CLIENT")]
    pub default_client: Option<Given<ClientCode>>,
    /// Serve without tokens on an address that others can reach
    #[arg(long, env = "PROFILED_ALLOW_ANONYMOUS", value_name = "true|false")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_anonymous: Option<Given<bool>>,
    /// Most bytes that a profile's names and values may have [default: 1MiB]
    #[arg(long, env = "PROFILED_MAX_PROFILE_BYTES", value_name = "SIZE")]
    pub max_profile_bytes: Option<Given<Size<KIB, { 64 * MIB }>>>,
    /// Most bytes that kept uploads may take on disk [default: 20GiB]
    #[arg(long, env = "PROFILED_SPOOL_MAX_BYTES", value_name = "SIZE")]
    pub spool_max_bytes: Option<Given<Size<1, { 1024 * TIB }>>>,
    /// Days that a complete batch's file and outcomes are kept [default: 30]
    #[arg(long, env = "PROFILED_RETENTION_DAYS", value_name = "DAYS")]
    pub retention_days: Option<Given<Whole<0, 3650>>>,
    /// Size of a new journal segment [default: 64MiB]
    #[arg(long, env = "PROFILED_JOURNAL_SEGMENT_BYTES", value_name = "SIZE")]
    pub journal_segment_bytes: Option<Given<Size<{ 64 * KIB }, GIB>>>,
    /// Take a snapshot when the journal has grown by this much [default: 1GiB]
    #[arg(long, env = "PROFILED_SNAPSHOT_JOURNAL_BYTES", value_name = "SIZE")]
    pub snapshot_journal_bytes: Option<Given<Size<{ 64 * KIB }, TIB>>>,
    /// Hours within which an erased visitor's bytes are gone from the disk [default: 24]
    #[arg(long, env = "PROFILED_ERASE_WITHIN_HOURS", value_name = "HOURS")]
    pub erase_within_hours: Option<Given<Whole<0, 8760>>>,
    /// Refuse writes while the disk has less room than this [default: 256MiB]
    #[arg(long, env = "PROFILED_DISK_RESERVE_BYTES", value_name = "SIZE")]
    pub disk_reserve_bytes: Option<Given<Size<0, TIB>>>,
    /// Refuse batches of this size or more [default: 52428800]
    #[arg(long, env = "PROFILED_BODY_BYTES_LIMIT", value_name = "SIZE")]
    pub body_bytes_limit: Option<Given<Size<1, GIB>>>,
    /// Refuse batches of more rows than this [default: 500000]
    #[arg(long, env = "PROFILED_ROWS_LIMIT", value_name = "ROWS")]
    pub rows_limit: Option<Given<Whole<1, 20_000_000>>>,
    /// Most batches uploaded at once [default: 32]
    #[arg(long, env = "PROFILED_CONCURRENT_UPLOADS_MAX", value_name = "UPLOADS")]
    pub concurrent_uploads_max: Option<Given<Whole<1, 1024>>>,
    /// Refuse compressed uploads that grow to more than so many times their size [default: 1000]
    #[arg(long, env = "PROFILED_DECODE_RATIO_MAX", value_name = "TIMES")]
    pub decode_ratio_max: Option<Given<Whole<1, 1_000_000>>>,
    /// Seconds for a request's header to arrive [default: 10]
    #[arg(long, env = "PROFILED_HEADER_READ_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub header_read_timeout_seconds: Option<Given<Whole<1, 3600>>>,
    /// Seconds for the next bytes of a body [default: 30]
    #[arg(long, env = "PROFILED_BODY_IDLE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub body_idle_timeout_seconds: Option<Given<Whole<1, 3600>>>,
    /// Bytes per second that a body must bring, after as many seconds as it may be idle; 0: any [default: 1KiB]
    #[arg(long, env = "PROFILED_BODY_BYTES_PER_SECOND_MIN", value_name = "SIZE")]
    pub body_bytes_per_second_min: Option<Given<Size<0, GIB>>>,
    /// Certificate for HTTPS, in PEM, those that lead to its root behind it; read again at SIGHUP
    #[arg(long, env = "PROFILED_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<Given<PathBuf>>,
    /// Its private key, in PEM
    #[arg(long, env = "PROFILED_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<Given<PathBuf>>,
    /// Seconds for a TLS handshake [default: 10]
    #[arg(long, env = "PROFILED_TLS_HANDSHAKE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub tls_handshake_timeout_seconds: Option<Given<Whole<1, 3600>>>,
    /// Seconds for the next request on a connection [default: 60]
    #[arg(long, env = "PROFILED_IDLE_CONNECTION_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub idle_connection_timeout_seconds: Option<Given<Whole<1, 3600>>>,
    /// Most connections at once; fewer if the system allows too few open files [default: 8192]
    #[arg(long, env = "PROFILED_CONNECTIONS_MAX", value_name = "CONNECTIONS")]
    pub connections_max: Option<Given<Whole<1, 1_000_000>>>,
    /// Most connections at once from one address, for IPv6 from its /64 [default: 1024]
    #[arg(long, env = "PROFILED_CONNECTIONS_PER_ADDRESS_MAX", value_name = "CONNECTIONS")]
    pub connections_per_address_max: Option<Given<Whole<1, 1_000_000>>>,
    /// Whether callers on this machine are spared the limits per address [default: true]
    #[arg(long, env = "PROFILED_LOOPBACK_EXEMPT", value_name = "true|false")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub loopback_exempt: Option<Given<bool>>,
    /// Most bytes of a request's header [default: 80KiB]
    #[arg(long, env = "PROFILED_HEADER_BYTES_MAX", value_name = "SIZE")]
    pub header_bytes_max: Option<Given<Size<{ KIB }, { 256 * KIB }>>>,
    /// Most lines of a request's header [default: 100]
    #[arg(long, env = "PROFILED_HEADERS_MAX", value_name = "LINES")]
    pub headers_max: Option<Given<Whole<8, 1_000>>>,
    /// Most bytes of a request's path with its query [default: 32KiB]
    #[arg(long, env = "PROFILED_URI_BYTES_MAX", value_name = "SIZE")]
    pub uri_bytes_max: Option<Given<Size<256, 65_000>>>,
    /// Most site calls a second from one address, for IPv6 from its /64; 0: no limit [default: 1000]
    #[arg(long, env = "PROFILED_SITE_CALLS_PER_SECOND", value_name = "CALLS")]
    pub site_calls_per_second: Option<Given<Whole<0, 1_000_000>>>,
    /// Failed authorisations of one address a minute; 0: any [default: 60]
    #[arg(long, env = "PROFILED_FAILED_AUTHORISATIONS_PER_MINUTE", value_name = "FAILURES")]
    pub failed_authorisations_per_minute: Option<Given<Whole<0, 1_000_000>>>,
    /// Most batch calls a minute of one client; 0: no limit [default: 0]
    #[arg(long, env = "PROFILED_BATCH_CALLS_PER_MINUTE", value_name = "CALLS")]
    pub batch_calls_per_minute: Option<Given<Whole<0, 1_000_000>>>,
    /// Proxies whose X-Forwarded-For, -Proto and -Host count: addresses or networks, several with commas
    #[arg(long, env = "PROFILED_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<Given<Proxies>>>,
    /// What is logged: off, error, warn, info, debug, trace, or target=level, several with commas [default: info]
    #[arg(long, env = "PROFILED_LOG", value_name = "FILTER")]
    pub log: Option<Given<LogFilter>>,
    /// How log lines are written: text, or json for programs [default: text]
    #[arg(long, env = "PROFILED_LOG_FORMAT", value_name = "text|json")]
    pub log_format: Option<Given<LogFormat>>,
    /// The clients that are served; only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub clients: ClientTables,
}

/// The `[clients.NAME]` tables as given.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct ClientTables(BTreeMap<Plain<ClientCode>, ClientTable>);

/// A `[clients.NAME]` table as given.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientTable {
    #[serde(default)]
    ims_orgs: Vec<Given<ImsOrg>>,
    v2_creates_profiles: Option<Given<bool>>,
    consecutive_v2: Option<Given<ConsecutiveV2>>,
    lifetime_days: Option<Given<Whole<1, 3650>>>,
    batch_calls_per_minute: Option<Given<Whole<0, 1_000_000>>>,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that is not there.
    #[error("{}: there is no such file: write it, or leave --config (PROFILED_CONFIG) out", .0.display())]
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
    #[error("{place}: {what}")]
    Wrong {
        /// The line.
        place: Place,
        /// What was wrong, and what would be right.
        what: String,
    },
    /// Without tokens, only this machine may call.
    #[error(
        "{place}: {listen} can be reached from other machines, and there are no tokens: make one with \
         `profiled token new`, listen on a loopback address such as 127.0.0.1:8750, or say --allow-anonymous"
    )]
    Anonymous {
        /// Where the address was given.
        place: Place,
        /// The address.
        listen: SocketAddr,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{place}: {given} needs {missing} beside it: name both, or neither")]
    HalfTls {
        /// Where the one was given.
        place: Place,
        /// The one that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// `default_client` is none of the clients that are configured.
    #[error(
        "{place}: {client} is not a configured client: add [clients.{client}], or choose one of {configured}"
    )]
    DefaultClient {
        /// Where it was given.
        place: Place,
        /// The client.
        client: ClientCode,
        /// Those that are configured.
        configured: String,
    },
    /// Two clients claim the same organisation.
    #[error("{place}: {org} stands under [clients.{first}] already: an organisation belongs to one client")]
    ImsOrgTwice {
        /// Where it stands the second time.
        place: Place,
        /// The organisation.
        org: ImsOrg,
        /// The client that has it.
        first: ClientCode,
    },
}

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a line of the file; the first is 1.
    Line(PathBuf, usize),
    /// By a flag or by its variable, named by the setting's key.
    Flag(&'static str),
}

impl Config {
    /// Resolves the settings: what `options` leaves open is taken from the file that it names, else from
    /// `profiled.toml` in the working folder if it is there, else from the defaults.
    pub fn resolve(options: ServeOptions) -> Result<Self, ConfigError> {
        Self::resolve_with(options, Path::new(DEFAULT_FILE))
    }

    /// The settings of a client: its own, or the defaults as long as no client is configured. `None` for a client that
    /// is not served.
    pub fn client(&self, client: &ClientCode) -> Option<ClientSettings> {
        if self.clients.is_empty() {
            return Some(self.any_client.clone());
        }
        self.clients.get(client).cloned()
    }

    /// The client to which an organisation belongs, as Adobe's SDKs send it.
    pub fn client_of_ims_org(&self, org: &str) -> Option<&ClientCode> {
        self.clients
            .iter()
            .find(|(_, it)| it.ims_orgs.iter().any(|own| own.as_str() == org))
            .map(|(it, _)| it)
    }

    /// The clients that are configured; none means that every client code is taken.
    pub fn clients(&self) -> impl Iterator<Item = (&ClientCode, &ClientSettings)> {
        self.clients.iter()
    }

    /// These settings with what may change while the daemon runs as `next` has it. The rest is of where it listens, of
    /// what it has opened and of how it logs.
    pub fn following(&self, next: &Self) -> Self {
        Self {
            listen: self.listen,
            listen_place: self.listen_place.clone(),
            data_folder: self.data_folder.clone(),
            cache_bytes: self.cache_bytes,
            allow_anonymous: self.allow_anonymous,
            log: self.log.clone(),
            log_format: self.log_format,
            upkeep: Upkeep { journal_segment_bytes: self.upkeep.journal_segment_bytes, ..next.upkeep },
            ..next.clone()
        }
    }

    /// Refuses an address that others can reach while anybody may do anything: unless tokens are asked for, or it was
    /// said outright.
    pub fn check_reach(&self, tokens: bool) -> Result<(), ConfigError> {
        let loopback = self.listen.ip().to_canonical().is_loopback();
        if loopback || tokens || self.allow_anonymous {
            return Ok(());
        }
        Err(ConfigError::Anonymous { place: self.listen_place.clone(), listen: self.listen })
    }

    fn resolve_with(options: ServeOptions, default_file: &Path) -> Result<Self, ConfigError> {
        let file = File::read(options.config.as_deref(), default_file)?;
        let given = options.over(file.options()?);
        let any_client = ClientSettings {
            batch_calls_per_minute: rate(value(&given.batch_calls_per_minute).map_or(0, Whole::get)),
            ..ClientSettings::default()
        };
        let config = Self {
            listen: value(&given.listen).unwrap_or(LISTEN),
            listen_place: given
                .listen
                .as_ref()
                .map_or(Place::Flag("listen"), |listen| file.place(listen, "listen")),
            data_folder: value(&given.data).unwrap_or_else(|| DATA_FOLDER.into()),
            cache_bytes: value(&given.cache).map_or(CACHE_BYTES, Size::get),
            public_url: value(&given.public_url),
            default_client: value(&given.default_client),
            allow_anonymous: value(&given.allow_anonymous).unwrap_or(false),
            limits: Limits {
                profile_bytes_max: value(&given.max_profile_bytes).map_or(PROFILE_BYTES_MAX, Size::get),
                spool_bytes_max: value(&given.spool_max_bytes).map_or(SPOOL_BYTES_MAX, Size::get),
                body_bytes_limit: value(&given.body_bytes_limit).map_or(BODY_BYTES_LIMIT, Size::get),
                rows_limit: value(&given.rows_limit).map_or(ROWS_LIMIT, Whole::get),
                concurrent_uploads_max: count(
                    value(&given.concurrent_uploads_max).map_or(CONCURRENT_UPLOADS_MAX, Whole::get),
                ),
                decode_ratio_max: value(&given.decode_ratio_max).map_or(DECODE_RATIO_MAX, Whole::get),
            },
            timeouts: Timeouts {
                header_read: seconds(&given.header_read_timeout_seconds, HEADER_READ_TIMEOUT_SECONDS),
                body_idle: seconds(&given.body_idle_timeout_seconds, BODY_IDLE_TIMEOUT_SECONDS),
                body_bytes_per_second_min: value(&given.body_bytes_per_second_min)
                    .map_or(BODY_BYTES_PER_SECOND_MIN, Size::get),
                idle_connection: seconds(
                    &given.idle_connection_timeout_seconds,
                    IDLE_CONNECTION_TIMEOUT_SECONDS,
                ),
                tls_handshake: seconds(&given.tls_handshake_timeout_seconds, TLS_HANDSHAKE_TIMEOUT_SECONDS),
            },
            tls: tls_files(&given, &file)?,
            heads: HeadLimits {
                bytes_max: count(value(&given.header_bytes_max).map_or(HEADER_BYTES_MAX, Size::get)),
                lines_max: count(value(&given.headers_max).map_or(HEADERS_MAX, Whole::get)),
                uri_bytes_max: count(value(&given.uri_bytes_max).map_or(URI_BYTES_MAX, Size::get)),
            },
            callers: Callers {
                connections_max: count(value(&given.connections_max).map_or(CONNECTIONS_MAX, Whole::get)),
                connections_per_address_max: count(
                    value(&given.connections_per_address_max).map_or(CONNECTIONS_PER_ADDRESS_MAX, Whole::get),
                ),
                loopback_exempt: value(&given.loopback_exempt).unwrap_or(true),
                site_calls_per_second: rate(
                    value(&given.site_calls_per_second).map_or(SITE_CALLS_PER_SECOND, Whole::get),
                ),
                failed_authorisations_per_minute: rate(
                    value(&given.failed_authorisations_per_minute)
                        .map_or(FAILED_AUTHORISATIONS_PER_MINUTE, Whole::get),
                ),
                trusted_proxies: given.trusted_proxies.iter().flatten().map(|it| it.value.0).collect(),
            },
            upkeep: Upkeep {
                retention_ms: value(&given.retention_days).map_or(RETENTION_DAYS, Whole::get) * DAY_MS,
                journal_segment_bytes: value(&given.journal_segment_bytes)
                    .map_or(JOURNAL_SEGMENT_BYTES, Size::get),
                snapshot_journal_bytes: value(&given.snapshot_journal_bytes)
                    .map_or(SNAPSHOT_JOURNAL_BYTES, Size::get),
                erase_within_ms: value(&given.erase_within_hours).map_or(ERASE_WITHIN_HOURS, Whole::get)
                    * HOUR_MS,
                disk_reserve_bytes: value(&given.disk_reserve_bytes).map_or(DISK_RESERVE_BYTES, Size::get),
            },
            log: value(&given.log).unwrap_or_else(|| LogFilter(LOG.into())),
            log_format: value(&given.log_format).unwrap_or_default(),
            clients: clients(&given.clients, &any_client, &file)?,
            any_client,
        };
        if let Some(client) = &given.default_client {
            config.check_default_client(|| file.place(client, "default_client"))?;
        }
        Ok(config)
    }

    fn check_default_client(&self, place: impl FnOnce() -> Place) -> Result<(), ConfigError> {
        match &self.default_client {
            Some(client) if self.client(client).is_none() => {
                let configured: Vec<&str> = self.clients.keys().map(ClientCode::as_str).collect();
                Err(ConfigError::DefaultClient {
                    place: place(),
                    client: client.clone(),
                    configured: configured.join(", "),
                })
            }
            _ => Ok(()),
        }
    }
}

impl Callers {
    /// Whether a caller is spared the limits per address.
    pub fn spares(&self, address: IpAddr) -> bool {
        self.loopback_exempt && address.to_canonical().is_loopback()
    }

    /// Whether a caller's word is taken for whom it calls for.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            v2_creates_profiles: false,
            consecutive_v2: ConsecutiveV2::default(),
            lifetime_ms: LIFETIME_DAYS * DAY_MS,
            ims_orgs: Arc::default(),
            batch_calls_per_minute: None,
        }
    }
}

impl ServeOptions {
    /// These, and where they leave something open, `lower`'s.
    fn over(self, lower: Self) -> Self {
        Self {
            listen: self.listen.or(lower.listen),
            data: self.data.or(lower.data),
            config: self.config.or(lower.config),
            cache: self.cache.or(lower.cache),
            public_url: self.public_url.or(lower.public_url),
            default_client: self.default_client.or(lower.default_client),
            allow_anonymous: self.allow_anonymous.or(lower.allow_anonymous),
            max_profile_bytes: self.max_profile_bytes.or(lower.max_profile_bytes),
            spool_max_bytes: self.spool_max_bytes.or(lower.spool_max_bytes),
            retention_days: self.retention_days.or(lower.retention_days),
            journal_segment_bytes: self.journal_segment_bytes.or(lower.journal_segment_bytes),
            snapshot_journal_bytes: self.snapshot_journal_bytes.or(lower.snapshot_journal_bytes),
            erase_within_hours: self.erase_within_hours.or(lower.erase_within_hours),
            disk_reserve_bytes: self.disk_reserve_bytes.or(lower.disk_reserve_bytes),
            body_bytes_limit: self.body_bytes_limit.or(lower.body_bytes_limit),
            rows_limit: self.rows_limit.or(lower.rows_limit),
            concurrent_uploads_max: self.concurrent_uploads_max.or(lower.concurrent_uploads_max),
            decode_ratio_max: self.decode_ratio_max.or(lower.decode_ratio_max),
            header_read_timeout_seconds: self
                .header_read_timeout_seconds
                .or(lower.header_read_timeout_seconds),
            body_idle_timeout_seconds: self.body_idle_timeout_seconds.or(lower.body_idle_timeout_seconds),
            body_bytes_per_second_min: self.body_bytes_per_second_min.or(lower.body_bytes_per_second_min),
            tls_cert: self.tls_cert.or(lower.tls_cert),
            tls_key: self.tls_key.or(lower.tls_key),
            tls_handshake_timeout_seconds: self
                .tls_handshake_timeout_seconds
                .or(lower.tls_handshake_timeout_seconds),
            idle_connection_timeout_seconds: self
                .idle_connection_timeout_seconds
                .or(lower.idle_connection_timeout_seconds),
            connections_max: self.connections_max.or(lower.connections_max),
            connections_per_address_max: self
                .connections_per_address_max
                .or(lower.connections_per_address_max),
            loopback_exempt: self.loopback_exempt.or(lower.loopback_exempt),
            header_bytes_max: self.header_bytes_max.or(lower.header_bytes_max),
            headers_max: self.headers_max.or(lower.headers_max),
            uri_bytes_max: self.uri_bytes_max.or(lower.uri_bytes_max),
            site_calls_per_second: self.site_calls_per_second.or(lower.site_calls_per_second),
            failed_authorisations_per_minute: self
                .failed_authorisations_per_minute
                .or(lower.failed_authorisations_per_minute),
            batch_calls_per_minute: self.batch_calls_per_minute.or(lower.batch_calls_per_minute),
            trusted_proxies: self.trusted_proxies.or(lower.trusted_proxies),
            log: self.log.or(lower.log),
            log_format: self.log_format.or(lower.log_format),
            clients: lower.clients,
        }
    }
}

fn value<T: Clone>(given: &Option<Given<T>>) -> Option<T> {
    given.as_ref().map(|it| it.value.clone())
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn tls_files(given: &ServeOptions, file: &File) -> Result<Option<TlsFiles>, ConfigError> {
    let half = |there: &Given<PathBuf>, given, missing| {
        Err(ConfigError::HalfTls { place: file.place(there, given), given, missing })
    };
    match (&given.tls_cert, &given.tls_key) {
        (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: cert.value.clone(), key: key.value.clone() })),
        (Some(cert), None) => half(cert, "tls_cert", "tls_key"),
        (None, Some(key)) => half(key, "tls_key", "tls_cert"),
        (None, None) => Ok(None),
    }
}

/// A rate as it is given: 0 is none.
fn rate(calls: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(calls).unwrap_or(u32::MAX))
}

fn seconds<const MIN: u64, const MAX: u64>(given: &Option<Given<Whole<MIN, MAX>>>, default: u64) -> Duration {
    Duration::from_secs(value(given).map_or(default, Whole::get))
}

fn clients(
    tables: &ClientTables,
    default: &ClientSettings,
    file: &File,
) -> Result<BTreeMap<ClientCode, ClientSettings>, ConfigError> {
    let mut owners: BTreeMap<&ImsOrg, &ClientCode> = BTreeMap::new();
    let mut clients = BTreeMap::new();
    for (Plain(client), table) in &tables.0 {
        for org in &table.ims_orgs {
            if let Some(first) = owners.insert(&org.value, client) {
                return Err(ConfigError::ImsOrgTwice {
                    place: file.place(org, "ims_orgs"),
                    org: org.value.clone(),
                    first: first.clone(),
                });
            }
        }
        let settings = ClientSettings {
            v2_creates_profiles: value(&table.v2_creates_profiles).unwrap_or(default.v2_creates_profiles),
            consecutive_v2: value(&table.consecutive_v2).unwrap_or(default.consecutive_v2),
            lifetime_ms: value(&table.lifetime_days).map_or(default.lifetime_ms, |days| days.get() * DAY_MS),
            ims_orgs: table.ims_orgs.iter().map(|org| org.value.clone()).collect(),
            batch_calls_per_minute: value(&table.batch_calls_per_minute)
                .map_or(default.batch_calls_per_minute, |calls| rate(calls.get())),
        };
        clients.insert(client.clone(), settings);
    }
    Ok(clients)
}

/// The file: where it is and what it says. One that is absent, and need not be there, says nothing.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(named: Option<&Path>, default: &Path) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(default).to_path_buf();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => Vec::new(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ConfigError::Missing(path)),
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                let place = Place::Line(path, line(e.as_bytes(), at));
                Err(ConfigError::Wrong { place, what: "this is not UTF-8: save the file as UTF-8".into() })
            }
        }
    }

    fn options(&self) -> Result<ServeOptions, ConfigError> {
        toml::from_str(&self.text).map_err(|e| ConfigError::Wrong {
            place: self.line(e.span().map_or(0, |span| span.start)),
            what: e.message().replacen("unknown field", "unknown key", 1),
        })
    }

    fn place<T>(&self, given: &Given<T>, key: &'static str) -> Place {
        given.at.map_or(Place::Flag(key), |at| self.line(at))
    }

    fn line(&self, at: usize) -> Place {
        Place::Line(self.path.clone(), line(self.text.as_bytes(), at))
    }
}

/// The line that holds the byte `at`; the first is 1.
fn line(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Flag(key) => write!(f, "--{} (PROFILED_{})", key.replace('_', "-"), key.to_uppercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};

    use super::setting::shown;
    use super::*;

    #[derive(Parser)]
    struct Serve {
        #[command(flatten)]
        options: ServeOptions,
    }

    fn options(flags: &str) -> ServeOptions {
        Serve::try_parse_from(["serve"].into_iter().chain(flags.split_whitespace())).unwrap().options
    }

    /// Resolves with the flags and a `profiled.toml` of that text; the folder's name is left out of the error.
    fn resolve(flags: &str, file: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DEFAULT_FILE);
        std::fs::write(&path, file).unwrap();
        let folder = format!("{}/", folder.path().display());
        let resolved = Config::resolve_with(options(flags), &path);
        let reachable = resolved.and_then(|config| config.check_reach(false).map(|()| config));
        reachable.map_err(|e| e.to_string().replace(&folder, ""))
    }

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let config = Config::resolve_with(ServeOptions::default(), Path::new("no such file")).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8750");
        assert_eq!(config.data_folder, Path::new("./profiled-data"));
        assert_eq!(config.cache_bytes, 536_870_912);
        assert_eq!((config.public_url.clone(), config.default_client.clone()), (None, None));
        assert!(!config.allow_anonymous);
        let limits = Limits {
            profile_bytes_max: 1_048_576,
            spool_bytes_max: 21_474_836_480,
            body_bytes_limit: 52_428_800,
            rows_limit: 500_000,
            concurrent_uploads_max: 32,
            decode_ratio_max: 1000,
        };
        assert_eq!(config.limits, limits);
        assert_eq!(config.timeouts.header_read, Duration::from_secs(10));
        assert_eq!(config.timeouts.body_idle, Duration::from_secs(30));
        assert_eq!(config.timeouts.body_bytes_per_second_min, 1024);
        assert_eq!(config.timeouts.idle_connection, Duration::from_secs(60));
        assert_eq!(config.timeouts.tls_handshake, Duration::from_secs(10));
        assert_eq!(config.tls, None);
        let upkeep = Upkeep {
            retention_ms: 2_592_000_000,
            journal_segment_bytes: 67_108_864,
            snapshot_journal_bytes: 1_073_741_824,
            erase_within_ms: 86_400_000,
            disk_reserve_bytes: 268_435_456,
        };
        assert_eq!(config.upkeep, upkeep);
        let heads = HeadLimits { bytes_max: 81_920, lines_max: 100, uri_bytes_max: 32_768 };
        assert_eq!(config.heads, heads);
        let callers = Callers {
            connections_max: 8192,
            connections_per_address_max: 1024,
            loopback_exempt: true,
            site_calls_per_second: NonZeroU32::new(1000),
            failed_authorisations_per_minute: NonZeroU32::new(60),
            trusted_proxies: Arc::default(),
        };
        assert_eq!(config.callers, callers);
        assert_eq!((config.log.as_str(), config.log_format), ("info", LogFormat::Text));
        let settings = config.client(&client("any")).unwrap();
        assert_eq!(settings, ClientSettings::default());
        assert_eq!(
            (settings.v2_creates_profiles, settings.consecutive_v2, settings.lifetime_ms),
            (false, ConsecutiveV2::Merge, 1_209_600_000)
        );
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        #[track_caller]
        fn check<T: PartialEq + fmt::Debug>(flags: &str, file: &str, field: fn(Config) -> T, expected: T) {
            assert_eq!(field(resolve(flags, file).unwrap()), expected, "{flags:?} over {file:?}");
        }
        let cache = |it: Config| it.cache_bytes;
        check("", "", cache, 512 * MIB);
        check("", "cache = '16MiB'", cache, 16 * MIB);
        check("", "cache = 16777216", cache, 16 * MIB);
        check("--cache 32MiB", "cache = '16MiB'", cache, 32 * MIB);
        check("--cache 33554432", "", cache, 32 * MIB);
        let listen = |it: Config| it.listen.to_string();
        check("", "listen = '127.0.0.1:0'", listen, "127.0.0.1:0".into());
        check("--listen [::1]:9", "listen = '0.0.0.0:0'", listen, "[::1]:9".into());
        check("--listen 0.0.0.0:9 --allow-anonymous", "", listen, "0.0.0.0:9".into());
        check("--listen 0.0.0.0:9", "allow_anonymous = true", listen, "0.0.0.0:9".into());
        check("--listen [::ffff:127.0.0.1]:9", "", listen, "[::ffff:127.0.0.1]:9".into());
        check("--allow-anonymous=false", "allow_anonymous = true", |it| it.allow_anonymous, false);
        check("", "data = 'd'", |it| it.data_folder, "d".into());
        check("--data e", "data = 'd'", |it| it.data_folder, "e".into());
        let public_url = |it: Config| it.public_url.unwrap().as_str().to_owned();
        check("", "public_url = 'https://p.example/a/'", public_url, "https://p.example/a".into());
        check("--public-url http://q:80", "public_url = 'https://p'", public_url, "http://q:80".into());
        check("--default-client b", "default_client = 'a'", |it| it.default_client, Some(client("b")));
        check("", "max_profile_bytes = '64KiB'", |it| it.limits.profile_bytes_max, 65_536);
        check("", "spool_max_bytes = 1", |it| it.limits.spool_bytes_max, 1);
        check("", "body_bytes_limit = 2000", |it| it.limits.body_bytes_limit, 2000);
        check("--rows-limit 7", "rows_limit = 8", |it| it.limits.rows_limit, 7);
        check("", "concurrent_uploads_max = 2", |it| it.limits.concurrent_uploads_max, 2);
        check("", "decode_ratio_max = 7", |it| it.limits.decode_ratio_max, 7);
        check("--retention-days 0", "", |it| it.upkeep.retention_ms, 0);
        check("", "journal_segment_bytes = \"1MiB\"", |it| it.upkeep.journal_segment_bytes, 1 << 20);
        check("", "snapshot_journal_bytes = \"1MiB\"", |it| it.upkeep.snapshot_journal_bytes, 1 << 20);
        check("--erase-within-hours 1", "", |it| it.upkeep.erase_within_ms, 3_600_000);
        check("--disk-reserve-bytes 0", "", |it| it.upkeep.disk_reserve_bytes, 0);
        check("", "header_read_timeout_seconds = 1", |it| it.timeouts.header_read.as_secs(), 1);
        check("", "body_idle_timeout_seconds = 2", |it| it.timeouts.body_idle.as_secs(), 2);
        let rate = |it: Config| it.timeouts.body_bytes_per_second_min;
        check("--body-bytes-per-second-min 0", "body_bytes_per_second_min = '2KiB'", rate, 0);
        check("", "body_bytes_per_second_min = '2KiB'", rate, 2048);
        check("", "idle_connection_timeout_seconds = 3", |it| it.timeouts.idle_connection.as_secs(), 3);
        check("--log-format json", "log_format = 'text'", |it| it.log_format, LogFormat::Json);
        check("--tls-handshake-timeout-seconds 4", "", |it| it.timeouts.tls_handshake.as_secs(), 4);
        let tls = Some(TlsFiles { cert: "c".into(), key: "k".into() });
        check("--tls-cert c", "tls_key = 'k'\ntls_cert = 'd'", |it| it.tls, tls);
        check("", "connections_max = 9", |it| it.callers.connections_max, 9);
        check("", "connections_per_address_max = 8", |it| it.callers.connections_per_address_max, 8);
        check("--loopback-exempt=false", "", |it| it.callers.loopback_exempt, false);
        check("", "header_bytes_max = '4KiB'", |it| it.heads.bytes_max, 4096);
        check("", "headers_max = 20", |it| it.heads.lines_max, 20);
        check("", "uri_bytes_max = 300", |it| it.heads.uri_bytes_max, 300);
        check("", "site_calls_per_second = 5", |it| it.callers.site_calls_per_second, NonZeroU32::new(5));
        check("--site-calls-per-second 0", "", |it| it.callers.site_calls_per_second, None);
        let failures = |it: Config| it.callers.failed_authorisations_per_minute;
        check("", "failed_authorisations_per_minute = 7", failures, NonZeroU32::new(7));
        let batch_calls =
            |it: Config| ["a", "b"].map(|code| it.client(&client(code)).unwrap().batch_calls_per_minute);
        let rates = |a, b| [NonZeroU32::new(a), NonZeroU32::new(b)];
        check("", "batch_calls_per_minute = 50", batch_calls, rates(50, 50));
        let file = "batch_calls_per_minute = 50\n[clients.a]\nbatch_calls_per_minute = 0\n[clients.b]";
        check("", file, batch_calls, rates(0, 50));
        check("--batch-calls-per-minute 9", file, batch_calls, rates(0, 9));
        let proxies =
            |it: Config| it.callers.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>();
        let file = "trusted_proxies = ['10.1.2.3/8', '::1']";
        check("", file, proxies, vec!["10.0.0.0/8".into(), "::1/128".into()]);
        check(
            "--trusted-proxies 127.0.0.1,::ffff:1.2.3.4",
            file,
            proxies,
            vec!["127.0.0.1/32".into(), "1.2.3.4/32".into()],
        );
        check("", "trusted_proxies = []", proxies, vec![]);
        check("--log warn,profiled::batch=debug", "log = 'off'", |it| it.log.0.len(), 26);
    }

    #[test]
    fn each_error_says_where_what_and_what_would_be_right() {
        #[track_caller]
        fn check(file: &str, expected: &str) {
            assert_eq!(resolve("", file).unwrap_err(), expected, "{file}");
        }
        check(
            "listen = '127.0.0.1:1'\n\nlifetime_days = 3",
            "profiled.toml line 3: unknown key `lifetime_days`, expected one of `listen`, `data`, `cache`, \
             `public_url`, `default_client`, `allow_anonymous`, `max_profile_bytes`, `spool_max_bytes`, \
             `retention_days`, `journal_segment_bytes`, `snapshot_journal_bytes`, `erase_within_hours`, \
             `disk_reserve_bytes`, `body_bytes_limit`, `rows_limit`, `concurrent_uploads_max`, `decode_ratio_max`, \
             `header_read_timeout_seconds`, `body_idle_timeout_seconds`, `body_bytes_per_second_min`, `tls_cert`, \
             `tls_key`, `tls_handshake_timeout_seconds`, `idle_connection_timeout_seconds`, `connections_max`, \
             `connections_per_address_max`, `loopback_exempt`, `header_bytes_max`, `headers_max`, `uri_bytes_max`, \
             `site_calls_per_second`, `failed_authorisations_per_minute`, `batch_calls_per_minute`, \
             `trusted_proxies`, `log`, `log_format`, `clients`",
        );
        check(
            "[clients.demo]\nlifetime_days = 3\nconsecutive = 'merge'",
            "profiled.toml line 3: unknown key `consecutive`, expected one of `ims_orgs`, `v2_creates_profiles`, \
             `consecutive_v2`, `lifetime_days`, `batch_calls_per_minute`",
        );
        let size = "such as 128MiB, 500MB or 1048576";
        check(
            "cache = '7MiB'",
            &format!("profiled.toml line 1: \"7MiB\" is not a size from 8MiB to 1TiB, {size}"),
        );
        check("\ncache = -1", &format!("profiled.toml line 2: -1 is not a size from 8MiB to 1TiB, {size}"));
        check(
            "cache = 1.5",
            &format!(
                "profiled.toml line 1: invalid type: floating point `1.5`, expected a size from 8MiB to 1TiB, {size}"
            ),
        );
        check("rows_limit = 0", "profiled.toml line 1: 0 is not a whole number from 1 to 20000000");
        check("rows_limit = '9'", "profiled.toml line 1: \"9\" is not a whole number from 1 to 20000000");
        check(
            "data = 'd'\nlisten = 'localhost'",
            "profiled.toml line 2: \"localhost\" is not an address and a port, such as 127.0.0.1:8750 or [::1]:8750",
        );
        check("allow_anonymous = 'true'", "profiled.toml line 1: \"true\" is not true or false");
        check("data = ''", "profiled.toml line 1: \"\" is not a path, such as \"./profiled-data\"");
        let url = "is not a URL without a query, such as https://profiles.example.com";
        for wrong in
            ["profiles.example.com", "ftp://a", "https://a?b", "https://a&b", "https://u@a", "http://", "x"]
        {
            check(&format!("public_url = '{wrong}'"), &format!("profiled.toml line 1: {wrong:?} {url}"));
        }
        let long = format!("https://{}.example", "x".repeat(64));
        check(
            &format!("public_url = '{long}'"),
            &format!(
                "profiled.toml line 1: {long:?} is not short enough: a public_url has at most 64 characters"
            ),
        );
        check(
            "default_client = 'a b'",
            "profiled.toml line 1: \"a b\" is not a client code: ' ' is not allowed",
        );
        check("[clients.\"a&b\"]", "profiled.toml line 1: \"a&b\" is not a client code: '&' is not allowed");
        check(
            "[clients.a]\nconsecutive_v2 = 'both'",
            "profiled.toml line 2: \"both\" is not \"merge\" or \"replace\"",
        );
        check(
            "[clients.a]\nlifetime_days = 3651",
            "profiled.toml line 2: 3651 is not a whole number from 1 to 3650",
        );
        check(
            "[clients.a]\nims_orgs = [\n  'A@AdobeOrg',\n  '']",
            "profiled.toml line 4: \"\" is not an organisation id, such as \"ABCDEF@AdobeOrg\"",
        );
        let filter =
            "a log filter: off, error, warn, info, debug, trace or target=level, several with commas";
        check("log = 'inof'", &format!("profiled.toml line 1: \"inof\" is not {filter}"));
        check("log = 'a=b=c'", &format!("profiled.toml line 1: \"a=b=c\" is not {filter}"));
        check("log = 1", &format!("profiled.toml line 1: 1 is not {filter}"));
        check(
            "\ntls_cert = 'c'",
            "profiled.toml line 2: tls_cert needs tls_key beside it: name both, or neither",
        );
        check(
            "trusted_proxies = [\n'10.0.0.0/33']",
            "profiled.toml line 2: \"10.0.0.0/33\" is not an address or a network, such as 127.0.0.1 or 10.0.0.0/8",
        );
        check("\n\nlisten =", "profiled.toml line 3: string values must be quoted, expected literal string");
        check("log = 'off'\nlog = 'off'", "profiled.toml line 2: duplicate key");
        check(
            "\nlisten = '0.0.0.0:8750'",
            "profiled.toml line 2: 0.0.0.0:8750 can be reached from other machines, and there are no tokens: \
             make one with `profiled token new`, listen on a loopback address such as 127.0.0.1:8750, or say --allow-anonymous",
        );
        check(
            "default_client = 'c'\n[clients.a]\n[clients.b]",
            "profiled.toml line 1: c is not a configured client: add [clients.c], or choose one of a, b",
        );
        check(
            "[clients.b]\nims_orgs = ['O@AdobeOrg']\n[clients.a]\nims_orgs = ['O@AdobeOrg']",
            "profiled.toml line 2: O@AdobeOrg stands under [clients.a] already: an organisation belongs to one client",
        );
    }

    #[test]
    fn an_error_in_a_flag_names_the_flag() {
        let anonymous = resolve("--listen 192.0.2.1:80", "").unwrap_err();
        assert!(
            anonymous.starts_with("--listen (PROFILED_LISTEN): 192.0.2.1:80 can be reached"),
            "{anonymous}"
        );
        let half = resolve("--tls-key k", "").unwrap_err();
        assert_eq!(
            half,
            "--tls-key (PROFILED_TLS_KEY): tls_key needs tls_cert beside it: name both, or neither"
        );
        let default = resolve("--default-client c", "[clients.a]").unwrap_err();
        assert!(default.starts_with("--default-client (PROFILED_DEFAULT_CLIENT): c is not"), "{default}");
        let Err(cache) = Serve::try_parse_from(["serve", "--cache", "1XB"]) else { panic!("1XB was taken") };
        let (cache, expected) =
            (cache.to_string(), "'--cache <SIZE>': \"1XB\" is not a size from 8MiB to 1TiB");
        assert!(cache.contains(expected), "{cache}");
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.toml");
        let options = ServeOptions { config: Some(path.clone()), ..ServeOptions::default() };
        let resolve = || Config::resolve(options.clone()).map_err(|e| e.to_string());
        let missing = "there is no such file: write it, or leave --config (PROFILED_CONFIG) out";
        assert_eq!(resolve().unwrap_err(), format!("{}: {missing}", path.display()));
        std::fs::write(&path, b"data = 'd'\n# \xff").unwrap();
        let expected = format!("{} line 2: this is not UTF-8: save the file as UTF-8", path.display());
        assert_eq!(resolve().unwrap_err(), expected);
        std::fs::write(&path, "data = 'd'").unwrap();
        assert_eq!(resolve().unwrap().data_folder, Path::new("d"));
        let options = ServeOptions { config: Some(folder.path().into()), ..ServeOptions::default() };
        assert!(matches!(Config::resolve(options), Err(ConfigError::Unreadable { .. })));
    }

    #[test]
    fn once_a_client_is_configured_others_are_not_served() {
        let file = "default_client = 'a'\n[clients.a]\nims_orgs = ['A@AdobeOrg', 'B@AdobeOrg']\n\
                    v2_creates_profiles = true\nconsecutive_v2 = 'replace'\nlifetime_days = 90\n[clients.b]";
        let config = resolve("", file).unwrap();
        let a = config.client(&client("a")).unwrap();
        assert!(a.v2_creates_profiles);
        assert_eq!((a.consecutive_v2, a.lifetime_ms), (ConsecutiveV2::Replace, 90 * DAY_MS));
        assert_eq!(config.client(&client("b")), Some(ClientSettings::default()));
        assert_eq!(config.client(&client("c")), None);
        assert_eq!(config.clients().count(), 2);
        assert_eq!(config.client_of_ims_org("B@AdobeOrg"), Some(&client("a")));
        assert_eq!(config.client_of_ims_org("C@AdobeOrg"), None);
    }

    #[test]
    fn every_setting_is_a_flag_and_a_variable_of_the_same_name() {
        let command = ServeOptions::augment_args(clap::Command::new("serve"));
        for argument in command.get_arguments() {
            let key = argument.get_id().as_str();
            let variable = format!("PROFILED_{}", key.to_uppercase());
            assert_eq!(argument.get_env(), Some(variable.as_ref()), "{key}");
            assert_eq!(argument.get_long(), Some(key.replace('_', "-").as_str()), "{key}");
        }
    }

    /// The environment of a running test can't be changed safely, so the test runs itself again in another.
    #[test]
    fn a_variable_beats_the_file_and_a_flag_beats_the_variable() {
        const NAME: &str = "config::tests::a_variable_beats_the_file_and_a_flag_beats_the_variable";
        if let Some("24MiB") = options("").cache.map(|it| shown(it.value.get())).as_deref() {
            assert_eq!(resolve("", "cache = '16MiB'").unwrap().cache_bytes, 24 * MIB);
            assert_eq!(resolve("--cache 32MiB", "cache = '16MiB'").unwrap().cache_bytes, 32 * MIB);
            assert!(resolve("--listen 0.0.0.0:0", "").unwrap().allow_anonymous);
            return;
        }
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact"])
            .env("PROFILED_CACHE", "24MiB")
            .env("PROFILED_ALLOW_ANONYMOUS", "true")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && output.contains("1 passed"), "{output}");
    }
}
