//! `profiled serve`: the daemon.

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::error::CliError;
use super::node::{self, Node};
use super::stop::{self, Stops};
use super::supervise::Supervised;
use super::terminal::{complain, say_in_time};
use crate::clock::GuardedClock;
use crate::config::{Config, ConfigError, ServeOptions};
use crate::engine::{Engine, Opening, SERVING_THREADS};
use crate::folder;
use crate::http::tls::Tls;
use crate::http::{Front, server};
use crate::telemetry;
use crate::tokens::Tokens;

/// The longest time for the last checkpoint at a stop. With [`server::DRAIN_MAX`] it is less than ten seconds.
const STOP_MAX: Duration = Duration::from_secs(3);

/// File handles that connections must not use. The journal, the store, snapshots and pending batches use about twenty.
const HANDLES_KEPT: usize = 64;
/// File handles of an upload: its file and its index.
const HANDLES_PER_UPLOAD: usize = 2;

/// The command.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    options: ServeOptions,
    /// Stop when the process with this id, which started this one, ends
    #[arg(long, hide = true, value_name = "ID")]
    end_with: Option<u32>,
}

/// What the settings are read from, at the start and at each reload.
struct Asked {
    options: ServeOptions,
    /// The most files that may be open.
    handles: Option<u64>,
}

impl Asked {
    /// Reads the settings.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::resolve(&self.options)?;
        keep_file_handles(&mut config, self.handles);
        Ok(config)
    }
}

/// Runs the daemon until it gets a signal to stop, or fails.
pub(super) fn run(command: Serve) -> Result<(), CliError> {
    command.end_with.map(stop::end_with).transpose()?;
    let options = command.options;
    let mut config = Config::resolve(&options).map_err(|e| CliError::Usage(e.to_string()))?;
    node::clear_interrupted(&config)?;
    folder::check(&config.server.data_folder).map_err(|e| CliError::Failed(e.to_string()))?;
    warn_of_root(&config.server.data_folder);
    let tokens = Tokens::read(&config.server.data_folder).map_err(|e| CliError::Failed(e.to_string()))?;
    if config.cluster.order.is_none() {
        // A node of several may get its first tokens from the others.
        config.check_reach(tokens.are_asked_for()).map_err(|e| CliError::Usage(e.to_string()))?;
    }
    let _last_lines = telemetry::install(&config.server.log, config.server.log_format)
        .map_err(|e| CliError::Failed(e.to_string()))?;
    if !tokens.are_asked_for() && config.server.allow_anonymous {
        tracing::warn!(listen = %config.server.listen, "there are no tokens: anybody who can reach this address may read and write everything");
    }
    let asked = Asked { options, handles: allow_all_file_handles() };
    keep_file_handles(&mut config, asked.handles);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_name(SERVING_THREADS).build();
    let runtime = runtime.map_err(|e| CliError::Failed(format!("no threads could be started: {e}")))?;
    let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(serve(config, asked))));
    let done = done.unwrap_or_else(|_| Err(CliError::Failed("the main thread panicked".into())));
    // Whatever still runs is no longer needed, or took too long.
    runtime.shutdown_background();
    done
}

/// Warns if root runs the daemon on another user's folder: that user could not open the new files.
fn warn_of_root(data_folder: &Path) {
    let owner = std::fs::metadata(data_folder).map(|folder| folder.uid());
    if rustix::process::geteuid().is_root() && owner.as_ref().is_ok_and(|user| *user != 0) {
        let (folder, user) = (data_folder.display(), owner.unwrap_or_default());
        complain(format_args!(
            "{folder} belongs to user {user}, but root runs this: that user may not be able to open the files written \
             now; run it as that user"
        ));
    }
}

