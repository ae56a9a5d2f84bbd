//! `profiled lint FILE`: checks a batch file before it is uploaded, without a daemon.
//!
//! Promises: it uses the daemon's parser and limits, so it rejects what the daemon would reject. Memory is bounded by the
//! largest batch. It prints no value of the file.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Cell, Color};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::batch::Format;
use super::error::CliError;
use super::terminal::{print_json, say, shown, table};
use crate::batch::csv::{Header, HeaderError, Parser, Row, RowError};
use crate::batch::encoding::{Decoded, Encoding};
use crate::batch::form::{FormTooLong, Leaves, Unwrapped, form_bytes_max};
use crate::batch::index::brings_anything;
use crate::batch::remarks::{Remarks, further_lines};
use crate::config::Limits;
use crate::model::batch::{EmptyValues, RowForm, RowReading};
use crate::model::blocked::BlockedIds;

/// The largest profile in Adobe Target.
const ADOBES_PROFILE_BYTES: usize = 64 << 10;
/// How many findings of a kind are listed. The others are counted.
const LISTED_MAX: usize = 10;

/// Check a batch file before the upload: whether it would be refused, and which rows would fail and why
///
/// It also reports rows that Adobe would read differently (raw `+`, `&`, `=` or `%`), ids that a spreadsheet rounded or that
/// contain invisible characters, and quotes that span several lines. The whole file may be percent-encoded, as a form field
/// named `batch`.
///
/// The exit code is 0 if the file would be accepted and no row would fail because of its content, else 1. Only the daemon
/// knows which visitors exist.
#[derive(Debug, Args)]
pub(super) struct Lint {
    /// The batch file; .ndjson and .jsonl are NDJSON. FILE.gz and FILE.zst are decompressed. `-` reads standard input
    file: PathBuf,
    /// What the file is, if its name does not say it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// The client's blocked_ids, separated by commas, instead of the default list. An empty list blocks nothing
    #[arg(long, value_name = "LIST")]
    blocked_ids: Option<String>,
}

/// What was found in a file.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    rows: u64,
    bytes: u64,
    /// Why the whole file would be refused, if it would.
    refused: Option<String>,
    failed_rows: u64,
    /// Rows with empty values only.
    ignored_rows: u64,
    findings: Vec<Finding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Weight {
    /// The batch is refused.
    Refused,
    /// The row fails.
    Fails,
    /// It is accepted, but perhaps not meant.
    Mind,
}

#[derive(Debug, Serialize)]
struct Finding {
    weight: Weight,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    what: String,
}

/// Runs it.
pub(super) fn run(command: &Lint) -> Result<(), CliError> {
    let blocked = match &command.blocked_ids {
        Some(list) => BlockedIds::these(list.split(',')),
        None => BlockedIds::default(),
    };
    let reading = RowReading::of_form(Format::form(command.format, &command.file), blocked);
    let report = lint(&command.file, &reading)?;
    let good = report.refused.is_none() && report.failed_rows == 0;
    if command.json {
        print_json(&report)?;
    } else {
        print_report(&report);
    }
    let name = shown(&command.file.display().to_string());
    match (&report.refused, good) {
        (_, true) => Ok(()),
        (Some(_), false) => Err(CliError::Failed(format!("{name} would be refused"))),
        (None, false) => {
            let failed = HumanCount(report.failed_rows);
            Err(CliError::Failed(format!("{failed} rows of {name} would fail; the others would be accepted")))
        }
    }
}

fn print_report(report: &Report) {
    if !report.findings.is_empty() {
        let mut lines = table(&["", "line", "what"]);
        for finding in &report.findings {
            let (word, colour) = match finding.weight {
                Weight::Refused => ("refused", Color::Red),
                Weight::Fails => ("fails", Color::Red),
                Weight::Mind => ("check", Color::Yellow),
            };
            let line = finding.line.map_or_else(String::new, |line| line.to_string());
            lines.add_row([Cell::new(word).fg(colour), Cell::new(line), Cell::new(shown(&finding.what))]);
        }
        say(lines);
    }
    let limits = Limits::default();
    say(format_args!(
        "{} rows (at most {}), {} (less than {}): {} would fail, {} would be ignored",
        HumanCount(report.rows),
        HumanCount(limits.rows_limit),
        HumanBytes(report.bytes),
        HumanBytes(limits.body_bytes_limit),
        HumanCount(report.failed_rows),
        HumanCount(report.ignored_rows),
    ));
}

