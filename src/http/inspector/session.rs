//! `/session`: signs in and out. A form brings the token; a cookie keeps it, which no script can read and no other site can send.
//!
//! The daemon keeps nothing of a session: the cookie is the token, and counts as long as the token does.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, SET_COOKIE};

use super::refusal::PAGES;
use super::sign_in::next;
use crate::http::auth::{self, Access, SESSION};
use crate::http::endpoint::{BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::{HttpError, Unauthorized};
use crate::http::request::{FORM, Params};
use crate::http::response::{Answer, no_content};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/session",
        name: "inspector_session",
        api: PAGES,
        access: Access::Open,
        client: Whose::Nobody,
        limits: CallLimits { body: BodyLimit::Bytes(8 << 10), ..CallLimits::NONE },
        handler: |call| Box::pin(begin(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Post,
        path: "/session/end",
        name: "inspector_session",
        api: PAGES,
        access: Access::Open,
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { end(&call) }),
        describe: None,
    },
];

/// Takes a token, if it counts.
async fn begin(call: Call<'_>) -> Reply {
    let body_bytes_max = call.body_bytes_max();
    let Call { front, request, .. } = call;
    auth::check_own_page(request)?;
    request.check_media_type(&[FORM], || format!("send the token as {FORM}, uncompressed"))?;
    let form = Params::decode(&request.body.collect(body_bytes_max).await?);
    let token = form.get("token").unwrap_or_default().trim();
    let query = request.query();
    let next = next(&query);
    let tokens = front.app.tokens();
    if !tokens.are_asked_for() {
        return go_on(next, None);
    }
    if token.is_empty() {
        return Err(auth::refusal(&tokens, Unauthorized::Malformed));
    }
    if let Err(why) = tokens.verify(token, front.app.now()) {
        let error = auth::refusal(&tokens, Unauthorized::Invalid(why));
        return Err(front.count_failure(request.caller(), error));
    }
    go_on(next, Some(cookie(token, request.caller().https)))
}

/// Forgets it.
fn end(call: &Call<'_>) -> Reply {
    auth::check_own_page(call.request)?;
    go_on("/", Some(format!("{}; Max-Age=0", cookie("", call.request.caller().https))))
}

fn cookie(token: &str, https: bool) -> String {
    let secure = if https { "; Secure" } else { "" };
    format!("{SESSION}={token}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

fn go_on(next: &str, cookie: Option<String>) -> Result<Answer, HttpError> {
    let header = |text: &str| HeaderValue::try_from(text).map_err(|e| HttpError::Inside(e.to_string()));
    let mut answer = no_content();
    *answer.status_mut() = StatusCode::SEE_OTHER;
    answer.headers_mut().insert(LOCATION, header(next)?);
    if let Some(cookie) = cookie {
        answer.headers_mut().insert(SET_COOKIE, header(&cookie)?);
    }
    Ok(answer)
}
