//! `profiled serve`: the daemon.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::CliError;
use crate::app::App;
use crate::config::{Config, ServeOptions};
use crate::http::{Front, server};
use crate::model::seq::SystemClock;
use crate::telemetry;

/// The command.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    options: ServeOptions,
}

/// Runs the daemon until it is told to stop, or fails.
pub(super) fn run(command: Serve) -> Result<(), CliError> {
    let config = Config::resolve(command.options).map_err(|e| CliError::Usage(e.to_string()))?;
    telemetry::install(&config.log).map_err(|e| CliError::Failed(e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| CliError::Failed(format!("no threads can be had: {e}")))?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), CliError> {
    let listener = TcpListener::bind(config.listen).await.map_err(|e| {
        CliError::Failed(format!(
            "{} cannot be listened on: {e}; choose another with --listen",
            config.listen
        ))
    })?;
    let address = listener.local_addr().map_err(|e| CliError::Failed(e.to_string()))?;
    let app =
        App::open(config.clone(), Arc::new(SystemClock)).map_err(|e| CliError::Failed(e.to_string()))?;
    // Until here a signal ends the process at once, however long the recovery takes: that is always safe.
    let mut stops = Stops::new().map_err(|e| CliError::Failed(format!("signals cannot be received: {e}")))?;
    // Whoever started us may have closed our output, and serving is still right.
    writeln!(std::io::stdout(), "listening on http://{address}").unwrap_or_default();

    let front = Front::new(app.clone(), &config);
    let stopped = tokio::select! {
        why = app.failed() => Err(CliError::Failed(why)),
        () = server::serve(listener, front, stops.first()) => Ok(()),
    };
    stopped?;
    tokio::select! {
        () = app.stop() => Ok(()),
        why = app.failed() => Err(CliError::Failed(why)),
    }
}

/// The signals that ask us to stop.
struct Stops {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stops {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the first; from then on a second one ends the process at once.
    async fn first(&mut self) {
        let (interrupt, terminate) = (&mut self.interrupt, &mut self.terminate);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: requests that have begun are finished first");
        if let Ok(mut second) = signal(SignalKind::interrupt()) {
            tokio::spawn(async move {
                second.recv().await;
                eprintln!("profiled: ended at once; what was acknowledged is kept");
                std::process::exit(1);
            });
        }
    }
}
