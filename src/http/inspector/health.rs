//! How the daemon is, for the page that opens first: what the status call tells, the limits that were hit, and the tokens.

use askama::Template;

use super::words::{Moment, grouped, lasting, size};
use crate::engine::{Engine, Readiness};
use crate::http::Front;
use crate::http::auth::Bearer;
use crate::model::seq::Millis;
use crate::tokens::{Scope, State, Token};

/// How the daemon is.
#[derive(Template)]
#[template(path = "health.html")]
pub(super) struct Health {
    version: &'static str,
    /// Why it does not serve, if it does not.
    reason: Option<String>,
    remarks: Vec<String>,
    batches: String,
    rows: String,
    stuck: u64,
    oldest: Option<String>,
    free: String,
    reserve: String,
    short: bool,
    store: String,
    uploads: String,
    snapshot: String,
    checkpoint: String,
    /// The limits that were hit since the start, and how often.
    limits: Vec<(&'static str, String)>,
    /// What only an administrator of all clients sees.
    tokens: Option<Vec<ShownToken>>,
}

struct ShownToken {
    id: String,
    name: Option<String>,
    client: Option<String>,
    scope: String,
    created: Moment,
    expires: Option<Moment>,
    last_used: Option<Moment>,
}

impl Health {
    /// What the holder of a token of all clients may know; nothing for any other.
    pub(super) fn of(front: &Front, bearer: &Bearer) -> Option<Self> {
        if !bearer.sees(None) || !bearer.may(Scope::Read) {
            return None;
        }
        let (app, now) = (&front.app, front.app.now());
        let (vitals, reserve) = (app.vitals(), app.disk_reserve());
        Some(Self {
            version: env!("CARGO_PKG_VERSION"),
            reason: reason(app.readiness()),
            remarks: app.remarks(),
            batches: grouped(vitals.batches_pending),
            rows: super::words::rows(vitals.rows_pending),
            stuck: vitals.batches_stuck,
            oldest: vitals.oldest_pending_age.map(lasting),
            free: match vitals.disk_free_bytes {
                0 => "not known yet".into(),
                free => size(free),
            },
            reserve: size(reserve),
            short: app.refuses_writes(),
            store: size(vitals.store_bytes),
            uploads: size(vitals.spool_bytes),
            snapshot: lasting(vitals.snapshot_age),
            checkpoint: lasting(vitals.checkpoint_age),
            limits: app.metrics().limits_hit().map(|(limit, count)| (limit, grouped(count))).collect(),
            tokens: bearer.may(Scope::Admin).then(|| {
                let counts = |token: &&Token| token.state(now) == State::Valid;
                app.tokens().all().iter().filter(counts).map(|token| ShownToken::of(token, app)).collect()
            }),
        })
    }
}

impl ShownToken {
    fn of(token: &Token, app: &Engine) -> Self {
        let now = app.now();
        Self {
            id: token.id.clone(),
            name: token.name.as_ref().map(ToString::to_string),
            client: token.client.as_ref().map(ToString::to_string),
            scope: token.scope.to_string(),
            created: Moment::of(Millis(token.created_at_ms), now),
            expires: token.expires_at_ms.map(|at| Moment::of(Millis(at), now)),
            last_used: app.token_last_used(&token.id).map(|at| Moment::of(at, now)),
        }
    }
}

fn reason(readiness: Readiness) -> Option<String> {
    match readiness {
        Readiness::Ready => None,
        Readiness::NotReady(why) => Some(why),
    }
}

/// What stands above every page if the daemon does not take writes now.
pub(super) fn banner(front: &Front) -> Option<String> {
    if let Some(why) = reason(front.app.readiness()) {
        return Some(format!("The daemon is not ready: {why}."));
    }
    let short = "Writes are refused: the disk is nearly full. Lookups go on. Writes are taken again by themselves once there is room.";
    front.app.refuses_writes().then(|| short.to_owned())
}
