//! The shapes of what several calls take or answer, for the OpenAPI document: ids, sessions, texts.
//!
//! A pattern has the plainest form that each call takes: a generator of requests that follows it is never refused for it.

use crate::model::batch::BATCH_NAME_CHARS_MAX;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// The characters that no id may have, for a pattern.
const CONTROL: &str = "\\u0000-\\u001f\\u007f-\\u009f";

/// Any text.
pub(super) fn text() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).into()
}

/// A text of this pattern.
pub(super) fn pattern(pattern: impl Into<String>) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern.into())).into()
}

/// Any text but none.
pub(super) fn not_empty() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).into()
}

/// A time, as `Millis::parse` reads it: milliseconds since 1970, or RFC 3339.
pub(super) fn time() -> Schema {
    pattern(format!("^[0-9]{{1,15}}$|{RFC_3339}"))
}

/// A seq, or a time in RFC 3339.
pub(super) fn seq_or_time() -> Schema {
    pattern(format!("^[0-9]{{1,19}}$|{RFC_3339}"))
}

const RFC_3339: &str = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// What a batch is called.
pub(super) fn batch_name() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[!-~]([ -~]*[!-~])?$"))
        .max_length(Some(BATCH_NAME_CHARS_MAX))
        .into()
}

/// One of these texts.
pub(super) fn one_of(values: &[&str]) -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.iter().copied())).into()
}

/// A whole number from 1 to `max`.
pub(super) fn count(max: usize) -> Schema {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1_usize)).maximum(Some(max)).into()
}

/// `true` or `false`.
pub(super) fn switch() -> Schema {
    ObjectBuilder::new().schema_type(Type::Boolean).into()
}

/// An object with whatever members.
pub(super) fn object() -> Schema {
    ObjectBuilder::new().schema_type(Type::Object).into()
}

/// Anything at all.
pub(super) fn anything() -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).into()
}

/// A client's code.
pub(super) fn client() -> Schema {
    pattern("^[A-Za-z0-9_.-]{1,64}$")
}

/// A batch's id.
pub(super) fn batch_id() -> Schema {
    pattern("^[A-Za-z0-9_.-]{1,64}-[0-9]+-[0-9]+$")
}

/// A seq.
pub(super) fn seq() -> Schema {
    pattern("^[0-9]{1,15}$")
}

/// A visitor's id, whatever its kind.
pub(super) fn any_id() -> Schema {
    pattern(format!("^[^+/.{CONTROL}]{{1,128}}$"))
}

/// A `pcId`, perhaps with a location hint.
pub(super) fn pc_id() -> Schema {
    pattern(format!("^[^.{CONTROL}]{{1,128}}(\\.[0-9]+(_[0-9]+)?)?$"))
}

/// A `thirdPartyId`.
pub(super) fn third_party_id() -> Schema {
    pattern(format!("^[^+/{CONTROL}]{{1,256}}$"))
}

/// An ECID.
pub(super) fn ecid() -> Schema {
    pattern(format!("^[^{CONTROL}]{{1,128}}$"))
}

/// A session's id.
pub(super) fn session_id() -> Schema {
    pattern(format!("^[^ ?/{{}}{CONTROL}]{{1,128}}$"))
}

/// A map of `profileParameters` with at most `max` members.
pub(super) fn attributes(max: Option<usize>, name: &str) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .max_properties(max)
        .property_names(Some(pattern(name)))
        .additional_properties(Some(ObjectBuilder::new().schema_type(Type::String).max_length(Some(100))))
        .into()
}
