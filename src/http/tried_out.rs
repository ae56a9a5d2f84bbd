//! The result of a dry run, in the form that the caller accepts. Shared by all calls that take a batch.

use hyper::StatusCode;
use hyper::header::ACCEPT;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::error::HttpError;
use super::operation::{Form, form, form_of};
use super::outcomes::{self, Outcomes, ReportForm, Row};
use super::request::Request;
use super::response::{Answer, CSV, JSON, NDJSON, json};
use super::shapes;
use crate::batch::known_names::NewAttribute;
use crate::batch::remarks::{Remark, Remarked};
use crate::engine::ingest::dry_run::{Diff, DryRun};

/// The forms of the result.
pub(super) fn forms() -> [Form; 3] {
    [form_of::<TriedOut<'_>>(JSON), form(CSV, shapes::text()), form_of::<Row<'_>>(NDJSON)]
}

/// The result of a dry run: a summary as JSON, or each row's outcome if the request accepts CSV or NDJSON.
pub(super) fn answer(request: &Request, dry_run: DryRun) -> Result<Answer, HttpError> {
    let accepted = request.header_text(&ACCEPT).unwrap_or_default();
    if accepted.contains("text/csv") || accepted.contains("ndjson") {
        return Ok(outcomes::whole_report(request, dry_run.report, ReportForm::of(request), None, None));
    }
    let attributes = dry_run.attributes.iter().map(|(name, diff)| {
        let Diff { set, changed, unchanged, removed } = *diff;
        (name.as_str(), Changes { set, changed, unchanged, removed })
    });
    json(
        StatusCode::OK,
        &TriedOut {
            dry_run: true,
            rows: dry_run.rows,
            bytes: dry_run.bytes,
            outcomes: Outcomes::of(&dry_run.counts),
            newer: dry_run.newer,
            attributes: attributes.collect(),
            new_attributes: dry_run.new_attributes.iter().map(NewAttributeBody::of).collect(),
            failed: dry_run.failed.iter().map(Row::of).collect(),
            remarks: dry_run.remarks.reported().map(RemarkBody::of).collect(),
        },
    )
}

/// What a batch would do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TriedOut<'a> {
    dry_run: bool,
    rows: u64,
    bytes: u64,
    outcomes: Outcomes,
    /// How many rows would leave something alone, because it was written later than asOf.
    newer: u64,
    /// For each attribute of the header, how many visitors' values would change.
    attributes: BTreeMap<&'a str, Changes>,
    /// The attributes of the header that no profile had before.
    new_attributes: Vec<NewAttributeBody>,
    /// The first rows that would fail.
    failed: Vec<Row<'a>>,
    /// What is accepted and was perhaps not meant, or is read differently by Adobe.
    remarks: Vec<RemarkBody<'a>>,
}

/// An attribute that no profile of the client had before the batch.
#[derive(Serialize, ToSchema)]
#[schema(as = NewAttribute)]
pub(super) struct NewAttributeBody {
    name: String,
    /// The nearest name that exists, if one is near: perhaps it was meant.
    nearest: Option<String>,
}

impl NewAttributeBody {
    pub(super) fn of(new: &NewAttribute) -> Self {
        Self { name: new.name.to_string(), nearest: new.nearest.as_ref().map(ToString::to_string) }
    }
}

/// A remark on some lines.
#[derive(Serialize, ToSchema)]
#[schema(as = Remark)]
struct RemarkBody<'a> {
    /// Its name for programs.
    remark: &'static str,
    /// How many lines have it.
    count: u64,
    /// The first of these lines.
    lines: &'a [u32],
    /// What it is, and what to write instead.
    message: String,
}

impl<'a> RemarkBody<'a> {
    fn of((remark, remarked, message): (Remark, &'a Remarked, String)) -> Self {
        Self { remark: remark.name(), count: remarked.count, lines: &remarked.lines, message }
    }
}

/// How many visitors' values of an attribute would change, and how.
#[derive(Serialize, ToSchema)]
struct Changes {
    set: u64,
    changed: u64,
    unchanged: u64,
    removed: u64,
}
