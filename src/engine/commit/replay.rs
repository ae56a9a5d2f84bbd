//! Puts writes from the journal into a store that lacks them, and judges the rows of batches whose outcomes are lost.

use crate::batch::csv::Parser;
use crate::batch::pending::Pending;
use crate::batch::resolve::{View, decoded};
use crate::engine::error::OpenError;
use crate::journal::entry::{Change, Entry, decode_group};
use crate::journal::log::{Position, read_between};
use crate::model::id::Key;
use crate::model::profile::{DecodeError, Profile, Stored, StoredBytes};
use crate::model::seq::Seq;
use crate::store::{ProfileStore, put_if_newer};
use std::collections::HashSet;
use std::path::Path;

/// Puts the writes between two journal positions into a store, while others may append to the journal. Returns the number
/// of writes.
pub(in crate::engine) fn redo(
    journal: &Path,
    from: Position,
    to: Position,
    store: &dyn ProfileStore,
) -> Result<u64, OpenError> {
    let mut writes = 0;
    read_between(journal, from, to, |start, _end, payload| {
        for entry in decode_group(payload).map_err(|error| OpenError::entry(start, error))? {
            if let Entry::Write(write) = entry {
                writes += 1;
                put_changes(store, start, write.changes)?;
            }
        }
        Ok::<_, OpenError>(())
    })?;
    Ok(writes)
}

pub(in crate::engine) fn put_changes(
    store: &dyn ProfileStore,
    start: Position,
    changes: Vec<Change>,
) -> Result<(), OpenError> {
    for change in changes {
        let key = Key::from_bytes(&change.key).ok_or_else(|| OpenError::entry(start, "a key"))?;
        let now = StoredBytes::new(change.value.into_vec());
        if let Err(error @ DecodeError::Version(_)) = now.applied_seq() {
            return Err(OpenError::entry(start, error));
        }
        let was = store.get(std::slice::from_ref(&key))?.pop().flatten();
        put_if_newer(store, &key, was, &now)?;
    }
    Ok(())
}

/// Judges a complete batch whose outcomes are lost, before its rows are applied once more. The journal or the store tells
/// most outcomes; [the others](rows_lost) are lost. No write may reach this store until the batch is published.
pub(in crate::engine) fn judge(pending: Pending, store: &dyn ProfileStore) -> Result<Pending, OpenError> {
    let accepted = &pending.accepted;
    let failed = |error| OpenError::Batch { batch: Box::new((**accepted).clone()), error };
    let known = pending.lines_resolved().map_err(failed)?.into_iter().collect();
    let lost = rows_lost(&pending, store, &known)?;
    let (batch, rows) = (&pending.accepted.id, lost.len());
    tracing::error!(%batch, rows, "the outcomes of a batch were missing or damaged and are rebuilt; the outcome of this many rows stays unknown");
    Ok(pending.with_lost(lost))
}

/// The lines whose outcome neither the journal (it tells the `known` lines) nor the visitor's profile tells, because later
/// writes hide it. The other rows are judged when they are applied once more.
pub(in crate::engine) fn rows_lost(
    pending: &Pending,
    store: &dyn ProfileStore,
    known: &HashSet<u32>,
) -> Result<HashSet<u32>, OpenError> {
    let accepted = &pending.accepted;
    let (client, kind, seq) = (&accepted.id.client, accepted.key_kind, accepted.id.seq);
    let mut ids = vec![];
    let mut parser = Parser::new(&accepted.rules.reading);
    let mut parsed = Ok(());
    let mut each = |row: crate::batch::csv::Row<'_>| {
        if let Ok(cells) = &row.content
            && !known.contains(&row.line)
        {
            ids.push((row.line, Key::new(client, kind, cells.id())));
        }
    };
    let failed = |error| OpenError::Batch { batch: Box::new((**accepted).clone()), error };
    pending
        .read_file(|piece| {
            if parsed.is_ok() {
                parsed = parser.push(piece, &mut each);
            }
        })
        .map_err(failed)?;
    // The file was verified, so it parses as it did before.
    parsed.and_then(|()| parser.finish(&mut each).map(drop)).unwrap_or_default();
    let mut lost = HashSet::new();
    for (line, id) in ids {
        let mut view = View::new(store);
        let key = view.canonical(&id)?;
        let Some(value) = view.get(&key)? else { continue };
        let stored = decoded(&key, &value)?;
        if value.applied_seq().is_ok_and(|applied_seq| applied_seq > seq) && !tells(&stored, seq) {
            lost.insert(line);
        }
    }
    Ok(lost)
}

/// Whether a value still shows that the batch with this seq wrote to it, although later writes reached it.
fn tells(stored: &Stored<'_>, seq: Seq) -> bool {
    let wrote = |profile: &Profile<'_>| profile.visible().iter().any(|attribute| attribute.seq == seq);
    matches!(stored, Stored::Profile(profile) if profile.born <= seq && wrote(profile))
}
