//! What the kernel says of a process: its memory, the bytes it had written, its time on the processors.

use std::path::Path;

/// A line of its account of memory, such as `VmHWM` (the peak) or `VmRSS`, in KiB.
pub fn memory(pid: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|have| have.strip_prefix(line)?.split_whitespace().nth(1)?.parse().ok())
}

/// Bytes that it has caused to be sent to the disk.
pub fn written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    written.unwrap_or(0)
}

/// The processes that it started and that still run.
pub fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |of: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
        // The name in parentheses may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    processes.filter(|&of| parent(of) == Some(pid)).collect()
}

/// What the files under a folder hold.
pub fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    // Files come and go while a daemon runs.
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}
