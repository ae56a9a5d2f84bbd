//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod config;
pub mod model;
pub mod telemetry;
