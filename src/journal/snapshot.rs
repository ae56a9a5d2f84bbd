//! The snapshot file: all pairs of a store in the order of their keys, behind the checkpoint from which the journal
//! goes on. It knows files and bytes: no store, no threads.
//!
//! Promises:
//! - A file that bears a snapshot's name is whole and on disk: it is written under another name, synced, renamed, and
//!   the folder is synced. What a crash leaves of an unfinished one has the other name, and goes at the next
//!   [`Snapshots::open`].
//! - A reader gives exactly the pairs that were written, in their order, and then says so, or an error that names the
//!   file, the byte and what is wrong there. What it gave before the error is true as far as it goes, but it is not
//!   the snapshot: only the `None` at the end says that nothing is missing.
//! - No length is believed before its checksum is, no bytes make a reader panic, and it holds one block at a time.
//!
//! # Format
//!
//! Numbers are little-endian. The file begins, in this and every later version, with
//!
//! | bytes | preamble |
//! | --- | --- |
//! | 8 | `profSnap` |
//! | 4 | format version, 1 |
//! | 8 | salt: random, so that no block of another snapshot is taken for one of this |
//! | 4 | CRC-32C of the twenty bytes before |
//!
//! Blocks follow each other without gaps, numbered from 0: one `head`, any number of `data`, one `foot`, and the file
//! ends.
//!
//! | bytes | block |
//! | --- | --- |
//! | 4 | `head`, `data` or `foot` |
//! | 4 | length of the payload |
//! | 4 | CRC-32C of the payload |
//! | 4 | CRC-32C of the salt, the block's number (8 bytes each) and the twelve bytes before this |
//! | … | payload |
//!
//! - `head`: the [`Checkpoint`], as [`encode_checkpoint`] does it.
//! - `data`: whole pairs, each the key's length (4), the key, the value's length (4), the value. The keys ascend, in a
//!   block and from block to block. A block has at most 64 KiB, or one pair that is longer.
//! - `foot`: how many pairs there are (8), the bytes of their keys and values (8), and the 128-bit XXH3 of all `data`
//!   payloads in a row (16). Where one block ends and the next begins does not change it: it depends on the pairs
//!   alone.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::entry::{Checkpoint, decode_checkpoint, encode_checkpoint};
use crate::durable::point;
use crate::model::codec::CodecError;
use crc32c::{crc32c, crc32c_append};
use xxhash_rust::xxh3::Xxh3;

/// The longest payload of a block, in bytes. Far above any value and any checkpoint; it bounds what a reader has to
/// hold.
pub const BLOCK_BYTES_MAX: usize = 1 << 30;

/// What a snapshot is called that turned out damaged.
const DAMAGED: &str = "damaged";
const MAGIC: [u8; 8] = *b"profSnap";
const VERSION: u32 = 1;
const PREAMBLE_BYTES: usize = 24;
const BLOCK_HEADER_BYTES: usize = 16;
const FOOTER_BYTES: usize = 32;
/// What a pair takes besides its key and value.
const PAIR_LENGTHS_BYTES: usize = 8;

const HEAD: [u8; 4] = *b"head";
const DATA: [u8; 4] = *b"data";
const FOOT: [u8; 4] = *b"foot";

/// Where a block of several pairs ends: large enough that its header and its two system calls don't matter.
const BLOCK_BYTES: usize = 64 << 10;
/// What a writer's buffer keeps after a block that needed more.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// How much is written between two syncs, so that no journal frame's sync has to wait for gigabytes of a snapshot.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// A key and its value.
pub type Pair<'r> = (&'r [u8], &'r [u8]);

/// What is in a snapshot, besides its checkpoint: two with the same pairs have the same summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many pairs.
    pub count: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// 128-bit XXH3 of the pairs in their order, each key and value behind its length.
    pub digest: u128,
}

/// Why a snapshot can't be written, read, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused something.
    #[error("could not {action} {}: {source}", file.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not what was once written.
    #[error("the snapshot {} is damaged at byte {offset}: {damage}", file.display())]
    Damaged {
        /// The snapshot.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// Written by another version of this program.
    #[error("the snapshot {} has format version {found} (byte 8); this program reads version {VERSION}", file.display())]
    Version {
        /// The snapshot.
        file: PathBuf,
        /// The version in its preamble.
        found: u32,
    },
    /// The checkpoint can't be written or read.
    #[error("the checkpoint at byte {offset} of the snapshot {}: {source}", file.display())]
    Checkpoint {
        /// The snapshot.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong: perhaps it is a later program's.
        source: CodecError,
    },
    /// The writer was asked for what no snapshot can hold. It writes nothing more.
    #[error("the snapshot {} is not written: {refusal}", file.display())]
    Refused {
        /// The snapshot that was to be.
        file: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

/// What is wrong with a snapshot's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is too short.
    #[error("what begins there is cut off, for the file ends at byte {length}")]
    Truncated {
        /// The file's length.
        length: u64,
    },
    /// It does not begin as every snapshot does.
    #[error("there is no {:?}, so it is no snapshot", str::from_utf8(&MAGIC).unwrap_or_default())]
    Magic,
    /// The version or the salt is not what was written.
    #[error("the preamble does not match its checksum")]
    Preamble,
    /// The block's header is not what was written, or is another block's.
    #[error("the header of block {number} does not match its checksum")]
    BlockHeader {
        /// The number that the block there should have.
        number: u64,
    },
    /// The block's payload is not what was written.
    #[error("the payload of block {number} does not match its checksum")]
    BlockPayload {
        /// The block's number.
        number: u64,
    },
    /// A block that is valid by itself stands where its kind does not belong.
    #[error("block {number} is of a kind that does not belong there")]
    Kind {
        /// The block's number.
        number: u64,
    },
    /// The payload of a block is not made of whole pairs.
    #[error("the block ends inside a pair")]
    Pair,
    /// The keys don't ascend.
    #[error("the key there is not greater than the one before it")]
    Order,
    /// The footer is not as long as it should be.
    #[error("the footer has {found} bytes instead of {FOOTER_BYTES}")]
    Footer {
        /// How long it is.
        found: usize,
    },
    /// Pairs are missing, or there are too many.
    #[error("by the footer there are {stated} pairs, but {found} were read")]
    Count {
        /// By the footer.
        stated: u64,
        /// As read.
        found: u64,
    },
    /// Keys and values are not as long as they should be together.
    #[error("by the footer the keys and values have {stated} bytes, but {found} were read")]
    Bytes {
        /// By the footer.
        stated: u64,
        /// As read.
        found: u64,
    },
    /// The pairs are not the ones that were written.
    #[error("by the footer the pairs have the digest {stated:032x}, but what was read has {found:032x}")]
    Digest {
        /// By the footer.
        stated: u128,
        /// As read.
        found: u128,
    },
    /// The file goes on behind the footer.
    #[error("the snapshot ends there, but {bytes} bytes follow")]
    Trailing {
        /// How many bytes follow.
        bytes: u64,
    },
}

/// Why a writer refused a pair, or to finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key is not greater than the one before it.
    #[error("the key of pair {number}, counted from 0, is not greater than the one before it")]
    Order {
        /// How many pairs came before.
        number: u64,
    },
    /// A block can't hold that much.
    #[error("{bytes} bytes are too many for a block: at most {BLOCK_BYTES_MAX} are allowed")]
    TooLong {
        /// What the payload would have.
        bytes: usize,
    },
    /// An earlier pair was refused, or could not be written.
    #[error("an earlier pair was refused or could not be written")]
    Stopped,
}

