//! The body of a site call in JSON. A small body is read whole. A large one takes a place, and is parsed as it arrives, on a
//! thread of its own.
//!
//! Promises: a call of the usual size takes no place and no lock. Of a large one, memory holds a few pieces and what is used of
//! it. One that stalls loses its place to others, and a working parser delays no other call.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::bounded::too_large;
use super::call::{parse, parse_arriving};
use crate::engine::gates::{Scarce, Slot};
use crate::http::Front;
use crate::http::adobe::site::BODY_BYTES_MAX;
use crate::http::endpoint::{BodyLimit, CallLimits, RateLimit};
use crate::http::error::HttpError;
use crate::http::request::{Begun, Request};
use crate::model::id::ClientCode;

/// How a body may come: `sendBeacon` sends text.
const MEDIA_TYPES: [&str; 2] = ["application/json", "text/plain"];
/// The largest body. "Target limits", Content delivery: "60 MB HTTP POST body size", 413 beyond; taken in the larger sense,
/// so that what Adobe takes is taken.
const LARGE_BODY_BYTES_MAX: u64 = 60 << 20;
/// What a site call in JSON may take.
pub(in crate::http::adobe) const LIMITS: CallLimits = CallLimits {
    body: BodyLimit::InPieces { small: BODY_BYTES_MAX, max: LARGE_BODY_BYTES_MAX },
    rate: RateLimit::SiteCalls,
    scarce: &[Scarce::LargeCalls],
};
/// How many pieces of a body may wait for the parser.
const PIECES_WAITING_MAX: usize = 4;

/// A call that was read, and the place that it has until it is answered, if it is large.
pub(in crate::http::adobe) struct Taken<T> {
    pub(in crate::http::adobe) call: T,
    pub(in crate::http::adobe) _place: Option<Slot>,
}

/// Reads the body of a call in JSON, for a client if it is known by now.
pub(in crate::http::adobe) async fn take<T: DeserializeOwned + Send + 'static>(
    front: &Front,
    request: &mut Request,
    client: Option<&ClientCode>,
) -> Result<Taken<T>, HttpError> {
    request.check_media_type(&MEDIA_TYPES, || {
        "send the call as JSON, uncompressed, with Content-Type: application/json".into()
    })?;
    if request.body.bytes_min() > LARGE_BODY_BYTES_MAX {
        return Err(too_large(LARGE_BODY_BYTES_MAX));
    }
    match request.body.begin(BODY_BYTES_MAX).await? {
        Begun::All(body) => Ok(Taken { call: parse(&body)?, _place: None }),
        // Boxed, for few calls are large.
        Begun::More(begun) => Box::pin(take_large(front, request, client, begun)).await,
    }
}

async fn take_large<T: DeserializeOwned + Send + 'static>(
    front: &Front,
    request: &mut Request,
    client: Option<&ClientCode>,
    begun: Vec<u8>,
) -> Result<Taken<T>, HttpError> {
    // What can be refused is refused before the rest is asked for.
    if let Some(client) = client {
        front.app.blocked_ids(client)?;
    }
    let place = front.large_calls.take(&request.who(client)).await?;
    let (pieces, arriving) = mpsc::channel(PIECES_WAITING_MAX);
    let at_work = place.clone();
    let parsing = spawn_blocking(move || {
        let call = parse_arriving(
            Arriving { pieces: arriving, at_hand: begun.into(), ended: false },
            LARGE_BODY_BYTES_MAX,
        );
        drop(at_work);
        call
    });
    while let Some(bytes) = request.body.next_holding(&place).await? {
        if pieces.send(Some(bytes)).await.is_err() {
            // Refused already.
            break;
        }
    }
    // If it was, nobody hears this.
    drop(pieces.send(None).await);
    let call = parsing.await.map_err(|e| HttpError::Inside(e.to_string()))??;
    Ok(Taken { call, _place: Some(place) })
}

/// A body's pieces as they arrive; nothing is its end, and a sender that is gone without it broke off.
struct Arriving {
    pieces: mpsc::Receiver<Option<Bytes>>,
    at_hand: Bytes,
    ended: bool,
}

impl Read for Arriving {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.at_hand.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(bytes)) => self.at_hand = bytes,
                Some(None) => self.ended = true,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        let read = self.at_hand.len().min(room.len());
        self.at_hand.copy_to_slice(room.get_mut(..read).unwrap_or_default());
        Ok(read)
    }
}
