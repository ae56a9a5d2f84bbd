//! A damaged upload holds its own batch and nothing else. Visitors whom it may name wait until the file is sent again or given
//! up; all others go on. One such file once ended the daemon for every client.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, Daemon, wait_for};

/// At this rate no row is applied before the test is over, except for the first burst.
const SLOW: &str = "[ingest]\nmax_rows_per_second = 1\n[clients.a]\n[clients.b]\n";
const FAST: &str = "[clients.a]\n[clients.b]\n";
const ROWS: u64 = 1000;

fn batch(value: &str) -> String {
    let mut file = String::from("batch=pcId,n\n");
    for row in 0..ROWS {
        writeln!(file, "p{row},{value}").unwrap();
    }
    file
}

fn upload(daemon: &Daemon, text: &str) -> PathBuf {
    let files = daemon.spooled().into_iter();
    let mut csv = files.filter(|file| file.extension().is_some_and(|extension| extension == "csv"));
    csv.find(|file| std::fs::read_to_string(file).is_ok_and(|found| found == text)).unwrap()
}

fn lookup(daemon: &Daemon, client: &str, id: &str) -> support::Reply {
    daemon.get(&format!("/api/v1/profiles/{id}?by=pc&client={client}"))
}

fn site_call(daemon: &Daemon, client: &str, id: &str) -> support::Reply {
    daemon.post_form(&format!("/m2/{client}/mbox/json"), &format!("mboxPC={id}&profile.s=1"))
}

fn status(daemon: &Daemon, batch: &str) -> String {
    daemon.get(&format!("/m2/a/profile/batchStatus?batchId={batch}")).element("status").unwrap()
}

/// A daemon with a damaged first batch of client `a`, a second batch of `a` behind it, and a batch of client `b`.
struct Held {
    daemon: Daemon,
    damaged: String,
    behind: String,
    others: String,
}

impl Held {
    /// `harm` damages the upload while the daemon is down. `in_doubt` says that the index is lost, too.
    fn new(in_doubt: bool, harm: impl Fn(&PathBuf)) -> Self {
        let mut daemon = Daemon::start_configured(SLOW);
        for client in ["a", "b"] {
            for id in ["p7", "p999", "q1"] {
                daemon.mbox(client, &format!("mboxPC={id}&profile.n=site"));
            }
        }
        let damaged = daemon.post_batch_v1("a", batch("first"));
        let behind = daemon.post_batch_v1("a", "batch=pcId,m\nq1,second\np999,second\n");
        let others = daemon.post_batch_v1("b", batch("others"));
        assert_eq!(daemon.metrics().value("profiled_batches_stuck"), 0.0);
        daemon.kill9();
        let file = upload(&daemon, &batch("first"));
        harm(&file);
        if in_doubt {
            std::fs::remove_file(file.with_extension("index")).unwrap();
        }
        daemon.configure(FAST);
        daemon.restart();
        assert_eq!(daemon.wait_complete(&others).consumed, ROWS);
        let held = Self { daemon, damaged, behind, others };
        held.check(in_doubt);
        held
    }

    fn check(&self, in_doubt: bool) {
        let Self { daemon, damaged, behind, .. } = self;
        assert_eq!(daemon.get("/readyz").status, 200);
        assert_eq!(status(daemon, damaged), "stuck");
        assert_eq!(status(daemon, behind), "incomplete");
        let shown = daemon.get(&format!("/api/v1/batches/{damaged}")).json();
        let reason = shown["reason"].as_str().unwrap();
        assert_eq!(shown["status"], "stuck");
        assert!(reason.contains("is not what was accepted") && !reason.contains("spool"), "{reason}");
        let page = daemon.get(&format!("/batches/{damaged}")).text();
        assert!(page.contains("batch abandon") && page.contains("is not what was accepted"), "{page}");
        assert_eq!(daemon.metrics().value("profiled_batches_stuck"), 1.0);
        for id in ["p7", "p999"] {
            for refused in [lookup(daemon, "a", id), site_call(daemon, "a", id)] {
                let reported = refused.text();
                assert_eq!((refused.status, refused.header("retry-after")), (503, Some("60")), "{reported}");
                assert!(reported.contains(damaged) && reported.contains("is stuck"), "{reported}");
            }
            assert_eq!(daemon.value("b", "pc", id, "n").as_deref(), Some("others"));
            assert_eq!(site_call(daemon, "b", id).status, 200);
        }
        let other = if in_doubt { 503 } else { 200 };
        assert_eq!(lookup(daemon, "a", "q1").status, other);
        assert_eq!(site_call(daemon, "a", "q1").status, other);
        if !in_doubt {
            assert_eq!(daemon.value("a", "pc", "q1", "m").as_deref(), Some("second"));
        }
        // A visitor that it can't name, because the batch has the other kind of id.
        assert_eq!(daemon.get("/api/v1/profiles/t1?by=third-party&client=a").status, 404);
        let refused = daemon.get("/api/v1/export?client=a&format=ndjson");
        assert!(refused.status == 503 && refused.text().contains(damaged), "{}", refused.text());
        assert_eq!(daemon.get("/api/v1/export?client=b&format=ndjson").status, 200);
    }

