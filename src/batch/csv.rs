//! The batch file: bytes in, rows out. Pure: it neither reads nor writes nor looks at the clock.
//!
//! Promises: whatever the bytes and wherever they are cut, [`Parser`] never panics, gives the same rows, and holds at most
//! one row of at most [`ROW_BYTES_MAX`] bytes and [`QUOTED_BYTES_MAX`] bytes of the lines behind it; its time grows with
//! the bytes, whatever they are. [`RowReader`], given the bytes from a row's offset on, gives again what the parser gave
//! for that row.
//!
//! The format (docs/batch-file.md), in the order in which a row is taken apart:
//!
//! 1. A row ends at a line feed outside quotes, or with the body. Carriage returns before that end belong to it; one
//!    anywhere else outside quotes fails the row: to read it as text or as the end of a row would be a guess.
//!    A line of nothing but spaces and commas is skipped, not a row; so is a line with a Ctrl-Z alone at the file's end.
//! 2. Cells are split at commas. Raw spaces around a cell are dropped. A cell that then begins with a quote is quoted
//!    as in RFC 4180 (`csv-core` reads it): spaces, commas and line feeds within the quotes stay, and nothing but
//!    spaces may follow the closing quote. A quote further on in a cell is an ordinary character.
//! 3. A quote is bad if none closes it so, or only beyond [`QUOTED_LINE_ENDS_MAX`] line ends, or beyond
//!    [`QUOTED_BYTES_MAX`] bytes where it takes in a line end. It fails the row, which ends with the line that the quote
//!    is on; the next line is read as a row.
//! 4. Each cell, quoted or not, is form-decoded once (`+` is a space, `%XX` a byte) and must then be UTF-8.
//! 5. The first cell, without what nobody sees around it, must be an id of the header's kind, and none that the client
//!    blocks. A row may have fewer cells than the header; cells beyond the
//!    names of the header must be empty, and so may trailing columns of the header be. Empty values are ignored (R6).
//!
//! What fails a row is that it is too long, else a bad quote, else the first fault from left to right.
//!
//! All of this is how batches are read that are accepted now. A batch is read as it was when it was accepted
//! ([`RowReading`](crate::model::batch::RowReading)): whatever changes what a row comes to needs rules of its own there, and
//! a line in `tests/before`.
//!
//! NDJSON is another form of the same rows: `ndjson` has its rules. A file of ids has one column: `ids` has its rules.
//!
//! Advice for whoever changes it: `scan` alone says where a row ends, and both `reader` (a whole file, in any pieces)
//! and `row` (one row again, at its offset) ask it, so that they cannot disagree. `cell` takes apart what `scan` found,
//! `header` and `row` check what it says, `fault` lists what can be wrong with a row, `error` and `explain` have the
//! words for it, `mistaken` those for a body that is something else. Each quirk is a line of a table in `tests`, and
//! runs whole, byte by byte, at random cuts and once more at its offset: add the line first.

mod cell;
mod error;
mod explain;
mod fault;
mod forms;
mod header;
mod ids;
mod limits;
mod mistaken;
mod ndjson;
mod reader;
mod row;
mod scan;
mod values;
pub mod write;

#[cfg(test)]
mod tests;

pub use cell::{bad_escape, is_rounded};
pub use error::HeaderError;
pub use fault::{Reason, RowError};
pub use header::Header;
pub use ids::{BadId, BadIds, IdFile, IdFileError, Ids};
pub use limits::{ATTRIBUTES_MAX, HEADER_BYTES_MAX, QUOTED_BYTES_MAX, QUOTED_LINE_ENDS_MAX, ROW_BYTES_MAX};
pub use mistaken::Mistaken;
pub use ndjson::{any_loose_text, with_values_gone};
pub use reader::Parser;
pub use row::{Cells, Reread, Row, RowPlace, RowReader, TakenIn};
