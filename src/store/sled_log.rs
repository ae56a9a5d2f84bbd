//! Checks sled's log before sled opens it, and finds losses that sled's recovery would ignore.
//!
//! sled 0.34.7 loads its snapshot of the page table and replays the log from there. A message with a wrong checksum
//! ends its segment; a segment with a damaged header is skipped. Both are normal after a crash, at the end of the log.
//! But sled skips them anywhere: it continues with the next segment, and the pages that the lost messages changed
//! silently show an older state. This reader knows which segments were complete on the disk before a later segment was
//! started.
//!
//! Promises: it changes nothing. A log that passes has lost at most its end, as after a crash; the checkpoint number
//! shows that. It does not read pages from before the snapshot; sled verifies those when it reads them.
//!
//! ```text
//! segment  512 KiB: a header, then messages, up to one that fills the rest or to a rest too short for one
//! header   checksum of the rest, inverted (4) | position in the log (8) | position up to which the log was complete (8);
//!          both positions with all bits inverted except the highest
//! message  checksum of body and rest of header, inverted (4) | kind (1) | body's length, segment's number, page (varints)
//! ```

use crate::layout;
use crc32fast::Hasher;
use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The size of sled's segments, in bytes.
pub(super) const SEGMENT_BYTES: usize = 512 << 10;
const SEGMENT: u64 = SEGMENT_BYTES as u64;
const SEGMENT_HEADER_BYTES: usize = 20;
/// A message starts at least this far before the end of its segment.
const MESSAGE_HEADER_BYTES_MAX: usize = 32;
const KIND_CORRUPTED: u8 = 0;
const KIND_CAP: u8 = 2;
const KIND_LAST: u8 = 11;
/// Inverts all bits of a position except the highest.
const PLACE_MASK: u64 = u64::MAX >> 1;
/// An unused segment is all zeros. This many samples decide; a segment in use is never zero in all of them.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: usize = 16;

/// The most threads that read the log. Each holds one segment in memory.
const THREADS_MAX: usize = 4;

/// A segment of the log.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    /// The segment's position in the log, in bytes.
    begins: u64,
    /// The log was complete up to this position when the segment was started.
    whole_to: u64,
}

/// Verifies the log of the store in this folder, from sled's snapshot on. The error says why the log is damaged.
pub(super) fn verify(folder: &Path) -> Result<(), String> {
    let file = match File::open(folder.join(layout::SLED_DB)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    let from = snapshot_place(folder).map_err(unreadable)? / SEGMENT * SEGMENT;
    let mut segments = vec![];
    let length = file.metadata().map_err(unreadable)?.len();
    for offset in (0..length).step_by(SEGMENT_BYTES) {
        match header(&file, offset).map_err(unreadable)? {
            Header::Of(segment) if segment.begins >= from => segments.push(segment),
            Header::Of(_) | Header::Unused => {}
            Header::Damaged => return Err(damaged(offset, "its header does not match its checksum")),
        }
    }
    let whole_to = segments.iter().map(|segment| segment.whole_to).max().unwrap_or_default();
    segments.retain(|segment| segment.begins + SEGMENT <= whole_to);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let share = segments.len().div_ceil(threads).max(1);
    let verify_all = |segments: &[Segment]| {
        let mut bytes = vec![0; SEGMENT_BYTES];
        segments.iter().try_for_each(|segment| verify_one(&file, &mut bytes, segment))
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = segments.chunks(share).map(|share| scope.spawn(|| verify_all(share))).collect();
        shares.into_iter().try_for_each(|share| {
            share.join().unwrap_or_else(|_| Err("the thread that read sled's log panicked".to_owned()))
        })
    })
}

/// Verifies a segment that was complete on the disk before a later one was started.
fn verify_one(file: &File, bytes: &mut [u8], segment: &Segment) -> Result<(), String> {
    let read = read_up_to(file, bytes, segment.offset).map_err(unreadable)?;
    let bytes = bytes.get(..read).unwrap_or_default();
    walk(bytes, segment.begins / SEGMENT).map_err(|at| {
        let why =
            format!("the message at its byte {at} does not match its checksum, and later segments follow");
        damaged(segment.offset, &why)
    })
}

fn unreadable(error: io::Error) -> String {
    format!("sled's log cannot be read: {error}")
}

fn damaged(offset: u64, why: &str) -> String {
    format!("sled's log is damaged: the segment at byte {offset} of db: {why}")
}

/// The log position of sled's newest snapshot. sled itself checks the snapshot.
fn snapshot_place(folder: &Path) -> io::Result<u64> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            newest = newest.max(Some(path));
        }
    }
    let Some(newest) = newest else { return Ok(0) };
    let mut place = [0; 8];
    let read = File::open(newest)?.read_at(&mut place, 0)?;
    // The file stores the position plus one, or zero for none.
    Ok(if read == place.len() { u64::from_le_bytes(place).saturating_sub(1) } else { 0 })
}

