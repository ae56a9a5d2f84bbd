//! A body on its way in: its frames go to a thread of its own, which decodes and checks them as they arrive.
//!
//! Promises: few chunks wait, and whoever sends waits for the thread. The limits hold for what has actually arrived and what it
//! decodes to.

use crate::batch::encoding::{Decoded, Encoding};
use crate::batch::form::{FormTooLong, form_bytes_max};
use crate::config::Limits;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::Slot;
use crate::engine::priority::give_way;
use crate::model::batch::RowForm;
use crate::telemetry::metrics::Limit;
use bytes::{Buf, Bytes};
use std::io::{self, BufRead, Read};
use tokio::sync::{mpsc, oneshot};

/// What the messages call a batch's file.
pub(super) const BATCH_FILE: &str = "batch file";
/// How many chunks of the body may wait for the disk and the parser.
const CHUNKS_WAITING_MAX: usize = 4;
/// `decode_ratio_max` holds from this many decoded bytes on: a small file may consist of the same line over and over.
const DECODE_RATIO_FROM_BYTES: u64 = 4 << 20;

/// What a request's head says of the batch file in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced {
    /// How it is encoded.
    pub encoding: Encoding,
    /// How many encoded bytes will come, if the head says it.
    pub bytes: Option<u64>,
    /// Whether the head calls it a form: the file in a form may be much shorter.
    pub form: bool,
    /// Whether it is to be accepted, and not only tried out or put in the place of a damaged file. Where there are several
    /// nodes, its file then goes to all of them as it comes.
    pub for_all: bool,
    /// The form of its rows.
    pub rows: RowForm,
}

impl Announced {
    /// Refuses a body that would certainly be refused later. `what` is what the message calls it.
    pub(in crate::engine) fn check(self, limits: &Limits, what: &str) -> Result<(), EngineError> {
        let limit = limits.body_bytes_limit;
        let max = match self.encoding {
            Encoding::Plain if self.form => form_bytes_max(limit),
            encoding => encoding.encoded_bytes_max(limit),
        };
        match self.bytes {
            Some(bytes) if bytes > max => Err(too_many_encoded_bytes(what, self.encoding, bytes, limit)),
            _ => Ok(()),
        }
    }

    /// The same check, once the body has turned out to be no form.
    pub(super) fn check_raw(self, limits: &Limits) -> Result<(), EngineError> {
        Self { form: false, ..self }.check(limits, BATCH_FILE)
    }

    /// How many bytes it will need on the disk at least, if it is accepted. For a form that is not known.
    pub(in crate::engine) fn spooled_bytes_min(self) -> u64 {
        match self.encoding {
            Encoding::Plain => self.bytes.unwrap_or_default().max(1),
            Encoding::Gzip | Encoding::Zstd | Encoding::Deflate => 1,
        }
    }
}

/// A piece of a body, or its end.
pub(super) enum Piece {
    Bytes(Bytes),
    End,
}

/// A body on its way in, and what becomes of it.
pub(super) struct Arrival<T> {
    place: Slot,
    pieces: mpsc::Sender<Piece>,
    worker: Option<oneshot::Receiver<Result<T, EngineError>>>,
}

impl<T: Send + 'static> Arrival<T> {
    /// Starts the thread that takes the body in, in this place.
    pub(super) fn start(
        place: Slot,
        take_in: impl FnOnce(mpsc::Receiver<Piece>) -> Result<T, EngineError> + Send + 'static,
    ) -> io::Result<Self> {
        let (pieces, arriving) = mpsc::channel(CHUNKS_WAITING_MAX);
        let (taken, worker) = oneshot::channel();
        // A thread of its own and not one of the runtime's, because it makes way for good.
        std::thread::Builder::new().name("upload".into()).spawn(move || {
            give_way();
            drop(taken.send(take_in(arriving)));
        })?;
        Ok(Self { place, pieces, worker: Some(worker) })
    }

    /// The place that it is in.
    pub(super) fn place(&self) -> &Slot {
        &self.place
    }

    /// Takes the next bytes of the body. Waits while the thread is behind.
    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        if self.pieces.send(Piece::Bytes(bytes)).await.is_ok() {
            return Ok(());
        }
        // The thread has refused the body, and says why.
        match self.joined().await {
            Err(error) => Err(error),
            Ok(_) => Err(EngineError::internal("an upload ended before its body did")),
        }
    }

    /// The body has ended: gives what became of it.
    pub(super) async fn all(&mut self) -> Result<T, EngineError> {
        // If the thread has refused the body, joining it gives the reason.
        drop(self.pieces.send(Piece::End).await);
        self.joined().await
    }

    async fn joined(&mut self) -> Result<T, EngineError> {
        match self.worker.take() {
            Some(worker) => worker.await.or_internal()?,
            None => Err(EngineError::internal("an upload was used after its end")),
        }
    }
}

