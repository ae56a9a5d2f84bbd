//! The nodes, as they were last heard of: who is waited for, and who is asked.
//!
//! Promises: nobody waits for a node longer than [`FILES_WITHIN`]; and a node that was waited for in vain is waited for again only
//! once it has what it lacked then.

use super::report::{NodeReport, NodeState};
use crate::engine::{PeerBody, Peers};
use crate::model::batch::BatchId;
use crate::model::seq::Millis;
use crate::order::Offset;
use crate::sync::unpoisoned;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A node that has not reported for so long is not there.
const ABSENT_AFTER: Duration = Duration::from_secs(7);
/// How long the acceptance of a batch waits for the other nodes to take in its file.
const FILES_WITHIN: Duration = Duration::from_secs(2);
/// The header of a call from another node, with that node's name. Whoever gets it answers by what it has, and asks nobody.
pub const ASKING_NODE: &str = "profiled-node";
/// A node that was this many pieces of files behind at its last report is not waited for.
const PIECES_BEHIND_MAX: u64 = 64;

/// A node, as it was last heard of.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its last report.
    pub report: NodeReport,
    /// When it came, by the log's clock.
    pub at: Millis,
    /// When it was heard here.
    pub heard: Instant,
    /// The order's end as it was known here then.
    pub end: u64,
    /// The time of the newest request that was known here then.
    pub newest: Millis,
    /// The offset before which this node had all pieces of files then.
    pub files: u64,
}

impl Member {
    /// Whether it reports.
    pub fn is_there(&self) -> bool {
        self.report.state != NodeState::Stopped && self.heard.elapsed() < ABSENT_AFTER
    }

    /// Whether it takes files in about as fast as this node.
    fn keeps_up(&self) -> bool {
        let serves = self.is_there() && self.report.state == NodeState::Serving;
        serves && self.files.saturating_sub(self.report.files) <= PIECES_BEHIND_MAX
    }
}

/// What is known of the nodes.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// The nodes, by name.
    pub members: BTreeMap<String, Member>,
    /// The order's first offset that is still there, and its end.
    pub order: (u64, u64),
    /// The same of the pieces of files.
    pub pieces: (u64, u64),
    /// What is wrong with the topics now.
    pub faults: Vec<String>,
    /// Nodes whose settings that shape outcomes differ from this one's.
    pub settings_differ: Vec<String>,
    /// Nodes whose sum differs from this one's.
    pub sums_differ: Vec<String>,
}

/// A call of one node to another.
#[derive(Debug, Clone)]
pub struct PeerCall {
    /// Where the other one can be reached.
    pub address: String,
    /// What is asked for: a path with its query.
    pub path: String,
    /// The form in which it is wanted, by its media type.
    pub accept: &'static str,
    /// Who asks, for the header [`ASKING_NODE`].
    pub from: String,
}

/// What a node answers another one.
pub struct PeerAnswer {
    /// Its header `Link`.
    pub link: Option<String>,
    /// Its body, as it comes.
    pub body: Box<dyn PeerBody>,
}

/// How a node asks another one. An error if that refuses. Blocks, as long as the second argument says that it goes on.
pub type AskPeer = Box<dyn Fn(&PeerCall, &dyn Fn() -> bool) -> Result<PeerAnswer, String> + Send + Sync>;

/// The nodes of an order, and what this one has to tell them. The engine of this node has it, and whoever watches the nodes.
pub struct Roster {
    /// This node's name.
    name: String,
    ask: AskPeer,
    watched: Mutex<Watched>,
    /// A node was heard of.
    heard: Condvar,
    /// The nodes that were waited for in vain, and the offset up to which they should have had the files.
    in_vain: Mutex<BTreeMap<String, u64>>,
    /// Whether this node has something to report at once.
    due: Mutex<bool>,
    became_due: Condvar,
}

impl Roster {
    /// Nobody is known yet to the node of this name.
    pub fn new(name: &str, ask: AskPeer) -> Self {
        Self {
            name: name.to_owned(),
            ask,
            watched: Mutex::default(),
            heard: Condvar::new(),
            in_vain: Mutex::default(),
            due: Mutex::default(),
            became_due: Condvar::new(),
        }
    }

