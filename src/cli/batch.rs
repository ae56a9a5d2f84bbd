//! `profiled batch post|status|list|rows|repair|resend|abandon|cancel|undo|compare|distribution`: batches.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, Color};
use http_body_util::BodyExt;
use hyper::StatusCode;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::args::{Remote, block_on, parse_client};
use super::author::AuthorView;
use super::batch_compare::{Compare, compare};
use super::batch_values::{DistributionOf, distribution};
use super::client::{Client, FileBody, encoded};
use super::error::CliError;
use super::terminal::{columns, print_json, say, short_time, shortened, shown, table};
use crate::model::batch::{BATCH_NAME_CHARS_MAX, BatchName, BatchState, Counts, Outcome, RowForm};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// How long to wait before asking for a batch's progress again: at first, and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The columns of a list with the status and with the failed rows.
const STATUS_COLUMN: usize = 1;
const FAILED_COLUMN: usize = 4;
/// How much of a batch's name a list shows.
const NAME_CHARS_SHOWN: usize = 26;

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Batch {
    /// Post a batch file. `-` reads standard input
    Post(Post),
    /// Show the progress of a batch
    Status(Status),
    /// List a client's batches, newest first
    List(List),
    /// Print the outcome of each row, as CSV, or with --json as one JSON object a line
    Rows(Rows),
    /// Print the failed rows as they were sent, in the form of the batch and under its header: correct them and post them again
    Repair(Status),
    /// Send the same file again for a batch that is stuck because the daemon's copy is damaged
    Resend(Resend),
    /// Give up a batch that is stuck because the daemon's copy is damaged. All its rows count as failed
    Abandon(Status),
    /// Cancel a batch that is not complete: what it changed already, and what it would change yet, is undone by a new batch
    Cancel(Status),
    /// Compare a batch with an earlier one: rows, outcomes, and the attributes that came and went
    Compare(Compare),
    /// Show how often an attribute has which value in a batch: the 20 most frequent values, and what there is besides
    Distribution(DistributionOf),
    /// Undo a batch: what it changed, and nothing later touched, is again what it was before. That is a new batch
    Undo(Undo),
}

/// Undoes a batch.
#[derive(Debug, Args)]
pub(super) struct Undo {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    /// Wait until the new batch is complete
    #[arg(long)]
    wait: bool,
    /// Show what the new batch would do, and write nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Sends a file again.
#[derive(Debug, Args)]
pub(super) struct Resend {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    /// The batch file as it was sent. FILE.gz and FILE.zst are sent as they are
    file: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// Prints the outcomes of rows.
#[derive(Debug, Args)]
pub(super) struct Rows {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    /// Only the rows with this outcome: updated, created, not_found, ignored or failed
    #[arg(long, value_name = "OUTCOME", value_parser = parse_outcome)]
    outcome: Option<Outcome>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn parse_outcome(text: &str) -> Result<Outcome, String> {
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.name() == text);
    found.ok_or_else(|| format!("write one of {}", Outcome::ALL.map(Outcome::name).join(", ")))
}

fn parse_time(text: &str) -> Result<Millis, String> {
    let wrong = || "write a time such as 2026-11-27T02:00:00Z, or milliseconds since 1970".to_owned();
    Millis::parse(text).ok_or_else(wrong)
}

fn parse_name(text: &str) -> Result<BatchName, String> {
    let wrong = || {
        format!(
            "write 1 to {BATCH_NAME_CHARS_MAX} characters, no control characters, and no space at the ends"
        )
    };
    BatchName::new(text).ok_or_else(wrong)
}

/// Posts a file.
#[derive(Debug, Args)]
pub(super) struct Post {
    /// The batch file: CSV whose first line is batch=thirdPartyId,… or batch=pcId,…, or NDJSON. FILE.gz and FILE.zst are sent as
    /// they are
    file: PathBuf,
    /// What the file is. By default .ndjson and .jsonl are NDJSON, and all others CSV
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Use version 1 of the call instead of version 2
    #[arg(long)]
    v1: bool,
    /// Wait until the batch is complete
    #[arg(long)]
    wait: bool,
    /// Fail if rows have one of these outcomes: updated, created, not_found, ignored, failed
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',', value_parser = parse_outcome, requires = "wait")]
    fail_on: Vec<Outcome>,
    /// What an empty cell means: leave the attribute alone, or remove it
    #[arg(long, value_name = "MEANING", default_value = "ignore")]
    empty_values: EmptyCells,
    /// The time that the values are of, such as 2026-11-27T02:00:00Z: what was written later is left alone
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    as_of: Option<Millis>,
    /// What to call the batch, for people. By default it has the file's name
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<BatchName>,
    /// Name this sending: sent again within 24 hours, the same file is not taken a second time
    #[arg(long, value_name = "KEY", conflicts_with = "dry_run")]
    idempotency_key: Option<String>,
    /// Show what the batch would do, and write nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Post {
    /// Posts a file by version 2 of the call, and waits until the batch is complete.
    pub(super) fn and_wait(file: PathBuf, client: ClientCode, remote: Remote) -> Self {
        Self {
            file,
            format: None,
            client,
            v1: false,
            wait: true,
            fail_on: vec![],
            empty_values: EmptyCells::Ignore,
            as_of: None,
            name: None,
            idempotency_key: None,
            dry_run: false,
            remote,
        }
    }

