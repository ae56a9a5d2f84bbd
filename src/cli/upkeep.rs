//! `profiled backup|restore|check|compact`: upkeep of the data folder.

use crate::layout;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::args::{Remote, block_on};
use super::error::CliError;
use super::terminal::{GoesOn, columns, complain, print_json, say, table};
use crate::audit::{self, Actor};
use crate::batch::accepted::Accepted;
use crate::bucket::Storage;
use crate::config::{Config, Endpoint, Region, ServeOptions};
use crate::engine::OpenError;
use crate::engine::offline::check::{self, Report};
use crate::engine::offline::fetched::Fetched;
use crate::engine::offline::restore::{self, Restored};
use crate::engine::open::salvage::{self, Lost};
use crate::engine::upkeep::manifest::Manifest;
use crate::engine::upkeep::shelf::{Found, Place};
use crate::engine::upkeep::shelves;
use crate::folder;
use crate::model::seq::{Clock, Millis, SystemClock};
use crate::telemetry;

/// Backs up a running daemon, or verifies a backup.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Backup {
    /// A new folder, on the daemon's machine; or the s3:// URL of a new place in storage
    #[arg(required = true, value_name = "FOLDER|URL")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Option<BackupCommand>,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    List(List),
    Verify(Verify),
}

/// How to reach the storage that an s3:// URL names. Credentials are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the
/// machine's role.
#[derive(Debug, Args)]
struct StorageArgs {
    /// Where the storage of an s3:// URL answers, if it is not Amazon's
    #[arg(long, env = "PROFILED_S3_ENDPOINT", value_name = "URL", value_parser = Endpoint::new)]
    s3_endpoint: Option<Endpoint>,
    /// Region of the bucket [default: that of AWS_REGION, else us-east-1]
    #[arg(long, env = "PROFILED_S3_REGION", value_name = "REGION", value_parser = Region::new)]
    s3_region: Option<Region>,
    /// Take an --s3-endpoint that begins with http://, and send everything unencrypted
    #[arg(long, env = "PROFILED_S3_ALLOW_HTTP")]
    s3_allow_http: bool,
}

impl StorageArgs {
    fn storage(&self) -> Result<Storage, CliError> {
        let plain = self.s3_endpoint.as_ref().filter(|endpoint| endpoint.is_plain() && !self.s3_allow_http);
        if let Some(endpoint) = plain {
            return Err(CliError::Usage(format!(
                "{} would carry all profiles unencrypted: use https, or --s3-allow-http if nobody else is on that network",
                endpoint.as_str()
            )));
        }
        let (endpoint, region) = (self.s3_endpoint.clone(), self.s3_region.clone());
        Ok(Storage { endpoint, region, allow_http: self.s3_allow_http })
    }

    fn place(&self, named: &Path) -> Result<Place, CliError> {
        Place::named(named, self.storage()?).map_err(CliError::Usage)
    }
}

/// A backup on this machine: where it was named, or where it was fetched to.
enum Here {
    Named(PathBuf),
    Fetched(Fetched),
}

impl Here {
    /// Fetches the backup if it is in storage, below `scratch`.
    fn bring(place: Place, scratch: &Path) -> Result<Self, CliError> {
        match place {
            Place::Folder(folder) => Ok(Self::Named(folder)),
            Place::Bucket(url, storage) => {
                let goes_on = GoesOn::doing("fetching the backup");
                let begins = |to: &Path| {
                    complain(format_args!("fetching {url} into {}, for as long as this takes", to.display()))
                };
                let fetched = Fetched::fetch(&url, &storage, scratch, begins);
                drop(goes_on);
                Ok(Self::Fetched(fetched.map_err(|e| CliError::Failed(e.to_string()))?))
            }
        }
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Named(folder) => folder,
            Self::Fetched(fetched) => fetched.folder(),
        }
    }

    /// A message about the backup, with the place that was named.
    fn message(&self, text: &dyn std::fmt::Display) -> String {
        match self {
            Self::Named(_) => text.to_string(),
            Self::Fetched(fetched) => fetched.message(&text.to_string()),
        }
    }
}

