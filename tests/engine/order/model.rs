//! The reference: what every visitor looks like and what becomes of every row, got by applying each accepted write
//! the moment it is accepted, in seq order, to plain maps.
//!
//! Promises: it shares no code with `src/model/` and uses nothing but the standard library; it knows no links,
//! tombstones, pending rows or `applied_seq`, for none of these is in the rules (docs/internals/design.md). An id belongs to a profile
//! because the profile's list says so, and to one profile at most.

use super::coverage::{Met, met};
use std::collections::{BTreeMap, BTreeSet};

/// How many ids of one kind a profile lists (R1).
pub(crate) const LISTED_MAX: usize = 256;
/// A visit that brings nothing else is a write at most this often (R11).
const VISIT_EVERY_MS: u64 = 3_600_000;

/// Which name space an id is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pc,
    ThirdParty,
    Ecid,
}

/// An id of a visitor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// Where a write came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Mbox,
    Delivery,
    /// By whom: the index of the visitor whom the call named.
    SingleUpdate(usize),
    BatchV1,
    BatchV2,
}

/// The value of an attribute, with the write that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) seq: u64,
    pub(crate) from: From,
    /// The time that its batch said the value is of.
    pub(crate) as_of_ms: Option<u64>,
}

impl Value {
    fn time_ms(&self) -> u64 {
        self.as_of_ms.unwrap_or(millis(self.seq))
    }
}

type Attributes = BTreeMap<String, Value>;

/// An id that a profile lists, and the id it was bound to: the profile's own, or for an ECID the pcId it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    id: Id,
    bound_to: Id,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) born: u64,
    pub(crate) last_site: u64,
    pub(crate) last_batch: u64,
    pub(crate) last_write: u64,
    pub(crate) last_active_ms: u64,
    /// Oldest bind first.
    listed: Vec<Listed>,
    base: Attributes,
    /// What the last v2 batch in replace mode set since the last write of another kind (R7) …
    layer: Attributes,
    /// … and which batch that was.
    layer_of: u64,
    /// The writes that set an attribute or ended its value, oldest first, each with the value that was seen before it.
    touched: BTreeMap<String, Vec<(u64, Option<String>)>>,
    /// What the visitor was is known from this seq on: its first write, or the last login that merged another into it.
    pub(crate) known_since: u64,
}

impl Profile {
    fn born(seq: u64) -> Self {
        Self {
            born: seq,
            last_site: 0,
            last_batch: 0,
            last_write: seq,
            last_active_ms: millis(seq),
            listed: vec![],
            base: Attributes::new(),
            layer: Attributes::new(),
            layer_of: 0,
            touched: BTreeMap::new(),
            known_since: seq,
        }
    }

    /// A write sets an attribute, or ends its value.
    fn touch(&mut self, name: &str, seq: u64) {
        let before = self.visible().remove(name).map(|value| value.text);
        let touches = self.touched.entry(name.to_owned()).or_default();
        if touches.last().is_none_or(|(last, _)| *last != seq) {
            touches.push((seq, before));
        }
    }

    /// A write has removed an attribute. If the same write had brought it, nothing is left of that.
    fn untouch(&mut self, name: &str, seq: u64) {
        if let Some(touches) = self.touched.get_mut(name)
            && touches.last() == Some(&(seq, None))
        {
            touches.pop();
        }
    }

    fn was_touched(&self, name: &str) -> bool {
        self.touched.get(name).is_some_and(|touches| touches.iter().any(|(_, before)| before.is_some()))
    }

    pub(crate) fn lives(&self, at_ms: u64, lifetime_ms: u64) -> bool {
        at_ms < self.last_active_ms + lifetime_ms
    }

