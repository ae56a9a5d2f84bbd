//! `GET /api/v1/cluster`: how the nodes of an order are. `GET /api/v1/cluster/snapshot`: everything that a new node needs, as a tar
//! file of a backup.

use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cluster::{ClusterStatus, NodeStatus, SNAPSHOT_NAME};
use crate::engine::{EngineError, PassingBackup};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::form;
use crate::http::response::{TAR, chunked, json};
use crate::http::shapes;
use crate::http::stream::{Sender, begin};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/cluster",
        name: "cluster",
        api: Api::Native,
        access: Access::Everywhere(Scope::Read),
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(async move { status(&call) }),
        describe: Some(|operation| {
            operation
                .summary("Says how the nodes of an order are. A single daemon answers 404.")
                .json::<Cluster>("The nodes. Of the others each figure is as of their last report.")
                .refusal("404")
        }),
    },
    Endpoint {
        methods: Methods::Read,
        path: "/api/v1/cluster/snapshot",
        name: "cluster_snapshot",
        api: Api::Native,
        access: Access::Everywhere(Scope::Admin),
        client: Whose::Nobody,
        limits: CallLimits::NONE,
        handler: |call| Box::pin(snapshot(call)),
        describe: Some(|operation| {
            operation
                .summary("Gives a new node everything that it needs: a backup, as a tar file.")
                .says("An answer that broke off can be gone on with for two minutes.")
                .query(
                    "snapshot",
                    false,
                    shapes::text(),
                    "The Profiled-Snapshot of an answer that broke off: its rest is wanted.",
                )
                .query("from", false, shapes::pattern("^[0-9]{1,19}$"), "How many bytes of it came.")
                .answers("200", "The backup, in chunks.", [form(TAR, shapes::text())])
                .bears("200", SNAPSHOT_NAME, "What the snapshot is called, to go on with it.")
                .refusal("404")
        }),
    },
];

/// How the nodes are.
fn status(call: &Call<'_>) -> Reply {
    let Some(members) = &call.front.members else {
        return Err(HttpError::NotFound(
            "this daemon is a single one, and no node of several: its own state is in /readyz and /metrics"
                .into(),
        ));
    };
    json(StatusCode::OK, &Cluster::of(members.status()))
}

/// How the nodes of an order are.
#[derive(Serialize, ToSchema)]
struct Cluster {
    /// The node that answers.
    node: String,
    /// The id of the order.
    cluster: String,
    order: Ends,
    /// The same of the topic with the files of batches.
    files: Ends,
    nodes: Vec<NodeOfCluster>,
    /// What is wrong with the topics.
    faults: Vec<String>,
}

/// The first offset that a topic still has, and the offset that its next record gets.
#[derive(Serialize, ToSchema)]
struct Ends {
    low: u64,
    end: u64,
}

/// How a node is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Node)]
struct NodeOfCluster {
    name: String,
    address: String,
    version: String,
    /// starting, behind, serving, cut-off, standing, stopped, or away if it no longer reports.
    state: &'static str,
    /// The offset behind the last record of the order that it has applied.
    applied: u64,
    /// How many records of the order it has not applied. A record has up to thousands of requests.
    behind_records: u64,
    /// How much older the last request is that it has applied than the newest that is known.
    behind_ms: Option<u64>,
    /// The offset that its newest snapshot has everything before.
    snapshot: u64,
    /// The bytes that are free on its disk.
    disk_free: u64,
    /// Whether its settings that shape outcomes differ from those of the node that answers.
    settings_differ: bool,
    /// Whether its sum over all decisions differs from that of the node that answers.
    diverged: bool,
    reported_ms_ago: u64,
}

impl Cluster {
    fn of(status: ClusterStatus) -> Self {
        let ends = |(low, end)| Ends { low, end };
        Self {
            node: status.node,
            cluster: status.cluster,
            order: ends(status.order),
            files: ends(status.files),
            nodes: status.nodes.into_iter().map(NodeOfCluster::of).collect(),
            faults: status.faults,
        }
    }
}

