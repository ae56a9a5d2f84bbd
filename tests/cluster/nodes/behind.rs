//! Topics that somebody changed behind the nodes' back: made anew, truncated, with wrong settings, with requests of a newer
//! program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use profiled::engine::commit::wire::{RULES_VERSION, founding};
use profiled::kafka::topics::ensure;
use profiled::order::record::{ClusterId, Offers, RunId};
use profiled::order::{Log as _, Offset};
use rdkafka::admin::AdminOptions;
use rustix::process::Signal;
use serde_bytes::ByteBuf;

use super::{PREFIX, Site, Topic, name, settings_of, within};
use crate::support::Daemon;
use crate::topics::{self, WRONG};

/// What only topics of three replicas can have wrong.
const WRONG_REPLICAS: [(Topic, &str, &str); 2] =
    [(Topic::Order, "min.insync.replicas", "1"), (Topic::Files, "min.insync.replicas", "3")];
/// How a node says that its order is another one by now.
const NOT_THE_SAME: &str = "is not the one that this node has read";
const AWAY_FOR_TOO_LONG: &str = "it was away for too long";

impl Site {
    /// Kills a node, deletes from the order what the others have in snapshots, and starts it again. Gives how long it took
    /// until it was ready with an empty folder.
    pub(super) fn come_back_too_late(&mut self, node: usize) -> Duration {
        self.kill_node(node);
        self.trim_without(node);
        // What it has is older than what the order has.
        self.refuses(node, AWAY_FOR_TOO_LONG);
        self.start_emptied(node)
    }

    /// Makes a node stand still, deletes from the order what it has not applied, and lets it go on: it ends, and refuses to
    /// start. Gives how long it took until it was ready with an empty folder.
    pub(super) fn truncate_before(&mut self, node: usize) -> Duration {
        self.signal_node(node, Signal::STOP);
        self.load.set_address(node, None);
        self.trim_without(node);
        self.signal_node(node, Signal::CONT);
        self.wait_for_end(node, AWAY_FOR_TOO_LONG);
        self.refuses(node, AWAY_FOR_TOO_LONG);
        self.start_emptied(node)
    }

    /// Deletes from the order what all nodes but this one have in snapshots: that is more than it has applied.
    pub(super) fn trim_without(&mut self, node: usize) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        let end = self.log(Topic::Order).ends().unwrap().1;
        self.load.wait_for_acknowledgements();
        others.iter().for_each(|&other| self.snapshot_of(other));
        let before = within("snapshots of all other nodes", || {
            let reports = self.reports();
            let covered = others.iter().map(|&other| reports[&name(other)].snapshot).min().unwrap();
            (covered >= end.0).then_some(covered)
        });
        self.log(Topic::Order).delete_before(Offset(before)).unwrap();
    }

    /// Starts a node with an empty folder.
    pub(super) fn start_emptied(&mut self, node: usize) -> Duration {
        std::fs::remove_dir_all(self.nodes[node].data()).unwrap();
        self.start_node(node)
    }

    /// A node does not start while a topic has a setting that loses records: each one by itself. On an order of its own, which
    /// nobody writes to, for some of these do lose records.
    pub(super) fn refuse_each_wrong_setting(&self) -> Duration {
        const OWN: &str = "wrong";
        let settings = {
            let mut settings = crate::settings(&self.brokers, OWN);
            settings.allow_fewer_replicas = false;
            settings
        };
        ensure(&settings).unwrap();
        let mut node = Daemon::configured(&settings_of("alone", &self.brokers.address(OWN), ""));
        node.keep_complaints();
        for (topic, key, wrong) in WRONG.into_iter().chain(WRONG_REPLICAS) {
            let topic = settings.topic(topic);
            let before = topics::set(&self.brokers, &topic, key, Some(wrong));
            assert!(node.try_restart().is_err(), "it starts though {topic} has {key}={wrong}");
            let said = node.complaints();
            let words = format!("{topic} has {key}={wrong}");
            assert!(said.contains(&words) && said.contains(": set "), "{words}: {said}");
            topics::set(&self.brokers, &topic, key, before.as_deref());
        }
        let right = Instant::now();
        node.restart();
        right.elapsed()
    }

    /// Deletes the order's topic and makes it anew, while the nodes write to it, or while nobody does: every node ends and says so,
    /// and none starts on it. Then a new order begins with what the nodes have. Gives how long it took until all were ready.
    pub(super) fn make_order_anew(&mut self, in_silence: bool) -> Duration {
        let load = Arc::clone(&self.load.shared);
        let held = in_silence.then(|| load.hold());
        let end = self.log(Topic::Order).ends().unwrap().1;
        self.delete_order();
        within("the topic to be made anew", || {
            ensure(&crate::settings(&self.brokers, PREFIX)).ok()?;
            (self.log(Topic::Order).ends().ok()?.1 < end).then_some(())
        });
        let anew = Instant::now();
        for node in 0..self.nodes.len() {
            self.wait_for_end(node, NOT_THE_SAME);
        }
        drop(held);
        crate::say(&format!(
            "all nodes have ended {:.1} s after the order's topic was made anew",
            anew.elapsed().as_secs_f32()
        ));
        // What they wrote meanwhile is no order.
        self.delete_order();
        within("the topic to be made anew", || ensure(&crate::settings(&self.brokers, PREFIX)).ok());
        for node in 0..self.nodes.len() {
            self.refuses(node, "profiled cluster found --anew");
        }
        self.begin_anew()
    }

    /// A request in the order that only a newer program knows: every node ends before it and says so, and none starts. Then a new
    /// order begins with what the nodes have. Gives how long it took until all were ready.
    pub(super) fn offer_newer_rules(&mut self) -> Duration {
        let mut request = founding(ClusterId::default(), false).unwrap();
        // The first byte of a request is the version of the rules that it wants.
        request[0] = RULES_VERSION + 1;
        let requests = vec![ByteBuf::from(request)];
        let offers = Offers { run: RunId::random().unwrap(), first: 1, clock_ms: 1, requests };
        let (tell, told) = std::sync::mpsc::channel();
        let log = self.log(Topic::Order);
        log.append(b"", offers.encode().unwrap(), Box::new(move |outcome| tell.send(outcome).unwrap()));
        told.recv().unwrap().unwrap();
        let words = format!(
            "has version {}, and this program knows versions up to {RULES_VERSION}",
            RULES_VERSION + 1
        );
        for node in 0..self.nodes.len() {
            self.wait_for_end(node, &words);
        }
        for node in 0..self.nodes.len() {
            self.refuses(node, &words);
        }
        self.delete_order();
        self.begin_anew()
    }

    /// Begins a new order with what the node has that applied most; the others get it from there. None runs, and there is no
    /// order.
    fn begin_anew(&mut self) -> Duration {
        let begun = Instant::now();
        let reports = self.reports();
        let all = 0..self.nodes.len();
        let most = all.clone().max_by_key(|&node| reports[&name(node)].applied).unwrap();
        within("a new order", || {
            let (code, said, why) = self.nodes[most].run(&["cluster", "found", "--anew"]);
            crate::say(&format!("{said}{why}"));
            (code == Some(0)).then_some(())
        });
        self.start_node(most);
        for node in all.filter(|&node| node != most) {
            self.start_emptied(node);
        }
        begun.elapsed()
    }

    fn delete_order(&self) {
        let (admin, topic) = (self.brokers.admin(), format!("{PREFIX}.order"));
        block_on(admin.delete_topics(&[&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    }
}
