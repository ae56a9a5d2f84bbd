//! A fault at every place where the daemon writes, syncs, renames or answers: the process dies there, or the system
//! refuses. Afterwards the daemon starts by itself, all that was acknowledged is there, and a store made again
//! from snapshot and journal holds the same. Each place must really have been met. And a disk that is slow.
//!
//! Needs the feature `failpoints`: `cargo test --release --features failpoints --test faults failpoints::`. `FAILPOINTS_ONLY`
//! names the beginning of the places to try, `FAILPOINTS_LONG` has both faults tried at each, young and old.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::load::{self, Load, SETTINGS, wait_until};
use crate::support::{Daemon, request, variable, wait_for};

/// Every place, in the order of a write's way: what is written, made durable, named, applied, answered.
const PLACES: [&str; 57] = [
    "frame-write",
    "frame-sync",
    "frame-synced",
    "segment-reserve",
    "segment-sync",
    "segment-rename",
    "segment-remove",
    "spool-write",
    "spool-sync",
    "spool-folder",
    "index-write",
    "apply",
    "put",
    "answer",
    "outcomes-write",
    "outcomes-sync",
    "outcomes-rename",
    "outcomes-folder",
    "outcomes-done",
    "catalogue-append",
    "catalogue-append-sync",
    "store-flush",
    "store-sync",
    "checkpoint-write",
    "checkpoint-sync",
    "checkpoint-rename",
    "checkpoint-folder",
    "checkpoint-done",
    "snapshot-write",
    "snapshot-sync",
    "snapshot-rename",
    "snapshot-folder-sync",
    "store-adopt-write",
    "store-adopt-sync",
    "store-adopt-rename",
    "store-adopt-folder",
    "store-adopt-done",
    "store-swap",
    "overwriting-write",
    "overwriting-sync",
    "overwriting-rename",
    "overwriting-folder",
    "overwriting-done",
    "overwrite-write",
    "overwrite-sync",
    "overwrite-rename",
    "overwrite-folder",
    "erasing-write",
    "erasing-sync",
    "erasing-rename",
    "erasing-folder",
    "erasing-done",
    "backup-write",
    "backup-sync",
    "backup-rename",
    "backup-folder",
    "backup-done",
];
/// The steps of putting a file in the place of another.
const STEPS: [&str; 5] = ["write", "sync", "rename", "folder", "done"];
/// Places that the load does not lead to; other tests do.
const ELSEWHERE: [&str; 15] = [
    // tests/kill.rs and tests/power_cut.rs: a daemon that does not journal, or does not sync, is found out.
    "journal-write",
    "journal-sync",
    // A thread that dies ends the daemon.
    "apply-thread",
    "apply-2-thread",
    "checkpoint-thread",
    "sweep-thread",
    "housekeeping-thread",
    // A call that panics fails alone.
    "upload-thread",
    "lookup",
    "answering",
    // What puts a file in the place of another, and is cut off at each of its steps.
    "format",
    "erasures",
    "tokens",
    "catalogue",
    "give-up",
];
const V2: &str = "/m2/demo/v2/profile/batchUpdate";
/// How long the load goes on before its daemon is killed; on the one with the fault before a fault is looked for, and after.
const LOAD: Duration = Duration::from_millis(60);
/// How long the load goes on until the fault is met; some are met only as the daemon stops.
const MEET: Duration = Duration::from_secs(3);
/// So often a place is passed unharmed first: a fault at the first pass finds a young folder only.
const PASSES: [u32; 2] = [0, 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Abort,
    Error,
}

/// What one fault did.
#[derive(Debug, Default)]
struct Seen {
    met: u32,
    ended: u32,
}

