//! A Delivery call's body: typed where it is used, and checked with the place of what is wrong. The older calls in JSON
//! are made of the same parts.
//!
//! Pure: bytes in, a [`Delivery`] or a sentence out. Whatever is not used is passed over and takes no memory; of what is used,
//! each list keeps a bounded part.

use std::fmt;
use std::io::{BufReader, Read};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::bounded::Bounded;
use crate::http::error::HttpError;
use crate::http::shapes;
use crate::model::profile::{
    NAME_CHARS_MAX, NAME_PREFIX, NameFault, SITE_CALL_ATTRIBUTES_MAX, SITE_CALL_VALUE_CHARS_MAX,
    attribute_name_fault, is_too_long_for_a_site_call,
};

/// The longest message about a body.
const MESSAGE_CHARS_MAX: usize = 400;

/// The most mboxes in `execute`, and in `prefetch`.
const MBOXES_MAX: usize = 50;
/// The most `parameters` in one map.
const PARAMETERS_MAX: usize = 100;

/// The most that is kept of one list: several times what a profile may have (`max_profile_bytes`, 1 MiB by default).
pub(in crate::http::adobe) const KEPT_BYTES_MAX: usize = 4 << 20;
/// What each piece that is kept costs beside its bytes.
const PIECE_WEIGHT: usize = 64;
/// How much of an arriving body is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// The members that are read; others of Adobe's document may hold anything.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    #[schema(value_type = Option<String>)]
    pub(super) request_id: Option<Id>,
    #[schema(value_type = Option<Ids>)]
    id: Option<Object<Ids>>,
    #[schema(value_type = Option<Context>)]
    context: Option<Object<Context>>,
    #[schema(value_type = Option<Execute>)]
    pub(super) execute: Option<Object<Execute>>,
    #[schema(value_type = Option<Prefetch>)]
    pub(super) prefetch: Option<Object<Prefetch>>,
    #[schema(value_type = Option<Vec<Notification>>)]
    pub(super) notifications: Option<Kept<Notification>>,
}

/// Who the visitor is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http::adobe) struct Ids {
    #[schema(schema_with = shapes::pc_id)]
    pub(in crate::http::adobe) tnt_id: Option<Id>,
    #[schema(schema_with = shapes::third_party_id)]
    pub(in crate::http::adobe) third_party_id: Option<Id>,
    #[schema(schema_with = shapes::ecid)]
    pub(in crate::http::adobe) marketing_cloud_visitor_id: Option<Id>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Context {
    beacon: Option<bool>,
}

/// What to evaluate now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Execute {
    #[schema(value_type = Option<PageLoad>)]
    pub(super) page_load: Option<Object<PageLoad>>,
    #[schema(value_type = Option<Vec<Mbox>>, max_items = 50)]
    pub(super) mboxes: Option<Kept<Mbox>>,
}

/// What to evaluate for later.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Prefetch {
    #[schema(value_type = Option<Vec<View>>)]
    pub(super) views: Option<Kept<View>>,
    #[schema(value_type = Option<PageLoad>)]
    pub(super) page_load: Option<Object<PageLoad>>,
    #[schema(value_type = Option<Vec<Mbox>>, max_items = 50)]
    pub(super) mboxes: Option<Kept<Mbox>>,
}

/// The page as a whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageLoad {
    #[serde(rename = "parameters")]
    #[schema(schema_with = unused)]
    _parameters: Option<Unused>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
}

/// A place on the page.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mbox {
    #[schema(minimum = 0, maximum = 1000)]
    pub(super) index: Option<i64>,
    pub(super) name: String,
    #[serde(rename = "parameters")]
    #[schema(schema_with = unused)]
    _parameters: Option<Unused>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
}

/// A view of a single-page application.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) name: Option<String>,
    pub(super) key: Option<String>,
    #[serde(rename = "parameters")]
    #[schema(schema_with = unused)]
    _parameters: Option<Unused>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
}

/// Something shown or clicked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Notification {
    #[schema(value_type = String)]
    pub(super) id: Id,
    #[serde(rename = "parameters")]
    #[schema(schema_with = unused)]
    _parameters: Option<Unused>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
}