enum Header {
    Of(Segment),
    /// The segment was never used, or a recovery freed it.
    Unused,
    Damaged,
}

fn header(file: &File, offset: u64) -> io::Result<Header> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    if read_up_to(file, &mut bytes, offset)? < bytes.len() {
        return Ok(Header::Unused);
    }
    let (sum, rest) = bytes.split_at(4);
    if u32_of(sum) == !sum_of(&[rest]) {
        let (begins, whole_to) = rest.split_at(8);
        // Before the first write, the log is complete up to -1.
        let place = |bytes: &[u8]| {
            Some(u64_of(bytes) ^ PLACE_MASK).filter(|place| *place <= PLACE_MASK).unwrap_or_default()
        };
        return Ok(Header::Of(Segment { offset, begins: place(begins), whole_to: place(whole_to) }));
    }
    if bytes.iter().any(|byte| *byte != 0) {
        return Ok(Header::Damaged);
    }
    let mut sample = [0; SAMPLE_BYTES];
    for at in 0..SAMPLES {
        read_up_to(file, &mut sample, offset + at * (SEGMENT / SAMPLES))?;
        if sample.iter().any(|byte| *byte != 0) {
            return Ok(Header::Damaged);
        }
    }
    Ok(Header::Unused)
}

/// Checks a segment's messages in order. The error is the position of the first damaged one.
fn walk(segment: &[u8], number: u64) -> Result<(), usize> {
    let mut at = SEGMENT_HEADER_BYTES;
    while at + MESSAGE_HEADER_BYTES_MAX <= SEGMENT_BYTES {
        let message = Message::read(segment.get(at..).unwrap_or_default()).ok_or(at)?;
        if message.segment != number {
            return Err(at);
        }
        if message.kind == KIND_CAP {
            return Ok(());
        }
        at += message.length;
    }
    Ok(())
}

struct Message {
    kind: u8,
    segment: u64,
    /// The length of header and body, in bytes.
    length: usize,
}

impl Message {
    /// Parses the first message in these bytes. `None` if its checksum is wrong.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (sum, rest) = bytes.split_at_checked(4)?;
        let (&kind, mut after) = rest.split_first()?;
        if kind == KIND_CORRUPTED || kind > KIND_LAST {
            return None;
        }
        let [body, segment, _page] = [varint(&mut after)?, varint(&mut after)?, varint(&mut after)?];
        let header = rest.get(..rest.len() - after.len())?;
        let body = after.get(..usize::try_from(body).ok()?)?;
        let holds = u32_of(sum) == !sum_of(&[body, header]);
        holds.then_some(Self { kind, segment, length: 4 + header.len() + body.len() })
    }
}

/// Reads a number in sled's encoding and removes it from the front of the bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    let (number, length) = match first {
        0..=240 => (u64::from(first), 0),
        241..=248 => (240 + 256 * (u64::from(first) - 241) + u64::from(*rest.first()?), 1),
        249 => (2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?), 2),
        250.. => (u64_of(rest.get(..usize::from(first) - 247)?), usize::from(first) - 247),
    };
    *bytes = rest.get(length..)?;
    Some(number)
}

