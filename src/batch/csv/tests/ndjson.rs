//! NDJSON: what a line comes to, however the body is cut, and once more at its offset.

use super::*;
use crate::model::batch::RowForm;

fn ndjson() -> RowReading {
    RowReading::of_form(RowForm::Ndjson, BlockedIds::default())
}

fn check(body: impl AsRef<[u8]>, expected: &[&str]) {
    let body = body.as_ref();
    let shown = body.escape_ascii().to_string();
    for size in [body.len().max(1), 1, 2, 7] {
        assert_eq!(outcome_read(&ndjson(), body.chunks(size), body), expected, "{shown} in pieces of {size}");
    }
    for seed in 0..4 {
        assert_eq!(outcome_read(&ndjson(), cuts(body, seed).into_iter(), body), expected, "{shown}, {seed}");
    }
}

/// A line under a header, which is line 1.
fn check_row(row: impl AsRef<[u8]>, expected: &str) {
    let header = b"{\"batch\":\"thirdPartyId\",\"attributes\":[\"a\",\"b\"]}\n";
    check([header, row.as_ref()].concat(), &[expected]);
}

fn check_header(first: &str, expected: &str) {
    check(format!("{first}\n{{\"thirdPartyId\":\"1\",\"a\":\"x\"}}\n"), &[expected]);
}

#[test]
fn the_first_line_is_a_row_and_names_what_later_lines_may_have() {
    check(
        "{\"thirdPartyId\":\"crm-1\",\"tier\":\"gold\",\"points\":12}\n{\"points\":7,\"thirdPartyId\":\"crm-2\"}",
        &["1|crm-1|tier=gold|points=12", "2|crm-2|points=7"],
    );
    check("{\"pcId\":\"7.28_0\",\"a\":\"x\"}\r\n\r\n  \n{\"pcId\":\"8\"}\r\n", &["1|7|a=x", "4|8"]);
    check("\u{feff}{\"mbox3rdPartyId\":\"1\",\"a\":1}\n", &["1|1|a=1"]);
    check("\n\n{\"tntId\":\"1\",\"a\":null}\n{\"pcId\":\"2\",\"a\":1}\n", &["3|1", "4|2|a=1"]);
    check("{\"batch\":\"pcId\",\"attributes\":[\"a\"]}\n{\"pcId\":\"1\",\"a\":\"x\"}\n", &["2|1|a=x"]);
    // What is wrong with the row is no reason to refuse the batch.
    check(
        "{\"pcId\":\"1\",\"a\":{\"b\":1}}\n{\"pcId\":\"2\",\"a\":\"x\"}\n",
        &[
            "line 1: \"a\" is an object or an array: a value is a text, a number, true, false or null",
            "2|2|a=x",
        ],
    );
}

