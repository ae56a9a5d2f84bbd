//! The uploaded files as they came, and what is kept beside each: its index of rows and its rows' outcomes.
//!
//! Promises: a file that no accepted batch names, or that a crash left half-written, does not outlive a
//! restart; the bytes in the folder never pass the
//! limit; what [`SpoolFile::sync`] returned for is on the disk, name and all.

use crate::durable::{point, sync_folder};
use crate::model::seq::{Millis, Seq, SeqSource};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the files of one upload are called by.
pub type SpoolName = u64;

/// Why the spool could not take something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder holds as much as it may.
    #[error("kept uploads would pass spool_max_bytes, {0} bytes")]
    OverLimit(u64),
    /// The disk is full.
    #[error("{0}")]
    Full(String),
    /// The process may open no more files just now.
    #[error("no file handle is free")]
    NoHandle,
    /// The disk failed.
    #[error("the spool file {path} could not be written: {error}")]
    Failed {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl SpoolError {
    /// What the system said of a file in the folder.
    pub fn of(path: PathBuf, error: io::Error) -> Self {
        if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) {
            return Self::NoHandle;
        }
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            _ => Self::Failed { path, error },
        }
    }
}

/// The folder of uploads.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes: AtomicU64,
    bytes_max: AtomicU64,
    names: Mutex<SeqSource>,
}

impl Spool {
    /// Opens or makes the folder, and removes the files of uploads that no batch names: they were never accepted.
    pub fn open(folder: &Path, bytes_max: u64, named: &HashSet<SpoolName>) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (mut bytes, mut last) = (0, named.iter().copied().max().unwrap_or_default());
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                std::fs::remove_file(&path)?;
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(name) = u64::from_str_radix(stem, 16) else { continue };
            last = last.max(name);
            if named.contains(&name) {
                bytes += entry.metadata()?.len();
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        let names = Mutex::new(SeqSource::after(Seq::from_u64(last)));
        Ok(Self {
            folder: folder.to_owned(),
            bytes: AtomicU64::new(bytes),
            bytes_max: AtomicU64::new(bytes_max),
            names,
        })
    }

    /// Begins the file of an upload. It goes again unless it is kept.
    pub fn begin(self: &Arc<Self>, now: Millis) -> Result<SpoolFile, SpoolError> {
        let name = lock(&self.names).next(now).get();
        let path = self.rows_path(name);
        let opened = OpenOptions::new().write(true).read(true).create_new(true).open(&path);
        let file = opened.map_err(|error| self.error(name, error))?;
        Ok(SpoolFile { spool: Arc::clone(self), name, file, written: 0, beside: 0, kept: false })
    }

    /// Where the uploaded rows are.
    pub fn rows_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, "csv")
    }

    /// Where the index of the rows is.
    pub fn index_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, "index")
    }

    /// Where the outcomes of the rows are.
    pub fn outcomes_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, "outcomes")
    }

    /// Says so if so many more bytes would not fit.
    pub fn check_room(&self, more: u64) -> Result<(), SpoolError> {
        self.fits(self.bytes(), more)
    }

    /// From now on the folder holds at most so many bytes; what it holds already stays.
    pub fn set_limit(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    fn fits(&self, held: u64, more: u64) -> Result<(), SpoolError> {
        let limit = self.bytes_max.load(Ordering::Relaxed);
        if held.saturating_add(more) <= limit { Ok(()) } else { Err(SpoolError::OverLimit(limit)) }
    }

    /// The bytes of all files in the folder.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Removes the index of an upload whose batch is complete: nothing looks for its rows any more, and should the
    /// store have to be made again, so is the index.
    pub fn remove_index(&self, name: SpoolName) {
        self.remove_file(&self.index_path(name));
    }

    /// Removes all of an upload whose batch is no longer kept.
    pub fn remove(&self, name: SpoolName) {
        for path in [self.outcomes_path(name), self.index_path(name), self.rows_path(name)] {
            self.remove_file(&path);
        }
    }

    fn remove_file(&self, path: &Path) {
        self.recount_after(path, || {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a file of an upload could not be removed");
            }
        });
    }

    /// Does something to a file beside an upload (makes it, replaces it, removes it), and counts what that changed.
    pub fn recount_after<R>(&self, path: &Path, change: impl FnOnce() -> R) -> R {
        let bytes = || std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let before = bytes();
        let changed = change();
        let after = bytes();
        self.bytes.fetch_add(after, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        changed
    }

    fn path(&self, name: SpoolName, kind: &str) -> PathBuf {
        self.folder.join(format!("{name:016x}.{kind}"))
    }

    fn error(&self, name: SpoolName, error: io::Error) -> SpoolError {
        SpoolError::of(self.rows_path(name), error)
    }
}

