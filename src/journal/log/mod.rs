//! The append-only segmented log under the commit thread. It owns the segment files of one folder and knows only
//! bytes: what a frame's payload means is its caller's business.
//!
//! Promises:
//! - A position that [`Log::append`] returns is on disk. The operating system has confirmed the `fdatasync` of the
//!   frame, and before that the `fsync` of its file and of the folder.
//! - [`Log::open`] gives the frames back whole and in order, or says why it can't. A crash can leave a torn frame at the
//!   very end; it is cut off and reported. Damage before the end is refused, never skipped.
//! - A full disk is not a failure. An append that needs a new segment and finds no disk space writes nothing, and may be
//!   tried again. A write or sync that fails ends the log's life, because what the page cache then holds can't be trusted.
//!
//! # Files
//!
//! | file | its job |
//! | --- | --- |
//! | [`position`](Position) | a place between two frames |
//! | `frame`, `header` | the bytes of a frame and of a segment's header |
//! | `segment` | one open segment and its frames |
//! | `folder` | which segments there are; making one |
//! | `window` | a part of a segment's file in memory |
//! | `piece` | reading piece by piece, while somebody else appends |
//! | `recover` | replaying, cutting a torn tail off, giving damage up |
//! | `error` | what can be wrong |
//!
//! `Log` is not behind a trait. Only the commit thread appends, and only a start reads: a trait would have one user and
//! one implementation. What tests must replace is the disk below it, and that is a trait: [`Disk`]. The forty places that
//! name [`Position`] only carry it, as they would carry a trait's associated type.
//!
//! # Format
//!
//! Numbers are little-endian. Segment `n` is the file `{n:016x}.log`. It is as long as its header says, with zeros where
//! nothing has been written yet:
//!
//! | bytes | segment header |
//! | --- | --- |
//! | 8 | `profiLog` |
//! | 4 | format version, 1 |
//! | 4 | CRC-32C of the other 44 bytes |
//! | 8 | the segment's number |
//! | 8 | capacity: the length of the file |
//! | 8 | salt: random, so that no payload can hold a frame that this segment would take for its own |
//! | 8 | where the frames of the segment before it end; 0 if there is none |
//!
//! One frame is one commit group, one write and one `fdatasync`. Frames follow each other at multiples of 8:
//!
//! | bytes | frame |
//! | --- | --- |
//! | 4 | length of this header and the payload |
//! | 4 | CRC-32C of the payload and its padding |
//! | 4 | CRC-32C of the salt, this frame's offset and the eight bytes before this |
//! | … | payload, then zeros up to a multiple of 8 |
//!
//! The second checksum lets a reader trust a length before it reads that far. It also makes the search for frames
//! behind a damaged one linear, whatever the bytes are.
//!
//! # Where the log ends
//!
//! A segment is made under another name, reserved, synced, and only then named; and only after the last frame of the
//! one before it was confirmed. So a segment that has a successor ends where the successor's header says, and all
//! before that must be valid. In the last segment the log ends at the first place without a valid frame. At most one
//! frame is ever unconfirmed, so bytes behind that place are a torn frame, unless there is a valid frame among them.
//! Then confirmed frames are lost, and that is damage.

mod error;
mod folder;
mod frame;
mod header;
mod piece;
mod position;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod window;

pub use error::{AppendError, Damage, Flaw, GivenUp, LogError, TornTail};
pub use frame::PAYLOAD_BYTES_MAX;
pub use piece::{Piece, read_piece};
pub use position::Position;

use crate::durable::disk::{Disk, DiskPoints, SystemDisk, is_full};
use crate::durable::failpoint::Failpoint;
use crate::durable::point;
use error::failed;
use folder::{Folder, NotCreated};
use frame::FRAME;
use position::SEGMENT_HEADER_BYTES;
use segment::Segment;
use std::fs;
use std::io;
use std::path::Path;

/// What the append buffer keeps after a frame that needed more.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// The points that a log passes on the system's disk.
static POINTS: DiskPoints = DiskPoints {
    reserve: Failpoint("segment-reserve"),
    write: Failpoint("frame-write"),
    write_left_out: Some(Failpoint("journal-write")),
    sync_data: Failpoint("frame-sync"),
    sync_data_left_out: Some(Failpoint("journal-sync")),
    data_synced: Some(Failpoint("frame-synced")),
    sync: Failpoint("segment-sync"),
    sync_folder: Failpoint("segment-sync"),
    rename: Failpoint("segment-rename"),
};

