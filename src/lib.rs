//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod app;
pub mod batch;
pub mod config;
pub mod journal;
pub mod model;
pub mod store;
pub mod sync;
pub mod telemetry;