    pub(crate) fn visible(&self) -> Attributes {
        let mut all = self.base.clone();
        all.extend(self.layer.clone());
        all
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &Id> {
        self.listed.iter().map(|listed| &listed.id)
    }

    fn bytes(&self) -> usize {
        bytes(&self.visible())
    }

    /// Whether a row of the batch leaves an attribute alone: its value is of a later time than the batch, and of another write. A
    /// batch that replaces the layer leaves everything alone if the layer is of a later time.
    fn is_later(&self, name: &str, batch: &BatchRules) -> bool {
        let Some(as_of_ms) = batch.as_of_ms else { return false };
        let later = |value: &Value| value.seq != batch.rules.seq && value.time_ms() > as_of_ms;
        let visible = self.visible();
        visible.get(name).is_some_and(later) || (batch.replaces && self.layer.values().any(later))
    }

    fn settle_layer(&mut self) {
        if !self.layer.is_empty() {
            met(Met::LayerMerged);
        }
        let layer = std::mem::take(&mut self.layer);
        self.base.extend(layer);
    }

    /// Lists an id as the one bound last. One of its kind too many drops the oldest, and with a pcId the ECIDs that
    /// came with it.
    fn list(&mut self, id: Id, bound_to: Id) {
        self.listed.retain(|listed| listed.id != id);
        let of_kind = |listed: &&Listed| listed.id.kind == id.kind;
        if self.listed.iter().filter(of_kind).count() == LISTED_MAX {
            met(Met::OldestLinkDropped);
            let oldest = self.listed.iter().find(of_kind).unwrap().id.clone();
            self.listed.retain(|listed| listed.id != oldest && listed.bound_to != oldest);
        }
        self.listed.push(Listed { id, bound_to });
    }
}

fn bytes(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value.text.len()).sum()
}

/// The milliseconds of a seq (R3).
pub(crate) fn millis(seq: u64) -> u64 {
    seq >> 20
}

/// The seq that follows `last` when the clock shows `now_ms` (R3).
pub(crate) fn next_seq(last: u64, now_ms: u64) -> u64 {
    (last + 1).max(now_ms << 20)
}

/// What shapes a write besides what it brings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) seq: u64,
    pub(crate) from: From,
    pub(crate) lifetime_ms: u64,
    pub(crate) profile_bytes_max: usize,
}

impl Rules {
    fn at_ms(&self) -> u64 {
        millis(self.seq)
    }
}

/// What shapes a batch beyond that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    pub(crate) rules: Rules,
    pub(crate) creates: bool,
    pub(crate) replaces: bool,
    pub(crate) removes: bool,
    /// The time that its values are of.
    pub(crate) as_of_ms: Option<u64>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Updated,
    /// Without these cells, a bit each, because what is there is of a later time.
    UpdatedInPart(u8),
    /// All that it brings is there already, of a later time.
    Newer,
    Created,
    NotFound,
    Ignored,
    Failed,
}

/// A row: its id and its cells; none if it is not well-formed.
pub(crate) type Row = Option<(Id, Vec<(String, String)>)>;

/// What a write to one visitor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Came {
    /// It is a write, with a place in the order.
    pub(crate) accepted: bool,
    /// The visitor has a profile.
    pub(crate) known: bool,
    /// Attributes left out.
    pub(crate) left_out: usize,
}

/// The visitors of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Visitors {
    profiles: BTreeMap<Id, Profile>,
    erased: BTreeSet<Id>,
    once_bound: BTreeSet<(Id, Id)>,
}

impl Visitors {
    /// The profile that an id leads to, expired or not.
    fn holder(&self, id: &Id) -> Option<Id> {
        if self.profiles.contains_key(id) {
            return Some(id.clone());
        }
        let lists = |profile: &Profile| profile.ids().any(|listed| listed == id);
        self.profiles.iter().find(|(_, profile)| lists(profile)).map(|(key, _)| key.clone())
    }

    fn living(&self, id: &Id, at_ms: u64, lifetime_ms: u64) -> Option<Id> {
        self.holder(id).filter(|holder| self.profiles[holder].lives(at_ms, lifetime_ms))
    }

    fn held_expired(&self, id: &Id, at_ms: u64, lifetime_ms: u64) -> bool {
        self.holder(id).is_some() && self.living(id, at_ms, lifetime_ms).is_none()
    }

    /// What a lookup shows.
    pub(crate) fn look_up(&self, id: &Id, now_ms: u64, lifetime_ms: u64) -> Option<(&Id, &Profile)> {
        self.living(id, now_ms, lifetime_ms).and_then(|holder| self.profiles.get_key_value(&holder))
    }

