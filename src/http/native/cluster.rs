//! `GET /api/v1/cluster/snapshot`: everything that a new node needs, as a tar file of a backup.

use std::io::{self, Write};
use std::ops::ControlFlow;

use crate::durable;
use crate::engine::EngineError;
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::form;
use crate::http::response::{TAR, chunked};
use crate::http::shapes;
use crate::http::stream::{Sender, begin};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/cluster/snapshot",
    name: "cluster-snapshot",
    api: Api::Native,
    access: Access::Everywhere(Scope::Admin),
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |call| Box::pin(snapshot(call)),
    describe: Some(|operation| {
        operation.summary("Gives a new node everything that it needs: a backup, as a tar file.").answers(
            "200",
            "The backup, in chunks.",
            [form(TAR, shapes::text())],
        )
    }),
}];

/// Makes a backup, sends it, and removes it.
async fn snapshot(call: Call<'_>) -> Reply {
    let Call { front, request, bearer, .. } = call;
    if front.members.is_none() {
        return Err(HttpError::NotFound("this daemon is no node of several: use POST /api/v1/backup".into()));
    }
    let who = request.who(None);
    let place = front.event_streams.take(&who).await?;
    let pace = request.answer_pace();
    let folder = tempfile_in(&front.app.data_folder().join("peer-snapshots"))?;
    front.app.backup(&who, folder.0.clone()).await?;
    front.app.note_act(bearer.actor(request), "snapshot for a node", None, "everything").await;
    Ok(chunked(TAR, begin("a snapshot for a node", &place, pace, move |out| send(&folder, out))))
}

/// A folder that goes when this is dropped.
struct Backup(std::path::PathBuf);

impl Drop for Backup {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn tempfile_in(folder: &std::path::Path) -> Result<Backup, HttpError> {
    let inside = |error: &dyn std::fmt::Display| HttpError::Inside(error.to_string());
    let mut number = [0; 8];
    getrandom::fill(&mut number).map_err(|error| inside(&error))?;
    durable::private_folder(folder).map_err(|error| inside(&error))?;
    Ok(Backup(folder.join(format!("{:016x}", u64::from_le_bytes(number)))))
}

fn send(folder: &Backup, out: &mut Sender) -> Result<(), EngineError> {
    let mut archive = tar::Builder::new(Chunks(out));
    archive.mode(tar::HeaderMode::Deterministic);
    let sent = archive.append_dir_all(".", &folder.0).and_then(|()| archive.finish());
    match sent {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(EngineError::Internal(format!("the snapshot could not be sent: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes into an answer.
struct Chunks<'s>(&'s mut Sender);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(|out| out.extend_from_slice(bytes)) {
            ControlFlow::Continue(()) => Ok(bytes.len()),
            ControlFlow::Break(()) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
