//! The inspector: pages for people, rendered here and readable without a script. They show what the native API reports: a visitor
//! with who set what and when, batches with what became of their rows, a place to drop a batch file on, calls as they come in, and the
//! nodes of an order. An administrator changes and erases visitors there.
//!
//! Promises: templates escape what a page shows of visitors and files. A page runs no script, and loads nothing, from anywhere but
//! this daemon. A handler asks for no more than the token of the call allows.

mod batches;
mod clients;
mod cluster;
mod comparison;
mod distribution;
mod edit;
mod find;
mod found;
mod health;
mod home;
mod live;
mod page;
mod plot;
mod refusal;
mod session;
mod sign_in;
mod upload;
mod visitor;
mod words;

use hyper::StatusCode;

use super::auth::Access;
use super::endpoint::{CallLimits, Endpoint, Methods, Whose};
use super::error::HttpError;
use super::response::{Answer, whole};
use refusal::PAGES;

/// All pages, and what belongs to them.
pub(super) const ENDPOINTS: &[&[Endpoint]] = &[
    home::ENDPOINTS,
    visitor::ENDPOINTS,
    find::ENDPOINTS,
    edit::ENDPOINTS,
    batches::ENDPOINTS,
    upload::ENDPOINTS,
    live::ENDPOINTS,
    cluster::ENDPOINTS,
    session::ENDPOINTS,
    ASSETS,
];

/// `/assets/{name}`: what pages load.
const ASSETS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/assets/{name}",
    name: "inspector_asset",
    api: PAGES,
    access: Access::Open,
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(async move { asset(call.path.get("name")) }),
    describe: None,
}];

/// What pages load: it is in the binary.
fn asset(name: &str) -> Result<Answer, HttpError> {
    let (media_type, text) = match name {
        "inspector.css" => ("text/css;charset=UTF-8", include_str!("assets/inspector.css")),
        "inspector.js" => ("text/javascript;charset=UTF-8", include_str!("assets/inspector.js")),
        "icon.svg" => ("image/svg+xml", include_str!("assets/icon.svg")),
        _ => return Err(HttpError::NotFound("there is nothing at this path".into())),
    };
    Ok(whole(StatusCode::OK, media_type, text.into()))
}
