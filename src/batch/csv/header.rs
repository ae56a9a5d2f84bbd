//! The first line of a batch file.

use std::collections::HashMap;

use super::cell::{Splitter, decode, without_line_end};
use super::error::{HeaderError, cell_fault, quoted};
use super::fault::RowError;
use super::limits::ATTRIBUTES_MAX;
use super::mistaken::Mistaken;
use crate::model::batch::{KeyError, RowForm, RowReading};
use crate::model::id::IdKind;
use crate::model::profile::{NAME_CHARS_MAX, NameFault, attribute_name_fault};

/// How the ECID is called where it can be named; none of these can key a batch (R1).
pub(super) const ECID_NAMES: [&str; 5] = ["marketingCloudVisitorId", "mboxMCGVID", "ECID", "MCID", "MID"];

/// The first line of a batch file: what its rows are keyed by, and the attributes its columns set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    key_kind: IdKind,
    names: Vec<Box<str>>,
    /// Where each name is. Empty in CSV, whose cells have no names.
    columns: HashMap<Box<str>, usize>,
    reading: RowReading,
}

impl Header {
    /// A header from its parts, as they were stored.
    pub fn from_parts(key_kind: IdKind, names: Vec<Box<str>>, reading: RowReading) -> Self {
        let named = names.iter().enumerate().filter(|_| reading.form() == RowForm::Ndjson);
        let columns = named.map(|(column, name)| (name.clone(), column)).collect();
        Self { key_kind, names, columns, reading }
    }

    /// By which rules the rows are read.
    pub fn reading(&self) -> &RowReading {
        &self.reading
    }

    /// The id that a key is, if it is one.
    pub(super) fn id<'t>(&self, key: &'t str) -> Result<&'t str, KeyError> {
        self.reading.check(self.key_kind, key)
    }

    /// The kind of id in the first column.
    pub fn key_kind(&self) -> IdKind {
        self.key_kind
    }

    /// The attributes' names, decoded, in column order: column c of the file is `names()[c - 1]`.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Where the attribute of this name is among the names.
    pub(super) fn column_of(&self, name: &str) -> Option<usize> {
        self.columns.get(name).copied()
    }

    pub(super) fn parse(
        line: u32,
        row: &[u8],
        bad_quote: Option<RowError>,
        reading: &RowReading,
    ) -> Result<Self, HeaderError> {
        let parsed = Self::parse_line(line, row, bad_quote, reading);
        // A quote that is open takes in line ends.
        parsed.map_err(|error| if bad_quote.is_some() { error } else { error.or_one_line(line, row) })
    }

    fn parse_line(
        line: u32,
        row: &[u8],
        bad_quote: Option<RowError>,
        reading: &RowReading,
    ) -> Result<Self, HeaderError> {
        let fault = |column: usize, fault: String| HeaderError::Column { line, column: column + 1, fault };
        // What was accepted before is a batch, whatever it looks like.
        if let Some(what) = Mistaken::of(row).filter(|_| !reading.is_before()) {
            return Err(HeaderError::Mistaken { line, what });
        }
        if let Some(RowError { reason, column }) = bad_quote {
            return Err(fault(usize::from(column), cell_fault(reason, b"")));
        }
        let mut splitter = Splitter::new();
        let mut decoded = Vec::new();
        let mut key_kind = None;
        let mut names: Vec<Box<str>> = Vec::new();
        let mut columns: HashMap<Box<str>, usize> = HashMap::new();
        let mut nameless = None;
        let mut rest = Some(without_line_end(row));
        for column in 0.. {
            let Some(from) = rest else { break };
            let (cell, after) = splitter.cell(from);
            rest = after;
            let cell = cell.map_err(|reason| fault(column, cell_fault(reason, b"")))?;
            let text =
                decode(cell, &mut decoded).map_err(|reason| fault(column, cell_fault(reason, cell)))?;
            if key_kind.is_none() {
                key_kind = Some(key(line, text)?);
                continue;
            }
            // A spreadsheet pads with empty columns, which hold nothing; but only behind all others.
            if text.is_empty() {
                nameless.get_or_insert(column);
                continue;
            }
            if let Some(column) = nameless {
                return Err(fault(column, "the attribute has no name, and others follow".into()));
            }
            if names.len() == ATTRIBUTES_MAX {
                return Err(HeaderError::TooManyAttributes { line });
            }
            check_name(text).map_err(|wrong| fault(column, wrong))?;
            if let Some(earlier) = columns.insert(Box::from(text), column + 1) {
                let wrong =
                    format!("the attribute {} is already in column {earlier}", quoted(text.as_bytes()));
                return Err(fault(column, wrong));
            }
            names.push(text.into());
        }
        match key_kind {
            Some(key_kind) if !names.is_empty() => Ok(Self::from_parts(key_kind, names, reading.clone())),
            _ => Err(HeaderError::NoAttribute { line }),
        }
    }
}

fn key(line: u32, text: &str) -> Result<IdKind, HeaderError> {
    let Some(name) = text.strip_prefix("batch=") else {
        return Err(HeaderError::Start { line, found: quoted(text.as_bytes()) });
    };
    if let Some(kind) = kind_named(name) {
        return Ok(kind);
    }
    if ECID_NAMES.iter().any(|ecid| ecid.eq_ignore_ascii_case(name)) {
        return Err(HeaderError::EcidKey { line });
    }
    match Mistaken::of_key(name, |name| kind_named(name).is_some()) {
        Some(what) => Err(HeaderError::Mistaken { line, what }),
        None => Err(HeaderError::UnknownKey { line, found: quoted(name.as_bytes()) }),
    }
}

/// The kind of id that a key of this name is.
pub(super) fn kind_named(name: &str) -> Option<IdKind> {
    match name {
        "pcId" | "tntId" | "mboxPC" => Some(IdKind::Pc),
        "thirdPartyId" | "mbox3rdPartyId" | "mboxThirdPartyId" => Some(IdKind::ThirdParty),
        _ => None,
    }
}

/// What is wrong with the name of an attribute.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let Some(fault) = attribute_name_fault(name) else { return Ok(()) };
    let name = quoted(name.as_bytes());
    Err(match fault {
        NameFault::Empty => "the attribute has no name".into(),
        NameFault::Blank => "the attribute's name is blank".into(),
        NameFault::TooLong => {
            format!("the attribute's name {name} has more than {NAME_CHARS_MAX} characters")
        }
        NameFault::Prefixed => {
            format!("in a batch an attribute is named without the prefix \"profile.\", not {name}")
        }
    })
}
