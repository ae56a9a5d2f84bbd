//! Where backups lie side by side: a folder on this machine.
//!
//! Promises: what has the name of a backup is whole. It gets that name when it is written, and loses it before it is removed.

use crate::durable::{private_folder, sync_folder};
use crate::engine::upkeep::manifest::{Manifest, ManifestError};
use crate::engine::upkeep::shelf::Shelf;
use std::fs;
use std::io;
use std::path::PathBuf;

/// A folder with backups.
///
/// ```text
/// FOLDER/profiled-2026-11-27T20-50-38Z                   a whole backup
///       /profiled-2026-11-27T20-50-38Z.MARK.partial      one that is being written or removed, or that a crash left so
/// ```
pub(in crate::engine) struct FolderShelf {
    pub(in crate::engine) folder: PathBuf,
    /// What the name of a backup ends with that is not whole.
    pub(in crate::engine) suffix: String,
}

impl FolderShelf {
    fn partial(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{}", self.suffix))
    }
}

impl Shelf for FolderShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        self.folder.join(name).try_exists()
    }

    fn manifest(&self, name: &str) -> Result<Manifest, ManifestError> {
        Manifest::read(&self.folder.join(name))
    }

    fn begin(&mut self, name: &str) -> io::Result<PathBuf> {
        let partial = self.partial(name);
        private_folder(&partial)?;
        Ok(partial)
    }

    fn finish(&mut self, name: &str) -> io::Result<String> {
        let whole = self.folder.join(name);
        fs::rename(self.partial(name), &whole)?;
        sync_folder(&self.folder)?;
        Ok(whole.display().to_string())
    }

    fn clear(&mut self, is_name: &dyn Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(&*self.suffix));
            if name.is_some_and(is_name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let partial = self.partial(name);
        fs::rename(self.folder.join(name), &partial)?;
        fs::remove_dir_all(&partial)
    }

    fn is_elsewhere(&self) -> bool {
        false
    }
}
