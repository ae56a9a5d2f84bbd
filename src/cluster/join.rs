//! Founding an order, and joining it.
//!
//! ```text
//! the folder    the order        what a node does
//! new           empty            founds it, unless another node was faster; the folder's tokens go into the first record
//! new           whole            reads it from its beginning
//! new           trimmed, or      gets a snapshot from another node, and reads on from there
//!               of somebody's data
//! of the order  the same         reads on
//! of the order  another, empty   refuses to start
//! a daemon's    any              refuses to start: `profiled cluster found` makes an order of it
//! ```
//!
//! Promises: a folder never gets anything of an order that it does not belong to.

use super::folder::{FolderCluster, Founded};
use super::report::{NodeReport, NodeState};
use super::transport::Transport;
use crate::engine::commit::Request;
use crate::engine::commit::wire::{self, FromOrder};
use crate::folder;
use crate::model::seq::{Clock, Millis};
use crate::order::gather::REQUEST_BYTES_MAX;
use crate::order::record::{ClusterId, Offers, RunId};
use crate::order::{Log, Offset, OrderError, Record};
use crate::tokens::{Token, TokenChange, Tokens, TokensError};
use serde_bytes::ByteBuf;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a record may take.
const APPEND_WITHIN: Duration = Duration::from_secs(15);
/// How long one read waits.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A node that reported less long ago than this may still run.
const MAY_RUN: u64 = 6_000;
/// How long a node waits for another report under its name: a node reports every two seconds.
const SAME_NAME_WAIT: Duration = Duration::from_millis(2_600);

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The order did not answer, or is not fit.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The folder is a single daemon's.
    #[error(
        "{} holds the data of a single daemon: to have a cluster go on from it, run `profiled cluster found` with the same \
         settings once; else start the node with an empty folder", .0.display()
    )]
    SingleDaemons(PathBuf),
    /// The folder belongs to another order.
    #[error(
        "{} belongs to the order {folder}, and the order at this address is {order}: give the address of the right one", path.display()
    )]
    AnotherOrder {
        /// The folder.
        path: PathBuf,
        /// Its order.
        folder: ClusterId,
        /// The order that was found.
        order: ClusterId,
    },
    /// The folder's data is not what its order says.
    #[error(
        "{} has diverged: most other nodes had another sum over the order. Keep it for whoever looks into it, and start the node with \
         an empty folder: it gets everything from another node", .0.display()
    )]
    Diverged(PathBuf),
    /// The order is empty, and the folder is not.
    #[error(
        "the order is empty, and {} has applied one before: its topics were made anew, or its brokers lost what they acknowledged. \
         `profiled cluster found --anew` begins a new order from the node that has most", .0.display()
    )]
    MadeAnew(PathBuf),
    /// The order is not empty, where it must be.
    #[error("the order is not empty: it is {0}; choose another PREFIX for a new one")]
    NotEmpty(ClusterId),
    /// Another node has the name.
    #[error(
        "node {name} runs already, at {address}: no two nodes may share a name, so give this one another with --node"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where it runs.
        address: String,
    },
    /// No node gives a snapshot.
    #[error("a new node needs a snapshot from another one, because {why}; none gave it: {tried}")]
    NoSnapshot {
        /// Why it needs one.
        why: &'static str,
        /// What the others said.
        tried: String,
    },
    /// The folder's tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The folder has more tokens than the first record takes.
    #[error(
        "{} has {tokens} tokens, which are too many to begin an order with: start with fewer, and make the others on a running node",
        path.display()
    )]
    TooManyTokens {
        /// The folder.
        path: PathBuf,
        /// How many it has.
        tokens: usize,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

/// A node that has joined, and whose engine is not open yet.
#[derive(Debug)]
pub struct Joined {
    /// Which order it belongs to.
    pub cluster: ClusterId,
    /// Its run.
    pub run: RunId,
}

/// What a node is called, and where it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// The hash of its settings that shape outcomes.
    pub settings: String,
}

/// The header with what a node calls the snapshot that it sends, so that it can be asked for the rest.
pub const SNAPSHOT_NAME: &str = "profiled-snapshot";

/// Gets a snapshot from the node at this address into a data folder, which is empty or not there. The folder gets its name only
/// once it says that it belongs to this order.
pub type FetchSnapshot<'f> = &'f dyn Fn(&str, &Path, ClusterId) -> Result<(), String>;