    /// All ids that lead where this one does.
    pub(crate) fn ids_with(&self, id: &Id) -> Vec<Id> {
        match self.holder(id) {
            Some(holder) => {
                let ids = self.profiles[&holder].ids().cloned().collect::<Vec<_>>();
                [vec![holder, id.clone()], ids].concat()
            }
            None => vec![id.clone()],
        }
    }

    /// Takes an id, and the ECIDs that came with it, off the list of the profile that lists it. Gives those ECIDs.
    fn release(&mut self, id: &Id, seq: u64) -> Vec<Id> {
        let Some(holder) = self.holder(id).filter(|holder| holder != id) else { return vec![] };
        let profile = self.profiles.get_mut(&holder).unwrap();
        let along = |listed: &&Listed| listed.bound_to == *id;
        let ecids = profile.listed.iter().filter(along).map(|listed| listed.id.clone()).collect();
        profile.listed.retain(|listed| listed.id != *id && listed.bound_to != *id);
        profile.last_write = profile.last_write.max(seq);
        ecids
    }

    /// A new life under this id: what stood there has expired.
    fn bear(&mut self, id: &Id, seq: u64) -> &mut Profile {
        self.release(id, seq);
        if self.erased.remove(id) {
            met(Met::RebornAfterErasure);
        }
        self.profiles.insert(id.clone(), Profile::born(seq));
        self.profiles.get_mut(id).unwrap()
    }

    /// Binds an id to another (R1, R2); false if it is bound so already.
    fn bind(&mut self, id: &Id, to: &Id, rules: &Rules) -> bool {
        let (at, lifetime, seq) = (rules.at_ms(), rules.lifetime_ms, rules.seq);
        if self.held_expired(id, at, lifetime) || self.held_expired(to, at, lifetime) {
            met(Met::ExpiryMetByLink);
        }
        let was = self.living(id, at, lifetime);
        let target = self.living(to, at, lifetime);
        if let (Some(was), Some(target)) = (&was, &target)
            && was == target
            && self.profiles[target].listed.contains(&Listed { id: id.clone(), bound_to: to.clone() })
        {
            return false;
        }
        if !self.once_bound.insert((id.clone(), to.clone())) {
            met(Met::Rebind);
        }

        let mut along = vec![];
        let mut merged = None;
        match &was {
            Some(own) if own == id => {
                let profile = self.profiles.remove(id).unwrap();
                along.extend(profile.ids().cloned());
                merged = Some(profile);
            }
            Some(_) => {
                if was != target && id.kind == Kind::Pc {
                    met(Met::Handover);
                }
                along = self.release(id, seq);
            }
            None => {
                self.release(id, seq);
                self.profiles.remove(id);
            }
        }

        let key = target.clone().unwrap_or_else(|| to.clone());
        let profile = match target {
            Some(_) => self.profiles.get_mut(&key).unwrap(),
            None => self.bear(&key, seq),
        };
        if let Some(merged) = merged {
            if !merged.visible().is_empty() && !profile.visible().is_empty() {
                met(Met::LoginMerge);
            }
            profile.settle_layer();
            profile.known_since = seq;
            for (name, touches) in &merged.touched {
                let comes = merged.visible().contains_key(name);
                if !profile.base.contains_key(name) && (comes || !profile.was_touched(name)) {
                    profile.touched.insert(name.clone(), touches.clone());
                }
            }
            for (name, value) in merged.visible() {
                profile.base.entry(name).or_insert(value);
            }
            profile.last_site = profile.last_site.max(merged.last_site);
            profile.last_batch = profile.last_batch.max(merged.last_batch);
            profile.last_active_ms = profile.last_active_ms.max(merged.last_active_ms);
        }
        profile.list(id.clone(), to.clone());
        for ecid in along {
            profile.list(ecid, id.clone());
        }
        profile.last_write = seq;
        true
    }

