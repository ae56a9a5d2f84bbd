//! Overwriting erased visitors' rows in kept uploads (R12), in place: every other row stays where it is, and so do all
//! line numbers. What is overwritten reads `erased`.

use crate::batch::csv::{Header, Parser};
use crate::batch::pending::Accepted;
use crate::model::id::Key;
use crate::model::seq::Seq;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FILLER: &[u8] = b"erased";
const READ_BYTES: usize = 1 << 20;

/// Overwrites the rows of a complete batch that are for visitors erased after it; durable when it returns. Rows of a
/// later life stay.
pub fn overwrite_rows(path: &Path, accepted: &Accepted, erased: &HashMap<Key, Seq>) -> io::Result<usize> {
    let gone = |id: &str| {
        let key = Key::new(&accepted.id.client, accepted.header.key_kind(), id);
        erased.get(&key).is_some_and(|at| *at > accepted.id.seq)
    };
    let file = File::options().read(true).write(true).open(path)?;
    let mut places = vec![];
    let mut each = |row: crate::batch::csv::Row<'_>| {
        let place = (u64::from(row.offset), row.len as usize);
        match &row.content {
            Ok(cells) if gone(cells.id()) => places.push(place),
            Ok(_) => {}
            // A failed row may be the visitor's all the same: its first cell tells.
            Err(_) => places.push(place),
        }
    };
    let mut parser = Parser::new();
    let mut bytes = vec![0; READ_BYTES];
    let mut at = 0;
    let unreadable = |error: crate::batch::csv::HeaderError| io::Error::other(error.to_string());
    loop {
        let read = file.read_at(&mut bytes, at)?;
        let Some(pushed) = bytes.get(..read).filter(|pushed| !pushed.is_empty()) else { break };
        parser.push(pushed, &mut each).map_err(unreadable)?;
        at += read as u64;
    }
    parser.finish(&mut each).map_err(unreadable)?;

    let mut overwritten = 0;
    for (offset, length) in places {
        let mut row = vec![0; length];
        file.read_exact_at(&mut row, offset)?;
        if names_one(&accepted.header, &row, &gone) {
            file.write_all_at(&filler(&row), offset)?;
            overwritten += 1;
        }
    }
    if overwritten > 0 {
        file.sync_all()?;
    }
    Ok(overwritten)
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
    use crate::model::id::{ClientCode, IdKind};

    /// What a file of pcId rows is once `gone` is erased.
    fn after(file: &str, gone: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let batch = Pending::of_text(folder.path(), "demo", 7, file);
        let path = folder.path().join("7");
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, gone);
        overwrite_rows(&path, &batch.accepted, &HashMap::from([(key, Seq::from_u64(8))])).unwrap();
        let left = std::fs::read_to_string(path).unwrap();
        assert_eq!(left.len(), file.len());
        left.split_once('\n').unwrap().1.to_owned()
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
            let left = after(&format!("batch=pcId,a\n{rows}"), "1");
            assert_eq!(left, expected, "{rows:?}");
        }
    }

    #[test]
    fn rows_of_a_later_life_stay() {
        let folder = tempfile::tempdir().unwrap();
        let batch = Pending::of_text(folder.path(), "demo", 7, "batch=pcId,a\n1,x\n");
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, "1");
        let path = folder.path().join("7");
        let erased = HashMap::from([(key, Seq::from_u64(6))]);
        assert_eq!(overwrite_rows(&path, &batch.accepted, &erased).unwrap(), 0);
    }
}
