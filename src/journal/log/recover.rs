//! Reading a log after a start: replaying its frames, cutting a torn tail off, and giving damaged frames up.
//!
//! Promises: damage before the end is refused, never skipped. The last frame is written again before anyone relies on it.
//! Nothing is cut off where a valid frame follows.

use super::error::{Damage, Flaw, GivenUp, LogError, TornTail, failed};
use super::folder::Folder;
use super::frame::{ALIGNMENT, FRAME_HEADER_BYTES, Frame, size};
use super::position::{Position, SEGMENT_HEADER_BYTES};
use super::segment::Segment;
use super::window::{PAGE_BYTES, Window};
use crate::durable::disk::{Disk, write_zeros};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

impl Segment {
    /// Replays a segment that has a successor. All up to `sealed` must be valid.
    pub(super) fn replay_sealed<E: From<LogError>>(
        &self,
        sealed: u64,
        folder: &Folder,
        from: Position,
        each: &mut impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut window = Window::new(&self.file, &self.path)?;
        let mut offset = SEGMENT_HEADER_BYTES;
        while offset < sealed {
            let frame = self
                .frame_at(&mut window, offset)?
                .map_err(|flaw| self.damaged(offset, Damage::BeforeSegment { flaw, end: sealed }))?;
            if frame.end > sealed {
                return Err(self.damaged(offset, Damage::Overrun { end: sealed }).into());
            }
            self.deliver(&frame, offset, folder, from, each)?;
            offset = frame.end;
        }
        if from.segment == self.number && from.offset > offset {
            return Err(LogError::NotBetweenFrames { dir: folder.path.clone(), from }.into());
        }
        Ok(())
    }

    /// Replays the last segment. Gives the offset where its frames end, and what is there instead of a frame.
    pub(super) fn replay_last<E: From<LogError>>(
        &self,
        disk: &dyn Disk,
        folder: &Folder,
        from: Position,
        each: &mut impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(u64, Flaw), E> {
        let mut window = Window::new(&self.file, &self.path)?;
        let mut offset = SEGMENT_HEADER_BYTES;
        loop {
            let frame = match self.frame_at(&mut window, offset)? {
                Ok(frame) => frame,
                Err(flaw) => return Ok((offset, flaw)),
            };
            if !frame.followed {
                // Perhaps this frame was never confirmed. After a failed sync the page cache can call it clean although
                // the disk does not have it. So it is written again before anyone relies on it.
                self.file
                    .write_all_at(frame.whole, offset)
                    .and_then(|()| disk.sync(&self.file))
                    .map_err(failed("write the last frame again to", &self.path))?;
            }
            self.deliver(&frame, offset, folder, from, each)?;
            offset = frame.end;
        }
    }

    fn deliver<E: From<LogError>>(
        &self,
        frame: &Frame<'_>,
        offset: u64,
        folder: &Folder,
        from: Position,
        each: &mut impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = Position { segment: self.number, offset };
        let end = Position { segment: self.number, offset: frame.end };
        debug_assert!(start < end, "a frame takes space: {start} to {end}");
        if start >= from {
            each(start, end, frame.payload)
        } else if end > from {
            Err(LogError::NotBetweenFrames { dir: folder.path.clone(), from }.into())
        } else {
            Ok(())
        }
    }

    /// Writes zeros over all that lies behind the last frame, durably. Refuses if a valid frame is among it.
    pub(super) fn cut(&self, disk: &dyn Disk, offset: u64, flaw: Flaw) -> Result<Option<TornTail>, LogError> {
        let mut window = Window::new(&self.file, &self.path)?;
        let torn = window.filled(offset)?;
        let short = window.length < self.capacity;
        let mut place = offset;
        while place < offset + torn {
            if !window.blank(place)? {
                for next in (place..place + PAGE_BYTES).step_by(ALIGNMENT) {
                    if next > offset && self.frame_at(&mut window, next)?.is_ok() {
                        return Err(self.damaged(offset, Damage::BeforeFrame { flaw, next }));
                    }
                }
            }
            place += PAGE_BYTES;
        }
        if torn == 0 && !short {
            return Ok(None);
        }
        // The tail is overwritten in place. To shorten the file and reserve it again could fail on a full disk.
        write_zeros(&self.file, offset, offset + torn)
            .and_then(|()| if short { disk.reserve(&self.file, self.capacity) } else { Ok(()) })
            .and_then(|()| disk.sync(&self.file))
            .map_err(failed("cut the torn tail of", &self.path))?;
        Ok(Some(TornTail { file: self.path.clone(), offset, bytes: torn }))
    }
}

/// Gives up the damage that `error` reports: what lies between two valid frames becomes one valid frame with a payload from
/// `filler`. Gives back an error that is not about frames. `before` sees the file before it is changed.
pub(super) fn give_up(
    folder: &Folder,
    error: LogError,
    filler: &impl Fn(usize) -> Vec<u8>,
    before: &mut impl FnMut(&Path) -> io::Result<()>,
) -> Result<GivenUp, LogError> {
    let LogError::Damaged { file, offset, damage } = error else { return Err(error) };
    let end = match damage {
        Damage::BeforeFrame { next, .. } => next,
        Damage::BeforeSegment { end, .. } | Damage::Overrun { end } => end,
        Damage::SegmentHeader | Damage::OtherSegment { .. } => {
            return Err(LogError::Damaged { file, offset, damage });
        }
    };
    let segment = folder.segment(Folder::number_of(&file).unwrap_or_default(), false)?;
    let end = segment.next_frame(offset, end)?;
    before(&file).map_err(failed("keep a copy of", &file))?;
    let payload = filler(size((end - offset).saturating_sub(FRAME_HEADER_BYTES)));
    let mut frame = Vec::new();
    if segment.put_frame(offset, &payload, &mut frame).is_none() {
        return Err(LogError::Damaged { file, offset, damage });
    }
    let written = File::options().write(true).open(&file).and_then(|open| {
        open.write_all_at(&frame, offset)?;
        open.sync_all()
    });
    written.map_err(failed("write into", &file))?;
    let position = |offset| Position { segment: segment.number, offset };
    Ok(GivenUp { from: position(offset), to: position(end), file })
}
