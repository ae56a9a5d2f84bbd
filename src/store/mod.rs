//! The interface to the profile store. The journal is the truth; a store is a view of it that can be rebuilt.
//!
//! Promises: each swap is atomic on its one key. This module knows nothing of batch files, journals or HTTP calls.

#[cfg(test)]
pub(crate) mod double;
pub mod memory;
pub mod sled;
mod sled_log;
pub mod swap;

use crate::model::batch::{BatchRules, Outcome};
use crate::model::id::Key;
use crate::model::profile::{DecodeError, Stored, StoredBytes, decode};
use crate::model::update::{Applied, Row, apply_rows};

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store itself failed. Its contents may be incomplete.
    #[error("the store failed to {doing}: {why}")]
    Failed {
        /// The operation.
        doing: &'static str,
        /// The cause.
        why: String,
    },
    /// The store's data, on the disk or in memory, cannot be read.
    #[error("the store is damaged and failed to {doing}: {why}")]
    Damaged {
        /// The operation.
        doing: &'static str,
        /// The cause.
        why: String,
    },
    /// A stored value cannot be decoded.
    #[error("the stored value under {key} cannot be read: {error}")]
    Unreadable {
        /// The key, as text.
        key: String,
        /// What is wrong with the value.
        error: DecodeError,
    },
    /// The store lacks writes that its last checkpoint included.
    #[error("the store has checkpoint {found} but needs {named}: it has lost its latest writes")]
    Behind {
        /// The checkpoint number that the store has.
        found: u64,
        /// The checkpoint number that it must have.
        named: u64,
    },
}

/// A checkpoint number. It rises with each checkpoint, and the store keeps it after the writes that the checkpoint
/// includes. A store with a lower number than its last checkpoint has lost writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach(pub u64);

impl StoreError {
    /// Whether the store's contents are damaged. A retry fails again; only a rebuild helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unreadable { .. })
    }
}

/// One visitor's rows of one batch, in line order.
#[derive(Debug, Clone, Copy)]
pub struct VisitorRows<'r, 'a> {
    /// The visitor's canonical key.
    pub key: &'r Key,
    /// The rows.
    pub rows: &'r [Row<'r, 'a>],
}

/// The result of applying one visitor's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped {
    /// The store already had the rows: an earlier attempt applied them, or a later write resolved them. Nothing
    /// changed.
    AlreadyIn,
    /// Nothing changed. The profile would not show the rows' outcomes afterwards, so the commit thread must resolve the
    /// rows and journal their outcomes.
    MustResolve,
    /// The outcome of the only row.
    One(Outcome),
    /// The outcomes of the rows.
    Many(Vec<Outcome>),
}

/// A store of profiles, links and tombstones.
pub trait ProfileStore: Send + Sync {
    /// Reads the values under these keys.
    fn get(&self, keys: &[Key]) -> Result<Vec<Option<StoredBytes>>, StoreError>;

    /// Applies a batch's rows, with one atomic swap per visitor.
    fn apply_rows(
        &self,
        rules: &BatchRules,
        visitors: &[VisitorRows<'_, '_>],
    ) -> Result<Vec<Swapped>, StoreError>;

    /// Replaces `was` by `now` under the key in one atomic swap. Returns false and changes nothing if the current value
    /// is not `was`.
    fn put_if(
        &self,
        key: &Key,
        was: Option<&StoredBytes>,
        now: Option<&StoredBytes>,
    ) -> Result<bool, StoreError>;

    /// Reads up to `limit` values in key order, starting after the key `after`.
    fn scan(&self, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, StoredBytes)>, StoreError>;

    /// Makes all earlier writes durable, and after them the checkpoint number `reach`, unless the store already has a
    /// higher one. Reads and writes continue meanwhile.
    fn checkpoint(&self, reach: Reach) -> Result<(), StoreError>;

    /// The highest checkpoint number in the store. Scans do not show it.
    fn reach(&self) -> Result<Reach, StoreError>;
}

/// Stores a journaled value unless the store already has a value as new. At the same seq, a tombstone replaces the
/// value that was swept. `was` is a guess at the current value, which saves a read if it is right.
pub fn put_if_newer(
    store: &dyn ProfileStore,
    key: &Key,
    mut was: Option<StoredBytes>,
    now: &StoredBytes,
) -> Result<(), StoreError> {
    let unreadable = |error| StoreError::Unreadable { key: format!("{key:?}"), error };
    let reaches = now.applied_seq().map_err(unreadable)?;
    loop {
        if let Some(was) = &was {
            let held = was.applied_seq().map_err(unreadable)?;
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

/// The pure part of [`ProfileStore::apply_rows`], shared by all stores: the value to store under one key, if any, and
/// the result to return. A store may call it several times for one swap.
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
    // The new profile would replace a link that no longer counts. Its old target may still list the id, so two keys
    // must change.
    let replaces_link = rules.creates
        && matches!(&stored, Some(Stored::Link { applied_seq, .. }) if *applied_seq < rules.seq);
    if replaces_link {
        return Ok((None, Swapped::MustResolve));
    }
    let erased = matches!(&stored, Some(Stored::Tombstone { erased: true, .. }));
    let mut one = None;
    let mut many = Vec::new();
    let applied = apply_rows(stored, rules, rows, |_, outcome| match one {
        None => one = Some(outcome),
        Some(first) => {
            if many.is_empty() {
                many.push(first);
            }
            many.push(outcome);
        }
    });
    let failed = one == Some(Outcome::Failed) || many.contains(&Outcome::Failed);
    Ok(match applied {
        Applied::AlreadyIn => (None, Swapped::AlreadyIn),
        _ if failed => (None, Swapped::MustResolve),
        // The old tombstone must move to the id's erasure mark, so two keys must change.
        Applied::Changed(_) if erased => (None, Swapped::MustResolve),
        applied => {
            let now = match applied {
                Applied::Changed(profile) => Some(Stored::Profile(profile).encode()),
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
