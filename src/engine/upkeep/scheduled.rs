//! The backups that the daemon makes by itself: which there are, when the next is due, which of them go.
//!
//! Their names are `profiled-2026-11-27T20-50-38Z`, and `profiled-NODE-2026-11-27T20-50-38Z` for a node of several: they may share a
//! place. `shelf.rs` says where they lie.
//!
//! Promises:
//! - When a backup is due follows from what is at the place, so a restart does not begin anew.
//! - Only what this data folder's daemon made is removed: what has a name of this form, and whose manifest or mark of what is unfinished
//!   bears the mark of the data folder. The backup that was just made stays in any case.

use crate::bucket::{GoOn, Storage};
use crate::config::{Config, NodeName};
use crate::engine::error::EngineError;
use crate::engine::upkeep::manifest::ManifestError;
use crate::engine::upkeep::shelf::{PREFIX, Place, Shelf};
use crate::engine::upkeep::shelves;
use crate::layout;
use crate::model::seq::Millis;
use crate::sync::{Mutex, lock};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The form of the time in their names.
const TIME: &str = "0000-00-00T00-00-00Z";
/// How much of the mark tells whose a backup is that is not whole.
const MARK_IN_NAME: usize = 8;

/// Where and how often a data folder is backed up, as the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Schedule {
    place: Place,
    /// How the names of this daemon's backups begin.
    prefix: String,
    /// The mark of the data folder.
    mark: String,
    every: Duration,
    kept: usize,
}

/// A backup at the place, and when it was made.
#[derive(Debug)]
struct Made {
    at: Millis,
    name: String,
}

impl Schedule {
    /// That of these settings; none if they name no place.
    pub(in crate::engine) fn of(config: &Config, mark: String) -> Option<Self> {
        let settings = &config.backups;
        let place = match (&settings.folder, &settings.url) {
            (Some(folder), _) => Place::Folder(std::path::absolute(folder).ok()?),
            (None, Some(url)) => Place::Bucket(url.clone(), Storage::of(settings)),
            (None, None) => return None,
        };
        let node = config.cluster.node.as_ref().map(NodeName::as_str);
        let prefix = node.map_or(PREFIX.to_owned(), |node| format!("{PREFIX}{node}-"));
        Some(Self { place, prefix, mark, every: settings.every, kept: settings.kept })
    }

    /// Opens the place of the backups.
    pub(in crate::engine) fn open(&self, data: &Path, go_on: GoOn) -> io::Result<Box<dyn Shelf>> {
        shelves::open(&self.place, suffix(&self.mark), data, go_on)
    }

    /// An error at the place, with the setting that names it; but the reason why something was broken off is left as it is.
    pub(in crate::engine) fn told(&self, error: io::Error) -> EngineError {
        let error = match error.downcast::<EngineError>() {
            Ok(broken_off) => return broken_off,
            Err(error) => error,
        };
        EngineError::Refused(match &self.place {
            Place::Folder(folder) => format!("backup_folder {}: {error}", folder.display()),
            // The error names the place.
            Place::Bucket(..) => format!("backup_url {error}"),
        })
    }

    /// The mark of the data folder, for the manifest.
    pub(in crate::engine) fn mark(&self) -> &str {
        &self.mark
    }

    /// When the last backup was made; none if there is none. One from the future was made while the clock was wrong, and says
    /// nothing.
    pub(in crate::engine) fn last(&self, shelf: &dyn Shelf, now: Millis) -> io::Result<Option<Millis>> {
        Ok(self.made(shelf, now)?.first().map(|made| made.at).filter(|at| *at <= now))
    }

