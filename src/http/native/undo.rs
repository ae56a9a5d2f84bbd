//! `POST /api/v1/batches/{id}/undo`: a new batch that puts back what the visitors of another were before it.

use serde::Deserialize;
use utoipa::ToSchema;

use super::batches::{accepted, accepts, with_id};
use crate::engine::gates::Scarce;
use crate::http::auth::Access;
use crate::http::batch_file::sending;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::operation::form_of;
use crate::http::response::JSON;
use crate::http::{shapes, tried_out};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
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
}];

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
    let what = format!("batch {id}, by batch {}", undone.batch.id);
    front.app.note_act(bearer.actor(request), "undo batch", Some(&id.client), &what).await;
    accepted(request, &undone, &front.app.tokens())
}
