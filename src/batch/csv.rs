//! The batch file: bytes in, rows out. Pure: it neither reads nor writes nor looks at the clock.
//!
//! Promises: whatever the bytes and wherever they are cut, [`Parser`] never panics, holds at most one row of at most
//! [`ROW_BYTES_MAX`] bytes, and gives the same rows; and [`RowReader`], given the bytes from a row's offset on, gives
//! again what the parser gave for that row.
//!
//! The format (DESIGN.md §5, "The batch file"), in the order in which a row is taken apart:
//!
//! 1. A row ends at a line feed outside quotes, or with the body. Carriage returns before that end belong to it; one
//!    anywhere else outside quotes fails the row: to read it as text or as the end of a row would be a guess.
//!    A line of nothing but spaces is skipped, not a row.
//! 2. Cells are split at commas. Raw spaces around a cell are dropped. A cell that then begins with a quote is quoted
//!    as in RFC 4180 (`csv-core` reads it): spaces, commas and line feeds within the quotes stay, and nothing but
//!    spaces may follow the closing quote. A quote further on in a cell is an ordinary character.
//! 3. Each cell, quoted or not, is form-decoded once (`+` is a space, `%XX` a byte) and must then be UTF-8.
//! 4. The first cell must be an id of the header's kind. A row may have fewer cells than the header; cells beyond the
//!    header must be empty. Empty values are ignored (R6).
//!
//! What fails a row is the first fault from left to right, except that a quote never closed comes before all others
//! (it explains why the rows after it are missing), and a row too long before the rest.

use std::collections::HashMap;

use memchr::{memchr, memchr_iter, memchr2};

use crate::model::id::{IdError, IdKind};
use crate::model::profile::{NAME_CHARS_MAX, NameFault, attribute_name_fault};

pub mod write;

#[cfg(test)]
mod tests;

/// The longest row, in bytes as sent with its line end; a longer one is failed.
pub const ROW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest header, in bytes as sent with its line end; a longer one refuses the batch.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// The most attributes a header may name, so that a column always fits a [`RowError`].
pub const ATTRIBUTES_MAX: usize = 65_534;

const BOM: &[u8] = b"\xef\xbb\xbf";
/// How the ECID is called where it can be named; none of these can key a batch (R1).
const ECID_NAMES: [&str; 5] = ["marketingCloudVisitorId", "mboxMCGVID", "ECID", "MCID", "MID"];
/// How many characters of a cell a message quotes.
const QUOTED_CHARS_MAX: usize = 64;

/// The first line of a batch file: what its rows are keyed by, and the attributes its columns set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    key_kind: IdKind,
    names: Vec<Box<str>>,
}

/// Reads a batch file as its bytes arrive.
#[derive(Debug)]
pub struct Parser {
    reader: RowReader,
    scan: Scan,
    /// The begun row, up to one byte more than a row may have.
    held: Vec<u8>,
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

/// Reads single rows. Holds the buffers that rows are decoded into, so one reader should read many rows.
#[derive(Debug)]
pub struct RowReader {
    splitter: Splitter,
    cell: Vec<u8>,
    text: String,
    values: Vec<Value>,
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
    /// The line on which it begins. Physical lines count, those within quotes too; the first is 1.
    pub line: u32,
    /// Where its first byte is in the body, from 0.
    pub offset: u32,
    /// Its length in bytes as sent, with its line end.
    pub len: u32,
    /// Its cells, or what is wrong with it.
    pub content: Result<Cells<'a>, RowError>,
}

/// A row that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reread<'a> {
    /// Its length in bytes as sent, with its line end.
    pub len: u32,
    /// Its cells, or what is wrong with it.
    pub content: Result<Cells<'a>, RowError>,
}

/// The decoded cells of a good row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells<'a> {
    id: &'a str,
    text: &'a str,
    values: &'a [Value],
    /// How many attribute columns the row reaches; the header's number at most.
    reached: usize,
}

/// Where in a row's text the value of an attribute is. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    attribute: usize,
    start: usize,
    end: usize,
}

/// Why a row is failed, and at which column. [`RowError::explain`] puts it into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowError {
    /// What is wrong.
    pub reason: Reason,
    /// Where: 0 is the key, c the attribute `names()[c - 1]`; [`u16::MAX`] stands for any column beyond.
    pub column: u16,
}

