//! The form that takes a token, in place of a page that needs one; and where to go on afterwards.

use askama::Template;
use hyper::StatusCode;

use super::page::{Frame, render};
use crate::http::error::{HttpError, Unauthorized};
use crate::http::request::{Params, Request};
use crate::http::response::Answer;

#[derive(Template)]
#[template(path = "prompt.html")]
struct Prompt {
    frame: Frame,
    /// What is wrong with the token that was brought.
    message: Option<String>,
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
    let message = match error {
        HttpError::Unauthorized(Unauthorized::Invalid(why)) => Some(why.to_string()),
        HttpError::Unauthorized(Unauthorized::Malformed) => Some("no token was brought".into()),
        _ => None,
    };
    let frame = Frame { title: "Sign in".into(), signed_in: false, ..Frame::of_any(request, None, "") };
    render(StatusCode::UNAUTHORIZED, &Prompt { frame, message, next })
}

/// The page that was asked for, if it is one of this daemon's.
pub(super) fn next(query: &Params) -> &str {
    query.get("next").filter(|next| leads_here(next)).unwrap_or("/")
}

/// Whether it is a path of this daemon, however a browser reads it.
fn leads_here(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.chars().all(|c| c.is_ascii_graphic() && c != '\\')
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
