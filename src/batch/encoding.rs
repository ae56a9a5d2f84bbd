//! A batch file that comes compressed with gzip, zstd or deflate. It is decoded as a stream.
//!
//! Promises: the decoded bytes in memory are one buffer and, for zstd, a window of at most 8 MiB. A stream that is cut short,
//! is damaged, or is followed by anything but another stream (of deflate: by anything) is an error, never a shorter file.
//!
//! The number of empty members, blocks and frames has no limit, because they cost about as much as a file of their length. A
//! limit would not help. A lowest ratio of decoded to encoded bytes could be met with many zeros at the beginning, and a limit
//! on members would not count empty blocks.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

/// How many bytes are decoded at once.
const PIECE_BYTES: usize = 64 << 10;
/// The largest zstd window, as a power of two: 8 MiB, which RFC 9659 allows a body over HTTP to ask for.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// The error of zstd for a larger window.
const ZSTD_WINDOW_TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// How an uploaded batch file is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As it is.
    #[default]
    Plain,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// zstd (RFC 8878), any number of frames.
    Zstd,
    /// deflate: zlib (RFC 1950), or without its frame (RFC 1951), as some send it. One stream.
    Deflate,
}

impl Encoding {
    /// The encoding with this name in HTTP; `None` if it is not supported.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Plain),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// How many encoded bytes a file of fewer than `limit` bytes may have. A stream of stored blocks is longer than its
    /// content, by less than a 64th. Without this bound, a stream of empty members could go on for ever.
    pub fn encoded_bytes_max(self, limit: u64) -> u64 {
        match self {
            Self::Plain => limit.saturating_sub(1),
            Self::Gzip | Self::Zstd | Self::Deflate => limit.saturating_add(limit / 64).saturating_add(1024),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
        })
    }
}

/// Why a compressed file cannot be read. Says where and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ended before the stream did.
    #[error("the body's {encoding} stream was cut short: it ends after {at} bytes, in the middle")]
    CutShort {
        /// How it was decoded.
        encoding: Encoding,
        /// How many bytes the body has.
        at: u64,
    },
    /// zstd would need a larger window.
    #[error(
        "the body's zstd window is larger than 8 MiB, the most that a body may ask for (RFC 9659): compress it at \
         level 19 or below, without --long"
    )]
    LargeWindow,
    /// It is damaged, or not in this encoding.
    #[error(
        "the body is not {encoding}, or is damaged, or something follows its end, near byte {at}: {why}; send whole \
         {encoding} streams and nothing else"
    )]
    Damaged {
        /// How it was decoded.
        encoding: Encoding,
        /// How many bytes of the body were read before.
        at: u64,
        /// The decoder's error.
        why: String,
    },
}

/// Decodes a file as it is read. An error is final. An error of the source is passed on unchanged.
pub struct Decoded<R> {
    stream: Stream<Counted<R>>,
}

enum Stream<R> {
    Plain(R),
    Gzip(Box<BufReader<MultiGzDecoder<R>>>),
    Zstd(Box<BufReader<zstd::stream::read::Decoder<'static, R>>>),
    Deflate(Box<BufReader<Inflated<R>>>),
}

impl<R: BufRead> Decoded<R> {
    /// Decodes `source`. An empty source is an empty file in any encoding. This call reads already: it fails if the source
    /// fails, or if there is no memory for zstd.
    pub fn of(encoding: Encoding, mut source: R) -> io::Result<Self> {
        let first = source.fill_buf()?.first().copied();
        let encoding = if first.is_none() { Encoding::Plain } else { encoding };
        let source = Counted { source, taken: 0 };
        let stream = match encoding {
            Encoding::Plain => Stream::Plain(source),
            Encoding::Gzip => {
                Stream::Gzip(Box::new(BufReader::with_capacity(PIECE_BYTES, MultiGzDecoder::new(source))))
            }
            Encoding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Stream::Zstd(Box::new(BufReader::with_capacity(PIECE_BYTES, decoder)))
            }
            Encoding::Deflate => {
                // A stream without zlib's frame would have to begin with a stored block and a bit that is not zero, though it means
                // nothing.
                let framed = first.is_some_and(|first| first & 0x0f == ZLIB_METHOD);
                let inflated = Inflated { source, inflater: Decompress::new(framed), has_ended: false };
                Stream::Deflate(Box::new(BufReader::with_capacity(PIECE_BYTES, inflated)))
            }
        };
        Ok(Self { stream })
    }

