//! `POST /api/v1/compact` and `/api/v1/backup`: what is done for the data folder while the daemon serves.
//!
//! Both take JSON, and say so in `Content-Type`: a page of another origin may not send that unasked.

use std::path::PathBuf;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::Done;
use crate::http::Front;
use crate::http::auth::Bearer;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::response::{Answer, json};

const BODY_BYTES_MAX: usize = 16 << 10;

/// What a compaction is asked for: nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Where a backup is to go, on the daemon's own machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Where {
    folder: PathBuf,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct Compacted {
    store_bytes_before: u64,
    store_bytes: u64,
    live_bytes: u64,
    ids_erased: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct BackedUp {
    values: u64,
    seq: String,
    /// These are in it as they are: what waits for them is held in what is restored, too.
    damaged_uploads: u64,
}

/// Makes a fresh store.
pub(in crate::http) async fn compact(
    front: &Front,
    request: &mut Request,
    bearer: &Bearer,
) -> Result<Answer, HttpError> {
    let Nothing {} = body(request, "{}").await?;
    let Done { store_bytes: (before, after), live_bytes, erased, .. } =
        front.app.compact(&request.who(None)).await?;
    front.app.note_act(bearer.actor(request), "compact", None, &format!("{erased} ids erased")).await;
    let done = Compacted { store_bytes_before: before, store_bytes: after, live_bytes, ids_erased: erased };
    json(StatusCode::OK, &done)
}

/// Writes a backup.
pub(in crate::http) async fn backup(
    front: &Front,
    request: &mut Request,
    bearer: &Bearer,
) -> Result<Answer, HttpError> {
    let Where { folder } = body(request, "{\"folder\": \"/an/absolute/path\"}").await?;
    let what = folder.display().to_string();
    let done = front.app.backup(&request.who(None), folder).await?;
    front.app.note_act(bearer.actor(request), "backup", None, &what).await;
    let Done { values, seq, damaged_uploads, .. } = done;
    json(StatusCode::OK, &BackedUp { values, seq: seq.to_string(), damaged_uploads })
}

async fn body<T: for<'d> Deserialize<'d>>(request: &mut Request, right: &str) -> Result<T, HttpError> {
    let media_type = request.media_type()?.to_owned();
    let wrong =
        |why: String| HttpError::Wrong(format!("{why}: send {right} with Content-Type: application/json"));
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(wrong(format!("the body is said to be {media_type:?}")));
    }
    let bytes = request.body.collect(BODY_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(format!("the body is not right, {error}")))
}
