//! Who made a write, as the native API shows it.

use serde::{Deserialize, Serialize};

use super::terminal::shortened;
use crate::model::author;

/// How much of a token's name a table shows.
const NAME_CHARS_SHOWN: usize = 16;

/// Who made a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthorView {
    token: Option<String>,
    /// Earlier daemons have no names of tokens.
    #[serde(default)]
    token_name: Option<String>,
    address: Option<String>,
}

impl AuthorView {
    /// Who it was, in short lines for a table.
    pub(super) fn lines(&self) -> Vec<String> {
        let name = self.token_name.as_ref().map(|name| format!(" {}", shortened(name, NAME_CHARS_SHOWN)));
        let token = self.token.as_ref().map(|id| format!("token {id}{}", name.unwrap_or_default()));
        let address = self.address.as_ref().map(|address| format!("from {address}"));
        token.into_iter().chain(address).collect()
    }

    /// Who it was, in words.
    pub(super) fn words(&self) -> String {
        author::in_words(self.token.as_deref(), self.token_name.as_deref(), self.address.as_deref())
    }
}
