//! What became of rows: the counts, the rows one by one, the rows to send again, and the file as it was. Shared by all calls that
//! report it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{ACCEPT, CONTENT_DISPOSITION, HeaderName, HeaderValue, LINK};
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::error::HttpError;
pub(in crate::http) use super::outcome_counts::Outcomes;
use super::request::{Params, Request};
use super::response::{Answer, CSV, NDJSON, chunked};
use super::stream::begin;
use super::{Front, shapes};
use crate::batch::csv::RowPlace;
use crate::cluster::{ASKING_NODE, PeerAnswer};
use crate::engine::EngineError;
use crate::engine::read::report::{Report, ReportedRow};
use crate::model::batch::{BatchId, Outcome, RowForm};

/// The first line of a report in CSV.
const COLUMNS: &[u8] = b"line,id,outcome,reason,message\n";

/// How long the other nodes have in all to begin an answer.
const PEERS_ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Most rows of a report in CSV are shorter than this.
const ROW_BUFFER_BYTES: usize = 256;

/// A report in one answer, in chunks.
pub(super) fn whole_report(
    request: &Request,
    report: Report,
    form: ReportForm,
    wanted: Option<Outcome>,
    from: Option<RowPlace>,
) -> Answer {
    let place = report.place().clone();
    let chunks = begin("a report", &place, request.answer_pace(), move |out| {
        if out.write(|bytes| bytes.extend_from_slice(form.head())).is_break() {
            return Ok(());
        }
        let mut fault = None;
        report.outcomes(wanted, from, |row| {
            out.write(|bytes| fault = form.write(&row, bytes).err())?;
            if fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(()), |fault: HttpError| Err(EngineError::Internal(fault.to_string())))
    });
    chunked(form.media_type(), chunks)
}

/// What another node answers to the same call, `what` of a batch: where the batch is complete and this node has yet to apply it. None
/// if this node needs nobody, or nobody has it. A call from another node is not passed on.
pub(super) async fn of_peer(
    front: &Front,
    request: &Request,
    id: &BatchId,
    (what, media_type): (&str, &'static str),
) -> Result<Option<Answer>, HttpError> {
    let Some(members) = front.members.as_ref().filter(|_| front.app.lacks_outcomes(id)) else {
        return Ok(None);
    };
    if request.has_header(&HeaderName::from_static(ASKING_NODE)) {
        return Ok(None);
    }
    let place = front.app.report_place(&request.who(Some(&id.client))).await?;
    let query = request.raw_query();
    let path = format!("/api/v1/batches/{id}/{what}{}{query}", if query.is_empty() { "" } else { "?" });
    let (roster, begun) = (Arc::clone(members.roster()), Instant::now());
    let asked = spawn_blocking(move || {
        roster.first_answer(&path, media_type, &|| begun.elapsed() < PEERS_ANSWER_WITHIN)
    });
    let asked = asked.await.map_err(|error| HttpError::Inside(error.to_string()))?;
    let Some(PeerAnswer { link, mut body }) = asked else { return Ok(None) };
    let chunks = begin("a report of another node", &place, request.answer_pace(), move |out| {
        let client = out.client();
        while let Some(bytes) = body.next(&client).map_err(EngineError::Internal)? {
            if out.write(|filling| filling.extend_from_slice(&bytes)).is_break() {
                break;
            }
        }
        Ok(())
    });
    let mut answer = chunked(media_type, chunks);
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        answer.headers_mut().insert(LINK, link);
    }
    Ok(Some(answer))
}

/// The media type of a batch's file, and how its name ends.
fn file_form(front: &Front, id: &BatchId) -> (&'static str, &'static str) {
    let form = front.app.batch(id).map(|batch| batch.form).unwrap_or_default();
    let media_type = match form {
        RowForm::Csv => CSV,
        RowForm::Ndjson => NDJSON,
    };
    (media_type, form.name())
}

/// The failed rows as they were sent, under a header.
pub(super) async fn repair(front: &Front, request: &Request, id: &BatchId) -> Result<Answer, HttpError> {
    if let Some(undone) = front.app.batch(id).and_then(|batch| batch.undoes) {
        let (batch, undone) = (id.to_string(), undone.to_string());
        return Err(EngineError::NothingToRepair { batch, undone }.into());
    }
    let (media_type, ending) = file_form(front, id);
    let name = format!("{id}-repair.{ending}");
    if let Some(answer) = of_peer(front, request, id, ("repair", media_type)).await? {
        return Ok(named(answer, &name));
    }
    let report = front.app.report(&request.who(Some(&id.client)), id).await?;
    let place = report.place().clone();
    let (report, given_up) = tokio::task::spawn_blocking(move || {
        let given_up = report.is_given_up();
        (report, given_up)
    })
    .await
    .map_err(|error| HttpError::Inside(error.to_string()))?;
    if given_up? {
        return Err(EngineError::GivenUp(id.to_string()).into());
    }
    let chunks = begin("a repair file", &place, request.answer_pace(), move |out| {
        report.repair(|bytes| out.write(|filling| filling.extend_from_slice(bytes)))
    });
    Ok(named(chunked(media_type, chunks), &name))
}

/// The file as it was sent.
pub(super) async fn file(front: &Front, request: &Request, id: &BatchId) -> Result<Answer, HttpError> {
    let (media_type, ending) = file_form(front, id);
    let file = front.app.uploaded_file(&request.who(Some(&id.client)), id).await?;
    let place = file.place().clone();
    let chunks = begin("an upload", &place, request.answer_pace(), move |out| {
        file.pieces(|bytes| out.write(|filling| filling.extend_from_slice(bytes)))
    });
    Ok(named(chunked(media_type, chunks), &format!("{id}.{ending}")))
}

/// A browser saves it under this name instead of showing it.
fn named(mut answer: Answer, name: &str) -> Answer {
    if let Ok(disposition) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    }
    answer
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportForm {
    /// A header, then a line for each row.
    Csv,
    /// An object a line.
    Ndjson,
}

/// The names of the outcomes.
pub(super) fn names() -> Schema {
    shapes::one_of(&Outcome::ALL.map(Outcome::name))
}

/// A row of a report. Its fields are the columns of the CSV form, in order.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Row<'a> {
    line: u32,
    id: Option<&'a str>,
    #[schema(schema_with = names)]
    outcome: &'static str,
    reason: Option<&'static str>,
    message: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// A row as the engine reports it.
    pub(super) fn of(row: &'a ReportedRow) -> Self {
        Self {
            line: row.place.line,
            id: row.id.as_deref(),
            outcome: row.outcome.name(),
            reason: row.reason,
            message: row.message.as_deref(),
        }
    }
}

