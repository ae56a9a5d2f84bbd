//! The signals that ask a process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, complain};

/// `SIGINT` and `SIGTERM`, received from now on.
pub(super) struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    /// Begins to receive them: they no longer end the process by themselves.
    pub(super) fn new() -> Result<Self, CliError> {
        let receive =
            |kind| signal(kind).map_err(|e| CliError::Failed(format!("signals cannot be received: {e}")));
        Ok(Self {
            interrupt: receive(SignalKind::interrupt())?,
            terminate: receive(SignalKind::terminate())?,
        })
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
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
