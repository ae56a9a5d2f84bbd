//! What a start needs of a data folder, in one place: starting, backing up, restoring, checking and salvaging go by it.
//!
//! | what | which of it | if it is missing or damaged |
//! | --- | --- | --- |
//! | the format stamp | the one | refused if damaged; missing: format 1 |
//! | the store, its checkpoint | the generation in use | rebuilt from what follows |
//! | a snapshot | the newest that verifies | the one before it, then the journal alone |
//! | journal segments | from the oldest incomplete batch of the checkpoint or snapshot on | refused, [`salvage`](crate::engine::open::salvage) gives up what is damaged |
//! | an incomplete batch's upload | `.csv`, and `.overwritten` if rows of it were | that batch is held until it is [sent again or given up](crate::engine::ingest::repair), also in what is restored; a check tells it as a fault, salvage gives the batch up |
//! | its index | `.index` | rebuilt; of a batch that is held it says whom that names, else it may be anybody |
//! | its outcomes, if the journal says that it was complete | `.outcomes` | rebuilt; [lost](crate::engine::commit::replay::rows_lost) are those rows that nobody can judge any more. Where the upload is lost, too, the batch is held, and judged once that is sent again |
//! | the catalogue of complete batches | up to where the checkpoint or snapshot says | what of it verifies is kept, what the journal still tells is added; uploads of batches of which neither tells are moved to `damaged` |
//! | a complete batch's files | the same | told when asked for; the batch is listed all the same |
//!
//! A backup takes all of it along (of the catalogue as much as its mark says) but the store and the indexes of uploads that are whole, so that nothing of it has to be made again that the
//! journal would not do for; what goes along beside it is in [`BESIDE`].

use crate::batch::accepted::SpoolName;
use crate::batch::outcomes_file::{RowOutcome, read_outcomes};
use crate::batch::spool::Spool;
use crate::layout;

use std::io;
use std::path::{Path, PathBuf};

/// Files of the data folder itself that a backup copies, if they exist. Without the tokens a restored daemon would ask for
/// none; without the list of erasures it could not keep them; without their last uses a token in use would look as if nobody needed it.
pub(in crate::engine) const BESIDE: [&str; 5] =
    [layout::TOKENS, layout::TOKEN_USES, layout::AUDIT, layout::ERASURES, layout::FORMAT];

/// The files of an upload that a backup copies besides its rows, if they exist. The outcomes belong to them even if the batch
/// is not complete: it may have been, in a store that is being rebuilt.
pub(in crate::engine) fn beside_upload(spool: &Spool, name: SpoolName) -> Vec<PathBuf> {
    let paths = [spool.overwritten_path(name), spool.outcomes_path(name)];
    paths.into_iter().filter(|path| path.exists()).collect()
}

/// The outcomes of a batch that was complete once; none if the file is missing or damaged, and they must be computed again.
pub(in crate::engine) fn outcomes(path: &Path) -> io::Result<Option<Vec<RowOutcome>>> {
    match read_outcomes(path) {
        Ok(outcomes) => Ok(Some(outcomes)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        },
    }
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
            (4, (7, 7, 3)),
            "one of these is new: raise FORMAT, unless it never was released"
        );
    }
}
