//! `GET·POST /m2/{client}/profile/update?mboxPC=…` or `mbox3rdPartyId=…` `&profile.x=…`: updates one visitor.
//!
//! It never creates a visitor. Like Adobe's, the body of its answer does not say whether there is one; a header does. A caller
//! that puts a value with a raw `&` into the URL loses the rest of the value: it is a parameter of its own, which a header names.

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use crate::engine::{SingleUpdate, Visitor, Written};
use crate::http::adobe::site::note_lost;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::left_out::{LeftOut, shown};
use crate::http::operation::form;
use crate::http::request::{FORM, Params, check_attribute_name};
use crate::http::response::{Door, XML, xml};
use crate::http::{seq, shapes};
use crate::model::batch::Outcome;
use crate::model::blocked::BlockedIds;
use crate::model::id::{IdKind, VisitorId};
use crate::model::profile::NAME_PREFIX;
use crate::tokens::Scope;

/// Adobe: 8 KB by GET.
const GET_BYTES_MAX: usize = 8 << 10;
/// Adobe: 60 KB by POST.
const POST_BYTES_MAX: usize = 60 << 10;

/// The answer's header that says what became of the update, in the words of a batch's rows.
const OUTCOME: HeaderName = HeaderName::from_static("profiled-outcome");

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::GetOrPost,
    path: "/m2/{client}/profile/update",
    name: "profile_update",
    api: Api::Profile(Door::Update),
    access: Access::Of(Scope::Batch),
    client: Whose::InPath,
    limits: CallLimits { body: BodyLimit::Bytes(POST_BYTES_MAX), ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .id("updateProfile")
            .summary("Updates one visitor who exists.")
            .query("mboxPC", false, shapes::pc_id(), "The visitor's pcId, perhaps with a location hint.")
            .query("mbox3rdPartyId", false, shapes::third_party_id(), "The visitor's thirdPartyId.")
            .attributes()
            .form_by_post(FORM)
            .answers("200", "The update is accepted.", [form(XML, shapes::text())])
            .bears_seq(&["200"])
            .bears("200", "Profiled-Outcome", "updated, not_found (the call creates no visitor) or ignored.")
            .bears_left_out(&["200"])
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (client, body_bytes_max) = (call.client()?, call.body_bytes_max());
    let Call { front, request, .. } = call;
    if request.method() == Method::GET && request.raw_query().len() > GET_BYTES_MAX {
        return Err(HttpError::UriTooLong(format!(
            "the parameters have more than {GET_BYTES_MAX} bytes: send them by POST, up to {POST_BYTES_MAX} bytes"
        )));
    }
    let params = request.form(body_bytes_max, &[FORM]).await?.strict()?;
    let id = visitor(&params, &front.app.blocked_ids(client)?)?;
    let attributes = attributes(&params)?;
    request.note(|notes| {
        notes.id(&id, false);
        notes.set(&attributes);
    });

    let by = request.author();
    let update = SingleUpdate { client: client.clone(), id: id.clone(), attributes, by };
    let written = front.app.update(update).await?;

    let pc_id = match (id.kind(), params.get("mboxPC")) {
        (_, Some(sent)) => sent.to_owned(),
        (IdKind::ThirdParty, None) if written.known => {
            front.app.read(client, &id).await?.and_then(|visitor| pc_id(&visitor)).unwrap_or_default()
        }
        _ => String::new(),
    };
    let mut answer = xml(
        StatusCode::OK,
        &[("success", "true"), ("pcId", &pc_id), ("message", "Request successfully submitted")],
    );
    answer.headers_mut().insert(OUTCOME, HeaderValue::from_static(outcome(&written)));
    let mut left_out = LeftOut::default();
    note_lost(&mut left_out, written.left_out);
    for name in params.names().filter(|name| !name.starts_with(NAME_PREFIX) && !name.starts_with("mbox")) {
        left_out.note(1, "parameter", format!("that is no profile.NAME: {}", shown(name)));
    }
    left_out.tell(&mut answer);
    seq::tell(&mut answer, written.seq);
    request.note(|notes| {
        notes.outcome(outcome(&written));
        notes.left_out(&left_out);
    });
    Ok(answer)
}

/// What became of it: a visitor that is not there, also one of a client that nobody meant (`/m2/client/…` of Adobe's
/// example), is not found; empty values alone change nothing.
fn outcome(written: &Written) -> &'static str {
    match (written.known, written.seq) {
        (false, _) => Outcome::NotFound.name(),
        (true, None) => Outcome::Ignored.name(),
        (true, Some(_)) => Outcome::Updated.name(),
    }
}

/// The visitor that the call names. Where both ids are there the thirdPartyId counts: it is the key that a profile is
/// kept under, and this call binds nothing.
fn visitor(params: &Params, blocked: &BlockedIds) -> Result<VisitorId, HttpError> {
    for (kind, name) in [(IdKind::ThirdParty, "mbox3rdPartyId"), (IdKind::Pc, "mboxPC")] {
        if let Some(text) = params.get(name).filter(|text| blocked.block(kind, text)) {
            return Err(HttpError::Wrong(format!(
                "{name}={text:?} is no id but what stands where there is none (blocked_ids): leave the call out, or name the visitor"
            )));
        }
    }
    let third_party = params.id(IdKind::ThirdParty, "mbox3rdPartyId")?;
    let pc = params.id(IdKind::Pc, "mboxPC")?;
    third_party.or(pc).ok_or_else(|| {
        HttpError::Wrong("no visitor is named: add mboxPC=… or mbox3rdPartyId=… to the parameters".into())
    })
}

fn attributes(params: &Params) -> Result<Vec<(String, String)>, HttpError> {
    let mut attributes = vec![];
    for (name, value) in params.attributes() {
        check_attribute_name(name).map_err(HttpError::Wrong)?;
        attributes.push((name.to_owned(), value.to_owned()));
    }
    if attributes.is_empty() {
        return Err(HttpError::Wrong(
            "there is nothing to write: add profile.NAME=value to the parameters".into(),
        ));
    }
    Ok(attributes)
}

/// The `pcId` that was bound last.
fn pc_id(visitor: &Visitor) -> Option<String> {
    let linked = visitor.linked.iter().rev().find(|id| id.kind() == IdKind::Pc);
    linked.map(|id| id.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_party_id_comes_first_and_an_illegal_one_is_refused() {
        let id = |query: &str| {
            visitor(&Params::decode(query.as_bytes()), &BlockedIds::default()).map_err(|e| e.to_string())
        };
        assert_eq!(id("mboxPC=1.28_0").unwrap().as_str(), "1");
        assert_eq!(id("mboxPC=1&mbox3rdPartyId=x").unwrap().kind(), IdKind::ThirdParty);
        assert!(id("mboxPC=1&mbox3rdPartyId=undefined").unwrap_err().contains("blocked_ids"));
        assert!(id("profile.a=1").unwrap_err().contains("mboxPC="));
        assert!(id("mbox3rdPartyId=a%2Fb&mboxPC=1").unwrap_err().contains("'/' is not allowed"));
    }
}
