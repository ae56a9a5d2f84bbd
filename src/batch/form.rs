//! A batch file that comes as the field `batch` of a form, percent-encoded from end to end: `curl --data-urlencode` and the
//! form calls of most languages send it like this. It is decoded once, as a stream. From then on it is a raw file, so later
//! readers need not know how it came (R4).
//!
//! The rule: a body is such a form if it begins with `batch=`, and if the text after that has no raw line end, comma or
//! quote, but at least one of `%0A`, `%0D` and `%2C`, in upper or lower case. The text goes up to an `&`, or to the end of
//! the first 64 KiB; line ends at the end of the whole body don't count. No batch file looks like this, because its header
//! has a raw comma after the key.
//!
//! In a form, a `+` is a space, and `%XX` is a byte. An invalid escape stays as it is. The field ends at the first `&`, and
//! the rest of the body is left out. If the file in the field has its own byte order mark or `batch=`, these are dropped.
//!
//! Promises: the result does not depend on the pieces in which the bytes come. It takes no more memory than the bytes that are
//! looked at. A form that is longer than any file could need is an error, even if most of it is not the file's.

use std::io::{self, BufRead, Read};
use std::mem::take;

use memchr::{memchr, memchr3};

/// How many bytes are looked at to decide whether a body is a form, and how many are decoded at once.
const LOOKED_AT_BYTES: usize = 64 << 10;
/// The beginning of the field, before the file.
const FIELD: &[u8] = b"batch=";
/// How many bytes of a form one byte of the file may take.
const ENCODED_BYTES_MAX: u64 = 3;

/// The form is too long to be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the form has more than {0} bytes, and the largest batch file needs no more: split the file, and send no other fields with it"
)]
pub struct FormTooLong(pub u64);

/// How many bytes a form around a file of fewer than `limit` bytes may have, other fields included.
pub fn form_bytes_max(limit: u64) -> u64 {
    limit.saturating_mul(ENCODED_BYTES_MAX).saturating_add(LOOKED_AT_BYTES as u64)
}

/// The escapes that are left for the reader of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// None: the reader decodes the file cell by cell, as any raw file.
    None,
    /// Those of `%`, `+` and `&`. The reader decodes these cell by cell, so each character is decoded once in all.
    Special,
}

/// Reads a batch file out of the form that it may have come in.
#[derive(Debug)]
pub struct Unwrapped<R> {
    source: R,
    state: State,
    leaves: Leaves,
    bytes_max: u64,
    /// How many bytes of the form were read.
    bytes: u64,
    /// The bytes that were looked at or decoded.
    at_hand: Vec<u8>,
    /// How many of those were consumed.
    taken: usize,
    /// The beginning of an escape whose end was not read yet.
    begun: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is not decided whether the body is a form.
    Open,
    /// The body is a raw file.
    Raw,
    /// The body is a form, and this is its field.
    Field,
    /// The body is a form, and this is after its field.
    Behind,
}

impl<R: BufRead> Unwrapped<R> {
    /// Reads `source`. If it is a form, it may have at most `bytes_max` bytes.
    pub fn of(source: R, leaves: Leaves, bytes_max: u64) -> Self {
        let (state, at_hand, begun) = (State::Open, vec![], vec![]);
        Self { source, state, leaves, bytes_max, bytes: 0, at_hand, taken: 0, begun }
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Whether the body is a form. This is known once the first bytes were read.
    pub fn is_form(&self) -> bool {
        matches!(self.state, State::Field | State::Behind)
    }

    /// Reads until it is decided whether the body is a form.
    fn look(&mut self) -> io::Result<()> {
        let mut ended = false;
        let form = loop {
            if let Some(form) = is_form(&self.at_hand, ended || self.at_hand.len() == LOOKED_AT_BYTES) {
                break form;
            }
            let piece = self.source.fill_buf()?;
            let room = LOOKED_AT_BYTES - self.at_hand.len();
            let piece = piece.get(..room).unwrap_or(piece);
            self.at_hand.extend_from_slice(piece);
            let read = piece.len();
            ended = read == 0;
            self.source.consume(read);
        };
        if !form {
            self.state = State::Raw;
            return Ok(());
        }
        self.state = State::Field;
        self.bytes = self.at_hand.len() as u64;
        let head = take(&mut self.at_hand);
        self.at_hand.extend_from_slice(FIELD);
        self.decode(first_line(&head));
        Ok(())
    }

    fn decode(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if !self.begun.is_empty() {
                if first.is_ascii_hexdigit() {
                    self.begun.push(first);
                    if let &[_, high, low] = self.begun.as_slice() {
                        let byte = digit(high) << 4 | digit(low);
                        if self.leaves == Leaves::Special && matches!(byte, b'%' | b'+' | b'&') {
                            self.at_hand.append(&mut self.begun);
                        } else {
                            self.begun.clear();
                            self.at_hand.push(byte);
                        }
                    }
                    continue;
                }
                self.at_hand.append(&mut self.begun);
            }
            match first {
                b'%' => self.begun.push(first),
                b'+' => self.at_hand.push(b' '),
                b'&' => {
                    self.state = State::Behind;
                    return;
                }
                other => {
                    self.at_hand.push(other);
                    let until = memchr3(b'%', b'+', b'&', rest).unwrap_or(rest.len());
                    let (plain, special) = rest.split_at_checked(until).unwrap_or((rest, &[]));
                    self.at_hand.extend_from_slice(plain);
                    rest = special;
                }
            }
        }
    }
}

