//! A client of the guest agent (`docs/interop/qemu-ga.rst` of QEMU): it freezes the guest's filesystems.
//!
//! # Invariants
//! - The agent is inside of the guest, and so hostile: each answer has a time limit and a bounded length.
//! - Answers to requests of an earlier client may still be in the socket: a `guest-sync-delimited` with a random number comes first.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::line::Lines;
use crate::error::{Error, ErrorKind, Result};
use crate::types::printable::printable;

/// LIMIT: time until the agent answers `guest-sync-delimited`.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// LIMIT: characters of the agent's reason that are quoted.
const REASON_CHARS_MAX: usize = 256;

const FREEZE: &str = "guest-fsfreeze-freeze";

const THAW: &str = "guest-fsfreeze-thaw";

/// A command without arguments.
fn request(command: &str) -> String {
    json!({"execute": command}).to_string()
}

/// A guest agent.
pub struct Agent {
    lines: Lines,
}

impl Agent {
    /// Connects, and finds out whether an agent answers.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `TimedOut` when no agent answers; `Disconnected`.
    pub fn connect(path: &Path) -> Result<Self> {
        let mut agent = Self {
            lines: Lines::connect(path)?,
        };
        agent.sync()?;
        Ok(agent)
    }

    /// Passes over answers that nobody waits for any more.
    fn sync(&mut self) -> Result<()> {
        let number = getrandom::u32().unwrap_or(1) >> 1;
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": number}});
        // The byte 0xFF makes the agent's parser drop an unfinished request.
        self.lines
            .send(&[&b"\xff"[..], request.to_string().as_bytes(), b"\n"].concat())?;
        let deadline = Instant::now() + SYNC_TIMEOUT;
        loop {
            let line = self.lines.receive(deadline).map_err(|e| match e.kind() {
                ErrorKind::TimedOut => Error::new(
                    ErrorKind::TimedOut,
                    format!(
                        "the guest agent does not answer within {} seconds",
                        SYNC_TIMEOUT.as_secs()
                    ),
                )
                .at_path(&self.lines.path)
                .advise("start qemu-guest-agent in the guest, or back up without --quiesce"),
                _ => e,
            })?;
            let line = line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
            let answer: Option<Value> = serde_json::from_slice(line).ok();
            if answer.is_some_and(|answer| answer["return"] == number) {
                return Ok(());
            }
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// `InvalidInput` with the agent's reason; `TimedOut`, `Disconnected`.
    fn execute(&mut self, command: &str, patience: Duration) -> Result<Value> {
        self.lines
            .send(&[request(command).as_bytes(), b"\n"].concat())?;
        let line = self.lines.receive(Instant::now() + patience)?;
        let Ok(mut answer) = serde_json::from_slice::<Value>(&line) else {
            return Err(self.lines.broken(
                ErrorKind::Disconnected,
                "the guest agent sends what is no JSON",
            ));
        };
        if let Some(value) = answer.get_mut("return") {
            return Ok(value.take());
        }
        let reason = answer["error"]["desc"].as_str().unwrap_or("no reason");
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        Err(Error::invalid(format!(
            "the guest agent refuses {command}: {}",
            printable(&reason)
        )))
    }

    /// Freezes the guest's filesystems; returns how many.
    ///
    /// # Errors
    /// As [`Agent::thaw`]. Some filesystems may be frozen after a failure.
    pub fn freeze(&mut self, patience: Duration) -> Result<u64> {
        let answer = self
            .execute(FREEZE, patience)
            .inspect_err(|_| self.queue_thaw())?;
        answer.as_u64().ok_or_else(|| {
            self.lines.broken(
                ErrorKind::Disconnected,
                "the guest agent does not answer with a number of filesystems",
            )
        })
    }

    /// Sends a thaw for whose answer nobody waits: the agent does one request after the other, so it follows a freeze that comes late.
    fn queue_thaw(&mut self) {
        // A socket that is gone has no agent behind it any more.
        let _ = self.lines.send(&[request(THAW).as_bytes(), b"\n"].concat());
    }

    /// Thaws the guest's filesystems.
    ///
    /// # Errors
    /// `InvalidInput` with the agent's reason; `TimedOut`, `Disconnected`.
    pub fn thaw(&mut self, patience: Duration) -> Result<()> {
        // The answer to a freeze that came late is no answer to this.
        let deadline = Instant::now() + patience;
        self.sync_within(deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        self.execute(THAW, left).map(drop)
    }

    /// The agent does one request after the other: a thaw that is sent while it freezes waits there.
    fn sync_within(&mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.sync() {
                Err(e) if e.kind() == ErrorKind::TimedOut && Instant::now() < deadline => {}
                done => return done,
            }
        }
    }
}
