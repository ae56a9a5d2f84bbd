//! The order's topics: missing ones are made with the right settings, those that are there are checked.
//!
//! Promises: what [`ensure`] accepts keeps acknowledged records as the order promises. Each wrong setting is named, with
//! what it is and what to set; none is changed here. [`look`] changes nothing, and tells besides how many replicas are in sync now.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::client::{self, Context};
use super::settings::{KafkaSettings, Topic};
use crate::order::{Offset, OrderError};

/// How long one question to the brokers may take.
const ASK: Duration = Duration::from_secs(10);
/// How long fresh topics may take to get their leaders.
const LEADERS: Duration = Duration::from_secs(30);
/// Three replicas: with one broker gone there are two, and writes go on.
const REPLICAS: usize = 3;
const MIN_INSYNC: usize = 2;
/// Of a fresh topic of changes, so that some consumers can share it.
const CHANGES_PARTITIONS: i32 = 6;
/// The largest record that the topics must take.
const MESSAGE_BYTES: u64 = 2 * 1024 * 1024;

/// A topic as the brokers have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub topic: Topic,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// How many brokers are to have its first partition.
    pub replicas: usize,
    /// How many of them are in sync now.
    pub in_sync: usize,
    /// How many must be, for writes.
    pub min_insync: usize,
    /// What is wrong with its settings, and what to set.
    pub faults: Vec<String>,
}

impl Seen {
    /// Whether it takes writes now, by the number of replicas in sync; if not, in words.
    pub fn too_few_in_sync(&self) -> Option<String> {
        let Self { name, replicas, in_sync, min_insync, .. } = self;
        (in_sync < min_insync).then(|| {
            format!("{name} takes no writes: {in_sync} of {replicas} replicas are in sync, min.insync.replicas is {min_insync}")
        })
    }
}

/// Makes the topics that are missing, and checks all. Blocks. A topic with wrong settings is an error that names all of them.
pub fn ensure(settings: &KafkaSettings) -> Result<Vec<Seen>, OrderError> {
    client::check(settings)?;
    let kafka = Admin::open(settings)?;
    let missing: Vec<Fresh> = Topic::ALL
        .into_iter()
        .zip(kafka.layouts(settings)?)
        .filter(|(_, it)| it.is_none())
        .map(|(it, _)| Fresh { name: settings.topic(it), partitions: 1, with: made_with(it, settings) })
        .collect();
    if !missing.is_empty() {
        kafka.make(settings, &missing)?;
        kafka.wait_for_leaders(&Topic::ALL.map(|topic| settings.topic(topic)))?;
    }
    let seen = kafka.seen(settings)?;
    let faults: Vec<&str> = seen.iter().flat_map(|it| &it.faults).map(String::as_str).collect();
    if faults.is_empty() { Ok(seen) } else { Err(OrderError::Refused(faults.join("; "))) }
}

/// Makes the topic of changes if it is missing, and checks it. Gives how many partitions it has. Blocks.
pub(super) fn ensure_changes(settings: &KafkaSettings, name: &str) -> Result<usize, OrderError> {
    let kafka = Admin::open(settings)?;
    if kafka.layout(name)?.is_none() {
        let fresh =
            Fresh { name: name.to_owned(), partitions: CHANGES_PARTITIONS, with: changes_made_with() };
        kafka.make(settings, &[fresh])?;
        kafka.wait_for_leaders(&[name.to_owned()])?;
    }
    let layout = kafka.layout(name)?.filter(|layout| layout.has_leaders);
    let layout =
        layout.ok_or_else(|| OrderError::OutOfReach(format!("a partition of {name} has no leader")))?;
    let has = kafka.described(&[name.to_owned()])?.pop().ok_or_else(unreadable)?;
    let faults = judge_changes(settings, name, &layout, &has);
    if faults.is_empty() { Ok(layout.partitions.len()) } else { Err(OrderError::Refused(faults.join("; "))) }
}

/// Looks at the topics as they are now. Blocks. One that is gone is [`OrderError::NotTheSame`].
pub fn look(settings: &KafkaSettings) -> Result<Vec<Seen>, OrderError> {
    Admin::open(settings)?.seen(settings)
}

