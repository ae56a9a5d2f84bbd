//! The settings of `serve`: defaults < file < environment < flag, resolved and checked before anything binds or opens.
//!
//! Promises: a [`Config`] that exists has been checked whole; an error names where the setting stands (file and line,
//! or the flag and its variable), what was wrong with it and what would be right. [`ServeOptions`] declares each
//! setting once: its fields are the flags, the variables `PROFILED_…` and the keys of the file. This is the only place
//! that reads the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::batch::{BatchReading, ConsecutiveV2};
use crate::model::blocked::{BLOCKED_BYTES_MAX, BLOCKED_IDS_MAX, BlockedIds};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

mod setting;
mod window;

use setting::{BlockedId, GIB, KIB, MIB, Plain, TIB};
pub use setting::{
    Given, ImsOrg, LogFilter, LogFormat, PUBLIC_URL_BYTES_MAX, Proxies, PublicUrl, Size, Whole,
};
pub use window::Window;

/// The file that is read if it is there and `--config` names no other.
pub const DEFAULT_FILE: &str = "profiled.toml";
const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 60 * 60 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8750);
const DATA_FOLDER: &str = "./profiled-data";
const CACHE_BYTES: u64 = 616 * MIB;
/// Of that, what a batch takes that is folded while another comes in, and what the store needs beside its cache.
const WORK_BYTES: u64 = 104 * MIB;
/// The part of it that the store's cache has at least.
const STORE_PART: u64 = 6;
/// The part of it that the file of a batch may take while it is folded.
const HELD_PART: u64 = 8;
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
const ANSWER_IDLE_TIMEOUT_SECONDS: u64 = 30;
const ANSWER_BYTES_PER_SECOND_MIN: u64 = KIB;
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
const CLOCK_AHEAD_MAX_SECONDS: u64 = 600;
const LOG: &str = "info";

/// What `serve` runs with: every setting resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    listen_place: Place,
    /// The folder that holds journal, spool, snapshots and store. Relative to the working folder.
    pub data_folder: PathBuf,
    /// What the store's cache and the folding of batches may take in memory.
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
    /// How fast batches are folded in, and when.
    pub ingest: Ingest,
    /// How far the machine's clock may leap ahead and be believed; none: as far as it likes.
    pub clock_ahead_max: Option<Duration>,
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

/// How fast batches are folded in, and when (R10).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingest {
    /// So many rows a second; none: as fast as it goes.
    pub rows_per_second_max: Option<NonZeroU32>,
    /// When; none: always.
    pub window: Option<Window>,
}

impl Ingest {
    /// How many rows a second may be folded in at that moment; none: as fast as it goes.
    pub fn rows_per_second_at(&self, now: Millis) -> Option<NonZeroU32> {
        self.rows_per_second_max.filter(|_| self.window.as_ref().is_none_or(|window| window.contains(now)))
    }
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
    /// For the bytes of a body.
    pub body: Pace,
    /// For those of an answer to be taken.
    pub answer: Pace,
    /// For the next request on a connection.
    pub idle_connection: Duration,
    /// For a TLS handshake.
    pub tls_handshake: Duration,
}

