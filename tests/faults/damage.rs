//! Damage to the data folder: the test changes bytes of its files while the daemon is down, and starts the daemon. Each round
//! must end in one of three ways:
//!
//! - healed: every visitor shows the acknowledged values, or 503 for a while. That holds at once, after more writes, and after
//!   another clean stop and start. Each batch is complete, with its counts. The only exception is a batch that only the
//!   catalogue listed, if the daemon has reported that the catalogue is damaged.
//! - held: an upload that is not applied yet holds its batch. Lookups of the visitors whom it names say so. All other visitors
//!   are right.
//! - refused: the daemon does not start, or does not serve, and reports what is damaged and where.
//!
//! Anything else is wrong. `DAMAGE_ROUNDS=50` runs 50 rounds for each file and each way to stop, `DAMAGE_ONLY=db,conf` runs
//! only these files, and `DAMAGE_BINARY` names another daemon.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::seed::seeds;
use crate::support::{self, Connection, Daemon, request, variable, wait_for};
use serde_json::Value;

const VISITORS: usize = 600;
/// How many of them get one more write.
const WRITTEN: usize = 40;
/// Small segments and many snapshots, so that there are several of each to damage.
const SETTINGS: &str = "journal_segment_bytes = \"64KiB\"\nsnapshot_journal_bytes = \"64KiB\"\n\
     [clients.demo]\nv2_creates_profiles = true\n";
/// How long a daemon may take to rebuild its store.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Rounds that run side by side.
const SIDE_BY_SIDE: usize = 3;

/// Which file is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// No file. The daemon must start normally.
    Nothing,
    /// sled's log, with small settings and with the default ones.
    Db,
    DbOfOneRun,
    /// The same, after sled has read all of its log and reads pages only on demand.
    DbRead,
    Conf,
    Snap,
    /// A segment of the journal that is not the last.
    Journal,
    Snapshot,
    Upload,
    /// The upload of a batch that is not applied yet. The next two also belong to such a batch.
    UploadPending,
    Index,
    Outcomes,
    Tokens,
    Current,
    Checkpoint,
    /// The catalogue of complete batches.
    Catalogue,
}

impl Target {
    const ALL: [Self; 16] = [
        Self::Nothing,
        Self::Db,
        Self::DbOfOneRun,
        Self::DbRead,
        Self::Conf,
        Self::Snap,
        Self::Journal,
        Self::Snapshot,
        Self::Upload,
        Self::UploadPending,
        Self::Index,
        Self::Outcomes,
        Self::Tokens,
        Self::Current,
        Self::Checkpoint,
        Self::Catalogue,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Db => "db",
            Self::DbOfOneRun => "db-once",
            Self::DbRead => "db-read",
            Self::Conf => "conf",
            Self::Snap => "snap",
            Self::Journal => "journal",
            Self::Snapshot => "snapshot",
            Self::Upload => "upload",
            Self::UploadPending => "pending",
            Self::Index => "index",
            Self::Outcomes => "outcomes",
            Self::Tokens => "tokens.json",
            Self::Current => "current",
            Self::Checkpoint => "checkpoint",
            Self::Catalogue => "catalogue",
        }
    }

    /// The file to damage.
    fn file(self, data: &Path, dice: &mut Dice) -> Option<PathBuf> {
        let generation = || {
            let current = fs::read_to_string(data.join("store/current")).unwrap();
            data.join("store").join(current.trim())
        };
        let among = |files: Vec<PathBuf>, dice: &mut Dice| {
            (!files.is_empty()).then(|| files[dice.below(files.len())].clone())
        };
        match self {
            Self::Nothing => None,
            Self::Db | Self::DbOfOneRun | Self::DbRead => Some(generation().join("db")),
            Self::Conf => Some(generation().join("conf")),
            Self::Checkpoint => Some(generation().join("checkpoint")),
            Self::Snap => among(files(&generation(), |name| name.starts_with("snap.")), dice),
            Self::Journal => {
                let mut segments = files(&data.join("journal"), |name| name.ends_with(".log"));
                segments.pop();
                among(segments, dice)
            }
            Self::Snapshot => among(files(&data.join("snapshots"), |name| !name.contains("damaged")), dice),
            Self::Upload => among(files(&data.join("spool"), |name| name.ends_with(".csv")), dice),
            Self::UploadPending => files(&data.join("spool"), |name| name.ends_with(".csv")).pop(),
            Self::Index => among(files(&data.join("spool"), |name| name.contains("index")), dice),
            Self::Outcomes => among(files(&data.join("spool"), |name| name.contains("outcomes")), dice),
            Self::Tokens => Some(data.join("tokens.json")),
            Self::Current => Some(data.join("store/current")),
            Self::Catalogue => Some(data.join("catalogue")),
        }
    }
}

