//! Reads a whole batch file as its bytes arrive, and finds its header and its rows.

use super::cell::{cut, is_blank, saturated, without_line_end};
use super::error::HeaderError;
use super::header::Header;
use super::limits::{HEADER_BYTES_MAX, ROW_BYTES_MAX};
use super::mistaken::Mistaken;
use super::ndjson;
use super::row::{Row, RowPlace, RowReader};
use super::scan::Scan;
use crate::model::batch::{RowForm, RowReading};

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// The end-of-file mark of CP/M and DOS. Some programs still write it: `copy a+b`, old exports.
const CTRL_Z: &[u8] = b"\x1a";

/// Reads a batch file as its bytes arrive.
#[derive(Debug)]
pub struct Parser {
    reading: RowReading,
    pub(super) reader: RowReader,
    scan: Scan,
    /// The bytes so far of the current row, at most one byte more than a row may have.
    pub(super) held: Vec<u8>,
    /// The bytes after the line of a quote that is still open. If the quote is right they belong to the row; if it is bad they
    /// are lines of their own.
    pub(super) ahead: Vec<u8>,
    /// The byte at which the current row begins.
    offset: u32,
    /// The line on which the current row begins.
    line: u32,
    /// How many bytes of a BOM the body began with. `None` once it is known whether there is a BOM.
    bom: Option<usize>,
    header: Option<Header>,
    /// Where the header is, and how many bytes it has.
    header_place: Option<(RowPlace, u32)>,
    /// Whether the body ended with the header, without a line end.
    one_line: bool,
    any_row: bool,
    /// A line with nothing but a Ctrl-Z, as sent. It is a row only if another row follows.
    ctrl_z: Option<(RowPlace, Vec<u8>)>,
    refused: Option<HeaderError>,
}

impl Parser {
    /// A parser at the start of a body that is read by these rules.
    pub fn new(reading: &RowReading) -> Self {
        Self {
            reading: reading.clone(),
            reader: RowReader::new(),
            scan: Scan::of(reading),
            held: Vec::new(),
            ahead: Vec::new(),
            offset: 0,
            line: 1,
            bom: Some(0),
            header: None,
            header_place: None,
            one_line: false,
            any_row: false,
            ctrl_z: None,
            refused: None,
        }
    }

    /// A parser in the middle of a body. The bytes that are pushed to it begin with the row at `place`.
    pub fn at(header: Header, place: RowPlace) -> Self {
        let parser = Self::new(header.reading());
        Self {
            offset: place.offset,
            line: place.line,
            bom: None,
            header: Some(header),
            any_row: true,
            ..parser
        }
    }

