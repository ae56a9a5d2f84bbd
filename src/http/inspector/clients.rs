//! The clients, on a page that is about one client when nobody has said which one.

use askama::Template;

use super::words::{Moment, grouped};
use crate::engine::EngineError;
use crate::engine::read::clients::ListedClient;
use crate::http::auth::Bearer;
use crate::http::endpoint::Call;
use crate::http::error::HttpError;
use crate::model::seq::Millis;
use crate::tokens::Scope;

/// A list of clients to choose from, and a field for any other.
#[derive(Template)]
#[template(path = "clients.html")]
pub(super) struct Choice {
    /// The page that opens for the client.
    to: &'static str,
    clients: Vec<Listed>,
    more: bool,
}

struct Listed {
    code: String,
    batches: String,
    incomplete: u64,
    rows: String,
    newest: Option<Moment>,
}

impl Choice {
    /// The choice, if the page has no client.
    pub(super) async fn of(call: &Call<'_>, to: &'static str) -> Result<Option<Self>, HttpError> {
        if call.client.is_some() {
            return Ok(None);
        }
        let mut choice = Self { to, clients: vec![], more: false };
        if may_list(call.bearer) {
            let now = call.front.app.now();
            match call.front.app.clients(&call.request.who(None)).await {
                // So many ask at once that the page comes without the list.
                Err(EngineError::Taken(..) | EngineError::MadeRoom(_)) => {}
                listed => {
                    let listed = listed?;
                    choice.more = listed.more;
                    choice.clients = listed.clients.iter().map(|one| Listed::of(one, now)).collect();
                }
            }
        }
        Ok(Some(choice))
    }
}

fn may_list(bearer: &Bearer) -> bool {
    bearer.sees(None) && bearer.may(Scope::Read)
}

impl Listed {
    fn of(listed: &ListedClient, now: Millis) -> Self {
        Self {
            code: listed.client.to_string(),
            batches: grouped(listed.batches),
            incomplete: listed.batches_incomplete,
            rows: grouped(listed.rows),
            newest: listed.newest_batch.map(|at| Moment::of(at, now)),
        }
    }
}
