//! Who is there: reports how this node is, reads the other nodes' reports, compares sums, and trims the order.
//!
//! Promises: nothing is deleted from the order that a node may need which reported within the time that is set. A node whose
//! sum differs from that of most others ends, and does not start again on that folder, because its data is not what the order says.

use super::changes::{Outlet, Turns, WriteEvent};
use super::folder::FolderCluster;
use super::join::{Identity, append};
use super::report::{NodeReport, NodeState};
use super::roster::{Member, Roster, Watched};
use super::transport::Transport;
use crate::engine::commit::wire::RULES_VERSION;
use crate::engine::{Engine, OrderStatus};
use crate::model::seq::Millis;
use crate::order::listen::listen;
use crate::order::record::{ClusterId, RunId};
use crate::order::{Offset, OrderError, SHORT_AFTER};
use crate::sync::unpoisoned;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How often a node reports. It also does once it has taken in a file, because others wait for that.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How often the topics are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the order is trimmed, if there is something to delete.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// How many sums of a node are kept for comparison.
const SUMS_KEPT: usize = 32;
/// How long a stop waits until it is noted how far changes were passed on. Without that, the next node passes some on again.
const OUTLET_END: Duration = Duration::from_secs(1);
/// How long a node that cannot report waits.
const AGAIN: Duration = Duration::from_millis(500);

/// Watches the nodes of an order.
pub struct Members {
    engine: Engine,
    transport: Transport,
    who: Identity,
    cluster: ClusterId,
    run: RunId,
    wait_for_node: Duration,
    outlet: Option<Outlet>,
    roster: Arc<Roster>,
    sums: Mutex<BTreeMap<String, BTreeMap<u64, u32>>>,
    stopping: Mutex<bool>,
    stop: Condvar,
}

impl Members {
    /// Starts to watch. The threads end with [`Members::stop`]. `write` is how changes are written, if they go to a topic.
    pub fn start(
        engine: Engine,
        transport: Transport,
        who: Identity,
        (cluster, run): (ClusterId, RunId),
        (wait_for_node, roster): (Duration, Arc<Roster>),
        write: WriteEvent,
    ) -> std::io::Result<Arc<Self>> {
        let outlet = transport.changes.clone().map(|topic| Outlet::new(topic, write));
        let members = Arc::new(Self {
            engine,
            transport,
            who,
            cluster,
            run,
            wait_for_node,
            outlet,
            roster,
            sums: Mutex::default(),
            stopping: Mutex::new(false),
            stop: Condvar::new(),
        });
        let (reads, reports) = (Arc::clone(&members), Arc::clone(&members));
        std::thread::Builder::new().name("members".into()).spawn(move || reads.read())?;
        std::thread::Builder::new().name("reports".into()).spawn(move || reports.report_on())?;
        if members.outlet.is_some() {
            let passes_on = Arc::clone(&members);
            std::thread::Builder::new().name("changes".into()).spawn(move || passes_on.pass_changes_on())?;
        }
        Ok(members)
    }

    /// What is known of the nodes now.
    pub fn watched(&self) -> Watched {
        self.roster.watched().clone()
    }