    /// How many bytes of the source have been decoded.
    pub fn taken(&self) -> u64 {
        match &self.stream {
            Stream::Plain(source) => source.taken,
            Stream::Gzip(decoder) => decoder.get_ref().get_ref().taken,
            Stream::Zstd(decoder) => decoder.get_ref().get_ref().taken,
            Stream::Deflate(decoder) => decoder.get_ref().source.taken,
        }
    }

    /// What is wrong with the file, for an error that was not the source's.
    pub fn fault(&self, error: &io::Error) -> DecodeError {
        let at = self.taken();
        let encoding = match &self.stream {
            Stream::Plain(_) => Encoding::Plain,
            Stream::Gzip(_) => Encoding::Gzip,
            Stream::Zstd(_) => Encoding::Zstd,
            Stream::Deflate(_) => Encoding::Deflate,
        };
        let why = error.to_string();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            DecodeError::CutShort { encoding, at }
        } else if encoding == Encoding::Zstd && why == ZSTD_WINDOW_TOO_LARGE {
            DecodeError::LargeWindow
        } else {
            DecodeError::Damaged { encoding, at, why }
        }
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.fill_buf()?;
        let read = piece.read(room)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Decoded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.stream {
            Stream::Plain(source) => source.fill_buf(),
            Stream::Gzip(decoder) => decoder.fill_buf(),
            Stream::Zstd(decoder) => decoder.fill_buf(),
            Stream::Deflate(decoder) => decoder.fill_buf(),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match &mut self.stream {
            Stream::Plain(source) => source.consume(bytes),
            Stream::Gzip(decoder) => decoder.consume(bytes),
            Stream::Zstd(decoder) => decoder.consume(bytes),
            Stream::Deflate(decoder) => decoder.consume(bytes),
        }
    }
}

/// The low half of the first byte of zlib's frame: deflate.
const ZLIB_METHOD: u8 = 8;

/// A stream of deflate. The decoders of `flate2` for it take one that is cut short for a shorter one.
struct Inflated<R> {
    source: R,
    inflater: Decompress,
    has_ended: bool,
}

