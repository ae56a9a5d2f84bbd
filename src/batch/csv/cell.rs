//! Splits a row into cells, removes their quotes and decodes their text.

use memchr::{memchr, memchr_iter, memchr2};

use super::fault::Reason;

/// Splits a row into cells. It does not decode them.
#[derive(Debug)]
pub(super) struct Splitter {
    /// Created for the first cell that needs it. Few rows have one, and creating it costs more than reading a row.
    csv: Option<csv_core::Reader>,
    unquoted: Vec<u8>,
}

/// A cell without its quotes, still encoded, or what is wrong with it; and the row after its comma. `None` if it is the last.
pub(super) type Cell<'c, 'r> = (Result<&'c [u8], Reason>, Option<&'r [u8]>);

impl Splitter {
    pub(super) fn new() -> Self {
        Self { csv: None, unquoted: Vec::new() }
    }

    /// The first cell of `from`, and the row after its comma.
    pub(super) fn cell<'c, 'r: 'c>(&'c mut self, from: &'r [u8]) -> Cell<'c, 'r> {
        let from = trim_start(from);
        if let Some((b'"', quoted)) = from.split_first() {
            // Most quoted cells contain no quote, so their bytes are used in place.
            let (cell, quote) = cut(quoted, memchr(b'"', quoted).unwrap_or(quoted.len()));
            return match trim_start(cut(quote, 1).1).split_first() {
                Some((b',', after)) => (Ok(cell), Some(after)),
                None if !quote.is_empty() => (Ok(cell), None),
                _ => self.quoted_cell(from),
            };
        }
        let stop = memchr2(b',', b'\r', from).unwrap_or(from.len());
        let (cell, after) = cut(from, stop);
        match after.split_first() {
            Some((b'\r', after)) => {
                (Err(Reason::BareReturn), memchr(b',', after).map(|comma| cut(after, comma + 1).1))
            }
            comma => (Ok(trim_end(cell)), comma.map(|(_, after)| after)),
        }
    }

    fn quoted_cell<'c, 'r: 'c>(&'c mut self, from: &'r [u8]) -> Cell<'c, 'r> {
        // A cell is never longer than its quoted form in the row, so this buffer is always large enough.
        if self.unquoted.len() < from.len() {
            self.unquoted.resize(from.len(), 0);
        }
        let csv = self.csv.get_or_insert_with(|| {
            csv_core::ReaderBuilder::new().terminator(csv_core::Terminator::Any(b'\n')).build()
        });
        csv.reset();
        let (result, read, written) = csv.read_field(from, &mut self.unquoted);
        let ended = matches!(result, csv_core::ReadFieldResult::Field { .. });
        let (sent, after) = cut(from, read - usize::from(ended));
        // The csv reader takes the spaces after the closing quote for a part of the cell.
        let spaces = sent.len() - trim_end(sent).len();
        let cell = cut(&self.unquoted, written.saturating_sub(spaces)).0;
        let sent = trim_end(sent);
        // A whole cell has one quote at each end, and each quote within it is doubled. If text follows the closing quote,
        // then the last byte is not a quote, or a quote within the cell is not doubled.
        let doubled = memchr_iter(b'"', cell).count();
        let whole = sent.len() > 1 && sent.ends_with(b"\"") && sent.len() == cell.len() + 2 + doubled;
        (if whole { Ok(cell) } else { Err(Reason::TextAfterQuote) }, ended.then(|| cut(after, 1).1))
    }

    /// The cell of a column. `None` if the row has no such cell, or the cell cannot be read.
    pub(super) fn nth_cell<'c, 'r: 'c>(&'c mut self, row: &'r [u8], column: usize) -> Option<&'c [u8]> {
        let mut rest = row;
        for _ in 0..column {
            rest = self.cell(rest).1?;
        }
        self.cell(rest).0.ok()
    }
}

/// The text of a cell: decoded once as a form field, then checked to be UTF-8.
pub(super) fn decode<'c>(cell: &'c [u8], decoded: &'c mut Vec<u8>) -> Result<&'c str, Reason> {
    let bytes = if memchr2(b'%', b'+', cell).is_some() {
        unescape(cell, decoded)?;
        decoded
    } else {
        cell
    };
    std::str::from_utf8(bytes).map_err(|_| Reason::BadUtf8)
}

pub(super) fn unescape(cell: &[u8], decoded: &mut Vec<u8>) -> Result<(), Reason> {
    decoded.clear();
    let mut rest = cell;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => return Err(Reason::BadEscape),
            },
            (b'%', _) => return Err(Reason::BadEscape),
            (byte, _) => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Ok(())
}

pub(super) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The first invalid escape of a cell, as sent: the `%` and up to two bytes after it.
pub fn bad_escape(cell: &[u8]) -> Option<&[u8]> {
    memchr_iter(b'%', cell).map(|at| cut(cell, at).1).find_map(|escape| match escape {
        [_, high, low, ..] if hex(*high).is_some() && hex(*low).is_some() => None,
        _ => Some(cut(escape, 3).0),
    })
}

/// Whether an id looks like a number in scientific notation. Its `+` may have been decoded to a space.
pub fn is_rounded(id: &str) -> bool {
    let Some((number, exponent)) = id.split_once(['e', 'E']) else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once(['.', ',']).unwrap_or((number, "0"));
    let exponent = exponent.strip_prefix(['+', '-', ' ']).unwrap_or(exponent);
    whole.len() == 1 && digits(whole) && digits(fraction) && digits(exponent) && exponent.len() <= 3
}

/// Whether a row is blank: it has no id and no value. A spreadsheet pads blank lines with commas, so commas alone are blank.
/// They are a row in a batch that was accepted `before` this rule.
pub(super) fn is_blank(row: &[u8], before: bool) -> bool {
    row.iter().all(|byte| matches!(byte, b' ' | b'\r' | b'\n') || (*byte == b',' && !before))
}

pub(super) fn without_line_end(row: &[u8]) -> &[u8] {
    let mut row = row.strip_suffix(b"\n").unwrap_or(row);
    while let Some(before) = row.strip_suffix(b"\r") {
        row = before;
    }
    row
}

/// Drops leading spaces. The end of a cell is not known yet when its start is trimmed, so [`trim_end`] is separate.
pub(super) fn trim_start(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let Some((b' ', after)) = bytes.split_first() {
        bytes = after;
    }
    bytes
}

pub(super) fn trim_end(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let Some((b' ', before)) = bytes.split_last() {
        bytes = before;
    }
    bytes
}

/// Splits `bytes` at `at`, or at its end if `at` is beyond the end.
pub(super) fn cut(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

pub(super) fn saturated(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
