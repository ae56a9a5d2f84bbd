//! Files and folders by name: each is there, whole and durable, or not there at all.
//!
//! Promises:
//! - When [`replace`] returns without an error, the file has the new content and its name is on the disk. After a crash
//!   at any moment it has either the old content or the new.
//! - A file or folder made here gets the owner of the folder that it is in, even if root makes it. The daemon's user must
//!   be able to read what an operator's command wrote.

use super::failpoint::point;
use crate::layout;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Replaces a file, or makes it: writes it under another name, syncs it, renames it and syncs its folder. The failpoints
/// on the way are called `what`, followed by the step.
pub fn replace(
    path: &Path,
    what: &'static str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(layout::NEW);
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
        // A file that stays behind does no harm: the next attempt overwrites it.
        drop(fs::remove_file(aside));
    }
    replaced?;
    point(&format!("{what}-folder"))?;
    path.parent().map_or(Ok(()), sync_folder)?;
    point(&format!("{what}-done"))
}

/// Opens a file with these options, and makes it if it is not there. A new file gets the owner and group of its folder.
/// Refuses a symbolic link: it could lead root to somebody else's file.
pub fn create(path: &Path, how: &OpenOptions) -> io::Result<File> {
    let open = |how: &mut OpenOptions| how.custom_flags(no_follow()).open(path);
    match open(&mut how.clone()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match open(how.clone().create_new(true)) {
        Ok(file) => belongs_to_folder(&file, path).map(|()| file),
        // Another process made it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(&mut how.clone()),
        Err(error) => Err(error),
    }
}

/// Gives a new file or folder the owner and group of the folder that it is in. Only root can do that, and only root
/// needs to.
pub fn belongs_to_folder(made: &File, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (owner, now) = (fs::metadata(folder_of(path))?, made.metadata()?);
    if (owner.uid(), owner.gid()) == (now.uid(), now.gid()) {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

fn no_follow() -> i32 {
    // The flag as the system's own number.
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// The folder that a name is in; the current one for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder within another, if it is not there. It gets that folder's owner, and only its owner can open it.
pub fn folder_within(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => belongs_to_folder(&File::open(path)?, path),
    }
}

/// Makes a folder that only its owner can open, and its parents, if they are not there. It will hold visitors' profiles.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), fs::create_dir_all)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Another process made it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The numbers of the numbered files in a folder that have this extension, in no order.
pub fn numbers_in(folder: &Path, extension: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| layout::number_of(name, extension)));
    }
    Ok(numbers)
}
