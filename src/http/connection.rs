//! What stands between the socket and hyper: it finds requests that two readers could understand differently, bounds
//! how long a header may take to arrive and how large it may be, and closes so that a client which is still sending gets
//! to read the answer.
//!
//! hyper takes a request that bears both `Transfer-Encoding` and `Content-Length`, or a length or host twice, or lines
//! that end with a line feed alone, and hides that it did. Here such a request is the last that the connection reads, and
//! is answered with 400. A header that is too large hyper would answer with no word, and behind the answers to other
//! requests; here it is cut where it passes the limit and ended for it, so that hyper takes it for whole, and what refuses
//! other requests refuses it, too.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::HeadLimits;
use crate::telemetry::metrics::{Limit, Metrics};

/// How many bytes are read and dropped at most, so that a client can finish sending what was refused: more than the
/// largest batch.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const LINGER_MAX: Duration = Duration::from_secs(30);
/// How long a client may be silent meanwhile.
const LINGER_IDLE_MAX: Duration = Duration::from_secs(2);
/// How long a client may leave an answer unread before it counts as gone.
const WRITE_IDLE_MAX: Duration = Duration::from_secs(30);

/// Why a request is refused before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offence {
    LengthTwice,
    LengthAndEncoding,
    HostTwice,
    AuthorizationTwice,
    BareLineFeed,
    /// The path with its query has more bytes than these.
    UriTooLong(usize),
    /// The header has more bytes than these.
    HeaderTooLarge(usize),
    /// The header has more lines than these.
    TooManyHeaders(usize),
}

impl Offence {
    pub(super) fn told(self) -> Cow<'static, str> {
        let told = match self {
            Self::LengthTwice => "Content-Length is there twice: send it once",
            Self::LengthAndEncoding => {
                "Transfer-Encoding and Content-Length are both there: send one of them"
            }
            Self::HostTwice => "Host is there twice: send it once",
            Self::AuthorizationTwice => "Authorization is there twice: send it once",
            Self::BareLineFeed => "a line of the header ends with a line feed alone: end lines with CR LF",
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
        told.into()
    }

    /// The status it is answered with.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::UriTooLong(_) => StatusCode::URI_TOO_LONG,
            Self::HeaderTooLarge(_) | Self::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The limit that was hit, if that is why.
    pub(super) const fn limit(self) -> Option<Limit> {
        match self {
            Self::UriTooLong(_) => Some(Limit::UriLength),
            Self::HeaderTooLarge(_) => Some(Limit::HeaderSize),
            Self::TooManyHeaders(_) => Some(Limit::HeaderCount),
            _ => None,
        }
    }
}

/// What the connection tells the service: which of its requests, the first is 0, must be refused, and why. There is at
/// most one, for nothing is read after it.
#[derive(Debug, Default)]
pub(super) struct Verdict(OnceLock<(u64, Offence)>);

impl Verdict {
    pub(super) fn on(&self, request: u64) -> Option<Offence> {
        self.0.get().filter(|(condemned, _)| *condemned == request).map(|(_, offence)| *offence)
    }
}

/// A socket that is watched.
pub(super) struct Watched<S> {
    socket: S,
    framing: Framing,
    /// What is still to be read instead of the rest of a header that was cut.
    ending: &'static [u8],
    verdict: Arc<Verdict>,
    header_read_max: Duration,
    metrics: Arc<Metrics>,
    /// Runs while a header is arriving.
    header_due: Option<Pin<Box<Sleep>>>,
    /// Runs while the client does not take what is written.
    write_due: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

struct Linger {
    bytes_left: usize,
    until: Instant,
    idle: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    /// Watches a socket on which a first request is to arrive within `header_read_max`.
    pub(super) fn new(
        socket: S,
        header_read_max: Duration,
        heads: HeadLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            socket,
            framing: Framing::new(heads),
            ending: b"",
            verdict: Arc::default(),
            header_read_max,
            metrics,
            header_due: Some(Box::pin(sleep_until(Instant::now() + header_read_max))),
            write_due: None,
            linger: None,
        }
    }

    pub(super) fn verdict(&self) -> Arc<Verdict> {
        Arc::clone(&self.verdict)
    }

    fn watch_header(&mut self) {
        if !self.framing.in_head() {
            self.header_due = None;
        } else if self.header_due.is_none() {
            self.header_due = Some(Box::pin(sleep_until(Instant::now() + self.header_read_max)));
        }
    }
}

impl<S> Watched<S> {
    /// Gives as much of the end of a header that was cut as there is room for.
    fn end_header(&mut self, buffer: &mut ReadBuf<'_>) {
        let (here, later) = self.ending.split_at(self.ending.len().min(buffer.remaining()));
        buffer.put_slice(here);
        self.ending = later;
    }
}

