//! A place in the log, between two frames.

use std::fmt;

/// How many bytes a segment's header takes.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 48;

/// A place between two frames. Positions order as the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub(super) segment: u64,
    /// The byte in the segment's file.
    pub(super) offset: u64,
}

impl Position {
    /// Before the first frame of a new log.
    pub const START: Self = Self::first_of(0);

    /// Before the first frame of a segment.
    pub(super) const fn first_of(segment: u64) -> Self {
        Self { segment, offset: SEGMENT_HEADER_BYTES }
    }

    /// The segment's number and the byte offset in its file, for storing.
    pub const fn to_pair(self) -> (u64, u64) {
        (self.segment, self.offset)
    }

    /// The position that was stored as this pair. [`Log::open`](super::Log::open) refuses a pair that is not between two
    /// frames.
    pub const fn from_pair((segment, offset): (u64, u64)) -> Self {
        Self { segment, offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of segment {:016x}", self.offset, self.segment)
    }
}
