//! The answer to who listens to calls as they come in: events in the form of the call that asked, until the listener or the daemon
//! goes.
//!
//! Promises: a listener has a place among the streams of events, and makes room as all of them do. It gets the calls of its client and
//! of its visitor alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::ToSchema;

use super::endpoint::{Call, Reply};
use super::error::HttpError;
use super::live::{HeardCall, HeardId, Listener};
use super::request::Params;
use super::response::{Chunk, chunked};
use crate::engine::Engine;
use crate::model::id::{ClientCode, IdKind, VisitorId};

/// After so long without an event, one says that there was none: the client could think that the connection is dead, and only a write
/// shows whether the client has gone.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// How many bytes are sent at once, about.
const CHUNK_BYTES: usize = 64 << 10;
/// How many ids a listener looks out for: those of one visitor.
const IDS_MAX: usize = 512;
/// How long a listener can ask to listen.
pub(super) const SECONDS_MAX: usize = 86_400;

/// What a listener is told. Each event is a type of its own, so that clients that are generated have it by its name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = LiveEvent)]
pub(super) enum Told<'a> {
    /// No call.
    NoCall(NoCallEvent),
    /// A call was answered.
    Call(CallEvent<'a>),
    /// The listener was behind, and missed calls.
    Missed(MissedEvent),
}

/// Nothing was called.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NoCallEvent {
    event: NoCall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum NoCall {
    /// The listener listens from now on.
    Listening,
    /// Nothing happened for a while.
    Silent,
}

/// A call was answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallEvent<'a> {
    event: OfCall,
    /// The call.
    #[serde(flatten)]
    pub(super) call: &'a HeardCall,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum OfCall {
    Call,
}

/// The listener was behind, and missed so many calls, of all clients.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MissedEvent {
    event: OfMissed,
    /// How many.
    pub(super) calls: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum OfMissed {
    Missed,
}

impl<'a> Told<'a> {
    const LISTENING: Self = Self::NoCall(NoCallEvent { event: NoCall::Listening });
    const SILENT: Self = Self::NoCall(NoCallEvent { event: NoCall::Silent });

    const fn call(call: &'a HeardCall) -> Self {
        Self::Call(CallEvent { event: OfCall::Call, call })
    }

    const fn missed(calls: u64) -> Self {
        Self::Missed(MissedEvent { event: OfMissed::Missed, calls })
    }

    /// Its name.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::NoCall(NoCallEvent { event: NoCall::Listening }) => "listening",
            Self::NoCall(NoCallEvent { event: NoCall::Silent }) => "silent",
            Self::Call(_) => "call",
            Self::Missed(_) => "missed",
        }
    }
}

/// Adds an event as a line for people. Nothing that was sent can end the line, or steer a terminal.
pub(super) fn write_line(told: &Told<'_>, bytes: &mut Vec<u8>) {
    let line = match told {
        Told::NoCall(NoCallEvent { event: NoCall::Listening }) => {
            "Listening. Calls show here as they are answered.".to_owned()
        }
        Told::NoCall(NoCallEvent { event: NoCall::Silent }) => return bytes.push(b'\n'),
        Told::Call(event) => line(event.call),
        Told::Missed(event) => {
            format!("{} calls were missed: they came faster than this was read.", event.calls)
        }
    };
    let plain = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    bytes.extend_from_slice(plain.collect::<String>().as_bytes());
    bytes.push(b'\n');
}

fn line(call: &HeardCall) -> String {
    let mut line = format!("{}  {}  {} in {} ms", call.time, call.call, call.status, call.took_ms);
    let mut part = |name: &str, text: String| {
        if !text.is_empty() {
            line.push_str(&format!("  {name}{text}"));
        }
    };
    part("client ", call.client.clone().unwrap_or_default());
    let id = |id: &HeardId| format!("{}={}{}", id.kind, id.id, if id.given { " (given)" } else { "" });
    part("", call.ids.iter().map(id).collect::<Vec<_>>().join(" "));
    part("mbox ", call.mboxes.join(", "));
    part(
        "set ",
        call.set.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", "),
    );
    part("and ", if call.set_more > 0 { format!("{} more", call.set_more) } else { String::new() });
    part("remove ", call.removed.join(", "));
    if let Some(batch) = &call.batch {
        let id = batch.batch_id.as_deref().unwrap_or("tried out");
        part("batch ", format!("{id}, {} rows", batch.rows));
    }
    part("", call.outcome.unwrap_or_default().replace('_', " "));
    part("left out: ", call.left_out.join("; "));
    part("refused: ", call.message.clone().unwrap_or_default());
    part("seq ", call.seq.clone().unwrap_or_default());
    line
}