    fn form(&self) -> RowForm {
        Format::form(self.format, &self.file)
    }

    /// The path of the call, with its query.
    fn path(&self) -> String {
        let empty = self.empty_values.name();
        let as_of = self.as_of.map_or(String::new(), |as_of| format!("&asOf={}", as_of.0));
        let name = self.name.clone().or_else(|| name_of(&self.file));
        let path = call(&self.client, self.form(), self.v1, name.as_ref());
        format!("{path}&emptyValues={empty}{as_of}")
    }
}

/// The name that a batch has from its file.
pub(super) fn name_of(file: &Path) -> Option<BatchName> {
    file.file_name().and_then(|name| BatchName::new(name.to_str()?)).filter(|name| name.as_str() != "-")
}

/// The path of the call that takes rows in this form, with its query. Only our own takes NDJSON; earlier daemons do not have it.
pub(super) fn call(client: &ClientCode, form: RowForm, v1: bool, name: Option<&BatchName>) -> String {
    let name = name.map_or(String::new(), |name| format!("&name={}", encoded(name.as_str())));
    match (form, v1) {
        (RowForm::Csv, true) => format!("/m2/{client}/profile/batchUpdate?{name}"),
        (RowForm::Csv, false) => format!("/m2/{client}/v2/profile/batchUpdate?{name}"),
        (RowForm::Ndjson, _) => {
            let version = if v1 { "v1" } else { "v2" };
            format!("/api/v1/batches?client={}&version={version}{name}", encoded(client.as_str()))
        }
    }
}

/// What a batch file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A table, its first line batch=…
    Csv,
    /// A JSON object a line
    Ndjson,
}

impl Format {
    /// The form of a file: what was said, or else what its name says.
    pub(super) fn form(said: Option<Self>, file: &Path) -> RowForm {
        match said {
            None => form_of(file),
            Some(Self::Csv) => RowForm::Csv,
            Some(Self::Ndjson) => RowForm::Ndjson,
        }
    }
}

/// What an empty cell means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EmptyCells {
    /// It leaves the attribute alone
    Ignore,
    /// It removes the attribute
    Remove,
}

impl EmptyCells {
    const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Remove => "remove",
        }
    }
}

/// Names one batch.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// The batch's id, such as demo-1701473848678-10000000
    id: String,
    #[command(flatten)]
    remote: Remote,
}

