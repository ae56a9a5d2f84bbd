//! Disks of a test's own: files that are mounted through loop devices. Needs root.
#![expect(clippy::print_stderr, reason = "what a drop can't do, it can only say")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something mounted, for as long as this lives.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts an image.
    pub fn new(image: &Path, at: PathBuf, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").args(["-o", options]).arg(image).arg(&at))?;
        Ok(Self(at))
    }
}

impl Drop for Mount {
    /// The loop device goes with the mount.
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.0)).is_err()
            && let Err(why) = run(Command::new("umount").arg("--lazy").arg(&self.0))
        {
            eprintln!("{} stays mounted: {why}", self.0.display());
        }
    }
}

/// Shows a folder once more, where nobody can write to it.
pub fn read_only(folder: &Path, at: &Path) -> Result<Mount, String> {
    may_mount()?;
    std::fs::create_dir_all(at).unwrap();
    run(Command::new("mount").arg("--bind").arg(folder).arg(at))?;
    let mount = Mount(at.to_owned());
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(at))?;
    Ok(mount)
}

/// Runs a tool. Returns its error output if it failed.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?} cannot be run: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// What is missing for mounting disks, if anything.
pub fn may_mount() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("mounting disks needs root".into()) }
}

/// Writes a file until its disk has no room.
pub fn fill(ballast: &Path) {
    let mut file = std::fs::File::options().create(true).append(true).open(ballast).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        let zeros = vec![0; bytes];
        while file.write_all(&zeros).is_ok() {}
    }
}
