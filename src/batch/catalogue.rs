//! The catalogue: what the disk keeps of complete batches. It is one file, and records are only appended to it.
//!
//! ```text
//! head     magic, generation, the length at which this generation began, CRC-32C of these
//! record   length of the payload, CRC-32C of the length and the payload, payload: one record, encoded
//! ```
//!
//! The journal is the truth about a batch's end. The catalogue is a view of it that outlives the journal. So records wait in
//! memory until somebody saves them. A checkpoint or snapshot says that the journal before some position is needed no more:
//! whoever writes one saves the catalogue first, and writes down how far it then reached.
//!
//! Promises: up to that place every record is on the disk, or the damage is reported. What a crash cut off behind it is
//! dropped without a word, because the journal has it. A damaged catalogue is kept as it was, and written anew with every
//! record that verifies. Noting a record never waits for the disk.
//!
//! Lock order: `file`, then `tail`.

use crate::durable::record::{
    Checksum, Fields, FrameAddress, FrameHeader, FrameLayout, LengthOf, is_sealed, seal,
};
use crate::durable::{self, point};
use crate::journal::entry::{BatchAcceptedEntry, BatchCompletedEntry, CatalogueMark, Version4, Version6};
use crate::layout;
use crate::model::batch::BatchId;
use crate::model::codec::{self, CodecError};
use crate::sync::{Mutex, lock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The version that a record's payload begins with.
const VERSION: u8 = 3;
/// The version before records said how a batch's rows are read.
const VERSION_1: u8 = 1;
/// The version before records said how much history a batch keeps.
const VERSION_2: u8 = 2;
const MAGIC: &[u8; 8] = b"prfcata1";
const HEAD_BYTES: usize = 8 + 8 + 8 + 4;
/// Where in the head its checksum stands.
const HEAD_SUM_AT: usize = 24;
/// No record is longer.
const RECORD_BYTES_MAX: usize = 64 << 10;
/// The layout of a record.
const FRAME: FrameLayout = FrameLayout {
    has_kind: false,
    length: LengthOf::Payload,
    checksum: Checksum::OfAll,
    alignment: 1,
    payload_bytes: 1..=RECORD_BYTES_MAX,
};
const NO_KIND: [u8; 4] = [0; 4];
/// How many batches go into one record of forgotten ones.
const FORGOTTEN_MAX: usize = 512;

/// What the catalogue says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A batch is complete. Of several records of one batch the last counts.
    Complete(Box<BatchAcceptedEntry>, BatchCompletedEntry),
    /// These batches are not kept any more: their clients and seqs.
    Forgotten(Vec<(String, u64)>),
}

impl Record {
    /// What it says, for the log.
    const fn name(&self) -> &'static str {
        match self {
            Self::Complete(..) => "complete",
            Self::Forgotten(_) => "forgotten",
        }
    }
}

/// What an earlier version said, with accepted batches as it had them.
#[derive(Deserialize)]
enum RecordOf<A> {
    Complete(A, BatchCompletedEntry),
    Forgotten(Vec<(String, u64)>),
}

impl<A: Into<BatchAcceptedEntry>> From<RecordOf<A>> for Record {
    fn from(record: RecordOf<A>) -> Self {
        match record {
            RecordOf::Complete(accepted, end) => Self::Complete(Box::new(accepted.into()), end),
            RecordOf::Forgotten(batches) => Self::Forgotten(batches),
        }
    }
}

fn decode(payload: &[u8]) -> Result<Record, CodecError> {
    match payload.first() {
        Some(&VERSION_1) => codec::decode::<RecordOf<Version4>>(VERSION_1, payload).map(Record::from),
        Some(&VERSION_2) => codec::decode::<RecordOf<Version6>>(VERSION_2, payload).map(Record::from),
        _ => codec::decode(VERSION, payload),
    }
}

/// What was found damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the catalogue of complete batches {} is damaged: {why}. What of it verifies is kept, and so is all that the journal \
     still tells; batches of which neither tells are unknown from now on, and their uploads are kept in {}{}",
    path.display(), aside.display(),
    if *copied { ", beside the catalogue as it was" } else { "" }
)]
pub struct Damage {
    path: PathBuf,
    why: String,
    aside: PathBuf,
    copied: bool,
}