impl NodeOfCluster {
    fn of(node: NodeStatus) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            name: node.name,
            address: node.address,
            version: node.version,
            state: node.state,
            applied: node.applied,
            behind_records: node.behind_records,
            behind_ms: node.behind.map(ms),
            snapshot: node.snapshot,
            disk_free: node.disk_free,
            settings_differ: node.settings_differ,
            diverged: node.diverged,
            reported_ms_ago: ms(node.reported),
        }
    }
}

/// Makes a backup, or takes the one that was sent; sends it, and keeps it for a while.
async fn snapshot(call: Call<'_>) -> Reply {
    let query = call.query()?;
    let Call { front, request, bearer, .. } = call;
    if front.members.is_none() {
        return Err(HttpError::NotFound("this daemon is no node of several: use POST /api/v1/backup".into()));
    }
    let from = query.get("from").unwrap_or("0");
    let from: u64 =
        from.parse().map_err(|_| HttpError::Wrong(format!("from={from} is no number of bytes")))?;
    let who = request.who(None);
    let place = front.event_streams.take(&who).await?;
    let pace = request.answer_pace();
    let (snapshot, what) = match query.get("snapshot") {
        Some(name) => (front.app.sent_snapshot(name).ok_or_else(not_kept)?, "the rest"),
        None => (front.app.peer_snapshot(&who).await?, "everything"),
    };
    front.app.note_act(bearer.actor(request), "snapshot for a node", None, what).await;
    let (app, name) = (front.app.clone(), HeaderValue::from_str(snapshot.name()));
    let chunks = begin("a snapshot for a node", &place, pace, move |out| {
        let sent = send(&snapshot, from, out);
        app.peer_snapshot_was_sent(&snapshot);
        sent
    });
    let mut answer = chunked(TAR, chunks);
    if let Ok(name) = name {
        answer.headers_mut().insert(SNAPSHOT_NAME, name);
    }
    Ok(answer)
}

fn not_kept() -> HttpError {
    HttpError::NotFound("this snapshot is not kept any more: ask for one from its beginning".into())
}

/// Sends the archive from this byte on, as far as the other node takes it.
fn send(snapshot: &PassingBackup, from: u64, out: &mut Sender) -> Result<(), EngineError> {
    let mut archive = tar::Builder::new(Rest { out, at: 0, from });
    archive.mode(tar::HeaderMode::Deterministic);
    let sent = append(&mut archive, snapshot.folder(), Path::new("")).and_then(|()| archive.finish());
    match sent {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(EngineError::Internal(format!("the snapshot could not be sent: {error}")))
        }
        _ => Ok(()),
    }
}

/// Appends what is in a folder, in the order of the names: an archive that is made again is the same.
fn append(archive: &mut tar::Builder<Rest<'_>>, folder: &Path, name: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            archive.append_dir(&name, &path)?;
            append(archive, &path, &name)?;
        } else {
            let bytes = entry.metadata()?.len();
            if !archive.get_mut().skips(entry_bytes(&name, bytes)) {
                archive.append_path_with_name(&path, &name)?;
            }
        }
    }
    Ok(())
}

/// How many bytes a file takes in the archive: its header and its blocks. None if its name is too long for one header.
fn entry_bytes(name: &Path, bytes: u64) -> Option<u64> {
    const BLOCK: u64 = 512;
    (name.as_os_str().len() < 100).then(|| BLOCK + bytes.next_multiple_of(BLOCK))
}

/// Writes into an answer, but for the bytes before `from`.
struct Rest<'s> {
    out: &'s mut Sender,
    /// How many bytes came.
    at: u64,
    from: u64,
}

impl Rest<'_> {
    /// Passes over an entry of this length, without reading its file, if none of it is wanted.
    fn skips(&mut self, entry: Option<u64>) -> bool {
        let Some(behind) = entry.and_then(|bytes| self.at.checked_add(bytes)) else { return false };
        let skips = behind <= self.from;
        if skips {
            self.at = behind;
        }
        skips
    }
}

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped =
            usize::try_from(self.from.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
        self.at += bytes.len() as u64;
        let wanted = bytes.get(skipped..).unwrap_or_default();
        match self.out.write(|out| out.extend_from_slice(wanted)) {
            ControlFlow::Continue(()) => Ok(bytes.len()),
            ControlFlow::Break(()) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
