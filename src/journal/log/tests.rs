use super::frame::size;
use super::header::SegmentHeader;
use super::*;
use crate::durable::disk::{FaultyDisk, Operation};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use tempfile::TempDir;

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
    FRAME.frame_bytes_of(length) as u64
}

fn name(number: u64) -> String {
    format!("{number:016x}.log")
}

impl Journal {
    fn new(settings: LogSettings, lengths: &[usize]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) =
            Log::open_on(Box::<FaultyDisk>::default(), dir.path(), settings, Position::START, ignore)
                .unwrap();
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
        let opened = Log::open_on(Box::<FaultyDisk>::default(), self.path(), SMALL, from, each);
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
    paths.map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap())).collect()
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
    let disk = FaultyDisk::default();
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
        (Operation::Reserve, Errno::NOSPC),
        (Operation::Reserve, Errno::DQUOT),
        (Operation::Reserve, Errno::FBIG),
        (Operation::Sync, Errno::NOSPC),
    ] {
        disk.set(Some((at, error)));
        for _ in 0..2 {
            let refusal = log.append(&payload(301, 1)).unwrap_err();
            assert!(matches!(refusal, AppendError::Full { bytes: 512, .. }), "{at:?}: {refusal}");
        }
        assert_eq!((log.end(), log.bytes(), read(dir.path())), before, "{at:?}");
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
        (Operation::Write, 100, Errno::IO, false),
        (Operation::Write, 100, Errno::NOSPC, false),
        (Operation::SyncData, 100, Errno::IO, true),
        (Operation::Reserve, 400, Errno::IO, false),
        (Operation::Sync, 400, Errno::IO, false),
        (Operation::SyncFolder, 400, Errno::IO, false),
        (Operation::SyncFolder, 400, Errno::NOSPC, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
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
        assert!(matches!(refusal, AppendError::Failed { .. }), "{at:?}: {refusal}");
        disk.set(None);
        assert!(matches!(log.append(b"x").unwrap_err(), AppendError::Stopped), "{at:?}");
        assert_eq!(log.end(), end, "{at:?}");
        drop(log);

        let mut seen = Vec::new();
        let (mut log, _) = open(&mut seen).unwrap();
        assert_eq!(seen.len(), 1 + usize::from(whole), "{at:?}");
        log.append(&payload(100, 2)).unwrap();
    }
}

#[test]
fn the_last_frame_is_durable_before_anyone_is_told_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let (mut log, _) =
        Log::open_on(Box::new(disk.clone()), dir.path(), SMALL, Position::START, ignore).unwrap();
    log.append(b"confirmed").unwrap();
    disk.set(Some((Operation::SyncData, Errno::IO)));
    log.append(b"in the page cache only").unwrap_err();
    drop(log);
    disk.set(Some((Operation::Sync, Errno::IO)));
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
        Log::open_on(Box::<FaultyDisk>::default(), dir.path(), SMALL, Position::START, ignore).unwrap();
    log.append(&payload(8 << 20, 0)).unwrap();
    assert!(log.buffer.capacity() <= BUFFER_BYTES_KEPT);
    let refusal = log.append(&vec![0; PAYLOAD_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(refusal, AppendError::TooLong { bytes } if bytes == PAYLOAD_BYTES_MAX + 1));
    log.append(b"goes on").unwrap();
}

/// The bytes as they were written before frames had one place in the code: no later program may write others.
#[test]
fn the_format_is_these_bytes() {
    let (number, capacity, salt, previous_end) = (5, 4096, 0x0123_4567_89ab_cdef, 777);
    let header = SegmentHeader { number, capacity, salt, previous_end };
    let bytes = b"profiLog\x01\0\0\0\xe2\x6a\x73\x00\x05\0\0\0\0\0\0\0\x00\x10\0\0\0\0\0\0\
        \xef\xcd\xab\x89\x67\x45\x23\x01\x09\x03\0\0\0\0\0\0";
    assert_eq!(header.encode(), bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let file = File::create(&path).unwrap();
    let segment = Segment { path, file, number, capacity, salt, previous_end };
    let check = |offset, payload: &[u8], expected: &[u8]| {
        let mut frame = vec![];
        assert_eq!(segment.put_frame(offset, payload, &mut frame), Some(expected.len() as u64));
        assert_eq!(frame, expected);
    };
    check(48, b"hello", b"\x11\0\0\0\xd6\xfe\x23\x4e\x1d\xa8\xd7\xb2hello\0\0\0\0\0\0\0");
    check(72, b"", b"\x0c\0\0\0\xc7\x4b\x67\x48\x2f\x32\xef\x75\0\0\0\0");
}

/// From every frame on and to every frame, whatever a piece may hold; and a segment that is gone is told as missing.
#[test]
fn pieces_one_behind_the_other_are_the_log() {
    let journal = Journal::new(SMALL, &[1, 100, 200, 300, 7, 2000, 0, 450, 30, 30]);
    let positions: Vec<Position> =
        std::iter::once(Position::START).chain(journal.frames.iter().map(|(_, end, _)| *end)).collect();
    for (first, from) in positions.iter().enumerate() {
        for (last, to) in positions.iter().enumerate().skip(first) {
            for bytes in [0, 1, 250, 10_000] {
                let (mut at, mut read) = (*from, vec![]);
                while at < *to {
                    let piece = read_piece(journal.path(), at, *to, bytes).unwrap();
                    assert!(piece.next > at, "{at} to {to}");
                    read.extend(piece.frames);
                    at = piece.next;
                }
                let expected: Vec<_> = journal.frames[first..last]
                    .iter()
                    .map(|(_, end, payload)| (*end, payload.clone()))
                    .collect();
                assert_eq!(read, expected, "{from} to {to} by {bytes}");
            }
        }
    }
    let starts = Position::starts_in(journal.path()).unwrap();
    assert_eq!(starts.first(), Some(&Position::START));
    fs::remove_file(journal.path().join(name(0))).unwrap();
    let gone = read_piece(journal.path(), Position::START, positions[1], 1);
    assert!(matches!(gone, Err(LogError::Missing { .. })), "{gone:?}");
    assert_eq!(Position::starts_in(journal.path()).unwrap(), starts[1..]);
}
