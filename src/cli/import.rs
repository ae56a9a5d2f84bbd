//! `profiled import`: writes visitors from a file.
//!
//! Promises: every line that is not blank is either written or reported with its number and the reason. Nothing of a wrong
//! line is written. Lines that share an id are written in their order.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use hyper::StatusCode;
use indicatif::{HumanCount, ProgressBar};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use super::args::{Format, Remote, block_on, parse_client};
use super::batch;
use super::client::Client;
use super::error::CliError;
use super::terminal::{complain, print_json, say, shown};
use crate::model::id::{ClientCode, IdKind, VisitorId};
use crate::model::profile::{
    NAME_CHARS_MAX, NameFault, SITE_CALL_ATTRIBUTES_MAX, SITE_CALL_VALUE_CHARS_MAX, attribute_name_fault,
    is_too_long_for_a_site_call,
};

/// How many visitors are written at once: while the daemon makes one group durable, the next is sent.
const IN_FLIGHT_MAX: usize = 32;
/// The most encoded bytes of a call's attributes. The daemon accepts a little more.
const CALL_BYTES_MAX: usize = 900 << 10;
/// The longest line.
const LINE_BYTES_MAX: usize = 64 << 20;
/// How many bytes of the file are read at once.
const READ_BYTES: usize = 256 << 10;
/// Visitors with at least this many bytes of names and values are looked up after they are written: the daemon leaves out
/// what would make a profile too large (R9), and the answer to a site call does not say so.
const CHECKED_BYTES_MIN: usize = 48 << 10;
/// How many failed lines are listed in JSON. Standard error has all.
const FAILURES_LISTED_MAX: usize = 1_000;

/// Create visitors from an NDJSON export, or update known visitors from a batch file
///
/// NDJSON: each line is written by site calls, which create unknown visitors. The import uses a line's ids and the names and
/// values of its attributes. They become new writes with new seqs, with the source mbox and the current time. A visitor
/// with only a thirdPartyId gets a new pcId, as with any site call. All visitors go to the client of --client, even if the
/// file names another. A failed line is reported, the others go on, and the exit code is 1.
///
/// CSV: the file is posted as a batch, like `profiled batch post --wait`. It updates known visitors only, unless the daemon's
/// settings let batches create visitors.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file to read. `-` is standard input
    file: PathBuf,
    /// Client of the visitors
    #[arg(long, value_name = "CLIENT", value_parser = parse_client)]
    client: ClientCode,
    /// Format of the file [default: by the ending of its name]
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    remote: Remote,
}

/// Runs it.
pub(super) fn run(command: Import) -> Result<(), CliError> {
    match Format::of(command.format, &command.file)? {
        Format::Csv => batch::run(batch::Batch::Post(batch::Post::and_wait(
            command.file,
            command.client,
            command.remote,
        ))),
        Format::Ndjson => block_on(import(command)),
    }
}

/// The result of an import.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    visitors: u64,
    failed: u64,
    /// Lines written that name another client.
    of_other_clients: u64,
    failures: Vec<Failure>,
}

/// A line that failed.
#[derive(Debug, Serialize)]
struct Failure {
    line: u64,
    reason: String,
}

/// The part of an exported visitor that an import uses.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExportedVisitor {
    client: Option<String>,
    third_party_id: Option<String>,
    #[serde(default)]
    pc_ids: Vec<String>,
    #[serde(default, alias = "ecids")]
    marketing_cloud_visitor_ids: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, ExportedAttribute>,
}

#[derive(Debug, Deserialize)]
struct ExportedAttribute {
    value: String,
}

/// A visitor to be written: its ids checked, and the calls that write it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Visitor {
    /// All its ids with their kinds.
    ids: Vec<(IdKind, String)>,
    calls: Vec<Call>,
    attributes: Vec<(String, String)>,
    of_other_client: bool,
}

/// The parameters of a site call.
type Call = Vec<(String, String)>;