/// What can be wrong with a row. The codes are stored and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The key is empty.
    EmptyId = 1,
    /// The key is longer than its kind of id may be.
    LongId = 2,
    /// The key has a character that its kind of id must not hold.
    ForbiddenInId = 3,
    /// The key is a `pcId` with more than one dot.
    SecondDot = 4,
    /// A `%` that two hexadecimal digits don't follow.
    BadEscape = 5,
    /// A cell is not UTF-8 once decoded.
    BadUtf8 = 6,
    /// A cell beyond the header's columns is not empty.
    ExtraCell = 7,
    /// Something other than spaces follows a closing quote.
    TextAfterQuote = 8,
    /// The body ended within quotes.
    UnclosedQuote = 9,
    /// A carriage return within a cell that has no quotes.
    BareReturn = 10,
    /// The row has more than [`ROW_BYTES_MAX`] bytes.
    LongRow = 11,
}

/// Why a batch file is refused as a whole. Says where and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Nothing but blank lines.
    #[error("the body is empty: its first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\"")]
    Empty,
    /// A header alone.
    #[error("the body has a header but no row: each line after the first must hold an id and its values")]
    NoRow,
    /// The first cell doesn't start with `batch=`.
    #[error(
        "line {line}: the first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\", not with {found}"
    )]
    Start {
        /// The header's line.
        line: u32,
        /// The first cell, quoted.
        found: String,
    },
    /// The body begins as UTF-16 does.
    #[error("line 1: the body looks like UTF-16: it must be UTF-8")]
    Utf16,
    /// The body is compressed, and nobody said so.
    #[error("line 1: the body looks compressed with {0}: say so by the header Content-Encoding: {0}")]
    Compressed(&'static str),
    /// The key is an ECID.
    #[error(
        "line {line}: an ECID (marketingCloudVisitorId) cannot be the key of a batch: use pcId or thirdPartyId"
    )]
    EcidKey {
        /// The header's line.
        line: u32,
    },
    /// The key is none that is known.
    #[error(
        "line {line}: {found} cannot be the key of a batch: use pcId (or tntId, mboxPC) or thirdPartyId \
         (or mbox3rdPartyId, mboxThirdPartyId), upper and lower case as here, then a comma"
    )]
    UnknownKey {
        /// The header's line.
        line: u32,
        /// What stands after `batch=`, quoted.
        found: String,
    },
    /// The key stands alone.
    #[error(
        "line {line}: the header names no attribute: the key must be followed by a comma and at least one name"
    )]
    NoAttribute {
        /// The header's line.
        line: u32,
    },
    /// An attribute's name, or the cell it is in, is not right.
    #[error("line {line}: column {column}: {fault}")]
    Column {
        /// The header's line.
        line: u32,
        /// The column; the key's is 1.
        column: usize,
        /// What is wrong with it, and what would be right.
        fault: String,
    },
    /// The header has more than [`HEADER_BYTES_MAX`] bytes.
    #[error("line {line}: the header has more than {HEADER_BYTES_MAX} bytes")]
    TooLong {
        /// The header's line.
        line: u32,
    },
    /// The header has more than [`ATTRIBUTES_MAX`] attributes.
    #[error("line {line}: the header names more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes {
        /// The header's line.
        line: u32,
    },
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

impl RowReader {
    /// A reader with empty buffers.
    pub fn new() -> Self {
        Self { splitter: Splitter::new(), cell: Vec::new(), text: String::new(), values: Vec::new() }
    }

    /// Reads the row that begins where `bytes` begins: at a [`Row::offset`]. `bytes` must reach to the row's end, and
    /// to the body's end where a quote is never closed; they may go on after it.
    pub fn read<'a>(&'a mut self, header: &Header, bytes: &'a [u8]) -> Reread<'a> {
        let mut scan = Scan::default();
        let end = scan.row_end(bytes).unwrap_or(bytes.len());
        let content = self.content(header, cut(bytes, end).0, end, scan.unclosed());
        Reread { len: saturated(end), content }
    }

