//! Whose bytes are to go (R12), and how their rows in kept uploads are overwritten in place. Every other row stays where it is, and so
//! do all line numbers. An overwritten row reads `erased`.

use crate::batch::accepted::Accepted;
use crate::batch::csv::{Header, HeaderError, Parser, any_loose_text, with_values_gone};
use crate::batch::queue::Batches;
use crate::batch::spool::Spool;
use crate::model::batch::{RowForm, RowReading};
use crate::model::id::{ClientCode, Key, visible};
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::Seq;
use std::collections::HashMap;
use std::io;

const FILLER: &[u8] = b"erased";
/// How many bytes are read at a time to find the first line.
const HEADER_PIECE_BYTES: usize = 16 << 10;

/// The ids of erased visitors whose bytes are to go, and which write erased each: those under a tombstone, and those that
/// were created again and have an erasure mark.
#[derive(Debug, Clone, Default)]
pub struct Erased(HashMap<Key, Seq>);

impl Erased {
    /// Finds the erased ids in a page of a store. It leaves out those with a pending batch before the erasure, because their
    /// tombstones must stay.
    pub fn find(&mut self, page: &[(Key, StoredBytes)], batches: &Batches) {
        for (key, value) in page {
            let Ok(Stored::Tombstone { applied_seq, erased: true }) = value.decode() else { continue };
            let Ok(client) = ClientCode::new(key.client()) else { continue };
            if batches.pending(&client).first().is_none_or(|b| b.accepted.id.seq > applied_seq) {
                self.insert(key.without_mark(), applied_seq);
            }
        }
    }

    fn insert(&mut self, id: Key, erased: Seq) {
        let known = self.0.entry(id).or_insert(erased);
        *known = erased.max(*known);
    }

    /// The write that erased an id last. The key may be the id's or its erasure mark's.
    pub fn at(&self, key: &Key) -> Option<Seq> {
        self.0.get(&key.without_mark()).copied()
    }

    /// The last erasure of them.
    pub fn last(&self) -> Seq {
        self.0.values().copied().max().unwrap_or_default()
    }

    /// How many ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Overwrites the rows of a complete batch whose visitors were erased after it; durable when it returns. Rows of a visitor
/// who was created again stay. Gives how many rows it overwrote.
pub fn overwrite_rows(spool: &Spool, accepted: &Accepted, erased: &Erased) -> io::Result<usize> {
    let gone = |id: &str| {
        let key = Key::new(&accepted.id.client, accepted.key_kind, id);
        erased.at(&key).is_some_and(|at| at > accepted.id.seq)
    };
    spool.overwrite(accepted.spool, &accepted.sum(), |file| {
        let mut over = vec![];
        let failed = |error: HeaderError| io::Error::other(error.to_string());
        let reading = &accepted.rules.reading;
        let (header, header_at) = header_of(file, reading).map_err(failed)?;
        let mut each = |row: crate::batch::csv::Row<'_>| {
            let place = row.offset as usize;
            let bytes = file.get(place..).and_then(|rest| rest.get(..row.len as usize)).unwrap_or_default();
            let theirs = match &row.content {
                Ok(cells) => gone(cells.id()),
                // A failed row may belong to the visitor, too: its first cell tells.
                Err(_) => names_one(&header, bytes, &gone),
            };
            if theirs {
                over.push((place, filler_of(reading, bytes, place == header_at)));
            }
        };
        let mut parser = Parser::new(reading);
        let parsed = parser.push(file, &mut each).and_then(|()| parser.finish(&mut each).map(drop));
        parsed.map_err(failed)?;
        Ok(over)
    })
}

/// The first line of a file, and where it begins.
fn header_of(file: &[u8], reading: &RowReading) -> Result<(Header, usize), HeaderError> {
    let mut parser = Parser::new(reading);
    for piece in file.chunks(HEADER_PIECE_BYTES) {
        parser.push(piece, |_| ())?;
        if let (Some(header), Some((place, _))) = (parser.header(), parser.header_place()) {
            return Ok((header.clone(), place.offset as usize));
        }
    }
    Err(HeaderError::Empty)
}

