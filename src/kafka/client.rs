//! What all clients of Kafka have in common: how they are configured, where their log lines go, their errors in our words.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::settings::KafkaSettings;
use crate::order::OrderError;
use crate::sync::{Mutex, lock};

/// What every client is configured with. A property of `[cluster.kafka]` comes before it.
const COMMON: [(&str, &str); 12] = [
    ("client.id", "profiled"),
    // A topic that somebody deleted must not come back with the broker's settings.
    ("allow.auto.create.topics", "false"),
    // Records that are with a broker that hangs go elsewhere after this time. A broker that is only slow is asked again, which
    // does no harm.
    ("socket.timeout.ms", "3000"),
    ("socket.connection.setup.timeout.ms", "3000"),
    ("api.version.request.timeout.ms", "2000"),
    ("socket.nagle.disable", "true"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    // How soon a client hears of a new leader that no error told it of.
    ("topic.metadata.refresh.interval.ms", "500"),
    // Idle connections are closed by the brokers all the time.
    ("log.connection.close", "false"),
    ("statistics.interval.ms", "0"),
];

/// The context of a client: its log lines go to ours.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// A fatal error came: this client does nothing any more.
    fatal: AtomicBool,
    /// When each facility of librdkafka complained last. While a broker is away, it complains ten times a second.
    complained: Mutex<BTreeMap<String, Instant>>,
}

/// How often a facility of librdkafka may complain in the log. What it says in between is for `debug`.
const COMPLAINTS_EVERY: Duration = Duration::from_secs(5);

impl Context {
    /// Notes that this client does nothing any more.
    pub(super) fn set_fatal(&self) {
        self.fatal.store(true, Ordering::Release);
    }

    /// Whether a facility may complain now.
    fn may_complain(&self, facility: &str) -> bool {
        let mut complained = lock(&self.complained);
        let may = complained.get(facility).is_none_or(|last| last.elapsed() >= COMPLAINTS_EVERY);
        if may {
            complained.insert(facility.to_owned(), Instant::now());
        }
        may
    }

    /// Whether this client does nothing any more.
    pub(super) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        // It complains of each property that only other kinds of clients use.
        let level = if facility == "CONFWARN" { Debug } else { level };
        match level {
            Emerg | Alert | Critical | Error | Warning if self.may_complain(facility) => {
                tracing::warn!(target: "kafka", facility, "{line}");
            }
            Emerg | Alert | Critical | Error | Warning => {
                tracing::debug!(target: "kafka", facility, "{line}")
            }
            Notice | Info => tracing::info!(target: "kafka", facility, "{line}"),
            Debug => tracing::debug!(target: "kafka", facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.set_fatal();
            tracing::warn!(target: "kafka", "a client is given up: {reason}");
        } else {
            // Such as a broker that can't be reached, of which there is a line already.
            tracing::debug!(target: "kafka", "{error}: {reason}");
        }
    }
}

impl ConsumerContext for Context {}

/// The configuration of a client of this order, with further settings. A property of `[cluster.kafka]` comes before them.
pub(super) fn config(settings: &KafkaSettings, more: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(if tracing::enabled!(target: "kafka", tracing::Level::DEBUG) {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    for (name, value) in COMMON {
        config.set(name, value);
    }
    for (name, value) in more {
        config.set(*name, *value);
    }
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
    config.set("bootstrap.servers", settings.brokers());
    config
}

/// Makes a client.
pub(super) fn make<T: FromClientConfigAndContext<Context>>(config: &ClientConfig) -> Result<T, OrderError> {
    T::from_config_and_context(config, Context::default()).map_err(|error| refused(&error))
}

/// Whether librdkafka takes the settings. Reaches no broker.
pub(super) fn check(settings: &KafkaSettings) -> Result<(), OrderError> {
    if let Some(why) = settings.own_property() {
        return Err(OrderError::Refused(why));
    }
    // Some are looked at only when a client is made, such as the files with certificates.
    make::<BaseConsumer<Context>>(&config(settings, &[])).map(drop)
}

/// Why a client can't be made, in librdkafka's words. A value that may be a secret is left out.
fn refused(error: &KafkaError) -> OrderError {
    let is_secret =
        |name: &str| ["password", "secret", "pem", "config"].iter().any(|word| name.contains(word));
    OrderError::Refused(match error {
        KafkaError::ClientConfig(_, _, name, _) if is_secret(name) => {
            format!("[cluster.kafka] {name}: librdkafka doesn't take the value")
        }
        KafkaError::ClientConfig(_, why, name, _) => format!("[cluster.kafka] {name}: {why}"),
        KafkaError::ClientCreation(why) => format!("[cluster.kafka]: {why}"),
        other => other.to_string(),
    })
}

/// An error of a call that reads or administers, in our words.
pub(super) fn failed(what: &str, error: &KafkaError) -> OrderError {
    use RDKafkaErrorCode as Code;
    let words = format!("{what}: {error}");
    match error.rdkafka_error_code() {
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId,
        ) => OrderError::NotTheSame(words),
        Some(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::OffsetOutOfRange
            | Code::PolicyViolation
            | Code::InvalidArgument,
        ) => OrderError::Refused(words),
        _ => OrderError::OutOfReach(words),
    }
}
