//! What a batch would do if it were accepted now: each row's outcome, and what it would change. Nothing is written.
//!
//! Promises: rows are applied by the same [`apply_rows`] as always, to what lookups show. A dry run needs the memory of applying one batch, and
//! dry runs take turns. The result holds for the moment: writes go on meanwhile.

use crate::batch::accepted::Accepted;
use crate::batch::apply::{Plan, TheirRows};
use crate::batch::csv::Header;
use crate::batch::known_names::NewAttribute;
use crate::batch::outcomes_file::write_outcomes;
use crate::batch::pending::Pending;
use crate::batch::remarks::Remarks;
use crate::batch::resolve::{Noted, ResolveError, View, apply_bundles, decoded, resolve};
use crate::engine::commit::NewBatch;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::Slot;
use crate::engine::ingest::state::Ingest;
use crate::engine::read::report::{Report, ReportedRow};
use crate::engine::shared::Shared;
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchRules, Counts, Outcome};
use crate::model::id::Key;
use crate::model::profile::{Profile, Stored};
use crate::model::seq::Seq;
use crate::model::update::{Applied, apply_rows};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many failed rows are listed beside the counts. The report has all.
pub const FAILED_TOLD_MAX: usize = 100;

/// What a batch would do.
pub struct DryRun {
    /// Its rows.
    pub rows: u64,
    /// Its file's size.
    pub bytes: u64,
    /// Its rows, by the outcome that they would have.
    pub counts: Counts,
    /// How many of its rows would leave something alone, because that is of a later time than the batch.
    pub newer: u64,
    /// What it would change of each attribute of its header, in the header's order.
    pub attributes: Vec<(String, Diff)>,
    /// The attributes that no profile had before.
    pub new_attributes: Vec<NewAttribute>,
    /// The first of the rows that would fail.
    pub failed: Vec<ReportedRow>,
    /// What in it was perhaps not meant.
    pub remarks: Remarks,
    /// The outcome that each row would have.
    pub report: Report,
}

/// How many visitors' values of one attribute would change, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diff {
    /// They have no value, and would get one.
    pub set: u64,
    /// They have another value.
    pub changed: u64,
    /// They have the same value already.
    pub unchanged: u64,
    /// They have a value, and would have none.
    pub removed: u64,
}

