//! What can be wrong with a file or a row, and the words for it: what is wrong, where, and what would be right.

use super::cell::{Splitter, bad_escape, decode, is_rounded, unescape};
use super::header::Header;
use super::mistaken::Mistaken;
use super::scan::{QUOTED_BYTES_MAX, QUOTED_LINE_ENDS_MAX, Scan};
use super::{ATTRIBUTES_MAX, HEADER_BYTES_MAX, ROW_BYTES_MAX};
use crate::model::batch::KeyError;
use crate::model::id::IdError;

/// How many characters of a cell a message quotes.
const QUOTED_CHARS_MAX: usize = 64;

/// Why a row is failed, and at which column. [`RowError::explain`] puts it into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowError {
    /// What is wrong.
    pub reason: Reason,
    /// Where: 0 is the key, c the attribute `names()[c - 1]`; [`u16::MAX`] stands for any column beyond.
    pub column: u16,
}

/// What can be wrong with a row. The codes are stored and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The key is empty.
    EmptyId = 1,
    /// The key is longer than its kind of id may be.
    LongId = 2,
    /// The key has a character that its kind of id must not hold.
    ForbiddenInId = 3,
    /// The key is a `pcId` with a dot that no location hint follows.
    Dot = 4,
    /// A `%` that two hexadecimal digits don't follow.
    BadEscape = 5,
    /// A cell is not UTF-8 once decoded.
    BadUtf8 = 6,
    /// A cell beyond the header's columns is not empty.
    ExtraCell = 7,
    /// Something other than spaces follows a closing quote.
    TextAfterQuote = 8,
    /// A quote that opens is not closed at the end of a cell, within as many lines and bytes as it may take in.
    UnclosedQuote = 9,
    /// A carriage return within a cell that has no quotes.
    BareReturn = 10,
    /// The row has more than [`ROW_BYTES_MAX`] bytes.
    LongRow = 11,
    /// The key is no id, but what stands where there is none (`blocked_ids`).
    BlockedId = 12,
}

/// Why a batch file is refused as a whole. Says where and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Nothing but blank lines.
    #[error("the body is empty: its first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\"")]
    Empty,
    /// A header alone.
    #[error("the body has a header but no row: each line after the first must hold an id and its values")]
    NoRow,
    /// The first cell doesn't start with `batch=`.
    #[error(
        "line {line}: the first line must begin with \"batch=pcId,\" or \"batch=thirdPartyId,\", not with {found}"
    )]
    Start {
        /// The header's line.
        line: u32,
        /// The first cell, quoted.
        found: String,
    },
    /// The body is something else, which is known.
    #[error("line {line}: {what}")]
    Mistaken {
        /// The header's line.
        line: u32,
        /// What it is.
        what: Mistaken,
    },
    /// The key is an ECID.
    #[error(
        "line {line}: an ECID (marketingCloudVisitorId) cannot be the key of a batch: use pcId or thirdPartyId"
    )]
    EcidKey {
        /// The header's line.
        line: u32,
    },
    /// The key is none that is known.
    #[error(
        "line {line}: {found} cannot be the key of a batch: use pcId (or tntId, mboxPC) or thirdPartyId \
         (or mbox3rdPartyId, mboxThirdPartyId), upper and lower case as here, then a comma"
    )]
    UnknownKey {
        /// The header's line.
        line: u32,
        /// What stands after `batch=`, quoted.
        found: String,
    },
    /// The key stands alone.
    #[error(
        "line {line}: the header names no attribute: the key must be followed by a comma and at least one name"
    )]
    NoAttribute {
        /// The header's line.
        line: u32,
    },
    /// An attribute's name, or the cell it is in, is not right.
    #[error("line {line}: column {column}: {fault}")]
    Column {
        /// The header's line.
        line: u32,
        /// The column; the key's is 1.
        column: usize,
        /// What is wrong with it, and what would be right.
        fault: String,
    },
    /// The header has more than [`HEADER_BYTES_MAX`] bytes.
    #[error(
        "line {line}: the header has more than {HEADER_BYTES_MAX} bytes; if these are all lines of the file, their ends were \
         lost on the way: curl -d @FILE takes them away, send it with curl --data-binary @FILE"
    )]
    TooLong {
        /// The header's line.
        line: u32,
    },
    /// The header has more than [`ATTRIBUTES_MAX`] attributes.
    #[error("line {line}: the header names more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes {
        /// The header's line.
        line: u32,
    },
}

impl RowError {
    pub(super) fn at(column: usize, reason: Reason) -> Self {
        Self { reason, column: u16::try_from(column).unwrap_or(u16::MAX) }
    }

