//! The body of every call that takes a batch file: its parameters, its key, and the upload, which goes to the engine as it arrives.

use hyper::header::{HeaderName, HeaderValue};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};

use super::Front;
use super::error::HttpError;
use super::operation::{Form, Operation, form};
use super::request::{FORM, Params, Request};
use super::response::{Answer, NDJSON};
use super::shapes;
use crate::engine::BatchSending;
use crate::engine::{Announced, BatchTerms, BatchVersion, Upload};
use crate::model::batch::BATCH_NAME_CHARS_MAX;
use crate::model::batch::BatchName;
use crate::model::batch::{EmptyValues, IdempotencyKey, KEY_CHARS_MAX, RowForm};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// The media types of a batch file. Adobe documents the first, and curl sends it by default.
pub(super) const MEDIA_TYPES: [&str; 4] = [FORM, "text/csv", "text/plain", "application/octet-stream"];
/// What a batch file looks like, in each media type, for the OpenAPI document.
pub(super) fn forms() -> [Form; 3] {
    const EXAMPLE: &str = "batch=thirdPartyId,city,tier\ncrm-123,Oslo,gold\ncrm-124,Bergen,\n";
    let plainest =
        "^batch=(pcId|thirdPartyId),[a-z]{1,20}(\\n[A-Za-z0-9]{1,20},[A-Za-z0-9]{0,20}){1,20}\\n?$";
    let what = "Its first line is batch=pcId,name,… or batch=thirdPartyId,name,…, each further one a visitor. The pattern is \
                the plainest form: cells may be quoted and form-encoded, and columns many. Of a form, percent-encoded from \
                end to end, it is the field batch, and comes first.";
    ["text/csv", "text/plain", "application/octet-stream"].map(|media_type| {
        let schema =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some(plainest)).description(Some(what));
        form(media_type, schema.into()).example(EXAMPLE)
    })
}

/// The media types of a batch in NDJSON. The second and third are what some programs call it.
const NDJSON_TYPES: [&str; 3] = [NDJSON, "application/ndjson", "application/jsonl"];

/// The media types of a batch in any form of rows.
pub(super) fn all_media_types() -> Vec<&'static str> {
    MEDIA_TYPES.into_iter().chain(NDJSON_TYPES).collect()
}

/// What a batch looks like in our own calls, for the OpenAPI document. Of CSV it is the first of the other calls' forms.
pub(super) fn own_forms() -> impl Iterator<Item = Form> {
    const EXAMPLE: &str = "{\"thirdPartyId\":\"crm-123\",\"city\":\"Oslo\",\"points\":12}\n\
                           {\"thirdPartyId\":\"crm-124\",\"city\":null}\n";
    let what = "An object a line, each a visitor: thirdPartyId or pcId, and attributes by name. A value is a text, a number, true, \
                false or null. The first line has all names, or is a header, such as \
                {\"batch\":\"thirdPartyId\",\"attributes\":[\"city\"]}.";
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
        .description(Some(what));
    [form(NDJSON, schema.into()).example(EXAMPLE)].into_iter().chain(forms().into_iter().take(1))
}

/// The parameters of a call that accepts a batch.
pub(super) fn options(operation: Operation) -> Operation {
    operation
        .switch("dryRun", "true: only says what would become of the rows. Nothing is written.")
        .query(
            "emptyValues",
            false,
            shapes::one_of(&["ignore", "remove"]),
            "remove: an empty value removes the attribute.",
        )
        .query(
            "asOf",
            false,
            shapes::time(),
            "The time that the values are of: RFC 3339, or milliseconds since 1970. What was written later is left alone.",
        )
        .query("name", false, shapes::batch_name(), "What to call the batch, for people: a file's name, say.")
        .header("X-Batch-Name", shapes::batch_name(), "The same as name, in ASCII.")
        .header("Profiled-As-Of", shapes::time(), "The same as asOf.")
        .header(
            "Idempotency-Key",
            shapes::pattern("^[!-~]{1,255}$"),
            "If the same key comes with the same body within 24 hours, the first answer is given again, and no second batch is made.",
        )
}

/// The encodings in which a batch file may come.
pub(super) const ENCODINGS: &str = "gzip, zstd, deflate";
/// The name that a client gives to one sending of a batch.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The answer's header that says that the batch was accepted when it was sent before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// What its sender calls a batch.
const BATCH_NAME: HeaderName = HeaderName::from_static("x-batch-name");
/// The time that the values of a batch are of, for clients that cannot change the URL.
const AS_OF: HeaderName = HeaderName::from_static("profiled-as-of");

/// What a call says of the batch in its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchCall {
    pub(super) version: BatchVersion,
    pub(super) empty_values: EmptyValues,
    /// The time that its values are of (R4).
    pub(super) as_of: Option<Millis>,
    /// Whether the batch is to be accepted, and not only tried out.
    pub(super) for_all: bool,
    /// The form of its rows.
    pub(super) rows: RowForm,
}

