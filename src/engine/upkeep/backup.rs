//! Backups: a folder with a verified snapshot, the journal behind it up to one moment, the uploads that belong to it, and the small
//! files of the data folder: the tokens, the audit trail, the list of erasures, the format stamp.
//!
//! Promises:
//! - A backup is what the daemon would have found after a power cut at that moment, except for its store, which is rebuilt.
//! - It is whole once its manifest is there. The manifest is written last, with the digest of the store that a start makes of it.
//! - An upload that differs from what was accepted is copied as it is, and reported. In the restored folder its batch is held, if its
//!   rows were still to be applied. Only if the snapshot lacks rows that the store has is no backup made.
//! - A backup that is already there is never changed.

use crate::batch::accepted::Accepted;
use crate::batch::checksum::{FileSum, UploadError};
use crate::durable::{self, belongs_to_folder, private_folder, sync_folder};
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::open::digest;
use crate::engine::open::needs;
use crate::engine::upkeep::manifest::{FileEntry, Manifest, VERSION};
use crate::engine::upkeep::state::Upkeep;
use crate::journal::entry::{Checkpoint, KnownBatch};
use crate::journal::log::Position;
use crate::journal::snapshot::{Summary, verify};
use crate::layout;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What a backup is made of.
pub(in crate::engine) struct Source<'s> {
    /// It goes up to here.
    pub(in crate::engine) mark: &'s Checkpoint,
    /// A snapshot from before that.
    pub(in crate::engine) snapshot: &'s Path,
    /// What is in the snapshot.
    pub(in crate::engine) summary: &'s Summary,
    /// The mark of the data folder, if the daemon makes the backup by itself.
    pub(in crate::engine) scheduled: Option<&'s str>,
    /// Whether the folder is one in the data folder, from which the backup is sent elsewhere by this thread. Then large files that
    /// nothing but this thread's tasks writes again are not copied: they get a second name.
    pub(in crate::engine) passing: bool,
}

/// Writes a backup. Gives its seq, and how many damaged uploads were copied as they are.
pub(in crate::engine) fn write(
    upkeep: &Upkeep,
    source: &Source<'_>,
    folder: &Path,
) -> Result<(u64, u64), EngineError> {
    let Source { mark, snapshot, summary, scheduled, .. } = *source;
    if !folder.is_absolute() {
        return Err(EngineError::Refused(format!("{} is not an absolute path", folder.display())));
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(EngineError::Refused(format!("{} is not empty: name a new folder", folder.display())));
    }
    let (files, damaged) =
        copy_all(upkeep, source, folder).map_err(|(path, error)| not_written(&path, error))?;
    let name = snapshot.file_name().unwrap_or_default();
    let digest = digest::of_files(&folder.join(layout::SNAPSHOTS).join(name), &folder.join(layout::JOURNAL))
        .map_err(|error| EngineError::Refused(format!("the backup cannot be read again: {error}")))?;
    let manifest = Manifest {
        version: VERSION,
        digest: Some(format!("{digest:032x}")),
        made_at_ms: upkeep.shared.now().0,
        seq: mark.last_seq.to_string(),
        values: summary.count,
        scheduled: scheduled.map(str::to_owned),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).or_internal()?;
    let path = folder.join(layout::MANIFEST);
    durable::replace(&path, "backup", |file| file.write_all(&text)).or_internal()?;
    tracing::info!(folder = %folder.display(), seq = mark.last_seq, "a backup was written");
    Ok((mark.last_seq, damaged))
}

