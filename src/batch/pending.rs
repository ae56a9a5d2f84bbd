//! An accepted batch that is not folded in yet: an immutable sorted run in front of the store, as an LSM tree's first
//! level is. Each row left the hash of its id and its place in the file; the id at that place resolves collisions.
//!
//! Promises: memory per pending batch is a few dozen kilobytes, whatever its rows, and 32 bytes for each id that more
//! than a hundred of them share; a hash that is in no row costs one small read at most; rows that share an id are found as
//! one [bundle](super::bundles); an index that does not verify is made again from the uploaded file; the file itself is
//! read whole only where it verifies. Only the index of a batch of
//! more than a few thousand rows keeps a file open, so a thousand small pending batches take no file handles.

use super::bundles::{
    BUNDLE_ROWS_MIN, BundleHead, BundleWriter, FoundBundle, FoundStretch, brought, read_heads,
};
use super::checksum::{FileSum, UploadError};
use super::csv::{Header, Parser, RowPlace, RowReader};
use super::outcome::{BatchState, Became, Failure, Progress, RowOutcome};
use super::rows::{each_row_at, read_header, read_row};
use crate::durable::record::{Fields, SumWriter};
use crate::journal::entry::{BatchAcceptedEntry, SentKeyEntry};
use crate::model::batch::{
    BatchId, BatchRules, ConsecutiveV2, EmptyValues, IdempotencyKey, Outcome, RowReading,
};
use crate::model::bundle::Effect;
use crate::model::id::{ClientCode, IdKind, Key};
use crate::model::profile::Source;
use crate::model::seq::Seq;
use crate::model::update::Cell;
use crate::sync::{Mutex, lock};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const MAGIC: &[u8; 8] = b"prfindx2";
/// The magic, how many entries, how many bytes of bundles before them, the checksum of both.
const HEAD_BYTES: usize = 8 + 4 + 4 + 4;
const ENTRY_BYTES: usize = 16;
/// How many entries lie between two hashes that are kept in memory: one read of 2 KiB finds a hash.
const FENCE_STRIDE: usize = 128;
/// An index of no more entries than this is kept in memory.
const ENTRIES_IN_MEMORY: usize = 2048;
/// So are its bundles, if they take no more than this.
const BUNDLE_BYTES_IN_MEMORY: u32 = 32 << 10;
/// How much of an index is read at a time to verify it.
const VERIFY_BYTES: usize = 256 << 10;

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
        let (reading, blocked_ids) = self.rules.reading.stored();
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
            reading,
            blocked_ids: blocked_ids.map(<[_]>::to_vec),
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
            reading: RowReading::from_stored(entry.reading, entry.blocked_ids)?,
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
    pub(super) hash: u64,
    offset: u32,
    line: u32,
}

impl Entry {
    pub(super) fn new(hash: u64, place: RowPlace) -> Self {
        Self { hash, offset: place.offset, line: place.line }
    }

    pub(super) fn place(self) -> RowPlace {
        RowPlace { line: self.line, offset: self.offset }
    }
}

/// Gathers the places of a batch's rows while its body streams in: 16 bytes a row.
#[derive(Debug)]
pub struct IndexBuilder {
    entries: Vec<Entry>,
    bundle_rows_min: usize,
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self::bundling_from(BUNDLE_ROWS_MIN)
    }
}

impl IndexBuilder {
    /// One that bundles the rows of an id from so many on. All but tests take the default.
    pub fn bundling_from(bundle_rows_min: usize) -> Self {
        Self { entries: vec![], bundle_rows_min: bundle_rows_min.max(1) }
    }

    /// Adds a row, if it brings anything; what does not is `ignored` or `failed` whatever the store holds.
    pub fn add(&mut self, row: &super::csv::Row<'_>, empty_values: EmptyValues) {
        if let Ok(cells) = &row.content
            && brings_anything(cells, empty_values)
        {
            self.entries.push(Entry { hash: hash(cells.id()), offset: row.offset, line: row.line });
        }
    }