/// Whether a row's first cell, however badly written, is the id of an erased visitor.
fn names_one(header: &Header, row: &[u8], gone: &impl Fn(&str) -> bool) -> bool {
    let mut reader = crate::batch::csv::RowReader::new();
    if let Ok(cells) = reader.read(header, row).content {
        return gone(cells.id());
    }
    let is_gone = |id: &str| {
        // Also as it stands: to earlier versions invisible characters were part of an id.
        [id, id.trim(), visible(id)]
            .into_iter()
            .any(|id| gone(id) || id.split_once('.').is_some_and(|(id, _)| gone(id)))
    };
    if header.reading().form() == RowForm::Ndjson {
        return header.id_of(row).is_some_and(|id| is_gone(&id)) || any_loose_text(row, is_gone);
    }
    let first = row.split(|byte| matches!(byte, b',' | b'\n' | b'\r')).next().unwrap_or_default();
    let text = String::from_utf8_lossy(first).trim_matches(' ').trim_matches('"').replace('+', " ");
    is_gone(&percent_encoding::percent_decode_str(&text).decode_utf8_lossy())
}

/// Whether this row was overwritten. `is_first` says whether it is the first line of its file.
pub fn reads_erased(reading: &RowReading, row: &[u8], is_first: bool) -> bool {
    if reading.form() == RowForm::Ndjson {
        return filler_of(reading, row, is_first) == row;
    }
    let says_something = row.iter().any(|byte| !is_structure(*byte));
    says_something && (filler(row) == row || earlier_filler(row).is_some_and(|filler| filler == row))
}

/// What a row becomes. The first line of NDJSON keeps its names, by which all lines are read.
fn filler_of(reading: &RowReading, row: &[u8], is_first: bool) -> Vec<u8> {
    match reading.form() {
        RowForm::Csv => filler(row),
        RowForm::Ndjson => {
            let mut word = FILLER.iter();
            let mut fill = |byte: &mut u8| *byte = *word.next().unwrap_or(&b' ');
            // Within a value a carriage return is no line end, and must not stay: there it would be no JSON.
            let named = if is_first { with_values_gone(row, &mut fill) } else { None };
            named.unwrap_or_else(|| {
                let mut filled = row.to_vec();
                filled.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(fill);
                filled
            })
        }
    }
}

/// A filler as long as the row, which keeps only its line ends; of a row with quotes also what separates its cells. So every
/// row ends where it did, also a row above with a stray quote, which is recognised by the quotes of this one.
fn filler(row: &[u8]) -> Vec<u8> {
    let quotes = row.contains(&b'"');
    let pad = if quotes { b'-' } else { b' ' };
    let (mut filled, mut word) = (row.to_vec(), FILLER.iter());
    // Spaces matter at the beginning of a cell, and behind a quote that may close one.
    let mut spaces_matter = true;
    for byte in filled.iter_mut() {
        let stays = match *byte {
            b'\n' | b'\r' => true,
            b' ' => quotes && spaces_matter,
            byte => quotes && is_structure(byte),
        };
        spaces_matter = stays;
        if !stays {
            *byte = *word.next().unwrap_or(&pad);
        }
    }
    filled
}

fn is_structure(byte: u8) -> bool {
    matches!(byte, b'"' | b',' | b' ' | b'\r' | b'\n')
}

