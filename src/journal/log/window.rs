//! Reading a segment: a part of the file in memory, which moves over it.
//!
//! Promises: a window holds one read-ahead or one frame, whichever is longer. It never gives bytes behind the file's end.

use super::error::{LogError, failed};
use super::frame::size;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How far a window reads ahead: one system call serves many small frames.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// A page of zeros, to compare with.
static ZEROS: [u8; 4096] = [0; 4096];
/// How many bytes a page has.
pub(super) const PAGE_BYTES: u64 = ZEROS.len() as u64;

/// A part of a file in memory.
pub(super) struct Window<'f> {
    file: &'f File,
    path: &'f Path,
    /// The file's length.
    pub(super) length: u64,
    /// Where in the file the buffer begins.
    start: u64,
    buffer: Vec<u8>,
}

impl<'f> Window<'f> {
    pub(super) fn new(file: &'f File, path: &'f Path) -> Result<Self, LogError> {
        let length = file.metadata().map_err(failed("look at", path))?.len();
        Ok(Self { file, path, length, start: 0, buffer: Vec::new() })
    }

    /// The bytes at an offset. There are fewer than asked for only if the file ends there.
    pub(super) fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], LogError> {
        let bytes = bytes.min(self.length.saturating_sub(offset));
        if bytes == 0 {
            return Ok(&[]);
        }
        if offset < self.start || offset + bytes > self.start + self.buffer.len() as u64 {
            let ahead = bytes.max(READ_AHEAD_BYTES.min(self.length - offset));
            self.fill(offset, ahead).map_err(failed("read", self.path))?;
        }
        let rest = self.buffer.get(size(offset - self.start)..).unwrap_or_default();
        Ok(rest.get(..size(bytes)).unwrap_or(rest))
    }

    /// Whether a page is zeros, as far as the file goes.
    pub(super) fn blank(&mut self, offset: u64) -> Result<bool, LogError> {
        self.at(offset, PAGE_BYTES).map(are_zeros)
    }

    /// How many bytes lie between an offset and the file's last byte that is not zero, that byte included.
    pub(super) fn filled(&mut self, offset: u64) -> Result<u64, LogError> {
        let mut filled = 0;
        let mut place = offset;
        while place < self.length {
            let page = self.at(place, PAGE_BYTES)?;
            if !are_zeros(page) {
                let last = page.iter().rposition(|&byte| byte != 0).unwrap_or_default();
                filled = place + last as u64 + 1 - offset;
            }
            place += PAGE_BYTES;
        }
        Ok(filled)
    }

    fn fill(&mut self, offset: u64, bytes: u64) -> io::Result<()> {
        self.start = offset;
        self.buffer.resize(size(bytes), 0);
        let mut filled = 0;
        while let Some(rest) = self.buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}

/// Whether these bytes, a page at most, are all zero.
pub(super) fn are_zeros(bytes: &[u8]) -> bool {
    ZEROS.starts_with(bytes)
}
