//! Identity: the login merge of Adobe's page on `mbox3rdPartyId`, devices, logout, a device that changes hands, ECIDs, and
//! consecutive v2 batches in both modes. Over HTTP, before and after a `kill -9` and a restart.

use crate::support::Daemon;

/// A step: calls to make, or what must then be read. `mbox …` are parameters of a site call (`pc=`, `tp=`, `ecid=` for
/// the ids, other names for attributes), `batch …` is a file with `;` for line ends (those at even steps are waited for,
/// the others are still pending or being applied when the next step comes), `kill` kills and restarts,
/// `tp:x a=1 b=2` is a visitor with exactly these attributes, `pc:x -` one that is unknown, `ids tp:x p1 p2` the pcIds.
fn check(steps: &[&str]) {
    check_with(&[], steps);
}

fn check_with(arguments: &[&str], steps: &[&str]) {
    let mut daemon = Daemon::start_with(arguments);
    for (n, step) in steps.iter().enumerate() {
        let at = format!("step {n}, {step:?} of {steps:#?}");
        let (what, rest) = step.split_once(' ').unwrap_or((step, ""));
        match what {
            "mbox" => {
                let name = |parameter: &str| {
                    let (name, value) = parameter.split_once('=').unwrap();
                    match name {
                        "pc" => format!("&mboxPC={value}"),
                        "tp" => format!("&mbox3rdPartyId={value}"),
                        "ecid" => format!("&mboxMCGVID={value}"),
                        attribute => format!("&profile.{attribute}={value}"),
                    }
                };
                daemon.mbox("demo", &rest.split(' ').map(name).collect::<String>());
            }
            "batch" => {
                let id = daemon.post_batch("demo", rest.replace(';', "\n"));
                if n % 2 == 0 {
                    daemon.wait_complete(&id);
                }
            }
            "kill" => drop(daemon.kill9().restart()),
            "ids" => {
                let (id, expected) = rest.split_once(' ').unwrap_or((rest, ""));
                assert_eq!(pc_ids(&daemon, id), expected, "{at}");
            }
            id => assert_eq!(attributes(&daemon, id), rest, "{at}"),
        }
    }
}

fn visitor(daemon: &Daemon, id: &str) -> Option<serde_json::Value> {
    let (by, id) = id.split_once(':').unwrap();
    daemon.visitor("demo", if by == "tp" { "third-party" } else { by }, id)
}

fn attributes(daemon: &Daemon, id: &str) -> String {
    let Some(visitor) = visitor(daemon, id) else { return "-".into() };
    let attributes = visitor["attributes"].as_object().unwrap();
    let mut shown: Vec<String> =
        attributes.iter().map(|(name, a)| format!("{name}={}", a["value"].as_str().unwrap())).collect();
    shown.sort();
    shown.join(" ")
}