/// A snapshot that is being written, under another name until it is finished. Dropped before that, it leaves nothing.
pub struct SnapshotWriter {
    path: PathBuf,
    aside: PathBuf,
    file: File,
    disk: Box<dyn Disk>,
    block_bytes: usize,
    salt: u64,
    /// The next block's number, and as much of its payload as there is.
    number: u64,
    payload: Vec<u8>,
    unsynced_bytes: u64,
    previous: Vec<u8>,
    count: u64,
    bytes: u64,
    digest: Xxh3,
    stopped: bool,
    named: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot that will be called `path`, in a file beside it with the extension `new`; replaces what is
    /// there under that other name.
    pub fn create(path: &Path, checkpoint: &Checkpoint) -> Result<Self, SnapshotError> {
        Self::create_on(Box::new(SystemDisk), path, checkpoint, random(), BLOCK_BYTES)
    }

    fn create_on(
        disk: Box<dyn Disk>,
        path: &Path,
        checkpoint: &Checkpoint,
        salt: u64,
        block_bytes: usize,
    ) -> Result<Self, SnapshotError> {
        let aside = path.with_extension("new");
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
            unsynced_bytes: 0,
            previous: Vec::new(),
            count: 0,
            bytes: 0,
            digest: Xxh3::new(),
            stopped: false,
            named: false,
        };
        writer.write(&preamble(VERSION, salt))?;
        let offset = (PREAMBLE_BYTES + BLOCK_HEADER_BYTES) as u64;
        encode_checkpoint(checkpoint, &mut writer.payload).map_err(|source| SnapshotError::Checkpoint {
            file: path.to_owned(),
            offset,
            source,
        })?;
        writer.end_block(HEAD)?;
        Ok(writer)
    }

    /// Adds a pair. Its key must be greater than the one before it. Once a pair was refused or could not be written
    /// the snapshot can't be finished any more: it would lack that pair.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if self.stopped {
            return Err(self.refused(Refusal::Stopped));
        }
        let pushed = self.push_pair(key, value);
        self.stopped = pushed.is_err();
        pushed
    }

    fn push_pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if self.count > 0 && key <= self.previous.as_slice() {
            return Err(self.refused(Refusal::Order { number: self.count }));
        }
        let content = key.len().saturating_add(value.len());
        let bytes = content.saturating_add(PAIR_LENGTHS_BYTES);
        let (Ok(key_length), Ok(value_length), ..=BLOCK_BYTES_MAX) =
            (u32::try_from(key.len()), u32::try_from(value.len()), bytes)
        else {
            return Err(self.refused(Refusal::TooLong { bytes }));
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

    /// Writes the footer, makes the file durable and gives it its name. If that fails, what had the name before still
    /// has it; but if it was the folder that could not be synced, the new one has it, perhaps until the power fails.
    pub fn finish(mut self) -> Result<Summary, SnapshotError> {
        if self.stopped {
            return Err(self.refused(Refusal::Stopped));
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
        self.disk.sync_folder(folder).map_err(failed("sync", folder))?;
        Ok(summary)
    }

    /// Writes the payload as a block.
    fn end_block(&mut self, kind: [u8; 4]) -> Result<(), SnapshotError> {
        let mut payload = mem::take(&mut self.payload);
        let bytes = payload.len();
        let (Ok(length), ..=BLOCK_BYTES_MAX) = (u32::try_from(bytes), bytes) else {
            return Err(self.refused(Refusal::TooLong { bytes }));
        };
        let header = BlockHeader { kind, length, sum: crc32c(&payload) };
        self.write(&header.encode(self.salt, self.number))?;
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
        self.disk.write(&self.file, bytes).map_err(failed("write to", &self.aside))?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.disk.sync(&self.file).map_err(failed("sync", &self.aside))?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn refused(&self, refusal: Refusal) -> SnapshotError {
        SnapshotError::Refused { file: self.path.clone(), refusal }
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
            // If it can't be removed, the next writer or the next start will do it.
            drop(fs::remove_file(&self.aside));
        }
    }
}

/// A snapshot that is being read.
pub struct SnapshotReader {
    blocks: Blocks,
    checkpoint: Checkpoint,
    /// Where in the block's payload the next pair begins.
    place: usize,
    previous: Vec<u8>,
    count: u64,
    bytes: u64,
    /// Of the blocks so far.
    digest: Xxh3,
    summary: Option<Summary>,
}

impl SnapshotReader {
    /// Opens a snapshot, and reads its checkpoint.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let mut blocks = Blocks::open(path)?;
        if blocks.read()? != HEAD {
            return Err(blocks.damaged(Damage::Kind { number: blocks.number }));
        }
        let offset = blocks.payload_offset();
        let checkpoint = decode_checkpoint(&blocks.payload).map_err(|source| SnapshotError::Checkpoint {
            file: blocks.path.clone(),
            offset,
            source,
        })?;
        blocks.advance();
        let place = blocks.payload.len();
        let (previous, digest) = (Vec::new(), Xxh3::new());
        Ok(Self { blocks, checkpoint, place, previous, count: 0, bytes: 0, digest, summary: None })
    }

    /// From where the journal goes on.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The next key and its value; `None` when there are no more and all of the file was found to be as written.
    /// After an error there is no way on.
    pub fn next_pair(&mut self) -> Result<Option<Pair<'_>>, SnapshotError> {
        while self.place >= self.blocks.payload.len() {
            if self.summary.is_some() {
                return Ok(None);
            }
            self.next_block()?;
        }
        let mut rest = self.blocks.payload.get(self.place..).unwrap_or_default();
        let pair = take_bytes(&mut rest).and_then(|key| Some((key, take_bytes(&mut rest)?)));
        let Some((key, value)) = pair else { return Err(self.damaged_pair(Damage::Pair)) };
        if self.count > 0 && key <= self.previous.as_slice() {
            return Err(self.damaged_pair(Damage::Order));
        }
        self.place = self.blocks.payload.len() - rest.len();
        self.previous.clear();
        self.previous.extend_from_slice(key);
        self.count += 1;
        self.bytes += key.len() as u64 + value.len() as u64;
        Ok(Some((key, value)))
    }

    /// What is in the snapshot, once [`next_pair`](Self::next_pair) has given `None`.
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Reads on to the end: the checkpoint, and what is in the snapshot altogether.
    pub fn finish(mut self) -> Result<(Checkpoint, Summary), SnapshotError> {
        loop {
            if let Some(summary) = self.summary {
                return Ok((self.checkpoint, summary));
            }
            self.next_pair()?;
        }
    }

    /// Goes on to the next block. If that is not valid, nothing has changed, but that no pairs are left.
    fn next_block(&mut self) -> Result<(), SnapshotError> {
        self.place = 0;
        let kind = self.blocks.read()?;
        self.place = self.blocks.payload.len();
        match kind {
            DATA => {
                self.digest.update(&self.blocks.payload);
                self.place = 0;
            }
            FOOT => self.summary = Some(self.footer()?),
            _ => return Err(self.blocks.damaged(Damage::Kind { number: self.blocks.number })),
        }
        self.blocks.advance();
        Ok(())
    }

    /// The summary by the footer, if it is that of what was read, and the file ends.
    fn footer(&self) -> Result<Summary, SnapshotError> {
        let found = Summary { count: self.count, bytes: self.bytes, digest: self.digest.digest128() };
        let payload = &self.blocks.payload;
        let damage = match parse_footer(payload) {
            None => Damage::Footer { found: payload.len() },
            Some(Summary { count, .. }) if count != found.count => {
                Damage::Count { stated: count, found: found.count }
            }
            Some(Summary { bytes, .. }) if bytes != found.bytes => {
                Damage::Bytes { stated: bytes, found: found.bytes }
            }
            Some(Summary { digest, .. }) if digest != found.digest => {
                Damage::Digest { stated: digest, found: found.digest }
            }
            Some(_) => {
                let end = self.blocks.payload_offset() + payload.len() as u64;
                return match self.blocks.length.saturating_sub(end) {
                    0 => Ok(found),
                    bytes => Err(self.blocks.damaged_at(end, Damage::Trailing { bytes })),
                };
            }
        };
        Err(self.blocks.damaged(damage))
    }

    /// An error in the block that was taken last, at the pair where reading stopped.
    fn damaged_pair(&self, damage: Damage) -> SnapshotError {
        let unread = self.blocks.payload.len().saturating_sub(self.place);
        self.blocks.damaged_at(self.blocks.offset - unread as u64, damage)
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the block: values are never shown.
        f.debug_struct("SnapshotReader")
            .field("path", &self.blocks.path)
            .field("offset", &self.blocks.offset)
            .finish_non_exhaustive()
    }
}

