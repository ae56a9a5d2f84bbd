//! `profiled demo`: shows the main job in a temporary folder with the real daemon, and kills the daemon on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::args::{By, block_on};
use super::client::{Client, FileBody};
use super::error::CliError;
use super::stop::Stops;
use super::terminal::{complain, say};
use super::{batch, profile};
use crate::model::id::ClientCode;
use crate::model::seq::{Clock, SystemClock};

const VISITS: &str = include_str!("../../data/visits.ndjson");
const LOYALTY: &[u8] = include_bytes!("../../data/loyalty.csv");
const CLIENT: &str = "demo";
/// The visitor that the demo looks at. The batch has four rows for it (data/README.md).
const VISITOR: &str = "crm-184804";
/// How many site calls are under way at once.
const LANES: u64 = 32;
const USUAL_ADDRESS: &str = "127.0.0.1:8750";
const ANY_ADDRESS: &str = "127.0.0.1:0";

/// The command.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Stop at the end instead of keeping the daemon running
    #[arg(long)]
    exit: bool,
}

/// Shows the main job.
pub(super) fn run(command: &Demo) -> Result<(), CliError> {
    let folder = TemporaryFolder::fresh()?;
    let address = match TcpListener::bind(USUAL_ADDRESS) {
        Ok(_) => USUAL_ADDRESS,
        Err(_) => ANY_ADDRESS,
    };
    block_on(async {
        let mut stops = Stops::with_hangup()?;
        let daemon = tokio::select! {
            walked = walk(&folder, address) => walked?,
            () = stops.next() => return Err(CliError::Failed("interrupted before the demo was over".into())),
        };
        if !command.exit {
            say(what_to_try(&daemon.url));
            stops.next().await;
            say("\nStopped; the temporary folder is removed.");
        }
        Ok(())
    })
}

async fn walk(folder: &TemporaryFolder, address: &str) -> Result<Daemon, CliError> {
    let daemon = match Daemon::start(folder, address) {
        // Another process took the port meanwhile.
        Err(_) if address == USUAL_ADDRESS => Daemon::start(folder, ANY_ADDRESS)?,
        started => started?,
    };
    say(format_args!("A fresh daemon serves {}, with its data in\n{}.", daemon.url, folder.0.display()));
    let client = Arc::new(Client::new(&daemon.url, None, None)?);
    let visits = visits()?;
    let first_visit = visits.iter().find(|visit| visit.third_party_id.as_deref() == Some(VISITOR));
    let pc_id = first_visit.map(|visit| visit.pc_id.clone()).unwrap_or_default();

    let (calls, begun) = (visits.len(), Instant::now());
    visit_all(&client, visits).await?;
    let took = begun.elapsed();
    step(
        1,
        &format!(
            "The site creates its visitors: {calls} calls, each durable when answered,\n   in {took:.1?}."
        ),
    );

    let begun = Instant::now();
    let id = post_loyalty(&client).await?;
    let took = begun.elapsed();
    step(
        2,
        &format!(
            "The CRM posts data/loyalty.csv, 4,000 rows: durable and readable\n   after {took:.1?}, as {id}."
        ),
    );

    let visitor = look_up(&client).await?;
    step(3, &format!("A lookup straight after it shows {VISITOR} with the values of the batch:"));
    say(profile::in_words(&visitor, false));
    expect(&visitor, "tier", "silver", "batch v2")?;

    let profile = [("tier", "gold"), ("page", "checkout")].map(|(name, value)| (name.into(), value.into()));
    mbox(&client, &Visit { pc_id, third_party_id: Some(VISITOR.into()), profile: profile.into() }).await?;
    step(4, &format!("A site call sets tier=gold for {VISITOR}. It comes after the batch,\n   so it wins."));
    let before = look_up(&client).await?;
    expect(&before, "tier", "gold", "mbox")?;

    let address = daemon.address().to_owned();
    daemon.kill()?;
    let begun = Instant::now();
    let daemon = Daemon::start(folder, &address)?;
    let took = begun.elapsed();
    let client = Client::new(&daemon.url, None, None)?;
    unchanged(&before, &look_up(&client).await?)?;
    step(
        5,
        &format!("kill -9. Started again it serves after {took:.1?},\n   and {VISITOR} reads as before."),
    );

    let batch = batch::wait(&client, &id).await?;
    step(6, "Every row of the batch is accounted for:");
    // Within 80 columns: the sum of the rows has a line of its own.
    say(format_args!(
        "   {}",
        batch::summary(&batch).replacen(": ", ":\n   ", 1).replacen(" + 0 created", "\n   + 0 created", 1)
    ));

    let visitor = look_up(&client).await?;
    unchanged(&before, &visitor)?;
    step(7, &format!("{VISITOR} now: who set what, and when."));
    say(profile::in_words(&visitor, false));
    Ok(daemon)
}

fn visits() -> Result<Vec<Visit>, CliError> {
    let visits: Result<_, _> = VISITS.lines().map(serde_json::from_str).collect();
    visits.map_err(|e| failed("data/visits.ndjson", e))
}

/// Posts the batch; gives its id.
async fn post_loyalty(client: &Client) -> Result<String, CliError> {
    let body = FileBody::new(LOYALTY, Some(LOYALTY.len() as u64), |_| {});
    batch::send(client, &format!("/m2/{CLIENT}/v2/profile/batchUpdate"), body).await
}

async fn look_up(client: &Client) -> Result<profile::ProfileView, CliError> {
    let whose = ClientCode::new(CLIENT).map_err(|e| failed("the client", e))?;
    profile::ask(client, &whose, By::ThirdParty, VISITOR).await
}

