//! The append-only segmented log under the commit thread. It owns the segment files of one folder and knows only
//! bytes: what a frame's payload means is its caller's business.
//!
//! Promises:
//! - A position that [`Log::append`] returns is on disk: the operating system has confirmed the `fdatasync` of the
//!   frame, and before that the `fsync` of its file and of the folder.
//! - [`Log::open`] gives the frames back whole and in order, or says why it can't. What a crash can leave at the
//!   very end, a torn frame, is cut off and reported. Damage before the end is refused, never skipped.
//! - A full disk is not a failure: an append that needs a new segment and finds no room writes nothing, and may be
//!   tried again. A write or sync that fails ends the log's life: what the page cache then holds can't be trusted.
//!
//! # Format
//!
//! Numbers are little-endian. Segment `n` is the file `{n:016x}.log`, as long as its header says, zeros where nothing
//! has been written yet:
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
//! The second checksum lets a reader believe a length before it reads that far, and makes the search for frames
//! behind a damaged one linear whatever the bytes are.
//!
//! # Where the log ends
//!
//! A segment is made under another name, reserved, synced, and only then named; and only after the last frame of the
//! one before it was confirmed. So a segment that has a successor ends where the successor's header says, and all
//! before that must be valid. In the last segment the log ends at the first place without a valid frame. At most one
//! frame is ever unconfirmed, so bytes behind that place are a torn frame, unless there is a valid frame among them:
//! then confirmed frames are lost, and that is damage.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};
use rustix::io::Errno;

use crate::durable::{belongs_to_folder, point};

/// The longest payload, in bytes. Far above any commit group; it bounds what a reader has to hold.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 8] = *b"profiLog";
const VERSION: u32 = 1;
const SEGMENT_HEADER_BYTES: u64 = 48;
const FRAME_HEADER_BYTES: u64 = 12;
const ALIGNMENT: u64 = 8;

/// How far a reader reads ahead: one system call for many small frames.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// What the append buffer keeps after a frame that needed more.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// A page of nothing, to compare with and to write.
static ZEROS: [u8; 4096] = [0; 4096];

/// A place between two frames. Orders as the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    segment: u64,
    offset: u64,
}

impl Position {
    /// Before the first frame of a new log.
    pub const START: Self = Self { segment: 0, offset: SEGMENT_HEADER_BYTES };

    /// Before the first frame that is still kept in a folder; `None` if it holds no segment.
    pub fn first_in(folder: &Path) -> Result<Option<Self>, LogError> {
        if !folder.exists() {
            return Ok(None);
        }
        let numbers = Folder::open(folder, &SystemDisk)?.numbers()?;
        Ok(numbers.first().map(|&segment| Self { segment, offset: SEGMENT_HEADER_BYTES }))
    }

    /// The segment's number and the byte offset in its file, for storing.
    pub const fn to_pair(self) -> (u64, u64) {
        (self.segment, self.offset)
    }

    /// The position that was stored as this pair. [`Log::open`] refuses one that is not between frames.
    pub const fn from_pair((segment, offset): (u64, u64)) -> Self {
        Self { segment, offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of segment {:016x}", self.offset, self.segment)
    }
}

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

/// What was cut off at the end of the log when it was opened: the remains of an append that a crash interrupted, and
/// that therefore nobody was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: PathBuf,
    /// Where the valid frames end; 0 if the segment itself was half-made, and is gone.
    pub offset: u64,
    /// How many bytes there were from there to the last that isn't zero; 0 if the file was only too short.
    pub bytes: u64,
}

/// Why a log can't be opened, or an old segment not be removed.
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
    #[error("{} is damaged at byte {offset}: {damage}; restore the file, or the folder from a backup, or give up what is damaged with `profiled check --salvage`", file.display())]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong, and how that is known.
        damage: Damage,
    },
    /// A segment is not there, although the log goes on after it.
    #[error("{} is missing, but the journal goes on after it; restore the file, or the folder from a backup", file.display())]
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
    /// The position to read from is behind the end: someone has seen frames that this log does not hold.
    #[error("the journal in {} ends at {end}, before {from}, from where it is to be read; it is not the journal that position belongs to, or its end is lost", dir.display())]
    EndsBefore {
        /// The log's folder.
        dir: PathBuf,
        /// Where reading was to begin.
        from: Position,
        /// Where the log ends, as far as it was looked at.
        end: Position,
    },
    /// The position to read from is inside a frame.
    #[error("{from} is not between two frames of the journal in {}; it is not the journal that position belongs to", dir.display())]
    NotBetweenFrames {
        /// The log's folder.
        dir: PathBuf,
        /// Where reading was to begin.
        from: Position,
    },
}

/// How it is known that frames are lost, and not just the end of an interrupted append.
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
    /// A header that is not valid, in a segment that isn't just half-made.
    #[error("the header of the segment does not match its checksum")]
    SegmentHeader,
    /// A valid header, in a file with another segment's name.
    #[error("by its header it is segment {found:016x}")]
    OtherSegment {
        /// The number in the header.
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
    /// There is no room (or quota, or file handle) for a new segment. Nothing was written. The log goes on being
    /// usable: the same append may be tried again, and a smaller one may still fit into the current segment.
    #[error("no room for {}, a new journal segment of {bytes} bytes: {source}", file.display())]
    Full {
        /// The segment that was to be made.
        file: PathBuf,
        /// How large it was to be.
        bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A write or a sync failed. Whether the frame is on disk is not known. Stop acknowledging, and exit.
    #[error("could not write to {} and sync it: {source}; nothing more can be acknowledged", file.display())]
    Failed {
        /// The segment file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An earlier append failed, so this one was not tried.
    #[error("nothing more is written to the journal, for an earlier write or sync failed")]
    Stopped,
    /// The payload is too long. Nothing was written.
    #[error("a journal frame of {bytes} bytes is too long: at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLong {
        /// The payload's length.
        bytes: usize,
    },
}

/// A stretch of damaged frames that [`Log::salvage`] gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// The segment file.
    pub file: PathBuf,
    /// Where the damage begins, between two frames.
    pub from: Position,
    /// Where the next valid frame begins, or the segment's frames end.
    pub to: Position,
}

