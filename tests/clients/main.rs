//! Other programs that use the product: browsers, Adobe's SDKs, packages, and the readers of its files.
//!
//! ```text
//! browser.rs webdriver/   the inspector in Chromium
//! generated.rs            clients that are generated from the OpenAPI document
//! sdk.rs sdk/             Adobe's SDKs for Node.js and Python, unchanged
//! packaging.rs            the dashboard, the alerts, the unit, the image, the Debian package, the workflows
//! kubernetes.rs           the manifests for Kubernetes
//! s3.rs                   backups in S3-compatible storage, with the feature `s3`
//! docs.rs                 README, the book and the examples, run as written
//! ```
//!
//! A test whose tool is missing says `skipped:` and what it misses.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where; what it came to should be seen"
)]

mod browser;
mod docs;
mod generated;
mod kubernetes;
mod packaging;
#[cfg(feature = "s3")]
mod s3;
mod sdk;
#[path = "../support/mod.rs"]
mod support;
mod webdriver;
