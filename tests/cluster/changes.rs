//! The topic of changes on a real broker, filled by a real node.

use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::brokers::Brokers;
use crate::support::{Daemon, wait_for};

const TOPIC: &str = "changes.events";
const PARTITIONS: i32 = 6;

/// An event as a consumer gets it.
struct Event {
    partition: i32,
    key: Option<String>,
    value: Value,
}

/// All that is in the topic now, one partition after the other.
fn consumed(brokers: &Brokers) -> Vec<Event> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers.servers())
        .set("group.id", "changes")
        .set("log_level", "2")
        .create()
        .unwrap();
    let second = Duration::from_secs(1);
    let mut events = vec![];
    for partition in 0..PARTITIONS {
        let ends =
            wait_for("a partition's ends", || consumer.fetch_watermarks(TOPIC, partition, second).ok());
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        consumer.assign(&assigned).unwrap();
        let mut next = ends.0;
        while next < ends.1 {
            let Some(message) = consumer.poll(second) else { continue };
            let Ok(message) = message else { continue };
            next = message.offset() + 1;
            let key = message.key().map(|key| String::from_utf8(key.to_vec()).unwrap());
            let value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            events.push(Event { partition, key, value });
        }
    }
    events
}

/// What the feed over HTTP tells, each with its client as the topic has it. Without what it says of itself.
fn fed(node: &Daemon) -> Vec<Value> {
    let feed = node.get("/api/v1/changes?client=demo&since=0").text();
    let told = feed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let with_client = told.filter(|event| event["event"] != "upTo").map(|mut event| {
        event["client"] = "demo".into();
        event
    });
    with_client.collect()
}

/// Waits until the topic has all that the feed tells.
fn all(brokers: &Brokers, node: &Daemon) -> Vec<Event> {
    let told = fed(node);
    wait_for("the topic to have all that the feed tells", || {
        let events = consumed(brokers);
        told.iter().all(|told| events.iter().any(|event| event.value == *told)).then_some(events)
    })
}

/// The partition that Java's client takes for a key.
fn partition_in_java(key: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).unwrap();
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^= hash >> 15;
    i32::try_from(hash & 0x7fff_ffff).unwrap() % PARTITIONS
}

fn ready(node: &Daemon) {
    wait_for("the node to be ready", || (node.get("/readyz").status == 200).then_some(()));
}

pub(crate) fn what_a_node_tells_is_in_the_topic_once_though_broker_and_node_die(brokers: &mut Brokers) {
    let settings = format!(
        "[cluster]\norder = \"{}\"\nnode = \"a\"\nallow_fewer_replicas = true\nchanges_topic = \"{TOPIC}\"\n\
         [clients.demo]\nv2_creates_profiles = true\n",
        brokers.address("changes")
    );
    let mut node = Daemon::configured(&settings);
    node.keep_complaints();
    node.restart();
    ready(&node);
    for n in 0..20 {
        node.mbox("demo", &format!("mboxPC=p{n}&profile.a=one"));
    }
    let rows: String = (0..50).map(|n| format!("p{n},two\n")).collect();
    let batch = node.post_batch("demo", format!("batch=pcId,a\n{rows}"));
    node.wait_complete(&batch);
    let events = all(brokers, &node);
    assert_eq!(events.iter().filter(|event| event.value["event"] == "row").count(), 50);
    for event in &events {
        match &event.key {
            Some(key) => assert_eq!(event.partition, partition_in_java(key.as_bytes()), "{key}"),
            None => assert!(event.value["event"].as_str().unwrap().starts_with("batch"), "{}", event.value),
        }
    }
    let batches = events.iter().filter(|event| event.value["event"] == "batch").map(|event| event.partition);
    assert_eq!(batches.collect::<Vec<_>>(), (0..PARTITIONS).collect::<Vec<_>>(), "each partition has it");
    assert!(events.iter().map(|event| event.partition).any(|partition| partition != events[0].partition));

    // The broker dies and comes back under a node that goes on.
    brokers.kill9(0);
    brokers.restart(0);
    brokers.wait_for_all();
    wait_for("a call to be taken", || {
        let answer = node.post_form("/m2/demo/mbox/json", "mboxPC=p1&profile.a=meanwhile");
        (answer.status == 200).then_some(())
    });
    all(brokers, &node);

    // Events may be on their way when the broker dies, and the node is killed while it is away.
    for n in 0..20 {
        node.mbox("demo", &format!("mboxPC=p{n}&profile.a=three"));
    }
    brokers.kill9(0);
    node.kill9();
    brokers.restart(0);
    brokers.wait_for_all();
    node.restart();
    ready(&node);
    node.mbox("demo", "mboxPC=p1&profile.a=four");
    let events = all(brokers, &node);
    let first = events.iter().filter(|event| {
        let of_p1 = event.value["id"]["id"] == "p1" && event.value["event"] == "write";
        of_p1 && event.value["set"]["a"] == "one"
    });
    assert_eq!(first.count(), 1, "the node began anew");

    // A topic that throws events away is not taken, and the node goes on without it.
    let resource = ResourceSpecifier::Topic(TOPIC);
    let wrong = AlterConfig::new(resource).set("cleanup.policy", "compact");
    assert!(block_on(brokers.admin().alter_configs([&wrong], &AdminOptions::new())).unwrap()[0].is_ok());
    node.kill9();
    node.restart();
    ready(&node);
    node.mbox("demo", "mboxPC=p1&profile.a=five");
    wait_for("people to be told", || {
        let status = node.get("/api/v1/cluster").text();
        status.contains("changes.events has cleanup.policy=compact: set delete").then_some(())
    });
}
