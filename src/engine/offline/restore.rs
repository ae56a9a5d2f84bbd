//! Restores a backup into a folder that does not exist yet, or is empty.
//!
//! ```text
//! copy    each file into NAME.partial, which is marked as unfinished, and verified against the manifest
//! open    once, as a start would: the store is made, and its digest compared with the manifest's
//! erase   everybody who was erased after the backup, if the list of erasures is at hand
//! finish  the mark goes, and the folder gets its name
//! ```
//!
//! Promises: no daemon opens the folder before all of that is done. A restore that fails, or is interrupted, leaves nothing that opens,
//! and nothing in the way of the next. If the folder is a disk of its own, or nothing can be created beside it, the backup is restored
//! within it, under the same mark. All of it belongs to the owner of the folder.

use crate::clock::GuardedClock;
use crate::config::{Config, Ingest};
use crate::durable::{private_folder, sync_folder};
use crate::engine::error::{EngineError, OpenError};
use crate::engine::node::Role;
use crate::engine::open::digest;
use crate::engine::open::rebuild::Opening;
use crate::engine::start::{BroughtUp, Running};
use crate::engine::upkeep::backup::{Extent, copy_file};
use crate::engine::upkeep::erasures::Erasures;
use crate::engine::upkeep::manifest::{FileEntry, Manifest, ManifestError};
use crate::folder::{self, FolderError};
use crate::layout;
use crate::model::seq::{Clock, Seq};
use crate::store::{ProfileStore, StoreError};
use crate::tokens::{Tokens, TokensError};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many values are read at a time.
const PAGE_VALUES: usize = 512;
/// The files of a data folder that are a node's own, and may be there before it has any data.
const OWN: [&str; 4] = [layout::TOKENS, layout::TOKENS_LOCK, layout::TOKEN_USES, layout::AUDIT];

/// A backup that was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// How many ids were erased again; none if there was no list of erasures.
    pub erased_again: Option<u64>,
    /// How many could not be erased, because a batch that may name them is held.
    pub not_erased: u64,
    /// Set if the list begins behind the backup, at this seq. Visitors who were erased in between are not in it.
    pub list_begins_late: Option<Seq>,
    /// The batches that are held because their uploads were damaged when the backup was made, with the reason.
    pub held: Vec<(String, String)>,
}

/// Why a backup can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The folder holds no whole backup, or a file of it is damaged.
    #[error(transparent)]
    Backup(#[from] ManifestError),
    /// The data folder is not empty.
    #[error("{} is not empty: restore into a new folder", .0.display())]
    NotEmpty(PathBuf),
    /// What was restored does not open.
    #[error("what was restored does not open: {0}")]
    Open(#[from] OpenError),
    /// The store that was made cannot be read.
    #[error("the store that was made: {0}")]
    Store(#[from] StoreError),
    /// The store that was made of it differs from the backup's.
    #[error(
        "{}: the store that was made of it has the digest {made}, not {expected} as its manifest says: try another \
         backup, and keep this one for whoever looks into it",
        backup.display()
    )]
    Digest {
        /// The backup.
        backup: PathBuf,
        /// What the manifest says.
        expected: String,
        /// What was found.
        made: String,
    },
    /// The visitors who were erased since could not be erased again.
    #[error("those who were erased after the backup could not be erased again: {0}")]
    Erase(String),
    /// The backup's tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The system reported an error.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

impl RestoreError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Io { path: path.clone(), error }
    }
}

impl From<FolderError> for RestoreError {
    fn from(error: FolderError) -> Self {
        Self::Open(error.into())
    }
}

/// Restores a backup into a data folder that does not exist yet, or is empty. `after` is the list of erasures, or the data
/// folder that has it. `config` has the settings for the start; its data folder is not used.
pub fn restore(
    backup: &Path,
    data: &Path,
    after: Option<&Path>,
    config: Config,
    clock: Arc<dyn Clock>,
) -> Result<Restored, RestoreError> {
    let manifest = Manifest::read(backup)?;
    let erasures = after.map(read_list).transpose()?;
    RestoreTarget::find(data)?.restore(backup, manifest, erasures, (config, clock), &|_| Ok(()))
}

/// Restores a backup of another node into a data folder that has nothing but [what is a node's own](OWN), and perhaps the backup
/// itself. The folder keeps its tokens, and gets those of the other node besides. The other node's audit trail stays
/// behind, and so does when tokens were used there. At the end, `finishing` adds to the folder what else it must have. If it fails, only the node's own files are left, as they were.
pub fn restore_of_peer(
    backup: &Path,
    data: &Path,
    config: Config,
    clock: Arc<dyn Clock>,
    finishing: &dyn Fn(&Path) -> io::Result<()>,
) -> Result<Restored, RestoreError> {
    let mut manifest = Manifest::read(backup)?;
    let of_peer = |entry: &FileEntry| OWN.iter().any(|own| Path::new(&entry.path).ends_with(own));
    let (others, files) = manifest.files.into_iter().partition(of_peer);
    manifest.files = files;
    let tokens = tokens_of(backup, &others)?;
    let finishing = |folder: &Path| {
        finishing(folder)?;
        tokens.take_in(folder).map_err(io::Error::other)
    };
    RestoreTarget::within(data)?.restore(backup, manifest, None, (config, clock), &finishing)
}

