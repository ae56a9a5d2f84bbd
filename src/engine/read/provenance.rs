//! Which line of which upload set an attribute. The store does not keep that: the kept uploads are searched when somebody asks.
//!
//! Promises: one question reads only a few uploads, only a few questions are searched for at once, and a search ends when nobody waits
//! for its answer. An upload that is no longer kept tells nothing.

use crate::batch::found::{BundleRow, RowOf};
use crate::batch::pending::Pending;
use crate::batch::progress::Known;
use crate::engine::error::{EngineError, OrInternal};
use crate::engine::gates::{Slot, Who};
use crate::engine::read::report::Report;
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::engine::types::Visitor;
use crate::model::batch::{BatchId, Outcome};
use crate::model::id::{Key, VisitorId};
use crate::model::seq::Seq;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::watch;

/// How many uploads are read for one visitor. The newest batches come first.
const UPLOADS_MAX: usize = 8;

/// The line that set an attribute, by the batch's seq and the attribute's name.
pub type Lines = BTreeMap<(Seq, String), u32>;

impl Reader {
    /// The lines of the kept uploads that set a visitor's attributes.
    pub(in crate::engine) async fn lines(&self, who: &Who, visitor: &Visitor) -> Result<Lines, EngineError> {
        let set_by = visitor.attributes.iter().filter(|attribute| attribute.source.is_batch());
        let seqs: BTreeSet<Seq> = set_by.map(|attribute| attribute.seq).collect();
        let all = visitor.linked.iter().chain(std::iter::once(&visitor.canonical));
        let ids: Arc<Vec<VisitorId>> = Arc::new(all.cloned().collect());
        let mut lines = Lines::new();
        if seqs.is_empty() {
            return Ok(lines);
        }
        let place = self.line_searches.take(who).await?;
        // Dropped when nobody waits for the answer any more.
        let (_wanted, wanted) = watch::channel(());
        for seq in seqs.into_iter().rev().take(UPLOADS_MAX) {
            let id = BatchId { client: visitor.client.clone(), seq };
            let Some(known) = self.shared.batches.get(&id) else { continue };
            match self.lines_of(known, Arc::clone(&ids), &place, wanted.clone()).await {
                Ok(found) => lines.extend(found.into_iter().map(|(name, line)| ((seq, name), line))),
                // The visitor is shown even if one upload cannot be read.
                Err(error @ EngineError::Stopping) => return Err(error),
                Err(error) => {
                    tracing::warn!(batch = %id, %error, "the lines of a visitor in an upload could not be found")
                }
            }
        }
        Ok(lines)
    }

    async fn lines_of(
        &self,
        known: Known,
        ids: Arc<Vec<VisitorId>>,
        place: &Slot,
        wanted: watch::Receiver<()>,
    ) -> Result<BTreeMap<String, u32>, EngineError> {
        let accepted = known.accepted;
        let pending_or_report = self.pending_or_report(&accepted.id, place).await?;
        let place = place.clone();
        let found = blocking(move || {
            let _place = place;
            let header = match &pending_or_report {
                PendingOrReport::Report(report) => report.header(),
                PendingOrReport::Pending(pending) => &pending.header,
            };
            let mut lines = BTreeMap::new();
            let name = |attribute: usize| header.names().get(attribute).map(|name| name.to_string());
            match &pending_or_report {
                PendingOrReport::Report(report) => {
                    let theirs = ids.iter().filter(|id| id.kind() == header.key_kind());
                    let theirs: BTreeSet<&str> = theirs.map(VisitorId::as_str).collect();
                    report.each_row(None, |row, stored| {
                        let outcome = stored.map_or(Outcome::Updated, |stored| stored.outcome);
                        if let Ok(cells) = &row.content
                            && outcome.applied()
                            && theirs.contains(cells.id())
                        {
                            let set = cells.attributes().filter(|(attribute, _)| outcome.wrote(*attribute));
                            let set = set.filter_map(|(attribute, _)| name(attribute));
                            lines.extend(set.map(|name| (name, row.line)));
                        }
                        let gone = wanted.has_changed().is_err();
                        Ok(if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    })?;
                }
                PendingOrReport::Pending(pending) => {
                    let keys: Vec<Key> = ids.iter().map(|id| id.key(&accepted.id.client)).collect();
                    let found = pending.find(&keys).or_internal()?;
                    let rows: Vec<_> = found.rows.iter().enumerate().collect();
                    let bundles = found.bundles.iter().enumerate();
                    let bundles: Vec<_> = bundles.map(|(n, bundle)| (n, bundle, 0, bundle.rows)).collect();
                    let read = pending.each_row_of(&rows, &bundles, |line, of, cells| {
                        let resolved = match of {
                            RowOf::Row(_) => pending.resolved_row(line),
                            RowOf::Bundle(n, row) => found.bundles.get(n).and_then(|bundle| {
                                pending.resolved_in(BundleRow { line, bundle: bundle.first, row })
                            }),
                        };
                        let wrote = |attribute| resolved.is_none_or(|outcome| outcome.wrote(attribute));
                        if resolved.is_none_or(Outcome::applied) {
                            let set = cells
                                .iter()
                                .filter(|(attribute, value)| !value.is_empty() && wrote(*attribute));
                            lines.extend(set.filter_map(|(attribute, _)| Some((name(*attribute)?, line))));
                        }
                        Ok(())
                    });
                    read.or_internal()?;
                }
            }
            Ok(lines)
        });
        found.await
    }

    /// The source of a batch's rows. While a batch is being completed, it is neither for a moment.
    async fn pending_or_report(&self, id: &BatchId, place: &Slot) -> Result<PendingOrReport, EngineError> {
        loop {
            if let Some(pending) = self.shared.batches.pending_by_seq(id.seq) {
                return Ok(PendingOrReport::Pending(pending));
            }
            match self.open_report(id, false, place.clone()).await {
                Err(EngineError::NotComplete(_)) => tokio::task::yield_now().await,
                report => return report.map(PendingOrReport::Report),
            }
        }
    }
}

enum PendingOrReport {
    Pending(Arc<Pending>),
    Report(Report),
}
