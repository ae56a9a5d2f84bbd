//! `profiled backup|restore|check|compact`: the data folder's upkeep.

use crate::layout;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{CliError, GoesOn, Remote, block_on, complain, print_json, say, table};
use crate::audit::{self, Actor};
use crate::batch::pending::Accepted;
use crate::config::{Config, ServeOptions};
use crate::engine::OpenError;
use crate::engine::offline::check::{self, Report};
use crate::engine::offline::restore::{self, Restored};
use crate::engine::open::salvage::{self, Lost};
use crate::engine::upkeep::manifest::Manifest;
use crate::folder;
use crate::model::seq::{Clock, Millis, SystemClock};
use crate::telemetry;

/// Writes a backup of a running daemon.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// A new folder, on the daemon's machine
    folder: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// Puts a backup where a daemon can be started on it.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    folder: PathBuf,
    /// The data folder, which must be new or empty
    #[arg(long, env = "PROFILED_DATA", value_name = "FOLDER", default_value = "./profiled-data")]
    data: PathBuf,
    /// Erase again whoever was erased after the backup: the data folder it was made of, or its file `erasures`
    #[arg(long, value_name = "FOLDER")]
    after: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Checks a data folder that no daemon has open, or a backup; writes nothing to it.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    options: ServeOptions,
    /// Give up damaged entries of the journal, and damaged uploads that are not folded in yet, so that a daemon can go
    /// on without them; this does write to the folder
    #[arg(long)]
    salvage: bool,
    /// Where a store is made, or copied, to be read: it takes as much room as the daemon's [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Has a running daemon make a fresh store.
#[derive(Debug, Args)]
pub(super) struct Compact {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackedUp {
    values: u64,
    seq: String,
    damaged_uploads: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compacted {
    store_bytes_before: u64,
    store_bytes: u64,
    live_bytes: u64,
    ids_erased: u64,
}

pub(super) fn backup(command: Backup) -> Result<(), CliError> {
    let folder = std::path::absolute(&command.folder)
        .map_err(|e| CliError::Usage(format!("{} is not a path: {e}", command.folder.display())))?;
    block_on(async {
        let client = command.remote.client()?;
        let goes_on = GoesOn::doing("a snapshot is taken, verified and copied");
        let answer = client.post_json("/api/v1/backup", &serde_json::json!({ "folder": folder })).await?;
        drop(goes_on);
        let done: BackedUp = answer.json()?;
        if done.damaged_uploads > 0 {
            complain(format_args!(
                "{} damaged uploads are in the backup as they are; `profiled batch list` tells the batches that are stuck: \
                 send their files again, or give them up",
                done.damaged_uploads
            ));
        }
        if command.remote.json {
            return print_json(&done);
        }
        let folder = folder.display();
        say(format_args!("{folder}: {} values and the journal up to seq {}", done.values, done.seq));
        Ok(())
    })
}

/// A batch that is stuck.
#[derive(Debug, Serialize)]
struct StuckShown<'m> {
    batch: &'m str,
    reason: &'m str,
}

/// What a restore came to, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RestoredShown<'m> {
    #[serde(flatten)]
    manifest: &'m Manifest,
    /// None: nobody was, for no list was given.
    erased_again: Option<u64>,
    /// These wait for a batch that is stuck.
    not_erased: u64,
    /// Who was erased between the backup and this seq is not in the list.
    list_begins_at: Option<String>,
    /// Batches that are stuck, and why.
    stuck: Vec<StuckShown<'m>>,
}

pub(super) fn restore(command: &Restore) -> Result<(), CliError> {
    let config = Config::resolve(&ServeOptions::default()).map_err(|e| CliError::Usage(e.to_string()))?;
    let goes_on = GoesOn::doing("the backup is verified, copied and opened once");
    let clock = Arc::new(SystemClock);
    let restored = restore::restore(&command.folder, &command.data, command.after.as_deref(), config, clock);
    drop(goes_on);
    let Restored { manifest, erased_again, not_erased, list_begins_late, held } =
        restored.map_err(|e| CliError::Failed(e.to_string()))?;
    let what = command.folder.display().to_string();
    audit::note(&command.data, SystemClock.now(), &Actor::this_user(), "restore", None, &what);
    let (data, seq) = (command.data.display(), &manifest.seq);
    if command.json {
        let list_begins_at = list_begins_late.map(|seq| seq.to_string());
        let stuck = held.iter().map(|(batch, reason)| StuckShown { batch, reason }).collect();
        print_json(&RestoredShown { manifest: &manifest, erased_again, not_erased, list_begins_at, stuck })?;
    } else {
        say(format_args!(
            "{data}: restored up to seq {seq}, and opened once; `profiled check --data {data}` reads all of it, \
             `profiled serve --data {data}` serves it"
        ));
    }
    for (batch, why) in &held {
        complain(format_args!("batch {batch} is stuck, as it was when the backup was made: {why}"));
    }
    if not_erased > 0 {
        complain(format_args!(
            "{not_erased} ids that were erased after the backup was made wait for a batch that is stuck: erase them again \
             once it is sent again or given up"
        ));
    }
    let made = Millis(manifest.made_at_ms).iso_8601();
    match (erased_again, list_begins_late) {
        (None, _) => complain(format_args!(
            "whoever was erased after the backup was made, {made}, is back: erase them again, or restore with \
             --after and the data folder that it was made of (its file `erasures` will do)"
        )),
        (Some(ids), late) => {
            complain(format_args!(
                "{ids} visitors who were erased after the backup was made are erased again"
            ));
            if let Some(begins) = late {
                complain(format_args!(
                    "but the list of erasures begins at seq {begins}, {}: who was erased before that is back: erase them \
                     again",
                    begins.millis().iso_8601()
                ));
            }
        }
    }
    Ok(())
}

