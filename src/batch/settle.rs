//! Folding one visitor's pending rows in: before a write to the visitor is journaled, and in every lookup.
//!
//! Promises: rows are applied batch by batch in seq order and, within a batch, in line order over all the visitor's
//! ids; each is judged at its batch's place in the order (R4). Whoever calls takes the list of pending batches first
//! and reads the store second, so a batch folded meanwhile is met in the store.
//!
//! One invariant carries all of it, kept by the commit thread: *a profile that lists an id is where that id's link
//! leads.* So a profile's own bytes say which rows are its visitor's; a link whose target does not list it is dead,
//! be it that the target was erased, expired and was born again (R11), or dropped its oldest link (R1).

use super::checksum::{Damage, UploadError};
use super::pending::{FoundRow, Pending};
use super::pending_list::PendingList;
use crate::model::batch::{BatchId, Outcome};
use crate::model::id::{IdKind, Key};
use crate::model::profile::{DecodeError, Profile, Stored, StoredBytes};
use crate::model::seq::Seq;
use crate::model::update::{Folded, Row, fold, outcome_of_row_already_in, unlist_id};
use crate::store::{ProfileStore, StoreError};
use std::collections::HashMap;
use std::io;

/// Why a visitor's rows could not be folded in.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
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
        /// Its file, and what it comes to.
        damage: Damage,
    },
    /// What must not be: the store has a row in and nothing tells what became of it.
    #[error("batch {batch}, line {line}: the store is past this row under {key}, and its outcome is lost")]
    OutcomeLost {
        /// Which batch.
        batch: String,
        /// Which row.
        line: u32,
        /// The key it went to.
        key: String,
    },
}

impl SettleError {
    /// What is wrong with the file of this batch.
    pub fn upload(batch: &BatchId, error: UploadError) -> Self {
        let batch = batch.to_string();
        match error {
            UploadError::Damaged(damage) => Self::Damaged { batch, damage },
            UploadError::Unreadable { error, .. } => Self::Spool { batch, error },
        }
    }
}

/// The store as one reader sees it: each key is read once, and what is put is seen by later gets and by nobody else.
pub struct View<'s> {
    store: &'s dyn ProfileStore,
    slots: HashMap<Key, Slot>,
    touched: Vec<Key>,
}

struct Slot {
    was: Option<StoredBytes>,
    now: Option<StoredBytes>,
}

impl<'s> View<'s> {
    /// A fresh view of a store.
    pub fn new(store: &'s dyn ProfileStore) -> Self {
        Self { store, slots: HashMap::new(), touched: Vec::new() }
    }

    /// What is under a key.
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
        let now = Some(now.encode());
        match self.slots.get_mut(key) {
            Some(slot) => slot.now = now,
            None => drop(self.slots.insert(key.clone(), Slot { was: None, now })),
        }
        self.touched.push(key.clone());
    }

    /// What was put since this was last asked: each key once, with what stood there before and its last value.
    pub fn take_touched(&mut self) -> Vec<(Key, Option<StoredBytes>, StoredBytes)> {
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

    /// Takes back what was put since it was last taken.
    pub fn take_back(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            match slot.was.clone() {
                Some(was) => slot.now = Some(was),
                // It may have been put without a look.
                None => drop(self.slots.remove(&key)),
            }
        }
    }

    /// The key of the profile that an id leads to: through a link that counts, two at most (ECID, pcId, thirdPartyId),
    /// else the id's own key.
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

    /// Whether a link stood under a key when it was read here.
    pub fn was_link(&self, key: &Key) -> Result<bool, StoreError> {
        let was = self.slots.get(key).and_then(|slot| slot.was.as_ref());
        let stored = was.map(|was| decoded(key, was)).transpose()?;
        Ok(matches!(stored, Some(Stored::Link { .. })))
    }

    /// Whether nothing was under a key when it was read here.
    pub fn was_nothing(&self, key: &Key) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.was.is_none())
    }

    /// Whether the links on the way from an id are still what they were when read here.
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

    /// Takes an id, and the ECIDs that came with it, off the list of the profile it leads to, if any lists it: the
    /// id's own key is about to hold something else. Gives the keys of those ECIDs.
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
        profile.through = profile.through.max(seq);
        self.put(&canonical, &Stored::Profile(profile));
        Ok(came_along)
    }
}

