//! Reads a batch file's raw characters as Adobe does: `batch_reading = "adobe"`.
//!
//! Adobe reads the body as a form first, and then as a file. So an unencoded `&` ends the batch, and a `%` that does not begin
//! an escape makes the whole batch invalid ("URL-encoding requirements" of Adobe's Bulk Profile Update API, 2026). The daemon
//! keeps only the bytes that are left here, so a later reader needs no setting (R4). A raw `+` is a space in either reading.
//! A raw `=` stays, although Adobe says that it may be misread.
//!
//! Promises: the result does not depend on the pieces in which the bytes come. Nothing is buffered.

use memchr::{memchr, memchr_iter};

/// Reads one body.
#[derive(Debug, Default)]
pub struct AsAdobe {
    /// Whether an `&` was read.
    cut: bool,
    /// How many digits the last escape still lacks.
    lacking: usize,
    bytes: u64,
}

/// A `%` in the body does not begin an escape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadEscape {
    /// The position, from 0, at which a digit of the escape is missing.
    pub at: u64,
}

impl AsAdobe {
    /// Reads the next bytes of the body, and returns those of them that belong to the file.
    pub fn push<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], BadEscape> {
        let bad = |place: usize| BadEscape { at: self.bytes.saturating_add(place as u64) };
        let digit = |place: &usize| bytes.get(*place).is_some_and(u8::is_ascii_hexdigit);
        let begun = self.lacking.min(bytes.len());
        if let Some(place) = (0..begun).find(|place| !digit(place)) {
            return Err(bad(place));
        }
        let mut lacking = self.lacking - begun;
        for percent in memchr_iter(b'%', bytes) {
            let until = (percent + 3).min(bytes.len());
            if let Some(place) = (percent + 1..until).find(|place| !digit(place)) {
                return Err(bad(place));
            }
            lacking = percent + 3 - until;
        }
        self.lacking = lacking;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.cut {
            return Ok(&[]);
        }
        let ends = memchr(b'&', bytes);
        self.cut = ends.is_some();
        Ok(ends.and_then(|ends| bytes.get(..ends)).unwrap_or(bytes))
    }

    /// Ends the body. It is an error if the body ends within an escape.
    pub fn finish(&self) -> Result<(), BadEscape> {
        if self.lacking == 0 { Ok(()) } else { Err(BadEscape { at: self.bytes }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, size: usize) -> Result<String, u64> {
        let (mut reading, mut kept) = (AsAdobe::default(), vec![]);
        for piece in body.as_bytes().chunks(size) {
            kept.extend_from_slice(reading.push(piece).map_err(|bad| bad.at)?);
        }
        reading.finish().map_err(|bad| bad.at)?;
        Ok(String::from_utf8(kept).unwrap())
    }

    /// `source` names where the case comes from.
    fn check(source: &str, body: &str, expected: Result<&str, u64>) {
        for size in 1..=body.len().max(1) {
            assert_eq!(
                read(body, size),
                expected.map(str::to_owned),
                "{source}: {body:?} in pieces of {size}"
            );
        }
    }

    #[test]
    fn raw_characters_are_what_adobe_documents() {
        const PAGE: &str = "AdobeDocs/target-dev.en profile-bulk-api.md, URL-encoding requirements";
        check(PAGE, "batch=pcId,a\n1,50%25 off %26 more\n", Ok("batch=pcId,a\n1,50%25 off %26 more\n"));
        check(PAGE, "batch=pcId,a\n1,50% off\n", Err(18));
        check(PAGE, "batch=pcId,a\n1,x\n2,50% ", Err(22));
        check(PAGE, "batch=pcId,a\n1,x\n2,b & c\n3,d\n", Ok("batch=pcId,a\n1,x\n2,b "));
        check(PAGE, "batch=pcId,a&b\n1,x\n", Ok("batch=pcId,a"));
        check(PAGE, "batch=pcId,a\n1,b+c=d\n", Ok("batch=pcId,a\n1,b+c=d\n"));
        check("a body that breaks off in an escape", "1,%4", Err(4));
        check("a body that breaks off in an escape", "1,%", Err(3));
        check("a percent sign doubled, as printf has it", "1,50%%\n", Err(5));
        check("the whole body is a form, behind the batch too", "1,x&y=50%\n", Err(9));
        check("two escapes in a row, the second at the end", "1,%C3%A9", Ok("1,%C3%A9"));
        check("nothing", "", Ok(""));
    }
}
