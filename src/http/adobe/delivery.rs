//! `POST /rest/v1/delivery?client=…` or `imsOrgId=…` `&sessionId=…`: a site call as Adobe's SDKs make it. It creates the
//! visitor, binds the ids it carries and writes `profileParameters`; it offers no content.
//!
//! Only the keys that are used have a type here. Other keys of Adobe's OpenAPI, and unknown ones, may hold anything. If a
//! parameter is illegal (R9, map by map), the whole call is refused, unlike an mbox call, and the message says where. If a
//! name occurs twice, the later value counts. The order does not depend on the text, because a JSON object has no order. It
//! is: `execute.pageLoad`, `execute.mboxes`, `prefetch.views`, `prefetch.pageLoad`, `prefetch.mboxes`, `notifications`.
//!
//! Adobe's SDKs leave this host for one of Adobe's when an answer names a cluster, even if `serverDomain` is set. An answer
//! can name one in two places. A `tntId` with a location hint (`.28_0`) sends the SDKs to `mboxedge28.tt.omtrdc.net`, so the
//! answer has it without the hint. In an `edgeHost` with exactly four labels they take the first label for the cluster, so
//! `127.0.0.1` sends them to `mboxedge127.tt.omtrdc.net`, and the answer does not name such a host.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{CallIds, Engine, SiteCall};
use crate::http::adobe::site::{BLOCKED, give_pc_id, note_lost, random_id};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::left_out::LeftOut;
use crate::http::operation::form_of;
use crate::http::request::{Params, Request, client, visitor_id};
use crate::http::response::{Answer, Door, JSON, json, no_content};
use crate::http::{Front, seq, shapes};
use crate::model::blocked::BlockedIds;
use crate::model::id::{ClientCode, IdKind, VisitorId, visible};
use crate::model::profile::Source;
use crate::model::seq::Seq;
use crate::telemetry::metrics;

pub(super) mod body;
mod bounded;
pub(super) mod call;

use body::{Taken, take};
use call::{Delivery, Id, Ids, KEPT_BYTES_MAX, Kept, Mbox, Object, View, shortened};

/// Adobe: 1 to 128 characters, none of these.
const SESSION_ID_CHARS_MAX: usize = 128;
const SESSION_ID_FORBIDDEN: [char; 5] = [' ', '?', '/', '{', '}'];

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Post,
    path: "/rest/v1/delivery",
    name: "delivery",
    api: Api::Site { door: |_| Door::Rest, reads_cookies: false },
    access: Access::Page,
    client: Whose::InBody,
    limits: body::LIMITS,
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Reports a page view or a notification from the site, as Adobe's SDKs do.")
            .client()
            .query("imsOrgId", false, shapes::text(), "The organisation, instead of client.")
            .query("sessionId", true, shapes::session_id(), "The session.")
            .body([form_of::<Delivery>(JSON).example(serde_json::json!({
                "id": {"tntId": "d7a3", "thirdPartyId": "crm-123"},
                "execute": {"mboxes": [{"index": 0, "name": "home", "profileParameters": {"city": "Oslo"}}]},
            }))])
            .json::<Delivered<'_>>("The default content: no offers.")
            .answers("204", "The beacon is accepted.", [])
            .bears_left_out(&["200", "204"])
            .bears_seq(&["200", "204"])
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let Call { front, request, .. } = call;
    let client = client_of(&front.app, &query)?;
    check_session_id(query.get("sessionId"))?;
    let base_url = request.base_url(&front.app)?;
    let Taken { call, _place } = take::<Delivery>(front, request, Some(&client)).await?;
    let mut call = call.with_few_mboxes()?;
    let attributes = call.take_attributes();
    request.note(|notes| call.mbox_names().for_each(|name| notes.mbox(name)));
    let (ids, told) = write(front, request, &client, call.ids(), "id.", Source::Delivery, attributes).await?;

    if call.is_beacon() {
        let mut answer = no_content();
        told.tell(&mut answer);
        return Ok(answer);
    }
    let request_id = match call.request_id.take().filter(|Id(id)| !id.is_empty()) {
        Some(Id(sent)) => sent,
        None => random_id()?,
    };
    let delivered = Delivered::of(&call, &request_id, &client, &ids, edge_host(&base_url));
    let mut answer = json(StatusCode::OK, &delivered)?;
    told.tell(&mut answer);
    Ok(answer)
}

/// What the headers of an answer tell of a write.
pub(super) struct Told {
    left_out: LeftOut,
    seq: Option<Seq>,
}

impl Told {
    /// Tells it.
    pub(super) fn tell(&self, answer: &mut Answer) {
        self.left_out.tell(answer);
        seq::tell(answer, self.seq);
    }
}

