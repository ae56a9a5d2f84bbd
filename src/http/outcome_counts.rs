//! How many rows have each outcome, in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::batch::Counts;

/// Rows so far, by outcome.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Outcomes {
    updated: u64,
    created: u64,
    not_found: u64,
    ignored: u64,
    failed: u64,
}

impl Outcomes {
    pub(super) fn of(counts: &Counts) -> Self {
        let Counts { updated, created, not_found, ignored, failed } = *counts;
        Self { updated, created, not_found, ignored, failed }
    }
}
