//! A plain script with redis-py, as many people have it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::redis::{Ask, Redis};
use super::{LeftOut, Peer};
use crate::support::rows::Batch;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/pipeline.py");
/// With hiredis, which parses answers in C.
const PACKAGE: &str = "redis[hiredis]";

pub(super) struct Script {
    redis: Redis,
    python: PathBuf,
    /// The versions of Python and redis-py.
    versions: String,
    file: PathBuf,
}

impl Script {
    pub(super) fn start(folder: &Path) -> Result<Self, LeftOut> {
        let (python, versions) = python()?;
        let redis = Redis::start(&folder.join("redis-py"), Ask::Hset)?;
        Ok(Self { redis, python, versions, file: folder.join("batch.csv") })
    }
}

/// A Python environment of the bench with redis-py. It stays for the next run.
fn python() -> Result<(PathBuf, String), LeftOut> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-py");
    let python = environment.join("bin").join("python");
    let ask = "import platform, redis; print('Python', platform.python_version() + ', redis-py', redis.__version__)";
    let versions = || {
        let said = Command::new(&python).args(["-c", ask]).stderr(Stdio::null()).output().ok()?;
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let run =
        |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if versions().is_none() {
        if !run(Command::new("python3").args(["-m", "venv"]).arg(&environment)) {
            return Err(LeftOut("there is no python3 that can make a virtual environment".into()));
        }
        if !run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE])) {
            return Err(LeftOut(format!("pip could not install {PACKAGE}")));
        }
    }
    versions().map(|versions| (python, versions)).ok_or_else(|| LeftOut("redis-py does not import".into()))
}

impl Peer for Script {
    fn settings(&self) -> String {
        let redis = self.redis.settings();
        format!(
            "{} with hiredis, reads the file as CSV, a pipeline per 1,000 rows; Redis {redis}",
            self.versions
        )
    }

    fn seed(&mut self, profiles: usize) {
        self.redis.seed(profiles);
    }

    fn prepare(&mut self, batch: Batch) {
        // The script expects the key in the first column.
        std::fs::write(&self.file, batch.csv()).unwrap();
    }

    fn apply(&mut self) -> Duration {
        let mut script = Command::new(&self.python);
        script.arg(SCRIPT).arg(self.redis.port().to_string()).arg(&self.file);
        let said = script.stderr(Stdio::inherit()).output().unwrap();
        Duration::from_secs_f64(String::from_utf8(said.stdout).unwrap().trim().parse().unwrap())
    }

    fn points(&mut self, id: &str) -> Option<String> {
        self.redis.points(id)
    }

    fn written(&self) -> u64 {
        self.redis.written()
    }

    fn memory(&self) -> Option<u64> {
        self.redis.memory()
    }
}
