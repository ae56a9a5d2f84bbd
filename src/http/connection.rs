//! What stands between the socket and hyper: it finds requests that two readers could understand differently, bounds
//! how long a header may take to arrive, and closes so that a client which is still sending gets to read the answer.
//!
//! hyper takes a request that bears both `Transfer-Encoding` and `Content-Length`, or a length or host twice, or lines
//! that end with a line feed alone, and hides that it did. Here such a request is the last that the connection reads, and is answered with 400.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

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

/// Why a request is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offence {
    LengthTwice,
    LengthAndEncoding,
    HostTwice,
    AuthorizationTwice,
    BareLineFeed,
}

impl Offence {
    pub(super) const fn told(self) -> &'static str {
        match self {
            Self::LengthTwice => "Content-Length is there twice: send it once",
            Self::LengthAndEncoding => {
                "Transfer-Encoding and Content-Length are both there: send one of them"
            }
            Self::HostTwice => "Host is there twice: send it once",
            Self::AuthorizationTwice => "Authorization is there twice: send it once",
            Self::BareLineFeed => "a line of the header ends with a line feed alone: end lines with CR LF",
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
    pub(super) fn new(socket: S, header_read_max: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            socket,
            framing: Framing::default(),
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
                if let Some((head_end, offence)) = this.framing.advance(read) {
                    this.verdict.0.get_or_init(|| (this.framing.heads, offence));
                    buffer.set_filled(before + head_end);
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
#[derive(Debug, Default)]
struct Framing {
    place: Place,
    /// What was seen in the head that is being read.
    head: Head,
    /// The start of the line that is being read.
    line: Vec<u8>,
    /// The last byte of it so far; 0 if there is none.
    last: u8,
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
    lines: usize,
    lengths: u32,
    length: u64,
    encodings: u32,
    hosts: u32,
    authorizations: u32,
    bare_line_feed: bool,
}

impl Framing {
    fn between_requests(&self) -> bool {
        self.place == Place::Between
    }

    fn in_head(&self) -> bool {
        self.place == Place::Head
    }

    fn condemned(&self) -> bool {
        matches!(self.place, Place::Condemned(_))
    }

    /// Takes what was read. If a head ends in it that is not to be trusted, says where, and why.
    fn advance(&mut self, bytes: &[u8]) -> Option<(usize, Offence)> {
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
                    self.read_line(&mut rest);
                    if let Place::Condemned(offence) = self.place {
                        return Some((bytes.len() - rest.len(), offence));
                    }
                }
            }
        }
        None
    }

    fn read_line(&mut self, rest: &mut &[u8]) {
        let end = memchr::memchr(b'\n', rest);
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        let room = LINE_BYTES_KEPT.saturating_sub(self.line.len()).min(part.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or_default());
        *rest = after.get(1..).unwrap_or_default();
        self.last = part.last().copied().unwrap_or(self.last);
        if end.is_some() {
            let mut line = std::mem::take(&mut self.line);
            self.head.bare_line_feed |= std::mem::take(&mut self.last) != b'\r';
            self.place = self.after_line(line.strip_suffix(b"\r").unwrap_or(&line));
            line.clear();
            self.line = line;
        }
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

    /// Reads a stream whole, and again byte by byte; says how many heads passed, whether the reading ended between two
    /// requests, and what it condemned.
    fn check(stream: &str, heads: u64, between: bool, condemned: Option<(usize, Offence)>) {
        let mut whole = Framing::default();
        assert_eq!(whole.advance(stream.as_bytes()), condemned, "{stream:?}");
        assert_eq!((whole.heads, whole.between_requests()), (heads, between), "{stream:?}");
        let mut slow = Framing::default();
        let found = stream
            .bytes()
            .enumerate()
            .find_map(|(at, byte)| slow.advance(&[byte]).map(|(end, offence)| (at + end, offence)));
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
}
