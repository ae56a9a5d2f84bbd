//! `GET /api/v1/clients`: which clients there are, and what is kept of their batches.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::gates::Scarce;
use crate::engine::read::clients::{CLIENTS_MAX, ListedClient};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::response::json;
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/clients",
    name: "clients",
    api: Api::Native,
    access: Access::Everywhere(Scope::Read),
    client: Whose::Nobody,
    limits: CallLimits { scarce: &[Scarce::Counts], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary(
                "Lists the clients: those that the settings name, and those that have visitors or batches.",
            )
            .says(&format!("By their codes, {CLIENTS_MAX} at most."))
            .json::<Clients<'_>>("The clients.")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let Call { front, request, .. } = call;
    let listed = front.app.clients(&request.who(None)).await?;
    let clients = listed.clients.iter().map(Client::of).collect();
    json(StatusCode::OK, &Clients { clients, more: listed.more })
}

/// The clients.
#[derive(Serialize, ToSchema)]
struct Clients<'a> {
    clients: Vec<Client<'a>>,
    /// Whether there are more than are listed.
    more: bool,
}

/// A client, and its batches that are kept.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Client<'a> {
    client: &'a str,
    /// Whether the settings name it.
    configured: bool,
    /// How many batches are kept.
    batches: u64,
    /// How many of them are not applied yet.
    batches_incomplete: u64,
    /// How many rows they have.
    rows: u64,
    /// When the newest of them was accepted.
    #[schema(format = "date-time")]
    newest_batch_at: Option<String>,
}

impl<'a> Client<'a> {
    fn of(listed: &'a ListedClient) -> Self {
        let ListedClient { client, configured, batches, batches_incomplete, rows, newest_batch } = listed;
        Self {
            client: client.as_str(),
            configured: *configured,
            batches: *batches,
            batches_incomplete: *batches_incomplete,
            rows: *rows,
            newest_batch_at: newest_batch.map(|at| at.iso_8601()),
        }
    }
}
