//! A scratch folder that shows the content of a data folder or a backup. Whatever opens it writes only here, and changes nothing in
//! the folder that it shows.
//!
//! ```text
//! journal      links to the segments, but copies of the last two: a torn tail is cut off in these
//! snapshots    links
//! spool        links, but copies of an upload whose rows are being overwritten; no index, because that is rebuilt
//! store        a copy of the generation in use, if there is one: sled writes to what it opens
//! the rest     copies of the files that a start reads
//! ```
//!
//! Promises: nothing in the folder that is shown is written, removed or locked for good, so it may be on a read-only disk. What is
//! written here is gone when this is dropped.

use crate::durable::private_folder;
use crate::layout;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// How many of the last segments may be written to: one that was unfinished when the daemon ended, and the one before.
const SEGMENTS_COPIED: usize = 2;
/// Files of the data folder itself that no start reads, or that others must not see.
const NOT_SHOWN: [&str; 6] =
    [layout::LOCK, layout::TOKENS, layout::TOKENS_LOCK, layout::TOKEN_USES, layout::AUDIT, layout::MANIFEST];

/// The scratch folder.
#[derive(Debug)]
pub(in crate::engine) struct Scratch {
    /// Its path.
    pub(in crate::engine) folder: PathBuf,
    of: PathBuf,
}

impl Scratch {
    /// Shows a folder in a new folder below `below`.
    pub(in crate::engine) fn showing(of: &Path, below: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let of = std::path::absolute(of).map_err(|error| (of.to_owned(), error))?;
        let below = std::path::absolute(below).map_err(|error| (below.to_owned(), error))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| (below.clone(), io::Error::other(error)))?;
        let folder = below.join(format!("profiled-check-{:016x}", u64::from_le_bytes(random)));
        private_folder(&folder).map_err(|error| (folder.clone(), error))?;
        let scratch = Self { folder, of };
        scratch.fill()?;
        Ok(scratch)
    }

    /// Turns a message about this folder into one about the folder that it shows.
    pub(in crate::engine) fn message(&self, text: &str) -> String {
        text.replace(&*self.folder.to_string_lossy(), &self.of.to_string_lossy())
    }

    fn fill(&self) -> Result<(), (PathBuf, io::Error)> {
        for (name, is_folder) in names(&self.of)? {
            if !is_folder && !NOT_SHOWN.contains(&name.as_str()) {
                self.copy(&name)?;
            }
        }
        let segments: Vec<String> = self.folder_shown("journal")?;
        let sealed = segments.len().saturating_sub(SEGMENTS_COPIED);
        for (at, segment) in segments.iter().enumerate() {
            let name = format!("journal/{segment}");
            if at < sealed { self.link(&name) } else { self.copy(&name) }?;
        }
        for snapshot in self.folder_shown("snapshots")? {
            self.link(&format!("snapshots/{snapshot}"))?;
        }
        let uploads = self.folder_shown("spool")?;
        for upload in &uploads {
            let (stem, kind) = upload.rsplit_once('.').unwrap_or((upload, ""));
            let name = format!("spool/{upload}");
            match kind {
                layout::INDEX | layout::NEW => {}
                _ if uploads.contains(&format!("{stem}.overwriting")) => self.copy(&name)?,
                _ => self.link(&name)?,
            }
        }
        let Ok(current) = fs::read_to_string(self.of.join("store/current")) else { return Ok(()) };
        let current = current.trim();
        // Any other content leads nowhere, as it would at a start.
        if current.len() == 16 && current.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.folder_shown("store")?;
            self.copy("store/current")?;
            if self.of.join(layout::STORE).join(current).is_dir() {
                self.copy_folder(&format!("store/{current}"))?;
            }
        }
        Ok(())
    }

    /// Creates a folder with the same name. Gives the names of the files in the original, in order.
    fn folder_shown(&self, name: &str) -> Result<Vec<String>, (PathBuf, io::Error)> {
        let to = self.folder.join(name);
        fs::create_dir(&to).map_err(|error| (to, error))?;
        let from = self.of.join(name);
        let mut files: Vec<String> = if from.is_dir() {
            names(&from)?.into_iter().filter(|(_, is_folder)| !is_folder).map(|(name, _)| name).collect()
        } else {
            vec![]
        };
        files.sort();
        Ok(files)
    }

    fn link(&self, name: &str) -> Result<(), (PathBuf, io::Error)> {
        let to = self.folder.join(name);
        symlink(self.of.join(name), &to).map_err(|error| (to, error))
    }

    fn copy(&self, name: &str) -> Result<(), (PathBuf, io::Error)> {
        let (from, to) = (self.of.join(name), self.folder.join(name));
        // `fs::copy` would make the copy read-only, too.
        let copied = (|| io::copy(&mut File::open(&from)?, &mut File::create_new(&to)?))();
        copied.map(drop).map_err(|error| match error.kind() {
            // The full disk is the one that is written to.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (to, error),
            _ => (from, error),
        })
    }

    fn copy_folder(&self, name: &str) -> Result<(), (PathBuf, io::Error)> {
        let to = self.folder.join(name);
        fs::create_dir(&to).map_err(|error| (to, error))?;
        for (file, is_folder) in names(&self.of.join(name))? {
            let name = format!("{name}/{file}");
            if is_folder { self.copy_folder(&name) } else { self.copy(&name) }?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "a folder that was used for a check is left behind");
        }
    }
}

/// The content of a folder: names, and whether each is a folder.
fn names(folder: &Path) -> Result<Vec<(String, bool)>, (PathBuf, io::Error)> {
    let read = || {
        fs::read_dir(folder)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok((name, entry.path().is_dir()))
            })
            .collect::<io::Result<Vec<_>>>()
    };
    read().map_err(|error| (folder.to_owned(), error))
}
