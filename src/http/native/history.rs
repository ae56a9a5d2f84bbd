//! `GET /api/v1/profiles/{id}/history`: what a visitor's attributes were, as far as its profile keeps it.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::profiles::{by, with_id};
use crate::engine::{VisitorChange, VisitorHistory};
use crate::http::auth::Access;
use crate::http::by::By;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::request::visitor_id;
use crate::http::response::json;
use crate::http::shapes;
use crate::model::batch::BatchId;
use crate::model::id::ClientCode;
use crate::tokens::Scope;
use crate::tokens::Tokens;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/profiles/{id}/history",
    name: "history",
    api: Api::Native,
    access: Access::Of(Scope::Read),
    client: Whose::InQuery,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        with_id(operation)
            .summary("Returns the changes of a visitor's attributes, newest first, as far as they are kept.")
            .query("attribute", false, shapes::text(), "Only the changes of the attribute with this name.")
            .json::<History<'_>>("The changes.")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (client, text, query) = (call.client()?, call.path.get("id"), call.query()?);
    let id = visitor_id(by(&query)?, text)?;
    let history = call.front.app.history(client, &id).await?.ok_or_else(|| {
        HttpError::NotFound(format!("client {client} has no visitor with {} {text}", id.kind().name()))
    })?;
    json(StatusCode::OK, &History::of(client, &history, query.get("attribute"), &call.front.app.tokens()))
}

/// What a visitor's attributes were.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct History<'a> {
    client: &'a str,
    /// The seq of the visitor's last write.
    seq: String,
    /// `as_of` can ask for this seq and for each later one. null: no history is kept of this visitor.
    since: Option<String>,
    /// When that was.
    #[schema(format = "date-time")]
    since_at: Option<String>,
    changes: Vec<Change<'a>>,
}

/// A change of one attribute.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AttributeChange)]
struct Change<'a> {
    attribute: &'a str,
    /// The value before. null: there was none, or it is not kept.
    before: Option<&'a str>,
    /// The value after. null: the attribute was removed.
    after: Option<&'a str>,
    seq: String,
    source: &'static str,
    #[schema(format = "date-time")]
    modified_at: String,
    batch_id: Option<String>,
    /// Who made the write, or sent the batch. null: a page, or nobody knows it any more.
    by: Option<By>,
}

impl<'a> History<'a> {
    fn of(client: &'a ClientCode, history: &'a VisitorHistory, of: Option<&str>, tokens: &Tokens) -> Self {
        let wanted = history.changes.iter().filter(|change| of.is_none_or(|name| change.name == name));
        Self {
            client: client.as_str(),
            seq: history.seq.to_string(),
            since: history.since.map(|since| since.to_string()),
            since_at: history.since.map(|since| since.millis().iso_8601()),
            changes: wanted.map(|change| Change::of(client, change, tokens)).collect(),
        }
    }
}

impl<'a> Change<'a> {
    fn of(client: &ClientCode, change: &'a VisitorChange, tokens: &Tokens) -> Self {
        let batch = || BatchId { client: client.clone(), seq: change.seq }.to_string();
        Self {
            attribute: &change.name,
            before: change.before.as_deref(),
            after: change.after.as_deref(),
            seq: change.seq.to_string(),
            source: change.source.name(),
            modified_at: change.seq.millis().iso_8601(),
            batch_id: change.source.is_batch().then(batch),
            by: By::of(change.by, tokens),
        }
    }
}
