//! What a supervisor such as systemd is told: that the daemon serves, how far it is until then, that it reads its settings
//! again, that it stops; and, as long as it is well, that it lives.
//!
//! Promises: a datagram that cannot be sent changes nothing; the watchdog hears nothing from a daemon whose journal or whose
//! folding is stuck, and so ends it. Written here rather than taken from the crate `sd-notify`: it is one datagram.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::Supervisor;
use crate::engine::{Engine, Opening};

/// How often it is told how far opening the data folder is, and for how long each time it is asked to wait.
const OPENING_TOLD_EVERY: Duration = Duration::from_secs(1);
const OPENING_WAIT: Duration = Duration::from_secs(60);
/// How often the status is told while the daemon serves.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Whoever started the daemon and wants to hear of it; perhaps nobody.
#[derive(Clone)]
pub(super) struct Supervised(Option<Supervisor>);

impl Supervised {
    /// Told of by the environment.
    pub(super) fn by_environment() -> Self {
        Self(Supervisor::of_this_process())
    }

    /// Tells how far opening the data folder is, and asks for more time, until it is dropped.
    pub(super) async fn opening(&self, opening: &Opening) -> std::convert::Infallible {
        loop {
            self.tell(&format!(
                "EXTEND_TIMEOUT_USEC={}\nSTATUS={}",
                OPENING_WAIT.as_micros(),
                line(&opening.at())
            ));
            sleep(OPENING_TOLD_EVERY).await;
        }
    }

    /// It serves, at this URL.
    pub(super) fn ready(&self, url: &str) {
        self.tell(&format!("READY=1\nSTATUS=serving on {}", line(url)));
    }

    /// It reads its settings again; [`Supervised::ready`] follows.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the settings again"));
    }

    /// It stops.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// Says now and then how the daemon is, and within each of the watchdog's periods that it is well, if it is; until it
    /// is dropped.
    pub(super) async fn watch(&self, app: &Engine) -> std::convert::Infallible {
        let Some(supervisor) = &self.0 else { return std::future::pending().await };
        // Twice in a period, so that one that comes late is no reason to be ended.
        let every = supervisor.watchdog.map_or(STATUS_EVERY, |period| (period / 2).min(STATUS_EVERY));
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match app.ailment() {
                None => {
                    let vitals = app.vitals();
                    self.tell(&format!(
                        "WATCHDOG=1\nSTATUS=serving; {} batches pending, {} rows",
                        vitals.batches_pending, vitals.rows_pending
                    ));
                }
                Some(why) => {
                    tracing::error!(%why, "the watchdog is not told that the daemon is well");
                    self.tell(&format!("STATUS={}", line(&why)));
                }
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Some(supervisor) = &self.0
            && let Err(error) = send(&supervisor.socket, state)
        {
            tracing::debug!(%error, "the supervisor could not be told");
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
    // One that does not read must not hold the daemon up.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address).map(drop)
}
