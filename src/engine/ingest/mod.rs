//! How batches come in, and how their rows get into the store.
//!
//! ```text
//! arrival.rs       a body on its way in, on a thread of its own
//! intake.rs        a batch file on its way in: spooled, parsed and indexed as it arrives
//! upload.rs        receives a body, and has it taken in
//! to_all.rs        sends an upload to all nodes, if there are several
//! from_all.rs      takes in the uploads of other nodes
//! dry_run.rs       says what a batch would do, and writes nothing
//! apply_thread.rs  applies the rows of pending batches to the store, in the background
//! in_hand.rs       what that thread and its writers have in hand
//! erasing.rs       takes in a file of ids, and erases these visitors, group by group
//! throttle.rs      how fast rows are applied, and how the thread gives way to site calls
//! repair.rs        a batch whose upload is damaged: the client sends it again, or an operator gives it up
//! mend.rs          gets the file of such a batch from another node, if there are several
//! ```

pub(in crate::engine) mod apply_thread;
pub(in crate::engine) mod arrival;
pub mod dry_run;
pub(in crate::engine) mod erasing;
pub(in crate::engine) mod from_all;
pub mod in_hand;
mod intake;
pub(in crate::engine) mod mend;
pub(in crate::engine) mod repair;
pub(in crate::engine) mod state;
pub(in crate::engine) mod throttle;
mod to_all;
pub mod upload;
