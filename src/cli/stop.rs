//! The signals that ask a process to stop, and the end of the process that another belongs to.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, complain};

/// `SIGINT` and `SIGTERM`, received from now on.
pub(super) struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Stops {
    /// Begins to receive them: they no longer end the process by themselves.
    pub(super) fn new() -> Result<Self, CliError> {
        let receive =
            |kind| signal(kind).map_err(|e| CliError::Failed(format!("signals cannot be received: {e}")));
        Ok(Self {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// The same, and `SIGHUP`: what a process gets whose terminal is closed.
    pub(super) fn with_hangup() -> Result<Self, CliError> {
        let hangup = signal(SignalKind::hangup())
            .map_err(|e| CliError::Failed(format!("signals cannot be received: {e}")))?;
        Ok(Self { hangup: Some(hangup), ..Self::new()? })
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hung_up(self.hangup.as_mut()) => {}
        }
    }

    /// From now on the next `SIGINT` ends the process at once, whatever it is doing.
    pub(super) fn end_at_the_next(&self) {
        if let Ok(mut interrupt) = signal(SignalKind::interrupt()) {
            tokio::spawn(async move {
                interrupt.recv().await;
                complain("ended at once; what was acknowledged is kept");
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

/// Has this process asked to stop when its parent ends, which is the process of this id.
pub(super) fn end_with(parent: u32) -> Result<(), CliError> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| CliError::Failed(format!("the end of process {parent} cannot be heard of: {e}")))?;
    let still = getppid().is_some_and(|now| now.as_raw_nonzero().get().unsigned_abs() == parent);
    if still {
        Ok(())
    } else {
        Err(CliError::Failed(format!("process {parent}, which this one belongs to, has ended")))
    }
}
