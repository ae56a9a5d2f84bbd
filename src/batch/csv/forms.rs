//! What a header says of a line, in the form in which the rows come.

use super::cell::{Splitter, decode};
use super::header::Header;
use super::ndjson;
use super::scan::Scan;
use super::write::{Cells, write_header};
use crate::model::batch::RowForm;

impl Header {
    /// Writes the line with which a file of these rows begins.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self.reading().form() {
            RowForm::Csv => {
                write_header(out, self.key_kind(), self.names().iter().map(|name| &**name), Cells::Plain)
            }
            RowForm::Ndjson => ndjson::write_header(self, out),
        }
    }

    /// The id of a row that may be no good otherwise, if its first cell is one: a blocked one is none.
    pub fn id_of(&self, row: &[u8]) -> Option<String> {
        if self.reading().form() == RowForm::Ndjson {
            return ndjson::id_of(self, row);
        }
        let row = Scan::row(self.reading(), row);
        let (mut splitter, mut decoded) = (Splitter::new(), Vec::new());
        let text = decode(splitter.cell(row).0.ok()?, &mut decoded).ok()?;
        self.id(text).ok().map(str::to_owned)
    }
}