    /// Sorts the entries, bundles the rows of those ids that have many, and writes all of it beside the upload. Not
    /// synced: an index that a crash took is made again. The upload is read again where there are bundles.
    pub fn finish(
        mut self,
        path: &Path,
        upload: &Path,
        header: &Header,
        rules: &BatchRules,
    ) -> io::Result<Index> {
        self.entries.sort_unstable();
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        crate::durable::point("index-write")?;
        let mut out = SumWriter::new(BufWriter::with_capacity(1 << 18, &file));
        out.unsummed().write_all(&[0; HEAD_BYTES])?;
        let rows_min = self.bundle_rows_min;
        let any = self.entries.chunk_by(|a, b| a.hash == b.hash).any(|rows| rows.len() >= rows_min);
        let (mut bundles, mut bundle_bytes) = (vec![], 0);
        if any {
            let upload = File::open(upload)?;
            let at = HEAD_BYTES as u64;
            let mut writer =
                BundleWriter { out: &mut out, at, upload: &upload, header, rules, rows_min, heads: vec![] };
            let mut left = vec![];
            for rows in self.entries.chunk_by(|a, b| a.hash == b.hash) {
                if rows.len() >= rows_min { left.extend(writer.bundle(rows)?) } else { left.extend(rows) }
            }
            bundles = writer.finish()?;
            bundle_bytes = u32::try_from(writer.at - at).map_err(io::Error::other)?;
            self.entries = left;
        }
        let mut bytes = Vec::with_capacity(ENTRY_BYTES * FENCE_STRIDE);
        for entries in self.entries.chunks(FENCE_STRIDE) {
            bytes.clear();
            for entry in entries {
                bytes.extend_from_slice(&entry.hash.to_le_bytes());
                bytes.extend_from_slice(&entry.offset.to_le_bytes());
                bytes.extend_from_slice(&entry.line.to_le_bytes());
            }
            out.write_all(&bytes)?;
        }
        out.flush()?;
        let sum = out.sum();
        drop(out);
        let count = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        file.write_all_at(&head(count, bundle_bytes, sum), 0)?;
        Index::of(file, self.entries, bundles, bundle_bytes)
    }
}

fn head(count: u32, bundle_bytes: u32, sum: u32) -> Vec<u8> {
    let numbers = [count, bundle_bytes, sum];
    MAGIC.iter().copied().chain(numbers.into_iter().flat_map(u32::to_le_bytes)).collect()
}

/// Whether a row could change a profile: it has a value, or an empty one that removes (R6).
pub fn brings_anything(cells: &super::csv::Cells<'_>, empty_values: EmptyValues) -> bool {
    !cells.is_empty() || (empty_values == EmptyValues::Remove && cells.emptied().next().is_some())
}

/// The sorted places of a batch's rows, and the bundles of those that share an id.
#[derive(Debug)]
pub struct Index {
    bundles: Vec<BundleHead>,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Of a small batch: all of it.
    InMemory {
        entries: Vec<Entry>,
        /// What the file has of bundles.
        bundles: Vec<u8>,
    },
    /// Of any other: in a file, with every so manieth hash at hand.
    InFile {
        file: File,
        /// Where its entries begin, and how many there are.
        entries_at: u64,
        count: usize,
        /// The hash of the first entry of each block.
        fences: Vec<u64>,
    },
}

impl Index {
    /// One that has nothing.
    fn empty() -> Self {
        Self { bundles: vec![], kept: Kept::InMemory { entries: vec![], bundles: vec![] } }
    }

    fn of(file: File, entries: Vec<Entry>, bundles: Vec<BundleHead>, bundle_bytes: u32) -> io::Result<Self> {
        let kept = if entries.len() <= ENTRIES_IN_MEMORY && bundle_bytes <= BUNDLE_BYTES_IN_MEMORY {
            let mut bytes = vec![0; bundle_bytes as usize];
            file.read_exact_at(&mut bytes, HEAD_BYTES as u64)?;
            Kept::InMemory { entries, bundles: bytes }
        } else {
            let fences = entries.iter().step_by(FENCE_STRIDE).map(|entry| entry.hash).collect();
            let entries_at = HEAD_BYTES as u64 + u64::from(bundle_bytes);
            Kept::InFile { file, entries_at, count: entries.len(), fences }
        };
        Ok(Self { bundles, kept })
    }

