//! `GET /api/v1/batches/{id}/events`: how far a batch is, as server-sent events: `progress` whenever that has changed, a few times a
//! second at most, then `complete`.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::batches::{Batch, with_id};
use crate::engine::gates::Scarce;
use crate::engine::{BatchState, BatchStatus, Engine};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::operation::form;
use crate::http::response::{Chunk, EVENTS, chunked};
use crate::http::shapes;

/// How often the batch is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After so long without an event a comment is sent: the client could think that the connection is dead, and only a write
/// shows whether the client has gone.
const SILENT_MAX: Duration = Duration::from_secs(15);

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/batches/{id}/events",
    name: "batch_events",
    api: Api::Native,
    access: Access::Any,
    client: Whose::OfBatch,
    limits: CallLimits { scarce: &[Scarce::EventStreams], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        with_id(operation).summary("Follows a batch: events progress, then complete.").answers(
            "200",
            "Server-sent events whose data is a batch in JSON.",
            [form(EVENTS, event())],
        )
    }),
}];

/// An event, for the OpenAPI document.
fn event() -> Schema {
    let names = shapes::one_of(&["progress", "complete"]);
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("event", names)
        .property("data", shapes::text())
        .into()
}

async fn answer(call: Call<'_>) -> Reply {
    let id = &call.batch()?;
    let Call { front, request, .. } = call;
    let batch = super::batches::known(front, id)?;
    let place = front.event_streams.take(&request.who(Some(&id.client))).await?;
    // The stream lasts as long as its batch, so the caller who has had one longest makes room.
    place.waits_for_good();
    let (chunks, receiver) = mpsc::channel(1);
    let (app, mut stopping) = (front.app.clone(), request.stopping());
    tokio::spawn(async move {
        let events = async {
            tokio::select! {
                () = tell(&app, batch, &chunks) => {}
                _ = stopping.wait_for(Option::is_some) => {}
            }
            // A caller that has gone needs no end.
            drop(chunks.send(Chunk::End).await);
        };
        tokio::select! {
            () = events => {}
            () = chunks.closed() => {}
            // The stream breaks off, and a browser asks again by itself.
            _ = place.asked_to_leave() => {}
        }
    });
    Ok(chunked(EVENTS, receiver))
}

/// Sends how far a batch is, until it is complete or no longer kept.
async fn tell(app: &Engine, mut batch: BatchStatus, chunks: &mpsc::Sender<Chunk>) {
    let mut sent: Option<(BatchStatus, Instant)> = None;
    loop {
        let complete = batch.state == BatchState::Complete;
        let news =
            sent.as_ref().is_none_or(|(sent, _)| (sent.state, sent.counts) != (batch.state, batch.counts));
        let event = if news || complete {
            let name = if complete { "complete" } else { "progress" };
            let Ok(data) = serde_json::to_string(&Batch::of(&batch, &app.tokens())) else { return };
            format!("event: {name}\ndata: {data}\n\n")
        } else if sent.as_ref().is_some_and(|(_, at)| at.elapsed() >= SILENT_MAX) {
            ":\n\n".to_owned()
        } else {
            String::new()
        };
        if !event.is_empty() {
            if chunks.send(Chunk::Bytes(Bytes::from(event))).await.is_err() || complete {
                return;
            }
            sent = Some((batch.clone(), Instant::now()));
        }
        sleep(LOOK).await;
        match app.batch(&batch.id) {
            Some(now) => batch = now,
            None => return,
        }
    }
}
