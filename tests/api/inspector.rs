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
    // Its timeline tells what was before, also of what is gone.
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bergen");
    daemon.call("DELETE", "/api/v1/profiles/1/attributes/name?client=demo&by=pc", &[], None);
    let text = page(&daemon.get("/visitors?client=demo&by=pc&id=1"), 200);
    assert!(text.contains("<del>Oslo</del> <ins>Bergen</ins>"), "{text}");
    assert!(
        text.contains("</del> <span class=\"sub\">removed</span>") && text.contains("All changes since"),
        "{text}"
    );
    assert!(!text.contains("<script>alert"), "{text}");
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

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

#[test]
fn an_administrator_changes_and_erases_a_visitor_by_the_forms_of_its_page() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&mbox3rdPartyId=crm-1&profile.city=Bern&profile.tier=gold");
    let send = |to: &str, body: &str, headers: &[(&str, &str)]| {
        let headers = [&[FORM], headers].concat();
        daemon.call("POST", &format!("/visitors/{to}?client=demo"), &headers, Some(body.as_bytes()))
    };
    let city = || daemon.value("demo", "pc", "1", "city");
    let shown = page(&daemon.get("/visitors?client=demo&by=pc&id=1"), 200);
    for words in
        ["action=\"/visitors/set?client=demo\"", "Remove the attribute", "Erase for good", "Copy as JSON"]
    {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
    assert!(shown.contains("/api/v1/profiles/crm%2D1?client=demo&#38;by=third-party"), "{shown}");

    let set = send("set", "by=third-party&id=crm-1&name=city&value=%3Cb%3E%0D%0AOslo", &[]);
    assert_eq!(set.status, 303, "{}", set.text());
    let back = set.header("location").unwrap();
    let seq = set.header("profiled-seq").unwrap();
    let shown = page(&daemon.get(back), 200);
    assert!(shown.contains(&format!("The attribute is set. The write has the seq {seq}.")), "{shown}");
    assert!(!shown.contains("<b>\nOslo"), "{shown}");
    assert_eq!(city().as_deref(), Some("<b>\nOslo"));
    let visitor = daemon.visitor("demo", "pc", "1").unwrap();
    assert_eq!(visitor["attributes"]["city"]["source"], "single update");

    let refused = |to: &str, body: &str, status: u16, words: &str| {
        let text = page(&send(to, body, &[]), status);
        assert!(text.contains(words) && text.contains("href=\"/?client=demo\""), "{body}: {text}");
    };
    refused("set", "by=pc&id=1&name=city&value=", 400, "an empty value changes nothing");
    refused("set", "by=pc&id=1&name=&value=x", 400, "name is blank");
    refused("set", "by=pc&id=nobody&name=city&value=x", 404, "has no visitor with pcId nobody");
    refused("set", "by=shoe&id=1&name=city&value=x", 400, "by=shoe is not known");
    refused("remove", "by=pc&id=1&name=shoe", 404, "has no attribute");
    refused("erase", "by=pc&id=1", 400, "tick the box");
    for from in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(send("erase", "by=pc&id=1&sure=yes", &[from]).status, 403);
    }

    assert_eq!(send("remove", "by=pc&id=1&name=city", &[OWN]).status, 303);
    assert_eq!((city(), daemon.value("demo", "pc", "1", "tier").as_deref()), (None, Some("gold")));
    let erased = send("erase", "by=pc&id=1&sure=yes", &[OWN]);
    let (receipt, seq) = (page(&erased, 200), erased.header("profiled-seq").unwrap().to_owned());
    assert!(receipt.contains(&seq) && receipt.contains("within 24 hours"), "{receipt}");
    assert_eq!(daemon.visitor("demo", "third-party", "crm-1"), None);
    refused("erase", "by=pc&id=1&sure=yes", 404, "has no visitor");
    let audit = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
    assert!(
        audit.contains(&format!("\"act\":\"erase\",\"client\":\"demo\",\"what\":\"seq {seq}\"")),
        "{audit}"
    );
}

#[test]
fn only_an_administrators_cookie_changes_a_visitor_and_only_from_its_own_page() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1&profile.city=Bern");
    let cookie = |scope: &str| {
        format!("profiled-session={}", daemon.make_token(&["--client", "demo", "--scope", scope]))
    };
    let (admin, reader) = (cookie("admin"), cookie("batch,read"));
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/").status == 401).then_some(()));
    let visitor = "/visitors?client=demo&by=pc&id=1";
    let shown = |cookie: &str| page(&daemon.call("GET", visitor, &[("Cookie", cookie)], None), 200);
    assert!(shown(&admin).contains("<form method=\"post\" action=\"/visitors/erase"));
    assert!(!shown(&reader).contains("/visitors/erase") && shown(&reader).contains("Copy as curl"));
    assert!(shown(&admin).contains("Authorization: Bearer $PROFILED_TOKEN"));
    for to in ["set", "remove", "erase"] {
        let send = |cookie: &str, from: (&str, &str)| {
            let body: &[u8] = b"by=pc&id=1&name=city&value=x&sure=yes";
            daemon
                .call(
                    "POST",
                    &format!("/visitors/{to}?client=demo"),
                    &[FORM, ("Cookie", cookie), from],
                    Some(body),
                )
                .status
        };
        assert_eq!(send(&reader, OWN), 403, "{to}");
        assert_eq!(send(&admin, ("Sec-Fetch-Site", "cross-site")), 403, "{to}");
        assert_eq!(send(&admin, ("Sec-Fetch-Site", "same-site")), 403, "{to}");
        assert_eq!(send(&admin, ("X-Nothing", "")), 403, "{to}");
        assert_eq!(send("profiled-session=wrong", OWN), 401, "{to}");
    }
    assert!(shown(&admin).contains("Bern"), "nothing was written");
}

