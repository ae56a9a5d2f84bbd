//! What `profiled serve` does besides where the daemon is one node of several.

use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::client::Client;
use super::error::CliError;
use super::peer;
use crate::cluster::{self, FolderCluster, Identity, Joined, Members, Roster, SNAPSHOT_NAME, Transport};
use crate::config::Config;
use crate::durable::private_folder;
use crate::engine::offline::restore::{clear_interrupted as clear_interrupted_restore, restore_of_peer};
use crate::engine::{Engine, NodeParts};
use crate::http::change_event::write_change;
use crate::layout;
use crate::model::seq::SystemClock;
use crate::order::Offset;
use crate::order::gather::Gathering;
use crate::order::record::ClusterId;
use crate::tokens::Tokens;

/// The media type of a snapshot.
const TAR: &str = "application/x-tar";
/// How often the rest of a snapshot is asked for without that a byte more comes.
const TRIES: u32 = 10;
/// How long the next bytes of one may take.
const NEXT_WITHIN: Duration = Duration::from_secs(30);
/// How long a node waits before it asks for the rest.
const AGAIN: Duration = Duration::from_secs(1);

/// A daemon that has joined an order, and whose engine is not open yet.
pub(super) struct Node {
    transport: Transport,
    who: Identity,
    joined: Joined,
    roster: Arc<Roster>,
    gather: Duration,
    wait_for_node: Duration,
}

impl Node {
    /// Joins the order that the settings name; none if they name none. `url` is where this daemon listens. Blocks.
    pub(super) fn join(config: &Config, url: &str, runtime: &Handle) -> Result<Option<Self>, CliError> {
        let settings = &config.cluster;
        let (Some(order), Some(name)) = (&settings.order, &settings.node) else {
            return alone(config).map(|()| None);
        };
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
        let transport = cluster::open(config, order.as_str()).map_err(|error| failed(&error))?;
        let data = &config.server.data_folder;
        let asked_for = || Tokens::read(data).map(|tokens| tokens.are_asked_for());
        if let Err(open_to_all) = config.check_reach(asked_for().map_err(|error| failed(&error))?) {
            // Nobody else can have a token for it, unless somebody has founded the order.
            let (_, end) = transport.order.ends().map_err(|error| failed(&error))?;
            if end == Offset(0) {
                return Err(CliError::Usage(open_to_all.to_string()));
            }
        }
        let who = Identity {
            name: name.as_str().to_owned(),
            address: settings
                .advertise
                .as_ref()
                .map_or_else(|| url.to_owned(), |url| url.as_str().to_owned()),
            settings: cluster::hash_of(config),
        };
        let token = settings.peer_token_file.as_ref().map(fs::read_to_string).transpose();
        let token = token.map_err(|error| failed(&format!("peer_token_file: {error}")))?;
        let fetch = |address: &str, data: &Path, cluster: ClusterId| {
            let fetched = runtime.block_on(fetch(address, token.as_deref(), (data, cluster), config));
            fetched.map_err(|error| error.to_string())
        };
        let joined = cluster::join(data, &transport, &who, &SystemClock, &fetch);
        let joined = joined.map_err(|error| failed(&error))?;
        if config.check_reach(asked_for().map_err(|error| failed(&error))?).is_err() {
            tracing::warn!(
                listen = %config.server.listen,
                "there are no tokens yet, and other machines can reach this address: calls that need a token are refused until the \
                 order brings one, or `profiled token new` makes one here and the daemon gets a SIGHUP"
            );
        }
        tracing::info!(node = who.name, cluster = %joined.cluster, "joined the order");
        let (gather, wait_for_node) = (settings.gather, settings.wait_for_node);
        let roster = Arc::new(Roster::new(&who.name, peer::asking(token, runtime.clone())));
        Ok(Some(Self { transport, who, joined, roster, gather, wait_for_node }))
    }

