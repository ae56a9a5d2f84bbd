//! Disks that fail: `strace` makes the real daemon's system calls on one of its files fail, and the log of `strace` proves it.
//!
//! - After a failed write or sync of the journal no call is answered 2xx. The daemon ends by itself and says why. A restart has
//!   every write that was answered 2xx, and no half of a write.
//! - If the disk has no space for the next journal segment, writes are refused and reads go on. With space again, writes go on.
//! - A batch whose file can't be kept is refused and leaves nothing. The daemon goes on.
//! - A failure after a batch was acknowledged only delays the batch. A failure in the store loses nothing.
//!
//! Without `strace`, or if it may not trace, the test says that it is skipped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::load::attempt;
use crate::support::{Connection, Daemon, long, request, skip, wait_for};
use tempfile::NamedTempFile;

const FIRST_SEGMENT: &str = "journal/0000000000000000.log";
/// The name of a segment until it is complete.
const SECOND_SEGMENT: &str = "journal/0000000000000001.new";
/// sled's folder, if no other store was swapped in.
const FIRST_STORE: &str = "store/0000000000000001/db";
/// How many large calls surely fit into the first segment of 64 MiB. Each is a frame of a quarter megabyte.
const NEARLY_FULL: usize = 250;

/// System calls fail while this lives.
struct Faults {
    strace: Child,
    log: NamedTempFile,
}

