//! A file of ids: the first line is their kind, and each further one an id. It is read as a batch file of one column is: quotes,
//! form-encoding, blank lines, a BOM.
//!
//! Promises: whatever the bytes and wherever they are cut, [`IdFile`] never panics, and holds the ids, one row and the first
//! [`BAD_TOLD_MAX`] faults. It takes all lines or none: one bad line refuses the file.

use std::fmt;

use memchr::memchr;

use super::cell::{Splitter, cut, decode, is_blank, saturated, without_line_end};
use super::error::{HeaderError, quoted};
use super::fault::RowError;
use super::header::{ECID_NAMES, Header, kind_named};
use super::reader::{BOM, Parser};
use super::row::{Row, RowPlace};
use crate::model::batch::{RowForm, RowReading};
use crate::model::blocked::BlockedIds;
use crate::model::id::IdKind;

/// How many bad lines are told. All are counted.
const BAD_TOLD_MAX: usize = 10;
/// The longest first line, in bytes.
const FIRST_LINE_BYTES_MAX: usize = 1024;

/// Reads a file of ids as its bytes arrive.
#[derive(Debug)]
pub struct IdFile {
    reading: RowReading,
    /// The bytes of the first line, as far as they came.
    first: Vec<u8>,
    /// Where the next line begins.
    at: RowPlace,
    /// Reads the ids, once their kind is known.
    rows: Option<(Parser, Header)>,
    taken: Taken,
}

/// The ids of a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    kind: IdKind,
    text: String,
    /// Of each: its line, and where it ends in the text.
    places: Vec<(u32, u32)>,
}

/// The lines that are no ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadIds {
    /// How many.
    pub count: u64,
    /// How many lines the file has with them.
    pub lines: u64,
    /// The first of them.
    pub first: Vec<BadId>,
}

/// A line that is no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadId {
    /// Its number, from 1.
    pub line: u32,
    /// What is wrong, in a word for programs.
    pub reason: &'static str,
    /// What is wrong, where, and what would be right.
    pub message: String,
}

/// Why a file of ids is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdFileError {
    /// The first line is no kind of id.
    #[error(
        "line {line}: the first line is the kind of the ids, thirdPartyId, pcId or ecid, and nothing else; it is {found}"
    )]
    Kind {
        /// The line.
        line: u32,
        /// What it is, quoted.
        found: String,
    },
    /// There is no id.
    #[error(
        "the file has no id: its first line is thirdPartyId, pcId or ecid, and each further line is an id"
    )]
    NoId,
    /// Some lines are no ids.
    #[error("{0}")]
    Bad(BadIds),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] HeaderError),
}

#[derive(Debug)]
struct Taken {
    ids: Ids,
    bad: BadIds,
    splitter: Splitter,
    decoded: Vec<u8>,
}

