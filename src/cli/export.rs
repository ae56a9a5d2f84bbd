//! `profiled export`: writes all visitors of a client to a file.
//!
//! Promises: a file gets its name only when it is complete. An existing file is never touched.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};

use super::args::{Format, Remote, block_on, parse_client};
use super::client::{Client, encoded};
use super::error::CliError;
use super::terminal::{complain, print_json, say, shown};
use crate::config::Limits;
use crate::model::id::ClientCode;

/// How many bytes are collected before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Write all visitors of a client to a file
///
/// Each visitor is written as a lookup shows it at that moment. The file is not a snapshot of one instant: a visitor who
/// logs in meanwhile may appear twice, the second time with all attributes.
///
/// CSV is a batch file for `profiled batch post`. A CSV file with more rows or bytes than a batch may have (500,000,
/// 50 MiB) is split into FILE, FILE-2, FILE-3 and so on (out.csv, out-2.csv), each with the header. Standard output is
/// not split.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file to write. `-` is standard output
    file: PathBuf,
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Format of the file [default: by the ending of its name]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// CSV: the id at the start of a row. Of several pcIds, the most recently bound one [default: third-party]
    #[arg(long, value_enum)]
    by: Option<Key>,
    /// CSV: percent-encode what a spreadsheet would run as a formula: a leading = + - @, and each semicolon. An import
    /// decodes it
    #[arg(long)]
    defuse: bool,
    #[command(flatten)]
    remote: Remote,
}

/// The kinds of id that a row of a batch file may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Key {
    /// The company's id
    ThirdParty,
    /// Target's own visitor id
    Pc,
}

impl Key {
    const fn name(self) -> &'static str {
        match self {
            Self::ThirdParty => "third-party",
            Self::Pc => "pc",
        }
    }
}

/// What was written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    files: Vec<String>,
    visitors: u64,
    bytes: u64,
    /// Visitors without an id of the kind that a row begins with.
    left_out: u64,
}

/// Runs it.
pub(super) fn run(command: Export) -> Result<(), CliError> {
    block_on(export(command))
}

async fn export(command: Export) -> Result<(), CliError> {
    let client = command.remote.client()?;
    let format = Format::of(command.format, &command.file)?;
    if format == Format::Ndjson && (command.by.is_some() || command.defuse) {
        return Err(CliError::Usage("--by and --defuse need --format csv".into()));
    }
    let to_stdout = command.file == Path::new("-");
    if !to_stdout {
        check_new(&command.file)?;
    }
    let by = command.by.map(|by| format!("&by={}", by.name())).unwrap_or_default();
    let defuse = if command.defuse { "&defuse=true" } else { "" };
    let whose = encoded(command.client.as_str());
    let path = format!("/api/v1/export?client={whose}&format={}{by}{defuse}", format.name());
    let mut answer = client.stream(&path, "*/*").await?;
    let left_out =
        answer.headers().get("profiled-left-out").and_then(|count| count.to_str().ok()?.parse().ok());

    let mut out = Out::new(&command.file, format);
    let written = write(&client, answer.body_mut(), &mut out).await;
    let written = match written {
        Ok(()) => out.finish().await,
        Err(error) => Err(error),
    };
    if written.is_err() {
        out.discard().await;
    }
    written?;

    let exported = Exported {
        files: out.files.iter().map(|file| file.name.display().to_string()).collect(),
        visitors: out.visitors,
        bytes: out.bytes,
        left_out: left_out.unwrap_or_default(),
    };
    print_result(&exported, &command, to_stdout, format)
}

fn print_result(
    exported: &Exported,
    command: &Export,
    to_stdout: bool,
    format: Format,
) -> Result<(), CliError> {
    let Exported { files, visitors, bytes, left_out } = exported;
    if command.remote.json && !to_stdout {
        return print_json(exported);
    }
    if to_stdout {
        let limits = Limits::default();
        let too_many = *visitors > limits.rows_limit || *bytes >= limits.body_bytes_limit;
        if format == Format::Csv && too_many {
            complain(
                "this is more than one batch may have (500,000 rows, 50 MiB): export to a file, which is split",
            );
        }
    } else {
        let (visitors, bytes) = (HumanCount(*visitors), HumanBytes(*bytes));
        say(shown(&format!("{visitors} visitors, {bytes}, in {}", files.join(", "))));
    }
    if *left_out > 0 {
        let kind = command.by.unwrap_or(Key::ThirdParty);
        let (kind, other) = match kind {
            Key::ThirdParty => ("thirdPartyId", "--by pc or --format ndjson"),
            Key::Pc => ("pcId", "--by third-party or --format ndjson"),
        };
        complain(format_args!(
            "{} visitors without a {kind} were left out: use {other}",
            HumanCount(*left_out)
        ));
    }
    Ok(())
}

async fn write(client: &Client, body: &mut Incoming, out: &mut Out) -> Result<(), CliError> {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} visitors {bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let written = async {
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(|e| client.broke_off(&e))?.into_data() else { continue };
            out.take(&bytes).await?;
            bar.set_message(HumanCount(out.visitors).to_string());
            bar.inc(bytes.len() as u64);
        }
        out.end().await
    };
    let written = written.await;
    bar.finish_and_clear();
    written
}

