//! The command line: one file per subcommand.
//!
//! Promises: people get words on the terminal, and programs get one JSON value with `--json`. The exit code is 0 for
//! done, 1 for failed, and 2 for wrong usage. An error says what would be right.

mod batch;
mod client;
mod demo;
mod describe;
mod export;
mod import;
mod lint;
mod profile;
mod serve;
mod stop;
mod supervise;
mod token;
mod upkeep;

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::model::id::{ClientCode, IdError, IdKind};

/// The longest time that the start or the end of the process waits for a line to be written.
const SAID_MAX: Duration = Duration::from_secs(1);

/// A visitor-profile store that speaks Adobe Target's profile APIs.
#[derive(Debug, Parser)]
#[command(name = "profiled", version, about, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Serve(Box<serve::Serve>),
    /// Post, follow and list batches
    #[command(subcommand)]
    Batch(batch::Batch),
    /// Look up a visitor, set or remove its attributes, or erase it
    #[command(subcommand)]
    Profile(profile::Profile),
    Lint(lint::Lint),
    Export(export::Export),
    Import(import::Import),
    /// Back up a running daemon: a snapshot, the journal after it, and the uploads
    Backup(upkeep::Backup),
    /// Restore a backup into a new data folder
    Restore(upkeep::Restore),
    /// Check a data folder that no daemon has open, and print a digest of its content
    Check(Box<upkeep::Check>),
    /// Rebuild the store: frees unused disk space, and deletes every byte of erased visitors
    Compact(upkeep::Compact),
    /// Create, list and revoke access tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show the main job step by step in a temporary folder, then keep the daemon running to try it
    Demo(demo::Demo),
    Completions(describe::Completions),
    Man(describe::Man),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Serve(command) => serve::run(*command),
        Command::Batch(command) => batch::run(command),
        Command::Profile(command) => profile::run(command),
        Command::Lint(command) => lint::run(&command),
        Command::Export(command) => export::run(command),
        Command::Import(command) => import::run(command),
        Command::Backup(command) => upkeep::backup(command),
        Command::Restore(command) => upkeep::restore(&command),
        Command::Check(command) => upkeep::check(*command),
        Command::Compact(command) => upkeep::compact(command),
        Command::Token(command) => token::run(command),
        Command::Demo(command) => demo::run(&command),
        Command::Completions(command) => describe::completions(&command),
        Command::Man(command) => describe::man(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.code())
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The command failed.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

/// Where the daemon is, and how to print the answer.
#[derive(Debug, Args)]
struct Remote {
    /// URL of the daemon
    #[arg(long, env = "PROFILED_URL", value_name = "URL", default_value = "http://127.0.0.1:8750")]
    url: String,
    /// Access token, if the daemon requires one
    #[arg(long, env = "PROFILED_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with root certificates, in PEM, for a daemon on https [default: those of the system]
    #[arg(long, env = "PROFILED_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Remote {
    /// A client for that daemon.
    fn client(&self) -> Result<client::Client, CliError> {
        client::Client::new(&self.url, self.token.as_deref(), self.ca.as_deref())
    }
}

/// The kind of a visitor's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// The company's id
    ThirdParty,
    /// Target's own visitor id
    Pc,
    /// The Experience Cloud id
    Ecid,
}

impl By {
    const fn kind(self) -> IdKind {
        match self {
            Self::ThirdParty => IdKind::ThirdParty,
            Self::Pc => IdKind::Pc,
            Self::Ecid => IdKind::Ecid,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ThirdParty => "third-party",
            Self::Pc => "pc",
            Self::Ecid => "ecid",
        }
    }
}

/// The format of a file of visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One JSON object a line for each visitor, with everything that a lookup shows
    Ndjson,
    /// A batch file: ids and values
    Csv,
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    /// The format that was named, else the one that the file's name ends with.
    fn of(named: Option<Self>, file: &Path) -> Result<Self, CliError> {
        let ending = file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        match (named, ending.as_deref()) {
            (Some(named), _) => Ok(named),
            (None, Some("ndjson")) => Ok(Self::Ndjson),
            (None, Some("csv")) => Ok(Self::Csv),
            (None, _) => Err(CliError::Usage(format!(
                "{}: the name ends neither with .ndjson nor with .csv: set --format ndjson or --format csv",
                shown(&file.display().to_string())
            ))),
        }
    }
}

fn parse_client(text: &str) -> Result<ClientCode, IdError> {
    ClientCode::new(text)
}

/// Runs a command that talks to a daemon.
fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| CliError::Failed(format!("no thread could be started: {e}")))?.block_on(future)
}

fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::Failed(format!("the answer cannot be printed as JSON: {e}")))?;
    say(text);
    Ok(())
}

/// Prints a line on standard output. If nobody reads it any more, the command goes on.
fn say(line: impl fmt::Display) {
    writeln!(io::stdout(), "{line}").unwrap_or_default();
}

/// Does the same, but waits at most [`SAID_MAX`] for a reader that does not read.
fn say_in_time(line: impl fmt::Display) {
    let line = line.to_string();
    in_time(move || say(line));
}

/// Prints what went wrong on standard error. Waits at most [`SAID_MAX`] for a reader that does not read.
fn complain(line: impl fmt::Display) {
    let line = line.to_string();
    in_time(move || writeln!(io::stderr(), "profiled: {line}").unwrap_or_default());
}

/// Writes on a thread of its own, and abandons the thread if it blocks.
fn in_time(write: impl FnOnce() + Send + 'static) {
    let (done, written) = mpsc::channel();
    let thread = std::thread::Builder::new().name("say".into()).spawn(move || {
        write();
        // The caller may have stopped waiting.
        done.send(()).unwrap_or_default();
    });
    if thread.is_ok() {
        written.recv_timeout(SAID_MAX).unwrap_or_default();
    }
}

/// Text from outside, safe for a terminal: control characters are escaped.
fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            // Writing to a string does not fail.
            write!(safe, "{}", c.escape_default()).unwrap_or_default();
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A spinner on the terminal, until it is dropped, for work of unknown length.
struct GoesOn(ProgressBar);

impl GoesOn {
    fn doing(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A table, as all commands print it.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(comfy_table::ContentArrangement::Dynamic)
        .set_header(header.to_vec());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn text_from_outside_does_not_command_the_terminal() {
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(shown("小明 🌸 ليلى"), "小明 🌸 ليلى");
    }
}
