//! What can be wrong with a snapshot.

use super::block::{BLOCK_BYTES_MAX, FOOTER_BYTES, MAGIC, VERSION};
use crate::model::codec::CodecError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a snapshot can't be written, read, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused something.
    #[error("could not {action} {}: {source}", file.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file does not hold what was written.
    #[error("the snapshot {} is damaged at byte {offset}: {damage}", file.display())]
    Damaged {
        /// The snapshot.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// Written by another version of this program.
    #[error("the snapshot {} has format version {found} (byte 8); this program reads version {VERSION}", file.display())]
    Version {
        /// The snapshot.
        file: PathBuf,
        /// The version in its preamble.
        found: u32,
    },
    /// The checkpoint can't be written or read.
    #[error("the checkpoint at byte {offset} of the snapshot {}: {source}", file.display())]
    Checkpoint {
        /// The snapshot.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong. A later version of the program may have written it.
        source: CodecError,
    },
    /// The caller asked for something that no snapshot can hold. The writer writes nothing more.
    #[error("the snapshot {} is not written: {why}", file.display())]
    Refused {
        /// The snapshot that would be.
        file: PathBuf,
        /// Why.
        why: Unwritable,
    },
}

/// What is wrong with a snapshot's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is too short.
    #[error("what begins there is cut off: the file ends at byte {length}")]
    Truncated {
        /// The file's length.
        length: u64,
    },
    /// It does not begin like a snapshot.
    #[error("there is no {:?}, so this is not a snapshot", str::from_utf8(&MAGIC).unwrap_or_default())]
    Magic,
    /// The version or the salt was changed.
    #[error("the preamble does not match its checksum")]
    Preamble,
    /// The block's header was changed, or belongs to another block.
    #[error("the header of block {number} does not match its checksum")]
    BlockHeader {
        /// The number that the block there should have.
        number: u64,
    },
    /// The block's payload was changed.
    #[error("the payload of block {number} does not match its checksum")]
    BlockPayload {
        /// The block's number.
        number: u64,
    },
    /// The block is valid, but its kind does not belong there.
    #[error("block {number} is of a kind that does not belong there")]
    Kind {
        /// The block's number.
        number: u64,
    },
    /// The payload of a block is not made of whole pairs.
    #[error("the block ends inside a pair")]
    Pair,
    /// The keys don't ascend.
    #[error("the key there is not greater than the one before it")]
    Order,
    /// The footer is not as long as it should be.
    #[error("the footer has {found} bytes instead of {FOOTER_BYTES}")]
    Footer {
        /// How long it is.
        found: usize,
    },
    /// Pairs are missing, or there are too many.
    #[error("by the footer there are {stated} pairs, but {found} were read")]
    Count {
        /// By the footer.
        stated: u64,
        /// As read.
        found: u64,
    },
    /// The keys and values do not add up to the length in the footer.
    #[error("by the footer the keys and values have {stated} bytes, but {found} were read")]
    Bytes {
        /// By the footer.
        stated: u64,
        /// As read.
        found: u64,
    },
    /// The pairs are others than were written.
    #[error("by the footer the pairs have the digest {stated:032x}, but what was read has {found:032x}")]
    Digest {
        /// By the footer.
        stated: u128,
        /// As read.
        found: u128,
    },
    /// The file goes on behind the footer.
    #[error("the snapshot ends there, but {bytes} bytes follow")]
    Trailing {
        /// How many bytes follow.
        bytes: u64,
    },
}

/// Why a snapshot cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// The key is not greater than the one before it.
    #[error("the key of pair {number}, counted from 0, is not greater than the one before it")]
    Order {
        /// How many pairs came before.
        number: u64,
    },
    /// The pair is too long for a block.
    #[error("{bytes} bytes are too many for a block: at most {BLOCK_BYTES_MAX} are allowed")]
    TooLong {
        /// How long the payload would be.
        bytes: usize,
    },
    /// An earlier pair was refused, or could not be written.
    #[error("an earlier pair was refused or could not be written")]
    Stopped,
}

/// An error of the operating system, with what was tried.
pub(super) fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { action, file: file.to_owned(), source }
}
