//! The mbox and ubox doors, on the real daemon: each kind's form, its refusals, what browsers need, and that nothing a
//! client sends becomes script.

use crate::support::{Daemon, Reply, encoded};

/// Every kind, with parameters that have it answered.
const KINDS: [(&str, &str); 6] = [
    ("mbox/json", "mbox=m"),
    ("mbox/ajax", "mbox=m"),
    ("mbox/standard", "mbox=m"),
    ("ubox/raw", "mbox=m&mboxDefault=none&mboxNoRedirect=1"),
    ("ubox/image", "mbox=m&mboxDefault=http%3A%2F%2Fcdn.example%2Fa.gif"),
    ("ubox/page", "mbox=m&mboxDefault=http%3A%2F%2Fshop.example%2F"),
];

/// What each kind's answers are said to be.
fn media_type(kind: &str) -> &'static str {
    match kind {
        "mbox/json" => "application/json",
        "mbox/ajax" | "mbox/standard" => "text/javascript;charset=UTF-8",
        _ => "text/plain;charset=UTF-8",
    }
}

fn call(daemon: &Daemon, kind: &str, params: &str) -> Reply {
    let reply = daemon.get(&format!("/m2/demo/{kind}?{params}"));
    assert_eq!(reply.header("content-type"), Some(media_type(kind)), "{kind}?{params}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{kind}?{params}");
    assert_eq!(reply.header("cache-control"), Some("no-store"), "{kind}?{params}");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{kind}?{params}");
    reply
}

