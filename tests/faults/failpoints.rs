//! A fault at every failpoint, where the daemon writes, syncs, renames or answers: the process dies there, or the system call
//! fails. Afterwards the daemon starts by itself, every acknowledged write is there, and a store rebuilt from snapshot and journal
//! has the same content. Each failpoint must really be met. One test has a slow disk.
//!
//! Needs the feature `failpoints`: `cargo test --release --features failpoints --test faults failpoints::`. `FAILPOINTS_ONLY`
//! is the beginning of the names to try. `FAILPOINTS_LONG` tries both faults at each, in a young folder and in an old one.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::load::{self, Load, SETTINGS, wait_until};
use crate::support::{Daemon, request, variable, wait_for};

/// Every failpoint, in the order in which a write passes them.
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
/// The steps of replacing a file.
const STEPS: [&str; 5] = ["write", "sync", "rename", "folder", "done"];
/// Failpoints that the load does not meet. Other tests do.
const ELSEWHERE: [&str; 17] = [
    // tests/faults/kill.rs and tests/faults/power_cut.rs: the negative controls, which do not journal or do not sync.
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
    "ids-thread",
    "lookup",
    "answering",
    // The replacing of files, which is cut off at each of its steps.
    "format",
    "erasures",
    "tokens",
    "token-uses",
    "catalogue",
    "give-up",
];
const V2: &str = "/m2/demo/v2/profile/batchUpdate";
/// How long the load runs: before its daemon is killed, and, on the daemon with the fault, before and after the fault.
const LOAD: Duration = Duration::from_millis(60);
/// How long the load may run at the first try until the fault is met, and how much longer at each further one. Some faults are met
/// only when the daemon stops.
const MEET: Duration = Duration::from_secs(3);
/// How often a failpoint is passed before the fault. A fault at the first pass would only meet a young folder.
const PASSES: [u32; 2] = [0, 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Abort,
    Error,
}

/// The result of one fault.
#[derive(Debug, Default)]
struct Seen {
    met: u32,
    ended: u32,
}

