//! Faults of the real daemon: kills, power cuts, disks that fail or are full, damaged files, restarts and long load. Every
//! acknowledged write is there afterwards.
//!
//! ```text
//! kill.rs power_cut.rs          the process, or the machine, ends at a random moment
//! disk_faults.rs full_disk.rs   system calls that fail; a disk filled to the last byte
//! failpoints.rs                 a fault at each point where the daemon writes, syncs, renames or answers
//! durability.rs damage.rs       the data folder changed while the daemon is down
//! stuck.rs disturbed.rs         uploads that are held; operators who interfere
//! soak.rs                       long load
//! ```
//!
//! The feature `failpoints` adds `failpoints.rs` and the negative controls. Without root, or without a tool, a test prints
//! `skipped:` and what is missing.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that cannot go on should say where; what it came to should be seen"
)]

mod damage;
mod disk_faults;
mod disturbed;
mod durability;
#[cfg(feature = "failpoints")]
mod failpoints;
mod full_disk;
mod kill;
mod power_cut;
mod soak;
mod stuck;
#[path = "../support/mod.rs"]
mod support;
