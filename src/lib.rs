//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod journal;
pub mod model;