/// Runs a daemon into a fault, for which its load runs that long, and checks what is left.
fn run_into(place: &str, fault: Fault, passes: u32, meet: Duration) -> Result<(bool, bool), String> {
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
            let until = Instant::now() + meet;
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

/// The result of `profiled check`.
fn digest(daemon: &Daemon) -> Result<String, String> {
    let data = daemon.data();
    let settings = data.with_file_name("profiled.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_profiled"))
        .args(["check", "--json", "--log", "error", "--data", data.to_str().unwrap()])
        .args(["--config", settings.to_str().unwrap()])
        .output()
        .unwrap();
    if !output.status.success() {
        let (said, reported) =
            (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        return Err(format!("check: {said}{reported}"));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Ok(report["digest"].to_string())
}

/// The daemon's own time between two pieces of a body does not count as the client's slowness. If the disk needs seconds for
/// a piece, the client may still pause after it.
#[test]
fn a_slow_disk_is_not_held_against_the_client() {
    let mut daemon =
        Daemon::configured("body_idle_timeout_seconds = 20\nbody_bytes_per_second_min = \"100MiB\"\n");
    daemon.set_variable("FAILPOINTS", "spool-write=sleep(1500)").restart();
    // The last pieces wait for the disk while the daemon waits for the client: eight of the client's twenty seconds.
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
    assert!(began.elapsed() > Duration::from_secs(20), "the disk was not slow: {:?}", began.elapsed());
    wait_until(Instant::now() + Duration::from_millis(300));
    client.write(b"\n");
    let reply = client.read();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// A stop may cut off an upload while it writes. What it wrote is removed before the process ends.
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

/// If a batch's entry is durable when the daemon ends, the next daemon applies the batch, although no answer was sent.
#[test]
fn an_upload_stays_from_when_its_batch_may_be_journaled() {
    for place in ["frame-write", "frame-sync", "frame-synced", "apply", "answer"] {
        // A daemon passes some of them during its start.
        let found = (0..4).filter(|&passes| end_at_an_upload(place, passes) > 0).count();
        assert!(found > 0 || place == "frame-write", "no batch was durable at {place}");
    }
}

/// Posts a batch to a daemon that ends at this failpoint. Returns how many batches the next daemon knows; it must apply each.
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
        // Each fault at each failpoint, in a young folder and in an old one; the short form tries one of the two in turn. Some
        // failpoints are passed only once or twice: the fault in a young folder meets them.
        let both = [Fault::Abort, Fault::Error];
        let faults = if long { &both[..] } else { &both[n % 2..=n % 2] };
        for &fault in faults {
            let mut seen = Seen::default();
            let passes = if long || n % 4 < 2 { PASSES } else { [PASSES[1], PASSES[0]] };
            let passes_in_turn = passes.len();
            // On a busy machine a run may end before the failpoint is passed often enough: then a longer one is tried.
            for (tried, passes) in (0_u32..).zip(passes.into_iter().cycle().take(3 * passes.len())) {
                if seen.met > 0 && (!long || tried as usize >= passes_in_turn) {
                    break;
                }
                match run_into(place, fault, passes, MEET * (tried + 1)) {
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

/// The rows are overwritten before their history is removed. If the store is lost between the two, it is rebuilt from uploads
/// that read `erased` in places, or have only half of an overwriting.
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
        let (status, reported) = load::attempt(daemon.address(), &compact).unwrap();
        assert_eq!(status, 200, "{place}: {reported}");
        for file in files_below(&daemon.data()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"forget"), "{place}: {}", file.display());
        }
        daemon.terminate();
        assert!(daemon.ended().success());
        digest(&daemon).unwrap_or_else(|why| panic!("{place}: {why}"));
    }
}

/// Giving up an upload is cut off anywhere. The next attempt gives it up, and the damaged upload is kept unchanged.
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
        // A rebuilt store needs the upload once more.
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
            // Up to here the upload can still be put back, and nothing is lost.
            std::fs::write(&upload, &whole).unwrap();
            daemon.restart();
            assert_eq!(daemon.wait_complete(&batch), counts);
            continue;
        }
        let reported = salvage("");
        assert!(reported.status.success(), "{place}: {}", String::from_utf8_lossy(&reported.stderr));
        daemon.restart();
        let details = daemon.wait_complete(&batch);
        assert_eq!((details.size, details.failed), (2, 2), "{place}");
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// A daemon in which a thread or a call panics at this failpoint.
fn panicking_at(place: &str) -> Daemon {
    let mut daemon = Daemon::start();
    daemon.mbox("demo", "mboxPC=1&mbox3rdPartyId=x&profile.a=before");
    daemon.kill9();
    daemon.set_variable("FAILPOINTS", &format!("{place}=panic"));
    daemon
}

/// The daemon cannot work without this thread. It says so, and ends by itself.
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
        // Some threads die before the daemon says that it listens.
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
    for place in ["upload-thread", "ids-thread", "lookup", "answering"] {
        let mut daemon = panicking_at(&format!("{place}=1*panic->off;unused"));
        daemon.restart();
        let ask = |daemon: &Daemon| match place {
            "upload-thread" => {
                daemon.send(&request("POST", V2, "a", &[], Some(b"batch=thirdPartyId,a\nx,1\n"))).status
            }
            "ids-thread" => {
                let csv = [("Content-Type", "text/csv")];
                let path = "/api/v1/erasures?client=demo";
                daemon.send(&request("POST", path, "a", &csv, Some(b"thirdPartyId\nnobody\n"))).status
            }
            _ => daemon.get("/api/v1/profiles/x?by=third-party&client=demo").status,
        };
        assert_eq!((ask(&daemon), ask(&daemon)), (500, 200), "{place}");
        assert_eq!(daemon.get("/healthz").status, 200, "{place}");
        daemon.terminate();
        assert_eq!(daemon.ended().code(), Some(0), "{place}");
    }
}

/// Every failpoint must be tried: nobody knows what a fault at an untried one would lose.
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
                // In `durable/names.rs` the name comes from the caller, and the step follows. And `endpoint(` is no failpoint.
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

/// If the first start in a folder is cut off anywhere, the next start finishes the folder.
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

/// The tokens that exist stay valid, whatever happens to the next one.
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

/// It is written beside the file of before, so at worst it says what that said.
#[test]
fn when_tokens_were_used_is_whole_wherever_a_stop_that_writes_it_is_cut_off() {
    for (step, place) in STEPS.map(|step| format!("token-uses-{step}")).into_iter().enumerate() {
        let mut daemon = Daemon::configured("");
        let token = daemon.make_token(&["--client", "demo", "--scope", "read"]);
        daemon.keep_complaints();
        daemon.set_variable("FAILPOINTS", &format!("{place}=return(abort)")).restart();
        let bearer = format!("Bearer {token}");
        let ask = |daemon: &Daemon| {
            daemon.call("GET", "/api/v1/batches?client=demo", &[("Authorization", &bearer)], None).status
        };
        assert_eq!(ask(&daemon), 200, "{place}");
        daemon.terminate();
        assert_eq!(daemon.ended().signal(), Some(6), "{place}");
        daemon.set_variable("FAILPOINTS", "");
        let (code, list, said) = daemon.run(&["token", "list", "--json"]);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{place}");
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        // Before it has its name, nothing is known; afterwards all is.
        assert_eq!(list[0]["lastUsedAt"].is_string(), step > 2, "{place}: {list}");
        daemon.restart();
        assert_eq!(ask(&daemon), 200, "{place}");
    }
}