async fn import(command: Import) -> Result<(), CliError> {
    let client = Arc::new(command.remote.client()?);
    let (mut lines, bar) = Lines::open(&command.file).await?;
    let mut import = Importing {
        client,
        whose: command.client.clone(),
        in_flight: JoinSet::new(),
        busy: HashSet::new(),
        imported: Imported::default(),
        bar: bar.clone(),
    };
    let done = import.all(&mut lines).await;
    // Calls under way are awaited even after an error, so that the counts are right.
    let mut rest = Ok(());
    while !import.in_flight.is_empty() {
        rest = rest.and(import.until(|import| import.in_flight.is_empty()).await);
    }
    bar.finish_and_clear();
    let imported = import.imported;
    if command.remote.json {
        print_json(&imported)?;
    } else {
        let Imported { visitors, failed, of_other_clients, .. } = &imported;
        let [visitors, failed, others] = [*visitors, *failed, *of_other_clients].map(HumanCount);
        say(format_args!("{visitors} visitors written to client {}, {failed} lines failed", command.client));
        if *of_other_clients > 0 {
            say(format_args!("{others} of these lines name another client"));
        }
    }
    done.and(rest)?;
    if imported.failed > 0 {
        return Err(CliError::Failed(format!("{} lines failed", HumanCount(imported.failed))));
    }
    Ok(())
}

/// An import under way.
struct Importing {
    client: Arc<Client>,
    whose: ClientCode,
    in_flight: JoinSet<Ended>,
    /// The ids of the visitors in flight.
    busy: HashSet<(IdKind, String)>,
    imported: Imported,
    bar: ProgressBar,
}

struct Ended {
    line: u64,
    visitor: Visitor,
    written: Result<(), Fault>,
}

/// Why a visitor was not written.
#[derive(Debug)]
enum Fault {
    /// Only this line failed. The others go on.
    Line(String),
    /// The others would fail too.
    All(String),
}

impl Importing {
    async fn all(&mut self, lines: &mut Lines) -> Result<(), CliError> {
        while let Some(read) = lines.next().await? {
            self.bar.set_position(lines.bytes);
            let line = lines.line;
            let visitor = match read {
                Read::Blank => continue,
                Read::Line => Visitor::of(&lines.text, &self.whose),
                Read::TooLong => Err(format!("it has more than {LINE_BYTES_MAX} bytes")),
            };
            let visitor = match visitor {
                Ok(visitor) => visitor,
                Err(reason) => {
                    self.fail(line, reason);
                    continue;
                }
            };
            let ids = visitor.ids.clone();
            self.until(|import| {
                import.in_flight.len() < IN_FLIGHT_MAX && !ids.iter().any(|id| import.busy.contains(id))
            })
            .await?;
            self.busy.extend(ids);
            let (client, whose) = (Arc::clone(&self.client), self.whose.clone());
            self.in_flight.spawn(async move {
                let written = write(&client, &whose, &visitor).await;
                Ended { line, visitor, written }
            });
        }
        Ok(())
    }

