//! A topic of events as an [`EventTopic`].
//!
//! Promises:
//!
//! - An event counts as appended once all in-sync replicas have it (`acks=all`). It is tried for as long as it takes: a broker that is
//!   away fails no event.
//! - The producer is idempotent and leaves no gaps: once an event has failed, Kafka gives up the producer with all that follows it.
//! - An event goes to the partition of its key as Java's client would choose it (`murmur2_random`), so that whoever writes or looks up
//!   by key with Kafka's own tools meets the same partition.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use super::client;
use super::log::{Pending, Producing, not_sent, producing};
use super::settings::{KafkaSettings, Topic};
use super::topics;
use crate::order::topic::{EventTopic, EventWriter};
use crate::order::{Appended, Offset, OrderError};
use crate::sync::unpoisoned;

/// For throughput, and with bounded queues.
const PRODUCER: [(&str, &str); 10] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    // No event fails because it waits.
    ("message.timeout.ms", "0"),
    ("request.timeout.ms", "3000"),
    ("linger.ms", "5"),
    ("message.max.bytes", "8388608"),
    // An event for every partition is as many messages; what is on its way is bounded by whoever appends, and here by its bytes.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "65536"),
    ("compression.type", "lz4"),
];

/// A topic of events, on the brokers of an order.
pub struct KafkaTopic {
    settings: KafkaSettings,
    name: String,
}

impl KafkaTopic {
    /// The topic of this name. Reaches no broker.
    pub fn named(settings: &KafkaSettings, name: &str) -> Result<Self, OrderError> {
        if Topic::ALL.into_iter().any(|topic| settings.topic(topic) == name) {
            return Err(OrderError::Refused(format!(
                "changes_topic is {name}, which is a topic of the order itself: choose another name"
            )));
        }
        Ok(Self { settings: settings.clone(), name: name.to_owned() })
    }
}

impl EventTopic for KafkaTopic {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> Result<Box<dyn EventWriter>, OrderError> {
        let partitions = topics::ensure_changes(&self.settings, &self.name)?;
        let mut config = client::config(&self.settings, &PRODUCER);
        config.set("partitioner", "murmur2_random");
        let (producer, topic) = (producing(&config)?, self.name.clone());
        Ok(Box::new(KafkaWriter { producer, topic, partitions, failed: Arc::default() }))
    }
}

struct KafkaWriter {
    producer: Arc<Producing>,
    topic: String,
    /// How many it had when it was opened.
    partitions: usize,
    /// Whether an event has failed.
    failed: Arc<AtomicBool>,
}

impl KafkaWriter {
    fn send(&self, partition: Option<i32>, key: Option<&[u8]>, event: &[u8], done: Appended) {
        if self.failed.load(Ordering::Acquire) {
            let why = format!("{}: an event before it failed", self.topic);
            return done(Err(OrderError::OutOfReach(why)));
        }
        let failed = Arc::clone(&self.failed);
        let pending = Pending::new(Box::new(move |outcome| {
            failed.fetch_or(outcome.is_err(), Ordering::AcqRel);
            done(outcome);
        }));
        let mut record = BaseRecord::with_opaque_to(&self.topic, pending).payload(event);
        record.partition = partition;
        record.key = key;
        if let Err((error, record)) = self.producer.send(record) {
            record.delivery_opaque.tell(Err(not_sent(&self.topic, &error)));
        }
    }
}

impl EventWriter for KafkaWriter {
    fn append(&self, key: Option<&[u8]>, event: &[u8], done: Appended) {
        if key.is_some() {
            return self.send(None, key, event, done);
        }
        let all =
            Arc::new(ToAll { missing: AtomicUsize::new(self.partitions), done: Mutex::new(Some(done)) });
        for partition in 0..self.partitions {
            let all = Arc::clone(&all);
            let heard = Box::new(move |outcome| all.heard(outcome));
            self.send(i32::try_from(partition).ok(), None, event, heard);
        }
    }
}

/// What is not acknowledged goes: another writer sends it again.
impl Drop for KafkaWriter {
    fn drop(&mut self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

/// An event on its way to every partition.
struct ToAll {
    missing: AtomicUsize,
    done: Mutex<Option<Appended>>,
}

impl ToAll {
    fn heard(&self, outcome: Result<Offset, OrderError>) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 || outcome.is_err() {
            let done = unpoisoned(self.done.lock()).take();
            if let Some(done) = done {
                done(outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_itself_is_no_topic_for_changes() {
        let settings = KafkaSettings::new("kafka://k:1/p".parse().unwrap());
        assert_eq!(KafkaTopic::named(&settings, "p.changes").unwrap().name(), "p.changes");
        for name in ["p.order", "p.files", "p.nodes"] {
            assert!(KafkaTopic::named(&settings, name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_goes_to_every_partition_is_told_once() {
        for (outcomes, expected) in [
            (vec![Ok(Offset(1)), Ok(Offset(2))], vec![true]),
            (vec![Ok(Offset(1))], vec![]),
            (vec![Err(OrderError::Refused("no".into())), Ok(Offset(1))], vec![false]),
        ] {
            let told: Arc<Mutex<Vec<bool>>> = Arc::default();
            let tell = Arc::clone(&told);
            let done: Appended = Box::new(move |outcome| tell.lock().unwrap().push(outcome.is_ok()));
            let all = ToAll { missing: AtomicUsize::new(2), done: Mutex::new(Some(done)) };
            outcomes.into_iter().for_each(|outcome| all.heard(outcome));
            assert_eq!(*told.lock().unwrap(), expected);
        }
    }
}
