//! Attacks: requests that two readers could understand differently, heads and bodies without end, and strings that break software,
//! in every place where a client may put one. Each attack on a connection gets at most one answer, and the connection is closed.
//! The daemon goes on serving other clients.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::support::seed::{runner, with_each_seed};
use crate::support::{self, Daemon, encoded, request, wait_for};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const V2: &str = "/m2/demo/v2/profile/batchUpdate";
/// A hidden request that an attacker would like the daemon to answer.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
/// How long an attack may keep its connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes on a new connection and reads to its end. Returns the status of each answer.
fn answers(daemon: &Daemon, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(daemon.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The daemon may refuse, and close, before all is sent.
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_vec();
    let sending = std::thread::spawn(move || {
        if writer.write_all(&bytes).is_ok() {
            writer.shutdown(Shutdown::Write).unwrap_or_default();
        }
    });
    let mut all = vec![];
    let begun = Instant::now();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => all.extend(piece.iter().take(read)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stays open: {error}"),
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    sending.join().unwrap();
    // Each answer is read by its length, because a body may quote the hidden request.
    let (mut rest, mut statuses) = (all.as_slice(), vec![]);
    while !rest.is_empty() {
        let end = rest
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {rest:?}"));
        let (head, body) = rest.split_at(end + 4);
        let head = std::str::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|head| head.get(..3)).unwrap();
        statuses.push(status.parse().unwrap());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        // An answer in chunks, or to a HEAD, is the last on its connection.
        let length = length.map_or(body.len(), |length| length.parse::<usize>().unwrap().min(body.len()));
        rest = body.split_at(length).1;
    }
    statuses
}

#[test]
fn what_could_be_understood_in_two_ways_gets_one_answer_and_the_end() {
    let daemon = Daemon::start();
    let check = |attack: &str| {
        let found = answers(&daemon, format!("{attack}{SMUGGLED}").as_bytes());
        assert!(matches!(found.as_slice(), [400..=499]), "{attack:?}: {found:?}");
    };
    let heads = |headers: &str| format!("POST {V2} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ntransfer-encoding: identity\r\n",
        "Content-Length: 0\r\nContent-Length: 44\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999999999999\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer\0-Encoding: chunked\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        "X: a\r\n folded\r\n",
        "X\r\n",
        ": nameless\r\n",
        "X y: z\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        &format!("Content-Length:{}5\r\n", " ".repeat(60)),
        &format!("Content-Length: {}5\r\n", "0".repeat(62)),
        "Host: b\r\n",
        "Authorization: a\r\nAuthorization: b\r\n",
    ] {
        check(&heads(headers));
    }
    for attack in [
        "GET /healthz HTTP/1.1\nHost: a\n\n",
        "GET /healthz HTTP/1.1\r\nHost: a\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\n",
        "GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /healthz  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET /healthz HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /healthz HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET\t/healthz\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /healthz\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}",
        "POST /m2/demo/v2/profile/batchUpdate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        check(attack);
    }
    // A client that speaks HTTP/2 would not understand an answer.
    let preface = format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}");
    assert_eq!(answers(&daemon, preface.as_bytes()), [0; 0]);
    let chunked = heads("Transfer-Encoding: chunked\r\n");
    let huge = "x".repeat(1 << 20);
    for chunks in [
        "x\r\n\r\n",
        "-1\r\n\r\n",
        "0x5\r\nbatch\r\n0\r\n\r\n",
        "5 5\r\nbatch\r\n0\r\n\r\n",
        "5\nbatch\n0\n\n",
        "5\r\nbatch=\r\n0\r\n\r\n",
        "5\r\nbatchX0\r\n\r\n",
        "5;a=b\nbatch\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
        "10000000000000005\r\nbatch\r\n0\r\n\r\n",
        &format!("{}5\r\nbatch\r\n0\r\n\r\n", "0".repeat(64)),
        "5;a\rb\r\nbatch\r\n0\r\n\r\n",
        "0\r\n\n\r\n\r\n",
        "0\r\nX: y\n\r\n\r\n",
        &format!("5;{huge}\r\nbatch\r\n0\r\n\r\n"),
        &format!("0\r\nX: {huge}\r\n\r\n"),
        &format!("0\r\n{}\r\n", "X: y\r\n".repeat(20_000)),
    ] {
        check(&format!("{chunked}{chunks}"));
    }
    assert_eq!(daemon.get("/healthz").status, 200);
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 0);
    wait_for("every upload to be gone", || daemon.spooled().is_empty().then_some(()));
}

