//! The inspector's pages in a real browser: what a person sees and does at a desk, with a phone, in dark mode, with the keyboard or
//! with a screen reader. Without Chromium and its driver the tests say that they are skipped.
//!
//! ```text
//! driver.rs    Chromium by way of chromedriver
//! shop.rs      something of everything to look at, and a walk through every page
//! ```
//!
//! Pictures of every page are kept in `target/screenshots`, to be looked at.

mod driver;
mod shop;

use std::fmt::Write as _;
use std::path::Path;

use self::driver::{Browser, DARK, DESKTOP, ENTER, PHONE, PHONE_DARK, TAB};
use self::shop::{FAULTY, SENT, Shop, guarded};
use crate::support::{Daemon, skip, wait_for};
use serde_json::json;

/// How far a batch is, once it is complete: all its rows may be dealt with some time before.
const COMPLETE: &str = "#progress[data-state=complete] #far";

#[test]
fn a_visitor_is_found_by_any_id_and_shows_who_set_what_and_when() {
    let Some(browser) = Browser::start() else { return };
    let daemon = Daemon::start_configured("default_client = 'demo'");
    daemon.mbox("demo", "mbox=home&mboxPC=7f3a.28_0&mbox3rdPartyId=crm-17&profile.city=Oslo");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,tier\nother,no\ncrm-17,gold\n");
    daemon.wait_complete(&batch);
    daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=crm-17&profile.consent=yes");
    let known = daemon.visitor("demo", "pc", "7f3a").unwrap();

    for (by, id) in [("any", "7f3a"), ("third-party", "crm-17"), ("pc", "7f3a")] {
        browser.open(&daemon.url());
        browser.fill("#by", by);
        browser.fill("#id", id);
        browser.click("form[role=search] button");
        browser.wait_text("h1", "crm-17");

        let reported: Vec<_> = browser.rows("main table");
        let tier = format!("batch v2 {batch}, line 3");
        for (name, value, source) in
            [("city", "Oslo", "mbox"), ("tier", "gold", &tier), ("consent", "yes", "single update")]
        {
            let row = reported
                .iter()
                .find(|row| row[0] == name)
                .unwrap_or_else(|| panic!("no {name}: {reported:?}"));
            assert_eq!(row[1], value, "{reported:?}");
            assert!(row[2].starts_with(source), "{reported:?}");
        }
        let script = "return Object.fromEntries([...document.querySelectorAll('main tbody tr')].map(
            row => [row.cells[0].innerText, row.querySelector('time').dateTime]))";
        for (name, at) in browser.run(script, json!([])).as_object().unwrap() {
            assert_eq!(*at, known["attributes"][name]["modifiedAt"], "{name} by {by}");
        }
        // The newest comes first in the list; each source has a lane of its own in the drawing.
        let script = "const all = css => [...document.querySelectorAll(css)];
            return [all('.writes li b').map(it => it.innerText), all('.lane').map(lane =>
                [lane.querySelector('span').innerText, lane.querySelectorAll('circle').length])]";
        let drawn = browser.run(script, json!([]));
        let lanes = json!([["mbox", 1], ["batch v2", 1], ["single update", 1]]);
        assert_eq!(drawn, json!([["consent", "tier", "city"], lanes]));
    }
    browser.click("main tbody a");
    browser.wait_text("h1", &batch);
}

