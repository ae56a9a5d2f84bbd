//! The outcomes of a batch's rows, and the rows to send again: read from its kept upload and outcomes.
//!
//! Promises:
//! - Every row of a complete batch has an outcome. Those that are not `updated` are stored, the others follow from the file.
//! - Memory is bounded by a piece of the file, a row and a page.
//! - Of an erased visitor's row only its line and its outcome are reported, and no repair file holds it (R12).
//! - A read during which rows of any upload are overwritten ends in an error. What it gave is from before, and it gives nothing from
//!   the first overwritten byte on.
//! - What cannot be reported completely ends in an error.

use crate::batch::accepted::Accepted;
use crate::batch::csv::{Cells, Header, Row, RowError, RowPlace, RowReader};
use crate::batch::outcomes_file::{Failure, RowOutcome, StoredOutcomes};
use crate::batch::progress::Known;
use crate::batch::queue::CountedSo;
use crate::batch::remarks::Remarks;
use crate::batch::rows::{each_piece, each_row, read_header_at, read_header_sent, read_row};
use crate::batch::spool::SpoolFile;
use crate::engine::error::EngineError;
use crate::engine::gates::{Slot, Who};
use crate::engine::read::state::Reader;
use crate::engine::shared::{Shared, blocking};
use crate::engine::upkeep::erase::reads_erased;
use crate::model::batch::{BatchId, Outcome, RowForm};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most rows in one page.
pub const PAGE_ROWS_MAX: usize = 10_000;
/// A page ends early once its ids and messages have this many bytes.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// The outcome of a row, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedRow {
    /// Where it begins in the file.
    pub place: RowPlace,
    /// The visitor's id, if it can be read and the visitor was not erased since.
    pub id: Option<String>,
    /// Its outcome.
    pub outcome: Outcome,
    /// Why it failed, `newer` if it left something alone, or `erased`: a word for programs.
    pub reason: Option<&'static str>,
    /// The same for people.
    pub message: Option<String>,
}

/// Some rows of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutcomePage {
    /// The rows, in line order.
    pub rows: Vec<ReportedRow>,
    /// Where the next page begins; none if this was the last.
    pub next: Option<RowPlace>,
}

/// A report of a complete batch's rows.
pub struct Report {
    shared: Arc<Shared>,
    accepted: Arc<Accepted>,
    /// The first line of its file.
    header: Header,
    /// The byte at which that begins.
    header_at: u32,
    file: File,
    /// Whether rows of its file were ever overwritten.
    overwritten: bool,
    overwritings: u64,
    /// The upload of a dry run. It is removed with the report.
    _upload: Option<SpoolFile>,
    place: Slot,
}

/// An upload as it was sent, for downloading.
pub struct UploadedFile {
    shared: Arc<Shared>,
    file: File,
    accepted: Arc<Accepted>,
    overwritings: u64,
    /// Its size.
    pub bytes: u64,
    place: Slot,
}

impl Reader {
    /// A page of what became of a complete batch's rows: those with one outcome, or all, from a place on. A place is one
    /// that an earlier page gave.
    pub(in crate::engine) async fn outcome_page(
        &self,
        who: &Who,
        id: &BatchId,
        wanted: Option<Outcome>,
        from: Option<RowPlace>,
        rows_max: usize,
    ) -> Result<OutcomePage, EngineError> {
        // Pages follow each other quickly. So the file is verified for a whole report, and not for each page.
        self.complete(id)?;
        let report = self.open_report(id, false, self.reports.take(who).await?).await?;
        let rows_max = rows_max.clamp(1, PAGE_ROWS_MAX);
        let page = blocking(move || {
            let (mut page, mut bytes) = (OutcomePage::default(), 0);
            report.outcomes(wanted, from, |row| {
                if page.rows.len() == rows_max || bytes > PAGE_BYTES_MAX {
                    page.next = Some(row.place);
                    return ControlFlow::Break(());
                }
                bytes += row.id.as_ref().map_or(0, String::len) + row.message.as_ref().map_or(0, String::len);
                page.rows.push(row);
                ControlFlow::Continue(())
            })?;
            Ok(page)
        });
        page.await
    }