/// Lists batches.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Client of the batches
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Only batches with this status: incomplete, complete or stuck
    #[arg(long, value_name = "STATUS", value_parser = parse_state)]
    status: Option<BatchState>,
    /// The newest so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    remote: Remote,
}

fn parse_state(text: &str) -> Result<BatchState, String> {
    BatchState::parse(text).ok_or_else(|| "write incomplete, complete or stuck".into())
}

/// Runs one of the commands.
pub(super) fn run(command: Batch) -> Result<(), CliError> {
    match command {
        Batch::Post(command) => block_on(post(command)),
        Batch::Status(command) => block_on(status(command)),
        Batch::List(command) => block_on(list(command)),
        Batch::Rows(command) => block_on(rows(command)),
        Batch::Repair(command) => block_on(repair(command)),
        Batch::Resend(command) => block_on(resend(command)),
        Batch::Abandon(command) => block_on(abandon(command)),
        Batch::Cancel(command) => block_on(cancel(command)),
        Batch::Compare(command) => block_on(compare(command)),
        Batch::Distribution(command) => block_on(distribution(command)),
        Batch::Undo(command) => block_on(undo(command)),
    }
}

/// A batch as the native API shows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchView {
    pub(super) batch_id: String,
    client: String,
    seq: String,
    version: String,
    /// Earlier daemons know only CSV, and say nothing.
    #[serde(default = "csv")]
    format: String,
    #[serde(default)]
    as_of: Option<String>,
    /// As it came. A later daemon may send one that this program does not know; see [`state`](Self::state).
    status: String,
    pub(super) rows: u64,
    bytes: u64,
    pub(super) counts: Counts,
    accepted_at: String,
    completed_at: Option<String>,
    rows_per_second: Option<u64>,
    estimated_end_at: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    undoes: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    by: Option<AuthorView>,
    /// Earlier daemons send none.
    #[serde(default)]
    new_attributes: Vec<NewAttribute>,
}

/// An attribute that no profile had before the batch.
#[derive(Debug, Serialize, Deserialize)]
struct NewAttribute {
    name: String,
    nearest: Option<String>,
}

impl NewAttribute {
    fn in_words(&self) -> String {
        let near = self.nearest.as_ref().map_or_else(String::new, |near| format!("; {near:?} exists"));
        shown(&format!("check: {:?} is new: no profile had such an attribute before{near}", self.name))
    }
}

fn csv() -> String {
    RowForm::Csv.name().to_owned()
}

impl BatchView {
    /// Its state. `None` if this program does not know the status.
    fn state(&self) -> Option<BatchState> {
        BatchState::parse(&self.status)
    }
}

/// The result of a dry run, as the daemon sends it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TriedOut {
    dry_run: bool,
    rows: u64,
    bytes: u64,
    outcomes: Counts,
    /// Earlier daemons send none.
    #[serde(default)]
    newer: u64,
    attributes: serde_json::Map<String, serde_json::Value>,
    /// Earlier daemons send none.
    #[serde(default)]
    new_attributes: Vec<NewAttribute>,
    failed: Vec<Failed>,
    /// Earlier daemons send none.
    #[serde(default)]
    remarks: Vec<Remark>,
}

/// Something that is accepted but perhaps not meant.
#[derive(Debug, Serialize, Deserialize)]
struct Remark {
    remark: String,
    count: u64,
    lines: Vec<u64>,
    message: String,
}

/// A row that would fail.
#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    line: u64,
    id: Option<String>,
    outcome: String,
    reason: Option<String>,
    message: Option<String>,
}

/// An error that counts the rows with these outcomes, if there are any.
pub(super) fn fail_on(outcomes: &[Outcome], counts: &Counts) -> Result<(), CliError> {
    let counted = outcomes.iter().map(|outcome| (counts.of(*outcome), outcome.name().replace('_', " ")));
    let found: Vec<String> = counted
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{} {name}", HumanCount(count)))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!("rows have an outcome of --fail-on: {}", found.join(", "))))
}