#[test]
fn values_become_text_as_they_stand() {
    check_row(r#"{"thirdPartyId":"1","a":"x","b":"y"}"#, "2|1|a=x|b=y");
    check_row(r#"{"b":"y","thirdPartyId":"1","a":"x"}"#, "2|1|a=x|b=y");
    check_row(r#"{"thirdPartyId":"1","a":1.50,"b":-2e+3}"#, "2|1|a=1.50|b=-2e+3");
    check_row(
        r#"{"thirdPartyId":"1","a":12345678901234567890123,"b":true}"#,
        "2|1|a=12345678901234567890123|b=true",
    );
    check_row(r#"{"thirdPartyId":42,"a":false}"#, "2|42|a=false");
    check_row(r#"{"thirdPartyId":"1","a":null,"b":""}"#, "2|1");
    check_row(r#" { "thirdPartyId" : "1" , "a" : " x " } "#, "2|1|a= x ");
    check_row(r#"{"thirdPartyId":" 1 ","a":"x"}"#, "2| 1 |a=x");
    check_row(r#"{"thirdPartyId":"1","a":"+%41,\"&="}"#, "2|1|a=+%41,\"&=");
    check_row(
        r#"{"thirdPartyId":"\u0031","a":"\b\f\n\r\t\/\\\u00e4\ud83c\udfbf"}"#,
        "2|1|a=\u{8}\u{c}\n\r\t/\\ä🎿",
    );
    check_row("{\"thirdPartyId\":\"é名\",\"\\u0061\":\"東京\"}", "2|é名|a=東京");
}

#[test]
fn a_line_fails_by_its_first_fault_and_no_other_does() {
    let example = r#"each line is a whole one, such as {"thirdPartyId":"crm-1","tier":"gold"}"#;
    check_row(
        r#"{"thirdPartyId":"1","a":"x""#,
        &format!("line 2: it is not a JSON object (EOF while parsing an object, at byte 27): {example}"),
    );
    check_row(
        r#"{"thirdPartyId":"1","a":"x"}{"thirdPartyId":"2","a":"x"}"#,
        &format!("line 2: it is not a JSON object (trailing characters, at byte 29): {example}"),
    );
    check_row(
        "1,x",
        &format!(
            "line 2: it is not a JSON object (invalid type: integer `1`, expected an object, at byte 1): {example}"
        ),
    );
    check_row(
        r#"{"thirdPartyId":"1","a":[1]}"#,
        "line 2: \"a\" is an object or an array: a value is a text, a number, true, false or null",
    );
    check_row(
        r#"{"thirdPartyId":"1","c":1}"#,
        "line 2: \"c\" is not in the first line, which names the attributes of all lines: name it there, as null if that visitor has \
         none",
    );
    check_row(r#"{"a":"x"}"#, "line 2: it names no visitor: it needs \"thirdPartyId\"");
    check_row(
        r#"{"pcId":"1","a":"x"}"#,
        "line 2: \"pcId\" cannot stand here: the first line keys the rows of this batch by \"thirdPartyId\"",
    );
    check_row(
        r#"{"thirdPartyId":"1","mbox3rdPartyId":"2","a":"x"}"#,
        "line 2: \"mbox3rdPartyId\" names the visitor a second time",
    );
    check_row(r#"{"thirdPartyId":"1","a":"x","a":null}"#, "line 2: \"a\" stands twice");
    check_row(r#"{"thirdPartyId":"1","a":"x","b":"x","a":null}"#, "line 2: \"a\" stands twice");
    check_row(
        r#"{"thirdPartyId":"a+b","a":"x"}"#,
        "line 2: \"a+b\" is not a thirdPartyId: '+' is not allowed",
    );
    check_row(r#"{"thirdPartyId":null,"a":"x"}"#, "line 2: \"\" is not a thirdPartyId: it is empty");
    check_row(
        r#"{"thirdPartyId":"undefined","a":"x"}"#,
        "line 2: \"undefined\" is no thirdPartyId but what stands where there is none (blocked_ids): leave the row out, or name \
         the visitor",
    );
    check_row(
        r#"{"thirdPartyId":"1","a":"\ud83c"}"#,
        "line 2: \"a\" has half a character (a lone \\uD800 to \\uDFFF)",
    );
    check_row(b"{\"thirdPartyId\":\"1\",\"a\":\"\xff\"}", "line 2: it is not UTF-8");
    check_row(
        format!("{{\"thirdPartyId\":\"1\",\"a\":\"{}\"}}", "x".repeat(ROW_BYTES_MAX)),
        "line 2: the row has more than 4194304 bytes",
    );
}

#[test]
fn a_first_line_that_is_none_refuses_the_batch() {
    let example = r#"{"thirdPartyId":"crm-1","tier":"gold"}"#;
    check_header(
        "batch=thirdPartyId,a",
        "line 1: the body is a batch file in CSV: send it with Content-Type: text/csv",
    );
    check_header(
        "[{\"thirdPartyId\":\"1\",\"a\":1}]",
        "line 1: the body is a JSON array: NDJSON has an object a line, without brackets and commas around them; jq -c '.[]' \
         writes it so",
    );
    check_header(
        "{",
        &format!(
            "line 1: the first line is not a JSON object (EOF while parsing an object, at byte 1): each line is a whole one, such as \
             {example}"
        ),
    );
    check_header(
        "{\"a\":1}",
        &format!(
            "line 1: the first line names no visitor: it needs \"thirdPartyId\" or \"pcId\", as in {example}; or it is a header, \
             such as {{\"batch\":\"thirdPartyId\",\"attributes\":[\"tier\"]}}"
        ),
    );
    check_header(
        "{\"marketingCloudVisitorId\":\"1\",\"a\":1}",
        "line 1: an ECID (marketingCloudVisitorId) cannot be the key of a batch: use pcId or thirdPartyId",
    );
    check_header(
        "{\"pcId\":\"1\",\"thirdPartyId\":\"1\",\"a\":1}",
        "line 1: the first line has two ids of its visitor: the rows of a batch are keyed by one kind of id, and name it alone",
    );
    check_header(
        "{\"pcId\":\"1\"}",
        "line 1: the first line names no attribute: it must have each name that a line uses, null where there is no value",
    );
    check_header("{\"pcId\":\"1\",\"a\":1,\"a\":2}", "line 1: the attribute \"a\" stands twice");
    check_header(
        "{\"pcId\":\"1\",\"profile.a\":1}",
        "line 1: in a batch an attribute is named without the prefix \"profile.\", not \"profile.a\"",
    );
    check_header(
        "{\"batch\":\"email\",\"attributes\":[\"a\"]}",
        "line 1: \"email\" cannot be the key of a batch: use pcId or thirdPartyId",
    );
    check_header(
        "{\"batch\":\"pcId\",\"attributes\":\"a\"}",
        "line 1: the header is not right (invalid type: string \"a\", expected a sequence, at byte 32): it is such as \
         {\"batch\":\"thirdPartyId\",\"attributes\":[\"tier\"]}",
    );
    check_header("PK\u{3}\u{4}", &format!("line 1: {}", Mistaken::Zip));
    check(
        "",
        &[
            "line 1: the body is empty: each line is an object, such as {\"thirdPartyId\":\"crm-1\",\"tier\":\"gold\"}",
        ],
    );
    check(
        "{\"batch\":\"pcId\",\"attributes\":[\"a\"]}\n",
        &["the body has a header but no row: each line after the first must hold an id and its values"],
    );
}

#[test]
fn empty_values_are_those_that_are_there() {
    let reading = ndjson();
    let header = Header::from_parts(IdKind::Pc, vec!["a".into(), "b".into(), "c".into()], reading);
    let mut reader = RowReader::new();
    let mut emptied = |row: &str| -> Vec<usize> {
        reader.read(&header, row.as_bytes()).content.unwrap().emptied().collect()
    };
    assert_eq!(emptied(r#"{"pcId":"1","c":null,"a":""}"#), [0, 2]);
    assert_eq!(emptied(r#"{"pcId":"1","b":"x"}"#), [] as [usize; 0]);
    let mut sum = |row: &str| reader.read(&header, row.as_bytes()).content.unwrap().sum();
    let sums = [r#"{"pcId":"1","a":null}"#, r#"{"pcId":"1","b":null}"#, r#"{"pcId":"1"}"#].map(&mut sum);
    assert!(sums[0] != sums[1] && sums[1] != sums[2] && sums[0] != sums[2], "{sums:?}");
}

#[test]
fn a_written_header_reads_back() {
    let names: Vec<Box<str>> = vec!["a\"b".into(), "é".into()];
    let header = Header::from_parts(IdKind::ThirdParty, names, ndjson());
    let mut file = vec![];
    header.write(&mut file);
    file.extend_from_slice(b"{\"thirdPartyId\":\"1\"}\n");
    let mut parser = Parser::new(&ndjson());
    parser.push(&file, |_| ()).unwrap();
    assert_eq!(parser.finish(|_| ()).unwrap(), &header);
}

#[test]
fn a_row_may_have_many_members_and_nest_deeply() {
    let names: Vec<Box<str>> = (0..60_000).map(|n| format!("n{n}").into()).collect();
    let header = Header::from_parts(IdKind::Pc, names.clone(), ndjson());
    let members: String = names.iter().rev().map(|name| format!(",\"{name}\":1")).collect();
    let row = format!("{{\"pcId\":\"1\"{members}}}");
    let mut reader = RowReader::new();
    assert_eq!(reader.read(&header, row.as_bytes()).content.unwrap().attributes().count(), names.len());
    let twice = format!("{{\"pcId\":\"1\"{}}}", ",\"n0\":1".repeat(500_000));
    let wrong = reader.read(&header, twice.as_bytes()).content.unwrap_err();
    assert_eq!(wrong.reason, Reason::DuplicateName);
    assert!(reader.values.capacity() < 1 << 17, "{}", reader.values.capacity());
    assert_eq!(header.id_of(twice.as_bytes()).as_deref(), Some("1"));
    let many: String = (0..=ATTRIBUTES_MAX).map(|n| format!(",\"{n}\":1")).collect();
    check(format!("{{\"pcId\":\"1\"{many}}}\n"), &["line 1: the header names more than 65534 attributes"]);
    let deep = format!("{{\"pcId\":\"1\",\"n0\":{}", "[".repeat(1 << 20));
    let wrong = reader.read(&header, deep.as_bytes()).content.unwrap_err();
    assert_eq!(wrong.reason, Reason::BadJson);
    assert!(wrong.explain(&header, 2, deep.as_bytes()).contains("not a JSON object"));
}

proptest! {
    #[test]
    fn any_object_comes_back_as_it_was_sent(
        id in "[a-z0-9]{1,20}x",
        values in proptest::collection::vec(proptest::option::of(any::<String>()), 1..6),
        escaped in any::<bool>(),
    ) {
        let names: Vec<Box<str>> = (0..values.len()).map(|n| format!("n{n}").into()).collect();
        let header = Header::from_parts(IdKind::ThirdParty, names.clone(), ndjson());
        let mut object = serde_json::Map::new();
        object.insert("thirdPartyId".into(), id.clone().into());
        for (name, value) in names.iter().zip(&values) {
            object.insert(name.to_string(), value.clone().into());
        }
        let mut row = serde_json::to_string(&object).unwrap();
        if escaped {
            // As many programs write what is not ASCII.
            row = row
                .encode_utf16()
                .map(|unit| match u8::try_from(unit) {
                    Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                    _ => format!("\\u{unit:04x}"),
                })
                .collect();
        }
        let mut reader = RowReader::new();
        let cells = reader.read(&header, row.as_bytes()).content.unwrap();
        prop_assert_eq!(cells.id(), &id);
        let read: Vec<_> = cells.attributes().map(|(at, value)| (at, value.to_owned())).collect();
        let sent: Vec<_> = values
            .iter()
            .enumerate()
            .filter_map(|(at, value)| Some((at, value.clone().filter(|it| !it.is_empty())?)))
            .collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn any_bytes_are_survived(
        start in prop_oneof![Just(""), Just("{\"pcId\":\"1\",\"a\":1}\n"), Just("{\"pcId\":\"1\",\"a\":")],
        rest in any::<Vec<u8>>(),
    ) {
        let body = [start.as_bytes(), &rest].concat();
        let whole = |size: usize| outcome_read(&ndjson(), body.chunks(size), &body);
        prop_assert_eq!(whole(body.len().max(1)), whole(1));
    }
}