impl IdFile {
    /// A reader at the start of a file. The ids that the client blocks are none.
    pub fn new(blocked: BlockedIds) -> Self {
        let ids = Ids { kind: IdKind::ThirdParty, text: String::new(), places: vec![] };
        Self {
            reading: RowReading::of_form(RowForm::Csv, blocked),
            first: vec![],
            at: RowPlace { line: 1, offset: 0 },
            rows: None,
            taken: Taken { ids, bad: BadIds::default(), splitter: Splitter::new(), decoded: vec![] },
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), IdFileError> {
        let mut rest = bytes;
        while self.rows.is_none() && !rest.is_empty() {
            let (line, after) = cut(rest, memchr(b'\n', rest).map_or(rest.len(), |end| end + 1));
            self.first.extend_from_slice(line);
            rest = after;
            if self.first.len() > FIRST_LINE_BYTES_MAX {
                return Err(no_kind(self.at.line, &self.first));
            }
            if line.ends_with(b"\n") {
                self.first_line()?;
            }
        }
        if let Some((parser, header)) = &mut self.rows {
            parser.push(rest, |row| self.taken.take(header, &row))?;
        }
        Ok(())
    }

    /// How many lines with an id, good or bad, have come.
    pub fn lines(&self) -> u64 {
        self.taken.ids.len() as u64 + self.taken.bad.count
    }

    /// Ends the file. Gives the ids, if all lines are right.
    pub fn finish(mut self) -> Result<Ids, IdFileError> {
        if self.rows.is_none() && !self.first.is_empty() {
            self.first_line()?;
        }
        let lines = match &mut self.rows {
            Some((parser, header)) => {
                parser.finish(|row| self.taken.take(header, &row))?;
                self.lines()
            }
            None => 0,
        };
        let Taken { ids, bad, .. } = self.taken;
        if bad.count > 0 {
            return Err(IdFileError::Bad(BadIds { lines, ..bad }));
        }
        if ids.is_empty() { Err(IdFileError::NoId) } else { Ok(ids) }
    }

    /// Takes the held bytes as the first line, unless they are blank.
    fn first_line(&mut self) -> Result<(), IdFileError> {
        let sent = std::mem::take(&mut self.first);
        let RowPlace { line, offset } = self.at;
        self.at = RowPlace { line: line + 1, offset: offset.saturating_add(saturated(sent.len())) };
        let text = if offset == 0 { sent.strip_prefix(BOM).unwrap_or(&sent) } else { &sent };
        if is_blank(text, false) {
            return Ok(());
        }
        let kind = kind_of(text).ok_or_else(|| no_kind(line, text))?;
        self.taken.ids.kind = kind;
        let header = Header::from_parts(kind, vec![], self.reading.clone());
        self.rows = Some((Parser::at(header.clone(), self.at), header));
        Ok(())
    }
}

impl Ids {
    /// Of which kind they are.
    pub fn kind(&self) -> IdKind {
        self.kind
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Those from a place on: the line of each, and its text as sent, without quotes and decoded.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (u32, &str)> {
        let before = place.checked_sub(1).and_then(|before| self.places.get(before));
        let mut start = before.map_or(0, |(_, end)| *end as usize);
        self.places.iter().skip(place).map(move |(line, end)| {
            let text = self.text.get(start..*end as usize).unwrap_or_default();
            start = *end as usize;
            (*line, text)
        })
    }
}

impl fmt::Display for BadIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, lines, first } = self;
        let told: Vec<&str> = first.iter().map(|bad| bad.message.as_str()).collect();
        let more = match count.saturating_sub(told.len() as u64) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        write!(f, "{count} of {lines} lines are no ids, so nobody is erased: {}{more}", told.join("; "))
    }
}

impl BadIds {
    fn add(&mut self, header: &Header, row: &Row<'_>, error: RowError) {
        self.count += 1;
        if self.first.len() < BAD_TOLD_MAX {
            let (line, reason) = (row.line, error.reason.name());
            self.first.push(BadId { line, reason, message: error.explain(header, line, row.sent) });
        }
    }
}

impl Taken {
    fn take(&mut self, header: &Header, row: &Row<'_>) {
        let cells = match row.content {
            Ok(cells) => cells,
            Err(error) => return self.bad.add(header, row, error),
        };
        // The receipt has the id as it was sent, with its location hint.
        let cell = self.splitter.cell(without_line_end(row.sent)).0.ok();
        let sent = cell.and_then(|cell| decode(cell, &mut self.decoded).ok());
        self.ids.text.push_str(sent.unwrap_or(cells.id()));
        self.ids.places.push((row.line, saturated(self.ids.text.len())));
    }
}

fn kind_of(line: &[u8]) -> Option<IdKind> {
    let (mut splitter, mut decoded) = (Splitter::new(), vec![]);
    let (cell, rest) = splitter.cell(without_line_end(line));
    // A spreadsheet pads with empty columns.
    if rest.is_some_and(|rest| !is_blank(rest, false)) {
        return None;
    }
    let name = decode(cell.ok()?, &mut decoded).ok()?;
    let ecid = || ECID_NAMES.iter().any(|ecid| ecid.eq_ignore_ascii_case(name)).then_some(IdKind::Ecid);
    kind_named(name).or_else(ecid)
}