    /// The cells of a whole row, of which only the beginning is there if it is too long.
    fn content<'a>(
        &'a mut self,
        header: &Header,
        row: &'a [u8],
        len: usize,
        unclosed: Option<usize>,
    ) -> Result<Cells<'a>, RowError> {
        if let Some(column) = unclosed {
            return Err(RowError::at(column, Reason::UnclosedQuote));
        }
        if len > ROW_BYTES_MAX {
            return Err(RowError::at(0, Reason::LongRow));
        }
        let row = without_line_end(row);
        let (id, text, reached) = match self.plain(header, row) {
            Some(plain) => plain,
            None => {
                let (id_end, reached) = self.decoded(header, row)?;
                (self.text.get(..id_end).unwrap_or_default(), self.text.as_str(), reached)
            }
        };
        Ok(Cells { id, text, values: &self.values, reached })
    }
}

impl RowReader {
    /// A row that holds nothing to decode and nothing wrong, as most do: its values are read where they stand.
    fn plain<'r>(&mut self, header: &Header, row: &'r [u8]) -> Option<(&'r str, &'r str, usize)> {
        // One pass without branches, which the compiler turns into a few vector instructions.
        if row.iter().fold(false, |any, b| any | matches!(b, b'%' | b'+' | b'"' | b'\r')) {
            return None;
        }
        let text = std::str::from_utf8(row).ok()?;
        let mut ends = memchr_iter(b',', row);
        let id_end = ends.next();
        let id = header.key_kind.check(text.get(..id_end.unwrap_or(row.len()))?.trim_matches(' ')).ok()?;
        self.values.clear();
        let mut attribute = 0;
        let mut cell = id_end;
        while let Some(comma) = cell {
            cell = ends.next();
            let sent = trim_end(row.get(comma + 1..cell.unwrap_or(row.len()))?);
            let end = comma + 1 + sent.len();
            let start = end - trim_start(sent).len();
            if start < end {
                if attribute >= header.names.len() {
                    return None;
                }
                self.values.push(Value { attribute, start, end });
            }
            attribute += 1;
        }
        Some((id, text, attribute.min(header.names.len())))
    }

    /// Any row, cell by cell: its values are decoded into `text`, behind the id. Gives the id's end there and how many
    /// attribute columns the row reaches.
    fn decoded(&mut self, header: &Header, row: &[u8]) -> Result<(usize, usize), RowError> {
        self.text.clear();
        self.values.clear();
        let (mut id_end, mut column) = (0, 0);
        let mut rest = Some(row);
        while let Some(from) = rest {
            let (cell, after) = self.splitter.cell(from);
            rest = after;
            let at = |reason| RowError::at(column, reason);
            let cell = cell.map_err(at)?;
            if column > header.names.len() {
                if !cell.is_empty() {
                    return Err(at(Reason::ExtraCell));
                }
            } else {
                let start = self.text.len();
                let text = decode(cell, &mut self.cell).map_err(at)?;
                match column.checked_sub(1) {
                    None => {
                        let id = header.key_kind.check(text).map_err(|error| at(Reason::from(error)))?;
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
        Ok((id_end, (column - 1).min(header.names.len())))
    }
}

impl Default for RowReader {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Cells<'a> {
    /// The id, checked, and a `pcId` without its location hint.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// The values that are not empty, in column order, each with its attribute's index in [`Header::names`].
    pub fn attributes(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let (text, values) = (self.text, self.values);
        values.iter().filter_map(move |value| Some((value.attribute, text.get(value.start..value.end)?)))
    }

    /// The attributes whose cell is there but empty, for batches in which that means something (R6). A short row says
    /// nothing about the columns it does not reach.
    pub fn emptied(&self) -> impl Iterator<Item = usize> + use<'a> {
        let mut filled = self.values.iter().peekable();
        (0..self.reached)
            .filter(move |attribute| filled.next_if(|value| value.attribute == *attribute).is_none())
    }

    /// A CRC-32C of all that the row says, so that it can be told whether it says the same when it is read again.
    pub fn sum(&self) -> u32 {
        let numbers = (self.reached as u64).to_le_bytes();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&numbers), self.id.as_bytes());
        self.attributes().fold(sum, |sum, (attribute, value)| {
            // The value's length is in it, so that values which run into each other differ.
            let place = ((attribute as u64) << 32 | value.len() as u64).to_le_bytes();
            crc32c::crc32c_append(crc32c::crc32c_append(sum, &place), value.as_bytes())
        })
    }

    /// Whether the row has no value at all, which makes its outcome `ignored`.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl Header {
    /// A header from its parts, as they were stored.
    pub fn from_parts(key_kind: IdKind, names: Vec<Box<str>>) -> Self {
        Self { key_kind, names }
    }

    /// The kind of id in the first column.
    pub fn key_kind(&self) -> IdKind {
        self.key_kind
    }

    /// The attributes' names, decoded, in column order: column c of the file is `names()[c - 1]`.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The id of a row that may be no good otherwise, if its first cell is one.
    pub fn id_of(&self, row: &[u8]) -> Option<String> {
        let mut scan = Scan::default();
        let row = without_line_end(cut(row, scan.row_end(row).unwrap_or(row.len())).0);
        let (mut splitter, mut decoded) = (Splitter::new(), Vec::new());
        let text = decode(splitter.cell(row).0.ok()?, &mut decoded).ok()?;
        self.key_kind.check(text).ok().map(str::to_owned)
    }

    fn parse(line: u32, row: &[u8], unclosed: Option<usize>) -> Result<Self, HeaderError> {
        let fault = |column: usize, fault: String| HeaderError::Column { line, column: column + 1, fault };
        if row.starts_with(b"\xff\xfe") || row.starts_with(b"\xfe\xff") {
            return Err(HeaderError::Utf16);
        }
        for (magic, encoding) in [(&b"\x1f\x8b"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")] {
            if row.starts_with(magic) {
                return Err(HeaderError::Compressed(encoding));
            }
        }
        if let Some(column) = unclosed {
            return Err(fault(column, cell_fault(Reason::UnclosedQuote, b"")));
        }
        let mut splitter = Splitter::new();
        let mut decoded = Vec::new();
        let mut key_kind = None;
        let mut names: Vec<Box<str>> = Vec::new();
        let mut columns: HashMap<Box<str>, usize> = HashMap::new();
        let mut rest = Some(without_line_end(row));
        while let Some(from) = rest {
            let (cell, after) = splitter.cell(from);
            rest = after;
            let column = names.len() + usize::from(key_kind.is_some());
            let cell = cell.map_err(|reason| fault(column, cell_fault(reason, b"")))?;
            let text =
                decode(cell, &mut decoded).map_err(|reason| fault(column, cell_fault(reason, cell)))?;
            if key_kind.is_none() {
                key_kind = Some(key(line, text)?);
                continue;
            }
            if names.len() == ATTRIBUTES_MAX {
                return Err(HeaderError::TooManyAttributes { line });
            }
            check_name(text).map_err(|wrong| fault(column, wrong))?;
            if let Some(earlier) = columns.insert(Box::from(text), column + 1) {
                let wrong =
                    format!("the attribute {} is already in column {earlier}", quoted(text.as_bytes()));
                return Err(fault(column, wrong));
            }
            names.push(text.into());
        }
        match key_kind {
            Some(key_kind) if !names.is_empty() => Ok(Self { key_kind, names }),
            _ => Err(HeaderError::NoAttribute { line }),
        }
    }
}

fn key(line: u32, text: &str) -> Result<IdKind, HeaderError> {
    let Some(name) = text.strip_prefix("batch=") else {
        return Err(HeaderError::Start { line, found: quoted(text.as_bytes()) });
    };
    match name {
        "pcId" | "tntId" | "mboxPC" => Ok(IdKind::Pc),
        "thirdPartyId" | "mbox3rdPartyId" | "mboxThirdPartyId" => Ok(IdKind::ThirdParty),
        _ if ECID_NAMES.iter().any(|ecid| ecid.eq_ignore_ascii_case(name)) => {
            Err(HeaderError::EcidKey { line })
        }
        _ => Err(HeaderError::UnknownKey { line, found: quoted(name.as_bytes()) }),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let Some(fault) = attribute_name_fault(name) else { return Ok(()) };
    let name = quoted(name.as_bytes());
    Err(match fault {
        NameFault::Empty => "the attribute has no name".into(),
        NameFault::Blank => "the attribute's name is blank".into(),
        NameFault::TooLong => {
            format!("the attribute's name {name} has more than {NAME_CHARS_MAX} characters")
        }
        NameFault::Prefixed => {
            format!("in a batch an attribute is named without the prefix \"profile.\", not {name}")
        }
    })
}

impl RowError {
    fn at(column: usize, reason: Reason) -> Self {
        Self { reason, column: u16::try_from(column).unwrap_or(u16::MAX) }
    }

    /// The error in words, with the line, the column and what would be right. `row` is the row as sent, or what is
    /// left of it: if it no longer has the fault, the words are more general.
    pub fn explain(self, header: &Header, line: u32, row: &[u8]) -> String {
        let mut scan = Scan::default();
        let end = scan.row_end(row).unwrap_or(row.len());
        let row = without_line_end(cut(row, end).0);
        let column = usize::from(self.column);
        let mut splitter = Splitter::new();
        let mut decoded = Vec::new();
        let cell = splitter.nth_cell(row, column).unwrap_or_default();
        let what = match self.reason {
            Reason::LongRow => return format!("line {line}: {}", cell_fault(self.reason, cell)),
            Reason::EmptyId | Reason::LongId | Reason::ForbiddenInId | Reason::SecondDot => {
                let kind = header.key_kind;
                let found = decode(cell, &mut decoded).ok().map(|text| (text, kind.check(text)));
                return match found {
                    Some((text, Err(error))) if Reason::from(error) == self.reason => {
                        format!("line {line}: {} is not a {}: {error}", quoted(text.as_bytes()), kind.name())
                    }
                    _ => format!(
                        "line {line}: the {} is not right: {}",
                        kind.name(),
                        cell_fault(self.reason, cell)
                    ),
                };
            }
            Reason::ExtraCell => {
                format!(
                    "{}, as the header has {} columns",
                    cell_fault(self.reason, cell),
                    header.names.len() + 1
                )
            }
            _ => cell_fault(self.reason, cell),
        };
        let name = match column.checked_sub(1) {
            None => Some(header.key_kind.name()),
            Some(attribute) => header.names.get(attribute).map(|name| &**name),
        };
        match name {
            Some(name) => format!("line {line}: column {} ({name}): {what}", column + 1),
            None => format!("line {line}: column {}: {what}", column + 1),
        }
    }
}

impl Reason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 11] = [
        Self::EmptyId,
        Self::LongId,
        Self::ForbiddenInId,
        Self::SecondDot,
        Self::BadEscape,
        Self::BadUtf8,
        Self::ExtraCell,
        Self::TextAfterQuote,
        Self::UnclosedQuote,
        Self::BareReturn,
        Self::LongRow,
    ];

    /// The byte that stands for the reason in stored bytes.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason a stored byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// A word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EmptyId => "empty_id",
            Self::LongId => "long_id",
            Self::ForbiddenInId => "forbidden_in_id",
            Self::SecondDot => "second_dot",
            Self::BadEscape => "bad_escape",
            Self::BadUtf8 => "bad_utf8",
            Self::ExtraCell => "extra_cell",
            Self::TextAfterQuote => "text_after_quote",
            Self::UnclosedQuote => "unclosed_quote",
            Self::BareReturn => "bare_return",
            Self::LongRow => "long_row",
        }
    }
}

