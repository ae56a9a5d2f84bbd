//! One topic partition as a [`Log`].
//!
//! Promises:
//!
//! - A record counts as appended once all in-sync replicas have it (`acks=all`). The producer is idempotent, so a retry of
//!   its own does not append twice or change the order. What it can't tell within [`MESSAGE_TIMEOUT_MS`] is "unknown".
//! - A producer that Kafka has given up is replaced by a fresh one.
//! - A reader takes one partition from one offset on, in no consumer group. It never goes elsewhere by itself: a topic that
//!   was deleted, made anew or truncated behind its back is [`OrderError::NotTheSame`].
//! - [`Log::append`] never blocks, and never drops a client that has threads to wait for. The other calls block.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::client::{self, Context};
use super::settings::{KafkaSettings, Topic};
use super::topics;
use crate::model::seq::Millis;
use crate::order::{Appended, Log, LogReader, Offset, OrderError, Record};
use crate::sync::unpoisoned;

/// How long a producer tries to append a record, in milliseconds.
const MESSAGE_TIMEOUT_MS: &str = "10000";
/// How long a call that asks for ends may take.
const ASK: Duration = Duration::from_secs(10);
/// Each topic has one partition.
const PARTITION: i32 = 0;

/// For low latency, and with bounded queues. A record of the order has 256 KiB, a piece of a file 1 MiB.
const PRODUCER: [(&str, &str); 11] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("message.timeout.ms", MESSAGE_TIMEOUT_MS),
    // How long the leader waits for the other in-sync replicas before it says that it didn't hear from them.
    ("request.timeout.ms", "3000"),
    ("linger.ms", "0"),
    ("message.max.bytes", "2097152"),
    ("queue.buffering.max.messages", "10000"),
    ("queue.buffering.max.kbytes", "65536"),
    ("retry.backoff.ms", "50"),
    ("retry.backoff.max.ms", "100"),
    ("sticky.partitioning.linger.ms", "0"),
];

