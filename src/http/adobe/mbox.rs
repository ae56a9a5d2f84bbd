//! `GET·POST /m2/{client}/mbox/{json,ajax,standard}` and `…/ubox/{raw,image,page}`: a site call. It creates the visitor, binds its ids
//! and writes `profile.*`. The answer is the mbox's [default content](super::default_content).
//!
//! A call without an `mboxPC` gets the visitor's: a new one, but the same in every call with the same other id. A page must not
//! break: an illegal attribute is left out, the call goes on, and a header of the answer says so. Only an illegal id, or a call
//! that could not be answered, is refused.

use crate::engine::{CallIds, SiteCall, Written};
use crate::http::adobe::cookies;
use crate::http::adobe::default_content::{DefaultContent, Handed, Kind};
use crate::http::adobe::site::{
    BLOCKED, BODY_BYTES_MAX, PROFILE_PARAMETER, give_pc_id, note_lost, random_id,
};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::left_out::LeftOut;
use crate::http::operation::{Operation, form};
use crate::http::request::{FORM, Params};
use crate::http::response::{JSON, SCRIPT, TEXT, XML};
use crate::http::{seq, shapes};
use crate::model::blocked::BlockedIds;
use crate::model::id::{IdKind, VisitorId};
use crate::model::profile::{
    NAME_CHARS_MAX, NameFault, SITE_CALL_VALUE_CHARS_MAX, Source, attribute_name_fault,
    is_too_long_for_a_site_call,
};
use crate::telemetry::metrics;

/// The most attributes in one call: Adobe's limit for standard mbox calls (R9).
const ATTRIBUTES_MAX: usize = 500;
/// The media types of a form: `navigator.sendBeacon` says of a string that it is the second.
const MEDIA_TYPES: [&str; 2] = [FORM, "text/plain"];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::GetOrPost,
        path: "/m2/{client}/mbox/{kind=json|ajax|standard}",
        name: "mbox",
        api: Api::Site { door: |kind| Kind::named(kind).door(), reads_cookies: false },
        access: Access::Page,
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| describe(operation, false, [JSON, SCRIPT])),
    },
    Endpoint {
        methods: Methods::GetOrPost,
        path: "/m2/{client}/ubox/{kind=raw|image|page}",
        name: "mbox",
        api: Api::Site { door: |kind| Kind::named(kind).door(), reads_cookies: true },
        access: Access::Page,
        client: Whose::InPath,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| describe(operation, true, [TEXT, TEXT])),
    },
];

const LIMITS: CallLimits =
    CallLimits { body: BodyLimit::Bytes(BODY_BYTES_MAX), rate: RateLimit::SiteCalls, scarce: &[] };

