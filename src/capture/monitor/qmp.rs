//! A client of QEMU's machine protocol (QMP, `docs/interop/qmp-spec.rst` of QEMU): lines of JSON.
//!
//! # Invariants
//! - QEMU serves one client on a monitor socket. A second client connects, and hears nothing: so the greeting has a time limit.
//! - Events are passed over.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Monitor;
use super::line::Lines;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{pass, socket};
use crate::types::printable::printable;

/// LIMIT: time until QEMU greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// LIMIT: time for one command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// LIMIT: characters of QEMU's reason that are quoted.
const REASON_CHARS_MAX: usize = 512;

/// A monitor of a running QEMU.
pub struct Qmp {
    lines: Lines,
    number: u64,
}

impl Qmp {
    /// Connects, and leaves the negotiation mode.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `TimedOut` when nothing greets, which is what a second client sees; `Disconnected` when what
    /// listens there is no QMP server.
    pub fn connect(path: &Path) -> Result<Self> {
        let greeted = Lines::connect(path).and_then(|mut lines| {
            let greeting = lines.receive(Instant::now() + GREETING_TIMEOUT)?;
            Ok((lines, greeting))
        });
        let (lines, greeting) = greeted.map_err(|e| match e.kind() {
            ErrorKind::TimedOut => Error::new(ErrorKind::TimedOut, format!(
                "QEMU does not greet within {} seconds", GREETING_TIMEOUT.as_secs()))
            .at_path(path)
            .advise("its monitor serves one client at a time: end the other one, or give QEMU a monitor of its own for backups (-qmp unix:PATH,server=on,wait=off)"),
            _ => e,
        })?;
        let greeting: Option<Value> = serde_json::from_slice(&greeting).ok();
        if greeting.is_none_or(|greeting| greeting.get("QMP").is_none()) {
            return Err(lines.broken(
                ErrorKind::Disconnected,
                "what listens there does not speak QMP",
            ));
        }
        let mut qmp = Self { lines, number: 0 };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// The process that listens on the monitor's socket.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        let (pid, _) = socket::peer(&self.lines.stream).ok()?;
        u32::try_from(pid.as_raw_nonzero().get()).ok()
    }

    fn answer(&mut self, command: &str, id: u64) -> Result<Value> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let line = self.lines.receive(deadline)?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(mut answer) = serde_json::from_slice::<Value>(&line) else {
                return Err(self
                    .lines
                    .broken(ErrorKind::Disconnected, "it sends what is no JSON"));
            };
            if answer.get("event").is_some() {
                continue;
            }
            // An error of a line that could not be parsed has no id.
            let is_ours = answer.get("id").is_none_or(|other| *other == id);
            if !is_ours {
                continue;
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            return Err(match answer.get("error") {
                Some(error) => refusal(command, error),
                None => self.lines.broken(
                    ErrorKind::Disconnected,
                    "it sends what is no answer to a command",
                ),
            });
        }
    }
}

/// QEMU's refusal of a command.
fn refusal(command: &str, error: &Value) -> Error {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = match text("class") {
        "CommandNotFound" => ErrorKind::Unsupported,
        "DeviceNotFound" => ErrorKind::NotFound,
        _ => ErrorKind::InvalidInput,
    };
    let reason: String = text("desc").chars().take(REASON_CHARS_MAX).collect();
    Error::new(
        kind,
        format!("QEMU refuses {command}: {}", printable(&reason)),
    )
}

impl Monitor for Qmp {
    fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        self.number += 1;
        let id = self.number;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id})
            .to_string()
            .into_bytes();
        line.push(b'\n');
        match descriptor {
            Some(descriptor) => pass::send(&self.lines.stream, &line, &[descriptor])?,
            None => self.lines.send(&line)?,
        }
        self.answer(command, id)
    }
}
