//! Visitors by the beginning of an id, by the value of an attribute, and by their last call.

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
        ("attribute=a", "value= is missing"),
        ("attribute=a&value=", "value= is missing"),
        ("value=a", "attribute= is missing"),
        ("attribute=a&value=1&by=pc", "by= is for beginning="),
        ("attribute=a&value=1&beginning=c", "either beginning="),
        ("attribute=a&value=1&after=crm", "not where a search goes on"),
        ("active=yes", "active=yes is not known"),
        ("active=true&beginning=c", "active=true stands alone"),
        ("active=true&by=pc", "active=true stands alone"),
        ("active=true&after=crm", "after=crm is not a seq"),
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

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn visitors_are_found_by_the_whole_value_of_an_attribute_whatever_their_ids() {
    let daemon = Daemon::start_configured("[clients.demo]\n[clients.demp]");
    for (client, ids, tier) in [
        ("demo", "mbox3rdPartyId=crm-1", "gold"),
        ("demo", "mbox3rdPartyId=crm-2", "golden"),
        ("demo", "mbox3rdPartyId=crm-3", "Gold"),
        ("demo", "mboxPC=7f3a", "gold"),
        // One visitor with three ids comes once.
        ("demo", "mbox3rdPartyId=crm-4&mboxPC=7f3b&mboxMCGVID=38301234567891", "gold"),
        ("demo", "mbox3rdPartyId=crm-5", "gold"),
        ("demp", "mbox3rdPartyId=crm-9", "gold"),
    ] {
        daemon.mbox(client, &format!("mbox=home&{ids}&profile.tier={tier}&profile.city=Oslo"));
    }
    daemon.call("DELETE", "/api/v1/profiles/crm-5?client=demo", &[], None);
    for (query, expected) in [
        ("attribute=tier&value=gold", vec!["7f3a", "crm-1", "crm-4"]),
        ("attribute=tier&value=Gold", vec!["crm-3"]),
        ("attribute=tier&value=gol", vec![]),
        ("attribute=Tier&value=gold", vec![]),
        ("attribute=city&value=gold", vec![]),
    ] {
        for limit in ["", "&limit=1", "&limit=3"] {
            assert_eq!(sorted(found(&daemon, &format!("{query}{limit}"))), expected, "{query}{limit}");
        }
    }
    let page = daemon.get("/api/v1/profiles?client=demo&attribute=tier&value=Gold").json();
    assert_eq!((&page["lookedAt"], &page["profiles"][0]["canonicalBy"]), (&5.into(), &"third-party".into()));
    daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=crm-1&profile.tier=silver");
    assert_eq!(found(&daemon, "attribute=tier&value=silver"), ["crm-1"]);
}

/// A lookup shows rows of pending batches; so does a search, page by page, for those whom they change and those whom they create.
#[test]
fn rows_of_pending_batches_count_also_those_that_create_a_visitor() {
    let daemon = Daemon::start_configured(
        "[ingest]\nmax_rows_per_second = 1\n[clients.demo]\nv2_creates_profiles = true",
    );
    for id in ["crm-1", "crm-2"] {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId={id}&profile.tier=silver"));
    }
    let mut file = String::from("batch=thirdPartyId,tier\ncrm-1,gold\n");
    let mut expected = vec!["crm-1".to_owned(), "late".into()];
    for number in 0..300 {
        file += &format!("new-{number},gold\n");
        expected.push(format!("new-{number}"));
    }
    // So many rows of one id are kept together, and the last one counts.
    file += &"late,silver\n".repeat(200);
    file += "late,gold\n";
    let first = daemon.post_batch("demo", &file);
    let second = daemon.post_batch("demo", "batch=thirdPartyId,tier\ncrm-2,gold\nnew-7,none\nnewest,gold\n");
    expected.retain(|id| id != "new-7");
    expected.extend(["crm-2".to_owned(), "newest".into()]);
    expected.sort();
    for limit in ["", "&limit=1", "&limit=7"] {
        let mut seen = found(&daemon, &format!("attribute=tier&value=gold{limit}"));
        seen.sort();
        assert_eq!(seen, expected, "{limit}");
    }
    for batch in [&first, &second] {
        assert_eq!(daemon.get(&format!("/api/v1/batches/{batch}")).json()["status"], "incomplete");
    }
    // What is applied between two pages is missed by none of them.
    let page = daemon.get("/api/v1/profiles?client=demo&attribute=tier&value=gold&limit=9").json();
    let mut seen: Vec<String> =
        page["profiles"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().into()).collect();
    daemon.configure("[clients.demo]\nv2_creates_profiles = true");
    daemon.hang_up();
    daemon.wait_complete(&first);
    daemon.wait_complete(&second);
    let rest = page["next"].as_str().unwrap().split_once("client=demo&").unwrap().1.to_owned();
    seen.extend(found(&daemon, &rest));
    seen.sort();
    seen.dedup();
    assert_eq!(seen, expected);
    assert_eq!(sorted(found(&daemon, "attribute=tier&value=gold&limit=50")), expected);
}

