//! `/api/v1/tokens`: lists access tokens, makes them and revokes them while the daemon runs; on a node of several for all nodes.
//!
//! Promises: only the answer that makes a token has its text, and none has its hash. Each act is in the audit trail of the daemon
//! that took the call.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use crate::engine::Engine;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::form_of;
use crate::http::response::{JSON, json};
use crate::http::shapes;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::tokens::{Scope, Token, TokenName, WantedToken};

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/tokens",
        name: "tokens",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { list(&call) }),
        describe: Some(|operation| {
            operation
                .summary("Lists all tokens, also those that were revoked.")
                .json::<TokenList>("The tokens, oldest first, without their texts.")
        }),
    },
    Endpoint {
        methods: Methods::Post,
        path: "/api/v1/tokens",
        name: "tokens",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: CallLimits { body: BodyLimit::Bytes(4 << 10), ..CallLimits::NONE },
        handler: |call| Box::pin(make(call)),
        describe: Some(|operation| {
            operation
                .summary("Makes a token.")
                .says("It counts at once, on a node of several for all nodes. With the first token, access control begins.")
                .body([form_of::<WantedShape>(JSON)])
                .answers("201", "The token. Its text is never shown again.", [form_of::<MadeToken>(JSON)])
        }),
    },
    Endpoint {
        methods: Methods::Delete,
        path: "/api/v1/tokens/{id}",
        name: "token",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(revoke(call)),
        describe: Some(|operation| {
            operation
                .path(
                    "id",
                    shapes::pattern("^[0-9a-f]{1,8}$"),
                    Some("The part of its text between the underscores."),
                )
                .summary("Revokes a token.")
                .says("A token that was revoked before stays as it is.")
                .json::<ShownToken>("The token counts no more, on a node of several on all nodes.")
        }),
    },
];

/// All tokens.
#[derive(Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<ShownToken>,
}

/// A token, without its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token)]
struct ShownToken {
    id: String,
    /// What it was called; null if it has no name.
    name: Option<String>,
    /// The client whose visitors it is for; null for all clients.
    client: Option<String>,
    /// batch, read, batch,read or admin.
    scope: String,
    #[schema(format = "date-time")]
    created_at: String,
    /// null if it lasts until it is revoked.
    #[schema(format = "date-time")]
    expires_at: Option<String>,
    #[schema(format = "date-time")]
    revoked_at: Option<String>,
    /// When a call was last let in by it, to the minute; null if none was, as far as this daemon knows. A node of several knows
    /// its own calls.
    #[schema(format = "date-time")]
    last_used_at: Option<String>,
    #[schema(schema_with = states)]
    state: &'static str,
}

/// The states of a token.
fn states() -> Schema {
    shapes::one_of(&["valid", "expired", "revoked"])
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
struct MadeToken {
    #[serde(flatten)]
    shown: ShownToken,
    /// Its text, to be sent as Authorization: Bearer.
    token: String,
}

/// Which token to make: of a client, or of all clients.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = WantedToken)]
struct WantedShape {
    /// What to call it: 1 to 64 characters without control characters. Several tokens may have the same name.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// The client whose visitors it is for.
    client: Option<String>,
    /// true instead of a client: the visitors of every client, and what is about the whole data folder.
    #[serde(default)]
    #[schema(default = false)]
    all_clients: bool,
    #[schema(pattern = "^(batch|read|batch,read|admin)$")]
    scope: String,
    /// For how many milliseconds it is valid. Leave it out for a token that lasts until it is revoked.
    #[schema(minimum = 1)]
    expires_in_ms: Option<u64>,
}

impl ShownToken {
    fn of(token: &Token, app: &Engine) -> Self {
        Self {
            id: token.id.clone(),
            name: token.name.as_ref().map(ToString::to_string),
            client: token.client.as_ref().map(ToString::to_string),
            scope: token.scope.to_string(),
            created_at: Millis(token.created_at_ms).iso_8601(),
            expires_at: token.expires_at_ms.map(|at| Millis(at).iso_8601()),
            revoked_at: token.revoked_at_ms.map(|at| Millis(at).iso_8601()),
            last_used_at: app.token_last_used(&token.id).map(Millis::iso_8601),
            state: token.state(app.now()).name(),
        }
    }
}

impl WantedShape {
    fn read(self) -> Result<WantedToken, HttpError> {
        let name = self.name.map(TokenName::new).transpose();
        let name = name.map_err(|why| HttpError::Wrong(format!("\"name\": {why}")))?;
        let client = match (self.client, self.all_clients) {
            (Some(client), false) => Some(client),
            (None, true) => None,
            (Some(_), true) | (None, false) => {
                return Err(HttpError::Wrong("send either \"client\" or \"allClients\": true".into()));
            }
        };
        let code = |text: String| {
            ClientCode::new(&text)
                .map_err(|error| HttpError::Wrong(format!("{text:?} is not a client code: {error}")))
        };
        let client = client.map(code).transpose()?;
        let scope = self.scope.parse().map_err(|why| HttpError::Wrong(format!("\"scope\": {why}")))?;
        if self.expires_in_ms == Some(0) {
            let why = "\"expiresInMs\" is 0: send 1 or more, or leave it out for a token that lasts until it is revoked";
            return Err(HttpError::Wrong(why.into()));
        }
        Ok(WantedToken { name, client, scope, lasts_ms: self.expires_in_ms })
    }
}

fn list(call: &Call<'_>) -> Reply {
    let app = &call.front.app;
    let tokens = app.tokens().all().iter().map(|token| ShownToken::of(token, app)).collect();
    json(StatusCode::OK, &TokenList { tokens })
}

async fn make(mut call: Call<'_>) -> Reply {
    let wanted: WantedShape = call.json_body("{\"client\": \"CLIENT\", \"scope\": \"read\"}").await?;
    let wanted = wanted.read()?;
    let Call { front, request, bearer, .. } = call;
    let (token, text) = front.app.make_token(wanted).await?;
    let what = token.in_words();
    front.app.note_act(bearer.actor(request), "token new", token.client.as_ref(), &what).await;
    let made = MadeToken { shown: ShownToken::of(&token, &front.app), token: text };
    json(StatusCode::CREATED, &made)
}

async fn revoke(call: Call<'_>) -> Reply {
    let Call { front, request, bearer, path, .. } = call;
    let token = front.app.revoke_token(path.get("id")).await?;
    front.app.note_act(bearer.actor(request), "token revoke", token.client.as_ref(), &token.id).await;
    json(StatusCode::OK, &ShownToken::of(&token, &front.app))
}