fn copy_all(
    upkeep: &Upkeep,
    source: &Source<'_>,
    backup: &Path,
) -> Result<(Vec<FileEntry>, u64), (PathBuf, io::Error)> {
    let Source { mark, snapshot, passing, .. } = *source;
    let (mut files, mut damaged) = (vec![], 0);
    // The disk of the data folder may be the backup's, too, and must not be filled by it.
    let go_on = || upkeep.go_on().map_err(io::Error::other);
    let mut copy = |from: &Path, below: &str, extent: Extent| {
        let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let to = backup.join(below).join(&name);
        let linked = passing && matches!(extent, Extent::Settled) && fs::hard_link(from, &to).is_ok();
        let copied = if linked { sum_file(&to, &go_on) } else { copy_file(from, &to, extent, &go_on) };
        let (bytes, crc32c) = copied.map_err(|error| (from.to_owned(), error))?;
        files.push(FileEntry { path: format!("{below}/{name}"), bytes, crc32c });
        Ok(FileSum { bytes, crc32c: Some(crc32c) })
    };
    private_folder(backup).map_err(|error| (backup.to_owned(), error))?;
    for below in [layout::SNAPSHOTS, layout::JOURNAL, "spool"] {
        let path = backup.join(below);
        fs::create_dir_all(&path).map_err(|error| (path, error))?;
    }
    copy(snapshot, layout::SNAPSHOTS, Extent::Settled)?;
    let unreadable = |error: crate::journal::snapshot::SnapshotError| {
        (snapshot.to_owned(), io::Error::other(error.to_string()))
    };
    let (from, _) = verify(snapshot).map_err(unreadable)?;
    let (first, end) = (from.needs_journal_from().to_pair().0, Position::from_pair(mark.position).to_pair());
    for segment in first..=end.0 {
        let path = upkeep.shared.data_folder.join(layout::JOURNAL).join(format!("{segment:016x}.log"));
        // The bytes behind the mark do not belong to this backup, and may be half written.
        let extent = if segment == end.0 { Extent::ZerosFrom(end.1) } else { Extent::Settled };
        copy(&path, layout::JOURNAL, extent)?;
    }
    // Gives the damage, if it is damaged.
    let mut copy_upload = |accepted: &Accepted| {
        let (spool, path) = (&upkeep.shared.spool, upkeep.shared.spool.rows_path(accepted.spool));
        let expected = spool.sum(accepted.spool, &accepted.sum()).map_err(UploadError::of(&path));
        let copied = match copy(&path, "spool", Extent::Settled) {
            Ok(copied) => Ok(copied),
            Err((path, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(UploadError::of(&path)(error))
            }
            Err(error) => return Err(error),
        };
        let checked = expected.and_then(|expected| Ok(expected.check(&path, copied?)?));
        let damage = match checked {
            Err(error) if !error.is_lost() => return Err((path, io::Error::other(error))),
            checked => checked.err(),
        };
        // If the file is damaged, only its index tells whom it names.
        let index = spool.index_path(accepted.spool);
        let index = Some(index).filter(|index| damage.is_some() && index.exists());
        for beside in needs::beside_upload(spool, accepted.spool).into_iter().chain(index) {
            copy(&beside, "spool", Extent::Whole)?;
        }
        Ok(damage)
    };
    for KnownBatch { accepted, .. } in &mark.incomplete {
        let accepted = Accepted::from_entry(accepted.clone());
        let accepted = accepted.ok_or_else(|| (backup.to_owned(), io::ErrorKind::InvalidData.into()))?;
        if let Some(damage) = copy_upload(&accepted)? {
            damaged += 1;
            if let Some(pending) = upkeep.shared.batches.pending_by_seq(accepted.id.seq) {
                pending.hold(&damage.in_short(), &damage);
            }
            tracing::warn!(batch = %accepted.id, %damage, "a batch is held in the backup, too");
        }
    }
    upkeep.shared.batches.each_held(|known| {
        let accepted = &known.accepted;
        // The backup has a later batch as accepted, not as complete. What this node of several has applied and the order has no
        // count of was copied above.
        let seq = accepted.id.seq.get();
        let copied = mark.incomplete.binary_search_by_key(&seq, |known| known.accepted.seq).is_ok();
        if copied || !mark.held(accepted.id.seq) {
            return Ok(());
        }
        let Some(damage) = copy_upload(accepted)? else { return Ok(()) };
        if from.held(accepted.id.seq) {
            damaged += 1;
            tracing::warn!(batch = %accepted.id, %damage, "the upload of a complete batch goes into the backup as it is");
            return Ok(());
        }
        // The next snapshot has its rows.
        let why = format!("batch {} was completed meanwhile; try again: {damage}", accepted.id);
        Err((backup.to_owned(), io::Error::other(why)))
    })?;
    let catalogue = upkeep.shared.data_folder.join(layout::CATALOGUE);
    copy(&catalogue, ".", Extent::UpTo(mark.catalogue.bytes))?;
    for beside in needs::BESIDE {
        let path = upkeep.shared.data_folder.join(beside);
        if path.exists() {
            copy(&path, ".", Extent::Whole)?;
        }
    }
    for below in [layout::SNAPSHOTS, layout::JOURNAL, "spool", "."] {
        let path = backup.join(below);
        sync_folder(&path).map_err(|error| (path, error))?;
    }
    Ok((files, damaged))
}

/// Why a backup is not written: the system's error at this path, or why it was broken off.
fn not_written(path: &Path, error: io::Error) -> EngineError {
    let path = path.display();
    match error.downcast::<EngineError>() {
        Ok(broken_off) => broken_off,
        Err(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                EngineError::Full(format!("{path}: {error}"))
            }
            _ => EngineError::Refused(format!("the backup could not be written: {path}: {error}")),
        },
    }
}

