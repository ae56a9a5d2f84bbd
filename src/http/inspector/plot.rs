//! Small drawings, as SVG whose places are attributes in per cent: they fit any width, and no style stands in a page.

use askama::Template;

use super::words::{grouped, minute, rows as so_many_rows};
use crate::engine::BatchStatus;
use crate::model::batch::{Counts, Outcome};
use crate::model::seq::Millis;

/// The whole width, in tenths of a per cent.
const WHOLE: u64 = 1_000;
/// What is there at all is at least this wide.
const SEEN_MIN: u64 = 4;
const COLUMNS: u64 = 60;
const MINUTE_MS: u64 = 60_000;

/// What became of rows, as one bar.
#[derive(Template)]
#[template(path = "bar.html")]
pub(super) struct Bar {
    pub(super) parts: Vec<Part>,
    pub(super) summary: String,
}

pub(super) struct Part {
    pub(super) outcome: &'static str,
    pub(super) words: &'static str,
    pub(super) count: String,
    pub(super) x: String,
    pub(super) width: String,
}

impl Bar {
    /// The bar of so many rows of which these are dealt with.
    pub(super) fn of(counts: &Counts, rows: u64) -> Self {
        let there = Outcome::ALL.map(|outcome| (outcome, counts.of(outcome)));
        let there: Vec<_> = there.into_iter().filter(|(_, count)| *count > 0).collect();
        let mut widths: Vec<_> = there.iter().map(|(_, count)| share(*count, rows).max(SEEN_MIN)).collect();
        // What the small ones have beyond their share, the widest goes without.
        let beyond = widths.iter().sum::<u64>().saturating_sub(share(counts.total(), rows));
        if let Some(widest) = widths.iter_mut().max() {
            *widest = widest.saturating_sub(beyond).max(SEEN_MIN);
        }
        let (mut parts, mut x, mut summary) = (vec![], 0, vec![]);
        for ((outcome, count), width) in there.into_iter().zip(widths) {
            let (words, count) = (in_words(outcome), grouped(count));
            summary.push(format!("{count} {words}"));
            let name = outcome.name();
            parts.push(Part { outcome: name, words, count, x: per_cent(x), width: per_cent(width) });
            x += width;
        }
        let summary = match summary.is_empty() {
            true => format!("none of {} yet", so_many_rows(rows)),
            false => format!("{} of {}", summary.join(", "), so_many_rows(rows)),
        };
        Self { parts, summary }
    }
}

/// What an outcome is called on a page.
pub(super) fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotFound => "not found",
        other => other.name(),
    }
}

/// Rows over time, a column a minute, or rows per second of one batch after the other.
#[derive(Template)]
#[template(path = "columns.html")]
pub(super) struct Columns {
    pub(super) name: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) summary: String,
    pub(super) most: String,
    pub(super) from: String,
    pub(super) to: String,
}

pub(super) struct Column {
    pub(super) x: String,
    pub(super) width: String,
    pub(super) y: String,
    pub(super) height: String,
    pub(super) title: String,
}

impl Columns {
    /// The rows that were accepted in each minute of the last hour.
    pub(super) fn accepted(batches: &[BatchStatus], now: Millis) -> Self {
        let mut rows = vec![0; 60];
        for batch in batches {
            let minutes = now.0.saturating_sub(batch.id.seq.millis().0) / MINUTE_MS;
            let column = usize::try_from(minutes).ok().and_then(|minutes| 59_usize.checked_sub(minutes));
            if let Some(count) = column.and_then(|column| rows.get_mut(column)) {
                *count += batch.rows;
            }
        }
        let at = |column: u64| Millis(now.0.saturating_sub((COLUMNS - 1 - column) * MINUTE_MS));
        let titles = (0..).map(|column| minute(at(column)));
        let most = rows.iter().copied().max().unwrap_or(0);
        let summary = format!("in all {}, at most {} a minute", grouped(rows.iter().sum()), grouped(most));
        let columns = columns(&rows, titles, "rows");
        let (from, to) = (minute(at(0)), minute(now));
        Self {
            name: "Rows accepted, by minute",
            columns,
            summary,
            most: format!("{} rows", grouped(most)),
            from,
            to,
        }
    }

