//! What can be done with objects in storage, and why it was not done. No S3.

use crate::config::{Backups, Endpoint, Region};
use std::io;
use std::path::{Path, PathBuf};

/// Where the storage answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Storage {
    /// Its URL; none is Amazon's.
    pub endpoint: Option<Endpoint>,
    /// The region of the bucket.
    pub region: Option<Region>,
    /// Whether the URL may be without encryption.
    pub allow_http: bool,
}

impl Storage {
    /// That of these settings.
    pub fn of(settings: &Backups) -> Self {
        Self {
            endpoint: settings.endpoint.clone(),
            region: settings.region.clone(),
            allow_http: settings.allow_http,
        }
    }
}

/// Asked again and again while a call lasts; an error breaks the call off.
pub type GoOn = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// An object, by its name below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// The objects below a prefix. Names are joined by `/`; what stands before one is called a folder here, though there are none.
pub trait Objects {
    /// The folders directly below the prefix, in order.
    fn folders(&self) -> Result<Vec<String>, BucketError>;

    /// All objects in a folder and in the folders below it.
    fn list(&self, folder: &str) -> Result<Vec<Listed>, BucketError>;

    /// A small object; none if there is none of this name.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BucketError>;

    /// Writes a small object.
    fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), BucketError>;

    /// Sends a file. The object is there once all of it has arrived, and not before.
    fn send(&self, from: &Path, name: &str) -> Result<(), BucketError>;

    /// Reads an object of this length, piece by piece.
    fn fetch(&self, object: &Listed, see: &mut dyn FnMut(&[u8]) -> io::Result<()>)
    -> Result<(), BucketError>;

    /// Removes an object, if it is there.
    fn remove(&self, name: &str) -> Result<(), BucketError>;
}

/// Why something was not done with objects.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// This program was built without it.
    #[error(
        "{url}: this profiled was built without S3: build it with `--features s3`, or install the Debian package or the image, which have it"
    )]
    NotBuiltIn {
        /// The place.
        url: String,
    },
    /// The storage refused it, or did not answer.
    #[error("{url}: {why}")]
    Failed {
        /// The place.
        url: String,
        /// What happened, and what would be right.
        why: String,
    },
    /// A file on this machine could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Whoever opened the bucket wants it no more.
    #[error("{0}")]
    BrokenOff(io::Error),
}

impl BucketError {
    /// As an error of the system; the reason for breaking off stays what it was.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::BrokenOff(error) => error,
            other => io::Error::other(other),
        }
    }
}
