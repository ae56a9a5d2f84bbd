//! The audit trail: one line per administrative act, in the file `audit.log` of the data folder and in the log.
//!
//! Promises: each line is one JSON object, whatever text it contains. It never contains a token, a visitor's id or a
//! value, so erasure (R12) need not change the file. If a line cannot be written, the log says so and the act
//! continues.

use crate::layout;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::durable;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// The person or program that did an act.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Actor {
    /// The id of the token used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The address the request came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The request's id in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The user id on this machine who ran a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

impl Actor {
    /// The user who runs this process.
    pub fn this_user() -> Self {
        Self { user: Some(rustix::process::getuid().as_raw()), ..Self::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    at: String,
    act: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    /// The object of the act, or its result.
    what: &'a str,
    #[serde(flatten)]
    actor: &'a Actor,
}

/// Writes an act to the audit trail. `what` names the object or the result, but no visitor.
pub fn note(folder: &Path, now: Millis, actor: &Actor, act: &str, client: Option<&ClientCode>, what: &str) {
    tell(actor, act, client, what);
    let client = client.map(ClientCode::as_str);
    noted(act, append(folder, &[Record { at: now.iso_8601(), act, client, what, actor }]));
}

/// Writes several acts, each a line, with one sync. In the log they are one line, which says `in_all`.
pub fn note_each(
    folder: &Path,
    now: Millis,
    actor: &Actor,
    (act, in_all): (&str, &str),
    client: Option<&ClientCode>,
    whats: &[String],
) {
    tell(actor, act, client, in_all);
    let client = client.map(ClientCode::as_str);
    let lines = whats.iter().map(|what| Record { at: now.iso_8601(), act, client, what, actor });
    noted(act, append(folder, &lines.collect::<Vec<_>>()));
}

fn tell(actor: &Actor, act: &str, client: Option<&ClientCode>, what: &str) {
    tracing::info!(
        target: "audit",
        act,
        client = client.map(ClientCode::as_str),
        what,
        actor_token = actor.token,
        address = actor.address,
        request = actor.request,
        user = actor.user,
        "administrative act"
    );
}

fn noted(act: &str, appended: io::Result<()>) {
    if let Err(error) = appended {
        tracing::error!(%error, act, "the audit trail could not be written; the act continues");
    }
}

fn append(folder: &Path, lines: &[Record<'_>]) -> io::Result<()> {
    let mut text = vec![];
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    // One write for whole lines, because several processes may append.
    let mut file = durable::create(&folder.join(layout::AUDIT), OpenOptions::new().append(true))?;
    file.write_all(&text)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_act_is_a_line_of_json_behind_those_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let actor = Actor { token: Some("1a".into()), request: Some("r".into()), ..Actor::default() };
        let client = ClientCode::new("demo").unwrap();
        note(folder.path(), Millis(0), &actor, "erase", Some(&client), "seq 7");
        note(folder.path(), Millis(1), &Actor::default(), "restore", None, "a\n\"b\"");
        let both = ["seq 8".to_owned(), "seq 9".to_owned()];
        note_each(folder.path(), Millis(2), &actor, ("erase", "2 visitors"), Some(&client), &both);
        let text = std::fs::read_to_string(folder.path().join(layout::AUDIT)).unwrap();
        let expected = [
            r#"{"at":"1970-01-01T00:00:00.000Z","act":"erase","client":"demo","what":"seq 7","token":"1a","request":"r"}"#,
            r#"{"at":"1970-01-01T00:00:00.001Z","act":"restore","what":"a\n\"b\""}"#,
            r#"{"at":"1970-01-01T00:00:00.002Z","act":"erase","client":"demo","what":"seq 8","token":"1a","request":"r"}"#,
            r#"{"at":"1970-01-01T00:00:00.002Z","act":"erase","client":"demo","what":"seq 9","token":"1a","request":"r"}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
