//! The command line: one file per subcommand.
//!
//! Promises: people get words on the terminal, and programs get one JSON value with `--json`. The exit code is 0 for
//! done, 1 for failed, and 2 for wrong usage. An error says what would be right.

mod args;
mod author;
mod batch;
mod batch_compare;
mod batch_values;
mod changes;
mod client;
mod cluster;
mod demo;
mod describe;
mod erase_many;
mod error;
mod export;
mod import;
mod lint;
mod live;
mod node;
mod peer;
mod profile;
mod reload;
mod serve;
mod status;
mod stop;
mod supervise;
mod terminal;
mod token;
mod upkeep;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use terminal::complain;

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
    Status(status::Status),
    Reload(reload::Reload),
    Watch(watch::Watch),
    Lint(lint::Lint),
    Export(export::Export),
    Changes(changes::Changes),
    Live(live::Live),
    Import(import::Import),
    /// Back up a running daemon: a snapshot, the journal after it, and the uploads. Or list backups, or verify one
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
    /// Begin an order for several nodes, or leave it
    #[command(subcommand)]
    Cluster(cluster::Cluster),
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
        Command::Status(command) => status::run(command),
        Command::Reload(command) => reload::run(command),
        Command::Watch(command) => watch::run(command),
        Command::Lint(command) => lint::run(&command),
        Command::Export(command) => export::run(command),
        Command::Changes(command) => changes::run(command),
        Command::Live(command) => live::run(command),
        Command::Import(command) => import::run(command),
        Command::Backup(command) => upkeep::backup(command),
        Command::Restore(command) => upkeep::restore(&command),
        Command::Check(command) => upkeep::check(*command),
        Command::Compact(command) => upkeep::compact(command),
        Command::Token(command) => token::run(command),
        Command::Cluster(command) => cluster::run(command),
        Command::Demo(command) => demo::run(&command),
        Command::Completions(command) => describe::completions(&command, CommandLine::command()),
        Command::Man(command) => describe::man(&command, CommandLine::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
