//! Why a file is refused, and what is wrong with a cell, in words.

use super::cell::{bad_escape, unescape};
use super::fault::Reason;
use super::limits::{
    ATTRIBUTES_MAX, HEADER_BYTES_MAX, QUOTED_BYTES_MAX, QUOTED_LINE_ENDS_MAX, ROW_BYTES_MAX,
};
use super::mistaken::Mistaken;
use crate::model::id::IdError;

/// How many characters of a cell a message quotes.
const QUOTED_CHARS_MAX: usize = 64;

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
    /// The first line of NDJSON is not right.
    #[error("line {line}: {fault}")]
    Object {
        /// The line.
        line: u32,
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

impl HeaderError {
    /// The same error; or [`Mistaken::OneLine`], if the bad header is all that the body has. `row` is the line as sent.
    pub(super) fn or_one_line(self, line: u32, row: &[u8]) -> Self {
        match self {
            // The line may hold rows.
            Self::Column { .. } | Self::NoAttribute { .. } | Self::TooManyAttributes { .. }
                if !row.ends_with(b"\n") && !row.contains(&b'\r') && row.contains(&b',') =>
            {
                Self::Mistaken { line, what: Mistaken::OneLine }
            }
            error => error,
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
        Reason::BadJson
        | Reason::Nested
        | Reason::MissingId
        | Reason::OtherId
        | Reason::UnknownName
        | Reason::DuplicateName => "it is not an object of NDJSON as the first line has it".into(),
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
