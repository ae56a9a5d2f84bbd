//! What each kind of request does, decided in the group's view. Nothing here touches the journal or the store.

use super::bind::Called;
use super::committer::Committer;
use super::decided::{Decided, Undecided};
use super::group::Group;
use super::ordering::Standing;
use super::request::{Answer, NewBatch, Request, VisitorWrite, WriteRules};
use crate::batch::accepted::{Accepted, SentKey};
use crate::batch::checksum::UploadError;
use crate::batch::pending::Pending;
use crate::batch::progress::Known;
use crate::batch::queue::CountedSo;
use crate::batch::resolve::decoded;
use crate::engine::error::Fatal;
use crate::engine::types::{SiteCall, Written};
use crate::journal::entry::{BatchCompletedEntry, Entry, WriteKind};
use crate::journal::log::AppendError;
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchRules, Counts, IdempotencyKey};
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::profile::{Profile, Source, Stored};
use crate::model::seq::{Millis, Seq};
use crate::model::update::{Write, apply, profile_for};
use crate::store::Reach;
use crate::sync::Ordering;
use crate::tokens::TokenChange;
use std::io;
use std::sync::Arc;

/// A call that changes nothing is journaled at most this often per visitor, to record the activity (R11).
const ACTIVITY_EVERY_MS: u64 = 60 * 60 * 1000;

impl Committer {
    /// Decides a request, at the time `now`: the clock's, or the one that the order gives it.
    pub(super) fn decide(
        &mut self,
        group: &mut Group<'_>,
        request: Request,
        now: Millis,
    ) -> Result<Decided, Undecided> {
        match request {
            Request::Site(call, rules) => self.decide_site_call(group, &call, rules, now),
            Request::Visitor(client, id, write, by, rules) => {
                self.decide_visitor_write(group, &client, &id, &write, (by, rules, now))
            }
            Request::Accept(batch) => self.decide_accept(group, *batch, now),
            Request::Resolve(..) => Ok(group.written(Seq::ZERO, Answer::Done)),
            Request::Sweep(_, keys, lifetime_ms) => self.decide_sweep(group, keys, lifetime_ms, now),
            Request::Count(id, counts) => self.decide_count(group, &id, counts, now),
            Request::Token(change) => self.decide_token(change),
            Request::Complete(id, counts, at, Reach(store_reach)) => {
                // A batch that was complete before keeps its time. It is journaled again: the sweeper may remove tombstones that kept
                // its rows out, so a restart must not apply those rows again.
                let at = self.batches.ended_so_at(&id, &counts).unwrap_or(at);
                let end = BatchCompletedEntry { seq: id.seq.get(), counts, at_ms: at.0, store_reach };
                let known = Decided::answering(Answer::Done);
                if self.order.is_some() {
                    let entry = Some(Entry::BatchApplied(end));
                    return Ok(Decided { entry, applied: Some(end), ..known });
                }
                Ok(Decided { entry: Some(Entry::BatchCompleted(end)), complete: Some(end), ..known })
            }
            Request::GiveUp(given_up) => {
                let entry = Some(Entry::BatchGivenUp((*given_up).clone()));
                Ok(Decided { entry, given_up: Some(given_up), ..Decided::answering(Answer::Done) })
            }
            Request::Rotate => {
                // The entries of this group go into the new segment.
                match self.log.rotate() {
                    Ok(()) => {}
                    Err(error @ AppendError::Full { .. }) => tracing::warn!(%error, "no new journal segment"),
                    Err(error) => return Err(Fatal::new(error).into()),
                }
                Ok(Decided::answering(Answer::Done))
            }
            Request::Retire(position) => {
                if let Err(error) = self.log.remove_before(position) {
                    tracing::warn!(%error, "old journal segments stay for now");
                }
                Ok(Decided::answering(Answer::Done))
            }
            // The commit loop handles both between two groups.
            Request::Mark | Request::TakeOver(_) => Ok(Decided::answering(Answer::Done)),
        }
    }

