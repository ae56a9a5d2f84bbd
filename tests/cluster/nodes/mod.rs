//! Nodes that are real daemons, on real brokers, with writers at all of them all the time. Faults are put in; after each, every
//! acknowledged write is on every node, once, in the same place, and the nodes are equal.
//!
//! ```text
//! load.rs     the writers, and what each write was answered
//! check.rs    what must hold when all nodes are at the order's end
//! faults.rs   the table of faults
//! apart.rs    nodes and brokers that do not reach each other
//! behind.rs   topics that somebody changed behind the nodes' back
//! trouble.rs  other faults that are no death
//! peers.rs    what nodes ask of each other, without writers
//! ```

mod apart;
mod behind;
mod check;
pub(crate) mod faults;
mod load;
pub(crate) mod peers;
mod trouble;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiled::cluster::NodeReport;
use profiled::kafka::log::KafkaLog;
use profiled::kafka::settings::Topic;
use profiled::order::Log as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::brokers::Brokers;
use crate::network::Network;
use crate::support::{Daemon, disk::Mount, load::attempt, request};
use load::Load;

/// How long a node may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the topics' names begin with.
const PREFIX: &str = "site";

/// Brokers, nodes and writers.
struct Site {
    load: Load,
    nodes: Vec<Daemon>,
    /// The host that each node is on, in the network.
    hosts: Vec<String>,
    /// Disks of nodes, and where they are; dropped behind the nodes.
    disks: Vec<Mount>,
    disks_folder: TempDir,
    brokers: Brokers,
    /// The network that all of them are in, each on a host of its own; or why there is none, and they are on loopback.
    network: Result<Arc<Network>, String>,
    /// The seq up to which everything was checked, and how often that was.
    checked: u64,
    checks: u64,
    /// A line for each fault.
    table: Vec<String>,
}

impl Site {
    /// Three brokers, so many nodes, and writers at each. None where there are no brokers.
    fn start(nodes: usize) -> Option<Self> {
        let network = Network::new().map(Arc::new);
        let brokers = Brokers::start_in(3, network.as_ref().ok().map(Arc::clone))?;
        let disks_folder = tempfile::tempdir().unwrap();
        let mut site = Self {
            load: Load::default(),
            nodes: vec![],
            hosts: vec![],
            disks: vec![],
            disks_folder,
            brokers,
            network,
            checked: 0,
            checks: 0,
            table: vec![],
        };
        // Nobody writes before all are there, so that all of them know the order and the files from the beginning.
        for index in 0..nodes {
            site.make_node(None);
            site.start_node(index);
        }
        (0..nodes).for_each(|index| site.load.write_at(index));
        Some(site)
    }

    /// Another node with an empty folder. Gives how long it took until it was ready.
    fn add_node(&mut self) -> Duration {
        self.add_node_in(None)
    }

    /// The same, with its data in this folder.
    fn add_node_in(&mut self, data: Option<PathBuf>) -> Duration {
        let index = self.make_node(data);
        let took = self.start_node(index);
        self.load.write_at(index);
        took
    }

    /// A node that does not run yet.
    fn make_node(&mut self, data: Option<PathBuf>) -> usize {
        let index = self.nodes.len();
        let mut node = Daemon::configured(&self.settings(index));
        if let Some(data) = data {
            node.set_data(data);
        }
        node.set_variable("PROFILED_LOG", "info").keep_complaints();
        let host = self.network.as_ref().map_or_else(|_| "127.0.0.1".into(), |network| network.add_host());
        node.set_host(&host);
        self.hosts.push(host);
        self.nodes.push(node);
        self.load.add_node();
        index
    }

    /// The settings of a node.
    fn settings(&self, index: usize) -> String {
        self.settings_with(index, "")
    }

    /// The same, and these.
    fn settings_with(&self, index: usize, more: &str) -> String {
        settings_of(&name(index), &self.brokers.address(PREFIX), more)
    }

    /// Starts a node that does not run, as often as it takes. Gives how long it took until it was ready.
    fn start_node(&mut self, index: usize) -> Duration {
        let begun = Instant::now();
        within(&format!("node {} to start", name(index)), || match self.try_start(index) {
            Ok(()) => Some(()),
            Err(why) => {
                crate::say(&format!("node {}: {why}: {}", name(index), self.nodes[index].complaints()));
                std::thread::sleep(Duration::from_millis(500));
                None
            }
        });
        let address = self.nodes[index].address();
        self.load.set_address(index, Some(address));
        self.wait_ready(index);
        begun.elapsed()
    }

    /// Starts a node that does not run, on its host. It may refuse.
    fn try_start(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        match &self.network {
            Ok(network) => network.at(&self.hosts[index], || node.try_restart()),
            Err(_) => node.try_restart(),
        }
    }

