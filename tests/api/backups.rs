//! The backups that the daemon makes by itself, and `profiled backup verify`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Daemon, wait_for};

const HOUR_MS: u64 = 3_600_000;

/// A daemon that is not started yet, and the folder of its backups.
fn scheduled(kept: u32) -> (Daemon, PathBuf) {
    let daemon = Daemon::configured("");
    let folder = daemon.data().with_file_name("backups");
    fs::create_dir(&folder).unwrap();
    daemon.configure(&format!("backup_folder = {folder:?}\nbackups_kept = {kept}\n"));
    (daemon, folder)
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn last_backup(daemon: &Daemon) -> f64 {
    daemon.metrics().value("profiled_last_backup_timestamp_seconds")
}

/// Waits until the daemon has made a backup, or knows of one.
fn wait_for_backup(daemon: &Daemon) -> f64 {
    wait_for("a backup", || Some(last_backup(daemon)).filter(|at| *at > 0.0))
}

fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&fs::read(backup.join("backup.json")).unwrap()).unwrap()
}

/// Makes a backup look older.
fn age(backup: &Path, hours: u64) {
    let mut manifest = manifest(backup);
    manifest["madeAtMs"] = (manifest["madeAtMs"].as_u64().unwrap() - hours * HOUR_MS).into();
    fs::write(backup.join("backup.json"), manifest.to_string()).unwrap();
}

#[test]
fn a_backup_is_made_when_the_last_one_is_old_enough_and_the_oldest_goes() {
    let (mut daemon, folder) = scheduled(2);
    fs::create_dir(folder.join("somebody's")).unwrap();
    daemon.restart();
    daemon.mbox("demo", "mboxPC=1&profile.a=1");
    wait_for_backup(&daemon);
    let [first, other] = &*names(&folder) else { panic!("{:?}", names(&folder)) };
    assert_eq!(other, "somebody's");
    assert_eq!(daemon.metrics().value("profiled_backup_interval_seconds"), 86_400.0);
    let status = daemon.get("/api/v1/status").json();
    assert_eq!(
        (&status["backup"]["everySeconds"], &status["backup"]["failure"]),
        (&86_400.into(), &Value::Null)
    );
    assert!(status["backup"]["ageSeconds"].as_u64().is_some_and(|age| age < 3600), "{status}");
    let (code, out, _) = daemon.run(&["status"]);
    assert!(code == Some(0) && out.contains("ago, one every 24 hours"), "{out}");

    daemon.kill9().restart();
    // Whether one is due is decided as soon as the last one is known.
    let at = wait_for_backup(&daemon);
    let made = manifest(&folder.join(first))["madeAtMs"].as_u64().unwrap();
    assert_eq!((at * 1000.0).round().to_string(), made.to_string(), "a restart does not begin anew");
    assert_eq!(names(&folder).len(), 2);

    // What a crash left half written goes, too.
    let mark = manifest(&folder.join(first))["scheduled"].as_str().unwrap()[..8].to_owned();
    fs::create_dir(folder.join(format!("profiled-2026-01-01T00-00-00Z.{mark}.partial"))).unwrap();
    let mut whole = vec![first.clone()];
    for _ in 0..2 {
        whole.iter().for_each(|name| age(&folder.join(name), 24));
        daemon.kill9().restart();
        let had = whole.len();
        wait_for("the next backup", || {
            let found: Vec<String> =
                names(&folder).into_iter().filter(|name| name.starts_with("profiled-")).collect();
            let more = found.iter().any(|name| !whole.contains(name) && !name.ends_with(".partial"));
            (more && found.len() == 2).then(|| whole = found)
        });
        assert_eq!((whole.len(), whole.contains(first)), (2, had == 1), "{whole:?}");
    }
}

