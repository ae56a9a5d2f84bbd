//! The bytes of a checksummed record: one place for every format of the data folder.
//!
//! | what | who writes it |
//! | --- | --- |
//! | frame: kind, length, checksums, payload, padding | journal, snapshots, catalogue |
//! | sealed header: magic and numbers with a checksum of themselves | journal, snapshots, catalogue |
//! | summed file: bytes, then their checksum | checkpoint, overwritten rows |
//! | running sum: a checksum over all that goes through a writer | outcomes, row index |
//!
//! Two files of the data folder have no binary record. The token file is JSON and carries its checksum as a member; the
//! list of erasures is lines of text, and one line is too short to be damaged without notice.
//!
//! Promises: numbers are little-endian and checksums are CRC-32C. No length is believed before it was compared with the
//! layout's limits. Reading never panics, whatever the bytes are. The tests hold the bytes of every format as literals.

use super::names::replace;
use crc32c::{crc32c, crc32c_append};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::Path;

/// How a format lays out its frames. A format has one of these, as a constant.
#[derive(Debug)]
pub struct FrameLayout {
    /// Whether a frame begins with four bytes that say what it holds.
    pub has_kind: bool,
    /// What the length in the header counts.
    pub length: LengthOf,
    /// Which checksums a frame has.
    pub checksum: Checksum,
    /// Frames take multiples of so many bytes. Zeros fill the space behind a payload.
    pub alignment: usize,
    /// How long a payload can be. A header that says otherwise is not valid.
    pub payload_bytes: RangeInclusive<usize>,
}

/// What the length in a frame's header counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthOf {
    /// The payload alone.
    Payload,
    /// The header and the payload.
    HeaderAndPayload,
}

/// Which checksums a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// One, over the length and the payload. The length is not certain before the payload was read.
    OfAll,
    /// One over payload and padding, and another over the frame's [`FrameAddress`] and the header before it. A reader can trust
    /// the length before it reads that far. A frame of another file, or of another place, is not taken for this one.
    OfPayloadAndHeader,
}

/// Where a frame stands, for the checksum of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAddress {
    /// A random number that the whole file shares. See [`random_salt`].
    pub salt: u64,
    /// The frame's offset or number in the file.
    pub at: u64,
}

impl FrameAddress {
    /// For layouts whose checksum does not cover the place.
    pub const ANY: Self = Self { salt: 0, at: 0 };
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds; zeros if the layout has no kind.
    pub kind: [u8; 4],
    length: u32,
    sum: u32,
}

impl FrameLayout {
    /// How many bytes a header has.
    pub const fn header_bytes(&self) -> usize {
        let kind = if self.has_kind { 4 } else { 0 };
        let seal = match self.checksum {
            Checksum::OfAll => 0,
            Checksum::OfPayloadAndHeader => 4,
        };
        kind + 4 + 4 + seal
    }

    /// The header of a frame with this payload. `None` if the payload is too long or too short for the layout.
    pub fn header(&self, kind: [u8; 4], payload: &[u8]) -> Option<FrameHeader> {
        if !self.payload_bytes.contains(&payload.len()) {
            return None;
        }
        let counted = match self.length {
            LengthOf::Payload => payload.len(),
            LengthOf::HeaderAndPayload => payload.len() + self.header_bytes(),
        };
        let length = u32::try_from(counted).ok()?;
        let sum = match self.checksum {
            Checksum::OfAll => crc32c_append(crc32c(&length.to_le_bytes()), payload),
            Checksum::OfPayloadAndHeader => crc32c_append(crc32c(payload), self.padding(payload.len())),
        };
        Some(FrameHeader { kind, length, sum })
    }

    /// Appends a header's bytes.
    pub fn put_header(&self, header: &FrameHeader, place: FrameAddress, out: &mut Vec<u8>) {
        if self.has_kind {
            out.extend_from_slice(&header.kind);
        }
        out.extend_from_slice(&header.length.to_le_bytes());
        out.extend_from_slice(&header.sum.to_le_bytes());
        if self.checksum == Checksum::OfPayloadAndHeader {
            out.extend_from_slice(&self.seal(header, place).to_le_bytes());
        }
    }

    /// Appends a whole frame: header, payload, padding. `None`, and nothing appended, if the layout can't hold the payload.
    pub fn put(
        &self,
        kind: [u8; 4],
        payload: &[u8],
        place: FrameAddress,
        out: &mut Vec<u8>,
    ) -> Option<FrameHeader> {
        let header = self.header(kind, payload)?;
        out.reserve(self.frame_bytes(&header));
        self.put_header(&header, place, out);
        out.extend_from_slice(payload);
        out.extend_from_slice(self.padding(payload.len()));
        Some(header)
    }

    /// What these bytes say, if they begin with a header that this layout allows at this place.
    pub fn read_header(&self, bytes: &[u8], place: FrameAddress) -> Option<FrameHeader> {
        let mut fields = Fields(bytes);
        let kind = if self.has_kind { *fields.array()? } else { [0; 4] };
        let header = FrameHeader { kind, length: fields.u32()?, sum: fields.u32()? };
        let sealed = self.checksum == Checksum::OfAll
            || fields.u32().is_some_and(|it| it == self.seal(&header, place));
        let allowed = self.payload_bytes_of(&header).is_some_and(|bytes| self.payload_bytes.contains(&bytes));
        (sealed && allowed).then_some(header)
    }

