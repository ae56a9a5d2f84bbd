//! `profiled token new|list|revoke`: works on the data folder, also while a daemon has it open; with `--url` on a running daemon,
//! and so on all nodes of several.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use jiff::SpanRelativeTo;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::{block_on, parse_client};
use super::client::{Client, encoded};
use super::error::CliError;
use super::terminal::{columns, complain, print_json, say, shown};
use crate::audit::{self, Actor};
use crate::cluster::FolderCluster;
use crate::config::{Config, ServeOptions};
use crate::durable::private_folder;
use crate::folder::{self, FolderError};
use crate::model::id::ClientCode;
use crate::model::seq::{Clock, Millis, SystemClock};
use crate::tokens::{Scopes, State, Token, TokenName, Tokens, TokensError, WantedToken, last_uses_in};

/// How many characters of a token's name a list shows.
const NAME_WIDTH: usize = 15;

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

/// Where the tokens are: in a data folder, or at a daemon.
#[derive(Debug, Args)]
struct Place {
    /// The data folder [env: PROFILED_DATA] [default: that of the settings, else ./profiled-data]
    #[arg(long, value_name = "FOLDER", conflicts_with = "url")]
    data: Option<String>,
    // The variable is of its own: what is set for a whole shell or container must not stand in the way of --url.
    #[arg(long, env = "PROFILED_DATA", hide = true)]
    data_of_environment: Option<String>,
    /// File with settings [default: profiled.toml, if it exists]
    #[arg(long, env = "PROFILED_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// URL of a running daemon: work there, and not on the data folder. On a node of several the change is made on all nodes
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Access token for the daemon at --url: one of --all-clients --scope admin, if it requires one
    #[arg(long, env = "PROFILED_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with root certificates, in PEM, for a daemon on https [default: those of the system]
    #[arg(long, env = "PROFILED_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Creates a token.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true))]
pub(super) struct New {
    /// What to call the token, so that a list says what it is for: 1 to 64 characters, such as "nightly CRM"
    #[arg(long, value_name = "NAME")]
    name: Option<TokenName>,
    /// Client whose visitors the token is for
    #[arg(long, value_name = "CLIENT", value_parser = parse_client, group = "whose")]
    client: Option<ClientCode>,
    /// Allow the visitors of every client, and backup, compact, the tokens and the metrics of all clients
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
    place: Place,
    /// Create the data folder if it does not exist or is empty
    #[arg(long, conflicts_with = "url")]
    init: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Lists tokens.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    place: Place,
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
    place: Place,
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

impl Place {
    /// The daemon, if the tokens are at one.
    fn daemon(&self) -> Result<Option<Client>, CliError> {
        let client = |url: &String| Client::new(url, self.token.as_deref(), self.ca.as_deref());
        self.url.as_ref().map(client).transpose()
    }

