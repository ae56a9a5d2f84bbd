//! Writers at all nodes: site calls, single updates, batches and erasures. Each attribute has a single writer, and its values
//! only rise, so that each value is one write.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::request;

/// Visitors whom all writers write to.
const VISITORS: u64 = 24;
/// Rows of each batch that a visitor of `VISITORS` has; as many have visitors of the batch's own.
pub(super) const BATCH_ROWS: u64 = 2 * VISITORS;
/// How long a writer waits between calls, so that the brokers get some time of the processors.
const BETWEEN: Duration = Duration::from_millis(8);
const BETWEEN_BATCHES: Duration = Duration::from_millis(800);

/// Sends one write to a node: of this attribute, with this number.
type Writes = fn(&Shared, usize, &str, u64);

/// What a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was done; with the seq that the answer bore.
    Acknowledged(Option<u64>),
    /// It may have been done, or not.
    Unknown,
    /// It was certainly not done.
    Not,
}

/// A write: the attribute that it sets, and to what.
pub(super) type OneWrite = (String, u64);

/// The writers.
#[derive(Default)]
pub(super) struct Load {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the writers share.
#[derive(Default)]
pub(super) struct Shared {
    /// Each call holds it to read, so that whoever holds it to write knows that no call is on its way.
    gate: RwLock<()>,
    stop: AtomicBool,
    /// Nobody is erased for now.
    pub(super) spares: AtomicBool,
    nodes: Mutex<Vec<Node>>,
    sent: Mutex<Sent>,
}

/// What was sent since the last check.
#[derive(Default)]
pub(super) struct Sent {
    /// What became of each write.
    pub(super) writes: BTreeMap<OneWrite, Fate>,
    /// The batches that were acknowledged, and how many rows each has.
    pub(super) batches: Vec<(String, u64)>,
    /// The visitors whose erasure was acknowledged.
    pub(super) erased: Vec<String>,
    /// Answers that no write should get.
    pub(super) strange: Vec<String>,
}

/// Where a node is, and how long its writers went without an answer.
struct Node {
    address: Option<SocketAddr>,
    answered: Instant,
    longest: Duration,
}

impl Load {
    /// Another node, which does not run yet.
    pub(super) fn add_node(&self) {
        let node = Node { address: None, answered: Instant::now(), longest: Duration::ZERO };
        self.shared.nodes.lock().unwrap().push(node);
    }

    /// Where a node is from now on, if it runs.
    pub(super) fn set_address(&self, node: usize, address: Option<SocketAddr>) {
        self.shared.nodes.lock().unwrap()[node].address = address;
    }

    /// Starts the writers of a node, which must be ready.
    pub(super) fn write_at(&mut self, node: usize) {
        // Single updates need visitors who are there.
        let address = self.shared.address(node).unwrap();
        for visitor in 0..VISITORS {
            write_for_certain(address, &format!("mbox=m&mbox3rdPartyId=u{visitor}-{node}&profile.made=yes"));
        }
        let writers: [(char, Writes); 5] = [
            ('s', Shared::site_call),
            ('t', Shared::site_call),
            ('u', Shared::single_update),
            ('b', Shared::batch),
            ('e', Shared::erasure),
        ];
        for (kind, write) in writers {
            let shared = Arc::clone(&self.shared);
            self.threads.push(std::thread::spawn(move || {
                let attribute = format!("{kind}{node}");
                for number in 1.. {
                    {
                        let _on_its_way = shared.gate.read().unwrap();
                        if shared.stop.load(Ordering::Relaxed) {
                            return;
                        }
                        write(&shared, node, &attribute, number);
                    }
                    let slow = matches!(kind, 'b' | 'e');
                    std::thread::sleep(if slow { BETWEEN_BATCHES } else { BETWEEN });
                }
            }));
        }
    }

    /// Measures pauses from now on.
    pub(super) fn measure(&self) {
        for node in self.shared.nodes.lock().unwrap().iter_mut() {
            (node.answered, node.longest) = (Instant::now(), Duration::ZERO);
        }
    }

    /// The longest time for which no write was acknowledged at any of the nodes but these.
    pub(super) fn longest_pause(&self, but: &[usize]) -> Duration {
        let nodes = self.shared.nodes.lock().unwrap();
        let others = nodes.iter().enumerate().filter(|(index, _)| !but.contains(index));
        others.map(|(_, node)| node.longest.max(node.answered.elapsed())).max().unwrap_or_default()
    }

    /// Waits until each node that runs has acknowledged a write from now on.
    pub(super) fn wait_for_acknowledgements(&self) {
        let from = Instant::now();
        super::within("an acknowledged write at each node", || {
            let nodes = self.shared.nodes.lock().unwrap();
            nodes.iter().all(|node| node.address.is_none() || node.answered > from).then_some(())
        });
    }

    /// Ends the writers.
    pub(super) fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Shared {
    /// Holds all writers until what it gives is dropped.
    pub(super) fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap()
    }

    /// What was sent since the last time.
    pub(super) fn take_sent(&self) -> Sent {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }

    fn site_call(&self, node: usize, attribute: &str, number: u64) {
        let visitor = number % VISITORS;
        let form =
            format!("mbox=m&mboxPC=p{visitor}-{node}&mbox3rdPartyId=v{visitor}&profile.{attribute}={number}");
        self.write(node, attribute, number, &post("/m2/demo/mbox/json", FORM, form.as_bytes()));
    }

    fn single_update(&self, node: usize, attribute: &str, number: u64) {
        let visitor = number % VISITORS;
        let path =
            format!("/m2/demo/profile/update?mbox3rdPartyId=u{visitor}-{node}&profile.{attribute}={number}");
        self.write(node, attribute, number, &post(&path, FORM, b""));
    }

