//! Where one request ends and the next begins: reads the bytes of a connection beside hyper, and before it.
//!
//! Owns the reading of request heads, lengths and chunks, as far as they say how long a request is. Reads no socket and no clock.
//!
//! Promises: of each request that hyper takes, this module finds the same head and the same body, byte for byte. What it would
//! have to guess is a [`Violation`], and nothing after it is passed on. So it takes less than hyper does. A length has 1 to 19
//! digits. `chunked` is the only transfer coding, and stands alone. Lines that say how long a body or a chunk is must fit into
//! what is kept of a line. They end with CR LF, and hold no other CR. A byte of a path or query that hyper would refuse without a
//! word is a violation too; its message says what to encode. So is a `#`, because hyper drops what follows it without a word.
//! `tests/engine/fuzz.rs` compares this module with hyper.

use std::borrow::Cow;

use hyper::StatusCode;

use crate::config::HeadLimits;
use crate::telemetry::metrics::Limit;

/// Why a request is refused before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// There are two lengths, even if they are the same.
    LengthTwice,
    /// There are a length and a transfer coding.
    LengthAndEncoding,
    /// The length is not 1 to 19 digits.
    LengthUnclear,
    /// The transfer coding is not `chunked` alone, or is there twice.
    EncodingUnclear,
    /// There are two hosts.
    HostTwice,
    /// There are two authorisations.
    AuthorizationTwice,
    /// A line of the head ends with a line feed alone.
    BareLineFeed,
    /// The line before a chunk is not a size, or is too long.
    ChunkUnclear,
    /// The path or its query holds a byte that must be percent-encoded there.
    UriUnclear(u8),
    /// The path with its query has more bytes than these.
    UriTooLong(usize),
    /// The header has more bytes than these.
    HeaderTooLarge(usize),
    /// The header has more lines than these.
    TooManyHeaders(usize),
}

impl Violation {
    pub(super) fn message(self) -> Cow<'static, str> {
        let message = match self {
            Self::LengthTwice => "Content-Length is there twice: send it once",
            Self::LengthAndEncoding => {
                "Transfer-Encoding and Content-Length are both there: send one of them"
            }
            Self::LengthUnclear => "Content-Length is not a length: send 1 to 19 digits and nothing else",
            Self::EncodingUnclear => {
                "Transfer-Encoding is not taken: send chunked alone, once, or Content-Length"
            }
            Self::HostTwice => "Host is there twice: send it once",
            Self::AuthorizationTwice => "Authorization is there twice: send it once",
            Self::BareLineFeed => "a line of the header ends with a line feed alone: end lines with CR LF",
            Self::ChunkUnclear => {
                "what stands between two chunks of the body is not right: send a size of 1 to 16 hexadecimal digits, \
                 and CR LF"
            }
            Self::UriUnclear(byte) => {
                let shown = match byte {
                    b' ' => "a space".into(),
                    b'!'..=b'~' => format!("'{}'", char::from(byte)),
                    _ => "a control character".into(),
                };
                return format!(
                    "the path or its query holds {shown} as it is: percent-encode it, as %{byte:02X}"
                )
                .into();
            }
            Self::UriTooLong(max) => {
                return format!("the path with its query has more than {max} bytes: send parameters by POST")
                    .into();
            }
            Self::HeaderTooLarge(max) => {
                return format!("the header has more than {max} bytes: send fewer or shorter cookies").into();
            }
            Self::TooManyHeaders(max) => {
                return format!("the header has more than {max} lines: send fewer").into();
            }
        };
        message.into()
    }

    /// The status it is answered with.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::UriTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::HeaderTooLarge(_) | Self::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The limit that was hit, if one was.
    pub(super) const fn limit(self) -> Option<Limit> {
        match self {
            Self::UriTooLong(_) => Some(Limit::UriLength),
            Self::HeaderTooLarge(_) => Some(Limit::HeaderSize),
            Self::TooManyHeaders(_) => Some(Limit::HeaderCount),
            _ => None,
        }
    }
}

/// How many bytes of a line are kept: enough for the names that matter, and for any length.
const LINE_BYTES_KEPT: usize = 64;
/// The most digits of a length: none of so many overflows.
const LENGTH_DIGITS_MAX: usize = 19;
/// The most digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 16;
/// The largest chunk: no body is as large, and sums of such sizes do not overflow.
const CHUNK_BYTES_MAX: u64 = u64::MAX >> 1;

