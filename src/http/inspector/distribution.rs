//! What an attribute is in a batch, as the batch's page shows it: a bar for each of the most frequent values.

use super::plot::share_of;
use super::visitor::cut;
use super::words::{grouped, rows};
use crate::engine::EngineError;
use crate::engine::read::distribution::{DISTINCT_MAX, Distribution, FoundDistribution};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::model::batch::BatchId;

/// The attributes of a batch, and one of them.
pub(super) struct Values {
    pub(super) names: Vec<String>,
    /// The one that was asked for.
    pub(super) name: String,
    pub(super) shown: Option<Shown>,
    /// Why there is nothing to show.
    pub(super) message: Option<String>,
}

/// One attribute.
pub(super) struct Shown {
    pub(super) bars: Vec<ValueBar>,
    /// What there is besides, a sentence each.
    pub(super) besides: Vec<String>,
}

pub(super) struct ValueBar {
    pub(super) value: String,
    pub(super) rows: String,
    /// The share of the rows, and how wide its bar is.
    pub(super) share: String,
}

impl Values {
    /// None where the file cannot be read just now.
    pub(super) async fn of(
        front: &Front,
        request: &Request,
        id: &BatchId,
        name: Option<&str>,
    ) -> Result<Option<Self>, HttpError> {
        let names = match front.app.columns(id).await {
            Ok(names) => names.iter().map(ToString::to_string).collect(),
            Err(error @ EngineError::Stopping) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(batch = %id, %error, "the attributes of its file could not be shown");
                return Ok(None);
            }
        };
        let mut values =
            Self { names, name: name.unwrap_or_default().to_owned(), shown: None, message: None };
        if let Some(name) = name {
            match front.app.distribution(&request.who(Some(&id.client)), id, name).await {
                Ok(FoundDistribution::Of(found)) => values.shown = Some(Shown::of(&found)),
                Ok(FoundDistribution::NotAmong(_)) => {
                    values.message = Some(format!("This batch has no attribute {name:?}."));
                }
                Err(error @ EngineError::Stopping) => return Err(error.into()),
                Err(error) => values.message = Some(error.to_string()),
            }
        }
        Ok(Some(values))
    }
}

impl Shown {
    fn of(found: &Distribution) -> Self {
        let all = found.filled + found.empty;
        let bar = |(value, count): &(Box<str>, u64)| ValueBar {
            value: cut(value),
            rows: grouped(*count),
            share: share_of(*count, all),
        };
        Self { bars: found.frequent.values.iter().map(bar).collect(), besides: besides(found) }
    }
}

fn besides(found: &Distribution) -> Vec<String> {
    let mut told = vec![];
    let (filled, empty) = (rows(found.filled), grouped(found.empty));
    told.push(match found.distinct {
        Some(1) => format!("{filled} with a value, always the same; {empty} without."),
        Some(distinct) => {
            format!("{filled} with a value, {} different ones; {empty} without.", grouped(number(distinct)))
        }
        None => format!(
            "{filled} with a value, more than {} different ones; {empty} without.",
            grouped(number(DISTINCT_MAX))
        ),
    });
    if found.frequent.others_max > 0 {
        told.push(format!("No other value has more than {}.", rows(found.frequent.others_max)));
    }
    if let Some(numbers) = &found.numbers {
        let (smallest, largest, mean) = (&numbers.smallest.1, &numbers.largest.1, numbers.mean);
        told.push(format!("All values are numbers, from {smallest} to {largest}; their mean is {mean}."));
    }
    if found.unreadable > 0 {
        told.push(format!("{} failed and are not counted here.", rows(found.unreadable)));
    }
    if found.erased > 0 {
        told.push(format!("{} of erased visitors are not counted here.", rows(found.erased)));
    }
    told
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
