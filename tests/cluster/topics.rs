//! The order's topics on real brokers.

use std::collections::BTreeMap;

use futures_executor::block_on;
use profiled::kafka::log::KafkaLog;
use profiled::kafka::settings::Topic;
use profiled::kafka::topics::{ensure, look};
use profiled::order::OrderError;
use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};

use crate::brokers::Brokers;
use crate::settings;
use crate::support::wait_for;

/// Settings that a topic must not have.
pub(crate) const WRONG: [(Topic, &str, &str); 11] = [
    (Topic::Order, "cleanup.policy", "compact"),
    (Topic::Files, "cleanup.policy", "compact,delete"),
    (Topic::Nodes, "cleanup.policy", "delete"),
    (Topic::Order, "retention.ms", "604800000"),
    (Topic::Files, "retention.bytes", "1000000"),
    (Topic::Order, "unclean.leader.election.enable", "true"),
    (Topic::Order, "message.timestamp.type", "CreateTime"),
    (Topic::Nodes, "message.timestamp.type", "CreateTime"),
    (Topic::Files, "max.message.bytes", "1048588"),
    (Topic::Order, "flush.messages", "10000"),
    (Topic::Order, "compression.type", "gzip"),
];

pub(crate) fn missing_topics_are_made_and_each_wrong_setting_is_refused_by_name(brokers: &Brokers) {
    let mut settings = settings(brokers, "topics");
    settings.allow_fewer_replicas = false;
    let error = ensure(&settings).unwrap_err().to_string();
    assert!(error.contains("there are 1 brokers for 3 replicas"), "{error}");
    assert!(matches!(look(&settings), Err(OrderError::NotTheSame(_))));

    settings.allow_fewer_replicas = true;
    let seen = ensure(&settings).unwrap();
    let names: Vec<_> = seen.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["topics.order", "topics.files", "topics.nodes"]);
    for it in &seen {
        assert_eq!((it.partitions, it.replicas, it.in_sync, it.min_insync), (1, 1, 1, 1), "{it:?}");
        assert_eq!(it.faults, Vec::<String>::new());
    }
    assert_eq!(ensure(&settings).unwrap(), seen, "a second time finds them");

    // Those of another who is stricter.
    settings.allow_fewer_replicas = false;
    let error = ensure(&settings).unwrap_err().to_string();
    for words in ["topics.order has min.insync.replicas=1: set 2", "topics.order has 1 replicas: give it 3"] {
        assert!(error.contains(words), "{error}");
    }
    settings.allow_fewer_replicas = true;

    for (topic, key, wrong) in WRONG {
        let name = settings.topic(topic);
        let before = set(brokers, &name, key, Some(wrong));
        let error = ensure(&settings).unwrap_err();
        assert!(matches!(error, OrderError::Refused(_)), "{error:?}");
        let words = format!("{name} has {key}={wrong}: set ");
        assert!(error.to_string().contains(&words), "{error}");
        // Looking finds the same, and is no error.
        let seen = look(&settings).unwrap();
        assert_eq!(seen.iter().map(|it| it.faults.len()).sum::<usize>(), 1, "{seen:?}");
        let trusting =
            profiled::kafka::settings::KafkaSettings { trust_replication: true, ..settings.clone() };
        assert_eq!(ensure(&trusting).is_ok(), key == "flush.messages", "{key}");
        set(brokers, &name, key, before.as_deref());
    }
    ensure(&settings).unwrap();

    // Two partitions have no common order.
    let admin = brokers.admin();
    let two = NewTopic::new("two.order", 2, TopicReplication::Fixed(1));
    block_on(admin.create_topics([&two], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    let two = crate::settings(brokers, "two");
    let error = ensure(&two).unwrap_err().to_string();
    assert!(error.contains("two.order has 2 partitions"), "{error}");
    assert!(error.contains("two.order has retention.ms=604800000: set -1"), "all is named at once: {error}");
}

/// Sets one of a topic's settings; gives what it was. Waits until the broker has it.
pub(crate) fn set(brokers: &Brokers, name: &str, key: &str, value: Option<&str>) -> Option<String> {
    let admin = brokers.admin();
    let options = AdminOptions::new();
    let has = || {
        let described =
            block_on(admin.describe_configs([&ResourceSpecifier::Topic(name)], &options)).unwrap();
        let entries = described.into_iter().next().unwrap().unwrap().entries;
        // What was set for this topic: all of it is replaced.
        let own =
            entries.into_iter().filter(|it| matches!(it.source, rdkafka::admin::ConfigSource::DynamicTopic));
        own.map(|it| (it.name, it.value.unwrap())).collect::<BTreeMap<_, _>>()
    };
    let mut all = has();
    let before = match value {
        Some(value) => all.insert(key.to_owned(), value.to_owned()),
        None => all.remove(key),
    };
    let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(name));
    for (key, value) in &all {
        wanted = wanted.set(key, value);
    }
    assert!(block_on(admin.alter_configs([&wanted], &options)).unwrap()[0].is_ok());
    wait_for("the topic's new setting", || (has() == all).then_some(()));
    before
}

