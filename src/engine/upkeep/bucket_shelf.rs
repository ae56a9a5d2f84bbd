//! Where backups lie side by side: a place in S3-compatible storage.
//!
//! ```text
//! PREFIX/profiled-2026-11-27T20-50-38Z/MARK.partial      while it is being written or removed: first to come, last to go
//!                                     /journal/…         its files
//!                                     /backup.json       its manifest: last to come, first to go
//! ```
//!
//! Promises: a backup gets its manifest after each of its files was read back and found to be what was sent. Without a manifest nothing
//! takes it for a backup. A backup that fails leaves nothing; what a crash left is removed by the next one.

use crate::bucket::{BucketError, Listed, Objects};
use crate::config::BucketUrl;
use crate::engine::upkeep::manifest::{FileEntry, Manifest, ManifestError};
use crate::engine::upkeep::passing::PassingBackup;
use crate::engine::upkeep::shelf::Shelf;
use crate::layout;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A place in storage with backups.
pub(in crate::engine) struct BucketShelf {
    objects: Box<dyn Objects>,
    url: BucketUrl,
    /// The name of the object that marks what is not whole.
    partial: String,
    /// The data folder through which a backup passes.
    data: PathBuf,
    /// The backup that is on its way.
    passing: Option<PassingBackup>,
}

impl BucketShelf {
    pub(in crate::engine) fn new(
        objects: Box<dyn Objects>,
        url: BucketUrl,
        suffix: &str,
        data: PathBuf,
    ) -> Self {
        let partial = suffix.trim_start_matches('.').to_owned();
        Self { objects, url, partial, data, passing: None }
    }

    /// Sends the files that are listed, reads each of them back, and says last that the backup is whole.
    fn send(&self, name: &str, from: &Path) -> Result<(), ManifestError> {
        let manifest = Manifest::read(from)?;
        for entry in &manifest.files {
            self.objects.send(&from.join(&entry.path), &object_name(name, &entry.path))?;
        }
        let arrived = listed(&*self.objects, &self.url, name, &manifest)?;
        for (object, entry) in arrived.iter().zip(&manifest.files) {
            read_whole(&*self.objects, &self.url, object, entry, &mut |_| Ok(()))?;
        }
        let path = from.join(layout::MANIFEST);
        let text = fs::read(&path).map_err(ManifestError::io(&path))?;
        self.objects.write(&manifest_name(name), text)?;
        // What cannot be read again is no backup.
        let read = self.manifest(name)?;
        if read != manifest {
            let why = "it is not what was sent".to_owned();
            return Err(ManifestError::NoBackup { folder: place(&self.url, name), why });
        }
        Ok(self.objects.remove(&object_name(name, &self.partial))?)
    }

    /// Removes all objects of a backup, the manifest first and the mark last.
    fn remove_all(&self, name: &str) -> Result<(), BucketError> {
        let mark = object_name(name, &self.partial);
        self.objects.write(&mark, vec![])?;
        self.objects.remove(&manifest_name(name))?;
        for object in self.objects.list(name)? {
            if object.name != mark {
                self.objects.remove(&object.name)?;
            }
        }
        self.objects.remove(&mark)
    }

    fn clear_all(&mut self, is_name: &dyn Fn(&str) -> bool) -> Result<(), BucketError> {
        self.passing = None;
        for name in self.objects.folders()? {
            let mark = object_name(&name, &self.partial);
            if !is_name(&name) || self.objects.read(&mark)?.is_none() {
                continue;
            }
            // One that has its manifest is whole: its last step, or the first of its removal, was all that was missing.
            if self.objects.read(&manifest_name(&name))?.is_some() {
                self.objects.remove(&mark)?;
            } else {
                self.remove_all(&name)?;
            }
        }
        Ok(())
    }
}