    /// Who a call without a pcId is: the device that its ECID came with, else the first id made for it that is nobody
    /// else's (R1); and what its ECID was bound to, if that is a thirdPartyId.
    fn given(
        &self,
        third_party: Option<&Id>,
        ecid: Option<&Id>,
        made: &[Id],
        rules: &Rules,
    ) -> (Id, Option<Id>) {
        let living = |id: &Id| self.living(id, rules.at_ms(), rules.lifetime_ms);
        let mut third_party = third_party.cloned();
        if let Some(ecid) = ecid
            && let Some(holder) = living(ecid)
            && let Some(listed) = self.profiles[&holder].listed.iter().find(|listed| listed.id == *ecid)
        {
            if listed.bound_to.kind == Kind::Pc {
                met(Met::DeviceOfEcid);
                return (listed.bound_to.clone(), third_party);
            }
            third_party.get_or_insert_with(|| listed.bound_to.clone());
        }
        let visitor = third_party.as_ref().or(ecid).and_then(living);
        let free = |made: &&Id| {
            living(made).is_none_or(|holder| holder == **made || Some(&holder) == visitor.as_ref())
        };
        let given = made.iter().find(free).or(made.last()).unwrap().clone();
        if given != made[0] {
            met(Met::MadeIdElsewhere);
        }
        (given, third_party)
    }

    /// A site call: creates, binds, writes (R2, R5, R11). Gives the pcId of a call that brings none, if ids are made for it.
    pub(crate) fn site_call(
        &mut self,
        ids: [Option<&Id>; 3],
        made: &[Id],
        sets: &[(String, String)],
        rules: &Rules,
    ) -> Option<(Came, Option<Id>)> {
        let (at, lifetime) = (rules.at_ms(), rules.lifetime_ms);
        let [pc, third_party, ecid] = ids;
        let given = if pc.is_none() && !made.is_empty() {
            Some(self.given(third_party, ecid, made, rules))
        } else {
            None
        };
        let (pc, third_party) = match &given {
            Some((pc, third_party)) => (Some(pc), third_party.as_ref()),
            None => (pc, third_party),
        };
        let first = third_party.or(pc).or(ecid)?;
        let mut news = false;
        if let (Some(pc), Some(third_party)) = (pc, third_party) {
            news |= self.bind(pc, third_party, rules);
        }
        if let (Some(ecid), Some(to)) = (ecid, pc.or(third_party)) {
            news |= self.bind(ecid, to, rules);
        }
        if self.held_expired(first, at, lifetime) {
            met(Met::ExpiryMetBySiteCall);
        }
        news |= sets.iter().any(|(_, value)| !value.is_empty());
        let key = match self.living(first, at, lifetime) {
            Some(key) => key,
            None => {
                news = true;
                self.bear(first, rules.seq);
                first.clone()
            }
        };
        let profile = self.profiles.get_mut(&key).unwrap();
        news |= !profile.layer.is_empty() || at >= profile.last_active_ms + VISIT_EVERY_MS;
        let left_out = set_each(profile, sets, rules);
        profile.last_site = rules.seq;
        profile.last_active_ms = profile.last_active_ms.max(at);
        Some((Came { accepted: news, known: true, left_out }, given.map(|(pc, _)| pc)))
    }

    /// A single update or a removal: never creates (R5).
    pub(crate) fn update(
        &mut self,
        id: &Id,
        sets: &[(String, String)],
        removes: &[String],
        rules: &Rules,
    ) -> Came {
        let Some(key) = self.living(id, rules.at_ms(), rules.lifetime_ms) else {
            if self.holder(id).is_some() {
                met(Met::ExpiryMetByUpdate);
            }
            return Came { accepted: false, known: false, left_out: 0 };
        };
        let profile = self.profiles.get_mut(&key).unwrap();
        let visible = profile.visible();
        let accepted = sets.iter().any(|(_, value)| !value.is_empty())
            || removes.iter().any(|name| visible.contains_key(name));
        if !accepted {
            return Came { accepted, known: true, left_out: 0 };
        }
        profile.settle_layer();
        for name in removes {
            if profile.base.contains_key(name) {
                profile.touch(name, rules.seq);
                profile.base.remove(name);
            }
        }
        let left_out = set_each(profile, sets, rules);
        Came { accepted, known: true, left_out }
    }

