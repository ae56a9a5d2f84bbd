//! `GET /m2/{client}/[v2/]profile/batchStatus?batchId=…[&showDetails=true]`: how far a batch is.

use hyper::StatusCode;

use crate::app::{BatchState, BatchStatus};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::response::{Answer, xml};
use crate::model::batch::BatchId;
use crate::model::id::ClientCode;

pub(in crate::http) fn answer(
    front: &Front,
    request: &Request,
    client: &ClientCode,
) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    let text = query.get("batchId").ok_or_else(|| {
        HttpError::Wrong("batchId= is missing: batchUpdate's answer has the whole URL".into())
    })?;
    let batch =
        BatchId::parse(text).filter(|id| id.client == *client).and_then(|id| front.app.batch_told(&id));
    let batch = batch.ok_or_else(|| {
        HttpError::NotFound(format!(
            "client {client} has no batch {text}: it was never accepted, or is no longer kept"
        ))
    })?;
    Ok(encode(&batch, query.get("showDetails") == Some("true")))
}

fn encode(batch: &BatchStatus, details: bool) -> Answer {
    let status = match batch.state {
        BatchState::Incomplete => "incomplete",
        BatchState::Complete => "complete",
        BatchState::Stuck => "stuck",
    };
    let (id, size) = (batch.id.to_string(), batch.rows.to_string());
    let counts = &batch.counts;
    let details = details.then(|| {
        [
            ("consumedCount", counts.total()),
            ("successfulUpdates", counts.updated + counts.created),
            ("profilesNotFound", counts.not_found),
            ("failedUpdates", counts.failed),
            ("ignoredUpdates", counts.ignored),
        ]
        .map(|(name, count)| (name, count.to_string()))
    });
    let mut elements = vec![("batchId", id.as_str()), ("status", status), ("batchSize", size.as_str())];
    elements.extend(details.iter().flatten().map(|(name, count)| (*name, count.as_str())));
    xml(StatusCode::OK, &elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::BatchVersion;
    use crate::model::batch::Counts;

    #[test]
    fn details_follow_in_adobes_order_and_end_with_our_own() {
        let batch = BatchStatus {
            id: BatchId::parse("demo-1701473848678-10000007").unwrap(),
            version: BatchVersion::V2,
            state: BatchState::Complete,
            rows: 15,
            bytes: 0,
            counts: Counts { updated: 1, created: 2, not_found: 3, ignored: 4, failed: 5 },
            completed: None,
            rows_per_second: None,
            estimated_end: None,
            reason: None,
        };
        let body = |details| format!("{:?}", encode(&batch, details).into_body());
        assert!(body(false).contains(
            "<response><batchId>demo-1701473848678-10000007</batchId><status>complete</status>\
             <batchSize>15</batchSize></response>"
        ));
        assert!(body(true).contains(
            "<batchSize>15</batchSize><consumedCount>15</consumedCount><successfulUpdates>3</successfulUpdates>\
             <profilesNotFound>3</profilesNotFound><failedUpdates>5</failedUpdates>\
             <ignoredUpdates>4</ignoredUpdates></response>"
        ));
    }
}
