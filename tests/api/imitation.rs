//! The settings that make the daemon as slow and as strict as Adobe's service, to test integrations.

use std::time::{Duration, Instant};

use crate::support::{Daemon, wait_for};

const HOUR: &str = "[clients.slow]\nbatch_shows_after_seconds = 3600\n[clients.quick]\n";

fn status(daemon: &Daemon, batch: &str) -> (u16, Option<String>) {
    let client = batch.rsplitn(3, '-').last().unwrap();
    let path = format!("/m2/{client}/profile/batchStatus?batchId={batch}&showDetails=true");
    let reply = daemon.get(&path);
    (reply.status, reply.element("status"))
}

#[test]
fn a_batch_shows_only_after_a_while_and_delays_no_other_client() {
    let mut daemon = Daemon::start_configured(HOUR);
    for client in ["slow", "quick"] {
        daemon.mbox(client, "mbox3rdPartyId=x&profile.a=site");
    }
    let value = |daemon: &Daemon, client: &str| daemon.value(client, "third-party", "x", "a").unwrap();
    let slow = daemon.post_batch("slow", "batch=thirdPartyId,a\nx,batch\n");
    let quick = daemon.post_batch("quick", "batch=thirdPartyId,a\nx,batch\n");
    daemon.wait_complete(&quick);
    assert_eq!((value(&daemon, "quick").as_str(), value(&daemon, "slow").as_str()), ("batch", "site"));
    let adobes = daemon.get("/rest/v1/profiles/thirdPartyId/x?client=slow").text();
    assert!(adobes.contains("site") && !adobes.contains("batch"), "{adobes}");
    assert_eq!(status(&daemon, &slow), (200, Some("incomplete".into())));
    daemon.kill9().restart();
    assert_eq!(value(&daemon, "slow"), "site");
    assert_eq!(status(&daemon, &slow), (200, Some("incomplete".into())));
    // The batch is not lost: it shows as soon as the delay is over.
    daemon.configure("[clients.slow]\n[clients.quick]\n");
    daemon.hang_up();
    assert_eq!(daemon.wait_complete(&slow).successful, 1);
    assert_eq!(value(&daemon, "slow"), "batch");
}

#[test]
fn a_delay_that_is_over_shows_the_batch_by_itself() {
    let daemon = Daemon::start_with(&["--batch-shows-after-seconds", "1"]);
    daemon.mbox("demo", "mbox3rdPartyId=x&profile.a=site");
    let begun = Instant::now();
    let batch = daemon.post_batch("demo", "batch=thirdPartyId,a\nx,batch\n");
    daemon.wait_complete(&batch);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(daemon.value("demo", "third-party", "x", "a").as_deref(), Some("batch"));
}

#[test]
fn a_delay_changes_nothing_about_the_order() {
    let daemon = Daemon::start_configured(HOUR);
    daemon.mbox("slow", "mbox3rdPartyId=x&profile.a=site&profile.b=site");
    daemon.mbox("slow", "mbox3rdPartyId=y&profile.a=site");
    let batch = daemon.post_batch("slow", "batch=thirdPartyId,a,b\nx,batch,batch\ny,batch\nz,batch\n");
    // The write comes after the batch, so it finds the visitor as the batch left it.
    daemon.mbox("slow", "mbox3rdPartyId=x&profile.a=later");
    let value = |id: &str, name: &str| daemon.value("slow", "third-party", id, name);
    assert_eq!((value("x", "a").as_deref(), value("x", "b").as_deref()), (Some("later"), Some("batch")));
    assert_eq!(value("y", "a").as_deref(), Some("site"));
    // This visitor was born after the batch, so the batch's row does not apply to it (R5).
    daemon.mbox("slow", "mbox3rdPartyId=z&profile.b=site");
    daemon.configure("[clients.slow]\n");
    daemon.hang_up();
    let details = daemon.wait_complete(&batch);
    assert_eq!((details.successful, details.not_found), (2, 1));
    assert_eq!((value("x", "a").as_deref(), value("y", "a").as_deref()), (Some("later"), Some("batch")));
    assert_eq!(value("z", "a"), None);
}

