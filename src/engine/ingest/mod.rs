//! How batches come in, and how their rows get into the store.
//!
//! ```text
//! intake.rs        a batch file on its way in: spooled, parsed and indexed as it arrives
//! upload.rs        receives a body, and has it taken in
//! to_all.rs        sends an upload to all nodes, if there are several
//! from_all.rs      takes in the uploads of other nodes
//! dry_run.rs       says what a batch would do, and writes nothing
//! apply_thread.rs  applies the rows of pending batches to the store, in the background
//! in_hand.rs       what that thread and its writers have in hand
//! throttle.rs      how fast rows are applied, and how the thread gives way to site calls
//! repair.rs        a batch whose upload is damaged: the client sends it again, or an operator gives it up
//! mend.rs          gets the file of such a batch from another node, if there are several
//! ```

pub(in crate::engine) mod apply_thread;
pub mod dry_run;
pub(in crate::engine) mod from_all;
pub mod in_hand;
mod intake;
pub(in crate::engine) mod mend;
pub(in crate::engine) mod repair;
pub(in crate::engine) mod state;
pub(in crate::engine) mod throttle;
mod to_all;
pub mod upload;