impl Damage {
    /// The message for a command that only looks. Nothing was done about the damage yet.
    pub fn before_a_start(&self) -> String {
        format!(
            "the catalogue of complete batches {} is damaged: {}. Start the daemon: it keeps this file in {}, and writes the \
             catalogue anew with what of it verifies and all that the journal still tells; batches of which neither tells \
             are unknown from then on, and their uploads are kept there, too. If these are needed, restore a backup",
            self.path.display(),
            self.why,
            self.aside.display()
        )
    }
}

/// The file, and the records that are not saved yet.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Where the file is. `None` in some tests: then nothing is kept.
    path: Option<PathBuf>,
    /// What is not saved yet. Locked after `file`, and only for moments: noting a record must not wait for the disk.
    tail: Mutex<Tail>,
    /// The open file. Locked first, and while the file is written to.
    file: Mutex<Option<File>>,
}

#[derive(Debug, Default)]
struct Tail {
    generation: u64,
    /// The file's length.
    saved: u64,
    /// The records that come behind it.
    unsaved: Vec<u8>,
}

/// Why the catalogue could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It may be tried again.
    #[error("the catalogue of complete batches {} could not be written: {error}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What the page cache holds of the file can't be trusted any more. Only a restart helps: it reads the journal.
    #[error("the catalogue of complete batches {} could not be synced: {error}", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl Catalogue {
    /// Opens the catalogue of a data folder and gives its records in order. A damaged one may give some records twice. If it
    /// does not reach as far as `mark` says, it is damaged. A damaged catalogue is copied to `aside` as it was, and written
    /// anew when it is first saved. Until then every start finds it damaged.
    pub fn open(
        folder: &Path,
        mark: CatalogueMark,
        aside: &Path,
        mut each: impl FnMut(Record),
    ) -> io::Result<(Self, Option<Damage>)> {
        let path = folder.join(layout::CATALOGUE);
        let damaged =
            |why: String, copied| Damage { path: path.clone(), why, aside: aside.to_owned(), copied };
        let anew =
            |generation| Tail { generation: generation + 1, saved: HEAD_BYTES as u64, unsaved: vec![] };
        let (mut file, mut damage) = (None, None);
        let tail = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(found) => match read(&found, mark, &mut each)? {
                Ok(Whole { generation, bytes }) => {
                    if found.metadata()?.len() > bytes {
                        tracing::info!(path = %path.display(), "cut off records of complete batches that a crash interrupted");
                        found.set_len(bytes)?;
                        found.sync_all()?;
                    }
                    file = Some(found);
                    Tail { generation, saved: bytes, unsaved: vec![] }
                }
                Err(why) => {
                    durable::private_folder(aside)?;
                    std::fs::copy(&path, aside.join(layout::CATALOGUE))?;
                    damage = Some(damaged(why, true));
                    let mut records = vec![];
                    let generation = salvage(&std::fs::read(&path)?, |record| {
                        encode(&record, &mut records);
                        each(record);
                    });
                    Tail { unsaved: records, ..anew(generation.max(mark.generation)) }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                damage = (mark.bytes > 0).then(|| damaged("it is not there".into(), false));
                anew(mark.generation)
            }
            Err(error) => return Err(error),
        };
        Ok((Self { path: Some(path), tail: Mutex::new(tail), file: Mutex::new(file) }, damage))
    }

    /// Notes a record. The disk has it once it is saved.
    pub fn note(&self, record: &Record) {
        if self.path.is_some() {
            encode(record, &mut lock(&self.tail).unsaved);
        }
    }

    /// Notes that these batches are not kept any more.
    pub fn note_forgotten(&self, batches: &[BatchId]) {
        for batches in batches.chunks(FORGOTTEN_MAX) {
            let forgotten = batches.iter().map(|id| (id.client.to_string(), id.seq.get()));
            self.note(&Record::Forgotten(forgotten.collect()));
        }
    }

    /// How far it reaches with all that was noted so far. It must be saved before anybody relies on that.
    pub fn mark(&self) -> CatalogueMark {
        let tail = lock(&self.tail);
        CatalogueMark { generation: tail.generation, bytes: tail.saved + tail.unsaved.len() as u64 }
    }

    /// Makes all that was noted so far durable. Blocks.
    pub fn save(&self) -> Result<(), SaveError> {
        self.save_to(&mut lock(&self.file))
    }

    fn save_to(&self, file: &mut Option<File>) -> Result<(), SaveError> {
        let Some(path) = &self.path else { return Ok(()) };
        let (generation, from, unsaved) = {
            let tail = lock(&self.tail);
            (tail.generation, tail.saved, tail.unsaved.clone())
        };
        let refused = |error| SaveError::Refused { path: path.clone(), error };
        match file {
            Some(_) if unsaved.is_empty() => return Ok(()),
            Some(file) => {
                let written = point("catalogue-append").and_then(|()| file.write_all_at(&unsaved, from));
                written.map_err(refused)?;
                let synced = point("catalogue-append-sync").and_then(|()| file.sync_data());
                synced.map_err(|error| SaveError::Lost { path: path.clone(), error })?;
            }
            None => {
                let made = write_anew(path, generation, |out| out.write_all(&unsaved));
                *file = Some(made.map_err(refused)?.0);
            }
        }
        let mut tail = lock(&self.tail);
        tail.saved += unsaved.len() as u64;
        tail.unsaved.drain(..unsaved.len());
        Ok(())
    }

    /// Writes the file anew with the records that `keep` chooses, in their order. Blocks.
    pub fn write_anew(&self, mut keep: impl FnMut(&Record) -> bool) -> Result<(), SaveError> {
        let mut file = lock(&self.file);
        self.save_to(&mut file)?;
        let Some(path) = &self.path else { return Ok(()) };
        let CatalogueMark { generation, .. } = self.mark();
        let mut written = Ok(());
        let (made, saved) = write_anew(path, generation + 1, |out| {
            let mut bytes = vec![];
            let whole = CatalogueMark { generation, bytes: u64::MAX };
            let read = read(&File::open(path)?, whole, &mut |record: Record| {
                if keep(&record) && written.is_ok() {
                    bytes.clear();
                    encode(&record, &mut bytes);
                    written = out.write_all(&bytes);
                }
            });
            std::mem::replace(&mut written, Ok(()))?;
            match read? {
                Ok(_) => Ok(()),
                Err(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            }
        })
        .map_err(|error| {
            // If the new file has the name already, nobody would find what is appended to the old one.
            let in_place = file.as_ref().is_some_and(|file| is_at(file, path));
            let path = path.clone();
            if in_place { SaveError::Refused { path, error } } else { SaveError::Lost { path, error } }
        })?;
        *file = Some(made);
        let mut tail = lock(&self.tail);
        (tail.generation, tail.saved) = (generation + 1, saved);
        Ok(())
    }
}