/// The visitor's id that an answer hands back.
fn handed_back(kind: &str, reply: &Reply) -> String {
    let text = reply.text();
    match kind {
        "mbox/json" => reply.json()["tntId"].as_str().unwrap().to_owned(),
        "mbox/ajax" | "mbox/standard" => between(&text, "getPCId().forceId(\"", "\")").to_owned(),
        _ => cookie(reply, "mboxPC").unwrap(),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

/// A script's text with its `\\uXXXX` resolved; none of them stands for half a character here.
fn unescaped(script: &str) -> String {
    let mut parts = script.split("\\u");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(4);
        text.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
        text.push_str(rest);
    }
    text
}

/// The value of a cookie that an answer sets.
fn cookie(reply: &Reply, name: &str) -> Option<String> {
    let mut set = reply.headers.iter().filter(|(header, _)| header == "set-cookie");
    let (_, line) = set.find(|(_, line)| line.starts_with(&format!("{name}=")))?;
    Some(line.split(';').next().unwrap().split_once('=').unwrap().1.to_owned())
}

#[test]
fn each_kind_answers_with_default_content_in_its_own_form() {
    let daemon = Daemon::start();
    let check = |kind: &str, params: &str, status: u16, body: &str| {
        let reply = call(&daemon, kind, params);
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{kind}?{params}");
    };
    let ids = "mboxSession=s1&mboxPC=1.28_0";
    let json = r#"{"sessionId":"s1","tntId":"1.28_0","offers":[]}"#;
    check("mbox/json", &format!("mbox=m&{ids}"), 200, json);
    for kind in ["mbox/ajax", "mbox/standard"] {
        let shown = "mboxFactories.get('default').get('home page',0).setOffer(new mboxOfferDefault()).loaded();\
                     mboxFactories.get('default').getPCId().forceId(\"1.28_0\");";
        check(kind, &format!("mbox=home%20page&{ids}"), 200, shown);
        let shown = "mboxFactories.get('f').get('m',3).setOffer(new mboxOfferDefault()).loaded();\
                     mboxFactories.get('f').getPCId().forceId(\"1.28_0\");";
        check(kind, &format!("mbox=m&mboxId=3&mboxFactoryId=f&{ids}"), 200, shown);
        for callback in ["callback", "mboxCallback"] {
            check(kind, &format!("mbox=m&{callback}=a.b&{ids}"), 200, &format!("/**/a.b({json});"));
        }
    }
    check("ubox/raw", "mbox=m&mboxDefault=no_content&mboxNoRedirect=1", 200, "no_content");
    check("ubox/raw", "mbox=m&mboxDefault=https%3A%2F%2Fa%2F&mboxNoRedirect=true", 200, "https://a/");
    check("ubox/raw", "mbox=m&mboxNoRedirect=1", 200, "");
    check("ubox/raw", "mbox=m&mboxDefault=some%20text", 200, "some text");
    check("ubox/raw", "mbox=m&mboxDefault=none", 200, "");
    for kind in ["ubox/raw", "ubox/image", "ubox/page"] {
        let reply = call(&daemon, kind, "mbox=m&mboxDefault=https%3A%2F%2Fcdn.example%2Fa.gif%3Fb%3Dc%26d");
        assert_eq!((reply.status, reply.body.len()), (302, 0), "{kind}");
        assert_eq!(reply.header("location"), Some("https://cdn.example/a.gif?b=c&d"), "{kind}");
    }
}

#[test]
fn refusals_are_in_each_kinds_form_and_write_nothing() {
    let daemon = Daemon::start();
    let check = |params: &str, reported: &str, kinds: &[&str]| {
        for &kind in kinds {
            let reply = call(&daemon, kind, &format!("{params}&mboxPC=1&profile.a=1"));
            let text = reply.text();
            assert_eq!(reply.status, 400, "{kind}?{params}: {text}");
            match kind {
                "mbox/json" => assert_eq!(reply.json()["error"], reported),
                "mbox/ajax" | "mbox/standard" => {
                    assert_eq!(unescaped(&text), format!("//ERROR: {reported}\n"));
                    assert!(!text.contains(['<', '\'', '"', '%', '(']), "{text}");
                }
                _ => assert_eq!(text, reported, "{kind}"),
            }
        }
    };
    let all = KINDS.map(|(kind, _)| kind);
    let ubox = ["ubox/raw", "ubox/image", "ubox/page"];
    check("mbox=a%3Cb", "Invalid mbox name:= a<b", &all);
    check("mbox=it%27s", "Invalid mbox name:= it's", &all);
    check("mbox=a%2522", "Invalid mbox name:= a%22", &all);
    let long = "x".repeat(251);
    check(&format!("mbox={long}"), &format!("Mbox name [{long}] is too long"), &all);
    check("", "bad request: the mbox parameter is missing", &all[1..]);
    let missing = "Cannot redirect to default content, please specify mboxDefault parameter";
    check("mbox=m", missing, &ubox);
    check("mbox=m&mboxDefault=", missing, &ubox);
    let relative = "Cannot redirect to default content, mboxDefault must be an absolute URL of http or https";
    for default in
        ["%2Fa.gif", "%2F%2Fa", "javascript%3Aalert(1)", "data%3Atext%2Fhtml%2Cx", "http%3A%2F%2Fa%0D%0Ab"]
    {
        check(&format!("mbox=m&mboxDefault={default}"), relative, &ubox[1..]);
    }
    check(
        "mbox=m&callback=alert(1)%2F%2F",
        "bad request: callback is not the name of a function",
        &all[1..3],
    );
    assert_eq!(daemon.visitor("demo", "pc", "1"), None);
}

#[test]
fn an_illegal_id_is_refused_and_an_illegal_attribute_left_out() {
    let daemon = Daemon::start();
    for (kind, params) in KINDS {
        for ids in ["mboxPC=a.b.c", "mboxPC=1&mbox3rdPartyId=a%2Bb", "mboxPC=%FF"] {
            assert_eq!(call(&daemon, kind, &format!("{params}&{ids}")).status, 400, "{kind} {ids}");
        }
        let id = kind.replace('/', "-");
        let attributes: String = (0..519).map(|n| format!("&profile.a{n}=1")).collect();
        let bad = format!("profile.=1&profile.profile.x=1&profile.{}=1&profile.b=%FF", "n".repeat(129));
        let reply = daemon.post_form(
            &format!("/m2/demo/{kind}?{params}"),
            &format!("mboxPC={id}&{bad}&profile.long={}&profile.ok=1{attributes}", "v".repeat(5_001)),
        );
        assert!(matches!(reply.status, 200 | 302), "{kind}: {}", reply.text());
        let reported = "1 profile parameter whose name is blank; 1 profile parameter whose name has \"profile.\" twice \
                    before it; 1 profile parameter whose name has more than 128 characters; 1 profile parameter whose \
                    value has more than 5000 characters; 20 profile parameters beyond 500; 1 profile parameter whose \
                    name or value is not UTF-8";
        assert_eq!(reply.header("profiled-left-out"), Some(reported), "{kind}");
        let exposed = reply.header("access-control-expose-headers");
        assert_eq!(exposed, Some("X-Request-Id, Profiled-Left-Out, Profiled-Seq"), "{kind}");
        let visitor = daemon.visitor("demo", "pc", &id).unwrap();
        assert_eq!(visitor["attributes"].as_object().unwrap().len(), 500, "{kind}");
        assert_eq!(visitor["attributes"]["ok"]["source"], "mbox", "{kind}");
        assert_eq!(visitor["attributes"].get("a499"), None, "{kind}");
    }
}

#[test]
fn every_kind_hands_a_new_id_back_and_writes_to_it() {
    let daemon = Daemon::start();
    for (kind, params) in KINDS {
        let first = call(&daemon, kind, &format!("{params}&profile.a=1&other=2&entity.id=3&at_property=4"));
        let id = handed_back(kind, &first);
        assert_eq!(id.len(), 32, "{kind}");
        let form = format!(
            "mboxPC={id}&mbox3rdPartyId={}&profile.b=%E5%90%8D+%F0%9F%8E%BF",
            encoded(kind).replace('%', "-")
        );
        let again = daemon.post_form(&format!("/m2/demo/{kind}?{params}&profile.a=2"), &form);
        assert_eq!(handed_back(kind, &again), id, "{kind}");
        let visitor = daemon.visitor("demo", "pc", &id).unwrap();
        assert_eq!(visitor["thirdPartyId"], encoded(kind).replace('%', "-"), "{kind}");
        assert_eq!(visitor["attributes"]["a"]["value"], "2", "{kind}");
        assert_eq!(visitor["attributes"]["b"]["value"], "名 🎿", "{kind}");
        assert_eq!(visitor["attributes"].as_object().unwrap().len(), 2, "{kind}");
    }
}

/// identifying-visitors.md: an ECID, or a thirdPartyId, alone: the pcId that is made is mapped to it.
#[test]
fn every_kind_hands_back_the_same_id_for_the_same_visitor() {
    let daemon = Daemon::start();
    for other in ["mboxMCGVID=38", "mbox3rdPartyId=marie"] {
        let ids = KINDS.map(|(kind, params)| {
            handed_back(kind, &call(&daemon, kind, &format!("{params}&{other}&profile.a=1")))
        });
        assert_eq!(ids[0].len(), 32, "{other}");
        assert!(ids.iter().all(|id| *id == ids[0]), "{other}: {ids:?}");
        assert_eq!(daemon.value("demo", "pc", &ids[0], "a").as_deref(), Some("1"), "{other}");
    }
}

#[test]
fn nothing_that_is_sent_becomes_script_or_a_header() {
    let daemon = Daemon::start();
    let attacks = [
        "\"></script><script>alert(1)</script>",
        "');alert(1);//",
        "\");alert(1);//",
        "\\');alert(1);//",
        "*/alert(1)/*",
        "\nalert(1)\n",
        "\u{2028}alert(1)\u{2029}",
        "x\r\nSet-Cookie: evil=1\r\n\r\n<script>alert(1)</script>",
        "javascript:alert(1)",
        "http://a\r\nSet-Cookie: evil=1",
        "${alert(1)}`",
        "&lt;script&gt;",
    ];
    let names = [
        "mbox",
        "mboxSession",
        "mboxPC",
        "mbox3rdPartyId",
        "mboxFactoryId",
        "mboxId",
        "callback",
        "mboxCallback",
        "mboxDefault",
        "profile.x",
    ];
    for (kind, params) in KINDS {
        for attack in attacks {
            for name in names {
                let path = format!("{name}={}&{params}", encoded(attack));
                let reply = call(&daemon, kind, &path);
                let text = reply.text();
                let reported = format!("{kind}?{path}: {text}");
                assert_eq!(cookie(&reply, "evil"), None, "{reported}");
                for (header, value) in &reply.headers {
                    assert!(
                        !value.contains("alert(1)") || header == "location" && value.starts_with("http"),
                        "{reported}"
                    );
                }
                if kind.starts_with("mbox") {
                    for piece in ["<", ">", "\n\n", "\u{2028}", "\u{2029}", "\r"] {
                        assert!(!text.contains(piece), "{piece:?} in {reported}");
                    }
                    assert!(text.trim_end().lines().count() == 1, "{reported}");
                }
                if matches!(kind, "mbox/ajax" | "mbox/standard") {
                    assert!(!text.contains("alert(1)"), "{reported}");
                }
            }
        }
    }
}

#[test]
fn ids_in_cookies_are_read_by_ubox_calls_alone() {
    let daemon = Daemon::start();
    let get = |kind: &str, params: &str, cookie: &str| {
        let path = format!("/m2/demo/{kind}?mboxNoRedirect=1&mbox=m&{params}");
        daemon.call("GET", &path, &[("Cookie", cookie)], None)
    };
    for kind in ["ubox/raw", "ubox/image", "ubox/page"] {
        let first = get(kind, "profile.a=1", "");
        let id = cookie(&first, "mboxPC").unwrap();
        let session = cookie(&first, "mboxSession").unwrap();
        let jar = format!("other=1; mboxPC={id}; mboxSession={session}");
        let second = get(kind, "profile.b=2", &jar);
        assert_eq!(cookie(&second, "mboxPC").unwrap(), id, "{kind}");
        assert_eq!(daemon.value("demo", "pc", &id, "a").as_deref(), Some("1"));
        assert_eq!(daemon.value("demo", "pc", &id, "b").as_deref(), Some("2"));
        get(kind, "profile.c=3&mboxPC=named", &jar);
        assert_eq!(daemon.value("demo", "pc", "named", "c").as_deref(), Some("3"));
        let off = get(kind, "mboxXDomain=disabled", "");
        assert_eq!(off.header("set-cookie"), None);
    }
    let check = |jar: &str, id: Option<&str>| {
        let reply = get("ubox/raw", "", jar);
        let kept = cookie(&reply, "mboxPC").unwrap();
        match id {
            Some(id) => assert_eq!(kept, id, "{jar}"),
            None => assert_eq!(kept.len(), 32, "{jar}"),
        }
    };
    check("mbox=session#2#1800000000|PC#7.28_0#1800000000|check#true#1800000000", Some("7.28_0"));
    check("mboxPC=8; mbox=PC#7.28_0#1800000000", Some("8"));
    check("mboxPC=a.b.c; mbox=PC#7#1800000000", Some("7"));
    check("mboxPC=a.b.c", None);
    check("mboxPC=a%0Ab; mbox=PC#", None);
    check("mboxPC=%C3%A9%3B", Some("%C3%A9%3B"));
    for kind in ["mbox/json", "mbox/ajax", "mbox/standard"] {
        let reply = get(kind, "", "mboxPC=8; mbox=PC#7.28_0#1800000000");
        assert_eq!(handed_back(kind, &reply).len(), 32, "{kind}");
        assert_eq!(reply.header("set-cookie"), None, "{kind}");
    }
}

#[test]
fn cookies_are_for_one_client_and_go_across_sites_only_by_https() {
    let set = |daemon: &Daemon| {
        let reply = daemon.get("/m2/demo/ubox/raw?mbox=m&mboxNoRedirect=1&mboxPC=1.28_0&mboxSession=a%20b");
        let lines = reply.headers.iter().filter(|(header, _)| header == "set-cookie");
        lines.map(|(_, line)| line.clone()).collect::<Vec<_>>()
    };
    let lines = |site: &str| {
        [
            format!("mboxPC=1.28_0; Max-Age=1209600; Path=/m2/demo/; HttpOnly; {site}"),
            format!("mboxSession=a%20b; Max-Age=1860; Path=/m2/demo/; HttpOnly; {site}"),
        ]
    };
    assert_eq!(set(&Daemon::start()), lines("SameSite=Lax"));
    let https = Daemon::start_with(&["--public-url", "https://profiles.example.com"]);
    assert_eq!(set(&https), lines("SameSite=None; Secure"));
}

#[test]
fn pages_of_other_origins_may_call_the_sites_doors_and_no_others() {
    let daemon = Daemon::start();
    let asks = [
        ("Origin", "https://shop.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-exc-sdk,x-exc-sdk-version,x-request-id"),
    ];
    // at.js sends credentials, so a page is named and allowed them, but not by the doors that read a cookie.
    let opened = |reply: &Reply, asked: bool, cookies: bool| {
        let origin = if asked && !cookies { "https://shop.example" } else { "*" };
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
        let credentials = (asked && !cookies).then_some("true");
        assert_eq!(reply.header("access-control-allow-credentials"), credentials);
        assert_eq!(reply.header("vary"), credentials.map(|_| "Origin"));
    };
    for (kind, params) in KINDS {
        let path = format!("/m2/demo/{kind}");
        let cookies = kind.starts_with("ubox");
        for headers in [&asks[..], &asks[..1], &[]] {
            let reply = daemon.call("OPTIONS", &path, headers, None);
            assert_eq!((reply.status, reply.body.len()), (204, 0), "{kind}");
            opened(&reply, !headers.is_empty(), cookies);
            assert_eq!(reply.header("access-control-allow-methods"), Some("GET, POST"));
            let allowed = reply.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
            for header in asks[2].1.split(',') {
                assert!(allowed.split(", ").any(|it| it == header), "{header} in {allowed}");
            }
            assert_eq!(reply.header("access-control-max-age"), Some("86400"));
        }
        for path in [format!("{path}?{params}"), format!("{path}?mboxPC=a.b.c&{params}")] {
            let reply = daemon.call("GET", &path, &asks[..1], None);
            opened(&reply, true, cookies);
            assert_eq!(reply.header("cross-origin-resource-policy"), Some("cross-origin"));
        }
        let reply = daemon.call("DELETE", &path, &asks[..1], None);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, POST")), "{kind}");
    }
    let delivery = "/rest/v1/delivery?client=demo&sessionId=s";
    let reply = daemon.call("OPTIONS", delivery, &asks, None);
    assert_eq!((reply.status, reply.header("access-control-allow-methods")), (204, Some("POST")));
    opened(&reply, true, false);
    for (body, status) in [("{\"context\":{\"channel\":\"web\"}}", 200), ("{", 400)] {
        let headers = [("Content-Type", "text/plain"), asks[0]];
        let reply = daemon.call("POST", delivery, &headers, Some(body.as_bytes()));
        assert_eq!(reply.status, status);
        opened(&reply, true, false);
    }
    for path in [
        "/m2/demo/profile/batchUpdate",
        "/m2/demo/v2/profile/batchUpdate",
        "/m2/demo/profile/batchStatus",
        "/m2/demo/profile/update",
        "/m2/demo/mbox/other",
        "/rest/v1/profiles/1",
        "/api/v1/profiles/1",
        "/api/v1/batches",
        "/healthz",
        "/nothing",
    ] {
        for method in ["OPTIONS", "GET", "POST"] {
            let reply = daemon.call(method, path, &asks, None);
            assert!(method != "OPTIONS" || matches!(reply.status, 404 | 405), "{path}: {}", reply.status);
            let opened = reply.headers.iter().find(|(header, _)| header.starts_with("access-control-"));
            assert_eq!(opened, None, "{method} {path}");
        }
    }
}

#[test]
fn beacons_are_read_as_forms() {
    let daemon = Daemon::start();
    let post = |media_type: &str, body: &str| {
        let headers = [("Content-Type", media_type), ("Origin", "https://shop.example")];
        daemon.call("POST", "/m2/demo/mbox/json?mbox=m", &headers, Some(body.as_bytes())).status
    };
    assert_eq!(post("text/plain;charset=UTF-8", "mboxPC=1&profile.a=x%20y"), 200);
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("x y"));
    assert_eq!(post("application/x-www-form-urlencoded;charset=UTF-8", "mboxPC=1&profile.a=z"), 200);
    assert_eq!(daemon.value("demo", "pc", "1", "a").as_deref(), Some("z"));
    assert_eq!(post("application/json", "{}"), 415);
    let reply =
        daemon.call("POST", "/m2/demo/profile/update", &[("Content-Type", "text/plain")], Some(b"mboxPC=1"));
    assert_eq!(reply.status, 415);
}
