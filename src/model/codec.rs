//! The only user of bincode. Each value it writes starts with a version byte. bincode stays at 1.3.3, which its authors
//! consider complete.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// Why stored bytes cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A later version of the program wrote the bytes.
    #[error("format version {found}; this program reads version {expected}")]
    Version {
        /// The version byte found.
        found: u8,
        /// The version that this program reads.
        expected: u8,
    },
    /// The bytes do not decode to the expected type.
    #[error("damaged: {0}")]
    Damaged(String),
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().reject_trailing_bytes()
}

/// Appends a version byte and the encoded value.
pub fn encode_into<T: Serialize>(version: u8, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.push(version);
    options().serialize_into(out, value).map_err(|error| CodecError::Damaged(error.to_string()))
}

/// Decodes a value. Allocates no more than the number of bytes can justify.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (&found, rest) = bytes.split_first().ok_or_else(|| CodecError::Damaged("no bytes".into()))?;
    if found != version {
        return Err(CodecError::Version { found, expected: version });
    }
    let limit = u64::try_from(rest.len()).unwrap_or(u64::MAX);
    options().with_limit(limit).deserialize(rest).map_err(|error| CodecError::Damaged(error.to_string()))
}
