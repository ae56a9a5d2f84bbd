//! What keeps the disk in order while the daemon runs.
//!
//! ```text
//! tasks.rs           the maintenance tasks, one at a time: snapshots, backups, fresh stores, removing what is not needed
//! checkpoint.rs      takes checkpoints
//! steps.rs           carries out what the tasks (driver/) want of the store, for the daemon and for tests
//! sweep.rs           removes expired visitors in small steps
//! erase.rs           which visitors were erased, and the bytes of their rows in kept uploads
//! erasures.rs        the list of all erasures, for restoring older backups
//! backup.rs          writes a backup
//! scheduled.rs       the backups that the daemon makes by itself: when, and which of them go
//! shelf.rs           places where backups lie side by side, which shelves.rs opens:
//! folder_shelf.rs    a folder
//! bucket_shelf.rs    a place in S3-compatible storage
//! passing.rs         a backup on its way to another node or to a bucket
//! rebuild_beside.rs  rebuilds a damaged store while the damaged one still serves
//! hold.rs            keeps expired data for a while when the clock may be wrong
//! ```

pub mod backup;
pub mod bucket_shelf;
pub(in crate::engine) mod checkpoint;
pub mod erase;
pub mod erasures;
pub(in crate::engine) mod folder_shelf;
pub mod hold;
pub mod manifest;
pub mod passing;
pub mod rebuild_beside;
mod rebuild_status;
pub(in crate::engine) mod scheduled;
pub mod shelf;
pub mod shelves;
pub(in crate::engine) mod state;
pub mod steps;
pub mod sweep;
pub mod task;
pub mod tasks;
mod tombstones;