    /// Opens an index; `None` if it is not there or does not verify.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut first = [0; HEAD_BYTES];
        if file.metadata()?.len() < HEAD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut first, 0)?;
        let mut fields = Fields(first.get(MAGIC.len()..).unwrap_or_default());
        let Some((count, bundle_bytes)) = fields.u32().zip(fields.u32()) else { return Ok(None) };
        let (mut sum, mut at, mut bytes) = (0, HEAD_BYTES as u64, vec![0; VERIFY_BYTES]);
        let entries_at = at + u64::from(bundle_bytes);
        let mut entries = Vec::new();
        // In pieces that end where the entries begin, so that each of those lies within one.
        loop {
            let most = if at < entries_at {
                usize::try_from(entries_at - at).unwrap_or(VERIFY_BYTES)
            } else {
                VERIFY_BYTES
            };
            let most = most.min(VERIFY_BYTES);
            let Some(piece) = bytes.get_mut(..most) else { break };
            let read = super::rows::read_full(&file, at, piece)?;
            let Some(read_bytes) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
            sum = crc32c::crc32c_append(sum, read_bytes);
            if at >= entries_at {
                entries.extend(read_bytes.chunks_exact(ENTRY_BYTES).map(read_entry));
            }
            at += read as u64;
        }
        let whole = entries_at + u64::from(count) * ENTRY_BYTES as u64 == at;
        if !whole || first.as_slice() != head(count, bundle_bytes, sum) {
            return Ok(None);
        }
        let read = |at, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        let bundles = read_heads(&read, HEAD_BYTES as u64, entries_at)?;
        Self::of(file, entries, bundles, bundle_bytes).map(Some)
    }

    /// The places of a block of rows that are in no bundle, in the order of the hashes of their ids; none behind the last
    /// block.
    fn block(&self, number: usize) -> io::Result<Vec<Entry>> {
        let first = number.saturating_mul(FENCE_STRIDE);
        match &self.kept {
            Kept::InMemory { entries, .. } => {
                Ok(entries.iter().skip(first).take(FENCE_STRIDE).copied().collect())
            }
            Kept::InFile { file, entries_at, count, .. } => {
                let mut bytes = vec![0; count.saturating_sub(first).min(FENCE_STRIDE) * ENTRY_BYTES];
                file.read_exact_at(&mut bytes, entries_at + (first * ENTRY_BYTES) as u64)?;
                Ok(bytes.chunks_exact(ENTRY_BYTES).map(read_entry).collect())
            }
        }
    }

    /// Reads a part of the bundles.
    fn read_bundles(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        match &self.kept {
            Kept::InMemory { bundles, .. } => {
                let from = at.checked_sub(HEAD_BYTES as u64).and_then(|from| usize::try_from(from).ok());
                let bytes = from.and_then(|from| bundles.get(from..)?.get(..length));
                bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Kept::InFile { file, .. } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, at).map(|()| bytes)
            }
        }
    }

    /// The bundles of all ids that have this hash.
    fn bundles(&self, hash: u64) -> impl Iterator<Item = &BundleHead> {
        let from = self.bundles.partition_point(|bundle| bundle.hash < hash);
        self.bundles.iter().skip(from).take_while(move |bundle| bundle.hash == hash)
    }

    /// The bundle whose first row is on this line.
    fn bundle_from(&self, line: u32) -> Option<&BundleHead> {
        self.bundles.iter().find(|bundle| bundle.first == line)
    }

    /// The places of all rows whose id has this hash, but for those of bundles.
    fn find(&self, hash: u64, found: &mut Vec<Entry>) -> io::Result<()> {
        let (file, entries_at, count, fences) = match &self.kept {
            Kept::InMemory { entries, .. } => {
                let from = entries.partition_point(|entry| entry.hash < hash);
                let rest = entries.iter().skip(from);
                found.extend(rest.take_while(|entry| entry.hash == hash));
                return Ok(());
            }
            Kept::InFile { file, entries_at, count, fences } => (file, *entries_at, *count, fences),
        };
        // The first block that can hold the hash is the one before the first fence that reaches it.
        let mut block = fences.partition_point(|fence| *fence < hash).saturating_sub(1);
        let mut bytes = [0; ENTRY_BYTES * FENCE_STRIDE];
        while fences.get(block).is_some_and(|fence| *fence <= hash) {
            let first = block * FENCE_STRIDE;
            let length = (count - first).min(FENCE_STRIDE) * ENTRY_BYTES;
            let Some(read) = bytes.get_mut(..length) else { break };
            file.read_exact_at(read, entries_at + (first * ENTRY_BYTES) as u64)?;
            let entries = read.chunks_exact(ENTRY_BYTES).map(read_entry);
            found.extend(entries.filter(|entry| entry.hash == hash));
            block += 1;
        }
        Ok(())
    }
}

fn read_entry(bytes: &[u8]) -> Entry {
    let mut fields = Fields(bytes);
    let mut entry = || Some(Entry { hash: fields.u64()?, offset: fields.u32()?, line: fields.u32()? });
    // Whoever reads entries reads whole ones.
    entry().unwrap_or(Entry { hash: 0, offset: 0, line: 0 })
}

fn hash(id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(id.as_bytes())
}

/// One row found by its id: what a resolving write or a lookup folds in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRow {
    /// Which of the ids asked for it has.
    pub id: usize,
    /// Its line.
    pub line: u32,
    offset: u32,
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

impl FoundRow {
    /// What it does, if it can be applied.
    pub(super) fn effects(&self, empty_values: EmptyValues) -> impl Iterator<Item = Effect> {
        let removes = empty_values == EmptyValues::Remove;
        let brought = self.cells.iter().filter(move |(_, value)| removes || !value.is_empty());
        brought.filter_map(|(attribute, value)| {
            let (column, removed) = (u32::try_from(*attribute).ok()?, value.is_empty());
            let value = (!removed).then(|| value.clone());
            Some(Effect { column, line: self.line, removed, value })
        })
    }
}

