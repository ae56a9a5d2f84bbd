//! The one door to bincode: what is serialised as a whole goes through here, behind a version byte. bincode is
//! pinned at 1.3.3, which its authors call complete.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// Why bytes could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by a later version of the program.
    #[error("format version {found}; this program reads version {expected}")]
    Version {
        /// What the bytes begin with.
        found: u8,
        /// What they should begin with.
        expected: u8,
    },
    /// Not what it should be.
    #[error("damaged: {0}")]
    Damaged(String),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().reject_trailing_bytes()
}

/// Appends a value's bytes, behind a version byte.
pub fn encode_into<T: Serialize>(version: u8, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.push(version);
    options().serialize_into(out, value).map_err(|error| CodecError::Damaged(error.to_string()))
}

/// Reads a value back; never allocates more than the bytes there are can justify.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (&found, rest) = bytes.split_first().ok_or_else(|| CodecError::Damaged("nothing there".into()))?;
    if found != version {
        return Err(CodecError::Version { found, expected: version });
    }
    let limit = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    options().with_limit(limit).deserialize(rest).map_err(|error| CodecError::Damaged(error.to_string()))
}