    fn batch(&self, node: usize, attribute: &str, number: u64) {
        let mut file = format!("batch=thirdPartyId,{attribute}\n");
        for visitor in 0..VISITORS {
            writeln!(file, "v{visitor},{number}\nb{visitor}-{node},{number}").unwrap();
        }
        let answer = self.write(node, attribute, number, &post(BATCH, CSV, file.as_bytes()));
        if let Some(body) = answer {
            self.note_batch(&body, BATCH_ROWS);
        }
    }

    fn note_batch(&self, body: &str, rows: u64) {
        let id = body.split("batchId=").nth(1).and_then(|rest| rest.split('<').next());
        self.sent.lock().unwrap().batches.push((id.unwrap_or_default().to_owned(), rows));
    }

    /// Sends a large batch, so many rows a turn, with this wait between turns.
    pub(super) fn large_batch(&self, address: SocketAddr, rows: u64, wait: Duration) {
        const TURN: u64 = 5_000;
        let mut file = String::from("batch=thirdPartyId,large\n");
        for row in 0..rows {
            writeln!(file, "large{row},{rows}").unwrap();
        }
        let call = post(BATCH, CSV, file.as_bytes());
        let Ok(mut stream) = TcpStream::connect(address) else { return };
        let chunk = call.len() / usize::try_from(rows.div_ceil(TURN)).unwrap() + 1;
        for part in call.chunks(chunk) {
            if stream.write_all(part).is_err() {
                return;
            }
            std::thread::sleep(wait);
        }
        if let Answered::Whole { status: 200, body, .. } = answer_of(&mut stream) {
            self.note_batch(&body, rows);
        }
    }

    /// A visitor of its own, who is erased at once.
    fn erasure(&self, node: usize, attribute: &str, number: u64) {
        let id = format!("{attribute}-{number}");
        let form = format!("mbox=m&mbox3rdPartyId={id}&profile.gone={number}");
        let Some(address) = self.address(node).filter(|_| !self.spares.load(Ordering::Relaxed)) else {
            return;
        };
        ask(address, &post("/m2/demo/mbox/json", FORM, form.as_bytes()));
        let path = format!("/api/v1/profiles/{id}?by=third-party&client=demo");
        let erased = ask(address, &request("DELETE", &path, "a", &[("Connection", "close")], None));
        if let Answered::Whole { status: 200..300, .. } = erased {
            self.sent.lock().unwrap().erased.push(id);
        }
    }

    fn address(&self, node: usize) -> Option<SocketAddr> {
        self.nodes.lock().unwrap()[node].address
    }

    /// Sends a write, and notes what became of it. Gives the body of an acknowledgement.
    fn write(&self, node: usize, attribute: &str, number: u64, call: &[u8]) -> Option<String> {
        let address = self.address(node)?;
        let answered = ask(address, call);
        let mut sent = self.sent.lock().unwrap();
        let (fate, body) = match answered {
            Answered::Whole { status: 200, seq, body } => (Fate::Acknowledged(seq), Some(body)),
            Answered::Whole { status: 503 | 507, body, .. } if !body.contains("may have been applied") => {
                (Fate::Not, None)
            }
            Answered::Whole { status: 500.., .. } | Answered::Broken => (Fate::Unknown, None),
            Answered::Whole { status, body, .. } => {
                sent.strange.push(format!("{attribute}={number} was answered {status}: {body}"));
                (Fate::Unknown, None)
            }
            Answered::Unsent => (Fate::Not, None),
        };
        sent.writes.insert((attribute.to_owned(), number), fate);
        drop(sent);
        if body.is_some() {
            let mut nodes = self.nodes.lock().unwrap();
            let node = &mut nodes[node];
            node.longest = node.longest.max(node.answered.elapsed());
            node.answered = Instant::now();
        } else {
            std::thread::sleep(Duration::from_millis(30));
        }
        body
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const CSV: &str = "text/csv";
const BATCH: &str = "/m2/demo/v2/profile/batchUpdate";

fn post(path: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path, "a", &[("Content-Type", media_type), ("Connection", "close")], Some(body))
}

enum Answered {
    Whole {
        status: u16,
        seq: Option<u64>,
        body: String,
    },
    /// Sent, perhaps, and no whole answer.
    Broken,
    /// There was nobody to send it to.
    Unsent,
}

/// Sends a call and reads its answer.
fn ask(address: SocketAddr, call: &[u8]) -> Answered {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
        return Answered::Unsent;
    };
    if stream.write_all(call).is_err() {
        return Answered::Broken;
    }
    answer_of(&mut stream)
}

fn answer_of(stream: &mut TcpStream) -> Answered {
    let mut answer = Vec::new();
    let patience = Some(Duration::from_secs(60));
    let asked = stream.set_read_timeout(patience).and_then(|()| stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n").filter(|_| asked.is_ok()) else {
        return Answered::Broken;
    };
    let head = head.to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
    let whole = header("content-length: ").is_some_and(|length| length == body.len() as u64);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    match status {
        Some(status) if whole => {
            Answered::Whole { status, seq: header("profiled-seq: "), body: body.to_owned() }
        }
        _ => Answered::Broken,
    }
}

/// Sends a site call to a node, as often as it takes until it is acknowledged.
pub(super) fn write_for_certain(address: SocketAddr, form: &str) {
    super::within("a write to be acknowledged", || {
        match ask(address, &post("/m2/demo/mbox/json", FORM, form.as_bytes())) {
            Answered::Whole { status: 200, .. } => Some(()),
            _ => None,
        }
    });
}
