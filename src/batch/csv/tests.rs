//! Every quirk that is accepted and every fault that is named is one line of a table here. Each case runs whole, byte
//! by byte and at random cuts, and each row that was found is read again at its offset.

use proptest::prelude::*;

use super::cell::{Splitter, cut, without_line_end};
use super::row::Emptied;
use super::scan::Scan;
use super::*;
use crate::model::batch::RowReading;
use crate::model::blocked::BlockedIds;
use crate::model::id::IdKind;
use memchr::memchr;

mod before;
mod ndjson;
mod quotes;

/// What is said of a quote that opens and is not closed as it should be.
const OPEN: &str = "no quote closes the one that opens here, at the end of a cell and within 100 line ends and 64 KiB: a quote \
                    that begins a value is written %22";

/// What a parser makes of the pieces of a body: a line of text a row, `line|id|name=value|…` or the error, then the
/// error that refuses it all.
fn outcome<'b>(pieces: impl Iterator<Item = &'b [u8]>, body: &[u8]) -> Vec<String> {
    outcome_read(&RowReading::default(), pieces, body)
}

/// The same of a batch whose rows are read so.
fn outcome_read<'b>(
    reading: &RowReading,
    pieces: impl Iterator<Item = &'b [u8]>,
    body: &[u8],
) -> Vec<String> {
    let mut parser = Parser::new(reading);
    let mut rows = Vec::new();
    let mut refused = None;
    let mut keep = |row: Row<'_>| {
        let content = row.content.map(|cells| {
            assert_eq!(cells.is_empty(), cells.attributes().next().is_none());
            (cells.id().to_owned(), cells.attributes().map(|(a, v)| (a, v.to_owned())).collect::<Vec<_>>())
        });
        assert_eq!(row.sent, &body[row.offset as usize..][..row.sent.len()]);
        assert!(row.sent.len() == row.len as usize || row.len as usize > ROW_BYTES_MAX);
        rows.push((row.line, row.offset as usize, row.len as usize, content));
    };
    for piece in pieces {
        if let Err(error) = parser.push(piece, &mut keep) {
            assert_eq!(parser.push(b"more", |_| panic!("a row after an error")), Err(error.clone()));
            refused = Some(error);
            break;
        }
    }
    if refused.is_none() {
        refused = parser.finish(&mut keep).err();
    }
    let Some(header) = parser.header() else {
        assert!(rows.is_empty());
        return vec![refused.unwrap().to_string()];
    };
    assert_eq!(
        &Header::from_parts(header.key_kind(), header.names().to_vec(), header.reading().clone()),
        header
    );
    let mut reader = RowReader::new();
    let mut end = 0;
    let mut shown = Vec::new();
    for (line, offset, len, content) in rows {
        assert!(offset >= end && body[end..offset].iter().all(|b| b" ,\t\r\n\x1a".contains(b)) || end == 0);
        end = offset + len;
        let row = &body[offset..end];
        let feeds = body[..offset].iter().filter(|b| **b == b'\n').count();
        assert_eq!(line as usize, feeds + 1);
        for bytes in [&body[offset..], row] {
            let again = reader.read(header, bytes);
            assert_eq!(again.len as usize, len);
            assert!(again.open || bytes.len() > len || bytes.ends_with(b"\n"));
            let values = |cells: Cells<'_>| {
                (cells.id().to_owned(), cells.attributes().map(|(a, v)| (a, v.to_owned())).collect())
            };
            assert_eq!(
                again.content.map(values),
                content,
                "read again: {:?}",
                row.escape_ascii().to_string()
            );
        }
        shown.push(match content {
            Err(error) => error.explain(header, line, &body[offset..]),
            Ok((id, values)) => {
                let values = values.iter().map(|(a, v)| format!("|{}={v}", header.names()[*a]));
                format!("{line}|{id}{}", values.collect::<String>())
            }
        });
    }
    shown.extend(refused.map(|error| error.to_string()));
    shown
}

