//! A group while it is being decided: a view of the store that only this group sees.
//!
//! Promises: a request sees every write before it in its group; the order of its puts never leaves an id that leads nowhere.

use super::decided::{Decided, Put};
use super::request::Answer;
use crate::batch::pending::Pending;
use crate::batch::pending_list::PendingList;
use crate::batch::resolve::{Noted, ResolvedBundle, ResolvedRow, View};
use crate::journal::entry::{self, Cause, Change, Entry, Resolved, WriteEntry};
use crate::model::batch::{BatchId, IdempotencyKey};
use crate::model::id::ClientCode;
use crate::model::profile::{Stored, StoredBytes};
use crate::model::seq::Seq;

use serde_bytes::ByteBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A group while it is being decided.
pub(super) struct Group<'s> {
    pub(super) view: View<'s>,
    pub(super) noted: Noted,
    pub(super) lists: BTreeMap<ClientCode, PendingList>,
    /// The batches that this group accepts, by client and `Idempotency-Key`.
    pub(super) keyed: BTreeMap<(ClientCode, IdempotencyKey), Arc<Pending>>,
    /// The batches that this group counts.
    pub(super) counted: BTreeSet<Seq>,
    /// What is known of the request in hand that its new values do not tell.
    pub(super) cause: Cause,
}

impl Group<'_> {
    /// Whether this group accepts a batch.
    pub(super) fn accepts(&self, id: &BatchId) -> bool {
        let mut list = self.lists.get(&id.client).into_iter().flat_map(PendingList::iter);
        list.any(|pending| pending.accepted.id == *id)
    }

    /// Undoes the changes of a request that could not be decided.
    pub(super) fn take_back(&mut self) {
        self.view.take_back();
        self.noted.take_back();
        self.cause = Cause::default();
    }

    /// Makes one journal entry of all changes since the last entry.
    pub(super) fn written(&mut self, seq: Seq, answer: Answer) -> Decided {
        let (resolved, resolved_bundles) = self.noted.take_new();
        let cause = std::mem::take(&mut self.cause);
        let puts = self.in_order_of_putting();
        if puts.is_empty() && resolved.is_empty() && resolved_bundles.is_empty() {
            return Decided::answering(answer);
        }
        let change = |put: &Put| Change {
            key: ByteBuf::from(put.key.as_bytes()),
            value: ByteBuf::from(put.now.as_slice()),
        };
        let row = |row: &ResolvedRow| Resolved {
            batch: row.batch.get(),
            line: row.line,
            outcome: row.outcome.number(),
        };
        let bundle = |bundle: &ResolvedBundle| entry::ResolvedBundle {
            batch: bundle.batch.get(),
            first: bundle.first,
            became: bundle.became.runs().map(|(rows, outcome)| (rows, outcome.number())).collect(),
        };
        let entry = WriteEntry {
            seq: seq.get(),
            changes: puts.iter().map(change).collect(),
            resolved: resolved.iter().map(row).collect(),
            resolved_bundles: resolved_bundles.iter().map(bundle).collect(),
            cause,
        };
        let entry = Some(Entry::Write(entry));
        Decided { entry, puts, resolved, resolved_bundles, ..Decided::answering(answer) }
    }

    /// The changed values, in an order in which no id ever leads nowhere: first profiles that take on ids, then links,
    /// then profiles that only let ids go.
    pub(super) fn in_order_of_putting(&mut self) -> Vec<Put> {
        let rank = |put: &Put| match put.now.decode() {
            Ok(Stored::Profile(now)) => match put.was.as_ref().map(StoredBytes::decode) {
                Some(Ok(Stored::Profile(was))) => {
                    let lets_go = was.ids.iter().any(|id| !now.lists(id.kind, id.id));
                    let takes_on = now.ids.iter().any(|id| !was.lists(id.kind, id.id));
                    if lets_go && !takes_on { 2 } else { 0 }
                }
                _ => 0,
            },
            _ => 1,
        };
        let mut puts: Vec<Put> =
            self.view.take_touched().into_iter().map(|(key, was, now)| Put { key, was, now }).collect();
        puts.sort_by_key(rank);
        // Markers come first: a reader in key order then finds either the tombstone or its marker.
        let mut all: Vec<Put> = puts.iter().filter_map(Put::erasure_mark).collect();
        all.append(&mut puts);
        all
    }
}
