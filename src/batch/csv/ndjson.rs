//! The batch file as NDJSON: a JSON object a line, and each is a visitor.
//!
//! Promises: those of the module above hold here, too. Reading a good row allocates nothing for a value.
//!
//! The format (docs/batch-file.md):
//!
//! 1. A row ends at a line feed, or with the body. A line of nothing but spaces, tabs and carriage returns is skipped.
//! 2. One member of the object is the visitor's id, under one of the names that can key a CSV file. All others are attributes.
//! 3. A text is taken as it is: nothing is decoded or trimmed. A number, `true` and `false` become text as they stand. `null` and
//!    `""` are empty values (R6). An object or an array fails the row.
//! 4. The first line says what keys the rows, and names the attributes of all lines. It is a row itself, or a header that is no
//!    row: `{"batch":"thirdPartyId","attributes":["tier"]}`. So the names stand at the beginning of the file, as in CSV: a reader
//!    needs no more of it, and an erased row takes no name with it. A later line may leave names out. One that is not there fails it.
//!
//! What fails a row is the first fault from left to right; an attribute that stands twice counts after all others. The fault's column
//! counts the members of the object, from 1, and is 0 for such an attribute.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cell::without_line_end;
use super::error::{HeaderError, quoted};
use super::fault::{Reason, RowError};
use super::header::{ECID_NAMES, Header, check_name, kind_named};
use super::limits::{ATTRIBUTES_MAX, HEADER_BYTES_MAX, ROW_BYTES_MAX};
use super::mistaken::Mistaken;
use super::values::{Value, Values};
use crate::model::batch::{KeyError, RowReading};
use crate::model::id::IdKind;

/// What a line looks like, for messages.
const EXAMPLE: &str = r#"{"thirdPartyId":"crm-1","tier":"gold"}"#;

/// How many members the first line may have: an id, and the attributes.
const MEMBERS_MAX: usize = ATTRIBUTES_MAX + 1;

/// Whether a line is no row.
pub(super) fn is_blank(row: &[u8]) -> bool {
    row.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Reads a row into `values`. Gives where its id is in their text.
pub(super) fn read(header: &Header, row: &[u8], values: &mut Values<'_>) -> Result<(usize, usize), RowError> {
    let whole = |reason| RowError::at(0, reason);
    let row = std::str::from_utf8(row).map_err(|_| whole(Reason::BadUtf8))?;
    let (mut id, mut fault) = (None, None);
    let object = Object { header, values, id: &mut id, fault: &mut fault };
    let mut json = serde_json::Deserializer::from_str(row);
    let read = json.deserialize_map(object).and_then(|()| json.end());
    if let Some(fault) = fault {
        return Err(fault);
    }
    read.map_err(|_| whole(Reason::BadJson))?;
    let id = id.ok_or(whole(Reason::MissingId))?;
    values.end().map_err(whole)?;
    Ok(id)
}

/// Takes the members of an object one by one.
struct Object<'o, 'v> {
    header: &'o Header,
    values: &'o mut Values<'v>,
    /// Where the id is in the text.
    id: &'o mut Option<(usize, usize)>,
    fault: &'o mut Option<RowError>,
}

impl Object<'_, '_> {
    fn take(&mut self, name: Name, raw: &str) -> Result<(), Reason> {
        let Values { text, key, found, .. } = &mut *self.values;
        match name {
            // With more values than there are names, a name stands twice.
            Name::Attribute(_) if found.len() == self.header.names().len() => {
                return Err(Reason::DuplicateName);
            }
            Name::Attribute(attribute) => {
                let start = text.len();
                push_text(raw, text)?;
                found.push(Value { attribute, start, end: text.len() });
            }
            Name::Unknown => return Err(Reason::UnknownName),
            Name::Id(kind) if kind != self.header.key_kind() => return Err(Reason::OtherId),
            Name::Id(_) if self.id.is_some() => return Err(Reason::DuplicateName),
            Name::Id(_) => {
                key.clear();
                push_text(raw, key)?;
                let checked = self.header.id(key).map_err(Reason::from)?;
                let start = text.len();
                text.push_str(checked);
                *self.id = Some((start, text.len()));
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut column = 0;
        while let Some(name) = members.next_key_seed(NameIn(self.header))? {
            column += 1;
            let raw: &RawValue = members.next_value()?;
            if let Err(reason) = self.take(name, raw.get()) {
                *self.fault = Some(RowError::at(column, reason));
                return Err(de::Error::custom("a fault"));
            }
        }
        Ok(())
    }
}

/// What a member's name means.
enum Name {
    Id(IdKind),
    Attribute(usize),
    Unknown,
}

struct NameIn<'h>(&'h Header);

impl<'de> DeserializeSeed<'de> for NameIn<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Name, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIn<'_> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Name, E> {
        Ok(match kind_named(name) {
            Some(kind) => Name::Id(kind),
            None => self.0.column_of(name).map_or(Name::Unknown, Name::Attribute),
        })
    }
}

