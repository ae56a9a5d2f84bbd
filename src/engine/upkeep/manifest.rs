//! What a backup says of itself: its files with their checksums, and the digest of the store that a start makes of it.
//!
//! Promises: the manifest is written last, so a folder with one holds a whole backup. It names no file outside its folder.

use crate::batch::checksum::FileSum;
use crate::bucket::BucketError;
use crate::layout;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(in crate::engine) const VERSION: u32 = 2;
/// The version of earlier programs, without a digest.
const VERSION_BEFORE: u32 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub(in crate::engine) version: u32,
    /// When it was made, in milliseconds since the epoch.
    pub made_at_ms: u64,
    /// The highest seq in it, as text, because it may be too large for a JSON number.
    pub seq: String,
    /// How many values its snapshot has.
    pub values: u64,
    /// The digest of the store that a start makes of it; earlier backups have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The mark of the data folder, if the daemon made the backup by itself; one without it is never removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::engine) scheduled: Option<String>,
    pub(in crate::engine) files: Vec<FileEntry>,
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct FileEntry {
    pub(in crate::engine) path: String,
    pub(in crate::engine) bytes: u64,
    pub(in crate::engine) crc32c: u32,
}

impl Manifest {
    /// Reads the manifest of a backup.
    pub(in crate::engine) fn read(backup: &Path) -> Result<Self, ManifestError> {
        let text = fs::read(backup.join(layout::MANIFEST))
            .map_err(|error| ManifestError::no_backup(backup, &error))?;
        Self::parse(&text, backup)
    }

    /// Reads the text of a manifest. `backup` is named in errors.
    pub(in crate::engine) fn parse(text: &[u8], backup: &Path) -> Result<Self, ManifestError> {
        let no_backup = |why: String| ManifestError::NoBackup { folder: backup.to_owned(), why };
        let manifest: Self =
            serde_json::from_slice(text).map_err(|error| ManifestError::no_backup(backup, &error))?;
        if !(VERSION_BEFORE..=VERSION).contains(&manifest.version) {
            let why = format!("it has version {}; this program reads up to {VERSION}", manifest.version);
            return Err(no_backup(why));
        }
        let within = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        match manifest.files.iter().find(|file| !Path::new(&file.path).components().all(within)) {
            Some(outside) => {
                Err(no_backup(format!("{} names {:?}, which is not in it", layout::MANIFEST, outside.path)))
            }
            None => Ok(manifest),
        }
    }

    /// How many bytes its files have.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    /// An error unless each file of the backup is as it was written.
    pub(in crate::engine) fn verify(&self, backup: &Path) -> Result<(), ManifestError> {
        self.files.iter().try_for_each(|entry| entry.verify(backup))
    }
}

impl FileEntry {
    /// An error unless this file of the backup is as it was written.
    pub(in crate::engine) fn verify(&self, backup: &Path) -> Result<(), ManifestError> {
        let path = backup.join(&self.path);
        let found = FileSum::of_file(&path).map_err(ManifestError::io(&path))?;
        self.check(&path, found.bytes, found.crc32c.unwrap_or_default())
    }

    /// An error unless a file with this length and checksum is the one that was written.
    pub(in crate::engine) fn check(&self, path: &Path, bytes: u64, crc32c: u32) -> Result<(), ManifestError> {
        if (bytes, crc32c) == (self.bytes, self.crc32c) {
            return Ok(());
        }
        let why =
            format!("{bytes} bytes with checksum {crc32c:08x}, not {} with {:08x}", self.bytes, self.crc32c);
        Err(ManifestError::Damaged { file: path.to_owned(), why })
    }
}

/// Why a folder is not a good backup.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The folder holds no whole backup.
    #[error("{} is no backup, or one that was not finished: {why}", folder.display())]
    NoBackup {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        why: String,
    },
    /// One of its files differs from what was written.
    #[error("{} is damaged: {why}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One of its files is not there.
    #[error("{} is not there, so the backup is not whole", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The storage in which it lies refused something.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A file could not be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

impl ManifestError {
    /// That a folder has no manifest, or none that can be read.
    pub(in crate::engine) fn no_backup(folder: &Path, error: &dyn std::fmt::Display) -> Self {
        Self::NoBackup { folder: folder.to_owned(), why: format!("{}: {error}", layout::MANIFEST) }
    }

    pub(in crate::engine) fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { path: path.clone(), error }
    }
}
