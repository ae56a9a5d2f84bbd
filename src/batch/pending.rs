//! A pending batch: accepted, durable and readable, but not all in the store yet.
//!
//! ```text
//! pending.rs            what it is; opening it, holding it
//! pending/find.rs       finding its rows by id
//! pending/resolved.rs   what writes already made of its rows
//! ```
//!
//! Promises: a pending batch takes a few dozen kilobytes of memory, whatever its rows, and 32 bytes for each id that more
//! than a hundred rows share. An index that does not verify is rebuilt from the uploaded file. The file itself is read
//! whole only where that verifies it.

use super::accepted::Accepted;
use super::bundles::BUNDLE_ROWS_MIN;
use super::checksum::{FileSum, UploadError};
use super::csv::Header;
use super::index::{Index, index_again};
use super::index_entry::hash;
use super::outcomes_file::{Became, Failure, RowOutcome};
use super::progress::{Known, Progress};
use super::rows::read_header;
use crate::model::batch::Outcome;
use crate::model::id::Key;
use crate::sync::{Mutex, lock};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

mod find;
mod resolved;
#[cfg(test)]
mod tests;

/// A pending batch: accepted, durable and readable, but not all in the store yet.
#[derive(Debug)]
pub struct Pending {
    /// What it is.
    pub accepted: Arc<Accepted>,
    /// The first line of its file.
    pub header: Header,
    /// How far it is.
    pub progress: Arc<Progress>,
    index: Index,
    /// Where its file is.
    rows: PathBuf,
    /// What the file should come to now.
    sum: FileSum,
    /// What writes resolved. This lock is taken last: nothing else is locked while it is held.
    resolved: Mutex<Resolved>,
    /// What became of its rows, if it was complete before. Once set it outranks `resolved`.
    on_record: Option<OnRecord>,
    /// The file with its outcomes is gone, and nobody has found out yet which lines that leaves without an outcome.
    unjudged: bool,
    /// Lines whose outcome nobody can find out any more, because that file is gone.
    lost: HashSet<u32>,
    /// Why it is held, if it is: its file is not what was accepted. Set once, never taken back.
    held: OnceLock<String>,
    /// Nothing says whom it names, so it may be anybody.
    may_be_anybody: bool,
}

/// What became of all rows of a batch that was complete before.
#[derive(Debug, Clone)]
struct OnRecord {
    /// In line order. All other rows were updated.
    not_updated: Vec<RowOutcome>,
}

impl OnRecord {
    fn of(&self, line: u32) -> (Outcome, Option<Failure>) {
        let at = self.not_updated.binary_search_by_key(&line, |row| row.line).ok();
        let row = at.and_then(|at| self.not_updated.get(at));
        row.map_or((Outcome::Updated, None), |row| (row.outcome, row.failure))
    }
}

/// What is known of rows because a write resolved them.
#[derive(Debug, Default, Clone)]
struct Resolved {
    /// Rows, by their lines.
    rows: HashMap<u32, (ResolvedBy, Outcome)>,
    /// Bundles, by their first lines.
    bundles: HashMap<u32, (ResolvedBy, Became)>,
}

/// How we know that a row is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResolvedBy {
    /// A write since the start resolved it. The store has the row, or is about to get it from that write.
    Write,
    /// The journal says so. If the store had the row before that write, a crash may have taken it from the store.
    Journal,
}

impl Pending {
    /// A batch whose file and index are there.
    pub fn new(accepted: Accepted, header: Header, index: Index, rows: PathBuf) -> Self {
        let progress = Arc::new(Progress::of(&accepted));
        let (resolved, sum) = (Mutex::new(Resolved::default()), accepted.sum());
        Self {
            accepted: Arc::new(accepted),
            header,
            progress,
            index,
            rows,
            sum,
            resolved,
            on_record: None,
            unjudged: false,
            lost: HashSet::new(),
            held: OnceLock::new(),
            may_be_anybody: false,
        }
    }

