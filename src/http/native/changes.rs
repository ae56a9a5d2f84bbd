//! `GET /api/v1/changes?since=SEQ[&follow=true][&rows=false]`: every write to a client's visitors as an event, in the order of seqs; as
//! NDJSON, or as server-sent events that go on.
//!
//! A stream ends with an event that says why, unless it breaks off. Where a client goes on is the place of the last event that it has.

use std::ops::ControlFlow;
use std::time::Duration;

use hyper::header::{ACCEPT, HeaderName};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::EngineError;
use crate::engine::gates::Scarce;
use crate::engine::read::changes::{ChangePlace, Changes, Step, What};
use crate::http::auth::Access;
use crate::http::change_event::ChangeEvent;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{form, form_of};
use crate::http::request::{Params, Request};
use crate::http::response::{EVENTS, NDJSON, chunked};
use crate::http::shapes;
use crate::http::stream::{EventForm, Sender, begin, server_sent};
use crate::tokens::Scope;

/// Where a browser's `EventSource` says how far it is.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// After so long without an event, one says that there was none: the client could think that the connection is dead.
const SILENT_MAX: Duration = Duration::from_secs(15);

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/changes",
    name: "changes",
    api: Api::Native,
    // As an export: it tells of all visitors.
    access: Access::Of(Scope::Admin),
    client: Whose::InQuery,
    limits: CallLimits { scarce: &[Scarce::Changes], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Tells every write to a client's visitors, in the order of seqs.")
            .says("Changes that are no longer kept are a 410: export the client, and follow the changes from the export's seq on.")
            .client()
            .query(
                "since",
                true,
                shapes::pattern("^[0-9]{1,19}(-[0-9]{1,6})?$"),
                "What comes after this seq; SEQ-LINE: after this line of the batch with this seq.",
            )
            .switch("follow", "Go on with each further write. Server-sent events always do.")
            .switch("rows", "Tell each row of a batch, once the batch is complete. Without, only the batch is told.")
            .header(
                "Last-Event-ID",
                shapes::pattern("^([0-9]{1,19}(-[0-9]{1,6})?)?$"),
                "The id of the last event; it counts instead of since, unless it is empty.",
            )
            .answers("200", "The events.", [form_of::<ChangeEvent<'_>>(NDJSON), form(EVENTS, server_sent(true))])
            .refusal("410")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (client, asked) = (call.client()?, Asked::of(call.request, &call.query()?)?);
    let Call { front, request, bearer, .. } = call;
    let changes = front.app.changes(&request.who(Some(client)), client, asked.since, asked.rows).await?;
    let (slot, pace, stopping) = (changes.slot().clone(), request.answer_pace(), request.stopping());
    let what = format!("changes since {}", asked.since);
    front.app.note_act(bearer.actor(request), "changes", Some(client), &what).await;
    let media_type = asked.form.media_type();
    let chunks = begin("a feed of changes", &slot, pace, move |out| tell(changes, &asked, stopping, out));
    Ok(chunked(media_type, chunks))
}

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    since: ChangePlace,
    rows: bool,
    follow: bool,
    form: EventForm,
}

/// Adds an event.
fn write(form: EventForm, event: &ChangeEvent<'_>, id: Option<ChangePlace>, bytes: &mut Vec<u8>) {
    form.write(event.event, id, event, bytes);
}

impl Asked {
    fn of(request: &Request, query: &Params) -> Result<Self, HttpError> {
        let accepted = request.header_text(&ACCEPT).unwrap_or_default();
        Self::from(accepted, request.header_text(&LAST_EVENT_ID), query)
    }

    fn from(accepted: &str, last: Option<&str>, query: &Params) -> Result<Self, HttpError> {
        let form = EventForm::of(accepted);
        let last = last.filter(|last| !last.is_empty()).map(|last| ("Last-Event-ID: ", last));
        let Some(since) = query.get("since") else {
            let why = "since= is missing: it is the seq of the last write that you know of; since=0 asks for all there ever were";
            return Err(HttpError::Wrong(why.into()));
        };
        // A browser's EventSource asks again with the URL that it had, and says what it has heard since.
        let (named, text) = last.unwrap_or(("since=", since));
        let since = ChangePlace::parse(text).ok_or_else(|| {
            HttpError::Wrong(format!(
                "{named}{text} is no place: it is SEQ or SEQ-LINE, as an earlier event had it"
            ))
        })?;
        let switch = |name: &str, default: bool| match query.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(HttpError::Wrong(format!("{name}={other} is not known: it is true or false"))),
        };
        let follow = switch("follow", false)? || form == EventForm::ServerSent;
        Ok(Self { since, rows: switch("rows", true)?, follow, form })
    }
}

/// Tells the changes until there are no more for now, or for ever.
fn tell(
    mut changes: Changes,
    asked: &Asked,
    mut stopping: watch::Receiver<Option<Instant>>,
    out: &mut Sender,
) -> Result<(), EngineError> {
    let form = asked.form;
    let mut news = changes.news();
    let mut told = None;
    loop {
        news.mark_unchanged();
        let stops = || stopping.borrow().is_some();
        let step = changes.step(&mut |event| {
            let written = out.write(|bytes| {
                let id = Some(event.place).filter(|_| !matches!(event.what, What::Swept(_)));
                write(form, &ChangeEvent::of(&event), id, bytes);
            });
            if stops() { ControlFlow::Break(()) } else { written }
        });
        let (event, at, ends) = match step {
            Ok(Step::More) => continue,
            Ok(Step::Enough) => return Ok(()),
            Ok(Step::CaughtUp(_)) => (ChangeEvent::bare("upTo", changes.told()), Some(changes.told()), false),
            Ok(Step::Waits(batch)) => (ChangeEvent::waiting(&batch, changes.told()), None, false),
            Err(error @ EngineError::Stopping) => return Err(error),
            Err(error) => (ChangeEvent::ended(&error, changes.told()), None, true),
        };
        // It says again where it is only if that is news, or has not been said for long.
        let is_news = told.as_ref().is_none_or(|(known, at): &(ChangeEvent<'_>, Instant)| {
            at.elapsed() >= SILENT_MAX || known.event != event.event && event.event == "waiting"
        });
        let ends = ends || !asked.follow;
        if ends || is_news {
            if out.write(|bytes| write(form, &event, at, bytes)).is_break() || ends {
                return Ok(());
            }
            told = Some((event, Instant::now()));
        }
        let changed = async {
            tokio::select! {
                _ = news.changed() => {}
                _ = stopping.wait_for(Option::is_some) => {}
            }
        };
        if out.rest(changed, SILENT_MAX).is_break() || stopping.borrow().is_some() {
            return Ok(());
        }
    }
}