/// The state of the reading. It is right for requests that hyper takes; any other request ends the connection.
#[derive(Debug)]
pub struct Framing {
    limits: HeadLimits,
    state: State,
    /// What was seen in the head that is being read.
    head: Head,
    /// The start of the line that is being read.
    line: Vec<u8>,
    /// How many bytes it has so far, its line feed aside.
    line_bytes: usize,
    /// Whether the last of them is a carriage return, and whether there is one before the last.
    returned: bool,
    stray_return: bool,
    /// Heads that passed.
    heads: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    Head,
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Rejected(Violation),
}

#[derive(Debug, Default)]
struct Head {
    /// Lines that have ended; the first is the request line.
    lines: usize,
    /// Bytes of the whole head so far.
    bytes: usize,
    uri: Uri,
    line: HeaderLine,
    lengths: u32,
    length: u64,
    length_unclear: bool,
    encodings: u32,
    encoding_unclear: bool,
    hosts: u32,
    authorizations: u32,
    bare_line_feed: bool,
}

/// Where in the request line's path the reading is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Uri {
    #[default]
    Before,
    /// So many bytes into it, and whether they hold a query.
    In { bytes: usize, query: bool },
    /// So many bytes of [`VERSION`] behind it.
    After(usize),
}

/// What follows the path. It is appended to a request line that is cut.
const VERSION: &[u8] = b"HTTP/1.1\r\n\r\n";
/// How much of it is looked at: hyper says what it thinks of the rest.
const VERSION_BYTES_SEEN: usize = "HTTP/".len();

/// What the line that is being read holds so far.
#[derive(Debug, Default, Clone, Copy)]
struct HeaderLine {
    bytes: usize,
    colon: bool,
    /// Whether its last byte is a carriage return.
    returned: bool,
}

/// Where the reading stops, because what follows is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// How many of the bytes read may be passed on.
    pub at: usize,
    /// Why.
    pub violation: Violation,
    /// What completes the head that was passed on, if it was cut within one.
    pub ending: &'static [u8],
    /// Whether the head has passed already, and the violation is in the body.
    pub in_body: bool,
}

