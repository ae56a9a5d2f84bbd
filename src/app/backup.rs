//! Backups: a folder with a verified snapshot, the journal behind it up to one moment, and the uploads that go with it;
//! and restoring from one.
//!
//! Promises: a backup is what the daemon would have found after a power cut at that moment, less its store, which is
//! made again; it is whole once its manifest is there, which is written last. An upload that is not what was accepted is
//! told, and the backup not made. Restoring verifies every byte first.

use super::{AppError, Inner};
use crate::batch::checksum::FileSum;
use crate::batch::pending::Accepted;
use crate::durable::{self, private_folder, sync_folder};
use crate::journal::entry::{Checkpoint, KnownBatch};
use crate::journal::log::Position;
use crate::journal::snapshot::{Summary, verify};
use crate::tokens;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What a backup's manifest is called.
pub const MANIFEST: &str = "backup.json";
const VERSION: u32 = 1;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    version: u32,
    /// When it was made, in milliseconds since the epoch.
    pub made_at_ms: u64,
    /// The highest seq in it, as text: it may pass what a JSON number holds.
    pub seq: String,
    /// Values in its snapshot.
    pub values: u64,
    files: Vec<FileEntry>,
}

/// One of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileEntry {
    path: String,
    bytes: u64,
    crc32c: u32,
}

/// Why a backup can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder holds no whole backup.
    #[error("{} is no backup, or one that was not finished: {why}", folder.display())]
    NoBackup {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        why: String,
    },
    /// One of its files is not what was written.
    #[error("{} is damaged: {why}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is something in the data folder.
    #[error("{} is not empty: restore into a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// The system refused something.
    #[error("{}: {error}", path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl RestoreError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { path: path.clone(), error }
    }
}

/// Writes a backup up to `mark`, with this snapshot from before it.
pub(super) fn write(
    inner: &Inner,
    mark: &Checkpoint,
    snapshot: &Path,
    summary: &Summary,
    folder: &Path,
) -> Result<u64, AppError> {
    if !folder.is_absolute() {
        return Err(AppError::Refused(format!("{} is not an absolute path", folder.display())));
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(AppError::Refused(format!("{} is not empty: name a new folder", folder.display())));
    }
    let files = copy_all(inner, mark, snapshot, folder).map_err(|(path, error)| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            AppError::Full(format!("{}: {error}", path.display()))
        }
        _ => AppError::Refused(format!("the backup could not be written: {}: {error}", path.display())),
    })?;
    let manifest = Manifest {
        version: VERSION,
        made_at_ms: inner.clock.now().0,
        seq: mark.last_seq.to_string(),
        values: summary.count,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(AppError::internal)?;
    let path = folder.join(MANIFEST);
    durable::replace(&path, "backup", |file| file.write_all(&text)).map_err(AppError::internal)?;
    tracing::info!(folder = %folder.display(), seq = mark.last_seq, "a backup was written");
    Ok(mark.last_seq)
}

fn copy_all(
    inner: &Inner,
    mark: &Checkpoint,
    snapshot: &Path,
    folder: &Path,
) -> Result<Vec<FileEntry>, (PathBuf, io::Error)> {
    let mut files = vec![];
    let mut copy = |from: &Path, below: &str, up_to: Option<u64>| {
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let to = folder.join(below).join(&name);
        let (bytes, crc32c) = copy_file(from, &to, up_to).map_err(|error| (from.to_owned(), error))?;
        files.push(FileEntry { path: format!("{below}/{name}"), bytes, crc32c });
        Ok(FileSum { bytes, crc32c: Some(crc32c) })
    };
    private_folder(folder).map_err(|error| (folder.to_owned(), error))?;
    for below in ["snapshots", "journal", "spool"] {
        let path = folder.join(below);
        fs::create_dir_all(&path).map_err(|error| (path, error))?;
    }
    copy(snapshot, "snapshots", None)?;
    let unreadable = |error: crate::journal::snapshot::SnapshotError| {
        (snapshot.to_owned(), io::Error::other(error.to_string()))
    };
    let (from, _) = verify(snapshot).map_err(unreadable)?;
    let (first, end) = (from.needs_journal_from().to_pair().0, Position::from_pair(mark.position).to_pair());
    for segment in first..=end.0 {
        let path = inner.data_folder.join("journal").join(format!("{segment:016x}.log"));
        // What is behind the mark is not of this backup, and may be half written.
        copy(&path, "journal", (segment == end.0).then_some(end.1))?;
    }
    for KnownBatch { accepted, completed, .. } in &mark.batches {
        let (spool, path) = (&inner.spool, inner.spool.rows_path(accepted.spool));
        let accepted = Accepted::from_entry(accepted.clone());
        let accepted = accepted.ok_or_else(|| (path.clone(), io::ErrorKind::InvalidData.into()))?;
        let expected = spool.sum(accepted.spool, &accepted.sum()).map_err(|error| (path.clone(), error))?;
        let copied = copy(&path, "spool", None)?;
        expected.check(&path, copied).map_err(|damage| {
            (folder.to_owned(), io::Error::other(format!("batch {}: {damage}", accepted.id)))
        })?;
        let overwritten = spool.overwritten_path(accepted.spool);
        if overwritten.exists() {
            copy(&overwritten, "spool", None)?;
        }
        if completed.is_some() {
            copy(&spool.outcomes_path(accepted.spool), "spool", None)?;
        }
    }
    let tokens = inner.data_folder.join(tokens::FILE);
    if tokens.exists() {
        // Without them what is restored would ask for none.
        copy(&tokens, ".", None)?;
    }
    for below in ["snapshots", "journal", "spool", "."] {
        let path = folder.join(below);
        sync_folder(&path).map_err(|error| (path, error))?;
    }
    Ok(files)
}

