//! `POST /rest/v2/batchmbox?client=…`: several mboxes at once, in JSON, as Adobe's mobile SDK 4 and its first Node client call
//! it. It does what a Delivery call does, in another form.
//!
//! The body may name the client, and the session may be missing. Nothing in `notifications` refuses a call: they write nothing,
//! and the mobile SDK would send a refused notification again with every later call.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::adobe::delivery::body::{LIMITS, Taken, take};
use crate::http::adobe::delivery::call::{
    Ids, Kept, Object, Parameters, Unused, Weighs, check_mbox_count, profile_parameters, text_weight, unused,
};
use crate::http::adobe::delivery::{DeliveredIds, check_session_id, client_of, edge_host, write};
use crate::http::adobe::site::random_id;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, Endpoint, Methods, Reply, Whose};
use crate::http::operation::form_of;
use crate::http::request::client;
use crate::http::response::{Door, JSON, json};
use crate::http::shapes;
use crate::model::profile::Source;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Post,
    path: "/rest/v2/batchmbox",
    name: "batch_mbox",
    api: Api::Site { door: |_| Door::Rest, reads_cookies: false },
    access: Access::Page,
    client: Whose::InBody,
    limits: LIMITS,
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Reports several mboxes, as Adobe's mobile SDK 4 does.")
            .query(
                "client",
                false,
                shapes::client(),
                "The client. Leave it out if the body names it, if imsOrgId does, or if there is a default client.",
            )
            .query("imsOrgId", false, shapes::text(), "The organisation, instead of client.")
            .query("sessionId", false, shapes::session_id(), "The session.")
            .body([form_of::<BatchMbox>(JSON)])
            .json::<BatchMboxContents<'_>>("The default content: empty strings.")
            .bears_left_out(&["200"])
                .bears_seq(&["200"])
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let Call { front, request, .. } = call;
    if let Some(session_id) = query.get("sessionId") {
        check_session_id(Some(session_id))?;
    }
    let base_url = request.base_url(&front.app)?;
    let Taken { mut call, _place } = take::<BatchMbox>(front, request, None).await?;
    check_mbox_count("mboxes", call.mboxes.as_ref())?;
    check_mbox_count("prefetch", call.prefetch.as_ref())?;
    let client = match call.client.as_deref().filter(|code| !code.is_empty()) {
        Some(code) if query.get("client").is_none() => client(code)?,
        _ => client_of(&front.app, &query)?,
    };
    let attributes = call.profile_parameters.take().map(|Parameters(sent)| sent).unwrap_or_default();
    let sent = call.id.as_ref().map(|Object(ids)| ids);
    let mboxes = [&call.mboxes, &call.prefetch].into_iter().flatten().flat_map(Kept::iter);
    request.note(|notes| mboxes.for_each(|mbox| notes.mbox(&mbox.mbox)));
    let (ids, told) = write(front, request, &client, sent, "id.", Source::Mbox, attributes).await?;

    let contents = BatchMboxContents {
        request_id: &random_id()?,
        client: client.as_str(),
        id: DeliveredIds::of(&ids),
        edge_host: edge_host(&base_url),
        content_as_json: call.content_as_json == Some(true),
        mbox_responses: call.mboxes.as_ref().map(contents),
        prefetch_responses: call.prefetch.as_ref().map(contents),
    };
    let mut answer = json(StatusCode::OK, &contents)?;
    told.tell(&mut answer);
    Ok(answer)
}

/// The members that are read; others may hold anything.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchMbox {
    #[schema(schema_with = shapes::client)]
    client: Option<String>,
    #[schema(value_type = Option<Ids>)]
    id: Option<Object<Ids>>,
    content_as_json: Option<bool>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
    #[schema(value_type = Option<Vec<AskedMbox>>, max_items = 50)]
    mboxes: Option<Kept<AskedMbox>>,
    #[schema(value_type = Option<Vec<AskedMbox>>, max_items = 50)]
    prefetch: Option<Kept<AskedMbox>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AskedMbox {
    #[schema(minimum = 0, maximum = 1000)]
    index_id: Option<i64>,
    mbox: String,
    #[serde(rename = "parameters")]
    #[schema(schema_with = unused)]
    _parameters: Option<Unused>,
}

impl Weighs for AskedMbox {
    fn weight(&self) -> usize {
        text_weight(Some(&self.mbox))
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchMboxContents<'a> {
    request_id: &'a str,
    client: &'a str,
    id: DeliveredIds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edge_host: Option<&'a str>,
    content_as_json: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    mbox_responses: Option<Vec<BatchMboxContent<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    prefetch_responses: Option<Vec<BatchMboxContent<'a>>>,
}

/// The default content of an mbox: the SDK reads `content` as a string, and keeps the app's own if it is empty.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchMboxContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    index_id: Option<i64>,
    mbox: &'a str,
    content: &'static str,
}

fn contents(asked: &Kept<AskedMbox>) -> Vec<BatchMboxContent<'_>> {
    asked
        .iter()
        .map(|mbox| BatchMboxContent { index_id: mbox.index_id, mbox: &mbox.mbox, content: "" })
        .collect()
}