/// Why the body could not be read.
pub(super) fn unread(error: io::Error, body: &Decoded<Arriving>) -> EngineError {
    let long =
        |error: FormTooLong| EngineError::TooLarge { limit: Limit::BodyBytes, message: error.to_string() };
    let damaged = |error: io::Error| EngineError::BadBatch(body.fault(&error).to_string());
    error.downcast().unwrap_or_else(|error| error.downcast().map_or_else(damaged, long))
}

/// Refuses what has come so far: `bytes` of the file, with `rows`, out of `encoded` bytes of the body.
pub(super) fn check_limits(
    limits: &Limits,
    what: &str,
    bytes: u64,
    rows: u64,
    encoded: u64,
) -> Result<(), EngineError> {
    let limit = limits.body_bytes_limit;
    if bytes >= limit {
        let message = format!("the {what} has {limit} bytes or more; send fewer than {limit} at a time");
        return Err(EngineError::TooLarge { limit: Limit::BodyBytes, message });
    }
    let limit = limits.rows_limit;
    if rows > limit {
        let message = format!("the {what} has more than {limit} rows; send at most {limit} at a time");
        return Err(EngineError::TooLarge { limit: Limit::Rows, message });
    }
    let limit = limits.decode_ratio_max;
    if bytes >= DECODE_RATIO_FROM_BYTES && bytes / limit > encoded {
        let message = format!(
            "{encoded} bytes of the body became {bytes}: that is more than {limit} to one (decode_ratio_max); send \
             the {what} uncompressed, or in parts"
        );
        return Err(EngineError::TooLarge { limit: Limit::DecodeRatio, message });
    }
    Ok(())
}

fn too_many_encoded_bytes(what: &str, encoding: Encoding, bytes: u64, limit: u64) -> EngineError {
    let message = match encoding {
        Encoding::Plain => {
            format!("the {what} has {bytes} bytes: it must have fewer than {limit}; split it")
        }
        Encoding::Gzip | Encoding::Zstd | Encoding::Deflate => format!(
            "the compressed {what} has {bytes} bytes or more: no {encoding} of a file of fewer than {limit} bytes \
             needs so many; split it, or send it uncompressed"
        ),
    };
    EngineError::TooLarge { limit: Limit::BodyBytes, message }
}

/// A body's bytes as they arrive.
pub(super) struct Arriving {
    pieces: mpsc::Receiver<Piece>,
    what: &'static str,
    encoding: Encoding,
    limit: u64,
    bytes: u64,
    at_hand: Bytes,
    ended: bool,
}

impl Arriving {
    pub(super) fn new(
        pieces: mpsc::Receiver<Piece>,
        what: &'static str,
        encoding: Encoding,
        limit: u64,
    ) -> Self {
        Self { pieces, what, encoding, limit, bytes: 0, at_hand: Bytes::new(), ended: false }
    }
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at_hand.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    self.bytes += bytes.len() as u64;
                    self.at_hand = bytes;
                }
                Some(Piece::End) => self.ended = true,
                // The other end was dropped: the client is gone, or the front door refused it.
                None => {
                    return Err(io::Error::other(EngineError::BadBatch("the upload was broken off".into())));
                }
            }
            // A plain body is checked where it is written, because the message there speaks of the file.
            if self.encoding != Encoding::Plain && self.bytes > self.encoding.encoded_bytes_max(self.limit) {
                let why = too_many_encoded_bytes(self.what, self.encoding, self.bytes, self.limit);
                return Err(io::Error::other(why));
            }
        }
        Ok(&self.at_hand)
    }

    fn consume(&mut self, bytes: usize) {
        self.at_hand.advance(bytes.min(self.at_hand.len()));
    }
}

impl Read for Arriving {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(room)?;
        self.consume(read);
        Ok(read)
    }
}
