//! `POST /api/v1/batches/{id}/undo`: a new batch that puts back what the visitors of another were before it. `DELETE /api/v1/batches/{id}`
//! does the same for one that is not complete, and gives up one that is stuck.

use serde::Deserialize;
use utoipa::ToSchema;

use super::batches::{Batch, accepted, accepts, accepts_in_earnest, known, with_id};
use crate::engine::gates::Scarce;
use crate::engine::{AcceptedBatch, BatchState, EngineError};
use crate::http::auth::{Access, Bearer};
use crate::http::batch_file::sending;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::operation::form_of;
use crate::http::request::Request;
use crate::http::response::{JSON, json};
use crate::http::{Front, shapes, tried_out};
use crate::model::batch::BatchId;
use crate::tokens::Scope;
use hyper::StatusCode;

pub(super) const ENDPOINTS: &[Endpoint] = &[UNDO, WITHDRAW];

const UNDO: Endpoint = Endpoint {
    methods: Methods::Post,
    path: "/api/v1/batches/{id}/undo",
    name: "undo",
    api: Api::Native,
    access: Access::Of(Scope::Admin),
    client: Whose::OfBatch,
    limits: CallLimits {
        body: BodyLimit::Bytes(1 << 10),
        rate: RateLimit::Free,
        scarce: &[Scarce::Uploads, Scarce::Reports, Scarce::DryRuns],
    },
    handler: |call| Box::pin(undo(call)),
    describe: Some(|operation| {
        let described = with_id(operation)
            .summary("Undoes a batch: each attribute that it changed, and that no later write has touched, is again what it was before.")
            .says("It is a new batch, with its own place in the order, outcomes and id, and can be undone itself. A row is ignored where nothing is left to put back, and fails where the visitor's history does not go back so far.")
            .body([form_of::<Undoing>(JSON)])
            .header(
                "Idempotency-Key",
                shapes::pattern("^[!-~]{1,255}$"),
                "If the same key comes again within 24 hours, the first answer is given again, and no second batch is made.",
            );
        accepts(described).refusal("410")
    }),
};

const WITHDRAW: Endpoint = Endpoint {
    methods: Methods::Delete,
    path: "/api/v1/batches/{id}",
    name: "batch",
    api: Api::Native,
    access: Access::Of(Scope::Admin),
    client: Whose::OfBatch,
    limits: CallLimits { scarce: &[Scarce::Uploads, Scarce::Reports], ..CallLimits::NONE },
    handler: |call| Box::pin(withdraw(call)),
    describe: Some(|operation| {
        let described = with_id(operation)
            .summary("Cancels a batch that is not complete.")
            .says("What it changed already, and what it would change yet, is undone by a new batch, which is returned. One that is stuck because its upload is damaged is given up instead: its rows count as failed. A complete one is a 409: undo it.");
        accepts_in_earnest(described)
            .json::<Batch>("The batch was stuck, and is given up: it is complete now.")
            .refusal("409")
            .refusal("410")
    }),
};

/// The body of a call to undo a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Undoing {
    /// Only says what would become of the rows. Nothing is written.
    #[serde(default)]
    dry_run: bool,
}

async fn undo(mut call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    let Undoing { dry_run } = call.json_body("{}, or {\"dryRun\": true}").await?;
    let Call { front, request, bearer, .. } = call;
    let sending = sending(request, &request.query().strict()?)?;
    let upload = front.app.undo_batch(&request.who(Some(&id.client)), id, !dry_run).await?;
    if dry_run {
        let tried = upload.try_out().await?;
        request.note(|notes| notes.tried_out(&tried.counts, tried.rows, tried.bytes));
        return tried_out::answer(request, tried);
    }
    let undone = upload.finish(sending).await?;
    answer(front, request, bearer, id, &undone).await
}

/// Withdraws a batch that is not complete: gives it up if it is stuck because its upload is damaged, and else undoes it.
async fn withdraw(call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    match known(call.front, id)?.state {
        BatchState::Stuck => give_up(call, id).await,
        BatchState::Incomplete => cancel(call, id).await,
        BatchState::Complete => Err(EngineError::AlreadyComplete(id.to_string()).into()),
    }
}

async fn give_up(call: Call<'_>, id: &BatchId) -> Reply {
    let Call { front, request, bearer, .. } = call;
    let batch = front.app.give_up_batch(id).await?;
    let what = format!("batch {id}");
    front.app.note_act(bearer.actor(request), "give up batch", Some(&id.client), &what).await;
    json(StatusCode::OK, &Batch::of(&batch, &front.app.tokens()))
}

/// Undoes a batch that is not complete: what it changed already, and what it would change yet.
async fn cancel(call: Call<'_>, id: &BatchId) -> Reply {
    let Call { front, request, bearer, .. } = call;
    let sending = sending(request, &request.query().strict()?)?;
    let upload = front.app.undo_batch(&request.who(Some(&id.client)), id, true).await?;
    answer(front, request, bearer, id, &upload.finish(sending).await?).await
}

async fn answer(
    front: &Front,
    request: &mut Request,
    bearer: &Bearer,
    id: &BatchId,
    undone: &AcceptedBatch,
) -> Reply {
    let what = format!("batch {id}, by batch {}", undone.batch.id);
    front.app.note_act(bearer.actor(request), "undo batch", Some(&id.client), &what).await;
    accepted(request, undone, &front.app.tokens())
}
