//! A visitor-profile store that speaks Adobe Target's profile APIs.

pub mod app;
pub mod cli;
pub mod config;
pub mod http;
pub mod model;
pub mod store;
pub mod sync;
pub mod telemetry;