/// Decodes a stored value, naming its key if it cannot be read.
pub fn decoded<'v>(key: &Key, value: &'v StoredBytes) -> Result<Stored<'v>, StoreError> {
    value.decode().map_err(|error: DecodeError| StoreError::Unreadable { key: format!("{key:?}"), error })
}

/// What a settling made of a row: journaled with the write that settled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledRow {
    /// Its batch.
    pub batch: Seq,
    /// Its line.
    pub line: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What settling made of rows, over one commit group.
#[derive(Debug, Default)]
pub struct Noted {
    all: HashMap<(Seq, u32), Outcome>,
    new: Vec<SettledRow>,
    nothing: bool,
}

impl Noted {
    /// For lookups, which don't ask what became of a row. They may come too late to be told: a lookup holds its list
    /// of runs while a batch on it is completed, and what follows that settles none of the batch's rows.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// The rows noted since this was last asked.
    pub fn take_new(&mut self) -> Vec<SettledRow> {
        std::mem::take(&mut self.new)
    }

    /// Takes back the rows noted since this was last asked for them.
    pub fn take_back(&mut self) {
        for row in std::mem::take(&mut self.new) {
            self.all.remove(&(row.batch, row.line));
        }
    }

    fn of(&self, batch: &Pending, line: u32) -> Option<Outcome> {
        self.all.get(&(batch.accepted.id.seq, line)).copied().or_else(|| batch.settled(line))
    }

    fn note(&mut self, batch: &Pending, line: u32, outcome: Outcome) {
        if !self.nothing && self.of(batch, line).is_none() {
            let batch = batch.accepted.id.seq;
            self.all.insert((batch, line), outcome);
            self.new.push(SettledRow { batch, line, outcome });
        }
    }
}

/// Folds into the view all pending rows of the visitor that an id leads to, of all its ids. Rows that an earlier write
/// settled, or background folding applied, are in the store already and change nothing. Notes what became
/// of each row of which that was not known before.
pub fn settle(
    view: &mut View<'_>,
    pending: &PendingList,
    id: &Key,
    noted: &mut Noted,
) -> Result<(), SettleError> {
    if pending.is_empty() {
        return Ok(());
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
        settle_batch(view, batch, &canonical, &ids, noted)?;
    }
    Ok(())
}

