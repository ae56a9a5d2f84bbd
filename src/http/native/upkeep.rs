//! `POST /api/v1/compact` and `/api/v1/backup`: maintenance of the data folder while the daemon runs.

use std::path::PathBuf;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::Done;
use crate::engine::gates::Scarce;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::operation::form_of;
use crate::http::response::{JSON, json};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Post,
        path: "/api/v1/compact",
        name: "compact",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: LIMITS,
        handler: |call| Box::pin(compact(call)),
        describe: Some(|operation| {
            operation
                .summary("Compacts the store: makes a fresh one.")
                .body([form_of::<Compaction>(JSON)])
                .json::<Compacted>("The fresh store is in use.")
        }),
    },
    Endpoint {
        methods: Methods::Post,
        path: "/api/v1/backup",
        name: "backup",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: LIMITS,
        handler: |call| Box::pin(backup(call)),
        describe: Some(|operation| {
            operation
                .summary("Writes a backup.")
                .body([form_of::<BackupTo>(JSON)])
                .json::<BackedUp>("The backup is written.")
        }),
    },
];

const LIMITS: CallLimits =
    CallLimits { body: BodyLimit::Bytes(16 << 10), rate: RateLimit::Free, scarce: &[Scarce::Tasks] };

/// The body of a call to compact: an empty object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Compaction {}

/// Where to write a backup.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackupTo {
    /// An absolute path on the daemon's machine, or the `s3://` URL of a new place in S3-compatible storage.
    #[schema(value_type = String)]
    folder: PathBuf,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Compacted {
    store_bytes_before: u64,
    store_bytes: u64,
    live_bytes: u64,
    ids_erased: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BackedUp {
    values: u64,
    seq: String,
    /// How many damaged uploads the backup holds as they are. Batches that wait for them wait in what is restored, too.
    damaged_uploads: u64,
}

/// Makes a fresh store.
async fn compact(mut call: Call<'_>) -> Reply {
    let Compaction {} = call.json_body("{}").await?;
    let Call { front, request, bearer, .. } = call;
    let Done { store_bytes: (before, after), live_bytes, erased, .. } =
        front.app.compact(&request.who(None)).await?;
    front.app.note_act(bearer.actor(request), "compact", None, &format!("{erased} ids erased")).await;
    let done = Compacted { store_bytes_before: before, store_bytes: after, live_bytes, ids_erased: erased };
    json(StatusCode::OK, &done)
}

/// Writes a backup.
async fn backup(mut call: Call<'_>) -> Reply {
    let BackupTo { folder } = call.json_body("{\"folder\": \"/an/absolute/path\"}").await?;
    let Call { front, request, bearer, .. } = call;
    let what = folder.display().to_string();
    let done = front.app.backup(&request.who(None), folder).await?;
    front.app.note_act(bearer.actor(request), "backup", None, &what).await;
    let Done { values, seq, damaged_uploads, .. } = done;
    json(StatusCode::OK, &BackedUp { values, seq: seq.to_string(), damaged_uploads })
}