/// Applies an upload's rows to what lookups show, and keeps only the outcomes. Blocks.
pub(in crate::engine) fn try_out(
    ingest: &Ingest,
    batch: NewBatch,
    new_attributes: Vec<NewAttribute>,
    place: Slot,
) -> Result<DryRun, EngineError> {
    // The place in the order that it would have if it were accepted now.
    let shared = &ingest.shared;
    let seq = Seq::from_parts(ingest.read.now().plus(1), 0);
    let accepted = Accepted {
        id: BatchId { client: batch.client, seq },
        rules: BatchRules { seq, ..batch.rules },
        key_kind: batch.header.key_kind(),
        spool: batch.spool.name(),
        bytes: batch.spool.written(),
        crc32c: Some(batch.spool.crc32c()),
        rows: batch.rows,
        key: None,
        name: None,
        by: Author::default(),
    };
    let header = batch.header.clone();
    let pending = Pending::new(accepted, batch.header, batch.index, batch.spool.path());
    let accepted = Arc::clone(&pending.accepted);
    // The apply thread may have a file in memory just now.
    let plan = Plan::make(&Arc::new(pending), &*shared.store, 0).map_err(|error| shared.reported(error))?;
    let (decided, counts) = plan.decided();
    let mut outcomes = decided.to_vec();
    let mut diffs = Diffs::of(&accepted, &header);
    let pending = plan.pending();
    let applied = plan.each_visitor(|key, rows, outcome| diffs.visitor(shared, pending, key, rows, outcome));
    let (more, applied_counts) = applied.or_internal()?;
    drop(plan);
    let Diffs { diffs, .. } = diffs;
    outcomes.extend(more);
    let newer =
        outcomes.iter().filter(|row| matches!(row.outcome, Outcome::Newer | Outcome::UpdatedInPart(_)));
    let newer = newer.count() as u64;
    let counts = counts.plus(&applied_counts);

    let path = shared.spool.outcomes_path(accepted.spool);
    let written = shared.spool.recount_after(&path, || write_outcomes(&path, &mut outcomes));
    written.map_err(|error| EngineError::from(crate::batch::spool::SpoolError::of(path, error)))?;
    let report = Report::of_upload(Arc::clone(shared), Arc::clone(&accepted), header, batch.spool, place)?;
    let mut failed = vec![];
    report.outcomes(Some(Outcome::Failed), None, |row| {
        failed.push(row);
        if failed.len() < FAILED_TOLD_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let names = report.header().names().iter().map(|name| name.to_string());
    Ok(DryRun {
        rows: accepted.rows,
        bytes: accepted.bytes,
        counts,
        newer,
        attributes: names.zip(diffs).collect(),
        new_attributes,
        failed,
        remarks: report.remarks()?,
        report,
    })
}

/// The changes so far, by attribute.
struct Diffs<'a> {
    accepted: &'a Accepted,
    columns: HashMap<&'a str, usize>,
    diffs: Vec<Diff>,
}

impl<'a> Diffs<'a> {
    fn of(accepted: &'a Accepted, header: &'a Header) -> Self {
        let names = header.names();
        let columns = names.iter().enumerate().map(|(column, name)| (&**name, column)).collect();
        Self { accepted, columns, diffs: vec![Diff::default(); names.len()] }
    }

    /// Applies one visitor's rows, and notes what that changes.
    fn visitor(
        &mut self,
        shared: &Shared,
        batch: &Pending,
        key: &Key,
        rows: TheirRows<'_>,
        outcome: &mut dyn FnMut(u32, Outcome),
    ) -> Result<(), ResolveError> {
        let rules = &self.accepted.rules;
        // The pending rows first, the store second, as in a lookup.
        let pending = shared.batches.pending(&self.accepted.id.client);
        let mut view = View::new(&*shared.store);
        resolve(&mut view, &pending, key, &mut Noted::nothing())?;
        let canonical = view.canonical(key)?;
        let value = view.get(&canonical)?;
        let living = match value.as_ref().map(|value| decoded(&canonical, value)).transpose()? {
            Some(Stored::Profile(profile)) if !profile.expired(rules.seq.millis(), rules.lifetime_ms) => {
                // A write of this moment may be past the place that the batch was given here.
                Some(Profile { applied_seq: Seq::ZERO, ..profile })
            }
            _ => None,
        };
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        if let Some(profile) = &living {
            before.extend(profile.visible().into_iter().map(|held| (held.name, held.value)));
        }
        let mut after: BTreeMap<String, String> = BTreeMap::new();
        let mut shows = |profile: &Profile<'_>| {
            let shown = profile.visible().into_iter();
            after.extend(shown.map(|held| (held.name.to_owned(), held.value.to_owned())));
        };
        let stored = living.clone().map(Stored::Profile);
        let touched: BTreeSet<&str> = match rows {
            TheirRows::Each(rows) => {
                let Applied::Changed(profile) = apply_rows(stored, rules, rows, &mut *outcome) else {
                    return Ok(());
                };
                shows(&profile);
                rows.iter().flat_map(|row| row.cells.iter().map(|cell| cell.name)).collect()
            }
            TheirRows::Bundled(found) => {
                let spool = |error| ResolveError::Spool { batch: batch.accepted.id.to_string(), error };
                let (rows, bundles): (Vec<_>, Vec<_>) =
                    (found.rows.iter().collect(), found.bundles.iter().collect());
                let Some(applied) = apply_bundles(batch, stored, &rows, &bundles).map_err(spool)? else {
                    return Ok(());
                };
                rows.iter().zip(applied.rows).for_each(|(row, became)| outcome(row.line, became));
                for (bundle, became) in bundles.iter().zip(applied.bundles) {
                    let lines = batch.lines_of(bundle).map_err(spool)?;
                    (0..).zip(lines).for_each(|(row, line)| {
                        became.of(row).into_iter().for_each(|became| outcome(line, became));
                    });
                }
                let Some(now) = applied.now else { return Ok(()) };
                if let Stored::Profile(profile) = decoded(key, &now)? {
                    shows(&profile);
                }
                applied.named.into_iter().collect()
            }
        };
        // What a batch that undoes another touches is in nobody's rows.
        let undoes = rules.undoes.is_some();
        let touched = if undoes { self.columns.keys().copied().collect() } else { touched };
        for name in touched {
            let Some(diff) = self.columns.get(name).and_then(|column| self.diffs.get_mut(*column)) else {
                continue;
            };
            match (before.get(name).copied(), after.get(name).map(String::as_str)) {
                (None, Some(_)) => diff.set += 1,
                (Some(old), Some(new)) if old == new => diff.unchanged += u64::from(!undoes),
                (Some(_), Some(_)) => diff.changed += 1,
                (Some(_), None) => diff.removed += 1,
                (None, None) => {}
            }
        }
        Ok(())
    }
}
