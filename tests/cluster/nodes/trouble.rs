//! Faults that are no death: a full disk, clocks that are wrong, one name twice, topics that are not as they must be.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_executor::block_on;
use profiled::kafka::topics::ensure;
use profiled::order::Log as _;
use rdkafka::admin::AdminOptions;

use super::{PREFIX, Site, Topic, files_with, is_ready, name, within};
use crate::support::Daemon;
use crate::support::disk::{Mount, may_mount, run};
use crate::topics;

/// A clock that goes ahead by so many seconds as `CLOCK_BY` says.
const WRONG_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    const char *by = getenv("CLOCK_BY");
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME && by) at->tv_sec += atol(by);
    return result;
}
"#;

impl Site {
    /// Another node, on a disk of its own that is small. None, and said so, where nobody may mount one.
    pub(super) fn add_node_on_small_disk(&mut self) -> Option<usize> {
        if let Err(why) = may_mount() {
            crate::say(&format!("a node's disk is full: not tried, {why}"));
            return None;
        }
        let node = self.nodes.len();
        let at = self.disks_folder.path().join(name(node));
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=128m", "tmpfs"]).arg(&at)).unwrap();
        self.disks.push(Mount(at.clone()));
        self.add_node_in(Some(at.join("data")));
        Some(node)
    }

    /// Fills a node's disk, and makes room again once it has told that it stands, and the others have gone on.
    pub(super) fn fill_disk(&mut self, node: usize) -> Duration {
        let ballast = self.nodes[node].data().with_file_name("ballast");
        fill(&ballast);
        let address = self.nodes[node].address();
        within("the node with a full disk to say so", || {
            (self.nodes[node].has_ended() || !is_ready(address)).then_some(())
        });
        self.load.set_address(node, None);
        self.load.wait_for_acknowledgements();
        std::thread::sleep(Duration::from_secs(1));
        std::fs::remove_file(ballast).unwrap();
        let freed = std::time::Instant::now();
        if self.nodes[node].has_ended() {
            self.nodes[node].kill9();
            self.start_node(node);
        } else {
            self.wait_ready(node);
            self.load.set_address(node, Some(address));
        }
        freed.elapsed()
    }

    /// Starts a node again, with a clock that is so many seconds ahead.
    pub(super) fn start_with_clock(&mut self, node: usize, ahead: i64) -> Duration {
        let library = self.clock();
        self.stop_node(node);
        self.nodes[node].set_variable("LD_PRELOAD", library.to_str().unwrap());
        self.nodes[node].set_variable("CLOCK_BY", &ahead.to_string());
        self.start_node(node)
    }