/// Deletes the records before this offset.
pub(super) fn delete_before(
    settings: &KafkaSettings,
    topic: &str,
    partition: i32,
    offset: Offset,
) -> Result<(), OrderError> {
    let failed =
        |error| client::failed(&format!("deleting the records of {topic} before {}", offset.0), &error);
    let before = i64::try_from(offset.0).unwrap_or(i64::MAX);
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, rdkafka::Offset::Offset(before)).map_err(failed)?;
    let kafka = Admin::open(settings)?;
    let done = block_on(kafka.client.delete_records(&offsets, &options())).map_err(failed)?;
    done.elements().first().map_or(Ok(()), |it| it.error()).map_err(failed)
}

/// A client that administers. Nobody takes the log lines that it gathers, so it is dropped after its work.
struct Admin {
    client: AdminClient<Context>,
}

/// A topic to make.
struct Fresh {
    name: String,
    partitions: i32,
    with: Vec<(&'static str, &'static str)>,
}

/// A topic's partitions: replicas and those in sync.
struct Layout {
    partitions: Vec<(usize, usize)>,
    has_leaders: bool,
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK))
}

fn unreadable() -> OrderError {
    OrderError::OutOfReach("an answer of Kafka can't be read".into())
}

impl Admin {
    fn open(settings: &KafkaSettings) -> Result<Self, OrderError> {
        Ok(Self { client: client::make(&client::config(settings, &[]))? })
    }

    /// The topics' layouts, in the order of [`Topic::ALL`]; none for one that isn't there.
    fn layouts(&self, settings: &KafkaSettings) -> Result<Vec<Option<Layout>>, OrderError> {
        Topic::ALL.into_iter().map(|topic| self.layout(&settings.topic(topic))).collect()
    }

    fn layout(&self, name: &str) -> Result<Option<Layout>, OrderError> {
        let failed = |error| client::failed(&format!("asking for {name}"), &error);
        let metadata = self.client.inner().fetch_metadata(Some(name), ASK).map_err(failed)?;
        let Some(topic) = metadata.topics().first() else { return Ok(None) };
        if let Some(error) = topic.error() {
            let code = Code::from(error);
            return match code {
                Code::UnknownTopicOrPartition | Code::UnknownTopic => Ok(None),
                // It is being made.
                Code::LeaderNotAvailable => Ok(Some(Layout { partitions: vec![], has_leaders: false })),
                _ => Err(failed(rdkafka::error::KafkaError::MetadataFetch(code))),
            };
        }
        let partitions = topic.partitions();
        Ok(Some(Layout {
            partitions: partitions.iter().map(|it| (it.replicas().len(), it.isr().len())).collect(),
            has_leaders: !partitions.is_empty() && partitions.iter().all(|it| it.leader() >= 0),
        }))
    }

