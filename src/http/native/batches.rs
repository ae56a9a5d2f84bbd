//! `POST /api/v1/batches` accepts a batch. `GET` of it, and of `/api/v1/batches/{id}`: what was uploaded, and how far it is. `POST
//! /api/v1/batches/{id}/file` ends the hold of a batch whose upload is damaged.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK, LOCATION};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use crate::engine::gates::Scarce;
use crate::engine::{AcceptedBatch, BatchState, BatchStatus, BatchVersion, EngineError};
use crate::http::auth::Access;
use crate::http::batch_file::{self, BatchCall, empty_values, row_form, sending, take_in, tell_replayed};
use crate::http::by::By;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{Operation, form_of};
use crate::http::outcomes::Outcomes;
use crate::http::request::{Params, Request};
use crate::http::response::{JSON, json};
use crate::http::tried_out::NewAttributeBody;
use crate::http::{Front, seq, shapes, tried_out};
use crate::model::batch::{BatchId, EmptyValues, RowForm};
use crate::model::seq::{Millis, Seq};
use crate::tokens::Scope;
use crate::tokens::Tokens;

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
                .query("status", false, states(), "Only batches with this status.")
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
        methods: Methods::Post,
        path: "/api/v1/batches",
        name: "batches",
        api: Api::Native,
        access: Access::Of(Scope::Batch),
        client: Whose::InQuery,
        limits: CallLimits {
            body: BodyLimit::BatchFile,
            rate: RateLimit::BatchCalls,
            scarce: &[Scarce::Uploads, Scarce::DryRuns],
        },
        handler: |call| Box::pin(accept(call)),
        describe: Some(|operation| {
            let described = batch_file::options(operation.client())
                .summary("Accepts a batch, in NDJSON or CSV.")
                .query("version", false, versions(), "As batchUpdate has them; v2 by default.")
                .body(batch_file::own_forms());
            accepts(described)
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
        methods: Methods::Post,
        path: "/api/v1/batches/{id}/file",
        name: "batch_file",
        api: Api::Native,
        access: Access::Of(Scope::Admin),
        client: Whose::OfBatch,
        limits: CallLimits { body: BodyLimit::BatchFile, rate: RateLimit::Free, scarce: &[Scarce::Uploads] },
        handler: |call| Box::pin(send_again(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Sends the file again of a batch that is stuck because its upload is damaged.")
                .body(batch_file::own_forms())
                .json::<Batch>("The file is the one that was accepted. The batch goes on.")
                .refusal("409")
        }),
    },
];

/// What is said of a call that accepts a batch, and never only tries it out.
pub(super) fn accepts_in_earnest(operation: Operation) -> Operation {
    operation
        .answers("201", "The batch is durable and readable.", [form_of::<Batch>(JSON)])
        .bears("201", "Location", "The path of the batch.")
        .bears("201", "Profiled-Seq", "The batch's place in the order of all writes.")
        .bears("201", "Idempotency-Replayed", "true: the batch was accepted when it was first sent.")
}

/// What a call answers that accepts a batch, or tries it out.
pub(super) fn accepts(operation: Operation) -> Operation {
    accepts_in_earnest(operation)
        .answers(
            "200",
            "A dry run: what would become of the rows. The counts in JSON, or every row in the form that Accept names.",
            tried_out::forms(),
        )
        .bears("200", "Content-Disposition", "The file name for the rows of a dry run.")
        .refusal("422")
}

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
    let tokens = front.app.tokens();
    let batches = page.batches.iter().map(|batch| Batch::of(batch, &tokens)).collect();
    let mut answer = json(StatusCode::OK, &Batches { batches })?;
    if let Some(next) = page.next {
        let status = wanted.map_or(String::new(), |wanted| format!("&status={}", wanted.as_str()));
        let link =
            format!("</api/v1/batches?client={client}&limit={limit}&before={next}{status}>; rel=\"next\"");
        let link = HeaderValue::try_from(link).map_err(|error| HttpError::Inside(error.to_string()))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}

/// Accepts a batch.
async fn accept(call: Call<'_>) -> Reply {
    let (client, query) = (call.client()?, call.query()?);
    let (version, empty_values) = (version(&query)?, empty_values(&query)?);
    let as_of = batch_file::as_of(call.request, &query)?;
    let dry_run = query.switch("dryRun")?;
    let Call { front, request, .. } = call;
    let (sending, rows) = (sending(request, &query)?, row_form(request)?);
    let url = format!("{}{}?client={client}", request.base_url(&front.app)?, request.path());
    let right = || {
        format!(
            "send an object a line, curl -X POST -H \"Content-Type: application/x-ndjson\" --data-binary @ROWS.ndjson {url}, or a \
             batch file as text/csv, either compressed with gzip, zstd or deflate"
        )
    };
    let call = BatchCall { version, empty_values, as_of, for_all: !dry_run, rows };
    let upload = take_in(front, request, client, call, &batch_file::all_media_types(), &right).await?;
    if dry_run {
        let tried = upload.try_out().await?;
        request.note(|notes| notes.tried_out(&tried.counts, tried.rows, tried.bytes));
        return tried_out::answer(request, tried);
    }
    accepted(request, &upload.finish(sending).await?, &front.app.tokens())
}