#[test]
fn calls_show_as_they_come_in_and_wait_while_the_page_is_paused() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    let calls = || browser.rows(".calls").into_iter().map(|row| row[1..4].join(" | ")).collect::<Vec<_>>();
    let wait_calls =
        |count: usize| wait_for("the calls to show", || Some(calls()).filter(|calls| calls.len() >= count));
    browser.open(&format!("{}/live?client=demo", shop.daemon.url()));
    browser.wait_text("[data-said]", "Listening.");
    assert!(browser.text("[data-none]").unwrap().contains("curl 'http://127.0.0.1:"));
    for call in shop.calls() {
        call();
    }
    let shown = wait_calls(5);
    assert_eq!(browser.text("[data-said]").as_deref(), Some("Listening. 5 calls."));
    let starts = [
        "unknown path | none | GET /m2/demo/mbox/jsn",
        "batch v2 | dry run | tried out: 4 rows",
        "update | nobody | consent=yes not found",
        "Delivery basket | crm-1",
        "mbox home | pc1 | city=Bern",
    ];
    for (row, start) in shown.iter().zip(starts) {
        assert!(row.starts_with(start), "{shown:?}");
    }
    assert!(
        shown[4].contains("left out 1 id that stands for nobody (blocked_ids): \"mbox3rdPartyId\""),
        "{shown:?}"
    );
    // A line of text is 36 px high at most: that is the row of the dry run.
    let heights = browser.run(
        "return [...document.querySelectorAll('.calls tbody tr')].map(it => it.offsetHeight)",
        json!([]),
    );
    assert!(heights[1].as_u64().unwrap() <= 36, "{heights}");

    browser.click("[data-pause]");
    shop.daemon.mbox("demo", "mbox=paused&mboxPC=pc2&profile.a=1");
    browser.wait_text("[data-pause]", "Go on (1 waiting)");
    assert_eq!(calls().len(), 5);
    browser.click("[data-pause]");
    assert!(wait_calls(6)[0].starts_with("mbox paused | pc2 | a=1"));
    browser.click("[data-clear]");
    assert_eq!((calls().len(), browser.text("[data-said]").as_deref()), (0, Some("Listening.")));

    // One visitor alone, by whatever id its calls bring.
    browser.fill("#id", "crm-3");
    browser.follow(".slim button");
    browser.wait_text("[data-said]", "Listening.");
    shop.daemon.mbox("demo", "mbox=home&mboxPC=pc4&profile.a=1");
    shop.daemon
        .mbox("demo", "mbox=home&mboxPC=pc3.28_0&profile.a=%3Cscript%3Edocument.title%3D'run'%3C/script%3E");
    let shown = wait_calls(1);
    assert!(shown.len() == 1 && shown[0].starts_with("mbox home | pc3 | a=<script>"), "{shown:?}");
    assert_eq!(browser.run("return document.title", json!([])), "Live · profiled");
    browser.click(".calls .whom a");
    browser.wait_text("h1", "crm-3");
}

#[test]
fn a_visitor_is_changed_and_erased_on_its_page() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    let city = || shop.daemon.value("demo", "third-party", "crm-1", "city");
    browser.open(&format!("{}/visitors?client=demo&by=any&id=crm-1", shop.daemon.url()));
    browser.click("[popovertarget=change-1]");
    browser.picture("visitor-change-desktop");
    browser.run("document.querySelector('#value-1').value = ''", json!([]));
    browser.fill("#value-1", "Trondheim");
    browser.click("#change-1 form:first-child button");
    browser.wait_text(".good", "The attribute is set.");
    assert_eq!(city().as_deref(), Some("Trondheim"));
    browser.click("[popovertarget=change-1]");
    browser.click("#change-1 .danger");
    browser.wait_text(".good", "The attribute is removed.");
    assert_eq!(city(), None);
    browser.click("[popovertarget=erase]");
    // Without the tick the browser sends nothing.
    browser.click("#erase .danger");
    assert!(browser.text("h1").unwrap().ends_with("crm-1"));
    browser.click("#sure");
    browser.click("#erase .danger");
    browser.wait_text("h1", "Erased");
    browser.picture("visitor-erased-desktop");
    assert_eq!(shop.daemon.visitor("demo", "third-party", "crm-1"), None);
}

