//! `GET·POST /m2/{client}/mbox/json`: a site call. It creates the visitor, binds the ids it carries and writes
//! `profile.*`; it offers no content.
//!
//! Without an `mboxPC` the visitor gets a new one, handed back as `tntId`. A call that brings an ECID gets none: the
//! ECID says who it is, and binding it to a new `pcId` each time would take it from the visitor it belongs to.
//! A page must not break: an illegal attribute is left out and the call goes on; only an illegal id is refused.

use hyper::StatusCode;
use serde::Serialize;

use crate::app::{CallIds, SiteCall};
use crate::http::Front;
use crate::http::error::HttpError;
use crate::http::request::{Params, Request, check_attribute_name, client};
use crate::http::response::{Answer, json};
use crate::model::id::{IdKind, VisitorId};
use crate::model::profile::Source;

/// The most attributes in one call (R9).
const ATTRIBUTES_MAX: usize = 50;
/// The longest value, in characters (R9).
const VALUE_CHARS_MAX: usize = 5_000;
/// The largest body: more than fifty of the longest names and values, in three encoded bytes a character.
const BODY_BYTES_MAX: usize = 1 << 20;

pub(in crate::http) async fn answer(
    front: &Front,
    request: &mut Request,
    code: &str,
) -> Result<Answer, HttpError> {
    let client = client(code)?;
    let params = request.form(BODY_BYTES_MAX).await?;
    let (ids, tnt_id) = ids(&params)?;
    let session_id = match params.get("mboxSession") {
        Some(sent) => sent.to_owned(),
        None => random_id()?,
    };
    let (attributes, left_out) = attributes(&params);
    if left_out > 0 {
        tracing::debug!(left_out, "a site call brought attributes that are not legal");
    }

    front.app.site_call(SiteCall { client, ids, source: Source::Mbox, attributes }).await?;

    json(StatusCode::OK, &Mbox { session_id: &session_id, tnt_id: tnt_id.as_deref(), offers: [] })
}

/// What at.js reads of an answer; no offers mean that the page's own content stays.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mbox<'a> {
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tnt_id: Option<&'a str>,
    offers: [(); 0],
}

/// The ids that the call carries, and the `pcId` to hand back: as sent, with its location hint, or a new one.
fn ids(params: &Params) -> Result<(CallIds, Option<String>), HttpError> {
    let mut ids = CallIds {
        pc: params.id(IdKind::Pc, "mboxPC")?,
        third_party: params.id(IdKind::ThirdParty, "mbox3rdPartyId")?,
        ecid: params.id(IdKind::Ecid, "mboxMCGVID")?,
    };
    let mut tnt_id = params.get("mboxPC").map(str::to_owned);
    if ids.pc.is_none() && ids.ecid.is_none() {
        let new = random_id()?;
        ids.pc = VisitorId::new(IdKind::Pc, &new).ok();
        tnt_id = Some(new);
    }
    Ok((ids, tnt_id))
}

/// The attributes that are legal, and how many are not.
fn attributes(params: &Params) -> (Vec<(String, String)>, usize) {
    let mut kept = vec![];
    let mut left_out = 0;
    for (name, value) in params.attributes() {
        let fits = kept.len() < ATTRIBUTES_MAX && value.chars().nth(VALUE_CHARS_MAX).is_none();
        if fits && check_attribute_name(name).is_ok() {
            kept.push((name.to_owned(), value.to_owned()));
        } else {
            left_out += 1;
        }
    }
    (kept, left_out)
}

/// A new id: 32 hexadecimal digits, as Adobe's are.
fn random_id() -> Result<String, HttpError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| HttpError::Inside(format!("no random numbers: {e}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, kept: &[&str], left_out: usize) {
        let (attributes, out) = attributes(&Params::decode(query.as_bytes()));
        let names: Vec<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.as_slice(), out), (kept, left_out), "{query}");
    }

    #[test]
    fn an_illegal_attribute_is_left_out_and_the_rest_stay() {
        check("mbox=m&profile.a=1&b=2&profile.c=3", &["a", "c"], 0);
        check("profile.=1&profile.%20=1&profile.profile.x=1&profile.a=1", &["a"], 3);
        check(&format!("profile.{}=1&profile.a=1", "x".repeat(129)), &["a"], 1);
        check(&format!("profile.a={}&profile.b={}", "é".repeat(5_000), "x".repeat(5_001)), &["a"], 1);
        let many: String = (0..51).map(|n| format!("&profile.a{n}=1")).collect();
        assert_eq!(attributes(&Params::decode(many.as_bytes())).1, 1);
    }

    #[test]
    fn a_visitor_without_an_id_gets_one() {
        let of = |query: &str| ids(&Params::decode(query.as_bytes())).unwrap();
        let (ids, tnt_id) = of("mboxPC=&mbox3rdPartyId=x");
        assert_eq!(ids.pc.unwrap().as_str(), tnt_id.as_deref().unwrap());
        assert_eq!(tnt_id.unwrap().len(), 32);
        let (ids, tnt_id) = of("mboxPC=7.28_0");
        assert_eq!((ids.pc.unwrap().as_str(), tnt_id.as_deref()), ("7", Some("7.28_0")));
        let (ids, tnt_id) = of("mboxMCGVID=38");
        assert_eq!((ids.pc, tnt_id), (None, None));
    }
}
