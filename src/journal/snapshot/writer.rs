//! Writing a snapshot.
//!
//! Promises: the file has its name only when it is whole and durable. What is not synced yet is bounded, so that no sync of
//! a journal frame waits behind gigabytes of a snapshot.

use super::block::{
    BLOCK, BLOCK_BYTES, BLOCK_BYTES_MAX, BUFFER_BYTES_KEPT, DATA, FOOT, HEAD, PAIR_LENGTHS_BYTES, Summary,
    VERSION, footer,
};
use super::error::{SnapshotError, Unwritable, failed};
use super::preamble::{PREAMBLE_BYTES, preamble};
use crate::durable::disk::{Disk, DiskPoints, SystemDisk};
use crate::durable::failpoint::Failpoint;
use crate::durable::names::folder_of;
use crate::durable::record::{FrameAddress, random_salt};
use crate::journal::entry::{Checkpoint, encode_checkpoint};
use crate::layout;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::mem;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// How much is written between two syncs.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// The points that a snapshot passes on the system's disk. It reserves nothing and syncs whole files only.
pub(super) static POINTS: DiskPoints = DiskPoints {
    reserve: Failpoint("snapshot-write"),
    write: Failpoint("snapshot-write"),
    write_left_out: None,
    sync_data: Failpoint("snapshot-sync"),
    sync_data_left_out: None,
    data_synced: None,
    sync: Failpoint("snapshot-sync"),
    sync_folder: Failpoint("snapshot-folder-sync"),
    rename: Failpoint("snapshot-rename"),
};

/// A snapshot that is being written. It has another name until it is finished. If it is dropped before that, nothing stays.
pub struct SnapshotWriter {
    path: PathBuf,
    aside: PathBuf,
    file: File,
    disk: Box<dyn Disk>,
    /// Where a block of several pairs ends.
    block_bytes: usize,
    salt: u64,
    /// The next block's number.
    number: u64,
    /// The next block's payload, as far as it is there.
    pub(super) payload: Vec<u8>,
    /// How many bytes the file has.
    written_bytes: u64,
    /// How many of them were written since the last sync.
    unsynced_bytes: u64,
    /// The last key. Keys only rise.
    previous: Vec<u8>,
    /// How many pairs were pushed, and the bytes of their keys and values.
    count: u64,
    bytes: u64,
    digest: Xxh3,
    /// Whether a pair was refused or could not be written. Then the snapshot can't be finished.
    stopped: bool,
    /// Whether the file has its name.
    named: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot that will be called `path`. Until then it is a file beside it with the extension `new`, and replaces
    /// any file of that name.
    pub fn create(path: &Path, checkpoint: &Checkpoint) -> Result<Self, SnapshotError> {
        Self::create_on(Box::new(SystemDisk(&POINTS)), path, checkpoint, random_salt(), BLOCK_BYTES)
    }

