//! The folder of the segment files: their names, which of them there are, and making another.
//!
//! Promises: a segment gets its name only when it is complete and synced, so a crash leaves no half-made one under that
//! name. What a crash left unnamed goes when the folder is opened.

use super::error::{Damage, LogError, TornTail, failed};
use super::header::{Header, SegmentHeader};
use super::position::{Position, SEGMENT_HEADER_BYTES};
use super::segment::Segment;
use super::window::Window;
use crate::durable::belongs_to_folder;
use crate::durable::disk::Disk;
use crate::durable::names::numbers_in;
use crate::durable::record::random_salt;
use crate::layout;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The folder, open.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// A handle that the folder can be synced by, also when no other is free.
    pub(super) file: File,
}

/// A segment that could not be made. If it had its name already, a crash may bring it to light.
pub(super) struct NotCreated {
    pub(super) named: bool,
    pub(super) source: io::Error,
}

impl Folder {
    /// Opens the folder, makes it if it is not there, and removes segments that were never named.
    pub(super) fn open(path: &Path, disk: &dyn Disk) -> Result<Self, LogError> {
        let missing = path.ancestors().take_while(|folder| !is_current(folder) && !folder.exists()).count();
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let folder = Self::open_as_it_is(path)?;
        for number in numbers_in(path, layout::NEW).map_err(failed("list", path))? {
            let path = folder.path_of(number).with_extension(layout::NEW);
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        folder.sync(disk)?;
        // A new folder is durable when its name in its parent is, and the parent's in its own.
        for parent in path.ancestors().skip(1).take(missing.max(1)) {
            let parent = if is_current(parent) { Path::new(".") } else { parent };
            File::open(parent)
                .and_then(|parent| disk.sync_folder(&parent))
                .map_err(failed("sync", parent))?;
        }
        Ok(folder)
    }

    /// Opens a folder that somebody else may be writing to, and changes nothing.
    pub(super) fn open_as_it_is(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path).map_err(failed("open", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn sync(&self, disk: &dyn Disk) -> Result<(), LogError> {
        disk.sync_folder(&self.file).map_err(failed("sync", &self.path))
    }

    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        layout::numbered(&self.path, number, layout::SEGMENT)
    }

    /// The number of the segment in this file.
    pub(super) fn number_of(file: &Path) -> Option<u64> {
        layout::number_of(file.file_name()?.to_str()?, layout::SEGMENT)
    }

    /// The numbers of the segments, in order.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, LogError> {
        let mut numbers = numbers_in(&self.path, layout::SEGMENT).map_err(failed("list", &self.path))?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What the segments take on the disk.
    pub(super) fn bytes(&self) -> Result<u64, LogError> {
        self.numbers()?.into_iter().try_fold(0, |bytes: u64, number| {
            let path = self.path_of(number);
            let metadata = fs::metadata(&path).map_err(failed("look at", &path))?;
            Ok(bytes.saturating_add(metadata.len()))
        })
    }

    /// The number of the last segment, if there is one. Checks first that all segments from `from` on are there. A half-made
    /// segment at the end is removed.
    pub(super) fn last_segment(
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
        self.sync(disk)?;
        // The segment of `from` is there, so if a first segment goes, it is the very first.
        Ok((last.checked_sub(1), Some(torn)))
    }

    /// What is in a segment whose header is not valid and that has no byte set behind it. Such a segment holds no frame.
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
    pub(super) fn segment(&self, number: u64, write: bool) -> Result<Segment, LogError> {
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

    /// Makes a segment: reserves it under another name, writes its header, syncs it, and only then names it.
    pub(super) fn create(
        &self,
        disk: &dyn Disk,
        number: u64,
        capacity: u64,
        previous_end: u64,
    ) -> Result<Segment, NotCreated> {
        let path = self.path_of(number);
        let unnamed = path.with_extension(layout::NEW);
        let header = SegmentHeader { number, capacity, salt: random_salt(), previous_end };
        let create = || {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unnamed)?;
            belongs_to_folder(&file, &unnamed)?;
            disk.reserve(&file, capacity)?;
            file.write_all_at(&header.encode(), 0)?;
            disk.sync(&file)?;
            disk.rename(&unnamed, &path)?;
            Ok(file)
        };
        let file = create().map_err(|source| {
            // If it can't be removed now, the next attempt or the next start removes it.
            drop(fs::remove_file(&unnamed));
            NotCreated { named: false, source }
        })?;
        disk.sync_folder(&self.file).map_err(|source| NotCreated { named: true, source })?;
        Ok(Segment { path, file, number, capacity, salt: header.salt, previous_end })
    }
}

/// Whether a relative path has lost all its names.
fn is_current(path: &Path) -> bool {
    path.as_os_str().is_empty()
}
