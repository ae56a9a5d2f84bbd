//! The file of settings: finds it, reads it as TOML, and says on which line something is wrong.
//!
//! Promises: a key that no setting has is an error that names its line, and so is a value that its setting does not take,
//! even if a flag overrides that value.

use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::declared::Declared;
use super::error::{ConfigError, Origin};
use super::value::Written;

/// The file: where it is and what it contains. If it does not exist and need not exist, it is empty.
pub(super) struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads the file that was named, else the default one if it exists.
    pub(super) fn read(named: Option<&Path>, default: &Path) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(default).to_path_buf();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => Vec::new(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ConfigError::Missing(path)),
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                let origin = Origin::Line(path, line(e.as_bytes(), at));
                Err(ConfigError::Wrong { origin, what: "this is not UTF-8: save the file as UTF-8".into() })
            }
        }
    }

    /// The file as TOML.
    pub(super) fn parse(&self) -> Result<DeTable<'_>, ConfigError> {
        let document = DeTable::parse(&self.text);
        document
            .map(Spanned::into_inner)
            .map_err(|e| self.wrong(e.span().map_or(0, |span| span.start), e.message()))
    }

    /// Checks the keys and values of a table. `tables` are the keys that hold tables of their own; `elsewhere` says where a
    /// key belongs that is unknown here.
    pub(super) fn check(
        &self,
        table: &DeTable<'_>,
        known: &[&Declared],
        tables: &[&str],
        elsewhere: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<(), ConfigError> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            if tables.contains(&name) {
                continue;
            }
            let Some(declared) = known.iter().find(|declared| declared.key == name) else {
                let keys: Vec<&str> = known.iter().map(|it| it.key).chain(tables.iter().copied()).collect();
                let right = match elsewhere(name) {
                    Some(place) => format!("it belongs {place}"),
                    None => format!("expected one of `{}`", keys.join("`, `")),
                };
                return Err(self.wrong(key.span().start, format!("unknown key `{name}`, {right}")));
            };
            (declared.check)(Written::from(value))
                .map_err(|wrong| self.wrong(wrong.at.unwrap_or(value.span().start), wrong.what))?;
        }
        Ok(())
    }

    /// The table that a key holds; none if the key is absent.
    pub(super) fn table<'a>(
        &self,
        table: &'a DeTable<'a>,
        key: &str,
    ) -> Result<Option<&'a DeTable<'a>>, ConfigError> {
        table.get(key).map(|value| self.as_table(key, value)).transpose()
    }

    /// A value that must be a table.
    pub(super) fn as_table<'a>(
        &self,
        key: &str,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Result<&'a DeTable<'a>, ConfigError> {
        let not_one = || self.wrong(value.span().start, format!("`{key}` is not a table, such as [{key}]"));
        value.get_ref().as_table().ok_or_else(not_one)
    }

    /// An error at a byte of the file.
    pub(super) fn wrong(&self, at: usize, what: impl Into<String>) -> ConfigError {
        ConfigError::Wrong { origin: self.line(at), what: what.into() }
    }

    /// The line that holds a byte.
    pub(super) fn line(&self, at: usize) -> Origin {
        Origin::Line(self.path.clone(), line(self.text.as_bytes(), at))
    }
}

/// The line that holds the byte `at`; the first is 1.
fn line(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count()
}