fn cuts(body: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut rest = body;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (piece, after) = cut(rest, (seed >> 33) as usize % 9);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The outcome of a body, however it is cut.
fn outcome_however_cut(body: &[u8]) -> Vec<String> {
    let whole = outcome(std::iter::once(body), body);
    assert_eq!(whole, outcome(body.chunks(1), body), "byte by byte: {:?}", body.escape_ascii().to_string());
    for seed in 0..8 {
        assert_eq!(
            whole,
            outcome(cuts(body, seed).into_iter(), body),
            "seed {seed}: {:?}",
            body.escape_ascii().to_string()
        );
    }
    whole
}

fn check(body: impl AsRef<[u8]>, expected: &[&str]) {
    let body = body.as_ref();
    assert_eq!(outcome_however_cut(body), expected, "{:?}", body.escape_ascii().to_string());
}

/// A row under the header `batch=pcId,name,city`, which is line 1.
fn check_row(row: impl AsRef<[u8]>, expected: &str) {
    check([b"batch=pcId,name,city\n", row.as_ref()].concat(), &[expected]);
}

fn check_header(header: impl AsRef<[u8]>, expected: &str) {
    check([header.as_ref(), b"\n1,x"].concat(), &[expected]);
}

#[test]
fn rows_are_taken_as_clients_write_them() {
    check_row("1,Ann,Paris\n", "2|1|name=Ann|city=Paris");
    check_row("1,Ann,Paris", "2|1|name=Ann|city=Paris");
    check_row("1,Ann,Paris\r\n", "2|1|name=Ann|city=Paris");
    check_row("1,Ann,Paris\r", "2|1|name=Ann|city=Paris");
    check_row("1,Ann,Paris\r\r\n", "2|1|name=Ann|city=Paris");
    // Empty values are ignored, and a short row is as one with empty values.
    check_row("1,,Paris\n", "2|1|city=Paris");
    check_row("1,Ann,\n", "2|1|name=Ann");
    check_row("1,Ann\n", "2|1|name=Ann");
    check_row("1,,\n", "2|1");
    check_row("1\n", "2|1");
    check_row("1,\"\", \n", "2|1");
    check_row("1,Ann,Paris,,\n", "2|1|name=Ann|city=Paris");
    check_row("1,Ann,Paris,  ,\"\"\r\n", "2|1|name=Ann|city=Paris");
    check_row("1,,,,,,,\n", "2|1");
    // Spaces around a cell are dropped before it is decoded, those within quotes or escaped stay.
    check_row("  1 , Ann  Lee ,  Paris  \r\n", "2|1|name=Ann  Lee|city=Paris");
    check_row("1,%20Ann,+Paris+\n", "2|1|name= Ann|city= Paris ");
    check_row("1,%20,+\n", "2|1|name= |city= ");
    check_row("1,\" Ann \",\" \"\n", "2|1|name= Ann |city= ");
    check_row(" \"1\"  ,  \"Ann\"  ,  \"Paris \" \r\n", "2|1|name=Ann|city=Paris ");
    check_row("1,\tAnn\t,x\n", "2|1|name=\tAnn\t|city=x");
    // RFC 4180 quotes.
    check_row("\"1\",\"Ann\",\"Paris\"\n", "2|1|name=Ann|city=Paris");
    check_row("1,\"Lee, Ann\",\"a\nb\"\n", "2|1|name=Lee, Ann|city=a\nb");
    check_row("1,\"a\r\nb\",\"\r\"\r\n", "2|1|name=a\r\nb|city=\r");
    check_row("1,\"a \"\"b\"\" c\",\"\"\"\"\n", "2|1|name=a \"b\" c|city=\"");
    check_row("1,\"\"\"\"\"\", \" \"\" \" \n", "2|1|name=\"\"|city= \" ");
    check_row("1,\"a,\",\",\"", "2|1|name=a,|city=,");
    check_row("1,5\" pipe,a\"b\"\n", "2|1|name=5\" pipe|city=a\"b\"");
    check_row("1,+\"a,b\n", "2|1|name= \"a|city=b");
    check_row("1,\"\u{feff}\",\u{feff}\"x\"\n", "2|1|name=\u{feff}|city=\u{feff}\"x\"");
    // Form-decoding, once, after splitting, in quotes too.
    check_row("1,Ann+Lee,Saint%2DMalo\n", "2|1|name=Ann Lee|city=Saint-Malo");
    check_row("1,a%2Cb,a%0Ab%0D%22\n", "2|1|name=a,b|city=a\nb\r\"");
    check_row("1,%2541,%252B\n", "2|1|name=%41|city=%2B");
    check_row("1,\"a+b%2C\",\"%22\"\n", "2|1|name=a b,|city=\"");
    check_row("1,%c3%A9,%F0%9F%98%80\n", "2|1|name=é|city=😀");
    check_row("1,é,東京😀\n", "2|1|name=é|city=東京😀");
    check_row(b"1,%C3\xa9,\xc3%A9\n", "2|1|name=é|city=é");
    check_row("1,a&b=c,\0\n", "2|1|name=a&b=c|city=\0");
    // Ids.
    check_row("1638-99.28_0,Ann\n", "2|1638-99|name=Ann");
    check_row("1638%2D99%2E28_0,Ann\n", "2|1638-99|name=Ann");
    check_row("\"a,b\",Ann\n", "2|a,b|name=Ann");
    check_row("a%2Cb,Ann%2B\n", "2|a,b|name=Ann+");
    check_row("+1,Ann\n", "2| 1|name=Ann");
    check_row("é,Ann\n", "2|é|name=Ann");
}

#[test]
fn faulty_rows_fail_with_what_is_wrong_and_where() {
    check_row(",Ann\n", "line 2: \"\" is not a pcId: it is empty");
    check_row(",,x\n", "line 2: \"\" is not a pcId: it is empty");
    check_row("\"\"\n", "line 2: \"\" is not a pcId: it is empty");
    check_row(".28_0,Ann\n", "line 2: \".28_0\" is not a pcId: it is empty");
    check_row(
        "a.b.c,,\n",
        "line 2: \"a.b.c\" is not a pcId: a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"",
    );
    check_row("a%09b,Ann\n", "line 2: \"a\\tb\" is not a pcId: '\\t' is not allowed");
    check_row("\t\n", "line 2: \"\\t\" is not a pcId: '\\t' is not allowed");
    check_row(
        "x".repeat(129),
        &format!("line 2: \"{}…\" is not a pcId: it has more than 128 characters", "x".repeat(64)),
    );
    check_row(
        "%zz,x\n",
        "line 2: column 1 (pcId): \"%zz\" is not a valid escape: a percent sign is written %25",
    );
    check_row(
        "1,50%,x\n",
        "line 2: column 2 (name): \"%\" is not a valid escape: a percent sign is written %25",
    );
    check_row(
        "1,%41%4,x\n",
        "line 2: column 2 (name): \"%4\" is not a valid escape: a percent sign is written %25",
    );
    check_row(
        "1,x,\"a%zz\"\n",
        "line 2: column 3 (city): \"%zz\" is not a valid escape: a percent sign is written %25",
    );
    check_row(
        "1,%é,x\n",
        "line 2: column 2 (name): \"%é\" is not a valid escape: a percent sign is written %25",
    );
    check_row(b"1,x,caf\xe9\n", "line 2: column 3 (city): \"caf\\xe9\" is not UTF-8");
    check_row("1,caf%e9+x,y\n", "line 2: column 2 (name): \"caf\\xe9 x\" is not UTF-8");
    check_row("1,%C3,%A9\n", "line 2: column 2 (name): \"\\xc3\" is not UTF-8");
    check_row(b"1,\xc3,\xa9\n", "line 2: column 2 (name): \"\\xc3\" is not UTF-8");
    check_row(b"\xff,x\n", "line 2: column 1 (pcId): \"\\xff\" is not UTF-8");
    let extra = "a value stands in a column that has no name (the header names 3): a comma in a value is quoted or \
                 written %2C";
    check_row("1,a,b,c\n", &format!("line 2: column 4: {extra}"));
    check_row("1,a,b,,\"c\"\n", &format!("line 2: column 5: {extra}"));
    check_row("1,a,b,+\n", &format!("line 2: column 4: {extra}"));
    check_row("1,a,b,%zz\n", &format!("line 2: column 4: {extra}"));
    check_row(
        [b"1,a,b".to_vec(), vec![b','; 70_000], b"c".to_vec()].concat(),
        &format!("line 2: column 65536: {extra}"),
    );
    let after = "text follows the closing quote: within quotes a quote is written twice";
    check_row("1,\"a\"b,c\n", &format!("line 2: column 2 (name): {after}"));
    check_row("1,x,\"a\" \"b\"\n", &format!("line 2: column 3 (city): {after}"));
    check_row("1,\"a\"b\",c\n", &format!("line 2: column 2 (name): {after}"));
    check_row("1,\"a\"\"\" \"\"\n", &format!("line 2: column 2 (name): {after}"));
    check_row("1,\"a\"\r,b\n", &format!("line 2: column 2 (name): {after}"));
    let open = OPEN;
    check_row("1,\"a\n", &format!("line 2: column 2 (name): {open}"));
    check_row("1,a, \"", &format!("line 2: column 3 (city): {open}"));
    check_row("1,a,\"b\"\"\n", &format!("line 2: column 3 (city): {open}"));
    check_row("%zz,a,\"b", &format!("line 2: column 3 (city): {open}"));
    check_row("1,a,b,\"c", &format!("line 2: column 4: {open}"));
    let bare =
        "a carriage return stands alone: lines end in LF or CRLF, and in a value it is quoted or written %0D";
    check_row("1,a\rb,c\r\n", &format!("line 2: column 2 (name): {bare}"));
    check_row("1,a,b\r2,c,d", &format!("line 2: column 3 (city): {bare}"));
    // The first fault from the left is reported.
    check_row(
        "1,%,%zz,x\n",
        "line 2: column 2 (name): \"%\" is not a valid escape: a percent sign is written %25",
    );
    check_row(
        "a.b.c,%,x,y\n",
        "line 2: \"a.b.c\" is not a pcId: a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"",
    );
    check_row(b"1,\xff,%\n", "line 2: column 2 (name): \"\\xff\" is not UTF-8");
}

#[test]
fn third_party_ids_have_their_own_rules() {
    for key in ["thirdPartyId", "mbox3rdPartyId", "mboxThirdPartyId"] {
        let body = |row: &str| format!("batch={key},a\n{row}\n");
        check(body("a.b.c@example.com,1"), &["2|a.b.c@example.com|a=1"]);
        check(body("a%2Bb,1"), &["line 2: \"a+b\" is not a thirdPartyId: '+' is not allowed"]);
        check(body("a+b,1"), &["2|a b|a=1"]);
        check(
            body("1.36732E%2B12,1"),
            &[
                "line 2: \"1.36732E+12\" is not a thirdPartyId: '+' is not allowed; it looks like a number that a \
               spreadsheet has rounded: export the ids as text",
            ],
        );
        check(body("a/b,"), &["line 2: \"a/b\" is not a thirdPartyId: '/' is not allowed"]);
    }
}

#[test]
fn lines_are_counted_as_an_editor_counts_them() {
    check("batch=pcId,a\n1,x\n2,y\n3,z", &["2|1|a=x", "3|2|a=y", "4|3|a=z"]);
    check("batch=pcId,a\r\n1,x\r\n2,y\r\n", &["2|1|a=x", "3|2|a=y"]);
    check("\n  \r\nbatch=pcId,a\n\n1,x\n   \n\r\n2,y\n\n  ", &["5|1|a=x", "8|2|a=y"]);
    check("batch=pcId,a\n1,\"x\n\ny\"\n2,z\n", &["2|1|a=x\n\ny", "5|2|a=z"]);
    check("batch=pcId,\"a\nb\"\n1,x\n", &["3|1|a\nb=x"]);
    check(
        "batch=pcId,a\n1,x\n.,y\n2,\"\n\"z\n3,w",
        &[
            "2|1|a=x",
            "line 3: \".\" is not a pcId: a dot is allowed only before a location hint, digits or digits_digits as in \".28_0\"",
            &format!("line 4: column 2 (a): {OPEN}"),
            &format!("line 5: column 1 (pcId): {OPEN}"),
            "6|3|a=w",
        ],
    );
}

#[test]
fn headers_are_taken_as_clients_write_them() {
    for key in ["pcId", "tntId", "mboxPC", "thirdPartyId", "mbox3rdPartyId", "mboxThirdPartyId"] {
        check_header(format!("batch={key},a"), "2|1|a=x");
    }
    check_header("\u{feff}batch=pcId,a", "2|1|a=x");
    check_header("\u{feff}\"batch=pcId\",\"a\"\r", "2|1|a=x");
    check_header("\u{feff}\nbatch=pcId,a", "3|1|a=x");
    check_header("  batch=pcId , a ,b", "2|1|a=x");
    check_header("batch=pcId, \"a,\"\"b\" ,c", "2|1|a,\"b=x");
    check_header("batch=pcId,a+b,a%2Bb", "2|1|a b=x");
    check_header("batch=pcId,%C3%A9%2C😀", "2|1|é,😀=x");
    check_header("batch=pcId,Profile.a,profile", "2|1|Profile.a=x");
    check_header(format!("batch=pcId,{}", "é".repeat(128)), &format!("2|1|{}=x", "é".repeat(128)));
}

#[test]
fn a_faulty_header_refuses_the_batch() {
    let start = |found: &str| {
        format!(
            "line 1: the first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\", not with {found}"
        )
    };
    check_header("pcId,a", &start("\"pcId\""));
    check_header("Batch=pcId,a", &start("\"Batch=pcId\""));
    check_header(" , a", &start("\"\""));
    check_header("1,a\r", &start("\"1\""));
    check_header("\u{feff}\u{feff}batch=pcId,a", &start("\"\\u{feff}batch=pcId\""));
    check("\u{feff}\n\nx", &[&start("\"x\"").replace("line 1", "line 3")]);
    for ecid in ["marketingCloudVisitorId", "mboxMCGVID", "ecid", "ECID"] {
        let refusal = "line 1: an ECID (marketingCloudVisitorId) cannot be the key of a batch: use pcId or thirdPartyId";
        check_header(format!("batch={ecid},a"), refusal);
    }
    for key in ["pcid", "PCID", "thirdpartyid", "mbox3rdpartyid", "", " pcId", "email", "pcId:a"] {
        let refusal = format!(
            "line 1: \"{key}\" cannot be the key of a batch: use pcId (or tntId, mboxPC) or thirdPartyId (or \
             mbox3rdPartyId, mboxThirdPartyId), upper and lower case as here, then a comma"
        );
        check_header(format!("batch={key},a"), &refusal);
    }
    let none =
        "line 1: the header names no attribute: the key must be followed by a comma and at least one name";
    check_header("batch=pcId", none);
    check_header("batch=pcId,", none);
    check_header("batch=pcId,,,\"\", ,", none);
    let nameless = "the attribute has no name, and others follow";
    check_header("batch=pcId,a,,b", &format!("line 1: column 3: {nameless}"));
    check_header("batch=pcId,a,\"\",b", &format!("line 1: column 3: {nameless}"));
    check_header("batch=pcId,,,a,,", &format!("line 1: column 2: {nameless}"));
    check_header("batch=pcId,+%20", "line 1: column 2: the attribute's name is blank");
    check_header("batch=pcId,\"  \"", "line 1: column 2: the attribute's name is blank");
    check_header("batch=pcId,a,b,a", "line 1: column 4: the attribute \"a\" is already in column 2");
    check_header("batch=pcId,a+b,a%20b", "line 1: column 3: the attribute \"a b\" is already in column 2");
    check_header(
        format!("batch=pcId,{}", "é".repeat(129)),
        &format!(
            "line 1: column 2: the attribute's name \"{}…\" has more than 128 characters",
            "é".repeat(64)
        ),
    );
    check_header(
        "batch=pcId,profile.a",
        "line 1: column 2: in a batch an attribute is named without the prefix \"profile.\", not \"profile.a\"",
    );
    check_header(
        "batch=pcId,%zz",
        "line 1: column 2: \"%zz\" is not a valid escape: a percent sign is written %25",
    );
    check_header(b"batch=pcId,a,\xe9", "line 1: column 3: \"\\xe9\" is not UTF-8");
    check_header(
        "batch=pcId,\"a\"b",
        "line 1: column 2: text follows the closing quote: within quotes a quote is written twice",
    );
    check_header("batch=pcId,\"a", &format!("line 1: column 2: {OPEN}"));
    check_header(
        "batch=pcId,a\r1,x\r2,y",
        "line 1: column 2: a carriage return stands alone: lines end in LF or CRLF, and in a value it is quoted or \
         written %0D",
    );
}

/// Each case names who sends such a body, or where that is written. `ACC` is a public worker that posts batches from Adobe
/// Campaign.
#[test]
fn what_is_sent_in_place_of_a_batch_file_is_named_with_the_way_out() {
    fn mistaken(source: &str, body: impl AsRef<[u8]>, what: Mistaken) {
        let body = body.as_ref();
        for size in [body.len(), 1, 3, 65_536] {
            let outcome = outcome(body.chunks(size), body);
            let expected = format!("line 1: {what}");
            assert_eq!(outcome, [expected], "{source}, in pieces of {size}");
        }
    }
    const CURL: &str = "curl -d @FILE, which takes line ends away";
    mistaken(CURL, "batch=thirdPartyId,a,bx,1,2y,3,4", Mistaken::OneLine);
    mistaken(CURL, "batch=thirdPartyId,a,bx,1,1y,1,1", Mistaken::OneLine);
    mistaken(CURL, "batch=pcId,a,b123,,1124,1,", Mistaken::OneLine);
    mistaken("a header alone, without a line end", "batch=pcId,a", Mistaken::OneLine);
    let sample = "batch=pcId, param1, param2, param3, param4 123, value1 124, value1,,, value4 125,,, value2";
    mistaken("AdobeDocs/target-dev.*, translated: the sample in one line", sample, Mistaken::OneLine);
    const SHEET: &str = "a spreadsheet in a language whose comma is in numbers";
    mistaken(SHEET, "batch=thirdPartyId;a;b\nx;1;2\n", Mistaken::Separator("semicolons"));
    mistaken(SHEET, "batch=pcId;a,5\nx;1\n", Mistaken::Separator("semicolons"));
    mistaken(SHEET, "sep=;\nbatch=thirdPartyId;a\nx;1\n", Mistaken::SeparatorLine);
    mistaken(SHEET, "SEP=,\r\nbatch=thirdPartyId,a\r\nx,1\r\n", Mistaken::SeparatorLine);
    mistaken(SHEET, "batch=sep=;\nthirdPartyId;a\nx;1\n", Mistaken::SeparatorLine);
    mistaken("cells copied out of a spreadsheet", "batch=pcId\ta\nx\t1\n", Mistaken::Separator("tabs"));
    mistaken("a database's export", "batch=pcId | a\nx | 1\n", Mistaken::Separator("vertical bars"));
    const UNICODE: &str = "Excel, saved as Unicode Text";
    mistaken(UNICODE, b"\xff\xfeb\0a\0t\0c\0h\0=\0\n\0", Mistaken::Utf16);
    mistaken(UNICODE, b"\xfe\xff\0b\0a\0t\0c\0h\0=\0\n", Mistaken::Utf16);
    mistaken("PowerShell's redirection, its mark taken away", b"b\0a\0t\0c\0h\0=\0\n\0", Mistaken::Utf16);
    mistaken("the same in the other order", b"\0b\0a\0t\0c\0h\0=\0\n", Mistaken::Utf16);
    mistaken("an xlsx file", b"PK\x03\x04\x14\0\x06\0\x08\0\"\xff\n\0", Mistaken::Zip);
    mistaken("an empty zip file", b"PK\x05\x06\0\0", Mistaken::Zip);
    mistaken("an xls file", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", Mistaken::OldExcel);
    mistaken(
        "a zip file without a line feed",
        [&b"PK\x03\x04"[..], &[b'x'; 2 << 20]].concat(),
        Mistaken::Zip,
    );
    const UNSAID: &str = "a compressed file without Content-Encoding";
    mistaken(UNSAID, b"\x1f\x8b\x08\0\"\n", Mistaken::Compressed("gzip"));
    mistaken(UNSAID, b"\x28\xb5\x2f\xfd\x24", Mistaken::Compressed("zstd"));
    mistaken(UNSAID, b"BZh91AY&SY", Mistaken::OtherwiseCompressed("bzip2"));
    mistaken("ACC's guide: \"raw JSON\"", "{\"batch\": \"pcId,a\\n1,2\"}", Mistaken::Json);
    mistaken("a list of profiles", "  [\n{\"pcId\": 1}]\n", Mistaken::Json);
    mistaken("an error page that a script saved", "<!DOCTYPE html>\n<html>", Mistaken::Markup);
    let multipart = "--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name=\"batch\"\r\n\r\n\
                     batch=pcId,a\r\n1,2\r\n";
    mistaken(
        "ACC's guide: \"multipart\"; curl -F under another content type",
        multipart,
        Mistaken::Multipart,
    );
    const BEHIND: &str = "Adobe: \"must be specified at the beginning of the file\"";
    mistaken(BEHIND, "client=demo&batch=pcId%2Ca%0A1%2C2", Mistaken::BatchBehind);
    mistaken(BEHIND, "client=demo&batch=pcId,a\n1,2\n", Mistaken::BatchBehind);
    let long = format!("client=demo&batch=pcId%2Ca{}", "%0A1%2C2".repeat(200_000));
    mistaken(BEHIND, long, Mistaken::BatchBehind);

    // What only looks like one of these is what it was.
    check("batch=pcId,{a;b\t|sep=}\n1,2\n", &["2|1|{a;b\t|sep=}=2"]);
    check("batch=pcId,a&batch=\n1,2\n", &["2|1|a&batch==2"]);
    let words = Mistaken::OneLine.to_string();
    assert!(words.contains("--data-binary"), "{words}");
}

/// As Excel and LibreOffice save a sheet whose used range is wider, or longer, than what is in it.
#[test]
fn columns_and_lines_that_a_spreadsheet_pads_with_hold_nothing() {
    let nameless = |line, column, named| {
        format!(
            "line {line}: column {column}: a value stands in a column that has no name (the header names {named}): a \
             comma in a value is quoted or written %2C"
        )
    };
    check("batch=pcId,a,,,\n123,v,,,\n", &["2|123|a=v"]);
    check("batch=pcId,a,,,\r\n123,v,,,\r\n,,,,\r\n", &["2|123|a=v"]);
    check("batch=pcId,a,\n123,v\n124,w,\n", &["2|123|a=v", "3|124|a=w"]);
    check("batch=pcId,a, ,\"\"\n123,v, ,\"\"\n", &["2|123|a=v"]);
    check("batch=pcId,a,,,\n123,v,,x,\n124,w\n", &[&nameless(2, 4, 2), "3|124|a=w"]);
    check("batch=pcId,a,,,\n123,v,,,x\n", &[&nameless(2, 5, 2)]);
    check("batch=pcId,a,,,\n123,v,,,,x\n", &[&nameless(2, 6, 2)]);
    check(",,,\nbatch=pcId,a,,\n,,,\n , ,\r\n123,v,,\n,", &["5|123|a=v"]);
    check(
        "batch=pcId,a\n,,,\n",
        &["the body has a header but no row: each line after the first must hold an id and its values"],
    );
    // What is there but empty is no blank line.
    check("batch=pcId,a\n\"\",,\n", &["line 2: \"\" is not a pcId: it is empty"]);
}

#[test]
fn a_body_needs_a_header_and_a_row() {
    let empty =
        "the body is empty: its first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\"";
    for body in ["", "\n", "  \r\n \n", "\u{feff}", "\u{feff}\n"] {
        check(body, &[empty]);
    }
    let no_row = "the body has a header but no row: each line after the first must hold an id and its values";
    for body in ["batch=pcId,a\n", "batch=pcId,a\r\n  \r\n\n"] {
        check(body, &[no_row]);
    }
    check(b"\xef\xbb", &["line 1: column 1: \"\\xef\\xbb\" is not UTF-8"]);
}

#[test]
fn rows_and_headers_have_a_longest_length() {
    // Too long to go byte by byte eight times over.
    fn check(body: &[u8], expected: &[&str]) {
        for size in [body.len(), 65_536, 4_099] {
            assert_eq!(outcome(body.chunks(size), body), expected, "in pieces of {size}");
        }
    }
    let header = b"batch=pcId,a\n";
    let fits = [header, &b"1,"[..], &vec![b'x'; ROW_BYTES_MAX - 3], b"\n2,y"].concat();
    let value = "x".repeat(ROW_BYTES_MAX - 3);
    check(&fits, &[&format!("2|1|a={value}"), "3|2|a=y"]);
    let long = "line 2: the row has more than 4194304 bytes";
    check(&[header, &b"1,"[..], &vec![b'x'; ROW_BYTES_MAX - 2], b"\n2,y"].concat(), &[long, "3|2|a=y"]);
    check(&[header, &b"1,"[..], &vec![b'x'; ROW_BYTES_MAX]].concat(), &[long]);
    check(&[header, &b"1,"[..], &vec![b','; 3 * ROW_BYTES_MAX], b"\n2,y"].concat(), &[long, "3|2|a=y"]);
    check(&[header, &vec![b' '; 2 * ROW_BYTES_MAX][..], b"\n2,y"].concat(), &[long, "3|2|a=y"]);
    // What a quote in it takes in does not matter.
    let open = format!("line 2: column 2 (a): {OPEN}");
    let half = vec![b'x'; ROW_BYTES_MAX / 2];
    check(&[&header[..], b"1,\"", &half, &half, b"\n2,y"].concat(), &[long, "3|2|a=y"]);
    check(&[&header[..], b"1,\"", &half, b"\n2,y"].concat(), &[&open, "3|2|a=y"]);
    check(&[&header[..], b"1,\"a\nb\",", &half, &half, b"\n2,y"].concat(), &[long, "4|2|a=y"]);
    let refused = HeaderError::TooLong { line: 1 }.to_string();
    let refused = refused.as_str();
    check(&[b"batch=pcId,", &vec![b'x'; HEADER_BYTES_MAX - 11][..], b"\n1,x"].concat(), &[refused]);
    check(&[b"batch=pcId,\"", &vec![b'x'; 2 * HEADER_BYTES_MAX][..]].concat(), &[refused]);
    check(&vec![b' '; HEADER_BYTES_MAX + 1], &[refused]);
    let names =
        |n: usize| (0..n).fold(String::from("batch=pcId"), |header, name| header + &format!(",{name}"));
    check(format!("{}\n1,x", names(ATTRIBUTES_MAX)).as_bytes(), &["2|1|0=x"]);
    check(
        format!("{}\n1,x", names(ATTRIBUTES_MAX + 1)).as_bytes(),
        &["line 1: the header names more than 65534 attributes"],
    );
}

#[test]
fn memory_stays_bounded_by_one_row() {
    let mut parser = Parser::default();
    parser.push(b"batch=pcId,a\n1,\"", |_| panic!()).unwrap();
    for _ in 0..40 {
        parser.push(&[b'x'; 1 << 20], |_| panic!()).unwrap();
    }
    assert!(parser.held.capacity() <= 2 * ROW_BYTES_MAX + 2, "{}", parser.held.capacity());
}

/// A row that is long in an awkward way must not take long, nor much room: each was once looked at anew for every cell.
#[test]
fn no_row_costs_more_than_its_length() {
    let half = ROW_BYTES_MAX / 2 - 10;
    for (cell, count, tail) in [
        (&b","[..], half, vec![b' '; half]),
        (b",\"\"", half / 3, vec![b' '; half]),
        (b",x", half, vec![]),
        (b",\"\"\"\"", half / 6, vec![b'x'; half]),
        (b"\"", 2 * half, vec![]),
        (b",%20", half / 2, vec![]),
    ] {
        let body = [b"batch=pcId,a\n1", &cell.repeat(count)[..], &tail, b"\n2,y\n"].concat();
        let mut parser = Parser::default();
        let mut rows = 0;
        for piece in body.chunks(16_384) {
            parser.push(piece, |_| rows += 1).unwrap();
        }
        assert_eq!(rows, 2);
        assert!(parser.reader.values.capacity() <= 8, "{}", parser.reader.values.capacity());
    }
}

#[test]
fn emptied_names_the_empty_cells_that_are_there() {
    fn check(row: &str, expected: &[usize]) {
        let header =
            Header::from_parts(IdKind::Pc, vec!["a".into(), "b".into(), "c".into()], RowReading::default());
        let mut reader = RowReader::new();
        let row = reader.read(&header, row.as_bytes());
        assert_eq!(row.content.unwrap().emptied().collect::<Vec<_>>(), expected);
    }
    for id in ["1", "\"1\"", "%31"] {
        check(&format!("{id},x,,\n"), &[1, 2]);
        check(&format!("{id}, ,\"\",x"), &[0, 1]);
        check(&format!("{id},,x,y"), &[0]);
        check(&format!("{id},x,y,z,,"), &[]);
        check(&format!("{id},,,,,"), &[0, 1, 2]);
        check(&format!("{id},"), &[0]);
        check(&format!("{id}\n"), &[]);
    }
}

#[test]
fn codes_and_names_of_reasons_are_stable_and_read_back() {
    for (n, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(reason.code()), n + 1);
        assert_eq!(Reason::from_code(reason.code()), Some(reason));
        assert!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count() == 1);
    }
    assert_eq!((Reason::from_code(0), Reason::from_code(19)), (None, None));
}

