//! The data folder between two runs: the store is deleted, cut or overwritten; snapshots and the journal are damaged; backups are
//! restored; visitors are erased down to the bytes. The digest of `profiled check` must stay the same.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{self, Daemon, copy_folder, output_of, seen_below, skip, wait_for};
use serde_json::Value;

/// Small segments, so that many are created and removed.
const SETTINGS: &str = "journal_segment_bytes = \"64KiB\"\nsnapshot_journal_bytes = \"64KiB\"\n\
     [clients.demo]\nv2_creates_profiles = true\n";

/// The value that the last load of a folder writes.
const LAST_ROUND: usize = 1_000_000;

fn profiled(arguments: &[&str]) -> Output {
    output_of(Command::new(env!("CARGO_BIN_EXE_profiled")).args(arguments).env_clear())
}

/// The report of `profiled check` on a stopped daemon's folder.
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

/// Some site calls, binds, batches and erasures. The last batch may still be pending.
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

/// A stopped daemon's folder with some of everything and with two snapshots; and its digest.
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

fn remove_store(data: &Path) {
    if data.join("store").exists() {
        fs::remove_dir_all(data.join("store")).unwrap();
    }
}

fn restore(backup: &Path, data: &Path, more: &[&str]) -> Output {
    let paths = [backup.to_str().unwrap(), data.to_str().unwrap()];
    profiled(&[&["restore", paths[0], "--data", paths[1]], more].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn back_up(daemon: &Daemon, backup: &Path) {
    let output = profiled(&["backup", backup.to_str().unwrap(), "--url", &daemon.url()]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Random bytes, the same every time.
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
fn a_store_that_was_harmed_is_rebuilt_and_holds_the_same() {
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
    let (data, harmed) = (daemon.data(), daemon.data().with_file_name("harmed"));
    assert!(!snapshots(&data).is_empty(), "there is a snapshot to begin from");
    for (case, harm) in cases {
        copy_folder(&data, &harmed);
        harm(&harmed);
        let before = seen_below(&harmed);
        assert_eq!(digest(&harmed), digest_before, "{case}: a check rebuilds it elsewhere");
        assert!(seen_below(&harmed) == before, "{case}: a check changes nothing");
        daemon.set_data(harmed.clone()).restart();
        assert_eq!(daemon.value("demo", "pc", "p7", "round").as_deref(), Some("1000000"), "{case}");
        stop(&mut daemon);
        assert_eq!(digest(&harmed), digest_before, "{case}: so does a start");
        fs::remove_dir_all(&harmed).unwrap();
    }
}

fn cut(data: &Path, to: fn(u64) -> u64) {
    let file = fs::File::options().write(true).open(store_of(data).join("db")).unwrap();
    file.set_len(to(file.metadata().unwrap().len())).unwrap();
}

#[test]
fn a_store_that_is_set_aside_says_why() {
    let (mut daemon, _) = loaded();
    let data = daemon.data();
    cut(&data, |length| length / 2);
    let notes = check(&data)["notes"].to_string();
    assert!(notes.contains("the store cannot be trusted, and the next start rebuilds it"), "{notes}");
    daemon.restart();
    stop(&mut daemon);
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
        remove_store(&data);
        assert_eq!(digest(&data), digest_before, "{left} snapshots");
        fs::remove_file(snapshots(&data).last().unwrap()).unwrap();
    }
    let output = checked(&data);
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{reported}");
    assert!(reported.contains("missing") && reported.contains("backup"), "{reported}");
}

#[test]
fn damage_in_the_middle_of_the_journal_is_refused_and_reported() {
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
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{reported}");
    assert!(
        reported.contains(last.file_name().unwrap().to_str().unwrap()) && reported.contains("damage"),
        "{reported}"
    );
    assert!(reported.contains("--salvage"), "{reported}");

    let data_argument = data.to_str().unwrap();
    let output = profiled(&["check", "--salvage", "--data", data_argument, "--log", "error"]);
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(reported.contains("given up: bytes") && reported.contains("is lost"), "{reported}");
    assert!(data.join("damaged").join(last.file_name().unwrap()).exists());
    daemon.restart();
    assert_eq!(daemon.value("demo", "pc", "p7", "n").as_deref(), Some("7"), "what stands behind it is there");
}

/// If an upload is damaged before it was applied, there is no other copy. An operator must say that the daemon may go on
/// without it.
#[test]
fn a_batch_whose_upload_is_damaged_is_given_up_if_an_operator_says_so() {
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
    // A rebuilt store needs all of them once more.
    fs::remove_dir_all(data.join("store")).unwrap();
    let output = checked(&data);
    let reported = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{reported}");
    assert!(
        reported.contains(&damaged)
            && reported.contains(&missing)
            && reported.contains("put it back")
            && reported.contains("--salvage"),
        "{reported}"
    );

    let output = profiled(&["check", "--salvage", "--data", data.to_str().unwrap(), "--log", "error"]);
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{reported}");
    for (batch, rows) in [(&damaged, 2), (&missing, 1)] {
        assert!(
            reported.contains(&format!("given up: batch {batch}"))
                && reported.contains(&format!("its {rows} rows")),
            "{reported}"
        );
    }
    let kept = data.join("damaged").join(file.file_name().unwrap());
    assert_eq!(fs::read_to_string(kept).unwrap(), "batch=pcId,n\np1,LOST\np2,lost\n");
    let digest_before = digest(&data);
    remove_store(&data);
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

/// A failed restore once left a folder without its tokens. A daemon opened it without access control.
#[test]
fn a_restore_that_fails_leaves_nothing_that_opens() {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=p&profile.a=1");
    let token = daemon.make_token(&["--all-clients", "--scope", "admin"]);
    daemon.kill9().restart().set_variable("PROFILED_TOKEN", &token);
    let (backup, restored) =
        (daemon.data().with_file_name("backup"), daemon.data().with_file_name("restored"));
    let partial = restored.with_file_name("restored.partial");
    let (code, _, reported) = daemon.run(&["backup", backup.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{reported}");
    daemon.kill9();
    // The tokens are copied last.
    let tokens = backup.join("tokens.json");
    let kept = fs::read(&tokens).unwrap();
    fs::write(&tokens, "{}").unwrap();
    let reported = said(&restore(&backup, &restored, &[]));
    assert!(reported.contains("tokens.json is damaged"), "{reported}");
    assert!(!restored.exists() && !partial.exists(), "nothing is left of it");

    // If the restore ends early, no daemon opens its folder, and the folder does not prevent a second restore.
    fs::create_dir(&partial).unwrap();
    copy_folder(&daemon.data(), &partial);
    fs::write(partial.join("unfinished"), "").unwrap();
    for command in
        [&["serve", "--listen", "127.0.0.1:0"][..], &["check"], &["check", "--salvage"], &["token", "list"]]
    {
        let output = profiled(&[command, &["--data", partial.to_str().unwrap()]].concat());
        let reported = said(&output);
        assert!(
            output.status.code() == Some(1) && reported.contains("is not finished"),
            "{command:?}: {reported}"
        );
        assert!(reported.contains("remove the folder"), "{command:?}: {reported}");
    }
    fs::write(&tokens, kept).unwrap();
    let output = restore(&backup, &restored, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!partial.exists());
    daemon.set_data(restored).restart();
    assert_eq!(daemon.get("/api/v1/batches?client=demo").status, 401);
}

/// A restore opens the restored folder once before it reports success.
#[test]
fn a_restore_succeeds_only_if_the_rebuilt_store_is_the_backups() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    (0..2).for_each(|round| load(&daemon, round));
    let folder = tempfile::tempdir().unwrap();
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    back_up(&daemon, &backup);
    stop(&mut daemon);
    let path = backup.join("backup.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut other = manifest.clone();
    other["digest"] = "0".repeat(32).into();
    fs::write(&path, other.to_string()).unwrap();
    let reported = said(&restore(&backup, &restored, &[]));
    assert!(
        reported.contains("has the digest") && reported.contains(manifest["digest"].as_str().unwrap()),
        "{reported}"
    );
    assert!(!restored.exists());
    // A manifest as earlier programs wrote it.
    let mut earlier = manifest.clone();
    earlier["version"] = 1.into();
    earlier.as_object_mut().unwrap().remove("digest");
    fs::write(&path, earlier.to_string()).unwrap();
    assert!(restore(&backup, &restored, &[]).status.success());
    assert!(restored.join("store/current").exists(), "the store is made");
    let outside =
        manifest.to_string().replacen("./tokens.json", "../outside", 1).replacen("spool/", "../x/", 1);
    fs::write(&path, outside).unwrap();
    let reported = said(&restore(&backup, &folder.path().join("elsewhere"), &[]));
    assert!(reported.contains("is not in it"), "{reported}");
}

/// Once, restoring a backup brought erased visitors back.
#[test]
fn a_visitor_erased_after_a_backup_stays_erased_when_it_is_restored() {
    let mut daemon = Daemon::start_configured("[clients.demo]\nv2_creates_profiles = true\n");
    for id in ["stays", "before", "after", "alone"] {
        daemon.mbox("demo", &format!("mbox=m&mboxPC=pc-{id}&mbox3rdPartyId={id}&profile.note={id}"));
    }
    daemon.mbox("demo", "mbox=m&mboxPC=joins&profile.note=joins");
    assert_eq!(erase(&daemon, "third-party", "before"), 200);
    daemon.mbox("demo", "mbox=m&mbox3rdPartyId=before&profile.note=again");
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    back_up(&daemon, &backup);
    assert_eq!(erase(&daemon, "pc", "pc-after"), 200);
    // They were bound after the backup; in the backup the two are separate.
    daemon.mbox("demo", "mbox=m&mboxPC=joins&mbox3rdPartyId=alone&profile.note=joined");
    assert_eq!(erase(&daemon, "third-party", "alone"), 200);
    // No byte of the erased visitor is left, and no tombstone: only the list of erasures knows of it.
    compact(&daemon);
    let list = daemon.data().join("erasures");
    assert!(!fs::read_to_string(&list).unwrap().contains("after"));
    daemon.kill9();

    let back = folder.path().join("back");
    let reported = said(&restore(&backup, &back, &[]));
    assert!(reported.contains("are back: erase them again") && reported.contains("--after"), "{reported}");
    for after in [daemon.data(), list] {
        let restored = folder.path().join("restored");
        let output = restore(&backup, &restored, &["--after", after.to_str().unwrap()]);
        assert!(output.status.success(), "{}", said(&output));
        let mut daemon = Daemon::configured("");
        daemon.set_data(restored.clone()).restart();
        for gone in ["pc-after", "pc-alone", "joins"] {
            assert_eq!(daemon.visitor("demo", "pc", gone), None, "{gone}");
        }
        for (id, note) in [("stays", "stays"), ("before", "again")] {
            assert_eq!(daemon.value("demo", "third-party", id, "note").as_deref(), Some(note));
        }
        daemon.kill9();
        let acts = fs::read_to_string(restored.join("audit.log")).unwrap();
        assert!(acts.contains("\"erase\"") && acts.contains("\"restore\""), "{acts}");
        fs::remove_dir_all(restored).unwrap();
    }
}

/// Each start once rebuilt the indexes of pending batches. With twenty batches it took two seconds instead of half a second.
#[test]
fn a_start_uses_the_indexes_that_are_there() {
    let mut daemon = Daemon::start_configured("[ingest]\nmax_rows_per_second = 1\n");
    // Far more rows than a slow machine's test could see applied at this rate.
    let rows: String = (0..2_000).map(|n| format!("p{n},1\n")).collect();
    for _ in 0..3 {
        daemon.post_batch("demo", format!("batch=pcId,n\n{rows}"));
    }
    let indexes = |daemon: &Daemon| -> Vec<(PathBuf, u64)> {
        let files = files_below(&daemon.data().join("spool")).into_iter();
        let indexes = files.filter(|path| path.extension().is_some_and(|extension| extension == "index"));
        indexes.map(|path| (path.clone(), fs::metadata(&path).unwrap().ino())).collect()
    };
    let before = indexes(&daemon);
    assert_eq!(before.len(), 3);
    daemon.kill9();
    daemon.restart();
    assert_eq!(indexes(&daemon), before);
}

/// If a store is rebuilt, its batches are applied once more. Such a batch is complete in the journal, but not at the backup's
/// checkpoint position. Backups once left its outcomes out, and the restored folder did not start.
#[test]
fn a_backup_made_while_a_store_is_rebuilt_can_be_started() {
    const ROWS: usize = 2_000;
    let settings = |rate: &str| format!("{rate}[clients.demo]\nv2_creates_profiles = true\n");
    let mut daemon = Daemon::start_configured(&settings(""));
    let mut file = String::from("batch=pcId,n\n");
    for n in 0..ROWS {
        writeln!(file, "p{n},{n}").unwrap();
    }
    let batch = daemon.post_batch("demo", &file);
    daemon.wait_complete(&batch);
    daemon.kill9();
    fs::remove_dir_all(daemon.data().join("store")).unwrap();
    daemon.configure(&settings("[ingest]\nmax_rows_per_second = 1\n"));
    daemon.restart();
    let folder = tempfile::tempdir().unwrap();
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    back_up(&daemon, &backup);
    daemon.kill9();
    let output = restore(&backup, &restored, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let before = seen_below(&backup);
    let report = check(&backup);
    assert_eq!((&report["profiles"], &report["faults"]), (&ROWS.into(), &Value::Array(vec![])));
    assert!(seen_below(&backup) == before, "a check changes nothing");
    daemon.configure(&settings(""));
    daemon.set_data(restored).restart();
    let details = daemon.wait_complete(&batch);
    assert_eq!((details.size, details.successful, details.failed), (ROWS as u64, ROWS as u64, 0));
    let outcomes = daemon.get(&format!("/api/v1/batches/{batch}/outcomes?outcome=created"));
    assert_eq!(outcomes.text().lines().count(), ROWS + 1);
}

/// The journal has the counts of a batch, but the file with the outcomes of its rows is gone or damaged. Once, the daemon did
/// not start, and salvage gave up the whole batch, although its upload was whole.
#[test]
fn lost_outcomes_are_found_again_except_for_rows_written_to_since() {
    let mut daemon = Daemon::start();
    for id in ["plain", "written", "erased"] {
        daemon.mbox("demo", &format!("mbox=m&mboxPC={id}&profile.b=0"));
    }
    let file = "batch=pcId,a\nplain,1\nwritten,1\nerased,1\nnobody,1\nplain,%zz\nborn,1\nplain,\n";
    let batch = daemon.post_batch("demo", file);
    daemon.wait_complete(&batch);
    daemon.mbox("demo", "mbox=m&mboxPC=written&profile.b=2");
    daemon.mbox("demo", "mbox=m&mboxPC=born&profile.b=2");
    assert_eq!(erase(&daemon, "pc", "erased"), 200);
    let outcomes = || format!("/api/v1/batches/{batch}/outcomes");
    let lines =
        |daemon: &Daemon| daemon.get(&outcomes()).text().lines().map(str::to_owned).collect::<Vec<_>>();
    let before = lines(&daemon);
    stop(&mut daemon);
    let path = files_below(&daemon.data().join("spool"))
        .into_iter()
        .find(|it| it.extension().unwrap() == "outcomes");
    let path = path.unwrap();
    for harm in [&(|path: &Path| fs::remove_file(path)) as &dyn Fn(&Path) -> std::io::Result<()>, &|path| {
        fs::write(path, "noise")
    }] {
        harm(&path).unwrap();
        remove_store(&daemon.data());
        daemon.restart();
        let details = daemon.wait_complete(&batch);
        assert_eq!((details.size, details.successful, details.not_found, details.ignored), (7, 2, 1, 1));
        for (now, before) in lines(&daemon).iter().zip(&before) {
            if ["3,erased,", "4,erased,", "7,born,"].iter().any(|lost| now.starts_with(lost)) {
                assert!(now.contains("outcome_lost"), "{now}");
            } else {
                assert_eq!(now, before);
            }
        }
        assert_eq!(daemon.value("demo", "pc", "plain", "a").as_deref(), Some("1"));
        assert_eq!(daemon.visitor("demo", "pc", "erased"), None);
        stop(&mut daemon);
        assert_eq!(check(&daemon.data())["faults"], Value::Array(vec![]));
    }
}

/// Once, batches were unknown after the next start, and a check found no fault.
#[test]
fn a_damaged_catalogue_is_a_fault_that_a_check_reports() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    load(&daemon, 0);
    let batch = daemon.post_batch("demo", "batch=pcId,a\np1,1\n");
    daemon.wait_complete(&batch);
    stop(&mut daemon);
    let data = daemon.data();
    let file = data.join("catalogue");
    let whole = fs::read(&file).unwrap();
    // A record, the head, the end, and the whole file.
    type Harm = fn(&mut Vec<u8>);
    let damage: [(&str, Harm); 4] = [
        ("at byte 28 a record", |bytes| bytes[40] ^= 1),
        ("at byte 0 its head", |bytes| bytes[9] ^= 1),
        ("a record breaks off", |bytes| bytes.truncate(bytes.len() - 1)),
        ("it is not there", |bytes| bytes.clear()),
    ];
    for (what, harm) in damage {
        for store in [true, false] {
            let mut bytes = whole.clone();
            harm(&mut bytes);
            fs::write(&file, &bytes).unwrap();
            if bytes.is_empty() {
                fs::remove_file(&file).unwrap();
            }
            let kept = data.with_file_name("kept");
            if !store {
                fs::rename(data.join("store"), &kept).unwrap();
            }
            let output = checked(&data);
            if !store {
                fs::rename(&kept, data.join("store")).unwrap();
            }
            let reported = String::from_utf8_lossy(&output.stdout).into_owned();
            // A rebuilt store needs the catalogue only up to the snapshot's position. The journal has the rest.
            if store || output.status.code() == Some(1) {
                assert_eq!(output.status.code(), Some(1), "{what}: {reported}");
                let names = reported.contains(file.to_str().unwrap()) && reported.contains(what);
                assert!(names && reported.contains("Start the daemon"), "{what}: {reported}");
            }
        }
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(check(&data)["faults"], Value::Array(vec![]));
}

/// A check once wrote into the folder, so it could not check a backup on a read-only disk.
#[test]
fn a_check_writes_nothing_and_can_do_without() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    load(&daemon, 0);
    daemon.kill9();
    let data = daemon.data();
    // A torn tail, as a crash during an append leaves it.
    let last = files_below(&data.join("journal")).into_iter().max().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let torn = end.next_multiple_of(8) + 64;
    bytes[torn] = 1;
    fs::write(&last, bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let before = seen_below(&data);
    let output = profiled(&[
        "check",
        "--json",
        "--data",
        data.to_str().unwrap(),
        "--scratch",
        scratch.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let notes = report["notes"].to_string();
    assert!(
        notes.contains("an append that a crash interrupted") && notes.contains(last.to_str().unwrap()),
        "{notes}"
    );
    assert!(seen_below(&data) == before);
    assert_eq!(files_below(&scratch), Vec::<PathBuf>::new(), "nothing is left of it");
    let Ok(mount) = support::disk::read_only(&data, &folder.path().join("mounted")) else {
        return skip("a folder cannot be mounted read-only here");
    };
    assert_eq!(check(&mount.0)["digest"], report["digest"]);
}

/// A daemon of an earlier version once opened such a folder, reported that it was ready, and answered 500.
#[test]
fn a_folder_of_a_later_format_is_refused_with_what_to_do() {
    let mut daemon = Daemon::start_configured(SETTINGS);
    load(&daemon, 0);
    stop(&mut daemon);
    let data = daemon.data();
    let stamp = data.join("format");
    let kept = fs::read_to_string(&stamp).unwrap();
    assert!(kept.contains("\"format\":"), "{kept}");
    fs::write(&stamp, r#"{"format":99,"program":"9.9.9"}"#).unwrap();
    let refused = |what: &[&str]| {
        let output = profiled(&[what, &["--data", data.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(1), "{what:?}: {}", said(&output));
        said(&output)
    };
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["check"], &["token", "list"]] {
        assert!(refused(command).contains("Run profiled 9.9.9 or later"), "{command:?}");
    }
    fs::write(&stamp, kept).unwrap();
    // Files of a later program don't count as damaged either.
    let checkpoint = store_of(&data).join("checkpoint");
    let mut bytes = fs::read(&checkpoint).unwrap();
    let kept = bytes.clone();
    bytes[0] = 99;
    let length = bytes.len() - 4;
    let sum = crc32c::crc32c(&bytes[..length]).to_le_bytes();
    bytes[length..].copy_from_slice(&sum);
    fs::write(&checkpoint, bytes).unwrap();
    assert!(refused(&["serve", "--listen", "127.0.0.1:0"]).contains("a later profiled wrote it"));
    assert!(checkpoint.exists(), "it is where it was");
    fs::write(&checkpoint, kept).unwrap();
    // A folder from before the format stamp gets one.
    fs::remove_file(&stamp).unwrap();
    daemon.restart();
    assert!(stamp.exists());
    assert_eq!(daemon.value("demo", "pc", "p7", "n").as_deref(), Some("7"));
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
fn no_byte_of_an_erased_visitor_is_left_after_compaction() {
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

    // The same id may be used by a new visitor.
    daemon.mbox("demo", "mbox=m&mboxPC=forgetme-pc&profile.note=new");
    assert_eq!(daemon.value("demo", "pc", "forgetme-pc", "note").as_deref(), Some("new"));
    stop(&mut daemon);
    check(&daemon.data());
}

/// The new profile of a reused id overwrites the tombstone. Once, compaction then did not know whose bytes it had to remove.
#[test]
fn no_byte_of_an_erased_visitor_is_left_if_the_id_is_used_again() {
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
fn erasure_starts_by_itself_when_its_deadline_nears() {
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
fn a_second_daemon_on_the_folder_is_refused() {
    let daemon = Daemon::start();
    let data = daemon.data();
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["check"]] {
        let output = profiled(&[command, &["--data", data.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(reported.contains("another profiled has"), "{reported}");
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
    // Each compaction of an erasure takes two snapshots, and retention waits for these.
    compact(&daemon);
    assert_eq!(daemon.spooled(), Vec::<PathBuf>::new());
    let gone = daemon.get(&format!("/m2/demo/profile/batchStatus?batchId={last}"));
    assert_eq!(gone.status, 404, "{}", gone.text());
    daemon.kill9().restart();
    assert_eq!(daemon.value("demo", "pc", "p1", "a").as_deref(), Some("last"));
    stop(&mut daemon);
    check(&daemon.data());
}

/// Old files were once removed only after a new checkpoint. On a full disk there was no space for the checkpoint, so the disk
/// stayed full.
#[test]
fn old_files_are_removed_from_a_disk_that_has_no_space_for_a_checkpoint() {
    // More than four times the free space of most disks.
    if rustix::fs::statvfs("/tmp").is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 200 << 30) {
        return skip(
            "a disk with less than 200 GiB free: the largest reserve is no more than four times that",
        );
    }
    let settings = |more: &str| format!("{more}\n{SETTINGS}");
    let mut daemon = Daemon::start_configured(&settings(""));
    let batch = daemon.post_batch("demo", "batch=pcId,a\np1,last\n");
    daemon.wait_complete(&batch);
    // Two snapshots and a checkpoint in which the batch is complete.
    for n in 0..2 {
        back_up(&daemon, &daemon.data().with_file_name(format!("backup-{n}")));
    }
    assert!(!daemon.spooled().is_empty());
    daemon.configure(&settings("retention_days = 0\ndisk_reserve_bytes = \"1TiB\""));
    daemon.hang_up();
    wait_for("writes to be refused", || {
        let reply = daemon.post_form("/m2/demo/mbox/json", "mbox=m&mboxPC=p2&profile.a=1");
        (reply.status == 507).then_some(())
    });
    wait_for("the files to go", || daemon.spooled().is_empty().then_some(()));
    daemon.kill9();
    daemon.configure(&settings(""));
    daemon.restart();
    assert_eq!(daemon.value("demo", "pc", "p1", "a").as_deref(), Some("last"));
    stop(&mut daemon);
    check(&daemon.data());
}

#[test]
fn refusals_of_wrong_calls_say_what_would_be_right() {
    let daemon = Daemon::start();
    let json = ("Content-Type", "application/json");
    for (path, headers, body, status, reported) in [
        ("/api/v1/compact", vec![], "{}", 400, "application/json"),
        ("/api/v1/compact", vec![json], "{\"a\":1}", 400, "unknown field"),
        ("/api/v1/backup", vec![json], "{}", 400, "missing field `folder`"),
        ("/api/v1/backup", vec![json], "{\"folder\":\"here\"}", 400, "not an absolute path"),
    ] {
        let reply = daemon.call("POST", path, &headers, Some(body.as_bytes()));
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
        assert!(reply.text().contains(reported), "{path} {body}: {}", reply.text());
    }
    assert_eq!(daemon.get("/api/v1/compact").status, 405);
    for (arguments, reported) in [
        (vec!["check", "--data", "/nowhere/at/all"], "it has no journal"),
        (vec!["restore", "/nowhere/at/all", "--data", "/tmp/never-made"], "is no backup"),
        (vec!["backup", "/tmp/never-made", "--url", "http://127.0.0.1:9"], "nothing answers"),
        (vec!["compact", "--url", "http://127.0.0.1:9"], "nothing answers"),
    ] {
        let output = profiled(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(reported), "{arguments:?}: {said}");
    }
}
