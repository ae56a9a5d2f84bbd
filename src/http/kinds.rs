//! The kinds of ids, as `by=` names them in our own calls and in the inspector.

use utoipa::openapi::Schema;

use super::error::HttpError;
use super::shapes;
use crate::model::id::IdKind;

/// Each kind, with its name in a query.
pub(super) const KINDS: [(&str, IdKind); 3] =
    [("third-party", IdKind::ThirdParty), ("pc", IdKind::Pc), ("ecid", IdKind::Ecid)];

/// What a query calls a kind.
pub(super) const fn name(kind: IdKind) -> &'static str {
    match kind {
        IdKind::ThirdParty => "third-party",
        IdKind::Pc => "pc",
        IdKind::Ecid => "ecid",
    }
}

/// The kind that a query names.
pub(super) fn named(by: &str) -> Result<IdKind, HttpError> {
    let found = KINDS.iter().find(|(name, _)| *name == by);
    found
        .map(|(_, kind)| *kind)
        .ok_or_else(|| HttpError::Wrong(format!("by={by} is not known: it is third-party, pc or ecid")))
}

/// The names, for the OpenAPI document.
pub(super) fn names() -> Schema {
    shapes::one_of(&KINDS.map(|(name, _)| name))
}