#[test]
fn ids_that_are_none_fail_their_rows() {
    let reported = |line, id: &str| {
        format!(
            "line {line}: \"{id}\" is no pcId but what stands where there is none (blocked_ids): leave the row out, or name the \
             visitor"
        )
    };
    for (source, sent, id) in [
        ("JavaScript, where a variable is not set", "undefined", "undefined"),
        ("SQL exports", "NULL", "NULL"),
        ("a spreadsheet's error, quoted as Excel does it", "\"#N/A\"", "#N/A"),
        ("the same, encoded", "%23N%2FA", "#N/A"),
        ("iOS's advertising id without consent", "00000000-0000", "00000000-0000"),
        ("Segment: ^[0-]*$", "0", "0"),
        ("with a location hint", "0.28_0", "0.28_0"),
        ("with spaces, and what nobody sees, around it", " \u{a0}None\u{200b} ", "None"),
    ] {
        let body = format!("batch=pcId,a\n{sent},x\n1,y\n");
        assert_eq!(outcome_however_cut(body.as_bytes()), [reported(2, id), "3|1|a=y".into()], "{source}");
    }
    let own = RowReading::now(BlockedIds::these(["Void", "\u{e4}"]));
    let body = "batch=pcId,a\nVOID,x\nÄ,x\nundefined,x\n0,x\n".as_bytes();
    let all = [reported(2, "VOID"), reported(3, "Ä"), "4|undefined|a=x".into(), "5|0|a=x".into()];
    for size in [body.len(), 1] {
        assert_eq!(outcome_read(&own, body.chunks(size), body), all, "a client's own");
    }
}

