//! `profiled changes`: the changes of a client's visitors, an event a line, as they come.

use clap::Args;
use http_body_util::BodyExt;
use tokio::io::{AsyncWriteExt, stdout};

use super::args::{Remote, block_on, parse_client};
use super::client::{Client, encoded};
use super::error::CliError;
use crate::model::id::ClientCode;

/// The longest line that is looked at for why the feed ended; events about a stream are short.
const LAST_LINE_BYTES_MAX: usize = 4096;

/// Print every write to a client's visitors, in order, as NDJSON
///
/// Each line is an event. To go on later, give the seq of the last line to --since; if that has a line, with it: SEQ-LINE;
/// after a batch alone, SEQ-0. If the changes since then are no
/// longer kept, export the client and go on with the seq that the export is of.
#[derive(Debug, Args)]
pub(super) struct Changes {
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Seq of the last write that is known, or SEQ-LINE for an event with a line. 0 asks for all there ever were
    #[arg(long, value_name = "SEQ", default_value = "0")]
    since: String,
    /// Go on with each further write
    #[arg(long)]
    follow: bool,
    /// Print a batch without its rows
    #[arg(long)]
    no_rows: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Runs it.
pub(super) fn run(command: Changes) -> Result<(), CliError> {
    block_on(changes(command))
}

async fn changes(command: Changes) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let (whose, since) = (encoded(command.client.as_str()), encoded(&command.since));
    let (follow, rows) = (command.follow, !command.no_rows);
    let path = format!("/api/v1/changes?client={whose}&since={since}&follow={follow}&rows={rows}");
    let last = print(&client, &path, "*/*").await?;
    let event: serde_json::Value = serde_json::from_slice(&last).unwrap_or_default();
    match event.get("message").and_then(serde_json::Value::as_str) {
        Some(why) => Err(CliError::Failed(why.to_owned())),
        None => Ok(()),
    }
}

/// Prints an answer as it comes. Gives its last line.
pub(super) async fn print(client: &Client, path: &str, accept: &'static str) -> Result<Vec<u8>, CliError> {
    let mut answer = client.stream(path, accept).await?;
    let (mut out, mut line, mut ended) = (stdout(), vec![], false);
    while let Some(frame) = answer.body_mut().frame().await {
        let Ok(bytes) = frame.map_err(|e| client.broke_off(&e))?.into_data() else { continue };
        let written = async {
            out.write_all(&bytes).await?;
            out.flush().await
        };
        written.await.map_err(|error| CliError::Failed(format!("standard output: {error}")))?;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if std::mem::replace(&mut ended, piece.ends_with(b"\n")) {
                line.clear();
            }
            if line.len() < LAST_LINE_BYTES_MAX {
                line.extend_from_slice(piece);
            }
        }
    }
    Ok(line)
}