/// Adds the text of a value, whose JSON is right.
fn push_text(raw: &str, text: &mut String) -> Result<(), Reason> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
            unescape(inner, text)
        }
        Some(b'{' | b'[') => Err(Reason::Nested),
        Some(b'n') | None => Ok(()),
        Some(_) => {
            text.push_str(raw);
            Ok(())
        }
    }
}

/// Decodes the escapes of a JSON string. That they are escapes was checked; that they are characters was not.
fn unescape(inner: &str, text: &mut String) -> Result<(), Reason> {
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut after = escape.chars();
        let first = after.next().ok_or(Reason::BadJson)?;
        rest = after.as_str();
        text.push(match first {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = unit(&mut rest)?;
                let low = match unit {
                    0xd800..=0xdbff => {
                        rest = rest.strip_prefix("\\u").ok_or(Reason::BadUtf8)?;
                        Some(self::unit(&mut rest)?)
                    }
                    _ => None,
                };
                let units = [Some(unit), low].into_iter().flatten();
                match char::decode_utf16(units).next() {
                    Some(Ok(character)) => character,
                    _ => return Err(Reason::BadUtf8),
                }
            }
            other => other,
        });
    }
    text.push_str(rest);
    Ok(())
}

/// The four hexadecimal digits that `rest` begins with.
fn unit(rest: &mut &str) -> Result<u16, Reason> {
    let (digits, after) = rest.split_at_checked(4).ok_or(Reason::BadJson)?;
    *rest = after;
    u16::from_str_radix(digits, 16).map_err(|_| Reason::BadJson)
}

/// A member of an object, by its name, and its value as it stands.
struct Member<'r> {
    name: String,
    raw: &'r str,
}

/// The members of a row up to the first error of its JSON, and that error; at most one more than a first line may have. For
/// messages: it allocates.
fn members(row: &str) -> (Vec<Member<'_>>, Option<serde_json::Error>) {
    struct All<'m, 'r>(&'m mut Vec<Member<'r>>);
    impl<'r> Visitor<'r> for All<'_, 'r> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'r>>(self, mut members: A) -> Result<(), A::Error> {
            while let Some(name) = members.next_key()? {
                let raw: &'r RawValue = members.next_value()?;
                if self.0.len() <= MEMBERS_MAX {
                    self.0.push(Member { name, raw: raw.get() });
                }
            }
            Ok(())
        }
    }
    let mut found = vec![];
    let mut json = serde_json::Deserializer::from_str(row);
    let read = json.deserialize_map(All(&mut found)).and_then(|()| json.end());
    (found, read.err())
}

/// An error of JSON, without its place.
fn in_words(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match words.split_once(" at line ") {
        Some((what, _)) if error.column() > 0 => format!("{what}, at byte {}", error.column()),
        _ => words,
    }
}

/// The error for a body without a line.
pub(super) fn empty(line: u32) -> HeaderError {
    HeaderError::Object {
        line,
        fault: format!("the body is empty: each line is an object, such as {EXAMPLE}"),
    }
}

/// The error for a first line that is too long.
pub(super) fn too_long(line: u32) -> HeaderError {
    let fault = format!(
        "the first line has more than {HEADER_BYTES_MAX} bytes: begin with a header that names the attributes, such as \
         {{\"batch\":\"thirdPartyId\",\"attributes\":[\"tier\"]}}; the lines behind it may have {ROW_BYTES_MAX} bytes"
    );
    HeaderError::Object { line, fault }
}