    /// The nodes, to ask them.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Which order it is.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        &self.who.name
    }

    /// Says that this node was stopped in order, and ends. Blocks for a moment.
    pub fn stop(&self) {
        *unpoisoned(self.stopping.lock()) = true;
        self.stop.notify_all();
        self.roster.make_due();
        if let Some(outlet) = &self.outlet {
            outlet.wait_for_end(OUTLET_END);
        }
        let stopped = NodeReport { state: NodeState::Stopped, ..self.report() };
        drop(append(&*self.transport.nodes, self.who.name.as_bytes(), stopped.encode()));
    }

    fn is_stopping(&self) -> bool {
        *unpoisoned(self.stopping.lock())
    }

    /// Waits for so long, or until it is to end.
    fn wait(&self, time: Duration) {
        let stopping = unpoisoned(self.stopping.lock());
        drop(self.stop.wait_timeout_while(stopping, time, |stopping| !*stopping));
    }

    fn report(&self) -> NodeReport {
        let order = self.engine.order();
        let state = order.as_ref().map_or(NodeState::Starting, state_of);
        let (checksum_at, checksum) =
            order.as_ref().and_then(|order| order.mark).map_or((0, 0), |(at, sum)| (at.0, sum));
        NodeReport {
            name: self.who.name.clone(),
            run: self.run.to_string(),
            cluster: self.cluster.to_string(),
            address: self.who.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rules: RULES_VERSION,
            state,
            applied: order.as_ref().map_or(0, |order| order.applied.0),
            applied_at_ms: order.as_ref().map_or(0, |order| order.applied_at.0),
            snapshot: order.as_ref().map_or(0, |order| order.snapshot.0),
            pieces: order.as_ref().map_or(0, |order| order.pieces.0),
            files: order.as_ref().map_or(0, |order| order.files.0),
            checksum,
            checksum_at,
            settings: self.who.settings.clone(),
            disk_free: self.engine.vitals().disk_free_bytes,
            changes_topic: self.outlet.as_ref().map(|outlet| outlet.name().to_owned()),
        }
    }

    /// This node, as it is now.
    pub(super) fn own(&self) -> Member {
        let (report, order) = (self.report(), self.engine.order());
        let end = order.map_or(0, |order| order.end.0);
        let (newest, files) = (Millis(report.applied_at_ms), report.files);
        Member { report, at: newest, heard: Instant::now(), end, newest, files }
    }

    fn report_on(&self) {
        let (mut looked, mut trimmed): (Option<Instant>, Option<Instant>) = (None, None);
        let mut short_since: Option<Instant> = None;
        loop {
            let report = self.report().encode();
            if let Err(error) = append(&*self.transport.nodes, self.who.name.as_bytes(), report) {
                tracing::debug!(%error, "this node could not report");
            }
            match self.transport.order.ends() {
                Ok((low, end)) => {
                    self.engine.heard_of_order_end(end);
                    self.roster.watched().order = (low.0, end.0);
                    self.give_up_if_short(end, &mut short_since);
                }
                Err(error) => tracing::debug!(%error, "the order's end was not heard"),
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                self.look();
            }
            if trimmed.is_none_or(|at| at.elapsed() >= TRIM_EVERY) {
                trimmed = Some(Instant::now());
                if let Err(error) = self.trim() {
                    tracing::warn!(%error, "the order could not be trimmed");
                }
            }
            self.roster.wait_until_due(REPORT_EVERY);
            if self.is_stopping() {
                return;
            }
        }
    }

    /// Ends the node if the order has been shorter than what this node has applied for a while: then it is another one. A new
    /// leader may say so for a moment.
    fn give_up_if_short(&self, end: Offset, since: &mut Option<Instant>) {
        let applied = self.engine.order().map_or(Offset(0), |order| order.applied);
        if end >= applied {
            *since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() >= SHORT_AFTER {
            self.engine.give_up(&format!(
                "the order is not the one that this node has read: it ends at {end}, and this node has applied it up to {applied}"
            ));
        }
    }

    /// Looks whether the topics still are as they must be.
    fn look(&self) {
        let faults = match (self.transport.look)() {
            Ok(faults) => faults,
            Err(error) => vec![error.to_string()],
        };
        let mut watched = self.roster.watched();
        if watched.faults != faults {
            for fault in &faults {
                tracing::error!(%fault, "a topic of the order is not as it must be");
            }
        }
        watched.faults = faults;
        if let Ok((low, end)) = self.transport.pieces.ends() {
            watched.pieces = (low.0, end.0);
        }
    }

    fn read(&self) {
        let mut next: Option<Offset> = None;
        while !self.is_stopping() {
            if let Err(error) = self.read_on(&mut next) {
                tracing::debug!(%error, "the other nodes' reports cannot be read just now");
                self.wait(AGAIN);
            }
        }
    }

    fn read_on(&self, next: &mut Option<Offset>) -> Result<(), OrderError> {
        let from = match *next {
            Some(next) => next,
            None => self.transport.nodes.ends()?.0,
        };
        let mut reader = listen(&self.transport.nodes, from)?;
        while !self.is_stopping() {
            let Some(record) = reader.next(AGAIN)? else { continue };
            *next = Some(record.offset.next());
            if let Some(report) = NodeReport::decode(&record.value) {
                self.heard(report, record.time);
            }
        }
        Ok(())
    }

    fn heard(&self, report: NodeReport, at: Millis) {
        if !report.cluster.is_empty() && report.cluster != self.cluster.to_string() {
            return;
        }
        let mut watched = self.roster.watched();
        let name = report.name.clone();
        if report.checksum_at > 0 {
            let mut sums = unpoisoned(self.sums.lock());
            let of_node = sums.entry(name.clone()).or_default();
            of_node.insert(report.checksum_at, report.checksum);
            while of_node.len() > SUMS_KEPT {
                of_node.pop_first();
            }
            watched.sums_differ = differing(&sums, &self.who.name);
            if let Some(why) = against_most(&sums, &self.who.name) {
                self.note_diverged();
                self.engine.give_up(&why);
            }
        }
        let differs = report.settings != self.who.settings && report.state != NodeState::Stopped;
        let known = watched.settings_differ.contains(&name);
        if differs && !known {
            tracing::warn!(
                node = name,
                "its settings that shape outcomes differ from this node's: calls have other outcomes there"
            );
            watched.settings_differ.push(name.clone());
        } else if !differs {
            watched.settings_differ.retain(|other| *other != name);
        }
        let order = self.engine.order();
        let (end, files) = order.as_ref().map_or((0, 0), |order| (order.end.0, order.files.0));
        let newest = order.map_or(Millis(0), |order| order.applied_at).max(Millis(report.applied_at_ms));
        drop(watched);
        self.roster.note(Member { report, at, heard: Instant::now(), end, newest, files });
    }

    /// Notes in the folder that its data is not what the order says, so that it is not served again.
    fn note_diverged(&self) {
        let folder = self.engine.data_folder();
        if let Err(error) = (FolderCluster { cluster: self.cluster, diverged: true }).write(folder) {
            tracing::error!(%error, folder = %folder.display(), "that the node has diverged could not be noted: do not start it again");
        }
    }

    fn pass_changes_on(&self) {
        if let Some(outlet) = &self.outlet {
            outlet.run(&self.engine, &*self.transport.nodes, self);
        }
    }

    /// How old the oldest change is that this node has yet to pass on.
    pub(super) fn changes_behind(&self) -> Duration {
        self.outlet.as_ref().map_or(Duration::ZERO, |outlet| outlet.behind(self.engine.now()))
    }

    /// Why changes are not passed on now.
    pub(super) fn changes_fault(&self) -> Option<String> {
        self.outlet.as_ref().and_then(Outlet::fault)
    }

    /// Deletes from the order, and from the pieces of files, what every node has in a snapshot that reported lately. Only the
    /// first node of those that are there does so.
    fn trim(&self) -> Result<(), OrderError> {
        let watched = self.watched();
        let mut there = watched.members.values().filter(|member| member.is_there());
        if there.next().is_none_or(|first| first.report.name != self.who.name) {
            return Ok(());
        }
        let newest = watched.members.values().map(|member| member.at).max().unwrap_or_default();
        let wait = u64::try_from(self.wait_for_node.as_millis()).unwrap_or(u64::MAX);
        let waited_for = || watched.members.values().filter(|member| member.at.plus(wait) >= newest);
        let before = waited_for().map(|member| member.report.snapshot).min().unwrap_or(0);
        if before > watched.order.0 {
            self.transport.order.delete_before(Offset(before))?;
            tracing::info!(before, "the order was trimmed: every node has what was before in a snapshot");
        }
        // Only now may pieces go: a new node that reads the order from its beginning needs those of all batches in it.
        let pieces = waited_for().map(|member| member.report.pieces).min().unwrap_or(0);
        if pieces > watched.pieces.0 {
            self.transport.pieces.delete_before(Offset(pieces))?;
            self.roster.watched().pieces.0 = pieces;
            tracing::info!(
                pieces,
                "the pieces of files were trimmed: every node has their batches in a snapshot"
            );
        }
        Ok(())
    }
}