/// The file of an upload on its way in. Dropping it removes it, unless it was kept.
#[derive(Debug)]
pub struct SpoolFile {
    spool: Arc<Spool>,
    name: SpoolName,
    file: File,
    written: u64,
    /// Bytes of the index beside it.
    beside: u64,
    kept: bool,
}

impl SpoolFile {
    /// What it is called by.
    pub fn name(&self) -> SpoolName {
        self.name
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.spool.rows_path(self.name)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let held = self.spool.bytes.fetch_add(more, Ordering::Relaxed);
        self.written += more;
        self.spool.fits(held, more)?;
        point("spool-write")
            .and_then(|()| self.file.write_all(bytes))
            .map_err(|error| self.spool.error(self.name, error))
    }

    /// Makes the file and its name durable.
    pub fn sync(&self) -> Result<(), SpoolError> {
        let synced = point("spool-sync")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| point("spool-folder"))
            .and_then(|()| sync_folder(&self.spool.folder));
        synced.map_err(|error| self.spool.error(self.name, error))
    }

    /// Counts the index that was written beside it.
    pub fn count_index(&mut self) {
        self.beside =
            std::fs::metadata(self.spool.index_path(self.name)).map_or(0, |metadata| metadata.len());
        self.spool.bytes.fetch_add(self.beside, Ordering::Relaxed);
    }

    /// An accepted batch names it now: it stays.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.spool.bytes.fetch_sub(self.written + self.beside, Ordering::Relaxed);
        for path in [self.spool.rows_path(self.name), self.spool.index_path(self.name)] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an abandoned upload could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_is_not_kept_goes_and_what_no_batch_names_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 100, &HashSet::new()).unwrap());
        let mut first = spool.begin(Millis(1)).unwrap();
        let mut second = spool.begin(Millis(1)).unwrap();
        let abandoned = spool.begin(Millis(1)).unwrap();
        first.write(b"12345").unwrap();
        second.write(b"123").unwrap();
        first.sync().unwrap();
        first.keep();
        second.keep();
        let (named, unnamed) = (first.name(), second.name());
        drop((first, second, abandoned));
        assert_eq!((files(folder.path()), spool.bytes()), (2, 8));

        let spool = Arc::new(Spool::open(folder.path(), 100, &HashSet::from([named])).unwrap());
        assert_eq!((files(folder.path()), spool.bytes()), (1, 5));
        assert!(spool.begin(Millis(0)).unwrap().name() > unnamed, "no name is given out twice");
    }

    #[test]
    fn what_is_made_replaced_and_removed_beside_an_upload_counts_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 100, &HashSet::new()).unwrap());
        let mut file = spool.begin(Millis(1)).unwrap();
        file.write(b"12345").unwrap();
        file.keep();
        let name = file.name();
        drop(file);
        let put = |path: PathBuf, bytes: &[u8]| {
            spool.recount_after(&path, || std::fs::write(&path, bytes)).unwrap()
        };
        put(spool.index_path(name), b"123");
        put(spool.outcomes_path(name), b"1234567");
        put(spool.outcomes_path(name), b"1");
        assert_eq!(spool.bytes(), 9);
        spool.remove_index(name);
        spool.remove_index(name);
        assert_eq!(spool.bytes(), 6);
        let named = HashSet::from([name]);
        assert_eq!(Spool::open(folder.path(), 100, &named).unwrap().bytes(), 6, "a restart counts the same");
    }

    #[test]
    fn the_limit_holds_over_all_uploads_and_frees_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 10, &HashSet::new()).unwrap());
        let mut one = spool.begin(Millis(1)).unwrap();
        let mut two = spool.begin(Millis(1)).unwrap();
        one.write(&[0; 6]).unwrap();
        assert!(spool.check_room(4).is_ok() && spool.check_room(5).is_err());
        assert!(matches!(two.write(&[0; 6]), Err(SpoolError::OverLimit(10))));
        drop(two);
        one.write(&[0; 4]).unwrap();
        drop(one);
        assert_eq!(spool.bytes(), 0);
    }
}
