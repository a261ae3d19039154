//! A shell in namespaces of its own, which is given one line after the other.
//!
//! # Invariants
//! - The machine stays as it is: mounts, addresses and processes are the namespaces', `/etc`, `/usr/bin` and `/usr/sbin` are overlaid.
//! - Loop devices belong to the whole machine: `stage.sh` detaches those of this stage however the shell ends, and it ends when its
//!   standard input does, so also when the test is killed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// LIMIT: how long a line may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell that runs a page's commands in turn.
pub(crate) struct Stage {
    /// What the shell is told by, and what its lines print.
    dir: tempfile::TempDir,
    shell: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    steps: usize,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("place")).unwrap();
        std::fs::write(dir.path().join("stage.sh"), include_str!("stage.sh")).unwrap();
        std::fs::write(dir.path().join("prepare.sh"), include_str!("prepare.sh")).unwrap();
        let mut shell = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
            ])
            .arg(dir.path().join("stage.sh"))
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", dir.path())
            .env("STAGE", dir.path())
            .env("SOURCE", env!("CARGO_MANIFEST_DIR"))
            .env("PROGRAM", env!("CARGO_BIN_EXE_restorefs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (told, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        let input = shell.stdin.take();
        let mut stage = Self {
            dir,
            shell,
            input,
            answers,
            steps: 0,
        };
        stage.quiet(". \"$STAGE/prepare.sh\"");
        stage
    }

    /// Runs a line of a page; answers what it printed.
    pub(crate) fn line(&mut self, page: &str, at: usize, line: &str) -> String {
        self.run(&format!("{page}:{at}"), line)
    }

    /// Runs something that the README does not say.
    pub(crate) fn quiet(&mut self, script: &str) {
        if !script.is_empty() {
            self.run("the test's own", script);
        }
    }

    /// Writes a file.
    pub(crate) fn file(&mut self, path: &str, lines: &[String]) {
        let end = "END-OF-FILE";
        self.quiet(&format!(
            "mkdir -p \"$(dirname {path})\"; cat > {path} <<'{end}'\n{}\n{end}",
            lines.join("\n")
        ));
    }

    /// Ends the shell, which must leave nothing.
    pub(crate) fn end(mut self) {
        self.input = None;
        let answer = self.answers.recv_timeout(PATIENCE);
        assert_eq!(answer.as_deref(), Ok("ended 0"));
        let left = self.answers.recv_timeout(PATIENCE);
        assert_eq!(left.as_deref(), Ok("left:"), "loop devices are left");
    }

    fn output(&self, step: usize) -> (PathBuf, String) {
        let path = self.dir.path().join(format!("out.{step}"));
        let bytes = std::fs::read(&path).unwrap_or_default();
        (path, String::from_utf8_lossy(&bytes).into_owned())
    }

    fn run(&mut self, what: &str, script: &str) -> String {
        self.steps += 1;
        let step = self.dir.path().join(format!("step.{}", self.steps));
        std::fs::write(&step, format!("{script}\n")).unwrap();
        let (out, _) = self.output(self.steps);
        let order = format!(
            "source {} > {} 2>&1 < /dev/null; echo done\n",
            step.display(),
            out.display()
        );
        let written = self.input.as_mut().unwrap().write_all(order.as_bytes());
        let answer = written.map_err(|_| RecvTimeoutError::Disconnected);
        let answer = answer.and_then(|()| self.answers.recv_timeout(PATIENCE));
        let (_, said) = self.output(self.steps);
        if answer.as_deref() != Ok("done") {
            // Why it failed may have been said by something that an earlier line has started.
            let mut before = String::new();
            for step in 1..self.steps {
                let (_, said) = self.output(step);
                if let Some(line) = said.lines().last() {
                    let _ = writeln!(before, "  {line}");
                }
            }
            panic!(
                "{what}: {script}\nfailed ({answer:?}):\n{said}\nlast words of the lines before it:\n{before}"
            );
        }
        said
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.input = None;
        // The sender is gone when the last process that holds the output is.
        while self.answers.recv_timeout(Duration::from_secs(20)).is_ok() {}
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
