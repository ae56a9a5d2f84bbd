//! Answers that are produced while they are sent, on a thread that may block, by a caller that holds a place; and the forms of events.
//!
//! Promises: an answer that its client does not read breaks off when somebody else gets its place. How slowly a client may read
//! at all is limited in [`connection`](super::connection).

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::patience::Patience;
use super::response::{Chunk, EVENTS, NDJSON};
use super::shapes;
use crate::config::Pace;
use crate::engine::EngineError;
use crate::engine::gates::Slot;

/// How many bytes are sent at once, at least.
const CHUNK_BYTES: usize = 64 << 10;
/// How many chunks may wait for the client.
const CHUNKS_WAITING_MAX: usize = 4;

/// Where an answer's bytes go: chunks for a client that may be slow, or gone.
pub(super) struct Sender {
    chunks: mpsc::Sender<Chunk>,
    filling: Vec<u8>,
    place: Slot,
    patience: Patience,
}

impl Sender {
    /// Says whether the client is still there, and may go on.
    pub(super) fn client(&self) -> impl Fn() -> bool + use<> {
        let (chunks, place) = (self.chunks.clone(), self.place.clone());
        move || !chunks.is_closed() && !place.is_asked_to_leave()
    }

    /// Adds what `write` adds, and waits while too many chunks wait for the client; breaks off if it has gone.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> ControlFlow<()> {
        write(&mut self.filling);
        if self.filling.len() < CHUNK_BYTES { ControlFlow::Continue(()) } else { self.flush() }
    }

    /// Sends what there is, and waits for news, for so long at most. Breaks off if the client has gone.
    pub(super) fn rest(&mut self, news: impl Future<Output = ()>, at_most: Duration) -> ControlFlow<()> {
        self.flush()?;
        let wanted = Handle::current().block_on(async {
            tokio::select! {
                () = news => true,
                () = sleep(at_most) => true,
                () = self.chunks.closed() => false,
                _ = self.place.asked_to_leave() => false,
            }
        });
        if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Sends what there is. Breaks off if the client has gone.
    pub(super) fn flush(&mut self) -> ControlFlow<()> {
        if self.filling.is_empty() {
            return ControlFlow::Continue(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.filling, Vec::with_capacity(CHUNK_BYTES * 2)));
        self.send(Chunk::Bytes(bytes))
    }

    fn send(&mut self, chunk: Chunk) -> ControlFlow<()> {
        if self.place.is_asked_to_leave() {
            return ControlFlow::Break(());
        }
        let bytes = if let Chunk::Bytes(bytes) = &chunk { bytes.len() } else { 0 };
        let sent = match self.chunks.try_send(chunk) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(chunk)) => {
                let _waits = self.place.waits(self.patience.stalls_after());
                let begun = Instant::now();
                let sent = Handle::current().block_on(async {
                    tokio::select! {
                        sent = self.chunks.send(chunk) => sent.is_ok(),
                        _ = self.place.asked_to_leave() => false,
                    }
                });
                self.patience.waited(begun.elapsed());
                sent
            }
        };
        self.patience.earned(bytes);
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// How events are written, as `Accept` asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventForm {
    /// Each is a line.
    Ndjson,
    /// As browsers read them.
    ServerSent,
}

impl EventForm {
    /// The form that a request accepts: NDJSON, unless it names server-sent events.
    pub(super) fn of(accepted: &str) -> Self {
        if accepted.contains("event-stream") { Self::ServerSent } else { Self::Ndjson }
    }

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => NDJSON,
            Self::ServerSent => EVENTS,
        }
    }

    /// Adds an event: its name and its place, which NDJSON has in the event itself.
    pub(super) fn write(
        self,
        name: &str,
        id: Option<impl fmt::Display>,
        event: &impl Serialize,
        bytes: &mut Vec<u8>,
    ) {
        if self == Self::ServerSent {
            if let Some(id) = id {
                bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
            }
            bytes.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        }
        if let Err(error) = serde_json::to_writer(&mut *bytes, event) {
            tracing::error!(%error, "an event in JSON");
        }
        bytes.extend_from_slice(if self == Self::ServerSent { b"\n\n" } else { b"\n" });
    }
}

/// An event of a stream, for the OpenAPI document. `id` says whether it bears its place.
pub(super) fn server_sent(id: bool) -> Schema {
    let event = ObjectBuilder::new().schema_type(Type::Object);
    let event = if id { event.property("id", shapes::text()) } else { event };
    event.property("event", shapes::text()).property("data", shapes::text()).into()
}

/// Begins to make an answer, which `place` is held for; gives its chunks. `what` is what the log calls it.
pub(super) fn begin(
    what: &'static str,
    place: &Slot,
    pace: Pace,
    run: impl FnOnce(&mut Sender) -> Result<(), EngineError> + Send + 'static,
) -> mpsc::Receiver<Chunk> {
    let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let (place, patience) = (place.clone(), Patience::new(pace));
    // It ends with what it tells or with its client, and tells the latter by its chunks.
    drop(spawn_blocking(move || {
        let mut out = Sender { chunks, filling: vec![], place, patience };
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
