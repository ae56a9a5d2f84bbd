//! `GET /api/v1/batches/{id}/outcomes`: what became of each row; `/repair` and `/file`: the failed rows, and the file as it was sent.
//! They show visitors' ids and values.
//!
//! Without `limit=` all rows come in one answer, in chunks. One that cannot be completed breaks off without its last chunk. With
//! `limit=` one page comes, and `Link` leads to the next.

use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};

use super::batches::with_id;
use crate::engine::gates::Scarce;
use crate::engine::read::report::PAGE_ROWS_MAX;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{Form, form, form_of};
use crate::http::outcomes::{self, ReportForm, Row, of_peer, whole_report};
use crate::http::response::{CSV, NDJSON, whole};
use crate::http::shapes;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/batches/{id}/outcomes",
        name: "batch_outcomes",
        api: Api::Native,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: LIMITS,
        handler: |call| Box::pin(answer(call)),
        describe: Some(|operation| {
            with_id(operation)
                .summary("Says what became of each row. Shows visitors' ids.")
                .query("outcome", false, outcomes::names(), "Only rows with this outcome.")
                .query(
                    "limit",
                    false,
                    shapes::count(PAGE_ROWS_MAX),
                    "The most rows of a page. Without it all rows come in one answer.",
                )
                .query(
                    "from",
                    false,
                    shapes::pattern("^[0-9]{1,8}\\.[0-9]{1,8}$"),
                    "The row to go on from, as Link gives it.",
                )
                .answers(
                    "200",
                    "The outcome of every row.",
                    [form(CSV, shapes::text()), form_of::<Row<'_>>(NDJSON)],
                )
                .bears("200", "Link", "The next page (rel=next), if there is one.")
                .bears("200", "Content-Disposition", "The file name.")
                .refusal("409")
                .refusal("410")
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/batches/{id}/repair",
        name: "batch_repair",
        api: Api::Native,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: LIMITS,
        handler: |call| {
            Box::pin(async move { outcomes::repair(call.front, call.request, &call.batch()?).await })
        },
        describe: Some(|operation| {
            with_id(operation)
                .summary("Returns the failed rows as they were sent, under a header. Shows visitors' values.")
                .answers(
                    "200",
                    "A batch file, to correct and send again, in the form that was sent.",
                    file_forms(),
                )
                .bears("200", "Content-Disposition", "The file name.")
                .refusal("409")
                .refusal("410")
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/batches/{id}/file",
        name: "batch_file",
        api: Api::Native,
        access: Access::Any,
        client: Whose::OfBatch,
        limits: LIMITS,
        handler: |call| {
            Box::pin(async move { outcomes::file(call.front, call.request, &call.batch()?).await })
        },
        describe: Some(|operation| {
            with_id(operation)
                .summary("Returns the file as it was sent. Shows visitors' values.")
                .answers(
                    "200",
                    "The file. Rows of visitors who were erased since read `erased`.",
                    file_forms(),
                )
                .bears("200", "Content-Disposition", "The file name.")
                .refusal("409")
                .refusal("410")
        }),
    },
];

/// The forms of a batch's file.
fn file_forms() -> [Form; 2] {
    [form(CSV, shapes::text()), form(NDJSON, shapes::text())]
}

const LIMITS: CallLimits = CallLimits { scarce: &[Scarce::Reports], ..CallLimits::NONE };

/// What became of the rows.
async fn answer(call: Call<'_>) -> Reply {
    let (id, query) = (&call.batch()?, call.query()?);
    let Call { front, request, .. } = call;
    let form = ReportForm::of(request);
    let wanted = outcomes::wanted(&query)?;
    let from = outcomes::from(&query)?;
    let who = request.who(Some(&id.client));
    let limit = query.count("limit", PAGE_ROWS_MAX)?;
    if let Some(answer) = of_peer(front, request, id, ("outcomes", form.media_type())).await? {
        return Ok(answer);
    }
    let Some(limit) = limit else {
        let report = front.app.report(&who, id).await?;
        return Ok(whole_report(request, report, form, wanted, from));
    };
    let page = front.app.outcome_page(&who, id, wanted, from, limit).await?;
    let mut body = form.head().to_vec();
    page.rows.iter().try_for_each(|row| form.write(row, &mut body))?;
    let mut answer = whole(StatusCode::OK, form.media_type(), body);
    if let Some(next) = page.next {
        let outcome = wanted.map_or(String::new(), |wanted| format!("&outcome={}", wanted.name()));
        let link = format!(
            "</api/v1/batches/{id}/outcomes?limit={limit}&from={}.{}{outcome}>; rel=\"next\"",
            next.line, next.offset
        );
        let link = HeaderValue::try_from(link).map_err(|error| HttpError::Inside(error.to_string()))?;
        answer.headers_mut().insert(LINK, link);
    }
    Ok(answer)
}
