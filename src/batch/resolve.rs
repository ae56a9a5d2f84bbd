//! Resolving pending rows: applying one visitor's rows before a write to the visitor is journaled, and in every lookup.
//!
//! Promises: rows are applied batch by batch in seq order and, within a batch, in line order over all the visitor's ids. Each
//! is judged at its batch's place in the order (R4). If a held batch may have rows of the visitor, nothing is applied and an
//! error says so. The caller takes the list of pending batches first and reads the store second, so it finds in the store
//! what was applied meanwhile.
//!
//! All of this rests on an invariant that the commit thread keeps: *if a profile lists an id, the id's link leads to that
//! profile.* So a profile's own bytes say which rows belong to its visitor. A link whose target does not list the id is dead:
//! the target was erased, or expired and was created again (R11), or dropped its oldest link (R1).

use super::bundles::{FoundBundle, FoundStretch};
use super::checksum::{Damage, UploadError};
use super::found::{FoundRow, RowOf};
use super::outcomes_file::Became;
use super::pending::Pending;
use super::pending_list::PendingList;
use crate::model::batch::{BatchId, Outcome};
use crate::model::bundle::BundleApplier;
use crate::model::id::{IdKind, Key};
use crate::model::profile::{DecodeError, Profile, Stored, StoredBytes};
use crate::model::seq::Seq;
use crate::model::update::{Applied, Cell, Row, apply_rows, outcome_of_row_already_in, unlist_id};
use crate::store::{ProfileStore, StoreError};
use std::collections::HashMap;
use std::io;

/// Why a visitor's rows could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The uploaded file or its index could not be read.
    #[error("batch {batch}: its uploaded file could not be read: {error}")]
    Spool {
        /// Which batch.
        batch: String,
        /// What the system said.
        error: io::Error,
    },
    /// The uploaded file is not what was accepted.
    #[error("batch {batch}: {damage}")]
    Damaged {
        /// Which batch.
        batch: String,
        /// Its file, and how it differs from what was accepted.
        damage: Damage,
    },
    /// A held batch may have rows of the visitor. Nobody knows what they say until its file is sent again, or the batch is
    /// given up.
    #[error("batch {batch}, which may name this visitor, is stuck: {why}")]
    Held {
        /// Which batch.
        batch: String,
        /// Why.
        why: String,
    },
    /// This must not happen: the store has applied the row, but nothing says what became of it.
    #[error(
        "batch {batch}, line {line}: the store has applied this row under {key}, but its outcome is lost"
    )]
    OutcomeLost {
        /// Which batch.
        batch: String,
        /// Which row.
        line: u32,
        /// The key it went to.
        key: String,
    },
}

impl ResolveError {
    /// The error that this batch is held.
    fn held(batch: &Pending, why: &str) -> Self {
        Self::Held { batch: batch.accepted.id.to_string(), why: why.to_owned() }
    }

