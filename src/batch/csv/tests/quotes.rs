//! What a quote may take in, and that a stray one costs no more than its own line.

use super::*;
use crate::batch::csv::cell::saturated;
use std::collections::BTreeMap;

const HEADER: &str = "batch=pcId,name,city\n";

/// Rows under [`HEADER`]; each names where it comes from.
fn check_rows(source: &str, rows: impl AsRef<[u8]>, expected: &[&str]) {
    let body = [HEADER.as_bytes(), rows.as_ref()].concat();
    assert_eq!(outcome_however_cut(&body), expected, "{source}");
}

fn open(line: u32, column: &str) -> String {
    format!("line {line}: column {column}: {OPEN}")
}

#[test]
fn a_stray_quote_fails_its_line_and_no_other() {
    let name = |line| open(line, "2 (name)");
    let after = |line| {
        format!(
            "line {line}: column 2 (name): text follows the closing quote: within quotes a quote is written twice"
        )
    };
    let stray = "issue: one stray quote swallows the file";
    check_rows(stray, "1,\"tall\n2,b,c\n3,d,e\n", &[&name(2), "3|2|name=b|city=c", "4|3|name=d|city=e"]);
    check_rows(stray, "1,\"tall\n2,b,c", &[&name(2), "3|2|name=b|city=c"]);
    check_rows(stray, "1,\"tall\n", &[&name(2)]);
    check_rows(stray, "1,\"", &[&name(2)]);
    check_rows(stray, "1,\"\"\"\n2,b", &[&name(2), "3|2|name=b"]);
    check_rows(stray, "1,\"tall\r\n\r\n2,b\r\n", &[&name(2), "4|2|name=b"]);
    check_rows("a stray quote as the first byte", "\"1,a\n2,b", &[&open(2, "1 (pcId)"), "3|2|name=b"]);
    check_rows("a stray quote in the last column", "1,a,\"b\n2,b", &[&open(2, "3 (city)"), "3|2|name=b"]);
    check_rows("beyond the header", "1,a,b,\"c\n2,b", &[&open(2, "4"), "3|2|name=b"]);
    check_rows(
        "inches (5\" pipe), as a shop's export has them",
        "1,5\" pipe\n2,b",
        &["2|1|name=5\" pipe", "3|2|name=b"],
    );
    check_rows(
        "inches at the end of one value, a stray quote in front of it",
        "1,\"tall\n2,5\"\n",
        &["2|1|name=tall\n2,5"],
    );
    check_rows(
        "two stray quotes, the second in the middle of a value",
        "1,\"tall\n2,5\" pipe\n3,x\n",
        &[&name(2), "3|2|name=5\" pipe", "4|3|name=x"],
    );
    check_rows("a quote a line", "1,\"a\n2,\"b\n3,\"c\n", &[&name(2), &name(3), &name(4)]);
    check_rows("text behind a closing quote", "1,\"a\"b\n2,c\n", &[&after(2), "3|2|name=c"]);
    check_rows(
        "and another quote behind it",
        "1,\"a\"b,\"c\n2,d\n3,e\"\n",
        &[&after(2), "3|2|name=d", "4|3|name=e\""],
    );
    check_rows(
        "a value of two lines, and a stray quote behind it: both lines are one row, which fails",
        "1,\"a\nb\",\"c\n2,d\n",
        &[&open(2, "3 (city)"), "4|2|name=d"],
    );
    check_rows(
        "a value of two lines, and text behind it",
        "1,\"a\n2,b\"c\n3,d\n",
        &[&name(2), "3|2|name=b\"c", "4|3|name=d"],
    );
    check_rows(
        "spaces behind the closing quote",
        "1,\"a\nb\"  ,c\n2,d",
        &["2|1|name=a\nb|city=c", "4|2|name=d"],
    );
    check_rows("a line of one quote", "\"\n2,d", &[&open(2, "1 (pcId)"), "3|2|name=d"]);
    check_rows("at the body's end, after a value of two lines", "1,\"a\nb\",\"", &[&open(2, "3 (city)")]);
    check_rows("the line behind it would be the row", "1,\"\n2,\"b\"", &[&name(2), "3|2|name=b"]);
    check_rows(
        "carriage returns behind a closing quote",
        "1,\"a\nb\"\r\rx\n2,c",
        &[
            &name(2),
            "line 3: column 1 (pcId): a carriage return stands alone: lines end in LF or CRLF, and in a value it is \
         quoted or written %0D",
            "4|2|name=c",
        ],
    );
}

