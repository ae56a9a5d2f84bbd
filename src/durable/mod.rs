//! What every file format of the data folder is built on: names that survive a crash, records with checksums, and the
//! seam to the disk.
//!
//! | file | what it owns |
//! | --- | --- |
//! | [`failpoint`] | the points where a test build can make something fail |
//! | [`names`] | files and folders by name: create, replace, rename, sync |
//! | [`record`] | the bytes of a checksummed record, and the reader of little-endian numbers |
//! | [`disk`] | the trait behind which the journal and the snapshots write, and its failing test double |
//!
//! Promises: nothing here knows what a file means. No function waits for anything but the disk.

pub mod disk;
pub mod failpoint;
pub mod names;
pub mod record;

pub use failpoint::point;
pub use names::{belongs_to_folder, create, folder_within, private_folder, replace, sync_folder};
pub use record::{read_summed, replace_summed};