#[test]
fn a_batchs_page_follows_it_to_its_end_without_being_loaded_again() {
    let Some(browser) = Browser::start() else { return };
    let daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 400");
    let mut file = String::from("batch=thirdPartyId,segment\n,nobody\n");
    for number in 0..40_000 {
        writeln!(file, "crm-{number},returning").unwrap();
    }
    for number in 0..10 {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId=crm-{number}"));
    }
    // At that rate it would take 100 seconds.
    let batch = daemon.post_batch("demo", file);
    browser.open(&format!("{}/batches/{batch}", daemon.url()));
    browser.run(
        "window.loadedOnce = true; document.querySelector('#progress a[href$=\"/file\"]').focus()",
        json!([]),
    );
    let mut seen: Vec<u64> = vec![];
    wait_for("the page to show a batch move", || {
        let reported = browser.text("#far")?;
        let (state, dealt) = reported.split_once(' ').unwrap();
        assert_eq!(state, "incomplete");
        let dealt = dealt.split_once(" of 40,001 rows").unwrap().0.replace(',', "").parse().unwrap();
        if seen.last() != Some(&dealt) {
            seen.push(dealt);
        }
        (seen.len() > 4).then_some(())
    });
    assert!(seen.is_sorted() && seen[4] < 40_001, "{seen:?}");
    browser.picture("batch-moving-desktop");
    assert!(browser.text("#news").unwrap().ends_with(" % are done"));

    daemon.configure("");
    daemon.hang_up();
    browser.wait_text(COMPLETE, "complete 40,001 of 40,001 rows");
    let count = |outcome: &str| browser.text(&format!("[data-count={outcome}]")).unwrap();
    let counts = ["updated", "created", "not_found", "ignored", "failed"].map(count);
    assert_eq!(counts, ["10", "0", "39,990", "0", "1"]);
    assert!(browser.text("#news").unwrap().starts_with("Complete: 10 updated, 39,990 not found, 1 failed"));
    assert_eq!(browser.text("#failed").as_deref(), Some("1 row failed"));
    let kept =
        browser.run("return [window.loadedOnce, document.activeElement.getAttribute('href')]", json!([]));
    assert_eq!(
        kept,
        json!([true, format!("/batches/{batch}/file")]),
        "whoever reads is left where they were"
    );
}

#[test]
fn a_dropped_file_is_tried_out_first_and_sent_when_the_person_agrees() {
    let Some(browser) = Browser::start() else { return };
    let daemon = Daemon::start_configured("default_client = 'demo'");
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1&profile.city=Bern");
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-2&profile.city=Bern");
    let batches = || daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len();

    browser.open(&daemon.url());
    browser.drop_file("h1", &browser.file("no-header.csv", "city\nOslo\n"));
    browser.wait_text("[data-said]", "no-header.csv would be refused: ");
    assert_eq!(browser.text(".trial"), None);

    browser.drop_file(".drop", &browser.file("visitors.csv", SENT));
    browser.wait_text("#trial", "What this file would do: 4 rows");
    let reported = browser.text(".trial").unwrap();
    assert!(
        reported.contains("2 updated, 1 not found, 1 failed of 4 rows. Nothing has been written."),
        "{reported}"
    );
    // Set, changed, the same, removed.
    let changes = [["city", "0", "1", "1", "0"], ["tier", "1", "0", "0", "0"]];
    assert_eq!(browser.rows(".trial table"), changes);
    let failing = browser.rows(".trial table.failed");
    assert_eq!(failing[0][..2], ["5", "crm-1"], "{failing:?}");
    assert_eq!(
        (batches(), daemon.value("demo", "third-party", "crm-1", "city").as_deref()),
        (0, Some("Bern"))
    );

    browser.click("[data-send]");
    browser.wait_text(COMPLETE, "complete 4 of 4 rows");
    assert_eq!(batches(), 1);
    let at = browser.path();
    let batch = at.strip_prefix("/batches/").unwrap();
    assert_eq!(daemon.wait_complete(batch).successful, 2);
    assert_eq!(daemon.value("demo", "third-party", "crm-1", "city").as_deref(), Some("Rome"));
}