impl Turns for Members {
    fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The first node that serves passes changes on, of those that have the topic in their settings.
    fn is_mine(&self, topic: &str) -> bool {
        let watched = self.roster.watched();
        let is_fit = |member: &&Member| {
            let report = &member.report;
            member.is_there()
                && report.state == NodeState::Serving
                && report.changes_topic.as_deref() == Some(topic)
        };
        watched.members.values().find(is_fit).is_some_and(|first| first.report.name == self.who.name)
    }

    fn wait(&self, time: Duration) -> bool {
        Self::wait(self, time);
        !self.is_stopping()
    }
}

fn state_of(order: &OrderStatus) -> NodeState {
    if order.standing.is_some() {
        NodeState::Standing
    } else if order.out_of_reach.is_some() {
        NodeState::CutOff
    } else if order.serves {
        NodeState::Serving
    } else {
        NodeState::Behind
    }
}

/// The nodes whose sum at some offset differs from this one's at the same offset.
fn differing(sums: &BTreeMap<String, BTreeMap<u64, u32>>, own: &str) -> Vec<String> {
    let Some(mine) = sums.get(own) else { return vec![] };
    let differs = |theirs: &BTreeMap<u64, u32>| {
        theirs.iter().any(|(at, sum)| mine.get(at).is_some_and(|mine| mine != sum))
    };
    let others = sums.iter().filter(|(name, theirs)| name.as_str() != own && differs(theirs));
    others.map(|(name, _)| name.clone()).collect()
}

