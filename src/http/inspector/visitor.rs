//! `/visitors?client=&by=&id=`: a visitor by any of its ids, and who set what when: as a table and as a timeline;
//! for an administrator also forms to change and erase it.

use askama::Template;
use hyper::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;

use super::found::Found;
use super::page::{Frame, render};
use super::plot::place;
use super::refusal::PAGES;
use super::words::{Moment, grouped};
use crate::engine::gates::Scarce;
use crate::engine::{EngineError, Lines, Visitor, VisitorHistory};
use crate::http::auth::{Access, Bearer};
use crate::http::by::By;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::kinds;
use crate::http::request::{Params, visitor_id};
use crate::http::visitor_body::Profile;
use crate::model::batch::BatchId;
use crate::model::id::{IdKind, VisitorId};
use crate::model::seq::{Millis, Seq};
use crate::tokens::Scope;
use crate::tokens::Tokens;

/// The largest visitor in JSON that stands in its page a second time.
const COPIED_BYTES_MAX: usize = 256 << 10;
/// How many writes the timeline shows.
const WRITES_SHOWN_MAX: usize = 100;
/// From how many characters on a value is folded, and how many of them show then.
const FOLDED_CHARS: (usize, usize) = (160, 80);

/// The form to look a visitor up by.
#[derive(Default)]
pub(super) struct LookUpForm {
    pub(super) id: String,
    pub(super) by: String,
}

#[derive(Template)]
#[template(path = "visitor.html")]
struct Page {
    frame: Frame,
    form: LookUpForm,
    /// Why there is no visitor to show.
    message: Option<String>,
    visitor: Option<ShownVisitor>,
    /// Other visitors whose id of another kind is the same text.
    others: Vec<(&'static str, &'static str)>,
    /// What was just done to it.
    done: Option<String>,
    /// What only an administrator sees.
    forms: Option<Forms>,
    /// It for programs.
    copies: Option<Copies>,
    /// Visitors whose ids begin with what was looked up, if that is no visitor's id.
    found: Found,
}

/// What the forms send that change a visitor.
struct Forms {
    by: &'static str,
    id: String,
    /// Within how many hours an erasure is over.
    within_hours: u64,
}

/// A visitor as programs have it.
struct Copies {
    /// None of a very large one.
    json: Option<String>,
    curl: String,
}

impl Copies {
    fn of(call: &Call<'_>, visitor: &Visitor, lines: &Lines) -> Result<Self, HttpError> {
        let json =
            serde_json::to_string_pretty(&Profile::with_lines(visitor, lines, &call.front.app.tokens()));
        let json = json.map_err(|error| HttpError::Inside(format!("a visitor in JSON: {error}")))?;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("client", visitor.client.as_str())
            .append_pair("by", kinds::name(visitor.canonical.kind()))
            .finish();
        let base = call.request.base_url(&call.front.app)?;
        let id = utf8_percent_encode(visitor.canonical.as_str(), NON_ALPHANUMERIC);
        let token = match call.bearer {
            Bearer::Token(_) => "-H \"Authorization: Bearer $PROFILED_TOKEN\" ",
            Bearer::Anybody | Bearer::Nobody => "",
        };
        let curl = format!("curl {token}'{base}/api/v1/profiles/{id}?{query}'");
        Ok(Self { json: Some(json).filter(|json| json.len() <= COPIED_BYTES_MAX), curl })
    }
}