async fn post(command: Post) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let (body, bar) = open(&command.file).await?;
    let mut body = body.in_form(command.form());
    if let Some(key) = &command.idempotency_key {
        body = body.keyed(key)?;
    }
    if command.dry_run {
        let answer = client.post_file(&(command.path() + "&dryRun=true"), body).await;
        bar.finish_and_clear();
        let answer = answer?;
        if !answer.status.is_success() {
            let refusal = answer.refusal();
            return Err(CliError::Failed(format!("the batch would be refused: {refusal}")));
        }
        return print_trial(&command.remote, &answer.json()?);
    }
    let sent = send(&client, &command.path(), body).await;
    bar.finish_and_clear();
    let id = sent?;
    let mut batch = ask(&client, &id).await?;
    if !command.remote.json {
        say(format_args!(
            "accepted as {id}: {} rows, {}, durable and visible to lookups",
            HumanCount(batch.rows),
            HumanBytes(batch.bytes)
        ));
    }
    if command.wait {
        batch = wait(&client, &id).await?;
    }
    match (command.remote.json, command.wait) {
        (true, _) => print_json(&batch)?,
        (false, true) => say(summary(&batch)),
        (false, false) => {}
    }
    fail_on(&command.fail_on, &batch.counts)
}

/// Why a batch file was not taken.
pub(super) struct NotTaken {
    pub(super) why: String,
    /// Whether the file is the reason: no other try of it helps.
    pub(super) is_wrong: bool,
}

/// Sends a batch file and returns the batch's id.
pub(super) async fn send(client: &Client, path: &str, body: FileBody) -> Result<String, CliError> {
    try_send(client, path, body).await.map_err(|not_taken| CliError::Failed(not_taken.why))
}

/// The same, and tells whether another try may help.
pub(super) async fn try_send(client: &Client, path: &str, body: FileBody) -> Result<String, NotTaken> {
    let unanswered = |error: CliError| NotTaken { why: error.to_string(), is_wrong: false };
    let answer = client.post_file(path, body).await.map_err(unanswered)?;
    if answer.status == StatusCode::CREATED {
        return answer.json::<BatchView>().map(|batch| batch.batch_id).map_err(unanswered);
    }
    let id = match (answer.element("success").as_deref(), answer.element("batchStatus")) {
        (Some("true"), Some(url)) => url.split_once("batchId=").map(|(_, id)| id.to_owned()),
        _ => {
            let of_file = [
                StatusCode::BAD_REQUEST,
                StatusCode::PAYLOAD_TOO_LARGE,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                StatusCode::UNPROCESSABLE_ENTITY,
            ];
            let why = format!("the batch was refused: {}", answer.refusal());
            return Err(NotTaken { why, is_wrong: of_file.contains(&answer.status) });
        }
    };
    let no_id = || NotTaken { why: "the answer has no batch id: check --url".into(), is_wrong: false };
    id.ok_or_else(no_id)
}

