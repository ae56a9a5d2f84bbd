//! `GET /api/v1/status`: how the daemon is, in one answer.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::Readiness;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::response::json;
use crate::model::seq::Millis;
use crate::telemetry::metrics::{BackupVitals, Vitals};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/status",
    name: "status",
    api: Api::Native,
    access: Access::Everywhere(Scope::Read),
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(async move { answer(&call) }),
    describe: Some(|operation| {
        operation
            .summary("Tells how the daemon is: whether it serves, its queue, its disk, its upkeep.")
            .says("It is a 200 also while the daemon is not ready.")
            .json::<Status>("How the daemon is.")
    }),
}];

fn answer(call: &Call<'_>) -> Reply {
    let app = &call.front.app;
    let (vitals, readiness) = (app.vitals(), app.readiness());
    let backup = vitals.backups.as_ref().map(|backups| Backup::of(backups, app.now()));
    json(
        StatusCode::OK,
        &Status { backup, ..Status::of(&vitals, readiness, app.remarks(), app.disk_reserve()) },
    )
}

/// How the daemon is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// The version of the program.
    version: &'static str,
    /// Whether it serves, as `/readyz` says.
    ready: bool,
    /// Why not.
    reason: Option<String>,
    /// What an operator should know though it serves.
    remarks: Vec<String>,
    queue: Queue,
    disk: Disk,
    upkeep: Upkeep,
    /// The backups that the daemon makes by itself. Null if the settings ask for none.
    backup: Option<Backup>,
    profiles: Profiles,
}

/// What is accepted and not done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Queue {
    /// Batches that are not complete.
    batches: u64,
    /// How many of them are stuck because their uploads are damaged.
    stuck: u64,
    /// Their rows that are not applied.
    rows: u64,
    /// How long ago the oldest of them was accepted.
    oldest_seconds: Option<u64>,
    /// Writes that wait for the journal.
    writes_waiting: u64,
}

/// The disk of the data folder.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Disk {
    /// What is free, in bytes.
    free: u64,
    /// What the daemon leaves free: with less, it refuses writes.
    reserve: u64,
    /// What the store takes.
    store: u64,
    /// What uploads take that are kept.
    uploads: u64,
}

/// What the daemon does by itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Upkeep {
    /// Seconds since the last checkpoint of the store, or since the start.
    checkpoint_seconds: u64,
    /// Seconds since the last snapshot, or since the start if there is none.
    snapshot_seconds: u64,
    /// Whether a damaged store is being rebuilt.
    rebuilding: bool,
}

/// The backups that the daemon makes by itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Backup {
    /// Seconds from one backup to the next.
    every_seconds: u64,
    /// When the last one was made. Null if there is none in the folder.
    last: Option<String>,
    /// Seconds since then.
    age_seconds: Option<u64>,
    /// Why the last attempt failed. Null if it did not.
    failure: Option<String>,
}

impl Backup {
    fn of(backups: &BackupVitals, now: Millis) -> Self {
        Self {
            every_seconds: backups.every.as_secs(),
            last: backups.last.map(Millis::iso_8601),
            age_seconds: backups.last.map(|last| now.0.saturating_sub(last.0) / 1000),
            failure: backups.failure.clone(),
        }
    }
}

/// The profiles of all clients.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Profiles {
    /// How many live, as last counted.
    live: u64,
    /// Seconds since they were counted.
    counted_seconds: u64,
}

impl Status {
    fn of(vitals: &Vitals, readiness: Readiness, remarks: Vec<String>, reserve: u64) -> Self {
        let reason = match readiness {
            Readiness::Ready => None,
            Readiness::NotReady(why) => Some(why),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready: reason.is_none(),
            reason,
            remarks,
            queue: Queue {
                batches: vitals.batches_pending,
                stuck: vitals.batches_stuck,
                rows: vitals.rows_pending,
                oldest_seconds: vitals.oldest_pending_age.map(|age| age.as_secs()),
                writes_waiting: vitals.writes_waiting,
            },
            disk: Disk {
                free: vitals.disk_free_bytes,
                reserve,
                store: vitals.store_bytes,
                uploads: vitals.spool_bytes,
            },
            upkeep: Upkeep {
                checkpoint_seconds: vitals.checkpoint_age.as_secs(),
                snapshot_seconds: vitals.snapshot_age.as_secs(),
                rebuilding: vitals.store_rebuilding,
            },
            backup: None,
            profiles: Profiles {
                live: vitals.live_profiles,
                counted_seconds: vitals.live_profiles_age.as_secs(),
            },
        }
    }
}
