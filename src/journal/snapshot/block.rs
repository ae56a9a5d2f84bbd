//! The bytes of a snapshot: what it begins with, its blocks, its footer.

use crate::durable::record::{Checksum, Fields, FrameLayout, LengthOf};

/// The longest payload of a block, in bytes. It is far above any value and any checkpoint, and bounds what a reader must
/// hold.
pub const BLOCK_BYTES_MAX: usize = 1 << 30;

/// What a snapshot begins with.
pub(super) const MAGIC: [u8; 8] = *b"profSnap";
/// The format version that this program writes and reads.
pub(super) const VERSION: u32 = 1;
pub(super) const FOOTER_BYTES: usize = 32;
/// What a pair takes besides its key and value.
pub(super) const PAIR_LENGTHS_BYTES: usize = 8;

/// The kinds of blocks.
pub(super) const HEAD: [u8; 4] = *b"head";
pub(super) const DATA: [u8; 4] = *b"data";
pub(super) const FOOT: [u8; 4] = *b"foot";

/// Where a block of several pairs ends. It is large enough that its header and its two system calls don't matter.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// What a writer's buffer keeps after a block that needed more.
pub(super) const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// The layout of a block. See the format in the [module's head](super).
pub(super) const BLOCK: FrameLayout = FrameLayout {
    has_kind: true,
    length: LengthOf::Payload,
    checksum: Checksum::OfPayloadAndHeader,
    alignment: 1,
    payload_bytes: 0..=BLOCK_BYTES_MAX,
};

/// A key and its value.
pub type Pair<'r> = (&'r [u8], &'r [u8]);

/// What a snapshot holds, besides its checkpoint. Two snapshots with the same pairs have the same summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many pairs.
    pub count: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// 128-bit XXH3 of the pairs in their order, each key and value behind its length.
    pub digest: u128,
}

pub(super) fn footer(summary: &Summary) -> Vec<u8> {
    let Summary { count, bytes, digest } = summary;
    [&count.to_le_bytes()[..], &bytes.to_le_bytes(), &digest.to_le_bytes()].concat()
}

pub(super) fn parse_footer(bytes: &[u8]) -> Option<Summary> {
    let mut fields = Fields(bytes);
    let summary = Summary { count: fields.u64()?, bytes: fields.u64()?, digest: fields.u128()? };
    fields.0.is_empty().then_some(summary)
}
