//! A batch beside an earlier one, as the batch's page shows it.

use super::plot::in_words;
use super::words::{Moment, grouped};
use crate::engine::EngineError;
use crate::engine::read::comparison::{Chosen, Comparison};
use crate::http::Front;
use crate::http::comparison::{difference, notes, outcomes};
use crate::http::error::HttpError;
use crate::model::batch::BatchId;

/// Two batches side by side, or why there are not two.
pub(super) struct Compared {
    /// The text that was asked for.
    pub(super) asked: String,
    pub(super) message: Option<String>,
    pub(super) two: Option<Two>,
}

/// Two batches.
pub(super) struct Two {
    pub(super) with: String,
    pub(super) name: Option<String>,
    pub(super) accepted: Moment,
    /// Why with that one.
    pub(super) why: &'static str,
    pub(super) lines: Vec<Line>,
    pub(super) added: Vec<String>,
    pub(super) dropped: Vec<String>,
    /// Whether both have the same attributes.
    pub(super) same: bool,
    pub(super) notes: Vec<String>,
}

/// A count in both.
pub(super) struct Line {
    pub(super) what: &'static str,
    pub(super) batch: String,
    pub(super) with: String,
    pub(super) difference: String,
    /// The shares.
    pub(super) shares: Option<(String, String)>,
}

impl Compared {
    /// The batch beside the one that `with` names, or the one before.
    pub(super) async fn of(front: &Front, id: &BatchId, with: Option<&str>) -> Result<Self, HttpError> {
        let asked = with.unwrap_or_default().trim().to_owned();
        let mut compared = Self { asked, message: None, two: None };
        let named = if compared.asked.is_empty() { None } else { Some(BatchId::parse(&compared.asked)) };
        if matches!(named, Some(None)) {
            compared.message = Some(EngineError::UnknownBatch(compared.asked.clone()).to_string());
            return Ok(compared);
        }
        match front.app.compare(id, named.flatten().as_ref()).await {
            Ok(Some(found)) => compared.two = Some(Two::of(&found, front)),
            Ok(None) => {
                compared.message = Some("There is no earlier batch of this client to compare with.".into())
            }
            Err(error @ EngineError::Stopping) => return Err(error.into()),
            Err(error) => compared.message = Some(error.to_string()),
        }
        Ok(compared)
    }
}

impl Two {
    fn of(found: &Comparison, front: &Front) -> Self {
        let (rows, before) = (found.batch.rows, found.with.rows);
        let mut lines = vec![Line::of("rows", (rows, before), difference(rows, before), None)];
        lines.extend(outcomes(found).into_iter().map(|line| {
            let shares = Some((line.batch_share, line.with_share));
            Line::of(in_words(line.outcome), (line.batch, line.with), line.difference, shares)
        }));
        let texts = |names: &[Box<str>]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let columns = found.columns.as_ref().ok();
        Self {
            with: found.with.id.to_string(),
            name: found.with.name.as_ref().map(|name| name.as_str().to_owned()),
            accepted: Moment::of(found.with.id.seq.millis(), front.app.now()),
            why: match found.chosen {
                Chosen::Asked => "the one that you named",
                Chosen::SameName => "the one before of the same name",
                Chosen::Before => "the one before",
            },
            lines,
            same: columns.is_some_and(|columns| columns.added.is_empty() && columns.dropped.is_empty()),
            added: columns.map(|columns| texts(&columns.added)).unwrap_or_default(),
            dropped: columns.map(|columns| texts(&columns.dropped)).unwrap_or_default(),
            notes: notes(found),
        }
    }
}

impl Line {
    fn of(
        what: &'static str,
        (batch, with): (u64, u64),
        difference: i64,
        shares: Option<(f64, f64)>,
    ) -> Self {
        let sign = match difference {
            0 => "±",
            1.. => "+",
            _ => "−",
        };
        let per_cent = |share: f64| format!("{:.1} %", share * 100.0);
        Self {
            what,
            batch: grouped(batch),
            with: grouped(with),
            difference: format!("{sign}{}", grouped(difference.unsigned_abs())),
            shares: shares.map(|(batch, with)| (per_cent(batch), per_cent(with))),
        }
    }
}