    /// What the engine needs to know of the order.
    pub(super) fn parts(&self) -> NodeParts {
        NodeParts {
            cluster: self.joined.cluster,
            run: self.joined.run,
            order: Arc::clone(&self.transport.order),
            pieces: Arc::clone(&self.transport.pieces),
            peers: Arc::clone(&self.roster) as _,
            gathering: Gathering { wait: self.gather, ..Gathering::default() },
        }
    }

    /// Watches the other nodes from now on.
    pub(super) fn watch(self, engine: Engine) -> Result<Arc<Members>, CliError> {
        let Self { transport, who, joined, roster, wait_for_node, .. } = self;
        let of = (joined.cluster, joined.run);
        Members::start(engine, transport, who, of, (wait_for_node, roster), write_change)
            .map_err(|error| CliError::Failed(format!("no thread for the other nodes: {error}")))
    }
}

/// An error if the folder belongs to an order, and the settings name none.
fn alone(config: &Config) -> Result<(), CliError> {
    let data = &config.server.data_folder;
    match FolderCluster::read(data) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(CliError::Usage(format!(
            "{0} belongs to a node of several: give --order and --node; or, to have a single daemon go on from it, run `profiled cluster \
             leave --data {0}`",
            data.display()
        ))),
        Err(error) => Err(CliError::Failed(format!("{}: {error}", data.display()))),
    }
}

