//! Sends the file of an upload to all nodes while it comes in.
//!
//! Promises: what [`ToAll::end`] gives is in the log of pieces, whole, as durable as the log is. An upload that ends
//! otherwise is withdrawn. A few pieces are in memory at a time. The other nodes have the file when the upload has ended, unless one of
//! them is too slow.

use crate::engine::commit::SentToAll;
use crate::engine::commit::wire;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::ingest::state::Others;
use crate::model::batch::BatchRules;
use crate::model::id::ClientCode;
use crate::order::pieces::{PIECE_BYTES, Part, Piece, UploadId};
use crate::order::{Offset, OrderError};
use serde_bytes::ByteBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::sync::unpoisoned;

/// How many pieces may be on their way.
const IN_FLIGHT_MAX: usize = 6;
/// How long a piece may take. The log gives up earlier.
const PIECE_WITHIN: Duration = Duration::from_secs(15);

/// An upload on its way to all nodes.
pub(in crate::engine) struct ToAll {
    others: Others,
    upload: UploadId,
    waiting: Vec<u8>,
    pieces: u32,
    sent: Arc<Sent>,
    ended: bool,
}

#[derive(Default)]
struct Sent {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    first: Option<Offset>,
    last: Option<Offset>,
    failed: Option<OrderError>,
}

impl ToAll {
    /// Begins to send an upload.
    pub(in crate::engine) fn begin(
        others: Others,
        upload: UploadId,
        client: &ClientCode,
        rules: &BatchRules,
    ) -> Result<Self, EngineError> {
        let waiting = Vec::with_capacity(PIECE_BYTES);
        let to_all = Self { others, upload, waiting, pieces: 0, sent: Arc::default(), ended: false };
        let rules = wire::beginning(client, rules).or_internal()?;
        to_all.send(Part::Begin(ByteBuf::from(rules)))?;
        Ok(to_all)
    }

    /// Sends the next bytes of the file. Blocks while enough pieces are on their way.
    pub(in crate::engine) fn push(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.waiting.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.waiting.extend_from_slice(now);
            bytes = rest;
            if self.waiting.len() == PIECE_BYTES {
                self.send_waiting()?;
            }
        }
        Ok(())
    }

    /// The file has ended: waits until the log has all of it, and then until the other nodes have taken it in, if they are quick
    /// enough. A node that lacks the file when the batch's place comes applies nothing until it has it.
    pub(in crate::engine) fn end(mut self) -> Result<SentToAll, EngineError> {
        if !self.waiting.is_empty() {
            self.send_waiting()?;
        }
        self.send(Part::End { pieces: self.pieces })?;
        let state = self.wait_until(|state| state.in_flight == 0)?;
        let (first, last) = (state.first, state.last);
        drop(state);
        self.ended = true;
        match (first, last) {
            (Some(first), Some(last)) => {
                self.others.peers.wait_for_files(last.next());
                Ok(SentToAll { upload: self.upload, pieces: (first, last) })
            }
            _ => Err(EngineError::internal("the pieces of an upload have no places")),
        }
    }

    fn send_waiting(&mut self) -> Result<(), EngineError> {
        let bytes = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE_BYTES));
        let part =
            Part::Data { number: self.pieces, crc32c: crc32c::crc32c(&bytes), bytes: ByteBuf::from(bytes) };
        self.pieces += 1;
        self.send(part)
    }

    fn send(&self, part: Part) -> Result<(), EngineError> {
        self.wait_until(|state| state.in_flight < IN_FLIGHT_MAX)?.in_flight += 1;
        let piece = Piece { upload: self.upload, part }.encode().or_internal()?;
        let sent = Arc::clone(&self.sent);
        self.others.pieces.append(b"", piece, Box::new(move |appended| sent.note(appended)));
        Ok(())
    }

    fn wait_until(
        &self,
        until: impl Fn(&State) -> bool,
    ) -> Result<std::sync::MutexGuard<'_, State>, EngineError> {
        let state = unpoisoned(self.sent.state.lock());
        let waits = |state: &mut State| state.failed.is_none() && !until(state);
        let (state, timed_out) = unpoisoned(self.sent.changed.wait_timeout_while(state, PIECE_WITHIN, waits));
        if let Some(error) = &state.failed {
            // Without the acceptance the file is nothing, so it is certain that nothing was done.
            return Err(EngineError::NoOrder(format!(
                "the file could not be sent to the other nodes: {error}"
            )));
        }
        if timed_out.timed_out() {
            return Err(EngineError::NoOrder("the file could not be sent to the other nodes in time".into()));
        }
        Ok(state)
    }
}

impl Sent {
    fn note(&self, appended: Result<Offset, OrderError>) {
        let mut state = unpoisoned(self.state.lock());
        state.in_flight = state.in_flight.saturating_sub(1);
        match appended {
            Ok(offset) => {
                state.first = Some(state.first.map_or(offset, |first| first.min(offset)));
                state.last = state.last.max(Some(offset));
            }
            Err(error) => state.failed = Some(error),
        }
        self.changed.notify_all();
    }
}

impl Drop for ToAll {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(piece) = (Piece { upload: self.upload, part: Part::Withdraw }).encode()
        {
            self.others.pieces.append(b"", piece, Box::new(drop));
        }
    }
}
