//! The daemon's counters in the text format of OpenMetrics: requests, limits, connections, uploads, rows.
//!
//! Promises: the number of series is bounded. All label values come from lists in the code, except client codes; the
//! first [`CLIENTS_MAX`] clients have their own series. A client's series are shown only to callers who may see that
//! client.

use crate::sync::{Mutex, MutexGuard, lock};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::process::ProcessVitals;
use crate::model::batch::{Counts, Outcome};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// The media type of the text from [`Metrics::render`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The most clients with their own series. Without configured clients a call may name any client.
const CLIENTS_MAX: usize = 1_000;
/// The label for all further clients. No client code contains a parenthesis.
const OTHER_CLIENTS: &str = "(other)";
/// The upper bounds of the request time histogram, in seconds.
const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The upper bounds of the histograms of journal syncs and lookups, in seconds.
const SHORT_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A limit that keeps one caller from using up what others need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// The time for a request's header to arrive.
    HeaderReadTimeout,
    /// The longest pause within a body.
    BodyIdleTimeout,
    /// The slowest rate at which a body may arrive.
    BodyRate,
    /// The time a connection may be idle between requests.
    IdleConnection,
    /// The time a client may leave an answer unread.
    AnswerUnread,
    /// The slowest rate at which a client may read an answer.
    AnswerRate,
    /// Concurrent connections.
    Connections,
    /// Concurrent connections from one address.
    ConnectionsPerAddress,
    /// The size of a request's header, in bytes.
    HeaderSize,
    /// The number of header lines.
    HeaderCount,
    /// The length of a request's path and query, in bytes.
    UriLength,
    /// Concurrent uploads.
    ConcurrentUploads,
    /// Concurrent exports.
    ConcurrentExports,
    /// Concurrent erasures of many visitors.
    ConcurrentErasures,
    /// Concurrent feeds of changes.
    ConcurrentChanges,
    /// The disk space of kept uploads, in bytes.
    SpoolBytes,
    /// Concurrent downloads of batch reports.
    ConcurrentReports,
    /// Waiting dry runs.
    ConcurrentDryRuns,
    /// Waiting searches for lines.
    ConcurrentLineSearches,
    /// Waiting counts of visitors.
    ConcurrentCounts,
    /// Waiting compactions and backups.
    ConcurrentTasks,
    /// Open event streams.
    EventStreams,
    /// Concurrent JSON site calls with large bodies.
    ConcurrentLargeCalls,
    /// A caller with more than its share lost a slot to another caller.
    MadeRoom,
    /// The rate of batch calls of one client.
    ClientRate,
    /// The rate of site calls from one address.
    AddressRate,
    /// Failed authorisations from one address.
    FailedAuthorisations,
    /// The size of a decoded body, in bytes.
    BodyBytes,
    /// The number of rows in a batch.
    Rows,
    /// The ratio of a body's decoded size to its compressed size.
    DecodeRatio,
    /// A connection could not be accepted, mostly because file handles ran out.
    AcceptBackoff,
    /// The time for a TLS handshake.
    TlsHandshake,
    /// The disk space that the daemon leaves free, in bytes.
    DiskReserve,
}

impl Limit {
    /// All limits.
    pub const ALL: [Self; 33] = [
        Self::HeaderReadTimeout,
        Self::BodyIdleTimeout,
        Self::BodyRate,
        Self::IdleConnection,
        Self::AnswerUnread,
        Self::AnswerRate,
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::HeaderSize,
        Self::HeaderCount,
        Self::UriLength,
        Self::ConcurrentUploads,
        Self::ConcurrentExports,
        Self::ConcurrentErasures,
        Self::ConcurrentChanges,
        Self::ConcurrentReports,
        Self::ConcurrentDryRuns,
        Self::ConcurrentLineSearches,
        Self::ConcurrentCounts,
        Self::ConcurrentTasks,
        Self::EventStreams,
        Self::ConcurrentLargeCalls,
        Self::MadeRoom,
        Self::SpoolBytes,
        Self::ClientRate,
        Self::AddressRate,
        Self::FailedAuthorisations,
        Self::BodyBytes,
        Self::Rows,
        Self::DecodeRatio,
        Self::AcceptBackoff,
        Self::TlsHandshake,
        Self::DiskReserve,
    ];

