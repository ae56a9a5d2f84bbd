//! `/`: a form to look a visitor up, a place to drop a file, what the client has, and how the daemon is.

use askama::Template;
use hyper::StatusCode;

use super::batches::ListedBatch;
use super::clients::Choice;
use super::find::active;
use super::found::Found;
use super::health::Health;
use super::page::{Frame, render};
use super::plot::{Bar, Columns};
use super::refusal::PAGES;
use super::visitor::LookUpForm;
use super::words::{Moment, grouped, size};
use crate::engine::EngineError;
use crate::engine::gates::Scarce;
use crate::engine::read::statistics::Statistics;
use crate::http::auth::Access;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::model::seq::Millis;
use crate::tokens::Scope;

/// How many batches are shown.
const NEWEST: usize = 5;
/// How many of the visitors who were active last are shown.
const ACTIVE_SHOWN: usize = 5;
/// From how many the rates are drawn.
const DRAWN_MAX: usize = 1_000;

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    frame: Frame,
    form: LookUpForm,
    choice: Option<Choice>,
    may_read: bool,
    may_send: bool,
    batches: Vec<ListedBatch>,
    plots: Vec<Columns>,
    totals: Option<Totals>,
    health: Option<Health>,
    /// The visitors who were active last, and since when that is known.
    active: Option<(Found, Moment)>,
}

/// What a client has.
struct Totals {
    visitors: String,
    counted: Moment,
    batches: String,
    incomplete: String,
    stuck: u64,
    uploads: String,
    rows: String,
    bar: Option<Bar>,
}

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/",
    name: "inspector",
    api: PAGES,
    access: Access::Any,
    client: Whose::OfPage,
    limits: CallLimits { scarce: &[Scarce::Counts], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: None,
}];

async fn answer(call: Call<'_>) -> Reply {
    let choice = Choice::of(&call, "/").await?;
    let Call { front, request, bearer, client, .. } = call;
    let now = front.app.now();
    let may_read = bearer.may(Scope::Read);
    let (mut batches, mut plots, mut totals, mut newest) = (vec![], vec![], None, None);
    if let Some(client) = client {
        let page = front.app.batches(client, None, None, DRAWN_MAX);
        batches = page.batches.iter().take(NEWEST).map(|batch| ListedBatch::of(batch, now)).collect();
        if !page.batches.is_empty() {
            plots = vec![Columns::accepted(&page.batches, now), Columns::applied(&page.batches)];
        }
        if may_read {
            let (found, since) = active(front, client, None, ACTIVE_SHOWN).await?;
            newest = Some((Found::all(found, now), since));
            totals = match front.app.statistics(&request.who(Some(client)), client).await {
                // So many ask at once that the page comes without them.
                Err(EngineError::Taken(..) | EngineError::MadeRoom(_)) => None,
                found => Some(Totals::of(&found?, now)),
            };
        }
    }
    let frame = Frame { title: "Look up".into(), ..Frame::of(front, request, client, "Look up") };
    let health = Health::of(front, bearer);
    let may_send = bearer.may(Scope::Batch);
    render(
        StatusCode::OK,
        &Home {
            frame,
            form: LookUpForm::default(),
            choice,
            may_read,
            may_send,
            batches,
            plots,
            totals,
            health,
            active: newest,
        },
    )
}

impl Totals {
    fn of(found: &Statistics, now: Millis) -> Self {
        Self {
            visitors: grouped(found.profiles),
            counted: Moment::of(found.profiles_counted, now),
            batches: grouped(found.batches),
            incomplete: grouped(found.batches_incomplete),
            stuck: found.batches_stuck,
            uploads: size(found.upload_bytes),
            rows: grouped(found.rows),
            bar: (found.rows > 0).then(|| Bar::of(&found.counts, found.rows)),
        }
    }
}
