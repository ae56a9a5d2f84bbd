//! Reading a log piece by piece, while somebody else appends to it.
//!
//! Promises: no file stays open between two pieces, so a reader who takes long keeps no removed segment on the disk. A piece holds
//! little more than was asked for, or one frame.

use super::error::{Damage, LogError};
use super::folder::Folder;
use super::position::Position;
use super::window::Window;
use std::path::Path;

/// Some frames, one after the other.
#[derive(Debug)]
pub struct Piece {
    /// Each one's payload, and where the next frame begins.
    pub frames: Vec<(Position, Vec<u8>)>,
    /// Where the next piece begins.
    pub next: Position,
}

impl Position {
    /// Where the segments begin that a folder still has, in order.
    pub fn starts_in(folder: &Path) -> Result<Vec<Self>, LogError> {
        Ok(Folder::open_as_it_is(folder)?.numbers()?.into_iter().map(Self::first_of).collect())
    }
}

/// Reads the frames from a position on, until their payloads come to so many bytes, or to the end of a segment. Both positions
/// must be between confirmed frames, and nothing behind the second is looked at.
pub fn read_piece(dir: &Path, from: Position, to: Position, bytes: usize) -> Result<Piece, LogError> {
    let folder = Folder::open_as_it_is(dir)?;
    let path = folder.path_of(from.segment);
    if !path.exists() {
        return Err(LogError::Missing { file: path });
    }
    let segment = folder.segment(from.segment, false)?;
    let is_last = from.segment >= to.segment;
    let end = if is_last { to.offset } else { folder.segment(from.segment + 1, false)?.previous_end };
    let mut window = Window::new(&segment.file, &segment.path)?;
    let (mut frames, mut offset, mut read) = (vec![], from.offset, 0);
    while offset < end && read < bytes.max(1) {
        let frame = segment
            .frame_at(&mut window, offset)?
            .map_err(|flaw| segment.damaged(offset, Damage::BeforeSegment { flaw, end }))?;
        offset = frame.end;
        read += frame.payload.len();
        frames.push((Position { segment: from.segment, offset }, frame.payload.to_vec()));
    }
    let behind = offset >= end && !is_last;
    let next = if behind {
        Position::first_of(from.segment + 1)
    } else {
        Position { segment: from.segment, offset }
    };
    Ok(Piece { frames, next })
}