    /// Takes the next bytes of the body, any number of them, and calls `each` for every row they complete.
    ///
    /// An error is final: every later call returns it again.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        self.unless_refused(|parser| {
            let bytes = parser.past_bom(bytes, &mut each)?;
            parser.rows(bytes, &mut each)
        })
    }

    /// Ends the body, whose last row may lack a line end. Returns the header if there is one and at least one row.
    pub fn finish(&mut self, mut each: impl FnMut(Row<'_>)) -> Result<&Header, HeaderError> {
        self.unless_refused(|parser| {
            if let Some(begun) = parser.bom.take().and_then(|n| BOM.get(..n)) {
                parser.rows(begun, &mut each)?;
            }
            while parser.scan.bytes() > 0 {
                let end = parser.scan.finish();
                if end < parser.scan.bytes() {
                    parser.stray_row(end, &mut each)?;
                } else {
                    parser.hold_ahead();
                    parser.held_row(end, &mut each)?;
                }
            }
            match (&parser.header, parser.any_row) {
                (None, _) if parser.reading.form() == RowForm::Ndjson => Err(ndjson::empty(parser.line)),
                (None, _) => Err(HeaderError::Empty),
                (Some(_), false) if parser.one_line => Err(HeaderError::Mistaken {
                    line: parser.line.saturating_sub(1),
                    what: Mistaken::OneLine,
                }),
                (Some(_), false) => Err(HeaderError::NoRow),
                (Some(_), true) => Ok(()),
            }
        })?;
        self.header.as_ref().ok_or(HeaderError::Empty)
    }

    /// The header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Where the header is, and how many bytes it has, once it was read.
    pub fn header_place(&self) -> Option<(RowPlace, u32)> {
        self.header_place
    }

    fn unless_refused(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<(), HeaderError>,
    ) -> Result<(), HeaderError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        let result = step(self);
        self.refused = result.as_ref().err().cloned();
        result
    }

    /// Drops a BOM at the body's start and returns the rest of `bytes`. Bytes that only began like a BOM are read as rows.
    fn past_bom<'b>(
        &mut self,
        bytes: &'b [u8],
        each: &mut impl FnMut(Row<'_>),
    ) -> Result<&'b [u8], HeaderError> {
        let mut rest = bytes;
        while let (Some(seen), Some((first, after))) = (self.bom, rest.split_first()) {
            if BOM.get(seen) == Some(first) {
                rest = after;
                self.bom = Some(seen + 1).filter(|seen| *seen < BOM.len());
                if self.bom.is_none() {
                    self.offset = 3;
                }
            } else {
                self.bom = None;
                self.rows(BOM.get(..seen).unwrap_or_default(), each)?;
            }
        }
        Ok(rest)
    }

    fn rows(&mut self, bytes: &[u8], each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        let mut rest = bytes;
        let mut before = self.scan.bytes();
        while let Some(end) = self.scan.row_end(rest) {
            if let Some(len) = end.checked_sub(before) {
                let (row, after) = cut(rest, len);
                if before == 0 {
                    self.row(row, end, each)?;
                } else {
                    self.hold_ahead();
                    self.hold(row);
                    self.held_row(end, each)?;
                }
                rest = after;
            } else {
                self.stray_row(end, each)?;
            }
            before = self.scan.bytes();
        }
        let certain = self.scan.certain();
        if certain >= before {
            let (row, ahead) = cut(rest, certain - before);
            self.hold_ahead();
            self.hold(row);
            self.ahead.extend_from_slice(ahead);
        } else {
            self.ahead.extend_from_slice(rest);
        }
        if self.header.is_none() && certain > HEADER_BYTES_MAX {
            return Err(self.too_long(self.line, &self.held));
        }
        Ok(())
    }

    /// The error for a first line that is too long. Such a body is perhaps no batch file at all.
    fn too_long(&self, line: u32, begun: &[u8]) -> HeaderError {
        match Mistaken::of(begun) {
            None | Some(Mistaken::Json) if self.reading.form() == RowForm::Ndjson => ndjson::too_long(line),
            None => HeaderError::TooLong { line },
            Some(what) => HeaderError::Mistaken { line, what },
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = (ROW_BYTES_MAX + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(cut(bytes, room).0);
    }

    /// Adds the bytes that were held ahead to the row, because they belong to it.
    fn hold_ahead(&mut self) {
        if !self.ahead.is_empty() {
            let mut ahead = std::mem::take(&mut self.ahead);
            self.hold(&ahead);
            ahead.clear();
            self.ahead = ahead;
        }
    }

    /// Takes the held bytes as a row that ends with a stray quote's line, and reads the bytes held ahead as lines of their own.
    /// This recurses only once: the inner `rows` begins at the start of a row, so no row of it ends before its bytes.
    fn stray_row(&mut self, len: usize, each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        self.held_row(len, each)?;
        let ahead = std::mem::take(&mut self.ahead);
        self.rows(&ahead, each)
    }

    fn held_row(&mut self, len: usize, each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        let mut held = std::mem::take(&mut self.held);
        let result = self.row(&held, len, each);
        held.clear();
        self.held = held;
        result
    }

    /// Takes a line that has ended, or several that a quote joins: the header, a row, or a blank line. `len` also counts the
    /// bytes that were too many to hold.
    fn row(&mut self, row: &[u8], len: usize, each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        let scan = std::mem::replace(&mut self.scan, Scan::of(&self.reading));
        let (before, objects) = (self.reading.is_before(), self.reading.form() == RowForm::Ndjson);
        let blank = |row: &[u8]| if objects { ndjson::is_blank(row) } else { is_blank(row, before) };
        let (line, offset) = (self.line, self.offset);
        self.line = line.saturating_add(scan.line_feeds()).saturating_add(1);
        self.offset = offset.saturating_add(saturated(len));
        let Some(header) = &self.header else {
            if len > HEADER_BYTES_MAX {
                return Err(self.too_long(line, row));
            }
            if blank(row) {
                return Ok(());
            }
            let is_row = if objects {
                let (header, is_row) = ndjson::header(line, row, &self.reading)?;
                self.header = Some(header);
                is_row
            } else {
                self.one_line = !row.ends_with(b"\n");
                self.header = Some(Header::parse(line, row, scan.fault(), &self.reading)?);
                false
            };
            self.header_place = Some((RowPlace { line, offset }, saturated(len)));
            if let Some(header) = self.header.as_ref().filter(|_| is_row) {
                self.any_row = true;
                let content = self.reader.content(header, row, len, None);
                each(Row { line, offset, len: saturated(len), sent: row, content });
            }
            return Ok(());
        };
        if len <= ROW_BYTES_MAX && blank(row) {
            return Ok(());
        }
        if let Some((RowPlace { line, offset }, sent)) = self.ctrl_z.take() {
            self.any_row = true;
            let content = self.reader.content(header, &sent, sent.len(), None);
            each(Row { line, offset, len: saturated(sent.len()), sent: &sent, content });
        }
        // The line end has two bytes at most: no program writes several carriage returns.
        if len <= CTRL_Z.len() + 2 && without_line_end(row) == CTRL_Z && !before && !objects {
            self.ctrl_z = Some((RowPlace { line, offset }, row.to_vec()));
            return Ok(());
        }
        self.any_row = true;
        let content = self.reader.content(header, row, len, scan.fault());
        each(Row { line, offset, len: saturated(len), sent: row, content });
        Ok(())
    }
}

/// Reads a body by today's rules, with the default list of blocked ids.
impl Default for Parser {
    fn default() -> Self {
        Self::new(&RowReading::default())
    }
}