    fn call(&self, method: &str, path: &str, body: &str) -> support::Reply {
        let path = format!("/api/v1/batches/{}{path}", self.damaged);
        self.daemon.call(method, &path, &[("Content-Type", "text/csv")], Some(body.as_bytes()))
    }

    /// The file is sent again. A wrong file is refused.
    fn resend(mut self) {
        let refused = self.call("POST", "/file", &batch("furst"));
        let reported = refused.text();
        assert_eq!(refused.status, 400, "{reported}");
        let bytes = batch("first").len();
        let says = |what: &str| reported.contains(&format!("{what} has {bytes} bytes with the checksum"));
        assert!(says("it") && says("that one"), "{reported}");
        assert_eq!(status(&self.daemon, &self.damaged), "stuck");
        let taken = self.call("POST", "/file", &batch("first"));
        assert_eq!(taken.status, 200, "{}", taken.text());
        let daemon = &mut self.daemon;
        // `p7` and `p999` of the 1,000, whether or not they are applied by now.
        assert_eq!(daemon.value("a", "pc", "p7", "n").as_deref(), Some("first"));
        let details = daemon.wait_complete(&self.damaged);
        assert_eq!((details.successful, details.not_found), (2, ROWS - 2));
        daemon.wait_complete(&self.behind);
        let check = |daemon: &Daemon| {
            for (id, name, value) in
                [("p7", "n", "first"), ("p999", "n", "first"), ("p999", "m", "second"), ("q1", "m", "second")]
            {
                assert_eq!(daemon.value("a", "pc", id, name).as_deref(), Some(value), "{id}");
            }
            assert_eq!(daemon.metrics().value("profiled_batches_stuck"), 0.0);
        };
        check(daemon);
        daemon.kill9().restart();
        check(daemon);
        let refused = daemon.call("DELETE", &format!("/api/v1/batches/{}", self.damaged), &[], None);
        assert_eq!(refused.status, 409, "{}", refused.text());
        let audit = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
        assert!(audit.contains("resend batch") && audit.contains(&self.damaged), "{audit}");
    }

    fn give_up(mut self) {
        let (code, out, reported) =
            self.daemon.run(&["batch", "abandon", &self.damaged, "--url", &self.daemon.url()]);
        assert_eq!(code, Some(0), "{reported}");
        assert!(out.contains("complete") && out.contains("1,000 failed"), "{out}");
        let daemon = &mut self.daemon;
        daemon.wait_complete(&self.behind);
        let check = |daemon: &Daemon| {
            let details = daemon.wait_complete(&self.damaged);
            assert_eq!((details.size, details.failed), (ROWS, ROWS));
            let outcomes = daemon.get(&format!("/api/v1/batches/{}/outcomes", self.damaged)).text();
            assert_eq!(outcomes.matches("upload_damaged").count() as u64, ROWS);
            for (id, name, value) in [("p999", "m", "second"), ("q1", "m", "second")] {
                assert_eq!(daemon.value("a", "pc", id, name).as_deref(), Some(value), "{id}");
            }
            assert_eq!(lookup(daemon, "a", "p7").status, 200);
            assert_eq!(daemon.metrics().value("profiled_batches_stuck"), 0.0);
        };
        check(daemon);
        assert!(std::fs::read_dir(daemon.data().join("damaged")).unwrap().count() > 0, "it is kept");
        daemon.kill9().restart();
        check(daemon);
        let audit = std::fs::read_to_string(daemon.data().join("audit.log")).unwrap();
        assert!(audit.contains("give up batch") && audit.contains(&self.damaged), "{audit}");
    }
}