    /// Erases a visitor with all ids (R12), also one that has expired: its bytes must go. Gives whether it was known.
    pub(crate) fn erase(&mut self, id: &Id, rules: &Rules) -> bool {
        let known = self.living(id, rules.at_ms(), rules.lifetime_ms).is_some();
        let Some(holder) = self.holder(id) else { return false };
        if !known {
            met(Met::ErasedWhenExpired);
        }
        let profile = self.profiles.remove(&holder).unwrap();
        self.erased.extend(profile.ids().cloned().chain([holder]));
        known
    }

    /// Sweeps a profile, if it has expired by this lifetime. Whoever has a longer one does not find it any more either.
    pub(crate) fn sweep(&mut self, id: &Id, at_ms: u64, lifetime_ms: u64) -> bool {
        let expired = self.profiles.get(id).is_some_and(|profile| !profile.lives(at_ms, lifetime_ms));
        expired && self.profiles.remove(id).is_some()
    }

    /// Applies all rows of a batch, in line order.
    pub(crate) fn batch(&mut self, rows: &[Row], rules: &BatchRules) -> Vec<Outcome> {
        let (at, lifetime) = (rules.rules.at_ms(), rules.rules.lifetime_ms);
        let mut met_ids: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
        for (id, _) in rows.iter().flatten() {
            if let Some(holder) = self.living(id, at, lifetime).filter(|holder| holder != id) {
                met_ids.entry(holder).or_default().insert(id.clone());
            }
        }
        if met_ids.values().any(|ids| ids.len() > 1) {
            met(Met::TwoLinkedIdsInOneBatch);
        }
        rows.iter().map(|row| self.row(row, rules)).collect()
    }

    /// Undoes the batch with the seq `of`, whose rows these are: every attribute that it touched last is as it was before.
    pub(crate) fn undo(&mut self, rows: &[Row], of: u64, removes: bool, rules: &Rules) -> Vec<Outcome> {
        let mut of_visitors: BTreeMap<Id, Outcome> = BTreeMap::new();
        let mut became = vec![];
        for row in rows {
            let Some((id, cells)) = row else {
                became.push(Outcome::Failed);
                continue;
            };
            if !cells.iter().any(|(_, value)| !value.is_empty() || removes) {
                became.push(Outcome::Ignored);
                continue;
            }
            let Some(holder) = self.living(id, rules.at_ms(), rules.lifetime_ms) else {
                became.push(Outcome::NotFound);
                continue;
            };
            let profile = self.profiles.get_mut(&holder).unwrap();
            let outcome = of_visitors.entry(holder).or_insert_with(|| undo_one(profile, of, rules));
            became.push(*outcome);
        }
        became
    }

    /// The profile that an id leads to now, as it was at an earlier time.
    pub(crate) fn profile(&self, key: &Id) -> Option<&Profile> {
        self.profiles.get(key)
    }

