//! What a start needs of a data folder, in one place: starting, backing up, restoring, checking and salvaging go by it.
//!
//! | what | which of it | if it is missing or damaged |
//! | --- | --- | --- |
//! | the format stamp | the one | refused if damaged; missing: format 1 |
//! | the store, its checkpoint | the generation in use | made again from what follows |
//! | a snapshot | the newest that verifies | the one before it, then the journal alone |
//! | journal segments | from the oldest incomplete batch of the checkpoint or snapshot on | refused, [`salvage`](crate::engine::open::salvage) gives up what is damaged |
//! | an incomplete batch's upload | `.csv`, and `.overwritten` if rows of it were | that batch is held until it is [sent again or given up](crate::engine::ingest::repair), also in what is restored; a check tells it as a fault, salvage gives the batch up |
//! | its index | `.index` | made again; of a batch that is held it says whom that names, else it may be anybody |
//! | its outcomes, if the journal says that it was complete | `.outcomes` | made again; [lost](rows_lost) are those rows that nobody can judge any more. Where the upload is lost, too, the batch is held, and judged once that is sent again |
//! | the catalogue of complete batches | up to where the checkpoint or snapshot says | what of it verifies is kept, what the journal still tells is added; uploads of batches of which neither tells are moved to `damaged` |
//! | a complete batch's files | the same | told when asked for; the batch is listed all the same |
//!
//! A backup takes all of it along (of the catalogue as much as its mark says) but the store and the indexes of uploads that are whole, so that nothing of it has to be made again that the
//! journal would not do for; what goes along beside it is in [`BESIDE`].

use crate::batch::csv::Parser;
use crate::batch::outcome::{RowOutcome, read_outcomes};
use crate::batch::pending::Pending;
use crate::batch::settle::{View, decoded};
use crate::batch::spool::{Spool, SpoolName};
use crate::engine::OpenError;
use crate::engine::upkeep::erasures;
use crate::model::id::Key;
use crate::model::profile::{Profile, Stored};
use crate::model::seq::Seq;
use crate::store::ProfileStore;
use crate::{audit, folder, tokens};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Files of the data folder itself that go along with a backup, where they are there: without the tokens what is restored
/// would ask for none, without the list of erasures it could not keep them.
pub(in crate::engine) const BESIDE: [&str; 4] =
    [tokens::FILE, audit::FILE, erasures::FILE, folder::FORMAT_FILE];

/// What a backup takes along of an upload besides its rows, as far as it is there. The outcomes also of one that is not
/// complete: it may have been, in a store that is made again.
pub(in crate::engine) fn beside_upload(spool: &Spool, name: SpoolName) -> Vec<PathBuf> {
    let paths = [spool.overwritten_path(name), spool.outcomes_path(name)];
    paths.into_iter().filter(|path| path.exists()).collect()
}

/// The outcomes of a batch that was complete once; none if the file is missing or damaged, and they must be made again.
pub(in crate::engine) fn outcomes(path: &Path) -> io::Result<Option<Vec<RowOutcome>>> {
    match read_outcomes(path) {
        Ok(outcomes) => Ok(Some(outcomes)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        },
    }
}

/// Judges a batch that was complete and whose outcomes are lost, before it is folded in once more: what became of its rows
/// is told by the journal, or by the store when they are folded in; [the others](rows_lost) are lost. No write may come to
/// this store from here on before the batch is published.
pub(in crate::engine) fn judge(pending: Pending, store: &dyn ProfileStore) -> Result<Pending, OpenError> {
    let accepted = &pending.accepted;
    let failed = |error| OpenError::Batch { batch: Box::new((**accepted).clone()), error };
    let known = pending.lines_settled().map_err(failed)?.into_iter().collect();
    let lost = rows_lost(&pending, store, &known)?;
    let (batch, rows) = (&pending.accepted.id, lost.len());
    tracing::error!(%batch, rows, "the outcomes of a batch are missing or damaged, and made again; of so many rows nobody can say any more what became of them");
    Ok(pending.with_lost(lost))
}

/// The lines of a batch's rows of which neither the journal, which tells of those that are `known`, nor the visitor's
/// profile tells what became of them: writes behind the batch hide it. The others are judged when they are folded in
/// once more.
fn rows_lost(
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
    // The file verified: what it says was read before, too.
    parsed.and_then(|()| parser.finish(&mut each).map(drop)).unwrap_or_default();
    let mut lost = HashSet::new();
    for (line, id) in ids {
        let mut view = View::new(store);
        let key = view.canonical(&id)?;
        let Some(value) = view.get(&key)? else { continue };
        let stored = decoded(&key, &value)?;
        if value.through().is_ok_and(|through| through > seq) && !tells(&stored, seq) {
            lost.insert(line);
        }
    }
    Ok(lost)
}

/// Whether a value that later writes reached still tells that the batch of this seq had come to it.
fn tells(stored: &Stored<'_>, seq: Seq) -> bool {
    let wrote = |profile: &Profile<'_>| profile.visible().iter().any(|attribute| attribute.seq == seq);
    matches!(stored, Stored::Profile(profile) if profile.born <= seq && wrote(profile))
}

#[cfg(test)]
mod tests {
    use crate::folder::FORMAT;
    use crate::journal::entry::{CHECKPOINT_VERSION, GROUP_VERSION};
    use crate::model::profile::FORMAT_VERSION;

    /// A program that reads none of a new version must be told so by the stamp, before it says that it is ready.
    #[test]
    fn the_folders_format_rises_with_the_versions_of_what_is_in_it() {
        let versions = (GROUP_VERSION, CHECKPOINT_VERSION, FORMAT_VERSION);
        assert_eq!(
            (FORMAT, versions),
            (2, (5, 5, 2)),
            "one of these is new: raise FORMAT, unless it never was released"
        );
    }
}
