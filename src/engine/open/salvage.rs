//! Goes on without what is damaged and exists nowhere else, if an operator says so with `profiled check --salvage`.
//!
//! Promises: what is given up is named, and kept as it was in [`layout::DAMAGED`]. Everything else stays. A crash on the way leaves the
//! damaged file damaged, or given up.

use crate::batch::accepted::Accepted;
use crate::batch::checksum::FileSum;
use crate::batch::csv::Header;
use crate::batch::outcomes_file::{Failure, RowOutcome};
use crate::batch::rows::read_header;
use crate::batch::spool::{give_up, outcomes_path_in, rows_path_in};
use crate::durable;
use crate::engine::error::OpenError;
use crate::engine::open::lock::lock_folder;
use crate::folder;
use crate::journal::entry::{
    BatchCompletedEntry, BatchGivenUpEntry, Entry, decode_group, encode_group, group_given_up,
};
use crate::journal::log::{GivenUp, Log, LogSettings, Position};
use crate::layout;
use crate::model::batch::{Counts, Outcome};
use crate::model::seq::{Millis, Seq};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Replaces each row of an upload that was given up. It has no id, so it belongs to no visitor.
const LOST_ROW: &[u8] = b",lost\n";
/// Replaces the names of the attributes, if the first line is damaged.
const LOST_NAME: &str = "lost";

/// A part of the journal that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Which stretch of the journal.
    pub stretch: GivenUp,
    /// The last seq before it, and the first behind it. The lost writes have seqs between these.
    pub between: (Seq, Option<Seq>),
}

/// Gives up the damaged frames of a journal, so that the daemon can go on without them. First it copies the damaged segments
/// to [`layout::DAMAGED`] and links the uploads there: the next start would remove the upload of a lost batch.
pub fn journal(folder: &Path) -> Result<Vec<Lost>, OpenError> {
    folder::expect(folder)?;
    let _lock = lock_folder(folder)?;
    let journal = folder.join(layout::JOURNAL);
    let Some(first) = Position::first_in(&journal)? else { return Ok(vec![]) };
    let aside = folder.join(layout::DAMAGED);
    let spool = folder.join(layout::SPOOL);
    let keep = |segment: &Path| {
        keep(&aside, segment, |from, to| std::fs::copy(from, to).map(drop))?;
        for upload in std::fs::read_dir(&spool).into_iter().flatten() {
            keep(&aside, &upload?.path(), |from, to| std::fs::hard_link(from, to))?;
        }
        Ok(())
    };
    let stretches = Log::salvage(&journal, first, group_given_up, keep)?;
    let mut lost: Vec<Lost> =
        stretches.into_iter().map(|stretch| Lost { stretch, between: (Seq::ZERO, None) }).collect();
    Log::open(&journal, LogSettings::default(), first, |start, _, payload| {
        let entries = decode_group(payload).map_err(|error| OpenError::entry(start, error))?;
        for seq in entries.iter().map(Entry::seq).filter(|seq| *seq > Seq::ZERO) {
            for one in &mut lost {
                if start < one.stretch.from {
                    one.between.0 = one.between.0.max(seq);
                } else if one.between.1.is_none() {
                    one.between.1 = Some(seq);
                }
            }
        }
        Ok::<_, OpenError>(())
    })?;
    Ok(lost)
}

