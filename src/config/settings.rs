//! Every setting, declared once: key, field, type with bounds, default, where it may be set, when a new value counts.
//!
//! To add one, add an item here. The flag, the variable, the parser, its errors, `--help`, [the page of
//! settings](../../docs/settings.md) and the example file follow; CONTRIBUTING.md says how to write the last two anew.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::declare::{Given, Group, settings};
use super::declared::{Changes, Declared, SetIn};
use super::error::ConfigError;
use super::value::{
    AtLeastOne, Blocked, BucketUrl, Count, DaysInMs, Endpoint, Few, FilePath, Filter, GIB, Hours, HoursInMs,
    ImsOrg, KIB, List, LogFilter, LogFormat, MIB, Maybe, Milliseconds, Network, NodeName, Number, OrderUrl,
    Plain, PublicUrl, Rate, Region, Seconds, SecondsInMs, SecondsInMsOrNone, SecondsOrNone, Setting, Size,
    TIB, TopicName,
};
use super::window::Window;
use crate::model::batch::{BatchReading, ConsecutiveV2};
use crate::model::blocked::BlockedIds;
use crate::model::id::ClientCode;

/// Settings that belong together: a heading of `--help` and of the docs.
pub(super) struct Section {
    /// The heading.
    pub(super) title: &'static str,
    /// The table of the file, in front of its first key.
    pub(super) table: Table,
    pub(super) settings: &'static [Declared],
}

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The file itself.
    Top,
    /// `[ingest]`
    Ingest,
    /// `[clients.NAME]`
    Client,
    /// `[cluster]`
    Cluster,
}

/// All settings.
pub(super) static SECTIONS: [Section; 11] = [
    Section::of::<Server>("Where the daemon listens, and what it keeps", Table::Top),
    Section::of::<Https>("HTTPS", Table::Top),
    Section::of::<Upkeep>("What is kept, and how long", Table::Top),
    Section::of::<Backups>("Backups that the daemon makes by itself", Table::Top),
    Section::of::<Limits>("How large a batch or a profile may be", Table::Top),
    Section::of::<Callers>("How much a caller may use", Table::Top),
    Section::of::<HeadLimits>("How large the header of a request may be", Table::Top),
    Section::of::<Timeouts>("How long a caller may take", Table::Top),
    Section::of::<Ingest>("Slowing batches in business hours", Table::Ingest),
    Section::of::<ClientSettings>("Clients", Table::Client),
    Section::of::<ClusterNode>("Several nodes over Kafka", Table::Cluster),
];

impl Section {
    const fn of<G: Group>(title: &'static str, table: Table) -> Self {
        Self { title, table, settings: G::SETTINGS }
    }
}

