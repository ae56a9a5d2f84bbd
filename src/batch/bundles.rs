//! Bundles: the rows of an id that many rows of one batch share. They stand beside the index, merged into their effect. So a
//! lookup, or a write that resolves them, reads as much for a hundred thousand rows as for one.
//!
//! ```text
//! of each bundle   the effects of each of its stretches (see [`Stretch`]) · its contents · the places of its rows
//! directory        of each bundle, by hash: hash u64 · first line u32 · rows u32 · place of its contents u64 · bytes u32
//! how many bundles u32
//! ```
//!
//! Promises: a bundle's rows are in no other part of the index. Making bundles takes the memory of one id's places and one
//! profile. A batch whose ids have few rows each has no bundles, and they cost it nothing.

use super::csv::{Cells, Header, RowPlace};
use super::index_entry::Entry;
use super::rows::each_row_at;
use crate::durable::record::Fields;
use crate::model::batch::{BatchRules, EmptyValues};
use crate::model::bundle::{Effect, Merger, Stretch};
use crate::model::codec;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};

/// The rows of an id are bundled if there are at least so many. To read fewer one by one is quicker than to merge them. Each
/// bundle takes 32 bytes of memory while its batch is pending.
pub const BUNDLE_ROWS_MIN: usize = 128;
/// How many ids of one hash are bundled. If there are more, somebody made them up, and their rows are left as they are.
const IDS_OF_A_HASH_MAX: usize = 8;
const HEAD_BYTES: usize = 28;
const PLACE_BYTES: usize = 8;
const CONTENTS_VERSION: u8 = 1;

/// Where a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BundleHead {
    pub(super) hash: u64,
    /// The line of its first row, which no other bundle has.
    pub(super) first: u32,
    pub(super) rows: u32,
    at: u64,
    bytes: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    id: String,
    /// Where the effects begin, and how many bytes those of each stretch have.
    effects_at: u64,
    stretches: Vec<(Stretch, u32)>,
    places_at: u64,
}

/// The rows of one id, merged, found by the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBundle {
    /// Which of the ids that were asked for.
    pub id: usize,
    /// The line of its first row.
    pub first: u32,
    /// How many rows.
    pub rows: u32,
    /// The rows, merged stretch by stretch.
    pub stretches: Vec<FoundStretch>,
    places_at: u64,
}

/// A stretch, and where its effects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundStretch {
    /// The stretch.
    pub stretch: Stretch,
    /// How many rows of its bundle come before it.
    pub rows_before: u32,
    at: u64,
    bytes: u32,
}

/// Reads a part of the index.
pub(super) type ReadAt<'r> = &'r dyn Fn(u64, usize) -> io::Result<Vec<u8>>;

/// The cells of a row that do something: those that set a value, and those that remove one where empty values do (R6).
pub(super) fn brought<'a>(cells: &Cells<'a>, empty_values: EmptyValues) -> Vec<(usize, &'a str)> {
    let removes = empty_values == EmptyValues::Remove;
    let emptied = cells.emptied().filter(|_| removes).map(|attribute| (attribute, ""));
    cells.attributes().chain(emptied).collect()
}

/// Writes bundles.
pub(super) struct BundleWriter<'w, W> {
    pub(super) out: W,
    /// How many bytes were written, those before the bundles included.
    pub(super) at: u64,
    pub(super) upload: &'w File,
    pub(super) header: &'w Header,
    pub(super) rules: &'w BatchRules,
    pub(super) rows_min: usize,
    pub(super) heads: Vec<BundleHead>,
}

