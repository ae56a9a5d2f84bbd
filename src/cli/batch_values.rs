//! `profiled batch distribution`: how often an attribute has which value in a batch.

use clap::Args;
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};

use super::args::Remote;
use super::client::encoded;
use super::error::CliError;
use super::terminal::{fitting_columns, per_cent, print_json, say, shortened, shown};

/// How much of a value is shown.
const VALUE_CHARS_SHOWN: usize = 120;

/// Shows the values of an attribute.
#[derive(Debug, Args)]
pub(super) struct DistributionOf {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    /// The name of an attribute of the batch
    attribute: String,
    #[command(flatten)]
    remote: Remote,
}

/// What the native API answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct View {
    batch_id: String,
    attribute: String,
    filled: u64,
    empty: u64,
    unreadable: u64,
    erased: u64,
    distinct: Option<u64>,
    distinct_max: u64,
    values: Vec<Value>,
    others_max: u64,
    numbers: Option<Numbers>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Value {
    value: String,
    whole: bool,
    rows: u64,
    share: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Numbers {
    smallest: String,
    largest: String,
    mean: f64,
}

pub(super) async fn distribution(command: DistributionOf) -> Result<(), CliError> {
    let (id, attribute) = (encoded(&command.id), encoded(&command.attribute));
    let path = format!("/api/v1/batches/{id}/attributes/{attribute}/distribution");
    let answer = command.remote.client()?.get(&path).await?;
    let view: View = answer.json()?;
    if command.remote.json {
        return print_json(&view);
    }
    say(in_words(&view));
    Ok(())
}

fn in_words(view: &View) -> String {
    let mut text = String::new();
    if !view.values.is_empty() {
        let mut lines = fitting_columns(&["value", "rows", "share"], &[0]);
        for Value { value, rows, share, .. } in &view.values {
            let value = shown(&shortened(value, VALUE_CHARS_SHOWN));
            lines.add_row([value, HumanCount(*rows).to_string(), per_cent(*share)]);
        }
        text = format!("{}\n", lines.trim_fmt());
    }
    let distinct = match view.distinct {
        Some(distinct) => HumanCount(distinct).to_string(),
        None => format!("more than {}", HumanCount(view.distinct_max)),
    };
    text += &format!(
        "{} rows with a value ({distinct} different), {} without",
        HumanCount(view.filled),
        HumanCount(view.empty)
    );
    if view.others_max > 0 {
        let rows = if view.others_max == 1 { "row" } else { "rows" };
        text += &format!("\nno other value has more than {} {rows}", HumanCount(view.others_max));
    }
    if let Some(Numbers { smallest, largest, mean }) = &view.numbers {
        let numbers = shown(&format!("all are numbers: from {smallest} to {largest}, mean {mean}"));
        text += &format!("\n{numbers}");
    }
    for (count, what) in [(view.unreadable, "failed"), (view.erased, "are of erased visitors")] {
        if count > 0 {
            text += &format!("\n{} rows {what}, and are not counted", HumanCount(count));
        }
    }
    text
}