fn unchanged(before: &profile::ProfileView, now: &profile::ProfileView) -> Result<(), CliError> {
    if before == now {
        return Ok(());
    }
    Err(CliError::Failed(format!("{VISITOR} should be unchanged: it was {before:?} and is {now:?}")))
}

fn what_to_try(url: &str) -> String {
    let flag = if url.ends_with(USUAL_ADDRESS) { String::new() } else { format!(" --url {url}") };
    format!(
        "
{VISITOR} in a browser:
  {url}/visitors?client={CLIENT}&by=third-party&id={VISITOR}
Calls as they come in:
  {url}/live?client={CLIENT}

The daemon runs until Ctrl-C. Try in another terminal:

  curl '{url}/api/v1/profiles/{VISITOR}?client={CLIENT}'
  curl {url}/m2/{CLIENT}/profile/update \\
    -d 'mbox3rdPartyId={VISITOR}&profile.city=Lyon'
  curl -X POST --data-binary @data/loyalty.csv \\
    {url}/m2/{CLIENT}/v2/profile/batchUpdate
  profiled profile get {VISITOR} --client {CLIENT}{flag}
  profiled profile set {VISITOR} --client {CLIENT}{flag} city=Lyon
  profiled batch post data/loyalty.csv --client {CLIENT}{flag} --wait
  profiled batch list --client {CLIENT}{flag}

(If `profiled` is not installed, write `cargo run --release --` instead.)"
    )
}

/// A line of data/visits.ndjson: a call from the site.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Visit {
    pc_id: String,
    third_party_id: Option<String>,
    profile: BTreeMap<String, String>,
}

/// Makes all calls, many at once, but those of one visitor in their order.
async fn visit_all(client: &Arc<Client>, visits: Vec<Visit>) -> Result<(), CliError> {
    let mut lanes: BTreeMap<u64, Vec<Visit>> = BTreeMap::new();
    for visit in visits {
        let mut hasher = DefaultHasher::new();
        visit.third_party_id.as_ref().unwrap_or(&visit.pc_id).hash(&mut hasher);
        lanes.entry(hasher.finish() % LANES).or_default().push(visit);
    }
    let mut calls = JoinSet::new();
    for lane in lanes.into_values() {
        let client = Arc::clone(client);
        calls.spawn(async move {
            for visit in &lane {
                mbox(&client, visit).await?;
            }
            Ok::<_, CliError>(())
        });
    }
    while let Some(done) = calls.join_next().await {
        done.map_err(|e| failed("a lane of calls", e))??;
    }
    Ok(())
}

async fn mbox(client: &Client, visit: &Visit) -> Result<(), CliError> {
    let names: Vec<String> = visit.profile.keys().map(|name| format!("profile.{name}")).collect();
    let mut params = vec![("mbox", "demo"), ("mboxPC", visit.pc_id.as_str())];
    params.extend(visit.third_party_id.iter().map(|id| ("mbox3rdPartyId", id.as_str())));
    params.extend(
        names.iter().zip(visit.profile.values()).map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let answer = client.post_form(&format!("/m2/{CLIENT}/mbox/json"), &params).await?;
    if answer.status.is_success() {
        return Ok(());
    }
    Err(CliError::Failed(format!("a site call was refused: {}", answer.refusal())))
}

fn expect(visitor: &profile::ProfileView, name: &str, value: &str, source: &str) -> Result<(), CliError> {
    match visitor.attributes.get(name) {
        Some(found) if found.value == value && found.source == source => Ok(()),
        other => {
            Err(CliError::Failed(format!("{name} should be {value}, set by {source}, but is {other:?}")))
        }
    }
}

fn step(number: u32, text: &str) {
    say(format_args!("\n{number}. {text}"));
}

fn failed(what: &str, why: impl fmt::Display) -> CliError {
    CliError::Failed(format!("{what}: {why}"))
}

/// A temporary folder, removed at the end.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn fresh() -> Result<Self, CliError> {
        let name = format!("profiled-demo-{}-{}", std::process::id(), SystemClock.now().0);
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|e| failed(&format!("the folder {}", path.display()), e))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            complain(format_args!("{} could not be removed: {e}", self.0.display()));
        }
    }
}

/// The daemon: this binary in a process of its own, so that it can be killed.
struct Daemon {
    process: Child,
    url: String,
}

impl Daemon {
    fn start(folder: &TemporaryFolder, address: &str) -> Result<Self, CliError> {
        let binary = std::env::current_exe().map_err(|e| failed("this program's own file", e))?;
        let mut process = Command::new(binary)
            .args(["serve", "--log", "warn", "--listen", address, "--data", "data"])
            // If this process is killed, the daemon must end too.
            .args(["--end-with", &std::process::id().to_string()])
            // The user's variables and profiled.toml are not meant for the demo.
            .env_clear()
            .current_dir(&folder.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| failed("the daemon cannot be started", e))?;
        let mut line = String::new();
        let read = process.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let mut daemon = Self { process, url: String::new() };
        match (read, line.trim_end().strip_prefix("listening on ")) {
            (Some(Ok(_)), Some(url)) => daemon.url.push_str(url),
            _ => {
                return Err(CliError::Failed(
                    "the daemon ended before it listened; the reason is above".into(),
                ));
            }
        }
        Ok(daemon)
    }

    /// Its address and port.
    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Kills it as `kill -9` does.
    fn kill(mut self) -> Result<(), CliError> {
        self.process.kill().map_err(|e| failed("the daemon cannot be killed", e))?;
        self.process.wait().map_err(|e| failed("the daemon cannot be killed", e)).map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The folder is removed too, so a clean stop is not needed. The daemon may have ended already.
        if self.process.kill().is_ok() {
            self.process.wait().map(drop).unwrap_or_default();
        }
    }
}
