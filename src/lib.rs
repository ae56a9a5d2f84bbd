//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod app;
pub mod model;
pub mod store;
pub mod sync;
