//! What a program uses: wall time, processor time, context switches, memory.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// Ticks of `/proc/PID/stat` in a second: USER_HZ, which is 100 on Linux.
const TICKS: f64 = 100.0;

/// How long perf gets to attach itself.
const ATTACH: Duration = Duration::from_millis(200);

/// What a program has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Wall time.
    pub(crate) seconds: f64,
    /// Processor time, of user and system.
    pub(crate) cpu_seconds: f64,
    /// Context switches, voluntary and not. Of a running program they are known where perf(1) is: the kernel forgets
    /// those of threads that have ended.
    pub(crate) switches: Option<f64>,
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
            switches: Some(forced + waits),
            rss_bytes: rss_kib * 1024.0,
        })
    }

    /// What the running process `pid` has used so far, with `seconds` 0 and without its context switches.
    fn so_far(pid: u32) -> Result<Self> {
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
        let status = std::fs::read_to_string(proc.join("status"))?;
        Ok(Self {
            seconds: 0.0,
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
            switches: None,
            rss_bytes: field(&status, "VmHWM:")? * 1024.0,
        })
    }

    /// What the running process `pid` uses while `work` runs, which answers its wall time in seconds. The largest resident size is that
    /// of the whole life.
    pub(crate) fn during(pid: u32, work: impl FnOnce() -> Result<f64>) -> Result<Self> {
        let counter = SwitchCounter::start(pid)?;
        let before = Self::so_far(pid)?;
        let seconds = work()?;
        let after = Self::so_far(pid)?;
        Ok(Self {
            seconds,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            switches: counter.and_then(SwitchCounter::end),
            rss_bytes: after.rss_bytes,
        })
    }
}

/// perf(1), which counts the context switches of a process with all threads that it has or gets.
struct SwitchCounter {
    perf: Child,
    report: tempfile::NamedTempFile,
}

impl SwitchCounter {
    /// `None` where there is no perf.
    fn start(pid: u32) -> Result<Option<Self>> {
        let report = tempfile::NamedTempFile::new()?;
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x", ",", "-e", "context-switches", "-p"]);
        perf.arg(pid.to_string()).arg("-o").arg(report.path());
        perf.stdin(Stdio::null()).stderr(Stdio::null());
        let Ok(perf) = perf.spawn() else {
            return Ok(None);
        };
        std::thread::sleep(ATTACH);
        Ok(Some(Self { perf, report }))
    }

    fn end(mut self) -> Option<f64> {
        let pid = self.perf.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().ok()?;
        self.perf.wait().ok()?;
        let text = std::fs::read_to_string(self.report.path()).ok()?;
        let line = text
            .lines()
            .find(|line| line.contains("context-switches"))?;
        line.split(',').next()?.parse().ok()
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
