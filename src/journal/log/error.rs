//! What can be wrong with a log, and what was given up to mend it.

use super::frame::PAYLOAD_BYTES_MAX;
use super::header::VERSION;
use super::position::Position;
use std::io;
use std::path::{Path, PathBuf};

/// What was cut off the end of the log when it was opened: the rest of an append that a crash interrupted. Nobody was
/// answered that it succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: PathBuf,
    /// Where the valid frames end. 0 if the segment itself was only half made; it is removed then.
    pub offset: u64,
    /// How many bytes lay between that place and the last byte that is not zero. 0 if the file was only too short.
    pub bytes: u64,
}

/// Why a log can't be opened, or an old segment can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
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
    /// Confirmed frames are unreadable or gone.
    #[error("{} is damaged at byte {offset}: {damage}; restore the file, or the whole folder from a backup, or give up what is damaged with `profiled check --salvage`", file.display())]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong, and how that is known.
        damage: Damage,
    },
    /// A segment is missing, although a later one is there.
    #[error("{} is missing, but the journal goes on after it; restore the file, or the whole folder from a backup", file.display())]
    Missing {
        /// The segment file.
        file: PathBuf,
    },
    /// Written by another version of this program.
    #[error("{} has format version {found}; this program reads version {VERSION}", file.display())]
    Version {
        /// The segment file.
        file: PathBuf,
        /// The version in its header.
        found: u32,
    },
    /// The position to read from is past the end. Somebody has seen frames that this log does not hold.
    #[error("the journal in {} ends at {end}, but it should be read from {from}; this is another journal than the one the position came from, or its end is lost", dir.display())]
    EndsBefore {
        /// The log's folder.
        dir: PathBuf,
        /// Where reading was to begin.
        from: Position,
        /// Where the log ends, as far as it was looked at.
        end: Position,
    },
    /// The position to read from is inside a frame.
    #[error("{from} is not between two frames of the journal in {}; this is another journal than the one the position came from", dir.display())]
    NotBetweenFrames {
        /// The log's folder.
        dir: PathBuf,
        /// Where reading was to begin.
        from: Position,
    },
}

/// How we know that frames are lost, and that this is not just an interrupted append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A valid frame follows.
    #[error("{flaw}, yet a valid frame follows at byte {next}")]
    BeforeFrame {
        /// What is wrong.
        flaw: Flaw,
        /// The offset of the frame that follows.
        next: u64,
    },
    /// A segment follows.
    #[error("{flaw}, yet by the next segment the frames of this one end at byte {end}")]
    BeforeSegment {
        /// What is wrong.
        flaw: Flaw,
        /// Where the frames should end.
        end: u64,
    },
    /// The frames do not end where the next segment says.
    #[error("the frame there goes on past byte {end}, where by the next segment the frames of this one end")]
    Overrun {
        /// Where the frames should end.
        end: u64,
    },
    /// The segment's header is not valid, although frames follow it.
    #[error("the header of the segment does not match its checksum")]
    SegmentHeader,
    /// The header is valid, but the file has another segment's name.
    #[error("by its header it is segment {found:016x}")]
    OtherSegment {
        /// The number in its header.
        found: u64,
    },
}

/// Why there is no valid frame at some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Nothing but zeros.
    #[error("there are zeros where a frame should begin")]
    Zeros,
    /// The header doesn't match its checksum.
    #[error("the frame's header does not match its checksum")]
    FrameHeader,
    /// The payload doesn't match its checksum.
    #[error("the frame's payload does not match its checksum")]
    Payload,
    /// The file is too short.
    #[error("the file ends before the frame does")]
    Short,
}

/// Why a frame was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// No disk space (or quota, or file handle) is left for a new segment. Nothing was written, and the log stays usable:
    /// the same append may be tried again, and a smaller one may still fit into the current segment.
    #[error("no disk space for {}, a new journal segment of {bytes} bytes: {source}", file.display())]
    Full {
        /// The segment that could not be made.
        file: PathBuf,
        /// How large it would be.
        bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A write or a sync failed. The frame may or may not be on the disk. The caller must stop acknowledging, and exit.
    #[error("could not write to {} and sync it: {source}; nothing more can be acknowledged", file.display())]
    Failed {
        /// The segment file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An earlier append failed, so this one was not tried.
    #[error("the journal takes no more writes, because an earlier write or sync failed")]
    Stopped,
    /// The payload is too long. Nothing was written.
    #[error("a journal frame of {bytes} bytes is too long: at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLong {
        /// The payload's length.
        bytes: usize,
    },
}

/// A stretch of damaged frames that `Log::salvage` gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The segment file.
    pub file: PathBuf,
    /// Where the damage begins, between two frames.
    pub from: Position,
    /// Where the next valid frame begins, or the segment's frames end.
    pub to: Position,
}

/// An error of the operating system, with what was tried.
pub(super) fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { action, file: file.to_owned(), source }
}