#[test]
fn what_nobody_sees_around_an_id_is_dropped_as_spaces_are() {
    for (source, id) in [
        ("a no-break space, copied from a page", "1\u{a0}"),
        ("zero-width spaces", "\u{200b}1\u{200b}"),
        ("the mark of a file that was joined to another", "\u{feff}1"),
        ("spaces beside it", " \u{a0} 1 \u{200d} "),
        ("in quotes", "\"\u{a0}1\""),
        ("encoded", "%C2%A01%E2%80%8B"),
        ("a soft hyphen, a word joiner", "\u{ad}1\u{2060}"),
    ] {
        let body = format!("batch=pcId,a\n{id},\u{a0}x\n");
        assert_eq!(outcome_however_cut(body.as_bytes()), ["2|1|a=\u{a0}x"], "{source}");
    }
    check_row("\u{200b}\u{a0},x\n", "line 2: \"\" is not a pcId: it is empty");
    check_row("1\u{200b}2,x\n", "2|1\u{200b}2|name=x");
}

#[test]
fn a_lone_ctrl_z_ends_a_file() {
    const DOS: &str = "COPY A+B of MS-DOS and Windows, dBASE and old AS/400 exports";
    for end in ["\x1a", "\x1a\n", "\x1a\r\n", "\x1a\r", "\x1a\r\n\r\n", "\x1a\n,,\n \n"] {
        let body = format!("batch=pcId,a\r\n1,x\r\n{end}");
        assert_eq!(outcome_however_cut(body.as_bytes()), ["2|1|a=x"], "{DOS}: {end:?}");
    }
    let row = "\"\\u{1a}\" is not a pcId: '\\u{1a}' is not allowed";
    check("batch=pcId,a\n1,x\n\x1a\n2,y\n", &["2|1|a=x", &format!("line 3: {row}"), "4|2|a=y"]);
    check(
        "batch=pcId,a\n\x1a\n\x1a\n1,x\n\x1a",
        &[&format!("line 2: {row}"), &format!("line 3: {row}"), "4|1|a=x"],
    );
    check("batch=pcId,a\n1,x\n\x1a,y\n", &["2|1|a=x", &format!("line 3: {row}")]);
    check(
        "batch=pcId,a\n\x1a",
        &["the body has a header but no row: each line after the first must hold an id and its values"],
    );
}