    pub(super) fn decide_site_call(
        &mut self,
        group: &mut Group<'_>,
        call: &SiteCall,
        rules: WriteRules,
        now: Millis,
    ) -> Result<Decided, Undecided> {
        let seq = self.seqs.next(now);
        let write = Write {
            seq,
            source: call.source,
            by: Author::default(),
            sets: &call.attributes,
            removes: &[],
            lifetime_ms: rules.lifetime_ms,
            max_profile_bytes: rules.max_profile_bytes,
            history_max: rules.history_max,
        };
        let Called { pc, third_party, ecid, given } = group.called(&call.client, &call.ids, &write)?;
        let mut bound = false;
        if let (Some(pc), Some(third_party)) = (&pc, &third_party) {
            bound |= group.bind(pc, third_party, &write)?;
        }
        if let (Some(ecid), Some(to)) = (&ecid, pc.as_ref().or(third_party.as_ref())) {
            bound |= group.bind(ecid, to, &write)?;
        }
        let Some(id) = third_party.as_ref().or(pc.as_ref()).or(ecid.as_ref()) else {
            return Err(Fatal::new("a site call without any id reached the commit thread").into());
        };
        let canonical = group.living(id, &write)?;
        let value = group.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let nothing_new = !bound && !call.attributes.iter().any(|(_, value)| !value.is_empty());
        if nothing_new
            && let Some(Stored::Profile(profile)) = &stored
            && !profile.expired(seq.millis(), rules.lifetime_ms)
            && profile.layer.is_empty()
            && seq.millis() < profile.last_active.plus(ACTIVITY_EVERY_MS)
        {
            // The resolved rows are journaled all the same. The call's result does not depend on them: background applying could
            // have come first (R4).
            let visited = Written { seq: None, known: true, left_out: 0, pc: given };
            let decided = group.written(Seq::ZERO, Answer::Written(visited));
            return Ok(Decided { active: Some((canonical, seq)), ..decided });
        }
        if matches!(stored, Some(Stored::Link { .. })) {
            // The visitor's new profile replaces a dead link.
            group.view.detach(&canonical, seq)?;
        }
        let had_expired = match &stored {
            Some(Stored::Profile(profile)) => profile.expired(seq.millis(), rules.lifetime_ms),
            Some(Stored::Link { .. }) => true,
            Some(Stored::Tombstone { .. }) | None => false,
        };
        if had_expired {
            self.metrics.profile_restarted();
        }
        let mut left_out = 0;
        if let Some(mut profile) = profile_for(stored, &write) {
            left_out = apply(&mut profile, &write);
            group.view.put(&canonical, &Stored::Profile(profile));
        }
        let set = call.attributes.iter().filter(|(_, value)| !value.is_empty());
        self.batches.names.note(&call.client, set.map(|(name, _)| name.as_str()));
        group.cause.kind =
            if call.source == Source::Delivery { WriteKind::Delivery } else { WriteKind::Mbox };
        let written = Written { seq: Some(seq), known: true, left_out, pc: given };
        let decided = group.written(seq, Answer::Written(written));
        Ok(Decided { active: Some((canonical, seq)), ..decided })
    }

