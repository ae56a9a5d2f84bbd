//! The journal: the truth of which the store is a view.

pub mod entry;
pub mod log;
pub mod snapshot;
