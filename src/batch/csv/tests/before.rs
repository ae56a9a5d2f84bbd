//! Batches that were accepted before they said how their rows are read: these are what the program of then made of them.

use super::*;

/// Rows under `batch=pcId,name,city`, as they were read then.
fn check_before(source: &str, rows: &str, expected: &[&str]) {
    let body = format!("batch=pcId,name,city\n{rows}");
    for size in [body.len(), 1, 2, 5] {
        let pieces = body.as_bytes().chunks(size);
        let reported = outcome_read(&RowReading::before(), pieces, body.as_bytes());
        let words = |reported: &str| reported.split(": ").take(2).collect::<Vec<_>>().join(": ");
        let reported: Vec<String> = reported.iter().map(|reported| words(reported)).collect();
        assert_eq!(reported, expected, "{source}: {rows:?} in pieces of {size}");
    }
}

#[test]
fn quotes_took_in_all_up_to_the_next_one() {
    check_before("a stray one took in the file", "1,\"tall\n2,b,c\n3,d,e\n", &["line 2: column 2 (name)"]);
    check_before("two of them", "1,\"tall\n2,5\"\n3,x\n", &["2|1|name=tall\n2,5", "4|3|name=x"]);
    check_before("text behind a closing one", "1,\"a\"b\n2,c\n", &["line 2: column 2 (name)", "3|2|name=c"]);
    check_before(
        "text behind one that closes further down",
        "1,\"a\n2,b\"c\n3,d\n",
        &["line 2: column 2 (name)", "4|3|name=d"],
    );
    let many = "\n".repeat(300);
    let (row, behind) = (format!("2|1|name={many}"), "303|2|name=x");
    check_before("more line ends than are taken in now", &format!("1,\"{many}\"\n2,x"), &[&row, behind]);
    check_before("a quote doubled at the end", "1,\"a\"\"\n2,b", &["line 2: column 2 (name)"]);
    check_before("a row of too few bytes", "1,\"a\"", &["2|1|name=a"]);
}

#[test]
fn ids_and_lines_were_what_they_were() {
    check_before(
        "whatever followed a dot was cut off",
        "alice.smith,x\n1.36732E12,y\n",
        &["2|alice|name=x", "3|1|name=y"],
    );
    check_before("but for a second one", "a.b.c,x\n", &["line 2: \"a.b.c\" is not a pcId"]);
    check_before("nothing was blocked", "undefined,x\n0,y\n", &["2|undefined|name=x", "3|0|name=y"]);
    check_before("nothing but spaces was dropped", " \u{a0}1,x\n", &["2|\u{a0}1|name=x"]);
    check_before("commas were a row", ",,\n1,x\n", &["line 2: \"\" is not a pcId", "3|1|name=x"]);
    check_before("so was a Ctrl-Z", "1,x\n\x1a", &["2|1|name=x", "line 3: \"\\u{1a}\" is not a pcId"]);
}
