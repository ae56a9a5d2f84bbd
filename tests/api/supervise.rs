//! The messages to a supervisor such as systemd, at a socket of the test.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::support::Daemon;

/// The socket to which a daemon reports its state.
struct Ear(UnixDatagram);

impl Ear {
    /// The next datagram with this line. Datagrams before it are skipped.
    fn hear(&self, line: &str) -> Vec<String> {
        loop {
            let mut bytes = [0; 4096];
            let length = self.0.recv(&mut bytes).unwrap_or_else(|why| panic!("no {line:?} came: {why}"));
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.iter().any(|one| one == line) {
                return lines;
            }
        }
    }
}

fn supervised(socket: UnixDatagram, name: &str, watchdog: Option<&str>) -> (Daemon, Ear) {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut daemon = Daemon::configured("");
    daemon.set_variable("NOTIFY_SOCKET", name);
    if let Some(period) = watchdog {
        daemon.set_variable("WATCHDOG_USEC", period);
    }
    daemon.restart();
    (daemon, Ear(socket))
}

#[test]
fn a_supervisor_gets_a_message_at_each_change_of_a_daemons_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let (mut daemon, ear) = supervised(socket, path.to_str().unwrap(), Some("400000"));
    let ready = ear.hear("READY=1");
    assert!(ready.contains(&format!("STATUS=serving on {}", daemon.url())), "{ready:?}");
    let well = ear.hear("WATCHDOG=1");
    assert_eq!(well.get(1).map(String::as_str), Some("STATUS=serving; 0 batches pending, 0 rows"));
    ear.hear("WATCHDOG=1");
    daemon.hang_up();
    let reloading = ear.hear("RELOADING=1");
    let since: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    assert!(since > 0);
    ear.hear("READY=1");
    daemon.terminate();
    ear.hear("STOPPING=1");
    assert!(daemon.ended().success());
}

#[test]
fn without_a_watchdog_the_status_is_reported_too_also_to_an_abstract_name() {
    let name = format!("profiled-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let (_daemon, ear) = supervised(socket, &format!("@{name}"), None);
    ear.hear("READY=1");
    ear.hear("STATUS=serving; 0 batches pending, 0 rows");
}

#[test]
fn a_socket_that_nobody_hears_stops_nothing() {
    let mut daemon = Daemon::configured("");
    daemon.set_variable("NOTIFY_SOCKET", "/nonexistent/notify").set_variable("WATCHDOG_USEC", "100000");
    daemon.restart();
    assert_eq!(daemon.get("/healthz").status, 200);
    assert_eq!(daemon.get("/readyz").status, 200);
}