    pub(super) fn create_on(
        disk: Box<dyn Disk>,
        path: &Path,
        checkpoint: &Checkpoint,
        salt: u64,
        block_bytes: usize,
    ) -> Result<Self, SnapshotError> {
        let aside = path.with_extension(layout::NEW);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&aside);
        let mut writer = Self {
            path: path.to_owned(),
            file: opened.map_err(failed("create", &aside))?,
            aside,
            disk,
            block_bytes,
            salt,
            number: 0,
            payload: Vec::new(),
            written_bytes: 0,
            unsynced_bytes: 0,
            previous: Vec::new(),
            count: 0,
            bytes: 0,
            digest: Xxh3::new(),
            stopped: false,
            named: false,
        };
        writer.write(&preamble(VERSION, salt))?;
        let offset = (PREAMBLE_BYTES + BLOCK.header_bytes()) as u64;
        encode_checkpoint(checkpoint, &mut writer.payload).map_err(|source| SnapshotError::Checkpoint {
            file: path.to_owned(),
            offset,
            source,
        })?;
        writer.end_block(HEAD)?;
        Ok(writer)
    }

    /// Adds a pair. Its key must be greater than the one before it. Once a pair was refused or could not be written, the
    /// snapshot can't be finished: it would lack that pair.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if self.stopped {
            return Err(self.refused(Unwritable::Stopped));
        }
        let pushed = self.push_pair(key, value);
        self.stopped = pushed.is_err();
        pushed
    }

    fn push_pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if self.count > 0 && key <= self.previous.as_slice() {
            return Err(self.refused(Unwritable::Order { number: self.count }));
        }
        let content = key.len().saturating_add(value.len());
        let bytes = content.saturating_add(PAIR_LENGTHS_BYTES);
        let (Ok(key_length), Ok(value_length), ..=BLOCK_BYTES_MAX) =
            (u32::try_from(key.len()), u32::try_from(value.len()), bytes)
        else {
            return Err(self.refused(Unwritable::TooLong { bytes }));
        };
        if !self.payload.is_empty() && self.payload.len() + bytes > self.block_bytes {
            self.end_block(DATA)?;
        }
        self.payload.extend_from_slice(&key_length.to_le_bytes());
        self.payload.extend_from_slice(key);
        self.payload.extend_from_slice(&value_length.to_le_bytes());
        self.payload.extend_from_slice(value);
        self.previous.clear();
        self.previous.extend_from_slice(key);
        self.count += 1;
        self.bytes += content as u64;
        Ok(())
    }

    /// Writes the footer, makes the file durable and gives it its name. If that fails, the snapshot that had the name keeps
    /// it. There is one exception: if only the folder could not be synced, the new snapshot has the name, perhaps until the
    /// power fails.
    pub fn finish(mut self) -> Result<Summary, SnapshotError> {
        if self.stopped {
            return Err(self.refused(Unwritable::Stopped));
        }
        if !self.payload.is_empty() {
            self.end_block(DATA)?;
        }
        let summary = Summary { count: self.count, bytes: self.bytes, digest: self.digest.digest128() };
        self.payload = footer(&summary);
        self.end_block(FOOT)?;
        self.disk.sync(&self.file).map_err(failed("sync", &self.aside))?;
        self.disk.rename(&self.aside, &self.path).map_err(failed("rename", &self.aside))?;
        self.named = true;
        let folder = folder_of(&self.path);
        let synced = File::open(folder).and_then(|open| self.disk.sync_folder(&open));
        synced.map_err(failed("sync", folder))?;
        Ok(summary)
    }

    /// Writes the payload as a block.
    fn end_block(&mut self, kind: [u8; 4]) -> Result<(), SnapshotError> {
        let mut payload = mem::take(&mut self.payload);
        let bytes = payload.len();
        let Some(header) = BLOCK.header(kind, &payload) else {
            return Err(self.refused(Unwritable::TooLong { bytes }));
        };
        let mut header_bytes = Vec::with_capacity(BLOCK.header_bytes());
        BLOCK.put_header(&header, FrameAddress { salt: self.salt, at: self.number }, &mut header_bytes);
        self.write(&header_bytes)?;
        self.write(&payload)?;
        if kind == DATA {
            self.digest.update(&payload);
        }
        self.number += 1;
        payload.clear();
        payload.shrink_to(BUFFER_BYTES_KEPT);
        self.payload = payload;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.disk.write(&self.file, bytes, self.written_bytes).map_err(failed("write to", &self.aside))?;
        self.written_bytes += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.disk.sync(&self.file).map_err(failed("sync", &self.aside))?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn refused(&self, why: Unwritable) -> SnapshotError {
        SnapshotError::Refused { file: self.path.clone(), why }
    }
}

impl fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is to be written: values are never shown.
        f.debug_struct("SnapshotWriter")
            .field("path", &self.path)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.named {
            // If it can't be removed now, the next writer or the next start removes it.
            drop(fs::remove_file(&self.aside));
        }
    }
}