/// Copies a file, with zeros from `up_to` on; durable when it returns. Gives its length and checksum.
fn copy_file(from: &Path, to: &Path, up_to: Option<u64>) -> io::Result<(u64, u32)> {
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).open(to)?;
    let metadata = source.metadata()?;
    target.set_permissions(metadata.permissions())?;
    let length = metadata.len();
    let mut left = up_to.unwrap_or(length).min(length);
    let (mut sum, mut bytes) = (0, vec![0; 1 << 20]);
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let read = source.read(bytes.get_mut(..room).unwrap_or_default())?;
        let piece = bytes.get(..read).filter(|piece| !piece.is_empty());
        let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
        target.write_all(piece)?;
        sum = crc32c::crc32c_append(sum, piece);
        left -= piece.len() as u64;
    }
    if let Some(up_to) = up_to {
        target.set_len(length)?;
        bytes.fill(0);
        let mut zeros = length.saturating_sub(up_to);
        while zeros > 0 {
            let piece = usize::try_from(zeros).unwrap_or(usize::MAX).min(bytes.len());
            sum = crc32c::crc32c_append(sum, bytes.get(..piece).unwrap_or_default());
            zeros -= piece as u64;
        }
    }
    target.sync_all()?;
    Ok((length, sum))
}

/// Restores a backup into a data folder that is not there yet, or empty. The next start makes the store.
pub fn restore(backup: &Path, data: &Path) -> Result<Manifest, RestoreError> {
    let no_backup = |why: String| RestoreError::NoBackup { folder: backup.to_owned(), why };
    let text = fs::read(backup.join(MANIFEST)).map_err(|error| no_backup(format!("{MANIFEST}: {error}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| no_backup(format!("{MANIFEST}: {error}")))?;
    if manifest.version != VERSION {
        let why = format!("it has version {}; this program reads version {VERSION}", manifest.version);
        return Err(no_backup(why));
    }
    private_folder(data).map_err(RestoreError::io(data))?;
    if fs::read_dir(data).map_err(RestoreError::io(data))?.next().is_some() {
        return Err(RestoreError::NotEmpty(data.to_owned()));
    }
    for entry in &manifest.files {
        let (from, to) = (backup.join(&entry.path), data.join(&entry.path));
        let below = to.parent().unwrap_or(data);
        fs::create_dir_all(below).map_err(RestoreError::io(below))?;
        let (bytes, sum) = copy_file(&from, &to, None).map_err(RestoreError::io(&from))?;
        if (bytes, sum) != (entry.bytes, entry.crc32c) {
            let why = format!(
                "{bytes} bytes with checksum {sum:08x}, not {} with {:08x}",
                entry.bytes, entry.crc32c
            );
            return Err(RestoreError::Damaged { file: from, why });
        }
    }
    for below in ["snapshots", "journal", "spool", "."] {
        let path = data.join(below);
        if path.exists() {
            sync_folder(&path).map_err(RestoreError::io(&path))?;
        }
    }
    Ok(manifest)
}
