//! What happens to the data folder while nobody looks: the store deleted, cut, overwritten; snapshots and journal
//! damaged; backups restored; visitors erased to the bytes. The digest that `profiled check` prints is the judge.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say where"
)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Daemon, wait_for};

/// Small segments, so that many come and go.
const SETTINGS: &str = "journal_segment_bytes = \"64KiB\"\nsnapshot_journal_bytes = \"64KiB\"\n\
     [clients.demo]\nv2_creates_profiles = true\n";

/// What the last load of a folder writes.
const LAST_ROUND: usize = 1_000_000;

fn profiled(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_profiled")).args(arguments).env_clear().output().unwrap()
}

/// What `profiled check` says of a stopped daemon's folder.
fn check(data: &Path) -> Value {
    let output = checked(data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn checked(data: &Path) -> Output {
    let settings = data.parent().unwrap().join("profiled.toml");
    let (data, settings) = (data.to_str().unwrap(), settings.to_str().unwrap());
    let config = if Path::new(settings).exists() { vec!["--config", settings] } else { vec![] };
    profiled(&[&["check", "--json", "--data", data, "--log", "error"], config.as_slice()].concat())
}

fn digest(data: &Path) -> String {
    check(data)["digest"].as_str().unwrap().to_owned()
}

/// Site calls, binds, batches, erasures: a bit of everything, the last batch perhaps still pending.
fn load(daemon: &Daemon, round: usize) {
    for n in 0..40 {
        let login = if n % 3 == 0 { format!("&mbox3rdPartyId=t{n}") } else { String::new() };
        daemon.mbox("demo", &format!("mbox=m&mboxPC=p{n}{login}&profile.round={round}&profile.n={n}"));
    }
    let mut file = String::from("batch=pcId,a,b\n");
    for n in 0..300 {
        writeln!(file, "p{n},{round},\"x{n}\ny\"").unwrap();
    }
    daemon.try_batch("/m2/demo/v2/profile/batchUpdate", file).batch_id();
    daemon.mbox("demo", &format!("mbox=m&mboxPC=gone{round}&profile.secret=s{round}"));
    assert_eq!(erase(daemon, "pc", &format!("gone{round}")), 200);
}

fn erase(daemon: &Daemon, by: &str, id: &str) -> u16 {
    daemon.call("DELETE", &format!("/api/v1/profiles/{id}?by={by}&client=demo"), &[], None).status
}

fn compact(daemon: &Daemon) -> Value {
    let reply = daemon.call("POST", "/api/v1/compact", &[("Content-Type", "application/json")], Some(b"{}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A stopped daemon's folder with a bit of everything in it, so much that two snapshots were taken; and its digest.
fn loaded() -> (Daemon, String) {
    let mut daemon = Daemon::start_configured(SETTINGS);
    let mut round = 0;
    wait_for("two snapshots, and segments retired", || {
        load(&daemon, round);
        round += 1;
        let first = files_below(&daemon.data().join("journal")).into_iter().min()?;
        (snapshots(&daemon.data()).len() == 2 && !first.ends_with("0000000000000000.log")).then_some(())
    });
    load(&daemon, LAST_ROUND);
    stop(&mut daemon);
    let digest = digest(&daemon.data());
    (daemon, digest)
}

fn stop(daemon: &mut Daemon) {
    daemon.terminate();
    assert!(daemon.ended().success());
}

/// The folder of the store in use.
fn store_of(data: &Path) -> PathBuf {
    let current = fs::read_to_string(data.join("store/current")).unwrap();
    data.join("store").join(current.trim())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn snapshots(data: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = files_below(&data.join("snapshots"))
        .into_iter()
        .filter(|f| f.extension().unwrap() == "snap")
        .collect();
    files.sort();
    files
}

/// Some noise, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let next = |_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

#[test]
fn a_store_that_was_harmed_is_made_again_and_holds_the_same() {
    type Harm = fn(&Path);
    let cases: [(&str, Harm); 9] = [
        ("deleted, the whole folder", |data| fs::remove_dir_all(data.join("store")).unwrap()),
        ("deleted, the generation in use", |data| fs::remove_dir_all(store_of(data)).unwrap()),
        ("deleted, its file alone", |data| fs::remove_file(store_of(data).join("db")).unwrap()),
        ("nobody knows which is in use", |data| fs::remove_file(data.join("store/current")).unwrap()),
        ("cut to nothing", |data| cut(data, |_| 0)),
        ("cut in half", |data| cut(data, |length| length / 2)),
        ("a byte cut off", |data| cut(data, |length| length - 1)),
        ("overwritten with noise", |data| {
            let db = store_of(data).join("db");
            let length = fs::metadata(&db).unwrap().len();
            fs::write(db, noise(usize::try_from(length).unwrap())).unwrap();
        }),
        ("a checkpoint of noise", |data| fs::write(store_of(data).join("checkpoint"), noise(200)).unwrap()),
    ];
    let (mut daemon, digest_before) = loaded();
    let data = daemon.data();
    assert!(!snapshots(&data).is_empty(), "there is a snapshot to begin from");
    for (case, harm) in cases {
        harm(&data);
        assert_eq!(digest(&data), digest_before, "{case}");
    }
    daemon.restart();
    assert_eq!(daemon.value("demo", "pc", "p7", "round").as_deref(), Some("1000000"));
}

fn cut(data: &Path, to: fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(store_of(data).join("db")).unwrap();
    file.set_len(to(file.metadata().unwrap().len())).unwrap();
}

#[test]
fn what_is_set_aside_says_why() {
    let (daemon, _) = loaded();
    let data = daemon.data();
    cut(&data, |length| length / 2);
    check(&data);
    let why = files_below(&data.join("store")).into_iter().find(|file| file.ends_with("WHY")).unwrap();
    let why = fs::read_to_string(why).unwrap();
    assert!(why.starts_with("This store was set aside: the store "), "{why}");
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
    let (mut daemon, digest_before) = loaded();
    let data = daemon.data();
    let [_, newest] = &snapshots(&data)[..] else { panic!("two snapshots are kept") };
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, bytes).unwrap();
    fs::remove_dir_all(data.join("store")).unwrap();
    daemon.restart();
    assert!(newest.with_extension("damaged").exists());
    stop(&mut daemon);
    assert_eq!(digest(&data), digest_before);
}

#[test]
fn segments_go_once_two_snapshots_are_past_them_and_either_will_do() {
    let (daemon, digest_before) = loaded();
    let data = daemon.data();
    for left in [2, 1] {
        assert_eq!(snapshots(&data).len(), left);
        fs::remove_dir_all(data.join("store")).unwrap();
        assert_eq!(digest(&data), digest_before, "{left} snapshots");
        fs::remove_file(snapshots(&data).last().unwrap()).unwrap();
    }
    fs::remove_dir_all(data.join("store")).unwrap();
    let output = checked(&data);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("missing") && told.contains("backup"), "{told}");
}

#[test]
fn damage_in_the_middle_of_the_journal_is_refused_and_said() {
    let mut daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n");
    load(&daemon, 0);
    stop(&mut daemon);
    let data = daemon.data();
    let last = files_below(&data.join("journal")).into_iter().max().unwrap();
    fs::remove_dir_all(data.join("store")).unwrap();
    let mut bytes = fs::read(&last).unwrap();
    bytes[80] ^= 1;
    fs::write(&last, bytes).unwrap();
    let output = checked(&data);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(last.file_name().unwrap().to_str().unwrap()) && told.contains("damage"), "{told}");
    assert!(told.contains("--salvage"), "{told}");

    let data_argument = data.to_str().unwrap();
    let output = profiled(&["check", "--salvage", "--data", data_argument, "--log", "error"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("given up: bytes") && told.contains("is lost"), "{told}");
    assert!(data.join("damaged").join(last.file_name().unwrap()).exists());
    daemon.restart();
    assert_eq!(daemon.value("demo", "pc", "p7", "n").as_deref(), Some("7"), "what stands behind it is there");
}

/// Damaged before it was folded in, an upload stands nowhere else: somebody must say that the daemon may go on without it.
#[test]
fn a_batch_whose_upload_is_damaged_is_given_up_if_somebody_says_so() {
    let mut daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n");
    load(&daemon, 0);
    let send = |rows: &str| {
        daemon.try_batch("/m2/demo/profile/batchUpdate", format!("batch=pcId,n\n{rows}")).batch_id()
    };
    let (damaged, missing, whole) = (send("p1,lost\np2,lost\n"), send("p3,lost\n"), send("p4,kept\n"));
    for batch in [&damaged, &missing, &whole] {
        daemon.wait_complete(batch);
    }
    stop(&mut daemon);
    let data = daemon.data();
    let upload = |rows: &str| {
        let holds = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.ends_with(rows));
        files_below(&data.join("spool")).into_iter().find(holds).unwrap()
    };
    let (file, gone) = (upload("p1,lost\np2,lost\n"), upload("p3,lost\n"));
    fs::write(&file, "batch=pcId,n\np1,LOST\np2,lost\n").unwrap();
    fs::remove_file(gone).unwrap();
    // A store made again needs all of them once more.
    fs::remove_dir_all(data.join("store")).unwrap();
    let output = checked(&data);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&damaged) && told.contains("put it back") && told.contains("--salvage"), "{told}");

    let output = profiled(&["check", "--salvage", "--data", data.to_str().unwrap(), "--log", "error"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    for (batch, rows) in [(&damaged, 2), (&missing, 1)] {
        assert!(
            told.contains(&format!("given up: batch {batch}")) && told.contains(&format!("its {rows} rows")),
            "{told}"
        );
    }
    let kept = data.join("damaged").join(file.file_name().unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), "batch=pcId,n\np1,LOST\np2,lost\n");
    let digest_before = digest(&data);
    fs::remove_dir_all(data.join("store")).unwrap();
    assert_eq!(digest(&data), digest_before, "it stays given up");

    daemon.restart();
    for (id, n) in [("p1", "1"), ("p2", "2"), ("p3", "3"), ("p4", "kept")] {
        assert_eq!(daemon.value("demo", "pc", id, "n").as_deref(), Some(n), "{id}");
    }
    let details = daemon.wait_complete(&damaged);
    assert_eq!((details.size, details.successful, details.failed), (2, 0, 2));
    let outcomes = daemon.get(&format!("/api/v1/batches/{damaged}/outcomes"));
    assert_eq!((outcomes.status, outcomes.text().matches("upload_damaged").count()), (200, 2));
    for gone in ["repair", "file"] {
        let answer = daemon.get(&format!("/api/v1/batches/{damaged}/{gone}"));
        assert_eq!((answer.status, answer.text().contains("LOST")), (410, false), "{}", answer.text());
    }
    assert_eq!(daemon.wait_complete(&whole).successful, 1);
}

#[test]
fn a_backup_of_a_running_daemon_restores_to_the_same() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    (0..3).for_each(|round| load(&daemon, round));
    let folder = tempfile::tempdir().unwrap();
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("data"));
    let paths = [backup.to_str().unwrap(), restored.to_str().unwrap()];
    let output = profiled(&["backup", paths[0], "--url", &daemon.url()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = profiled(&["backup", paths[0], "--url", &daemon.url()]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
    stop(&mut daemon);
    let before = check(&daemon.data());

    let output = profiled(&["restore", paths[0], "--data", paths[1]]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::copy(daemon.data().parent().unwrap().join("profiled.toml"), folder.path().join("profiled.toml"))
        .unwrap();
    let after = check(&restored);
    assert_eq!((&after["digest"], &after["profiles"]), (&before["digest"], &before["profiles"]));
    let again = profiled(&["restore", paths[0], "--data", paths[1]]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));

    let segment = files_below(&backup.join("journal")).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    let output = profiled(&["restore", paths[0], "--data", elsewhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is damaged"));
}

#[test]
fn a_fresh_store_holds_the_same_and_writes_go_on_meanwhile() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    (0..2).for_each(|round| load(&daemon, round));
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| compact(&daemon));
        (2..5).for_each(|round| load(&daemon, round));
        assert!(compacting.join().unwrap()["storeBytes"].as_u64().unwrap() > 0);
    });
    let old = store_of(&daemon.data());
    compact(&daemon);
    assert_ne!(store_of(&daemon.data()), old);
    assert!(!old.exists(), "the old store is gone");
    for n in [0, 7, 39] {
        assert_eq!(daemon.value("demo", "pc", &format!("p{n}"), "round").as_deref(), Some("4"));
    }
    daemon.kill9().restart();
    stop(&mut daemon);
    let before = digest(&daemon.data());
    fs::remove_dir_all(daemon.data().join("store")).unwrap();
    assert_eq!(digest(&daemon.data()), before, "what the swap left is what the journal says");
}

#[test]
fn of_an_erased_visitor_no_byte_is_left_after_compaction() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    load(&daemon, 0);
    daemon.mbox("demo", "mbox=m&mboxPC=forgetme-pc&mbox3rdPartyId=forgetme-tp&profile.note=forgetme-value");
    let batch = daemon
        .try_batch(
            "/m2/demo/v2/profile/batchUpdate",
            "batch=thirdPartyId,note\nforgetme-tp,forgetme-row\nsomebody,else\nforgetme-tp,bad%zz\n",
        )
        .batch_id();
    daemon.wait_complete(&batch);
    let held = |daemon: &Daemon| -> Vec<PathBuf> {
        let holds = |file: &PathBuf| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes.windows(8).any(|window| window == b"forgetme")
        };
        files_below(&daemon.data()).into_iter().filter(holds).collect()
    };
    assert!(!held(&daemon).is_empty());
    assert_eq!(erase(&daemon, "pc", "forgetme-pc"), 200);
    assert_eq!(daemon.visitor("demo", "third-party", "forgetme-tp"), None);
    assert_eq!(erase(&daemon, "pc", "forgetme-pc"), 404);
    assert_eq!(compact(&daemon)["idsErased"], 3, "two ids, and the one that the load erased");
    assert_eq!(held(&daemon), Vec::<PathBuf>::new());
    let details = daemon.wait_complete(&batch);
    assert_eq!((details.size, details.successful, details.failed), (3, 2, 1), "the counts stay");
    daemon.kill9().restart();
    assert_eq!(daemon.visitor("demo", "pc", "forgetme-pc"), None);
    assert_eq!(held(&daemon), Vec::<PathBuf>::new());

    // The same id may have another life.
    daemon.mbox("demo", "mbox=m&mboxPC=forgetme-pc&profile.note=new");
    assert_eq!(daemon.value("demo", "pc", "forgetme-pc", "note").as_deref(), Some("new"));
    stop(&mut daemon);
    check(&daemon.data());
}