#[test]
fn failures_are_explained_and_their_repair_file_goes_in_without_one() {
    let Some(browser) = Browser::start() else { return };
    let daemon = Daemon::start();
    for number in 1..=7 {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId=crm-{number}"));
    }
    let batch = daemon.post_batch("demo", FAULTY);
    daemon.wait_complete(&batch);
    browser.open(&format!("{}/batches/{batch}", daemon.url()));
    assert_eq!(browser.text("#failed").as_deref(), Some("5 rows failed"));
    let reasons = browser.rows("#failures table");
    let counted: Vec<_> = reasons.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(counted[0], ("bad_escape", "2"), "{reasons:?}");
    let others = [("empty_id", "1"), ("extra_cell", "1"), ("forbidden_in_id", "1")];
    assert_eq!(
        {
            let mut rest = counted[1..].to_vec();
            rest.sort_unstable();
            rest
        },
        others,
        "{reasons:?}"
    );
    let rows = browser.rows("#failures table.failed");
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["6", "7", "8", "9", "10"]);
    assert!(rows[1][2].contains("\"%zz\" is not a valid escape"), "{rows:?}");

    browser.click("#repair");
    // The browser reserves the name with an empty file, and writes beside it.
    let repair = wait_for("the repair file", || {
        let mut files = std::fs::read_dir(browser.downloads()).unwrap().map(|file| file.unwrap().path());
        let file = files.find(|path| path.extension().is_some_and(|it| it == "csv"))?;
        Some(std::fs::read_to_string(file).unwrap()).filter(|text| !text.is_empty())
    });
    let failed: Vec<_> = FAULTY.lines().skip(5).collect();
    assert_eq!(repair.lines().skip(1).collect::<Vec<_>>(), failed);
    let mended = repair
        .replace("100%", "100%25")
        .replace("%zz", "Oslo")
        .replace("\n,", "\ncrm-6,")
        .replace("crm/6", "crm-6")
        .replace(",more", "");
    browser.open(&format!("{}/upload?client=demo", daemon.url()));
    browser.drop_file(".drop", &browser.file("mended.csv", mended));
    browser.wait_text(".trial", "5 updated of 5 rows. Nothing has been written.");
    assert_eq!(browser.text(".trial table.failed"), None);
    browser.click("[data-send]");
    browser.wait_text(COMPLETE, "complete 5 of 5 rows");
    assert_eq!(browser.text("#failed"), None);
    assert_eq!(daemon.value("demo", "third-party", "crm-4", "city").as_deref(), Some("100%"));
}

#[test]
fn a_page_asks_for_a_token_says_what_is_wrong_with_it_and_leads_on() {
    let Some(browser) = Browser::start() else { return };
    let (daemon, token) = guarded();
    let asked_for = "/visitors?client=demo&by=third-party&id=crm-1";
    browser.open(&format!("{}{asked_for}", daemon.url()));
    assert_eq!(browser.text("h1").as_deref(), Some("A token is needed"));
    assert!(!browser.text("body").unwrap().contains("Bern"));
    // The field has the focus, and keeps what is typed to itself.
    assert_eq!(
        browser.run("return document.activeElement.id + document.activeElement.type", json!([])),
        "tokenpassword"
    );
    browser.press("not a token".chars().chain([ENTER]));
    let reported = browser.wait_text("#wrong", "It was not taken");
    assert!(reported.len() > "It was not taken: .".len(), "{reported}");
    let described =
        browser.run("return document.querySelector('#token').getAttribute('aria-describedby')", json!([]));
    assert_eq!(described, "wrong");

    browser.fill("#token", &token);
    browser.click("main button");
    browser.wait_text("h1", "crm-1");
    assert_eq!(browser.path(), asked_for);
    assert_eq!(browser.rows("main table")[0][..2], ["city", "Bern"]);
    browser.click(".who button");
    browser.wait_text("h1", "A token is needed");
    browser.open(&format!("{}{asked_for}", daemon.url()));
    assert_eq!(browser.text("h1").as_deref(), Some("A token is needed"));
}

#[test]
fn no_page_is_wider_than_a_phone_and_a_finger_meets_what_it_aims_at() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    browser.look(PHONE);
    shop.walk(&browser, |name| {
        browser.picture(&format!("{name}-phone"));
        let script = "return [document.documentElement.scrollWidth,
            [...document.querySelectorAll('a, button, select, textarea, summary, input:not([type=hidden])')]
                .filter(it => it.checkVisibility() && !it.matches('.skip'))
                .map(it => [it.outerHTML.slice(0, 120), it.getBoundingClientRect()])
                .filter(([, box]) => box.height < 24 || box.width < 24 || box.left < 0 || box.right > 390)
                .map(([it, box]) => [it, box.left, box.width, box.height]),
            [...document.querySelectorAll('main :is(table, svg, h1, dd, code, a)')]
                .filter(it => it.getBoundingClientRect().right > it.parentElement.getBoundingClientRect().right + 1)
                .map(it => it.outerHTML.slice(0, 120))]";
        assert_eq!(browser.run(script, json!([])), json!([PHONE.width, [], []]), "{name}");
    });
}

