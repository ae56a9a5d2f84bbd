//! A backup that only passes through the data folder, on its way to another node or to a bucket, in a folder of its own.
//!
//! Promises: the folder goes with the [`PassingBackup`]; what a crash left of one goes at the next start. The last one for a
//! node is kept for [`KEPT`] after it was sent, so that the node can get the rest of it if it did not get all.

use crate::durable::private_folder;
use crate::layout;
use crate::sync::{Mutex, lock};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long a snapshot is kept after it was sent.
const KEPT: Duration = Duration::from_secs(120);

/// The folder of a backup that is sent elsewhere. It goes when this is dropped.
#[derive(Debug)]
pub struct PassingBackup {
    folder: PathBuf,
    name: String,
}

impl PassingBackup {
    /// A folder that no other backup has, and that does not exist yet. Blocks.
    pub(in crate::engine) fn begin(data: &Path) -> io::Result<Self> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let all = data.join(layout::PEER_SNAPSHOTS);
        private_folder(&all)?;
        let name = layout::digits(u64::from_le_bytes(number));
        Ok(Self { folder: all.join(&name), name })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes what a crash left of any. Blocks.
    pub(in crate::engine) fn remove_all(data: &Path) {
        remove(&data.join(layout::PEER_SNAPSHOTS));
    }
}

impl Drop for PassingBackup {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.folder);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&folder))),
            Err(_) => remove(&folder),
        }
    }
}

/// The snapshot that was sent last.
#[derive(Clone, Default)]
pub(in crate::engine) struct SentLast(Arc<Mutex<Option<Arc<PassingBackup>>>>);

impl SentLast {
    /// Keeps a snapshot for a while. Needs the runtime.
    pub(in crate::engine) fn keep(&self, snapshot: &Arc<PassingBackup>) {
        *lock(&self.0) = Some(Arc::clone(snapshot));
        let (kept, snapshot) = (self.clone(), Arc::downgrade(snapshot));
        drop(Handle::current().spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut kept = lock(&kept.0);
            if kept.as_ref().is_some_and(|kept| snapshot.as_ptr() == Arc::as_ptr(kept)) {
                *kept = None;
            }
        }));
    }

    /// The one of this name, if it is kept. Whoever sends it again keeps it again.
    pub(in crate::engine) fn take(&self, name: &str) -> Option<Arc<PassingBackup>> {
        lock(&self.0).take_if(|kept| kept.name == name)
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