/// List the backups in a folder or at an s3:// URL: when each was made, and how large it is
#[derive(Debug, Args)]
struct List {
    /// Folder with the backups, or the s3:// URL of the place with them
    #[arg(value_name = "FOLDER|URL")]
    place: PathBuf,
    #[command(flatten)]
    storage: StorageArgs,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// A backup in the list, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedShown<'f> {
    name: &'f str,
    /// Whether it is whole. Of one that is not, nothing else is known.
    whole: bool,
    made_at: Option<String>,
    seq: Option<&'f str>,
    values: Option<u64>,
    bytes: Option<u64>,
}

impl<'f> ListedShown<'f> {
    fn of(found: &'f Found) -> Self {
        let manifest = found.manifest.as_ref();
        Self {
            name: &found.name,
            whole: manifest.is_some(),
            made_at: manifest.map(|manifest| Millis(manifest.made_at_ms).iso_8601()),
            seq: manifest.map(|manifest| &*manifest.seq),
            values: manifest.map(|manifest| manifest.values),
            bytes: manifest.map(Manifest::bytes),
        }
    }
}

impl List {
    fn run(&self) -> Result<(), CliError> {
        let place = self.storage.place(&self.place)?;
        let found = shelves::found(&place).map_err(|e| CliError::Failed(e.to_string()))?;
        let shown: Vec<ListedShown<'_>> = found.iter().map(ListedShown::of).collect();
        if self.json {
            return print_json(&shown);
        }
        if shown.is_empty() {
            say(format_args!("{place}: no backups"));
            return Ok(());
        }
        let mut lines = columns(&["name", "made", "values", "bytes"]);
        for backup in shown {
            let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
            let made =
                backup.made_at.map_or_else(|| "not whole".to_owned(), |made| made.chars().take(19).collect());
            lines.add_row([shown_name(backup.name), made, number(backup.values), number(backup.bytes)]);
        }
        say(lines);
        Ok(())
    }
}

fn shown_name(name: &str) -> String {
    super::terminal::shown(name)
}

/// Read a whole backup, and say whether it can be restored, what it holds and how old it is
///
/// Opens the backup in a temporary folder, as a restore would, and writes nothing to it. Fails if anything in it is damaged.
#[derive(Debug, Args)]
struct Verify {
    /// Folder with the backup, or its s3:// URL
    #[arg(value_name = "FOLDER|URL")]
    folder: PathBuf,
    #[command(flatten)]
    storage: StorageArgs,
    /// Folder for a temporary store, which needs as much disk space as the daemon's store, and for a backup that is fetched
    /// [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Restores a backup into a folder on which a daemon can be started.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Folder with the backup, or its s3:// URL
    #[arg(value_name = "FOLDER|URL")]
    folder: PathBuf,
    #[command(flatten)]
    storage: StorageArgs,
    /// Folder into which a backup is fetched before it is restored [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// The data folder to create. It must be new or empty
    #[arg(long, env = "PROFILED_DATA", value_name = "FOLDER", default_value = "./profiled-data")]
    data: PathBuf,
    /// Erase the visitors again who were erased after the backup. Names the data folder that was backed up, or its file
    /// `erasures`
    #[arg(long, value_name = "FOLDER")]
    after: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Checks a data folder that no daemon has open, or a backup. Writes nothing to it.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    options: ServeOptions,
    /// Give up damaged journal entries, and damaged uploads that are not applied yet, so that a daemon can start without
    /// them. This writes to the folder
    #[arg(long)]
    salvage: bool,
    /// Folder for a temporary store, which needs as much disk space as the daemon's store [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Makes a running daemon rebuild its store.
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
    match (command.command, command.folder) {
        (Some(BackupCommand::List(list)), _) => list.run(),
        (Some(BackupCommand::Verify(verify)), _) => verify.run(),
        (None, folder) => write_backup(&folder.unwrap_or_default(), &command.remote),
    }
}

