//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod batch;
pub mod model;
