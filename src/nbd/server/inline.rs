//! Which writes the thread of a connection executes itself.
//!
//! # Why
//! A small write takes less time than handing it to another thread. A larger one is hashed and stored fastest by the thread that has just
//! received it, whose processor has its bytes in its cache; but then nothing is received meanwhile. So that
//! is right where there are as many connections as processors, and wrong for a client with a single one.

use crate::ingest::{DiskWriter, Reservation};
use crate::nbd::proto::command::{Command, Request};
use crate::nbd::proto::flag::CommandFlags;

/// LIMIT: payload of a write that is always executed at once.
const SMALL_BYTES_MAX: u64 = 32 << 10;

/// LIMIT: payload of a write that is executed at once beside other connections.
const SHARED_BYTES_MAX: u64 = 1 << 20;

/// LIMIT: bytes that are executed before their replies are sent.
const IN_A_ROW_BYTES: u64 = 256 << 10;

/// Whether a request is a small write that need not be durable when it is answered.
pub(super) fn is_small(request: &Request) -> bool {
    is_write(request) && request.length_bytes <= SMALL_BYTES_MAX
}

fn is_write(request: &Request) -> bool {
    request.command == Command::Write && !request.flags.contains(CommandFlags::FUA)
}

/// What a connection's thread has executed without a pause.
pub(super) struct Inline {
    processors: u64,
    in_a_row_bytes: u64,
}

impl Inline {
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            processors: u64::try_from(processors).unwrap_or(u64::MAX),
            in_a_row_bytes: 0,
        }
    }

    /// Whether the thread executes a write whose payload it has received.
    pub(super) fn takes(
        &self,
        request: &Request,
        disk: &DiskWriter,
        reservation: &Reservation,
    ) -> bool {
        if !is_write(request) || !reservation.is_short() {
            return false;
        }
        request.length_bytes <= SMALL_BYTES_MAX
            || (request.length_bytes <= SHARED_BYTES_MAX && disk.writers() >= self.processors)
    }

    /// A write was executed: the task that sends replies has its turn now and then.
    pub(super) async fn executed(&mut self, request: &Request) {
        self.in_a_row_bytes = self.in_a_row_bytes.saturating_add(request.length_bytes);
        if self.in_a_row_bytes >= IN_A_ROW_BYTES {
            self.in_a_row_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}
