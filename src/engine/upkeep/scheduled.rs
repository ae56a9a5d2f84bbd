//! The backups that the daemon makes by itself: which there are, when the next is due, which of them go.
//!
//! ```text
//! FOLDER/profiled-2026-11-27T20-50-38Z                   a whole backup
//!       /profiled-2026-11-27T20-50-38Z.MARK.partial      one that is being written or removed, or that a crash left so
//!       /profiled-NODE-2026-11-27T20-50-38Z              that of a node of several: they may share a folder
//! ```
//!
//! Promises:
//! - When a backup is due follows from what is in the folder, so a restart does not begin anew.
//! - Only what this data folder's daemon made is removed: a folder whose name has this form, and whose manifest or name bears the mark
//!   of the data folder. The backup that was just made stays in any case.
//! - A folder with the name of a whole backup holds one. It gets that name when it is written, and loses it before it is removed.

use crate::config::{Config, NodeName};
use crate::durable::sync_folder;
use crate::engine::upkeep::manifest::{Manifest, ManifestError};
use crate::layout;
use crate::model::seq::Millis;
use crate::sync::{Mutex, lock};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the names of the backups begin with.
const PREFIX: &str = "profiled-";
/// The form of the time in their names.
const TIME: &str = "0000-00-00T00-00-00Z";
/// How much of the mark stands in the name of a backup that is not whole.
const MARK_IN_NAME: usize = 8;

/// Where and how often a data folder is backed up, as the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Schedule {
    folder: PathBuf,
    /// How the names of this daemon's backups begin.
    prefix: String,
    /// The mark of the data folder.
    mark: String,
    every: Duration,
    kept: usize,
}

/// A backup in the folder, and when it was made.
#[derive(Debug)]
struct Made {
    at: Millis,
    path: PathBuf,
}

impl Schedule {
    /// That of these settings; none if they name no folder.
    pub(in crate::engine) fn of(config: &Config, mark: String) -> Option<Self> {
        let settings = &config.backups;
        let folder = std::path::absolute(settings.folder.as_ref()?).ok()?;
        let node = config.cluster.node.as_ref().map(NodeName::as_str);
        let prefix = node.map_or(PREFIX.to_owned(), |node| format!("{PREFIX}{node}-"));
        Some(Self { folder, prefix, mark, every: settings.every, kept: settings.kept })
    }

    /// The folder of the backups.
    pub(in crate::engine) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mark of the data folder, for the manifest.
    pub(in crate::engine) fn mark(&self) -> &str {
        &self.mark
    }

    /// When the last backup was made; none if there is none. One from the future was made while the clock was wrong, and says
    /// nothing.
    pub(in crate::engine) fn last(&self, now: Millis) -> io::Result<Option<Millis>> {
        Ok(self.made(now)?.first().map(|made| made.at).filter(|at| *at <= now))
    }