/// Reads the frames between two positions of a log that somebody else may append to. Both must be between confirmed
/// frames; nothing behind the second is looked at, and nothing is changed.
pub fn read_between<E: From<LogError>>(
    dir: &Path,
    from: Position,
    to: Position,
    mut each: impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let file = File::open(dir).map_err(failed("open", dir))?;
    let folder = Folder { path: dir.to_owned(), file };
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
/// Nothing here keeps a second process from opening the same folder; whoever owns the data folder locks it.
#[derive(Debug)]
pub struct Log {
    folder: Folder,
    settings: LogSettings,
    disk: Box<dyn Disk>,
    segment: Segment,
    offset: u64,
    bytes: u64,
    buffer: Vec<u8>,
    stopped: bool,
}

impl Log {
    /// Opens the log in `dir`, or makes one, and calls `each` with start, end and payload of every frame from `from`
    /// on. Segments before `from`'s are not looked at; its own is verified from its first frame on.
    ///
    /// A torn tail is cut off and returned. Where anything is refused, no byte behind a segment's header is changed.
    pub fn open<E: From<LogError>>(
        dir: &Path,
        settings: LogSettings,
        from: Position,
        each: impl FnMut(Position, Position, &[u8]) -> Result<(), E>,
    ) -> Result<(Self, Option<TornTail>), E> {
        Self::open_on(Box::new(SystemDisk), dir, settings, from, each)
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

    /// Gives up the damaged frames that keep the log in `dir` from being opened from `from` on, if there are any: each
    /// stretch becomes one frame, valid, with `filler` of the right length for a payload, so that all other frames stay
    /// where they are. `before` is told of each segment file before it is changed. What is damaged beyond frames, a
    /// segment's header or a whole file, is still refused.
    pub fn salvage(
        dir: &Path,
        from: Position,
        filler: impl Fn(usize) -> Vec<u8>,
        mut before: impl FnMut(&Path) -> io::Result<()>,
    ) -> Result<Vec<GivenUp>, LogError> {
        let mut given_up = Vec::new();
        loop {
            let opened = Self::open(dir, LogSettings::default(), from, |_, _, _| Ok::<_, LogError>(()));
            let (file, offset, damage) = match opened {
                Ok(_) => return Ok(given_up),
                Err(LogError::Damaged { file, offset, damage }) => (file, offset, damage),
                Err(error) => return Err(error),
            };
            let end = match damage {
                Damage::BeforeFrame { next, .. } => next,
                Damage::BeforeSegment { end, .. } | Damage::Overrun { end } => end,
                Damage::SegmentHeader | Damage::OtherSegment { .. } => {
                    return Err(LogError::Damaged { file, offset, damage });
                }
            };
            let folder = Folder::open(dir, &SystemDisk)?;
            let number = file.file_name().and_then(|name| number_in(name.to_str()?, ".log"));
            let segment = folder.segment(number.unwrap_or_default(), false)?;
            let end = segment.next_frame(offset, end)?;
            before(&file).map_err(failed("keep a copy of", &file))?;
            let length = end - offset;
            let payload = filler(size(length.saturating_sub(FRAME_HEADER_BYTES)));
            let frame_bytes = u32::try_from(FRAME_HEADER_BYTES + payload.len() as u64).unwrap_or(u32::MAX);
            let mut frame = Vec::new();
            segment.frame(offset, frame_bytes, &payload, &mut frame);
            let written = File::options().write(true).open(&file).and_then(|open| {
                open.write_all_at(&frame, offset)?;
                open.sync_all()
            });
            written.map_err(failed("write into", &file))?;
            let position = |offset| Position { segment: segment.number, offset };
            given_up.push(GivenUp { from: position(offset), to: position(end), file });
        }
    }

    /// Appends one frame, and returns the position after it once `fdatasync` has confirmed.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position, AppendError> {
        if self.stopped {
            return Err(AppendError::Stopped);
        }
        let too_long = AppendError::TooLong { bytes: payload.len() };
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_long);
        }
        let length = FRAME_HEADER_BYTES + payload.len() as u64;
        let Ok(length) = u32::try_from(length) else { return Err(too_long) };
        if padded(length) > self.segment.capacity.saturating_sub(self.offset) {
            self.next_segment(padded(length))?;
        }

        self.segment.frame(self.offset, length, payload, &mut self.buffer);
        let file = &self.segment.file;
        let confirmed = self
            .disk
            .write_frame(file, &self.buffer, self.offset)
            .and_then(|()| self.disk.sync_frame(file))
            .map_err(|source| AppendError::Failed { file: self.segment.path.clone(), source });
        self.stopped = confirmed.is_err();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        confirmed?;
        self.offset += padded(length);
        Ok(self.end())
    }

    /// Begins a new segment, unless the current one is empty: the ones before it can then be removed one day, whole.
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

    /// What the segment files take on disk, reserved room included.
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
        self.disk.sync(&self.folder.file).map_err(failed("sync", &self.folder.path))
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
            Err(NotCreated { named: false, source }) if no_room(&source) => {
                Err(AppendError::Full { file: self.folder.path_of(number), bytes, source })
            }
            Err(NotCreated { source, .. }) => {
                self.stopped = true;
                Err(AppendError::Failed { file: self.folder.path_of(number), source })
            }
        }
    }
}

/// The folder of the segment files, and what they are called.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    file: File,
}

/// A segment that could not be made. If it had its name already, it may come to light after a crash.
struct NotCreated {
    named: bool,
    source: io::Error,
}

