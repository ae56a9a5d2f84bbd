//! A whole engine on a folder that no daemon serves: to check the folder, or to fill it from a backup.
//!
//! ```text
//! check.rs    checks a data folder or a backup, and changes nothing in it
//! restore.rs  restores a backup
//! scratch.rs  shows a folder and takes what is written to it, for checks
//! ```

pub mod check;
pub mod restore;
mod scratch;