    /// Collects finished calls until `enough`.
    async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> Result<(), CliError> {
        while !enough(self) {
            let Some(ended) = self.in_flight.join_next().await else { break };
            let ended = ended.map_err(|e| CliError::Failed(format!("a task broke off: {e}")))?;
            for id in &ended.visitor.ids {
                self.busy.remove(id);
            }
            match ended.written {
                Ok(()) => {
                    self.imported.visitors += 1;
                    self.imported.of_other_clients += u64::from(ended.visitor.of_other_client);
                    self.bar.set_message(HumanCount(self.imported.visitors).to_string());
                }
                Err(Fault::Line(reason)) => self.fail(ended.line, reason),
                Err(Fault::All(why)) => {
                    self.fail(ended.line, why);
                    return Err(CliError::Failed(format!("the import stopped at line {}", ended.line)));
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, line: u64, reason: String) {
        self.bar.suspend(|| complain(format_args!("line {line}: {}", shown(&reason))));
        self.imported.failed += 1;
        if self.imported.failures.len() < FAILURES_LISTED_MAX {
            self.imported.failures.push(Failure { line, reason });
        }
    }
}

/// Makes a visitor's calls, one after the other.
async fn write(client: &Client, whose: &ClientCode, visitor: &Visitor) -> Result<(), Fault> {
    let path = format!("/m2/{whose}/mbox/json");
    let mut given = None;
    for call in &visitor.calls {
        let mut params: Vec<_> = call.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // The first call got a new pcId. Without it, each further call would get another.
        params.extend(given.iter().map(|id: &String| ("mboxPC", id.as_str())));
        let answer = client.post_form(&path, &params).await.map_err(|e| Fault::All(e.to_string()))?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(Fault::Line(answer.refusal()));
            }
            _ => return Err(Fault::All(answer.refusal())),
        }
        if given.is_none() && visitor.ids.iter().all(|(kind, _)| *kind == IdKind::ThirdParty) {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Handed {
                tnt_id: Option<String>,
            }
            given = answer.json::<Handed>().map_err(|e| Fault::All(e.to_string()))?.tnt_id;
        }
    }
    check(client, whose, visitor).await
}

/// Looks up a large visitor, because the daemon may have left out attributes.
async fn check(client: &Client, whose: &ClientCode, visitor: &Visitor) -> Result<(), Fault> {
    let bytes: usize = visitor.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    let Some((kind, id)) = visitor.ids.first().filter(|_| bytes >= CHECKED_BYTES_MIN) else { return Ok(()) };
    let by = match kind {
        IdKind::ThirdParty => super::args::By::ThirdParty,
        IdKind::Pc => super::args::By::Pc,
        IdKind::Ecid => super::args::By::Ecid,
    };
    let seen = super::profile::ask(client, whose, by, id).await.map_err(|e| Fault::All(e.to_string()))?;
    let missing = |(name, value): &&(String, String)| {
        seen.attributes.get(name).is_none_or(|attribute| attribute.value != *value)
    };
    match visitor.attributes.iter().filter(missing).count() {
        0 => Ok(()),
        count => Err(Fault::Line(format!(
            "{count} of its {} attributes were left out: the profile would exceed max_profile_bytes",
            visitor.attributes.len()
        ))),
    }
}

impl Visitor {
    /// Reads and checks a line.
    fn of(text: &[u8], whose: &ClientCode) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let line: ExportedVisitor = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let (path, error) = (e.path().to_string(), in_line(e.inner()));
            if path == "." { error } else { format!("{path}: {error}") }
        })?;
        json.end().map_err(|e| in_line(&e))?;
        let of_other_client = line.client.as_ref().is_some_and(|client| client != whose.as_str());
        let check = |kind: IdKind, id: &String| match VisitorId::new(kind, id) {
            Ok(id) => Ok(id.as_str().to_owned()),
            Err(error) => Err(format!("{id:?} is not a {}: {error}", kind.name())),
        };
        let check_all =
            |kind, ids: &[String]| ids.iter().map(|id| check(kind, id)).collect::<Result<Vec<_>, _>>();
        let third_party = line.third_party_id.as_ref().map(|id| check(IdKind::ThirdParty, id)).transpose()?;
        let pc_ids = check_all(IdKind::Pc, &line.pc_ids)?;
        let ecids = check_all(IdKind::Ecid, &line.marketing_cloud_visitor_ids)?;
        match (&third_party, pc_ids.len(), ecids.len()) {
            (None, 0, 0) => return Err("it names no visitor: give it a thirdPartyId or pcIds".into()),
            (None, 2.., _) => {
                return Err("several pcIds need a thirdPartyId that connects them, which is missing".into());
            }
            (None, 0, 2..) => {
                return Err(
                    "several ECIDs need a pcId or a thirdPartyId that connects them, which are missing"
                        .into(),
                );
            }
            _ => {}
        }
        let mut attributes = Vec::with_capacity(line.attributes.len());
        for (name, ExportedAttribute { value }) in line.attributes {
            check_attribute(&name, &value)?;
            // An empty value changes nothing (R6).
            if !value.is_empty() {
                attributes.push((name, value));
            }
        }
        let calls = calls(third_party.as_deref(), &pc_ids, &ecids, &attributes);
        let kinds = [
            (IdKind::ThirdParty, third_party.into_iter().collect()),
            (IdKind::Pc, pc_ids),
            (IdKind::Ecid, ecids),
        ];
        let ids =
            kinds.into_iter().flat_map(|(kind, ids): (_, Vec<_>)| ids.into_iter().map(move |id| (kind, id)));
        Ok(Self { ids: ids.collect(), calls, attributes, of_other_client })
    }
}

/// The calls that write a visitor: as many as its pcIds, its ECIDs and its attributes need. The ids are bound in their
/// order, the n-th ECID with the n-th pcId, because an export does not say which came with which.
fn calls(
    third_party: Option<&str>,
    pc_ids: &[String],
    ecids: &[String],
    attributes: &[(String, String)],
) -> Vec<Call> {
    let mut parts = parts(attributes).into_iter().peekable();
    let mut calls = vec![];
    while calls.is_empty() || calls.len() < pc_ids.len().max(ecids.len()) || parts.peek().is_some() {
        let n = calls.len();
        let mut call: Call = vec![];
        let mut add =
            |name: &str, id: Option<&str>| call.extend(id.map(|id| (name.to_owned(), id.to_owned())));
        add("mbox3rdPartyId", third_party);
        add("mboxPC", pc_ids.get(n).or(pc_ids.last()).map(String::as_str));
        // A bound ECID need not be sent again, unless the visitor has no other id.
        let ecid = ecids.get(n).or_else(|| ecids.last().filter(|_| pc_ids.is_empty()));
        add("mboxMCGVID", ecid.map(String::as_str));
        let part = parts.next().unwrap_or_default();
        call.extend(part.iter().map(|(name, value)| (format!("profile.{name}"), value.clone())));
        calls.push(call);
    }
    calls
}

