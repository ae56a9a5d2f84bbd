//! What a start does before the daemon serves, and what works on a data folder while no daemon runs.
//!
//! ```text
//! lock.rs          keeps a second daemon out of a data folder
//! recovery.rs      reads the checkpoint, the catalogue and the journal, and applies what the store lacks
//! needs.rs         which files a start needs, and which it can rebuild
//! rebuild.rs       opens the store, or rebuilds it from a snapshot and the journal
//! store_folder.rs  the generations of the store on the disk
//! salvage.rs       goes on without what is damaged and exists nowhere else
//! digest.rs        a digest of what a snapshot and the journal give
//! ```

pub mod digest;
pub(in crate::engine) mod lock;
pub mod needs;
pub mod rebuild;
pub mod recovery;
pub mod salvage;
pub mod store_folder;