    /// What is wrong with the batch's file, in short, if the file is lost. Then trying again does not help.
    pub fn lost_upload(&self) -> Option<String> {
        match self {
            Self::Damaged { damage, .. } => Some(damage.in_short()),
            Self::Spool { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => Some("it is gone".into()),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Some(error.to_string()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Holds the batch if its file is lost. For a held batch, the error becomes [`ResolveError::Held`].
    fn holding(self, batch: &Pending) -> Self {
        if let Some(in_short) = self.lost_upload() {
            batch.hold(&in_short, &self);
        }
        match batch.held() {
            Some(why) => Self::held(batch, why),
            None => self,
        }
    }

    /// What is wrong with the file of this batch.
    pub fn upload(batch: &BatchId, error: UploadError) -> Self {
        let batch = batch.to_string();
        match error {
            UploadError::Damaged(damage) => Self::Damaged { batch, damage },
            UploadError::Unreadable { error, .. } => Self::Spool { batch, error },
        }
    }
}

/// One reader's view of the store. Each key is read once. A value that is put here is seen by later gets here, and by nobody
/// else.
pub struct View<'s> {
    store: &'s dyn ProfileStore,
    slots: HashMap<Key, Slot>,
    touched: Vec<Key>,
    touched_bytes: usize,
}

struct Slot {
    was: Option<StoredBytes>,
    now: Option<StoredBytes>,
}

impl<'s> View<'s> {
    /// A fresh view of a store.
    pub fn new(store: &'s dyn ProfileStore) -> Self {
        Self { store, slots: HashMap::new(), touched: Vec::new(), touched_bytes: 0 }
    }

    /// The value under a key.
    pub fn get(&mut self, key: &Key) -> Result<Option<StoredBytes>, StoreError> {
        if let Some(slot) = self.slots.get(key) {
            return Ok(slot.now.clone());
        }
        let was = self.store.get(std::slice::from_ref(key))?.pop().flatten();
        self.slots.insert(key.clone(), Slot { was: was.clone(), now: was.clone() });
        Ok(was)
    }

    /// Puts a value under a key.
    pub fn put(&mut self, key: &Key, now: &Stored<'_>) {
        self.put_bytes(key, now.encode());
    }

    fn put_bytes(&mut self, key: &Key, now: StoredBytes) {
        let applied_seq = |value: &StoredBytes| value.applied_seq().unwrap_or_default();
        debug_assert!(
            self.slots.get(key).and_then(|slot| slot.now.as_ref()).map(applied_seq)
                <= Some(applied_seq(&now)),
            "the applied_seq of {key:?} never falls"
        );
        self.touched_bytes += now.as_slice().len();
        let now = Some(now);
        match self.slots.get_mut(key) {
            Some(slot) => slot.now = now,
            None => drop(self.slots.insert(key.clone(), Slot { was: None, now })),
        }
        self.touched.push(key.clone());
    }

    /// The bytes of what was put since [`take_touched`](Self::take_touched) was last called.
    pub fn touched_bytes(&self) -> usize {
        self.touched_bytes
    }

    /// What was put since this was last called: each key once, with its value before and its last value.
    pub fn take_touched(&mut self) -> Vec<(Key, Option<StoredBytes>, StoredBytes)> {
        self.touched_bytes = 0;
        let mut keys = std::mem::take(&mut self.touched);
        keys.sort_unstable();
        keys.dedup();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(slot) = self.slots.get_mut(&key)
                && let Some(now) = slot.now.clone()
            {
                let was = slot.was.replace(now.clone());
                taken.push((key, was, now));
            }
        }
        taken
    }

    /// Takes back what was put since [`take_touched`](Self::take_touched) was last called.
    pub fn take_back(&mut self) {
        self.touched_bytes = 0;
        for key in std::mem::take(&mut self.touched) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            match slot.was.clone() {
                Some(was) => slot.now = Some(was),
                // It may have been put without being read first.
                None => drop(self.slots.remove(&key)),
            }
        }
    }

    /// The key of the profile that an id leads to: at most two living links away (ECID, pcId, thirdPartyId). It is the id's
    /// own key if no living link is there.
    pub fn canonical(&mut self, key: &Key) -> Result<Key, StoreError> {
        let mut at = key.clone();
        for _ in 0..2 {
            let Some(value) = self.get(&at)? else { break };
            let Stored::Link { target, .. } = decoded(&at, &value)? else { break };
            at = target;
        }
        if at == *key {
            return Ok(at);
        }
        let leads = match self.get(&at)? {
            Some(value) => match decoded(&at, &value)? {
                Stored::Profile(profile) => profile.lists(key.kind(), key.id()),
                _ => false,
            },
            None => false,
        };
        Ok(if leads { at } else { key.clone() })
    }

    /// Whether a link was under a key when it was read here.
    pub fn was_link(&self, key: &Key) -> Result<bool, StoreError> {
        let was = self.slots.get(key).and_then(|slot| slot.was.as_ref());
        let stored = was.map(|was| decoded(key, was)).transpose()?;
        Ok(matches!(stored, Some(Stored::Link { .. })))
    }

    /// Whether nothing was under a key when it was read here.
    pub fn was_nothing(&self, key: &Key) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.was.is_none())
    }

    /// Whether the links on the way from an id are still the same as when they were read here.
    pub fn links_stand(&self, key: &Key) -> Result<bool, StoreError> {
        let mut at = key.clone();
        for _ in 0..2 {
            let Some(was) = self.slots.get(&at).and_then(|slot| slot.was.clone()) else { break };
            let Stored::Link { target, .. } = decoded(&at, &was)? else { break };
            if self.store.get(std::slice::from_ref(&at))?.pop().flatten() != Some(was) {
                return Ok(false);
            }
            at = target;
        }
        Ok(true)
    }

    /// Takes an id, and the ECIDs that came with it, off the list of the profile that it leads to, because the id's own key will
    /// hold something else. Returns the keys of those ECIDs.
    pub fn detach(&mut self, key: &Key, seq: Seq) -> Result<Vec<Key>, StoreError> {
        let canonical = self.canonical(key)?;
        if canonical == *key {
            return Ok(vec![]);
        }
        let Some(value) = self.get(&canonical)? else { return Ok(vec![]) };
        let Stored::Profile(mut profile) = decoded(&canonical, &value)? else { return Ok(vec![]) };
        let mut came_along = vec![];
        for linked in profile.ids.clone().iter().filter(|linked| linked.kind == IdKind::Ecid) {
            let ecid = canonical.with_id(linked.kind, linked.id);
            let leads_through = match self.get(&ecid)? {
                Some(value) => {
                    matches!(decoded(&ecid, &value)?, Stored::Link { target, .. } if target == *key)
                }
                None => false,
            };
            if leads_through {
                unlist_id(&mut profile, linked.kind, linked.id);
                came_along.push(ecid);
            }
        }
        unlist_id(&mut profile, key.kind(), key.id());
        profile.last_write = profile.last_write.max(seq);
        profile.applied_seq = profile.applied_seq.max(seq);
        self.put(&canonical, &Stored::Profile(profile));
        Ok(came_along)
    }
}