impl From<IdError> for Reason {
    fn from(error: IdError) -> Self {
        match error {
            IdError::Empty => Self::EmptyId,
            IdError::TooLong { .. } => Self::LongId,
            IdError::Forbidden(_) => Self::ForbiddenInId,
            IdError::SecondDot => Self::SecondDot,
        }
    }
}

/// What is wrong with a cell, in words; `cell` is its text before decoding.
fn cell_fault(reason: Reason, cell: &[u8]) -> String {
    match reason {
        Reason::EmptyId => "it is empty".into(),
        Reason::LongId => "it is too long".into(),
        Reason::ForbiddenInId => "it has a character that is not allowed".into(),
        Reason::SecondDot => "it has more than one dot".into(),
        Reason::BadEscape => match bad_escape(cell) {
            Some(escape) => {
                format!("{} is not a valid escape: a percent sign is written %25", quoted(escape))
            }
            None => "an escape is not valid: a percent sign is written %25".into(),
        },
        Reason::BadUtf8 => {
            let mut decoded = Vec::new();
            match unescape(cell, &mut decoded) {
                Ok(()) if !decoded.is_empty() => format!("{} is not UTF-8", quoted(&decoded)),
                _ => "it is not UTF-8".into(),
            }
        }
        Reason::ExtraCell => {
            "there is a value where the header has no column: a comma in a value is quoted or \
                              written %2C"
                .into()
        }
        Reason::TextAfterQuote => {
            "text follows the closing quote: within quotes a quote is written twice".into()
        }
        Reason::UnclosedQuote => "the quote that opens here is never closed".into(),
        Reason::BareReturn => {
            "a carriage return stands alone: lines end in LF or CRLF, and in a value it is quoted \
                               or written %0D"
                .into()
        }
        Reason::LongRow => format!("the row has more than {ROW_BYTES_MAX} bytes"),
    }
}