/// Why this node must end: at some offset more nodes have one other sum than have its own.
fn against_most(sums: &BTreeMap<String, BTreeMap<u64, u32>>, own: &str) -> Option<String> {
    for (at, mine) in sums.get(own)? {
        let mut by_sum: BTreeMap<u32, usize> = BTreeMap::new();
        for theirs in sums.values().filter_map(|theirs| theirs.get(at)) {
            *by_sum.entry(*theirs).or_default() += 1;
        }
        let with_mine = by_sum.get(mine).copied().unwrap_or(0);
        let others = by_sum.iter().filter(|(sum, _)| *sum != mine).map(|(_, count)| *count).max();
        if others.is_some_and(|others| others > with_mine) {
            return Some(format!(
                "this node has diverged: its sum over the order up to {at} is {mine:08x}, and most nodes have another one. Keep its \
                 data folder for whoever looks into it, and start the node with an empty one: it gets everything from another node"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(of: &[(&str, u64, u32)]) -> BTreeMap<String, BTreeMap<u64, u32>> {
        let mut sums: BTreeMap<String, BTreeMap<u64, u32>> = BTreeMap::new();
        for (name, at, sum) in of {
            sums.entry((*name).to_owned()).or_default().insert(*at, *sum);
        }
        sums
    }

    #[test]
    fn who_differs_is_said_and_who_differs_from_most_ends() {
        let two = sums(&[("a", 256, 1), ("b", 256, 2)]);
        assert_eq!(differing(&two, "a"), ["b"]);
        assert_eq!(against_most(&two, "a"), None, "nobody knows which of two is right");
        let three = sums(&[("a", 256, 1), ("b", 256, 2), ("c", 256, 2)]);
        assert!(against_most(&three, "a").is_some());
        assert_eq!(against_most(&three, "b"), None);
        assert_eq!(differing(&three, "b"), ["a"]);
        let elsewhere = sums(&[("a", 256, 1), ("b", 512, 2), ("c", 512, 2)]);
        assert_eq!((differing(&elsewhere, "a"), against_most(&elsewhere, "a")), (vec![], None));
    }
}