async fn serve(config: Config, asked: Asked) -> Result<(), CliError> {
    let tls = tls(&config)?;
    // A SIGHUP while the folder is opened must not end the process.
    let mut terminal = Terminal::of_this_process();
    let mut hangups =
        signal(SignalKind::hangup()).map_err(|e| CliError::Failed(format!("cannot receive signals: {e}")))?;
    let listener = TcpListener::bind(config.server.listen).await.map_err(|e| {
        CliError::Failed(format!(
            "cannot listen on {}: {e}; choose another address with --listen",
            config.server.listen
        ))
    })?;
    let address = listener.local_addr().map_err(|e| CliError::Failed(e.to_string()))?;
    let supervised = Supervised::by_environment();
    let front_config = config.clone();
    let opening = Opening::default();
    let watched = opening.clone();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let (own_url, runtime) = (url.clone(), tokio::runtime::Handle::current());
    let opened = tokio::task::spawn_blocking(move || {
        let node = Node::join(&config, &own_url, &runtime)?;
        let clock = GuardedClock::of_this_machine(config.server.clock_ahead_max);
        let opened = Engine::open_as(config, clock, &watched, node.as_ref().map(Node::parts));
        let app = opened.map_err(|e| CliError::Failed(e.to_string()))?;
        let members = node.map(|node| node.watch(app.clone())).transpose()?;
        Ok::<_, CliError>((app, members))
    });
    let opened = tokio::select! {
        opened = opened => opened.map_err(|e| CliError::Failed(e.to_string()))?,
        never = supervised.opening(&opening) => match never {},
        never = server::serve_opening(&listener, &opening, tls.as_ref()) => match never {},
    };
    let (app, members) = opened?;
    let watched = app.clone();
    telemetry::on_panic(move |thread| watched.thread_panicked(thread));
    // Until here a signal ends the process at once, even in the middle of a recovery. That is always safe.
    let mut stops = Stops::new()?;
    say_in_time(format_args!("listening on {url}"));
    supervised.ready(&url);

    let front = Front::new(app.clone(), &front_config, tls)
        .with_members(members.clone())
        .with_settings(Box::new(move || asked.config()));
    let reloaded = front.clone();
    let stopped = tokio::select! {
        why = app.failed() => Err(CliError::Failed(why)),
        never = reload_at((&mut hangups, &mut terminal), &reloaded, (&supervised, &url)) => match never {},
        never = supervised.watch(&app) => match never {},
        () = server::serve(listener, front, stop(&mut stops, &supervised)) => Ok(()),
    };
    if let Some(members) = members {
        // The other nodes hear that this one was stopped, and the next run of it need not wait.
        let told = tokio::task::spawn_blocking(move || members.stop());
        drop(timeout(STOP_MAX, told).await);
    }
    stopped?;
    tokio::select! {
        stopped = timeout(STOP_MAX, app.stop()) => {
            if stopped.is_err() {
                tracing::warn!("the last checkpoint took too long and was skipped: the next start takes longer");
            }
            Ok(())
        }
        why = app.failed() => Err(CliError::Failed(why)),
    }
}

/// Reads and checks the certificate of the settings, before anything is bound.
fn tls(config: &Config) -> Result<Option<Arc<Tls>>, CliError> {
    let tls = config.tls().map(Tls::load).transpose();
    Ok(tls.map_err(|e| CliError::Usage(e.to_string()))?.map(Arc::new))
}

/// The terminal that started the daemon, if one did. When it closes, the system sends a `SIGHUP` that nobody asked for.
struct Terminal {
    open: bool,
}

impl Terminal {
    fn of_this_process() -> Self {
        Self { open: Self::is_open() }
    }

    fn is_open() -> bool {
        io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
    }

    /// Whether it was closed since the last call.
    fn was_closed(&mut self) -> bool {
        std::mem::replace(&mut self.open, Self::is_open()) && !self.open
    }
}

/// At each `SIGHUP`, reloads what may change while the daemon runs and accepts the clock. Ignores the `SIGHUP` of a closed
/// terminal.
async fn reload_at(
    (hangups, terminal): (&mut Signal, &mut Terminal),
    front: &Front,
    (supervised, url): (&Supervised, &str),
) -> Infallible {
    loop {
        if hangups.recv().await.is_none() {
            return std::future::pending().await;
        }
        if terminal.was_closed() {
            tracing::info!("the terminal was closed: the daemon keeps running");
            continue;
        }
        supervised.reloading();
        let front = front.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || front.reload_at_signal()).await {
            tracing::error!(%error, "the reload broke off");
        }
        supervised.ready(url);
    }
}

/// Raises the limit of open files to the most that the system allows: the usual 1,024 are too few for thousands of
/// connections. Returns the limit.
fn allow_all_file_handles() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::info!(current, %error, "the limit of open files could not be raised");
            current
        }
    }
}

/// Lowers `connections_max` so that the store, the journal and uploads keep enough file handles.
fn keep_file_handles(config: &mut Config, handles: Option<u64>) {
    let Some(handles) = handles.and_then(|handles| usize::try_from(handles).ok()) else { return };
    let kept = HANDLES_KEPT + HANDLES_PER_UPLOAD * config.limits.concurrent_uploads_max;
    let left = handles.saturating_sub(kept).max(handles / 4);
    if left < config.callers.connections_max {
        config.callers.connections_max = left;
        tracing::warn!(
            handles,
            connections_max = left,
            "the system allows few open files: connections_max is lowered"
        );
    }
}

/// Waits for the first signal. After it, a second one ends the process at once.
async fn stop(stops: &mut Stops, supervised: &Supervised) {
    stops.next().await;
    supervised.stopping();
    tracing::info!("stopping: requests under way are finished first");
    stops.end_at_the_next();
}
