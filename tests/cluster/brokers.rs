//! Kafka brokers of a test's own: up to three, each a broker and a controller in one process (KRaft), on loopback or on hosts of a
//! network of the test's own.
//!
//! Their jars come from Maven Central by `pom.xml` beside this file, into the folder that `PROFILED_KAFKA_JARS` names, or
//! `target/kafka`. Data is in a temporary folder. Whoever drops the brokers ends them; they end with their test, too.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::network::Network;
use crate::support::disk::{Mount, fill, may_mount, run};
use crate::support::{skip, variable, wait_for};

/// Any would do; all brokers must be formatted with the same one.
const CLUSTER_ID: &str = "cHJvZmlsZWQtdGVzdHMtMQ";
/// How long a broker may be silent before the controller takes its partitions away.
const SESSION_TIMEOUT_MS: u32 = 3000;

/// Of three brokers, the one whose disk is small, where disks may be mounted.
pub(crate) const ON_SMALL_DISK: usize = 2;
/// Far more than a test writes.
const SMALL_DISK: &str = "size=1g";

/// Some brokers that know each other.
pub(crate) struct Brokers {
    /// Dropped before the folder that they are mounted in.
    disks: Vec<Mount>,
    folder: TempDir,
    jars: PathBuf,
    brokers: Vec<Broker>,
    network: Option<Arc<Network>>,
}

struct Broker {
    host: String,
    port: u16,
    process: Option<Child>,
}

/// Logs of Kafka go to standard error, which goes to a file in the broker's folder.
const LOG4J: &str = "\
status = error
appender.out.type = Console
appender.out.name = OUT
appender.out.target = SYSTEM_ERR
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = OUT
";

impl Brokers {
    /// So many fresh brokers that answer. None, and said so, where there is no Java or no Maven.
    pub(crate) fn start(count: usize) -> Option<Self> {
        Self::start_in(count, None)
    }