fn overdue(due: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready())
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ending.is_empty() {
            this.end_header(buffer);
            return Poll::Ready(Ok(()));
        }
        if this.framing.condemned() {
            // Not the end of the stream: hyper would take that for a client that has gone, and not answer.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buffer) {
            Poll::Pending if overdue(&mut this.header_due, cx) => {
                this.metrics.hit(Limit::HeaderReadTimeout);
                let why = "the request's header took too long";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
            Poll::Ready(Ok(())) => {
                let read = buffer.filled().get(before..).unwrap_or_default();
                if let Some(Cut { at, offence, ending }) = this.framing.advance(read) {
                    this.verdict.0.get_or_init(|| (this.framing.heads, offence));
                    buffer.set_filled(before + at);
                    this.ending = ending;
                    this.end_header(buffer);
                }
                this.watch_header();
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.watch_write(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        if this.framing.between_requests() {
            return Poll::Ready(Ok(()));
        }
        // Closing a socket that holds unread bytes resets the connection, and the client may lose the answer.
        let now = Instant::now();
        let linger = this.linger.get_or_insert_with(|| Linger {
            bytes_left: LINGER_BYTES_MAX,
            until: now + LINGER_MAX,
            idle: Box::pin(sleep_until(now + LINGER_IDLE_MAX)),
        });
        let mut room = vec![0; 64 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut this.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => {
                    let read = buffer.filled().len();
                    if read == 0 || linger.bytes_left < read || Instant::now() > linger.until {
                        return Poll::Ready(Ok(()));
                    }
                    linger.bytes_left -= read;
                    linger.idle.as_mut().reset(Instant::now() + LINGER_IDLE_MAX);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.idle.as_mut().poll(cx).map(Ok),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

impl<S> Watched<S> {
    fn watch_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write_due = None;
            return written;
        }
        self.write_due.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_IDLE_MAX)));
        if overdue(&mut self.write_due, cx) {
            self.metrics.hit(Limit::AnswerUnread);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read")));
        }
        Poll::Pending
    }
}

/// As much of a header line as is kept: enough for the names looked at, and any length.
const LINE_BYTES_KEPT: usize = 64;

/// Where in the stream of requests the reading is. It need be right only for requests that hyper takes; for any other
/// the connection ends anyway.
#[derive(Debug)]
struct Framing {
    limits: HeadLimits,
    place: Place,
    /// What was seen in the head that is being read.
    head: Head,
    /// The start of the line that is being read.
    line: Vec<u8>,
    /// Heads that passed.
    heads: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Between,
    Head,
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Condemned(Offence),
}

#[derive(Debug, Default)]
struct Head {
    /// Lines that have ended; the first is the request line.
    lines: usize,
    /// Bytes of the whole head so far.
    bytes: usize,
    uri: Uri,
    line: Line,
    lengths: u32,
    length: u64,
    encodings: u32,
    hosts: u32,
    authorizations: u32,
    bare_line_feed: bool,
}

/// Where in the request line's path the reading is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Uri {
    #[default]
    Before,
    /// So many bytes into it.
    In(usize),
    After,
}

/// What the line that is being read holds so far.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    bytes: usize,
    colon: bool,
    /// Whether its last byte is a carriage return.
    returned: bool,
}

/// Where a head ends that is not to be taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// How many of the bytes read may be passed on.
    at: usize,
    offence: Offence,
    /// What makes a whole head of what was passed on.
    ending: &'static [u8],
}

impl Framing {
    fn new(limits: HeadLimits) -> Self {
        Self { limits, place: Place::default(), head: Head::default(), line: vec![], heads: 0 }
    }

    fn between_requests(&self) -> bool {
        self.place == Place::Between
    }

    fn in_head(&self) -> bool {
        self.place == Place::Head
    }

    fn condemned(&self) -> bool {
        matches!(self.place, Place::Condemned(_))
    }