#[test]
fn a_long_value_is_folded() {
    let daemon = Daemon::start();
    let long = "y".repeat(1_500);
    daemon.mbox("demo", &format!("mbox=m&mboxPC=1&profile.long={long}&profile.short=x"));
    let shown = page(&daemon.get("/visitors?client=demo&by=pc&id=1"), 200);
    let summary =
        format!("<summary>{}… <span class=\"sub\">1,500 characters</span></summary>{long}", "y".repeat(80));
    assert!(shown.contains(&summary), "{shown}");
    assert!(shown.contains("<td role=\"cell\" class=\"value\">x</td>"), "{shown}");
}

/// A batch of which 3,988 of 4,000 rows were not found looked like any other.
#[test]
fn a_batch_most_of_whose_rows_found_nobody_says_so_and_what_may_be_amiss() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    let post = |file: &str| {
        let batch = daemon.post_batch("demo", file);
        daemon.wait_complete(&batch);
        (page(&daemon.get(&format!("/batches/{batch}")), 200), batch)
    };
    let (shown, batch) = post("batch=pcId,city\n1,Oslo\n7&8,Rome\n9,Bern\n9,%zz\n10,Bern\n");
    for words in ["3 rows named nobody who is known", "class=\"state complete amiss\"", "v2_creates_profiles"]
    {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
    assert!(shown.contains("/visitors?client=demo&amp;by=any&amp;id=7%268\">7&#38;8</a>"), "{shown}");
    assert!(page(&daemon.get("/batches?client=demo"), 200).contains("mostly not found"));

    let rows = |query: &str| page(&daemon.get(&format!("/batches/{batch}?{query}")), 200);
    let listed = rows("outcome=not_found");
    let lines: Vec<&str> =
        listed.split("class=\"number line\">").skip(1).map(|at| at.split('<').next().unwrap()).collect();
    // The failed row stands in the list of failures, which comes before.
    assert_eq!(lines, ["5", "3", "4", "6"], "{listed}");
    assert!(listed.contains("outcome=not_found#rows\" aria-current=\"true\""), "{listed}");
    assert!(rows("outcome=failed").contains("is not a valid escape"));
    assert!(rows("outcome=created").contains("No row is created."));
    assert_eq!(daemon.get(&format!("/batches/{batch}?outcome=lost")).status, 400);

    let (shown, _) = post("batch=pcId,city\n1,Oslo\n9,Rome\n1,Bern\n");
    assert!(shown.contains("1 row named nobody who is known") && !shown.contains("amiss"), "{shown}");
    let (shown, _) = post("batch=pcId,city\n1,Oslo\n");
    assert!(!shown.contains("named nobody"), "{shown}");
}

#[test]
fn the_first_page_says_how_the_daemon_is_to_who_may_know() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    daemon.try_batch("/m2/demo/profile/batchUpdate", "batch=pcId,a\n1,2\n");
    let shown = page(&daemon.get("/"), 200);
    for words in
        ["<span class=\"state complete\">ready</span>", "free disk", "last snapshot", "There are no tokens"]
    {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
    assert!(!shown.contains("Limits hit") && !shown.contains("role=\"alert\""), "{shown}");
    let long = "x".repeat(70_000);
    assert_eq!(
        daemon.get(&format!("/m2/demo/profile/update?mboxPC=1&profile.a={}", &long[..9_000])).status,
        414
    );
    assert!(page(&daemon.get("/"), 200).contains("<code>uri_length</code> 1×"));

    let of_all = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    let reads_all = daemon.make_token(&["--all-clients", "--scope", "read"]);
    let of_one = daemon.make_token(&["--client", "demo", "--scope", "admin"]);
    daemon.hang_up();
    wait_for("tokens to be asked for", || (daemon.get("/").status == 401).then_some(()));
    let shown = |token: &str| {
        page(&daemon.call("GET", "/", &[("Authorization", &format!("Bearer {token}"))], None), 200)
    };
    let of = |token: &str| token.split('_').nth(1).unwrap().to_owned();
    for token in [&of_all, &reads_all, &of_one] {
        assert!(shown(&of_all).contains(&format!("<code>{}</code>", of(token))), "{}", shown(&of_all));
        assert!(!shown(&of_all).contains(token.as_str()), "its text is nobody's to see");
    }
    assert!(shown(&reads_all).contains("free disk") && !shown(&reads_all).contains("Tokens that count"));
    assert!(!shown(&of_one).contains("free disk") && !shown(&of_one).contains(&of(&of_all)));
}

#[test]
fn every_page_says_so_while_writes_are_refused() {
    let daemon = Daemon::start_configured("disk_reserve_bytes = \"1TiB\"\n");
    let refused = daemon.get("/m2/demo/mbox/json?mbox=m&mboxPC=1");
    assert_eq!(refused.status, 507, "{}", refused.text());
    for path in ["/", "/batches", "/upload", "/live", "/visitors?client=demo&id=1"] {
        let shown = daemon.get(path).text();
        assert!(
            shown.contains("role=\"alert\">Writes are refused: the disk is nearly full."),
            "{path}: {shown}"
        );
    }
}
