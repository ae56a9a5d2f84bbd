//! How the nodes of an order are, as people are told: by the API, on the command line and in the inspector.
//!
//! Promises: of the node that is asked all is as of now; of another one as of its last report, and how old that is stands beside it.

use super::members::Members;
use super::report::NodeState;
use super::roster::{Member, Watched};
use crate::model::seq::Millis;
use crate::telemetry::metrics::OrderVitals;
use std::time::Duration;

/// A node whose report is younger than this is measured against what was known when the report came.
const FRESH: Duration = Duration::from_secs(3);

/// How the nodes of an order are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The node that is asked.
    pub node: String,
    /// Which order it is.
    pub cluster: String,
    /// The first offset that the order still has, and its end.
    pub order: (u64, u64),
    /// The same of the files of batches.
    pub files: (u64, u64),
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// What is wrong with the topics.
    pub faults: Vec<String>,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// Its program's version.
    pub version: String,
    /// How it is: as it reports, or `away` if it no longer reports.
    pub state: &'static str,
    /// The offset behind the last record that it has applied.
    pub applied: u64,
    /// How many records of the order it has not applied.
    pub behind_records: u64,
    /// How much older the last request is that it has applied than the newest that is known. None if it has applied none since
    /// it started.
    pub behind: Option<Duration>,
    /// The offset that its newest snapshot has everything before.
    pub snapshot: u64,
    /// The bytes that are free on its disk.
    pub disk_free: u64,
    /// Whether its settings that shape outcomes differ from those of the node that is asked.
    pub settings_differ: bool,
    /// Whether its sum over what was decided differs from that of the node that is asked.
    pub diverged: bool,
    /// How long ago it reported.
    pub reported: Duration,
}

/// What a node says that no longer reports.
const AWAY: &str = "away";

impl NodeStatus {
    fn of(member: &Member, watched: &Watched, end: u64, newest: Millis) -> Self {
        let (report, reported) = (&member.report, member.heard.elapsed());
        // A report is a moment old. What came meanwhile it cannot have.
        let (end, newest) = if reported < FRESH { (member.end, member.newest) } else { (end, newest) };
        let behind_records = end.saturating_sub(report.applied);
        let behind_ms = newest.0.saturating_sub(report.applied_at_ms);
        let behind = match (behind_records, report.applied_at_ms) {
            (0, _) => Some(Duration::ZERO),
            (_, 0) => None,
            _ => Some(Duration::from_millis(behind_ms)),
        };
        let there = member.is_there() || report.state == NodeState::Stopped;
        Self {
            name: report.name.clone(),
            address: report.address.clone(),
            version: report.version.clone(),
            state: if there { report.state.as_str() } else { AWAY },
            applied: report.applied,
            behind_records,
            behind,
            snapshot: report.snapshot,
            disk_free: report.disk_free,
            settings_differ: watched.settings_differ.contains(&report.name),
            diverged: watched.sums_differ.contains(&report.name),
            reported,
        }
    }
}

impl Members {
    /// How the nodes are now.
    pub fn status(&self) -> ClusterStatus {
        let (watched, own) = (self.watched(), self.own());
        let known = watched.members.values().map(|member| Millis(member.report.applied_at_ms));
        let newest = known.max().unwrap_or_default().max(own.newest);
        let end = watched.order.1.max(own.end);
        let own = Member { end, newest, ..own };
        let others = watched.members.values().filter(|member| member.report.name != own.report.name);
        let mut nodes: Vec<NodeStatus> =
            others.chain([&own]).map(|member| NodeStatus::of(member, &watched, end, newest)).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        ClusterStatus {
            node: own.report.name.clone(),
            cluster: self.cluster().to_string(),
            order: (watched.order.0, end),
            files: watched.pieces,
            nodes,
            faults: watched.faults.into_iter().chain(self.changes_fault()).collect(),
        }
    }

    /// Adds what is known of the other nodes and of the topics.
    pub fn add_to(&self, vitals: &mut OrderVitals) {
        let watched = self.watched();
        let count = |of: usize| u64::try_from(of).unwrap_or(u64::MAX);
        vitals.low_offsets = vec![("order", watched.order.0), ("files", watched.pieces.0)];
        vitals.nodes = count(watched.members.values().filter(|member| member.is_there()).count());
        vitals.settings_differ = count(watched.settings_differ.len());
        vitals.sums_differ = count(watched.sums_differ.len());
        vitals.topic_faults = count(watched.faults.len());
        vitals.changes_behind = self.changes_behind();
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::NodeReport;
    use super::*;
    use std::time::Instant;

    fn member(applied: u64, applied_at_ms: u64) -> Member {
        let report = NodeReport {
            name: "b".into(),
            state: NodeState::Serving,
            applied,
            applied_at_ms,
            ..NodeReport::default()
        };
        Member { report, at: Millis(0), heard: Instant::now(), end: 10, newest: Millis(5_000), files: 0 }
    }

    #[test]
    fn a_node_is_measured_against_what_was_known_when_it_reported() {
        let watched = Watched { sums_differ: vec!["b".into()], ..Watched::default() };
        let of = |member: &Member| NodeStatus::of(member, &watched, 99, Millis(9_000));
        let check = |applied, at, records, behind: Option<u64>| {
            let status = of(&member(applied, at));
            assert_eq!((status.behind_records, status.behind), (records, behind.map(Duration::from_millis)));
            assert!(status.diverged && !status.settings_differ && status.state == "serving");
        };
        check(10, 1_000, 0, Some(0));
        check(8, 4_000, 2, Some(1_000));
        check(8, 0, 2, None);
        let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(60)) else { return };
        let silent = of(&Member { heard: long_ago, ..member(10, 4_000) });
        assert_eq!((silent.state, silent.behind_records), ("away", 89));
        assert_eq!(silent.behind, Some(Duration::from_secs(5)));
    }
}