    /// The backups of this data folder, the newest first; those from the future last. A whole backup of somebody else is left out,
    /// and so is what is none.
    fn made(&self, now: Millis) -> io::Result<Vec<Made>> {
        let mut made = vec![];
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| self.is_name(name)) {
                continue;
            }
            match Manifest::read(&entry.path()) {
                Ok(manifest) if manifest.scheduled.as_ref() == Some(&self.mark) => {
                    made.push(Made { at: Millis(manifest.made_at_ms), path: entry.path() });
                }
                Ok(_) | Err(ManifestError::NoBackup { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        made.sort_unstable_by_key(|made| (made.at > now, std::cmp::Reverse(made.at)));
        Ok(made)
    }

    /// Whether a backup is due if the last one was made then.
    pub(in crate::engine) fn is_due(&self, last: Option<Millis>, now: Millis) -> bool {
        let every = u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX);
        last.is_none_or(|last| last.plus(every) <= now)
    }

    /// Where a backup is written that is made now.
    pub(in crate::engine) fn partial(&self, now: Millis) -> PathBuf {
        let time: String = now.iso_8601().chars().take(TIME.len() - 1).collect();
        self.folder.join(format!("{}{}Z{}", self.prefix, time.replace(':', "-"), self.suffix()))
    }

    /// What the name of a backup ends with that is not whole.
    fn suffix(&self) -> String {
        format!(".{}{}", self.mark.get(..MARK_IN_NAME).unwrap_or(&self.mark), layout::PARTIAL)
    }

    /// Gives a backup that is written its name. Durable when it returns.
    pub(in crate::engine) fn finish(&self, partial: &Path) -> io::Result<PathBuf> {
        let name = partial.file_name().and_then(|name| name.to_str()?.strip_suffix(&self.suffix()));
        let whole = self.folder.join(name.ok_or(io::ErrorKind::InvalidInput)?);
        fs::rename(partial, &whole)?;
        sync_folder(&self.folder)?;
        Ok(whole)
    }

    /// Removes what a crash left half written or half removed.
    pub(in crate::engine) fn clear(&self) -> io::Result<()> {
        let suffix = self.suffix();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(&suffix));
            if name.is_some_and(|name| self.is_name(name)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the oldest backups beyond those that are kept, but not the one that was just made. Gives how many were removed.
    pub(in crate::engine) fn remove_old(&self, now: Millis, new: Option<&Path>) -> io::Result<usize> {
        let kept = self.kept - usize::from(new.is_some()).min(self.kept);
        let old: Vec<Made> = self.made(now)?.into_iter().filter(|made| Some(&*made.path) != new).collect();
        let needless = old.get(kept..).unwrap_or_default();
        for made in needless {
            let mut name = made.path.clone().into_os_string();
            name.push(self.suffix());
            let partial = PathBuf::from(name);
            fs::rename(&made.path, &partial)?;
            fs::remove_dir_all(&partial)?;
        }
        Ok(needless.len())
    }

    fn is_name(&self, name: &str) -> bool {
        let time = name.strip_prefix(&self.prefix).filter(|time| time.len() == TIME.len());
        let same =
            |(found, form): (u8, u8)| if form == b'0' { found.is_ascii_digit() } else { found == form };
        time.is_some_and(|time| time.bytes().zip(TIME.bytes()).all(same))
    }
}

/// How the backups are, for whoever watches.
#[derive(Debug, Default)]
pub(in crate::engine) struct BackupStatus(Mutex<Known>);

/// What is known of the backups.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Known {
    /// When the last one was made; none if there is none, or nobody has looked yet.
    pub(in crate::engine) last: Option<Millis>,
    /// Why the last attempt failed, if it did.
    pub(in crate::engine) failure: Option<String>,
}

impl BackupStatus {
    /// What is known.
    pub(in crate::engine) fn known(&self) -> Known {
        lock(&self.0).clone()
    }

    /// Notes when the last backup was made.
    pub(in crate::engine) fn note_last(&self, last: Option<Millis>) {
        lock(&self.0).last = last;
    }

    /// Nothing is known any more: the settings ask for no backups now.
    pub(in crate::engine) fn forget(&self) {
        *lock(&self.0) = Known::default();
    }

    /// Notes why an attempt failed, or that it did not.
    pub(in crate::engine) fn note_failure(&self, failure: Option<String>) {
        lock(&self.0).failure = failure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeOptions;
    use crate::engine::upkeep::manifest::VERSION;
    use tempfile::TempDir;

    const HOUR: u64 = 3_600_000;

    fn schedule(kept: &str, node: Option<&str>) -> (TempDir, Schedule) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_str().unwrap();
        let mut options = ServeOptions::default();
        let mut set = |key, value| options = std::mem::take(&mut options).with(key, value).unwrap();
        set("backup_folder", folder);
        set("backups_kept", kept);
        if let Some(node) = node {
            set("node", node);
            set("order", "kafka://k:9092/p");
        }
        let schedule = Schedule::of(&Config::resolve(&options).unwrap(), "mine".into()).unwrap();
        (temporary, schedule)
    }

