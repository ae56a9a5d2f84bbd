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
use tokio::time::Instant;

/// How long a snapshot is kept after it was sent.
const KEPT: Duration = Duration::from_secs(120);

/// The folder of a backup that is sent elsewhere. It goes when this is dropped.
#[derive(Debug)]
pub struct PassingBackup {
    folder: PathBuf,
    name: String,
    /// When it was sent last, to its end or not.
    sent_at: Mutex<Option<Instant>>,
}

impl PassingBackup {
    /// A folder that no other backup has, and that does not exist yet. Blocks.
    pub(in crate::engine) fn begin(data: &Path) -> io::Result<Self> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        let all = data.join(layout::PEER_SNAPSHOTS);
        private_folder(&all)?;
        let name = layout::digits(u64::from_le_bytes(number));
        Ok(Self { folder: all.join(&name), name, sent_at: Mutex::default() })
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

/// The snapshot that was sent last, or that is being sent.
#[derive(Clone, Default)]
pub(in crate::engine) struct SentLast(Arc<Mutex<Option<Arc<PassingBackup>>>>);

impl SentLast {
    /// From now on this is the one. Whoever sends it holds it, and says when that ends.
    pub(in crate::engine) fn begin(&self, snapshot: &Arc<PassingBackup>) {
        *lock(&self.0) = Some(Arc::clone(snapshot));
    }

    /// Lets it go after [`KEPT`], unless somebody sends it then. Needs the runtime.
    pub(in crate::engine) fn end(&self, snapshot: &Arc<PassingBackup>) {
        *lock(&snapshot.sent_at) = Some(Instant::now());
        let (last, snapshot) = (self.clone(), Arc::downgrade(snapshot));
        drop(Handle::current().spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut last = lock(&last.0);
            let goes = last.as_ref().is_some_and(|last| {
                let is_sent = Arc::strong_count(last) > 1;
                let recently = lock(&last.sent_at).is_some_and(|at| at.elapsed() < KEPT);
                snapshot.as_ptr() == Arc::as_ptr(last) && !is_sent && !recently
            });
            if goes {
                *last = None;
            }
        }));
    }

    /// The one of this name, if it is kept.
    pub(in crate::engine) fn get(&self, name: &str) -> Option<Arc<PassingBackup>> {
        lock(&self.0).clone().filter(|last| last.name == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_kept_for_a_while_after_it_was_sent_last() {
        let data = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let last = SentLast::default();
            let snapshot = Arc::new(PassingBackup::begin(data.path()).unwrap());
            let name = snapshot.name().to_owned();
            let is_kept = || last.get(&name).is_some();
            last.begin(&snapshot);
            // Whoever asks for the rest gets it, though it is still being sent to a connection that hangs.
            assert!(is_kept() && is_kept() && last.get("another").is_none());
            last.end(&snapshot);
            tokio::time::sleep(KEPT / 2).await;
            last.end(&snapshot);
            drop(snapshot);
            tokio::time::sleep(KEPT * 3 / 4).await;
            assert!(is_kept(), "it was sent again half a time ago");
            let again = last.get(&name).unwrap();
            tokio::time::sleep(KEPT).await;
            assert!(is_kept(), "somebody sends it");
            last.end(&again);
            drop(again);
            tokio::time::sleep(KEPT * 9 / 8).await;
            assert!(!is_kept());
        });
    }
}