/// How fast a caller must bring bytes, or take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// It may pause for so long, and be slower for as long at first.
    pub idle_max: Duration,
    /// So many bytes for each second that it keeps the daemon waiting beyond that; 0 is no minimum.
    pub bytes_per_second_min: u64,
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
    /// How a batch file's raw characters are read.
    pub batch_reading: BatchReading,
    /// What may name no visitor: not sent in a site call, refused in a single update, a failed row in a batch.
    pub blocked_ids: BlockedIds,
    /// A profile expires this long after its last site call (R11).
    pub lifetime_ms: u64,
    /// The organisations that Adobe's SDKs send instead of a client code.
    pub ims_orgs: Arc<[ImsOrg]>,
    /// How many batch calls a minute it may make; none: as many as it likes.
    pub batch_calls_per_minute: Option<NonZeroU32>,
    /// A batch is folded in, and lookups show its rows, only so long after it was accepted: as Adobe's do.
    pub batch_shows_after_ms: u64,
    /// `batchStatus` knows a batch no longer than this after it was accepted; none: as long as it is kept.
    pub status_kept_ms: Option<u64>,
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
    /// Memory for the store's cache and for folding batches [default: 616MiB]
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
    /// Seconds for the next bytes of an answer to be taken [default: 30]
    #[arg(long, env = "PROFILED_ANSWER_IDLE_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub answer_idle_timeout_seconds: Option<Given<Whole<1, 3600>>>,
    /// Bytes per second of an answer that must be taken, after as many seconds as it may lie; 0: any [default: 1KiB]
    #[arg(long, env = "PROFILED_ANSWER_BYTES_PER_SECOND_MIN", value_name = "SIZE")]
    pub answer_bytes_per_second_min: Option<Given<Size<0, GIB>>>,
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
    /// Seconds after which lookups show a batch's rows and it can be complete: what Adobe's takes minutes or hours for
    /// [default: 0]
    #[arg(long, env = "PROFILED_BATCH_SHOWS_AFTER_SECONDS", value_name = "SECONDS")]
    pub batch_shows_after_seconds: Option<Given<Whole<0, 604_800>>>,
    /// Seconds after which batchStatus knows a batch no more; 0: as long as it is kept [default: 0]
    #[arg(long, env = "PROFILED_STATUS_KEPT_SECONDS", value_name = "SECONDS")]
    pub status_kept_seconds: Option<Given<Whole<0, 315_360_000>>>,
    /// Proxies whose X-Forwarded-For, -Proto and -Host count: addresses or networks, several with commas
    #[arg(long, env = "PROFILED_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<Given<Proxies>>>,
    /// Seconds by which the machine's clock may leap ahead and be believed; 0: any number [default: 600]
    #[arg(long, env = "PROFILED_CLOCK_AHEAD_MAX_SECONDS", value_name = "SECONDS")]
    pub clock_ahead_max_seconds: Option<Given<Whole<0, 315_360_000>>>,
    /// What is logged: off, error, warn, info, debug, trace, or target=level, several with commas [default: info]
    #[arg(long, env = "PROFILED_LOG", value_name = "FILTER")]
    pub log: Option<Given<LogFilter>>,
    /// How log lines are written: text, or json for programs [default: text]
    #[arg(long, env = "PROFILED_LOG_FORMAT", value_name = "text|json")]
    pub log_format: Option<Given<LogFormat>>,
    /// How fast batches are folded in, and when; only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub ingest: IngestTable,
    /// The clients that are served; only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub clients: ClientTables,
}

/// The `[ingest]` table as given.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestTable {
    max_rows_per_second: Option<Given<Whole<1, 100_000_000>>>,
    window: Option<Given<Window>>,
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
    batch_reading: Option<Given<BatchReading>>,
    blocked_ids: Option<Vec<Given<BlockedId>>>,
    lifetime_days: Option<Given<Whole<1, 3650>>>,
    batch_calls_per_minute: Option<Given<Whole<0, 1_000_000>>>,
    batch_shows_after_seconds: Option<Given<Whole<0, 604_800>>>,
    status_kept_seconds: Option<Given<Whole<0, 315_360_000>>>,
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
    /// A window in which nothing is slowed.
    #[error(
        "{place}: a window needs max_rows_per_second beside it: how many rows a second are folded in meanwhile"
    )]
    WindowAlone {
        /// Where it stands.
        place: Place,
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
    /// A client's `blocked_ids` are too many: each batch's journal entry has them.
    #[error(
        "{place}: blocked_ids are at most {BLOCKED_IDS_MAX}, of {BLOCKED_BYTES_MAX} bytes together: list values that stand for \
         nobody, not visitors"
    )]
    BlockedTooMany {
        /// Where the last of them stands.
        place: Place,
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
    /// What of `cache_bytes` is for the store's cache.
    pub fn store_cache_bytes(&self) -> u64 {
        self.cache_bytes.saturating_sub(WORK_BYTES).max(self.cache_bytes / STORE_PART)
    }

    /// How large the file of a batch may be that is held in memory while it is folded.
    pub fn held_bytes_max(&self) -> u64 {
        self.cache_bytes / HELD_PART
    }

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

    /// The shortest lifetime of any client's profiles.
    pub fn lifetime_ms_min(&self) -> u64 {
        let lifetimes = self.clients.values().map(|client| client.lifetime_ms);
        lifetimes.min().unwrap_or(self.any_client.lifetime_ms)
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
            batch_shows_after_ms: value(&given.batch_shows_after_seconds).map_or(0, Whole::get) * SECOND_MS,
            status_kept_ms: kept_ms(value(&given.status_kept_seconds).map_or(0, Whole::get)),
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
                body: Pace {
                    idle_max: seconds(&given.body_idle_timeout_seconds, BODY_IDLE_TIMEOUT_SECONDS),
                    bytes_per_second_min: value(&given.body_bytes_per_second_min)
                        .map_or(BODY_BYTES_PER_SECOND_MIN, Size::get),
                },
                answer: Pace {
                    idle_max: seconds(&given.answer_idle_timeout_seconds, ANSWER_IDLE_TIMEOUT_SECONDS),
                    bytes_per_second_min: value(&given.answer_bytes_per_second_min)
                        .map_or(ANSWER_BYTES_PER_SECOND_MIN, Size::get),
                },
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
            ingest: ingest(&given.ingest, &file)?,
            clock_ahead_max: kept_ms(
                value(&given.clock_ahead_max_seconds).map_or(CLOCK_AHEAD_MAX_SECONDS, Whole::get),
            )
            .map(Duration::from_millis),
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
            batch_reading: BatchReading::default(),
            blocked_ids: BlockedIds::default(),
            lifetime_ms: LIFETIME_DAYS * DAY_MS,
            ims_orgs: Arc::default(),
            batch_calls_per_minute: None,
            batch_shows_after_ms: 0,
            status_kept_ms: None,
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
            answer_idle_timeout_seconds: self
                .answer_idle_timeout_seconds
                .or(lower.answer_idle_timeout_seconds),
            answer_bytes_per_second_min: self
                .answer_bytes_per_second_min
                .or(lower.answer_bytes_per_second_min),
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
            batch_shows_after_seconds: self.batch_shows_after_seconds.or(lower.batch_shows_after_seconds),
            status_kept_seconds: self.status_kept_seconds.or(lower.status_kept_seconds),
            trusted_proxies: self.trusted_proxies.or(lower.trusted_proxies),
            clock_ahead_max_seconds: self.clock_ahead_max_seconds.or(lower.clock_ahead_max_seconds),
            log: self.log.or(lower.log),
            log_format: self.log_format.or(lower.log_format),
            ingest: lower.ingest,
            clients: lower.clients,
        }
    }
}

