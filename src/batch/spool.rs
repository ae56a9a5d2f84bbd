//! The spool: the uploaded files as they came, and what is kept beside each.
//!
//! ```text
//! NAME.csv           the file as it came, except for what is overwritten when visitors are erased (R12)
//!     .index         where each row is, as long as the batch is pending
//!     .outcomes      what became of the rows
//!     .overwriting   which bytes of the file are about to be overwritten, with what, and the file's checksum after that
//!     .overwritten   the same, once it is done; from then on this checksum counts, not the journal's
//! ```
//!
//! Promises: a file that no accepted batch names, or that a crash left half-written, is gone after a restart. The bytes in the
//! folder never pass the limit. When [`SpoolFile::sync`] has returned, the file and its name are on the disk. A crash while
//! bytes are overwritten makes no whole file look damaged, and no damaged file look whole: a start does the overwriting
//! again, with the same result.

use super::accepted::SpoolName;
use super::checksum::{FileSum, UploadError};
use super::outcomes_file::{RowOutcome, write_outcomes};
use crate::durable::{self, point, sync_folder};
use crate::layout::{self, INDEX, OUTCOMES, OVERWRITING, OVERWRITTEN, ROWS};
use crate::model::codec;
use crate::model::seq::{Millis, Seq, SeqSource};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The format version of `.overwriting` and `.overwritten`.
const OVERWRITING_VERSION: u8 = 1;

/// Which bytes of an upload are overwritten, with what, and the file's checksum after that.
#[derive(Debug, Serialize, Deserialize)]
struct Overwriting {
    crc32c: u32,
    pieces: Vec<(u64, ByteBuf)>,
}

/// Why the spool could not take something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder would hold more bytes than it may.
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
    /// The error of the operating system on a file in the folder.
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
    /// The bytes of all files in the folder.
    bytes: AtomicU64,
    /// How many bytes they may have.
    bytes_max: AtomicU64,
    /// Gives out names. No name is given out twice. Locked for moments only, with no other lock held.
    names: Mutex<SeqSource>,
    /// How often bytes of an upload were overwritten. It only rises.
    overwritings: AtomicU64,
    /// Held while an upload is verified, replaced or overwritten: only one of these at a time. No other lock is taken meanwhile.
    overwriting: Mutex<()>,
}

impl Spool {
    /// Opens or creates the folder, and removes the files of uploads that no batch names: they were never accepted.
    pub fn open(folder: &Path, bytes_max: u64, named: &HashSet<SpoolName>) -> io::Result<Self> {
        Self::open_listing(folder, bytes_max, named, None).map(|(spool, _)| spool)
    }

