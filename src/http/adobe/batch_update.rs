//! `POST /m2/{client}/profile/batchUpdate` (v1) and `/m2/{client}/v2/profile/batchUpdate` (v2): a batch file.
//!
//! The body goes to the daemon as it arrives; nothing here holds more of it than one piece.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::app::{Announced, BatchVersion};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request};
use crate::http::response::{Answer, xml};
use crate::model::batch::EmptyValues;
use crate::model::id::ClientCode;

/// The media types under which a batch file may come: Adobe documents the first, and curl sends it by itself.
const MEDIA_TYPES: [&str; 4] =
    ["application/x-www-form-urlencoded", "text/csv", "text/plain", "application/octet-stream"];
/// The encodings in which a batch file may come.
const ENCODINGS: &str = "gzip, zstd";
/// The answer's header that bears the batch's place in the order.
const SEQ_HEADER: HeaderName = HeaderName::from_static("profiled-seq");

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
    version: BatchVersion,
) -> Result<Answer, HttpError> {
    front.count_batch_call(client)?;
    let empty_values = empty_values(&request.query().strict()?)?;
    let base_url = request.base_url(&front.app)?;
    let right = || {
        let url = format!("{base_url}{}", request.path());
        format!(
            "send the batch file itself, curl -X POST --data-binary @BATCH.TXT {url}, or compressed with gzip or zstd, \
             curl -X POST -H \"Content-Encoding: gzip\" --data-binary @BATCH.TXT.gz {url}"
        )
    };
    request.check_content_type(&MEDIA_TYPES, right)?;
    let encoding = request.content_encoding(Some(ENCODINGS), right)?;
    let announced = Announced { encoding, bytes: request.content_length() };

    // What can be refused is refused before the body is asked for: a client that expects a `100 Continue` sends none.
    let mut upload = front.app.accept_batch(client, version, empty_values, announced).await?;
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
