//! `/api/v1/profiles/{id}?by=third-party|pc|ecid`: returns a visitor, with who set each attribute and when; erases it; removes one
//! attribute.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderValue};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::engine::commit::VisitorWrite;
use crate::engine::gates::Scarce;
use crate::engine::{Lines, Visitor, VisitorAttribute};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::Operation;
use crate::http::request::{Params, visitor_id};
use crate::http::response::json;
use crate::http::{seq, shapes};
use crate::model::batch::BatchId;
use crate::model::id::IdKind;
use crate::model::profile::NAME_CHARS_MAX;
use crate::model::seq::{Millis, Seq};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/profiles/{id}",
        name: "profile",
        api: Api::Native,
        access: Access::Of(Scope::Read),
        client: Whose::InQuery,
        limits: CallLimits { scarce: &[Scarce::LineSearches], ..CallLimits::NONE },
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Returns one visitor: each attribute, who set it and when.")
                .query(
                    "wait_for_seq",
                    false,
                    shapes::seq(),
                    "Waits up to five seconds for the write whose answer had this Profiled-Seq.",
                )
                .switch("lines", "true: adds the line of the kept upload that set an attribute.")
                .json::<Profile<'_>>("The visitor. Its ETag is the seq of its last write.")
                .bears("200", "ETag", "The seq of its last write.")
        }),
    },
    Endpoint {
        methods: Methods::Delete,
        path: "/api/v1/profiles/{id}",
        name: "profile",
        api: Api::Native,
        access: Access::Of(Scope::Admin),
        client: Whose::InQuery,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(erase(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Erases a visitor, with all its ids.")
                .json::<Erased>("The visitor is erased for every reader.")
                .bears_seq(&["200"])
        }),
    },
    Endpoint {
        methods: Methods::Delete,
        path: "/api/v1/profiles/{id}/attributes/{name}",
        name: "attribute",
        api: Api::Native,
        access: Access::Of(Scope::Admin),
        client: Whose::InQuery,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(remove(call)),
        describe: Some(|operation| {
            let name = ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(NAME_CHARS_MAX));
            with_id(operation)
                .path("name", name.into(), None)
                .summary("Removes an attribute.")
                .json::<Removed>("The attribute is removed.")
                .bears_seq(&["200"])
        }),
    },
];

/// The id of a visitor in the path, and its kind in the query.
fn with_id(operation: Operation) -> Operation {
    let what =
        "An id. The pattern has the characters that ids of every kind may have; some kinds may have more.";
    operation.path("id", shapes::any_id(), Some(what)).client().query(
        "by",
        false,
        shapes::one_of(&["third-party", "pc", "ecid"]),
        "The kind of the id; third-party by default.",
    )
}

async fn answer(call: Call<'_>) -> Reply {
    let (client, text, query) = (call.client()?, call.path.get("id"), call.query()?);
    let Call { front, request, .. } = call;
    let id = visitor_id(by(&query)?, text)?;
    if let Some(seq) = query.get("wait_for_seq") {
        let number = seq.parse().map_err(|_| {
            HttpError::Wrong(format!("wait_for_seq={seq} is not a seq: it is the number in Profiled-Seq"))
        })?;
        front.app.wait_for(Seq::from_u64(number)).await?;
    }
    let with_lines = query.switch("lines")?;
    let visitor = front.app.read(client, &id).await?.ok_or_else(|| {
        HttpError::NotFound(format!("client {client} has no visitor with {} {text}", id.kind().name()))
    })?;
    let lines =
        if with_lines { front.app.lines(&request.who(Some(client)), &visitor).await? } else { Lines::new() };
    let mut answer = json(StatusCode::OK, &Profile::with_lines(&visitor, &lines))?;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", visitor.seq)) {
        answer.headers_mut().insert(ETAG, etag);
    }
    Ok(answer)
}

/// `DELETE /api/v1/profiles/{id}`: erases a visitor, by any of its ids (R12).
async fn erase(call: Call<'_>) -> Reply {
    let (client, text) = (call.client()?, call.path.get("id"));
    let id = visitor_id(by(&call.query()?)?, text)?;
    let Call { front, request, bearer, .. } = call;
    let kind = id.kind().name();
    let written = front.app.write_visitor(client.clone(), id, VisitorWrite::Erase).await?;
    match written.seq.filter(|_| written.known) {
        Some(seq) => {
            // Which visitor it was, nothing may remember (R12).
            let what = format!("seq {seq}");
            front.app.note_act(bearer.actor(request), "erase", Some(client), &what).await;
            let mut answer = json(StatusCode::OK, &Erased { erased: true, seq: seq.to_string() })?;
            seq::tell(&mut answer, Some(seq));
            Ok(answer)
        }
        None => Err(HttpError::NotFound(format!(
            "client {client} has no visitor with {kind} {text}; what one that has expired may have left goes all the same"
        ))),
    }
}