/// Removes what is left of another node's snapshot, if this node was interrupted while it got one: it asks for another.
pub(super) fn clear_interrupted(config: &Config) -> Result<(), CliError> {
    let data = &config.server.data_folder;
    let arriving = data.join(layout::ARRIVING);
    if config.cluster.order.is_none() || !arriving.is_dir() {
        return Ok(());
    }
    let cleared = clear_interrupted_restore(data).and_then(|()| remove(&arriving));
    cleared.map_err(|error| CliError::Failed(format!("{}: {error}", data.display())))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Gets a snapshot of an order from another node into a data folder without data. It arrives in the folder, as nothing else may be
/// writable.
async fn fetch(
    address: &str,
    token: Option<&str>,
    (data, cluster): (&Path, ClusterId),
    config: &Config,
) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let client = Client::new(address, token, None)?;
    let arriving = data.join(layout::ARRIVING);
    let begun =
        private_folder(data).and_then(|()| remove(&arriving)).and_then(|()| private_folder(&arriving));
    begun.map_err(|error| failed(&error))?;
    let archive = arriving.join("snapshot.tar");
    let mut arrival = Arrival {
        client,
        file: fs::File::create(&archive).map_err(|error| failed(&error))?,
        had: 0,
        name: None,
        again: AGAIN,
    };
    arrival.wait_for_all().await?;
    drop(arrival);
    let (config, data) = (config.clone(), data.to_owned());
    let restored = tokio::task::spawn_blocking(move || {
        let backup = arriving.join("backup");
        tar::Archive::new(fs::File::open(&archive)?).unpack(&backup)?;
        fs::remove_file(&archive)?;
        let of_order = |folder: &Path| FolderCluster::of(cluster).write(folder);
        let restored = restore_of_peer(&backup, &data, config, Arc::new(SystemClock), &of_order);
        restored.map_err(io::Error::other)?;
        remove(&arriving)
    });
    restored.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// A snapshot on its way here.
struct Arrival {
    client: Client,
    file: fs::File,
    /// How many bytes came.
    had: u64,
    /// What the other node calls it, once that is known.
    name: Option<String>,
    /// How long it waits before it asks for the rest.
    again: Duration,
}

impl Arrival {
    /// Gets all of it. If the other node breaks off, it gets the rest; if that is not kept any more, it begins again.
    async fn wait_for_all(&mut self) -> Result<(), CliError> {
        let (mut before, mut in_vain) = (0, 0);
        loop {
            let Err(error) = self.get().await else { return Ok(()) };
            in_vain = if self.had > before { 1 } else { in_vain + 1 };
            before = self.had;
            if self.name.is_none() || in_vain > TRIES {
                return Err(error);
            }
            tracing::warn!(%error, bytes = self.had, "another node's snapshot broke off: the rest of it is asked for");
            tokio::time::sleep(self.again).await;
        }
    }

    /// Gets what is missing, as far as it comes.
    async fn get(&mut self) -> Result<(), CliError> {
        const PATH: &str = "/api/v1/cluster/snapshot";
        let rest = match &self.name {
            Some(name) => {
                let path = format!("{PATH}?snapshot={name}&from={}", self.had);
                self.client.stream_if_there(&path, TAR).await?
            }
            None => None,
        };
        let mut answer = match rest {
            Some(rest) => rest,
            None => {
                let whole = self.client.stream(PATH, TAR).await?;
                self.had = 0;
                whole
            }
        };
        let failed = |error: io::Error| CliError::Failed(error.to_string());
        // A write that failed may have left a part of its bytes.
        self.file.set_len(self.had).map_err(failed)?;
        self.file.seek(io::SeekFrom::Start(self.had)).map_err(failed)?;
        let name = answer.headers().get(SNAPSHOT_NAME).and_then(|name| name.to_str().ok());
        self.name = name.map(str::to_owned);
        let silent = |_| CliError::Failed(format!("nothing came for {} s", NEXT_WITHIN.as_secs()));
        while let Some(frame) = timeout(NEXT_WITHIN, answer.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|error| self.client.broke_off(&error))?;
            if let Ok(bytes) = frame.into_data() {
                self.file.write_all(&bytes).map_err(failed)?;
                self.had += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    /// What another node answers a call: its status, what it calls the snapshot, what it says of its body's length, and its body.
    type Answer = (u16, &'static str, usize, &'static str);

    /// Gets a snapshot from a node that answers so. Gives what came, and the paths that were asked for.
    fn arrives(answers: &'static [Answer]) -> (Result<String, String>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let node = std::thread::spawn(move || {
            let one = |(status, name, length, body): &Answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let asked = lines.next().unwrap();
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                write!(
                    stream,
                    "HTTP/1.1 {status} X\r\n{SNAPSHOT_NAME}: {name}\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
                asked.split(' ').nth(1).unwrap().to_owned()
            };
            answers.iter().map(one).collect()
        });
        let (file, client) =
            (tempfile::NamedTempFile::new().unwrap(), Client::new(&address, None, None).unwrap());
        let mut arrival =
            Arrival { client, file: file.reopen().unwrap(), had: 0, name: None, again: Duration::ZERO };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let came = runtime.block_on(arrival.wait_for_all());
        let came = came.map(|()| fs::read_to_string(file.path()).unwrap()).map_err(|error| error.to_string());
        (came, node.join().unwrap())
    }

    #[test]
    fn the_rest_of_a_snapshot_that_broke_off_is_asked_for() {
        let whole = "/api/v1/cluster/snapshot";
        let rest = |name: &str, from: u64| format!("{whole}?snapshot={name}&from={from}");
        let (came, asked) = arrives(&[(200, "a", 6, "abcdef")]);
        assert_eq!((came.as_deref(), asked), (Ok("abcdef"), vec![whole.to_owned()]));
        let (came, asked) = arrives(&[(200, "a", 6, "ab"), (200, "a", 4, "c"), (200, "a", 3, "def")]);
        assert_eq!(
            (came.as_deref(), asked),
            (Ok("abcdef"), vec![whole.to_owned(), rest("a", 2), rest("a", 3)])
        );
        // The other node was started again meanwhile, and has another one.
        let (came, asked) = arrives(&[(200, "a", 6, "abcd"), (404, "", 0, ""), (200, "b", 3, "xyz")]);
        assert_eq!(
            (came.as_deref(), asked),
            (Ok("xyz"), vec![whole.to_owned(), rest("a", 4), whole.to_owned()])
        );
        // One who refuses is not asked again: nobody would answer then.
        let (came, _) = arrives(&[(503, "", 2, "no")]);
        assert_eq!(came.unwrap_err(), "the daemon answered 503 Service Unavailable");
    }
}
