//! A reader for tests that gives its bytes in pieces: what reads it must not mind where they end.

use std::io::{self, BufRead, Read};

/// Bytes, given in pieces of at most so many.
pub(super) struct InPieces<'a>(pub(super) &'a [u8], pub(super) usize);

impl Read for InPieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(room)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for InPieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.1.min(self.0.len())])
    }

    fn consume(&mut self, bytes: usize) {
        self.0 = &self.0[bytes..];
    }
}