/// The header that the first line is, and whether the line is a row, too.
pub(super) fn header(line: u32, row: &[u8], reading: &RowReading) -> Result<(Header, bool), HeaderError> {
    let fault = |fault: String| HeaderError::Object { line, fault };
    let row = without_line_end(row);
    match Mistaken::of(row) {
        None if row.trim_ascii_start().starts_with(b"batch=") => {
            return Err(fault("the body is a batch file in CSV: send it with Content-Type: text/csv".into()));
        }
        None | Some(Mistaken::Json | Mistaken::BatchBehind) => {}
        Some(what) => return Err(HeaderError::Mistaken { line, what }),
    }
    if row.trim_ascii_start().starts_with(b"[") {
        return Err(fault(
            "the body is a JSON array: NDJSON has an object a line, without brackets and commas around them; jq -c '.[]' writes \
             it so"
            .into(),
        ));
    }
    let row = std::str::from_utf8(row).map_err(|_| fault("the first line is not UTF-8".into()))?;
    let (members, wrong) = members(row);
    if let Some(wrong) = wrong {
        let why = in_words(&wrong);
        return Err(fault(format!(
            "the first line is not a JSON object ({why}): each line is a whole one, such as {EXAMPLE}"
        )));
    }
    if members.len() > MEMBERS_MAX {
        return Err(HeaderError::TooManyAttributes { line });
    }
    let mut kinds = members.iter().filter_map(|member| kind_named(&member.name));
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => {
            let others = members.iter().filter(|member| kind_named(&member.name).is_none());
            let names = names(line, others.map(|member| member.name.as_str()))?;
            Ok((Header::from_parts(kind, names, reading.clone()), true))
        }
        (Some(_), Some(_)) => Err(fault(
            "the first line has two ids of its visitor: the rows of a batch are keyed by one kind of id, and name it alone"
                .into(),
        )),
        (None, _) if members.iter().any(|member| member.name == "batch") => {
            header_alone(line, row, reading).map(|header| (header, false))
        }
        (None, _) if members.iter().any(|it| ECID_NAMES.iter().any(|ecid| ecid.eq_ignore_ascii_case(&it.name))) => {
            Err(HeaderError::EcidKey { line })
        }
        (None, _) => Err(fault(format!(
            "the first line names no visitor: it needs \"thirdPartyId\" or \"pcId\", as in {EXAMPLE}; or it is a header, such as \
             {{\"batch\":\"thirdPartyId\",\"attributes\":[\"tier\"]}}"
        ))),
    }
}

/// The first line, if it is a header and no row.
fn header_alone(line: u32, row: &str, reading: &RowReading) -> Result<Header, HeaderError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Alone {
        batch: String,
        attributes: Vec<String>,
    }
    let fault = |fault: String| HeaderError::Object { line, fault };
    let Alone { batch, attributes } = serde_json::from_str(row).map_err(|wrong| {
        let why = in_words(&wrong);
        fault(format!(
            "the header is not right ({why}): it is such as {{\"batch\":\"thirdPartyId\",\"attributes\":[\"tier\"]}}"
        ))
    })?;
    let kind = kind_named(&batch).ok_or_else(|| {
        fault(format!("{} cannot be the key of a batch: use pcId or thirdPartyId", quoted(batch.as_bytes())))
    })?;
    let names = names(line, attributes.iter().map(String::as_str))?;
    Ok(Header::from_parts(kind, names, reading.clone()))
}

/// The names of attributes, checked.
fn names<'n>(line: u32, names: impl Iterator<Item = &'n str>) -> Result<Vec<Box<str>>, HeaderError> {
    let fault = |fault: String| HeaderError::Object { line, fault };
    let mut known = std::collections::HashSet::new();
    let mut found: Vec<Box<str>> = vec![];
    for name in names {
        if found.len() == ATTRIBUTES_MAX {
            return Err(HeaderError::TooManyAttributes { line });
        }
        check_name(name).map_err(fault)?;
        if !known.insert(name) {
            return Err(fault(format!("the attribute {} stands twice", quoted(name.as_bytes()))));
        }
        found.push(name.into());
    }
    if found.is_empty() {
        return Err(fault(
            "the first line names no attribute: it must have each name that a line uses, null where there is no value".into(),
        ));
    }
    Ok(found)
}

/// Writes a header that is no row.
pub(super) fn write_header(header: &Header, out: &mut Vec<u8>) {
    let names: Vec<&str> = header.names().iter().map(|name| &**name).collect();
    let line = serde_json::json!({"batch": header.key_kind().name(), "attributes": names});
    out.extend_from_slice(line.to_string().as_bytes());
    out.push(b'\n');
}

/// The id of a row that may be no good otherwise, if it is one.
pub(super) fn id_of(header: &Header, row: &[u8]) -> Option<String> {
    let (members, _) = members(std::str::from_utf8(row).ok()?);
    let (_, text) = id_in(header, &members)?;
    header.id(&text?).ok().map(str::to_owned)
}