    /// The quotes in a complete batch's file that take in lines which could be rows.
    pub(in crate::engine) async fn quotes_that_take_in(
        &self,
        who: &Who,
        id: &BatchId,
    ) -> Result<Remarks, EngineError> {
        self.complete(id)?;
        let report = self.open_report(id, false, self.reports.take(who).await?).await?;
        blocking(move || report.quotes_that_take_in()).await
    }

    /// Begins to tell what became of a complete batch's rows.
    pub(in crate::engine) async fn report(&self, who: &Who, id: &BatchId) -> Result<Report, EngineError> {
        self.complete(id)?;
        self.open_report(id, true, self.reports.take(who).await?).await
    }

    /// A complete batch, or the error for one that is not.
    fn complete(&self, id: &BatchId) -> Result<Known, EngineError> {
        let known = self.shared.batches.get(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))?;
        if known.progress.completed().is_none() {
            return Err(EngineError::NotComplete(id.to_string()));
        }
        Ok(known)
    }

    /// A batch whose rows' outcomes are on this node. It may not be complete yet, where the order of several nodes has no count
    /// of it.
    fn applied_here(&self, id: &BatchId) -> Result<Known, EngineError> {
        let batches = &self.shared.batches;
        if let Some(CountedSo::Applied(_)) = batches.counted_so(id)
            && let Some(known) = batches.get(id)
        {
            return Ok(known);
        }
        let known = self.complete(id)?;
        if batches.lacks_outcomes(id) {
            let why = "this node has yet to apply the batch, which is complete on another one: ask again in a few seconds";
            return Err(EngineError::NotYet(why.into()));
        }
        Ok(known)
    }

    pub(in crate::engine) async fn open_report(
        &self,
        id: &BatchId,
        verified: bool,
        place: Slot,
    ) -> Result<Report, EngineError> {
        let known = self.applied_here(id)?;
        let (shared, accepted) = (Arc::clone(&self.shared), known.accepted);
        blocking(move || Report::open(shared, accepted, verified, place)).await
    }

    /// Opens the rows of a batch's upload, complete or not, to read all of them as they were sent.
    pub(in crate::engine) async fn open_rows(&self, who: &Who, id: &BatchId) -> Result<Report, EngineError> {
        let UploadedFile { shared, file, overwritings, accepted, place, .. } =
            self.uploaded_file(who, id).await?;
        blocking(move || {
            let placed = read_header_at(&file, &accepted.rules.reading);
            let (header, header_at) = placed.map_err(|error| lost(&accepted, error))?;
            let overwritten = shared.spool.overwritten_path(accepted.spool).exists();
            let _upload = None;
            Ok(Report {
                shared,
                accepted,
                header,
                header_at,
                file,
                overwritten,
                overwritings,
                _upload,
                place,
            })
        })
        .await
    }

    /// Opens a batch's upload, as it was sent but for the rows of visitors that were erased since, which read `erased`.
    pub(in crate::engine) async fn uploaded_file(
        &self,
        who: &Who,
        id: &BatchId,
    ) -> Result<UploadedFile, EngineError> {
        let known = self.shared.batches.get(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))?;
        if let Some(why) = self.shared.batches.why_held(id) {
            return Err(EngineError::Held { batch: id.to_string(), why });
        }
        let complete = known.progress.completed().is_some() && !self.shared.batches.lacks_outcomes(id);
        let place = self.reports.take(who).await?;
        let (shared, accepted) = (Arc::clone(&self.shared), known.accepted);
        let opened = blocking(move || {
            let overwritings = shared.spool.overwritings();
            if complete && was_given_up(&shared, &accepted)? {
                return Err(EngineError::GivenUp(accepted.id.to_string()));
            }
            let name = accepted.spool;
            let sum = accepted.sum();
            // Only the index of a complete batch is in nobody's use.
            let verified = if complete {
                shared.spool.verify(name, &sum)
            } else {
                shared.spool.verify_beside_index(name, &sum)
            };
            let sum = verified.map_err(|error| lost(&accepted, error))?;
            let file = File::open(shared.spool.rows_path(name)).map_err(|error| lost(&accepted, error))?;
            Ok(UploadedFile { shared, file, accepted, overwritings, bytes: sum.bytes, place })
        });
        opened.await
    }
}

