//! `POST /m2/{client}/profile/batchUpdate` (v1) and `/m2/{client}/v2/profile/batchUpdate` (v2): accepts a batch file.
//!
//! The body goes to the engine as it arrives. Nothing here holds more than one piece of it.

use hyper::StatusCode;

use crate::engine::gates::Scarce;
use crate::engine::{AcceptedBatch, BatchVersion, EngineError};
use crate::http::auth::Access;
use crate::http::batch_file::{
    self, BatchCall, MEDIA_TYPES, as_of, empty_values, sending, take_in, tell_replayed,
};
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{Operation, form};
use crate::http::request::Request;
use crate::http::response::{Answer, Door, XML, xml};
use crate::http::{Front, seq, shapes, tried_out};
use crate::model::batch::RowForm;
use crate::model::id::ClientCode;
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/m2/{client}/profile/batchUpdate",
        name: "batchUpdate_v1",
        api: Api::Profile(Door::Batch),
        access: Access::Of(Scope::Batch),
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call, BatchVersion::V1)),
        describe: Some(|operation| {
            describe(operation.id("batchUpdateV1").summary("Accepts a batch file (v1)."))
        }),
    },
    Endpoint {
        methods: Methods::Post,
        path: "/m2/{client}/v2/profile/batchUpdate",
        name: "batchUpdate_v2",
        api: Api::Profile(Door::Batch),
        access: Access::Of(Scope::Batch),
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call, BatchVersion::V2)),
        describe: Some(|operation| {
            describe(operation.id("batchUpdate").summary("Accepts a batch file (v2)."))
        }),
    },
];

const LIMITS: CallLimits = CallLimits {
    body: BodyLimit::BatchFile,
    rate: RateLimit::BatchCalls,
    scarce: &[Scarce::Uploads, Scarce::DryRuns],
};

fn describe(operation: Operation) -> Operation {
    batch_file::options(operation)
        .body(batch_file::forms())
        .answers(
            "200",
            "The batch is durable and readable; batchStatus is the URL that says how far it is. A dry run returns what would \
             become of the rows: the counts in JSON, or every row in the form that Accept names. With batch_reading = \
             \"adobe\" also what Adobe refuses with a 200: success is false, batchStatus empty.",
            [form(XML, shapes::text())].into_iter().chain(tried_out::forms()),
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
            request.note(|notes| notes.refused(says));
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
    let sending = sending(request, &query)?;
    let base_url = request.base_url(&front.app)?;
    let url = format!("{base_url}{}", request.path());
    let right = || {
        format!(
            "send the batch file itself, curl -X POST --data-binary @BATCH.TXT {url}, or compressed with gzip, zstd or deflate, \
             curl -X POST -H \"Content-Encoding: gzip\" --data-binary @BATCH.TXT.gz {url}"
        )
    };
    let call = BatchCall { version, empty_values, as_of, for_all: !dry_run, rows: RowForm::Csv };
    let upload = take_in(front, request, client, call, &MEDIA_TYPES, &right).await?;
    if dry_run {
        let tried = upload.try_out().await?;
        request.note(|notes| notes.tried_out(&tried.counts, tried.rows, tried.bytes));
        return tried_out::answer(request, tried);
    }
    let AcceptedBatch { batch, before } = upload.finish(sending).await?;
    request.note(|notes| notes.accepted(&batch.id, before, batch.rows, batch.bytes));

    let status_url = format!("{base_url}/m2/{client}/profile/batchStatus?batchId={}", batch.id);
    let mut answer = xml(
        StatusCode::OK,
        &[("success", "true"), ("batchStatus", &status_url), ("message", "Batch submitted for processing")],
    );
    seq::tell(&mut answer, Some(batch.id.seq));
    tell_replayed(&mut answer, before);
    Ok(answer)
}