/// Text for a message: in quotes, on one line, and not too long.
fn quoted(text: &[u8]) -> String {
    let mut out = String::from("\"");
    let mut left = QUOTED_CHARS_MAX;
    for chunk in text.utf8_chunks() {
        let escaped = chunk.valid().chars().map(|c| match c {
            '"' | '\'' | '\\' => String::from(c),
            _ => c.escape_debug().to_string(),
        });
        for piece in escaped.chain(chunk.invalid().iter().map(|byte| byte.escape_ascii().to_string())) {
            if left == 0 {
                return out + "…\"";
            }
            left -= 1;
            out += &piece;
        }
    }
    out + "\""
}

/// What a cell says: form-decoded once, and UTF-8 then.
fn decode<'c>(cell: &'c [u8], decoded: &'c mut Vec<u8>) -> Result<&'c str, Reason> {
    let bytes = if memchr2(b'%', b'+', cell).is_some() {
        unescape(cell, decoded)?;
        decoded
    } else {
        cell
    };
    std::str::from_utf8(bytes).map_err(|_| Reason::BadUtf8)
}

fn unescape(cell: &[u8], decoded: &mut Vec<u8>) -> Result<(), Reason> {
    decoded.clear();
    let mut rest = cell;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => return Err(Reason::BadEscape),
            },
            (b'%', _) => return Err(Reason::BadEscape),
            (byte, _) => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Ok(())
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The first escape of a cell that is none, as it stands there.
fn bad_escape(cell: &[u8]) -> Option<&[u8]> {
    memchr_iter(b'%', cell).map(|at| cut(cell, at).1).find_map(|escape| match escape {
        [_, high, low, ..] if hex(*high).is_some() && hex(*low).is_some() => None,
        _ => Some(cut(escape, 3).0),
    })
}

