//! `profiled profile get|find|history|set|remove|erase`: visitors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};

use super::args::{By, Remote, block_on, parse_client};
use super::author::AuthorView;
use super::client::{Client, encoded};
use super::erase_many;
use super::error::CliError;
use super::terminal::{GoesOn, columns, fitting_columns, print_json, say, short_date, short_time, shown};
use crate::engine::read::search::FOUND_MAX;
use crate::model::id::{ClientCode, VisitorId};

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Profile {
    /// Look up a visitor: each attribute, who set it and when
    Get(Get),
    /// Find visitors by the beginning of an id, by the value of an attribute, or those who were active last
    Find(Find),
    /// Show the changes of a visitor's attributes, newest first, as far as they are kept
    History(History),
    /// Set attributes of a known visitor
    Set(Set),
    /// Remove attributes of a visitor
    Remove(Remove),
    /// Erase a visitor with all its ids, or with --file many: from lookups at once, from the disk within erase_within_hours
    Erase(Erase),
}

/// Which visitor.
#[derive(Debug, Args)]
struct Who {
    /// The visitor's id
    id: String,
    /// Client of the visitor
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Kind of the id
    #[arg(long, value_enum, default_value_t = By::ThirdParty)]
    by: By,
}

/// Looks up a visitor.
#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    who: Who,
    /// Show the visitor as it was after all writes up to this seq or time, such as 2026-11-27T02:00:00Z
    #[arg(long, value_name = "SEQ|TIME")]
    as_of: Option<String>,
    /// Show the seq of the write that set each attribute
    #[arg(long)]
    seqs: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Finds visitors.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("how").required(true).args(["beginning", "attribute", "active"]))]
pub(super) struct Find {
    /// How the id begins
    beginning: Option<String>,
    /// Find the visitors whose attribute of this name has the value of --value
    #[arg(long, value_name = "NAME", requires = "value")]
    attribute: Option<String>,
    /// The value, the whole of it
    #[arg(long, requires = "attribute")]
    value: Option<String>,
    /// Find the visitors with the newest calls of the site and single updates, newest first
    #[arg(long)]
    active: bool,
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Kind of the id
    #[arg(long, value_enum, default_value_t = By::ThirdParty, conflicts_with_all = ["attribute", "active"])]
    by: By,
    /// The first so many
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

impl Find {
    /// The query of the call, without the client.
    fn query(&self) -> String {
        match (&self.beginning, &self.attribute, &self.value) {
            _ if self.active => "active=true".into(),
            (None, Some(name), Some(value)) => {
                format!("attribute={}&value={}", encoded(name), encoded(value))
            }
            (beginning, ..) => {
                let beginning = beginning.as_deref().unwrap_or_default();
                format!("by={}&beginning={}", self.by.name(), encoded(beginning))
            }
        }
    }

    /// What to say if nobody is found.
    fn nobody(&self) -> String {
        let of = match (&self.beginning, &self.attribute, &self.value) {
            _ if self.active => "who was active".into(),
            (None, Some(name), Some(value)) => format!("with {} = {}", shown(name), shown(value)),
            (beginning, ..) => {
                let beginning = shown(beginning.as_deref().unwrap_or_default());
                format!("whose {} begins with {beginning}", self.by.kind().name())
            }
        };
        format!("client {} has no visitor {of}", self.client)
    }
}

/// Shows what a visitor's attributes were.
#[derive(Debug, Args)]
pub(super) struct History {
    #[command(flatten)]
    who: Who,
    /// Only the changes of this attribute
    #[arg(long, value_name = "NAME")]
    attribute: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Sets attributes.
#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    who: Who,
    /// Attributes to set
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_attribute)]
    attributes: Vec<(String, String)>,
    #[command(flatten)]
    remote: Remote,
}

