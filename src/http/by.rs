//! Who made a write, as the calls show it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::author::{self, Author};
use crate::tokens::Tokens;

/// Who made a write: a caller of the APIs for servers. A page's write has nobody here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct By {
    /// The id of the token of the call. null: the daemon asked for none.
    pub(super) token: Option<String>,
    /// What that token is called. null: it has no name.
    pub(super) token_name: Option<String>,
    /// The address that the call came from.
    pub(super) address: Option<String>,
}

impl By {
    /// Who this is. `None` if nothing is known of them.
    pub(in crate::http) fn of(author: Author, tokens: &Tokens) -> Option<Self> {
        (!author.is_unknown()).then(|| Self {
            token: author.token.map(|token| token.as_str().to_owned()),
            token_name: author.token.and_then(|token| {
                let name = tokens.named(token.as_str())?.name.as_ref()?;
                Some(name.to_string())
            }),
            address: author.address.map(|address| address.to_string()),
        })
    }

    /// Who it was, in words.
    pub(in crate::http) fn words(&self) -> String {
        author::in_words(self.token.as_deref(), self.token_name.as_deref(), self.address.as_deref())
    }
}
