//! Whether the process runs, and whether it serves.

use hyper::StatusCode;

use super::Front;
use super::error::HttpError;
use super::response::{Answer, text};
use crate::app::Readiness;

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