/// What a batch has for some ids.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows, in line order.
    pub rows: Vec<FoundRow>,
    /// Rows that were bundled.
    pub bundles: Vec<FoundBundle>,
}

/// Which row of which bundle one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleRow {
    /// Its line.
    pub line: u32,
    /// The bundle's first line.
    pub bundle: u32,
    /// How many of the bundle's rows come before it.
    pub row: u32,
}

/// Where a row that is read once more came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOf {
    /// It is this one of the rows.
    Row(usize),
    /// It is in this one of the bundles, behind so many others.
    Bundle(usize, u32),
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
    resolved: Mutex<Resolved>,
    on_record: Option<OnRecord>,
    /// The file that told what became of all rows is gone, and nobody has found out yet of which lines nothing else tells.
    unjudged: bool,
    /// Lines of which nobody can tell any more what became of them: that file is gone.
    lost: HashSet<u32>,
    /// Why it is held, if it is: its file is not what was accepted.
    held: OnceLock<String>,
    /// Nothing tells whom it names, so it may be anybody.
    may_be_anybody: bool,
}

/// What became of all rows, of a batch that was complete before.
#[derive(Debug, Clone)]
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

/// What was resolved.
#[derive(Debug, Default, Clone)]
struct Resolved {
    /// Rows, by their lines.
    rows: HashMap<u32, (ResolvedBy, Outcome)>,
    /// Bundles, by their first lines.
    bundles: HashMap<u32, (ResolvedBy, Became)>,
}

/// Who resolved rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResolvedBy {
    /// A write since the start: the store has them, or is about to get them from that write.
    Write,
    /// The journal tells so. The store may have lost them with the crash, if that write met them folded in already.
    Journal,
}

impl Pending {
    /// A batch whose file and index are there.
    pub fn new(accepted: Accepted, header: Header, index: Index, rows: PathBuf) -> Self {
        let progress = Arc::new(Progress::of(&accepted));
        let (resolved, sum) = (Mutex::new(Resolved::default()), accepted.sum());
        Self {
            accepted: Arc::new(accepted),
            header,
            progress,
            index,
            rows,
            sum,
            resolved,
            on_record: None,
            unjudged: false,
            lost: HashSet::new(),
            held: OnceLock::new(),
            may_be_anybody: false,
        }
    }

    /// A batch whose file is not what was accepted, held for that. Its index, if that is there and verifies, tells whom it
    /// names; else it may be anybody. What became of rows the journal tells; of one that was complete, and `outcomes_gone`,
    /// nothing else does.
    pub fn open_damaged(
        accepted: Accepted,
        error: &UploadError,
        outcomes_gone: bool,
        rows: &Path,
        index: Option<&Path>,
        resolved: Vec<(u32, Became)>,
    ) -> Self {
        let index = index.and_then(|index| Index::open(index).ok().flatten());
        let may_be_anybody = index.is_none();
        let header = Header::from_parts(accepted.key_kind, vec![], accepted.rules.reading.clone());
        let opened = Self::new(accepted, header, index.unwrap_or_else(Index::empty), rows.to_owned());
        let resolved = resolved.into_iter().map(|(first, became)| (first, (ResolvedBy::Journal, became)));
        lock(&opened.resolved).bundles.extend(resolved);
        if outcomes_gone {
            let why = "what became of its rows was in a file that is missing or damaged, too";
            opened.hold(&format!("{}; and {why}", error.in_short()), &format!("{error}; {why}"));
        } else {
            opened.hold(&error.in_short(), error);
        }
        Self { may_be_anybody, unjudged: outcomes_gone, ..opened }
    }

    /// Opens a batch that is held once more, now that its file is what was accepted and comes to `sum`.
    pub fn open_again(&self, sum: FileSum, index: &Path) -> io::Result<Self> {
        let resolved = lock(&self.resolved).clone();
        let bundles = resolved.bundles.iter().map(|(first, (_, became))| (*first, became.clone())).collect();
        let opened = Self::open((*self.accepted).clone(), sum, &self.rows, index, bundles)?;
        let (on_record, unjudged, lost) = (self.on_record.clone(), self.unjudged, self.lost.clone());
        Ok(Self { resolved: Mutex::new(resolved), on_record, unjudged, lost, ..opened })
    }

    /// Holds it: its file is not what was accepted. Nothing is folded in from it any more, and whoever it may name waits,
    /// until the file is sent again or given up. What is said of it is `in_short`; the log is told all.
    pub fn hold(&self, in_short: &str, why: &dyn std::fmt::Display) {
        if matches!(self.progress.state(), BatchState::Complete(_)) {
            return;
        }
        let told = format!(
            "its uploaded file is not what was accepted: {in_short}. Send the same file again, or give the batch up"
        );
        if self.held.set(told).is_ok() {
            self.progress.stuck(true);
            tracing::error!(batch = %self.accepted.id, %why, "a batch is held, and whoever it names waits: send its file again, or give it up");
        }
    }