    /// A folder with the manifest of a backup that was made then, of the data folder with this mark.
    fn make(path: &Path, at: Millis, mark: Option<&str>) -> PathBuf {
        fs::create_dir(path).unwrap();
        let manifest = Manifest {
            version: VERSION,
            made_at_ms: at.0,
            seq: "7".into(),
            values: 0,
            digest: None,
            scheduled: mark.map(str::to_owned),
            files: vec![],
        };
        fs::write(path.join(layout::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        path.to_owned()
    }

    fn made_at(schedule: &Schedule, at: Millis) -> PathBuf {
        let partial = make(&schedule.partial(at), at, Some("mine"));
        schedule.finish(&partial).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_next_backup_is_due_by_what_is_in_the_folder() {
        let (_temporary, schedule) = schedule("7", None);
        let is_due = |now| schedule.is_due(schedule.last(now).unwrap(), now);
        assert!(is_due(Millis(0)), "there is none");
        made_at(&schedule, Millis(5 * HOUR));
        assert!(is_due(Millis(4 * HOUR)), "one from the future says nothing");
        made_at(&schedule, Millis(3 * HOUR));
        assert_eq!(schedule.last(Millis(5 * HOUR)).unwrap(), Some(Millis(5 * HOUR)));
        assert!(!is_due(Millis(29 * HOUR - 1)));
        assert!(is_due(Millis(29 * HOUR)));
    }

    #[test]
    fn only_this_data_folders_oldest_backups_are_removed() {
        let (temporary, schedule) = schedule("2", None);
        let folder = temporary.path();
        let times = [9, 8, 7, 6].map(|hour| Millis(hour * HOUR));
        let [_, new, ..] = times.map(|at| made_at(&schedule, at));
        make(&folder.join("profiled-1970-01-01T01-00-00Z"), Millis(HOUR), Some("another's"));
        make(&folder.join("profiled-1970-01-01T02-00-00Z"), Millis(HOUR), None);
        make(&folder.join("profiled-monday"), Millis(HOUR), Some("mine"));
        make(&folder.join("profiled-b-1970-01-01T02-00-00Z"), Millis(HOUR), Some("mine"));
        fs::create_dir(folder.join("profiled-1970-01-01T03-00-00Z")).unwrap();
        fs::create_dir(folder.join("profiled-1970-01-01T04-00-00Z.mine.partial")).unwrap();
        fs::create_dir(folder.join("profiled-1970-01-01T04-00-00Z.yours.partial")).unwrap();
        fs::create_dir(folder.join("another.partial")).unwrap();
        schedule.clear().unwrap();
        let now = Millis(9 * HOUR);
        assert_eq!(schedule.remove_old(now, Some(&new)).unwrap(), 2);
        assert_eq!(schedule.remove_old(now, None).unwrap(), 0);
        let left = [
            "another.partial",
            "profiled-1970-01-01T01-00-00Z",
            "profiled-1970-01-01T02-00-00Z",
            "profiled-1970-01-01T03-00-00Z",
            "profiled-1970-01-01T04-00-00Z.yours.partial",
            "profiled-1970-01-01T08-00-00Z",
            "profiled-1970-01-01T09-00-00Z",
            "profiled-b-1970-01-01T02-00-00Z",
            "profiled-monday",
        ];
        assert_eq!(names(folder), left);
    }

    #[test]
    fn the_last_backup_stays_though_the_clock_was_ahead_before_or_is_behind_now() {
        for (now, just_made) in [(HOUR, true), (HOUR, false), (0, true)] {
            let (temporary, schedule) = schedule("1", None);
            made_at(&schedule, Millis(9 * HOUR));
            let new = made_at(&schedule, Millis(HOUR));
            assert_eq!(schedule.remove_old(Millis(now), just_made.then_some(new.as_path())).unwrap(), 1);
            assert_eq!(names(temporary.path()), ["profiled-1970-01-01T01-00-00Z"]);
        }
    }

    #[test]
    fn nodes_that_share_a_folder_count_their_own_backups() {
        let (temporary, schedule) = schedule("1", Some("b-1"));
        make(&temporary.path().join("profiled-a-1970-01-01T09-00-00Z"), Millis(9 * HOUR), Some("mine"));
        make(&temporary.path().join("profiled-1970-01-01T09-00-00Z"), Millis(9 * HOUR), Some("mine"));
        let own = made_at(&schedule, Millis(HOUR));
        assert_eq!(own.file_name().unwrap(), "profiled-b-1-1970-01-01T01-00-00Z");
        assert_eq!(schedule.last(Millis(9 * HOUR)).unwrap(), Some(Millis(HOUR)));
        assert_eq!(schedule.remove_old(Millis(9 * HOUR), None).unwrap(), 0);
    }
}