fn pc_ids(daemon: &Daemon, id: &str) -> String {
    let visitor = visitor(daemon, id).unwrap();
    let mut ids: Vec<&str> =
        visitor["pcIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.join(" ")
}

#[test]
fn a_login_ends_as_in_adobes_table() {
    // "3rdPartyId for real-time profile syncing": before login category=hats, stored category=skis and store=94103.
    check(&[
        "mbox pc=home tp=marie category=skis store=94103",
        "mbox pc=work category=hats",
        "pc:work category=hats",
        "mbox pc=work tp=marie",
        "tp:marie category=skis store=94103",
        "pc:work category=skis store=94103",
        "ids tp:marie home work",
        "kill",
        "pc:work category=skis store=94103",
    ]);
}

#[test]
fn a_login_takes_along_what_only_the_device_knew() {
    check(&[
        "mbox pc=home tp=marie store=94103",
        "mbox pc=work category=hats size=M",
        "mbox pc=work tp=marie size=L",
        "tp:marie category=hats size=L store=94103",
    ]);
}

#[test]
fn a_first_login_moves_the_device_s_profile() {
    check(&[
        "mbox pc=work category=hats",
        "tp:marie -",
        "mbox pc=work tp=marie",
        "tp:marie category=hats",
        "pc:work category=hats",
        "kill",
        "tp:marie category=hats",
    ]);
}

/// A dot only ends an id if a location hint follows. Once, `alice.smith` and `alice.jones` were one visitor, and a row of
/// `1.36732E+12`, rounded by a spreadsheet, wrote to visitor `1`.
#[test]
fn what_follows_a_dot_is_cut_off_only_if_it_is_a_location_hint() {
    let daemon = Daemon::start();
    for id in ["alice", "1", "123.28_0", "7.01"] {
        daemon.mbox("demo", &format!("&mboxPC={id}&profile.a=0"));
    }
    for id in ["alice.smith", "alice.jones", "1.36732E%2B12", "123.x", "123."] {
        for path in [
            format!("/m2/demo/mbox/json?mbox=m&mboxSession=s&mboxPC={id}&profile.a=1"),
            format!("/m2/demo/profile/update?mboxPC={id}&profile.a=1"),
        ] {
            let reply = daemon.get(&path);
            assert_eq!(reply.status, 400, "{path}");
            assert!(
                reply.text().contains("a dot is allowed only before a location hint"),
                "{}",
                reply.text()
            );
        }
        assert_eq!(daemon.get(&format!("/rest/v1/profiles/{id}?client=demo")).status, 404);
    }
    let rows = ["alice.smith", "1.36732E+12", "\"1,36732E+12\"", "123.28_0", "7.99_1", "123"];
    let file: String = rows.iter().map(|id| format!("{id},2\n")).collect();
    let batch = daemon.post_batch("demo", format!("batch=pcId,a\n{file}"));
    assert_eq!(daemon.wait_complete(&batch).failed, 2);
    let failed = daemon.get(&format!("/api/v1/batches/{batch}/outcomes?outcome=failed&client=demo")).text();
    assert!(
        failed.contains("\"\"alice.smith\"\" is not a pcId: a dot is allowed only before a location hint"),
        "{failed}"
    );
    assert!(failed.contains("it looks like a number that a spreadsheet has rounded"), "{failed}");
    for (id, value) in [("pc:alice", "a=0"), ("pc:1", "a=0"), ("pc:123", "a=2"), ("pc:7", "a=2")] {
        assert_eq!(attributes(&daemon, id), value, "{id}");
    }
}

/// A blocked id counts as not sent. `mbox3rdPartyId=undefined` once made one visitor of all who were logged out.
#[test]
fn a_blocked_id_does_not_join_visitors() {
    let own = "[clients.demo]\n[clients.own]\nblocked_ids = ['Void']\n[clients.all]\nblocked_ids = []\n";
    let daemon = Daemon::start_configured(own);
    for id in ["undefined", "NULL", "%23N/A", "0", "-1", "%5Bobject%20Object%5D", "%22null%22"] {
        for (n, device) in ["phone", "desk"].iter().enumerate() {
            daemon.mbox("demo", &format!("&mboxPC={device}&mbox3rdPartyId={id}&profile.a={n}"));
        }
        let body = serde_json::json!({ "id": { "tntId": "phone", "thirdPartyId": "undefined" } }).to_string();
        let json = [("Content-Type", "application/json")];
        let reply =
            daemon.call("POST", "/rest/v1/delivery?client=demo&sessionId=s", &json, Some(body.as_bytes()));
        assert_eq!(reply.json()["id"], serde_json::json!({ "tntId": "phone" }));
        assert_eq!(reply.header("profiled-left-out"), Some("1 id that stands for nobody (blocked_ids)"));
        assert_eq!(
            (attributes(&daemon, "pc:phone"), attributes(&daemon, "pc:desk")),
            ("a=0".into(), "a=1".into()),
            "{id}"
        );
        let update = daemon.get(&format!("/m2/demo/profile/update?mbox3rdPartyId={id}&profile.a=1"));
        assert_eq!(update.status, 400, "{id}");
        assert!(update.text().contains("blocked_ids"), "{}", update.text());
    }
    assert_eq!(attributes(&daemon, "tp:undefined"), "-");
    assert!(daemon.metrics().value(r#"profiled_attributes_left_out_total{reason="blocked_id"}"#) >= 21.0);
    // Every call drops invisible characters around an id.
    daemon.mbox("demo", "&mboxPC=%C2%A0desk%E2%80%8B&profile.b=1");
    daemon.get("/m2/demo/profile/update?mboxPC=%EF%BB%BFdesk&profile.c=1");
    assert_eq!(attributes(&daemon, "pc:desk"), "a=1 b=1 c=1");
    assert_eq!(daemon.get("/api/v1/profiles/%C2%A0desk?by=pc&client=demo").status, 200);
    assert_eq!(daemon.get("/rest/v1/profiles/desk%C2%A0?client=demo").status, 200);
    // A call with only such ids makes a new visitor each time.
    assert_ne!(daemon.mbox("demo", "&mboxPC=null"), daemon.mbox("demo", "&mboxPC=null"));
    daemon.mbox("all", "&mboxPC=1&mbox3rdPartyId=undefined&profile.a=1");
    daemon.mbox("own", "&mboxPC=1&mbox3rdPartyId=undefined&profile.a=1");
    daemon.mbox("own", "&mboxPC=2&mbox3rdPartyId=VOID&profile.a=1");
    for (client, id, there) in
        [("all", "undefined", true), ("own", "undefined", true), ("own", "VOID", false)]
    {
        assert_eq!(daemon.visitor(client, "third-party", id).is_some(), there, "{client} {id}");
    }
    // A visitor that was stored under such an id can still be erased by it.
    let erased = daemon.call("DELETE", "/api/v1/profiles/undefined?by=third-party&client=own", &[], None);
    assert_eq!(erased.status / 100, 2, "{}", erased.text());
    assert_eq!(daemon.visitor("own", "third-party", "undefined"), None);
}

#[test]
fn two_devices_share_a_profile_and_logout_changes_nothing() {
    check(&[
        "mbox pc=phone tp=marie a=1",
        "mbox pc=desk tp=marie b=1",
        "mbox pc=phone c=1",
        "mbox pc=desk a=2",
        "pc:phone a=2 b=1 c=1",
        "pc:desk a=2 b=1 c=1",
        "kill",
        "mbox pc=desk d=1",
        "tp:marie a=2 b=1 c=1 d=1",
    ]);
}

#[test]
fn a_device_that_changes_hands_leaves_the_old_profile_as_it_was() {
    check(&[
        "mbox pc=desk tp=marie a=1",
        "mbox pc=phone tp=marie",
        "mbox pc=desk tp=paul b=1",
        "tp:marie a=1",
        "tp:paul b=1",
        "ids tp:marie phone",
        "ids tp:paul desk",
        "kill",
        "mbox pc=desk c=1",
        "pc:desk b=1 c=1",
        "mbox pc=desk tp=marie",
        "pc:desk a=1",
        "tp:paul b=1 c=1",
        "ids tp:marie desk phone",
    ]);
}

#[test]
fn batches_by_either_id_meet_the_same_visitor() {
    check(&[
        "mbox pc=desk tp=marie a=1",
        "mbox pc=phone tp=marie",
        "batch batch=pcId,b,c;desk,1,1;phone,2,;desk.28_0,,3",
        "tp:marie a=1 b=2 c=3",
        "batch batch=thirdPartyId,c;marie,4",
        "pc:phone a=1 b=2 c=4",
        "kill",
        "pc:desk a=1 b=2 c=4",
    ]);
}

#[test]
fn a_pending_row_stays_with_who_the_device_was_when_the_batch_came() {
    check(&[
        "mbox pc=desk tp=marie a=1",
        "batch batch=pcId,b;desk,1",
        "mbox pc=desk tp=paul",
        "tp:marie a=1 b=1",
        "tp:paul",
        "kill",
        "tp:marie a=1 b=1",
        "batch batch=pcId,b;desk,2",
        "tp:paul b=2",
        "tp:marie a=1 b=1",
    ]);
}

#[test]
fn an_ecid_leads_to_whoever_it_came_with_and_goes_with_the_device() {
    check(&[
        "mbox pc=desk ecid=38 a=1",
        "ecid:38 a=1",
        "mbox pc=desk tp=marie",
        "ecid:38 a=1",
        "mbox pc=desk tp=paul b=1",
        "ecid:38 b=1",
        "kill",
        "ecid:38 b=1",
        "mbox pc=phone ecid=38",
        "ecid:38 ",
        "tp:paul b=1",
        "mbox ecid=99 c=1",
        "ecid:99 c=1",
        "mbox ecid=99 tp=paul",
        "ecid:99 b=1 c=1",
    ]);
}

#[test]
fn a_later_mbox_write_beats_an_earlier_batch_row() {
    check(&[
        "mbox pc=desk tp=marie a=0",
        "batch batch=thirdPartyId,a,b;marie,1,1",
        "mbox pc=desk a=2",
        "tp:marie a=2 b=1",
        "kill",
        "tp:marie a=2 b=1",
        "mbox pc=desk b=2",
        "batch batch=thirdPartyId,a;marie,3",
        "tp:marie a=3 b=2",
    ]);
}

#[test]
fn a_visitor_born_after_a_batch_is_not_touched_by_it() {
    check(&[
        "mbox pc=other a=0",
        "batch batch=pcId,a;desk,1",
        "mbox pc=desk b=2",
        "pc:desk b=2",
        "kill",
        "pc:desk b=2",
    ]);
}

#[test]
fn a_later_row_of_a_batch_beats_an_earlier_one_though_the_rows_are_sorted_and_split() {
    let rows: String = (0..500).rev().map(|n| format!(";v{},{n}", n % 50)).collect();
    let born: Vec<String> = (0..50).map(|n| format!("mbox pc=v{n} tp=t{n}")).collect();
    let read: Vec<String> = (0..50).map(|n| format!("tp:t{n} a={n}")).collect();
    let batch = format!("batch batch=pcId,a{rows}");
    let steps = born.iter().chain([&batch]).chain(&read).map(String::as_str);
    check(&steps.collect::<Vec<_>>());
}

#[test]
fn batches_posted_at_the_same_instant_end_in_the_order_of_their_seqs() {
    let daemon = Daemon::start();
    (0..200).for_each(|n| drop(daemon.mbox("demo", &format!("mboxPC=p{n}&mbox3rdPartyId=t{n}&profile.a=0"))));
    for round in 0..10 {
        let rows = |who: &str| -> String {
            let row = |n| format!("t{n},{who}{round}\n");
            "batch=thirdPartyId,a\n".to_owned() + &(0..200).map(row).collect::<String>()
        };
        let post = |who: &str| -> (u64, String, String) {
            let reply = daemon.try_batch("/m2/demo/v2/profile/batchUpdate", rows(who));
            (reply.header("profiled-seq").unwrap().parse().unwrap(), who.to_owned(), reply.batch_id())
        };
        let (one, two) = std::thread::scope(|scope| {
            let (one, two) = (scope.spawn(|| post("one")), scope.spawn(|| post("two")));
            (one.join().unwrap(), two.join().unwrap())
        });
        let last = format!("{}{round}", one.clone().max(two.clone()).1);
        let all = |when: &str| {
            for n in 0..200 {
                assert_eq!(attributes(&daemon, &format!("tp:t{n}")), format!("a={last}"), "{when}");
            }
        };
        all("at once");
        assert_eq!(daemon.wait_complete(&one.2).successful + daemon.wait_complete(&two.2).successful, 400);
        all("once applied");
    }
}

#[test]
fn consecutive_v2_batches_in_both_modes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |mode: &str, after_two: &str, after_mbox: &str| {
        let toml = folder.path().join(format!("{mode}.toml"));
        std::fs::write(&toml, format!("[clients.demo]\nconsecutive_v2 = \"{mode}\"\n")).unwrap();
        check_with(
            &["--config", toml.to_str().unwrap()],
            &[
                "mbox pc=desk tp=marie a=0",
                "batch batch=thirdPartyId,a,b;marie,1,1",
                "tp:marie a=1 b=1",
                "batch batch=thirdPartyId,c;marie,2",
                &format!("tp:marie {after_two}"),
                "mbox pc=desk d=3",
                "batch batch=thirdPartyId,e;marie,4",
                &format!("tp:marie {after_mbox}"),
                "kill",
                &format!("tp:marie {after_mbox}"),
            ],
        );
    };
    run("merge", "a=1 b=1 c=2", "a=1 b=1 c=2 d=3 e=4");
    run("replace", "a=0 c=2", "a=0 c=2 d=3 e=4");
}