/// Decodes a stored value, naming its key if it cannot be read.
pub fn decoded<'v>(key: &Key, value: &'v StoredBytes) -> Result<Stored<'v>, StoreError> {
    value.decode().map_err(|error: DecodeError| StoreError::Unreadable { key: format!("{key:?}"), error })
}

/// What became of a row that a write resolved. It is journaled with that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedRow {
    /// Its batch.
    pub batch: Seq,
    /// Its line.
    pub line: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a bundle's rows that a write resolved. It is journaled with that write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedBundle {
    /// Its batch.
    pub batch: Seq,
    /// The line of its first row.
    pub first: u32,
    /// What became of its rows.
    pub became: Became,
}

/// The outcomes of resolved rows, over one commit group.
#[derive(Debug, Default)]
pub struct Noted {
    rows: HashMap<(Seq, u32), Outcome>,
    bundles: HashMap<(Seq, u32), Became>,
    new_rows: Vec<ResolvedRow>,
    new_bundles: Vec<ResolvedBundle>,
    /// How many bytes the new ones take in a journal entry, at most.
    new_bytes: usize,
    nothing: bool,
}

impl Noted {
    /// How many bytes one row takes in a journal entry, at most. So does each run of equal outcomes in a bundle.
    pub const ROW_BYTES: usize = 9 + 5 + 5;

    /// For lookups, which don't need the outcomes. A lookup may be too late to learn them: a batch on its list can be completed
    /// meanwhile, and later writes resolve none of its rows.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// The rows and bundles noted since this was last called.
    pub fn take_new(&mut self) -> (Vec<ResolvedRow>, Vec<ResolvedBundle>) {
        self.new_bytes = 0;
        (std::mem::take(&mut self.new_rows), std::mem::take(&mut self.new_bundles))
    }

    /// How many bytes those take in a journal entry, at most.
    pub fn new_bytes(&self) -> usize {
        self.new_bytes
    }

    /// Takes back what was noted since [`take_new`](Self::take_new) was last called.
    pub fn take_back(&mut self) {
        let (rows, bundles) = self.take_new();
        for row in rows {
            self.rows.remove(&(row.batch, row.line));
        }
        for bundle in bundles {
            self.bundles.remove(&(bundle.batch, bundle.first));
        }
    }

    fn of(&self, batch: &Pending, line: u32) -> Option<Outcome> {
        self.rows.get(&(batch.accepted.id.seq, line)).copied().or_else(|| batch.resolved_row(line))
    }

    fn of_bundle(&self, batch: &Pending, bundle: &FoundBundle) -> Result<Option<Became>, ResolveError> {
        match self.bundles.get(&(batch.accepted.id.seq, bundle.first)) {
            Some(became) => Ok(Some(became.clone())),
            None => batch.resolved_bundle(bundle).map_err(spool(batch)),
        }
    }

    fn note(&mut self, batch: &Pending, line: u32, outcome: Outcome) {
        if !self.nothing && self.of(batch, line).is_none() {
            let batch = batch.accepted.id.seq;
            self.rows.insert((batch, line), outcome);
            self.new_rows.push(ResolvedRow { batch, line, outcome });
            self.new_bytes += Self::ROW_BYTES;
        }
    }