fn describe(operation: Operation, is_ubox: bool, refused_in: [&'static str; 2]) -> Operation {
    let [first, second] = refused_in;
    operation
        .id(if is_ubox { "ubox" } else { "mbox" })
        .summary("Reports an mbox from the site: creates the visitor, binds its ids, writes its attributes.")
        // A path with a kind that there is none of is no call's, and refused in XML.
        .refuses([first, second, XML].map(|media_type| form(media_type, shapes::anything())))
        .query("mboxPC", false, shapes::pc_id(), "The visitor's pcId, perhaps with a location hint.")
        .query("mbox3rdPartyId", false, shapes::third_party_id(), "The visitor's thirdPartyId.")
        .query("mbox", true, shapes::pattern("^[A-Za-z0-9_-]{1,50}$"), "The mbox's name.")
        .query("mboxSession", false, shapes::text(), "The session.")
        .query("mboxMCGVID", false, shapes::ecid(), "The visitor's ECID.")
        .query(
            "mboxDefault",
            is_ubox,
            shapes::pattern("^https?://[a-z]{1,20}/[a-z]{0,20}$"),
            "A ubox call redirects to it, or returns it.",
        )
        .attributes()
        .form_by_post(FORM)
        .answers(
            "200",
            "The default content.",
            [form(JSON, shapes::anything()), form(SCRIPT, shapes::text()), form(TEXT, shapes::text())],
        )
        .answers("302", "A redirect to mboxDefault.", [form(TEXT, shapes::text())])
        .bears_left_out(&["200", "302"])
        .bears_seq(&["200", "302"])
        .bears("302", "Location", "The value of mboxDefault.")
        .bears("200", "Set-Cookie", "A ubox call sets mboxPC.")
        .bears("302", "Set-Cookie", "A ubox call sets mboxPC.")
}

async fn answer(call: Call<'_>) -> Reply {
    let (client, kind) = (call.client()?, Kind::named(call.path.get("kind")));
    let body_bytes_max = call.body_bytes_max();
    let Call { front, request, .. } = call;
    let mut params = request.form(body_bytes_max, &MEDIA_TYPES).await?;
    if kind.is_ubox()
        && let Some(pc_id) = cookies::pc_id(request)
    {
        params.set_missing("mboxPC", pc_id);
    }
    let content = DefaultContent::of(kind, &params)?;
    let blocked = front.app.blocked_ids(client)?;
    request.note(|notes| params.get("mbox").into_iter().for_each(|name| notes.mbox(name)));
    let (ids, none) = ids(&params, &blocked)?;
    front.app.metrics().left_out(none.len(), metrics::LeftOut::BlockedId);
    let session_id = match params.get("mboxSession") {
        Some(sent) => sent.to_owned(),
        None => random_id()?,
    };
    let mut left_out = LeftOut::default();
    none.iter().for_each(|name| left_out.note_named("id", BLOCKED, name));
    let (attributes, illegal) = attributes(&params, &mut left_out);
    front.app.metrics().left_out(illegal, metrics::LeftOut::Illegal);
    if illegal > 0 {
        tracing::debug!(left_out = illegal, "a site call brought attributes that are not legal");
    }

    let own = ids.pc.clone();
    let brings_pc_id = params.get("mboxPC").is_some() && !none.contains(&"mboxPC");
    request.note(|notes| {
        notes.call_ids(&ids, own.as_ref().filter(|_| !brings_pc_id));
        notes.set(&attributes);
        notes.left_out(&left_out);
    });
    let call = SiteCall { client: client.clone(), ids, source: Source::Mbox, attributes };
    let written = front.app.site_call(call).await?;
    note_lost(&mut left_out, written.left_out);
    request.note(|notes| {
        notes.given(own.as_ref(), written.pc.as_ref());
        notes.left_out(&left_out);
    });

    let tnt_id = tnt_id(&params, own.as_ref(), &written);
    let mut answer = content.answer(&Handed { session_id: &session_id, tnt_id, offers: [] })?;
    if kind.is_ubox() && params.get("mboxXDomain") != Some("disabled") {
        let https = request.caller().https
            || front.app.public_url().is_some_and(|url| url.as_str().starts_with("https:"));
        cookies::keep(&mut answer, client, https, tnt_id, &session_id);
    }
    left_out.tell(&mut answer);
    seq::tell(&mut answer, written.seq);
    Ok(answer)
}

/// The ids that the call carries, and the names of those that are none and count as not sent.
fn ids(params: &Params, blocked: &BlockedIds) -> Result<(CallIds, Vec<&'static str>), HttpError> {
    let mut left_out = vec![];
    let mut id = |kind, name: &'static str| match params.get(name) {
        Some(text) if blocked.block(kind, text) => {
            left_out.push(name);
            Ok(None)
        }
        _ => params.id(kind, name),
    };
    let mut ids = CallIds {
        pc: id(IdKind::Pc, "mboxPC")?,
        third_party: id(IdKind::ThirdParty, "mbox3rdPartyId")?,
        ecid: id(IdKind::Ecid, "mboxMCGVID")?,
        made: vec![],
    };
    give_pc_id(&mut ids)?;
    Ok((ids, left_out))
}

