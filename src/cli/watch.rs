//! `profiled watch`: posts the batch files that appear in a folder.
//!
//! ```text
//! DIR/night.csv  ─► posted, applied ─► DIR/done/night.csv    with night.csv.outcomes.csv beside it
//!                └► refused         ─► DIR/failed/night.csv  with night.csv.reason.txt beside it
//! ```
//!
//! Promises: a file is posted once it has not changed from one look to the next, one after the other by name. It leaves the folder
//! after its batch is complete. If the command is stopped in between, the next one gets the same batch: the file's name, time and
//! size are its `Idempotency-Key`. Only a file that is wrong itself goes to `failed/`: while the daemon cannot be reached, has no room
//! or does not take the token, the file waits.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use http_body_util::BodyExt;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::args::{Remote, block_on, parse_client};
use super::batch::{self, BatchView, NotTaken, fail_on, file_body, parse_outcome, summary, try_send, wait};
use super::client::{Client, encoded};
use super::error::CliError;
use super::terminal::{complain, print_json, say, shown};
use crate::model::batch::Outcome;
use crate::model::id::ClientCode;

/// How the names of batch files end.
const ENDINGS: [&str; 9] = [
    ".csv",
    ".csv.gz",
    ".csv.zst",
    ".ndjson",
    ".ndjson.gz",
    ".ndjson.zst",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.zst",
];
/// How long it takes until a file is tried again that the daemon did not take: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Post each batch file that appears in a folder, and move it to done/ or failed/ in it
///
/// Files whose names end with .csv or .ndjson, or with .gz or .zst behind that, are posted by name, one after the other, once
/// they no longer change.
/// Write a file under another name, and rename it, to be sure that it is posted whole. Beside a file in done/ is what became
/// of its rows, beside one in failed/ why.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// The folder
    folder: PathBuf,
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Move a file to failed/ if rows have one of these outcomes: updated, created, not_found, ignored, failed
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',', value_parser = parse_outcome)]
    fail_on: Vec<Outcome>,
    /// Seconds between two looks at the folder
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// End once no file is left
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    remote: Remote,
}

/// What shows whether a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    changed: SystemTime,
}

impl Stamp {
    /// That of a file; none if there is no file of this name.
    async fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).await.ok().filter(std::fs::Metadata::is_file)?;
        Some(Self { bytes: metadata.len(), changed: metadata.modified().ok()? })
    }
}

/// Runs the command until it is stopped.
pub(super) fn run(command: Watch) -> Result<(), CliError> {
    block_on(watch(command))
}

async fn watch(command: Watch) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let folder = &command.folder;
    let unusable = |error: io::Error| CliError::Failed(format!("{}: {error}", folder.display()));
    if !fs::metadata(folder).await.map_err(unusable)?.is_dir() {
        return Err(CliError::Usage(format!("{} is not a folder", folder.display())));
    }
    for below in ["done", "failed"] {
        fs::create_dir_all(folder.join(below)).await.map_err(unusable)?;
    }
    let every = Duration::from_secs(command.every);
    let mut seen: HashMap<PathBuf, Stamp> = HashMap::new();
    loop {
        let there = batch_files(folder).await.map_err(unusable)?;
        if command.once && there.is_empty() {
            return Ok(());
        }
        for (path, stamp) in &there {
            if seen.get(path) == Some(stamp) {
                command.take(&client, path, *stamp).await?;
            }
        }
        seen = there.into_iter().collect();
        tokio::time::sleep(every).await;
    }
}

/// The batch files of a folder, by name.
async fn batch_files(folder: &Path) -> io::Result<Vec<(PathBuf, Stamp)>> {
    let (mut entries, mut files) = (fs::read_dir(folder).await?, vec![]);
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let named = name.to_str().is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
        });
        if named && let Some(stamp) = Stamp::of(&entry.path()).await {
            files.push((entry.path(), stamp));
        }
    }
    files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

/// Why a file is not moved yet.
enum Unfinished {
    /// The daemon does not take it now, or cannot tell what became of it.
    Waits(String),
    /// It cannot be moved.
    Stuck(CliError),
}

impl Unfinished {
    fn waits(error: CliError) -> Self {
        Self::Waits(error.to_string())
    }

    fn stuck(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Stuck(CliError::Failed(format!("{}: {error}", path.display())))
    }
}

impl Watch {
    /// Posts a file and moves it away. While that waits for the daemon, the file may change or go away: then it is left.
    async fn take(&self, client: &Client, path: &Path, stamp: Stamp) -> Result<(), CliError> {
        let (mut pause, mut told) = (AGAIN_FIRST, false);
        while Stamp::of(path).await == Some(stamp) {
            match self.attempt(client, path, stamp).await {
                Ok(()) => return Ok(()),
                Err(Unfinished::Stuck(error)) => return Err(error),
                Err(Unfinished::Waits(why)) if !told => {
                    complain(format_args!("{} waits: {}", path.display(), shown(&why)));
                    told = true;
                }
                Err(Unfinished::Waits(_)) => {}
            }
            tokio::time::sleep(pause).await;
            pause = AGAIN_MAX.min(pause * 2);
        }
        Ok(())
    }

