//! The order over Kafka, on real brokers.
//!
//! ```text
//! brokers.rs pom.xml   one to three brokers of a test's own
//! network.rs           hosts of a test's own, and a router that cuts them off from each other
//! topics.rs            topics made and checked
//! log.rs               records appended, read, deleted; a leader killed; a topic made anew
//! changes.rs           the topic of changes, filled by a node, while broker and node die
//! nodes/               nodes that are real daemons, with faults of all sorts under load
//! ```
//!
//! Where there is no Java or no Maven, the tests say `skipped:` and what is missing. `PROFILED_KAFKA_JARS` names the folder for
//! Kafka's jars, `PROFILED_KAFKA_HEAP_MIB` how much memory a broker gets, `PROFILED_FAULTS` which faults of the table to try
//! (`"new node|clock"`), `CLUSTER_ROUNDS` how often each. Where the test is not root, or there is no `ip`, the faults of networks and
//! disks are skipped, and it says so.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

mod brokers;
mod changes;
mod log;
mod network;
mod nodes;
#[path = "../support/mod.rs"]
mod support;
mod topics;

use std::sync::{Mutex, MutexGuard, PoisonError};

use brokers::Brokers;
use profiled::kafka::settings::KafkaSettings;
use profiled::kafka::topics::ensure;

/// Settings of an order on these brokers, content with few of them.
fn settings(brokers: &Brokers, prefix: &str) -> KafkaSettings {
    let mut settings = KafkaSettings::new(brokers.address(prefix).parse().unwrap());
    settings.allow_fewer_replicas = true;
    settings
}

/// The same, with the topics made.
fn order(brokers: &Brokers, prefix: &str) -> KafkaSettings {
    let settings = settings(brokers, prefix);
    ensure(&settings).unwrap();
    settings
}

/// Brokers need a core each; tests take turns.
fn in_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line past the capture of output.
fn say(line: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn one_broker() {
    let _turn = in_turn();
    let from = std::time::Instant::now();
    let Some(mut brokers) = Brokers::start(1) else { return };
    say(&format!("one broker: {:.1} s to start", from.elapsed().as_secs_f32()));
    topics::missing_topics_are_made_and_each_wrong_setting_is_refused_by_name(&brokers);
    std::thread::scope(|scope| {
        // This one waits for most of its time.
        scope.spawn(|| topics::properties_reach_librdkafka(&brokers));
        log::records_come_back_in_order_with_the_times_of_the_log(&brokers);
        log::deleted_records_are_gone_and_offsets_stay(&brokers);
        log::offers_are_gathered_and_come_back_once(&brokers);
        log::a_topic_made_anew_is_noticed(&brokers);
    });
    log::a_producer_without_brokers_says_unknown_and_goes_on(&mut brokers);
    changes::what_a_node_tells_is_in_the_topic_once_though_broker_and_node_die(&mut brokers);
}

#[test]
fn three_brokers() {
    let _turn = in_turn();
    let from = std::time::Instant::now();
    let Some(mut brokers) = Brokers::start(3) else { return };
    say(&format!("three brokers: {:.1} s to start", from.elapsed().as_secs_f32()));
    topics::three_replicas_are_made_and_those_in_sync_are_counted(&mut brokers);
    log::nothing_acknowledged_is_missing_after_the_leader_died(&mut brokers);
}

#[test]
fn nodes_give_each_other_what_one_lacks() {
    let _turn = in_turn();
    let Some(brokers) = Brokers::start(1) else { return };
    nodes::peers::a_node_gets_from_another_what_it_lacks(&brokers);
}

#[test]
fn nodes_stay_equal_and_lose_nothing_whatever_fails() {
    let _turn = in_turn();
    nodes::faults::table();
}
