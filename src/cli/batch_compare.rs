//! `profiled batch compare`: a batch beside an earlier one.

use clap::Args;
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};

use super::args::Remote;
use super::client::encoded;
use super::error::CliError;
use super::terminal::{columns, per_cent, print_json, say, shown};

/// Compares two batches.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    /// The batch to compare it with. By default the one before of the same name, else the one before
    #[arg(long, value_name = "ID")]
    with: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// What the native API answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    batch: Side,
    with: Side,
    chosen: String,
    rows_difference: i64,
    outcomes: Vec<OutcomeOf>,
    attributes: Option<Attributes>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    batch_id: String,
    name: Option<String>,
    status: String,
    rows: u64,
    accepted_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeOf {
    outcome: String,
    batch: u64,
    with: u64,
    difference: i64,
    batch_share: f64,
    with_share: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Attributes {
    added: Vec<String>,
    dropped: Vec<String>,
    kept: u64,
}

pub(super) async fn compare(command: Compare) -> Result<(), CliError> {
    let with = command.with.as_ref().map_or(String::new(), |with| format!("?with={}", encoded(with)));
    let path = format!("/api/v1/batches/{}/comparison{with}", encoded(&command.id));
    let answer = command.remote.client()?.get(&path).await?;
    let view: View = answer.json()?;
    if command.remote.json {
        return print_json(&view);
    }
    say(in_words(&view));
    Ok(())
}

fn in_words(view: &View) -> String {
    let why = match view.chosen.as_str() {
        "same_name" => ", the batch before of the same name",
        "before" => ", the batch before",
        _ => "",
    };
    let with = &view.with;
    let name = with.name.as_ref().map_or(String::new(), |name| format!("\n  named {name}"));
    let mut lines = columns(&["", "this batch", "earlier", "difference"]);
    let difference = |number: i64| {
        let sign = if number < 0 { "-" } else { "+" };
        if number == 0 { "0".into() } else { format!("{sign}{}", HumanCount(number.unsigned_abs())) }
    };
    let rows = [view.batch.rows, with.rows].map(|rows| HumanCount(rows).to_string());
    let [batch, earlier] = rows;
    lines.add_row(["rows".into(), batch, earlier, difference(view.rows_difference)]);
    for line in &view.outcomes {
        let cell = |count: u64, share: f64| format!("{} ({})", HumanCount(count), per_cent(share));
        let (batch, earlier) = (cell(line.batch, line.batch_share), cell(line.with, line.with_share));
        lines.add_row([shown(&line.outcome.replace('_', " ")), batch, earlier, difference(line.difference)]);
    }
    let mut text = shown(&format!("compared with {}{why}", with.batch_id));
    text += &name.split('\n').map(shown).collect::<Vec<_>>().join("\n");
    text += &format!("\n\n{}", lines.trim_fmt());
    if let Some(attributes) = &view.attributes {
        if attributes.added.is_empty() && attributes.dropped.is_empty() {
            text += &format!("\nboth have the same {} attributes", attributes.kept);
        }
        for (sign, names) in [("added", &attributes.added), ("dropped", &attributes.dropped)] {
            names.iter().for_each(|name| text += &format!("\n{sign}: {}", shown(name)));
        }
    }
    view.notes.iter().for_each(|note| text += &format!("\n{}", shown(note)));
    text
}
