//! A batch beside an earlier one, in words and shares: for our own calls and for the inspector.

use crate::engine::read::comparison::{Chosen, Comparison};
use crate::engine::{BatchState, BatchStatus};
use crate::model::batch::Outcome;

/// The rows of one outcome in both batches.
pub(super) struct OutcomeLine {
    pub(super) outcome: Outcome,
    pub(super) batch: u64,
    pub(super) with: u64,
    pub(super) difference: i64,
    /// The shares of the rows that are dealt with, from 0 to 1.
    pub(super) batch_share: f64,
    pub(super) with_share: f64,
}

/// How much more, or less.
pub(super) fn difference(batch: u64, with: u64) -> i64 {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    number(batch) - number(with)
}

/// Why a batch is compared with that one: a word for programs.
pub(super) const fn chosen(chosen: Chosen) -> &'static str {
    match chosen {
        Chosen::Asked => "asked",
        Chosen::SameName => "same_name",
        Chosen::Before => "before",
    }
}

/// The outcomes, each in both batches.
pub(super) fn outcomes(compared: &Comparison) -> Vec<OutcomeLine> {
    let line = |outcome| {
        let (batch, with) = (compared.batch.counts.of(outcome), compared.with.counts.of(outcome));
        OutcomeLine {
            outcome,
            batch,
            with,
            difference: difference(batch, with),
            batch_share: share(batch, &compared.batch),
            with_share: share(with, &compared.with),
        }
    };
    Outcome::ALL.into_iter().map(line).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a batch has far fewer rows than an f64 counts exactly")]
fn share(count: u64, of: &BatchStatus) -> f64 {
    count as f64 / of.counts.total().max(1) as f64
}

/// What keeps the two from being compared as they might be, a sentence each.
pub(super) fn notes(compared: &Comparison) -> Vec<String> {
    let open =
        [&compared.batch, &compared.with].into_iter().filter(|batch| batch.state != BatchState::Complete);
    let mut notes: Vec<String> = open
        .map(|batch| {
            let (id, done, rows) = (&batch.id, batch.counts.total(), batch.rows);
            format!("Batch {id} is not complete: {done} of its {rows} rows are dealt with, and the shares are of those.")
        })
        .collect();
    if let Err((id, why)) = &compared.columns {
        notes.push(format!("The attributes of batch {id} are not known, so only the counts compare: {why}."));
    }
    notes
}
