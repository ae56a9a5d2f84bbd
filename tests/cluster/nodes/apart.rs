//! Nodes and brokers that do not reach each other: what one sends to the other is dropped on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Site, is_ready, within};
use crate::network::Network;
use crate::support::skip;

/// How long a node may try to reach others that are silent, before it says that none of them gave it anything. With an empty
/// folder it asks each.
const SILENT_PEERS: Duration = Duration::from_secs(60);

/// What gets through no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ways {
    /// What the one sends.
    There,
    /// What the others send.
    Back,
    /// All of it.
    Both,
}

impl Site {
    /// Whether there is a network to cut; says so if not.
    pub(super) fn can_cut(&self, fault: &str) -> bool {
        if let Err(why) = &self.network {
            skip(&format!("{fault}: {why}"));
        }
        self.network.is_ok()
    }

    fn network(&self) -> Arc<Network> {
        Arc::clone(self.network.as_ref().unwrap())
    }

    /// Cuts one host from others.
    fn cut(&self, host: &str, others: &[String], ways: Ways) {
        let network = self.network();
        for other in others {
            if ways != Ways::Back {
                network.cut(host, other);
            }
            if ways != Ways::There {
                network.cut(other, host);
            }
        }
    }

    fn brokers_hosts(&self) -> Vec<String> {
        (0..3).map(|broker| self.brokers.host(broker).to_owned()).collect()
    }

    /// Cuts a node from all brokers until it says so and the others have gone on. Gives how long it took after that until it was
    /// ready.
    pub(super) fn cut_from_kafka(&mut self, node: usize, ways: Ways) -> Duration {
        let brokers = self.brokers_hosts();
        self.cut_node(node, &brokers, ways)
    }

    /// The same from the broker that leads the order.
    pub(super) fn cut_from_leader(&mut self, node: usize) -> Duration {
        let leader = self.brokers.leader_of("site.order");
        let leader = self.brokers.host(leader).to_owned();
        self.cut_node(node, &[leader], Ways::Both)
    }

    fn cut_node(&mut self, node: usize, brokers: &[String], ways: Ways) -> Duration {
        let cut = Instant::now();
        self.cut(&self.hosts[node], brokers, ways);
        let address = self.nodes[node].address();
        within("the node that is cut off to say so", || (!is_ready(address)).then_some(()));
        crate::say(&format!("a node that is cut off says so after {:.1} s", cut.elapsed().as_secs_f32()));
        self.load.set_address(node, None);
        self.load.wait_for_acknowledgements();
        // Lookups go on, and say how old they may be.
        let cut_off = &self.nodes[node];
        let found = cut_off.get("/api/v1/profiles/v1?by=third-party&client=demo");
        let behind = found.header("profiled-behind-ms").and_then(|ms| ms.parse::<u64>().ok());
        assert!(
            found.status == 200 && behind.is_some_and(|ms| ms > 0),
            "{} {:?}",
            found.text(),
            found.headers
        );
        // Writes are refused, or have no answer in time.
        let written = cut_off.post_form("/m2/demo/mbox/json", "mbox=m&mbox3rdPartyId=cut&profile.cut=1");
        assert_eq!(written.status, 503, "{}", written.text());
        assert!(written.header("retry-after").is_some(), "{:?}", written.headers);
        self.network().mend();
        let mended = Instant::now();
        self.wait_ready(node);
        self.load.set_address(node, Some(address));
        mended.elapsed()
    }

    /// Cuts the broker that leads the order from the other brokers, and from no node: writes go on with another leader.
    pub(super) fn cut_leader_from_brokers(&mut self) {
        let leader = self.brokers.leader_of("site.order");
        let mut others = self.brokers_hosts();
        let leader = others.remove(leader);
        self.cut(&leader, &others, Ways::Both);
        let cut = Instant::now();
        self.load.wait_for_acknowledgements();
        crate::say(&format!("writes went on {:.1} s after the cut", cut.elapsed().as_secs_f32()));
        self.network().mend();
        self.brokers.wait_for_all();
    }

    /// Cuts a node from all other nodes: it goes on all the same. With an empty folder it does not start, and says whom it
    /// asked in vain. Gives how long it took until it was ready, once it reached them again.
    pub(super) fn cut_from_peers(&mut self, node: usize) -> Duration {
        let own = self.hosts[node].clone();
        let others: Vec<String> = self.hosts.iter().filter(|host| **host != own).cloned().collect();
        self.cut(&own, &others, Ways::Both);
        self.load.wait_for_acknowledgements();
        self.kill_node(node);
        self.trim_without(node);
        std::fs::remove_dir_all(self.nodes[node].data()).unwrap();
        let asked = Instant::now();
        self.refuses(node, "the beginning of the order is gone; none gave it");
        assert!(asked.elapsed() < SILENT_PEERS, "it asked in vain for {:?}", asked.elapsed());
        let said = self.nodes[node].complaints();
        assert!(others.iter().all(|other| said.contains(other.as_str())), "{said}");
        self.network().mend();
        self.start_node(node)
    }
}
