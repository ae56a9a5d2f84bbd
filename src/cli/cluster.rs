//! `profiled cluster`: how the nodes are, making an order of a single daemon's data, and taking a folder out of its order.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::DecimalBytes;
use serde::{Deserialize, Serialize};

use super::args::{Remote, block_on};
use super::error::CliError;
use super::terminal::{print_json, say, shown};
use crate::cluster::{self, FolderCluster};
use crate::config::{Config, ServeOptions};
use crate::engine::offline::keep_daemons_out;
use crate::folder;
use crate::model::seq::SystemClock;

/// A node that has not reported for so long is perhaps not there: nodes report every two seconds.
const REPORT_LATE_MS: u64 = 7_000;

/// Work on the order of several nodes.
#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Show how the nodes of an order are, as the node knows it that is asked
    Status(Status),
    /// Begin an order from the data of a single daemon, or of the node that has most of a lost one
    Found(Box<Found>),
    /// Take a data folder out of its order, so that a single daemon can go on from it
    Leave(Leave),
}

/// Shows the nodes.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    remote: Remote,
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
        Cluster::Status(command) => block_on(status(command)),
        Cluster::Found(command) => found(&command),
        Cluster::Leave(command) => leave(&command),
    }
}

/// The nodes as the native API shows them.
#[derive(Debug, Serialize, Deserialize)]
struct ClusterView {
    node: String,
    cluster: String,
    order: Ends,
    files: Ends,
    nodes: Vec<NodeView>,
    faults: Vec<String>,
}

/// The first offset of a topic, and its end.
#[derive(Debug, Serialize, Deserialize)]
struct Ends {
    low: u64,
    end: u64,
}

/// One of the nodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    name: String,
    address: String,
    version: String,
    /// As it came. A later daemon may send one that this program does not know.
    state: String,
    applied: u64,
    behind_records: u64,
    behind_ms: Option<u64>,
    snapshot: u64,
    disk_free: u64,
    settings_differ: bool,
    diverged: bool,
    reported_ms_ago: u64,
}

async fn status(command: Status) -> Result<(), CliError> {
    let cluster: ClusterView = command.remote.client()?.get("/api/v1/cluster").await?.json()?;
    if command.remote.json {
        return print_json(&cluster);
    }
    say(in_words(&cluster));
    Ok(())
}

/// A line for the order, a line a node, and a line for each warning.
fn in_words(cluster: &ClusterView) -> String {
    let ClusterView { node, order: Ends { low, end }, nodes, .. } = cluster;
    let mut text = format!(
        "order {}, records {low} to {end}, as node {} knows it\n\n",
        shown(&cluster.cluster),
        shown(node)
    );
    let mut rows =
        vec![["node", "address", "version", "state", "behind", "snapshot", "disk"].map(str::to_owned)];
    rows.extend(nodes.iter().map(NodeView::cells));
    let widths: Vec<usize> = (0..7)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    for node in nodes {
        let name = shown(&node.name);
        if node.state != "stopped" && node.reported_ms_ago > REPORT_LATE_MS {
            text += &format!("\ncheck: node {name} has not reported for {} s", node.reported_ms_ago / 1_000);
        }
        if node.diverged {
            text += &format!(
                "\ncheck: node {name} has decided otherwise than this one: one of them has diverged, and its log says so"
            );
        }
        if node.settings_differ {
            text += &format!(
                "\ncheck: node {name} has other settings that shape outcomes: the same call has another outcome there"
            );
        }
    }
    for fault in &cluster.faults {
        text += &format!("\ncheck: {}", shown(fault));
    }
    text.trim_end().to_owned()
}

impl NodeView {
    fn cells(&self) -> [String; 7] {
        let address = shown(self.address.strip_prefix("http://").unwrap_or(&self.address));
        let behind = match (self.behind_records, self.behind_ms) {
            (0, _) => "-".to_owned(),
            (records, Some(ms @ 0..10_000)) => format!("{records}, {ms} ms"),
            (records, Some(ms)) => format!("{records}, {} s", ms / 1_000),
            (records, None) => records.to_string(),
        };
        let snapshot = if self.snapshot == 0 { "-".into() } else { format!("to {}", self.snapshot) };
        [
            shown(&self.name),
            address,
            shown(&self.version),
            shown(&self.state),
            behind,
            snapshot,
            // A node that has just started has not looked yet.
            if self.disk_free == 0 { "-".into() } else { DecimalBytes(self.disk_free).to_string() },
        ]
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
    let _lock = stopped(data)?;
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

/// An error unless this is a data folder that no daemon serves. None opens it as long as what this gives is open.
fn stopped(data: &Path) -> Result<File, CliError> {
    folder::expect(data).map_err(|error| CliError::Failed(error.to_string()))?;
    keep_daemons_out(data).map_err(|error| CliError::Failed(error.to_string()))
}

fn leave(command: &Leave) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", command.data.display()));
    let _lock = stopped(&command.data)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeView {
        NodeView {
            name: name.into(),
            address: "http://10.0.0.7:8750".into(),
            version: "0.1.0".into(),
            state: "serving".into(),
            applied: 812_345,
            behind_records: 0,
            behind_ms: Some(0),
            snapshot: 790_000,
            disk_free: 231_000_000_000,
            settings_differ: false,
            diverged: false,
            reported_ms_ago: 900,
        }
    }

    #[test]
    fn the_nodes_fit_a_terminal_and_what_is_wrong_stands_below() {
        let behind = NodeView { behind_records: 4_100, behind_ms: Some(61_000), ..node("b") };
        let away = NodeView { state: "away".into(), reported_ms_ago: 90_000, ..node("c\u{1b}") };
        let odd = NodeView { settings_differ: true, diverged: true, ..node("d") };
        let cluster = ClusterView {
            node: "a".into(),
            cluster: "0c1d2e3f".into(),
            order: Ends { low: 0, end: 812_345 },
            files: Ends { low: 0, end: 0 },
            nodes: vec![node("a"), behind, away, odd],
            faults: vec!["profiled.order: min.insync.replicas is 1".into()],
        };
        let text = in_words(&cluster);
        let table = text.split("\n\n").nth(1).unwrap();
        assert_eq!(table.lines().count(), 5, "{text}");
        assert!(text.lines().take(7).all(|line| line.chars().count() <= 80), "{text}");
        for words in [
            "4100, 61 s",
            "to 790000",
            "node c\\u{1b} has not reported for 90 s",
            "node d has decided otherwise",
            "node d has other settings",
            "check: profiled.order: min.insync.replicas is 1",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
