//! The file that says what became of each row. It lies beside the uploaded file.
//!
//! ```text
//! row        line u32 · offset of the row u32 · outcome u8 · reason of a failure u8 · its column u16
//! at the end CRC-32C of all rows · `prfoutc1`
//! ```
//!
//! If a row left attributes alone, because they were written later than its batch's time, each row has eight bytes more, the bits
//! of those attributes' numbers, and the file ends with `prfoutc2`.
//!
//! Promises: every row that is not `updated` has an entry, in line order. A row without an entry was updated.

use super::csv::{Header, Reason, RowError};
use crate::durable;
use crate::durable::record::{Fields, SumWriter};
use crate::model::batch::Outcome;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"prfoutc1";
const MAGIC_WITH_LEFT: &[u8; 8] = b"prfoutc2";
const ENTRY_BYTES: usize = 12;
const ENTRY_BYTES_WITH_LEFT: usize = 20;
/// The checksum and the magic.
const TAIL_BYTES: u64 = 12;
const READ_BYTES: usize = 64 << 10;

/// Why a row failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The row itself is not well-formed.
    Row(RowError),
    /// The visitor's profile would have grown too large (R9).
    ProfileTooLarge,
    /// The uploaded file was damaged before the row was applied, and given up.
    UploadDamaged,
    /// The file with the outcomes was lost, and the visitor was written to since.
    OutcomeLost,
    /// The row undoes what a batch did, and the visitor's history does not say any more what was before.
    NotKept,
}

const TOO_LARGE_CODE: u8 = 255;
const UPLOAD_DAMAGED_CODE: u8 = 254;
const OUTCOME_LOST_CODE: u8 = 253;
const NOT_KEPT_CODE: u8 = 252;

impl Failure {
    /// A word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Row(error) => error.reason.name(),
            Self::ProfileTooLarge => "profile_too_large",
            Self::UploadDamaged => "upload_damaged",
            Self::OutcomeLost => "outcome_lost",
            Self::NotKept => "not_kept",
        }
    }

    /// The failure in a sentence, with the line and what to do. `row` is the row as sent.
    pub fn explain(self, header: &Header, line: u32, row: &[u8]) -> String {
        match self {
            Self::Row(error) => error.explain(header, line, row),
            Self::ProfileTooLarge => format!(
                "line {line}: with this row the visitor's profile would be larger than max_profile_bytes: send fewer or \
                 shorter values, or remove attributes first"
            ),
            Self::UploadDamaged => format!(
                "line {line}: the uploaded file was damaged on the daemon's disk before this row was applied, and was \
                 given up: send the row again"
            ),
            Self::OutcomeLost => format!(
                "line {line}: the outcome of this row is lost: the file that held it is gone from the daemon's disk, and the \
                 visitor was written to since; look the visitor up, and send the row again if it is not applied"
            ),
            Self::NotKept => format!(
                "line {line}: the visitor's history does not go back to the time before the batch: nothing was put back; set \
                 the attributes by hand, and see the setting history_max"
            ),
        }
    }
}

/// The reason of a row that left something alone because it was written later than its batch's time.
const NEWER: &str = "newer";

/// What became of one row. Stored in 12 or 20 bytes: its id and the wording of a failure follow from the row at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOutcome {
    /// Its line in the file.
    pub line: u32,
    /// Where it begins.
    pub offset: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, if it failed.
    pub failure: Option<Failure>,
}

