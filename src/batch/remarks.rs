//! Remarks on a batch file: things in it that were perhaps not meant. They are a pair of stray quotes around rows, characters
//! that Adobe reads differently, ids that a spreadsheet rounded, ids with invisible characters, and blocked ids. The dry run,
//! `lint` and the batch's page show them.
//!
//! Promises: memory is bounded, whatever the file holds. Each kind keeps its count and its first [`LINES_LISTED_MAX`] lines,
//! and nothing of any value.

use memchr::memchr;

use super::csv::{Header, Reason, Row, TakenIn, bad_escape, is_rounded};
use crate::model::batch::RowForm;
use crate::model::id::is_invisible;

/// How many lines of each kind are listed. All are counted.
pub const LINES_LISTED_MAX: usize = 10;

/// The kinds of remarks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// A quoted value contains lines that could be rows.
    QuoteTakesIn,
    /// A `%` that does not begin an escape.
    RawPercent,
    /// A raw `&`.
    RawAmpersand,
    /// A raw `+`.
    RawPlus,
    /// A raw `=`.
    RawEquals,
    /// An id in scientific notation.
    RoundedId,
    /// An id with an invisible character.
    InvisibleInId,
    /// A blocked id: the text that an export writes if a visitor has no id.
    BlockedId,
}

/// The remarks of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarked {
    /// How many lines have it.
    pub count: u64,
    /// The first of these lines.
    pub lines: Vec<u32>,
    /// The lines within the first such quote.
    taken_in: Option<TakenIn>,
}

/// The remarks on a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remarks([Remarked; Remark::ALL.len()]);

impl Remark {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::QuoteTakesIn,
        Self::RawPercent,
        Self::RawAmpersand,
        Self::RawPlus,
        Self::RawEquals,
        Self::RoundedId,
        Self::InvisibleInId,
        Self::BlockedId,
    ];

    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QuoteTakesIn => "quote_takes_in_lines",
            Self::RawPercent => "raw_percent",
            Self::RawAmpersand => "raw_ampersand",
            Self::RawPlus => "raw_plus",
            Self::RawEquals => "raw_equals",
            Self::RoundedId => "rounded_id",
            Self::InvisibleInId => "invisible_in_id",
            Self::BlockedId => "blocked_id",
        }
    }
}

impl Remarks {
    /// Looks at the header's line as it was sent.
    pub fn look_at_header(&mut self, line: u32, sent: &[u8]) {
        // The first equals sign is right: it ends `batch=`.
        let equals = memchr(b'=', sent).map_or(0, |equals| equals + 1);
        self.look_at_bytes(line, sent, sent.get(equals..).unwrap_or_default());
    }

    /// Looks at a row.
    pub fn look_at(&mut self, header: &Header, row: &Row<'_>) {
        if header.reading().form() == RowForm::Csv {
            self.look_at_bytes(row.line, row.sent, row.sent);
            self.look_at_quotes(header, row);
        }
        match row.content {
            Ok(cells) => {
                if is_rounded(cells.id()) {
                    self.add(Remark::RoundedId, row.line);
                }
                if !cells.id().is_ascii() && cells.id().contains(is_invisible) {
                    self.add(Remark::InvisibleInId, row.line);
                }
            }
            // One cause may fail thousands of rows all over the file, so they are counted here.
            Err(error) if error.reason == Reason::BlockedId => {
                self.add(Remark::BlockedId, row.line);
            }
            // Any other failed row is reported with its reason.
            Err(_) => {}
        }
    }

    /// Looks only for lines within a quote of this row.
    pub fn look_at_quotes(&mut self, header: &Header, row: &Row<'_>) {
        if let Some(taken_in) = row.taken_in(header) {
            self.add(Remark::QuoteTakesIn, taken_in.line).taken_in.get_or_insert(taken_in);
        }
    }

    fn look_at_bytes(&mut self, line: u32, sent: &[u8], behind_key: &[u8]) {
        if bad_escape(sent).is_some() {
            self.add(Remark::RawPercent, line);
        }
        for (byte, bytes, remark) in [
            (b'&', sent, Remark::RawAmpersand),
            (b'+', sent, Remark::RawPlus),
            (b'=', behind_key, Remark::RawEquals),
        ] {
            if memchr(byte, bytes).is_some() {
                self.add(remark, line);
            }
        }
    }

    fn add(&mut self, remark: Remark, line: u32) -> &mut Remarked {
        let [quotes, percent, ampersand, plus, equals, rounded, invisible, blocked] = &mut self.0;
        let remarked = match remark {
            Remark::QuoteTakesIn => quotes,
            Remark::RawPercent => percent,
            Remark::RawAmpersand => ampersand,
            Remark::RawPlus => plus,
            Remark::RawEquals => equals,
            Remark::RoundedId => rounded,
            Remark::InvisibleInId => invisible,
            Remark::BlockedId => blocked,
        };
        remarked.count += 1;
        if remarked.lines.len() < LINES_LISTED_MAX {
            remarked.lines.push(line);
        }
        remarked
    }