/// Joins an order, and founds it if it is empty. Blocks.
pub fn join(
    data: &Path,
    transport: &Transport,
    who: &Identity,
    clock: &dyn Clock,
    fetch: FetchSnapshot<'_>,
) -> Result<Joined, JoinError> {
    let failed = |error| JoinError::Folder { path: data.to_owned(), error };
    let run = RunId::random().map_err(|error| JoinError::Random(error.to_string()))?;
    let known = FolderCluster::read(data).map_err(failed)?;
    if known.is_none() && folder::is_one(data) {
        return Err(JoinError::SingleDaemons(data.to_owned()));
    }
    if known.is_some_and(|known| known.diverged) {
        return Err(JoinError::Diverged(data.to_owned()));
    }
    let others = check_name(transport, who, run)?;
    let (low, end) = transport.order.ends()?;
    let order = match first(transport, low, end)? {
        Some(founded) => founded,
        None if known.is_some() && end == Offset(0) => return Err(JoinError::MadeAnew(data.to_owned())),
        None if end == Offset(0) => {
            let tokens = Tokens::read(data)?;
            let with = added(&tokens).map_err(|()| JoinError::TooManyTokens {
                path: data.to_owned(),
                tokens: tokens.all().len(),
            })?;
            found_empty(transport, clock, false, with)?
        }
        // Its first record is gone. The other nodes say which order it is.
        None => {
            // The last one that reported: a report of an earlier order may still be there.
            let of_others = others.iter().rev().find_map(|report| ClusterId::parse(&report.cluster));
            let cluster = of_others.or(known.map(|known| known.cluster));
            let cluster = cluster.ok_or_else(|| JoinError::NoSnapshot {
                why: "the beginning of the order is gone",
                tried: "no node reports".into(),
            })?;
            Founded { cluster, with_data: true }
        }
    };
    match known {
        Some(known) if known.cluster != order.cluster => {
            let (folder, order) = (known.cluster, order.cluster);
            return Err(JoinError::AnotherOrder { path: data.to_owned(), folder, order });
        }
        Some(_) => {}
        None => {
            if low > Offset(0) || order.with_data {
                let why = if low > Offset(0) {
                    "the beginning of the order is gone"
                } else {
                    "the order goes on from a single daemon's data"
                };
                fetch_from_any(data, order.cluster, &others, why, fetch)?;
            } else {
                FolderCluster::of(order.cluster).write(data).map_err(failed)?;
            }
        }
    }
    Ok(Joined { cluster: order.cluster, run })
}

/// Makes an order of a single daemon's data: its first record says that new nodes need a snapshot first. With `anew` also of
/// a node's, whose order is lost. Blocks.
pub fn found(
    data: &Path,
    transport: &Transport,
    clock: &dyn Clock,
    anew: bool,
) -> Result<ClusterId, JoinError> {
    let failed = |error| JoinError::Folder { path: data.to_owned(), error };
    let known = FolderCluster::read(data).map_err(failed)?;
    if known.is_some_and(|known| known.diverged) {
        return Err(JoinError::Diverged(data.to_owned()));
    }
    let (low, end) = transport.order.ends()?;
    let order = first(transport, low, end)?;
    if let (Some(order), Some(known)) = (order, known)
        && order.cluster == known.cluster
    {
        return Ok(order.cluster);
    }
    if let Some(order) = order {
        return Err(JoinError::NotEmpty(order.cluster));
    }
    if let Some(known) = known.filter(|_| !anew) {
        let path = data.to_owned();
        return Err(JoinError::AnotherOrder { path, folder: known.cluster, order: ClusterId::default() });
    }
    // Whoever joins gets the tokens with a snapshot.
    let founded = found_empty(transport, clock, true, vec![])?;
    FolderCluster::of(founded.cluster).write(data).map_err(failed)?;
    Ok(founded.cluster)
}

/// The first record of an order, if it is still there. An order that is empty has none.
fn first(transport: &Transport, low: Offset, end: Offset) -> Result<Option<Founded>, JoinError> {
    if low > Offset(0) || end == Offset(0) {
        return Ok(None);
    }
    let record = transport.order.read_from(Offset(0))?.next(READ_WITHIN)?;
    let record = record.ok_or_else(|| OrderError::OutOfReach("its first record does not come".into()))?;
    Ok(Some(read_first(&record)?))
}

fn read_first(record: &Record) -> Result<Founded, OrderError> {
    let unfit = |why: String| OrderError::NotTheSame(format!("its first record is not an order's: {why}"));
    let offers = Offers::decode(&record.value).map_err(|error| unfit(error.to_string()))?;
    let bytes = offers.requests.first().ok_or_else(|| unfit("it is empty".into()))?;
    match wire::decode(bytes).map_err(|error| unfit(error.to_string()))? {
        FromOrder::Founded(cluster, with_data) => Ok(Founded { cluster, with_data }),
        _ => Err(unfit("it is a request".into())),
    }
}

/// The requests that make these tokens everybody's. An error if they do not fit into a record.
fn added(tokens: &Tokens) -> Result<Vec<Vec<u8>>, ()> {
    let request = |token: &Token| wire::encode(&Request::Token(TokenChange::Add(token.clone())));
    let requests: Option<Vec<_>> = tokens.all().iter().map(|token| request(token)?.ok()).collect();
    let requests = requests.ok_or(())?;
    let fits = requests.iter().map(Vec::len).sum::<usize>() < REQUEST_BYTES_MAX / 2;
    fits.then_some(requests).ok_or(())
}

