//! `/live`: calls as they come in. The page's script puts a row in for each; without a script there is a plain text of the same.
//!
//! The inspector has these streams of its own because its token is in a cookie that no call of the API takes.

use askama::Template;
use hyper::StatusCode;

use super::page::{Frame, render};
use super::plot::Bar;
use super::refusal::PAGES;
use super::words::{self, Moment, size};
use crate::engine::gates::Scarce;
use crate::http::auth::Access;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::live::{HeardCall, HeardId};
use crate::http::live_feed::{Told, listen, write_line};
use crate::http::response::{EVENTS, TEXT};
use crate::model::id::IdKind;
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/live",
        name: "inspector_live",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfToken,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { page(&call) }),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/live/rows",
        name: "inspector_live",
        api: PAGES,
        access: Access::Of(Scope::Admin),
        client: Whose::OfToken,
        limits: STREAMS,
        handler: |call| Box::pin(async move { listen(&call, EVENTS, write_row).await }),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/live/lines",
        name: "inspector_live",
        api: PAGES,
        access: Access::Of(Scope::Admin),
        client: Whose::OfToken,
        limits: STREAMS,
        handler: |call| Box::pin(async move { listen(&call, TEXT, write_line).await }),
        describe: None,
    },
];

const STREAMS: CallLimits = CallLimits { scarce: &[Scarce::EventStreams], ..CallLimits::NONE };

#[derive(Template)]
#[template(path = "live.html")]
struct Page {
    frame: Frame,
    may_listen: bool,
    id: String,
    /// What its streams are asked for.
    query: String,
    /// A call to try.
    example: String,
}

/// A call, as a row.
#[derive(Template)]
#[template(path = "call.html")]
struct Row<'a> {
    call: &'a HeardCall,
    at: Moment,
    kind: &'static str,
    word: &'a str,
    ids: Vec<Link<'a>>,
    brief: String,
    outcome: Option<String>,
    took: String,
    bar: Option<Bar>,
    rows: String,
    bytes: String,
}

/// An id that leads to its visitor.
struct Link<'a> {
    id: &'a HeardId,
    by: &'static str,
}

fn page(call: &Call<'_>) -> Reply {
    let query = call.query()?;
    let id = query.get("id").unwrap_or_default().trim().to_owned();
    let mut frame = Frame::of(call.front, call.request, call.client, "Live");
    frame.title = "Live".into();
    let asked = [("client", frame.client.as_deref().unwrap_or_default()), ("id", &id)];
    let asked = asked.into_iter().filter(|(_, value)| !value.is_empty());
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
    let whose = frame.client.as_deref().unwrap_or("demo");
    let base = call.request.base_url(&call.front.app)?;
    let example =
        format!("curl '{base}/m2/{whose}/mbox/json?mbox=home&mbox3rdPartyId=crm-1&profile.city=Oslo'");
    let may_listen = call.bearer.may(Scope::Admin);
    render(StatusCode::OK, &Page { frame, may_listen, id, query, example })
}

/// Adds an event as the page's script takes it: a call is a row that is rendered here.
fn write_row(told: &Told<'_>, bytes: &mut Vec<u8>) {
    let data = match told {
        Told::NoCall(_) => String::new(),
        Told::Missed(event) => event.calls.to_string(),
        Told::Call(event) => match Row::of(event.call).render() {
            // For a stream of events a carriage return ends a line.
            Ok(row) => row.replace('\r', "&#13;"),
            Err(error) => return tracing::error!(%error, "a row of the page of calls"),
        },
    };
    bytes.extend_from_slice(format!("event: {}\n", told.name()).as_bytes());
    for line in data.split('\n') {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    }
    bytes.push(b'\n');
}

impl<'a> Row<'a> {
    fn of(call: &'a HeardCall) -> Self {
        let (kind, word) = in_words(&call.call);
        let by = |id: &HeardId| match id.kind {
            kind if kind == IdKind::Pc.name() => "pc",
            kind if kind == IdKind::Ecid.name() => "ecid",
            _ => "third-party",
        };
        let (rows, bytes) = call.batch.as_ref().map_or((0, 0), |batch| (batch.rows, batch.bytes));
        let counts = call.batch.as_ref().and_then(|batch| batch.counts);
        Self {
            call,
            at: Moment::of(call.at, call.at),
            kind,
            word,
            ids: call.ids.iter().map(|id| Link { id, by: by(id) }).collect(),
            brief: brief(call),
            outcome: call.outcome.map(|outcome| outcome.replace('_', " ")),
            took: if call.took_ms < 10.0 {
                format!("{:.1} ms", call.took_ms)
            } else {
                format!("{:.0} ms", call.took_ms)
            },
            bar: counts.map(|counts| Bar::of(&counts, rows)),
            rows: words::rows(rows),
            bytes: size(bytes),
        }
    }

    /// How its status is marked.
    fn mark(&self) -> &'static str {
        if self.call.status < 400 && self.call.message.is_none() { "taken" } else { "refused" }
    }
}

/// What a call is called on the page, and the class of the word.
fn in_words(call: &str) -> (&'static str, &str) {
    match call {
        "mbox" => ("mbox", "mbox"),
        "rest mbox" => ("mbox", "REST mbox"),
        "batch mbox" => ("mbox", "batch mbox"),
        "delivery" => ("delivery", "Delivery"),
        "profile update" | "inspector set" => ("update", "update"),
        "batchUpdate v1" => ("batch", "batch v1"),
        "batchUpdate v2" => ("batch", "batch v2"),
        "inspector upload" => ("batch", "upload"),
        "attribute" | "inspector remove" => ("removal", "removal"),
        "profile" | "inspector erase" => ("removal", "erasure"),
        other => ("other", other),
    }
}

/// What was understood of a call, in a line.
fn brief(call: &HeardCall) -> String {
    let mut parts: Vec<String> = call.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if call.set_more > 0 {
        parts.push(format!("{} more", call.set_more));
    }
    parts.extend(call.removed.iter().map(|name| format!("{name} removed")));
    parts.extend(call.batch.iter().map(|batch| {
        let what = if batch.dry_run { "tried out: " } else { "" };
        format!("{what}{}", words::rows(batch.rows))
    }));
    match parts.is_empty() {
        true if call.message.is_some() => format!("{} {}", call.method, call.path),
        true => "no attributes".into(),
        false => parts.join(", "),
    }
}