    /// Takes what was read. If there is a head in it that is not to be taken, says up to where it is, and why.
    fn advance(&mut self, bytes: &[u8]) -> Option<Cut> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.place {
                Place::Condemned(_) => return None,
                Place::Sized(left) => {
                    let left = skip(&mut rest, left);
                    self.place = if left == 0 { Place::Between } else { Place::Sized(left) };
                }
                Place::Chunk(left) => {
                    let left = skip(&mut rest, left);
                    self.place = if left == 0 { Place::ChunkEnd } else { Place::Chunk(left) };
                }
                Place::Between => self.place = Place::Head,
                Place::Head | Place::ChunkSize | Place::ChunkEnd | Place::Trailers => {
                    let ending = self.read_line(&mut rest);
                    if let Place::Condemned(offence) = self.place {
                        return Some(Cut { at: bytes.len() - rest.len(), offence, ending });
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
        if self.place == Place::Head
            && let Some(Cut { at, offence, ending }) = self.head.measure(part, end.is_some(), self.limits)
        {
            self.place = Place::Condemned(offence);
            *rest = rest.get(at..).unwrap_or_default();
            return ending;
        }
        let room = LINE_BYTES_KEPT.saturating_sub(self.line.len()).min(part.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or_default());
        *rest = after.get(1..).unwrap_or_default();
        if end.is_some() {
            let mut line = std::mem::take(&mut self.line);
            self.place = self.after_line(line.strip_suffix(b"\r").unwrap_or(&line));
            line.clear();
            self.line = line;
        }
        b""
    }

    fn after_line(&mut self, line: &[u8]) -> Place {
        match self.place {
            Place::Head if line.is_empty() => self.after_head(),
            Place::Head => {
                self.head.see(line);
                Place::Head
            }
            Place::ChunkSize => match leading_number(line, 16) {
                Some(0) => Place::Trailers,
                Some(size) => Place::Chunk(size),
                // hyper refuses it, and reads no further.
                None => Place::Sized(u64::MAX),
            },
            Place::ChunkEnd => Place::ChunkSize,
            Place::Trailers if line.is_empty() => Place::Between,
            other => other,
        }
    }

    fn after_head(&mut self) -> Place {
        let head = std::mem::take(&mut self.head);
        if head.lines == 0 {
            // Empty lines before a request are skipped.
            return Place::Between;
        }
        if let Some(offence) = head.offence() {
            return Place::Condemned(offence);
        }
        self.heads += 1;
        match (head.encodings, head.length) {
            (0, 0) => Place::Between,
            (0, length) => Place::Sized(length),
            _ => Place::ChunkSize,
        }
    }
}

impl Head {
    /// Takes the next bytes of a line, and whether it ends behind them. If a limit is passed, says where to cut.
    fn measure(&mut self, part: &[u8], ends: bool, limits: HeadLimits) -> Option<Cut> {
        let begins = self.line.bytes == 0 && part.first().is_some_and(|first| *first != b'\r');
        if begins && self.lines > limits.lines_max {
            let offence = Offence::TooManyHeaders(limits.lines_max);
            return Some(Cut { at: 0, offence, ending: self.line.ending() });
        }
        let (uri, line, room) = (self.uri, self.line, limits.bytes_max.saturating_sub(self.bytes));
        let too_long = if self.lines == 0 { self.uri.measure(part, limits.uri_bytes_max) } else { None };
        let bytes = part.len() + usize::from(ends);
        if let Some(at) = too_long.filter(|at| *at <= room) {
            let offence = Offence::UriTooLong(limits.uri_bytes_max);
            return Some(Cut { at, offence, ending: Uri::In(at.max(1)).ending() });
        }
        if bytes > room {
            let passed = part.get(..room).unwrap_or(part);
            let ending = if self.lines == 0 { uri.and(passed).ending() } else { line.and(passed).ending() };
            // What is left of a request line behind its path hyper reads to the end or refuses by itself.
            if !ending.is_empty() {
                return Some(Cut { at: room, offence: Offence::HeaderTooLarge(limits.bytes_max), ending });
            }
        }
        self.bytes += bytes;
        self.bare_line_feed |= ends && !line.and(part).returned;
        self.line = if ends { Line::default() } else { line.and(part) };
        None
    }

    fn see(&mut self, line: &[u8]) {
        self.lines += 1;
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = leading_number(value.trim_ascii(), 10).unwrap_or(u64::MAX);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
        } else if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"authorization") {
            self.authorizations += 1;
        }
    }

    fn offence(&self) -> Option<Offence> {
        if self.lengths > 0 && self.encodings > 0 {
            Some(Offence::LengthAndEncoding)
        } else if self.lengths > 1 {
            Some(Offence::LengthTwice)
        } else if self.hosts > 1 {
            Some(Offence::HostTwice)
        } else if self.authorizations > 1 {
            Some(Offence::AuthorizationTwice)
        } else if self.bare_line_feed {
            Some(Offence::BareLineFeed)
        } else {
            None
        }
    }
}

impl Uri {
    /// Takes the next bytes of the request line; says how many of them may be passed on, if not all.
    fn measure(&mut self, part: &[u8], max: usize) -> Option<usize> {
        let mut begin = 0;
        if *self == Self::Before {
            begin = memchr::memchr(b' ', part)? + 1;
            *self = Self::In(0);
        }
        let Self::In(before) = *self else { return None };
        let rest = part.get(begin..).unwrap_or_default();
        let end = memchr::memchr(b' ', rest);
        let here = end.unwrap_or(rest.len());
        if before + here > max {
            return Some(begin + (max - before));
        }
        *self = if end.is_some() { Self::After } else { Self::In(before + here) };
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
            Self::In(0) => b"/ HTTP/1.1\r\n\r\n",
            Self::In(_) => b" HTTP/1.1\r\n\r\n",
            Self::After => b"",
        }
    }
}