impl Reader {
    /// The upload of a batch that is to be undone, and the batch.
    pub(in crate::engine) async fn file_to_undo(
        &self,
        who: &Who,
        id: &BatchId,
    ) -> Result<(Known, UploadedFile), EngineError> {
        let file = self.uploaded_file(who, id).await?;
        let known = self.shared.batches.get(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))?;
        Ok((known, file))
    }
}

impl Report {
    /// Opens the files of a complete batch. Blocks.
    pub(in crate::engine) fn open(
        shared: Arc<Shared>,
        accepted: Arc<Accepted>,
        verified: bool,
        place: Slot,
    ) -> Result<Self, EngineError> {
        let overwritings = shared.spool.overwritings();
        let (name, sum) = (accepted.spool, accepted.sum());
        if verified {
            shared.spool.verify(name, &sum).map_err(|error| lost(&accepted, error))?;
        }
        let file = File::open(shared.spool.rows_path(name)).map_err(|error| lost(&accepted, error))?;
        let placed = read_header_at(&file, &accepted.rules.reading);
        let (header, header_at) = placed.map_err(|error| lost(&accepted, error))?;
        let overwritten = shared.spool.overwritten_path(name).exists();
        let _upload = None;
        Ok(Self { shared, accepted, header, header_at, file, overwritten, overwritings, _upload, place })
    }

    /// Its place among the reports. Whoever waits for the client notes that on the place, and ends the answer when asked to
    /// make room.
    pub fn place(&self) -> &Slot {
        &self.place
    }

    /// Gives the outcomes of the rows to `each`, in line order, from a place on, until it has enough: of the rows with one
    /// outcome, or of all. Blocks.
    pub fn outcomes(
        &self,
        wanted: Option<Outcome>,
        from: Option<RowPlace>,
        mut each: impl FnMut(ReportedRow) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let read = match wanted {
            None | Some(Outcome::Updated) => self.in_the_file(from, |row, stored| {
                let updated = RowOutcome {
                    line: row.line,
                    offset: row.offset,
                    outcome: Outcome::Updated,
                    failure: None,
                };
                let outcome = stored.unwrap_or(updated);
                if wanted.is_some_and(|wanted| wanted != outcome.outcome.counted()) {
                    return Ok(ControlFlow::Continue(()));
                }
                let place = RowPlace { line: row.line, offset: row.offset };
                let id = row.content.as_ref().ok().map(|cells| cells.id());
                let row = self.row_in_file(place, id, row.len, outcome)?;
                // The row was parsed with the rest of its piece, and read again since. Both may be a while ago.
                self.still()?;
                Ok(each(row))
            }),
            Some(wanted) => self.stored(wanted, from, |stored, row| {
                let place = RowPlace { line: stored.line, offset: stored.offset };
                Ok(each(self.row_of(place, row, stored)))
            }),
        };
        read.map_err(|error| self.broken(error))
    }