    fn row(&mut self, row: &Row, batch: &BatchRules) -> Outcome {
        let Some((id, cells)) = row else { return Outcome::Failed };
        let rules = &batch.rules;
        if !cells.iter().any(|(_, value)| !value.is_empty() || batch.removes) {
            return Outcome::Ignored;
        }
        let (at, lifetime) = (rules.at_ms(), rules.lifetime_ms);
        if self.held_expired(id, at, lifetime) {
            met(Met::ExpiryMetByRow);
        }
        let known = self.living(id, at, lifetime);
        let mut profile = match &known {
            Some(key) => self.profiles[key].clone(),
            None if batch.creates => Profile::born(rules.seq),
            None => return Outcome::NotFound,
        };

        let left: Vec<bool> = cells.iter().map(|(name, _)| profile.is_later(name, batch)).collect();
        let brought = |(_, value): &(String, String)| !value.is_empty() || batch.removes;
        let brought: Vec<bool> = cells.iter().map(brought).collect();
        if left.iter().zip(&brought).all(|(left, brought)| *left || !brought) {
            met(Met::RowOlderThanAll);
            return Outcome::Newer;
        }
        let bits = (0..).zip(left.iter().zip(&brought)).filter(|(_, (left, brought))| **left && **brought);
        let left_bits: u8 = bits.map(|(cell, _)| 1 << cell).sum();
        let before = profile.bytes();
        if !batch.replaces {
            profile.settle_layer();
        } else if !profile.layer.is_empty() && profile.layer_of != rules.seq {
            met(Met::LayerReplaced);
            for name in profile.layer.keys().cloned().collect::<Vec<_>>() {
                profile.touch(&name, rules.seq);
            }
            profile.layer.clear();
        }
        for ((name, text), _) in cells.iter().zip(&left).filter(|(_, left)| !**left) {
            if text.is_empty() {
                if batch.removes {
                    if profile.visible().contains_key(name) {
                        profile.touch(name, rules.seq);
                    }
                    profile.untouch(name, rules.seq);
                    profile.base.remove(name);
                    profile.layer.remove(name);
                }
                continue;
            }
            let value =
                Value { text: text.clone(), seq: rules.seq, from: rules.from, as_of_ms: batch.as_of_ms };
            profile.touch(name, rules.seq);
            if batch.replaces {
                profile.layer_of = rules.seq;
                profile.layer.insert(name.clone(), value);
            } else {
                profile.base.insert(name.clone(), value);
            }
        }
        if profile.bytes() > rules.profile_bytes_max.max(before) {
            met(Met::RowTooLarge);
            return Outcome::Failed;
        }
        profile.last_batch = rules.seq;
        profile.last_write = rules.seq;
        match known {
            Some(key) => {
                self.profiles.insert(key, profile);
                if left_bits == 0 {
                    return Outcome::Updated;
                }
                met(Met::RowOlderThanSome);
                Outcome::UpdatedInPart(left_bits)
            }
            None => {
                met(Met::Creation);
                *self.bear(id, rules.seq) = profile;
                Outcome::Created
            }
        }
    }
}

fn undo_one(profile: &mut Profile, of: u64, rules: &Rules) -> Outcome {
    if profile.born > of {
        return Outcome::Ignored;
    }
    let known = profile.born == of || profile.known_since < of;
    let last = |(name, touches): (&String, &Vec<(u64, Option<String>)>)| {
        let (seq, before) = touches.last()?;
        (*seq == of).then(|| (name.clone(), before.clone()))
    };
    let back: Vec<(String, Option<String>)> = profile.touched.iter().filter_map(last).collect();
    if !known && (back.is_empty() || back.iter().any(|(_, before)| before.is_none())) {
        met(Met::UndoneTooLate);
        return Outcome::Failed;
    }
    if back.is_empty() {
        return Outcome::Ignored;
    }
    met(Met::Undone);
    profile.settle_layer();
    for (name, before) in back {
        profile.touch(&name, rules.seq);
        match before {
            Some(text) => {
                let value = Value { text, seq: rules.seq, from: rules.from, as_of_ms: None };
                profile.base.insert(name, value);
            }
            None => drop(profile.base.remove(&name)),
        }
    }
    profile.last_batch = rules.seq;
    profile.last_write = rules.seq;
    Outcome::Updated
}

/// Sets attributes one by one, in the order sent; leaves out what would make the profile too large (R9).
fn set_each(profile: &mut Profile, sets: &[(String, String)], rules: &Rules) -> usize {
    profile.settle_layer();
    let mut left_out = 0;
    for (name, text) in sets.iter().filter(|(_, text)| !text.is_empty()) {
        let before = bytes(&profile.base);
        let mut with = profile.base.clone();
        with.insert(
            name.clone(),
            Value { text: text.clone(), seq: rules.seq, from: rules.from, as_of_ms: None },
        );
        if bytes(&with) > rules.profile_bytes_max.max(before) {
            met(Met::AttributeLeftOut);
            left_out += 1;
        } else {
            profile.touch(name, rules.seq);
            profile.base = with;
        }
    }
    profile.last_write = rules.seq;
    left_out
}
