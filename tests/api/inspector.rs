//! The inspector's pages as they are served: what they show, what they may do, and how far its cookie reaches.

use crate::support::{self, Daemon, Reply, wait_for};

const CSV: (&str, &str) = ("Content-Type", "text/csv");
const OWN: (&str, &str) = ("Sec-Fetch-Site", "same-origin");
const FILE: &[u8] = b"batch=pcId,city\n1,Oslo\n9,Rome\n1,%zz\n";

/// What every page says of itself.
#[track_caller]
fn page(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/html;charset=UTF-8"));
    let policy = reply.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(reply.header("cache-control").unwrap().contains("no-store"));
    let text = reply.text();
    assert!(text.contains("<html lang=\"en\"") && text.contains("<title>"), "{text}");
    assert!(!text.contains("style=") && !text.contains("onclick"), "{text}");
    text
}

#[test]
fn a_visitor_is_shown_with_who_set_what_and_nothing_is_run() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.name=%3Cscript%3Ealert(1)%3C/script%3E");
    let batch = daemon.post_batch("demo", FILE);
    daemon.wait_complete(&batch);
    let text = page(&daemon.get("/visitors?client=demo&by=pc&id=1"), 200);
    for words in ["Oslo", &batch, "line 2", "mbox"] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    assert!(!text.contains("<script>alert"), "{text}");
    assert!(page(&daemon.get("/visitors?client=demo&by=any&id=1"), 200).contains("Oslo"));
    let strange = "/visitors?client=demo&by=pc&id=%3Cb%3Enobody";
    assert!(!page(&daemon.get(strange), 404).contains("<b>nobody"));
}

#[test]
fn a_batch_is_shown_with_its_failures_and_its_files() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let batch = daemon.post_batch("demo", FILE);
    daemon.wait_complete(&batch);
    for path in ["/?client=demo", "/batches?client=demo", &format!("/batches/{batch}")] {
        assert!(page(&daemon.get(path), 200).contains(&batch), "{path}");
    }
    assert!(page(&daemon.get(&format!("/batches/{batch}")), 200).contains("line 4"));
    let repair = daemon.get(&format!("/batches/{batch}/repair"));
    assert_eq!((repair.status, repair.text().as_str()), (200, "batch=pcId,city\n1,%zz\n"));
    assert_eq!(daemon.get(&format!("/batches/{batch}/file")).text().as_bytes(), FILE);
    page(&daemon.get("/batches/demo-1701473848678-10000001"), 404);
    for asset in ["inspector.css", "inspector.js", "icon.svg"] {
        assert_eq!(daemon.get(&format!("/assets/{asset}")).status, 200, "{asset}");
    }
    assert_eq!(daemon.get("/assets/..%2FCargo.toml").status, 404);
}