    /// Posts a file, waits until its batch is complete, and moves it with what became of its rows.
    async fn attempt(&self, client: &Client, path: &Path, stamp: Stamp) -> Result<(), Unfinished> {
        let call = batch::call(&self.client, batch::form_of(path), false, batch::name_of(path).as_ref());
        let body = file_body(path).await.and_then(|body| body.keyed(&key(path, stamp)));
        let complete = match try_send(client, &call, body.map_err(Unfinished::waits)?).await {
            Ok(id) => wait(client, &id).await.map_err(Unfinished::waits)?,
            Err(NotTaken { why, is_wrong: true }) => return self.put(path, "failed", Some(&why), None).await,
            Err(NotTaken { why, .. }) => return Err(Unfinished::Waits(why)),
        };
        let bad = fail_on(&self.fail_on, &complete.counts).err().map(|why| why.to_string());
        let below = if bad.is_none() { "done" } else { "failed" };
        let outcomes = beside(&self.moved(path, below), "outcomes.csv");
        write_outcomes(client, &complete, &outcomes).await?;
        self.put(path, below, bad.as_deref(), Some(&complete)).await
    }

    /// Moves a file, with why it failed beside it, and says so.
    async fn put(
        &self,
        path: &Path,
        below: &str,
        why: Option<&str>,
        batch: Option<&BatchView>,
    ) -> Result<(), Unfinished> {
        let to = self.moved(path, below);
        if let Some(why) = why {
            fs::write(beside(&to, "reason.txt"), format!("{why}\n"))
                .await
                .map_err(Unfinished::stuck(path))?;
        }
        fs::rename(path, &to).await.map_err(Unfinished::stuck(path))?;
        self.tell(&to, why, batch).map_err(Unfinished::Stuck)
    }

    /// Where a file goes. A file of the same name that is there already stays.
    fn moved(&self, path: &Path, below: &str) -> PathBuf {
        let name = path.file_name().unwrap_or_default();
        let to = self.folder.join(below).join(name);
        let mut free = to.clone();
        for number in 2.. {
            if !free.exists() {
                break;
            }
            let mut next = to.clone().into_os_string();
            next.push(format!(".{number}"));
            free = PathBuf::from(next);
        }
        free
    }

    fn tell(&self, to: &Path, why: Option<&str>, batch: Option<&BatchView>) -> Result<(), CliError> {
        let file = to.display().to_string();
        if self.remote.json {
            return print_json(&serde_json::json!({ "file": file, "failed": why, "batch": batch }));
        }
        match (why, batch) {
            (Some(why), _) => say(format_args!("{}: {}", shown(&file), shown(why))),
            (None, Some(batch)) => say(format_args!("{}: {}", shown(&file), summary(batch))),
            (None, None) => {}
        }
        Ok(())
    }
}

/// Writes what became of each row.
async fn write_outcomes(client: &Client, batch: &BatchView, to: &Path) -> Result<(), Unfinished> {
    let path = format!("/api/v1/batches/{}/outcomes", encoded(&batch.batch_id));
    let mut body = client.stream(&path, "text/csv").await.map_err(Unfinished::waits)?.into_body();
    let mut file = fs::File::create(to).await.map_err(Unfinished::stuck(to))?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unfinished::waits(client.broke_off(&error)))?;
        if let Ok(bytes) = frame.into_data() {
            file.write_all(&bytes).await.map_err(Unfinished::stuck(to))?;
        }
    }
    file.sync_all().await.map_err(Unfinished::stuck(to))
}

/// A file beside another one.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// The name of the sending of a file. The same file that is put there once more is sent once more.
fn key(path: &Path, stamp: Stamp) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let at = stamp.changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let sum = crc32c::crc32c(name.as_bytes());
    format!("watch-{sum:08x}-{at}-{}", stamp.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sending_is_named_by_what_was_put_there() {
        let stamp = |bytes, seconds| Stamp { bytes, changed: UNIX_EPOCH + Duration::from_secs(seconds) };
        let of = |name: &str, stamp| key(Path::new(name), stamp);
        let first = of("in/ä.csv", stamp(3, 5));
        assert_eq!(first, of("other/ä.csv", stamp(3, 5)));
        assert!(first.is_ascii());
        for other in [of("in/b.csv", stamp(3, 5)), of("in/ä.csv", stamp(4, 5)), of("in/ä.csv", stamp(3, 6))]
        {
            assert_ne!(first, other);
        }
    }
}
