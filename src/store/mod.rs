//! The seam to whatever keeps the profiles. The journal is the truth; a store is a view of it that can be rebuilt.
//!
//! Promises: each swap is atomic on its one key; nothing here knows what a batch file, a journal or a call is.

#[cfg(test)]
pub(crate) mod double;
pub mod memory;
pub mod sled;
mod sled_log;
pub mod swap;

use crate::model::batch::{BatchRules, Outcome};
use crate::model::id::Key;
use crate::model::profile::{DecodeError, Stored, StoredBytes, decode};
use crate::model::update::{Folded, Row, fold};

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store itself failed; what it then holds is not to be trusted.
    #[error("the store failed to {doing}: {why}")]
    Failed {
        /// What it was asked to do.
        doing: &'static str,
        /// What it said.
        why: String,
    },
    /// What the store has on the disk, or in memory, cannot be read.
    #[error("the store is damaged, and failed to {doing}: {why}")]
    Damaged {
        /// What it was asked to do.
        doing: &'static str,
        /// What it said.
        why: String,
    },
    /// A stored value that cannot be read.
    #[error("the store holds, under {key}, {error}")]
    Unreadable {
        /// The key, for people.
        key: String,
        /// What is wrong with the value.
        error: DecodeError,
    },
    /// A store that has lost something.
    #[error(
        "the store reaches as far as its checkpoint {found}, where {named} is needed: it has lost what came last"
    )]
    Behind {
        /// How far it reaches.
        found: u64,
        /// How far it must.
        named: u64,
    },
}

/// How far a store reaches: a number that rises with each checkpoint, and that the store keeps beside what went in before.
/// A store that gives back less than its checkpoint names lacks something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach(pub u64);

impl StoreError {
    /// Whether it is about what the store holds: asked again it would say the same, and only making the store again helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unreadable { .. })
    }
}

/// One visitor's rows of one batch, in line order, under the key they go to.
#[derive(Debug, Clone, Copy)]
pub struct VisitorRows<'r, 'a> {
    /// The canonical key.
    pub key: &'r Key,
    /// The rows.
    pub rows: &'r [Row<'r, 'a>],
}

/// What became of one visitor's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped {
    /// They are in already, by an earlier fold or a write that resolved them; nothing was changed.
    AlreadyIn,
    /// Nothing was changed: what would become of them could not be told from the profile afterwards, so the commit
    /// thread must resolve them and journal their outcomes first.
    MustResolve,
    /// The one row was dealt with.
    One(Outcome),
    /// The rows were dealt with.
    Many(Vec<Outcome>),
}

/// A place to keep profiles, links and tombstones.
pub trait ProfileStore: Send + Sync {
    /// What is stored under these keys.
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError>;

    /// Folds a batch's rows in, each visitor by one atomic swap.
    fn fold(&self, rules: &BatchRules, visitors: &[VisitorRows<'_, '_>]) -> Result<Vec<Swapped>, StoreError>;

    /// Puts `now` where `was` is, in one atomic swap; false, and nothing changed, if something else is there.
    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError>;

    /// What is stored, in key order, from behind `after`, at most `limit` of it.
    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError>;

    /// All that went in before is durable in the store when this returns, and behind it `reach`, unless the store
    /// reaches further already. Reads and writes do not wait for it.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError>;

    /// How far the store reaches: the highest number that a checkpoint left in it. No scan shows it.
    fn reach(&self) -> Result<Reach, StoreError>;
}

/// Puts a value that a journal entry holds where it belongs, unless what is there reaches as far. What was swept gives
/// way to its tombstone, which reaches no further than it did. `was` is a guess at what is there, which spares a read.
pub fn put_through(
    store: &dyn ProfileStore,
    key: &Key,
    mut was: Option<StoredBytes>,
    now: &StoredBytes,
) -> Result<(), StoreError> {
    let unreadable = |error| StoreError::Unreadable { key: format!("{key:?}"), error };
    let reaches = now.through().map_err(unreadable)?;
    loop {
        if let Some(was) = &was {
            let held = was.through().map_err(unreadable)?;
            if held > reaches || (held == reaches && (was.is_tombstone() || !now.is_tombstone())) {
                return Ok(());
            }
        }
        if store.put_if(key, was.as_ref(), Some(now))? {
            return Ok(());
        }
        was = store.get(std::slice::from_ref(key))?.pop().flatten();
    }
}

/// The pure part of [`ProfileStore::fold`], the same for every store: what the swap on one key should put there, if
/// anything, and what to answer. May run more than once for one swap.
pub fn swap(
    key: &Key,
    old: Option<&[u8]>,
    rules: &BatchRules,
    rows: &[Row<'_, '_>],
) -> Result<(Option<StoredBytes>, Swapped), StoreError> {
    let stored = old
        .map(decode)
        .transpose()
        .map_err(|error| StoreError::Unreadable { key: format!("{key:?}"), error })?;
    // A dead link that a new profile would replace: its old target may still list the id, which takes two keys.
    let replaces_link =
        rules.creates && matches!(&stored, Some(Stored::Link { through, .. }) if *through < rules.seq);
    if replaces_link {
        return Ok((None, Swapped::MustResolve));
    }
    let erased = matches!(&stored, Some(Stored::Tombstone { erased: true, .. }));
    let mut one = None;
    let mut many = Vec::new();
    let folded = fold(stored, rules, rows, |_, outcome| match one {
        None => one = Some(outcome),
        Some(first) => {
            if many.is_empty() {
                many.push(first);
            }
            many.push(outcome);
        }
    });
    let failed = one == Some(Outcome::Failed) || many.contains(&Outcome::Failed);
    Ok(match folded {
        Folded::AlreadyIn => (None, Swapped::AlreadyIn),
        _ if failed => (None, Swapped::MustResolve),
        // The tombstone of the life before must move to its mark, which takes two keys.
        Folded::Changed(_) if erased => (None, Swapped::MustResolve),
        folded => {
            let now = match folded {
                Folded::Changed(profile) => Some(Stored::Profile(profile).encode()),
                _ => None,
            };
            let swapped = match one {
                Some(one) if many.is_empty() => Swapped::One(one),
                _ => Swapped::Many(many),
            };
            (now, swapped)
        }
    })
}
