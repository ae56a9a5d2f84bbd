//! `POST /rest/v1/mbox/{sessionId}?client=…`: one mbox, as Adobe's older server-side SDKs and samples call it, in JSON. It is
//! a site call as Delivery is one; what differs is the form: the ids stand at the top level, and an mbox's default content
//! is an empty string.
//!
//! A call without a session id gets one. The `tntId` goes back without a location hint, for the reason that Delivery has:
//! old clients go where it leads.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::http::Front;
use crate::http::adobe::delivery::body::{Taken, take};
use crate::http::adobe::delivery::call::{Id, Ids, Parameters, Unused};
use crate::http::adobe::delivery::{DeliveredIds, check_session_id, client_of, edge_host, write};
use crate::http::adobe::site::random_id;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::response::{Answer, json};
use crate::model::profile::Source;

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    session_id: Option<&str>,
) -> Result<Answer, HttpError> {
    let query = request.query().strict()?;
    let client = client_of(&front.app, &query)?;
    let session_id = match session_id.or_else(|| query.get("sessionId")) {
        Some(sent) => {
            check_session_id(Some(sent))?;
            sent.to_owned()
        }
        None => random_id()?,
    };
    let base_url = request.base_url(&front.app)?;
    let Taken { call, _place } = take::<Call>(front, request, Some(&client)).await?;
    let Call { tnt_id, third_party_id, marketing_cloud_visitor_id, .. } = call;
    let sent = Ids { tnt_id, third_party_id, marketing_cloud_visitor_id };
    let (ids, left_out) =
        write(front, &client, Some(&sent), "", Source::Mbox, trimmed(call.profile_parameters)).await?;

    let content = Content {
        id: DeliveredIds::of(&ids),
        edge_host: edge_host(&base_url),
        content: "",
        session_id: &session_id,
    };
    let mut answer = json(StatusCode::OK, &content)?;
    left_out.tell(&mut answer);
    Ok(answer)
}

/// What is used of a call; other keys may hold anything.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(rename = "mbox")]
    _mbox: String,
    tnt_id: Option<Id>,
    third_party_id: Option<Id>,
    marketing_cloud_visitor_id: Option<Id>,
    profile_parameters: Option<Parameters>,
    #[serde(rename = "mboxParameters")]
    _mbox_parameters: Option<Unused>,
}

/// Adobe: "All String parameters in the request will be trimmed."
fn trimmed(sent: Option<Parameters>) -> Vec<(String, String)> {
    let Some(Parameters(sent)) = sent else { return vec![] };
    sent.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    #[serde(flatten)]
    id: DeliveredIds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge_host: Option<&'a str>,
    content: &'static str,
    session_id: &'a str,
}