/// Which member is the id, and its text if it has one.
fn id_in(header: &Header, members: &[Member<'_>]) -> Option<(usize, Option<String>)> {
    let at = members.iter().position(|member| kind_named(&member.name) == Some(header.key_kind()))?;
    let mut text = String::new();
    let pushed = push_text(members.get(at)?.raw, &mut text);
    Some((at, pushed.is_ok().then_some(text)))
}

/// A row's error in words. `row` is the row as sent, or what is left of it.
pub(super) fn explain(error: RowError, header: &Header, line: u32, row: &[u8]) -> String {
    let row = std::str::from_utf8(row).unwrap_or_default();
    let (members, wrong) = members(row);
    let member = usize::from(error.column).checked_sub(1).and_then(|at| members.get(at));
    let name = member.map_or_else(|| "a member".to_owned(), |member| quoted(member.name.as_bytes()));
    let key = header.key_kind().name();
    let what = match error.reason {
        Reason::BadJson => {
            let why = wrong.map_or_else(String::new, |wrong| format!(" ({})", in_words(&wrong)));
            format!("it is not a JSON object{why}: each line is a whole one, such as {EXAMPLE}")
        }
        Reason::Nested => {
            format!("{name} is an object or an array: a value is a text, a number, true, false or null")
        }
        Reason::MissingId => format!("it names no visitor: it needs \"{key}\""),
        Reason::OtherId => {
            format!("{name} cannot stand here: the first line keys the rows of this batch by \"{key}\"")
        }
        Reason::UnknownName => format!(
            "{name} is not in the first line, which names the attributes of all lines: name it there, as null if that visitor \
             has none"
        ),
        Reason::DuplicateName if member.is_some_and(|member| kind_named(&member.name).is_some()) => {
            format!("{name} names the visitor a second time")
        }
        Reason::DuplicateName => {
            let mut known = std::collections::HashSet::new();
            let twice = members.iter().find(|member| !known.insert(member.name.as_str()));
            let name = twice.map_or_else(|| "a name".to_owned(), |member| quoted(member.name.as_bytes()));
            format!("{name} stands twice")
        }
        Reason::BadUtf8 if member.is_some() => {
            format!("{name} has half a character (a lone \\uD800 to \\uDFFF)")
        }
        Reason::BadUtf8 => "it is not UTF-8".into(),
        reason => match id_in(header, &members).and_then(|(_, text)| text) {
            Some(text) => match header.id(&text) {
                Err(KeyError::Illegal(why)) if Reason::from(KeyError::Illegal(why)) == reason => {
                    format!("{} is not a {key}: {why}", quoted(text.as_bytes()))
                }
                Err(KeyError::Blocked) if reason == Reason::BlockedId => format!(
                    "{} is no {key} but what stands where there is none (blocked_ids): leave the row out, or name the visitor",
                    quoted(header.reading().key(&text).as_bytes())
                ),
                _ => format!("the {key} is not right"),
            },
            None => format!("the {key} is not right"),
        },
    };
    format!("line {line}: {what}")
}

/// Whether this holds for any text or number of a row that may be no JSON: one of them may be its id.
pub fn any_loose_text(row: &[u8], mut holds: impl FnMut(&str) -> bool) -> bool {
    let row = String::from_utf8_lossy(row);
    let apart = row.split(['"', ',', ':', '{', '}', '[', ']', ' ', '\t', '\r', '\n']);
    // A text may have any of these characters but the quote.
    apart.chain(row.split('"')).any(|piece| {
        let mut text = String::new();
        let escaped = piece.contains('\\') && unescape(piece, &mut text).is_ok();
        holds(if escaped { &text } else { piece })
    })
}

/// A row in place of one whose values are gone: all its names, and what `fill` makes of each byte of the values. `None` if it is no
/// object.
pub fn with_values_gone(row: &[u8], mut fill: impl FnMut(&mut u8)) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(row).ok()?;
    let (members, wrong) = members(text);
    if wrong.is_some() {
        return None;
    }
    let mut filled = row.to_vec();
    for Member { raw, .. } in members {
        // Where the value is in the row: it is a part of it.
        let from = (raw.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        let value = filled.get_mut(from..from + raw.len())?;
        match value {
            [first, within @ .., last] => {
                *first = b'"';
                *last = b'"';
                within.iter_mut().for_each(&mut fill);
            }
            [one] => *one = b'0',
            [] => {}
        }
    }
    Some(filled)
}