/// Removes attributes.
#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    who: Who,
    /// Attributes to remove
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Erases a visitor, or many.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["id", "file"]))]
pub(super) struct Erase {
    /// The visitor's id
    id: Option<String>,
    /// Erase all visitors whose ids stand in this file. `-` reads standard input. The first line is thirdPartyId, pcId or ecid, each
    /// further one an id. If a line is wrong, nobody is erased
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Client of the visitor
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Kind of the id
    #[arg(long, value_enum, default_value_t = By::ThirdParty, conflicts_with = "file")]
    by: By,
    #[command(flatten)]
    remote: Remote,
}

fn parse_attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("write NAME=VALUE".into()),
        Some((_, "")) => Err("an empty value changes nothing: write NAME=VALUE".into()),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Runs one of the commands.
pub(super) fn run(command: Profile) -> Result<(), CliError> {
    match command {
        Profile::Get(command) => block_on(get(command)),
        Profile::Find(command) => block_on(find(command)),
        Profile::History(command) => block_on(history(command)),
        Profile::Set(command) => block_on(set(command)),
        Profile::Remove(command) => block_on(remove(command)),
        Profile::Erase(command) => block_on(erase(command)),
    }
}

/// A visitor as the native API shows it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProfileView {
    client: String,
    third_party_id: Option<String>,
    pc_ids: Vec<String>,
    marketing_cloud_visitor_ids: Vec<String>,
    seq: String,
    last_site_seq: Option<String>,
    last_batch_seq: Option<String>,
    last_active: String,
    expires: String,
    pub(super) attributes: BTreeMap<String, AttributeView>,
}

/// One of its attributes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttributeView {
    pub(super) value: String,
    seq: String,
    pub(super) source: String,
    modified_at: String,
    batch_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<AuthorView>,
}

impl AttributeView {
    /// What set it, in lines: the kind of call, its batch and line, who made it.
    fn set_by(&self) -> String {
        let mut lines = vec![match self.line {
            Some(line) => format!("{}, line {line}", self.source),
            None => self.source.clone(),
        }];
        lines.extend(self.batch_id.clone());
        in_lines(lines, self.batch_id.as_ref(), self.by.as_ref())
    }
}

/// What a write was, and who made it; whose batch it is, the batch's status tells.
fn in_lines(mut what: Vec<String>, batch: Option<&String>, by: Option<&AuthorView>) -> String {
    what.extend(by.filter(|_| batch.is_none()).map(AuthorView::lines).unwrap_or_default());
    what.iter().map(|line| shown(line)).collect::<Vec<_>>().join("\n")
}

async fn get(command: Get) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let Who { id, client: whose, by } = &command.who;
    check_id(*by, id)?;
    let at = command.as_of.as_ref().map_or(String::new(), |at| format!("&as_of={}", encoded(at)));
    let visitor: ProfileView = found(&client, &format!("{}&lines=true{at}", path_of(whose, *by, id))).await?;
    if command.remote.json {
        return print_json(&visitor);
    }
    say(in_words(&visitor, command.seqs));
    Ok(())
}

/// Visitors that were found, as the native API shows them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundView {
    profiles: Vec<FoundOneView>,
    /// Earlier daemons do not say it.
    #[serde(default)]
    looked_at: u64,
    #[serde(default)]
    active_since: Option<String>,
    next: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundOneView {
    id: String,
    canonical_id: String,
    canonical_by: String,
    last_active: String,
    #[serde(default)]
    last_call: Option<String>,
    attributes: u64,
}

