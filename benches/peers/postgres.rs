//! PostgreSQL, through one psql that stays connected: `COPY` into a temporary table, then one `UPDATE … FROM`, in one
//! transaction.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

use super::{LeftOut, Peer, come_up, free_port, json, version};
use crate::support::kernel;
use crate::support::rows::{Batch, Row, seeds};

/// Debian keeps these programs outside the PATH.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Root may not run PostgreSQL, so this unprivileged account does.
const UNPRIVILEGED: &str = "nobody";
const SETTINGS: [&str; 8] = [
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "work_mem=64MB",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "log_min_messages=panic",
];
const APPLY: &str = "UPDATE profile SET attributes = profile.attributes || staged.attributes \
                     FROM staged WHERE profile.id = staged.id;";

pub(super) struct Postgres {
    // Fields drop in this order: the client first, then the server.
    session: Session,
    server: Postmaster,
    version: String,
    prepared: Vec<u8>,
}

impl Postgres {
    pub(super) fn start(folder: &Path) -> Result<Self, LeftOut> {
        let bin =
            programs().ok_or_else(|| LeftOut("there is no postgres with its initdb and psql".into()))?;
        let version = version(&bin.join("postgres")).unwrap_or_default();
        let (home, account) = (folder.join("postgres"), account()?);
        std::fs::create_dir(&home).unwrap();
        // The account that runs the server must be able to reach its folder.
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
        if let Some((user, group)) = account {
            chown(&home, Some(user), Some(group)).unwrap();
        }
        let as_account = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command.current_dir(&home).stdout(Stdio::null()).stderr(Stdio::inherit());
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            command
        };
        let made = as_account("initdb")
            .args([
                "--username=bench",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pgdata",
            ])
            .arg(home.join("data"))
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(LeftOut("initdb failed".into()));
        }
        let port = free_port();
        let mut command = as_account("postgres");
        command.args(["-p", &port.to_string(), "-D"]).arg(home.join("data"));
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let server = Postmaster(command.spawn().unwrap());
        let ready = || {
            let mut ask = Command::new(bin.join("pg_isready"));
            let answer = ask
                .args(["-U", "bench", "-d", "postgres", "-h", "127.0.0.1", "-p", &port.to_string()])
                .stdout(Stdio::null())
                .status();
            if answer.is_ok_and(|status| status.success()) { Ok(()) } else { Err("pg_isready says no") }
        };
        come_up(ready);
        let mut session = Session::start(&bin, port);
        session.ask(b"CREATE TABLE profile (id text PRIMARY KEY, attributes jsonb NOT NULL);\n");
        session.ask(b"CREATE TEMPORARY TABLE staged (id text NOT NULL, attributes jsonb NOT NULL);\n");
        Ok(Self { session, server, version, prepared: vec![] })
    }
}

/// The folder with PostgreSQL's programs: the one on the PATH, otherwise Debian's newest.
fn programs() -> Option<PathBuf> {
    let said = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = said.map(|said| PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()));
    let versions = std::fs::read_dir(DEBIAN).ok();
    let mut versions: Vec<PathBuf> =
        versions.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    versions.sort_unstable();
    let complete = |bin: &PathBuf| ["postgres", "initdb", "psql"].iter().all(|one| bin.join(one).exists());
    configured.into_iter().chain(versions.into_iter().rev()).find(complete)
}

/// The account to run PostgreSQL as; `None` for the bench's own.
fn account() -> Result<Option<(u32, u32)>, LeftOut> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |line: &str| {
        let mut fields = line.split(':');
        let found = fields.next()? == UNPRIVILEGED;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((user, group))
    };
    let found = accounts.lines().find_map(find);
    found
        .map(Some)
        .ok_or_else(|| LeftOut(format!("root may not run postgres, and there is no {UNPRIVILEGED}")))
}

impl Peer for Postgres {
    fn settings(&self) -> String {
        let settings = SETTINGS.get(..5).unwrap_or_default().join(", ");
        format!("{}; {settings}; attributes as jsonb, unknown visitors skipped", self.version)
    }

    fn seed(&mut self, profiles: usize) {
        let mut bytes = vec![];
        copy(&mut bytes, "profile", seeds(0..profiles));
        self.session.ask(&bytes);
        self.session.ask(b"VACUUM ANALYZE profile;\nCHECKPOINT;\n");
    }

    fn prepare(&mut self, batch: Batch) {
        self.prepared.clear();
        self.prepared.extend_from_slice(b"BEGIN;\nTRUNCATE staged;\n");
        copy(&mut self.prepared, "staged", batch.rows());
        writeln!(self.prepared, "{APPLY}\nCOMMIT;").unwrap();
    }

    fn apply(&mut self) -> Duration {
        let began = Instant::now();
        self.session.ask(&self.prepared);
        began.elapsed()
    }

    fn points(&mut self, id: &str) -> Option<String> {
        let ask = format!("SELECT attributes ->> 'points' FROM profile WHERE id = '{id}';\n");
        self.session.ask(ask.as_bytes()).into_iter().next()
    }

    fn written(&self) -> u64 {
        let postmaster = self.server.0.id();
        kernel::children(postmaster).into_iter().chain([postmaster]).map(kernel::written).sum()
    }

    fn memory(&self) -> Option<u64> {
        None
    }
}

/// Writes the commands that copy rows into a table. These values need no escaping.
fn copy(out: &mut Vec<u8>, table: &str, rows: impl Iterator<Item = Row>) {
    writeln!(out, "COPY {table} FROM STDIN;").unwrap();
    for row in rows {
        writeln!(out, "{}\t{}", row.id, json(&row)).unwrap();
    }
    writeln!(out, "\\.").unwrap();
}

/// A psql that reads commands and stops at the first failure.
struct Session {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Session {
    fn start(bin: &Path, port: u16) -> Self {
        let mut process = Command::new(bin.join("psql"))
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "bench", "-d", "postgres"])
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, commands, answers }
    }

    /// Runs commands and returns the lines of their output.
    fn ask(&mut self, commands: &[u8]) -> Vec<String> {
        self.commands.write_all(commands).unwrap();
        self.commands.write_all(b"\\echo done\n").unwrap();
        self.commands.flush().unwrap();
        let mut lines = (&mut self.answers).lines().map(Result::unwrap);
        let mut said = vec![];
        loop {
            match lines.next() {
                Some(line) if line == "done" => return said,
                Some(line) => said.push(line),
                None => panic!("psql stopped"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The server's main process. A hard kill would leave its children running for a while.
struct Postmaster(Child);

impl Drop for Postmaster {
    fn drop(&mut self) {
        // PostgreSQL's signal for an immediate stop.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::QUIT).unwrap();
        }
        self.0.wait().unwrap();
    }
}
