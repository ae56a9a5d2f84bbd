//! `GET /api/v1/statistics`: counts a client's visitors, batches and rows, and how fast the rows came.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::gates::Scarce;
use crate::engine::read::statistics::Pace;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::outcomes::Outcomes;
use crate::http::response::json;
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/statistics",
    name: "statistics",
    api: Api::Native,
    access: Access::Of(Scope::Read),
    client: Whose::InQuery,
    limits: CallLimits { scarce: &[Scarce::Counts], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Counts a client's visitors, batches and rows.")
            .client()
            .json::<Statistics<'_>>("The counts.")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let client = call.client()?;
    let Call { front, request, .. } = call;
    let found = front.app.statistics(&request.who(Some(client)), client).await?;
    json(
        StatusCode::OK,
        &Statistics {
            client: client.as_str(),
            profiles: found.profiles,
            profiles_counted_at: found.profiles_counted.iso_8601(),
            batches: KeptBatches {
                kept: found.batches,
                incomplete: found.batches_incomplete,
                stuck: found.batches_stuck,
                upload_bytes: found.upload_bytes,
            },
            rows: found.rows,
            counts: Outcomes::of(&found.counts),
            last_minute: Rates::of(found.last_minute, 60),
            last_hour: Rates::of(found.last_hour, 3600),
        },
    )
}

/// A client's visitors, batches and rows. Batches and rows are those of the batches that are kept.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Statistics<'a> {
    client: &'a str,
    profiles: u64,
    #[schema(format = "date-time")]
    profiles_counted_at: String,
    batches: KeptBatches,
    rows: u64,
    counts: Outcomes,
    last_minute: Rates,
    last_hour: Rates,
}

/// The batches that are kept.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeptBatches {
    kept: u64,
    incomplete: u64,
    stuck: u64,
    upload_bytes: u64,
}

/// What came in a minute or an hour.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Rates {
    batches: u64,
    rows: u64,
    rows_completed: u64,
    rows_completed_per_second: f64,
}

impl Rates {
    fn of(pace: Pace, seconds: u32) -> Self {
        let Pace { batches, rows, rows_completed } = pace;
        let completed = u32::try_from(rows_completed).unwrap_or(u32::MAX);
        let rows_completed_per_second = f64::from(completed) / f64::from(seconds);
        Self { batches, rows, rows_completed, rows_completed_per_second }
    }
}
