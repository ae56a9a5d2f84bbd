//! A backup that was fetched from storage into a temporary folder, to be verified or restored from there.
//!
//! Promises: the folder has what was sent, or there is none. It goes when the [`Fetched`] is dropped.

use crate::bucket::{self, Storage};
use crate::config::BucketUrl;
use crate::durable::private_folder;
use crate::engine::upkeep::bucket_shelf;
use crate::engine::upkeep::manifest::ManifestError;
use crate::engine::upkeep::shelf::PREFIX;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A backup that was fetched.
#[derive(Debug)]
pub struct Fetched {
    folder: PathBuf,
    url: String,
}

/// Why a backup was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL names no backup.
    #[error("{url} is a whole bucket: name a backup in it{newest}")]
    WholeBucket {
        /// The URL.
        url: String,
        /// The newest one, if there is one.
        newest: String,
    },
    /// It is not there, not whole, or damaged.
    #[error("{error}{newest}")]
    Backup {
        /// What is wrong.
        error: ManifestError,
        /// The newest of the backups that are below the URL.
        newest: String,
    },
    /// The temporary folder could not be made.
    #[error("{}: {error}; with --scratch, name a folder that has room for the backup", path.display())]
    Scratch {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

impl Fetched {
    /// Fetches a backup into a new folder below `scratch`. Blocks. `begins` is told the folder first.
    pub fn fetch(
        url: &BucketUrl,
        storage: &Storage,
        scratch: &Path,
        begins: impl FnOnce(&Path),
    ) -> Result<Self, FetchError> {
        let failed = |error: ManifestError| FetchError::Backup { error, newest: String::new() };
        let Some((above, name)) = url.split() else {
            let newest = newest(url, storage).map_err(failed)?;
            return Err(FetchError::WholeBucket { url: url.to_string(), newest });
        };
        let objects =
            bucket::open(&above, storage, Box::new(|| Ok(()))).map_err(|error| failed(error.into()))?;
        if let Err(error) = bucket_shelf::manifest(&*objects, &above, name) {
            let below = matches!(error, ManifestError::NoBackup { .. });
            let newest = if below { newest(url, storage).map_err(failed)? } else { String::new() };
            return Err(FetchError::Backup { error, newest });
        }
        let not_made = |error| FetchError::Scratch { path: scratch.to_owned(), error };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| not_made(io::Error::other(error)))?;
        let folder = scratch.join(format!("profiled-fetched-{:016x}", u64::from_le_bytes(random)));
        private_folder(&folder).map_err(not_made)?;
        let fetched = Self { folder, url: url.to_string() };
        begins(&fetched.folder);
        bucket_shelf::fetch(&*objects, &above, name, &fetched.folder).map_err(failed)?;
        Ok(fetched)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Turns a message about the folder into one about the place that it was fetched from.
    pub fn message(&self, text: &str) -> String {
        text.replace(&*self.folder.to_string_lossy(), &self.url)
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "a backup that was fetched is left behind");
        }
    }
}

/// The newest of the backups below a URL, in words that end a message.
fn newest(url: &BucketUrl, storage: &Storage) -> Result<String, ManifestError> {
    let objects = bucket::open(url, storage, Box::new(|| Ok(())))?;
    let names = objects.folders()?;
    let newest = names.iter().rev().find(|name| name.starts_with(PREFIX));
    Ok(newest.map_or_else(String::new, |name| format!("; below it are backups, such as {url}/{name}")))
}
