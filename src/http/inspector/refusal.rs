//! The refusal of a page is a page, too.

use askama::Template;
use hyper::StatusCode;

use super::page::{Frame, HTML, render};
use super::sign_in;
use crate::http::endpoint::Api;
use crate::http::error::HttpError;
use crate::http::request::Request;
use crate::http::response::{Answer, explained, whole};
use crate::model::id::ClientCode;

/// Whose conventions the pages follow.
pub(super) const PAGES: Api = Api::Inspector(refusal);

/// The refusal of a page: a page that says why. If a token is missing, it has a form to bring one.
fn refusal(request: &Request, error: &HttpError) -> Answer {
    let status = error.status();
    let answer = if status == StatusCode::UNAUTHORIZED {
        sign_in::prompt(request, error)
    } else {
        let title = status.canonical_reason().unwrap_or("Refused");
        // What was done for one client goes on there.
        let client = request.query().get("client").and_then(|code| ClientCode::new(code).ok());
        let frame = Frame { title: title.into(), ..Frame::of_any(request, client.as_ref(), "") };
        render(status, &Refused { frame, status: status.as_u16(), message: error.to_string() })
    };
    // A page that cannot be rendered has no better words for another.
    explained(answer.unwrap_or_else(|error| whole(error.status(), HTML, vec![])), error)
}

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    status: u16,
    message: String,
}
