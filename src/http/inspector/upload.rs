//! `/upload`: a page to drop a batch file on, and the call behind it. A file is tried out first. If the person agrees, the page's
//! script sends it again, and then it is accepted.
//!
//! The inspector has this call of its own because its token is in a cookie that no script can read and no other call takes.

use askama::Template;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};

use super::batches::{Failed, remarked};
use super::clients::Choice;
use super::page::{Frame, render};
use super::plot::Bar;
use super::refusal::PAGES;
use super::words::{self, grouped, size};
use crate::batch::known_names::NewAttribute;
use crate::engine::BatchVersion;
use crate::engine::gates::Scarce;
use crate::engine::ingest::dry_run::{Diff, DryRun};
use crate::http::auth::Access;
use crate::http::batch_file::{BatchCall, as_of, empty_values, sending, take_in};
use crate::http::endpoint::{BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::request::Params;
use crate::http::response::no_content;
use crate::model::batch::RowForm;
use crate::tokens::Scope;

/// What may come of a visitor's value, as the report names it.
const CHANGES: [&str; 4] = ["set", "changed", "the same", "removed"];
const MEDIA_TYPES: [&str; 1] = ["text/csv"];

#[derive(Template)]
#[template(path = "upload.html")]
struct Upload {
    frame: Frame,
    choice: Option<Choice>,
}

/// What a file would come to: a piece of the page.
#[derive(Template)]
#[template(path = "trial.html")]
struct Trial {
    rows: String,
    bytes: String,
    bar: Bar,
    /// How many rows leave something alone, if any do.
    newer: Option<String>,
    attributes: Vec<(String, Vec<(&'static str, String)>)>,
    failed: Option<Failed>,
    failed_count: String,
    remarks: Vec<String>,
}

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/upload",
        name: "inspector_upload",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfPage,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(answer(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Post,
        path: "/upload",
        name: "inspector_upload",
        api: PAGES,
        access: Access::Of(Scope::Batch),
        client: Whose::OfPage,
        limits: CallLimits {
            body: BodyLimit::BatchFile,
            rate: RateLimit::BatchCalls,
            scarce: &[Scarce::Uploads, Scarce::DryRuns],
        },
        handler: |call| Box::pin(send(call)),
        describe: None,
    },
];

/// The page.
async fn answer(call: Call<'_>) -> Reply {
    let choice = Choice::of(&call, "/upload").await?;
    let frame = Frame::of(call.front, call.request, call.client, "Upload");
    render(StatusCode::OK, &Upload { frame, choice })
}

/// Takes a file, or tries it out.
async fn send(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let Call { front, request, client, .. } = call;
    let client = client.ok_or_else(|| HttpError::Wrong("client= is missing: name the client".into()))?;
    let (version, empty_values, dry_run) = (version(&query)?, empty_values(&query)?, query.switch("dryRun")?);
    let (sending, as_of) = (sending(request, &query)?, as_of(request, &query)?);
    let right = || "send the file itself as text/csv, or compressed with gzip, zstd or deflate".to_owned();
    let call = BatchCall { version, empty_values, as_of, for_all: !dry_run, rows: RowForm::Csv };
    let upload = take_in(front, request, client, call, &MEDIA_TYPES, right).await?;
    if dry_run {
        let tried = upload.try_out().await?;
        request.note(|notes| notes.tried_out(&tried.counts, tried.rows, tried.bytes));
        return render(StatusCode::OK, &Trial::of(tried));
    }
    let accepted = upload.finish(sending).await?;
    let batch = &accepted.batch;
    request.note(|notes| notes.accepted(&batch.id, accepted.before, batch.rows, batch.bytes));
    // The script goes there by itself: a redirect would be followed without it.
    let mut answer = no_content();
    *answer.status_mut() = StatusCode::CREATED;
    let page = HeaderValue::try_from(format!("/batches/{}", accepted.batch.id));
    answer.headers_mut().insert(LOCATION, page.map_err(|error| HttpError::Inside(error.to_string()))?);
    Ok(answer)
}

fn version(query: &Params) -> Result<BatchVersion, HttpError> {
    match query.get("version") {
        None | Some("v2") => Ok(BatchVersion::V2),
        Some("v1") => Ok(BatchVersion::V1),
        Some(other) => Err(HttpError::Wrong(format!("version={other} is not known: it is v1 or v2"))),
    }
}

impl Trial {
    fn of(dry_run: DryRun) -> Self {
        let DryRun { rows, bytes, counts, newer, attributes, new_attributes, failed, remarks, .. } = dry_run;
        let new = new_attributes.iter().map(NewAttribute::in_words);
        let changes = |Diff { set, changed, unchanged, removed }| {
            CHANGES.into_iter().zip([set, changed, unchanged, removed].map(grouped)).collect()
        };
        Self {
            rows: words::rows(rows),
            bytes: size(bytes),
            bar: Bar::of(&counts, rows),
            newer: (newer > 0).then(|| grouped(newer)),
            attributes: attributes.into_iter().map(|(name, diff)| (name, changes(diff))).collect(),
            failed: (counts.failed > 0).then(|| Failed::of(failed, counts.failed)),
            failed_count: words::rows(counts.failed),
            remarks: new.chain(remarked(&remarks)).collect(),
        }
    }
}