    fn note_bundle(
        &mut self,
        batch: &Pending,
        bundle: &FoundBundle,
        became: Became,
    ) -> Result<(), ResolveError> {
        if !self.nothing && self.of_bundle(batch, bundle)?.is_none() {
            let (batch, first) = (batch.accepted.id.seq, bundle.first);
            self.bundles.insert((batch, first), became.clone());
            self.new_bytes += (2 + became.runs().len()) * Self::ROW_BYTES;
            self.new_bundles.push(ResolvedBundle { batch, first, became });
        }
        Ok(())
    }
}

fn spool(batch: &Pending) -> impl Fn(io::Error) -> ResolveError {
    |error| ResolveError::Spool { batch: batch.accepted.id.to_string(), error }
}

/// Applies to the view all pending rows of the visitor that an id leads to, for all of the visitor's ids. Rows that an earlier
/// write resolved, or that the apply thread applied, are in the store already and change nothing. Notes the outcome of each row
/// whose outcome was not known before.
pub fn resolve(
    view: &mut View<'_>,
    pending: &PendingList,
    id: &Key,
    noted: &mut Noted,
) -> Result<(), ResolveError> {
    resolve_while(view, pending, id, noted, |_| true).map(|_| ())
}

/// The same, batch by batch, while the caller wants more. Returns whether that were all batches. The rows of the others stay
/// pending.
pub fn resolve_while(
    view: &mut View<'_>,
    pending: &PendingList,
    id: &Key,
    noted: &mut Noted,
    mut wanted: impl FnMut(&Noted) -> bool,
) -> Result<bool, ResolveError> {
    if pending.is_empty() {
        return Ok(true);
    }
    let canonical = view.canonical(id)?;
    let mut ids = vec![canonical.clone()];
    if canonical != *id {
        ids.push(id.clone());
    }
    if let Some(value) = view.get(&canonical)?
        && let Stored::Profile(profile) = decoded(&canonical, &value)?
    {
        let listed: Vec<Key> = profile
            .ids
            .iter()
            .map(|linked| canonical.with_id(linked.kind, linked.id))
            .filter(|key| key != id)
            .collect();
        ids.extend(listed);
    }
    for batch in pending.iter() {
        if !wanted(noted) {
            return Ok(false);
        }
        match batch.held() {
            None => {
                resolve_batch(view, batch, &canonical, &ids, noted).map_err(|error| error.holding(batch))?
            }
            Some(why) if batch.may_name(&ids) => return Err(ResolveError::held(batch, why)),
            Some(_) => {}
        }
    }
    Ok(true)
}

fn resolve_batch(
    view: &mut View<'_>,
    batch: &Pending,
    canonical: &Key,
    ids: &[Key],
    noted: &mut Noted,
) -> Result<(), ResolveError> {
    let rules = &batch.accepted.rules;
    // A write skips rows that an earlier write resolved. Otherwise each write to a visitor would read the files of all pending
    // batches that name the visitor. A lookup does not skip them: a write may have noted its rows, but not put the value yet.
    let found = if noted.nothing { batch.find(ids) } else { batch.find_unless_resolved(ids) };
    let found = found.map_err(spool(batch))?;
    if found.rows.is_empty() && found.bundles.is_empty() {
        return Ok(());
    }
    // At the batch's place in the order, a row belongs to the visitor if it has the canonical id or an id that the living
    // profile lists. The link of any other id is dead there, and the row belongs to that id alone.
    let value = view.get(canonical)?;
    let living = match &value {
        Some(value) => match decoded(canonical, value)? {
            Stored::Profile(profile) if !profile.expired(rules.seq.millis(), rules.lifetime_ms) => {
                Some(profile)
            }
            // The profile is past the batch's place. Whatever it was there, the rows are applied and their outcomes noted.
            Stored::Profile(profile) if profile.applied_seq >= rules.seq => Some(profile),
            _ => None,
        },
        None => None,
    };
    let group_of = |n: usize| {
        let id = ids.get(n)?;
        let lists = |profile: &Profile<'_>| profile.lists(id.kind(), id.id());
        Some(if living.as_ref().is_some_and(lists) { canonical } else { id })
    };
    let mut groups: Vec<(&Key, Vec<&FoundRow>, Vec<&FoundBundle>)> = vec![];
    let mut group = |key| {
        let at = groups.iter().position(|(group, ..)| *group == key).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push((key, vec![], vec![]));
        }
        at
    };
    let of_rows: Vec<_> = found.rows.iter().map(|row| group_of(row.id).map(&mut group)).collect();
    let of_bundles: Vec<_> = found.bundles.iter().map(|bundle| group_of(bundle.id).map(&mut group)).collect();
    for (row, at) in found.rows.iter().zip(of_rows) {
        if let Some((_, rows, _)) = at.and_then(|at| groups.get_mut(at)) {
            rows.push(row);
        }
    }
    for (bundle, at) in found.bundles.iter().zip(of_bundles) {
        if let Some((.., bundles)) = at.and_then(|at| groups.get_mut(at)) {
            bundles.push(bundle);
        }
    }
    for (key, rows, bundles) in groups {
        match bundles.is_empty() {
            true => resolve_rows(view, batch, key, &rows, noted)?,
            false => resolve_bundles(view, batch, key, &rows, &bundles, noted)?,
        }
    }
    Ok(())
}