fn write_backup(folder: &Path, remote: &Remote) -> Result<(), CliError> {
    let folder = match Place::named(folder, Storage::default()).map_err(CliError::Usage)? {
        Place::Bucket(..) => folder.to_owned(),
        Place::Folder(folder) => std::path::absolute(&folder)
            .map_err(|e| CliError::Usage(format!("{} is not a path: {e}", folder.display())))?,
    };
    block_on(async {
        let client = remote.client()?;
        let goes_on = GoesOn::doing("taking, verifying and copying a snapshot");
        let answer = client.post_json("/api/v1/backup", &serde_json::json!({ "folder": folder })).await?;
        drop(goes_on);
        let done: BackedUp = answer.json()?;
        if done.damaged_uploads > 0 {
            complain(format_args!(
                "{} damaged uploads were copied as they are; `profiled batch list` shows the stuck batches: send their files \
                 again with `profiled batch resend`, or give them up with `profiled batch abandon`",
                done.damaged_uploads
            ));
        }
        if remote.json {
            return print_json(&done);
        }
        let folder = folder.display();
        say(format_args!("{folder}: {} values and the journal up to seq {}", done.values, done.seq));
        Ok(())
    })
}

/// A backup that was verified, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified<'v> {
    /// Whether a restore would succeed.
    restorable: bool,
    made_at: String,
    age_seconds: u64,
    #[serde(flatten)]
    report: &'v Report,
}

impl Verify {
    fn run(self) -> Result<(), CliError> {
        let config = Config::resolve(&ServeOptions::default()).map_err(|e| CliError::Usage(e.to_string()))?;
        let scratch = self.scratch.unwrap_or_else(std::env::temp_dir);
        let here = Here::bring(self.storage.place(&self.folder)?, &scratch)?;
        let goes_on = GoesOn::doing("reading and opening the backup");
        let verified = check::verify_backup(here.folder(), config, Arc::new(SystemClock), &scratch);
        drop(goes_on);
        let (manifest, mut report) = verified.map_err(|e| CliError::Failed(here.message(&e)))?;
        for text in report.notes.iter_mut().chain(&mut report.faults) {
            *text = here.message(text);
        }
        let (made, now) = (Millis(manifest.made_at_ms), SystemClock.now());
        let (made_at, age_seconds) = (made.iso_8601(), now.0.saturating_sub(made.0) / 1000);
        let Report { restorable, ref faults, .. } = report;
        if self.json {
            print_json(&Verified { restorable, made_at, age_seconds, report: &report })?;
        } else {
            let age = indicatif::HumanDuration(Duration::from_secs(age_seconds));
            let can = if restorable { "can be restored" } else { "cannot be restored" };
            say(format_args!("{}\nmade {made_at}, {age} ago; it {can}", in_words(&self.folder, &report)));
        }
        let found = match faults.len() {
            0 if restorable => return Ok(()),
            1 => "1 fault was found".to_owned(),
            faults => format!("{faults} faults were found"),
        };
        let so = if restorable { "; a restore brings them along" } else { ", and a restore would fail" };
        Err(CliError::Failed(format!("{found}{so}: make another backup, or use an older one")))
    }
}

/// A batch that is stuck.
#[derive(Debug, Serialize)]
struct StuckShown<'m> {
    batch: &'m str,
    reason: &'m str,
}

/// The result of a restore, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RestoredShown<'m> {
    #[serde(flatten)]
    manifest: &'m Manifest,
    /// None: no list was given, so nobody was.
    erased_again: Option<u64>,
    /// Ids that wait for a stuck batch.
    not_erased: u64,
    /// The list lacks erasures between the backup and this seq.
    list_begins_at: Option<String>,
    /// Batches that are stuck, and why.
    stuck: Vec<StuckShown<'m>>,
}