/// How a log lays out its files.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// The size of a new segment. A frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

impl Position {
    /// Before the first frame that a folder still has; `None` if it holds no segment.
    pub fn first_in(folder: &Path) -> Result<Option<Self>, LogError> {
        if !folder.exists() {
            return Ok(None);
        }
        let numbers = Folder::open(folder, &SystemDisk(&POINTS))?.numbers()?;
        Ok(numbers.first().map(|&segment| Self::first_of(segment)))
    }
}

/// Reads the frames between two positions of a log that somebody else may append to. Both must be between confirmed
/// frames. Nothing behind the second is looked at, and nothing is changed.
pub fn read_between<E: From<LogError>>(
    dir: &Path,
    from: Position,
    to: Position,
    mut each: impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let folder = Folder::open_as_it_is(dir)?;
    for number in from.segment..=to.segment {
        let path = folder.path_of(number);
        if !path.exists() {
            return Err(LogError::Missing { file: path }.into());
        }
        let segment = folder.segment(number, false)?;
        let end =
            if number < to.segment { folder.segment(number + 1, false)?.previous_end } else { to.offset };
        segment.replay_sealed(end, &folder, from, &mut each)?;
    }
    Ok(())
}

/// An open log: its end, and the file that the next frame goes to.
///
/// Nothing here keeps a second process from opening the same folder. Whoever owns the data folder locks it.
#[derive(Debug)]
pub struct Log {
    folder: Folder,
    settings: LogSettings,
    disk: Box<dyn Disk>,
    /// The last segment, which is appended to.
    segment: Segment,
    /// Where the next frame goes. It only rises within a segment, and never passes the segment's capacity.
    offset: u64,
    /// What all segments take on the disk.
    bytes: u64,
    /// The frame that is being written. Kept, so that a commit group needs no allocation.
    buffer: Vec<u8>,
    /// Whether a write or sync failed. Once set it stays, and nothing more is appended.
    stopped: bool,
}

impl Log {
    /// Opens the log in `dir`, or makes one. Calls `each` with start, end and payload of every frame from `from` on.
    /// Segments before that are not looked at. The segment of `from` is verified from its first frame on.
    ///
    /// Cuts a torn tail off and returns it. Where anything is refused, no byte behind a segment's header is changed.
    pub fn open<E: From<LogError>>(
        dir: &Path,
        settings: LogSettings,
        from: Position,
        each: impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(Self, Option<TornTail>), E> {
        Self::open_on(Box::new(SystemDisk(&POINTS)), dir, settings, from, each)
    }

    fn open_on<E: From<LogError>>(
        disk: Box<dyn Disk>,
        dir: &Path,
        settings: LogSettings,
        from: Position,
        mut each: impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(Self, Option<TornTail>), E> {
        let folder = Folder::open(dir, &*disk)?;
        let (last, torn) = folder.last_segment(&*disk, from)?;
        let Some(last) = last else {
            let capacity = settings.segment_bytes.max(SEGMENT_HEADER_BYTES);
            let segment = folder
                .create(&*disk, 0, capacity, 0)
                .map_err(|error| failed("create", &folder.path_of(0))(error.source))?;
            let bytes = folder.bytes()?;
            let log = Self::new(folder, settings, disk, segment, SEGMENT_HEADER_BYTES, bytes);
            return Ok((log, torn));
        };

        let mut segment = folder.segment(from.segment.min(last), from.segment >= last)?;
        while segment.number < last {
            let next = folder.segment(segment.number + 1, segment.number + 1 == last)?;
            segment.replay_sealed(next.previous_end, &folder, from, &mut each)?;
            segment = next;
        }
        let (offset, flaw) = segment.replay_last(&*disk, &folder, from, &mut each)?;
        let end = Position { segment: last, offset };
        if end < from {
            return Err(LogError::EndsBefore { dir: folder.path, from, end }.into());
        }
        let torn = segment.cut(&*disk, offset, flaw)?.or(torn);

        let bytes = folder.bytes()?;
        Ok((Self::new(folder, settings, disk, segment, offset, bytes), torn))
    }

    fn new(
        folder: Folder,
        settings: LogSettings,
        disk: Box<dyn Disk>,
        segment: Segment,
        offset: u64,
        bytes: u64,
    ) -> Self {
        Self { folder, settings, disk, segment, offset, bytes, buffer: Vec::new(), stopped: false }
    }

    /// Gives up the damaged frames that keep the log in `dir` from being opened from `from` on, if there are any. Each
    /// damaged stretch becomes one valid frame, with a payload from `filler` of the right length, so all other frames stay
    /// where they are. `before` sees each segment file before it is changed. Damage beyond frames, to a segment's header
    /// or a whole file, is still refused.
    pub fn salvage(
        dir: &Path,
        from: Position,
        filler: impl Fn(usize) -> Vec<u8>,
        mut before: impl FnMut(&Path) -> io::Result<()>,
    ) -> Result<Vec<GivenUp>, LogError> {
        let mut given_up = Vec::new();
        loop {
            let opened = Self::open(dir, LogSettings::default(), from, |_, _, _| Ok::<_, LogError>(()));
            let Err(error) = opened else { return Ok(given_up) };
            let folder = Folder::open_as_it_is(dir)?;
            given_up.push(recover::give_up(&folder, error, &filler, &mut before)?);
        }
    }

    /// Appends one frame, and returns the position after it once `fdatasync` has confirmed it.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position, AppendError> {
        if self.stopped {
            return Err(AppendError::Stopped);
        }
        let too_long = AppendError::TooLong { bytes: payload.len() };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_long);
        }
        let frame_bytes = FRAME.frame_bytes_of(payload.len()) as u64;
        if frame_bytes > self.segment.capacity.saturating_sub(self.offset) {
            self.next_segment(frame_bytes)?;
        }
        let Some(frame_bytes) = self.segment.put_frame(self.offset, payload, &mut self.buffer) else {
            return Err(too_long);
        };