impl Framing {
    /// At the beginning of a connection whose heads have these limits.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            state: State::default(),
            head: Head::default(),
            line: vec![],
            line_bytes: 0,
            returned: false,
            stray_return: false,
            heads: 0,
        }
    }

    /// How many heads have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next byte is the first of a request, or of the end of the connection.
    pub fn between_requests(&self) -> bool {
        self.state == State::Between
    }

    /// Whether it is one of a head.
    pub fn in_head(&self) -> bool {
        self.state == State::Head
    }

    /// Whether it is one of what a body holds.
    pub fn in_content(&self) -> bool {
        matches!(self.state, State::Sized(_) | State::Chunk(_))
    }

    /// Whether the reading has ended.
    pub fn rejected(&self) -> bool {
        matches!(self.state, State::Rejected(_))
    }

    /// Takes the next bytes. If some are rejected, says where to cut, and why.
    pub fn advance(&mut self, bytes: &[u8]) -> Option<Cut> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.state {
                State::Rejected(_) => return None,
                State::Sized(left) => {
                    let left = skip(&mut rest, left);
                    self.state = if left == 0 { State::Between } else { State::Sized(left) };
                }
                State::Chunk(left) => {
                    let left = skip(&mut rest, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                }
                State::Between => self.state = State::Head,
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let in_body = self.state != State::Head;
                    let ending = self.read_line(&mut rest);
                    if let State::Rejected(violation) = self.state {
                        return Some(Cut { at: bytes.len() - rest.len(), violation, ending, in_body });
                    }
                }
            }
        }
        None
    }

    /// Reads to the end of the line, if it is there; gives what must follow if a head is cut here.
    fn read_line(&mut self, rest: &mut &[u8]) -> &'static [u8] {
        let end = memchr::memchr(b'\n', rest);
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        if self.state == State::Head
            && let Some(Cut { at, violation, ending, .. }) =
                self.head.measure(part, end.is_some(), self.limits)
        {
            self.state = State::Rejected(violation);
            *rest = rest.get(at..).unwrap_or_default();
            return ending;
        }
        let room = LINE_BYTES_KEPT.saturating_sub(self.line.len()).min(part.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or_default());
        self.line_bytes += part.len();
        if let Some((last, before)) = part.split_last() {
            self.stray_return |= self.returned || memchr::memchr(b'\r', before).is_some();
            self.returned = *last == b'\r';
        }
        *rest = after.get(1..).unwrap_or_default();
        if end.is_some() {
            let (mut line, bytes) = (std::mem::take(&mut self.line), std::mem::take(&mut self.line_bytes));
            let returned = std::mem::take(&mut self.returned);
            let ends_well = returned && !std::mem::take(&mut self.stray_return);
            self.state = self.after_line(&line, bytes == line.len(), ends_well);
            line.clear();
            self.line = line;
        } else if self.line_bytes > LINE_BYTES_KEPT
            && matches!(self.state, State::ChunkSize | State::ChunkEnd)
        {
            self.state = State::Rejected(Violation::ChunkUnclear);
        }
        b""
    }

    /// What comes behind a line of which this was kept; `whole` says that this is all of it, `ends_well` that it ends with
    /// CR LF and holds no other CR.
    fn after_line(&mut self, kept: &[u8], whole: bool, ends_well: bool) -> State {
        let line = kept.strip_suffix(b"\r").unwrap_or(kept);
        match self.state {
            State::Head if line.is_empty() => self.after_head(),
            State::Head => {
                self.head.see(line, whole);
                State::Head
            }
            // hyper looks for a CR first, and then for its LF: where one is alone, it reads other lines than others do.
            _ if !ends_well => State::Rejected(Violation::ChunkUnclear),
            State::ChunkSize => match Some(line).filter(|_| whole).and_then(chunk_size) {
                Some(0) => State::Trailers,
                Some(size) => State::Chunk(size),
                None => State::Rejected(Violation::ChunkUnclear),
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => State::Rejected(Violation::ChunkUnclear),
            State::Trailers if line.is_empty() => State::Between,
            other => other,
        }
    }

    fn after_head(&mut self) -> State {
        let head = std::mem::take(&mut self.head);
        if head.lines == 0 {
            // Empty lines before a request are skipped.
            return State::Between;
        }
        if let Some(violation) = head.violation() {
            return State::Rejected(violation);
        }
        self.heads += 1;
        match (head.encodings, head.length) {
            (0, 0) => State::Between,
            (0, length) => State::Sized(length),
            _ => State::ChunkSize,
        }
    }
}

impl Head {
    /// Takes the next bytes of a line, and whether it ends behind them. If a limit is passed, says where to cut.
    fn measure(&mut self, part: &[u8], ends: bool, limits: HeadLimits) -> Option<Cut> {
        let begins = self.line.bytes == 0 && part.first().is_some_and(|first| *first != b'\r');
        if begins && self.lines > limits.lines_max {
            let violation = Violation::TooManyHeaders(limits.lines_max);
            return Some(Cut { at: 0, violation, ending: self.line.ending(), in_body: false });
        }
        let (uri, line, room) = (self.uri, self.line, limits.bytes_max.saturating_sub(self.bytes));
        let cut = if self.lines == 0 { self.uri.measure(part, limits.uri_bytes_max) } else { None };
        let bytes = part.len() + usize::from(ends);
        if let Some(cut) = cut.filter(|cut| cut.at <= room) {
            return Some(cut);
        }
        if bytes > room {
            let passed = part.get(..room).unwrap_or(part);
            let ending = if self.lines == 0 { uri.and(passed).ending() } else { line.and(passed).ending() };
            // What is left of a request line behind its path hyper reads to the end or refuses by itself.
            if !ending.is_empty() {
                let violation = Violation::HeaderTooLarge(limits.bytes_max);
                return Some(Cut { at: room, violation, ending, in_body: false });
            }
        }
        self.bytes += bytes;
        self.bare_line_feed |= ends && !line.and(part).returned;
        self.line = if ends { HeaderLine::default() } else { line.and(part) };
        None
    }