/// Writes what a call in JSON brings. Gives the ids to answer with, a `tntId` always among them, and what the answer tells of
/// it; `place` is where the ids stand in the call.
pub(super) async fn write(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
    sent: Option<&Ids>,
    place: &str,
    source: Source,
    attributes: Vec<(String, String)>,
) -> Result<(CallIds, Told), HttpError> {
    request.note(|notes| {
        notes.client(client);
        notes.set(&attributes);
    });
    // More would keep the commit thread for long, and the most of it no profile has room for.
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > KEPT_BYTES_MAX {
        return Err(HttpError::TooLarge(format!(
            "the profileParameters have {bytes} bytes in all, more than {KEPT_BYTES_MAX}: send them in several calls"
        )));
    }
    let (mut ids, none) = ids(sent, place, &front.app.blocked_ids(client)?)?;
    front.app.metrics().left_out(none.len(), metrics::LeftOut::BlockedId);
    let mut left_out = LeftOut::default();
    none.iter().for_each(|key| left_out.note_named("id", BLOCKED, key));
    let brings_pc_id = ids.pc.is_some();
    give_pc_id(&mut ids)?;
    request.note(|notes| {
        notes.call_ids(&ids, ids.pc.as_ref().filter(|_| !brings_pc_id));
        notes.left_out(&left_out);
    });
    let site_call = SiteCall { client: client.clone(), ids: ids.clone(), source, attributes };
    let written = front.app.site_call(site_call).await?;
    note_lost(&mut left_out, written.left_out);
    request.note(|notes| {
        notes.given(ids.pc.as_ref(), written.pc.as_ref());
        notes.left_out(&left_out);
    });
    ids.pc = ids.pc.or(written.pc);
    Ok((ids, Told { left_out, seq: written.seq }))
}

/// The client that `client=` names, else the one to which the organisation belongs, else the default one.
pub(super) fn client_of(app: &Engine, query: &Params) -> Result<ClientCode, HttpError> {
    if let Some(code) = query.get("client") {
        return client(code);
    }
    let org = query.get("imsOrgId");
    let found = org.and_then(|org| app.client_of_ims_org(org)).or_else(|| app.default_client());
    found.ok_or_else(|| {
        HttpError::Wrong(match org {
            Some(org) => format!(
                "imsOrgId={org:?} belongs to no client, and no default client is configured: \
                 name it in ims_orgs under [clients.NAME], or add client=… to the query"
            ),
            None => "client= and imsOrgId= are missing, and no default client is configured".into(),
        })
    })
}

pub(super) fn check_session_id(session_id: Option<&str>) -> Result<(), HttpError> {
    let wrong = |what: String| {
        let right =
            format!("it has 1 to {SESSION_ID_CHARS_MAX} characters, none of them a space, ?, /, {{ or }}");
        Err(HttpError::Wrong(format!("sessionId {what}: {right}")))
    };
    let Some(session_id) = session_id else { return wrong("is missing".into()) };
    if let Some(c) = session_id.chars().find(|c| SESSION_ID_FORBIDDEN.contains(c) || c.is_control()) {
        return wrong(format!("holds '{}'", c.escape_default()));
    }
    if session_id.chars().nth(SESSION_ID_CHARS_MAX).is_some() {
        return wrong("is too long".into());
    }
    Ok(())
}

/// The ids that the call carries, checked; an empty one counts as absent, and so does one that is none. Gives the keys of
/// the latter.
fn ids(
    sent: Option<&Ids>,
    place: &str,
    blocked: &BlockedIds,
) -> Result<(CallIds, Vec<&'static str>), HttpError> {
    let mut left_out = vec![];
    let mut check = |kind, key: &'static str, id: Option<&Id>| {
        let text = id.map(|Id(text)| text);
        if text.is_some_and(|text| blocked.block(kind, text)) {
            left_out.push(key);
            return Ok(None);
        }
        let text = text.filter(|text| !visible(text).is_empty());
        let id = text.map(|text| visitor_id(kind, text)).transpose();
        id.map_err(|e| HttpError::Wrong(shortened(format!("{place}{key}: {e}"))))
    };
    let Some(sent) = sent else { return Ok((CallIds::default(), left_out)) };
    let ids = CallIds {
        pc: check(IdKind::Pc, "tntId", sent.tnt_id.as_ref())?,
        third_party: check(IdKind::ThirdParty, "thirdPartyId", sent.third_party_id.as_ref())?,
        ecid: check(IdKind::Ecid, "marketingCloudVisitorId", sent.marketing_cloud_visitor_id.as_ref())?,
        made: vec![],
    };
    Ok((ids, left_out))
}

/// The host to name as the one that answered, if the SDKs then come back to it.
pub(super) fn edge_host(base_url: &str) -> Option<&str> {
    let (_, rest) = base_url.split_once("://")?;
    let host = rest.split('/').next()?;
    (host.split('.').count() != 4).then_some(host)
}

