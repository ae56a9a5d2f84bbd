//! Power cuts: the data folder is on its own disk, ext4 or xfs. At a random moment under load the test copies that disk, and goes
//! on with the copy alone. After every cut the daemon starts by itself. All writes that were answered 2xx before the cut are
//! there, and no half of a write or row. At the end every accepted batch completes, and its counts add up to its rows. Some cuts
//! come while the daemon starts after another cut.
//!
//! A disk is a file that is mounted through a loop device. The file lies on a larger disk with xfs, which can clone a file at one
//! instant, under load. So a copy has everything that the file system has sent to its disk, and nothing that was only in memory.
//! A file that nobody syncs proves this at every cut: it must be gone. Such a disk loses no write that has reached it, so it
//! cannot show a flush that is missing below the file system.
//!
//! With the feature `failpoints` the same test runs against a daemon that does not sync its journal. There the test must fail;
//! otherwise it would prove nothing.
//!
//! 12 cuts, 52 in the long form; `POWER_CUTS=500 cargo test --release --test faults -- --nocapture power_cut::` makes 500. It needs
//! root to mount disks, and `mkfs.xfs`. Without them it says that it is skipped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::disk::{Mount, may_mount, run};
use crate::support::load::{Load, Moments, SETTINGS, wait_until};
use crate::support::seed::with_each_seed;
use crate::support::{Daemon, long, skip, variable, wait_for};
use tempfile::{TempDir, TempPath};

/// How many cuts there are on both file systems together, unless `POWER_CUTS` says otherwise.
const CUTS: u32 = 12;
const CUTS_OF_THE_LONG_FORM: u32 = 52;
/// After this many cuts the next one begins with an empty disk.
const CUTS_A_DISK: u32 = 25;
/// After this many cuts under load, one more cut comes while the daemon starts.
const CUTS_UNTIL_ONE_AT_START: u32 = 3;

const BENCH_BYTES: u64 = 4 << 30;
/// `mkfs.xfs` makes no file system smaller than 300 MiB.
const DISK_BYTES: u64 = 320 << 20;

#[derive(Debug, Clone, Copy)]
enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Everything is created at once, so that only the daemon writes to the disk later.
    const fn make(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["mkfs.xfs", "-q"],
        }
    }

    /// No timer commits data that the daemon did not sync. (The timer of xfs runs every half minute, for metadata only.)
    const fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=300",
            // A clone has the same file system id.
            Self::Xfs => "loop,nouuid",
        }
    }
}

/// The file system that holds the disks and can clone files. Fields are dropped in this order: first unmounted, then removed.
struct Bench {
    mount: Mount,
    _folder: TempDir,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("bench.image");
        make(FileSystem::Xfs, &image, BENCH_BYTES)?;
        let mount = Mount::new(&image, folder.path().join("bench"), FileSystem::Xfs.options())?;
        Ok(Self { mount, _folder: folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.0.join(name)
    }

    fn empty_disk(&self, kind: FileSystem) -> Disk {
        let image = self.path("0.image");
        make(kind, &image, DISK_BYTES).unwrap();
        self.mounted(kind, 0, TempPath::try_from_path(image).unwrap()).unwrap()
    }

    fn mounted(&self, kind: FileSystem, number: u32, image: TempPath) -> Result<Disk, String> {
        let mount = Mount::new(&image, self.path(&format!("{number}.disk")), kind.options())?;
        Ok(Disk { mount, image })
    }

    /// The content of the disk if the power failed now.
    fn clone_of(&self, disk: &Disk, number: u32) -> TempPath {
        let path = self.path(&format!("{number}.image"));
        rustix::fs::ioctl_ficlone(File::create(&path).unwrap(), File::open(&disk.image).unwrap()).unwrap();
        TempPath::try_from_path(path).unwrap()
    }
}

/// A disk with the data folder on it.
struct Disk {
    mount: Mount,
    image: TempPath,
}

impl Disk {
    fn data(&self) -> PathBuf {
        self.mount.0.join("data")
    }

    /// A file that nobody syncs. Each has a new name, because ext4 syncs a file that replaces another.
    fn unsynced(&self, number: u32) -> PathBuf {
        self.mount.0.join(format!("unsynced-{number}"))
    }
}

fn make(kind: FileSystem, image: &Path, bytes: u64) -> Result<(), String> {
    File::create(image).unwrap().set_len(bytes).unwrap();
    let (program, arguments) = kind.make().split_first().unwrap();
    run(Command::new(program).args(arguments).arg(image))
}

/// The tools that are needed, or which of them is missing.
fn bench() -> Result<Bench, String> {
    may_mount()?;
    run(Command::new("mkfs.ext4").arg("-V"))?;
    Bench::new()
}

/// A daemon whose disk loses its power again and again. Fields are dropped in this order: a disk in use can't be unmounted.
struct Victim<'b> {
    daemon: Daemon,
    disk: Disk,
    bench: &'b Bench,
    kind: FileSystem,
    load: Load,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    under_load: u32,
    at_start: u32,
    unsynced_lost: u32,
    slowest_start: Duration,
}

impl<'b> Victim<'b> {
    fn new(bench: &'b Bench, kind: FileSystem, faults: Option<&str>) -> Self {
        let mut daemon = Daemon::configured(SETTINGS);
        if let Some(faults) = faults {
            daemon.set_variable("FAILPOINTS", faults);
        }
        let disk = bench.empty_disk(kind);
        daemon.set_data(disk.data()).restart();
        Self { daemon, disk, bench, kind, load: Load::new(), tally: Tally::default() }
    }