/// A file as a body, without a progress bar.
pub(super) async fn file_body(path: &Path) -> Result<FileBody, CliError> {
    let unreadable = |e: std::io::Error| CliError::Failed(format!("{} cannot be read: {e}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    Ok(FileBody::new(file, Some(length), drop).encoded_as_named(path).in_form(form_of(path)))
}

/// The form of a file, by its name.
pub(super) fn form_of(path: &Path) -> RowForm {
    RowForm::of_name(&path.to_string_lossy())
}

async fn status(command: Status) -> Result<(), CliError> {
    let batch = ask(&command.remote.client()?, &command.id).await?;
    if command.remote.json {
        return print_json(&batch);
    }
    say(summary(&batch));
    let name = batch.name.as_ref().map(|name| format!("named {name}"));
    let by = batch.by.as_ref().map(|by| format!("sent by {}", by.words()));
    let known: Vec<String> = name.into_iter().chain(by).collect();
    if !known.is_empty() {
        say(shown(&known.join(", ")));
    }
    Ok(())
}

async fn rows(command: Rows) -> Result<(), CliError> {
    let outcome = command.outcome.map_or(String::new(), |outcome| format!("?outcome={}", outcome.name()));
    let path = format!("/api/v1/batches/{}/outcomes{outcome}", encoded(&command.id));
    let accept = if command.remote.json { "application/x-ndjson" } else { "text/csv" };
    print(&command.remote.client()?, &path, accept).await
}

async fn resend(command: Resend) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let (body, bar) = open(&command.file).await?;
    // The daemon knows the form of the batch, whatever the body is said to be.
    let answer = client.post_file(&format!("/api/v1/batches/{}/file", encoded(&command.id)), body).await;
    bar.finish_and_clear();
    let answer = answer?;
    print_batch(&command.remote, &answer.json()?)
}

async fn abandon(command: Status) -> Result<(), CliError> {
    let client = command.remote.client()?;
    // The same call cancels a batch that is not stuck.
    let batch = ask(&client, &command.id).await?;
    if batch.state() != Some(BatchState::Stuck) {
        let (id, status) = (shown(&batch.batch_id), shown(&batch.status));
        return Err(CliError::Failed(format!(
            "batch {id} is {status}, not stuck: there is nothing to give up; profiled batch cancel withdraws one that is not complete"
        )));
    }
    let answer = client.delete(&format!("/api/v1/batches/{}", encoded(&command.id))).await?;
    print_batch(&command.remote, &answer.json()?)
}

async fn cancel(command: Status) -> Result<(), CliError> {
    let client = command.remote.client()?;
    // The same call gives up a batch that is stuck.
    if ask(&client, &command.id).await?.state() == Some(BatchState::Stuck) {
        let id = shown(&command.id);
        return Err(CliError::Failed(format!(
            "batch {id} is stuck: profiled batch resend sends its file again, profiled batch abandon gives it up"
        )));
    }
    let answer = client.delete(&format!("/api/v1/batches/{}", encoded(&command.id))).await?;
    let batch: BatchView = answer.json()?;
    if !command.remote.json {
        say(format_args!("{} undoes {}", batch.batch_id, shown(&command.id)));
    }
    print_batch(&command.remote, &batch)
}

async fn undo(command: Undo) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let path = format!("/api/v1/batches/{}/undo", encoded(&command.id));
    let answer = client.post_json(&path, &serde_json::json!({ "dryRun": command.dry_run })).await?;
    if command.dry_run {
        return print_trial(&command.remote, &answer.json()?);
    }
    let mut batch: BatchView = answer.json()?;
    if !command.remote.json {
        say(format_args!("{} undoes {}", batch.batch_id, shown(&command.id)));
    }
    if command.wait {
        batch = wait(&client, &batch.batch_id).await?;
    }
    print_batch(&command.remote, &batch)
}

fn print_trial(remote: &Remote, tried: &TriedOut) -> Result<(), CliError> {
    if remote.json {
        return print_json(tried);
    }
    say(tried_in_words(tried));
    Ok(())
}

fn print_batch(remote: &Remote, batch: &BatchView) -> Result<(), CliError> {
    if remote.json {
        return print_json(batch);
    }
    say(summary(batch));
    Ok(())
}

async fn repair(command: Status) -> Result<(), CliError> {
    let path = format!("/api/v1/batches/{}/repair", encoded(&command.id));
    print(&command.remote.client()?, &path, "text/csv").await
}

/// Prints a long answer as it arrives, byte for byte: it is for a program or a file.
async fn print(client: &Client, path: &str, accept: &'static str) -> Result<(), CliError> {
    let mut body = client.stream(path, accept).await?.into_body();
    let mut out = tokio::io::stdout();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|e| client.broke_off(&e))?.into_data() else { continue };
        if out.write_all(&bytes).await.is_err() {
            // Nobody reads it any more.
            return Ok(());
        }
    }
    out.flush().await.unwrap_or_default();
    Ok(())
}