impl Delivery {
    /// Refuses more mboxes than a call may have.
    pub(super) fn with_few_mboxes(self) -> Result<Self, HttpError> {
        let executed = self.execute.as_ref().and_then(|it| it.0.mboxes.as_ref());
        let prefetched = self.prefetch.as_ref().and_then(|it| it.0.mboxes.as_ref());
        check_mbox_count("execute.mboxes", executed)?;
        check_mbox_count("prefetch.mboxes", prefetched)?;
        Ok(self)
    }

    /// Who the visitor is.
    pub(super) fn ids(&self) -> Option<&Ids> {
        self.id.as_ref().map(|Object(ids)| ids)
    }

    /// Whether nobody will read the answer.
    pub(super) fn is_beacon(&self) -> bool {
        self.context.as_ref().is_some_and(|Object(context)| context.beacon == Some(true))
    }

    /// The names of its mboxes, in the same order.
    pub(super) fn mbox_names(&self) -> impl Iterator<Item = &str> {
        let execute = self.execute.iter().filter_map(|Object(execute)| execute.mboxes.as_ref());
        let prefetch = self.prefetch.iter().filter_map(|Object(prefetch)| prefetch.mboxes.as_ref());
        execute.chain(prefetch).flat_map(Kept::iter).map(|mbox| mbox.name.as_str())
    }

    /// All `profileParameters`, in the order in which a later value wins.
    pub(super) fn take_attributes(&mut self) -> Vec<(String, String)> {
        let mut maps = vec![];
        if let Some(Object(execute)) = &mut self.execute {
            maps.extend(execute.page_load.as_mut().map(|it| &mut it.0.profile_parameters));
            maps.extend(
                execute.mboxes.iter_mut().flat_map(Kept::iter_mut).map(|it| &mut it.profile_parameters),
            );
        }
        if let Some(Object(prefetch)) = &mut self.prefetch {
            maps.extend(
                prefetch.views.iter_mut().flat_map(Kept::iter_mut).map(|it| &mut it.profile_parameters),
            );
            maps.extend(prefetch.page_load.as_mut().map(|it| &mut it.0.profile_parameters));
            maps.extend(
                prefetch.mboxes.iter_mut().flat_map(Kept::iter_mut).map(|it| &mut it.profile_parameters),
            );
        }
        maps.extend(
            self.notifications.iter_mut().flat_map(Kept::iter_mut).map(|it| &mut it.profile_parameters),
        );
        maps.into_iter().filter_map(Option::take).flat_map(|Parameters(map)| map).collect()
    }
}

/// Refuses more mboxes than a call may have, in Adobe's words ("Target limits", Delivery API and batch mbox v2).
pub(in crate::http::adobe) fn check_mbox_count<T>(
    place: &str,
    mboxes: Option<&Kept<T>>,
) -> Result<(), HttpError> {
    if mboxes.is_some_and(|mboxes| mboxes.0.len() > MBOXES_MAX) {
        return Err(HttpError::Wrong(format!("{place}: size must be between 0 and {MBOXES_MAX}")));
    }
    Ok(())
}

/// Reads a body that is one object; an error names the place and what is wrong there.
pub(in crate::http::adobe) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    read(&mut serde_json::Deserializer::from_slice(body))
}

/// The same of a body as it arrives, of which no more is in memory than a buffer, what is used of it, and its longest
/// string; `body_bytes_max` holds. Blocks as `body` does.
pub(super) fn parse_arriving<T: DeserializeOwned>(
    body: impl Read,
    body_bytes_max: u64,
) -> Result<T, HttpError> {
    let mut bounded = Bounded::new(body, body_bytes_max);
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(PIECE_BYTES, &mut bounded));
    let call = read(&mut json);
    drop(json);
    match bounded.fault() {
        Some(fault) => Err(fault),
        None => call,
    }
}

fn read<'de, R, T>(json: &mut serde_json::Deserializer<R>) -> Result<T, HttpError>
where
    R: serde_json::de::Read<'de>,
    T: DeserializeOwned,
{
    let call: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut *json);
    match call {
        Ok(Object(call)) => match json.end() {
            Ok(()) => Ok(call),
            Err(error) => Err(not_json(&error)),
        },
        Err(error) if error.inner().classify() == Category::Data => {
            Err(misplaced(&error.path().to_string(), error.inner()))
        }
        Err(error) => Err(not_json(error.inner())),
    }
}