    pub(super) fn decide_visitor_write(
        &mut self,
        group: &mut Group<'_>,
        client: &ClientCode,
        id: &VisitorId,
        what: &VisitorWrite,
        (by, rules, now): (Author, WriteRules, Millis),
    ) -> Result<Decided, Undecided> {
        let seq = self.seqs.next(now);
        let key = id.key(client);
        let (sets, removes): (&[_], &[_]) = match what {
            VisitorWrite::Set(sets) => (sets, &[]),
            VisitorWrite::Remove(names) => (&[], names),
            VisitorWrite::Erase => (&[], &[]),
        };
        let write = Write {
            seq,
            source: Source::SingleUpdate,
            by,
            sets,
            removes,
            lifetime_ms: rules.lifetime_ms,
            max_profile_bytes: rules.max_profile_bytes,
            history_max: rules.history_max,
        };
        if *what == VisitorWrite::Erase {
            let (erased, known) = group.erase(&key, &write)?;
            self.oldest_erasure.fetch_min(seq.millis().0, Ordering::AcqRel);
            let written = Written { seq: Some(seq), known, left_out: 0, pc: None };
            group.cause.kind = WriteKind::Erasure;
            return Ok(group.written(seq, Answer::Erased(written, erased)));
        }
        let canonical = group.living(&key, &write)?;
        let value = group.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let mut written = Written { seq: None, known: false, left_out: 0, pc: None };
        if let Some(mut profile) = profile_for(stored, &write) {
            written.known = true;
            let held = |name: &&String, profile: &Profile<'_>| {
                profile.visible().iter().any(|held| held.name == name.as_str())
            };
            let removed: Vec<Box<str>> =
                removes.iter().filter(|name| held(name, &profile)).map(|name| name.as_str().into()).collect();
            if !removed.is_empty() || sets.iter().any(|(_, value)| !value.is_empty()) {
                let removal = matches!(what, VisitorWrite::Remove(_));
                group.cause.kind = if removal { WriteKind::Removal } else { WriteKind::SingleUpdate };
                group.cause.removed = removed;
                written.seq = Some(seq);
                written.left_out = apply(&mut profile, &write);
                let set = sets.iter().filter(|(_, value)| !value.is_empty());
                self.batches.names.note(client, set.map(|(name, _)| name.as_str()));
                group.view.put(&canonical, &Stored::Profile(profile));
            }
        }
        // The rows resolved on the way are no write of this seq. After a restart the seqs continue as if they had been applied
        // before.
        let set = written.seq.filter(|_| matches!(what, VisitorWrite::Set(_)));
        let active = set.map(|seq| (canonical, seq));
        let decided = group.written(written.seq.unwrap_or(Seq::ZERO), Answer::Written(written));
        Ok(Decided { active, ..decided })
    }

    /// Puts tombstones in place of what has expired. The rows of these visitors are resolved, so nothing depends on how far
    /// applying is.
    pub(super) fn decide_sweep(
        &self,
        group: &mut Group<'_>,
        keys: Vec<Key>,
        lifetime_ms: u64,
        now: Millis,
    ) -> Result<Decided, Undecided> {
        for key in keys {
            let Some(value) = group.view.get(&key)? else { continue };
            let goes = match decoded(&key, &value)? {
                Stored::Profile(profile) => profile.expired(now, lifetime_ms),
                Stored::Link { target, .. } => !group.leads_on(&key, target)?,
                Stored::Tombstone { .. } => false,
            };
            if goes {
                // All earlier writes and rows are in, or found nobody.
                group.view.put(&key, &Stored::Tombstone { applied_seq: self.written, erased: false });
            }
        }
        group.cause.kind = WriteKind::Sweep;
        Ok(group.written(Seq::ZERO, Answer::Done))
    }

    /// Notes that a batch is counted. Every node comes to the same counts, so a node that has others already has diverged. A
    /// node that catches up may accept a batch, and have its count twice, in one group.
    fn decide_count(
        &self,
        group: &mut Group<'_>,
        id: &BatchId,
        counts: Counts,
        now: Millis,
    ) -> Result<Decided, Undecided> {
        let done = Decided::answering(Answer::Done);
        let counted = self.batches.counted_so(id).or_else(|| group.accepts(id).then_some(CountedSo::Pending));
        let first = matches!(counted, Some(CountedSo::Pending | CountedSo::Applied(_)))
            && group.counted.insert(id.seq);
        match counted.filter(|_| first) {
            None | Some(CountedSo::Complete) => Ok(done),
            Some(CountedSo::Applied(found)) if found != counts => Err(Fatal::new(format!(
                "batch {id} came to {found:?} here and to {counts:?} on another node"
            ))
            .into()),
            Some(_) => {
                let end = BatchCompletedEntry { seq: id.seq.get(), counts, at_ms: now.0, store_reach: 0 };
                Ok(Decided { entry: Some(Entry::BatchCounted(end)), counted: Some(end), ..done })
            }
        }
    }

    /// Changes the tokens. Their file is durable before the group is journaled: a node that finds the request's place in its
    /// journal has the change, too, and one that does not find it makes the change once more. A node of several that cannot write
    /// the file stands, as one that cannot journal.
    fn decide_token(&self, change: TokenChange) -> Result<Decided, Undecided> {
        let Some(tokens) = &self.tokens else {
            return Err(Fatal::new("a change of the tokens reached a commit thread without tokens").into());
        };
        let done = Decided::answering(Answer::Done);
        loop {
            let error = match tokens.apply(&change) {
                Ok(token) => {
                    return Ok(Decided { answer: Ok(Answer::Token(token)), token: Some(change), ..done });
                }
                Err(error) => error,
            };
            match self.order.as_ref().map(|order| order.stand(&error.to_string())) {
                None => return Ok(Decided { answer: Err(error.into()), ..done }),
                Some(Standing::TryAgain) => {}
                Some(Standing::Stop) => return Err(Fatal::new(error).into()),
            }
        }
    }

    pub(super) fn decide_accept(
        &mut self,
        group: &mut Group<'_>,
        batch: NewBatch,
        now: Millis,
    ) -> Result<Decided, Undecided> {
        let sent_before =
            batch.sending.key.as_ref().and_then(|key| self.sent_before(group, &batch.client, key, now));
        if let Some((accepted, before)) = sent_before {
            let same = accepted.key.as_ref().is_some_and(|key| key.sent == batch.sum())
                && accepted.rules.source == batch.rules.source
                && accepted.rules.empty_values == batch.rules.empty_values
                && accepted.rules.undoes == batch.rules.undoes
                && accepted.rules.as_of == batch.rules.as_of;
            let taken = Answer::KeyTaken(accepted.id.clone());
            return Ok(Decided::answering(if same { Answer::AcceptedBefore(before) } else { taken }));
        }
        let seq = self.seqs.next(now);
        let sent = batch.sum();
        let accepted = Accepted {
            id: BatchId { client: batch.client.clone(), seq },
            rules: BatchRules { seq, ..batch.rules },
            key_kind: batch.header.key_kind(),
            spool: batch.spool.name(),
            bytes: sent.bytes,
            crc32c: sent.crc32c,
            rows: batch.rows,
            key: batch.sending.key.clone().map(|key| SentKey { key, sent }),
            name: batch.sending.name,
            by: batch.sending.by,
        };
        let entry = Entry::BatchAccepted(accepted.to_entry());
        let file = batch.spool.path();
        let pending = Arc::new(match batch.lacking {
            None => Pending::new(accepted, batch.header, batch.index, file),
            Some(_) => {
                let gone = UploadError::of(&file)(io::ErrorKind::NotFound.into());
                Pending::open_damaged(accepted, &gone, false, &file, None, vec![])
            }
        });
        if let Some(key) = batch.sending.key {
            group.keyed.insert((batch.client.clone(), key), Arc::clone(&pending));
        }
        let list = self.pending(group, &batch.client);
        *list = list.with(Arc::clone(&pending));
        let decided = Decided::answering(Answer::Accepted(pending.known()));
        Ok(Decided { entry: Some(entry), publish: Some((pending, batch.spool)), ..decided })
    }

    /// The batch that this client sent with this key in the last day, perhaps in this very group.
    pub(super) fn sent_before(
        &self,
        group: &Group<'_>,
        client: &ClientCode,
        key: &IdempotencyKey,
        now: Millis,
    ) -> Option<(Arc<Accepted>, Known)> {
        // A key that is forgotten must have lapsed for every later request, also where time steps back and where a restart
        // finds the key again.
        let last = self.seqs.last().millis();
        self.batches.forget_keys_before(Millis(last.0.saturating_sub(IdempotencyKey::LASTS_MS)));
        let in_group = group.keyed.get(&(client.clone(), key.clone()));
        let sent = match in_group {
            Some(pending) => Some((Arc::clone(&pending.accepted), pending.known())),
            None => self.batches.keyed(client, key),
        };
        let lasts = |accepted: &Accepted| accepted.id.seq.millis().plus(IdempotencyKey::LASTS_MS);
        sent.filter(|(accepted, _)| lasts(accepted) > now.max(last))
    }
}
