//! Our own calls, in JSON, under `/api/v1`.

pub(super) mod batches;
pub(super) mod events;
pub(super) mod export;
pub(super) mod outcomes;
pub(super) mod profiles;
pub(super) mod statistics;
pub(super) mod upkeep;
