//! What goes into the engine and what comes out: calls, visitors, the state of a batch.
//!
//! Promises: these are plain values. None of them locks, waits or does I/O.

use crate::batch::accepted::Accepted;
use crate::batch::known_names::NewAttribute;
use crate::batch::progress::Known;
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchName, BatchState, Counts, EmptyValues, IdempotencyKey, RowForm};
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::Source;
use crate::model::seq::{Millis, Seq};
use std::sync::Arc;

/// The ids of a site call; at least one is there. A `pcId` comes without its location hint.
#[derive(Debug, Clone, Default)]
pub struct CallIds {
    /// `mboxPC`, `tntId`.
    pub pc: Option<VisitorId>,
    /// `mbox3rdPartyId`, `thirdPartyId`.
    pub third_party: Option<VisitorId>,
    /// `mboxMCGVID`, `marketingCloudVisitorId`.
    pub ecid: Option<VisitorId>,
    /// The `pcId`s that we generate for a call without one. The first that fits is used; if the list is empty, the call gets
    /// none.
    pub made: Vec<VisitorId>,
}

/// How many `pcId`s we generate for one visitor. The next is used where the one before leads to another visitor by now.
const MADE_MAX: u8 = 4;

impl CallIds {
    /// The keys of the ids that are there.
    pub(in crate::engine) fn keys(&self, client: &ClientCode) -> Vec<Key> {
        [&self.third_party, &self.pc, &self.ecid].into_iter().flatten().map(|id| id.key(client)).collect()
    }

    /// The same ids, with generated `pcId`s if there is none. They are computed from the ECID, which stands for a device, else
    /// from the `thirdPartyId`. So each such call gets the same ones: a new one each time would push real devices off the
    /// profile's list (R1). `made` computes one from its number and the key.
    pub(in crate::engine) fn with_made(self, client: &ClientCode, made: impl Fn(u8, &Key) -> String) -> Self {
        let Some(id) = self.ecid.as_ref().or(self.third_party.as_ref()).filter(|_| self.pc.is_none()) else {
            return self;
        };
        let key = id.key(client);
        let made = (0..MADE_MAX).filter_map(|number| VisitorId::new(IdKind::Pc, &made(number, &key)).ok());
        Self { made: made.collect(), ..self }
    }
}

/// A call from the site. It may create a visitor, bind ids and set attributes.
#[derive(Debug, Clone)]
pub struct SiteCall {
    /// The client of the visitor.
    pub client: ClientCode,
    /// The ids of the visitor.
    pub ids: CallIds,
    /// Mbox or Delivery.
    pub source: Source,
    /// `profile.*`, without the prefix, in the order sent.
    pub attributes: Vec<(String, String)>,
}

/// The single profile update. It never creates a visitor (R5).
#[derive(Debug, Clone)]
pub struct SingleUpdate {
    /// The client of the visitor.
    pub client: ClientCode,
    /// The visitor.
    pub id: VisitorId,
    /// `profile.*`, without the prefix, in the order sent.
    pub attributes: Vec<(String, String)>,
    /// Who made the call.
    pub by: Author,
}

/// A write that is durable and readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its place in the order; none if it changed nothing (an unknown visitor, or a visit already noted). An erasure always
    /// has one.
    pub seq: Option<Seq>,
    /// Whether the visitor has a profile.
    pub known: bool,
    /// How many attributes were left out because the profile would have become too large (R9).
    pub left_out: usize,
    /// The `pcId` of a site call that brought none: the one that its ECID came with before, or a generated one.
    pub pc: Option<VisitorId>,
}

/// An attribute as a lookup shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitorAttribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The write that set it; `seq.millis()` is when.
    pub seq: Seq,
    /// Where that write came from.
    pub source: Source,
    /// The time that the value is of, if its batch said one.
    pub as_of: Option<Millis>,
    /// Who made that write.
    pub by: Author,
}

/// A visitor as a lookup shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The client.
    pub client: ClientCode,
    /// The id the profile is kept under: a thirdPartyId once one is bound, else a pcId (or a lone ECID).
    pub canonical: VisitorId,
    /// The ids that lead to it, oldest bind first.
    pub linked: Vec<VisitorId>,
    /// The write that created it.
    pub born: Seq,
    /// The last site call that changed it.
    pub last_site: Option<Seq>,
    /// The last batch that changed it.
    pub last_batch: Option<Seq>,
    /// The last write of all: the ETag.
    pub seq: Seq,
    /// When the visitor was last active.
    pub last_active: Millis,
    /// When the profile expires.
    pub expires: Millis,
    /// By name.
    pub attributes: Vec<VisitorAttribute>,
}

/// What a visitor's attributes were.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VisitorHistory {
    /// What the visitor was after this seq and after each later one is known. `None` if no history is kept.
    pub since: Option<Seq>,
    /// The last write of all.
    pub seq: Seq,
    /// The changes that are kept, newest first.
    pub changes: Vec<VisitorChange>,
}

