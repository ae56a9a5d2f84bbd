//! A setting as it is declared: what the parser, `--help`, the docs and the example file know of it.

use super::value::{DefaultText, Kind, Written, Wrong};

/// A setting as it is declared.
pub(super) struct Declared {
    /// Its key in the file. The flag is the key with `-` for `_`; the variable is `PROFILED_` and the key in capitals.
    pub(super) key: &'static str,
    /// What it does, for `--help`, the docs and the example file.
    pub(super) doc: &'static str,
    /// What its value is called in `--help`.
    pub(super) value_name: &'static str,
    /// Where it may be set.
    pub(super) set_in: SetIn,
    /// When a new value counts.
    pub(super) changes: Changes,
    /// Whether it takes one value, a list, or may stand alone as a flag.
    pub(super) kind: Kind,
    /// What it takes, in words.
    pub(super) expected: fn() -> String,
    /// Its default.
    pub(super) default: fn() -> DefaultText,
    /// Says what is wrong with a value.
    pub(super) check: fn(Written<'_>) -> Result<(), Wrong>,
}

/// Where a setting may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetIn {
    /// By a flag, by a variable, and in the file. A setting of `[clients.NAME]` is then set for all clients at the top
    /// of the file, and for one in its table.
    Anything,
    /// Only in its table of the file.
    Table,
}

/// When a new value of a setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changes {
    /// When the daemon gets a `SIGHUP`.
    AtSighup,
    /// When the daemon starts.
    AtStart,
}

impl Declared {
    /// What it does, on one line.
    pub(super) fn text(&self) -> &'static str {
        self.doc.trim()
    }
}