    /// Takes a line's beginning; `whole` says that it is all of it. What is kept of a line holds each name looked at.
    fn see(&mut self, line: &[u8], whole: bool) {
        self.lines += 1;
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            match number(trimmed(value), 10, LENGTH_DIGITS_MAX).filter(|_| whole) {
                Some(length) => self.length = length,
                None => self.length_unclear = true,
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
            self.encoding_unclear |= !whole || !trimmed(value).eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"authorization") {
            self.authorizations += 1;
        }
    }

    fn violation(&self) -> Option<Violation> {
        if self.lengths > 0 && self.encodings > 0 {
            Some(Violation::LengthAndEncoding)
        } else if self.lengths > 1 {
            Some(Violation::LengthTwice)
        } else if self.length_unclear {
            Some(Violation::LengthUnclear)
        } else if self.encoding_unclear || self.encodings > 1 {
            Some(Violation::EncodingUnclear)
        } else if self.hosts > 1 {
            Some(Violation::HostTwice)
        } else if self.authorizations > 1 {
            Some(Violation::AuthorizationTwice)
        } else if self.bare_line_feed {
            Some(Violation::BareLineFeed)
        } else {
            None
        }
    }
}

impl Uri {
    /// Takes the next bytes of the request line; says where to cut if not all of them may be passed on.
    fn measure(&mut self, part: &[u8], max: usize) -> Option<Cut> {
        let mut at = 0;
        if *self == Self::Before {
            at = memchr::memchr(b' ', part)? + 1;
            *self = Self::In { bytes: 0, query: false };
        }
        for byte in part.get(at..).unwrap_or_default() {
            let cut = |violation, ending| Some(Cut { at, violation, ending, in_body: false });
            match self {
                // hyper says what it thinks of a line that ends before its version.
                _ if *byte == b'\r' => return None,
                Self::Before => return None,
                Self::In { .. } if *byte == b' ' => *self = Self::After(0),
                Self::In { query, .. } if must_be_encoded(*byte, *query) => {
                    return cut(Violation::UriUnclear(*byte), self.ending());
                }
                Self::In { bytes, .. } if *bytes >= max => {
                    return cut(Violation::UriTooLong(max), self.ending());
                }
                Self::In { bytes, query } => {
                    *bytes += 1;
                    *query |= *byte == b'?';
                }
                Self::After(VERSION_BYTES_SEEN..) => return None,
                Self::After(seen) => {
                    if VERSION.get(*seen) != Some(byte) {
                        let rest = VERSION.get(*seen..).unwrap_or_default();
                        return cut(Violation::UriUnclear(b' '), rest);
                    }
                    *seen += 1;
                }
            }
            at += 1;
        }
        None
    }

    fn and(mut self, part: &[u8]) -> Self {
        self.measure(part, usize::MAX);
        self
    }

    /// What makes a whole head of a request line that is cut here; nothing behind the path.
    const fn ending(self) -> &'static [u8] {
        match self {
            Self::Before => b" / HTTP/1.1\r\n\r\n",
            Self::In { bytes: 0, .. } => b"/ HTTP/1.1\r\n\r\n",
            Self::In { .. } => b" HTTP/1.1\r\n\r\n",
            Self::After(_) => b"",
        }
    }
}

/// Whether a byte may not stand in a path, or in its query, as it is. Less than RFC 3986 would have it: what hyper takes
/// is taken (`{`, `|`, `"` in a path), but for `#`.
const fn must_be_encoded(byte: u8, in_query: bool) -> bool {
    match byte {
        b'"' => in_query,
        b'`' => !in_query,
        _ => byte < b' ' || matches!(byte, b'#' | b'<' | b'>' | 0x7f),
    }
}

impl HeaderLine {
    fn and(self, part: &[u8]) -> Self {
        Self {
            bytes: self.bytes + part.len(),
            colon: self.colon || memchr::memchr(b':', part).is_some(),
            returned: part.last().map_or(self.returned, |last| *last == b'\r'),
        }
    }

    /// What makes a whole head of one whose line is cut here.
    const fn ending(self) -> &'static [u8] {
        match self {
            Self { bytes: 0, .. } => b"\r\n",
            Self { bytes: 1, returned: true, .. } => b"\n",
            Self { colon: true, returned: true, .. } => b"\n\r\n",
            Self { colon: true, returned: false, .. } => b"\r\n\r\n",
            Self { colon: false, .. } => b":\r\n\r\n",
        }
    }
}

