//! Reads a row: splits it into cells, decodes them and checks them.

use memchr::memchr_iter;

use super::cell::{Splitter, cut, decode, is_blank, saturated, trim_end, trim_start, without_line_end};
use super::fault::{Reason, RowError};
use super::header::Header;
use super::limits::ROW_BYTES_MAX;
use super::ndjson;
use super::scan::Scan;
use super::values::{Value, Values};
use crate::model::batch::RowForm;

/// Reads single rows. Holds the buffers that rows are decoded into, so one reader should read many rows.
#[derive(Debug)]
pub struct RowReader {
    splitter: Splitter,
    cell: Vec<u8>,
    pub(super) text: String,
    pub(super) values: Vec<Value>,
    /// Of NDJSON, the attributes whose value is empty.
    emptied: Vec<usize>,
    /// Of NDJSON, the key before it is checked.
    key: String,
}

/// Where a row begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    /// The line, from 1.
    pub line: u32,
    /// The byte, from 0.
    pub offset: u32,
}

/// A row that the parser found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// The line on which it begins, from 1. Every physical line counts, also within quotes.
    pub line: u32,
    /// The position of its first byte in the body, from 0.
    pub offset: u32,
    /// Its length in bytes as sent, with its line end.
    pub len: u32,
    /// Its bytes as sent, with its line end. A row that is too long has only its beginning here.
    pub sent: &'a [u8],
    /// Its cells, or what is wrong with it.
    pub content: Result<Cells<'a>, RowError>,
}

/// A row that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reread<'a> {
    /// Its length in bytes as sent, with its line end.
    pub len: u32,
    /// Whether bytes after the given ones could change it. If the body ends there, nothing changes it.
    pub open: bool,
    /// Its cells, or what is wrong with it.
    pub content: Result<Cells<'a>, RowError>,
}

/// The decoded cells of a good row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells<'a> {
    pub(super) id: &'a str,
    pub(super) text: &'a str,
    pub(super) values: &'a [Value],
    pub(super) emptied: Emptied<'a>,
}

/// Which attributes have a cell that is there but empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied<'a> {
    /// In CSV, those without a value among so many first columns: the row has a cell for no further one.
    Among(usize),
    /// In NDJSON, these.
    These(&'a [usize]),
}

/// Lines within a quoted value that could be rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenIn {
    /// The line that the quote is on.
    pub line: u32,
    /// How many lines after that one are within the quotes.
    pub lines: u32,
}

impl Row<'_> {
    /// The lines after the row's first, if each of them has as many cells as the header. Then they are more likely rows than
    /// text, and the quotes around them are a stray pair.
    pub fn taken_in(&self, header: &Header) -> Option<TakenIn> {
        let mut lines = without_line_end(self.sent).split(|byte| *byte == b'\n').skip(1).peekable();
        lines.peek()?;
        let columns = header.names().len() + 1;
        let mut count = 0;
        for line in lines {
            let mut cells = line.split(|byte| *byte == b',');
            if cells.by_ref().take(columns).count() < columns || !cells.all(|cell| is_blank(cell, false)) {
                return None;
            }
            count += 1;
        }
        Some(TakenIn { line: self.line, lines: count })
    }
}

impl RowReader {
    /// A reader with empty buffers.
    pub fn new() -> Self {
        Self {
            splitter: Splitter::new(),
            cell: Vec::new(),
            text: String::new(),
            values: Vec::new(),
            emptied: Vec::new(),
            key: String::new(),
        }
    }

    /// Reads the row at the start of `bytes`, which begin at a [`Row::offset`] and may go on after the row. The result is the
    /// parser's if `bytes` are exactly the row's, or reach to the end of the body, or if [`Reread::open`] is false.
    pub fn read<'a>(&'a mut self, header: &Header, bytes: &'a [u8]) -> Reread<'a> {
        let mut scan = Scan::of(header.reading());
        let found = scan.row_end(bytes);
        let end = found.unwrap_or_else(|| scan.finish());
        let content = self.content(header, cut(bytes, end).0, end, scan.fault());
        Reread { len: saturated(end), open: found.is_none(), content }
    }

    /// The cells of a row of `len` bytes. If the row is too long, `row` is only its beginning.
    pub(super) fn content<'a>(
        &'a mut self,
        header: &Header,
        row: &'a [u8],
        len: usize,
        bad_quote: Option<RowError>,
    ) -> Result<Cells<'a>, RowError> {
        let long = (len > ROW_BYTES_MAX).then(|| RowError::at(0, Reason::LongRow));
        let fault = if header.reading().is_before() { bad_quote.or(long) } else { long.or(bad_quote) };
        if let Some(error) = fault {
            return Err(error);
        }
        let row = without_line_end(row);
        if header.reading().form() == RowForm::Ndjson {
            return self.object(header, row);
        }
        let (id, text, reached) = match self.plain(header, row) {
            Some(plain) => plain,
            None => {
                let (id_end, reached) = self.decoded(header, row)?;
                (self.text.get(..id_end).unwrap_or_default(), self.text.as_str(), reached)
            }
        };
        Ok(Cells { id, text, values: &self.values, emptied: Emptied::Among(reached) })
    }

    /// The same of a line of NDJSON.
    fn object<'a>(&'a mut self, header: &Header, row: &[u8]) -> Result<Cells<'a>, RowError> {
        let Self { text, values, emptied, key, .. } = self;
        text.clear();
        values.clear();
        emptied.clear();
        let (start, end) = ndjson::read(header, row, &mut Values { text, key, found: values, emptied })?;
        let id = text.get(start..end).unwrap_or_default();
        Ok(Cells { id, text, values, emptied: Emptied::These(emptied) })
    }
}

