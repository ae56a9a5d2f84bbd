//! Opens the place of backups that somebody names.

use crate::bucket::{self, GoOn};
use crate::engine::upkeep::bucket_shelf::BucketShelf;
use crate::engine::upkeep::folder_shelf::FolderShelf;
use crate::engine::upkeep::manifest::ManifestError;
use crate::engine::upkeep::shelf::{Found, PREFIX, Place, Shelf};
use std::io;
use std::path::Path;

/// Opens a place. What is unfinished there ends with `suffix`. A backup that goes to a bucket passes through `data`.
pub(in crate::engine) fn open(
    place: &Place,
    suffix: String,
    data: &Path,
    go_on: GoOn,
) -> io::Result<Box<dyn Shelf>> {
    match place {
        Place::Folder(folder) => Ok(Box::new(FolderShelf { folder: folder.clone(), suffix })),
        Place::Bucket(url, storage) => {
            let objects = bucket::open(url, storage, go_on).map_err(bucket::BucketError::into_io)?;
            Ok(Box::new(BucketShelf::new(objects, url.clone(), &suffix, data.to_owned())))
        }
    }
}

/// What lies at a place, in the order of the names. A name without a manifest is listed if it looks like an unfinished backup.
pub fn found(place: &Place) -> Result<Vec<Found>, ManifestError> {
    // An error of the storage names the place.
    let told = |error: io::Error| match error.downcast() {
        Ok(error) => ManifestError::Bucket(error),
        Err(error) => ManifestError::io(Path::new(&place.to_string()))(error),
    };
    let shelf = open(place, String::new(), Path::new(""), Box::new(|| Ok(())));
    let shelf = shelf.map_err(told)?;
    let mut found = vec![];
    for name in shelf.names().map_err(told)? {
        match shelf.manifest(&name) {
            Ok(manifest) => found.push(Found { name, manifest: Some(manifest) }),
            Err(ManifestError::NoBackup { .. }) if name.starts_with(PREFIX) => {
                found.push(Found { name, manifest: None });
            }
            Err(ManifestError::NoBackup { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