impl ReportForm {
    /// The form that the request accepts: CSV, unless it names NDJSON.
    pub(super) fn of(request: &Request) -> Self {
        let accepted = request.header_text(&ACCEPT).unwrap_or_default();
        if accepted.contains("ndjson") { Self::Ndjson } else { Self::Csv }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Csv => CSV,
            Self::Ndjson => NDJSON,
        }
    }

    pub(super) fn head(self) -> &'static [u8] {
        match self {
            Self::Csv => COLUMNS,
            Self::Ndjson => b"",
        }
    }

    pub(super) fn write(self, row: &ReportedRow, out: &mut Vec<u8>) -> Result<(), HttpError> {
        let (row, inside) = (Row::of(row), |error: String| HttpError::Inside(error));
        match self {
            Self::Csv => {
                let mut lines = csv::WriterBuilder::new()
                    .has_headers(false)
                    .buffer_capacity(ROW_BUFFER_BYTES)
                    .from_writer(out);
                lines.serialize(row).map_err(|error| inside(error.to_string()))?;
                lines.flush().map_err(|error| inside(error.to_string()))
            }
            Self::Ndjson => {
                serde_json::to_writer(&mut *out, &row).map_err(|error| inside(error.to_string()))?;
                out.push(b'\n');
                Ok(())
            }
        }
    }
}

/// The outcome that `outcome=` names.
pub(super) fn wanted(query: &Params) -> Result<Option<Outcome>, HttpError> {
    let Some(name) = query.get("outcome") else { return Ok(None) };
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.name() == name);
    found.map(Some).ok_or_else(|| {
        let all = Outcome::ALL.map(Outcome::name).join(", ");
        HttpError::Wrong(format!("outcome={name} is not known: it is one of {all}"))
    })
}

/// The place that `from=` names, as a `Link` gave it.
pub(super) fn from(query: &Params) -> Result<Option<RowPlace>, HttpError> {
    let Some(text) = query.get("from") else { return Ok(None) };
    let place = text
        .split_once('.')
        .and_then(|(line, offset)| Some(RowPlace { line: line.parse().ok()?, offset: offset.parse().ok()? }));
    place.map(Some).ok_or_else(|| {
        HttpError::Wrong(format!(
            "from={text} is not a row's place: take the URL that the page before links to"
        ))
    })
}
