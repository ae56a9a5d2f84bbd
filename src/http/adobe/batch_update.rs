//! `POST /m2/{client}/profile/batchUpdate` (v1) and `/m2/{client}/v2/profile/batchUpdate` (v2): accepts a batch file.
//!
//! The body goes to the engine as it arrives. Nothing here holds more than one piece of it.

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use crate::batch::remarks::{Remark, Remarked};
use crate::engine::gates::Scarce;
use crate::engine::ingest::dry_run::{Diff, DryRun};
use crate::engine::{AcceptedBatch, BatchVersion, EngineError};
use crate::http::auth::Access;
use crate::http::batch_file::{self, BatchCall, MEDIA_TYPES, as_of, empty_values, idempotency_key, take_in};
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{Operation, form, form_of};
use crate::http::outcomes::{self, Outcomes, ReportForm, Row};
use crate::http::request::Request;
use crate::http::response::{Answer, CSV, Door, JSON, NDJSON, XML, json, xml};
use crate::http::{Front, seq, shapes};
use crate::model::id::ClientCode;
use crate::tokens::Scope;

/// The answer's header that says that the batch was accepted when it was sent before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/m2/{client}/profile/batchUpdate",
        name: "batchUpdate v1",
        api: Api::Profile(Door::Batch),
        access: Access::Of(Scope::Batch),
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call, BatchVersion::V1)),
        describe: Some(|operation| describe(operation.summary("Accepts a batch file (v1)."))),
    },
    Endpoint {
        methods: Methods::Post,
        path: "/m2/{client}/v2/profile/batchUpdate",
        name: "batchUpdate v2",
        api: Api::Profile(Door::Batch),
        access: Access::Of(Scope::Batch),
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call, BatchVersion::V2)),
        describe: Some(|operation| describe(operation.summary("Accepts a batch file (v2)."))),
    },
];

const LIMITS: CallLimits = CallLimits {
    body: BodyLimit::BatchFile,
    rate: RateLimit::BatchCalls,
    scarce: &[Scarce::Uploads, Scarce::DryRuns],
};

fn describe(operation: Operation) -> Operation {
    operation
        .switch("dryRun", "true: only says what would become of the rows. Nothing is written.")
        .query(
            "emptyValues",
            false,
            shapes::one_of(&["ignore", "remove"]),
            "remove: an empty value removes the attribute.",
        )
        .query(
            "asOf",
            false,
            shapes::time(),
            "The time that the values are of: RFC 3339, or milliseconds since 1970. What was written later is left alone.",
        )
        .header("Profiled-As-Of", shapes::time(), "The same as asOf.")
        .header(
            "Idempotency-Key",
            shapes::pattern("^[!-~]{1,255}$"),
            "If the same key comes with the same body within 24 hours, the first answer is given again, and no second batch is made.",
        )
        .body(batch_file::forms())
        .answers(
            "200",
            "The batch is durable and readable; batchStatus is the URL that says how far it is. A dry run returns what would \
             become of the rows: the counts in JSON, or every row in the form that Accept names. With batch_reading = \
             \"adobe\" also what Adobe refuses with a 200: success is false, batchStatus empty.",
            [
                form(XML, shapes::text()),
                form_of::<TriedOut<'_>>(JSON),
                form(CSV, shapes::text()),
                form_of::<Row<'_>>(NDJSON),
            ],
        )
        .bears("200", "Profiled-Seq", "The batch's place in the order of all writes.")
        .bears("200", "Idempotency-Replayed", "true: the batch was accepted when it was first sent.")
        .bears("200", "Content-Disposition", "The file name for the rows of a dry run.")
}

async fn answer(call: Call<'_>, version: BatchVersion) -> Reply {
    let client = call.client()?;
    let dry_run = call.query()?.switch("dryRun")?;
    let Call { front, request, .. } = call;
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
    let query = request.query().strict()?;
    let (empty_values, as_of) = (empty_values(&query)?, as_of(request, &query)?);
    let key = idempotency_key(request)?;
    let base_url = request.base_url(&front.app)?;
    let url = format!("{base_url}{}", request.path());
    let right = || {
        format!(
            "send the batch file itself, curl -X POST --data-binary @BATCH.TXT {url}, or compressed with gzip or zstd, \
             curl -X POST -H \"Content-Encoding: gzip\" --data-binary @BATCH.TXT.gz {url}"
        )
    };
    let call = BatchCall { version, empty_values, as_of, for_all: !dry_run };
    let upload = take_in(front, request, client, call, &MEDIA_TYPES, &right).await?;
    if dry_run {
        return trial(request, upload.try_out().await?);
    }
    let AcceptedBatch { batch, before } = upload.finish(key).await?;

    let status_url = format!("{base_url}/m2/{client}/profile/batchStatus?batchId={}", batch.id);
    let mut answer = xml(
        StatusCode::OK,
        &[("success", "true"), ("batchStatus", &status_url), ("message", "Batch submitted for processing")],
    );
    seq::tell(&mut answer, Some(batch.id.seq));
    if before {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(answer)
}

/// The result of a dry run: a summary as JSON, or each row's outcome if the request accepts CSV or NDJSON.
fn trial(request: &Request, dry_run: DryRun) -> Result<Answer, HttpError> {
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
            failed: dry_run.failed.iter().map(Row::of).collect(),
            remarks: dry_run.remarks.reported().map(RemarkBody::of).collect(),
        },
    )
}

/// What a batch would do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TriedOut<'a> {
    dry_run: bool,
    rows: u64,
    bytes: u64,
    outcomes: Outcomes,
    /// How many rows would leave something alone, because it was written later than asOf.
    newer: u64,
    /// For each attribute of the header, how many visitors' values would change.
    attributes: BTreeMap<&'a str, Changes>,
    /// The first rows that would fail.
    failed: Vec<Row<'a>>,
    /// What is accepted and was perhaps not meant, or is read differently by Adobe.
    remarks: Vec<RemarkBody<'a>>,
}

/// A remark on some lines.
#[derive(Serialize, ToSchema)]
#[schema(as = Remark)]
pub(super) struct RemarkBody<'a> {
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
pub(super) struct Changes {
    set: u64,
    changed: u64,
    unchanged: u64,
    removed: u64,
}
