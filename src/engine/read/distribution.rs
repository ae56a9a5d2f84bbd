//! How often an attribute has which value in a batch, read from its kept upload.
//!
//! Promises: it reads the file once, and a second time where it has more different values than are counted at once. Memory is bounded
//! by [`VALUES_MAX`] values. Rows of erased visitors are not looked at (R12), and rows that are not well-formed have no value.

use crate::batch::rows::read_header;
use crate::batch::tally::{AllNumbers, Candidates, Frequent, Numbers, VALUES_MAX};
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::engine::read::report::{Report, was_given_up};
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::model::batch::BatchId;
use std::fs::File;
use std::sync::Arc;

/// How many values are listed.
pub const LISTED_MAX: usize = 20;
/// How many different values are counted; of more it is only known that they are more.
pub const DISTINCT_MAX: usize = VALUES_MAX;

/// What an attribute is in a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Distribution {
    /// The rows with a value.
    pub filled: u64,
    /// The rows that bring no value for it.
    pub empty: u64,
    /// The rows that are not well-formed.
    pub unreadable: u64,
    /// The rows of visitors who were erased since.
    pub erased: u64,
    /// How many different values there are; none if they are too many to count.
    pub distinct: Option<usize>,
    /// The most frequent values.
    pub frequent: Frequent,
    /// What they come to, if all values are numbers.
    pub numbers: Option<Numbers>,
}

impl Distribution {
    /// The share of so many rows among those with a value and those without, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer rows than an f64 counts exactly")]
    pub fn share(&self, rows: u64) -> f64 {
        rows as f64 / (self.filled + self.empty).max(1) as f64
    }
}

/// What was found of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundDistribution {
    /// This.
    Of(Box<Distribution>),
    /// The batch has no such attribute, but these.
    NotAmong(Vec<Box<str>>),
}

impl Reader {
    /// The attributes of a batch, as the first line of its file names them. The file is not verified.
    pub(in crate::engine) async fn columns(&self, id: &BatchId) -> Result<Vec<Box<str>>, EngineError> {
        let known = self.shared.batches.get(id).ok_or_else(|| EngineError::UnknownBatch(id.to_string()))?;
        if let Some(why) = self.shared.batches.why_held(id) {
            return Err(EngineError::Held { batch: id.to_string(), why });
        }
        let complete = known.progress.completed().is_some() && !self.shared.batches.lacks_outcomes(id);
        let shared = Arc::clone(&self.shared);
        let read = blocking(move || {
            // What is there instead names no attributes.
            if complete && was_given_up(&shared, &known.accepted)? {
                return Err(EngineError::GivenUp(known.accepted.id.to_string()));
            }
            let path = shared.spool.rows_path(known.accepted.spool);
            let read = File::open(path).and_then(|file| read_header(&file, &known.accepted.rules.reading));
            read.map(|header| header.names().to_vec())
                .map_err(|error| EngineError::internal(format!("its file cannot be read: {error}")))
        });
        match read.await {
            // It went meanwhile, for its age.
            Err(_) if self.shared.batches.get(id).is_none() => Err(EngineError::UnknownBatch(id.to_string())),
            read => read,
        }
    }

    /// How often an attribute has which value in a batch.
    pub(in crate::engine) async fn distribution(
        &self,
        who: &Who,
        id: &BatchId,
        attribute: &str,
    ) -> Result<FoundDistribution, EngineError> {
        let rows = self.open_rows(who, id).await?;
        let attribute = attribute.to_owned();
        blocking(move || FoundDistribution::of(&rows, &attribute)).await
    }
}

impl FoundDistribution {
    /// Reads an upload. Blocks.
    fn of(rows: &Report, attribute: &str) -> Result<Self, EngineError> {
        let names = rows.header().names();
        let Some(column) = names.iter().position(|name| **name == *attribute) else {
            return Ok(Self::NotAmong(names.to_vec()));
        };
        let (mut found, mut numbers) = (Distribution::default(), AllNumbers::default());
        let mut candidates = Candidates::default();
        rows.each_sent(|content, erased| match content {
            _ if erased => found.erased += 1,
            Err(_) => found.unreadable += 1,
            Ok(cells) => match cells.attributes().find(|(at, _)| *at == column) {
                None => found.empty += 1,
                Some((_, value)) => {
                    found.filled += 1;
                    candidates.add(value);
                    numbers.add(value);
                }
            },
        })?;
        found.distinct = candidates.distinct();
        if let Some(mut again) = candidates.again() {
            rows.each_sent(|content, erased| {
                let value =
                    content.as_ref().ok().and_then(|cells| cells.attributes().find(|(at, _)| *at == column));
                if let (Some((_, value)), false) = (value, erased) {
                    again.add(value);
                }
            })?;
        }
        (found.frequent, found.numbers) = (candidates.frequent(LISTED_MAX), numbers.all());
        Ok(Self::Of(Box::new(found)))
    }
}