    /// Whether this is the payload, with its padding, that the header was made for.
    pub fn matches(&self, header: &FrameHeader, body: &[u8]) -> bool {
        let found = match self.checksum {
            Checksum::OfAll => crc32c_append(crc32c(&header.length.to_le_bytes()), body),
            Checksum::OfPayloadAndHeader => crc32c(body),
        };
        found == header.sum
    }

    /// How long the payload is.
    pub fn payload_bytes(&self, header: &FrameHeader) -> usize {
        self.payload_bytes_of(header).unwrap_or_default()
    }

    /// How many bytes the whole frame takes in the file.
    pub fn frame_bytes(&self, header: &FrameHeader) -> usize {
        self.frame_bytes_of(self.payload_bytes(header))
    }

    /// How many bytes a frame with a payload this long takes.
    pub fn frame_bytes_of(&self, payload_bytes: usize) -> usize {
        self.header_bytes().saturating_add(payload_bytes).next_multiple_of(self.alignment)
    }

    fn payload_bytes_of(&self, header: &FrameHeader) -> Option<usize> {
        let length = usize::try_from(header.length).ok()?;
        match self.length {
            LengthOf::Payload => Some(length),
            LengthOf::HeaderAndPayload => length.checked_sub(self.header_bytes()),
        }
    }

    fn padding(&self, payload_bytes: usize) -> &'static [u8] {
        static ZEROS: [u8; 16] = [0; 16];
        let unpadded = self.header_bytes() + payload_bytes;
        ZEROS.get(..unpadded.next_multiple_of(self.alignment) - unpadded).unwrap_or_default()
    }

    fn seal(&self, header: &FrameHeader, place: FrameAddress) -> u32 {
        let mut sum = crc32c_append(crc32c(&place.salt.to_le_bytes()), &place.at.to_le_bytes());
        if self.has_kind {
            sum = crc32c_append(sum, &header.kind);
        }
        crc32c_append(crc32c_append(sum, &header.length.to_le_bytes()), &header.sum.to_le_bytes())
    }
}

/// A random number to tell the frames of one file from those of any other. It comes from the randomness that the standard
/// library seeds its hash maps with.
pub fn random_salt() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Puts the checksum of all other bytes into the four at `sum_at`. The bytes are a file's first ones: a magic and numbers.
pub fn seal(bytes: &mut [u8], sum_at: usize) {
    let sum = sum_around(bytes, sum_at);
    if let Some(four) = bytes.get_mut(sum_at..).and_then(|rest| rest.first_chunk_mut()) {
        *four = sum.to_le_bytes();
    }
}

/// Whether [`seal`] wrote these bytes.
pub fn is_sealed(bytes: &[u8], sum_at: usize) -> bool {
    let sum = bytes.get(sum_at..).and_then(|rest| Fields(rest).u32());
    sum == Some(sum_around(bytes, sum_at))
}

fn sum_around(bytes: &[u8], sum_at: usize) -> u32 {
    let before = bytes.get(..sum_at).unwrap_or(bytes);
    crc32c_append(crc32c(before), bytes.get(sum_at.saturating_add(4)..).unwrap_or_default())
}

/// Takes little-endian numbers off the front of some bytes. `None` once there are too few left.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'b>(pub &'b [u8]);

impl<'b> Fields<'b> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<&'b [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    /// The next so many bytes.
    pub fn bytes(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The bytes behind a length of four bytes.
    pub fn counted_bytes(&mut self) -> Option<&'b [u8]> {
        let mut ahead = *self;
        let length = usize::try_from(ahead.u32()?).ok()?;
        let taken = ahead.bytes(length)?;
        *self = ahead;
        Some(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| *byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(|bytes| u128::from_le_bytes(*bytes))
    }
}

/// Passes bytes on to a writer, and keeps the checksum of all that it took.
#[derive(Debug)]
pub struct SumWriter<W> {
    out: W,
    sum: u32,
}

impl<W: Write> SumWriter<W> {
    /// One that passed nothing on yet.
    pub fn new(out: W) -> Self {
        Self { out, sum: 0 }
    }

    /// The checksum of what was passed on.
    pub fn sum(&self) -> u32 {
        self.sum
    }

    /// The writer behind it, for bytes that the checksum leaves out.
    pub fn unsummed(&mut self) -> &mut W {
        &mut self.out
    }
}