/// Where rows end, followed across any cuts.
#[derive(Debug, Clone, Default)]
struct Scan {
    at: At,
    /// The column that it is in.
    column: usize,
    /// The line feeds within quotes so far.
    line_feeds: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Before anything but spaces in a cell: a quote here opens.
    #[default]
    CellStart,
    /// In a cell, outside quotes.
    Plain,
    Quoted,
    /// After a quote within quotes: it closed them, unless another follows.
    QuoteInQuotes,
}

impl Scan {
    /// Goes on into `bytes` up to the row's end and says how many of them are still the row's, its line feed included.
    /// `None` if they all are and the row goes on. It must be replaced after a row's end.
    fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if matches!(self.at, At::CellStart | At::Plain) {
            // No quote before the line feed: what the cells are doesn't matter.
            let stop = memchr2(b'\n', b'"', bytes);
            if let Some(stop) = stop.filter(|stop| bytes.get(*stop) == Some(&b'\n')) {
                return Some(stop + 1);
            }
        }
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            (self.at, rest) = match (self.at, first) {
                (At::CellStart, b' ') => (At::CellStart, after),
                (At::CellStart, b'"') => (At::Quoted, after),
                (At::CellStart | At::Plain, b'\n') => return Some(bytes.len() - after.len()),
                (At::CellStart | At::Plain, b',') => {
                    self.column += 1;
                    (At::CellStart, after)
                }
                (At::CellStart | At::Plain, _) => {
                    let stop = memchr2(b',', b'\n', rest).unwrap_or(rest.len());
                    (At::Plain, cut(rest, stop).1)
                }
                (At::Quoted, _) => {
                    let stop = memchr(b'"', rest);
                    let (text, after) = cut(rest, stop.unwrap_or(rest.len()));
                    self.line_feeds =
                        self.line_feeds.saturating_add(saturated(memchr_iter(b'\n', text).count()));
                    match after.split_first() {
                        Some((_quote, after)) => (At::QuoteInQuotes, after),
                        None => (At::Quoted, after),
                    }
                }
                (At::QuoteInQuotes, b'"') => (At::Quoted, after),
                (At::QuoteInQuotes, _) => (At::Plain, rest),
            };
        }
        None
    }

    /// The column whose quotes are still open.
    fn unclosed(&self) -> Option<usize> {
        (self.at == At::Quoted).then_some(self.column)
    }
}