    /// The kinds that the file has, each with its message.
    pub fn reported(&self) -> impl Iterator<Item = (Remark, &Remarked, String)> {
        let all = Remark::ALL.into_iter().zip(&self.0);
        all.filter(|(_, remarked)| remarked.count > 0).map(|(remark, remarked)| {
            let what = match remark {
                Remark::QuoteTakesIn => remarked.taken_in.map_or_else(String::new, |taken_in| {
                    let TakenIn { line, lines } = taken_in;
                    let (those, have, meant) = match lines {
                        1 => ("line".to_owned(), "has", "it is meant as a row"),
                        lines => (format!("{lines} lines"), "have", "they are meant as rows"),
                    };
                    format!(
                        "a quote on line {line} takes in the {those} after it, which {have} as many cells as the header: \
                         if {meant}, write the quote as %22"
                    )
                }),
                Remark::RawPercent => {
                    "a % that does not begin an escape: the row fails here, and Adobe refuses the whole batch; write %25"
                        .into()
                }
                Remark::RawAmpersand => {
                    "a raw & is read as & here, but Adobe cuts the batch off there, without an error; write %26".into()
                }
                Remark::RawPlus => "a raw + is read as a space; write %2B where a plus is meant".into(),
                Remark::RawEquals => {
                    "a raw = is read as = here, but Adobe may take it for the end of a name; write %3D".into()
                }
                Remark::RoundedId => {
                    "the id looks like a number that a spreadsheet has rounded, so that many visitors get the same id; \
                     export the ids as text"
                        .into()
                }
                Remark::InvisibleInId => {
                    "the id has an invisible character, such as a no-break or zero-width space: without it, it is the id \
                     of another visitor"
                        .into()
                }
                Remark::BlockedId => format!(
                    "on {} line{} the id is blocked (blocked_ids), because exports write it if a visitor has no id: these \
                     rows fail; leave them out, or give the visitors' ids",
                    remarked.count,
                    if remarked.count == 1 { "" } else { "s" }
                ),
            };
            (remark, remarked, what)
        })
    }
}