impl Folder {
    fn open(path: &Path, disk: &dyn Disk) -> Result<Self, LogError> {
        let missing = path.ancestors().take_while(|folder| !is_current(folder) && !folder.exists()).count();
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let file = File::open(path).map_err(failed("open", path))?;
        let folder = Self { path: path.to_owned(), file };
        for entry in fs::read_dir(path).map_err(failed("list", path))? {
            let name = entry.map_err(failed("list", path))?.file_name();
            // A segment that was never named holds nothing.
            if name.to_str().and_then(|name| number_in(name, ".new")).is_some() {
                let path = path.join(name);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        disk.sync(&folder.file).map_err(failed("sync", path))?;
        // A new folder is durable when its name in its parent is, and the parent's in its own.
        for parent in path.ancestors().skip(1).take(missing.max(1)) {
            let parent = if is_current(parent) { Path::new(".") } else { parent };
            File::open(parent).and_then(|parent| disk.sync(&parent)).map_err(failed("sync", parent))?;
        }
        Ok(folder)
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016x}.log"))
    }

    /// The numbers of the segments, in order.
    fn numbers(&self) -> Result<Vec<u64>, LogError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed("list", &self.path))? {
            let name = entry.map_err(failed("list", &self.path))?.file_name();
            numbers.extend(name.to_str().and_then(|name| number_in(name, ".log")));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn bytes(&self) -> Result<u64, LogError> {
        self.numbers()?.into_iter().try_fold(0, |bytes: u64, number| {
            let path = self.path_of(number);
            let metadata = fs::metadata(&path).map_err(failed("look at", &path))?;
            Ok(bytes.saturating_add(metadata.len()))
        })
    }

    /// The number of the last segment, if there is one, after all those from `from`'s on were found to be there. A
    /// half-made one at the end is removed.
    fn last_segment(
        &self,
        disk: &dyn Disk,
        from: Position,
    ) -> Result<(Option<u64>, Option<TornTail>), LogError> {
        let numbers = self.numbers()?;
        let Some(&last) = numbers.last() else {
            return match from {
                Position::START => Ok((None, None)),
                _ => Err(LogError::EndsBefore { dir: self.path.clone(), from, end: Position::START }),
            };
        };
        let mut present = numbers.into_iter().filter(|&number| number >= from.segment);
        if let Some(number) = (from.segment..=last).find(|&number| present.next() != Some(number)) {
            return Err(LogError::Missing { file: self.path_of(number) });
        }

        let Some(torn) = self.half_made(last)? else { return Ok((Some(last), None)) };
        if from.segment >= last && from != Position::START {
            let end = Position { segment: last, offset: 0 };
            return Err(LogError::EndsBefore { dir: self.path.clone(), from, end });
        }
        fs::remove_file(&torn.file).map_err(failed("remove", &torn.file))?;
        disk.sync(&self.file).map_err(failed("sync", &self.path))?;
        // `from`'s segment is there, so a first segment that goes is the very first.
        Ok((last.checked_sub(1), Some(torn)))
    }

    /// What is in the segment, if its header is not valid and no byte behind it is set: then it holds no frame.
    fn half_made(&self, number: u64) -> Result<Option<TornTail>, LogError> {
        let path = self.path_of(number);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut window = Window::new(&file, &path)?;
        if !matches!(SegmentHeader::decode(window.at(0, SEGMENT_HEADER_BYTES)?), Header::Invalid) {
            return Ok(None);
        }
        if window.filled(SEGMENT_HEADER_BYTES)? > 0 {
            return Ok(None);
        }
        let bytes = window.filled(0)?;
        Ok(Some(TornTail { file: path, offset: 0, bytes }))
    }

    /// Opens a segment and checks its header. Only the last one is ever written to.
    fn segment(&self, number: u64, write: bool) -> Result<Segment, LogError> {
        let path = self.path_of(number);
        let file = OpenOptions::new().read(true).write(write).open(&path).map_err(failed("open", &path))?;
        let damaged = |path, damage| Err(LogError::Damaged { file: path, offset: 0, damage });
        let mut window = Window::new(&file, &path)?;
        match SegmentHeader::decode(window.at(0, SEGMENT_HEADER_BYTES)?) {
            Header::Invalid => damaged(path, Damage::SegmentHeader),
            Header::Version(found) => Err(LogError::Version { file: path, found }),
            Header::Valid(header) if header.number != number => {
                damaged(path, Damage::OtherSegment { found: header.number })
            }
            Header::Valid(SegmentHeader { number, capacity, salt, previous_end }) => {
                Ok(Segment { path, file, number, capacity, salt, previous_end })
            }
        }
    }

    /// Makes a segment. It bears its name only when it is complete and synced, so a crash leaves none half-made.
    fn create(
        &self,
        disk: &dyn Disk,
        number: u64,
        capacity: u64,
        previous_end: u64,
    ) -> Result<Segment, NotCreated> {
        let path = self.path_of(number);
        let unnamed = path.with_extension("new");
        let header = SegmentHeader { number, capacity, salt: random(), previous_end };
        let create = || {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unnamed)?;
            belongs_to_folder(&file, &unnamed)?;
            disk.reserve(&file, capacity)?;
            file.write_all_at(&header.encode(), 0)?;
            disk.sync(&file)?;
            point("segment-rename")?;
            fs::rename(&unnamed, &path)?;
            Ok(file)
        };
        let file = create().map_err(|source| {
            // If it can't be removed, the next attempt or the next start will do it.
            drop(fs::remove_file(&unnamed));
            NotCreated { named: false, source }
        })?;
        disk.sync(&self.file).map_err(|source| NotCreated { named: true, source })?;
        Ok(Segment { path, file, number, capacity, salt: header.salt, previous_end })
    }
}

/// Whether a path is what remains of a relative one when all its names are gone.
fn is_current(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// The number in a name such as `000000000000002a.log`.
fn number_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// 64 bits from the randomness that the standard library seeds its hash maps with.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// One open segment file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    number: u64,
    capacity: u64,
    salt: u64,
    previous_end: u64,
}

/// A valid frame in a window.
struct Frame<'w> {
    whole: &'w [u8],
    payload: &'w [u8],
    end: u64,
    /// Whether the header of another frame follows: then this one was confirmed.
    followed: bool,
}