    /// A batch whose file is not what was accepted. It is held. Its index says whom it names, if the index is there and
    /// verifies; otherwise it may be anybody. The journal says what became of `resolved` rows. If the batch was complete and
    /// `outcomes_gone`, nothing else does.
    pub fn open_damaged(
        accepted: Accepted,
        error: &UploadError,
        outcomes_gone: bool,
        rows: &Path,
        index: Option<&Path>,
        resolved: Vec<(u32, Became)>,
    ) -> Self {
        let index = index.and_then(|index| Index::open(index).ok().flatten());
        let may_be_anybody = index.is_none();
        let header = Header::from_parts(accepted.key_kind, vec![], accepted.rules.reading.clone());
        let opened = Self::new(accepted, header, index.unwrap_or_else(Index::empty), rows.to_owned());
        let resolved = resolved.into_iter().map(|(first, became)| (first, (ResolvedBy::Journal, became)));
        lock(&opened.resolved).bundles.extend(resolved);
        if outcomes_gone {
            let why = "what became of its rows was in a file that is missing or damaged, too";
            opened.hold(&format!("{}; and {why}", error.in_short()), &format!("{error}; {why}"));
        } else {
            opened.hold(&error.in_short(), error);
        }
        Self { may_be_anybody, unjudged: outcomes_gone, ..opened }
    }

    /// Opens a held batch again, now that its file is what was accepted and comes to `sum`.
    pub fn open_again(&self, sum: FileSum, index: &Path) -> io::Result<Self> {
        let resolved = lock(&self.resolved).clone();
        let bundles = resolved.bundles.iter().map(|(first, (_, became))| (*first, became.clone())).collect();
        let opened = Self::open((*self.accepted).clone(), sum, &self.rows, index, bundles)?;
        let (on_record, unjudged, lost) = (self.on_record.clone(), self.unjudged, self.lost.clone());
        Ok(Self { resolved: Mutex::new(resolved), on_record, unjudged, lost, ..opened })
    }

    /// Holds the batch, because its file is not what was accepted. No row of it is applied any more, and whoever it may name
    /// waits until the file is sent again or given up. Clients see `in_short`; the log has all of `why`.
    pub fn hold(&self, in_short: &str, why: &dyn std::fmt::Display) {
        if self.progress.completed().is_some() {
            return;
        }
        let message = format!(
            "its uploaded file is not what was accepted: {in_short}. Send the same file again, or give the batch up"
        );
        if self.held.set(message).is_ok() {
            self.progress.stuck(true);
            tracing::error!(batch = %self.accepted.id, %why, "a batch is held, and whoever it names waits: send its file again, or give it up");
        }
    }

    /// Why it is held, if it is.
    pub fn held(&self) -> Option<&str> {
        self.held.get().map(String::as_str)
    }

    /// Whether it may have rows of these ids. Only their hashes are looked for.
    pub fn may_name(&self, ids: &[Key]) -> bool {
        let mut found = vec![];
        self.keyed_so(ids).any(|(_, key)| {
            let hash = hash(key.id());
            let in_doubt = self.may_be_anybody || self.index.bundles(hash).next().is_some();
            in_doubt || self.index.find(hash, &mut found).is_err() || !found.is_empty()
        })
    }

