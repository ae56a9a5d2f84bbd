//! The layer between the socket and hyper. It rejects requests that two readers could understand differently. It limits how
//! large a header may be, how long it may take, and how slowly an answer may be read. It closes so that a client that is still
//! sending can read its answer.
//!
//! hyper takes a request with both `Transfer-Encoding` and `Content-Length`, with two lengths or hosts, or with lines that end in
//! a line feed alone, and hides that from its caller. Here such a request is answered with 400, and nothing is read after it.
//! hyper answers a header that is too large without a word, and out of order. Here the header is cut at the limit and an end is
//! appended, so that hyper takes it as complete and the service can refuse it as it refuses others. A body with unclear chunks
//! ends in an error, as one that breaks off does. [`framing`](super::framing) decides which request is which.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::framing::{Cut, Framing, Violation};
use super::patience::Patience;
use crate::config::{HeadLimits, Pace};
use crate::telemetry::metrics::{Limit, Metrics};

/// The most bytes that are read and dropped, so that a client can finish sending a refused body: more than the largest batch.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// How long that may take.
const LINGER_MAX: Duration = Duration::from_secs(30);
/// How long a client may be silent meanwhile.
const LINGER_IDLE_MAX: Duration = Duration::from_secs(2);

/// The request that the service must refuse, counted from 0, and why. There is at most one: nothing is read after it.
#[derive(Debug, Default)]
pub(super) struct RejectedRequest(OnceLock<(u64, Violation)>);

impl RejectedRequest {
    pub(super) fn on(&self, request: u64) -> Option<Violation> {
        self.0.get().filter(|(rejected, _)| *rejected == request).map(|(_, violation)| *violation)
    }
}

/// A socket that is watched.
pub(super) struct Watched<S> {
    socket: S,
    framing: Framing,
    /// What hyper still has to read in place of the rest of a header that was cut.
    ending: &'static [u8],
    /// Whether the rest of a body is rejected.
    body_rejected: bool,
    rejected: Arc<RejectedRequest>,
    header_read_max: Duration,
    metrics: Arc<Metrics>,
    /// Runs while a header is arriving.
    header_due: Option<Pin<Box<Sleep>>>,
    /// How much longer the client may take to read what is written.
    patience: Patience,
    /// Runs while the client does not read, from that moment on.
    write_due: Option<(Instant, Pin<Box<Sleep>>)>,
    linger: Option<Linger>,
}

struct Linger {
    bytes_left: usize,
    until: Instant,
    idle: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    /// Watches a socket. The first request must arrive within `header_read_max`.
    pub(super) fn new(
        socket: S,
        header_read_max: Duration,
        answer: Pace,
        heads: HeadLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            socket,
            framing: Framing::new(heads),
            ending: b"",
            body_rejected: false,
            rejected: Arc::default(),
            header_read_max,
            metrics,
            header_due: Some(Box::pin(sleep_until(Instant::now() + header_read_max))),
            patience: Patience::new(answer),
            write_due: None,
            linger: None,
        }
    }

    pub(super) fn rejected(&self) -> Arc<RejectedRequest> {
        Arc::clone(&self.rejected)
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
    /// Puts as much of the appended end into the buffer as fits.
    fn end_header(&mut self, buffer: &mut ReadBuf<'_>) {
        let (here, later) = self.ending.split_at(self.ending.len().min(buffer.remaining()));
        buffer.put_slice(here);
        self.ending = later;
    }
}

fn unclear() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Violation::ChunkUnclear.message())
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
        if this.body_rejected {
            return Poll::Ready(Err(unclear()));
        }
        if this.framing.rejected() {
            // Not the end of the stream: hyper would think that the client has gone, and not answer.
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
                if let Some(Cut { at, violation, ending, in_body }) = this.framing.advance(read) {
                    buffer.set_filled(before + at);
                    if in_body {
                        // A handler has the request already: reading the rest of the body fails.
                        this.body_rejected = true;
                        if at == 0 {
                            return Poll::Ready(Err(unclear()));
                        }
                    } else {
                        this.rejected.0.get_or_init(|| (this.framing.heads(), violation));
                        this.ending = ending;
                        this.end_header(buffer);
                    }
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
        let now = Instant::now();
        if written.is_ready() {
            if let Some((since, _)) = self.write_due.take() {
                self.patience.waited(now.duration_since(since));
            }
            if let Poll::Ready(Ok(bytes)) = written {
                self.patience.earned(bytes);
            }
            return written;
        }
        let (left, behind) = self.patience.left();
        let (_, due) = self.write_due.get_or_insert_with(|| (now, Box::pin(sleep_until(now + left))));
        if due.as_mut().poll(cx).is_ready() {
            let (limit, why) = if behind {
                (Limit::AnswerRate, "the answer was read too slowly")
            } else {
                (Limit::AnswerUnread, "the answer was not read")
            };
            self.metrics.hit(limit);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: HeadLimits = HeadLimits { bytes_max: 1 << 20, lines_max: 1 << 10, uri_bytes_max: 1 << 16 };

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_is_not_waited_for() {
        use tokio::io::AsyncWriteExt;
        let (socket, _client) = tokio::io::duplex(100);
        let metrics = Arc::new(Metrics::default());
        let pace = Pace { idle_max: Duration::from_secs(30), bytes_per_second_min: 1 << 10 };
        let mut watched = Watched::new(socket, Duration::from_secs(1), pace, LARGE, Arc::clone(&metrics));
        let begun = Instant::now();
        let error = watched.write_all(&[b'x'; 101]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, pace.idle_max));
        let counted = metrics.render(&crate::telemetry::metrics::Vitals::default(), |_| true).unwrap();
        assert!(counted.contains("profiled_limits_hit_total{limit=\"answer_unread\"} 1\n"), "{counted}");
    }

    /// Once, any progress was enough: a byte in half a minute kept an answer, and the place that it was made in, for good.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_by_the_byte_is_broken_off() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (socket, mut client) = tokio::io::duplex(100);
        let metrics = Arc::new(Metrics::default());
        let pace = Pace { idle_max: Duration::from_secs(30), bytes_per_second_min: 1 << 10 };
        let mut watched = Watched::new(socket, Duration::from_secs(1), pace, LARGE, Arc::clone(&metrics));
        let reading = tokio::spawn(async move {
            while client.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        });
        let begun = Instant::now();
        let error = watched.write_all(&[b'x'; 10_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        let counted = metrics.render(&crate::telemetry::metrics::Vitals::default(), |_| true).unwrap();
        assert!(counted.contains("profiled_limits_hit_total{limit=\"answer_rate\"} 1\n"), "{counted}");
        reading.abort();
    }
}
