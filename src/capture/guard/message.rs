//! What a backup and its guard say to each other: lines of JSON.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Problem;

/// LIMIT: time for which the guest may be stopped or frozen. Then the guard lets it go on, and the backup fails.
pub const HELD_MAX: Duration = Duration::from_secs(10);

/// A request to the guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Connects to the sockets; the first request. What begins with the prefix is removed when the backup dies.
    Open {
        qmp: PathBuf,
        agent: Option<PathBuf>,
        prefix: String,
    },
    /// Holds a domain of libvirt; the first request instead of `Open`. The backup job whose socket is below the directory is ended, and
    /// the directory removed, when the backup dies.
    OpenDomain {
        uri: String,
        domain: String,
        directory: PathBuf,
    },
    /// Executes a command; `passes` announces a descriptor that comes with this line.
    Execute {
        command: String,
        arguments: Value,
        passes: bool,
    },
    /// Freezes the guest's filesystems.
    Freeze,
    /// Stops the guest's processors, if they run.
    Stop,
    /// Lets the guest go on.
    Resume,
}

/// How long the guest was held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Milliseconds for which its processors were stopped; `None` if they were not.
    pub stopped_ms: Option<u64>,
    /// Milliseconds for which its filesystems were frozen; `None` if they were not.
    pub frozen_ms: Option<u64>,
}

/// An answer of the guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// What QEMU returned.
    Done(Value),
    /// The guest goes on; `left` is why its filesystems could not be thawed yet, which the guard goes on trying.
    Resumed { held: Held, left: Option<Problem> },
    /// It failed.
    Failed(Problem),
}
