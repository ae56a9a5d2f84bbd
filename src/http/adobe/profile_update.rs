//! `GET·POST /m2/{client}/profile/update?mboxPC=…` or `mbox3rdPartyId=…` `&profile.x=…`: one visitor's update.
//!
//! It never creates a visitor, and its answer, like Adobe's, doesn't say whether there is one.

use hyper::{Method, StatusCode};

use crate::app::{SingleUpdate, Visitor};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{FORM, Params, Request, check_attribute_name};
use crate::http::response::{Answer, xml};
use crate::model::id::{ClientCode, IdKind, VisitorId};

/// Adobe: 8 KB by GET.
const GET_BYTES_MAX: usize = 8 << 10;
/// Adobe: 60 KB by POST.
const POST_BYTES_MAX: usize = 60 << 10;

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    client: &ClientCode,
) -> Result<Answer, HttpError> {
    if request.method() == Method::GET && request.raw_query().len() > GET_BYTES_MAX {
        return Err(HttpError::UriTooLong(format!(
            "the parameters have more than {GET_BYTES_MAX} bytes: send them by POST, up to {POST_BYTES_MAX} bytes"
        )));
    }
    let params = request.form(POST_BYTES_MAX, &[FORM]).await?.strict()?;
    let id = visitor(&params)?;
    let attributes = attributes(&params)?;

    let written =
        front.app.update(SingleUpdate { client: client.clone(), id: id.clone(), attributes }).await?;

    let pc_id = match (id.kind(), params.get("mboxPC")) {
        (_, Some(sent)) => sent.to_owned(),
        (IdKind::ThirdParty, None) if written.known => {
            front.app.read(client, &id).await?.and_then(|visitor| pc_id(&visitor)).unwrap_or_default()
        }
        _ => String::new(),
    };
    Ok(xml(
        StatusCode::OK,
        &[("success", "true"), ("pcId", &pc_id), ("message", "Request successfully submitted")],
    ))
}

/// The visitor that the call names. Where both ids are there the thirdPartyId counts: it is the key that a profile is
/// kept under, and this call binds nothing.
fn visitor(params: &Params) -> Result<VisitorId, HttpError> {
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
        let id = |query: &str| visitor(&Params::decode(query.as_bytes())).map_err(|e| e.to_string());
        assert_eq!(id("mboxPC=1.28_0").unwrap().as_str(), "1");
        assert_eq!(id("mboxPC=1&mbox3rdPartyId=x").unwrap().kind(), IdKind::ThirdParty);
        assert!(id("profile.a=1").unwrap_err().contains("mboxPC="));
        assert!(id("mbox3rdPartyId=a%2Fb&mboxPC=1").unwrap_err().contains("'/' is not allowed"));
    }
}
