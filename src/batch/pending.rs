//! An accepted batch that is not folded in yet: an immutable sorted run in front of the store, as an LSM tree's first
//! level is. Each row left the hash of its id and its place in the file; the id at that place settles collisions.
//!
//! Promises: memory per pending batch is a few dozen kilobytes, whatever its rows; a hash that is in no row costs one
//! small read at most; an index that does not verify is made again from the uploaded file; the file itself is read whole
//! only where it verifies. Only the index of a batch of
//! more than a few thousand rows keeps a file open, so a thousand small pending batches take no file handles.

use super::checksum::{FileSum, UploadError};
use super::csv::{Header, Parser, RowReader};
use super::outcome::{BatchState, Failure, Progress, RowOutcome};
use super::rows::{read_header, read_row};
use crate::journal::entry::{BatchAcceptedEntry, SentKeyEntry};
use crate::model::batch::{BatchId, BatchRules, ConsecutiveV2, EmptyValues, IdempotencyKey, Outcome};
use crate::model::id::{ClientCode, IdKind, Key};
use crate::model::profile::Source;
use crate::model::seq::Seq;
use crate::model::update::Cell;
use crate::sync::{Mutex, lock};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"prfindx1";
const HEAD_BYTES: usize = 8 + 8 + 4;
const ENTRY_BYTES: usize = 16;
/// How many entries lie between two hashes that are kept in memory: one read of 2 KiB finds a hash.
const FENCE_STRIDE: usize = 128;
/// An index of no more entries than this is kept in memory.
const ENTRIES_IN_MEMORY: usize = 2048;

/// What a client called one sending of a batch, and what it then sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentKey {
    /// The key.
    pub key: IdempotencyKey,
    /// What the body came to. It stays, whatever becomes of the file.
    pub sent: FileSum,
}

/// What a batch is: all that its journal entry says of it. The first line of its file is not in it: it may be long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id, and in it its client and seq.
    pub id: BatchId,
    /// What shapes its outcome.
    pub rules: BatchRules,
    /// What its rows are keyed by.
    pub key_kind: IdKind,
    /// What its file is called by.
    pub spool: super::spool::SpoolName,
    /// Its file's size.
    pub bytes: u64,
    /// The CRC-32C of its file as it came; none if an earlier program took none.
    pub crc32c: Option<u32>,
    /// Its rows, all of them.
    pub rows: u64,
    /// What the client called this sending of it, if anything.
    pub key: Option<SentKey>,
}

impl Accepted {
    /// What its file came to.
    pub fn sum(&self) -> FileSum {
        FileSum { bytes: self.bytes, crc32c: self.crc32c }
    }

    /// What the journal says of it.
    pub fn to_entry(&self) -> BatchAcceptedEntry {
        BatchAcceptedEntry {
            client: self.id.client.to_string(),
            seq: self.id.seq.get(),
            spool: self.spool,
            bytes: self.bytes,
            crc32c: self.crc32c,
            rows: self.rows,
            v2: self.rules.source == Source::BatchV2,
            key_kind: self.key_kind.code(),
            creates: self.rules.creates,
            replaces: self.rules.consecutive_v2 == ConsecutiveV2::Replace,
            removes: self.rules.empty_values == EmptyValues::Remove,
            lifetime_ms: self.rules.lifetime_ms,
            max_profile_bytes: self.rules.max_profile_bytes as u64,
            key: self.key.as_ref().map(|SentKey { key, sent }| SentKeyEntry {
                key: key.as_str().to_owned(),
                bytes: sent.bytes,
                crc32c: sent.crc32c,
            }),
        }
    }

    /// What the journal said of it; `None` if that cannot be.
    pub fn from_entry(entry: BatchAcceptedEntry) -> Option<Self> {
        let seq = Seq::from_u64(entry.seq);
        let rules = BatchRules {
            seq,
            source: if entry.v2 { Source::BatchV2 } else { Source::BatchV1 },
            creates: entry.creates,
            consecutive_v2: if entry.replaces { ConsecutiveV2::Replace } else { ConsecutiveV2::Merge },
            empty_values: if entry.removes { EmptyValues::Remove } else { EmptyValues::Ignore },
            lifetime_ms: entry.lifetime_ms,
            max_profile_bytes: usize::try_from(entry.max_profile_bytes).ok()?,
        };
        Some(Self {
            id: BatchId { client: ClientCode::new(&entry.client).ok()?, seq },
            rules,
            key_kind: IdKind::from_code(entry.key_kind)?,
            spool: entry.spool,
            bytes: entry.bytes,
            crc32c: entry.crc32c,
            rows: entry.rows,
            key: entry.key.and_then(|SentKeyEntry { key, bytes, crc32c }| {
                Some(SentKey { key: IdempotencyKey::new(&key)?, sent: FileSum { bytes, crc32c } })
            }),
        })
    }
}

