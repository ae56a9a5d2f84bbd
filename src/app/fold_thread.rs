//! The folding thread: whose turn it is, folded on two writers, counted, checkpointed, noted as complete.

use super::commit::Request;
use super::{AppError, Fatal, Inner};
use crate::batch::fold::{Part, Plan, Step};
use crate::batch::outcome::write_outcomes;
use crate::batch::pending::Pending;
use crate::batch::settle::SettleError;
use std::sync::Arc;
use std::time::Duration;

/// Two writers, split by key range: what sled gains from on two cores.
const WRITERS: usize = 2;
/// A batch that was refused this often shows as stuck; it is tried again all the same.
const REFUSALS_UNTIL_STUCK: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a batch is not folded.
enum Unfolded {
    /// The daemon is stopping.
    Stopping,
    /// The store is past a row and nothing tells what became of it, and going on would make something up; or the upload is
    /// damaged, and as long as we went on, lookups would show what it reads now and writes take that into the journal.
    Untrue(SettleError),
    /// The store, the spool or the journal refused; it may be tried again.
    Refused(String),
}

impl From<SettleError> for Unfolded {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::OutcomeLost { .. } | SettleError::Damaged { .. } => Self::Untrue(error),
            error => Self::Refused(error.to_string()),
        }
    }
}

impl From<AppError> for Unfolded {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Stopping => Self::Stopping,
            error => Self::Refused(error.to_string()),
        }
    }
}

/// Folds batches until the queue is closed.
pub(super) fn run(inner: &Arc<Inner>) {
    let mut refusals = 0;
    while let Some(pending) = inner.batches.next() {
        let why = match fold_batch(inner, &pending) {
            Ok(()) => {
                refusals = 0;
                continue;
            }
            Err(Unfolded::Stopping) => return,
            Err(Unfolded::Untrue(error)) => {
                inner.fail(Fatal::new(error));
                return;
            }
            Err(Unfolded::Refused(why)) => why,
        };
        refusals += 1;
        tracing::error!(batch = %pending.accepted.id, refusals, %why, "a batch could not be folded; it will be tried again");
        pending.progress.stuck(refusals >= REFUSALS_UNTIL_STUCK);
        inner.wait_unless_stopping(RETRY_AFTER);
    }
}

fn fold_batch(inner: &Arc<Inner>, pending: &Arc<Pending>) -> Result<(), Unfolded> {
    if !inner.wait_for_room() {
        return Err(Unfolded::Stopping);
    }
    let began = std::time::Instant::now();
    let plan = Plan::make(pending, &*inner.store)?;
    let (outcomes, mut counts) = plan.decided();
    let mut outcomes = outcomes.to_vec();
    pending.progress.begin(inner.clock.now());
    pending.progress.add(&counts);
    let folded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = plan
            .parts(WRITERS)
            .into_iter()
            .map(|part| scope.spawn(|| fold_part(inner, pending, part)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Unfolded::Refused("a writer panicked".into())))
            })
            .collect()
    });
    for part in folded {
        let (more, part_counts) = part?.finish();
        outcomes.extend(more);
        counts = counts.plus(&part_counts);
    }
    if counts.total() != pending.accepted.rows {
        let error = format!("{} outcomes for {} rows", counts.total(), pending.accepted.rows);
        return Err(Unfolded::Refused(error));
    }
    let path = inner.spool.outcomes_path(pending.accepted.spool);
    inner
        .spool
        .recount_after(&path, || write_outcomes(&path, &mut outcomes))
        .map_err(|error| Unfolded::Refused(format!("the outcomes could not be written: {error}")))?;
    inner.make_store_durable()?;
    pending.progress.stuck(false);
    let complete = Request::Complete(pending.accepted.id.clone(), counts, inner.clock.now());
    inner.ask_blocking(complete)?;
    inner.metrics.batch_complete(&pending.accepted.id.client, &counts);
    inner.spool.remove_index(pending.accepted.spool);
    tracing::info!(
        batch = %pending.accepted.id,
        rows = counts.total(),
        updated = counts.updated,
        created = counts.created,
        not_found = counts.not_found,
        ignored = counts.ignored,
        failed = counts.failed,
        ms = began.elapsed().as_millis(),
        "a batch is complete"
    );
    Ok(())
}

fn fold_part<'p>(inner: &Arc<Inner>, pending: &Pending, mut part: Part<'p>) -> Result<Part<'p>, Unfolded> {
    loop {
        if !inner.wait_for_room() {
            return Err(Unfolded::Stopping);
        }
        let before = part.counts();
        match part.step(&*inner.store)? {
            Step::More => pending.progress.add(&part.counts().since(&before)),
            Step::Settle(keys) => {
                let request = Request::Settle(pending.accepted.id.client.clone(), keys);
                inner.ask_blocking(request)?;
            }
            Step::Done => return Ok(part),
        }
    }
}