/// Where a supervisor wants to be told how the daemon is, and how often at least: what systemd puts into the environment
/// of a service with `Type=notify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    /// A datagram socket: a path, or a name that begins with `@`.
    pub socket: OsString,
    /// It must hear of the daemon within each of these, or ends it; none: it need not.
    pub watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that started this process, if one did.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn of_this_process() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let (period, process) = (std::env::var("WATCHDOG_USEC").ok(), std::env::var("WATCHDOG_PID").ok());
        let watchdog = Self::watchdog(period.as_deref(), process.as_deref(), std::process::id());
        Some(Self { socket, watchdog })
    }

    /// The period, if it is meant for this process: the variables may be those of its parent.
    fn watchdog(period_us: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
        let meant = process.is_none_or(|process| process.parse() == Ok(own));
        let period = period_us?.parse().ok().filter(|period| *period > 0)?;
        meant.then_some(Duration::from_micros(period))
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

/// How long something is kept as it is given: 0 is without a limit of its own.
fn kept_ms(seconds: u64) -> Option<u64> {
    (seconds > 0).then_some(seconds * SECOND_MS)
}

fn ingest(table: &IngestTable, file: &File) -> Result<Ingest, ConfigError> {
    match (&table.max_rows_per_second, &table.window) {
        (None, Some(window)) => Err(ConfigError::WindowAlone { place: file.place(window, "window") }),
        (rows, window) => {
            Ok(Ingest { rows_per_second_max: rate(value(rows).map_or(0, Whole::get)), window: value(window) })
        }
    }
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
            batch_reading: value(&table.batch_reading).unwrap_or(default.batch_reading),
            blocked_ids: match &table.blocked_ids {
                Some(these) => {
                    let blocked = BlockedIds::these(these.iter().map(|id| &id.value.0));
                    let last = these
                        .last()
                        .filter(|_| these.len() > BLOCKED_IDS_MAX || blocked.bytes() > BLOCKED_BYTES_MAX);
                    if let Some(last) = last {
                        return Err(ConfigError::BlockedTooMany { place: file.place(last, "blocked_ids") });
                    }
                    blocked
                }
                None => default.blocked_ids.clone(),
            },
            lifetime_ms: value(&table.lifetime_days).map_or(default.lifetime_ms, |days| days.get() * DAY_MS),
            ims_orgs: table.ims_orgs.iter().map(|org| org.value.clone()).collect(),
            batch_calls_per_minute: value(&table.batch_calls_per_minute)
                .map_or(default.batch_calls_per_minute, |calls| rate(calls.get())),
            batch_shows_after_ms: value(&table.batch_shows_after_seconds)
                .map_or(default.batch_shows_after_ms, |seconds| seconds.get() * SECOND_MS),
            status_kept_ms: value(&table.status_kept_seconds)
                .map_or(default.status_kept_ms, |seconds| kept_ms(seconds.get())),
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
mod tests;