    /// The same, and returns the uploads whose file of rows is there. If it is not certain that no batch names the others, their
    /// files are moved to `kept_in` instead of being removed.
    pub fn open_listing(
        folder: &Path,
        bytes_max: u64,
        named: &HashSet<SpoolName>,
        kept_in: Option<&Path>,
    ) -> io::Result<(Self, HashSet<SpoolName>)> {
        std::fs::create_dir_all(folder)?;
        let mut there = HashSet::new();
        let (mut bytes, mut last) = (0, named.iter().copied().max().unwrap_or_default());
        let mut interrupted = vec![];
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == layout::NEW) {
                std::fs::remove_file(&path)?;
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Some(name) = layout::number(stem) else { continue };
            last = last.max(name);
            if named.contains(&name) {
                if path.extension().is_some_and(|extension| extension == ROWS) {
                    there.insert(name);
                }
                bytes += entry.metadata()?.len();
                if path == path_of(folder, name, OVERWRITING) {
                    interrupted.push(name);
                }
            } else if let Some(kept_in) = kept_in {
                durable::private_folder(kept_in)?;
                std::fs::rename(&path, kept_in.join(entry.file_name()))?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        let spool = Self {
            folder: folder.to_owned(),
            bytes: AtomicU64::new(bytes),
            bytes_max: AtomicU64::new(bytes_max),
            names: Mutex::new(SeqSource::after(Seq::from_u64(last))),
            overwritings: AtomicU64::new(0),
            overwriting: Mutex::new(()),
        };
        for name in interrupted {
            if let Err(error) = spool.finish_overwriting(name) {
                // Whoever needs the file gets the error then.
                tracing::error!(path = %spool.rows_path(name).display(), %error, "rows of an upload could not be overwritten");
            }
        }
        Ok((spool, there))
    }

    /// Begins the file of an upload. It is removed again unless it is kept.
    pub fn begin(self: &Arc<Self>, now: Millis) -> Result<SpoolFile, SpoolError> {
        let name = lock(&self.names).next(now).get();
        let path = self.rows_path(name);
        let opened = OpenOptions::new().write(true).read(true).create_new(true).open(&path);
        let file = opened.map_err(|error| self.error(name, error))?;
        Ok(SpoolFile {
            spool: Arc::clone(self),
            name,
            file,
            written: 0,
            crc32c: 0,
            beside: 0,
            kept: false,
            limited: true,
        })
    }

    /// Where the uploaded rows are.
    pub fn rows_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, ROWS)
    }

    /// Where the index of the rows is.
    pub fn index_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, INDEX)
    }

    /// Where the outcomes of the rows are.
    pub fn outcomes_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, OUTCOMES)
    }

    /// Where the note of overwritten bytes is, if there is one.
    pub fn overwritten_path(&self, name: SpoolName) -> PathBuf {
        self.path(name, OVERWRITTEN)
    }

    /// How often bytes of any upload were overwritten. A reader that reads in pieces and finds this changed may have seen rows
    /// that were half overwritten.
    pub fn overwritings(&self) -> u64 {
        self.overwritings.load(Ordering::Acquire)
    }

    /// The length and checksum that the file of an upload should have now, if it had these when it was accepted.
    pub fn sum(&self, name: SpoolName, accepted: &FileSum) -> io::Result<FileSum> {
        self.sum_now(name, accepted, &lock(&self.overwriting))
    }

    /// Reads the file of an upload and checks its length and checksum. Returns what they should be now, if they were
    /// `accepted` when it was accepted.
    pub fn verify(&self, name: SpoolName, accepted: &FileSum) -> Result<FileSum, UploadError> {
        // A crash may have left the index of a complete batch. It would show which bytes are overwritten.
        self.remove_index(name);
        self.verify_beside_index(name, accepted)
    }

    /// The same, but keeps the index. If the file of an incomplete batch is damaged, nothing else says whom it names.
    pub fn verify_beside_index(&self, name: SpoolName, accepted: &FileSum) -> Result<FileSum, UploadError> {
        let one = lock(&self.overwriting);
        let path = self.rows_path(name);
        let expected = self.sum_now(name, accepted, &one).map_err(UploadError::of(&path))?;
        expected.check(&path, FileSum::of_file(&path).map_err(UploadError::of(&path))?)?;
        Ok(expected)
    }

    /// Overwrites some of an upload's bytes in place. `find` chooses them from the file's content. The checksum follows, unless
    /// the file was damaged before: then the damage stays visible. Durable when it returns. Returns how many pieces there were.
    pub fn overwrite(
        &self,
        name: SpoolName,
        accepted: &FileSum,
        find: impl FnOnce(&[u8]) -> io::Result<Vec<(usize, Vec<u8>)>>,
    ) -> io::Result<usize> {
        let one = lock(&self.overwriting);
        let path = self.rows_path(name);
        let expected = match self.sum_now(name, accepted, &one) {
            // The note of an earlier attempt can't be read. That attempt may have overwritten only some of the bytes.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "rows of an upload were perhaps overwritten in part");
                *accepted
            }
            expected => expected?,
        };
        let mut bytes = accepted.read(&path)?;
        let pieces = find(&bytes)?;
        if pieces.is_empty() {
            return Ok(0);
        }
        let whole = expected.check(&path, FileSum::of(&bytes));
        for (offset, piece) in &pieces {
            let there = bytes.get_mut(*offset..).and_then(|rest| rest.get_mut(..piece.len()));
            there.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(piece);
        }
        let crc32c = match (whole, expected.crc32c) {
            (Err(damage), Some(crc32c)) => {
                tracing::error!(%damage, "rows of a damaged upload are overwritten");
                crc32c
            }
            _ => crc32c::crc32c(&bytes),
        };
        let count = pieces.len();
        let pieces = pieces.into_iter().map(|(offset, piece)| (offset as u64, ByteBuf::from(piece)));
        let overwriting = Overwriting { crc32c, pieces: pieces.collect() };
        let mut encoded = vec![];
        codec::encode_into(OVERWRITING_VERSION, &overwriting, &mut encoded).map_err(io::Error::other)?;
        let path = self.path(name, OVERWRITING);
        self.recount_after(&path, || durable::replace_summed(&path, "overwriting", &encoded))?;
        self.finish_overwriting(name)?;
        Ok(count)
    }

    fn sum_now(&self, name: SpoolName, accepted: &FileSum, _one: &MutexGuard<'_, ()>) -> io::Result<FileSum> {
        self.finish_overwriting(name)?;
        let overwritten = read_overwriting(&self.overwritten_path(name))?;
        let crc32c = overwritten.map(|overwritten| overwritten.crc32c).or(accepted.crc32c);
        Ok(FileSum { crc32c, ..*accepted })
    }

    /// Overwrites the bytes that `.overwriting` notes, if it is there: for the first time, or again after a crash.
    fn finish_overwriting(&self, name: SpoolName) -> io::Result<()> {
        let (begun, done) = (self.path(name, OVERWRITING), self.path(name, OVERWRITTEN));
        let Some(Overwriting { pieces, .. }) = read_overwriting(&begun)? else { return Ok(()) };
        let file = OpenOptions::new().write(true).open(self.rows_path(name))?;
        self.overwritings.fetch_add(1, Ordering::AcqRel);
        for (offset, piece) in pieces {
            point("overwrite-write")?;
            file.write_all_at(&piece, offset)?;
        }
        point("overwrite-sync").and_then(|()| file.sync_all())?;
        self.recount_after(&begun, || {
            self.recount_after(&done, || {
                point("overwrite-rename")?;
                std::fs::rename(&begun, &done)?;
                point("overwrite-folder")?;
                sync_folder(&self.folder)
            })
        })
    }

    /// Replaces an upload with a file that was sent again. Durable when it returns.
    pub fn put_back(&self, name: SpoolName, sent: SpoolFile) -> io::Result<()> {
        let _one = lock(&self.overwriting);
        let to = self.rows_path(name);
        self.recount_after(&to, || std::fs::rename(sent.path(), &to).and_then(|()| sync_folder(&self.folder)))
    }

    /// Gives up a damaged upload: replaces its file with `file`, and writes these outcomes. Durable when it returns.
    pub fn give_up(&self, name: SpoolName, file: &[u8], outcomes: &mut [RowOutcome]) -> io::Result<()> {
        let _one = lock(&self.overwriting);
        let of = |kind| self.path(name, kind);
        let bytes = || {
            let all = [ROWS, INDEX, OUTCOMES, OVERWRITING, OVERWRITTEN].map(of).into_iter();
            all.map(|path| std::fs::metadata(path).map_or(0, |metadata| metadata.len())).sum::<u64>()
        };
        let before = bytes();
        let given_up = give_up(&self.folder, name, file, outcomes);
        self.bytes.fetch_add(bytes(), Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        given_up
    }

    /// Fails if this many more bytes would pass the limit.
    pub fn check_fits(&self, more: u64) -> Result<(), SpoolError> {
        self.fits(self.bytes(), more)
    }

    /// Sets how many bytes the folder may hold. Files that are there stay.
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

    /// Removes the index of an upload whose batch is complete. Nothing looks for its rows any more. If the store must be rebuilt,
    /// the index is rebuilt.
    pub fn remove_index(&self, name: SpoolName) {
        self.remove_file(&self.index_path(name));
    }

    /// Removes all of an upload whose batch is no longer kept.
    pub fn remove(&self, name: SpoolName) {
        for kind in [OVERWRITING, OUTCOMES, INDEX, ROWS, OVERWRITTEN] {
            self.remove_file(&self.path(name, kind));
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

    /// Runs a change to a file beside an upload, and counts the bytes that it added or removed.
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
        path_of(&self.folder, name, kind)
    }

    fn error(&self, name: SpoolName, error: io::Error) -> SpoolError {
        SpoolError::of(self.rows_path(name), error)
    }
}

/// The file of an upload in a spool that is not open.
pub fn rows_path_in(folder: &Path, name: SpoolName) -> PathBuf {
    path_of(folder, name, ROWS)
}

/// The outcomes of an upload in a spool that is not open.
pub fn outcomes_path_in(folder: &Path, name: SpoolName) -> PathBuf {
    path_of(folder, name, OUTCOMES)
}

/// Gives up an upload in a spool that is not open: replaces its file with `file`, and writes these outcomes. Durable when it
/// returns.
pub fn give_up(folder: &Path, name: SpoolName, file: &[u8], outcomes: &mut [RowOutcome]) -> io::Result<()> {
    // The file is replaced first. Until the outcomes are replaced too, the old file can be put back beside its own outcomes.
    durable::replace(&rows_path_in(folder, name), "give-up", |rows| rows.write_all(file))?;
    for kind in [OVERWRITING, INDEX, OVERWRITTEN] {
        match std::fs::remove_file(path_of(folder, name, kind)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    write_outcomes(&path_of(folder, name, OUTCOMES), outcomes)
}

fn path_of(folder: &Path, name: SpoolName, kind: &str) -> PathBuf {
    layout::numbered(folder, name, kind)
}

fn read_overwriting(path: &Path) -> io::Result<Option<Overwriting>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    let bytes = durable::read_summed(path)?;
    bytes.map(|bytes| codec::decode(OVERWRITING_VERSION, &bytes).map_err(invalid)).transpose()
}

/// The file of an upload that is arriving. Dropping it removes the file, unless it was kept.
#[derive(Debug)]
pub struct SpoolFile {
    spool: Arc<Spool>,
    name: SpoolName,
    file: File,
    written: u64,
    /// The CRC-32C of those bytes.
    crc32c: u32,
    /// How many bytes the index beside it has.
    beside: u64,
    kept: bool,
    /// The limit of the folder counts for it.
    limited: bool,
}

impl SpoolFile {
    /// Its name.
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

    /// The CRC-32C of the bytes written so far.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// The limit of the folder does not count for it: another node has judged by its own.
    pub fn lift_limit(&mut self) {
        self.limited = false;
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let more = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let held = self.spool.bytes.fetch_add(more, Ordering::Relaxed);
        self.written += more;
        if self.limited {
            self.spool.fits(held, more)?;
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
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

    /// Keeps the file: an accepted batch may name it from now on.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Undoes [`keep`](Self::keep): no batch will name the file.
    pub fn let_go(&mut self) {
        self.kept = false;
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.spool.remove_file(&self.spool.outcomes_path(self.name));
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
    fn a_file_that_is_not_kept_is_removed_and_one_that_no_batch_names_at_the_next_start() {
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
    fn files_that_are_created_replaced_and_removed_beside_an_upload_are_counted() {
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
    fn all_uploads_share_the_limit_and_a_removed_one_frees_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 10, &HashSet::new()).unwrap());
        let mut one = spool.begin(Millis(1)).unwrap();
        let mut two = spool.begin(Millis(1)).unwrap();
        one.write(&[0; 6]).unwrap();
        assert!(spool.check_fits(4).is_ok() && spool.check_fits(5).is_err());
        assert!(matches!(two.write(&[0; 6]), Err(SpoolError::OverLimit(10))));
        drop(two);
        one.write(&[0; 4]).unwrap();
        drop(one);
        assert_eq!(spool.bytes(), 0);
    }

    const FILE: &[u8] = b"batch=pcId,a\n1,secret\n2,y\n1,again\n";
    const OVERWRITTEN_FILE: &[u8] = b"batch=pcId,a\nerased  \n2,y\nerased \n";
    const NAME: SpoolName = 7;

    /// The bytes to be put over some of [`FILE`].
    fn pieces() -> Vec<(usize, Vec<u8>)> {
        vec![(13, b"erased  ".to_vec()), (26, b"erased ".to_vec())]
    }

    /// A folder with these files of one upload, opened as a start does.
    fn opened(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Spool) {
        let folder = tempfile::tempdir().unwrap();
        for (kind, bytes) in files {
            std::fs::write(path_of(folder.path(), NAME, kind), bytes).unwrap();
        }
        let spool = Spool::open(folder.path(), 1 << 20, &HashSet::from([NAME])).unwrap();
        (folder, spool)
    }

    fn contents(spool: &Spool) -> Vec<u8> {
        std::fs::read(spool.rows_path(NAME)).unwrap()
    }

    /// The note of the overwriting.
    fn noted() -> Vec<u8> {
        let (_folder, spool) = opened(&[(ROWS, FILE)]);
        assert_eq!(spool.overwrite(NAME, &FileSum::of(FILE), |_| Ok(pieces())).unwrap(), 2);
        std::fs::read(spool.overwritten_path(NAME)).unwrap()
    }

    #[test]
    fn the_checksum_follows_overwritten_bytes_and_shows_any_other_change() {
        let accepted = FileSum::of(FILE);
        let (folder, spool) = opened(&[(ROWS, FILE)]);
        assert_eq!(spool.verify(NAME, &accepted).unwrap(), accepted);
        spool.overwrite(NAME, &accepted, |_| Ok(vec![])).unwrap();
        assert_eq!(files(folder.path()), 1, "nothing is noted if nothing is overwritten");
        spool.overwrite(NAME, &accepted, |_| Ok(pieces())).unwrap();
        assert_eq!(contents(&spool), OVERWRITTEN_FILE);
        assert_eq!(spool.verify(NAME, &accepted).unwrap(), FileSum::of(OVERWRITTEN_FILE));
        let all = || spool.bytes() == FILE.len() as u64 + noted().len() as u64;
        assert!(all(), "the note's bytes count");
        spool.overwrite(NAME, &accepted, |_| Ok(vec![(22, b"3".to_vec())])).unwrap();
        assert_eq!(contents(&spool), [&OVERWRITTEN_FILE[..22], b"3", &OVERWRITTEN_FILE[23..]].concat());
        spool.verify(NAME, &accepted).unwrap();

        let whole = contents(&spool);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for damaged in [&flipped[..], &whole[..at], &[&whole[..], b"\n"].concat()] {
                std::fs::write(spool.rows_path(NAME), damaged).unwrap();
                let error = spool.verify(NAME, &accepted).unwrap_err().to_string();
                let path = spool.rows_path(NAME).display().to_string();
                assert!(error.contains(&path) && error.contains("is damaged"), "{error}");
            }
        }
    }

    /// After a crash, any of the new bytes may be on the disk.
    #[test]
    fn an_overwriting_that_a_crash_cut_off_is_done_again() {
        let (accepted, noted, pieces) = (FileSum::of(FILE), noted(), pieces());
        let places: Vec<(usize, u8)> = pieces
            .iter()
            .flat_map(|(at, piece)| piece.iter().enumerate().map(move |(n, byte)| (at + n, *byte)))
            .collect();
        let begun = (OVERWRITING, &noted[..]);
        let check = |file: &[u8], files: &[(&str, &[u8])], expected: &[u8]| {
            let (folder, spool) = opened(&[&[(ROWS, file)], files].concat());
            spool.verify(NAME, &accepted).unwrap();
            assert_eq!(contents(&spool), expected, "{files:?}");
            assert!(!path_of(folder.path(), NAME, OVERWRITING).exists());
            let again = Spool::open(folder.path(), 1 << 20, &HashSet::from([NAME])).unwrap();
            assert_eq!(again.bytes(), spool.bytes(), "the changed files are counted");
        };
        check(FILE, &[("overwriting.new", &noted[..9])], FILE);
        check(OVERWRITTEN_FILE, &[(OVERWRITTEN, &noted)], OVERWRITTEN_FILE);
        for written in 0..=places.len() {
            for there in [&places[..written], &places[written..]] {
                let mut file = FILE.to_vec();
                there.iter().for_each(|(at, byte)| file[*at] = *byte);
                check(&file, &[begun], OVERWRITTEN_FILE);
            }
        }
    }

    #[test]
    fn a_damaged_file_still_counts_as_damaged_once_bytes_are_overwritten() {
        let (accepted, noted) = (FileSum::of(FILE), noted());
        let overwritten =
            |at: &usize| pieces().iter().any(|(from, piece)| (*from..from + piece.len()).contains(at));
        for at in (0..FILE.len()).filter(|at| !overwritten(at)) {
            let mut flipped = FILE.to_vec();
            flipped[at] ^= 1;
            let (_folder, spool) = opened(&[(ROWS, &flipped), (OVERWRITING, &noted)]);
            assert!(
                matches!(spool.verify(NAME, &accepted), Err(UploadError::Damaged(_))),
                "under way, byte {at}"
            );
            let (_folder, spool) = opened(&[(ROWS, &flipped)]);
            spool.overwrite(NAME, &accepted, |_| Ok(pieces())).unwrap();
            assert!(
                matches!(spool.verify(NAME, &accepted), Err(UploadError::Damaged(_))),
                "before, byte {at}"
            );
        }
        for at in 0..noted.len() {
            let mut flipped = noted.clone();
            flipped[at] ^= 1;
            for kind in [OVERWRITING, OVERWRITTEN] {
                let (_folder, spool) = opened(&[(ROWS, OVERWRITTEN_FILE), (kind, &flipped)]);
                let error = spool.verify(NAME, &accepted).unwrap_err().to_string();
                assert!(error.contains(kind), "{error}");
                // The rows of erased visitors must be overwritten all the same.
                let (_folder, spool) = opened(&[(ROWS, FILE), (OVERWRITING, &flipped)]);
                spool.overwrite(NAME, &accepted, |_| Ok(pieces())).unwrap();
                assert_eq!(contents(&spool), OVERWRITTEN_FILE);
            }
        }
    }
}