#[test]
fn a_stray_quote_in_the_header_refuses_the_batch() {
    for header in
        ["batch=pcId,\"a\n1,x\n", "batch=pcId,\"a\n1,x\"y\n2,z\n", "batch=pcId,\"a", "batch=pcId,\"a\n"]
    {
        check(header, &[&format!("line 1: column 2: {OPEN}")]);
    }
    check("\n\"batch=pcId,a\n1,x\n", &[&format!("line 2: column 1: {OPEN}")]);
}

#[test]
fn a_quoted_value_takes_in_a_hundred_line_ends_and_64_kib_at_most() {
    for line_ends in [99, 100] {
        let value = "\n".repeat(line_ends);
        check_rows(
            "the most line ends",
            format!("1,\"{value}\"\n2,x"),
            &[&format!("2|1|name={value}"), &format!("{}|2|name=x", line_ends + 3)],
        );
    }
    let too_many = format!("1,\"{}\"\n2,x", "\n".repeat(101));
    check_rows("one more", &too_many, &[&open(2, "2 (name)"), &open(103, "1 (pcId)"), "104|2|name=x"]);
    let own_rows = format!("1,\"\n{}9,b\"\n2,x", "9,a\n".repeat(100));
    let mut expected = vec![open(2, "2 (name)")];
    expected.extend((3..103).map(|line| format!("{line}|9|name=a")));
    expected.extend(["103|9|name=b\"".into(), "104|2|name=x".into()]);
    check_rows("one more, of rows", &own_rows, &expected.iter().map(String::as_str).collect::<Vec<_>>());

    // Too long to go byte by byte eight times over.
    fn check(body: &str, expected: &[&str]) {
        let body = [HEADER, body].concat();
        for size in [body.len(), 1, 4_099, QUOTED_BYTES_MAX, QUOTED_BYTES_MAX + 24] {
            assert_eq!(
                outcome(body.as_bytes().chunks(size), body.as_bytes()),
                expected,
                "in pieces of {size}"
            );
        }
    }
    // With its two quotes and a line feed.
    let most = "x".repeat(QUOTED_BYTES_MAX - 3);
    let stray = open(2, "2 (name)");
    for (value, end) in [("\n{}", ""), ("{}\n", ""), ("\n{}", "\r")] {
        let value = value.replace("{}", &most[end.len()..]);
        check(&format!("1,\"{value}\"{end}\n2,x"), &[&format!("2|1|name={value}"), "4|2|name=x"]);
        check(&format!("1,\"{value}\"{end}"), &[&format!("2|1|name={value}")]);
    }
    let id = format!("line 3: \"{}…\" is not a pcId: it has more than 128 characters", "x".repeat(64));
    check(&format!("1,\"\nx{most}\"\n2,x"), &[&stray, &id, "4|2|name=x"]);
    check(&format!("1,\"\n{most}\" \n2,x"), &[&stray, &id, "4|2|name=x"]);
    check(&format!("1,\"\n{most}\"\"\n2,x"), &[&stray, &id, "4|2|name=x"]);
    check(&format!("1,\"{most}x\n\"\n2,x"), &[&stray, &open(3, "1 (pcId)"), "4|2|name=x"]);
    check(&format!("1,\"{most}xxx\n2,x"), &[&stray, "3|2|name=x"]);
    // A value of one line takes in no other: it may be as long as a row.
    check(&format!("1,\"{most}xxx\"\n2,x"), &[&format!("2|1|name={most}xxx"), "3|2|name=x"]);
    check(&format!("1,\"{most}xxx\"  ,y\n2,x"), &[&format!("2|1|name={most}xxx|city=y"), "3|2|name=x"]);
}

/// A file in which every line opens a quote, or seems to, takes no longer than one twice as long: each was once looked
/// at anew for all lines that it might take in.
#[test]
fn stray_quotes_cost_no_more_than_their_bytes() {
    for line in ["\"\n", "a,\"x\n", "a,\"\"\"x\n", "a,\"\n\n\n\n", "a,\"\"\"\n", "a,\" \"x\n", "a,\"x\r\n"] {
        let body = [HEADER, &line.repeat((1 << 20) / line.len())].concat();
        for size in [body.len(), 4_099] {
            let (mut parser, mut lines) = (Parser::default(), 0);
            for piece in body.as_bytes().chunks(size) {
                parser.push(piece, |_| lines += 1).unwrap();
                assert!(parser.ahead.capacity() <= 2 * QUOTED_BYTES_MAX, "{}", parser.ahead.capacity());
            }
            parser.finish(|_| lines += 1).unwrap();
            assert!(lines > 0);
        }
    }
}