/// The result of a dry run: a line, a table, and the rows that would fail.
fn tried_in_words(tried: &TriedOut) -> String {
    let Counts { updated, created, not_found, ignored, failed } = tried.outcomes;
    let [updated, created, not_found, ignored, failed, rows] =
        [updated, created, not_found, ignored, failed, tried.rows].map(HumanCount);
    let mut lines = table(&["attribute", "set", "changed", "unchanged", "removed"]);
    for (name, diff) in &tried.attributes {
        let count =
            |of: &str| HumanCount(diff.get(of).and_then(serde_json::Value::as_u64).unwrap_or_default());
        let counts = ["set", "changed", "unchanged", "removed"].map(|of| count(of).to_string());
        lines.add_row(std::iter::once(shown(name)).chain(counts));
    }
    let mut text = format!(
        "nothing was written; {rows} rows would be {updated} updated + {created} created + {not_found} not found + \
         {ignored} ignored + {failed} failed\n{lines}"
    );
    if tried.newer > 0 {
        text += &format!(
            "\nattributes that were written later than --as-of would be left alone, in {} of the rows",
            HumanCount(tried.newer)
        );
    }
    for new in &tried.new_attributes {
        text += "\n";
        text += &new.in_words();
    }
    for row in &tried.failed {
        text += "\n";
        text += &shown(row.message.as_deref().unwrap_or_default());
    }
    for Remark { count, lines, message, .. } in &tried.remarks {
        let line = lines.first().map_or_else(String::new, |line| format!("line {line}: "));
        let more = match count.saturating_sub(1) {
            0 => String::new(),
            more => format!("; also on {} further lines", HumanCount(more)),
        };
        text += &format!("\ncheck: {line}{}{more}", shown(message));
    }
    text
}

async fn list(command: List) -> Result<(), CliError> {
    #[derive(Serialize, Deserialize)]
    struct Batches {
        batches: Vec<BatchView>,
    }
    let client = command.remote.client()?;
    let (code, limit) = (encoded(command.client.as_str()), command.limit);
    let status = command.status.map_or(String::new(), |status| format!("&status={}", status.as_str()));
    let list: Batches =
        client.get(&format!("/api/v1/batches?client={code}&limit={limit}{status}")).await?.json()?;
    if command.remote.json {
        return print_json(&list);
    }
    if list.batches.is_empty() {
        let which = command.status.map_or(String::new(), |status| format!("{} ", status.as_str()));
        say(format_args!("client {} has no {which}batches", command.client));
        return Ok(());
    }
    let mut lines = columns(&["batch", "status", "rows", "not found", "failed", "accepted"]);
    for batch in &list.batches {
        let counts = [batch.rows, batch.counts.not_found, batch.counts.failed]
            .map(|count| HumanCount(count).to_string());
        let name =
            batch.name.iter().map(|name| format!("\n  {}", shortened(name.as_str(), NAME_CHARS_SHOWN)));
        let mut line = vec![name.fold(batch.batch_id.clone(), |id, name| id + &name), batch.status.clone()];
        line.extend(counts);
        line.push(short_time(&batch.accepted_at));
        let of_status = match batch.state() {
            Some(BatchState::Complete) => Color::Green,
            Some(BatchState::Stuck) => Color::Red,
            Some(BatchState::Incomplete) | None => Color::Yellow,
        };
        let cell = |(n, text): (usize, &String)| match n {
            STATUS_COLUMN => Cell::new(shown(text)).fg(of_status),
            FAILED_COLUMN if batch.counts.failed > 0 => Cell::new(shown(text)).fg(Color::Red),
            // A line each for its id and its name.
            _ => Cell::new(text.split('\n').map(shown).collect::<Vec<_>>().join("\n")),
        };
        lines.add_row(line.iter().enumerate().map(cell));
    }
    say(lines.trim_fmt());
    Ok(())
}

