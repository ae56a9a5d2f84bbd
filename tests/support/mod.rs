//! The real daemon as a process, and a small blocking HTTP client that can also send wrong requests.
//!
//! A daemon keeps its folder over [`Daemon::kill9`] and [`Daemon::restart`]; waiting is always for a condition.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]
#![expect(unreachable_pub, reason = "each test binary is a crate of its own")]
#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

pub mod disk;
pub mod load;
pub mod metrics;
pub mod seed;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(180);

/// A daemon of its own folder and port, killed and removed at the end.
pub struct Daemon {
    process: Option<Child>,
    scheme: &'static str,
    address: SocketAddr,
    host: String,
    folder: TempDir,
    data: PathBuf,
    complaints: Option<PathBuf>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    handles: Option<u32>,
    binary: PathBuf,
}

impl Daemon {
    /// A daemon on a fresh folder and a free port.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with further arguments of `serve`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    /// The same, with a `profiled.toml` of that text.
    pub fn start_configured(settings: &str) -> Self {
        let mut daemon = Self::configured(settings);
        daemon.restart();
        daemon
    }

    /// The same, not started yet.
    pub fn configured(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("profiled.toml"), settings).unwrap();
        Self::stopped_in(folder, &[])
    }

    fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let mut daemon = Self::stopped_in(folder, arguments);
        daemon.restart();
        daemon
    }

    fn stopped_in(folder: TempDir, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let data = folder.path().join("data");
        Self {
            process: None,
            scheme: "http",
            address,
            host: "127.0.0.1".into(),
            folder,
            data,
            complaints: None,
            arguments,
            variables: vec![],
            handles: None,
            binary: env!("CARGO_BIN_EXE_profiled").into(),
        }
    }

    /// From its next start or hang-up on it has these settings.
    pub fn configure(&self, settings: &str) {
        std::fs::write(self.folder.path().join("profiled.toml"), settings).unwrap();
    }

    /// From the next start on it keeps everything in this folder, which is not removed with it.
    pub fn set_data(&mut self, data: PathBuf) -> &mut Self {
        self.data = data;
        self
    }

    /// From the next start on it listens at this address of the machine, on a free port.
    pub fn set_host(&mut self, host: &str) -> &mut Self {
        host.clone_into(&mut self.host);
        self
    }

    /// From the next start on this is the daemon, for comparing it with another.
    pub fn set_binary(&mut self, binary: PathBuf) -> &mut Self {
        self.binary = binary;
        self
    }

    /// From the next start on its standard error is kept, for [`Daemon::complaints`].
    pub fn keep_complaints(&mut self) -> &mut Self {
        self.complaints = Some(self.folder.path().join("stderr"));
        self
    }

    /// What it has written to standard error since its last start.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.complaints.as_ref().unwrap()).unwrap()
    }

    /// Waits until its log has these words, because another thread writes the log.
    pub fn wait_for_complaint(&self, words: &str) {
        wait_for(&format!("the complaint {words:?}"), || self.complaints().contains(words).then_some(()));
    }

    /// From the next start on it may have no more files open than these.
    pub fn set_handles(&mut self, handles: u32) -> &mut Self {
        self.handles = Some(handles);
        self
    }

    /// How many files it may have open from now on, up to what it was started with; gives what it was.
    pub fn limit_handles(&self, handles: u64) -> u64 {
        use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
        let id = Pid::from_child(self.process.as_ref().unwrap());
        let maximum = getrlimit(Resource::Nofile).maximum;
        let before = prlimit(Some(id), Resource::Nofile, Rlimit { current: Some(handles), maximum }).unwrap();
        before.current.unwrap()
    }

    /// From the next start on it has this environment variable.
    pub fn set_variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it again on its folder, on a free port.
    pub fn restart(&mut self) -> &mut Self {
        self.try_restart().unwrap_or_else(|why| panic!("{why}"));
        self
    }

    /// The same, though it may refuse.
    pub fn try_restart(&mut self) -> Result<(), String> {
        let stderr = match &self.complaints {
            Some(path) => std::fs::File::create(path).unwrap().into(),
            None => Stdio::inherit(),
        };
        self.try_restart_to(stderr)
    }

    /// The same, with this standard error.
    pub fn try_restart_to(&mut self, stderr: Stdio) -> Result<(), String> {
        assert!(self.process.is_none(), "it still runs");
        let mut process = self.command(stderr).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ");
        let Some((scheme, address)) = url.and_then(|url| url.split_once("://")) else {
            process.kill().unwrap();
            let status = process.wait().unwrap();
            return Err(format!("it does not start ({status}): its first line is {line:?}"));
        };
        self.scheme = if scheme == "https" { "https" } else { "http" };
        self.address = address.parse().unwrap();
        self.process = Some(process);
        Ok(())
    }

    /// The command that starts it, with this standard error.
    pub fn command(&self, stderr: Stdio) -> Command {
        let binary = &self.binary;
        let mut command = match self.handles {
            None => Command::new(binary),
            Some(handles) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &format!("ulimit -n {handles}; exec \"$0\" \"$@\"")]).arg(binary);
                command
            }
        };
        command
            .args(["serve", "--listen", &format!("{}:0", self.host), "--data"])
            .arg(self.data())
            .args(&self.arguments)
            .env_clear()
            .env("PROFILED_LOG", "warn")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(stderr);
        command
    }

    /// Takes on a process that was started by [`Daemon::command`] and has said where it listens: this line.
    pub fn take_on(&mut self, process: Child, line: &str) {
        self.address = line.trim_end().rsplit_once('/').unwrap().1.parse().unwrap();
        self.process = Some(process);
    }

    /// Starts it, and kills it before it is known whether it serves.
    pub fn start_and_kill9_after(&mut self, time: Duration) {
        let mut process = self.command(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        load::wait_until(Instant::now() + time);
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) -> &mut Self {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        self
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Asks it to read again what may change while it runs.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(self.process.as_ref().unwrap());
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Runs another command of the binary on its folder: its exit code, and what it printed on standard output and
    /// standard error.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(arguments)
            .env_clear()
            .env("PROFILED_DATA", self.data())
            .env("PROFILED_URL", self.url())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Makes a token; gives its text.
    pub fn make_token(&self, arguments: &[&str]) -> String {
        let (code, token, complaints) = self.run(&[&["token", "new", "--init"], arguments].concat());
        assert_eq!(code, Some(0), "{complaints}");
        token.trim_end().to_owned()
    }

    /// Asks it to stop, if it has not ended by itself.
    pub fn terminate_if_alive(&mut self) {
        if !self.has_ended() {
            self.terminate();
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Whether it was killed, or did not start.
    pub fn is_stopped(&self) -> bool {
        self.process.is_none()
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().unwrap();
        let status = wait_for("the daemon to end", || process.try_wait().unwrap());
        self.process = None;
        status
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// A line of the kernel's account of its memory, such as `VmHWM:`, in KiB.
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let found =
            status.lines().find_map(|have| have.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
        found.unwrap_or_else(|| panic!("the kernel does not tell {line}"))
    }

    /// How many bytes it has read so far, of files and connections.
    pub fn bytes_read(&self) -> u64 {
        let account = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        account.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    /// How long it has been at work so far, its threads together.
    pub fn cpu_time(&self) -> Duration {
        /// The kernel's unit of time here, on every machine.
        const TICK: Duration = Duration::from_millis(10);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind its name, which may hold anything: the 12th and 13th number are its own and the kernel's for it.
        let numbers = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks = numbers.skip(11).take(2).map(|number| number.parse::<u32>().unwrap());
        TICK * ticks.sum()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder it keeps everything in.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A connection to it.
    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection::on(stream)
    }

    /// A connection to it from another address of this machine.
    pub fn connect_from(&self, address: [u8; 4]) -> Connection {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((address, 0))).unwrap();
            socket.connect(self.address).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection::on(stream)
    }

    /// Sends bytes as they are on a connection of their own, and reads one answer.
    pub fn send(&self, bytes: &[u8]) -> Reply {
        let mut connection = self.connect();
        connection.write(bytes);
        connection.read()
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], None)
    }

    /// `POST` of parameters.
    pub fn post_form(&self, path: &str, form: &str) -> Reply {
        let media_type = ("Content-Type", "application/x-www-form-urlencoded");
        self.call("POST", path, &[media_type], Some(form.as_bytes()))
    }

    /// Any call.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        self.send(&request(method, path, &self.address.to_string(), headers, body))
    }

    /// Posts a batch by v2, as Adobe documents it; it must be accepted. Gives its id.
    pub fn post_batch(&self, client: &str, file: impl AsRef<[u8]>) -> String {
        self.try_batch(&format!("/m2/{client}/v2/profile/batchUpdate"), file).batch_id()
    }

    /// Posts a batch by v1; it must be accepted. Gives its id.
    pub fn post_batch_v1(&self, client: &str, file: impl AsRef<[u8]>) -> String {
        self.try_batch(&format!("/m2/{client}/profile/batchUpdate"), file).batch_id()
    }

    /// Posts a batch that may be refused.
    pub fn try_batch(&self, path: &str, file: impl AsRef<[u8]>) -> Reply {
        let media_type = ("Content-Type", "application/x-www-form-urlencoded");
        self.call("POST", path, &[media_type], Some(file.as_ref()))
    }

    /// A site call that must be taken. Gives the visitor's `tntId`.
    pub fn mbox(&self, client: &str, params: &str) -> String {
        let reply = self.post_form(&format!("/m2/{client}/mbox/json"), params);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["tntId"].as_str().unwrap_or_default().to_owned()
    }

    /// A visitor as the native API shows it; `None` for an unknown one.
    pub fn visitor(&self, client: &str, by: &str, id: &str) -> Option<Value> {
        let reply = self.get(&format!("/api/v1/profiles/{}?by={by}&client={client}", encoded(id)));
        match reply.status {
            404 => None,
            200 => Some(reply.json()),
            status => panic!("{status}: {}", reply.text()),
        }
    }

    /// The value of a visitor's attribute.
    pub fn value(&self, client: &str, by: &str, id: &str, name: &str) -> Option<String> {
        let visitor = self.visitor(client, by, id)?;
        Some(visitor["attributes"].get(name)?["value"].as_str().unwrap().to_owned())
    }

    /// Waits until a batch is complete; gives its details.
    pub fn wait_complete(&self, batch: &str) -> Details {
        let client = batch.rsplitn(3, '-').last().unwrap();
        let path = format!("/m2/{client}/profile/batchStatus?batchId={batch}&showDetails=true");
        wait_for("the batch to complete", || {
            let reply = self.get(&path);
            let count = |name| reply.element(name).unwrap().parse().unwrap();
            (reply.element("status").as_deref() == Some("complete")).then(|| Details {
                size: count("batchSize"),
                consumed: count("consumedCount"),
                successful: count("successfulUpdates"),
                not_found: count("profilesNotFound"),
                failed: count("failedUpdates"),
                ignored: count("ignoredUpdates"),
            })
        })
    }

    /// What it has counted.
    pub fn metrics(&self) -> metrics::Exposition {
        let reply = self.get("/metrics");
        metrics::Exposition::parse(&reply.text()).unwrap_or_else(|why| panic!("{why}: {}", reply.text()))
    }

    /// The files in the spool folder.
    pub fn spooled(&self) -> Vec<PathBuf> {
        match std::fs::read_dir(self.data().join("spool")) {
            Ok(files) => files.map(|file| file.unwrap().path()).collect(),
            Err(_) => vec![],
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill9();
        }
    }
}

/// A test's own setting.
pub fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "not one of the daemon's settings")]
    std::env::var(name).ok()
}