/// A visitor as it is shown.
struct ShownVisitor {
    canonical: (&'static str, String),
    linked: Vec<(&'static str, String)>,
    born: Moment,
    active: Moment,
    expires: Moment,
    attributes: Vec<ShownAttribute>,
    writes: Vec<Write>,
    /// How many earlier writes there are besides.
    writes_left_out: usize,
    /// Since when all of them are there.
    known_since: Option<Moment>,
    lanes: Vec<Lane>,
    ends: (Moment, Moment),
}

struct ShownAttribute {
    name: String,
    value: String,
    /// The beginning of a long value, and how long it is.
    folded: Option<(String, String)>,
    by: &'static str,
    batch: Option<String>,
    line: Option<u32>,
    /// Who made that write, if it is no batch's.
    author: Option<String>,
    at: Moment,
}

/// A write that changed attributes.
struct Write {
    seq: Seq,
    by: &'static str,
    batch: Option<String>,
    /// Who made it, or sent the batch.
    author: Option<String>,
    at: Moment,
    changes: Vec<ShownChange>,
}

/// What a write changed of one attribute. Long values are cut.
struct ShownChange {
    name: String,
    before: Option<String>,
    after: Option<String>,
}

/// The writes of one source, along the time.
struct Lane {
    by: &'static str,
    points: Vec<Point>,
}

struct Point {
    x: String,
    title: String,
}

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/visitors",
    name: "inspector_visitor",
    api: PAGES,
    access: Access::Of(Scope::Read),
    client: Whose::OfPage,
    limits: CallLimits { scarce: &[Scarce::LineSearches], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: None,
}];

async fn answer(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let (front, client) = (call.front, call.client);
    let request = &*call.request;
    let text = |name| query.get(name).unwrap_or_default().trim().to_owned();
    let form = LookUpForm { id: text("id"), by: text("by") };
    let frame = Frame { title: "Visitor".into(), ..Frame::of(front, request, client, "Look up") };
    let mut page = Page {
        frame,
        form,
        message: None,
        visitor: None,
        others: vec![],
        done: done(&query),
        forms: None,
        copies: None,
        found: Found::default(),
    };
    let (Some(client), false) = (client, page.form.id.is_empty()) else {
        page.message = Some("Name a client and an id.".into());
        return render(StatusCode::OK, &page);
    };
    let ids = match ids(&page.form) {
        Ok(ids) => ids,
        Err(error) => {
            page.message = Some(error.to_string());
            return render(error.status(), &page);
        }
    };
    let mut found: Option<Visitor> = None;
    for id in ids {
        let Some(visitor) = front.app.read(client, &id).await? else { continue };
        match &found {
            None => found = Some(visitor),
            Some(first) if first.canonical == visitor.canonical => {}
            Some(_) => page.others.extend(
                kinds::KINDS
                    .into_iter()
                    .filter(|(_, kind)| *kind == id.kind())
                    .map(|(by, kind)| (by, kind.name())),
            ),
        }
    }
    let Some(visitor) = found else {
        page.message = Some(format!("Client {client} has no visitor with this id."));
        page.found = Found::of(front, client, (&page.form.by, &page.form.id)).await?;
        return render(StatusCode::NOT_FOUND, &page);
    };
    page.frame.title = format!("Visitor {}", visitor.canonical.as_str());
    let lines = match front.app.lines(&request.who(Some(client)), &visitor).await {
        // So many ask at once that the page comes without them.
        Err(EngineError::Taken(..) | EngineError::MadeRoom(_)) => Lines::new(),
        lines => lines?,
    };
    page.copies = Some(Copies::of(&call, &visitor, &lines)?);
    page.forms = call.bearer.may(Scope::Admin).then(|| Forms {
        by: kinds::name(visitor.canonical.kind()),
        id: visitor.canonical.as_str().to_owned(),
        within_hours: front.app.erase_within_ms() / 3_600_000,
    });
    let history = front.app.history(client, &visitor.canonical).await?.unwrap_or_default();
    page.visitor = Some(ShownVisitor::of(&visitor, &history, &lines, &front.app.tokens(), front.app.now()));
    render(StatusCode::OK, &page)
}

/// The ids that are meant: of the kind that is named, or of each kind of which the text can be one.
fn ids(form: &LookUpForm) -> Result<Vec<VisitorId>, HttpError> {
    if form.by.is_empty() || form.by == "any" {
        let all: Vec<_> =
            kinds::KINDS.iter().filter_map(|(_, kind)| VisitorId::sent(*kind, &form.id).ok()).collect();
        return match all.is_empty() {
            true => visitor_id(IdKind::ThirdParty, &form.id).map(|id| vec![id]),
            false => Ok(all),
        };
    }
    visitor_id(kinds::named(&form.by)?, &form.id).map(|id| vec![id])
}

/// What a form did, as the page says it to which it led back.
fn done(query: &Params) -> Option<String> {
    let seq: u64 = query.get("seq")?.parse().ok()?;
    let what = match query.get("done")? {
        "set" => "The attribute is set.",
        "removed" => "The attribute is removed.",
        _ => return None,
    };
    Some(format!("{what} The write has the seq {seq}."))
}

/// The beginning of a value that is long, or has many lines, and how long it is.
fn folded(value: &str) -> Option<(String, String)> {
    let (from, shown) = FOLDED_CHARS;
    let chars = value.chars().count();
    if chars <= from && value.lines().count() <= 4 {
        return None;
    }
    let start: String = value.chars().take(shown).take_while(|c| !matches!(c, '\n' | '\r')).collect();
    Some((start, format!("{} characters", grouped(u64::try_from(chars).unwrap_or(u64::MAX)))))
}

/// The beginning of a value, where the whole of it stands elsewhere.
pub(super) fn cut(value: &str) -> String {
    let (_, shown) = FOLDED_CHARS;
    match value.char_indices().nth(shown) {
        Some((at, _)) => format!("{}…", value.get(..at).unwrap_or_default()),
        None => value.to_owned(),
    }
}

impl ShownVisitor {
    fn of(visitor: &Visitor, history: &VisitorHistory, lines: &Lines, tokens: &Tokens, now: Millis) -> Self {
        let author = |author| By::of(author, tokens).map(|by| by.words());
        let named = |id: &VisitorId| (id.kind().name(), id.as_str().to_owned());
        let batch = |seq| BatchId { client: visitor.client.clone(), seq }.to_string();
        let attributes = visitor.attributes.iter().map(|attribute| ShownAttribute {
            name: attribute.name.clone(),
            folded: folded(&attribute.value),
            value: attribute.value.clone(),
            by: attribute.source.name(),
            batch: attribute.source.is_batch().then(|| batch(attribute.seq)),
            line: lines.get(&(attribute.seq, attribute.name.clone())).copied(),
            // Whose batch it is, its page tells: a row stays one line high.
            author: if attribute.source.is_batch() { None } else { author(attribute.by) },
            at: Moment::of(attribute.seq.millis(), now),
        });
        let mut writes: BTreeMap<Seq, Write> = BTreeMap::new();
        for change in &history.changes {
            let write = writes.entry(change.seq).or_insert_with(|| Write {
                seq: change.seq,
                by: change.source.name(),
                batch: change.source.is_batch().then(|| batch(change.seq)),
                author: author(change.by),
                at: Moment::of(change.seq.millis(), now),
                changes: vec![],
            });
            write.changes.push(ShownChange {
                name: change.name.clone(),
                before: change.before.as_deref().map(cut),
                after: change.after.as_deref().map(cut),
            });
        }
        let writes_left_out = writes.len().saturating_sub(WRITES_SHOWN_MAX);
        for _ in 0..writes_left_out {
            writes.pop_first();
        }
        let seqs = writes.keys().map(|seq| seq.millis());
        let from = seqs.min().unwrap_or(now).min(visitor.born.millis());
        let to = now.max(from);
        let mut lanes: Vec<Lane> = vec![];
        for write in writes.values() {
            let names: Vec<&str> = write.changes.iter().map(|change| change.name.as_str()).collect();
            let title = format!("{}: {}", write.at.text, names.join(", "));
            let point = Point { x: place(write.seq.millis(), from, to), title };
            match lanes.iter_mut().find(|lane| lane.by == write.by) {
                Some(lane) => lane.points.push(point),
                None => lanes.push(Lane { by: write.by, points: vec![point] }),
            }
        }
        Self {
            canonical: named(&visitor.canonical),
            linked: visitor.linked.iter().map(named).collect(),
            born: Moment::of(visitor.born.millis(), now),
            active: Moment::of(visitor.last_active, now),
            expires: Moment::of(visitor.expires, now),
            attributes: attributes.collect(),
            lanes,
            ends: (Moment::of(from, now), Moment::of(to, now)),
            writes: writes.into_values().rev().collect(),
            writes_left_out,
            known_since: history.since.map(|since| Moment::of(since.millis(), now)),
        }
    }
}
