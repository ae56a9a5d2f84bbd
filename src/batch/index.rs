//! The index of an uploaded file: a sorted run of its rows in front of the store, as an LSM tree's first level is. Each row
//! leaves the hash of its id and its place in the file. The id at that place resolves collisions.
//!
//! Promises: a hash that no row has costs one small read at most. An index of a few thousand rows is kept in memory and
//! holds no file open, so a thousand small pending batches take no file handles. A larger one keeps one hash in 128.

use super::bundles::{BUNDLE_ROWS_MIN, BundleHead, BundleWriter, read_heads};
use super::csv::{Cells, Header, Parser, Row, RowPlace};
use super::index_entry::{ENTRY_BYTES, Entry, hash};
use super::rows::{read_full, read_header};
use crate::durable::point;
use crate::durable::record::{Fields, SumWriter};
use crate::model::batch::{BatchRules, EmptyValues};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"prfindx2";
/// The magic, how many entries there are, how many bytes of bundles come before them, and the checksum of both.
const HEAD_BYTES: usize = 8 + 4 + 4 + 4;
/// How many entries lie between two hashes that are kept in memory. One read of 2 KiB finds a hash.
const FENCE_STRIDE: usize = 128;
/// An index with at most so many entries is kept in memory.
const ENTRIES_IN_MEMORY: usize = 2048;
/// Bundles are kept in memory with it if they take at most so many bytes.
const BUNDLE_BYTES_IN_MEMORY: u32 = 32 << 10;
/// How much of an index is read at a time to verify it.
const VERIFY_BYTES: usize = 256 << 10;

