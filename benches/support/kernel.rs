//! Figures of the kernel about a process: memory, bytes written, processor time.

use std::path::Path;

/// A line of the process's memory statistics in KiB, such as `VmHWM` (the peak) or `VmRSS`.
pub fn memory(pid: u32, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|have| have.strip_prefix(line)?.split_whitespace().nth(1)?.parse().ok())
}

/// The bytes that the process has written to the disk.
pub fn written(pid: u32) -> u64 {
    io(pid, "write_bytes: ")
}

/// The bytes that the process has read from the disk.
pub fn read(pid: u32) -> u64 {
    io(pid, "read_bytes: ")
}

fn io(pid: u32, line: &str) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let bytes = io.lines().find_map(|have| have.strip_prefix(line)?.parse().ok());
    bytes.unwrap_or(0)
}

/// The seconds that the process's threads have run, in the program and in the kernel.
pub fn processor_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain anything. A tick is a hundredth of a second on every Linux.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks = |n| after.split(' ').nth(n).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) / 100.0, ticks(12) / 100.0)
}

/// The running child processes.
pub fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |of: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
        // The name in parentheses may contain anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    processes.filter(|&of| parent(of) == Some(pid)).collect()
}

/// The total size of the files under a folder.
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
