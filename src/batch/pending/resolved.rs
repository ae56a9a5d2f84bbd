//! What writes already made of a pending batch's rows. A row that a write resolved is final: background applying only copies
//! its outcome.
//!
//! Promises: the first outcome that is noted for a row stays. It is noted before the store shows the row.

use super::{Pending, ResolvedBy};
use crate::batch::bundles::FoundBundle;
use crate::batch::checksum::UploadError;
use crate::batch::found::BundleRow;
use crate::batch::outcomes_file::Became;
use crate::model::batch::Outcome;
use crate::sync::lock;
use std::io;

impl Pending {
    /// The lines of all rows that were resolved, those of bundles with them.
    pub fn lines_resolved(&self) -> Result<Vec<u32>, UploadError> {
        let (mut lines, bundles) = {
            let resolved = lock(&self.resolved);
            let bundles: Vec<u32> = resolved.bundles.keys().copied().collect();
            (resolved.rows.keys().copied().collect::<Vec<u32>>(), bundles)
        };
        let bundled = || -> io::Result<Vec<u32>> {
            let mut lines = vec![];
            for bundle in self.bundles_from(bundles)? {
                lines.extend(self.lines_of(&bundle)?);
            }
            Ok(lines)
        };
        lines.extend(bundled().map_err(UploadError::of(&self.rows))?);
        Ok(lines)
    }

    /// What became of the row on this line, if a write resolved it or the batch was complete before. All resolved bundles are
    /// searched for the line; a caller that knows its bundle asks [`resolved_in`](Self::resolved_in).
    pub fn resolved(&self, line: u32) -> io::Result<Option<Outcome>> {
        if let Some(outcome) = self.resolved_row(line) {
            return Ok(Some(outcome));
        }
        let mut bundles: Vec<u32> = lock(&self.resolved).bundles.keys().copied().collect();
        bundles.retain(|first| *first <= line);
        for bundle in self.bundles_from(bundles)? {
            if let Some(at) = self.lines_of(&bundle)?.iter().position(|at| *at == line) {
                let row = BundleRow {
                    line,
                    bundle: bundle.first,
                    row: u32::try_from(at).map_err(io::Error::other)?,
                };
                return Ok(self.resolved_in(row));
            }
        }
        Ok(None)
    }

    /// The same, for a row that is in no bundle.
    pub fn resolved_row(&self, line: u32) -> Option<Outcome> {
        let resolved = lock(&self.resolved).rows.get(&line).map(|(_, outcome)| *outcome);
        resolved.or_else(|| self.on_record(line).map(|(outcome, _)| outcome))
    }

    /// The same, for a row that is in a bundle.
    pub fn resolved_in(&self, row: BundleRow) -> Option<Outcome> {
        let bundled =
            || lock(&self.resolved).bundles.get(&row.bundle).and_then(|(_, became)| became.of(row.row));
        self.resolved_row(row.line).or_else(bundled)
    }

    /// What became of all rows of a bundle, if that is known.
    pub fn resolved_bundle(&self, bundle: &FoundBundle) -> io::Result<Option<Became>> {
        let resolved = {
            let resolved = lock(&self.resolved);
            if resolved.rows.is_empty() && self.on_record.is_none() && resolved.bundles.is_empty() {
                return Ok(None);
            }
            resolved.bundles.get(&bundle.first).map(|(_, became)| became.clone())
        };
        // An earlier version of the program resolved row by row.
        if resolved.is_some() || self.resolved_row(bundle.first).is_none() {
            return Ok(resolved);
        }
        let mut became = Became::default();
        for line in self.lines_of(bundle)? {
            let Some(outcome) = self.resolved_row(line) else { return Ok(None) };
            became.push(1, outcome);
        }
        Ok(Some(became))
    }

    /// Whether writes since the start resolved all rows on these lines, and all these bundles. Then only those writes put the
    /// visitor into the store.
    pub fn left_to_writes(
        &self,
        mut lines: impl Iterator<Item = u32>,
        mut bundles: impl Iterator<Item = u32>,
    ) -> bool {
        let resolved = lock(&self.resolved);
        let by_write = |by: Option<ResolvedBy>| by == Some(ResolvedBy::Write);
        !(resolved.rows.is_empty() && resolved.bundles.is_empty())
            && lines.all(|line| by_write(resolved.rows.get(&line).map(|(by, _)| *by)))
            && bundles.all(|first| by_write(resolved.bundles.get(&first).map(|(by, _)| *by)))
    }

    /// Notes what became of a row that a write resolved. It is final, and noted before the profile shows it.
    pub fn resolve(&self, line: u32, outcome: Outcome) {
        self.note(line, ResolvedBy::Write, outcome);
    }

    /// The same for a bundle.
    pub fn resolve_bundle(&self, first: u32, became: Became) {
        if self.on_record.is_none() {
            lock(&self.resolved).bundles.entry(first).or_insert((ResolvedBy::Write, became));
        }
    }

    /// The same for a row of which the journal says it, after a restart.
    pub fn resolved_before(&self, line: u32, outcome: Outcome) {
        self.note(line, ResolvedBy::Journal, outcome);
    }

    fn note(&self, line: u32, by: ResolvedBy, outcome: Outcome) {
        if self.on_record.is_none() {
            lock(&self.resolved).rows.entry(line).or_insert((by, outcome));
        }
    }
}