/// Reads all of a snapshot: its checkpoint, and what else is in it, or what is wrong.
pub fn verify(path: &Path) -> Result<(Checkpoint, Summary), SnapshotError> {
    SnapshotReader::open(path)?.finish()
}

/// The folder of the snapshots, which are called by number: `{number:016x}.snap`. A greater number is a newer one.
///
/// Nothing here keeps a second process from opening the same folder; whoever owns the data folder locks it.
#[derive(Debug, Clone)]
pub struct Snapshots {
    folder: PathBuf,
}

impl Snapshots {
    /// Opens the folder, or makes it in one that is there, and removes what was left unfinished: so there must be no
    /// writer in it.
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        match fs::create_dir(folder) {
            Ok(()) => {
                let parent = folder_of(folder);
                SystemDisk.sync_folder(parent).map_err(failed("sync", parent))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create", folder)(error)),
        }
        let snapshots = Self { folder: folder.to_owned() };
        for number in snapshots.numbers(".new")? {
            let path = snapshots.path_of(number).with_extension("new");
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        Ok(snapshots)
    }

    /// The snapshots and their numbers, newest first. Other files are passed over.
    pub fn list(&self) -> Result<Vec<(PathBuf, u64)>, SnapshotError> {
        let mut numbers = self.numbers(".snap")?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers.into_iter().map(|number| (self.path_of(number), number)).collect())
    }

    /// Calls one that is damaged otherwise, so that nobody counts on it.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, SnapshotError> {
        let aside = path.with_extension(DAMAGED);
        fs::rename(path, &aside).map_err(failed("rename", path))?;
        Ok(aside)
    }

    /// Removes what was set aside.
    pub fn remove_damaged(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == DAMAGED) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// What the next snapshot is to be called: newer than all there are.
    pub fn next_path(&self) -> Result<PathBuf, SnapshotError> {
        let number = match self.numbers(".snap")?.into_iter().max() {
            None => Some(0),
            Some(last) => last.checked_add(1),
        };
        let none_left =
            || failed("number another snapshot in", &self.folder)(io::ErrorKind::Unsupported.into());
        number.map(|number| self.path_of(number)).ok_or_else(none_left)
    }

    /// Where the snapshot of this number is, or would be.
    pub fn path_of(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}.snap"))
    }

    /// Removes a snapshot, durably.
    pub fn remove(&self, number: u64) -> Result<(), SnapshotError> {
        let path = self.path_of(number);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        SystemDisk.sync_folder(&self.folder).map_err(failed("sync", &self.folder))
    }

    /// The numbers of the files with this ending, in no order.
    fn numbers(&self, suffix: &str) -> Result<Vec<u64>, SnapshotError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let name = entry.map_err(failed("list", &self.folder))?.file_name();
            numbers.extend(name.to_str().and_then(|name| number_in(name, suffix)));
        }
        Ok(numbers)
    }
}

/// The number in a name such as `000000000000002a.snap`.
fn number_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// The folder that a file's name is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The blocks of a snapshot, one after the other.
struct Blocks {
    path: PathBuf,
    file: File,
    length: u64,
    salt: u64,
    /// The number and the place of the next block, or of the one being read until it is advanced from.
    number: u64,
    offset: u64,
    /// Of the block that was read last; empty if it was not valid.
    payload: Vec<u8>,
}

