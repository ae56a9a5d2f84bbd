//! `GET /api/v1/live[?client=][&id=][&seconds=]`: calls as they come in, with what was understood of each; as NDJSON, as server-sent
//! events, or as lines of text.

use hyper::header::ACCEPT;

use crate::engine::gates::Scarce;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::live_feed::{SECONDS_MAX, Told, listen, write_line};
use crate::http::operation::{form, form_of};
use crate::http::response::{EVENTS, NDJSON, TEXT};
use crate::http::shapes;
use crate::http::stream::{EventForm, server_sent};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/live",
    name: "live",
    api: Api::Native,
    // It tells what every caller sends, values and all.
    access: Access::Of(Scope::Admin),
    client: Whose::OfToken,
    limits: CallLimits { scarce: &[Scarce::EventStreams], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Tells calls that write to visitors as they come in: what was understood, what was left out and why, what became of it.")
            .says("Nothing is kept: it begins with the next call. A node of several tells the calls that it takes itself.")
            .query("client", false, shapes::client(), "Only calls of this client. Without it: of all clients of the token.")
            .query("id", false, shapes::any_id(), "Only calls of the visitor with this id, and with the ids that it has besides.")
            .query("seconds", false, shapes::count(SECONDS_MAX), "Ends after so many seconds. Without it, it goes on.")
            .answers("200", "The events.", [
                form_of::<Told<'_>>(NDJSON),
                form(EVENTS, server_sent(false)),
                form(TEXT, shapes::text()),
            ])
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let accepted = call.request.header_text(&ACCEPT).unwrap_or_default();
    if accepted.contains("text/plain") {
        return listen(&call, TEXT, write_line).await;
    }
    let form = EventForm::of(accepted);
    listen(&call, form.media_type(), move |told, bytes| {
        form.write(told.name(), None::<&str>, told, bytes);
    })
    .await
}