/// Whether a body that begins with `head` is a form. `None` if that is not certain yet; never if `enough` was read.
fn is_form(head: &[u8], enough: bool) -> Option<bool> {
    let Some(value) = head.strip_prefix(FIELD) else {
        let open = !enough && FIELD.starts_with(head);
        return if open { None } else { Some(false) };
    };
    let end = memchr(b'&', value);
    let mut value = end.and_then(|end| value.get(..end)).unwrap_or(value);
    // Line ends at the end of the body, as far as it was read, don't count.
    while let (None, [before @ .., b'\r' | b'\n']) = (end, value) {
        value = before;
    }
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b',' | b'"')) {
        return Some(false);
    }
    if !enough && end.is_none() {
        return None;
    }
    let escaped = memchr::memchr_iter(b'%', value).filter_map(|at| value.get(at + 1..at + 3));
    let mut escaped = escaped.map(|digits| [digits.first().copied(), digits.get(1).copied()]);
    Some(escaped.any(|digits| {
        matches!(digits, [Some(b'0'), Some(b'a' | b'A' | b'd' | b'D')] | [Some(b'2'), Some(b'c' | b'C')])
    }))
}

/// The field's content, from the header's first byte on: without `batch=` and byte order marks.
fn first_line(head: &[u8]) -> &[u8] {
    let without = |head: &'_ [u8], other: &[u8]| {
        head.get(..other.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(other)).then_some(other.len())
    };
    let mut rest = head;
    for other in [FIELD, b"%EF%BB%BF", b"batch%3D", b"batch=", b"%EF%BB%BF"] {
        if let Some(bytes) = without(rest, other) {
            rest = rest.get(bytes..).unwrap_or_default();
        }
    }
    rest
}

/// The value of a hexadecimal digit.
fn digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