    /// The value of the label `limit`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HeaderReadTimeout => "header_read_timeout",
            Self::BodyIdleTimeout => "body_idle_timeout",
            Self::BodyRate => "body_rate",
            Self::IdleConnection => "idle_connection",
            Self::AnswerUnread => "answer_unread",
            Self::AnswerRate => "answer_rate",
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::HeaderSize => "header_size",
            Self::HeaderCount => "header_count",
            Self::UriLength => "uri_length",
            Self::ConcurrentUploads => "concurrent_uploads",
            Self::ConcurrentExports => "concurrent_exports",
            Self::ConcurrentErasures => "concurrent_erasures",
            Self::ConcurrentChanges => "concurrent_changes",
            Self::ConcurrentReports => "concurrent_reports",
            Self::ConcurrentDryRuns => "concurrent_dry_runs",
            Self::ConcurrentLineSearches => "concurrent_line_searches",
            Self::ConcurrentCounts => "concurrent_counts",
            Self::ConcurrentTasks => "concurrent_chores",
            Self::EventStreams => "event_streams",
            Self::ConcurrentLargeCalls => "concurrent_large_calls",
            Self::MadeRoom => "made_room",
            Self::SpoolBytes => "spool_bytes",
            Self::ClientRate => "client_rate",
            Self::AddressRate => "address_rate",
            Self::FailedAuthorisations => "failed_authorisations",
            Self::BodyBytes => "body_bytes",
            Self::Rows => "rows",
            Self::DecodeRatio => "decode_ratio",
            Self::AcceptBackoff => "accept_backoff",
            Self::TlsHandshake => "tls_handshake",
            Self::DiskReserve => "disk_reserve",
        }
    }
}

/// Why an accepted call lost an attribute or an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// The mbox call's attribute is not valid, or the call has too many.
    Illegal,
    /// The profile would have become too large (R9).
    ProfileBytes,
    /// The id is blocked (setting `blocked_ids`).
    BlockedId,
}

impl LeftOut {
    const fn reason(self) -> &'static str {
        match self {
            Self::Illegal => "illegal",
            Self::ProfileBytes => "profile_bytes",
            Self::BlockedId => "blocked_id",
        }
    }
}

/// Why the background application of rows waited (R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyingWaits {
    /// The configured rate was reached.
    Rate,
    /// Site calls were waiting.
    SiteCalls,
}

impl ApplyingWaits {
    const fn by(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::SiteCalls => "site_calls",
        }
    }
}

/// The values that are read for each request for metrics instead of counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Whether the daemon is ready (`/readyz`).
    pub ready: bool,
    /// Batches that are accepted and not yet complete.
    pub batches_pending: u64,
    /// Batches that are held because their uploads are damaged.
    pub batches_stuck: u64,
    /// Rows of pending batches that are not applied yet.
    pub rows_pending: u64,
    /// How long ago the oldest pending batch was accepted; none if no batch is pending.
    pub oldest_pending_age: Option<Duration>,
    /// Writes that wait for the journal.
    pub writes_waiting: u64,
    /// The current limit on applied rows per second; `None` for no limit.
    pub rows_per_second_max: Option<u32>,
    /// Live profiles at the sweeper's last pass; during the first pass, those counted so far.
    pub live_profiles: u64,
    /// The time since that pass ended, or since the start.
    pub live_profiles_age: Duration,
    /// Expired profiles that are kept for now, because the clock may be wrong.
    pub expired_profiles_kept: u64,
    /// How far the machine's clock has jumped ahead; zero while it is trusted.
    pub clock_ahead: Duration,
    /// Log lines that could not be written.
    pub log_lines_lost: u64,
    /// The store's size on the disk, in bytes.
    pub store_bytes: u64,
    /// The size of kept uploads on the disk, in bytes.
    pub spool_bytes: u64,
    /// The free space on the data folder's disk, in bytes.
    pub disk_free_bytes: u64,
    /// Whether a damaged store is being rebuilt now.
    pub store_rebuilding: bool,
    /// The number of rebuilds since the start.
    pub store_rebuilds: u64,
    /// The time since the last checkpoint, or since the start.
    pub checkpoint_age: Duration,
    /// The time since the last snapshot, or since the start if there is none.
    pub snapshot_age: Duration,
    /// The backups that the daemon makes by itself; none if the settings ask for none.
    pub backups: Option<BackupVitals>,
    /// When the certificate expires, or the first of those that lead to its root; none without HTTPS.
    pub certificate_expires: Option<Millis>,
    /// What the process takes of the machine; none if the system does not tell.
    pub process: Option<ProcessVitals>,
    /// What a node of several has besides.
    pub order: Option<OrderVitals>,
}