/// Whether the long form of a test is to run: more cases, kills, cuts. `.ci/run` asks for it by `PROFILED_TEST_LONG`; a release
/// build is one.
pub fn long() -> bool {
    variable("PROFILED_TEST_LONG").is_some() || !cfg!(debug_assertions)
}

/// Copies a folder, with all in it.
pub fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_folder(&path, &to) } else { assert!(std::fs::copy(&path, to).is_ok()) }
    }
}

/// All in a folder: each path below it with what it holds, whom it belongs to and when it was last changed.
pub fn seen_below(folder: &std::path::Path) -> std::collections::BTreeMap<PathBuf, (Vec<u8>, u32, Duration)> {
    use std::os::unix::fs::MetadataExt;
    let (mut seen, mut folders) = (std::collections::BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            let metadata = std::fs::metadata(&path).unwrap();
            let changed = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            let holds = if path.is_dir() { vec![] } else { std::fs::read(&path).unwrap() };
            if path.is_dir() {
                folders.push(path.clone());
            }
            seen.insert(path, (holds, metadata.uid(), changed));
        }
    }
    seen
}

/// Prints that a test is skipped. The message is not captured, so that the script which runs all suites sees it.
pub fn skip(missing: &str) {
    std::io::stderr().write_all(format!("\nskipped: {missing}\n").as_bytes()).unwrap();
}