/// The tokens of a backup that has these files beside its data.
fn tokens_of(backup: &Path, files: &[FileEntry]) -> Result<Tokens, RestoreError> {
    let Some(entry) = files.iter().find(|entry| Path::new(&entry.path).ends_with(layout::TOKENS)) else {
        return Ok(Tokens::default());
    };
    entry.verify(backup)?;
    Ok(Tokens::read(backup)?)
}

/// Removes from a folder what an interrupted [`restore_of_peer`] left, if it was interrupted.
pub fn clear_interrupted(data: &Path) -> io::Result<()> {
    if folder::is_unfinished(data) { folder::clear(data, &OWN) } else { Ok(()) }
}

fn read_list(after: &Path) -> Result<(PathBuf, Erasures), RestoreError> {
    let path = if after.is_dir() { after.join(layout::ERASURES) } else { after.to_owned() };
    let list = Erasures::read(&path).map_err(RestoreError::io(&path))?;
    Ok((path, list))
}

/// Where a backup is restored.
struct RestoreTarget {
    /// The folder that is filled.
    folder: PathBuf,
    /// The name that it will get.
    data: PathBuf,
    /// The owner that all of it will get.
    owner: (u32, u32),
    /// The files that stay if it fails.
    stay: &'static [&'static str],
}