/// The backups that the daemon makes by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupVitals {
    /// The time from one to the next.
    pub every: Duration,
    /// When the last one was made, as far as it is still there.
    pub last: Option<Millis>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<String>,
}

/// The metrics that a daemon has only with HTTPS.
pub const OF_HTTPS: [&str; 1] = ["profiled_tls_certificate_expiry_timestamp_seconds"];

/// The metrics of a node of several. A single daemon has none of them.
pub const OF_THE_ORDER: [&str; 11] = [
    "profiled_order_offset",
    "profiled_order_behind_records",
    "profiled_order_behind_seconds",
    "profiled_order_offer_seconds",
    "profiled_order_duplicates",
    "profiled_order_low_offset",
    "profiled_order_nodes",
    "profiled_order_settings_differ",
    "profiled_order_sums_differ",
    "profiled_order_topic_faults",
    "profiled_order_changes_behind_seconds",
];

/// The values of a node of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderVitals {
    /// The offset behind the last record that the node has applied.
    pub offset: u64,
    /// How many records the order has that it has not applied.
    pub behind_records: u64,
    /// How old what it shows may be.
    pub behind: Duration,
    /// Requests that the order had twice.
    pub duplicates: u64,
    /// The first offsets that the topics still have, by topic.
    pub low_offsets: Vec<(&'static str, u64)>,
    /// The nodes that report, this one among them.
    pub nodes: u64,
    /// Nodes whose settings that shape outcomes differ from this one's.
    pub settings_differ: u64,
    /// Nodes whose sum over what was decided differs from this one's.
    pub sums_differ: u64,
    /// What is wrong with the topics.
    pub topic_faults: u64,
    /// How old the oldest change is that this node has yet to pass on to the topic of changes.
    pub changes_behind: Duration,
}

impl OrderVitals {
    fn registry(&self, offer_seconds: &Histogram) -> Registry {
        let mut registry = Registry::with_prefix("profiled_order");
        let mut whole = |name: &str, help: &str, value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        whole("offset", "Offset behind the last record of the order that this node has applied", self.offset);
        let help = "Records of the order that this node has not applied yet; a record has up to thousands of requests";
        whole("behind_records", help, self.behind_records);
        whole("nodes", "Nodes that report, this one among them", self.nodes);
        let help = "Nodes whose settings that shape outcomes differ from this node's";
        whole("settings_differ", help, self.settings_differ);
        let help = "Nodes whose sum over all decisions differs from this node's: one of them has diverged";
        whole("sums_differ", help, self.sums_differ);
        let help = "What is wrong with the topics now: settings that lose records, too few replicas in sync";
        whole("topic_faults", help, self.topic_faults);
        let mut seconds = |name: &str, help: &str, value: Duration| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(value.as_secs_f64());
            registry.register(name, help, gauge);
        };
        let help = "How old what a lookup on this node shows may be; 0 while it keeps up";
        seconds("behind_seconds", help, self.behind);
        let help = "How old the oldest change is that this node has yet to pass on to the topic of changes; 0 where another node does so";
        seconds("changes_behind_seconds", help, self.changes_behind);
        let duplicates = Counter::<u64>::default();
        duplicates.inc_by(self.duplicates);
        registry.register(
            "duplicates",
            "Requests that the order had twice, and that were skipped",
            duplicates,
        );
        let help = "Time from a request's offer to the order until this node has applied it";
        registry.register("offer_seconds", help, offer_seconds.clone());
        let low = Family::<Labels<1>, Gauge>::default();
        for (topic, offset) in &self.low_offsets {
            low.get_or_create(&[("topic", *topic)]).set(i64::try_from(*offset).unwrap_or(i64::MAX));
        }
        registry.register(
            "low_offset",
            "First offset that a topic still has; what was before is trimmed",
            low,
        );
        registry
    }
}