/// The guard once lost its place after a length that it could not hold whole. Ambiguous requests passed behind it, and ends of
/// good requests counted as ambiguous. Now nothing behind such a request is read.
#[test]
fn a_length_that_is_not_held_whole_hides_nothing_behind_it() {
    let daemon = Daemon::start();
    // A call that reads its body to the end, so that its connection stays open.
    let call = "POST /m2/demo/mbox/json?mboxPC=1 HTTP/1.1";
    let first = |headers: &str| format!("{call}\r\nHost: a\r\n{headers}\r\n");
    let twice = "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n";
    let chunked = first("Transfer-Encoding: chunked\r\n");
    for attack in [
        format!("{}0123456789abcdef{twice}", first(&format!("Content-Length:{}16\r\n", " ".repeat(60)))),
        format!(
            "{}{twice}{SMUGGLED}",
            first(&format!("Content-Length: {}{}\r\n", "0".repeat(62), twice.len()))
        ),
        format!("{chunked}{}{:x}\r\n{twice}\r\n0\r\n\r\n{SMUGGLED}", "0".repeat(65), twice.len()),
        format!("{chunked}0\r\n\n{twice}X: y\r\n\r\n{SMUGGLED}"),
    ] {
        let found = answers(&daemon, attack.as_bytes());
        assert!(matches!(found.as_slice(), [400..=499]), "{attack:?}: {found:?}");
    }
    assert_eq!(daemon.get("/healthz").status, 200);
}