/// The `pcId` to hand back: the call's own as sent, with its location hint, or the one that the visitor got.
fn tnt_id<'a>(params: &'a Params, own: Option<&'a VisitorId>, written: &'a Written) -> Option<&'a str> {
    let sent = params.get("mboxPC").filter(|sent| VisitorId::sent(IdKind::Pc, sent).ok().as_ref() == own);
    sent.or_else(|| written.pc.as_ref().or(own).map(VisitorId::as_str))
}

/// The attributes that are legal, and how many are not; those are noted with the reason.
fn attributes(params: &Params, left_out: &mut LeftOut) -> (Vec<(String, String)>, usize) {
    let mut kept = vec![];
    let mut illegal = 0;
    let mut leave_out = |why, name: &str| {
        left_out.note_named(PROFILE_PARAMETER, why, name);
        illegal += 1;
    };
    for (name, value) in params.attributes() {
        match fault(name, value) {
            Some(why) => leave_out(why, name),
            None if kept.len() == ATTRIBUTES_MAX => leave_out(format!("beyond {ATTRIBUTES_MAX}"), name),
            None => kept.push((name.to_owned(), value.to_owned())),
        }
    }
    for name in params.broken_attributes() {
        leave_out("whose name or value is not UTF-8".into(), name);
    }
    (kept, illegal)
}

/// What is wrong with an attribute, if anything is.
fn fault(name: &str, value: &str) -> Option<String> {
    match attribute_name_fault(name) {
        Some(NameFault::Empty | NameFault::Blank) => Some("whose name is blank".into()),
        Some(NameFault::Prefixed) => Some("whose name has \"profile.\" twice before it".into()),
        Some(NameFault::TooLong) => Some(format!("whose name has more than {NAME_CHARS_MAX} characters")),
        None if is_too_long_for_a_site_call(value) => {
            Some(format!("whose value has more than {SITE_CALL_VALUE_CHARS_MAX} characters"))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legal(query: &str) -> (Vec<(String, String)>, usize) {
        let mut left_out = LeftOut::default();
        let (attributes, illegal) = attributes(&Params::decode(query.as_bytes()), &mut left_out);
        assert_eq!(left_out.count(), illegal, "{query}");
        (attributes, illegal)
    }

    fn check(query: &str, kept: &[&str], left_out: usize) {
        let (attributes, out) = legal(query);
        let names: Vec<&str> = attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names.as_slice(), out), (kept, left_out), "{query}");
    }

    #[test]
    fn an_illegal_attribute_is_left_out_and_the_rest_stay() {
        check("mbox=m&profile.a=1&b=2&profile.c=3", &["a", "c"], 0);
        check("profile.=1&profile.%20=1&profile.profile.x=1&profile.a=1", &["a"], 3);
        check(&format!("profile.{}=1&profile.a=1", "x".repeat(129)), &["a"], 1);
        check(&format!("profile.a={}&profile.b={}", "é".repeat(5_000), "x".repeat(5_001)), &["a"], 1);
        check("profile.a=%FF&profile.%FF=1&x=%FF&profile.b=1", &["b"], 2);
        let many: String = (0..501).map(|n| format!("&profile.a{n}=1")).collect();
        let (kept, illegal) = legal(&many);
        assert_eq!((kept.len(), illegal), (500, 1));
    }

    #[test]
    fn a_call_without_any_id_gets_one_and_no_other_does() {
        let of = |query: &str| ids(&Params::decode(query.as_bytes()), &BlockedIds::default()).unwrap().0;
        let pc = |ids: CallIds| ids.pc.map(|id| id.as_str().to_owned());
        assert_eq!(pc(of("mboxPC=&mbox3rdPartyId=")).map(|id| id.len()), Some(32));
        assert_eq!(pc(of("mboxPC=&mbox3rdPartyId=x")), None);
        assert_eq!(pc(of("mboxMCGVID=38")), None);
        assert_eq!(pc(of("mboxPC=7.28_0")).as_deref(), Some("7"));
        let (params, written) =
            (Params::decode(b"mboxPC=7.28_0"), Written { seq: None, known: true, left_out: 0, pc: None });
        assert_eq!(tnt_id(&params, of("mboxPC=7.28_0").pc.as_ref(), &written), Some("7.28_0"));
    }
}