fn lint(path: &Path, reading: &RowReading) -> Result<Report, CliError> {
    let mut report = Report::default();
    let Limits { rows_limit, body_bytes_limit, .. } = Limits::default();
    let (file, form) = match read(path, body_bytes_limit)? {
        Ok(read) => read,
        Err(why) => {
            report.refuse(why);
            return Ok(report);
        }
    };
    report.bytes = file.len() as u64;
    if report.bytes >= body_bytes_limit {
        report
            .refuse(format!("the file has {body_bytes_limit} bytes or more, too many for a batch: split it"));
        // The rest was not read, and the last row is cut.
        return Ok(report);
    }
    let mut failed = vec![];
    match read_rows(&file, &mut report.rows, &mut failed, reading) {
        Ok(header) => {
            report.failed_rows = failed.len() as u64;
            report.list_failed(&header, &file, &failed);
            report.look_at_rows(&header, &file);
        }
        Err(why) => report.refuse(why.to_string()),
    }
    if report.rows > rows_limit {
        let rows = HumanCount(report.rows);
        report
            .refuse(format!("the file has {rows} rows, but a batch may have at most {rows_limit}: split it"));
    }
    if form {
        let what = "the whole file is percent-encoded, as a form: it is decoded once, and then read as any batch file, whose \
                    values are decoded again";
        report.mind(None, what.into());
    }
    if file.starts_with(b"\xef\xbb\xbf") {
        let what = "the file begins with a byte order mark. profiled skips it, but others may read it as part of batch=: save \
                    the file as UTF-8 without it";
        report.mind(Some(1), what.into());
    }
    Ok(report)
}

/// The decoded file up to the size limit, and whether it was a form. The inner error refuses the file.
fn read(path: &Path, body_bytes_limit: u64) -> Result<Result<(Vec<u8>, bool), String>, CliError> {
    let unreadable = |e: std::io::Error| CliError::Failed(format!("{} cannot be read: {e}", path.display()));
    let source: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(CliError::Usage(format!("{} is a folder: name a batch file", path.display())));
        }
        Box::new(BufReader::new(file))
    };
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    let encoding = match ending.as_deref() {
        Some("gz") => Encoding::Gzip,
        Some("zst") => Encoding::Zstd,
        _ => Encoding::Plain,
    };
    let decoded = Decoded::of(encoding, source).map_err(unreadable)?;
    let mut unwrapped = Unwrapped::of(decoded, Leaves::None, form_bytes_max(body_bytes_limit));
    let mut file = vec![];
    match (&mut unwrapped).take(body_bytes_limit).read_to_end(&mut file) {
        Ok(_) => Ok(Ok((file, unwrapped.is_form()))),
        Err(error) => match error.downcast::<FormTooLong>() {
            Ok(error) => Ok(Err(error.to_string())),
            Err(error) if encoding == Encoding::Plain => Err(unreadable(error)),
            Err(error) => Ok(Err(unwrapped.source().fault(&error).to_string())),
        },
    }
}

/// Reads the file as the daemon would, and collects the rows that fail, with place and reason.
fn read_rows(
    file: &[u8],
    rows: &mut u64,
    failed: &mut Vec<(u32, u32, RowError)>,
    reading: &RowReading,
) -> Result<Header, HeaderError> {
    let mut each = |row: Row<'_>| {
        *rows += 1;
        if let Err(error) = row.content {
            failed.push((row.line, row.offset, error));
        }
    };
    let mut parser = Parser::new(reading);
    parser.push(file, &mut each)?;
    Ok(parser.finish(&mut each)?.clone())
}

impl Report {
    fn refuse(&mut self, why: String) {
        let what = why.clone();
        self.findings.insert(0, Finding { weight: Weight::Refused, line: None, what });
        self.refused.get_or_insert(why);
    }

