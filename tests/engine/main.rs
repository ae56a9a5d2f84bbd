//! The library without its daemon: the rules through the engine's own handle, one order beside a model, the contract of
//! every store, parsers and formats against random bytes, and the order of the layers.
//!
//! ```text
//! changes.rs         the feed of changes, applied to nothing, beside lookups
//! changes_topic.rs   the changes of all clients in a topic, beside the feed
//! handle.rs          the rules through the handle that every front door calls
//! nodes.rs           several whole engines over one order in memory
//! order/             one order: random sequences beside a model
//! cluster/           the same order on several nodes: a simulation
//! situations.rs      what randomised tests must meet
//! store_contract.rs  what every store must do
//! fuzz.rs            parsers and formats against random bytes
//! layers.rs          imports run downward
//! circles.rs         files form no circles
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on should say where"
)]

#[macro_use]
mod situations;

mod changes;
mod changes_topic;
mod circles;
mod cluster;
mod fuzz;
mod handle;
mod layers;
mod nodes;
mod order;
mod store_contract;
#[path = "../support/mod.rs"]
mod support;
