//! The snapshot file: a checkpoint of the journal, then all pairs of a store in the order of their keys. It knows files and
//! bytes: no store, no threads.
//!
//! Promises:
//! - A file with a snapshot's name is whole and on disk. It is written under another name, synced and renamed, and then
//!   the folder is synced. A crash leaves an unfinished snapshot under the other name; the next [`Snapshots::open`]
//!   removes it.
//! - A reader gives exactly the pairs that were written, in their order, and then `None`; or an error that names the
//!   file, the byte and what is wrong there. The pairs before an error were written so, but they are not the snapshot:
//!   only the `None` at the end says that nothing is missing.
//! - A reader believes no length before its checksum, never panics, and holds one block at a time.
//!
//! # Format
//!
//! Numbers are little-endian. In this and every later version the file begins with
//!
//! | bytes | preamble |
//! | --- | --- |
//! | 8 | `profSnap` |
//! | 4 | format version, 1 |
//! | 8 | salt: random, so that no block of another snapshot is taken for one of this one |
//! | 4 | CRC-32C of the twenty bytes before |
//!
//! Blocks follow each other without gaps, numbered from 0: one `head`, any number of `data`, one `foot`, and the file
//! ends.
//!
//! | bytes | block |
//! | --- | --- |
//! | 4 | `head`, `data` or `foot` |
//! | 4 | length of the payload |
//! | 4 | CRC-32C of the payload |
//! | 4 | CRC-32C of the salt, the block's number (8 bytes each) and the twelve bytes before this |
//! | … | payload |
//!
//! - `head`: the [`Checkpoint`](super::entry::Checkpoint), as [`encode_checkpoint`](super::entry::encode_checkpoint)
//!   writes it.
//! - `data`: whole pairs. Each is the key's length (4), the key, the value's length (4), the value. Keys ascend, in a
//!   block and from block to block. A block has at most 64 KiB, or one longer pair.
//! - `foot`: how many pairs there are (8), the bytes of their keys and values (8), and the 128-bit XXH3 of all `data`
//!   payloads in a row (16). The digest depends on the pairs alone, not on where blocks end.

mod block;
mod error;
mod folder;
mod preamble;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use block::{BLOCK_BYTES_MAX, Pair, Summary};
pub use error::{Damage, SnapshotError, Unwritable};
pub use folder::Snapshots;
pub use reader::{SnapshotReader, verify};
pub use writer::SnapshotWriter;
