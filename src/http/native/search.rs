//! `GET /api/v1/profiles`: visitors by the beginning of an id.

use form_urlencoded::Serializer;
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::profiles::by;
use crate::engine::read::search::{FOUND_MAX, FoundVisitor};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::response::json;
use crate::http::{kinds, shapes};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/profiles",
    name: "profiles",
    api: Api::Native,
    access: Access::Of(Scope::Read),
    client: Whose::InQuery,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .id("findProfiles")
            .summary("Finds visitors by the beginning of an id, in the order of the ids.")
            .client()
            .query("beginning", true, shapes::not_empty(), "How the id begins.")
            .query("by", false, kinds::names(), "The kind of the id; third-party by default.")
            .query("limit", false, shapes::count(FOUND_MAX), "The most visitors of a page.")
            .query("after", false, shapes::not_empty(), "The id to go on behind, as next has it.")
            .json::<Found<'_>>("The visitors, and the path of the next page.")
    }),
}];

/// Visitors with such ids.
#[derive(Serialize, ToSchema)]
#[schema(as = FoundProfiles)]
struct Found<'a> {
    profiles: Vec<FoundOne<'a>>,
    /// The path of the next page. null: this is the last. A page may have fewer visitors than the limit, or none, and have a next one.
    next: Option<String>,
}

/// A visitor with such an id.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FoundProfile)]
struct FoundOne<'a> {
    /// The id that begins so.
    id: &'a str,
    /// The id that the profile is kept under, and its kind.
    canonical_id: &'a str,
    #[schema(schema_with = kinds::names)]
    canonical_by: &'static str,
    #[schema(format = "date-time")]
    last_active: String,
    /// How many attributes it has.
    attributes: usize,
}

impl<'a> FoundOne<'a> {
    fn of(found: &'a FoundVisitor) -> Self {
        Self {
            id: found.id.as_str(),
            canonical_id: found.canonical.as_str(),
            canonical_by: kinds::name(found.canonical.kind()),
            last_active: found.last_active.iso_8601(),
            attributes: found.attributes,
        }
    }
}

async fn answer(call: Call<'_>) -> Reply {
    let (client, query) = (call.client()?, call.query()?);
    let kind = by(&query)?;
    let beginning = query
        .get("beginning")
        .ok_or_else(|| HttpError::Wrong("beginning= is missing: say how the id begins".into()))?;
    let limit = query.count("limit", FOUND_MAX)?.unwrap_or(FOUND_MAX);
    let after = query.get("after");
    let found = call.front.app.find(client, (kind, beginning), after, limit).await?;
    let profiles = found.visitors.iter().map(FoundOne::of).collect();
    let next = found.next.as_ref().map(|next| {
        let query = Serializer::new(String::new())
            .append_pair("client", client.as_str())
            .append_pair("by", kinds::name(kind))
            .append_pair("beginning", beginning)
            .append_pair("limit", &limit.to_string())
            .append_pair("after", next)
            .finish();
        format!("/api/v1/profiles?{query}")
    });
    json(StatusCode::OK, &Found { profiles, next })
}