impl Shelf for BucketShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        self.objects.folders().map_err(BucketError::into_io)
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        Ok(!self.objects.list(name).map_err(BucketError::into_io)?.is_empty())
    }

    fn manifest(&self, name: &str) -> Result<Manifest, ManifestError> {
        manifest(&*self.objects, &self.url, name)
    }

    fn begin(&mut self, name: &str) -> io::Result<PathBuf> {
        let mark = object_name(name, &self.partial);
        self.objects.write(&mark, vec![]).map_err(BucketError::into_io)?;
        let passing = self.passing.insert(PassingBackup::begin(&self.data)?);
        Ok(passing.folder().to_owned())
    }

    fn finish(&mut self, name: &str) -> io::Result<String> {
        let passing = self.passing.take().ok_or(io::ErrorKind::InvalidInput)?;
        self.send(name, passing.folder()).map_err(|error| match error {
            ManifestError::Bucket(error) => error.into_io(),
            other => io::Error::other(other),
        })?;
        Ok(place(&self.url, name).display().to_string())
    }

    fn clear(&mut self, is_name: &dyn Fn(&str) -> bool) -> io::Result<()> {
        self.clear_all(is_name).map_err(BucketError::into_io)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.passing = None;
        self.remove_all(name).map_err(BucketError::into_io)
    }

    fn is_elsewhere(&self) -> bool {
        true
    }
}

/// What a backup in storage says of itself.
pub(in crate::engine) fn manifest(
    objects: &dyn Objects,
    url: &BucketUrl,
    name: &str,
) -> Result<Manifest, ManifestError> {
    let place = place(url, name);
    match objects.read(&manifest_name(name))? {
        Some(text) => Manifest::parse(&text, &place),
        None => Err(ManifestError::no_backup(&place, &"there is none")),
    }
}

/// Fetches a backup into a folder that is empty. An error if one of its files is missing, or is not what was sent.
pub(in crate::engine) fn fetch(
    objects: &dyn Objects,
    url: &BucketUrl,
    name: &str,
    to: &Path,
) -> Result<Manifest, ManifestError> {
    let manifest = manifest(objects, url, name)?;
    let there = listed(objects, url, name, &manifest)?;
    for (object, entry) in there.iter().zip(&manifest.files) {
        let path = to.join(&entry.path);
        let below = path.parent().unwrap_or(to);
        fs::create_dir_all(below).map_err(ManifestError::io(below))?;
        let mut file = File::create_new(&path).map_err(ManifestError::io(&path))?;
        let mut write = |piece: &[u8]| {
            file.write_all(piece)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        read_whole(objects, url, object, entry, &mut write)?;
    }
    for below in [layout::SNAPSHOTS, layout::JOURNAL, layout::SPOOL] {
        let path = to.join(below);
        fs::create_dir_all(&path).map_err(ManifestError::io(&path))?;
    }
    let path = to.join(layout::MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| ManifestError::no_backup(to, &error))?;
    fs::write(&path, text).map_err(ManifestError::io(&path))?;
    Ok(manifest)
}

/// The objects of the files of a backup, in the order of its manifest. An error if one is missing, or has another length.
fn listed(
    objects: &dyn Objects,
    url: &BucketUrl,
    name: &str,
    manifest: &Manifest,
) -> Result<Vec<Listed>, ManifestError> {
    let listed = objects.list(name)?.into_iter().map(|object| (object.name, object.bytes));
    let mut lengths: HashMap<String, u64> = listed.collect();
    let object = |entry: &FileEntry| {
        let name = object_name(name, &entry.path);
        let file = place(url, &name);
        let bytes = lengths.remove(&name).ok_or(ManifestError::Missing { file: file.clone() })?;
        if bytes != entry.bytes {
            let why = format!("it has {bytes} bytes, not {}", entry.bytes);
            return Err(ManifestError::Damaged { file, why });
        }
        Ok(Listed { name, bytes })
    };
    manifest.files.iter().map(object).collect()
}

/// Reads an object, and compares it with what was sent.
fn read_whole(
    objects: &dyn Objects,
    url: &BucketUrl,
    object: &Listed,
    entry: &FileEntry,
    see: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ManifestError> {
    let mut sum = 0;
    objects.fetch(object, &mut |piece| {
        sum = crc32c::crc32c_append(sum, piece);
        see(piece)
    })?;
    entry.check(&place(url, &object.name), object.bytes, sum)
}

/// Where something is, in errors.
fn place(url: &BucketUrl, name: &str) -> PathBuf {
    PathBuf::from(format!("{url}/{name}"))
}

/// The name of an object of a backup, for a file that its manifest lists.
fn object_name(backup: &str, path: &str) -> String {
    format!("{backup}/{}", path.trim_start_matches("./"))
}

fn manifest_name(backup: &str) -> String {
    object_name(backup, layout::MANIFEST)
}