const CONSUMER: [(&str, &str); 13] = [
    // No group is ever joined, but librdkafka wants a name for one.
    ("group.id", "profiled-reads-without-a-group"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_uncommitted"),
    ("enable.partition.eof", "false"),
    ("check.crcs", "true"),
    // The broker answers as soon as there is a record.
    ("fetch.min.bytes", "1"),
    ("fetch.wait.max.ms", "100"),
    ("fetch.message.max.bytes", "4194304"),
    ("queued.max.messages.kbytes", "16384"),
    // After a full queue or an error.
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.error.backoff.ms", "50"),
];

/// One of the order's topics as a log.
pub struct KafkaLog {
    settings: KafkaSettings,
    topic: String,
    config: rdkafka::ClientConfig,
    producer: ArcSwap<Producing>,
    /// Held while a producer is replaced.
    replacing: Mutex<()>,
}

pub(super) type Producing = BaseProducer<Context>;

impl KafkaLog {
    /// The log of this topic. Reaches no broker yet.
    pub fn open(settings: &KafkaSettings, topic: Topic) -> Result<Self, OrderError> {
        client::check(settings)?;
        let mut config = client::config(settings, &PRODUCER);
        if topic == Topic::Files && !settings.properties.contains_key("compression.type") {
            config.set("compression.type", "lz4");
        }
        let producer = ArcSwap::new(producing(&config)?);
        let topic = settings.topic(topic);
        Ok(Self { settings: settings.clone(), topic, config, producer, replacing: Mutex::new(()) })
    }

    /// The producer, a fresh one if Kafka has given up the last one.
    fn producer(&self) -> Result<Arc<Producing>, OrderError> {
        let producer = self.producer.load_full();
        if !producer.context().is_fatal() {
            return Ok(producer);
        }
        let _one_at_a_time = unpoisoned(self.replacing.lock());
        let producer = self.producer.load_full();
        if !producer.context().is_fatal() {
            return Ok(producer);
        }
        let fresh = producing(&self.config)?;
        tracing::warn!(target: "kafka", topic = self.topic, "a fresh producer takes over");
        // The thread that polls the old one holds it until it is done with it.
        self.producer.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn send(&self, key: &[u8], record: &[u8], mut pending: Box<Pending>) {
        // A producer may turn out to be given up only now; a fresh one isn't.
        for _ in 0..2 {
            let producer = match self.producer() {
                Ok(producer) => producer,
                Err(error) => return pending.tell(Err(error)),
            };
            let message =
                BaseRecord::with_opaque_to(&self.topic, pending).partition(PARTITION).payload(record);
            let message = if key.is_empty() { message } else { message.key(key) };
            let Err((error, message)) = producer.send(message) else { return };
            pending = message.delivery_opaque;
            if !is_fatal(&error, &producer) {
                return pending.tell(Err(not_sent(&self.topic, &error)));
            }
            producer.context().set_fatal();
        }
        pending.tell(Err(OrderError::OutOfReach(format!("{}: Kafka gives up each producer", self.topic))));
    }
}

/// A producer, and the thread that hears what became of its records. The thread ends when nobody else has the producer, and
/// it is the last to have it: dropping a producer waits for its records.
pub(super) fn producing(config: &rdkafka::ClientConfig) -> Result<Arc<Producing>, OrderError> {
    let producer: Arc<Producing> = Arc::new(client::make(config)?);
    let polled = Arc::clone(&producer);
    let poll = move || {
        while Arc::strong_count(&polled) > 1 {
            polled.poll(Duration::from_millis(100));
        }
    };
    std::thread::Builder::new()
        .name("kafka-appends".into())
        .spawn(poll)
        .map_err(|error| OrderError::OutOfReach(format!("no thread for a producer: {error}")))?;
    Ok(producer)
}

fn is_fatal(error: &KafkaError, producer: &Producing) -> bool {
    error.rdkafka_error_code() == Some(Code::Fatal) || producer.client().fatal_error().is_some()
}

impl Log for KafkaLog {
    fn append(&self, key: &[u8], record: Vec<u8>, done: Appended) {
        self.send(key, &record, Pending::new(done));
    }

    fn read_from(&self, offset: Offset) -> Result<Box<dyn LogReader>, OrderError> {
        let (low, end) = self.ends()?;
        if offset < low || offset > end {
            return Err(OrderError::NotTheSame(format!(
                "{} has the offsets from {} to {}; {} was to be read next",
                self.topic, low.0, end.0, offset.0
            )));
        }
        let consumer: BaseConsumer<Context> = client::make(&client::config(&self.settings, &CONSUMER))?;
        let start = i64::try_from(offset.0).unwrap_or(i64::MAX);
        let mut assigned = TopicPartitionList::new();
        assigned
            .add_partition_offset(&self.topic, PARTITION, rdkafka::Offset::Offset(start))
            .and_then(|()| consumer.assign(&assigned))
            .map_err(|error| client::failed(&self.topic, &error))?;
        Ok(Box::new(KafkaReader { consumer, topic: self.topic.clone(), next: offset.0, ended: None }))
    }

    fn ends(&self) -> Result<(Offset, Offset), OrderError> {
        let producer = self.producer()?;
        let (low, end) = producer
            .client()
            .fetch_watermarks(&self.topic, PARTITION, ASK)
            .map_err(|error| client::failed(&self.topic, &error))?;
        Ok((offset_of(low), offset_of(end)))
    }

    fn delete_before(&self, offset: Offset) -> Result<(), OrderError> {
        topics::delete_before(&self.settings, &self.topic, PARTITION, offset)
    }
}

fn offset_of(offset: i64) -> Offset {
    Offset(u64::try_from(offset).unwrap_or_default())
}

/// Who waits for a record to be appended. Told once; a lock, for librdkafka hands it from thread to thread.
pub(super) struct Pending(Mutex<Option<Appended>>);

impl Pending {
    pub(super) fn new(done: Appended) -> Box<Self> {
        Box::new(Self(Mutex::new(Some(done))))
    }

    pub(super) fn tell(&self, outcome: Result<Offset, OrderError>) {
        let done = unpoisoned(self.0.lock()).take();
        if let Some(done) = done {
            done(outcome);
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, pending: Box<Pending>) {
        pending.tell(match delivered {
            Ok(message) => u64::try_from(message.offset()).map(Offset).map_err(|_| {
                OrderError::Unknown(format!(
                    "{}: it was there already, at an offset not known",
                    message.topic()
                ))
            }),
            Err((error, message)) => {
                if error.rdkafka_error_code() == Some(Code::Fatal) {
                    self.set_fatal();
                }
                Err(not_delivered(message.topic(), error))
            }
        });
    }
}

/// Why a record that was handed over did not get an acknowledgement.
fn not_delivered(topic: &str, error: &KafkaError) -> OrderError {
    let words = format!("{topic}: {error}");
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            OrderError::NotTheSame(words)
        }
        Some(
            Code::MessageSizeTooLarge
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PolicyViolation,
        ) => OrderError::Refused(words),
        Some(Code::PurgeQueue) => OrderError::OutOfReach(words),
        _ => OrderError::Unknown(words),
    }
}

/// Why a record was not taken by the producer. It was certainly not appended.
pub(super) fn not_sent(topic: &str, error: &KafkaError) -> OrderError {
    let words = format!("{topic}: {error}");
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            OrderError::NotTheSame(words)
        }
        Some(Code::MessageSizeTooLarge) => OrderError::Refused(words),
        _ => OrderError::OutOfReach(words),
    }
}