/// What each line that begins a row comes to.
fn by_line(body: &[u8]) -> BTreeMap<u32, String> {
    let whole = outcome(std::iter::once(body), body);
    assert_eq!(whole, outcome(body.chunks(61), body));
    let line = |reported: &String| {
        let number = reported.strip_prefix("line ").unwrap_or(reported);
        number.split([':', '|']).next().unwrap().parse().unwrap()
    };
    whole.into_iter().map(|reported| (line(&reported), reported)).collect()
}

/// A file of rows without quotes: as many as a quote may take in, or more, or so long that it may not.
fn file_without_quotes() -> impl Strategy<Value = Vec<u8>> {
    let cell = prop::sample::select(&["", "a", " b ", "%41", "%zz", "c\r", "+", "1.2.3", "é"][..]);
    let row = prop::collection::vec(cell, 0..5).prop_map(|cells| cells.join(","));
    let rows = prop::collection::vec(row, 1..6);
    let long = prop::sample::select(&[0, 0, 0, 700][..]);
    (rows, prop_oneof![1..20_usize, 95..220_usize], long, any::<bool>()).prop_map(
        |(rows, count, long, ended)| {
            let mut body = String::from(HEADER);
            for (n, row) in rows.iter().cycle().take(count).enumerate() {
                body += &format!("{n}{},{row}{}", "x".repeat(n % 3), "y".repeat(long));
                body += if n % 7 == 0 { "\r\n" } else { "\n" };
            }
            if !ended {
                body.pop();
            }
            body.into_bytes()
        },
    )
}

/// Puts a quote over a byte that ends no line; says on which line.
fn with_quote(body: &mut [u8], at: prop::sample::Index) -> u32 {
    let places: Vec<usize> = (HEADER.len()..body.len()).filter(|at| body[*at] != b'\n').collect();
    let at = places[at.index(places.len())];
    body[at] = b'"';
    1 + saturated(body[..at].iter().filter(|byte| **byte == b'\n').count())
}

/// Puts it where a cell begins, which is where it opens.
fn with_opening_quote(body: &mut [u8], at: prop::sample::Index) -> u32 {
    let starts = |at: &usize| body[*at] != b'\n' && matches!(body[*at - 1], b'\n' | b',');
    let places: Vec<usize> = (HEADER.len()..body.len()).filter(starts).collect();
    let at = places[at.index(places.len())];
    body[at] = b'"';
    1 + saturated(body[..at].iter().filter(|byte| **byte == b'\n').count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_quote_changes_what_its_line_comes_to_and_nothing_else(
        mut body in file_without_quotes(), at in any::<prop::sample::Index>(), opens in any::<bool>(),
    ) {
        let mut before = by_line(&body);
        let line = if opens { with_opening_quote(&mut body, at) } else { with_quote(&mut body, at) };
        let mut after = by_line(&body);
        before.remove(&line);
        after.remove(&line);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn two_quotes_change_no_line_outside_them_nor_between_if_they_are_far_apart(
        mut body in file_without_quotes(), one in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(),
        opens in any::<bool>(),
    ) {
        let before = by_line(&body);
        let one = if opens { with_opening_quote(&mut body, one) } else { with_quote(&mut body, one) };
        let other = with_quote(&mut body, other);
        let (first, last) = (one.min(other), one.max(other));
        let theirs = |line: &u32| {
            if last - first > QUOTED_LINE_ENDS_MAX { [first, last].contains(line) } else { (first..=last).contains(line) }
        };
        let others = |mut lines: BTreeMap<u32, String>| {
            lines.retain(|line, _| !theirs(line));
            lines
        };
        prop_assert_eq!(others(before), others(by_line(&body)));
    }

    /// A reader that has only some of the bytes after a row's beginning reports the row as open if the others matter.
    #[test]
    fn a_row_that_is_not_open_is_what_it_is_whatever_follows(body in bytes(), more in bytes()) {
        let header = Header::from_parts(IdKind::Pc, vec!["a".into(), "b".into()], RowReading::default());
        let (mut some, mut all) = (RowReader::new(), RowReader::new());
        let whole = [body.as_slice(), &more].concat();
        let all = all.read(&header, &whole);
        let some = some.read(&header, &body);
        prop_assert!(some.open || (some.len, some.content) == (all.len, all.content));
    }
}