#[test]
fn a_backup_that_fails_is_told_and_tried_again() {
    let (mut daemon, folder) = scheduled(7);
    fs::remove_dir(&folder).unwrap();
    daemon.restart();
    let failed = |daemon: &Daemon| daemon.metrics().value("profiled_last_backup_failed");
    wait_for("the backup to fail", || (failed(&daemon) == 1.0).then_some(()));
    let status = daemon.get("/api/v1/status").json();
    let why = status["backup"]["failure"].as_str().unwrap();
    assert!(why.contains(folder.to_str().unwrap()) && why.contains("No such file"), "{why}");
    let ready = daemon.get("/readyz");
    assert!(
        ready.status == 200 && ready.text().contains("the last scheduled backup failed"),
        "{}",
        ready.text()
    );
    let (code, out, _) = daemon.run(&["status"]);
    assert!(
        code == Some(0) && out.contains("none yet, one every 24 hours; the last attempt failed"),
        "{out}"
    );
    assert_eq!(last_backup(&daemon), 0.0);

    fs::create_dir(&folder).unwrap();
    wait_for_backup(&daemon);
    wait_for("the failure to be over", || (failed(&daemon) == 0.0).then_some(()));
    assert_eq!(names(&folder).len(), 1);

    // The folder may be a disk that is away for a while. When it is there again, so is the backup.
    let away = folder.with_file_name("away");
    fs::rename(&folder, &away).unwrap();
    daemon.kill9().restart();
    wait_for("the folder to be missed", || (failed(&daemon) == 1.0).then_some(()));
    fs::rename(&away, &folder).unwrap();
    wait_for("the folder to be found", || (failed(&daemon) == 0.0).then_some(()));
    assert!(last_backup(&daemon) > 0.0);
    assert_eq!(names(&folder).len(), 1, "the next one is not due");
}

#[test]
fn the_settings_of_backups_change_at_a_sighup() {
    let (daemon, folder) = scheduled(7);
    let mut daemon = daemon;
    let settings = format!("backup_folder = {folder:?}\nbackup_every_hours = 1\n");
    daemon.configure("");
    daemon.restart();
    assert_eq!(daemon.get("/api/v1/status").json()["backup"], Value::Null);
    assert_eq!(daemon.metrics().value("profiled_backup_interval_seconds"), 0.0);
    daemon.configure(&settings);
    daemon.hang_up();
    wait_for_backup(&daemon);
    assert_eq!(daemon.metrics().value("profiled_backup_interval_seconds"), 3600.0);
}

#[test]
fn a_backup_is_verified_without_restoring_it() {
    let daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=1");
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,2\nnobody,3\n");
    daemon.wait_complete(&batch);
    let backup = daemon.data().with_file_name("backup");
    let path = backup.to_str().unwrap();
    assert_eq!(daemon.run(&["backup", path]).0, Some(0));
    let verify = |arguments: &[&str]| daemon.run(&[&["backup", "verify", path], arguments].concat());

    let (code, out, complaints) = verify(&["--json"]);
    assert_eq!(code, Some(0), "{complaints}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["restorable"], &report["faults"]), (&true.into(), &serde_json::json!([])));
    assert_eq!((&report["profiles"], &report["batches"], &report["rows"]), (&1.into(), &1.into(), &2.into()));
    assert!(report["ageSeconds"].as_u64().is_some_and(|age| age < 3600), "{out}");
    let (code, out, _) = verify(&[]);
    assert!(code == Some(0) && out.contains("it can be restored") && out.contains("made 20"), "{out}");
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(verify(&["--scratch", scratch.path().to_str().unwrap()]).0, Some(0));
    assert!(names(scratch.path()).is_empty(), "nothing stays of the temporary store");

    let snapshot = fs::read_dir(backup.join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&snapshot).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&snapshot, damaged).unwrap();
    let (code, out, complaints) = verify(&[]);
    assert!(code == Some(1) && out.contains("is damaged") && out.contains("cannot be restored"), "{out}");
    assert!(complaints.contains("a restore would fail"), "{complaints}");
    fs::write(&snapshot, whole).unwrap();

    // Each file is as the manifest lists it, but a start makes another store of them.
    let text = fs::read_to_string(backup.join("backup.json")).unwrap();
    let digest = manifest(&backup)["digest"].as_str().unwrap().to_owned();
    let other = if digest.starts_with('0') { "1" } else { "0" }.to_owned() + &digest[1..];
    fs::write(backup.join("backup.json"), text.replace(&digest, &other)).unwrap();
    let (code, out, complaints) = verify(&["--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["restorable"]), (Some(1), &false.into()), "{out}");
    assert!(complaints.contains("a restore would fail"), "{complaints}");

    fs::remove_file(backup.join("backup.json")).unwrap();
    let (code, _, complaints) = verify(&[]);
    assert!(
        code == Some(1) && complaints.contains("is no backup, or one that was not finished"),
        "{complaints}"
    );
}
