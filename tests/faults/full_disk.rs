//! A full disk: the data folder is on an ext4 of 64 MB. A load fills it, and the test then fills it to the last byte.
//!
//! - Below its reserve the daemon refuses writes with 507 and `Retry-After`; reads go on, and nothing acknowledged is lost.
//! - If the disk is full to the last byte, the daemon stays up, with the space that the reserve has kept.
//! - With space again, the same process accepts writes again, and every accepted batch completes.
//! - If the space disappears within a moment, under load, the daemon may end instead, and says why. Killed and started on the
//!   full disk, it serves reads, or refuses to start and says why. With space again, it has all that it acknowledged.
//!
//! It needs root to mount disks. Without root it says that it is skipped.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::disk::{Mount, may_mount, run};
use crate::support::load::{Load, SETTINGS, attempt};
use crate::support::{Daemon, request, skip, wait_for};
use tempfile::TempDir;

const DISK_BYTES: u64 = 64 << 20;
/// Few rows, so that it takes many batches to pass the reserve.
const FILLING_ROWS: usize = 20_000;
/// More bytes than a file of that many rows has.
const FILLING_BYTES: usize = 4 << 20;

/// A small disk with the data folder on it. Fields go in this order: unmounted first, removed then.
struct SmallDisk {
    mount: Mount,
    _folder: TempDir,
}

impl SmallDisk {
    fn new() -> Result<Self, String> {
        may_mount()?;
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        let mount = Mount::new(&image, folder.path().join("disk"), "loop")?;
        Ok(Self { mount, _folder: folder })
    }

    fn data(&self) -> PathBuf {
        self.mount.0.join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.mount.0.join("ballast")
    }

    /// Takes this many bytes of its space.
    fn take(&self, bytes: usize) {
        let mut file = File::create(self.ballast()).unwrap();
        file.write_all(&vec![b'x'; bytes]).and_then(|()| file.sync_all()).unwrap();
    }

