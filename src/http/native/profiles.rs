//! `/api/v1/profiles/{id}?by=third-party|pc|ecid`: a visitor, with who set which attribute, and when; its erasure.

use hyper::StatusCode;
use hyper::header::{ETAG, HeaderValue};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use crate::engine::commit::VisitorWrite;
use crate::engine::{Lines, Visitor, VisitorAttribute};
use crate::http::Front;
use crate::http::auth::Bearer;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request, visitor_id};
use crate::http::response::{Answer, json};
use crate::model::batch::BatchId;
use crate::model::id::{ClientCode, IdKind};
use crate::model::seq::Seq;

pub(in crate::http) async fn answer(
    front: &Front,
    request: &Request,
    client: &ClientCode,
    text: &str,
) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
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
pub(in crate::http) async fn erase(
    front: &Front,
    request: &Request,
    bearer: &Bearer,
    client: &ClientCode,
    text: &str,
) -> Result<Answer, HttpError> {
    let id = visitor_id(by(&request.query().strict()?)?, text)?;
    let kind = id.kind().name();
    let written = front.app.write_visitor(client.clone(), id, VisitorWrite::Erase).await?;
    match written.seq.filter(|_| written.known) {
        Some(seq) => {
            // Which visitor it was, nothing may remember (R12).
            let what = format!("seq {seq}");
            front.app.note_act(bearer.actor(request), "erase", Some(client), &what).await;
            json(StatusCode::OK, &Erased { erased: true, seq: seq.to_string() })
        }
        None => Err(HttpError::NotFound(format!(
            "client {client} has no visitor with {kind} {text}; what one that has expired may have left goes all the same"
        ))),
    }
}

/// `DELETE /api/v1/profiles/{id}/attributes/{name}`: removes an attribute.
pub(in crate::http) async fn remove(
    front: &Front,
    request: &Request,
    bearer: &Bearer,
    client: &ClientCode,
    text: &str,
    name: &str,
) -> Result<Answer, HttpError> {
    let id = visitor_id(by(&request.query().strict()?)?, text)?;
    let kind = id.kind().name();
    let write = VisitorWrite::Remove(vec![name.to_owned()]);
    let written = front.app.write_visitor(client.clone(), id, write).await?;
    match written.seq {
        Some(seq) => {
            front.app.note_act(bearer.actor(request), "remove", Some(client), &format!("seq {seq}")).await;
            json(StatusCode::OK, &Removed { removed: true, seq: seq.to_string() })
        }
        None if written.known => Err(HttpError::NotFound(format!(
            "the visitor with {kind} {text} of client {client} has no attribute {name:?}"
        ))),
        None => Err(HttpError::NotFound(format!("client {client} has no visitor with {kind} {text}"))),
    }
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Removed {
    removed: bool,
    seq: String,
}

#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Erased {
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
pub(in crate::http) struct Profile<'a> {
    client: &'a str,
    third_party_id: Option<&'a str>,
    pc_ids: Vec<&'a str>,
    marketing_cloud_visitor_ids: Vec<&'a str>,
    seq: String,
    last_site_seq: Option<String>,
    last_batch_seq: Option<String>,
    last_active: String,
    expires: String,
    attributes: BTreeMap<&'a str, Attribute<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Attribute<'a> {
    value: &'a str,
    seq: String,
    source: &'static str,
    modified_at: String,
    batch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
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
                .map(|it| (it.name.as_str(), Attribute::of(visitor, it, lines)))
                .collect(),
        }
    }
}

impl<'a> Attribute<'a> {
    fn of(visitor: &Visitor, attribute: &'a VisitorAttribute, lines: &Lines) -> Self {
        let batch = |seq: Seq| BatchId { client: visitor.client.clone(), seq }.to_string();
        Self {
            value: &attribute.value,
            seq: attribute.seq.to_string(),
            source: attribute.source.name(),
            modified_at: attribute.seq.millis().iso_8601(),
            batch_id: attribute.source.is_batch().then(|| batch(attribute.seq)),
            line: lines.get(&(attribute.seq, attribute.name.clone())).copied(),
        }
    }
}
