//! `/batches` and `/batches/{id}`: what was uploaded, how far it is, and why rows failed.

use askama::Template;
use hyper::StatusCode;
use std::collections::BTreeMap;

use super::clients::Choice;
use super::comparison::Compared;
use super::distribution::Values;
use super::page::{Frame, render};
use super::plot::{Bar, in_words};
use super::refusal::PAGES;
use super::words::{self, Moment, grouped, size, state};
use crate::batch::known_names::NewAttribute;
use crate::batch::remarks::{Remarked, Remarks, further_lines};
use crate::engine::gates::Scarce;
use crate::engine::read::report::{PAGE_ROWS_MAX, ReportedRow};
use crate::engine::{BatchState, BatchStatus, BatchVersion, EngineError};
use crate::http::Front;
use crate::http::auth::Access;
use crate::http::by::By;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::outcomes::{self, ReportForm, whole_report};
use crate::http::request::{Params, Request};
use crate::model::batch::{BatchId, Outcome};
use crate::model::seq::{Millis, Seq};

/// How many batches stand on one page.
const LISTED_MAX: usize = 50;
/// How many failed rows are shown; all of them are in the repair file.
const FAILED_SHOWN_MAX: usize = 50;
/// How many rows with one outcome stand on one page.
const ROWS_SHOWN_MAX: usize = 100;
/// How many ids that nobody has are shown.
const EXAMPLES_MAX: usize = 3;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/batches",
        name: "inspector_batches",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfPage,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(list(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/batches/{id}",
        name: "inspector_batch",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: REPORTS,
        handler: |call| Box::pin(one(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/batches/{id}/progress",
        name: "inspector_batch",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: REPORTS,
        handler: |call| Box::pin(progress(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/batches/{id}/outcomes",
        name: "inspector_download",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: REPORTS,
        handler: |call| Box::pin(outcomes(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/batches/{id}/repair",
        name: "inspector_download",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: REPORTS,
        handler: |call| Box::pin(repair(call)),
        describe: None,
    },
    Endpoint {
        methods: Methods::Read,
        path: "/batches/{id}/file",
        name: "inspector_download",
        api: PAGES,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: REPORTS,
        handler: |call| Box::pin(file(call)),
        describe: None,
    },
];

const REPORTS: CallLimits = CallLimits { scarce: &[Scarce::Reports], ..CallLimits::NONE };

/// A batch in a list.
pub(super) struct ListedBatch {
    pub(super) id: String,
    pub(super) accepted: Moment,
    pub(super) version: &'static str,
    pub(super) state: &'static str,
    pub(super) failed: u64,
    /// Whether most of its rows name nobody who is known.
    pub(super) amiss: bool,
    pub(super) bar: Bar,
    /// What its sender calls it.
    pub(super) name: Option<String>,
}

impl ListedBatch {
    pub(super) fn of(batch: &BatchStatus, now: Millis) -> Self {
        Self {
            id: batch.id.to_string(),
            accepted: Moment::of(batch.id.seq.millis(), now),
            version: version(batch.version),
            state: state(batch.state),
            failed: batch.counts.failed,
            amiss: is_amiss(batch),
            bar: Bar::of(&batch.counts, batch.rows),
            name: name(batch),
        }
    }
}

fn name(batch: &BatchStatus) -> Option<String> {
    batch.name.as_ref().map(|name| name.as_str().to_owned())
}

/// Whether most rows of a complete batch name nobody who is known: hardly what its sender meant.
fn is_amiss(batch: &BatchStatus) -> bool {
    batch.state == BatchState::Complete && batch.counts.not_found * 2 > batch.rows
}

fn version(version: BatchVersion) -> &'static str {
    match version {
        BatchVersion::V1 => "v1",
        BatchVersion::V2 => "v2",
    }
}

#[derive(Template)]
#[template(path = "batches.html")]
struct List {
    frame: Frame,
    choice: Option<Choice>,
    batches: Vec<ListedBatch>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "batch.html")]
struct One {
    frame: Frame,
    id: String,
    progress: Progress,
    /// The rows with the outcome that was asked for.
    rows: Option<Rows>,
    /// Its attributes, and the values of the one that was asked for.
    values: Option<Values>,
    compared: Compared,
}

/// Rows with one outcome, and the ways to those with another.
struct Rows {
    tabs: Vec<(&'static str, &'static str, String)>,
    outcome: &'static str,
    words: &'static str,
    rows: Vec<ReportedRow>,
    /// Where the next page begins.
    next: Option<String>,
}

/// What to think of rows that name nobody who is known.
struct NotFound {
    /// How many of all.
    count: String,
    /// Whether they are most of them.
    most: bool,
    /// Some of the ids.
    examples: Vec<String>,
    v2: bool,
}

/// How far a batch is: a piece of its page, which the page's script asks for again while it is not complete.
#[derive(Template)]
#[template(path = "progress.html")]
struct Progress {
    id: String,
    client: String,
    version: &'static str,
    state: &'static str,
    live: bool,
    /// A screen reader reads this aloud when it changes.
    news: String,
    dealt_per_cent: u64,
    rows: String,
    dealt: String,
    bytes: String,
    accepted: Moment,
    /// What its sender calls it.
    name: Option<String>,
    /// Who sent it.
    by: Option<String>,
    /// The time that its values are of, if it said one.
    of: Option<Moment>,
    /// The batch that it undoes, if it undoes one.
    undoes: Option<String>,
    completed: Option<Moment>,
    /// From when on lookups show it, where they don't yet.
    shows: Option<Moment>,
    rate: Option<String>,
    end: Option<Moment>,
    bar: Bar,
    outcomes: Vec<(&'static str, &'static str, String)>,
    amiss: bool,
    not_found: Option<NotFound>,
    failures: Option<Failures>,
    /// What was perhaps not meant in its file.
    remarks: Vec<String>,
    /// Why it is stuck, if its upload is damaged.
    reason: Option<String>,
}

/// Why rows failed.
struct Failures {
    reasons: Vec<(&'static str, String, String)>,
    rows: Failed,
    /// Whether there are more than were looked at for the reasons.
    more: bool,
    count: String,
}

/// Rows that failed, or would: the first of so many.
#[derive(Template)]
#[template(path = "failed.html")]
pub(super) struct Failed {
    rows: Vec<ReportedRow>,
    caption: String,
}

impl Failed {
    pub(super) fn of(mut rows: Vec<ReportedRow>, count: u64) -> Self {
        rows.truncate(FAILED_SHOWN_MAX);
        for row in &mut rows {
            // The page shows the line beside the message.
            let line = format!("line {}: ", row.place.line);
            if let Some(rest) = row.message.as_deref().and_then(|message| message.strip_prefix(&line)) {
                row.message = Some(rest.to_owned());
            }
        }
        let caption = match u64::try_from(rows.len()) {
            Ok(shown) if shown < count => format!("The first {shown} of {}", words::rows(count)),
            _ => "Row by row".into(),
        };
        Self { rows, caption }
    }
}

/// The remarks on a file, one sentence each.
pub(super) fn remarked(remarks: &Remarks) -> Vec<String> {
    let sentence = |(_, remarked, message): (_, &Remarked, String)| {
        let line = remarked.lines.first().map_or_else(String::new, |line| format!("line {line}: "));
        line + &message + &further_lines(remarked)
    };
    remarks.reported().map(sentence).collect()
}

/// A client's batches, newest first.
async fn list(call: Call<'_>) -> Reply {
    let choice = Choice::of(&call, "/batches").await?;
    let (front, client, query) = (call.front, call.client, call.query()?);
    let before = query.get("before").map(|text| {
        text.parse().map(Seq::from_u64).map_err(|_| HttpError::Wrong(format!("before={text} is not a seq")))
    });
    let before = before.transpose()?;
    let now = front.app.now();
    let page = client.map(|client| front.app.batches(client, None, before, LISTED_MAX)).unwrap_or_default();
    let frame = Frame::of(call.front, call.request, client, "Batches");
    let batches = page.batches.iter().map(|batch| ListedBatch::of(batch, now)).collect();
    render(StatusCode::OK, &List { frame, choice, batches, next: page.next.map(|next| next.to_string()) })
}

/// One batch.
async fn one(call: Call<'_>) -> Reply {
    let batch = known(&call)?;
    let query = call.query()?;
    let Call { front, request, .. } = call;
    let rows = Rows::of(front, request, &batch, &query).await?;
    let frame = Frame {
        title: format!("Batch {}", batch.id),
        ..Frame::of(front, request, Some(&batch.id.client), "Batches")
    };
    let progress = Progress::of(front, request, &batch).await?;
    let compared = Compared::of(front, &batch.id, query.get("with")).await?;
    let values = Values::of(front, request, &batch.id, query.get("attribute")).await?;
    render(StatusCode::OK, &One { frame, id: batch.id.to_string(), progress, rows, values, compared })
}

/// How far it is, as its page has it.
async fn progress(call: Call<'_>) -> Reply {
    render(StatusCode::OK, &Progress::of(call.front, call.request, &known(&call)?).await?)
}

/// What became of each row, as CSV.
async fn outcomes(call: Call<'_>) -> Reply {
    let id = known(&call)?.id;
    let Call { front, request, .. } = call;
    let report = front.app.report(&request.who(Some(&id.client)), &id).await?;
    Ok(whole_report(request, report, ReportForm::Csv, None, None))
}

/// The rows to send again.
async fn repair(call: Call<'_>) -> Reply {
    crate::http::outcomes::repair(call.front, call.request, &known(&call)?.id).await
}

/// The file as it was sent.
async fn file(call: Call<'_>) -> Reply {
    crate::http::outcomes::file(call.front, call.request, &known(&call)?.id).await
}

/// The batch of the path, if it is known.
fn known(call: &Call<'_>) -> Result<BatchStatus, HttpError> {
    let (front, id) = (call.front, call.path.get("id"));
    let found = BatchId::parse(id).and_then(|id| front.app.batch(&id));
    found.ok_or_else(|| EngineError::UnknownBatch(id.to_owned()).into())
}

impl Progress {
    async fn of(front: &Front, request: &Request, batch: &BatchStatus) -> Result<Self, HttpError> {
        let now = front.app.now();
        let live = batch.state != BatchState::Complete;
        let dealt = batch.counts.total();
        let dealt_per_cent = (dealt * 100).checked_div(batch.rows).unwrap_or(100);
        let failures =
            if live || batch.counts.failed == 0 { None } else { Failures::of(front, request, batch).await? };
        let not_found = if live { None } else { NotFound::of(front, request, batch).await? };
        Ok(Self {
            id: batch.id.to_string(),
            client: batch.id.client.to_string(),
            version: version(batch.version),
            state: state(batch.state),
            live,
            news: match batch.state {
                BatchState::Complete => format!("Complete: {}", Bar::of(&batch.counts, batch.rows).summary),
                BatchState::Stuck => {
                    let held = batch.reason.as_ref().map(|why| format!("This batch is stuck: {why}"));
                    held.unwrap_or_else(|| "The store keeps refusing this batch".into())
                }
                // In steps, or nobody could listen to it.
                BatchState::Incomplete => format!("{} % are done", dealt_per_cent / 10 * 10),
            },
            dealt_per_cent,
            rows: words::rows(batch.rows),
            dealt: grouped(dealt),
            bytes: size(batch.bytes),
            accepted: Moment::of(batch.id.seq.millis(), now),
            name: name(batch),
            by: By::of(batch.by, &front.app.tokens()).map(|by| by.words()),
            of: batch.as_of.map(|at| Moment::of(at, now)),
            undoes: batch.undoes.as_ref().map(ToString::to_string),
            completed: batch.completed.map(|at| Moment::of(at, now)),
            shows: front.app.shows_from(&batch.id).filter(|_| live).map(|at| Moment::of(at, now)),
            rate: batch.rows_per_second.map(grouped),
            end: batch.estimated_end.map(|at| Moment::of(at, now)),
            bar: Bar::of(&batch.counts, batch.rows),
            outcomes: tabs(batch),
            amiss: is_amiss(batch),
            not_found,
            failures,
            remarks: {
                let new = batch.new_attributes.iter().map(NewAttribute::in_words);
                new.chain(if live { vec![] } else { quotes(front, request, batch).await? }).collect()
            },
            reason: batch.reason.clone(),
        })
    }
}

/// The outcomes: their names, their words, how many rows have each.
fn tabs(batch: &BatchStatus) -> Vec<(&'static str, &'static str, String)> {
    Outcome::ALL.map(|outcome| (outcome.name(), in_words(outcome), grouped(batch.counts.of(outcome)))).into()
}

impl Rows {
    /// The rows of a complete batch that `outcome=` and `from=` ask for.
    async fn of(
        front: &Front,
        request: &Request,
        batch: &BatchStatus,
        query: &Params,
    ) -> Result<Option<Self>, HttpError> {
        let Some(outcome) = outcomes::wanted(query)? else { return Ok(None) };
        let (who, from) = (request.who(Some(&batch.id.client)), outcomes::from(query)?);
        let page = front.app.outcome_page(&who, &batch.id, Some(outcome), from, ROWS_SHOWN_MAX).await?;
        let next = page.next.map(|next| format!("{}.{}", next.line, next.offset));
        let (outcome, words) = (outcome.name(), in_words(outcome));
        Ok(Some(Self { tabs: tabs(batch), outcome, words, rows: page.rows, next }))
    }
}

impl NotFound {
    /// None where every row found its visitor. The examples are missing where the upload cannot be read just now.
    async fn of(front: &Front, request: &Request, batch: &BatchStatus) -> Result<Option<Self>, HttpError> {
        if batch.counts.not_found == 0 {
            return Ok(None);
        }
        let who = request.who(Some(&batch.id.client));
        let page = front.app.outcome_page(&who, &batch.id, Some(Outcome::NotFound), None, EXAMPLES_MAX).await;
        let examples = match page {
            Ok(page) => page.rows.into_iter().filter_map(|row| row.id).collect(),
            Err(error @ EngineError::Stopping) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(batch = %batch.id, %error, "no row without a visitor could be shown");
                vec![]
            }
        };
        Ok(Some(Self {
            count: words::rows(batch.counts.not_found),
            most: is_amiss(batch),
            examples,
            v2: batch.version == BatchVersion::V2,
        }))
    }
}

/// The quotes that take in what could be rows; none where the upload is no longer kept, or cannot be read just now.
async fn quotes(front: &Front, request: &Request, batch: &BatchStatus) -> Result<Vec<String>, HttpError> {
    match front.app.quotes_that_take_in(&request.who(Some(&batch.id.client)), &batch.id).await {
        Ok(remarks) => Ok(remarked(&remarks)),
        Err(error @ EngineError::Stopping) => Err(error.into()),
        Err(error) => {
            tracing::debug!(batch = %batch.id, %error, "its file could not be looked at for quotes");
            Ok(vec![])
        }
    }
}

impl Failures {
    /// The reasons, and the first of the rows; none where the upload is no longer kept, or cannot be read just now.
    async fn of(front: &Front, request: &Request, batch: &BatchStatus) -> Result<Option<Self>, HttpError> {
        let who = request.who(Some(&batch.id.client));
        let page = front.app.outcome_page(&who, &batch.id, Some(Outcome::Failed), None, PAGE_ROWS_MAX).await;
        let page = match page {
            Ok(page) => page,
            Err(error @ EngineError::Stopping) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(batch = %batch.id, %error, "no failures could be shown");
                return Ok(None);
            }
        };
        let mut reasons: BTreeMap<&'static str, (u64, String)> = BTreeMap::new();
        for row in &page.rows {
            let message = row.message.as_deref().unwrap_or_default();
            reasons.entry(row.reason.unwrap_or("unknown")).or_insert_with(|| (0, message.to_owned())).0 += 1;
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        Ok(Some(Self {
            reasons: reasons
                .into_iter()
                .map(|(reason, (count, example))| (reason, grouped(count), example))
                .collect(),
            rows: Failed::of(page.rows, batch.counts.failed),
            more: page.next.is_some(),
            count: words::rows(batch.counts.failed),
        }))
    }
}