    fn path(self) -> Result<PathBuf, CliError> {
        let options = self.config.map_or_else(ServeOptions::default, ServeOptions::of_file);
        let options = match self.data.or(self.data_of_environment) {
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

/// Says that a folder of several nodes has tokens of its own.
fn warn_of_other_nodes(folder: &Path) {
    if FolderCluster::read(folder).is_ok_and(|cluster| cluster.is_none()) {
        return;
    }
    complain(
        "this is a node of several, and the change is this node's alone: --url URL of a running node makes it on all nodes",
    );
}

/// A token as it is shown to programs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenView {
    id: String,
    /// None: it has none, or the daemon is older than names.
    #[serde(default)]
    name: Option<String>,
    /// None: every client.
    client: Option<String>,
    scope: String,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    #[serde(default)]
    last_used_at: Option<String>,
    /// As it came. A later daemon may send one that this program does not know.
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// The tokens as the native API shows them.
#[derive(Debug, Deserialize)]
struct TokenList {
    tokens: Vec<TokenView>,
}

impl TokenView {
    fn of(token: &Token, last_used: Option<Millis>, now: Millis) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.as_ref().map(ToString::to_string),
            client: token.client.as_ref().map(ToString::to_string),
            scope: token.scope.to_string(),
            created_at: Millis(token.created_at_ms).iso_8601(),
            expires_at: token.expires_at_ms.map(|at| Millis(at).iso_8601()),
            revoked_at: token.revoked_at_ms.map(|at| Millis(at).iso_8601()),
            last_used_at: last_used.map(Millis::iso_8601),
            state: token.state(now).name().to_owned(),
            token: None,
        }
    }

    /// A line of the list. Ids and clients are copied from it, so only the name is cut.
    fn line(&self, now: Millis) -> [String; 7] {
        let name = self.name.as_deref().unwrap_or_default();
        let ends = match (self.state == State::Valid.name(), &self.expires_at) {
            (true, None) => "never".to_owned(),
            (true, Some(at)) => short_day(at),
            (false, _) => shown(&self.state),
        };
        [
            shown(&self.id),
            cut(&shown(name), NAME_WIDTH),
            self.client.as_deref().map_or("(all)".to_owned(), shown),
            shown(&self.scope),
            short_day(&self.created_at),
            self.last_used_at.as_deref().map_or("never".to_owned(), |at| age(at, now)),
            ends,
        ]
    }
}

/// The day of a time as an answer has it.
fn short_day(iso: &str) -> String {
    match iso.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d").to_string(),
        Err(_) => shown(iso),
    }
}

/// How long ago a time is as an answer has it.
fn age(iso: &str, now: Millis) -> String {
    let at = iso.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    match at.map(|at| now.0.saturating_sub(at) / 60_000) {
        None => shown(iso),
        Some(0) => "now".into(),
        Some(minutes @ 1..120) => format!("{minutes} min ago"),
        Some(minutes @ 120..2_880) => format!("{} h ago", minutes / 60),
        Some(minutes) => format!("{} d ago", minutes / 1_440),
    }
}

/// The beginning of a text that is too long for a column.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

fn new(command: New) -> Result<(), CliError> {
    let json = command.json;
    let (made, first) = match command.place.daemon()? {
        Some(daemon) => (new_at(&daemon, &command)?, command.place.token.is_none()),
        None => new_in_folder(command)?,
    };
    if json {
        print_json(&made.view)?;
    } else {
        say(shown(made.view.token.as_deref().unwrap_or_default()));
    }
    if first {
        complain(format_args!("this is the first token: {} the daemon requires one", made.from));
    }
    Ok(())
}

/// A token that was made, and from when on a daemon requires one if it is the first.
struct Made {
    view: TokenView,
    from: &'static str,
}

fn new_at(daemon: &Client, command: &New) -> Result<Made, CliError> {
    let mut wanted = json!({
        "client": command.client.as_ref().map(ClientCode::as_str),
        "allClients": command.all_clients,
        "scope": command.scope.to_string(),
        "expiresInMs": command.expires,
    });
    // A daemon of before names takes none.
    if let (Some(name), Some(wanted)) = (&command.name, wanted.as_object_mut()) {
        wanted.insert("name".into(), name.as_str().into());
    }
    let view = block_on(async { daemon.post_json("/api/v1/tokens", &wanted).await?.json() })?;
    Ok(Made { view, from: "from now on" })
}

fn new_in_folder(command: New) -> Result<(Made, bool), CliError> {
    let folder = if command.init { command.place.made()? } else { command.place.existing()? };
    let now = SystemClock.now();
    let first = !Tokens::read(&folder).map_err(failed)?.are_asked_for();
    let New { name, client, scope, expires, .. } = command;
    let wanted = WantedToken { name, client, scope, lasts_ms: expires };
    let (token, text) = Tokens::make(&folder, &wanted, now).map_err(failed)?;
    let what = token.in_words();
    audit::note(&folder, now, &Actor::this_user(), "token new", token.client.as_ref(), &what);
    warn_of_other_nodes(&folder);
    let view = TokenView { token: Some(text), ..TokenView::of(&token, None, now) };
    Ok((Made { view, from: "after `profiled reload`, a SIGHUP or a start," }, first))
}

fn list(command: List) -> Result<(), CliError> {
    let (tokens, requires_none) = match command.place.daemon()? {
        Some(daemon) => {
            let list: TokenList = block_on(async { daemon.get("/api/v1/tokens").await?.json() })?;
            (list.tokens, "the daemon requires none")
        }
        None => {
            let (folder, now) = (command.place.existing()?, SystemClock.now());
            let tokens = Tokens::read(&folder).map_err(failed)?;
            let uses = uses_in(&folder);
            let view = |token: &Token| TokenView::of(token, uses.get(&token.id).copied(), now);
            let tokens = tokens.all().iter().map(view).collect::<Vec<_>>();
            (tokens, "a daemon on this folder requires none")
        }
    };
    if command.json {
        return print_json(&tokens);
    }
    if tokens.is_empty() {
        say(format_args!("there are no tokens: {requires_none}"));
        return Ok(());
    }
    say(in_lines(&tokens, SystemClock.now()));
    Ok(())
}

fn in_lines(tokens: &[TokenView], now: Millis) -> String {
    let mut lines = columns(&["id", "name", "client", "scope", "made", "last used", "ends"]);
    for token in tokens {
        lines.add_row(token.line(now));
    }
    lines.trim_fmt()
}

/// When the tokens of a folder were last used. A running daemon writes that once a minute.
fn uses_in(folder: &Path) -> BTreeMap<String, Millis> {
    last_uses_in(folder).unwrap_or_else(|error| {
        complain(format_args!("when the tokens were last used is not known: {error}"));
        BTreeMap::new()
    })
}

fn revoke(command: Revoke) -> Result<(), CliError> {
    let (revoked, from) = match command.place.daemon()? {
        Some(daemon) => {
            let path = format!("/api/v1/tokens/{}", encoded(&command.id));
            let view: TokenView = block_on(async { daemon.delete(&path).await?.json() })?;
            (view, "the daemon refuses it from now on")
        }
        None => {
            let (folder, now) = (command.place.existing()?, SystemClock.now());
            let token = Tokens::revoke(&folder, &command.id, now).map_err(failed)?;
            audit::note(&folder, now, &Actor::this_user(), "token revoke", token.client.as_ref(), &token.id);
            warn_of_other_nodes(&folder);
            let last_used = uses_in(&folder).get(&token.id).copied();
            let from = "a running daemon refuses it after `profiled reload` or a SIGHUP";
            (TokenView::of(&token, last_used, now), from)
        }
    };
    if command.json {
        return print_json(&revoked);
    }
    say(format_args!("{} is revoked; {from}", shown(&revoked.id)));
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
    fn a_list_fits_eighty_columns_and_breaks_no_id() {
        let now = Millis(1_790_000_000_000);
        let view = |name: Option<&str>, last_used: Option<u64>| TokenView {
            id: "1f0c2b7a".into(),
            name: name.map(str::to_owned),
            client: Some("demo".into()),
            scope: "batch,read".into(),
            created_at: "2026-11-07T17:02:11.123Z".into(),
            expires_at: Some("2027-02-05T17:02:11.123Z".into()),
            revoked_at: None,
            last_used_at: last_used.map(|ms_ago| Millis(now.0 - ms_ago).iso_8601()),
            state: "valid".into(),
            token: None,
        };
        let revoked = TokenView { state: "revoked".into(), ..view(None, None) };
        let all = TokenView {
            client: None,
            scope: "admin".into(),
            expires_at: None,
            ..view(Some("Leitung"), Some(61_000))
        };
        let nightly = view(Some(&"nightly CRM, of every night".repeat(2)), Some(400 * 86_400_000));
        let text = in_lines(&[nightly, all, revoked], now);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let lines: Vec<_> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "id name client scope made last used ends",
            "1f0c2b7a nightly CRM, o… demo batch,read 2026-11-07 400 d ago 2027-02-05",
            "1f0c2b7a Leitung (all) admin 2026-11-07 1 min ago never",
            "1f0c2b7a demo batch,read 2026-11-07 never revoked",
        ];
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn ages_are_as_exact_as_they_need_be() {
        let now = Millis(1_790_000_000_000);
        let check = |ms: u64, said: &str| assert_eq!(age(&Millis(now.0 - ms).iso_8601(), now), said);
        check(0, "now");
        check(59_999, "now");
        check(119 * 60_000, "119 min ago");
        check(47 * 3_600_000, "47 h ago");
        check(48 * 3_600_000, "2 d ago");
        assert_eq!(age(&Millis(now.0 + 5).iso_8601(), now), "now", "the daemon's clock is another one");
        assert_eq!(age("soon", now), "soon");
    }

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