fn settle_batch(
    view: &mut View<'_>,
    batch: &Pending,
    canonical: &Key,
    ids: &[Key],
    noted: &mut Noted,
) -> Result<(), SettleError> {
    let rules = &batch.accepted.rules;
    // A visitor who is written to again and again, while many batches that name it are pending, would else have all their
    // files read each time. Who only looks may be between a write's word that it settled a row and what it puts.
    let rows = if noted.nothing { batch.rows_of(ids) } else { batch.rows_of_unless_settled(ids) };
    let rows = rows.map_err(|error| SettleError::Spool { batch: batch.accepted.id.to_string(), error })?;
    if rows.is_empty() {
        return Ok(());
    }
    // At the batch's place, a row is the visitor's if it bears the canonical id or one that the living profile lists;
    // any other id's link is dead there, and the row is for that id alone.
    let value = view.get(canonical)?;
    let living = match &value {
        Some(value) => match decoded(canonical, value)? {
            Stored::Profile(profile) if !profile.expired(rules.seq.millis(), rules.lifetime_ms) => {
                Some(profile)
            }
            // Past this batch's place: whatever it was there, the rows are in and their outcomes noted.
            Stored::Profile(profile) if profile.through >= rules.seq => Some(profile),
            _ => None,
        },
        None => None,
    };
    let mut groups: Vec<(&Key, Vec<&FoundRow>)> = vec![];
    for row in &rows {
        let Some(id) = ids.get(row.id) else { continue };
        let lists = |profile: &Profile<'_>| profile.lists(id.kind(), id.id());
        let key = if living.as_ref().is_some_and(lists) { canonical } else { id };
        match groups.iter_mut().find(|(group, _)| *group == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    for (key, rows) in groups {
        settle_rows(view, batch, key, &rows, noted)?;
    }
    Ok(())
}

/// Folds rows of one batch in under one key.
fn settle_rows(
    view: &mut View<'_>,
    batch: &Pending,
    key: &Key,
    rows: &[&FoundRow],
    noted: &mut Noted,
) -> Result<(), SettleError> {
    let (rules, header) = (&batch.accepted.rules, &batch.header);
    let value = view.get(key)?;
    let stored = value.as_ref().map(|value| decoded(key, value)).transpose()?;
    // A link that died behind the batch's place: its rows went to the visitor it led to, and must not create another.
    // (Of rows that did create, a lookup may know the outcome before the store shows the profile.)
    let went_elsewhere =
        |row: &&FoundRow| noted.of(batch, row.line).is_some_and(|outcome| outcome != Outcome::Created);
    if matches!(stored, Some(Stored::Link { .. })) && rows.iter().all(went_elsewhere) {
        return Ok(());
    }
    let cells: Vec<_> = rows.iter().map(|row| row.cells(header)).collect();
    let folding: Vec<_> = rows.iter().zip(&cells).map(|(row, cells)| Row { line: row.line, cells }).collect();
    let mut became = vec![];
    match fold(stored.clone(), rules, &folding, |line, outcome| became.push((line, outcome))) {
        Folded::Unchanged => {}
        Folded::Changed(profile) => {
            if matches!(stored, Some(Stored::Link { .. })) {
                // A profile born where a dead link stood: its old target must not go on listing the id.
                view.detach(key, rules.seq)?;
            }
            view.put(key, &Stored::Profile(profile));
        }
        Folded::AlreadyIn => {
            for (n, row) in rows.iter().enumerate() {
                if noted.nothing || noted.of(batch, row.line).is_some() {
                    continue;
                }
                let Some(Stored::Profile(profile)) = &stored else {
                    let batch = batch.accepted.id.to_string();
                    return Err(SettleError::OutcomeLost { batch, line: row.line, key: format!("{key:?}") });
                };
                became.push((row.line, outcome_of_row_already_in(profile, rules, n == 0)));
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
    use crate::store::put_through;
    use std::sync::Arc;

    /// Rows that writes settled are not read again by writes; a lookup reads them, for the put may be still to come.
    #[test]
    fn writes_look_no_further_for_rows_that_writes_settled() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let key = Key::new(&ClientCode::new("demo").unwrap(), IdKind::Pc, "p");
        let known = Stored::Profile(Profile::born_at(Seq::from_u64(1))).encode();
        put_through(&store, &key, None, &known).unwrap();
        let batch = Arc::new(Pending::of_text(folder.path(), "demo", 7, "batch=pcId,a\np,1\np,2\n"));
        let pending = PendingList::default().with(Arc::clone(&batch));
        let settled = |mut noted: Noted| {
            let mut view = View::new(&store);
            settle(&mut view, &pending, &key, &mut noted).map(|()| !view.take_touched().is_empty())
        };
        assert!(settled(Noted::default()).unwrap());
        batch.settle(2, Outcome::Updated);
        assert!(settled(Noted::default()).unwrap(), "one row is not settled yet");
        batch.settle(3, Outcome::Updated);
        assert!(settled(Noted::nothing()).unwrap());
        std::fs::remove_file(folder.path().join("7")).unwrap();
        assert!(!settled(Noted::default()).unwrap());
        assert!(settled(Noted::nothing()).is_err());
    }
}
