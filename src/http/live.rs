//! Calls as they come in, for whoever listens: what was understood of each, what was left out and why, and what became of it.
//!
//! Promises: while nobody listens, a call costs one atomic load, and nothing is noted of it. Nothing is kept but the last
//! [`CALLS_WAITING_MAX`] calls in memory, each until every listener has it. A listener that is behind misses calls, is told how many,
//! and holds up no call. Tokens are never noted, and neither is a query.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use super::left_out::LeftOut;
use super::outcome_counts::Outcomes;
use super::response::Answer;
use super::seq;
use crate::engine::CallIds;
use crate::model::batch::{BatchId, Counts};
use crate::model::id::{ClientCode, VisitorId};
use crate::model::seq::{Millis, Seq};

/// How many calls wait for a listener that is behind.
const CALLS_WAITING_MAX: usize = 256;
/// The most bytes of names and values that are noted of one call, so that the waiting calls take 4 MiB at most.
const NOTED_BYTES_MAX: usize = 16 << 10;
/// The longest value, path or message that is noted.
const TEXT_CHARS_MAX: usize = 500;
/// The most mboxes that are noted of one call.
const MBOXES_MAX: usize = 8;

/// Where calls are told, and who listens.
#[derive(Debug)]
pub(super) struct Live {
    calls: broadcast::Sender<Arc<HeardCall>>,
    /// Beside the sender, whose own count of receivers takes a lock.
    listeners: AtomicUsize,
}

/// Somebody who listens, until this is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) calls: broadcast::Receiver<Arc<HeardCall>>,
    live: Arc<Live>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { calls: broadcast::Sender::new(CALLS_WAITING_MAX), listeners: AtomicUsize::new(0) }
    }

    /// Whether anybody listens.
    pub(super) fn is_heard(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Listens from now on.
    pub(super) fn listen(self: &Arc<Self>) -> Listener {
        let calls = self.calls.subscribe();
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listener { calls, live: Arc::clone(self) }
    }

    /// Tells all listeners of a call. The last of them may have gone meanwhile.
    pub(super) fn tell(&self, call: HeardCall) {
        drop(self.calls.send(Arc::new(call)));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.live.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that was answered.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeardCall {
    /// When it was answered.
    pub(super) time: String,
    /// Its id in the log, and in the answer's X-Request-Id.
    pub(super) request: String,
    /// Where it came from.
    pub(super) address: String,
    /// Which call it is: its name in the metrics, in words.
    pub(super) call: String,
    pub(super) method: String,
    /// Its path, without the query.
    pub(super) path: String,
    /// The client that it is about, as far as it is known.
    pub(super) client: Option<String>,
    pub(super) status: u16,
    pub(super) took_ms: f64,
    /// Its place in the order; none if it changed nothing.
    pub(super) seq: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) message: Option<String>,
    /// The visitor's ids, as they were understood.
    pub(super) ids: Vec<HeardId>,
    /// The mboxes that it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) mboxes: Vec<String>,
    /// The attributes that it sets. A long value is cut, and ends in an ellipsis.
    pub(super) set: BTreeMap<String, String>,
    /// How many more it sets than are shown here.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    pub(super) set_more: usize,
    /// The attributes that it removes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) removed: Vec<String>,
    /// What was left out, and why.
    pub(super) left_out: Vec<String>,
    /// What became of it: updated, `not_found`, ignored, removed, erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) outcome: Option<&'static str>,
    /// The batch that it brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) batch: Option<HeardBatch>,
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) at: Millis,
}

/// An id of a visitor.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct HeardId {
    /// `pcId`, `thirdPartyId` or `marketingCloudVisitorId`.
    pub(super) kind: &'static str,
    pub(super) id: String,
    /// Whether the call did not bring it: the visitor had it, or gets it by this call.
    pub(super) given: bool,
}

/// A batch that was accepted, or tried out.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeardBatch {
    /// None of a dry run.
    pub(super) batch_id: Option<String>,
    pub(super) dry_run: bool,
    /// Whether it was accepted when it was first sent, with the same key.
    pub(super) before: bool,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// What would become of the rows of a dry run.
    pub(super) outcomes: Option<Outcomes>,
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) counts: Option<Counts>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What is noted of a call while it is answered.
#[derive(Debug, Default)]
pub(super) struct Notes {
    heard: HeardCall,
    bytes: usize,
}

impl Notes {
    /// The client that the call is about.
    pub(super) fn client(&mut self, client: &ClientCode) {
        self.heard.client = Some(client.as_str().to_owned());
    }

