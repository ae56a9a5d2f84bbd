//! A batch beside an earlier one.

use crate::support::{Daemon, encoded};
use serde_json::{Value, json};

fn post(daemon: &Daemon, name: &str, file: &str) -> String {
    let path = format!("/api/v1/batches?client=demo&name={}", encoded(name));
    let path = if name.is_empty() { "/api/v1/batches?client=demo" } else { &path };
    let reply = daemon.call("POST", path, &[("Content-Type", "text/csv")], Some(file.as_bytes()));
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["batchId"].as_str().unwrap().to_owned()
}

fn compared(daemon: &Daemon, batch: &str, with: &str) -> Value {
    let with = if with.is_empty() { String::new() } else { format!("?with={with}") };
    let reply = daemon.get(&format!("/api/v1/batches/{batch}/comparison{with}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn a_batch_is_compared_with_the_one_before_of_its_name_or_with_any() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mbox=home&mboxPC=1&profile.a=1");
    let first = post(&daemon, "nightly", "batch=pcId,tier,city\n1,gold,Oslo\n8,x,y\n9,x,y\n");
    let other = post(&daemon, "weekly", "batch=pcId,score\n1,7\n");
    let nameless = post(&daemon, "", "batch=pcId,score\n1,7\n");
    let second = post(&daemon, "nightly", "batch=pcId,score,tier\n1,1,silver\n1,%zz,x\n");
    for id in [&first, &other, &nameless, &second] {
        daemon.wait_complete(id);
    }
    let undo = format!("/api/v1/batches/{second}/undo");
    let reply = daemon.call("POST", &undo, &[("Content-Type", "application/json")], Some(b"{}"));
    let undoing = reply.json()["batchId"].as_str().unwrap().to_owned();
    daemon.wait_complete(&undoing);
    let third = post(&daemon, "monthly", "batch=pcId,score\n1,7\n");
    for (batch, with, expected, why) in [
        (&second, "", &first, "same_name"),
        (&other, "", &first, "before"),
        (&nameless, "", &other, "before"),
        // A batch that undoes another is no earlier state of anything.
        (&third, "", &second, "before"),
        (&second, other.as_str(), &other, "asked"),
        (&first, second.as_str(), &second, "asked"),
    ] {
        let found = compared(&daemon, batch, with);
        assert_eq!((&found["with"]["batchId"], &found["chosen"]), (&json!(expected), &json!(why)), "{found}");
    }
    let found = compared(&daemon, &second, "");
    assert_eq!(found["rowsDifference"], -1, "{found}");
    assert_eq!(found["attributes"], json!({"added": ["score"], "dropped": ["city"], "kept": 1}), "{found}");
    assert_eq!((&found["notes"], &found["with"]["name"]), (&json!([]), &json!("nightly")), "{found}");
    let of = |outcome: &str| {
        let lines = found["outcomes"].as_array().unwrap();
        let line = lines.iter().find(|line| line["outcome"] == outcome).unwrap();
        (
            line["batch"].as_u64().unwrap(),
            line["with"].as_u64().unwrap(),
            line["difference"].as_i64().unwrap(),
        )
    };
    assert_eq!(["updated", "not_found", "failed"].map(of), [(1, 1, 0), (0, 2, -2), (1, 0, 1)], "{found}");
    let updated = &found["outcomes"][0];
    assert_eq!((&updated["outcome"], &updated["batchShare"]), (&json!("updated"), &json!(0.5)), "{found}");
    let none = "demo-1701473848678-10000001";
    for (path, status, why) in [
        (format!("{first}/comparison"), 404, "has no batch before"),
        (format!("{none}/comparison"), 404, "was never accepted, or is no longer kept"),
        (format!("{second}/comparison?with={none}"), 404, "was never accepted, or is no longer kept"),
        (format!("{second}/comparison?with=nightly"), 404, "there is no batch nightly"),
        (format!("{second}/comparison?with={second}"), 400, "compared with itself"),
        (format!("{second}/comparison?with=other-1701473848678-10000001"), 400, "not a batch of client demo"),
    ] {
        let reply = daemon.get(&format!("/api/v1/batches/{path}"));
        assert!(reply.status == status && reply.text().contains(why), "{path}: {}", reply.text());
    }
}

#[test]
fn what_is_not_complete_or_cannot_be_read_is_said_and_the_counts_compare() {
    let daemon = Daemon::start();
    let first = post(&daemon, "", "batch=pcId,tier\n1,gold\n");
    daemon.wait_complete(&first);
    daemon.configure("[ingest]\nmax_rows_per_second = 1");
    daemon.hang_up();
    let rows = "1,gold\n".repeat(500) + &(0..2_000).map(|n| format!("p{n},x\n")).collect::<String>();
    let second = post(&daemon, "", &format!("batch=pcId,tier\n{rows}"));
    let found = compared(&daemon, &second, "");
    let note = found["notes"][0].as_str().unwrap();
    assert!(note.contains(&second) && note.contains("is not complete"), "{found}");
    assert_eq!(
        (&found["attributes"]["kept"], &found["rowsDifference"]),
        (&json!(1), &json!(2_499)),
        "{found}"
    );
    // The file of the first goes from under the daemon.
    for entry in std::fs::read_dir(daemon.data().join("spool")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "csv") && std::fs::metadata(&path).unwrap().len() < 100 {
            std::fs::remove_file(path).unwrap();
        }
    }
    let found = compared(&daemon, &second, "");
    assert!(found["attributes"].is_null() && found["rowsDifference"] == 2_499, "{found}");
    let note = found["notes"][1].as_str().unwrap();
    assert!(note.contains(&format!("The attributes of batch {first} are not known")), "{found}");
}

#[test]
fn a_page_and_the_command_line_compare_batches() {
    let daemon = Daemon::start();
    let first = post(&daemon, "nightly", "batch=pcId,tier,city\n1,gold,Oslo\n");
    daemon.wait_complete(&first);
    let page = daemon.get(&format!("/batches/{first}")).text();
    assert!(page.contains("There is no earlier batch of this client to compare with."), "{page}");
    let second = post(&daemon, "nightly", "batch=pcId,tier,score\n1,gold,1\n2,gold,2\n");
    daemon.wait_complete(&second);
    let page = daemon.get(&format!("/batches/{second}")).text();
    for words in [
        "the one before of the same name",
        &format!("<a href=\"/batches/{first}\">"),
        "Only this batch has <code>score</code>.",
        "This batch lacks <code>city</code>.",
        "<td class=\"number\">+1</td>",
        "100.0 %",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let page = daemon.get(&format!("/batches/{second}?with=none%3Cb%3E")).text();
    assert!(page.contains("there is no batch none&#60;b&#62;"), "{page}");
    let (code, said, _) = daemon.run(&["batch", "compare", &second]);
    assert!(code == Some(0) && said.contains("added: score") && said.contains("dropped: city"), "{said}");
    assert!(said.contains("2 (100.0%)") && said.contains(&first), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let (_, said, _) = daemon.run(&["batch", "compare", &first, "--with", &second, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["chosen"], "asked", "{said}");
    let (code, _, complaint) = daemon.run(&["batch", "compare", &first]);
    assert!(code == Some(1) && complaint.contains("has no batch before"), "{complaint}");
}