impl<W: Write> BundleWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Bundles the rows of one hash, id by id. Gives the places of the rows that are in no bundle.
    pub(super) fn bundle(&mut self, entries: &[Entry]) -> io::Result<Vec<Entry>> {
        let (mut left, mut cold) = (entries.to_vec(), vec![]);
        for _ in 0..IDS_OF_A_HASH_MAX {
            if left.len() < self.rows_min {
                break;
            }
            let (of_one, others) = self.bundle_one(&left)?;
            cold.extend(of_one);
            left = others;
        }
        cold.extend(left);
        cold.sort_unstable();
        Ok(cold)
    }

    /// Bundles the rows of the first row's id. Gives the places of its rows if they were too few, and of all other ids' rows.
    fn bundle_one(&mut self, entries: &[Entry]) -> io::Result<(Vec<Entry>, Vec<Entry>)> {
        let Some(hash) = entries.first().map(|entry| entry.hash) else { return Ok((vec![], vec![])) };
        let (names, bytes_max) = (self.header.names(), self.rules.max_profile_bytes as u64);
        let (upload, header, rules) = (self.upload, self.header, self.rules);
        let (mut id, mut places, mut others) = (None::<String>, vec![], vec![]);
        let (mut merger, mut stretches, effects_at) = (Merger::default(), vec![], self.at);
        let all: Vec<RowPlace> = entries.iter().map(|entry| entry.place()).collect();
        each_row_at(upload, header, &all, |place, content| {
            let cells = content.map_err(|_| changed(place.line))?;
            if *id.get_or_insert_with(|| cells.id().to_owned()) != cells.id() {
                others.push(Entry::new(hash, place));
                return Ok(());
            }
            places.push(place);
            let cells = brought(&cells, rules.empty_values);
            if let Some(full) = merger.push(place.line, &cells, names, bytes_max) {
                stretches.push(self.write_effects(full)?);
            }
            Ok(())
        })?;
        if places.len() < self.rows_min {
            return Ok((places.into_iter().map(|place| Entry::new(hash, place)).collect(), others));
        }
        if let Some(last) = merger.finish() {
            stretches.push(self.write_effects(last)?);
        }
        let (Some(id), Some(first)) = (id, places.first()) else { return Ok((vec![], others)) };
        let places_at = self.at;
        let mut bytes = Vec::with_capacity(places.len() * PLACE_BYTES);
        for place in &places {
            bytes.extend_from_slice(&place.offset.to_le_bytes());
            bytes.extend_from_slice(&place.line.to_le_bytes());
        }
        self.write(&bytes)?;
        let contents = Contents { id, effects_at, stretches, places_at };
        let (at, mut bytes) = (self.at, vec![]);
        codec::encode_into(CONTENTS_VERSION, &contents, &mut bytes).map_err(io::Error::other)?;
        self.write(&bytes)?;
        let rows = u32::try_from(places.len()).map_err(io::Error::other)?;
        let bytes = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.heads.push(BundleHead { hash, first: first.line, rows, at, bytes });
        Ok((vec![], others))
    }

    fn write_effects(
        &mut self,
        (stretch, mut effects): (Stretch, Vec<Effect>),
    ) -> io::Result<(Stretch, u32)> {
        if stretch.bytes_max > self.rules.max_profile_bytes as u64 {
            // Such a row is applied by itself, whatever is stored.
            effects.clear();
        }
        let mut bytes = vec![];
        codec::encode_into(CONTENTS_VERSION, &effects, &mut bytes).map_err(io::Error::other)?;
        self.write(&bytes)?;
        Ok((stretch, u32::try_from(bytes.len()).map_err(io::Error::other)?))
    }

    /// Writes the directory. Gives the bundles there are.
    pub(super) fn finish(&mut self) -> io::Result<Vec<BundleHead>> {
        let heads = std::mem::take(&mut self.heads);
        let mut bytes = Vec::with_capacity(heads.len() * HEAD_BYTES + 4);
        for head in &heads {
            bytes.extend_from_slice(&head.hash.to_le_bytes());
            bytes.extend_from_slice(&head.first.to_le_bytes());
            bytes.extend_from_slice(&head.rows.to_le_bytes());
            bytes.extend_from_slice(&head.at.to_le_bytes());
            bytes.extend_from_slice(&head.bytes.to_le_bytes());
        }
        bytes.extend_from_slice(&u32::try_from(heads.len()).map_err(io::Error::other)?.to_le_bytes());
        self.write(&bytes)?;
        Ok(heads)
    }
}

