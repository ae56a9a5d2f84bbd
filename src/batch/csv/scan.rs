//! Where a row ends, and whether its quotes are right: the same whatever the pieces in which its bytes come.
//!
//! A quote opens only at the start of a cell. It is right if another one closes it, with nothing but spaces behind that
//! up to the comma or the row's end; and if it takes in line ends, then at most [`QUOTED_LINE_ENDS_MAX`] of them, in a
//! cell of at most [`QUOTED_BYTES_MAX`] bytes. Any other opening quote is bad: the row ends with the physical line that
//! the quote is on, and the next line is read afresh. So a reader looks ahead by no more than that many bytes, and goes
//! over no byte much more than twice: what a quote looked at in vain holds no line that opens one, for it would have
//! closed the first.
//!
//! A batch that was accepted before there were these bounds is read as it was then: a quote takes in all up to the next
//! one, whatever stands behind that; only if none follows is it bad, and then the row ends with the file.

use memchr::{memchr, memchr_iter, memchr2};

use super::cell::{cut, saturated, without_line_end};
use super::fault::{Reason, RowError};
use super::limits::{QUOTED_BYTES_MAX, QUOTED_LINE_ENDS_MAX};
use crate::model::batch::RowReading;

/// Goes over the bytes of one row.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// Whether there are no bounds.
    unbounded: bool,
    at: At,
    /// The column that it is in.
    column: usize,
    /// How many bytes it has gone over, from the row's first on.
    bytes: usize,
    /// The line ends within quotes that were right.
    line_feeds: u32,
    /// The quote that opened last, as long as it may still turn out bad.
    quote: Quote,
    bad: Option<RowError>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Before anything but spaces in a cell: a quote here opens.
    #[default]
    CellStart,
    /// In a cell, outside quotes.
    Plain,
    Quoted,
    /// After a quote within quotes: it closed them, unless another follows.
    QuoteInQuotes,
    /// After the closing quote and spaces.
    Closed,
    /// After the closing quote and carriage returns: only the row's end may follow.
    ClosedReturn,
    /// Behind a bad quote, on its line.
    Bad,
}

#[derive(Debug, Clone, Copy, Default)]
struct Quote {
    /// Where in the row it opened.
    opened: usize,
    /// The line ends that it has taken in.
    line_feeds: u32,
    /// Where the line behind the quote's own begins, once that has been reached: there the row ends if the quote is bad.
    next_line: Option<usize>,
}

impl Scan {
    /// One at the start of a row of a batch that is read so.
    pub(super) fn of(reading: &RowReading) -> Self {
        Self { unbounded: reading.is_before(), ..Self::default() }
    }

    /// Goes on into `bytes` and says how many bytes the row has, its line feed included; `None` if it goes on behind
    /// them. If a quote turned out bad, these may be fewer than it went over. It must be replaced after a row's end.
    pub(super) fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.bytes;
        self.bytes += bytes.len();
        if matches!(self.at, At::CellStart | At::Plain) {
            // No quote before the line feed: what the cells are doesn't matter.
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

    /// The body ends where the bytes did: how many of them the row has. A quote that is open then is bad.
    pub(super) fn finish(&mut self) -> usize {
        match self.at {
            At::Quoted => self.bad().unwrap_or(self.bytes),
            _ => {
                self.right();
                self.bytes
            }
        }
    }

    /// The row that the bytes begin with, or are, without its line end.
    pub(super) fn row<'b>(reading: &RowReading, bytes: &'b [u8]) -> &'b [u8] {
        let mut scan = Self::of(reading);
        let end = scan.row_end(bytes).unwrap_or_else(|| scan.finish());
        without_line_end(cut(bytes, end).0)
    }

    /// How many bytes it has gone over.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of those are the row's whatever follows.
    pub(super) fn certain(&self) -> usize {
        self.quote.next_line.unwrap_or(self.bytes)
    }

    /// The line ends within the row.
    pub(super) fn line_feeds(&self) -> u32 {
        self.line_feeds
    }

    /// What is wrong with the row's quotes.
    pub(super) fn fault(&self) -> Option<RowError> {
        self.bad
    }

    /// On through quoted text, up to the next quote; `None` if it has become too much to be a value.
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

    /// The same where there is nothing that would be too much.
    fn quoted_without_bounds<'b>(&mut self, rest: &'b [u8]) -> (At, &'b [u8]) {
        let (text, after) = cut(rest, memchr(b'"', rest).unwrap_or(rest.len()));
        self.line_feeds = self.line_feeds.saturating_add(saturated(memchr_iter(b'\n', text).count()));
        match after.split_first() {
            Some((_quote, after)) => (At::QuoteInQuotes, after),
            None => (At::Quoted, after),
        }
    }

    /// How many bytes the quoted cell may still have from this place on.
    fn room(&self, place: usize) -> usize {
        match self.quote.next_line {
            Some(_) => (self.quote.opened + QUOTED_BYTES_MAX).saturating_sub(place),
            None => usize::MAX,
        }
    }

    /// The quote was closed as it should be, if there was one.
    fn right(&mut self) {
        self.line_feeds = self.line_feeds.saturating_add(self.quote.line_feeds);
        self.quote = Quote::default();
    }

    /// The quote is bad. Gives the row's end if that has come already. What is wrong must be seen on the quote's own
    /// line: a row that is read again may come without the lines behind it.
    fn bad(&mut self) -> Option<usize> {
        let own_line = self.quote.next_line.is_none() && self.at != At::Quoted;
        let reason = if own_line { Reason::TextAfterQuote } else { Reason::UnclosedQuote };
        self.bad = Some(RowError::at(self.column, reason));
        self.quote.next_line
    }
}