/// The result of applying rows and bundles of one batch to one key.
pub struct BundlesApplied<'a> {
    /// What to store then. `None` if nothing changes.
    pub now: Option<StoredBytes>,
    /// What became of each row.
    pub rows: Vec<Outcome>,
    /// What became of each bundle's rows.
    pub bundles: Vec<Became>,
    /// The attributes that they named.
    pub named: Vec<&'a str>,
}

/// One row, or one stretch of a bundle. They are sorted by line, and overlapping ones are applied together.
struct Piece<'f> {
    first: u32,
    last: u32,
    bytes_max: u64,
    of: PieceOf<'f>,
}

#[derive(Clone, Copy)]
enum PieceOf<'f> {
    Row(usize, &'f FoundRow),
    Stretch(usize, &'f FoundBundle, &'f FoundStretch),
}

/// Applies rows and bundles as [`apply_rows`] applies rows. `None` if they are applied already. Overlapping ones are applied
/// together, so that the rows of two ids of one visitor are applied in line order.
pub fn apply_bundles<'a>(
    batch: &'a Pending,
    stored: Option<Stored<'a>>,
    rows: &[&FoundRow],
    bundles: &[&FoundBundle],
) -> io::Result<Option<BundlesApplied<'a>>> {
    let (rules, header) = (&batch.accepted.rules, &batch.header);
    let Some(mut applier) = BundleApplier::begin(stored, rules, header.names()) else { return Ok(None) };
    let mut became: Vec<Became> = bundles.iter().map(|_| Became::default()).collect();
    let mut outcomes = vec![Outcome::NotFound; rows.len()];
    if applier.finds_nobody() {
        bundles
            .iter()
            .zip(&mut became)
            .for_each(|(bundle, became)| became.push(bundle.rows, Outcome::NotFound));
        return Ok(Some(BundlesApplied { now: None, rows: outcomes, bundles: became, named: vec![] }));
    }
    let mut pieces: Vec<Piece<'_>> = vec![];
    for (n, row) in rows.iter().enumerate() {
        let cells = row.cells(header);
        let sets = cells.iter().filter(|cell| !cell.value.is_empty());
        let bytes_max = sets.map(|cell| (cell.name.len() + cell.value.len()) as u64).sum();
        pieces.push(Piece { first: row.line, last: row.line, bytes_max, of: PieceOf::Row(n, row) });
    }
    for (n, found) in bundles.iter().enumerate() {
        pieces.extend(found.stretches.iter().map(|it| {
            let stretch = it.stretch;
            let of = PieceOf::Stretch(n, found, it);
            Piece { first: stretch.first, last: stretch.last, bytes_max: stretch.bytes_max, of }
        }));
    }
    pieces.sort_unstable_by_key(|piece| piece.first);
    let mut rest = pieces.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        let (mut last, mut bytes_max, mut overlapping) = (first.last, first.bytes_max, 1);
        for piece in behind {
            if piece.first > last {
                break;
            }
            overlapping += 1;
            bytes_max = bytes_max.saturating_add(piece.bytes_max);
            last = last.max(piece.last);
        }
        let (together, after) = rest.split_at_checked(overlapping).unwrap_or((rest, &[]));
        rest = after;
        if applier.takes(bytes_max) {
            for (n, piece) in together.iter().enumerate() {
                match piece.of {
                    PieceOf::Row(at, row) => {
                        let outcome = applier.stretches(row.effects(rules.empty_values));
                        let outcome = if n == 0 { outcome } else { Outcome::Updated };
                        outcomes.get_mut(at).into_iter().for_each(|found| *found = outcome);
                    }
                    PieceOf::Stretch(at, _, found) => {
                        let outcome = applier.stretches(batch.effects(found)?);
                        let first = if n == 0 { outcome } else { Outcome::Updated };
                        if let Some(became) = became.get_mut(at) {
                            became.push(1, first);
                            became.push(found.stretch.rows - 1, Outcome::Updated);
                        }
                    }
                }
            }
            continue;
        }
        let (mut one_by_one, mut of_bundles) = (vec![], vec![]);
        for piece in together {
            match piece.of {
                PieceOf::Row(at, row) => one_by_one.push((at, row)),
                PieceOf::Stretch(at, bundle, found) => {
                    of_bundles.push((at, bundle, found.rows_before, found.stretch.rows));
                }
            }
        }
        batch.each_row_of(&one_by_one, &of_bundles, |line, of, cells| {
            let outcome = applier.row(line, cells);
            match of {
                RowOf::Row(at) => outcomes.get_mut(at).into_iter().for_each(|found| *found = outcome),
                RowOf::Bundle(at, _) => {
                    became.get_mut(at).into_iter().for_each(|became| became.push(1, outcome));
                }
            }
            Ok(())
        })?;
    }
    let named = applier.named().collect();
    Ok(Some(BundlesApplied { now: applier.finish(), rows: outcomes, bundles: became, named }))
}

