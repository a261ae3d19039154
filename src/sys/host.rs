//! Identity of this host and process, for the note in a lock: others use it to decide whether its writer is
//! alive.

use crate::error::{Result, ResultExt};

/// Name of this host (uname); bytes that are not UTF-8 are replaced.
#[must_use]
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The kernel's id of this boot (random(4)): a pid has a meaning only within one boot.
///
/// # Errors
/// `Io` where /proc is missing.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .or_io("cannot read the boot id")
        .at_path(path)
}

/// The id of this machine (machine-id(5)); `None` where there is none, as in a container.
#[must_use]
pub fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id").ok()?;
    let id = text.trim();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

/// Processor time of a process, in user and kernel mode; `None` when it has ended.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<std::time::Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name, in parentheses, may contain any character; utime and stime are the 12th and
    // 13th field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(std::time::Duration::from_millis(
        (user + kernel) * 1000 / ticks,
    ))
}

#[cfg(test)]
mod tests {
    use super::{boot_id, name};

    #[test]
    fn we_live_here() {
        assert!(!name().is_empty());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