impl Blocks {
    fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let length = file.metadata().map_err(failed("look at", path))?.len();
        let mut blocks =
            Self { path: path.to_owned(), file, length, salt: 0, number: 0, offset: 0, payload: Vec::new() };
        let mut preamble = [0; PREAMBLE_BYTES];
        blocks.fill(0, &mut preamble)?;
        let (version, salt) = parse_preamble(&preamble).map_err(|damage| blocks.damaged(damage))?;
        if version != VERSION {
            return Err(SnapshotError::Version { file: blocks.path, found: version });
        }
        blocks.salt = salt;
        blocks.offset = PREAMBLE_BYTES as u64;
        Ok(blocks)
    }

    /// Reads the block at the offset, and gives its kind. It stays the next one until it is advanced from.
    fn read(&mut self) -> Result<[u8; 4], SnapshotError> {
        self.payload = Vec::new();
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.fill(self.offset, &mut header)?;
        let header = BlockHeader::decode(&header, self.salt, self.number)
            .ok_or_else(|| self.damaged(Damage::BlockHeader { number: self.number }))?;
        // Before there is memory for it.
        if u64::from(header.length) > self.length.saturating_sub(self.payload_offset()) {
            return Err(self.damaged(Damage::Truncated { length: self.length }));
        }
        let mut payload = vec![0; size(header.length)];
        self.fill(self.payload_offset(), &mut payload)?;
        if crc32c(&payload) != header.sum {
            return Err(self.damaged(Damage::BlockPayload { number: self.number }));
        }
        self.payload = payload;
        Ok(header.kind)
    }

    /// Makes the block behind the one just read the next.
    fn advance(&mut self) {
        self.number += 1;
        self.offset = self.payload_offset() + self.payload.len() as u64;
    }

    /// Where the payload of the block at the offset begins.
    fn payload_offset(&self) -> u64 {
        self.offset + BLOCK_HEADER_BYTES as u64
    }

    fn fill(&self, offset: u64, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        if bytes.len() as u64 > self.length.saturating_sub(offset) {
            return Err(self.damaged(Damage::Truncated { length: self.length }));
        }
        self.file.read_exact_at(bytes, offset).map_err(failed("read", &self.path))
    }

    fn damaged(&self, damage: Damage) -> SnapshotError {
        self.damaged_at(self.offset, damage)
    }

    fn damaged_at(&self, offset: u64, damage: Damage) -> SnapshotError {
        SnapshotError::Damaged { file: self.path.clone(), offset, damage }
    }
}

/// What is said of a block before its payload.
struct BlockHeader {
    kind: [u8; 4],
    length: u32,
    sum: u32,
}

impl BlockHeader {
    fn encode(&self, salt: u64, number: u64) -> Vec<u8> {
        let check = self.check(salt, number);
        [self.kind, self.length.to_le_bytes(), self.sum.to_le_bytes(), check.to_le_bytes()].concat()
    }

    /// What these bytes say, if they are the header of the block with this number.
    fn decode(mut bytes: &[u8], salt: u64, number: u64) -> Option<Self> {
        let header =
            Self { kind: *take(&mut bytes)?, length: take_u32(&mut bytes)?, sum: take_u32(&mut bytes)? };
        let valid =
            take_u32(&mut bytes)? == header.check(salt, number) && size(header.length) <= BLOCK_BYTES_MAX;
        valid.then_some(header)
    }

    fn check(&self, salt: u64, number: u64) -> u32 {
        let check = crc32c_append(crc32c(&salt.to_le_bytes()), &number.to_le_bytes());
        let check = crc32c_append(crc32c_append(check, &self.kind), &self.length.to_le_bytes());
        crc32c_append(check, &self.sum.to_le_bytes())
    }
}

fn preamble(version: u32, salt: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&salt.to_le_bytes());
    let sum = crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Version and salt.
fn parse_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(u32, u64), Damage> {
    let mut rest = bytes.strip_prefix(&MAGIC).ok_or(Damage::Magic)?;
    let parsed = take_u32(&mut rest).zip(take_u64(&mut rest));
    match parsed {
        Some((version, salt)) if preamble(version, salt) == bytes => Ok((version, salt)),
        _ => Err(Damage::Preamble),
    }
}

fn footer(summary: &Summary) -> Vec<u8> {
    let Summary { count, bytes, digest } = summary;
    [&count.to_le_bytes()[..], &bytes.to_le_bytes(), &digest.to_le_bytes()].concat()
}

fn parse_footer(mut bytes: &[u8]) -> Option<Summary> {
    let bytes = &mut bytes;
    let (count, total, digest) = (take_u64(bytes)?, take_u64(bytes)?, take(bytes)?);
    let summary = Summary { count, bytes: total, digest: u128::from_le_bytes(*digest) };
    bytes.is_empty().then_some(summary)
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(|taken| u32::from_le_bytes(*taken))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(|taken| u64::from_le_bytes(*taken))
}

/// Bytes behind their length.
fn take_bytes<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = take_u32(bytes)?;
    let (taken, rest) = bytes.split_at_checked(size(length))?;
    *bytes = rest;
    Some(taken)
}

/// A number of bytes to hold in memory: at most a block's.
fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// 64 bits from the randomness that the standard library seeds its hash maps with.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a writer asks of a disk. Tests put others in its place: slow syncs left out, and faults.
trait Disk: fmt::Debug + Send {
    /// Writes behind what was written before.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

#[derive(Debug)]
struct SystemDisk;

impl Disk for SystemDisk {
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        point("snapshot-write")?;
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        point("snapshot-sync")?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        point("snapshot-rename")?;
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        point("snapshot-folder-sync")?;
        File::open(folder)?.sync_all()
    }
}

fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { action, file: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{BatchAcceptedEntry, BatchCompletedEntry, KnownBatch};
    use super::*;
    use proptest::prelude::*;
    use rustix::io::Errno;
    use std::sync::{Arc, Mutex};
    use tempfile::TempDir;

    /// Writes for real but never syncs, and fails at one kind of operation, half-way through it, once told to.
    #[derive(Debug, Clone, Default)]
    struct Faulty(Arc<Mutex<Option<(&'static str, Errno)>>>);

    impl Faulty {
        fn set(&self, fault: Option<(&'static str, Errno)>) {
            *self.0.lock().unwrap() = fault;
        }
        fn fails_at(&self, operation: &str) -> io::Result<()> {
            match *self.0.lock().unwrap() {
                Some((at, error)) if at == operation => Err(error.into()),
                _ => Ok(()),
            }
        }
    }

    impl Disk for Faulty {
        fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
            let half = &bytes[..bytes.len() / 2];
            self.fails_at("write").inspect_err(|_| file.write_all(half).unwrap())?;
            file.write_all(bytes)
        }
        fn sync(&self, _: &File) -> io::Result<()> {
            self.fails_at("sync")
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.fails_at("rename")?;
            fs::rename(from, to)
        }
        fn sync_folder(&self, _: &Path) -> io::Result<()> {
            self.fails_at("sync folder")
        }
    }

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    const SALT: u64 = 7;
    const SMALL: usize = 4 << 10;

    /// Failpoints hold for the whole process: while this is kept, no other test here has any set.
    fn healthy() -> fail::FailScenario<'static> {
        fail::FailScenario::setup()
    }

    fn batch(seq: u64) -> KnownBatch {
        let accepted = BatchAcceptedEntry {
            client: "acme".into(),
            seq,
            spool: seq,
            bytes: 1234,
            crc32c: Some(99),
            rows: 56,
            v2: seq > 3,
            key_kind: 1,
            creates: true,
            replaces: false,
            removes: true,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 64 << 10,
            key: None,
            reading: 1,
            blocked_ids: Some(vec!["void".into()]),
        };
        let completed = BatchCompletedEntry { seq, counts: Default::default(), at_ms: 99, store_reach: 0 };
        KnownBatch { position: (1, 48), accepted, completed: (seq > 3).then_some(completed) }
    }

    fn checkpoint() -> Checkpoint {
        let incomplete = vec![batch(3), batch(4)];
        Checkpoint { position: (3, 4096), last_seq: 77, incomplete, ..Checkpoint::default() }
    }

    /// Keys of different lengths, and values of these.
    fn pairs(lengths: &[usize]) -> Pairs {
        let key = |n: usize| format!("key{n:05}{}", "x".repeat(n % 7)).into_bytes();
        let value =
            |n, length| (0..length).map(|at| u8::try_from((at * 31 + n * 7) % 251).unwrap()).collect();
        lengths.iter().enumerate().map(|(n, &length)| (key(n), value(n, length))).collect()
    }

    /// About 64 KB in many blocks, one of them a long pair's.
    fn sample() -> Pairs {
        let mut lengths = [300, 0, 2700, 1500, 90].repeat(13);
        lengths[50] = 9000;
        pairs(&lengths)
    }

    fn write(path: &Path, pairs: &Pairs, block_bytes: usize, salt: u64) -> Summary {
        let disk = Box::new(Faulty::default());
        let mut writer = SnapshotWriter::create_on(disk, path, &checkpoint(), salt, block_bytes).unwrap();
        for (key, value) in pairs {
            writer.push(key, value).unwrap();
        }
        writer.finish().unwrap()
    }

    /// What comes of reading: the pairs as far as they go, and how it ends.
    fn read(path: &Path) -> (Pairs, Result<(Checkpoint, Summary), SnapshotError>) {
        let mut seen = Vec::new();
        let mut reader = match SnapshotReader::open(path) {
            Ok(reader) => reader,
            Err(error) => return (seen, Err(error)),
        };
        loop {
            match reader.next_pair() {
                Ok(Some((key, value))) => seen.push((key.to_vec(), value.to_vec())),
                Ok(None) => return (seen, reader.finish()),
                Err(error) => {
                    let again = reader.next_pair().unwrap_err();
                    assert_eq!(again.to_string(), error.to_string(), "there is no way on after an error");
                    assert_eq!(reader.summary(), None);
                    return (seen, Err(error));
                }
            }
        }
    }

    /// Counts, lengths and digest, made of the pairs in the plainest way.
    fn summary_of(pairs: &Pairs) -> Summary {
        let mut row = Vec::new();
        for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
            row.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            row.extend_from_slice(part);
        }
        Summary {
            count: pairs.len() as u64,
            bytes: (row.len() - 8 * pairs.len()) as u64,
            digest: xxhash_rust::xxh3::xxh3_128(&row),
        }
    }

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }
        fn path(&self) -> PathBuf {
            self.0.path().join("a.snap")
        }
        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.0.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    /// A file of these blocks, numbered and summed as they should be.
    fn forged(blocks: &[([u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut bytes = preamble(VERSION, SALT);
        for (number, (kind, payload)) in (0..).zip(blocks) {
            let length = u32::try_from(payload.len()).unwrap();
            let header = BlockHeader { kind: *kind, length, sum: crc32c(payload) };
            bytes.extend(header.encode(SALT, number));
            bytes.extend(payload);
        }
        bytes
    }

    fn head() -> ([u8; 4], Vec<u8>) {
        let mut payload = Vec::new();
        encode_checkpoint(&checkpoint(), &mut payload).unwrap();
        (HEAD, payload)
    }

    fn data(pairs: &[(&str, &str)]) -> ([u8; 4], Vec<u8>) {
        let mut payload = Vec::new();
        for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
            payload.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(part.as_bytes());
        }
        (DATA, payload)
    }

    #[test]
    fn what_was_written_reads_back() {
        #[track_caller]
        fn check(pairs: &Pairs, block_bytes: usize, blocks: u64) {
            let folder = Folder::new();
            let expected = summary_of(pairs);
            assert_eq!(write(&folder.path(), pairs, block_bytes, SALT), expected);
            let (seen, end) = read(&folder.path());
            assert!(seen == *pairs, "{} of {} pairs", seen.len(), pairs.len());
            assert_eq!(end.unwrap(), (checkpoint(), expected));
            assert_eq!(verify(&folder.path()).unwrap(), (checkpoint(), expected));
            let mut reader = SnapshotReader::open(&folder.path()).unwrap();
            while reader.next_pair().unwrap().is_some() {}
            assert_eq!(reader.next_pair().unwrap(), None);
            assert_eq!(reader.summary(), Some(expected));
            assert_eq!(reader.blocks.number, blocks + 2, "with its head and foot, {block_bytes}");
            assert_eq!(folder.names(), ["a.snap"]);
        }
        check(&vec![], BLOCK_BYTES, 0);
        check(&pairs(&[0]), BLOCK_BYTES, 1);
        check(&pairs(&[40]), BLOCK_BYTES, 1);
        check(&vec![(vec![], vec![]), (vec![0], vec![]), (vec![0, 0], vec![1])], BLOCK_BYTES, 1);
        check(&pairs(&[10; 20]), BLOCK_BYTES, 1);
        check(&pairs(&[10; 20]), 1, 20);
        check(&pairs(&[BLOCK_BYTES - 16, 0]), BLOCK_BYTES, 2);
        check(&pairs(&[BLOCK_BYTES]), BLOCK_BYTES, 1);
        check(&pairs(&[5, 3 << 20, 5, 5, 4 << 20, 200 << 10]), BLOCK_BYTES, 5);
        check(&pairs(&[1000; 3000]), BLOCK_BYTES, 47);
        check(&sample(), SMALL, 27);
    }

    #[test]
    fn the_digest_depends_on_the_pairs_alone() {
        let folder = Folder::new();
        let whole = write(&folder.path(), &sample(), BLOCK_BYTES, 1);
        assert_eq!(write(&folder.path(), &sample(), SMALL, 2), whole);
        let digest = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
            write(&folder.path(), &owned.collect(), SMALL, 2).digest
        };
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", ""), ("b", "")]), digest(&[("a", "b")]));
    }

    #[test]
    fn the_layout_is_as_described() {
        let _healthy = healthy();
        let folder = Folder::new();
        let made = || {
            SnapshotWriter::create_on(
                Box::new(SystemDisk),
                &folder.path(),
                &Checkpoint::default(),
                SALT,
                SMALL,
            )
        };
        let mut writer = made().unwrap();
        writer.push(b"key", b"value").unwrap();
        writer.finish().unwrap();
        let bytes = fs::read(folder.path()).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&bytes),
            "70726f66536e617001000000070000000000000012339e6d6865616408000000c04d09e40360ac9e0500000000000000646174611000000033f5bf7eeafb9a91030000006b65790500000076616c7565666f6f7420000000e7602b2caa43aeaf01000000000000000800000000000000b6406de965c8f8ba8c7a34a624c725a1",
            "a layout that changes needs a new version"
        );
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        let folder = Folder::new();
        let sample = sample();
        write(&folder.path(), &sample, SMALL, SALT);
        let file = OpenOptions::new().write(true).open(folder.path()).unwrap();
        let length = file.metadata().unwrap().len();
        assert!((60_000..80_000).contains(&length), "{length}");
        for cut in (0..length).rev() {
            file.set_len(cut).unwrap();
            let (seen, end) = read(&folder.path());
            assert!(sample.starts_with(&seen), "cut at {cut}");
            let damage = match end {
                Err(SnapshotError::Damaged { damage, offset, .. }) if offset <= cut => damage,
                end => panic!("cut at {cut}: {end:?}"),
            };
            assert_eq!(damage, Damage::Truncated { length: cut });
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_is_refused() {
        let folder = Folder::new();
        let sample = sample();
        write(&folder.path(), &sample, SMALL, SALT);
        let bytes = fs::read(folder.path()).unwrap();
        let file = OpenOptions::new().write(true).open(folder.path()).unwrap();
        for (at, &byte) in (0..).zip(&bytes) {
            // Each bit in turn, and all of them.
            let change = if at % 9 == 8 { 0xff } else { 1 << (at % 9) };
            file.write_all_at(&[byte ^ change], at).unwrap();
            let (seen, end) = read(&folder.path());
            assert!(sample.starts_with(&seen), "changed at {at}");
            match end {
                Err(SnapshotError::Damaged { offset, .. }) => {
                    assert!(offset <= at, "{offset} is behind {at}")
                }
                end => panic!("changed at {at}: {end:?}"),
            }
            file.write_all_at(&[byte], at).unwrap();
        }
        assert_eq!(fs::read(folder.path()).unwrap(), bytes);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        #[track_caller]
        fn check(bytes: &[u8], expected: &str) {
            let folder = Folder::new();
            fs::write(folder.path(), bytes).unwrap();
            let message = read(&folder.path()).1.unwrap_err().to_string();
            let expected = expected.replace("FILE", folder.path().to_str().unwrap());
            assert!(message.starts_with(&expected), "{message}\nis not\n{expected}");
            assert_eq!(verify(&folder.path()).unwrap_err().to_string(), message);
        }
        let foot = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
            (FOOT, footer(&summary_of(&owned.collect())))
        };
        let head_end = 24 + 16 + head().1.len();
        let at = |offset: usize, rest: &str| format!("the snapshot FILE is damaged at byte {offset}: {rest}");
        let (a, b) = (("a", "1"), ("b", "2"));
        let good = forged(&[head(), data(&[a, b]), foot(&[a, b])]);
        let changed = |place: usize| {
            let mut bytes = good.clone();
            bytes[place] ^= 1;
            bytes
        };
        check(b"", &at(0, "what begins there is cut off, for the file ends at byte 0"));
        check(&good[..23], &at(0, "what begins there is cut off, for the file ends at byte 23"));
        check(&good[..24], &at(24, "what begins there is cut off, for the file ends at byte 24"));
        check(&good[..head_end + 30], &at(head_end, "what begins there is cut off"));
        check(&changed(0), &at(0, "there is no \"profSnap\", so it is no snapshot"));
        check(&changed(8), &at(0, "the preamble does not match its checksum"));
        check(&changed(12), &at(0, "the preamble does not match its checksum"));
        check(&changed(24), &at(24, "the header of block 0 does not match its checksum"));
        check(&changed(40), &at(24, "the payload of block 0 does not match its checksum"));
        check(&changed(head_end + 4), &at(head_end, "the header of block 1 does not match its checksum"));
        check(&changed(head_end + 16), &at(head_end, "the payload of block 1 does not match its checksum"));
        check(&changed(good.len() - 1), &at(head_end + 36, "the payload of block 2 does not match"));
        check(
            &[preamble(2, SALT), good[24..].to_vec()].concat(),
            "the snapshot FILE has format version 2 (byte 8); this program reads version 1",
        );
        check(
            &forged(&[(HEAD, vec![6, 0, 0, 0, 0])]),
            "the checkpoint at byte 40 of the snapshot FILE: format version 6; this program reads version 5",
        );
        check(&forged(&[(HEAD, vec![1])]), "the checkpoint at byte 40 of the snapshot FILE: damaged: ");
        check(&forged(&[data(&[a])]), &at(24, "block 0 is of a kind that does not belong there"));
        check(&forged(&[head(), head()]), &at(head_end, "block 1 is of a kind that does not belong there"));
        check(&forged(&[head(), (*b"what", vec![])]), &at(head_end, "block 1 is of a kind"));
        check(
            &forged(&[head(), (DATA, vec![1, 0, 0, 0, 97])]),
            &at(head_end + 16, "the block ends inside a pair"),
        );
        check(
            &forged(&[head(), (DATA, [data(&[a]).1, vec![0xff; 8]].concat())]),
            &at(head_end + 16 + 10, "the block ends inside a pair"),
        );
        let order = "the key there is not greater than the one before it";
        check(&forged(&[head(), data(&[a, a])]), &at(head_end + 16 + 10, order));
        check(&forged(&[head(), data(&[b, a])]), &at(head_end + 16 + 10, order));
        check(&forged(&[head(), data(&[b]), data(&[a])]), &at(head_end + 16 + 10 + 16, order));
        let one = forged(&[head(), data(&[a]), foot(&[a, b])]);
        check(&one, &at(head_end + 26, "by the footer there are 2 pairs, but 1 were read"));
        let longer = forged(&[head(), data(&[a]), foot(&[("a", "11")])]);
        check(&longer, &at(head_end + 26, "by the footer the keys and values have 3 bytes, but 2 were read"));
        let other = forged(&[head(), data(&[a]), foot(&[("a", "2")])]);
        check(&other, &at(head_end + 26, "by the footer the pairs have the digest "));
        check(
            &forged(&[head(), (FOOT, vec![0; 33])]),
            &at(head_end, "the footer has 33 bytes instead of 32"),
        );
        check(&forged(&[head(), (FOOT, vec![])]), &at(head_end, "the footer has 0 bytes instead of 32"));
        check(&[&good[..], b"x"].concat(), &at(good.len(), "the snapshot ends there, but 1 bytes follow"));
        check(&good.repeat(2), &at(good.len(), "the snapshot ends there, but "));
        let two_feet = forged(&[head(), foot(&[]), foot(&[])]);
        check(&two_feet, &at(head_end + 48, "the snapshot ends there, but 48 bytes follow"));
    }

    #[test]
    fn no_block_is_taken_for_another() {
        let folder = Folder::new();
        let pairs = pairs(&[100; 4]);
        let blocks_of = |salt: u64| {
            write(&folder.path(), &pairs, 1, salt);
            let bytes = fs::read(folder.path()).unwrap();
            let mut reader = SnapshotReader::open(&folder.path()).unwrap();
            let mut ends = vec![24, reader.blocks.offset];
            while reader.next_pair().unwrap().is_some() {
                ends.push(reader.blocks.offset);
            }
            ends.push(reader.blocks.offset);
            let part = |ends: &[u64]| {
                bytes[usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap()].to_vec()
            };
            (bytes[..24].to_vec(), ends.windows(2).map(part).collect::<Vec<_>>())
        };
        let (preamble, blocks) = blocks_of(SALT);
        let (_, foreign) = blocks_of(SALT + 1);
        assert_eq!(blocks.len(), 6);
        let check = |case: &str, blocks: &[&[u8]], bad: u64| {
            fs::write(folder.path(), [&preamble[..], &blocks.concat()].concat()).unwrap();
            let (seen, end) = read(&folder.path());
            assert!(pairs.starts_with(&seen), "{case}");
            match end {
                Err(SnapshotError::Damaged { damage: Damage::BlockHeader { number }, .. }) => {
                    assert_eq!(number, bad, "{case}");
                }
                end => panic!("{case}: {end:?}"),
            }
        };
        let [head, a, b, c, d, foot] = [0, 1, 2, 3, 4, 5].map(|n: usize| &blocks[n][..]);
        check("one left out", &[head, a, c, d, foot], 2);
        check("the first left out", &[head, b, c, d, foot], 1);
        check("the last left out", &[head, a, b, c, foot], 4);
        check("all left out", &[head, foot], 1);
        check("the head left out", &[a, b, c, d, foot], 0);
        check("two swapped", &[head, a, c, b, d, foot], 2);
        check("one twice", &[head, a, a, b, c, d, foot], 2);
        check("another snapshot's", &[head, a, &foreign[2], c, d, foot], 2);
        check("another snapshot's head", &[&foreign[0], a, b, c, d, foot], 0);
        check("another snapshot's foot", &[head, a, b, c, d, &foreign[5]], 5);
    }

    /// A block's payload, or all of a file: nothing, bytes, or what looks like pairs.
    fn any_payload() -> impl Strategy<Value = Vec<u8>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..80);
        let pair = (0u8..4, any::<[u8; 3]>(), 0u8..4, any::<[u8; 3]>()).prop_map(|(k, key, v, value)| {
            [&[k, 0, 0, 0][..], &key[..3.min(k.into())], &[v, 0, 0, 0], &value[..3.min(v.into())]].concat()
        });
        prop_oneof![bytes, proptest::collection::vec(pair, 0..5).prop_map(|pairs| pairs.concat())]
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in any_payload(), whole in any::<bool>()) {
            let folder = Folder::new();
            let start = if whole { preamble(VERSION, SALT) } else { vec![] };
            fs::write(folder.path(), [start, bytes].concat()).unwrap();
            prop_assert!(read(&folder.path()).1.is_err());
        }

        #[test]
        fn any_payloads_give_ascending_pairs_or_an_error(
            start in prop_oneof![4 => Just(Some(head())), 1 => any_payload().prop_map(|it| Some((HEAD, it))), 1 => Just(None)],
            rest in proptest::collection::vec((prop_oneof![9 => Just(DATA), 1 => Just(FOOT), 1 => any::<[u8; 4]>()], any_payload()), 0..4),
        ) {
            let folder = Folder::new();
            let blocks: Vec<_> = start.into_iter().chain(rest).collect();
            fs::write(folder.path(), forged(&blocks)).unwrap();
            let (seen, end) = read(&folder.path());
            prop_assert!(seen.is_sorted_by(|(a, _), (b, _)| a < b));
            prop_assert!(end.is_err(), "no footer was made for it");
        }

        #[test]
        fn any_splice_of_a_snapshot_is_refused_or_changes_nothing(
            from in 0usize..70_000, length in 0usize..3000, to in 0usize..70_000, instead in any_payload(),
        ) {
            let folder = Folder::new();
            let sample = sample();
            write(&folder.path(), &sample, SMALL, SALT);
            let bytes = fs::read(folder.path()).unwrap();
            let (from, to) = (from % bytes.len(), to % bytes.len());
            let moved = &bytes[from..bytes.len().min(from + length)];
            let behind = &bytes[bytes.len().min(to + moved.len())..];
            let spliced = [&bytes[..to], &instead, moved, behind].concat();
            fs::write(folder.path(), &spliced).unwrap();
            let (seen, end) = read(&folder.path());
            prop_assert!(sample.starts_with(&seen));
            prop_assert_eq!(end.is_ok(), spliced == bytes);
        }
    }

    #[test]
    fn keys_out_of_order_are_refused_and_end_the_snapshot() {
        let _healthy = healthy();
        let check = |keys: &[&[u8]]| {
            let folder = Folder::new();
            let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
            let (last, before) = keys.split_last().unwrap();
            before.iter().for_each(|key| writer.push(key, b"v").unwrap());
            let refused = |error, expected| match error {
                SnapshotError::Refused { refusal, .. } => assert_eq!(refusal, expected, "{keys:?}"),
                error => panic!("{keys:?}: {error}"),
            };
            refused(writer.push(last, b"v").unwrap_err(), Refusal::Order { number: before.len() as u64 });
            refused(writer.push(b"zzz", b"v").unwrap_err(), Refusal::Stopped);
            refused(writer.finish().unwrap_err(), Refusal::Stopped);
            assert!(folder.names().is_empty(), "{keys:?}");
        };
        check(&[b"a", b"a"]);
        check(&[b"b", b"a"]);
        check(&[b"", b""]);
        check(&[b"a", b"ab", b"a"]);
        check(&[b"a", b"c", b"b"]);
        check(&[b"\x7f", b"\xff", b"\x80"]);
    }

    #[test]
    fn a_pair_longer_than_any_block_is_refused() {
        let _healthy = healthy();
        let folder = Folder::new();
        let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
        let error = writer.push(b"k", &vec![0; BLOCK_BYTES_MAX - 8]).unwrap_err();
        let bytes = BLOCK_BYTES_MAX + 1;
        assert!(
            matches!(error, SnapshotError::Refused { refusal: Refusal::TooLong { bytes: it }, .. } if it == bytes)
        );
    }

    #[test]
    fn large_values_leave_no_large_buffer() {
        let folder = Folder::new();
        let disk = Box::new(Faulty::default());
        let mut writer =
            SnapshotWriter::create_on(disk, &folder.path(), &checkpoint(), SALT, BLOCK_BYTES).unwrap();
        for (key, value) in pairs(&[1, 8 << 20, 1, 1]) {
            writer.push(&key, &value).unwrap();
        }
        assert!(writer.payload.capacity() <= BUFFER_BYTES_KEPT);
        writer.finish().unwrap();
        let mut reader = SnapshotReader::open(&folder.path()).unwrap();
        while reader.next_pair().unwrap().is_some() {}
        assert!(reader.blocks.payload.capacity() <= BUFFER_BYTES_KEPT);
    }

    #[test]
    fn an_unfinished_snapshot_leaves_no_file() {
        let _healthy = healthy();
        let folder = Folder::new();
        let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint()).unwrap();
        writer.push(b"k", &vec![1; 1 << 20]).unwrap();
        writer.push(b"l", b"").unwrap();
        assert_eq!(folder.names(), ["a.new"]);
        drop(writer);
        assert!(folder.names().is_empty());
    }

    #[test]
    fn a_failing_disk_leaves_the_old_snapshot_alone() {
        let check = |at: &'static str, error: Errno, message: &str, named: bool| {
            let folder = Folder::new();
            let old = pairs(&[10; 5]);
            write(&folder.path(), &old, SMALL, SALT);
            for begun in [false, true] {
                let disk = Faulty::default();
                if !begun {
                    disk.set(Some((at, error)));
                }
                let attempt = || {
                    let it = Box::new(disk.clone());
                    let mut writer =
                        SnapshotWriter::create_on(it, &folder.path(), &checkpoint(), SALT, SMALL)?;
                    writer.push(b"new", b"value")?;
                    disk.set(Some((at, error)));
                    writer.push(b"newer", &[0; SMALL])?;
                    writer.finish()
                };
                let failure = attempt().unwrap_err();
                assert!(
                    matches!(&failure, SnapshotError::Io { source, .. } if Errno::from_io_error(source) == Some(error)),
                    "{failure}"
                );
                assert!(failure.to_string().contains(message), "{failure} is not {message}");
                assert_eq!(folder.names(), ["a.snap"], "{at}");
                let (seen, end) = read(&folder.path());
                assert_eq!((seen == old, end.is_ok()), (!named, true), "{at}");
            }
        };
        check("write", Errno::NOSPC, "could not write to ", false);
        check("write", Errno::IO, "a.new", false);
        check("sync", Errno::IO, "could not sync ", false);
        check("rename", Errno::IO, "could not rename ", false);
        check("sync folder", Errno::IO, "could not sync ", true);
    }

    #[test]
    fn what_is_not_synced_yet_is_bounded() {
        let folder = Folder::new();
        let disk = Faulty::default();
        let it = Box::new(disk.clone());
        let mut writer =
            SnapshotWriter::create_on(it, &folder.path(), &checkpoint(), SALT, BLOCK_BYTES).unwrap();
        disk.set(Some(("sync", Errno::IO)));
        let value = vec![0; 1 << 20];
        let failed = (0..64u8).find(|&n| writer.push(&[n], &value).is_err());
        assert_eq!(failed, Some(16));
        assert!(matches!(
            writer.finish().unwrap_err(),
            SnapshotError::Refused { refusal: Refusal::Stopped, .. }
        ));
    }

    #[test]
    fn snapshots_are_listed_newest_first_and_leftovers_go() {
        let _healthy = healthy();
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("snapshots");
        let snapshots = Snapshots::open(&folder).unwrap();
        assert_eq!(snapshots.list().unwrap(), []);
        assert_eq!(snapshots.next_path().unwrap(), folder.join("0000000000000000.snap"));
        for number in 0..3 {
            let path = snapshots.next_path().unwrap();
            assert_eq!(path, snapshots.path_of(number));
            write(&path, &pairs(&[1, 2]), SMALL, SALT);
        }
        let others = ["x.new", "0000000000000009.txt", "9.snap", "000000000000000A.snap", "note.snap"];
        for name in others {
            fs::write(folder.join(name), b"").unwrap();
        }
        fs::write(folder.join("000000000000002a.new"), b"half").unwrap();

        let snapshots = Snapshots::open(&folder).unwrap();
        assert!(!folder.join("000000000000002a.new").exists());
        assert!(others.iter().all(|name| folder.join(name).exists()), "these are not ours");
        let numbers = || snapshots.list().unwrap().into_iter().map(|(_, number)| number).collect::<Vec<_>>();
        assert_eq!(numbers(), [2, 1, 0]);
        for (path, _) in snapshots.list().unwrap() {
            assert_eq!(verify(&path).unwrap().1.count, 2);
        }
        snapshots.remove(1).unwrap();
        assert_eq!(numbers(), [2, 0]);
        assert_eq!(snapshots.next_path().unwrap(), snapshots.path_of(3));
        let gone = snapshots.remove(1).unwrap_err().to_string();
        assert!(gone.starts_with("could not remove ") && gone.contains("0000000000000001.snap"), "{gone}");
        fs::write(snapshots.path_of(u64::MAX), b"").unwrap();
        snapshots.next_path().unwrap_err();
        Snapshots::open(&parent.path().join("no/such")).unwrap_err();
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn each_failpoint_fails_a_snapshot() {
        let _scenario = healthy();
        let folder = Folder::new();
        let attempt = || {
            let mut writer = SnapshotWriter::create(&folder.path(), &checkpoint())?;
            writer.push(b"new", b"value")?;
            writer.finish()
        };
        write(&folder.path(), &pairs(&[10; 5]), SMALL, SALT);
        for name in ["snapshot-write", "snapshot-sync", "snapshot-rename", "snapshot-folder-sync"] {
            assert_eq!(verify(&folder.path()).unwrap().1.count, 5, "{name}");
            fail::cfg(name, "return").unwrap();
            assert!(matches!(attempt().unwrap_err(), SnapshotError::Io { .. }), "{name}");
            fail::remove(name);
            assert_eq!(folder.names(), ["a.snap"], "{name}");
        }
        assert_eq!(verify(&folder.path()).unwrap().1.count, 1, "it was renamed already");
        attempt().unwrap();
    }
}