impl Vitals {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("profiled");
        let mut whole = |name: &str, help: &str, value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        whole("ready", "1 if the daemon is ready, as /readyz reports, else 0", u64::from(self.ready));
        whole("batches_pending", "Batches that are accepted and not yet complete", self.batches_pending);
        whole(
            "batches_stuck",
            "Batches that are held because their uploads are damaged: send their files again, or give them up",
            self.batches_stuck,
        );
        whole("rows_pending", "Rows of pending batches that are not applied yet", self.rows_pending);
        whole("writes_waiting", "Writes that wait for the journal", self.writes_waiting);
        let rate = u64::from(self.rows_per_second_max.unwrap_or_default());
        whole("fold_rows_per_second_max", "Current limit on applied rows per second; 0 is no limit", rate);
        let help = "Live profiles, counted by the sweeper's last pass over the store, or so far by its first";
        whole("live_profiles", help, self.live_profiles);
        let help = "Expired profiles that are kept for now, because the clock is far past the last write";
        whole("expired_profiles_kept", help, self.expired_profiles_kept);
        whole("store_bytes", "Size of the store on the disk, in bytes", self.store_bytes);
        whole("spool_bytes", "Size of kept uploads on the disk, in bytes", self.spool_bytes);
        whole("disk_free_bytes", "Free space on the disk of the data folder, in bytes", self.disk_free_bytes);
        let help = "1 while a damaged store is being rebuilt, else 0";
        whole("store_remaking", help, u64::from(self.store_rebuilding));
        let remakes = Counter::<u64>::default();
        remakes.inc_by(self.store_rebuilds);
        let help = "Rebuilds of a damaged store since the start";
        registry.register("store_remakes", help, remakes);
        let mut seconds = |name: &str, help: &str, age: Duration| {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(age.as_secs_f64());
            registry.register(name, help, gauge);
        };
        let help = "Seconds since the oldest pending batch was accepted; 0 if no batch is pending";
        seconds("oldest_pending_batch_seconds", help, self.oldest_pending_age.unwrap_or_default());
        let help = "Seconds since the last checkpoint of the store, or since the start";
        seconds("checkpoint_age_seconds", help, self.checkpoint_age);
        let help = "Seconds since the last snapshot of the store, or since the start if there is none";
        seconds("snapshot_age_seconds", help, self.snapshot_age);
        let help = "Seconds since the sweeper's last pass, which counts live_profiles, or since the start";
        seconds("live_profiles_age_seconds", help, self.live_profiles_age);
        let help = "Seconds that the machine's clock has jumped ahead, while the daemon ignores it; else 0";
        seconds("clock_disbelieved_seconds", help, self.clock_ahead);
        let at = |at: Option<Millis>| Duration::from_millis(at.unwrap_or_default().0);
        let backups = self.backups.clone().unwrap_or_default();
        let help = "Seconds from one scheduled backup to the next; 0 if none are scheduled";
        seconds("backup_interval_seconds", help, backups.every);
        let help = "When the last scheduled backup was made, in seconds since the epoch; 0 if there is none";
        seconds("last_backup_timestamp_seconds", help, at(backups.last));
        if self.certificate_expires.is_some() {
            let help = "When the certificate for HTTPS expires, or one that leads to its root, in seconds since the epoch";
            seconds("tls_certificate_expiry_timestamp_seconds", help, at(self.certificate_expires));
        }
        let failed = Gauge::<i64>::default();
        failed.set(i64::from(backups.failure.is_some()));
        let help = "1 if the last attempt at a scheduled backup failed, else 0";
        registry.register("last_backup_failed", help, failed);
        let lost = Counter::<u64>::default();
        lost.inc_by(self.log_lines_lost);
        registry.register(
            "log_lines_lost",
            "Log lines lost because standard error could not be written, or not fast enough",
            lost,
        );
        registry
    }
}

/// All counters since the start of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    limits: Family<Labels<1>, Counter>,
    connections: Gauge,
    requests: Family<Answered, Counter>,
    seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    uploads: Gauge,
    places: Family<Labels<1>, Gauge>,
    left_out: Family<Labels<1>, Counter>,
    sync_seconds: Histogram,
    journal_bytes: Counter,
    lookup_seconds: Histogram,
    rows_folded: Counter,
    profile_restarted: Counter,
    applying_waited: Family<Labels<1>, Counter<f64, AtomicU64>>,
    /// Only a node of several shows it.
    offer_seconds: Histogram,
    clients: Mutex<Clients>,
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    endpoint: &'static str,
    status: u16,
}

/// The counters per client.
#[derive(Debug, Default)]
struct Clients {
    named: BTreeMap<ClientCode, PerClient>,
    others: PerClient,
}