    fn clock(&self) -> PathBuf {
        let [source, library] = ["clock.c", "clock.so"].map(|name| self.disks_folder.path().join(name));
        if !library.exists() {
            std::fs::write(&source, WRONG_CLOCK).unwrap();
            // Rust links with it, so that it is there.
            let mut compile = Command::new("cc");
            assert!(
                compile
                    .args(["-shared", "-fPIC", "-o"])
                    .args([&library, &source])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        library
    }

    /// Erases a visitor whom a site call and a batch wrote to, with a deadline that is over at once: no byte is left in any node's
    /// folder, nor in the brokers'. Gives how long that took.
    pub(super) fn erase_to_the_last_byte(&mut self) -> Duration {
        // A broker compresses files: what stands nowhere else in them stays as it is.
        const BYTES: [&str; 2] = ["qzjxkvwpyfgbmdlrh", "hrtlnsdvwmbgcqjkz"];
        self.load.shared.spares.store(true, Ordering::Relaxed);
        // A record leaves a broker's disk with its whole segment.
        for topic in ["order", "files", "nodes"] {
            topics::set(&self.brokers, &format!("{PREFIX}.{topic}"), "segment.ms", Some("1000"));
        }
        let first = &self.nodes[0];
        first.mbox("demo", &format!("mbox=m&mbox3rdPartyId=canary&profile.a={}", BYTES[0]));
        let batch = first.post_batch("demo", format!("batch=thirdPartyId,b\ncanary,{}\n", BYTES[1]));
        for node in &self.nodes {
            node.wait_complete(&batch);
        }
        let left = |site: &Self| -> Vec<PathBuf> {
            let folders = site.nodes.iter().map(Daemon::data).chain([site.brokers.folder().to_owned()]);
            folders
                .flat_map(|folder| BYTES.map(|bytes| files_with(&folder, bytes.as_bytes())))
                .flatten()
                .collect()
        };
        let before = left(self);
        for topic in ["order", "files"] {
            let there = before
                .iter()
                .any(|path| path.display().to_string().contains(&format!("{PREFIX}.{topic}-0/")));
            assert!(there, "{topic} has it, in {before:?}");
        }
        let erased = std::time::Instant::now();
        let reply =
            self.nodes[1].call("DELETE", "/api/v1/profiles/canary?by=third-party&client=demo", &[], None);
        assert!((200..300).contains(&reply.status), "{}", reply.text());
        for (index, node) in self.nodes.iter().enumerate() {
            node.configure(&self.settings_with(index, "erase_within_hours = 0"));
            node.hang_up();
        }
        let mut last = vec![];
        within("the last byte to go", || {
            last = left(self);
            if last.is_empty() {
                return Some(());
            }
            assert!(
                erased.elapsed() < Duration::from_secs(100),
                "it is still in {last:?}; {:?}",
                self.reports()
            );
            std::thread::sleep(Duration::from_millis(500));
            None
        });
        for (index, node) in self.nodes.iter().enumerate() {
            node.configure(&self.settings(index));
            node.hang_up();
        }
        self.load.shared.spares.store(false, Ordering::Relaxed);
        erased.elapsed()
    }

    /// Another daemon with a node's name does not start.
    pub(super) fn start_twice(&self, node: usize) {
        let mut twin = Daemon::configured(&self.settings(node));
        twin.keep_complaints();
        assert!(twin.try_restart().is_err(), "two nodes have one name");
        let said = twin.complaints();
        assert!(said.contains("runs already"), "{said}");
    }

    /// A node does not start while a topic has a setting that loses records.
    pub(super) fn start_on_wrong_topic(&mut self, node: usize) -> Duration {
        self.stop_node(node);
        let topic = format!("{PREFIX}.order");
        let before = topics::set(&self.brokers, &topic, "retention.ms", Some("604800000"));
        assert!(
            self.nodes[node].try_restart().is_err(),
            "it starts on an order that is forgotten after a week"
        );
        let said = self.nodes[node].complaints();
        assert!(said.contains("retention.ms=604800000: set -1"), "{said}");
        topics::set(&self.brokers, &topic, "retention.ms", before.as_deref());
        self.start_node(node)
    }

    /// The order's topic is deleted and made anew: every node ends and says so, and none starts on it.
    pub(super) fn make_order_anew(&mut self) {
        self.load.stop();
        let end = self.log(Topic::Order).ends().unwrap().1;
        let (admin, topic) = (self.brokers.admin(), format!("{PREFIX}.order"));
        block_on(admin.delete_topics(&[&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
        within("the topic to be made anew", || {
            ensure(&crate::settings(&self.brokers, PREFIX)).ok()?;
            (self.log(Topic::Order).ends().ok()?.1 < end).then_some(())
        });
        for (index, node) in self.nodes.iter_mut().enumerate() {
            within(&format!("node {} to end", name(index)), || node.has_ended().then_some(()));
            let said = node.complaints();
            assert!(said.contains("is not the one that this node has read"), "{said}");
            node.kill9();
            assert!(node.try_restart().is_err());
            let said = node.complaints();
            assert!(said.contains("profiled cluster found --anew"), "{said}");
        }
    }
}

/// Writes a file until there is no room.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        let zeros = vec![0; bytes];
        while file.write_all(&zeros).is_ok() {}
    }
}