/// Lets a caller listen. `write` adds an event to the bytes of the answer.
pub(super) async fn listen(
    call: &Call<'_>,
    media_type: &'static str,
    write: impl FnMut(&Told<'_>, &mut Vec<u8>) + Send + 'static,
) -> Reply {
    let (front, request, query) = (call.front, &*call.request, call.query()?);
    let ends = query.count("seconds", SECONDS_MAX)?.map(|seconds| {
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        Instant::now() + Duration::from_secs(seconds)
    });
    let place = front.event_streams.take(&request.who(call.client)).await?;
    // It lasts as long as its listener likes, so the one who has listened longest makes room.
    place.waits_for_good();
    // Before the visitor is looked up: no call comes between.
    let listener = front.live.listen();
    let wanted = Wanted::of(&front.app, call.client, &query).await?;
    let what = if wanted.ids.is_empty() { "calls" } else { "calls of one visitor" };
    front.app.note_act(call.bearer.actor(request), "listen", call.client, what).await;
    let (chunks, receiver) = mpsc::channel(1);
    let mut stopping = request.stopping();
    tokio::spawn(async move {
        let events = async {
            tokio::select! {
                () = tell(listener, wanted, &chunks, write) => {}
                () = over(ends) => {}
                _ = stopping.wait_for(Option::is_some) => {}
            }
            // A caller that has gone needs no end.
            drop(chunks.send(Chunk::End).await);
        };
        tokio::select! {
            () = events => {}
            () = chunks.closed() => {}
            // The stream breaks off, and a browser asks again by itself.
            _ = place.asked_to_leave() => {}
        }
    });
    Ok(chunked(media_type, receiver))
}

async fn over(ends: Option<Instant>) {
    match ends {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells the calls until the listener has gone.
async fn tell(
    mut listener: Listener,
    mut wanted: Wanted,
    chunks: &mpsc::Sender<Chunk>,
    mut write: impl FnMut(&Told<'_>, &mut Vec<u8>),
) {
    let mut bytes = vec![];
    write(&Told::LISTENING, &mut bytes);
    loop {
        if !bytes.is_empty()
            && chunks.send(Chunk::Bytes(Bytes::from(std::mem::take(&mut bytes)))).await.is_err()
        {
            return;
        }
        match timeout(SILENT_MAX, listener.calls.recv()).await {
            Ok(Ok(call)) => wanted.tell(&call, &mut bytes, &mut write),
            Ok(Err(RecvError::Lagged(calls))) => write(&Told::missed(calls), &mut bytes),
            Ok(Err(RecvError::Closed)) => return,
            Err(_) => write(&Told::SILENT, &mut bytes),
        }
        // What else is there goes along.
        while bytes.len() < CHUNK_BYTES {
            match listener.calls.try_recv() {
                Ok(call) => wanted.tell(&call, &mut bytes, &mut write),
                Err(TryRecvError::Lagged(calls)) => write(&Told::missed(calls), &mut bytes),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }
}

/// Which calls a listener gets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    client: Option<String>,
    /// The ids of one visitor. None at all: of every visitor.
    ids: BTreeSet<String>,
}

impl Wanted {
    /// What a call asks for: `id=` is any id of a visitor, and stands for all of them.
    async fn of(app: &Engine, client: Option<&ClientCode>, query: &Params) -> Result<Self, HttpError> {
        let mut wanted = Self { client: client.map(ToString::to_string), ids: BTreeSet::new() };
        let Some(text) = query.get("id").map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(wanted);
        };
        let ids = [IdKind::ThirdParty, IdKind::Pc, IdKind::Ecid].map(|kind| VisitorId::sent(kind, text));
        wanted.ids.insert(text.to_owned());
        for id in ids.into_iter().flatten() {
            wanted.ids.insert(id.as_str().to_owned());
            let Some(client) = client else { continue };
            if let Some(visitor) = app.read(client, &id).await? {
                let all = visitor.linked.iter().chain([&visitor.canonical]);
                wanted.ids.extend(all.map(|id| id.as_str().to_owned()).take(IDS_MAX));
            }
        }
        Ok(wanted)
    }

    /// Tells a call, if it is wanted.
    fn tell(
        &mut self,
        call: &Arc<HeardCall>,
        bytes: &mut Vec<u8>,
        write: &mut impl FnMut(&Told<'_>, &mut Vec<u8>),
    ) {
        if self.takes(call) {
            write(&Told::call(call), bytes);
        }
    }

    /// Whether a call is wanted. What else the visitor is called in it, it is called from then on.
    fn takes(&mut self, call: &HeardCall) -> bool {
        if self.client.is_some() && self.client != call.client {
            return false;
        }
        if self.ids.is_empty() {
            return true;
        }
        let known = |id: &HeardId| self.ids.contains(&id.id);
        if !call.ids.iter().any(known) {
            return false;
        }
        for id in &call.ids {
            if self.ids.len() < IDS_MAX {
                self.ids.insert(id.id.clone());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::live::Live;

    fn call(client: &str, ids: &[&str]) -> HeardCall {
        let id = |id: &&str| HeardId { kind: "pcId", id: (*id).to_owned(), given: false };
        HeardCall { client: Some(client.into()), ids: ids.iter().map(id).collect(), ..HeardCall::default() }
    }

    /// The events that are in a chunk, one in brief each.
    async fn next(chunks: &mut mpsc::Receiver<Chunk>) -> Vec<String> {
        let Some(Chunk::Bytes(bytes)) = chunks.recv().await else { panic!("the stream ended") };
        String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_listener_that_is_behind_is_told_how_many_calls_it_missed_and_holds_up_none() {
        let live = Arc::new(Live::new());
        assert!(!live.is_heard());
        live.tell(call("demo", &["0"]));
        let (chunks, mut told) = mpsc::channel(1);
        let listener = live.listen();
        assert!(live.is_heard());
        // Before the listener gets its turn.
        (1..=1_000).for_each(|n| live.tell(call("demo", &[&n.to_string()])));
        let brief = |told: &Told<'_>, bytes: &mut Vec<u8>| {
            let line = match told {
                Told::Call(event) => event.call.ids[0].id.clone(),
                Told::Missed(event) => format!("missed {}", event.calls),
                other => other.name().to_owned(),
            };
            bytes.extend_from_slice(format!("{line}\n").as_bytes());
        };
        let telling = tokio::spawn(async move {
            tokio::select! {
                () = tell(listener, Wanted::default(), &chunks, brief) => {}
                () = chunks.closed() => {}
            }
        });
        assert_eq!(next(&mut told).await, ["listening"]);
        let events = next(&mut told).await;
        assert_eq!(events[..2], ["missed 744", "745"]);
        assert_eq!((events.len(), events.last().unwrap().as_str()), (257, "1000"));
        live.tell(call("demo", &["1001"]));
        assert_eq!(next(&mut told).await, ["1001"]);
        drop(told);
        telling.await.unwrap();
        assert!(!live.is_heard(), "whoever has gone does not listen");
    }

    #[test]
    fn a_line_stays_a_line_whatever_was_sent() {
        let mut heard = call("demo", &["7"]);
        heard.set.insert("a".into(), "x\r\ny\u{1b}[31m".into());
        heard.message = Some("no\nway".into());
        let mut bytes = vec![];
        write_line(&Told::call(&heard), &mut bytes);
        let line = String::from_utf8(bytes).unwrap();
        assert_eq!(line.chars().filter(|c| c.is_control()).count(), 1, "{line:?}");
        assert!(line.contains("pcId=7") && line.contains("set a=x"), "{line}");
    }

    #[test]
    fn a_visitor_is_followed_by_every_id_that_its_calls_bring() {
        let mut wanted = Wanted { client: Some("demo".into()), ids: BTreeSet::from(["crm-1".to_owned()]) };
        assert!(!wanted.takes(&call("demo", &["7"])), "nobody knows yet whose it is");
        assert!(!wanted.takes(&call("other", &["crm-1"])));
        assert!(!wanted.takes(&call("demo", &[])));
        assert!(wanted.takes(&call("demo", &["crm-1", "7"])));
        assert!(wanted.takes(&call("demo", &["7"])));
        let mut everybody = Wanted::default();
        assert!(everybody.takes(&call("demo", &[])) && everybody.takes(&HeardCall::default()));
    }
}