async fn find(command: Find) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let most = usize::try_from(command.limit).unwrap_or(usize::MAX);
    let (whose, page) = (encoded(command.client.as_str()), most.min(FOUND_MAX));
    let first = format!("/api/v1/profiles?client={whose}&{}&limit={page}", command.query());
    let mut all = FoundView { next: Some(first), ..FoundView::default() };
    let spinner = GoesOn::doing("looking for visitors");
    while let Some(path) = all.next.take_if(|_| all.profiles.len() < most) {
        let page: FoundView = found(&client, &path).await?;
        all.profiles.extend(page.profiles);
        all.looked_at += page.looked_at;
        all.active_since = page.active_since;
        all.next = page.next;
    }
    drop(spinner);
    if all.profiles.len() > most {
        // The next page would begin behind those that are left out.
        all.profiles.truncate(most);
        all.next = None;
    }
    if command.remote.json {
        return print_json(&all);
    }
    let since = all.active_since.as_deref().map(short_time);
    if all.profiles.is_empty() {
        match since {
            Some(since) => say(format_args!("{} since {since}, when the list began", command.nobody())),
            None => say(command.nobody()),
        }
        return Ok(());
    }
    let by_id = command.beginning.is_some();
    let second = if by_id { "kept under" } else { "kind" };
    let when = if command.active { "last call" } else { "last active" };
    let mut lines = columns(&["id", second, when, "attributes"]);
    for one in &all.profiles {
        let second = match by_id {
            true if one.canonical_id == one.id => String::new(),
            true => shown(&one.canonical_id),
            false => shown(&one.canonical_by),
        };
        let when = short_time(one.last_call.as_ref().unwrap_or(&one.last_active));
        lines.add_row([shown(&one.id), second, when, one.attributes.to_string()]);
    }
    say(lines.trim_fmt());
    if let Some(since) = since {
        say(format_args!("the daemon keeps this list in memory, since {since}"));
    } else if !by_id {
        say(format_args!("{} profiles were looked at", HumanCount(all.looked_at)));
    }
    Ok(())
}

/// A visitor's history as the native API shows it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HistoryView {
    client: String,
    seq: String,
    since: Option<String>,
    since_at: Option<String>,
    changes: Vec<ChangeView>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView {
    attribute: String,
    before: Option<String>,
    after: Option<String>,
    seq: String,
    source: String,
    modified_at: String,
    batch_id: Option<String>,
    /// Earlier daemons do not say it.
    #[serde(default)]
    by: Option<AuthorView>,
}

async fn history(command: History) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let Who { id, client: whose, by } = &command.who;
    check_id(*by, id)?;
    let of = command.attribute.as_ref().map_or(String::new(), |name| format!("&attribute={}", encoded(name)));
    let (by, whose) = (by.name(), encoded(whose.as_str()));
    let path = format!("/api/v1/profiles/{}/history?by={by}&client={whose}{of}", encoded(id));
    let history: HistoryView = found(&client, &path).await?;
    if command.remote.json {
        return print_json(&history);
    }
    let mut lines = fitting_columns(&["when", "attribute", "change", "by"], &[2]);
    for change in &history.changes {
        let value = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), shown);
        // In one column, so that two short values need not be broken where one column for each would be too narrow.
        let values = format!("{} → {}", value(&change.before), value(&change.after));
        let what = change.batch_id.clone().unwrap_or_else(|| change.source.clone());
        let by = in_lines(vec![what], change.batch_id.as_ref(), change.by.as_ref());
        lines.add_row([short_time(&change.modified_at), shown(&change.attribute), values, by]);
    }
    let lines = lines.trim_fmt();
    match &history.since_at {
        Some(since) => say(format_args!("{lines}\nall changes since {since} are here")),
        None => say(format_args!("{lines}\nno history is kept of this visitor: see the setting history_max")),
    }
    Ok(())
}

/// What the daemon answers of a visitor.
async fn found<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, CliError> {
    let answer = client.get(path).await?;
    answer.json()
}

async fn set(command: Set) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let who = &command.who;
    let id_param = match who.by {
        By::ThirdParty => "mbox3rdPartyId",
        By::Pc => "mboxPC",
        By::Ecid => {
            return Err(CliError::Usage(
                "attributes cannot be set by ecid: use --by third-party or --by pc".into(),
            ));
        }
    };
    check_id(who.by, &who.id)?;
    let names: Vec<String> = command.attributes.iter().map(|(name, _)| format!("profile.{name}")).collect();
    let mut params = vec![(id_param, who.id.as_str())];
    params.extend(
        names.iter().zip(&command.attributes).map(|(name, (_, value))| (name.as_str(), value.as_str())),
    );
    let answer = client.post_form(&format!("/m2/{}/profile/update", who.client), &params).await?;
    if answer.element("success").as_deref() != Some("true") {
        return Err(CliError::Failed(answer.refusal()));
    }
    // The answer doesn't say whether the visitor is known.
    let visitor = ask(&client, &who.client, who.by, &who.id).await.map_err(|e| {
        CliError::Failed(format!("{e}; setting attributes never creates a visitor, only a site call does"))
    })?;
    if command.remote.json {
        return print_json(&visitor);
    }
    say(in_words(&visitor, false));
    Ok(())
}