    /// The error in words, with the line, the column and what would be right. `row` is the row as sent, or what is
    /// left of it: if it no longer has the fault, the words are more general.
    pub fn explain(self, header: &Header, line: u32, row: &[u8]) -> String {
        let row = Scan::row(header.reading(), row);
        let column = usize::from(self.column);
        let mut splitter = Splitter::new();
        let mut decoded = Vec::new();
        let cell = splitter.nth_cell(row, column).unwrap_or_default();
        let what = match self.reason {
            Reason::LongRow => return format!("line {line}: {}", cell_fault(self.reason, cell)),
            Reason::EmptyId | Reason::LongId | Reason::ForbiddenInId | Reason::Dot | Reason::BlockedId => {
                let kind = header.key_kind();
                let found = decode(cell, &mut decoded).ok();
                let found = found.map(|text| (header.reading().key(text), header.id(text)));
                return match found {
                    Some((text, Err(KeyError::Blocked))) if self.reason == Reason::BlockedId => format!(
                        "line {line}: {} is no {} but what stands where there is none (blocked_ids): leave the row out, or name \
                         the visitor",
                        quoted(text.as_bytes()),
                        kind.name()
                    ),
                    Some((text, Err(KeyError::Illegal(error))))
                        if Reason::from(KeyError::Illegal(error)) == self.reason =>
                    {
                        let rounded = if is_rounded(text) {
                            "; it looks like a number that a spreadsheet has rounded: export the ids as text"
                        } else {
                            ""
                        };
                        format!(
                            "line {line}: {} is not a {}: {error}{rounded}",
                            quoted(text.as_bytes()),
                            kind.name()
                        )
                    }
                    _ => format!(
                        "line {line}: the {} is not right: {}",
                        kind.name(),
                        cell_fault(self.reason, cell)
                    ),
                };
            }
            Reason::ExtraCell => format!(
                "a value stands in a column that has no name (the header names {}): a comma in a value is quoted or \
                 written %2C",
                header.names().len() + 1
            ),
            _ => cell_fault(self.reason, cell),
        };
        let name = match column.checked_sub(1) {
            None => Some(header.key_kind().name()),
            Some(attribute) => header.names().get(attribute).map(|name| &**name),
        };
        match name {
            Some(name) => format!("line {line}: column {} ({name}): {what}", column + 1),
            None => format!("line {line}: column {}: {what}", column + 1),
        }
    }
}

impl Reason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 12] = [
        Self::EmptyId,
        Self::LongId,
        Self::ForbiddenInId,
        Self::Dot,
        Self::BadEscape,
        Self::BadUtf8,
        Self::ExtraCell,
        Self::TextAfterQuote,
        Self::UnclosedQuote,
        Self::BareReturn,
        Self::LongRow,
        Self::BlockedId,
    ];

    /// The byte that stands for the reason in stored bytes.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason a stored byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// A word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EmptyId => "empty_id",
            Self::LongId => "long_id",
            Self::ForbiddenInId => "forbidden_in_id",
            Self::Dot => "dot_in_id",
            Self::BadEscape => "bad_escape",
            Self::BadUtf8 => "bad_utf8",
            Self::ExtraCell => "extra_cell",
            Self::TextAfterQuote => "text_after_quote",
            Self::UnclosedQuote => "unclosed_quote",
            Self::BareReturn => "bare_return",
            Self::LongRow => "long_row",
            Self::BlockedId => "blocked_id",
        }
    }
}

impl From<KeyError> for Reason {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Illegal(IdError::Empty) => Self::EmptyId,
            KeyError::Illegal(IdError::TooLong { .. }) => Self::LongId,
            KeyError::Illegal(IdError::Forbidden(_)) => Self::ForbiddenInId,
            KeyError::Illegal(IdError::Dot) => Self::Dot,
            KeyError::Blocked => Self::BlockedId,
        }
    }
}

/// What is wrong with a cell, in words; `cell` is its text before decoding.
pub(super) fn cell_fault(reason: Reason, cell: &[u8]) -> String {
    match reason {
        Reason::EmptyId => "it is empty".into(),
        Reason::LongId => "it is too long".into(),
        Reason::ForbiddenInId => "it has a character that is not allowed".into(),
        Reason::Dot => IdError::Dot.to_string(),
        Reason::BadEscape => match bad_escape(cell) {
            Some(escape) => {
                format!("{} is not a valid escape: a percent sign is written %25", quoted(escape))
            }
            None => "an escape is not valid: a percent sign is written %25".into(),
        },
        Reason::BadUtf8 => {
            let mut decoded = Vec::new();
            match unescape(cell, &mut decoded) {
                Ok(()) if !decoded.is_empty() => format!("{} is not UTF-8", quoted(&decoded)),
                _ => "it is not UTF-8".into(),
            }
        }
        Reason::ExtraCell => "a value stands in a column that has no name".into(),
        Reason::TextAfterQuote => {
            "text follows the closing quote: within quotes a quote is written twice".into()
        }
        Reason::UnclosedQuote => format!(
            "no quote closes the one that opens here, at the end of a cell and within {QUOTED_LINE_ENDS_MAX} line ends \
             and {} KiB: a quote that begins a value is written %22",
            QUOTED_BYTES_MAX >> 10
        ),
        Reason::BareReturn => {
            "a carriage return stands alone: lines end in LF or CRLF, and in a value it is quoted \
                               or written %0D"
                .into()
        }
        Reason::LongRow => format!("the row has more than {ROW_BYTES_MAX} bytes"),
        Reason::BlockedId => {
            "it is no id but what stands where there is none (blocked_ids): leave the row out, or name the visitor".into()
        }
    }
}

/// Text for a message: in quotes, on one line, and not too long.
pub(super) fn quoted(text: &[u8]) -> String {
    let mut out = String::from("\"");
    let mut left = QUOTED_CHARS_MAX;
    for chunk in text.utf8_chunks() {
        let escaped = chunk.valid().chars().map(|c| match c {
            '"' | '\'' | '\\' => String::from(c),
            _ => c.escape_debug().to_string(),
        });
        for piece in escaped.chain(chunk.invalid().iter().map(|byte| byte.escape_ascii().to_string())) {
            if left == 0 {
                return out + "…\"";
            }
            left -= 1;
            out += &piece;
        }
    }
    out + "\""
}