fn failed(error: OpenError) -> CliError {
    CliError::Failed(error.to_string())
}

fn note_salvage(folder: &Path, what: &str) {
    audit::note(folder, SystemClock.now(), &Actor::this_user(), "salvage", None, what);
}

fn salvage_journal(folder: &Path) -> Result<(), CliError> {
    let lost = salvage::journal(folder).map_err(failed)?;
    note_salvage(folder, &format!("{} stretches of the journal given up", lost.len()));
    for Lost { stretch, between: (before, behind) } in &lost {
        let behind = behind.map_or_else(|| "the end".to_owned(), |seq| seq.to_string());
        complain(format_args!(
            "given up: bytes {} to {} of {}: what was accepted between seq {before} and {behind} is lost",
            stretch.from.to_pair().1,
            stretch.to.to_pair().1,
            stretch.file.display()
        ));
    }
    if !lost.is_empty() {
        let aside = folder.join(layout::DAMAGED);
        complain(format_args!("{}: the segments as they were, and the uploads", aside.display()));
    }
    Ok(())
}

fn salvage_upload(folder: &Path, batch: &Accepted, error: &str) -> Result<(), CliError> {
    let kept = salvage::upload(folder, batch, SystemClock.now()).map_err(failed)?;
    note_salvage(folder, &format!("the upload of batch {} given up", batch.id));
    complain(format_args!(
        "given up: batch {}: {error}. All of its {} rows count as failed, also those that were folded in already: \
         post them again. What is left of the file: {}",
        batch.id,
        batch.rows,
        kept.display()
    ));
    Ok(())
}

pub(super) fn check(command: Check) -> Result<(), CliError> {
    let config = Config::resolve(&command.options).map_err(|e| CliError::Usage(e.to_string()))?;
    let folder = config.server.data_folder.clone();
    folder::check(&folder).map_err(|e| CliError::Failed(e.to_string()))?;
    if !folder.join("journal").exists() {
        return Err(CliError::Failed(format!("{} holds no journal: it is no data folder", folder.display())));
    }
    if command.salvage && folder.join(layout::MANIFEST).exists() {
        let folder = folder.display();
        return Err(CliError::Failed(format!(
            "{folder} is a backup, which nothing writes to: restore it first"
        )));
    }
    let scratch = command.scratch.unwrap_or_else(std::env::temp_dir);
    let _last_lines = telemetry::install(&config.server.log, config.server.log_format)
        .map_err(|e| CliError::Failed(e.to_string()))?;
    if command.salvage {
        salvage_journal(&folder)?;
    }
    let report = loop {
        let report = check::check(config.clone(), Arc::new(SystemClock), &scratch);
        let report = report.map_err(|e| CliError::Failed(e.to_string()))?;
        if !command.salvage || report.held.is_empty() {
            break report;
        }
        for (batch, why) in &report.held {
            salvage_upload(&folder, batch, why)?;
        }
    };
    if command.json {
        print_json(&report)?;
    } else {
        say(in_words(&folder, &report));
    }
    match report.faults.len() {
        0 => Ok(()),
        faults => Err(CliError::Failed(format!("{faults} things are not as they should be"))),
    }
}

pub(super) fn compact(command: Compact) -> Result<(), CliError> {
    block_on(async {
        let client = command.remote.client()?;
        let goes_on = GoesOn::doing("a fresh store is filled");
        let answer = client.post_json("/api/v1/compact", &serde_json::json!({})).await?;
        drop(goes_on);
        let done: Compacted = answer.json()?;
        if command.remote.json {
            return print_json(&done);
        }
        let Compacted { store_bytes_before: before, store_bytes: after, live_bytes, ids_erased } = done;
        let erased = match ids_erased {
            0 => String::new(),
            ids => format!("; of {ids} erased ids no byte is left"),
        };
        say(format_args!("the store had {before} bytes and has {after}, {live_bytes} of them live{erased}"));
        Ok(())
    })
}

fn in_words(folder: &Path, report: &Report) -> String {
    let mut lines = table(&["what", "how many"]);
    for (what, number) in [
        ("journal frames", report.journal_frames),
        ("journal entries", report.journal_entries),
        ("snapshots", report.snapshots.len() as u64),
        ("batches", report.batches),
        ("rows of them", report.rows),
        ("profiles", report.profiles),
        ("attributes of them", report.attributes),
        ("expired, not swept yet", report.expired),
        ("links", report.links),
        ("links that lead nowhere", report.dead_links),
        ("tombstones", report.tombstones),
    ] {
        lines.add_row([what.to_owned(), number.to_string()]);
    }
    let mut words = format!("{}\n{lines}\nseq {}\ndigest {}", folder.display(), report.seq, report.digest);
    let notes = report.notes.iter().map(|note| ("note", note));
    for (what, text) in notes.chain(report.faults.iter().map(|fault| ("fault", fault))) {
        words.push_str(&format!("\n{what}: {}", super::shown(text)));
    }
    words
}
