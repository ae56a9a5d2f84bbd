//! Reading an uploaded file's rows again: all of them in order, or those at known places.
//!
//! Promises: memory is bounded by one piece of the file and one row, whatever is in the file.

use super::csv::{Cells, Header, HeaderError, Parser, ROW_BYTES_MAX, Row, RowError, RowPlace, RowReader};
use crate::model::batch::RowReading;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

/// How much of the file is read at once.
const PIECE_BYTES: usize = 128 << 10;
/// How much of a row is read at first. Most rows are far shorter.
const ROW_READ_BYTES: usize = 1024;
/// Rows that begin at most so far from each other are read together.
const NEAR_BYTES: u32 = 2048;

/// Gives the file's bytes from `offset` on, piece by piece, until `each` has enough.
pub fn each_piece(
    file: &File,
    offset: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let (mut bytes, mut at) = (vec![0; PIECE_BYTES], offset);
    loop {
        let read = file.read_at(&mut bytes, at)?;
        let Some(piece) = bytes.get(..read).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        if each(piece)?.is_break() {
            return Ok(());
        }
        at += read as u64;
    }
}

/// Gives the rows of a file in their order, from the row at `from` on, until `each` has enough. `still` is called before
/// each piece is read, and says whether to go on.
pub fn each_row(
    file: &File,
    header: &Header,
    from: Option<RowPlace>,
    mut still: impl FnMut() -> io::Result<()>,
    mut each: impl FnMut(Row<'_>) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let mut parser = match from {
        None => Parser::new(header.reading()),
        Some(place) => Parser::at(header.clone(), place),
    };
    let offset = from.map_or(0, |place| u64::from(place.offset));
    // A piece has many rows, and the parser gives them all. Those behind the end are dropped.
    let mut end: Option<io::Result<()>> = None;
    let mut unless_ended = |row: Row<'_>, end: &mut Option<io::Result<()>>| {
        if end.is_none() {
            *end = match each(row) {
                Ok(ControlFlow::Continue(())) => None,
                Ok(ControlFlow::Break(())) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
        }
    };
    each_piece(file, offset, |piece| {
        still()?;
        parser.push(piece, |row| unless_ended(row, &mut end)).map_err(invalid)?;
        Ok(if end.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    still()?;
    if end.is_none() {
        parser.finish(|row| unless_ended(row, &mut end)).map_err(invalid)?;
    }
    end.unwrap_or(Ok(()))
}

/// Reads the first line of a file.
pub fn read_header(file: &File, reading: &RowReading) -> io::Result<Header> {
    past_header(file, reading)?.header().cloned().ok_or_else(|| invalid(HeaderError::Empty))
}

/// Reads the first line of a file, and gives the byte at which it begins.
pub fn read_header_at(file: &File, reading: &RowReading) -> io::Result<(Header, u32)> {
    let parser = past_header(file, reading)?;
    let placed = parser.header().cloned().zip(parser.header_place());
    placed.map(|(header, (place, _))| (header, place.offset)).ok_or_else(|| invalid(HeaderError::Empty))
}

/// Reads the first line of a file as it was sent, with its number.
pub fn read_header_sent(file: &File, reading: &RowReading) -> io::Result<(u32, Vec<u8>)> {
    let (place, len) =
        past_header(file, reading)?.header_place().ok_or_else(|| invalid(HeaderError::Empty))?;
    let mut sent = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut sent, u64::from(place.offset))?;
    Ok((place.line, sent))
}

/// A parser that has read the first line of a file.
fn past_header(file: &File, reading: &RowReading) -> io::Result<Parser> {
    let mut parser = Parser::new(reading);
    each_piece(file, 0, |piece| {
        parser.push(piece, |_| ()).map_err(invalid)?;
        Ok(if parser.header().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if parser.header().is_none() {
        parser.finish(|_| ()).map_err(invalid)?;
    }
    Ok(parser)
}

fn invalid(error: HeaderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Reads the bytes from a row's beginning to behind its end.
pub fn read_row(
    file: &File,
    header: &Header,
    offset: u32,
    reader: &mut RowReader,
    bytes: &mut Vec<u8>,
) -> io::Result<u32> {
    let mut length = ROW_READ_BYTES;
    loop {
        bytes.resize(length, 0);
        let read = read_full(file, u64::from(offset), bytes)?;
        bytes.truncate(read);
        let row = reader.read(header, bytes);
        if read < length || !row.open || length > ROW_BYTES_MAX {
            return Ok(row.len);
        }
        length *= 4;
    }
}

/// Gives the rows at these places, one after the other. The places ascend.
pub fn each_row_at(
    file: &File,
    header: &Header,
    places: &[RowPlace],
    mut each: impl FnMut(RowPlace, Result<Cells<'_>, RowError>) -> io::Result<()>,
) -> io::Result<()> {
    let (mut reader, mut bytes, mut one) = (RowReader::new(), vec![], vec![]);
    let mut rest = places;
    while let Some(first) = rest.first() {
        let behind = |place: &RowPlace| place.offset.saturating_sub(first.offset) as usize;
        let near = |pair: &&[RowPlace]| {
            let [before, place] = pair else { return false };
            place.offset.saturating_sub(before.offset) <= NEAR_BYTES && behind(place) <= PIECE_BYTES
        };
        let together = 1 + rest.windows(2).take_while(near).count();
        let (now, later) = rest.split_at_checked(together).unwrap_or((rest, &[]));
        let length = now.last().map_or(0, behind) + ROW_READ_BYTES;
        bytes.resize(length, 0);
        let read = read_full(file, u64::from(first.offset), &mut bytes)?;
        bytes.truncate(read);
        for place in now {
            let row = bytes.get(behind(place)..).unwrap_or_default();
            let found = reader.read(header, row);
            if !found.open || read < length {
                each(*place, found.content)?;
            } else {
                read_row(file, header, place.offset, &mut reader, &mut one)?;
                each(*place, reader.read(header, &one).content)?;
            }
        }
        rest = later;
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends. Gives how many bytes it read.
pub(super) fn read_full(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