/// Collects the places of a batch's rows while its body streams in: 16 bytes a row.
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
    /// A builder that bundles the rows of an id if there are at least so many. Only tests use another number than the
    /// default.
    pub fn bundling_from(bundle_rows_min: usize) -> Self {
        Self { entries: vec![], bundle_rows_min: bundle_rows_min.max(1) }
    }

    /// Adds a row, if it brings anything. A row that does not is `ignored` or `failed`, whatever the store holds.
    pub fn add(&mut self, row: &Row<'_>, empty_values: EmptyValues) {
        if let Ok(cells) = &row.content
            && brings_anything(cells, empty_values)
        {
            let place = RowPlace { line: row.line, offset: row.offset };
            self.entries.push(Entry::new(hash(cells.id()), place));
        }
    }

    /// Sorts the entries, bundles the rows of ids that have many, and writes the index beside the upload. It is not synced:
    /// an index that a crash took is rebuilt. The upload is read again only where there are bundles.
    pub fn finish(
        mut self,
        path: &Path,
        upload: &Path,
        header: &Header,
        rules: &BatchRules,
    ) -> io::Result<Index> {
        let rows = self.entries.len();
        self.entries.sort_unstable();
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        point("index-write")?;
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
        debug_assert_eq!(
            self.entries.len() as u64 + bundles.iter().map(|bundle| u64::from(bundle.rows)).sum::<u64>(),
            rows as u64,
            "every row is in a bundle or has an entry"
        );
        let mut bytes = Vec::with_capacity(ENTRY_BYTES * FENCE_STRIDE);
        for entries in self.entries.chunks(FENCE_STRIDE) {
            bytes.clear();
            for entry in entries {
                entry.put(&mut bytes);
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
pub fn brings_anything(cells: &Cells<'_>, empty_values: EmptyValues) -> bool {
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
    /// A small index: all of it.
    InMemory {
        entries: Vec<Entry>,
        /// The bytes of the bundles.
        bundles: Vec<u8>,
    },
    /// A large index: it stays in the file, and one hash of each block is kept in memory.
    InFile {
        file: File,
        /// Where its entries begin, and how many there are.
        entries_at: u64,
        count: usize,
        /// The hash of the first entry of each block. They ascend.
        fences: Vec<u64>,
    },
}

impl Index {
    /// An index without rows.
    pub(crate) fn empty() -> Self {
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

    /// Opens an index. `None` if there is none, or if it does not match its checksum.
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
        // The pieces end where the entries begin, so that each entry lies within one piece.
        loop {
            let most = if at < entries_at {
                usize::try_from(entries_at - at).unwrap_or(VERIFY_BYTES)
            } else {
                VERIFY_BYTES
            };
            let most = most.min(VERIFY_BYTES);
            let Some(piece) = bytes.get_mut(..most) else { break };
            let read = read_full(&file, at, piece)?;
            let Some(read_bytes) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
            sum = crc32c::crc32c_append(sum, read_bytes);
            if at >= entries_at {
                entries.extend(read_bytes.chunks_exact(ENTRY_BYTES).map(Entry::read));
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

    /// The places of one block of rows that are in no bundle, in the order of their ids' hashes. Empty behind the last
    /// block.
    pub(super) fn block(&self, number: usize) -> io::Result<Vec<Entry>> {
        let first = number.saturating_mul(FENCE_STRIDE);
        match &self.kept {
            Kept::InMemory { entries, .. } => {
                Ok(entries.iter().skip(first).take(FENCE_STRIDE).copied().collect())
            }
            Kept::InFile { file, entries_at, count, .. } => {
                let mut bytes = vec![0; count.saturating_sub(first).min(FENCE_STRIDE) * ENTRY_BYTES];
                file.read_exact_at(&mut bytes, entries_at + (first * ENTRY_BYTES) as u64)?;
                Ok(bytes.chunks_exact(ENTRY_BYTES).map(Entry::read).collect())
            }
        }
    }

    /// The number of the first block that may have a hash, or a greater one.
    pub(super) fn block_of(&self, hash: u64) -> usize {
        match &self.kept {
            Kept::InMemory { entries, .. } => {
                entries.partition_point(|entry| entry.hash < hash) / FENCE_STRIDE
            }
            Kept::InFile { fences, .. } => fences.partition_point(|fence| *fence < hash).saturating_sub(1),
        }
    }

    /// Reads a part of the bundles.
    pub(super) fn read_bundles(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
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

    /// The bundles of all ids with this hash.
    pub(super) fn bundles(&self, hash: u64) -> impl Iterator<Item = &BundleHead> {
        let from = self.bundles.partition_point(|bundle| bundle.hash < hash);
        self.bundles.iter().skip(from).take_while(move |bundle| bundle.hash == hash)
    }

    /// The bundle whose first row is on this line.
    pub(super) fn bundle_from(&self, line: u32) -> Option<&BundleHead> {
        self.bundles.iter().find(|bundle| bundle.first == line)
    }

    /// Every bundle, in the order of their hashes.
    pub(super) fn all_bundles(&self) -> &[BundleHead] {
        &self.bundles
    }

    /// Finds the places of all rows whose id has this hash, except those in bundles.
    pub(super) fn find(&self, hash: u64, found: &mut Vec<Entry>) -> io::Result<()> {
        let (file, entries_at, count, fences) = match &self.kept {
            Kept::InMemory { entries, .. } => {
                let from = entries.partition_point(|entry| entry.hash < hash);
                let rest = entries.iter().skip(from);
                found.extend(rest.take_while(|entry| entry.hash == hash));
                return Ok(());
            }
            Kept::InFile { file, entries_at, count, fences } => (file, *entries_at, *count, fences),
        };
        // The hash can begin in the block before the first fence that is not less than it.
        let mut block = fences.partition_point(|fence| *fence < hash).saturating_sub(1);
        let mut bytes = [0; ENTRY_BYTES * FENCE_STRIDE];
        while fences.get(block).is_some_and(|fence| *fence <= hash) {
            let first = block * FENCE_STRIDE;
            let length = (count - first).min(FENCE_STRIDE) * ENTRY_BYTES;
            let Some(read) = bytes.get_mut(..length) else { break };
            file.read_exact_at(read, entries_at + (first * ENTRY_BYTES) as u64)?;
            let entries = read.chunks_exact(ENTRY_BYTES).map(Entry::read);
            found.extend(entries.filter(|entry| entry.hash == hash));
            block += 1;
        }
        Ok(())
    }
}

/// Makes an index again, from the uploaded file.
pub(super) fn index_again(
    rules: &BatchRules,
    rows: &Path,
    path: &Path,
    bundle_rows_min: usize,
) -> io::Result<Index> {
    let file = File::open(rows)?;
    let empty_values = rules.empty_values;
    let (mut parser, mut builder) =
        (Parser::new(&rules.reading), IndexBuilder::bundling_from(bundle_rows_min));
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut bytes, at)?;
        at += read as u64;
        let each = |row: Row<'_>| builder.add(&row, empty_values);
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
