//! The macro that makes one struct of a group of settings, and what their values are taken from.
//!
//! Promises: a declaration says everything about its setting once. The struct's field, the default, the parser with its
//! bounds, the flag, the variable, the key of the file, what `SIGHUP` may change, and the line of the docs follow from it.

use super::declared::{Changes, Declared};
use super::error::{ConfigError, Origin};
use super::file::File;
use super::flags::Flags;
use super::value::{Setting, Written};

/// A struct that the macro [`settings`] made.
pub(super) trait Group: Sized {
    /// Its settings, in the order of the docs.
    const SETTINGS: &'static [Declared];

    /// Takes what is given, and the rest from `base`.
    fn resolve(given: &Given<'_>, base: &Self) -> Result<Self, ConfigError>;

    /// These settings, with those that may change while the daemon runs as `next` has them.
    fn following(&self, next: &Self) -> Self;

    /// The keys of the settings that `next` has otherwise, and when each counts.
    fn changed(&self, next: &Self) -> Vec<(&'static str, Changes)>;
}

/// What is given for a group: by flags and variables, and in one table of the file.
pub(super) struct Given<'a> {
    /// None for a table that has no flags.
    pub(super) flags: Option<&'a Flags>,
    pub(super) table: Option<&'a toml::de::DeTable<'a>>,
    pub(super) file: &'a File,
}

impl Given<'_> {
    /// The value of a setting; none if nothing gives it. A flag or a variable comes before the file.
    pub(super) fn get<T: Setting>(&self, key: &'static str) -> Result<Option<T>, ConfigError> {
        let Some(written) = self.written(key) else { return Ok(None) };
        let value = T::read(written).map_err(|wrong| ConfigError::Wrong {
            origin: wrong.at.map_or(Origin::Flag(key), |at| self.file.line(at)),
            what: wrong.what,
        });
        value.map(Some)
    }

    /// Where a setting is given; none if nothing gives it.
    pub(super) fn origin(&self, key: &'static str) -> Option<Origin> {
        let written = self.written(key)?;
        Some(written.at.map_or(Origin::Flag(key), |at| self.file.line(at)))
    }

    fn written(&self, key: &'static str) -> Option<Written<'_>> {
        let flag = self.flags.and_then(|flags| flags.get(key)).map(Written::flag);
        flag.or_else(|| self.table.and_then(|table| table.get(key)).map(Written::from))
    }
}

/// Makes a struct of settings. An item is
///
/// ```text
/// /// What it does: the text of `--help`, of the docs and of the example file.
/// "key" => field: Type as TypeThatReads<MIN, MAX> = default, "VALUE NAME", SetIn, Changes;
/// ```
///
/// `Type` is what the reading type gives, such as `Duration` for `Number<Seconds, 1, 3600>`. The compiler computes the
/// default, so a default out of bounds does not compile.
macro_rules! settings {
    (
        $(#[$about:meta])+
        pub struct $Group:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:literal => $field:ident: $Field:ty as $Reads:ty = $default:expr,
                    $value_name:literal, $set_in:ident, $changes:ident;
            )+
        }
    ) => {
        $(#[$about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Group {
            $(
                $(#[doc = $doc])+
                pub $field: $Field,
            )+
        }

        impl Default for $Group {
            fn default() -> Self {
                Self { $($field: <$Reads as Setting>::value(const { $default }),)+ }
            }
        }

        impl Group for $Group {
            const SETTINGS: &'static [Declared] = &[$(
                Declared {
                    key: $key,
                    doc: concat!($($doc),+),
                    value_name: $value_name,
                    set_in: SetIn::$set_in,
                    changes: Changes::$changes,
                    kind: <$Reads as Setting>::KIND,
                    expected: <$Reads as Setting>::expected,
                    default: || <$Reads as Setting>::shown(&const { $default }),
                    check: |written| <$Reads as Setting>::read(written).map(drop),
                },
            )+];

            fn resolve(given: &Given<'_>, base: &Self) -> Result<Self, ConfigError> {
                Ok(Self {$(
                    $field: given.get::<$Reads>($key)?.map_or_else(|| base.$field.clone(), Setting::value),
                )+})
            }

            fn following(&self, next: &Self) -> Self {
                Self {$(
                    $field: match Changes::$changes {
                        Changes::AtSighup => next.$field.clone(),
                        Changes::AtStart => self.$field.clone(),
                    },
                )+}
            }

            fn changed(&self, next: &Self) -> Vec<(&'static str, Changes)> {
                let all = [$((self.$field != next.$field).then_some(($key, Changes::$changes)),)+];
                all.into_iter().flatten().collect()
            }
        }
    };
}

pub(super) use settings;
