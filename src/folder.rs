//! The format stamp of a data folder, and the marker of an unfinished one.
//!
//! ```text
//! DATA/format       the folder's format, and the version that wrote it; folders of format 1 have none
//!     /unfinished   present while a restore fills the folder, and after an interrupted restore
//! ```
//!
//! Promises: a folder of a later format, or an unfinished one, is rejected before anything in it is read or written.
//! The message says what to do. A folder of an earlier format gets the new stamp after all of it was read, and before
//! anything is written that an earlier version cannot read.

use crate::layout;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, sync_folder};

/// The format that this program writes. It rises with each new version of any format in the folder: journal groups,
/// checkpoints, segments, snapshots, stored values, files beside uploads.
pub const FORMAT: u32 = 4;
/// The format of folders without a stamp.
const FORMAT_UNSTAMPED: u32 = 1;

/// Why a folder is not opened.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder is not a data folder.
    #[error("{} is not a data folder: it has neither a format stamp nor a journal. Give the daemon's folder with --data", .0.display())]
    Other(PathBuf),
    /// A restore is running in the folder, or was interrupted.
    #[error(
        "{} is not finished: `profiled restore` is running in it, or was interrupted. Run the restore again, or \
         remove the folder",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// A later version of the program wrote the folder.
    #[error(
        "{} has format {format}, written by profiled {program}; this is profiled {}, which reads formats up to {FORMAT}. \
         Run profiled {program} or later, or restore a backup from before the upgrade into another folder",
        folder.display(), env!("CARGO_PKG_VERSION")
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// The folder's format.
        format: u32,
        /// The version that wrote the folder.
        program: String,
    },
    /// The stamp cannot be read.
    #[error("{}: {why}. The file has the folder's format: restore it from a backup or another copy", path.display())]
    Stamp {
        /// The file with the stamp.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    format: u32,
    program: String,
}

/// Whether this is a data folder.
pub fn is_one(folder: &Path) -> bool {
    folder.join(layout::FORMAT).exists() || folder.join(layout::JOURNAL).is_dir()
}

/// Rejects a folder that is not a data folder, or that must not be opened.
pub fn expect(folder: &Path) -> Result<(), FolderError> {
    if !is_one(folder) && !folder.join(layout::UNFINISHED).exists() {
        return Err(FolderError::Other(folder.to_owned()));
    }
    check(folder)
}

/// Rejects an unfinished folder, and one of a later format. An empty or missing folder is fine.
pub fn check(folder: &Path) -> Result<(), FolderError> {
    if is_unfinished(folder) {
        return Err(FolderError::Unfinished(folder.to_owned()));
    }
    check_format(folder)
}

/// Rejects a folder of a later format.
pub fn check_format(folder: &Path) -> Result<(), FolderError> {
    match format_of(folder)? {
        Some(Stamp { format, program }) if format > FORMAT => {
            Err(FolderError::Newer { folder: folder.to_owned(), format, program })
        }
        _ => Ok(()),
    }
}

/// Whether a restore into this folder is running or was interrupted.
pub fn is_unfinished(folder: &Path) -> bool {
    folder.join(layout::UNFINISHED).exists()
}

/// Marks a folder as unfinished, durably.
pub fn begin(folder: &Path) -> io::Result<()> {
    durable::create(&folder.join(layout::UNFINISHED), OpenOptions::new().write(true))?.sync_all()?;
    sync_folder(folder)
}

/// Removes that marker, durably.
pub fn finish(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(layout::UNFINISHED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }?;
    sync_folder(folder)
}

/// Removes everything that a restore left in a folder but the names in `stay`, the marker last.
pub fn clear(folder: &Path, stay: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == layout::UNFINISHED || stay.iter().any(|stays| name == **stays) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        }?;
    }
    finish(folder)
}

/// Stamps a folder with this program's format, durably, unless it has that format already.
pub fn stamp(folder: &Path) -> Result<(), FolderError> {
    let path = folder.join(layout::FORMAT);
    let format = format_of(folder)?.map_or(FORMAT_UNSTAMPED, |stamp| stamp.format);
    if format == FORMAT {
        return Ok(());
    }
    let failed = |error: io::Error| FolderError::Stamp { path: path.clone(), why: error.to_string() };
    let stamp = Stamp { format: FORMAT, program: env!("CARGO_PKG_VERSION").to_owned() };
    let text = serde_json::to_string(&stamp).map_err(|error| failed(error.into()))?;
    durable::replace(&path, "format", |file| writeln!(file, "{text}")).map_err(failed)
}

fn format_of(folder: &Path) -> Result<Option<Stamp>, FolderError> {
    let path = folder.join(layout::FORMAT);
    let why = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => error.to_string(),
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(stamp) => return Ok(Some(stamp)),
            Err(error) => error.to_string(),
        },
    };
    Err(FolderError::Stamp { path, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_later_format_or_an_unfinished_one_is_rejected() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let message =
            |result: Result<(), FolderError>| result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message(expect(folder)).contains("is not a data folder"));
        assert_eq!(message(check(folder)), "");
        stamp(folder).unwrap();
        assert_eq!(message(expect(folder)), "");
        begin(folder).unwrap();
        assert!(message(expect(folder)).contains("remove the folder"));
        fs::write(folder.join(layout::TOKENS), "{}").unwrap();
        clear(folder, &[layout::TOKENS]).unwrap();
        let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [layout::TOKENS]);
        clear(folder, &[]).unwrap();
        assert!(fs::read_dir(folder).unwrap().next().is_none());
        fs::create_dir(folder.join(layout::JOURNAL)).unwrap();
        assert_eq!(message(expect(folder)), "", "format 1 has no stamp");
        fs::write(folder.join(layout::FORMAT), r#"{"format":5,"program":"9.1.0"}"#).unwrap();
        let newer = message(check(folder));
        assert!(
            newer.contains("Run profiled 9.1.0 or later") && newer.contains("formats up to 4"),
            "{newer}"
        );
        fs::write(folder.join(layout::FORMAT), "").unwrap();
        assert!(message(check(folder)).contains("restore it from a backup"));
    }
}
