//! `POST /m2/{client}/profile/batchUpdate` (v1) and `/m2/{client}/v2/profile/batchUpdate` (v2): a batch file.
//!
//! The body goes to the daemon as it arrives; nothing here holds more of it than one piece.

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use crate::batch::remarks::{Remark, Remarked};
use crate::engine::ingest::dry_run::{Diff, DryRun};
use crate::engine::{AcceptedBatch, BatchVersion, EngineError};
use crate::http::Front;
use crate::http::batch_file::{MEDIA_TYPES, empty_values, idempotency_key, take_in};
use crate::http::error::HttpError;
use crate::http::outcomes::{self, Form, Outcomes, Row};
use crate::http::request::Request;
use crate::http::response::{Answer, json, xml};
use crate::model::id::ClientCode;

/// The answer's header that bears the batch's place in the order.
const SEQ_HEADER: HeaderName = HeaderName::from_static("profiled-seq");
/// The answer's header that says that the batch was accepted when it was sent before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
    version: BatchVersion,
) -> Result<Answer, HttpError> {
    front.count_batch_call(client)?;
    let dry_run = request.query().strict()?.switch("dryRun")?;
    match take(front, request, client, version, dry_run).await {
        // Adobe says so with a 200 (Bulk Profile Update API, URL-encoding requirements). A dry run says why.
        Err(HttpError::Engine(EngineError::AsAdobe { says, .. })) if !dry_run => {
            Ok(xml(StatusCode::OK, &[("success", "false"), ("batchStatus", ""), ("message", says)]))
        }
        answer => answer,
    }
}

async fn take(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
    version: BatchVersion,
    dry_run: bool,
) -> Result<Answer, HttpError> {
    let empty_values = empty_values(&request.query().strict()?)?;
    let key = idempotency_key(request)?;
    let base_url = request.base_url(&front.app)?;
    let url = format!("{base_url}{}", request.path());
    let right = || {
        format!(
            "send the batch file itself, curl -X POST --data-binary @BATCH.TXT {url}, or compressed with gzip or zstd, \
             curl -X POST -H \"Content-Encoding: gzip\" --data-binary @BATCH.TXT.gz {url}"
        )
    };
    let upload = take_in(front, request, client, version, empty_values, &MEDIA_TYPES, &right).await?;
    if dry_run {
        return told(request, upload.try_out().await?);
    }
    let AcceptedBatch { batch, before } = upload.finish(key).await?;

    let status_url = format!("{base_url}/m2/{client}/profile/batchStatus?batchId={}", batch.id);
    let mut answer = xml(
        StatusCode::OK,
        &[("success", "true"), ("batchStatus", &status_url), ("message", "Batch submitted for processing")],
    );
    answer.headers_mut().insert(SEQ_HEADER, HeaderValue::from(batch.id.seq.get()));
    if before {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(answer)
}

/// What a dry run came to: in sum as JSON, or each row's outcome where the request accepts CSV or NDJSON.
fn told(request: &Request, dry_run: DryRun) -> Result<Answer, HttpError> {
    let accepted = request.header_text(&ACCEPT).unwrap_or_default();
    if accepted.contains("text/csv") || accepted.contains("ndjson") {
        return Ok(outcomes::told(request, dry_run.report, Form::of(request), None, None));
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
            attributes: attributes.collect(),
            failed: dry_run.failed.iter().map(Row::of).collect(),
            remarks: dry_run.remarks.told().map(RemarkTold::of).collect(),
        },
    )
}

/// What a batch would come to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct TriedOut<'a> {
    dry_run: bool,
    rows: u64,
    bytes: u64,
    outcomes: Outcomes,
    /// By attribute of the header, how many visitors' values would change.
    attributes: BTreeMap<&'a str, Changes>,
    /// The first rows that would fail.
    failed: Vec<Row<'a>>,
    /// What is taken and was perhaps not meant, or is read otherwise by Adobe.
    remarks: Vec<RemarkTold<'a>>,
}

/// What was remarked of some lines.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct RemarkTold<'a> {
    /// A word for programs.
    remark: &'static str,
    /// On how many lines.
    count: u64,
    /// The first of them.
    lines: &'a [u32],
    /// What it is, and what to write instead.
    message: String,
}

impl<'a> RemarkTold<'a> {
    fn of((remark, remarked, message): (Remark, &'a Remarked, String)) -> Self {
        Self { remark: remark.name(), count: remarked.count, lines: &remarked.lines, message }
    }
}

/// How many visitors' values of an attribute would change, and how.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Changes {
    set: u64,
    changed: u64,
    unchanged: u64,
    removed: u64,
}
