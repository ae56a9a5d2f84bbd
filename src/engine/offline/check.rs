//! Checks a data folder that no daemon has open, or a backup: every checksum, every link, the counts against a scan, and a digest
//! of the content.
//!
//! Promises: the digest depends only on what lookups would show. So it is the same before a backup and after restoring it, and
//! before and after a rebuild of the store. Nothing in the folder is changed. What a start would change (cut off a torn tail,
//! rebuild a store that cannot be trusted, apply pending rows) is done in a [`Scratch`] that shows the folder, and is reported.

use crate::batch::accepted::Accepted;
use crate::batch::outcomes_file::read_outcomes;
use crate::batch::progress::Known;
use crate::batch::resolve::decoded;
use crate::clock::GuardedClock;
use crate::config::{Config, Ingest};
use crate::engine::error::OpenError;
use crate::engine::node::Role;
use crate::engine::offline::scratch::Scratch;
use crate::engine::open::digest;
use crate::engine::open::lock;
use crate::engine::open::rebuild::Opening;
use crate::engine::open::recovery;
use crate::engine::shared::Shared;
use crate::engine::start::BroughtUp;
use crate::engine::upkeep::manifest::{Manifest, ManifestError};
use crate::folder;
use crate::journal::entry::{Entry, decode_group};
use crate::journal::log::{Log, LogSettings, Position};
use crate::journal::snapshot::{Snapshots, verify};
use crate::layout;
use crate::model::id::Key;
use crate::model::profile::{Profile, Stored, StoredBytes};
use crate::model::seq::{Clock, Seq};
use crate::store::{ProfileStore, StoreError};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How many values are read at a time.
const PAGE_VALUES: usize = 512;
/// The most faults that are listed one by one.
const FAULTS_MAX: usize = 100;

/// What a data folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Frames in the journal, each verified.
    pub journal_frames: u64,
    /// Entries in them.
    pub journal_entries: u64,
    /// Snapshots that pass verification, each with its number of values.
    pub snapshots: Vec<(String, u64)>,
    /// Batches that are kept.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Profiles that are alive.
    pub profiles: u64,
    /// Profiles that have expired and are not swept yet.
    pub expired: u64,
    /// Attributes of living profiles.
    pub attributes: u64,
    /// Links that lead to a profile.
    pub links: u64,
    /// Links that count as absent.
    pub dead_links: u64,
    /// Tombstones of swept and erased visitors.
    pub tombstones: u64,
    /// The highest seq.
    pub seq: String,
    /// The digest of everything that lookups show.
    pub digest: String,
    /// What the next start will repair by itself.
    pub notes: Vec<String>,
    /// The faults: an operator must do something about them.
    pub faults: Vec<String>,
    /// For a backup: whether every file is as its manifest lists it, and the store has the digest in it. A restore then succeeds.
    #[serde(skip)]
    pub restorable: bool,
    /// The batches that are held because their uploads are damaged, and the damage. They are among the faults, too.
    #[serde(skip)]
    pub held: Vec<(Accepted, String)>,
}

/// Why a folder could not be checked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CheckError {
    /// The error of the scratch folder, which was opened instead.
    pub error: OpenError,
    /// The message. It names the folder that was to be checked.
    message: String,
}

impl Report {
    fn fault(&mut self, what: String) {
        match self.faults.len().cmp(&FAULTS_MAX) {
            std::cmp::Ordering::Less => self.faults.push(what),
            std::cmp::Ordering::Equal => self.faults.push("… and more".into()),
            std::cmp::Ordering::Greater => {}
        }
    }
}

/// Reads a whole backup, as [`check()`] does: what it says of itself, and what it holds.
pub fn verify_backup(
    backup: &Path,
    mut config: Config,
    clock: Arc<dyn Clock>,
    scratch: &Path,
) -> Result<(Manifest, Report), CheckError> {
    let failed = |error: ManifestError| {
        let message = error.to_string();
        CheckError {
            error: OpenError::Folder { path: backup.to_owned(), error: io::Error::other(error) },
            message,
        }
    };
    let manifest = Manifest::read(backup).map_err(failed)?;
    backup.clone_into(&mut config.server.data_folder);
    Ok((manifest, check(config, clock, scratch)?))
}

/// Checks a data folder or a backup. The check writes only into a folder below `scratch`.
pub fn check(config: Config, clock: Arc<dyn Clock>, scratch: &Path) -> Result<Report, CheckError> {
    let folder = config.server.data_folder.clone();
    let failed = |error: OpenError| CheckError { message: error.to_string(), error };
    folder::check(&folder).map_err(|error| failed(error.into()))?;
    let _lock = lock::lock_if_there(&folder).map_err(failed)?;
    let shown = Scratch::showing(&folder, scratch);
    let shown = shown.map_err(|(path, error)| {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "; with --scratch, name a folder that has enough disk space for a copy of the store"
            }
            _ => "",
        };
        CheckError {
            message: format!("{}: {error}{hint}", path.display()),
            error: OpenError::Folder { path, error },
        }
    })?;
    let mut report = check_shown(config, clock, &folder, &shown)
        .map_err(|error| CheckError { message: shown.message(&error.to_string()), error })?;
    for text in report.notes.iter_mut().chain(&mut report.faults) {
        *text = shown.message(text);
    }
    Ok(report)
}

