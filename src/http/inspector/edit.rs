//! `POST /visitors/set`, `/visitors/remove`, `/visitors/erase`: what an administrator changes on a visitor's page. Forms of that page
//! send them; the browser is led back to it, or gets a receipt.

use askama::Template;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};

use super::page::{Frame, render};
use super::refusal::PAGES;
use super::words::Moment;
use crate::engine::SingleUpdate;
use crate::http::auth::Access;
use crate::http::endpoint::{BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::kinds;
use crate::http::request::{FORM, Params, check_attribute_name, visitor_id};
use crate::http::response::no_content;
use crate::http::{seq, visitor_write};
use crate::model::id::VisitorId;
use crate::model::seq::Seq;
use crate::tokens::Scope;

/// The largest form: as a single update by POST.
const FORM_BYTES_MAX: usize = 60 << 10;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/visitors/set",
        name: "inspector_set",
        api: PAGES,
        access: Access::Of(Scope::Admin),
        client: Whose::OfPage,
        limits: LIMITS,
        handler: |call| Box::pin(set(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Post,
        path: "/visitors/remove",
        name: "inspector_remove",
        api: PAGES,
        access: Access::Of(Scope::Admin),
        client: Whose::OfPage,
        limits: LIMITS,
        handler: |call| Box::pin(remove(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Post,
        path: "/visitors/erase",
        name: "inspector_erase",
        api: PAGES,
        access: Access::Of(Scope::Admin),
        client: Whose::OfPage,
        limits: LIMITS,
        handler: |call| Box::pin(erase(call)),
        describe: None,
    },
];

const LIMITS: CallLimits = CallLimits { body: BodyLimit::Bytes(FORM_BYTES_MAX), ..CallLimits::NONE };

/// What an erasure leaves in the hands of whoever asked for it.
#[derive(Template)]
#[template(path = "erased.html")]
struct Receipt {
    frame: Frame,
    kind: &'static str,
    id: String,
    seq: String,
    at: Moment,
    within_hours: u64,
}

/// The form, and the visitor that it names.
async fn form(call: &mut Call<'_>) -> Result<(Params, VisitorId), HttpError> {
    if call.client.is_none() {
        return Err(HttpError::Wrong("client= is missing: name the client".into()));
    }
    let body_bytes_max = call.body_bytes_max();
    call.request.check_media_type(&[FORM], || format!("send the form as {FORM}, uncompressed"))?;
    let form = Params::decode(&call.request.body.collect(body_bytes_max).await?).strict()?;
    let kind = kinds::named(form.get("by").unwrap_or_default())?;
    let id = form.get("id").ok_or_else(|| HttpError::Wrong("id= is missing: name the visitor".into()))?;
    let id = visitor_id(kind, id)?;
    Ok((form, id))
}

/// Sets an attribute, as a single update does.
async fn set(mut call: Call<'_>) -> Reply {
    let (form, id) = form(&mut call).await?;
    let client = call.client()?;
    let name = form.get("name").unwrap_or_default();
    check_attribute_name(name).map_err(HttpError::Wrong)?;
    let value = form.get("value").ok_or_else(|| {
        HttpError::Wrong("an empty value changes nothing: to have none, remove the attribute".into())
    })?;
    // A browser sends each line end of a field as two characters.
    let attributes = vec![(name.to_owned(), value.replace("\r\n", "\n"))];
    call.request.note(|notes| {
        notes.id(&id, false);
        notes.set(&attributes);
    });
    let update =
        SingleUpdate { client: client.clone(), id: id.clone(), attributes, by: call.request.author() };
    let written = call.front.app.update(update).await?;
    if written.left_out > 0 {
        let why =
            "the profile has no room for this value (max_profile_bytes): shorten it, or remove attributes";
        return Err(HttpError::Wrong(why.into()));
    }
    let seq = written.seq.ok_or_else(|| {
        let (kind, id) = (id.kind().name(), id.as_str());
        HttpError::NotFound(format!("client {client} has no visitor with {kind} {id}"))
    })?;
    call.request.note(|notes| notes.outcome("updated"));
    back(&call, &id, "set", seq)
}

/// Removes an attribute.
async fn remove(mut call: Call<'_>) -> Reply {
    let (form, id) = form(&mut call).await?;
    let seq = visitor_write::remove(&mut call, id.clone(), form.get("name").unwrap_or_default()).await?;
    back(&call, &id, "removed", seq)
}

/// Erases the visitor, if the form says that it is meant.
async fn erase(mut call: Call<'_>) -> Reply {
    let (form, id) = form(&mut call).await?;
    if form.get("sure") != Some("yes") {
        return Err(HttpError::Wrong("nothing was erased: tick the box that says that you mean it".into()));
    }
    let seq = visitor_write::erase(&mut call, id.clone()).await?;
    let frame = Frame::of(call.front, call.request, call.client, "Look up");
    let receipt = Receipt {
        frame: Frame { title: "Erased".into(), ..frame },
        kind: id.kind().name(),
        id: id.as_str().to_owned(),
        seq: seq.to_string(),
        at: Moment::of(seq.millis(), call.front.app.now()),
        within_hours: call.front.app.erase_within_ms() / 3_600_000,
    };
    let mut answer = render(StatusCode::OK, &receipt)?;
    seq::tell(&mut answer, Some(seq));
    Ok(answer)
}

/// Back to the visitor's page, which says what was done.
fn back(call: &Call<'_>, id: &VisitorId, done: &str, seq: Seq) -> Reply {
    let (by, client) = (kinds::name(id.kind()), call.client()?);
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("client", client.as_str()), ("by", by), ("id", id.as_str()), ("done", done)])
        .append_pair("seq", &seq.to_string())
        .finish();
    let mut answer = no_content();
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let page = HeaderValue::try_from(format!("/visitors?{query}"));
    answer.headers_mut().insert(LOCATION, page.map_err(|error| HttpError::Inside(error.to_string()))?);
    seq::tell(&mut answer, Some(seq));
    Ok(answer)
}
