//! A backup that only passes through the data folder, on its way to another node or to a bucket, in a folder of its own.
//!
//! Promises: the folder goes with the [`PassingBackup`]; what a crash left of one goes at the next start. The last one for a
//! node is kept for [`KEPT`] after it was sent, so that the node can get the rest of it if it did not get all.

use crate::durable::private_folder;
use crate::layout;
use crate::sync::{Mutex, lock};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
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

/// The snapshot that was made last for a node.
#[derive(Clone, Default)]
pub(in crate::engine) struct LastForNode(Arc<Mutex<Last>>);

#[derive(Default)]
struct Last {
    /// It is there as long as anybody sends it.
    snapshot: Weak<PassingBackup>,
    /// It is kept, after it was sent.
    kept: Option<Arc<PassingBackup>>,
    /// When it was sent last, to its end or not.
    sent_at: Option<Instant>,
}

impl LastForNode {
    /// From now on this is the one. Whoever sends it says when that ends.
    pub(in crate::engine) fn begin(&self, snapshot: &Arc<PassingBackup>) {
        *lock(&self.0) = Last { snapshot: Arc::downgrade(snapshot), ..Last::default() };
    }

    /// Keeps it for [`KEPT`] after it was sent. Needs the runtime.
    pub(in crate::engine) fn end(&self, snapshot: &Arc<PassingBackup>) {
        let is_last = {
            let mut last = lock(&self.0);
            let is_last = last.is(&Arc::downgrade(snapshot));
            if is_last {
                (last.kept, last.sent_at) = (Some(Arc::clone(snapshot)), Some(Instant::now()));
            }
            is_last
        };
        if is_last {
            let (of_node, snapshot) = (self.clone(), Arc::downgrade(snapshot));
            drop(Handle::current().spawn(async move {
                tokio::time::sleep(KEPT).await;
                let mut last = lock(&of_node.0);
                if last.is(&snapshot) && last.sent_at.is_none_or(|at| at.elapsed() >= KEPT) {
                    last.kept = None;
                }
            }));
        }
    }

    /// The one of this name, if it is there.
    pub(in crate::engine) fn get(&self, name: &str) -> Option<Arc<PassingBackup>> {
        lock(&self.0).snapshot.upgrade().filter(|last| last.name == name)
    }
}

impl Last {
    fn is(&self, snapshot: &Weak<PassingBackup>) -> bool {
        self.snapshot.ptr_eq(snapshot)
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
            let last = LastForNode::default();
            let begin = || {
                let snapshot = Arc::new(PassingBackup::begin(data.path()).unwrap());
                last.begin(&snapshot);
                (snapshot.name().to_owned(), snapshot)
            };
            let is_there = |name: &str| last.get(name).is_some();
            // Nobody sends it: its caller has gone.
            let (name, snapshot) = begin();
            assert!(is_there(&name));
            drop(snapshot);
            assert!(!is_there(&name));

            let (name, snapshot) = begin();
            // Whoever asks for the rest gets it, though it is still being sent to a connection that hangs.
            assert!(is_there(&name) && is_there(&name) && !is_there("another"));
            last.end(&snapshot);
            tokio::time::sleep(KEPT / 2).await;
            last.end(&snapshot);
            drop(snapshot);
            tokio::time::sleep(KEPT * 3 / 4).await;
            assert!(is_there(&name), "it was sent again half a time ago");
            let again = last.get(&name).unwrap();
            tokio::time::sleep(KEPT).await;
            assert!(is_there(&name), "somebody sends it");
            last.end(&again);
            let late = Arc::clone(&again);
            drop(again);
            let (next, snapshot) = begin();
            last.end(&late);
            assert!(!is_there(&name) && is_there(&next), "only the last one is kept");
            last.end(&snapshot);
            drop(snapshot);
            tokio::time::sleep(KEPT * 9 / 8).await;
            assert!(!is_there(&next));
        });
    }
}