/// The answer to a call, as the SDKs read it; no options mean that the page's own content stays.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Delivered<'a> {
    status: u16,
    request_id: &'a str,
    client: &'a str,
    id: DeliveredIds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edge_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    execute: Option<DeliveredContent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    prefetch: Option<DeliveredContent<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    notifications: Option<Vec<Notified<'a>>>,
}

/// The visitor's ids: strings and nothing else, and the `tntId` always.
// Adobe's mobile extension for iOS drops the whole object for any other value in it (`TargetDeliveryResponse.swift`), and
// that for Android forgets its `tntId` if the answer has none (`TargetResponseParser.java`).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeliveredIds<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required, schema_with = shapes::pc_id)]
    pub(super) tnt_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = shapes::third_party_id)]
    pub(super) third_party_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = shapes::ecid)]
    pub(super) marketing_cloud_visitor_id: Option<&'a str>,
}

impl<'a> DeliveredIds<'a> {
    pub(super) fn of(ids: &'a CallIds) -> Self {
        let text = |id: &'a Option<VisitorId>| id.as_ref().map(VisitorId::as_str);
        Self {
            tnt_id: text(&ids.pc),
            third_party_id: text(&ids.third_party),
            marketing_cloud_visitor_id: text(&ids.ecid),
        }
    }
}

/// What `execute` and `prefetch` give for what was asked of them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeliveredContent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    page_load: Option<Nothing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    mboxes: Option<Vec<MboxContent<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    views: Option<Vec<ViewContent<'a>>>,
}

#[derive(Serialize, Default, ToSchema)]
struct Nothing {
    #[schema(value_type = Vec<String>, max_items = 0)]
    options: [(); 0],
}

#[derive(Serialize, ToSchema)]
struct MboxContent<'a> {
    index: i64,
    name: &'a str,
    #[schema(value_type = Vec<String>, max_items = 0)]
    options: [(); 0],
}

#[derive(Serialize, ToSchema)]
struct ViewContent<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<&'a str>,
    #[schema(value_type = Vec<String>, max_items = 0)]
    options: [(); 0],
}

#[derive(Serialize, ToSchema)]
struct Notified<'a> {
    id: &'a str,
}

impl<'a> Delivered<'a> {
    fn of(
        call: &'a Delivery,
        request_id: &'a str,
        client: &'a ClientCode,
        ids: &'a CallIds,
        edge_host: Option<&'a str>,
    ) -> Self {
        let id = DeliveredIds::of(ids);
        let execute = call.execute.as_ref().map(|Object(asked)| DeliveredContent {
            page_load: asked.page_load.as_ref().map(|_| Nothing::default()),
            mboxes: asked.mboxes.as_ref().map(mboxes),
            views: None,
        });
        let prefetch = call.prefetch.as_ref().map(|Object(asked)| DeliveredContent {
            page_load: asked.page_load.as_ref().map(|_| Nothing::default()),
            mboxes: asked.mboxes.as_ref().map(mboxes),
            views: asked.views.as_ref().map(views),
        });
        let notified = |notification: &'a call::Notification| Notified { id: &notification.id.0 };
        let notifications = call.notifications.as_ref().map(|all| all.iter().map(notified).collect());
        let status = StatusCode::OK.as_u16();
        Self { status, request_id, client: client.as_str(), id, edge_host, execute, prefetch, notifications }
    }
}

fn mboxes(asked: &Kept<Mbox>) -> Vec<MboxContent<'_>> {
    // The SDKs, too, number mboxes that bear no index.
    let numbered = (0..).zip(asked.iter());
    let content = numbered.map(|(at, mbox)| MboxContent {
        index: mbox.index.unwrap_or(at),
        name: &mbox.name,
        options: [],
    });
    content.collect()
}

/// The views asked for by name; one without a name asks for all there are, and there are none.
fn views(asked: &Kept<View>) -> Vec<ViewContent<'_>> {
    let named = asked.iter().filter_map(|view| Some((view.name.as_deref()?, view.key.as_deref())));
    named.map(|(name, key)| ViewContent { name, key, options: [] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_only_where_the_sdks_come_back_to_it() {
        let check = |url, expected| assert_eq!(edge_host(url), expected, "{url}");
        check("http://localhost:8750", Some("localhost:8750"));
        check("https://profiles.example.com/a.b/c", Some("profiles.example.com"));
        check("http://a.b.profiles.example.com", Some("a.b.profiles.example.com"));
        check("http://[::1]:8750", Some("[::1]:8750"));
        check("http://127.0.0.1:8750", None);
        check("https://eu.profiles.example.com", None);
    }

    #[test]
    fn session_ids_are_adobes() {
        for legal in ["s", "10abf6304b2714215b1fd39a870f01afc#1555632114", "é", &"é".repeat(128)] {
            assert!(check_session_id(Some(legal)).is_ok(), "{legal}");
        }
        for illegal in ["a b", "?", "a/b", "{", "}", "\n", &"x".repeat(129)] {
            assert!(check_session_id(Some(illegal)).is_err(), "{illegal}");
        }
    }
}
