//! Backups in S3-compatible storage, which is a real server on this machine: it checks signatures, and keeps objects as files.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::packaging::root;
use crate::support::{Daemon, skip, wait_for};

const KEY: &str = "the-key";
const SECRET: &str = "the-very-secret-secret";
const HOUR_MS: u64 = 3_600_000;

/// Storage with the bucket `backups`.
struct Server {
    process: Option<Child>,
    binary: PathBuf,
    folder: TempDir,
    port: u16,
}

impl Server {
    /// One that is not started yet; none if the program is missing.
    fn stopped() -> Option<Self> {
        let binary = root().join("target/tools/bin/s3s-fs");
        if !binary.exists() {
            skip("s3s-fs is not here: cargo install s3s-fs@0.14.1 --features binary --root target/tools");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("backups")).unwrap();
        // Nobody else gets this port for a while after it was let go.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { process: None, binary, folder, port })
    }

    fn started() -> Option<Self> {
        let mut server = Self::stopped()?;
        server.start();
        Some(server)
    }

    fn start(&mut self) {
        let port = self.port.to_string();
        let process = Command::new(&self.binary)
            .args(["--host", "127.0.0.1", "--port", &port, "--access-key", KEY, "--secret-key", SECRET])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.unwrap());
        wait_for("the storage to listen", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// Lets it stand still, or go on.
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), signal).unwrap();
    }

    /// Where the objects below this name are.
    fn objects(&self, name: &str) -> PathBuf {
        self.folder.path().join("backups").join(name)
    }

    /// A daemon that is not started yet and knows the keys, and the settings for its backups.
    fn daemon(&self, more: &str) -> (Daemon, String) {
        let mut daemon = Daemon::configured("");
        let endpoint = self.endpoint();
        daemon
            .set_variable("AWS_ACCESS_KEY_ID", KEY)
            .set_variable("AWS_SECRET_ACCESS_KEY", SECRET)
            .set_variable("PROFILED_S3_ENDPOINT", &endpoint)
            .set_variable("PROFILED_S3_ALLOW_HTTP", "true");
        (daemon, format!("backup_url = \"s3://backups/nightly\"\n{more}"))
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The names of the scheduled backups, whole or not. An empty folder is only the server's.
    fn backups(&self) -> Vec<String> {
        let folder = self.objects("nightly");
        names(&folder).into_iter().filter(|name| has_objects(&folder.join(name))).collect()
    }

    /// Whether something is still being sent in parts.
    fn has_parts(&self) -> bool {
        names(self.folder.path()).iter().any(|name| name.starts_with(".upload_id-"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

/// The names in a folder, in order; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Whether anything but folders is below a folder.
fn has_objects(folder: &Path) -> bool {
    let below = |name: String| folder.join(name);
    names(folder).into_iter().map(below).any(|path| path.is_file() || has_objects(&path))
}

fn wait_for_backup(daemon: &Daemon) -> f64 {
    let last = || daemon.metrics().value("profiled_last_backup_timestamp_seconds");
    wait_for("a backup", || Some(last()).filter(|at| *at > 0.0))
}

fn wait_for_failure(daemon: &Daemon) -> String {
    wait_for("the backup to fail", || {
        let status = daemon.get("/api/v1/status").json();
        status["backup"]["failure"].as_str().map(str::to_owned)
    })
}

/// Does something to a file, and puts it back as it was.
fn disturbed(path: &Path, disturb: impl FnOnce(&Path), look: impl FnOnce()) {
    let whole = fs::read(path).unwrap();
    disturb(path);
    look();
    fs::write(path, whole).unwrap();
}

#[test]
fn a_scheduled_backup_goes_to_storage_and_brings_the_same_profiles_back() {
    let Some(server) = Server::started() else { return };
    let (mut daemon, settings) = server.daemon("");
    daemon.restart();
    for n in 0..50 {
        daemon.mbox("demo", &format!("mboxPC=pc{n}&mbox3rdPartyId=t{n}&profile.a={n}"));
    }
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,b\nt1,one\nt2,two\nnobody,3\n");
    daemon.wait_complete(&batch);
    daemon.configure(&settings);
    daemon.hang_up();
    wait_for_backup(&daemon);
    let [name] = &*server.backups() else { panic!("{:?}", server.backups()) };
    assert!(!names(&server.objects("nightly").join(name)).iter().any(|name| name.ends_with(".partial")));
    assert!(!server.has_parts(), "the journal went in parts, and they are one object now");
    assert!(names(&daemon.data().join("peer-snapshots")).is_empty(), "nothing stays in the data folder");
    let (code, status, _) = daemon.run(&["status"]);
    assert!(code == Some(0) && status.contains("ago, one every 24 hours"), "{status}");

    let url = format!("s3://backups/nightly/{name}");
    let (code, listed, complaints) = daemon.run(&["backup", "list", "s3://backups/nightly"]);
    assert!(
        code == Some(0) && listed.contains(name) && !listed.contains("not whole"),
        "{listed}{complaints}"
    );
    let (code, out, complaints) = daemon.run(&["backup", "verify", &url, "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{complaints}"));
    assert_eq!(
        (code, &report["restorable"], &report["faults"]),
        (Some(0), &true.into(), &serde_json::json!([]))
    );
    assert!(complaints.contains(&format!("fetching {url} into ")), "{complaints}");

    let restored = daemon.data().with_file_name("restored");
    let scratch = tempfile::tempdir().unwrap();
    let [data, below] = [&restored, scratch.path()].map(|path: &Path| path.to_str().unwrap().to_owned());
    let (code, _, complaints) = daemon.run(&["restore", &url, "--data", &data, "--scratch", &below]);
    assert_eq!(code, Some(0), "{complaints}");
    assert!(names(scratch.path()).is_empty(), "what was fetched goes");
    let expected: Vec<_> = (0..50).map(|n| daemon.visitor("demo", "pc", &format!("pc{n}"))).collect();
    daemon.kill9();
    let mut again = Daemon::configured("");
    again.set_data(restored).restart();
    let found: Vec<_> = (0..50).map(|n| again.visitor("demo", "pc", &format!("pc{n}"))).collect();
    assert!(found == expected && expected.iter().all(Option::is_some));
    assert_eq!(again.value("demo", "third-party", "t2", "b").as_deref(), Some("two"));
}

#[test]
fn a_backup_goes_to_a_new_place_in_storage_when_somebody_asks() {
    let Some(server) = Server::started() else { return };
    let (mut daemon, _) = server.daemon("");
    daemon.restart();
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    let backup = |to: &str| daemon.run(&["backup", to]);
    let (code, out, complaints) = backup("s3://backups/monday");
    assert!(code == Some(0) && out.contains("s3://backups/monday: 1 values"), "{out}{complaints}");
    assert!(server.objects("monday/backup.json").exists());
    let (code, _, complaints) = backup("s3://backups/monday");
    assert!(code == Some(1) && complaints.contains("is not empty: name a new place"), "{complaints}");
    let (code, _, complaints) = backup("s3://backups");
    assert!(code == Some(1) && complaints.contains("is a whole bucket: name a place in it"), "{complaints}");
    let (code, _, complaints) = backup("s3://no bucket");
    assert!(code == Some(2) && complaints.contains("is not a bucket and a prefix"), "{complaints}");
    let (code, _, complaints) = backup("s3://another/monday");
    assert!(code == Some(1) && complaints.contains("there is no bucket \"another\""), "{complaints}");
    let (code, _, complaints) = daemon.run(&["backup", "verify", "s3://backups"]);
    assert!(code == Some(1) && complaints.contains("is a whole bucket: name a backup in it"), "{complaints}");
}

#[test]
fn a_backup_that_is_not_what_was_sent_is_refused() {
    let Some(server) = Server::started() else { return };
    let (mut daemon, settings) = server.daemon("");
    daemon.configure(&settings);
    daemon.restart();
    wait_for_backup(&daemon);
    let name = server.backups().remove(0);
    let (url, folder) = (format!("s3://backups/nightly/{name}"), server.objects("nightly").join(&name));
    let scratch = tempfile::tempdir().unwrap();
    let refused = |path: &Path, disturb: &dyn Fn(&Path), words: &str| {
        disturbed(path, disturb, || {
            for command in [&["backup", "verify"][..], &["restore", "--data", "again"]] {
                let arguments = [command, &[&url, "--scratch", scratch.path().to_str().unwrap()]].concat();
                let (code, out, complaints) = daemon.run(&arguments);
                assert!(code == Some(1) && complaints.contains(words), "{words}: {out}{complaints}");
                assert!(complaints.contains(&url), "it names the place: {complaints}");
            }
        });
    };
    let journal = folder.join("journal/0000000000000000.log");
    let length = fs::metadata(&journal).unwrap().len();
    let truncate =
        |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap();
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    refused(&journal, &truncate, &format!("is damaged: it has {} bytes, not {length}", length / 2));
    refused(&journal, &flip, "is damaged: ");
    refused(&folder.join("erasures"), &remove, "erasures is not there, so the backup is not whole");
    refused(&folder.join("backup.json"), &remove, "is no backup, or one that was not finished");
    assert!(names(scratch.path()).is_empty() && !daemon.data().with_file_name("again").exists());
    let (code, _, complaints) = daemon.run(&["backup", "verify", "s3://backups/nightly"]);
    assert!(
        code == Some(1) && complaints.contains(&format!("below it are backups, such as {url}")),
        "{complaints}"
    );
    assert_eq!(daemon.run(&["backup", "verify", &url]).0, Some(0), "it is whole again");
}

#[test]
fn what_storage_refuses_is_told_once_and_tried_again() {
    let Some(mut server) = Server::stopped() else { return };
    let (mut daemon, settings) = server.daemon("");
    daemon.keep_complaints().configure(&settings);
    daemon.restart();
    let nowhere = format!("nothing answers at 127.0.0.1:{} (Connection refused", server.port);
    let why = wait_for_failure(&daemon);
    assert!(why.contains(&nowhere) && why.starts_with("backup_url s3://backups/nightly: "), "{why}");
    let ready = daemon.get("/readyz");
    assert!(
        ready.status == 200 && ready.text().contains("the last scheduled backup failed"),
        "{}",
        ready.text()
    );
    assert_eq!(daemon.metrics().value("profiled_last_backup_failed"), 1.0);
    daemon.wait_for_complaint(&nowhere);

    // The bucket is there now, but the next attempt finds none.
    fs::rename(server.objects(""), server.objects("").with_file_name("away")).unwrap();
    server.start();
    let told = || Some(wait_for_failure(&daemon)).filter(|why| !why.contains(&nowhere));
    let why = wait_for("another failure", told);
    assert!(why.contains("there is no bucket \"backups\" at ") && why.ends_with(": make it"), "{why}");
    fs::rename(server.objects("").with_file_name("away"), server.objects("")).unwrap();
    wait_for_backup(&daemon);
    wait_for("the failure to be over", || {
        (daemon.metrics().value("profiled_last_backup_failed") == 0.0).then_some(())
    });

    let list = |variables: &[(&str, &str)]| {
        let mut asking = Daemon::configured("");
        asking.set_variable("PROFILED_S3_ENDPOINT", &server.endpoint());
        for (name, value) in variables {
            asking.set_variable(name, value);
        }
        asking.run(&["backup", "list", "s3://backups/nightly"])
    };
    let http = ("PROFILED_S3_ALLOW_HTTP", "true");
    let check = |variables: &[(&str, &str)], code: i32, words: &str| {
        let (found, _, complaints) = list(variables);
        assert!(found == Some(code) && complaints.contains(words), "{words}: {complaints}");
        assert!(complaints.trim_end().lines().count() == 1 && !complaints.contains(SECRET), "{complaints}");
    };
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    check(
        &[http, (id, KEY), (secret, "wrong")],
        1,
        "does not know the credentials (SignatureDoesNotMatch): check AWS_",
    );
    check(&[http, (id, "wrong"), (secret, SECRET)], 1, "does not know the credentials (");
    check(&[http, (id, KEY)], 1, "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither");
    // Nothing listens there, and no machine's role is asked for.
    let role = ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    check(
        &[http, role],
        1,
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give",
    );
    check(&[(id, KEY), (secret, SECRET)], 2, "would carry all profiles unencrypted");
    let complaints = daemon.complaints();
    assert!(!complaints.contains(SECRET) && !complaints.contains(KEY), "{complaints}");
}

#[test]
fn older_backups_go_once_a_newer_one_is_whole_and_others_stay() {
    let Some(server) = Server::started() else { return };
    let (mut daemon, settings) = server.daemon("backups_kept = 1\n");
    daemon.configure(&settings);
    daemon.restart();
    wait_for_backup(&daemon);
    let first = server.backups().remove(0);
    let folder = server.objects("nightly");
    // Another data folder's: a copy with another mark. And what is no backup.
    let (manifest, other) =
        (folder.join(&first).join("backup.json"), folder.join("profiled-2020-01-01T00-00-00Z"));
    let text = fs::read_to_string(&manifest).unwrap();
    let mut of_first: Value = serde_json::from_str(&text).unwrap();
    let mark = of_first["scheduled"].as_str().unwrap().to_owned();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("backup.json"), text.replace(&mark, &"0".repeat(mark.len()))).unwrap();
    fs::create_dir(folder.join("somebody's")).unwrap();
    fs::write(folder.join("somebody's/file"), "x").unwrap();

    let restart = |daemon: &mut Daemon| {
        daemon.kill9().restart();
        wait_for_backup(daemon);
    };
    restart(&mut daemon);
    assert!(server.backups().contains(&first), "the next one is not due");
    of_first["madeAtMs"] = (of_first["madeAtMs"].as_u64().unwrap() - 24 * HOUR_MS).into();
    fs::write(&manifest, of_first.to_string()).unwrap();
    restart(&mut daemon);
    let left = wait_for("the older one to go", || Some(server.backups()).filter(|all| !all.contains(&first)));
    assert_eq!(
        (left.len(), &*left[0], &*left[2]),
        (3, "profiled-2020-01-01T00-00-00Z", "somebody's"),
        "{left:?}"
    );
    assert!(folder.join(&left[1]).join("backup.json").exists());
}

#[test]
fn a_kill_in_the_middle_of_sending_leaves_nothing_that_looks_whole() {
    let Some(server) = Server::started() else { return };
    let (mut daemon, settings) = server.daemon("");
    daemon.configure(&settings);
    daemon.restart();
    wait_for("the first part of a file to arrive", || server.has_parts().then_some(()));
    server.signal(Signal::STOP);
    daemon.kill9();
    server.signal(Signal::CONT);
    let [broken] = &*server.backups() else { panic!("{:?}", server.backups()) };
    let url = format!("s3://backups/nightly/{broken}");
    assert!(!names(&daemon.data().join("peer-snapshots")).is_empty(), "it was on its way");
    let (code, listed, _) = daemon.run(&["backup", "list", "s3://backups/nightly"]);
    assert!(code == Some(0) && listed.contains(broken) && listed.contains("not whole"), "{listed}");
    let (code, _, complaints) = daemon.run(&["backup", "verify", &url]);
    assert!(
        code == Some(1) && complaints.contains("is no backup, or one that was not finished"),
        "{complaints}"
    );
    let journal = server.objects("nightly").join(broken).join("journal");
    assert!(names(&journal).is_empty(), "an object is there once all of it has arrived");

    // The next start makes one, and clears what the kill left.
    daemon.restart();
    wait_for_backup(&daemon);
    let [whole] = &*server.backups() else { panic!("{:?}", server.backups()) };
    assert_ne!(whole, broken);
    assert!(names(&daemon.data().join("peer-snapshots")).is_empty());
    assert_eq!(daemon.run(&["backup", "verify", &format!("s3://backups/nightly/{whole}")]).0, Some(0));
}