/// Whether this is the file with this name.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |found: io::Result<std::fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let there = number(std::fs::metadata(path));
    there.is_some() && number(file.metadata()) == there
}

/// A catalogue without damage.
struct Whole {
    generation: u64,
    /// Where its last record ends.
    bytes: u64,
}

/// Gives each record of a file, or why it is damaged. A mark whose length is `u64::MAX` stands for the file's own end.
fn read(
    file: &File,
    mark: CatalogueMark,
    each: &mut impl FnMut(Record),
) -> io::Result<Result<Whole, String>> {
    let mut file = BufReader::with_capacity(1 << 18, file);
    let mut head = [0; HEAD_BYTES];
    if !fill(&mut file, &mut head)? {
        return Ok(Err("at byte 0 it has no whole head".into()));
    }
    let Some((generation, began)) = read_head(&head) else {
        return Ok(Err("at byte 0 its head does not match its checksum".into()));
    };
    if mark.generation > generation {
        return Ok(Err(format!(
            "at byte 8 it is of generation {generation}, and should be of {}",
            mark.generation
        )));
    }
    // A mark of another generation says nothing about this one's length.
    let all = mark.bytes == u64::MAX;
    let expected = if mark.generation == generation && !all { began.max(mark.bytes) } else { began };
    let mut at = HEAD_BYTES as u64;
    let end = loop {
        match next_frame(&mut file)? {
            Frame::Record(record, bytes) => {
                each(*record);
                at += bytes;
            }
            Frame::End => break None,
            Frame::Flaw(why) => break Some(why),
        }
    };
    if at < expected || (all && end.is_some()) {
        let why = end.unwrap_or("it ends");
        return Ok(Err(format!("at byte {at} {why}, and it should reach to byte {}", expected.max(at))));
    }
    Ok(Ok(Whole { generation, bytes: at }))
}