/// A row's place: the hash of its id, and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    hash: u64,
    offset: u32,
    line: u32,
}

/// Gathers the places of a batch's rows while its body streams in: 16 bytes a row.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    entries: Vec<Entry>,
}

impl IndexBuilder {
    /// Adds a row, if it brings anything; what does not is `ignored` or `failed` whatever the store holds.
    pub fn add(&mut self, row: &super::csv::Row<'_>, empty_values: EmptyValues) {
        if let Ok(cells) = &row.content
            && brings_anything(cells, empty_values)
        {
            self.entries.push(Entry { hash: hash(cells.id()), offset: row.offset, line: row.line });
        }
    }

    /// Sorts the entries and writes them beside the upload. Not synced: an index that a crash took is made again.
    pub fn finish(mut self, path: &Path) -> io::Result<Index> {
        self.entries.sort_unstable();
        let mut sum = 0;
        let mut bytes = Vec::with_capacity(ENTRY_BYTES * FENCE_STRIDE);
        let mut chunk = |entries: &[Entry], bytes: &mut Vec<u8>| {
            bytes.clear();
            for entry in entries {
                bytes.extend_from_slice(&entry.hash.to_le_bytes());
                bytes.extend_from_slice(&entry.offset.to_le_bytes());
                bytes.extend_from_slice(&entry.line.to_le_bytes());
            }
            sum = crc32c::crc32c_append(sum, bytes);
        };
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        crate::durable::point("index-write")?;
        let mut out = BufWriter::with_capacity(1 << 18, &file);
        out.write_all(&[0; HEAD_BYTES])?;
        for entries in self.entries.chunks(FENCE_STRIDE) {
            chunk(entries, &mut bytes);
            out.write_all(&bytes)?;
        }
        out.flush()?;
        drop(out);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        head.extend_from_slice(&sum.to_le_bytes());
        file.write_all_at(&head, 0)?;
        if self.entries.len() <= ENTRIES_IN_MEMORY {
            return Ok(Index::InMemory(self.entries));
        }
        let fences = self.entries.iter().step_by(FENCE_STRIDE).map(|entry| entry.hash).collect();
        Ok(Index::InFile { file, count: self.entries.len(), fences })
    }
}

/// Whether a row could change a profile: it has a value, or an empty one that removes (R6).
pub fn brings_anything(cells: &super::csv::Cells<'_>, empty_values: EmptyValues) -> bool {
    !cells.is_empty() || (empty_values == EmptyValues::Remove && cells.emptied().next().is_some())
}

/// The sorted places of a batch's rows.
#[derive(Debug)]
pub enum Index {
    /// Of a small batch: all of them.
    InMemory(Vec<Entry>),
    /// Of any other: in a file, with every so manieth hash at hand.
    InFile {
        /// The file.
        file: File,
        /// How many entries it has.
        count: usize,
        /// The hash of the first entry of each block.
        fences: Vec<u64>,
    },
}

