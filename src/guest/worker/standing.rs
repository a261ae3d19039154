//! How well the readers of guests' filesystems are isolated from this machine; determined by starting one.

use std::fmt;

use serde::Serialize;

use super::process::Process;
use super::{Isolation, Limits};

/// The isolation of readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// `process` or `thread`.
    isolation: &'static str,
    /// Whether they have no access to files and network; without that, no process reads.
    confined: bool,
    /// The kernel's version of landlock; 0 for none.
    landlock_abi: u32,
    seccomp: bool,
    /// Whether they have their own namespaces; nothing depends on it.
    namespaces: bool,
    /// Restrictions that the kernel's landlock does not support, so that only seccomp enforces them.
    lacks: Vec<&'static str>,
    /// Why they are not confined.
    reason: Option<String>,
}

impl Standing {
    /// Determines it by starting a reader with nothing to read.
    #[must_use]
    pub fn of(isolation: &Isolation) -> Self {
        let (isolation, found) = match isolation {
            Isolation::Thread => (
                "thread",
                Err("readers run in this process, unconfined (guest isolation: thread)".to_owned()),
            ),
            Isolation::Process(program) => (
                "process",
                Process::start(program, Limits::default(), Vec::new())
                    .map(|process| process.confinement())
                    .map_err(|error| {
                        format!("guests' filesystems are not read: {}", error.report())
                    }),
            ),
        };
        let own = found.clone().unwrap_or_default();
        Self {
            isolation,
            confined: found.is_ok(),
            landlock_abi: own.landlock_abi,
            seccomp: own.seccomp,
            namespaces: own.namespaces,
            lacks: if found.is_ok() {
                own.weaknesses()
            } else {
                Vec::new()
            },
            reason: found.err(),
        }
    }

    /// Whether every available protection is in force.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.confined && self.lacks.is_empty()
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.reason {
            return f.write_str(reason);
        }
        write!(f, "landlock ABI {}, seccomp", self.landlock_abi)?;
        if self.namespaces {
            f.write_str(", namespaces")?;
        }
        if !self.lacks.is_empty() {
            let lacks = self.lacks.join(", ");
            write!(f, "; lacks: {lacks}, which seccomp alone forbids")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Isolation, Standing};

    #[test]
    fn readers_in_this_process_are_not_confined() {
        let standing = Standing::of(&Isolation::Thread);
        assert!(!standing.confined && !standing.is_full());
        assert!(standing.to_string().contains("unconfined"), "{standing}");
    }

    #[test]
    fn a_program_that_is_no_reader_reads_nothing() {
        let standing = Standing::of(&Isolation::Process("/bin/true".into()));
        assert!(!standing.confined);
        assert!(standing.to_string().contains("are not read"), "{standing}");
    }
}