#[test]
fn a_page_without_a_client_lists_the_clients() {
    let daemon = Daemon::start();
    for client in ["shop", "bank"] {
        daemon.mbox(client, "mbox=m&mboxPC=1");
    }
    for path in ["/", "/batches", "/upload"] {
        let text = page(&daemon.get(path), 200);
        for client in ["shop", "bank"] {
            assert!(text.contains(&format!("href=\"{path}?client={client}\"")), "{path}: {text}");
        }
    }
    // Whoever may see only one client's is not told of the others.
    let token = daemon.make_token(&["--client", "shop", "--scope", "read"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/").status == 401).then_some(()));
    let cookie = format!("profiled-session={token}");
    let text = page(&daemon.call("GET", "/", &[("Cookie", &cookie)], None), 200);
    assert!(text.contains("shop") && !text.contains("bank"), "{text}");
}

#[test]
fn a_file_is_tried_out_and_then_sent() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
    page(&daemon.get("/upload?client=demo"), 200);
    let send = |more: &str, headers: &[(&str, &str)]| {
        daemon.call("POST", &format!("/upload?client=demo{more}"), headers, Some(FILE))
    };
    let tried = send("&dryRun=true", &[CSV]);
    assert!(
        tried.status == 200 && tried.text().contains("&#34;%zz&#34; is not a valid escape"),
        "{}",
        tried.text()
    );
    assert_eq!(daemon.value("demo", "pc", "1", "city").as_deref(), Some("Bern"), "nothing is written");
    let sent = send("", &[CSV]);
    assert_eq!(sent.status, 201, "{}", sent.text());
    let batch = sent.header("location").unwrap().strip_prefix("/batches/").unwrap().to_owned();
    assert_eq!(daemon.wait_complete(&batch).successful, 1);
    let key = send("", &[CSV, ("Idempotency-Key", "not one")]);
    assert!(key.status == 400 && key.text().contains("Idempotency-Key is not right"), "{}", key.text());
    assert_eq!(send("", &[CSV, ("Origin", "https://evil.example")]).status, 403);
}

/// The cookie opens the inspector's own pages, lets its own pages write, and does nothing else.
#[test]
fn the_cookie_reaches_no_further_than_the_inspector() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
    let token = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    let other = daemon.make_token(&["--client", "other", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || {
        (daemon.get("/api/v1/batches?client=demo").status == 401).then_some(())
    });
    let visitor = "/visitors?client=demo&by=pc&id=1";
    assert!(!page(&daemon.get(visitor), 401).contains("Bern"));
    page(&daemon.get("/"), 401);

    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let sign_in = |token: &str, headers: &[(&str, &str)]| {
        let headers = [&[form], headers].concat();
        let path = format!("/session?next={}", support::encoded(visitor));
        daemon.call("POST", &path, &headers, Some(format!("token={token}").as_bytes()))
    };
    assert_eq!(sign_in("wrong", &[OWN]).status, 401);
    assert_eq!(sign_in(&token, &[("Sec-Fetch-Site", "cross-site")]).status, 403);
    let signed_in = sign_in(&token, &[OWN]);
    assert_eq!(signed_in.status, 303, "{}", signed_in.text());
    assert_eq!(signed_in.header("location"), Some(visitor));
    let cookie = signed_in.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let session = |token: &str| format!("profiled-session={token}");
    let (mine, theirs) = (session(&token), session(&other));
    let (mine, theirs) = (("Cookie", mine.as_str()), ("Cookie", theirs.as_str()));
    let with = |method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>| {
        daemon.call(method, path, headers, body).status
    };

    assert_eq!(with("GET", visitor, &[mine], None), 200);
    assert_eq!(with("GET", visitor, &[theirs], None), 403);
    for path in ["/api/v1/profiles/1?by=pc&client=demo", "/api/v1/batches?client=demo"] {
        assert_eq!(with("GET", path, &[mine, OWN], None), 401, "{path}");
    }
    assert_eq!(with("DELETE", "/api/v1/profiles/1?by=pc&client=demo", &[mine, OWN], None), 401);
    let upload = "/upload?client=demo";
    assert_eq!(with("POST", upload, &[CSV, OWN], Some(FILE)), 401);
    for from in [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.example"), ("X-Nothing", "")] {
        assert_eq!(with("POST", upload, &[mine, CSV, from], Some(FILE)), 403, "{from:?}");
    }
    assert_eq!(with("POST", upload, &[theirs, CSV, OWN], Some(FILE)), 403);
    assert_eq!(with("POST", upload, &[mine, CSV, OWN], Some(FILE)), 201);
    let out = daemon.call("POST", "/session/end", &[mine, OWN], None);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
}

/// A page asked "Client?" though there was only one.
#[test]
fn pages_of_the_only_client_are_open_at_once() {
    let open = |daemon: &Daemon, client: Option<&str>| {
        for path in ["/", "/batches", "/upload"] {
            let text = page(&daemon.get(path), 200);
            let shown = client.map_or("<b>".into(), |client| format!("client <b>{client}</b>"));
            assert_eq!(text.contains(&shown), client.is_some(), "{path}");
        }
    };
    open(&Daemon::start_configured("[clients.one]\n"), Some("one"));
    open(&Daemon::start_configured("[clients.one]\n[clients.two]\n"), None);
    open(&Daemon::start_configured("default_client = \"two\"\n[clients.one]\n[clients.two]\n"), Some("two"));
    let daemon = Daemon::start();
    open(&daemon, None);
    daemon.post_batch("demo", "batch=pcId,a\n1,2\n");
    open(&daemon, Some("demo"));
    daemon.post_batch("other", "batch=pcId,a\n1,2\n");
    open(&daemon, None);
}