/// Runs a daemon into a fault, and looks what is left.
fn run_into(place: &str, fault: Fault, passes: u32) -> Result<(bool, bool), String> {
    let mut daemon = Daemon::configured(SETTINGS);
    daemon.keep_complaints().restart();
    let load = Load::that_may_be_refused();
    let address = daemon.address();
    load.run_for(LOAD, address, || {
        daemon.kill9();
    });

    let action = match fault {
        Fault::Abort => "return(abort)",
        Fault::Error => "1*return(error)",
    };
    daemon.set_variable("FAILPOINTS", &format!("{place}={passes}*off->{action}"));
    let mut ended = daemon.try_restart().is_err();
    if !ended {
        let address = daemon.address();
        let (backup, url) = (daemon.data().with_file_name("backup"), daemon.url());
        load.run_for(LOAD, address, || {
            if place.starts_with("backup") {
                let mut profiled = Command::new(env!("CARGO_BIN_EXE_profiled"));
                drop(profiled.args(["backup", backup.to_str().unwrap(), "--url", &url]).output());
                drop(std::fs::remove_dir_all(&backup));
            }
            let until = Instant::now() + MEET;
            while !daemon.has_ended() && !daemon.complaints().contains("failpoint") && Instant::now() < until
            {
                wait_until(Instant::now() + Duration::from_millis(5));
            }
            wait_until(Instant::now() + LOAD);
            daemon.terminate_if_alive();
            let status = daemon.ended();
            ended = !status.success();
            if fault == Fault::Abort && ended {
                assert_eq!(status.signal(), Some(6), "{place}: {status}");
            }
        });
    }
    let met = match fault {
        Fault::Abort => ended,
        Fault::Error => daemon.complaints().contains("failpoint"),
    };
    daemon.set_variable("FAILPOINTS", "");
    daemon.try_restart().map_err(|why| format!("{why}: {}", daemon.complaints()))?;
    load.verify(&daemon)?;
    load.account_for_batches(&daemon)?;
    daemon.terminate();
    assert!(daemon.ended().success());
    let whole = digest(&daemon)?;
    std::fs::remove_dir_all(daemon.data().join("store")).map_err(|why| why.to_string())?;
    let again = digest(&daemon)?;
    if whole != again {
        return Err(format!("the store says {whole}, snapshot and journal say {again}"));
    }
    Ok((met, ended))
}

/// What `profiled check` finds.
fn digest(daemon: &Daemon) -> Result<String, String> {
    let data = daemon.data();
    let settings = data.with_file_name("profiled.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_profiled"))
        .args(["check", "--json", "--log", "error", "--data", data.to_str().unwrap()])
        .args(["--config", settings.to_str().unwrap()])
        .output()
        .unwrap();
    if !output.status.success() {
        let (said, told) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        return Err(format!("check: {said}{told}"));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Ok(report["digest"].to_string())
}