impl RestoreTarget {
    /// Finds the place, creates its folder and marks it as unfinished.
    fn find(data: &Path) -> Result<Self, RestoreError> {
        let absolute = std::path::absolute(data).map_err(RestoreError::io(data))?;
        // A slash or a dot at the end does not belong to the name.
        let data = absolute.components().collect::<PathBuf>();
        let parent = data.parent().ok_or_else(|| RestoreError::NotEmpty(data.clone()))?;
        fs::create_dir_all(parent).map_err(RestoreError::io(parent))?;
        let there = match fs::read_dir(&data) {
            Ok(mut entries) => {
                if folder::is_unfinished(&data) {
                    folder::clear(&data, &[]).map_err(RestoreError::io(&data))?;
                } else if entries.next().is_some() {
                    return Err(RestoreError::NotEmpty(data));
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(RestoreError::io(&data)(error)),
        };
        let own = |path: &Path| fs::metadata(path).map_err(RestoreError::io(path));
        let (beside, model) = (own(parent)?, own(if there { &data } else { parent })?);
        let owner = (model.uid(), model.gid());
        let mut partial = data.clone().into_os_string();
        partial.push(layout::PARTIAL);
        let partial = PathBuf::from(partial);
        if partial.exists() {
            let empty = fs::read_dir(&partial).map_err(RestoreError::io(&partial))?.next().is_none();
            if !empty && !folder::is_unfinished(&partial) {
                return Err(RestoreError::NotEmpty(partial));
            }
            folder::clear(&partial, &[]).map_err(RestoreError::io(&partial))?;
        }
        let made = if there && model.dev() != beside.dev() {
            Err(io::ErrorKind::CrossesDevices.into())
        } else {
            private_folder(&partial)
        };
        let folder = match made {
            Ok(()) => partial,
            Err(_) if there => data.clone(),
            Err(error) => return Err(RestoreError::io(&partial)(error)),
        };
        folder::begin(&folder).map_err(RestoreError::io(&folder))?;
        Ok(Self { folder, data, owner, stay: &[] })
    }

    /// The folder itself, which has what is a node's own.
    fn within(data: &Path) -> Result<Self, RestoreError> {
        let failed = RestoreError::io(data);
        let model = fs::metadata(data).map_err(&failed)?;
        folder::begin(data).map_err(&failed)?;
        let (folder, owner) = (data.to_owned(), (model.uid(), model.gid()));
        Ok(Self { data: folder.clone(), folder, owner, stay: &OWN })
    }

    fn restore(
        self,
        backup: &Path,
        manifest: Manifest,
        erasures: Option<(PathBuf, Erasures)>,
        (config, clock): (Config, Arc<dyn Clock>),
        finishing: &dyn Fn(&Path) -> io::Result<()>,
    ) -> Result<Restored, RestoreError> {
        let filled = self.fill(backup, manifest, erasures, config, clock).and_then(|restored| {
            finishing(&self.folder).map_err(RestoreError::io(&self.folder))?;
            Ok(restored)
        });
        match filled {
            Ok(restored) => {
                self.finish()?;
                Ok(restored)
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        backup: &Path,
        manifest: Manifest,
        erasures: Option<(PathBuf, Erasures)>,
        mut config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<Restored, RestoreError> {
        let folder = &self.folder;
        for entry in &manifest.files {
            let (from, to) = (backup.join(&entry.path), folder.join(&entry.path));
            let below = to.parent().unwrap_or(folder);
            fs::create_dir_all(below).map_err(RestoreError::io(below))?;
            let (bytes, sum) =
                copy_file(&from, &to, Extent::Whole, &|| Ok(())).map_err(RestoreError::io(&from))?;
            entry.check(&from, bytes, sum)?;
        }
        folder::check_format(folder)?;
        if let Some((list, _)) = &erasures {
            // The later list replaces the backup's: it has everything that the backup's has.
            let to = folder.join(layout::ERASURES);
            fs::copy(list, &to)
                .and_then(|_| fs::File::open(&to)?.sync_all())
                .map_err(RestoreError::io(&to))?;
        }
        for below in ["snapshots", "journal", "spool", "."] {
            let path = folder.join(below);
            if path.exists() {
                sync_folder(&path).map_err(RestoreError::io(&path))?;
            }
        }

        config.server.data_folder.clone_from(folder);
        // Nobody is served yet, so nothing need be slow. What is written here the daemon would write at once.
        config.ingest = Ingest::default();
        config.upkeep.disk_reserve_bytes = 0;
        let up = BroughtUp::of(config, Arc::new(GuardedClock::believing(clock)), &Opening::default())?;
        let made = format!("{:032x}", digest::of_store(&*up.store)?);
        if let Some(expected) = manifest.digest.as_ref().filter(|expected| **expected != made) {
            let expected = expected.clone();
            return Err(RestoreError::Digest { backup: backup.to_owned(), expected, made });
        }
        let running = up.start(Role::Offline)?;
        let seq = Seq::from_u64(manifest.seq.parse().unwrap_or_default());
        let erased_again = erasures.as_ref().map(|(_, list)| erase_again(&running, list, seq)).transpose();
        let held =
            running.shared.batches.all_pending().into_iter().filter_map(|(pending, _)| {
                Some((pending.accepted.id.to_string(), pending.held()?.to_owned()))
            });
        let held = held.collect();
        running.stop_blocking();
        let list_begins_late = erasures.map(|(_, list)| list.since).filter(|since| *since > seq);
        let (erased_again, not_erased) = erased_again?.unzip();
        let not_erased = not_erased.unwrap_or_default();
        Ok(Restored { manifest, erased_again, not_erased, list_begins_late, held })
    }

    /// The folder is good. Gives it its owner and its name.
    fn finish(&self) -> Result<(), RestoreError> {
        let failed = RestoreError::io(&self.folder);
        if rustix::process::geteuid().is_root() {
            give_to(&self.folder, self.owner).map_err(&failed)?;
        }
        folder::finish(&self.folder).map_err(&failed)?;
        if self.folder != self.data {
            fs::rename(&self.folder, &self.data).map_err(&failed)?;
        }
        let parent = self.data.parent().unwrap_or(&self.data);
        sync_folder(parent).map_err(RestoreError::io(parent))
    }

    /// Removes what was created. What cannot be removed stays marked as unfinished.
    fn give_up(&self) {
        let gone = folder::clear(&self.folder, self.stay)
            .and_then(|()| if self.folder == self.data { Ok(()) } else { fs::remove_dir(&self.folder) });
        if let Err(error) = gone {
            let folder = self.folder.display();
            tracing::error!(%folder, %error, "what was restored could not be removed; no daemon opens it");
        }
    }
}

/// Gives a folder and everything in it to an owner. A file with a second name is left alone: it may belong to another folder.
fn give_to(folder: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            give_to(&entry.path(), (user, group))?;
        } else if metadata.nlink() == 1 {
            lchown(entry.path(), Some(user), Some(group))?;
        }
    }
    chown(folder, Some(user), Some(group))
}

/// Erases everybody who was erased after this seq. Gives how many ids led to a visitor, and how many wait for a held batch.
fn erase_again(running: &Running, list: &Erasures, after: Seq) -> Result<(u64, u64), RestoreError> {
    // A batch that is not applied yet may still create one of them.
    running.wait_until_applied();
    let mut found = vec![];
    let mut last = None;
    loop {
        let page = running.shared.store.scan(last.as_ref(), PAGE_VALUES)?;
        found.extend(page.iter().map(|(key, _)| key).filter(|key| list.has(key, after)).cloned());
        match page.into_iter().next_back() {
            Some((key, _)) => last = Some(key),
            None => break,
        }
    }
    let (mut erased, mut waiting) = (0, 0);
    for key in found {
        match running.upkeep.erase_blocking(&key) {
            Ok(known) => erased += u64::from(known),
            Err(EngineError::Held { .. }) => waiting += 1,
            Err(error) => return Err(RestoreError::Erase(error.to_string())),
        }
    }
    Ok((erased, waiting))
}
