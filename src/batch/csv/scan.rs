//! Where a row ends.

use memchr::{memchr, memchr_iter, memchr2};

use super::cell::{cut, saturated};

/// Where rows end, followed across any cuts.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    at: At,
    /// The column that it is in.
    column: usize,
    /// The line feeds within quotes so far.
    pub(super) line_feeds: u32,
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
}

impl Scan {
    /// Goes on into `bytes` up to the row's end and says how many of them are still the row's, its line feed included.
    /// `None` if they all are and the row goes on. It must be replaced after a row's end.
    pub(super) fn row_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if matches!(self.at, At::CellStart | At::Plain) {
            // No quote before the line feed: what the cells are doesn't matter.
            let stop = memchr2(b'\n', b'"', bytes);
            if let Some(stop) = stop.filter(|stop| bytes.get(*stop) == Some(&b'\n')) {
                return Some(stop + 1);
            }
        }
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            (self.at, rest) = match (self.at, first) {
                (At::CellStart, b' ') => (At::CellStart, after),
                (At::CellStart, b'"') => (At::Quoted, after),
                (At::CellStart | At::Plain, b'\n') => return Some(bytes.len() - after.len()),
                (At::CellStart | At::Plain, b',') => {
                    self.column += 1;
                    (At::CellStart, after)
                }
                (At::CellStart | At::Plain, _) => {
                    let stop = memchr2(b',', b'\n', rest).unwrap_or(rest.len());
                    (At::Plain, cut(rest, stop).1)
                }
                (At::Quoted, _) => {
                    let stop = memchr(b'"', rest);
                    let (text, after) = cut(rest, stop.unwrap_or(rest.len()));
                    self.line_feeds =
                        self.line_feeds.saturating_add(saturated(memchr_iter(b'\n', text).count()));
                    match after.split_first() {
                        Some((_quote, after)) => (At::QuoteInQuotes, after),
                        None => (At::Quoted, after),
                    }
                }
                (At::QuoteInQuotes, b'"') => (At::Quoted, after),
                (At::QuoteInQuotes, _) => (At::Plain, rest),
            };
        }
        None
    }

    /// The column whose quotes are still open.
    pub(super) fn unclosed(&self) -> Option<usize> {
        (self.at == At::Quoted).then_some(self.column)
    }
}
