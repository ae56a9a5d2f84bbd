//! Faults that are no death: full disks, clocks that are wrong, one name twice.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{PREFIX, Site, files_with, is_ready, name, within};
use crate::brokers::ON_SMALL_DISK;
use crate::support::disk::{Mount, fill, may_mount, run};
use crate::support::{Daemon, skip};
use crate::topics;

/// A clock that is ahead by as many seconds as the file says that `CLOCK_FILE` names, which may change at any time.
const WRONG_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long long *by;
__attribute__((constructor)) static void look(void) {
    const char *name = getenv("CLOCK_FILE");
    int file = name ? open(name, O_RDONLY) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *by, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) by = mapped;
    if (file >= 0) close(file);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME && by) at->tv_sec += *by;
    return result;
}
"#;

impl Site {
    /// Another node, on a disk of its own that is small. None, and said so, where nobody may mount one.
    pub(super) fn add_node_on_small_disk(&mut self) -> Option<usize> {
        if let Err(why) = may_mount() {
            skip(&format!("a node's disk is full: {why}"));
            return None;
        }
        let node = self.nodes.len();
        let at = self.disks_folder.path().join(name(node));
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"]).arg(&at)).unwrap();
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

    /// Whether a broker has a disk that can be filled; says so if not.
    pub(super) fn may_fill_brokers_disk(&self) -> bool {
        let small = self.brokers.has_small_disk();
        if !small {
            skip("a broker's disk is full: mounting disks needs root");
        }
        small
    }

    /// Fills a broker's disk until the broker ends, and makes room again once all nodes go on without it.
    pub(super) fn fill_brokers_disk(&mut self) {
        let ballast = self.brokers.fill_disk(ON_SMALL_DISK);
        self.load.wait_for_acknowledgements();
        std::fs::remove_file(ballast).unwrap();
        self.brokers.restart(ON_SMALL_DISK);
        self.brokers.wait_for_all();
    }

    /// Starts a node again, with a clock that is so many seconds ahead.
    pub(super) fn start_with_clock(&mut self, node: usize, ahead: i64) -> Duration {
        self.stop_node(node);
        let (library, file) = (self.clock_library(), self.clock_file(node));
        let daemon = &mut self.nodes[node];
        daemon.set_variable("LD_PRELOAD", library.to_str().unwrap());
        daemon.set_variable("CLOCK_FILE", file.to_str().unwrap());
        self.set_clock(node, ahead);
        self.start_node(node)
    }

    /// Makes the clock of a node jump that was started with one, while it runs. Then it is so many seconds ahead.
    pub(super) fn set_clock(&self, node: usize, ahead: i64) {
        // Never empty, for a node may have mapped it.
        let file =
            std::fs::File::options().create(true).write(true).truncate(false).open(self.clock_file(node));
        file.unwrap().write_all_at(&ahead.to_ne_bytes(), 0).unwrap();
    }

    fn clock_file(&self, node: usize) -> PathBuf {
        self.disks_folder.path().join(format!("{}.clock", name(node)))
    }

    fn clock_library(&self) -> PathBuf {
        let [source, library] = ["clock.c", "clock.so"].map(|name| self.disks_folder.path().join(name));
        if !library.exists() {
            std::fs::write(&source, WRONG_CLOCK).unwrap();
            // Rust links with it, so that it is there.
            run(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source])).unwrap();
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
}
