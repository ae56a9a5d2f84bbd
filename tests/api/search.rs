//! Visitors by the beginning of an id.

use crate::support::{Daemon, encoded};
use serde_json::Value;

/// The ids that are found, page by page.
fn found(daemon: &Daemon, query: &str) -> Vec<String> {
    let mut path = format!("/api/v1/profiles?client=demo&{query}");
    let mut ids = vec![];
    loop {
        let reply = daemon.get(&path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let page: Value = reply.json();
        let profiles = page["profiles"].as_array().unwrap();
        ids.extend(profiles.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut path),
            None => return ids,
        }
    }
}

#[test]
fn visitors_are_found_by_the_beginning_of_each_kind_of_id() {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n[clients.demp]");
    let site = |ids: &str| daemon.mbox("demo", &format!("mbox=home&{ids}&profile.city=Oslo"));
    for id in ["crm", "crm-1", "crm-10", "crm-2", "crn", "cr", "Crm-1"] {
        site(&format!("mbox3rdPartyId={id}"));
    }
    site("mbox3rdPartyId=crm-3&mboxPC=7f3a.28_0&mboxMCGVID=38301234567890");
    site("mboxPC=7f3b");
    // Another client's, whose keys come next to these.
    daemon.mbox("demp", "mbox=home&mbox3rdPartyId=crm-9&profile.city=Oslo");
    daemon.call("DELETE", "/api/v1/profiles/crm-2?client=demo", &[], None);
    for (query, expected) in [
        ("beginning=crm", vec!["crm", "crm-1", "crm-10", "crm-3"]),
        ("beginning=crm-1", vec!["crm-1", "crm-10"]),
        ("beginning=crm-10", vec!["crm-10"]),
        ("beginning=crm-100", vec![]),
        ("beginning=c", vec!["cr", "crm", "crm-1", "crm-10", "crm-3", "crn"]),
        ("beginning=crm-2", vec![]),
        ("beginning=7f3&by=pc", vec!["7f3a", "7f3b"]),
        ("beginning=383&by=ecid", vec!["38301234567890"]),
        ("beginning=383&by=pc", vec![]),
        // What no id has begins none.
        ("beginning=%2F%00", vec![]),
    ] {
        for limit in ["", "&limit=1", "&limit=3"] {
            assert_eq!(found(&daemon, &format!("{query}{limit}")), expected, "{query}{limit}");
        }
    }
    for (after, expected) in [
        ("crm", vec!["crm-1", "crm-10", "crm-3"]),
        ("crm-11", vec!["crm-3"]),
        ("crn", vec![]),
        // From before the first of them on, all come.
        ("a", vec!["crm", "crm-1", "crm-10", "crm-3"]),
    ] {
        assert_eq!(found(&daemon, &format!("beginning=crm&after={after}")), expected, "{after}");
    }
    let one = daemon.get("/api/v1/profiles?client=demo&by=pc&beginning=7f3a").json()["profiles"][0].clone();
    assert_eq!((&one["canonicalBy"], &one["canonicalId"]), (&"third-party".into(), &"crm-3".into()), "{one}");
    assert_eq!(one["attributes"], 1);
    assert_eq!(one["lastActive"], daemon.visitor("demo", "pc", "7f3a").unwrap()["lastActive"]);
    for (query, why) in [
        ("", "beginning= is missing"),
        ("beginning=c&by=email", "by=email is not known"),
        ("beginning=c&limit=0", "limit"),
        ("beginning=c&limit=101", "limit"),
    ] {
        let reply = daemon.get(&format!("/api/v1/profiles?client=demo&{query}"));
        assert!(reply.status == 400 && reply.text().contains(why), "{query}: {}", reply.text());
    }
}

/// A page stops at so many keys, whoever of them lives, and the next one goes on there.
#[test]
fn many_who_are_gone_are_passed_over_page_by_page() {
    let daemon = Daemon::start();
    let mut ids = String::from("thirdPartyId\n");
    for number in 0..1_200 {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId=gone-{number}&profile.a=1"));
        ids += &format!("gone-{number}\n");
    }
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=gone-x&profile.a=1");
    let csv = [("Content-Type", "text/csv")];
    let reply = daemon.call("POST", "/api/v1/erasures?client=demo", &csv, Some(ids.as_bytes()));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = daemon.get("/api/v1/profiles?client=demo&beginning=gone").json();
    assert!(page["profiles"].as_array().unwrap().is_empty() && page["next"].is_string(), "{page}");
    assert_eq!(found(&daemon, "beginning=gone"), ["gone-x"]);
}

#[test]
fn the_command_line_lists_them_and_a_page_leads_to_them() {
    let daemon = Daemon::start();
    for id in ["crm-1", "crm-2", "a&b<c>"] {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId={}&profile.a=1", encoded(id)));
    }
    let (code, said, _) = daemon.run(&["profile", "find", "crm", "--client", "demo"]);
    assert!(code == Some(0) && said.contains("crm-1") && said.contains("crm-2"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (_, said, _) = daemon.run(&["profile", "find", "crm", "--client", "demo", "--limit", "1", "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["profiles"].as_array().unwrap().len(), 1, "{said}");
    let (code, said, _) = daemon.run(&["profile", "find", "none", "--client", "demo"]);
    assert!(code == Some(0) && said.contains("no visitor whose thirdPartyId begins with none"), "{said}");
    let page = daemon.get("/visitors?client=demo&by=any&id=crm");
    assert_eq!(page.status, 404);
    assert!(page.text().contains("id=crm-1\">crm-1</a>"), "{}", page.text());
    let page = daemon.get("/visitors?client=demo&by=third-party&id=a").text();
    assert!(page.contains("id=a%26b%3Cc%3E\">a&#38;b&#60;c&#62;</a>"), "{page}");
    assert!(!daemon.get("/visitors?client=demo&by=pc&id=crm").text().contains("Ids that begin so"));
}