#[test]
fn heads_and_bodies_without_end_are_cut_off() {
    let daemon = Daemon::start();
    let x = |length: usize| "x".repeat(length);
    let check = |attack: &str, statuses: &[u16]| {
        let found = answers(&daemon, attack.as_bytes());
        let start: String = attack.chars().take(60).collect();
        assert!(matches!(found.as_slice(), [one] if statuses.contains(one)), "{start:?}…: {found:?}");
    };
    check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}", x(100_000)), &[414, 431, 400]);
    check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}", x(5_000_000)), &[414, 431, 400]);
    check(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n{SMUGGLED}", x(5_000_000)), &[431, 400]);
    check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n{SMUGGLED}", "X: y\r\n".repeat(10_000)), &[431, 400]);
    check(&format!("GET / HTTP/1.1\r\n{}: y\r\nHost: a\r\n\r\n{SMUGGLED}", x(200_000)), &[431, 400]);
    check(&format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}", x(200_000)), &[431, 400]);
    let form = "Content-Type: application/x-www-form-urlencoded\r\nSec-Fetch-Site: same-origin";
    let (head, form) = ("POST /session HTTP/1.1\r\nHost: a", format!("{form}\r\n"));
    check(
        &format!("{head}\r\n{form}Content-Length: 5000000\r\n\r\ntoken={}{SMUGGLED}", x(5_000_000)),
        &[413],
    );
    let chunks = String::from_utf8(support::chunked(format!("token={}", x(5_000_000)).as_bytes())).unwrap();
    check(&format!("{head}\r\n{form}Transfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"), &[413]);
    let file = format!("batch=pcId,a\n{}", "1,2\n".repeat(13_107_200));
    let mut post =
        format!("POST {V2} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    post.extend(support::chunked(file.as_bytes()));
    post.extend(SMUGGLED.as_bytes());
    let found = answers(&daemon, &post);
    assert_eq!(found, [413], "52 MB in chunks");
    assert_eq!(daemon.get("/healthz").status, 200);
    wait_for("every upload to be gone", || daemon.spooled().is_empty().then_some(()));
}

/// The parts of random calls: enough known ones that the calls get far, and enough others.
fn calls() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        3 => select(WORDS.as_slice()).prop_map(str::to_owned),
        1 => select(NAUGHTY.as_slice()).prop_map(encoded),
        1 => "[a-zA-Z0-9._~%+-]{0,12}",
    ];
    let path = prop_oneof![
        12 => select(PATHS.as_slice()).prop_map(str::to_owned),
        1 => vec(word.clone(), 0..6).prop_map(|words| format!("/{}", words.join("/"))),
    ];
    let name = prop_oneof![3 => select(NAMES.as_slice()).prop_map(str::to_owned), 1 => word.clone()];
    let query = vec((name, word), 0..6)
        .prop_map(|pairs| pairs.iter().map(|(name, value)| format!("{name}={value}&")).collect::<String>());
    let method = prop_oneof![
        6 => select(&["GET", "POST"][..]),
        1 => select(&["HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "get"][..]),
    ];
    let media_type = prop_oneof![
        4 => select(&["text/csv", "application/x-www-form-urlencoded", "application/json", ""][..]),
        1 => select(&["multipart/form-data; boundary=x", "\""][..]),
    ];
    let encoding = prop_oneof![6 => Just(""), 1 => select(&["gzip", "zstd", "br", "gzip, gzip"][..])];
    let site = prop_oneof![3 => Just(""), 2 => Just("same-origin"), 1 => Just("cross-site")];
    let body = prop_oneof![
        select(BODIES.as_slice()).prop_map(|body| body.as_bytes().to_vec()),
        query.clone().prop_map(String::into_bytes),
        vec(any::<u8>(), 0..200),
        (select(BODIES.as_slice()), any::<Index>(), any::<u8>()).prop_map(|(body, at, byte)| {
            let mut body = body.as_bytes().to_vec();
            let at = at.index(body.len());
            body.splice(at..=at, [byte]);
            body
        }),
    ];
    (method, path, query, media_type, encoding, site, body).prop_map(
        |(method, path, query, media_type, encoding, site, body)| {
            let headers = [
                ("Content-Type", media_type),
                ("Content-Encoding", encoding),
                ("Sec-Fetch-Site", site),
                ("Connection", "close"),
            ];
            let kept: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            request(method, &format!("{path}?{query}"), "localhost", &kept, Some(&body))
        },
    )
}

const WORDS: [&str; 14] =
    ["demo", "1", "t", "m2", "v2", "profile", "rest", "v1", "api", "pc", "ecid", "true", "remove", "csv"];
const PATHS: [&str; 40] = [
    "/m2/demo/profile/batchUpdate",
    "/m2/demo/v2/profile/batchUpdate",
    "/m2/demo/profile/batchStatus",
    "/m2/demo/profile/update",
    "/m2/demo/mbox/json",
    "/m2/demo/mbox/ajax",
    "/m2/demo/mbox/standard",
    "/m2/demo/ubox/raw",
    "/m2/demo/ubox/image",
    "/m2/demo/ubox/page",
    "/rest/v1/delivery",
    "/rest/v1/profiles/1",
    "/rest/v1/profiles/thirdPartyId/t",
    "/api/v1/profiles/1",
    "/api/v1/batches",
    "/api/v1/batches/demo-1701473848678-10000001",
    "/api/v1/batches/demo-1701473848678-10000001/outcomes",
    "/api/v1/batches/demo-1701473848678-10000001/repair",
    "/api/v1/profiles/1/attributes/a",
    "/api/v1/statistics",
    "/api/v1/clients",
    "/api/v1/status",
    "/openapi.json",
    "/api/v1/export",
    "/api/v1/changes",
    "/api/v1/compact",
    "/metrics",
    "/",
    "/visitors",
    "/batches",
    "/batches/demo-1701473848678-10000001",
    "/batches/demo-1701473848678-10000001/progress",
    "/batches/demo-1701473848678-10000001/outcomes",
    "/batches/demo-1701473848678-10000001/repair",
    "/batches/demo-1701473848678-10000001/file",
    "/upload",
    "/session",
    "/session/end",
    "/assets/inspector.js",
    "/assets/none",
];
const NAMES: [&str; 32] = [
    "client",
    "by",
    "status",
    "batchId",
    "showDetails",
    "emptyValues",
    "mboxPC",
    "mbox3rdPartyId",
    "mboxMCGVID",
    "mboxSession",
    "mbox",
    "mboxDefault",
    "mboxXDomain",
    "mboxCallback",
    "profile.a",
    "profile.",
    "profile.profile.x",
    "sessionId",
    "imsOrgId",
    "format",
    "defuse",
    "wait_for_seq",
    "lines",
    "dryRun",
    "limit",
    "before",
    "from",
    "outcome",
    "id",
    "version",
    "next",
    "token",
];
const BODIES: [&str; 7] = [
    "batch=pcId,a,b\n1,2,3\nx,\n",
    "batch=thirdPartyId,a\nt,1\n\"quoted \"\"cell\",2\n%zz,3\n",
    "mboxPC=1&profile.a=1&profile.b=%E5%90%8D",
    "token=t&next=%2Fbatches%3Fclient%3Ddemo",
    r#"{"context":{"channel":"web"},"id":{"tntId":"1","thirdPartyId":"t"},"execute":{"pageLoad":{"profileParameters":{"a":"1"}}}}"#,
    r#"{"requestId":"r","context":{"channel":"web"},"notifications":[{"id":"1","type":"display","timestamp":1,"mbox":{"name":"m"},"profileParameters":{"a":1}}]}"#,
    "{}",
];

/// Each call gets one answer that its reader understands, and none causes an internal error.
#[test]
fn random_calls_are_answered_and_none_fails_inside() {
    let mut daemon = Daemon::configured("default_client = \"demo\"\n");
    daemon.keep_complaints().set_variable("PROFILED_LOG", "error").restart();
    daemon.mbox("demo", "mbox=m&mboxPC=1&mbox3rdPartyId=t&profile.a=1");
    let cases = support::variable("RANDOM_CALLS").map_or(3_000, |given| given.parse().unwrap());
    let statuses = std::cell::RefCell::new(std::collections::BTreeMap::<u16, u32>::new());
    with_each_seed(|seed| {
        let tried = runner(seed, cases / 2).run(&calls(), |call| {
            let found = answers(&daemon, &call);
            let shown = String::from_utf8_lossy(&call).into_owned();
            prop_assert!(found.len() == 1 && found.iter().all(|status| *status < 500), "{shown}: {found:?}");
            found.iter().for_each(|status| *statuses.borrow_mut().entry(*status).or_default() += 1);
            Ok(())
        });
        tried.unwrap();
    });
    let statuses = statuses.into_inner();
    assert!(
        statuses.len() > 5 && statuses.get(&200) > Some(&(cases / 10)),
        "they don't get far: {statuses:?}"
    );
    assert_eq!(daemon.complaints(), "");
}

/// Strings that break software.
const NAUGHTY: [&str; 36] = [
    "'",
    "\"",
    "<script>alert(1)</script>",
    "</response><success>true</success>",
    "]]>",
    "<!--",
    "&amp;&lt;&#0;&#xD800;&nonsense;",
    "-->",
    "{{7*7}}${7*7}<%= 7*7 %>#{7*7}",
    "\\",
    "\\u0000",
    "\\\"",
    "%",
    "%00",
    "%2e%2e%2f",
    "../../../../etc/passwd",
    "' OR '1'='1",
    "; DROP TABLE profiles",
    "$(touch /tmp/x)",
    "=1+1",
    "@SUM(1)",
    "null",
    "undefined",
    "NaN",
    "-1",
    "1e309",
    "True",
    "\u{feff}",
    "\u{202e}txt.exe",
    "\u{200b}\u{200d}",
    "\u{0}",
    "\u{7f}\u{80}\u{9b}",
    "e\u{301}\u{301}\u{301}\u{301}",
    "\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}\u{1F3FF}",
    "表ポあA鷗ŒéＢ逍Üßªąñ丂㐀𠀀",
    "a\r\nSet-Cookie: x=1\r\n\r\nHTTP/1.1 200 OK",
];

/// Text between an element's tags, as an XML reader understands it.
fn in_xml(text: &str) -> String {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut all = String::new();
    loop {
        match reader.read_event().unwrap_or_else(|e| panic!("{e}: {text}")) {
            quick_xml::events::Event::Eof => return all,
            quick_xml::events::Event::Start(_) | quick_xml::events::Event::End(_) => all.push('|'),
            quick_xml::events::Event::Text(part) => all += &part,
            quick_xml::events::Event::GeneralRef(reference) => {
                all += &format!("&{};", &*reference);
            }
            other => panic!("{other:?} in {text}"),
        }
    }
}

/// The elements of the inspector's pages, from its templates.
fn elements() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/templates");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        names.extend(text.split('<').skip(1).map(element));
    }
    assert!(names.len() > 40 && !names.contains(""), "{names:?}");
    names
}