/// How much of a file is copied.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) enum Extent {
    /// All of it.
    Whole,
    /// All of it, and only maintenance tasks write to it again.
    Settled,
    /// It keeps its length, with zeros from here on.
    ZerosFrom(u64),
    /// It ends here.
    UpTo(u64),
}

/// Copies a file; durable when it returns. Gives the copy's length and checksum. Asks before each piece whether to go on.
pub(in crate::engine) fn copy_file(
    from: &Path,
    to: &Path,
    extent: Extent,
    go_on: &dyn Fn() -> io::Result<()>,
) -> io::Result<(u64, u32)> {
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).open(to)?;
    belongs_to_folder(&target, to)?;
    let metadata = source.metadata()?;
    target.set_permissions(metadata.permissions())?;
    let (copied, length) = match extent {
        Extent::Whole | Extent::Settled => (metadata.len(), metadata.len()),
        Extent::ZerosFrom(from) => (from.min(metadata.len()), metadata.len()),
        Extent::UpTo(end) => (end, end),
    };
    let (mut sum, mut bytes, mut left) = (0, vec![0; 1 << 20], copied);
    while left > 0 {
        go_on()?;
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let read = source.read(bytes.get_mut(..room).unwrap_or_default())?;
        let piece = bytes.get(..read).filter(|piece| !piece.is_empty());
        let piece = piece.ok_or(io::ErrorKind::UnexpectedEof)?;
        target.write_all(piece)?;
        sum = crc32c::crc32c_append(sum, piece);
        left -= piece.len() as u64;
    }
    if copied < length {
        target.set_len(length)?;
        bytes.fill(0);
        let mut zeros = length - copied;
        while zeros > 0 {
            let piece = usize::try_from(zeros).unwrap_or(usize::MAX).min(bytes.len());
            sum = crc32c::crc32c_append(sum, bytes.get(..piece).unwrap_or_default());
            zeros -= piece as u64;
        }
    }
    target.sync_all()?;
    Ok((length, sum))
}

/// The length and checksum of a file. Asks before each piece whether to go on.
fn sum_file(path: &Path, go_on: &dyn Fn() -> io::Result<()>) -> io::Result<(u64, u32)> {
    let (mut file, mut piece) = (File::open(path)?, vec![0; 1 << 20]);
    let (mut bytes, mut sum) = (0, 0);
    loop {
        go_on()?;
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((bytes, sum));
        }
        sum = crc32c::crc32c_append(sum, piece.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A backup on the disk of the data folder once went on until that disk was full.
    #[test]
    fn a_copy_is_broken_off_in_the_middle_of_a_file_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, vec![7; 3 << 20]).unwrap();
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            let full = || io::Error::other(EngineError::Full("the reserve is reached".into()));
            (asked.get() < 3).then_some(()).ok_or_else(full)
        };
        let error = copy_file(&from, &to, Extent::Whole, &go_on).unwrap_err();
        assert_eq!((asked.get(), fs::metadata(&to).unwrap().len()), (3, 2 << 20));
        let told = not_written(&from, error);
        assert!(matches!(told, EngineError::Full(why) if why == "the reserve is reached"));
        let missing = copy_file(&to.join("nothing"), &to, Extent::Whole, &|| Ok(())).unwrap_err();
        assert!(matches!(not_written(&from, missing), EngineError::Refused(why) if why.contains("/from: ")));
    }
}
