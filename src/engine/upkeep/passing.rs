//! A backup that only passes through the data folder, on its way to another node or to a bucket, in a folder of its own.
//!
//! Promises: the folder goes with the [`PassingBackup`]; what a crash left of one goes at the next start.

use crate::durable::private_folder;
use crate::layout;
use std::io;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// The folder of a backup that is sent elsewhere. It goes when this is dropped.
#[derive(Debug)]
pub struct PassingBackup(PathBuf);

impl PassingBackup {
    /// A folder that no other backup has, and that does not exist yet. Blocks.
    pub(in crate::engine) fn begin(data: &Path) -> io::Result<Self> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let all = data.join(layout::PEER_SNAPSHOTS);
        private_folder(&all)?;
        Ok(Self(all.join(layout::digits(u64::from_le_bytes(number)))))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Removes what a crash left of any. Blocks.
    pub(in crate::engine) fn remove_all(data: &Path) {
        remove(&data.join(layout::PEER_SNAPSHOTS));
    }
}

impl Drop for PassingBackup {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.0);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&folder))),
            Err(_) => remove(&folder),
        }
    }
}

fn remove(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, folder = %folder.display(), "a backup that was sent elsewhere could not be removed; the next start removes it");
        }
        _ => {}
    }
}
