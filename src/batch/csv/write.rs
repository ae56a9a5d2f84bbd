//! Cells written so that [`Parser`](super::Parser) reads back what was meant, byte for byte.
//!
//! Promises: a cell is one piece without a comma, a quote or a control character, so each row is one line and can be cut
//! out without reading quotes; all other text stands as it is, readable in any editor. [`Cells::Defused`] moreover
//! leaves nothing that a spreadsheet would run as a formula.

use crate::model::id::IdKind;

/// How cells are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// Encoded only where the file's format asks for it.
    Plain,
    /// Moreover the first character is encoded where a spreadsheet would take the cell for a formula, and each
    /// semicolon, at which some split cells.
    Defused,
}

/// What a spreadsheet takes for the start of a formula: `=`, `+`, `-`, `@`, in full width too. (Tabs and carriage
/// returns, which count as well, are always encoded.)
const FORMULA_STARTS: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// Writes the header: what the rows are keyed by, and the attributes of the columns.
pub fn write_header<'n>(
    out: &mut Vec<u8>,
    key_kind: IdKind,
    names: impl IntoIterator<Item = &'n str>,
    cells: Cells,
) {
    out.extend_from_slice(b"batch=");
    out.extend_from_slice(key_kind.name().as_bytes());
    for name in names {
        out.push(b',');
        write_cell(out, name, cells);
    }
    out.push(b'\n');
}

/// Writes a cell, form-encoded; not the comma around it.
pub fn write_cell(out: &mut Vec<u8>, text: &str, cells: Cells) {
    let defused = cells == Cells::Defused;
    let last = text.len().saturating_sub(1);
    // How many bytes at the start are encoded whatever they are.
    let first =
        text.chars().next().filter(|c| defused && FORMULA_STARTS.contains(c)).map_or(0, char::len_utf8);
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        let encode = match byte {
            b'%' | b'+' | b',' | b'"' => true,
            // The parser drops raw spaces around a cell.
            b' ' => at == 0 || at == last,
            b';' => defused,
            byte => byte.is_ascii_control() || at < first,
        };
        if encode {
            out.extend_from_slice(text.as_bytes().get(written..at).unwrap_or_default());
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
            written = at + 1;
        }
    }
    out.extend_from_slice(text.as_bytes().get(written..).unwrap_or_default());
}

const fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'A' + value - 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::csv::Parser;
    use proptest::prelude::*;

    fn written(text: &str, cells: Cells) -> String {
        let mut out = vec![];
        write_cell(&mut out, text, cells);
        String::from_utf8(out).unwrap()
    }

    /// What the parser reads of a file with one row.
    fn read_back(id: &str, attributes: &[(String, String)], cells: Cells) -> (String, Vec<(String, String)>) {
        let mut file = vec![];
        write_header(&mut file, IdKind::ThirdParty, attributes.iter().map(|(name, _)| name.as_str()), cells);
        write_cell(&mut file, id, cells);
        for (_, value) in attributes {
            file.push(b',');
            write_cell(&mut file, value, cells);
        }
        file.push(b'\n');
        assert_eq!(file.iter().filter(|byte| **byte == b'\n').count(), 2, "each row is a line");
        let (mut parser, mut rows) = (Parser::default(), vec![]);
        let mut keep = |row: super::super::Row<'_>| {
            let cells = row.content.unwrap();
            let values: Vec<_> = cells.attributes().map(|(at, value)| (at, value.to_owned())).collect();
            rows.push((cells.id().to_owned(), values));
        };
        parser.push(&file, &mut keep).unwrap();
        let names = parser.finish(&mut keep).unwrap().names().to_vec();
        assert_eq!(rows.len(), 1);
        let (id, values) = rows.pop().unwrap();
        (id, values.into_iter().map(|(at, value)| (names[at].to_string(), value)).collect())
    }

    fn check(text: &str, plain: &str, defused: &str) {
        assert_eq!(written(text, Cells::Plain), plain, "{text:?}");
        assert_eq!(written(text, Cells::Defused), defused, "{text:?} defused");
        for cells in [Cells::Plain, Cells::Defused] {
            let attributes = [(text.to_owned(), text.to_owned())];
            assert_eq!(
                read_back("x", &attributes, cells),
                ("x".into(), attributes.to_vec()),
                "{text:?} {cells:?}"
            );
        }
    }

    #[test]
    fn cells_are_encoded_only_where_they_must_be() {
        check("Oslo", "Oslo", "Oslo");
        check("São Paulo 東京 🎿 ليلى", "São Paulo 東京 🎿 ليلى", "São Paulo 東京 🎿 ليلى");
        check("a,b", "a%2Cb", "a%2Cb");
        check("a \"b\"", "a %22b%22", "a %22b%22");
        check("a\r\nb\tc\0", "a%0D%0Ab%09c%00", "a%0D%0Ab%09c%00");
        check("100%", "100%25", "100%25");
        check("%41", "%2541", "%2541");
        check("1+1=2", "1%2B1=2", "1%2B1=2");
        check("  a b  ", "%20 a b %20", "%20 a b %20");
        check("a&b=c'd\\", "a&b=c'd\\", "a&b=c'd\\");
        check("\u{feff}x", "\u{feff}x", "\u{feff}x");
        check("a;=1", "a;=1", "a%3B=1");
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_defused_on_request_only() {
        check("=1+1", "=1%2B1", "%3D1%2B1");
        check("-1", "-1", "%2D1");
        check("@SUM(A1)", "@SUM(A1)", "%40SUM(A1)");
        check("+1", "%2B1", "%2B1");
        check("\t=1", "%09=1", "%09=1");
        check("\r=1", "%0D=1", "%0D=1");
        check("＝1", "＝1", "%EF%BC%9D1");
        check("a-b=c@d", "a-b=c@d", "a-b=c@d");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            id in "[^+/\\p{Cc}]{1,40}",
            name in "\\PC{1,20}|[ -~]{1,20}",
            value in proptest::collection::vec(prop_oneof![
                any::<char>(),
                proptest::sample::select(" ,\"%+=-@;\t\r\n\u{feff}\u{0}2B".chars().collect::<Vec<_>>()),
            ], 1..30),
            defused in any::<bool>(),
        ) {
            let reading = crate::model::batch::RowReading::default();
            prop_assume!(reading.check(IdKind::ThirdParty, &id) == Ok(id.as_str()));
            prop_assume!(crate::model::profile::attribute_name_fault(&name).is_none() && name != "other");
            let value: String = value.into_iter().collect();
            let cells = if defused { Cells::Defused } else { Cells::Plain };
            let attributes = [(name, value.clone()), ("other".to_owned(), "x".to_owned())];
            prop_assert_eq!(read_back(&id, &attributes, cells), (id, attributes.to_vec()));
            let first = written(&value, Cells::Defused).chars().next();
            prop_assert!(first.is_some_and(|c| !FORMULA_STARTS.contains(&c) && !"\t\r\n".contains(c)));
        }
    }
}