impl<W: Write> Write for SumWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum = crc32c_append(self.sum, bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Replaces a file with these bytes and their checksum. The failpoints are called `what`, as in [`replace`].
pub fn replace_summed(path: &Path, what: &'static str, bytes: &[u8]) -> io::Result<()> {
    replace(path, what, |file| {
        file.write_all(bytes)?;
        file.write_all(&crc32c(bytes).to_le_bytes())
    })
}

/// The bytes that [`replace_summed`] wrote; `None` if there is no such file. A file that does not match its checksum is an
/// error of the kind `InvalidData`.
pub fn read_summed(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let verified = bytes.split_last_chunk::<4>().filter(|(bytes, sum)| crc32c(bytes).to_le_bytes() == **sum);
    let Some(length) = verified.map(|(bytes, _)| bytes.len()) else {
        let damaged = format!("{} does not match its checksum", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    };
    bytes.truncate(length);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUTS: [FrameLayout; 3] = [
        FrameLayout {
            has_kind: false,
            length: LengthOf::Payload,
            checksum: Checksum::OfAll,
            alignment: 1,
            payload_bytes: 1..=300,
        },
        FrameLayout {
            has_kind: true,
            length: LengthOf::Payload,
            checksum: Checksum::OfPayloadAndHeader,
            alignment: 1,
            payload_bytes: 0..=300,
        },
        FrameLayout {
            has_kind: false,
            length: LengthOf::HeaderAndPayload,
            checksum: Checksum::OfPayloadAndHeader,
            alignment: 8,
            payload_bytes: 0..=300,
        },
    ];
    const PLACE: FrameAddress = FrameAddress { salt: 7, at: 48 };

    fn read<'b>(layout: &FrameLayout, bytes: &'b [u8], place: FrameAddress) -> Option<(&'b [u8], usize)> {
        let header = layout.read_header(bytes, place)?;
        let whole = bytes.get(..layout.frame_bytes(&header))?;
        let body = whole.get(layout.header_bytes()..)?;
        let payload = body.get(..layout.payload_bytes(&header))?;
        layout.matches(&header, body).then_some((payload, whole.len()))
    }

    #[test]
    fn a_frame_reads_back_and_a_frame_with_any_flipped_bit_does_not() {
        for layout in &LAYOUTS {
            for length in [1, 3, 4, 5, 12, 300] {
                let payload: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
                let mut bytes = vec![];
                layout.put(*b"kind", &payload, PLACE, &mut bytes).unwrap();
                assert_eq!(bytes.len(), layout.frame_bytes_of(length));
                assert_eq!(read(layout, &bytes, PLACE), Some((&payload[..], bytes.len())));
                for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                    bytes[at] ^= 1 << bit;
                    assert_eq!(read(layout, &bytes, PLACE), None, "{layout:?} byte {at} bit {bit}");
                    bytes[at] ^= 1 << bit;
                }
                for short in 0..bytes.len() {
                    assert_eq!(read(layout, &bytes[..short], PLACE), None, "{layout:?} cut at {short}");
                }
            }
        }
    }

    #[test]
    fn a_sealed_header_belongs_to_its_place_alone() {
        for layout in &LAYOUTS[1..] {
            let mut bytes = vec![];
            layout.put(*b"kind", b"payload", PLACE, &mut bytes).unwrap();
            for place in
                [FrameAddress { salt: 8, ..PLACE }, FrameAddress { at: 56, ..PLACE }, FrameAddress::ANY]
            {
                assert_eq!(read(layout, &bytes, place), None, "{layout:?} {place:?}");
            }
        }
    }

    #[test]
    fn a_payload_of_a_length_that_the_layout_does_not_allow_is_neither_written_nor_read() {
        let [catalogue, ..] = LAYOUTS;
        let wide = FrameLayout { payload_bytes: 0..=1000, ..catalogue };
        for length in [0, 301] {
            let mut bytes = vec![];
            assert!(
                LAYOUTS[0].put([0; 4], &vec![1; length], FrameAddress::ANY, &mut bytes).is_none()
                    && bytes.is_empty()
            );
            wide.put([0; 4], &vec![1; length], FrameAddress::ANY, &mut bytes).unwrap();
            assert!(LAYOUTS[0].read_header(&bytes, FrameAddress::ANY).is_none(), "{length}");
        }
        // A length that is less than the header which it counts.
        assert!(LAYOUTS[2].read_header(&[0; 12], PLACE).is_none());
    }

    #[test]
    fn a_summed_file_is_its_bytes_and_their_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert_eq!(read_summed(&path).unwrap(), None);
        replace_summed(&path, "x", b"hello").unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes, *b"hello\x4c\xbb\x71\x9a", "CRC-32C, little-endian, behind the bytes");
        assert_eq!(read_summed(&path).unwrap().as_deref(), Some(&b"hello"[..]));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert_eq!(read_summed(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
    }

    #[test]
    fn the_seal_of_a_head_covers_all_its_other_bytes() {
        for sum_at in [0, 5, 12] {
            let mut bytes = *b"magic67890123456";
            seal(&mut bytes, sum_at);
            assert!(is_sealed(&bytes, sum_at));
            for at in 0..bytes.len() {
                bytes[at] ^= 1;
                assert!(!is_sealed(&bytes, sum_at), "byte {at}");
                bytes[at] ^= 1;
            }
        }
        assert!(!is_sealed(b"abc", 0) && !is_sealed(b"abc", 9));
    }
}