    /// The failed rows as they were sent, under a header, for sending again once they are corrected. Blocks.
    pub fn repair(&self, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), EngineError> {
        if was_given_up(&self.shared, &self.accepted)? {
            return Err(EngineError::GivenUp(self.accepted.id.to_string()));
        }
        let header = &self.header;
        let mut line = vec![];
        header.write(&mut line);
        if each(&line).is_break() {
            return Ok(());
        }
        let mut ended = false;
        let read = self.stored(Outcome::Failed, None, |stored, row| {
            let erased = self.reads_erased(stored.offset, row);
            if !erased {
                ended = each(row).is_break() || (!row.ends_with(b"\n") && each(b"\n").is_break());
            }
            Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        read.map_err(|error| self.broken(error))
    }

    /// The report of an upload without a batch, whose outcomes lie beside it.
    pub(in crate::engine) fn of_upload(
        shared: Arc<Shared>,
        accepted: Arc<Accepted>,
        header: Header,
        upload: SpoolFile,
        place: Slot,
    ) -> Result<Self, EngineError> {
        let file = File::open(upload.path()).map_err(|error| lost(&accepted, error))?;
        let overwritings = shared.spool.overwritings();
        // Nothing of it was ever overwritten, so nobody asks where its first line is.
        let (overwritten, header_at, _upload) = (false, 0, Some(upload));
        Ok(Self { shared, accepted, header, header_at, file, overwritten, overwritings, _upload, place })
    }

    /// The first line of the file.
    pub(in crate::engine) fn header(&self) -> &Header {
        &self.header
    }

    /// Gives each row of the file, from a place on, with its stored outcome. An updated row has none. Leaves out the rows
    /// that an erasure overwrote, because the filler may look like a row. Blocks.
    pub(in crate::engine) fn each_row(
        &self,
        from: Option<RowPlace>,
        mut each: impl FnMut(&Row<'_>, Option<RowOutcome>) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), EngineError> {
        self.each_row_told(
            from,
            |row, outcome, erased| {
                if erased { Ok(ControlFlow::Continue(())) } else { each(row, outcome) }
            },
        )
    }

    /// The same with the rows that an erasure overwrote. What those say means nothing. Blocks.
    pub(in crate::engine) fn each_row_told(
        &self,
        from: Option<RowPlace>,
        mut each: impl FnMut(&Row<'_>, Option<RowOutcome>, bool) -> io::Result<ControlFlow<()>>,
    ) -> Result<(), EngineError> {
        let read = self.in_the_file(from, |row, outcome| {
            let told = each(row, outcome, self.reads_erased(row.offset, row.sent))?;
            // The row was parsed with the rest of its piece, before it was looked at.
            self.still()?;
            Ok(told)
        });
        read.map_err(|error| self.broken(error))
    }

    /// Gives what each row of the file says, and whether an erasure overwrote it: then that means nothing. Blocks.
    pub(in crate::engine) fn each_sent(
        &self,
        mut each: impl FnMut(&Result<Cells<'_>, RowError>, bool),
    ) -> Result<(), EngineError> {
        let still = || self.still();
        let read = each_row(&self.file, &self.header, None, still, |row| {
            each(&row.content, self.reads_erased(row.offset, row.sent));
            Ok(ControlFlow::Continue(()))
        });
        read.map_err(|error| self.broken(error))
    }

    /// What was accepted and perhaps not meant. Blocks.
    pub fn remarks(&self) -> Result<Remarks, EngineError> {
        let mut remarks = Remarks::default();
        if self.header.reading().form() == RowForm::Csv {
            let (line, sent) =
                read_header_sent(&self.file, self.header.reading()).map_err(|error| self.broken(error))?;
            remarks.look_at_header(line, &sent);
        }
        self.each_row(None, |row, _| {
            remarks.look_at(&self.header, row);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(remarks)
    }

    fn quotes_that_take_in(&self) -> Result<Remarks, EngineError> {
        let (mut remarks, mut any_quote) = (Remarks::default(), false);
        if self.header.reading().form() == RowForm::Ndjson {
            return Ok(remarks);
        }
        // Most files have no quote, and are not parsed for this.
        let looked = each_piece(&self.file, 0, |piece| {
            self.still()?;
            any_quote = memchr::memchr(b'"', piece).is_some();
            Ok(if any_quote { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        looked.map_err(|error| self.broken(error))?;
        if any_quote {
            self.each_row(None, |row, _| {
                remarks.look_at_quotes(&self.header, row);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(remarks)
    }

    /// Whether the batch's upload was damaged and given up: there is then nothing to repair from.
    pub fn is_given_up(&self) -> Result<bool, EngineError> {
        was_given_up(&self.shared, &self.accepted)
    }

    fn in_the_file(
        &self,
        from: Option<RowPlace>,
        mut each: impl FnMut(&Row<'_>, Option<RowOutcome>) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let path = self.shared.spool.outcomes_path(self.accepted.spool);
        let mut stored = StoredOutcomes::open(&path)?.peekable();
        let (mut rows, mut broke) = (0, false);
        let still = || self.still();
        each_row(&self.file, &self.header, from, still, |row| {
            rows += 1;
            while stored.next_if(|next| next.as_ref().is_ok_and(|next| next.line < row.line)).is_some() {}
            let own = stored.next_if(|next| next.as_ref().map_or(true, |next| next.line == row.line));
            let flow = each(&row, own.transpose()?)?;
            broke = flow.is_break();
            Ok(flow)
        })?;
        let whole = broke || from.is_some() || rows == self.accepted.rows;
        if whole { Ok(()) } else { Err(io::Error::other(format!("the file has {rows} rows"))) }
    }

    /// Gives each stored outcome of a kind, with the row's bytes; of a row that is too long only the beginning.
    fn stored(
        &self,
        wanted: Outcome,
        from: Option<RowPlace>,
        mut each: impl FnMut(RowOutcome, &[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let from = from.map_or(0, |place| place.line);
        let (mut reader, mut bytes) = (RowReader::new(), vec![]);
        for stored in StoredOutcomes::open(&self.shared.spool.outcomes_path(self.accepted.spool))? {
            let stored = stored?;
            if stored.outcome.counted() != wanted || stored.line < from {
                continue;
            }
            let header = &self.header;
            let len = read_row(&self.file, header, stored.offset, &mut reader, &mut bytes)?;
            self.still()?;
            bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            if each(stored, &bytes)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A row that was read from the file. Its bytes are read again only where they are needed.
    fn row_in_file(
        &self,
        place: RowPlace,
        id: Option<&str>,
        len: u32,
        became: RowOutcome,
    ) -> io::Result<ReportedRow> {
        if let (false, Some(id), None) = (self.overwritten, id, became.reason()) {
            let outcome = became.outcome;
            return Ok(ReportedRow { place, id: Some(id.to_owned()), outcome, reason: None, message: None });
        }
        let (mut reader, mut bytes) = (RowReader::new(), vec![]);
        read_row(&self.file, &self.header, place.offset, &mut reader, &mut bytes)?;
        bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(self.row_of(place, &bytes, became))
    }

    fn row_of(&self, place: RowPlace, row: &[u8], became: RowOutcome) -> ReportedRow {
        let outcome = became.outcome;
        if self.reads_erased(place.offset, row) {
            let message = format!("line {}: the visitor was erased, and the row with it", place.line);
            return ReportedRow { place, id: None, outcome, reason: Some("erased"), message: Some(message) };
        }
        let header = &self.header;
        ReportedRow {
            place,
            id: header.id_of(row),
            outcome,
            reason: became.reason(),
            message: became.explain(header, row),
        }
    }

    /// Whether an erasure has overwritten the row at this place.
    fn reads_erased(&self, offset: u32, row: &[u8]) -> bool {
        self.overwritten && reads_erased(self.header.reading(), row, offset == self.header_at)
    }

    /// An error if the read must not go on.
    fn still(&self) -> io::Result<()> {
        still(&self.shared, self.overwritings)
    }

    fn broken(&self, error: io::Error) -> EngineError {
        broken(&self.accepted, error)
    }
}

impl UploadedFile {
    /// Its place among the reports, as [`Report::place`].
    pub fn place(&self) -> &Slot {
        &self.place
    }

    /// Gives its bytes, piece by piece. Blocks.
    pub fn pieces(&self, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), EngineError> {
        let read = each_piece(&self.file, 0, |piece| {
            still(&self.shared, self.overwritings)?;
            Ok(each(piece))
        });
        read.map_err(|error| error.downcast().unwrap_or_else(EngineError::internal))
    }
}

fn still(shared: &Shared, overwritings: u64) -> io::Result<()> {
    if shared.signals.is_stopping() {
        return Err(io::Error::other(EngineError::Stopping));
    }
    if shared.spool.overwritings() != overwritings {
        let why = "rows of erased visitors were overwritten meanwhile; ask again";
        return Err(io::Error::other(EngineError::NotYet(why.into())));
    }
    Ok(())
}

/// Whether the batch's upload was damaged, and another file replaced it.
pub(super) fn was_given_up(shared: &Shared, accepted: &Accepted) -> Result<bool, EngineError> {
    let stored = StoredOutcomes::open(&shared.spool.outcomes_path(accepted.spool));
    let first = stored.and_then(|mut stored| stored.next().transpose());
    let first = first.map_err(|error| broken(accepted, error))?;
    Ok(first.is_some_and(|first| first.failure == Some(Failure::UploadDamaged)))
}

fn lost(accepted: &Accepted, error: impl std::fmt::Display) -> EngineError {
    EngineError::internal(format!("batch {}: {error}", accepted.id))
}

fn broken(accepted: &Accepted, error: io::Error) -> EngineError {
    error.downcast().unwrap_or_else(|error| lost(accepted, error))
}