/// Ends a batch whose upload is damaged, so that the daemon can go on without it. Each of its rows counts as failed; those
/// that were applied already stay. Gives where the upload is kept as it was.
pub fn upload(folder: &Path, accepted: &Accepted, now: Millis) -> Result<PathBuf, OpenError> {
    let _lock = lock_folder(folder)?;
    let Replacement { kept, file, mut outcomes, entry } = keep_and_replace(folder, accepted, now)?;
    let spool = folder.join(layout::SPOOL);
    let rows_path = rows_path_in(&spool, accepted.spool);
    give_up(&spool, accepted.spool, &file, &mut outcomes).map_err(failed(&rows_path))?;

    let entry = Entry::BatchGivenUp(entry);
    let journal = folder.join(layout::JOURNAL);
    let mut payload = vec![];
    encode_group(&[entry], &mut payload).map_err(|error| failed(&journal)(io::Error::other(error)))?;
    let first = Position::first_in(&journal)?.unwrap_or(Position::START);
    let ignored = |_, _, _: &[u8]| Ok::<_, OpenError>(());
    let (mut log, _) = Log::open(&journal, LogSettings::default(), first, ignored)?;
    log.append(&payload).map_err(|error| failed(&journal)(io::Error::other(error)))?;
    Ok(kept)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    |error| OpenError::Folder { path, error }
}

/// The replacement of an upload that is given up.
pub(in crate::engine) struct Replacement {
    /// Where the upload is kept as it was.
    pub(in crate::engine) kept: PathBuf,
    /// The new file. None of its rows belongs to a visitor.
    pub(in crate::engine) file: Vec<u8>,
    /// The outcomes of its rows.
    pub(in crate::engine) outcomes: Vec<RowOutcome>,
    /// The entry for the journal.
    pub(in crate::engine) entry: BatchGivenUpEntry,
}

/// Keeps an upload as it is, and builds its replacement.
pub(in crate::engine) fn keep_and_replace(
    folder: &Path,
    accepted: &Accepted,
    now: Millis,
) -> Result<Replacement, OpenError> {
    let spool = folder.join(layout::SPOOL);
    let rows_path = rows_path_in(&spool, accepted.spool);
    let aside = folder.join(layout::DAMAGED);
    let copy = |from: &Path, to: &Path| match std::fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(drop),
    };
    let kept = keep(&aside, &rows_path, copy).map_err(failed(&aside))?;
    keep(&aside, &outcomes_path_in(&spool, accepted.spool), copy).map_err(failed(&aside))?;

    let mut file = vec![];
    // If the first line cannot be read, the names are not needed: all rows failed.
    let header = File::open(&rows_path).and_then(|rows| read_header(&rows, &accepted.rules.reading));
    let header = header.ok().filter(|header| header.key_kind() == accepted.key_kind);
    let header = header.unwrap_or_else(|| {
        Header::from_parts(accepted.key_kind, vec![LOST_NAME.into()], accepted.rules.reading.clone())
    });
    header.write(&mut file);
    let rows = usize::try_from(accepted.rows).unwrap_or(usize::MAX);
    let mut outcomes = vec![];
    for line in (2..).take(rows) {
        let offset = u32::try_from(file.len()).unwrap_or(u32::MAX);
        let failure = Some(Failure::UploadDamaged);
        outcomes.push(RowOutcome { line, offset, outcome: Outcome::Failed, failure });
        file.extend_from_slice(LOST_ROW);
    }
    let FileSum { bytes, crc32c } = FileSum::of(&file);
    let end = BatchCompletedEntry {
        store_reach: 0,
        seq: accepted.id.seq.get(),
        counts: Counts { failed: accepted.rows, ..Counts::default() },
        at_ms: now.0,
    };
    // Its idempotency key still stands for what was sent, not for this file.
    let accepted = Accepted { bytes, crc32c, ..accepted.clone() };
    let entry = BatchGivenUpEntry { accepted: accepted.to_entry(), end };
    Ok(Replacement { kept, file, outcomes, entry })
}

/// Keeps a file under its name, unless one is kept already.
fn keep(aside: &Path, file: &Path, how: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<PathBuf> {
    durable::folder_within(aside)?;
    let to = aside.join(file.file_name().unwrap_or_default());
    if !to.exists() {
        how(file, &to)?;
        match File::open(&to) {
            Ok(kept) => durable::belongs_to_folder(&kept, &to)?,
            // There was nothing to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(to)
}