#[test]
fn errors_are_explained_without_the_row_too() {
    let header = Header::from_parts(IdKind::ThirdParty, vec!["city".into()], RowReading::default());
    for reason in Reason::ALL {
        for row in [&b""[..], b"erased", b"\xff\xff", b"\"", b"1,2,3,4"] {
            for column in [0, 1, 2, u16::MAX] {
                let text = RowError { reason, column }.explain(&header, 7, row);
                assert!(text.starts_with("line 7: ") && !text.contains('\n'), "{text}");
            }
        }
    }
    let explain = |reason, column| RowError { reason, column }.explain(&header, 7, b"xxxxxx");
    assert_eq!(
        explain(Reason::ForbiddenInId, 0),
        "line 7: the thirdPartyId is not right: it has a character that is not allowed"
    );
    assert_eq!(
        explain(Reason::BadEscape, 1),
        "line 7: column 2 (city): an escape is not valid: a percent sign is written %25"
    );
}

/// How one client or another writes a value into a cell.
fn written(value: &str, style: u8) -> String {
    let quotes = |text: String| format!("\"{}\"", text.replace('"', "\"\""));
    match style % 4 {
        0 => form_urlencoded::byte_serialize(value.as_bytes()).collect(),
        1 => value.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}")),
        2 => quotes(value.replace('%', "%25").replace('+', "%2B")),
        _ => format!(" {}  ", quotes(value.replace('%', "%25").replace('+', "%2b").replace(' ', "+"))),
    }
}