fn check_shown(
    mut config: Config,
    clock: Arc<dyn Clock>,
    folder: &Path,
    shown: &Scratch,
) -> Result<Report, OpenError> {
    let mut report = Report::default();
    check_manifest(folder, &shown.folder, &mut report);
    check_journal(&shown.folder.join(layout::JOURNAL), &mut report)?;
    check_snapshots(&shown.folder.join(layout::SNAPSHOTS), &mut report)?;
    config.server.data_folder.clone_from(&shown.folder);
    // The little that is written here goes with the scratch folder, so no space need stay free.
    config.upkeep.disk_reserve_bytes = 0;
    // Nobody is served, so rows need not be applied slowly.
    config.ingest = Ingest::default();
    let had_store = shown.folder.join("store/current").exists();
    let up = BroughtUp::of(config, Arc::new(GuardedClock::believing(clock)), &Opening::default())?;
    if let Some(damage) = &up.catalogue_damage {
        report.fault(damage.before_a_start());
    }
    let running = up.start(Role::Offline)?;
    if had_store {
        check_store_aside(&shown.folder.join(layout::STORE), &mut report);
    }
    let shared = &*running.shared;
    running.wait_until_applied();
    for held in recovery::held(&shared.batches, &shared.spool) {
        report.fault(held.to_string());
        if let OpenError::Batch { batch, error } = held {
            report.held.push((*batch, shown.message(&error.to_string())));
        }
    }
    if let Some(why) = shared.health.failure() {
        report.fault(why);
    }
    check_batches(shared, &mut report);
    check_store(shared, running.commit.last_seq(), &mut report)?;
    running.stop_blocking();
    Ok(report)
}

/// Checks whether a backup's files are still as its manifest lists them. A data folder has no manifest.
fn check_manifest(folder: &Path, shown: &Path, report: &mut Report) {
    if !folder.join(layout::MANIFEST).exists() {
        return;
    }
    let checked = Manifest::read(folder).and_then(|manifest| {
        manifest.verify(folder)?;
        Ok(manifest)
    });
    match checked {
        Ok(manifest) => check_digest(shown, &manifest, report),
        Err(error) => report.fault(error.to_string()),
    }
}

/// Checks whether the store that a restore would make of a backup is the one that was backed up.
fn check_digest(shown: &Path, manifest: &Manifest, report: &mut Report) {
    // Backups of earlier versions have none.
    let Some(expected) = &manifest.digest else {
        report.restorable = true;
        return;
    };
    let snapshot = manifest.files.iter().find(|file| file.path.starts_with(layout::SNAPSHOTS));
    let Some(snapshot) = snapshot else {
        report.fault(format!("{} names no snapshot", layout::MANIFEST));
        return;
    };
    match digest::of_files(&shown.join(&snapshot.path), &shown.join(layout::JOURNAL)) {
        Ok(made) if format!("{made:032x}") == *expected => report.restorable = true,
        Ok(made) => report.fault(format!(
            "the store that is made of the backup has the digest {made:032x}, not {expected} as {} says",
            layout::MANIFEST
        )),
        Err(error) => report.fault(format!("the backup's snapshot and journal: {error}")),
    }
}

/// Adds a note if the store cannot be trusted.
fn check_store_aside(stores: &Path, report: &mut Report) {
    for entry in std::fs::read_dir(stores).into_iter().flatten().flatten() {
        if let Ok(why) = std::fs::read_to_string(entry.path().join("WHY")) {
            let why = why.trim_end().trim_start_matches("This store was set aside: ");
            let why = why.trim_end_matches(" It may be deleted.").trim_end_matches('.');
            report.notes.push(format!("the store cannot be trusted, and the next start rebuilds it: {why}"));
        }
    }
}

fn check_journal(folder: &Path, report: &mut Report) -> Result<(), OpenError> {
    let Some(first) = Position::first_in(folder)? else { return Ok(()) };
    let (_, torn) = Log::open(folder, LogSettings::default(), first, |start, _, payload| {
        let entries = decode_group(payload).map_err(|error| OpenError::entry(start, error))?;
        report.journal_frames += 1;
        report.journal_entries += entries.len() as u64;
        for entry in &entries {
            if let Entry::Write(write) = entry {
                for change in &write.changes {
                    let value = StoredBytes::new(change.value.to_vec());
                    let readable = Key::from_bytes(&change.key).is_some() && value.decode().is_ok();
                    if !readable {
                        report.fault(format!("the journal, {start}: a change that this program cannot read"));
                    }
                }
            }
        }
        Ok::<_, OpenError>(())
    })?;
    if let Some(torn) = torn {
        report.notes.push(format!(
            "{}: {} bytes at byte {} are of an append that a crash interrupted; the next start cuts them off",
            torn.file.display(),
            torn.bytes,
            torn.offset
        ));
    }
    Ok(())
}

