//! `GET /api/v1/batches/{batchId}/outcomes`, `…/repair` and `…/file`: what became of each row, the failed rows as they were
//! sent, and the file as it was. They hold visitors' ids and values.
//!
//! Without `limit=` all rows are told in one answer, in chunks; one that cannot be told whole breaks off without its last
//! chunk. With it a page is, and `Link` leads to the next.

use std::ops::ControlFlow;

use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_DISPOSITION, HeaderValue, LINK};
use serde::Serialize;

use crate::app::AppError;
use crate::app::report::{PAGE_ROWS_MAX, Report, ToldRow};
use crate::batch::csv::RowPlace;
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request};
use crate::http::response::{Answer, chunked, whole};
use crate::http::stream::begin;
use crate::model::batch::{BatchId, Outcome};

const CSV: &str = "text/csv;charset=UTF-8";
const NDJSON: &str = "application/x-ndjson";
/// The first line of a report in CSV.
const COLUMNS: &[u8] = b"line,id,outcome,reason,message\n";

/// What became of the rows.
pub(in crate::http) async fn answer(
    front: &Front,
    request: &Request,
    id: &BatchId,
) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    let form = Form::of(request);
    let wanted = wanted(&query)?;
    let from = from(&query)?;
    let Some(limit) = query.count("limit", PAGE_ROWS_MAX)? else {
        let report = front.app.report(id).await?;
        return Ok(told(report, form, wanted, from));
    };
    let page = front.app.outcome_page(id, wanted, from, limit).await?;
    let mut body = form.head().to_vec();
    page.rows.iter().try_for_each(|row| form.write(row, &mut body))?;
    let mut answer = whole(StatusCode::OK, form.media_type(), body);
    if let Some(next) = page.next {
        let outcome = wanted.map_or(String::new(), |wanted| format!("&outcome={}", wanted.name()));
        let link = format!(
            "</api/v1/batches/{id}/outcomes?limit={limit}&from={}.{}{outcome}>; rel=\"next\"",
            next.line, next.offset
        );
        let link = HeaderValue::try_from(link).map_err(|error| HttpError::Inside(error.to_string()))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}

/// The failed rows as they were sent, under a header.
pub(in crate::http) async fn repair(front: &Front, id: &BatchId) -> Result<Answer, HttpError> {
    let report = front.app.report(id).await?;
    let (report, given_up) = tokio::task::spawn_blocking(move || {
        let given_up = report.is_given_up();
        (report, given_up)
    })
    .await
    .map_err(|error| HttpError::Inside(error.to_string()))?;
    if given_up? {
        return Err(AppError::GivenUp(id.to_string()).into());
    }
    let chunks = begin("a repair file", move |out| {
        report.repair(|bytes| out.write(|filling| filling.extend_from_slice(bytes)))
    });
    Ok(named(chunked(CSV, chunks), &format!("{id}-repair.csv")))
}

/// The file as it was sent.
pub(in crate::http) async fn file(front: &Front, id: &BatchId) -> Result<Answer, HttpError> {
    let file = front.app.uploaded_file(id).await?;
    let chunks = begin("an upload", move |out| {
        file.pieces(|bytes| out.write(|filling| filling.extend_from_slice(bytes)))
    });
    Ok(named(chunked(CSV, chunks), &format!("{id}.csv")))
}

/// Tells a report in one answer, in chunks.
pub(in crate::http) fn told(
    report: Report,
    form: Form,
    wanted: Option<Outcome>,
    from: Option<RowPlace>,
) -> Answer {
    let chunks = begin("a report", move |out| {
        if out.write(|bytes| bytes.extend_from_slice(form.head())).is_break() {
            return Ok(());
        }
        let mut fault = None;
        report.outcomes(wanted, from, |row| {
            out.write(|bytes| fault = form.write(&row, bytes).err())?;
            if fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(()), |fault: HttpError| Err(AppError::Internal(fault.to_string())))
    });
    chunked(form.media_type(), chunks)
}

/// A browser saves it under this name instead of showing it.
fn named(mut answer: Answer, name: &str) -> Answer {
    if let Ok(disposition) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    }
    answer
}

/// The outcome that `outcome=` names.
fn wanted(query: &Params) -> Result<Option<Outcome>, HttpError> {
    let Some(name) = query.get("outcome") else { return Ok(None) };
    let found = Outcome::ALL.into_iter().find(|outcome| outcome.name() == name);
    found.map(Some).ok_or_else(|| {
        let all = Outcome::ALL.map(Outcome::name).join(", ");
        HttpError::Wrong(format!("outcome={name} is not known: it is one of {all}"))
    })
}

/// The place that `from=` names, as a `Link` gave it.
fn from(query: &Params) -> Result<Option<RowPlace>, HttpError> {
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

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Form {
    /// A header, then a line for each row.
    Csv,
    /// An object a line.
    Ndjson,
}

/// A row in NDJSON.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    line: u32,
    id: Option<&'a str>,
    outcome: &'static str,
    reason: Option<&'static str>,
    message: Option<&'a str>,
}

impl Form {
    /// The one that the request accepts; CSV, unless it names NDJSON.
    pub(in crate::http) fn of(request: &Request) -> Self {
        let accepted = request.header_text(&ACCEPT).unwrap_or_default();
        if accepted.contains("ndjson") { Self::Ndjson } else { Self::Csv }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => CSV,
            Self::Ndjson => NDJSON,
        }
    }

    fn head(self) -> &'static [u8] {
        match self {
            Self::Csv => COLUMNS,
            Self::Ndjson => b"",
        }
    }

    fn write(self, row: &ToldRow, out: &mut Vec<u8>) -> Result<(), HttpError> {
        let ToldRow { place, id, outcome, reason, message } = row;
        match self {
            Self::Csv => {
                out.extend_from_slice(place.line.to_string().as_bytes());
                out.push(b',');
                cell(id.as_deref().unwrap_or_default(), out);
                for cell in [outcome.name(), reason.unwrap_or_default()] {
                    out.push(b',');
                    out.extend_from_slice(cell.as_bytes());
                }
                out.push(b',');
                cell(message.as_deref().unwrap_or_default(), out);
            }
            Self::Ndjson => {
                let row = Row {
                    line: place.line,
                    id: id.as_deref(),
                    outcome: outcome.name(),
                    reason: *reason,
                    message: message.as_deref(),
                };
                serde_json::to_writer(&mut *out, &row).map_err(|e| HttpError::Inside(e.to_string()))?;
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

/// Writes a cell as RFC 4180 says.
fn cell(text: &str, out: &mut Vec<u8>) {
    if !text.contains([',', '"', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
