//! `profiled token new|list|revoke`: works on the data folder, also while a daemon has it open.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use jiff::SpanRelativeTo;
use serde::Serialize;

use super::args::parse_client;
use super::error::CliError;
use super::terminal::{complain, print_json, say, table};
use crate::audit::{self, Actor};
use crate::config::{Config, ServeOptions};
use crate::durable::private_folder;
use crate::folder::{self, FolderError};
use crate::model::id::ClientCode;
use crate::model::seq::{Clock, Millis, SystemClock};
use crate::tokens::{Scopes, State, Token, Tokens, TokensError};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token and print it. It is never shown again
    New(New),
    /// List the tokens, without their text
    List(List),
    /// Revoke a token
    Revoke(Revoke),
}

/// The data folder of the tokens.
#[derive(Debug, Args)]
struct FolderArgs {
    /// The data folder [default: that of the settings, else ./profiled-data]
    #[arg(long, env = "PROFILED_DATA", value_name = "FOLDER")]
    data: Option<String>,
    /// File with settings [default: profiled.toml, if it exists]
    #[arg(long, env = "PROFILED_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Creates a token.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true))]
pub(super) struct New {
    /// Client whose visitors the token is for
    #[arg(long, value_name = "CLIENT", value_parser = parse_client, group = "whose")]
    client: Option<ClientCode>,
    /// Allow the visitors of every client, and backup, compact and the metrics of all clients
    #[arg(long, group = "whose")]
    all_clients: bool,
    /// What the token allows: batch (batches and single updates), read (lookups), batch,read (both), admin (both, erasure and
    /// export)
    #[arg(long, value_name = "batch|read|batch,read|admin")]
    scope: Scopes,
    /// How long the token is valid, such as 90d or 12h [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    expires: Option<u64>,
    #[command(flatten)]
    folder: FolderArgs,
    /// Create the data folder if it does not exist or is empty
    #[arg(long)]
    init: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Lists tokens.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    folder: FolderArgs,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Revokes a token.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The token's id: the part between its underscores
    id: String,
    #[command(flatten)]
    folder: FolderArgs,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub(super) fn run(command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::New(command) => new(command),
        TokenCommand::List(command) => list(command),
        TokenCommand::Revoke(command) => revoke(command),
    }
}

impl FolderArgs {
    fn path(self) -> Result<PathBuf, CliError> {
        let options = self.config.map_or_else(ServeOptions::default, ServeOptions::of_file);
        let options = match self.data {
            Some(data) => options.with("data", data).map_err(|e| CliError::Usage(format!("--data: {e}")))?,
            None => options,
        };
        let config = Config::resolve(&options).map_err(|e| CliError::Usage(e.to_string()))?;
        Ok(config.server.data_folder)
    }

    /// The same, for a data folder that exists.
    fn existing(self) -> Result<PathBuf, CliError> {
        let folder = self.path()?;
        folder::expect(&folder).map_err(|e| match &e {
            FolderError::Other(_) => {
                CliError::Failed(format!("{e}, or create a new one with `token new --init`"))
            }
            _ => CliError::Failed(e.to_string()),
        })?;
        Ok(folder)
    }

