//! What can be wrong with a row.

use crate::model::batch::KeyError;
use crate::model::id::IdError;

/// Why a row is failed, and at which column. [`RowError::explain`] puts it into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowError {
    /// What is wrong.
    pub reason: Reason,
    /// Where: 0 is the key, c the attribute `names()[c - 1]`; [`u16::MAX`] stands for any column beyond. In NDJSON, 0 is the line,
    /// and c the c-th member of its object.
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
    /// The row has more than [`ROW_BYTES_MAX`](super::ROW_BYTES_MAX) bytes.
    LongRow = 11,
    /// The key is no id, but what stands where there is none (`blocked_ids`).
    BlockedId = 12,
    /// A line of NDJSON is not a JSON object.
    BadJson = 13,
    /// A value of NDJSON is an object or an array.
    Nested = 14,
    /// A line of NDJSON has no id of the batch's kind.
    MissingId = 15,
    /// A line of NDJSON has an id of another kind.
    OtherId = 16,
    /// A line of NDJSON has a name that the first line lacks.
    UnknownName = 17,
    /// A line of NDJSON has a name twice.
    DuplicateName = 18,
}

impl RowError {
    pub(super) fn at(column: usize, reason: Reason) -> Self {
        Self { reason, column: u16::try_from(column).unwrap_or(u16::MAX) }
    }
}

impl Reason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 18] = [
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
        Self::BadJson,
        Self::Nested,
        Self::MissingId,
        Self::OtherId,
        Self::UnknownName,
        Self::DuplicateName,
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
            Self::BadJson => "bad_json",
            Self::Nested => "nested_value",
            Self::MissingId => "missing_id",
            Self::OtherId => "other_id",
            Self::UnknownName => "unknown_name",
            Self::DuplicateName => "duplicate_name",
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
