//! `POST /m2/{client}/profile/batchUpdate` (v1) and `/m2/{client}/v2/profile/batchUpdate` (v2): a batch file.
//!
//! The body goes to the daemon as it arrives; nothing here holds more of it than one piece.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::app::BatchVersion;
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request, client};
use crate::http::response::{Answer, xml};
use crate::model::batch::EmptyValues;

/// The media types under which a batch file may come: Adobe documents the first, and curl sends it by itself.
const MEDIA_TYPES: [&str; 4] =
    ["application/x-www-form-urlencoded", "text/csv", "text/plain", "application/octet-stream"];
/// The answer's header that bears the batch's place in the order.
const SEQ_HEADER: HeaderName = HeaderName::from_static("profiled-seq");

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    code: &str,
    version: BatchVersion,
) -> Result<Answer, HttpError> {
    let client = client(code)?;
    front.count_batch_call(&client)?;
    let empty_values = empty_values(&request.query().strict()?)?;
    let base_url = request.base_url(&front.app)?;
    request.check_media_type(&MEDIA_TYPES, || {
        let url = format!("{base_url}{}", request.path());
        format!("send the batch file itself, uncompressed: curl -X POST --data-binary @BATCH.TXT {url}")
    })?;
    let limit = front.batch_bytes_limit;
    if let Some(length) = request.content_length().filter(|length| *length >= limit) {
        return Err(HttpError::TooLarge(format!(
            "the batch file has {length} bytes: it must have fewer than {limit}; split it"
        )));
    }

    let mut upload = front.app.accept_batch(&client, version, empty_values).await?;
    while let Some(bytes) = request.body.next().await? {
        upload.push(bytes).await?;
    }
    let batch = upload.finish().await?;

    let status_url = format!("{base_url}/m2/{client}/profile/batchStatus?batchId={}", batch.id);
    let mut answer = xml(
        StatusCode::OK,
        &[("success", "true"), ("batchStatus", &status_url), ("message", "Batch submitted for processing")],
    );
    answer.headers_mut().insert(SEQ_HEADER, HeaderValue::from(batch.id.seq.get()));
    Ok(answer)
}

fn empty_values(query: &Params) -> Result<EmptyValues, HttpError> {
    match query.get("emptyValues") {
        None | Some("ignore") => Ok(EmptyValues::Ignore),
        Some("remove") => Ok(EmptyValues::Remove),
        Some(other) => {
            Err(HttpError::Wrong(format!("emptyValues={other} is not known: it is remove, or ignore")))
        }
    }
}