#[test]
fn pages_are_dark_where_the_system_is() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    // The relative luminance (WCAG 2) of the grounds and of the text that stands on them.
    let script = "const light = colour => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(it => it / 255)
                .map(it => it <= .04045 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const grounds = [...document.querySelectorAll('html, header, input:not([type=file], [type=hidden]), select, table, .drop, .plot, .message')];
        const text = [...document.querySelectorAll('html, h1, p:not(.message), td, input, select')];
        const lights = (all, name) => all.map(it => light(getComputedStyle(it)[name]));
        return [Math.max(...lights(grounds, 'backgroundColor')), Math.min(...lights(grounds, 'backgroundColor')),
            Math.min(...lights(text, 'color')), Math.max(...lights(text, 'color'))]";
    for look in [DESKTOP, DARK, PHONE_DARK] {
        browser.look(look);
        shop.walk(&browser, |name| {
            browser.picture(&format!("{name}-{}", look.name));
            let lights: [f64; 4] = serde_json::from_value(browser.run(script, json!([]))).unwrap();
            let [ground_max, ground_min, text_min, text_max] = lights;
            match look.dark {
                true => assert!(ground_max < 0.05 && text_min > 0.2, "{name}: {lights:?}"),
                false => assert!(ground_min > 0.8 && text_max < 0.2, "{name}: {lights:?}"),
            }
        });
    }
}

/// What can be reached on a page, in the order in which it stands there.
const STOPS: &str =
    "[...document.querySelectorAll('a[href], button, select, textarea, summary, [tabindex=\"0\"], input:not([type=hidden])')].filter(
    it => it.checkVisibility() && !it.disabled)";

/// Goes on by the tabulator until the focus is there.
#[track_caller]
fn tab_to(browser: &Browser, css: &str) {
    for _ in 0..100 {
        browser.press([TAB]);
        if browser.run("return document.activeElement.matches(arguments[0])", json!([css])) == true {
            return;
        }
    }
    panic!("the tabulator does not lead to {css}");
}

#[test]
fn everything_can_be_done_and_seen_to_be_done_from_the_keyboard() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    shop.walk(&browser, |name| {
        let count = browser.run(&format!("return {STOPS}.length"), json!([])).as_u64().unwrap();
        // Wherever the focus was: on from the first.
        browser.run("document.querySelector('.skip').focus()", json!([]));
        for stop in 1..count {
            browser.press([TAB]);
            // A field for a time has a stop for each part of it.
            let part = format!(
                "const at = document.activeElement; return at.type === 'datetime-local' && {STOPS}.indexOf(at) < {stop}"
            );
            while browser.run(&part, json!([])) == json!(true) {
                browser.press([TAB]);
            }
            let script = format!(
                "const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
                 return [{STOPS}.indexOf(at), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                    box.top >= 0 && box.bottom <= innerHeight && box.left >= 0]"
            );
            assert_eq!(browser.run(&script, json!([])), json!([stop, true, true]), "{name}, stop {stop} of {count}");
        }
    });

    browser.open(&shop.daemon.url());
    browser.press([TAB, ENTER]);
    assert_eq!(browser.run("return document.activeElement.id", json!([])), "main", "past the menu");
    tab_to(&browser, "#id");
    browser.press("crm-1".chars().chain([ENTER]));
    browser.wait_text("h1", "crm-1");
    tab_to(&browser, "main a[href^='/batches/']");
    browser.press([ENTER]);
    browser.wait_text("#far", "rows dealt with");
    tab_to(&browser, "nav a[href^='/upload']");
    browser.press([ENTER]);
    browser.wait_text("h1", "Send a batch");
    tab_to(&browser, "#file");
    // What the system's own window for choosing files would give.
    browser.fill("#file", browser.file("visitors.csv", SENT).to_str().unwrap());
    browser.wait_text("#trial", "What this file would do");
    assert_eq!(browser.run("return document.activeElement.id", json!([])), "trial", "the report is read out");
    tab_to(&browser, "[data-send]");
    browser.press([ENTER]);
    browser.wait_text("#far", "of 4 rows");
}

