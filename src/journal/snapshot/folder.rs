//! The folder of the snapshots: which there are, and what the next is called.

use super::error::{SnapshotError, failed};
use super::reader::SnapshotReader;
use super::writer::POINTS;
use crate::durable::disk::{Disk, SystemDisk};
use crate::durable::names::{folder_of, numbers_in};
use crate::journal::entry::Checkpoint;
use crate::layout;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the snapshots. Their names are numbers: `{number:016x}.snap`. A greater number is a newer snapshot.
///
/// Nothing here keeps a second process from opening the same folder. Whoever owns the data folder locks it.
#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
}

impl Snapshots {
    /// Opens the folder, or makes it if its parent is there. Removes unfinished snapshots, so no writer may be at work in
    /// it.
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        match fs::create_dir(folder) {
            Ok(()) => {
                let parent = folder_of(folder);
                sync(parent)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", folder)(error)),
        }
        let snapshots = Self { folder: folder.to_owned() };
        for number in snapshots.numbers(layout::NEW)? {
            let path = snapshots.path_of(number).with_extension(layout::NEW);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(snapshots)
    }

    /// The snapshots and their numbers, newest first. Other files are ignored.
    pub fn list(&self) -> Result<Vec<(PathBuf, u64)>, SnapshotError> {
        let mut numbers = self.numbers(layout::SNAPSHOT)?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers.into_iter().map(|number| (self.path_of(number), number)).collect())
    }

    /// What the snapshots of a folder say of the journal, as far as that can be read. Changes nothing.
    pub fn marks_in(folder: &Path) -> Vec<Checkpoint> {
        let numbers = numbers_in(folder, layout::SNAPSHOT).unwrap_or_default();
        let read = |number| SnapshotReader::open(&layout::numbered(folder, number, layout::SNAPSHOT));
        numbers.into_iter().filter_map(|number| Some(read(number).ok()?.checkpoint().clone())).collect()
    }

    /// Renames a damaged snapshot, so that nobody counts on it.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, SnapshotError> {
        let aside = path.with_extension(layout::DAMAGED);
        fs::rename(path, &aside).map_err(failed("rename", path))?;
        Ok(aside)
    }

    /// Removes what was set aside.
    pub fn remove_damaged(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == layout::DAMAGED) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The path of the next snapshot. Its number is greater than all that there are.
    pub fn next_path(&self) -> Result<PathBuf, SnapshotError> {
        let number = match self.numbers(layout::SNAPSHOT)?.into_iter().max() {
            None => Some(0),
            Some(last) => last.checked_add(1),
        };
        let none_left =
            || failed("number another snapshot in", &self.folder)(io::ErrorKind::Unsupported.into());
        number.map(|number| self.path_of(number)).ok_or_else(none_left)
    }

    /// Where the snapshot of this number is, or would be.
    pub fn path_of(&self, number: u64) -> PathBuf {
        layout::numbered(&self.folder, number, layout::SNAPSHOT)
    }

    /// Removes a snapshot, durably.
    pub fn remove(&self, number: u64) -> Result<(), SnapshotError> {
        let path = self.path_of(number);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        sync(&self.folder)
    }

    fn numbers(&self, extension: &str) -> Result<Vec<u64>, SnapshotError> {
        numbers_in(&self.folder, extension).map_err(failed("list", &self.folder))
    }
}

fn sync(folder: &Path) -> Result<(), SnapshotError> {
    let synced = File::open(folder).and_then(|open| SystemDisk(&POINTS).sync_folder(&open));
    synced.map_err(failed("sync", folder))
}