impl Line {
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

/// The number that a line begins with.
fn leading_number(line: &[u8], radix: u32) -> Option<u64> {
    let digits = line.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let text = std::str::from_utf8(line.get(..digits)?).ok()?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: HeadLimits = HeadLimits { bytes_max: 1 << 20, lines_max: 1 << 10, uri_bytes_max: 1 << 16 };

    /// Reads a stream whole, and again byte by byte; says how many heads passed, whether the reading ended between two
    /// requests, and what it condemned.
    fn check(stream: &str, heads: u64, between: bool, condemned: Option<(usize, Offence)>) {
        let mut whole = Framing::new(LARGE);
        let found = whole.advance(stream.as_bytes()).map(|cut| (cut.at, cut.offence));
        assert_eq!(found, condemned, "{stream:?}");
        assert_eq!((whole.heads, whole.between_requests()), (heads, between), "{stream:?}");
        let mut slow = Framing::new(LARGE);
        let found = stream
            .bytes()
            .enumerate()
            .find_map(|(at, byte)| slow.advance(&[byte]).map(|cut| (at + cut.at, cut.offence)));
        assert_eq!(found, condemned, "{stream:?} byte by byte");
        assert_eq!((slow.heads, slow.between_requests()), (heads, between), "{stream:?} byte by byte");
    }

    #[test]
    fn requests_are_told_apart_and_bodies_passed_over() {
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
        check(&format!("{chunked}zz\r\n\r\n"), 1, false, None);
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_condemned() {
        let offends = |headers: &str, offence| {
            let stream = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            check(&stream, 0, false, Some((stream.len(), offence)));
            let after = format!("GET / HTTP/1.1\r\n\r\n{stream}");
            check(&after, 1, false, Some((after.len(), offence)));
            check(&format!("{stream}GET / HTTP/1.1\r\n\r\n"), 0, false, Some((stream.len(), offence)));
        };
        offends("Content-Length: 5\r\nContent-Length: 5\r\n", Offence::LengthTwice);
        offends("Content-Length: 0\r\nCONTENT-LENGTH: 5\r\n", Offence::LengthTwice);
        offends("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Offence::LengthAndEncoding);
        offends("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Offence::LengthAndEncoding);
        offends("Host: a\r\nHost: a\r\n", Offence::HostTwice);
        offends("Authorization: a\r\nauthorization: b\r\n", Offence::AuthorizationTwice);
        offends("X: y\n", Offence::BareLineFeed);
        offends(&format!("X: {}\nY: z\r\n", "x".repeat(100)), Offence::BareLineFeed);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_not_waited_for() {
        use tokio::io::AsyncWriteExt;
        let (socket, _client) = tokio::io::duplex(100);
        let metrics = Arc::new(Metrics::default());
        let mut watched = Watched::new(socket, Duration::from_secs(1), LARGE, Arc::clone(&metrics));
        let begun = Instant::now();
        let error = watched.write_all(&[b'x'; 101]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, WRITE_IDLE_MAX));
        let counted = metrics.render(&crate::telemetry::metrics::Vitals::default(), |_| true).unwrap();
        assert!(counted.contains("profiled_limits_hit_total{limit=\"answer_unread\"} 1\n"), "{counted}");
    }

    #[test]
    fn a_header_that_is_too_large_is_cut_where_it_passes_the_limit_and_ended() {
        let limits = HeadLimits { bytes_max: 40, lines_max: 3, uri_bytes_max: 10 };
        // What hyper gets to read: what was passed on, and the end that is put to it.
        let check = |stream: &str, passed: &str, offence| {
            for step in [1, 2, 3, 7, stream.len()] {
                let (mut framing, mut seen) = (Framing::new(limits), String::new());
                let mut found = None;
                for part in stream.as_bytes().chunks(step) {
                    let cut = framing.advance(part);
                    let end = cut.map_or(part.len(), |cut| cut.at);
                    seen.push_str(std::str::from_utf8(&part[..end]).unwrap());
                    if let Some(cut) = cut {
                        seen.push_str(std::str::from_utf8(cut.ending).unwrap());
                        found = Some(cut.offence);
                        break;
                    }
                }
                assert_eq!((seen.as_str(), found), (passed, offence), "{stream:?} by {step}");
            }
        };
        let uri = Some(Offence::UriTooLong(10));
        let size = Some(Offence::HeaderTooLarge(40));
        let count = Some(Offence::TooManyHeaders(3));
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