impl RowOutcome {
    /// Why it failed, or left something alone: a word for programs.
    pub fn reason(self) -> Option<&'static str> {
        match self.outcome {
            Outcome::Newer | Outcome::UpdatedInPart(_) => Some(NEWER),
            _ => self.failure.map(Failure::name),
        }
    }

    /// The same in a sentence. `row` is the row as sent.
    pub fn explain(self, header: &Header, row: &[u8]) -> Option<String> {
        let line = self.line;
        match self.outcome {
            Outcome::Newer => Some(format!(
                "line {line}: everything that it brings was written later than the time of the batch (asOf), so it \
                 changed nothing"
            )),
            Outcome::UpdatedInPart(left) => {
                let names = left.attributes().filter_map(|attribute| header.names().get(attribute));
                let names: Vec<&str> = names.map(|name| &**name).collect();
                Some(format!(
                    "line {line}: these were written later than the time of the batch (asOf), and were left alone: {}",
                    names.join(", ")
                ))
            }
            _ => self.failure.map(|failure| failure.explain(header, line, row)),
        }
    }

    fn to_bytes(self) -> [u8; ENTRY_BYTES_WITH_LEFT] {
        let (reason, column) = match self.failure {
            None => (0, 0),
            Some(Failure::Row(error)) => (error.reason.code(), error.column),
            Some(Failure::ProfileTooLarge) => (TOO_LARGE_CODE, 0),
            Some(Failure::UploadDamaged) => (UPLOAD_DAMAGED_CODE, 0),
            Some(Failure::OutcomeLost) => (OUTCOME_LOST_CODE, 0),
            Some(Failure::NotKept) => (NOT_KEPT_CODE, 0),
        };
        let [l0, l1, l2, l3] = self.line.to_le_bytes();
        let [o0, o1, o2, o3] = self.offset.to_le_bytes();
        let [c0, c1] = column.to_le_bytes();
        let mut bytes = [0; ENTRY_BYTES_WITH_LEFT];
        let (plain, left) = bytes.split_at_mut(ENTRY_BYTES);
        plain.copy_from_slice(&[l0, l1, l2, l3, o0, o1, o2, o3, self.outcome.code(), reason, c0, c1]);
        left.copy_from_slice(&self.outcome.left_bits().to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (line, offset) = (fields.u32()?, fields.u32()?);
        let (outcome, reason, column) = (fields.u8()?, fields.u8()?, fields.u16()?);
        let left = if bytes.len() == ENTRY_BYTES { 0 } else { fields.u64()? };
        let outcome = Outcome::from_stored(outcome, left)?;
        let failure = match (outcome, reason) {
            (Outcome::Failed, TOO_LARGE_CODE) => Some(Failure::ProfileTooLarge),
            (Outcome::Failed, UPLOAD_DAMAGED_CODE) => Some(Failure::UploadDamaged),
            (Outcome::Failed, OUTCOME_LOST_CODE) => Some(Failure::OutcomeLost),
            (Outcome::Failed, NOT_KEPT_CODE) => Some(Failure::NotKept),
            (Outcome::Failed, code) => {
                Some(Failure::Row(RowError { reason: Reason::from_code(code)?, column }))
            }
            _ => None,
        };
        Some(Self { line, offset, outcome, failure })
    }
}

/// What became of the rows of one id, in line order. Rows in a row with the same outcome are stored as one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Became(Vec<(u32, Outcome)>);

impl Became {
    /// Adds the outcome of the next rows.
    pub fn push(&mut self, rows: u32, outcome: Outcome) {
        let (end, last) = self.0.last().map_or((0, None), |(end, last)| (*end, Some(*last)));
        let then = end.saturating_add(rows);
        match self.0.last_mut() {
            Some(run) if last == Some(outcome) => run.0 = then,
            _ if rows > 0 => self.0.push((then, outcome)),
            _ => {}
        }
    }

    /// What became of the row with this number, counted from 0.
    pub fn of(&self, row: u32) -> Option<Outcome> {
        let at = self.0.partition_point(|(end, _)| *end <= row);
        self.0.get(at).map(|(_, outcome)| *outcome)
    }

    /// How many rows.
    pub fn rows(&self) -> u32 {
        self.0.last().map_or(0, |(end, _)| *end)
    }

    /// Whether any of them had this outcome.
    pub fn any(&self, outcome: Outcome) -> bool {
        self.0.iter().any(|(_, run)| *run == outcome)
    }

    /// The runs: how many rows, and their outcome.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (u32, Outcome)> + '_ {
        let mut before = 0;
        self.0.iter().map(move |(end, outcome)| (end - std::mem::replace(&mut before, *end), *outcome))
    }
}

/// Writes the outcomes that are not `updated`, in line order. They are durable when it returns.
pub fn write_outcomes(path: &Path, outcomes: &mut [RowOutcome]) -> io::Result<()> {
    outcomes.sort_unstable_by_key(|row| row.line);
    debug_assert!(
        outcomes.is_sorted_by(|a, b| a.line < b.line),
        "each line has one outcome: {}",
        path.display()
    );
    let with_left = outcomes.iter().any(|row| row.outcome.left_bits() != 0);
    let (magic, length) =
        if with_left { (MAGIC_WITH_LEFT, ENTRY_BYTES_WITH_LEFT) } else { (MAGIC, ENTRY_BYTES) };
    durable::replace(path, "outcomes", |file| {
        let mut out = SumWriter::new(BufWriter::with_capacity(1 << 18, file));
        for row in outcomes.iter() {
            out.write_all(row.to_bytes().get(..length).unwrap_or_default())?;
        }
        let sum = out.sum();
        out.write_all(&sum.to_le_bytes())?;
        out.write_all(magic)?;
        out.flush()
    })
}

/// Reads what [`write_outcomes`] wrote.
pub fn read_outcomes(path: &Path) -> io::Result<Vec<RowOutcome>> {
    StoredOutcomes::open(path)?.collect()
}

/// Reads the outcomes that are not `updated` from a verified file, one after the other. Holds one buffer of them.
#[derive(Debug)]
pub struct StoredOutcomes {
    file: BufReader<File>,
    path: PathBuf,
    left: u64,
    entry_bytes: usize,
}

