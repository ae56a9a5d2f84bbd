//! The signals that stop a process, and stopping with the parent process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;
use super::terminal::complain;

/// `SIGINT` and `SIGTERM`.
pub(super) struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Stops {
    /// Begins to receive the signals: they no longer end the process by themselves.
    pub(super) fn new() -> Result<Self, CliError> {
        let receive =
            |kind| signal(kind).map_err(|e| CliError::Failed(format!("cannot receive signals: {e}")));
        Ok(Self {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// Does the same, and receives `SIGHUP` too: a closed terminal sends it.
    pub(super) fn with_hangup() -> Result<Self, CliError> {
        let hangup = signal(SignalKind::hangup())
            .map_err(|e| CliError::Failed(format!("cannot receive signals: {e}")))?;
        Ok(Self { hangup: Some(hangup), ..Self::new()? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hung_up(self.hangup.as_mut()) => {}
        }
    }

    /// From now on, the next `SIGINT` ends the process at once.
    pub(super) fn end_at_the_next(&self) {
        if let Ok(mut interrupt) = signal(SignalKind::interrupt()) {
            tokio::spawn(async move {
                interrupt.recv().await;
                complain("ended at once; everything acknowledged is kept");
                std::process::exit(1);
            });
        }
    }
}

async fn hung_up(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Makes the system stop this process when its parent, the process with this id, ends.
pub(super) fn end_with(parent: u32) -> Result<(), CliError> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| CliError::Failed(format!("cannot watch for the end of process {parent}: {e}")))?;
    let still = getppid().is_some_and(|now| now.as_raw_nonzero().get().unsigned_abs() == parent);
    if still {
        Ok(())
    } else {
        Err(CliError::Failed(format!("process {parent}, the parent of this one, has ended")))
    }
}