impl Held {
    /// The same, from a backup.
    fn restored(mut self, folder: &Path) -> Self {
        let (backup, data) = (folder.join("backup"), folder.join("data"));
        let [backup, data] = [&backup, &data].map(|path| path.to_str().unwrap());
        let (code, out, reported) = self.daemon.run(&["backup", backup, "--json"]);
        assert_eq!(code, Some(0), "{reported}");
        assert!(out.contains("\"damagedUploads\":1") || out.contains("\"damagedUploads\": 1"), "{out}");
        assert!(reported.contains("1 damaged uploads were copied"), "{reported}");
        for folder in [backup, self.daemon.data().to_str().unwrap()] {
            // A check can't read a folder that the daemon has open.
            if folder != backup {
                self.daemon.kill9();
            }
            let (code, out, reported) = self.daemon.run(&["check", "--data", folder]);
            assert_eq!(code, Some(1), "{reported}");
            let fault = out.lines().find(|line| line.starts_with("fault") && line.contains(&self.damaged));
            assert!(fault.is_some_and(|line| line.contains("batch resend")), "{out}{reported}");
        }
        let (code, _, reported) = self.daemon.run(&["restore", backup, "--data", data]);
        assert_eq!(code, Some(0), "{reported}");
        assert!(reported.contains(&self.damaged) && reported.contains("is stuck"), "{reported}");
        self.daemon.set_data(data.into()).restart();
        self.daemon.wait_complete(&self.others);
        self
    }
}

/// Once, no backup could be made while any upload was damaged, even for weeks.
#[test]
fn a_backup_holds_what_is_held_and_what_is_restored_goes_on_from_there() {
    for in_doubt in [false, true] {
        for gone in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let held =
                Held::new(in_doubt, |file| if gone { fs::remove_file(file).unwrap() } else { flip(file) });
            let held = held.restored(folder.path());
            held.check(in_doubt);
            if gone { held.resend() } else { held.give_up() }
        }
    }
}

/// The note of an upload's erased rows is lost, so nobody knows the checksum that the file should have. Once, a start ignored
/// that, or failed.
#[test]
fn one_whose_erased_rows_are_no_longer_noted_is_held() {
    for kind in ["overwritten", "overwriting"] {
        let mut daemon = Daemon::start_configured(SLOW);
        daemon.mbox("a", "mboxPC=p7");
        let file = batch("first");
        let damaged = daemon.post_batch_v1("a", &file);
        let others = daemon.post_batch_v1("b", batch("others"));
        let upload = upload(&daemon, &file);
        daemon.kill9();
        fs::write(upload.with_extension(kind), "noise").unwrap();
        daemon.configure(FAST);
        daemon.restart();
        daemon.wait_complete(&others);
        assert_eq!(status(&daemon, &damaged), "stuck", "{kind}");
        assert_eq!((lookup(&daemon, "a", "p7").status, daemon.get("/readyz").status), (503, 200), "{kind}");
        let given_up = daemon.call("DELETE", &format!("/api/v1/batches/{damaged}"), &[], None);
        assert_eq!(given_up.status, 200, "{kind}: {}", given_up.text());
        assert_eq!(daemon.wait_complete(&damaged).failed, ROWS, "{kind}");
        assert_eq!(lookup(&daemon, "a", "p7").status, 200, "{kind}");
    }
}

/// Once, a restore waited for the held batch for ever, or failed.
#[test]
fn a_restore_tells_how_many_it_could_not_erase_again_for_a_batch_that_is_held() {
    let mut daemon = Daemon::start_configured(SLOW);
    for id in ["p7", "p999", "q1"] {
        daemon.mbox("a", &format!("mboxPC={id}"));
    }
    let file = batch("first");
    let damaged = daemon.post_batch_v1("a", &file);
    let upload = upload(&daemon, &file);
    let folder = tempfile::tempdir().unwrap();
    let [backup, data] = ["backup", "data"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    daemon.kill9();
    let whole = fs::read(&upload).unwrap();
    flip(&upload);
    daemon.restart();
    let (code, _, reported) = daemon.run(&["backup", &backup]);
    assert_eq!(code, Some(0), "{reported}");
    daemon.kill9();
    fs::write(&upload, whole).unwrap();
    daemon.configure(FAST);
    daemon.restart();
    daemon.wait_complete(&damaged);
    for id in ["p7", "q1"] {
        let path = format!("/api/v1/profiles/{id}?by=pc&client=a");
        assert_eq!(daemon.call("DELETE", &path, &[], None).status, 200, "{id}");
    }
    daemon.kill9();
    let list = daemon.data();
    let (code, out, reported) =
        daemon.run(&["restore", &backup, "--data", &data, "--after", list.to_str().unwrap(), "--json"]);
    assert_eq!(code, Some(0), "{reported}");
    let restored: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&restored["erasedAgain"], &restored["notErased"]), (&1.into(), &1.into()), "{out}{reported}");
    assert!(reported.contains("1 ids that were erased after the backup"), "{reported}");
}

