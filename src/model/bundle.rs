//! Applies many rows of one batch for one visitor at once. The cost depends on the number of attributes, not of rows.
//!
//! Promise: for every stored value, rules and rows, [`BundleApplier`] has the same result as
//! [`apply_rows`](super::update::apply_rows), and gives each row the same outcome. Three facts about valid rows of one
//! batch make that possible:
//!
//! - Each attribute ends with the value of the last row that names it. Replace mode also needs to know whether any row
//!   removed the attribute, because a removal reaches through the layer (R7).
//! - All values have the same seq and the same source.
//! - No row fails (R9) if the profile plus the longest value of each attribute stays within the limit. If it may not,
//!   the rows are checked one by one, by lengths alone. So they are if the profile has a value that is newer than the
//!   batch (R4), because each row tells what it left alone.

use super::batch::{BatchRules, EmptyValues, LeftAlone, Outcome};
use super::profile::{Attribute, Profile, Stored, StoredBytes};
use super::update::{Cell, done, is_newer, undo, write_row};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A summary of consecutive rows of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The line of the first row.
    pub first: u32,
    /// The line of the last row.
    pub last: u32,
    /// The number of rows.
    pub rows: u32,
    /// The bytes of the names and the longest values of all attributes that the rows set.
    pub bytes_max: u64,
}

/// The combined effect of a stretch of rows on one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The attribute's number in the header.
    pub column: u32,
    /// The last line that names the attribute.
    pub line: u32,
    /// Whether any row removes the attribute.
    pub removed: bool,
    /// The attribute's final value; `None` if the last row removes it.
    pub value: Option<String>,
}

/// Merges the rows of one id, in the order of their lines.
#[derive(Debug, Default)]
pub struct Merger {
    stretch: Option<Stretch>,
    effects: BTreeMap<u32, Merging>,
}

#[derive(Debug, Default)]
struct Merging {
    line: u32,
    removed: bool,
    value: Option<String>,
    /// The name plus the longest value, in bytes; 0 while rows only remove the attribute.
    bytes_max: u64,
}

impl Merger {
    /// Adds the next row. Returns the finished stretch if the row would push it past `bytes_max`. So a row that is
    /// longer than `bytes_max` by itself gets a stretch of its own.
    pub fn push(
        &mut self,
        line: u32,
        cells: &[(usize, &str)],
        names: &[Box<str>],
        bytes_max: u64,
    ) -> Option<(Stretch, Vec<Effect>)> {
        let named = |column: usize| names.get(column).map_or(0, |name| name.len());
        let bytes = |column: usize, value: &str| {
            if value.is_empty() { 0 } else { (named(column) + value.len()) as u64 }
        };
        let held = |column: u32| self.effects.get(&column).map_or(0, |merging| merging.bytes_max);
        let more: u64 = cells
            .iter()
            .filter_map(|(column, value)| Some(bytes(*column, value).saturating_sub(held(number(*column)?))))
            .sum();
        let full = self.stretch.is_some_and(|stretch| stretch.bytes_max + more > bytes_max);
        let before = if full { self.finish() } else { None };
        let stretch = self.stretch.get_or_insert(Stretch { first: line, last: line, rows: 0, bytes_max: 0 });
        stretch.last = line;
        stretch.rows += 1;
        for (column, value) in cells {
            let Some(numbered) = number(*column) else { continue };
            let merging = self.effects.entry(numbered).or_default();
            let came_to = merging.bytes_max;
            merging.bytes_max = came_to.max(bytes(*column, value));
            stretch.bytes_max += merging.bytes_max - came_to;
            merging.line = line;
            merging.removed |= value.is_empty();
            match (&mut merging.value, value.is_empty()) {
                (_, true) => merging.value = None,
                (Some(held), false) => {
                    held.clear();
                    held.push_str(value);
                }
                (None, false) => merging.value = Some((*value).to_owned()),
            }
        }
        before
    }

    /// Returns the last stretch; `None` if there were no rows.
    pub fn finish(&mut self) -> Option<(Stretch, Vec<Effect>)> {
        let stretch = self.stretch.take()?;
        let effects = std::mem::take(&mut self.effects).into_iter();
        let effect = |(column, merging): (u32, Merging)| Effect {
            column,
            line: merging.line,
            removed: merging.removed,
            value: merging.value,
        };
        Some((stretch, effects.map(effect).collect()))
    }
}

