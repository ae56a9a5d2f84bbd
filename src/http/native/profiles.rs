//! `/api/v1/profiles/{id}?by=third-party|pc|ecid`: returns a visitor, with who set each attribute and when; erases it; removes one
//! attribute.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::engine::Lines;
use crate::engine::gates::Scarce;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::kinds;
use crate::http::operation::Operation;
use crate::http::request::{Params, visitor_id};
use crate::http::response::json;
use crate::http::visitor_body::Profile;
use crate::http::{seq, shapes, visitor_write};
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
                .query(
                    "as_of",
                    false,
                    shapes::seq_or_time(),
                    "A seq, or a time as in 2026-11-27T02:00:00Z: returns the attributes as they were after all writes up to then.",
                )
                .switch("lines", "true: adds the line of the kept upload that set an attribute.")
                .json::<Profile<'_>>("The visitor. Its ETag is the seq of its last write.")
                .refusal("410")
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
pub(super) fn with_id(operation: Operation) -> Operation {
    let what =
        "An id. The pattern has the characters that ids of every kind may have; some kinds may have more.";
    operation.path("id", shapes::any_id(), Some(what)).client().query(
        "by",
        false,
        kinds::names(),
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
    let at = query.get("as_of").map(place).transpose()?;
    let found = match at {
        Some(at) => front.app.read_at(client, &id, at).await?,
        None => front.app.read(client, &id).await?,
    };
    let visitor = found.ok_or_else(|| {
        let then = at.map_or(String::new(), |at| format!(" whose profile had begun at seq {at}"));
        HttpError::NotFound(format!("client {client} has no visitor with {} {text}{then}", id.kind().name()))
    })?;
    let lines =
        if with_lines { front.app.lines(&request.who(Some(client)), &visitor).await? } else { Lines::new() };
    let mut answer = json(StatusCode::OK, &Profile::with_lines(&visitor, &lines, &front.app.tokens()))?;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", visitor.seq)) {
        answer.headers_mut().insert(ETAG, etag);
    }
    Ok(answer)
}

/// The last place in the order at a time; or a place itself.
fn place(text: &str) -> Result<Seq, HttpError> {
    if let Ok(seq) = text.parse() {
        return Ok(Seq::from_u64(seq));
    }
    Millis::parse(text).map(Seq::last_at).ok_or_else(|| {
        HttpError::Wrong(format!(
            "as_of={text} is neither a seq, the number in Profiled-Seq, nor a time such as 2026-11-27T02:00:00Z"
        ))
    })
}

/// `DELETE /api/v1/profiles/{id}`: erases a visitor, by any of its ids (R12).
async fn erase(mut call: Call<'_>) -> Reply {
    let id = visitor_id(by(&call.query()?)?, call.path.get("id"))?;
    let seq = visitor_write::erase(&mut call, id).await?;
    let mut answer = json(StatusCode::OK, &Erased { erased: true, seq: seq.to_string() })?;
    seq::tell(&mut answer, Some(seq));
    Ok(answer)
}

/// `DELETE /api/v1/profiles/{id}/attributes/{name}`: removes an attribute.
async fn remove(mut call: Call<'_>) -> Reply {
    let id = visitor_id(by(&call.query()?)?, call.path.get("id"))?;
    let name = call.path.get("name");
    let seq = visitor_write::remove(&mut call, id, name).await?;
    let mut answer = json(StatusCode::OK, &Removed { removed: true, seq: seq.to_string() })?;
    seq::tell(&mut answer, Some(seq));
    Ok(answer)
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

pub(super) fn by(query: &Params) -> Result<IdKind, HttpError> {
    query.get("by").map_or(Ok(IdKind::ThirdParty), kinds::named)
}
