//! Finds where a row ends, and whether its quotes are right. The result does not depend on the pieces in which the bytes come.
//!
//! A quote opens only at the start of a cell. It is right if another quote closes it, and only spaces follow that one up to
//! the comma or the row's end. If the quoted text has line ends, it may have at most [`QUOTED_LINE_ENDS_MAX`] of them, and the
//! cell at most [`QUOTED_BYTES_MAX`] bytes. Any other opening quote is bad: the row ends with the physical line of the quote,
//! and the next line is read afresh. So a reader looks ahead by at most that many bytes, and scans no byte much more than
//! twice: the lines that a bad quote looked at open no quote, because such a quote would have closed the first one.
//!
//! A batch that was accepted before these bounds existed is read without them, as it was then. Quoted text goes on to the
//! next quote, whatever follows that one. A quote is bad only if no other follows, and then the row ends with the file.

use memchr::{memchr, memchr_iter, memchr2};

use super::cell::{cut, saturated, without_line_end};
use super::fault::{Reason, RowError};
use super::limits::{QUOTED_BYTES_MAX, QUOTED_LINE_ENDS_MAX};
use crate::model::batch::{RowForm, RowReading};

/// Scans the bytes of one row.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// Whether the row is read without the bounds.
    unbounded: bool,
    /// Whether a row ends at each line feed, as in NDJSON.
    lines: bool,
    at: At,
    /// The current column.
    column: usize,
    /// How many bytes of the row were scanned.
    bytes: usize,
    /// How many line ends are within right quotes.
    line_feeds: u32,
    /// The quote that opened last, while it may still be bad.
    quote: Quote,
    bad: Option<RowError>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// At the start of a cell, or after spaces there: a quote opens here.
    #[default]
    CellStart,
    /// In a cell, outside quotes.
    Plain,
    Quoted,
    /// After a quote within quotes. It closed them, unless another quote follows.
    QuoteInQuotes,
    /// After the closing quote and spaces.
    Closed,
    /// After the closing quote and carriage returns: only the row's end may follow.
    ClosedReturn,
    /// After a bad quote, on its line.
    Bad,
}

#[derive(Debug, Clone, Copy, Default)]
struct Quote {
    /// Where in the row it opened.
    opened: usize,
    /// How many line ends the quoted text has so far.
    line_feeds: u32,
    /// Where the line after the quote's own begins, once that is reached. The row ends there if the quote is bad.
    next_line: Option<usize>,
}

impl Scan {
    /// A scan at the start of a row, in a batch that is read by these rules.
    pub(super) fn of(reading: &RowReading) -> Self {
        let lines = reading.form() == RowForm::Ndjson;
        Self { unbounded: reading.is_before(), lines, ..Self::default() }
    }

