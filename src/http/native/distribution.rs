//! `GET /api/v1/batches/{id}/attributes/{name}/distribution`: how often an attribute has which value in a batch. It shows visitors'
//! values.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::batches::with_id;
use crate::engine::gates::Scarce;
use crate::engine::read::distribution::{DISTINCT_MAX, Distribution, FoundDistribution};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::response::json;
use crate::model::profile::NAME_CHARS_MAX;

/// How many characters of a value are told.
const VALUE_CHARS_MAX: usize = 500;
/// How many attributes a refusal names.
const NAMED_MAX: usize = 20;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/batches/{id}/attributes/{name}/distribution",
    name: "batch_distribution",
    api: Api::Native,
    access: Access::Any,
    client: Whose::OfBatch,
    limits: CallLimits { scarce: &[Scarce::Reports], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(NAME_CHARS_MAX));
        with_id(operation)
            .path("name", name.into(), Some("The name of an attribute of the batch."))
            .id("getDistribution")
            .summary("Says how often an attribute has which value in a batch. Shows visitors' values.")
            .says("It reads the file as it was sent, whatever became of the rows.")
            .json::<Body<'_>>("The most frequent values, and what there is besides.")
            .refusal("410")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (id, name) = (call.batch()?, call.path.get("name"));
    let Call { front, request, .. } = call;
    match front.app.distribution(&request.who(Some(&id.client)), &id, name).await? {
        FoundDistribution::Of(found) => json(StatusCode::OK, &Body::of(&id.to_string(), name, &found)),
        FoundDistribution::NotAmong(names) => {
            let others = if names.len() > NAMED_MAX { ", and others" } else { "" };
            let names: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("{name:?}")).collect();
            let names = names.join(", ");
            Err(HttpError::NotFound(format!("batch {id} has no attribute {name:?}; it has {names}{others}")))
        }
    }
}

/// What an attribute is in a batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Distribution)]
struct Body<'a> {
    batch_id: &'a str,
    attribute: &'a str,
    /// The rows with a value.
    filled: u64,
    /// The rows that bring no value for it.
    empty: u64,
    /// The rows that are not well-formed: they failed.
    unreadable: u64,
    /// The rows of visitors who were erased since.
    erased: u64,
    /// How many different values there are. null: more than distinctMax.
    distinct: Option<usize>,
    /// How many different values are counted.
    distinct_max: usize,
    /// The most frequent values, 20 at most. Their counts are exact.
    values: Vec<Value<'a>>,
    /// No value that is not listed has more rows than this.
    others_max: u64,
    /// If all values are numbers: the smallest, the largest and the mean.
    numbers: Option<Numbers<'a>>,
}

/// A value, and how often it is there.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DistributionValue)]
struct Value<'a> {
    /// Its first 500 characters.
    value: &'a str,
    /// Whether that is all of it.
    whole: bool,
    rows: u64,
    /// The share among the rows with a value and those without, from 0 to 1.
    share: f64,
}

/// What numbers come to.
#[derive(Serialize, ToSchema)]
#[schema(as = DistributionNumbers)]
struct Numbers<'a> {
    /// As it was sent.
    smallest: &'a str,
    /// As it was sent.
    largest: &'a str,
    mean: f64,
}

impl<'a> Body<'a> {
    fn of(batch_id: &'a str, attribute: &'a str, found: &'a Distribution) -> Self {
        let value = |(value, rows): &'a (Box<str>, u64)| {
            let cut = value.char_indices().nth(VALUE_CHARS_MAX).and_then(|(at, _)| value.get(..at));
            Value {
                value: cut.unwrap_or(value),
                whole: cut.is_none(),
                rows: *rows,
                share: found.share(*rows),
            }
        };
        Self {
            batch_id,
            attribute,
            filled: found.filled,
            empty: found.empty,
            unreadable: found.unreadable,
            erased: found.erased,
            distinct: found.distinct,
            distinct_max: DISTINCT_MAX,
            values: found.frequent.values.iter().map(value).collect(),
            others_max: found.frequent.others_max,
            numbers: found.numbers.as_ref().map(|numbers| Numbers {
                smallest: &numbers.smallest.1,
                largest: &numbers.largest.1,
                mean: numbers.mean,
            }),
        }
    }
}
