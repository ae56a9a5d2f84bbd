//! Adobe Target's calls, answered as Adobe answers them.

pub(super) mod batch_mbox;
pub(super) mod batch_status;
pub(super) mod batch_update;
mod cookies;
mod default_content;
pub(super) mod delivery;
pub(super) mod mbox;
pub(super) mod profile_fetch;
pub(super) mod profile_update;
pub(super) mod rest_mbox;
mod site;
