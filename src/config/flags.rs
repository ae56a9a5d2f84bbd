//! What flags and variables give.

use std::collections::BTreeMap;

/// The values of flags and variables, by the key of their setting. Each has been checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags(pub(super) BTreeMap<&'static str, String>);

impl Flags {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}
