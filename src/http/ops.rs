//! Whether the process runs, whether it serves, and what it has counted.

use hyper::StatusCode;

use super::Front;
use super::error::HttpError;
use super::response::{Answer, counted, text};
use crate::engine::Readiness;
use crate::model::id::ClientCode;

/// `GET /healthz`: the process is of use: it has not failed, and the threads that write the journal and fold batches move.
/// Else 503 with the reason: only a new start helps. It is also of use while it opens its folder, stops, or is full.
pub(super) fn healthz(front: &Front) -> Result<Answer, HttpError> {
    front.app.ailment().map_or_else(|| Ok(healthz_while_opening()), |why| Err(HttpError::NotReady(why)))
}

/// The same, of a process that is still opening its folder.
pub(super) fn healthz_while_opening() -> Answer {
    text(StatusCode::OK, "ok\n")
}

/// `GET /readyz`: it serves, with what an operator should know all the same; or 503 with the reason.
pub(super) fn readyz(front: &Front) -> Result<Answer, HttpError> {
    match front.app.readiness() {
        Readiness::Ready => {
            let lines = ["ready".to_owned()].into_iter().chain(front.app.remarks());
            Ok(text(StatusCode::OK, lines.map(|line| line + "\n").collect::<String>()))
        }
        Readiness::NotReady(reason) => Err(HttpError::NotReady(reason)),
    }
}

/// `GET /metrics`: what was counted, of clients those that the caller `may_see`; `None` is several at once.
pub(super) fn metrics(
    front: &Front,
    may_see: impl Fn(Option<&ClientCode>) -> bool,
) -> Result<Answer, HttpError> {
    let text = front.app.metrics().render(&front.app.vitals(), may_see);
    Ok(counted(text.map_err(|e| HttpError::Inside(format!("the metrics: {e}")))?))
}