    /// Opens an accepted batch's files after a restart, and makes the index again if it does not verify. The file of rows was
    /// verified, and comes to `sum`. `resolved` is what the journal says of bundles, by their first lines.
    pub fn open(
        accepted: Accepted,
        sum: FileSum,
        rows: &Path,
        index: &Path,
        resolved: Vec<(u32, Became)>,
    ) -> io::Result<Self> {
        let header = read_header(&File::open(rows)?, &accepted.rules.reading)?;
        let fewest = resolved.iter().map(|(_, became)| became.rows() as usize).min();
        let rows_min = fewest.unwrap_or(BUNDLE_ROWS_MIN).min(BUNDLE_ROWS_MIN);
        let has_all = |index: &Index| resolved.iter().all(|(first, _)| index.bundle_from(*first).is_some());
        let index = match Index::open(index)?.filter(has_all) {
            Some(found) => found,
            None => index_again(&accepted.rules, rows, index, rows_min)?,
        };
        // Overwritten rows are in no bundle any more. All others are as they were.
        let overwritten = sum != accepted.sum();
        let opened = Self { sum, ..Self::new(accepted, header, index, rows.to_owned()) };
        for (first, became) in resolved {
            if opened.index.bundle_from(first).is_some_and(|bundle| bundle.rows == became.rows()) {
                lock(&opened.resolved).bundles.insert(first, (ResolvedBy::Journal, became));
            } else if !overwritten {
                let why = format!(
                    "the journal knows a bundle of rows from line {first} on, but the file has another one there"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(opened)
    }

    /// A batch that was complete and is applied again, to a store that is rebuilt. What became of each row is known and
    /// stays: writes behind the batch may reach the store before it, and nothing in the store would tell.
    pub fn with_outcomes(mut self, mut not_updated: Vec<RowOutcome>) -> Self {
        not_updated.sort_unstable_by_key(|row| row.line);
        self.on_record = Some(OnRecord { not_updated });
        self
    }

    /// The same, but nobody can find out any more what became of these lines.
    pub fn with_lost(mut self, lost: HashSet<u32>) -> Self {
        lost.iter().for_each(|line| self.resolved_before(*line, Outcome::Failed));
        self.lost = lost;
        self.unjudged = false;
        self
    }

    /// A batch that was complete, and whose outcomes are lost.
    pub fn unjudged(self) -> Self {
        Self { unjudged: true, ..self }
    }

    /// Whether somebody must still find out which rows have no known outcome, and can: its file is there.
    pub fn is_unjudged(&self) -> bool {
        self.unjudged && self.held().is_none()
    }

    /// Whether it is known what became of every row.
    pub fn is_on_record(&self) -> bool {
        self.on_record.is_some()
    }

    /// Why the row on this line failed, if it is well-formed and failed.
    pub fn failure_of(&self, line: u32, outcome: Outcome) -> Option<Failure> {
        let failure = if self.lost.contains(&line) {
            Failure::OutcomeLost
        } else if self.accepted.rules.undoes.is_some() {
            Failure::NotKept
        } else {
            Failure::ProfileTooLarge
        };
        (outcome == Outcome::Failed).then_some(failure)
    }

    /// What became of the row on this line, and why if it failed, if the batch was complete before. This holds whatever the
    /// line reads now: an erased visitor's row is overwritten (R12).
    pub fn on_record(&self, line: u32) -> Option<(Outcome, Option<Failure>)> {
        self.on_record.as_ref().map(|on_record| on_record.of(line))
    }

    /// The uploaded file, not verified.
    pub fn open_file(&self) -> Result<File, UploadError> {
        File::open(&self.rows).map_err(UploadError::of(&self.rows))
    }

    /// Reads the uploaded file piece by piece. What `each` saw counts only if there is no error: whether the file is what was
    /// accepted is known at its end.
    pub fn read_file(&self, each: impl FnMut(&[u8])) -> Result<(), UploadError> {
        self.sum.read_pieces(&self.rows, each)
    }

    /// The error for a row that reads otherwise than when the whole file was verified.
    pub fn row_changed(&self, line: u32) -> UploadError {
        let why = format!("line {line} is not what it was a moment ago");
        let changed = || UploadError::of(&self.rows)(io::Error::new(io::ErrorKind::InvalidData, why));
        self.read_file(|_| ()).err().unwrap_or_else(changed)
    }

    /// The batch as the lists of batches show it.
    pub fn known(&self) -> Known {
        Known { accepted: Arc::clone(&self.accepted), progress: Arc::clone(&self.progress) }
    }

    /// Those ids that rows of this batch can have.
    fn keyed_so<'k>(&self, ids: &'k [Key]) -> impl Iterator<Item = (usize, &'k Key)> {
        let kind = self.accepted.key_kind;
        ids.iter().enumerate().filter(move |(_, key)| key.kind() == kind)
    }
}
