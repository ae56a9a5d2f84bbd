//! `profiled profile erase --file`: erases the visitors whose ids stand in a file.

use std::path::Path;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::args::Remote;
use super::batch::open;
use super::client::{Client, encoded};
use super::error::CliError;
use super::terminal::{say, shown};
use crate::model::id::ClientCode;

/// How many ids that led to nobody are listed. All are counted.
const NOT_FOUND_LISTED_MAX: usize = 10;

/// What became of one id.
#[derive(Debug, Deserialize)]
struct Receipt {
    line: u32,
    id: String,
    outcome: String,
    message: Option<String>,
}

/// The last line of the answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sum {
    done: bool,
    ids: u64,
    erased: u64,
    not_found: u64,
    failed: u64,
    not_tried: u64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Receipt(Receipt),
    Sum(Sum),
}

/// What the answer has told so far.
#[derive(Debug, Default)]
struct Told {
    receipts: u64,
    not_found: Vec<String>,
    failed: Option<String>,
    sum: Option<Sum>,
}

/// Erases them. With `--json` each receipt is printed as it comes.
pub(super) async fn erase(file: &Path, whose: &ClientCode, remote: &Remote) -> Result<(), CliError> {
    let client = remote.client()?;
    let (body, bar) = open(file).await?;
    let path = format!("/api/v1/erasures?client={}", encoded(whose.as_str()));
    let answer = client.stream_file(&path, body).await;
    bar.finish_and_clear();
    let mut body = answer?.into_body();
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} ids done {per_sec}") {
        bar.set_style(style);
    }
    let mut told = Told::default();
    let read = read(&client, &mut body, remote.json, &bar, &mut told).await;
    bar.finish_and_clear();
    let Told { receipts, not_found, failed, sum } = told;
    let Some(sum) = sum else {
        let why = read.err().map_or_else(|| "the answer broke off".into(), |error| error.to_string());
        return Err(CliError::Failed(format!(
            "{why}: {} ids have a receipt; run it again with the same file, which goes on where it stopped",
            HumanCount(receipts)
        )));
    };
    if !remote.json {
        say(in_words(&sum, &not_found));
    }
    if sum.done {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} ids failed and {} were not tried: {}; run it again with the same file",
        HumanCount(sum.failed),
        HumanCount(sum.not_tried),
        shown(&failed.unwrap_or_default())
    )))
}

async fn read(
    client: &Client,
    body: &mut Incoming,
    json: bool,
    bar: &ProgressBar,
    told: &mut Told,
) -> Result<(), CliError> {
    let mut held: Vec<u8> = vec![];
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|e| client.broke_off(&e))?.into_data() else { continue };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            held.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if json {
                    say(String::from_utf8_lossy(held.trim_ascii_end()));
                }
                told.take(&held)?;
                held.clear();
            }
        }
        bar.set_position(told.receipts);
    }
    Ok(())
}

impl Told {
    fn take(&mut self, line: &[u8]) -> Result<(), CliError> {
        let line = serde_json::from_slice(line).map_err(|error| {
            CliError::Failed(format!("the answer does not come from profiled: {error}; check --url"))
        })?;
        match line {
            Line::Sum(sum) => self.sum = Some(sum),
            Line::Receipt(Receipt { line, id, outcome, message }) => {
                self.receipts += 1;
                if outcome == "not_found" && self.not_found.len() < NOT_FOUND_LISTED_MAX {
                    self.not_found.push(format!("line {line}: {}", shown(&id)));
                }
                if outcome == "failed" && self.failed.is_none() {
                    self.failed = Some(format!("line {line}: {}", message.unwrap_or_default()));
                }
            }
        }
        Ok(())
    }
}

fn in_words(sum: &Sum, not_found: &[String]) -> String {
    let [ids, erased, missing] = [sum.ids, sum.erased, sum.not_found].map(HumanCount);
    let mut text = format!(
        "{erased} of {ids} visitors erased, {missing} not found; the bytes leave the disk within erase_within_hours, or now with \
         `profiled compact`"
    );
    for line in not_found {
        text += &format!("\n{line}: not found");
    }
    match sum.not_found.saturating_sub(not_found.len() as u64) {
        0 => text,
        more => text + &format!("\nand {} more", HumanCount(more)),
    }
}