#[derive(Debug, Default, Clone, Copy)]
struct PerClient {
    batches: u64,
    rows: Counts,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("profiled");
        let limits = Family::default();
        registry.register("limits_hit", "How often each limit was hit", limits.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let seconds: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        registry.register("request_seconds", "Time from a request's header to its answer", seconds.clone());
        let uploads = Gauge::default();
        registry.register("uploads", "Batch uploads in progress", uploads.clone());
        let places = Family::default();
        registry.register("places_taken", "Used slots of each limited resource", places.clone());
        let left_out = Family::default();
        registry.register(
            "attributes_left_out",
            "Attributes and ids that were dropped from accepted calls",
            left_out.clone(),
        );
        let sync_seconds = Histogram::new(SHORT_SECONDS);
        let help = "Time to write a commit group to the journal and sync it to the disk";
        registry.register("journal_sync_seconds", help, sync_seconds.clone());
        let journal_bytes = Counter::default();
        registry.register("journal_bytes", "Bytes written to the journal", journal_bytes.clone());
        let lookup_seconds = Histogram::new(SHORT_SECONDS);
        registry.register("lookup_seconds", "Time of a visitor lookup", lookup_seconds.clone());
        let rows_folded = Counter::default();
        registry.register(
            "rows_folded",
            "Rows applied to the store; the rate of this counter is the apply rate",
            rows_folded.clone(),
        );
        let profile_restarted = Counter::default();
        let help = "Site calls that created a new profile because the visitor's old one had expired";
        registry.register("expired_began_anew", help, profile_restarted.clone());
        let applying_waited = Family::default();
        let help = "Time that applying batches was paused, by the configured rate or by site calls";
        registry.register("fold_held_back_seconds", help, applying_waited.clone());
        let version = Family::<Labels<1>, Gauge>::default();
        version.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("build_info", "1, labelled with the running version", version);
        for by in [ApplyingWaits::Rate, ApplyingWaits::SiteCalls] {
            drop(applying_waited.get_or_create(&[("by", by.by())]));
        }
        // All series start at 0. A series that starts at its first event hides that event from rates.
        for limit in Limit::ALL {
            drop(limits.get_or_create(&[("limit", limit.name())]));
        }
        for why in [LeftOut::Illegal, LeftOut::ProfileBytes, LeftOut::BlockedId] {
            drop(left_out.get_or_create(&[("reason", why.reason())]));
        }
        Self {
            registry,
            limits,
            connections,
            requests,
            seconds,
            uploads,
            places,
            left_out,
            sync_seconds,
            journal_bytes,
            lookup_seconds,
            rows_folded,
            profile_restarted,
            applying_waited,
            offer_seconds: Histogram::new(SECONDS),
            clients: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a limit that was hit.
    pub fn hit(&self, limit: Limit) {
        self.limits.get_or_create(&[("limit", limit.name())]).inc();
    }

    /// The limits that were hit since the start, and how often each.
    pub fn limits_hit(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counted =
            |limit: Limit| (limit.name(), self.limits.get_or_create(&[("limit", limit.name())]).get());
        Limit::ALL.into_iter().map(counted).filter(|(_, count)| *count > 0)
    }

    /// Counts a request answered with `status`. `endpoint` comes from a list in the code.
    pub fn answered(&self, endpoint: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Answered { endpoint, status }).inc();
        self.seconds.get_or_create(&[("endpoint", endpoint)]).observe(took.as_secs_f64());
    }

    /// Counts an open connection until the result is dropped.
    pub fn connection(&self) -> UnderWay {
        UnderWay::begin(&self.connections)
    }

    /// Counts a batch upload until the result is dropped.
    pub fn upload(&self) -> UnderWay {
        UnderWay::begin(&self.uploads)
    }

    /// Counts a used slot of a limited resource until the result is dropped. `of` comes from a list in the code.
    pub fn place(&self, of: &'static str) -> UnderWay {
        UnderWay::begin(&self.places.get_or_create(&[("of", of)]))
    }

    /// Counts attributes that a call lost.
    pub fn left_out(&self, attributes: usize, why: LeftOut) {
        if attributes > 0 {
            self.left_out.get_or_create(&[("reason", why.reason())]).inc_by(attributes as u64);
        }
    }

    /// Counts bytes written to the journal and synced, with the time it took.
    pub fn journal_synced(&self, bytes: usize, took: Duration) {
        self.journal_bytes.inc_by(bytes as u64);
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// Counts a lookup with the time it took.
    pub fn looked_up(&self, took: Duration) {
        self.lookup_seconds.observe(took.as_secs_f64());
    }

    /// Counts rows applied to the store.
    pub fn rows_applied(&self, rows: u64) {
        self.rows_folded.inc_by(rows);
    }

    /// Counts a site call that created a new profile because the visitor's old one had expired.
    pub fn profile_restarted(&self) {
        self.profile_restarted.inc();
    }

    /// Counts time that the background application of rows waited.
    pub fn applying_waited(&self, by: ApplyingWaits, time: Duration) {
        if !time.is_zero() {
            self.applying_waited.get_or_create(&[("by", by.by())]).inc_by(time.as_secs_f64());
        }
    }

    /// Counts a request that was offered to the order, with the time until it was answered.
    pub fn offered(&self, took: Duration) {
        self.offer_seconds.observe(took.as_secs_f64());
    }

    /// Counts an accepted batch.
    pub fn batch_accepted(&self, client: &ClientCode) {
        self.clients().of(client).batches += 1;
    }

    /// Counts a complete batch with the outcomes of its rows.
    pub fn batch_complete(&self, client: &ClientCode, counts: &Counts) {
        let mut clients = self.clients();
        let rows = &mut clients.of(client).rows;
        *rows = rows.plus(counts);
    }

    /// Renders all counters as text. Includes a client's series if `may_see(Some(client))`, and the series of all
    /// further clients if `may_see(None)`.
    pub fn render(
        &self,
        vitals: &Vitals,
        may_see: impl Fn(Option<&ClientCode>) -> bool,
    ) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &vitals.registry())?;
        if let Some(process) = &vitals.process {
            encode_registry(&mut text, &process.registry())?;
        }
        if let Some(order) = &vitals.order {
            encode_registry(&mut text, &order.registry(&self.offer_seconds))?;
        }
        encode_registry(&mut text, &self.clients().registry(may_see))?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }
}

