//! Callers of the real daemon: every call and every command, right and wrong.
//!
//! ```text
//! adobe.rs mbox.rs delivery.rs imitation.rs   Adobe's calls, as Adobe's pages and SDKs have them
//! batch_file.rs compressed.rs ndjson.rs       batch files as people send them
//! native.rs export.rs changes.rs erasures.rs history.rs identity.rs openapi.rs
//!                                             our own calls, and their description
//! inspector.rs cli.rs                         the inspector without a browser; the command line
//! access.rs attacks.rs authors.rs http.rs limits.rs
//!                                             who may do what, and who did it; what is refused, bounded and cut off
//! proxies.rs tls.rs tokens.rs
//! backups.rs logging.rs metrics.rs pace.rs    what an operator sees and does
//! reload.rs stop.rs supervise.rs
//! wire/                                       requests that Adobe's SDKs really sent
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

mod access;
mod adobe;
mod attacks;
mod authors;
mod backups;
mod batch_file;
mod changes;
mod cli;
mod comparison;
mod compressed;
mod delivery;
mod distribution;
mod erasures;
mod export;
mod history;
mod http;
mod identity;
mod imitation;
mod inspector;
mod limits;
mod live;
mod logging;
mod mbox;
mod metrics;
mod native;
mod ndjson;
mod openapi;
mod pace;
mod proxies;
mod reload;
mod search;
mod stop;
mod supervise;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod tokens;