impl Segment {
    /// Replays a segment that has a successor: all up to `sealed` must be valid.
    fn replay_sealed<E: From<LogError>>(
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

    /// Replays the last segment: gives the offset where its frames end, and what is there instead of a frame.
    fn replay_last<E: From<LogError>>(
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
                // Perhaps it was never confirmed. If its sync failed, the page cache takes it for clean although the
                // disk doesn't have it; so it is written anew before anyone relies on it.
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
        if start >= from {
            each(start, end, frame.payload)
        } else if end > from {
            Err(LogError::NotBetweenFrames { dir: folder.path.clone(), from }.into())
        } else {
            Ok(())
        }
    }

    /// Makes all behind the last frame zeros again, durably, unless there is a frame among it.
    fn cut(&self, disk: &dyn Disk, offset: u64, flaw: Flaw) -> Result<Option<TornTail>, LogError> {
        let mut window = Window::new(&self.file, &self.path)?;
        let torn = window.filled(offset)?;
        let short = window.length < self.capacity;
        let mut place = offset;
        while place < offset + torn {
            if !window.blank(place)? {
                for next in (place..place + ZEROS.len() as u64).step_by(size(ALIGNMENT)) {
                    if next > offset && self.frame_at(&mut window, next)?.is_ok() {
                        return Err(self.damaged(offset, Damage::BeforeFrame { flaw, next }));
                    }
                }
            }
            place += ZEROS.len() as u64;
        }
        if torn == 0 && !short {
            return Ok(None);
        }
        // Overwritten in place, not cut short and reserved again: the disk may have become full meanwhile.
        write_zeros(&self.file, offset, offset + torn)
            .and_then(|()| if short { disk.reserve(&self.file, self.capacity) } else { Ok(()) })
            .and_then(|()| disk.sync(&self.file))
            .map_err(failed("cut the torn tail of", &self.path))?;
        Ok(Some(TornTail { file: self.path.clone(), offset, bytes: torn }))
    }

    /// Where the first valid frame behind a damaged one begins, or `end` if there is none before that.
    fn next_frame(&self, damaged: u64, end: u64) -> Result<u64, LogError> {
        let mut window = Window::new(&self.file, &self.path)?;
        for next in (damaged + ALIGNMENT..end).step_by(size(ALIGNMENT)) {
            if self.frame_at(&mut window, next)?.is_ok() {
                return Ok(next);
            }
        }
        Ok(end)
    }

    /// The frame at an offset, or why there is none.
    fn frame_at<'w>(
        &self,
        window: &'w mut Window<'_>,
        offset: u64,
    ) -> Result<Result<Frame<'w>, Flaw>, LogError> {
        let header = window.at(offset, FRAME_HEADER_BYTES)?;
        let Some((length, sum)) = self.frame_header(offset, header) else {
            let flaw = match header {
                header if (header.len() as u64) < FRAME_HEADER_BYTES => Flaw::Short,
                header if ZEROS.starts_with(header) => Flaw::Zeros,
                _ => Flaw::FrameHeader,
            };
            return Ok(Err(flaw));
        };
        let bytes = window.at(offset, padded(length) + FRAME_HEADER_BYTES)?;
        let Some((whole, next)) = bytes.split_at_checked(size(padded(length))) else {
            return Ok(Err(Flaw::Short));
        };
        let body = whole.get(size(FRAME_HEADER_BYTES)..).unwrap_or_default();
        let Some(payload) = whole.get(size(FRAME_HEADER_BYTES)..size(length.into())) else {
            return Ok(Err(Flaw::FrameHeader));
        };
        if crc32c(body) != sum {
            return Ok(Err(Flaw::Payload));
        }
        let end = offset + padded(length);
        let followed = self.frame_header(end, next).is_some();
        Ok(Ok(Frame { whole, payload, end, followed }))
    }

    /// Length and payload checksum, if these bytes are the header of a frame at this offset of this segment.
    fn frame_header(&self, offset: u64, mut bytes: &[u8]) -> Option<(u32, u32)> {
        let (length, sum, check) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        let fits = u64::from(length) >= FRAME_HEADER_BYTES
            && padded(length) <= self.capacity.saturating_sub(offset)
            && check == self.frame_check(offset, length, sum);
        fits.then_some((length, sum))
    }

    fn frame_check(&self, offset: u64, length: u32, sum: u32) -> u32 {
        let check = crc32c_append(crc32c(&self.salt.to_le_bytes()), &offset.to_le_bytes());
        crc32c_append(crc32c_append(check, &length.to_le_bytes()), &sum.to_le_bytes())
    }

    /// Lays a frame out in a buffer.
    fn frame(&self, offset: u64, length: u32, payload: &[u8], buffer: &mut Vec<u8>) {
        let padding = ZEROS.get(..size(padded(length) - u64::from(length))).unwrap_or_default();
        let sum = crc32c_append(crc32c(payload), padding);
        buffer.clear();
        buffer.reserve(size(padded(length)));
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&sum.to_le_bytes());
        buffer.extend_from_slice(&self.frame_check(offset, length, sum).to_le_bytes());
        buffer.extend_from_slice(payload);
        buffer.extend_from_slice(padding);
    }

    fn damaged(&self, offset: u64, damage: Damage) -> LogError {
        LogError::Damaged { file: self.path.clone(), offset, damage }
    }
}

/// What a segment's first bytes say.
struct SegmentHeader {
    number: u64,
    capacity: u64,
    salt: u64,
    previous_end: u64,
}

enum Header {
    Valid(SegmentHeader),
    Version(u32),
    Invalid,
}

impl SegmentHeader {
    fn encode(&self) -> Vec<u8> {
        let mut start = MAGIC.to_vec();
        start.extend_from_slice(&VERSION.to_le_bytes());
        let rest = [self.number, self.capacity, self.salt, self.previous_end].map(u64::to_le_bytes).concat();
        let sum = crc32c_append(crc32c(&start), &rest);
        [start, sum.to_le_bytes().to_vec(), rest].concat()
    }

    fn decode(bytes: &[u8]) -> Header {
        Self::parse(bytes).unwrap_or(Header::Invalid)
    }

    fn parse(mut bytes: &[u8]) -> Option<Header> {
        let start = bytes.get(..12)?;
        bytes = bytes.strip_prefix(&MAGIC)?;
        let version = take_u32(&mut bytes)?;
        if version != VERSION {
            return Some(Header::Version(version));
        }
        let sum = take_u32(&mut bytes)?;
        if crc32c_append(crc32c(start), bytes) != sum {
            return None;
        }
        Some(Header::Valid(Self {
            number: take_u64(&mut bytes)?,
            capacity: take_u64(&mut bytes)?,
            salt: take_u64(&mut bytes)?,
            previous_end: take_u64(&mut bytes)?,
        }))
    }
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

/// What a frame of this length takes in the file.
fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(ALIGNMENT)
}