    /// Makes these topics. Another node may make them at the same time.
    fn make(&self, settings: &KafkaSettings, missing: &[Fresh]) -> Result<(), OrderError> {
        let failed = |error| client::failed("making the topics", &error);
        let brokers = self.client.inner().fetch_metadata(None, ASK).map_err(failed)?.brokers().len();
        if brokers < REPLICAS && !settings.allow_fewer_replicas {
            return Err(OrderError::Refused(format!(
                "there are {brokers} brokers for {REPLICAS} replicas of the topics: start more, or allow fewer replicas"
            )));
        }
        let replicas = brokers.clamp(1, REPLICAS);
        // So that one broker may go.
        let min_insync = if replicas < REPLICAS { 1 } else { MIN_INSYNC }.to_string();
        let topics = missing.iter().map(|fresh| {
            let replicas = TopicReplication::Fixed(i32::try_from(replicas).unwrap_or(1));
            let topic = NewTopic::new(&fresh.name, fresh.partitions, replicas);
            let topic = topic.set("min.insync.replicas", &min_insync);
            fresh.with.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        });
        let topics: Vec<_> = topics.collect();
        for made in block_on(self.client.create_topics(&topics, &options())).map_err(failed)? {
            match made {
                Ok(name) => tracing::info!(target: "kafka", topic = name, replicas, "the topic was made"),
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = rdkafka::error::KafkaError::AdminOp(code);
                    return Err(client::failed(&format!("making {name}"), &error));
                }
            }
        }
        Ok(())
    }

    fn wait_for_leaders(&self, names: &[String]) -> Result<(), OrderError> {
        let until = Instant::now() + LEADERS;
        for name in names {
            while !self.layout(name)?.is_some_and(|layout| layout.has_leaders) {
                if Instant::now() > until {
                    return Err(OrderError::OutOfReach("fresh topics have no leader yet".into()));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The settings of these topics.
    fn described(&self, names: &[String]) -> Result<Vec<BTreeMap<String, String>>, OrderError> {
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let described = block_on(self.client.describe_configs(&resources, &options()))
            .map_err(|error| client::failed("asking for the topics' settings", &error))?;
        let of = |(name, described): (&String, Result<ConfigResource, Code>)| {
            let described = described.map_err(|code| {
                let error = rdkafka::error::KafkaError::AdminOp(code);
                client::failed(&format!("asking for the settings of {name}"), &error)
            })?;
            let entries = described.entries.into_iter();
            Ok(entries.map(|it| (it.name, it.value.unwrap_or_default())).collect())
        };
        names.iter().zip(described).map(of).collect()
    }

    fn seen(&self, settings: &KafkaSettings) -> Result<Vec<Seen>, OrderError> {
        let layouts = self.layouts(settings)?;
        let names: Vec<String> = Topic::ALL.into_iter().map(|topic| settings.topic(topic)).collect();
        let gone = |name: &String| OrderError::NotTheSame(format!("there is no topic {name}"));
        if let Some((_, name)) = layouts.iter().zip(&names).find(|(layout, _)| layout.is_none()) {
            return Err(gone(name));
        }
        let described = self.described(&names)?;
        let mut seen = Vec::new();
        for (((topic, name), layout), has) in Topic::ALL.into_iter().zip(names).zip(layouts).zip(described) {
            let layout = layout.ok_or_else(|| gone(&name))?;
            seen.push(judge(settings, topic, name, &layout, &has));
        }
        Ok(seen)
    }
}

/// What the topic of changes is made with, beside its replicas. Each of these is its owner's to change, but for the first two.
fn changes_made_with() -> Vec<(&'static str, &'static str)> {
    vec![
        ("cleanup.policy", "delete"),
        ("unclean.leader.election.enable", "false"),
        ("max.message.bytes", "8388608"),
        ("compression.type", "producer"),
        // A week, and a record leaves the disk with its whole segment, a day.
        ("retention.ms", "604800000"),
        ("segment.ms", "86400000"),
    ]
}

/// What is wrong with the topic of changes: what loses events that it has taken.
fn judge_changes(
    settings: &KafkaSettings,
    name: &str,
    layout: &Layout,
    has: &BTreeMap<String, String>,
) -> Vec<String> {
    let exact = [("cleanup.policy", "delete"), ("unclean.leader.election.enable", "false")];
    let mut faults = not_exactly(name, has, &exact);
    faults.extend(judge_replicas(settings, name, layout, has));
    faults
}

/// Which settings are not as they must be.
fn not_exactly(name: &str, has: &BTreeMap<String, String>, wanted: &[(&str, &str)]) -> Vec<String> {
    let is = |key: &str| has.get(key).map_or("", String::as_str);
    let wrong = wanted.iter().filter(|(key, wanted)| is(key) != *wanted);
    wrong.map(|(key, wanted)| format!("{name} has {key}={}: set {wanted}", is(key))).collect()
}

/// What a topic is made with, beside its replicas.
fn made_with(topic: Topic, settings: &KafkaSettings) -> Vec<(&'static str, &'static str)> {
    let mut with = vec![
        ("message.timestamp.type", "LogAppendTime"),
        ("unclean.leader.election.enable", "false"),
        ("max.message.bytes", "2097152"),
        ("compression.type", "producer"),
        // A record leaves the disk with its whole segment, so segments are small.
        ("segment.ms", "600000"),
        ("file.delete.delay.ms", "1000"),
    ];
    match topic {
        Topic::Order | Topic::Files => {
            with.extend([("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")]);
            with.push(("segment.bytes", if topic == Topic::Order { "16777216" } else { "67108864" }));
            if !settings.trust_replication {
                with.push(("flush.messages", "1"));
            }
        }
        Topic::Nodes => with.extend([("cleanup.policy", "compact"), ("segment.bytes", "1048576")]),
    }
    with
}

/// What is wrong with a topic.
fn judge(
    settings: &KafkaSettings,
    topic: Topic,
    name: String,
    layout: &Layout,
    has: &BTreeMap<String, String>,
) -> Seen {
    let get = |key: &str| has.get(key).map_or("", String::as_str);
    let mut exact =
        vec![("message.timestamp.type", "LogAppendTime"), ("unclean.leader.election.enable", "false")];
    match topic {
        Topic::Order | Topic::Files => {
            exact.extend([("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")]);
            if !settings.trust_replication {
                exact.push(("flush.messages", "1"));
            }
        }
        Topic::Nodes => exact.push(("cleanup.policy", "compact")),
    }
    let mut faults = not_exactly(&name, has, &exact);
    let mut fault = |key: &str, is: &str, set: &str| {
        faults.push(format!("{name} has {key}={is}: set {set}"));
    };
    if get("max.message.bytes").parse::<i64>().unwrap_or(0) < i64::try_from(MESSAGE_BYTES).unwrap_or(i64::MAX)
    {
        fault("max.message.bytes", get("max.message.bytes"), "2097152 or more");
    }
    // Recompressing is the broker's affair, but this program must be able to read it.
    if get("compression.type") == "gzip" {
        fault("compression.type", "gzip", "producer");
    }

    faults.extend(judge_replicas(settings, &name, layout, has));
    let (replicas, in_sync) = layout.partitions.first().copied().unwrap_or_default();
    let min_insync = min_insync(has);
    let partitions = layout.partitions.len();
    if partitions != 1 {
        faults.push(format!(
            "{name} has {partitions} partitions, which have no common order: make it anew with 1"
        ));
    }
    Seen { topic, name, partitions, replicas, in_sync, min_insync, faults }
}

fn min_insync(has: &BTreeMap<String, String>) -> usize {
    has.get("min.insync.replicas").and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// What is wrong with how many replicas a topic has.
fn judge_replicas(
    settings: &KafkaSettings,
    name: &str,
    layout: &Layout,
    has: &BTreeMap<String, String>,
) -> Vec<String> {
    let (mut faults, min_insync) = (vec![], min_insync(has));
    let (replicas, _) = layout.partitions.first().copied().unwrap_or_default();
    if !settings.allow_fewer_replicas {
        if min_insync < MIN_INSYNC {
            let is = has.get("min.insync.replicas").map_or("", String::as_str);
            faults.push(format!("{name} has min.insync.replicas={is}: set 2, or allow fewer replicas"));
        }
        if replicas < REPLICAS {
            faults
                .push(format!("{name} has {replicas} replicas: give it {REPLICAS}, or allow fewer replicas"));
        }
    }
    if replicas > 1 && min_insync >= replicas {
        faults.push(format!(
            "{name} has min.insync.replicas={min_insync} with {replicas} replicas, so that writes end with any broker: set {}",
            replicas - 1
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> KafkaSettings {
        KafkaSettings::new("kafka://k:1/p".parse().unwrap())
    }

    /// A topic as it is made, with these changes.
    fn judged(
        settings: &KafkaSettings,
        topic: Topic,
        changes: &[(&str, &str)],
        partitions: &[(usize, usize)],
    ) -> Seen {
        let mut has: BTreeMap<String, String> =
            made_with(topic, &strict()).into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        has.insert("min.insync.replicas".into(), "2".into());
        has.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let layout = Layout { partitions: partitions.to_vec(), has_leaders: true };
        judge(settings, topic, settings.topic(topic), &layout, &has)
    }

    #[test]
    fn what_is_made_passes() {
        for topic in Topic::ALL {
            let seen = judged(&strict(), topic, &[], &[(3, 3)]);
            assert_eq!(seen.faults, Vec::<String>::new());
            assert_eq!((seen.partitions, seen.replicas, seen.in_sync, seen.min_insync), (1, 3, 3, 2));
        }
    }

    #[test]
    fn each_wrong_setting_is_named_with_what_to_set() {
        for (topic, key, value, expected) in [
            (Topic::Order, "cleanup.policy", "compact", "p.order has cleanup.policy=compact: set delete"),
            (
                Topic::Files,
                "cleanup.policy",
                "delete,compact",
                "p.files has cleanup.policy=delete,compact: set delete",
            ),
            (Topic::Nodes, "cleanup.policy", "delete", "p.nodes has cleanup.policy=delete: set compact"),
            (Topic::Order, "retention.ms", "604800000", "p.order has retention.ms=604800000: set -1"),
            (Topic::Files, "retention.bytes", "1000", "p.files has retention.bytes=1000: set -1"),
            (
                Topic::Order,
                "unclean.leader.election.enable",
                "true",
                "p.order has unclean.leader.election.enable=true: set false",
            ),
            (
                Topic::Order,
                "message.timestamp.type",
                "CreateTime",
                "p.order has message.timestamp.type=CreateTime: set LogAppendTime",
            ),
            (
                Topic::Files,
                "max.message.bytes",
                "1048588",
                "p.files has max.message.bytes=1048588: set 2097152 or more",
            ),
            (
                Topic::Order,
                "flush.messages",
                "9223372036854775807",
                "p.order has flush.messages=9223372036854775807: set 1",
            ),
            (Topic::Order, "compression.type", "gzip", "p.order has compression.type=gzip: set producer"),
            (
                Topic::Order,
                "min.insync.replicas",
                "1",
                "p.order has min.insync.replicas=1: set 2, or allow fewer replicas",
            ),
            (
                Topic::Order,
                "min.insync.replicas",
                "3",
                "p.order has min.insync.replicas=3 with 3 replicas, so that writes end with any broker: set 2",
            ),
        ] {
            assert_eq!(judged(&strict(), topic, &[(key, value)], &[(3, 3)]).faults, [expected]);
        }
        let two = judged(&strict(), Topic::Order, &[], &[(3, 3), (3, 3)]);
        assert_eq!(two.faults, ["p.order has 2 partitions, which have no common order: make it anew with 1"]);
        let few = judged(&strict(), Topic::Order, &[], &[(1, 1)]);
        assert_eq!(few.faults, ["p.order has 1 replicas: give it 3, or allow fewer replicas"]);
    }

    #[test]
    fn what_is_allowed_is_no_fault() {
        let settings = KafkaSettings { allow_fewer_replicas: true, trust_replication: true, ..strict() };
        let seen = judged(
            &settings,
            Topic::Order,
            &[("flush.messages", "100"), ("min.insync.replicas", "1")],
            &[(1, 1)],
        );
        assert_eq!(seen.faults, Vec::<String>::new());
        assert_eq!(seen.too_few_in_sync(), None);
    }

    #[test]
    fn of_the_topic_of_changes_only_what_loses_events_is_a_fault() {
        let check = |settings: &KafkaSettings, changes: &[(&str, &str)], replicas, expected: &[&str]| {
            let of = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let mut has: BTreeMap<String, String> = changes_made_with().iter().map(of).collect();
            has.insert("min.insync.replicas".into(), "2".into());
            has.extend(changes.iter().map(of));
            let layout = Layout { partitions: vec![(replicas, replicas); 4], has_leaders: true };
            assert_eq!(judge_changes(settings, "c", &layout, &has), expected);
        };
        let owners = [("retention.ms", "1000"), ("flush.messages", "9"), ("max.message.bytes", "9")];
        check(&strict(), &owners, 3, &[]);
        check(&strict(), &[("cleanup.policy", "compact")], 3, &["c has cleanup.policy=compact: set delete"]);
        let unclean = ("unclean.leader.election.enable", "true");
        check(&strict(), &[unclean], 3, &["c has unclean.leader.election.enable=true: set false"]);
        let few = [("min.insync.replicas", "1")];
        let one = "c has min.insync.replicas=1: set 2, or allow fewer replicas";
        check(&strict(), &few, 1, &[one, "c has 1 replicas: give it 3, or allow fewer replicas"]);
        check(&KafkaSettings { allow_fewer_replicas: true, ..strict() }, &few, 1, &[]);
    }

    #[test]
    fn too_few_in_sync_is_told() {
        let seen = judged(&strict(), Topic::Order, &[], &[(3, 1)]);
        assert_eq!(seen.faults, Vec::<String>::new());
        let told = "p.order takes no writes: 1 of 3 replicas are in sync, min.insync.replicas is 2";
        assert_eq!(seen.too_few_in_sync().as_deref(), Some(told));
    }
}