enum Frame {
    Record(Box<Record>, u64),
    End,
    Flaw(&'static str),
}

fn next_frame(file: &mut impl BufRead) -> io::Result<Frame> {
    if file.fill_buf()?.is_empty() {
        return Ok(Frame::End);
    }
    let mut head = [0; FRAME.header_bytes()];
    if !fill(file, &mut head)? {
        return Ok(Frame::Flaw("a record breaks off"));
    }
    let Some(head) = FRAME.read_header(&head, FrameAddress::ANY) else {
        return Ok(Frame::Flaw("a record has an impossible length"));
    };
    let mut payload = vec![0; FRAME.payload_bytes(&head)];
    if !fill(file, &mut payload)? {
        return Ok(Frame::Flaw("a record breaks off"));
    }
    Ok(match read_frame(&head, &payload) {
        Some(record) => Frame::Record(Box::new(record), FRAME.frame_bytes(&head) as u64),
        None => Frame::Flaw("a record does not match its checksum"),
    })
}

/// Whether there were enough bytes to fill the buffer.
fn fill(file: &mut impl Read, room: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(room) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn read_frame(head: &FrameHeader, payload: &[u8]) -> Option<Record> {
    if FRAME.matches(head, payload) { decode(payload).ok() } else { None }
}

/// Gives every record that verifies, wherever it stands. Returns the generation, or 0 if that can't be read.
fn salvage(bytes: &[u8], mut each: impl FnMut(Record)) -> u64 {
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_at_checked(FRAME.header_bytes()) {
        let head = FRAME.read_header(head, FrameAddress::ANY);
        let found = head.and_then(|head| Some((head, behind.split_at_checked(FRAME.payload_bytes(&head))?)));
        match found.and_then(|(head, (payload, behind))| Some((read_frame(&head, payload)?, behind))) {
            Some((record, behind)) => {
                each(record);
                rest = behind;
            }
            None => rest = rest.get(1..).unwrap_or_default(),
        }
    }
    bytes.first_chunk().and_then(read_head).map_or(0, |(generation, _)| generation)
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    let mut payload = vec![];
    let encoded: Result<(), CodecError> = codec::encode_into(VERSION, record, &mut payload);
    if encoded.is_err() || FRAME.put(NO_KIND, &payload, FrameAddress::ANY, out).is_none() {
        // A record is a client's code and blocked ids, a key and some numbers. It always fits.
        tracing::error!(record = record.name(), "a record of the catalogue cannot be written");
    }
}

fn head(generation: u64, began: u64) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &generation.to_le_bytes(), &began.to_le_bytes(), &[0; 4]].concat();
    seal(&mut bytes, HEAD_SUM_AT);
    bytes
}

fn read_head(bytes: &[u8; HEAD_BYTES]) -> Option<(u64, u64)> {
    let mut fields = Fields(bytes);
    let is_ours = fields.array()? == MAGIC && is_sealed(bytes, HEAD_SUM_AT);
    fields.u64().zip(fields.u64()).filter(|_| is_ours)
}

