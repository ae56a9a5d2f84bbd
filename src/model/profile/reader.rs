//! Takes numbers, seqs and text from the bytes of a stored value, of any version.
//!
//! Promises: no length is believed beyond the bytes that are there.

use super::types::Attribute;
use crate::model::seq::Seq;

/// The first format version.
pub(super) const EARLIEST_VERSION: u8 = 1;
/// The latest format version of the values that this program writes.
pub const FORMAT_VERSION: u8 = 3;
/// The version of a value without a history and without times.
pub(super) const PLAIN_VERSION: u8 = 2;

/// Why bytes are not a valid stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A later version of the program wrote the bytes, or another program did.
    #[error("format version {0}; this program reads versions 1 to {FORMAT_VERSION}")]
    Version(u8),
    /// The bytes are cut short, have a surplus, or contain an unknown code.
    #[error("damaged bytes: {0}")]
    Damaged(&'static str),
}

pub(super) fn check_order(attributes: &[Attribute<'_>]) -> Result<(), DecodeError> {
    if attributes.windows(2).any(|pair| matches!(pair, [a, b] if a.name >= b.name)) {
        return Err(DecodeError::Damaged("attributes that are not sorted by name"));
    }
    Ok(())
}

pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn after_version(bytes: &'a [u8]) -> Result<(u8, Self), DecodeError> {
        let mut reader = Self { rest: bytes };
        match reader.u8()? {
            version @ EARLIEST_VERSION..=FORMAT_VERSION => Ok((version, reader)),
            other => Err(DecodeError::Version(other)),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(DecodeError::Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Damaged("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn seq(&mut self) -> Result<Seq, DecodeError> {
        self.u64().map(Seq::from_u64)
    }

    pub(super) fn number_u64(&mut self) -> Result<u64, DecodeError> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.u8()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
            shift += 7;
            if shift > 63 {
                return Err(DecodeError::Damaged("a number that is too large"));
            }
        }
    }

    /// A length, or an index.
    pub(super) fn number(&mut self) -> Result<usize, DecodeError> {
        let number = u32::try_from(self.number_u64()?).ok();
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or(DecodeError::Damaged("a number that is too large"))
    }
}

pub(super) struct Text<'a>(pub(super) &'a str);

impl<'a> Text<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        std::str::from_utf8(bytes).map(Self).map_err(|_| DecodeError::Damaged("text that is not UTF-8"))
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(DecodeError::Damaged("text that ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }
}