/// A change of one attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitorChange {
    /// The attribute's name.
    pub name: String,
    /// Its value before; `None` if it had none, or it is not kept.
    pub before: Option<String>,
    /// Its value after; `None` if it was removed.
    pub after: Option<String>,
    /// The write that changed it.
    pub seq: Seq,
    /// Where that write came from.
    pub source: Source,
    /// Who made that write.
    pub by: Author,
}

/// Which call a batch came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchVersion {
    /// `/m2/{client}/profile/batchUpdate`
    V1,
    /// `/m2/{client}/v2/profile/batchUpdate`
    V2,
}

/// What a batch says of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTerms {
    /// Which call it came by.
    pub version: BatchVersion,
    /// What empty values do (R6).
    pub empty_values: EmptyValues,
    /// The time that its values are of (R4). `None`: they are as new as the batch.
    pub as_of: Option<Millis>,
}

/// What the sender of a batch says of it, beside its rows, and who that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchSending {
    /// The `Idempotency-Key`, if there is one.
    pub key: Option<IdempotencyKey>,
    /// What the sender calls the batch, if they call it anything.
    pub name: Option<BatchName>,
    /// Who sends it.
    pub by: Author,
}

impl BatchSending {
    /// What was said of a batch that is accepted.
    pub(in crate::engine) fn of(accepted: &Accepted) -> Self {
        let key = accepted.key.as_ref().map(|sent| sent.key.clone());
        Self { key, name: accepted.name.clone(), by: accepted.by }
    }
}

/// A batch and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchStatus {
    /// Its id; `id.seq` is its place in the order and `id.seq.millis()` when it was accepted.
    pub id: BatchId,
    /// v1 or v2.
    pub version: BatchVersion,
    /// The form of its rows.
    pub form: RowForm,
    /// The time that its values are of, if it said one.
    pub as_of: Option<Millis>,
    /// How far it is.
    pub state: BatchState,
    /// How many rows it has.
    pub rows: u64,
    /// The size of its file.
    pub bytes: u64,
    /// The rows that are done, by outcome. They add up to `rows` once the batch is complete.
    pub counts: Counts,
    /// When it was completed.
    pub completed: Option<Millis>,
    /// How many rows are done per second; for a complete batch, since it was accepted.
    pub rows_per_second: Option<u64>,
    /// When it will be complete, at this rate.
    pub estimated_end: Option<Millis>,
    /// Why it is stuck, if its upload differs from what was accepted.
    pub reason: Option<String>,
    /// The batch that it undoes, if it undoes one.
    pub undoes: Option<BatchId>,
    /// What its sender calls it.
    pub name: Option<BatchName>,
    /// Who sent it.
    pub by: Author,
    /// The attributes that no profile had before it, as far as that is kept.
    pub new_attributes: Arc<[NewAttribute]>,
}

/// Whether the daemon serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not serve, for this reason.
    NotReady(String),
}

impl BatchStatus {
    /// The status of a batch now.
    pub(in crate::engine) fn of(known: &Known, now: Millis) -> Self {
        Self::in_state(known, known.progress.state(), now)
    }

    /// The status of a batch that was in this state when it was found. By now it may be in another.
    pub(in crate::engine) fn in_state(known: &Known, state: BatchState, now: Millis) -> Self {
        // A complete batch stays complete, so the time is there.
        let completed = known.progress.completed().filter(|_| state == BatchState::Complete);
        let (counts, rows) = (known.progress.counts(), known.accepted.rows);
        let begun =
            completed.map_or_else(|| known.progress.began(), |_| Some(known.accepted.id.seq.millis()));
        let span_ms = begun.map(|begun| completed.unwrap_or(now).0.saturating_sub(begun.0).max(1));
        let per_second = |rows: u64, span_ms| rows.saturating_mul(1000) / span_ms;
        let rows_per_second = span_ms.map(|span_ms| per_second(counts.total(), span_ms));
        let left = rows.saturating_sub(counts.total());
        let estimated_end = rows_per_second
            .filter(|rate| *rate > 0 && state == BatchState::Incomplete)
            .map(|rate| now.plus(left.saturating_mul(1000) / rate));
        Self {
            id: known.accepted.id.clone(),
            version: match known.accepted.rules.source {
                Source::BatchV1 => BatchVersion::V1,
                _ => BatchVersion::V2,
            },
            form: known.accepted.rules.reading.form(),
            as_of: known.accepted.rules.as_of,
            state,
            rows,
            bytes: known.accepted.bytes,
            counts,
            completed,
            rows_per_second,
            estimated_end,
            reason: None,
            undoes: known.accepted.undone(),
            name: known.accepted.name.clone(),
            by: known.accepted.by,
            new_attributes: Arc::default(),
        }
    }

    /// The same status, of a batch in which these attributes were new.
    pub(in crate::engine) fn with_new(self, new_attributes: Arc<[NewAttribute]>) -> Self {
        Self { new_attributes, ..self }
    }

    /// The same status, of a batch that may be held for this reason.
    pub(in crate::engine) fn held(self, reason: Option<String>) -> Self {
        if reason.is_none() {
            return self;
        }
        // It may also have been complete in a store that was rebuilt since.
        Self { state: BatchState::Stuck, estimated_end: None, reason, ..self }
    }
}