/// The file as a body, and a progress bar, which shows only on a terminal.
pub(super) async fn open(path: &Path) -> Result<(FileBody, ProgressBar), CliError> {
    if path == Path::new("-") {
        let bar = ProgressBar::no_length().with_message("sending");
        let moved = bar.clone();
        return Ok((FileBody::new(tokio::io::stdin(), None, move |bytes| moved.inc(bytes)), bar));
    }
    let unreadable = |e: std::io::Error| CliError::Failed(format!("{} cannot be read: {e}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let kind = file.metadata().await.map_err(unreadable)?;
    if kind.is_dir() {
        return Err(CliError::Usage(format!("{} is a folder: name a file", path.display())));
    }
    let length = kind.is_file().then_some(kind.len());
    let bar = progress(length.unwrap_or_default(), "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    bar.set_message("sending ");
    let moved = bar.clone();
    Ok((FileBody::new(file, length, move |bytes| moved.inc(bytes)).encoded_as_named(path), bar))
}

pub(super) fn progress(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The current state of a batch.
pub(super) async fn ask(client: &Client, id: &str) -> Result<BatchView, CliError> {
    client.get(&format!("/api/v1/batches/{}", encoded(id))).await?.json()
}

/// Waits until a batch is complete.
pub(super) async fn wait(client: &Client, id: &str) -> Result<BatchView, CliError> {
    let mut pause = ASK_AGAIN.0;
    let mut bar: Option<ProgressBar> = None;
    loop {
        let batch = ask(client, id).await?;
        let bar = bar
            .get_or_insert_with(|| progress(batch.rows, "applying {wide_bar} {human_pos}/{human_len} rows"));
        bar.set_position(batch.counts.total());
        match batch.state() {
            Some(BatchState::Incomplete) => sleep(pause).await,
            Some(BatchState::Complete) => {
                bar.finish_and_clear();
                return Ok(batch);
            }
            Some(BatchState::Stuck) => {
                let why =
                    batch.reason.as_deref().unwrap_or("the store cannot write it; see the daemon's log");
                return Err(CliError::Failed(shown(&format!("batch {id} is stuck: {why}"))));
            }
            None => {
                let status = &batch.status;
                return Err(CliError::Failed(shown(&format!(
                    "batch {id} is {status}, a status that this profiled does not know: use the daemon's version"
                ))));
            }
        }
        pause = ASK_AGAIN.1.min(pause * 2);
    }
}

/// What time its values are of, or which batch it undoes.
fn of(batch: &BatchView) -> String {
    let as_of = batch.as_of.as_ref().map(|as_of| format!(", of {as_of}"));
    let undoes = batch.undoes.as_ref().map(|undone| format!(", undoes {undone}"));
    as_of.or(undoes).unwrap_or_default()
}

/// The progress of a batch in one line, and what was new in it in further ones.
pub(super) fn summary(batch: &BatchView) -> String {
    let Counts { updated, created, not_found, ignored, failed } = batch.counts;
    let [updated, created, not_found, ignored, failed, rows] =
        [updated, created, not_found, ignored, failed, batch.rows].map(HumanCount);
    shown(&format!(
        "{} is {}{}: {rows} rows = {updated} updated + {created} created + {not_found} not found + {ignored} ignored \
         + {failed} failed{}",
        batch.batch_id,
        batch.status,
        of(batch),
        if batch.state() == Some(BatchState::Incomplete) { " + the remaining rows" } else { "" },
    )) + &batch.reason.as_deref().map_or(String::new(), |why| shown(&format!("; {why}")))
        + &batch.new_attributes.iter().map(|new| format!("\n{}", new.in_words())).collect::<String>()
}