/// A number of bytes to hold in memory: at most a frame's.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A part of a file in memory, that moves over it.
struct Window<'f> {
    file: &'f File,
    path: &'f Path,
    length: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'f> Window<'f> {
    fn new(file: &'f File, path: &'f Path) -> Result<Self, LogError> {
        let length = file.metadata().map_err(failed("look at", path))?.len();
        Ok(Self { file, path, length, start: 0, buffer: Vec::new() })
    }

    /// The bytes at an offset; fewer than asked for only if the file ends there.
    fn at(&mut self, offset: u64, bytes: u64) -> Result<&[u8], LogError> {
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
    fn blank(&mut self, offset: u64) -> Result<bool, LogError> {
        let page = self.at(offset, ZEROS.len() as u64)?;
        Ok(ZEROS.starts_with(page))
    }

    /// How many bytes there are from an offset to the last one of the file that isn't zero.
    fn filled(&mut self, offset: u64) -> Result<u64, LogError> {
        let mut filled = 0;
        let mut place = offset;
        while place < self.length {
            let page = self.at(place, ZEROS.len() as u64)?;
            if !ZEROS.starts_with(page) {
                let last = page.iter().rposition(|&byte| byte != 0).unwrap_or_default();
                filled = place + last as u64 + 1 - offset;
            }
            place += ZEROS.len() as u64;
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

/// What the log asks of a disk beyond reading. Tests put others in its place: slow syncs left out, and faults.
trait Disk: fmt::Debug + Send {
    /// Takes room for a file that is to be this long, and makes what is new in it zeros.
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes a frame.
    fn write_frame(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes a frame that was written durable.
    fn sync_frame(&self, file: &File) -> io::Result<()>;
    /// Makes all of a file, or the names in a folder, durable.
    fn sync(&self, file: &File) -> io::Result<()>;
}

#[derive(Debug)]
struct SystemDisk;

impl Disk for SystemDisk {
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
        point("segment-reserve")?;
        let reserve = || rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        match rustix::io::retry_on_intr(reserve) {
            // Room is taken by filling it, where the file system can't do it otherwise.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, file.metadata()?.len(), bytes),
            done => Ok(done?),
        }
    }

    fn write_frame(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        fail::fail_point!("journal-write", |_| Ok(()));
        point("frame-write")?;
        file.write_all_at(bytes, offset)
    }

    fn sync_frame(&self, file: &File) -> io::Result<()> {
        fail::fail_point!("journal-sync", |_| Ok(()));
        point("frame-sync")?;
        file.sync_data()?;
        point("frame-synced")
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        point("segment-sync")?;
        file.sync_all()
    }
}

fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let zeros = ZEROS.get(..size(to - from)).unwrap_or(&ZEROS);
        file.write_all_at(zeros, from)?;
        from += zeros.len() as u64;
    }
    Ok(())
}

fn no_room(error: &io::Error) -> bool {
    let out_of_space = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    out_of_space || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { action, file: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use tempfile::TempDir;

    /// Writes for real but never syncs: what only a power cut would tell apart, and thousands of opens can do without.
    #[derive(Debug)]
    struct Unsynced;

    impl Disk for Unsynced {
        fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
            file.set_len(bytes)
        }
        fn write_frame(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            file.write_all_at(bytes, offset)
        }
        fn sync_frame(&self, _: &File) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self, _: &File) -> io::Result<()> {
            Ok(())
        }
    }

    /// Fails at one kind of operation, half-way through it, for as long as told to.
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
        fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
            self.fails_at("reserve").inspect_err(|_| Unsynced.reserve(file, bytes / 2).unwrap())?;
            Unsynced.reserve(file, bytes)
        }
        fn write_frame(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            let half = &bytes[..bytes.len() / 2];
            self.fails_at("write").inspect_err(|_| file.write_all_at(half, offset).unwrap())?;
            Unsynced.write_frame(file, bytes, offset)
        }
        fn sync_frame(&self, _: &File) -> io::Result<()> {
            self.fails_at("sync frame")
        }
        fn sync(&self, file: &File) -> io::Result<()> {
            self.fails_at(if file.metadata()?.is_dir() { "sync folder" } else { "sync file" })
        }
    }

    type Files = BTreeMap<String, Vec<u8>>;
    type Opened = (Log, Option<TornTail>);

    /// A journal of known frames, and a folder to put changed versions of it into.
    struct Journal {
        dir: TempDir,
        files: Files,
        frames: Vec<(Position, Position, Vec<u8>)>,
    }

    const SMALL: LogSettings = LogSettings { segment_bytes: 512 };
    const MEDIUM: LogSettings = LogSettings { segment_bytes: 4 << 10 };

    fn payload(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from((n * 31 + seed * 7) % 256).unwrap() | 1).collect()
    }

    /// What a frame with a payload this long takes.
    fn room_of(length: usize) -> u64 {
        padded(u32::try_from(length).unwrap() + 12)
    }

    fn name(number: u64) -> String {
        format!("{number:016x}.log")
    }

    impl Journal {
        fn new(settings: LogSettings, lengths: &[usize]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (mut log, _) =
                Log::open_on(Box::new(Unsynced), dir.path(), settings, Position::START, ignore).unwrap();
            let mut frames = Vec::new();
            for (seed, &length) in lengths.iter().enumerate() {
                let payload = payload(length, seed);
                let end = log.append(&payload).unwrap();
                let start = end.offset - room_of(length);
                frames.push((Position { offset: start, ..end }, end, payload));
            }
            let files = read(dir.path());
            Self { dir, files, frames }
        }

        fn path(&self) -> &Path {
            self.dir.path()
        }

        /// Opens a version of the journal: what came back of it, and the log or the refusal.
        fn open_as(&self, files: &Files, from: Position) -> (Vec<Vec<u8>>, Result<Opened, LogError>) {
            for entry in fs::read_dir(self.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            for (name, bytes) in files {
                fs::write(self.path().join(name), bytes).unwrap();
            }
            self.open(from)
        }

        fn open(&self, from: Position) -> (Vec<Vec<u8>>, Result<Opened, LogError>) {
            let mut seen = Vec::new();
            let each = |_, _, payload: &[u8]| {
                seen.push(payload.to_vec());
                Ok(())
            };
            let opened = Log::open_on(Box::new(Unsynced), self.path(), SMALL, from, each);
            (seen, opened)
        }

        fn payloads(&self, count: usize) -> Vec<Vec<u8>> {
            self.frames[..count].iter().map(|(_, _, payload)| payload.clone()).collect()
        }

        /// How many frames are whole in a version of the journal, up to the first that isn't.
        fn whole_in(&self, files: &Files) -> usize {
            let part = |files: &Files, start: Position, end: Position| {
                let bytes = &files.get(&name(start.segment))?;
                bytes.get(size(start.offset)..size(end.offset)).map(<[u8]>::to_vec)
            };
            let whole = |(start, end, _): &&(Position, Position, Vec<u8>)| {
                part(files, *start, *end) == part(&self.files, *start, *end)
            };
            self.frames.iter().take_while(whole).count()
        }

        fn last(&self) -> u64 {
            self.frames.last().unwrap().1.segment
        }

        fn changed(&self, segment: u64, change: impl FnOnce(&mut Vec<u8>)) -> Files {
            let mut files = self.files.clone();
            change(files.get_mut(&name(segment)).unwrap());
            files
        }
    }

    fn ignore(_: Position, _: Position, _: &[u8]) -> Result<(), LogError> {
        Ok(())
    }

    fn read(dir: &Path) -> Files {
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        paths
            .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap()))
            .collect()
    }

    /// Frames in segments of 512 bytes, but for one of its own size: 0–2 in the first, 9–11 in the last.
    fn several_segments() -> Journal {
        Journal::new(SMALL, &[100, 0, 205, 300, 1, 1500, 7, 8, 440, 90, 33, 20])
    }

    #[test]
    fn frames_come_back_over_several_segments_on_the_real_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("journal");
        let mut written: Vec<(Position, Position, Vec<u8>)> = Vec::new();
        for round in 0..3 {
            let mut seen = Vec::new();
            let each = |start, end, payload: &[u8]| {
                seen.push((start, end, payload.to_vec()));
                Ok::<_, LogError>(())
            };
            let (mut log, torn) = Log::open(&path, SMALL, Position::START, each).unwrap();
            assert_eq!((seen, torn), (written.clone(), None));
            for length in [0, 1, 4, 300, 5000, 7, 460, 200] {
                let payload = payload(length, round);
                let before = log.end();
                let end = log.append(&payload).unwrap();
                assert!(before < end && log.end() == end);
                let offset = end.offset - room_of(length);
                written.push((Position { offset, ..end }, end, payload));
            }
            assert_eq!(log.bytes(), read(&path).values().map(|file| file.len() as u64).sum::<u64>());
        }
    }

    #[test]
    fn reading_begins_where_told_and_only_between_frames() {
        let journal = several_segments();
        let last = journal.frames.last().unwrap().1;
        for segment in 0..last.segment + 2 {
            for offset in 0..2000 {
                let from = Position::from_pair((segment, offset));
                assert_eq!(Position::from_pair(from.to_pair()), from);
                let (seen, opened) = journal.open(from);
                let starts = |(start, _, _): &&(Position, Position, Vec<u8>)| *start >= from;
                let expected: Vec<_> = journal.frames.iter().filter(starts).map(|f| f.2.clone()).collect();
                let between = offset <= SEGMENT_HEADER_BYTES || journal.frames.iter().any(|f| f.1 == from);
                match opened {
                    Ok(_) => assert!(between && from <= last && seen == expected, "{from}"),
                    Err(LogError::NotBetweenFrames { .. }) => assert!(!between, "{from}"),
                    Err(LogError::EndsBefore { end, .. }) => assert!(end == last && last < from, "{from}"),
                    Err(error) => panic!("{from}: {error}"),
                }
            }
        }
        assert_eq!(read(journal.path()), journal.files, "a refused position changes nothing");
    }

    #[test]
    fn a_refusal_of_the_caller_ends_the_reading() {
        let journal = several_segments();
        #[derive(Debug, thiserror::Error)]
        enum Refusal {
            #[error(transparent)]
            Log(#[from] LogError),
            #[error("enough at {0}")]
            Enough(Position),
        }
        let mut count = 0;
        let each = |start, _, _: &[u8]| {
            count += 1;
            if count == 5 { Err(Refusal::Enough(start)) } else { Ok(()) }
        };
        let refusal = Log::open(journal.path(), SMALL, Position::START, each).unwrap_err();
        assert!(matches!(refusal, Refusal::Enough(at) if at == journal.frames[4].0));
    }

    /// Opens a version whose end is lost, writes on, and opens it again.
    fn check_cut(journal: &Journal, files: &Files, case: &str) {
        let whole = journal.whole_in(files);
        let (seen, opened) = journal.open_as(files, Position::START);
        let (mut log, torn) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(seen, journal.payloads(whole), "{case}");
        if let Some(torn) = torn.filter(|torn| torn.offset > 0) {
            assert_eq!(torn.offset, log.end().offset, "{case}");
            let left = &files[torn.file.file_name().unwrap().to_str().unwrap()][size(torn.offset)..];
            assert_eq!(size(torn.bytes), left.iter().rposition(|&b| b != 0).map_or(0, |n| n + 1), "{case}");
        }
        let mut expected = journal.payloads(whole);
        for length in [50, 300] {
            expected.push(payload(length, 99));
            log.append(&payload(length, 99)).unwrap();
        }
        let (seen, opened) = journal.open(Position::START);
        assert_eq!(seen, expected, "{case}, written on");
        assert_eq!(opened.unwrap().1, None, "{case}, written on");
    }

    #[test]
    fn wherever_the_end_is_lost_whole_frames_remain_and_can_be_written_on() {
        let one_segment = Journal::new(MEDIUM, &[400, 0, 900, 17, 1200, 64, 2, 800]);
        for journal in [one_segment, several_segments()] {
            let last = journal.last();
            let length = journal.files[&name(last)].len();
            for cut in 0..=length {
                let short = journal.changed(last, |file| file.truncate(cut));
                check_cut(&journal, &short, &format!("cut at {cut}"));
            }
            // A header whose segment has frames can't be lost by a crash: another test.
            for cut in size(SEGMENT_HEADER_BYTES)..=length {
                let zeros = journal.changed(last, |file| file[cut..].fill(0));
                check_cut(&journal, &zeros, &format!("zeros from {cut}"));
            }
        }
    }

    #[test]
    fn a_torn_last_frame_is_cut_whichever_part_of_it_persisted() {
        let journal = several_segments();
        let &(start, end, _) = journal.frames.last().unwrap();
        let (start, end) = (size(start.offset), size(end.offset));
        let torn = |case: &str, change: &dyn Fn(&mut [u8])| {
            let files = journal.changed(journal.last(), |file| change(&mut file[start..]));
            assert_eq!(journal.whole_in(&files), journal.frames.len() - 1, "{case}");
            check_cut(&journal, &files, case);
        };
        for part in (4..end - start).step_by(4) {
            torn("only its last bytes", &|tail| tail[..part].fill(0));
            torn("only its first bytes", &|tail| tail[part - 3..].fill(0));
            torn("a hole in it", &|tail| tail[part - 4..part].fill(0));
            torn("rubbish from somewhere in it", &|tail| tail[part..].fill(0xff));
            torn("a far too large length", &|tail| {
                tail[..4].copy_from_slice(&(u32::MAX - u32::try_from(part).unwrap()).to_le_bytes())
            });
        }
    }

    #[test]
    fn no_flipped_byte_changes_a_frame_or_goes_unnoticed() {
        let journal = several_segments();
        let all = journal.frames.len();
        let last_frame = size(journal.frames[all - 1].0.offset)..size(journal.frames[all - 1].1.offset);
        for (file, bytes) in &journal.files {
            for at in 0..bytes.len() {
                let mut files = journal.files.clone();
                files.get_mut(file).unwrap()[at] ^= 1 << (at % 8);
                let (seen, opened) = journal.open_as(&files, Position::START);
                assert_eq!(seen, journal.payloads(seen.len()), "{file} {at}");
                let torn = *file == name(journal.last()) && last_frame.contains(&at);
                match opened {
                    Ok((_, tail)) => {
                        assert_eq!(seen.len(), all - usize::from(torn), "{file} {at}");
                        assert!(tail.is_some() || *file != name(journal.last()), "{file} {at}");
                    }
                    Err(LogError::Damaged { file: named, .. } | LogError::Version { file: named, .. }) => {
                        assert!(named.ends_with(file) && !torn, "{file} {at}");
                        assert_eq!(read(journal.path()), files, "a refusal changes nothing");
                    }
                    Err(error) => panic!("{file} {at}: {error}"),
                }
            }
        }
    }

    #[test]
    fn damage_before_the_end_is_refused_with_its_place_and_its_proof() {
        let journal = several_segments();
        let at = |frame: usize| journal.frames[frame].0;
        let check = |frame: usize, segment: u64, change: &dyn Fn(&mut [u8]), expected: &str| {
            let files = journal.changed(segment, |file| change(file));
            let error = journal.open_as(&files, Position::START).1.unwrap_err().to_string();
            let place = format!("{} is damaged at byte {}: ", name(segment), at(frame).offset);
            assert!(error.contains(&place) && error.contains(expected), "{error}");
        };
        let body = |frame: usize| size(at(frame).offset) + 20;
        let whole = |frame: usize| size(at(frame).offset)..size(journal.frames[frame].1.offset);
        let (first, last) = (0, journal.last());
        let sealed = "yet by the next segment the frames of this one end at byte";
        check(0, first, &|file| file[body(0)] ^= 1, sealed);
        check(0, first, &|file| file[size(at(0).offset)] ^= 1, "header does not match");
        check(2, first, &|file| file[whole(2)].fill(0), sealed);
        check(2, first, &|file| file[whole(2)].fill(0), "zeros where a frame should begin");
        let follows = |frame: usize| format!("yet a valid frame follows at byte {}", at(frame).offset);
        check(9, last, &|file| file[body(9)] ^= 1, &follows(10));
        check(9, last, &|file| file[body(9)] ^= 1, "payload does not match");
        check(9, last, &|file| file[whole(9)].fill(0), &follows(10));
        check(9, last, &|file| file[whole(9).start..whole(10).end].fill(0), &follows(11));
        check(10, last, &|file| file[whole(10).start] ^= 1, &follows(11));
    }

    #[test]
    fn damage_before_the_segment_to_read_from_is_not_looked_at() {
        let journal = several_segments();
        let mut files = journal.changed(0, |file| file[100] ^= 1);
        files.remove(&name(1));
        let (seen, opened) = journal.open_as(&files, journal.frames[5].0);
        assert_eq!(seen.len(), journal.frames.len() - 5);
        opened.unwrap();
    }

    #[test]
    fn headers_are_checked() {
        let journal = several_segments();
        let check = |case: &str, files: &Files, expected: &str| {
            let error = journal.open_as(files, Position::START).1.unwrap_err().to_string();
            assert!(error.contains(expected), "{case}: {error}");
            assert_eq!(read(journal.path()), *files, "{case}: a refusal changes nothing");
        };
        let header =
            |segment, change: &dyn Fn(&mut [u8])| journal.changed(segment, |file| change(&mut file[..48]));
        let unlike = "the header of the segment does not match its checksum";
        check("a middle one is zeros", &header(2, &|header| header.fill(0)), unlike);
        check("the last is zeros, but has frames", &header(journal.last(), &|header| header.fill(0)), unlike);
        check("a bit of the salt", &header(1, &|header| header[35] ^= 4), unlike);
        check(
            "a newer version",
            &header(1, &|header| header[8] = 2),
            "format version 2; this program reads version 1",
        );
        let mut swapped = journal.files.clone();
        swapped.insert(name(1), journal.files[&name(2)].clone());
        check("another's name", &swapped, "by its header it is segment 0000000000000002");
        let middle_short = journal.changed(2, |file| file.truncate(100));
        check("a middle segment is cut short", &middle_short, "the file ends before the frame does");
    }

    #[test]
    fn a_missing_segment_is_noticed() {
        let journal = several_segments();
        for missing in 0..=journal.last() {
            let mut files = journal.files.clone();
            files.remove(&name(missing));
            let (_, opened) = journal.open_as(&files, Position::START);
            match opened {
                Ok(_) => {
                    assert_eq!(missing, journal.last(), "nothing tells of the last one but a position in it")
                }
                Err(LogError::Missing { file }) => assert!(file.ends_with(name(missing))),
                Err(error) => panic!("{missing}: {error}"),
            }
            let (_, opened) = journal.open_as(&files, journal.frames.last().unwrap().1);
            assert_eq!(
                matches!(opened, Err(LogError::EndsBefore { .. })),
                missing == journal.last(),
                "{missing}"
            );
        }
        let (_, opened) = journal.open_as(&Files::new(), journal.frames[0].1);
        assert!(matches!(opened, Err(LogError::EndsBefore { .. })), "a lost folder is not a new journal");
    }

    #[test]
    fn a_payload_that_holds_frames_is_not_taken_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let mut count = 0;
            let each = |_, _, _: &[u8]| {
                count += 1;
                Ok::<_, LogError>(())
            };
            let (log, torn) = Log::open(dir.path(), MEDIUM, Position::START, each).unwrap();
            (log, torn, count)
        };
        let (mut log, _, _) = open();
        log.append(b"").unwrap();
        log.append(&payload(300, 1)).unwrap();
        let real = fs::read(dir.path().join(name(0))).unwrap();
        let real = &real[64..64 + 312];
        // A second segment whose first frame has the copies at every alignment, one of them at its original's offset.
        log.append(&payload(3650, 2)).unwrap();
        let mut copies = [&[1; 4][..], real].concat();
        for shift in 0..8 {
            copies.extend_from_slice(&vec![1; shift]);
            copies.extend_from_slice(real);
        }
        assert_eq!(log.append(&copies).unwrap().segment, 1);
        drop(log);
        let path = dir.path().join(name(1));
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(&bytes[64..64 + 312], real);
        bytes[50] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (_, torn, count) = open();
        assert_eq!((count, torn.unwrap().offset), (3, 48));
    }

    #[test]
    fn a_crash_while_a_segment_is_made_leaves_nothing_in_the_way() {
        let journal = several_segments();
        let number = journal.last() + 1;
        let previous_end = journal.frames.last().unwrap().1.offset;
        let header = SegmentHeader { number, capacity: 512, salt: 9, previous_end }.encode();
        let fresh = [header, vec![0; 512 - 48]].concat();
        let check = |case: &str, file: &str, bytes: &[u8], torn: Option<u64>| {
            let mut files = journal.files.clone();
            files.insert(file.into(), bytes.to_vec());
            let (seen, opened) = journal.open_as(&files, Position::START);
            let (mut log, tail) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(seen, journal.payloads(journal.frames.len()), "{case}");
            assert_eq!(tail.map(|tail| tail.bytes), torn, "{case}");
            for _ in 0..3 {
                log.append(&payload(200, 5)).unwrap();
            }
            let (seen, opened) = journal.open(Position::START);
            assert_eq!((seen.len(), opened.unwrap().1), (journal.frames.len() + 3, None), "{case}");
            assert!(read(journal.path()).keys().all(|name| name.ends_with(".log")), "{case}");
        };
        let unnamed = name(number).replace("log", "new");
        check("unnamed, empty", &unnamed, b"", None);
        check("unnamed, half reserved", &unnamed, &[0; 256], None);
        check("unnamed, half a header", &unnamed, &fresh[..20], None);
        check("unnamed, complete", &unnamed, &fresh, None);
        check("unnamed, rubbish", &unnamed, &journal.files[&name(1)], None);
        check("named, without a frame", &name(number), &fresh, None);
        // Not what our own creation can leave, but it holds no frame either.
        check("named, empty", &name(number), b"", Some(0));
        check("named, half a header", &name(number), &fresh[..20], Some(17));
        check("named, zeros", &name(number), &[0; 512], Some(0));
    }

    #[test]
    fn a_full_disk_refuses_and_is_got_over() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Faulty::default();
        let open = |each: &mut Vec<usize>| {
            let each = |_, _, payload: &[u8]| {
                each.push(payload.len());
                Ok::<_, LogError>(())
            };
            Log::open_on(Box::new(disk.clone()), dir.path(), SMALL, Position::START, each).unwrap()
        };
        let (mut log, _) = open(&mut Vec::new());
        log.append(&payload(300, 0)).unwrap();
        let before = (log.end(), log.bytes(), read(dir.path()));
        for (at, error) in [
            ("reserve", Errno::NOSPC),
            ("reserve", Errno::DQUOT),
            ("reserve", Errno::FBIG),
            ("sync file", Errno::NOSPC),
        ] {
            disk.set(Some((at, error)));
            for _ in 0..2 {
                let refusal = log.append(&payload(301, 1)).unwrap_err();
                assert!(matches!(refusal, AppendError::Full { bytes: 512, .. }), "{at}: {refusal}");
            }
            assert_eq!((log.end(), log.bytes(), read(dir.path())), before, "{at}");
        }
        log.append(&payload(20, 2)).expect("what fits into the current segment needs no room");
        disk.set(None);
        log.append(&payload(301, 1)).unwrap();
        let mut seen = Vec::new();
        assert_eq!(open(&mut seen).1, None);
        assert_eq!(seen, [300, 20, 301]);
    }

    #[test]
    fn a_failed_write_or_sync_is_the_last() {
        for (at, length, error, whole) in [
            ("write", 100, Errno::IO, false),
            ("write", 100, Errno::NOSPC, false),
            ("sync frame", 100, Errno::IO, true),
            ("reserve", 400, Errno::IO, false),
            ("sync file", 400, Errno::IO, false),
            ("sync folder", 400, Errno::IO, false),
            ("sync folder", 400, Errno::NOSPC, false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let disk = Faulty::default();
            let open = |seen: &mut Vec<usize>| {
                let each = |_, _, payload: &[u8]| {
                    seen.push(payload.len());
                    Ok::<_, LogError>(())
                };
                Log::open_on(Box::new(disk.clone()), dir.path(), SMALL, Position::START, each)
            };
            let (mut log, _) = open(&mut Vec::new()).unwrap();
            let end = log.append(&payload(300, 0)).unwrap();
            disk.set(Some((at, error)));
            let refusal = log.append(&payload(length, 1)).unwrap_err();
            assert!(matches!(refusal, AppendError::Failed { .. }), "{at}: {refusal}");
            disk.set(None);
            assert!(matches!(log.append(b"x").unwrap_err(), AppendError::Stopped), "{at}");
            assert_eq!(log.end(), end, "{at}");
            drop(log);

            let mut seen = Vec::new();
            let (mut log, _) = open(&mut seen).unwrap();
            assert_eq!(seen.len(), 1 + usize::from(whole), "{at}");
            log.append(&payload(100, 2)).unwrap();
        }
    }

    #[test]
    fn the_last_frame_is_durable_before_anyone_is_told_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Faulty::default();
        let (mut log, _) =
            Log::open_on(Box::new(disk.clone()), dir.path(), SMALL, Position::START, ignore).unwrap();
        log.append(b"confirmed").unwrap();
        disk.set(Some(("sync frame", Errno::IO)));
        log.append(b"in the page cache only").unwrap_err();
        drop(log);
        disk.set(Some(("sync file", Errno::IO)));
        let mut seen = Vec::new();
        let each = |_, _, payload: &[u8]| {
            seen.push(payload.to_vec());
            Ok(())
        };
        let opened = Log::open_on(Box::new(disk), dir.path(), SMALL, Position::START, each);
        assert!(matches!(opened.unwrap_err(), LogError::Io { .. }));
        assert_eq!(seen, [b"confirmed"]);
    }

    #[test]
    fn damaged_frames_can_be_given_up_and_the_others_stay_where_they_are() {
        let journal = several_segments();
        let filler = |length| vec![b'-'; length];
        for (at, (start, end, _)) in journal.frames.iter().enumerate() {
            let name = name(start.segment);
            let mut files = journal.files.clone();
            files.get_mut(&name).unwrap()[size(start.offset) + 12] ^= 1;
            let last_of_all = at + 1 == journal.frames.len();
            drop(journal.open_as(&files, Position::START));
            let (mut kept, dir) = (vec![], journal.path());
            let given_up = Log::salvage(dir, Position::START, filler, |file| {
                kept.push(file.to_owned());
                Ok(())
            });
            let given_up = given_up.unwrap();
            if last_of_all {
                assert!(given_up.is_empty(), "a torn tail is no damage");
                continue;
            }
            assert_eq!(kept, [dir.join(&name)]);
            assert_eq!(given_up, [GivenUp { file: dir.join(&name), from: *start, to: *end }], "{at}");
            let (seen, opened) = journal.open(Position::START);
            assert!(opened.is_ok());
            let mut expected = journal.payloads(journal.frames.len());
            let length = expected[at].len();
            assert!(seen[at].iter().all(|byte| *byte == b'-') && seen[at].len() - length < 8);
            expected[at].clone_from(&seen[at]);
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_segment_can_be_ended_early() {
        let journal = several_segments();
        let (_, opened) = journal.open(Position::START);
        let (mut log, _) = opened.unwrap();
        let before = log.end();
        log.rotate().unwrap();
        log.rotate().unwrap();
        assert_eq!(log.end(), Position { segment: before.segment + 1, offset: SEGMENT_HEADER_BYTES });
        log.append(&payload(20, 1)).unwrap();
        let (seen, opened) = journal.open(Position::START);
        assert_eq!((seen.len(), opened.unwrap().1), (journal.frames.len() + 1, None));
    }

    #[test]
    fn old_segments_go_and_what_follows_them_stays() {
        let journal = several_segments();
        let (_, opened) = journal.open(Position::START);
        let (mut log, _) = opened.unwrap();
        let from = journal.frames[5].0;
        log.remove_before(from).unwrap();
        assert_eq!(log.bytes(), read(journal.path()).values().map(|file| file.len() as u64).sum::<u64>());
        let (seen, opened) = journal.open(from);
        assert_eq!(seen.len(), journal.frames.len() - 5);
        drop(opened.unwrap());
        let (_, opened) = journal.open(Position::START);
        assert!(matches!(opened.unwrap_err(), LogError::Missing { .. }));

        log.remove_before(Position { segment: 99, offset: 0 }).unwrap();
        assert_eq!(read(journal.path()).len(), 1, "the current segment stays");
    }

    #[test]
    fn large_frames_leave_no_large_buffer_and_too_large_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) =
            Log::open_on(Box::new(Unsynced), dir.path(), SMALL, Position::START, ignore).unwrap();
        log.append(&payload(8 << 20, 0)).unwrap();
        assert!(log.buffer.capacity() <= BUFFER_BYTES_KEPT);
        let refusal = log.append(&vec![0; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
        assert!(matches!(refusal, AppendError::TooLong { bytes } if bytes == PAYLOAD_BYTES_MAX + 1));
        log.append(b"goes on").unwrap();
    }
}
