//! Which profile an id leads to, and how ids are bound (R1, R2), let go and erased (R12).
//!
//! Promises: all changes go into the group's view; a profile lists exactly the ids whose links lead to it.

use super::decided::Undecided;
use super::group::Group;
use crate::batch::resolve::decoded;
use crate::engine::types::CallIds;
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::{LINKED_IDS_MAX, Profile, Stored};
use crate::model::update::{Write, list_id, merge, profile_for};

/// The keys that a site call concerns.
pub(super) struct Called {
    pub(super) pc: Option<Key>,
    pub(super) third_party: Option<Key>,
    pub(super) ecid: Option<Key>,
    /// The `pcId` that the engine chose, if the call brought none.
    pub(super) given: Option<VisitorId>,
}

impl Group<'_> {
    /// Finds the keys that a site call concerns. If the call brings no `pcId`, the engine takes the one that the ECID is bound
    /// to, else one that it makes (R1).
    pub(super) fn called(
        &mut self,
        client: &ClientCode,
        ids: &CallIds,
        write: &Write<'_>,
    ) -> Result<Called, Undecided> {
        let key = |id: &Option<VisitorId>| id.as_ref().map(|id| id.key(client));
        let mut called = Called {
            pc: key(&ids.pc),
            third_party: key(&ids.third_party),
            ecid: key(&ids.ecid),
            given: None,
        };
        let Some(last) = ids.made.last().filter(|_| called.pc.is_none()) else { return Ok(called) };
        if let Some(ecid) = &called.ecid
            && let Some(target) = self.living_link(ecid, write)?
        {
            if target.kind() == IdKind::Pc {
                called.given = VisitorId::new(IdKind::Pc, target.id()).ok();
                called.pc = Some(target);
                return Ok(called);
            }
            // Earlier versions bound an ECID to the thirdPartyId.
            called.third_party = called.third_party.or(Some(target));
        }
        let holder = match called.third_party.as_ref().or(called.ecid.as_ref()) {
            Some(id) => Some(self.living(id, write)?),
            None => None,
        };
        let mut given = last;
        for made in &ids.made {
            let made_key = made.key(client);
            let leads_to = self.living(&made_key, write)?;
            if leads_to == made_key || Some(&leads_to) == holder.as_ref() {
                given = made;
                break;
            }
        }
        called.pc = Some(given.key(client));
        called.given = Some(given.clone());
        Ok(called)
    }

    /// The target that an id is bound to, if a living profile is behind it.
    pub(super) fn living_link(&mut self, id: &Key, write: &Write<'_>) -> Result<Option<Key>, Undecided> {
        if self.living(id, write)? == *id {
            return Ok(None);
        }
        let Some(value) = self.view.get(id)? else { return Ok(None) };
        Ok(match decoded(id, &value)? {
            Stored::Link { target, .. } => Some(target),
            _ => None,
        })
    }

    /// The key that a write to this id goes to: the living profile that the id leads to, else the id itself (R11).
    pub(super) fn living(&mut self, id: &Key, write: &Write<'_>) -> Result<Key, Undecided> {
        let canonical = self.view.canonical(id)?;
        if canonical == *id {
            return Ok(canonical);
        }
        let lives = match self.view.get(&canonical)? {
            Some(value) => match decoded(&canonical, &value)? {
                Stored::Profile(profile) => !profile.expired(write.seq.millis(), write.lifetime_ms),
                _ => false,
            },
            None => false,
        };
        Ok(if lives { canonical } else { id.clone() })
    }

    /// Whether the profile at the end of a link, two links at most, lists the id.
    pub(super) fn leads_on(&mut self, id: &Key, mut target: Key) -> Result<bool, Undecided> {
        for _ in 0..2 {
            let Some(value) = self.view.get(&target)? else { return Ok(false) };
            match decoded(&target, &value)? {
                Stored::Profile(profile) => return Ok(profile.lists(id.kind(), id.id())),
                Stored::Link { target: further, .. } => target = further,
                Stored::Tombstone { .. } => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Binds one id to another, unless it is bound already (R1, R2). Merges the profile of the first into that of the second
    /// and puts a link in its place. Returns whether anything changed.
    pub(super) fn bind(&mut self, from: &Key, to: &Key, write: &Write<'_>) -> Result<bool, Undecided> {
        let seq = write.seq;
        let to_profile = self.living(to, write)?;
        let from_profile = self.living(from, write)?;
        let from_value = self.view.get(from)?;
        let from_stored = from_value.as_ref().map(|value| decoded(from, value)).transpose()?;
        let leads_there = matches!(&from_stored, Some(Stored::Link { target, .. }) if target == to);
        if leads_there && from_profile == to_profile && from_profile != *from {
            return Ok(false);
        }

        // The link replaces what was stored under the id: a profile is merged, an old link is detached.
        let mut came_along = vec![];
        let mut merged = None;
        match &from_stored {
            Some(Stored::Profile(profile)) if !profile.expired(seq.millis(), write.lifetime_ms) => {
                came_along.extend(profile.ids.iter().map(|linked| from.with_id(linked.kind, linked.id)));
                merged = Some(profile.clone());
            }
            Some(Stored::Link { .. }) => {
                let ecids = self.view.detach(from, seq)?;
                // The ECIDs of a visitor move with the device, unless the visitor's profile had expired (R11).
                came_along.extend(if from_profile == *from { vec![] } else { ecids });
            }
            _ => {}
        }

        // A full list drops its oldest link and the ECIDs that came with it, so that no profile lists an id that leads elsewhere.
        if let Some(oldest) = self.dropped_by(from, &to_profile)? {
            self.view.detach(&oldest, seq)?;
            self.cause.whole = true;
        }

        let to_value = self.view.get(&to_profile)?;
        let to_stored = to_value.as_ref().map(|value| decoded(&to_profile, value)).transpose()?;
        if matches!(to_stored, Some(Stored::Link { .. })) {
            self.view.detach(&to_profile, seq)?;
        }
        let mut profile = match profile_for(to_stored, write) {
            Some(profile) => profile,
            None => Profile::born_at(seq),
        };
        if let Some(merged) = &merged {
            merge(&mut profile, merged, seq, write.history_max);
            self.cause.whole = true;
        }
        list_id(&mut profile, from.kind(), from.id(), seq);
        for linked in &came_along {
            list_id(&mut profile, linked.kind(), linked.id(), seq);
        }
        profile.history.keep(write.history_max, profile.last_write);
        profile.last_write = seq;
        profile.applied_seq = seq;
        self.view.put(&to_profile, &Stored::Profile(profile));
        self.view.put(from, &Stored::Link { applied_seq: seq, target: to.clone() });
        Ok(true)
    }

    /// The id that drops off a profile's full list when another id of that kind is bound (R1).
    pub(super) fn dropped_by(&mut self, bound: &Key, profile: &Key) -> Result<Option<Key>, Undecided> {
        let Some(value) = self.view.get(profile)? else { return Ok(None) };
        let Stored::Profile(to) = decoded(profile, &value)? else { return Ok(None) };
        let mut of_kind = to.ids.iter().filter(|linked| linked.kind == bound.kind());
        let (oldest, full) = (of_kind.next(), of_kind.count() + 1 >= LINKED_IDS_MAX);
        let dropped = oldest.filter(|_| full && !to.lists(bound.kind(), bound.id()));
        Ok(dropped.map(|linked| profile.with_id(linked.kind, linked.id)))
    }

    /// Puts tombstones under all ids of a visitor, or under this id alone if it leads to no profile (R12). Returns the keys,
    /// and whether the visitor was known. An expired visitor is not known (R11), but its bytes are erased all the same, whether
    /// or not the sweeper ran first.
    pub(super) fn erase(&mut self, id: &Key, write: &Write<'_>) -> Result<(Vec<Key>, bool), Undecided> {
        let canonical = self.view.canonical(id)?;
        let value = self.view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        let mut keys = vec![canonical.clone()];
        let mut known = false;
        if let Some(Stored::Profile(profile)) = &stored {
            keys.extend(profile.ids.iter().map(|linked| canonical.with_id(linked.kind, linked.id)));
            known = !profile.expired(write.seq.millis(), write.lifetime_ms);
        }
        for key in &keys {
            self.view.put(key, &Stored::Tombstone { applied_seq: write.seq, erased: true });
        }
        Ok((keys, known))
    }
}