/// The tombstone of an id that has another life by now was overwritten by it, and nothing told compaction whose bytes had
/// to go.
#[test]
fn nor_is_any_of_the_life_before_if_the_visitor_came_back() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    type ComesBack<'b> = &'b dyn Fn(&Daemon);
    let back: [(&str, ComesBack<'_>); 3] = [
        ("site", &|daemon| drop(daemon.mbox("demo", "mbox=m&mboxPC=site&profile.note=another"))),
        ("login", &|daemon| {
            drop(daemon.mbox("demo", "mbox=m&mboxPC=login&mbox3rdPartyId=new&profile.note=another"))
        }),
        ("batch", &|daemon| {
            let batch =
                daemon.try_batch("/m2/demo/v2/profile/batchUpdate", "batch=pcId,note\nbatch,another\n");
            daemon.wait_complete(&batch.batch_id());
        }),
    ];
    for (id, _) in back {
        daemon.mbox("demo", &format!("mbox=m&mboxPC={id}&profile.note=forgetme"));
        let row = format!("batch=pcId,note\n{id},forgetme-row\n");
        let batch = daemon.try_batch("/m2/demo/v2/profile/batchUpdate", row).batch_id();
        daemon.wait_complete(&batch);
    }
    for (id, comes_back) in back {
        assert_eq!(erase(&daemon, "pc", id), 200);
        comes_back(&daemon);
        assert_eq!(daemon.value("demo", "pc", id, "note").as_deref(), Some("another"), "{id}");
    }
    daemon.kill9().restart();
    assert_eq!(compact(&daemon)["idsErased"], 3);
    let holds = |file: &PathBuf| fs::read(file).unwrap().windows(8).any(|window| window == b"forgetme");
    let held: Vec<PathBuf> = files_below(&daemon.data()).into_iter().filter(holds).collect();
    assert_eq!(held, Vec::<PathBuf>::new());
    assert_eq!(compact(&daemon)["idsErased"], 0, "it is done with");
    for (id, _) in back {
        assert_eq!(daemon.value("demo", "pc", id, "note").as_deref(), Some("another"), "{id}");
    }
    stop(&mut daemon);
    check(&daemon.data());
}