fn not_json(error: &serde_json::Error) -> HttpError {
    HttpError::Wrong(shortened(format!("the body is not JSON: {error}")))
}

fn misplaced(path: &str, error: &serde_json::Error) -> HttpError {
    let what = error.to_string();
    // The path says it better.
    let position = format!(" at line {} column {}", error.line(), error.column());
    let what = what.strip_suffix(&position).unwrap_or(&what);
    let place = if path == "." { "the body" } else { path };
    // Adobe's mobile SDKs send a refused notification again with every call, unless the message has this word
    // (aepsdk-target-ios TargetError.ERROR_NOTIFICATION_TAG).
    let word = if path.starts_with("notifications") { "Notification not taken: " } else { "" };
    HttpError::Wrong(shortened(format!("{word}{place}: {what}")))
}

/// A message that quotes what was sent, cut where it is too long.
pub(super) fn shortened(message: String) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

/// An object in JSON; serde would also take a list of its values.
#[derive(Debug)]
pub(in crate::http::adobe) struct Object<T>(pub(in crate::http::adobe) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// An id. Callers in JavaScript hold a CRM's ids as numbers: an integer stands for its digits. What has a point or an exponent,
/// or more than 64 bits, may have lost some already, and is refused.
#[derive(Debug)]
pub(in crate::http::adobe) struct Id(pub(in crate::http::adobe) String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrInteger;
        impl Visitor<'_> for TextOrInteger {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or an integer")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                Ok(Id(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Id, E> {
                Ok(Id(text))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Id, E> {
                Err(E::custom(format_args!(
                    "{number} is a number with a point or an exponent, or of more than 64 bits, which may have lost digits: send \
                     the id as a string"
                )))
            }
        }
        deserializer.deserialize_any(TextOrInteger)
    }
}

/// A list of objects, of which what is used is kept: [`KEPT_BYTES_MAX`] of it, however long the body is. What has nothing
/// that is used is not kept.
#[derive(Debug)]
pub(in crate::http::adobe) struct Kept<T>(Vec<T>);

impl<T> Kept<T> {
    pub(in crate::http::adobe) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

/// What takes memory as long as a call is not answered.
pub(in crate::http::adobe) trait Weighs {
    /// About how many bytes; none if nothing of it is used.
    fn weight(&self) -> usize;
}

/// What a text that is kept weighs, if there is one.
pub(in crate::http::adobe) fn text_weight(text: Option<&String>) -> usize {
    text.map_or(0, |text| PIECE_WEIGHT + text.len())
}

fn map_weight(map: Option<&Parameters>) -> usize {
    map.map_or(0, |Parameters(pairs)| {
        pairs.iter().map(|(name, value)| PIECE_WEIGHT + name.len() + value.len()).sum()
    })
}

impl Weighs for Mbox {
    fn weight(&self) -> usize {
        text_weight(Some(&self.name)) + map_weight(self.profile_parameters.as_ref())
    }
}

impl Weighs for View {
    fn weight(&self) -> usize {
        text_weight(self.name.as_ref())
            + text_weight(self.key.as_ref())
            + map_weight(self.profile_parameters.as_ref())
    }
}

impl Weighs for Notification {
    fn weight(&self) -> usize {
        text_weight(Some(&self.id.0)) + map_weight(self.profile_parameters.as_ref())
    }
}

impl<'de, T: Deserialize<'de> + Weighs> Deserialize<'de> for Kept<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Weighs> Visitor<'de> for Items<T> {
            type Value = Kept<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let (mut kept, mut weight) = (vec![], 0);
                while let Some(Object(item)) = list.next_element::<Object<T>>()? {
                    match item.weight() {
                        0 => continue,
                        more => weight += more,
                    }
                    if weight > KEPT_BYTES_MAX {
                        return Err(A::Error::custom(format_args!(
                            "ids, names and profileParameters have more than {KEPT_BYTES_MAX} bytes, {PIECE_WEIGHT} \
                             counted for each beside its text: send them in several calls"
                        )));
                    }
                    kept.push(item);
                }
                Ok(Kept(kept))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// A map of `parameters`: they are not ours and may hold anything, but for how many and how long they are.
#[derive(Debug)]
pub(in crate::http::adobe) struct Unused;

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counted;
        impl<'de> Visitor<'de> for Counted {
            type Value = Unused;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut count = 0;
                while let Some((name, value)) = map.next_entry::<String, Measured>()? {
                    count += 1;
                    if count > PARAMETERS_MAX {
                        return Err(A::Error::custom(format_args!("more than {PARAMETERS_MAX} parameters")));
                    }
                    if name.chars().nth(NAME_CHARS_MAX).is_some() {
                        return Err(A::Error::custom(name_too_long(&name)));
                    }
                    if value.too_long {
                        return Err(A::Error::custom(value_too_long(&name)));
                    }
                }
                Ok(Unused)
            }
        }
        deserializer.deserialize_map(Counted)
    }
}