async fn remove(command: Remove) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let Who { id, client: whose, by } = &command.who;
    check_id(*by, id)?;
    for name in &command.names {
        let path = format!(
            "/api/v1/profiles/{}/attributes/{}?by={}&client={}",
            encoded(id),
            encoded(name),
            by.name(),
            encoded(whose.as_str())
        );
        let answer = client.delete(&path).await?;
        if !answer.status.is_success() {
            return Err(CliError::Failed(answer.refusal()));
        }
    }
    let visitor = ask(&client, whose, *by, id).await?;
    if command.remote.json {
        return print_json(&visitor);
    }
    say(in_words(&visitor, false));
    Ok(())
}

async fn erase(command: Erase) -> Result<(), CliError> {
    #[derive(Debug, Serialize, Deserialize)]
    struct Erased {
        erased: bool,
        seq: String,
    }
    let Erase { id, file, client: whose, by, remote } = &command;
    if let Some(file) = file {
        return erase_many::erase(file, whose, remote).await;
    }
    let id = id.as_deref().unwrap_or_default();
    let client = remote.client()?;
    check_id(*by, id)?;
    let answer = client.delete(&path_of(whose, *by, id)).await?;
    let erased: Erased = answer.json()?;
    if remote.json {
        return print_json(&erased);
    }
    say(format_args!(
        "{}: erased at seq {}; the bytes leave the disk within erase_within_hours, or now with `profiled compact`",
        shown(id),
        erased.seq
    ));
    Ok(())
}

fn path_of(whose: &ClientCode, by: By, id: &str) -> String {
    format!("/api/v1/profiles/{}?by={}&client={}", encoded(id), by.name(), encoded(whose.as_str()))
}

/// Looks a visitor up.
pub(super) async fn ask(
    client: &Client,
    whose: &ClientCode,
    by: By,
    id: &str,
) -> Result<ProfileView, CliError> {
    check_id(by, id)?;
    found(client, &format!("{}&lines=true", path_of(whose, by, id))).await
}

fn check_id(by: By, id: &str) -> Result<(), CliError> {
    match VisitorId::sent(by.kind(), id) {
        Ok(_) => Ok(()),
        Err(e) => Err(CliError::Usage(format!("{id:?} is not a {}: {e}", by.kind().name()))),
    }
}

/// A visitor as a table, with a line about it; with the seqs, or without.
pub(super) fn in_words(visitor: &ProfileView, seqs: bool) -> String {
    let mut ids = vec![];
    ids.extend(visitor.third_party_id.iter().map(|id| format!("thirdPartyId {id}")));
    ids.extend(visitor.pc_ids.iter().map(|id| format!("pcId {id}")));
    ids.extend(visitor.marketing_cloud_visitor_ids.iter().map(|id| format!("ECID {id}")));
    let header = ["attribute", "value", "set by", "when", "seq"];
    let header = if seqs { &header[..] } else { header.split_last().map_or(&[][..], |(_, rest)| rest) };
    let mut lines = fitting_columns(header, &[1]);
    for (name, attribute) in &visitor.attributes {
        let mut when = short_time(&attribute.modified_at);
        if let Some(as_of) = &attribute.as_of {
            when += &format!("\nof {}", short_date(as_of));
        }
        let mut row = vec![shown(name), shown(&attribute.value), attribute.set_by(), when];
        row.extend(seqs.then(|| shown(&attribute.seq)));
        lines.add_row(row);
    }
    let (active, expires) = (short_time(&visitor.last_active), short_time(&visitor.expires));
    format!("{}\nlast active {active}, expires {expires}\n\n{}", shown(&ids.join(", ")), lines.trim_fmt())
}
