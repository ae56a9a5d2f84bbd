//! What tells a data folder from any other: the stamp that says in which format it is, and the mark of one that is not
//! finished.
//!
//! ```text
//! DATA/format       the format of what is in the folder, and the program that wrote it; folders of format 1 have none
//!     /unfinished   a restore is making the folder, or began to
//! ```
//!
//! Promises: a folder of a later format, and one that is not finished, is refused before anything in it is read or
//! written, with what to do. The stamp is raised once all that a folder of an earlier format holds was read, and before
//! anything is written that a program of that format could not read.

use crate::layout;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, sync_folder};

/// The format that this program writes. It rises with each version of anything in the folder: groups and checkpoints of
/// the journal, segments, snapshots, stored values, uploads' side files.
pub const FORMAT: u32 = 2;
/// That of folders without a stamp.
const FORMAT_UNSTAMPED: u32 = 1;

/// Why a folder is not opened.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is something else.
    #[error("{} is no data folder: it has neither a format stamp nor a journal; name the daemon's with --data", .0.display())]
    Other(PathBuf),
    /// It is being restored into, or was.
    #[error(
        "{} is not finished: `profiled restore` is at work in it, or was ended before it was done; run that again, or \
         remove the folder",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// A later program wrote it.
    #[error(
        "{} has format {format}, written by profiled {program}; this is profiled {}, which reads formats up to {FORMAT}: \
         run profiled {program} or later on it, or restore a backup from before the upgrade into another folder",
        folder.display(), env!("CARGO_PKG_VERSION")
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        format: u32,
        /// Who wrote it.
        program: String,
    },
    /// The stamp says nothing.
    #[error("{}: {why}; it says which format the folder has: put it back, from a backup or another copy", path.display())]
    Stamp {
        /// The stamp.
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

/// Refuses what is no data folder, or may not be opened.
pub fn expect(folder: &Path) -> Result<(), FolderError> {
    if !is_one(folder) && !folder.join(layout::UNFINISHED).exists() {
        return Err(FolderError::Other(folder.to_owned()));
    }
    check(folder)
}

/// Refuses a folder that is not finished, and one that this program does not understand. One that is empty, or not
/// there, is fine.
pub fn check(folder: &Path) -> Result<(), FolderError> {
    if is_unfinished(folder) {
        return Err(FolderError::Unfinished(folder.to_owned()));
    }
    check_format(folder)
}

/// Refuses a folder that this program does not understand.
pub fn check_format(folder: &Path) -> Result<(), FolderError> {
    match format_of(folder)? {
        Some(Stamp { format, program }) if format > FORMAT => {
            Err(FolderError::Newer { folder: folder.to_owned(), format, program })
        }
        _ => Ok(()),
    }
}

/// Whether a restore did not come to its end here.
pub fn is_unfinished(folder: &Path) -> bool {
    folder.join(layout::UNFINISHED).exists()
}

/// Marks a folder as not finished; durable when it returns.
pub fn begin(folder: &Path) -> io::Result<()> {
    durable::create(&folder.join(layout::UNFINISHED), OpenOptions::new().write(true))?.sync_all()?;
    sync_folder(folder)
}

/// Takes that mark off; durable when it returns.
pub fn finish(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(layout::UNFINISHED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }?;
    sync_folder(folder)
}

/// Removes what a restore left in a folder, the mark last.
pub fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == layout::UNFINISHED {
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

/// Stamps a folder as one of this program's format, unless it is; durable when it returns.
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
    fn a_folder_of_a_later_format_or_not_finished_is_refused_with_what_to_do() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let told =
            |result: Result<(), FolderError>| result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told(expect(folder)).contains("is no data folder"));
        assert_eq!(told(check(folder)), "");
        stamp(folder).unwrap();
        assert_eq!(told(expect(folder)), "");
        begin(folder).unwrap();
        assert!(told(expect(folder)).contains("remove the folder"));
        clear(folder).unwrap();
        assert!(fs::read_dir(folder).unwrap().next().is_none());
        fs::create_dir(folder.join(layout::JOURNAL)).unwrap();
        assert_eq!(told(expect(folder)), "", "format 1 has no stamp");
        fs::write(folder.join(layout::FORMAT), r#"{"format":3,"program":"9.1.0"}"#).unwrap();
        let newer = told(check(folder));
        assert!(
            newer.contains("run profiled 9.1.0 or later") && newer.contains("formats up to 2"),
            "{newer}"
        );
        fs::write(folder.join(layout::FORMAT), "").unwrap();
        assert!(told(check(folder)).contains("put it back"));
    }
}
