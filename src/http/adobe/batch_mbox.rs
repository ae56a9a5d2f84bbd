//! `POST /rest/v2/batchmbox?client=…`: several mboxes at once, as Adobe's mobile SDK of version 4 and its first Node client
//! call it, in JSON. It is a site call as Delivery is one; what differs is the form.
//!
//! The client may be named in the body alone, and the session not at all. Nothing that stands in `notifications` refuses a
//! call: the mobile SDK sends a notification that was refused again with every later call, and they write nothing.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::http::Front;
use crate::http::adobe::delivery::body::{Taken, take};
use crate::http::adobe::delivery::call::{
    Ids, Kept, Object, Parameters, Unused, Weighs, check_mbox_count, text_weight,
};
use crate::http::adobe::delivery::{DeliveredIds, check_session_id, client_of, edge_host, write};
use crate::http::adobe::site::random_id;
use crate::http::error::HttpError;
use crate::http::request::{Request, client};
use crate::http::response::{Answer, json};
use crate::model::profile::Source;

pub(in crate::http) async fn answer(front: &Front, request: &mut Request) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    if let Some(session_id) = query.get("sessionId") {
        check_session_id(Some(session_id))?;
    }
    let base_url = request.base_url(&front.app)?;
    let Taken { mut call, _place } = take::<Call>(front, request, None).await?;
    check_mbox_count("mboxes", call.mboxes.as_ref())?;
    check_mbox_count("prefetch", call.prefetch.as_ref())?;
    let client = match call.client.as_deref().filter(|code| !code.is_empty()) {
        Some(code) if query.get("client").is_none() => client(code)?,
        _ => client_of(&front.app, &query)?,
    };
    let attributes = call.profile_parameters.take().map(|Parameters(sent)| sent).unwrap_or_default();
    let sent = call.id.as_ref().map(|Object(ids)| ids);
    let (ids, left_out) = write(front, &client, sent, "id.", Source::Mbox, attributes).await?;

    let contents = Contents {
        request_id: &random_id()?,
        client: client.as_str(),
        id: DeliveredIds::of(&ids),
        edge_host: edge_host(&base_url),
        content_as_json: call.content_as_json == Some(true),
        mbox_responses: call.mboxes.as_ref().map(contents),
        prefetch_responses: call.prefetch.as_ref().map(contents),
    };
    let mut answer = json(StatusCode::OK, &contents)?;
    left_out.tell(&mut answer);
    Ok(answer)
}

/// What is used of a call; other keys may hold anything.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    client: Option<String>,
    id: Option<Object<Ids>>,
    content_as_json: Option<bool>,
    profile_parameters: Option<Parameters>,
    mboxes: Option<Kept<Mbox>>,
    prefetch: Option<Kept<Mbox>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mbox {
    index_id: Option<i64>,
    mbox: String,
    #[serde(rename = "parameters")]
    _parameters: Option<Unused>,
}

impl Weighs for Mbox {
    fn weight(&self) -> usize {
        text_weight(Some(&self.mbox))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Contents<'a> {
    request_id: &'a str,
    client: &'a str,
    id: DeliveredIds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge_host: Option<&'a str>,
    content_as_json: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mbox_responses: Option<Vec<Content<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefetch_responses: Option<Vec<Content<'a>>>,
}

/// The default content of an mbox: the SDK reads `content` as a string, and keeps the app's own if it is empty.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index_id: Option<i64>,
    mbox: &'a str,
    content: &'static str,
}

fn contents(asked: &Kept<Mbox>) -> Vec<Content<'_>> {
    asked.iter().map(|mbox| Content { index_id: mbox.index_id, mbox: &mbox.mbox, content: "" }).collect()
}