/// Drops at most `count` bytes from the front; gives how many of them are still to come.
fn skip(rest: &mut &[u8], count: u64) -> u64 {
    let here = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
    *rest = rest.get(here..).unwrap_or_default();
    count - here as u64
}

/// A header's value without the blanks around it.
fn trimmed(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(begin) = value.iter().position(|byte| !blank(byte)) else { return b"" };
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    value.get(begin..end).unwrap_or_default()
}

/// A number, if that is all there is, in so many digits at most.
fn number(text: &[u8], radix: u32, digits_max: usize) -> Option<u64> {
    let digits = |text: &[u8]| text.iter().all(|byte| char::from(*byte).is_digit(radix));
    let text = Some(text).filter(|text| text.len() <= digits_max && digits(text))?;
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// The size that a line before a chunk says, whatever else it says behind a semicolon.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?;
    // Blanks may follow the digits, and not stand before them.
    let digits = size.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    number(size.get(..digits)?, 16, SIZE_DIGITS_MAX).filter(|size| *size <= CHUNK_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: HeadLimits = HeadLimits { bytes_max: 1 << 20, lines_max: 1 << 10, uri_bytes_max: 1 << 16 };

    /// Reads a stream whole, and again byte by byte; says how many heads passed, whether the reading ended between two
    /// requests, and what it rejected.
    fn check(stream: &str, heads: u64, between: bool, rejected: Option<(usize, Violation)>) {
        let mut whole = Framing::new(LARGE);
        let found = whole.advance(stream.as_bytes()).map(|cut| (cut.at, cut.violation));
        assert_eq!(found, rejected, "{stream:?}");
        assert_eq!((whole.heads, whole.between_requests()), (heads, between), "{stream:?}");
        let mut slow = Framing::new(LARGE);
        let found = stream
            .bytes()
            .enumerate()
            .find_map(|(at, byte)| slow.advance(&[byte]).map(|cut| (at + cut.at, cut.violation)));
        assert_eq!(found, rejected, "{stream:?} byte by byte");
        assert_eq!((slow.heads, slow.between_requests()), (heads, between), "{stream:?} byte by byte");
    }

    #[test]
    fn requests_are_separated_and_bodies_skipped() {
        check("", 0, true, None);
        check("\r\n\r\n", 0, true, None);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, true, None);
        check("GET / HTTP/1.1\r\nHost: a\r\n", 0, false, None);
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nHost:", 1, true, None);
        check("POST / HTTP/1.1\r\ncontent-length:4\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2, true, None);
        check("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n1234", 1, false, None);
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}5;x=y\r\nHost:\r\n0\r\n\r\n"), 1, true, None);
        check(&format!("{chunked}A\r\n0123456789\r\n0\r\nA: b\r\n\r\n{chunked}"), 2, false, None);
        check(&format!("{chunked}5 \t \r\nHost:\r\n0 ;x\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 2, true, None);
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_condemned() {
        let violates = |headers: &str, violation| {
            let stream = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            check(&stream, 0, false, Some((stream.len(), violation)));
            let after = format!("GET / HTTP/1.1\r\n\r\n{stream}");
            check(&after, 1, false, Some((after.len(), violation)));
            check(&format!("{stream}GET / HTTP/1.1\r\n\r\n"), 0, false, Some((stream.len(), violation)));
        };
        violates("Content-Length: 5\r\nContent-Length: 5\r\n", Violation::LengthTwice);
        violates("Content-Length: 0\r\nCONTENT-LENGTH: 5\r\n", Violation::LengthTwice);
        violates("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Violation::LengthAndEncoding);
        violates("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Violation::LengthAndEncoding);
        violates("Host: a\r\nHost: a\r\n", Violation::HostTwice);
        violates("Authorization: a\r\nauthorization: b\r\n", Violation::AuthorizationTwice);
        violates("X: y\n", Violation::BareLineFeed);
        // What is kept of a line holds 64 bytes: whatever has its say behind them is not guessed.
        violates(&format!("Content-Length:{}16\r\n", " ".repeat(60)), Violation::LengthUnclear);
        violates(&format!("Content-Length: {}16\r\n", "0".repeat(62)), Violation::LengthUnclear);
        violates(&format!("Content-Length: 16{}\r\n", " ".repeat(60)), Violation::LengthUnclear);
        for length in
            ["", " ", "+5", "-5", "0x5", "5,5", "5 5", "5;", "\x0b5", "5\x0c", "00000000000000000005"]
        {
            violates(&format!("Content-Length: {length}\r\n"), Violation::LengthUnclear);
        }
        for coding in
            ["", "gzip", "gzip, chunked", "chunked, chunked", "\"chunked\"", "chunked;q=1", "chunked,"]
        {
            violates(&format!("Transfer-Encoding: {coding}\r\n"), Violation::EncodingUnclear);
        }
        violates(&format!("Transfer-Encoding: chunked{}\r\n", " ".repeat(60)), Violation::EncodingUnclear);
        violates("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n", Violation::EncodingUnclear);
        violates(&format!("X: {}\nY: z\r\n", "x".repeat(100)), Violation::BareLineFeed);
    }

    /// hyper answered such a request with a 400 that has no word in it, and dropped in silence what stands behind a `#`.
    #[test]
    fn what_must_be_encoded_in_a_path_or_a_query_is_cut_there_and_named() {
        let check = |target: &str, passed: &str, violation: Option<Violation>| {
            let stream = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            for step in [1, 2, 5, stream.len()] {
                let (mut framing, mut seen) = (Framing::new(LARGE), String::new());
                let mut found = None;
                for part in stream.as_bytes().chunks(step) {
                    let cut = framing.advance(part);
                    seen.push_str(
                        std::str::from_utf8(&part[..cut.map_or(part.len(), |cut| cut.at)]).unwrap(),
                    );
                    if let Some(cut) = cut {
                        seen.push_str(std::str::from_utf8(cut.ending).unwrap());
                        found = Some(cut.violation);
                        break;
                    }
                }
                let passed = if violation.is_none() { stream.as_str() } else { passed };
                assert_eq!((seen.as_str(), found), (passed, violation), "{stream:?} by {step}");
            }
        };
        for byte in ['<', '>', '"', '#', '\t', '\0', '\x7f', ' '] {
            let violation = Some(Violation::UriUnclear(byte as u8));
            check(&format!("/p?a=1&b=x{byte}y&c=2"), "GET /p?a=1&b=x HTTP/1.1\r\n\r\n", violation);
        }
        for byte in ['<', '>', '`', '#', '\t', ' '] {
            let violation = Some(Violation::UriUnclear(byte as u8));
            check(&format!("/p{byte}q?a"), "GET /p HTTP/1.1\r\n\r\n", violation);
            check(
                &format!("{byte}q"),
                if byte == ' ' { "GET  HTTP/1.1\r\n\r\n" } else { "GET / HTTP/1.1\r\n\r\n" },
                violation,
            );
        }
        check("/p?a=x Hy", "GET /p?a=x HTTP/1.1\r\n\r\n", Some(Violation::UriUnclear(b' ')));
        check("/{p}|\"q\"/^[]\\?a={}|\\^[]`'!$&()*+,;=:@?/", "", None);
        let message = |byte| Violation::UriUnclear(byte).message();
        assert_eq!(message(b'<'), "the path or its query holds '<' as it is: percent-encode it, as %3C");
        assert_eq!(message(b' '), "the path or its query holds a space as it is: percent-encode it, as %20");
        assert_eq!(
            message(b'\t'),
            "the path or its query holds a control character as it is: percent-encode it, as %09"
        );
    }

    #[test]
    fn what_stands_between_chunks_is_a_size_or_condemned() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let violates = |chunks: &str, upto: usize| {
            let cut = Some((head.len() + upto, Violation::ChunkUnclear));
            check(&format!("{head}{chunks}GET / HTTP/1.1\r\n\r\n"), 1, false, cut);
        };
        for (chunks, line) in [
            ("zz\r\n\r\n", "zz\r\n"),
            ("\r\n", "\r\n"),
            (" 5\r\n", " 5\r\n"),
            ("5 5\r\n", "5 5\r\n"),
            ("0x5\r\n", "0x5\r\n"),
            ("5\nHost:\r\n", "5\n"),
            ("5;a\nHost:\r\n", "5;a\n"),
            ("5;\ra\r\nHost:\r\n", "5;\ra\r\n"),
            ("8000000000000000\r\n", "8000000000000000\r\n"),
            ("00000000000000005\r\n", "00000000000000005\r\n"),
            ("5\r\nHost:\n", "5\r\nHost:\n"),
            ("5\r\nHost:X\r\n", "5\r\nHost:X\r\n"),
            // hyper takes a line feed alone for a trailer's first byte, and for one within it.
            ("0\r\n\n", "0\r\n\n"),
            ("0\r\na: b\n\r\n", "0\r\na: b\n"),
            ("0\r\na: \rb\r\n\r\n", "0\r\na: \rb\r\n"),
        ] {
            violates(chunks, line.len());
        }
        // Nobody has to send the end of a line that is longer than is taken.
        for line in ["0".repeat(65), format!("5;{}", "x".repeat(63))] {
            let mut framing = Framing::new(LARGE);
            let cut = framing.advance(format!("{head}{line}").as_bytes());
            assert_eq!(
                cut.map(|cut| (cut.violation, cut.in_body)),
                Some((Violation::ChunkUnclear, true)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_header_that_is_too_large_is_cut_where_it_passes_the_limit_and_ended() {
        let limits = HeadLimits { bytes_max: 40, lines_max: 3, uri_bytes_max: 10 };
        // What hyper gets to read: what was passed on, and the end that is put to it.
        let check = |stream: &str, passed: &str, violation| {
            for step in [1, 2, 3, 7, stream.len()] {
                let (mut framing, mut seen) = (Framing::new(limits), String::new());
                let mut found = None;
                for part in stream.as_bytes().chunks(step) {
                    let cut = framing.advance(part);
                    let end = cut.map_or(part.len(), |cut| cut.at);
                    seen.push_str(std::str::from_utf8(&part[..end]).unwrap());
                    if let Some(cut) = cut {
                        seen.push_str(std::str::from_utf8(cut.ending).unwrap());
                        found = Some(cut.violation);
                        break;
                    }
                }
                assert_eq!((seen.as_str(), found), (passed, violation), "{stream:?} by {step}");
            }
        };
        let uri = Some(Violation::UriTooLong(10));
        let size = Some(Violation::HeaderTooLarge(40));
        let count = Some(Violation::TooManyHeaders(3));
        let fits = "GET /123456789 HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n";
        check(&fits[2..], &fits[2..], None);
        check("GET /1234567890 HTTP/1.1\r\n\r\n", "GET /123456789 HTTP/1.1\r\n\r\n", uri);
        check("GET /1234567890", "GET /123456789 HTTP/1.1\r\n\r\n", uri);
        check(&"G".repeat(50), &format!("{} / HTTP/1.1\r\n\r\n", "G".repeat(40)), size);
        let long = |n: usize| "x".repeat(n);
        check(&format!("{} {}", long(39), long(9)), &format!("{} / HTTP/1.1\r\n\r\n", long(39)), size);
        check(&format!("{} {}", long(36), long(9)), &format!("{} xxx HTTP/1.1\r\n\r\n", long(36)), size);
        let line = "GET / HTTP/1.1\r\n";
        check(&format!("{line}{}", long(30)), &format!("{line}{}:\r\n\r\n", long(24)), size);
        check(&format!("{line}A: {}", long(30)), &format!("{line}A: {}\r\n\r\n", long(21)), size);
        // The limit is between a carriage return and its line feed, behind a line, and within the empty line.
        check(&format!("{line}A: {}\r\nB: c", long(20)), &format!("{line}A: {}\r\n\r\n", long(20)), size);
        check(&format!("{line}A: {}\r\nB: c", long(19)), &format!("{line}A: {}\r\n\r\n", long(19)), size);
        check(&format!("{line}A: {}\r\n\r\n", long(18)), &format!("{line}A: {}\r\n\r\n", long(18)), size);
        check(&format!("{line}A: {}\r\n\r\n", long(17)), &format!("{line}A: {}\r\n\r\n", long(17)), None);
        // A request line that the limit falls into behind its path is read to its end.
        let method = long(28);
        check(&format!("{method} / HTTP/1.1\r\nA: b\r\n\r\n"), &format!("{method} / HTTP/1.1\r\n\r\n"), size);
        check("G / HTTP/1.1\nA:\nB:\nC:\nD:\n\n", "G / HTTP/1.1\nA:\nB:\nC:\n\r\n", count);
        let three = "G / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n\r\n";
        check(three, three, None);
    }
}
