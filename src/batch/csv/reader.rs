//! The whole file, as its bytes arrive: which of them are the header, a row, or nothing.

use super::cell::{cut, is_blank, saturated};
use super::error::HeaderError;
use super::header::Header;
use super::row::{Row, RowPlace, RowReader};
use super::scan::Scan;
use super::{HEADER_BYTES_MAX, ROW_BYTES_MAX};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Reads a batch file as its bytes arrive.
#[derive(Debug)]
pub struct Parser {
    pub(super) reader: RowReader,
    scan: Scan,
    /// The begun row, up to one byte more than a row may have.
    pub(super) held: Vec<u8>,
    /// How many bytes of the begun row have come, held or not.
    held_bytes: usize,
    /// Where the begun row begins.
    offset: u32,
    /// The line on which the begun row begins.
    line: u32,
    /// How much of a BOM the body has begun with, while that is open.
    bom: Option<usize>,
    header: Option<Header>,
    any_row: bool,
    refused: Option<HeaderError>,
}

impl Parser {
    /// A parser at the start of a body.
    pub fn new() -> Self {
        Self {
            reader: RowReader::new(),
            scan: Scan::default(),
            held: Vec::new(),
            held_bytes: 0,
            offset: 0,
            line: 1,
            bom: Some(0),
            header: None,
            any_row: false,
            refused: None,
        }
    }

    /// A parser in the middle of a body, at the beginning of one of its rows: what is pushed goes on from there.
    pub fn at(header: Header, place: RowPlace) -> Self {
        Self {
            offset: place.offset,
            line: place.line,
            bom: None,
            header: Some(header),
            any_row: true,
            ..Self::new()
        }
    }

    /// Takes the next bytes of the body, any number of them, and calls `each` for every row they complete.
    ///
    /// An error is final: it is given again whatever is pushed after it.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        self.unless_refused(|parser| {
            let bytes = parser.past_bom(bytes, &mut each)?;
            parser.rows(bytes, &mut each)
        })
    }

    /// The body has ended: its last row may lack a line end. Gives the header if there is one and at least one row.
    pub fn finish(&mut self, mut each: impl FnMut(Row<'_>)) -> Result<&Header, HeaderError> {
        self.unless_refused(|parser| {
            if let Some(begun) = parser.bom.take().and_then(|n| BOM.get(..n)) {
                parser.rows(begun, &mut each)?;
            }
            if parser.held_bytes > 0 {
                parser.held_row(&mut each)?;
            }
            match (&parser.header, parser.any_row) {
                (None, _) => Err(HeaderError::Empty),
                (Some(_), false) => Err(HeaderError::NoRow),
                (Some(_), true) => Ok(()),
            }
        })?;
        self.header.as_ref().ok_or(HeaderError::Empty)
    }

    /// The header, once it has come.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
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

    /// Drops a BOM at the body's start and gives what is left of `bytes`. What only began like one is put back.
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
        while let Some(end) = self.scan.row_end(rest) {
            let (row, after) = cut(rest, end);
            if self.held_bytes == 0 {
                self.row(row, row.len(), each)?;
            } else {
                self.hold(row);
                self.held_row(each)?;
            }
            rest = after;
        }
        self.hold(rest);
        if self.header.is_none() && self.held_bytes > HEADER_BYTES_MAX {
            return Err(HeaderError::TooLong { line: self.line });
        }
        Ok(())
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = (ROW_BYTES_MAX + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(cut(bytes, room).0);
        self.held_bytes = self.held_bytes.saturating_add(bytes.len());
    }

    fn held_row(&mut self, each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        let mut held = std::mem::take(&mut self.held);
        let result = self.row(&held, self.held_bytes, each);
        held.clear();
        self.held = held;
        self.held_bytes = 0;
        result
    }

    /// A line has ended (or, if it is quoted, several): the header, a row, or nothing. `len` counts the bytes that
    /// are too many to be held, too.
    fn row(&mut self, row: &[u8], len: usize, each: &mut impl FnMut(Row<'_>)) -> Result<(), HeaderError> {
        let scan = std::mem::take(&mut self.scan);
        let (line, offset) = (self.line, self.offset);
        self.line = line.saturating_add(scan.line_feeds).saturating_add(1);
        self.offset = offset.saturating_add(saturated(len));
        let Some(header) = &self.header else {
            if len > HEADER_BYTES_MAX {
                return Err(HeaderError::TooLong { line });
            }
            if !is_blank(row) {
                self.header = Some(Header::parse(line, row, scan.unclosed())?);
            }
            return Ok(());
        };
        if len <= ROW_BYTES_MAX && is_blank(row) {
            return Ok(());
        }
        self.any_row = true;
        let content = self.reader.content(header, row, len, scan.unclosed());
        each(Row { line, offset, len: saturated(len), content });
        Ok(())
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}
