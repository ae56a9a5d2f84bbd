//! A whole engine on a folder that no daemon serves: to check the folder, or to fill it from a backup.
//!
//! ```text
//! check.rs    checks a data folder or a backup, and changes nothing in it
//! restore.rs  restores a backup
//! fetched.rs  a backup that was fetched from storage
//! scratch.rs  shows a folder and takes what is written to it, for checks
//! ```

pub mod check;
pub mod fetched;
pub mod restore;
mod scratch;

use crate::engine::error::OpenError;
use crate::engine::open::lock::lock_folder;
use std::fs::File;
use std::path::Path;

/// Keeps daemons from opening a folder, as long as what this gives is open. An error if one has it open.
pub fn keep_daemons_out(folder: &Path) -> Result<File, OpenError> {
    lock_folder(folder)
}