        let file = &self.segment.file;
        let confirmed = self
            .disk
            .write(file, &self.buffer, self.offset)
            .and_then(|()| self.disk.sync_data(file))
            .map_err(|source| AppendError::Failed { file: self.segment.path.clone(), source });
        self.stopped = confirmed.is_err();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        confirmed?;
        let before = self.end();
        self.offset += frame_bytes;
        debug_assert!(
            before < self.end() && self.offset <= self.segment.capacity,
            "the log's end rises within a segment"
        );
        Ok(self.end())
    }

    /// Begins a new segment, unless the current one is empty. The segments before it can then be removed one day, whole.
    pub fn rotate(&mut self) -> Result<(), AppendError> {
        if self.stopped {
            return Err(AppendError::Stopped);
        }
        if self.offset == SEGMENT_HEADER_BYTES { Ok(()) } else { self.next_segment(0) }
    }

    /// The position after the last confirmed frame.
    pub fn end(&self) -> Position {
        Position { segment: self.segment.number, offset: self.offset }
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// What the segment files take on the disk, reserved space included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the segments that lie wholly before `position`. Afterwards the log can be read from `position` on, but
    /// not from before its segment.
    pub fn remove_before(&mut self, position: Position) -> Result<(), LogError> {
        let keep_from = position.segment.min(self.segment.number);
        for number in self.folder.numbers()?.into_iter().filter(|&number| number < keep_from) {
            let path = self.folder.path_of(number);
            point("segment-remove").and_then(|()| fs::remove_file(&path)).map_err(failed("remove", &path))?;
        }
        self.bytes = self.folder.bytes()?;
        self.folder.sync(&*self.disk)
    }

    fn next_segment(&mut self, frame_bytes: u64) -> Result<(), AppendError> {
        let number = self.segment.number + 1;
        let bytes = self.settings.segment_bytes.max(SEGMENT_HEADER_BYTES + frame_bytes);
        match self.folder.create(&*self.disk, number, bytes, self.offset) {
            Ok(segment) => {
                self.segment = segment;
                self.offset = SEGMENT_HEADER_BYTES;
                self.bytes += bytes;
                Ok(())
            }
            Err(NotCreated { named: false, source }) if is_full(&source) => {
                Err(AppendError::Full { file: self.folder.path_of(number), bytes, source })
            }
            Err(NotCreated { source, .. }) => {
                self.stopped = true;
                Err(AppendError::Failed { file: self.folder.path_of(number), source })
            }
        }
    }
}
