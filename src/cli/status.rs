//! `profiled status`: how a daemon is, on one screen.

use clap::Args;
use indicatif::{DecimalBytes, HumanCount};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::args::{Remote, block_on};
use super::error::CliError;
use super::terminal::{print_json, say, shown};

/// Show how a daemon is: whether it serves, its queue, its disk, its upkeep. Fails if it is not ready
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Ask only whether the process works (/healthz), which takes no token: for the health check of a container
    #[arg(long, conflicts_with = "json")]
    health: bool,
    #[command(flatten)]
    remote: Remote,
}

/// How a daemon is, as the native API tells it.
#[derive(Debug, Serialize, Deserialize)]
struct StatusView {
    version: String,
    ready: bool,
    reason: Option<String>,
    remarks: Vec<String>,
    queue: Queue,
    disk: Disk,
    upkeep: Upkeep,
    backup: Option<Backup>,
    profiles: Profiles,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    batches: u64,
    stuck: u64,
    rows: u64,
    oldest_seconds: Option<u64>,
    writes_waiting: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Disk {
    free: u64,
    reserve: u64,
    store: u64,
    uploads: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upkeep {
    checkpoint_seconds: u64,
    snapshot_seconds: u64,
    rebuilding: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Backup {
    every_seconds: u64,
    last: Option<String>,
    age_seconds: Option<u64>,
    failure: Option<String>,
}

impl Backup {
    fn in_words(&self) -> String {
        let every = span(self.every_seconds);
        let last = self.age_seconds.map_or("none yet".to_owned(), |age| format!("{} ago", span(age)));
        let failed = if self.failure.is_some() { "; the last attempt failed" } else { "" };
        format!("{last}, one every {every}{failed}")
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profiles {
    live: u64,
    counted_seconds: u64,
}

/// Runs the command.
pub(super) fn run(command: Status) -> Result<(), CliError> {
    block_on(async move {
        if command.health {
            command.remote.client()?.get("/healthz").await?;
            say("ok");
            return Ok(());
        }
        let status: StatusView = command.remote.client()?.get("/api/v1/status").await?.json()?;
        if command.remote.json {
            print_json(&status)?;
        } else {
            say(status.in_words());
        }
        match &status.reason {
            Some(why) => Err(CliError::Failed(format!("not ready: {}", shown(why)))),
            None => Ok(()),
        }
    })
}

impl StatusView {
    fn in_words(&self) -> String {
        let Self { version, ready, remarks, queue, disk, upkeep, backup, profiles, .. } = self;
        let state = if *ready { "ready" } else { "not ready" };
        let mut lines = vec![format!("profiled {} is {state}", shown(version))];
        let mut line = |name: &str, what: String| lines.push(format!("{name:<9} {what}"));
        let oldest =
            queue.oldest_seconds.map_or(String::new(), |age| format!(", the oldest for {}", span(age)));
        let (batches, rows) =
            (counted(queue.batches, "batch", "batches"), counted(queue.rows, "row", "rows"));
        line("queue", format!("{batches} with {rows} to apply{oldest}"));
        line("journal", counted(queue.writes_waiting, "write waits", "writes wait"));
        line(
            "disk",
            format!(
                "{} free; writes are refused below {}",
                DecimalBytes(disk.free),
                DecimalBytes(disk.reserve)
            ),
        );
        line(
            "data",
            format!("{} in the store, {} of uploads", DecimalBytes(disk.store), DecimalBytes(disk.uploads)),
        );
        let rebuilding = if upkeep.rebuilding { "; the store is being rebuilt" } else { "" };
        line(
            "upkeep",
            format!(
                "checkpoint {} ago, snapshot {} ago{rebuilding}",
                span(upkeep.checkpoint_seconds),
                span(upkeep.snapshot_seconds)
            ),
        );
        line("backup", backup.as_ref().map_or("none scheduled".to_owned(), Backup::in_words));
        line(
            "profiles",
            format!("{} live, counted {} ago", HumanCount(profiles.live), span(profiles.counted_seconds)),
        );
        if queue.stuck > 0 {
            line("stuck", counted(queue.stuck, "batch", "batches"));
        }
        lines.extend(remarks.iter().map(|remark| format!("check: {}", shown(remark))));
        lines.join("\n")
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { one } else { many })
}

fn span(seconds: u64) -> String {
    indicatif::HumanDuration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen_of_eighty_columns_says_how_it_is() {
        let mut status = StatusView {
            version: "0.1.0".into(),
            ready: true,
            reason: None,
            remarks: vec![],
            queue: Queue { batches: 1, stuck: 0, rows: 500_000, oldest_seconds: Some(61), writes_waiting: 0 },
            disk: Disk {
                free: 231_000_000_000,
                reserve: 268_435_456,
                store: 4_000_000_000,
                uploads: 36_000_000,
            },
            upkeep: Upkeep { checkpoint_seconds: 4, snapshot_seconds: 7_200, rebuilding: false },
            backup: None,
            profiles: Profiles { live: 1_000_000, counted_seconds: 30 },
        };
        let text = status.in_words();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.starts_with("profiled 0.1.0 is ready\nqueue     1 batch with 500,000 rows to apply"),
            "{text}"
        );
        assert!(text.contains("\nbackup    none scheduled\n"), "{text}");
        let mut backup = Backup { every_seconds: 86_400, last: None, age_seconds: None, failure: None };
        assert_eq!(backup.in_words(), "none yet, one every 24 hours");
        (backup.age_seconds, backup.failure) = (Some(7_200), Some("the disk is full".into()));
        status.backup = Some(backup);
        let text = status.in_words();
        assert!(
            text.contains("\nbackup    2 hours ago, one every 24 hours; the last attempt failed\n"),
            "{text}"
        );
        status.queue.stuck = 2;
        status.remarks.push("the clock".into());
        assert!(status.in_words().ends_with("stuck     2 batches\ncheck: the clock"));
    }
}
