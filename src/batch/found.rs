//! What a batch has for some ids: rows, and bundles of rows.

use super::bundles::FoundBundle;
use super::csv::Header;
use crate::model::batch::EmptyValues;
use crate::model::bundle::Effect;
use crate::model::update::Cell;

/// One row, found by its id. A lookup, or a write that resolves pending rows, applies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRow {
    /// Which of the ids that were asked for.
    pub id: usize,
    /// Its line.
    pub line: u32,
    pub(super) offset: u32,
    /// Its cells, by the number of their attribute in the header. Removed ones are empty.
    pub(super) cells: Vec<(usize, String)>,
}

impl FoundRow {
    /// Its cells with their attributes' names.
    pub fn cells<'a>(&'a self, header: &'a Header) -> Vec<Cell<'a>> {
        let name = |attribute: usize| header.names().get(attribute).map_or("", |name| name);
        self.cells
            .iter()
            .map(|(attribute, value)| Cell { attribute: *attribute, name: name(*attribute), value })
            .collect()
    }

    /// What it does, if it can be applied.
    pub(super) fn effects(&self, empty_values: EmptyValues) -> impl Iterator<Item = Effect> {
        let removes = empty_values == EmptyValues::Remove;
        let brought = self.cells.iter().filter(move |(_, value)| removes || !value.is_empty());
        brought.filter_map(|(attribute, value)| {
            let (column, removed) = (u32::try_from(*attribute).ok()?, value.is_empty());
            let value = (!removed).then(|| value.clone());
            Some(Effect { column, line: self.line, removed, value })
        })
    }
}

/// What a batch has for some ids.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows, in line order.
    pub rows: Vec<FoundRow>,
    /// Rows that were bundled.
    pub bundles: Vec<FoundBundle>,
}

/// The place of a row in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleRow {
    /// Its line.
    pub line: u32,
    /// The bundle's first line.
    pub bundle: u32,
    /// How many of the bundle's rows come before it.
    pub row: u32,
}

/// The place of an id among those of a pending batch, in the order in which it gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdPlace {
    /// An id that is in no bundle, by its hash.
    Hash(u64),
    /// An id of a bundle, by the bundle's number.
    Bundle(usize),
}

/// Where a row that is read again came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOf {
    /// This one of the rows.
    Row(usize),
    /// In this one of the bundles, behind so many other rows.
    Bundle(usize, u32),
}