/// Attributes, split into parts that fit into a site call.
fn parts(attributes: &[(String, String)]) -> Vec<&[(String, String)]> {
    let mut parts = vec![];
    let mut rest = attributes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest.iter().take(SITE_CALL_ATTRIBUTES_MAX).take_while(|(name, value)| {
            // A byte becomes at most three when it is encoded.
            bytes += 16 + 3 * (name.len() + value.len());
            bytes <= CALL_BYTES_MAX
        });
        let (part, after) = rest.split_at(fit.count().max(1));
        parts.push(part);
        rest = after;
    }
    parts
}

fn check_attribute(name: &str, value: &str) -> Result<(), String> {
    let start: String = name.chars().take(24).collect();
    match attribute_name_fault(name) {
        None => {}
        Some(NameFault::Empty | NameFault::Blank) => return Err("an attribute's name is blank".into()),
        Some(NameFault::Prefixed) => {
            return Err(format!("write the attribute {start:?} without the prefix \"profile.\""));
        }
        Some(NameFault::TooLong) => {
            return Err(format!(
                "the attribute's name that begins with {start:?} has more than {NAME_CHARS_MAX} characters"
            ));
        }
    }
    if is_too_long_for_a_site_call(value) {
        return Err(format!(
            "the value of the attribute {start:?} has more than {SITE_CALL_VALUE_CHARS_MAX} characters, the most in a \
             site call: remove it from the line, and set it with a batch"
        ));
    }
    Ok(())
}

/// What is wrong with a line's JSON. Only the column is kept of its place: lines are counted here.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

/// The lines of a file. Only one is held at a time.
struct Lines {
    file: Box<dyn AsyncBufRead + Send + Unpin>,
    /// The number of the line that was read last.
    line: u64,
    /// Its text, without the line end.
    text: Vec<u8>,
    /// The bytes read so far.
    bytes: u64,
}

enum Read {
    Line,
    Blank,
    TooLong,
}

impl Lines {
    /// Opens the file, with a progress bar, which shows only on a terminal.
    async fn open(path: &Path) -> Result<(Self, ProgressBar), CliError> {
        let template = "{msg} visitors {wide_bar} {bytes}/{total_bytes}";
        if path == Path::new("-") {
            let bar = batch::progress(0, "{msg} visitors {bytes}");
            return Ok((Self::of(BufReader::with_capacity(READ_BYTES, tokio::io::stdin())), bar));
        }
        let unreadable =
            |e: std::io::Error| CliError::Failed(format!("{} cannot be read: {e}", path.display()));
        let file = File::open(path).await.map_err(unreadable)?;
        let kind = file.metadata().await.map_err(unreadable)?;
        if kind.is_dir() {
            return Err(CliError::Usage(format!("{} is a folder: name a file", path.display())));
        }
        Ok((Self::of(BufReader::with_capacity(READ_BYTES, file)), batch::progress(kind.len(), template)))
    }

    fn of(file: impl AsyncBufRead + Send + Unpin + 'static) -> Self {
        Self { file: Box::new(file), line: 0, text: vec![], bytes: 0 }
    }