/// What we take for ourselves between two pieces of a body is not counted as the client's slowness: after the disk has
/// taken seconds for what was sent at once, the client may still pause.
#[test]
fn a_slow_disk_is_not_held_against_the_client() {
    let mut daemon =
        Daemon::configured("body_idle_timeout_seconds = 4\nbody_bytes_per_second_min = \"100MiB\"\n");
    daemon.set_variable("FAILPOINTS", "spool-write=sleep(400)").restart();
    // The last few pieces wait for the disk while we wait for the client: two seconds of its four.
    let mut at_once = b"batch=thirdPartyId,a\nx,".to_vec();
    at_once.resize(6 << 20, b'x');
    let length = (at_once.len() + 1).to_string();
    let began = Instant::now();
    let mut client = daemon.connect();
    let headers = [("Content-Length", length.as_str())];
    client.write(&request("POST", "/m2/demo/v2/profile/batchUpdate", "a", &headers, None));
    client.write(&at_once);
    wait_for("all of it to be written", || {
        let written: u64 = daemon.spooled().iter().map(|path| path.metadata().unwrap().len()).sum();
        (written == at_once.len() as u64).then_some(())
    });
    assert!(began.elapsed() > Duration::from_secs(6), "the disk was not slow: {:?}", began.elapsed());
    wait_until(Instant::now() + Duration::from_millis(300));
    client.write(b"\n");
    let reply = client.read();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// An upload that a stop cuts off may be writing just then: what it wrote is removed before the process ends.
#[test]
fn a_stop_waits_for_an_upload_that_is_writing() {
    let mut daemon = Daemon::configured("");
    daemon.set_variable("FAILPOINTS", "spool-write=sleep(3500)").restart();
    let mut client = daemon.connect();
    let headers = [("Content-Length", "100")];
    client.write(&request("POST", "/m2/demo/v2/profile/batchUpdate", "a", &headers, None));
    client.write(b"batch=thirdPartyId,a\nx,1\n");
    wait_for("the upload to have begun", || (!daemon.spooled().is_empty()).then_some(()));
    daemon.terminate();
    assert_eq!(client.read().status, 503);
    drop(client);
    assert!(daemon.ended().success());
    assert!(daemon.spooled().is_empty(), "{:?}", daemon.spooled());
}

/// A batch whose entry is durable when the daemon ends is folded in by the next one, though nobody was told of it.
#[test]
fn an_upload_stays_from_when_its_batch_may_be_journaled() {
    for place in ["frame-write", "frame-sync", "frame-synced", "apply", "answer"] {
        // A daemon that starts passes some of them for itself.
        let found = (0..4).filter(|&passes| end_at_an_upload(place, passes) > 0).count();
        assert!(found > 0 || place == "frame-write", "no batch was durable at {place}");
    }
}

/// Posts a batch to a daemon that ends there, and gives how many batches the next one knows; each must be folded in.
fn end_at_an_upload(place: &str, passes: u32) -> usize {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mbox=m&mboxPC=1");
    daemon.terminate();
    assert!(daemon.ended().success());
    daemon.set_variable("FAILPOINTS", &format!("{place}={passes}*off->return(error)")).restart();
    let post = request(
        "POST",
        "/m2/demo/profile/batchUpdate",
        "a",
        &[("Connection", "close")],
        Some(b"batch=pcId,a\n1,2\n"),
    );
    while load::attempt(daemon.address(), &post).is_some_and(|(status, _)| status == 200) {}
    assert!(!daemon.ended().success(), "{place}");
    daemon.set_variable("FAILPOINTS", "").restart();
    let listed = daemon.call("GET", "/api/v1/batches?client=demo", &[], None).json();
    let batches = listed["batches"].as_array().unwrap();
    for batch in batches {
        assert_eq!(daemon.wait_complete(batch["batchId"].as_str().unwrap()).successful, 1, "{place}");
    }
    batches.len()
}

#[test]
fn a_fault_at_any_place_loses_nothing_that_was_acknowledged() {
    let only = variable("FAILPOINTS_ONLY");
    let long = variable("FAILPOINTS_LONG").is_some();
    let began = Instant::now();
    let mut all = Seen::default();
    for (n, place) in PLACES.into_iter().enumerate() {
        if only.as_ref().is_some_and(|only| !place.starts_with(only)) {
            continue;
        }
        // Each fault at each place, young and old; or in the short form one of the two in turn. Some places are passed
        // once or twice only: what an old folder's fault would not meet, a young one's does.
        let both = [Fault::Abort, Fault::Error];
        let faults = if long { &both[..] } else { &both[n % 2..=n % 2] };
        for &fault in faults {
            let mut seen = Seen::default();
            let passes = if long || n % 4 < 2 { PASSES } else { [PASSES[1], PASSES[0]] };
            for passes in passes {
                if seen.met > 0 && !long {
                    break;
                }
                match run_into(place, fault, passes) {
                    Ok((met, ended)) => {
                        seen.met += u32::from(met);
                        seen.ended += u32::from(ended);
                    }
                    Err(why) => panic!("{fault:?} at {place} after {passes} passes: {why}"),
                }
            }
            assert!(seen.met > 0, "{fault:?} at {place} was never met");
            all.met += seen.met;
            all.ended += seen.ended;
        }
    }
    eprintln!(
        "{} places: {} faults met, {} of them ended the daemon, nothing lost; {:.0?}",
        PLACES.len(),
        all.met,
        all.ended,
        began.elapsed()
    );
}

/// The rows are overwritten before their history goes: a store that is lost right then is made again from uploads that read
/// `erased` in places, or half of it.
#[test]
fn an_erasure_cut_off_anywhere_changes_no_counts_and_is_finished() {
    let overwritten = PLACES.iter().filter(|place| place.starts_with("overwrit")).map(|place| (*place, 0));
    let later =
        [("overwrite-write", 1), ("erasing-write", 0), ("store-adopt-write", 1), ("snapshot-write", 0)];
    for (place, passes) in overwritten.chain(later) {
        let mut daemon = Daemon::configured(SETTINGS);
        daemon.set_variable("FAILPOINTS", &format!("{place}={passes}*off->return(abort)")).restart();
        daemon.mbox("demo", "mbox=m&mboxPC=forgetme&profile.note=forgetme");
        let rows =
            "forgetme,forgetme\nsomebody,else\nforgetme,bad%zz\nforgetme,\n\"forgetme\",\"forget\nme\"\n";
        let batch =
            daemon.try_batch("/m2/demo/profile/batchUpdate", format!("batch=pcId,note\n{rows}")).batch_id();
        let counts = daemon.wait_complete(&batch);
        assert_eq!((counts.successful, counts.not_found, counts.failed, counts.ignored), (2, 1, 1, 1));
        let by = "/api/v1/profiles/forgetme?by=pc&client=demo";
        assert_eq!(daemon.call("DELETE", by, &[], None).status, 200);
        let json = [("Content-Type", "application/json"), ("Connection", "close")];
        let compact = request("POST", "/api/v1/compact", "a", &json, Some(b"{}"));
        assert!(load::attempt(daemon.address(), &compact).is_none(), "{place}: it went past");
        assert_eq!(daemon.ended().signal(), Some(6), "{place}");

        daemon.set_variable("FAILPOINTS", "");
        std::fs::remove_dir_all(daemon.data().join("store")).unwrap();
        daemon.restart();
        assert_eq!(daemon.wait_complete(&batch), counts, "{place}");
        let (status, told) = load::attempt(daemon.address(), &compact).unwrap();
        assert_eq!(status, 200, "{place}: {told}");
        for file in files_below(&daemon.data()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"forget"), "{place}: {}", file.display());
        }
        daemon.terminate();
        assert!(daemon.ended().success());
        digest(&daemon).unwrap_or_else(|why| panic!("{place}: {why}"));
    }
}

