//! Who made a write: the token that it came with, and the address that it came from.
//!
//! Pages write without a token and from the visitors' own addresses, so their writes have no author. Single updates, removals
//! and batches have one.
//!
//! ```text
//! author: token length u8 + 16 × address length · token · address
//! ```
//!
//! The address has 0, 4 or 16 bytes, as it goes over the network.

use core::net::IpAddr;
use std::fmt;

/// The most characters in the id of a token.
pub const TOKEN_ID_CHARS_MAX: usize = 8;
/// How far the length of the address is shifted in an author's first byte.
const ADDRESS_SHIFT: u32 = 4;

/// The id of a token: up to [`TOKEN_ID_CHARS_MAX`] hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    digits: [u8; TOKEN_ID_CHARS_MAX],
    length: u8,
}

impl TokenId {
    /// Checks an id.
    pub fn new(text: &str) -> Option<Self> {
        let right = (1..=TOKEN_ID_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut digits = [0; TOKEN_ID_CHARS_MAX];
        digits.get_mut(..text.len()).filter(|_| right)?.copy_from_slice(text.as_bytes());
        Some(Self { digits, length: u8::try_from(text.len()).ok()? })
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        let digits = self.digits.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who made a write, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Author {
    /// The token of the call. `None`: the daemon asks for none.
    pub token: Option<TokenId>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
}

impl Author {
    /// The most bytes of an author.
    pub const BYTES_MAX: usize = 1 + TOKEN_ID_CHARS_MAX + 16;

    /// Whether nothing is known of them.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Appends their bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        let token = self.token.as_ref().map_or(&[][..], |token| token.as_str().as_bytes());
        let (v4, v6);
        let address = match self.address {
            None => &[][..],
            Some(IpAddr::V4(address)) => {
                v4 = address.octets();
                &v4[..]
            }
            Some(IpAddr::V6(address)) => {
                v6 = address.octets();
                &v6[..]
            }
        };
        // Sixteen does not fit into four bits, and no address has fifteen bytes.
        let length = if address.len() == 16 { 15 } else { address.len() };
        out.push(narrow(token.len()) | narrow(length) << ADDRESS_SHIFT);
        out.extend_from_slice(token);
        out.extend_from_slice(address);
    }

    /// Takes an author from the front of some bytes. `None` if these are no author's.
    pub fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&lengths, rest) = bytes.split_first()?;
        let (token, rest) = rest.split_at_checked(usize::from(lengths & 0xf))?;
        let token = match token {
            [] => None,
            digits => Some(TokenId::new(std::str::from_utf8(digits).ok()?)?),
        };
        let (address, rest) = match lengths >> ADDRESS_SHIFT {
            0 => (None, rest),
            4 => {
                let (octets, rest) = rest.split_first_chunk::<4>()?;
                (Some(IpAddr::from(*octets)), rest)
            }
            15 => {
                let (octets, rest) = rest.split_first_chunk::<16>()?;
                (Some(IpAddr::from(*octets)), rest)
            }
            _ => return None,
        };
        Some((Self { token, address }, rest))
    }

    /// Their bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![];
        self.put(&mut bytes);
        bytes
    }

    /// The author with these bytes. `None` if there is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::take(bytes).filter(|(_, rest)| rest.is_empty()).map(|(author, _)| author)
    }
}

/// Who made a write, in words: the token's id and name, and the address, as far as they are known.
pub fn in_words(token: Option<&str>, name: Option<&str>, address: Option<&str>) -> String {
    let token = match (token, name) {
        (Some(id), Some(name)) => format!("token {id} ({name})"),
        (Some(id), None) => format!("token {id}"),
        (None, _) => "no token".to_owned(),
    };
    match address {
        Some(address) => format!("{token}, from {address}"),
        None => token,
    }
}

/// A length of at most fifteen.
fn narrow(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_has_one_to_eight_hexadecimal_digits() {
        for right in ["1", "1a2B3c4D"] {
            assert_eq!(TokenId::new(right).unwrap().as_str(), right);
        }
        for wrong in ["", "1a2b3c4d5", "g", "1 ", "é"] {
            assert_eq!(TokenId::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn authors_read_back_from_few_bytes() {
        for (token, address, bytes) in [
            ("", "", 1),
            ("1a2b3c4d", "", 9),
            ("", "192.0.2.7", 5),
            ("1a2b3c4d", "192.0.2.7", 13),
            ("f", "2001:db8::1", 18),
        ] {
            let author = Author { token: TokenId::new(token), address: address.parse().ok() };
            let put = author.to_bytes();
            assert_eq!((put.len(), Author::from_bytes(&put)), (bytes, Some(author)));
            for cut in 0..put.len() {
                assert_eq!(Author::from_bytes(&put[..cut]), None, "{author:?} cut at {cut}");
            }
            assert!(put.len() <= Author::BYTES_MAX);
        }
    }

    proptest! {
        #[test]
        fn what_can_be_read_is_written_so(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some((author, rest)) = Author::take(&bytes) {
                let put = author.to_bytes();
                prop_assert_eq!(&put[..], &bytes[..bytes.len() - rest.len()]);
            }
        }
    }
}