impl Faults {
    /// Makes calls on a file fail, by an expression of `strace --inject`.
    fn inject(daemon: &Daemon, file: &Path, fault: &str) -> Self {
        Self::try_inject(daemon.pid(), file, fault).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_inject(pid: u32, file: &Path, fault: &str) -> Result<Self, String> {
        let log = NamedTempFile::new().unwrap();
        let (call, _) = fault.split_once(':').unwrap();
        let mut strace = Command::new("strace")
            .args(["-f", "-y", "-p", &pid.to_string()])
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={fault}")])
            .arg("-P")
            .arg(file)
            .arg("-o")
            .arg(log.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("strace cannot be run: {e}"))?;
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = said.by_ref().map(Result::unwrap).find(|line| !line.contains("Requested path"));
        // strace goes on to report threads, and nobody reads it. It must still be able to write.
        std::thread::spawn(move || said.for_each(drop));
        let faults = Self { strace, log };
        match attached {
            Some(line) if line.contains(" attached") => Ok(faults),
            line => Err(format!("strace may not trace: {}", line.unwrap_or_default())),
        }
    }

    /// Ends the faults. At least one must have happened; returns where the first one did.
    fn end(mut self) -> String {
        self.stop();
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        let first = log.lines().find(|line| line.contains("(INJECTED)"));
        let first = first.unwrap_or_else(|| panic!("nothing was made to fail:\n{log}"));
        first.split_once(' ').unwrap().1.trim_start().to_owned()
    }

    fn happened(&self) -> bool {
        std::fs::read_to_string(self.log.path()).unwrap().contains("(INJECTED)")
    }

    fn stop(&mut self) {
        // strace ends with the process that it traces. Otherwise it detaches from the process on this signal.
        let id = rustix::process::Pid::from_child(&self.strace);
        if self.strace.try_wait().unwrap().is_none() {
            rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        }
        // It would wait for ever if that process is about to end: it waits for the main thread before the other threads, which
        // must end first.
        let patience = Instant::now() + Duration::from_secs(5);
        while self.strace.try_wait().unwrap().is_none() {
            if Instant::now() > patience {
                self.strace.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A daemon for the test; `None`, with a message, if the test cannot run here.
fn daemon() -> Option<Daemon> {
    let mut daemon = Daemon::configured("[clients.demo]\nv2_creates_profiles = true\n");
    daemon.keep_complaints().restart();
    match Faults::try_inject(daemon.pid(), &daemon.data(), "fdatasync:error=EIO") {
        Ok(_) => Some(daemon),
        Err(missing) => {
            skip(&missing);
            None
        }
    }
}

/// A site call that writes a visitor's two attributes.
fn site_call(visitor: &str) -> Vec<u8> {
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Connection", "close")];
    let form = format!("mbox=m&mboxPC=pc-{visitor}&mbox3rdPartyId={visitor}&profile.x=1&profile.y=1");
    request("POST", "/m2/demo/mbox/json", "a", &headers, Some(form.as_bytes()))
}

/// The same, with the largest possible body.
fn large_call(visitor: &str) -> Vec<u8> {
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Connection", "close")];
    let mut form = format!("mbox=m&mboxPC=pc-{visitor}&mbox3rdPartyId={visitor}&profile.x=1&profile.y=1");
    for name in 0..48 {
        form += &format!("&profile.a{name}={}", "v".repeat(5000));
    }
    request("POST", "/m2/demo/mbox/json", "a", &headers, Some(form.as_bytes()))
}

const BATCH: &str = "batch=thirdPartyId,x,y\nb-0,1,1\nb-1,1,1\nbad%zz,1,1\n";

fn batch() -> Vec<u8> {
    let headers = [("Content-Type", "text/csv"), ("Connection", "close")];
    request("POST", "/m2/demo/v2/profile/batchUpdate", "a", &headers, Some(BATCH.as_bytes()))
}

/// The status of the answer; none if there was no answer.
fn status(daemon: &Daemon, call: &[u8]) -> Option<u16> {
    attempt(daemon.address(), call).map(|(status, _)| status)
}

fn acknowledged(status: Option<u16>) -> bool {
    status.is_some_and(|status| (200..300).contains(&status))
}

/// The value that a visitor has. Either both attributes of a write are there or none.
fn has_write(daemon: &Daemon, visitor: &str) -> bool {
    let value = |name| daemon.value("demo", "third-party", visitor, name);
    assert_eq!(value("x"), value("y"), "{visitor} has half a write");
    value("x").is_some()
}

/// The daemon must end by itself and say what failed, and where.
fn ends_and_says(daemon: &mut Daemon, words: &[&str]) {
    assert_eq!(daemon.ended().code(), Some(1));
    let complaints = daemon.complaints();
    for word in words {
        assert!(complaints.contains(word), "{word:?} is not in what it says: {complaints}");
    }
}

/// Four calls are answered, by one sync each. Then every further write or sync of the journal fails.
#[test]
fn nothing_is_acknowledged_once_the_journal_failed_and_the_daemon_ends() {
    for (fault, says) in [
        ("fdatasync:error=EIO:when=5+", "Input/output error"),
        ("pwrite64:error=EIO:when=5+", "Input/output error"),
        ("pwrite64:error=ENOSPC:when=5+", "No space left on device"),
    ] {
        let Some(mut daemon) = daemon() else { return };
        let faults = Faults::inject(&daemon, &daemon.data().join(FIRST_SEGMENT), fault);
        for n in 0..4 {
            assert_eq!(status(&daemon, &site_call(&format!("early-{n}"))), Some(200), "{fault}");
        }
        let volley = |n| if n == 3 { batch() } else { site_call(&format!("late-{n}")) };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let daemon = &daemon;
            let calls: Vec<_> = (0..8).map(|n| scope.spawn(move || status(daemon, &volley(n)))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert!(!answers.iter().copied().any(acknowledged), "{fault}: {answers:?}");
        ends_and_says(&mut daemon, &["0000000000000000.log", says]);
        eprintln!("{fault}: {}, the daemon ended", faults.end());

        daemon.restart();
        assert!((0..4).all(|n| has_write(&daemon, &format!("early-{n}"))), "{fault}");
        for n in 0..8 {
            has_write(&daemon, &format!("late-{n}"));
        }
        assert_eq!(has_write(&daemon, "b-0"), has_write(&daemon, "b-1"), "half a batch");
        assert_eq!(status(&daemon, &site_call("after")), Some(200));
    }
}

/// A daemon whose journal takes only a few more large calls before it needs the second segment. So only few calls must be
/// traced.
fn nearly_full() -> Option<Daemon> {
    let daemon = daemon()?;
    for n in 0..NEARLY_FULL {
        assert_eq!(status(&daemon, &large_call(&format!("large-{n}"))), Some(200));
    }
    assert!(!daemon.data().join(SECOND_SEGMENT).with_extension("log").exists(), "it is full already");
    Some(daemon)
}

/// Makes large calls until one is not acknowledged. Returns how many there were in all, and the answer to the last one.
fn fill_up(daemon: &Daemon) -> (usize, Option<u16>) {
    for n in NEARLY_FULL..2 * NEARLY_FULL {
        let answer = status(daemon, &large_call(&format!("large-{n}")));
        if !acknowledged(answer) {
            return (n, answer);
        }
    }
    panic!("the journal's first segment never became full");
}

#[test]
fn without_room_for_a_segment_writes_are_refused_and_reads_go_on() {
    let Some(mut daemon) = nearly_full() else { return };
    let fault = "fallocate:error=ENOSPC";
    let faults = Faults::inject(&daemon, &daemon.data().join(SECOND_SEGMENT), fault);
    let (written, refusal) = fill_up(&daemon);
    assert_eq!(refusal, Some(507));
    assert_eq!(status(&daemon, &large_call("refused")), Some(507));
    assert!((0..written).all(|n| has_write(&daemon, &format!("large-{n}"))));
    assert!(!has_write(&daemon, "refused"));
    eprintln!("{fault}: {}, after {written} large calls", faults.end());

    assert_eq!(status(&daemon, &large_call("room")), Some(200));
    daemon.kill9().restart();
    assert!((0..written).all(|n| has_write(&daemon, &format!("large-{n}"))));
    assert!(has_write(&daemon, "room") && !has_write(&daemon, "refused"));
}

#[test]
fn a_segment_that_cannot_be_made_ends_the_daemon() {
    let cases = [
        (SECOND_SEGMENT, "fsync:error=EIO"),
        (SECOND_SEGMENT, "fallocate:error=EIO"),
        (SECOND_SEGMENT, "rename:error=EIO"),
        ("journal", "fsync:error=EIO"),
    ];
    // A debug build needs long to fill a segment.
    let cases = if long() { &cases[..] } else { &cases[..1] };
    for &(file, fault) in cases {
        let Some(mut daemon) = nearly_full() else { return };
        let faults = Faults::inject(&daemon, &daemon.data().join(file), fault);
        let (written, answer) = fill_up(&daemon);
        ends_and_says(&mut daemon, &["0000000000000001.log", "Input/output error"]);
        eprintln!("{fault}: {}, after {written} large calls; then {answer:?}", faults.end());

        daemon.restart();
        assert!((0..written).all(|n| has_write(&daemon, &format!("large-{n}"))), "{fault}");
        has_write(&daemon, &format!("large-{written}"));
        assert_eq!(status(&daemon, &large_call("after")), Some(200));
    }
}

/// The file that must fail, found from the file of an upload.
type FileOf = fn(&Path) -> PathBuf;

/// Sends a batch, and makes calls on a file of its upload fail before all of it has arrived. The answer is not read yet.
fn send_batch_with_fault(daemon: &Daemon, file: FileOf, fault: &str) -> (Connection, Faults) {
    let call = batch();
    let (first, rest) = call.split_at(call.len() - 30);
    let mut connection = daemon.connect();
    connection.write(first);
    let upload = wait_for("the upload to begin", || daemon.spooled().pop());
    let faults = Faults::inject(daemon, &file(&upload), fault);
    connection.write(rest);
    (connection, faults)
}

/// Sends a batch with a fault. Returns the answer's status, and the batch's id if it was accepted.
fn batch_with_fault(daemon: &Daemon, file: FileOf, fault: &str) -> (u16, Option<String>, Faults) {
    let (mut connection, faults) = send_batch_with_fault(daemon, file, fault);
    let reply = connection.read();
    (reply.status, (reply.status == 200).then(|| reply.batch_id()), faults)
}

#[test]
fn a_batch_that_cannot_be_kept_is_refused_and_leaves_nothing() {
    let upload = |upload: &Path| upload.to_owned();
    let folder = |upload: &Path| upload.parent().unwrap().to_owned();
    let index = |upload: &Path| upload.with_extension("index");
    let cases: [(FileOf, &str, u16); 7] = [
        (upload, "write:error=ENOSPC", 507),
        (upload, "write:error=EIO", 500),
        (upload, "fsync:error=EIO", 500),
        (upload, "fsync:error=ENOSPC", 507),
        (folder, "fsync:error=EIO", 500),
        (index, "openat:error=EIO", 500),
        (index, "write:error=ENOSPC", 507),
    ];
    let Some(mut daemon) = daemon() else { return };
    for (file, fault, refusal) in cases {
        let (status, _, faults) = batch_with_fault(&daemon, file, fault);
        let fault = format!("{fault}: {}", faults.end());
        eprintln!("{fault}, answered {status}");
        assert_eq!(status, refusal, "{fault}");
        wait_for("the upload to be removed", || daemon.spooled().is_empty().then_some(()));
    }
    let id = daemon.post_batch("demo", BATCH);
    check_complete(&daemon, &id);
    daemon.kill9().restart();
    check_complete(&daemon, &id);
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 1);
}

#[test]
fn what_fails_behind_an_acknowledged_batch_delays_it_and_nothing_else() {
    let outcomes = |upload: &Path| upload.with_extension("outcomes.new");
    let cases: [(FileOf, &str); 3] = [
        (outcomes, "openat:error=EMFILE:when=1"),
        (outcomes, "write:error=ENOSPC:when=1"),
        (outcomes, "fsync:error=EIO:when=1"),
    ];
    for (file, fault) in cases {
        let Some(mut daemon) = daemon() else { return };
        let (status, id, faults) = batch_with_fault(&daemon, file, fault);
        assert_eq!(status, 200, "{fault}");
        let id = id.unwrap();
        check_complete(&daemon, &id);
        eprintln!("{fault}: {}, and it completed", faults.end());
        daemon.kill9().restart();
        check_complete(&daemon, &id);
    }
}

/// The store is only a view. Whatever happens to it and to its daemon, the journal has every acknowledged write.
#[test]
fn a_store_that_fails_loses_nothing() {
    let store = |upload: &Path| upload.parent().unwrap().with_file_name(FIRST_STORE);
    for fault in ["pwrite64:error=EIO:when=1", "fsync:error=EIO:when=1"] {
        let Some((mut daemon, id, faults)) = batch_acknowledged_before(store, fault) else { return };
        wait_for("the fault", || faults.happened().then_some(()));
        // After a failed sync, the data may be on no disk, whatever a second sync says, so the daemon ends. A failed write may end
        // the daemon at the next write, or do no harm. It never loses an acknowledged write.
        let mut written = vec![];
        let ended = wait_for("an end of the daemon or of the batch", || {
            let visitor = format!("beside-{}", written.len());
            if !acknowledged(status(&daemon, &site_call(&visitor))) {
                return Some(true);
            }
            written.push(visitor);
            is_complete(&daemon, &id).then_some(false)
        });
        assert!(ended || !fault.starts_with("fsync"), "{fault}");
        if ended {
            ends_and_says(&mut daemon, &["the store failed", "Input/output error"]);
        } else {
            daemon.kill9();
        }
        eprintln!("{fault}: {}, the daemon {}", faults.end(), if ended { "ended" } else { "went on" });
        daemon.restart();
        check_complete(&daemon, &id);
        assert!(written.iter().all(|visitor| has_write(&daemon, visitor)), "{fault}");
    }
}

/// Has a batch acknowledged by a daemon whose next call on a file fails. If a checkpoint meets the fault first, that daemon ends
/// before it answers, and another one is tried. `None`, with a message, if faults cannot be injected here.
fn batch_acknowledged_before(file: FileOf, fault: &str) -> Option<(Daemon, String, Faults)> {
    for _ in 0..5 {
        let mut daemon = daemon()?;
        let (mut connection, faults) = send_batch_with_fault(&daemon, file, fault);
        if !connection.is_closed_unanswered() {
            let reply = connection.read();
            assert_eq!(reply.status, 200, "{fault}");
            return Some((daemon, reply.batch_id(), faults));
        }
        ends_and_says(&mut daemon, &["the store failed", "Input/output error"]);
        eprintln!("{fault}: {}, the daemon ended before it answered", faults.end());
    }
    panic!("{fault}: five daemons ended before they answered a batch");
}

fn is_complete(daemon: &Daemon, batch: &str) -> bool {
    let path = format!("/m2/demo/profile/batchStatus?batchId={batch}");
    let call = request("GET", &path, "a", &[("Connection", "close")], None);
    // The daemon may end meanwhile.
    attempt(daemon.address(), &call).is_some_and(|(_, body)| body.contains("<status>complete</status>"))
}

/// Waits until the batch is complete. Every row must be counted and readable.
fn check_complete(daemon: &Daemon, batch: &str) {
    let details = daemon.wait_complete(batch);
    assert_eq!((details.consumed, details.successful, details.failed), (3, 2, 1));
    assert!(has_write(daemon, "b-0") && has_write(daemon, "b-1"));
}