#[test]
fn a_batch_status_is_shown_only_for_a_limited_time() {
    let daemon = Daemon::start_configured("[clients.brief]\nstatus_kept_seconds = 1\n[clients.long]\n");
    let brief = daemon.post_batch("brief", "batch=thirdPartyId,a\nx,1\n");
    let long = daemon.post_batch("long", "batch=thirdPartyId,a\nx,1\n");
    daemon.wait_complete(&long);
    wait_for("the status to be gone", || (status(&daemon, &brief).0 == 404).then_some(()));
    assert_eq!(status(&daemon, &long), (200, Some("complete".into())));
    // The native calls still know it.
    assert_eq!(daemon.get(&format!("/api/v1/batches/{brief}")).json()["status"], "complete");
}

/// AdobeDocs/target-dev.en, profile-bulk-api.md, "URL-encoding requirements" (2026), unless the text says otherwise.
#[test]
fn raw_characters_are_read_as_adobe_documents() {
    let mut daemon = Daemon::start_configured(
        "[clients.demo]\nbatch_reading = 'adobe'\nv2_creates_profiles = true\n\
         [clients.kind]\nv2_creates_profiles = true\n",
    );
    let send = |daemon: &Daemon, client: &str, file: &str| {
        daemon.try_batch(&format!("/m2/{client}/v2/profile/batchUpdate"), file)
    };
    let refused = |message: &str| {
        format!(
            "<response><success>false</success><batchStatus></batchStatus><message>{message}</message></response>"
        )
    };
    let (percent, cut) =
        ("batch=thirdPartyId,a\nx,1\ny,50% off\n", "batch=thirdPartyId,a\nx,1+1\ny,b & c=d\nz,2\n");
    for (file, message) in [
        (percent, "Unexpected error"),
        // Adobe's page names the message and not the status.
        ("batch=thirdPartyId,a&b\nx,1\n", "Batch is empty"),
        ("batch=thirdPartyId,a\n&x,1\n", "Batch is empty"),
        // The bytes after the ampersand are part of the form, too.
        ("batch=thirdPartyId,a\nx,1\n&y,50%\n", "Unexpected error"),
    ] {
        let reply = send(&daemon, "demo", file);
        assert_eq!((reply.status, reply.text()), (200, refused(message)), "{file:?}");
    }
    assert!(daemon.spooled().is_empty());
    assert_eq!(daemon.get("/api/v1/batches?client=demo").json()["batches"].as_array().unwrap().len(), 0);
    let dry_run = daemon.try_batch("/m2/demo/v2/profile/batchUpdate?dryRun=true", percent);
    assert!(dry_run.status == 400 && dry_run.text().contains("write %25"), "{}", dry_run.text());
    // A wrong header is reported as always.
    assert_eq!(send(&daemon, "demo", "pcId,a\n1,x\n").status, 400);

    let batch = send(&daemon, "demo", cut).batch_id();
    assert_eq!(daemon.wait_complete(&batch).size, 2);
    // The cut-off bytes are not kept, so no later setting brings them back.
    daemon.configure("[clients.demo]\n");
    daemon.kill9().restart();
    let value = |id: &str| daemon.value("demo", "third-party", id, "a");
    assert_eq!((value("x").as_deref(), value("y").as_deref(), value("z")), (Some("1 1"), Some("b"), None));
    let file = daemon.get(&format!("/api/v1/batches/{batch}/file?client=demo")).text();
    assert_eq!(file, "batch=thirdPartyId,a\nx,1+1\ny,b ");

    // The default reading is kinder.
    let daemon = Daemon::start_configured("[clients.kind]\nv2_creates_profiles = true\n");
    assert_eq!(daemon.wait_complete(&send(&daemon, "kind", percent).batch_id()).failed, 1);
    assert_eq!(daemon.wait_complete(&send(&daemon, "kind", cut).batch_id()).size, 3);
    assert_eq!(daemon.value("kind", "third-party", "y", "a").as_deref(), Some("b & c=d"));
}