    /// The backups of this data folder, the newest first; those from the future last. A whole backup of somebody else is left out,
    /// and so is what is none.
    fn made(&self, shelf: &dyn Shelf, now: Millis) -> io::Result<Vec<Made>> {
        let mut made = vec![];
        for name in shelf.names()?.into_iter().filter(|name| self.is_name(name)) {
            match shelf.manifest(&name) {
                Ok(manifest) if manifest.scheduled.as_ref() == Some(&self.mark) => {
                    made.push(Made { at: Millis(manifest.made_at_ms), name });
                }
                Ok(_) | Err(ManifestError::NoBackup { .. }) => {}
                Err(ManifestError::Bucket(error)) => return Err(error.into_io()),
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

    /// The name of a backup that is made now.
    pub(in crate::engine) fn name(&self, now: Millis) -> String {
        let time: String = now.iso_8601().chars().take(TIME.len() - 1).collect();
        format!("{}{}Z", self.prefix, time.replace(':', "-"))
    }

    /// Removes what a crash left half written or half removed.
    pub(in crate::engine) fn clear(&self, shelf: &mut dyn Shelf) -> io::Result<()> {
        shelf.clear(&|name| self.is_name(name))
    }

    /// Removes the oldest backups beyond those that are kept, but not the one that was just made. Gives how many were removed.
    pub(in crate::engine) fn remove_old(
        &self,
        shelf: &mut dyn Shelf,
        now: Millis,
        new: Option<&str>,
    ) -> io::Result<usize> {
        let kept = self.kept - usize::from(new.is_some()).min(self.kept);
        let old = self.made(shelf, now)?.into_iter().filter(|made| Some(&*made.name) != new);
        let needless: Vec<Made> = old.skip(kept).collect();
        for made in &needless {
            shelf.remove(&made.name)?;
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

/// What the name of a backup of this data folder ends with, or what lies in it, while it is not whole.
pub(in crate::engine) fn suffix(mark: &str) -> String {
    format!(".{}{}", mark.get(..MARK_IN_NAME).unwrap_or(mark), layout::PARTIAL)
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
    use crate::engine::upkeep::manifest::{Manifest, VERSION};
    use std::fs;
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
    fn make(path: &Path, at: Millis, mark: Option<&str>) {
        fs::create_dir(path).unwrap();
        write_manifest(path, at, mark);
    }

    fn write_manifest(path: &Path, at: Millis, mark: Option<&str>) {
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
    }

    fn shelf(schedule: &Schedule) -> Box<dyn Shelf> {
        schedule.open(Path::new(""), Box::new(|| Ok(()))).unwrap()
    }

    fn made_at(schedule: &Schedule, at: Millis) -> String {
        let (name, mut shelf) = (schedule.name(at), shelf(schedule));
        let partial = shelf.begin(&name).unwrap();
        write_manifest(&partial, at, Some("mine"));
        shelf.finish(&name).unwrap();
        name
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
        let is_due = |now| schedule.is_due(schedule.last(&*shelf(&schedule), now).unwrap(), now);
        assert!(is_due(Millis(0)), "there is none");
        made_at(&schedule, Millis(5 * HOUR));
        assert!(is_due(Millis(4 * HOUR)), "one from the future says nothing");
        made_at(&schedule, Millis(3 * HOUR));
        assert_eq!(schedule.last(&*shelf(&schedule), Millis(5 * HOUR)).unwrap(), Some(Millis(5 * HOUR)));
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
        schedule.clear(&mut *shelf(&schedule)).unwrap();
        let now = Millis(9 * HOUR);
        assert_eq!(schedule.remove_old(&mut *shelf(&schedule), now, Some(&new)).unwrap(), 2);
        assert_eq!(schedule.remove_old(&mut *shelf(&schedule), now, None).unwrap(), 0);
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
            assert_eq!(
                schedule.remove_old(&mut *shelf(&schedule), Millis(now), just_made.then_some(&*new)).unwrap(),
                1
            );
            assert_eq!(names(temporary.path()), ["profiled-1970-01-01T01-00-00Z"]);
        }
    }

    #[test]
    fn nodes_that_share_a_folder_count_their_own_backups() {
        let (temporary, schedule) = schedule("1", Some("b-1"));
        make(&temporary.path().join("profiled-a-1970-01-01T09-00-00Z"), Millis(9 * HOUR), Some("mine"));
        make(&temporary.path().join("profiled-1970-01-01T09-00-00Z"), Millis(9 * HOUR), Some("mine"));
        let own = made_at(&schedule, Millis(HOUR));
        assert_eq!(own, "profiled-b-1-1970-01-01T01-00-00Z");
        assert_eq!(schedule.last(&*shelf(&schedule), Millis(9 * HOUR)).unwrap(), Some(Millis(HOUR)));
        assert_eq!(schedule.remove_old(&mut *shelf(&schedule), Millis(9 * HOUR), None).unwrap(), 0);
    }
}
