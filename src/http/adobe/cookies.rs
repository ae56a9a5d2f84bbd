//! The cookies of ubox calls: emails, banners and apps have no page that could keep a visitor's ids.
//!
//! The daemon sets `mboxPC` and `mboxSession`, as Adobe's servers do ("Target cookies": they "attempt to set third-party cookies
//! named `mboxSession` and `mboxPC`"). Adobe's mobile SDK 4 takes its ids from them and sends them back. Only mbox.js and at.js
//! write the cookie called `mbox`. A daemon on a host of the site's own domain receives it, and takes the `pcId` from it.
//!
//! Other calls neither set nor read cookies: a page gets its ids in the answer and keeps them itself, and no page can learn ids
//! that it did not know.

use hyper::header::{HeaderValue, SET_COOKIE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::http::request::Request;
use crate::http::response::Answer;
use crate::model::id::{ClientCode, IdKind};

const PC: &str = "mboxPC";
const SESSION: &str = "mboxSession";
/// As long as mbox.js keeps a `pcId` (`tntIdLifetime`), and as long as a profile lives by default.
const PC_SECONDS: u32 = 14 * 24 * 60 * 60;
/// As long as mbox.js keeps a session (`sessionExpirationTimeout`).
const SESSION_SECONDS: u32 = 31 * 60;
/// The longest value that is set, in bytes as sent; browsers drop a cookie of more than 4096.
const VALUE_BYTES_MAX: usize = 2_048;
/// What may stand in a value as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The `pcId` that a browser sends along, if it is a legal one.
pub(super) fn pc_id(request: &Request) -> Option<String> {
    let own = request.cookie(PC);
    let of_the_site = request.cookie("mbox").and_then(pc_of);
    own.into_iter().chain(of_the_site).map(decoded).find(|id| IdKind::Pc.check(id).is_ok())
}

/// The `pcId` in mbox.js's cookie: `PC#ID.28_0#EXPIRY|session#ID#EXPIRY|check#true#EXPIRY`, in any order.
fn pc_of(mbox: &str) -> Option<&str> {
    mbox.split('|').find_map(|part| part.strip_prefix("PC#")?.split('#').next())
}

fn decoded(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// Has the browser keep the visitor's ids, for this client. `https` says whether it got here that way: only then may a
/// cookie be sent from the pages of other sites.
pub(super) fn keep(
    answer: &mut Answer,
    client: &ClientCode,
    https: bool,
    pc_id: Option<&str>,
    session_id: &str,
) {
    let site = if https { "SameSite=None; Secure" } else { "SameSite=Lax" };
    let ids = [(PC, pc_id, PC_SECONDS), (SESSION, Some(session_id), SESSION_SECONDS)];
    for (name, id, seconds) in ids {
        let Some(id) = id else { continue };
        let id = utf8_percent_encode(id, ENCODED).to_string();
        if id.len() > VALUE_BYTES_MAX {
            continue;
        }
        let cookie = format!("{name}={id}; Max-Age={seconds}; Path=/m2/{client}/; HttpOnly; {site}");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            answer.headers_mut().append(SET_COOKIE, cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pc_id_is_found_in_mbox_js_s_cookie() {
        let check = |cookie: &str, id: Option<&str>| assert_eq!(pc_of(cookie), id, "{cookie}");
        check("PC#1.28_0#1800000000|session#2#1700000000", Some("1.28_0"));
        check("session#2#1700000000|PC#1.28_0#1800000000", Some("1.28_0"));
        check("check#true#1700000000|session#2#1700000000", None);
        check("PC#", Some(""));
        check("", None);
        check("xPC#1#2", None);
    }
}