    /// How fast each of the newest batches was applied, the newest last.
    pub(super) fn applied(batches: &[BatchStatus]) -> Self {
        let newest = batches.iter().take(30);
        let mut rates: Vec<_> =
            newest.filter_map(|batch| Some((batch.rows_per_second?, batch.id.to_string()))).collect();
        rates.reverse();
        let (rates, ids): (Vec<_>, Vec<_>) = rates.into_iter().unzip();
        let most = rates.iter().copied().max().unwrap_or(0);
        let summary = format!("the fastest of {}: {} rows/s", rates.len(), grouped(most));
        let columns = columns(&rates, ids.into_iter(), "rows/s");
        Self {
            name: "Rows per second, batch by batch",
            columns,
            summary,
            most: format!("{} rows/s", grouped(most)),
            from: "older".into(),
            to: "newest".into(),
        }
    }
}

fn columns(counts: &[u64], titles: impl Iterator<Item = String>, unit: &str) -> Vec<Column> {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    // A few columns are no wider than many.
    let places = u64::try_from(counts.len()).unwrap_or(COLUMNS).max(30);
    let empty = places - u64::try_from(counts.len()).unwrap_or(places).min(places);
    let column = |(at, (count, title)): (u64, (&u64, String))| {
        let height = share(*count, most).max(if *count > 0 { SEEN_MIN * 10 } else { 0 });
        Column {
            x: per_cent(at * WHOLE / places),
            width: per_cent((WHOLE / places).saturating_sub(3)),
            y: per_cent(WHOLE - height),
            height: per_cent(height),
            title: format!("{title}: {} {unit}", grouped(*count)),
        }
    };
    (empty..).zip(counts.iter().zip(titles)).map(column).filter(|it| it.height != "0.0%").collect()
}

/// So many of all, in per cent, to the nearest tenth.
pub(super) fn share_of(count: u64, all: u64) -> String {
    per_cent(share(2 * WHOLE * count + all, 2 * WHOLE * all))
}

/// The place of a moment between two others.
pub(super) fn place(at: Millis, from: Millis, to: Millis) -> String {
    let (span, passed) = (to.0.saturating_sub(from.0), at.0.saturating_sub(from.0));
    // Points at the ends are whole, too.
    per_cent(20 + share(passed, span) * 96 / 100)
}

/// So many of all, in tenths of a per cent.
fn share(count: u64, all: u64) -> u64 {
    (u128::from(count) * u128::from(WHOLE))
        .checked_div(u128::from(all))
        .and_then(|share| u64::try_from(share).ok())
        .map_or(WHOLE, |share| share.min(WHOLE))
}

fn per_cent(tenths: u64) -> String {
    format!("{}.{}%", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_every_outcome_that_there_is_and_stays_inside() {
        let counts = Counts { updated: 999_999, failed: 1, ..Counts::default() };
        let bar = Bar::of(&counts, 1_000_000);
        let places: Vec<_> = bar.parts.iter().map(|part| (part.x.as_str(), part.width.as_str())).collect();
        assert_eq!(places, [("0.0%", "99.6%"), ("99.6%", "0.4%")]);
        assert_eq!(bar.summary, "999,999 updated, 1 failed of 1,000,000 rows");
        // A batch that has just begun, and found two visitors among many that are not there.
        let counts = Counts { updated: 2, not_found: 894, failed: 1, ..Counts::default() };
        let bar = Bar::of(&counts, 40_000);
        let places: Vec<_> = bar.parts.iter().map(|part| (part.x.as_str(), part.width.as_str())).collect();
        assert_eq!(places, [("0.0%", "0.4%"), ("0.4%", "1.4%"), ("1.8%", "0.4%")]);
        assert_eq!(Bar::of(&Counts::default(), 0).summary, "none of 0 rows yet");
    }

    #[test]
    fn moments_stand_where_they_belong_between_the_ends() {
        let check = |at, from, to, expected: &str| {
            assert_eq!(place(Millis(at), Millis(from), Millis(to)), expected);
        };
        check(0, 0, 100, "2.0%");
        check(50, 0, 100, "50.0%");
        check(100, 0, 100, "98.0%");
        check(5, 5, 5, "98.0%");
        check(500, 0, 100, "98.0%");
    }
}