impl<R: BufRead> Read for Inflated<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        loop {
            let encoded = self.source.fill_buf()?;
            if self.has_ended {
                return if encoded.is_empty() {
                    Ok(0)
                } else {
                    Err(invalid("the stream ended before".into()))
                };
            }
            if room.is_empty() {
                return Ok(0);
            }
            let is_all = encoded.is_empty();
            let (taken, made) = (self.inflater.total_in(), self.inflater.total_out());
            let status = self.inflater.decompress(encoded, room, FlushDecompress::None);
            let taken = usize::try_from(self.inflater.total_in() - taken).unwrap_or(usize::MAX);
            let made = usize::try_from(self.inflater.total_out() - made).unwrap_or(usize::MAX);
            self.source.consume(taken);
            self.has_ended = status.map_err(|error| invalid(error.to_string()))? == Status::StreamEnd;
            if made > 0 {
                return Ok(made);
            }
            if is_all && !self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A source that counts the bytes that were read from it.
struct Counted<R> {
    source: R,
    taken: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(room)?;
        self.taken += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.source.consume(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::in_pieces::InPieces;
    use std::io::Write;

    const FILE: &[u8] = b"batch=thirdPartyId,a\nx,1\ny,2\nx,1\ny,2\nx,1\ny,2\n";

    fn encoded(encoding: Encoding, file: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Plain => file.to_vec(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
                encoder.write_all(file).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => {
                let mut encoder = zstd::Encoder::new(vec![], 3).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(file).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
                encoder.write_all(file).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    fn without_frame(file: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::new(level));
        encoder.write_all(file).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn deflate_is_taken_with_and_without_its_frame_and_whole() {
        let framed = encoded(Encoding::Deflate, FILE);
        let (stored, packed) = (without_frame(FILE, 0), without_frame(FILE, 9));
        for body in [&framed, &stored, &packed] {
            check(Encoding::Deflate, body, Ok(FILE));
            check(Encoding::Deflate, &[body, &b"x"[..]].concat(), Err("something follows its end"));
            check(Encoding::Deflate, &[&body[..], &body[..]].concat(), Err("something follows its end"));
            for end in 1..body.len() {
                check(Encoding::Deflate, &body[..end], Err(&format!("cut short: it ends after {end} bytes")));
            }
        }
        check(Encoding::Deflate, b"", Ok(b""));
        check(Encoding::Deflate, &encoded(Encoding::Deflate, b""), Ok(b""));
        check(Encoding::Deflate, FILE, Err("the body is not deflate"));
        let mut changed = framed;
        *changed.last_mut().unwrap() ^= 1;
        check(Encoding::Deflate, &changed, Err("is damaged"));
    }

    /// Decodes in pieces of several sizes. The result must be the same.
    fn decoded(encoding: Encoding, bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let once = |piece: usize| {
            let mut decoded = Decoded::of(encoding, InPieces(bytes, piece)).unwrap();
            let mut file = vec![];
            match decoded.read_to_end(&mut file) {
                Ok(_) => {
                    assert_eq!(decoded.taken(), bytes.len() as u64);
                    Ok(file)
                }
                Err(error) => Err(decoded.fault(&error)),
            }
        };
        let whole = once(usize::MAX);
        for piece in [1, 2, 3, 7] {
            let kind = |result: &Result<Vec<u8>, DecodeError>| {
                result.clone().map_err(|error| std::mem::discriminant(&error))
            };
            assert_eq!(kind(&once(piece)), kind(&whole), "{encoding} in pieces of {piece}");
        }
        whole
    }

    fn check(encoding: Encoding, bytes: &[u8], expected: Result<&[u8], &str>) {
        match (decoded(encoding, bytes), expected) {
            (Ok(file), Ok(expected)) => assert_eq!(file, expected),
            (Err(error), Err(words)) => {
                assert!(error.to_string().contains(words), "{words:?} in {error}");
            }
            (was, expected) => panic!("{encoding} {bytes:?} was {was:?}, not {expected:?}"),
        }
    }

    #[test]
    fn an_encoded_file_is_decoded_whole_and_in_pieces() {
        for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::Zstd] {
            let one = encoded(encoding, FILE);
            check(encoding, b"", Ok(b""));
            check(encoding, &one, Ok(FILE));
            check(encoding, &[one.as_slice(), &one].concat(), Ok(&FILE.repeat(2)));
            let none = encoded(encoding, b"");
            check(encoding, &[&none, one.as_slice(), &none].concat(), Ok(FILE));
            let large = FILE.repeat(10_000);
            check(encoding, &encoded(encoding, &large), Ok(&large));
        }
        let named = flate2::GzBuilder::new().filename("a.csv").comment("c").extra(vec![0; 300]);
        let mut named = named.write(vec![], flate2::Compression::best());
        named.write_all(FILE).unwrap();
        check(Encoding::Gzip, &named.finish().unwrap(), Ok(FILE));
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        skippable.extend(encoded(Encoding::Zstd, FILE));
        check(Encoding::Zstd, &skippable, Ok(FILE));
    }

    #[test]
    fn a_stream_that_is_cut_short_or_changed_or_followed_by_something_is_an_error() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let one = encoded(encoding, FILE);
            for end in 1..one.len() {
                check(encoding, &one[..end], Err(&format!("cut short: it ends after {end} bytes")));
            }
            let mut harmless = 0;
            for bit in 0..one.len() * 8 {
                let mut changed = one.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                if let Ok(file) = decoded(encoding, &changed) {
                    assert_eq!(file, FILE, "{encoding} bit {bit}");
                    harmless += 1;
                }
            }
            // In gzip, the time, the system and two further bytes don't matter for the file; in zstd, a bit or two.
            assert!(harmless < 60, "{encoding}: {harmless} changes were not seen");
            for rest in [&b"garbage"[..], b"\0\0\0\0\0\0\0\0", b"batch=thirdPartyId,a\n", &one[..4]] {
                assert!(decoded(encoding, &[&one, rest].concat()).is_err(), "{rest:?}");
            }
            check(encoding, FILE, Err(&format!("is not {encoding}")));
        }
    }

    #[test]
    fn a_zstd_window_has_8_mib_at_most() {
        let windowed = |log: u32| {
            let mut encoder = zstd::Encoder::new(vec![], 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(FILE).unwrap();
            encoder.finish().unwrap()
        };
        check(Encoding::Zstd, &windowed(23), Ok(FILE));
        check(Encoding::Zstd, &windowed(24), Err("larger than 8 MiB"));
        check(Encoding::Zstd, &windowed(27), Err("larger than 8 MiB"));
        // A window of 3.75 TiB, the largest that a frame can name.
        check(
            Encoding::Zstd,
            &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00],
            Err("larger than 8 MiB"),
        );
    }

    #[test]
    fn names_are_those_of_http() {
        let check = |name: &str, expected| assert_eq!(Encoding::named(name), expected, "{name}");
        check("", Some(Encoding::Plain));
        check("identity", Some(Encoding::Plain));
        check("gzip", Some(Encoding::Gzip));
        check("X-GZip", Some(Encoding::Gzip));
        check("Deflate", Some(Encoding::Deflate));
        check("zstd", Some(Encoding::Zstd));
        for other in ["br", "compress", "gzip, gzip", "gzip,identity", "aws-chunked", "*"] {
            check(other, None);
        }
    }
}
