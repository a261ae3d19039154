//! Processes of this machine as `/proc` shows them: a daemon's readers, memory and descriptors.

use std::path::PathBuf;

fn proc(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// A number of `/proc/PID/status`; 0 for a process that is gone.
fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(proc(pid, "status")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Whether a process is a guest's reader.
pub(crate) fn is_reader(pid: u32) -> bool {
    let line = std::fs::read(proc(pid, "cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).any(|word| word == b"guest-reader")
}

/// The readers that a daemon has now.
pub(crate) fn readers_of(daemon: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| status(*pid, "PPid") == u64::from(daemon) && is_reader(*pid))
        .collect()
}

/// Bytes of memory that only this process can give back: without pages of files, such as the program's own text.
pub(crate) fn resident(pid: u32) -> u64 {
    (status(pid, "RssAnon") + status(pid, "RssShmem")) * 1024
}

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(proc(pid, "fd")).map_or(0, Iterator::count)
}
