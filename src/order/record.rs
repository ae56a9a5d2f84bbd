//! The bytes of a record of the order: the requests that one node offers together.
//!
//! Promises: decoding any bytes never panics. Two offers of one run never have the same number, and the numbers of a run rise,
//! so a record that the log holds twice is recognised by every reader alike.

use crate::model::codec::{self, CodecError};
use crate::model::seq::Millis;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::fmt;

/// The version that a record begins with.
pub const RECORD_VERSION: u8 = 1;

/// One run of one node, from its start to its end. Random, so that no two runs share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct RunId(pub [u8; 16]);

impl RunId {
    /// A new one.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which order a node belongs to: made when the order was founded, and in its first record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// A new one.
    pub fn random() -> Result<Self, getrandom::Error> {
        RunId::random().map(|RunId(bytes)| Self(bytes))
    }

    /// Reads an id as it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&RunId(self.0), f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The requests that one run offers in one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offers {
    /// Who offers them.
    pub run: RunId,
    /// The number of the first of them. The others have those behind it.
    pub first: u64,
    /// What the clock of the node said when it offered the last of them, in milliseconds.
    pub clock_ms: u64,
    /// Each request as the engine encodes it.
    pub requests: Vec<ByteBuf>,
}

impl Offers {
    /// The record's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::with_capacity(64 + self.requests.iter().map(|one| one.len() + 4).sum::<usize>());
        codec::encode_into(RECORD_VERSION, self, &mut out)?;
        Ok(out)
    }

    /// What these bytes say.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(RECORD_VERSION, bytes)
    }

    /// The time of these requests: the lesser of the log's and the offering node's, so that one clock far ahead, be it a
    /// broker's or a node's, expires nobody.
    pub fn time(&self, log: Millis) -> Millis {
        log.min(Millis(self.clock_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_offers_read_back_and_any_bytes_never_panic(
            run: [u8; 16],
            first: u64,
            clock_ms: u64,
            requests in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let requests = requests.into_iter().map(ByteBuf::from).collect();
            let offers = Offers { run: RunId(run), first, clock_ms, requests };
            prop_assert_eq!(Offers::decode(&offers.encode().unwrap()).unwrap(), offers);
            drop(Offers::decode(&bytes));
            let versioned: Vec<u8> = std::iter::once(RECORD_VERSION).chain(bytes).collect();
            drop(Offers::decode(&versioned));
        }
    }

    #[test]
    fn the_time_is_the_lesser_of_both_clocks() {
        let of = |clock_ms, log| {
            Offers { run: RunId::default(), first: 0, clock_ms, requests: vec![] }.time(Millis(log)).0
        };
        assert_eq!([of(5, 9), of(9, 5), of(7, 7)], [5, 5, 7]);
    }
}
