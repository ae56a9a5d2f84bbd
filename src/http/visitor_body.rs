//! A visitor in JSON: as a lookup, an export and the inspector show it.

use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use crate::engine::{Lines, Visitor, VisitorAttribute};
use crate::http::by::By;
use crate::model::batch::BatchId;
use crate::model::id::IdKind;
use crate::model::seq::{Millis, Seq};
use crate::tokens::Tokens;

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
    #[schema(format = "date-time")]
    last_active: String,
    #[schema(format = "date-time")]
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
    #[schema(format = "date-time")]
    modified_at: String,
    batch_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    line: Option<u32>,
    /// The time that the value is of, if its batch said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = "date-time")]
    as_of: Option<String>,
    /// Who made the write, or sent the batch. It is left out where a page wrote, or nobody knows it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<By>,
}

impl<'a> Profile<'a> {
    pub(in crate::http) fn of(visitor: &'a Visitor, tokens: &Tokens) -> Self {
        Self::with_lines(visitor, &Lines::new(), tokens)
    }

    pub(in crate::http) fn with_lines(visitor: &'a Visitor, lines: &Lines, tokens: &Tokens) -> Self {
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
                .map(|it| (it.name.as_str(), AttributeOfVisitor::of(visitor, it, lines, tokens)))
                .collect(),
        }
    }
}

impl<'a> AttributeOfVisitor<'a> {
    fn of(visitor: &Visitor, attribute: &'a VisitorAttribute, lines: &Lines, tokens: &Tokens) -> Self {
        let batch = |seq: Seq| BatchId { client: visitor.client.clone(), seq }.to_string();
        Self {
            value: &attribute.value,
            seq: attribute.seq.to_string(),
            source: attribute.source.name(),
            modified_at: attribute.seq.millis().iso_8601(),
            batch_id: attribute.source.is_batch().then(|| batch(attribute.seq)),
            line: lines.get(&(attribute.seq, attribute.name.clone())).copied(),
            as_of: attribute.as_of.map(Millis::iso_8601),
            by: By::of(attribute.by, tokens),
        }
    }
}