/// Reads a topic's partition from an offset on.
struct KafkaReader {
    consumer: BaseConsumer<Context>,
    topic: String,
    /// The least offset that may come next.
    next: u64,
    /// Why it reads no more.
    ended: Option<OrderError>,
}

impl KafkaReader {
    fn take(&mut self, message: Record) -> Result<Option<Record>, OrderError> {
        if message.offset.0 < self.next {
            return Err(OrderError::NotTheSame(format!(
                "{}: offset {} came where {} was to come next",
                self.topic, message.offset.0, self.next
            )));
        }
        self.next = message.offset.0 + 1;
        Ok(Some(message))
    }

    fn failed(&self, error: &KafkaError) -> Option<OrderError> {
        let words = format!("{} at offset {}: {error}", self.topic, self.next);
        match error.rdkafka_error_code()? {
            Code::AutoOffsetReset
            | Code::OffsetOutOfRange
            | Code::LogTruncation
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId => Some(OrderError::NotTheSame(words)),
            Code::TopicAuthorizationFailed | Code::Authentication | Code::SaslAuthenticationFailed => {
                Some(OrderError::OutOfReach(words))
            }
            Code::AllBrokersDown | Code::Fatal => Some(OrderError::OutOfReach(words)),
            // Such as one broker that went away, or a coordinator of groups that nobody needs.
            _ => None,
        }
    }
}

impl LogReader for KafkaReader {
    fn next(&mut self, wait: Duration) -> Result<Option<Record>, OrderError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let outcome = match self.consumer.poll(wait) {
            None => return Ok(None),
            Some(Ok(message)) => {
                let record = Record {
                    offset: offset_of(message.offset()),
                    time: Millis(
                        message
                            .timestamp()
                            .to_millis()
                            .and_then(|ms| u64::try_from(ms).ok())
                            .unwrap_or_default(),
                    ),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().unwrap_or_default().to_vec(),
                };
                drop(message);
                self.take(record)
            }
            Some(Err(error)) => self.failed(&error).map_or(Ok(None), Err),
        };
        if let Err(error @ OrderError::NotTheSame(_)) = &outcome {
            self.ended = Some(error.clone());
        }
        outcome
    }
}
