//! Who made a write, as the native API shows it.

use serde::{Deserialize, Serialize};

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
    /// Who it was, in words.
    pub(super) fn words(&self) -> String {
        let token = match (&self.token, &self.token_name) {
            (Some(id), Some(name)) => format!("token {id} ({name})"),
            (Some(id), None) => format!("token {id}"),
            (None, _) => "no token".to_owned(),
        };
        match &self.address {
            Some(address) => format!("{token}, from {address}"),
            None => token,
        }
    }
}
