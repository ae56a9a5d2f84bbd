//! What must hold when all nodes are at the order's end.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::load::{BATCH_ROWS, Fate, OneWrite, Sent, write_for_certain};
use super::{Site, name, within};
use crate::support::Daemon;

/// What a check found.
#[derive(Debug, Default, Clone)]
pub(super) struct Found {
    pub(super) acknowledged: usize,
    /// Writes that nobody knew the fate of, and how many of them are there.
    pub(super) unknown: (usize, usize),
    pub(super) refused: usize,
    pub(super) batches: usize,
    /// Acknowledged writes that are not there.
    pub(super) lost: Vec<String>,
    /// Whatever else is not as it must be.
    pub(super) wrong: Vec<String>,
}

/// The events that a node tells, from the seq on after which it tells them.
struct Feed {
    since: u64,
    events: Vec<Value>,
}

impl Site {
    /// Holds the writers, waits until all nodes are at the order's end, and looks whether everything is as it must be.
    pub(super) fn check(&mut self) -> Found {
        let load = Arc::clone(&self.load.shared);
        let held = load.hold();
        let sent = load.take_sent();
        let since = self.checked;
        // Whatever was written before is applied where this is.
        self.checks += 1;
        let number = self.checks;
        let marked = format!("mbox=m&mbox3rdPartyId=mark&profile.mark={number}");
        write_for_certain(self.nodes[0].address(), &marked);
        for (index, node) in self.nodes.iter().enumerate() {
            within(&format!("node {} to be at the order's end", name(index)), || {
                (node.value("demo", "third-party", "mark", "mark")? == number.to_string()).then_some(())
            });
            for (id, rows) in &sent.batches {
                let batch = node.wait_complete(id);
                let told = batch.successful + batch.not_found + batch.failed + batch.ignored;
                assert_eq!((batch.size, batch.consumed, told), (*rows, *rows, *rows), "{id}: {batch:?}");
            }
        }
        let feeds: Vec<Feed> = self.nodes.iter().map(|node| feed(node, since, number)).collect();
        let mut found = Found { wrong: sent.strange.clone(), ..Found::default() };
        for (index, feed) in feeds.iter().enumerate() {
            compare(&feeds[0], feed, &format!("{} and {}", name(0), name(index)), &mut found.wrong);
        }
        let whole = feeds.iter().find(|feed| feed.since == since);
        account(&sent, &whole.expect("a node that tells everything since the last check").events, &mut found);
        self.compare_exports(&sent);
        self.compare_sums(&mut found.wrong);
        self.checked = whole.and_then(|feed| seq_of(feed.events.last()?)).unwrap();
        drop(held);
        found
    }

    /// Begins to account anew: the journals do not go back any further.
    pub(super) fn account_from_here(&mut self) {
        let load = Arc::clone(&self.load.shared);
        let held = load.hold();
        drop(load.take_sent());
        write_for_certain(self.nodes[0].address(), "mbox=m&mbox3rdPartyId=mark&profile.mark=0");
        let mark = self.nodes[0].visitor("demo", "third-party", "mark").unwrap();
        self.checked = mark["seq"].as_str().unwrap().parse().unwrap();
        drop(held);
    }

    /// Nodes that reported a sum up to the same offset must have the same one.
    fn compare_sums(&self, wrong: &mut Vec<String>) {
        let mut sums = BTreeMap::new();
        for report in self.reports().into_values() {
            let known = *sums.entry(report.checksum_at).or_insert(report.checksum);
            if known != report.checksum {
                wrong.push(format!("{} has another sum at {}", report.name, report.checksum_at));
            }
        }
    }