/// A complete batch's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details {
    pub size: u64,
    pub consumed: u64,
    pub successful: u64,
    pub not_found: u64,
    pub failed: u64,
    pub ignored: u64,
}

/// The output of a command that should end by itself. If it goes on, it is killed, and the test fails.
pub fn output_of(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (reported, ended) = std::sync::mpsc::channel();
    // Both pipes must be read while it runs.
    std::thread::spawn(move || reported.send(child.wait_with_output()));
    ended.recv_timeout(PATIENCE).map_or_else(
        |_| {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
            panic!("it goes on: {command:?}")
        },
        |output| output.unwrap(),
    )
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A connection on which anything can be sent.
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

impl Connection {
    /// Sends bytes, unless the connection is gone.
    pub fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Whether an answer, or the end, is there to read; doesn't wait for it.
    pub fn has_come(&mut self) -> bool {
        self.stream.get_mut().set_nonblocking(true).unwrap();
        let peeked = self.stream.get_mut().peek(&mut [0]);
        self.stream.get_mut().set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        self.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Connection<S> {
    /// One on this stream.
    pub fn on(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// What it is on.
    pub fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// Sends bytes; all of them must be taken.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Waits for an answer, or for the other side to close the connection without one. Returns whether it closed.
    pub fn is_closed_unanswered(&mut self) -> bool {
        self.stream.fill_buf().map_or(true, |bytes| bytes.is_empty())
    }

    /// Reads the first line of an answer: its status.
    pub fn status(&mut self) -> u16 {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer, but {line:?}"));
        status.parse().unwrap()
    }

    /// Reads one answer that has no body, whatever its header says of one.
    pub fn read_head(&mut self) -> Reply {
        let mut reply = Reply { status: self.status(), ..Reply::default() };
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            reply.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        reply
    }

    /// Reads one answer.
    pub fn read(&mut self) -> Reply {
        let mut reply = self.read_head();
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = self.read_chunks();
            return reply;
        }
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body = vec![0; length];
        self.stream.read_exact(&mut reply.body).unwrap();
        reply
    }

    /// Reads a body in chunks, whose end must come.
    pub fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = vec![];
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.stream.read_exact(&mut chunk).unwrap();
            if length == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    /// Reads a body in chunks as far as it comes; says whether its end came, too.
    pub fn read_chunks_that_come(&mut self) -> (Vec<u8>, bool) {
        let mut body = vec![];
        loop {
            let mut line = String::new();
            let Ok(1..) = self.stream.read_line(&mut line) else { return (body, false) };
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let end = body.len() + length;
            let read = self.stream.by_ref().take(length as u64 + 2).read_to_end(&mut body);
            let whole = read.is_ok() && body.len() == end + 2;
            body.truncate(end);
            if length == 0 || !whole {
                return (body, whole);
            }
        }
    }

    /// Whether the daemon closes the connection, after nothing more than it has sent already.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// Whether the daemon ends a secure connection without a farewell.
    pub fn is_cut_off(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof)
    }
}

/// An answer.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// A header, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The text of an element, cut out as Adobe's simplest clients do.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
    }

    /// The id of the batch that was accepted.
    pub fn batch_id(&self) -> String {
        assert_eq!(self.element("success").as_deref(), Some("true"), "{}", self.text());
        self.element("batchStatus").unwrap().split_once("batchId=").unwrap().1.to_owned()
    }
}

/// A request as bytes.
pub fn request(
    method: &str,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if let Some(body) = body {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    let mut bytes = (head + "\r\n").into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes
}

/// A body in chunks.
pub fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    for chunk in body.chunks(100_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Text, percent-encoded byte by byte where it is not a letter or a digit.
pub fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