settings! {
    /// Where the daemon listens, and what it keeps.
    pub struct Server {
        /// Address and port to listen on. Port 0 picks a free port.
        "listen" => listen: SocketAddr as SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8750),
            "ADDRESS:PORT", Anything, AtStart;
        /// Folder that holds all data.
        "data" => data_folder: PathBuf as FilePath = FilePath::of("./profiled-data"),
            "FOLDER", Anything, AtStart;
        /// Memory for the store's cache and for applying batches.
        "cache" => cache_bytes: u64 as Size<{ 8 * MIB }, TIB> = Size::of(616 * MIB),
            "SIZE", Anything, AtStart;
        /// Start of status URLs. At most 64 characters.
        "public_url" => public_url: Option<PublicUrl> as Maybe<PublicUrl> =
            Maybe::none("the host that was called", r#""https://profiles.example.com""#), "URL", Anything, AtSighup;
        /// Client of a site call that names no client.
        "default_client" => default_client: Option<ClientCode> as Maybe<ClientCode> =
            Maybe::none("none", r#""demo""#), "CLIENT", Anything, AtSighup;
        /// Serve without tokens on an address that other machines can reach.
        "allow_anonymous" => allow_anonymous: bool as bool = false,
            "true|false", Anything, AtStart;
        /// Seconds by which the machine's clock may jump ahead before the daemon doubts it. 0: no limit.
        "clock_ahead_max_seconds" => clock_ahead_max: Option<Duration> as Number<SecondsOrNone, 0, 315_360_000> =
            Number::of(600), "SECONDS", Anything, AtSighup;
        /// What to log: off, error, warn, info, debug, trace, or target=level. Separate several with commas.
        "log" => log: LogFilter as Filter = Filter::of("info"),
            "FILTER", Anything, AtStart;
        /// Format of log lines. json is for programs.
        "log_format" => log_format: LogFormat as LogFormat = LogFormat::Text,
            "text|json", Anything, AtStart;
    }
}

settings! {
    /// The certificate for HTTPS. Without one the daemon speaks plain HTTP.
    pub struct Https {
        /// File with the certificate, in PEM, followed by the certificates that lead to its root. SIGHUP reads the file again.
        "tls_cert" => cert: Option<PathBuf> as Maybe<FilePath> =
            Maybe::none("none", r#""/etc/profiled/cert.pem""#), "FILE", Anything, AtStart;
        /// File with the certificate's private key, in PEM. SIGHUP reads the file again.
        "tls_key" => key: Option<PathBuf> as Maybe<FilePath> =
            Maybe::none("none", r#""/etc/profiled/key.pem""#), "FILE", Anything, AtStart;
    }
}

settings! {
    /// What is kept on the disk, and how long.
    #[derive(Copy)]
    pub struct Upkeep {
        /// Days for which a complete batch's file and outcomes are kept.
        "retention_days" => retention_ms: u64 as Number<DaysInMs, 0, 3650> = Number::of(30),
            "DAYS", Anything, AtSighup;
        /// Refuse writes while the disk has less free space than this: status 507.
        "disk_reserve_bytes" => disk_reserve_bytes: u64 as Size<0, TIB> = Size::of(256 * MIB),
            "SIZE", Anything, AtSighup;
        /// Size of a new journal segment.
        "journal_segment_bytes" => journal_segment_bytes: u64 as Size<{ 64 * KIB }, GIB> = Size::of(64 * MIB),
            "SIZE", Anything, AtStart;
        /// Take a snapshot when the journal has grown by this much.
        "snapshot_journal_bytes" => snapshot_journal_bytes: u64 as Size<{ 64 * KIB }, TIB> = Size::of(GIB),
            "SIZE", Anything, AtSighup;
        /// Hours within which an erased visitor's bytes leave the disk.
        "erase_within_hours" => erase_within_ms: u64 as Number<HoursInMs, 0, 8760> = Number::of(24),
            "HOURS", Anything, AtSighup;
    }
}

settings! {
    /// The backups that the daemon makes by itself.
    pub struct Backups {
        /// Folder in which the daemon makes a backup every backup_every_hours. It must exist, outside the data folder.
        "backup_folder" => folder: Option<PathBuf> as Maybe<FilePath> =
            Maybe::none("none: no backups", r#""/var/backups/profiled""#), "FOLDER", Anything, AtSighup;
        /// Place in S3-compatible storage in which the daemon makes its backups, instead of a folder.
        "backup_url" => url: Option<BucketUrl> as Maybe<BucketUrl> =
            Maybe::none("none: no backups", r#""s3://backups/profiled""#), "URL", Anything, AtSighup;
        /// Hours from one backup to the next.
        "backup_every_hours" => every: Duration as Number<Hours, 1, 8760> = Number::of(24),
            "HOURS", Anything, AtSighup;
        /// How many of these backups are kept. After a new one the oldest are removed.
        "backups_kept" => kept: usize as Number<Count, 1, 10_000> = Number::of(7),
            "BACKUPS", Anything, AtSighup;
        /// Where the storage answers, if it is not Amazon's.
        "s3_endpoint" => endpoint: Option<Endpoint> as Maybe<Endpoint> =
            Maybe::none("Amazon S3", r#""https://storage.example.com""#), "URL", Anything, AtSighup;
        /// Region of the bucket.
        "s3_region" => region: Option<Region> as Maybe<Region> =
            Maybe::none("that of AWS_REGION, else us-east-1", r#""eu-west-1""#), "REGION", Anything, AtSighup;
        /// Take an s3_endpoint that begins with http://. All profiles then cross the network unencrypted.
        "s3_allow_http" => allow_http: bool as bool = false,
            "true|false", Anything, AtSighup;
    }
}

settings! {
    /// How large a batch or a profile may be (R9).
    #[derive(Copy)]
    pub struct Limits {
        /// Refuse batches of this many decoded bytes or more: status 413.
        "body_bytes_limit" => body_bytes_limit: u64 as Size<1, GIB> = Size::of(52_428_800),
            "SIZE", Anything, AtSighup;
        /// Refuse batches of more rows than this: status 413.
        "rows_limit" => rows_limit: u64 as Number<Plain, 1, 20_000_000> = Number::of(500_000),
            "ROWS", Anything, AtSighup;
        /// Most bytes that a profile's names and values may have.
        "max_profile_bytes" => profile_bytes_max: u64 as Size<KIB, { 64 * MIB }> = Size::of(MIB),
            "SIZE", Anything, AtSighup;
        /// Most bytes that kept uploads may take on the disk. Further uploads get status 507.
        "spool_max_bytes" => spool_bytes_max: u64 as Size<1, { 1024 * TIB }> = Size::of(20 * GIB),
            "SIZE", Anything, AtSighup;
        /// Refuse compressed uploads that grow to more than this many times their size: status 413.
        // Batch files of different visitors were measured to reach 5 to 80, gzip or zstd; 200 columns of which one is
        // filled, 52; the same 1,000 characters for all visitors, 155 with gzip and 600 with zstd. Zeros reach 1,029 and
        // 30,000.
        "decode_ratio_max" => decode_ratio_max: u64 as Number<Plain, 1, 1_000_000> = Number::of(1000),
            "TIMES", Anything, AtSighup;
        /// Most batches that are uploaded at once. Further uploads get status 503.
        "concurrent_uploads_max" => concurrent_uploads_max: usize as Number<Count, 1, 1024> = Number::of(32),
            "UPLOADS", Anything, AtSighup;
    }
}

settings! {
    /// How much of the daemon callers may use, all together and each.
    pub struct Callers {
        /// Most connections at once. Further ones wait. There are fewer if the system allows too few open files.
        "connections_max" => connections_max: usize as Number<Count, 1, 1_000_000> = Number::of(8_192),
            "CONNECTIONS", Anything, AtSighup;
        /// Most connections at once from one address (IPv6: from its /64). Further ones get status 429.
        "connections_per_address_max" => connections_per_address_max: usize as Number<Count, 1, 1_000_000> =
            Number::of(1_024), "CONNECTIONS", Anything, AtSighup;
        /// Exempt callers on this machine from the limits per address.
        "loopback_exempt" => loopback_exempt: bool as bool = true,
            "true|false", Anything, AtSighup;
        /// Most site calls a second from one address (IPv6: from its /64); further ones get status 429. 0: no limit.
        "site_calls_per_second" => site_calls_per_second: Option<NonZeroU32> as Number<Rate, 0, 1_000_000> =
            Number::of(1_000), "CALLS", Anything, AtSighup;
        /// Most failed authorisations a minute from one address; then its calls get status 429. 0: no limit.
        "failed_authorisations_per_minute" => failed_authorisations_per_minute: Option<NonZeroU32> as Number<Rate, 0, 1_000_000> =
            Number::of(60), "FAILURES", Anything, AtSighup;
        /// Proxies whose X-Forwarded-For, -Proto and -Host headers are trusted.
        "trusted_proxies" => trusted_proxies: Arc<[IpNet]> as List<Network> = List::none(r#"["127.0.0.1"]"#),
            "NETWORKS", Anything, AtSighup;
    }
}

settings! {
    /// How large the header of a request may be.
    #[derive(Copy)]
    pub struct HeadLimits {
        /// Most bytes of a request's header, with the request line: else status 431.
        "header_bytes_max" => bytes_max: usize as Size<KIB, { 256 * KIB }, Count> = Size::of(80 * KIB),
            "SIZE", Anything, AtSighup;
        /// Most lines of a request's header, without the request line: else status 431.
        "headers_max" => lines_max: usize as Number<Count, 8, 1_000> = Number::of(100),
            "LINES", Anything, AtSighup;
        /// Most bytes of a request's path with its query: else status 414.
        "uri_bytes_max" => uri_bytes_max: usize as Size<256, 65_000, Count> = Size::of(32 * KIB),
            "SIZE", Anything, AtSighup;
    }
}

settings! {
    /// How long a connection may keep the daemon waiting.
    #[derive(Copy)]
    pub struct Timeouts {
        /// Seconds for a request's header to arrive; then the connection is closed.
        "header_read_timeout_seconds" => header_read: Duration as Number<Seconds, 1, 3600> = Number::of(10),
            "SECONDS", Anything, AtSighup;
        /// Seconds for the next bytes of a body to arrive: else status 408.
        "body_idle_timeout_seconds" => body_idle_max: Duration as Number<Seconds, 1, 3600> = Number::of(30),
            "SECONDS", Anything, AtSighup;
        /// Bytes per second that a body must bring, once it has been slower for body_idle_timeout_seconds. 0: no minimum.
        "body_bytes_per_second_min" => body_bytes_per_second_min: u64 as Size<0, GIB> = Size::of(KIB),
            "SIZE", Anything, AtSighup;
        /// Seconds for the caller to read the next bytes of an answer; then the connection is closed.
        "answer_idle_timeout_seconds" => answer_idle_max: Duration as Number<Seconds, 1, 3600> =
            Number::of(30), "SECONDS", Anything, AtSighup;
        /// Bytes per second of an answer that the caller must read, once it has been slower for
        /// answer_idle_timeout_seconds. 0: no minimum.
        "answer_bytes_per_second_min" => answer_bytes_per_second_min: u64 as Size<0, GIB> = Size::of(KIB),
            "SIZE", Anything, AtSighup;
        /// Seconds for the next request on a connection; then the connection is closed.
        "idle_connection_timeout_seconds" => idle_connection: Duration as Number<Seconds, 1, 3600> =
            Number::of(60), "SECONDS", Anything, AtSighup;
        /// Seconds for a TLS handshake; then the connection is closed.
        "tls_handshake_timeout_seconds" => tls_handshake: Duration as Number<Seconds, 1, 3600> =
            Number::of(10), "SECONDS", Anything, AtSighup;
    }
}

settings! {
    /// How fast batches are applied, and when (R10).
    pub struct Ingest {
        /// Most rows a second that are applied to the store.
        "max_rows_per_second" => rows_per_second_max: Option<NonZeroU32> as Maybe<Number<AtLeastOne, 1, 100_000_000>> =
            Maybe::none("no limit", "20000"), "ROWS", Table, AtSighup;
        /// When that limit holds. The window may go on past midnight.
        "window" => window: Option<Window> as Maybe<Window> =
            Maybe::none("always", r#""Mon-Fri 08:00-18:00 Europe/Paris""#), "WINDOW", Table, AtSighup;
    }
}

settings! {
    /// What may differ from client to client.
    pub struct ClientSettings {
        /// Organisations that Adobe's SDKs send instead of a client code.
        "ims_orgs" => ims_orgs: Arc<[ImsOrg]> as List<ImsOrg> = List::none(r#"["ABCDEF@AdobeOrg"]"#),
            "ORGANISATIONS", Table, AtSighup;
        /// Let v2 batches create unknown visitors.
        "v2_creates_profiles" => v2_creates_profiles: bool as bool = false,
            "true|false", Table, AtSighup;
        /// What a v2 batch does to the v2 batch before it. "merge": it overrides the attributes that it has.
        /// "replace", Adobe's caveat: it replaces all that earlier v2 batches set since the visitor's last site call.
        "consecutive_v2" => consecutive_v2: ConsecutiveV2 as ConsecutiveV2 = ConsecutiveV2::Merge,
            "merge|replace", Table, AtSighup;
        /// How to read unencoded % and & in a batch file. "kind": a bad escape fails its row, and & is a character.
        /// "adobe": a bad escape refuses the batch, and & ends the file.
        "batch_reading" => batch_reading: BatchReading as BatchReading = BatchReading::Kind,
            "kind|adobe", Table, AtSighup;
        /// Ids that mean "no id", instead of the default list. At most 100, of 4 KiB together.
        "blocked_ids" => blocked_ids: BlockedIds as Blocked = Blocked::by_default(),
            "IDS", Table, AtSighup;
        /// Days after its last site call when a profile expires.
        "lifetime_days" => lifetime_ms: u64 as Number<DaysInMs, 1, 3650> = Number::of(14),
            "DAYS", Table, AtSighup;
        /// Earlier values of each attribute that a profile keeps, of all attributes together 64 KiB at most. 0: none.
        "history_max" => history_max: u16 as Number<Few, 0, 1000> = Number::of(16),
            "VALUES", Table, AtSighup;
        /// Most batch calls a minute of one client; further ones get status 503. 0: no limit.
        "batch_calls_per_minute" => batch_calls_per_minute: Option<NonZeroU32> as Number<Rate, 0, 1_000_000> =
            Number::of(0), "CALLS", Anything, AtSighup;
        /// Seconds after which lookups show a batch's rows and the batch can be complete. Adobe needs minutes or hours.
        "batch_shows_after_seconds" => batch_shows_after_ms: u64 as Number<SecondsInMs, 0, 604_800> =
            Number::of(0), "SECONDS", Anything, AtSighup;
        /// Seconds after which batchStatus forgets a batch. 0: when the batch is deleted.
        "status_kept_seconds" => status_kept_ms: Option<u64> as Number<SecondsInMsOrNone, 0, 315_360_000> =
            Number::of(0), "SECONDS", Anything, AtSighup;
    }
}

settings! {
    /// What makes a daemon one node of several.
    pub struct ClusterNode {
        /// The order that the nodes share: the address of some Kafka brokers, and what the topics' names begin with.
        "order" => order: Option<OrderUrl> as Maybe<OrderUrl> =
            Maybe::none("none: a single daemon", r#""kafka://k1:9092,k2:9092,k3:9092/profiled""#), "URL", Anything, AtStart;
        /// Name of this node. No two nodes of an order share one.
        "node" => node: Option<NodeName> as Maybe<NodeName> = Maybe::none("none", r#""a""#), "NAME", Anything, AtStart;
        /// Where the other nodes reach this one.
        "advertise" => advertise: Option<PublicUrl> as Maybe<PublicUrl> =
            Maybe::none("the address that the daemon listens on", r#""http://10.0.0.7:8750""#), "URL", Anything, AtStart;
        /// Seconds for which a node may be cut off from the order or behind it before /readyz says no.
        "not_ready_after_seconds" => not_ready_after: Duration as Number<Seconds, 1, 3600> = Number::of(5),
            "SECONDS", Anything, AtSighup;
        /// Milliseconds for which a request waits for others, to share a record of the order with them.
        "gather_ms" => gather: Duration as Number<Milliseconds, 0, 3> = Number::of(0),
            "MILLISECONDS", Anything, AtStart;
        /// Make and take topics with fewer than three replicas. One broker that is lost may then lose writes.
        "allow_fewer_replicas" => allow_fewer_replicas: bool as bool = false,
            "true|false", Anything, AtStart;
        /// Take topics without flush.messages=1. A power cut that hits all brokers at once may then lose writes.
        "trust_replication" => trust_replication: bool as bool = false,
            "true|false", Anything, AtStart;
        /// Topic to which the changes of all clients go as well. The node that passes them on is the first one that has this
        /// setting.
        "changes_topic" => changes_topic: Option<TopicName> as Maybe<TopicName> =
            Maybe::none("none", r#""profiled.changes""#), "NAME", Anything, AtStart;
        /// Hours for which the order keeps what a node needs that does not report. A node that was away for longer gets a
        /// snapshot from another one.
        "wait_for_node_hours" => wait_for_node: Duration as Number<Hours, 1, 8760> = Number::of(24),
            "HOURS", Anything, AtStart;
        /// File with an admin token, by which the nodes ask each other for snapshots, files of batches and outcomes.
        "peer_token_file" => peer_token_file: Option<PathBuf> as Maybe<FilePath> =
            Maybe::none("none: the nodes ask without a token", r#""/etc/profiled/peer-token""#), "FILE", Anything, AtStart;
    }
}

/// How fast a caller must send bytes, or read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// It may pause for this long, and be slower for this long at first.
    pub idle_max: Duration,
    /// Bytes for each second that it keeps the daemon waiting beyond that; 0 is no minimum.
    pub bytes_per_second_min: u64,
}

impl Timeouts {
    /// How fast a body must arrive.
    pub fn body(&self) -> Pace {
        Pace { idle_max: self.body_idle_max, bytes_per_second_min: self.body_bytes_per_second_min }
    }

    /// How fast an answer must be read.
    pub fn answer(&self) -> Pace {
        Pace { idle_max: self.answer_idle_max, bytes_per_second_min: self.answer_bytes_per_second_min }
    }
}

impl Callers {
    /// Whether a caller is exempt from the limits per address.
    pub fn spares(&self, address: IpAddr) -> bool {
        self.loopback_exempt && address.to_canonical().is_loopback()
    }

    /// Whether a caller is a proxy that is trusted to say whom it calls for.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}