    /// Reads the next line. A line that is too long is skipped to its end.
    async fn next(&mut self) -> Result<Option<Read>, CliError> {
        self.text.clear();
        let mut length = 0;
        let mut ended = false;
        while !ended {
            let unreadable = |e: std::io::Error| CliError::Failed(format!("reading the file failed: {e}"));
            let buffer = self.file.fill_buf().await.map_err(unreadable)?;
            if buffer.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', buffer);
            ended = end.is_some();
            let piece = buffer.get(..end.map_or(buffer.len(), |end| end + 1)).unwrap_or_default();
            let read = piece.len();
            length += read;
            if length <= LINE_BYTES_MAX {
                self.text.extend_from_slice(piece);
            }
            self.file.consume(read);
        }
        if length == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.bytes += length as u64;
        self.text.truncate(self.text.trim_ascii_end().len());
        if self.line == 1 && self.text.starts_with(b"\xef\xbb\xbf") {
            self.text.drain(..3);
        }
        Ok(Some(match length {
            too_long if too_long > LINE_BYTES_MAX => Read::TooLong,
            _ if self.text.is_empty() => Read::Blank,
            _ => Read::Line,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Visitor, String> {
        Visitor::of(text.as_bytes(), &ClientCode::new("demo").unwrap())
    }

    fn shown_calls(text: &str) -> Vec<String> {
        let calls = read(text).unwrap().calls;
        let one = |call: &Call| form_urlencoded::Serializer::new(String::new()).extend_pairs(call).finish();
        calls.iter().map(one).collect()
    }

    #[test]
    fn ids_are_bound_in_their_order_one_call_each() {
        let attributes = r#""attributes":{"a":{"value":"1"}}"#;
        let check = |ids: &str, calls: &[&str]| {
            assert_eq!(shown_calls(&format!("{{{ids},{attributes}}}")), calls, "{ids}");
        };
        check(r#""thirdPartyId":"x""#, &["mbox3rdPartyId=x&profile.a=1"]);
        check(r#""thirdPartyId":null,"pcIds":["1"]"#, &["mboxPC=1&profile.a=1"]);
        check(
            r#""thirdPartyId":"x","pcIds":["1","2"],"marketingCloudVisitorIds":["3"]"#,
            &["mbox3rdPartyId=x&mboxPC=1&mboxMCGVID=3&profile.a=1", "mbox3rdPartyId=x&mboxPC=2"],
        );
        check(
            r#""pcIds":["1"],"ecids":["3","4"]"#,
            &["mboxPC=1&mboxMCGVID=3&profile.a=1", "mboxPC=1&mboxMCGVID=4"],
        );
        check(r#""ecids":["3"]"#, &["mboxMCGVID=3&profile.a=1"]);
    }

    #[test]
    fn a_call_has_no_more_than_it_may() {
        let attributes = |count: usize, value: &str| {
            let all: Vec<_> = (0..count).map(|n| format!("\"a{n:03}\":{{\"value\":\"{value}\"}}")).collect();
            format!("{{\"ecids\":[\"3\"],\"attributes\":{{{}}}}}", all.join(","))
        };
        let sizes = |text: &str| -> Vec<usize> {
            let calls = read(text).unwrap().calls;
            calls
                .iter()
                .map(|call| call.iter().filter(|(name, _)| name.starts_with("profile.")).count())
                .collect()
        };
        assert_eq!(sizes(&attributes(0, "")), [0]);
        assert_eq!(sizes(&attributes(50, "1")), [50]);
        assert_eq!(sizes(&attributes(101, "1")), [50, 50, 1]);
        let long = "🎿".repeat(5_000);
        assert!(shown_calls(&attributes(50, &long)).iter().all(|call| call.len() < 1 << 20));
        assert!(shown_calls(&attributes(60, "1")).iter().all(|call| call.starts_with("mboxMCGVID=3&")));
    }

    #[test]
    fn a_line_that_is_not_a_visitor_gets_a_reason() {
        let check = |text: &str, words: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        };
        check("{", "column 1");
        check("[]", "column");
        check("{} {}", "trailing characters at column 4");
        check("{}", "names no visitor");
        check(r#"{"pcIds":[]}"#, "names no visitor");
        check(r#"{"pcIds":["a.b.c"]}"#, "a dot is allowed only before a location hint");
        check(r#"{"pcIds":["1","2"]}"#, "thirdPartyId that connects them, which is missing");
        check(r#"{"ecids":["1","2"]}"#, "which are missing");
        check(r#"{"thirdPartyId":"a/b"}"#, "'/' is not allowed");
        check(r#"{"thirdPartyId":7}"#, "thirdPartyId: invalid type");
        check(r#"{"pcIds":["1"],"attributes":{"a":"1"}}"#, "attributes.a: invalid type");
        check(r#"{"pcIds":["1"],"attributes":{" ":{"value":"1"}}}"#, "blank");
        check(r#"{"pcIds":["1"],"attributes":{"profile.a":{"value":"1"}}}"#, "prefix");
        let long = format!(r#"{{"pcIds":["1"],"attributes":{{"a":{{"value":"{}"}}}}}}"#, "é".repeat(5_001));
        check(&long, "more than 5000 characters");
    }

    #[tokio::test]
    async fn lines_are_counted_whatever_ends_them() {
        let mut lines = Lines::of(BufReader::new(&b"\xef\xbb\xbfa\r\n\n b\nc"[..]));
        let mut seen = vec![];
        while let Some(read) = lines.next().await.unwrap() {
            if matches!(read, Read::Line) {
                seen.push((lines.line, String::from_utf8(lines.text.clone()).unwrap()));
            }
        }
        assert_eq!(seen, [(1, "a".into()), (3, " b".into()), (4, "c".into())]);
        assert_eq!(lines.bytes, 11);
    }
}
