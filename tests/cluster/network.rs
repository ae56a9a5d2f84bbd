//! A network of a test's own: each host is a network namespace, with a router between them that can cut one off from another.
//! Needs root and `ip`, and leaves the machine's own network alone.
//!
//! The test's thread is in the router's namespace, and so is all that it starts, unless it starts it by [`Network::at`]. What the
//! router drops is dropped without a word, as by a cable that is out.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::disk::run;

/// Where `ip` keeps the namespaces that have a name.
const NAMED: &str = "/run/netns";
/// What the names of these namespaces begin with; then comes the id of the test's process.
const OURS: &str = "profiled-";
/// The router's address. Hosts have those from 10.77.0.1 on.
const ROUTER: &str = "10.77.0.254";

/// Some hosts, and a router.
pub(crate) struct Network {
    /// What the names of its namespaces begin with.
    name: String,
    /// The namespace that the thread was in before.
    outside: File,
    hosts: Mutex<u8>,
    /// The routes that are cut: from where, and to where.
    cuts: Mutex<Vec<(String, String)>>,
}

impl Network {
    /// A network without hosts, with this thread in the router. An error says what is missing.
    pub(crate) fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".into());
        }
        run(Command::new("ip").arg("-V")).map_err(|why| format!("install iproute2: {why}"))?;
        remove(|process| !Path::new("/proc").join(process).exists());
        let outside = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        let name = format!("{OURS}{}", std::process::id());
        let network = Self { name, outside, hosts: Mutex::new(0), cuts: Mutex::default() };
        let router = network.namespace(0);
        ip(&format!("netns add {router}"))?;
        network.enter(&router);
        for (setting, value) in
            [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")]
        {
            // What comes from a host that nothing may go to must get through all the same.
            std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value)
                .map_err(|error| format!("{setting} cannot be set: {error}"))?;
        }
        ip("link set lo up")?;
        ip(&format!("addr add {ROUTER}/32 dev lo"))?;
        Ok(network)
    }

    /// Another host. Gives its address.
    pub(crate) fn add_host(&self) -> String {
        let number = {
            let mut hosts = self.hosts.lock().unwrap();
            *hosts += 1;
            *hosts
        };
        let (host, address) = (self.namespace(number), address(number));
        for command in [
            format!("netns add {host}"),
            format!("link add to{number} type veth peer name eth0 netns {host}"),
            format!("link set to{number} up"),
            format!("route add {address}/32 dev to{number} src {ROUTER}"),
            format!("-n {host} link set lo up"),
            format!("-n {host} addr add {address}/32 dev eth0"),
            format!("-n {host} link set eth0 up"),
            format!("-n {host} route add default via {ROUTER} dev eth0 onlink"),
        ] {
            ip(&command).unwrap();
        }
        address
    }

    /// Does something in a host's namespace: whatever process is started then is there.
    pub(crate) fn at<T>(&self, host: &str, does: impl FnOnce() -> T) -> T {
        let number = host.rsplit_once('.').unwrap().1.parse().unwrap();
        self.enter(&self.namespace(number));
        // Also if it panics.
        let _back = Back(self);
        does()
    }

    /// Drops whatever goes from a host to another one, from now on.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        ip(&format!("rule add from {from} to {to} pref 10 blackhole")).unwrap();
        self.cuts.lock().unwrap().push((from.to_owned(), to.to_owned()));
    }

    /// Lets everything through again.
    pub(crate) fn mend(&self) {
        for (from, to) in self.cuts.lock().unwrap().drain(..) {
            ip(&format!("rule del from {from} to {to} pref 10 blackhole")).unwrap();
        }
    }

    fn namespace(&self, number: u8) -> String {
        format!("{}-{number}", self.name)
    }

    fn enter(&self, namespace: &str) {
        let there = File::open(Path::new(NAMED).join(namespace)).unwrap();
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        if let Err(error) = move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network))
        {
            crate::say(&format!("the test's thread stays in a network of its own: {error}"));
        }
        remove(|process| process == own);
    }
}

/// Brings the thread back into the router when it is dropped.
struct Back<'n>(&'n Network);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.enter(&self.0.namespace(0));
    }
}

fn address(number: u8) -> String {
    format!("10.77.0.{number}")
}

fn ip(arguments: &str) -> Result<(), String> {
    run(Command::new("ip").args(arguments.split(' ')))
}

/// Removes the namespaces of processes for which this is so; their links go with them. A test that was killed leaves its own.
fn remove(of: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(OURS).and_then(|rest| rest.split('-').next());
        if process.is_some_and(&of)
            && let Err(why) = ip(&format!("netns del {name}"))
        {
            crate::say(&format!("the network namespace {name} stays: {why}"));
        }
    }
}
