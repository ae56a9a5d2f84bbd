//! Reads a large JSON body for the parser, and stops where the parser would need much memory: at a string, or at a nesting, that
//! is larger than a body of the usual size has. All other bytes pass as they are.
//!
//! Pure: the source of the bytes comes in.

use std::io::{self, Read};

use crate::http::adobe::site::BODY_BYTES_MAX;
use crate::http::error::HttpError;

/// The longest string, as it stands in the body: the parser has a copy of one that is used.
const STRING_BYTES_MAX: u64 = BODY_BYTES_MAX as u64;
/// The deepest nesting, beyond which no call goes by far: the parser notes a byte or more for each level.
const DEPTH_MAX: u32 = 1_000;

/// The bytes of `source`, until a limit is passed.
pub(super) struct Bounded<R> {
    source: R,
    bytes: u64,
    bytes_max: u64,
    depth: u32,
    /// Where the string began in which the next byte is.
    string: Option<u64>,
    escaped: bool,
    fault: Option<HttpError>,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(source: R, bytes_max: u64) -> Self {
        Self { source, bytes: 0, bytes_max, depth: 0, string: None, escaped: false, fault: None }
    }

    /// Which limit was passed, if one was.
    pub(super) fn fault(self) -> Option<HttpError> {
        self.fault
    }

    fn check(&mut self, piece: &[u8]) -> Result<(), HttpError> {
        for byte in piece {
            self.bytes += 1;
            let at = self.bytes;
            match (self.string, byte) {
                (Some(_), _) if self.escaped => self.escaped = false,
                (Some(_), b'\\') => self.escaped = true,
                (Some(_), b'"') => self.string = None,
                (Some(began), _) if at - began > STRING_BYTES_MAX => {
                    return Err(HttpError::TooLarge(format!(
                        "the string that begins at byte {began} of the body has more than {STRING_BYTES_MAX} bytes: \
                         send shorter ones"
                    )));
                }
                (Some(_), _) => {}
                (None, b'"') => self.string = Some(at),
                (None, b'{' | b'[') => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(HttpError::Wrong(format!(
                            "the body is nested more than {DEPTH_MAX} deep at byte {at}: send objects and lists that \
                             are nested less"
                        )));
                    }
                }
                (None, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                (None, _) => {}
            }
        }
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(room)?;
        match self.check(room.get(..read).unwrap_or_default()) {
            Ok(()) => Ok(read),
            Err(fault) => {
                self.fault = Some(fault);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

/// What is said of a body of more than so many bytes.
pub(super) fn too_large(bytes_max: u64) -> HttpError {
    HttpError::TooLarge(format!(
        "the body has more than {bytes_max} bytes (60 MB), the most that a call may have: send its mboxes or \
         notifications in several calls"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        for piece in [1, 1 << 16] {
            let mut bounded = Bounded::new(body.as_bytes(), 3 << 20);
            let mut seen = vec![];
            let mut room = vec![0; piece];
            while let Ok(read @ 1..) = bounded.read(&mut room) {
                seen.extend_from_slice(&room[..read]);
            }
            let fault = bounded.fault().map(|fault| fault.to_string());
            let message = fault.as_deref().unwrap_or_default();
            assert_eq!(fault.is_some(), expected.is_some(), "{message}");
            assert!(message.contains(expected.unwrap_or_default()), "{message}");
            assert!(fault.is_some() || seen == body.as_bytes());
        }
    }

    #[test]
    fn long_strings_deep_nesting_and_too_many_bytes_end_it_and_nothing_else_does() {
        let string = |bytes: usize| format!("[\"{}\"]", "x".repeat(bytes));
        check(&string(1 << 20), None);
        check(
            &string((1 << 20) + 1),
            Some("the string that begins at byte 2 of the body has more than 1048576"),
        );
        check(&format!("[\"{}\"]", "\\\"".repeat(1 << 19)), None);
        check(&format!("[\"{}x\"]", "\\\"".repeat(1 << 19)), Some("the string"));
        check(&"[]".repeat(5_000), None);
        check(&format!("\"{}\"", "[".repeat(5_000)), None);
        check(&"[".repeat(1_000), None);
        check(&"[{".repeat(501), Some("nested more than 1000 deep at byte 1001"));
        check(&" ".repeat(3 << 20), None);
        check(&" ".repeat((3 << 20) + 1), Some("more than 3145728 bytes"));
    }
}
