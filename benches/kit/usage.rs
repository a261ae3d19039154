//! What a program uses: wall time, processor time, context switches, memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Result;

/// Ticks of `/proc/PID/stat` in a second: USER_HZ, which is 100 on Linux.
const TICKS: f64 = 100.0;

/// What a program has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Wall time.
    pub(crate) seconds: f64,
    /// Processor time, of user and system.
    pub(crate) cpu_seconds: f64,
    /// Context switches, voluntary and not.
    pub(crate) switches: f64,
    /// Largest resident size.
    pub(crate) rss_bytes: f64,
}

impl Usage {
    /// Runs a program to its end, with its children. GNU time(1) counts; a failure shows what the program wrote to its error output.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let mut timed = Command::new("time");
        let report = tempfile::NamedTempFile::new()?;
        timed
            .args(["-q", "-f", "%U %S %c %w %M", "-o"])
            .arg(report.path());
        timed
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            timed.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => timed.env(name, value),
                None => timed.env_remove(name),
            };
        }
        let begin = Instant::now();
        let output = timed
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("time(1): {e}; install the package time"))?;
        let seconds = begin.elapsed().as_secs_f64();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?}: {}: {}", output.status, said.trim()).into());
        }
        let text = std::fs::read_to_string(report.path())?;
        let numbers: std::result::Result<Vec<f64>, _> =
            text.split_whitespace().map(str::parse).collect();
        let [user, system, forced, waits, rss_kib] = numbers?[..] else {
            return Err(format!("time(1) reported \"{}\"", text.trim()).into());
        };
        Ok(Self {
            seconds,
            cpu_seconds: user + system,
            switches: forced + waits,
            rss_bytes: rss_kib * 1024.0,
        })
    }

    /// What the running process `pid` has used so far, with `seconds` 0; the switches of threads that have ended are missing.
    pub(crate) fn so_far(pid: u32) -> Result<Self> {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        // The name of the program, in parentheses, may have blanks.
        let fields = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?.1;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |at: usize| -> Result<f64> {
            Ok(fields
                .get(at)
                .ok_or("/proc/PID/stat is too short")?
                .parse()?)
        };
        let mut switches = 0.0;
        for thread in std::fs::read_dir(proc.join("task"))? {
            // A thread may end meanwhile.
            let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            switches += field(&status, "voluntary_ctxt_switches:")?
                + field(&status, "nonvoluntary_ctxt_switches:")?;
        }
        let status = std::fs::read_to_string(proc.join("status"))?;
        Ok(Self {
            seconds: 0.0,
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
            switches,
            rss_bytes: field(&status, "VmHWM:")? * 1024.0,
        })
    }

    /// What was used since `earlier`, in `seconds` of wall time; the largest resident size is that of the whole life.
    pub(crate) fn since(&self, earlier: &Self, seconds: f64) -> Self {
        Self {
            seconds,
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            switches: self.switches - earlier.switches,
            rss_bytes: self.rss_bytes,
        }
    }

    /// This program and another that worked for it at the same time, such as a server and its client.
    pub(crate) fn with(&self, other: &Self) -> Self {
        Self {
            seconds: self.seconds.max(other.seconds),
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            switches: self.switches + other.switches,
            rss_bytes: self.rss_bytes + other.rss_bytes,
        }
    }
}

/// The number of a line of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or_else(|| format!("/proc/PID/status has no {name}"))?
        .parse()?)
}
