//! `GET /m2/{client}/[v2/]profile/batchStatus?batchId=…[&showDetails=true]`: says how far a batch is. With details it also lists the
//! rows of a complete batch that failed, in Adobe's form ("Profile Batch Status API v2 changes", May 2020). They come after all
//! fields of the batch, because clients take the first `<status>` for the batch's. A row whose id cannot be read has an empty id,
//! and its line. The rows are read as a report is, so few calls read them at once. If they cannot be read, the status comes
//! without them.

use hyper::StatusCode;

use crate::engine::gates::Scarce;
use crate::engine::read::report::ReportedRow;
use crate::engine::{BatchState, BatchStatus};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::form;
use crate::http::response::{Answer, Door, XML, element, xml_with};
use crate::http::shapes;
use crate::model::batch::{BatchId, Outcome};

/// How many failed rows are listed.
const FAILED_LISTED_MAX: usize = 1_000;

pub(super) const ENDPOINTS: &[Endpoint] =
    &[endpoint("/m2/{client}/profile/batchStatus"), endpoint("/m2/{client}/v2/profile/batchStatus")];

const fn endpoint(path: &'static str) -> Endpoint {
    Endpoint {
        methods: Methods::Read,
        path,
        name: "batchStatus",
        api: Api::Profile(Door::Batch),
        access: Access::Any,
        client: Whose::InPath,
        limits: CallLimits { scarce: &[Scarce::Reports], ..CallLimits::NONE },
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| {
            operation
                .summary("Says how far a batch is.")
                .query("batchId", true, shapes::batch_id(), "The batch.")
                .query(
                    "showDetails",
                    false,
                    shapes::text(),
                    "true: adds the counts and, once the batch is complete, the first 1,000 rows that failed, each as \
                     <profile><id>…</id><status>failed</status></profile>, and a note on how to get all.",
                )
                .answers("200", "How far the batch is.", [form(XML, shapes::text())])
        }),
    }
}

async fn answer(call: Call<'_>) -> Reply {
    let (client, query) = (call.client()?, call.query()?);
    let Call { front, request, .. } = call;
    let text = query.get("batchId").ok_or_else(|| {
        HttpError::Wrong("batchId= is missing: batchUpdate's answer has the whole URL".into())
    })?;
    let id = BatchId::parse(text).filter(|id| id.client == *client);
    if let Some(id) = &id {
        // Clients poll through a load balancer, so another node may have accepted it a moment ago.
        front.app.wait_for_batch(id).await;
    }
    let batch = id.and_then(|id| front.app.reported_batch(&id));
    let batch = batch.ok_or_else(|| {
        HttpError::NotFound(format!(
            "client {client} has no batch {text}: it was never accepted, or is no longer kept"
        ))
    })?;
    let details = query.get("showDetails") == Some("true");
    let mut failed = Failed::default();
    if details && batch.state == BatchState::Complete && batch.counts.failed > 0 {
        let who = request.who(Some(client));
        let page =
            front.app.outcome_page(&who, &batch.id, Some(Outcome::Failed), None, FAILED_LISTED_MAX).await;
        let url = format!("/api/v1/batches/{}/outcomes?outcome=failed", batch.id);
        failed = match page {
            Ok(page) => Failed {
                note: page.next.is_some().then(|| {
                    let (listed, all) = (page.rows.len(), batch.counts.failed);
                    format!(
                        "the first {listed} of {all} rows that failed; all of them, with the reasons: GET {url}"
                    )
                }),
                rows: page.rows,
            },
            Err(error) => {
                let why = HttpError::Engine(error);
                tracing::debug!(batch = %batch.id, log = why.log(), %why, "the failed rows could not be listed");
                Failed {
                    rows: vec![],
                    note: Some(format!("the rows that failed cannot be listed now: {why}; GET {url}")),
                }
            }
        };
    }
    Ok(encode(&batch, details, &failed))
}

/// The failed rows that are listed.
#[derive(Default)]
struct Failed {
    rows: Vec<ReportedRow>,
    note: Option<String>,
}

fn encode(batch: &BatchStatus, details: bool, failed: &Failed) -> Answer {
    let status = batch.state.as_str();
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
    let mut rest = String::new();
    for row in &failed.rows {
        rest.push_str("<profile>");
        element(&mut rest, "id", row.id.as_deref().unwrap_or_default());
        if row.id.is_none() {
            element(&mut rest, "line", &row.place.line.to_string());
        }
        rest.push_str("<status>failed</status></profile>");
    }
    if let Some(note) = &failed.note {
        element(&mut rest, "note", note);
    }
    xml_with(StatusCode::OK, &elements, &rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BatchVersion;
    use crate::model::author::Author;
    use crate::model::batch::{Counts, RowForm};

    #[test]
    fn details_follow_in_adobes_order_and_end_with_our_own() {
        let batch = BatchStatus {
            id: BatchId::parse("demo-1701473848678-10000007").unwrap(),
            version: BatchVersion::V2,
            form: RowForm::Csv,
            as_of: None,
            state: BatchState::Complete,
            rows: 15,
            bytes: 0,
            counts: Counts { updated: 1, created: 2, not_found: 3, ignored: 4, failed: 5 },
            completed: None,
            rows_per_second: None,
            estimated_end: None,
            reason: None,
            name: None,
            by: Author::default(),
            undoes: None,
            new_attributes: Default::default(),
        };
        let body = |details| format!("{:?}", encode(&batch, details, &Failed::default()).into_body());
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