fn value() -> impl Strategy<Value = String> {
    let awkward = prop::sample::select(",\"\n\r%&+ =aé東😀\u{feff}\0".chars().collect::<Vec<_>>());
    prop_oneof![any::<String>(), prop::collection::vec(awkward, 0..12).prop_map(String::from_iter)]
}

/// Bytes that mean something to the parser, and a few that don't.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    const OFTEN: [&[u8]; 7] = [b",", b"\"", b"\n", b"\r\n", b" ", b"1", b"a"];
    const SELDOM: [&[u8]; 13] = [
        b"\r",
        b"%41",
        b"%zz",
        b"%",
        b"+",
        b".",
        b"\xc3\xa9",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\"\"",
        b"%C3",
        b"%A9",
        b"\0",
    ];
    const START: [&[u8]; 5] =
        [b"", b"batch=pcId,a,b,c\n", b"batch=pcId,a,b,c\n", b"\xef\xbb\xbfbatch=pcId,", b"\xef\xbb"];
    let piece = prop_oneof![4 => prop::sample::select(&OFTEN), 1 => prop::sample::select(&SELDOM)];
    (prop::sample::select(&START), prop::collection::vec(piece, 0..40))
        .prop_map(|(start, rest)| [start, &rest.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_change_nothing(body in bytes()) {
        outcome_however_cut(&body);
    }

    #[test]
    fn any_bytes_are_survived(start in prop_oneof![Just(""), Just("batch=pcId,a\n")], rest in any::<Vec<u8>>()) {
        outcome_however_cut(&[start.as_bytes(), &rest].concat());
    }

    /// The quick way through a row without quotes and escapes is a short cut: the slow way says the same.
    #[test]
    fn both_ways_through_a_row_agree(row in bytes()) {
        let header = Header::from_parts(IdKind::Pc, vec!["a".into(), "b".into()], RowReading::default());
        let row = without_line_end(cut(&row, memchr(b'\n', &row).unwrap_or(row.len())).0);
        let (mut quick, mut slow) = (RowReader::new(), RowReader::new());
        if let Some((id, text, reached)) = quick.plain(&header, row) {
            let (id_end, slow_reached) = slow.decoded(&header, row).unwrap();
            prop_assert_eq!((id, reached), (&slow.text[..id_end], slow_reached));
            let emptied = Emptied::Among(reached);
            let quick = Cells { id, text, values: &quick.values, emptied };
            let slow = Cells { id, text: &slow.text, values: &slow.values, emptied };
            prop_assert!(quick.attributes().eq(slow.attributes()));
        }
    }

    /// `csv-core` sees the same row ends and the same cells, where spaces and carriage returns play no part.
    #[test]
    fn rows_and_cells_are_those_of_csv_core(rest in bytes()) {
        let body: Vec<u8> = rest.into_iter().filter(|byte| !b" \r%+.\xef".contains(byte)).collect();
        let mut peer = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&body[..]);
        let mut scan = Scan::default();
        let mut splitter = Splitter::new();
        let mut left = &body[..];
        for row in peer.byte_records() {
            let row = row.unwrap();
            while let Some(after) = left.strip_prefix(b"\n") {
                left = after;
            }
            let (ours, after) = cut(left, scan.row_end(left).unwrap_or(left.len()));
            // It takes a quote that is bad for one that goes on to the body's end, or for text.
            if scan.finish() != ours.len() || scan.fault().is_some() {
                break;
            }
            scan = Scan::default();
            left = after;
            let mut rest = Some(without_line_end(ours));
            for theirs in row.iter() {
                let (cell, after) = splitter.cell(rest.unwrap());
                rest = after;
                if let Ok(cell) = cell {
                    prop_assert_eq!(cell, theirs);
                }
            }
            prop_assert_eq!(rest, None);
        }
    }

    #[test]
    fn what_a_client_encodes_comes_back_byte_for_byte(
        rows in prop::collection::vec(
            (value(), prop::collection::vec((value(), any::<u8>()), 0..4), any::<u8>(), any::<bool>()),
            1..6
        ),
    ) {
        let mut body = String::from("batch=thirdPartyId,a,b,c");
        let mut expected = Vec::new();
        for (id, values, style, crlf) in rows {
            if RowReading::default().check(IdKind::ThirdParty, &id) != Ok(id.as_str()) {
                continue;
            }
            body += if crlf { "\r\n" } else { "\n" };
            body += &written(&id, style);
            for (value, style) in &values {
                body = body + "," + &written(value, *style);
            }
            let values = values.into_iter().map(|(value, _)| value).enumerate();
            expected.push((id, values.filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>()));
        }
        for size in [body.len(), 1, 7] {
            let mut found = Vec::new();
            let mut keep = |row: Row<'_>| {
                let cells = row.content.unwrap();
                let values = cells.attributes().map(|(a, v)| (a, v.to_owned())).collect();
                found.push((cells.id().to_owned(), values));
            };
            let mut parser = Parser::default();
            for piece in body.as_bytes().chunks(size) {
                parser.push(piece, &mut keep).unwrap();
            }
            prop_assert_eq!(parser.finish(&mut keep).is_ok(), !expected.is_empty());
            prop_assert_eq!(&found, &expected);
        }
    }
}
