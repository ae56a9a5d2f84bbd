//! `GET /api/v1/batches/{batchId}/outcomes`: what became of each row. It holds visitors' ids.
//!
//! Without `limit=` all rows are told in one answer, in chunks; one that cannot be told whole breaks off without its last
//! chunk. With it a page is, and `Link` leads to the next.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};

use crate::batch::csv::RowPlace;
use crate::engine::read::report::PAGE_ROWS_MAX;
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::outcomes::{Form, told};
use crate::http::request::{Params, Request};
use crate::http::response::{Answer, whole};
use crate::model::batch::{BatchId, Outcome};

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
    let who = request.who(Some(&id.client));
    let Some(limit) = query.count("limit", PAGE_ROWS_MAX)? else {
        let report = front.app.report(&who, id).await?;
        return Ok(told(request, report, form, wanted, from));
    };
    let page = front.app.outcome_page(&who, id, wanted, from, limit).await?;
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