/// The name of a start tag or an end tag.
fn element(tag: &str) -> String {
    let tag = tag.strip_prefix('/').unwrap_or(tag);
    tag.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '!').collect()
}

/// The text of a page as a browser understands it. Foreign text must be text or within quotes. So all tags are elements of the
/// templates, and no attribute contains a script.
fn in_html(page: &str, elements: &BTreeSet<String>) -> String {
    let mut parts = page.split('<');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (tag, rest) = part.split_once('>').unwrap_or_else(|| panic!("<{part:?} has no end: {page}"));
        assert!(elements.contains(&element(tag)), "<{tag}>: {page}");
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>: {page}");
        let outside: Vec<&str> = tag.split('"').step_by(2).collect();
        let own = |name: &str| !name.starts_with("on") && !matches!(name, "style=" | "srcdoc=");
        assert!(outside.iter().flat_map(|piece| piece.split_whitespace()).all(own), "<{tag}>: {page}");
        if element(tag) == "script" && !tag.starts_with('/') {
            assert_eq!(outside, ["script src=", " defer"], "{page}");
            assert!(rest.is_empty(), "a script within the page: {page}");
        }
        text += rest;
    }
    quick_xml::escape::unescape(&text).unwrap_or_else(|error| panic!("{error}: {page}")).into_owned()
}