    /// What is known of the nodes now. Nobody may wait for anything while this is held.
    pub(super) fn watched(&self) -> MutexGuard<'_, Watched> {
        unpoisoned(self.watched.lock())
    }

    /// Notes what was heard of a node.
    pub(super) fn note(&self, member: Member) {
        self.watched().members.insert(member.report.name.clone(), member);
        self.heard.notify_all();
    }

    /// This node is to report at once.
    pub(super) fn make_due(&self) {
        *unpoisoned(self.due.lock()) = true;
        self.became_due.notify_all();
    }

    /// Waits until this node is to report: at the latest after this time.
    pub(super) fn wait_until_due(&self, at_most: Duration) {
        let due = unpoisoned(self.due.lock());
        *unpoisoned(self.became_due.wait_timeout_while(due, at_most, |due| !*due)).0 = false;
    }

    /// What the first of the other nodes answers that does not refuse; none if all do. Blocks, as long as it `goes_on`.
    pub fn first_answer(
        &self,
        path: &str,
        accept: &'static str,
        goes_on: &dyn Fn() -> bool,
    ) -> Option<PeerAnswer> {
        let answers = self.names().into_iter().map(|node| {
            let answer = self.ask(&node, path, accept, goes_on);
            answer.inspect_err(|why| tracing::debug!(node, why, "another node refused what this one lacks"))
        });
        answers.flatten().next()
    }

    /// Asks a node. Blocks, as long as it `goes_on`.
    fn ask(
        &self,
        node: &str,
        path: &str,
        accept: &'static str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<PeerAnswer, String> {
        let address = self.watched().members.get(node).map(|member| member.report.address.clone());
        let address = address.ok_or_else(|| format!("node {node} has not reported"))?;
        let call = PeerCall { address, path: path.to_owned(), accept, from: self.name.clone() };
        (self.ask)(&call, goes_on)
    }

    /// The other nodes that are worth waiting for, and lack pieces of files before this offset.
    fn lacking(&self, watched: &Watched, before: Offset) -> Vec<String> {
        let in_vain = unpoisoned(self.in_vain.lock());
        let worth_it = |name: &String, member: &Member| {
            let lacked = in_vain.get(name).copied().unwrap_or_default();
            *name != self.name && member.keeps_up() && member.report.files >= lacked
        };
        let others = watched.members.iter().filter(|(name, member)| worth_it(name, member));
        let lacking = others.filter(|(_, member)| member.report.files < before.0);
        lacking.map(|(name, _)| name.clone()).collect()
    }
}

impl Peers for Roster {
    fn took_in(&self) {
        self.make_due();
    }

    fn wait_for_files(&self, before: Offset) {
        let until = Instant::now() + FILES_WITHIN;
        let mut watched = self.watched();
        loop {
            let lacking = self.lacking(&watched, before);
            if lacking.is_empty() {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::debug!(
                    nodes = lacking.join(","),
                    "nodes were not waited for any longer to take in the file of a batch"
                );
                unpoisoned(self.in_vain.lock()).extend(lacking.into_iter().map(|name| (name, before.0)));
                return;
            }
            watched = unpoisoned(self.heard.wait_timeout(watched, left)).0;
        }
    }

    fn names(&self) -> Vec<String> {
        let watched = self.watched();
        let answers = |member: &Member| member.is_there() && member.report.state != NodeState::Starting;
        let others = watched.members.iter().filter(|(name, member)| **name != self.name && answers(member));
        others.map(|(name, _)| name.clone()).collect()
    }

    fn file(
        &self,
        node: &str,
        batch: &BatchId,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Box<dyn PeerBody>, String> {
        let path = format!("/api/v1/batches/{batch}/file");
        Ok(self.ask(node, &path, "text/csv", goes_on)?.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster() -> Roster {
        Roster::new("a", Box::new(|_, _| Err("nobody answers".into())))
    }

    fn member(name: &str, state: NodeState, files: u64, files_here: u64) -> Member {
        let report = NodeReport { name: name.into(), state, files, ..NodeReport::default() };
        let (at, newest) = (Millis(0), Millis(0));
        Member { report, at, heard: Instant::now(), end: 0, newest, files: files_here }
    }

    /// Who is waited for until the files are there before 101.
    #[track_caller]
    fn check(members: &[Member], waited_for: &[&str]) {
        let roster = roster();
        members.iter().for_each(|one| roster.note(one.clone()));
        let watched = roster.watched().clone();
        assert_eq!(roster.lacking(&watched, Offset(101)), waited_for);
    }

    #[test]
    fn only_those_are_waited_for_that_are_there_and_keep_up() {
        check(&[], &[]);
        check(&[member("a", NodeState::Serving, 100, 100)], &[]);
        check(
            &[member("b", NodeState::Serving, 100, 100), member("c", NodeState::Serving, 101, 100)],
            &["b"],
        );
        for state in [NodeState::Stopped, NodeState::Behind, NodeState::Starting, NodeState::Standing] {
            check(&[member("b", state, 100, 100)], &[]);
        }
        check(&[member("b", NodeState::Serving, 36, 100), member("c", NodeState::Serving, 35, 100)], &["b"]);
        let gone = Instant::now().checked_sub(ABSENT_AFTER).unwrap();
        check(&[Member { heard: gone, ..member("b", NodeState::Serving, 100, 100) }], &[]);
    }

    #[test]
    fn one_that_was_waited_for_in_vain_is_waited_for_again_once_it_has_what_it_lacked() {
        let roster = roster();
        roster.note(member("b", NodeState::Serving, 9, 9));
        let begun = Instant::now();
        roster.wait_for_files(Offset(12));
        assert!(begun.elapsed() >= FILES_WITHIN);
        let lacking = |files, before| {
            roster.note(member("b", NodeState::Serving, files, files));
            let watched = roster.watched().clone();
            roster.lacking(&watched, Offset(before))
        };
        assert!(lacking(9, 15).is_empty() && lacking(11, 15).is_empty());
        assert_eq!(lacking(12, 15), ["b"]);
        assert!(lacking(15, 15).is_empty());
    }
}