/// The column as a `u32`. A header never has more columns than that.
fn number(column: usize) -> Option<u32> {
    u32::try_from(column).ok()
}

/// Applies the rows of one batch to one visitor's profile.
#[derive(Debug)]
pub struct BundleApplier<'a> {
    rules: &'a BatchRules,
    names: &'a [Box<str>],
    profile: Option<Profile<'a>>,
    /// The attributes that are visible below the rows' own values, sorted by name.
    beneath: Vec<Attribute<'a>>,
    /// The visible bytes before any row is applied. Differs from `visible` where the batch merges or drops a layer
    /// (R7).
    visible_before: u64,
    /// The visible bytes after the rows applied so far.
    visible: u64,
    columns: BTreeMap<u32, Column>,
    applied: bool,
    /// What became of all rows, if they undo a batch.
    undone: Option<Outcome>,
    /// Whether any held value is newer than the batch.
    any_newer: bool,
}

/// What the rows so far did to one attribute.
#[derive(Debug, Default)]
struct Column {
    line: u32,
    removed: bool,
    value: Option<String>,
    /// The visible bytes of this attribute now.
    bytes: u64,
}

impl<'a> BundleApplier<'a> {
    /// Starts from the stored value under the visitor's canonical key. `None` if the value already contains the batch.
    pub fn begin(stored: Option<Stored<'a>>, rules: &'a BatchRules, names: &'a [Box<str>]) -> Option<Self> {
        if stored.as_ref().is_some_and(|stored| stored.applied_seq() >= rules.seq) {
            return None;
        }
        let mut profile = match stored {
            Some(Stored::Profile(profile)) if !profile.expired(rules.seq.millis(), rules.lifetime_ms) => {
                Some(profile)
            }
            _ => None,
        };
        let undone = rules.undoes.map(|of| match &mut profile {
            Some(profile) => undo(profile, rules, of),
            None => Outcome::NotFound,
        });
        let layer_goes = |profile: &Profile<'_>| {
            rules.writes_layer() && profile.layer.first().is_some_and(|held| held.seq != rules.seq)
        };
        let beneath = match &profile {
            Some(profile) if layer_goes(profile) => profile.attributes.clone(),
            Some(profile) => profile.visible(),
            None => vec![],
        };
        let any_newer = |profile: &Profile<'_>| {
            rules.as_of.is_some() && profile.visible().iter().any(|held| is_newer(profile, rules, held.name))
        };
        Some(Self {
            rules,
            names,
            any_newer: profile.as_ref().is_some_and(any_newer),
            visible_before: profile.as_ref().map_or(0, |profile| profile.visible_bytes() as u64),
            visible: beneath.iter().map(|held| held.bytes() as u64).sum(),
            profile,
            beneath,
            columns: BTreeMap::new(),
            applied: undone == Some(Outcome::Updated),
            undone,
        })
    }

    /// Whether every row gets the outcome `not_found` (R5).
    pub fn finds_nobody(&self) -> bool {
        self.profile.is_none() && !self.rules.creates
    }

    /// Whether rows of `bytes_max` bytes together fit the limit, in any order (R9), and leave nothing alone.
    pub fn takes(&self, bytes_max: u64) -> bool {
        self.undone.is_none()
            && !self.any_newer
            && self.visible.saturating_add(bytes_max) <= self.rules.max_profile_bytes as u64
    }

    /// Applies stretches that [`takes`](Self::takes) allows. They must follow the rows applied before. Returns the
    /// outcome of the first line's row; all other rows are updated.
    pub fn stretches(&mut self, effects: impl IntoIterator<Item = Effect>) -> Outcome {
        for effect in effects {
            let bytes = effect.value.as_ref().map_or(0, |value| self.bytes(effect.column, value));
            let column = self.columns.entry(effect.column).or_insert_with(|| Column {
                bytes: shown(&self.beneath, self.names, effect.column),
                ..Column::default()
            });
            column.removed |= effect.removed;
            // Several ids of one visitor come one after the other, though their lines are mixed.
            if effect.line >= column.line {
                self.visible = (self.visible + bytes).saturating_sub(column.bytes);
                *column = Column { line: effect.line, removed: column.removed, value: effect.value, bytes };
            }
        }
        self.now_applied()
    }

    /// Checks and applies one row. Each cell has its attribute's number; an empty value removes the attribute.
    pub fn row(&mut self, line: u32, cells: &[(usize, &str)]) -> Outcome {
        if let Some(undone) = self.undone {
            return undone;
        }
        let removes = self.rules.empty_values == EmptyValues::Remove;
        let named = || {
            let named = cells.iter().filter(|(_, value)| removes || !value.is_empty());
            named.filter_map(|(column, value)| Some((number(*column)?, *column, *value)))
        };
        if named().next().is_none() {
            return Outcome::Ignored;
        }
        if self.finds_nobody() {
            return Outcome::NotFound;
        }
        let mut left = LeftAlone::default();
        if self.any_newer {
            named().filter(|(column, ..)| self.leaves(*column)).for_each(|(_, column, _)| left.add(column));
        }
        let brought = || {
            let brought = named().filter(|(_, column, _)| !left.has(*column));
            brought.map(|(column, _, value)| (column, value))
        };
        if brought().next().is_none() {
            return Outcome::Newer;
        }
        let now = |column: u32| match self.columns.get(&column) {
            Some(column) => column.bytes,
            None => shown(&self.beneath, self.names, column),
        };
        let (mut more, mut less) = (0, 0);
        for (column, value) in brought() {
            more += if value.is_empty() { 0 } else { self.bytes(column, value) };
            less += now(column);
        }
        let then = (self.visible + more).saturating_sub(less);
        let held = if self.applied { self.visible } else { self.visible_before };
        if then > held.max(self.rules.max_profile_bytes as u64) {
            return Outcome::Failed;
        }
        for (numbered, value) in brought() {
            let bytes = if value.is_empty() { 0 } else { self.bytes(numbered, value) };
            let column = self.columns.entry(numbered).or_default();
            (column.line, column.bytes) = (line, bytes);
            column.removed |= value.is_empty();
            match (&mut column.value, value.is_empty()) {
                (_, true) => column.value = None,
                (Some(held), false) => {
                    held.clear();
                    held.push_str(value);
                }
                (None, false) => column.value = Some(value.to_owned()),
            }
        }
        self.visible = then;
        match self.now_applied() {
            Outcome::Updated if left != LeftAlone::default() => Outcome::UpdatedInPart(left),
            outcome => outcome,
        }
    }

    /// Whether rows leave an attribute alone, because its value is newer than the batch (R4).
    fn leaves(&self, column: u32) -> bool {
        let name = name_of(self.names, column);
        self.profile.as_ref().is_some_and(|profile| is_newer(profile, self.rules, name))
    }

    fn now_applied(&mut self) -> Outcome {
        let first = !std::mem::replace(&mut self.applied, true);
        if first && self.profile.is_none() { Outcome::Created } else { Outcome::Updated }
    }

    fn bytes(&self, column: u32, value: &str) -> u64 {
        (name_of(self.names, column).len() + value.len()) as u64
    }

    /// The names of the attributes that rows have set or removed so far.
    pub fn named(&self) -> impl Iterator<Item = &'a str> {
        self.columns.keys().map(|column| name_of(self.names, *column))
    }

    /// The value to store; `None` if the rows change nothing.
    pub fn finish(self) -> Option<StoredBytes> {
        if !self.applied {
            return None;
        }
        let Self { rules, names, profile, columns, undone, .. } = self;
        if undone.is_some() {
            return profile.map(|profile| Stored::Profile(profile).encode());
        }
        let mut profile = profile.unwrap_or_else(|| Profile::born_at(rules.seq));
        let cell =
            |column: &u32, value| Cell { attribute: *column as usize, name: name_of(names, *column), value };
        let removed = columns.iter().filter(|(_, held)| held.removed).map(|(column, _)| cell(column, ""));
        let removed: Vec<Cell<'_>> = removed.collect();
        let sets = columns.iter().filter_map(|(column, held)| Some(cell(column, held.value.as_deref()?)));
        let sets: Vec<Cell<'_>> = sets.collect();
        write_row(&mut profile, rules, &removed);
        write_row(&mut profile, rules, &sets);
        done(&mut profile, rules);
        Some(Stored::Profile(profile).encode())
    }
}

fn name_of(names: &[Box<str>], column: u32) -> &str {
    usize::try_from(column).ok().and_then(|column| names.get(column)).map_or("", |name| name)
}

/// The visible bytes of one attribute.
fn shown(beneath: &[Attribute<'_>], names: &[Box<str>], column: u32) -> u64 {
    let name = name_of(names, column);
    let at = beneath.binary_search_by(|held| held.name.cmp(name)).ok();
    at.and_then(|at| beneath.get(at)).map_or(0, |held| held.bytes() as u64)
}