/// Whoever gives an upload up is cut off anywhere: the next try gives it up, and the upload is kept as it was.
#[test]
fn giving_an_upload_up_that_is_cut_off_anywhere_is_taken_up_again() {
    let places = ["give-up", "outcomes"].iter().flat_map(|file| STEPS.map(|step| format!("{file}-{step}")));
    for place in places.chain(["frame-write".into(), "frame-sync".into(), "frame-synced".into()]) {
        let mut daemon = Daemon::start();
        daemon.mbox("demo", "mbox=m&mboxPC=1");
        let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n9,2\n");
        let counts = daemon.wait_complete(&batch);
        daemon.terminate();
        assert!(daemon.ended().success());
        // A store made again needs the upload once more.
        std::fs::remove_dir_all(daemon.data().join("store")).unwrap();
        let upload = daemon.spooled().into_iter().find(|path| path.extension().is_some_and(|it| it == "csv"));
        let upload = upload.unwrap();
        let whole = std::fs::read(&upload).unwrap();
        std::fs::write(&upload, "batch=pcId,a\n1,3\n9,2\n").unwrap();
        let salvage = |faults: &str| {
            let mut check = Command::new(env!("CARGO_BIN_EXE_profiled"));
            check.args(["check", "--salvage", "--log", "error", "--data"]).arg(daemon.data());
            check.env("FAILPOINTS", faults).output().unwrap()
        };
        let cut_off = salvage(&format!("{place}=return(abort)"));
        assert_eq!(cut_off.status.signal(), Some(6), "{place}: {}", String::from_utf8_lossy(&cut_off.stderr));
        let kept = daemon.data().join("damaged").join(upload.file_name().unwrap());
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "batch=pcId,a\n1,3\n9,2\n", "{place}");
        if place == "give-up-done" {
            // Up to here it may as well be put back as it was, and nothing is lost.
            std::fs::write(&upload, &whole).unwrap();
            daemon.restart();
            assert_eq!(daemon.wait_complete(&batch), counts);
            continue;
        }
        let told = salvage("");
        assert!(told.status.success(), "{place}: {}", String::from_utf8_lossy(&told.stderr));
        daemon.restart();
        let details = daemon.wait_complete(&batch);
        assert_eq!((details.size, details.failed), (2, 2), "{place}");
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// A daemon in which a thread or a call panics at this place.
fn panicking_at(place: &str) -> Daemon {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=before");
    daemon.kill9();
    daemon.set_variable("FAILPOINTS", &format!("{place}=panic"));
    daemon
}

/// A thread without which the daemon is of no use: it says so, and ends by itself.
#[test]
fn a_thread_that_dies_ends_the_daemon() {
    for place in [
        "apply",
        "apply-thread",
        "apply-2-thread",
        "checkpoint-thread",
        "sweep-thread",
        "housekeeping-thread",
    ] {
        let mut daemon = panicking_at(place);
        daemon.keep_complaints();
        // Some die before the daemon says that it listens.
        if daemon.try_restart().is_ok() {
            if place == "apply-2-thread" {
                let file = "batch=thirdPartyId,a\nx,1\n";
                let mut connection = daemon.connect();
                connection.write(&request("POST", V2, "a", &[], Some(file.as_bytes())));
            }
            let ended = daemon.ended();
            assert_eq!(ended.code(), Some(1), "{place}");
        }
        assert!(daemon.complaints().contains("panicked"), "{place}: {}", daemon.complaints());
        daemon.set_variable("FAILPOINTS", "");
        daemon.restart();
        assert!(daemon.value("demo", "third-party", "x", "a").is_some(), "{place}");
        daemon.terminate();
        assert_eq!(daemon.ended().code(), Some(0), "{place}");
    }
}

#[test]
fn a_call_that_panics_fails_alone() {
    for place in ["upload-thread", "lookup", "answering"] {
        let mut daemon = panicking_at(&format!("{place}=1*panic->off;unused"));
        daemon.restart();
        let ask = |daemon: &Daemon| match place {
            "upload-thread" => {
                daemon.send(&request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n"))).status
            }
            _ => daemon.get("/api/v1/profiles/x?by=third-party&client=demo").status,
        };
        assert_eq!((ask(&daemon), ask(&daemon)), (500, 200), "{place}");
        assert_eq!(daemon.get("/healthz").status, 200, "{place}");
        daemon.terminate();
        assert_eq!(daemon.ended().code(), Some(0), "{place}");
    }
}

/// A place that nothing runs into is one at which nobody knows what is lost.
#[test]
fn every_place_that_the_daemon_has_is_run_into() {
    let begins =
        ["point(\"", "Failpoint(\"", "fail_point!(\"", "durable::replace(", "durable::replace_summed("];
    let mut found = 0;
    for file in files_below(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for begin in begins {
            for (at, _) in text.match_indices(begin) {
                let name = text[at..].split('"').nth(1).unwrap();
                // In `durable/names.rs` itself the name is the caller's, and the step follows. And `endpoint(` is no place.
                if name.contains('{') || text[..at].ends_with(|before: char| before.is_alphabetic()) {
                    continue;
                }
                found += 1;
                let of_a_file = begin.starts_with("durable");
                let met = |place: &str| PLACES.contains(&place) || ELSEWHERE.contains(&place);
                let all_steps = || STEPS.iter().all(|step| met(&format!("{name}-{step}")));
                assert!(
                    met(name) || (of_a_file && all_steps()),
                    "{}: nothing runs into {name}",
                    file.display()
                );
            }
        }
    }
    assert!(found > 40, "{found}");
}

/// A folder whose first start is cut off anywhere is one that the next start makes.
#[test]
fn a_first_start_that_is_cut_off_anywhere_is_taken_up_again() {
    let files = ["format", "erasures", "catalogue"];
    for place in files.iter().flat_map(|file| STEPS.map(|step| format!("{file}-{step}"))) {
        let mut daemon = Daemon::configured("");
        daemon.keep_complaints();
        daemon.set_variable("FAILPOINTS", &format!("{place}=return(abort)"));
        assert!(daemon.try_restart().is_err(), "{place} was not met");
        daemon.set_variable("FAILPOINTS", "").restart();
        daemon.mbox("demo", "mbox=m&mboxPC=1&profile.a=1");
        let batch = daemon.post_batch("demo", "batch=pcId,a\n1,2\n9,2\n");
        assert_eq!(daemon.wait_complete(&batch).successful, 1, "{place}");
        let by = "/api/v1/profiles/1?by=pc&client=demo";
        assert_eq!(daemon.call("DELETE", by, &[], None).status, 200, "{place}");
        daemon.terminate();
        assert!(daemon.ended().success(), "{place}");
    }
}

/// The tokens that there were are good whatever becomes of the next.
#[test]
fn a_token_whose_making_is_cut_off_anywhere_is_there_or_is_not() {
    for place in STEPS.map(|step| format!("tokens-{step}")) {
        let mut daemon = Daemon::start();
        let token = |arguments: &[&str], faults: &str| {
            let mut profiled = Command::new(env!("CARGO_BIN_EXE_profiled"));
            profiled.arg("token").args(arguments).arg("--data").arg(daemon.data());
            profiled.env("FAILPOINTS", faults).output().unwrap()
        };
        let new = ["new", "--client", "demo", "--scope", "admin"];
        let first = String::from_utf8(token(&new, "").stdout).unwrap();
        let cut_off = token(&new, &format!("{place}=return(abort)"));
        assert_eq!(cut_off.status.signal(), Some(6), "{place}");
        let listed = token(&["list", "--json"], "");
        assert!(listed.status.success(), "{place}: {}", String::from_utf8_lossy(&listed.stderr));
        daemon.kill9();
        daemon.restart();
        let bearer = format!("Bearer {}", first.trim());
        let ask = |headers: &[(&str, &str)]| {
            daemon.call("GET", "/api/v1/batches?client=demo", headers, None).status
        };
        assert_eq!((ask(&[("Authorization", &bearer)]), ask(&[])), (200, 401), "{place}");
    }
}
