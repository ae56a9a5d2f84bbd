//! Reading a snapshot.
//!
//! Promises: a reader holds one block at a time, and believes no length before its checksum.

use super::block::{BLOCK, DATA, FOOT, HEAD, Pair, Summary, VERSION, parse_footer};
use super::error::{Damage, SnapshotError, failed};
use super::preamble::{PREAMBLE_BYTES, parse_preamble};
use crate::durable::record::{Fields, FrameAddress};
use crate::journal::entry::{Checkpoint, decode_checkpoint};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// A snapshot that is being read.
pub struct SnapshotReader {
    pub(super) blocks: Blocks,
    checkpoint: Checkpoint,
    /// Where in the block's payload the next pair begins.
    place: usize,
    /// The last key. Keys only rise.
    previous: Vec<u8>,
    /// How many pairs were read, and the bytes of their keys and values.
    count: u64,
    bytes: u64,
    /// The digest of the blocks so far.
    digest: Xxh3,
    /// Set once the footer was read and found to be true.
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

    /// Where in the journal to go on after this snapshot.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The next key and its value. `None` when there are no more, and all of the file was found to be as written. After an
    /// error, every call gives that error.
    pub fn next_pair(&mut self) -> Result<Option<Pair<'_>>, SnapshotError> {
        while self.place >= self.blocks.payload.len() {
            if self.summary.is_some() {
                return Ok(None);
            }
            self.next_block()?;
        }
        let mut rest = Fields(self.blocks.payload.get(self.place..).unwrap_or_default());
        let pair = rest.counted_bytes().and_then(|key| Some((key, rest.counted_bytes()?)));
        let Some((key, value)) = pair else { return Err(self.damaged_pair(Damage::Pair)) };
        if self.count > 0 && key <= self.previous.as_slice() {
            return Err(self.damaged_pair(Damage::Order));
        }
        self.place = self.blocks.payload.len() - rest.0.len();
        self.previous.clear();
        self.previous.extend_from_slice(key);
        self.count += 1;
        self.bytes += key.len() as u64 + value.len() as u64;
        Ok(Some((key, value)))
    }

    /// What is in the snapshot. Known once [`next_pair`](Self::next_pair) has given `None`.
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Reads on to the end. Gives the checkpoint, and what is in the whole snapshot.
    pub fn finish(mut self) -> Result<(Checkpoint, Summary), SnapshotError> {
        loop {
            if let Some(summary) = self.summary {
                return Ok((self.checkpoint, summary));
            }
            self.next_pair()?;
        }
    }

    /// Goes on to the next block. If that block is not valid, no pairs are left and nothing else has changed.
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

    /// The summary in the footer, if it matches what was read and the file ends there.
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

    /// An error in the last block, at the pair where reading stopped.
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

/// The blocks of a snapshot, one after the other.
pub(super) struct Blocks {
    path: PathBuf,
    file: File,
    /// The file's length.
    length: u64,
    salt: u64,
    /// The number of the next block. While a block is being read, its own, until [`advance`](Self::advance).
    pub(super) number: u64,
    /// Where that block begins.
    pub(super) offset: u64,
    /// The payload of the block that was read last. Empty if it was not valid.
    pub(super) payload: Vec<u8>,
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

    /// Reads the block at the offset, and gives its kind. It stays the next block until [`advance`](Self::advance).
    fn read(&mut self) -> Result<[u8; 4], SnapshotError> {
        self.payload = Vec::new();
        let mut header = [0; BLOCK.header_bytes()];
        self.fill(self.offset, &mut header)?;
        let header = BLOCK
            .read_header(&header, FrameAddress { salt: self.salt, at: self.number })
            .ok_or_else(|| self.damaged(Damage::BlockHeader { number: self.number }))?;
        let bytes = BLOCK.payload_bytes(&header);
        // Checked before the memory for it is taken.
        if bytes as u64 > self.length.saturating_sub(self.payload_offset()) {
            return Err(self.damaged(Damage::Truncated { length: self.length }));
        }
        let mut payload = vec![0; bytes];
        self.fill(self.payload_offset(), &mut payload)?;
        if !BLOCK.matches(&header, &payload) {
            return Err(self.damaged(Damage::BlockPayload { number: self.number }));
        }
        self.payload = payload;
        Ok(header.kind)
    }

    /// Goes on to the block behind the one just read.
    fn advance(&mut self) {
        self.number += 1;
        self.offset = self.payload_offset() + self.payload.len() as u64;
    }

    /// Where the payload of the block at the offset begins.
    fn payload_offset(&self) -> u64 {
        self.offset + BLOCK.header_bytes() as u64
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

/// Reads all of a snapshot. Gives its checkpoint and what else is in it, or what is wrong.
pub fn verify(path: &Path) -> Result<(Checkpoint, Summary), SnapshotError> {
    SnapshotReader::open(path)?.finish()
}
