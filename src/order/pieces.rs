//! The files of batches on their way to all nodes: each is cut into pieces, which go through a log of their own.
//!
//! ```text
//! Begin ─► Data 0 ─► Data 1 ─► … ─► End      or Withdraw, at any point, if the upload is refused
//! ```
//!
//! Pieces of several uploads may lie between each other.
//!
//! Promises: decoding any bytes never panics. A piece that the log has twice is recognised by its number.

use crate::model::codec::{self, CodecError};
use crate::order::record::RunId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The version that a piece begins with.
pub const PIECE_VERSION: u8 = 1;
/// How many bytes of a file go into one piece.
pub const PIECE_BYTES: usize = 1 << 20;

/// An upload on its way to all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UploadId {
    /// The run that took it in.
    pub run: RunId,
    /// Its number among that run's uploads.
    pub number: u64,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Whose.
    pub upload: UploadId,
    /// What it is.
    pub part: Part,
}

/// What a piece is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The file begins. What indexing its rows needs to know, as the engine encodes it.
    Begin(ByteBuf),
    /// The next bytes.
    Data {
        /// Their number, from 0 on.
        number: u32,
        /// Their CRC-32C.
        crc32c: u32,
        /// The bytes.
        bytes: ByteBuf,
    },
    /// The file has ended.
    End {
        /// How many pieces it has.
        pieces: u32,
    },
    /// The upload was refused: what came of it can go.
    Withdraw,
}

impl Piece {
    /// The piece's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![];
        codec::encode_into(PIECE_VERSION, self, &mut out)?;
        Ok(out)
    }

    /// What these bytes say.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(PIECE_VERSION, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_read_back() {
        let upload = UploadId { run: RunId([3; 16]), number: 9 };
        let bytes = ByteBuf::from(b"batch=pcId,a\n".to_vec());
        let parts = [
            Part::Begin(ByteBuf::from(vec![1, 2])),
            Part::Data { number: 7, crc32c: crc32c::crc32c(&bytes), bytes },
            Part::End { pieces: 8 },
            Part::Withdraw,
        ];
        for part in parts {
            let piece = Piece { upload, part };
            assert_eq!(Piece::decode(&piece.encode().unwrap()).unwrap(), piece);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let versioned: Vec<u8> = std::iter::once(PIECE_VERSION).chain(bytes).collect();
            drop(Piece::decode(&versioned));
        }
    }
}
