//! A batch beside an earlier one of the same client: their counts, and the attributes that came and went.
//!
//! Promises: of a batch's file only the first line is read. Where it cannot be, the counts still compare, and the reason is told. To
//! find the batch before, it looks back over [`BACK_MAX`] batches at most.

use crate::batch::queue::Which;
use crate::engine::error::EngineError;
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::engine::types::BatchStatus;
use crate::model::batch::BatchId;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many batches are looked at to find one of the same name.
const BACK_MAX: usize = 10_000;

/// Why a batch is the one to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// The caller named it.
    Asked,
    /// It is the one before of the same name.
    SameName,
    /// It is the one before.
    Before,
}

/// The attributes that came and went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns {
    /// Those that only the later batch has, in the order of its file.
    pub added: Vec<Box<str>>,
    /// Those that only the other one has, in the order of its file.
    pub dropped: Vec<Box<str>>,
    /// How many both have.
    pub kept: usize,
}

/// A batch beside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The batch.
    pub batch: BatchStatus,
    /// The one that it is compared with.
    pub with: BatchStatus,
    /// Why with that one.
    pub chosen: Chosen,
    /// The attributes; of which batch they are unknown, and why.
    pub columns: Result<Columns, (BatchId, String)>,
}

impl Reader {
    /// Compares a batch with another of its client: the one that is named, or the one before. None if there is none before.
    pub(in crate::engine) async fn compare(
        self: &Arc<Self>,
        id: &BatchId,
        with: Option<&BatchId>,
    ) -> Result<Option<Comparison>, EngineError> {
        let batch = self.known_batch(id)?;
        let chosen = match with {
            Some(with) if with.client != id.client => {
                return Err(EngineError::Refused(format!("{with} is not a batch of client {}", id.client)));
            }
            Some(with) if with == id => {
                return Err(EngineError::Refused(format!(
                    "{id} would be compared with itself: name another batch"
                )));
            }
            Some(with) => Some((self.known_batch(with)?, Chosen::Asked)),
            None => {
                let (reader, of) = (Arc::clone(self), batch.clone());
                let before = blocking(move || Ok(reader.before(&of))).await?;
                before.and_then(|(before, chosen)| Some((self.batch(&before)?, chosen)))
            }
        };
        let Some((with, chosen)) = chosen else { return Ok(None) };
        let columns = match (self.columns(&batch.id).await, self.columns(&with.id).await) {
            (Err(error @ EngineError::Stopping), _) | (_, Err(error @ EngineError::Stopping)) => {
                return Err(error);
            }
            (Err(why), _) => Err((batch.id.clone(), why.to_string())),
            (_, Err(why)) => Err((with.id.clone(), why.to_string())),
            (Ok(now), Ok(before)) => Ok(Columns::of(&now, &before)),
        };
        Ok(Some(Comparison { batch, with, chosen, columns }))
    }

    /// The batch before: of the same name, if it has one and there is such a batch. One that undoes another is none to compare with.
    fn before(&self, batch: &BatchStatus) -> Option<(BatchId, Chosen)> {
        let (mut newest, mut named, mut looked_at) = (None, None, 0);
        self.shared.batches.walk_back(&batch.id.client, batch.id.seq, Which::All, |known| {
            looked_at += 1;
            let accepted = &known.accepted;
            if accepted.rules.undoes.is_none() {
                newest.get_or_insert_with(|| accepted.id.clone());
                if batch.name.is_some() && accepted.name == batch.name {
                    named = Some(accepted.id.clone());
                }
            }
            let enough =
                named.is_some() || (batch.name.is_none() && newest.is_some()) || looked_at >= BACK_MAX;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        named.map(|id| (id, Chosen::SameName)).or_else(|| Some((newest?, Chosen::Before)))
    }
}

impl Columns {
    fn of(now: &[Box<str>], before: &[Box<str>]) -> Self {
        let only = |these: &[Box<str>], others: &[Box<str>]| -> Vec<Box<str>> {
            let others: BTreeSet<&Box<str>> = others.iter().collect();
            these.iter().filter(|name| !others.contains(name)).cloned().collect()
        };
        let added = only(now, before);
        Self { kept: now.len() - added.len(), dropped: only(before, now), added }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_and_go_and_their_order_does_not_matter() {
        let names = |text: &str| -> Vec<Box<str>> { text.split_whitespace().map(Box::from).collect() };
        let check = |now: &str, before: &str, added: &str, dropped: &str, kept| {
            let expected = Columns { added: names(added), dropped: names(dropped), kept };
            assert_eq!(Columns::of(&names(now), &names(before)), expected, "{now} | {before}");
        };
        check("a b", "a b", "", "", 2);
        check("b a", "a b", "", "", 2);
        check("c a b", "a", "c b", "", 1);
        check("a", "c a b", "", "c b", 1);
        check("A", "a", "A", "a", 0);
    }
}
