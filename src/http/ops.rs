//! Whether the process runs, whether it serves, and what it has counted.

use hyper::StatusCode;

use super::Front;
use super::error::HttpError;
use super::response::{Answer, counted, text};
use crate::app::Readiness;
use crate::model::id::ClientCode;

/// `GET /healthz`: the process runs.
pub(super) fn healthz() -> Answer {
    text(StatusCode::OK, "ok\n")
}

/// `GET /readyz`: it serves, or 503 with the reason.
pub(super) fn readyz(front: &Front) -> Result<Answer, HttpError> {
    match front.app.readiness() {
        Readiness::Ready => Ok(text(StatusCode::OK, "ready\n")),
        Readiness::NotReady(reason) => Err(HttpError::NotReady(reason)),
    }
}

/// `GET /metrics`: what was counted, of clients those that the caller `may_see`; `None` is several at once.
pub(super) fn metrics(
    front: &Front,
    may_see: impl Fn(Option<&ClientCode>) -> bool,
) -> Result<Answer, HttpError> {
    let text = front.app.metrics().render(may_see);
    Ok(counted(text.map_err(|e| HttpError::Inside(format!("the metrics: {e}")))?))
}