    /// Fills it to the last byte.
    fn stuff(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        // Bytes that are allocated late only count once they are synced.
        for bytes in [1 << 20, 1 << 16, 1 << 12, 1] {
            let piece = vec![b'x'; bytes];
            while let Ok(()) = file.write_all(&piece).and_then(|()| file.sync_data()) {}
        }
        assert_eq!(file.write_all(b"x").unwrap_err().kind(), ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        // ext4 gives blocks back with its next commit.
        rustix::fs::sync();
    }
}

/// A daemon on such a disk; `None`, with a message, if that is not possible here.
fn daemon() -> Option<(Daemon, SmallDisk)> {
    match SmallDisk::new() {
        Ok(disk) => {
            let mut daemon = Daemon::configured(SETTINGS);
            daemon.set_data(disk.data()).keep_complaints().restart();
            Some((daemon, disk))
        }
        Err(missing) => {
            skip(&missing);
            None
        }
    }
}

fn call(visitor: &str) -> Vec<u8> {
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Connection", "close")];
    let form = format!("mbox=m&mboxPC=pc-{visitor}&mbox3rdPartyId={visitor}&profile.x={visitor}");
    request("POST", "/m2/demo/mbox/json", "a", &headers, Some(form.as_bytes()))
}

fn status(daemon: &Daemon, visitor: &str) -> Option<u16> {
    attempt(daemon.address(), &call(visitor)).map(|(status, _)| status)
}

/// Posts batches until one is refused: the ids of those that were accepted.
fn fill(daemon: &Daemon) -> Vec<String> {
    let mut accepted = vec![];
    loop {
        let mut file = String::from("batch=thirdPartyId,n,text\n");
        for row in 0..FILLING_ROWS {
            file += &format!("f{},{},{}\n", row % 500, accepted.len(), "x".repeat(60));
        }
        let reply = daemon.try_batch("/m2/demo/v2/profile/batchUpdate", file);
        if reply.status != 200 {
            assert_eq!(reply.status, 507, "{}", reply.text());
            assert!(reply.header("retry-after").is_some());
            assert!(reply.text().contains("disk_reserve_bytes"), "{}", reply.text());
            return accepted;
        }
        accepted.push(reply.batch_id());
        assert!(accepted.len() < 1_000, "the disk never becomes full");
    }
}

#[test]
fn below_the_reserve_writes_are_refused_reads_go_on_and_room_mends_it() {
    let Some((mut daemon, disk)) = daemon() else { return };
    let load = Load::that_may_be_refused();
    load.run_for(Duration::from_millis(500), daemon.address(), || ());
    load.verify(&daemon).unwrap();
    let accepted = fill(&daemon);
    assert!(accepted.len() > 3, "{} batches fill it", accepted.len());
    // The refused batch was removed again, which may leave space for a small call.
    disk.take(FILLING_BYTES);
    assert_eq!(status(&daemon, "refused"), Some(507));
    let update = daemon.post_form("/m2/demo/profile/update", "mbox3rdPartyId=f1&profile.n=refused");
    assert_eq!(update.status, 507);
    load.verify(&daemon).unwrap();

    disk.stuff();
    // Long enough for a checkpoint to become due, and for all ongoing work to meet the full disk.
    load.run_for(Duration::from_secs(12), daemon.address(), || ());
    assert!(!daemon.has_ended(), "it stays up: {}", daemon.complaints());
    let n = (accepted.len() - 1).to_string();
    assert_eq!(daemon.value("demo", "third-party", "f1", "n"), Some(n.clone()), "reads go on");
    assert_eq!(status(&daemon, "refused"), Some(507));
    load.verify(&daemon).unwrap();
    assert_eq!(daemon.get("/readyz").status, 200);

    disk.free();
    wait_for("writes to be taken again", || (status(&daemon, "after") == Some(200)).then_some(()));
    accepted.iter().for_each(|id| assert_eq!(daemon.wait_complete(id).successful, FILLING_ROWS as u64));
    load.run_for(Duration::from_millis(500), daemon.address(), || ());
    load.account_for_batches(&daemon).unwrap();
    daemon.kill9().restart();
    load.verify(&daemon).unwrap();
    assert_eq!(daemon.value("demo", "third-party", "f1", "n"), Some(n));
    assert_eq!(daemon.value("demo", "third-party", "refused", "x"), None);
    eprintln!(
        "{} batches of {FILLING_ROWS} rows filled the disk; {} site calls and {} batches acknowledged beside it, nothing lost",
        accepted.len(),
        load.calls(),
        load.batches()
    );
}

/// Whether a daemon on a full disk shows everything. It may also find that it cannot go on, while it is asked; then it ends.
fn goes_on(load: &Load, daemon: &mut Daemon) -> bool {
    let verified = catch_unwind(AssertUnwindSafe(|| load.verify(daemon)));
    if let Ok(verified) = &verified {
        verified.as_ref().unwrap();
    }
    if verified.is_ok() && !daemon.has_ended() {
        return true;
    }
    assert_eq!(daemon.ended().code(), Some(1));
    false
}

#[test]
fn a_disk_that_is_full_at_once_loses_nothing() {
    let Some((mut daemon, disk)) = daemon() else { return };
    let load = Load::that_may_be_refused();
    let (mut ended, mut refused_to_start) = (0, 0);
    for _ in 0..6 {
        load.run_for(Duration::from_millis(400), daemon.address(), || disk.stuff());
        if daemon.has_ended() {
            assert_eq!(daemon.ended().code(), Some(1));
            let says = daemon.complaints();
            assert!(says.contains("No space left") || says.contains("StorageFull"), "{says}");
            ended += 1;
        } else if goes_on(&load, &mut daemon) {
            daemon.kill9();
        }
        // On the full disk it may start or refuse to start, but it must do no harm.
        match daemon.try_restart() {
            Ok(()) => {
                goes_on(&load, &mut daemon);
            }
            Err(_) => {
                refused_to_start += 1;
                let says = daemon.complaints();
                assert!(says.contains("disk_reserve_bytes") || says.contains("No space left"), "{says}");
            }
        }
        disk.free();
        if daemon.is_stopped() {
            daemon.restart();
        }
        wait_for("writes to be taken again", || (status(&daemon, "after") == Some(200)).then_some(()));
        load.verify(&daemon).unwrap();
    }
    load.account_for_batches(&daemon).unwrap();
    let asides = std::fs::read_dir(disk.data().join("store")).unwrap();
    let asides = asides.filter(|it| it.as_ref().unwrap().path().extension().is_some_and(|it| it == "aside"));
    eprintln!(
        "full at once 6 times under load: the daemon went on {} times and ended {ended} times; killed and started on the full \
         disk it served {} times and refused to start {refused_to_start} times; {} stores set aside; {} site calls and {} \
         batches acknowledged, nothing lost",
        6 - ended,
        6 - refused_to_start,
        asides.count(),
        load.calls(),
        load.batches()
    );
}