#[test]
fn erasure_waits_for_nobody_to_ask_once_its_deadline_nears() {
    let daemon = Daemon::start_configured(&format!("erase_within_hours = 0\n{SETTINGS}"));
    daemon.mbox("demo", "mbox=m&mboxPC=forgetme&profile.note=forgetme");
    assert_eq!(erase(&daemon, "pc", "forgetme"), 200);
    wait_for("the bytes to go", || {
        let holds = |file: &PathBuf| {
            let bytes = fs::read(file).unwrap_or_default();
            bytes.windows(8).any(|window| window == b"forgetme")
        };
        (!files_below(&daemon.data()).iter().any(holds)).then_some(())
    });
}

#[test]
fn a_second_daemon_on_the_folder_is_told_so() {
    let daemon = Daemon::start();
    let data = daemon.data();
    for command in ["serve", "check"] {
        let output = profiled(&[command, "--data", data.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("another profiled has"), "{told}");
    }
}

#[test]
fn batches_past_their_retention_go_with_their_files() {
    let mut daemon = Daemon::start_configured(&format!("retention_days = 0\n{SETTINGS}"));
    for round in 0..6 {
        load(&daemon, round);
    }
    let last = daemon.try_batch("/m2/demo/profile/batchUpdate", "batch=pcId,a\np1,last\n").batch_id();
    daemon.wait_complete(&last);
    // Each compaction of an erasure takes two snapshots, which is what retention waits for.
    compact(&daemon);
    assert_eq!(daemon.spooled(), Vec::<PathBuf>::new());
    let gone = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={last}"));
    assert_eq!(gone.status, 404, "{}", gone.text());
    daemon.kill9().restart();
    assert_eq!(daemon.value("demo", "pc", "p1", "a").as_deref(), Some("last"));
    stop(&mut daemon);
    check(&daemon.data());
}

#[test]
fn wrong_calls_are_told_what_would_be_right() {
    let daemon = Daemon::start();
    let json = ("Content-Type", "application/json");
    for (path, headers, body, status, told) in [
        ("/api/v1/compact", vec![], "{}", 400, "application/json"),
        ("/api/v1/compact", vec![json], "{\"a\":1}", 400, "unknown field"),
        ("/api/v1/backup", vec![json], "{}", 400, "missing field `folder`"),
        ("/api/v1/backup", vec![json], "{\"folder\":\"here\"}", 400, "not an absolute path"),
    ] {
        let reply = daemon.call("POST", path, &headers, Some(body.as_bytes()));
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
        assert!(reply.text().contains(told), "{path} {body}: {}", reply.text());
    }
    assert_eq!(daemon.get("/api/v1/compact").status, 405);
    for (arguments, told) in [
        (vec!["check", "--data", "/nowhere/at/all"], "holds no journal"),
        (vec!["restore", "/nowhere/at/all", "--data", "/tmp/never-made"], "is no backup"),
        (vec!["backup", "/tmp/never-made", "--url", "http://127.0.0.1:9"], "nothing answers"),
        (vec!["compact", "--url", "http://127.0.0.1:9"], "nothing answers"),
    ] {
        let output = profiled(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
}
