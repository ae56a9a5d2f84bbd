//! `POST /rest/v1/mbox/{sessionId}?client=…`: one mbox, in JSON, as Adobe's older server-side SDKs and samples call it. It does what
//! a Delivery call does, in another form: the ids are at the top level, and the default content is an empty string.
//!
//! A call without a session id gets one. The `tntId` of the answer has no location hint, because old clients go where it leads,
//! as Delivery's do.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::adobe::delivery::body::{LIMITS, Taken, take};
use crate::http::adobe::delivery::call::{Id, Ids, Parameters, Unused, profile_parameters, unused};
use crate::http::adobe::delivery::{DeliveredIds, check_session_id, client_of, edge_host, write};
use crate::http::adobe::site::random_id;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, Endpoint, Methods, Reply, Whose};
use crate::http::operation::form_of;
use crate::http::response::{Door, JSON, json};
use crate::http::shapes;
use crate::model::profile::Source;

pub(super) const ENDPOINTS: &[Endpoint] =
    &[endpoint("/rest/v1/mbox"), endpoint("/rest/v1/mbox/{session_id+}")];

const fn endpoint(path: &'static str) -> Endpoint {
    Endpoint {
        methods: Methods::Post,
        path,
        name: "rest_mbox",
        api: Api::Site { door: |_| Door::Rest, reads_cookies: false },
        access: Access::Page,
        client: Whose::InBody,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| {
            operation
                .summary("Reports one mbox, in JSON, as older SDKs do.")
                .client()
                .body([form_of::<RestMbox>(JSON)])
                .json::<RestMboxContent<'_>>("The default content: an empty string.")
                .bears_left_out(&["200"])
                .bears_seq(&["200"])
        }),
    }
}

async fn answer(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let Call { front, request, path, .. } = call;
    let session_id = Some(path.get("session_id")).filter(|id| !id.is_empty());
    let client = client_of(&front.app, &query)?;
    let session_id = match session_id.or_else(|| query.get("sessionId")) {
        Some(sent) => {
            check_session_id(Some(sent))?;
            sent.to_owned()
        }
        None => random_id()?,
    };
    let base_url = request.base_url(&front.app)?;
    let Taken { call, _place } = take::<RestMbox>(front, request, Some(&client)).await?;
    let RestMbox { tnt_id, third_party_id, marketing_cloud_visitor_id, .. } = call;
    request.note(|notes| notes.mbox(&call.mbox));
    let sent = Ids { tnt_id, third_party_id, marketing_cloud_visitor_id };
    let (ids, told) =
        write(front, request, &client, Some(&sent), "", Source::Mbox, trimmed(call.profile_parameters))
            .await?;

    let DeliveredIds { tnt_id, third_party_id, marketing_cloud_visitor_id } = DeliveredIds::of(&ids);
    let content = RestMboxContent {
        tnt_id,
        third_party_id,
        marketing_cloud_visitor_id,
        edge_host: edge_host(&base_url),
        content: "",
        session_id: &session_id,
    };
    let mut answer = json(StatusCode::OK, &content)?;
    told.tell(&mut answer);
    Ok(answer)
}

/// The members that are read; others may hold anything.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RestMbox {
    mbox: String,
    #[schema(schema_with = shapes::pc_id)]
    tnt_id: Option<Id>,
    #[schema(schema_with = shapes::third_party_id)]
    third_party_id: Option<Id>,
    #[schema(schema_with = shapes::ecid)]
    marketing_cloud_visitor_id: Option<Id>,
    #[schema(schema_with = profile_parameters)]
    profile_parameters: Option<Parameters>,
    #[serde(rename = "mboxParameters")]
    #[schema(schema_with = unused)]
    _mbox_parameters: Option<Unused>,
}

/// Adobe: "All String parameters in the request will be trimmed."
fn trimmed(sent: Option<Parameters>) -> Vec<(String, String)> {
    let Some(Parameters(sent)) = sent else { return vec![] };
    sent.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect()
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RestMboxContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required, schema_with = shapes::pc_id)]
    tnt_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = shapes::third_party_id)]
    third_party_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = shapes::ecid)]
    marketing_cloud_visitor_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edge_host: Option<&'a str>,
    content: &'static str,
    session_id: &'a str,
}
