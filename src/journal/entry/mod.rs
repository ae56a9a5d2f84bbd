//! The content of the journal: the entries of a commit group, and the checkpoint, where a restart begins.
//!
//! Promises: entries are key-local and physical. A write's entry holds the new value of each canonical key that it changes, with
//! the rows that it resolved. To redo a write, its values are put, unless the store has a value as new. That resolves nothing,
//! reads no clock and no setting, and gives the same result under any later program. A batch's entry holds all that decides its
//! outcome besides its rows, and the checksum of the file that has the rows.

mod bytes;
mod earlier;
mod types;

pub use bytes::{
    CHECKPOINT_VERSION, GROUP_VERSION, decode_checkpoint, decode_group, encode_checkpoint, encode_group,
    group_given_up, is_given_up,
};
pub use earlier::{Version4, Version6};
pub use types::{
    BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, CatalogueMark, Cause, Change, Checkpoint,
    Entry, KnownBatch, OrderEntry, OrderState, Resolved, ResolvedBundle, RunOffered, SentKeyEntry,
    WriteEntry, WriteKind,
};
