//! `GET /rest/v1/profiles/{tntId}?client=…`, `…/thirdPartyId/{id}`, `…/marketingCloudVisitorId/{ecid}`: one profile.

use hyper::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use crate::engine::Visitor;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Handler, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::response::{Door, json};
use crate::model::id::{IdKind, VisitorId};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("/rest/v1/profiles/{id+}", |call| Box::pin(answer(call, IdKind::Pc))),
    endpoint("/rest/v1/profiles/thirdPartyId/{id}", |call| Box::pin(answer(call, IdKind::ThirdParty))),
    endpoint("/rest/v1/profiles/marketingCloudVisitorId/{id}", |call| Box::pin(answer(call, IdKind::Ecid))),
];

const fn endpoint(path: &'static str, handler: Handler) -> Endpoint {
    Endpoint {
        methods: Methods::Read,
        path,
        name: "profile_fetch",
        api: Api::Profile(Door::Rest),
        access: Access::Of(Scope::Read),
        client: Whose::InQuery,
        limits: CallLimits::NONE,
        handler,
        describe: Some(|operation| {
            operation.summary("Returns one visitor.").client().json::<Fetched<'_>>("The visitor.")
        }),
    }
}

async fn answer(call: Call<'_>, kind: IdKind) -> Reply {
    let (client, text) = (call.client()?, call.path.get("id"));
    let front = call.front;
    let visitor = match VisitorId::sent(kind, text) {
        Ok(id) => front.app.read(client, &id).await?,
        // Adobe answers an invalid id as it does an unknown one.
        Err(_) => None,
    };
    match visitor {
        Some(visitor) => json(StatusCode::OK, &Fetched::of(&visitor, text)),
        None => {
            let by = match kind {
                IdKind::Pc => "mboxPC",
                IdKind::ThirdParty => "third party id",
                IdKind::Ecid => "marketingCloudVisitorId",
            };
            Err(HttpError::NoProfile { client: client.clone(), by, id: text.to_owned() })
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Fetched<'a> {
    client: &'a str,
    /// The id that was asked for.
    visitor_id: &'a str,
    modified_at: String,
    profile_attributes: BTreeMap<&'a str, FetchedAttribute<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FetchedAttribute<'a> {
    value: &'a str,
    modified_at: String,
}

impl<'a> Fetched<'a> {
    fn of(visitor: &'a Visitor, asked_for: &'a str) -> Self {
        let attributes = visitor.attributes.iter().map(|attribute| {
            let modified_at = attribute.seq.millis().iso_8601();
            (attribute.name.as_str(), FetchedAttribute { value: &attribute.value, modified_at })
        });
        Self {
            client: visitor.client.as_str(),
            visitor_id: asked_for,
            modified_at: visitor.seq.millis().iso_8601(),
            profile_attributes: attributes.collect(),
        }
    }
}