/// `DELETE /api/v1/profiles/{id}/attributes/{name}`: removes an attribute.
async fn remove(call: Call<'_>) -> Reply {
    let (client, text, name) = (call.client()?, call.path.get("id"), call.path.get("name"));
    let id = visitor_id(by(&call.query()?)?, text)?;
    let Call { front, request, bearer, .. } = call;
    let kind = id.kind().name();
    let write = VisitorWrite::Remove(vec![name.to_owned()]);
    let written = front.app.write_visitor(client.clone(), id, write).await?;
    match written.seq {
        Some(seq) => {
            front.app.note_act(bearer.actor(request), "remove", Some(client), &format!("seq {seq}")).await;
            let mut answer = json(StatusCode::OK, &Removed { removed: true, seq: seq.to_string() })?;
            seq::tell(&mut answer, Some(seq));
            Ok(answer)
        }
        None if written.known => Err(HttpError::NotFound(format!(
            "the visitor with {kind} {text} of client {client} has no attribute {name:?}"
        ))),
        None => Err(HttpError::NotFound(format!("client {client} has no visitor with {kind} {text}"))),
    }
}

#[derive(Serialize, ToSchema)]
struct Removed {
    removed: bool,
    seq: String,
}

#[derive(Serialize, ToSchema)]
struct Erased {
    erased: bool,
    seq: String,
}

fn by(query: &Params) -> Result<IdKind, HttpError> {
    match query.get("by") {
        None | Some("third-party") => Ok(IdKind::ThirdParty),
        Some("pc") => Ok(IdKind::Pc),
        Some("ecid") => Ok(IdKind::Ecid),
        Some(other) => {
            Err(HttpError::Wrong(format!("by={other} is not known: it is third-party, pc or ecid")))
        }
    }
}

/// A visitor, as a lookup and an export show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile<'a> {
    client: &'a str,
    third_party_id: Option<&'a str>,
    pc_ids: Vec<&'a str>,
    marketing_cloud_visitor_ids: Vec<&'a str>,
    seq: String,
    last_site_seq: Option<String>,
    last_batch_seq: Option<String>,
    last_active: String,
    expires: String,
    attributes: BTreeMap<&'a str, AttributeOfVisitor<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attribute)]
struct AttributeOfVisitor<'a> {
    value: &'a str,
    seq: String,
    source: &'static str,
    modified_at: String,
    batch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    line: Option<u32>,
    /// The time that the value is of, if its batch said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    as_of: Option<String>,
}

impl<'a> Profile<'a> {
    pub(super) fn of(visitor: &'a Visitor) -> Self {
        Self::with_lines(visitor, &Lines::new())
    }

    fn with_lines(visitor: &'a Visitor, lines: &Lines) -> Self {
        let ids = |kind| {
            let own = std::iter::once(&visitor.canonical);
            let all = visitor.linked.iter().chain(own).filter(move |id| id.kind() == kind);
            all.map(|id| id.as_str()).collect::<Vec<_>>()
        };
        Self {
            client: visitor.client.as_str(),
            third_party_id: ids(IdKind::ThirdParty).last().copied(),
            pc_ids: ids(IdKind::Pc),
            marketing_cloud_visitor_ids: ids(IdKind::Ecid),
            seq: visitor.seq.to_string(),
            last_site_seq: visitor.last_site.map(|seq| seq.to_string()),
            last_batch_seq: visitor.last_batch.map(|seq| seq.to_string()),
            last_active: visitor.last_active.iso_8601(),
            expires: visitor.expires.iso_8601(),
            attributes: visitor
                .attributes
                .iter()
                .map(|it| (it.name.as_str(), AttributeOfVisitor::of(visitor, it, lines)))
                .collect(),
        }
    }
}

impl<'a> AttributeOfVisitor<'a> {
    fn of(visitor: &Visitor, attribute: &'a VisitorAttribute, lines: &Lines) -> Self {
        let batch = |seq: Seq| BatchId { client: visitor.client.clone(), seq }.to_string();
        Self {
            value: &attribute.value,
            seq: attribute.seq.to_string(),
            source: attribute.source.name(),
            modified_at: attribute.seq.millis().iso_8601(),
            batch_id: attribute.source.is_batch().then(|| batch(attribute.seq)),
            line: lines.get(&(attribute.seq, attribute.name.clone())).copied(),
            as_of: attribute.as_of.map(Millis::iso_8601),
        }
    }
}