    /// The same, each on a host of its own in this network, if there is one.
    pub(crate) fn start_in(count: usize, network: Option<Arc<Network>>) -> Option<Self> {
        let jars = jars()?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log4j2.properties"), LOG4J).unwrap();
        let ports = free_ports(2 * count);
        let (ports, controllers) = ports.split_at(count);
        let host = |port| {
            let host = network.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |network| network.add_host());
            Broker { host, port, process: None }
        };
        let brokers: Vec<Broker> = ports.iter().copied().map(host).collect();
        let voters: Vec<String> = brokers
            .iter()
            .zip(controllers)
            .enumerate()
            .map(|(index, (broker, port))| format!("{index}@{}:{port}", broker.host))
            .collect();
        for (index, (broker, &controller)) in brokers.iter().zip(controllers).enumerate() {
            let settings = settings(index, count, broker, controller, &voters.join(","), folder.path());
            std::fs::write(folder.path().join(format!("{index}.properties")), settings).unwrap();
        }
        let mut brokers = Self { disks: vec![], folder, jars, brokers, network };
        if count > ON_SMALL_DISK && may_mount().is_ok() {
            let at = brokers.data(ON_SMALL_DISK);
            std::fs::create_dir_all(&at).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(&at)).unwrap();
            brokers.disks.push(Mount(at));
        }
        brokers.format();
        (0..count).for_each(|index| brokers.restart(index));
        brokers.wait_for_all();
        Some(brokers)
    }

    /// The address of an order on these brokers.
    pub(crate) fn address(&self, prefix: &str) -> String {
        format!("kafka://{}/{prefix}", self.servers())
    }

    /// `HOST:PORT` of each, with commas between them.
    pub(crate) fn servers(&self) -> String {
        let servers: Vec<String> = self.brokers.iter().map(Broker::address).collect();
        servers.join(",")
    }

    /// A client to administer them with.
    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("allow.auto.create.topics", "false")
            .set("log_level", "2")
            .create()
            .unwrap()
    }

    /// Which one leads a topic's partition now.
    pub(crate) fn leader_of(&self, topic: &str) -> usize {
        wait_for(&format!("a leader of {topic}"), || {
            let admin = self.admin();
            let metadata = admin.inner().fetch_metadata(Some(topic), Duration::from_secs(10)).ok()?;
            usize::try_from(metadata.topics()[0].partitions().first()?.leader()).ok()
        })
    }

    /// Ends one hard, as `kill -9` does.
    pub(crate) fn kill9(&mut self, index: usize) {
        self.signal(index, Signal::KILL);
        let process = self.brokers[index].process.take();
        process.unwrap().wait().unwrap();
    }

    /// Makes one stand still.
    pub(crate) fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    /// Makes one that stands still go on.
    pub(crate) fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    /// Starts one that doesn't run, on its folder. Doesn't wait until it answers.
    pub(crate) fn restart(&mut self, index: usize) {
        let said = self.folder.path().join(format!("{index}.log"));
        let said = std::fs::File::options().create(true).append(true).open(said).unwrap();
        let settings = self.folder.path().join(format!("{index}.properties"));
        let mut java = self.java(&[&format!("-Xmx{}m", heap_mib()), "kafka.Kafka"]);
        java.arg(settings).stderr(said);
        let child = match &self.network {
            Some(network) => network.at(&self.brokers[index].host, || java.spawn()),
            None => java.spawn(),
        };
        self.brokers[index].process = Some(child.unwrap());
    }

    /// Waits until all answer and know each other.
    pub(crate) fn wait_for_all(&mut self) {
        for index in 0..self.brokers.len() {
            // Each by itself, so that each one says that it knows all.
            let server = self.brokers[index].address();
            let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
                .set("bootstrap.servers", server)
                .set("reconnect.backoff.max.ms", "300")
                .set("log_level", "0")
                .create()
                .unwrap();
            wait_for("a broker that knows all others", || {
                if let Some(status) = self.brokers[index].process.as_mut().unwrap().try_wait().unwrap() {
                    panic!("a broker ended with {status}: {}", self.said(index));
                }
                let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(1)).ok()?;
                (metadata.brokers().len() == self.brokers.len()).then_some(())
            });
        }
    }

    /// Fills a broker's disk, on which there must be its data alone, and waits until the broker has ended. What it gives fills the
    /// disk until it is removed.
    pub(crate) fn fill_disk(&mut self, index: usize) -> PathBuf {
        let ballast = self.data(index).join("ballast");
        let process = self.brokers[index].process.as_mut().unwrap();
        wait_for("the broker with a full disk to end", || {
            // It frees some room when it drops a segment.
            fill(&ballast);
            process.try_wait().unwrap()
        });
        self.brokers[index].process = None;
        ballast
    }

    /// Whether a broker's disk is so small that it can be filled.
    pub(crate) fn has_small_disk(&self) -> bool {
        !self.disks.is_empty()
    }

    /// The host that a broker is on.
    pub(crate) fn host(&self, index: usize) -> &str {
        &self.brokers[index].host
    }

    /// Where a broker keeps what it has.
    fn data(&self, index: usize) -> PathBuf {
        data(self.folder.path(), index)
    }

    /// Where all of them keep what they have.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What one has said.
    pub(crate) fn said(&self, index: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{index}.log"))).unwrap_or_default()
    }

    fn signal(&self, index: usize, signal: Signal) {
        let process = self.brokers[index].process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    fn format(&self) {
        let formats: Vec<Child> = (0..self.brokers.len())
            .map(|index| {
                let settings = self.folder.path().join(format!("{index}.properties"));
                let mut java =
                    self.java(&["-Xmx64m", "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
                java.arg(settings).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for format in formats {
            let output = format.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Java that ends with the thread that started it, and starts fast rather than running fast.
    fn java(&self, arguments: &[&str]) -> Command {
        let mut java = Command::new("setpriv");
        java.args(["--pdeathsig", "KILL", "java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms64m"]);
        java.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.folder.path().join("log4j2.properties").display()
        ));
        java.arg("-cp").arg(self.jars.join("*")).args(arguments);
        java.stdin(Stdio::null()).stdout(Stdio::null());
        java
    }
}

impl Broker {
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for index in 0..self.brokers.len() {
            if let Some(mut process) = self.brokers[index].process.take() {
                // Also one that stands still.
                process.kill().unwrap();
                process.wait().unwrap();
            }
        }
        if std::thread::panicking() {
            for index in 0..self.brokers.len() {
                crate::say(&format!("broker {index} said:\n{}", self.said(index)));
            }
        }
    }
}

fn heap_mib() -> u32 {
    variable("PROFILED_KAFKA_HEAP_MIB").map_or(512, |mib| mib.parse().unwrap())
}

fn data(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.data"))
}

fn settings(
    index: usize,
    count: usize,
    broker: &Broker,
    controller: u16,
    voters: &str,
    folder: &Path,
) -> String {
    let Broker { host, port, .. } = broker;
    format!(
        "\
process.roles=broker,controller
node.id={index}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
broker.session.timeout.ms={SESSION_TIMEOUT_MS}
broker.heartbeat.interval.ms=500
offsets.topic.replication.factor={count}
offsets.topic.num.partitions=1
log.retention.check.interval.ms=1000
log.cleaner.dedupe.buffer.size=2097152
num.network.threads=2
num.io.threads=2
auto.create.topics.enable=true
",
        data = data(folder, index).display()
    )
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// The folder with Kafka's jars, which are fetched at the first call if they aren't there.
fn jars() -> Option<PathBuf> {
    static JARS: OnceLock<Option<PathBuf>> = OnceLock::new();
    JARS.get_or_init(|| {
        if !has("java", "-version") {
            skip("there is no Java for Kafka's brokers: install a JRE of version 17 or later");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let jars = variable("PROFILED_KAFKA_JARS").map_or_else(|| root.join("target/kafka"), PathBuf::from);
        // What Maven brought is kept, until the pom names something else.
        let complete = jars.join("complete");
        let pom = root.join("tests/cluster/pom.xml");
        let wanted = std::fs::read_to_string(&pom).unwrap();
        if std::fs::read_to_string(&complete).is_ok_and(|had| had == wanted) {
            return Some(jars);
        }
        if !has("mvn", "-version") {
            skip("there is no Maven, which brings Kafka's jars: install maven");
            return None;
        }
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(pom).arg("dependency:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", jars.display()));
        let output = maven.stdin(Stdio::null()).output().unwrap();
        if !output.status.success() {
            skip(&format!("Maven can't bring Kafka's jars: {}", String::from_utf8_lossy(&output.stdout)));
            return None;
        }
        std::fs::write(complete, wanted).unwrap();
        Some(jars)
    })
    .clone()
}

fn has(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