/// Such a batch once kept the daemon from starting, for every client.
#[test]
fn a_batch_whose_upload_and_outcomes_are_both_lost_is_held_alone() {
    for give_up in [false, true] {
        let mut daemon = Daemon::start_configured(FAST);
        for client in ["a", "b"] {
            for id in ["plain", "behind"] {
                daemon.mbox(client, &format!("mboxPC={id}"));
            }
        }
        let file = "batch=pcId,n\nplain,1\nbehind,1\nnobody,1\n";
        let damaged = daemon.post_batch_v1("a", file);
        let others = daemon.post_batch_v1("b", "batch=pcId,n\nplain,2\nbehind,2\n");
        daemon.wait_complete(&damaged);
        daemon.wait_complete(&others);
        // A later write hides the outcome of the batch's row: nothing of it is left in the profile.
        daemon.mbox("a", "mboxPC=behind&profile.n=later");
        let upload = upload(&daemon, file);
        daemon.kill9();
        fs::remove_dir_all(daemon.data().join("store")).unwrap();
        flip(&upload);
        fs::write(upload.with_extension("outcomes"), "noise").unwrap();

        let data = daemon.data();
        let (code, out, reported) = daemon.run(&["check", "--data", data.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{reported}");
        let fault = out.lines().find(|line| line.starts_with("fault") && line.contains(&damaged));
        assert!(fault.is_some_and(|line| line.contains("--salvage")), "{out}{reported}");

        daemon.keep_complaints().restart();
        daemon.wait_complete(&others);
        for _ in 0..2 {
            assert_eq!(status(&daemon, &damaged), "stuck");
            let reason = daemon.get(&format!("/api/v1/batches/{damaged}")).json()["reason"].clone();
            assert!(reason.as_str().unwrap().contains("what became of its rows"), "{reason}");
            assert_eq!(lookup(&daemon, "a", "plain").status, 503);
            assert_eq!(daemon.value("b", "pc", "plain", "n").as_deref(), Some("2"));
            assert!(daemon.get("/readyz").text().contains("1 batches are stuck"));
            daemon.wait_for_complaint("a batch is held");
            daemon.terminate();
            assert!(daemon.ended().success());
            daemon.restart();
        }
        let path = format!("/api/v1/batches/{damaged}");
        let outcomes = |daemon: &Daemon| daemon.get(&format!("{path}/outcomes")).text();
        if give_up {
            assert_eq!(daemon.call("DELETE", &path, &[], None).status, 200);
            assert_eq!(daemon.wait_complete(&damaged).failed, 3);
            assert_eq!(outcomes(&daemon).matches("upload_damaged").count(), 3);
        } else {
            let csv = [("Content-Type", "text/csv")];
            let sent = daemon.call("POST", &format!("{path}/file"), &csv, Some(file.as_bytes()));
            assert_eq!(sent.status, 200, "{}", sent.text());
            let details = daemon.wait_complete(&damaged);
            let reported = outcomes(&daemon);
            assert_eq!((details.successful, details.not_found, details.failed), (1, 1, 1), "{reported}");
            let lost = reported.lines().find(|line| line.starts_with("3,behind"));
            assert!(lost.is_some_and(|line| line.contains("outcome_lost")), "{reported}");
            assert_eq!(daemon.value("a", "pc", "plain", "n").as_deref(), Some("1"));
        }
        assert_eq!(daemon.value("a", "pc", "behind", "n").as_deref(), Some("later"));
        daemon.kill9().restart();
        daemon.wait_complete(&damaged);
        assert_eq!(daemon.value("a", "pc", "behind", "n").as_deref(), Some("later"));
    }
}

/// Changes a byte in the middle.
fn flip(file: &PathBuf) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_upload_holds_whom_it_names_until_it_is_sent_again() {
    Held::new(false, flip).resend();
}

#[test]
fn a_damaged_upload_holds_whom_it_names_until_it_is_given_up() {
    Held::new(false, flip).give_up();
}

#[test]
fn one_that_is_gone_with_its_index_holds_everybody_it_may_name() {
    Held::new(true, |file| std::fs::remove_file(file).unwrap()).resend();
}

#[test]
fn so_does_one_of_which_nothing_can_be_read_and_it_can_be_given_up() {
    Held::new(true, |file| std::fs::write(file, [0xff; 64]).unwrap()).give_up();
}

/// The upload was whole at the start, and is found damaged when its batch's turn comes.
#[test]
fn an_upload_that_is_damaged_while_the_daemon_runs_is_held_when_its_turn_comes() {
    let mut daemon = Daemon::start_configured(SLOW);
    daemon.mbox("a", "mboxPC=p7");
    let first = daemon.post_batch_v1("a", batch("first"));
    let damaged = daemon.post_batch_v1("a", "batch=pcId,n\np7,second\n");
    let others = daemon.post_batch_v1("b", "batch=pcId,n\np7,second\nx,y\n");
    let file = upload(&daemon, "batch=pcId,n\np7,second\n");
    std::fs::write(&file, "batch=pcId,n\np7,SECOND\n").unwrap();
    daemon.configure(FAST);
    daemon.hang_up();
    daemon.wait_complete(&first);
    daemon.wait_complete(&others);
    wait_for("the batch to be held", || (status(&daemon, &damaged) == "stuck").then_some(()));
    assert_eq!(lookup(&daemon, "a", "p7").status, 503);
    assert_eq!(site_call(&daemon, "a", "q1").status, 200);
    // The batch stays held over restarts, also clean ones.
    daemon.terminate();
    daemon.ended();
    daemon.restart();
    assert_eq!((lookup(&daemon, "a", "p7").status, lookup(&daemon, "a", "q1").status), (503, 200));
    let path = format!("/api/v1/batches/{damaged}/file");
    let sent =
        daemon.call("POST", &path, &[("Content-Type", "text/csv")], Some(b"batch=pcId,n\np7,second\n"));
    assert_eq!(sent.status, 200, "{}", sent.text());
    daemon.wait_complete(&damaged);
    assert_eq!(daemon.value("a", "pc", "p7", "n").as_deref(), Some("second"));
}

/// A batch in NDJSON is read, sent again and given up by the rules of its own form, whatever the body is said to be.
#[test]
fn a_damaged_upload_in_ndjson_is_sent_again_or_given_up() {
    for gives_up in [false, true] {
        let mut daemon = Daemon::start_configured(SLOW);
        daemon.mbox("a", "mboxPC=p7&profile.n=site");
        let mut rows = String::new();
        for row in 0..ROWS {
            writeln!(rows, "{{\"pcId\":\"p{row}\",\"n\":\"first\"}}").unwrap();
        }
        let ndjson = [("Content-Type", "application/x-ndjson")];
        let path = "/api/v1/batches?client=a&version=v1";
        let accepted = daemon.call("POST", path, &ndjson, Some(rows.as_bytes()));
        assert_eq!(accepted.status, 201, "{}", accepted.text());
        let id = accepted.json()["batchId"].as_str().unwrap().to_owned();
        daemon.kill9();
        flip(&upload(&daemon, &rows));
        daemon.configure(FAST);
        daemon.restart();
        assert_eq!(status(&daemon, &id), "stuck");
        let path = format!("/api/v1/batches/{id}");
        if gives_up {
            let given_up = daemon.call("DELETE", &path, &[], None);
            assert_eq!(given_up.json()["counts"]["failed"], ROWS, "{}", given_up.text());
        } else {
            let csv = [("Content-Type", "text/csv")];
            let sent = daemon.call("POST", &format!("{path}/file"), &csv, Some(rows.as_bytes()));
            assert_eq!(sent.status, 200, "{}", sent.text());
            assert_eq!(daemon.wait_complete(&id).consumed, ROWS);
        }
        let (outcome, value) = if gives_up { (",failed,", "site") } else { (",not_found,", "first") };
        for restarted in [false, true] {
            if restarted {
                daemon.kill9().restart();
            }
            let outcomes = daemon.get(&format!("{path}/outcomes"));
            let others = u64::from(!gives_up);
            assert_eq!(
                outcomes.text().matches(outcome).count() as u64,
                ROWS - others,
                "{}",
                outcomes.text().lines().take(5).collect::<String>()
            );
            assert_eq!(daemon.value("a", "pc", "p7", "n").as_deref(), Some(value));
        }
    }
}
