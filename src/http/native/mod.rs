//! Our own calls, in JSON, under `/api/v1`.

mod batches;
mod changes;
mod clients;
mod cluster;
mod comparison;
mod distribution;
mod erasures;
mod events;
mod export;
mod history;
mod live;
mod outcomes;
mod profiles;
mod reload;
mod search;
mod statistics;
mod status;
mod tokens;
mod undo;
mod upkeep;

use super::endpoint::Endpoint;

/// All of them, in the order of the OpenAPI document.
pub(super) const ENDPOINTS: &[&[Endpoint]] = &[
    clients::ENDPOINTS,
    search::ENDPOINTS,
    profiles::ENDPOINTS,
    erasures::ENDPOINTS,
    history::ENDPOINTS,
    statistics::ENDPOINTS,
    export::ENDPOINTS,
    changes::ENDPOINTS,
    live::ENDPOINTS,
    batches::ENDPOINTS,
    events::ENDPOINTS,
    outcomes::ENDPOINTS,
    distribution::ENDPOINTS,
    comparison::ENDPOINTS,
    undo::ENDPOINTS,
    upkeep::ENDPOINTS,
    status::ENDPOINTS,
    tokens::ENDPOINTS,
    reload::ENDPOINTS,
    cluster::ENDPOINTS,
];
