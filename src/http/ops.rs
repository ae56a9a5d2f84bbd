//! The calls of operations: health, readiness and metrics.

use hyper::StatusCode;

use super::auth::Access;
use super::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use super::error::HttpError;
use super::operation::form;
use super::response::{Answer, TEXT, counted, text};
use super::{Front, shapes};
use crate::engine::Readiness;
use crate::telemetry::metrics::MEDIA_TYPE;
use crate::telemetry::process::ProcessVitals;

/// The path of [`healthz`], which is answered also while the daemon is still opening its folder.
pub(super) const HEALTHZ: &str = "/healthz";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: HEALTHZ,
        name: "healthz",
        api: Api::Native,
        access: Access::Open,
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { healthz(call.front) }),
        describe: Some(|operation| {
            operation.summary("Says whether the process works.").answers(
                "200",
                "It works.",
                [form(TEXT, shapes::text())],
            )
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/readyz",
        name: "readyz",
        api: Api::Native,
        access: Access::Open,
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { readyz(call.front) }),
        describe: Some(|operation| {
            operation.summary("Says whether the daemon answers calls.").answers(
                "200",
                "It answers them.",
                [form(TEXT, shapes::text())],
            )
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/metrics",
        name: "metrics",
        api: Api::Native,
        access: Access::OpenInPart,
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { metrics(&call).await }),
        describe: Some(|operation| {
            operation.summary("Returns the metrics.").answers(
                "200",
                "The metrics, as OpenMetrics.",
                [form(MEDIA_TYPE, shapes::text())],
            )
        }),
    },
];

/// `GET /healthz`: 200 while the process works: it has not failed, and the threads that write the journal and apply batches
/// move. Also while it opens its folder, stops, or its disk is full. Else 503 with the reason: only a restart helps.
fn healthz(front: &Front) -> Reply {
    front.app.ailment().map_or_else(|| Ok(healthz_while_opening()), |why| Err(HttpError::NotReady(why)))
}

/// The same answer while the process is still opening its folder.
pub(super) fn healthz_while_opening() -> Answer {
    text(StatusCode::OK, "ok\n")
}

/// `GET /readyz`: 200 while the daemon answers calls, with what an operator should know. Else 503 with the reason.
fn readyz(front: &Front) -> Reply {
    match front.app.readiness() {
        Readiness::Ready => {
            let lines = ["ready".to_owned()].into_iter().chain(front.app.remarks());
            Ok(text(StatusCode::OK, lines.map(|line| line + "\n").collect::<String>()))
        }
        Readiness::NotReady(reason) => Err(HttpError::NotReady(reason)),
    }
}

/// `GET /metrics`: all metrics; of the clients those that the caller may see.
async fn metrics(call: &Call<'_>) -> Reply {
    let app = &call.front.app;
    let now = app.now();
    let process = tokio::task::spawn_blocking(move || ProcessVitals::read(now)).await;
    let mut vitals = app.vitals();
    vitals.process = process.ok().and_then(Result::ok);
    vitals.certificate_expires = call.front.certificate_expires();
    if let (Some(order), Some(members)) = (&mut vitals.order, &call.front.members) {
        members.add_to(order);
    }
    let text = app.metrics().render(&vitals, |client| call.bearer.sees(client));
    Ok(counted(text.map_err(|e| HttpError::Inside(format!("the metrics: {e}")))?))
}