impl Clients {
    fn of(&mut self, client: &ClientCode) -> &mut PerClient {
        if self.named.len() < CLIENTS_MAX || self.named.contains_key(client) {
            return self.named.entry(client.clone()).or_default();
        }
        &mut self.others
    }

    fn registry(&self, may_see: impl Fn(Option<&ClientCode>) -> bool) -> Registry {
        let batches = Family::<Vec<(&str, String)>, Counter>::default();
        let rows = Family::<Vec<(&str, String)>, Counter>::default();
        let named = self.named.iter().map(|(client, counts)| (Some(client), counts));
        let others = (self.named.len() >= CLIENTS_MAX).then_some((None, &self.others));
        for (client, counts) in named.chain(others).filter(|(client, _)| may_see(*client)) {
            let label = ("client", client.map_or(OTHER_CLIENTS, ClientCode::as_str).to_owned());
            batches.get_or_create(&vec![label.clone()]).inc_by(counts.batches);
            for outcome in Outcome::ALL {
                let labels = vec![label.clone(), ("outcome", outcome.name().to_owned())];
                rows.get_or_create(&labels).inc_by(counts.rows.of(outcome));
            }
        }
        let mut registry = Registry::with_prefix("profiled");
        registry.register("batches", "Batches accepted", batches);
        registry.register("rows", "Rows of complete batches", rows);
        registry
    }
}

/// Counts an activity until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Gauge);

impl UnderWay {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn client(code: &str) -> ClientCode {
        ClientCode::new(code).unwrap()
    }

    #[test]
    fn a_client_is_counted_for_those_who_may_see_it() {
        let metrics = Metrics::default();
        metrics.batch_accepted(&client("a"));
        metrics.batch_accepted(&client("b"));
        metrics.batch_complete(&client("b"), &Counts { updated: 7, ..Counts::default() });
        let all = metrics.render(&Vitals::default(), |_| true).unwrap();
        assert!(all.contains("profiled_batches_total{client=\"a\"} 1\n"), "{all}");
        assert!(all.contains("profiled_rows_total{client=\"b\",outcome=\"updated\"} 7\n"), "{all}");
        let some = metrics.render(&Vitals::default(), |it| it == Some(&client("a"))).unwrap();
        assert!(some.contains("{client=\"a\"}") && !some.contains("client=\"b\""), "{some}");
        let none = metrics.render(&Vitals::default(), |_| false).unwrap();
        assert!(none.contains("profiled_limits_hit_total") && !none.contains("client="), "{none}");
        assert!(all.ends_with("# EOF\n") && none.ends_with("# EOF\n"));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = Metrics::default();
        for n in 0..CLIENTS_MAX + 5 {
            metrics.batch_accepted(&client(&format!("c{n}")));
            metrics.batch_accepted(&client("c0"));
        }
        let all = metrics.render(&Vitals::default(), |_| true).unwrap();
        assert_eq!(all.lines().filter(|line| line.starts_with("profiled_batches_total")).count(), 1_001);
        assert!(all.contains("{client=\"(other)\"} 5\n") && all.contains("{client=\"c0\"} 1006\n"));
        let named = metrics.render(&Vitals::default(), |it| it.is_some()).unwrap();
        assert!(
            !named.contains("(other)"),
            "the series of all further clients is shown only to callers who may see every client"
        );
    }

