//! Answers that are made while they are sent, on a thread that may block.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::response::Chunk;
use crate::app::AppError;

/// How many bytes are sent at once, at least.
const CHUNK_BYTES: usize = 64 << 10;
/// How many chunks may wait for the client.
const CHUNKS_WAITING_MAX: usize = 4;

/// Where an answer's bytes go: chunks for a client that may be slow, or gone.
pub(super) struct Sender {
    chunks: mpsc::Sender<Chunk>,
    filling: Vec<u8>,
}

impl Sender {
    /// Says whether the client is still there.
    pub(super) fn client(&self) -> impl Fn() -> bool + use<> {
        let chunks = self.chunks.clone();
        move || !chunks.is_closed()
    }

    /// Adds what `write` adds, and waits while too many chunks wait for the client; breaks off if it has gone.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> ControlFlow<()> {
        write(&mut self.filling);
        if self.filling.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { self.flush() }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        if self.filling.is_empty() {
            return ControlFlow::Continue(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.filling, Vec::with_capacity(CHUNK_BYTES * 2)));
        self.send(Chunk::Bytes(bytes))
    }

    fn send(&self, chunk: Chunk) -> ControlFlow<()> {
        match self.chunks.blocking_send(chunk) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Begins to make an answer; gives its chunks. `what` is what the log calls it.
pub(super) fn begin(
    what: &'static str,
    run: impl FnOnce(&mut Sender) -> Result<(), AppError> + Send + 'static,
) -> mpsc::Receiver<Chunk> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    // It ends with what it tells or with its client, and tells the latter by its chunks.
    drop(spawn_blocking(move || {
        let mut out = Sender { chunks, filling: vec![] };
        match run(&mut out) {
            Ok(()) => {
                let whole = out.flush().is_continue() && out.send(Chunk::End).is_continue();
                tracing::debug!(what, whole, "an answer has ended");
            }
            Err(error) => tracing::warn!(what, %error, "an answer was broken off"),
        }
    }));
    receiver
}