/// Founds an order that is empty, with these requests behind its certificate. Several nodes may try at once: the first record
/// counts.
fn found_empty(
    transport: &Transport,
    clock: &dyn Clock,
    with_data: bool,
    requests: Vec<Vec<u8>>,
) -> Result<Founded, JoinError> {
    let random = |error: getrandom::Error| JoinError::Random(error.to_string());
    let cluster = ClusterId::random().map_err(random)?;
    let unfit = |error| JoinError::Order(OrderError::Refused(format!("{error}")));
    let certificate = wire::founding(cluster, with_data).map_err(unfit)?;
    let requests = std::iter::once(certificate).chain(requests).map(ByteBuf::from).collect();
    let run = RunId::random().map_err(random)?;
    let Millis(clock_ms) = clock.now();
    let offers = Offers { run, first: 1, clock_ms, requests };
    append(&*transport.order, b"", offers.encode().map_err(unfit)?)?;
    let (low, end) = transport.order.ends()?;
    let founded = first(transport, low, end)?;
    founded.ok_or_else(|| OrderError::NotTheSame("it was founded, and is empty".into()).into())
}

/// Appends a record, and waits for it.
pub(super) fn append(log: &dyn Log, key: &[u8], record: Vec<u8>) -> Result<Offset, OrderError> {
    let (done, appended) = mpsc::channel();
    log.append(key, record, Box::new(move |outcome| drop(done.send(outcome))));
    let late = |_| OrderError::Unknown("no answer to a record".into());
    appended.recv_timeout(APPEND_WITHIN).map_err(late)?
}

/// Gives the newest report of each node but this one, unless another run reports under this node's name.
fn check_name(transport: &Transport, who: &Identity, run: RunId) -> Result<Vec<NodeReport>, JoinError> {
    let starting = NodeReport {
        name: who.name.clone(),
        run: run.to_string(),
        cluster: String::new(),
        address: who.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rules: wire::RULES_VERSION,
        state: NodeState::Starting,
        settings: who.settings.clone(),
        ..NodeReport::default()
    };
    let (low, _) = transport.nodes.ends()?;
    let own = append(&*transport.nodes, who.name.as_bytes(), starting.encode())?;
    let mut reader = transport.nodes.read_from(low)?;
    let mut others: Vec<(NodeReport, Millis)> = vec![];
    let mut now = Millis::default();
    let mut same_name: Option<(NodeReport, Millis)> = None;
    while let Some(record) = reader.next(READ_WITHIN)? {
        now = record.time;
        let reported = NodeReport::decode(&record.value).filter(|it| it.run != starting.run);
        if let Some(reported) = reported {
            if reported.name == who.name {
                same_name = Some((reported, record.time));
            } else {
                others.retain(|(known, _)| known.name != reported.name);
                others.push((reported, record.time));
            }
        }
        if record.offset >= own {
            break;
        }
    }
    let may_run = same_name.filter(|(report, at)| {
        !matches!(report.state, NodeState::Stopped | NodeState::Starting) && at.plus(MAY_RUN) > now
    });
    if let Some((former, _)) = may_run {
        let until = Instant::now() + SAME_NAME_WAIT;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Some(record) = reader.next(left)? else { break };
            let reported = NodeReport::decode(&record.value);
            if reported.is_some_and(|it| it.run == former.run && it.state != NodeState::Stopped) {
                return Err(JoinError::NameTaken { name: former.name, address: former.address });
            }
        }
    }
    Ok(others.into_iter().map(|(report, _)| report).collect())
}

fn fetch_from_any(
    data: &Path,
    cluster: ClusterId,
    others: &[NodeReport],
    why: &'static str,
    fetch: FetchSnapshot<'_>,
) -> Result<(), JoinError> {
    let mut tried = vec![];
    // A node that starts does not say which order it belongs to.
    let ours = |report: &&NodeReport| {
        report.cluster.is_empty() || ClusterId::parse(&report.cluster) == Some(cluster)
    };
    let (serving, others): (Vec<_>, Vec<_>) =
        others.iter().filter(ours).partition(|report| report.state == NodeState::Serving);
    for node in serving.into_iter().chain(others) {
        tracing::info!(node = node.name, address = node.address, "asks another node for a snapshot");
        match fetch(&node.address, data, cluster) {
            Ok(()) => return Ok(()),
            Err(error) => tried.push(format!("{} ({}): {error}", node.name, node.address)),
        }
    }
    let tried = if tried.is_empty() { "no other node reports".into() } else { tried.join("; ") };
    Err(JoinError::NoSnapshot { why, tried })
}