/// Replaces the file with one of another generation. Gives it and its length.
fn write_anew(
    path: &Path,
    generation: u64,
    records: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    let mut length = 0;
    durable::replace(path, "catalogue", |file| {
        let mut out = io::BufWriter::with_capacity(1 << 18, &mut *file);
        out.write_all(&[0; HEAD_BYTES])?;
        records(&mut out)?;
        out.flush()?;
        drop(out);
        length = file.metadata()?.len();
        file.write_all_at(&head(generation, length), 0)
    })?;
    Ok((OpenOptions::new().read(true).write(true).open(path)?, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Counts;
    use serde_bytes::ByteBuf;

    fn complete(seq: u64) -> Record {
        let accepted = BatchAcceptedEntry {
            client: "demo".into(),
            seq,
            spool: seq,
            bytes: 300,
            crc32c: Some(7),
            rows: 3,
            v2: true,
            key_kind: 1,
            creates: false,
            replaces: false,
            removes: false,
            lifetime_ms: 1000,
            max_profile_bytes: 1000,
            key: None,
            reading: 1,
            blocked_ids: Some(vec!["void".into()]),
            history_max: 16,
            as_of_ms: Some(1_700_000_000_000),
            undoes: Some(3),
            name: Some("nightly".into()),
            by: ByteBuf::from(vec![0]),
        };
        let counts = Counts { updated: 3, ..Counts::default() };
        Record::Complete(Box::new(accepted), BatchCompletedEntry { seq, counts, at_ms: seq, store_reach: 0 })
    }

    /// As a program wrote them before batches said how their rows are read: these are read as they were then.
    #[test]
    fn records_of_version_1_are_read() {
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let accepted = "0464656d6f0707fb2c0101fc07000000030101000000fbe803fbe80300";
        let record = bytes(&format!("0100{accepted}0703000000000700"));
        let Record::Complete(mut expected, end) = complete(7) else { panic!("no batch") };
        (expected.reading, expected.blocked_ids) = (0, None);
        (expected.history_max, expected.as_of_ms, expected.undoes) = (0, None, None);
        (expected.name, expected.by) = (None, ByteBuf::new());
        assert_eq!(decode(&record).unwrap(), Record::Complete(expected, end));
        let forgotten = bytes("0101010464656d6f07");
        assert_eq!(decode(&forgotten).unwrap(), Record::Forgotten(vec![("demo".into(), 7)]));
    }

    /// As a program wrote them before batches said how much history they keep.
    #[test]
    fn records_of_version_2_are_read() {
        let mut bytes = b"\x02\0\x04demo\x07\x07\xfb\x2c\x01\x01\xfc\x07\0\0\0\x03\x01\x01\0\0\0\xfb\xe8\x03\xfb\xe8\x03\0".to_vec();
        bytes.extend(b"\x01\x01\x01\x04void\x07\x03\0\0\0\0\x07\0");
        let Record::Complete(mut expected, end) = complete(7) else { panic!("no batch") };
        (expected.history_max, expected.as_of_ms, expected.undoes) = (0, None, None);
        (expected.name, expected.by) = (None, ByteBuf::new());
        assert_eq!(decode(&bytes).unwrap(), Record::Complete(expected, end));
    }

    /// The bytes as they were written before frames had one place in the code: no later program may write others.
    #[test]
    fn the_format_is_these_bytes() {
        assert_eq!(head(3, 777), b"prfcata1\x03\0\0\0\0\0\0\0\x09\x03\0\0\0\0\0\0\xfc\x85\x89\xde");
        let mut record = vec![];
        encode(&Record::Forgotten(vec![("demo".into(), 7)]), &mut record);
        assert_eq!(record, b"\x09\0\0\0\xfb\xcb\x09\x05\x03\x01\x01\x04demo\x07");
    }

    /// What a folder's catalogue says, and whether it was found damaged.
    fn opened(folder: &Path, mark: CatalogueMark) -> (Catalogue, Vec<Record>, bool) {
        let mut records = vec![];
        let aside = folder.join(layout::DAMAGED);
        let (catalogue, damage) =
            Catalogue::open(folder, mark, &aside, |record| records.push(record)).unwrap();
        (catalogue, records, damage.is_some())
    }

    const FRESH: CatalogueMark = CatalogueMark { generation: 0, bytes: 0 };

    /// A folder with a catalogue of four records, the first two of which its mark is about.
    fn kept() -> (tempfile::TempDir, Vec<Record>, CatalogueMark) {
        let folder = tempfile::tempdir().unwrap();
        let records =
            vec![complete(1), complete(2), Record::Forgotten(vec![("demo".into(), 1)]), complete(3)];
        let (catalogue, none, damaged) = opened(folder.path(), FRESH);
        assert!(none.is_empty() && !damaged);
        records[..2].iter().for_each(|record| catalogue.note(record));
        let mark = catalogue.mark();
        catalogue.save().unwrap();
        assert_eq!(catalogue.mark(), mark, "saving changes no place");
        catalogue.note(&records[2]);
        catalogue.save().unwrap();
        catalogue.save().unwrap();
        catalogue.note(&records[3]);
        catalogue.save().unwrap();
        (folder, records, mark)
    }

    #[test]
    fn what_was_noted_and_saved_reads_back_and_goes_on() {
        let (folder, mut records, mark) = kept();
        let (catalogue, told, damaged) = opened(folder.path(), mark);
        assert_eq!((&told, damaged), (&records, false));
        catalogue.note(&complete(4));
        drop(catalogue);
        let (catalogue, told, _) = opened(folder.path(), mark);
        assert_eq!(told, records, "what is not saved is not there");
        catalogue.note(&complete(5));
        catalogue.save().unwrap();
        records.push(complete(5));
        assert_eq!(opened(folder.path(), catalogue.mark()).1, records);
        assert!(!folder.path().join(layout::DAMAGED).exists());
    }

    /// Behind the mark the journal has what a crash took; before it nothing else has.
    #[test]
    fn cut_off_anywhere_it_is_whole_up_to_the_cut_or_damaged() {
        let (folder, records, mark) = kept();
        let path = folder.path().join(layout::CATALOGUE);
        let whole = std::fs::read(&path).unwrap();
        let marked = usize::try_from(mark.bytes).unwrap();
        for cut in 0..whole.len() {
            for torn in [whole[..cut].to_vec(), [&whole[..cut], &vec![0; whole.len() - cut][..]].concat()] {
                if torn == whole {
                    continue;
                }
                std::fs::write(&path, &torn).unwrap();
                let (catalogue, told, damaged) = opened(folder.path(), mark);
                assert_eq!(damaged, torn.get(..marked) != whole.get(..marked), "at {cut}");
                if damaged {
                    assert!(told.iter().all(|record| records[..2].contains(record)), "at {cut}: {told:?}");
                    continue;
                }
                assert!(told.len() >= 2 && records.starts_with(&told), "at {cut}: {told:?}");
                // It goes on behind what is left.
                catalogue.note(&complete(9));
                catalogue.save().unwrap();
                let (_, again, damaged) = opened(folder.path(), catalogue.mark());
                assert_eq!((again, damaged), ([&told[..], &[complete(9)]].concat(), false), "at {cut}");
            }
        }
    }

    #[test]
    fn any_flipped_byte_is_told_and_takes_its_own_record_at_most() {
        let (folder, records, _) = kept();
        let path = folder.path().join(layout::CATALOGUE);
        let whole = std::fs::read(&path).unwrap();
        let mark = CatalogueMark { generation: 1, bytes: whole.len() as u64 };
        for at in 0..whole.len() {
            for bits in [1, 0x80, 0xff] {
                let mut flipped = whole.clone();
                flipped[at] ^= bits;
                std::fs::write(&path, &flipped).unwrap();
                drop(std::fs::remove_dir_all(folder.path().join(layout::DAMAGED)));
                let (catalogue, told, damaged) = opened(folder.path(), mark);
                assert!(damaged, "byte {at}");
                assert_eq!(
                    std::fs::read(folder.path().join(layout::DAMAGED).join(layout::CATALOGUE)).unwrap(),
                    flipped
                );
                let lost = records.iter().filter(|record| !told.contains(record)).count();
                assert!(lost <= usize::from(at >= HEAD_BYTES), "byte {at} takes {lost} records");
                assert!(told.iter().all(|record| records.contains(record)), "byte {at}: {told:?}");
                // Until it is saved, each start finds it so; then no more.
                assert!(opened(folder.path(), mark).2, "byte {at}");
                catalogue.save().unwrap();
                let (_, again, damaged) = opened(folder.path(), catalogue.mark());
                assert!(!damaged, "byte {at}");
                assert_eq!(again.len(), records.len() - lost, "byte {at}");
            }
        }
    }

    #[test]
    fn one_that_is_not_there_or_older_than_its_mark_is_damaged() {
        let (folder, records, mark) = kept();
        let later = CatalogueMark { generation: mark.generation + 1, bytes: 40 };
        assert_eq!(opened(folder.path(), later).1, [&records[..], &records[..]].concat()[4..]);
        assert!(opened(folder.path(), later).2);
        std::fs::remove_file(folder.path().join(layout::CATALOGUE)).unwrap();
        let (catalogue, told, damaged) = opened(folder.path(), mark);
        assert!(told.is_empty() && damaged);
        catalogue.note(&complete(9));
        catalogue.save().unwrap();
        let (_, told, damaged) = opened(folder.path(), catalogue.mark());
        assert_eq!((told, damaged), (vec![complete(9)], false));
    }

    #[test]
    fn written_anew_it_has_what_is_kept_and_marks_of_before_hold() {
        let (folder, records, mark) = kept();
        let (catalogue, ..) = opened(folder.path(), mark);
        catalogue.note(&complete(4));
        catalogue.write_anew(|record| matches!(record, Record::Complete(..))).unwrap();
        catalogue.note(&complete(5));
        catalogue.save().unwrap();
        let kept = [&records[..2], &records[3..], &[complete(4), complete(5)]].concat();
        for mark in [mark, catalogue.mark(), FRESH] {
            let (_, told, damaged) = opened(folder.path(), mark);
            assert_eq!((&told, damaged), (&kept, false));
        }
    }
}