    fn cuts(&self) -> u32 {
        self.tally.under_load + self.tally.at_start
    }

    /// The power fails after some time under load; every second time not before a batch was acknowledged, however busy the
    /// machine is.
    fn cut_under_load(&mut self, time: Duration) -> Result<(), String> {
        let number = self.cuts() + 1;
        let mut left = None;
        let batches = self.load.batches() + usize::from(self.tally.under_load.is_multiple_of(2));
        self.load.run_for(time, self.daemon.address(), || {
            wait_for("a batch to be acknowledged", || (self.load.batches() >= batches).then_some(()));
            std::fs::write(self.disk.unsynced(number), "not synced").unwrap();
            // Writes that are acknowledged from here on may be lost.
            let mark = self.load.mark();
            left = Some((mark, self.bench.clone_of(&self.disk, number)));
            self.daemon.kill9();
        });
        let (mark, image) = left.unwrap();
        self.load.return_to(&mark);
        self.tally.under_load += 1;
        self.go_on_from(image)
    }

    /// The power fails again while the daemon starts.
    fn cut_at_start(&mut self, time: Duration) -> Result<(), String> {
        let number = self.cuts() + 1;
        std::fs::write(self.disk.unsynced(number), "not synced").unwrap();
        let image = std::thread::scope(|scope| {
            let starting = scope.spawn(|| self.daemon.try_restart());
            wait_until(Instant::now() + time);
            let image = self.bench.clone_of(&self.disk, number);
            starting.join().unwrap().map(|()| image)
        })?;
        self.daemon.kill9();
        self.tally.at_start += 1;
        self.go_on_from(image)
    }

    /// Replaces the disk with what the cut left of it.
    fn go_on_from(&mut self, image: TempPath) -> Result<(), String> {
        let number = self.cuts();
        self.disk = self.bench.mounted(self.kind, number, image)?;
        self.daemon.set_data(self.disk.data());
        let unsynced = std::fs::read(self.disk.unsynced(number)).unwrap_or_default();
        self.tally.unsynced_lost += u32::from(unsynced != b"not synced");
        Ok(())
    }

    fn start_and_verify(&mut self) -> Result<(), String> {
        let began = Instant::now();
        self.daemon.try_restart()?;
        self.tally.slowest_start = self.tally.slowest_start.max(began.elapsed());
        self.load.verify(&self.daemon)
    }

    fn report(&self) {
        let Tally { under_load, at_start, unsynced_lost, slowest_start } = self.tally;
        eprintln!(
            "{}: {under_load} cuts under load and {at_start} at a start, {} site calls and {} batches acknowledged, \
             nothing lost but {unsynced_lost} files that nobody synced; ready again after at most {slowest_start:.0?}",
            self.kind.name(),
            self.load.calls(),
            self.load.batches()
        );
    }
}

/// Cuts the power of one disk this many times, and verifies after each cut.
fn cut_again_and_again(victim: &mut Victim<'_>, cuts: u32, moments: &mut Moments) -> Result<(), String> {
    while victim.cuts() < cuts {
        let time = moments.next(Duration::from_millis(5), Duration::from_millis(300));
        victim.cut_under_load(time)?;
        if victim.tally.under_load.is_multiple_of(CUTS_UNTIL_ONE_AT_START) && victim.cuts() < cuts {
            victim.cut_at_start(moments.next(Duration::ZERO, Duration::from_millis(60)))?;
        }
        victim.start_and_verify()?;
    }
    victim.load.account_for_batches(&victim.daemon)?;
    victim.load.verify(&victim.daemon)
}

/// Half of all cuts, on one file system, on one disk after another.
fn acknowledged_writes_survive(kind: FileSystem) {
    let bench = match bench() {
        Ok(bench) => bench,
        Err(missing) => return skip(&missing),
    };
    with_each_seed(|seed| {
        let mut cuts_left = cuts() / 4;
        let mut moments = Moments::new(seed + kind as u64);
        while cuts_left > 0 {
            let cuts = cuts_left.min(CUTS_A_DISK);
            let mut victim = Victim::new(&bench, kind, None);
            let done = cut_again_and_again(&mut victim, cuts, &mut moments);
            done.unwrap_or_else(|why| panic!("{}, after cut {}: {why}", kind.name(), victim.cuts()));
            victim.report();
            assert!(victim.tally.unsynced_lost * 10 >= cuts * 9, "a cut that loses nothing proves nothing");
            assert!(victim.load.batches() * 3 > cuts as usize, "too little was going on to prove anything");
            cuts_left -= cuts;
        }
    });
}

/// How many cuts to make.
fn cuts() -> u32 {
    variable("POWER_CUTS")
        .map_or_else(|| if long() { CUTS_OF_THE_LONG_FORM } else { CUTS }, |given| given.parse().unwrap())
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_ext4() {
    acknowledged_writes_survive(FileSystem::Ext4);
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_xfs() {
    acknowledged_writes_survive(FileSystem::Xfs);
}

/// The negative control: the journal is written, but its sync does nothing, and the daemon acknowledges anyway.
#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_that_does_not_sync_is_found_out() {
    let bench = match bench() {
        Ok(bench) => bench,
        Err(missing) => return skip(&missing),
    };
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let mut victim = Victim::new(&bench, kind, Some("journal-sync=return"));
        match cut_again_and_again(&mut victim, 5, &mut Moments::new(0)) {
            Ok(()) => panic!("on {}, a daemon that does not sync its journal passed", kind.name()),
            Err(why) => eprintln!("found out on {}, at cut {}: {why}", kind.name(), victim.cuts()),
        }
    }
}
