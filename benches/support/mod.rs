//! The real release daemon as a process, for the benches.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot go on should say where")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each bench is a crate of its own and uses its own part of this"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A daemon on a folder, killed at the end.
pub struct Daemon {
    process: Child,
    pub address: String,
}

impl Daemon {
    /// Starts one under `folder`, with this configuration file.
    pub fn start(folder: &Path, configuration: &str) -> Self {
        let toml = folder.join("profiled.toml");
        std::fs::write(&toml, configuration).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_profiled"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data"])
            .arg(folder.join("data"))
            .arg("--config")
            .arg(toml)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").unwrap().to_owned();
        Self { process, address }
    }

    /// A line of the kernel's account of its memory, in KiB.
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let found =
            status.lines().find_map(|have| have.strip_prefix(line)?.split_whitespace().nth(1)?.parse().ok());
        found.unwrap_or_else(|| panic!("the kernel does not tell {line}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
