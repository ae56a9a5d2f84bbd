//! Adobe Target's calls, answered as Adobe answers them.

mod batch_mbox;
mod batch_status;
mod batch_update;
mod cookies;
mod default_content;
mod delivery;
mod mbox;
mod profile_fetch;
mod profile_update;
mod rest_mbox;
mod site;

use super::endpoint::Endpoint;

/// All of them, in the order of the OpenAPI document.
pub(super) const ENDPOINTS: &[&[Endpoint]] = &[
    batch_update::ENDPOINTS,
    batch_status::ENDPOINTS,
    profile_update::ENDPOINTS,
    profile_fetch::ENDPOINTS,
    mbox::ENDPOINTS,
    delivery::ENDPOINTS,
    rest_mbox::ENDPOINTS,
    batch_mbox::ENDPOINTS,
];