pub(crate) fn properties_reach_librdkafka(brokers: &Brokers) {
    for (name, value, words) in [
        ("no.such.property", "1", "No such configuration property: \"no.such.property\""),
        (
            "security.protocol",
            "nonsense",
            "Invalid value \"nonsense\" for configuration property \"security.protocol\"",
        ),
        ("socket.timeout.ms", "-5", "outside allowed range"),
        ("acks", "1", "an acknowledged write must be on all in-sync replicas"),
    ] {
        let mut settings = settings(brokers, "properties");
        settings.properties.insert(name.into(), value.into());
        for error in
            [ensure(&settings).map(drop).unwrap_err(), KafkaLog::open(&settings, Topic::Order).err().unwrap()]
        {
            assert!(
                matches!(error, OrderError::Refused(_)) && error.to_string().contains(words),
                "{name}: {error}"
            );
            assert!(error.to_string().contains("[cluster.kafka]"), "{error}");
        }
    }
    // One that is right does what it says: these brokers don't speak SASL, and close the connection.
    let mut settings = settings(brokers, "properties");
    for (name, value) in [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "me"),
        ("sasl.password", "hunter2"),
        ("socket.timeout.ms", "1500"),
    ] {
        settings.properties.insert(name.into(), value.into());
    }
    let error = look(&settings).unwrap_err();
    assert!(
        matches!(error, OrderError::OutOfReach(_)) && !error.to_string().contains("hunter2"),
        "{error:?}"
    );
    #[cfg(feature = "cluster-tls")]
    {
        let mut settings = crate::settings(brokers, "properties");
        settings.properties.insert("security.protocol".into(), "ssl".into());
        settings.properties.insert("ssl.ca.location".into(), "/no/such/file.pem".into());
        let error = ensure(&settings).unwrap_err().to_string();
        assert!(error.contains("ssl.ca.location"), "{error}");
    }
    #[cfg(not(feature = "cluster-tls"))]
    {
        let mut settings = crate::settings(brokers, "properties");
        settings.properties.insert("security.protocol".into(), "ssl".into());
        let error = ensure(&settings).unwrap_err().to_string();
        assert!(error.contains("OpenSSL not available at build time"), "{error}");
    }
}

pub(crate) fn three_replicas_are_made_and_those_in_sync_are_counted(brokers: &mut Brokers) {
    let mut settings = settings(brokers, "three");
    settings.allow_fewer_replicas = false;
    for it in ensure(&settings).unwrap() {
        assert_eq!((it.partitions, it.replicas, it.min_insync), (1, 3, 2), "{it:?}");
    }
    let in_sync = |count| {
        wait_for(&format!("{count} replicas in sync"), || {
            let seen = look(&settings).ok()?;
            seen.iter().all(|it| it.in_sync == count).then_some(seen)
        })
    };
    in_sync(3);
    let gone = (brokers.leader_of("three.order") + 1) % 3;
    brokers.kill9(gone);
    assert!(in_sync(2).iter().all(|it| it.too_few_in_sync().is_none()));
    brokers.restart(gone);
    brokers.wait_for_all();
    in_sync(3);
}
