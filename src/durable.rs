//! Files that are either there, whole and durable, or not there at all.
//!
//! Promises: when [`replace`] returns without an error, the file has the new content and its name is on the disk; after
//! a crash at any moment it has the old content or the new. A file or folder made here belongs to whoever its folder
//! belongs to, also if root makes it: the daemon's user must be able to read what an operator's command left.

use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
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
        let mut file = create(aside, OpenOptions::new().write(true).truncate(true))?;
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

/// Opens a file as told, made if it is not there. One that is made gets the owner and the group of its folder. A link in
/// its place is refused: it could lead root to a file of somebody else.
pub fn create(path: &Path, how: &OpenOptions) -> io::Result<File> {
    let open = |how: &mut OpenOptions| how.custom_flags(no_follow()).open(path);
    match open(&mut how.clone()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match open(how.clone().create_new(true)) {
        Ok(file) => belongs_to_folder(&file, path).map(|()| file),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(&mut how.clone()),
        Err(error) => Err(error),
    }
}

/// Gives a file or folder that was just made the owner and the group of the folder it is in. Only root can, and only
/// root has to.
pub fn belongs_to_folder(made: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (owner, now) = (fs::metadata(folder)?, made.metadata()?);
    if (owner.uid(), owner.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

fn no_follow() -> i32 {
    // The flags' bits are those of the system's own number.
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// Makes a folder within another, if it is not there; it gets that one's owner, and nobody else may look into it.
pub fn folder_within(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => belongs_to_folder(&File::open(path)?, path),
    }
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
