//! What the journal says: the entries of a commit group, and the checkpoint that tells where a restart begins.
//!
//! Promises: entries are key-local and physical: a write's entry holds, for each canonical key it changes, the value
//! that then stands there, with the rows it resolved in it. Redoing it is a put that a value which reaches as far
//! withstands; it resolves nothing, reads no clock and no setting, and comes out the same under any later program.
//! What shapes a batch's outcome besides its rows is in its entry, and with it the checksum of the file that has them.

mod bytes;
mod earlier;
mod types;

pub use bytes::{
    CHECKPOINT_VERSION, GROUP_VERSION, decode_checkpoint, decode_group, encode_checkpoint, encode_group,
    group_given_up,
};
pub use earlier::Version4;
pub use types::{
    BatchAcceptedEntry, BatchCompletedEntry, BatchGivenUpEntry, CatalogueMark, Cause, Change, Checkpoint,
    Entry, KnownBatch, OrderEntry, OrderState, Resolved, ResolvedBundle, RunOffered, SentKeyEntry,
    WriteEntry, WriteKind,
};