/// No page reads more than so many profiles, whoever asks for whatever.
#[test]
fn a_page_looks_at_so_many_profiles_and_says_where_to_go_on() {
    let daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true");
    let mut file = String::from("batch=thirdPartyId,tier\nzz,gold\n");
    (0..50_100).for_each(|number| file += &format!("new-{number},silver\n"));
    let batch = daemon.post_batch("demo", &file);
    daemon.wait_complete(&batch);
    let page = daemon.get("/api/v1/profiles?client=demo&attribute=tier&value=gold").json();
    let looked_at = page["lookedAt"].as_u64().unwrap();
    assert!(looked_at > 0 && looked_at <= 50_000 && page["next"].is_string(), "{page}");
    assert_eq!(found(&daemon, "attribute=tier&value=gold"), ["zz"]);
}

#[test]
fn a_form_and_the_command_line_find_visitors_by_a_value() {
    let daemon = Daemon::start();
    for number in 0..60 {
        daemon.mbox("demo", &format!("mbox=home&mbox3rdPartyId=crm-{number}&profile.tier=a%26b"));
    }
    let page = daemon.get("/find?client=demo&attribute=tier&value=a%26b").text();
    assert_eq!(page.matches("by=third-party&amp;id=crm-").count(), 50, "{page}");
    let next = page.split_once("rel=\"next\" href=\"").unwrap().1.split_once('"').unwrap().0;
    let page = daemon.get(&next.replace("&amp;", "&").replace("&#38;", "&")).text();
    assert!(
        page.matches("by=third-party&amp;id=crm-").count() == 10 && page.contains("There are no more."),
        "{page}"
    );
    for (query, words) in [
        ("", "Its value"),
        ("&attribute=tier", "Write an attribute and its value."),
        ("&attribute=tier&value=none", "Nobody has the value."),
    ] {
        let page = daemon.get(&format!("/find?client=demo{query}"));
        assert!(page.status == 200 && page.text().contains(words), "{query}: {}", page.text());
    }
    let find = ["profile", "find", "--client", "demo", "--attribute", "tier", "--value"];
    let (code, said, _) = daemon.run(&[&find[..], &["a&b", "--limit", "3"]].concat());
    assert!(
        code == Some(0) && said.matches("crm-").count() == 3 && said.contains("were looked at"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (_, said, _) = daemon.run(&[&find[..], &["a&b", "--limit", "1000", "--json"]].concat());
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["profiles"].as_array().unwrap().len(), 60, "{said}");
    let (code, said, _) = daemon.run(&[&find[..], &["none"]].concat());
    assert!(code == Some(0) && said.contains("no visitor with tier = none"), "{said}");
    for wrong in [
        &["profile", "find", "--client", "demo"][..],
        &["profile", "find", "x", "--client", "demo", "--attribute", "a", "--value", "b"],
    ] {
        assert_eq!(daemon.run(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn who_was_active_last_comes_first_and_each_once_whatever_the_kind_of_call() {
    let mut daemon = Daemon::start_configured("[clients.demo]\n[clients.demp]");
    let active = |daemon: &Daemon| found(daemon, "active=true");
    let started = daemon.get("/api/v1/profiles?client=demo&active=true").json();
    assert!(started["activeSince"].is_string() && started["profiles"] == serde_json::json!([]), "{started}");
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1&profile.tier=gold");
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-2&profile.tier=gold");
    daemon.mbox("demo", "mbox=home&mboxPC=7f3a");
    daemon.mbox("demp", "mbox=home&mbox3rdPartyId=crm-9");
    assert_eq!(active(&daemon), ["7f3a", "crm-2", "crm-1"]);
    // A call that changes nothing, and one that Delivery brings.
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-1");
    assert_eq!(active(&daemon), ["crm-1", "7f3a", "crm-2"]);
    let delivery = r#"{"id":{"thirdPartyId":"crm-2"},"execute":{"pageLoad":{}}}"#;
    let json = [("Content-Type", "application/json")];
    daemon.call("POST", "/rest/v1/delivery?client=demo&sessionId=s", &json, Some(delivery.as_bytes()));
    assert_eq!(active(&daemon)[0], "crm-2");
    daemon.post_form("/m2/demo/profile/update", "mboxPC=7f3a&profile.tier=silver");
    assert_eq!(active(&daemon), ["7f3a", "crm-2", "crm-1"]);
    // A single update of somebody unknown is nobody's call, and neither is a batch.
    daemon.post_form("/m2/demo/profile/update", "mboxPC=nobody&profile.tier=silver");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,tier\ncrm-1,none\n");
    daemon.wait_complete(&batch);
    for limit in [1, 2, 3] {
        assert_eq!(
            found(&daemon, &format!("active=true&limit={limit}")),
            ["7f3a", "crm-2", "crm-1"],
            "{limit}"
        );
    }
    // A login makes two visitors one.
    daemon.mbox("demo", "mbox=home&mboxPC=7f3a&mbox3rdPartyId=crm-1");
    assert_eq!(active(&daemon), ["crm-1", "crm-2"]);
    assert_eq!(found(&daemon, "active=true&by="), ["crm-1", "crm-2"]);
    let one = daemon.get("/api/v1/profiles?client=demo&active=true").json()["profiles"][0].clone();
    assert!(one["lastCall"].is_string() && one["attributes"] == 1, "{one}");
    let page = daemon.get("/api/v1/profiles?client=demp&active=true").json();
    assert_eq!(page["profiles"].as_array().unwrap().len(), 1, "{page}");
    let home = daemon.get("/?client=demo").text();
    assert!(home.contains("Most recently active") && home.contains("id=crm-2\">crm-2</a>"), "{home}");
    let (code, said, _) = daemon.run(&["profile", "find", "--active", "--client", "demo"]);
    let (first, second) = (said.find("crm-1"), said.find("crm-2"));
    assert!(
        code == Some(0)
            && first.is_some()
            && first < second
            && said.contains("keeps this list in memory, since"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    // The list is in memory, and says since when.
    daemon.kill9().restart();
    let page = daemon.get("/api/v1/profiles?client=demo&active=true").json();
    assert!(page["activeSince"].as_str() > started["activeSince"].as_str(), "{page}");
    assert_eq!(active(&daemon), Vec::<String>::new());
    let (_, said, _) = daemon.run(&["profile", "find", "--active", "--client", "demo"]);
    assert!(said.contains("no visitor who was active since"), "{said}");
}

#[test]
fn whoever_is_erased_is_active_no_more_also_by_another_id() {
    let daemon = Daemon::start();
    for ids in
        ["mbox3rdPartyId=crm-1&mboxPC=pc1", "mbox3rdPartyId=crm-2", "mboxPC=pc3", "mbox3rdPartyId=crm-4"]
    {
        daemon.mbox("demo", &format!("mbox=home&{ids}&profile.tier=gold"));
    }
    assert_eq!(found(&daemon, "active=true"), ["crm-4", "pc3", "crm-2", "crm-1"]);
    daemon.call("DELETE", "/api/v1/profiles/pc1?client=demo&by=pc", &[], None);
    assert_eq!(found(&daemon, "active=true"), ["crm-4", "pc3", "crm-2"]);
    let csv = [("Content-Type", "text/csv")];
    daemon.call("POST", "/api/v1/erasures?client=demo", &csv, Some(b"thirdPartyId\ncrm-2\ncrm-4\n"));
    assert_eq!(found(&daemon, "active=true"), ["pc3"]);
    // They are not only hidden: the list does not have them.
    let page = daemon.get("/api/v1/profiles?client=demo&active=true").json();
    assert_eq!(page["lookedAt"], 1, "{page}");
    for page in ["/?client=demo", "/find?client=demo"] {
        let page = daemon.get(page).text();
        assert!(page.contains("pc3") && !page.contains("crm-"), "{page}");
    }
    // A new visitor with the same id has nothing of the old one.
    daemon.mbox("demo", "mbox=home&mbox3rdPartyId=crm-2");
    let page = daemon.get("/api/v1/profiles?client=demo&active=true").json();
    assert_eq!(
        (&page["profiles"][0]["id"], &page["profiles"][0]["attributes"]),
        (&"crm-2".into(), &0.into())
    );
}