    /// Waits until a node has ended by itself, saying this.
    fn wait_for_end(&mut self, index: usize, words: &str) {
        let node = &mut self.nodes[index];
        within(&format!("node {} to end", name(index)), || node.has_ended().then_some(()));
        let said = node.complaints();
        assert!(said.contains(words), "node {} ended, and did not say {words:?}: {said}", name(index));
        node.kill9();
        self.load.set_address(index, None);
    }

    /// A node that does not run refuses to start, saying this.
    fn refuses(&mut self, index: usize, words: &str) {
        if self.try_start(index).is_ok() {
            // It may notice only when it has begun to read.
            return self.wait_for_end(index, words);
        }
        let said = self.nodes[index].complaints();
        assert!(said.contains(words), "node {} did not say {words:?}: {said}", name(index));
    }

    /// Waits until a node is ready.
    fn wait_ready(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        within(&format!("node {} to be ready", name(index)), || {
            assert!(!node.has_ended(), "node {} ended: {}", name(index), node.complaints());
            is_ready(node.address()).then_some(())
        });
    }

    /// Asks a node to stop, and waits until it has.
    fn stop_node(&mut self, index: usize) {
        self.nodes[index].terminate();
        self.nodes[index].ended();
        self.load.set_address(index, None);
    }

    /// Makes a node stand still, or go on.
    fn signal_node(&self, index: usize, signal: Signal) {
        let id = Pid::from_raw(self.nodes[index].pid().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Takes a snapshot on a node, by way of a backup. It may be killed meanwhile.
    fn snapshot_of(&self, index: usize) {
        let backups = self.nodes[index].data().with_file_name("backups");
        let folder = backups.join(format!("{}", std::fs::read_dir(&backups).map_or(0, |all| all.count())));
        std::fs::create_dir_all(&backups).unwrap();
        let body = format!("{{\"folder\":\"{}\"}}", folder.display());
        let json = [("Content-Type", "application/json"), ("Connection", "close")];
        let call = request("POST", "/api/v1/backup", "a", &json, Some(body.as_bytes()));
        let answer = attempt(self.nodes[index].address(), &call);
        // It was for the snapshot alone, and disks may be small.
        drop(std::fs::remove_dir_all(folder));
        if let Some((status, body)) = answer {
            assert_eq!(status, 200, "{}: {body}", name(index));
        }
    }

    /// The last report of each node.
    fn reports(&self) -> BTreeMap<String, NodeReport> {
        let log = self.log(Topic::Nodes);
        let (low, end) = log.ends().unwrap();
        let mut reader = log.read_from(low).unwrap();
        let mut reports = BTreeMap::new();
        loop {
            let record = within("a report", || reader.next(Duration::from_secs(1)).unwrap());
            if let Some(report) = NodeReport::decode(&record.value) {
                reports.insert(report.name.clone(), report);
            }
            if record.offset.next() >= end {
                return reports;
            }
        }
    }

    /// One of the order's topics.
    fn log(&self, topic: Topic) -> KafkaLog {
        KafkaLog::open(&crate::settings(&self.brokers, PREFIX), topic).unwrap()
    }

    /// Ends a node hard.
    fn kill_node(&mut self, index: usize) {
        self.load.set_address(index, None);
        self.nodes[index].kill9();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.load.stop();
        if std::thread::panicking() {
            for (index, node) in self.nodes.iter().enumerate() {
                let said = node.complaints();
                let last = said.len().saturating_sub(6000);
                let said = said.get(last..).unwrap_or_default();
                crate::say(&format!("node {} said:\n{said}", name(index)));
            }
        }
    }
}

/// The settings of a node of this name, on this order, and more.
fn settings_of(name: &str, order: &str, more: &str) -> String {
    // On the hosts of a network of our own, nobody else can reach it.
    format!(
        "disk_reserve_bytes = \"16MiB\"\nallow_anonymous = true\n{more}\n[cluster]\norder = \"{order}\"\nnode = \"{name}\"\n\
         [clients.demo]\nv2_creates_profiles = true\nhistory_max = 2\n"
    )
}

fn name(index: usize) -> String {
    format!("n{index}")
}

fn is_ready(address: SocketAddr) -> bool {
    let call = request("GET", "/readyz", "a", &[("Connection", "close")], None);
    attempt(address, &call).is_some_and(|(status, _)| status == 200)
}

/// The files below a folder that have these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let (mut with, mut folders) = (vec![], vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        // Files come and go all the while.
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path).is_ok_and(|read| memchr::memmem::find(&read, bytes).is_some()) {
                with.push(path);
            }
        }
    }
    with
}

/// Waits until `condition` gives something, for longer than a single daemon may take.
fn within<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