    fn mind(&mut self, line: Option<u32>, what: String) {
        self.findings.push(Finding { weight: Weight::Mind, line, what });
    }

    fn list_failed(&mut self, header: &Header, file: &[u8], failed: &[(u32, u32, RowError)]) {
        for &(line, offset, error) in failed.iter().take(LISTED_MAX) {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let what = error.explain(header, line, file.get(at..).unwrap_or_default());
            self.findings.push(Finding { weight: Weight::Fails, line: Some(line), what });
        }
        let more = failed.len().saturating_sub(LISTED_MAX);
        if more > 0 {
            let what = format!("and {} more rows", HumanCount(more as u64));
            self.findings.push(Finding { weight: Weight::Fails, line: None, what });
        }
    }

    /// Looks for what is accepted but perhaps not meant.
    fn look_at_rows(&mut self, header: &Header, file: &[u8]) {
        let hashes = RandomState::new();
        let mut seen = HashSet::new();
        let [mut twice, mut large, mut spaced, mut encoded] = [const { Lines::new() }; 4];
        let mut ignored = 0;
        let mut remarks = Remarks::default();
        let each = |row: Row<'_>| {
            remarks.look_at(header, &row);
            let Ok(cells) = row.content else { return };
            if !brings_anything(&cells, EmptyValues::Ignore) {
                ignored += 1;
            }
            if !seen.insert(hashes.hash_one(cells.id())) {
                twice.add(row.line);
            }
            if cells.id().contains(' ') {
                spaced.add(row.line);
            }
            let mut bytes = 0;
            let mut escaped = is_escaped(cells.id());
            for (attribute, value) in cells.attributes() {
                bytes += header.names().get(attribute).map_or(0, |name| name.len()) + value.len();
                escaped |= is_escaped(value);
            }
            if escaped {
                encoded.add(row.line);
            }
            if bytes > ADOBES_PROFILE_BYTES {
                large.add(row.line);
            }
        };
        let mut parser = Parser::new(header.reading());
        let mut each = each;
        // The file was read before without an error.
        if parser.push(file, &mut each).and_then(|()| parser.finish(&mut each).map(drop)).is_err() {
            return;
        }
        self.ignored_rows = ignored;
        if let (Some((place, len)), RowForm::Csv) = (parser.header_place(), header.reading().form()) {
            let sent = file.get(place.offset as usize..).and_then(|rest| rest.get(..len as usize));
            remarks.look_at_header(place.line, sent.unwrap_or_default());
        }
        for (_, remarked, what) in remarks.reported() {
            self.mind(remarked.lines.first().copied(), what + &further_lines(remarked));
        }
        let lines = [
            (spaced, "the id contains a space: a raw + is read as a space; write %2B for a plus"),
            (encoded, "the decoded value still looks encoded (%25 followed by two digits): encode only once"),
            (twice, "this id is also in an earlier row: where both set an attribute, the later row wins"),
            (
                large,
                "the row alone is larger than a profile may be in Adobe Target: 64 KB of names and values",
            ),
        ];
        for (lines, what) in lines {
            if let Some(first) = lines.first {
                let more = lines.count - 1;
                let more = if more > 0 {
                    format!("; also on {} further lines", HumanCount(more))
                } else {
                    String::new()
                };
                self.mind(Some(first), format!("{what}{more}"));
            }
        }
        if ignored > 0 {
            let rows = HumanCount(ignored);
            self.mind(None, format!("{rows} rows have only empty values and are ignored"));
        }
    }
}

/// The first line of a finding, and how many lines have it.
struct Lines {
    first: Option<u32>,
    count: u64,
}

impl Lines {
    const fn new() -> Self {
        Self { first: None, count: 0 }
    }

    fn add(&mut self, line: u32) {
        self.first.get_or_insert(line);
        self.count += 1;
    }
}

/// Whether a decoded text still contains an escape.
fn is_escaped(text: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'%', bytes).any(|at| hex(bytes.get(at + 1)) && hex(bytes.get(at + 2)))
}