    fn compare_exports(&self, sent: &Sent) {
        let export = |node: &Daemon| {
            let reply = node.get("/api/v1/export?client=demo&format=ndjson");
            assert_eq!(reply.status, 200, "{}", reply.text());
            let mut lines: Vec<String> = reply.text().lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        // A write that was answered as unknown may still come.
        let mut last = vec![];
        let equal = within("equal exports", || {
            last = self.nodes.iter().map(export).collect();
            last.iter().all(|one| *one == last[0]).then(|| last[0].clone())
        });
        // Theirs are the only ids of this kind.
        let left: Vec<&String> = equal.iter().filter(|line| line.contains(r#""thirdPartyId":"e"#)).collect();
        for id in &sent.erased {
            let there = left.iter().any(|line| line.contains(&format!("\"{id}\"")));
            assert!(!there, "{id} was erased, and is exported");
        }
    }
}

fn seq_of(event: &Value) -> Option<u64> {
    let seq = event["seq"].as_str()?;
    seq.split('-').next()?.parse().ok()
}

/// What a node tells after a seq, up to the write that marks the end.
fn feed(node: &Daemon, since: u64, marked: u64) -> Feed {
    let (mut since, marked) = (since, marked.to_string());
    within("the feed up to the mark", || {
        let reply = node.get(&format!("/api/v1/changes?client=demo&since={since}"));
        if reply.status == 410 {
            // It began with another node's snapshot.
            let text = reply.text();
            let earliest = text.split("since=").nth(1).unwrap();
            since = earliest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
            return None;
        }
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut events: Vec<Value> =
            reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        events.retain(|event| !matches!(event["event"].as_str(), Some("upTo" | "waiting")));
        let last = events.iter().position(|event| event["set"]["mark"] == marked.as_str())?;
        events.truncate(last + 1);
        Some(Feed { since, events })
    })
}

/// Both must tell the same, from where both begin.
fn compare(one: &Feed, other: &Feed, who: &str, wrong: &mut Vec<String>) {
    let since = one.since.max(other.since);
    let after = |feed: &Feed| -> Vec<Value> {
        feed.events.iter().filter(|event| seq_of(event).is_some_and(|seq| seq > since)).cloned().collect()
    };
    let (one, other) = (after(one), after(other));
    if let Some((a, b)) = one.iter().zip(&other).find(|(a, b)| a != b) {
        wrong.push(format!("{who} tell {a} and {b}"));
    } else if one.len() != other.len() {
        wrong.push(format!("{who} tell {} and {} events", one.len(), other.len()));
    }
}

/// Every acknowledged write is told once, and nothing that was refused.
fn account(sent: &Sent, events: &[Value], found: &mut Found) {
    let mut told: BTreeMap<OneWrite, (u64, Option<u64>)> = BTreeMap::new();
    for event in events {
        let Some(set) = event["set"].as_object() else { continue };
        for (attribute, value) in set {
            if let Some(number) = value.as_str().and_then(|value| value.parse().ok()) {
                let times = told.entry((attribute.clone(), number)).or_default();
                (times.0, times.1) = (times.0 + 1, seq_of(event));
            }
        }
    }
    for (write, fate) in &sent.writes {
        let times = if write.0.starts_with('b') { BATCH_ROWS } else { 1 };
        let (there, seq) = told.get(write).copied().unwrap_or_default();
        match fate {
            Fate::Acknowledged(_) if there == 0 => found.lost.push(format!("{write:?}")),
            Fate::Acknowledged(Some(answered)) if seq != Some(*answered) => {
                found.wrong.push(format!("{write:?} was answered {answered}, and has {seq:?}"));
            }
            Fate::Not if there > 0 => found.wrong.push(format!("{write:?} was refused, and is there")),
            _ if there > 0 && there != times => found.wrong.push(format!("{write:?} is there {there} times")),
            _ => {}
        }
        match fate {
            Fate::Acknowledged(_) => found.acknowledged += 1,
            Fate::Unknown => {
                found.unknown.0 += 1;
                found.unknown.1 += usize::from(there > 0);
            }
            Fate::Not => found.refused += 1,
        }
    }
    found.batches = sent.batches.len();
}