fn check_new(path: &Path) -> Result<(), CliError> {
    match path.symlink_metadata() {
        Ok(_) => Err(CliError::Failed(format!(
            "{} already exists: remove it, or name another file",
            shown(&path.display().to_string())
        ))),
        Err(_) => Ok(()),
    }
}

/// The files that lines are written to. A CSV file too large for a batch is continued in another.
struct Out {
    path: PathBuf,
    format: Format,
    /// Of a batch.
    limits: Limits,
    files: Vec<Written>,
    current: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The line so far.
    line: Vec<u8>,
    /// A CSV file's first line.
    header: Option<Vec<u8>>,
    /// In the current file.
    rows: u64,
    file_bytes: u64,
    /// In all of them.
    visitors: u64,
    bytes: u64,
}

struct Written {
    /// Its name when it is complete.
    name: PathBuf,
    /// Its name until then.
    partial: PathBuf,
}

impl Out {
    fn new(path: &Path, format: Format) -> Self {
        Self {
            path: path.to_owned(),
            format,
            limits: Limits::default(),
            files: vec![],
            current: None,
            line: vec![],
            header: None,
            rows: 0,
            file_bytes: 0,
            visitors: 0,
            bytes: 0,
        }
    }

    /// Takes the next bytes. A piece may end within a line.
    async fn take(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.line);
                self.whole_line(&line).await?;
                line.clear();
                self.line = line;
            }
        }
        Ok(())
    }

    /// Ends the input. An export without visitors makes an empty file.
    async fn end(&mut self) -> Result<(), CliError> {
        if !self.line.is_empty() {
            return Err(CliError::Failed(
                "the export ended within a line: run it again, and check --url".into(),
            ));
        }
        if self.current.is_none() { self.open().await } else { Ok(()) }
    }

    async fn whole_line(&mut self, line: &[u8]) -> Result<(), CliError> {
        let length = line.len() as u64;
        if self.current.is_none() {
            self.open().await?;
            if self.format == Format::Csv {
                self.header = Some(line.to_owned());
                return self.put(line).await;
            }
        }
        let full =
            self.rows == self.limits.rows_limit || self.file_bytes + length >= self.limits.body_bytes_limit;
        if full
            && self.path != Path::new("-")
            && let Some(header) = self.header.clone()
        {
            self.close().await?;
            self.open().await?;
            self.put(&header).await?;
        }
        self.rows += 1;
        self.visitors += 1;
        self.put(line).await
    }

    async fn put(&mut self, line: &[u8]) -> Result<(), CliError> {
        self.file_bytes += line.len() as u64;
        self.bytes += line.len() as u64;
        let Some(current) = &mut self.current else { return Ok(()) };
        current.write_all(line).await.map_err(|e| unwritable(&self.path, &e))
    }

    async fn open(&mut self) -> Result<(), CliError> {
        (self.rows, self.file_bytes) = (0, 0);
        if self.path == Path::new("-") {
            self.current = Some(Box::new(BufWriter::with_capacity(WRITE_BYTES, tokio::io::stdout())));
            return Ok(());
        }
        let name = part(&self.path, self.files.len() + 1);
        check_new(&name)?;
        let mut partial = name.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).await.map_err(|e| unwritable(&partial, &e))?;
        self.files.push(Written { name, partial });
        self.current = Some(Box::new(BufWriter::with_capacity(WRITE_BYTES, file)));
        Ok(())
    }

    async fn close(&mut self) -> Result<(), CliError> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        current.flush().await.map_err(|e| unwritable(&self.path, &e))
    }

    /// Everything is written: the files get their names.
    async fn finish(&mut self) -> Result<(), CliError> {
        self.close().await?;
        for file in &self.files {
            check_new(&file.name)?;
            tokio::fs::rename(&file.partial, &file.name).await.map_err(|e| unwritable(&file.name, &e))?;
        }
        Ok(())
    }

    /// Removes incomplete files.
    async fn discard(&mut self) {
        self.current = None;
        for file in &self.files {
            // A renamed file no longer exists under this name.
            drop(tokio::fs::remove_file(&file.partial).await);
        }
    }
}

/// The name of the n-th file: out.csv, out-2.csv, out-3.csv.
fn part(path: &Path, n: usize) -> PathBuf {
    if n == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{n}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    let path = shown(&path.display().to_string());
    CliError::Failed(format!("{path} cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_csv_file_too_large_for_a_batch_is_continued_in_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let mut out = Out::new(&path, Format::Csv);
        let rows = format!("x,{}\n", "y".repeat(1_000_000)).repeat(60);
        let text = format!("batch=pcId,a\n{rows}");
        for piece in text.as_bytes().chunks(777_777) {
            out.take(piece).await.unwrap();
        }
        assert!(!path.exists(), "it gets its name once it is whole");
        out.end().await.unwrap();
        out.finish().await.unwrap();
        let [one, two] = ["out.csv", "out-2.csv"].map(|name| {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.len() < 52_428_800);
            let rest = text.strip_prefix("batch=pcId,a\n").unwrap();
            rest.to_owned()
        });
        assert!(one + &two == rows);
        assert_eq!((out.visitors, out.files.len()), (60, 2));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
