//! Files that are either there, whole and durable, or not there at all.
//!
//! Promises: when [`replace`] returns without an error, the file has the new content and its name is on the disk; after
//! a crash at any moment it has the old content or the new.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Puts a file in the place of another, if one is there: written under another name, synced, renamed, its folder
/// synced. `what` is what the failpoints of a test build are called by.
pub fn replace(
    path: &Path,
    what: &'static str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = Path::new(&aside);
    let replaced = (|| {
        let mut file = File::create(aside)?;
        step(what, "write")?;
        write(&mut file)?;
        step(what, "sync")?;
        file.sync_all()?;
        step(what, "rename")?;
        fs::rename(aside, path)
    })();
    if replaced.is_err() {
        // What stays of it is in nobody's way, and made anew by the next attempt.
        drop(fs::remove_file(aside));
    }
    replaced?;
    step(what, "folder")?;
    path.parent().map_or(Ok(()), sync_folder)?;
    step(what, "done")
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A place where a test build may have something fail, or the process die: before each step, and behind the last.
pub fn step(what: &str, step: &str) -> io::Result<()> {
    fail::fail_point!(&format!("{what}-{step}"), |_| Err(io::Error::other("failpoint")));
    let _names = (what, step);
    Ok(())
}