impl RowReader {
    /// Reads a row with nothing to decode and nothing wrong, as most rows are. Its values are used in place. `None` for any
    /// other row.
    pub(super) fn plain<'r>(&mut self, header: &Header, row: &'r [u8]) -> Option<(&'r str, &'r str, usize)> {
        // One pass without branches, which the compiler turns into a few vector instructions.
        if row.iter().fold(false, |any, b| any | matches!(b, b'%' | b'+' | b'"' | b'\r')) {
            return None;
        }
        let text = std::str::from_utf8(row).ok()?;
        let mut ends = memchr_iter(b',', row);
        let id_end = ends.next();
        let id = header.id(text.get(..id_end.unwrap_or(row.len()))?.trim_matches(' ')).ok()?;
        self.values.clear();
        let mut attribute = 0;
        let mut cell = id_end;
        while let Some(comma) = cell {
            cell = ends.next();
            let sent = trim_end(row.get(comma + 1..cell.unwrap_or(row.len()))?);
            let end = comma + 1 + sent.len();
            let start = end - trim_start(sent).len();
            if start < end {
                if attribute >= header.names().len() {
                    return None;
                }
                self.values.push(Value { attribute, start, end });
            }
            attribute += 1;
        }
        Some((id, text, attribute.min(header.names().len())))
    }

    /// Reads any row, cell by cell: decodes the id and then the values into `text`. Returns where the id ends there, and for
    /// how many attribute columns the row has a cell.
    pub(super) fn decoded(&mut self, header: &Header, row: &[u8]) -> Result<(usize, usize), RowError> {
        self.text.clear();
        self.values.clear();
        let (mut id_end, mut column) = (0, 0);
        let mut rest = Some(row);
        while let Some(from) = rest {
            let (cell, after) = self.splitter.cell(from);
            rest = after;
            let at = |reason| RowError::at(column, reason);
            let cell = cell.map_err(at)?;
            if column > header.names().len() {
                if !cell.is_empty() {
                    return Err(at(Reason::ExtraCell));
                }
            } else {
                let start = self.text.len();
                let text = decode(cell, &mut self.cell).map_err(at)?;
                match column.checked_sub(1) {
                    None => {
                        let id = header.id(text).map_err(|error| at(Reason::from(error)))?;
                        self.text.push_str(id);
                        id_end = id.len();
                    }
                    Some(attribute) if !text.is_empty() => {
                        self.text.push_str(text);
                        self.values.push(Value { attribute, start, end: self.text.len() });
                    }
                    Some(_) => {}
                }
            }
            column += 1;
        }
        Ok((id_end, (column - 1).min(header.names().len())))
    }
}

impl Default for RowReader {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Cells<'a> {
    /// The checked id. A `pcId` has no location hint here.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// The values that are not empty, in column order, each with its attribute's index in [`Header::names`].
    pub fn attributes(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let (text, values) = (self.text, self.values);
        values.iter().filter_map(move |value| Some((value.attribute, text.get(value.start..value.end)?)))
    }

    /// The attributes whose cell is there but empty, for batches in which empty cells remove attributes (R6). A short row says
    /// nothing about the columns for which it has no cell.
    pub fn emptied(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (among, these) = match self.emptied {
            Emptied::Among(among) => (among, &[][..]),
            Emptied::These(these) => (0, these),
        };
        let mut filled = self.values.iter().peekable();
        let among = (0..among)
            .filter(move |attribute| filled.next_if(|value| value.attribute == *attribute).is_none());
        among.chain(these.iter().copied())
    }

    /// A CRC-32C of the row's content. It shows whether the row has the same content when it is read again.
    pub fn sum(&self) -> u32 {
        let emptied = match self.emptied {
            Emptied::Among(among) => crc32c::crc32c(&(among as u64).to_le_bytes()),
            Emptied::These(these) => these
                .iter()
                .fold(0, |sum, attribute| crc32c::crc32c_append(sum, &(*attribute as u64).to_le_bytes())),
        };
        let sum = crc32c::crc32c_append(emptied, self.id.as_bytes());
        self.attributes().fold(sum, |sum, (attribute, value)| {
            // The length is included, so that the same bytes split into other values give another sum.
            let place = ((attribute as u64) << 32 | value.len() as u64).to_le_bytes();
            crc32c::crc32c_append(crc32c::crc32c_append(sum, &place), value.as_bytes())
        })
    }

    /// Whether the row has no value at all. Then its outcome is `ignored`.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
