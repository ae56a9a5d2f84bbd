//! `GET /api/v1/batches` and `/api/v1/batches/{batchId}`: what was uploaded, and how far it is.

use hyper::StatusCode;
use serde::Serialize;

use crate::app::{BatchState, BatchStatus, BatchVersion};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request};
use crate::http::response::{Answer, json};
use crate::model::batch::{BatchId, Counts};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

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
    let page = front.app.batches(client, wanted, None, BATCHES_LISTED_MAX);
    json(StatusCode::OK, &Batches { batches: page.batches.iter().map(Batch::of).collect() })
}

/// One batch. Its id names its client, so `client=` may be left out; where it is there, it must agree.
pub(in crate::http) fn one(front: &Front, request: &Request, text: &str) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    let agrees = |id: &BatchId| query.get("client").is_none_or(|client| client == id.client.as_str());
    let batch = BatchId::parse(text).filter(agrees).and_then(|id| front.app.batch(&id));
    match batch {
        Some(batch) => json(StatusCode::OK, &Batch::of(&batch)),
        None => Err(HttpError::NotFound(format!(
            "there is no batch {text}: it was never accepted, or is no longer kept"
        ))),
    }
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

#[derive(Serialize)]
struct Batches {
    batches: Vec<Batch>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
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
}

/// Rows dealt with so far, by outcome.
#[derive(Serialize)]
struct Outcomes {
    updated: u64,
    created: u64,
    not_found: u64,
    ignored: u64,
    failed: u64,
}

impl Batch {
    fn of(batch: &BatchStatus) -> Self {
        let Counts { updated, created, not_found, ignored, failed } = batch.counts;
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
            counts: Outcomes { updated, created, not_found, ignored, failed },
            accepted_at: batch.id.seq.millis().iso_8601(),
            completed_at: batch.completed.map(Millis::iso_8601),
        }
    }
}
