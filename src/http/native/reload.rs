//! `POST /api/v1/reload`: reads the settings, the tokens and the certificate again while the daemon runs.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::auth::Access;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::form_of;
use crate::http::reload;
use crate::http::response::{JSON, json};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Post,
    path: "/api/v1/reload",
    name: "reload",
    api: Api::Native,
    access: Access::Everywhere(Scope::Admin),
    client: Whose::Nobody,
    limits: CallLimits { body: BodyLimit::Bytes(1 << 10), ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Reads the settings, the tokens and the certificate again.")
            .says("If anything is wrong in them, everything stays as it was: the refusal says what is wrong, and where.")
            .says("On a node of several it is about this node alone.")
            .body([form_of::<Reload>(JSON)])
            .json::<Reloaded>("What was read is in use.")
            .refusal("409")
    }),
}];

/// The body of a call to reload: an empty object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Reload {}

/// What was read again.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Reloaded {
    /// The settings that have another value from now on, such as lifetime_days or clients.demo.lifetime_days.
    changed: Vec<String>,
    /// The settings that have another value than the one in use, and count at the next start.
    at_restart: Vec<String>,
    /// How many tokens there are.
    tokens: usize,
    /// How many certificates were read. 0 without HTTPS.
    certificates: usize,
    /// By how many seconds the machine's clock had leapt ahead, if it was doubted until now. Null if it was not.
    clock_accepted_seconds: Option<u64>,
}

impl From<reload::Reloaded> for Reloaded {
    fn from(reloaded: reload::Reloaded) -> Self {
        let reload::Reloaded { settings, tokens, certificates, clock_ahead } = reloaded;
        Self {
            changed: settings.taken,
            at_restart: settings.at_start,
            tokens,
            certificates,
            clock_accepted_seconds: clock_ahead.map(|ahead| ahead.as_secs()),
        }
    }
}

impl Reloaded {
    /// What the audit trail says.
    fn in_words(&self) -> String {
        let named = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        format!(
            "changed: {}; at the next start: {}; {} tokens, {} certificates",
            named(&self.changed),
            named(&self.at_restart),
            self.tokens,
            self.certificates
        )
    }
}

async fn answer(mut call: Call<'_>) -> Reply {
    let Reload {} = call.json_body("{}").await?;
    let Call { front, request, bearer, .. } = call;
    let reloading = front.clone();
    let done = tokio::task::spawn_blocking(move || reloading.reload());
    let done = done.await.map_err(|error| HttpError::Inside(format!("the reload broke off: {error}")))?;
    let reloaded = Reloaded::from(done.map_err(|error| HttpError::NotReloaded(error.to_string()))?);
    front.app.note_act(bearer.actor(request), "reload", None, &reloaded.in_words()).await;
    json(StatusCode::OK, &reloaded)
}
