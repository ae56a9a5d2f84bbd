//! `GET /api/v1/batches` and `/api/v1/batches/{batchId}`: what was uploaded, and how far it is. `DELETE` of the second, and
//! `POST /api/v1/batches/{batchId}/file`: what ends the hold of a batch whose upload is damaged.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{BatchState, BatchStatus, BatchVersion, EngineError};
use crate::http::Front;
use crate::http::auth::Bearer;
use crate::http::batch_file::{MEDIA_TYPES, take_in};
use crate::http::error::HttpError;
use crate::http::outcomes::Outcomes;
use crate::http::request::{Params, Request};
use crate::http::response::{Answer, json};
use crate::model::batch::{BatchId, EmptyValues};
use crate::model::id::ClientCode;
use crate::model::seq::{Millis, Seq};

/// The most batches in one list: the newest.
const BATCHES_LISTED_MAX: usize = 1_000;

/// A client's batches, newest first.
pub(in crate::http) fn list(
    front: &Front,
    request: &Request,
    client: &ClientCode,
) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    let wanted = state(&query)?;
    let limit = query.count("limit", BATCHES_LISTED_MAX)?.unwrap_or(BATCHES_LISTED_MAX);
    let before = query.get("before").map(|text| {
        let number = text.parse().map_err(|_| {
            HttpError::Wrong(format!(
                "before={text} is not a seq: take the URL that the page before links to"
            ))
        });
        number.map(Seq::from_u64)
    });
    let page = front.app.batches(client, wanted, before.transpose()?, limit);
    let mut answer =
        json(StatusCode::OK, &Batches { batches: page.batches.iter().map(Batch::of).collect() })?;
    if let Some(next) = page.next {
        let status = wanted.map_or(String::new(), |wanted| format!("&status={}", state_name(wanted)));
        let link =
            format!("</api/v1/batches?client={client}&limit={limit}&before={next}{status}>; rel=\"next\"");
        let link = HeaderValue::try_from(link).map_err(|error| HttpError::Inside(error.to_string()))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}

/// One batch.
pub(in crate::http) fn one(front: &Front, id: &BatchId) -> Result<Answer, HttpError> {
    json(StatusCode::OK, &Batch::of(&known(front, id)?))
}

/// Gives up a batch that is held because its upload is damaged.
pub(in crate::http) async fn give_up(
    front: &Front,
    request: &Request,
    bearer: &Bearer,
    id: &BatchId,
) -> Result<Answer, HttpError> {
    let batch = front.app.give_up_batch(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "give up batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch))
}

/// Takes the file of such a batch in once more.
pub(in crate::http) async fn put_back(
    front: &Front,
    request: &mut Request,
    bearer: &Bearer,
    id: &BatchId,
) -> Result<Answer, HttpError> {
    front.app.check_held(id)?;
    let right = || format!("send the batch file as it was, to /api/v1/batches/{id}/file");
    let (version, empty_values) = (BatchVersion::V2, EmptyValues::Ignore);
    let upload = take_in(front, request, &id.client, version, empty_values, &MEDIA_TYPES, right).await?;
    let batch = upload.put_back(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "resend batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch))
}

/// The id of a path. It names its client, so `client=` may be left out; where it is there, it must agree.
pub(in crate::http) fn id(request: &Request, text: &str) -> Result<BatchId, HttpError> {
    let query = request.query().strict()?;
    let agrees = |id: &BatchId| query.get("client").is_none_or(|client| client == id.client.as_str());
    BatchId::parse(text).filter(agrees).ok_or_else(|| none(text))
}

/// A batch that is known.
pub(super) fn known(front: &Front, id: &BatchId) -> Result<BatchStatus, HttpError> {
    front.app.batch(id).ok_or_else(|| none(id))
}

fn none(id: impl std::fmt::Display) -> HttpError {
    EngineError::UnknownBatch(id.to_string()).into()
}

fn state(query: &Params) -> Result<Option<BatchState>, HttpError> {
    let Some(name) = query.get("status") else { return Ok(None) };
    let mut states = [BatchState::Incomplete, BatchState::Complete, BatchState::Stuck].into_iter();
    states.find(|state| state_name(*state) == name).map(Some).ok_or_else(|| {
        HttpError::Wrong(format!("status={name} is not known: it is incomplete, complete or stuck"))
    })
}

fn state_name(state: BatchState) -> &'static str {
    match state {
        BatchState::Incomplete => "incomplete",
        BatchState::Complete => "complete",
        BatchState::Stuck => "stuck",
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Batches {
    batches: Vec<Batch>,
}

/// A batch, as the calls and the events show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Batch {
    batch_id: String,
    client: String,
    seq: String,
    version: &'static str,
    status: &'static str,
    rows: u64,
    bytes: u64,
    counts: Outcomes,
    accepted_at: String,
    completed_at: Option<String>,
    rows_per_second: Option<u64>,
    estimated_end_at: Option<String>,
    /// Why it is stuck, if its upload is damaged.
    reason: Option<String>,
}

impl Batch {
    pub(super) fn of(batch: &BatchStatus) -> Self {
        Self {
            batch_id: batch.id.to_string(),
            client: batch.id.client.to_string(),
            seq: batch.id.seq.to_string(),
            version: match batch.version {
                BatchVersion::V1 => "v1",
                BatchVersion::V2 => "v2",
            },
            status: state_name(batch.state),
            rows: batch.rows,
            bytes: batch.bytes,
            counts: Outcomes::of(&batch.counts),
            accepted_at: batch.id.seq.millis().iso_8601(),
            completed_at: batch.completed.map(Millis::iso_8601),
            rows_per_second: batch.rows_per_second,
            estimated_end_at: batch.estimated_end.map(Millis::iso_8601),
            reason: batch.reason.clone(),
        }
    }
}
