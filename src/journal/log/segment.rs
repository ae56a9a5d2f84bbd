//! One segment file, and the frames in it.
//!
//! Promises: a frame is valid only if both checksums match, at this offset of this segment. What is not valid is named by
//! its [`Flaw`], never guessed at.

use super::error::{Damage, Flaw, LogError};
use super::frame::{ALIGNMENT, FRAME, FRAME_HEADER_BYTES, Frame, NO_KIND};
use super::window::{Window, are_zeros};
use crate::durable::record::{FrameAddress, FrameHeader};
use std::fs::File;
use std::path::PathBuf;

/// One open segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) number: u64,
    /// The length of the file.
    pub(super) capacity: u64,
    /// A random number. No payload can hold a frame that this segment would take for its own.
    pub(super) salt: u64,
    /// Where the frames of the segment before this one end.
    pub(super) previous_end: u64,
}

impl Segment {
    /// Where the first valid frame behind a damaged one begins, or `end` if there is none before that.
    pub(super) fn next_frame(&self, damaged: u64, end: u64) -> Result<u64, LogError> {
        let mut window = Window::new(&self.file, &self.path)?;
        for next in (damaged + ALIGNMENT as u64..end).step_by(ALIGNMENT) {
            if self.frame_at(&mut window, next)?.is_ok() {
                return Ok(next);
            }
        }
        Ok(end)
    }

    /// The frame at an offset, or why there is none.
    pub(super) fn frame_at<'w>(
        &self,
        window: &'w mut Window<'_>,
        offset: u64,
    ) -> Result<Result<Frame<'w>, Flaw>, LogError> {
        let bytes = window.at(offset, FRAME_HEADER_BYTES)?;
        let Some(header) = self.frame_header(offset, bytes) else {
            let flaw = match bytes {
                bytes if (bytes.len() as u64) < FRAME_HEADER_BYTES => Flaw::Short,
                bytes if are_zeros(bytes) => Flaw::Zeros,
                _ => Flaw::FrameHeader,
            };
            return Ok(Err(flaw));
        };
        let frame_bytes = FRAME.frame_bytes(&header);
        let bytes = window.at(offset, frame_bytes as u64 + FRAME_HEADER_BYTES)?;
        let Some((whole, next)) = bytes.split_at_checked(frame_bytes) else {
            return Ok(Err(Flaw::Short));
        };
        let body = whole.get(FRAME.header_bytes()..).unwrap_or_default();
        let Some(payload) = body.get(..FRAME.payload_bytes(&header)) else {
            return Ok(Err(Flaw::FrameHeader));
        };
        if !FRAME.matches(&header, body) {
            return Ok(Err(Flaw::Payload));
        }
        let end = offset + frame_bytes as u64;
        let followed = self.frame_header(end, next).is_some();
        Ok(Ok(Frame { whole, payload, end, followed }))
    }

    /// The header of a frame at this offset of this segment, if these bytes are one.
    fn frame_header(&self, offset: u64, bytes: &[u8]) -> Option<FrameHeader> {
        let header = FRAME.read_header(bytes, self.place(offset))?;
        let fits = FRAME.frame_bytes(&header) as u64 <= self.capacity.saturating_sub(offset);
        fits.then_some(header)
    }

    /// Lays a frame out in a buffer. Gives how many bytes it takes; `None` if no frame can hold the payload.
    pub(super) fn put_frame(&self, offset: u64, payload: &[u8], buffer: &mut Vec<u8>) -> Option<u64> {
        buffer.clear();
        FRAME.put(NO_KIND, payload, self.place(offset), buffer)?;
        Some(buffer.len() as u64)
    }

    fn place(&self, offset: u64) -> FrameAddress {
        FrameAddress { salt: self.salt, at: offset }
    }

    pub(super) fn damaged(&self, offset: u64, damage: Damage) -> LogError {
        LogError::Damaged { file: self.path.clone(), offset, damage }
    }
}