/// Takes a row apart into cells that are yet to be decoded.
#[derive(Debug)]
struct Splitter {
    /// Made when first needed, which few rows do: making one costs more than reading a row.
    csv: Option<csv_core::Reader>,
    unquoted: Vec<u8>,
}

/// A cell, and what follows its comma.
type Cell<'c, 'r> = (Result<&'c [u8], Reason>, Option<&'r [u8]>);

impl Splitter {
    fn new() -> Self {
        Self { csv: None, unquoted: Vec::new() }
    }

    /// The first cell of `from`, and what follows its comma.
    fn cell<'c, 'r: 'c>(&'c mut self, from: &'r [u8]) -> Cell<'c, 'r> {
        let from = trim_start(from);
        if let Some((b'"', quoted)) = from.split_first() {
            // Most quoted cells hold no quote, and are read where they stand.
            let (cell, quote) = cut(quoted, memchr(b'"', quoted).unwrap_or(quoted.len()));
            return match trim_start(cut(quote, 1).1).split_first() {
                Some((b',', after)) => (Ok(cell), Some(after)),
                None if !quote.is_empty() => (Ok(cell), None),
                _ => self.quoted_cell(from),
            };
        }
        let stop = memchr2(b',', b'\r', from).unwrap_or(from.len());
        let (cell, after) = cut(from, stop);
        match after.split_first() {
            Some((b'\r', after)) => {
                (Err(Reason::BareReturn), memchr(b',', after).map(|comma| cut(after, comma + 1).1))
            }
            comma => (Ok(trim_end(cell)), comma.map(|(_, after)| after)),
        }
    }

    fn quoted_cell<'c, 'r: 'c>(&'c mut self, from: &'r [u8]) -> Cell<'c, 'r> {
        // A cell has no more bytes than it takes in the row; so the reader never runs out of room.
        if self.unquoted.len() < from.len() {
            self.unquoted.resize(from.len(), 0);
        }
        let csv = self.csv.get_or_insert_with(|| {
            csv_core::ReaderBuilder::new().terminator(csv_core::Terminator::Any(b'\n')).build()
        });
        csv.reset();
        let (result, read, written) = csv.read_field(from, &mut self.unquoted);
        let ended = matches!(result, csv_core::ReadFieldResult::Field { .. });
        let (sent, after) = cut(from, read - usize::from(ended));
        // To the reader the spaces behind the closing quote are part of the cell.
        let spaces = sent.len() - trim_end(sent).len();
        let cell = cut(&self.unquoted, written.saturating_sub(spaces)).0;
        let sent = trim_end(sent);
        // Two quotes stand around the cell and each within it is doubled. With text behind the closing quote either
        // the last byte is no quote or there is a quote that was not doubled.
        let doubled = memchr_iter(b'"', cell).count();
        let whole = sent.len() > 1 && sent.ends_with(b"\"") && sent.len() == cell.len() + 2 + doubled;
        (if whole { Ok(cell) } else { Err(Reason::TextAfterQuote) }, ended.then(|| cut(after, 1).1))
    }

    /// The cell of a column, if the row has it and it can be read.
    fn nth_cell<'c, 'r: 'c>(&'c mut self, row: &'r [u8], column: usize) -> Option<&'c [u8]> {
        let mut rest = row;
        for _ in 0..column {
            rest = self.cell(rest).1?;
        }
        self.cell(rest).0.ok()
    }
}

fn is_blank(row: &[u8]) -> bool {
    row.iter().all(|byte| matches!(byte, b' ' | b'\r' | b'\n'))
}

fn without_line_end(row: &[u8]) -> &[u8] {
    let mut row = row.strip_suffix(b"\n").unwrap_or(row);
    while let Some(before) = row.strip_suffix(b"\r") {
        row = before;
    }
    row
}

/// Without leading spaces. Apart from [`trim_end`], so that no cell looks at more than itself.
fn trim_start(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let Some((b' ', after)) = bytes.split_first() {
        bytes = after;
    }
    bytes
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let Some((b' ', before)) = bytes.split_last() {
        bytes = before;
    }
    bytes
}

/// `bytes` cut in two; at its end, where `at` is beyond it.
fn cut(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

fn saturated(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