fn check_snapshots(folder: &Path, report: &mut Report) -> Result<(), OpenError> {
    for (path, _) in Snapshots::open(folder)?.list()? {
        match verify(&path) {
            Ok((_, summary)) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                report.snapshots.push((name, summary.count));
            }
            Err(error) => report.fault(error.to_string()),
        }
    }
    Ok(())
}

/// Checks whether each batch's file is still what was accepted, and whether its outcomes add up.
fn check_batches(shared: &Shared, report: &mut Report) {
    let Ok(()) = shared.batches.each_held(|known| {
        check_batch(shared, &known, report);
        Ok::<(), std::convert::Infallible>(())
    });
    for (pending, _) in shared.batches.all_pending() {
        let accepted = &pending.accepted;
        report.batches += 1;
        report.rows += accepted.rows;
        // The damage of a held batch is reported elsewhere.
        if pending.held().is_none() {
            check_file(shared, accepted, report);
            report.fault(format!("batch {} is not applied", accepted.id));
        }
    }
}

fn check_batch(shared: &Shared, known: &Known, report: &mut Report) {
    let (accepted, counts) = (&known.accepted, known.progress.counts());
    report.batches += 1;
    report.rows += accepted.rows;
    check_file(shared, accepted, report);
    let id = &accepted.id;
    match read_outcomes(&shared.spool.outcomes_path(accepted.spool)) {
        Ok(outcomes) => {
            let stored = outcomes.len() as u64;
            if counts.total() != accepted.rows || stored != accepted.rows - counts.updated {
                let total = counts.total();
                report.fault(format!(
                    "batch {id}: {total} rows counted and {stored} outcomes stored, of {} rows",
                    accepted.rows
                ));
            }
        }
        Err(error) => report.fault(format!("batch {id}: {error}")),
    }
}

fn check_file(shared: &Shared, accepted: &Accepted, report: &mut Report) {
    if let Err(error) = shared.spool.verify(accepted.spool, &accepted.sum()) {
        report.fault(format!("batch {}: {error}", accepted.id));
    }
}

/// Reads the whole store: every value, and every link from both ends.
fn check_store(shared: &Shared, seq: Seq, report: &mut Report) -> Result<(), OpenError> {
    let (mut digest, mut after) = (0_u128, None);
    loop {
        let page = shared.store.scan(after.as_ref(), PAGE_VALUES)?;
        for (key, value) in &page {
            match decoded(key, value) {
                Ok(Stored::Profile(profile)) => {
                    check_ids(&*shared.store, key, &profile, report)?;
                    let lifetime_ms = lifetime_ms(shared, key);
                    if profile.expired(seq.millis(), lifetime_ms) {
                        report.expired += 1;
                        continue;
                    }
                    report.profiles += 1;
                    report.attributes += profile.visible().len() as u64;
                    digest = digest.wrapping_add(digest_of(key, profile));
                }
                Ok(Stored::Link { .. }) => {
                    let leads = crate::batch::resolve::View::new(&*shared.store).canonical(key)? != *key;
                    report.links += u64::from(leads);
                    report.dead_links += u64::from(!leads);
                }
                Ok(Stored::Tombstone { .. }) => report.tombstones += 1,
                Err(error) => report.fault(error.to_string()),
            }
        }
        match page.into_iter().next_back() {
            Some((key, _)) => after = Some(key),
            None => break,
        }
    }
    report.seq = seq.to_string();
    report.digest = format!("{digest:032x}");
    Ok(())
}

fn lifetime_ms(shared: &Shared, key: &Key) -> u64 {
    let client = crate::model::id::ClientCode::new(key.client()).ok();
    let settings = client.and_then(|client| shared.config().client(&client));
    settings.map_or(u64::MAX, |settings| settings.lifetime_ms)
}

/// Every id that a profile lists must lead to it.
fn check_ids(
    store: &dyn ProfileStore,
    key: &Key,
    profile: &Profile<'_>,
    report: &mut Report,
) -> Result<(), StoreError> {
    for linked in &profile.ids {
        let id = key.with_id(linked.kind, linked.id);
        if crate::batch::resolve::View::new(store).canonical(&id)? != *key {
            report.fault(format!("{key:?} lists {id:?}, which does not lead to it"));
        }
    }
    Ok(())
}

/// A profile's share of the digest: everything but its applied seq.
fn digest_of(key: &Key, profile: Profile<'_>) -> u128 {
    let value = Stored::Profile(Profile { applied_seq: Seq::ZERO, ..profile }).encode();
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&(key.as_bytes().len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(value.as_slice());
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ClientCode, IdKind};
    use crate::model::seq::Millis;

    #[test]
    fn digests_differ_if_lookups_differ() {
        let key = |id| Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, id);
        let born = Profile::born_at(Seq::from_u64(5));
        let of = |id, profile: &Profile<'static>| digest_of(&key(id), profile.clone());
        let further = Profile { applied_seq: Seq::from_u64(9), ..born.clone() };
        assert_eq!(of("a", &born), of("a", &further));
        assert_ne!(of("a", &born), of("b", &born));
        let active = Profile { last_active: Millis(1), ..born.clone() };
        assert_ne!(of("a", &born), of("a", &active));
    }
}
