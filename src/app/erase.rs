//! Which visitors' bytes are to go (R12), and overwriting their rows in kept uploads, in place: every other row stays
//! where it is, and so do all line numbers. What is overwritten reads `erased`.

use crate::batch::csv::{Header, HeaderError, Parser};
use crate::batch::pending::Accepted;
use crate::batch::queue::Batches;
use crate::batch::spool::Spool;
use crate::model::id::{ClientCode, Key};
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::Seq;
use std::collections::HashMap;
use std::io;

const FILLER: &[u8] = b"erased";
/// So much of a file is read at a time for its first line.
const HEADER_PIECE_BYTES: usize = 16 << 10;

/// The ids of erased visitors whose bytes are to go, and by which write each was erased: those under a tombstone, and
/// those that have another life by now and an erasure mark.
#[derive(Debug, Clone, Default)]
pub struct Erased(HashMap<Key, Seq>);

impl Erased {
    /// Finds those of a page of a store; but for those that a pending batch comes before, whose tombstones must stay.
    pub fn find(&mut self, page: &[(Key, StoredBytes)], batches: &Batches) {
        for (key, value) in page {
            let Ok(Stored::Tombstone { through, erased: true }) = value.decode() else { continue };
            let Ok(client) = ClientCode::new(key.client()) else { continue };
            if batches.pending(&client).first().is_none_or(|b| b.accepted.id.seq > through) {
                self.insert(key.without_mark(), through);
            }
        }
    }

    fn insert(&mut self, id: Key, erased: Seq) {
        let known = self.0.entry(id).or_insert(erased);
        *known = erased.max(*known);
    }

    /// By which write an id was erased last; its key will do, or its mark's.
    pub fn at(&self, key: &Key) -> Option<Seq> {
        self.0.get(&key.without_mark()).copied()
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

/// Overwrites the rows of a complete batch that are for visitors erased after it; durable when it returns. Rows of a
/// later life stay. Gives how many there were.
pub fn overwrite_rows(spool: &Spool, accepted: &Accepted, erased: &Erased) -> io::Result<usize> {
    let gone = |id: &str| {
        let key = Key::new(&accepted.id.client, accepted.key_kind, id);
        erased.at(&key).is_some_and(|at| at > accepted.id.seq)
    };
    spool.overwrite(accepted.spool, &accepted.sum(), |file| {
        let mut over = vec![];
        let told = |error: HeaderError| io::Error::other(error.to_string());
        let header = header_of(file).map_err(told)?;
        let mut each = |row: crate::batch::csv::Row<'_>| {
            let place = row.offset as usize;
            let bytes = file.get(place..).and_then(|rest| rest.get(..row.len as usize)).unwrap_or_default();
            let theirs = match &row.content {
                Ok(cells) => gone(cells.id()),
                // A failed row may be the visitor's all the same: its first cell tells.
                Err(_) => names_one(&header, bytes, &gone),
            };
            if theirs {
                over.push((place, filler(bytes)));
            }
        };
        let mut parser = Parser::new();
        let parsed = parser.push(file, &mut each).and_then(|()| parser.finish(&mut each).map(drop));
        parsed.map_err(told)?;
        Ok(over)
    })
}

/// The first line of a file.
fn header_of(file: &[u8]) -> Result<Header, HeaderError> {
    let mut parser = Parser::new();
    for piece in file.chunks(HEADER_PIECE_BYTES) {
        parser.push(piece, |_| ())?;
        if let Some(header) = parser.header() {
            return Ok(header.clone());
        }
    }
    Err(HeaderError::Empty)
}

/// Whether a row's first cell, read with all forbearance, is the id of an erased visitor.
fn names_one(header: &Header, row: &[u8], gone: &impl Fn(&str) -> bool) -> bool {
    let mut reader = crate::batch::csv::RowReader::new();
    if let Ok(cells) = reader.read(header, row).content {
        return gone(cells.id());
    }
    let first = row.split(|byte| matches!(byte, b',' | b'\n' | b'\r')).next().unwrap_or_default();
    let text = String::from_utf8_lossy(first).trim().trim_matches('"').replace('+', " ");
    let id = percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
    gone(&id) || id.split_once('.').is_some_and(|(id, _)| gone(id))
}

/// Whether a row of an upload of which rows were overwritten is one of those.
pub fn reads_erased(row: &[u8]) -> bool {
    !row.is_empty() && filler(row) == row
}

/// As many bytes as the row has, that hold nothing of it but its line ends.
fn filler(row: &[u8]) -> Vec<u8> {
    let content = row.len() - row.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let line_ends_within = row.iter().take(content).any(|byte| matches!(byte, b'\n' | b'\r'));
    let mut filled: Vec<u8> = row.to_vec();
    let mut word = FILLER.iter();
    for byte in filled.iter_mut().take(content) {
        if !matches!(byte, b'\n' | b'\r') {
            *byte = *word.next().unwrap_or(&b' ');
        }
    }
    // Line ends within a row were within quotes, and must stay within some, or they would end it.
    if line_ends_within {
        let last = filled.iter().take(content).rposition(|byte| !matches!(byte, b'\n' | b'\r'));
        for at in [Some(0), last].into_iter().flatten() {
            if let Some(byte) = filled.get_mut(at) {
                *byte = b'"';
            }
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::pending::Pending;
    use crate::model::id::IdKind;
    use std::collections::HashSet;

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
            ("\"1\",\"a\nb\"\n2,y\n", "\"rased\n \"\n2,y\n"),
            ("%31,encoded id\n", "erased        \n"),
            ("1,bad%zz\n2,bad%zz\n", "erased  \n2,bad%zz\n"),
            ("1.7,too,many,cells\n11,x\n", "erased            \n11,x\n"),
        ] {
            let (left, overwritten) = after(&format!("batch=pcId,a\n{rows}"), "1", 8);
            assert_eq!(left, expected, "{rows:?}");
            assert_eq!(overwritten, expected.matches("era").count() + expected.matches("\"rased").count());
        }
    }

    #[test]
    fn rows_of_a_later_life_stay() {
        assert_eq!(after("batch=pcId,a\n1,x\n", "1", 6), ("1,x\n".to_owned(), 0));
    }
}
