//! `/session`: signs in and out. A form brings the token; a cookie keeps it, which no script can read and no other site can send.
//!
//! The daemon keeps nothing of a session: the cookie is the token, and counts as long as the token does.

use askama::Template;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION, SET_COOKIE};

use super::{Frame, PAGES, render};
use crate::http::auth::{self, Access, SESSION};
use crate::http::endpoint::{BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::{HttpError, Unauthorized};
use crate::http::request::{FORM, Params, Request};
use crate::http::response::{Answer, no_content};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/session",
        name: "inspector session",
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
        name: "inspector session",
        api: PAGES,
        access: Access::Open,
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { end(&call) }),
        describe: None,
    },
];

#[derive(Template)]
#[template(path = "prompt.html")]
struct Prompt {
    frame: Frame,
    /// What is wrong with the token that was brought.
    told: Option<String>,
    /// Where to go on.
    next: String,
}

/// The form to bring a token by, in place of the page that asks for one.
pub(super) fn prompt(request: &Request, error: &HttpError) -> Result<Answer, HttpError> {
    let next = match request.raw_query() {
        // Asked again, whoever mistyped it still gets to the page they wanted.
        _ if request.path().starts_with("/session") => next(&request.query()).to_owned(),
        "" => request.path().to_owned(),
        query => format!("{}?{query}", request.path()),
    };
    let told = match error {
        HttpError::Unauthorized(Unauthorized::Refused(refusal)) => Some(refusal.to_string()),
        HttpError::Unauthorized(Unauthorized::Malformed) => Some("no token was brought".into()),
        _ => None,
    };
    let frame = Frame { title: "Sign in".into(), signed_in: false, ..Frame::of(request, None, "") };
    render(StatusCode::UNAUTHORIZED, &Prompt { frame, told, next })
}

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
    let tokens = front.tokens();
    if !tokens.are_asked_for() {
        return go_on(next, None);
    }
    if token.is_empty() {
        return Err(HttpError::Unauthorized(Unauthorized::Malformed));
    }
    if let Err(refusal) = tokens.verify(token, front.app.now()) {
        let error = HttpError::Unauthorized(Unauthorized::Refused(refusal));
        return Err(front.count_failure(request.caller(), error));
    }
    go_on(next, Some(cookie(token, request.caller().https)))
}

/// The page that was asked for, if it is one of this daemon's.
fn next(query: &Params) -> &str {
    query.get("next").filter(|next| leads_here(next)).unwrap_or("/")
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

/// Whether it is a path of this daemon, however a browser reads it.
fn leads_here(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.chars().all(|c| c.is_ascii_graphic() && c != '\\')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere() {
        let check = |next: &str, here| assert_eq!(leads_here(next), here, "{next}");
        check("/", true);
        check("/batches?client=demo&before=1", true);
        check("//evil.example/", false);
        check("/\\evil.example/", false);
        check("/\t/evil.example/", false);
        check("https://evil.example/", false);
        check("", false);
    }
}