/// Any value, of which only its length is used, if it is a text.
struct Measured {
    too_long: bool,
}

impl<'de> Deserialize<'de> for Measured {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Measured;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Measured, E> {
                Ok(Measured { too_long: is_too_long_for_a_site_call(text) })
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Measured, E> {
                self.visit_unit()
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Measured, E> {
                self.visit_unit()
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Measured, E> {
                self.visit_unit()
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Measured, E> {
                self.visit_unit()
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Measured, E> {
                Ok(Measured { too_long: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Measured, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                self.visit_unit()
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Measured, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                self.visit_unit()
            }
        }
        deserializer.deserialize_any(Any)
    }
}

fn name_too_long(name: &str) -> String {
    let start: String = name.chars().take(24).collect();
    format!("the parameter's name that begins with {start:?} has more than {NAME_CHARS_MAX} characters")
}

fn value_too_long(name: &str) -> String {
    format!("the value of {name:?} has more than {SITE_CALL_VALUE_CHARS_MAX} characters")
}

/// What a map of `profileParameters` holds, for the OpenAPI document.
pub(in crate::http::adobe) fn profile_parameters() -> Schema {
    shapes::attributes(Some(SITE_CALL_ATTRIBUTES_MAX), "^[a-z]{1,20}$")
}

/// What a map of `parameters` holds.
pub(in crate::http::adobe) fn unused() -> Schema {
    ObjectBuilder::new().schema_type(Type::Object).max_properties(Some(PARAMETERS_MAX)).into()
}

/// A map of `profileParameters` in the order sent, checked as Adobe's OpenAPI says (R9).
#[derive(Debug)]
pub(in crate::http::adobe) struct Parameters(pub(in crate::http::adobe) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Parameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = vec![];
                while let Some((name, Value(value))) = map.next_entry::<String, Value>()? {
                    if pairs.len() == SITE_CALL_ATTRIBUTES_MAX {
                        return Err(A::Error::custom(format_args!(
                            "more than {SITE_CALL_ATTRIBUTES_MAX} parameters"
                        )));
                    }
                    check_parameter(&name, &value).map_err(A::Error::custom)?;
                    pairs.push((name, value));
                }
                Ok(Parameters(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// The value of an attribute: a string, as Adobe's OpenAPI says. A number has no text of its own (`1.0`, `1`, `1e0`), so
/// that the caller says which is meant.
struct Value(String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value(text.to_owned()))
            }

            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
                Ok(Value(text))
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
                Err(unquoted(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
                Err(unquoted(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
                Err(unquoted(value))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
                Err(E::custom("a value must be a string: send the number as text, with quotes around it"))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
                Err(E::custom("a value must be a string, and not null: leave it out, or send a string"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

fn unquoted<E: serde::de::Error>(value: impl fmt::Display) -> E {
    E::custom(format_args!("a value must be a string: send \"{value}\", with the quotes"))
}

fn check_parameter(name: &str, value: &str) -> Result<(), String> {
    match attribute_name_fault(name) {
        None => {}
        Some(NameFault::Empty | NameFault::Blank) => return Err("a parameter's name is blank".into()),
        Some(NameFault::Prefixed) => {
            return Err(format!("{name:?} must be written without {NAME_PREFIX:?}"));
        }
        Some(NameFault::TooLong) => return Err(name_too_long(name)),
    }
    if is_too_long_for_a_site_call(value) {
        return Err(value_too_long(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(body: &[u8]) -> Result<Delivery, HttpError> {
        parse::<Delivery>(body)?.with_few_mboxes()
    }

    fn refused(body: &str) -> String {
        parsed(body.as_bytes()).map(|_| ()).unwrap_err().to_string()
    }

    #[track_caller]
    fn check(body: &str, expected: &str) {
        assert_eq!(refused(body), expected, "{body}");
    }

    #[test]
    fn an_error_names_its_place_in_the_body() {
        check("", "the body is not JSON: EOF while parsing a value at line 1 column 0");
        check("{} x", "the body is not JSON: trailing characters at line 1 column 4");
        check("{\"id\":", "the body is not JSON: EOF while parsing a value at line 1 column 6");
        check("[]", "the body: invalid type: sequence, expected an object");
        check("7", "the body: invalid type: integer `7`, expected an object");
        check(r#"{"id":["7"]}"#, "id: invalid type: sequence, expected an object");
        check(
            r#"{"id":{"tntId":true}}"#,
            "id.tntId: invalid type: boolean `true`, expected a string, or an integer",
        );
        check(
            r#"{"id":{"tntId":["7"]}}"#,
            "id.tntId: invalid type: sequence, expected a string, or an integer",
        );
        for (sent, shown) in [
            ("7.5", "7.5"),
            ("1.36732E+12", "1367320000000"),
            ("18446744073709551616", "18446744073709552000"),
        ] {
            check(
                &format!(r#"{{"id":{{"thirdPartyId":{sent}}}}}"#),
                &format!(
                    "id.thirdPartyId: {shown} is a number with a point or an exponent, or of more than 64 bits, which may have lost \
                     digits: send the id as a string"
                ),
            );
        }
        check(
            r#"{"execute":{"mboxes":{"name":"a"}}}"#,
            "execute.mboxes: invalid type: map, expected a sequence",
        );
        check(r#"{"execute":{"mboxes":[{"name":"a"},{}]}}"#, "execute.mboxes[1]: missing field `name`");
        check(
            r#"{"prefetch":{"views":[null]}}"#,
            "prefetch.views[0]: invalid type: null, expected an object",
        );
        check(r#"{"notifications":[{}]}"#, "Notification not taken: notifications[0]: missing field `id`");
        check(
            r#"{"context":{"beacon":"yes"}}"#,
            "context.beacon: invalid type: string \"yes\", expected a boolean",
        );
        let map =
            |map: &str| format!(r#"{{"execute":{{"mboxes":[{{"name":"m","profileParameters":{map}}}]}}}}"#);
        let at = "execute.mboxes[0].profileParameters";
        for (sent, what) in [
            (r#"{"a":1}"#, ".a: a value must be a string: send \"1\", with the quotes"),
            (r#"{"a":-1}"#, ".a: a value must be a string: send \"-1\", with the quotes"),
            (r#"{"a":false}"#, ".a: a value must be a string: send \"false\", with the quotes"),
            (r#"{"a":1.50}"#, ".a: a value must be a string: send the number as text, with quotes around it"),
            (r#"{"a":null}"#, ".a: a value must be a string, and not null: leave it out, or send a string"),
            (r#"{"a":{"b":"c"}}"#, ".a: invalid type: map, expected a string"),
            ("[]", ": invalid type: sequence, expected an object of strings"),
            (r#"{" ":"x"}"#, ": a parameter's name is blank"),
            (r#"{"profile.a":"x"}"#, ": \"profile.a\" must be written without \"profile.\""),
        ] {
            check(&map(sent), &format!("{at}{what}"));
        }
        let long = |name: usize, value: usize| {
            map(&format!(r#"{{"{}":"{}"}}"#, "n".repeat(name), "é".repeat(value)))
        };
        assert!(parsed(long(128, 5_000).as_bytes()).is_ok());
        let start = "n".repeat(24);
        check(
            &long(129, 1),
            &format!("{at}: the parameter's name that begins with \"{start}\" has more than 128 characters"),
        );
        check(&long(1, 5_001), &format!("{at}: the value of \"n\" has more than 5000 characters"));
        let many = |count: usize| {
            let pairs: Vec<String> = (0..count).map(|n| format!(r#""a{n}":"x""#)).collect();
            map(&format!("{{{}}}", pairs.join(",")))
        };
        assert!(parsed(many(50).as_bytes()).is_ok());
        check(&many(51), &format!("{at}: more than 50 parameters"));
        // Not ours: adobe/aepsdk-target-ios sends raw requests with whatever the app put there.
        let unused = |map: &str| format!(r#"{{"execute":{{"mboxes":[{{"name":"m","parameters":{map}}}]}}}}"#);
        for taken in [r#"{"a":1,"b":null,"c":true,"d":[{}],"profile.x":"y","":"z"}"#, "{}", "null"] {
            assert!(parsed(unused(taken).as_bytes()).is_ok(), "{taken}");
        }
        let params =
            |count: usize| (0..count).map(|n| format!(r#""a{n}":{n}"#)).collect::<Vec<_>>().join(",");
        assert!(parsed(unused(&format!("{{{}}}", params(100))).as_bytes()).is_ok());
        let at = "execute.mboxes[0].parameters";
        check(&unused(&format!("{{{}}}", params(101))), &format!("{at}: more than 100 parameters"));
        let long = format!(r#"{{"n":"{}"}}"#, "x".repeat(5_001));
        check(&unused(&long), &format!("{at}: the value of \"n\" has more than 5000 characters"));
        // "Target limits", Delivery API: 50 mboxes a request.
        let mboxes = |count: usize| vec![r#"{"name":"m"}"#; count].join(",");
        for part in ["execute", "prefetch"] {
            let call = |count| format!(r#"{{"{part}":{{"mboxes":[{}]}}}}"#, mboxes(count));
            assert!(parsed(call(50).as_bytes()).is_ok());
            check(&call(51), &format!("{part}.mboxes: size must be between 0 and 50"));
        }
        assert_eq!(refused(&format!(r#"{{"id":"{}"}}"#, "x".repeat(9_000))).chars().count(), 401);
    }

    /// Callers in JavaScript hold a CRM's ids as numbers (`thirdPartyId: 2047337005` of a public sample).
    #[test]
    fn an_integer_is_an_id_of_its_digits() {
        for digits in ["2047337005", "0", "-7", "18446744073709551615", "-9223372036854775808"] {
            for sent in [digits.to_owned(), format!("\"{digits}\"")] {
                let body = format!(
                    r#"{{"requestId":{sent},"id":{{"tntId":{sent},"thirdPartyId": {sent} ,"marketingCloudVisitorId":{sent},
                    "customerIds":[{{"id":{sent},"integrationCode":7}}]}},"notifications":[{{"id":{sent}}}]}}"#
                );
                let call = parsed(body.as_bytes()).unwrap();
                let ids = call.ids().unwrap();
                for id in
                    [&ids.tnt_id, &ids.third_party_id, &ids.marketing_cloud_visitor_id, &call.request_id]
                {
                    assert_eq!(id.as_ref().unwrap().0, digits, "{body}");
                }
                assert_eq!(call.notifications.unwrap().iter().next().unwrap().id.0, digits);
            }
        }
        let body = r#"{"id":{"tntId":null,"thirdPartyId":"a\u00e9\"b"}}"#;
        let call = parsed(body.as_bytes()).unwrap();
        let ids = call.ids().unwrap();
        assert_eq!((ids.tnt_id.is_none(), ids.third_party_id.as_ref().unwrap().0.as_str()), (true, "aé\"b"));
    }

    #[test]
    fn of_one_list_so_much_is_kept_and_of_what_is_not_used_nothing() {
        let list =
            |part: &str, item: &str, count: usize| format!("{{{part}[{}]}}", vec![item; count].join(","));
        let notified = |item: &str, count| parsed(list("\"notifications\":", item, count).as_bytes());
        let id = format!(r#"{{"id":"{}"}}"#, "x".repeat(1_024 - PIECE_WEIGHT));
        assert_eq!(notified(&id, 4_096).unwrap().notifications.unwrap().iter().count(), 4_096);
        let message = notified(&id, 4_097).map(|_| ()).unwrap_err().to_string();
        assert!(message.starts_with("Notification not taken: notifications"), "{message}");
        assert!(message.contains("have more than 4194304 bytes"), "{message}");
        let empty = r#"{"id":"","profileParameters":{"a":""}}"#;
        assert!(notified(empty, 1_000_000).is_err(), "each piece costs something");
        let views = list("\"prefetch\":{\"views\":", "{}", 1_000_000) + "}";
        let call = parsed(views.as_bytes()).unwrap();
        assert_eq!(call.prefetch.unwrap().0.views.unwrap().iter().count(), 0);
    }

    #[test]
    fn what_is_not_used_may_be_anything_and_null_is_absent() {
        let body = r#"{"context":{"channel":5,"beacon":null},"id":null,"qaMode":[],"notifications":null,"x":{"y":[{}]},
            "execute":{"pageLoad":null,"mboxes":null},"prefetch":{"views":[{"name":null,"profileParameters":null}]}}"#;
        let mut call = parsed(body.as_bytes()).unwrap();
        assert!(call.take_attributes().is_empty() && !call.is_beacon() && call.ids().is_none());
    }

    #[test]
    fn profile_parameters_come_in_one_order_whatever_the_text_has() {
        let body = r#"{"notifications":[{"id":"n","profileParameters":{"i":"9","h":"8"}}],
            "prefetch":{"mboxes":[{"name":"m","profileParameters":{"g":"7"}}],"pageLoad":{"profileParameters":{"f":"6"}},
                "views":[{"profileParameters":{"d":"4"}},{"profileParameters":{"e":"5"}}]},
            "execute":{"mboxes":[{"name":"m","profileParameters":{"b":"2"},"parameters":{"no":"0"}},
                {"name":"m","profileParameters":{"c":"3"}}],"pageLoad":{"profileParameters":{"a":"1"}}}}"#;
        let attributes = parsed(body.as_bytes()).unwrap().take_attributes();
        let names: String = attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, "abcdefgih");
    }

    /// Keys that mean something, and values of every kind under them.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let key = prop_oneof![
            Just("id"),
            Just("tntId"),
            Just("customerIds"),
            Just("context"),
            Just("beacon"),
            Just("execute"),
            Just("prefetch"),
            Just("pageLoad"),
            Just("mboxes"),
            Just("views"),
            Just("notifications"),
            Just("name"),
            Just("index"),
            Just("parameters"),
            Just("profileParameters"),
            Just("profile.a"),
            Just(""),
            Just("\u{0}")
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(7, 60, 6, move |inner| {
            prop_oneof![
                1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_body_is_read_alike_whole_and_as_it_arrives(
            body in json(),
            cut in any::<prop::sample::Index>(),
            change in any::<Option<(prop::sample::Index, u8)>>(),
        ) {
            let mut bytes = body.to_string().into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let whole = parse::<Delivery>(bytes);
                let arriving = parse_arriving::<Delivery>(bytes, 1 << 20);
                // The position of the error differs, because one of them reads further.
                let message = |error: HttpError| error.to_string().split(" at line ").next().map(str::to_owned);
                let seen = |call: Delivery| format!("{call:?}");
                prop_assert_eq!(arriving.map(seen).map_err(message), whole.map(seen).map_err(message));
            }
        }

        #[test]
        fn no_json_and_no_part_of_one_panics(body in json(), cut in any::<prop::sample::Index>()) {
            let text = body.to_string();
            for bytes in [text.as_bytes(), &text.as_bytes()[..cut.index(text.len())]] {
                match parsed(bytes) {
                    Ok(mut call) => drop(call.take_attributes()),
                    Err(error) => prop_assert!(error.to_string().chars().count() <= MESSAGE_CHARS_MAX + 1),
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parsed(&bytes));
        }
    }
}
