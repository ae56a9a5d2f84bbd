//! The bytes of a segment's header.
//!
//! Promises: a header is valid only if its checksum matches. A header of another format version is never read further.

use super::position::SEGMENT_HEADER_BYTES;
use crate::durable::record::{Fields, is_sealed, seal};

const MAGIC: [u8; 8] = *b"profiLog";
/// The format version that this program writes and reads.
pub(super) const VERSION: u32 = 1;
/// Where in a segment's header its checksum stands.
const SUM_AT: usize = 12;

/// What a segment's first bytes say.
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) capacity: u64,
    pub(super) salt: u64,
    pub(super) previous_end: u64,
}

/// What stands where a segment's header should be.
pub(super) enum Header {
    Valid(SegmentHeader),
    Version(u32),
    Invalid,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let numbers =
            [self.number, self.capacity, self.salt, self.previous_end].map(u64::to_le_bytes).concat();
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4], &numbers].concat();
        seal(&mut bytes, SUM_AT);
        bytes
    }

    /// Reads the header in a segment's first bytes.
    pub(super) fn decode(bytes: &[u8]) -> Header {
        Self::parse(bytes).unwrap_or(Header::Invalid)
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields(bytes);
        if *fields.array()? != MAGIC {
            return None;
        }
        let version = fields.u32()?;
        if version != VERSION {
            return Some(Header::Version(version));
        }
        if bytes.len() as u64 != SEGMENT_HEADER_BYTES || !is_sealed(bytes, SUM_AT) {
            return None;
        }
        fields.u32()?;
        Some(Header::Valid(Self {
            number: fields.u64()?,
            capacity: fields.u64()?,
            salt: fields.u64()?,
            previous_end: fields.u64()?,
        }))
    }
}