/// Applies rows and bundles of one batch to one key.
fn resolve_bundles(
    view: &mut View<'_>,
    batch: &Pending,
    key: &Key,
    rows: &[&FoundRow],
    bundles: &[&FoundBundle],
    noted: &mut Noted,
) -> Result<(), ResolveError> {
    let rules = &batch.accepted.rules;
    let value = view.get(key)?;
    let stored = value.as_ref().map(|value| decoded(key, value)).transpose()?;
    let is_link = matches!(stored, Some(Stored::Link { .. }));
    if is_link && rows.iter().all(|row| went_elsewhere(noted, batch, row)) {
        let mut all = true;
        for bundle in bundles {
            all &= noted.of_bundle(batch, bundle)?.is_some_and(|became| !became.any(Outcome::Created));
        }
        if all {
            return Ok(());
        }
    }
    if let Some(applied) = apply_bundles(batch, stored.clone(), rows, bundles).map_err(spool(batch))? {
        if let Some(now) = applied.now {
            if is_link {
                view.detach(key, rules.seq)?;
            }
            view.put_bytes(key, now);
        }
        rows.iter().zip(applied.rows).for_each(|(row, outcome)| noted.note(batch, row.line, outcome));
        for (bundle, became) in bundles.iter().zip(applied.bundles) {
            noted.note_bundle(batch, bundle, became)?;
        }
        return Ok(());
    }
    // Applied already. The profile still shows the outcome of rows that the apply thread applied, if no later write changed it.
    if noted.nothing {
        return Ok(());
    }
    let first = rows.iter().map(|row| row.line).chain(bundles.iter().map(|bundle| bundle.first)).min();
    let outcome = |line: u32, cells: &[Cell<'_>]| match &stored {
        Some(Stored::Profile(profile)) => {
            Ok(outcome_of_row_already_in(profile, rules, Some(line) == first, cells))
        }
        _ => {
            let batch = batch.accepted.id.to_string();
            Err(ResolveError::OutcomeLost { batch, line, key: format!("{key:?}") })
        }
    };
    for row in rows {
        if noted.of(batch, row.line).is_none() {
            noted.note(batch, row.line, outcome(row.line, &row.cells(&batch.header))?);
        }
    }
    for bundle in bundles {
        if noted.of_bundle(batch, bundle)?.is_some() {
            continue;
        }
        // An earlier program may have resolved some of its rows, one by one.
        let mut became = Became::default();
        let mut fault = None;
        let mut add = |line, cells: &[Cell<'_>]| match batch
            .resolved_row(line)
            .map_or_else(|| outcome(line, cells), Ok)
        {
            Ok(outcome) => became.push(1, outcome),
            Err(error) => fault = fault.take().or(Some(error)),
        };
        if rules.as_of.is_some() {
            // What a batch with a time left alone depends on what the rows say.
            let all = [(0, *bundle, 0, bundle.rows)];
            let name = |attribute: usize| batch.header.names().get(attribute).map_or("", |name| name);
            let read = batch.each_row_of(&[], &all, |line, _, cells| {
                let cells =
                    cells.iter().map(|&(attribute, value)| Cell { attribute, name: name(attribute), value });
                add(line, &cells.collect::<Vec<_>>());
                Ok(())
            });
            read.map_err(spool(batch))?;
        } else {
            batch.lines_of(bundle).map_err(spool(batch))?.into_iter().for_each(|line| add(line, &[]));
        }
        fault.map_or(Ok(()), Err)?;
        noted.note_bundle(batch, bundle, became)?;
    }
    Ok(())
}

/// Whether a row under a link's key is known to have been applied to another visitor: the one that the link led to before it
/// died. A row that created a profile does not count, because a lookup may know that outcome before the store shows the
/// profile.
fn went_elsewhere(noted: &Noted, batch: &Pending, row: &FoundRow) -> bool {
    noted.of(batch, row.line).is_some_and(|outcome| outcome != Outcome::Created)
}

/// Applies rows of one batch to one key.
fn resolve_rows(
    view: &mut View<'_>,
    batch: &Pending,
    key: &Key,
    rows: &[&FoundRow],
    noted: &mut Noted,
) -> Result<(), ResolveError> {
    let (rules, header) = (&batch.accepted.rules, &batch.header);
    let value = view.get(key)?;
    let stored = value.as_ref().map(|value| decoded(key, value)).transpose()?;
    // The link died after the batch's place in the order. Its rows were applied to the visitor that it led to, and must not
    // create another.
    let elsewhere = |row: &&FoundRow| went_elsewhere(noted, batch, row);
    if matches!(stored, Some(Stored::Link { .. })) && rows.iter().all(elsewhere) {
        return Ok(());
    }
    let cells: Vec<_> = rows.iter().map(|row| row.cells(header)).collect();
    let applier: Vec<_> = rows.iter().zip(&cells).map(|(row, cells)| Row { line: row.line, cells }).collect();
    let mut became = vec![];
    match apply_rows(stored.clone(), rules, &applier, |line, outcome| became.push((line, outcome))) {
        Applied::Unchanged => {}
        Applied::Changed(profile) => {
            if matches!(stored, Some(Stored::Link { .. })) {
                // The new profile replaces a dead link, whose old target must no longer list the id.
                view.detach(key, rules.seq)?;
            }
            view.put(key, &Stored::Profile(profile));
        }
        Applied::AlreadyIn => {
            for (n, (row, row_cells)) in rows.iter().zip(&cells).enumerate() {
                if noted.nothing || noted.of(batch, row.line).is_some() {
                    continue;
                }
                let Some(Stored::Profile(profile)) = &stored else {
                    let batch = batch.accepted.id.to_string();
                    return Err(ResolveError::OutcomeLost { batch, line: row.line, key: format!("{key:?}") });
                };
                became.push((row.line, outcome_of_row_already_in(profile, rules, n == 0, row_cells)));
            }
        }
    }
    became.into_iter().for_each(|(line, outcome)| noted.note(batch, line, outcome));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::ClientCode;
    use crate::store::memory::MemoryStore;
    use crate::store::put_if_newer;
    use std::sync::Arc;

    /// A write does not read rows again that an earlier write resolved. A lookup does, because the put may still follow.
    #[test]
    fn writes_skip_rows_that_writes_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, "p");
        let known = Stored::Profile(Profile::born_at(Seq::from_u64(1))).encode();
        put_if_newer(&store, &key, None, &known).unwrap();
        let batch = Arc::new(Pending::of_text(folder.path(), "demo", 7, "batch=pcId,a\np,1\np,2\n"));
        let pending = PendingList::default().with(Arc::clone(&batch));
        let resolved = |mut noted: Noted| {
            let mut view = View::new(&store);
            resolve(&mut view, &pending, &key, &mut noted).map(|()| !view.take_touched().is_empty())
        };
        assert!(resolved(Noted::default()).unwrap());
        batch.resolve(2, Outcome::Updated);
        assert!(resolved(Noted::default()).unwrap(), "one row is not resolved yet");
        batch.resolve(3, Outcome::Updated);
        assert!(resolved(Noted::nothing()).unwrap());
        std::fs::remove_file(folder.path().join("7")).unwrap();
        assert!(!resolved(Noted::default()).unwrap());
        assert!(resolved(Noted::nothing()).is_err());
    }
}
