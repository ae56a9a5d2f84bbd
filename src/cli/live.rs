//! `profiled live`: calls as they come in, a line each.

use clap::Args;

use super::args::{Remote, block_on, parse_client};
use super::changes::print;
use super::client::encoded;
use super::error::CliError;
use crate::model::id::ClientCode;

/// Print calls as they come in: what was understood of each, what was left out and why, what became of it
///
/// Site calls, updates, removals and batches, refused ones too. Nothing is kept: it begins with the next call. It takes a
/// token of scope admin.
#[derive(Debug, Args)]
pub(super) struct Live {
    /// Only calls of this client [default: all clients of the token]
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: Option<ClientCode>,
    /// Only calls of the visitor with this id, of any kind
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

/// Runs it.
pub(super) fn run(command: Live) -> Result<(), CliError> {
    block_on(async move {
        let Live { client, id, seconds, remote } = command;
        let asked = [
            client.map(|client| format!("client={}", encoded(client.as_str()))),
            id.map(|id| format!("id={}", encoded(&id))),
            seconds.map(|seconds| format!("seconds={seconds}")),
        ];
        let asked: Vec<String> = asked.into_iter().flatten().collect();
        let accept = if remote.json { "application/x-ndjson" } else { "text/plain" };
        print(&remote.client()?, &format!("/api/v1/live?{}", asked.join("&")), accept).await.map(drop)
    })
}