    /// Why it is held, if it is.
    pub fn held(&self) -> Option<&str> {
        self.held.get().map(String::as_str)
    }

    /// Whether it may have rows of these ids. Their hashes alone are looked for.
    pub fn may_name(&self, ids: &[Key]) -> bool {
        let mut found = vec![];
        self.keyed_so(ids).any(|(_, key)| {
            let hash = hash(key.id());
            let in_doubt = self.may_be_anybody || self.index.bundles(hash).next().is_some();
            in_doubt || self.index.find(hash, &mut found).is_err() || !found.is_empty()
        })
    }

    /// Opens an accepted batch's files after a restart; makes the index again if it does not verify. The file of rows was
    /// verified, and comes to `sum`. What became of `resolved` bundles, named by their first lines, the journal tells.
    pub fn open(
        accepted: Accepted,
        sum: FileSum,
        rows: &Path,
        index: &Path,
        resolved: Vec<(u32, Became)>,
    ) -> io::Result<Self> {
        let header = read_header(&File::open(rows)?, &accepted.rules.reading)?;
        let fewest = resolved.iter().map(|(_, became)| became.rows() as usize).min();
        let rows_min = fewest.unwrap_or(BUNDLE_ROWS_MIN).min(BUNDLE_ROWS_MIN);
        let has_all = |index: &Index| resolved.iter().all(|(first, _)| index.bundle_from(*first).is_some());
        let index = match Index::open(index)?.filter(has_all) {
            Some(found) => found,
            None => index_again(&accepted.rules, rows, index, rows_min)?,
        };
        // Rows that are overwritten are in no bundle any more; any others are as they were.
        let overwritten = sum != accepted.sum();
        let opened = Self { sum, ..Self::new(accepted, header, index, rows.to_owned()) };
        for (first, became) in resolved {
            if opened.index.bundle_from(first).is_some_and(|bundle| bundle.rows == became.rows()) {
                lock(&opened.resolved).bundles.insert(first, (ResolvedBy::Journal, became));
            } else if !overwritten {
                let why = format!(
                    "the journal says what became of the rows from line {first} on, which are others"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(opened)
    }

    /// The lines of all rows that were resolved, those of bundles with them.
    pub fn lines_resolved(&self) -> Result<Vec<u32>, UploadError> {
        let (mut lines, bundles) = {
            let resolved = lock(&self.resolved);
            let bundles: Vec<u32> = resolved.bundles.keys().copied().collect();
            (resolved.rows.keys().copied().collect::<Vec<u32>>(), bundles)
        };
        let bundled = || -> io::Result<Vec<u32>> {
            let mut lines = vec![];
            for bundle in self.bundles_from(bundles)? {
                lines.extend(self.lines_of(&bundle)?);
            }
            Ok(lines)
        };
        lines.extend(bundled().map_err(UploadError::of(&self.rows))?);
        Ok(lines)
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
        lost.iter().for_each(|line| self.resolved_before(*line, Outcome::Failed));
        self.lost = lost;
        self.unjudged = false;
        self
    }

    /// A batch that was complete, and whose outcomes are lost.
    pub fn unjudged(self) -> Self {
        Self { unjudged: true, ..self }
    }

    /// Whether somebody must still find out of which of its rows nothing tells what became of them, and can: its file is
    /// there.
    pub fn is_unjudged(&self) -> bool {
        self.unjudged && self.held().is_none()
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

    /// What it has for these ids. Rows are read one by one, as they are: the file was verified when the
    /// batch was accepted or opened, and will be when it is folded.
    pub fn find(&self, ids: &[Key]) -> io::Result<Found> {
        let places = self.places_of(ids)?;
        Ok(Found { rows: self.rows_at(ids, &places)?, bundles: self.bundles_of(ids)? })
    }

    /// The same, but nothing if writes since the start resolved it all: the file is not read then.
    pub fn find_unless_resolved(&self, ids: &[Key]) -> io::Result<Found> {
        let places = self.places_of(ids)?;
        let bundles = self.keyed_so(ids).flat_map(|(_, key)| self.index.bundles(hash(key.id())));
        if self.left_to_writes(places.iter().map(|(_, place)| place.line), bundles.map(|bundle| bundle.first))
        {
            return Ok(Found::default());
        }
        Ok(Found { rows: self.rows_at(ids, &places)?, bundles: self.bundles_of(ids)? })
    }

    /// Those ids that rows of this batch can have.
    fn keyed_so<'k>(&self, ids: &'k [Key]) -> impl Iterator<Item = (usize, &'k Key)> {
        let kind = self.accepted.key_kind;
        ids.iter().enumerate().filter(move |(_, key)| key.kind() == kind)
    }

    /// Where rows may be that have one of these ids, and which of the ids.
    fn places_of(&self, ids: &[Key]) -> io::Result<Vec<(usize, Entry)>> {
        let (mut found, mut places) = (vec![], vec![]);
        for (n, key) in self.keyed_so(ids) {
            self.index.find(hash(key.id()), &mut found)?;
            places.extend(found.drain(..).map(|place| (n, place)));
        }
        Ok(places)
    }

    fn bundles_of(&self, ids: &[Key]) -> io::Result<Vec<FoundBundle>> {
        let mut found = vec![];
        for (n, key) in self.keyed_so(ids) {
            for bundle in self.index.bundles(hash(key.id())) {
                let read = |at, length| self.index.read_bundles(at, length);
                found.extend(bundle.read(&read, n, key.id())?);
            }
        }
        Ok(found)
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
            let cells = filled.chain(emptied).collect();
            rows.push(FoundRow { id: *n, line: place.line, offset: place.offset, cells });
        }
        rows.sort_by_key(|row| row.line);
        Ok(rows)
    }

    /// Gives each id that a row names which brings anything, once, until `each` has enough: in the order of their hashes, so
    /// that all rows of one stand together, and then those of bundles. The file is read row by row, as it is.
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
        for bundle in &self.index.bundles {
            let id = bundle.id(&|at, length| self.index.read_bundles(at, length)).map_err(unreadable())?;
            if each(&id).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the rows of a stretch do.
    pub fn effects(&self, stretch: &FoundStretch) -> io::Result<Vec<Effect>> {
        stretch.effects(&|at, length| self.index.read_bundles(at, length))
    }

    /// The bundles whose first rows are on these lines.
    pub fn bundles_from(&self, lines: impl IntoIterator<Item = u32>) -> io::Result<Vec<FoundBundle>> {
        let heads = lines.into_iter().filter_map(|line| self.index.bundle_from(line));
        heads.map(|head| head.read_any(&|at, length| self.index.read_bundles(at, length))).collect()
    }

    /// The rows at these places, which rise.
    pub fn rows_in(&self, places: &[RowPlace]) -> io::Result<Vec<FoundRow>> {
        let (file, mut rows) = (File::open(&self.rows)?, vec![]);
        each_row_at(&file, &self.header, places, |place, content| {
            let cells = content.map_err(|_| super::bundles::changed(place.line))?;
            let cells = brought(&cells, self.accepted.rules.empty_values).into_iter();
            let cells = cells.map(|(attribute, value)| (attribute, value.to_owned())).collect();
            rows.push(FoundRow { id: 0, line: place.line, offset: place.offset, cells });
            Ok(())
        })?;
        Ok(rows)
    }

    /// The lines of a bundle's rows.
    pub fn lines_of(&self, bundle: &FoundBundle) -> io::Result<Vec<u32>> {
        let places = bundle.places(&|at, length| self.index.read_bundles(at, length), 0, bundle.rows)?;
        Ok(places.into_iter().map(|place| place.line).collect())
    }

    /// All rows that are in bundles, in line order.
    pub fn bundle_rows(&self) -> io::Result<Vec<BundleRow>> {
        let mut rows = vec![];
        for head in &self.index.bundles {
            let read = |at, length| self.index.read_bundles(at, length);
            let places = head.read_any(&read)?.places(&read, 0, head.rows)?;
            let bundle = head.first;
            rows.extend((0..).zip(places).map(|(row, place)| BundleRow { line: place.line, bundle, row }));
        }
        rows.sort_unstable_by_key(|row| row.line);
        Ok(rows)
    }

    /// Reads rows once more, those of bundles and others together, in line order, and gives the cells that each brings: by
    /// the numbers of their attributes, removed ones empty. Of a bundle it reads `rows` behind the first so many; each takes
    /// 16 bytes of memory meanwhile.
    pub fn each_row_of(
        &self,
        rows: &[(usize, &FoundRow)],
        bundles: &[(usize, &FoundBundle, u32, u32)],
        mut each: impl FnMut(u32, RowOf, &[(usize, &str)]) -> io::Result<()>,
    ) -> io::Result<()> {
        let place = |row: &FoundRow| RowPlace { line: row.line, offset: row.offset };
        let mut all: Vec<(RowPlace, RowOf)> =
            rows.iter().map(|(n, row)| (place(row), RowOf::Row(*n))).collect();
        for (n, bundle, before, rows) in bundles {
            let places = bundle.places(&|at, length| self.index.read_bundles(at, length), *before, *rows)?;
            all.extend((*before..).zip(places).map(|(row, place)| (place, RowOf::Bundle(*n, row))));
        }
        all.sort_unstable_by_key(|(place, _)| place.line);
        let places: Vec<RowPlace> = all.iter().map(|(place, _)| *place).collect();
        let mut from = all.iter().map(|(_, from)| *from);
        let file = File::open(&self.rows)?;
        let (header, empty_values) = (&self.header, self.accepted.rules.empty_values);
        each_row_at(&file, header, &places, |place, content| {
            let cells = content.map_err(|_| super::bundles::changed(place.line))?;
            let from = from.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            each(place.line, from, &brought(&cells, empty_values))
        })
    }

    /// What became of the row on this line, if a write resolved it or the batch was complete before. Whether it is in a
    /// bundle that was resolved is looked for in all of those: whoever knows asks [`resolved_in`](Self::resolved_in).
    pub fn resolved(&self, line: u32) -> io::Result<Option<Outcome>> {
        if let Some(outcome) = self.resolved_row(line) {
            return Ok(Some(outcome));
        }
        let mut bundles: Vec<u32> = lock(&self.resolved).bundles.keys().copied().collect();
        bundles.retain(|first| *first <= line);
        for bundle in self.bundles_from(bundles)? {
            if let Some(at) = self.lines_of(&bundle)?.iter().position(|at| *at == line) {
                let row = BundleRow {
                    line,
                    bundle: bundle.first,
                    row: u32::try_from(at).map_err(io::Error::other)?,
                };
                return Ok(self.resolved_in(row));
            }
        }
        Ok(None)
    }

    /// The same, of a row that is in no bundle.
    pub fn resolved_row(&self, line: u32) -> Option<Outcome> {
        let resolved = lock(&self.resolved).rows.get(&line).map(|(_, outcome)| *outcome);
        resolved.or_else(|| self.on_record(line).map(|(outcome, _)| outcome))
    }

    /// The same, of a row that is in a bundle.
    pub fn resolved_in(&self, row: BundleRow) -> Option<Outcome> {
        let bundled =
            || lock(&self.resolved).bundles.get(&row.bundle).and_then(|(_, became)| became.of(row.row));
        self.resolved_row(row.line).or_else(bundled)
    }

    /// What became of all rows of a bundle, if that is known.
    pub fn resolved_bundle(&self, bundle: &FoundBundle) -> io::Result<Option<Became>> {
        let resolved = {
            let resolved = lock(&self.resolved);
            if resolved.rows.is_empty() && self.on_record.is_none() && resolved.bundles.is_empty() {
                return Ok(None);
            }
            resolved.bundles.get(&bundle.first).map(|(_, became)| became.clone())
        };
        // An earlier program resolved row by row.
        if resolved.is_some() || self.resolved_row(bundle.first).is_none() {
            return Ok(resolved);
        }
        let mut became = Became::default();
        for line in self.lines_of(bundle)? {
            let Some(outcome) = self.resolved_row(line) else { return Ok(None) };
            became.push(1, outcome);
        }
        Ok(Some(became))
    }

    /// Whether writes since the start resolved all the rows on these lines, and these bundles, so that the store is theirs to
    /// put.
    pub fn left_to_writes(
        &self,
        mut lines: impl Iterator<Item = u32>,
        mut bundles: impl Iterator<Item = u32>,
    ) -> bool {
        let resolved = lock(&self.resolved);
        let by_write = |by: Option<ResolvedBy>| by == Some(ResolvedBy::Write);
        !(resolved.rows.is_empty() && resolved.bundles.is_empty())
            && lines.all(|line| by_write(resolved.rows.get(&line).map(|(by, _)| *by)))
            && bundles.all(|first| by_write(resolved.bundles.get(&first).map(|(by, _)| *by)))
    }

    /// Notes what a write that resolves rows made of one: final, and told before the profile shows it.
    pub fn resolve(&self, line: u32, outcome: Outcome) {
        self.note(line, ResolvedBy::Write, outcome);
    }

    /// The same of a bundle.
    pub fn resolve_bundle(&self, first: u32, became: Became) {
        if self.on_record.is_none() {
            lock(&self.resolved).bundles.entry(first).or_insert((ResolvedBy::Write, became));
        }
    }

    /// Notes the same after a restart.
    pub fn resolved_before(&self, line: u32, outcome: Outcome) {
        self.note(line, ResolvedBy::Journal, outcome);
    }

    fn note(&self, line: u32, by: ResolvedBy, outcome: Outcome) {
        if self.on_record.is_none() {
            lock(&self.resolved).rows.entry(line).or_insert((by, outcome));
        }
    }
}

fn index_again(rules: &BatchRules, rows: &Path, path: &Path, bundle_rows_min: usize) -> io::Result<Index> {
    let file = File::open(rows)?;
    let empty_values = rules.empty_values;
    let (mut parser, mut builder) =
        (Parser::new(&rules.reading), IndexBuilder::bundling_from(bundle_rows_min));
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
            return builder.finish(path, rows, &read_header(&file, &rules.reading)?, rules);
        }
    }
}

#[cfg(test)]
impl Pending {
    /// A v1 batch of this file, kept in a folder under its seq.
    pub(crate) fn of_text(folder: &Path, client: &str, seq: u64, text: &str) -> Self {
        let rules = BatchRules {
            seq: Seq::from_u64(seq),
            source: Source::BatchV1,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading: RowReading::default(),
        };
        Self::of_rules(folder, client, rules, text, BUNDLE_ROWS_MIN)
    }

