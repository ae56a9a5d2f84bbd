//! `GET /api/v1/batches/{id}/comparison[?with=ID]`: a batch beside an earlier one.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::batches::{states, with_id};
use crate::engine::read::comparison::{Chosen, Comparison};
use crate::engine::{BatchStatus, EngineError};
use crate::http::auth::Access;
use crate::http::comparison::{chosen, difference, notes, outcomes};
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::outcomes::names;
use crate::http::response::json;
use crate::http::shapes;
use crate::model::batch::BatchId;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/batches/{id}/comparison",
    name: "batch_comparison",
    api: Api::Native,
    access: Access::Any,
    client: Whose::OfBatch,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        with_id(operation)
            .id("compareBatch")
            .summary("Compares a batch with an earlier one: rows, outcomes, attributes.")
            .query(
                "with",
                false,
                shapes::batch_id(),
                "Another batch of the client. By default the one before of the same name, else the one before.",
            )
            .json::<Body>("Both batches, and what is different.")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (id, query) = (call.batch()?, call.query()?);
    let with = query.get("with").map(|text| {
        BatchId::parse(text).ok_or_else(|| HttpError::from(EngineError::UnknownBatch(text.to_owned())))
    });
    let compared = call.front.app.compare(&id, with.transpose()?.as_ref()).await?;
    let compared = compared.ok_or_else(|| {
        let client = &id.client;
        HttpError::NotFound(format!("client {client} has no batch before {id}: name another one as with="))
    })?;
    json(StatusCode::OK, &Body::of(&compared))
}

/// A batch beside another.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Comparison)]
struct Body {
    batch: Side,
    with: Side,
    /// Why with that one: it was asked for, it is the one before of the same name, or the one before.
    #[schema(schema_with = reasons)]
    chosen: &'static str,
    /// How many rows more the batch has.
    rows_difference: i64,
    outcomes: Vec<OutcomeOf>,
    /// The attributes. null: they are not known; notes says why.
    attributes: Option<Attributes>,
    /// What keeps the two from being compared as they might be.
    notes: Vec<String>,
}

/// One of two batches.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ComparedBatch)]
struct Side {
    batch_id: String,
    name: Option<String>,
    #[schema(schema_with = states)]
    status: &'static str,
    rows: u64,
    #[schema(format = "date-time")]
    accepted_at: String,
}

/// The rows of one outcome.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ComparedOutcome)]
struct OutcomeOf {
    #[schema(schema_with = names)]
    outcome: &'static str,
    batch: u64,
    with: u64,
    difference: i64,
    /// The share of the batch's rows that are dealt with, from 0 to 1.
    batch_share: f64,
    with_share: f64,
}

/// The attributes that came and went.
#[derive(Serialize, ToSchema)]
#[schema(as = ComparedAttributes)]
struct Attributes {
    /// Those that only the batch has.
    added: Vec<String>,
    /// Those that only the other one has.
    dropped: Vec<String>,
    /// How many both have.
    kept: usize,
}

fn reasons() -> Schema {
    shapes::one_of(&[Chosen::Asked, Chosen::SameName, Chosen::Before].map(chosen))
}

impl Side {
    fn of(batch: &BatchStatus) -> Self {
        Self {
            batch_id: batch.id.to_string(),
            name: batch.name.as_ref().map(|name| name.as_str().to_owned()),
            status: batch.state.as_str(),
            rows: batch.rows,
            accepted_at: batch.id.seq.millis().iso_8601(),
        }
    }
}

impl Body {
    fn of(compared: &Comparison) -> Self {
        let texts = |names: &[Box<str>]| names.iter().map(ToString::to_string).collect();
        Self {
            batch: Side::of(&compared.batch),
            with: Side::of(&compared.with),
            chosen: chosen(compared.chosen),
            rows_difference: difference(compared.batch.rows, compared.with.rows),
            outcomes: outcomes(compared)
                .into_iter()
                .map(|line| OutcomeOf {
                    outcome: line.outcome.name(),
                    batch: line.batch,
                    with: line.with,
                    difference: line.difference,
                    batch_share: line.batch_share,
                    with_share: line.with_share,
                })
                .collect(),
            attributes: compared.columns.as_ref().ok().map(|columns| Attributes {
                added: texts(&columns.added),
                dropped: texts(&columns.dropped),
                kept: columns.kept,
            }),
            notes: notes(compared),
        }
    }
}
