//! What somebody called a token, so that a list of tokens says what each is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A token's name: 1 to 64 characters without control characters. Several tokens may have the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TokenName(String);

/// Why a text is not a token's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenNameError {
    /// There is nothing in it.
    #[error("a token's name has 1 to {max} characters, and this has none", max = TokenName::CHARACTERS_MAX)]
    Empty,
    /// It has too many characters.
    #[error("a token's name has 1 to {max} characters, and this has {0}", max = TokenName::CHARACTERS_MAX)]
    Long(usize),
    /// It has a control character.
    #[error("character {0} is a control character, and a token's name has none")]
    Control(usize),
}

impl TokenName {
    /// The most characters that it may have.
    pub const CHARACTERS_MAX: usize = 64;

    /// Checks a name.
    pub fn new(text: impl Into<String>) -> Result<Self, TokenNameError> {
        let text = text.into();
        match text.chars().count() {
            0 => return Err(TokenNameError::Empty),
            count if count > Self::CHARACTERS_MAX => return Err(TokenNameError::Long(count)),
            _ => {}
        }
        match text.chars().position(char::is_control) {
            Some(at) => Err(TokenNameError::Control(at + 1)),
            None => Ok(Self(text)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenName {
    type Err = TokenNameError;

    fn from_str(text: &str) -> Result<Self, TokenNameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for TokenName {
    type Error = TokenNameError;

    fn try_from(text: String) -> Result<Self, TokenNameError> {
        Self::new(text)
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_64_characters_and_none_that_controls() {
        let check = |text: &str, wrong: Option<TokenNameError>| {
            assert_eq!(TokenName::new(text).err(), wrong, "{text:?}");
        };
        check("nightly CRM", None);
        check("小明 🌸", None);
        check("x", None);
        check(&"ä".repeat(64), None);
        check("", Some(TokenNameError::Empty));
        check(&"ä".repeat(65), Some(TokenNameError::Long(65)));
        check("a\nb", Some(TokenNameError::Control(2)));
        check("\u{7f}", Some(TokenNameError::Control(1)));
        check("ab\u{85}", Some(TokenNameError::Control(3)));
    }
}