    /// The same, under other rules, which say its seq.
    pub(crate) fn of_rules(
        folder: &Path,
        client: &str,
        rules: BatchRules,
        text: &str,
        bundle_rows_min: usize,
    ) -> Self {
        let (mut parser, mut rows) = (Parser::new(&rules.reading), 0);
        let mut index = IndexBuilder::bundling_from(bundle_rows_min);
        let mut each = |row: super::csv::Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        parser.push(text.as_bytes(), &mut each).unwrap();
        let header = parser.finish(&mut each).unwrap().clone();
        let seq = rules.seq;
        let path = folder.join(seq.get().to_string());
        std::fs::write(&path, text).unwrap();
        let index = index.finish(&path.with_extension("index"), &path, &header, &rules).unwrap();
        let id = BatchId { client: ClientCode::new(client).unwrap(), seq };
        let FileSum { bytes, crc32c } = FileSum::of(text.as_bytes());
        let key_kind = header.key_kind();
        let accepted = Accepted { id, rules, key_kind, spool: seq.get(), bytes, crc32c, rows, key: None };
        Self::new(accepted, header, index, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes as they were written before records had one place in the code: no later program may write others.
    #[test]
    fn the_format_of_the_index_is_these_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let rules = BatchRules {
            seq: Seq::from_u64(7),
            source: Source::BatchV2,
            creates: true,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading: RowReading::default(),
        };
        Pending::of_rules(folder.path(), "demo", rules, "batch=pcId,a\nx,1\ny,2\nx,3\n", 2);
        let expected = [
            // Head, and the bundle of x: effects, places, contents, directory.
            &b"prfindx2\x01\0\0\0\x43\0\0\0\x42\xe7\x7d\x59"[..],
            b"\x01\x01\x00\x04\x00\x01\x013",
            b"\x0d\0\0\0\x02\0\0\0\x15\0\0\0\x04\0\0\0",
            b"\x01\x01x\x14\x01\x02\x04\x02\x02\x08\x1c",
            b"\x11\xcd\xb2\x80\x64\x6c\xf0\xea\x02\0\0\0\x02\0\0\0\x2c\0\0\0\0\0\0\0\x0b\0\0\0",
            b"\x01\0\0\0",
            // The entry of y.
            b"\xe5\xa9\xc0\xd7\xe6\x57\x2b\x27\x11\0\0\0\x03\0\0\0",
        ];
        assert_eq!(std::fs::read(folder.path().join("7.index")).unwrap(), expected.concat());
    }

    /// A batch whose rows are read as they were before batches said how: with its index gone, its rows are the same.
    #[test]
    fn a_batch_of_before_is_opened_as_it_was_read_then() {
        let folder = tempfile::tempdir().unwrap();
        let rules = |reading| BatchRules {
            seq: Seq::from_u64(7),
            source: Source::BatchV2,
            creates: true,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 1 << 40,
            max_profile_bytes: 1 << 20,
            reading,
        };
        let text = "batch=pcId,a\nalice.smith,1\nundefined,2\nx,\"3\ny,4\nz,5\"\nw,6\n";
        let client = ClientCode::new("demo").unwrap();
        for (reading, ids_found) in [
            (RowReading::before(), &["alice", "undefined", "x", "w"][..]),
            (RowReading::default(), &["x", "w"]),
        ] {
            let before = Pending::of_rules(folder.path(), "demo", rules(reading), text, BUNDLE_ROWS_MIN);
            let accepted = Accepted::from_entry(before.accepted.to_entry()).unwrap();
            assert_eq!((&accepted, accepted.rows), (&*before.accepted, 4));
            let (file, index) = (folder.path().join("7"), folder.path().join("7.index"));
            std::fs::remove_file(&index).unwrap();
            let sum = accepted.sum();
            let opened = Pending::open(accepted, sum, &file, &index, vec![]).unwrap();
            let found = |id: &str| opened.find(&[Key::new(&client, IdKind::Pc, id)]).unwrap().rows.len();
            let ids = ["alice", "undefined", "x", "y", "z", "w"];
            let shown: Vec<_> = ids.into_iter().filter(|id| found(id) == 1).collect();
            assert_eq!(shown, ids_found);
        }
    }
}
