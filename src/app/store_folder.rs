//! The folder of stores: each generation in a folder of its own, and a file that names the one in use.
//!
//! ```text
//! DATA/store/current                which generation is used
//!           /0000000000000003/      a generation: the store's own files, the checkpoint that speaks of them, and after
//!                                   a clean stop the seal
//!           /0000000000000002.aside what a start would not trust, kept for inspection, with the file WHY in it
//! ```
//!
//! Promises: a generation counts from the moment `current` names it, which is one rename; whatever else a crash leaves
//! is removed at the next start. A sealed store that is opened is byte for byte what was there when it was closed.

use super::recovery::read_checkpoint;
use crate::durable::{self, sync_folder};
use crate::journal::entry::Checkpoint;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const CURRENT: &str = "current";
const SEAL: &str = "seal";

/// The folder.
#[derive(Debug)]
pub(super) struct StoreFolder {
    folder: PathBuf,
    current: Option<u64>,
    /// The highest number ever used here.
    last: u64,
}

/// One generation's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    number: u64,
    /// Where it is.
    pub(super) path: PathBuf,
}

impl Generation {
    /// Where its checkpoint is.
    pub(super) fn checkpoint_path(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// What may be opened: the checkpoint, if the seal holds where there is one. The seal is broken by this, durably.
    fn unseal(&self) -> Result<Checkpoint, String> {
        let told = |error: io::Error| error.to_string();
        let seal = self.path.join(SEAL);
        match fs::read(&seal) {
            Ok(bytes) => {
                let found = sums(&self.path).map_err(told)?;
                if encode(&found).as_bytes() != bytes {
                    return Err("its files are not what they were when it was closed".into());
                }
                fs::remove_file(&seal).and_then(|()| sync_folder(&self.path)).map_err(told)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
        let checkpoint = read_checkpoint(&self.checkpoint_path()).map_err(told)?;
        checkpoint.ok_or_else(|| "it has no checkpoint that verifies".into())
    }

    /// Notes what its files are, once the store in it is closed.
    pub(super) fn seal(&self) -> io::Result<()> {
        let sums = encode(&sums(&self.path)?);
        durable::replace(&self.path.join(SEAL), "store-seal", |file| file.write_all(sums.as_bytes()))
    }
}

impl StoreFolder {
    /// Opens or makes the folder, and removes what a crash left half-made.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let named = match fs::read_to_string(folder.join(CURRENT)) {
            Ok(text) => number(text.trim()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                None
            }
            Err(error) => return Err(error),
        };
        let (mut current, mut last) = (None, named.unwrap_or_default());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(found) = number(name.strip_suffix(".aside").unwrap_or(&name)) else { continue };
            last = last.max(found);
            if Some(found) == named {
                current = named;
            } else if !name.ends_with(".aside") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), current, last })
    }

    /// The generation in use.
    pub(super) fn current(&self) -> Option<Generation> {
        self.current.map(|number| self.generation(number))
    }

    /// Opens the generation in use; why it may not be used, if it may not.
    pub(super) fn open_current<S, E: std::fmt::Display>(
        &self,
        open: impl FnOnce(&Path) -> Result<S, E>,
    ) -> Result<Option<(S, Checkpoint)>, String> {
        let Some(current) = self.current() else { return Ok(None) };
        let checkpoint = current.unseal()?;
        let store = open(&current.path).map_err(|error| error.to_string())?;
        Ok(Some((store, checkpoint)))
    }

    /// Sets the generation in use aside; gives where it then is.
    pub(super) fn set_aside(&mut self, why: &str) -> io::Result<Option<PathBuf>> {
        let Some(current) = self.current() else { return Ok(None) };
        let aside = current.path.with_extension("aside");
        fs::rename(&current.path, &aside)?;
        self.current = None;
        fs::write(aside.join("WHY"), format!("This store was set aside: {why}. It may be deleted.\n"))?;
        sync_folder(&self.folder)?;
        Ok(Some(aside))
    }

    /// Removes what was set aside.
    pub(super) fn remove_asides(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "aside") {
                fs::remove_dir_all(path)?;
            }
        }
        sync_folder(&self.folder)
    }

    /// A fresh folder for the next generation.
    pub(super) fn begin(&mut self) -> io::Result<Generation> {
        self.last += 1;
        let next = self.generation(self.last);
        fs::create_dir(&next.path)?;
        Ok(next)
    }

    /// Makes this generation the one in use.
    pub(super) fn adopt(&mut self, next: &Generation) -> io::Result<()> {
        sync_folder(&next.path)?;
        let current = self.folder.join(CURRENT);
        durable::replace(&current, "store-adopt", |file| writeln!(file, "{:016x}", next.number))?;
        self.current = Some(next.number);
        Ok(())
    }

    fn generation(&self, number: u64) -> Generation {
        Generation { number, path: self.folder.join(format!("{number:016x}")) }
    }
}

/// The bytes below a folder.
pub(super) fn bytes_under(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A file may go while it is counted.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { bytes_under(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn number(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

/// Length and checksum of each file below a folder, but for the seal itself.
fn sums(folder: &Path) -> io::Result<BTreeMap<String, (u64, u32)>> {
    let mut sums = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    let mut bytes = vec![0; 1 << 20];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with(SEAL) {
                let (mut file, mut length, mut sum) = (File::open(&path)?, 0, 0);
                loop {
                    let read = file.read(&mut bytes)?;
                    if read == 0 {
                        break;
                    }
                    length += read as u64;
                    sum = crc32c::crc32c_append(sum, bytes.get(..read).unwrap_or_default());
                }
                sums.insert(name, (length, sum));
            }
        }
    }
    Ok(sums)
}

fn encode(sums: &BTreeMap<String, (u64, u32)>) -> String {
    sums.iter().map(|(name, (length, sum))| format!("{length} {sum:08x} {name}\n")).collect()
}