impl Index {
    /// Opens an index; `None` if it is not there or does not verify.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Some((head, entries)) = bytes.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let mut expected = Vec::with_capacity(HEAD_BYTES);
        expected.extend_from_slice(MAGIC);
        expected.extend_from_slice(&((entries.len() / ENTRY_BYTES) as u64).to_le_bytes());
        expected.extend_from_slice(&crc32c::crc32c(entries).to_le_bytes());
        if head != expected {
            return Ok(None);
        }
        let (count, entries) = (entries.len() / ENTRY_BYTES, entries.chunks_exact(ENTRY_BYTES));
        if count <= ENTRIES_IN_MEMORY {
            return Ok(Some(Self::InMemory(entries.map(read_entry).collect())));
        }
        let fences = entries.step_by(FENCE_STRIDE).map(|entry| read_entry(entry).hash).collect();
        Ok(Some(Self::InFile { file, count, fences }))
    }

    /// The places of a block of rows, in the order of the hashes of their ids; none behind the last block.
    fn block(&self, number: usize) -> io::Result<Vec<Entry>> {
        let first = number.saturating_mul(FENCE_STRIDE);
        match self {
            Self::InMemory(entries) => Ok(entries.iter().skip(first).take(FENCE_STRIDE).copied().collect()),
            Self::InFile { file, count, .. } => {
                let mut bytes = vec![0; count.saturating_sub(first).min(FENCE_STRIDE) * ENTRY_BYTES];
                file.read_exact_at(&mut bytes, (HEAD_BYTES + first * ENTRY_BYTES) as u64)?;
                Ok(bytes.chunks_exact(ENTRY_BYTES).map(read_entry).collect())
            }
        }
    }

    /// The places of all rows whose id has this hash.
    fn find(&self, hash: u64, found: &mut Vec<Entry>) -> io::Result<()> {
        let (file, count, fences) = match self {
            Self::InMemory(entries) => {
                let from = entries.partition_point(|entry| entry.hash < hash);
                let rest = entries.iter().skip(from);
                found.extend(rest.take_while(|entry| entry.hash == hash));
                return Ok(());
            }
            Self::InFile { file, count, fences } => (file, *count, fences),
        };
        // The first block that can hold the hash is the one before the first fence that reaches it.
        let mut block = fences.partition_point(|fence| *fence < hash).saturating_sub(1);
        let mut bytes = [0; ENTRY_BYTES * FENCE_STRIDE];
        while fences.get(block).is_some_and(|fence| *fence <= hash) {
            let first = block * FENCE_STRIDE;
            let length = (count - first).min(FENCE_STRIDE) * ENTRY_BYTES;
            let Some(read) = bytes.get_mut(..length) else { break };
            file.read_exact_at(read, (HEAD_BYTES + first * ENTRY_BYTES) as u64)?;
            let entries = read.chunks_exact(ENTRY_BYTES).map(read_entry);
            found.extend(entries.filter(|entry| entry.hash == hash));
            block += 1;
        }
        Ok(())
    }
}

fn read_entry(bytes: &[u8]) -> Entry {
    let part =
        |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes);
    Entry { hash: u64::from(part(0)) | u64::from(part(4)) << 32, offset: part(8), line: part(12) }
}

fn hash(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}

/// One row found by its id: what a settling write or a lookup folds in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRow {
    /// Which of the ids asked for it has.
    pub id: usize,
    /// Its line.
    pub line: u32,
    /// Its cells, by the number of their attribute in the header; removed ones are empty.
    cells: Vec<(usize, String)>,
}

impl FoundRow {
    /// Its cells with their attributes' names.
    pub fn cells<'a>(&'a self, header: &'a Header) -> Vec<Cell<'a>> {
        let name = |attribute: usize| header.names().get(attribute).map_or("", |name| name);
        self.cells.iter().map(|(attribute, value)| Cell { name: name(*attribute), value }).collect()
    }
}

/// A pending batch.
#[derive(Debug)]
pub struct Pending {
    /// What it is.
    pub accepted: Arc<Accepted>,
    /// The first line of its file.
    pub header: Header,
    /// How far it is.
    pub progress: Arc<Progress>,
    index: Index,
    rows: PathBuf,
    /// What the file comes to.
    sum: FileSum,
    settled: Mutex<HashMap<u32, SettledBy>>,
    on_record: Option<OnRecord>,
    /// Lines of which nobody can tell any more what became of them: the file that told is gone.
    lost: HashSet<u32>,
}

/// What became of all rows, of a batch that was complete before.
#[derive(Debug)]
struct OnRecord {
    /// In line order; the others were updated.
    not_updated: Vec<RowOutcome>,
}

impl OnRecord {
    fn of(&self, line: u32) -> (Outcome, Option<Failure>) {
        let at = self.not_updated.binary_search_by_key(&line, |row| row.line).ok();
        let row = at.and_then(|at| self.not_updated.get(at));
        row.map_or((Outcome::Updated, None), |row| (row.outcome, row.failure))
    }
}

/// Who settled a row.
#[derive(Debug, Clone, Copy)]
enum SettledBy {
    /// A write since the start: the store has the row, or is about to get it from that write.
    Write(Outcome),
    /// The journal tells so. The store may have lost the row with the crash, if that write met it folded in already.
    Journal(Outcome),
}

impl Pending {
    /// A batch whose file and index are there.
    pub fn new(accepted: Accepted, header: Header, index: Index, rows: PathBuf) -> Self {
        let progress = Arc::new(Progress::of(&accepted));
        let (settled, sum) = (Mutex::new(HashMap::new()), accepted.sum());
        let (on_record, lost) = (None, HashSet::new());
        Self { accepted: Arc::new(accepted), header, progress, index, rows, sum, settled, on_record, lost }
    }

    /// Opens an accepted batch's files after a restart; makes the index again if it does not verify. The file of rows was
    /// verified, and comes to `sum`.
    pub fn open(accepted: Accepted, sum: FileSum, rows: &Path, index: &Path) -> io::Result<Self> {
        let file = File::open(rows)?;
        let header = read_header(&file)?;
        let index = match Index::open(index)? {
            Some(found) => found,
            None => index_again(&file, accepted.rules.empty_values, index)?,
        };
        Ok(Self { sum, ..Self::new(accepted, header, index, rows.to_owned()) })
    }