pub(super) fn restore(command: &Restore) -> Result<(), CliError> {
    let config = Config::resolve(&ServeOptions::default()).map_err(|e| CliError::Usage(e.to_string()))?;
    let scratch = command.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let here = Here::bring(command.storage.place(&command.folder)?, &scratch)?;
    let goes_on = GoesOn::doing("verifying, copying and opening the backup");
    let clock = Arc::new(SystemClock);
    let restored = restore::restore(here.folder(), &command.data, command.after.as_deref(), config, clock);
    drop(goes_on);
    let Restored { manifest, erased_again, not_erased, list_begins_late, held } =
        restored.map_err(|e| CliError::Failed(here.message(&e)))?;
    let what = command.folder.display().to_string();
    audit::note(&command.data, SystemClock.now(), &Actor::this_user(), "restore", None, &what);
    let (data, seq) = (command.data.display(), &manifest.seq);
    if command.json {
        let list_begins_at = list_begins_late.map(|seq| seq.to_string());
        let stuck = held.iter().map(|(batch, reason)| StuckShown { batch, reason }).collect();
        print_json(&RestoredShown { manifest: &manifest, erased_again, not_erased, list_begins_at, stuck })?;
    } else {
        say(format_args!(
            "{data}: restored up to seq {seq}, and opened once; `profiled check --data {data}` checks all of it, \
             `profiled serve --data {data}` serves it"
        ));
    }
    for (batch, why) in &held {
        complain(format_args!("batch {batch} is stuck, as it was in the backup: {why}"));
    }
    if not_erased > 0 {
        complain(format_args!(
            "{not_erased} ids that were erased after the backup could not be erased again, because a batch is stuck: \
             resend or abandon the batch, then erase them again"
        ));
    }
    let made = Millis(manifest.made_at_ms).iso_8601();
    match (erased_again, list_begins_late) {
        (None, _) => complain(format_args!(
            "visitors who were erased after the backup ({made}) are back: erase them again, or restore with --after and \
             the data folder that was backed up (its file `erasures` is enough)"
        )),
        (Some(ids), late) => {
            complain(format_args!("{ids} visitors who were erased after the backup were erased again"));
            if let Some(begins) = late {
                complain(format_args!(
                    "the list of erasures begins at seq {begins}, {}: visitors erased before that are back; erase them \
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
            "given up: bytes {} to {} of {}: all that was accepted between seq {before} and {behind} is lost",
            stretch.from.to_pair().1,
            stretch.to.to_pair().1,
            stretch.file.display()
        ));
    }
    if !lost.is_empty() {
        let aside = folder.join(layout::DAMAGED);
        complain(format_args!("the original segments and the uploads are kept in {}", aside.display()));
    }
    Ok(())
}

fn salvage_upload(folder: &Path, batch: &Accepted, error: &str) -> Result<(), CliError> {
    let kept = salvage::upload(folder, batch, SystemClock.now()).map_err(failed)?;
    note_salvage(folder, &format!("the upload of batch {} given up", batch.id));
    complain(format_args!(
        "given up: batch {}: {error}. All of its {} rows count as failed, also those already applied: post them \
         again. The rest of the file is in {}",
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
        return Err(CliError::Failed(format!(
            "{} is not a data folder: it has no journal",
            folder.display()
        )));
    }
    if command.salvage && folder.join(layout::MANIFEST).exists() {
        let folder = folder.display();
        return Err(CliError::Failed(format!(
            "{folder} is a backup, and backups are never changed: restore it first"
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
        faults => Err(CliError::Failed(format!("{faults} faults were found"))),
    }
}

pub(super) fn compact(command: Compact) -> Result<(), CliError> {
    block_on(async {
        let client = command.remote.client()?;
        let goes_on = GoesOn::doing("rebuilding the store");
        let answer = client.post_json("/api/v1/compact", &serde_json::json!({})).await?;
        drop(goes_on);
        let done: Compacted = answer.json()?;
        if command.remote.json {
            return print_json(&done);
        }
        let Compacted { store_bytes_before: before, store_bytes: after, live_bytes, ids_erased } = done;
        let erased = match ids_erased {
            0 => String::new(),
            ids => format!("; every byte of {ids} erased ids is deleted"),
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
        ("rows in them", report.rows),
        ("profiles", report.profiles),
        ("attributes in them", report.attributes),
        ("expired, not deleted yet", report.expired),
        ("links", report.links),
        ("links without a profile", report.dead_links),
        ("tombstones", report.tombstones),
    ] {
        lines.add_row([what.to_owned(), number.to_string()]);
    }
    let mut words = format!("{}\n{lines}\nseq {}\ndigest {}", folder.display(), report.seq, report.digest);
    let notes = report.notes.iter().map(|note| ("note", note));
    for (what, text) in notes.chain(report.faults.iter().map(|fault| ("fault", fault))) {
        words.push_str(&format!("\n{what}: {}", super::terminal::shown(text)));
    }
    words
}