/// The form of the rows in a body, by its media type.
pub(super) fn row_form(request: &Request) -> Result<RowForm, HttpError> {
    let media_type = request.media_type()?;
    let ndjson = NDJSON_TYPES.iter().any(|it| it.eq_ignore_ascii_case(media_type));
    Ok(if ndjson { RowForm::Ndjson } else { RowForm::Csv })
}

/// Says in an answer whether the batch was accepted before.
pub(super) fn tell_replayed(answer: &mut Answer, before: bool) {
    if before {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Takes the body. `right` says what to send if its media type or encoding is wrong.
pub(super) async fn take_in(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
    call: BatchCall,
    media_types: &[&str],
    right: impl Fn() -> String + Copy,
) -> Result<Upload, HttpError> {
    let BatchCall { version, empty_values, as_of, for_all, rows } = call;
    request.check_content_type(media_types, right)?;
    let encoding = request.content_encoding(Some(ENCODINGS), right)?;
    let who = request.who(Some(client));
    let form = request.media_type()?.eq_ignore_ascii_case(FORM);
    let announced = Announced { encoding, bytes: request.content_length(), form, for_all, rows };
    // What can be refused is refused before the body is asked for: a client that expects a `100 Continue` sends none.
    let mut upload =
        front.app.accept_batch(&who, client, BatchTerms { version, empty_values, as_of }, announced).await?;
    while let Some(bytes) = request.body.next_holding(upload.place()).await? {
        upload.push(bytes).await?;
    }
    Ok(upload)
}

/// What a call says of the batch beside its rows.
pub(super) fn sending(request: &Request, query: &Params) -> Result<BatchSending, HttpError> {
    let (key, name) = (idempotency_key(request)?, batch_name(request, query)?);
    Ok(BatchSending { key, name, by: request.author() })
}

/// What the batch is called: `name=`, or the header `X-Batch-Name`.
fn batch_name(request: &Request, query: &Params) -> Result<Option<BatchName>, HttpError> {
    let in_header = request.has_header(&BATCH_NAME).then(|| request.header_text(&BATCH_NAME));
    let in_header = in_header.map(|text| text.ok_or_else(|| wrong_name("X-Batch-Name"))).transpose()?;
    let (by, text) = match (query.get("name"), in_header) {
        (Some(one), Some(other)) if one != other => {
            let why = format!("name is {one:?}, and X-Batch-Name is {other:?}: name the batch once");
            return Err(HttpError::Wrong(why));
        }
        (Some(text), _) => ("name", text),
        (None, Some(text)) => ("X-Batch-Name", text),
        (None, None) => return Ok(None),
    };
    BatchName::new(text).map(Some).ok_or_else(|| wrong_name(by))
}

fn wrong_name(by: &str) -> HttpError {
    HttpError::Wrong(format!(
        "{by} is not right: the name of a batch has 1 to {BATCH_NAME_CHARS_MAX} characters, no control characters, and no space \
         at its ends; in the header it is ASCII, and name= in the URL may be anything"
    ))
}

/// The key of the request, if it has one.
fn idempotency_key(request: &Request) -> Result<Option<IdempotencyKey>, HttpError> {
    if !request.has_header(&IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let key = request.header_text(&IDEMPOTENCY_KEY).and_then(IdempotencyKey::new);
    key.map(Some).ok_or_else(|| {
        HttpError::Wrong(format!(
            "Idempotency-Key is not right: it is 1 to {KEY_CHARS_MAX} visible ASCII characters, such as a UUID"
        ))
    })
}

/// The time that the batch's values are of (R4): `asOf=`, or the header `Profiled-As-Of`.
pub(super) fn as_of(request: &Request, query: &Params) -> Result<Option<Millis>, HttpError> {
    let time = |by: &str, text: &str| {
        Millis::parse(text).ok_or_else(|| {
            HttpError::Wrong(format!(
                "{by} {text:?} is not a time: write one such as 2026-11-27T02:00:00Z, or milliseconds since 1970"
            ))
        })
    };
    let in_query = query.get("asOf").map(|text| time("asOf", text)).transpose()?;
    let header = request.has_header(&AS_OF).then(|| request.header_text(&AS_OF).unwrap_or_default());
    let in_header = header.map(|text| time("Profiled-As-Of", text)).transpose()?;
    match (in_query, in_header) {
        (Some(one), Some(other)) if one != other => Err(HttpError::Wrong(format!(
            "asOf is {}, and Profiled-As-Of is {}: give the time once",
            one.iso_8601(),
            other.iso_8601()
        ))),
        _ => Ok(in_query.or(in_header)),
    }
}

/// What `emptyValues=` says (R6).
pub(super) fn empty_values(query: &Params) -> Result<EmptyValues, HttpError> {
    match query.get("emptyValues") {
        None | Some("ignore") => Ok(EmptyValues::Ignore),
        Some("remove") => Ok(EmptyValues::Remove),
        Some(other) => {
            Err(HttpError::Wrong(format!("emptyValues={other} is not known: it is remove, or ignore")))
        }
    }
}
