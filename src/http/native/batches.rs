//! `GET /api/v1/batches` and `/api/v1/batches/{id}`: what was uploaded, and how far it is. `DELETE` of the second and
//! `POST /api/v1/batches/{id}/file` end the hold of a batch whose upload is damaged.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::gates::Scarce;
use crate::engine::{BatchState, BatchStatus, BatchVersion, EngineError};
use crate::http::auth::Access;
use crate::http::batch_file::{self, BatchCall, MEDIA_TYPES, take_in};
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::Operation;
use crate::http::outcomes::Outcomes;
use crate::http::request::Params;
use crate::http::response::json;
use crate::http::{Front, shapes};
use crate::model::batch::{BatchId, EmptyValues};
use crate::model::seq::{Millis, Seq};
use crate::tokens::Scope;

/// The most batches in one list: the newest.
const BATCHES_LISTED_MAX: usize = 1_000;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/batches",
        name: "batches",
        api: Api::Native,
        access: Access::Any,
        client: Whose::InQuery,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { list(&call) }),
        describe: Some(|operation| {
            operation
                .summary("Lists a client's batches, newest first.")
                .client()
                .query(
                    "status",
                    false,
                    shapes::one_of(&["incomplete", "complete", "stuck"]),
                    "Only batches with this status.",
                )
                .query("limit", false, shapes::count(BATCHES_LISTED_MAX), "The most batches of a page.")
                .query(
                    "before",
                    false,
                    shapes::pattern("^[0-9]{1,19}$"),
                    "The batch to go on from, as Link gives it.",
                )
                .json::<Batches>("The batches. Link leads to the next page.")
                .bears("200", "Link", "The next page (rel=next), if there is one.")
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/batches/{id}",
        name: "batch",
        api: Api::Native,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { one(&call) }),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Returns one batch.")
                .json::<Batch>("The batch, with counts and speed.")
        }),
    },
    Endpoint {
        methods: Methods::Delete,
        path: "/api/v1/batches/{id}",
        name: "batch",
        api: Api::Native,
        access: Access::Of(Scope::Admin),
        client: Whose::OfBatch,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(give_up(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary(
                    "Gives up a batch that is stuck because its upload is damaged. Its rows count as failed.",
                )
                .json::<Batch>("The batch, complete.")
        }),
    },
    Endpoint {
        methods: Methods::Post,
        path: "/api/v1/batches/{id}/file",
        name: "batch file",
        api: Api::Native,
        access: Access::Of(Scope::Admin),
        client: Whose::OfBatch,
        limits: CallLimits { body: BodyLimit::BatchFile, rate: RateLimit::Free, scarce: &[Scarce::Uploads] },
        handler: |call| Box::pin(send_again(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Sends the file again of a batch that is stuck because its upload is damaged.")
                .body(batch_file::forms())
                .json::<Batch>("The file is the one that was accepted. The batch goes on.")
        }),
    },
];

/// The id of a batch in the path.
pub(super) fn with_id(operation: Operation) -> Operation {
    operation.path("id", shapes::batch_id(), Some("The batch's id."))
}

/// A client's batches, newest first.
fn list(call: &Call<'_>) -> Reply {
    let (front, client, query) = (call.front, call.client()?, call.query()?);
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
        let status = wanted.map_or(String::new(), |wanted| format!("&status={}", wanted.as_str()));
        let link =
            format!("</api/v1/batches?client={client}&limit={limit}&before={next}{status}>; rel=\"next\"");
        let link = HeaderValue::try_from(link).map_err(|error| HttpError::Inside(error.to_string()))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}

/// One batch.
fn one(call: &Call<'_>) -> Reply {
    json(StatusCode::OK, &Batch::of(&known(call.front, &call.batch()?)?))
}

/// Gives up a batch that is stuck because its upload is damaged.
async fn give_up(call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    let Call { front, request, bearer, .. } = call;
    let batch = front.app.give_up_batch(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "give up batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch))
}

/// Takes the file of such a batch again.
async fn send_again(call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    let Call { front, request, bearer, .. } = call;
    front.app.check_held(id)?;
    let right = || format!("send the batch file as it was, to /api/v1/batches/{id}/file");
    let call = BatchCall {
        version: BatchVersion::V2,
        empty_values: EmptyValues::Ignore,
        as_of: None,
        for_all: false,
    };
    let upload = take_in(front, request, &id.client, call, &MEDIA_TYPES, right).await?;
    let batch = upload.put_back(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "resend batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch))
}

/// A batch that is known.
pub(super) fn known(front: &Front, id: &BatchId) -> Result<BatchStatus, HttpError> {
    front.app.batch(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()).into())
}

fn state(query: &Params) -> Result<Option<BatchState>, HttpError> {
    let Some(name) = query.get("status") else { return Ok(None) };
    BatchState::parse(name).map(Some).ok_or_else(|| {
        HttpError::Wrong(format!("status={name} is not known: it is incomplete, complete or stuck"))
    })
}

#[derive(Serialize, ToSchema)]
struct Batches {
    batches: Vec<Batch>,
}

/// A batch, as the calls and the events show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    batch_id: String,
    client: String,
    seq: String,
    version: &'static str,
    /// The time that its values are of, if it said one.
    as_of: Option<String>,
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
            as_of: batch.as_of.map(Millis::iso_8601),
            status: batch.state.as_str(),
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