    /// A batch that was complete and is folded once more, into a store that is made again: what became of each row is
    /// known, and stays, for the writes behind it may be in the store before it and tell nothing of it.
    pub fn with_outcomes(mut self, mut not_updated: Vec<RowOutcome>) -> Self {
        not_updated.sort_unstable_by_key(|row| row.line);
        self.on_record = Some(OnRecord { not_updated });
        self
    }

    /// The same, but of these lines nobody can tell any more what became of them.
    pub fn with_lost(mut self, lost: HashSet<u32>) -> Self {
        lost.iter().for_each(|line| self.settled_before(*line, Outcome::Failed));
        self.lost = lost;
        self
    }

    /// Whether it is known what became of every row.
    pub fn is_on_record(&self) -> bool {
        self.on_record.is_some()
    }

    /// Why the row on this line failed, if it did once it was found to be well-formed.
    pub fn failure_of(&self, line: u32, outcome: Outcome) -> Option<Failure> {
        let failure = if self.lost.contains(&line) { Failure::OutcomeLost } else { Failure::ProfileTooLarge };
        (outcome == Outcome::Failed).then_some(failure)
    }

    /// What became of the row on this line, and why it failed if it did, if the batch was complete before. It stays,
    /// whatever the line reads by now: an erased visitor's is overwritten (R12).
    pub fn on_record(&self, line: u32) -> Option<(Outcome, Option<Failure>)> {
        self.on_record.as_ref().map(|on_record| on_record.of(line))
    }

    /// The file as uploaded, not verified.
    pub fn open_file(&self) -> Result<File, UploadError> {
        File::open(&self.rows).map_err(UploadError::of(&self.rows))
    }

    /// Reads the file as uploaded, piece by piece. What `each` was told counts only if there is no error then: whether the
    /// file is what was accepted is known at its end.
    pub fn read_file(&self, each: impl FnMut(&[u8])) -> Result<(), UploadError> {
        self.sum.read_pieces(&self.rows, each)
    }

    /// Why a row of the file does not say any more what it did when all of it was verified.
    pub fn row_changed(&self, line: u32) -> UploadError {
        let why = format!("line {line} is not what it was a moment ago");
        let changed = || UploadError::of(&self.rows)(io::Error::new(io::ErrorKind::InvalidData, why));
        self.read_file(|_| ()).err().unwrap_or_else(changed)
    }

    /// The rows that have one of these ids, in line order. They are read one by one, as they are: it was verified when the
    /// batch was accepted or opened, and will be when it is folded.
    pub fn rows_of(&self, ids: &[Key]) -> io::Result<Vec<FoundRow>> {
        self.rows_at(ids, &self.places_of(ids)?)
    }

    /// The same, but none of them if writes since the start settled them all: the file is not read then.
    pub fn rows_of_unless_settled(&self, ids: &[Key]) -> io::Result<Vec<FoundRow>> {
        let places = self.places_of(ids)?;
        if self.left_to_writes(places.iter().map(|(_, place)| place.line)) {
            return Ok(vec![]);
        }
        self.rows_at(ids, &places)
    }

    /// Where rows may be that have one of these ids, and which of the ids.
    fn places_of(&self, ids: &[Key]) -> io::Result<Vec<(usize, Entry)>> {
        let (mut found, mut places) = (vec![], vec![]);
        let keyed_so = |key: &Key| key.kind() == self.header.key_kind();
        for (n, key) in ids.iter().enumerate().filter(|(_, key)| keyed_so(key)) {
            self.index.find(hash(key.id()), &mut found)?;
            places.extend(found.drain(..).map(|place| (n, place)));
        }
        Ok(places)
    }

    fn rows_at(&self, ids: &[Key], places: &[(usize, Entry)]) -> io::Result<Vec<FoundRow>> {
        if places.is_empty() {
            return Ok(vec![]);
        }
        let header = &self.header;
        let file = File::open(&self.rows)?;
        let (mut reader, mut bytes, mut rows) = (RowReader::new(), vec![], vec![]);
        for (n, place) in places {
            read_row(&file, header, place.offset, &mut reader, &mut bytes)?;
            let Ok(cells) = reader.read(header, &bytes).content else { continue };
            if ids.get(*n).is_none_or(|key| cells.id() != key.id()) {
                continue;
            }
            let filled = cells.attributes().map(|(attribute, value)| (attribute, value.to_owned()));
            let emptied = cells.emptied().map(|attribute| (attribute, String::new()));
            rows.push(FoundRow { id: *n, line: place.line, cells: filled.chain(emptied).collect() });
        }
        rows.sort_by_key(|row| row.line);
        Ok(rows)
    }

