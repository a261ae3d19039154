//! The control sockets of a running QEMU: its machine protocol (QMP), and the guest agent's.

pub mod agent;
pub mod line;
pub mod qmp;
pub mod sweep;

use std::os::fd::BorrowedFd;

use serde_json::Value;

use crate::error::Result;

/// Something that executes QMP commands.
pub trait Monitor {
    /// Executes a command; `descriptor` is sent with it (`getfd`, `add-fd`). Returns what QEMU returns.
    ///
    /// # Errors
    /// `Unsupported` for a command that this QEMU does not have; `InvalidInput` with QEMU's reason; `TimedOut`, `Disconnected`.
    fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value>;

    /// [`Monitor::execute_with`] without a descriptor.
    ///
    /// # Errors
    /// As [`Monitor::execute_with`].
    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute_with(command, arguments, None)
    }
}