    /// The same; the folder is created if needed.
    fn made(self) -> Result<PathBuf, CliError> {
        let folder = self.path()?;
        let failed = |e: &dyn std::fmt::Display| CliError::Failed(format!("{}: {e}", folder.display()));
        if !folder::is_one(&folder) {
            private_folder(&folder).map_err(|e| failed(&e))?;
            if std::fs::read_dir(&folder).map_err(|e| failed(&e))?.next().is_some() {
                let why = "it is neither empty nor a data folder: name the daemon's folder, or a new one, with --data";
                return Err(failed(&why));
            }
            folder::stamp(&folder).map_err(|e| CliError::Failed(e.to_string()))?;
        }
        folder::check(&folder).map_err(|e| CliError::Failed(e.to_string()))?;
        Ok(folder)
    }
}

/// A token as it is shown to programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenView {
    id: String,
    /// None: every client.
    client: Option<String>,
    scope: String,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenView {
    fn of(token: &Token, now: Millis) -> Self {
        Self {
            id: token.id.clone(),
            client: token.client.as_ref().map(ToString::to_string),
            scope: token.scope.to_string(),
            created_at: Millis(token.created_at_ms).iso_8601(),
            expires_at: token.expires_at_ms.map(|at| Millis(at).iso_8601()),
            revoked_at: token.revoked_at_ms.map(|at| Millis(at).iso_8601()),
            state: match token.state(now) {
                State::Valid => "valid",
                State::Expired => "expired",
                State::Revoked => "revoked",
            },
            token: None,
        }
    }

    fn client(&self) -> &str {
        self.client.as_deref().unwrap_or("every client")
    }
}

fn new(command: New) -> Result<(), CliError> {
    let init = command.init;
    let folder = if init { command.folder.made()? } else { command.folder.existing()? };
    let now = SystemClock.now();
    let first = !Tokens::read(&folder).map_err(failed)?.are_asked_for();
    let expires = command.expires.map(|span_ms| now.plus(span_ms));
    let (token, text) = Tokens::make(&folder, command.client, command.scope, now, expires).map_err(failed)?;
    let what = format!("{}, scope {}", token.id, token.scope);
    audit::note(&folder, now, &Actor::this_user(), "token new", token.client.as_ref(), &what);
    if command.json {
        print_json(&TokenView { token: Some(text), ..TokenView::of(&token, now) })?;
    } else {
        say(text);
    }
    if first {
        complain("this is the first token: after its next SIGHUP or start the daemon requires one");
    }
    Ok(())
}

fn list(command: List) -> Result<(), CliError> {
    let (folder, now) = (command.folder.existing()?, SystemClock.now());
    let tokens = Tokens::read(&folder).map_err(failed)?;
    let shown: Vec<TokenView> = tokens.all().iter().map(|token| TokenView::of(token, now)).collect();
    if command.json {
        return print_json(&shown);
    }
    if shown.is_empty() {
        say("there are no tokens: a daemon on this folder requires none");
        return Ok(());
    }
    let mut table = table(&["id", "client", "scope", "created", "expires", "state"]);
    for token in &shown {
        let expires = token.expires_at.as_deref().unwrap_or("never");
        table.add_row([&token.id, token.client(), &token.scope, &token.created_at, expires, token.state]);
    }
    say(table);
    Ok(())
}

fn revoke(command: Revoke) -> Result<(), CliError> {
    let (folder, now) = (command.folder.existing()?, SystemClock.now());
    let token = Tokens::revoke(&folder, &command.id, now).map_err(failed)?;
    audit::note(&folder, now, &Actor::this_user(), "token revoke", token.client.as_ref(), &token.id);
    let shown = TokenView::of(&token, now);
    if command.json {
        return print_json(&shown);
    }
    say(format_args!("{} is revoked; a running daemon refuses it after its next SIGHUP", shown.id));
    Ok(())
}

fn failed(error: TokensError) -> CliError {
    match error {
        TokensError::NoSuchToken(_) => CliError::Usage(error.to_string()),
        error => CliError::Failed(error.to_string()),
    }
}

/// Milliseconds of `90d`, `12h`, `1h 30m`; a day has 24 hours.
fn parse_span(text: &str) -> Result<u64, String> {
    let wrong = || "write a time such as 90d, 12h or 30m".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    u64::try_from(length.as_millis()).ok().filter(|ms| *ms > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let check = |text: &str, ms: Option<u64>| assert_eq!(parse_span(text).ok(), ms, "{text}");
        check("90d", Some(90 * 86_400_000));
        check("12h", Some(12 * 3_600_000));
        check("1h 30m", Some(90 * 60_000));
        check("1s", Some(1_000));
        for wrong in ["", "90", "-1d", "0d", "1 month", "soon"] {
            check(wrong, None);
        }
    }
}