/// Reads the directory of bundles that end before `end`, and began at `from`.
pub(super) fn read_heads(read: ReadAt<'_>, from: u64, end: u64) -> io::Result<Vec<BundleHead>> {
    if end <= from {
        return Ok(vec![]);
    }
    let count_at = end.checked_sub(4).filter(|at| *at >= from).ok_or_else(damaged)?;
    let count = Fields(&read(count_at, 4)?).u32().ok_or_else(damaged)? as usize;
    let bytes = count * HEAD_BYTES;
    let at = count_at.checked_sub(bytes as u64).filter(|at| *at >= from).ok_or_else(damaged)?;
    let bytes = read(at, bytes)?;
    let mut numbers = Fields(&bytes);
    let mut heads = Vec::with_capacity(count);
    while let Some(hash) = numbers.u64() {
        let mut head = || {
            let (first, rows) = (numbers.u32()?, numbers.u32()?);
            Some(BundleHead { hash, first, rows, at: numbers.u64()?, bytes: numbers.u32()? })
        };
        heads.push(head().ok_or_else(damaged)?);
    }
    Ok(heads)
}

impl BundleHead {
    /// The bundle, if it is of this id.
    pub(super) fn read(&self, read: ReadAt<'_>, n: usize, id: &str) -> io::Result<Option<FoundBundle>> {
        let contents = self.contents(read)?;
        Ok((contents.id == id).then(|| self.found(contents, n)))
    }

    /// The id of its rows.
    pub(super) fn id(&self, read: ReadAt<'_>) -> io::Result<String> {
        Ok(self.contents(read)?.id)
    }

    /// The bundle, of whichever id.
    pub(super) fn read_any(&self, read: ReadAt<'_>) -> io::Result<FoundBundle> {
        Ok(self.found(self.contents(read)?, 0))
    }

    fn contents(&self, read: ReadAt<'_>) -> io::Result<Contents> {
        let bytes = read(self.at, self.bytes as usize)?;
        codec::decode(CONTENTS_VERSION, &bytes).map_err(|_| damaged())
    }

    fn found(&self, contents: Contents, id: usize) -> FoundBundle {
        let (mut at, mut rows_before) = (contents.effects_at, 0);
        let stretches = contents.stretches.into_iter().map(|(stretch, bytes)| {
            let found = FoundStretch { stretch, rows_before, at, bytes };
            at += u64::from(bytes);
            rows_before += stretch.rows;
            found
        });
        let stretches = stretches.collect();
        FoundBundle { id, first: self.first, rows: self.rows, stretches, places_at: contents.places_at }
    }
}

impl FoundBundle {
    /// Where some of its rows are.
    pub(super) fn places(&self, read: ReadAt<'_>, before: u32, rows: u32) -> io::Result<Vec<RowPlace>> {
        let at = self.places_at + u64::from(before) * PLACE_BYTES as u64;
        let bytes = read(at, rows as usize * PLACE_BYTES)?;
        let mut numbers = Fields(&bytes);
        let mut places = Vec::with_capacity(rows as usize);
        while let (Some(offset), Some(line)) = (numbers.u32(), numbers.u32()) {
            places.push(RowPlace { line, offset });
        }
        Ok(places)
    }
}

impl FoundStretch {
    /// What its rows do.
    pub(super) fn effects(&self, read: ReadAt<'_>) -> io::Result<Vec<Effect>> {
        codec::decode(CONTENTS_VERSION, &read(self.at, self.bytes as usize)?).map_err(|_| damaged())
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index of an upload is damaged")
}

pub(super) fn changed(line: u32) -> io::Error {
    let why = format!("line {line} of an upload is not what it was a moment ago");
    io::Error::new(io::ErrorKind::InvalidData, why)
}