/// The answer that tells of a batch that is durable and readable.
pub(super) fn accepted(
    request: &mut Request,
    AcceptedBatch { batch, before }: &AcceptedBatch,
    tokens: &Tokens,
) -> Reply {
    request.note(|notes| notes.accepted(&batch.id, *before, batch.rows, batch.bytes));
    let mut answer = json(StatusCode::CREATED, &Batch::of(batch, tokens))?;
    let path = format!("/api/v1/batches/{}", batch.id);
    let path = HeaderValue::try_from(path).map_err(|error| HttpError::Inside(error.to_string()))?;
    answer.headers_mut().insert(LOCATION, path);
    seq::tell(&mut answer, Some(batch.id.seq));
    tell_replayed(&mut answer, *before);
    Ok(answer)
}

fn version(query: &Params) -> Result<BatchVersion, HttpError> {
    match query.get("version") {
        None | Some("v2") => Ok(BatchVersion::V2),
        Some("v1") => Ok(BatchVersion::V1),
        Some(other) => Err(HttpError::Wrong(format!("version={other} is not known: it is v1 or v2"))),
    }
}

/// One batch.
fn one(call: &Call<'_>) -> Reply {
    json(StatusCode::OK, &Batch::of(&known(call.front, &call.batch()?)?, &call.front.app.tokens()))
}

/// Takes the file of a batch again that is stuck because its upload is damaged.
async fn send_again(call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    let Call { front, request, bearer, .. } = call;
    front.app.check_held(id)?;
    let right = || format!("send the batch file as it was, to /api/v1/batches/{id}/file");
    let rows = known(front, id)?.form;
    let call = BatchCall {
        version: BatchVersion::V2,
        empty_values: EmptyValues::Ignore,
        as_of: None,
        for_all: false,
        rows,
    };
    let upload = take_in(front, request, &id.client, call, &batch_file::all_media_types(), right).await?;
    let batch = upload.put_back(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "resend batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch, &front.app.tokens()))
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

/// The versions of batchUpdate.
fn versions() -> Schema {
    shapes::one_of(&["v1", "v2"])
}

/// The forms of rows.
fn row_forms() -> Schema {
    shapes::one_of(&[RowForm::Csv, RowForm::Ndjson].map(RowForm::name))
}

/// The states of a batch.
pub(super) fn states() -> Schema {
    shapes::one_of(&BatchState::ALL.map(BatchState::as_str))
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
    #[schema(schema_with = versions)]
    version: &'static str,
    /// The time that its values are of, if it said one.
    #[schema(format = "date-time")]
    as_of: Option<String>,
    /// The form of its rows.
    #[schema(schema_with = row_forms)]
    format: &'static str,
    #[schema(schema_with = states)]
    status: &'static str,
    rows: u64,
    bytes: u64,
    counts: Outcomes,
    #[schema(format = "date-time")]
    accepted_at: String,
    #[schema(format = "date-time")]
    completed_at: Option<String>,
    rows_per_second: Option<u64>,
    #[schema(format = "date-time")]
    estimated_end_at: Option<String>,
    /// Why it is stuck, if its upload is damaged.
    reason: Option<String>,
    /// The batch that it undoes, if it undoes one.
    undoes: Option<String>,
    /// What its sender calls it.
    name: Option<String>,
    /// Who sent it. null: an earlier version of the daemon took it.
    by: Option<By>,
    /// The attributes that no profile had before it, the first 20. Empty if they are all known, and after a restart.
    new_attributes: Vec<NewAttributeBody>,
}

impl Batch {
    pub(super) fn of(batch: &BatchStatus, tokens: &Tokens) -> Self {
        Self {
            batch_id: batch.id.to_string(),
            client: batch.id.client.to_string(),
            seq: batch.id.seq.to_string(),
            version: match batch.version {
                BatchVersion::V1 => "v1",
                BatchVersion::V2 => "v2",
            },
            format: batch.form.name(),
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
            undoes: batch.undoes.as_ref().map(ToString::to_string),
            name: batch.name.as_ref().map(|name| name.as_str().to_owned()),
            by: By::of(batch.by, tokens),
            new_attributes: batch.new_attributes.iter().map(NewAttributeBody::of).collect(),
        }
    }
}