#[test]
fn pages_are_readable_without_a_script() {
    let Some(browser) = Browser::start() else { return };
    let shop = Shop::open();
    browser.run_no_scripts();
    let url = shop.daemon.url();
    let check = |path: &str, words: &[&str]| {
        browser.open(&format!("{url}{path}"));
        let reported = browser.text("main").unwrap();
        for words in words {
            assert!(reported.contains(words), "no {words:?} at {path}: {reported}");
        }
    };
    let Shop { batch, pending, .. } = &shop;
    check(
        "/",
        &["Newest batches", batch, "Rows accepted, by minute", "profiled batch post FILE --client demo"],
    );
    check(
        "/visitors?client=demo&by=any&id=crm-1",
        &["consent", "yes, to all of it", "single update", "Timeline"],
    );
    check("/batches?client=demo", &[batch, "2 updated, 1 not found, 1 ignored, 5 failed of 9 rows"]);
    check(
        &format!("/batches/{batch}"),
        &["9 of 9 rows dealt with", "bad_escape", "Download the repair file"],
    );
    check(
        &format!("/batches/{pending}"),
        &["0 of 75 rows dealt with", "until then the batch is held back", "Look again"],
    );
    // What would do nothing is not there.
    check(
        "/live?client=demo",
        &["takes JavaScript", "profiled live --client demo", "The same as plain text"],
    );
    assert_eq!(browser.run("return document.querySelector('.live').checkVisibility()", json!([])), false);
    check("/upload?client=demo", &["takes JavaScript"]);
    assert_eq!(browser.run("return document.querySelector('#file').checkVisibility()", json!([])), false);
    browser.open(&url);
    browser.fill("#id", "crm-2");
    browser.click("form[role=search] button");
    browser.wait_text("h1", "crm-2");
}

/// The checker of accessibility, where `.ci/run` puts it.
const AXE: &str = "target/axe/node_modules/axe-core/axe.min.js";

#[test]
fn axe_finds_nothing_on_any_page_in_any_look() {
    let Some(browser) = Browser::start() else { return };
    let Ok(axe) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE)) else {
        skip("axe-core is not here: npm install --prefix target/axe axe-core");
        return;
    };
    let shop = Shop::open();
    let (mut pages, mut passed, mut found) = (0, 0, vec![]);
    let mut version = String::new();
    for look in [DESKTOP, PHONE, DARK, PHONE_DARK] {
        browser.look(look);
        shop.walk(&browser, |name| {
            browser.run(&axe, json!([]));
            // What it cannot decide (text over a picture, say) is no better than what it finds.
            let reported = browser.run_until_reply(
                "const done = arguments[0];
                 const broken = rule => rule.nodes.map(it => [rule.id, it.target.join(' '), it.failureSummary]);
                 axe.run(document, { rules: { 'target-size': { enabled: true } } }).then(it => done({
                    version: it.testEngine.version, passed: it.passes.length,
                    found: [...it.violations, ...it.incomplete].flatMap(broken),
                 }), error => done({ found: [String(error)] }))",
                json!([]),
            );
            let broken = reported["found"].as_array().unwrap();
            found.extend(broken.iter().map(|it| format!("{name}, {}: {it:#}", look.name)));
            pages += 1;
            passed += reported["passed"].as_u64().unwrap_or(0);
            version = reported["version"].as_str().unwrap_or_default().to_owned();
        });
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!(
        "axe-core {version}: {pages} pages, each in 4 looks, {passed} rules passed, 0 undecided, 0 violations",
        pages = pages / 4
    );
}
