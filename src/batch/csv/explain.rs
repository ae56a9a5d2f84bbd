//! A failed row in words: what is wrong, where, and what would be right.

use super::cell::{Splitter, decode, is_rounded};
use super::error::{cell_fault, quoted};
use super::fault::{Reason, RowError};
use super::header::Header;
use super::ndjson;
use super::scan::Scan;
use crate::model::batch::{KeyError, RowForm};

impl RowError {
    /// The error in words, with the line, the column and what would be right. `row` is the row as sent, or what is
    /// left of it: if it no longer has the fault, the words are more general.
    pub fn explain(self, header: &Header, line: u32, row: &[u8]) -> String {
        let row = Scan::row(header.reading(), row);
        if header.reading().form() == RowForm::Ndjson && self.reason != Reason::LongRow {
            return ndjson::explain(self, header, line, row);
        }
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
