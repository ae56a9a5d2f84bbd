//! The lock of a data folder: only one daemon at a time has the folder open.
//!
//! Promises: the folder stays locked as long as the file that these functions return is open.

use crate::durable::{self, private_folder};
use crate::engine::error::OpenError;
use crate::layout;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Creates a data folder if it is not there, and locks it.
pub(in crate::engine) fn lock_folder(folder: &Path) -> Result<File, OpenError> {
    let path = path_of(folder);
    private_folder(folder).map_err(failed(&path))?;
    let file = durable::create(&path, OpenOptions::new().write(true)).map_err(failed(&path))?;
    locked(file.try_lock(), folder).map(|()| file)
}

/// Keeps daemons from opening a folder that is only read. A folder that no daemon ever opened has no lock, and neither has a
/// backup.
pub(in crate::engine) fn lock_if_there(folder: &Path) -> Result<Option<File>, OpenError> {
    let path = path_of(folder);
    match File::open(&path) {
        Ok(file) => locked(file.try_lock_shared(), folder).map(|()| Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&path)(error)),
    }
}

fn locked(tried: Result<(), TryLockError>, folder: &Path) -> Result<(), OpenError> {
    match tried {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&path_of(folder))(error)),
    }
}

fn path_of(folder: &Path) -> PathBuf {
    folder.join(layout::LOCK)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Folder { path: path.clone(), error }
}