    /// Gives each id that a row names which brings anything, once, until `each` has enough: in the order of their hashes, so
    /// that all rows of one stand together. The file is read row by row, as it is.
    pub fn each_id(&self, mut each: impl FnMut(&str) -> ControlFlow<()>) -> Result<(), UploadError> {
        let unreadable = || UploadError::of(&self.rows);
        let (file, header) = (self.open_file()?, &self.header);
        let (mut reader, mut bytes) = (RowReader::new(), vec![]);
        let (mut hash, mut ids) = (None, vec![]);
        for block in 0.. {
            let entries = self.index.block(block).map_err(unreadable())?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                read_row(&file, header, entry.offset, &mut reader, &mut bytes).map_err(unreadable())?;
                let Ok(cells) = reader.read(header, &bytes).content else {
                    // Once it is complete, rows of erased visitors are overwritten (R12).
                    if matches!(self.progress.state(), BatchState::Complete(_)) {
                        continue;
                    }
                    return Err(self.row_changed(entry.line));
                };
                if hash.replace(entry.hash) != Some(entry.hash) {
                    ids.clear();
                }
                if ids.iter().any(|id| id == cells.id()) {
                    continue;
                }
                ids.push(cells.id().to_owned());
                if each(cells.id()).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What became of the row on this line, if a write settled it or the batch was complete before.
    pub fn settled(&self, line: u32) -> Option<Outcome> {
        let outcome = |by: &SettledBy| match by {
            SettledBy::Write(outcome) | SettledBy::Journal(outcome) => *outcome,
        };
        let settled = lock(&self.settled).get(&line).map(outcome);
        settled.or_else(|| self.on_record(line).map(|(outcome, _)| outcome))
    }

    /// Whether writes since the start settled all the rows on these lines, so that the store is theirs to put.
    pub fn left_to_writes(&self, mut lines: impl Iterator<Item = u32>) -> bool {
        let settled = lock(&self.settled);
        !settled.is_empty() && lines.all(|line| matches!(settled.get(&line), Some(SettledBy::Write(_))))
    }

    /// Notes what a write that settles rows made of one: final, and told before the profile shows it.
    pub fn settle(&self, line: u32, outcome: Outcome) {
        self.note(line, SettledBy::Write(outcome));
    }

    /// Notes the same after a restart.
    pub fn settled_before(&self, line: u32, outcome: Outcome) {
        self.note(line, SettledBy::Journal(outcome));
    }

    fn note(&self, line: u32, by: SettledBy) {
        if self.on_record.is_none() {
            lock(&self.settled).entry(line).or_insert(by);
        }
    }
}

fn index_again(file: &File, empty_values: EmptyValues, path: &Path) -> io::Result<Index> {
    let (mut parser, mut builder) = (Parser::new(), IndexBuilder::default());
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut bytes, at)?;
        at += read as u64;
        let each = |row: super::csv::Row<'_>| builder.add(&row, empty_values);
        let parsed = match bytes.get(..read) {
            Some(read) if !read.is_empty() => parser.push(read, each),
            _ => parser.finish(each).map(|_| ()),
        };
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if read == 0 {
            return builder.finish(path);
        }
    }
}

#[cfg(test)]
impl Pending {
    /// A v1 batch of this file, kept in a folder under its seq.
    pub(crate) fn of_text(folder: &Path, client: &str, seq: u64, text: &str) -> Self {
        let (mut parser, mut index, mut rows) = (Parser::new(), IndexBuilder::default(), 0);
        let mut each = |row: super::csv::Row<'_>| {
            rows += 1;
            index.add(&row, EmptyValues::Ignore);
        };
        parser.push(text.as_bytes(), &mut each).unwrap();
        let header = parser.finish(&mut each).unwrap().clone();
        let path = folder.join(seq.to_string());
        std::fs::write(&path, text).unwrap();
        let seq = Seq::from_u64(seq);
        let rules = BatchRules {
            seq,
            source: Source::BatchV1,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
        };
        let id = BatchId { client: ClientCode::new(client).unwrap(), seq };
        let FileSum { bytes, crc32c } = FileSum::of(text.as_bytes());
        let key_kind = header.key_kind();
        let accepted = Accepted { id, rules, key_kind, spool: seq.get(), bytes, crc32c, rows, key: None };
        Self::new(accepted, header, index.finish(&path.with_extension("index")).unwrap(), path)
    }
}