impl<R: BufRead> Read for Unwrapped<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(room)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Unwrapped<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.state == State::Open {
            self.look()?;
        }
        while self.taken == self.at_hand.len() {
            self.at_hand.clear();
            self.taken = 0;
            if self.state == State::Raw {
                return self.source.fill_buf();
            }
            let piece = self.source.fill_buf()?;
            let piece = piece.get(..LOOKED_AT_BYTES).unwrap_or(piece).to_vec();
            self.source.consume(piece.len());
            self.bytes = self.bytes.saturating_add(piece.len() as u64);
            if self.bytes > self.bytes_max {
                return Err(io::Error::other(FormTooLong(self.bytes_max)));
            }
            if piece.is_empty() {
                // The body ends within an escape, which stays as it is.
                self.at_hand.append(&mut self.begun);
                break;
            }
            if self.state == State::Field {
                self.decode(&piece);
            }
        }
        Ok(self.at_hand.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        let rest = self.at_hand.len() - self.taken;
        if rest == 0 && self.state == State::Raw {
            self.source.consume(bytes);
        } else {
            self.taken += bytes.min(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::in_pieces::InPieces;

    fn unwrapped(body: &[u8], leaves: Leaves, size: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut source = Unwrapped::of(InPieces(body, size), leaves, 1 << 20);
        let mut file = vec![];
        source.read_to_end(&mut file)?;
        assert!(source.at_hand.capacity() <= 4 * LOOKED_AT_BYTES, "{}", source.at_hand.capacity());
        Ok((file, source.is_form()))
    }

    fn each_size(body: &[u8], leaves: Leaves, file: &[u8], form: bool, source: &str) {
        for size in [usize::MAX, 1, 2, 3, 5, 7, 4_096] {
            let found = unwrapped(body, leaves, size).unwrap();
            let shown = String::from_utf8_lossy(body.get(..100).unwrap_or(body));
            assert!(found == (file.to_vec(), form), "{source}: {shown:?} in pieces of {size}");
        }
    }

    /// `source` names who sends such a body.
    fn form(source: &str, body: impl AsRef<[u8]>, file: impl AsRef<[u8]>) {
        each_size(body.as_ref(), Leaves::None, file.as_ref(), true, source);
    }

    fn raw(source: &str, body: impl AsRef<[u8]>) {
        each_size(body.as_ref(), Leaves::None, body.as_ref(), false, source);
    }

    const FILE: &str = "batch=pcId,a\n1,x\n";

    #[test]
    fn a_form_is_decoded_once() {
        form("curl --data-urlencode 'batch@-', 8.5", "batch=pcId%2Ca%0A1%2Cx%0A", FILE);
        form("curl 7.60: digits in lower case", "batch=pcId%2ca%0a1%2cx%0a", FILE);
        form(
            "requests.post(url, data={'batch': csv})",
            "batch=pcId%2Ca%0A1%2Ca+b%2B%26c%0A",
            "batch=pcId,a\n1,a b+&c\n",
        );
        form("a browser's form: CRLF", "batch=pcId%2Ca%0D%0A1%2Cx%0D%0A", "batch=pcId,a\r\n1,x\r\n");
        form("a form with further fields", "batch=pcId%2Ca%0A1%2Cx%0A&other=1,2%2C%0A\n", FILE);
        form("a whole file, whose batch= is encoded too", "batch=batch%3DpcId%2Ca%0A1%2Cx%0A", FILE);
        form("the same, the equals sign left", "batch=batch=pcId%2Ca%0A1%2Cx%0A", FILE);
        form("a file with a byte order mark", "batch=%EF%BB%BFpcId%2Ca%0A1%2Cx%0A", FILE);
        form("a whole file with one", "batch=%ef%bb%bfbatch%3dpcId%2Ca%0A1%2Cx%0A", FILE);
        form(
            "a line end behind the form: echo, a heredoc",
            "batch=pcId%2Ca%0A1%2Cx%0A\r\n",
            format!("{FILE}\r\n"),
        );
        form(
            "AdobeDocs/analytics-1.4-apis batch_update.md, form-encoded; values encoded before stay so",
            "batch=pcId%2Ca%0A1%2C50%2525+off%0A",
            "batch=pcId,a\n1,50%25 off\n",
        );
        form(
            "an escape that is none",
            "batch=pcId%2Ca%0A1%2C5%0A2%2C50%zz%4",
            "batch=pcId,a\n1,5\n2,50%zz%4",
        );
        form("percent signs in a row", "batch=pcId%2Ca%0A1%2C%%41%%%0A", "batch=pcId,a\n1,%A%%\n");
        form("bytes that are no text", "batch=pcId%2Ca%0A1%2C%FF%0A", b"batch=pcId,a\n1,\xff\n");
        form("a header alone", "batch=pcId%2Ca", "batch=pcId,a");
    }

    #[test]
    fn a_file_stays_as_it_is() {
        raw("Adobe's sample", "batch=pcId, param1\n123, value1\n");
        raw("escapes in values", "batch=pcId,a\n1,x%2Cy%0Az&b=%26+\n");
        raw("a quoted header", "batch=pcId\"%2C%0A");
        raw("a key alone", "batch=pcId\n%2C%0A");
        raw("nothing that a form would hold", "batch=pcId%3Ba");
        raw("a comma behind the end that is looked at", format!("batch={}%2C", "x".repeat(LOOKED_AT_BYTES)));
        raw("other fields in front", "client=demo&batch=pcId%2Ca%0A1%2Cx");
        raw("less than a field", "bat");
        raw("no key", "batch=");
        raw("nothing", "");
        raw("another file", b"\xff\xfeb\0a\0");
    }

    #[test]
    fn it_is_decided_by_64_kib_and_decoded_within_them() {
        let (encoded, decoded) = ("%0A1%2Cvalue".repeat(60_000), "\n1,value".repeat(60_000));
        form("a form of 720 kB", format!("batch=pcId%2Ca{encoded}"), format!("batch=pcId,a{decoded}"));
        // Bytes after the first 64 KiB don't change the decision.
        let late = format!("batch=pcId%2Ca{encoded},\"\r\n&x=1");
        form("raw characters late in a form", late, format!("batch=pcId,a{decoded},\"\r\n"));
        let long = [b"batch=pcId%2Ca%0A1%2Cx&other=", "x".repeat(2 << 20).as_bytes()].concat();
        for size in [usize::MAX, 4_099] {
            let refused = unwrapped(&long, Leaves::None, size).unwrap_err();
            assert_eq!(refused.downcast::<FormTooLong>().unwrap(), FormTooLong(1 << 20));
        }
    }

    #[test]
    fn what_is_left_is_decoded_later_and_once_in_all() {
        let body = b"batch=pcId%2Ca%0A1%2C50%25+off+%26+more%2B%3D%0A";
        each_size(
            body,
            Leaves::Special,
            b"batch=pcId,a\n1,50%25 off %26 more%2B=\n",
            true,
            "Adobe's example",
        );
    }
}
