//! The folder of stores: each generation has a folder of its own, and a file names the one in use.
//!
//! ```text
//! DATA/store/current                names the generation in use
//!           /0000000000000003/      a generation: the store's own files, and its checkpoint
//!           /0000000000000002.aside a generation that a start did not trust, kept for inspection, with the reason in WHY
//! ```
//!
//! Promises: a generation is in use from the moment `current` names it, which is one rename. The next start removes whatever else a
//! crash leaves.

use crate::durable::{self, sync_folder};
use crate::engine::open::recovery::read_checkpoint;
use crate::journal::entry::Checkpoint;
use crate::layout;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug)]
pub(in crate::engine) struct StoreFolder {
    folder: PathBuf,
    current: Option<u64>,
    /// The highest number ever used here.
    last: u64,
}

/// One generation's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Generation {
    number: u64,
    /// Its path.
    pub(in crate::engine) path: PathBuf,
}

impl Generation {
    /// The path of its checkpoint.
    pub(in crate::engine) fn checkpoint_path(&self) -> PathBuf {
        self.path.join(layout::CHECKPOINT)
    }

    /// The checkpoint of a store that may be opened. An old checkpoint that does not say how far its store reaches proves
    /// nothing: sled may have taken damage for the end of its log. Such a store is rebuilt once.
    fn checkpoint(&self) -> Result<Checkpoint, String> {
        let checkpoint = read_checkpoint(&self.checkpoint_path()).map_err(|error| error.to_string())?;
        let checkpoint = checkpoint.ok_or("it has no checkpoint that verifies")?;
        if checkpoint.store_reach == 0 {
            return Err(
                "its checkpoint is by an earlier version, and does not say how far the store must reach"
                    .into(),
            );
        }
        Ok(checkpoint)
    }
}

impl StoreFolder {
    /// Opens or creates the folder, and removes what a crash left unfinished.
    pub(in crate::engine) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let named = match fs::read_to_string(folder.join(layout::CURRENT)) {
            Ok(text) => layout::number(text.trim()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                None
            }
            Err(error) => return Err(error),
        };
        let (mut current, mut last) = (None, named.unwrap_or_default());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let aside = layout::number_of(&name, layout::ASIDE);
            let Some(found) = aside.or_else(|| layout::number(&name)) else { continue };
            last = last.max(found);
            if Some(found) == named {
                current = named;
            } else if aside.is_none() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), current, last })
    }

    /// The generation in use.
    pub(in crate::engine) fn current(&self) -> Option<Generation> {
        self.current.map(|number| self.generation(number))
    }

    /// Opens the generation in use. The error says why it must not be used.
    pub(in crate::engine) fn open_current<S, E: std::fmt::Display>(
        &self,
        open: impl FnOnce(&Path) -> Result<S, E>,
    ) -> Result<Option<(S, Checkpoint)>, String> {
        let Some(current) = self.current() else { return Ok(None) };
        let checkpoint = current.checkpoint()?;
        let store = open(&current.path).map_err(|error| error.to_string())?;
        Ok(Some((store, checkpoint)))
    }

    /// Sets the generation in use aside. Gives its new path.
    pub(in crate::engine) fn set_aside(&mut self, why: &str) -> io::Result<Option<PathBuf>> {
        let Some(current) = self.current() else { return Ok(None) };
        let aside = self.set_former_aside(&current, why)?;
        self.current = None;
        Ok(Some(aside))
    }

    /// Sets aside the generation that was in use before.
    pub(in crate::engine) fn set_former_aside(&self, former: &Generation, why: &str) -> io::Result<PathBuf> {
        let aside = former.path.with_extension(layout::ASIDE);
        fs::rename(&former.path, &aside)?;
        fs::write(aside.join(layout::WHY), format!("This store was set aside: {why}. It may be deleted.\n"))?;
        sync_folder(&self.folder)?;
        Ok(aside)
    }

    /// Whether a start would find this generation in use, as far as that can be read.
    pub(in crate::engine) fn names(&self, generation: &Generation) -> bool {
        let named = fs::read_to_string(self.folder.join(layout::CURRENT));
        named.is_ok_and(|named| layout::number(named.trim()) == Some(generation.number))
    }

    /// Removes what was set aside.
    pub(in crate::engine) fn remove_asides(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == layout::ASIDE) {
                fs::remove_dir_all(path)?;
            }
        }
        sync_folder(&self.folder)
    }

    /// A fresh folder for the next generation.
    pub(in crate::engine) fn begin(&mut self) -> io::Result<Generation> {
        self.last += 1;
        let next = self.generation(self.last);
        fs::create_dir(&next.path)?;
        Ok(next)
    }

    /// Makes this generation the one in use.
    pub(in crate::engine) fn adopt(&mut self, next: &Generation) -> io::Result<()> {
        sync_folder(&next.path)?;
        let current = self.folder.join(layout::CURRENT);
        durable::replace(&current, "store-adopt", |file| writeln!(file, "{}", layout::digits(next.number)))?;
        self.current = Some(next.number);
        Ok(())
    }

    fn generation(&self, number: u64) -> Generation {
        Generation { number, path: self.folder.join(layout::digits(number)) }
    }
}

/// The bytes below a folder.
pub(in crate::engine) fn bytes_under(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file may be removed meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_under(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
