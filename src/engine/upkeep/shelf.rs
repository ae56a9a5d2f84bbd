//! Places where backups lie side by side, and what can be done there.
//!
//! Promises: what has the name of a backup and a manifest is a whole backup. It gets its manifest, or its name, when it is written, and
//! loses it before it is removed.

use crate::bucket::Storage;
use crate::config::BucketUrl;
use crate::engine::upkeep::manifest::{Manifest, ManifestError};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A place with backups.
pub(in crate::engine) trait Shelf {
    /// The names of what lies here, backups or not, in order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Whether anything has this name.
    fn holds(&self, name: &str) -> io::Result<bool>;

    /// What a backup says of itself.
    fn manifest(&self, name: &str) -> Result<Manifest, ManifestError>;

    /// Makes room for a backup of this name. Gives the folder into which it is to be written. Fails if nothing can be written here.
    fn begin(&mut self, name: &str) -> io::Result<PathBuf>;

    /// Finishes the backup that was written: it has its name, and is durable. Gives where it is.
    fn finish(&mut self, name: &str) -> io::Result<String>;

    /// Removes what a crash left half written or half removed under names of this form, and what was begun.
    fn clear(&mut self, is_name: &dyn Fn(&str) -> bool) -> io::Result<()>;

    /// Removes a backup.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Whether a backup that is being written only passes through the data folder.
    fn is_elsewhere(&self) -> bool;
}

/// A folder on this machine, or a place in storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A place in S3-compatible storage.
    Bucket(BucketUrl, Storage),
}

impl Place {
    /// The place that a text names: `s3://BUCKET/PREFIX`, else a folder. An error is what would be right.
    pub fn named(text: &Path, storage: Storage) -> Result<Self, String> {
        match text.to_str().filter(|text| text.starts_with(BucketUrl::SCHEME)) {
            Some(url) => BucketUrl::new(url)
                .map(|url| Self::Bucket(url, storage))
                .map_err(|right| format!("{url} is not {right}")),
            None => Ok(Self::Folder(text.to_owned())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(url, _) => url.fmt(f),
        }
    }
}

/// A backup that was found.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What it says of itself; none if it is not whole, or no backup.
    pub manifest: Option<Manifest>,
}

/// What the names of scheduled backups begin with.
pub(in crate::engine) const PREFIX: &str = "profiled-";
