//! Finding a pending batch's rows by id.
//!
//! Promises: no search reads more of the file than the rows that it finds. Rows that share an id are found as one
//! [bundle](crate::batch::bundles).

use super::Pending;
use crate::batch::bundles::{FoundBundle, FoundStretch, brought, changed};
use crate::batch::checksum::UploadError;
use crate::batch::csv::{RowPlace, RowReader};
use crate::batch::found::{BundleRow, Found, FoundRow, IdPlace, RowOf};
use crate::batch::index_entry::{Entry, hash};
use crate::batch::rows::{each_row_at, read_row};
use crate::model::bundle::Effect;
use crate::model::id::Key;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

impl Pending {
    /// What it has for these ids. Rows are read one by one, as they are. The file was verified when the batch was accepted or
    /// opened, and is verified again when its rows are applied.
    pub fn find(&self, ids: &[Key]) -> io::Result<Found> {
        let places = self.places_of(ids)?;
        Ok(Found { rows: self.rows_at(ids, &places)?, bundles: self.bundles_of(ids)? })
    }

    /// The same, but nothing if writes since the start resolved all of it. Then the file is not read.
    pub fn find_unless_resolved(&self, ids: &[Key]) -> io::Result<Found> {
        let places = self.places_of(ids)?;
        let bundles = self.keyed_so(ids).flat_map(|(_, key)| self.index.bundles(hash(key.id())));
        if self.left_to_writes(
            places.iter().map(|(_, place)| place.place().line),
            bundles.map(|bundle| bundle.first),
        ) {
            return Ok(Found::default());
        }
        Ok(Found { rows: self.rows_at(ids, &places)?, bundles: self.bundles_of(ids)? })
    }

    /// Where rows may be that have one of these ids, and which id.
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
            read_row(&file, header, place.place().offset, &mut reader, &mut bytes)?;
            let Ok(cells) = reader.read(header, &bytes).content else { continue };
            if ids.get(*n).is_none_or(|key| cells.id() != key.id()) {
                continue;
            }
            let filled = cells.attributes().map(|(attribute, value)| (attribute, value.to_owned()));
            let emptied = cells.emptied().map(|attribute| (attribute, String::new()));
            let cells = filled.chain(emptied).collect();
            let RowPlace { line, offset } = place.place();
            rows.push(FoundRow { id: *n, line, offset, cells });
        }
        rows.sort_by_key(|row| row.line);
        Ok(rows)
    }

    /// Gives each id whose rows bring anything, once, until `each` has enough. Ids come in the order of their hashes, so that
    /// all rows of one id stand together; then come the ids of bundles. The file is read row by row, as it is.
    pub fn each_id(&self, mut each: impl FnMut(&str) -> ControlFlow<()>) -> Result<(), UploadError> {
        self.each_id_behind(None, |_, id| each(id))
    }

    /// The same from behind a place on. An id comes with its place; ids whose hashes are the same have one place.
    pub fn each_id_behind(
        &self,
        behind: Option<IdPlace>,
        mut each: impl FnMut(IdPlace, &str) -> ControlFlow<()>,
    ) -> Result<(), UploadError> {
        let unreadable = || UploadError::of(&self.rows);
        let (file, header) = (self.open_file()?, &self.header);
        let (mut reader, mut bytes) = (RowReader::new(), vec![]);
        let (mut hash, mut ids) = (None, vec![]);
        let (first, done, bundles_done) = match behind {
            None => (Some(0), None, 0),
            Some(IdPlace::Hash(hash)) => (Some(self.index.block_of(hash)), Some(hash), 0),
            Some(IdPlace::Bundle(number)) => (None, None, number.saturating_add(1)),
        };
        for block in first.into_iter().flat_map(|first| first..) {
            let entries = self.index.block(block).map_err(unreadable())?;
            if entries.is_empty() {
                break;
            }
            for entry in entries.into_iter().filter(|entry| done.is_none_or(|done| entry.hash > done)) {
                read_row(&file, header, entry.place().offset, &mut reader, &mut bytes)
                    .map_err(unreadable())?;
                let Ok(cells) = reader.read(header, &bytes).content else {
                    // Once it is complete, rows of erased visitors are overwritten (R12).
                    if self.progress.completed().is_some() {
                        continue;
                    }
                    return Err(self.row_changed(entry.place().line));
                };
                if hash.replace(entry.hash) != Some(entry.hash) {
                    ids.clear();
                }
                if ids.iter().any(|id| id == cells.id()) {
                    continue;
                }
                ids.push(cells.id().to_owned());
                if each(IdPlace::Hash(entry.hash), cells.id()).is_break() {
                    return Ok(());
                }
            }
        }
        for (number, bundle) in self.index.all_bundles().iter().enumerate().skip(bundles_done) {
            let id = bundle.id(&|at, length| self.index.read_bundles(at, length)).map_err(unreadable())?;
            if each(IdPlace::Bundle(number), &id).is_break() {
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

    /// The rows at these places. The places ascend.
    pub fn rows_in(&self, places: &[RowPlace]) -> io::Result<Vec<FoundRow>> {
        let (file, mut rows) = (File::open(&self.rows)?, vec![]);
        each_row_at(&file, &self.header, places, |place, content| {
            let cells = content.map_err(|_| changed(place.line))?;
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
        for head in self.index.all_bundles() {
            let read = |at, length| self.index.read_bundles(at, length);
            let places = head.read_any(&read)?.places(&read, 0, head.rows)?;
            let bundle = head.first;
            rows.extend((0..).zip(places).map(|(row, place)| BundleRow { line: place.line, bundle, row }));
        }
        rows.sort_unstable_by_key(|row| row.line);
        Ok(rows)
    }

    /// Reads rows again, those of bundles and others together, in line order. Gives the cells that each brings, by the number
    /// of their attribute; removed ones are empty. A bundle comes with how many rows to skip and how many to read. Each row
    /// takes 16 bytes of memory meanwhile.
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
            let cells = content.map_err(|_| changed(place.line))?;
            let from = from.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            each(place.line, from, &brought(&cells, empty_values))
        })
    }
}