fn no_kind(line: u32, found: &[u8]) -> IdFileError {
    IdFileError::Kind { line, found: quoted(without_line_end(found)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Ids, IdFileError> {
        let mut file = IdFile::new(BlockedIds::default());
        pieces.iter().try_for_each(|piece| file.push(piece))?;
        file.finish()
    }

    /// The same whole, and byte by byte.
    fn both_ways(file: &str) -> Result<Ids, IdFileError> {
        let whole = read(&[file.as_bytes()]);
        let bytes: Vec<&[u8]> = file.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), whole, "{file:?}");
        whole
    }

    #[test]
    fn a_line_is_an_id_of_the_kind_that_the_first_line_says() {
        #[track_caller]
        fn check(file: &str, kind: IdKind, expected: &[(u32, &str)]) {
            let ids = both_ways(file).unwrap();
            assert_eq!(ids.kind(), kind, "{file:?}");
            assert_eq!(ids.from(0).collect::<Vec<_>>(), expected, "{file:?}");
            for from in 0..=ids.len() {
                assert_eq!(ids.from(from).collect::<Vec<_>>(), expected[from..], "{file:?} from {from}");
            }
        }
        let third_party = IdKind::ThirdParty;
        check("thirdPartyId\ncrm-1\ncrm-2\n", third_party, &[(2, "crm-1"), (3, "crm-2")]);
        check("thirdPartyId\r\ncrm-1\r\ncrm-2", third_party, &[(2, "crm-1"), (3, "crm-2")]);
        check("\u{feff}mbox3rdPartyId\n\n x \n\n,\ny\n", third_party, &[(3, "x"), (6, "y")]);
        check("\n\n\"thirdPartyId\",\n\"a,b\",,\n", third_party, &[(4, "a,b")]);
        check("thirdPartyId\na%20b\nc%2Cd\né\n", third_party, &[(2, "a b"), (3, "c,d"), (4, "é")]);
        check("thirdPartyId\nx\nx\n", third_party, &[(2, "x"), (3, "x")]);
    }

    #[test]
    fn a_location_hint_stays_as_it_was_sent() {
        let ids = both_ways("pcId\n7.28_0\n8\n").unwrap();
        assert_eq!(
            (ids.kind(), ids.from(0).collect::<Vec<_>>()),
            (IdKind::Pc, vec![(2, "7.28_0"), (3, "8")])
        );
        for kind in ["ecid", "ECID", "marketingCloudVisitorId"] {
            assert_eq!(both_ways(&format!("{kind}\n123\n")).unwrap().kind(), IdKind::Ecid);
        }
    }

    #[test]
    fn one_bad_line_refuses_all_and_is_told() {
        #[track_caller]
        fn check(file: &str, expected: &[(u32, &str)]) {
            let Err(IdFileError::Bad(bad)) = both_ways(file) else { panic!("{file:?}") };
            let told: Vec<_> = bad.first.iter().map(|bad| (bad.line, bad.reason)).collect();
            assert_eq!((told.as_slice(), bad.count), (expected, expected.len() as u64), "{file:?}");
            for bad in &bad.first {
                assert!(bad.message.starts_with(&format!("line {}: ", bad.line)), "{}", bad.message);
            }
        }
        check("thirdPartyId\nx\na+b%2Bc\ny\na/b\n", &[(3, "forbidden_in_id"), (5, "forbidden_in_id")]);
        check("thirdPartyId\nx,y\n", &[(2, "extra_cell")]);
        check("thirdPartyId\nNULL\nx\n", &[(2, "blocked_id")]);
        check("thirdPartyId\n%zz\n\"\"\nx\n", &[(2, "bad_escape"), (3, "empty_id")]);
        check("thirdPartyId\n\"two\nlines\"\n", &[(2, "forbidden_in_id")]);
        check("pcId\n1.2.3\n", &[(2, "dot_in_id")]);
        check("thirdPartyId\n\"a\nb\n", &[(2, "unclosed_quote")]);
        check(&format!("thirdPartyId\n{}\n", "x".repeat(257)), &[(2, "long_id")]);
    }

    #[test]
    fn of_many_bad_lines_the_first_ten_are_told_and_all_are_counted() {
        let Err(IdFileError::Bad(bad)) = both_ways(&format!("pcId\nx\n{}", "a.b.c\n".repeat(12))) else {
            panic!()
        };
        assert_eq!((bad.count, bad.lines, bad.first.len()), (12, 13, BAD_TOLD_MAX));
        let words = IdFileError::Bad(bad).to_string();
        assert!(words.starts_with("12 of 13 lines are no ids, so nobody is erased: line 3: "), "{words}");
        assert!(words.ends_with("; and 2 more"), "{words}");
    }

    #[test]
    fn what_is_no_file_of_ids_is_refused_by_its_first_line() {
        #[track_caller]
        fn check(file: &str, words: &str) {
            let error = both_ways(file).unwrap_err().to_string();
            assert!(error.contains(words), "{file:?}: {error}");
        }
        check("", "has no id");
        check("\n\n", "has no id");
        check("thirdPartyId", "has no id");
        check("thirdPartyId\n\n", "has no id");
        check("crm-1\ncrm-2\n", "line 1: the first line is the kind of the ids");
        check("\nthirdpartyid\nx\n", "line 2: ");
        // Whoever posts a batch by mistake must not erase everybody in it.
        check("batch=thirdPartyId,city\ncrm-1,Oslo\n", "it is \"batch=thirdPartyId,city\"");
        check("thirdPartyId,city\ncrm-1,Oslo\n", "and nothing else");
        check(&"x".repeat(5000), "line 1: ");
    }
}