    #[test]
    fn only_a_node_of_several_has_the_metrics_of_the_order() {
        let metrics = Metrics::default();
        let families = |vitals: &Vitals| {
            let text = metrics.render(vitals, |_| true).unwrap();
            let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
            names
                .filter(|name| name.starts_with("profiled_order"))
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(families(&Vitals::default()), BTreeSet::new());
        metrics.offered(Duration::from_millis(7));
        let order = OrderVitals { low_offsets: vec![("order", 7)], duplicates: 3, ..OrderVitals::default() };
        let node = Vitals { order: Some(order), ..Vitals::default() };
        assert_eq!(families(&node), OF_THE_ORDER.map(str::to_owned).into_iter().collect());
        let text = metrics.render(&node, |_| true).unwrap();
        for line in [
            "profiled_order_low_offset{topic=\"order\"} 7\n",
            "profiled_order_duplicates_total 3\n",
            "profiled_order_offer_seconds_count 1\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn an_upload_is_counted_until_it_ends() {
        let metrics = Metrics::default();
        let uploads =
            || metrics.render(&Vitals::default(), |_| true).unwrap().contains("profiled_uploads 1\n");
        let upload = metrics.upload();
        assert!(uploads());
        drop(upload);
        assert!(!uploads());
    }

    #[test]
    fn every_limit_is_there_from_the_start() {
        let text = Metrics::default().render(&Vitals::default(), |_| true).unwrap();
        for limit in Limit::ALL {
            assert!(text.contains(&format!("profiled_limits_hit_total{{limit=\"{}\"}} 0\n", limit.name())));
        }
    }

    #[test]
    fn every_gauge_is_there_from_the_start() {
        let metrics = Metrics::default();
        let text = |vitals: &Vitals| metrics.render(vitals, |_| true).unwrap();
        let young = text(&Vitals::default());
        // An alert needs its series from the start.
        for name in [
            "live_profiles 0",
            "snapshot_age_seconds 0.0",
            "log_lines_lost_total 0",
            "expired_began_anew_total 0",
            "last_backup_timestamp_seconds 0.0",
            "last_backup_failed 0",
        ] {
            assert!(young.contains(&format!("\nprofiled_{name}\n")), "{name}: {young}");
        }
        for name in OF_HTTPS {
            assert!(!young.contains(name), "{name}");
        }
        let known = text(&Vitals {
            live_profiles: 7,
            snapshot_age: Duration::from_millis(1500),
            clock_ahead: Duration::from_secs(9),
            log_lines_lost: 5,
            rows_per_second_max: Some(9),
            backups: Some(BackupVitals {
                every: Duration::from_secs(3600),
                last: Some(Millis(7_500)),
                failure: Some("the disk is full".into()),
            }),
            certificate_expires: Some(Millis(9_000)),
            ..Vitals::default()
        });
        for line in [
            "profiled_live_profiles 7\n",
            "profiled_snapshot_age_seconds 1.5\n",
            "profiled_fold_rows_per_second_max 9\n",
            "profiled_clock_disbelieved_seconds 9.0\n",
            "profiled_log_lines_lost_total 5\n",
            "profiled_ready 0\n",
            "profiled_backup_interval_seconds 3600.0\n",
            "profiled_last_backup_timestamp_seconds 7.5\n",
            "profiled_last_backup_failed 1\n",
            "profiled_tls_certificate_expiry_timestamp_seconds 9.0\n",
        ] {
            assert!(known.contains(line), "{line}: {known}");
        }
    }
}