#[test]
fn naughty_strings_come_back_as_they_were_and_break_out_of_nothing() {
    let daemon = Daemon::start();
    let elements = elements();
    for (n, text) in NAUGHTY.iter().enumerate() {
        let value = encoded(text);
        let visitor = format!("v{n}");
        // As a value by each way in, read back by each way out.
        daemon.mbox(
            "demo",
            &format!("mbox=m&mboxPC={visitor}&profile.mbox={value}&profile.single=x&profile.batch=x"),
        );
        let update =
            daemon.post_form("/m2/demo/profile/update", &format!("mboxPC={visitor}&profile.single={value}"));
        assert_eq!(update.status, 200, "{text:?}");
        let id = daemon.post_batch("demo", format!("batch=pcId,batch\n{visitor},{value}\n"));
        let delivery = serde_json::json!({
            "context": {"channel": "web"},
            "id": {"tntId": visitor},
            "execute": {"pageLoad": {"profileParameters": {"delivery": text}}},
        });
        let sent = daemon.call(
            "POST",
            "/rest/v1/delivery?client=demo&sessionId=s",
            &[("Content-Type", "application/json")],
            Some(delivery.to_string().as_bytes()),
        );
        assert_eq!(sent.status, 200, "{text:?}: {}", sent.text());
        for name in ["mbox", "single", "batch", "delivery"] {
            assert_eq!(daemon.value("demo", "pc", &visitor, name).as_deref(), Some(*text), "{name}");
        }
        let fetched = daemon.get(&format!("/rest/v1/profiles/{visitor}?client=demo")).json();
        assert_eq!(fetched["profileAttributes"]["batch"]["value"], *text);
        daemon.wait_complete(&id);

        // As an id, a client code, a batch id, a parameter, a path: accepted or refused, but always only text.
        for path in [
            format!("/m2/{value}/profile/batchStatus?batchId=x"),
            format!("/m2/demo/profile/batchStatus?batchId={value}"),
            format!("/m2/demo/profile/update?mboxPC={value}&profile.a=1"),
            format!("/m2/demo/profile/update?mbox3rdPartyId={value}&profile.a=1"),
            format!("/m2/demo/profile/update?mboxPC={visitor}&profile.{value}=1"),
            format!("/m2/demo/mbox/json?mboxPC={value}&mboxSession={value}&mbox={value}"),
            format!("/m2/demo/mbox/ajax?mboxPC={value}&mboxSession={value}&mbox={value}"),
            format!("/m2/demo/ubox/raw?mboxPC={value}&mboxDefault={value}"),
            format!("/m2/demo/ubox/page?mboxPC={value}&mboxDefault={value}"),
            format!("/rest/v1/profiles/{value}?client=demo"),
            format!("/rest/v1/profiles/thirdPartyId/{value}?client={value}"),
            format!("/api/v1/profiles/{value}?by={value}&client=demo"),
            format!("/api/v1/profiles/{value}?by=pc&client={value}"),
            format!("/api/v1/batches?client=demo&status={value}"),
            format!("/api/v1/batches/{value}"),
            format!("/api/v1/export?client=demo&format={value}&by={value}&defuse={value}"),
            format!("/api/v1/changes?client=demo&since={value}&rows={value}&follow={value}"),
            format!("/{value}"),
            format!("/?client={value}"),
            format!("/visitors?client=demo&by=pc&id={visitor}"),
            format!("/visitors?client=demo&by={value}&id={value}"),
            format!("/visitors?client=demo&by=third-party&id={value}"),
            format!("/visitors?client={value}&id={value}"),
            format!("/batches?client=demo&before={value}"),
            format!("/batches?client={value}"),
            format!("/batches/{value}"),
            format!("/batches/{value}/progress"),
            format!("/batches/{value}/outcomes"),
            format!("/batches/{value}/repair"),
            format!("/batches/{value}/file"),
            format!("/upload?client={value}"),
            format!("/session/{value}"),
            format!("/assets/{value}"),
        ] {
            let reply = daemon.get(&path);
            assert!(reply.status < 500, "{path}: {}", reply.text());
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert!(reply.header("content-security-policy").is_some(), "{path}");
            // The ids that mbox and ubox calls set are their own.
            let cookies = reply.headers.iter().filter(|(name, _)| name == "set-cookie");
            assert!(
                cookies.clone().all(|(_, cookie)| cookie.starts_with("mbox")),
                "{path}: {:?}",
                reply.headers
            );
            match reply.header("content-type") {
                Some("application/json" | "application/problem+json") => drop(reply.json()),
                Some("text/xml;charset=UTF-8") => {
                    let text = in_xml(&reply.text());
                    assert_eq!(text.matches('|').count() % 2, 0, "{path}: {text}");
                }
                Some("text/html;charset=UTF-8") => drop(in_html(&reply.text(), &elements)),
                Some("text/plain;charset=UTF-8" | "text/javascript;charset=UTF-8") => {}
                other => panic!("{path}: {other:?}"),
            }
        }
        // The visitor's page shows all four of its values as they are; signing in leads nowhere else.
        let page = daemon.get(&format!("/visitors?client=demo&by=pc&id={visitor}"));
        assert_eq!((page.status, in_html(&page.text(), &elements).matches(text).count() >= 4), (200, true));
        let own = ("Sec-Fetch-Site", "same-origin");
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let brought = format!("token={value}&next={value}");
        let signed_in = daemon.call("POST", "/session", &[own, form], Some(brought.as_bytes()));
        assert_eq!((signed_in.status, signed_in.header("location")), (303, Some("/")), "{text:?}");
        // In a batch file: header names, ids, values, as they are; tried out on a page, then sent, then shown on one.
        for file in [
            format!("batch=pcId,{text}\n{visitor},1\n"),
            format!("batch=pcId,a\n{text},1\n"),
            format!("batch=pcId,a\n{visitor},{text}\n"),
            format!("batch={text},a\n{visitor},1\n"),
            (*text).to_owned(),
        ] {
            let csv = ("Content-Type", "text/csv");
            let trial = "/upload?client=demo&dryRun=true";
            let tried = daemon.call("POST", trial, &[csv], Some(file.as_bytes()));
            in_html(&tried.text(), &elements);
            let reply = daemon.try_batch(V2, &file);
            assert_eq!(
                (reply.status == 200, reply.status == 400),
                (tried.status == 200, tried.status == 400)
            );
            in_xml(&reply.text());
            if reply.status == 200 {
                let id = reply.batch_id();
                in_html(&daemon.get(&format!("/batches/{id}")).text(), &elements);
                daemon.wait_complete(&id);
                for page in [format!("/batches/{id}"), format!("/batches/{id}/progress")] {
                    let page = daemon.get(&page);
                    assert_eq!(page.status, 200, "{file:?}");
                    in_html(&page.text(), &elements);
                }
            }
        }
    }
    // The same strings as headers, except those that no header may contain.
    for text in NAUGHTY.iter().filter(|text| !text.contains(|c: char| c.is_control())) {
        for name in [
            "Authorization",
            "Cookie",
            "Content-Type",
            "Origin",
            "X-Forwarded-For",
            "User-Agent",
            "Accept",
            "Range",
            "Sec-Fetch-Site",
        ] {
            for path in ["/api/v1/batches?client=demo", "/batches?client=demo"] {
                let reply = daemon.send(&request("GET", path, "a", &[(name, text)], None));
                assert!(matches!(reply.status, 200 | 400 | 401 | 403), "{name}: {text}: {}", reply.status);
            }
        }
        let cookie = format!("profiled-session={text}");
        let page = daemon.send(&request("GET", "/?client=demo", "a", &[("Cookie", &cookie)], None));
        in_html(&page.text(), &elements);
        let reply = daemon.send(&request("POST", V2, text, &[], Some(b"batch=pcId,a\n1,2\n")));
        assert!(matches!(reply.status, 200 | 400), "Host: {text}: {}", reply.status);
        if let Some(url) = reply.element("batchStatus").filter(|url| !url.is_empty()) {
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>&\\".contains(&byte)), "{url}");
        }
    }
    // A file of all of them, out and in again.
    let (code, _, said) = daemon.run(&["export", "all.csv", "--client", "demo", "--by", "pc"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, out, said) = daemon.run(&["import", "all.csv", "--client", "demo"]);
    assert_eq!(code, Some(0), "{out}{said}");
    for (n, text) in NAUGHTY.iter().enumerate() {
        assert_eq!(daemon.value("demo", "pc", &format!("v{n}"), "mbox").as_deref(), Some(*text));
    }
}

/// If tokens are needed, the sign-in page repeats the path that the reader asked for, and the error.
#[test]
fn the_page_that_asks_for_a_token_repeats_a_path_as_text_and_leads_nowhere_else() {
    let daemon = Daemon::start();
    let elements = elements();
    daemon.make_token(&["--client", "demo", "--scope", "read"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/batches?client=demo").status == 401).then_some(()));
    let asked = |reply: &support::Reply, what: &str| {
        assert!(matches!(reply.status, 400 | 401), "{what}: {}", reply.status);
        assert_eq!(reply.header("set-cookie"), None, "{what}");
        in_html(&reply.text(), &elements);
    };
    let form = [("Content-Type", "application/x-www-form-urlencoded"), ("Sec-Fetch-Site", "same-origin")];
    for text in NAUGHTY {
        let value = encoded(text);
        for path in ["/visitors?id=", "/batches/", "/upload?client=", "/?"] {
            asked(&daemon.get(&format!("{path}{value}")), text);
        }
        let brought = format!("token={value}&next={value}");
        asked(&daemon.call("POST", "/session", &form, Some(brought.as_bytes())), text);
        if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let cookie = format!("profiled-session={text}");
            asked(&daemon.call("GET", "/batches?client=demo", &[("Cookie", &cookie)], None), text);
        }
    }
    // A path may hold quotes and braces as they are, a query may not.
    let quoted = "/batches/\"onfocus=\"alert(1)";
    assert_eq!(daemon.get(quoted).status, 401);
    for path in [quoted, "/batches/{}\"autofocus", "/visitors?id=\"onfocus=\"alert(1)"] {
        asked(&daemon.get(path), path);
    }
}
