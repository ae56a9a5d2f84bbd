//! `profiled cluster`: making an order of a single daemon's data, and taking a folder out of its order.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::terminal::say;
use crate::cluster::{self, FolderCluster};
use crate::config::{Config, ServeOptions};
use crate::folder;
use crate::model::seq::SystemClock;

/// Work on the order of several nodes.
#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Begin an order from the data of a single daemon, or of the node that has most of a lost one
    Found(Box<Found>),
    /// Take a data folder out of its order, so that a single daemon can go on from it
    Leave(Leave),
}

/// Begins an order.
#[derive(Debug, Args)]
pub(super) struct Found {
    #[command(flatten)]
    options: ServeOptions,
    /// The folder belongs to an order that is lost: begin a new one from it
    #[arg(long)]
    anew: bool,
}

/// Takes a folder out of its order.
#[derive(Debug, Args)]
pub(super) struct Leave {
    /// The data folder of a node that does not run
    #[arg(long, env = "PROFILED_DATA", value_name = "FOLDER", default_value = "./profiled-data")]
    data: PathBuf,
}

/// Runs the command.
pub(super) fn run(command: Cluster) -> Result<(), CliError> {
    match command {
        Cluster::Found(command) => found(&command),
        Cluster::Leave(command) => leave(&command),
    }
}

fn found(command: &Found) -> Result<(), CliError> {
    let config = Config::resolve(&command.options).map_err(|error| CliError::Usage(error.to_string()))?;
    let Some(order) = &config.cluster.order else {
        return Err(CliError::Usage(
            "no order is named: give --order kafka://HOST:PORT,…/PREFIX and --node NAME".into(),
        ));
    };
    let data = &config.server.data_folder;
    folder::expect(data).map_err(|error| CliError::Failed(error.to_string()))?;
    let transport =
        cluster::open(&config, order.as_str()).map_err(|error| CliError::Failed(error.to_string()))?;
    let cluster = cluster::found(data, &transport, &SystemClock, command.anew)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    say(format_args!(
        "{} begins the order {cluster}: start this node first; nodes with empty folders then get its data",
        data.display()
    ));
    Ok(())
}

fn leave(command: &Leave) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", command.data.display()));
    folder::expect(&command.data).map_err(|error| CliError::Failed(error.to_string()))?;
    if FolderCluster::read(&command.data).map_err(failed)?.is_none() {
        return Err(CliError::Usage(format!("{} belongs to no order", command.data.display())));
    }
    FolderCluster::remove(&command.data).map_err(failed)?;
    say(format_args!(
        "{} is a single daemon's from now on. What the other nodes write no longer gets into it",
        command.data.display()
    ));
    Ok(())
}