    /// The client that a call names, which may be none.
    pub(super) fn named_client(&mut self, client: Option<&str>) {
        self.heard.client = client.and_then(|code| ClientCode::new(code).ok()).map(|code| code.to_string());
    }

    /// The ids of a site call. `made` is one that the call did not bring.
    pub(super) fn call_ids(&mut self, ids: &CallIds, made: Option<&VisitorId>) {
        for id in [&ids.third_party, &ids.pc, &ids.ecid].into_iter().flatten() {
            self.id(id, Some(id) == made);
        }
    }

    /// The `pcId` that a site call without `own` was given.
    pub(super) fn given(&mut self, own: Option<&VisitorId>, given: Option<&VisitorId>) {
        if let (None, Some(id)) = (own, given) {
            self.id(id, true);
        }
    }

    /// An id of the visitor.
    pub(super) fn id(&mut self, id: &VisitorId, given: bool) {
        self.heard.ids.push(HeardId { kind: id.kind().name(), id: id.as_str().to_owned(), given });
    }

    /// An mbox that the call names.
    pub(super) fn mbox(&mut self, name: &str) {
        if self.heard.mboxes.len() < MBOXES_MAX {
            self.heard.mboxes.push(cut(name));
        }
    }

    /// The attributes that the call sets.
    pub(super) fn set(&mut self, attributes: &[(String, String)]) {
        for (name, value) in attributes {
            let (name, value) = (cut(name), cut(value));
            self.bytes += name.len() + value.len();
            if self.bytes > NOTED_BYTES_MAX {
                self.heard.set_more += 1;
            } else {
                self.heard.set.insert(name, value);
            }
        }
    }

    /// An attribute that the call removes.
    pub(super) fn removed(&mut self, name: &str) {
        self.heard.removed.push(cut(name));
    }

    /// What is left out of it.
    pub(super) fn left_out(&mut self, left_out: &LeftOut) {
        self.heard.left_out = left_out.sentences();
    }

    /// What became of it.
    pub(super) const fn outcome(&mut self, outcome: &'static str) {
        self.heard.outcome = Some(outcome);
    }

    /// The batch that was accepted.
    pub(super) fn accepted(&mut self, id: &BatchId, before: bool, rows: u64, bytes: u64) {
        let batch_id = Some(id.to_string());
        self.heard.batch =
            Some(HeardBatch { batch_id, dry_run: false, before, rows, bytes, outcomes: None, counts: None });
    }

    /// The batch that was tried out.
    pub(super) fn tried_out(&mut self, counts: &Counts, rows: u64, bytes: u64) {
        self.heard.batch = Some(HeardBatch {
            batch_id: None,
            dry_run: true,
            before: false,
            rows,
            bytes,
            outcomes: Some(Outcomes::of(counts)),
            counts: Some(*counts),
        });
    }

    /// Why it is refused.
    pub(super) fn refused(&mut self, why: &str) {
        self.heard.message = Some(cut(why));
    }

    /// The call, as far as it is known before its answer: which request it is, from where, and what was noted.
    pub(super) fn of_request(self, request: &str, address: IpAddr, method: &Method, path: &str) -> HeardCall {
        HeardCall {
            request: request.to_owned(),
            address: address.to_string(),
            method: method.to_string(),
            path: cut(path),
            ..self.heard
        }
    }
}

impl HeardCall {
    /// The call with its answer.
    pub(super) fn answered(self, call: &str, answer: &Answer, at: Millis, took: Duration) -> Self {
        Self {
            time: at.iso_8601(),
            call: call.replace('_', " "),
            status: answer.status().as_u16(),
            took_ms: milliseconds(took),
            seq: seq::told(answer),
            at,
            ..self
        }
    }

    /// What the call came to for one of the visitors that it erases: told as if it had named nobody else.
    pub(super) fn for_one(
        &self,
        id: &VisitorId,
        (outcome, seq): (&'static str, Option<Seq>),
        at: Millis,
        took: Duration,
    ) -> Self {
        Self {
            time: at.iso_8601(),
            call: "erasures".into(),
            status: StatusCode::OK.as_u16(),
            took_ms: milliseconds(took),
            seq: seq.map(|seq| seq.to_string()),
            ids: vec![HeardId { kind: id.kind().name(), id: id.as_str().to_owned(), given: false }],
            outcome: Some(outcome),
            at,
            ..self.clone()
        }
    }
}

/// Milliseconds with three places, as people read them.
fn milliseconds(took: Duration) -> f64 {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
