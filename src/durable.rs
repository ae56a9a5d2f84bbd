//! Files that are either there, whole and durable, or not there at all.
//!
//! Promises: when [`replace`] returns without an error, the file has the new content and its name is on the disk; after
//! a crash at any moment it has the old content or the new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
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
        point(&format!("{what}-write"))?;
        write(&mut file)?;
        point(&format!("{what}-sync"))?;
        file.sync_all()?;
        point(&format!("{what}-rename"))?;
        fs::rename(aside, path)
    })();
    if replaced.is_err() {
        // What stays of it is in nobody's way, and made anew by the next attempt.
        drop(fs::remove_file(aside));
    }
    replaced?;
    point(&format!("{what}-folder"))?;
    path.parent().map_or(Ok(()), sync_folder)?;
    point(&format!("{what}-done"))
}

/// Makes a folder, if it is not there, that nobody but its owner may look into: visitors' profiles are in it.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), fs::create_dir_all)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Puts a file of these bytes and their checksum in the place of another.
pub fn replace_summed(path: &Path, what: &'static str, bytes: &[u8]) -> io::Result<()> {
    replace(path, what, |file| {
        file.write_all(bytes)?;
        file.write_all(&crc32c::crc32c(bytes).to_le_bytes())
    })
}

/// The bytes that [`replace_summed`] wrote; none if no file is there. One that does not verify is `InvalidData`.
pub fn read_summed(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let verified =
        bytes.split_last_chunk::<4>().filter(|(bytes, sum)| crc32c::crc32c(bytes).to_le_bytes() == **sum);
    let Some(length) = verified.map(|(bytes, _)| bytes.len()) else {
        let damaged = format!("{} does not match its checksum", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    };
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A place where a test build may have something fail, or the process die, by the environment's
/// `FAILPOINTS=name=return(abort)`, `return(full)` or `return(error)`. Other builds know nothing of it.
pub fn point(name: &str) -> io::Result<()> {
    fail::fail_point!(name, |told: Option<String>| match told.as_deref() {
        Some("abort") => std::process::abort(),
        Some("full") => Err(io::ErrorKind::StorageFull.into()),
        _ => Err(io::Error::other("failpoint")),
    });
    let _unused = name;
    Ok(())
}