/// The filler of earlier versions for a row of several lines: quotes around all of it.
fn earlier_filler(row: &[u8]) -> Option<Vec<u8>> {
    let content = row.len() - row.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    row.iter().take(content).position(line_end)?;
    let (mut filled, mut word) = (row.to_vec(), FILLER.iter());
    for byte in filled.iter_mut().take(content).filter(|byte| !line_end(byte)) {
        *byte = *word.next().unwrap_or(&b' ');
    }
    let last = filled.iter().take(content).rposition(|byte| !line_end(byte));
    for at in [Some(0), last].into_iter().flatten() {
        if let Some(byte) = filled.get_mut(at) {
            *byte = b'"';
        }
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pending::Pending;
    use crate::model::id::IdKind;
    use std::collections::HashSet;

    fn reads_erased_now(row: &[u8]) -> bool {
        reads_erased(&RowReading::default(), row, false)
    }

    /// What a file of pcId rows is once `gone` is erased, by the write after so many, and how many rows went.
    fn after(file: &str, gone: &str, erased: u64) -> (String, usize) {
        let folder = tempfile::tempdir().unwrap();
        let batch = Pending::of_text(folder.path(), "demo", 7, file);
        let spool = Spool::open(folder.path(), 1 << 20, &HashSet::from([7])).unwrap();
        std::fs::write(spool.rows_path(7), file).unwrap();
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, gone);
        let erased = Erased(HashMap::from([(key, Seq::from_u64(erased))]));
        let overwritten = overwrite_rows(&spool, &batch.accepted, &erased).unwrap();
        spool.verify(7, &batch.accepted.sum()).unwrap();
        assert_eq!(
            overwrite_rows(&spool, &batch.accepted, &erased).unwrap(),
            0,
            "nothing is left to overwrite"
        );
        let left = std::fs::read_to_string(spool.rows_path(7)).unwrap();
        assert_eq!(left.len(), file.len());
        (left.split_once('\n').unwrap().1.to_owned(), overwritten)
    }

    #[test]
    fn rows_of_the_erased_go_and_all_else_stays_where_it_is() {
        for (rows, expected) in [
            ("1,x\n2,y\n", "era\n2,y\n"),
            ("1.28_0,secret\r\n2,y\r\n1,again\r\n", "erased       \r\n2,y\r\nerased \r\n"),
            ("2,y\n1,no newline", "2,y\nerased      "),
            ("\"1\",\"a\nb\"\n2,y\n", "\"e\",\"r\na\"\n2,y\n"),
            ("1, \"a b, c\" , d e\n2,y\n", "e, \"ras, e\" , d--\n2,y\n"),
            ("2,\"tall\n1,\"secret\"\n3,5\"\n", "2,\"tall\ne,\"rased-\"\n3,5\"\n"),
            ("1,\"tall\n2,y\n", "e,\"rase\n2,y\n"),
            ("%31,encoded id\n", "erased        \n"),
            ("1,bad%zz\n2,bad%zz\n", "erased  \n2,bad%zz\n"),
            ("1.7,too,many,cells\n11,x\n", "erased            \n11,x\n"),
        ] {
            let (left, overwritten) = after(&format!("batch=pcId,a\n{rows}"), "1", 8);
            assert_eq!(left, expected, "{rows:?}");
            let lines = left.split_inclusive('\n').filter(|line| reads_erased_now(line.as_bytes())).count();
            assert_eq!(overwritten, lines.max(1), "{rows:?}");
        }
    }

    /// The same of NDJSON.
    fn after_in_ndjson(file: &str, gone: &str) -> (String, usize) {
        let folder = tempfile::tempdir().unwrap();
        let reading = RowReading::of_form(RowForm::Ndjson, crate::model::blocked::BlockedIds::default());
        let batch = Pending::of_text_read(folder.path(), "demo", 7, file, &reading);
        let spool = Spool::open(folder.path(), 1 << 20, &HashSet::from([7])).unwrap();
        std::fs::write(spool.rows_path(7), file).unwrap();
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, gone);
        let erased = Erased(HashMap::from([(key, Seq::from_u64(8))]));
        let overwritten = overwrite_rows(&spool, &batch.accepted, &erased).unwrap();
        assert_eq!(overwrite_rows(&spool, &batch.accepted, &erased).unwrap(), 0, "nothing is left");
        let left = std::fs::read_to_string(spool.rows_path(7)).unwrap();
        assert_eq!(left.len(), file.len());
        let lines = left.split_inclusive('\n').enumerate();
        let erased = lines.filter(|(line, row)| reads_erased(&reading, row.as_bytes(), *line == 0));
        assert_eq!(erased.count(), overwritten, "{left}");
        // What is left is read by the same names.
        let mut parser = Parser::new(&reading);
        parser.push(left.as_bytes(), |_| ()).and_then(|()| parser.finish(|_| ()).map(drop)).unwrap();
        assert_eq!(parser.header(), Some(&batch.header));
        (left, overwritten)
    }

    #[test]
    fn rows_of_ndjson_go_and_the_first_line_keeps_its_names() {
        let stays = r#"{"pcId":"2","a":3}"#;
        for (file, expected) in [
            (
                format!("{{\"pcId\":\"1\",\"a\":\"x\"}}\n{stays}\n"),
                format!("{{\"pcId\":\"e\",\"a\":\"r\"}}\n{stays}\n"),
            ),
            (
                "{\"pcId\":1,\"a\":12,\"b\":\"é\"}\n{\"pcId\":\"1\"}\r\n".into(),
                "{\"pcId\":0,\"a\":\"\",\"b\":\"er\"}\nerased\n".into(),
            ),
            (format!("{stays}\n{{\"pcId\":\"1\",\"a\":3}}"), format!("{stays}\nerased\n")),
            // Those that failed.
            (format!("{stays}\n{{\"pcId\":\"1\",\"secret\":3}}\n"), format!("{stays}\nerased\n")),
            (format!("{stays}\n{{\"pcId\":\"\\u0031.28_0\",\"a\n"), format!("{stays}\nerased\n")),
            (format!("{stays}\n{{\"pcId\": 1 oops\n"), format!("{stays}\nerased\n")),
            // A carriage return may stand within a value.
            (
                format!("{{\"pcId\":\"1\",\"a\":[7,\r8]}}\n{stays}\n"),
                format!("{{\"pcId\":\"e\",\"a\":\"rase\"}}\n{stays}\n"),
            ),
        ] {
            let (left, overwritten) = after_in_ndjson(&file, "1");
            let lines: String = left.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
            assert_eq!(
                (lines, overwritten),
                (expected.clone(), file.lines().count() - expected.matches(stays).count())
            );
        }
    }

    /// An id may have any character, and a failed row may write it by escapes.
    #[test]
    fn a_failed_row_of_ndjson_goes_whatever_its_id_is() {
        let stays = r#"{"pcId":"2","a":3}"#;
        for (id, written) in [("a\"b", r#"a\"b"#), ("a,b:c", "a,b:c"), ("é\\", r"\u00e9\\")] {
            let file = format!("{stays}\n{{\"pcId\":\"{written}\",\"a\":[]}}\n");
            let (left, overwritten) = after_in_ndjson(&file, id);
            assert_eq!((left.lines().next(), overwritten), (Some(stays), 1), "{id}");
        }
    }

    /// Only the first line keeps its names, so only there a line without values reads as erased.
    #[test]
    fn a_live_row_of_ndjson_does_not_read_as_erased() {
        let reading = RowReading::of_form(RowForm::Ndjson, crate::model::blocked::BlockedIds::default());
        for row in ["{}\n", "{\"pcId\":0,\"a\":\"\"}\n", "{\"pcId\":\"erased\"}"] {
            assert!(!reads_erased(&reading, row.as_bytes(), false), "{row}");
        }
    }

    #[test]
    fn failed_rows_go_with_and_without_what_nobody_sees_around_their_ids() {
        let file = "batch=pcId,a\n\u{a0}1,bad%zz\n2,y\n";
        for gone in ["1", "\u{a0}1"] {
            assert_eq!(after(file, gone, 8), ("erased    \n2,y\n".to_owned(), 1), "{gone:?}");
        }
        assert_eq!(after(file, "\u{a0}2", 8).1, 0);
    }

    #[test]
    fn what_earlier_versions_wrote_is_known_too() {
        for row in ["era\n", "erased       \r\n", "erased", "\"rased\n \"\n", "\"rased\r\n    \""] {
            assert!(reads_erased_now(row.as_bytes()), "{row:?}");
        }
        for row in ["", "\n", "\"\",\"\"\n", ",,\n", "1,x\n", "\"1\"\n", "\"a\nb\"\n"] {
            assert!(!reads_erased_now(row.as_bytes()), "{row:?}");
        }
    }

    /// The rows of a file: where each begins, and what it comes to; of an overwritten one, whatever it says, where.
    fn rows_of(file: &[u8]) -> Vec<(u32, u32, Option<String>)> {
        let (mut parser, mut rows) = (Parser::default(), vec![]);
        let mut each = |row: crate::batch::csv::Row<'_>| {
            let shown = format!("{:?} {:?}", row.sent.escape_ascii().to_string(), row.content);
            rows.push((row.line, row.len, (!reads_erased_now(row.sent)).then_some(shown)));
        };
        parser.push(file, &mut each).and_then(|()| parser.finish(&mut each).map(drop)).unwrap();
        rows
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        /// A stray quote is known by the quotes of the lines behind it: to put something over those must not let it take
        /// in others.
        #[test]
        fn every_row_ends_where_it_did(
            pieces in proptest::collection::vec(
                proptest::sample::select(&["\"", "\"", ",", "\n", "\r\n", " ", "1", "2", "x", "\"\"", "\n1,", "\n2,\""][..]),
                1..40,
            ),
        ) {
            let file = format!("batch=pcId,a,b\n2,z\n{}", pieces.concat());
            let (left, _) = after(&file, "1", 8);
            let left = format!("batch=pcId,a,b\n{left}");
            let (were, are) = (rows_of(file.as_bytes()), rows_of(left.as_bytes()));
            proptest::prop_assert_eq!(were.len(), are.len());
            for (was, is) in were.into_iter().zip(are) {
                proptest::prop_assert_eq!((was.0, was.1), (is.0, is.1));
                proptest::prop_assert!(is.2.is_none() || was.2 == is.2, "{:?} became {:?}", was, is);
            }
        }
    }

    #[test]
    fn rows_of_a_later_life_stay() {
        assert_eq!(after("batch=pcId,a\n1,x\n", "1", 6), ("1,x\n".to_owned(), 0));
    }
}