    /// Scans `bytes`, which follow the ones before. Returns how many bytes the row has, with its line feed; `None` if the row
    /// goes on. If a quote is bad, the row may have fewer bytes than were scanned. Replace the scan after a row's end.
    pub(super) fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.bytes;
        self.bytes += bytes.len();
        if self.lines {
            return memchr(b'\n', bytes).map(|stop| before + stop + 1);
        }
        if matches!(self.at, At::CellStart | At::Plain) {
            // No quote stands before the line feed, so the cells don't matter.
            let stop = memchr2(b'\n', b'"', bytes);
            if let Some(stop) = stop.filter(|stop| bytes.get(*stop) == Some(&b'\n')) {
                return Some(before + stop + 1);
            }
        }
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            let place = self.bytes - rest.len();
            (self.at, rest) = match (self.at, first) {
                (At::CellStart, b' ') => (At::CellStart, after),
                (At::CellStart, b'"') => {
                    self.quote = Quote { opened: place, ..Quote::default() };
                    (At::Quoted, after)
                }
                (At::CellStart | At::Plain | At::Bad, b'\n') => return Some(place + 1),
                (At::CellStart | At::Plain, b',') => {
                    self.column += 1;
                    (At::CellStart, after)
                }
                (At::CellStart | At::Plain, _) => {
                    let stop = memchr2(b',', b'\n', rest).unwrap_or(rest.len());
                    (At::Plain, cut(rest, stop).1)
                }
                (At::Quoted, _) if self.unbounded => self.quoted_without_bounds(rest),
                (At::Quoted, _) => match self.quoted(rest, place) {
                    Some(next) => next,
                    None => return self.bad(),
                },
                (At::QuoteInQuotes, _) if self.unbounded && *first != b'"' => (At::Plain, rest),
                (At::QuoteInQuotes | At::Closed, b',') => {
                    self.right();
                    self.column += 1;
                    (At::CellStart, after)
                }
                (At::QuoteInQuotes | At::Closed | At::ClosedReturn, b'\n') => {
                    self.right();
                    return Some(place + 1);
                }
                (At::QuoteInQuotes | At::Closed | At::ClosedReturn, _) if self.room(place) == 0 => {
                    return self.bad();
                }
                (At::QuoteInQuotes, b'"') => (At::Quoted, after),
                (At::QuoteInQuotes | At::Closed, b' ') => (At::Closed, after),
                (At::QuoteInQuotes | At::Closed | At::ClosedReturn, b'\r') => (At::ClosedReturn, after),
                (At::QuoteInQuotes | At::Closed | At::ClosedReturn, _) => {
                    if let Some(end) = self.bad() {
                        return Some(end);
                    }
                    (At::Bad, rest)
                }
                (At::Bad, _) => {
                    let stop = memchr(b'\n', rest).unwrap_or(rest.len());
                    (At::Bad, cut(rest, stop).1)
                }
            };
        }
        None
    }

    /// Ends the body. Returns how many of the scanned bytes the row has. A quote that is still open is bad.
    pub(super) fn finish(&mut self) -> usize {
        match self.at {
            At::Quoted => self.bad().unwrap_or(self.bytes),
            _ => {
                self.right();
                self.bytes
            }
        }
    }

    /// The row at the start of `bytes`, without its line end.
    pub(super) fn row<'b>(reading: &RowReading, bytes: &'b [u8]) -> &'b [u8] {
        let mut scan = Self::of(reading);
        let end = scan.row_end(bytes).unwrap_or_else(|| scan.finish());
        without_line_end(cut(bytes, end).0)
    }

    /// How many bytes were scanned.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of those belong to the row, whatever follows.
    pub(super) fn certain(&self) -> usize {
        self.quote.next_line.unwrap_or(self.bytes)
    }

    /// How many line ends are within the row.
    pub(super) fn line_feeds(&self) -> u32 {
        self.line_feeds
    }

    /// What is wrong with the row's quotes.
    pub(super) fn fault(&self) -> Option<RowError> {
        self.bad
    }

    /// Scans quoted text up to the next quote. `None` if it has more bytes or lines than a value may have.
    fn quoted<'b>(&mut self, rest: &'b [u8], place: usize) -> Option<(At, &'b [u8])> {
        let (text, after) = if self.quote.next_line.is_none() {
            let stop = memchr2(b'"', b'\n', rest).unwrap_or(rest.len());
            let (text, after) = cut(rest, stop);
            if after.first() == Some(&b'\n') {
                let line_feed = place + stop;
                self.quote.next_line = Some(line_feed + 1);
                self.quote.line_feeds = 1;
                return (self.room(line_feed) > 0).then_some((At::Quoted, cut(after, 1).1));
            }
            (text, after)
        } else {
            let room = self.room(place);
            let stop = memchr(b'"', cut(rest, room).0).unwrap_or(rest.len());
            if stop > room {
                return None;
            }
            cut(rest, stop)
        };
        let line_feeds = saturated(memchr_iter(b'\n', text).count());
        self.quote.line_feeds = self.quote.line_feeds.saturating_add(line_feeds);
        if self.quote.line_feeds > QUOTED_LINE_ENDS_MAX {
            return None;
        }
        match after.split_first() {
            Some((_quote, after)) => Some((At::QuoteInQuotes, after)),
            None => Some((At::Quoted, after)),
        }
    }

    /// The same, without the bounds.
    fn quoted_without_bounds<'b>(&mut self, rest: &'b [u8]) -> (At, &'b [u8]) {
        let (text, after) = cut(rest, memchr(b'"', rest).unwrap_or(rest.len()));
        self.line_feeds = self.line_feeds.saturating_add(saturated(memchr_iter(b'\n', text).count()));
        match after.split_first() {
            Some((_quote, after)) => (At::QuoteInQuotes, after),
            None => (At::Quoted, after),
        }
    }

    /// How many bytes the quoted cell may still have from `place` on.
    fn room(&self, place: usize) -> usize {
        match self.quote.next_line {
            Some(_) => (self.quote.opened + QUOTED_BYTES_MAX).saturating_sub(place),
            None => usize::MAX,
        }
    }

    /// Records that the quote was closed correctly, if there was one.
    fn right(&mut self) {
        self.line_feeds = self.line_feeds.saturating_add(self.quote.line_feeds);
        self.quote = Quote::default();
    }

    /// Records that the quote is bad. Returns the row's end if it was scanned already. The reason depends only on the quote's
    /// own line, because a row that is read again may come without the lines after it.
    fn bad(&mut self) -> Option<usize> {
        let own_line = self.quote.next_line.is_none() && self.at != At::Quoted;
        let reason = if own_line { Reason::TextAfterQuote } else { Reason::UnclosedQuote };
        self.bad = Some(RowError::at(self.column, reason));
        self.quote.next_line
    }
}