fn files(folder: &Path, which: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.is_file() && which(path.file_name().unwrap().to_str().unwrap())).collect();
    files.sort();
    files
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Kill,
    Clean,
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Byte,
    Block,
    Places,
}

/// A random number generator, SplitMix64. Any other would do.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// Changes bytes of a file, but only bytes that were written: bytes that are only reserved have no content.
fn damage(path: &Path, how: Damage, dice: &mut Dice) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let flip = |bytes: &mut Vec<u8>, dice: &mut Dice| {
        let at = dice.below(used);
        bytes[at] ^= 1 << dice.below(8);
    };
    match how {
        Damage::Byte => flip(&mut bytes, dice),
        Damage::Places => (0..40).for_each(|_| flip(&mut bytes, dice)),
        Damage::Block => {
            // A whole block, as disks lose them.
            let from = dice.below(used) / 4096 * 4096;
            let zeros = dice.below(2) == 0;
            for byte in bytes.iter_mut().take(used).skip(from).take(4096) {
                *byte = if zeros { 0 } else { u8::try_from(dice.next() & 0xff).unwrap() };
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

/// What a visitor shows.
type Visitors = BTreeMap<usize, Value>;

/// The folder of a stopped daemon, and what it must show.
struct Loaded {
    daemon: Daemon,
    token: Option<String>,
    shown: Visitors,
    batches: Vec<(String, support::Details)>,
}

struct Client<'d> {
    daemon: &'d Daemon,
    token: Option<&'d str>,
    connection: Connection,
}

impl<'d> Client<'d> {
    fn of(daemon: &'d Daemon, token: Option<&'d str>) -> Self {
        Self { daemon, token, connection: daemon.connect() }
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&str>) -> support::Reply {
        let bearer = self.token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        let host = self.daemon.address().to_string();
        self.connection.write(&request(method, path, &host, &headers, body.map(str::as_bytes)));
        self.connection.read()
    }

    /// Posts a batch over all visitors.
    fn post_batch(&mut self, value: &str) -> String {
        let mut file = String::from("batch=thirdPartyId,a,b\n");
        for visitor in 0..VISITORS {
            writeln!(file, "v{visitor},{value}{visitor},{}", "long ".repeat(30)).unwrap();
        }
        self.call("POST", "/m2/demo/v2/profile/batchUpdate", Some(&file)).batch_id()
    }

    /// The same, and waits until it is complete.
    fn batch(&mut self, value: &str) -> (String, support::Details) {
        let id = self.post_batch(value);
        let details = wait_for("the batch to complete", || self.status(&id));
        (id, details)
    }

    /// A batch's counts, if it is complete.
    fn status(&mut self, id: &str) -> Option<support::Details> {
        let reply = self.call("GET", &status_path(id), None);
        let count = |name| reply.element(name).unwrap_or_else(|| panic!("{}", reply.text())).parse().unwrap();
        (reply.element("status").as_deref() == Some("complete")).then(|| support::Details {
            size: count("batchSize"),
            consumed: count("consumedCount"),
            successful: count("successfulUpdates"),
            not_found: count("profilesNotFound"),
            failed: count("failedUpdates"),
            ignored: count("ignoredUpdates"),
        })
    }

    /// What a lookup shows of a visitor; or why it cannot show it now.
    fn shows(&mut self, visitor: usize) -> Result<Value, String> {
        let path = format!("/api/v1/profiles/v{visitor}?by=third-party&client=demo");
        let reply = self.call("GET", &path, None);
        match reply.status {
            200 => Ok(reply.json()["attributes"].clone()),
            503 => {
                assert!(reply.header("retry-after").is_some(), "503 without Retry-After");
                Err(reply.text())
            }
            status => Ok(Value::from(status)),
        }
    }

    fn all(&mut self) -> Visitors {
        (0..VISITORS).map(|visitor| (visitor, self.shows(visitor).unwrap())).collect()
    }

    /// Writes to some visitors, and returns the last value of each.
    fn write(&mut self, dice: &mut Dice) -> BTreeMap<usize, String> {
        let mut written = BTreeMap::new();
        for _ in 0..WRITTEN {
            let (visitor, value) = (dice.below(VISITORS), dice.next().to_string());
            let reply = self.call(
                "POST",
                "/m2/demo/mbox/json",
                Some(&format!("mbox=m&mbox3rdPartyId=v{visitor}&profile.n={value}")),
            );
            match reply.status {
                200 => drop(written.insert(visitor, value)),
                503 => {}
                status => panic!("a site call: {status} {}", reply.text()),
            }
        }
        written
    }

    fn ready(&mut self) -> bool {
        self.call("GET", "/readyz", None).status == 200
    }
}

fn status_path(batch: &str) -> String {
    format!("/m2/demo/profile/batchStatus?batchId={batch}&showDetails=true")
}

fn binary() -> Option<PathBuf> {
    variable("DAMAGE_BINARY").map(PathBuf::from)
}

/// Loads a folder: visitors, a complete batch over all of them, more writes, and a stop.
fn load(target: Target, stop: Stop, dice: &mut Dice) -> Loaded {
    let settings = match target {
        Target::DbOfOneRun => "[clients.demo]\nv2_creates_profiles = true\n".to_owned(),
        // The daemon removes nothing.
        Target::Journal => SETTINGS.replace("snapshot_journal_bytes = \"64KiB\"\n", ""),
        _ => SETTINGS.to_owned(),
    };
    let mut daemon = Daemon::configured(&settings);
    daemon.keep_complaints();
    if let Some(binary) = binary() {
        daemon.set_binary(binary);
    }
    let token =
        (target == Target::Tokens).then(|| daemon.make_token(&["--client", "demo", "--scope", "admin"]));
    let mut batches = vec![];
    daemon.restart();
    batches.push(ready(&daemon, token.as_deref()).batch("first"));
    if target != Target::DbOfOneRun {
        // Then sled has a snapshot, and reads pages on demand.
        daemon.terminate();
        assert!(daemon.ended().success());
        daemon.restart();
    }
    let mut client = ready(&daemon, token.as_deref());
    client.write(dice);
    batches.push(client.batch("second"));
    client.write(dice);
    if target == Target::Snapshot {
        wait_for("a snapshot", || {
            let taken = !files(&daemon.data().join("snapshots"), |_| true).is_empty();
            taken.then_some(()).or_else(|| {
                client.write(dice);
                None
            })
        });
    }
    if target == Target::Journal {
        wait_for("a segment that is not the last", || {
            client.write(dice);
            (files(&daemon.data().join("journal"), |name| name.ends_with(".log")).len() > 1).then_some(())
        });
    }
    if matches!(target, Target::UploadPending | Target::Index) {
        drop(client);
        daemon.terminate();
        assert!(daemon.ended().success());
        daemon.configure(&(settings.clone() + "[ingest]\nmax_rows_per_second = 1\n"));
        daemon.restart();
        client = ready(&daemon, token.as_deref());
        client.post_batch("third");
    }
    if target == Target::DbRead {
        drop(client);
        daemon.terminate();
        assert!(daemon.ended().success());
        daemon.restart();
        client = ready(&daemon, token.as_deref());
    }
    let shown = client.all();
    drop(client);
    daemon.configure(&settings);
    match stop {
        Stop::Kill => drop(daemon.kill9()),
        Stop::Clean => {
            daemon.terminate();
            assert!(daemon.ended().success());
        }
    }
    Loaded { daemon, token, shown, batches }
}

/// A client of a daemon that is ready.
fn ready<'d>(daemon: &'d Daemon, token: Option<&'d str>) -> Client<'d> {
    let mut client = Client::of(daemon, token);
    wait_for("the daemon to be ready", || client.ready().then_some(()));
    client
}

enum End {
    Healed(String),
    /// The batch of the damaged upload is held and says so, and no visitor shows an older value.
    Held,
    Refused(String),
    Wrong(String),
}

/// Starts the daemon on its damaged folder, and checks it.
fn round(loaded: &mut Loaded, dice: &mut Dice) -> End {
    let refused = |daemon: &Daemon| {
        let complaints = daemon.complaints();
        match complaints.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(why) if why.len() > 40 && !complaints.contains("panicked") => End::Refused(why.to_owned()),
            why => End::Wrong(format!("it ends, and says {why:?}")),
        }
    };
    let Loaded { daemon, token, shown, batches } = loaded;
    if daemon.try_restart().is_err() {
        return refused(daemon);
    }
    let begun = Instant::now();
    while !Client::of(daemon, token.as_deref()).ready() {
        if daemon.has_ended() {
            return refused(daemon);
        }
        assert!(begun.elapsed() < READY_WITHIN, "not ready: {}", daemon.complaints());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut client = Client::of(daemon, token.as_deref());
    let mut held_back = 0;
    if client.call("GET", "/metrics", None).text().contains("\nprofiled_batches_stuck 1\n") {
        for (visitor, before) in shown.iter() {
            match client.shows(*visitor) {
                Ok(now) if now == *before => {}
                Err(why) if why.contains("is stuck") => {}
                now => {
                    return End::Wrong(format!("v{visitor} was {before}, and with a batch held is {now:?}"));
                }
            }
        }
        return End::Held;
    }
    if let Err(wrong) = compare("at once", &mut client, shown, &mut held_back) {
        return End::Wrong(wrong);
    }
    for (visitor, value) in client.write(dice) {
        let Ok(now) = client.shows(visitor) else { continue };
        let before = shown.get_mut(&visitor).unwrap();
        if now["n"]["value"] != *value || now["a"] != before["a"] || now["b"] != before["b"] {
            return End::Wrong(format!("v{visitor} was {before}, n={value} was written, and it is {now}"));
        }
        *before = now;
    }
    if let Err(wrong) = compare("after more writes", &mut client, shown, &mut held_back) {
        return End::Wrong(wrong);
    }
    drop(client);
    daemon.terminate();
    if !daemon.ended().success() {
        return End::Wrong(format!("it does not stop cleanly: {}", daemon.complaints()));
    }
    let first = daemon.complaints();
    if let Err(why) = daemon.try_restart() {
        return End::Wrong(format!("after a clean stop {why}: {}", daemon.complaints()));
    }
    let mut client = ready(daemon, token.as_deref());
    if let Err(wrong) = compare("after another start", &mut client, shown, &mut held_back) {
        return End::Wrong(wrong);
    }
    let (mut unknown, catalogue_reported) = (0, first.contains("the catalogue of complete batches"));
    for (id, counts) in batches {
        if catalogue_reported && client.call("GET", &status_path(id), None).status == 404 {
            unknown += 1;
            continue;
        }
        let now = wait_for("the batch to be complete again", || client.status(id));
        if now != *counts {
            return End::Wrong(format!("batch {id} came to {counts:?}, and now to {now:?}"));
        }
    }
    drop(client);
    daemon.terminate();
    daemon.ended();
    let again = match first {
        first if first.contains("rebuilt beside") => "rebuilt beside the damaged one",
        first if first.contains("rebuilt") => "rebuilt",
        _ => "",
    };
    let held_back = if held_back > 0 { "503 meanwhile" } else { "" };
    let unknown = if unknown > 0 { "batches unknown from now on, as it said" } else { "" };
    End::Healed([again, held_back, unknown].join(" ").trim().to_owned())
}

/// Compares what all visitors show with what they should show. It waits for visitors that cannot be shown yet.
fn compare(
    when: &str,
    client: &mut Client<'_>,
    shown: &Visitors,
    held_back: &mut usize,
) -> Result<(), String> {
    let (mut waiting, begun) = (shown.keys().copied().collect::<Vec<_>>(), Instant::now());
    while !waiting.is_empty() {
        let mut later = vec![];
        let mut wrong = vec![];
        for visitor in waiting {
            match client.shows(visitor) {
                Ok(now) if now == shown[&visitor] => {}
                Ok(now) => wrong.push(format!("v{visitor} was {}, and is {now}", shown[&visitor])),
                Err(_) => later.push(visitor),
            }
        }
        if let Some(first) = wrong.first() {
            return Err(format!("{when} {} of {} visitors are wrong: {first}", wrong.len(), shown.len()));
        }
        *held_back += later.len();
        waiting = later;
        if begun.elapsed() > READY_WITHIN {
            return Err(format!(
                "{when} {} visitors cannot be reported: {:?}",
                waiting.len(),
                client.shows(waiting[0])
            ));
        }
        if !waiting.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// A message without the parts that differ from round to round.
fn kind_of(message: &str, folder: &Path) -> String {
    let message = message.replace(folder.to_str().unwrap(), "FOLDER");
    let mut kind = String::new();
    for word in message.split(' ').skip_while(|word| word.starts_with("20")) {
        let number = word.chars().any(|c| c.is_ascii_digit());
        write!(kind, " {}", if number && !word.contains('/') { "N" } else { word }).unwrap();
    }
    kind.trim().chars().take(220).collect()
}

/// Once, the batch became `incomplete` again, with new counts, while its rows were applied once more.
#[test]
fn a_batch_stays_complete_while_its_store_is_rebuilt_beside_the_daemon() {
    // In some rounds a start finds the damage, or nobody does.
    let beside = (1..=20).any(|seed| {
        let mut dice = Dice(seed);
        let mut loaded = load(Target::DbRead, Stop::Clean, &mut dice);
        let path = Target::DbRead.file(&loaded.daemon.data(), &mut dice).unwrap();
        damage(&path, Damage::Byte, &mut dice);
        loaded.daemon.configure(&(SETTINGS.to_owned() + "[ingest]\nmax_rows_per_second = 300\n"));
        if loaded.daemon.try_restart().is_err() {
            return false;
        }
        let mut client = Client::of(&loaded.daemon, None);
        let (begun, mut visitors) = (Instant::now(), 0..VISITORS);
        loop {
            // A lookup of a damaged value finds the damage.
            if let Some(visitor) = visitors.next() {
                drop(client.shows(visitor));
            }
            for (id, counts) in &loaded.batches {
                assert_eq!(client.status(id), Some(*counts), "seed {seed}, {:?} later", begun.elapsed());
            }
            let ready = client.call("GET", "/readyz", None);
            // The daemon serves before all rows are applied again.
            let applied = loaded.daemon.metrics().value("profiled_rows_pending") == 0.0;
            if visitors.is_empty() && ready.status == 200 && applied {
                break;
            }
            assert!(begun.elapsed() < READY_WITHIN, "not ready: {}", loaded.daemon.complaints());
        }
        loaded.daemon.metrics().value("profiled_store_remakes_total") > 0.0
    });
    assert!(beside, "none of the stores was rebuilt beside the running daemon");
}

#[test]
fn damaged_files_are_healed_or_refused_and_nothing_older_is_shown() {
    let rounds: usize = variable("DAMAGE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let only = variable("DAMAGE_ONLY");
    let seeds = seeds();
    let chosen =
        |target: &Target| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == target.name()));
    let mut all = vec![];
    for target in Target::ALL.into_iter().filter(chosen) {
        // Each file is damaged with each seed and after each way to stop. More rounds try all pairs of them.
        for (n, stop) in [Stop::Kill, Stop::Clean].into_iter().enumerate() {
            let seeds = if rounds == 1 { &seeds[n % seeds.len()..][..1] } else { &seeds[..] };
            for &seed in seeds {
                all.extend((0..rounds).map(|round| (target, stop, round, seed)));
            }
        }
    }
    let (next, table) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<_, BTreeMap<String, usize>>::new()));
    let wrong = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(&(target, stop, number, first_seed)) =
                    all.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let seed = first_seed + (number * 1000 + target as usize * 10 + stop as usize) as u64;
                    let mut dice = Dice(seed);
                    let how = [Damage::Byte, Damage::Places, Damage::Block][(number + target as usize) % 3];
                    let mut loaded = load(target, stop, &mut dice);
                    let data = loaded.daemon.data();
                    let path = target.file(&data, &mut dice);
                    assert_eq!(path.is_none(), target == Target::Nothing, "{target:?} has no file");
                    if let Some(path) = &path {
                        damage(path, how, &mut dice);
                    }
                    let end = match round(&mut loaded, &mut dice) {
                        End::Healed(how) if target != Target::Nothing || how.is_empty() => {
                            format!("healed {how}")
                        }
                        End::Healed(how) => {
                            wrong
                                .lock()
                                .unwrap()
                                .push(format!("PROFILED_TEST_SEED={first_seed}, nothing was damaged: {how}"));
                            "WRONG".to_owned()
                        }
                        End::Held => "held, and says so".to_owned(),
                        End::Refused(why) => format!("refused: {}", kind_of(&why, data.parent().unwrap())),
                        End::Wrong(why) => {
                            let reported = format!(
                                "PROFILED_TEST_SEED={first_seed}, {target:?} {stop:?} {how:?} {path:?}: {why}"
                            );
                            wrong.lock().unwrap().push(reported);
                            "WRONG".to_owned()
                        }
                    };
                    *table.lock().unwrap().entry((target, stop)).or_default().entry(end).or_default() += 1;
                }
            });
        }
    });
    println!("seeds {seeds:?}, {rounds} rounds each");
    for ((target, stop), ends) in &*table.lock().unwrap() {
        for (end, count) in ends {
            println!("{:12} {:6} {count:4} {end}", target.name(), format!("{stop:?}").to_lowercase());
        }
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} rounds ended wrong:\n{}", wrong.len(), wrong.join("\n"));
}