impl StoredOutcomes {
    /// Opens what [`write_outcomes`] wrote, and reads it once to verify it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
        let bytes = file.get_ref().metadata()?.len().checked_sub(TAIL_BYTES).ok_or_else(|| damaged(path))?;
        let mut tail = [0; 12];
        file.seek(SeekFrom::Start(bytes))?;
        file.read_exact(&mut tail)?;
        let entry_bytes = match tail.split_at(4).1 {
            magic if magic == MAGIC => ENTRY_BYTES,
            magic if magic == MAGIC_WITH_LEFT => ENTRY_BYTES_WITH_LEFT,
            _ => return Err(damaged(path)),
        };
        let (rows, odd) = (bytes / entry_bytes as u64, bytes % entry_bytes as u64);
        file.rewind()?;
        let mut sum = 0;
        let mut bytes = [0; ENTRY_BYTES_WITH_LEFT];
        let (entry, _) = bytes.split_at_mut(entry_bytes);
        for _ in 0..rows {
            file.read_exact(entry)?;
            sum = crc32c::crc32c_append(sum, entry);
        }
        if odd != 0 || tail.split_at(4).0 != sum.to_le_bytes() {
            return Err(damaged(path));
        }
        file.rewind()?;
        Ok(Self { file, path: path.to_owned(), left: rows, entry_bytes })
    }
}

impl Iterator for StoredOutcomes {
    type Item = io::Result<RowOutcome>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut bytes = [0; ENTRY_BYTES_WITH_LEFT];
        let (entry, _) = bytes.split_at_mut(self.entry_bytes);
        let read = self.file.read_exact(entry);
        Some(read.and_then(|()| RowOutcome::from_bytes(entry).ok_or_else(|| damaged(&self.path))))
    }
}

fn damaged(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::LeftAlone;

    /// The bytes as they were written before records had one place in the code: no later program may write others.
    #[test]
    fn the_format_is_these_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.outcomes");
        let row = |line, outcome, failure| RowOutcome { line, offset: line * 10, outcome, failure };
        let bad = RowError { reason: Reason::ALL[1], column: 3 };
        let mut rows = vec![
            row(9, Outcome::Failed, Some(Failure::ProfileTooLarge)),
            row(2, Outcome::NotFound, None),
            row(0x1234, Outcome::Failed, Some(Failure::Row(bad))),
        ];
        write_outcomes(&path, &mut rows).unwrap();
        let expected = [
            &b"\x02\0\0\0\x14\0\0\0\x02\0\0\0"[..],
            b"\x09\0\0\0\x5a\0\0\0\x04\xff\0\0",
            b"\x34\x12\0\0\x08\xb6\0\0\x04\x02\x03\0",
            b"\x00\xa3\x2d\xeeprfoutc1",
        ];
        assert_eq!(std::fs::read(&path).unwrap(), expected.concat());

        let mut left = LeftAlone::default();
        [1, 9].into_iter().for_each(|attribute| left.add(attribute));
        let mut rows = vec![row(3, Outcome::UpdatedInPart(left), None), row(2, Outcome::Newer, None)];
        write_outcomes(&path, &mut rows).unwrap();
        let expected = [
            &b"\x02\0\0\0\x14\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0"[..],
            b"\x03\0\0\0\x1e\0\0\0\x06\0\0\0\x02\x02\0\0\0\0\0\0",
            b"prfoutc2",
        ];
        let written = std::fs::read(&path).unwrap();
        assert_eq!([&written[..40], &written[44..]].concat(), expected.concat());
    }

    #[test]
    fn outcomes_read_back_in_line_order_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.outcomes");
        let row = |line, outcome, failure| RowOutcome { line, offset: line * 10, outcome, failure };
        let bad = RowError { reason: Reason::ALL[1], column: 3 };
        let mut rows = vec![
            row(9, Outcome::Failed, Some(Failure::ProfileTooLarge)),
            row(2, Outcome::NotFound, None),
            row(11, Outcome::Failed, Some(Failure::UploadDamaged)),
            row(12, Outcome::Failed, Some(Failure::OutcomeLost)),
            row(5, Outcome::Failed, Some(Failure::Row(bad))),
            row(3, Outcome::Ignored, None),
            row(4, Outcome::Created, None),
        ];
        let mut left = LeftAlone::default();
        left.add(55);
        for more in [row(6, Outcome::Newer, None), row(7, Outcome::UpdatedInPart(left), None)] {
            rows.push(more);
            write_outcomes(&path, &mut rows).unwrap();
            let read = read_outcomes(&path).unwrap();
            assert_eq!(read, rows);
            assert!(read.is_sorted_by_key(|row| row.line));
            let mut bytes = std::fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                bytes[at] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                assert!(read_outcomes(&path).is_err(), "byte {at}");
                bytes[at] ^= 1;
            }
        }
    }
}