/// The lines of a kind after the first: `"; also on 3 further lines: 4, 9, 12"`. Empty if there is only one.
pub fn further_lines(remarked: &Remarked) -> String {
    let Some((_, further)) = remarked.lines.split_first().filter(|(_, further)| !further.is_empty()) else {
        return String::new();
    };
    let listed: Vec<String> = further.iter().map(u32::to_string).collect();
    let more = if remarked.count > remarked.lines.len() as u64 { ", …" } else { "" };
    let (count, s) = (remarked.count - 1, if remarked.count == 2 { "" } else { "s" });
    format!("; also on {count} further line{s}: {}{more}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::csv::Parser;

    /// Checks the remarks on a file: of each kind the count, the first lines, and words of the message.
    fn check(source: &str, file: &str, expected: &[(&str, u64, &[u32], &str)]) {
        for size in [file.len(), 1, 7] {
            let header = |parser: &Parser| parser.header().cloned().unwrap();
            let mut first = Parser::default();
            first.push(file.as_bytes(), |_| ()).unwrap();
            let (header, mut remarks) = (header(&first), Remarks::default());
            let (place, len) = first.header_place().unwrap();
            remarks.look_at_header(place.line, &file.as_bytes()[place.offset as usize..][..len as usize]);
            let (mut parser, mut each) = (Parser::default(), |row: Row<'_>| remarks.look_at(&header, &row));
            for piece in file.as_bytes().chunks(size) {
                parser.push(piece, &mut each).unwrap();
            }
            parser.finish(&mut each).unwrap();
            let reported: Vec<_> = remarks.reported().collect();
            let kinds: Vec<_> =
                reported.iter().map(|(kind, it, _)| (kind.name(), it.count, it.lines.as_slice())).collect();
            let wanted: Vec<_> =
                expected.iter().map(|(kind, count, lines, _)| (*kind, *count, *lines)).collect();
            assert_eq!(kinds, wanted, "{source}: {file:?} in pieces of {size}");
            for ((_, _, what), (.., words)) in reported.iter().zip(expected) {
                assert!(what.contains(words), "{words:?} in {what}");
            }
        }
    }

    #[test]
    fn lines_that_a_quote_takes_in_are_reported_if_they_could_be_rows() {
        let pair = "a pair of stray quotes, as in a list of sizes in inches";
        let rows = "batch=thirdPartyId,a,b\n1,x,y\n";
        check(
            pair,
            &format!("{rows}2,\"tall,y\n3,x,y\n4,x,y\n5,x\",y\n6,x,y\n"),
            &[(
                "quote_takes_in_lines",
                1,
                &[3],
                "a quote on line 3 takes in the 3 lines after it, which have as many cells as the header",
            )],
        );
        check(
            pair,
            &format!("{rows}2,x,\"y\r\n3,x,y\"\r\n"),
            &[("quote_takes_in_lines", 1, &[3], "a quote on line 3 takes in the line after it")],
        );
        check(
            "the same, padded by a spreadsheet",
            "batch=thirdPartyId,a,,\n2,\"x,,\n3,x\",,\n",
            &[("quote_takes_in_lines", 1, &[2], "a quote on line 2")],
        );
        let address = "an address of several lines, as a CRM exports it";
        check(address, &format!("{rows}2,\"1 High St\nLondon\",y\n3,x,y\n"), &[]);
        check(address, &format!("{rows}2,\"1 High St, Top\nLondon, N1, UK\nCare of Ann\",y\n"), &[]);
        check("a stray quote that fails its line takes in none", &format!("{rows}2,\"tall,y\n3,x,y\n"), &[]);
    }

    #[test]
    fn characters_that_adobe_reads_differently_are_reported() {
        const PAGE: &str = "AdobeDocs/target-dev.en profile-bulk-api.md, URL-encoding requirements (2026)";
        let row = |row: &str| format!("batch=thirdPartyId,a\n1,x\n{row}\n");
        check(PAGE, &row("2,50%25 off %26 more"), &[]);
        check(
            PAGE,
            &row("2,50% off & more"),
            &[
                ("raw_percent", 1, &[3], "Adobe refuses the whole batch"),
                ("raw_ampersand", 1, &[3], "Adobe cuts the batch off there"),
            ],
        );
        check(PAGE, &row("2,a+b"), &[("raw_plus", 1, &[3], "read as a space; write %2B")]);
        check(PAGE, &row("2,a=b"), &[("raw_equals", 1, &[3], "write %3D")]);
        check("in quotes it is raw, too", &row("2,\"a&b\""), &[("raw_ampersand", 1, &[3], "%26")]);
        check(
            "in a header",
            "batch=thirdPartyId,a+b,c&d=\n1,x\n",
            &[
                ("raw_ampersand", 1, &[1], "%26"),
                ("raw_plus", 1, &[1], "%2B"),
                ("raw_equals", 1, &[1], "%3D"),
            ],
        );
        let many = format!("batch=thirdPartyId,a\n{}", "1,a+b\n".repeat(40));
        let first: Vec<u32> = (2..12).collect();
        check("of many the first lines and the number", &many, &[("raw_plus", 40, &first, "%2B")]);
        let mut remarked = Remarked { count: 40, lines: first, taken_in: None };
        assert_eq!(further_lines(&remarked), "; also on 39 further lines: 3, 4, 5, 6, 7, 8, 9, 10, 11, …");
        remarked = Remarked { count: 2, lines: vec![3, 9], taken_in: None };
        assert_eq!(further_lines(&remarked), "; also on 1 further line: 9");
        remarked = Remarked { count: 1, lines: vec![3], taken_in: None };
        assert_eq!(further_lines(&remarked), "");
    }

    #[test]
    fn ids_that_a_spreadsheet_has_rounded_are_reported() {
        for id in ["1.36732E+12", "1.36732E%2B12", "1E+12", "1.36732e12", "9,87E+15", "4.5E-7", "\"1.2E+3\""]
        {
            let file = format!("batch=thirdPartyId,a\n1,x\n{id},x\n").replace("9,87E+15", "\"9,87E+15\"");
            let raw = file.contains('+');
            let plus: &[(&str, u64, &[u32], &str)] = &[("raw_plus", 1, &[3], "")];
            let rounded: &[(&str, u64, &[u32], &str)] =
                &[("rounded_id", 1, &[3], "a number that a spreadsheet has rounded")];
            // An encoded plus is not allowed in a thirdPartyId: the row fails, and its reason says why.
            let fails = id.contains("%2B");
            let expected = [if raw { plus } else { &[] }, if fails { &[] } else { rounded }].concat();
            check("Excel's General format, 12 digits and more", &file, &expected);
        }
        for id in ["1", "e5", "12E4", "1.5", "1E", "1.E5", "1E1234", "deadbeef", "1E4F", "3e-a"] {
            assert!(!is_rounded(id), "{id}");
        }
    }

    #[test]
    fn ids_with_invisible_characters_and_blocked_ids_are_reported() {
        let row = |row: &str| format!("batch=thirdPartyId,a\n1,x\n{row}\n");
        let inside: &[(&str, u64, &[u32], &str)] = &[("invisible_in_id", 1, &[3], "an invisible character")];
        check("a name copied from a page", &row("a\u{a0}b,x"), inside);
        check("a zero-width space where a line was broken", &row("12\u{200b}3,x"), inside);
        check("the same, encoded", &row("12%E2%80%8B3,x"), inside);
        check("around it is dropped", &row("\u{feff}123\u{a0},x"), &[]);
        check("in a value it may be meant", &row("123,a\u{a0}b"), &[]);
        check("letters of other scripts", &row("né名,x"), &[]);
        let blocked: &[(&str, u64, &[u32], &str)] =
            &[("blocked_id", 2, &[3, 4], "on 2 lines the id is blocked (blocked_ids)")];
        check("a CRM export, a spreadsheet's error", &row("NULL,x\n\"#N/A\",x"), blocked);
    }
}