fn sum_of(parts: &[&[u8]]) -> u32 {
    let mut sum = Hasher::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::super::sled::SledStore;
    use super::super::{ProfileStore, Reach};
    use super::*;
    use crate::model::id::{ClientCode, IdKind, Key};
    use crate::model::profile::{Profile, Stored};
    use crate::model::seq::Seq;
    use crate::store::put_if_newer;

    fn put(store: &SledStore, from: u64, until: u64) {
        for at in from..until {
            let key =
                Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, &format!("p{:05}", at % 30_000));
            let profile = Stored::Profile(Profile::born_at(Seq::from_u64(at))).encode();
            put_if_newer(store, &key, None, &profile).unwrap();
        }
        store.checkpoint(Reach(until)).unwrap();
    }

    /// A store of several segments. Its sled snapshot is after the first of them, and before [`INNER`] whole ones. On a busy machine
    /// sled takes its snapshot, or says how far the log is whole, so late that there are fewer: then it is made again.
    fn store() -> tempfile::TempDir {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            for (from, until) in [(1, 30_000), (30_000, 150_000)] {
                put(&SledStore::open(folder.path(), 16 << 20).unwrap(), from, until);
                verify(folder.path()).unwrap();
            }
            if inner(folder.path()).len() >= INNER {
                return folder;
            }
        }
        panic!("sled makes no store with {INNER} whole segments after its snapshot");
    }

    /// How many segments the tests harm at least.
    const INNER: usize = 2;

    /// The segments after sled's snapshot of which it is known that they are whole.
    fn inner(folder: &Path) -> Vec<Segment> {
        let path = folder.join("db");
        let (file, bytes) = (File::open(&path).unwrap(), fs::metadata(&path).unwrap().len());
        let from = snapshot_place(folder).unwrap() / SEGMENT * SEGMENT;
        let segments: Vec<Segment> = (0..bytes)
            .step_by(SEGMENT_BYTES)
            .filter_map(|offset| match header(&file, offset).unwrap() {
                Header::Of(segment) if segment.begins >= from => Some(segment),
                _ => None,
            })
            .collect();
        let whole_to = segments.iter().map(|segment| segment.whole_to).max().unwrap_or_default();
        segments.into_iter().filter(|segment| segment.begins + SEGMENT <= whole_to).collect()
    }

    #[test]
    fn what_is_lost_in_the_middle_of_the_log_is_found_and_what_is_whole_passes() {
        let folder = store();
        let db = folder.path().join("db");
        let whole = fs::read(&db).unwrap();
        assert!(snapshot_place(folder.path()).unwrap() >= SEGMENT, "sled has a snapshot");
        let mut found = 0;
        for segment in inner(folder.path()).iter().take(3) {
            let start = usize::try_from(segment.offset).unwrap();
            for at in (0..40).step_by(3).chain((40..SEGMENT_BYTES).step_by(99_991)) {
                let mut harmed = whole.clone();
                harmed[start + at] ^= 0x10;
                fs::write(&db, &harmed).unwrap();
                match verify(folder.path()) {
                    Err(why) => {
                        assert!(why.contains(&format!("byte {start} of db")), "{why}");
                        found += 1;
                    }
                    // Only bytes after the last message of a segment are not checked.
                    Ok(()) => assert!(at >= SEGMENT_BYTES - MESSAGE_HEADER_BYTES_MAX, "byte {at}"),
                }
            }
            let mut harmed = whole.clone();
            harmed[start..start + 4096].fill(0);
            fs::write(&db, &harmed).unwrap();
            verify(folder.path()).unwrap_err();
        }
        assert!(found > 20);
        fs::write(&db, &whole).unwrap();
        verify(folder.path()).unwrap();
    }

    /// The reason for this reader: sled does not report losses in the middle of its log, and the checkpoint number does
    /// not show them.
    #[test]
    fn sled_passes_over_what_is_lost_in_the_middle_of_its_log_and_shows_what_was_before() {
        let folder = store();
        let db = folder.path().join("db");
        let whole = fs::read(&db).unwrap();
        let opened_with = |bytes: &[u8]| {
            let copy = tempfile::tempdir().unwrap();
            for entry in fs::read_dir(folder.path()).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
                }
            }
            fs::write(copy.path().join("db"), bytes).unwrap();
            let verified = verify(copy.path()).is_ok();
            let store = SledStore::open_unverified(copy.path(), 16 << 20).ok()?;
            let all = store.scan(None, 40_000).ok()?;
            Some((all, store.reach().unwrap(), verified))
        };
        let (expected, reach, verified) = opened_with(&whole).unwrap();
        assert_eq!((expected.len(), reach, verified), (30_000, Reach(150_000), true));
        let mut older = 0;
        let mut inner = inner(folder.path());
        inner.sort_by_key(|segment| std::cmp::Reverse(segment.begins));
        for segment in inner.iter().take(4) {
            for at in [SEGMENT_HEADER_BYTES + 3, SEGMENT_BYTES / 2, SEGMENT_BYTES - 5000] {
                let mut bytes = whole.clone();
                bytes[usize::try_from(segment.offset).unwrap() + at] ^= 1;
                let Some((found, reach, verified)) = opened_with(&bytes) else { continue };
                assert!(!verified, "{segment:?} at {at}");
                older += usize::from(found != expected && reach == Reach(150_000));
            }
        }
        assert!(older > 0, "then this reader is not needed");
    }

    #[test]
    fn what_a_crash_leaves_at_the_end_of_the_log_passes_and_shows_in_how_far_the_store_reaches() {
        let folder = store();
        let db = folder.path().join("db");
        let mut bytes = fs::read(&db).unwrap();
        let file = File::open(&db).unwrap();
        let last = (0..bytes.len() as u64).step_by(SEGMENT_BYTES).filter_map(|offset| {
            match header(&file, offset).unwrap() {
                Header::Of(segment) => Some(segment),
                _ => None,
            }
        });
        let last = last.max_by_key(|segment| segment.begins).unwrap();
        let start = usize::try_from(last.offset).unwrap();
        // Everything after the segment's first messages was lost.
        let end = (start + SEGMENT_BYTES).min(bytes.len());
        bytes[start + 2000..end].fill(0);
        fs::write(&db, &bytes).unwrap();
        verify(folder.path()).unwrap();
        let store = SledStore::open(folder.path(), 16 << 20).unwrap();
        assert!(store.reach().unwrap() < Reach(150_000));
    }
}
