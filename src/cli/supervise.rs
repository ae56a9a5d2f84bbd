//! Reports to a supervisor such as systemd: progress while the data folder is opened, then that the daemon serves, reloads
//! or stops, and a heartbeat while it is healthy.
//!
//! Promises: a datagram that cannot be sent changes nothing. A daemon whose journal or whose applying of rows is stuck sends no
//! heartbeat, so the watchdog ends it. The crate `sd-notify` is not used: a report is one datagram.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::Supervisor;
use crate::engine::{Engine, Opening};

/// How often the progress of opening the data folder is reported, and how much more time each report asks for.
const OPENING_EVERY: Duration = Duration::from_secs(1);
const OPENING_WAIT: Duration = Duration::from_secs(60);
/// How often the status is reported while the daemon serves.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The supervisor that started the daemon, if one did.
#[derive(Clone)]
pub(super) struct Supervised(Option<Supervisor>);

impl Supervised {
    /// The supervisor that the environment names.
    pub(super) fn by_environment() -> Self {
        Self(Supervisor::of_this_process())
    }

    /// Reports the progress of opening the data folder, and asks for more time, until it is dropped.
    pub(super) async fn opening(&self, opening: &Opening) -> std::convert::Infallible {
        loop {
            self.report(&format!(
                "EXTEND_TIMEOUT_USEC={}\nSTATUS={}",
                OPENING_WAIT.as_micros(),
                line(&opening.at())
            ));
            sleep(OPENING_EVERY).await;
        }
    }

    /// The daemon serves at this URL.
    pub(super) fn ready(&self, url: &str) {
        self.report(&format!("READY=1\nSTATUS=serving on {}", line(url)));
    }

    /// The daemon reloads its settings. [`Supervised::ready`] follows.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.report(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading the settings"));
    }

    /// The daemon stops.
    pub(super) fn stopping(&self) {
        self.report("STOPPING=1\nSTATUS=stopping");
    }

    /// Reports the status from time to time, and sends a heartbeat within each period of the watchdog while the daemon is
    /// healthy, until it is dropped.
    pub(super) async fn watch(&self, app: &Engine) -> std::convert::Infallible {
        let Some(supervisor) = &self.0 else { return std::future::pending().await };
        // Twice in a period, so that one late heartbeat does not end the daemon.
        let every = supervisor.watchdog.map_or(STATUS_EVERY, |period| (period / 2).min(STATUS_EVERY));
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match app.ailment() {
                None => {
                    let vitals = app.vitals();
                    self.report(&format!(
                        "WATCHDOG=1\nSTATUS=serving; {} batches pending, {} rows",
                        vitals.batches_pending, vitals.rows_pending
                    ));
                }
                Some(why) => {
                    tracing::error!(%why, "the daemon is not healthy: the watchdog gets no heartbeat");
                    self.report(&format!("STATUS={}", line(&why)));
                }
            }
        }
    }

    fn report(&self, state: &str) {
        if let Some(supervisor) = &self.0
            && let Err(error) = send(&supervisor.socket, state)
        {
            tracing::debug!(%error, "the report to the supervisor could not be sent");
        }
    }
}

/// A status is one line.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    // A supervisor that does not read must not block the daemon.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}
